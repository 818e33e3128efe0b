//! Flow control and size limits: Receive Maximum and Maximum Packet Size in both directions.

use crate::prelude::*;

/// [MQTT5-3.3.4-9] [MQTT5-3.3.4-10] [MQTT5-4.9.0-1] [MQTT5-4.9.0-2] [MQTT5-4.9.0-3] [MQTT5-§4.9] [PITFALL-33]
/// [MQTT5-property-0x21] [MQTT5-machine-8] [MQTT5-machine-10] [MQTT5-machine-11] [MQTT5-machine-15]
/// [MQTT5-3.12.4-1]
pub fn receive_maximum_bounds_what_is_unfinished(broker: &Broker) {
    let topic = broker.unique("quota");
    let mut peer = broker.connect(connect(V5, broker.unique("quota")).with(two(RECEIVE_MAXIMUM, 2)));
    peer.subscribe(&topic, 2);
    let mut publisher = broker.client(V5);
    for at in 0..8 {
        publisher.publish(publish(&topic, format!("{at}")).qos(1 + at % 2, 1));
    }
    let zero = peer.expect_message(&topic, "0");
    let one = peer.expect_message(&topic, "1");
    peer.expect_nothing();
    // Other packets flow in both directions while the quota is used up.
    peer.subscribe(broker.unique("other"), 0);
    peer.publish(publish(broker.unique("other"), "x").qos2(1));
    // A PUBREC below 0x80 frees nothing. PUBCOMP does.
    peer.send(pubrec(one.id));
    peer.expect_ack(Pubrel, one.id);
    peer.expect_nothing();
    peer.send(pubcomp(one.id));
    let two = peer.expect_message(&topic, "2");
    peer.expect_nothing();
    peer.send(puback(zero.id));
    let three = peer.expect_message(&topic, "3");
    peer.expect_nothing();
    // A PUBREC of 0x80 or above frees the identifier, and so does a PUBACK that refuses.
    peer.send(pubrec(three.id).code(0x83));
    let four = peer.expect_message(&topic, "4");
    peer.send(puback(two.id).code(0x97));
    let five = peer.expect_message(&topic, "5");
    peer.expect_nothing();
    peer.send(puback(four.id));
    let six = peer.expect_message(&topic, "6");
    peer.send(pubrec(five.id));
    peer.expect_ack(Pubrel, five.id);
    peer.send("70 03 0001 92".replace("0001", &format!("{:04X}", five.id)));
    peer.expect_message(&topic, "7");
    peer.send(puback(six.id));
    peer.expect_nothing();
}

/// Stray acknowledgements never raise the quota above its start. [MQTT5-§4.9] [MQTT5-4.9.0-2]
pub fn stray_acknowledgements_do_not_raise_the_quota(broker: &Broker) {
    let topic = broker.unique("stray");
    let mut peer = broker.connect(connect(V5, broker.unique("stray")).with(two(RECEIVE_MAXIMUM, 1)));
    peer.subscribe(&topic, 1);
    for id in 1000..1010 {
        peer.send(puback(id));
        peer.send(pubcomp(id));
    }
    let mut publisher = broker.client(V5);
    for at in 0..4 {
        publisher.publish(publish(&topic, format!("{at}")).qos1(1));
    }
    for at in 0..4 {
        let message = peer.expect_message(&topic, format!("{at}"));
        peer.expect_nothing_for(100);
        peer.send(puback(message.id));
    }
}

/// [MQTT5-§4.9#2]
pub fn qos_0_may_flow_while_the_quota_is_zero(broker: &Broker) {
    let topic = broker.unique("zero");
    let mut peer = broker.connect(connect(V5, broker.unique("zero")).with(two(RECEIVE_MAXIMUM, 1)));
    peer.subscribe(&topic, 1);
    let mut publisher = broker.client(V5);
    publisher.publish(publish(&topic, "one").qos1(1));
    publisher.publish(publish(&topic, "zero"));
    let message = peer.expect_message(&topic, "one");
    peer.ping();
    broker.sleep(Duration::from_millis(200));
    peer.send(puback(message.id));
    assert_eq!(peer.expect_message(&topic, "zero").qos, 0);
}

/// [MQTT5-§4.9#3] [MQTT5-4.9.0-1] [PITFALL-31] [MQTT5-machine-14]
pub fn resends_use_the_new_quota(broker: &Broker) {
    let (topic, id) = (broker.unique("newquota"), broker.unique("newquota"));
    let wanted = || connect(V5, &id).lasting();
    let mut peer = broker.connect(wanted());
    peer.subscribe(&topic, 2);
    let mut publisher = broker.client(V5);
    for at in 0..6 {
        publisher.publish(publish(&topic, format!("{at}")).qos(if at == 0 { 2 } else { 1 }, 1));
    }
    let first = peer.expect_message(&topic, "0");
    for at in 1..6 {
        peer.expect_message(&topic, format!("{at}"));
    }
    peer.send(pubrec(first.id));
    peer.expect_ack(Pubrel, first.id);
    peer.vanish();
    let mut peer = broker.connect(wanted().with(two(RECEIVE_MAXIMUM, 2)));
    peer.expect_ack(Pubrel, first.id);
    let one = peer.expect_message(&topic, "1");
    let second = peer.find_within(Publish, Duration::from_millis(500));
    // The broker may choose whether the pending PUBREL counts. More than two PUBLISH must never come.
    peer.expect_nothing();
    peer.send(pubcomp(first.id));
    peer.send(puback(one.id));
    let mut last = 1;
    if let Some(second) = second {
        assert_eq!(second.payload, b"2");
        peer.send(puback(second.id));
        last = 2;
    }
    for at in last + 1..6 {
        let message = peer.expect_message(&topic, format!("{at}"));
        assert!(message.duplicate);
        peer.send(puback(message.id));
    }
    peer.expect_nothing();
}

/// [MQTT5-3.3.4-7] [MQTT5-3.3.4-8] [MQTT5-§3.3.4#7] [MQTT5-reason-0x93] [PITFALL-32] [MQTT5-§3.2.2.3.3]
pub fn client_above_the_servers_receive_maximum_is_disconnected(broker: &Broker) {
    let Some(broker) = broker.with(&TIGHT) else { return };
    let topic = broker.unique("overrun");
    let mut watcher = broker.client(V5);
    watcher.subscribe(&topic, 0);
    let mut peer = broker.client(V5);
    assert_eq!(peer.connack.as_ref().and_then(|connack| connack.number(RECEIVE_MAXIMUM)), Some(2));
    for id in [1, 2] {
        peer.send(publish(&topic, format!("{id}")).qos2(id));
        peer.expect_ack(Pubrec, id);
    }
    // One identifier counts once, and other packets are served while the quota is used up.
    for id in [1, 2, 2] {
        peer.send(publish(&topic, format!("{id}")).qos2(id).duplicate());
        peer.expect_ack(Pubrec, id);
    }
    peer.ping();
    peer.subscribe(broker.unique("overrun"), 1);
    peer.send(publish(&topic, "zero"));
    peer.ping();
    peer.send(pubrel(1));
    peer.expect_ack(Pubcomp, 1);
    peer.send(publish(&topic, "3").qos2(3));
    peer.expect_ack(Pubrec, 3);
    peer.send(publish(&topic, "4").qos2(4));
    peer.expect_disconnect(&[0x93]);
    assert_eq!(watcher.collect(4), ["1", "2", "zero", "3"]);
    watcher.expect_nothing();
    // QoS 1 counts until its PUBACK, so a fast client that waits for it is never disconnected.
    let mut peer = broker.client(V5);
    for at in 0..100 {
        peer.publish(publish(&topic, format!("{at}")).qos1(1 + at % 2));
    }
    // A refused QoS 2 message no longer counts.
    for id in 1..6 {
        assert_eq!(peer.publish(publish("$SYS/refused", "x").qos2(id)), 0x87);
    }
}

/// Without a limit in CONNACK 65,535 are allowed; with one, as many as it says. [MQTT5-§3.2.2.3.3]
/// [MQTT5-3.3.4-7] [PITFALL-32]
pub fn clients_may_use_the_whole_receive_maximum(broker: &Broker) {
    let topic = broker.unique("whole");
    let mut peer = broker.client(V5);
    let maximum = peer.connack.as_ref().and_then(|connack| connack.number(RECEIVE_MAXIMUM)).unwrap_or(65_535);
    let count = maximum.min(2000) as u16;
    let burst: Vec<u8> = (1..=count).flat_map(|id| publish(&topic, "x").qos2(id).encode(V5)).collect();
    peer.send(burst);
    for id in 1..=count {
        peer.expect_ack(Pubrec, id);
    }
    let burst: Vec<u8> = (1..=count).flat_map(|id| pubrel(id).encode(V5)).collect();
    peer.send(burst);
    for id in 1..=count {
        peer.expect_ack(Pubcomp, id);
    }
    peer.ping();
}

/// [MQTT5-3.1.2-24] [MQTT5-3.1.2-25] [MQTT5-§2.1.4#2] [PITFALL-34] [MQTT5-property-0x27]
pub fn packets_above_the_clients_maximum_are_dropped_and_the_queue_goes_on(broker: &Broker) {
    let topic = broker.unique("size");
    let overhead = 2 + 2 + topic.len() + 1;
    for qos in 0..=2 {
        let limit = 100;
        let mut peer = broker.connect(
            connect(V5, broker.unique("size"))
                .with(four(MAXIMUM_PACKET_SIZE, limit))
                .with(two(RECEIVE_MAXIMUM, 2)),
        );
        peer.subscribe(&topic, qos);
        let mut publisher = broker.client(V5);
        let identifier = if qos > 0 { 2 } else { 0 };
        let exact = limit as usize - overhead - identifier;
        for (name, length) in [("a", exact), ("b", exact + 1), ("c", 500), ("d", 200), ("e", 3)] {
            publisher.publish(publish(&topic, name.repeat(length)).qos(qos, 1));
        }
        let message = peer.expect_message(&topic, "a".repeat(exact));
        assert_eq!(message.bytes.len(), limit as usize, "the whole packet is counted");
        peer.acknowledge(&message);
        let message = peer.expect_message(&topic, "eee");
        peer.acknowledge(&message);
        // Dropped messages take no place in the quota.
        for at in 0..5 {
            publisher.publish(publish(&topic, format!("{at}")).qos(qos, 1));
            let message = peer.expect_message(&topic, format!("{at}"));
            peer.acknowledge(&message);
        }
        peer.expect_nothing();
    }
}

/// The same for messages that were queued, retained, or sent with another limit before. [MQTT5-3.1.2-25]
/// [PITFALL-34] [MQTT5-§3.1.2.11.3]
pub fn queued_and_retained_messages_obey_the_clients_maximum(broker: &Broker) {
    let (topic, id) = (broker.unique("queued"), broker.unique("queued"));
    let mut peer = broker.connect(connect(V5, &id).lasting());
    peer.subscribe(&topic, 1);
    let mut publisher = broker.client(V5);
    publisher.publish(publish(&topic, "i".repeat(200)).qos1(1));
    peer.expect_message(&topic, "i".repeat(200));
    peer.vanish();
    publisher.publish(publish(&topic, "q".repeat(200)).qos1(1));
    publisher.publish(publish(&topic, "small").qos1(1));
    let mut peer = broker.connect(connect(V5, &id).lasting().with(four(MAXIMUM_PACKET_SIZE, 100)));
    let message = peer.expect_message(&topic, "small");
    peer.acknowledge(&message);
    publisher.publish(publish(&topic, "r".repeat(200)).qos1(1).retain());
    publisher.publish(publish(format!("{topic}/s"), "s").qos1(1).retain());
    peer.subscribe(format!("{topic}/#"), 1);
    let message = peer.expect_message(&format!("{topic}/s"), "s");
    peer.acknowledge(&message);
    peer.expect_nothing();
}

/// The reader refuses any packet above the announced size; the denials here are where reasons are worded.
/// [MQTT5-3.2.2-19] [MQTT5-3.2.2-20] [MQTT5-3.4.2-2] [MQTT5-3.4.2-3] [MQTT5-3.5.2-2] [MQTT5-3.5.2-3]
/// [MQTT5-3.6.2-2] [MQTT5-3.6.2-3] [MQTT5-3.7.2-2] [MQTT5-3.7.2-3] [MQTT5-3.9.2-1] [MQTT5-3.9.2-2]
/// [MQTT5-3.11.2-1] [MQTT5-3.11.2-2] [MQTT5-3.14.2-3] [MQTT5-3.14.2-4] [MQTT5-property-0x1F]
pub fn acknowledgements_fit_the_clients_maximum(broker: &Broker) {
    let small = || connect(V5, broker.unique("ack")).with(four(MAXIMUM_PACKET_SIZE, 60));
    let mut peer = broker.connect(small());
    let floor = peer.connack.as_ref().map_or(60, |connack| connack.bytes.len() as u32);
    let small = |least: u32| {
        connect(V5, broker.unique("ack"))
            .with(four(MAXIMUM_PACKET_SIZE, least))
            .with(byte(REQUEST_PROBLEM, 1))
    };
    peer.ping();
    // The bound is not below the CONNACK that a client needs, so it only affects optional parts.
    let mut peer = broker.connect(small(floor));
    peer.send(publish("$SYS/denied", "x").qos1(1));
    assert_eq!(peer.expect_ack(Puback, 1), 0x87);
    peer.send(publish("$SYS/denied", "x").qos2(2));
    assert_eq!(peer.expect_ack(Pubrec, 2), 0x87);
    peer.send(pubrel(77));
    peer.expect_ack(Pubcomp, 77);
    peer.send(pubrec(78));
    peer.expect_ack(Pubrel, 78);
    let codes = peer.request(subscribe(3).filter("/".repeat(300), 0).filter(broker.unique("ok"), 0), Suback);
    assert_eq!(codes.len(), 2);
    assert_eq!(peer.request(unsubscribe(4).filter("not/there"), Unsuback), [0x11]);
    peer.send("36 * 'a' 0001 00 `x`");
    peer.expect_disconnect(&[0x81]);
    let mut peer = broker.offer(small(20).flags(0x03));
    peer.expect_refused(&[0x81]);
}

/// [MQTT5-3.2.2-15] [MQTT5-§2.1.4#2] [MQTT5-reason-0x95] [MQTT5-property-0x27]
pub fn packets_above_the_servers_maximum_are_refused(broker: &Broker) {
    let Some(broker) = broker.with(&TIGHT) else { return };
    let topic = broker.unique("big");
    for version in EVERY_VERSION {
        let mut peer = broker.client(version);
        if version == V5 {
            assert_eq!(
                peer.connack.as_ref().and_then(|connack| connack.number(MAXIMUM_PACKET_SIZE)),
                Some(1000)
            );
        }
        peer.subscribe(&topic, 0);
        let length = |payload: usize| publish(&topic, "x".repeat(payload)).encode(version).len();
        let exact = (0..1000).rfind(|payload| length(*payload) == 1000).unwrap_or(0);
        peer.send(publish(&topic, "x".repeat(exact)));
        peer.expect_message(&topic, "x".repeat(exact));
        peer.send(publish(&topic, "x".repeat(exact + 1)));
        peer.expect_disconnect(&[0x95]);
        // The length alone is enough.
        let mut peer = broker.client(version);
        peer.send("30 E907");
        peer.expect_disconnect(&[0x95]);
    }
    let mut peer = broker.offer(connect(V5, "x".repeat(3000)));
    peer.expect_refused(&[0x95]);
    let mut peer = broker.offer(connect(V311, "x".repeat(3000)));
    peer.expect_closed();
}
