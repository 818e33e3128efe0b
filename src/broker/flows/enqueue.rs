//! The way into a session's queue: its bounds, and what the policy makes of a full one.

use crate::base::SessionSlot;
use crate::base::Time;
use crate::broker::components::sessions::QUEUES_QOS0;
use crate::broker::fanout::Fanout;
use crate::broker::{Counter, Event, Limit, QueueBound, Shard};
use crate::mqtt::codec::AckKind;
use crate::mqtt::{PacketId, QoS};
use crate::session::{AckOutcome, Delivery, LossCause, QueueLimits, Session};
use crate::settings::QueuePolicy;

/// Where a message that can't be sent now has gone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum EnqueueOutcome {
    Queued,
    /// By policy.
    Dropped,
    Refused,
}

/// So many of a queue's oldest messages are looked at when its client is back: some tenths of a millisecond. What
/// expires behind them is told the next time.
const EXPIRY_VISITS_MAX: usize = 16_384;

/// By this part of itself `limits.queue_bytes_total` may be exceeded while many sessions give up one message that they
/// share for another.
const TOTAL_SLACK_PART: usize = 16;

impl Shard {
    /// Would a session take a message of this size now, or drop one by its policy?
    pub(in crate::broker) fn takes(&self, session: SessionSlot, fanout: &Fanout<'_>) -> bool {
        self.has_room(session, fanout)
            || (self.queue_policy(session) != QueuePolicy::Refuse && !self.is_unkept(session))
    }

    /// Has a session room for a message of this size now?
    pub(in crate::broker) fn has_room(&self, session: SessionSlot, fanout: &Fanout<'_>) -> bool {
        let limits = &self.shared.config.limits;
        let queue = &self.sessions.session(session).queue;
        let bytes = fanout.publication.topic.len() + fanout.publication.payload.len() + limits.connect_bytes;
        let full = queue.len() >= limits.session_queue_messages
            || queue.bytes() + bytes > limits.session_queue_bytes
            || self.memory.queues_excess(bytes) > 0;
        !full && !self.is_unkept(session)
    }

    /// Would the session's messages have to go to a disk that is full?
    pub(in crate::broker) fn is_unkept(&self, session: SessionSlot) -> bool {
        self.durability.is_full() && self.sessions.slot(session).sid != 0
    }

    /// Into the queue, if there is room, or the policy makes some.
    pub(in crate::broker) fn enqueue(
        &mut self,
        now: Time,
        session: SessionSlot,
        delivery: Delivery,
    ) -> EnqueueOutcome {
        let limits = &self.shared.config.limits;
        let queue_limits =
            QueueLimits { messages: limits.session_queue_messages, bytes: limits.session_queue_bytes };
        let policy = match delivery.qos {
            // Its publisher waits for no answer, and it must not push out what was acknowledged.
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

    /// What keeps a message of so many bytes out of a queue, if anything does.
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

    /// A QoS 0 message that can't be sent now waits too, as long as nothing is restarted: it is in no log.
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
            number: 0,
            extra,
        };
        if self.enqueue(now, session, delivery) == EnqueueOutcome::Queued {
            self.sessions.slot_mut(session).flags |= QUEUES_QOS0;
        }
    }

    fn queue_policy(&self, session: SessionSlot) -> QueuePolicy {
        match self.sessions.slot(session).listener {
            Some(listener) => self.shared.terms_of(Some(listener.into())).session_queue_policy,
            // Its client has not been here in this run.
            None => self.shared.config.limits.session_queue_policy,
        }
    }

    /// A client that comes back is told of what has expired while it was away.
    pub(in crate::broker) fn drop_all_expired(&mut self, now: Time, session: SessionSlot) {
        let expired = self.sessions.session_mut(session).queue.take_expired(now, EXPIRY_VISITS_MAX);
        for delivery in &expired {
            self.note_queued(-delivery.message.bytes().cast_signed(), -1);
            self.drop_waiting(now, session, delivery, LossCause::Expired);
        }
        self.count(Counter::DroppedExpired, expired.len() as u64);
        self.count(Counter::PublishesDropped, expired.len() as u64);
    }

    /// Expired messages at the front do not keep a new one out; how many they were, and bytes.
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

    /// Might the session's queue have room for so many bytes if nothing else were in it? What the others have in
    /// theirs it can't drop, and emptying it for nothing would lose the more.
    fn may_make_room(&self, session: SessionSlot, bytes: usize, limits: QueueLimits) -> bool {
        let excess = self.memory.queues_excess(0);
        let own = self.sessions.session(session).queue.bytes();
        bytes <= limits.bytes && (!self.is_message_memory_full() || (own > 0 && excess <= own))
    }

    /// Makes room for so many bytes in a queue; how many messages it took, and whether there is room now.
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
                // Others hold the same messages: giving up more of this session's would free nothing. They give theirs
                // up for the same new message, one after the other, and so it may be above the bound for a moment.
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

    /// Counted for each message, and told once until the queue has been empty.
    fn report_queue_full(&mut self, session: SessionSlot, limit: Limit, dropped: u64) {
        self.count(Counter::PublishesDropped, dropped);
        let state = self.sessions.session_mut(session);
        let mut untold = dropped;
        if !std::mem::replace(&mut state.full_reported, true) {
            let client = state.client_id.clone();
            // Which counts one.
            self.report(Event::LimitReached { limit, client });
            untold -= 1;
        }
        self.count(Counter::DroppedQueueFull, untold);
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

    /// A message that its queue has no room for. Its delivery is in no record.
    fn lose_new(&mut self, now: Time, session: SessionSlot, delivery: &Delivery) {
        if delivery.qos != QoS::AtMostOnce {
            self.lose(now, session, 0, LossCause::QueueFull);
        }
    }

    /// A delivery that waited is not sent at all.
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

    /// One that was sent on an earlier connection is not sent again.
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
        let client = self.client_told(session);
        self.report(Event::LimitReached { limit: Limit::Disk, client });
    }

    /// The queue of a session that has ended.
    pub(in crate::broker) fn forget_queue(&mut self, state: &Session) {
        self.note_queued(-(state.queue.bytes() as isize), -(state.queue.len() as isize));
    }
}
