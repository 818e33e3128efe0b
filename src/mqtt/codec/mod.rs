//! The wire format of MQTT 3.1, 3.1.1 and 5.0: from bytes to borrowed packets, and back.
//!
//! It has no state. Framing finds the end of a packet without reading its body. Decoding borrows from the
//! bytes and checks everything that can be checked in a single packet, so that later stages never see a
//! malformed field.

mod acks;
mod connack;
mod connect;
mod error;
mod property;
mod publish;
mod subscribe;
mod summary;
#[cfg(test)]
mod tests;
mod wire;

pub use acks::{
    Ack, AckKind, Auth, Disconnect, DisconnectText, decode_ack, decode_auth, decode_disconnect, encode_ack,
    encode_auth, encode_disconnect, encode_pingresp,
};
pub use connack::{Connack, encode_connack};
pub use connect::{Connect, ConnectWill};
pub use error::{DecodeError, Fault};
pub use property::{KeptProperties, read_kept_properties};
pub use publish::{Publish, PublishHeader, encode_publish, publish_len};
pub use subscribe::{
    Subscribe, SubscribeFilter, SubscribeFilters, Unsubscribe, UnsubscribeFilters, encode_suback,
    encode_unsuback,
};
pub use summary::{PacketSummary, summarize_received, summarize_sent};
pub use wire::{Frame, Framing, PACKET_BYTES_LIMIT, frame};

use wire::packet_type;

use super::{PacketId, ProtocolVersion, QoS, Reason};

/// A packet that a client may send after CONNECT.
#[derive(Debug)]
pub enum Packet<'a> {
    /// PUBLISH.
    Publish(Publish<'a>),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack(Ack),
    /// SUBSCRIBE.
    Subscribe(Subscribe<'a>),
    /// UNSUBSCRIBE.
    Unsubscribe(Unsubscribe<'a>),
    /// PINGREQ.
    Pingreq,
    /// DISCONNECT.
    Disconnect(Disconnect),
    /// AUTH, 5.0 only.
    Auth(Auth<'a>),
}

/// Decodes one complete packet (any but CONNECT) that `frame` has found.
///
/// # Errors
/// Everything that the standard calls malformed or a protocol error in a single packet. A packet that clients
/// may never send, or may not send again, is a Protocol fault. If its flag bits are wrong too, either code is
/// allowed (section 4.13.2); midge returns mosquitto's.
pub fn decode<'a>(version: ProtocolVersion, frame: Frame<'a>) -> Result<Packet<'a>, DecodeError> {
    match frame.packet_type() {
        packet_type::PUBLISH => Publish::decode(version, frame).map(Packet::Publish),
        packet_type::PUBACK | packet_type::PUBREC | packet_type::PUBREL | packet_type::PUBCOMP => {
            decode_ack(version, frame).map(Packet::Ack)
        }
        packet_type::SUBSCRIBE => Subscribe::decode(version, frame).map(Packet::Subscribe),
        packet_type::UNSUBSCRIBE => Unsubscribe::decode(version, frame).map(Packet::Unsubscribe),
        packet_type::PINGREQ => decode_pingreq(version, frame),
        packet_type::DISCONNECT => decode_disconnect(version, frame).map(Packet::Disconnect),
        packet_type::AUTH if version == ProtocolVersion::V5 => decode_auth(frame).map(Packet::Auth),
        packet_type::SUBACK | packet_type::UNSUBACK | packet_type::PINGRESP => {
            frame.check_flags(version, 0)?;
            Err(DecodeError::protocol("packet type that only a server sends"))
        }
        packet_type::CONNACK => Err(DecodeError::protocol("packet type that only a server sends")),
        // [MQTT5-3.1.0-2] [MQTT311-3.1.0-2]
        packet_type::CONNECT => Err(DecodeError::protocol("second CONNECT")),
        // Section 2.1.2 of 5.0, 2.2.1 of 3.1.1: type 0, and type 15 before 5.0.
        _ => Err(DecodeError::protocol("forbidden packet type")),
    }
}

fn decode_pingreq(version: ProtocolVersion, frame: Frame<'_>) -> Result<Packet<'_>, DecodeError> {
    frame.check_flags(version, 0)?;
    frame.check_length(version)?;
    if !frame.body.is_empty() {
        return Err(DecodeError::malformed("PINGREQ with a body"));
    }
    Ok(Packet::Pingreq)
}
