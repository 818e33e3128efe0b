//! The host of a shard's machine. It runs the turn, and connects the machine to the kernel. Its kernel
//! interface is [`Io`], so the same turn runs on the ring and in the simulator.
//!
//! A turn takes what has happened, passes it to the machine, empties the boxes of other shards, reads the
//! clock, and parks. Parking sends the outbox in the same system call that waits. The clock is read once per
//! turn, after the events were taken, so no event is later than its timestamp.

mod admission;
mod clock;
mod connections;
mod control;
mod effects;
mod event_log;
mod handshakes;
mod history;
mod io;
mod layers;
mod logins;
mod messages;
mod questions;
mod store;
mod tidy;

pub use control::{Control, InForce, ShardStart};
pub use io::{Io, IoEvent, SocketEnd, UNIX_PEER};
pub use messages::ShardMessage;
pub use store::{CheckpointMark, SealedSegments, StartStore};

use crate::base::ConnectionSlot;
use crate::base::Time;
use crate::broker::{BrokerSettings, Counter, Event, HoldBack, Shard, Shared};
use admission::Admissions;
use clock::ClockWatch;
use connections::ConnectionTable;
use event_log::EventLog;
use handshakes::Handshakes;
use history::EventHistory;
use layers::ConnectionLayers;
use logins::Verdicts;
use messages::Overflow;
use questions::Inquiries;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use store::Store;
use tidy::{Kept, Tidy};

/// If the machine has more bytes than this to send, the turn is flushed before more input is handled.
const ARENA_BYTES_MAX: usize = 1 << 20;
/// How soon a full box is tried again. Its reader does not announce free room.
const OVERFLOW_RETRY: Duration = Duration::from_micros(200);

/// How long a stopping shard waits at most for one that does not stop.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// How often a shard checks whether the others have restored their sessions.
const RESTORE_PATIENCE: Duration = Duration::from_millis(1);

/// A shard: its machine, and its connections to the kernel and to the other shards.
pub struct Host<I: Io> {
    machine: Shard,
    io: I,
    shared: Arc<Shared>,
    control: Arc<Control>,
    overflow: Vec<Overflow<I::Socket>>,
    /// The number of messages that wait there.
    overflowing: usize,
    /// The number of mails that the machine could not send, because a retained message before them waits for
    /// room at its home.
    mails_held: usize,
    /// Connections that wait for the boxes of other shards. A connection that has ended in the meantime is
    /// skipped.
    paused_by_mesh: BTreeSet<ConnectionSlot>,
    /// By sender: the number of mails that were there at the last count and are not taken yet.
    mails_left: Vec<usize>,
    log: EventLog,
    /// The time of the last work.
    worked_at: Time,
    tidy: Tidy,
    store: Option<Store>,
    /// Listening sockets, until all shards are ready for clients.
    listeners: Vec<(u16, I::Listener)>,
    new_listeners: Option<Receiver<(u16, I::Listener)>>,
    connections: ConnectionTable,
    layers: ConnectionLayers,
    in_force: InForce,
    verdicts: Verdicts,
    admissions: Admissions,
    clock: ClockWatch,
    restore: Restore,
    is_finished: bool,
    /// Events that were taken and are not handled yet.
    events: Vec<IoEvent<I::Buffer>>,
    /// Set while the broker stops: the time until which its clients may finish.
    stopping: Option<Time>,
    observer: Option<Observer>,
    /// See [`Host::tell_detail`].
    detail: Option<bool>,
    inquiries: Inquiries,
    history: EventHistory,
}

/// See [`Host::observe`].
type Observer = Box<dyn FnMut(Time, &Event)>;

/// The progress of a start. The shards wait for each other after each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Restore {
    /// Other shards do not yet know the interest of this shard's sessions.
    Begun,
    /// They do.
    Known,
    /// The shard handles what fell due while the broker was down.
    Settling,
    /// It has done so.
    Settled,
}

/// Runs a shard until the broker stops.
///
/// # Errors
/// The ring's error, or the disk's at the start. The shard can't work without them.
pub fn run<I: Io>(start: ShardStart<I::Listener>, store: Option<StartStore>, io: I) -> std::io::Result<()> {
    let mut host = Host::new(start, io);
    host.begin(store)?;
    while host.turn()? {}
    Ok(())
}

impl<I: Io> Host<I> {
    /// A shard before its start.
    pub fn new(start: ShardStart<I::Listener>, mut io: I) -> Host<I> {
        let in_force = start.control.in_force();
        let settings = &in_force.settings;
        io.set_backlog_bytes_max(backlog_bytes_max(settings));
        let shards = start.shared.shards();
        let handshakes = Handshakes::new(handshakes_share(settings, shards), start.seed);
        let log = EventLog::new(&settings.config);
        Host {
            machine: Shard::new(start.id, Arc::clone(&start.shared), start.interest, start.seed),
            clock: ClockWatch::new(&io),
            io,
            overflow: (0..shards).map(|_| Overflow::new()).collect(),
            mails_left: vec![0; shards],
            shared: start.shared,
            overflowing: 0,
            mails_held: 0,
            paused_by_mesh: BTreeSet::new(),
            log,
            worked_at: Time::ZERO,
            tidy: Tidy::default(),
            store: None,
            listeners: start.listeners,
            new_listeners: start.new_listeners,
            connections: ConnectionTable::default(),
            layers: ConnectionLayers::new(Arc::clone(&in_force.policies.stacks)),
            in_force,
            verdicts: Verdicts::new(start.bell, shards, start.seed),
            admissions: Admissions::new(handshakes),
            restore: Restore::Begun,
            is_finished: false,
            control: start.control,
            events: Vec::new(),
            stopping: None,
            observer: None,
            detail: None,
            inquiries: Inquiries::new(start.questions),
            history: EventHistory::default(),
        }
    }

    /// Opens the log, if the shard keeps anything, and starts the machine. It must be called before the first
    /// [`Host::turn`]. No client can connect before the turns of all shards allow it.
    ///
    /// # Errors
    /// The disk's error.
    pub fn begin(&mut self, store: Option<StartStore>) -> std::io::Result<()> {
        if let Some(start) = store {
            self.store = Some(Store::open(self, start)?);
        }
        let now = self.now();
        // SIGHUP may have come before this.
        self.machine.handle_settings(now, Arc::clone(&self.in_force.settings));
        self.machine.handle_access(Arc::clone(&self.in_force.policies.access));
        self.machine.handle_start(now);
        self.carry_out(now, None);
        Ok(())
    }

    /// The machine, for tests and the simulator.
    pub fn machine(&mut self) -> &mut Shard {
        &mut self.machine
    }

    /// The I/O, for tests and the simulator.
    pub fn io(&mut self) -> &mut I {
        &mut self.io
    }

    /// Reports every event of the machine to `observer`, whether or not it is logged.
    pub fn observe(&mut self, observer: impl FnMut(Time, &Event) + 'static) {
        self.observer = Some(Box::new(observer));
    }

    /// Sets whether the machine reports events for log level debug. Otherwise the log level decides, which is
    /// the same for all hosts of a process.
    pub fn tell_detail(&mut self, is_wanted: bool) {
        self.detail = Some(is_wanted);
    }

    /// Runs one turn, with the wait at its end. Returns false after the broker has stopped and the log is
    /// closed.
    ///
    /// # Errors
    /// The ring's error. The shard can't continue.
    pub fn turn(&mut self) -> std::io::Result<bool> {
        self.resume_handshakes();
        // A poll may reuse slots, so all earlier events must be handled first.
        if self.events.is_empty() {
            self.io.poll(&mut self.events);
        }
        let now = self.now();
        self.machine.handle_detail(self.detail.unwrap_or_else(EventLog::shows_detail));
        self.look_at_changes(now);
        self.end_unwanted(now);
        self.take_verdicts(now);
        self.listen_when_settled();
        self.read_log(now);
        if !self.events.is_empty() {
            self.worked_at = now;
        }
        self.handle_events(now)?;
        self.take_mails()?;
        let now = self.now();
        if self.machine.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.machine.handle_time(now);
            self.carry_out(now, None);
        }
        self.machine.handle_turn(now);
        self.carry_out(now, None);
        self.answer_questions(now);
        self.watch_clock(now);
        self.write_log(now);
        self.log.tell_left_out(now);
        self.give_memory_back(now);
        if self.control.stop.load(Ordering::Acquire) && self.stop(now)? {
            return Ok(false);
        }
        let deadline = self.park_until(now);
        self.machine.trace_output(now);
        self.layers.seal(&mut self.connections, self.machine.outbox());
        // A mail that must wait for the log must not keep the shard awake. The end of the write wakes it.
        let takes_mails = self.machine.takes_mails();
        self.io.park(self.machine.outbox(), &mut self.events, deadline, takes_mails)?;
        self.clear_outbox();
        Ok(true)
    }

    /// Stops the broker: disconnects the clients. Returns whether the shard has finished.
    fn stop(&mut self, now: Time) -> std::io::Result<bool> {
        let grace = Duration::from_secs(self.in_force.settings.config.shutdown.grace_seconds.into());
        let until = match self.stopping {
            Some(until) => until,
            None => {
                self.io.stop_listening();
                self.machine.handle_shutdown(now);
                self.carry_out(now, None);
                *self.stopping.insert(self.now().after(grace))
            }
        };
        self.flush()?;
        let is_done = self.io.connections() == 0 && !self.machine.has_deferred();
        if !is_done && self.now() < until {
            return Ok(false);
        }
        if !std::mem::replace(&mut self.is_finished, true) {
            self.control.finished.fetch_add(1, Ordering::AcqRel);
        }
        // Wills, and messages that group members return, are still on their way to sessions of other shards.
        if self.control.finished.load(Ordering::Acquire) < self.shared.shards()
            && self.now() < until.after(STOP_PATIENCE)
        {
            return Ok(false);
        }
        self.take_mails()?;
        self.finish_work(now)?;
        self.log.close();
        self.close_log(now)?;
        Ok(true)
    }

    /// Handles as many events as the turn has room for. The others wait for the next turn.
    fn handle_events(&mut self, now: Time) -> std::io::Result<()> {
        let mut events = VecDeque::from(std::mem::take(&mut self.events));
        while !self.machine.is_spent()
            && let Some(event) = events.pop_front()
        {
            self.handle_event(now, event);
            if self.machine.outbox().arena_bytes() > ARENA_BYTES_MAX {
                self.flush()?;
            }
        }
        self.events = Vec::from(events);
        Ok(())
    }

    /// Takes over what the operator has changed.
    fn look_at_changes(&mut self, now: Time) {
        if self.control.version() == self.in_force.version {
            return;
        }
        let former = std::mem::replace(&mut self.in_force, self.control.in_force());
        self.change_listeners(&former.settings);
        let settings = &self.in_force.settings;
        self.io.set_backlog_bytes_max(backlog_bytes_max(settings));
        self.admissions.handshakes.set_share(handshakes_share(settings, self.shared.shards()));
        self.log.change(&settings.config);
        self.layers.reload(Arc::clone(&self.in_force.policies.stacks));
        self.machine.handle_settings(now, Arc::clone(settings));
        self.machine.handle_access(Arc::clone(&self.in_force.policies.access));
        self.carry_out(now, None);
        self.admissions.unwanted_to = Some(0);
    }

    /// Closes the listening sockets of listeners that were removed, and takes those of new ones.
    fn change_listeners(&mut self, former: &BrokerSettings) {
        let settings = &self.in_force.settings;
        for &number in former.open_listeners().iter().filter(|&&number| !settings.is_open(number)) {
            self.io.close_listener(number);
        }
        if self.stopping.is_none()
            && let Some(receiver) = &self.new_listeners
        {
            self.listeners.extend(receiver.try_iter());
        }
        // They may have been removed again.
        self.listeners.retain(|(number, _)| settings.is_open(*number));
        if let Err(cause) = self.io.tune_listeners(&settings.config.limits) {
            tracing::warn!(%cause, "limits.tcp_keepalive_seconds and limits.tcp_user_timeout_seconds can't be set");
        }
    }

    /// Continues with deferred work for a limited time: messages may still be on their way to sessions that
    /// are kept.
    fn finish_work(&mut self, now: Time) -> std::io::Result<()> {
        let until = self.now().after(STOP_PATIENCE);
        while self.machine.has_deferred() && self.now() < until {
            self.machine.handle_turn(now);
            self.carry_out(now, None);
            self.flush()?;
        }
        Ok(())
    }

    fn now(&self) -> Time {
        self.io.now()
    }

    fn park_until(&self, now: Time) -> Option<Duration> {
        let spin = self.in_force.settings.config.runtime.spin_microseconds;
        let spins = spin > 0 && now.micros_since(self.worked_at) < spin;
        if spins
            || self.machine.has_deferred()
            || self.layers.has_waiting()
            || self.verdicts.has_some()
            || self.inquiries.has_some()
            || self.admissions.unwanted_to.is_some()
            || self.has_mails()
        {
            return Some(Duration::ZERO);
        }
        let timer =
            self.machine.next_deadline().map(|deadline| Duration::from_micros(deadline.micros_since(now)));
        let retry = (self.overflowing > 0).then_some(OVERFLOW_RETRY);
        let stop = self.stopping.map(|_| Duration::from_millis(10));
        let tidy = self.tidy.at().map(|at| Duration::from_micros(at.micros_since(now)));
        let log = self.store.as_ref().and_then(|store| store.due_in(now));
        let starts = self.restore != Restore::Settled || !self.listeners.is_empty();
        let restore = starts.then_some(RESTORE_PATIENCE);
        let after = |due: Time| Duration::from_micros(due.micros_since(now));
        let (logins, lines) = (self.logins_due().map(after), self.log.due().map(after));
        [timer, retry, stop, tidy, log, restore, logins, lines].into_iter().flatten().min()
    }

    /// Starts to accept clients when every shard knows the interest of the sessions of an earlier run and has
    /// handled what fell due while the broker was down. Those sessions would miss messages that came earlier.
    fn listen_when_settled(&mut self) {
        // The other shards also wait for a shard without listeners.
        let shards = self.shared.shards();
        if self.restore == Restore::Begun && !self.machine.is_restoring() {
            self.restore = Restore::Known;
            self.control.restored.fetch_add(1, Ordering::AcqRel);
        }
        if self.restore == Restore::Known && self.control.restored.load(Ordering::Acquire) >= shards {
            self.restore = Restore::Settling;
            self.machine.handle_restored();
        }
        if self.restore == Restore::Settling && self.machine.is_settled() {
            self.restore = Restore::Settled;
            self.control.settled.fetch_add(1, Ordering::AcqRel);
        }
        if !self.listeners.is_empty() && self.control.settled.load(Ordering::Acquire) >= shards {
            for (number, socket) in std::mem::take(&mut self.listeners) {
                self.io.listen(number, socket);
            }
        }
    }

    /// Frees memory, if it is due.
    fn give_memory_back(&mut self, now: Time) {
        let kept = Kept { connections: self.io.connections(), bytes: self.machine.kept_bytes() };
        if self.tidy.is_due(now, kept) {
            self.machine.give_memory_back();
            self.connections.give_memory_back();
            self.layers.give_memory_back();
            self.admissions.handshakes.give_memory_back();
            self.io.give_memory_back();
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let mut events = Vec::new();
        self.machine.trace_output(self.io.now());
        self.layers.seal(&mut self.connections, self.machine.outbox());
        self.io.flush(self.machine.outbox(), &mut events)?;
        self.clear_outbox();
        let now = self.now();
        for event in events {
            self.handle_event(now, event);
        }
        Ok(())
    }

    /// Clears the outbox. Its bytes are now in the sockets, or wait for them in the driver.
    fn clear_outbox(&mut self) {
        let outbox = self.machine.outbox();
        let bytes = outbox.touched().iter().map(|touched| u64::from(touched.bytes)).sum();
        outbox.clear();
        self.shared.counters[usize::from(self.machine.id())].add(Counter::BytesSent, bytes);
    }

    /// Stops reading from a connection. Returns false if it was already stopped for this reason.
    fn pause(&mut self, slot: ConnectionSlot, why: HoldBack) -> bool {
        let is_new = self.machine.hold_back(slot, why);
        if is_new {
            self.io.pause(slot);
        }
        is_new
    }

    /// Removes this reason, and reads from the connection again if there is no other.
    fn resume(&mut self, now: Time, slot: ConnectionSlot, why: HoldBack) {
        if self.machine.let_go(now, slot, why) {
            self.io.resume(slot);
        }
    }
}

/// The largest backlog of a connection, in bytes. The machine stops adding at `limits.backlog_bytes`. After that it may
/// still add a packet and a turn's answers.
fn backlog_bytes_max(settings: &BrokerSettings) -> usize {
    settings.config.limits.backlog_bytes + 2 * settings.packet_bytes_max() + (8 << 20)
}

/// One shard's part of `limits.handshakes_per_address`.
fn handshakes_share(settings: &BrokerSettings, shards: usize) -> usize {
    settings.config.limits.handshakes_per_address.div_ceil(shards)
}
