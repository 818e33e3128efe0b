//! The bounds for one client and for all clients: each with its answer, its counter and its log line.

use super::basics::connect;
use super::kept::connect_kept;
use crate::broker::world::World;
use crate::broker::{Counter, Event, Hangup, Limit, QueueBound};
use crate::mqtt::QoS;
use crate::session::Publication;
use crate::settings::{Config, QueuePolicy};

fn world(shards: usize, change: impl FnOnce(&mut Config)) -> World {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.persistence.directory = String::new();
    change(&mut config);
    World::new(shards, config)
}

fn total(world: &World, counter: Counter) -> u64 {
    world.shared().counters.iter().map(|counters| counters.get(counter)).sum()
}

/// The number of times that a bound was reported, with this client.
fn told(world: &World, wanted: Limit, client_id: &str) -> usize {
    let fits = |event: &&Event| matches!(event, Event::LimitReached { limit, client } if *limit == wanted && **client == *client_id);
    world.events.iter().filter(fits).count()
}

const CONNECT_5: &[u8] = b"\x10\x0E\x00\x04MQTT\x05\x02\x00\x3C\x00\x00\x01x";

#[test]
fn sessions_are_counted_over_all_shards() {
    for shards in [1, 2, 7] {
        let mut world = world(shards, |config| config.limits.sessions = 10);
        let clients: Vec<usize> =
            (0..10).map(|at| connect(&mut world, at % shards, &format!("client{at}"), 60)).collect();
        for round in 1..=2 {
            let late = world.open(0);
            world.send(late, CONNECT_5);
            assert_eq!(world.take(late), [0x20, 3, 0, 0x89, 0], "round {round} with {shards} shards");
            assert!(world.is_closed(late));
            assert_eq!(total(&world, Counter::LimitSessions), round);
            assert_eq!(told(&world, Limit::Sessions, "x"), round as usize);
        }
        // A client that has a session needs no new place, not even for a clean one.
        connect(&mut world, 0, "client3", 60);
        world.hang_up(clients[7], Hangup::Closed);
        let late = world.open(0);
        world.send(late, CONNECT_5);
        assert_eq!(world.take(late)[3], 0, "a place is free again");
    }
}

/// A connected 5.0 publisher.
fn publisher(world: &mut World) -> usize {
    let publisher = world.open(0);
    world.send(publisher, CONNECT_5);
    assert_eq!(world.take(publisher)[3], 0);
    publisher
}

/// The reason code that a 5.0 client gets for a message of QoS 1 with this many bytes.
fn publish(world: &mut World, publisher: usize, head: u8, topic: &str, bytes: usize) -> u8 {
    let topic_len = u8::try_from(topic.len()).unwrap();
    let mut packet = vec![head, 5 + topic_len + u8::try_from(bytes).unwrap(), 0, topic_len];
    packet.extend_from_slice(topic.as_bytes());
    packet.extend_from_slice(&[0, 1, 0]);
    packet.resize(packet.len() + bytes, b'.');
    world.send(publisher, &packet);
    let answer = world.take(publisher);
    assert_eq!((answer[0], &answer[2..4]), (0x40, &[0, 1][..]));
    answer.get(4).copied().unwrap_or(0)
}

/// A session of 3.1.1 that has subscribed to q with QoS 1.
fn kept_subscriber(world: &mut World) -> usize {
    let subscriber = connect_kept(world, 0, "kept");
    world.send(subscriber, b"\x82\x06\x00\x01\x00\x01q\x01");
    assert_eq!(world.take(subscriber), b"\x20\x02\x00\x00\x90\x03\x00\x01\x01");
    subscriber
}

/// The counted size of three messages with a hundred bytes to q.
fn three_bytes() -> usize {
    let publication = Publication {
        topic: "q",
        forward: [&[]; 3],
        payload: &[b'.'; 100],
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: None,
        origin: None,
        stamp: None,
        source: &[],
    };
    3 * publication.to_message().bytes()
}

#[test]
fn a_queue_is_full_by_the_bound_that_is_named() {
    type Change = fn(&mut Config);
    let bounds: [(QueueBound, &str, Change); 3] = [
        (QueueBound::Messages, "limits.session_queue_messages", |config| {
            config.limits.session_queue_messages = 3;
        }),
        (QueueBound::Bytes, "limits.session_queue_bytes", |config| {
            config.limits.session_queue_bytes = three_bytes();
        }),
        (QueueBound::Total, "limits.queue_bytes_total", |config| {
            config.limits.queue_bytes_total = three_bytes();
        }),
    ];
    type Told = fn(QueueBound) -> Limit;
    let policies: [(QueuePolicy, Told, u8); 3] = [
        (QueuePolicy::Refuse, Limit::SessionQueue, 0x97),
        (QueuePolicy::DropOldest, Limit::SessionQueueOldest, 0),
        (QueuePolicy::DropNewest, Limit::SessionQueueNewest, 0),
    ];
    for (bound, key, change) in bounds {
        for (policy, limit, code) in policies {
            let mut world = world(1, |config| {
                change(config);
                config.limits.session_queue_policy = policy;
            });
            let subscriber = kept_subscriber(&mut world);
            world.hang_up(subscriber, Hangup::Closed);
            let publisher = publisher(&mut world);
            let codes: Vec<u8> = (0..5).map(|_| publish(&mut world, publisher, 0x32, "q", 100)).collect();
            assert_eq!(codes, [0, 0, 0, code, code], "{key} {policy:?}");
            assert_eq!(told(&world, limit(bound), "kept"), 1, "{key} {policy:?}");
            assert_eq!(limit(bound).key(), key);
            assert_eq!(total(&world, Counter::MessagesQueued), 3);
            assert_eq!(total(&world, Counter::BytesQueued), three_bytes() as u64);
            assert_eq!(total(&world, Counter::DroppedQueueFull), 2);
            assert_eq!(total(&world, Counter::PublishesDropped), 2);
            assert_eq!(total(&world, Counter::PublishesRefused), if code == 0 { 0 } else { 2 });
        }
    }
}

#[test]
fn above_the_bytes_on_their_way_messages_wait_in_the_queue() {
    let mut world = world(1, |config| config.limits.inflight_bytes = 150);
    let subscriber = kept_subscriber(&mut world);
    let publisher = publisher(&mut world);
    for _ in 0..3 {
        assert_eq!(publish(&mut world, publisher, 0x32, "q", 100), 0);
    }
    // The message that reaches the bound is still sent.
    assert_eq!(world.take(subscriber).len(), 2 * 107);
    assert_eq!(total(&world, Counter::MessagesQueued), 1);
    world.send(subscriber, b"\x40\x02\x00\x01");
    assert_eq!(world.take(subscriber).len(), 107);
    assert_eq!(total(&world, Counter::MessagesQueued), 0);
    assert!(!world.events.iter().any(|event| matches!(event, Event::LimitReached { .. })));
}

#[test]
fn subscriptions_have_a_bound_for_each_client_and_one_for_all() {
    let mut world = world(1, |config| {
        config.limits.subscriptions_per_client = 3;
        config.limits.subscriptions_total = 5;
    });
    let [first, second] = ["first", "second"].map(|name| connect(&mut world, 0, name, 60));
    let subscribe = |world: &mut World, client: usize, name: u8| {
        world.send(client, &[0x82, 6, 0, 1, 0, 1, name, 1]);
        world.take(client)[4]
    };
    let codes = [b'a', b'b', b'c', b'd', b'a'].map(|name| subscribe(&mut world, first, name));
    assert_eq!(codes, [1, 1, 1, 0x80, 1], "replacing one is not one more");
    assert_eq!(told(&world, Limit::Subscriptions, "first"), 1);
    let codes = [b'a', b'b', b'c'].map(|name| subscribe(&mut world, second, name));
    assert_eq!(codes, [1, 1, 0x80]);
    assert_eq!(told(&world, Limit::SubscriptionsTotal, "second"), 1);
    assert_eq!(Limit::SubscriptionsTotal.key(), "limits.subscriptions_total");
    assert_eq!(total(&world, Counter::LimitSubscriptions), 2);
    assert_eq!(total(&world, Counter::Subscriptions), 5);
}

#[test]
fn what_the_retained_store_has_no_room_for_reaches_those_who_are_there_and_ends_no_3x_publisher() {
    for shards in [1, 2, 7] {
        let mut world = world(shards, |config| config.limits.retained_messages = shards);
        let live = connect(&mut world, 0, "live", 60);
        world.send(live, b"\x82\x06\x00\x01\x00\x01#\x00");
        world.take(live);
        let publisher = connect(&mut world, 0, "old", 60);
        world.take(publisher);
        for at in 0..40_u8 {
            let topic = [b't', b'0' + at / 10, b'0' + at % 10];
            for (head, id) in [(0x33, at + 1), (0x35, at + 101)] {
                world.send(publisher, &[&[head, 9, 0, 3], &topic[..], &[0, id], b"hi"].concat());
                assert_eq!(world.take(publisher), [if head == 0x33 { 0x40 } else { 0x50 }, 2, 0, id]);
            }
            world.send(publisher, &[&[0x31, 7, 0, 3], &topic[..], b"hi"].concat());
            assert_eq!(world.take(live).len(), 3 * 9, "{shards} shards");
        }
        assert!(!world.is_closed(publisher));
        assert!(total(&world, Counter::Retained) <= shards as u64);
        assert!(total(&world, Counter::LimitRetained) > 0);
    }
}

#[test]
fn a_queue_is_not_emptied_for_what_other_sessions_hold() {
    let mut world = world(1, |config| config.limits.queue_bytes_total = 1 << 20);
    for (name, topic) in [("hog", "h"), ("small", "s")] {
        let subscriber = connect_kept(&mut world, 0, name);
        world.send(subscriber, &[b"\x82\x06\x00\x01\x00\x01".as_slice(), topic.as_bytes(), &[1]].concat());
        world.take(subscriber);
        world.hang_up(subscriber, Hangup::Closed);
    }
    let publisher = publisher(&mut world);
    for _ in 0..3 {
        assert_eq!(publish(&mut world, publisher, 0x32, "s", 10), 0);
    }
    while told(&world, Limit::SessionQueueOldest(QueueBound::Total), "hog") == 0 {
        assert_eq!(publish(&mut world, publisher, 0x32, "h", 100), 0);
    }
    for _ in 0..10 {
        assert_eq!(publish(&mut world, publisher, 0x32, "s", 10), 0);
    }
    let small = connect_kept(&mut world, 0, "small");
    let kept = world.take(small).len();
    assert!(kept >= 4 + 3 * 17, "{kept} bytes: it has kept what it had, or as much that is newer");
}

#[test]
fn sessions_that_share_their_messages_each_give_up_the_oldest_for_a_new_one() {
    let mut world = world(1, |config| config.limits.queue_bytes_total = 1 << 20);
    for name in ["one", "two", "three"] {
        let subscriber = connect_kept(&mut world, 0, name);
        world.send(subscriber, b"\x82\x06\x00\x01\x00\x01q\x01");
        world.take(subscriber);
        world.hang_up(subscriber, Hangup::Closed);
    }
    let publisher = publisher(&mut world);
    let mut count = 0_u64;
    while told(&world, Limit::SessionQueueOldest(QueueBound::Total), "three") == 0 {
        assert_eq!(publish(&mut world, publisher, 0x32, "q", 100), 0);
        count += 1;
    }
    for _ in 0..100 {
        assert_eq!(publish(&mut world, publisher, 0x32, "q", 100), 0);
    }
    // Each of the hundred messages, and the first that found no room, has cost each session one.
    assert_eq!(total(&world, Counter::DroppedQueueFull), 3 * 101);
    assert_eq!(total(&world, Counter::MessagesQueued), 3 * (count - 1));
}

#[test]
fn retained_messages_have_a_bound_in_number_and_one_in_bytes() {
    type Change = fn(&mut Config);
    let bounds: [(Limit, &str, Change); 2] = [
        (Limit::Retained, "limits.retained_messages", |config| config.limits.retained_messages = 3),
        (Limit::RetainedBytes, "limits.retained_bytes", |config| {
            // A retained message counts with its topic, and the topic counts again as its key.
            config.limits.retained_bytes = three_bytes() + 3;
        }),
    ];
    for (limit, key, change) in bounds {
        let mut world = world(1, change);
        let publisher = publisher(&mut world);
        let codes = ["a", "b", "c", "d", "a"].map(|topic| publish(&mut world, publisher, 0x33, topic, 100));
        assert_eq!(codes.map(|code| code == 0x97), [false, false, false, true, false], "{key}");
        assert_eq!(told(&world, limit, "x"), 1);
        assert_eq!(limit.key(), key);
        assert_eq!(total(&world, Counter::LimitRetained), 1);
        assert_eq!(total(&world, Counter::PublishesRefused), 1);
        assert_eq!(total(&world, Counter::Retained), 3);
        assert_eq!(total(&world, Counter::RetainedBytes), (three_bytes() + 3) as u64);
    }
}
