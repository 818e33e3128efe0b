//! Topic aliases in both directions.

use crate::prelude::*;

/// The Topic Alias Maximum in a CONNACK.
fn announced(peer: &Client) -> u16 {
    peer.connack.as_ref().and_then(|connack| connack.number(TOPIC_ALIAS_MAXIMUM)).unwrap_or(0) as u16
}

/// [MQTT5-3.3.2-12] [MQTT5-§3.3.4#2] [MQTT5-property-0x22] [MQTT5-property-0x23]
pub fn every_announced_alias_can_be_bound_and_used(broker: &Broker) {
    let stem = broker.unique("bind");
    let mut watcher = broker.client(V5);
    watcher.subscribe(format!("{stem}/#"), 1);
    let mut peer = broker.client(V5);
    let maximum = announced(&peer);
    assert!(maximum > 0, "the default configuration allows aliases");
    for alias in 1..=maximum {
        peer.publish(publish(format!("{stem}/{alias}"), "bound").alias(alias).qos1(1));
        let message = watcher.expect_message(&format!("{stem}/{alias}"), "bound");
        watcher.acknowledge(&message);
    }
    for alias in 1..=maximum {
        peer.publish(publish("", "used").alias(alias).qos(alias as u8 % 3, 1));
        let message = watcher.expect_message(&format!("{stem}/{alias}"), "used");
        watcher.acknowledge(&message);
    }
    peer.publish(publish(format!("{stem}/rebound"), "1").alias(1));
    watcher.expect_message(&format!("{stem}/rebound"), "1");
    peer.publish(publish("", "2").alias(1));
    watcher.expect_message(&format!("{stem}/rebound"), "2");
}

/// [MQTT5-3.3.2-8] [MQTT5-3.3.2-9] [MQTT5-3.2.2-17] [MQTT5-reason-0x94] [PITFALL-35] [PITFALL-39]
pub fn alias_0_and_above_the_maximum_are_invalid(broker: &Broker) {
    let topic = broker.unique("invalid");
    let mut watcher = broker.client(V5);
    watcher.subscribe(&topic, 0);
    let maximum = announced(&broker.client(V5));
    for alias in [0, maximum + 1, 65_535] {
        for name in [&topic[..], ""] {
            let mut peer = broker.client(V5);
            peer.send(publish(name, "x").alias(alias));
            peer.expect_disconnect(&[0x94]);
        }
    }
    let Some(tight) = broker.with(&TIGHT) else { return };
    let mut peer = tight.client(V5);
    assert_eq!(announced(&peer), 3);
    peer.publish(publish(&topic, "fine").alias(3));
    peer.send(publish(&topic, "x").alias(4));
    peer.expect_disconnect(&[0x94]);
    watcher.expect_nothing();
}

/// [MQTT5-3.2.2-18] [PITFALL-35]
pub fn any_alias_is_invalid_when_none_was_announced(broker: &Broker) {
    let Some(broker) = broker.with(&BARE) else { return };
    let mut peer = broker.client(V5);
    assert_eq!(announced(&peer), 0);
    peer.send(publish(broker.unique("none"), "x").alias(1));
    peer.expect_disconnect(&[0x94]);
}

/// [MQTT5-§3.3.4] [PITFALL-36]
pub fn alias_without_binding_is_a_protocol_error(broker: &Broker) {
    for qos in 0..=2 {
        let mut peer = broker.client(V5);
        peer.send(publish("", "x").alias(1).qos(qos, 1));
        peer.expect_disconnect(&[0x82]);
    }
}

/// [MQTT5-3.3.2-7] [MQTT5-§3.1.2.11.3]
pub fn bindings_die_with_the_connection(broker: &Broker) {
    let (topic, id) = (broker.unique("die"), broker.unique("die"));
    let mut peer = broker.connect(connect(V5, &id).lasting());
    peer.publish(publish(&topic, "x").alias(1).qos1(1));
    peer.vanish();
    let (mut peer, present) = broker.connect_present(connect(V5, &id).lasting());
    assert!(present);
    peer.send(publish("", "x").alias(1));
    peer.expect_disconnect(&[0x82]);
}

/// A PUBLISH that is refused still binds, because its sender can't know. [MQTT5-§3.3.4#2] [PITFALL-36]
pub fn alias_of_a_refused_message_is_bound(broker: &Broker) {
    let topic = broker.unique("after");
    let mut watcher = broker.client(V5);
    watcher.subscribe(&topic, 0);
    let mut peer = broker.client(V5);
    assert_eq!(peer.publish(publish("$SYS/refused", "x").alias(1).qos1(1)), 0x87);
    assert_eq!(peer.publish(publish("", "x").alias(1).qos1(1)), 0x87);
    peer.publish(publish(&topic, "fine").alias(1).qos1(1));
    peer.publish(publish("", "fine").alias(1).qos1(1));
    assert_eq!(watcher.collect(2), ["fine", "fine"]);
}

/// [MQTT5-3.3.2-11] [MQTT5-3.1.2-26] [MQTT5-3.1.2-27] [MQTT5-§3.3.4#3] [MQTT5-property-0x22] [PITFALL-36]
pub fn broker_never_uses_an_alias_above_the_clients_maximum(broker: &Broker) {
    let stem = broker.unique("out");
    let mut peers = Vec::new();
    for maximum in [None, Some(0), Some(2), Some(65_535)] {
        let wanted = connect(V5, broker.unique("out"));
        let mut peer = broker.connect(match maximum {
            Some(maximum) => wanted.with(two(TOPIC_ALIAS_MAXIMUM, maximum)),
            None => wanted,
        });
        peer.subscribe(format!("{stem}/#"), 1);
        peers.push((maximum.unwrap_or(0), peer));
    }
    let mut publisher = broker.client(V5);
    for round in 0..3 {
        for at in 0..30 {
            publisher.publish(publish(format!("{stem}/{at}"), format!("{round}.{at}")).qos1(1));
        }
    }
    for (maximum, peer) in &mut peers {
        for round in 0..3 {
            for at in 0..30 {
                // The reader resolves aliases, and fails if one is not bound or too high.
                let message = peer.expect_message(&format!("{stem}/{at}"), format!("{round}.{at}"));
                peer.acknowledge(&message);
                assert!(*maximum > 0 || !message.has(TOPIC_ALIAS));
            }
        }
    }
}

/// The alias of a message that is too large for its receiver does not count as bound. [PITFALL-36]
/// [MQTT5-§3.3.4#3]
pub fn dropped_message_binds_no_alias(broker: &Broker) {
    let topic = broker.unique("dropped");
    let wanted = connect(V5, broker.unique("dropped"));
    let mut peer =
        broker.connect(wanted.with(two(TOPIC_ALIAS_MAXIMUM, 5)).with(four(MAXIMUM_PACKET_SIZE, 100)));
    peer.subscribe(&topic, 1);
    let mut publisher = broker.client(V5);
    for payload in ["x".repeat(200), "one".into(), "y".repeat(300), "two".into(), "three".into()] {
        publisher.publish(publish(&topic, payload).qos1(1));
    }
    assert_eq!(peer.collect(3), ["one", "two", "three"]);
}

/// [MQTT5-§3.3.2.3.4]
pub fn alias_spaces_of_both_sides_are_independent(broker: &Broker) {
    let (up, down) = (broker.unique("up"), broker.unique("down"));
    let mut watcher = broker.client(V5);
    watcher.subscribe(&up, 0);
    let mut peer = broker.connect(connect(V5, broker.unique("both")).with(two(TOPIC_ALIAS_MAXIMUM, 1)));
    peer.subscribe(&down, 0);
    let mut publisher = broker.client(V5);
    publisher.send(publish(&down, "d1"));
    peer.expect_message(&down, "d1");
    peer.send(publish(&up, "u1").alias(1));
    publisher.send(publish(&down, "d2"));
    peer.expect_message(&down, "d2");
    peer.send(publish("", "u2").alias(1));
    assert_eq!(watcher.collect(2), ["u1", "u2"]);
}

/// [MQTT5-§3.3.4#3] [PITFALL-36]
pub fn resent_messages_have_a_topic_on_the_new_connection(broker: &Broker) {
    let (topic, id) = (broker.unique("again"), broker.unique("again"));
    let wanted = || connect(V5, &id).lasting().with(two(TOPIC_ALIAS_MAXIMUM, 5));
    let mut peer = broker.connect(wanted());
    peer.subscribe(&topic, 1);
    let mut publisher = broker.client(V5);
    for at in 0..4 {
        publisher.publish(publish(&topic, format!("{at}")).qos1(1));
        peer.expect_message(&topic, format!("{at}"));
    }
    peer.vanish();
    let mut peer = broker.connect(wanted());
    for at in 0..4 {
        assert!(peer.expect_message(&topic, format!("{at}")).duplicate);
    }
}
