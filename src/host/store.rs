//! Connects the host to the log of its shard. Batches go to the disk one at a time, and the machine learns
//! what is durable.

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

/// Takes the segments that a log has filled, and merges them into the checkpoint.
pub trait SealedSegments: Send {
    /// Submits a segment to which nothing more is written, with the number of bytes in it. The segments of
    /// one log come in order.
    fn submit(&self, path: PathBuf, bytes: u64);
    /// Reports that this shard has submitted everything it was asked for.
    fn mark(&self, mark: CheckpointMark);
    /// The bytes of all shards' segments that are sealed and not yet in the checkpoint.
    fn log_bytes(&self) -> u64;
    /// The files of segments that are in the checkpoint, for reuse.
    fn spares(&self) -> Spares;
}

/// The report that a shard has submitted everything it had when a checkpoint was requested.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointMark {
    /// The shard.
    pub shard: u16,
    /// The number of shards.
    pub shards: usize,
    /// The number of the request. A later one also stands for the earlier ones.
    pub request: u64,
}

/// The parts that a shard with a log starts with.
pub struct StartStore {
    /// The name of the log that it begins.
    pub name: LogName,
    /// The directory of the segments.
    pub directory: PathBuf,
    /// The seed of the home shards.
    pub seed: u64,
    /// The restored state of an earlier run.
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
    /// The largest number of log bytes of all shards that may wait for the checkpoint.
    log_bytes_max: u64,
    waits_for_checkpoint: bool,
    /// The period in which the log waits for the checkpoint, after this was logged.
    logged_wait: Option<LoggedWait>,
    /// The time at which records without a waiting reply are written.
    lazy_until: Option<Time>,
    /// When the write under way was begun.
    writing_since: Time,
    /// The last request for a checkpoint that was seen: `Control::checkpoints_asked`.
    checkpoint_asked: u64,
    answer: Answer,
    /// The cut for which the log stands still, or is about to.
    cut: Option<Cut>,
    /// Connections that wait for the disk. A connection that has ended in the meantime is skipped.
    paused: BTreeSet<ConnectionSlot>,
}

/// The progress of a request for a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It is completely answered.
    Given,
    /// The records from before the request, up to this mark of the journal, are being written.
    Writing { mark: LogMark },
    /// The segment is being sealed.
    Sealing,
}

/// A cut that this shard takes part in. See [`LogCut`](super::control::LogCut).
#[derive(Clone, Copy)]
struct Cut {
    request: u64,
    until: Time,
}

/// How long a log stands still at most for a cut.
const CUT_PATIENCE: Duration = Duration::from_secs(2);
/// How soon it is checked whether the other shards have come to the cut.
const CUT_RETRY: Duration = Duration::from_millis(1);

/// A period in which the log waited for the checkpoint again and again.
#[derive(Clone, Copy)]
struct LoggedWait {
    since: Time,
    last: Time,
}

/// Records without a waiting reply, such as those of settled deliveries, are written together with the next
/// records that have one, or after this time. A write of their own would delay the next one.
const LAZY: Duration = Duration::from_millis(10);
/// They are also written when they have this many bytes.
const LAZY_BYTES_MAX: usize = 64 << 10;

/// How soon a checkpoint that is behind is checked again.
const CHECKPOINT_RETRY: Duration = Duration::from_millis(10);
/// A log that has not waited for the checkpoint for this long has caught up. At its bound the log waits for
/// every segment, which is not worth a line each time.
const CHECKPOINT_QUIET: Duration = Duration::from_secs(1);

/// How long the start and the end of a log wait for the disk at most before they check again. The end of an
/// operation ends the wait earlier.
const FILES_PATIENCE: Duration = Duration::from_millis(100);

/// How long a stopping shard waits at most for the log to write the rest, and for it to close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

impl Store {
    /// Opens the log.
    ///
    /// # Errors
    /// The disk's error.
    pub(super) fn open<I: Io>(host: &mut Host<I>, start: StartStore) -> io::Result<Store> {
        let persistence = &host.in_force.settings.config.persistence;
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
            logged_wait: None,
            lazy_until: None,
            writing_since: Time::ZERO,
            checkpoint_asked: 0,
            answer: Answer::Given,
            cut: None,
            paused: BTreeSet::new(),
        })
    }

    /// Whether the next write may be postponed: no reply waits for the journal's records.
    fn may_wait(&mut self, now: Time, machine: &Shard) -> bool {
        let bytes = machine.journal_bytes();
        let is_asked = self.answer != Answer::Given;
        if bytes == 0 || machine.awaits_log() || bytes > LAZY_BYTES_MAX || is_asked {
            return false;
        }
        *self.lazy_until.get_or_insert(now.after(LAZY)) > now
    }

    /// The time until the log must be looked at if nothing else happens.
    pub(super) fn due_in(&self, now: Time) -> Option<Duration> {
        let writer = self.writer.wake_at().map(|at| at.since(now));
        let checkpoint = self.waits_for_checkpoint.then_some(CHECKPOINT_RETRY);
        let lazy = self.lazy_until.map(|at| at.since(now));
        let quiet = self.logged_wait.map(|wait| wait.last.after(CHECKPOINT_QUIET).since(now));
        let cut = self.cut.filter(|_| self.answer == Answer::Given).map(|_| CUT_RETRY);
        [writer, checkpoint, lazy, quiet, cut].into_iter().flatten().min()
    }
}

/// Begins a log. Nothing else is done at the same time.
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
             any more; put it back and restart midge"
        );
    } else {
        tracing::error!(
            shard,
            %cause,
            "the disk has failed: nothing that must be kept is acknowledged any more; repair it and restart midge"
        );
    }
}

impl<I: Io> Host<I> {
    /// Handles the results of the writes.
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
                    let counters = &self.shared.counters[usize::from(shard)];
                    counters.kinds.commit.note(now.micros_since(store.writing_since));
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
                    // No further write comes that they could wait for, and the journal records nothing.
                    self.resume_for_log(now);
                }
            }
        }
        self.answer_when_sealed();
    }

    /// Checks for a new request for a checkpoint, after the bell has rung.
    pub(super) fn look_for_checkpoint(&mut self) {
        let asked = self.control.checkpoints_asked.load(Ordering::Acquire);
        let now = self.now();
        let Some(store) = &mut self.store else { return };
        if std::mem::replace(&mut store.checkpoint_asked, asked) != asked {
            store.answer = Answer::Writing { mark: self.machine.journal_mark() };
            let is_cut = self.control.cut.is_asked_by(asked);
            store.cut = is_cut.then(|| Cut { request: asked, until: now.after(CUT_PATIENCE) });
        }
    }

    /// Seals the segment when it has everything from before the request for a checkpoint.
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
            if store.cut.is_some() {
                self.control.cut.note_sealed();
            }
        }
    }

    /// Whether the log stands still because other shards have not come to the cut. It goes on when they have, or after
    /// some time, and then the cut is worth nothing.
    fn stands_still(&mut self, now: Time) -> bool {
        let shards = self.shared.shards();
        let Some(store) = &mut self.store else { return false };
        let Some(Cut { request, until }) = store.cut else { return false };
        let is_complete = self.control.cut.is_complete(shards);
        if now >= until && !is_complete {
            self.control.cut.give_up(request);
        }
        let is_over = now >= until || (store.answer == Answer::Given && is_complete);
        if is_over {
            store.cut = None;
        }
        !is_over && store.answer == Answer::Given
    }

    /// Begins the next write, if none is pending.
    pub(super) fn write_log(&mut self, now: Time) {
        if self.stands_still(now) {
            return;
        }
        let Some(store) = &mut self.store else { return };
        store.waits_for_checkpoint = store.checkpoint.log_bytes() > store.log_bytes_max;
        if store.waits_for_checkpoint || store.logged_wait.is_some() {
            self.tell_wait(now);
        }
        let Some(store) = &mut self.store else { return };
        if store.waits_for_checkpoint || !store.writer.is_idle() {
            // The timer of these records must not wake the shard now.
            store.lazy_until = None;
            return;
        }
        if store.may_wait(now, &self.machine) {
            return;
        }
        store.lazy_until = None;
        if let Some(batch) = self.machine.take_batch() {
            let last = batch.last;
            store.writing_since = now;
            store.writer.submit(batch, &mut self.io);
            if store.sync != SyncPolicy::Always {
                self.machine.handle_durable(now, last);
                self.carry_out(now, None);
            }
        }
        self.seal_if_asked();
        self.resume_for_log(now);
    }

    /// Logs once that the log waits for the checkpoint, and once that it has caught up.
    fn tell_wait(&mut self, now: Time) {
        let Some(store) = &mut self.store else { return };
        let shard = self.machine.id();
        match &mut store.logged_wait {
            None => {
                store.logged_wait = Some(LoggedWait { since: now, last: now });
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
            Some(wait) if store.waits_for_checkpoint => wait.last = now,
            Some(wait) if now >= wait.last.after(CHECKPOINT_QUIET) => {
                let millis = wait.last.millis_since(wait.since);
                store.logged_wait = None;
                tracing::info!(shard, millis, "the checkpoint has caught up, and the log goes on");
            }
            Some(_) => {}
        }
    }

    /// Whether the log is so far behind that nothing of a connection may be handled. If so, the connection is
    /// paused.
    pub(super) fn hold_back(&mut self, now: Time, slot: ConnectionSlot) -> bool {
        if !self.machine.is_log_far_behind() || !self.machine.has_connection(slot) {
            return false;
        }
        let Some(store) = &mut self.store else { return false };
        if store.paused.is_empty() {
            self.shared.counters[usize::from(self.machine.id())].add(Counter::LimitLog, 1);
            self.write_event(now, Event::LimitReached { limit: Limit::Log, client: "".into() });
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

    /// Writes the rest, and closes the log.
    ///
    /// # Errors
    /// The ring's error.
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
                // Whatever is still being written was never acknowledged.
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

    /// Handles the results of the last writes.
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
