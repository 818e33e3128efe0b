//! The acknowledgements of a client: PUBACK, PUBREC, PUBREL and PUBCOMP (sections 4.3 and 4.4).

use crate::base::{ConnectionKey, ConnectionSlot, DeliveryNumber, LogMark, SessionKey, SessionSlot, Time};
use crate::broker::components::replies::{AfterLog, Reply};
use crate::broker::{Shard, Violation};
use crate::mqtt::codec::{Ack, AckKind, encode_ack};
use crate::mqtt::{PacketId, Reason};
use crate::session::AckOutcome;
use crate::store::Record;

impl Shard {
    pub(in crate::broker) fn handle_ack(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        ack: Ack,
    ) -> Result<(), Violation> {
        let state = self.sessions.session_mut(session);
        if ack.kind == AckKind::Pubrel {
            // [MQTT5-4.3.3-11] If the identifier is not held, 5.0 clients get 0x92. [MQTT5-3.7.2-1] "Not an
            // error during recovery": if the connection has begun no QoS 2 exchange, the PUBREL can only come
            // from a session that one side has lost. Then 0x00 lets the client complete its exchange.
            let fresh = !state.received_qos2;
            let held = self.release_held(session, ack.packet_id);
            let reason = if held || fresh { Reason::Success } else { Reason::PacketIdentifierNotFound };
            // The client reuses the identifier after PUBCOMP, so the release must be durable.
            let mark =
                if held && self.sid(session).is_some() { self.durability.mark() } else { LogMark::START };
            let pubcomp = Ack { kind: AckKind::Pubcomp, packet_id: ack.packet_id, reason };
            self.reply(now, slot, mark, None, Reply::Ack(pubcomp));
            return Ok(());
        }
        match state.inflight.handle_ack(ack.kind, ack.packet_id, ack.reason.is_error()) {
            AckOutcome::Settled(number) => {
                // Usually no delivery waits for the place.
                let at_rest = state.is_at_rest();
                self.record_settled(session, number);
                if !at_rest {
                    self.pump(now, session);
                }
            }
            AckOutcome::Release(number) => self.release_delivery(now, slot, session, ack.packet_id, number),
            AckOutcome::Unknown if ack.kind == AckKind::Pubrec && !ack.reason.is_error() => {
                // [MQTT5-3.6.2-1] For recovery see above.
                let reason = if state.inflight.sent_qos2() {
                    Reason::PacketIdentifierNotFound
                } else {
                    Reason::Success
                };
                let pubrel = Ack { kind: AckKind::Pubrel, packet_id: ack.packet_id, reason };
                self.reply(now, slot, LogMark::START, None, Reply::Ack(pubrel));
            }
            AckOutcome::Unknown => {}
            AckOutcome::Mismatch => {
                return Err(Violation {
                    reason: Reason::ProtocolError,
                    cause: "acknowledgement does not fit the state of its packet identifier",
                });
            }
        }
        Ok(())
    }

    /// Handles a PUBREC: PUBREL must follow. `[MQTT5-4.3.3-4]`
    fn release_delivery(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        packet_id: PacketId,
        number: Option<DeliveryNumber>,
    ) {
        if let (Some(sid), Some(number), Some(connection)) =
            (self.sid(session), number, self.connections.key(slot))
        {
            self.durability.record(&Record::Released { sid, number });
            let session = self.sessions.key(session);
            self.wait_for_log(self.durability.mark(), AfterLog::Pubrel { session, connection, packet_id });
            return;
        }
        let pubrel = Ack { kind: AckKind::Pubrel, packet_id, reason: Reason::Success };
        self.reply(now, slot, LogMark::START, None, Reply::Ack(pubrel));
    }

    /// Sends a PUBREL that the log has. On a newer connection, `resume` has sent it already.
    pub(in crate::broker) fn send_durable_pubrel(
        &mut self,
        session: SessionKey,
        connection: ConnectionKey,
        packet_id: PacketId,
    ) {
        let Some(session) = self.sessions.resolve(session) else { return };
        let version = self.version_of_session(session);
        if self.is_served_by(session, connection) {
            let pubrel = Ack { kind: AckKind::Pubrel, packet_id, reason: Reason::Success };
            self.send_packet(connection.slot, |out| encode_ack(out, version, pubrel));
        }
    }
}
