//! Joins a shard's machine to its driver: the only file that knows both.
//!
//! A turn: reap what the ring has, give it to the machine, empty the mesh boxes, look at the
//! clock, and park, which flushes the outbox in the system call that waits. The clock is read once
//! a turn, after the completions were reaped, so that what is stamped with it came before.

mod clock;
mod control;
mod event_log;
mod gate;
mod handshakes;
mod layers;
mod logins;
mod messages;
mod store;
mod tidy;

pub use control::{Control, Start};
pub use logins::Bell;
pub use messages::ShardMessage;
pub use store::StartStore;

use crate::base::ConnectionSlot;
use crate::base::Time;
use crate::broker::{Backlog, Counter, Effect, Event, Hangup, HoldBack, Shard, Shared};
use crate::control::access_policies::AccessPolicies;
use crate::driver::{self, Buffer, MeshEnd, Net};
use clock::ClockWatch;
use event_log::EventLog;
use gate::{AtGate, FailedLogin};
use handshakes::Handshakes;
use layers::ConnectionLayers;
use logins::Verdicts;
use messages::Overflow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use store::Store;
use tidy::Tidy;

/// The machine tells how much it wants to send; above this the turn is flushed before more is
/// taken in.
const ARENA_BYTES_MAX: usize = 1 << 20;
/// How soon a full box is tried again: its reader does not say when it has room.
const OVERFLOW_RETRY: Duration = Duration::from_micros(200);

/// A shard that ends waits no longer than this for one that does not.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// How often a shard looks whether the others have restored their sessions too.
const RESTORE_PATIENCE: Duration = Duration::from_millis(1);

struct Runner {
    machine: Shard,
    net: Net,
    mesh: MeshEnd<ShardMessage>,
    shared: Arc<Shared>,
    control: Arc<Control>,
    overflow: Vec<Overflow>,
    overflowing: usize,
    /// Connections that wait for the boxes of others. One that has ended meanwhile is passed over.
    paused_by_mesh: BTreeSet<ConnectionSlot>,
    /// By sender: mails that were there when the boxes were last looked at, and are not taken yet.
    mails_left: Vec<usize>,
    log: EventLog,
    /// When there was something to do last.
    worked_at: Time,
    tidy: Tidy,
    store: Option<Store>,
    /// Listening sockets, until all shards are ready for clients.
    listeners: Vec<(u16, OwnedFd)>,
    /// Connections of listeners that have a bound of their own, and their listeners.
    counted: BTreeMap<ConnectionSlot, u16>,
    layers: ConnectionLayers,
    policies: AccessPolicies,
    /// See `Control::policies_changed`.
    policies_seen: u64,
    verdicts: Verdicts,
    at_gate: AtGate,
    clock: ClockWatch,
    restore: Restore,
    is_finished: bool,
}

/// How far a start has come. The shards wait for each other after each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Restore {
    /// Others do not know all that this shard's sessions want.
    Begun,
    /// They do.
    Known,
    /// It does what fell due while the broker was down.
    Settling,
    /// It is done.
    Settled,
}

/// Runs a shard until the broker stops.
///
/// # Errors
/// The ring's, or the disk's at the start: without them there is no shard.
pub fn run(start: Start, mut net: Net) -> io::Result<()> {
    let limits = &start.shared.config.limits;
    let packet_bytes = start.shared.terms.iter().map(|terms| terms.packet_bytes).max().unwrap_or_default();
    // The machine stops filling at `backlog_bytes`; what it may add after that is a packet and a turn's answers.
    net.set_backlog_bytes_max(limits.backlog_bytes + 2 * packet_bytes + (8 << 20));
    start.mesh.set_ring(net.ring_fd());
    start.control.ready.fetch_add(1, Ordering::AcqRel);
    while start.control.ready.load(Ordering::Acquire) < start.shared.shards() {
        // Every ring must be known before the first connection; this is over in a millisecond.
        std::thread::yield_now();
    }
    net.watch(start.bell.to_fd()?, 0);
    let (policies, policies_seen) = start.control.policies();
    let shards = start.shared.shards();
    let share = start.shared.config.limits.handshakes_per_address.div_ceil(shards);
    let handshakes = Handshakes::new(share, start.seed);
    let log = EventLog::new(&start.shared.config);
    let mut runner = Runner {
        machine: Shard::new(start.id, Arc::clone(&start.shared), start.interest, start.seed),
        net,
        overflow: (0..start.shared.shards()).map(|_| Overflow::new()).collect(),
        mails_left: vec![0; start.shared.shards()],
        mesh: start.mesh,
        shared: start.shared,
        overflowing: 0,
        paused_by_mesh: BTreeSet::new(),
        log,
        worked_at: Time::ZERO,
        tidy: Tidy::default(),
        store: None,
        listeners: start.listeners,
        counted: BTreeMap::new(),
        layers: ConnectionLayers::new(Arc::clone(&policies.stacks)),
        policies,
        policies_seen,
        verdicts: Verdicts::new(start.bell, shards, start.seed),
        at_gate: AtGate::new(handshakes),
        clock: ClockWatch::new(&start.control),
        restore: Restore::Begun,
        is_finished: false,
        control: start.control,
    };
    if let Some(start) = start.store {
        runner.store = Some(Store::open(&mut runner, start)?);
    }
    runner.serve()
}

impl Runner {
    fn serve(&mut self) -> io::Result<()> {
        let sleeping = self.mesh.sleeping();
        let mut events = Vec::with_capacity(driver::EVENTS_MAX);
        let mut stopping: Option<Instant> = None;
        let now = self.now();
        self.machine.handle_access(Arc::clone(&self.policies.access));
        self.machine.handle_start(now);
        self.carry_out(now, None);
        loop {
            self.resume_handshakes();
            // Slots are used anew with a poll: not before all that is known of them is handled.
            if events.is_empty() {
                self.net.poll(&mut events);
            }
            let now = self.now();
            self.machine.handle_detail(EventLog::shows_detail());
            self.look_at_policies(now);
            self.take_verdicts(now);
            self.listen_when_settled();
            self.read_log(now);
            if !events.is_empty() {
                self.worked_at = now;
            }
            events = self.handle_events(now, events)?;
            self.take_mails()?;
            let now = self.now();
            if self.machine.next_deadline().is_some_and(|deadline| deadline <= now) {
                self.machine.handle_time(now);
                self.carry_out(now, None);
            }
            self.machine.handle_turn(now);
            self.carry_out(now, None);
            self.watch_clock(now);
            self.write_log(now);
            self.log.tell_left_out(now);
            self.give_memory_back(now);
            if self.control.stop.load(Ordering::Acquire) {
                let grace = Duration::from_secs(self.shared.config.shutdown.grace_seconds.into());
                let until = *stopping.get_or_insert_with(|| {
                    self.net.stop_listening();
                    self.machine.handle_shutdown(now);
                    self.carry_out(now, None);
                    Instant::now() + grace
                });
                self.flush()?;
                let is_done = self.net.connections() == 0 && !self.machine.has_deferred();
                if is_done || Instant::now() >= until {
                    if !std::mem::replace(&mut self.is_finished, true) {
                        self.control.finished.fetch_add(1, Ordering::AcqRel);
                    }
                    // Wills and what members give back are still on their way to sessions of others.
                    if self.control.finished.load(Ordering::Acquire) >= self.shared.shards()
                        || Instant::now() >= until + STOP_PATIENCE
                    {
                        self.take_mails()?;
                        self.finish_work(now)?;
                        self.log.close();
                        self.close_log(now)?;
                        return Ok(());
                    }
                }
            }
            let deadline = self.park_until(now, stopping);
            self.layers.seal(self.machine.outbox());
            self.wake_others();
            // A mail that must wait for the log must not keep the shard awake: the end of the write wakes it.
            let (mesh, takes_mails) = (&self.mesh, self.machine.takes_mails());
            let has_mails = || takes_mails && mesh.any_ready();
            let outbox = self.machine.outbox();
            self.net.park(outbox, &mut events, deadline, &sleeping, has_mails)?;
            self.clear_outbox();
        }
    }

    /// As many events as the turn has room for; the others wait for the next one.
    fn handle_events(&mut self, now: Time, events: Vec<driver::Event>) -> io::Result<Vec<driver::Event>> {
        let mut events = VecDeque::from(events);
        while !self.machine.is_spent()
            && let Some(event) = events.pop_front()
        {
            self.handle_event(now, event);
            if self.machine.outbox().arena_bytes() > ARENA_BYTES_MAX {
                self.flush()?;
            }
        }
        Ok(Vec::from(events))
    }

    fn look_at_policies(&mut self, now: Time) {
        if self.control.policies_changed.load(Ordering::Acquire) != self.policies_seen {
            (self.policies, self.policies_seen) = self.control.policies();
            self.layers.reload(Arc::clone(&self.policies.stacks));
            self.machine.handle_access(Arc::clone(&self.policies.access));
            self.at_gate.banned_to = Some(0);
        }
        self.end_banned(now);
    }

    /// Goes on with what was put off, for a while: messages may still be on their way to sessions that are kept.
    fn finish_work(&mut self, now: Time) -> io::Result<()> {
        let until = Instant::now() + STOP_PATIENCE;
        while self.machine.has_deferred() && Instant::now() < until {
            self.machine.handle_turn(now);
            self.carry_out(now, None);
            self.flush()?;
        }
        Ok(())
    }

    fn now(&self) -> Time {
        self.control.now()
    }

    fn park_until(&self, now: Time, stopping: Option<Instant>) -> Option<Duration> {
        let spin = self.shared.config.runtime.spin_microseconds;
        let spins = spin > 0 && now.micros_since(self.worked_at) < spin;
        if spins
            || self.machine.has_deferred()
            || self.layers.has_waiting()
            || self.verdicts.has_some()
            || self.at_gate.banned_to.is_some()
            || self.has_mails()
        {
            return Some(Duration::ZERO);
        }
        let timer =
            self.machine.next_deadline().map(|deadline| Duration::from_micros(deadline.micros_since(now)));
        let retry = (self.overflowing > 0).then_some(OVERFLOW_RETRY);
        let stop = stopping.map(|_| Duration::from_millis(10));
        let tidy = self.tidy.at().map(|at| Duration::from_micros(at.micros_since(now)));
        let log = self.store.as_ref().and_then(Store::due_in);
        let starts = self.restore != Restore::Settled || !self.listeners.is_empty();
        let restore = starts.then_some(RESTORE_PATIENCE);
        let after = |due: Time| Duration::from_micros(due.micros_since(now));
        let (logins, lines) = (self.logins_due().map(after), self.log.due().map(after));
        [timer, retry, stop, tidy, log, restore, logins, lines].into_iter().flatten().min()
    }

    /// Lets clients in once every shard knows what the sessions of an earlier run want, as a message that came before
    /// would pass them by, and has done what fell due while the broker was down.
    fn listen_when_settled(&mut self) {
        // The others wait for a shard without listeners too.
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
                self.net.listen(number, socket);
            }
        }
    }

    /// If it is time to.
    fn give_memory_back(&mut self, now: Time) {
        if self.tidy.is_due(now, self.net.connections(), self.machine.kept_bytes()) {
            self.machine.give_memory_back();
            self.layers.give_memory_back();
            self.at_gate.handshakes.give_memory_back();
            self.net.give_memory_back();
            driver::give_heap_back();
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut events = Vec::new();
        self.layers.seal(self.machine.outbox());
        self.wake_others();
        self.net.flush(self.machine.outbox(), &mut events)?;
        self.clear_outbox();
        let now = self.now();
        for event in events {
            self.handle_event(now, event);
        }
        Ok(())
    }

    /// What was in the outbox is with the sockets now, or waits for them in the driver.
    fn clear_outbox(&mut self) {
        let outbox = self.machine.outbox();
        let bytes = outbox.touched().iter().map(|touched| u64::from(touched.bytes)).sum();
        outbox.clear();
        self.shared.counters[usize::from(self.machine.id())].add(Counter::BytesSent, bytes);
    }

    fn handle_event(&mut self, now: Time, event: driver::Event) {
        match event {
            driver::Event::Accepted { listener, slot, peer } => {
                self.accept(now, ConnectionSlot::new(slot), peer, listener)
            }
            driver::Event::AcceptFailed { error, .. } => {
                let cause = io::Error::from_raw_os_error(error);
                tracing::warn!(%cause, "a connection could not be accepted");
            }
            driver::Event::Received { slot, buffer } => self.receive(now, ConnectionSlot::new(slot), buffer),
            driver::Event::Hangup { slot, cause } => {
                let slot = ConnectionSlot::new(slot);
                let hangup = match cause {
                    driver::Hangup::Eof => Hangup::Closed,
                    driver::Hangup::Reset => Hangup::Reset,
                    driver::Hangup::Error(error) => Hangup::Error(error),
                    driver::Hangup::BacklogFull => Hangup::BacklogFull,
                };
                // Bytes that came before it may be held.
                if self.net.hold_hangup(slot.get(), cause) {
                    return;
                }
                self.machine.handle_hangup(now, slot, hangup);
                self.carry_out(now, Some(slot));
            }
            driver::Event::Backlogged { slot, bytes, taken } => {
                let slot = ConnectionSlot::new(slot);
                self.machine.handle_backlog(now, slot, Backlog { bytes: bytes as usize, taken });
                self.carry_out(now, None);
            }
            driver::Event::Drained { slot } => {
                let slot = ConnectionSlot::new(slot);
                self.machine.handle_drained(now, slot);
                self.carry_out(now, None);
            }
            // Mails and `Control` are looked at every turn.
            driver::Event::Woken => {}
            driver::Event::Readable { .. } => {
                self.verdicts.look();
                self.look_for_checkpoint();
            }
        }
    }

    fn accept(&mut self, now: Time, slot: ConnectionSlot, peer: SocketAddr, listener: u16) {
        // A load balancer is asked for its client's address, once it has named it.
        let counts = peer != driver::UNIX_PEER && !self.layers.is_balancer(listener, peer.ip());
        if counts && !(self.lets_in(now, peer.ip()) && self.begin_handshake(now, slot, peer.ip())) {
            return self.close_at_once(slot);
        }
        if let Err(limit) = self.control.admit(&self.shared.config, listener) {
            self.at_gate.handshakes.end(slot);
            let event = Event::ConnectionRefused { limit, peer, listener };
            self.shared.counters[usize::from(self.machine.id())].add(Counter::LimitConnections, 1);
            self.log.write(now, &event);
            return self.close_at_once(slot);
        }
        self.count_in(slot, listener);
        self.layers.open(slot, listener, peer);
        if counts {
            self.begin_visit(now, slot, peer.ip());
        }
        self.machine.handle_open(now, slot, peer, listener, false);
        self.carry_out(now, None);
    }

    /// Closes a connection that the machine never sees.
    fn close_at_once(&mut self, slot: ConnectionSlot) {
        let counters = &self.shared.counters[usize::from(self.machine.id())];
        counters.add(Counter::ConnectionsOpened, 1);
        counters.add(Counter::ConnectionsClosed, 1);
        self.net.abort(slot.get());
    }

    fn receive(&mut self, now: Time, slot: ConnectionSlot, buffer: Buffer) {
        if self.net.is_held(slot.get()) || self.hold_back(now, slot) {
            self.net.hold(slot.get(), buffer, 0);
            return;
        }
        if let Some(buffer) = self.receive_layered(now, slot, buffer) {
            self.machine.handle_bytes(now, slot, self.net.bytes(&buffer));
            self.net.give_back(buffer);
        }
        self.carry_out(now, Some(slot));
        if self.reads_once(slot) {
            self.net.receive_once(slot.get());
        }
    }

    /// Is the connection read single shot by single shot, and due for the next one? One whose handshake waits
    /// for the next turn has nothing armed, since it may still have to move; and one whose login is checked
    /// waits for the answer.
    fn reads_once(&self, slot: ConnectionSlot) -> bool {
        self.machine.is_handshaking(slot)
            && !self.machine.awaits_verdict(slot)
            && !self.net.is_held(slot.get())
    }

    /// Carries the machine's effects out. `cause`: the connection whose bytes brought them about.
    fn carry_out(&mut self, now: Time, cause: Option<ConnectionSlot>) {
        let mut effects = self.machine.take_effects();
        for effect in effects.drain(..) {
            match effect {
                Effect::Mail { to, mail } => self.send(now, to, ShardMessage::Mail(mail), cause),
                Effect::Forward(forward) => {
                    for (to, mail) in self.machine.forward_now(*forward) {
                        self.send(now, to, ShardMessage::Mail(mail), cause);
                    }
                }
                Effect::Close { slot } => {
                    self.count_out(slot);
                    self.end_visit(now, slot);
                    self.verdicts.forget(slot);
                    self.at_gate.handshakes.end(slot);
                    self.layers.close(slot);
                    self.net.close(slot.get());
                }
                Effect::Stream { slot } => {
                    self.at_gate.handshakes.end(slot);
                    self.net.receive_stream(slot.get());
                }
                Effect::HandOver { slot, to, handover } => self.hand_over(now, slot, to, handover),
                Effect::Check { slot, serial, login } => self.check_login(now, slot, serial, login),
                Effect::LoginFailed { slot, serial, peer } => {
                    // Its CONNECT is finished.
                    self.at_gate.handshakes.end(slot);
                    self.at_gate.failed.push(FailedLogin { slot, serial, peer });
                }
                Effect::LoginSucceeded { slot, peer } => self.note_success(now, slot, peer),
                Effect::Pause { slot } => self.net.pause(slot.get()),
                // By now there may be a reason of our own.
                Effect::Resume { slot } if self.machine.is_paused(slot) => {}
                Effect::Resume { slot } => self.net.resume(slot.get()),
                Effect::Event(event) => self.log.write(now, &event),
            }
        }
        self.machine.recycle_effects(effects);
        if !self.at_gate.failed.is_empty() {
            self.judge_failures(now);
        }
    }

    fn count_in(&mut self, slot: ConnectionSlot, listener: u16) {
        if self.shared.config.listeners[usize::from(listener)].connections.is_some() {
            self.counted.insert(slot, listener);
        }
    }

    fn count_out(&mut self, slot: ConnectionSlot) {
        self.control.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(listener) = self.counted.remove(&slot) {
            self.control.open_by_listener[usize::from(listener)].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Stops reading from a connection; false if it was stopped for this reason before.
    fn pause(&mut self, slot: ConnectionSlot, why: HoldBack) -> bool {
        let is_new = self.machine.hold_back(slot, why);
        if is_new {
            self.net.pause(slot.get());
        }
        is_new
    }

    /// Reads from it again, unless there is another reason not to.
    fn resume(&mut self, now: Time, slot: ConnectionSlot, why: HoldBack) {
        if self.machine.let_go(now, slot, why) {
            self.net.resume(slot.get());
        }
    }
}
