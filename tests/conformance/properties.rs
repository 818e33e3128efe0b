//! Properties of PUBLISH that are carried unchanged, and those that are checked.

use crate::prelude::*;

/// [MQTT5-3.3.2-4] [MQTT5-3.3.2-15] [MQTT5-3.3.2-16] [MQTT5-3.3.2-17] [MQTT5-3.3.2-18] [MQTT5-3.3.2-20]
/// [MQTT5-§1.5.6] [MQTT5-1.5.7-1] [MQTT5-§1.5.2] [MQTT5-§4.10] [MQTT5-property-0x01] [MQTT5-property-0x02]
/// [MQTT5-property-0x03] [MQTT5-property-0x08] [MQTT5-property-0x09] [MQTT5-property-0x26]
pub fn properties_are_forwarded_unaltered(broker: &Broker) {
    let topic = broker.unique("props");
    let mut peer = broker.client(V5);
    peer.subscribe(&topic, 2);
    let mut publisher = broker.client(V5);
    for qos in 0..=2 {
        let full = publish(&topic, "payload")
            .qos(qos, 3)
            .with(pair("a", "1"))
            .with(byte(PAYLOAD_FORMAT, 1))
            .with(four(MESSAGE_EXPIRY, 0x0102))
            .with(pair("b", ""))
            .with(text(CONTENT_TYPE, "text/plain; é"))
            .with(text(RESPONSE_TOPIC, "reply/to/me"))
            .with(text(CORRELATION_DATA, [0x00, 0xFF, 0x80]))
            .with(pair("a", "2"))
            .with(pair("", ""))
            .with(pair("a", "1"));
        publisher.publish(full);
        let message = peer.expect_message(&topic, "payload");
        peer.acknowledge(&message);
        assert_eq!(message.pairs(), ["a=1", "b=", "a=2", "=", "a=1"]);
        assert_eq!(message.number(PAYLOAD_FORMAT), Some(1));
        assert!(matches!(message.number(MESSAGE_EXPIRY), Some(250..=258)), "big-endian, minus waiting time");
        assert_eq!(message.text(CONTENT_TYPE), Some("text/plain; é".as_bytes()));
        assert_eq!(message.text(RESPONSE_TOPIC), Some(&b"reply/to/me"[..]));
        assert_eq!(message.text(CORRELATION_DATA), Some(&[0x00, 0xFF, 0x80][..]));
    }
    publisher.publish(publish(&topic, "bare").qos1(4));
    let message = peer.expect_message(&topic, "bare");
    assert!(message.properties.is_empty(), "what was absent stays absent");
    publisher.publish(
        publish(&topic, "zero").qos1(5).with(byte(PAYLOAD_FORMAT, 0)).with(text(CORRELATION_DATA, "")),
    );
    let message = peer.expect_message(&topic, "zero");
    assert!(message.number(PAYLOAD_FORMAT).is_none_or(|format| format == 0));
    assert_eq!(message.text(CORRELATION_DATA), Some(&b""[..]));
}

/// The same through a queue and a retained message. [MQTT5-3.3.2-17] [MQTT5-3.3.2-18] [MQTT5-4.5.0-1]
pub fn properties_survive_the_queue_and_retention(broker: &Broker) {
    let topic = broker.unique("props");
    let id = broker.unique("props");
    let mut peer = broker.connect(connect(V5, &id).lasting());
    peer.subscribe(&topic, 1);
    peer.leave();
    let full = publish(&topic, "kept").qos1(1).retain().with(pair("z", "1")).with(pair("a", "2"));
    broker.client(V5).publish(full.with(text(CORRELATION_DATA, [0, 1])).with(text(RESPONSE_TOPIC, "r")));
    let mut peer = broker.connect(connect(V5, &id).lasting());
    let queued = peer.expect_message(&topic, "kept");
    peer.acknowledge(&queued);
    peer.subscribe(&topic, 1);
    let retained = peer.expect_message(&topic, "kept");
    for message in [queued, retained] {
        assert_eq!(message.pairs(), ["z=1", "a=2"]);
        assert_eq!(message.text(CORRELATION_DATA), Some(&[0, 1][..]));
        assert_eq!(message.text(RESPONSE_TOPIC), Some(&b"r"[..]));
    }
}

/// [MQTT5-3.3.2-14] [MQTT5-property-0x08]
pub fn response_topic_is_a_topic_name(broker: &Broker) {
    let topic = broker.unique("response");
    let mut watcher = broker.client(V5);
    watcher.subscribe(&topic, 0);
    for wrong in ["reply/#", "+", "a/+/b", ""] {
        let mut peer = broker.client(V5);
        peer.send(publish(&topic, "x").with(text(RESPONSE_TOPIC, wrong)));
        peer.expect_disconnect(&[0x81, 0x82, 0x90]);
        let mut peer = broker.open(V5);
        let will = will(&topic, "x").with(text(RESPONSE_TOPIC, wrong));
        peer.send(connect(V5, broker.unique("response")).will(will));
        peer.expect_refused(&[0x81, 0x82, 0x90]);
    }
    watcher.expect_nothing();
}

/// [PITFALL-37] [MQTT5-property-0x01] [MQTT5-property-0x02] [MQTT5-property-0x03] [MQTT5-property-0x08]
/// [MQTT5-property-0x09] [MQTT5-property-0x23] [MQTT5-property-0x1F] [MQTT5-§3.8.2.1.2] [MQTT5-§3.15.2.2.2]
/// [MQTT5-property-0x0B] [MQTT5-property-0x15] [MQTT5-property-0x16]
pub fn properties_come_once(broker: &Broker) {
    let twice = |once: &str| format!("{:02X} {once} {once}", 2 * bytes(once).len());
    let mut said = Vec::new();
    for once in ["01 01", "02 00000005", "03 'a'", "08 'a'", "09 'a'", "23 0001"] {
        said.push(format!("30 * 'once' {} `x`", twice(once)));
    }
    said.push(format!("82 * 0001 {} 'once' 00", twice("0B 05")));
    for first in ["40", "50", "62", "70"] {
        said.push(format!("{first} * 0001 00 {}", twice("1F 'a'")));
    }
    said.push(format!("E0 * 00 {}", twice("1F 'a'")));
    said.push(format!("E0 * 00 {}", twice("11 00000000")));
    each(said, |said| {
        let mut peer = broker.client(V5);
        peer.send(&said[..]);
        peer.expect_disconnect(&[0x82]);
    });
}

/// [MQTT5-property-0x26] [MQTT5-property-0x1F]
pub fn user_properties_and_reason_strings_are_accepted_where_they_may_be(broker: &Broker) {
    let topic = broker.unique("up");
    let twice = "0C 26 'a' '' 26 'a' ''";
    let mut peer = broker.connect(connect(V5, broker.unique("up")).with(pair("", "")).with(pair("", "")));
    peer.send(format!("82 * 0001 {twice} '{topic}' 02"));
    assert_eq!(peer.expect(Suback).codes, [2]);
    peer.publish(publish(&topic, "x").qos1(5));
    let id = peer.expect_message(&topic, "x").id;
    peer.send(format!("40 * {id:04X} 00 0D 1F 'ok' 26 'a' 'bb'"));
    peer.send(publish(&topic, "y").qos2(5));
    peer.find(Pubrec);
    peer.send(format!("62 * 0005 00 {twice}"));
    peer.find(Pubcomp);
    let id = peer.expect_message(&topic, "y").id;
    peer.send(format!("50 * {id:04X} 00 {twice}"));
    peer.find(Pubrel);
    peer.send(format!("70 * {id:04X} 00 {twice}"));
    peer.send(format!("A2 * 0002 {twice} '{topic}'"));
    assert_eq!(peer.find(Unsuback).codes, [0]);
    peer.ping();
    peer.send(format!("E0 * 00 {twice}"));
    peer.expect_closed();
}

/// DISCONNECT lists Server Reference, which only a server may send. [MQTT5-property-0x1C]
pub fn server_reference_from_a_client_is_refused(broker: &Broker) {
    let topic = broker.unique("moved");
    let mut watcher = broker.client(V5);
    watcher.subscribe(&topic, 0);
    let mut peer = broker.connect(connect(V5, broker.unique("moved")).will(will(&topic, "lost")));
    peer.send("E0 * 00 04 1C 'a'");
    peer.expect_disconnect(&[0x81, 0x82]);
    watcher.expect_message(&topic, "lost");
}

/// [MQTT5-3.3.2-5] [MQTT5-3.3.2-6] [MQTT5-property-0x02] [MQTT5-§3.3.2.3.3] [PITFALL-18]
pub fn message_expiry_runs_while_a_message_waits(broker: &Broker) {
    for version in [V5, V311] {
        let (topic, id) = (broker.unique("expiry"), broker.unique("expiry"));
        let mut peer = broker.connect(connect(version, &id).lasting());
        peer.subscribe(&topic, 1);
        peer.leave();
        let mut publisher = broker.client(V5);
        publisher.publish(publish(&topic, "short").qos1(1).with(four(MESSAGE_EXPIRY, 1)));
        publisher.publish(publish(&topic, "gone at once").qos1(2).with(four(MESSAGE_EXPIRY, 0)));
        publisher.publish(publish(&topic, "long").qos1(3).with(four(MESSAGE_EXPIRY, 60)));
        publisher.publish(publish(&topic, "for ever").qos1(4));
        broker.sleep(Duration::from_millis(2500));
        let mut peer = broker.connect(connect(version, &id).lasting());
        let message = peer.expect_message(&topic, "long");
        if version == V5 {
            assert!(
                matches!(message.number(MESSAGE_EXPIRY), Some(1..=58)),
                "{:?}",
                message.number(MESSAGE_EXPIRY)
            );
        }
        peer.acknowledge(&message);
        let message = peer.expect_message(&topic, "for ever");
        assert!(!message.has(MESSAGE_EXPIRY));
        peer.acknowledge(&message);
        peer.expect_nothing();
    }
}

/// [MQTT5-3.1.2-29] [PITFALL-49] [MQTT5-property-0x17]
pub fn problem_information_0_keeps_acks_without_properties(broker: &Broker) {
    let mut peer = broker.connect(connect(V5, broker.unique("rpi")).with(byte(REQUEST_PROBLEM, 0)));
    let bare = |peer: &mut Client, kind: Kind| {
        let answer = peer.find(kind);
        assert!(answer.properties.is_empty(), "{kind:?} has properties");
    };
    peer.send(publish("$SYS/denied", "x").qos1(1));
    bare(&mut peer, Puback);
    peer.send(publish("$SYS/denied", "x").qos2(2));
    bare(&mut peer, Pubrec);
    peer.send(pubrel(77));
    bare(&mut peer, Pubcomp);
    peer.send(pubrec(78));
    bare(&mut peer, Pubrel);
    peer.send(subscribe(3).filter(vec![b'/'; 300], 0));
    bare(&mut peer, Suback);
    peer.send(unsubscribe(4).filter("not/there"));
    bare(&mut peer, Unsuback);
}
