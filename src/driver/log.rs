//! The log of a shard on the disk: batches of frames come in, what is durable comes out.
//!
//! Segments are files of a fixed size, written with direct I/O ([`crate::store::segment`] says what stands
//! in them). One write is in flight at a time; the next batch fills meanwhile. The next segment is made in
//! advance, so that going over to it costs nothing, and from the file of an old one if there is one
//! ([`Spares`]).
//!
//! Tasks on the executor do the file work, each under a [`super::Guard`], and say how it went;
//! [`LogWriter::poll`] draws the conclusions. After a write or sync has failed nothing is written any more
//! and nothing is called durable: a second attempt may succeed although the disk has lost the first.

mod disk;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::task::JoinHandle;

use self::disk::{Disk, SegmentFile, Trouble};
use super::Outstanding;
use crate::persistence::Spares;
use crate::settings::SyncPolicy;
use crate::store::Batch;
use crate::store::segment::{BLOCK, Header, LogName, file_name};

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

/// The log of one shard.
///
/// [`LogWriter::submit`] takes a batch while [`LogWriter::is_idle`]; [`LogWriter::poll`] tells what came of
/// it. Poll until there is nothing more, each turn; a result ends the park. Besides, poll at
/// [`LogWriter::wake_at`].
#[derive(Debug)]
pub struct LogWriter {
    config: LogConfig,
    disk: Disk,
    outstanding: Outstanding,
    outcomes: Rc<RefCell<VecDeque<Outcome>>>,
    events: VecDeque<LogEvent>,
    current: SegmentFile,
    /// Bytes of the current segment that are written or being written; the next batch begins here.
    written: usize,
    /// The current segment has its first batch, and so its header.
    has_begun: bool,
    /// When the current segment was last looked for.
    looked_at: Instant,
    /// Of the segment after the current one.
    next_number: u64,
    spare: Spare,
    /// A batch for which no segment has room yet.
    waiting: Option<Batch>,
    /// Sequence of the last frame of the last batch.
    last: u64,
    early_seal: EarlySeal,
    write: Option<JoinHandle<()>>,
    sync: Option<JoinHandle<()>>,
    spare_task: Option<JoinHandle<()>>,
    /// With [`SyncPolicy::Interval`]: the current segment has something the disk may not have.
    is_dirty: bool,
    sync_at: Option<Instant>,
    /// There was no room; when to try again.
    retry_at: Option<Instant>,
    is_full: bool,
    has_failed: bool,
    is_closing: bool,
}

/// What a task did.
#[derive(Debug)]
enum Outcome {
    Written(io::Result<Written>),
    Synced(io::Result<()>),
    /// A spare was made, or made larger, or not: what there is now.
    Spare(Option<SegmentFile>, Result<(), Trouble>),
}

#[derive(Debug)]
struct Written {
    last: u64,
    /// The segment before, and its length, if the batch is the first of the next one.
    sealed: Option<(PathBuf, u64)>,
}

/// The segment after the current one.
#[derive(Debug)]
enum Spare {
    Missing,
    InWork,
    Ready(SegmentFile),
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

/// How soon a segment that could not be made is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A write that ends so long after the last look for the segment's file looks for it again. What is acknowledged
/// meanwhile may go to a file that was removed.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// [`SyncPolicy::Interval`].
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

impl LogWriter {
    /// Begins a log: its first segment is there, and stays, when this returns. Needs an executor.
    ///
    /// # Errors
    /// The disk's: no room, a file system without direct I/O, no permission.
    pub async fn start(config: LogConfig, outstanding: &Outstanding) -> io::Result<LogWriter> {
        LogWriter::start_on(Disk::default(), config, outstanding).await
    }

    async fn start_on(disk: Disk, config: LogConfig, outstanding: &Outstanding) -> io::Result<LogWriter> {
        assert!(config.segment_bytes >= 2 * BLOCK && config.segment_bytes.is_multiple_of(BLOCK));
        let _guard = outstanding.enter();
        let path = config.directory.join(file_name(config.name, 0));
        let made = disk.create(path, config.segment_bytes, config.sync).await;
        let current = made.map_err(Trouble::into_cause)?;
        disk.write(&current, 0, &[&header(&config, 0, 1).encode()]).await?;
        disk.sync(&current).await?;
        Ok(LogWriter {
            config,
            disk,
            outstanding: outstanding.clone(),
            outcomes: Rc::default(),
            events: VecDeque::new(),
            current,
            written: BLOCK,
            has_begun: true,
            looked_at: Instant::now(),
            next_number: 1,
            spare: Spare::Missing,
            waiting: None,
            last: 0,
            early_seal: EarlySeal::No,
            write: None,
            sync: None,
            spare_task: None,
            is_dirty: false,
            sync_at: None,
            retry_at: None,
            is_full: false,
            has_failed: false,
            is_closing: false,
        })
    }

    /// True when a batch can be submitted. Never again after [`LogEvent::Failed`].
    pub fn is_idle(&self) -> bool {
        self.write.is_none() && self.waiting.is_none() && !self.has_failed
    }

    /// Begins to write a batch. Only while [`LogWriter::is_idle`]; the batches' sequences must follow each
    /// other.
    pub fn submit(&mut self, batch: Batch) {
        assert!(self.is_idle(), "one write at a time");
        assert!(!batch.bytes.is_empty());
        self.last = batch.last;
        if self.written + batch.bytes.len().next_multiple_of(BLOCK) <= self.current.bytes_max {
            self.write_behind(batch);
        } else {
            self.waiting = Some(batch);
            self.place_waiting();
        }
    }

    /// Seals the current segment as soon as what was submitted is written and the next one can be had, full or not.
    /// [`LogWriter::is_sealing`] until then.
    pub fn seal(&mut self) {
        if !self.has_failed {
            self.early_seal = EarlySeal::Wanted;
            self.seal_early();
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

    /// What has happened since, in order.
    pub fn poll(&mut self, now: Instant) -> Option<LogEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        loop {
            let outcome = self.outcomes.borrow_mut().pop_front();
            let Some(outcome) = outcome else { break };
            if self.has_failed {
                continue;
            }
            self.conclude(outcome, now);
        }
        if !self.has_failed {
            self.make_spare_if_due(now);
            self.place_waiting();
            self.seal_early();
            self.sync_if_due(now);
        }
        self.events.pop_front()
    }

    /// When to poll though nothing has come: a sync or a second attempt is due.
    pub fn wake_at(&self) -> Option<Instant> {
        if self.has_failed {
            return None;
        }
        let sync_at = self.sync_at.filter(|_| self.is_dirty && self.sync.is_none());
        [self.retry_at, sync_at].into_iter().flatten().min()
    }

    /// Ends the log: what was submitted is written, and synced as the policy says; the spare is removed.
    /// Returns the events that were not polled yet. The last is [`LogEvent::Sealed`] for the last segment,
    /// unless the disk failed. A batch for which there is no room is lost: no event calls it durable.
    pub async fn close(mut self) -> Vec<LogEvent> {
        self.is_closing = true;
        let mut events = Vec::new();
        loop {
            self.finish_tasks().await;
            while let Some(event) = self.poll(Instant::now()) {
                events.push(event);
            }
            let is_stuck = self.is_full || self.has_failed;
            if self.write.is_none() && (self.waiting.is_none() || is_stuck) {
                break;
            }
        }
        self.finish_tasks().await;
        if let Spare::Ready(spare) = std::mem::replace(&mut self.spare, Spare::Missing) {
            let path = spare.path.clone();
            self.disk.close(spare).await;
            // One that stays is found, and removed, by the next start.
            let _ = self.disk.remove(&path).await;
        }
        if self.is_dirty
            && !self.has_failed
            && let Err(cause) = self.disk.sync(&self.current).await
        {
            self.has_failed = true;
            events.push(LogEvent::Failed { cause });
        }
        if !self.has_failed {
            events.push(LogEvent::Sealed { path: self.current.path.clone(), bytes: self.written as u64 });
        }
        self.disk.close(self.current).await;
        events
    }

    async fn finish_tasks(&mut self) {
        for task in [self.write.take(), self.sync.take(), self.spare_task.take()].into_iter().flatten() {
            task.await;
        }
    }

    fn conclude(&mut self, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Written(result) => {
                self.write = None;
                let result = result.and_then(|written| self.look_if_due(now).map(|()| written));
                match result {
                    Ok(written) => self.conclude_write(written, now),
                    Err(cause) => self.fail(cause),
                }
            }
            Outcome::Synced(result) => {
                self.sync = None;
                if let Err(cause) = result {
                    self.fail(cause);
                }
            }
            Outcome::Spare(segment, result) => {
                self.spare_task = None;
                self.spare = segment.map_or(Spare::Missing, Spare::Ready);
                match result {
                    Ok(()) if self.is_full => {
                        self.is_full = false;
                        self.events.push_back(LogEvent::HasRoom);
                    }
                    Ok(()) => {}
                    Err(Trouble::NoRoom(cause)) => {
                        self.retry_at = Some(now + RETRY);
                        if !self.is_full {
                            self.is_full = true;
                            self.events.push_back(LogEvent::Full { cause });
                        }
                    }
                    Err(Trouble::NotKept(cause)) => self.fail(cause),
                }
            }
        }
    }

    fn look_if_due(&mut self, now: Instant) -> io::Result<()> {
        if now.saturating_duration_since(self.looked_at) < LOOK_INTERVAL {
            return Ok(());
        }
        self.looked_at = now;
        Disk::look_for(&self.current)
    }

    fn conclude_write(&mut self, written: Written, now: Instant) {
        self.has_begun = true;
        if let Some((path, bytes)) = written.sealed {
            self.events.push_back(LogEvent::Sealed { path, bytes });
            if self.early_seal == EarlySeal::UnderWay {
                self.early_seal = EarlySeal::No;
            }
        }
        if self.config.sync == SyncPolicy::Interval && !self.is_dirty {
            self.is_dirty = true;
            self.sync_at = Some(now + SYNC_INTERVAL);
        }
        self.events.push_back(LogEvent::Durable { last: written.last });
    }

    fn fail(&mut self, cause: io::Error) {
        self.early_seal = EarlySeal::No;
        if !self.has_failed {
            self.has_failed = true;
            self.events.push_back(LogEvent::Failed { cause });
        }
    }

    /// Writes to the current segment, which has room.
    fn write_behind(&mut self, batch: Batch) {
        let at = self.written;
        self.written += batch.bytes.len().next_multiple_of(BLOCK);
        let (disk, segment) = (self.disk.clone(), self.current.clone());
        self.write = Some(self.spawn(async move {
            let result = disk.write(&segment, at, &[&batch.bytes]).await;
            Outcome::Written(result.map(|()| Written { last: batch.last, sealed: None }))
        }));
    }

    /// Goes over to the next segment with the batch that waits for it, as soon as both can be had.
    fn place_waiting(&mut self) {
        let Some(batch) = &self.waiting else { return };
        let needed = BLOCK + batch.bytes.len().next_multiple_of(BLOCK);
        match std::mem::replace(&mut self.spare, Spare::Missing) {
            Spare::Ready(segment) if segment.bytes_max >= needed => {
                let batch = self.waiting.take().expect("it was there");
                self.rotate(segment, batch);
            }
            Spare::Ready(segment) if self.retry_at.is_none() => self.grow(segment, needed),
            other => self.spare = other,
        }
    }

    /// Goes over to the next segment without a batch. One that has nothing yet stays.
    fn seal_early(&mut self) {
        let may = self.write.is_none() && self.waiting.is_none() && !self.is_closing;
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
                self.rotate(segment, Batch { bytes: Vec::new(), first: self.last + 1, last: self.last });
            }
            other => self.spare = other,
        }
    }

    fn rotate(&mut self, next: SegmentFile, batch: Batch) {
        let header = header(&self.config, self.next_number, batch.first).encode();
        self.next_number += 1;
        self.has_begun = false;
        let old = std::mem::replace(&mut self.current, next);
        let sealed = Some((old.path.clone(), self.written as u64));
        self.written = BLOCK + batch.bytes.len().next_multiple_of(BLOCK);
        // What comes later must not survive what came before it.
        let must_sync = self.is_dirty || self.sync.is_some();
        self.is_dirty = false;
        let (disk, segment) = (self.disk.clone(), self.current.clone());
        self.write = Some(self.spawn(async move {
            let synced = if must_sync { disk.sync(&old).await } else { Ok(()) };
            disk.close(old).await;
            let result = match synced {
                Ok(()) => disk.write(&segment, 0, &[&header, &batch.bytes]).await,
                Err(cause) => Err(cause),
            };
            Outcome::Written(result.map(|()| Written { last: batch.last, sealed }))
        }));
    }

    fn grow(&mut self, mut segment: SegmentFile, bytes: usize) {
        self.spare = Spare::InWork;
        let disk = self.disk.clone();
        self.spare_task = Some(self.spawn(async move {
            let result = disk.allocate(&mut segment, bytes).await;
            Outcome::Spare(Some(segment), result.map_err(Trouble::NoRoom))
        }));
    }

    fn make_spare_if_due(&mut self, now: Instant) {
        self.retry_at = self.retry_at.filter(|&at| at > now);
        let is_wanted = !self.is_closing || self.waiting.is_some();
        // The file of a segment proves that the one before it has begun.
        if !matches!(self.spare, Spare::Missing) || self.retry_at.is_some() || !is_wanted || !self.has_begun {
            return;
        }
        self.spare = Spare::InWork;
        let path = self.config.directory.join(file_name(self.config.name, self.next_number));
        let (bytes, policy) = (self.config.segment_bytes, self.config.sync);
        let (disk, is_retry) = (self.disk.clone(), self.is_full);
        let (spares, shard) = (self.config.spares.clone(), self.config.name.shard);
        let current = self.current.clone();
        self.spare_task = Some(self.spawn(async move {
            if policy != SyncPolicy::Always {
                // Its header must not be lost when the name of the next file is not.
                if let Err(cause) = disk.sync(&current).await {
                    return Outcome::Spare(None, Err(Trouble::NotKept(cause)));
                }
            }
            disk.close(current).await;
            if is_retry {
                disk.clear(&path).await;
            }
            if let Some(old) = spares.take(shard) {
                match disk.reuse(&old, path.clone(), bytes, policy).await {
                    Ok(Some(segment)) => return Outcome::Spare(Some(segment), Ok(())),
                    // One that can't be removed is found again, and known to be done, at the next start.
                    Ok(None) | Err(Trouble::NoRoom(_)) => drop(disk.remove(&old).await),
                    Err(trouble) => return Outcome::Spare(None, Err(trouble)),
                }
            }
            match disk.create(path, bytes, policy).await {
                Ok(segment) => Outcome::Spare(Some(segment), Ok(())),
                Err(trouble) => {
                    // What others have in reserve is the room for the next attempt.
                    for old in spares.take_all() {
                        let _ = disk.remove(&old).await;
                    }
                    Outcome::Spare(None, Err(trouble))
                }
            }
        }));
    }

    fn sync_if_due(&mut self, now: Instant) {
        let is_due = self.is_dirty && self.sync.is_none() && self.sync_at.is_some_and(|at| at <= now);
        if !is_due || self.is_closing {
            return;
        }
        self.is_dirty = false;
        let (disk, segment) = (self.disk.clone(), self.current.clone());
        self.sync = Some(self.spawn(async move {
            let result = disk.sync(&segment).await;
            disk.close(segment).await;
            Outcome::Synced(result)
        }));
    }

    fn spawn(&self, work: impl Future<Output = Outcome> + 'static) -> JoinHandle<()> {
        let guard = self.outstanding.enter();
        let outcomes = Rc::clone(&self.outcomes);
        let task = glommio::spawn_local(async move {
            let outcome = work.await;
            outcomes.borrow_mut().push_back(outcome);
            // The owner is woken when the outcome is there.
            drop(guard);
        });
        task.detach()
    }
}

fn header(config: &LogConfig, number: u64, first_sequence: u64) -> Header {
    Header {
        epoch: config.name.epoch,
        shard: config.name.shard,
        shards: config.shards,
        number,
        first_sequence,
        seed: config.seed,
    }
}
