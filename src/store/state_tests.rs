//! Rows against plain maps that do what the records say.

use super::super::record::{Encoder, put_varint};
use super::super::{MemoryBase, Restored, RestoredSession, RestoredState, StoredWill, Wall, check_rows};
use super::*;
use crate::message::Message;
use crate::packet::{ProtocolVersion, QoS};
use crate::topic::{RetainHandling, SubscriptionOptions};
use smallvec::SmallVec;
use std::collections::BTreeMap;

pub(in crate::store) const HEADER: Header =
    Header { epoch: 1, shard: 0, shards: 4, number: 0, first_sequence: 1, seed: 5 };

/// The body of a frame.
pub(in crate::store) fn body(millis: u64, records: &[Record<'_>]) -> Vec<u8> {
    let (mut out, mut encoder) = (Vec::new(), Encoder::default());
    put_varint(&mut out, millis);
    for record in records {
        encoder.encode(&mut out, record);
    }
    out
}

pub(in crate::store) fn stored<'a>(topic: &'a str, payload: &'a [u8], qos: QoS) -> StoredMessage<'a> {
    StoredMessage { topic, properties: [&[]; 3], payload, qos, retain: false, expires_at_millis: None }
}

pub(in crate::store) fn session<'a>(sid: u64, client_id: &'a str) -> Record<'a> {
    let version = ProtocolVersion::V5;
    Record::Session { sid, client_id, version, expiry_seconds: 100, will: None }
}

pub(in crate::store) fn subscribed<'a>(sid: u64, filter: &'a str, qos: QoS) -> Record<'a> {
    Record::Subscribed { sid, filter, options: SubscriptionOptions::v3(qos), subscription_id: 0 }
}

pub(in crate::store) fn delivery(sid: u64, number: u64, message: u64) -> Record<'static> {
    Record::Delivery {
        sid,
        number,
        message,
        qos: QoS::AtLeastOnce,
        retain: false,
        packet_id: 0,
        subscription_ids: SmallVec::new(),
    }
}

/// Everything that a restore gives, as lines; the same ones whatever the number of shards.
pub(in crate::store) fn described(parts: &[Restored]) -> Vec<String> {
    let mut sessions: Vec<&RestoredSession> = parts.iter().flat_map(|part| &part.sessions).collect();
    sessions.sort_by_key(|session| session.sid);
    let mut lines: Vec<String> = sessions.into_iter().map(described_session).collect();
    let retained = parts.iter().flat_map(|part| &part.retained);
    let mut retained: Vec<String> =
        retained.map(|message| format!("retained {}", text_of(message))).collect();
    retained.sort();
    lines.append(&mut retained);
    lines
}

fn described_session(session: &RestoredSession) -> String {
    let mut line = format!(
        "session {} {} {:?} {} left {}",
        session.sid, session.client_id, session.version, session.expiry_seconds, session.left_at_millis
    );
    if let Some(will) = &session.will {
        let delay = will.delay_seconds;
        line += &format!(" will {} {delay} {:?}", text_of(&will.message), will.message_expiry_seconds);
    }
    for row in &session.subscriptions {
        line += &format!(" [{} {:?} {}]", row.filter, row.options, row.subscription_id);
    }
    for row in &session.deliveries {
        let message = text_of(&row.message);
        line +=
            &format!(" ({} {message} {:?} {} {:?}", row.number, row.qos, row.retain, row.subscription_ids);
        line += &format!(" {:?})", row.state);
    }
    for (packet_id, bytes) in &session.held {
        line += &format!(" held {packet_id} {bytes}");
    }
    line
}

fn text_of(message: &Message) -> String {
    let publication = message.as_publication();
    format!(
        "{} {:?} {:?} {} {} {:?}",
        publication.topic,
        publication.payload,
        publication.qos,
        publication.retain,
        publication.stamp,
        publication.forward[0]
    )
}

// The naive model.

#[derive(Default)]
pub(in crate::store) struct Model {
    sessions: BTreeMap<u64, ModelSession>,
    retained: BTreeMap<String, Message>,
    /// Those of the frame that is being applied.
    messages: BTreeMap<u64, Message>,
    millis: u64,
}

struct ModelSession {
    client_id: String,
    version: ProtocolVersion,
    expiry_seconds: u32,
    left: Option<u64>,
    will: Option<crate::session::Will>,
    subscriptions: BTreeMap<String, (SubscriptionOptions, u32)>,
    deliveries: BTreeMap<u64, ModelDelivery>,
    held: BTreeMap<u16, u32>,
}

struct ModelDelivery {
    message: Message,
    qos: QoS,
    retain: bool,
    packet_id: u16,
    released: bool,
    ids: Vec<u32>,
}

impl Model {
    pub(in crate::store) fn apply_frame(&mut self, millis: u64, records: &[Record<'_>]) {
        self.millis = self.millis.max(millis);
        records.iter().for_each(|record| self.apply(record));
    }

    /// The broker was killed and starts again.
    #[cfg(feature = "runtime")]
    pub(in crate::store) fn begin_epoch(&mut self) {
        for session in self.sessions.values_mut() {
            session.left.get_or_insert(self.millis);
        }
    }

    fn session(&mut self, sid: u64, change: impl FnOnce(&mut ModelSession)) {
        self.sessions.get_mut(&sid).map(change);
    }

    fn apply(&mut self, record: &Record<'_>) {
        match record.clone() {
            Record::Session { sid, client_id, version, expiry_seconds, will } => {
                let session = self.sessions.entry(sid).or_insert_with(|| ModelSession {
                    client_id: client_id.to_owned(),
                    version,
                    expiry_seconds,
                    left: None,
                    will: None,
                    subscriptions: BTreeMap::new(),
                    deliveries: BTreeMap::new(),
                    held: BTreeMap::new(),
                });
                session.version = version;
                session.expiry_seconds = expiry_seconds;
                session.left = None;
                session.will = will.map(|will| crate::session::Will {
                    message: Message::restored(&will.message, None, 0),
                    delay_seconds: will.delay_seconds,
                    message_expiry_seconds: will.message_expiry_seconds,
                });
            }
            Record::Left { sid, at_millis, expiry_seconds } => self.session(sid, |session| {
                session.left = Some(at_millis);
                session.expiry_seconds = expiry_seconds;
            }),
            Record::WillGone { sid } => self.session(sid, |session| session.will = None),
            Record::Ended { sid } => drop(self.sessions.remove(&sid)),
            Record::Subscribed { sid, filter, options, subscription_id } => self.session(sid, |session| {
                session.subscriptions.insert(filter.to_owned(), (options, subscription_id));
            }),
            Record::Unsubscribed { sid, filter } => {
                self.session(sid, |session| {
                    session.subscriptions.remove(filter);
                });
            }
            Record::Message { number, message } => {
                self.messages.insert(number, Message::restored(&message, None, 0));
            }
            Record::Delivery { sid, number, message, qos, retain, packet_id, subscription_ids } => {
                let Some(message) = self.messages.get(&message).cloned() else { return };
                let ids = subscription_ids.to_vec();
                let row = ModelDelivery { message, qos, retain, packet_id, released: false, ids };
                self.session(sid, |session| drop(session.deliveries.insert(number, row)));
            }
            Record::Started { sid, number, packet_id } => self.session(sid, |session| {
                if let Some(row) = session.deliveries.get_mut(&number) {
                    row.packet_id = packet_id;
                }
            }),
            Record::Released { sid, number } => self.session(sid, |session| {
                if let Some(row) = session.deliveries.get_mut(&number) {
                    row.released = true;
                }
            }),
            Record::Settled { sid, number } => {
                self.session(sid, |session| drop(session.deliveries.remove(&number)));
            }
            Record::Held { sid, packet_id, payload_bytes } => {
                self.session(sid, |session| {
                    session.held.insert(packet_id, payload_bytes);
                });
            }
            Record::Unheld { sid, packet_id } => {
                self.session(sid, |session| {
                    session.held.remove(&packet_id);
                });
            }
            Record::Retained { stamp, message } => {
                self.retained.insert(message.topic.to_owned(), Message::restored(&message, None, stamp));
            }
            Record::Unretained { topic } => drop(self.retained.remove(topic)),
            Record::Intent { .. } | Record::IntentDone { .. } | Record::IntentSeen { .. } | Record::Alive => {
            }
        }
    }

    /// As [`described`].
    pub(in crate::store) fn described(&self) -> Vec<String> {
        let sessions = self.sessions.iter().map(|(&sid, session)| self.restored(sid, session)).collect();
        let retained = self.retained.values().cloned().collect();
        described(&[Restored { sessions, retained, ..Restored::default() }])
    }

    fn restored(&self, sid: u64, session: &ModelSession) -> RestoredSession {
        let mut deliveries = Vec::new();
        for (&number, row) in &session.deliveries {
            let state = match (row.packet_id, row.released) {
                (0, _) => RestoredState::Queued,
                (packet_id, false) => RestoredState::Sent(packet_id),
                (packet_id, true) => RestoredState::Released(packet_id),
            };
            deliveries.push(super::super::RestoredDelivery {
                number,
                message: row.message.clone(),
                qos: row.qos,
                retain: row.retain,
                subscription_ids: row.ids.clone(),
                state,
            });
        }
        let (mut sent, queued): (Vec<_>, Vec<_>) =
            deliveries.into_iter().partition(|row| row.state != RestoredState::Queued);
        sent.extend(queued);
        let will = session.will.as_ref().map(|will| crate::session::Will {
            message: will.message.clone(),
            delay_seconds: will.delay_seconds,
            message_expiry_seconds: will.message_expiry_seconds,
        });
        let row = |(filter, &(options, subscription_id)): (&String, &(SubscriptionOptions, u32))| {
            super::super::RestoredSubscription { filter: (**filter).into(), options, subscription_id }
        };
        RestoredSession {
            sid,
            client_id: (*session.client_id).into(),
            version: session.version,
            expiry_seconds: session.expiry_seconds,
            left_at_millis: session.left.unwrap_or(self.millis),
            will,
            subscriptions: session.subscriptions.iter().map(row).collect(),
            deliveries: sent,
            held: session.held.iter().map(|(&id, &bytes)| (id, bytes as usize)).collect(),
        }
    }
}

// Random records.

/// SplitMix64.
pub(in crate::store) struct Chance(pub(in crate::store) u64);

impl Chance {
    pub(in crate::store) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) % end
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// Makes frames as a shard would, with strays among them.
pub(in crate::store) struct Frames {
    chance: Chance,
    number: u64,
    /// sid and client.
    sessions: Vec<(u64, &'static str)>,
    deliveries: Vec<(u64, u64)>,
}

const CLIENTS: [&str; 6] = ["a", "b", "c", "dd", "ää", "f"];
const TOPICS: [&str; 6] = ["t", "t/1", "t/2", "u", "u/ü", "$x"];
const FILTERS: [&str; 6] = ["#", "t/+", "t", "$share/g/#", "$share/h/t", "u/#"];
const BYTES: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz0123456789";

impl Frames {
    pub(in crate::store) fn new(seed: u64) -> Frames {
        Frames { chance: Chance(seed), number: 3, sessions: Vec::new(), deliveries: Vec::new() }
    }

    fn next_number(&mut self) -> u64 {
        self.number += 4;
        self.number
    }

    fn sid(&mut self) -> u64 {
        if self.sessions.is_empty() || self.chance.below(20) == 0 {
            return self.chance.below(2 * self.number);
        }
        let at = self.chance.below(self.sessions.len() as u64) as usize;
        self.sessions[at].0
    }

    fn delivery(&mut self) -> (u64, u64) {
        if self.deliveries.is_empty() || self.chance.below(20) == 0 {
            return (self.sid(), self.chance.below(2 * self.number));
        }
        let at = self.chance.below(self.deliveries.len() as u64) as usize;
        self.deliveries[at]
    }

    fn message(&mut self) -> StoredMessage<'static> {
        let from = self.chance.below(20) as usize;
        let len = self.chance.below(25) as usize;
        StoredMessage {
            topic: self.chance.of(&TOPICS),
            properties: [self.chance.of(&[&b""[..], b"\x26\x00\x01a\x00\x01b"]), &[], &[]],
            payload: &BYTES[from..from + len],
            qos: self.chance.of(&[QoS::AtLeastOnce, QoS::ExactlyOnce]),
            retain: self.chance.below(2) == 0,
            expires_at_millis: None,
        }
    }

    fn connect(&mut self, sid: u64, client_id: &'static str) -> Record<'static> {
        let will = (self.chance.below(3) == 0).then(|| StoredWill {
            message: self.message(),
            delay_seconds: 5,
            message_expiry_seconds: Some(7),
        });
        let version = self.chance.of(&[ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5]);
        let expiry_seconds = 1 + self.chance.below(1000) as u32;
        Record::Session { sid, client_id, version, expiry_seconds, will }
    }

    pub(in crate::store) fn next_frame(&mut self) -> Vec<Record<'static>> {
        let mut records = Vec::new();
        for _ in 0..=self.chance.below(3) {
            self.input(&mut records);
        }
        records
    }

    fn input(&mut self, records: &mut Vec<Record<'static>>) {
        let sid = self.sid();
        match self.chance.below(16) {
            0 => {
                let client = self.chance.of(&CLIENTS);
                if let Some(at) = self.sessions.iter().position(|session| session.1 == client) {
                    records.push(Record::Ended { sid: self.sessions.remove(at).0 });
                }
                let sid = self.next_number();
                self.sessions.push((sid, client));
                records.push(self.connect(sid, client));
            }
            1 => {
                if let Some(&(sid, client)) = self.sessions.iter().find(|session| session.0 == sid) {
                    records.push(self.connect(sid, client));
                }
            }
            2 => records.push(Record::Left { sid, at_millis: self.chance.below(900), expiry_seconds: 9 }),
            3 => records.push(Record::WillGone { sid }),
            4 if self.chance.below(3) == 0 => {
                self.sessions.retain(|session| session.0 != sid);
                records.push(Record::Ended { sid });
            }
            4 | 5 => {
                let options = SubscriptionOptions {
                    qos: self.chance.of(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]),
                    no_local: false,
                    retain_as_published: self.chance.below(2) == 0,
                    retain_handling: RetainHandling::IfNew,
                };
                let (filter, subscription_id) = (self.chance.of(&FILTERS), self.chance.below(300) as u32);
                records.push(Record::Subscribed { sid, filter, options, subscription_id });
            }
            6 => records.push(Record::Unsubscribed { sid, filter: self.chance.of(&FILTERS) }),
            7..=9 => {
                let number = self.next_number();
                records.push(Record::Message { number, message: self.message() });
                for _ in 0..self.chance.below(4) {
                    let (sid, delivery) = (self.sid(), self.next_number());
                    self.deliveries.push((sid, delivery));
                    records.push(Record::Delivery {
                        sid,
                        number: delivery,
                        message: number,
                        qos: QoS::AtLeastOnce,
                        retain: self.chance.below(2) == 0,
                        packet_id: self.chance.below(2) as u16 * 7,
                        subscription_ids: (0..self.chance.below(3) as u32).map(|id| id * 200 + 1).collect(),
                    });
                }
            }
            10 => {
                let (sid, number) = self.delivery();
                records.push(Record::Started { sid, number, packet_id: 1 + self.chance.below(500) as u16 });
            }
            11 => {
                let (sid, number) = self.delivery();
                records.push(Record::Released { sid, number });
            }
            12 => {
                let (sid, number) = self.delivery();
                records.push(Record::Settled { sid, number });
            }
            13 => {
                let (packet_id, payload_bytes) =
                    (1 + self.chance.below(5) as u16, self.chance.below(500) as u32);
                records.push(Record::Held { sid, packet_id, payload_bytes });
            }
            14 => records.push(Record::Unheld { sid, packet_id: 1 + self.chance.below(5) as u16 }),
            _ if self.chance.below(3) == 0 => {
                records.push(Record::Unretained { topic: self.chance.of(&TOPICS) });
            }
            _ => {
                records.push(Record::Retained { stamp: 1 + self.chance.below(1000), message: self.message() })
            }
        }
    }
}

// Tests.

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
            assert!(parts.iter().all(|part| part.next_number > frames.number));
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
            Record::Message { number: 3, message },
            delivery(1, 4, 3),
            delivery(2, 5, 3),
            // No session has room for it.
            Record::Message { number: 6, message },
        ],
        &[Record::Settled { sid: 1, number: 4 }, Record::Settled { sid: 1, number: 4 }],
        &[Record::Started { sid: 2, number: 5, packet_id: 1 }],
        &[Record::Ended { sid: 2 }],
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
    let records = [Record::Message { number: 3, message }, delivery(1, 4, 3)];
    changes.apply_frame(&base, &HEADER, &body(1, &records)).unwrap();
    changes.apply_frame(&base, &HEADER, &body(1, &[Record::Settled { sid: 1, number: 4 }])).unwrap();
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
        Record::Message { number: 2, message: expires_at(1000, "old") },
        delivery(1, 3, 2),
        delivery(1, 4, 2),
        Record::Started { sid: 1, number: 4, packet_id: 9 },
        Record::Message { number: 5, message: expires_at(1001, "young") },
        delivery(1, 6, 5),
        Record::Retained { stamp: 1, message: expires_at(1000, "old") },
        Record::Retained { stamp: 2, message: expires_at(3500, "young") },
    ];
    changes.apply_frame(&base, &HEADER, &body(500, &records)).unwrap();
    base.commit(&mut changes);
    let (parts, counts) = changes.restore(&base, 1, 0, Wall { zero_millis: 1000 }).unwrap();
    let numbers: Vec<u64> = parts[0].sessions[0].deliveries.iter().map(|row| row.number).collect();
    assert_eq!(numbers, [4, 6]);
    assert_eq!(parts[0].retained.len(), 1);
    assert_eq!(parts[0].retained[0].expires_at(), Some(crate::time::Time::from_millis(2500)));
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
    // Only one comes back, to the next start.
    let next = Header { epoch: 2, ..HEADER };
    changes.apply_frame(&base, &next, &body(900, &[session(2, "b")])).unwrap();
    base.commit(&mut changes);
    let (parts, _) = changes.restore(&base, 1, 0, WALL).unwrap();
    let left: Vec<u64> = parts[0].sessions.iter().map(|session| session.left_at_millis).collect();
    assert_eq!(left, [700, 900]);
    assert_eq!(changes.meta().walls.len(), 2);
    changes.apply_frame(&base, &next, &body(900, &[Record::Ended { sid: 1 }])).unwrap();
    changes.restore(&base, 1, 0, WALL).unwrap();
    assert_eq!(changes.meta().walls.len(), 1);
}

#[test]
fn of_two_sessions_of_a_client_the_newer_is_restored() {
    let mut base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    let message = stored("t", b"m", QoS::AtLeastOnce);
    let records = [
        session(1, "a"),
        subscribed(1, "t", QoS::AtLeastOnce),
        Record::Message { number: 2, message },
        delivery(1, 3, 2),
        session(4, "a"),
    ];
    changes.apply_frame(&base, &HEADER, &body(500, &records)).unwrap();
    base.commit(&mut changes);
    let (parts, counts) = changes.restore(&base, 1, 0, WALL).unwrap();
    assert_eq!((counts.sessions, parts[0].sessions[0].sid, counts.deliveries), (1, 4, 0));
    base.commit(&mut changes);
    assert_eq!((count(&base, Table::Sessions), count(&base, Table::Messages)), (1, 0));
}

#[test]
fn the_bytes_of_a_message_are_shared_and_go_to_the_homes_of_the_sessions() {
    let base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    let message = stored("t", b"m", QoS::AtLeastOnce);
    let clients: Vec<String> = (0..20).map(|client| format!("c{client}")).collect();
    let mut records: Vec<Record<'_>> = vec![Record::Message { number: 100, message }];
    for (sid, client) in clients.iter().enumerate() {
        records.push(session(sid as u64 + 1, client));
        records.push(delivery(sid as u64 + 1, sid as u64 + 101, 100));
    }
    changes.apply_frame(&base, &HEADER, &body(500, &records)).unwrap();
    let (parts, _) = changes.restore(&base, 3, 77, WALL).unwrap();
    let homes = crate::shard::Homes::new(3, 77);
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
