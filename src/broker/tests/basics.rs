//! Short conversations with the machine, and the state that it keeps afterwards.

use crate::broker::Hangup;
use crate::broker::world::World;
use crate::settings::Config;

pub(super) fn quiet(shards: usize) -> World {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    World::new(shards, config)
}

/// A connection that `shard` accepts, and its CONNECT (3.1.1, clean session).
pub(super) fn connect(world: &mut World, shard: usize, client_id: &str, keep_alive: u8) -> usize {
    let client = world.open(shard);
    let length = u8::try_from(client_id.len()).unwrap();
    let mut packet = vec![0x10, 12 + length, 0, 4];
    packet.extend_from_slice(b"MQTT\x04\x02\x00");
    packet.extend_from_slice(&[keep_alive, 0, length]);
    packet.extend_from_slice(client_id.as_bytes());
    world.send(client, &packet);
    assert_eq!(world.take(client), [0x20, 2, 0, 0], "{client_id} is in");
    client
}

const SUBSCRIBE_ANY: &[u8] = b"\x82\x08\x00\x01\x00\x03a/+\x01";
pub(super) const SUBSCRIBE_AB: &[u8] = b"\x82\x08\x00\x01\x00\x03a/b\x01";
pub(super) const PUBLISH_AB: &[u8] = b"\x32\x09\x00\x03a/b\x00\x07hi";
pub(super) const DELIVERED_AB: &[u8] = b"\x32\x09\x00\x03a/b\x00\x01hi";

#[test]
fn publish_reaches_exact_and_wildcard_subscribers_on_every_shard_once() {
    for shards in [1, 2, 7] {
        let mut world = quiet(shards);
        let subscribers: Vec<usize> =
            (0..20).map(|at| connect(&mut world, at % shards, &format!("sub{at}"), 60)).collect();
        for (at, &client) in subscribers.iter().enumerate() {
            world.send(client, if at % 2 == 0 { SUBSCRIBE_ANY } else { SUBSCRIBE_AB });
            assert_eq!(world.take(client), [0x90, 3, 0, 1, 1]);
        }
        let publisher = connect(&mut world, 0, "publisher", 60);
        world.send(publisher, PUBLISH_AB);
        assert_eq!(world.take(publisher), [0x40, 2, 0, 7]);
        for &client in &subscribers {
            assert_eq!(world.take(client), DELIVERED_AB, "{shards} shards");
        }
    }
}

#[test]
fn a_subscription_that_no_retained_message_matches_begins_no_replay() {
    let mut world = quiet(1);
    let client = world.open(0);
    world.send(client, b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01a");
    world.send(client, b"\x31\x08\x00\x03c/d\x00hi");
    let mut work_of = |filter: &[u8], options: u8| {
        let before = world.shard(0).work_done();
        world.send(client, &[b"\x82\x09\x00\x01\x00\x00\x03", filter, &[options]].concat());
        world.shard(0).work_done() - before
    };
    // Retain Handling 2: never.
    let without = work_of(b"a/+", 0x20);
    let nothing_matches = work_of(b"b/+", 0);
    let one_matches = work_of(b"c/+", 0);
    assert!(
        nothing_matches <= without + 2,
        "{nothing_matches} and {without}: a look at one retained message"
    );
    assert!(one_matches > nothing_matches + 2, "{one_matches} and {nothing_matches}");
}

/// [MQTT5-3.1.2-24] [MQTT5-3.2.0-1]
#[test]
fn a_client_whose_maximum_is_below_its_connack_is_not_served() {
    for (packet_bytes_max, answer) in
        [(10, &b"\x20\x03\x00\x95\x00"[..]), (5, b"\x20\x03\x00\x95\x00"), (4, b"")]
    {
        let mut world = quiet(1);
        let client = world.open(0);
        let mut packet = b"\x10\x13\x00\x04MQTT\x05\x02\x00\x3C\x05\x27\x00\x00\x00".to_vec();
        packet.extend_from_slice(&[packet_bytes_max, 0, 1, b'a', 0xC0, 0]);
        world.send(client, &packet);
        assert_eq!(world.take(client), answer, "{packet_bytes_max} bytes");
        assert!(world.is_closed(client));
        assert_eq!(world.shard(0).connections(), 0);
    }
}

#[test]
fn retained_message_is_found_by_late_subscribers_of_every_shard() {
    for shards in [1, 2, 7] {
        let mut world = quiet(shards);
        let publisher = connect(&mut world, 0, "publisher", 60);
        world.send(publisher, b"\x31\x07\x00\x03a/bhi");
        for at in 0..10 {
            let client = connect(&mut world, at % shards, &format!("late{at}"), 60);
            world.send(client, if at % 2 == 0 { SUBSCRIBE_ANY } else { SUBSCRIBE_AB });
            assert_eq!(world.take(client), b"\x90\x03\x00\x01\x01\x31\x07\x00\x03a/bhi", "{shards} shards");
        }
    }
}

#[test]
fn silent_client_is_cut_at_one_and_a_half_keep_alives() {
    // [MQTT311-3.1.2-24]
    let mut world = quiet(1);
    let client = connect(&mut world, 0, "silent", 2);
    world.pass(2900);
    assert!(!world.is_closed(client));
    world.pass(200);
    assert!(world.is_closed(client));
}

#[test]
fn what_does_not_begin_with_connect_is_closed_at_its_first_byte() {
    // [MQTT5-3.1.0-1]
    for first in [b"G".as_slice(), b"\x16\x03\x01\x02\x00\x01", b"\xc0"] {
        let mut world = quiet(1);
        let client = world.open(0);
        world.send(client, first);
        assert!(world.is_closed(client) && world.take(client).is_empty());
    }
}

#[test]
fn bytes_may_come_one_at_a_time() {
    // [MQTT5-4.2.0-1]
    let mut world = quiet(2);
    let client = connect(&mut world, 1, "drip", 60);
    for byte in SUBSCRIBE_AB.iter().chain(PUBLISH_AB) {
        world.send(client, &[*byte]);
    }
    assert_eq!(
        world.take(client),
        [b"\x90\x03\x00\x01\x01".as_slice(), DELIVERED_AB, b"\x40\x02\x00\x07"].concat()
    );
}

#[test]
fn everything_is_given_back_when_the_last_client_has_gone() {
    let mut world = quiet(2);
    for at in 0..10 {
        let client = connect(&mut world, at % 2, &format!("guest{at}"), 60);
        world.send(client, if at % 2 == 0 { SUBSCRIBE_ANY } else { SUBSCRIBE_AB });
        world.send(client, b"\x82\x11\x00\x02\x00\x0c$share/g/a/b\x01");
        world.hang_up(client, Hangup::Reset);
        assert!(world.is_closed(client));
    }
    for shard in world.shards() {
        shard.give_memory_back();
        assert_eq!((shard.connections.slots(), shard.turn.deferred_sessions()), (0, 0));
        assert_eq!(shard.connections(), 0);
        assert_eq!(shard.sessions.len(), 0);
        assert!(shard.subscriptions.len() == 0 && shard.interest.has_no_foreign() && shard.groups.is_empty());
        assert!(shard.requests.is_empty() && shard.next_deadline().is_none());
        assert_eq!(shard.interested("a/b"), 0, "no bit is left behind");
    }
}

/// A topic whose retained message has its home on `shard`.
fn topic_of(world: &World, shard: usize) -> String {
    let shared = world.shared();
    let mut topics = (0..).map(|at| format!("t{at:03}"));
    topics.find(|topic| usize::from(shared.home(shared.hash(topic))) == shard).unwrap()
}

/// A client whose home is `shard`.
fn connect_at(world: &mut World, shard: usize, stem: &str) -> usize {
    let shared = world.shared();
    let mut names = (0..).map(|at| format!("{stem}{at}"));
    let name = names.find(|name| usize::from(shared.home(shared.hash(name))) == shard).unwrap();
    connect(world, shard, &name, 60)
}

/// SUBSCRIBE with packet identifier 1 (3.x).
fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    let length = u8::try_from(filter.len()).unwrap();
    [&[0x82, 5 + length, 0, 1, 0, length], filter.as_bytes(), &[qos]].concat()
}

/// A retained QoS 0 message of one byte.
fn retained(topic: &str, payload: u8) -> Vec<u8> {
    let length = u8::try_from(topic.len()).unwrap();
    [&[0x31, length + 3, 0, length], topic.as_bytes(), &[payload]].concat()
}

#[test]
fn live_message_before_the_suback_is_not_repeated_from_the_store() {
    // [MQTT5-4.6.0-5]
    for home in [0, 1] {
        let mut world = quiet(2);
        let topic = topic_of(&world, home);
        let subscriber = connect_at(&mut world, 0, "sub");
        let publisher = connect_at(&mut world, 0, "pub");
        world.hold(1, 0);
        world.send(subscriber, b"\x82\x06\x00\x01\x00\x01+\x00");
        world.send(publisher, &retained(&topic, b'x'));
        assert_eq!(world.take(subscriber), [&[0x30], &retained(&topic, b'x')[1..]].concat());
        world.release(1, 0);
        world.run();
        assert_eq!(world.take(subscriber), [0x90, 3, 0, 1, 0]);
    }
}

#[test]
fn live_message_does_not_follow_a_newer_one_from_the_store() {
    // [MQTT5-4.6.0-5]
    let mut world = quiet(3);
    let (from, home, to) = (2, 1, 0);
    let topic = topic_of(&world, home);
    let subscriber = connect_at(&mut world, to, "sub");
    let publisher = connect_at(&mut world, from, "pub");
    world.hold(to, home);
    world.send(subscriber, &subscribe(&topic, 0));
    assert_eq!(world.take(subscriber), [0x90, 3, 0, 1, 0]);
    world.hold(from, to);
    world.send(publisher, &retained(&topic, b'1'));
    world.send(publisher, &retained(&topic, b'2'));
    // The subscriber's shard has already looked into the publisher's box, and sees only the answer.
    world.release(to, home);
    for _ in 0..3 {
        world.turn(home);
    }
    world.turn(to);
    world.release(from, to);
    world.run();
    let received = world.take(subscriber);
    let payloads: Vec<u8> =
        received.chunks(topic.len() + 5).filter_map(|packet| packet.last().copied()).collect();
    assert!(payloads.is_sorted() && payloads.ends_with(b"2"), "{:?}", payloads.escape_ascii().to_string());
}

#[test]
fn message_that_was_seen_under_an_earlier_subscription_is_sent_for_a_new_one() {
    // [MQTT5-3.3.1-9] [MQTT311-3.8.4-3]
    for home in [0, 1] {
        let mut world = quiet(2);
        let topic = topic_of(&world, home);
        let subscriber = connect_at(&mut world, 0, "sub");
        let publisher = connect_at(&mut world, 0, "pub");
        world.hold(1, 0);
        world.send(subscriber, b"\x82\x06\x00\x01\x00\x01+\x00");
        world.send(publisher, &retained(&topic, b'x'));
        // The first replay is not finished when the second subscription arrives.
        world.send(subscriber, b"\xa2\x05\x00\x02\x00\x01+\x82\x06\x00\x03\x00\x01+\x00");
        let mut live = [&[0x30], &retained(&topic, b'x')[1..]].concat();
        live.extend_from_slice(b"\xb0\x02\x00\x02");
        assert_eq!(world.take(subscriber), live);
        world.release(1, 0);
        world.run();
        let expected =
            [b"\x90\x03\x00\x01\x00\x90\x03\x00\x03\x00".as_slice(), &retained(&topic, b'x')].concat();
        assert_eq!(world.take(subscriber), expected);
    }
}

#[test]
fn member_gets_nothing_from_its_group_after_unsuback() {
    // [MQTT5-3.10.4-2] [MQTT311-3.10.4-2]
    let mut world = quiet(2);
    let shared = world.shared();
    let mut filters = (0..).map(|at| format!("$share/g{at}/t"));
    let filter = filters.find(|filter| shared.home(shared.hash(filter)) == 1).unwrap();
    let member = connect_at(&mut world, 0, "member");
    let publisher = connect_at(&mut world, 1, "pub");
    let length = u8::try_from(filter.len()).unwrap();
    world.send(member, &subscribe(&filter, 1));
    assert_eq!(world.take(member), [0x90, 3, 0, 1, 1]);
    world.hold(0, 1);
    world.send(member, &[&[0xa2, 4 + length, 0, 2, 0, length], filter.as_bytes()].concat());
    // The group's home does not know yet, so it may still choose the member.
    world.send(publisher, b"\x32\x07\x00\x01t\x00\x07hi");
    world.release(0, 1);
    world.run();
    world.send(publisher, b"\x32\x07\x00\x01t\x00\x08no");
    assert_eq!(world.take(member), b"\x32\x07\x00\x01t\x00\x01hi\xb0\x02\x00\x02");
}

#[test]
fn refusal_is_not_larger_than_the_client_takes() {
    // [MQTT5-3.1.2-24]: the authentication method is unknown, and CONNACK 0x8C has five bytes.
    for (max, answer) in [(4, &b""[..]), (5, &b"\x20\x03\x00\x8c\x00"[..])] {
        let mut world = quiet(1);
        let client = world.open(0);
        let connect = b"\x10\x17\x00\x04MQTT\x05\x02\x00\x00\x09\x15\x00\x01x\x27\x00\x00\x00";
        world.send(client, &[connect, &[max][..], b"\x00\x01c"].concat());
        assert!(world.is_closed(client));
        assert_eq!(world.take(client), answer);
    }
}

#[test]
fn a_subscription_that_ends_during_its_replay_does_not_hold_up_that_of_the_next() {
    let mut world = quiet(2);
    let homes = crate::base::Homes::new(2, 7);
    let mut topics = (b'a'..=b'z').filter(|&letter| homes.home_of(&char::from(letter).to_string()) == 1);
    let (first, second) = (topics.next().unwrap(), topics.next().unwrap());
    let publisher = connect(&mut world, 0, "publisher", 60);
    world.send(publisher, &[0x31, 5, 0, 1, second, b'h', b'i']);
    let name = (0..).map(|number| format!("c{number}")).find(|name| homes.home_of(name) == 0).unwrap();
    let client = connect(&mut world, 0, &name, 60);
    world.hold(1, 0);
    world.send(client, &[0x82, 10, 0, 1, 0, 1, first, 0, 0, 1, second, 0]);
    assert_eq!(world.take(client), [0x90, 4, 0, 1, 0, 0]);
    world.send(client, &[0xA2, 5, 0, 2, 0, 1, first]);
    assert_eq!(world.take(client), [0xB0, 2, 0, 2]);
    world.release(1, 0);
    world.pass(1);
    assert_eq!(world.take(client), [0x31, 5, 0, 1, second, b'h', b'i']);
}
