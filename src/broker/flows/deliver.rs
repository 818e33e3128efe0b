//! From a matched subscription to bytes in the arena, or to a place in the session's queue.
//!
//! The broker spends most of its work here. A message is encoded once per variant (protocol, QoS, RETAIN) and
//! turn. A QoS 0 delivery is then a range in the outbox, and adjacent ranges are merged. At QoS 1 and 2 the
//! packet identifiers may differ: subscribers with the same next identifier share the variant, and the others
//! get a copy with two bytes changed.

use super::convoy::size_of_message;
use super::enqueue::EnqueueOutcome;
use crate::base::Time;
use crate::base::allocated;
use crate::base::{ConnectionSlot, MessageNumber, RequestToken, SessionNumber, SessionSlot};
use crate::broker::components::budget::WORK_A_QUEUED;
use crate::broker::components::sessions::{
    ALIASES, BACKLOGGED, CHECKED, DEFERRED, GATED, MOUNTED, QUEUES_QOS0, REPLAYING,
};
use crate::broker::fanout::{Fanout, RecentMessage, WireForm};
use crate::broker::outcome::Taken;
use crate::broker::{Counter, Event, Limit, Shard};
use crate::mqtt::codec::publish_len;
use crate::mqtt::{PacketId, ProtocolVersion, QoS};
use crate::session::KeptMessage;
use crate::session::{Delivery, Extra, LossCause};
use crate::store::{DeliveryKey, Record, StoredMessage};
use smallvec::SmallVec;
use std::rc::Rc;
use std::sync::Arc;

/// From this size on, a message goes to a persistent session at QoS 1 only after the log has it.
const LARGE_BYTES_MIN: usize = 32 << 10;
/// A single session adds at most this much to one turn by itself.
const TURN_BYTES_MAX: u32 = 64 * 1024;

impl Shard {
    /// Delivers to one session: now, into its queue, or not at all.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // A delivery has that many inputs, and a struct would have to be built for each.
    pub(in crate::broker) fn deliver(
        &mut self,
        now: Time,
        fanout: &mut Fanout<'_>,
        subscriber: SessionSlot,
        granted: QoS,
        retain_as_published: bool,
        subscription_ids: &[u32],
        group: Option<&Arc<str>>,
    ) -> Taken {
        if self.traces.is_on() {
            return self.deliver_traced(
                now,
                fanout,
                subscriber,
                granted,
                retain_as_published,
                subscription_ids,
                group,
            );
        }
        self.deliver_untraced(now, fanout, subscriber, granted, retain_as_published, subscription_ids, group)
    }

    /// The same, and no trace shows it.
    #[allow(clippy::too_many_arguments)] // As above.
    pub(in crate::broker) fn deliver_untraced(
        &mut self,
        now: Time,
        fanout: &mut Fanout<'_>,
        subscriber: SessionSlot,
        granted: QoS,
        retain_as_published: bool,
        subscription_ids: &[u32],
        group: Option<&Arc<str>>,
    ) -> Taken {
        let upgrade = self.settings.config.protocol.upgrade_outgoing_qos;
        let form = WireForm {
            version: self.sessions.slot(subscriber).version,
            // [MQTT5-3.8.4-8]
            qos: if upgrade { granted } else { fanout.publication.qos.min(granted) },
            // [MQTT5-3.3.1-12] [MQTT5-3.3.1-13]
            retain: retain_as_published && fanout.publication.retain,
        };
        if self.is_withheld(subscriber, fanout.publication.topic) {
            return Taken::Yes;
        }
        let entry = self.sessions.slot_mut(subscriber);
        let slot = entry.connection;
        if form.qos == QoS::AtMostOnce {
            // Until its CONNACK is sent, the client does not consider itself connected.
            let slot = match slot {
                Some(slot) if entry.flags & (GATED | QUEUES_QOS0) == 0 => slot,
                _ => {
                    if self.settings.config.protocol.queue_qos0 && group.is_none() {
                        self.enqueue_qos0(now, subscriber, fanout, form.retain, subscription_ids);
                    }
                    return Taken::Yes;
                }
            };
            let is_plain = entry.flags & (BACKLOGGED | ALIASES | MOUNTED | REPLAYING) == 0;
            if is_plain && subscription_ids.is_empty() {
                let packet_bytes_max = entry.packet_bytes_max;
                let variant = fanout.variant(&mut self.outbox, form, None);
                if variant.len() > packet_bytes_max {
                    self.drop_too_large();
                    return Taken::Yes;
                }
                variant.send(&mut self.outbox, slot);
                self.count_sent(QoS::AtMostOnce, fanout.publication.payload.len());
                return Taken::Yes;
            }
            let is_backlogged = entry.flags & BACKLOGGED != 0;
            if is_backlogged && !self.takes_more(subscriber, slot) {
                return Taken::Yes;
            }
            self.note_live(subscriber, fanout, false);
            let before = self.outbox.pending_bytes(slot);
            self.send_publish(subscriber, fanout, form, None, false, subscription_ids);
            if is_backlogged && fanout.publication.origin == Some(self.sessions.key(subscriber)) {
                let echoed = self.outbox.pending_bytes(slot) - before;
                self.note_asked(slot, echoed as usize);
            }
            return Taken::Yes;
        }
        let sendable = slot.is_some() && entry.flags & (BACKLOGGED | GATED) == 0;
        let (sid, flags) = (entry.sid, entry.flags);
        if sid.is_some() && self.durability.is_full() && !fanout.promised {
            self.report_store_full(subscriber);
            return Taken::Unkept;
        }
        let state = self.sessions.session_mut(subscriber);
        let extra = extra(subscription_ids, group);
        if sendable
            && state.queue.is_empty()
            && state.inflight.has_room()
            && (state.inflight.is_empty() || !self.is_message_memory_full())
        {
            if !self.fits(subscriber, fanout, form, subscription_ids) {
                self.sessions.session_mut(subscriber).inflight.pass_id();
                self.drop_too_large();
                self.lose(now, subscriber, None, LossCause::TooLarge);
                return Taken::Yes;
            }
            let kept = sid.map(|sid| self.number_delivery(sid, fanout));
            let delivery = Delivery {
                message: fanout.keep(self.memory.account()),
                qos: form.qos,
                retain: form.retain,
                number: kept.map(|(_, delivery)| delivery.number),
                extra,
            };
            if flags & REPLAYING != 0 {
                self.note_live(subscriber, fanout, false);
            }
            let waits = kept.is_some() && self.sends_when_durable(subscriber, fanout, form.qos);
            let window = &mut self.sessions.session_mut(subscriber).inflight;
            let packet_id = if waits { window.prepare(delivery) } else { window.start(delivery) };
            if let Some((message, delivery)) = kept {
                let (qos, retain) = (form.qos, form.retain);
                self.record_delivery(
                    delivery,
                    message,
                    Some(packet_id),
                    qos,
                    retain,
                    subscription_ids,
                    group,
                );
                if waits {
                    self.publish_when_durable(subscriber, packet_id, delivery.number, None, qos);
                    return Taken::Yes;
                }
            }
            self.send_publish(subscriber, fanout, form, Some(packet_id), false, subscription_ids);
            return Taken::Yes;
        }
        let (qos, retain) = (form.qos, form.retain);
        let delivery =
            Delivery { message: fanout.keep(self.memory.account()), qos, retain, number: None, extra };
        let place = self.enqueue(now, subscriber, delivery);
        if place == EnqueueOutcome::Queued {
            self.note_live(subscriber, fanout, true);
        }
        if place == EnqueueOutcome::Queued
            && let Some(sid) = sid
        {
            // A message that the queue does not take is not recorded.
            let (message, delivery) = self.number_delivery(sid, fanout);
            self.sessions.session_mut(subscriber).queue.number_newest(delivery.number);
            self.record_delivery(delivery, message, None, qos, retain, subscription_ids, group);
        }
        if place == EnqueueOutcome::Refused { Taken::Refused } else { Taken::Yes }
    }

    /// The message of a fan-out and a new delivery to a session, as numbers in the log. The message is recorded with
    /// the first delivery.
    fn number_delivery(
        &mut self,
        sid: SessionNumber,
        fanout: &mut Fanout<'_>,
    ) -> (MessageNumber, DeliveryKey) {
        let message = fanout.number.unwrap_or_else(|| {
            let number = self.durability.next_number();
            let message = StoredMessage { source: &[], ..self.stored(&fanout.publication) };
            self.durability.record(&Record::Message { number, message });
            number
        });
        fanout.number = Some(message);
        (message, DeliveryKey { sid, number: self.durability.next_number() })
    }

    /// Whether a session that is in the log gets this only after the log has it. At QoS 2 this is always so.
    /// For large messages the fan-out makes only the records, all with one copy of the message in the log.
    /// The bytes are sent as turns allow.
    fn sends_when_durable(&self, session: SessionSlot, fanout: &Fanout<'_>, qos: QoS) -> bool {
        qos == QoS::ExactlyOnce
            || size_of_message(fanout) > LARGE_BYTES_MIN
            || self.sessions.session(session).waiting_qos1 > 0
    }

    /// A fan-out of a kept message, with its parts that are in the arena already.
    pub(in crate::broker) fn fanout_of<'a>(&mut self, message: &'a Rc<KeptMessage>, now: Time) -> Fanout<'a> {
        let mut fanout = Fanout::of(message, now);
        if let Some(recent) = self.recent.take()
            && Rc::ptr_eq(&recent.message, message)
            && recent.turn == self.outbox.turn()
            && recent.expiry_seconds == fanout.expiry_seconds
        {
            fanout.encoded = recent.encoded;
        }
        fanout
    }

    /// Keeps the encoded parts, because the message may be sent again in this turn.
    pub(in crate::broker) fn note_encoded(&mut self, message: &Rc<KeptMessage>, fanout: &mut Fanout<'_>) {
        self.recent = Some(RecentMessage {
            message: Rc::clone(message),
            expiry_seconds: fanout.expiry_seconds,
            turn: self.outbox.turn(),
            encoded: std::mem::take(&mut fanout.encoded),
        });
    }

    /// Encodes a PUBLISH with the properties for one session, and sends it.
    pub(in crate::broker) fn send_publish(
        &mut self,
        session: SessionSlot,
        fanout: &mut Fanout<'_>,
        form: WireForm,
        packet_id: Option<PacketId>,
        dup: bool,
        subscription_ids: &[u32],
    ) {
        let entry = self.sessions.slot(session);
        let packet_bytes_max = entry.packet_bytes_max;
        let Some(slot) = entry.connection else { return };
        let own = dup || (entry.version == ProtocolVersion::V5 && !subscription_ids.is_empty());
        let variant = if entry.flags & (ALIASES | MOUNTED) == 0 && !own {
            fanout.variant(&mut self.outbox, form, packet_id)
        } else {
            let mut header = fanout.header(form, packet_id);
            header.dup = dup;
            if entry.flags & MOUNTED != 0 {
                header.topic = self.unmounted(session, header.topic);
            }
            if form.version == ProtocolVersion::V5 {
                header.subscription_ids = subscription_ids;
            }
            let len = publish_len(&header, fanout.publication.payload.len());
            // A packet sets an alias only if it is certain to be sent.
            if entry.flags & ALIASES != 0 && len + ALIAS_BYTES <= packet_bytes_max as usize {
                let is_short = self.is_memory_short();
                let mut bound = 0;
                let connection = self.connections.get_mut(slot).expect("a served session has its connection");
                let extras = connection.extras();
                match extras.aliases_out.get(header.topic) {
                    Some(&alias) => {
                        header.topic_alias = Some(alias);
                        header.topic = "";
                    }
                    None if extras.aliases_out.len() < usize::from(extras.aliases_out_max) && !is_short => {
                        // Topics get aliases in the order of their first use. The packet that sets an alias
                        // is certain to be sent, because it goes into the connection's stream. [MQTT5 §3.3.4]
                        let alias = u16::try_from(extras.aliases_out.len() + 1).expect("bounded by a u16");
                        extras.aliases_out.insert(header.topic.into(), alias);
                        header.topic_alias = Some(alias);
                        bound = allocated(header.topic.len()) + ALIAS_PLACE_BYTES;
                    }
                    None => {}
                }
                if bound > 0
                    && let Some(charge) = self.alias_charge(slot)
                {
                    charge.set(charge.bytes() + bound);
                }
            }
            fanout.encode(&mut self.outbox, &header)
        };
        if packet_id.is_none() && variant.len() > packet_bytes_max {
            self.drop_too_large();
            return;
        }
        variant.send(&mut self.outbox, slot);
        self.count_sent(form.qos, fanout.publication.payload.len());
    }

    /// Whether the packet is within the client's Maximum Packet Size. `[MQTT5-3.1.2-24]`
    fn fits(
        &self,
        session: SessionSlot,
        fanout: &Fanout<'_>,
        form: WireForm,
        subscription_ids: &[u32],
    ) -> bool {
        let entry = self.sessions.slot(session);
        let max = entry.packet_bytes_max;
        if max == u32::MAX {
            return true;
        }
        let mut header = fanout.header(form, (form.qos != QoS::AtMostOnce).then_some(PacketId::MIN));
        if entry.flags & MOUNTED != 0 {
            header.topic = self.unmounted(session, header.topic);
        }
        header.subscription_ids = subscription_ids;
        publish_len(&header, fanout.publication.payload.len()) <= max as usize
    }

    /// Counts a dropped message. The sender is not told. `[MQTT5-3.1.2-25]`
    fn drop_too_large(&self) {
        self.count(Counter::DroppedTooLarge, 1);
        self.count(Counter::PublishesDropped, 1);
    }

    /// The end of the turn adds the counts.
    #[inline(always)]
    fn count_sent(&mut self, qos: QoS, payload_len: usize) {
        self.sent.note(qos, payload_len);
    }

    /// Adds the messages that this turn has sent to the shard's counters.
    pub(in crate::broker) fn tell_sent(&mut self) {
        if let Some(sent) = self.sent.take() {
            let counters = &self.shared.counters[usize::from(self.id)];
            for (qos, messages) in sent.messages.into_iter().enumerate() {
                counters.kinds.publishes_sent.add(qos, messages);
            }
            counters.add(Counter::PublishBytesSent, sent.payload_bytes);
        }
    }

    /// Whether a QoS 0 message may be added to the backlog of a slow client.
    fn takes_more(&mut self, session: SessionSlot, slot: ConnectionSlot) -> bool {
        let mut limit = self.settings.config.limits.backlog_bytes;
        if self.is_memory_short() {
            limit = limit.min(super::memory::BACKLOG_BYTES_SHORT);
        }
        let pending = self.outbox.pending_bytes(slot) as usize;
        let Some(connection) = self.connections.get_mut(slot) else { return false };
        let Some(slow) = &mut connection.slow else { return true };
        if slow.bytes() + pending < limit {
            return true;
        }
        slow.dropped += 1;
        let first = slow.dropped == 1;
        self.count(Counter::PublishesDropped, 1);
        if first {
            let client = self.client_for_log(session);
            self.report(Event::LimitReached { limit: Limit::BacklogDrop, client });
        } else {
            self.count(Counter::DroppedSlow, 1);
        }
        false
    }

    /// Sends waiting messages of the session, as far as its window, its socket and this turn allow: first
    /// those that an earlier connection left unacknowledged, then the queue, then retained messages.
    /// `[MQTT5-4.6.0-1]`
    pub(in crate::broker) fn pump(&mut self, now: Time, session: SessionSlot) {
        let Some(entry) = self.sessions.get(session) else { return };
        let slot = entry.connection;
        self.sessions.slot_mut(session).flags &= !DEFERRED;
        loop {
            let entry = self.sessions.slot(session);
            let slot = match slot {
                Some(slot) if entry.flags & (BACKLOGGED | GATED) == 0 => slot,
                _ => return,
            };
            if self.outbox.pending_bytes(slot) > TURN_BYTES_MAX || self.is_spent() {
                self.defer(session);
                return;
            }
            if !self.pump_one(now, session) {
                break;
            }
            self.spend(WORK_A_QUEUED);
        }
        let entry = self.sessions.slot_mut(session);
        if entry.session_mut().queue.is_empty() {
            entry.flags &= !QUEUES_QOS0;
            let state = entry.session_mut();
            state.full_reported = false;
            self.tell_groups(session, true);
        }
    }

    pub(in crate::broker) fn defer(&mut self, session: SessionSlot) {
        let entry = self.sessions.slot_mut(session);
        if entry.flags & DEFERRED == 0 {
            entry.flags |= DEFERRED;
            self.turn.defer_session(session);
        }
    }

    /// Sends one message. Returns `false` if there is none that may be sent.
    fn pump_one(&mut self, now: Time, session: SessionSlot) -> bool {
        let version = self.sessions.slot(session).version;
        let state = self.sessions.session_mut(session);
        if let Some((resend, duplicate)) = state.inflight.next_resend() {
            let message = Rc::clone(&resend.delivery.message);
            let form = WireForm { version, qos: resend.delivery.qos, retain: resend.delivery.retain };
            let (packet_id, ids) = (resend.packet_id, ids_of(&resend.delivery.extra));
            let mut fanout = Fanout::of(&message, now);
            if !duplicate && message.is_expired(now) {
                // It had its identifier, but sending it was never begun. [MQTT5-3.3.2-5]
                self.count(Counter::DroppedExpired, 1);
                self.count(Counter::PublishesDropped, 1);
                self.drop_unsent(now, session, packet_id, form.qos, LossCause::Expired);
            } else if self.is_withheld(session, fanout.publication.topic) {
                // It counts as delivered, because the access list has changed.
                self.drop_unsent(now, session, packet_id, form.qos, LossCause::Withdrawn);
            } else if self.fits(session, &fanout, form, &ids) {
                self.send_publish(session, &mut fanout, form, Some(packet_id), duplicate, &ids);
            } else {
                // It counts as delivered, because the Maximum Packet Size is smaller than before.
                self.drop_too_large();
                self.drop_unsent(now, session, packet_id, form.qos, LossCause::TooLarge);
            }
            return true;
        }
        if !state.inflight.has_room() {
            return self.pump_replay(now, session);
        }
        let Some(delivery) = state.queue.pop() else { return self.pump_replay(now, session) };
        self.note_queued(-(delivery.message.bytes() as isize), -1);
        if delivery.message.is_expired(now) {
            // [MQTT5-3.3.2-5]
            self.count(Counter::DroppedExpired, 1);
            self.count(Counter::PublishesDropped, 1);
            self.drop_waiting(now, session, &delivery, LossCause::Expired);
            return true;
        }
        if self.is_withheld(session, delivery.message.as_publication().topic) {
            self.drop_waiting(now, session, &delivery, LossCause::Withdrawn);
            return true;
        }
        self.send_delivery(now, session, delivery, None);
        true
    }

    /// Sends a delivery of any QoS that was never sent before and that the client may receive. `replay` is
    /// the token of the replay that it comes from.
    pub(in crate::broker) fn send_delivery(
        &mut self,
        now: Time,
        session: SessionSlot,
        delivery: Delivery,
        replay: Option<RequestToken>,
    ) {
        let form = WireForm {
            version: self.sessions.slot(session).version,
            qos: delivery.qos,
            retain: delivery.retain,
        };
        let message = Rc::clone(&delivery.message);
        let mut fanout = self.fanout_of(&message, now);
        self.send_unsent(now, session, &mut fanout, form, delivery, replay);
        self.note_encoded(&message, &mut fanout);
    }

    fn send_unsent(
        &mut self,
        now: Time,
        session: SessionSlot,
        fanout: &mut Fanout<'_>,
        form: WireForm,
        delivery: Delivery,
        replay: Option<RequestToken>,
    ) {
        let ids = ids_of(&delivery.extra);
        if !self.fits(session, fanout, form, &ids) {
            self.drop_too_large();
            self.drop_waiting(now, session, &delivery, LossCause::TooLarge);
            return;
        }
        if form.qos == QoS::AtMostOnce {
            self.send_publish(session, fanout, form, None, false, &ids);
            return;
        }
        let Some(sid) = self.sid(session) else {
            let packet_id = self.sessions.session_mut(session).inflight.start(delivery);
            self.send_publish(session, fanout, form, Some(packet_id), false, &ids);
            return;
        };
        let mut delivery = delivery;
        // It has a number if it was queued.
        let (message, key) = match delivery.number {
            Some(number) => (None, DeliveryKey { sid, number }),
            None => {
                let (message, key) = self.number_delivery(sid, fanout);
                (Some(message), key)
            }
        };
        delivery.number = Some(key.number);
        let group = message.and_then(|_| delivery.group().cloned());
        let waits = self.sends_when_durable(session, fanout, form.qos);
        let window = &mut self.sessions.session_mut(session).inflight;
        let packet_id = if waits { window.prepare(delivery) } else { window.start(delivery) };
        match message {
            None => self.durability.record(&Record::Started { sid, number: key.number, packet_id }),
            Some(message) => {
                let (qos, retain) = (form.qos, form.retain);
                self.record_delivery(key, message, Some(packet_id), qos, retain, &ids, group.as_ref());
            }
        }
        if waits {
            self.publish_when_durable(session, packet_id, key.number, replay, form.qos);
        } else {
            self.send_publish(session, fanout, form, Some(packet_id), false, &ids);
        }
    }

    /// Whether the client must not get this message although its subscriptions match.
    pub(in crate::broker) fn is_withheld(&self, session: SessionSlot, topic: &str) -> bool {
        self.sessions.slot(session).flags & CHECKED != 0 && !self.may_receive(session, topic)
    }
}

/// The size of an alias's entry in the table of a connection.
const ALIAS_PLACE_BYTES: usize = 40;

/// The most that a topic alias adds to a packet: the property, and longer length fields.
const ALIAS_BYTES: usize = 5;

pub(in crate::broker) fn extra(subscription_ids: &[u32], group: Option<&Arc<str>>) -> Option<Box<Extra>> {
    (!subscription_ids.is_empty() || group.is_some())
        .then(|| Box::new(Extra { subscription_ids: subscription_ids.into(), group: group.cloned() }))
}

pub(in crate::broker) fn ids_of(extra: &Option<Box<Extra>>) -> SmallVec<[u32; 4]> {
    extra.as_ref().map(|extra| extra.subscription_ids.clone()).unwrap_or_default()
}
