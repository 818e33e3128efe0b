//! Records there and back.

use super::*;
use crate::mqtt::RetainHandling;
use crate::store::ClockReading;
use crate::store::open_body;
use crate::store::rows::Table;
use crate::store::segment::{Header, VERSIONS};
use smallvec::smallvec;

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
    let sid = 300;
    let delivery = |packet_id, subscription_ids, group| Record::Delivery {
        sid,
        number: 1_000_001,
        message: 1_000_000,
        qos: QoS::ExactlyOnce,
        retain: true,
        packet_id,
        subscription_ids,
        group,
    };
    vec![
        Record::Session { sid, client_id: "ä", version, expiry_seconds: u32::MAX, will: Some(will) },
        Record::Session { sid: u64::MAX, client_id: "", version, expiry_seconds: 1, will: None },
        Record::Left { sid, at_millis: u64::MAX, expiry_seconds: 0 },
        Record::WillGone { sid },
        Record::Ended { sid },
        Record::Subscribed { sid, filter: "$share/g/a/#", options, subscription_id: 268_435_455 },
        Record::Subscribed {
            sid,
            filter: "a",
            options: SubscriptionOptions::v3(QoS::AtMostOnce),
            subscription_id: 0,
        },
        Record::Unsubscribed { sid, filter: "+" },
        Record::Message { number: u64::MAX, message },
        delivery(0, smallvec![], ""),
        delivery(65_535, smallvec![1, 2], "$share/g/ä"),
        delivery(1, (0..20).collect(), "$share/g/#"),
        Record::Started { sid, number: 0, packet_id: 7 },
        Record::Released { sid, number: 5 },
        Record::Settled { sid, number: u64::MAX },
        Record::Lost { sid, number: u64::MAX - 1, cause: LossCause::TooLarge, count: u32::MAX },
        Record::Lost { sid, number: 0, cause: LossCause::QueueFull, count: 1 },
        Record::LossesTold { sid, left: [0, 1, u32::MAX, 3] },
        Record::Returned { sid, delivery: 3, number: u64::MAX },
        Record::Held { sid, packet_id: 9, payload_bytes: u32::MAX },
        Record::Unheld { sid, packet_id: 9 },
        Record::Retained { stamp: 99, message: plain },
        Record::Unretained { topic: "a/b" },
        Record::Intent { number: 77, targets: u128::MAX - 5, stamp: 1, group: "", message },
        Record::Intent { number: 79, targets: 2, stamp: 0, group: "$share/g/a", message },
        Record::IntentDone { number: 77 },
        Record::IntentSeen { number: 78 },
        Record::Alive,
        Record::Clock(ClockMark {
            at_millis: 1_800_000_000_000,
            reading: ClockReading { wall_millis: 0, boot: u64::MAX, boot_millis: 5 },
        }),
        Record::Will { number: 80, client_id: "ä", will },
        Record::WillOver { number: 80 },
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
    encoder.encode(&mut out, &Record::Settled { sid: 1, number: 1 << 40 });
    let first = out.len();
    encoder.encode(&mut out, &Record::Settled { sid: 1, number: (1 << 40) + 2 });
    assert_eq!((first, out.len()), (8, 11));
}

#[test]
fn format_md_has_a_row_for_each_kind_of_record_and_each_table_and_names_the_versions() {
    let format = include_str!("../FORMAT.md");
    let (_, records) = format.split_once("\n## Records\n").unwrap();
    let (records, tables) = records.split_once("\n## ").unwrap();
    for kind in 0..=u8::MAX {
        let is_known = Decoder::new(&[kind]).read_next() != Err(bad("unknown kind of record"));
        assert_eq!(records.contains(&format!("\n| {kind} | ")), is_known, "kind {kind}");
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

/// The body of a frame that holds [`all`], as a midge has written it whose log had version 2.
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
