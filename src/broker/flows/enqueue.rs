//! Adding messages to a session's queue: the queue's bounds, and the policy for a full one.

use crate::base::SessionSlot;
use crate::base::Time;
use crate::broker::components::sessions::QUEUES_QOS0;
use crate::broker::fanout::Fanout;
use crate::broker::{Counter, Event, Limit, QueueBound, Shard};
use crate::mqtt::codec::AckKind;
use crate::mqtt::{PacketId, QoS};
use crate::session::{AckOutcome, Delivery, LossCause, QueueLimits, Session};
use crate::settings::QueuePolicy;

/// The outcome for a message that can't be sent now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum EnqueueOutcome {
    Queued,
    /// It was dropped by the policy.
    Dropped,
    Refused,
}

/// The number of a queue's oldest messages that are checked when its client returns. This takes some tenths
/// of a millisecond. Messages after them that have expired are reported the next time.
const EXPIRY_VISITS_MAX: usize = 16_384;

/// `limits.queue_bytes_total` may be exceeded by one part in [`TOTAL_SLACK_PART`] while many sessions replace
/// a message that they share by another.
const TOTAL_SLACK_PART: usize = 16;

impl Shard {
    /// Whether a session would take a message of this size now, possibly by dropping one according to its
    /// policy.
    pub(in crate::broker) fn takes(&self, session: SessionSlot, fanout: &Fanout<'_>) -> bool {
        self.has_room(session, fanout)
            || (self.queue_policy(session) != QueuePolicy::Refuse && !self.is_unkept(session))
    }

    /// Whether a session has room for a message of this size now.
    pub(in crate::broker) fn has_room(&self, session: SessionSlot, fanout: &Fanout<'_>) -> bool {
        let limits = &self.settings.config.limits;
        let queue = &self.sessions.session(session).queue;
        let bytes = fanout.publication.topic.len() + fanout.publication.payload.len() + limits.connect_bytes;
        let full = queue.len() >= limits.session_queue_messages
            || queue.bytes() + bytes > limits.session_queue_bytes
            || self.memory.queues_excess(bytes) > 0;
        !full && !self.is_unkept(session)
    }

    /// Whether the session's messages would have to go to a disk that is full.
    pub(in crate::broker) fn is_unkept(&self, session: SessionSlot) -> bool {
        self.durability.is_full() && self.sessions.slot(session).sid.is_some()
    }

    /// Adds a delivery to the queue, if there is room or the policy makes room.
    pub(in crate::broker) fn enqueue(
        &mut self,
        now: Time,
        session: SessionSlot,
        delivery: Delivery,
    ) -> EnqueueOutcome {
        let limits = &self.settings.config.limits;
        let queue_limits =
            QueueLimits { messages: limits.session_queue_messages, bytes: limits.session_queue_bytes };
        let policy = match delivery.qos {
            // Its publisher waits for no answer, and it must not push out messages that were acknowledged.
            QoS::AtMostOnce => QueuePolicy::DropNewest,
            QoS::AtLeastOnce | QoS::ExactlyOnce => self.queue_policy(session),
        };
        let bytes = delivery.message.bytes();
        let grouped = delivery.group().is_some();
        let (expired, freed) = self.drop_expired(session, now);
        if expired > 0 {
            self.note_queued(-(freed as isize), -(expired as isize));
            self.count(Counter::DroppedExpired, expired as u64);
            self.count(Counter::PublishesDropped, expired as u64);
        }
        if let Some(bound) = self.queue_bound(session, bytes, queue_limits) {
            match policy {
                QueuePolicy::Refuse => {
                    self.lose_new(now, session, &delivery);
                    self.report_queue_full(session, Limit::SessionQueue(bound), 1);
                    return EnqueueOutcome::Refused;
                }
                QueuePolicy::DropOldest if self.may_make_room(session, bytes, queue_limits) => {
                    let (dropped, has_room) = self.drop_oldest(now, session, bytes, queue_limits);
                    self.report_queue_full(session, Limit::SessionQueueOldest(bound), dropped);
                    if !has_room {
                        self.lose_new(now, session, &delivery);
                        self.report_queue_full(session, Limit::SessionQueueNewest(bound), 1);
                        return EnqueueOutcome::Dropped;
                    }
                }
                QueuePolicy::DropOldest | QueuePolicy::DropNewest => {
                    self.lose_new(now, session, &delivery);
                    self.report_queue_full(session, Limit::SessionQueueNewest(bound), 1);
                    return EnqueueOutcome::Dropped;
                }
            }
        }
        if self.sessions.session_mut(session).queue.push(delivery, queue_limits).is_err() {
            return EnqueueOutcome::Refused;
        }
        self.note_queued(bytes as isize, 1);
        if grouped {
            self.tell_groups(session, false);
        }
        EnqueueOutcome::Queued
    }

    /// The bound that keeps a message of this size out of a queue, if any.
    fn queue_bound(&self, session: SessionSlot, bytes: usize, limits: QueueLimits) -> Option<QueueBound> {
        let queue = &self.sessions.session(session).queue;
        if queue.len() >= limits.messages {
            Some(QueueBound::Messages)
        } else if queue.bytes().saturating_add(bytes) > limits.bytes {
            Some(QueueBound::Bytes)
        } else {
            self.is_message_memory_full().then_some(QueueBound::Total)
        }
    }

    /// Queues a QoS 0 message that can't be sent now. It is not in the log, so it does not survive a restart.
    pub(in crate::broker) fn enqueue_qos0(
        &mut self,
        now: Time,
        session: SessionSlot,
        fanout: &mut Fanout<'_>,
        retain: bool,
        subscription_ids: &[u32],
    ) {
        let extra = super::deliver::extra(subscription_ids, None);
        let delivery = Delivery {
            message: fanout.keep(self.memory.account()),
            qos: QoS::AtMostOnce,
            retain,
            number: None,
            extra,
        };
        if self.enqueue(now, session, delivery) == EnqueueOutcome::Queued {
            self.sessions.slot_mut(session).flags |= QUEUES_QOS0;
        }
    }

    pub(in crate::broker) fn queue_policy(&self, session: SessionSlot) -> QueuePolicy {
        // A change counts for connected clients too.
        match self.settings.listener_of(self.sessions.slot(session).entrance) {
            Some(listener) => self.settings.terms_of(listener).session_queue_policy,
            // Its client has not been connected in this run.
            None => self.settings.config.limits.session_queue_policy,
        }
    }

    /// Drops expired messages when a client returns, so that it can be told about them.
    pub(in crate::broker) fn drop_all_expired(&mut self, now: Time, session: SessionSlot) {
        let expired = self.sessions.session_mut(session).queue.take_expired(now, EXPIRY_VISITS_MAX);
        for delivery in &expired {
            self.note_queued(-delivery.message.bytes().cast_signed(), -1);
            self.drop_waiting(now, session, delivery, LossCause::Expired);
        }
        self.count(Counter::DroppedExpired, expired.len() as u64);
        self.count(Counter::PublishesDropped, expired.len() as u64);
    }

    /// Drops expired messages at the front, so that they do not keep a new one out. Returns their number and
    /// bytes.
    fn drop_expired(&mut self, session: SessionSlot, now: Time) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        loop {
            let queue = &mut self.sessions.session_mut(session).queue;
            if !queue.front().is_some_and(|delivery| delivery.message.is_expired(now)) {
                return (count, bytes);
            }
            let Some(expired) = queue.pop() else { return (count, bytes) };
            count += 1;
            bytes += expired.message.bytes();
            self.drop_waiting(now, session, &expired, LossCause::Expired);
        }
    }

    /// Whether the session's queue might have room for a message of this size if it were empty. It can't drop
    /// messages in other queues, and emptying it for nothing would only lose more.
    fn may_make_room(&self, session: SessionSlot, bytes: usize, limits: QueueLimits) -> bool {
        let excess = self.memory.queues_excess(0);
        let own = self.sessions.session(session).queue.bytes();
        bytes <= limits.bytes && (!self.is_message_memory_full() || (own > 0 && excess <= own))
    }

    /// Makes room in a queue. Returns the number of dropped messages, and whether there is room now.
    fn drop_oldest(
        &mut self,
        now: Time,
        session: SessionSlot,
        bytes: usize,
        limits: QueueLimits,
    ) -> (u64, bool) {
        let (mut dropped, mut freed) = (0, 0);
        loop {
            match self.queue_bound(session, bytes, limits) {
                None => return (dropped, true),
                // Other sessions hold the same messages, so dropping more of this session's would free
                // nothing. The others drop theirs for the same new message one after the other, so the bound
                // may be exceeded for a moment.
                Some(QueueBound::Total) if freed >= bytes => {
                    let slack = self.memory.queues_max() / TOTAL_SLACK_PART;
                    return (dropped, self.memory.queues_excess(0) <= slack);
                }
                Some(_) => {}
            }
            let Some(oldest) = self.sessions.session_mut(session).queue.pop() else {
                return (dropped, false);
            };
            freed += oldest.message.bytes();
            self.forget_live(session, &oldest.message);
            self.note_queued(-oldest.message.bytes().cast_signed(), -1);
            if oldest.qos != QoS::AtMostOnce {
                self.lose(now, session, oldest.number, LossCause::QueueFull);
            }
            dropped += 1;
        }
    }

    /// Counts each message, and reports once until the queue has been empty.
    fn report_queue_full(&mut self, session: SessionSlot, limit: Limit, dropped: u64) {
        self.count(Counter::PublishesDropped, dropped);
        let state = self.sessions.session_mut(session);
        let mut uncounted = dropped;
        if !std::mem::replace(&mut state.full_reported, true) {
            let client = state.client_id.clone();
            // The event counts one message.
            self.report(Event::LimitReached { limit, client });
            uncounted -= 1;
        }
        self.count(Counter::DroppedQueueFull, uncounted);
    }

    pub(in crate::broker) fn note_queued(&mut self, bytes: isize, messages: isize) {
        let queued = self.memory.note_queued(bytes);
        let counters = &self.shared.counters[usize::from(self.id)];
        counters.set(Counter::BytesQueued, queued as u64);
        if messages >= 0 {
            counters.add(Counter::MessagesQueued, messages.unsigned_abs() as u64);
        } else {
            counters.subtract(Counter::MessagesQueued, messages.unsigned_abs() as u64);
        }
    }

    /// Notes the loss of a message that found no room in its queue. It has no record.
    fn lose_new(&mut self, now: Time, session: SessionSlot, delivery: &Delivery) {
        if delivery.qos != QoS::AtMostOnce {
            self.lose(now, session, None, LossCause::QueueFull);
        }
    }

    /// Drops a queued delivery.
    pub(in crate::broker) fn drop_waiting(
        &mut self,
        now: Time,
        session: SessionSlot,
        delivery: &Delivery,
        cause: LossCause,
    ) {
        if delivery.qos != QoS::AtMostOnce {
            self.sessions.session_mut(session).inflight.pass_id();
            self.lose(now, session, delivery.number, cause);
        }
    }

    /// Drops a delivery that was sent on an earlier connection, so that it is not sent again.
    pub(in crate::broker) fn drop_unsent(
        &mut self,
        now: Time,
        session: SessionSlot,
        packet_id: PacketId,
        qos: QoS,
        cause: LossCause,
    ) {
        let window = &mut self.sessions.session_mut(session).inflight;
        let kind = if qos == QoS::AtLeastOnce { AckKind::Puback } else { AckKind::Pubrec };
        if let AckOutcome::Settled(number) = window.handle_ack(kind, packet_id, true) {
            self.lose(now, session, number, cause);
        }
    }

    pub(in crate::broker) fn report_store_full(&mut self, session: SessionSlot) {
        self.count(Counter::PublishesDropped, 1);
        let client = self.client_for_log(session);
        self.report(Event::LimitReached { limit: Limit::Disk, client });
    }

    /// Subtracts the queue of a session that has ended.
    pub(in crate::broker) fn forget_queue(&mut self, state: &Session) {
        self.note_queued(-(state.queue.bytes() as isize), -(state.queue.len() as isize));
    }
}
