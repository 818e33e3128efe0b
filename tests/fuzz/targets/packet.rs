//! Frames and packets: an input is a stream of bytes, read in each of the three versions.
//!
//! Framing must never claim more bytes than there are, and must give the same result whatever follows the
//! packet. A decoded packet must follow the rules that later stages rely on. It is encoded and decoded again,
//! and must be the same. If midge has no encoder, the fields are put together here and must give the original
//! bytes.

use midge::mqtt::codec::{
    Ack, Auth, Connect, Disconnect, DisconnectText, Frame, Framing, PACKET_BYTES_LIMIT, Packet, Publish,
    PublishHeader, Subscribe, Unsubscribe, decode, encode_ack, encode_auth, encode_disconnect,
    encode_publish, frame, publish_len, summarize_received, summarize_sent,
};
use midge::mqtt::{ProtocolVersion, QoS};
use midge::mqtt::{TopicFilter, check_topic_name, has_forbidden_character};
use midge_kit::codec::{self, V5, V31, V311, Version, string};

/// In one of the two passes, a packet above this size is refused, in bytes.
const SMALL_PACKET_BYTES_MAX: usize = 40;

/// Runs the target.
pub fn run(input: &[u8]) {
    for packet_bytes_max in [PACKET_BYTES_LIMIT, SMALL_PACKET_BYTES_MAX] {
        let mut rest = input;
        while let Some(found) = framed(rest, packet_bytes_max) {
            for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
                check_packet(version, found);
            }
            check_connect(found);
            rest = &rest[found.total_len..];
        }
    }
}

/// The first frame of `bytes`, if it is complete.
fn framed(bytes: &[u8], packet_bytes_max: usize) -> Option<Frame<'_>> {
    let found = match frame(bytes, packet_bytes_max) {
        Ok(Framing::Whole(found)) => found,
        Ok(Framing::Incomplete { total_len }) => {
            assert!(total_len > bytes.len(), "what is incomplete needs more bytes");
            assert!(total_len <= packet_bytes_max.max(2), "what is too large is not waited for");
            return None;
        }
        Err(_) => return None,
    };
    let total_len = found.total_len;
    assert!(total_len <= bytes.len(), "a frame claims more than there is");
    assert!(total_len <= packet_bytes_max, "a frame is larger than is allowed");
    assert_eq!(found.first_byte, bytes[0]);
    let header_len = total_len - found.body.len();
    assert!((2..=5).contains(&header_len));
    assert!(std::ptr::eq(found.body, &bytes[header_len..total_len]), "a body is what follows its header");
    for cut in (0..total_len.min(6)).chain([total_len - 1]) {
        match frame(&bytes[..cut], packet_bytes_max) {
            Ok(Framing::Incomplete { total_len: bound }) => assert!(bound > cut && bound <= total_len),
            other => panic!("{cut} bytes of a packet of {total_len} are {other:?}"),
        }
    }
    let alone = frame(&bytes[..total_len], packet_bytes_max);
    assert!(matches!(alone, Ok(Framing::Whole(alone)) if alone.total_len == total_len));
    Some(found)
}

/// Whatever a packet is, it can be told in words without line breaks.
fn check_summary(version: ProtocolVersion, found: Frame<'_>) {
    for summary in [summarize_received(version, found), summarize_sent(version, found)] {
        assert!(!summary.words.chars().any(char::is_control), "{:?}", summary.words);
    }
}

fn check_packet(version: ProtocolVersion, found: Frame<'_>) {
    check_summary(version, found);
    match decode(version, found) {
        Ok(Packet::Publish(publish)) => check_publish(version, found, &publish),
        Ok(Packet::Ack(ack)) => check_ack(version, ack),
        Ok(Packet::Subscribe(subscribe)) => check_subscribe(version, found, &subscribe),
        Ok(Packet::Unsubscribe(unsubscribe)) => check_unsubscribe(version, found, &unsubscribe),
        Ok(Packet::Pingreq) => assert!(found.body.is_empty()),
        Ok(Packet::Disconnect(disconnect)) => check_disconnect(version, disconnect),
        Ok(Packet::Auth(auth)) => check_auth(version, found, &auth),
        Err(error) => {
            assert!(error.reason().is_error(), "{error} is a fault");
        }
    }
}

fn check_publish(version: ProtocolVersion, found: Frame<'_>, publish: &Publish<'_>) {
    assert_eq!(publish.packet_id.is_some(), publish.qos != QoS::AtMostOnce);
    assert_eq!(check_topic_name(publish.topic).is_ok(), !publish.topic.is_empty());
    assert!(!publish.topic.is_empty() || publish.topic_alias.is_some());
    assert_ne!(publish.topic_alias, Some(0));
    assert!(found.body.starts_with(&string(publish.topic)) && found.body.ends_with(publish.payload));
    let header = PublishHeader {
        version,
        // 3.1 allows DUP with QoS 0. It is not passed on.
        dup: publish.dup && publish.qos != QoS::AtMostOnce,
        qos: publish.qos,
        retain: publish.retain,
        packet_id: publish.packet_id,
        topic: publish.topic,
        topic_alias: publish.topic_alias,
        message_expiry_seconds: publish.message_expiry_seconds,
        forward: publish.forward,
        subscription_ids: &[],
    };
    let mut bytes = vec![0xEE];
    encode_publish(&mut bytes, &header, publish.payload.len());
    bytes.extend_from_slice(publish.payload);
    let bytes = &bytes[1..];
    assert_eq!(bytes.len(), publish_len(&header, publish.payload.len()));
    is_well_formed(version, bytes);
    let Ok(Packet::Publish(again)) = decode(version, whole(bytes)) else {
        panic!("a PUBLISH is another packet: {bytes:02X?}");
    };
    let fields = |publish: &Publish<'_>| {
        let Publish { qos, retain, packet_id, topic_alias, message_expiry_seconds, .. } = *publish;
        (qos, retain, packet_id, topic_alias, message_expiry_seconds)
    };
    assert_eq!(fields(&again), fields(publish));
    assert_eq!((again.topic, again.payload), (publish.topic, publish.payload));
    assert_eq!(again.dup, header.dup);
    assert_eq!(again.forward.concat(), publish.forward.concat());
}

fn check_ack(version: ProtocolVersion, ack: Ack) {
    let mut bytes = Vec::new();
    encode_ack(&mut bytes, version, ack);
    is_well_formed(version, &bytes);
    match decode(version, whole(&bytes)) {
        Ok(Packet::Ack(again)) => assert_eq!(again, ack),
        other => panic!("{ack:?} is {other:?}"),
    }
}

fn check_subscribe(version: ProtocolVersion, found: Frame<'_>, subscribe: &Subscribe<'_>) {
    assert!(found.body.starts_with(&subscribe.packet_id.get().to_be_bytes()));
    let mut tail = Vec::new();
    for subscription in subscribe.filters.clone() {
        let options = subscription.options;
        assert!(!(options.no_local && subscription.filter.shared().is_some()));
        tail.extend(filter_bytes(subscription.filter));
        tail.push(
            options.qos as u8
                | u8::from(options.no_local) << 2
                | u8::from(options.retain_as_published) << 3
                | (options.retain_handling as u8) << 4,
        );
    }
    check_filters(version, found, &tail);
    assert!(version == ProtocolVersion::V5 || subscribe.subscription_id.is_none());
}

fn check_unsubscribe(version: ProtocolVersion, found: Frame<'_>, unsubscribe: &Unsubscribe<'_>) {
    assert!(found.body.starts_with(&unsubscribe.packet_id.get().to_be_bytes()));
    let tail: Vec<u8> = unsubscribe.filters.clone().flat_map(filter_bytes).collect();
    check_filters(version, found, &tail);
}

fn filter_bytes(filter: TopicFilter<'_>) -> Vec<u8> {
    assert_eq!(TopicFilter::parse(filter.as_str()), Ok(filter));
    string(filter.as_str())
}

/// Checks that the iterators leave no filter out.
fn check_filters(version: ProtocolVersion, found: Frame<'_>, tail: &[u8]) {
    assert!(!tail.is_empty() && found.body.ends_with(tail));
    if version < ProtocolVersion::V5 {
        assert_eq!(found.body.len(), 2 + tail.len());
    }
}

fn check_disconnect(version: ProtocolVersion, disconnect: Disconnect) {
    if version < ProtocolVersion::V5 {
        return;
    }
    for words in [None, Some(DisconnectText::Reason("in words"))] {
        let mut bytes = Vec::new();
        encode_disconnect(&mut bytes, disconnect.reason, words, u32::MAX);
        let Ok(Packet::Disconnect(again)) = decode(version, whole(&bytes)) else {
            panic!("a DISCONNECT is another packet: {bytes:02X?}");
        };
        // A server never sends a session expiry interval.
        assert_eq!((again.reason, again.session_expiry_seconds), (disconnect.reason, None));
    }
}

fn check_auth(version: ProtocolVersion, found: Frame<'_>, auth: &Auth<'_>) {
    assert_eq!(version, ProtocolVersion::V5);
    assert!(!found.body.is_empty());
    let mut bytes = Vec::new();
    encode_auth(&mut bytes, auth, u32::MAX);
    let Ok(Packet::Auth(again)) = decode(version, whole(&bytes)) else {
        panic!("an AUTH is another packet: {bytes:02X?}");
    };
    assert_eq!((again.reason, again.method, again.data), (auth.reason, auth.method, auth.data));
}

fn check_connect(found: Frame<'_>) {
    let version = Connect::version_of(found);
    let Ok(connect) = Connect::decode(found) else { return };
    assert_eq!(version, Some(connect.version), "a CONNECT is answered in its own version");
    assert!(connect.receive_maximum > 0 && connect.packet_bytes_max > 0);
    assert!(connect.authentication_data.is_none() || connect.authentication_method.is_some());
    assert!(!has_forbidden_character(connect.client_id));
    assert!(!connect.client_id.is_empty() || connect.clean_start || connect.version == ProtocolVersion::V5);
    let mut tail = Vec::new();
    match &connect.will {
        Some(will) => {
            check_topic_name(will.topic).expect("a will goes to a topic");
            tail.extend([string(will.topic), string(will.payload)].concat());
        }
        None => tail.extend(string(connect.client_id)),
    }
    tail.extend(connect.username.iter().flat_map(string));
    tail.extend(connect.password.iter().flat_map(string));
    assert!(found.body.ends_with(&tail), "the payload of a CONNECT is what came");
}

/// The only frame in the bytes.
fn whole(bytes: &[u8]) -> Frame<'_> {
    match frame(bytes, PACKET_BYTES_LIMIT) {
        Ok(Framing::Whole(found)) if found.total_len == bytes.len() => found,
        other => panic!("what was encoded is no packet: {other:?} of {bytes:02X?}"),
    }
}

/// Checks the bytes with the reader of the conformance scenarios.
fn is_well_formed(version: ProtocolVersion, bytes: &[u8]) {
    if let Err(breach) = codec::decode(bytes, said(version)) {
        panic!("{breach}: {bytes:02X?}");
    }
}

fn said(version: ProtocolVersion) -> Version {
    match version {
        ProtocolVersion::V31 => V31,
        ProtocolVersion::V311 => V311,
        ProtocolVersion::V5 => V5,
    }
}
