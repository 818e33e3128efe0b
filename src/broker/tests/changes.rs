//! Settings that change while clients are connected.

use super::basics::connect;
use crate::broker::world::World;
use crate::broker::{EndCause, Event, Hangup};
use crate::settings::{Config, Listener, QueuePolicy};

fn config() -> Config {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.persistence.directory = String::new();
    config
}

const CONNECT_5: &[u8] = b"\x10\x0E\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01x";

/// A retained QoS 1 message of a 5.0 client, and the reason code of its PUBACK: 0x10, no subscriber, is success.
fn retain(world: &mut World, publisher: usize, topic: u8) -> u8 {
    world.send(publisher, &[0x33, 7, 0, 1, topic, 0, 9, 0, b'.']);
    match world.take(publisher)[..] {
        [0x40, 2, 0, 9] => 0,
        [0x40, _, 0, 9, code, ..] => code,
        ref other => panic!("no PUBACK: {other:02X?}"),
    }
}

#[test]
fn lower_bounds_take_nothing_away_and_refuse_what_is_new() {
    for shards in [1, 2] {
        let mut config = config();
        let mut world = World::new(shards, config.clone());
        let client = world.open(0);
        world.send(client, CONNECT_5);
        assert_eq!(world.take(client)[3], 0);
        for topic in [b'a', b'b', b'c'] {
            assert_eq!(retain(&mut world, client, topic), 0x10);
        }
        world.send(client, b"\x82\x08\x00\x01\x00\x00\x02t1\x00");
        assert_eq!(world.take(client), [0x90, 4, 0, 1, 0, 0]);
        config.limits.retained_messages = 1;
        config.limits.subscriptions_total = 1;
        config.limits.topic_levels = 2;
        config.limits.sessions = 1;
        world.change(&config);
        for (topic, code) in [(b'a', 0x10), (b'd', if shards == 1 { 0x97 } else { 0 })] {
            let answer = retain(&mut world, client, topic);
            // On two shards each has its part, and some topics find room.
            assert!(code == 0 || answer == code, "{answer:02X} for {}", char::from(topic));
        }
        world.send(client, b"\x82\x0B\x00\x02\x00\x00\x05t/1/2\x00");
        assert_eq!(world.take(client), [0x90, 4, 0, 2, 0, 0x8F], "too many levels");
        if shards == 1 {
            world.send(client, b"\x82\x08\x00\x03\x00\x00\x02t2\x00");
            assert_eq!(world.take(client), [0x90, 4, 0, 3, 0, 0x97]);
        }
        let late = world.open(0);
        world.send(late, b"\x10\x0E\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01y");
        assert_eq!(world.take(late), [0x20, 3, 0, 0x89, 0]);
        // What was there is still there.
        world.send(client, b"\x82\x07\x00\x05\x00\x00\x01b\x00");
        let bytes = world.take(client);
        assert!(shards == 2 || bytes == [0x90, 4, 0, 5, 0, 0x97], "{bytes:02X?}");
        config.limits = Config::default().limits;
        world.change(&config);
        world.send(client, b"\x82\x07\x00\x06\x00\x00\x01b\x00");
        let bytes = world.take(client);
        assert!(
            bytes.starts_with(&[0x90, 4, 0, 6, 0, 0]) && bytes.ends_with(&[1, b'b', 0, b'.']),
            "{bytes:02X?}"
        );
    }
}

#[test]
fn memory_has_another_bound_at_once() {
    let mut config = config();
    let mut world = World::new(2, config.clone());
    connect(&mut world, 0, "first", 0);
    config.limits.memory_bytes = 1;
    world.change(&config);
    let late = world.open(0);
    world.send(late, CONNECT_5);
    assert!(world.is_closed(late), "nothing fits");
    config.limits.memory_bytes = 0;
    world.change(&config);
    connect(&mut world, 0, "later", 0);
}

#[test]
fn connected_client_keeps_what_connack_has_told_it() {
    let mut config = config();
    config.listeners[0].topic_alias_maximum = Some(5);
    let mut world = World::new(2, config.clone());
    let mut clients = [0, 1].map(|shard| {
        let client = world.open(shard);
        world.send(client, CONNECT_5);
        world.take(client);
        client
    });
    // The second has taken the session of the first over.
    assert!(world.is_closed(clients[0]) && !world.is_closed(clients[1]));
    config.listeners[0].topic_alias_maximum = Some(2);
    config.listeners[0].receive_maximum = Some(9);
    config.protocol.subscription_identifiers = false;
    config.limits.packet_bytes = 30;
    world.change(&config);
    let alias = |alias| [0x30, 9, 0, 1, b't', 3, 0x23, 0, alias, b'.', b'.'];
    world.send(clients[1], &alias(5));
    world.send(clients[1], b"\x82\x09\x00\x01\x02\x0B\x07\x00\x01t\x00");
    assert_eq!(world.take(clients[1]), [0x90, 4, 0, 1, 0, 0], "it may use an identifier");
    world.send(clients[1], &[&[0x30, 40, 0, 1, b't', 0][..], &[b'.'; 36]].concat());
    assert!(!world.is_closed(clients[1]));
    clients[0] = world.open(0);
    world.send(clients[0], CONNECT_5);
    let connack = world.take(clients[0]);
    for announced in [&[0x21, 0, 9][..], &[0x22, 0, 2], &[0x27, 0, 0, 0, 30], &[0x29, 0]] {
        assert!(connack.windows(announced.len()).any(|part| part == announced), "{connack:02X?}");
    }
    world.send(clients[0], &alias(5));
    assert_eq!((world.take(clients[0])[2], world.is_closed(clients[0])), (0x94, true));
}

#[test]
fn policy_of_a_queue_changes_for_sessions_that_are_there() {
    let mut config = config();
    config.limits.session_queue_messages = 1;
    config.limits.session_queue_policy = QueuePolicy::DropNewest;
    let mut world = World::new(1, config.clone());
    let away = world.open(0);
    let connect_kept = b"\x10\x10\x00\x04MQTT\x04\x00\x00\x3C\x00\x04away";
    world.send(away, connect_kept);
    world.send(away, b"\x82\x06\x00\x01\x00\x01t\x01");
    world.take(away);
    world.hang_up(away, Hangup::Closed);
    config.limits.session_queue_policy = QueuePolicy::DropOldest;
    world.change(&config);
    let publisher = connect(&mut world, 0, "publisher", 0);
    for text in [b'1', b'2'] {
        world.send(publisher, &[0x32, 6, 0, 1, b't', 0, text, text]);
    }
    let back = world.open(0);
    world.send(back, connect_kept);
    assert!(world.take(back).ends_with(b"t\x00\x01\x32"), "the newest one has stayed");
}

#[test]
fn clients_of_a_removed_listener_are_disconnected_in_every_stage() {
    for shards in [1, 2, 7] {
        let mut config = config();
        config
            .listeners
            .push(Listener { address: crate::settings::Address::loopback(7), ..Listener::default() });
        let mut world = World::new(shards, config.clone());
        let stays = connect(&mut world, 0, "stays", 60);
        world.listener = 1;
        let mut leave = Vec::new();
        for number in 0..20 {
            let client = world.open(number % shards);
            let id = u8::try_from(number).expect("a digit") + b'a';
            world.send(client, &[&CONNECT_5[..CONNECT_5.len() - 1], &[id]].concat());
            assert_eq!(world.take(client)[3], 0);
            leave.push(client);
        }
        let silent = world.open(0);
        let removed = config.listeners.pop();
        world.change(&config);
        for client in leave {
            assert_eq!((world.take(client), world.is_closed(client)), (vec![0xE0, 1, 0x98], true));
        }
        assert!(world.is_closed(silent) && !world.is_closed(stays));
        let ended =
            |event: &&Event| matches!(event, Event::Disconnected { cause: EndCause::ListenerRemoved, .. });
        assert_eq!(world.events.iter().filter(ended).count(), 20);
        assert_eq!((world.control().open_of(1), world.control().open_of(0)), (0, 1));
        config.listeners.extend(removed);
        world.change(&config);
        let back = world.open(0);
        world.send(back, CONNECT_5);
        assert_eq!(world.take(back)[3], 0);
    }
}
