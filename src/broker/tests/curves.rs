//! Limits the number of steps that the machine needs for state that one client can accumulate.

use super::admission::{list, string};
use super::basics::connect;
use super::kept::connect_kept;
use crate::base::steps;
use crate::broker::components::sessions::CHECKED;
use crate::broker::world::{World, slot};
use crate::broker::{Counter, Event, Hangup};
use crate::policy::access::Access;
use crate::policy::acl::{Actions, RuleEffect, Subscribing};
use crate::settings::Config;

fn world(shards: usize, change: impl FnOnce(&mut Config)) -> World {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.persistence.directory = String::new();
    change(&mut config);
    World::new(shards, config)
}

fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() < 128, "one byte of length");
    [&[head, u8::try_from(body.len()).unwrap()], body].concat()
}

/// PUBLISH of 3.1.1 to `q` with a packet identifier.
fn publish(head: u8, id: u16) -> Vec<u8> {
    packet(head, &[&[0, 1, b'q'], &id.to_be_bytes()[..]].concat())
}

fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    string(&mut body, filter);
    body.push(qos);
    packet(0x82, &body)
}

fn ids(range: impl Iterator<Item = u16>, head: u8) -> Vec<u8> {
    range.flat_map(|id| publish(head, id)).collect()
}

/// Review B1: the search for a free identifier never ended.
#[test]
fn with_every_identifier_in_flight_an_expired_message_in_the_queue_is_passed_over() {
    let mut world = world(1, |config| {
        config.limits.inflight_messages = 65_535;
        config.limits.session_queue_messages = 100_000;
    });
    let subscriber = connect_kept(&mut world, 0, "kept");
    world.send(subscriber, &subscribe("q", 1));
    let publisher = world.open(0);
    world.send(publisher, b"\x10\x0E\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01x");
    for first in (1..=65_535u16).step_by(5000) {
        let last: u16 = (u32::from(first) + 4999).min(65_535) as u16;
        let many: Vec<u8> = (first..=last)
            .flat_map(|id: u16| packet(0x32, &[&[0, 1, b'q'], &id.to_be_bytes()[..], &[0]].concat()))
            .collect();
        world.send(publisher, &many);
    }
    assert_eq!(world.take(subscriber).len(), 4 + 5 + 65_535 * 7);
    // A message that expires in a second, and waits.
    world.send(publisher, b"\x32\x0B\x00\x01q\x00\x01\x05\x02\x00\x00\x00\x01");
    world.pass(2000);
    world.take(publisher);
    let ((), steps) = steps::of(|| world.send(publisher, b"\x32\x06\x00\x01q\x00\x02\x00"));
    assert_eq!(world.take(publisher), b"\x40\x02\x00\x02");
    assert!(steps < 1100, "{steps}");
    // The waiting message takes the place of an acknowledged one.
    world.send(subscriber, b"\x40\x02\x00\x07");
    assert_eq!(world.take(subscriber), b"\x32\x05\x00\x01q\x00\x07");
}

/// Attacks F5.
#[test]
fn a_3x_client_that_releases_nothing_has_a_bound_and_is_let_go_on() {
    let mut world = world(1, |_| {});
    let client = connect_kept(&mut world, 0, "kept");
    world.send(client, &ids(1..=8000, 0x34));
    assert_eq!(world.take(client).len(), 4 + 8000 * 4);
    // Repeats are answered, each in few steps.
    let ((), steps) = steps::of(|| world.send(client, &ids((1..=8000).rev(), 0x3C)));
    assert_eq!(world.take(client).len(), 8000 * 4);
    assert!(steps < 8000 * 4, "{steps}");
    // A released message makes room for another one.
    world.send(client, b"\x62\x02\x00\x07");
    world.send(client, &publish(0x34, 8001));
    assert_eq!(world.take(client), b"\x70\x02\x00\x07\x50\x02\x1F\x41");
    assert!(!world.is_closed(client));
    world.send(client, &publish(0x34, 8002));
    assert!(world.is_closed(client));
    let told = |event: &Event| matches!(event, Event::Disconnected { cause, .. } if cause.to_string().contains("protocol.receive_maximum"));
    assert!(world.events.iter().any(told));
    assert_eq!(world.shared().counters[0].get(Counter::LimitReceiveMaximum), 1);
    // The client reconnects, releases the messages with PUBREC, and continues.
    let client = connect_kept(&mut world, 0, "kept");
    let releases: Vec<u8> = (1..=8001_u16).flat_map(|id| packet(0x62, &id.to_be_bytes())).collect();
    world.send(client, &[releases, publish(0x3C, 8002)].concat());
    let answers = world.take(client);
    assert!(answers.ends_with(b"\x50\x02\x1F\x42") && answers.len() == 4 + 8002 * 4);
    assert!(!world.is_closed(client));
}

#[test]
fn acknowledgements_that_wait_for_another_shard_are_found_in_few_steps() {
    const MESSAGES: u16 = 5000;
    let mut world = world(2, |_| {});
    let homes = crate::base::Homes::new(2, 7);
    let name =
        |shard: usize| (0..).map(|n| format!("c{n}")).find(|name| usize::from(homes.home_of(name)) == shard);
    let publisher = connect(&mut world, 0, &name(0).unwrap(), 60);
    let subscriber = connect(&mut world, 1, &name(1).unwrap(), 60);
    world.send(subscriber, &subscribe("q", 1));
    world.hold(1, 0);
    world.send(publisher, &ids(1..=MESSAGES, 0x32));
    assert_eq!(world.take(publisher), b"", "each waits for the other shard");
    world.release(1, 0);
    let ((), steps) = steps::of(|| world.run());
    let answers = world.take(publisher);
    assert_eq!(answers.len(), usize::from(MESSAGES) * 4);
    assert!(answers.chunks(4).zip(1..).all(|(puback, id)| puback[2..] == u16::to_be_bytes(id)));
    assert!(steps <= u64::from(MESSAGES) * 4, "{steps}");
}

/// `[MQTT5 §4.8.2]`
#[test]
fn of_a_large_group_only_those_who_can_take_a_message_are_looked_at() {
    const AWAY: usize = 3000;
    let mut world = world(1, |config| config.limits.inflight_messages = 2);
    for at in 0..AWAY {
        let client = connect_kept(&mut world, 0, &format!("away{at}"));
        world.send(client, &subscribe("$share/g/q", 1));
        world.hang_up(client, Hangup::Closed);
    }
    let members: Vec<usize> = (0..3)
        .map(|at| {
            let client = connect_kept(&mut world, 0, &format!("here{at}"));
            world.send(client, &subscribe("$share/g/q", 1));
            world.take(client);
            client
        })
        .collect();
    let publisher = connect(&mut world, 0, "publisher", 60);
    // Members that are away are skipped once.
    world.send(publisher, &publish(0x32, 1));
    let ((), steps) = steps::of(|| world.send(publisher, &ids(2..=6, 0x32)));
    assert!(steps < 5 * 200, "{steps}");
    let first = members.iter().map(|&member| world.take(member).len()).collect::<Vec<_>>();
    assert_eq!(first, [14, 14, 14], "in turn, as many as their windows hold");
    // All windows are full: the next message waits for the member whose turn it is, and no message is lost.
    world.send(publisher, &publish(0x32, 7));
    assert!(members.iter().all(|&member| world.take(member).is_empty()));
    // Two members acknowledge, and are chosen again.
    for &member in &members[..2] {
        world.send(member, b"\x40\x02\x00\x01\x40\x02\x00\x02");
    }
    let ((), steps) = steps::of(|| world.send(publisher, &ids(8..=11, 0x32)));
    assert!(steps < 4 * 200, "{steps}");
    let second: Vec<usize> = members[..2].iter().map(|&member| world.take(member).len()).collect();
    assert_eq!(second, [14, 14]);
    assert_eq!(
        world.take(publisher),
        ids(1..=11, 0x40).chunks(7).flat_map(|p| [0x40, 2, p[5], p[6]]).collect::<Vec<u8>>()
    );
}

/// `[MQTT5 §4.8.2]`
#[test]
fn a_member_of_thousands_of_groups_tells_each_shard_once_that_it_is_busy() {
    const GROUPS: usize = 2000;
    for shards in [1, 3] {
        let mut world = world(shards, |config| config.limits.inflight_messages = 1);
        let member = connect_kept(&mut world, 0, "member");
        for at in 0..GROUPS {
            world.send(member, &subscribe(&format!("$share/g/q/{at}"), 1));
        }
        let other = connect_kept(&mut world, 0, "other");
        let shared: Vec<usize> = (0..20).collect();
        for at in &shared {
            world.send(other, &subscribe(&format!("$share/g/q/{at}"), 0));
        }
        let publisher = connect(&mut world, 0, "publisher", 60);
        let publish = |world: &mut World, at: usize, id: u16| {
            let mut body = Vec::new();
            string(&mut body, &format!("q/{at}"));
            body.extend(id.to_be_bytes());
            world.send(publisher, &packet(0x32, &body));
            world.take(publisher);
        };
        for client in [member, other] {
            world.take(client);
        }
        // The member has its own groups. The second message waits, so it is busy.
        publish(&mut world, 1000, 1);
        let ((), steps) = steps::of(|| publish(&mut world, 1001, 2));
        assert!(steps < 100, "{steps} steps with {shards} shards");
        assert_eq!(world.take(member).len(), 12, "as many as its window holds");
        for at in &shared {
            publish(&mut world, *at, 3);
        }
        assert_eq!(
            copies(&world.take(other)),
            shared.len(),
            "none goes to the busy one, with {shards} shards"
        );
        // The waiting message is sent, and so is a later one.
        let ((), steps) = steps::of(|| world.send(member, b"\x40\x02\x00\x01"));
        assert!(steps < 100, "{steps} steps with {shards} shards");
        world.send(member, b"\x40\x02\x00\x02");
        assert_eq!(copies(&world.take(member)), 1);
        for at in &shared {
            publish(&mut world, *at, 4);
            // It acknowledges each message. Identifiers keep rising.
            let got = world.take(member);
            if let [.., high, low] = got[..] {
                world.send(member, &[0x40, 2, high, low]);
            }
        }
        let others = copies(&world.take(other));
        assert_eq!(others, 0, "it was the turn of the one that had been busy, with {shards} shards");
    }
}

/// The number of PUBLISH packets in the bytes that a client was sent.
fn copies(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let [head, length, rest @ ..] = bytes {
        count += usize::from(head >> 4 == 3);
        bytes = &rest[usize::from(*length)..];
    }
    count
}

fn may_receive(topics: &[&str]) -> Access {
    let grants: Vec<_> = topics.iter().map(|&topic| (RuleEffect::Allow, Actions::ALL, topic)).collect();
    list(Subscribing::Filtered, &grants)
}

fn is_checked(world: &mut World, client_id: &str) -> bool {
    let directory = &world.shard(0).sessions;
    directory.slot(directory.find(client_id).expect("it has a session")).flags & CHECKED != 0
}

#[test]
fn new_rules_are_asked_of_many_filters_over_many_turns_and_hold_at_once() {
    const FILTERS: usize = 5000;
    let mut world = world(1, |_| {});
    world.ask(&may_receive(&["#"]));
    let client = connect_kept(&mut world, 0, "many");
    for at in 0..FILTERS {
        world.send(client, &subscribe(&format!("f/{at}"), 0));
    }
    world.send(client, &subscribe("z/secret", 0));
    let publisher = connect(&mut world, 0, "publisher", 60);
    world.take(client);
    assert!(!is_checked(&mut world, "many"));
    // Only the very last filter is not granted any more.
    let shard = 0;
    for (topics, checked) in
        [(&["f/#", "x"][..], true), (&["f/#", "z/#", "x"], false), (&["f/#"], true), (&["#"], false)]
    {
        let access = may_receive(topics);
        world.shard(shard).handle_access([access].into());
        let mut turns = 0;
        let mut longest = 0;
        while world.shard(shard).has_deferred() {
            let ((), steps) = steps::of(|| world.shard(shard).handle_turn(crate::base::Time::from_millis(5)));
            longest = longest.max(steps);
            turns += 1;
            let granted = topics.iter().any(|topic| topic.starts_with('z') || *topic == "#");
            assert!(granted || is_checked(&mut world, "many"), "from the first turn on");
        }
        assert!(longest <= 1024 + 128, "{longest} filters in a turn");
        assert!(turns >= 3 || topics == ["#"], "{turns} turns");
        assert_eq!(is_checked(&mut world, "many"), checked, "{topics:?}");
    }
    // At CONNECT there are as many filters to check, and only a few are checked at once.
    world.ask(&may_receive(&["f/#", "z/#"]));
    world.hang_up(client, Hangup::Closed);
    let client = world.open(0);
    let now = world.now();
    let ((), steps) = steps::of(|| {
        world.shard(shard).handle_bytes(
            now,
            slot(client),
            b"\x10\x10\x00\x04MQTT\x04\x00\x00\x3C\x00\x04many",
        );
    });
    assert!(steps < 300, "{steps}");
    assert!(is_checked(&mut world, "many"), "till all are looked at");
    world.run();
    assert!(!is_checked(&mut world, "many"));
    let _ = publisher;
}

#[test]
fn a_subscription_during_the_judgement_is_not_forgotten_by_it() {
    const FILTERS: usize = 3000;
    let mut world = world(1, |_| {});
    world.ask(&may_receive(&["#"]));
    let client = connect_kept(&mut world, 0, "many");
    for at in 0..FILTERS {
        world.send(client, &subscribe(&format!("f/{at}"), 0));
    }
    world.take(client);
    world.shard(0).handle_access([may_receive(&["f/#", "a/open"])].into());
    let now = world.now();
    world.shard(0).handle_turn(now);
    assert!(world.shard(0).has_deferred() && is_checked(&mut world, "many"));
    // The filter matches a topic that the client may not receive, and is before the filters that must still
    // be checked.
    world.shard(0).handle_bytes(now, slot(client), &subscribe("a/+", 0));
    world.run();
    assert!(is_checked(&mut world, "many"));
}
