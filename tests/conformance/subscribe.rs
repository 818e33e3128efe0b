//! SUBSCRIBE and UNSUBSCRIBE: codes, replacement, and what stops.

use crate::prelude::*;

/// [MQTT5-3.8.4-1] [MQTT5-3.8.4-6] [MQTT5-3.8.4-7] [MQTT5-3.9.3-1] [MQTT5-3.9.3-2] [MQTT311-3.8.4-1]
/// [MQTT311-3.8.4-5] [MQTT311-3.9.3-1] [MQTT311-3.9.3-2] [MQTT5-reason-0x00] [MQTT5-reason-0x01-0x02]
pub fn codes_of_suback_are_in_the_order_of_the_filters(broker: &Broker) {
    for version in EVERY_VERSION {
        let stem = broker.unique("codes");
        let mut peer = broker.client(version);
        let wanted = [2, 0, 1, 1, 2, 0];
        let mut request = subscribe(1);
        for (at, qos) in wanted.iter().enumerate() {
            request = request.filter(format!("{stem}/{at}"), *qos);
        }
        assert_eq!(peer.request(request, Suback), wanted);
    }
}

/// A refused filter among good ones. [MQTT5-§3.8.4#4] [MQTT5-3.8.4-7] [MQTT5-3.8.4-1] [PITFALL-23] [PITFALL-46]
/// [MQTT5-reason-0x8F] [MQTT311-§3.8.4] [MQTT311-3.8.4-5] [MQTT311-3.9.3-2] [MQTT31-§3.1-f]
/// [MQTT311-3.8.4-1]
pub fn refused_filters_create_nothing_and_spare_the_others(broker: &Broker) {
    let Some(broker) = broker.with(&TIGHT) else { return };
    for version in EVERY_VERSION {
        let stem = broker.unique("some");
        let deep = format!("{stem}/2/3/4/5/6/7/8/9");
        let mut peer = broker.client(version);
        let wanted =
            subscribe(1).filter(format!("{stem}/a"), 1).filter(&deep, 1).filter(format!("{stem}/b"), 2);
        peer.send(wanted);
        if version == V31 {
            // 3.1 has no failure code: the connection ends, or a QoS is granted. The reader refuses 0x80.
            match peer.next_within(PATIENCE) {
                Next::Packet(suback) => assert_eq!(suback.codes.len(), 3),
                Next::Closed => continue,
                Next::Nothing => peer.fail("an answer"),
            }
        } else {
            let refusal = if version == V5 { 0x8F } else { 0x80 };
            assert_eq!(peer.find(Suback).codes, [1, refusal, 2]);
        }
        let mut publisher = broker.client(V5);
        assert_eq!(publisher.publish(publish(&deep, "deep").qos1(1)), 0x90);
        publisher.publish(publish(format!("{stem}/b"), "fine").qos1(1));
        peer.expect_message(&format!("{stem}/b"), "fine");
        peer.expect_nothing();
        let code = peer.request(subscribe(2).filter(&deep, 0), Suback)[0];
        assert!(version == V31 || code >= 0x80);
        peer.ping();
    }
}

/// [MQTT5-3.8.4-3] [MQTT5-§3.8.4#2] [MQTT311-3.8.4-3]
pub fn same_filter_replaces_the_subscription(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("replace");
        let mut peer = broker.client(version);
        let mut publisher = broker.client(version);
        peer.subscribe(&topic, 2);
        peer.subscribe(&topic, 0);
        publisher.publish(publish(&topic, "x").qos2(1));
        assert_eq!(peer.expect_message(&topic, "x").qos, 0);
        peer.expect_nothing();
        peer.subscribe(&topic, 1);
        publisher.publish(publish(&topic, "y").qos2(1));
        assert_eq!(peer.expect_message(&topic, "y").qos, 1);
        peer.expect_nothing_for(50);
    }
    let topic = broker.unique("replace");
    let mut peer = broker.client(V5);
    let mut publisher = broker.client(V5);
    for (identifier, expected) in
        [(Some(1), vec![1]), (Some(200), vec![200]), (None, vec![]), (Some(3), vec![3])]
    {
        let request = subscribe(7).filter(&topic, 0);
        let request =
            if let Some(identifier) = identifier { request.identifier(identifier) } else { request };
        peer.request(request, Suback);
        publisher.publish(publish(&topic, "x").qos1(1));
        assert_eq!(peer.expect_message(&topic, "x").identifiers(), expected);
    }
}

/// [MQTT5-§3.8.2.1.2] [MQTT5-property-0x0B] [PITFALL-39]
pub fn subscription_identifier_0_or_twice_is_a_protocol_error(broker: &Broker) {
    each(
        ["82 * 0001 02 0B 00 'a' 00", "82 * 0001 04 0B 01 0B 02 'a' 00", "82 * 0001 04 0B 01 0B 01 'a' 00"],
        |said| {
            let mut peer = broker.client(V5);
            peer.send(*said);
            peer.expect_disconnect(&[0x82]);
        },
    );
}

/// [MQTT5-§3.8.4#3] [MQTT311-§3.8.4]
pub fn matching_messages_around_a_subscribe_are_never_lost_after_it(broker: &Broker) {
    let topic = broker.unique("around");
    let mut publisher = broker.client(V5);
    let mut peer = broker.client(V5);
    for at in 0..20 {
        publisher.send(publish(&topic, "before"));
        if at == 10 {
            peer.subscribe(&topic, 0);
        }
    }
    publisher.publish(publish(&topic, "after").qos1(1));
    loop {
        let message = peer.find(Publish).payload_text();
        if message == "after" {
            return;
        }
        assert_eq!(message, "before");
    }
}

/// [MQTT5-3.10.4-1] [MQTT5-3.10.4-4] [MQTT5-3.10.4-5] [MQTT5-3.11.3-1] [MQTT5-3.11.3-2] [MQTT5-reason-0x11]
/// [MQTT5-3.10.4-6] [PITFALL-48] [MQTT311-3.10.4-1] [MQTT311-3.10.4-4] [MQTT311-3.10.4-5] [MQTT311-3.10.4-6]
pub fn unsubscribe_compares_character_by_character(broker: &Broker) {
    for version in EVERY_VERSION {
        let stem = broker.unique("exact");
        let mut peer = broker.client(version);
        peer.subscribe(format!("{stem}/+"), 0);
        peer.subscribe(format!("{stem}/c"), 0);
        let wanted = unsubscribe(9)
            .filter(format!("{stem}/b"))
            .filter(format!("{stem}/#"))
            .filter(format!("{stem}/c"))
            .filter(format!("{stem}/c"))
            .filter(format!("{}/+", stem.to_uppercase()));
        peer.send(wanted);
        let answer = peer.find(Unsuback);
        assert_eq!(answer.id, 9);
        if version == V5 {
            assert_eq!(answer.codes, [0x11, 0x11, 0x00, 0x11, 0x11]);
        } else {
            assert_eq!(answer.bytes, bytes("B0 02 0009"));
        }
        let mut publisher = broker.client(version);
        publisher.publish(publish(format!("{stem}/b"), "x"));
        peer.expect_message(&format!("{stem}/b"), "x");
        publisher.publish(publish(format!("{stem}/c"), "y"));
        peer.expect_message(&format!("{stem}/c"), "y");
        peer.expect_nothing_for(50);
    }
}

/// [MQTT5-3.10.4-2] [MQTT5-§3.10.4] [MQTT311-3.10.4-2]
pub fn nothing_new_is_sent_after_unsuback(broker: &Broker) {
    for version in EVERY_VERSION {
        let stem = broker.unique("stop");
        let filters = [format!("{stem}/a"), format!("{stem}/+"), format!("{stem}/#")];
        let mut peer = broker.client(version);
        for filter in &filters {
            peer.subscribe(filter, 1);
        }
        let mut publishers: Vec<Client> = (0..4).map(|_| broker.client(version)).collect();
        for filter in &filters {
            peer.request(unsubscribe(3).filter(filter), Unsuback);
        }
        for publisher in &mut publishers {
            publisher.publish(publish(format!("{stem}/a"), "x").qos1(1));
        }
        peer.expect_nothing();
    }
}

/// [MQTT5-3.10.4-3] [MQTT311-3.10.4-3]
pub fn deliveries_that_began_are_finished_after_unsubscribe(broker: &Broker) {
    for version in EVERY_VERSION {
        let (topic, id) = (broker.unique("finish"), broker.unique("finish"));
        let mut peer = broker.connect(connect(version, &id).lasting());
        peer.subscribe(&topic, 2);
        let mut publisher = broker.client(version);
        publisher.publish(publish(&topic, "one").qos1(1));
        publisher.publish(publish(&topic, "two").qos2(1));
        publisher.publish(publish(&topic, "three").qos2(1));
        let one = peer.expect_message(&topic, "one");
        let two = peer.expect_message(&topic, "two");
        let three = peer.expect_message(&topic, "three");
        peer.request(unsubscribe(3).filter(&topic), Unsuback);
        peer.acknowledge(&three);
        peer.vanish();
        let mut peer = broker.connect(connect(version, &id).lasting());
        let again = peer.expect_message(&topic, "one");
        assert!(again.duplicate && again.id == one.id);
        peer.acknowledge(&again);
        let again = peer.expect_message(&topic, "two");
        assert!(again.duplicate && again.id == two.id);
        peer.acknowledge(&again);
        peer.expect_nothing();
    }
}

/// [MQTT5-§3.2.2.3.11] [MQTT5-§3.2.2.3.12] [MQTT5-§3.2.2.3.13] [MQTT5-§3.2.2.3.5] [MQTT5-property-0x28]
/// [MQTT5-property-0x29] [MQTT5-property-0x2A] [MQTT5-reason-0x9E] [MQTT5-reason-0xA1] [MQTT5-reason-0xA2]
/// [PITFALL-51] [PITFALL-29]
pub fn subscriptions_that_are_switched_off_are_announced_and_refused(broker: &Broker) {
    let Some(broker) = broker.with(&BARE) else { return };
    let peer = broker.client(V5);
    let announced = |id| peer.connack.as_ref().and_then(|connack| connack.number(id));
    assert_eq!(announced(WILDCARD_AVAILABLE), Some(0));
    assert_eq!(announced(SUBSCRIPTION_ID_AVAILABLE), Some(0));
    assert_eq!(announced(SHARED_AVAILABLE), Some(0));
    for (request, code) in [
        (subscribe(1).filter("bare/+", 0), 0xA2),
        (subscribe(1).filter("bare/#", 0), 0xA2),
        (subscribe(1).filter("#", 0), 0xA2),
        (subscribe(1).identifier(1).filter("bare", 0), 0xA1),
        (subscribe(1).filter("$share/group/bare", 0), 0x9E),
    ] {
        let mut peer = broker.client(V5);
        peer.send(request);
        peer.expect_disconnect(&[code]);
    }
    broker.client(V5).subscribe("bare/exact", 1);
}

/// [MQTT311-3.8.3-2] [MQTT5-§4.8.2#9]
pub fn wildcards_that_are_switched_off_are_refused_before_5(broker: &Broker) {
    let Some(broker) = broker.with(&BARE) else { return };
    let mut peer = broker.client(V311);
    let topic = broker.unique("bare");
    let wanted =
        subscribe(1).filter(format!("{topic}/+"), 0).filter(&topic, 1).filter(format!("$share/g/{topic}"), 1);
    assert_eq!(peer.request(wanted, Suback), [0x80, 1, 0x80]);
}

/// [MQTT5-3.2.2-9] [MQTT5-3.2.2-10] [MQTT5-3.2.2-11] [MQTT5-3.2.2-12] [MQTT5-property-0x24] [MQTT5-reason-0x9B]
/// [PITFALL-51]
pub fn qos_above_the_maximum_is_announced_and_refused(broker: &Broker) {
    for (config, maximum) in [(&BARE, 1), (&QOS_0, 0)] {
        let Some(broker) = broker.with(config) else { continue };
        let topic = broker.unique("max");
        let mut peer = broker.client(V5);
        let announced = peer.connack.as_ref().and_then(|connack| connack.number(MAXIMUM_QOS));
        assert_eq!(announced, Some(u32::from(maximum)));
        for requested in 0..=2 {
            let granted = peer.subscribe(&topic, requested);
            assert!(granted <= requested.min(2), "requested {requested}, granted {granted}");
        }
        for qos in maximum + 1..=2 {
            let mut publisher = broker.client(V5);
            publisher.send(publish(&topic, "x").qos(qos, 1));
            publisher.expect_disconnect(&[0x9B]);
            let mut willing = broker.offer(connect(V5, broker.unique("w")).will(will(&topic, "x").qos(qos)));
            willing.expect_refused(&[0x9B]);
        }
        peer.publish(publish(&topic, "fine").qos(maximum, 1));
        peer.expect_message(&topic, "fine");
        peer.expect_nothing();
    }
}
