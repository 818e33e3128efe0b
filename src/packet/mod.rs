//! The wire format of MQTT 3.1, 3.1.1 and 5.0: bytes in, borrowed packets out, and back.
//!
//! Owns nothing and keeps no state. Framing finds the end of a packet without looking at its
//! body; decoding borrows from the bytes it is given and has checked everything that a packet
//! alone can be checked for, so that later stages never meet a malformed field.

mod acks;
mod connack;
mod connect;
mod error;
mod property;
mod publish;
mod reason;
mod subscribe;
#[cfg(test)]
mod tests;
mod wire;

pub use acks::{
    Ack, AckKind, Auth, Disconnect, decode_ack, decode_auth, decode_disconnect, encode_ack, encode_auth,
    encode_disconnect, encode_pingresp,
};
pub use connack::{Connack, encode_connack};
pub use connect::{Connect, ConnectWill};
pub use error::{DecodeError, Fault};
pub use property::{KeptProperties, read_kept_properties};
pub use publish::{Publish, PublishHeader, encode_publish, publish_len};
pub use reason::Reason;
pub use subscribe::{
    Subscribe, SubscribeFilter, SubscribeFilters, Unsubscribe, UnsubscribeFilters, encode_suback,
    encode_unsuback,
};
pub use wire::{Frame, Framing, PACKET_BYTES_LIMIT, frame};

use wire::packet_type;

use std::num::NonZeroU16;

/// The protocol level that a connection speaks. Ordered by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ProtocolVersion {
    /// MQTT 3.1, protocol name `MQIsdp`, level 3.
    V31 = 3,
    /// MQTT 3.1.1, level 4.
    V311 = 4,
    /// MQTT 5.0, level 5.
    V5 = 5,
}

/// Quality of service of a PUBLISH, a will or a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// At most once.
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

impl QoS {
    /// The level of two bits; 3 is no level.
    pub fn from_bits(bits: u8) -> Option<QoS> {
        match bits {
            0 => Some(QoS::AtMostOnce),
            1 => Some(QoS::AtLeastOnce),
            2 => Some(QoS::ExactlyOnce),
            _ => None,
        }
    }
}

/// A packet identifier: 1 to 65,535, never zero. `[MQTT5-2.2.1-3]` `[MQTT311-2.3.1-1]`
pub type PacketId = NonZeroU16;

/// Any packet a client may send after CONNECT.
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

/// Decodes one whole packet (any but CONNECT) that `frame` has found.
///
/// # Errors
/// Whatever the standard calls malformed or a protocol error in a single packet. A packet that no client
/// may send, or not again, is a Protocol fault; where its flag bits are wrong too, either code fits
/// (section 4.13.2), and mosquitto's is given.
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
