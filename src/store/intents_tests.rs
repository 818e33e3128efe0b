//! Intents that were open when the broker ended.

use super::super::state::tests::{HEADER, body, described, session, stored, subscribed};
use super::super::{MemoryBase, Record, StoredMessage, Wall};
use super::*;
use crate::base::nth;
use crate::mqtt::{PacketId, RetainHandling, SubscriptionId, SubscriptionOptions};
use crate::store::segment::Header;

/// A text whose home shard in the epoch of [`HEADER`] is `shard`.
fn at_home(shard: u16, text: impl Fn(u32) -> String) -> String {
    let homes = Homes::new(usize::from(HEADER.shards), HEADER.seed);
    (0..).map(text).find(|text| homes.home_of(text) == shard).unwrap()
}

fn client(shard: u16) -> String {
    at_home(shard, |salt| format!("client{shard}-{salt}"))
}

fn header(shard: u16) -> Header {
    Header { shard, ..HEADER }
}

fn apply(changes: &mut Changes, base: &MemoryBase, shard: u16, records: &[Record<'_>]) {
    changes.apply_frame(base, &header(shard), &body(1, records)).unwrap();
    changes.finish_segment(base, &header(shard), 1).unwrap();
}

fn count(changes: &Changes, base: &MemoryBase, table: Table) -> usize {
    let mut count = 0;
    changes.scan(base, table, &[], None, &mut |_, _| count += 1).unwrap();
    count
}

fn intent(number: u64, targets: u128, stamp: Option<u64>, message: StoredMessage<'_>) -> Record<'_> {
    Record::Intent { number: nth(number), targets, stamp: stamp.map(nth), group: "", message }
}

/// The payloads that each session would receive.
fn queued(changes: &mut Changes, base: &MemoryBase) -> Vec<(u64, Vec<Vec<u8>>)> {
    let (parts, _) = changes.restore(base, 1, 0, Wall { zero_millis: 0 }).unwrap();
    let payload = |row: &crate::store::RestoredDelivery| row.message.as_publication().payload.to_vec();
    let sessions = parts[0].sessions.iter();
    sessions.map(|session| (session.sid.get(), session.deliveries.iter().map(payload).collect())).collect()
}

#[test]
fn an_open_intent_reaches_the_targets_that_have_not_seen_it() {
    // [MQTT5-4.3.3-1]
    let base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    let clients = [client(1), client(2), client(3), client(1) + ""];
    for shard in 1..4 {
        let sid = 40 + u64::from(shard);
        let records =
            [session(sid, &clients[usize::from(shard) - 1]), subscribed(sid, "t/#", QoS::ExactlyOnce)];
        apply(&mut changes, &base, shard, &records);
    }
    let message = stored("t/1", b"both", QoS::ExactlyOnce);
    let done = stored("t/1", b"done", QoS::ExactlyOnce);
    // Shards 1, 2 and 3 are targets, and shard 2 has seen the second intent. The first one is done.
    apply(&mut changes, &base, 0, &[intent(48, 0b1110, None, done), intent(52, 0b1110, None, message)]);
    apply(&mut changes, &base, 0, &[Record::IntentDone { number: nth(48) }]);
    apply(&mut changes, &base, 2, &[Record::IntentSeen { number: nth(52) }]);
    assert_eq!(changes.resolve_intents(&base).unwrap(), 1);
    assert_eq!((count(&changes, &base, Table::Intents), count(&changes, &base, Table::Seen)), (0, 0));
    let both = || vec![b"both".to_vec()];
    assert_eq!(queued(&mut changes, &base), [(41, both()), (42, vec![]), (43, both())]);
    assert!(changes.meta().highest > 52);
    assert_eq!(changes.resolve_intents(&base).unwrap(), 0);
}

#[test]
fn subscriptions_that_overlap_make_one_delivery_with_the_highest_qos() {
    // [MQTT5-3.3.4-2] [MQTT5-3.3.4-4]
    let base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    let client = client(1);
    let subscribed = |filter, qos, retain_as_published, subscription_id| Record::Subscribed {
        sid: nth(41),
        filter,
        options: SubscriptionOptions {
            qos,
            no_local: true,
            retain_as_published,
            retain_handling: RetainHandling::Always,
        },
        subscription_id: SubscriptionId::new(subscription_id),
    };
    let records = [
        session(41, &client),
        subscribed("t", QoS::AtLeastOnce, true, 300),
        subscribed("#", QoS::ExactlyOnce, false, 7),
        subscribed("+", QoS::AtMostOnce, false, 0),
        subscribed("x/#", QoS::AtMostOnce, false, 9),
    ];
    apply(&mut changes, &base, 1, &records);
    let message = StoredMessage { retain: true, ..stored("t", b"m", QoS::ExactlyOnce) };
    apply(&mut changes, &base, 0, &[intent(52, 0b10, None, message)]);
    changes.resolve_intents(&base).unwrap();
    let (parts, _) = changes.restore(&base, 2, 0, Wall { zero_millis: 0 }).unwrap();
    let session = parts.iter().flat_map(|part| &part.sessions).next().unwrap();
    let [row] = &session.deliveries[..] else { panic!("{:?}", session.deliveries) };
    assert_eq!((row.qos, row.retain, &row.subscription_ids[..]), (QoS::ExactlyOnce, true, &[7, 300][..]));
}

#[test]
fn a_subscription_of_qos_0_gets_nothing_from_an_intent() {
    let base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    let client = client(1);
    apply(&mut changes, &base, 1, &[session(41, &client), subscribed(41, "t", QoS::AtMostOnce)]);
    apply(&mut changes, &base, 0, &[intent(52, 0b10, None, stored("t", b"m", QoS::ExactlyOnce))]);
    changes.resolve_intents(&base).unwrap();
    assert_eq!(queued(&mut changes, &base), [(41, vec![])]);
    assert_eq!(count(&changes, &base, Table::Messages), 0);
}

#[test]
fn one_member_of_a_group_gets_it_if_the_home_of_the_group_has_not_seen_it() {
    let base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    let (mine, other) =
        (at_home(1, |salt| format!("$share/g{salt}/t")), at_home(2, |salt| format!("$share/h{salt}/#")));
    // The members are at home on a shard that is not a target.
    let clients: Vec<String> = (0..3).map(|n| at_home(3, |salt| format!("m{n}-{salt}"))).collect();
    for (sid, client) in (43..).step_by(4).zip(&clients) {
        let records = [
            session(sid, client),
            subscribed(sid, &mine, QoS::AtLeastOnce),
            subscribed(sid, &other, QoS::AtLeastOnce),
        ];
        apply(&mut changes, &base, 3, &records);
    }
    apply(&mut changes, &base, 0, &[intent(80, 0b110, None, stored("t", b"m", QoS::ExactlyOnce))]);
    apply(&mut changes, &base, 2, &[Record::IntentSeen { number: nth(80) }]);
    changes.resolve_intents(&base).unwrap();
    assert_eq!(queued(&mut changes, &base), [(43, vec![b"m".to_vec()]), (47, vec![]), (51, vec![])]);
}

#[test]
fn a_retained_message_reaches_the_home_of_its_topic_unless_a_later_one_is_there() {
    // [MQTT5-3.3.1-5] [MQTT5-3.3.1-6]
    let base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    let topics: Vec<String> = (0..5).map(|n| at_home(1, |salt| format!("r{n}/{salt}"))).collect();
    let elsewhere = at_home(2, |salt| format!("e/{salt}"));
    let retained =
        |topic, payload| StoredMessage { retain: true, ..stored(topic, payload, QoS::ExactlyOnce) };
    let records = [
        Record::Retained { stamp: nth(20), message: retained(&topics[1], b"later") },
        Record::Retained { stamp: nth(5), message: retained(&topics[2], b"earlier") },
        Record::Retained { stamp: nth(5), message: retained(&topics[3], b"earlier") },
    ];
    apply(&mut changes, &base, 1, &records);
    let records = [
        intent(52, 0b10, Some(11), retained(&topics[0], b"new")),
        intent(56, 0b10, Some(12), retained(&topics[1], b"new")),
        intent(60, 0b10, Some(13), retained(&topics[2], b"new")),
        intent(64, 0b10, Some(14), retained(&topics[3], b"")),
        intent(68, 0b10, Some(15), retained(&elsewhere, b"new")),
        intent(72, 0b10, None, retained(&topics[4], b"not to be retained")),
    ];
    apply(&mut changes, &base, 0, &records);
    assert_eq!(changes.resolve_intents(&base).unwrap(), 6);
    let (parts, _) = changes.restore(&base, 2, 0, Wall { zero_millis: 0 }).unwrap();
    let mut found: Vec<(String, Option<u64>)> = Vec::new();
    for message in parts.iter().flat_map(|part| &part.retained) {
        found.push((message.as_publication().topic.to_owned(), message.stamp().map(Stamp::get)));
    }
    found.sort();
    assert_eq!(found, [(0, 11), (1, 20), (2, 13)].map(|(at, stamp)| (topics[at].clone(), Some(stamp))));
    assert!(parts.iter().all(|part| part.last_stamp == Some(nth(20))));
}

#[test]
fn resolving_comes_to_the_same_from_rows_in_the_base_and_changed_rows() {
    let build = |commits: bool| {
        let mut base = MemoryBase::default();
        let mut changes = Changes::new(&base).unwrap();
        let names: Vec<String> = (0..40).map(|n| format!("client-{n}")).collect();
        for (at, name) in names.iter().enumerate() {
            let sid = 100 + at as u64;
            let filter = ["t/#", "t/1", "+/2", "$share/g/t/+"][at % 4];
            apply(&mut changes, &base, 1, &[session(sid, name), subscribed(sid, filter, QoS::ExactlyOnce)]);
            if commits {
                base.commit(&mut changes);
            }
        }
        for number in 0..10 {
            let topic = ["t/1", "t/2", "t/3"][number as usize % 3];
            let message = stored(topic, b"m", QoS::ExactlyOnce);
            apply(&mut changes, &base, 0, &[intent(1000 + 4 * number, 0b1110, None, message)]);
            if commits {
                base.commit(&mut changes);
            }
        }
        assert_eq!(changes.resolve_intents(&base).unwrap(), 10);
        let (parts, counts) = changes.restore(&base, 1, 0, Wall { zero_millis: 0 }).unwrap();
        assert!(counts.deliveries > 50);
        described(&parts)
    };
    assert_eq!(build(false), build(true));
}

#[test]
fn signs_that_an_intent_was_seen_are_forgotten_once_it_and_all_before_it_are_done() {
    let mut base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    let message = stored("t", b"m", QoS::ExactlyOnce);
    let seen = |number| Record::IntentSeen { number: nth(number) };
    let mut step = |shard, records: &[Record<'_>], left: usize| {
        apply(&mut changes, &base, shard, records);
        base.commit(&mut changes);
        assert_eq!(count(&changes, &base, Table::Seen), left);
    };
    // The log of the target is ahead.
    step(1, &[seen(8), seen(12), seen(16)], 3);
    step(0, &[intent(8, 2, None, message), intent(12, 2, None, message)], 3);
    step(0, &[Record::IntentDone { number: nth(12) }], 3);
    step(0, &[Record::IntentDone { number: nth(8) }], 1);
    // A late record.
    step(2, &[seen(12), seen(16)], 2);
    // A record about an intent of another shard, which has recorded nothing yet.
    step(2, &[seen(17)], 3);
    step(0, &[intent(16, 2, None, message), Record::IntentDone { number: nth(16) }], 1);
}

/// A member, at home on shard 3, with a message in each state. Its session ends.
fn ending_member() -> Vec<Record<'static>> {
    let group = "$share/g/t";
    let of = |number, qos, packet_id| Record::Delivery {
        sid: nth(43),
        number: nth(number),
        message: nth(60),
        qos,
        retain: true,
        packet_id: PacketId::new(packet_id),
        subscription_ids: SmallVec::from_slice(&[5]),
        group,
    };
    vec![
        session(43, "ends"),
        subscribed(43, group, QoS::ExactlyOnce),
        Record::Message { number: nth(60), message: stored("t", b"m", QoS::ExactlyOnce) },
        of(64, QoS::ExactlyOnce, 0),
        of(68, QoS::AtLeastOnce, 9),
        of(72, QoS::ExactlyOnce, 10),
        Record::Returned { sid: nth(43), delivery: nth(64), number: nth(75) },
        Record::Returned { sid: nth(43), delivery: nth(68), number: nth(79) },
        Record::Ended { sid: nth(43) },
    ]
}

#[test]
fn what_a_member_was_giving_back_goes_to_another_that_would_keep_it() {
    // [MQTT5 §4.8.2]
    for (seen_by, expected) in [(None, 2), (Some(0), 1), (Some(2), 1)] {
        for commits in [false, true] {
            let mut base = MemoryBase::default();
            let mut changes = Changes::new(&base).unwrap();
            for (sid, client, qos) in [(44, "first", QoS::AtMostOnce), (48, "second", QoS::ExactlyOnce)] {
                let records = [session(sid, client), subscribed(sid, "$share/g/t", qos)];
                apply(&mut changes, &base, 1, &records);
            }
            let records = ending_member();
            let (had, ends) = records.split_at(6);
            apply(&mut changes, &base, 3, had);
            if commits {
                base.commit(&mut changes);
            }
            apply(&mut changes, &base, 3, ends);
            if let Some(shard) = seen_by {
                apply(&mut changes, &base, shard, &[Record::IntentSeen { number: nth(79) }]);
            }
            assert_eq!(changes.resolve_intents(&base).unwrap(), 2);
            assert_eq!(changes.ignored(), 0);
            let given = queued(&mut changes, &base);
            assert_eq!(given, [(44, vec![]), (48, vec![b"m".to_vec(); expected])], "seen by {seen_by:?}");
            let (parts, _) = changes.restore(&base, 1, 0, Wall { zero_millis: 0 }).unwrap();
            for row in &parts[0].sessions[1].deliveries {
                assert_eq!((row.group.as_deref(), &row.subscription_ids[..]), (Some("$share/g/t"), &[][..]));
            }
            base.commit(&mut changes);
            assert_eq!(crate::store::check_rows(&base).unwrap(), [] as [String; 0]);
        }
    }
}

#[test]
fn what_has_been_given_back_is_gone_with_the_word_that_it_is_done() {
    let base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    apply(&mut changes, &base, 3, &ending_member());
    assert_eq!(count(&changes, &base, Table::Intents), 2);
    apply(&mut changes, &base, 0, &[Record::IntentSeen { number: nth(75) }]);
    assert_eq!(count(&changes, &base, Table::Seen), 1);
    apply(&mut changes, &base, 3, &[75, 79].map(|number| Record::IntentDone { number: nth(number) }));
    for table in [Table::Intents, Table::Seen, Table::Messages, Table::Deliveries, Table::Counts] {
        assert_eq!(count(&changes, &base, table), 0, "{table:?}");
    }
}

#[test]
fn a_member_that_has_ended_is_given_nothing_back() {
    let base = MemoryBase::default();
    let mut changes = Changes::new(&base).unwrap();
    apply(&mut changes, &base, 3, &ending_member());
    assert_eq!(changes.resolve_intents(&base).unwrap(), 2);
    assert_eq!(queued(&mut changes, &base), []);
    assert_eq!(count(&changes, &base, Table::Messages), 0);
}
