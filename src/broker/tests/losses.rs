//! The losses of a session: counted by cause, reported once, and not forgotten in a power failure.

use super::admission::{list, string};
use crate::broker::world::World;
use crate::broker::{Event, Hangup};
use crate::policy::access::Access;
use crate::policy::acl::{Actions, RuleEffect, Subscribing};
use crate::session::{LossCause, Losses};
use crate::settings::{Config, QueuePolicy};

fn world(shards: usize, policy: QueuePolicy) -> World {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.limits.session_queue_messages = 2;
    config.limits.session_queue_policy = policy;
    World::new(shards, config)
}

/// CONNECT of 5.0 with a persistent session and further properties.
fn connect_5(world: &mut World, shard: usize, client_id: &str, properties: &[u8]) -> usize {
    let mut body = b"\x00\x04MQTT\x05\x00\x00\x00".to_vec();
    body.push(5 + u8::try_from(properties.len()).unwrap());
    body.extend_from_slice(b"\x11\x00\x00\xFF\xFF");
    body.extend_from_slice(properties);
    string(&mut body, client_id);
    let client = world.open(shard);
    world.send(client, &[&[0x10, u8::try_from(body.len()).unwrap()], &body[..]].concat());
    client
}

/// The values of the two User Properties in the CONNACK of a session that is present.
fn told(world: &mut World, client: usize) -> [Option<u32>; 2] {
    let connack = world.take(client);
    assert_eq!((connack[0], &connack[2..4]), (0x20, &[1, 0][..]), "{connack:x?}");
    told_in(&connack)
}

fn told_in(connack: &[u8]) -> [Option<u32>; 2] {
    ["midge-dropped", "midge-expired"].map(|name| {
        let at = connack.windows(name.len()).position(|window| window == name.as_bytes())? + name.len();
        let length = usize::from(connack[at + 1]);
        std::str::from_utf8(&connack[at + 2..at + 2 + length]).unwrap().parse().ok()
    })
}

/// The losses of a client that were logged since the last call.
fn logged(world: &mut World, client_id: &str) -> Vec<[u32; 4]> {
    let events = std::mem::take(&mut world.events);
    let counts = |event: Event| match event {
        Event::Losses { client, is_back: true, losses, .. } if *client == *client_id => Some(losses.counts()),
        _ => None,
    };
    events.into_iter().filter_map(counts).collect()
}

/// Creates a session with a subscription to q whose client is away.
fn absent(world: &mut World, shard: usize) {
    let away = connect_5(world, shard, "away", b"");
    world.send(away, b"\x82\x07\x00\x01\x00\x00\x01q\x01");
    assert_eq!(world.take(away).last(), Some(&1));
    world.hang_up(away, Hangup::Closed);
}

/// Publishes messages of QoS 1 to q, with or without an expiry interval.
fn publish(world: &mut World, publisher: usize, count: usize, expiry_seconds: Option<u8>) {
    for _ in 0..count {
        let packet = match expiry_seconds {
            None => b"\x32\x08\x00\x01q\x00\x07\x00hi".to_vec(),
            Some(seconds) => {
                [b"\x32\x0D\x00\x01q\x00\x07\x05\x02\x00\x00\x00", &[seconds][..], b"hi"].concat()
            }
        };
        world.send(publisher, &packet);
        assert_eq!(world.take(publisher)[..4], [0x40, 2, 0, 7]);
    }
}

#[test]
fn what_a_full_queue_loses_is_told_once_and_survives_a_power_cut() {
    for (shards, policy) in
        [(1, QueuePolicy::DropOldest), (2, QueuePolicy::DropOldest), (2, QueuePolicy::DropNewest)]
    {
        let mut world = world(shards, policy);
        absent(&mut world, 0);
        let publisher = super::basics::connect(&mut world, 0, "publisher", 0);
        world.take(publisher);
        publish(&mut world, publisher, 5, None);
        // The first lost message is in the log long before the last one.
        world.pass(5000);
        publish(&mut world, publisher, 1, None);
        if policy == QueuePolicy::DropNewest {
            // Losses of messages that were never taken are recorded once a second. Nobody waits for that.
            world.pass(2000);
        }
        let mut world = world.cut_power(3, 1000);
        let away = connect_5(&mut world, 1, "away", b"");
        assert_eq!(told(&mut world, away), [Some(4), None], "{policy:?}");
        assert_eq!(logged(&mut world, "away"), [[4, 0, 0, 0]]);
        world.hang_up(away, Hangup::Reset);
        // The log also remembers that the client was told.
        world.await_logs();
        let mut world = world.cut_power(2, 1000);
        let away = connect_5(&mut world, 1, "away", b"");
        assert_eq!(told(&mut world, away), [None, None]);
        assert_eq!(logged(&mut world, "away"), [[0; 4]; 0]);
    }
}

#[test]
fn what_refuse_refuses_is_lost_for_the_session_too() {
    let mut world = world(2, QueuePolicy::Refuse);
    absent(&mut world, 0);
    let publisher = super::basics::connect(&mut world, 0, "publisher", 0);
    world.take(publisher);
    publish(&mut world, publisher, 3, None);
    let away = connect_5(&mut world, 0, "away", b"");
    assert_eq!(told(&mut world, away), [Some(1), None]);
}

#[test]
fn what_expires_while_it_waits_is_told_whether_the_broker_was_up_or_down() {
    for is_down in [false, true] {
        let mut world = world(2, QueuePolicy::DropOldest);
        absent(&mut world, 0);
        let publisher = connect_5(&mut world, 0, "publisher", b"");
        world.take(publisher);
        publish(&mut world, publisher, 1, None);
        publish(&mut world, publisher, 1, Some(10));
        let mut world = if is_down {
            world.cut_power(1, 20_000)
        } else {
            world.pass(20_000);
            world
        };
        let away = connect_5(&mut world, 0, "away", b"");
        assert_eq!(told(&mut world, away), [None, Some(1)], "down: {is_down}");
        assert_eq!(logged(&mut world, "away"), [[0, 1, 0, 0]]);
        world.await_logs();
        let mut world = world.cut_power(1, 20_000);
        let away = connect_5(&mut world, 0, "away", b"");
        assert_eq!(told(&mut world, away), [None, None], "down: {is_down}");
    }
}

#[test]
fn what_is_too_large_or_withdrawn_is_counted_and_only_what_was_meant_for_the_client_is_told_to_it() {
    let mut world = world(2, QueuePolicy::DropOldest);
    absent(&mut world, 0);
    let publisher = connect_5(&mut world, 0, "publisher", b"");
    world.take(publisher);
    // The client accepts packets of 8 bytes, and CONNACK is larger even without its texts.
    let mut large = b"\x32\x78\x00\x01q\x00\x07\x00".to_vec();
    large.resize(122, b'x');
    world.send(publisher, &large);
    let away = connect_5(&mut world, 0, "away", b"\x27\x00\x00\x00\x40");
    assert_eq!(told(&mut world, away), [None, None]);
    world.hang_up(away, Hangup::Closed);
    let away = connect_5(&mut world, 0, "away", b"");
    assert_eq!(told(&mut world, away), [Some(1), None], "it turned out at the last resume");
    assert_eq!(logged(&mut world, "away"), [[0, 0, 1, 0]]);
    world.hang_up(away, Hangup::Closed);
    publish(&mut world, publisher, 2, None);
    world.ask(&list(Subscribing::Strict, &[(RuleEffect::Allow, Actions::ALL, "other")]));
    let away = connect_5(&mut world, 0, "away", b"");
    assert_eq!(told(&mut world, away), [None, None], "what its rules keep from it");
    world.hang_up(away, Hangup::Closed);
    world.ask(&Access::default());
    let away = connect_5(&mut world, 0, "away", b"");
    assert_eq!(told(&mut world, away), [None, None], "it was not the client's any more");
    assert_eq!(logged(&mut world, "away"), [[0, 0, 0, 2]]);
}

#[test]
fn a_client_that_can_not_be_told_gets_its_connack_all_the_same_and_the_log_is_told() {
    let connects: [fn(&mut World) -> usize; 2] = [
        |world| connect_5(world, 0, "away", b"\x27\x00\x00\x00\x18"),
        |world| super::kept::connect_kept(world, 0, "away"),
    ];
    for connect in connects {
        let mut world = world(1, QueuePolicy::DropOldest);
        absent(&mut world, 0);
        let publisher = super::basics::connect(&mut world, 0, "publisher", 0);
        world.take(publisher);
        publish(&mut world, publisher, 3, None);
        let away = connect(&mut world);
        assert_eq!(told_in(&world.take(away)), [None, None]);
        assert_eq!(logged(&mut world, "away"), [[1, 0, 0, 0]]);
        world.hang_up(away, Hangup::Closed);
        let away = connect_5(&mut world, 0, "away", b"");
        assert_eq!(told(&mut world, away), [None, None]);
    }
}

#[test]
fn what_is_lost_while_a_connack_waits_for_the_disk_is_told_by_the_next_one() {
    let mut world = world(1, QueuePolicy::DropOldest);
    absent(&mut world, 0);
    let publisher = super::basics::connect(&mut world, 0, "publisher", 0);
    world.take(publisher);
    publish(&mut world, publisher, 3, None);
    world.stick(0);
    let away = connect_5(&mut world, 0, "away", b"");
    world.send(publisher, b"\x32\x07\x00\x01q\x00\x07hi");
    assert_eq!(world.take(away), b"");
    // If a connection ends before its CONNACK, the client was not told.
    world.hang_up(away, Hangup::Reset);
    let away = connect_5(&mut world, 0, "away", b"");
    world.send(publisher, b"\x32\x07\x00\x01q\x00\x08hi");
    world.unstick(0);
    assert_eq!(told(&mut world, away), [Some(2), None]);
    world.hang_up(away, Hangup::Closed);
    let away = connect_5(&mut world, 0, "away", b"");
    assert_eq!(told(&mut world, away), [Some(1), None]);
}

#[test]
fn losses_of_a_session_that_ends_untold_are_logged() {
    let mut world = world(1, QueuePolicy::DropOldest);
    absent(&mut world, 0);
    let publisher = super::basics::connect(&mut world, 0, "publisher", 0);
    publish_all(&mut world, publisher, 5);
    // Its expiry interval is 65,535 s.
    world.pass(70_000_000);
    let untold = |event: &&Event| {
        matches!(event, Event::Losses { client, is_back: false, losses, .. }
            if **client == *"away" && losses.counts() == [3, 0, 0, 0])
    };
    assert_eq!(world.events.iter().filter(untold).count(), 1);
}

fn publish_all(world: &mut World, publisher: usize, count: usize) {
    world.take(publisher);
    publish(world, publisher, count, None);
}

/// QoS 0 gives no guarantee.
#[test]
fn qos_0_is_no_part_of_the_ledger_and_pushes_nothing_out() {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.protocol.queue_qos0 = true;
    config.limits.session_queue_messages = 2;
    let mut world = World::new(1, config);
    absent(&mut world, 0);
    let publisher = super::basics::connect(&mut world, 0, "publisher", 0);
    world.take(publisher);
    publish(&mut world, publisher, 2, None);
    for _ in 0..5 {
        world.send(publisher, b"\x30\x05\x00\x01qlo");
    }
    let away = connect_5(&mut world, 0, "away", b"");
    let got = world.take(away);
    assert_eq!(told_in(&got), [None, None]);
    assert_eq!(got.windows(2).filter(|window| window == b"hi").count(), 2);
}

#[test]
fn the_ledger_is_small() {
    assert_eq!(size_of::<Losses>(), 32);
    let mut losses = Losses::default();
    losses.note(LossCause::Expired, 1);
    assert!(crate::broker::flows::losses::user_properties(&losses) == [("midge-expired", "1".to_owned())]);
}
