//! Behaviour that users of mosquitto find unchanged.

use super::kept::connect_kept;
use crate::broker::Hangup;
use crate::broker::world::{World, slot};
use crate::policy::access::{Access, Grant, Verdict};
use crate::policy::acl::{Acl, Actions, Rule, RuleEffect, Subscribing, Who};
use crate::settings::{Config, Listener};

fn config() -> Config {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config
}

fn string(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    [&length, text.as_bytes()].concat()
}

fn packet(first_byte: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    [&[first_byte, u8::try_from(body.len()).unwrap()], body.as_slice()].concat()
}

/// CONNECT of 5.0 with a persistent session and further properties.
fn connect_5(client_id: &str, properties: &[u8]) -> Vec<u8> {
    let properties = [b"\x11\x00\x00\x03\xE8".as_slice(), properties].concat();
    let length = [u8::try_from(properties.len()).unwrap()];
    packet(0x10, &[b"\x00\x04MQTT\x05\x00\x00\x3C", &length, &properties, &string(client_id)])
}

/// An access list that allows everyone these actions on all topics.
fn everyone_may(actions: Actions) -> Access {
    let rule = Rule {
        who: Who::Everyone,
        clients: Vec::new(),
        effect: RuleEffect::Allow,
        actions,
        topics: vec!["#".to_owned()],
    };
    let acl = Acl::new(RuleEffect::Deny, Subscribing::Filtered, &[rule]).expect("good rules");
    Access { acl: Some(acl), ..Access::default() }
}

const PINGRESP: &[u8] = b"\xD0\x00";

/// Publishes messages to a topic, each with QoS 1.
fn publish(world: &mut World, topic: &str, texts: &[&str]) {
    let publisher = connect_kept(world, 0, "publisher");
    for (id, text) in (1..).zip(texts) {
        world.send(publisher, &packet(0x32, &[&string(topic), &[0, id], text.as_bytes()]));
    }
    world.hang_up(publisher, Hangup::Closed);
}

#[test]
fn a_message_that_is_not_sent_uses_its_packet_identifier_up() {
    let mut world = World::new(1, config());
    let expiring =
        |text: &str| packet(0x32, &[b"\x00\x01t\x00\x01\x05\x02\x00\x00\x00\x01", text.as_bytes()]);

    // The message is too large for the client, which accepts 40 bytes.
    let client = world.open(0);
    world.send(client, &connect_5("c", b"\x27\x00\x00\x00\x28"));
    world.take(client);
    world.send(client, b"\x82\x07\x00\x01\x00\x00\x01t\x01");
    world.take(client);
    publish(&mut world, "t", &["much too long for the client, by far and more", "short"]);
    assert_eq!(world.take(client), b"\x32\x0B\x00\x01t\x00\x02\x00short");
    world.send(client, b"\x40\x02\x00\x02");

    // The message expired while it waited.
    world.hang_up(client, Hangup::Closed);
    let publisher = world.open(0);
    world.send(publisher, &connect_5("expiring", b""));
    world.send(publisher, &expiring("soon gone"));
    world.pass(2000);
    let client = world.open(0);
    world.send(client, &connect_5("c", b""));
    world.take(client);
    publish(&mut world, "t", &["alive"]);
    assert_eq!(world.take(client), b"\x32\x0B\x00\x01t\x00\x04\x00alive");
    world.send(client, b"\x40\x02\x00\x04");

    // The message expired. The next message for the queue finds that.
    world.hang_up(client, Hangup::Closed);
    world.send(publisher, &expiring("soon gone"));
    world.pass(2000);
    publish(&mut world, "t", &["alive"]);
    let client = world.open(0);
    world.send(client, &connect_5("c", b""));
    assert!(world.take(client).ends_with(b"\x32\x0B\x00\x01t\x00\x06\x00alive"));
    world.send(client, b"\x40\x02\x00\x06");

    // The client may not receive the message any more.
    world.hang_up(client, Hangup::Closed);
    publish(&mut world, "t", &["withheld"]);
    world.ask(&everyone_may(Actions::PUBLISH));
    let client = world.open(0);
    world.send(client, &connect_5("c", b""));
    world.take(client);
    world.ask(&Access::default());
    publish(&mut world, "t", &["alive"]);
    assert_eq!(world.take(client), b"\x32\x0B\x00\x01t\x00\x08\x00alive");
    world.send(client, b"\xC0\x00");
    assert_eq!(world.take(client), PINGRESP);
}

/// CONNECT of 3.1.1 or 5.0 with clean session.
fn connect_as(level: u8, client_id: &str, user: Option<&str>) -> Vec<u8> {
    let flags = if user.is_some() { 0x82 } else { 0x02 };
    let head = [b"\x00\x04MQTT".as_slice(), &[level, flags, 0, 60]].concat();
    let properties: &[u8] = if level == 5 { &[0] } else { &[] };
    let user = user.map(string).unwrap_or_default();
    packet(0x10, &[&head, properties, &string(client_id), &user])
}

#[test]
fn a_user_name_can_be_the_client_identifier() {
    let mut config = config();
    config.listeners[0].user_name_as_client_id = true;
    for shards in [1, 3] {
        let mut world = World::new(shards, config.clone());
        let enter = |world: &mut World, level, client_id, user| {
            let client = world.open(0);
            world.send(client, &connect_as(level, client_id, user));
            (client, world.take(client))
        };
        let (first, connack) = enter(&mut world, 4, "a", Some("user"));
        assert_eq!(connack, b"\x20\x02\x00\x00");
        // A different user is a different client, whatever identifier it sends.
        let (_, connack) = enter(&mut world, 4, "user", Some("other"));
        assert_eq!(connack, b"\x20\x02\x00\x00");
        assert!(!world.is_closed(first));
        // [MQTT5-3.2.2-16]: a client that sends no identifier is told its identifier. A client that sends one
        // is not.
        let (second, connack) = enter(&mut world, 5, "", Some("user"));
        assert!(connack.windows(7).any(|window| window == b"\x12\x00\x04user"), "{connack:x?}");
        assert!(world.is_closed(first), "one session for each user");
        let (_, connack) = enter(&mut world, 5, "b", Some("user"));
        assert!(!connack.windows(4).any(|window| window == b"user"), "{connack:x?}");
        assert!(world.is_closed(second));
        for user in [None, Some("")] {
            assert_eq!(enter(&mut world, 4, "a", user).1, b"\x20\x02\x00\x05");
            assert_eq!(enter(&mut world, 5, "a", user).1, b"\x20\x03\x00\x87\x00");
        }
    }
}

#[test]
fn a_user_name_is_the_client_identifier_also_where_it_must_be_proved() {
    let mut config = config();
    config.listeners[0].user_name_as_client_id = true;
    let mut world = World::new(2, config.clone());
    world.ask(&Access { checks_passwords: true, ..Access::default() });
    let mut clients = Vec::new();
    for client_id in ["a", "b"] {
        let client = world.open(0);
        world.send(client, &connect_as(4, client_id, Some("user")));
        assert_eq!(&*world.logins[0].login.client_id, "user");
        world.answer(Verdict::Good(Grant { user: Some("user".into()), ..Grant::default() }));
        assert_eq!(world.take(client), b"\x20\x02\x00\x00");
        clients.push(client);
    }
    assert!(world.is_closed(clients[0]) && !world.is_closed(clients[1]));
    // A client that proves to be a different user does not get this one's session.
    let other = world.open(0);
    world.send(other, &connect_as(4, "c", Some("user")));
    world.answer(Verdict::Good(Grant { user: Some("other".into()), ..Grant::default() }));
    assert_eq!(world.take(other), b"\x20\x02\x00\x05");
    assert!(!world.is_closed(clients[1]));

    // The name in a certificate has priority over the one in CONNECT.
    let mut world = World::new(1, config);
    world.ask(&Access { names_by_certificate: true, ..Access::default() });
    let mut clients = Vec::new();
    for client_id in ["a", "b"] {
        let client = world.open(0);
        world.shard(0).handle_certificate_user(slot(client), "device".into());
        world.send(client, &connect_as(4, client_id, Some(client_id)));
        assert_eq!(world.take(client), b"\x20\x02\x00\x00");
        clients.push(client);
    }
    assert!(world.is_closed(clients[0]) && !world.is_closed(clients[1]));
}

#[test]
fn client_identifiers_can_be_asked_to_begin_so() {
    let mut config = config();
    config.auth.client_id_prefix = "a-".into();
    config
        .listeners
        .push(Listener { assigned_client_id_prefix: Some("a-auto-".into()), ..Listener::default() });
    let mut world = World::new(2, config);
    for (listener, client_id, is_in) in [
        (0, "a-1", true),
        (0, "a-", true),
        (0, "a", false),
        (0, "b-a-", false),
        (0, "", false),
        (1, "", true),
    ] {
        for (level, refusal) in [(4, &b"\x20\x02\x00\x05"[..]), (5, b"\x20\x03\x00\x87\x00")] {
            world.listener = listener;
            let client = world.open(0);
            world.send(client, &connect_as(level, client_id, None));
            let connack = world.take(client);
            let expected = if is_in { connack[3] == 0 } else { connack == refusal };
            assert!(expected, "{client_id}: {connack:x?}");
        }
    }
}

#[test]
fn qos_0_messages_can_wait_for_a_session_without_a_connection() {
    let mut config = config();
    config.protocol.queue_qos0 = true;
    config.limits.session_queue_messages = 3;
    config.limits.inflight_messages = 1;
    for shards in [1, 2] {
        let mut world = World::new(shards, config.clone());
        let subscriber = connect_kept(&mut world, 0, "subscriber");
        world.send(subscriber, b"\x82\x06\x00\x01\x00\x01t\x01");
        world.take(subscriber);
        world.hang_up(subscriber, Hangup::Closed);
        let publisher = connect_kept(&mut world, 0, "publisher");
        world.take(publisher);
        world.send(publisher, b"\x30\x04\x00\x01ta\x32\x06\x00\x01t\x00\x01b\x30\x04\x00\x01tc");
        // There is no room for more, and nobody is told.
        world.send(publisher, b"\x30\x04\x00\x01td");
        assert_eq!(world.take(publisher), b"\x40\x02\x00\x01");
        let subscriber = connect_kept(&mut world, 0, "subscriber");
        assert_eq!(world.take(subscriber), b"\x20\x02\x01\x00\x30\x04\x00\x01ta\x32\x06\x00\x01t\x00\x01b");
        // [MQTT5-4.6.0-6]: new messages go after those that wait.
        world.send(publisher, b"\x30\x04\x00\x01te");
        assert_eq!(world.take(subscriber), b"");
        world.send(subscriber, b"\x40\x02\x00\x01");
        assert_eq!(world.take(subscriber), b"\x30\x04\x00\x01tc\x30\x04\x00\x01te");
        world.send(publisher, b"\x32\x06\x00\x01t\x00\x02f\x30\x04\x00\x01tg");
        assert_eq!(
            world.take(subscriber),
            b"\x32\x06\x00\x01t\x00\x02f\x30\x04\x00\x01tg",
            "none waits any more"
        );
    }
    config.protocol.queue_qos0 = false;
    let mut world = World::new(1, config);
    let subscriber = connect_kept(&mut world, 0, "subscriber");
    world.send(subscriber, b"\x82\x06\x00\x01\x00\x01t\x01");
    world.hang_up(subscriber, Hangup::Closed);
    let publisher = connect_kept(&mut world, 0, "publisher");
    world.send(publisher, b"\x30\x04\x00\x01ta");
    let subscriber = connect_kept(&mut world, 0, "subscriber");
    assert_eq!(world.take(subscriber), b"\x20\x02\x01\x00");
}

/// What a new subscription to everything receives, without its SUBACK.
fn retained(world: &mut World) -> Vec<u8> {
    let reader = world.open(0);
    world.send(reader, &connect_as(4, "reader", None));
    world.take(reader);
    world.send(reader, b"\x82\x06\x00\x01\x00\x01#\x00");
    let got = world.take(reader);
    world.hang_up(reader, Hangup::Closed);
    got.strip_prefix(b"\x90\x03\x00\x01\x00").expect("SUBACK").to_vec()
}

/// Everyone may read everything, and the user "writer" may also write to it.
fn writer_may_write() -> Access {
    let rule = |who, actions| Rule {
        who,
        clients: Vec::new(),
        effect: RuleEffect::Allow,
        actions,
        topics: vec!["#".to_owned()],
    };
    let writer = Who::Some { anonymous: false, users: vec!["writer".into()] };
    let rules = [rule(Who::Everyone, Actions::READ), rule(writer, Actions::PUBLISH)];
    Access {
        acl: Some(Acl::new(RuleEffect::Deny, Subscribing::Filtered, &rules).expect("good rules")),
        ..Access::default()
    }
}

#[test]
fn a_retained_message_is_sent_as_long_as_its_publisher_may_publish_it() {
    let mut config = config();
    config.protocol.check_retain_source = true;
    for shards in [1, 3] {
        let mut world = World::new(shards, config.clone());
        let publisher = world.open(0);
        world.send(publisher, &connect_as(4, "before", Some("writer")));
        // Without an access list, the publisher is not checked.
        world.send(publisher, b"\x31\x04\x00\x01a1");
        world.ask(&writer_may_write());
        // Publishes in other ways: QoS 0 and 2, and a will.
        world.send(publisher, b"\x31\x04\x00\x01b2\x35\x06\x00\x01c\x00\x013\x62\x02\x00\x01");
        world.take(publisher);
        let willing = world.open(0);
        world.send(willing, b"\x10\x1B\x00\x04MQTT\x04\xA6\x00\x3C\x00\x01w\x00\x01d\x00\x014\x00\x06writer");
        world.hang_up(willing, Hangup::Reset);
        let all = b"\x31\x04\x00\x01a1\x31\x04\x00\x01b2\x31\x04\x00\x01c3\x31\x04\x00\x01d4";
        let in_order = |got: Vec<u8>| {
            let mut packets: Vec<_> = got.chunks(6).collect();
            packets.sort();
            packets.concat()
        };
        assert_eq!(in_order(retained(&mut world)), all, "{shards} shards");

        // The same holds after a power failure.
        let mut world = world.cut_power(shards, 0);
        world.ask(&everyone_may(Actions::READ));
        assert_eq!(in_order(retained(&mut world)), b"\x31\x04\x00\x01a1", "{shards} shards");
        world.ask(&writer_may_write());
        assert_eq!(in_order(retained(&mut world)), all);
        // A live message is not a retained one, and the newest publisher is checked.
        let publisher = world.open(0);
        world.send(publisher, &connect_as(4, "c", Some("writer")));
        world.send(publisher, b"\x31\x04\x00\x01a5");
        world.ask(&everyone_may(Actions::READ));
        assert_eq!(in_order(retained(&mut world)), b"");
        world.ask(&Access::default());
        assert_eq!(retained(&mut world).len(), 4 * 6);
    }
    config.protocol.check_retain_source = false;
    let mut world = World::new(1, config);
    world.ask(&writer_may_write());
    let publisher = world.open(0);
    world.send(publisher, &connect_as(4, "c", Some("writer")));
    world.send(publisher, b"\x31\x04\x00\x01b2");
    world.ask(&everyone_may(Actions::READ));
    assert_eq!(retained(&mut world), b"\x31\x04\x00\x01b2");
}
