//! Listeners with terms of their own, in one broker.

use super::Hangup;
use super::world::World;
use crate::config::{Config, Listener, QueuePolicy};

/// Of the second listener.
const OWN: u16 = 1;

fn world(own: Listener) -> World {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.limits.session_queue_messages = 1;
    config.listeners.push(own);
    World::new(2, config)
}

const CONNECT_5: &[u8] = b"\x10\x0E\x00\x04MQTT\x05\x02\x00\x3C\x00\x00\x01c";

/// CONNECT of 3.1.1 with clean session 0.
fn connect_kept(world: &mut World, listener: u16, client_id: &str) -> usize {
    world.listener = listener;
    let client = world.open(0);
    let mut packet = vec![0x10, 12 + u8::try_from(client_id.len()).unwrap()];
    packet.extend_from_slice(b"\x00\x04MQTT\x04\x00\x00\x3C\x00");
    packet.push(u8::try_from(client_id.len()).unwrap());
    packet.extend_from_slice(client_id.as_bytes());
    world.send(client, &packet);
    client
}

#[test]
fn a_full_queue_is_what_the_listener_of_its_session_says_it_is() {
    let mut world =
        world(Listener { session_queue_policy: Some(QueuePolicy::DropOldest), ..Listener::default() });
    for (listener, name) in [(0, "refuses"), (OWN, "drops")] {
        let subscriber = connect_kept(&mut world, listener, name);
        let subscribe = [b"\x82\x08\x00\x01\x00\x03a/".as_slice(), &[b'0' + listener as u8, 1]].concat();
        world.send(subscriber, &subscribe);
        assert_eq!(world.take(subscriber), b"\x20\x02\x00\x00\x90\x03\x00\x01\x01");
        world.hang_up(subscriber, Hangup::Closed);
    }
    // The publisher's own listener has no say in it.
    for (listener, topic, second) in [(OWN, b'0', false), (0, b'1', true)] {
        let publisher = connect_kept(&mut world, listener, "publisher");
        world.take(publisher);
        for (text, id) in [(b'x', 1), (b'y', 2)] {
            world.send(publisher, &[0x32, 8, 0, 3, b'a', b'/', topic, 0, id, text]);
        }
        let both = b"\x40\x02\x00\x01\x40\x02\x00\x02";
        assert_eq!(world.take(publisher), if second { &both[..] } else { &both[..4] });
        assert_eq!(world.is_closed(publisher), !second);
    }
    let drops = connect_kept(&mut world, OWN, "drops");
    assert_eq!(world.take(drops), b"\x20\x02\x01\x00\x32\x08\x00\x03a/1\x00\x01y");
}

#[test]
fn what_a_listener_announces_is_its_own_and_enforced() {
    let own = Listener {
        receive_maximum: Some(5),
        maximum_qos: Some(1),
        retain_available: Some(false),
        topic_alias_maximum: Some(3),
        packet_bytes: Some(40),
        keep_alive_seconds_max: Some(30),
        wildcard_subscriptions: Some(false),
        shared_subscriptions: Some(false),
        ..Listener::default()
    };
    let mut world = world(own);
    let broken: [&[u8]; 6] = [
        // QoS 2.
        b"\x34\x08\x00\x01a\x00\x07\x00hi",
        // Retain.
        b"\x31\x06\x00\x01a\x00hi",
        // Topic alias 4.
        b"\x30\x09\x00\x01a\x03\x23\x00\x04hi",
        // 41 bytes.
        &[&b"\x30\x27\x00\x01a\x00"[..], &[b'x'; 35]].concat(),
        // A wildcard.
        b"\x82\x07\x00\x01\x00\x00\x01#\x00",
        // A shared subscription.
        b"\x82\x10\x00\x01\x00\x00\x0A$share/g/a\x00",
    ];
    let reasons = [0x9B, 0x9A, 0x94, 0x95, 0xA2, 0x9E];
    for (packet, reason) in broken.into_iter().zip(reasons) {
        for listener in [0, OWN] {
            world.listener = listener;
            let client = world.open(0);
            world.send(client, CONNECT_5);
            let connack = world.take(client);
            let told = |property: &[u8]| connack.windows(property.len()).any(|window| window == property);
            let own: [&[u8]; 7] = [
                b"\x21\x00\x05",
                b"\x24\x01",
                b"\x25\x00",
                b"\x22\x00\x03",
                b"\x27\x00\x00\x00\x28",
                b"\x13\x00\x1E",
                b"\x28\x00",
            ];
            for property in own {
                assert_eq!(told(property), listener == OWN, "{property:x?} in {connack:x?}");
            }
            world.send(client, packet);
            let answer = world.take(client);
            let refused = answer.first() == Some(&0xE0) && answer.get(2) == Some(&reason);
            assert_eq!(refused, listener == OWN, "{packet:x?} at listener {listener}: {answer:x?}");
        }
    }
}

#[test]
fn a_listener_may_take_one_version_only_and_no_anonymous_client() {
    let own: Listener = Listener { allow_anonymous: Some(false), ..Listener::default() };
    let mut refusing = world(own);
    let client = connect_kept(&mut refusing, OWN, "c");
    assert_eq!(refusing.take(client), b"\x20\x02\x00\x05");
    let client = connect_kept(&mut refusing, 0, "c");
    assert_eq!(refusing.take(client), b"\x20\x02\x00\x00");

    let versions = crate::config::Versions::of(&[crate::config::Version::V5]);
    let mut only_5 = world(Listener { versions, ..Listener::default() });
    let client = connect_kept(&mut only_5, OWN, "c");
    assert_eq!(only_5.take(client), b"\x20\x02\x00\x01");
    only_5.listener = OWN;
    let client = only_5.open(0);
    only_5.send(client, CONNECT_5);
    assert_eq!(only_5.take(client)[3], 0);
}
