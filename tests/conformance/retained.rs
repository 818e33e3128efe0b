//! Retained messages: stored, replaced, cleared, expired, and sent to new subscriptions.

use crate::prelude::*;

/// [MQTT5-3.3.1-5] [MQTT5-3.3.1-9] [MQTT5-§3.3.1.3#3] [MQTT311-3.3.1-5] [MQTT311-3.3.1-6] [MQTT311-3.3.1-8]
/// [PITFALL-22]
pub fn last_retained_message_goes_to_new_subscriptions(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("kept");
        let mut publisher = broker.client(version);
        for stored in 0..=2 {
            publisher.publish(publish(&topic, "old").qos(stored, 1).retain());
            publisher.publish(publish(&topic, format!("new{stored}")).qos(stored, 2).retain());
            for granted in 0..=2 {
                let mut peer = broker.client(version);
                peer.subscribe(&topic, granted);
                let message = peer.expect_message(&topic, format!("new{stored}"));
                assert!(message.retain && !message.duplicate);
                assert_eq!(message.qos, stored.min(granted), "stored at {stored}, granted {granted}");
                peer.acknowledge(&message);
                peer.expect_nothing_for(20);
            }
        }
    }
}

/// [MQTT311-3.3.1-6] [MQTT5-3.3.1-9] [MQTT5-3.3.2-3]
pub fn wildcard_subscription_gets_the_retained_message_of_every_matching_topic(broker: &Broker) {
    let stem = broker.unique("many");
    let mut publisher = broker.client(V5);
    let tails = ["", "/a", "/a/b", "/a/c", "/b/b", "/", "//b"];
    for tail in tails {
        // The payload has a prefix because an empty payload would not be retained.
        publisher.publish(publish(format!("{stem}{tail}"), format!("={tail}")).qos1(1).retain());
    }
    let cases: [(&str, &[&str]); 6] = [
        ("/#", &tails),
        ("/+", &["/a", "/"]),
        ("/+/b", &["/a/b", "/b/b", "//b"]),
        ("/a/#", &["/a", "/a/b", "/a/c"]),
        ("/a/+", &["/a/b", "/a/c"]),
        ("", &[""]),
    ];
    for version in EVERY_VERSION {
        for (filter, expected) in cases {
            let mut peer = broker.client(version);
            peer.subscribe(format!("{stem}{filter}"), 1);
            let mut received = peer.collect(expected.len());
            peer.expect_nothing_for(50);
            received.sort_unstable();
            let mut expected: Vec<String> = expected.iter().map(|tail| format!("={tail}")).collect();
            expected.sort_unstable();
            assert_eq!(received, expected, "filter {filter:?}");
        }
    }
}

/// [MQTT5-3.3.1-12] [MQTT311-3.3.1-9] [PITFALL-21] [MQTT5-3.3.1-13]
pub fn live_forwards_have_retain_0_or_as_published(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("live");
        let mut plain = broker.client(version);
        plain.subscribe(&topic, 1);
        let mut as_published = broker.client(V5);
        as_published.subscribe(&topic, 1 | AS_PUBLISHED | RETAIN_NEVER);
        let mut publisher = broker.client(version);
        publisher.publish(publish(&topic, "retained").qos1(1).retain());
        publisher.publish(publish(&topic, "plain").qos1(1));
        plain.expect_live(&topic, "retained");
        assert!(!plain.expect_message(&topic, "plain").retain);
        assert!(as_published.expect_message(&topic, "retained").retain);
        assert!(!as_published.expect_message(&topic, "plain").retain);
    }
}

/// [MQTT5-3.3.1-13] [MQTT5-3.3.1-12] [PITFALL-21]
pub fn retain_flag_goes_through_the_queue(broker: &Broker) {
    for options in [0, AS_PUBLISHED] {
        let (topic, id) = (broker.unique("flag"), broker.unique("flag"));
        let mut peer = broker.connect(connect(V5, &id).lasting());
        peer.subscribe(&topic, 1 | options);
        peer.leave();
        let mut publisher = broker.client(V5);
        publisher.publish(publish(&topic, "retained").qos1(1).retain());
        publisher.publish(publish(&topic, "plain").qos1(1));
        let mut peer = broker.connect(connect(V5, &id).lasting());
        assert_eq!(peer.expect_message(&topic, "retained").retain, options == AS_PUBLISHED);
        assert!(!peer.expect_message(&topic, "plain").retain);
    }
}

/// [MQTT5-3.3.1-6] [MQTT5-3.3.1-7] [MQTT311-3.3.1-10] [MQTT311-3.3.1-11] [MQTT31-§3.1-m]
pub fn empty_retained_message_clears_and_is_delivered(broker: &Broker) {
    for version in EVERY_VERSION {
        for qos in 0..=2 {
            let topic = broker.unique("clear");
            let mut live = broker.client(version);
            live.subscribe(&topic, 2);
            let mut publisher = broker.client(version);
            publisher.publish(publish(&topic, "kept").qos(qos, 1).retain());
            let message = live.expect_live(&topic, "kept");
            live.acknowledge(&message);
            publisher.publish(publish(&topic, "").qos(qos, 1).retain());
            let message = live.expect_message(&topic, "");
            live.acknowledge(&message);
            assert!(!message.retain);
            let mut late = broker.client(version);
            late.subscribe(&topic, 2);
            late.expect_nothing();
        }
    }
}

/// [MQTT5-3.3.1-8] [MQTT311-3.3.1-12]
pub fn messages_without_the_flag_leave_the_retained_one(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("leave");
        let mut publisher = broker.client(version);
        publisher.publish(publish(&topic, "kept").qos1(1).retain());
        publisher.publish(publish(&topic, "plain").qos1(1));
        publisher.publish(publish(&topic, "").qos1(1));
        let mut late = broker.client(version);
        late.subscribe(&topic, 1);
        late.expect_message(&topic, "kept");
        late.expect_nothing_for(50);
        let other = broker.unique("never");
        publisher.publish(publish(&other, "plain").qos1(1));
        late.subscribe(&other, 1);
        late.expect_nothing_for(50);
    }
}

/// [MQTT5-§3.3.1.3] [MQTT311-3.3.1-7]
pub fn retained_qos_0_replaces_the_former_one(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("zero");
        let mut publisher = broker.client(version);
        publisher.publish(publish(&topic, "old").qos1(1).retain());
        publisher.publish(publish(&topic, "new").retain());
        publisher.ping();
        broker.sleep(Duration::from_millis(50));
        let mut late = broker.client(version);
        late.subscribe(&topic, 1);
        let message = late.expect_message(&topic, "new");
        assert!(message.retain && message.qos == 0);
    }
}

/// [MQTT311-3.1.2-7] [MQTT5-§4.1#3]
pub fn retained_messages_outlive_the_session_that_sent_them(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("outlive");
        let mut publisher = broker.client(version);
        publisher.publish(publish(&topic, "kept").qos1(1).retain());
        publisher.leave();
        let mut late = broker.client(version);
        late.subscribe(&topic, 1);
        late.expect_message(&topic, "kept");
    }
}

/// [MQTT5-§3.3.1.3#2] [MQTT5-3.3.2-5] [MQTT5-3.3.2-6] [PITFALL-18] [MQTT5-property-0x02] [MQTT5-§3.3.2.3.3]
pub fn retained_messages_expire_and_tell_the_rest_of_their_time(broker: &Broker) {
    let topic = broker.unique("expire");
    let mut publisher = broker.client(V5);
    let kept = |tail: &str, seconds| {
        publish(format!("{topic}/{tail}"), tail).qos1(1).retain().with(four(MESSAGE_EXPIRY, seconds))
    };
    publisher.publish(kept("short", 1));
    publisher.publish(kept("long", 60));
    broker.sleep(Duration::from_millis(2500));
    for version in EVERY_VERSION {
        let mut late = broker.client(version);
        late.subscribe(format!("{topic}/#"), 1);
        let message = late.expect_message(&format!("{topic}/long"), "long");
        if version == V5 {
            assert!(
                matches!(message.number(MESSAGE_EXPIRY), Some(1..=58)),
                "{:?}",
                message.number(MESSAGE_EXPIRY)
            );
        }
        late.expect_nothing_for(100);
    }
}

/// [MQTT5-3.3.1-9] [MQTT5-3.3.1-10] [MQTT5-3.3.1-11] [PITFALL-19] [MQTT5-3.8.4-4] [MQTT311-3.8.4-3]
/// [MQTT5-§3.3.1.3#4]
pub fn retain_handling_decides_what_a_repeated_subscribe_gets(broker: &Broker) {
    let topic = broker.unique("handling");
    broker.client(V5).publish(publish(&topic, "kept").qos1(1).retain());
    for version in EVERY_VERSION {
        let mut peer = broker.client(version);
        for _ in 0..3 {
            peer.subscribe(&topic, 0);
            assert!(peer.expect_message(&topic, "kept").retain);
        }
    }
    let id = broker.unique("handling");
    let mut peer = broker.connect(connect(V5, &id).lasting());
    peer.subscribe(&topic, RETAIN_IF_NEW);
    assert!(peer.expect_message(&topic, "kept").retain);
    peer.subscribe(&topic, RETAIN_IF_NEW);
    peer.subscribe(&topic, RETAIN_NEVER);
    peer.expect_nothing();
    peer.leave();
    let mut peer = broker.connect(connect(V5, &id).lasting());
    peer.subscribe(&topic, RETAIN_IF_NEW);
    peer.expect_nothing();
    peer.request(unsubscribe(9).filter(&topic), Unsuback);
    peer.subscribe(&topic, RETAIN_NEVER);
    peer.expect_nothing();
    peer.request(unsubscribe(9).filter(&topic), Unsuback);
    peer.subscribe(&topic, RETAIN_IF_NEW);
    peer.expect_message(&topic, "kept");
}

/// [MQTT5-3.3.4-3] [PITFALL-26]
pub fn retained_messages_carry_the_subscription_identifier(broker: &Broker) {
    let stem = broker.unique("ident");
    broker.client(V5).publish(publish(format!("{stem}/a"), "kept").qos1(1).retain());
    let mut peer = broker.client(V5);
    peer.request(subscribe(1).identifier(5).filter(format!("{stem}/a"), 0), Suback);
    assert_eq!(peer.expect_message(&format!("{stem}/a"), "kept").identifiers(), [5]);
    peer.request(subscribe(2).identifier(16_384).filter(format!("{stem}/+"), 0), Suback);
    let found = peer.expect_message(&format!("{stem}/a"), "kept").identifiers();
    assert!(found.contains(&16_384), "{found:?}");
}

/// [MQTT5-3.8.4-5] [MQTT311-3.8.4-4]
pub fn same_filter_twice_in_one_subscribe_acts_in_sequence(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("twice");
        let mut publisher = broker.client(version);
        publisher.publish(publish(&topic, "kept").qos2(1).retain());
        let mut peer = broker.client(version);
        let options = if version == V5 { RETAIN_IF_NEW } else { 0 };
        let codes =
            peer.request(subscribe(1).filter(&topic, 2 | options).filter(&topic, 1 | options), Suback);
        assert_eq!(codes, [2, 1]);
        let copies = if version == V5 { 1 } else { 2 };
        for _ in 0..copies {
            let message = peer.expect_message(&topic, "kept");
            assert!(message.qos > 0);
            peer.acknowledge(&message);
        }
        publisher.publish(publish(&topic, "live").qos2(1));
        let message = peer.expect_message(&topic, "live");
        assert_eq!(message.qos, 1, "the last options win");
        peer.acknowledge(&message);
        peer.expect_nothing();
    }
}

/// A large retained set is paced, not dropped, and one quota covers it. [PITFALL-24] [PITFALL-33]
/// [MQTT5-3.3.1-9] [MQTT5-3.3.4-9] [PITFALL-22]
pub fn large_retained_sets_arrive_whole_within_the_quota(broker: &Broker) {
    const COUNT: usize = 1500;
    let stem = broker.unique("large");
    let mut publisher = broker.client(V5);
    for first in (0..COUNT).step_by(15) {
        for at in first..first + 15 {
            publisher.send(publish(format!("{stem}/{at}"), format!("{at}")).qos1(at as u16 + 1).retain());
        }
        for _ in 0..15 {
            publisher.expect(Puback);
        }
    }
    let mut peer = broker.connect(connect(V5, broker.unique("large")).with(two(RECEIVE_MAXIMUM, 7)));
    peer.subscribe(format!("{stem}/#"), 1);
    let first: Vec<Packet> = (0..7).map(|_| peer.find(Publish)).collect();
    peer.expect_nothing();
    let mut received: Vec<usize> = Vec::new();
    for message in first {
        peer.send(puback(message.id));
        received.push(message.payload_text().parse().unwrap_or(usize::MAX));
    }
    for payload in peer.collect(COUNT - 7) {
        received.push(payload.parse().unwrap_or(usize::MAX));
    }
    received.sort_unstable();
    assert!(received.into_iter().eq(0..COUNT));
}

/// [MQTT5-3.8.4-4] [MQTT311-3.8.4-3]
pub fn resubscribing_loses_no_live_message(broker: &Broker) {
    const COUNT: u32 = 400;
    for version in [V5, V311] {
        let topic = broker.unique("underload");
        let mut publisher = broker.client(version);
        let mut peer = broker.client(version);
        peer.subscribe(&topic, 1);
        let mut live = Vec::new();
        for at in 0..COUNT {
            publisher.send(publish(&topic, format!("{at}")).qos1(1).retain());
            if at % 20 == 0 {
                peer.send(subscribe(1000 + at as u16).filter(&topic, 1));
            }
            publisher.find(Puback);
            while let Some(message) = peer.find_within(Publish, Duration::ZERO) {
                peer.acknowledge(&message);
                live.push(message);
            }
        }
        while let Some(message) = peer.find_within(Publish, Duration::from_millis(500)) {
            peer.acknowledge(&message);
            live.push(message);
        }
        let numbers: Vec<String> =
            live.iter().filter(|message| !message.retain).map(Packet::payload_text).collect();
        let expected: Vec<String> = (0..COUNT).map(|at| at.to_string()).collect();
        assert_eq!(numbers, expected);
        let resent = live.iter().filter(|message| message.retain).count();
        // With several shards a live message often arrives between SUBSCRIBE and the answer of the topic's
        // home, and is not sent a second time.
        assert!(broker.shards > 1 || resent >= 10, "{resent} retained messages for 20 subscriptions");
    }
}

/// A subscriber never sees an older retained message after a newer live one.
/// [MQTT5-4.6.0-5]
pub fn retained_message_is_never_older_than_a_live_one_before_it(broker: &Broker) {
    let mut publisher = broker.client(V5);
    for _ in 0..20 {
        let topic = broker.unique("newer");
        publisher.publish(publish(&topic, "0").qos1(1).retain());
        let mut peer = broker.client(V5);
        peer.send(subscribe(1).filter(&topic, 1));
        for at in 1..30 {
            publisher.send(publish(&topic, format!("{at}")).qos1(at).retain());
        }
        let mut last = -1;
        while last < 29 {
            let message = peer.find(Publish);
            peer.acknowledge(&message);
            let number: i32 = message.payload_text().parse().unwrap_or(-2);
            assert!(number >= last, "{number} after {last}");
            last = number;
        }
        for at in 1..30 {
            publisher.expect_ack(Puback, at);
        }
    }
}

/// [MQTT5-3.2.2-13] [MQTT5-3.2.2-14] [MQTT5-reason-0x9A] [MQTT5-property-0x25] [PITFALL-51] [MQTT5-§3.2.2.3.5]
pub fn retain_that_is_switched_off_is_announced_and_refused(broker: &Broker) {
    let Some(broker) = broker.with(&BARE) else { return };
    let mut peer = broker.client(V5);
    assert_eq!(peer.connack.as_ref().and_then(|connack| connack.number(RETAIN_AVAILABLE)), Some(0));
    let topic = broker.unique("off");
    peer.send(publish(&topic, "x").retain());
    peer.expect_disconnect(&[0x9A]);
    let mut peer = broker.client(V5);
    peer.send(publish(&topic, "x").qos1(1).retain());
    peer.expect_disconnect(&[0x9A]);
    let mut peer = broker.offer(connect(V5, broker.unique("off")).will(will(&topic, "x").retain()));
    peer.expect_refused(&[0x9A]);
    let mut late = broker.client(V5);
    late.subscribe(&topic, 1);
    late.expect_nothing();
}
