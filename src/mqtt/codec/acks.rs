//! The small packets: PUBACK, PUBREC, PUBREL, PUBCOMP, PINGRESP, DISCONNECT, AUTH.
//!
//! Frames become plain values, and values become packets. Each packet has its own list of reason codes that a
//! client may send (sections 3.4 to 3.7, 3.14, 3.15). Any other code is a protocol error.

use super::property::{self, Properties, Property, PropertySet};
use super::wire::{ByteCounter, FieldReader, Sink, packet_len, packet_type, put_varint, varint_len};
use super::{DecodeError, Frame, PacketId, ProtocolVersion, Reason};

/// The kind of an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckKind {
    /// The answer to a PUBLISH with QoS 1.
    Puback,
    /// The first answer to a PUBLISH with QoS 2.
    Pubrec,
    /// The publisher's answer to PUBREC.
    Pubrel,
    /// The answer to PUBREL.
    Pubcomp,
}

/// An acknowledgement in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The kind.
    pub kind: AckKind,
    /// The identifier of the PUBLISH. `[MQTT5-2.2.1-5]` `[MQTT311-2.3.1-6]`
    pub packet_id: PacketId,
    /// Success for 3.x, and for 5.0 if the packet leaves it out.
    pub reason: Reason,
}

/// A DISCONNECT from a client.
#[derive(Clone, Copy, Debug)]
pub struct Disconnect {
    /// Success for 3.x. The will is discarded only for Success. `[MQTT5-3.14.4-3]`
    pub reason: Reason,
    /// Replaces the interval of CONNECT, in seconds. `None`: unchanged.
    pub session_expiry_seconds: Option<u32>,
}

/// An AUTH in either direction.
#[derive(Clone, Copy, Debug)]
pub struct Auth<'a> {
    /// From a client it is ContinueAuthentication or ReAuthenticate, from the server Success or
    /// ContinueAuthentication. `[MQTT5-3.15.2-1]`
    pub reason: Reason,
    /// The authentication method. It is always present.
    pub method: &'a str,
    /// The authentication data.
    pub data: Option<&'a [u8]>,
}

impl AckKind {
    fn of(packet_type: u8) -> Option<AckKind> {
        match packet_type {
            packet_type::PUBACK => Some(AckKind::Puback),
            packet_type::PUBREC => Some(AckKind::Pubrec),
            packet_type::PUBREL => Some(AckKind::Pubrel),
            packet_type::PUBCOMP => Some(AckKind::Pubcomp),
            _ => None,
        }
    }

    /// The packet type and the flags that the standard reserves. `[MQTT5-3.6.1-1]` `[MQTT311-3.6.1-1]`
    fn first_byte(self) -> u8 {
        match self {
            AckKind::Puback => 0x40,
            AckKind::Pubrec => 0x50,
            AckKind::Pubrel => 0x62,
            AckKind::Pubcomp => 0x70,
        }
    }

    fn allows(self, reason: Reason) -> bool {
        match self {
            // [MQTT5-3.4.2-1] [MQTT5-3.5.2-1]
            AckKind::Puback | AckKind::Pubrec => matches!(
                reason,
                Reason::Success
                    | Reason::NoMatchingSubscribers
                    | Reason::UnspecifiedError
                    | Reason::ImplementationSpecificError
                    | Reason::NotAuthorized
                    | Reason::TopicNameInvalid
                    | Reason::PacketIdentifierInUse
                    | Reason::QuotaExceeded
                    | Reason::PayloadFormatInvalid
            ),
            // [MQTT5-3.6.2-1] [MQTT5-3.7.2-1]
            AckKind::Pubrel | AckKind::Pubcomp => {
                matches!(reason, Reason::Success | Reason::PacketIdentifierNotFound)
            }
        }
    }
}

/// Decodes PUBACK, PUBREC, PUBREL or PUBCOMP. In 5.0 they may have any of the three lengths of section
/// 3.4.2.1.
///
/// # Errors
/// Malformed for wrong flags, lengths and properties. Protocol for the identifier 0, a reason code that is
/// not allowed in the packet, or a frame of another type.
pub fn decode_ack(version: ProtocolVersion, frame: Frame<'_>) -> Result<Ack, DecodeError> {
    let kind = AckKind::of(frame.packet_type()).ok_or(DecodeError::protocol("not an acknowledgement"))?;
    frame.check_flags(version, kind.first_byte() & 0x0F)?;
    frame.check_length(version)?;
    let mut reader = FieldReader::new(frame.body);
    let packet_id = reader.packet_id(DecodeError::protocol("packet identifier 0"))?;
    if version < ProtocolVersion::V5 {
        // Sections 3.4 to 3.7 of 3.1.1: a remaining length of 2.
        reader.finish()?;
        return Ok(Ack { kind, packet_id, reason: Reason::Success });
    }
    let reason = read_reason(&mut reader, |reason| kind.allows(reason))?;
    if !reader.is_empty() {
        Properties::parse(&mut reader, PropertySet::ACK)?.skip()?;
    }
    reader.finish()?;
    Ok(Ack { kind, packet_id, reason })
}

/// Decodes a DISCONNECT.
///
/// # Errors
/// Malformed for wrong flags, lengths and properties. Protocol for a reason code that clients may not send,
/// and for a server reference.
pub fn decode_disconnect(version: ProtocolVersion, frame: Frame<'_>) -> Result<Disconnect, DecodeError> {
    // [MQTT5-3.14.1-1] [MQTT311-3.14.1-1]
    frame.check_flags(version, 0)?;
    frame.check_length(version)?;
    let mut reader = FieldReader::new(frame.body);
    let mut session_expiry_seconds = None;
    if version < ProtocolVersion::V5 {
        reader.finish()?;
        return Ok(Disconnect { reason: Reason::Success, session_expiry_seconds });
    }
    let reason = read_reason(&mut reader, client_may_disconnect_with)?;
    if !reader.is_empty() {
        let mut properties = Properties::parse(&mut reader, PropertySet::DISCONNECT)?;
        while let Some(property) = properties.read_next()? {
            match property {
                Property::SessionExpiryInterval(seconds) => session_expiry_seconds = Some(seconds),
                Property::ServerReference => {
                    return Err(DecodeError::protocol("server reference from a client"));
                }
                _ => {}
            }
        }
    }
    reader.finish()?;
    Ok(Disconnect { reason, session_expiry_seconds })
}

/// The codes that table 3-10 allows for clients.
fn client_may_disconnect_with(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Success
            | Reason::DisconnectWithWill
            | Reason::UnspecifiedError
            | Reason::MalformedPacket
            | Reason::ProtocolError
            | Reason::ImplementationSpecificError
            | Reason::TopicNameInvalid
            | Reason::ReceiveMaximumExceeded
            | Reason::TopicAliasInvalid
            | Reason::PacketTooLarge
            | Reason::MessageRateTooHigh
            | Reason::QuotaExceeded
            | Reason::AdministrativeAction
            | Reason::PayloadFormatInvalid
    )
}

/// Decodes an AUTH from a client (5.0).
///
/// # Errors
/// Malformed for wrong flags, lengths and properties. Protocol for a reason code that clients may not send,
/// and for a missing authentication method.
pub fn decode_auth<'a>(frame: Frame<'a>) -> Result<Auth<'a>, DecodeError> {
    // [MQTT5-3.15.1-1]
    frame.check_flags(ProtocolVersion::V5, 0)?;
    frame.check_length(ProtocolVersion::V5)?;
    let mut reader = FieldReader::new(frame.body);
    // [MQTT5-3.15.2-1]
    let reason = read_reason(&mut reader, |reason| {
        matches!(reason, Reason::ContinueAuthentication | Reason::ReAuthenticate)
    })?;
    let (mut method, mut data) = (None, None);
    if !reader.is_empty() {
        let mut properties = Properties::parse(&mut reader, PropertySet::AUTH)?;
        while let Some(property) = properties.read_next()? {
            match property {
                Property::AuthenticationMethod(value) => method = Some(value),
                Property::AuthenticationData(value) => data = Some(value),
                _ => {}
            }
        }
    }
    reader.finish()?;
    // Section 3.15.2.2.2
    let method = method.ok_or(DecodeError::protocol("AUTH without authentication method"))?;
    Ok(Auth { reason, method, data })
}

/// The reason code. It may be left out if it is 0x00.
fn read_reason(reader: &mut FieldReader<'_>, allows: impl Fn(Reason) -> bool) -> Result<Reason, DecodeError> {
    let code = if reader.is_empty() { 0 } else { reader.u8()? };
    Reason::from_code(code)
        .filter(|&reason| allows(reason))
        .ok_or(DecodeError::protocol("reason code not allowed in this packet"))
}

/// Appends an acknowledgement in its shortest form: 4 bytes if the reason is Success or the version is 3.x,
/// otherwise 5.
pub fn encode_ack(out: &mut Vec<u8>, version: ProtocolVersion, ack: Ack) {
    // Packet Too Large is not on the standard's lists. mosquitto sends it for a payload above its bound.
    let allowed = ack.kind.allows(ack.reason) || ack.reason == Reason::PacketTooLarge;
    debug_assert!(allowed, "{:?} in {:?}", ack.reason, ack.kind);
    let [high, low] = ack.packet_id.get().to_be_bytes();
    if version < ProtocolVersion::V5 || ack.reason == Reason::Success {
        out.put(&[ack.kind.first_byte(), 2, high, low]);
    } else {
        out.put(&[ack.kind.first_byte(), 3, high, low, ack.reason.code()]);
    }
}

/// Appends a PINGRESP. `[MQTT5-3.12.4-1]` `[MQTT311-3.12.4-1]`
pub fn encode_pingresp(out: &mut Vec<u8>) {
    out.put(&[0xD0, 0x00]);
}

/// A text that a DISCONNECT of the server may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisconnectText<'a> {
    /// The Reason String.
    Reason(&'a str),
    /// The Server Reference.
    ServerReference(&'a str),
}

/// Appends a DISCONNECT, for 5.0 only. It never has a session expiry interval. `[MQTT5-3.14.2-2]`
///
/// A text is left out if the packet would exceed `packet_bytes_max`, which includes the fixed header.
/// `[MQTT5-3.14.2-3]` If the packet would exceed it even without a text, nothing is appended.
/// `[MQTT5-3.1.2-24]`
pub fn encode_disconnect(
    out: &mut Vec<u8>,
    reason: Reason,
    text: Option<DisconnectText<'_>>,
    packet_bytes_max: u32,
) {
    let fits = |remaining_len| packet_len(remaining_len) <= packet_bytes_max as usize;
    let (id, text) = match text {
        Some(DisconnectText::Reason(text)) => (property::id::REASON_STRING, Some(text)),
        Some(DisconnectText::ServerReference(text)) => (property::id::SERVER_REFERENCE, Some(text)),
        None => (property::id::REASON_STRING, None),
    };
    let text = text.filter(|text| text.len() <= usize::from(u16::MAX)).map(str::as_bytes);
    let mut properties = ByteCounter::default();
    property::put_bytes(&mut properties, id, text);
    let with_text = 1 + varint_len(properties.0) + properties.0;
    if text.is_some() && fits(with_text) {
        out.reserve(packet_len(with_text));
        out.push(0xE0);
        put_varint(out, with_text);
        out.push(reason.code());
        put_varint(out, properties.0);
        property::put_bytes(out, id, text);
    } else if reason == Reason::Success && fits(0) {
        out.put(&[0xE0, 0x00]);
    } else if reason != Reason::Success && fits(1) {
        out.put(&[0xE0, 0x01, reason.code()]);
    }
}

/// Appends an AUTH, for 5.0 only. Appends nothing if it would exceed `packet_bytes_max`. `[MQTT5-3.1.2-24]`
pub fn encode_auth(out: &mut Vec<u8>, auth: &Auth<'_>, packet_bytes_max: u32) {
    let mut counter = ByteCounter::default();
    put_auth_properties(&mut counter, auth);
    let remaining_len = 1 + varint_len(counter.0) + counter.0;
    if packet_len(remaining_len) > packet_bytes_max as usize {
        return;
    }
    out.reserve(packet_len(remaining_len));
    out.push(0xF0);
    put_varint(out, remaining_len);
    out.push(auth.reason.code());
    put_varint(out, counter.0);
    put_auth_properties(out, auth);
}

fn put_auth_properties(out: &mut impl Sink, auth: &Auth<'_>) {
    // [MQTT5-4.12.0-5]
    property::put_bytes(out, property::id::AUTHENTICATION_METHOD, Some(auth.method.as_bytes()));
    property::put_bytes(out, property::id::AUTHENTICATION_DATA, auth.data);
}

#[cfg(test)]
mod tests {
    use super::super::{Fault, Framing, Packet, decode, frame};
    use super::*;
    use ProtocolVersion::{V5, V31, V311};

    fn read(version: ProtocolVersion, bytes: &[u8]) -> Result<Packet<'_>, Fault> {
        let Ok(Framing::Whole(frame)) = frame(bytes, bytes.len()) else { panic!("not one packet") };
        decode(version, frame).map_err(|error| error.fault)
    }

    fn ack(version: ProtocolVersion, bytes: &[u8]) -> Result<Ack, Fault> {
        read(version, bytes).map(|packet| match packet {
            Packet::Ack(ack) => ack,
            other => panic!("{other:?}"),
        })
    }

    fn fault(version: ProtocolVersion, bytes: &[u8]) -> Fault {
        read(version, bytes).err().unwrap_or_else(|| panic!("accepted {bytes:x?}"))
    }

    fn id(value: u16) -> PacketId {
        PacketId::new(value).expect("not zero")
    }

    const KINDS: [(AckKind, u8); 4] =
        [(AckKind::Puback, 0x40), (AckKind::Pubrec, 0x50), (AckKind::Pubrel, 0x62), (AckKind::Pubcomp, 0x70)];

    // [MQTT5-2.2.1-5] [MQTT311-2.3.1-6] and section 3.4.2.1
    #[test]
    fn acknowledgements_are_read_in_all_three_lengths() {
        for (kind, first) in KINDS {
            let want = Ack { kind, packet_id: id(0x0102), reason: Reason::Success };
            for version in [V31, V311, V5] {
                assert_eq!(ack(version, &[first, 2, 1, 2]), Ok(want));
            }
            assert_eq!(ack(V5, &[first, 3, 1, 2, 0]), Ok(want));
            assert_eq!(ack(V5, &[first, 4, 1, 2, 0, 0]), Ok(want));
            assert_eq!(ack(V5, &[first, 8, 1, 2, 0, 4, 0x1F, 0, 1, b'r']), Ok(want));
        }
    }

    #[test]
    fn acknowledgements_of_another_length_are_malformed() {
        for (_, first) in KINDS {
            for version in [V31, V311, V5] {
                assert_eq!(fault(version, &[first, 0]), Fault::Malformed);
                assert_eq!(fault(version, &[first, 1, 1]), Fault::Malformed);
                assert_eq!(fault(version, &[first, 2, 0, 0]), Fault::Protocol);
            }
            assert_eq!(fault(V311, &[first, 3, 0, 1, 0]), Fault::Malformed);
            assert_eq!(fault(V5, &[first, 5, 0, 1, 0, 0, 0]), Fault::Malformed);
            assert_eq!(fault(V5, &[first, 4, 0, 1, 0, 1]), Fault::Malformed);
        }
    }

    // [MQTT5-2.1.3-1] [MQTT5-3.6.1-1] [MQTT311-2.2.2-2] [MQTT311-3.6.1-1]
    #[test]
    fn flag_bits_are_policed_from_3_1_1_on() {
        for (kind, first) in KINDS {
            for flags in (0..16).filter(|flags| *flags != first & 0x0F) {
                let bytes = [first & 0xF0 | flags, 2, 0, 1];
                assert_eq!(fault(V5, &bytes), Fault::Malformed);
                assert_eq!(fault(V311, &bytes), Fault::Malformed);
                let want = Ack { kind, packet_id: id(1), reason: Reason::Success };
                assert_eq!(ack(V31, &bytes), Ok(want));
            }
        }
        for flags in 1..16 {
            assert_eq!(fault(V5, &[0xE0 | flags, 0]), Fault::Malformed); // [MQTT5-3.14.1-1]
            assert_eq!(fault(V311, &[0xE0 | flags, 0]), Fault::Malformed); // [MQTT311-3.14.1-1]
            assert_eq!(fault(V5, &[0xF0 | flags, 0]), Fault::Malformed); // [MQTT5-3.15.1-1]
            assert_eq!(fault(V5, &[0xC0 | flags, 0]), Fault::Malformed);
        }
    }

    // [MQTT5-3.4.2-1] [MQTT5-3.5.2-1] [MQTT5-3.6.2-1] [MQTT5-3.7.2-1]
    #[test]
    fn acknowledgements_take_their_listed_reason_codes_only() {
        let publish: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
        let release: &[u8] = &[0x00, 0x92];
        for ((_, first), listed) in KINDS.into_iter().zip([publish, publish, release, release]) {
            for code in 0..=u8::MAX {
                let got = ack(V5, &[first, 3, 0, 1, code]).map(|ack| ack.reason.code());
                let want = if listed.contains(&code) { Ok(code) } else { Err(Fault::Protocol) };
                assert_eq!(got, want, "{first:#x} {code:#x}");
            }
        }
    }

    // Section 3.14.2.1, table 3-10
    #[test]
    fn disconnect_takes_the_reason_codes_of_clients_only() {
        let listed = [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
        for code in 0..=u8::MAX {
            let got = match read(V5, &[0xE0, 1, code]) {
                Ok(Packet::Disconnect(packet)) => Ok(packet.reason.code()),
                Ok(other) => panic!("{other:?}"),
                Err(fault) => Err(fault),
            };
            assert_eq!(
                got,
                if listed.contains(&code) { Ok(code) } else { Err(Fault::Protocol) },
                "{code:#x}"
            );
        }
    }

    #[test]
    fn disconnect_reads_its_properties() {
        for version in [V31, V311, V5] {
            assert!(matches!(
                read(version, &[0xE0, 0]),
                Ok(Packet::Disconnect(Disconnect { reason: Reason::Success, session_expiry_seconds: None }))
            ));
        }
        assert_eq!(fault(V311, &[0xE0, 1, 0]), Fault::Malformed);
        let expiry = [0xE0, 7, 0x04, 5, 0x11, 0, 0, 1, 2];
        assert!(matches!(
            read(V5, &expiry),
            Ok(Packet::Disconnect(Disconnect {
                reason: Reason::DisconnectWithWill,
                session_expiry_seconds: Some(258)
            }))
        ));
        assert_eq!(fault(V5, &[0xE0, 6, 0, 4, 0x1C, 0, 1, b'p']), Fault::Protocol);
        assert_eq!(fault(V5, &[0xE0, 3, 0, 1, 0x1C]), Fault::Malformed);
        assert_eq!(fault(V5, &[0xE0, 4, 0, 0, 0, 0]), Fault::Malformed);
    }

    // [MQTT5-3.15.2-1] and section 3.15.2.2.2
    #[test]
    fn auth_needs_a_clients_code_and_a_method() {
        let full = [0xF0, 13, 0x18, 11, 0x15, 0, 3, b'x', b'/', b'y', 0x16, 0, 2, 0x00, 0xFF];
        match read(V5, &full) {
            Ok(Packet::Auth(auth)) => {
                assert_eq!((auth.reason, auth.method), (Reason::ContinueAuthentication, "x/y"));
                assert_eq!(auth.data, Some(&[0x00, 0xFF][..]));
                let mut out = Vec::new();
                encode_auth(&mut out, &auth, 14);
                assert!(out.is_empty(), "one byte too large");
                encode_auth(&mut out, &auth, 15);
                assert_eq!(out, full);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(fault(V311, &full), Fault::Protocol);
        for code in (0..=u8::MAX).filter(|code| !matches!(code, 0x18 | 0x19)) {
            assert_eq!(fault(V5, &[0xF0, 6, code, 4, 0x15, 0, 1, b'm']), Fault::Protocol);
        }
        for bare in
            [&[0xF0, 0][..], &[0xF0, 1, 0x18], &[0xF0, 2, 0x18, 0], &[0xF0, 6, 0x18, 4, 0x16, 0, 1, 0]]
        {
            assert_eq!(fault(V5, bare), Fault::Protocol);
        }
    }

    #[test]
    fn acknowledgements_are_written_in_their_shortest_form() {
        let encode = |version, kind, reason| {
            let mut out = Vec::new();
            encode_ack(&mut out, version, Ack { kind, packet_id: id(256), reason });
            out
        };
        for (kind, first) in KINDS {
            assert_eq!(encode(V5, kind, Reason::Success), [first, 2, 1, 0]);
            assert_eq!(encode(V311, kind, Reason::Success), [first, 2, 1, 0]);
        }
        assert_eq!(encode(V5, AckKind::Pubrec, Reason::NotAuthorized), [0x50, 3, 1, 0, 0x87]);
        assert_eq!(encode(V311, AckKind::Pubrec, Reason::NotAuthorized), [0x50, 2, 1, 0]);
        assert_eq!(encode(V5, AckKind::Pubcomp, Reason::PacketIdentifierNotFound), [0x70, 3, 1, 0, 0x92]);
        let mut out = Vec::new();
        encode_pingresp(&mut out);
        assert_eq!(out, [0xD0, 0]);
    }

    // [MQTT5-3.14.2-3] [MQTT5-3.1.2-24]
    #[test]
    fn disconnect_drops_its_text_and_then_itself_for_size() {
        let encode = |reason, text, max| {
            let mut out = Vec::new();
            encode_disconnect(&mut out, reason, text, max);
            out
        };
        let full = [0xE0, 7, 0x82, 5, 0x1F, 0, 2, b'n', b'o'];
        assert_eq!(encode(Reason::ProtocolError, Some(DisconnectText::Reason("no")), 9), full);
        assert_eq!(encode(Reason::ProtocolError, Some(DisconnectText::Reason("no")), 8), [0xE0, 1, 0x82]);
        assert_eq!(encode(Reason::ProtocolError, None, u32::MAX), [0xE0, 1, 0x82]);
        assert!(encode(Reason::ProtocolError, Some(DisconnectText::Reason("no")), 2).is_empty());
        assert_eq!(encode(Reason::Success, None, 2), [0xE0, 0]);
        let long = "x".repeat(200);
        let bytes = encode(Reason::ServerMoved, Some(DisconnectText::Reason(&long)), 1000);
        assert_eq!(bytes[..8], [0xE0, 0xCE, 0x01, 0x9D, 0xCB, 0x01, 0x1F, 0]);
        assert_eq!(bytes.len(), 3 + 206);
    }
}
