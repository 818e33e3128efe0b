//! Tests of the whole codec: packets that must be refused as a family, and mutated packets.

use super::*;
use crate::base::Random;
use ProtocolVersion::{V5, V31, V311};

const VERSIONS: [ProtocolVersion; 3] = [V31, V311, V5];

/// A packet from its first byte and its body.
fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first_byte];
    wire::put_varint(&mut out, body.len());
    out.extend_from_slice(body);
    out
}

/// Frames and decodes one packet as the server does. `Ok` only means that the packet is accepted.
fn judge(version: ProtocolVersion, bytes: &[u8]) -> Result<(), Fault> {
    let found = match frame(bytes, PACKET_BYTES_LIMIT) {
        Ok(Framing::Whole(found)) => found,
        Ok(Framing::Incomplete { .. }) => panic!("not whole: {bytes:x?}"),
        Err(error) => return Err(error.fault),
    };
    let judged = match found.first_byte >> 4 {
        packet_type::CONNECT => Connect::decode(found).map(drop),
        _ => decode(version, found).map(drop),
    };
    judged.map_err(|error| error.fault)
}

/// Valid packets of every type that clients send, in one version.
fn valid(version: ProtocolVersion) -> Vec<Vec<u8>> {
    let mut connect = if version == V31 { b"\0\x06MQIsdp".to_vec() } else { b"\0\x04MQTT".to_vec() };
    connect.extend_from_slice(&[version as u8, 0xEE, 0, 60]);
    if version < V5 {
        connect.extend_from_slice(b"\0\x02id\0\x03w/t\0\x02\0\xFF\0\x04user\0\x02pw");
        return vec![
            packet(0x10, &connect),
            packet(0x30, b"\0\x03a/bpayload"),
            packet(0x3B, b"\0\x03a/b\x12\x34payload"),
            packet(0x34, b"\0\x06\xC3\xA9\xE2\x82\xACb\xFF\xFF"),
            packet(0x40, &[0, 1]),
            packet(0x50, &[1, 0]),
            packet(0x62, &[0xFF, 0xFF]),
            packet(0x70, &[0, 9]),
            packet(0x82, b"\0\x0A\0\x03a/+\x01\0\x0A$share/g/#\x02"),
            packet(0xA2, b"\0\x0B\0\x03a/+\0\x01#"),
            packet(0xC0, &[]),
            packet(0xE0, &[]),
        ];
    }
    connect
        .extend_from_slice(b"\x1A\x11\0\0\0\x3C\x21\0\x0A\x27\0\0\xFF\xFF\x15\0\x01m\x16\0\x01d\x26\0\0\0\0");
    connect
        .extend_from_slice(b"\0\x02id\x0F\x18\0\0\0\x05\x01\x01\x02\0\0\0\x0A\x03\0\0\0\x03w/t\0\x02\0\xFF");
    connect.extend_from_slice(b"\0\x04user\0\x02pw");
    vec![
        packet(0x10, &connect),
        packet(0x30, b"\0\x03a/b\0payload"),
        packet(0x30, b"\0\x00\x03\x23\0\x01payload"),
        packet(
            0x3B,
            b"\0\x03a/b\x12\x34\x14\x26\0\x01k\0\x01v\x02\0\0\0\x07\x01\x01\x23\0\x02\x03\0\0payload",
        ),
        packet(0x34, b"\0\x06\xC3\xA9\xE2\x82\xACb\xFF\xFF\x0B\x08\0\x03r/t\x09\0\x02\0\xFF"),
        packet(0x40, &[0, 1]),
        packet(0x40, b"\0\x01\x10"),
        packet(0x50, b"\0\x01\x97\x0A\x1F\0\0\x26\0\x01k\0\x01v"),
        packet(0x62, b"\0\x01\x92\0"),
        packet(0x70, b"\0\x01\0\x04\x1F\0\x01r"),
        packet(0x82, b"\0\x0A\x05\x0B\xFF\xFF\xFF\x7F\0\x03a/+\x2D\0\x0A$share/g/#\x02"),
        packet(0xA2, b"\0\x0B\x05\x26\0\0\0\0\0\x03a/+\0\x01#"),
        packet(0xC0, &[]),
        packet(0xE0, &[]),
        packet(0xE0, b"\x04\x05\x11\0\0\0\x01"),
        packet(0xF0, b"\x18\x08\x15\0\x01m\x16\0\x01d"),
    ]
}

#[test]
fn the_packets_that_the_other_tests_start_from_are_accepted() {
    for version in VERSIONS {
        for bytes in valid(version) {
            assert_eq!(judge(version, &bytes), Ok(()), "{version:?} {bytes:x?}");
        }
    }
}

// Section 2.1.2 of 5.0, 2.2.1 of 3.1.1; [MQTT5-3.1.0-2] [MQTT311-3.1.0-2]
#[test]
fn packets_that_clients_may_not_send_are_protocol_errors() {
    for version in VERSIONS {
        for body in [&[][..], &[0], &[0, 1], &[0, 0, 0], &[0, 1, 0, 0]] {
            for server_only in [0x20, 0x90, 0xB0, 0xD0] {
                assert_eq!(judge(version, &packet(server_only, body)), Err(Fault::Protocol));
            }
            for flags in 0..16 {
                assert_eq!(judge(version, &packet(flags, body)), Err(Fault::Protocol));
                assert_eq!(judge(version, &packet(0x20 | flags, body)), Err(Fault::Protocol));
            }
            if version < V5 {
                assert_eq!(judge(version, &packet(0xF0, body)), Err(Fault::Protocol));
            }
        }
        let second = valid(version).swap_remove(0);
        let Ok(Framing::Whole(second)) = frame(&second, PACKET_BYTES_LIMIT) else { panic!("whole") };
        assert_eq!(decode(version, second).map(drop).map_err(|error| error.fault), Err(Fault::Protocol));
    }
}

// [MQTT5-2.1.3-1] [MQTT311-2.2.2-2] and [MQTT311 §3.1-h]
#[test]
fn reserved_flag_bits_are_malformed_from_3_1_1_on() {
    for version in VERSIONS {
        for bytes in valid(version).iter().filter(|bytes| bytes[0] >> 4 != packet_type::PUBLISH) {
            for flags in (0..16).filter(|flags| *flags != bytes[0] & 0x0F) {
                let mut bytes = bytes.clone();
                bytes[0] = bytes[0] & 0xF0 | flags;
                let want = if version == V31 { Ok(()) } else { Err(Fault::Malformed) };
                assert_eq!(judge(version, &bytes), want, "{version:?} {bytes:x?}");
            }
        }
    }
}

// Section 2.1.4 of 5.0, 2.2.3 of 3.1.1. Section 3.14.2.1 allows a shorter DISCONNECT, 3.4.2.1 shorter
// acknowledgements
#[test]
fn a_packet_cut_anywhere_is_refused_unless_what_is_left_is_whole_by_itself() {
    for version in VERSIONS {
        for whole in valid(version) {
            let Ok(Framing::Whole(whole)) = frame(&whole, PACKET_BYTES_LIMIT) else { panic!("whole") };
            for cut in 0..whole.body.len() {
                let short = packet(whole.first_byte, &whole.body[..cut]);
                let whole_by_itself = match whole.first_byte >> 4 {
                    packet_type::PUBLISH => {
                        let topic_len = usize::from(u16::from_be_bytes([whole.body[0], whole.body[1]]));
                        let payload_len = Publish::decode(version, whole).expect("valid").payload.len();
                        assert!(topic_len < whole.body.len());
                        cut >= whole.body.len() - payload_len
                    }
                    4..=7 => cut == 2 || cut == 3,
                    packet_type::SUBSCRIBE => cut == whole.body.len() - 13,
                    packet_type::UNSUBSCRIBE => cut == whole.body.len() - 3,
                    packet_type::DISCONNECT => cut < 2,
                    _ => false,
                };
                assert_eq!(judge(version, &short).is_ok(), whole_by_itself, "{version:?} {short:x?}");
            }
            if whole.first_byte >> 4 != packet_type::PUBLISH {
                let long = packet(whole.first_byte, &[whole.body, &[0xFF]].concat());
                assert!(judge(version, &long).is_err(), "{version:?} {long:x?}");
            }
        }
    }
}

// Section 2.2.2.2: each property in each packet, once and twice
#[test]
fn properties_of_other_packets_are_malformed_and_own_ones_twice_a_protocol_error() {
    let properties: [&[u8]; 27] = [
        &[0x01, 1],
        &[0x02, 0, 0, 0, 1],
        b"\x03\0\x01p",
        b"\x08\0\x01p",
        b"\x09\0\x01p",
        &[0x0B, 1],
        &[0x11, 0, 0, 0, 1],
        b"\x12\0\x01p",
        &[0x13, 0, 1],
        b"\x15\0\x01p",
        b"\x16\0\x01p",
        &[0x17, 1],
        &[0x18, 0, 0, 0, 1],
        &[0x19, 1],
        b"\x1A\0\x01p",
        b"\x1C\0\x01p",
        b"\x1F\0\x01p",
        &[0x21, 0, 1],
        &[0x22, 0, 1],
        &[0x23, 0, 1],
        &[0x24, 1],
        &[0x25, 1],
        b"\x26\0\x01k\0\x01v",
        &[0x27, 0, 0, 0, 1],
        &[0x28, 1],
        &[0x29, 1],
        &[0x2A, 1],
    ];
    /// The first byte, the bytes before the property length, the bytes after the properties, and the property
    /// identifiers.
    type Carrier = (u8, &'static [u8], &'static [u8], &'static [u8]);
    let packets: [Carrier; 11] = [
        (0x10, b"\0\x04MQTT\x05\x02\0\x0A", b"\0\x01p", &[0x11, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27]),
        (
            0x10,
            b"\0\x04MQTT\x05\x06\0\x0A\0\0\x01p",
            b"\0\x01t\0\x01m",
            &[0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26],
        ),
        (0x30, b"\0\x01t", b"payload", &[0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26]),
        (0x40, b"\0\x01\0", b"", &[0x1F, 0x26]),
        (0x50, b"\0\x01\0", b"", &[0x1F, 0x26]),
        (0x62, b"\0\x01\0", b"", &[0x1F, 0x26]),
        (0x70, b"\0\x01\0", b"", &[0x1F, 0x26]),
        (0x82, b"\0\x01", b"\0\x01p\0", &[0x0B, 0x26]),
        (0xA2, b"\0\x01", b"\0\x01p", &[0x26]),
        (0xE0, b"\0", b"", &[0x11, 0x1F, 0x26]),
        (0xF0, b"\x18", b"", &[]),
    ];
    for (first_byte, before, after, own) in packets {
        for property in properties {
            let id = property[0];
            let judge_times = |times: usize| {
                let raw = property.repeat(times);
                judge(V5, &packet(first_byte, &[before, &[raw.len() as u8], &raw, after].concat()))
            };
            // These are special cases: properties that need a method, and properties that a client may not
            // send.
            let (once, twice) = match (first_byte, id) {
                (0x10, 0x15) if before.len() == 10 => (Ok(()), Err(Fault::Protocol)),
                (0x10, 0x16) if before.len() == 10 => (Err(Fault::Protocol), Err(Fault::Protocol)),
                (0x30, 0x0B) | (0xE0, 0x1C) => (Err(Fault::Protocol), Err(Fault::Protocol)),
                (0xF0, 0x15) => (Ok(()), Err(Fault::Protocol)),
                (0xF0, 0x16 | 0x1F | 0x26) => (Err(Fault::Protocol), Err(Fault::Protocol)),
                (_, 0x26) => (Ok(()), Ok(())),
                _ if own.contains(&id) => (Ok(()), Err(Fault::Protocol)),
                _ => (Err(Fault::Malformed), Err(Fault::Malformed)),
            };
            assert_eq!(judge_times(1), once, "{first_byte:#x} {id:#x}");
            assert_eq!(judge_times(2), twice, "{first_byte:#x} {id:#x} twice");
        }
    }
}

// [MQTT5-1.5.5-1]: 3.x has no such rule
#[test]
fn a_padded_remaining_length_is_refused_in_5_0_only() {
    for (version, want) in [(V31, Ok(())), (V311, Ok(())), (V5, Err(Fault::Malformed))] {
        assert_eq!(judge(version, &[0xC0, 0x80, 0x00]), want);
        for bytes in valid(version).iter().filter(|bytes| bytes[1] < 0x80) {
            let mut padded = vec![bytes[0], bytes[1] | 0x80, 0x80, 0x00];
            padded.extend_from_slice(&bytes[2..]);
            assert_eq!(judge(version, &padded), want, "{version:?} {padded:x?}");
        }
    }
}

/// Makes one to four changes: a byte is set, incremented or flipped, bytes are inserted, removed or repeated,
/// the tail is cut off. In half of the cases the remaining length is corrected.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let at = random.index(bytes.len());
        match random.below(7) {
            0 => bytes[at] = random.next_u64() as u8,
            1 => bytes[at] = bytes[at].wrapping_add(1),
            2 => bytes[at] ^= 1 << random.below(8),
            3 => bytes.insert(at, random.pick(&[0x00, 0x01, 0x7F, 0x80, 0xFF, b'#', 0x26])),
            4 if bytes.len() > 2 => drop(bytes.remove(at)),
            5 => {
                let end = at + random.index(bytes.len() - at + 1);
                let run = bytes[at..end].to_vec();
                bytes.splice(at..at, run);
            }
            _ => bytes.truncate(at.max(1)),
        }
    }
    if random.below(2) == 0 && bytes.len() > 2 && bytes[1] < 0x80 {
        let body = bytes.split_off(2);
        *bytes = packet(bytes[0], &body);
    }
}

/// Frames and decodes any bytes, and reads everything in the result.
fn exercise(version: ProtocolVersion, bytes: &[u8]) -> bool {
    let found = match frame(bytes, 1 << 20) {
        Ok(Framing::Whole(found)) => found,
        Ok(Framing::Incomplete { total_len }) => {
            assert!(total_len > bytes.len());
            return false;
        }
        Err(_) => return false,
    };
    assert!(found.total_len <= bytes.len() && found.body.len() < found.total_len);
    if found.first_byte >> 4 == packet_type::CONNECT {
        let answer = Connect::version_of(found);
        return Connect::decode(found).is_ok_and(|connect| {
            assert_eq!(Some(connect.version), answer);
            true
        });
    }
    match decode(version, found) {
        Ok(Packet::Publish(publish)) => check_round_trip(version, &publish),
        Ok(Packet::Subscribe(packet)) => {
            let shared = packet.filters.clone().filter(|f| f.filter.shared().is_some() && f.options.no_local);
            assert_eq!(shared.count(), 0);
            assert!(packet.filters.count() > 0);
        }
        Ok(Packet::Unsubscribe(packet)) => assert!(packet.filters.count() > 0),
        Ok(_) => {}
        Err(_) => return false,
    }
    true
}

/// Encoding and decoding a decoded packet again gives the same packet.
fn check_round_trip(version: ProtocolVersion, publish: &Publish<'_>) {
    let header = PublishHeader {
        version,
        dup: publish.dup && publish.qos > QoS::AtMostOnce,
        qos: publish.qos,
        retain: publish.retain,
        packet_id: publish.packet_id,
        topic: publish.topic,
        topic_alias: publish.topic_alias,
        message_expiry_seconds: publish.message_expiry_seconds,
        forward: publish.forward,
        subscription_ids: &[],
    };
    let mut out = b"before".to_vec();
    let packet_id_at = encode_publish(&mut out, &header, publish.payload.len());
    if let Some(packet_id) = publish.packet_id {
        assert_eq!(out[packet_id_at..packet_id_at + 2], packet_id.get().to_be_bytes());
    }
    out.extend_from_slice(publish.payload);
    let out = &out[6..];
    assert_eq!(out.len(), publish_len(&header, publish.payload.len()));
    let Ok(Framing::Whole(found)) = frame(out, out.len()) else { panic!("not framed: {out:x?}") };
    assert_eq!(found.total_len, out.len());
    let again = Publish::decode(version, found).expect("encoded by us");
    assert_eq!((again.dup, again.qos, again.retain), (header.dup, publish.qos, publish.retain));
    assert_eq!((again.packet_id, again.topic_alias), (publish.packet_id, publish.topic_alias));
    assert_eq!(again.message_expiry_seconds, publish.message_expiry_seconds);
    assert_eq!((again.topic, again.payload), (publish.topic, publish.payload));
    assert_eq!(again.forward.concat(), publish.forward.concat());
}

#[test]
fn mutated_packets_never_panic_and_publishes_survive_a_round_trip() {
    const ROUNDS: usize = 4_000;
    let mut random = Random::new(0x9E37_79B9_7F4A_7C15);
    let mut accepted = 0;
    for version in VERSIONS {
        for original in valid(version) {
            assert!(exercise(version, &original));
            for _ in 0..ROUNDS {
                let mut bytes = original.clone();
                mutate(&mut random, &mut bytes);
                let spoken = random.pick(&VERSIONS);
                accepted += usize::from(exercise(version, &bytes)) + usize::from(exercise(spoken, &bytes));
            }
        }
    }
    // If all generated packets were refused at once, the test would prove nothing.
    assert!(accepted > 10 * ROUNDS, "{accepted}");
}

// [MQTT5-4.2.0-1]
#[test]
fn arbitrary_bytes_never_panic() {
    let mut random = Random::new(0x2545_F491_4F6C_DD1D);
    for _ in 0..50_000 {
        let mut bytes = vec![0; 1 + random.index(40)];
        bytes.fill_with(|| random.next_u64() as u8);
        for version in VERSIONS {
            exercise(version, &bytes);
            bytes[0] = (1 + random.below(15) as u8) << 4 | random.pick(&[0, 2]);
            if bytes.len() > 1 {
                bytes[1] = bytes.len() as u8 - 2;
            }
            exercise(version, &bytes);
        }
    }
}
