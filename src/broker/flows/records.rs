//! The records of the machine for its log, and the state that it restores at a start.
//!
//! Only sessions that outlive their connection are in the log. They have a number there, `sid`, in their slot
//! of the directory. Other sessions leave no records.

use super::groups::member_of;
use crate::base::Time;
use crate::base::{ConnectionSlot, DeliveryNumber, MessageNumber, SessionNumber, SessionSlot, WillNumber};
use crate::base::{LogMark, RequestToken, Ticket};
use crate::broker::components::requests::Needed;
use crate::broker::components::restart::Restart;
use crate::broker::components::sessions::SessionEntry;
use crate::broker::components::timers::Timer;
use crate::broker::{Counter, Mail, Shard};
use crate::mqtt::TopicFilter;
use crate::mqtt::{PacketId, QoS};
use crate::session::KeptMessage;
use crate::session::{Delivery, Extra, QueueLimits, Will};
use crate::session::{Message, Publication};
use crate::store::{
    ALIVE_SECONDS, ClockMark, ClockReading, DeliveryKey, Journal, Record, Restored, RestoredDelivery,
    RestoredSession, RestoredState, StoredMessage, StoredWill, Wall,
};
use std::sync::Arc;

impl Shard {
    /// Opens the store. Call this once, before `handle_start`. From now on, changes that must survive go to
    /// this journal. `restored` is the state that has survived, and `wall` is the log's clock.
    ///
    /// When `is_restoring` is false for every shard, `handle_restored` must be called.
    pub fn open_store(&mut self, now: Time, journal: Journal, wall: Wall, restored: Restored) {
        self.durability.open(now, self.id, journal, wall, restored.next_number);
        self.restart = Restart::held(restored.wills);
        self.stamps.begin(restored.last_stamp);
        for message in restored.retained {
            self.restore_retained(message);
        }
        let token = self.requests.next_token();
        let mut needed = Needed::default();
        for session in restored.sessions {
            self.restore_session(now, session, token, &mut needed);
        }
        self.note_retained();
        self.start_sweep(now);
        self.await_restore(now, token, needed);
        self.settle(now);
    }

    fn restore_retained(&mut self, message: Message) {
        let topic: Box<str> = message.as_publication().topic.into();
        if self.retained.store(&topic, message).is_err() {
            // A bound may be lower than in the last run.
            self.count(Counter::LimitRetained, 1);
        }
    }

    fn restore_session(
        &mut self,
        now: Time,
        restored: RestoredSession,
        token: RequestToken,
        needed: &mut Needed,
    ) {
        let session = self.sessions.create(&restored.client_id);
        self.note_session(&restored.client_id, true);
        let entry = self.sessions.slot_mut(session);
        entry.sid = Some(restored.sid);
        entry.version = restored.version;
        let state = entry.session_mut();
        state.expiry_seconds = restored.expiry_seconds;
        state.group_ready = false;
        for (packet_id, payload_bytes) in restored.held {
            state.hold(packet_id.get(), u32::try_from(payload_bytes).unwrap_or(u32::MAX), None);
        }
        if !restored.losses.is_empty() {
            *state.losses_mut() = restored.losses;
        }
        let held = state.held_count();
        self.note_held(held);
        self.shared.restore_session();
        self.count(Counter::Sessions, 1);
        for delivery in restored.deliveries {
            self.restore_delivery(session, delivery);
        }
        for subscription in restored.subscriptions {
            let Ok(filter) = TopicFilter::parse(&subscription.filter) else { continue };
            let (options, id) = (subscription.options, subscription.subscription_id);
            if self.sessions.session_mut(session).add_subscription(filter.as_str()) {
                self.note_subscription(filter.as_str(), true);
                if filter.has_wildcard() {
                    self.subscriptions.add_patterns(filter.matching_part(), session);
                }
            }
            if filter.shared().is_some() {
                self.count(Counter::SharedSubscriptions, 1);
                needed.expect(1);
                let member = member_of(self.sessions.key(session), options, id);
                let home = self.group_home(filter.as_str());
                self.post(home, Mail::GroupJoin { filter: filter.as_str().into(), member, token });
                if home != self.id {
                    let member = self.sessions.key(session);
                    self.post(home, Mail::GroupReady { member, ready: false });
                }
                continue;
            }
            self.count(Counter::Subscriptions, 1);
            if self.subscriptions.add(filter.matching_part(), session, options, id) {
                self.acquire_interest(filter.matching_part());
            }
            self.announce(filter.matching_part(), token, needed);
        }
        self.restore_deadlines(now, session, restored.left_at_millis, restored.will);
    }

    fn restore_delivery(&mut self, session: SessionSlot, restored: RestoredDelivery) {
        let (ids, group) = (restored.subscription_ids, restored.group);
        let extra = (!ids.is_empty() || group.is_some())
            .then(|| Box::new(Extra { subscription_ids: ids.into(), group }));
        let delivery = Delivery {
            message: KeptMessage::new(restored.message, self.memory.account()),
            qos: restored.qos,
            retain: restored.retain,
            number: Some(restored.number),
            extra,
        };
        let state = self.sessions.session_mut(session);
        let (packet_id, released) = match restored.state {
            RestoredState::Queued => (None, false),
            RestoredState::Sent(packet_id) => (Some(packet_id), false),
            RestoredState::Released(packet_id) => (Some(packet_id), true),
        };
        match packet_id {
            Some(packet_id) => state.inflight.restore(packet_id, released, delivery),
            None => {
                // It was acknowledged, so a lower bound must not drop it.
                let bytes = delivery.message.bytes();
                let unlimited = QueueLimits { messages: usize::MAX, bytes: usize::MAX };
                if state.queue.push(delivery, unlimited).is_ok() {
                    self.note_queued(bytes.cast_signed(), 1);
                }
            }
        }
    }

    /// Whether the other shards do not yet know all that this one's sessions want.
    pub fn is_restoring(&self) -> bool {
        self.restart.is_restoring()
    }

    /// Takes frames for the log, if there are any. Call it at the end of a turn if no write is in progress.
    pub fn take_batch(&mut self) -> Option<crate::store::Batch> {
        let batch = self.durability.take_batch();
        self.note_journal();
        batch
    }

    /// Whether anything waits for the log to be durable.
    pub fn awaits_log(&self) -> bool {
        self.replies.await_log()
    }

    /// The number of bytes that wait to be taken.
    pub fn journal_bytes(&self) -> usize {
        self.durability.waiting_bytes()
    }

    /// The mark of everything recorded so far.
    pub fn journal_mark(&self) -> LogMark {
        self.durability.mark()
    }

    /// Whether this connection belongs to the machine.
    pub fn has_connection(&self, slot: ConnectionSlot) -> bool {
        self.connections.get(slot).is_some()
    }

    /// Records the clocks of the machine, at the start of the log and whenever the wall clock was set. Later
    /// times in the log depend on them.
    pub fn handle_clock(&mut self, now: Time, reading: ClockReading) {
        self.durability.set_now(now);
        self.durability
            .record(&Record::Clock(ClockMark { at_millis: self.durability.wall().millis(now), reading }));
    }

    /// Records that the broker is alive, while there are connected clients whose sessions are kept.
    pub(in crate::broker) fn handle_alive(&mut self, now: Time) {
        self.durability.note_alive_fired();
        if self.connections.len() > 0 {
            self.durability.record(&Record::Alive);
            self.tell_alive(now);
        }
    }

    fn tell_alive(&mut self, now: Time) {
        if self.durability.needs_alive_timer() {
            self.timers.schedule(now.after_seconds(ALIVE_SECONDS), Timer::Alive);
        }
    }

    pub(in crate::broker) fn stored<'a>(&self, publication: &Publication<'a>) -> StoredMessage<'a> {
        StoredMessage {
            topic: publication.topic,
            properties: publication.forward,
            payload: publication.payload,
            qos: publication.qos,
            retain: publication.retain,
            expires_at_millis: publication.expires_at.map(|at| self.durability.wall().millis(at)),
            source: publication.source,
        }
    }

    /// Records that a session has a new connection. Its settings and will must already be set.
    pub(in crate::broker) fn record_session(&mut self, now: Time, session: SessionSlot) {
        let expiry_seconds = self.sessions.session(session).expiry_seconds;
        let sid = self.sessions.slot(session).sid;
        if expiry_seconds == 0 || !self.durability.is_on() {
            if let Some(sid) = sid {
                // It ends with its connection, even if midge ends first.
                self.record_end(session, sid);
                self.sessions.slot_mut(session).sid = None;
            }
            self.record_will(session);
            return;
        }
        self.tell_alive(now);
        let sid = sid.unwrap_or_else(|| self.durability.next_number());
        let entry: &mut SessionEntry = self.sessions.slot_mut(session);
        entry.sid = Some(sid);
        let version = entry.version;
        let state = self.sessions.session(session);
        let will = state.will.as_deref().map(|will| self.stored_will(will));
        let client_id = &*state.client_id;
        self.durability.record(&Record::Session { sid, client_id, version, expiry_seconds, will });
    }

    /// The number of a new will in the log. It has none if it belongs to its session. A session
    /// that ends with its connection leaves only its will if the broker ends first. `[MQTT5-3.1.2-8]` While
    /// the log accepts no records, the will is kept only in memory, because refusing all clients would be
    /// worse.
    pub(in crate::broker) fn will_number(&mut self, expiry_seconds: u32) -> Option<WillNumber> {
        let takes = self.durability.is_on() && !self.durability.has_failed() && !self.durability.is_full();
        (expiry_seconds == 0 && takes).then(|| self.durability.next_number())
    }

    fn record_will(&mut self, session: SessionSlot) {
        let state = self.sessions.session(session);
        let Some(will) = state.will.as_deref() else { return };
        let Some(number) = will.number else { return };
        let (client_id, will) = (&*state.client_id, self.stored_will(will));
        self.durability.record(&Record::Will { number, client_id, will });
    }

    /// Records that a will was published or dropped. Its session may have ended.
    pub(in crate::broker) fn record_will_gone(&mut self, will: &Will, session: Option<SessionSlot>) {
        if let Some(number) = will.number {
            self.durability.record(&Record::WillOver { number });
        } else if let Some(sid) = session.and_then(|session| self.sid(session)) {
            self.durability.record(&Record::WillGone { sid });
        }
    }

    /// Records the end of a kept session.
    pub(in crate::broker) fn record_end(&mut self, session: SessionSlot, sid: SessionNumber) {
        self.durability.record(&Record::Ended { sid });
        self.note_end(session);
    }

    /// Notes the end of a session. Its client gets no answer until everything recorded so far is durable.
    pub(in crate::broker) fn note_end(&mut self, session: SessionSlot) {
        let client = self.shared.hash(&self.sessions.session(session).client_id);
        self.durability.note_end(Some(client));
    }

    /// The mark at which the end of the client's last session is durable. The client must have no session. A
    /// power failure before that would bring the session back.
    pub(in crate::broker) fn end_mark(&mut self, client_id: &str) -> LogMark {
        if self.durability.are_ends_durable() {
            return LogMark::START;
        }
        self.durability.end_mark(self.shared.hash(client_id))
    }

    fn stored_will<'a>(&self, will: &'a Will) -> StoredWill<'a> {
        StoredWill {
            message: self.stored(&will.message.as_publication()),
            delay_seconds: will.delay_seconds,
            message_expiry_seconds: will.message_expiry_seconds,
        }
    }

    /// The number of a session in the log, if it is there.
    pub(in crate::broker) fn sid(&self, session: SessionSlot) -> Option<SessionNumber> {
        self.sessions.slot(session).sid
    }

    /// Holds a QoS 2 packet identifier of the client until its PUBREL. `ticket` is the ticket that its PUBREC
    /// waits for, if any.
    pub(in crate::broker) fn hold(
        &mut self,
        session: SessionSlot,
        packet_id: PacketId,
        payload_bytes: u32,
        ticket: Option<Ticket>,
    ) {
        self.sessions.session_mut(session).hold(packet_id.get(), payload_bytes, ticket);
        self.note_held(1);
        if let Some(sid) = self.sid(session) {
            self.durability.record(&Record::Held { sid, packet_id, payload_bytes });
        }
    }

    /// Frees a QoS 2 packet identifier of the client. Returns `false` if it was not held.
    pub(in crate::broker) fn release_held(&mut self, session: SessionSlot, packet_id: PacketId) -> bool {
        let Some(was_refused) = self.sessions.session_mut(session).release(packet_id.get()) else {
            return false;
        };
        self.note_released(1);
        if !was_refused && let Some(sid) = self.sid(session) {
            self.durability.record(&Record::Unheld { sid, packet_id });
        }
        true
    }

    /// Notes that the message of a held identifier is refused. Returns `false` if it was not held. The log
    /// frees the identifier, so that a start treats the next message with it as new. Memory frees it when the
    /// PUBREC is sent.
    pub(in crate::broker) fn refuse_held(&mut self, session: SessionSlot, packet_id: PacketId) -> bool {
        let held = self.sessions.session_mut(session).refuse_held(packet_id.get());
        if let (true, Some(sid)) = (held, self.sid(session)) {
            self.durability.record(&Record::Unheld { sid, packet_id });
        }
        held
    }

    /// Records a delivery that is already in its session. It is in the window if it has a packet identifier.
    #[allow(clippy::too_many_arguments)] // The record has that many fields.
    pub(in crate::broker) fn record_delivery(
        &mut self,
        delivery: DeliveryKey,
        message: MessageNumber,
        packet_id: Option<PacketId>,
        qos: QoS,
        retain: bool,
        subscription_ids: &[u32],
        group: Option<&Arc<str>>,
    ) {
        let DeliveryKey { sid, number } = delivery;
        self.durability.record(&Record::Delivery {
            sid,
            number,
            message,
            qos,
            retain,
            packet_id,
            subscription_ids: subscription_ids.into(),
            group: group.map_or("", |group| group),
        });
    }

    /// Records that a delivery of a session is completed.
    pub(in crate::broker) fn record_settled(&mut self, session: SessionSlot, number: Option<DeliveryNumber>) {
        if let (Some(sid), Some(number)) = (self.sid(session), number) {
            self.durability.record(&Record::Settled { sid, number });
        }
    }
}
