//! The packets of a connected client: one match, with a method for each.

use super::read::Progress;
use crate::base::Time;
use crate::base::{ConnectionSlot, SessionSlot};
use crate::broker::components::replies::Reply;
use crate::broker::components::sessions::GATED;
use crate::broker::{Shard, Violation};
use crate::mqtt::ProtocolVersion;
use crate::mqtt::codec::{Frame, Packet, decode, encode_pingresp};

impl Shard {
    pub(in crate::broker) fn handle_served(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        packet: Frame<'_>,
    ) -> Result<Progress, Violation> {
        let version = self.sessions.slot(session).version;
        // This matches a reference, because a PUBLISH is large and would be moved twice.
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
                // [MQTT5 §3.14]: nothing after it is processed.
                return Ok(Progress::Gone);
            }
            Ok(Packet::Auth(auth)) => self.handle_reauthentication(slot, session, auth)?,
        }
        // Other work for this session may have closed the connection.
        Ok(if self.connections.get(slot).is_some() { Progress::Next } else { Progress::Gone })
    }

    /// `[MQTT5-3.12.4-1]`
    fn handle_ping(&mut self, now: Time, slot: ConnectionSlot, session: SessionSlot) {
        if self.sessions.slot(session).flags & GATED != 0 {
            // It must follow CONNACK.
            self.reply(now, slot, self.durability.mark(), None, Reply::Pong);
        } else {
            self.send_packet(slot, encode_pingresp);
        }
    }

    pub(in crate::broker) fn version_of_session(&self, session: SessionSlot) -> ProtocolVersion {
        self.sessions.slot(session).version
    }
}
