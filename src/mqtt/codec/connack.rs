//! CONNACK: the server's answer to CONNECT. Implements section 3.2.

use super::property::{id, put_bytes, put_u8, put_u16, put_u32};
use super::wire::{ByteCounter, Sink, packet_len, put_binary, put_varint, varint_len};
use super::{ProtocolVersion, Reason};

/// The content of CONNACK. Everything but `session_present` is for 5.0. `None` is not sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connack<'a> {
    /// It is sent as 0 to 3.1 clients, and with any reason other than Success. `[MQTT5-3.2.2-6]`
    /// `[MQTT311-3.2.2-4]`
    pub session_present: bool,
    /// The session expiry interval in seconds, if it differs from what the client asked for.
    pub session_expiry_seconds: Option<u32>,
    /// Receive maximum, 1 to 65,535.
    pub receive_maximum: Option<u16>,
    /// The maximum QoS, only `Some(0)` or `Some(1)`.
    pub maximum_qos: Option<u8>,
    /// Retain available.
    pub retain_available: Option<bool>,
    /// The maximum packet size in bytes, with the fixed header; never 0.
    pub packet_bytes_max: Option<u32>,
    /// The assigned client identifier, only for an empty one in CONNECT. `[MQTT5-3.2.2-16]`
    pub assigned_client_id: Option<&'a str>,
    /// Topic alias maximum.
    pub topic_alias_maximum: Option<u16>,
    /// Wildcard subscription available.
    pub wildcard_subscription_available: Option<bool>,
    /// Subscription identifiers available.
    pub subscription_ids_available: Option<bool>,
    /// Shared subscription available.
    pub shared_subscription_available: Option<bool>,
    /// Server keep alive, seconds. `[MQTT5-3.2.2-21]`
    pub server_keep_alive_seconds: Option<u16>,
    /// The response information, only if the client asked for it. `[MQTT5-3.1.2-28]`
    pub response_information: Option<&'a str>,
    /// The server reference, for UseAnotherServer or ServerMoved.
    pub server_reference: Option<&'a str>,
    /// The authentication method of CONNECT. `[MQTT5-4.12.0-5]`
    pub authentication_method: Option<&'a str>,
    /// Authentication data.
    pub authentication_data: Option<&'a [u8]>,
    /// A text for people.
    pub reason_string: Option<&'a str>,
    /// Names and values.
    pub user_properties: &'a [(&'a str, &'a str)],
}

/// Appends a CONNACK. Appends nothing for a reason that has no return code in 3.x. `[MQTT311-3.2.2-6]`
///
/// If the packet would exceed `packet_bytes_max`, which includes the fixed header, optional texts are left
/// out: reason string, user properties, response information, server reference, in this order.
/// `[MQTT5-3.2.2-19]` `[MQTT5-3.2.2-20]` If it still would, nothing is appended, so the client gets no
/// answer. `[MQTT5-3.1.2-24]` For 3.1 the session present bit is always 0.
pub fn encode_connack(
    out: &mut Vec<u8>,
    version: ProtocolVersion,
    reason: Reason,
    connack: &Connack<'_>,
    packet_bytes_max: u32,
) {
    let session_present = connack.session_present && reason == Reason::Success;
    if version == ProtocolVersion::V5 {
        encode_v5(out, session_present, reason, connack, packet_bytes_max);
    } else if let Some(code) = reason.connack_v3() {
        // `[MQTT311 §3.1-e]`: this byte is reserved in 3.1.
        let session_present = session_present && version == ProtocolVersion::V311;
        out.put(&[0x20, 0x02, u8::from(session_present), code]);
    }
}

fn encode_v5(
    out: &mut Vec<u8>,
    session_present: bool,
    reason: Reason,
    connack: &Connack<'_>,
    packet_bytes_max: u32,
) {
    let mut said = *connack;
    let drop_one: [fn(&mut Connack<'_>); 4] = [
        |c| c.reason_string = None,
        |c| c.user_properties = &[],
        |c| c.response_information = None,
        |c| c.server_reference = None,
    ];
    let mut droppable = drop_one.iter();
    let (properties_len, remaining_len) = loop {
        let mut counter = ByteCounter::default();
        put_properties(&mut counter, &said);
        let remaining_len = 2 + varint_len(counter.0) + counter.0;
        if packet_len(remaining_len) <= packet_bytes_max as usize {
            break (counter.0, remaining_len);
        }
        match droppable.next() {
            Some(drop_text) => drop_text(&mut said),
            None => return,
        }
    };
    out.reserve(packet_len(remaining_len));
    out.push(0x20);
    put_varint(out, remaining_len);
    // [MQTT5-3.2.2-1]
    out.put(&[u8::from(session_present), reason.code()]);
    put_varint(out, properties_len);
    put_properties(out, &said);
}

/// The standard does not define the order. This is the order of mosquitto 2.1. Its test scripts, and other
/// programs that compare the bytes of a CONNACK, accept no other.
fn put_properties(out: &mut impl Sink, said: &Connack<'_>) {
    let flag = |value: Option<bool>| value.map(u8::from);
    put_u16(out, id::SERVER_KEEP_ALIVE, said.server_keep_alive_seconds);
    put_u16(out, id::TOPIC_ALIAS_MAXIMUM, said.topic_alias_maximum);
    put_bytes(out, id::ASSIGNED_CLIENT_IDENTIFIER, said.assigned_client_id.map(str::as_bytes));
    put_bytes(out, id::AUTHENTICATION_METHOD, said.authentication_method.map(str::as_bytes));
    put_bytes(out, id::AUTHENTICATION_DATA, said.authentication_data);
    put_u8(out, id::RETAIN_AVAILABLE, flag(said.retain_available));
    put_u32(out, id::MAXIMUM_PACKET_SIZE, said.packet_bytes_max);
    put_u16(out, id::RECEIVE_MAXIMUM, said.receive_maximum);
    put_u8(out, id::MAXIMUM_QOS, said.maximum_qos);
    put_u32(out, id::SESSION_EXPIRY_INTERVAL, said.session_expiry_seconds);
    put_u8(out, id::WILDCARD_SUBSCRIPTION_AVAILABLE, flag(said.wildcard_subscription_available));
    put_u8(out, id::SUBSCRIPTION_IDENTIFIER_AVAILABLE, flag(said.subscription_ids_available));
    put_u8(out, id::SHARED_SUBSCRIPTION_AVAILABLE, flag(said.shared_subscription_available));
    put_bytes(out, id::RESPONSE_INFORMATION, said.response_information.map(str::as_bytes));
    put_bytes(out, id::SERVER_REFERENCE, said.server_reference.map(str::as_bytes));
    put_bytes(out, id::REASON_STRING, said.reason_string.map(str::as_bytes));
    for (name, value) in said.user_properties {
        put_bytes(out, id::USER_PROPERTY, Some(name.as_bytes()));
        put_binary(out, value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProtocolVersion::{V5, V31, V311};

    fn encode(version: ProtocolVersion, reason: Reason, connack: &Connack<'_>, max: u32) -> Vec<u8> {
        let mut out = Vec::new();
        encode_connack(&mut out, version, reason, connack, max);
        out
    }

    const PRESENT: Connack<'_> = Connack {
        session_present: true,
        session_expiry_seconds: None,
        receive_maximum: None,
        maximum_qos: None,
        retain_available: None,
        packet_bytes_max: None,
        assigned_client_id: None,
        topic_alias_maximum: None,
        wildcard_subscription_available: None,
        subscription_ids_available: None,
        shared_subscription_available: None,
        server_keep_alive_seconds: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
        reason_string: None,
        user_properties: &[],
    };

    // [MQTT5-2.2.2-1] [MQTT5-3.2.2-6] [MQTT311-3.2.2-4] [MQTT311-3.2.2-6], [MQTT311 §3.1-e]
    #[test]
    fn each_version_gets_its_own_connack() {
        let max = u32::MAX;
        assert_eq!(encode(V31, Reason::Success, &PRESENT, max), [0x20, 2, 0, 0]);
        assert_eq!(encode(V311, Reason::Success, &PRESENT, max), [0x20, 2, 1, 0]);
        assert_eq!(encode(V5, Reason::Success, &PRESENT, max), [0x20, 3, 1, 0, 0]);
        assert_eq!(encode(V311, Reason::NotAuthorized, &PRESENT, max), [0x20, 2, 0, 5]);
        assert_eq!(encode(V5, Reason::NotAuthorized, &PRESENT, max), [0x20, 3, 0, 0x87, 0]);
        assert_eq!(encode(V31, Reason::UnsupportedProtocolVersion, &PRESENT, max), [0x20, 2, 0, 1]);
        assert!(encode(V311, Reason::MalformedPacket, &PRESENT, max).is_empty());
        assert!(encode(V31, Reason::ProtocolError, &PRESENT, max).is_empty());
    }

    #[test]
    fn all_properties_are_written_with_their_types() {
        let said = Connack {
            session_present: false,
            session_expiry_seconds: Some(258),
            receive_maximum: Some(20),
            maximum_qos: Some(1),
            retain_available: Some(false),
            packet_bytes_max: Some(2_000_000),
            assigned_client_id: Some("id"),
            topic_alias_maximum: Some(10),
            wildcard_subscription_available: Some(false),
            subscription_ids_available: Some(true),
            shared_subscription_available: Some(false),
            server_keep_alive_seconds: Some(60),
            response_information: Some("r/"),
            server_reference: Some("b"),
            authentication_method: Some("m"),
            authentication_data: Some(&[0, 0xFF]),
            reason_string: Some("no"),
            user_properties: &[("a", "1"), ("a", "")],
        };
        let want = [
            &[0x20, 73, 0, 0x9D, 70][..],
            &[0x13, 0, 60],
            &[0x22, 0, 10],
            &[0x12, 0, 2, b'i', b'd'],
            &[0x15, 0, 1, b'm'],
            &[0x16, 0, 2, 0, 0xFF],
            &[0x25, 0],
            &[0x27, 0x00, 0x1E, 0x84, 0x80],
            &[0x21, 0, 20],
            &[0x24, 1],
            &[0x11, 0, 0, 1, 2],
            &[0x28, 0],
            &[0x29, 1],
            &[0x2A, 0],
            &[0x1A, 0, 2, b'r', b'/'],
            &[0x1C, 0, 1, b'b'],
            &[0x1F, 0, 2, b'n', b'o'],
            &[0x26, 0, 1, b'a', 0, 1, b'1'],
            &[0x26, 0, 1, b'a', 0, 0],
        ]
        .concat();
        assert_eq!(encode(V5, Reason::ServerMoved, &said, 200), want);
    }

    // [MQTT5-3.2.2-19] [MQTT5-3.2.2-20] [MQTT5-3.1.2-24]
    #[test]
    fn texts_give_way_to_the_clients_maximum_packet_size() {
        let said = Connack {
            reason_string: Some("why"),
            server_reference: Some("host"),
            response_information: Some("r/"),
            user_properties: &[("a", "1"), ("b", "2")],
            ..Connack::default()
        };
        let len = |max| encode(V5, Reason::ServerMoved, &said, max).len();
        // The user properties are sent all or not at all.
        assert_eq!((len(37), len(36), len(31), len(30)), (37, 31, 31, 17));
        assert_eq!((len(17), len(16)), (17, 12));
        assert_eq!((len(12), len(11), len(5), len(4), len(2)), (12, 5, 5, 0, 0));
    }
}
