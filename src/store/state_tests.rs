//! Compares the rows with a model of plain maps.

#[path = "state_tests/frames.rs"]
mod frames;
#[path = "state_tests/model.rs"]
mod model;

pub(crate) use frames::Frames;
pub(crate) use model::Model;

use super::super::record::tests::packet;
use super::super::record::{Encoder, put_varint};
use super::super::{MemoryBase, Restored, RestoredSession, Wall, check_rows};
use super::*;
use crate::base::{Stamp, WillNumber, nth};
use crate::mqtt::SubscriptionId;
use crate::mqtt::SubscriptionOptions;
use crate::mqtt::{ProtocolVersion, QoS};
use crate::session::Message;
use crate::session::Will;
use smallvec::SmallVec;

pub(crate) const HEADER: Header =
    Header { epoch: 1, shard: 0, shards: 4, number: 0, first_sequence: 1, seed: 5 };

/// The body of a frame.
pub(crate) fn body(millis: u64, records: &[Record<'_>]) -> Vec<u8> {
    let (mut out, mut encoder) = (Vec::new(), Encoder::default());
    put_varint(&mut out, millis);
    for record in records {
        encoder.encode(&mut out, record);
    }
    out
}

pub(crate) fn stored<'a>(topic: &'a str, payload: &'a [u8], qos: QoS) -> StoredMessage<'a> {
    StoredMessage {
        topic,
        properties: [&[]; 3],
        payload,
        qos,
        retain: false,
        expires_at_millis: None,
        source: &[],
    }
}

pub(crate) fn session<'a>(sid: u64, client_id: &'a str) -> Record<'a> {
    let version = ProtocolVersion::V5;
    Record::Session { sid: nth(sid), client_id, version, expiry_seconds: 100, will: None }
}

pub(crate) fn subscribed<'a>(sid: u64, filter: &'a str, qos: QoS) -> Record<'a> {
    Record::Subscribed { sid: nth(sid), filter, options: SubscriptionOptions::v3(qos), subscription_id: None }
}

pub(crate) fn delivery(sid: u64, number: u64, message: u64) -> Record<'static> {
    Record::Delivery {
        sid: nth(sid),
        number: nth(number),
        message: nth(message),
        qos: QoS::AtLeastOnce,
        retain: false,
        packet_id: None,
        subscription_ids: SmallVec::new(),
        group: "",
    }
}

/// Everything that a restore returns, as lines. They do not depend on the number of shards.
pub(crate) fn described(parts: &[Restored]) -> Vec<String> {
    let mut sessions: Vec<&RestoredSession> = parts.iter().flat_map(|part| &part.sessions).collect();
    sessions.sort_by_key(|session| session.sid);
    let mut lines: Vec<String> = sessions.into_iter().map(described_session).collect();
    let retained = parts.iter().flat_map(|part| &part.retained);
    let mut retained: Vec<String> =
        retained.map(|message| format!("retained {}", text_of(message))).collect();
    retained.sort();
    lines.append(&mut retained);
    let mut wills: Vec<_> = parts.iter().flat_map(|part| &part.wills).collect();
    wills.sort_by_key(|will| will.number);
    lines.extend(
        wills
            .into_iter()
            .map(|will| format!("will {}{}", will.number.map_or(0, WillNumber::get), described_will(will))),
    );
    lines
}

fn described_session(session: &RestoredSession) -> String {
    let mut line = format!(
        "session {} {} {:?} {} left {}",
        session.sid, session.client_id, session.version, session.expiry_seconds, session.left_at_millis
    );
    if let Some(will) = &session.will {
        line += &described_will(will);
    }
    for row in &session.subscriptions {
        line += &format!(
            " [{} {:?} {}]",
            row.filter,
            row.options,
            row.subscription_id.map_or(0, SubscriptionId::get)
        );
    }
    for row in &session.deliveries {
        let message = text_of(&row.message);
        line +=
            &format!(" ({} {message} {:?} {} {:?}", row.number, row.qos, row.retain, row.subscription_ids);
        line += &format!(" {:?} {:?})", row.state, row.group);
    }
    for (packet_id, bytes) in &session.held {
        line += &format!(" held {packet_id} {bytes}");
    }
    if !session.losses.is_empty() {
        line += &format!(" lost {:?}", session.losses);
    }
    line
}

fn described_will(will: &Will) -> String {
    let delay = will.delay_seconds;
    format!(" will {} {delay} {:?}", text_of(&will.message), will.message_expiry_seconds)
}

fn text_of(message: &Message) -> String {
    let publication = message.as_publication();
    format!(
        "{} {:?} {:?} {} {} {:?}",
        publication.topic,
        publication.payload,
        publication.qos,
        publication.retain,
        publication.stamp.map_or(0, Stamp::get),
        publication.forward[0]
    )
}

const WALL: Wall = Wall { zero_millis: 0 };

#[test]
fn random_records_are_kept_as_plain_maps_keep_them() {
    for seed in 0..300 {
        let (mut frames, mut model, mut base) = (Frames::new(seed), Model::default(), MemoryBase::default());
        let mut changes = Changes::new(&base).unwrap();
        let checkpoint_every = 1 + seed % 17;
        for turn in 0..80 {
            let records = frames.next_frame();
            model.apply_frame(turn, &records);
            changes.apply_frame(&base, &HEADER, &body(turn, &records)).unwrap();
            if turn % checkpoint_every == 0 {
                base.commit(&mut changes);
                assert_eq!(check_rows(&base).unwrap(), [] as [String; 0], "seed {seed}");
                if turn % 2 == 0 {
                    changes = Changes::new(&base).unwrap();
                }
            }
        }
        for shards in [1, 3] {
            let (parts, _) = changes.restore(&base, shards, 9, WALL).unwrap();
            assert_eq!(described(&parts), model.described(), "seed {seed}");
            assert!(parts.iter().all(|part| part.next_number > frames.highest_number()));
        }
        assert_eq!(changes.bad_rows(), 0);
        base.commit(&mut changes);
        assert_eq!(check_rows(&base).unwrap(), [] as [String; 0], "seed {seed}");
    }
}

#[test]
fn a_frame_that_is_applied_twice_does_no_harm() {
    for seed in 0..100 {
        let mut frames = Frames::new(seed);
        let (mut once, mut twice) = (MemoryBase::default(), MemoryBase::default());
        let mut changes = [Changes::new(&once).unwrap(), Changes::new(&twice).unwrap()];
        for turn in 0..60 {
            let frame = body(turn, &frames.next_frame());
            changes[0].apply_frame(&once, &HEADER, &frame).unwrap();
            changes[1].apply_frame(&twice, &HEADER, &frame).unwrap();
            if turn % 5 == 0 {
                twice.commit(&mut changes[1]);
            }
            changes[1].apply_frame(&twice, &HEADER, &frame).unwrap();
        }
        once.commit(&mut changes[0]);
        twice.commit(&mut changes[1]);
        assert_eq!(once, twice, "seed {seed}");
    }
}

fn count(base: &MemoryBase, table: Table) -> usize {
    let mut count = 0;
    base.scan(table, &[], None, &mut |_, _| count += 1).unwrap();
    count
}

#[test]
fn a_message_is_gone_with_the_last_of_its_deliveries() {
    let mut base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    let message = stored("t", b"m", QoS::AtLeastOnce);
    let frames: [&[Record<'_>]; 4] = [
        &[
            session(1, "a"),
            session(2, "b"),
            Record::Message { number: nth(3), message },
            delivery(1, 4, 3),
            delivery(2, 5, 3),
            // A message for which no session has room.
            Record::Message { number: nth(6), message },
        ],
        &[Record::Settled { sid: nth(1), number: nth(4) }, Record::Settled { sid: nth(1), number: nth(4) }],
        &[Record::Started { sid: nth(2), number: nth(5), packet_id: packet(1) }],
        &[Record::Ended { sid: nth(2) }],
    ];
    for (frame, rows) in frames.iter().zip([(1, 1), (1, 0), (1, 0), (0, 0)]) {
        changes.apply_frame(&base, &HEADER, &body(1, frame)).unwrap();
        base.commit(&mut changes);
        assert_eq!((count(&base, Table::Messages), count(&base, Table::Counts)), rows);
    }
    assert_eq!(changes.ignored(), 1);
    assert_eq!(count(&base, Table::Sessions), 1);
}

#[test]
fn what_is_made_and_gone_between_checkpoints_leaves_no_change() {
    let mut base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    let message = stored("t", b"m", QoS::AtLeastOnce);
    changes.apply_frame(&base, &HEADER, &body(1, &[session(1, "a")])).unwrap();
    base.commit(&mut changes);
    let records = [Record::Message { number: nth(3), message }, delivery(1, 4, 3)];
    changes.apply_frame(&base, &HEADER, &body(1, &records)).unwrap();
    changes
        .apply_frame(&base, &HEADER, &body(1, &[Record::Settled { sid: nth(1), number: nth(4) }]))
        .unwrap();
    let mut rows = Vec::new();
    changes.each_changed(|table, _, _| rows.push(table));
    assert_eq!(rows, [Table::Meta]);
}

#[test]
fn a_frame_with_a_bad_record_counts_not_at_all() {
    let base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    let mut frame = body(1, &[session(1, "a")]);
    frame.push(200);
    assert!(matches!(changes.apply_frame(&base, &HEADER, &frame), Err(ApplyError::Bad(_))));
    assert!(changes.is_empty());
}

#[test]
fn what_has_expired_is_dropped_and_what_was_sent_is_finished() {
    // [MQTT5-3.3.2-5]
    let mut base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    let expires_at = |millis, topic| StoredMessage {
        expires_at_millis: Some(millis),
        ..stored(topic, b"m", QoS::AtLeastOnce)
    };
    let records = [
        session(1, "a"),
        Record::Message { number: nth(2), message: expires_at(1000, "old") },
        delivery(1, 3, 2),
        delivery(1, 4, 2),
        Record::Started { sid: nth(1), number: nth(4), packet_id: packet(9) },
        Record::Message { number: nth(5), message: expires_at(1001, "young") },
        delivery(1, 6, 5),
        Record::Retained { stamp: nth(1), message: expires_at(1000, "old") },
        Record::Retained { stamp: nth(2), message: expires_at(3500, "young") },
    ];
    changes.apply_frame(&base, &HEADER, &body(500, &records)).unwrap();
    base.commit(&mut changes);
    let (parts, counts) = changes.restore(&base, 1, 0, Wall { zero_millis: 1000 }).unwrap();
    let numbers: Vec<u64> = parts[0].sessions[0].deliveries.iter().map(|row| row.number.get()).collect();
    assert_eq!(numbers, [4, 6]);
    assert_eq!(parts[0].retained.len(), 1);
    assert_eq!(parts[0].retained[0].expires_at(), Some(crate::base::Time::from_millis(2500)));
    assert_eq!((counts.expired, counts.retained, counts.deliveries), (2, 1, 2));
    base.commit(&mut changes);
    assert_eq!((count(&base, Table::Deliveries), count(&base, Table::Retained)), (2, 1));
    assert_eq!(check_rows(&base).unwrap(), [] as [String; 0]);
}

#[test]
fn a_connected_session_left_when_its_broker_was_alive_last() {
    let mut base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    changes.apply_frame(&base, &HEADER, &body(500, &[session(1, "a"), session(2, "b")])).unwrap();
    changes.apply_frame(&base, &HEADER, &body(700, &[Record::Alive])).unwrap();
    base.commit(&mut changes);
    // Only one session reconnects to the next start.
    let next = Header { epoch: 2, ..HEADER };
    changes.apply_frame(&base, &next, &body(900, &[session(2, "b")])).unwrap();
    base.commit(&mut changes);
    let (parts, _) = changes.restore(&base, 1, 0, WALL).unwrap();
    let left: Vec<u64> = parts[0].sessions.iter().map(|session| session.left_at_millis).collect();
    assert_eq!(left, [700, 900]);
    assert_eq!(changes.meta().walls.len(), 2);
    changes.apply_frame(&base, &next, &body(900, &[Record::Ended { sid: nth(1) }])).unwrap();
    changes.restore(&base, 1, 0, WALL).unwrap();
    assert_eq!(changes.meta().walls.len(), 1);
}

#[test]
fn the_clock_of_the_log_goes_on_after_a_start_that_has_written_nothing() {
    let mut base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    changes
        .apply_frame(&base, &HEADER, &body(500, &[session(1, "a"), Record::Ended { sid: nth(1) }]))
        .unwrap();
    let next = Header { epoch: 2, ..HEADER };
    changes.apply_segment(&base, &next, &next.encode()).unwrap();
    changes.restore(&base, 1, 0, WALL).unwrap();
    base.commit(&mut changes);
    assert_eq!(Changes::new(&base).unwrap().last_millis(), Some(500));
}

#[test]
fn of_two_sessions_of_a_client_the_newer_is_restored() {
    let mut base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    let message = stored("t", b"m", QoS::AtLeastOnce);
    let records = [
        session(1, "a"),
        subscribed(1, "t", QoS::AtLeastOnce),
        Record::Message { number: nth(2), message },
        delivery(1, 3, 2),
        session(4, "a"),
    ];
    changes.apply_frame(&base, &HEADER, &body(500, &records)).unwrap();
    base.commit(&mut changes);
    let (parts, counts) = changes.restore(&base, 1, 0, WALL).unwrap();
    assert_eq!((counts.sessions, parts[0].sessions[0].sid.get(), counts.deliveries), (1, 4, 0));
    base.commit(&mut changes);
    assert_eq!((count(&base, Table::Sessions), count(&base, Table::Messages)), (1, 0));
}

#[test]
fn the_bytes_of_a_message_are_shared_and_go_to_the_homes_of_the_sessions() {
    let base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    let message = stored("t", b"m", QoS::AtLeastOnce);
    let clients: Vec<String> = (0..20).map(|client| format!("c{client}")).collect();
    let mut records: Vec<Record<'_>> = vec![Record::Message { number: nth(100), message }];
    for (sid, client) in clients.iter().enumerate() {
        records.push(session(sid as u64 + 1, client));
        records.push(delivery(sid as u64 + 1, sid as u64 + 101, 100));
    }
    changes.apply_frame(&base, &HEADER, &body(500, &records)).unwrap();
    let (parts, _) = changes.restore(&base, 3, 77, WALL).unwrap();
    let homes = crate::base::Homes::new(3, 77);
    let mut places = std::collections::BTreeSet::new();
    for (shard, part) in parts.iter().enumerate() {
        assert!(!part.sessions.is_empty());
        for session in &part.sessions {
            assert_eq!(usize::from(homes.home_of(&session.client_id)), shard);
            places.insert(session.deliveries[0].message.as_publication().payload.as_ptr());
        }
    }
    assert_eq!(places.len(), 1);
}
