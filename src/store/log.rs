//! The log of a shard on the disk. It takes batches of frames and reports what is durable.
//!
//! Segments are files of a fixed size, written with direct I/O ([`crate::store::segment`] describes their
//! content). One write is in progress at a time, and the next batch fills meanwhile. The next segment is
//! created in advance, so that switching to it costs nothing. It reuses the file of an old segment if there
//! is one ([`Spares`]).
//!
//! Operations on files are begun here and carried out elsewhere ([`LogFiles`]). [`LogWriter::handle_done`]
//! takes their results, and [`LogWriter::poll`] returns what follows from them. After a write or sync has
//! failed, nothing is written and nothing is reported as durable any more: a second attempt may succeed
//! although the disk has lost the first.

mod segment;
mod start;
#[cfg(all(test, feature = "runtime"))]
#[allow(clippy::disallowed_methods, reason = "the tests' disk is files")]
mod tests;
mod write;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::segment::{Making, Order, Segment, SegmentStart, Trouble};
use self::write::Write;
use crate::base::Time;
use crate::base::log_files::{FileDone, FileOperation, FileResult, LogFiles, LogWork};
use crate::settings::SyncPolicy;
use crate::store::segment::{BLOCK, Header, LogName, file_name};
use crate::store::{Batch, Spares};

pub use self::start::{LogStart, Start};

/// Where and how a log is written.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The directory of the segments. It must exist.
    pub directory: PathBuf,
    /// The epoch and shard of the log.
    pub name: LogName,
    /// The number of shards, for the segments' headers.
    pub shards: u16,
    /// The seed of the home shards, for the segments' headers.
    pub seed: u64,
    /// The size of a segment in bytes, a multiple of [`BLOCK`] and at least two of them. A batch that does
    /// not fit makes a larger file.
    pub segment_bytes: usize,
    /// When the disk must make writes durable.
    pub sync: SyncPolicy,
    /// The files of old segments.
    pub spares: Spares,
}

impl LogConfig {
    /// Whether each write ends only when the disk has the data, as with [`SyncPolicy::Always`].
    fn writes_through(&self) -> bool {
        self.sync == SyncPolicy::Always
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(file_name(self.name, number))
    }

    /// The first block of a segment.
    fn header(&self, start: SegmentStart) -> Box<[u8; BLOCK]> {
        let SegmentStart { number, first_sequence } = start;
        let LogName { epoch, shard } = self.name;
        let (shards, seed) = (self.shards, self.seed);
        Box::new(Header { epoch, shard, shards, number, first_sequence, seed }.encode())
    }

    fn order(&self, number: u64) -> Order {
        Order {
            path: self.path(number),
            bytes: self.segment_bytes,
            writes_through: self.writes_through(),
            spares: self.spares.clone(),
            shard: self.name.shard,
        }
    }
}

/// An event of a log.
#[derive(Debug)]
pub enum LogEvent {
    /// All frames up to this sequence are as durable as the policy requires.
    Durable {
        /// The sequence.
        last: u64,
    },
    /// A segment is complete. Nothing more is written to it.
    Sealed {
        /// The file.
        path: PathBuf,
        /// The number of bytes written to it. The bytes after them do not belong to it.
        bytes: u64,
    },
    /// The next segment can't be created. The current one is used while it has room, and batches that do not
    /// fit wait. The log tries again every second. This event comes once until [`LogEvent::HasRoom`].
    Full {
        /// The cause.
        cause: io::Error,
    },
    /// The next segment could be created after all.
    HasRoom,
    /// The disk has failed, and the log has ended. Nothing becomes durable any more, and this is the last
    /// event.
    Failed {
        /// The cause.
        cause: io::Error,
    },
}

/// The log of one shard. [`LogStart`] creates it.
///
/// In each turn, pass every [`FileDone`] to [`LogWriter::handle_done`], call [`LogWriter::poll`] until it
/// returns nothing, and then [`LogWriter::submit`] a batch if the log [`LogWriter::is_idle`]. Also call it at
/// [`LogWriter::wake_at`].
#[derive(Debug)]
pub struct LogWriter {
    config: LogConfig,
    events: VecDeque<LogEvent>,
    current: Segment,
    /// The number of bytes of the current segment that are written or being written. The next batch begins
    /// here.
    written: usize,
    /// Whether the current segment has its first batch, and so its header.
    has_begun: bool,
    /// When the name of the current segment was last checked.
    looked_at: Time,
    /// The number of the segment after the current one.
    next_number: u64,
    spare: Spare,
    /// A batch that waits because no segment has room for it.
    waiting: Option<Batch>,
    /// The sequence of the last frame of the last batch.
    last: u64,
    early_seal: EarlySeal,
    write: Option<Commit>,
    /// The segment whose regular sync is in progress.
    sync: Option<PathBuf>,
    /// With [`SyncPolicy::Interval`]: whether the current segment has data that the disk may not have yet.
    is_dirty: bool,
    sync_at: Option<Time>,
    /// When to try again to create a segment, if there was no room.
    retry_at: Option<Time>,
    is_full: bool,
    has_failed: bool,
    end: End,
}

/// The write of a batch, until it is durable.
#[derive(Debug)]
struct Commit {
    write: Write,
    last: u64,
    /// The previous segment, if the batch is the first of a new one.
    sealed: Option<Sealed>,
}

/// A segment to which nothing more is written.
#[derive(Debug)]
struct Sealed {
    segment: Segment,
    bytes: u64,
    /// Whether it is being synced. If so, the batch is written after that.
    is_syncing: bool,
}

/// The segment after the current one.
#[derive(Debug)]
enum Spare {
    Missing,
    InWork(Making),
    Ready(Segment),
}

/// The state of sealing a segment before it is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EarlySeal {
    /// It was not requested, or it is done.
    No,
    /// It waits for a write or for the next segment.
    Wanted,
    /// The next segment is being begun.
    UnderWay,
}

/// The state of ending the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It was not requested.
    No,
    /// Pending operations are being completed.
    Wanted,
    /// The spare is being removed.
    Removing,
    /// The last segment is being synced.
    Syncing,
    Closed,
}

/// The delay before another attempt to create a segment.
const RETRY: Duration = Duration::from_secs(1);

/// The time after which the end of a write checks again that the segment's file has its name. Messages that
/// are acknowledged during this time may go to a file that was removed.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The interval of [`SyncPolicy::Interval`].
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

impl LogWriter {
    /// A log whose first segment has its header.
    fn new(config: LogConfig, current: Segment, now: Time) -> LogWriter {
        LogWriter {
            config,
            events: VecDeque::new(),
            current,
            written: BLOCK,
            has_begun: true,
            looked_at: now,
            next_number: 1,
            spare: Spare::Missing,
            waiting: None,
            last: 0,
            early_seal: EarlySeal::No,
            write: None,
            sync: None,
            is_dirty: false,
            sync_at: None,
            retry_at: None,
            is_full: false,
            has_failed: false,
            end: End::No,
        }
    }

    /// Whether a batch can be submitted. Always false after [`LogEvent::Failed`].
    pub fn is_idle(&self) -> bool {
        self.write.is_none() && self.waiting.is_none() && !self.has_failed
    }

    /// Begins to write a batch. Call it only while [`LogWriter::is_idle`]. The sequences of the batches must
    /// be consecutive.
    pub fn submit(&mut self, batch: Batch, files: &mut impl LogFiles) {
        assert!(self.is_idle() && self.end == End::No, "one write at a time");
        assert!(!batch.bytes.is_empty());
        self.last = batch.last;
        if self.written + batch.bytes.len().next_multiple_of(BLOCK) <= self.current.bytes_max {
            self.write_behind(batch, files);
        } else {
            self.waiting = Some(batch);
            self.place_waiting(files);
        }
    }

    /// Seals the current segment, full or not, as soon as everything submitted is written and the next
    /// segment is ready. [`LogWriter::is_sealing`] returns true until then.
    pub fn seal(&mut self, files: &mut impl LogFiles) {
        if !self.has_failed {
            self.early_seal = EarlySeal::Wanted;
            self.seal_early(files);
        }
    }

    /// Whether an early seal was requested and is not done.
    pub fn is_sealing(&self) -> bool {
        self.early_seal != EarlySeal::No
    }

    /// Whether the log has ended with [`LogEvent::Failed`].
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// The sequence of the last frame that was submitted.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Takes the result of an operation that this log has begun.
    pub fn handle_done(&mut self, done: FileDone, now: Time, files: &mut impl LogFiles) {
        match done.work {
            LogWork::Close => self.handle_end(done.result, files),
            work if self.has_failed => self.forget(work),
            LogWork::Write => self.handle_write(done.result, now, files),
            LogWork::Sync => {
                let path = self.sync.take().unwrap_or_default();
                if let Err(error) = done.result {
                    self.fail(explain("sync", &path, error));
                }
            }
            LogWork::Segment => self.handle_segment(done.result, now, files),
        }
    }

    /// The next event, in order.
    pub fn poll(&mut self, now: Time, files: &mut impl LogFiles) -> Option<LogEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if !self.has_failed {
            self.make_spare_if_due(now, files);
            self.place_waiting(files);
            self.seal_early(files);
            self.sync_if_due(now, files);
        }
        if self.end == End::Wanted {
            self.end_if_quiet(files);
        }
        self.events.pop_front()
    }

    /// When to poll although no result has come: a sync or another attempt is due.
    pub fn wake_at(&self) -> Option<Time> {
        if self.has_failed {
            return None;
        }
        let sync_at = self.sync_at.filter(|_| self.is_dirty && self.sync.is_none());
        [self.retry_at, sync_at].into_iter().flatten().min()
    }

    /// Ends the log. Everything submitted is written, and synced as the policy requires. The spare is
    /// removed. Poll until [`LogWriter::is_closed`]. The last event is [`LogEvent::Sealed`] for the last
    /// segment, unless the disk failed. A batch for which there is no room is lost, and no event reports it
    /// as durable.
    pub fn close(&mut self) {
        if self.end == End::No {
            self.end = End::Wanted;
        }
    }

    /// Whether the log has ended after [`LogWriter::close`]. There may still be events.
    pub fn is_closed(&self) -> bool {
        self.end == End::Closed
    }

    fn handle_write(&mut self, result: io::Result<FileResult>, now: Time, files: &mut impl LogFiles) {
        let Some(mut commit) = self.write.take() else { return };
        if let Some(sealed) = commit.sealed.as_mut().filter(|sealed| sealed.is_syncing) {
            sealed.is_syncing = false;
            files.close_file(sealed.segment.file);
            match result {
                Ok(_) => commit.write.begin(files),
                Err(error) => return self.fail(explain("sync", &sealed.segment.path, error)),
            }
            self.write = Some(commit);
            return;
        }
        match commit.write.handle_done(result, &self.current.path) {
            Ok(false) => {
                commit.write.begin(files);
                self.write = Some(commit);
            }
            Ok(true) => match self.look_if_due(now, files) {
                Ok(()) => self.conclude_write(commit, now),
                Err(cause) => self.fail(cause),
            },
            Err(cause) => self.fail(cause),
        }
    }

    /// Checks whether the name of the current segment still leads to the open file. If not, everything
    /// written to it is lost when the process ends.
    fn look_if_due(&mut self, now: Time, files: &impl LogFiles) -> io::Result<()> {
        if now.since(self.looked_at) < LOOK_INTERVAL {
            return Ok(());
        }
        self.looked_at = now;
        let cause = match files.is_found(&self.current.path, self.current.file) {
            Ok(true) => return Ok(()),
            Ok(false) => "it is another file".to_owned(),
            Err(error) if is_gone(&error) => error.to_string(),
            // An unknown state is no reason to end the log.
            Err(_) => return Ok(()),
        };
        Err(gone(format!("can't find {}: {cause}", self.current.path.display())))
    }

    fn conclude_write(&mut self, commit: Commit, now: Time) {
        self.has_begun = true;
        if let Some(Sealed { segment, bytes, .. }) = commit.sealed {
            self.events.push_back(LogEvent::Sealed { path: segment.path, bytes });
            if self.early_seal == EarlySeal::UnderWay {
                self.early_seal = EarlySeal::No;
            }
        }
        if self.config.sync == SyncPolicy::Interval && !self.is_dirty {
            self.is_dirty = true;
            self.sync_at = Some(now.after(SYNC_INTERVAL));
        }
        self.events.push_back(LogEvent::Durable { last: commit.last });
    }

    fn handle_segment(&mut self, result: io::Result<FileResult>, now: Time, files: &mut impl LogFiles) {
        let Spare::InWork(making) = std::mem::replace(&mut self.spare, Spare::Missing) else { return };
        let made = match making.handle_done(result, files) {
            Err(making) => {
                self.spare = Spare::InWork(making);
                return;
            }
            Ok(made) => made,
        };
        self.spare = made.segment.map_or(Spare::Missing, Spare::Ready);
        match made.trouble {
            None if self.is_full => {
                self.is_full = false;
                self.events.push_back(LogEvent::HasRoom);
            }
            None => {}
            Some(Trouble::NoRoom(cause)) => {
                self.retry_at = Some(now.after(RETRY));
                if !self.is_full {
                    self.is_full = true;
                    self.events.push_back(LogEvent::Full { cause });
                }
            }
            Some(Trouble::NotKept(cause)) => self.fail(cause),
        }
    }

    /// Abandons a job that was in progress when the disk failed. Its result means nothing any more.
    fn forget(&mut self, work: LogWork) {
        match work {
            LogWork::Write => self.write = None,
            LogWork::Sync => self.sync = None,
            LogWork::Segment => self.spare = Spare::Missing,
            LogWork::Close => {}
        }
    }

    fn fail(&mut self, cause: io::Error) {
        self.early_seal = EarlySeal::No;
        if !self.has_failed {
            self.has_failed = true;
            self.events.push_back(LogEvent::Failed { cause });
        }
    }

    /// Writes to the current segment, which has room.
    fn write_behind(&mut self, batch: Batch, files: &mut impl LogFiles) {
        let write = Write::new(self.current.file, self.written, None, batch.bytes);
        self.written += write.bytes();
        write.begin(files);
        self.write = Some(Commit { write, last: batch.last, sealed: None });
    }

    /// Switches to the next segment with the waiting batch, as soon as both are ready.
    fn place_waiting(&mut self, files: &mut impl LogFiles) {
        let Some(batch) = &self.waiting else { return };
        let needed = BLOCK + batch.bytes.len().next_multiple_of(BLOCK);
        match std::mem::replace(&mut self.spare, Spare::Missing) {
            Spare::Ready(segment) if segment.bytes_max >= needed => {
                let batch = self.waiting.take().expect("it was there");
                self.rotate(segment, batch, files);
            }
            Spare::Ready(segment) if self.retry_at.is_none() => {
                let order = self.config.order(self.next_number);
                self.spare = Spare::InWork(Making::grow(segment, order, needed, files));
            }
            other => self.spare = other,
        }
    }

    /// Switches to the next segment without a batch. A segment without data stays.
    fn seal_early(&mut self, files: &mut impl LogFiles) {
        let may = self.write.is_none() && self.waiting.is_none() && self.end == End::No;
        if self.early_seal != EarlySeal::Wanted || !may {
            return;
        }
        if self.written <= BLOCK {
            self.early_seal = EarlySeal::No;
            return;
        }
        match std::mem::replace(&mut self.spare, Spare::Missing) {
            Spare::Ready(segment) => {
                self.early_seal = EarlySeal::UnderWay;
                let nothing = Batch { bytes: Vec::new(), first: self.last + 1, last: self.last };
                self.rotate(segment, nothing, files);
            }
            other => self.spare = other,
        }
    }

    fn rotate(&mut self, next: Segment, batch: Batch, files: &mut impl LogFiles) {
        let header =
            self.config.header(SegmentStart { number: self.next_number, first_sequence: batch.first });
        let write = Write::new(next.file, 0, Some(header), batch.bytes);
        self.next_number += 1;
        self.has_begun = false;
        let old = std::mem::replace(&mut self.current, next);
        let bytes = std::mem::replace(&mut self.written, write.bytes()) as u64;
        // Later data must not survive earlier data.
        let is_syncing = self.is_dirty || self.sync.is_some();
        self.is_dirty = false;
        if is_syncing {
            files.begin(LogWork::Write, FileOperation::Sync { file: old.file });
        } else {
            files.close_file(old.file);
            write.begin(files);
        }
        let sealed = Some(Sealed { segment: old, bytes, is_syncing });
        self.write = Some(Commit { write, last: batch.last, sealed });
    }

    fn make_spare_if_due(&mut self, now: Time, files: &mut impl LogFiles) {
        self.retry_at = self.retry_at.filter(|&at| at > now);
        let is_wanted = self.end == End::No || (self.end == End::Wanted && self.waiting.is_some());
        // The existence of a segment's file proves that the segment before it has begun.
        if !matches!(self.spare, Spare::Missing) || self.retry_at.is_some() || !is_wanted || !self.has_begun {
            return;
        }
        let order = self.config.order(self.next_number);
        let making = if self.config.writes_through() {
            Making::begin(order, self.is_full, files)
        } else {
            // The header of the current segment must be durable before the name of the next file.
            Making::begin_after_sync(order, self.is_full, (self.current.file, &self.current.path), files)
        };
        self.spare = Spare::InWork(making);
    }

    fn sync_if_due(&mut self, now: Time, files: &mut impl LogFiles) {
        let is_due = self.is_dirty && self.sync.is_none() && self.sync_at.is_some_and(|at| at <= now);
        if is_due && self.end == End::No {
            self.is_dirty = false;
            self.sync = Some(self.current.path.clone());
            files.begin(LogWork::Sync, FileOperation::Sync { file: self.current.file });
        }
    }

    /// Continues ending the log when nothing is in progress.
    fn end_if_quiet(&mut self, files: &mut impl LogFiles) {
        let is_stuck = self.is_full || self.has_failed;
        let is_quiet = self.write.is_none()
            && self.sync.is_none()
            && !matches!(self.spare, Spare::InWork(_))
            && (self.waiting.is_none() || is_stuck);
        if !is_quiet {
            return;
        }
        match std::mem::replace(&mut self.spare, Spare::Missing) {
            Spare::Ready(spare) => {
                self.end = End::Removing;
                files.close_file(spare.file);
                files.begin(LogWork::Close, FileOperation::Remove { path: spare.path });
            }
            _ => self.sync_last(files),
        }
    }

    fn sync_last(&mut self, files: &mut impl LogFiles) {
        if self.is_dirty && !self.has_failed {
            self.end = End::Syncing;
            files.begin(LogWork::Close, FileOperation::Sync { file: self.current.file });
        } else {
            self.seal_last(files);
        }
    }

    fn seal_last(&mut self, files: &mut impl LogFiles) {
        if !self.has_failed {
            let (path, bytes) = (self.current.path.clone(), self.written as u64);
            self.events.push_back(LogEvent::Sealed { path, bytes });
        }
        files.close_file(self.current.file);
        self.end = End::Closed;
    }

    fn handle_end(&mut self, result: io::Result<FileResult>, files: &mut impl LogFiles) {
        match (self.end, result) {
            // If the spare can't be removed, the next start finds and removes it.
            (End::Removing, _) => self.sync_last(files),
            (End::Syncing, Ok(_)) => self.seal_last(files),
            (End::Syncing, Err(error)) => {
                self.fail(explain("sync", &self.current.path, error));
                self.seal_last(files);
            }
            _ => {}
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The error of a log whose directory is gone. Callers recognize it by its kind.
fn gone(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what)
}

fn explain(doing: &str, path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("can't {doing} {}: {error}", path.display()))
}
