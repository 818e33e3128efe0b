//! Listeners with different terms in one broker.

use crate::broker::Hangup;
use crate::broker::world::{World, slot};
use crate::settings::{Config, Listener, QueuePolicy};

/// The second listener.
const OWN: u16 = 1;

fn world(own: Listener) -> World {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.limits.session_queue_messages = 1;
    config.limits.session_queue_policy = QueuePolicy::Refuse;
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
    // The publisher's listener does not matter.
    for (listener, topic) in [(OWN, b'0'), (0, b'1')] {
        let publisher = connect_kept(&mut world, listener, "publisher");
        world.take(publisher);
        for (text, id) in [(b'x', 1), (b'y', 2)] {
            world.send(publisher, &[0x32, 8, 0, 3, b'a', b'/', topic, 0, id, text]);
        }
        assert_eq!(world.take(publisher), b"\x40\x02\x00\x01\x40\x02\x00\x02");
    }
    let refuses = connect_kept(&mut world, 0, "refuses");
    assert_eq!(world.take(refuses), b"\x20\x02\x01\x00\x32\x08\x00\x03a/0\x00\x01x");
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

    let versions = crate::settings::Versions::of(&[crate::settings::Version::V5]);
    let mut only_5 = world(Listener { versions, ..Listener::default() });
    let client = connect_kept(&mut only_5, OWN, "c");
    assert_eq!(only_5.take(client), b"\x20\x02\x00\x01");
    only_5.listener = OWN;
    let client = only_5.open(0);
    only_5.send(client, CONNECT_5);
    assert_eq!(only_5.take(client)[3], 0);
}

#[test]
fn a_mount_point_is_before_every_topic_inside_and_in_none_outside() {
    let mut world =
        world(Listener { mount_point: "m/".into(), topic_alias_maximum: Some(2), ..Listener::default() });
    let outside = connect_kept(&mut world, 0, "outside");
    world.send(outside, b"\x82\x06\x00\x01\x00\x01#\x00");
    world.take(outside);
    let inside = connect_kept(&mut world, OWN, "inside");
    world.send(inside, b"\x82\x06\x00\x01\x00\x01#\x01\x82\x0F\x00\x02\x00\x0A$share/g/s\x00");
    assert_eq!(world.take(inside), b"\x20\x02\x00\x00\x90\x03\x00\x01\x01\x90\x03\x00\x02\x00");
    // Messages from that listener, messages from elsewhere, and a message outside the mount point.
    world.listener = OWN;
    let publisher = world.open(0);
    world.send(publisher, b"\x10\x16\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x01p\x00\x00\x01w\x00\x02by");
    world.take(publisher);
    // Topic aliases work too.
    world.send(publisher, b"\x30\x08\x00\x01a\x03\x23\x00\x011\x30\x07\x00\x00\x03\x23\x00\x012");
    for (topic, text) in [("m/b", "3"), ("b", "4"), ("m/s", "5")] {
        let len = u8::try_from(2 + topic.len() + text.len()).unwrap();
        let head = [0x30, len, 0, u8::try_from(topic.len()).unwrap()];
        world.send(outside, &[&head, topic.as_bytes(), text.as_bytes()].concat());
    }
    assert_eq!(
        world.take(inside),
        b"\x30\x04\x00\x01a1\x30\x04\x00\x01a2\x30\x04\x00\x01b3\x30\x04\x00\x01s5\x30\x04\x00\x01s5"
    );
    assert_eq!(
        world.take(outside),
        b"\x30\x06\x00\x03m/a1\x30\x06\x00\x03m/a2\x30\x06\x00\x03m/b3\x30\x04\x00\x01b4\x30\x06\x00\x03m/s5"
    );
    // The will.
    world.hang_up(publisher, Hangup::Closed);
    assert_eq!(world.take(outside), b"\x30\x07\x00\x03m/wby");
    assert_eq!(world.take(inside), b"\x30\x05\x00\x01wby");
    // UNSUBSCRIBE refers to the same filter.
    world.send(inside, b"\xA2\x05\x00\x03\x00\x01#");
    assert_eq!(world.take(inside), b"\xB0\x02\x00\x03");
    world.send(outside, b"\x30\x06\x00\x03m/b6");
    assert_eq!(world.take(inside), b"");
}

#[test]
fn a_session_keeps_the_terms_of_its_listener_when_its_connection_has_gone() {
    let mut world = World::new(1, {
        let mut config = Config::default();
        config.sys.interval_seconds = 0;
        config.persistence.directory = "of a world that is kept".into();
        config.limits.packet_bytes = 1000;
        config.listeners.push(Listener { packet_bytes: Some(500), ..Listener::default() });
        config
    });
    let mut sessions = Vec::new();
    for (listener, name) in [(0, "lax"), (OWN, "strict")] {
        let client = connect_kept(&mut world, listener, name);
        world.take(client);
        world.hang_up(client, Hangup::Closed);
        let slot = slot(client);
        let shard = world.shard(0);
        assert!(shard.connections.get(slot).is_none());
        let bytes = if listener == OWN { 500 } else { 1000 };
        let session = shard.sessions.find(name).expect("it is kept");
        assert_eq!(shard.terms_of_session(session).packet_bytes, bytes, "{name}");
        // A connection that has ended may do nothing, whatever the first listener allows.
        assert_eq!(*shard.terms(slot), crate::settings::Terms::denied(), "{name}");
        assert!(shard.access_of(slot).is_none() && !shard.may_publish(slot, "t"), "{name}");
        sessions.push(session);
    }
    assert_eq!(sessions.len(), 2);
    // After a restart it is unknown which listener a client will use.
    world.restart(1);
    for name in ["lax", "strict"] {
        let shard = world.shard(0);
        let session = shard.sessions.find(name).expect("it is kept");
        assert_eq!(*shard.terms_of_session(session), crate::settings::Terms::denied(), "{name}");
        assert!(!shard.may_subscribe(session, "t"), "{name}");
    }
    let back = connect_kept(&mut world, OWN, "lax");
    assert_eq!(world.take(back), b"\x20\x02\x01\x00");
    let session = world.shard(0).sessions.find("lax").expect("it is back");
    assert_eq!(world.shard(0).terms_of_session(session).packet_bytes, 500, "those of its last listener");
}

#[test]
fn a_will_below_a_mount_point_follows_the_rules_of_a_publish() {
    let mut world = world(Listener { mount_point: "m/".into(), ..Listener::default() });
    let outside = connect_kept(&mut world, 0, "outside");
    world.send(outside, b"\x82\x06\x00\x01\x00\x01#\x00");
    world.take(outside);
    // CONNECT with a will to $SYS/x, followed by a PUBLISH to the same topic.
    let willing = b"\x10\x18\x00\x04MQTT\x04\x06\x00\x00\x00\x01w\x00\x06$SYS/x\x00\x01y";
    world.listener = OWN;
    let client = world.open(0);
    world.send(client, willing);
    assert_eq!(world.take(client), b"\x20\x02\x00\x00");
    world.send(client, b"\x32\x0B\x00\x06$SYS/x\x00\x01z");
    assert_eq!(world.take(client), b"\x40\x02\x00\x01");
    world.hang_up(client, Hangup::Closed);
    assert_eq!(world.take(outside), b"\x30\x0B\x00\x08m/$SYS/xz\x30\x0B\x00\x08m/$SYS/xy");
    // Without a mount point both are refused.
    world.listener = 0;
    let client = world.open(0);
    world.send(client, willing);
    assert_eq!(world.take(client), b"\x20\x02\x00\x05");
}

#[test]
fn a_payload_above_the_bound_reaches_nobody_and_costs_no_connection() {
    let mut config = Config::default();
    config.limits.payload_bytes = 1;
    let mut world = World::new(2, config);
    let subscriber = connect_kept(&mut world, 0, "s");
    world.send(subscriber, b"\x82\x06\x00\x01\x00\x01t\x02");
    world.take(subscriber);
    let publisher = connect_kept(&mut world, 0, "p");
    world.take(publisher);
    world.send(publisher, b"\x30\x05\x00\x01tby\x32\x07\x00\x01t\x00\x01by\x34\x07\x00\x01t\x00\x02by");
    assert_eq!(world.take(publisher), b"\x40\x02\x00\x01\x50\x02\x00\x02");
    world.send(publisher, b"\x62\x02\x00\x02");
    assert_eq!(world.take(publisher), b"\x70\x02\x00\x02");
    let five = world.open(0);
    world.send(five, CONNECT_5);
    world.take(five);
    world
        .send(five, b"\x30\x06\x00\x01t\x00by\x32\x08\x00\x01t\x00\x01\x00by\x34\x08\x00\x01t\x00\x02\x00by");
    assert_eq!(world.take(five), b"\x40\x03\x00\x01\x95\x50\x03\x00\x02\x95");
    assert_eq!(world.take(subscriber), b"");
    world.send(five, b"\x30\x05\x00\x01t\x00b");
    assert_eq!(world.take(subscriber), b"\x30\x04\x00\x01tb");
    let willing = world.open(0);
    world.send(willing, b"\x10\x16\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x01w\x00\x00\x01t\x00\x02by");
    assert_eq!(world.take(willing), b"\x20\x03\x00\x95\x00");
    let willing = world.open(0);
    world.send(willing, b"\x10\x14\x00\x04MQTT\x04\x06\x00\x00\x00\x01w\x00\x01t\x00\x02by");
    assert_eq!(world.take(willing), b"\x20\x02\x00\x05");
}

#[test]
fn qos_can_be_upgraded_to_that_of_the_subscription() {
    let mut config = Config::default();
    config.protocol.upgrade_outgoing_qos = true;
    let mut world = World::new(2, config);
    let subscriber = connect_kept(&mut world, 0, "s");
    world.send(subscriber, b"\x82\x06\x00\x01\x00\x01t\x01");
    world.take(subscriber);
    let publisher = connect_kept(&mut world, 0, "p");
    world.send(publisher, b"\x31\x04\x00\x01tx");
    assert_eq!(world.take(subscriber), b"\x32\x06\x00\x01t\x00\x01x");
    world.send(subscriber, b"\x40\x02\x00\x01\x82\x06\x00\x02\x00\x01t\x01");
    assert_eq!(world.take(subscriber), b"\x90\x03\x00\x02\x01\x33\x06\x00\x01t\x00\x02x");
}

#[test]
fn clients_without_an_identifier_get_one_with_the_prefix_or_are_refused() {
    let mut config = Config::default();
    config.protocol.assigned_client_id_prefix = "auto-".into();
    config.listeners.push(Listener { zero_length_client_id: Some(false), ..Listener::default() });
    let mut world = World::new(2, config);
    let nameless: [&[u8]; 2] = [
        b"\x10\x0C\x00\x04MQTT\x04\x02\x00\x3C\x00\x00",
        b"\x10\x0D\x00\x04MQTT\x05\x02\x00\x3C\x00\x00\x00",
    ];
    let refusals: [&[u8]; 2] = [b"\x20\x02\x00\x02", b"\x20\x03\x00\x80\x00"];
    for (connect, refusal) in nameless.into_iter().zip(refusals) {
        world.listener = OWN;
        let refused = world.open(0);
        world.send(refused, connect);
        assert_eq!(world.take(refused), refusal);
        world.listener = 0;
        let taken = world.open(0);
        world.send(taken, connect);
        let connack = world.take(taken);
        assert_eq!(connack[3], 0);
        if connect[8] == 5 {
            let at =
                connack.windows(8).position(|window| window == b"\x12\x00\x29auto-").expect("an identifier");
            let uuid = std::str::from_utf8(&connack[at + 8..at + 44]).expect("text");
            let lengths: Vec<_> = uuid.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{uuid}");
        }
    }
}

#[test]
fn a_keep_alive_of_3x_above_the_longest_can_be_refused() {
    let mut config = Config::default();
    config.protocol.keep_alive_seconds_max = 0x3B;
    for (refused, answer) in [(false, b"\x20\x02\x00\x00"), (true, b"\x20\x02\x00\x02")] {
        config.protocol.keep_alive_refused_in_3x = refused;
        let mut world = World::new(1, config.clone());
        let client = connect_kept(&mut world, 0, "c");
        assert_eq!(world.take(client), answer);
    }
}

#[test]
fn reason_strings_can_be_left_out() {
    for (on, longer) in [(true, true), (false, false)] {
        let mut config = Config::default();
        config.protocol.reason_strings = on;
        let mut world = World::new(1, config);
        let client = world.open(0);
        world.send(client, CONNECT_5);
        world.take(client);
        // Topic alias 11.
        world.send(client, b"\x30\x09\x00\x01a\x03\x23\x00\x0Bhi");
        let farewell = world.take(client);
        assert_eq!((farewell[0], farewell[2], farewell.len() > 4), (0xE0, 0x94, longer), "{farewell:x?}");
    }
}
