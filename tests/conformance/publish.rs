//! PUBLISH from a client and to a client: acknowledgements, flags, and what is carried unchanged.

use crate::prelude::*;

/// [MQTT5-3.3.4-1] [MQTT5-2.2.1-2] [MQTT5-2.2.1-5] [MQTT311-3.3.4-1] [MQTT311-2.3.1-5] [MQTT311-2.3.1-6]
/// [MQTT5-3.4.2-1] [MQTT5-3.5.2-1] [MQTT5-§3.4.2.1#3] [MQTT311-§3.4–3.7] [MQTT5-reason-0x10] [MQTT31-§3.1-q]
pub fn each_qos_gets_its_acknowledgement(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("ack");
        let mut peer = broker.client(version);
        let mut watcher = broker.client(version);
        watcher.subscribe(&topic, 2);
        for id in [1, 256, 65_535] {
            peer.send(publish(&topic, "zero"));
            peer.expect_nothing_for(20);
            watcher.expect_message(&topic, "zero");
            peer.send(publish(&topic, "one").qos1(id));
            let ack = peer.expect(Puback);
            assert!(ack.id == id && ack.code == 0 && matches!(ack.bytes[1], 2 | 4));
            let message = watcher.expect_message(&topic, "one");
            watcher.acknowledge(&message);
            peer.send(publish(&topic, "two").qos2(id));
            assert_eq!(peer.expect(Pubrec).id, id);
            peer.send(pubrel(id));
            assert_eq!(peer.expect(Pubcomp).id, id);
            let message = watcher.expect_message(&topic, "two");
            watcher.acknowledge(&message);
        }
        let code = peer.publish(publish(broker.unique("nobody"), "x").qos1(9));
        assert!(code == 0 || code == 0x10, "nobody matched: {code:02X}");
        let code = peer.publish(publish(broker.unique("nobody"), "x").qos2(9));
        assert!(code == 0 || code == 0x10, "nobody matched: {code:02X}");
        if version != V5 {
            peer.send(publish(&topic, "short").qos1(3));
            assert_eq!(peer.expect(Puback).bytes, bytes("40 02 0003"));
            peer.send(publish(&topic, "short").qos2(4));
            assert_eq!(peer.expect(Pubrec).bytes, bytes("50 02 0004"));
            peer.send("62 02 0004");
            assert_eq!(peer.expect(Pubcomp).bytes, bytes("70 02 0004"));
        }
    }
}

/// [MQTT5-3.8.4-8] [MQTT311-3.8.4-6] [MQTT5-4.3.1-1] [MQTT5-4.3.2-2] [MQTT5-4.3.3-2] [MQTT311-4.3.1-1]
/// [MQTT5-reason-0x01-0x02] [MQTT5-3.3.2-3] [MQTT311-3.3.2-3]
pub fn delivery_has_the_lower_of_published_and_granted_qos(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("nine");
        let mut publisher = broker.client(version);
        for granted in 0..=2 {
            let mut peer = broker.client(version);
            assert_eq!(peer.subscribe(&topic, granted), granted);
            for published in 0..=2 {
                publisher.publish(publish(&topic, format!("{published}")).qos(published, 7));
                let message = peer.expect_message(&topic, format!("{published}"));
                assert_eq!(message.qos, published.min(granted), "published {published}, granted {granted}");
                assert!(!message.duplicate && !message.retain);
                peer.acknowledge(&message);
            }
            peer.leave();
        }
    }
}

/// [MQTT5-3.3.1-3] [MQTT311-3.3.1-3] [PITFALL-5]
pub fn dup_of_the_publisher_is_not_forwarded(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("dup");
        let mut watcher = broker.client(version);
        watcher.subscribe(&topic, 2);
        let mut peer = broker.client(version);
        peer.publish(publish(&topic, "one").qos1(1).duplicate());
        peer.publish(publish(&topic, "two").qos2(2).duplicate());
        for _ in 0..2 {
            let message = watcher.find(Publish);
            assert!(!message.duplicate);
            watcher.acknowledge(&message);
        }
    }
}

/// DUP 1 with QoS 0 ends the connection. In packets from the broker, the reader of this test rejects it.
/// [MQTT5-3.3.1-2] [MQTT311-3.3.1-2]
pub fn dup_with_qos_0_is_malformed(broker: &Broker) {
    // MQTT 3.1 does not check unused flags.
    for version in [V311, V5] {
        let mut peer = broker.client(version);
        peer.send(publish(broker.unique("dup0"), "x").duplicate());
        peer.expect_disconnect(&[0x81]);
    }
}

/// [MQTT5-3.3.2-2] [MQTT311-3.3.2-2] [MQTT5-4.7.0-1] [MQTT311-4.7.1-1]
pub fn wildcards_in_a_topic_end_the_connection(broker: &Broker) {
    for version in EVERY_VERSION {
        let stem = broker.unique("wild");
        let mut watcher = broker.client(version);
        watcher.subscribe(format!("{stem}/#"), 0);
        for tail in ["/+", "/#", "/a#b", "/a+b", "/+/x"] {
            let mut peer = broker.client(version);
            peer.send(publish(format!("{stem}{tail}"), "x"));
            peer.expect_disconnect(&[0x81]);
        }
        watcher.expect_nothing();
    }
}

/// [MQTT5-§3.3.2.1] [MQTT311-3.3.2-1] [MQTT5-4.7.3-1] [MQTT311-4.7.3-1] [PITFALL-42]
pub fn empty_topic_without_alias_is_a_protocol_error(broker: &Broker) {
    for version in EVERY_VERSION {
        for qos in 0..=2 {
            let mut peer = broker.client(version);
            peer.send(publish("", "x").qos(qos, 1));
            peer.expect_disconnect(&[0x82]);
        }
    }
}

/// [MQTT311-§3.3.3]
pub fn empty_payload_is_delivered_empty(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("empty");
        let mut peer = broker.client(version);
        peer.subscribe(&topic, 1);
        peer.publish(publish(&topic, "").qos1(1));
        peer.expect_message(&topic, "");
        peer.publish(publish(&topic, ""));
        peer.expect_message(&topic, "");
    }
}

/// Payloads with lengths around each size of Remaining Length arrive complete. [MQTT5-1.5.5-1]
pub fn payloads_of_every_length_arrive_whole(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("size");
        let mut peer = broker.client(version);
        peer.subscribe(&topic, 1);
        let head = 2 + topic.len() + 2 + usize::from(version == V5);
        for length in [127, 128, 16_383, 16_384, 100_000, 1_000_000] {
            for around in [length - head - 1, length - head, length - head + 1] {
                let payload: Vec<u8> = (0..around).map(|at| (at % 251) as u8).collect();
                peer.publish(publish(&topic, &payload).qos1(5));
                let message = peer.find(Publish);
                peer.acknowledge(&message);
                assert!(message.payload == payload, "{around} bytes of payload");
            }
        }
    }
}

/// "Unauthorized" means here that the topic is reserved for the broker; this broker has no access policy.
/// [MQTT5-§3.4.2.1] [MQTT5-§4.7.2] [MQTT5-§4.13.2] [MQTT5-reason-0x87] [MQTT5-§4.3.3#2] [MQTT5-4.3.3-9]
/// [MQTT5-machine-3]
pub fn publishing_to_reserved_topics_is_refused(broker: &Broker) {
    let mut watcher = broker.client(V5);
    watcher.subscribe("$SYS/conformance/#", 2);
    let topic = broker.unique("allowed");
    watcher.subscribe(&topic, 2);
    let mut peer = broker.client(V5);
    for reserved in ["$SYS/conformance/x", "$SYS", "$SYS/conformance"] {
        peer.send(publish(reserved, "forged"));
        assert_eq!(peer.publish(publish(reserved, "forged").qos1(1)), 0x87);
        assert_eq!(peer.publish(publish(reserved, "forged").qos2(2)), 0x87);
        peer.send(publish(reserved, "forged").retain());
        assert_eq!(peer.publish(publish(reserved, "forged").qos1(3).retain()), 0x87);
    }
    assert_eq!(peer.publish(publish(format!("$share/g/{topic}"), "forged").qos1(1)), 0x87);
    // The identifier of the refused message is free again: the next PUBLISH with it is a new message.
    peer.publish(publish(&topic, "fine").qos2(2));
    let message = watcher.expect_message(&topic, "fine");
    watcher.acknowledge(&message);
    watcher.expect_nothing();
    let mut late = broker.client(V5);
    late.subscribe("$SYS/conformance/#", 0);
    late.expect_nothing();
}

/// [MQTT311-3.3.5-2] [MQTT311-§4.7.2] [MQTT31-§3.1-p]
pub fn publishing_to_reserved_topics_is_swallowed_before_5(broker: &Broker) {
    for version in BEFORE_5 {
        let mut watcher = broker.client(version);
        watcher.subscribe("$SYS/conformance/#", 2);
        let mut peer = broker.client(version);
        peer.send(publish("$SYS/conformance/x", "forged"));
        peer.publish(publish("$SYS/conformance/x", "forged").qos1(1));
        peer.publish(publish("$SYS/conformance/x", "forged").qos2(2).retain());
        peer.ping();
        watcher.expect_nothing();
    }
}

/// [MQTT5-3.3.4-2] [MQTT5-§3.3.4#4] [MQTT311-3.3.5-1] [PITFALL-25]
pub fn overlapping_filters_respect_the_highest_qos(broker: &Broker) {
    for version in EVERY_VERSION {
        let stem = broker.unique("over");
        let topic = format!("{stem}/b");
        for order in [[0, 1, 2], [2, 1, 0]] {
            let mut peer = broker.client(version);
            let filters = [topic.clone(), format!("{stem}/+"), format!("{stem}/#")];
            for at in order {
                peer.subscribe(&filters[at], [0, 2, 1][at]);
            }
            let mut publisher = broker.client(version);
            publisher.publish(publish(&topic, "x").qos2(1));
            let mut copies = Vec::new();
            while let Some(message) = peer.find_within(Publish, Duration::from_millis(300)) {
                peer.acknowledge(&message);
                copies.push(message.qos);
            }
            copies.sort_unstable();
            assert!(copies == [2] || copies == [0, 1, 2], "copies at {copies:?}");
        }
    }
}

/// [MQTT5-3.3.4-3] [MQTT5-3.3.4-4] [MQTT5-3.3.4-5] [MQTT5-§3.3.4#5] [MQTT5-property-0x0B] [PITFALL-25]
pub fn deliveries_carry_the_identifiers_of_all_matching_subscriptions(broker: &Broker) {
    let stem = broker.unique("ids");
    let topic = format!("{stem}/b");
    let mut peer = broker.client(V5);
    let mut other = broker.client(V5);
    peer.request(subscribe(1).identifier(1).filter(&topic, 0), Suback);
    peer.request(subscribe(2).identifier(268_435_455).filter(format!("{stem}/+"), 1), Suback);
    peer.request(subscribe(3).filter(format!("{stem}/#"), 1), Suback);
    other.request(subscribe(1).identifier(77).filter(&topic, 0), Suback);
    let mut publisher = broker.client(V5);
    publisher.publish(publish(&topic, "x").qos1(1));
    let (mut all, mut copies) = (Vec::new(), 0);
    while let Some(message) = peer.find_within(Publish, Duration::from_millis(300)) {
        peer.acknowledge(&message);
        copies += 1;
        all.extend(message.identifiers());
    }
    all.sort_unstable();
    assert_eq!(all, [1, 268_435_455]);
    assert!(copies == 1 || copies == 3);
    assert_eq!(other.expect_message(&topic, "x").identifiers(), [77]);
}

/// [MQTT5-3.3.4-4]
pub fn equal_identifiers_are_repeated_in_a_single_copy(broker: &Broker) {
    let stem = broker.unique("same");
    let topic = format!("{stem}/b");
    let mut peer = broker.client(V5);
    peer.request(subscribe(1).identifier(9).filter(&topic, 0).filter(format!("{stem}/+"), 0), Suback);
    broker.client(V5).publish(publish(&topic, "x").qos1(1));
    let mut all = Vec::new();
    while let Some(message) = peer.find_within(Publish, Duration::from_millis(300)) {
        all.extend(message.identifiers());
    }
    assert_eq!(all, [9, 9]);
}

/// [MQTT5-3.3.4-6] [PITFALL-27] [MQTT5-property-0x0B]
pub fn subscription_identifier_from_a_client_is_a_protocol_error(broker: &Broker) {
    let topic = broker.unique("forged");
    let mut watcher = broker.client(V5);
    watcher.subscribe(&topic, 0);
    for qos in 0..=2 {
        let mut peer = broker.client(V5);
        peer.send(publish(&topic, "x").qos(qos, 1).with(varint(SUBSCRIPTION_ID, 5)));
        peer.expect_disconnect(&[0x82]);
    }
    watcher.expect_nothing();
}

/// [MQTT5-3.8.3-3]
pub fn no_local_hides_ones_own_messages_only(broker: &Broker) {
    let topic = broker.unique("local");
    let mut peer = broker.client(V5);
    let mut other = broker.client(V5);
    peer.subscribe(&topic, 1 | NO_LOCAL);
    other.subscribe(&topic, 1 | NO_LOCAL);
    peer.publish(publish(&topic, "mine").qos1(1));
    other.expect_message(&topic, "mine");
    peer.expect_nothing();
    other.publish(publish(&topic, "theirs").qos1(1));
    peer.expect_message(&topic, "theirs");
    peer.subscribe(&topic, 1);
    peer.publish(publish(&topic, "mine again").qos1(2));
    peer.expect_message(&topic, "mine again");
}

/// A client receives its own retained message when it subscribes: No Local filters only live messages.
/// [MQTT5-§3.8.3.1#3]
pub fn no_local_does_not_hide_retained_messages(broker: &Broker) {
    let topic = broker.unique("localretained");
    let mut peer = broker.client(V5);
    peer.publish(publish(&topic, "mine").qos1(1).retain());
    peer.subscribe(&topic, 1 | NO_LOCAL);
    assert!(peer.expect_message(&topic, "mine").retain);
}

/// [MQTT5-§3.3.4#8] [MQTT5-§4.10] [PITFALL-38]
pub fn old_subscribers_get_exact_old_bytes(broker: &Broker) {
    for version in BEFORE_5 {
        let topic = broker.unique("mixed");
        let mut old = broker.client(version);
        old.subscribe(&topic, 1);
        let mut publisher = broker.client(V5);
        let full = publish(&topic, "x").qos1(1).with(byte(PAYLOAD_FORMAT, 1)).with(text(RESPONSE_TOPIC, "r"));
        publisher.publish(full.with(pair("a", "b")).with(four(MESSAGE_EXPIRY, 60)).alias(1));
        let message = old.expect_message(&topic, "x");
        let expected = [&string(&topic)[..], &message.id.to_be_bytes(), b"x"].concat();
        assert_eq!(message.bytes, frame(0x32, &expected));
        old.acknowledge(&message);
        let mut new = broker.client(V5);
        new.subscribe(&topic, 1);
        old.publish(publish(&topic, "y").qos1(1));
        let message = new.expect_message(&topic, "y");
        assert!(message.properties.is_empty(), "a message of an old client has no properties");
    }
}

/// After a SUBACK, every new message is delivered, whichever shard it comes from. [MQTT5-§3.9] [PITFALL-47]
pub fn subscription_is_live_when_it_is_acknowledged(broker: &Broker) {
    let mut publishers: Vec<Client> = (0..8).map(|_| broker.client(V5)).collect();
    for round in 0..10 {
        let topic = broker.unique("live");
        let mut peer = broker.client(V5);
        peer.subscribe(if round % 2 == 0 { topic.clone() } else { format!("{topic}/#") }, 0);
        for publisher in &mut publishers {
            publisher.send(publish(&topic, "now"));
        }
        assert_eq!(peer.collect(8).len(), 8, "round {round}");
    }
}
