//! Session state: the data that the broker keeps for a client identifier, connected or not.
//!
//! A session has the names of its subscriptions, the inflight messages of both directions, the queue, the
//! will and the replay of retained messages. The inputs are acknowledgements, messages to keep, and the
//! limits of a new connection. The output is what to send next, in order. Implements chapters 4.1, 4.3, 4.4
//! and 4.9 of the standard. It knows no sockets and no other sessions.

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

use crate::base::{Charged, LazyBox, RequestToken, Stamp, TextHash, Ticket, TimerId};
use held::{Held, HeldList};
use replay::Overtaken;

/// A session expiry interval without an end. `[MQTT5 §3.1.2.11.2]`
pub const NEVER_EXPIRES: u32 = u32::MAX;

/// The state of one session. Parts that are usually empty take eight bytes each.
#[derive(Debug)]
pub struct Session {
    /// The client identifier. It is unique in the broker.
    pub client_id: Box<str>,
    /// How long the session outlives its connection, in seconds. `NEVER_EXPIRES`: without end.
    pub expiry_seconds: u32,
    /// Messages on their way to the client. `[MQTT5-4.9.0-1]`
    pub inflight: InflightWindow,
    /// Messages that wait for their turn.
    pub queue: Queue,
    /// QoS 2 messages received and not yet released. `[MQTT5-4.3.3-10]`
    held: LazyBox<HeldList>,
    /// Whether a QoS 2 message has come on this connection.
    pub received_qos2: bool,
    /// The number of QoS 1 messages in the window that this connection gets when the log has them. Later
    /// messages wait too.
    pub waiting_qos1: u16,
    /// The topic filters as the client has sent them, sorted.
    subscriptions: LazyBox<Filters>,
    /// The will of the current connection, or a will that waits for its delay.
    pub will: Option<Box<Charged<Will>>>,
    /// Runs while a will waits for its delay.
    pub will_timer: Option<TimerId>,
    /// Runs while the session is offline and may expire.
    pub expiry_timer: Option<TimerId>,
    /// The retained messages that are still to be sent, one replay per subscription, in the order of
    /// SUBSCRIBE.
    pub replays: LazyBox<Replays>,
    /// Whether the homes of this session's shared subscriptions treat it as ready.
    pub group_ready: bool,
    /// Whether a group on this shard treats it as not ready because it could not take a message.
    pub passed_over: bool,
    /// Whether a full queue was logged. It is logged again only after the queue was empty.
    pub full_reported: bool,
    /// The time at which its last connection was accepted, on the shard's clock.
    pub connected_at_seconds: u32,
    /// The messages that were lost for it.
    losses: Option<Box<Losses>>,
}

// With the allocator's header of eight bytes, this is 128.
const _: () = assert!(size_of::<Session>() <= 120);

/// The largest number of live messages that the replays remember. Beyond that, the oldest is forgotten.
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

    /// The losses since its client was last told. `None` if there are none.
    pub fn losses(&self) -> Option<&Losses> {
        self.losses.as_deref()
    }

    /// The losses, for adding to them.
    pub fn losses_mut(&mut self) -> &mut Losses {
        self.losses.get_or_insert_default()
    }

    /// Sets the losses that are left after the client was told.
    pub fn leave_losses(&mut self, left: [u32; LOSS_CAUSES]) {
        if left == [0; LOSS_CAUSES] {
            self.losses = None;
        } else {
            self.losses_mut().leave(left);
        }
    }

    /// Whether nothing waits to be sent, and no home shard has to be told that it is ready.
    pub fn is_at_rest(&self) -> bool {
        self.queue.is_empty()
            && self.replays.is_empty()
            && !self.inflight.has_resends()
            && self.group_ready
            && !self.passed_over
            && !self.full_reported
    }

    /// Records a received QoS 2 packet identifier that is not held, the length of its message's payload, and
    /// the ticket that its PUBREC waits for, if any.
    pub fn hold(&mut self, packet_id: u16, payload_bytes: u32, ticket: Option<Ticket>) {
        self.received_qos2 = true;
        self.held.filled().insert(Held { packet_id, repeated: false, payload_bytes, ticket, refused: false });
    }

    /// The ticket that the PUBREC of a held identifier waits for, or has waited for.
    pub fn held_ticket(&self, packet_id: u16) -> Option<Ticket> {
        self.held.get(packet_id)?.ticket
    }

    /// Refuses the message of a held identifier. It stays held until its PUBREC is sent, because a repeat
    /// would otherwise be a new message. `[MQTT5-4.3.3-9]` `[MQTT5-4.3.3-10]` Returns false if it was not
    /// held.
    pub fn refuse_held(&mut self, packet_id: u16) -> bool {
        let held = self.held.existing().and_then(|held| held.get_mut(packet_id));
        held.map(|held| held.refused = true).is_some()
    }

    /// Whether the PUBREC of a held identifier refuses its message.
    pub fn is_held_refused(&self, packet_id: u16) -> bool {
        self.held.get(packet_id).is_some_and(|held| held.refused)
    }

    /// Records that a held identifier has come again without DUP. Returns false if the message had the same
    /// length as last time, and last time was already a repeat.
    pub fn note_repeat(&mut self, packet_id: u16, payload_bytes: u32) -> bool {
        let held = self.held.existing().and_then(|held| held.get_mut(packet_id));
        let Some(held) = held else { return true };
        let same = std::mem::replace(&mut held.payload_bytes, payload_bytes) == payload_bytes;
        let repeated = std::mem::replace(&mut held.repeated, same);
        !(same && repeated)
    }

    /// Whether this QoS 2 packet identifier waits for its PUBREL.
    pub fn holds(&self, packet_id: u16) -> bool {
        self.held.get(packet_id).is_some()
    }

    /// Releases an identifier: PUBREL has come, or a PUBREC that refuses was sent. `None` if the identifier
    /// was not held. True if its message was refused.
    pub fn release(&mut self, packet_id: u16) -> Option<bool> {
        self.held.existing().and_then(|held| held.remove(packet_id)).map(|held| held.refused)
    }

    /// The number of QoS 2 messages that are received and not yet released.
    pub fn held_count(&self) -> usize {
        self.held.len()
    }

    /// Adds a filter. Returns false if the session already has it.
    pub fn add_subscription(&mut self, filter: &str) -> bool {
        self.subscriptions.filled().insert(filter)
    }

    /// Whether the session has exactly this filter. `[MQTT5-3.10.4-1]`
    pub fn has_subscription(&self, filter: &str) -> bool {
        self.subscriptions.contains(filter)
    }

    /// The total length of all filters, in bytes.
    pub fn subscription_text_bytes(&self) -> usize {
        self.subscriptions.bytes()
    }

    /// Removes a filter. Returns false if there was none.
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

    /// Takes all filters, for the end of the session.
    pub fn take_subscriptions(&mut self) -> Vec<Box<str>> {
        self.subscriptions.take().into_vec()
    }

    /// Records that a live retained message was sent or queued while retained messages are being replayed. An
    /// older message of the same topic must not follow it.
    pub fn note_overtaken(&mut self, topic_hash: TextHash, stamp: Option<Stamp>, is_queued: bool) {
        let Some(replay) = self.replays.newest() else { return };
        let note = Overtaken { topic_hash, stamp, replay, is_queued };
        let overtaken = &mut self.replays.filled().overtaken;
        // Each queued message may be dropped separately.
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

    /// Forgets a recorded live retained message that the queue has dropped.
    pub fn forget_overtaken(&mut self, topic_hash: TextHash, stamp: Option<Stamp>) {
        let is_it = |note: &Overtaken| note.is_queued && note.topic_hash == topic_hash && note.stamp == stamp;
        if let Some(replays) = self.replays.existing() {
            replays.overtaken.retain(|note| !is_it(note));
        }
    }

    /// Whether any live retained message was sent during the current replays.
    pub fn has_overtaken(&self) -> bool {
        !self.replays.overtaken.is_empty()
    }

    /// Whether the client has already received a newer message of the topic than this retained one, or
    /// exactly this one since the subscription of the replay with this token. It gets messages again that it
    /// has received before that. `[MQTT5-3.3.1-9]`
    pub fn is_overtaken(&self, topic_hash: TextHash, stamp: Option<Stamp>, replay: RequestToken) -> bool {
        let mut notes = self.replays.overtaken.iter().filter(|note| note.topic_hash == topic_hash);
        notes.any(|note| note.stamp > stamp || (note.stamp == stamp && note.replay >= replay))
    }

    /// The replay with this token, if it still runs.
    pub fn replay_mut(&mut self, token: RequestToken) -> Option<&mut Replay> {
        self.replays.existing()?.get_mut(token)
    }

    /// Ends a replay. After the last one, the recorded messages are forgotten.
    pub fn finish_replay(&mut self) {
        if let Some(replays) = self.replays.existing() {
            replays.pop_front();
        }
        if self.replays.is_empty() {
            self.drop_replays();
        }
    }

    /// Forgets the replays and the recorded messages.
    pub fn drop_replays(&mut self) {
        self.replays = LazyBox::default();
    }

    /// Prepares for a new connection: a new window, and everything unacknowledged will be sent again. Replays
    /// belong to the old connection's SUBSCRIBE and are dropped. `[MQTT5-4.4.0-1]`
    pub fn resume(&mut self, window: u16) {
        self.inflight.reconnect(window);
        self.received_qos2 = false;
        self.waiting_qos1 = 0;
        self.drop_replays();
    }
}
