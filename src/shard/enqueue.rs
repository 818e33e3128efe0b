//! The way into a session's queue: its bounds, and what the policy makes of a full one.

use super::deliver::Fanout;
use super::directory::QUEUES_QOS0;
use super::{Counter, Event, Limit, QueueBound, Shard};
use crate::config::QueuePolicy;
use crate::memory::MemoryKind;
use crate::packet::{AckKind, PacketId, QoS};
use crate::session::{AckOutcome, Delivery, QueueLimits, Session};
use crate::time::Time;

/// Where a message that can't be sent now has gone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Queued,
    /// By policy.
    Dropped,
    Refused,
}

impl Shard {
    /// Would a session take a message of this size now?
    pub(super) fn takes(&self, session: u32, fanout: &Fanout<'_>) -> bool {
        let limits = &self.shared.config.limits;
        let entry = self.directory.slot(session);
        let policy = self.queue_policy(session);
        let queue = &self.directory.session(session).queue;
        let bytes = fanout.publication.topic.len() + fanout.publication.payload.len() + limits.connect_bytes;
        let full = queue.len() >= limits.session_queue_messages
            || queue.bytes() + bytes > limits.session_queue_bytes
            || self.memory.of(MemoryKind::Messages) + bytes > self.shares.queue_bytes;
        (!full || policy != QueuePolicy::Refuse) && !(entry.sid != 0 && self.store_full)
    }

    /// Into the queue, if there is room, or the policy makes some.
    pub(super) fn enqueue(&mut self, now: Time, session: u32, delivery: Delivery) -> Place {
        let limits = &self.shared.config.limits;
        let queue_limits =
            QueueLimits { messages: limits.session_queue_messages, bytes: limits.session_queue_bytes };
        let policy = match self.queue_policy(session) {
            // Nobody waits to hear of it.
            QueuePolicy::Refuse if delivery.qos == QoS::AtMostOnce => QueuePolicy::DropNewest,
            policy => policy,
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
                    self.report_queue_full(session, Limit::SessionQueue(bound));
                    return Place::Refused;
                }
                QueuePolicy::DropNewest => {
                    self.report_queue_full(session, Limit::SessionQueueNewest(bound));
                    return Place::Dropped;
                }
                QueuePolicy::DropOldest => {
                    self.report_queue_full(session, Limit::SessionQueueOldest(bound));
                    if !self.drop_oldest(session, bytes, queue_limits) {
                        return Place::Dropped;
                    }
                }
            }
        }
        if self.directory.session_mut(session).queue.push(delivery, queue_limits).is_err() {
            return Place::Refused;
        }
        self.note_queued(bytes as isize, 1);
        if grouped {
            self.tell_groups(session, false);
        }
        Place::Queued
    }

    /// What keeps a message of so many bytes out of a queue, if anything does.
    fn queue_bound(&self, session: u32, bytes: usize, limits: QueueLimits) -> Option<QueueBound> {
        let queue = &self.directory.session(session).queue;
        if queue.len() >= limits.messages {
            Some(QueueBound::Messages)
        } else if queue.bytes().saturating_add(bytes) > limits.bytes {
            Some(QueueBound::Bytes)
        } else {
            self.is_message_memory_full().then_some(QueueBound::Total)
        }
    }

    /// A QoS 0 message that can't be sent now waits too, as long as nothing is restarted: it is in no log.
    pub(super) fn enqueue_qos0(
        &mut self,
        now: Time,
        session: u32,
        fanout: &mut Fanout<'_>,
        retain: bool,
        subscription_ids: &[u32],
    ) {
        let extra = super::deliver::extra(subscription_ids, None);
        let delivery =
            Delivery { message: fanout.keep(&self.memory), qos: QoS::AtMostOnce, retain, number: 0, extra };
        if self.enqueue(now, session, delivery) == Place::Queued {
            self.directory.slot_mut(session).flags |= QUEUES_QOS0;
        }
    }

    fn queue_policy(&self, session: u32) -> QueuePolicy {
        let own = self.directory.session(session).queue_policy;
        own.unwrap_or(self.shared.config.limits.session_queue_policy)
    }

    /// Expired messages at the front do not keep a new one out; how many they were, and bytes.
    fn drop_expired(&mut self, session: u32, now: Time) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        loop {
            let queue = &mut self.directory.session_mut(session).queue;
            if !queue.front().is_some_and(|delivery| delivery.message.is_expired(now)) {
                return (count, bytes);
            }
            let Some(expired) = queue.pop() else { return (count, bytes) };
            count += 1;
            bytes += expired.message.bytes();
            self.settle_unnumbered(session, &expired);
        }
    }

    /// Makes room for so many bytes in a queue; false if there can't be so much.
    fn drop_oldest(&mut self, session: u32, bytes: usize, limits: QueueLimits) -> bool {
        let mut freed = 0;
        loop {
            match self.queue_bound(session, bytes, limits) {
                None => return true,
                // Others hold the same messages: giving up more of this session's would free nothing.
                Some(QueueBound::Total) if freed >= bytes => return false,
                Some(_) => {}
            }
            let Some(oldest) = self.directory.session_mut(session).queue.pop() else { return false };
            freed += oldest.message.bytes();
            self.note_queued(-oldest.message.bytes().cast_signed(), -1);
            self.record_settled(session, oldest.number);
        }
    }

    fn report_queue_full(&mut self, session: u32, limit: Limit) {
        self.count(Counter::PublishesDropped, 1);
        let state = self.directory.session_mut(session);
        if std::mem::replace(&mut state.full_reported, true) {
            self.count(Counter::DroppedQueueFull, 1);
        } else {
            let client = state.client_id.clone();
            self.report(Event::LimitReached { limit, client });
        }
    }

    pub(super) fn note_queued(&mut self, bytes: isize, messages: isize) {
        self.queued_bytes = self.queued_bytes.saturating_add_signed(bytes);
        let counters = &self.shared.counters[usize::from(self.id)];
        counters.set(Counter::BytesQueued, self.queued_bytes as u64);
        if messages >= 0 {
            counters.add(Counter::MessagesQueued, messages.unsigned_abs() as u64);
        } else {
            counters.subtract(Counter::MessagesQueued, messages.unsigned_abs() as u64);
        }
    }

    /// A delivery that waited is not sent at all.
    pub(super) fn settle_unnumbered(&mut self, session: u32, delivery: &Delivery) {
        if delivery.qos != QoS::AtMostOnce {
            self.directory.session_mut(session).inflight.pass_id();
        }
        self.record_settled(session, delivery.number);
    }

    /// One that was sent on an earlier connection is not sent again.
    pub(super) fn settle_unsent(&mut self, session: u32, packet_id: PacketId, qos: QoS) {
        let window = &mut self.directory.session_mut(session).inflight;
        let kind = if qos == QoS::AtLeastOnce { AckKind::Puback } else { AckKind::Pubrec };
        if let AckOutcome::Settled(number) = window.handle_ack(kind, packet_id, true) {
            self.record_settled(session, number);
        }
    }

    pub(super) fn report_store_full(&mut self, session: u32) {
        self.count(Counter::PublishesDropped, 1);
        let client = self.directory.session(session).client_id.clone();
        self.report(Event::LimitReached { limit: Limit::Disk, client });
    }

    /// The queue of a session that has ended.
    pub(super) fn forget_queue(&mut self, state: &Session) {
        self.note_queued(-(state.queue.bytes() as isize), -(state.queue.len() as isize));
    }
}
