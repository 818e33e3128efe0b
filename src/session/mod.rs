//! Session state: what the broker keeps for a client identifier, connected or not.
//!
//! Owns subscriptions' names, the inflight messages of both directions, the queue, the will and
//! the replay of retained messages. Comes in: acknowledgements, messages to keep, the limits of
//! a new connection. Goes out: what to send next, in order. Keeps chapters 4.1, 4.3, 4.4 and
//! 4.9 of the standard; knows neither sockets nor other sessions.

mod filters;
mod held;
mod inflight;
mod kept;
mod losses;
mod message;
mod queue;
mod replay;
mod unsettled;
mod will;

pub use filters::Filters;
pub use inflight::{AckOutcome, Delivery, Extra, Inflight, InflightState, InflightWindow};
pub use kept::KeptMessage;
pub use losses::{LOSS_CAUSES, LossCause, LossTimes, Losses};
pub use message::{Message, Publication};
pub use queue::{Queue, QueueFull, QueueLimits};
pub use replay::{Replay, Replays};
pub use will::Will;

use crate::base::{Charged, LazyBox, RequestToken, TextHash, Ticket, TimerId};
use held::{Held, HeldList};
use replay::Overtaken;

/// Session expiry interval that never ends. `[MQTT5 §3.1.2.11.2]`
pub const NEVER_EXPIRES: u32 = u32::MAX;

/// The state of one session. What most sessions do not have most of the time takes eight bytes each.
#[derive(Debug)]
pub struct Session {
    /// Client identifier, unique in the broker.
    pub client_id: Box<str>,
    /// Seconds that the session outlives its connection; `NEVER_EXPIRES`: for ever.
    pub expiry_seconds: u32,
    /// Messages on their way to the client. `[MQTT5-4.9.0-1]`
    pub inflight: InflightWindow,
    /// Messages that wait for their turn.
    pub queue: Queue,
    /// QoS 2 messages received and not yet released. `[MQTT5-4.3.3-10]`
    held: LazyBox<HeldList>,
    /// A QoS 2 message has come on this connection.
    pub received_qos2: bool,
    /// QoS 1 messages in the window that this connection gets when the log has them: what comes later waits too.
    pub waiting_qos1: u16,
    /// Topic filters as the client wrote them, sorted.
    subscriptions: LazyBox<Filters>,
    /// The will of the present connection, or the one that waits for its delay.
    pub will: Option<Box<Charged<Will>>>,
    /// Runs while a will waits for its delay.
    pub will_timer: Option<TimerId>,
    /// Runs while the session is offline and may end.
    pub expiry_timer: Option<TimerId>,
    /// Retained messages still to be sent, a replay per subscription, in the order of SUBSCRIBE.
    pub replays: LazyBox<Replays>,
    /// Do the homes of this session's shared subscriptions take it for ready?
    pub group_ready: bool,
    /// A group at home on this shard takes it for not ready, since it could not take a message.
    pub passed_over: bool,
    /// The operator has been told that the queue is full; said again once it has been empty.
    pub full_reported: bool,
    /// When its last connection was let in, on the shard's clock.
    pub connected_at_seconds: u32,
    /// Messages that were lost for it.
    losses: Option<Box<Losses>>,
}

// With the allocator's header of eight bytes: 128.
const _: () = assert!(size_of::<Session>() <= 120);

/// A replay never remembers more live messages than this; beyond it the oldest is forgotten.
const OVERTAKEN_MAX: usize = 1024;

impl Session {
    /// A new, empty session.
    pub fn new(client_id: Box<str>) -> Session {
        Session {
            client_id,
            expiry_seconds: 0,
            inflight: InflightWindow::default(),
            queue: Queue::default(),
            connected_at_seconds: 0,
            held: LazyBox::default(),
            received_qos2: false,
            waiting_qos1: 0,
            subscriptions: LazyBox::default(),
            will: None,
            will_timer: None,
            expiry_timer: None,
            replays: LazyBox::default(),
            group_ready: true,
            passed_over: false,
            full_reported: false,
            losses: None,
        }
    }

    /// Messages that were lost for it since its client was told last; none: none were.
    pub fn losses(&self) -> Option<&Losses> {
        self.losses.as_deref()
    }

    /// To add to them.
    pub fn losses_mut(&mut self) -> &mut Losses {
        self.losses.get_or_insert_default()
    }

    /// The client was told; so many are left.
    pub fn leave_losses(&mut self, left: [u32; LOSS_CAUSES]) {
        if left == [0; LOSS_CAUSES] {
            self.losses = None;
        } else {
            self.losses_mut().leave(left);
        }
    }

    /// Is there nothing to be sent that waits, nor anything to be told about that?
    pub fn is_at_rest(&self) -> bool {
        self.queue.is_empty()
            && self.replays.is_empty()
            && !self.inflight.has_resends()
            && self.group_ready
            && !self.passed_over
            && !self.full_reported
    }

    /// Takes note of a received QoS 2 packet identifier that is not held, of how long its message's
    /// payload was, and of the ticket that its PUBREC waits for, if for one.
    pub fn hold(&mut self, packet_id: u16, payload_bytes: u32, ticket: Option<Ticket>) {
        self.received_qos2 = true;
        self.held.filled().insert(Held { packet_id, repeated: false, payload_bytes, ticket, refused: false });
    }

    /// The ticket that the PUBREC of a held identifier waits for, or waited for.
    pub fn held_ticket(&self, packet_id: u16) -> Option<Ticket> {
        self.held.get(packet_id)?.ticket
    }

    /// The message of a held identifier is refused. Until its PUBREC says so it stays held, or a repeat would be
    /// a new message. `[MQTT5-4.3.3-9]` `[MQTT5-4.3.3-10]` False if it was not held.
    pub fn refuse_held(&mut self, packet_id: u16) -> bool {
        let held = self.held.existing().and_then(|held| held.get_mut(packet_id));
        held.map(|held| held.refused = true).is_some()
    }

    /// Is the PUBREC of a held identifier one that refuses?
    pub fn is_held_refused(&self, packet_id: u16) -> bool {
        self.held.get(packet_id).is_some_and(|held| held.refused)
    }

    /// A held identifier came again without DUP; false if it is the same message as last time,
    /// as far as its length tells, and that was a repeat already.
    pub fn note_repeat(&mut self, packet_id: u16, payload_bytes: u32) -> bool {
        let held = self.held.existing().and_then(|held| held.get_mut(packet_id));
        let Some(held) = held else { return true };
        let same = std::mem::replace(&mut held.payload_bytes, payload_bytes) == payload_bytes;
        let repeated = std::mem::replace(&mut held.repeated, same);
        !(same && repeated)
    }

    /// Is this QoS 2 packet identifier waiting for its PUBREL?
    pub fn holds(&self, packet_id: u16) -> bool {
        self.held.get(packet_id).is_some()
    }

    /// PUBREL came, or a PUBREC that refuses has gone out. None if the identifier was not held; true if its message
    /// had been refused.
    pub fn release(&mut self, packet_id: u16) -> Option<bool> {
        self.held.existing().and_then(|held| held.remove(packet_id)).map(|held| held.refused)
    }

    /// QoS 2 messages received and not yet released.
    pub fn held_count(&self) -> usize {
        self.held.len()
    }

    /// Adds a filter; false if the session has it already.
    pub fn add_subscription(&mut self, filter: &str) -> bool {
        self.subscriptions.filled().insert(filter)
    }

    /// Does the session have this very filter? `[MQTT5-3.10.4-1]`
    pub fn has_subscription(&self, filter: &str) -> bool {
        self.subscriptions.contains(filter)
    }

    /// Bytes of all filters.
    pub fn subscription_text_bytes(&self) -> usize {
        self.subscriptions.bytes()
    }

    /// Removes a filter; false if there was none.
    pub fn remove_subscription(&mut self, filter: &str) -> bool {
        let removed = self.subscriptions.existing().is_some_and(|filters| filters.remove(filter));
        if removed && let Some(replays) = self.replays.existing() {
            replays.drop_filter(filter);
        }
        removed
    }

    /// All filters, sorted.
    pub fn subscriptions(&self) -> &Filters {
        &self.subscriptions
    }

    /// The filters of shared subscriptions.
    pub fn shared_subscriptions(&self) -> impl Iterator<Item = &str> {
        self.subscriptions.beginning_with("$share/")
    }

    /// Takes all filters out, for the end of the session.
    pub fn take_subscriptions(&mut self) -> Vec<Box<str>> {
        self.subscriptions.take().into_vec()
    }

    /// A live retained message went out, or into the queue, while retained messages are being replayed: an older
    /// one of the same topic must not follow it.
    pub fn note_overtaken(&mut self, topic_hash: TextHash, stamp: u64, is_queued: bool) {
        let Some(replay) = self.replays.newest() else { return };
        let note = Overtaken { topic_hash, stamp, replay, is_queued };
        let overtaken = &mut self.replays.filled().overtaken;
        // Each that is queued may be dropped by itself.
        let sent = overtaken.iter_mut().find(|have| have.topic_hash == topic_hash && !have.is_queued);
        match sent.filter(|_| !is_queued) {
            Some(have) if have.stamp > stamp => {}
            Some(have) => *have = note,
            None => {
                if overtaken.len() == OVERTAKEN_MAX {
                    overtaken.remove(0);
                }
                overtaken.push(note);
            }
        }
    }

    /// A live retained message that was noted does not go out: the queue has dropped it.
    pub fn forget_overtaken(&mut self, topic_hash: TextHash, stamp: u64) {
        let is_it = |note: &Overtaken| note.is_queued && note.topic_hash == topic_hash && note.stamp == stamp;
        if let Some(replays) = self.replays.existing() {
            replays.overtaken.retain(|note| !is_it(note));
        }
    }

    /// Has any live retained message gone out during the present replays?
    pub fn has_overtaken(&self) -> bool {
        !self.replays.overtaken.is_empty()
    }

    /// Has the client already seen a newer message of the topic than this retained one, or the
    /// very same since the subscription of the replay with this token? What it had seen before
    /// that, it gets again. `[MQTT5-3.3.1-9]`
    pub fn is_overtaken(&self, topic_hash: TextHash, stamp: u64, replay: RequestToken) -> bool {
        let mut notes = self.replays.overtaken.iter().filter(|note| note.topic_hash == topic_hash);
        notes.any(|note| note.stamp > stamp || (note.stamp == stamp && note.replay >= replay))
    }

    /// The replay with this token, if it is still under way.
    pub fn replay_mut(&mut self, token: RequestToken) -> Option<&mut Replay> {
        self.replays.existing()?.get_mut(token)
    }

    /// Ends a replay; forgets what it had to remember when it was the last.
    pub fn finish_replay(&mut self) {
        if let Some(replays) = self.replays.existing() {
            replays.pop_front();
        }
        if self.replays.is_empty() {
            self.drop_replays();
        }
    }

    /// Forgets the replays and what they had to remember.
    pub fn drop_replays(&mut self) {
        self.replays = LazyBox::default();
    }

    /// Prepares for a new connection: its own window, and everything unacknowledged to be sent
    /// again. Replays belong to the old connection's SUBSCRIBE and go. `[MQTT5-4.4.0-1]`
    pub fn resume(&mut self, window: u16) {
        self.inflight.reconnect(window);
        self.received_qos2 = false;
        self.waiting_qos1 = 0;
        self.drop_replays();
    }
}
