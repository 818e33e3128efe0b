//! The log of a shard on the disk: batches of frames come in, what is durable comes out.
//!
//! Segments are files of a fixed size, written with direct I/O ([`crate::store::segment`] says what stands
//! in them). One write is in flight at a time; the next batch fills meanwhile. The next segment is made in
//! advance, so that going over to it costs nothing, and from the file of an old one if there is one
//! ([`Spares`]).
//!
//! Operations on files are begun here and done elsewhere ([`LogFiles`]); [`LogWriter::handle_done`] is told how
//! they went, and [`LogWriter::poll`] tells what follows. After a write or sync has failed nothing is written any
//! more and nothing is called durable: a second attempt may succeed although the disk has lost the first.

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

use self::segment::{Making, Order, Segment, Trouble};
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
    /// The directory of the segments; exists.
    pub directory: PathBuf,
    /// Whose log it is.
    pub name: LogName,
    /// How many shards there are, for the segments' headers.
    pub shards: u16,
    /// The seed of the home shards, for the segments' headers.
    pub seed: u64,
    /// Size of a segment in bytes, a multiple of [`BLOCK`] and at least two of them. A larger batch makes a
    /// larger file.
    pub segment_bytes: usize,
    /// When the disk is told to keep what was written.
    pub sync: SyncPolicy,
    /// Where the files of old segments come from.
    pub spares: Spares,
}

impl LogConfig {
    /// With [`SyncPolicy::Always`] a write itself ends when the disk has it.
    fn writes_through(&self) -> bool {
        self.sync == SyncPolicy::Always
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(file_name(self.name, number))
    }

    /// The first block of a segment.
    fn header(&self, number: u64, first_sequence: u64) -> Box<[u8; BLOCK]> {
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

/// What happened to a log.
#[derive(Debug)]
pub enum LogEvent {
    /// All frames up to this sequence are as durable as the policy asks for.
    Durable {
        /// The sequence.
        last: u64,
    },
    /// A segment is full; nothing more is written to it.
    Sealed {
        /// The file.
        path: PathBuf,
        /// Bytes written to it; what comes after them is not its own.
        bytes: u64,
    },
    /// The next segment can't be made. The current one is used as long as it has room; what has none waits.
    /// It is tried again every second, and comes once until [`LogEvent::HasRoom`].
    Full {
        /// Why.
        cause: io::Error,
    },
    /// The next segment could be made after all.
    HasRoom,
    /// The disk has failed. The log is at its end: nothing is durable any more, and no event comes after
    /// this one.
    Failed {
        /// Why.
        cause: io::Error,
    },
}

/// The log of one shard; [`LogStart`] makes it.
///
/// Each turn: give every [`FileDone`] to [`LogWriter::handle_done`], then [`LogWriter::poll`] until there is nothing
/// more, then [`LogWriter::submit`] a batch if the log [`LogWriter::is_idle`]. Besides, poll at
/// [`LogWriter::wake_at`].
#[derive(Debug)]
pub struct LogWriter {
    config: LogConfig,
    events: VecDeque<LogEvent>,
    current: Segment,
    /// Bytes of the current segment that are written or being written; the next batch begins here.
    written: usize,
    /// The current segment has its first batch, and so its header.
    has_begun: bool,
    /// When the current segment was last looked for.
    looked_at: Time,
    /// Of the segment after the current one.
    next_number: u64,
    spare: Spare,
    /// A batch for which no segment has room yet.
    waiting: Option<Batch>,
    /// Sequence of the last frame of the last batch.
    last: u64,
    early_seal: EarlySeal,
    write: Option<Commit>,
    /// The segment that is being synced because it is time to.
    sync: Option<PathBuf>,
    /// With [`SyncPolicy::Interval`]: the current segment has something the disk may not have.
    is_dirty: bool,
    sync_at: Option<Time>,
    /// There was no room; when to try again.
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
    /// The segment before, if the batch is the first of the next one.
    sealed: Option<Sealed>,
}

/// A segment that nothing is written to any more.
#[derive(Debug)]
struct Sealed {
    segment: Segment,
    bytes: u64,
    /// It is being synced, and the batch is not written before it is.
    is_syncing: bool,
}

/// The segment after the current one.
#[derive(Debug)]
enum Spare {
    Missing,
    InWork(Making),
    Ready(Segment),
}

/// How far the sealing of a segment that is not full has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EarlySeal {
    /// It was not asked for, or is done.
    No,
    /// A write is under way, or the next segment is not there.
    Wanted,
    /// The next segment is being begun.
    UnderWay,
}

/// How far the end of the log has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It was not asked for.
    No,
    /// What was begun is being finished.
    Wanted,
    /// The spare is being removed.
    Removing,
    /// The last segment is being synced.
    Syncing,
    Closed,
}

/// How soon a segment that could not be made is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A write that ends so long after the last look for the segment's file looks for it again. What is acknowledged
/// meanwhile may go to a file that was removed.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// [`SyncPolicy::Interval`].
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

    /// True when a batch can be submitted. Never again after [`LogEvent::Failed`].
    pub fn is_idle(&self) -> bool {
        self.write.is_none() && self.waiting.is_none() && !self.has_failed
    }

    /// Begins to write a batch. Only while [`LogWriter::is_idle`]; the batches' sequences must follow each
    /// other.
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

    /// Seals the current segment as soon as what was submitted is written and the next one can be had, full or not.
    /// [`LogWriter::is_sealing`] until then.
    pub fn seal(&mut self, files: &mut impl LogFiles) {
        if !self.has_failed {
            self.early_seal = EarlySeal::Wanted;
            self.seal_early(files);
        }
    }

    /// Was a segment to be sealed early, and is not yet?
    pub fn is_sealing(&self) -> bool {
        self.early_seal != EarlySeal::No
    }

    /// Is the log at its end, after [`LogEvent::Failed`]?
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Sequence of the last frame that was submitted.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Takes the end of an operation that this log has begun.
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

    /// What has happened since, in order.
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

    /// When to poll though nothing has come: a sync or a second attempt is due.
    pub fn wake_at(&self) -> Option<Time> {
        if self.has_failed {
            return None;
        }
        let sync_at = self.sync_at.filter(|_| self.is_dirty && self.sync.is_none());
        [self.retry_at, sync_at].into_iter().flatten().min()
    }

    /// Ends the log: what was submitted is written, and synced as the policy says; the spare is removed. Poll until
    /// [`LogWriter::is_closed`]. The last event is [`LogEvent::Sealed`] for the last segment, unless the disk failed.
    /// A batch for which there is no room is lost: no event calls it durable.
    pub fn close(&mut self) {
        if self.end == End::No {
            self.end = End::Wanted;
        }
    }

    /// Is the log at its end, after [`LogWriter::close`]? There may still be events.
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

    /// Is the current segment still the file that is found by its name? What is written to it else is lost with the
    /// process.
    fn look_if_due(&mut self, now: Time, files: &impl LogFiles) -> io::Result<()> {
        if now.since(self.looked_at) < LOOK_INTERVAL {
            return Ok(());
        }
        self.looked_at = now;
        let cause = match files.is_found(&self.current.path, self.current.file) {
            Ok(true) => return Ok(()),
            Ok(false) => "it is another file".to_owned(),
            Err(error) if is_gone(&error) => error.to_string(),
            // That nothing can be told of it is no reason to end the log.
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

    /// Lets go of a work that was under way when the disk failed: what came of it tells nothing any more.
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

    /// Goes over to the next segment with the batch that waits for it, as soon as both can be had.
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

    /// Goes over to the next segment without a batch. One that has nothing yet stays.
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
        let header = self.config.header(self.next_number, batch.first);
        let write = Write::new(next.file, 0, Some(header), batch.bytes);
        self.next_number += 1;
        self.has_begun = false;
        let old = std::mem::replace(&mut self.current, next);
        let bytes = std::mem::replace(&mut self.written, write.bytes()) as u64;
        // What comes later must not survive what came before it.
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
        // The file of a segment proves that the one before it has begun.
        if !matches!(self.spare, Spare::Missing) || self.retry_at.is_some() || !is_wanted || !self.has_begun {
            return;
        }
        let order = self.config.order(self.next_number);
        let making = if self.config.writes_through() {
            Making::begin(order, self.is_full, files)
        } else {
            // Its header must not be lost when the name of the next file is not.
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

    /// Goes on with the end once nothing is under way.
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
            // A spare that stays is found, and removed, by the next start.
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

/// The error of a log whose directory is gone, by which it is known.
fn gone(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what)
}

fn explain(doing: &str, path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("can't {doing} {}: {error}", path.display()))
}
