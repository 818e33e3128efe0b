//! PUBLISH in both directions.
//!
//! Incoming: a frame becomes a borrowed `Publish` whose topic name and properties are checked. Outgoing: the
//! header of a PUBLISH is appended to the caller's buffer in one step, without copying the payload.
//! Implements section 3.3. Every message passes through this file.

use super::property::{self, Properties, Property, PropertySet};
use super::wire::{FieldReader, Sink, VARINT_MAX, packet_len, put_binary, put_varint, varint_len};
use super::{DecodeError, Frame, PacketId, ProtocolVersion, QoS};
use crate::mqtt::{TopicError, check_topic_name};

/// A PUBLISH from a client, borrowed from the read buffer.
#[derive(Debug)]
pub struct Publish<'a> {
    /// The DUP flag as sent.
    pub dup: bool,
    /// QoS.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// Present exactly if QoS > 0. `[MQTT5-2.2.1-2]` `[MQTT311-2.3.1-5]`
    pub packet_id: Option<PacketId>,
    /// A checked topic name. It is empty only with a topic alias.
    pub topic: &'a str,
    /// The topic alias, never 0. `[MQTT5-3.3.2-8]` It is not compared with the announced maximum here.
    pub topic_alias: Option<u16>,
    /// The message expiry interval in seconds.
    pub message_expiry_seconds: Option<u32>,
    /// The properties to forward unaltered (all but expiry and alias), as up to three ranges of raw bytes
    /// around those two. They are in the publisher's order. `[MQTT5-3.3.2-18]`
    pub forward: [&'a [u8]; 3],
    /// The application message.
    pub payload: &'a [u8],
}

const _: () = assert!(size_of::<Publish<'_>>() <= 104, "every message passes through one of these");

impl<'a> Publish<'a> {
    /// Decodes the frame of a PUBLISH.
    ///
    /// # Errors
    /// Malformed for wrong flags, lengths, strings and properties, and for topics with a wildcard. Protocol
    /// for the packet identifier 0, a missing topic without an alias, and a subscription identifier.
    /// TopicAliasInvalid for the alias 0.
    pub fn decode(version: ProtocolVersion, frame: Frame<'a>) -> Result<Publish<'a>, DecodeError> {
        frame.check_length(version)?;
        let flags = frame.flags();
        // [MQTT5-3.3.1-4] [MQTT311-3.3.1-4]
        let qos = QoS::from_bits(flags >> 1 & 0b11).ok_or(DecodeError::malformed("PUBLISH of QoS 3"))?;
        let dup = flags & 0b1000 != 0;
        if dup && qos == QoS::AtMostOnce && version > ProtocolVersion::V31 {
            // [MQTT5-3.3.1-2] [MQTT311-3.3.1-2]; 3.1 does not check unused bits.
            return Err(DecodeError::malformed("DUP on a PUBLISH of QoS 0"));
        }
        let mut reader = FieldReader::new(frame.body);
        // [MQTT5-3.3.2-1] [MQTT311-3.3.2-1]
        let topic = reader.utf8()?;
        let packet_id = match qos {
            QoS::AtMostOnce => None,
            // [MQTT5-2.2.1-3] [MQTT311-2.3.1-1]
            _ => Some(reader.packet_id(DecodeError::protocol("packet identifier 0"))?),
        };
        let (mut topic_alias, mut message_expiry_seconds, mut forward) = (None, None, [&[][..]; 3]);
        if version == ProtocolVersion::V5 {
            let mut properties = Properties::parse(&mut reader, PropertySet::PUBLISH)?;
            while let Some(property) = properties.read_next()? {
                match property {
                    Property::TopicAlias(alias) => {
                        topic_alias = Some(alias);
                        properties.cut();
                    }
                    Property::MessageExpiryInterval(seconds) => {
                        message_expiry_seconds = Some(seconds);
                        properties.cut();
                    }
                    // [MQTT5-3.3.4-6]
                    Property::SubscriptionIdentifier(_) => {
                        return Err(DecodeError::protocol("subscription identifier from a client"));
                    }
                    _ => {}
                }
            }
            forward = properties.into_forward();
        }
        check_topic(topic, topic_alias.is_some())?;
        let retain = flags & 1 != 0;
        let payload = reader.rest();
        Ok(Publish {
            dup,
            qos,
            retain,
            packet_id,
            topic,
            topic_alias,
            message_expiry_seconds,
            forward,
            payload,
        })
    }
}

/// An empty topic needs an alias. Without one, section 3.3.2.1 demands a protocol error.
fn check_topic(topic: &str, has_alias: bool) -> Result<(), DecodeError> {
    match check_topic_name(topic) {
        Ok(()) => Ok(()),
        Err(TopicError::Empty) if has_alias => Ok(()),
        Err(TopicError::Empty) => Err(DecodeError::protocol("neither topic name nor topic alias")),
        // [MQTT5-3.3.2-2] [MQTT311-3.3.2-2]
        Err(TopicError::Wildcard) => Err(DecodeError::malformed("wildcard in a topic name")),
        Err(TopicError::ControlCharacter) => {
            Err(DecodeError::malformed("control character or non-character in a topic name"))
        }
    }
}

/// An outgoing PUBLISH without its payload.
#[derive(Clone, Copy, Debug)]
pub struct PublishHeader<'a> {
    /// The subscriber's protocol version. 3.x has no properties.
    pub version: ProtocolVersion,
    /// The DUP flag. It must not be set for QoS 0. `[MQTT5-3.3.1-2]` `[MQTT311-3.3.1-2]`
    pub dup: bool,
    /// QoS.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// Required if QoS > 0. `None` leaves two zero bytes, which the caller must fill in before sending.
    pub packet_id: Option<PacketId>,
    /// The topic name, at most 65,535 bytes. It is empty if the alias is already bound.
    pub topic: &'a str,
    /// The topic alias.
    pub topic_alias: Option<u16>,
    /// The remaining message expiry interval, in seconds.
    pub message_expiry_seconds: Option<u32>,
    /// The properties that are forwarded unaltered.
    pub forward: [&'a [u8]; 3],
    /// The subscription identifiers of the matching subscriptions, each 1 to 268,435,455.
    pub subscription_ids: &'a [u32],
}

/// The length of a packet's properties, and its Remaining Length.
struct Lengths {
    properties: usize,
    remaining: usize,
}

impl PublishHeader<'_> {
    fn properties_len(&self) -> usize {
        let alias_len = self.topic_alias.map_or(0, |_| 3);
        let expiry_len = self.message_expiry_seconds.map_or(0, |_| 5);
        let forward_len: usize = self.forward.iter().map(|run| run.len()).sum();
        let ids_len: usize = self.subscription_ids.iter().map(|&id| 1 + varint_len(id as usize)).sum();
        alias_len + expiry_len + forward_len + ids_len
    }

    fn lengths(&self, payload_len: usize) -> Lengths {
        let id_len = if self.qos == QoS::AtMostOnce { 0 } else { 2 };
        let properties = self.properties_len();
        let properties_len = match self.version {
            ProtocolVersion::V5 => varint_len(properties) + properties,
            _ => 0,
        };
        Lengths { properties, remaining: 2 + self.topic.len() + id_len + properties_len + payload_len }
    }
}

/// The length of the whole packet in bytes, with the fixed header. The packet must not be sent if it exceeds
/// the subscriber's maximum packet size or `PACKET_BYTES_LIMIT`. `[MQTT5-3.1.2-24]`
pub fn publish_len(header: &PublishHeader<'_>, payload_len: usize) -> usize {
    packet_len(header.lengths(payload_len).remaining)
}

/// Appends everything before the payload. The caller appends the payload itself or refers to it. Returns the
/// position in `out` of the packet identifier's two bytes (0 for QoS 0).
///
/// The caller must have checked that `publish_len` is at most `PACKET_BYTES_LIMIT`.
pub fn encode_publish(out: &mut Vec<u8>, header: &PublishHeader<'_>, payload_len: usize) -> usize {
    debug_assert!(!(header.dup && header.qos == QoS::AtMostOnce), "DUP belongs to QoS 1 and 2");
    let lengths = header.lengths(payload_len);
    debug_assert!(lengths.remaining <= VARINT_MAX as usize, "a packet is larger than the wire can say");
    out.reserve(packet_len(lengths.remaining) - payload_len);
    out.push(0x30 | u8::from(header.dup) << 3 | (header.qos as u8) << 1 | u8::from(header.retain));
    put_varint(out, lengths.remaining);
    put_binary(out, header.topic.as_bytes());
    let mut packet_id_at = 0;
    if header.qos != QoS::AtMostOnce {
        packet_id_at = out.len();
        out.put(&header.packet_id.map_or(0, PacketId::get).to_be_bytes());
    }
    if header.version == ProtocolVersion::V5 {
        put_varint(out, lengths.properties);
        property::put_u32(out, property::id::MESSAGE_EXPIRY_INTERVAL, header.message_expiry_seconds);
        // [MQTT5-3.3.4-4]
        for &id in header.subscription_ids {
            out.push(property::id::SUBSCRIPTION_IDENTIFIER);
            put_varint(out, id as usize);
        }
        property::put_u16(out, property::id::TOPIC_ALIAS, header.topic_alias);
        // [MQTT5-3.3.2-4] [MQTT5-3.3.2-15] [MQTT5-3.3.2-16] [MQTT5-3.3.2-17] [MQTT5-3.3.2-20]
        for run in header.forward {
            out.put(run);
        }
    }
    packet_id_at
}

#[cfg(test)]
mod tests {
    use super::super::{Fault, Framing, frame};
    use super::*;
    use ProtocolVersion::{V5, V31, V311};

    fn read(version: ProtocolVersion, bytes: &[u8]) -> Result<Publish<'_>, Fault> {
        let Ok(Framing::Whole(frame)) = frame(bytes, bytes.len()) else { panic!("not one packet") };
        Publish::decode(version, frame).map_err(|error| error.fault)
    }

    fn fault(version: ProtocolVersion, bytes: &[u8]) -> Fault {
        read(version, bytes).err().unwrap_or_else(|| panic!("accepted {bytes:x?}"))
    }

    /// A PUBLISH with this first byte and topic, these bytes after the topic, and no payload.
    fn publish(first: u8, topic: &[u8], rest: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        put_varint(&mut out, 2 + topic.len() + rest.len());
        put_binary(&mut out, topic);
        out.put(rest);
        out
    }

    fn header(version: ProtocolVersion, qos: QoS) -> PublishHeader<'static> {
        PublishHeader {
            version,
            dup: false,
            qos,
            retain: false,
            packet_id: None,
            topic: "a/b",
            topic_alias: None,
            message_expiry_seconds: None,
            forward: [&[]; 3],
            subscription_ids: &[],
        }
    }

    // Figure 3.9 of 5.0 and 3.11 of 3.1.1: topic a/b, packet identifier 10
    #[test]
    fn the_figures_of_the_standard_are_read_and_written() {
        let v3 = [0x3D, 0x09, 0, 3, b'a', b'/', b'b', 0, 10, b'h', b'i'];
        let read_v3 = read(V311, &v3).expect("valid");
        assert_eq!((read_v3.dup, read_v3.qos, read_v3.retain), (true, QoS::ExactlyOnce, true));
        assert_eq!((read_v3.topic, read_v3.payload), ("a/b", &b"hi"[..]));
        assert_eq!(read_v3.packet_id, PacketId::new(10));

        let v5 = [0x32, 0x08, 0, 3, b'a', b'/', b'b', 0, 10, 0];
        let read_v5 = read(V5, &v5).expect("valid");
        assert_eq!((read_v5.qos, read_v5.payload), (QoS::AtLeastOnce, &b""[..]));

        let mut out = vec![0xFF];
        let sent = PublishHeader { packet_id: PacketId::new(10), ..header(V5, QoS::AtLeastOnce) };
        assert_eq!(encode_publish(&mut out, &sent, 0), 8);
        assert_eq!(out[1..], v5);
        assert_eq!(publish_len(&sent, 0), v5.len());

        let mut out = Vec::new();
        let sent = PublishHeader {
            dup: true,
            retain: true,
            packet_id: PacketId::new(10),
            ..header(V311, QoS::ExactlyOnce)
        };
        assert_eq!(encode_publish(&mut out, &sent, 2), 7);
        assert_eq!(out, v3[..9]);
        assert_eq!(publish_len(&sent, 2), v3.len());
    }

    // [MQTT5-2.2.1-2] [MQTT311-2.3.1-5]
    #[test]
    fn qos_0_has_no_packet_identifier() {
        let bytes = publish(0x31, b"t", &[0, 1, 2]);
        let got = read(V311, &bytes).expect("valid");
        assert_eq!((got.retain, got.packet_id, got.payload), (true, None, &[0, 1, 2][..]));
        let mut out = Vec::new();
        assert_eq!(encode_publish(&mut out, &header(V311, QoS::AtMostOnce), 1), 0);
        assert_eq!(out, [0x30, 6, 0, 3, b'a', b'/', b'b']);
    }

    // [MQTT5-3.3.1-2] [MQTT5-3.3.1-4] [MQTT5-2.2.1-3] [MQTT311-3.3.1-2] [MQTT311-3.3.1-4] [MQTT311-2.3.1-1]
    #[test]
    fn flags_and_identifiers_that_cannot_be_are_refused() {
        for version in [V31, V311, V5] {
            assert_eq!(fault(version, &publish(0x36, b"t", &[0, 1, 0])), Fault::Malformed);
            assert_eq!(fault(version, &publish(0x32, b"t", &[0, 0, 0])), Fault::Protocol);
            assert_eq!(fault(version, &publish(0x34, b"t", &[0, 0, 0])), Fault::Protocol);
            assert_eq!(fault(version, &publish(0x32, b"t", &[0])), Fault::Malformed);
        }
        assert_eq!(fault(V5, &publish(0x38, b"t", &[0])), Fault::Malformed);
        assert_eq!(fault(V311, &publish(0x38, b"t", &[])), Fault::Malformed);
        assert!(read(V31, &publish(0x38, b"t", &[])).is_ok());
    }

    // [MQTT5-3.3.2-1] [MQTT5-3.3.2-2] [MQTT5-1.5.4-1] [MQTT5-1.5.4-2] [MQTT5-4.7.3-1] [MQTT5-4.7.3-2]
    // [MQTT311-3.3.2-1] [MQTT311-3.3.2-2] [MQTT311-4.7.1-1] [MQTT311-4.7.3-1] [MQTT311-4.7.3-2]
    #[test]
    fn topics_that_are_no_topic_names_are_refused() {
        let bad: [&[u8]; 11] = [
            b"a/+",
            b"a#b",
            b"#",
            b"a\0b",
            b"a\x01",
            b"a\x1F",
            b"a\x7F",
            b"\xC2\x9F",
            b"\xED\xA0\x80",
            b"\xC0\xAF",
            b"\xEF\xBF\xBF",
        ];
        for version in [V31, V311, V5] {
            for topic in bad {
                assert_eq!(fault(version, &publish(0x30, topic, &[0])), Fault::Malformed, "{topic:x?}");
            }
            assert_eq!(fault(version, &publish(0x30, b"", &[0])), Fault::Protocol);
            assert_eq!(fault(version, &[0x30, 3, 0, 9, b'a']), Fault::Malformed);
        }
        assert_eq!(read(V5, &publish(0x30, b"\xEF\xBB\xBFa", &[0])).expect("valid").topic, "\u{FEFF}a");
        let longest = vec![b'x'; 65_535];
        assert_eq!(read(V311, &publish(0x30, &longest, &[])).expect("valid").topic.len(), 65_535);
    }

    // [MQTT5-3.3.2-8] [MQTT5-3.3.4-6]
    #[test]
    fn aliases_stand_in_for_topics_and_subscription_identifiers_are_not_for_clients() {
        let alias_only = publish(0x30, b"", &[3, 0x23, 0, 7]);
        let got = read(V5, &alias_only).expect("valid");
        assert_eq!((got.topic, got.topic_alias), ("", Some(7)));
        assert_eq!(fault(V5, &publish(0x30, b"", &[3, 0x23, 0, 0])), Fault::TopicAliasInvalid);
        assert_eq!(fault(V5, &publish(0x30, b"t", &[2, 0x0B, 1])), Fault::Protocol);
        assert_eq!(fault(V5, &publish(0x30, b"t", &[5, 0x11, 0, 0, 0, 1])), Fault::Malformed);
        assert_eq!(fault(V5, &publish(0x30, b"t", &[200, 1])), Fault::Malformed);
    }

    // [MQTT5-3.3.2-4] [MQTT5-3.3.2-15..18] [MQTT5-3.3.2-20]
    #[test]
    fn everything_but_expiry_and_alias_is_forwarded_in_order_and_unaltered() {
        let expiry = [0x02, 0, 0, 1, 2];
        let alias = [0x23, 0, 1];
        let user = [0x26, 0, 1, b'k', 0, 1, b'v'];
        let rest = [0x01, 1, 0x08, 0, 1, b'r', 0x09, 0, 3, 0x00, 0xFF, 0x80, 0x03, 0, 0];
        let orders: [[&[u8]; 5]; 4] = [
            [&user, &expiry, &rest, &alias, &user],
            [&alias, &expiry, &user, &user, &rest],
            [&user, &rest, &user, &alias, &expiry],
            [&expiry, &user, &alias, &rest, &user],
        ];
        for order in orders {
            let raw = order.concat();
            let mut tail = vec![raw.len() as u8];
            tail.put(&raw);
            tail.put(b"payload");
            let bytes = publish(0x30, b"t", &tail);
            let got = read(V5, &bytes).expect("valid");
            assert_eq!((got.message_expiry_seconds, got.topic_alias), (Some(258), Some(1)));
            assert_eq!(got.payload, b"payload");
            let kept = order.iter().filter(|run| **run != expiry && **run != alias).copied();
            assert_eq!(got.forward.concat(), kept.collect::<Vec<_>>().concat());
        }
    }

    // [MQTT5-3.3.4-4] [MQTT5-2.2.2-1]
    #[test]
    fn subscription_identifiers_alias_and_expiry_are_written_with_exact_lengths() {
        let sent = PublishHeader {
            topic: "",
            topic_alias: Some(3),
            message_expiry_seconds: Some(60),
            forward: [&[0x01, 1], &[], &[0x03, 0, 0]],
            subscription_ids: &[1, 128, 268_435_455, 1],
            ..header(V5, QoS::AtMostOnce)
        };
        let mut out = Vec::new();
        encode_publish(&mut out, &sent, 0);
        assert_eq!(out.len(), publish_len(&sent, 0));
        let want = [
            &[0x30, 28, 0, 0, 25][..],
            &[0x02, 0, 0, 0, 60],
            &[0x0B, 1, 0x0B, 0x80, 0x01, 0x0B, 0xFF, 0xFF, 0xFF, 0x7F, 0x0B, 1],
            &[0x23, 0, 3, 0x01, 1, 0x03, 0, 0],
        ];
        assert_eq!(out, want.concat());
    }

    #[test]
    fn lengths_grow_at_the_steps_of_the_variable_byte_integer() {
        for payload_len in [121, 122, 16_377, 16_378, 2_097_145, 2_097_146] {
            let sent = header(V5, QoS::AtMostOnce);
            let mut out = Vec::new();
            encode_publish(&mut out, &sent, payload_len);
            assert_eq!(out.len() + payload_len, publish_len(&sent, payload_len));
            out.resize(out.len() + payload_len, b'x');
            assert_eq!(read(V5, &out).expect("valid").payload.len(), payload_len);
        }
    }
}
