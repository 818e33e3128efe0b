//! The packets of a client that is in: one match, one method for each.

use super::full_disk::DISK;
use super::read::Progress;
use crate::base::ConnectionKey;
use crate::base::LogMark;
use crate::base::SessionKey;
use crate::base::Time;
use crate::base::{ConnectionSlot, SessionSlot};
use crate::broker::components::connections::Stage;
use crate::broker::components::replies::{AfterLog, Reply};
use crate::broker::components::sessions::GATED;
use crate::broker::{EndCause, Shard, Violation};
use crate::mqtt::codec::{
    Ack, AckKind, Disconnect, Frame, Framing, Packet, decode, encode_ack, encode_pingresp, frame,
};
use crate::mqtt::{PacketId, ProtocolVersion, Reason};
use crate::session::AckOutcome;
use crate::store::Record;

impl Shard {
    pub(in crate::broker) fn handle_served(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        packet: Frame<'_>,
    ) -> Result<Progress, Violation> {
        let version = self.sessions.slot(session).version;
        // By reference: a PUBLISH is large, and would be moved twice.
        match &decode(version, packet) {
            Err(error) => return Err(Violation::from(*error)),
            Ok(Packet::Publish(publish)) => {
                if self.shared.is_a_store_full() && self.waits_for_disk(now, slot, session, publish) {
                    return Ok(Progress::Wait);
                }
                self.handle_publish(now, slot, session, publish)?;
            }
            Ok(Packet::Ack(ack)) => self.handle_ack(now, slot, session, *ack)?,
            Ok(Packet::Subscribe(subscribe)) => self.handle_subscribe(now, slot, session, subscribe)?,
            Ok(Packet::Unsubscribe(unsubscribe)) => {
                self.handle_unsubscribe(now, slot, session, unsubscribe)?;
            }
            Ok(Packet::Pingreq) => self.handle_ping(now, slot, session),
            Ok(Packet::Disconnect(disconnect)) => {
                self.handle_disconnect(now, slot, session, *disconnect)?;
                // [MQTT5 §3.14]: what follows is not processed.
                return Ok(Progress::Gone);
            }
            Ok(Packet::Auth(auth)) => self.handle_reauthentication(slot, session, auth)?,
        }
        // Work for this session may have been put off or have closed the connection meanwhile.
        Ok(if self.connections.get(slot).is_some() { Progress::Next } else { Progress::Gone })
    }

    fn handle_ack(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        ack: Ack,
    ) -> Result<(), Violation> {
        let state = self.sessions.session_mut(session);
        if ack.kind == AckKind::Pubrel {
            // [MQTT5-4.3.3-11]; an identifier that is not held: 0x92 in 5.0. [MQTT5-3.7.2-1]
            // "Not an error during recovery": on a connection that has begun no QoS 2 exchange,
            // it can only be left over from a session that one side has lost, and 0x00 lets the
            // client come to its end.
            let fresh = !state.received_qos2;
            let held = self.release_held(session, ack.packet_id);
            let reason = if held || fresh { Reason::Success } else { Reason::PacketIdentifierNotFound };
            // The client uses the identifier anew after PUBCOMP: the release must not be lost.
            let mark =
                if held && self.sid(session).is_some() { self.durability.mark() } else { LogMark::START };
            let pubcomp = Ack { kind: AckKind::Pubcomp, packet_id: ack.packet_id, reason };
            self.reply(now, slot, mark, None, Reply::Ack(pubcomp));
            return Ok(());
        }
        match state.inflight.handle_ack(ack.kind, ack.packet_id, ack.reason.is_error()) {
            AckOutcome::Settled(number) => {
                // Nearly always nothing waits for the place.
                let at_rest = state.is_at_rest();
                self.record_settled(session, number);
                if !at_rest {
                    self.pump(now, session);
                }
            }
            AckOutcome::Release(number) => self.release_delivery(now, slot, session, ack.packet_id, number),
            AckOutcome::Unknown if ack.kind == AckKind::Pubrec && !ack.reason.is_error() => {
                // [MQTT5-3.6.2-1], and in recovery as above.
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

    /// PUBREC came: PUBREL is due. `[MQTT5-4.3.3-4]`
    fn release_delivery(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        packet_id: PacketId,
        number: u64,
    ) {
        if let (Some(sid), Some(connection)) = (self.sid(session), self.connections.key(slot)) {
            self.durability.record(&Record::Released { sid, number });
            let session = self.sessions.key(session);
            self.wait_for_log(self.durability.mark(), AfterLog::Pubrel { session, connection, packet_id });
            return;
        }
        let pubrel = Ack { kind: AckKind::Pubrel, packet_id, reason: Reason::Success };
        self.reply(now, slot, LogMark::START, None, Reply::Ack(pubrel));
    }

    /// The log has it. A newer connection has been sent it by `resume`.
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

    /// `[MQTT5-3.12.4-1]`
    fn handle_ping(&mut self, now: Time, slot: ConnectionSlot, session: SessionSlot) {
        if self.sessions.slot(session).flags & GATED != 0 {
            // Behind CONNACK.
            self.reply(now, slot, self.durability.mark(), None, Reply::Pong);
        } else {
            self.send_packet(slot, encode_pingresp);
        }
    }

    fn handle_disconnect(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        disconnect: Disconnect,
    ) -> Result<(), Violation> {
        let cause = self.take_farewell(session, disconnect)?;
        self.end_connection(now, slot, cause);
        Ok(())
    }

    fn take_farewell(&mut self, session: SessionSlot, disconnect: Disconnect) -> Result<EndCause, Violation> {
        let max = self.shared.config.protocol.session_expiry_seconds_max;
        let state = self.sessions.session_mut(session);
        if let Some(seconds) = disconnect.session_expiry_seconds {
            if state.expiry_seconds == 0 && seconds > 0 {
                // [MQTT5 §3.14.2.2.2]: no valid DISCONNECT, so the will is published.
                return Err(Violation {
                    reason: Reason::ProtocolError,
                    cause: "DISCONNECT makes a session last that CONNECT let end",
                });
            }
            state.expiry_seconds = seconds.min(max);
        }
        Ok(EndCause::Disconnect(disconnect.reason))
    }

    /// The cause that an end has if the client has sent DISCONNECT behind packets that wait: for room on the disk, for
    /// a rate, for their turn. The DISCONNECT has been received, so the will is discarded. [MQTT5-3.14.4-3]
    /// [MQTT311-3.14.4-3] What waits before it is dropped unacknowledged, as at any other end. An end for a fault of
    /// the client or by the operator keeps its cause.
    pub(in crate::broker) fn cause_with_unread(&mut self, slot: ConnectionSlot, cause: EndCause) -> EndCause {
        let from_without = matches!(cause, EndCause::Hangup(_) | EndCause::TakenOver | EndCause::Shutdown)
            || cause == EndCause::Violation(DISK);
        let Some(connection) = self.connections.get_mut(slot).filter(|_| from_without) else { return cause };
        let Stage::Serving { session, .. } = connection.stage else { return cause };
        let Some(partial) = connection.partial.take() else { return cause };
        let (version, max) = (self.version_of_session(session), self.terms(slot).packet_bytes);
        let mut bytes = &partial.bytes[..];
        while let Ok(Framing::Whole(packet)) = frame(bytes, max) {
            let len = packet.total_len;
            match decode(version, packet) {
                Ok(Packet::Disconnect(disconnect)) => {
                    return self.take_farewell(session, disconnect).unwrap_or(cause);
                }
                Ok(_) => bytes = &bytes[len..],
                Err(_) => break,
            }
        }
        cause
    }

    pub(in crate::broker) fn version_of_session(&self, session: SessionSlot) -> ProtocolVersion {
        self.sessions.slot(session).version
    }
}
