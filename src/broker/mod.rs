//! The machine of one shard: bytes, mails and the clock come in; bytes, mails and orders to the
//! driver go out.
//!
//! A [`Shard`] owns a part of the connections, the sessions whose client identifiers hash to it,
//! a topic index of their subscriptions, and the retained messages whose topic names hash to it.
//! It knows nothing of sockets, threads or clocks: the ring driver (`run`) and the simulator
//! drive the same code.
//!
//! # Order of calls
//! Give it everything that is ready (`handle_*`), then call [`Shard::handle_turn`]. After each call take the mails with
//! [`Shard::next_mail`], then the effects with [`Shard::take_effects`], and carry them out in their order; `Close` after
//! the outbox has been flushed. At the end of a turn hand the outbox to the driver and clear it.

mod components;
mod counters;
mod event;
mod fanout;
mod flows;
mod mail;
mod outcome;
mod shared;
#[cfg(all(test, feature = "runtime"))]
mod tests;
#[cfg(all(test, feature = "runtime"))]
#[path = "../../tests/world/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "the conformance scenarios use more of it")]
mod world;

pub use components::budget::TurnBudget;
pub use components::connections::{Backlog, BytesBelow, HoldBack};
pub use components::sys::counted;
pub use components::{interest, outbox, retained};
pub use counters::{Counter, Counters};
pub use event::{Away, CHARACTERS_TOLD, EndCause, Event, Hangup, Limit, QueueBound, Traffic};
pub use flows::memory::MemoryRelief;
pub use flows::refuse::REFUSALS_WAITING_MAX;
pub use flows::source::source_bytes;
pub use mail::{GroupMember, Mail};
pub use outcome::{Outcome, Receipt};
pub use shared::Shared;

use crate::base::{ConnectionSlot, Random, ShardId, Time};
use crate::broker::interest::InterestCounts;
use crate::broker::outbox::Outbox;
use crate::broker::retained::{Retained, RetainedLimits};
use crate::mqtt::Reason;
use crate::policy::access::Login;
use crate::session::Message;
use components::access::AccessRules;
use components::behind::Behind;
use components::budget::Budget;
use components::connections::Connections;
use components::convoys::Convoys;
use components::durability::Durability;
use components::effects::Effects;
use components::groups::Groups;
use components::interest::Interest;
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
use components::turn::Turn;
use components::unrecorded::Unrecorded;
use std::net::SocketAddr;
use std::sync::Arc;

/// What the driver is to do.
#[derive(Debug)]
pub enum Effect {
    /// Close the connection once what was sent to it is out; its slot is the driver's again.
    Close {
        /// Connection.
        slot: ConnectionSlot,
    },
    /// The connection is accepted: read it as a stream from now on.
    Stream {
        /// Connection.
        slot: ConnectionSlot,
    },
    /// The client identifier lives on another shard: move the socket there, with the bytes that
    /// were read and not used.
    HandOver {
        /// Connection; its slot is the driver's again.
        slot: ConnectionSlot,
        /// The client identifier's home.
        to: ShardId,
        /// Who it is.
        handover: Handover,
    },
    /// Check a login, and tell the answer to [`Shard::handle_verdict`]. Nothing is to be read from the connection
    /// meanwhile.
    Check {
        /// Connection.
        slot: ConnectionSlot,
        /// Tells it from another one in the same slot.
        serial: u32,
        /// The login.
        login: Box<Login>,
    },
    /// A login was wrong: [`Shard::handle_penalty`] wants to know how long its refusal is to wait. Nothing is to be
    /// read from the connection meanwhile.
    LoginFailed {
        /// Connection.
        slot: ConnectionSlot,
        /// Tells it from another one in the same slot.
        serial: u32,
        /// Where from.
        peer: SocketAddr,
    },
    /// A login was right.
    LoginSucceeded {
        /// Connection.
        slot: ConnectionSlot,
        /// Where from.
        peer: SocketAddr,
    },
    /// Stop reading from the connection.
    Pause {
        /// Connection.
        slot: ConnectionSlot,
    },
    /// Read from it again.
    Resume {
        /// Connection.
        slot: ConnectionSlot,
    },
    /// Tell the operator.
    Event(Event),
}

/// A connection that moves to another shard.
#[derive(Debug)]
pub struct Handover {
    /// The other side's address.
    pub peer: SocketAddr,
    /// Number of the listener that it came in by.
    pub listener: u16,
    /// The name that its certificate gives it.
    pub user: Option<Box<str>>,
    /// Everything that the client has sent, CONNECT first.
    pub bytes: Vec<u8>,
}

/// A rule that the peer broke, and the reason code it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Reason code of DISCONNECT (5.0).
    pub reason: Reason,
    /// In words, for the log.
    pub cause: &'static str,
}

/// How many slots a turn looks at after a new list of the banned: some tenths of a millisecond.
const SLOTS_A_TURN: u32 = 256;

/// The machine of one shard: its components, which do not know each other. The flows have the order of what they do.
pub struct Shard {
    id: ShardId,
    shared: Arc<Shared>,
    random: Random,
    // Who is here.
    connections: Connections,
    sessions: Sessions,
    access: AccessRules,
    lanes: Lanes,
    // What they want.
    subscriptions: Subscriptions,
    interest: Interest,
    requests: Requests,
    groups: Groups,
    // What is kept.
    retained: Retained<Message>,
    queries: RetainedQueries,
    stamps: Stamps,
    durability: Durability,
    unrecorded: Unrecorded,
    restart: Restart,
    // What waits.
    replies: Replies,
    timers: Timers,
    behind: Behind,
    memory: Memory,
    budget: Budget,
    turn: Turn,
    convoys: Convoys,
    // What leaves.
    outbox: Outbox,
    recent: Option<fanout::Recent>,
    sent: Sent,
    outgoing: Outgoing,
    effects: Effects,
    sys: Sys,
}

impl Shard {
    /// An empty shard. `seed` is the only source of chance: assigned client identifiers and the
    /// keys of hash tables come from it, and nothing that must not be guessed.
    pub fn new(id: ShardId, shared: Arc<Shared>, interest: Option<InterestCounts>, seed: u64) -> Shard {
        let shares = shared.shares();
        let retained_max =
            RetainedLimits { messages: shares.retained_messages, bytes: shares.retained_bytes };
        Shard {
            id,
            random: Random::new(seed),
            connections: Connections::default(),
            sessions: Sessions::new(id, seed),
            access: AccessRules::new(shared.terms.len()),
            lanes: Lanes::new(&shared.terms, shared.shards()),
            subscriptions: Subscriptions::new(seed, shares.subscriptions),
            interest: Interest::new(interest, seed),
            requests: Requests::default(),
            groups: Groups::new(seed ^ 2),
            retained: Retained::new(retained_max),
            queries: RetainedQueries::default(),
            stamps: Stamps::new(id),
            durability: Durability::off(id, shared.shards(), seed ^ 6),
            unrecorded: Unrecorded::default(),
            restart: Restart::default(),
            replies: Replies::new(shared.shards(), seed ^ 5),
            timers: Timers::new(),
            behind: Behind::default(),
            memory: Memory::new(MemoryMax { of_all: shared.memory_bytes_max, of_queues: shares.queue_bytes }),
            budget: Budget::default(),
            turn: Turn::default(),
            convoys: Convoys::new(seed ^ 6),
            outbox: Outbox::new(),
            recent: None,
            sent: Sent::default(),
            outgoing: Outgoing::new(id),
            effects: Effects::default(),
            sys: Sys::default(),
            shared,
        }
    }

    /// Once, before anything else.
    pub fn handle_start(&mut self, now: Time) {
        self.renew(1);
        self.start_timers(now);
    }

    /// The driver has a connection under `slot`, which came in by the listener of that number. `adopted`:
    /// another shard has read its CONNECT and found that this one is its home.
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

    /// A load balancer says whose connection it is.
    pub fn handle_peer(&mut self, slot: ConnectionSlot, peer: SocketAddr) {
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.peer = peer.into();
        }
    }

    /// Bytes from a connection. Bytes for one that is closed already are ignored.
    pub fn handle_bytes(&mut self, now: Time, slot: ConnectionSlot, bytes: &[u8]) {
        self.durability.set_now(now);
        self.read(now, slot, bytes);
        self.settle(now);
    }

    /// The peer is gone.
    pub fn handle_hangup(&mut self, now: Time, slot: ConnectionSlot, hangup: Hangup) {
        self.durability.set_now(now);
        self.hang_up(now, slot, hangup);
        self.settle(now);
    }

    /// Bytes have come of which the layers below MQTT have made none of MQTT.
    pub fn handle_bytes_below(&mut self, now: Time, slot: ConnectionSlot, bytes: BytesBelow) {
        self.read_below(now, slot, bytes);
    }

    /// The layers below MQTT have answered the client with so many bytes.
    pub fn handle_answer_below(&mut self, slot: ConnectionSlot, bytes: usize) {
        self.note_asked(slot, bytes);
    }

    /// The socket has not taken everything. To be told each time that the rest has grown or shrunk.
    pub fn handle_backlog(&mut self, now: Time, slot: ConnectionSlot, backlog: Backlog) {
        self.note_backlog(now, slot, backlog);
    }

    /// The socket has taken everything.
    pub fn handle_drained(&mut self, now: Time, slot: ConnectionSlot) {
        self.durability.set_now(now);
        self.note_drained(now, slot);
        self.settle(now);
    }

    /// A mail from another shard.
    pub fn handle_mail(&mut self, now: Time, from: ShardId, mail: Mail) {
        self.durability.set_now(now);
        self.deliver_mail(now, from, mail);
        self.settle(now);
    }

    /// The clock has moved.
    pub fn handle_time(&mut self, now: Time) {
        self.durability.set_now(now);
        self.expire_timers(now);
        self.settle(now);
    }

    /// When `handle_time` is due next.
    pub fn next_deadline(&self) -> Option<Time> {
        self.timers.next_deadline()
    }

    /// What the driver is to do, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        self.effects.take()
    }

    /// Gives the list back, so that it is not allocated each turn.
    pub fn recycle_effects(&mut self, effects: Vec<Effect>) {
        self.effects.recycle(effects);
    }

    /// Gives the memory back that only a larger number of connections needed. For a quiet moment:
    /// it visits every slot.
    pub fn give_memory_back(&mut self) {
        let used = self.connections.give_memory_back();
        self.sessions.give_memory_back();
        self.timers.give_memory_back();
        self.outbox.give_memory_back(used);
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

    /// The bytes that clients make it keep: enough to see that most are gone.
    pub fn kept_bytes(&self) -> usize {
        self.memory.account().total()
    }

    /// What is to be sent.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Connections, whatever their stage.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Its number.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Mails to itself are handled before anyone looks.
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
        if let Some(counter) = event.counter() {
            self.count(counter, 1);
        }
        self.effects.push(Effect::Event(event));
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
