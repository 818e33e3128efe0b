//! The QoS exchanges on one connection: which side answers what, when an identifier is free, and what
//! repeated packets mean.

use crate::prelude::*;

/// [MQTT5-4.3.2-4] [MQTT5-4.3.2-5] [MQTT311-4.3.2-2] [MQTT5-machine-1]
pub fn qos_1_identifier_is_new_after_its_puback(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("again");
        let mut watcher = broker.client(version);
        watcher.subscribe(&topic, 0);
        let mut peer = broker.client(version);
        peer.publish(publish(&topic, "1").qos1(5));
        peer.publish(publish(&topic, "2").qos1(5).duplicate());
        peer.publish(publish(&topic, "3").qos1(5));
        assert_eq!(watcher.collect(3), ["1", "2", "3"]);
    }
}

/// [MQTT5-4.3.3-8] [MQTT5-4.3.3-10] [MQTT5-4.3.3-11] [MQTT5-4.3.3-12] [MQTT311-4.3.3-2] [MQTT311-2.3.1-2]
/// [PITFALL-1] [MQTT5-machine-2] [MQTT5-machine-4] [MQTT5-machine-5]
pub fn qos_2_repeats_before_pubrel_are_delivered_once(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("once");
        let mut watcher = broker.client(version);
        watcher.subscribe(&topic, 0);
        let mut peer = broker.client(version);
        for round in ["first", "second"] {
            peer.send(publish(&topic, round).qos2(5));
            peer.expect_ack(Pubrec, 5);
            peer.send(publish(&topic, round).qos2(5).duplicate());
            peer.expect_ack(Pubrec, 5);
            peer.send(publish(&topic, round).qos2(5));
            peer.expect_ack(Pubrec, 5);
            peer.send(pubrel(5));
            assert_eq!(peer.expect_ack(Pubcomp, 5), 0);
            watcher.expect_message(&topic, round);
        }
        watcher.expect_nothing();
    }
}

/// [MQTT5-§4.3.3] [PITFALL-4]
pub fn dup_on_an_unseen_identifier_is_a_new_message(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("unseen");
        let mut watcher = broker.client(version);
        watcher.subscribe(&topic, 0);
        let mut peer = broker.client(version);
        peer.publish(publish(&topic, "x").qos2(1234).duplicate());
        watcher.expect_message(&topic, "x");
    }
}

/// [MQTT5-3.7.2-1] [MQTT5-reason-0x92] [PITFALL-7] [MQTT5-machine-6] [MQTT5-§4.13.2]
pub fn pubrel_for_an_unknown_identifier_gets_0x92(broker: &Broker) {
    let mut peer = broker.client(V5);
    // Before the first QoS 2 exchange of a connection, this is recovery from a lost session and no error.
    peer.send(pubrel(76));
    assert_eq!(peer.expect_ack(Pubcomp, 76), 0x00);
    peer.publish(publish(broker.unique("begun"), "x").qos2(5));
    peer.send(pubrel(77));
    assert_eq!(peer.expect_ack(Pubcomp, 77), 0x92);
    peer.send("62 03 0050 92");
    assert_eq!(peer.expect_ack(Pubcomp, 0x50), 0x92);
    peer.ping();
    peer.publish(publish(broker.unique("known"), "x").qos2(77));
}

/// [MQTT311-4.3.3-2] [PITFALL-7]
pub fn pubrel_for_an_unknown_identifier_gets_a_plain_pubcomp_before_5(broker: &Broker) {
    for version in BEFORE_5 {
        let mut peer = broker.client(version);
        peer.send(pubrel(77));
        assert_eq!(peer.expect(Pubcomp).bytes, bytes("70 02 004D"));
        peer.ping();
    }
}

/// [MQTT5-3.6.2-1] [MQTT5-machine-16] [MQTT5-reason-0x92] [PITFALL-7]
pub fn pubrec_for_an_unknown_identifier_gets_pubrel_0x92(broker: &Broker) {
    let mut peer = broker.client(V5);
    peer.send(pubrec(76));
    assert_eq!(peer.expect_ack(Pubrel, 76), 0x00);
    let topic = broker.unique("begun");
    peer.subscribe(&topic, 2);
    broker.client(V5).publish(publish(&topic, "x").qos1(1));
    broker.client(V5).publish(publish(&topic, "x").qos2(1));
    for _ in 0..2 {
        let message = peer.expect(Publish);
        peer.acknowledge(&message);
    }
    peer.send(pubrec(77));
    assert_eq!(peer.expect_ack(Pubrel, 77), 0x92);
    peer.send("50 03 004D 80");
    peer.send(pubcomp(77));
    peer.expect_nothing();
}

/// [MQTT5-§4.3]
pub fn stray_pubacks_and_pubcomps_are_ignored(broker: &Broker) {
    for version in EVERY_VERSION {
        let mut peer = broker.client(version);
        peer.send(puback(9));
        peer.send(pubcomp(9));
        peer.expect_nothing();
    }
}

/// [MQTT5-§2.2.1#4]
pub fn acknowledgements_of_the_other_flow_are_errors(broker: &Broker) {
    let topic = broker.unique("flow");
    let mut publisher = broker.client(V5);
    for (qos, wrong) in [(2, puback as fn(u16) -> Ack), (1, pubrec), (1, pubcomp)] {
        let mut peer = broker.client(V5);
        peer.subscribe(&topic, qos);
        publisher.publish(publish(&topic, "x").qos(qos, 1));
        let message = peer.expect_message(&topic, "x");
        peer.send(wrong(message.id));
        let last = peer.expect_end();
        assert!(last.iter().all(|packet| packet.kind == Disconnect && packet.code == 0x82), "{last:?}");
    }
}

/// [MQTT5-§3.4.2.1#2] [PITFALL-48]
pub fn acknowledgements_of_every_length_are_understood(broker: &Broker) {
    let topic = broker.unique("forms");
    let mut peer = broker.client(V5);
    peer.subscribe(&topic, 2);
    for tail in ["", "00", "00 00", "10 00"] {
        peer.send(publish(&topic, "one").qos1(1));
        let id = peer.expect_message(&topic, "one").id;
        peer.send(format!("40 * {id:04X} {tail}"));
        peer.find(Puback);
        let plain = if tail.starts_with("10") { "00 00" } else { tail };
        peer.send(publish(&topic, "two").qos2(2));
        peer.find(Pubrec);
        peer.send(format!("62 * 0002 {plain}"));
        peer.find(Pubcomp);
        let id = peer.expect_message(&topic, "two").id;
        peer.send(format!("50 * {id:04X} {tail}"));
        peer.expect_ack(Pubrel, id);
        peer.send(format!("70 * {id:04X} {plain}"));
    }
    peer.expect_nothing();
}

/// [MQTT5-2.2.1-4] [MQTT5-4.3.2-1] [MQTT5-4.3.3-1] [MQTT311-2.3.1-4] [MQTT311-2.3.1-1]
pub fn identifiers_of_unacknowledged_messages_differ(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("differ");
        let mut peer = broker.client(version);
        peer.subscribe(&topic, 2);
        let mut publisher = broker.client(version);
        for at in 0..18 {
            publisher.publish(publish(&topic, format!("{at}")).qos(1 + at % 2, 1));
        }
        let mut seen = std::collections::HashSet::new();
        for at in 0..18 {
            let message = peer.expect_message(&topic, format!("{at}"));
            assert!(message.qos == 1 + at % 2 && !message.duplicate);
            assert!(seen.insert(message.id), "identifier {} twice", message.id);
        }
    }
}

/// One message stays unacknowledged while 66,000 others are sent and acknowledged. [MQTT5-2.2.1-4]
/// [MQTT311-2.3.1-4] [MQTT5-§2.2.1#3]
pub fn identifiers_wrap_around_those_still_open(broker: &Broker) {
    const COUNT: usize = 66_000;
    const WINDOW: usize = 16;
    let topic = broker.unique("wrap");
    let mut peer = broker.client(V5);
    peer.subscribe(&topic, 2);
    let mut publisher = broker.client(V5);
    publisher.publish(publish(&topic, "held").qos2(1));
    let held = peer.expect_message(&topic, "held");
    peer.send(pubrec(held.id));
    peer.expect_ack(Pubrel, held.id);
    for _ in 0..COUNT / WINDOW {
        let burst: Vec<u8> =
            (0..WINDOW as u16).flat_map(|at| publish(&topic, "x").qos1(at + 1).encode(V5)).collect();
        publisher.send(burst);
        let mut acks = Vec::new();
        for _ in 0..WINDOW {
            let message = peer.expect(Publish);
            assert!(message.id != held.id && message.id != 0);
            acks.extend(puback(message.id).encode(V5));
        }
        peer.send(acks);
        for _ in 0..WINDOW {
            publisher.expect(Puback);
        }
    }
    peer.send(pubcomp(held.id));
    peer.expect_nothing();
}

/// [MQTT5-§2.2.1] [MQTT311-§2.3.1]
pub fn identifiers_of_both_sides_are_independent(broker: &Broker) {
    for version in EVERY_VERSION {
        let (inbound, outbound) = (broker.unique("in"), broker.unique("out"));
        let mut peer = broker.client(version);
        peer.subscribe(&inbound, 2);
        broker.client(version).publish(publish(&inbound, "x").qos2(1));
        let message = peer.expect_message(&inbound, "x");
        peer.send(publish(&outbound, "y").qos2(message.id));
        peer.expect_ack(Pubrec, message.id);
        peer.send(pubrec(message.id));
        peer.expect_ack(Pubrel, message.id);
        peer.send(pubrel(message.id));
        peer.expect_ack(Pubcomp, message.id);
        peer.send(pubcomp(message.id));
        peer.expect_nothing();
    }
}

/// [MQTT5-§2.2.1#2] [MQTT5-reason-0x91]
pub fn clash_of_identifiers_leaves_the_connection(broker: &Broker) {
    let topic = broker.unique("clash");
    let mut peer = broker.client(V5);
    peer.send(publish(&topic, "x").qos2(5));
    peer.expect_ack(Pubrec, 5);
    let codes = peer.request(subscribe(5).filter(&topic, 1).filter(format!("{topic}/2"), 0), Suback);
    assert!(codes == [1, 0] || codes == [0x91, 0x91], "{codes:02X?}");
    let codes = peer.request(unsubscribe(5).filter(broker.unique("clash")), Unsuback);
    assert!(codes == [0x11] || codes == [0x91], "{codes:02X?}");
    let mut other = peer;
    other.send(publish(&topic, "y").qos1(5));
    let answer = other.find_within(Puback, Duration::from_secs(2));
    assert!(answer.is_none_or(|ack| matches!(ack.code, 0x00 | 0x10 | 0x91)));
}

/// [MQTT5-2.2.1-6] [MQTT5-3.8.4-2] [MQTT5-3.10.4-5] [MQTT311-2.3.1-7] [MQTT311-3.8.4-2]
pub fn pipelined_requests_are_answered_by_identifier(broker: &Broker) {
    for version in EVERY_VERSION {
        let stem = broker.unique("pipe");
        let mut peer = broker.client(version);
        peer.send_all(&[
            &subscribe(1).filter(format!("{stem}/a"), 0),
            &subscribe(65_535).filter(format!("{stem}/b"), 1),
            &unsubscribe(256).filter(format!("{stem}/a")),
            &unsubscribe(7).filter(format!("{stem}/c")),
        ]);
        assert_eq!(peer.expect(Suback).id, 1);
        assert_eq!(peer.expect(Suback).id, 65_535);
        assert_eq!(peer.expect(Unsuback).id, 256);
        assert_eq!(peer.expect(Unsuback).id, 7);
    }
}

/// [MQTT5-4.6.0-2] [MQTT5-4.6.0-3] [MQTT311-4.6.0-2] [MQTT311-4.6.0-3]
pub fn acknowledgements_come_in_the_order_of_publishing(broker: &Broker) {
    for version in EVERY_VERSION {
        // The topics have different subscribers, so that different shards deliver them.
        let topics: Vec<String> = (0..8).map(|_| broker.unique("order")).collect();
        let mut watchers: Vec<Client> = topics.iter().map(|_| broker.client(version)).collect();
        for (watcher, topic) in watchers.iter_mut().zip(&topics) {
            watcher.subscribe(topic, 0);
        }
        let mut peer = broker.client(version);
        for (qos, kind) in [(1, Puback), (2, Pubrec)] {
            let ids = [5, 3, 9, 65_535, 1, 300, 2, 8];
            let burst: Vec<u8> = ids
                .iter()
                .zip(&topics)
                .flat_map(|(id, topic)| publish(topic, "x").qos(qos, *id).encode(version))
                .collect();
            peer.send(burst);
            let answered: Vec<u16> = ids.iter().map(|_| peer.expect(kind).id).collect();
            assert_eq!(answered, ids);
        }
    }
}

/// [MQTT5-4.6.0-4] [MQTT311-4.6.0-4] [MQTT5-4.3.3-4]
pub fn pubrels_come_in_the_order_of_pubrecs(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("rel");
        let mut peer = broker.client(version);
        peer.subscribe(&topic, 2);
        let mut publisher = broker.client(version);
        for at in 0..3 {
            publisher.publish(publish(&topic, format!("{at}")).qos2(1));
        }
        let ids: Vec<u16> = (0..3).map(|at| peer.expect_message(&topic, format!("{at}")).id).collect();
        let order = [ids[2], ids[0], ids[1], ids[0]];
        peer.send_all(&[&pubrec(order[0]), &pubrec(order[1]), &pubrec(order[2]), &pubrec(order[3])]);
        for id in order {
            assert_eq!(peer.expect(Pubrel).id, id);
        }
        for id in ids {
            peer.send(pubcomp(id));
        }
        peer.expect_nothing();
    }
}

/// A repeated PUBREC gets a PUBREL again until PUBCOMP. [MQTT5-4.3.3-4] [MQTT5-4.3.3-5] [MQTT5-machine-10]
/// [MQTT5-machine-13] [MQTT5-machine-15] [MQTT311-4.3.3-1]
pub fn repeated_pubrec_gets_pubrel_again(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("rec");
        let mut peer = broker.client(version);
        peer.subscribe(&topic, 2);
        broker.client(version).publish(publish(&topic, "x").qos2(1));
        let message = peer.expect_message(&topic, "x");
        assert!(message.qos == 2 && !message.duplicate);
        for _ in 0..3 {
            peer.send(pubrec(message.id));
            assert_eq!(peer.expect(Pubrel).id, message.id);
        }
        peer.send(pubcomp(message.id));
        peer.expect_nothing();
        if version == V5 {
            peer.send(pubrec(message.id));
            assert_eq!(peer.expect_ack(Pubrel, message.id), 0x92);
        }
    }
}

/// [MQTT5-4.4.0-2] [MQTT5-machine-8] [MQTT5-machine-11]
pub fn refusing_acknowledgements_settle_a_message(broker: &Broker) {
    let (topic, id) = (broker.unique("settle"), broker.unique("settle"));
    let mut peer = broker.connect(connect(V5, &id).lasting());
    peer.subscribe(&topic, 2);
    let mut publisher = broker.client(V5);
    publisher.publish(publish(&topic, "one").qos1(1));
    let message = peer.expect_message(&topic, "one");
    peer.send(puback(message.id).code(0x80));
    publisher.publish(publish(&topic, "two").qos2(2));
    let message = peer.expect_message(&topic, "two");
    peer.send(pubrec(message.id).code(0x87));
    peer.expect_nothing();
    peer.vanish();
    let mut peer = broker.connect(connect(V5, &id).lasting());
    peer.expect_nothing();
}

/// [MQTT5-4.4.0-1] [MQTT311-§4.4] [PITFALL-6] [MQTT31-§3.1-l]
pub fn nothing_is_resent_on_a_live_connection(broker: &Broker) {
    let mut waiting = Vec::new();
    for version in EVERY_VERSION {
        let topic = broker.unique("live");
        let mut peer = broker.client(version);
        peer.subscribe(&topic, 2);
        let mut publisher = broker.client(version);
        publisher.publish(publish(&topic, "one").qos1(1));
        publisher.publish(publish(&topic, "two").qos2(2));
        peer.expect_message(&topic, "one");
        peer.expect_message(&topic, "two");
        waiting.push(peer);
    }
    broker.sleep(Duration::from_secs(6));
    for peer in &mut waiting {
        peer.expect_nothing();
    }
}

/// [MQTT5-§3.8.4#5]
pub fn qos_2_messages_granted_0_are_never_doubled(broker: &Broker) {
    let stem = broker.unique("single");
    let mut peer = broker.client(V5);
    peer.subscribe(format!("{stem}/a"), 0);
    let mut publisher = broker.client(V5);
    publisher.send(publish(format!("{stem}/a"), "x").qos2(1));
    publisher.expect_ack(Pubrec, 1);
    publisher.send(publish(format!("{stem}/a"), "x").qos2(1).duplicate());
    publisher.expect_ack(Pubrec, 1);
    publisher.send(pubrel(1));
    publisher.expect_ack(Pubcomp, 1);
    peer.expect_message(&format!("{stem}/a"), "x");
    peer.expect_nothing();
}

/// When a message is acknowledged, every subscriber at that time receives it. [MQTT5-4.3.2-4] [MQTT5-4.3.3-8]
/// [MQTT5-4.5.0-1]
pub fn puback_implies_delivery_to_all_subscribers(broker: &Broker) {
    let topic = broker.unique("all");
    let mut watchers: Vec<Client> = (0..20).map(|at| broker.client(EVERY_VERSION[at % 3])).collect();
    for watcher in &mut watchers {
        watcher.subscribe(&topic, 2);
    }
    let mut peer = broker.client(V5);
    assert_eq!(peer.publish(publish(&topic, "one").qos1(1)), 0);
    assert_eq!(peer.publish(publish(&topic, "two").qos2(1)), 0);
    peer.leave();
    for watcher in &mut watchers {
        assert_eq!(watcher.collect(2), ["one", "two"]);
    }
}

/// [MQTT5-3.12.4-1] [MQTT311-3.12.4-1]
pub fn pingreq_is_answered_under_load(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("ping");
        let mut peer = broker.client(version);
        peer.subscribe(&topic, 0);
        let burst: Vec<u8> = (0..100)
            .flat_map(|at| [publish(&topic, format!("{at}")).encode(version), pingreq()].concat())
            .collect();
        peer.send(burst);
        for _ in 0..100 {
            assert_eq!(peer.find(Pingresp).bytes, [0xD0, 0x00]);
        }
        assert_eq!(peer.collect(100).len(), 100);
    }
}
