//! Encodes and decodes records.

use super::*;
use crate::base::nth;
use crate::mqtt::RetainHandling;
use crate::store::ClockReading;
use crate::store::open_body;
use crate::store::rows::Table;
use crate::store::segment::{Header, VERSIONS};
use smallvec::smallvec;
use std::ops::RangeInclusive;

pub(crate) fn packet(packet_id: u16) -> PacketId {
    PacketId::new(packet_id).expect("not 0")
}

pub(crate) fn message<'a>(topic: &'a str, payload: &'a [u8]) -> StoredMessage<'a> {
    StoredMessage {
        topic,
        properties: [b"\x26\x00\x01a\x00\x01b", &[], &[]],
        payload,
        qos: QoS::AtLeastOnce,
        retain: true,
        expires_at_millis: Some(1_700_000_000_000),
        source: b"s",
    }
}

fn all() -> Vec<Record<'static>> {
    let message = message("a/b", b"payload");
    let plain = StoredMessage {
        properties: [&[]; 3],
        expires_at_millis: None,
        retain: false,
        source: &[],
        ..message
    };
    let will = StoredWill { message: plain, delay_seconds: 60, message_expiry_seconds: Some(u32::MAX) };
    let options = SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::Never,
    };
    let version = ProtocolVersion::V5;
    let sid = nth(300);
    let delivery = |packet_id: u16, subscription_ids, group| Record::Delivery {
        sid,
        number: nth(1_000_001),
        message: nth(1_000_000),
        qos: QoS::ExactlyOnce,
        retain: true,
        packet_id: PacketId::new(packet_id),
        subscription_ids,
        group,
    };
    vec![
        Record::Session { sid, client_id: "ä", version, expiry_seconds: u32::MAX, will: Some(will) },
        Record::Session { sid: nth(u64::MAX), client_id: "", version, expiry_seconds: 1, will: None },
        Record::Left { sid, at_millis: u64::MAX, expiry_seconds: 0 },
        Record::WillGone { sid },
        Record::Ended { sid },
        Record::Subscribed {
            sid,
            filter: "$share/g/a/#",
            options,
            subscription_id: SubscriptionId::new(268_435_455),
        },
        Record::Subscribed {
            sid,
            filter: "a",
            options: SubscriptionOptions::v3(QoS::AtMostOnce),
            subscription_id: None,
        },
        Record::Unsubscribed { sid, filter: "+" },
        Record::Message { number: nth(u64::MAX), message },
        delivery(0, smallvec![], ""),
        delivery(65_535, smallvec![1, 2], "$share/g/ä"),
        delivery(1, (0..20).collect(), "$share/g/#"),
        Record::Started { sid, number: nth(1), packet_id: packet(7) },
        Record::Released { sid, number: nth(5) },
        Record::Settled { sid, number: nth(u64::MAX) },
        Record::Lost { sid, number: Some(nth(u64::MAX - 1)), cause: LossCause::TooLarge, count: u32::MAX },
        Record::Lost { sid, number: None, cause: LossCause::QueueFull, count: 1 },
        Record::LossesTold { sid, left: [0, 1, u32::MAX, 3] },
        Record::Returned { sid, delivery: nth(3), number: nth(u64::MAX) },
        Record::Held { sid, packet_id: packet(9), payload_bytes: u32::MAX },
        Record::Unheld { sid, packet_id: packet(9) },
        Record::Retained { stamp: nth(99), message: plain },
        Record::Unretained { topic: "a/b" },
        Record::Intent { number: nth(77), targets: u128::MAX - 5, stamp: Some(nth(1)), group: "", message },
        Record::Intent { number: nth(79), targets: 2, stamp: None, group: "$share/g/a", message },
        Record::IntentDone { number: nth(77) },
        Record::IntentSeen { number: nth(78) },
        Record::Alive,
        Record::Clock(ClockMark {
            at_millis: 1_800_000_000_000,
            reading: ClockReading { wall_millis: 0, boot: u64::MAX, boot_millis: 5 },
        }),
        Record::Will { number: nth(80), client_id: "ä", will },
        Record::WillOver { number: nth(80) },
    ]
}

#[test]
fn every_record_comes_back_as_it_was() {
    let (mut out, mut encoder) = (Vec::new(), Encoder::default());
    for record in all() {
        encoder.encode(&mut out, &record);
    }
    let mut decoder = Decoder::new(&out);
    for record in all() {
        assert_eq!(decoder.read_next(), Ok(Some(record)));
    }
    assert_eq!(decoder.read_next(), Ok(None));
}

#[test]
fn a_record_that_is_cut_off_is_an_error_at_every_byte() {
    for record in all() {
        let mut out = Vec::new();
        Encoder::default().encode(&mut out, &record);
        for len in 1..out.len() {
            assert!(Decoder::new(&out[..len]).read_next().is_err(), "{record:?} at {len}");
        }
    }
}

#[test]
fn numbers_side_by_side_take_a_byte() {
    let (mut out, mut encoder) = (Vec::new(), Encoder::default());
    encoder.encode(&mut out, &Record::IntentDone { number: nth(1 << 40) });
    let first = out.len();
    encoder.encode(&mut out, &Record::IntentDone { number: nth((1 << 40) + 2) });
    assert_eq!((first, out.len()), (7, 9));
}

fn plain<'a>(topic: &'a str, payload: &'a [u8]) -> StoredMessage<'a> {
    StoredMessage {
        properties: [&[]; 3],
        retain: false,
        expires_at_millis: None,
        source: &[],
        ..message(topic, payload)
    }
}

fn delivery_of(sid: u64, message: u64, number: u64, packet_id: Option<PacketId>) -> Record<'static> {
    Record::Delivery {
        sid: nth(sid),
        number: nth(number),
        message: nth(message),
        qos: QoS::AtLeastOnce,
        retain: false,
        packet_id,
        subscription_ids: smallvec![],
        group: "",
    }
}

/// The number of bytes of each record in a frame. Checks that the records can be read back.
fn lengths(records: &[Record<'_>]) -> Vec<usize> {
    let (mut out, mut encoder) = (b"what is before the frame".to_vec(), Encoder::default());
    let mut lengths = Vec::new();
    let begin = out.len();
    encoder.begin_frame();
    for record in records {
        let before = out.len();
        encoder.encode(&mut out, record);
        lengths.push(out.len() - before);
    }
    let mut decoder = Decoder::new(&out[begin..]);
    for record in records {
        assert_eq!(decoder.read_next().as_ref(), Ok(&Some(record.clone())));
    }
    assert_eq!(decoder.read_next(), Ok(None));
    lengths
}

#[test]
fn what_a_record_has_in_common_with_one_before_it_is_not_written_again() {
    let (topics, payload) = (["fleet/000/position", "fleet/001/position"], [7; 64]);
    let mut records = Vec::new();
    let mut number: u64 = 1 << 35;
    let step = 2;
    // The packet identifier after 65,535 is 1.
    let sent = [(0, 1000), (0, 1000), (0, 1000), (1, 2000), (0, 1000), (1, 1000)];
    for ((topic, sid), packet_id) in sent.into_iter().zip([65_534, 65_535, 1, 2, 3, 4]) {
        records.push(Record::Message { number: nth(number), message: plain(topics[topic], &payload) });
        records.push(delivery_of(sid, number, number + step, PacketId::new(packet_id)));
        number += 2 * step;
    }
    for at in 0..3 {
        records.push(Record::Settled { sid: nth(1000), number: nth((1 << 35) + at * 2 * step + step) });
    }
    records.push(Record::Settled { sid: nth(2000), number: nth((1 << 35) + 6 * step + step) });
    for at in 0..3 {
        records.push(Record::Released { sid: nth(1000), number: nth((1 << 35) + at * 2 * step + step) });
    }
    for packet_id in [65_535, 1, 2].map(packet) {
        records.push(Record::Held { sid: nth(3000), packet_id, payload_bytes: 64 });
        records.push(Record::Unheld { sid: nth(3000), packet_id });
    }
    let lengths = lengths(&records);
    assert_eq!(lengths[0], 1 + 6 + 1 + topics[0].len() + 1 + 64);
    // A message has its kind, the number, and the payload with its length. A delivery has only its kind.
    assert_eq!(lengths[2..6], [67, 1, 67, 1]);
    // Another topic and session, and then earlier ones by number.
    assert_eq!(lengths[6..12], [67 + 1 + 18, 3, 68, 3, 68, 1]);
    // With the session, with the distance, and with neither.
    assert_eq!(lengths[12..19], [9, 2, 1, 4, 9, 2, 1]);
    // With the session and the packet identifier, then with neither.
    assert_eq!(lengths[19..], [6, 5, 2, 1, 2, 1]);
}

#[test]
fn short_forms_come_back_whatever_they_have_in_common() {
    let mut random = crate::base::Random::new(3);
    let topics: Vec<String> = (0..300).map(|at| format!("{}/{at}", "t".repeat(at % 7))).collect();
    for _ in 0..200 {
        let mut records = Vec::new();
        let (mut number, many) = (10 + random.below(1 << 40), 1 + random.index(300));
        for _ in 0..random.index(400) {
            let sid = 1 + random.below(3);
            let delivered = nth(number - random.below(8));
            match random.index(8) {
                0 | 1 => {
                    number += random.below(4);
                    let mut message = plain(&topics[random.index(many)], b"payload");
                    message.qos = random.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
                    message.retain = random.index(2) == 0;
                    message.expires_at_millis = (random.index(4) == 0).then(|| random.below(1 << 45));
                    message.properties = random.pick(&[[&b""[..]; 3], [b"properties", b"", b""]]);
                    message.source = random.pick(&[&b""[..], b"", b"", b"source"]);
                    records.push(Record::Message { number: nth(number), message });
                }
                2 | 3 => {
                    let packet_id = random.pick(&[0, 1, 2, 3, 65_535]);
                    let Record::Delivery { sid, number, message, packet_id, group, .. } =
                        delivery_of(sid, number - random.below(2), number + 2, PacketId::new(packet_id))
                    else {
                        unreachable!()
                    };
                    records.push(Record::Delivery {
                        sid,
                        number,
                        message,
                        packet_id,
                        qos: random.pick(&[QoS::AtLeastOnce, QoS::ExactlyOnce]),
                        retain: random.index(2) == 0,
                        subscription_ids: random.pick(&[&[][..], &[], &[7]]).into(),
                        group: random.pick(&[group, group, "$share/g/#"]),
                    });
                }
                4 => records.push(Record::Settled { sid: nth(sid), number: delivered }),
                5 => {
                    let packet_id = packet(random.pick(&[1, 2, 3, 65_535]));
                    records.push(Record::Held {
                        sid: nth(sid),
                        packet_id,
                        payload_bytes: random.next_u64() as u32,
                    });
                }
                6 => {
                    let packet_id = packet(random.pick(&[1, 2, 3, 65_535]));
                    records.push(Record::Unheld { sid: nth(sid), packet_id });
                }
                _ => records.push(Record::Released { sid: nth(sid), number: delivered }),
            }
        }
        lengths(&records);
        // A cut at any position leaves complete records, and an error if a record is cut.
        let (mut out, mut encoder, mut ends) = (Vec::new(), Encoder::default(), vec![0]);
        for record in &records {
            encoder.encode(&mut out, record);
            ends.push(out.len());
        }
        let len = random.index(out.len() + 1);
        let mut decoder = Decoder::new(&out[..len]);
        let mut count = 0;
        let end = loop {
            match decoder.read_next() {
                Ok(Some(record)) => assert_eq!(record, records[count]),
                end => break end,
            }
            count += 1;
        };
        assert_eq!(count, ends.iter().rposition(|&end| end <= len).unwrap());
        assert_eq!(end.is_ok(), ends[count] == len);
    }
}

#[test]
fn a_frame_has_a_bounded_number_of_topics_by_number() {
    let topics: Vec<String> = (0..200).map(|at| format!("topic {at:03}")).collect();
    let records: Vec<Record<'_>> = (0..2)
        .flat_map(|_| &topics)
        .zip(1..)
        .map(|(topic, number)| Record::Message { number: nth(number), message: plain(topic, b"") })
        .collect();
    let lengths = lengths(&records);
    assert!(lengths[200..328].iter().all(|&len| len == 4) && lengths[328..].iter().all(|&len| len == 13));
}

#[test]
fn a_short_form_that_refers_to_nothing_is_an_error() {
    let records: [(&[u8], &str); 11] = [
        (&[64], "there is no message before"),
        (&[128 + (2 << 5), 2, 0], "there is no topic before"),
        (&[128 + (1 << 5), 2, 0, 0], "no topic has this number"),
        (&[128, 2, 1, b'a', 0, 128 + (1 << 5), 2, 1, 0], "no topic has this number"),
        (&[128 + (3 << 5), 2, 0, 0], "no place of a topic"),
        (&[128, 2, 1, b'a', 0, 64 + (3 << 1), 1, 2], "no place of a packet identifier"),
        (&[128, 2, 1, b'a', 0, 64 + 1, 2], "there is no session before"),
        (&[34, 2], "there is no session before"),
        (&[39, 2], "there is no session before"),
        (&[4, 0], "a number is 0"),
        (&[12, 1, 0, 0, 0], "a packet identifier is 0"),
    ];
    for (bytes, what) in records {
        let mut decoder = Decoder::new(bytes);
        let error = loop {
            match decoder.read_next() {
                Ok(record) => assert!(record.is_some(), "{what}"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.to_string(), what);
    }
}

/// The kinds in a row of the table of records: one, or a range.
fn kinds_of_row(row: &str) -> Option<RangeInclusive<u8>> {
    let cell = row.strip_prefix("| ")?.split(" |").next()?;
    let (first, last) = cell.split_once(" to ").unwrap_or((cell, cell));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[test]
fn format_md_has_a_row_for_each_kind_of_record_and_each_table_and_names_the_versions() {
    let format = include_str!("../FORMAT.md");
    let (_, records) = format.split_once("\n## Records\n").unwrap();
    let (records, tables) = records.split_once("\n## ").unwrap();
    let rows: Vec<RangeInclusive<u8>> = records.lines().filter_map(kinds_of_row).collect();
    for kind in 0..=u8::MAX {
        let is_known = Decoder::new(&[kind]).read_next() != Err(bad("unknown kind of record"));
        assert_eq!(rows.iter().any(|row| row.contains(&kind)), is_known, "kind {kind}");
    }
    for table in Table::ALL {
        assert!(tables.contains(&format!("\n| `{}` | ", table.name())), "{table:?}");
    }
    let header = Header { epoch: 1, shard: 0, shards: 1, number: 0, first_sequence: 1, seed: 0 }.encode();
    let (oldest, newest) = VERSIONS.into_inner();
    assert_eq!(header[8..12], newest.to_le_bytes());
    let read = if oldest == newest { newest.to_string() } else { format!("{oldest}, {newest}") };
    assert!(format.contains(&format!("| header, bytes 8 to 11 | {newest} | {read} |")), "{newest}");
}

/// The body of a frame with [`all`], as written by a midge with version 2 of the log.
const VERSION_2: &[u8] = include_bytes!("../../../tests/fuzz/corpus/log/version_2");

#[test]
fn every_record_of_a_log_of_version_2_is_read() {
    let (length, body) = VERSION_2[1..].split_first_chunk::<2>().unwrap();
    assert_eq!(usize::from(u16::from_le_bytes(*length)), body.len());
    let (millis, mut decoder) = open_body(body).unwrap();
    assert_eq!(millis, 1_800_000_000_000);
    for record in all() {
        assert_eq!(decoder.read_next(), Ok(Some(record)));
    }
    assert_eq!(decoder.read_next(), Ok(None));
}
