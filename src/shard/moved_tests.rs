//! What those who move in from mosquitto find as it was there.

use super::Hangup;
use super::kept_tests::connect_kept;
use super::world::World;
use crate::auth::access::Access;
use crate::auth::acl::{Acl, Actions, Effect, Rule, Subscribing, Who};
use crate::config::Config;

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

/// CONNECT of 5.0 whose session is kept, with these properties more.
fn connect_5(client_id: &str, properties: &[u8]) -> Vec<u8> {
    let properties = [b"\x11\x00\x00\x03\xE8".as_slice(), properties].concat();
    let length = [u8::try_from(properties.len()).unwrap()];
    packet(0x10, &[b"\x00\x04MQTT\x05\x00\x00\x3C", &length, &properties, &string(client_id)])
}

/// Everyone may do this with all topics.
fn everyone_may(actions: Actions) -> Access {
    let rule = Rule {
        who: Who::Everyone,
        clients: Vec::new(),
        effect: Effect::Allow,
        actions,
        topics: vec!["#".to_owned()],
    };
    let acl = Acl::new(Effect::Deny, Subscribing::Filtered, &[rule]).expect("good rules");
    Access { acl: Some(acl), ..Access::default() }
}

const PINGRESP: &[u8] = b"\xD0\x00";

/// Sends the messages to a topic, each with QoS 1.
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

    // Too large for the client, which lets 40 bytes come.
    let client = world.open(0);
    world.send(client, &connect_5("c", b"\x27\x00\x00\x00\x28"));
    world.take(client);
    world.send(client, b"\x82\x07\x00\x01\x00\x00\x01t\x01");
    world.take(client);
    publish(&mut world, "t", &["much too long for the client, by far and more", "short"]);
    assert_eq!(world.take(client), b"\x32\x0B\x00\x01t\x00\x02\x00short");
    world.send(client, b"\x40\x02\x00\x02");

    // Expired while it waited.
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

    // Expired, and found to be so by the next message for the queue.
    world.hang_up(client, Hangup::Closed);
    world.send(publisher, &expiring("soon gone"));
    world.pass(2000);
    publish(&mut world, "t", &["alive"]);
    let client = world.open(0);
    world.send(client, &connect_5("c", b""));
    assert!(world.take(client).ends_with(b"\x32\x0B\x00\x01t\x00\x06\x00alive"));
    world.send(client, b"\x40\x02\x00\x06");

    // Not the client's to have any more.
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
