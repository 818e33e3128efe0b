//! CONNECT: the first packet of a client, in three versions.
//!
//! A frame becomes a borrowed `Connect` or a fault. For a fault, `version_of` gives the version of the
//! answer. Policy (the length of a client identifier, who may connect, the topics of a will) is not checked
//! here. Implements section 3.1.

use super::property::{Properties, Property, PropertySet};
use super::wire::{FieldReader, packet_type};
use super::{DecodeError, Fault, Frame, ProtocolVersion, QoS};
use crate::mqtt::check_topic_name;

/// A CONNECT, borrowed from the read buffer.
#[derive(Debug)]
pub struct Connect<'a> {
    /// The version. The protocol name and the level must both give it.
    pub version: ProtocolVersion,
    /// Whether the level has the bit of mosquitto's bridges. All subscriptions of such a connection have No
    /// Local and Retain As Published, for which 3.x has no options. `[MQTT311 §3.1-r]`.
    pub is_bridge: bool,
    /// Clean Start in 5.0, Clean Session in 3.x.
    pub clean_start: bool,
    /// The keep alive as sent, in seconds; 0: none.
    pub keep_alive_seconds: u16,
    /// The client identifier. If it is empty, the server must assign one. `[MQTT5-3.1.3-6]`
    /// `[MQTT311-3.1.3-6]`
    pub client_id: &'a str,
    /// Whether the client itself has sent `client_id`. If not, CONNACK has the identifier that the server
    /// puts there.
    pub has_client_id: bool,
    /// The will. Present exactly if the Will Flag is set.
    pub will: Option<ConnectWill<'a>>,
    /// The user name.
    pub username: Option<&'a str>,
    /// The password, any bytes.
    pub password: Option<&'a [u8]>,
    /// The session expiry interval as sent, in seconds. In 3.x it is 0 with clean session, otherwise
    /// 0xFFFF_FFFF (never).
    pub session_expiry_seconds: u32,
    /// The Receive Maximum, 1 to 65,535. It is 65,535 if absent.
    pub receive_maximum: u16,
    /// The Maximum Packet Size in bytes, with the fixed header. It is `u32::MAX` if absent.
    pub packet_bytes_max: u32,
    /// The Topic Alias Maximum. It is 0 (no aliases) if absent.
    pub topic_alias_maximum: u16,
    /// Whether CONNACK may have Response Information. `[MQTT5-3.1.2-28]`
    pub request_response_information: bool,
    /// Whether acknowledgements may have Reason String and User Properties. `[MQTT5-3.1.2-29]`
    pub request_problem_information: bool,
    /// The authentication method. If it is present, the client uses enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// The authentication data. It never comes without a method.
    pub authentication_data: Option<&'a [u8]>,
}

/// The will of a CONNECT.
#[derive(Debug)]
pub struct ConnectWill<'a> {
    /// The Will QoS.
    pub qos: QoS,
    /// The Will Retain flag.
    pub retain: bool,
    /// The Will Delay Interval in seconds. It is 0 if absent, and in 3.x.
    pub delay_seconds: u32,
    /// The message expiry interval in seconds, counted from the publication of the will.
    pub message_expiry_seconds: Option<u32>,
    /// The same as `Publish::forward`, without delay and expiry. `[MQTT5-3.1.3-10]`
    pub forward: [&'a [u8]; 3],
    /// A checked topic name. `[MQTT5-3.1.3-11]` `[MQTT311-3.1.3-10]`
    pub topic: &'a str,
    /// The will payload, any bytes.
    pub payload: &'a [u8],
}

impl<'a> Connect<'a> {
    /// Decodes the frame of a CONNECT. After an error, `version_of` gives the version of the answer.
    ///
    /// # Errors
    /// UnsupportedProtocolName and UnsupportedProtocolVersion for the beginning. Malformed for wrong flags,
    /// lengths, strings and properties, and for a will topic that is not a topic name. Protocol for duplicate
    /// or out-of-range properties, authentication data without a method, and a packet that is not CONNECT.
    /// ClientIdentifierNotValid for an empty client identifier if the version forbids it.
    pub fn decode(frame: Frame<'a>) -> Result<Connect<'a>, DecodeError> {
        if frame.packet_type() != packet_type::CONNECT {
            // [MQTT5-3.1.0-1] [MQTT311-3.1.0-1]
            return Err(DecodeError::protocol("first packet is not CONNECT"));
        }
        let mut reader = FieldReader::new(frame.body);
        let (version, is_bridge) = read_version(&mut reader)?;
        frame.check_flags(version, 0)?;
        frame.check_length(version)?;
        let flags = ConnectFlags::read(version, &mut reader)?;
        let mut connect = Connect::bare(version, flags.clean_start, reader.u16()?);
        connect.is_bridge = is_bridge;
        if version == ProtocolVersion::V5 {
            connect.read_properties(&mut reader)?;
        }
        connect.read_payload(&mut reader, &flags)?;
        // [MQTT5-3.1.2-16] [MQTT5-3.1.2-18] [MQTT311-3.1.2-18] [MQTT311-3.1.2-20]
        reader.finish()?;
        connect.check_client_id()?;
        Ok(connect)
    }

    /// The version in which to answer a CONNECT that could not be decoded, as far as name and level can be
    /// read. `None` if they are unreadable or the name is unknown: the connection must be closed without an
    /// answer.
    ///
    /// It reads the beginning of the body only. So for a packet that was refused because of its size, the
    /// caller may pass as much of the body as has arrived.
    pub fn version_of(frame: Frame<'a>) -> Option<ProtocolVersion> {
        if frame.packet_type() != packet_type::CONNECT {
            return None;
        }
        let mut reader = FieldReader::new(frame.body);
        ProtocolName::read(&mut reader).ok()?;
        // A client reads the answer in the format of its own version. Levels 3 and 4, including those of
        // bridges, get the return code 1 of 3.x, even with the name of the other version. [MQTT311-3.1.2-2]
        // All other levels get 0x84 of 5.0: levels below 3 were never published, and levels above 5 can only
        // be successors of 5.0. [MQTT5-3.1.2-2]
        Some(match reader.u8().ok()? & !BRIDGE_BIT {
            3 => ProtocolVersion::V31,
            4 => ProtocolVersion::V311,
            _ => ProtocolVersion::V5,
        })
    }

    /// A CONNECT without any optional field.
    fn bare(version: ProtocolVersion, clean_start: bool, keep_alive_seconds: u16) -> Connect<'a> {
        Connect {
            version,
            is_bridge: false,
            clean_start,
            keep_alive_seconds,
            client_id: "",
            has_client_id: false,
            will: None,
            username: None,
            password: None,
            // Section 3.1.2.11.2: with clean session 0, a session of 3.x never expires.
            session_expiry_seconds: match version {
                ProtocolVersion::V31 | ProtocolVersion::V311 if !clean_start => u32::MAX,
                _ => 0,
            },
            receive_maximum: u16::MAX,
            packet_bytes_max: u32::MAX,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            authentication_method: None,
            authentication_data: None,
        }
    }

    fn read_properties(&mut self, reader: &mut FieldReader<'a>) -> Result<(), DecodeError> {
        let mut properties = Properties::parse(reader, PropertySet::CONNECT)?;
        while let Some(property) = properties.read_next()? {
            match property {
                Property::SessionExpiryInterval(seconds) => self.session_expiry_seconds = seconds,
                Property::ReceiveMaximum(maximum) => self.receive_maximum = maximum,
                Property::MaximumPacketSize(bytes) => self.packet_bytes_max = bytes,
                Property::TopicAliasMaximum(maximum) => self.topic_alias_maximum = maximum,
                Property::RequestResponseInformation(byte) => self.request_response_information = byte == 1,
                Property::RequestProblemInformation(byte) => self.request_problem_information = byte == 1,
                Property::AuthenticationMethod(method) => self.authentication_method = Some(method),
                Property::AuthenticationData(data) => self.authentication_data = Some(data),
                _ => {}
            }
        }
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            // Section 3.1.2.11.10
            return Err(DecodeError::protocol("authentication data without a method"));
        }
        Ok(())
    }

    /// Reads the fields in the standard's order. A missing field is Malformed. `[MQTT5-3.1.3-1]`
    /// `[MQTT311-3.1.3-1]`
    fn read_payload(
        &mut self,
        reader: &mut FieldReader<'a>,
        flags: &ConnectFlags,
    ) -> Result<(), DecodeError> {
        // [MQTT5-3.1.3-3] [MQTT5-3.1.3-4] [MQTT311-3.1.3-3] [MQTT311-3.1.3-4]
        self.client_id = reader.plain_text()?;
        self.has_client_id = !self.client_id.is_empty();
        if let Some(will) = &flags.will {
            // [MQTT5-3.1.2-9] [MQTT311-3.1.2-9]
            self.will = Some(ConnectWill::read(reader, self.version, will)?);
        }
        if flags.username {
            // [MQTT5-3.1.2-17] [MQTT5-3.1.3-12] [MQTT311-3.1.2-19] [MQTT311-3.1.3-11]
            self.username = Some(reader.plain_text()?);
        }
        if flags.password {
            // [MQTT5-3.1.2-19] [MQTT311-3.1.2-21]
            self.password = Some(reader.binary()?);
        }
        Ok(())
    }

    fn check_client_id(&self) -> Result<(), DecodeError> {
        let may_be_empty = match self.version {
            // `[MQTT311 §3.1-d]`: never.
            ProtocolVersion::V31 => false,
            // [MQTT311-3.1.3-7] [MQTT311-3.1.3-8]
            ProtocolVersion::V311 => self.clean_start,
            // [MQTT5-3.1.3-6]
            ProtocolVersion::V5 => true,
        };
        if self.client_id.is_empty() && !may_be_empty {
            return Err(DecodeError {
                fault: Fault::ClientIdentifierNotValid,
                cause: "empty client identifier",
            });
        }
        Ok(())
    }
}

impl<'a> ConnectWill<'a> {
    fn read(
        reader: &mut FieldReader<'a>,
        version: ProtocolVersion,
        flags: &WillFlags,
    ) -> Result<ConnectWill<'a>, DecodeError> {
        let (mut delay_seconds, mut message_expiry_seconds, mut forward) = (0, None, [&[][..]; 3]);
        if version == ProtocolVersion::V5 {
            let mut properties = Properties::parse(reader, PropertySet::WILL)?;
            while let Some(property) = properties.read_next()? {
                match property {
                    Property::WillDelayInterval(seconds) => {
                        delay_seconds = seconds;
                        properties.cut();
                    }
                    Property::MessageExpiryInterval(seconds) => {
                        message_expiry_seconds = Some(seconds);
                        properties.cut();
                    }
                    _ => {}
                }
            }
            forward = properties.into_forward();
        }
        // [MQTT5-3.1.3-11] [MQTT311-3.1.3-10]
        let topic = reader.utf8()?;
        check_topic_name(topic).map_err(|_| DecodeError::malformed("will topic is no topic name"))?;
        let payload = reader.binary()?;
        let (qos, retain) = (flags.qos, flags.retain);
        Ok(ConnectWill { qos, retain, delay_seconds, message_expiry_seconds, forward, topic, payload })
    }
}

/// The protocol names that midge serves.
enum ProtocolName {
    MqIsdp,
    Mqtt,
}

impl ProtocolName {
    fn read(reader: &mut FieldReader<'_>) -> Result<ProtocolName, DecodeError> {
        match reader.binary()? {
            b"MQTT" => Ok(ProtocolName::Mqtt),
            b"MQIsdp" => Ok(ProtocolName::MqIsdp),
            // [MQTT5-3.1.2-1] [MQTT311-3.1.2-1]
            _ => Err(DecodeError {
                fault: Fault::UnsupportedProtocolName,
                cause: "protocol name neither MQTT nor MQIsdp",
            }),
        }
    }
}

/// The bit that mosquitto's bridges add to the levels of 3.x. If they get return code 1, they connect again
/// some time later without it.
const BRIDGE_BIT: u8 = 0x80;

/// The version, and whether the client is a bridge.
fn read_version(reader: &mut FieldReader<'_>) -> Result<(ProtocolVersion, bool), DecodeError> {
    let name = ProtocolName::read(reader)?;
    match (name, reader.u8()?) {
        // `[MQTT311 §3.1-a]`.
        (ProtocolName::MqIsdp, 3) => Ok((ProtocolVersion::V31, false)),
        (ProtocolName::Mqtt, 4) => Ok((ProtocolVersion::V311, false)),
        (ProtocolName::Mqtt, 5) => Ok((ProtocolVersion::V5, false)),
        // [MQTT311 §3.1-r]. 5.0 has options for the meaning of the bit.
        (ProtocolName::MqIsdp, 0x83) => Ok((ProtocolVersion::V31, true)),
        (ProtocolName::Mqtt, 0x84) => Ok((ProtocolVersion::V311, true)),
        // [MQTT5-3.1.2-2] [MQTT311-3.1.2-2], [MQTT311 §3.1-b].
        _ => Err(DecodeError {
            fault: Fault::UnsupportedProtocolVersion,
            cause: "protocol level not served under this name",
        }),
    }
}

/// The connect flags, checked for consistency.
struct ConnectFlags {
    clean_start: bool,
    will: Option<WillFlags>,
    username: bool,
    password: bool,
}

struct WillFlags {
    qos: QoS,
    retain: bool,
}

impl ConnectFlags {
    fn read(version: ProtocolVersion, reader: &mut FieldReader<'_>) -> Result<ConnectFlags, DecodeError> {
        let byte = reader.u8()?;
        let bit = |position: u8| byte >> position & 1 == 1;
        // [MQTT311 §3.1-i]: in 3.1 these bits are unused, not errors.
        let polices_unused_bits = version > ProtocolVersion::V31;
        if bit(0) && polices_unused_bits {
            // [MQTT5-3.1.2-3] [MQTT311-3.1.2-3]
            return Err(DecodeError::malformed("reserved connect flag"));
        }
        let (will_qos, will_retain) = (byte >> 3 & 0b11, bit(5));
        let will = if bit(2) {
            // [MQTT5-3.1.2-12] [MQTT311-3.1.2-14]
            let qos = QoS::from_bits(will_qos).ok_or(DecodeError::malformed("will of QoS 3"))?;
            Some(WillFlags { qos, retain: will_retain })
        } else if (will_qos != 0 || will_retain) && polices_unused_bits {
            // [MQTT5-3.1.2-11] [MQTT5-3.1.2-13] [MQTT311-3.1.2-11] [MQTT311-3.1.2-13] [MQTT311-3.1.2-15]
            return Err(DecodeError::malformed("will flags without a will"));
        } else {
            None
        };
        let (username, password) = (bit(7), bit(6));
        if password && !username && version < ProtocolVersion::V5 {
            // [MQTT311-3.1.2-22], [MQTT311 §3.1-j]; legal in 5.0 (section 3.1.2.9).
            return Err(DecodeError::malformed("password without user name"));
        }
        Ok(ConnectFlags { clean_start: bit(1), will, username, password })
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Framing, frame};
    use super::*;
    use ProtocolVersion::{V5, V31, V311};

    fn framed(bytes: &[u8]) -> Frame<'_> {
        let Ok(Framing::Whole(frame)) = frame(bytes, bytes.len()) else { panic!("not one packet") };
        frame
    }

    fn read(bytes: &[u8]) -> Result<Connect<'_>, Fault> {
        Connect::decode(framed(bytes)).map_err(|error| error.fault)
    }

    fn fault(bytes: &[u8]) -> Fault {
        read(bytes).err().unwrap_or_else(|| panic!("accepted {bytes:x?}"))
    }

    /// A CONNECT with keep alive 10 and, in 5.0, no properties.
    fn connect(version: ProtocolVersion, flags: u8, fields: &[&[u8]]) -> Vec<u8> {
        let name: &[u8] = if version == V31 { b"MQIsdp" } else { b"MQTT" };
        let mut body = vec![0, name.len() as u8];
        body.extend_from_slice(name);
        body.extend_from_slice(&[version as u8, flags, 0, 10]);
        if version == V5 {
            body.push(0);
        }
        for field in fields {
            body.extend_from_slice(&(field.len() as u16).to_be_bytes());
            body.extend_from_slice(field);
        }
        let mut out = vec![0x10, body.len() as u8];
        out.extend_from_slice(&body);
        out
    }

    /// A CONNECT of 5.0 with these properties and client identifier p.
    fn with_properties(raw: &[u8]) -> Vec<u8> {
        let mut out = vec![0x10, 14 + raw.len() as u8];
        out.extend_from_slice(&[0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 10, raw.len() as u8]);
        out.extend_from_slice(raw);
        out.extend_from_slice(&[0, 1, b'p']);
        out
    }

    /// A CONNECT of 5.0 with a will that has these properties.
    fn with_will(raw: &[u8]) -> Vec<u8> {
        let mut out = vec![0x10, 24 + raw.len() as u8];
        out.extend_from_slice(&[
            0,
            4,
            b'M',
            b'Q',
            b'T',
            b'T',
            5,
            0x36,
            0,
            10,
            0,
            0,
            1,
            b'p',
            raw.len() as u8,
        ]);
        out.extend_from_slice(raw);
        out.extend_from_slice(&[0, 1, b't', 0, 4, b'd', b'e', b'a', b'd']);
        out
    }

    // Sections 3.1.2 and 3.1.3 of both standards; [MQTT311-3.1.3-1] [MQTT5-3.1.3-1]
    #[test]
    fn a_full_connect_is_read_in_every_version() {
        for version in [V31, V311, V5] {
            let fields: &[&[u8]] = match version {
                V5 => &[b"id"],
                _ => &[b"id", b"will/t", b"bye", b"user", b"\0\xFF"],
            };
            let mut bytes = connect(version, 0xEC, fields);
            if version == V5 {
                bytes.extend_from_slice(b"\0\0\x06will/t\0\x03bye\0\x04user\0\x02\0\xFF");
                bytes[1] = bytes.len() as u8 - 2;
            }
            let got = read(&bytes).expect("valid");
            assert_eq!((got.version, got.clean_start, got.keep_alive_seconds), (version, false, 10));
            assert_eq!((got.client_id, got.username), ("id", Some("user")));
            assert_eq!(got.password, Some(&[0x00, 0xFF][..]));
            let will = got.will.expect("flagged");
            assert_eq!((will.qos, will.retain, will.topic), (QoS::AtLeastOnce, true, "will/t"));
            assert_eq!(will.payload, b"bye");
            assert_eq!(got.session_expiry_seconds, if version == V5 { 0 } else { u32::MAX });
        }
    }

    #[test]
    fn what_a_connect_leaves_out_has_the_defaults_of_the_standard() {
        let got = read(&with_properties(&[])).map(|c| {
            (
                c.session_expiry_seconds,
                c.receive_maximum,
                c.packet_bytes_max,
                c.topic_alias_maximum,
                c.request_response_information,
                c.request_problem_information,
            )
        });
        assert_eq!(got, Ok((0, 65_535, u32::MAX, 0, false, true)));
        assert_eq!(read(&connect(V311, 2, &[b"p"])).expect("valid").session_expiry_seconds, 0);
        let raw = [
            &[0x11, 0, 0, 1, 2, 0x21, 0, 20, 0x27, 0, 0, 0, 99][..],
            &[0x22, 0, 5, 0x19, 1, 0x17, 0, 0x15, 0, 1, b'm', 0x16, 0, 1, 0xFF, 0x26, 0, 0, 0, 0],
        ]
        .concat();
        let bytes = with_properties(&raw);
        let got = read(&bytes).expect("valid");
        assert_eq!((got.session_expiry_seconds, got.receive_maximum, got.packet_bytes_max), (258, 20, 99));
        assert_eq!((got.topic_alias_maximum, got.request_response_information), (5, true));
        assert!(!got.request_problem_information);
        assert_eq!((got.authentication_method, got.authentication_data), (Some("m"), Some(&[0xFF][..])));
    }

    // [MQTT5-3.1.2-1] [MQTT5-3.1.2-2] [MQTT311-3.1.2-1] [MQTT311-3.1.2-2], rows 3.1-a, 3.1-b, 3.1-r
    #[test]
    fn name_and_level_must_be_a_pair_and_decide_the_answer() {
        let begin = |name: &[u8], level: u8| {
            let mut bytes = vec![0x10, 2 + name.len() as u8 + 6, 0, name.len() as u8];
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(&[level, 2, 0, 10, 0, 0]);
            bytes
        };
        let served = [(&b"MQIsdp"[..], 3), (b"MQIsdp", 0x83), (b"MQTT", 4), (b"MQTT", 5), (b"MQTT", 0x84)];
        for name in [&b"MQIsdp"[..], b"MQTT"] {
            for level in (0..=255).filter(|level| !served.contains(&(name, *level))) {
                let bytes = begin(name, level);
                assert_eq!(fault(&bytes), Fault::UnsupportedProtocolVersion, "{name:?} {level}");
                let answer = match level {
                    3 | 0x83 => V31,
                    4 | 0x84 => V311,
                    _ => V5,
                };
                assert_eq!(Connect::version_of(framed(&bytes)), Some(answer), "{name:?} {level}");
            }
        }
        for name in [&b"MQTX"[..], b"mqtt", b"", b"MQT", b"MQTTT", b"MQIsdpX"] {
            let bytes = begin(name, 4);
            assert_eq!(fault(&bytes), Fault::UnsupportedProtocolName);
            assert_eq!(Connect::version_of(framed(&bytes)), None);
        }
        for bytes in [&[0x10, 0][..], &[0x10, 2, 0, 4], &[0x10, 6, 0, 4, b'M', b'Q', b'T', b'T']] {
            assert_eq!(fault(bytes), Fault::Malformed);
            assert_eq!(Connect::version_of(framed(bytes)), None);
        }
        // [MQTT5-3.1.0-1] [MQTT311-3.1.0-1]
        assert_eq!(fault(&[0xC0, 0]), Fault::Protocol);
        assert_eq!(Connect::version_of(framed(&[0xC0, 0])), None);
        assert_eq!(Connect::version_of(framed(&connect(V5, 3, &[b"p"]))), Some(V5));
    }

    // [MQTT311 §3.1-r]
    #[test]
    fn a_bridge_is_known_by_a_bit_of_its_level() {
        for version in [V31, V311] {
            let mut bytes = connect(version, 2, &[b"edge"]);
            assert!(!read(&bytes).expect("valid").is_bridge);
            let level = 4 + usize::from(bytes[3]);
            bytes[level] |= 0x80;
            let got = read(&bytes).expect("valid");
            assert_eq!((got.version, got.is_bridge, got.client_id), (version, true, "edge"));
            assert_eq!(Connect::version_of(framed(&bytes)), Some(version));
            // The strict rules of 3.1.1 also hold for bridges.
            bytes[level + 1] |= 1;
            assert_eq!(read(&bytes).is_ok(), version == V31);
        }
        assert!(!read(&connect(V5, 2, &[b"edge"])).expect("valid").is_bridge);
    }

    // [MQTT5-3.1.2-3] [MQTT5-3.1.2-11..13] [MQTT311-3.1.2-3] [MQTT311-3.1.2-11..15] [MQTT311-3.1.2-22]
    // and rows 3.1-h, 3.1-i, 3.1-j
    #[test]
    fn flags_must_agree_with_each_other_but_3_1_ignores_unused_ones() {
        for flags in [0x03, 0x0A, 0x12, 0x22] {
            assert_eq!(fault(&connect(V311, flags, &[b"p"])), Fault::Malformed);
            assert_eq!(fault(&connect(V5, flags, &[b"p"])), Fault::Malformed);
            assert!(read(&connect(V31, flags, &[b"p"])).expect("tolerated").will.is_none());
        }
        for version in [V31, V311] {
            assert_eq!(fault(&connect(version, 0x1E, &[b"p", b"t", b"m"])), Fault::Malformed);
            assert_eq!(fault(&connect(version, 0x42, &[b"p", b"secret"])), Fault::Malformed);
        }
        assert_eq!(fault(&connect(V5, 0x1E, &[b"p", b"", b"t", b"m"])), Fault::Malformed);
        let alone = connect(V5, 0x42, &[b"p", b"secret"]);
        assert_eq!(read(&alone).expect("valid").password, Some(&b"secret"[..]));
        for flags in 1..16 {
            for (version, tolerated) in [(V31, true), (V311, false), (V5, false)] {
                let mut bytes = connect(version, 2, &[b"p"]);
                bytes[0] |= flags;
                assert_eq!(read(&bytes).is_ok(), tolerated);
            }
        }
    }

    // [MQTT5-3.1.2-9] [MQTT5-3.1.2-16..19] [MQTT5-3.1.3-3] [MQTT311-3.1.2-9] [MQTT311-3.1.2-18..21]
    #[test]
    fn flagged_fields_must_be_there_and_no_others() {
        for version in [V31, V311, V5] {
            assert_eq!(fault(&connect(version, 2, &[])), Fault::Malformed);
            assert_eq!(fault(&connect(version, 2, &[b"p", b"x"])), Fault::Malformed);
            assert_eq!(fault(&connect(version, 0x06, &[b"p"])), Fault::Malformed);
            assert_eq!(fault(&connect(version, 0x82, &[b"p"])), Fault::Malformed);
            assert_eq!(fault(&connect(version, 0x82, &[b"p", b"u", b"x"])), Fault::Malformed);
            assert_eq!(fault(&connect(version, 0xC2, &[b"p", b"u"])), Fault::Malformed);
        }
        assert_eq!(fault(&connect(V311, 0x06, &[b"p", b"t"])), Fault::Malformed);
    }

    // [MQTT5-1.5.4-1] [MQTT5-1.5.4-2] [MQTT5-3.1.3-4] [MQTT5-3.1.3-11] [MQTT5-3.1.3-12] [MQTT311-1.5.3-1]
    // [MQTT311-3.1.3-4] [MQTT311-3.1.3-10] [MQTT311-3.1.3-11], [MQTT311 §3.1-n]
    #[test]
    fn names_in_a_connect_are_clean_utf8() {
        let bad: [&[u8]; 8] = [
            b"to\0p",
            b"\xED\xA0\x80",
            b"\xED\xBF\xBF",
            b"to\x01",
            b"to\x1F",
            b"to\x7F",
            b"to\xC2\x9F",
            b"\xFF",
        ];
        for text in bad {
            for version in [V31, V311, V5] {
                assert_eq!(fault(&connect(version, 2, &[text])), Fault::Malformed);
                assert_eq!(fault(&connect(version, 0x82, &[b"p", text])), Fault::Malformed);
            }
            assert_eq!(fault(&connect(V311, 6, &[b"p", text, b"m"])), Fault::Malformed);
        }
        for topic in [&b""[..], b"a/#", b"+"] {
            assert_eq!(fault(&connect(V311, 6, &[b"p", topic, b"m"])), Fault::Malformed);
        }
    }

    // [MQTT311-3.1.3-7] [MQTT311-3.1.3-8] [MQTT5-3.1.3-6], [MQTT311 §3.1-d]
    #[test]
    fn an_empty_client_identifier_is_for_clean_sessions_from_3_1_1_on() {
        assert_eq!(fault(&connect(V31, 0, &[b""])), Fault::ClientIdentifierNotValid);
        assert_eq!(fault(&connect(V31, 2, &[b""])), Fault::ClientIdentifierNotValid);
        assert_eq!(fault(&connect(V311, 0, &[b""])), Fault::ClientIdentifierNotValid);
        assert_eq!(read(&connect(V311, 2, &[b""])).expect("valid").client_id, "");
        assert_eq!(read(&connect(V5, 0, &[b""])).expect("valid").client_id, "");
    }

    // Section 3.1.2.11
    #[test]
    fn properties_of_a_connect_are_judged() {
        for (raw, want) in [
            (&[0x16, 0, 1, b'd'][..], Fault::Protocol),
            (&[0x21, 0, 0], Fault::Protocol),
            (&[0x27, 0, 0, 0, 0], Fault::Protocol),
            (&[0x17, 2], Fault::Protocol),
            (&[0x21, 0, 1, 0x21, 0, 1], Fault::Protocol),
            (&[0x18, 0, 0, 0, 1], Fault::Malformed),
            (&[0x7F, 1], Fault::Malformed),
            (&[0x11, 0], Fault::Malformed),
        ] {
            assert_eq!(fault(&with_properties(raw)), want, "{raw:x?}");
        }
    }

    // [MQTT5-3.1.3-10] and sections 3.1.3.2.2, 3.1.3.2.4
    #[test]
    fn will_delay_and_expiry_are_taken_out_of_what_is_forwarded() {
        let raw = [
            &[0x26, 0, 1, b'k', 0, 1, b'1'][..],
            &[0x18, 0, 0, 0, 9],
            &[0x01, 1, 0x26, 0, 1, b'k', 0, 1, b'2'],
            &[0x02, 0, 0, 0, 60],
        ];
        let bytes = with_will(&raw.concat());
        let will = read(&bytes).expect("valid").will.expect("flagged");
        assert_eq!((will.delay_seconds, will.message_expiry_seconds), (9, Some(60)));
        assert_eq!(will.forward.concat(), [raw[0], raw[2]].concat());
        assert_eq!((will.qos, will.retain, will.topic), (QoS::ExactlyOnce, true, "t"));
        for (raw, want) in [
            (&[0x08, 0, 0][..], Fault::Protocol),
            (&[0x23, 0, 1], Fault::Malformed),
            (&[0x18, 0, 0, 0, 1, 0x18, 0, 0, 0, 1], Fault::Protocol),
        ] {
            assert_eq!(fault(&with_will(raw)), want, "{raw:x?}");
        }
    }
}
