//! The machine of one shard. Its input is bytes, mails and the clock. Its output is bytes, mails and effects
//! for the driver.
//!
//! A [`Shard`] owns a part of the connections, the sessions whose client identifiers hash to it, a topic
//! index of their subscriptions, and the retained messages whose topic names hash to it. It uses no sockets,
//! threads or clocks: the ring driver (`run`) and the simulator run the same code.
//!
//! # Order of calls
//! Give it all input that is ready (`handle_*`), then call [`Shard::handle_turn`]. After each call take the mails with
//! [`Shard::next_mail`], then the effects with [`Shard::take_effects`], and carry them out in order, but `Close` only
//! after the outbox has been flushed. At the end of a turn give the outbox to the driver and clear it.

mod components;
mod counters;
mod event;
pub mod explain;
mod fanout;
mod flows;
mod mail;
mod outcome;
pub mod questions;
mod settings;
mod shared;
#[cfg(all(test, feature = "runtime"))]
mod tests;
pub mod trace;
#[cfg(all(test, feature = "runtime"))]
#[path = "../../tests/world/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "the conformance scenarios use more of it")]
mod world;

pub use components::budget::TurnBudget;
pub use components::connections::{Backlog, BytesBelow, HoldBack};
pub use components::sys::counted;
pub use components::{interest, outbox, retained};
pub use counters::{Counter, Counters, HANDSHAKES, HISTOGRAM_MICROS, Histogram, KindCounters, Tally};
pub use event::{Away, EndCause, Event, Hangup, LOGGED_CHARACTERS_MAX, Limit, QueueBound, Traffic};
pub use flows::memory::MemoryRelief;
pub use flows::refuse::REFUSALS_WAITING_MAX;
pub use flows::source::source_bytes;
pub use mail::{GroupMember, Mail};
pub use outcome::{Outcome, Receipt};
pub use settings::{BrokerSettings, Entrance, LISTENER_NUMBERS_MAX, SettingsFull};
pub use shared::Shared;

use crate::base::{ConnectionSlot, Random, ShardId, Time};
use crate::broker::interest::InterestCounts;
use crate::broker::outbox::Outbox;
use crate::broker::questions::{Inquiry, InquiryProgress};
use crate::broker::retained::{Retained, RetainedLimits};
use crate::mqtt::Reason;
use crate::policy::access::Login;
use crate::session::Message;
use crate::settings::ShardShares;
use components::access::AccessRules;
use components::behind::Behind;
use components::budget::Budget;
use components::connections::Connections;
use components::convoys::Convoys;
use components::drain::Drain;
use components::durability::Durability;
use components::effects::Effects;
use components::groups::Groups;
use components::interest::Interest;
use components::loads::Loads;
use components::memory::{Memory, MemoryMax};
use components::outgoing::Outgoing;
use components::queries::RetainedQueries;
use components::rates::Lanes;
use components::replies::Replies;
use components::requests::Requests;
use components::restart::Restart;
use components::sent::Sent;
use components::sessions::Sessions;
use components::stamps::Stamps;
use components::subscriptions::Subscriptions;
use components::sys::Sys;
use components::timers::Timers;
use components::traces::Traces;
use components::turn::Turn;
use components::unrecorded::Unrecorded;
use std::net::SocketAddr;
use std::sync::Arc;

/// An action that the shard requests from the driver.
#[derive(Debug)]
pub enum Effect {
    /// Close the connection after everything queued for it is sent. Its slot then belongs to the driver
    /// again.
    Close {
        /// The connection.
        slot: ConnectionSlot,
    },
    /// The connection is accepted: read it as a stream from now on.
    Stream {
        /// The connection.
        slot: ConnectionSlot,
    },
    /// The home of the client identifier is another shard: move the socket there, with the bytes that were
    /// read and not used.
    HandOver {
        /// The connection. Its slot then belongs to the driver again.
        slot: ConnectionSlot,
        /// The client identifier's home.
        to: ShardId,
        /// The state of the connection.
        handover: Handover,
    },
    /// Check a login, and pass the result to [`Shard::handle_verdict`]. Do not read from the connection
    /// meanwhile.
    Check {
        /// The connection.
        slot: ConnectionSlot,
        /// Distinguishes it from another connection in the same slot.
        serial: u32,
        /// The login.
        login: Box<Login>,
    },
    /// A login was wrong: call [`Shard::handle_penalty`] with the time that its refusal must wait. Do not
    /// read from the connection meanwhile.
    LoginFailed {
        /// The connection.
        slot: ConnectionSlot,
        /// Distinguishes it from another connection in the same slot.
        serial: u32,
        /// The address of the peer.
        peer: SocketAddr,
    },
    /// A login was correct.
    LoginSucceeded {
        /// The connection.
        slot: ConnectionSlot,
        /// The address of the peer.
        peer: SocketAddr,
    },
    /// Stop reading from the connection.
    Pause {
        /// The connection.
        slot: ConnectionSlot,
    },
    /// Read from the connection again.
    Resume {
        /// The connection.
        slot: ConnectionSlot,
    },
    /// Report an event to the operator.
    Event(Event),
}

/// A connection that moves to another shard.
#[derive(Debug)]
pub struct Handover {
    /// The address of the peer.
    pub peer: SocketAddr,
    /// The number of the listener that accepted it.
    pub listener: u16,
    /// The user name from its certificate.
    pub user: Option<Box<str>>,
    /// Everything that the client has sent, beginning with CONNECT.
    pub bytes: Vec<u8>,
}

/// A rule that the peer broke, with the reason code for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The reason code of DISCONNECT (5.0).
    pub reason: Reason,
    /// The cause in words, for the log.
    pub cause: &'static str,
}

fn retained_limits(shares: ShardShares) -> RetainedLimits {
    RetainedLimits { messages: shares.retained_messages, bytes: shares.retained_bytes }
}

fn memory_max(settings: &BrokerSettings, shares: ShardShares) -> MemoryMax {
    MemoryMax { of_all: settings.memory_bytes_max(), of_queues: shares.queue_bytes }
}

/// The number of slots that a turn checks after a new list of banned addresses. It takes some tenths of a
/// millisecond.
const SLOTS_A_TURN: u32 = 256;

/// The machine of one shard. Its components do not depend on each other. The flows define the order of
/// actions.
pub struct Shard {
    id: ShardId,
    shared: Arc<Shared>,
    settings: Arc<BrokerSettings>,
    random: Random,
    // Connections and sessions.
    connections: Connections,
    sessions: Sessions,
    access: AccessRules,
    lanes: Lanes,
    // Subscriptions and interest.
    subscriptions: Subscriptions,
    interest: Interest,
    requests: Requests,
    groups: Groups,
    // Stored messages.
    retained: Retained<Message>,
    queries: RetainedQueries,
    stamps: Stamps,
    durability: Durability,
    unrecorded: Unrecorded,
    restart: Restart,
    // Waiting work.
    replies: Replies,
    timers: Timers,
    behind: Behind,
    memory: Memory,
    budget: Budget,
    turn: Turn,
    convoys: Convoys,
    drain: Drain,
    // Output.
    outbox: Outbox,
    recent: Option<fanout::RecentMessage>,
    sent: Sent,
    outgoing: Outgoing,
    effects: Effects,
    sys: Sys,
    // What an operator looks at.
    traces: Traces,
    loads: Loads,
}

impl Shard {
    /// An empty shard. `seed` is the only source of randomness: assigned client identifiers and the keys of
    /// hash tables depend on it, but nothing that must not be guessed.
    pub fn new(id: ShardId, shared: Arc<Shared>, interest: Option<InterestCounts>, seed: u64) -> Shard {
        let settings = Arc::clone(&shared.start);
        let shares = settings.shares(shared.shards());
        Shard {
            id,
            random: Random::new(seed),
            connections: Connections::default(),
            sessions: Sessions::new(id, seed),
            access: AccessRules::new(settings.config.listeners.len()),
            lanes: Lanes::new(settings.newest_terms(), shared.shards()),
            subscriptions: Subscriptions::new(seed, shares.subscriptions),
            interest: Interest::new(interest, seed),
            requests: Requests::default(),
            groups: Groups::new(seed ^ 2),
            retained: Retained::new(retained_limits(shares)),
            queries: RetainedQueries::default(),
            stamps: Stamps::new(id),
            durability: Durability::off(id, shared.shards(), seed ^ 6),
            unrecorded: Unrecorded::default(),
            restart: Restart::default(),
            replies: Replies::new(shared.shards(), seed ^ 5),
            timers: Timers::new(),
            behind: Behind::default(),
            memory: Memory::new(memory_max(&settings, shares)),
            budget: Budget::default(),
            turn: Turn::default(),
            drain: Drain::default(),
            convoys: Convoys::new(seed ^ 6),
            outbox: Outbox::new(),
            recent: None,
            sent: Sent::default(),
            outgoing: Outgoing::new(id),
            effects: Effects::default(),
            sys: Sys::default(),
            traces: Traces::default(),
            loads: Loads::default(),
            settings,
            shared,
        }
    }

    /// Call this once, before anything else.
    pub fn handle_start(&mut self, now: Time) {
        self.renew(1);
        self.start_timers(now);
    }

    /// The driver has a new connection in `slot`, which was accepted by the listener with this number.
    /// `adopted`: another shard has read its CONNECT and found that its home is this shard.
    pub fn handle_open(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        peer: SocketAddr,
        listener: u16,
        adopted: bool,
    ) {
        self.durability.set_now(now);
        self.open(now, slot, peer, listener, adopted);
        self.settle(now);
    }

    /// A load balancer has reported the address of the client.
    pub fn handle_peer(&mut self, slot: ConnectionSlot, peer: SocketAddr) {
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.peer = peer.into();
        }
    }

    /// Bytes were received from a connection. If the connection is already closed, they are ignored.
    pub fn handle_bytes(&mut self, now: Time, slot: ConnectionSlot, bytes: &[u8]) {
        self.durability.set_now(now);
        self.read(now, slot, bytes);
        self.settle(now);
    }

    /// The peer has ended the connection.
    pub fn handle_hangup(&mut self, now: Time, slot: ConnectionSlot, hangup: Hangup) {
        self.durability.set_now(now);
        self.hang_up(now, slot, hangup);
        self.settle(now);
    }

    /// The layers below MQTT received bytes that have produced no bytes of MQTT yet.
    pub fn handle_bytes_below(&mut self, now: Time, slot: ConnectionSlot, bytes: BytesBelow) {
        self.read_below(now, slot, bytes);
    }

    /// The layers below MQTT have answered the client with this number of bytes.
    pub fn handle_answer_below(&mut self, slot: ConnectionSlot, bytes: usize) {
        self.note_asked(slot, bytes);
    }

    /// The socket has not taken everything. Call this each time that the backlog has grown or shrunk.
    pub fn handle_backlog(&mut self, now: Time, slot: ConnectionSlot, backlog: Backlog) {
        self.note_backlog(now, slot, backlog);
    }

    /// The socket has taken everything.
    pub fn handle_drained(&mut self, now: Time, slot: ConnectionSlot) {
        self.durability.set_now(now);
        self.note_drained(now, slot);
        self.settle(now);
    }

    /// A mail from another shard has arrived.
    pub fn handle_mail(&mut self, now: Time, from: ShardId, mail: Mail) {
        self.durability.set_now(now);
        self.deliver_mail(now, from, mail);
        self.settle(now);
    }

    /// Works on the question of an operator. Visits at most `visits` sessions, subscriptions or messages.
    pub fn answer(&mut self, now: Time, inquiry: &mut Inquiry, visits: u32) -> InquiryProgress {
        self.durability.set_now(now);
        let progress = self.look_into(now, inquiry, visits);
        self.settle(now);
        progress
    }

    /// The clock has moved.
    pub fn handle_time(&mut self, now: Time) {
        self.durability.set_now(now);
        self.expire_timers(now);
        self.settle(now);
    }

    /// When `handle_time` must be called next.
    pub fn next_deadline(&self) -> Option<Time> {
        self.timers.next_deadline()
    }

    /// Returns whether there are effects for the driver.
    #[inline]
    pub fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// The effects that the driver must carry out, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        self.effects.take()
    }

    /// Takes an old list for reuse, so that no turn must allocate one.
    pub fn recycle_effects(&mut self, effects: Vec<Effect>) {
        self.effects.recycle(effects);
    }

    /// Frees memory that only a larger number of connections needed. Call it in a quiet moment, because it
    /// visits every slot.
    pub fn give_memory_back(&mut self) {
        let used = self.connections.give_memory_back();
        self.sessions.give_memory_back();
        self.timers.give_memory_back();
        self.outbox.give_memory_back(used);
        self.loads.give_memory_back(used);
        self.subscriptions.give_memory_back();
        self.turn.give_memory_back();
        self.convoys.give_memory_back();
        self.behind.give_memory_back();
        self.effects.give_memory_back();
        self.outgoing.give_memory_back();
        self.replies.give_memory_back();
        self.durability.give_memory_back();
        self.groups.give_memory_back();
        self.interest.give_memory_back();
        self.access.give_memory_back();
        self.lanes.give_memory_back();
    }

    /// The bytes that clients make the shard keep. It is precise enough to see that most have gone.
    pub fn kept_bytes(&self) -> usize {
        self.memory.account().total()
    }

    /// The output to the connections.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// The number of connections in any stage.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// The number of the shard.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Handles mails of the shard to itself before the call returns.
    fn settle(&mut self, now: Time) {
        if self.outgoing.has_own() {
            self.deliver_loopback(now);
        }
        self.durability.seal_if_long();
        self.note_journal();
    }

    fn deliver_loopback(&mut self, now: Time) {
        while let Some(mail) = self.outgoing.pop_own() {
            self.deliver_mail(now, self.id, mail);
        }
    }

    fn post(&mut self, to: ShardId, mail: Mail) {
        self.outgoing.post(to, mail);
    }

    fn report(&mut self, event: Event) {
        match (&event, event.counter()) {
            (Event::Refused { violation, .. }, _) => {
                self.kinds().refused.add(usize::from(violation.reason.code()), 1);
            }
            (Event::PublishRefused { violation, rule, .. }, _) => {
                self.kinds().publishes_refused.add(usize::from(violation.reason.code()), 1);
                self.kinds().denied.add(0, u64::from(rule.is_some()));
            }
            (_, Some(counter)) => self.count(counter, 1),
            (_, None) => {}
        }
        if self.traces.is_on() {
            self.trace_event(&event);
        }
        self.effects.push(Effect::Event(event));
    }

    fn kinds(&self) -> &KindCounters {
        &self.shared.counters[usize::from(self.id)].kinds
    }

    fn count(&self, counter: Counter, by: u64) {
        self.shared.counters[usize::from(self.id)].add(counter, by);
    }

    fn other_shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        let id = self.id;
        (0..ShardId::try_from(self.shared.shards()).expect("at most 128 shards"))
            .filter(move |&shard| shard != id)
    }
}
