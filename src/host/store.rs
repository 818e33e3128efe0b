//! The host and the log of its shard: batches go to the disk, one at a time, and what is durable goes
//! back to the machine.

use super::{Host, Io};
use crate::base::ConnectionSlot;
use crate::base::LogMark;
use crate::base::ShardId;
use crate::base::Time;
use crate::broker::{Counter, Event, HoldBack, Limit, Shard};
use crate::settings::SyncPolicy;
use crate::store::segment::LogName;
use crate::store::{Journal, LogConfig, LogEvent, LogStart, LogWriter, Restored, Spares, Start, Wall};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Takes the segments that a log has filled, and works them into the checkpoint.
pub trait SealedSegments: Send {
    /// A segment to which nothing is written any more, with the number of bytes written to it. Those of one
    /// log come in their order.
    fn submit(&self, path: PathBuf, bytes: u64);
    /// All that this shard was asked for is submitted.
    fn mark(&self, mark: CheckpointMark);
    /// Bytes of segments, over all shards, that are sealed and not in the checkpoint yet.
    fn log_bytes(&self) -> u64;
    /// Files of segments that are in the checkpoint.
    fn spares(&self) -> Spares;
}

/// A shard has submitted what it had when a checkpoint was asked for.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointMark {
    /// The shard.
    pub shard: u16,
    /// How many shards there are.
    pub shards: usize,
    /// The number of the request. A later one stands for those before it.
    pub request: u64,
}

/// What a shard that keeps something starts with.
pub struct StartStore {
    /// Whose log it begins.
    pub name: LogName,
    /// Directory of the segments.
    pub directory: PathBuf,
    /// The seed of the home shards.
    pub seed: u64,
    /// What survived of an earlier run.
    pub restored: Restored,
    /// The log's clock.
    pub wall: Wall,
    /// Takes full segments.
    pub checkpoint: Box<dyn SealedSegments>,
}

/// The log of a host.
pub(super) struct Store {
    writer: Box<LogWriter>,
    sync: SyncPolicy,
    checkpoint: Box<dyn SealedSegments>,
    /// The most bytes of log, over all shards, that may wait for the checkpoint.
    log_bytes_max: u64,
    waits_for_checkpoint: bool,
    /// It has waited for the checkpoint, as the operator was told: since when, and until when.
    told_wait: Option<ToldWait>,
    /// When records that nobody waits for are written.
    lazy_until: Option<Time>,
    /// The last request for a checkpoint that was seen: `Control::checkpoints_asked`.
    checkpoint_asked: u64,
    answer: Answer,
    /// Connections that wait for the disk. One that has ended meanwhile is passed over.
    paused: BTreeSet<ConnectionSlot>,
}

/// What the shard has done of a request for a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// All of it.
    Given,
    /// What was taken down before it, up to this mark of the journal, is being written.
    Writing { mark: LogMark },
    /// The segment is being sealed.
    Sealing,
}

/// A time in which the log waited for the checkpoint again and again.
#[derive(Clone, Copy)]
struct ToldWait {
    since: Time,
    last: Time,
}

/// Records that nobody waits for, such as that a delivery is settled, are written with the next ones that
/// someone does wait for, or after this time: a write of their own would hold up the next.
const LAZY: Duration = Duration::from_millis(10);
/// Or when there are so many bytes of them.
const LAZY_BYTES_MAX: usize = 64 << 10;

/// How soon a checkpoint that is behind is looked at again.
const CHECKPOINT_RETRY: Duration = Duration::from_millis(10);
/// A log that has not waited for the checkpoint for this long goes on. At its bound it waits for each segment
/// anew, which is no news.
const CHECKPOINT_QUIET: Duration = Duration::from_secs(1);

/// How long the start and the end of a log wait for the disk before they look again; the end of an operation ends the
/// wait.
const FILES_PATIENCE: Duration = Duration::from_millis(100);

/// A shard that ends waits no longer for the log to take what is left, and as long for it to close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

impl Store {
    /// Opens the log.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn open<I: Io>(host: &mut Host<I>, start: StartStore) -> io::Result<Store> {
        let persistence = &host.shared.config.persistence;
        let (sync, log_bytes_max) = (persistence.sync, persistence.log_bytes as u64);
        let config = LogConfig {
            directory: start.directory,
            name: start.name,
            shards: u16::try_from(host.shared.shards()).expect("at most 128 shards"),
            seed: start.seed,
            segment_bytes: persistence.segment_bytes.next_multiple_of(crate::store::segment::BLOCK),
            sync,
            spares: start.checkpoint.spares(),
        };
        let writer = begin_log(config, &mut host.io)?;
        let now = host.now();
        host.machine.open_store(now, Journal::new(start.name), start.wall, start.restored);
        host.begin_clock(start.wall);
        Ok(Store {
            writer,
            sync,
            checkpoint: start.checkpoint,
            log_bytes_max,
            waits_for_checkpoint: false,
            told_wait: None,
            lazy_until: None,
            checkpoint_asked: 0,
            answer: Answer::Given,
            paused: BTreeSet::new(),
        })
    }

    /// Is there nothing to write for which anyone waits?
    fn may_wait(&mut self, now: Time, machine: &Shard) -> bool {
        let bytes = machine.journal_bytes();
        let is_asked = self.answer != Answer::Given;
        if bytes == 0 || machine.awaits_log() || bytes > LAZY_BYTES_MAX || is_asked {
            return false;
        }
        *self.lazy_until.get_or_insert(now.after(LAZY)) > now
    }

    /// When the log must be looked at though nothing has come.
    pub(super) fn due_in(&self, now: Time) -> Option<Duration> {
        let writer = self.writer.wake_at().map(|at| at.since(now));
        let checkpoint = self.waits_for_checkpoint.then_some(CHECKPOINT_RETRY);
        let lazy = self.lazy_until.map(|at| at.since(now));
        let quiet = self.told_wait.map(|told| told.last.after(CHECKPOINT_QUIET).since(now));
        [writer, checkpoint, lazy, quiet].into_iter().flatten().min()
    }
}

/// Begins a log; nothing else is done meanwhile.
fn begin_log(config: LogConfig, io: &mut impl Io) -> io::Result<Box<LogWriter>> {
    let mut start = Box::new(LogStart::begin(config, io));
    loop {
        while let Some(done) = io.next_file_done() {
            match start.handle_done(done, io.now(), io)? {
                Start::UnderWay(further) => start = further,
                Start::Begun(writer) => return Ok(writer),
            }
        }
        io.await_files(FILES_PATIENCE)?;
    }
}

fn tell_failure(shard: ShardId, cause: &io::Error) {
    if cause.kind() == io::ErrorKind::NotFound {
        tracing::error!(
            shard,
            %cause,
            "the state directory was removed or moved while midge runs: nothing that must be kept is acknowledged \
             any more; put it back, and start midge anew"
        );
    } else {
        tracing::error!(
            shard,
            %cause,
            "the disk has failed: nothing that must be kept is acknowledged any more; mend it, and start midge anew"
        );
    }
}

impl<I: Io> Host<I> {
    /// Takes in what has become of the writes.
    pub(super) fn read_log(&mut self, now: Time) {
        let Some(store) = &mut self.store else { return };
        while let Some(done) = self.io.next_file_done() {
            store.writer.handle_done(done, now, &mut self.io);
        }
        loop {
            let Some(store) = &mut self.store else { return };
            let Some(event) = store.writer.poll(now, &mut self.io) else { break };
            let shard = self.machine.id();
            match event {
                LogEvent::Durable { last } => {
                    self.machine.handle_durable(now, last);
                    self.carry_out(now, None);
                }
                LogEvent::Sealed { path, bytes } => store.checkpoint.submit(path, bytes),
                LogEvent::Full { cause } => {
                    tracing::error!(shard, %cause, "the disk is full: messages that must be kept are refused until there is room");
                    self.machine.handle_store_full(true);
                }
                LogEvent::HasRoom => {
                    tracing::info!(shard, "the disk has room again");
                    self.machine.handle_store_full(false);
                }
                LogEvent::Failed { cause } => {
                    tell_failure(shard, &cause);
                    self.machine.handle_store_failed();
                    // No write comes any more for which they could wait, and the journal takes nothing down.
                    self.resume_for_log(now);
                }
            }
        }
        self.answer_when_sealed();
    }

    /// The bell has rung: has a checkpoint been asked for?
    pub(super) fn look_for_checkpoint(&mut self) {
        let asked = self.control.checkpoints_asked.load(Ordering::Acquire);
        let Some(store) = &mut self.store else { return };
        if std::mem::replace(&mut store.checkpoint_asked, asked) != asked {
            store.answer = Answer::Writing { mark: self.machine.journal_mark() };
        }
    }

    /// Seals the segment once it has all that was there when a checkpoint was asked for.
    fn seal_if_asked(&mut self) {
        let Some(store) = &mut self.store else { return };
        if let Answer::Writing { mark } = store.answer
            && LogMark::behind(store.writer.last()) >= mark
        {
            store.writer.seal(&mut self.io);
            store.answer = Answer::Sealing;
            self.answer_when_sealed();
        }
    }

    fn answer_when_sealed(&mut self) {
        let (shard, shards) = (self.machine.id(), self.shared.shards());
        let Some(store) = &mut self.store else { return };
        if store.answer == Answer::Sealing && !store.writer.is_sealing() && !store.writer.has_failed() {
            store.answer = Answer::Given;
            store.checkpoint.mark(CheckpointMark { shard, shards, request: store.checkpoint_asked });
        }
    }

    /// Begins the next write, if none is under way.
    pub(super) fn write_log(&mut self, now: Time) {
        let Some(store) = &mut self.store else { return };
        store.waits_for_checkpoint = store.checkpoint.log_bytes() > store.log_bytes_max;
        if store.waits_for_checkpoint || store.told_wait.is_some() {
            self.tell_wait(now);
        }
        let Some(store) = &mut self.store else { return };
        if store.waits_for_checkpoint || !store.writer.is_idle() {
            // That these records have waited long enough must wake no one now.
            store.lazy_until = None;
            return;
        }
        if store.may_wait(now, &self.machine) {
            return;
        }
        store.lazy_until = None;
        if let Some(batch) = self.machine.take_batch() {
            let last = batch.last;
            store.writer.submit(batch, &mut self.io);
            if store.sync != SyncPolicy::Always {
                self.machine.handle_durable(now, last);
                self.carry_out(now, None);
            }
        }
        self.seal_if_asked();
        self.resume_for_log(now);
    }

    /// Says once that the log waits for the checkpoint, and once that it goes on.
    fn tell_wait(&mut self, now: Time) {
        let Some(store) = &mut self.store else { return };
        let shard = self.machine.id();
        match &mut store.told_wait {
            None => {
                store.told_wait = Some(ToldWait { since: now, last: now });
                self.shared.counters[usize::from(shard)].add(Counter::LimitLogBytes, 1);
                tracing::warn!(
                    shard,
                    limit = Limit::LogBytes.key(),
                    log_bytes = store.checkpoint.log_bytes(),
                    log_bytes_max = store.log_bytes_max,
                    "limit reached: {}",
                    Limit::LogBytes.consequence()
                );
            }
            Some(told) if store.waits_for_checkpoint => told.last = now,
            Some(told) if now >= told.last.after(CHECKPOINT_QUIET) => {
                let millis = told.last.millis_since(told.since);
                store.told_wait = None;
                tracing::info!(shard, millis, "the checkpoint has caught up, and the log goes on");
            }
            Some(_) => {}
        }
    }

    /// Is the log so far behind that nothing of a connection may be handled? Then the connection is paused.
    pub(super) fn hold_back(&mut self, now: Time, slot: ConnectionSlot) -> bool {
        if !self.machine.is_log_far_behind() || !self.machine.has_connection(slot) {
            return false;
        }
        let Some(store) = &mut self.store else { return false };
        if store.paused.is_empty() {
            self.shared.counters[usize::from(self.machine.id())].add(Counter::LimitLog, 1);
            self.write_event(now, &Event::LimitReached { limit: Limit::Log, client: "".into() });
        }
        if self.pause(slot, HoldBack::Log)
            && let Some(store) = &mut self.store
        {
            store.paused.insert(slot);
        }
        true
    }

    fn resume_for_log(&mut self, now: Time) {
        let Some(store) = &mut self.store else { return };
        if store.paused.is_empty() || self.machine.is_log_behind() {
            return;
        }
        for slot in std::mem::take(&mut store.paused) {
            self.resume(now, slot, HoldBack::Log);
        }
    }

    /// Writes what is left, and ends the log.
    ///
    /// # Errors
    /// The ring's.
    pub(super) fn close_log(&mut self, now: Time) -> io::Result<()> {
        let Some(mut store) = self.store.take() else { return Ok(()) };
        let end = now.after(CLOSE_PATIENCE);
        self.machine.handle_turn(now);
        loop {
            while !store.writer.is_idle() && !store.writer.has_failed() && self.now() < end {
                self.io.await_files(FILES_PATIENCE)?;
                self.read_last(&mut store);
            }
            let is_idle = store.writer.is_idle();
            let Some(batch) = self.machine.take_batch().filter(|_| is_idle) else { break };
            store.writer.submit(batch, &mut self.io);
        }
        store.writer.close();
        self.read_last(&mut store);
        let end = self.now().after(CLOSE_PATIENCE);
        while !store.writer.is_closed() {
            if self.now() >= end {
                // What is still being written was never acknowledged.
                tracing::error!(
                    shard = self.machine.id(),
                    "the disk does not answer: midge stops without the end of its log"
                );
                break;
            }
            self.io.await_files(FILES_PATIENCE)?;
            self.read_last(&mut store);
        }
        Ok(())
    }

    /// Takes in what has become of the last writes.
    fn read_last(&mut self, store: &mut Store) {
        let at = self.now();
        while let Some(done) = self.io.next_file_done() {
            store.writer.handle_done(done, at, &mut self.io);
        }
        while let Some(event) = store.writer.poll(at, &mut self.io) {
            match event {
                LogEvent::Sealed { path, bytes } => store.checkpoint.submit(path, bytes),
                LogEvent::Failed { cause } | LogEvent::Full { cause } => {
                    tracing::error!(shard = self.machine.id(), %cause, "the end of the log could not be written");
                }
                LogEvent::Durable { .. } | LogEvent::HasRoom => {}
            }
        }
    }
}
