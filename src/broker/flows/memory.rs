//! The actions of a shard when memory is short.
//!
//! The account ([`MemoryAccount`]) counts the memory that clients make all shards keep, and
//! `limits.memory_bytes` is the bound. From three quarters of it on, memory is *short*: QoS 0 messages for
//! slow clients are dropped. From seven eighths on, it is *tight*: packets in progress are not read any
//! further, and new state is refused. When it is *full*, or has been tight for a while, the connection that
//! holds the most is ended, one after another. Nothing that was acknowledged is given up.

use crate::base::ConnectionSlot;
use crate::base::{ConnectionKey, Time};
use crate::base::{MEMORY_KINDS, MemoryKind, allocated};
use crate::broker::components::connections::Connection;
use crate::broker::components::connections::PAUSED_BY_MEMORY;
use crate::broker::components::connections::Stage;
use crate::broker::components::memory::Worst;
use crate::broker::components::timers::Timer;
use crate::broker::settings::Entrance;
use crate::broker::{Counter, EndCause, Event, Limit, Shard, Violation};
use crate::mqtt::Reason;
use crate::session::Session;

/// An action because of `limits.memory_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryRelief {
    /// A client without a session, or with a will, is refused.
    Connect,
    /// A new subscription is refused.
    Subscribe,
    /// A retained message is refused that is larger than the present one.
    Retain,
    /// A packet in progress is not read any further.
    Read,
    /// The connection that holds the most is ended.
    End,
}

/// A packet in progress is read up to this size even if memory is tight.
const PARTIAL_BYTES_FREE: usize = 16 * 1024;
/// Data before CONNACK, which is a TLS handshake or a CONNECT, is kept up to this size even if memory is
/// full.
const HANDSHAKE_BYTES_FREE: usize = 4 * 1024;
/// Up to this number of paused connections are listed before those that have ended are removed.
const PAUSED_MIN: usize = 64;
/// While memory is short, a slow client gets no QoS 0 messages when its backlog has this size.
pub(in crate::broker) const BACKLOG_BYTES_SHORT: usize = 64 * 1024;
/// A connection that holds less is never ended to free memory.
const WORST_BYTES_MIN: usize = 64 * 1024;
/// Memory that stays tight for this time is freed as if it were full.
const TIGHT_MILLIS_MAX: u64 = 5000;
/// While memory is tight, a shard checks it at least this often.
const WATCH_MILLIS: u64 = 100;
/// The delay before a new search after one that found nothing.
const REST_MILLIS: u64 = 1000;
/// The number of slots that a turn checks, which takes about 50 µs.
const SLOTS_A_TURN: u32 = 1024;

/// A session with its slot and its places in the directory, without the client identifier.
const SESSION_BYTES: usize = allocated(size_of::<Session>()) + 64;
/// A connection with its slots in the machine, outbox and driver.
const CONNECTION_BYTES: usize = allocated(size_of::<Connection>()) + 116;
/// The TLS state of a connection, during and after the handshake (measured: 2,500 connections of each kind).
const TLS_BYTES: usize = 2800;
/// A QoS 2 packet identifier in its list and table.
const HELD_BYTES: usize = 24;
/// A topic filter's place in a list or an index, without its text.
const FILTER_BYTES: usize = 80;

const NO_ROOM_TO_CONNECT: Violation = Violation {
    reason: Reason::QuotaExceeded,
    cause: "limits.memory_bytes is reached, and the data before CONNACK is too long to be kept",
};

const THE_WORST: Violation = Violation {
    reason: Reason::QuotaExceeded,
    cause: "limits.memory_bytes is reached, and this connection holds the most",
};

impl Shard {
    /// Whether less than an eighth of `limits.memory_bytes` is left.
    pub(in crate::broker) fn is_memory_tight(&self) -> bool {
        self.memory.is_tight()
    }

    /// Whether less than a quarter of `limits.memory_bytes` is left. The backlogs of slow clients stay below
    /// that, so that they alone never affect others.
    pub(in crate::broker) fn is_memory_short(&self) -> bool {
        self.memory.is_short()
    }

    /// Whether the messages that are kept for sessions fill this shard's part of `limits.queue_bytes_total`.
    pub(in crate::broker) fn is_message_memory_full(&self) -> bool {
        self.memory.queues_excess(0) > 0
    }

    /// Reports an action because of the bound.
    pub(in crate::broker) fn report_memory(&mut self, relief: MemoryRelief, client: &str) {
        self.report(Event::LimitReached { limit: Limit::Memory(relief), client: client.into() });
    }

    pub(in crate::broker) fn note_session(&self, client_id: &str, begins: bool) {
        let bytes = SESSION_BYTES + allocated(client_id.len());
        if begins {
            self.memory.account().add(MemoryKind::Sessions, bytes);
        } else {
            self.memory.account().subtract(MemoryKind::Sessions, bytes);
        }
    }

    /// Counts more QoS 2 packet identifiers that are held.
    pub(in crate::broker) fn note_held(&self, count: usize) {
        self.memory.account().add(MemoryKind::Sessions, count * HELD_BYTES);
    }

    pub(in crate::broker) fn note_released(&self, count: usize) {
        self.memory.account().subtract(MemoryKind::Sessions, count * HELD_BYTES);
    }

    pub(in crate::broker) fn note_connection(&self, entrance: Entrance, begins: bool) {
        let bytes = CONNECTION_BYTES + if self.settings.is_secured(entrance) { TLS_BYTES } else { 0 };
        if begins {
            self.memory.account().add(MemoryKind::Sessions, bytes);
        } else {
            self.memory.account().subtract(MemoryKind::Sessions, bytes);
        }
    }

    pub(in crate::broker) fn note_subscription(&self, filter: &str, begins: bool) {
        let bytes = self.subscription_bytes(filter);
        if begins {
            self.memory.account().add(MemoryKind::Subscriptions, bytes);
        } else {
            self.memory.account().subtract(MemoryKind::Subscriptions, bytes);
        }
    }

    /// The size of a subscription on this shard. Its text is in the session and in the index. A wildcard
    /// filter is also in the list of those that other shards know.
    fn subscription_bytes(&self, filter: &str) -> usize {
        let is_listed = self.shared.shards() > 1 && filter.bytes().any(|byte| matches!(byte, b'+' | b'#'));
        (2 + usize::from(is_listed)) * (FILTER_BYTES + allocated(filter.len()))
    }

    /// Counts a wildcard filter of another shard that was added to the index or removed.
    pub(in crate::broker) fn note_foreign_filter(&self, filter: &str, begins: bool) {
        let bytes = FILTER_BYTES + allocated(filter.len());
        if begins {
            self.memory.account().add(MemoryKind::Subscriptions, bytes);
        } else {
            self.memory.account().subtract(MemoryKind::Subscriptions, bytes);
        }
    }

    /// A packet in progress has grown. Decides whether the connection may be read further, and, before
    /// CONNACK, whether it may stay.
    pub(in crate::broker) fn check_partial(&mut self, now: Time, slot: ConnectionSlot) {
        if !self.is_memory_tight() {
            return;
        }
        let Some(connection) = self.connections.get(slot) else { return };
        if !matches!(connection.stage, Stage::Serving { .. }) {
            // A CONNECT has its own bounds, and is refused when it is complete.
            if self.memory.is_full() && connection.partial_bytes() > HANDSHAKE_BYTES_FREE {
                self.report_memory(MemoryRelief::Connect, "");
                self.end_connection(now, slot, EndCause::Violation(NO_ROOM_TO_CONNECT));
            }
            return;
        }
        let (bytes, key) = (connection.partial_bytes(), ConnectionKey { slot, serial: connection.serial });
        if bytes > PARTIAL_BYTES_FREE && self.pause(slot, PAUSED_BY_MEMORY) {
            let listed_max = 2 * self.connections.len() + PAUSED_MIN;
            self.memory.pause(key, listed_max, |key| self.connections.has(key));
            let client = self.client_of(slot);
            self.report_memory(MemoryRelief::Read, &client);
        }
    }

    /// The end of the turn checks memory.
    pub(in crate::broker) fn handle_memory_timer(&mut self) {
        self.memory.note_fired();
    }

    fn client_of(&self, slot: ConnectionSlot) -> Box<str> {
        self.connections.session_of(slot).map_or_else(|| "".into(), |session| self.client_for_log(session))
    }

    /// Called once per turn. Tells the other shards about this one's memory, reads theirs, and makes room if
    /// necessary.
    pub(in crate::broker) fn look_at_memory(&mut self, now: Time) {
        if self.memory.needs_telling() {
            self.tell_memory();
        }
        if self.shared.shards() > 1 {
            let counters = self.shared.counters.iter().enumerate();
            let of_others = counters.filter(|(shard, _)| *shard != usize::from(self.id));
            let others: u64 = of_others.map(|(_, counters)| counters.get(Counter::MemoryTotal)).sum();
            self.memory.set_others(usize::try_from(others).unwrap_or(usize::MAX));
        }
        if self.is_memory_tight() {
            self.make_room(now);
        } else if self.memory.was_tight() {
            self.end_tightness(now);
        }
    }

    /// The gauges are in the order of the kinds.
    fn tell_memory(&self) {
        let own = &self.shared.counters[usize::from(self.id)];
        own.set_all(Counter::MemoryMessages, &self.memory.account().of_all());
        own.set(Counter::MemoryTotal, self.memory.account().total() as u64);
    }

    /// Ends the measures, because there is room again.
    fn end_tightness(&mut self, now: Time) {
        for key in self.memory.end() {
            if self.connections.has(key) {
                self.unpause(now, key.slot, PAUSED_BY_MEMORY);
            }
        }
    }

    fn make_room(&mut self, now: Time) {
        let since = self.memory.note_tight(now);
        if self.memory.needs_timer() {
            // Another shard may make room, of which this shard gets no other notice.
            self.timers.schedule(now.after_millis(WATCH_MILLIS), Timer::Memory);
        }
        if self.must_make_room(now, since) {
            self.search_worst(now);
        }
    }

    /// Whether memory is full, or has been tight for a while, and this shard keeps at least its part.
    fn must_make_room(&self, now: Time, since: Time) -> bool {
        let for_long = now.millis_since(since) >= TIGHT_MILLIS_MAX;
        (self.memory.is_full() || for_long)
            && self.memory.account().total() >= self.memory.used() / self.shared.shards()
            && self.memory.may_search(now)
    }

    /// Whether the search for the connection that holds the most is in progress.
    pub(in crate::broker) fn is_making_room(&self) -> bool {
        self.memory.is_searching()
    }

    fn search_worst(&mut self, now: Time) {
        let from = self.memory.search_from();
        let to = from.saturating_add(SLOTS_A_TURN).min(self.connections.slots());
        for slot in (from..to).map(ConnectionSlot::new) {
            let bytes = self.held_by(slot);
            if let Some(key) = self.connections.key(slot).filter(|_| bytes >= WORST_BYTES_MIN) {
                self.memory.note_found(Worst { key, bytes });
            }
        }
        if to < self.connections.slots() {
            self.memory.search_on(to);
            self.turn.put_off();
            return;
        }
        let Some(worst) = self.memory.end_search(now.after_millis(REST_MILLIS)) else { return };
        // The connection may have ended during a long search.
        if self.connections.has(worst.key) {
            let client = self.client_of(worst.key.slot);
            self.report_memory(MemoryRelief::End, &client);
            self.end_connection(now, worst.key.slot, EndCause::Violation(THE_WORST));
        }
    }

    /// The number of bytes that the end of a connection frees.
    fn held_by(&self, slot: ConnectionSlot) -> usize {
        let Some(connection) = self.connections.get(slot) else { return 0 };
        let own = connection.backlog_bytes() + connection.partial_bytes() + connection.alias_bytes();
        let Stage::Serving { session, .. } = connection.stage else { return own };
        let state = self.sessions.session(session);
        if state.expiry_seconds > 0 {
            return own;
        }
        let inflight: usize = state.inflight.iter().map(|entry| entry.delivery.message.bytes()).sum();
        own + state.queue.bytes() + inflight + state.subscription_text_bytes()
    }
}

/// The gauge of a kind.
const fn gauge(kind: MemoryKind) -> Counter {
    match kind {
        MemoryKind::Messages => Counter::MemoryMessages,
        MemoryKind::Backlogs => Counter::MemoryBacklogs,
        MemoryKind::Partial => Counter::MemoryPartial,
        MemoryKind::Sessions => Counter::MemorySessions,
        MemoryKind::Subscriptions => Counter::MemorySubscriptions,
        MemoryKind::Wills => Counter::MemoryWills,
        MemoryKind::Aliases => Counter::MemoryAliases,
        MemoryKind::Retained => Counter::MemoryRetained,
    }
}

const _: () = {
    let mut at = 0;
    while at < MEMORY_KINDS.len() {
        assert!(gauge(MEMORY_KINDS[at]) as usize == gauge(MEMORY_KINDS[0]) as usize + at);
        at += 1;
    }
};
