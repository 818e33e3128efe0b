//! Messages that a session gets only when the log has them. They wait beside their place in its window, and
//! are sent for the first time when the write has ended.

use super::deliver::ids_of;
use crate::base::{DeliveryNumber, RequestToken, SessionSlot, Time};
use crate::broker::Shard;
use crate::broker::components::replies::{AfterLog, FirstSending};
use crate::broker::fanout::WireForm;
use crate::mqtt::codec::AckKind;
use crate::mqtt::{PacketId, QoS};
use crate::session::AckOutcome;
use std::rc::Rc;

impl Shard {
    /// Sends a message when the log has the packet identifier and everything that it results from. A session
    /// that is not in the log ends with its connection: if it gets the message twice, it gets the second copy
    /// as another session.
    pub(in crate::broker) fn publish_when_durable(
        &mut self,
        session: SessionSlot,
        packet_id: PacketId,
        number: DeliveryNumber,
        replay: Option<RequestToken>,
        qos: QoS,
    ) {
        if qos == QoS::AtLeastOnce {
            let waiting = &mut self.sessions.session_mut(session).waiting_qos1;
            *waiting = waiting.saturating_add(1);
        }
        let slot = self.sessions.slot(session).connection;
        let Some(connection) = slot.and_then(|slot| self.connections.key(slot)) else { return };
        let state = self.sessions.session_mut(session);
        if let Some(replay) = replay.and_then(|token| state.replay_mut(token)) {
            replay.for_log += 1;
        }
        let session = self.sessions.key(session);
        let sending = FirstSending { session, connection, packet_id, number, replay, qos };
        self.wait_for_log(self.durability.mark(), AfterLog::Publish(sending));
    }

    /// Sends a message that the log has. A newer connection sends it again by itself.
    pub(in crate::broker) fn send_durable_publish(&mut self, now: Time, sending: FirstSending) {
        let FirstSending { session, connection, packet_id, number, replay, qos } = sending;
        let Some(session) = self.sessions.resolve(session) else { return };
        if !self.is_served_by(session, connection) {
            return;
        }
        if qos == QoS::AtLeastOnce {
            let waiting = &mut self.sessions.session_mut(session).waiting_qos1;
            *waiting = waiting.saturating_sub(1);
        }
        if let Some(replay) = replay {
            self.send_durable_retained(now, session, packet_id, number, replay, qos);
            return;
        }
        self.send_first(now, session, packet_id, number);
    }

    /// Does the same for a retained message. A newer live message may have overtaken it while it waited.
    fn send_durable_retained(
        &mut self,
        now: Time,
        session: SessionSlot,
        packet_id: PacketId,
        number: DeliveryNumber,
        replay: RequestToken,
        qos: QoS,
    ) {
        let state = self.sessions.session_mut(session);
        if let Some(replay) = state.replay_mut(replay) {
            replay.for_log -= 1;
        }
        let overtaken = state.has_overtaken() && {
            let waiting =
                state.inflight.first(packet_id, number).map(|delivery| Rc::clone(&delivery.message));
            waiting.is_some_and(|message| {
                let hash = self.shared.hash(message.as_publication().topic);
                self.sessions.session(session).is_overtaken(hash, message.stamp(), replay)
            })
        };
        if overtaken {
            let kind = if qos == QoS::AtLeastOnce { AckKind::Puback } else { AckKind::Pubrec };
            let window = &mut self.sessions.session_mut(session).inflight;
            if let AckOutcome::Settled(number) = window.handle_ack(kind, packet_id, true) {
                self.record_settled(session, number);
            }
        } else {
            self.send_first(now, session, packet_id, number);
        }
        self.pump(now, session);
    }

    fn send_first(&mut self, now: Time, session: SessionSlot, packet_id: PacketId, number: DeliveryNumber) {
        let entry = self.sessions.slot(session);
        let version = entry.version;
        let window = &mut self.sessions.session_mut(session).inflight;
        let Some(delivery) = window.send_first(packet_id, number) else { return };
        let form = WireForm { version, qos: delivery.qos, retain: delivery.retain };
        let (message, ids) = (Rc::clone(&delivery.message), ids_of(&delivery.extra));
        let mut fanout = self.fanout_of(&message, now);
        self.send_publish(session, &mut fanout, form, Some(packet_id), false, &ids);
        self.note_encoded(&message, &mut fanout);
    }
}
