//! Topic names and filters: validity and matching.

use crate::prelude::*;

/// [MQTT5-§4.7.1] [MQTT5-4.7.1-1] [MQTT5-4.7.1-2] [MQTT5-4.7.3-1] [MQTT5-filters] [MQTT311-4.7.1-2]
/// [MQTT311-4.7.1-3] [MQTT311-4.7.3-1] [PITFALL-45]
pub fn invalid_filters_are_malformed(broker: &Broker) {
    for version in EVERY_VERSION {
        let wrong =
            ["a#", "a/#/b", "#/a", "a+", "+a/b", "a/b+/c", "##", "++", "a/##", "#/", "+#", "a/+#", "a/#b"];
        each(wrong, |filter| {
            let mut peer = broker.client(version);
            peer.send(subscribe(1).filter(filter, 0));
            peer.expect_disconnect(&[0x81]);
            let mut peer = broker.client(version);
            peer.send(subscribe(1).filter("fine", 0).filter(filter, 0));
            peer.expect_disconnect(&[0x81]);
            let mut peer = broker.client(version);
            peer.send(unsubscribe(1).filter(filter));
            peer.expect_disconnect(&[0x81]);
        });
    }
}

/// [MQTT5-filters] [MQTT5-4.7.1-1] [MQTT5-4.7.1-2] [MQTT5-§4.7.3]
pub fn valid_filters_are_granted(broker: &Broker) {
    for version in EVERY_VERSION {
        let mut peer = broker.client(version);
        let valid =
            ["a/#", "/#", "+/+/+", "/+/+", "a/+/#", "/", "//", " ", "$SYS/#", "$x", "a//b", "/a/", "$"];
        for filter in valid.into_iter().chain(["#", "+", "+/+", "/+", "+/"]) {
            // Messages of other scenarios match some of these, so it asks for no retained ones and ends at
            // once.
            let options = if version == V5 { RETAIN_NEVER } else { 0 };
            assert_eq!(peer.request(subscribe(1).filter(filter, options), Suback), [0], "{filter}");
            peer.request(unsubscribe(2).filter(filter), Unsuback);
        }
    }
}

/// The matching table, live and retained, under a first level of the scenario's own where the
/// filter allows it. [MQTT5-match-1] [MQTT5-match-2] [MQTT5-match-7] [MQTT5-match-8] [MQTT5-match-14]
/// [MQTT5-match-15] [MQTT5-4.7.1-1] [MQTT5-4.7.1-2] [MQTT5-§4.7.3] [MQTT5-4.7.3-4] [MQTT311-4.7.1-2]
/// [MQTT311-4.7.1-3] [MQTT311-4.7.3-4] [PITFALL-45]
pub fn filters_match_what_the_table_says(broker: &Broker) {
    let cases: [(&str, &[&str], &[&str]); 11] = [
        ("/sport/#", &["/sport", "/sport/", "/sport/a", "/sport/a/b"], &["/sports", "//sport", "/Sport"]),
        ("/t/p1/#", &["/t/p1", "/t/p1/ranking"], &["/t/p10", "/t/p10/x"]),
        ("/sport/+", &["/sport/", "/sport/a"], &["/sport", "/sport/a/b"]),
        ("/sport/+/p1", &["/sport/x/p1", "/sport//p1"], &["/sport/p1", "/sport/x/y/p1"]),
        ("/a//b", &["/a//b"], &["/a/b", "/a/x/b"]),
        ("/a/", &["/a/"], &["/a", "/a//"]),
        ("/+", &["/finance", "/", "/ "], &["", "/a/b", "//"]),
        ("/+/+", &["/a/b", "//", "/a/"], &["/a", "/a/b/c"]),
        ("/A", &["/A"], &["/a"]),
        ("/$SYS/#", &["/$SYS", "/$SYS/a"], &["/SYS/a"]),
        ("/+/tennis/#", &["/sport/tennis", "//tennis/x"], &["/tennis"]),
    ];
    for (filter, matching, other) in cases {
        let stem = broker.unique("match");
        let filter = format!("{stem}{filter}");
        let mut live = broker.client(V5);
        live.subscribe(&filter, 1);
        let mut publisher = broker.client(V311);
        for tail in other.iter().chain(matching) {
            publisher.publish(publish(format!("{stem}{tail}"), tail).qos1(1).retain());
        }
        for late in [false, true] {
            let mut peer =
                if late { broker.client(V311) } else { std::mem::replace(&mut live, broker.client(V5)) };
            if late {
                peer.subscribe(&filter, 1);
            }
            let mut received = peer.collect(matching.len());
            peer.expect_nothing_for(50);
            received.sort_unstable();
            let mut expected = matching.to_vec();
            expected.sort_unstable();
            assert_eq!(received, expected, "{filter}, late: {late}");
        }
    }
}

/// Filters that begin with a wildcard see every other scenario's messages: only ours are counted.
/// [MQTT5-match-3] [MQTT5-match-4] [MQTT5-match-5] [MQTT5-match-6] [MQTT5-match-9] [MQTT5-match-10]
/// [MQTT5-match-11] [MQTT5-§4.7.3] [PITFALL-45]
pub fn filters_with_a_leading_wildcard_match_what_the_table_says(broker: &Broker) {
    let mark = broker.unique("lead");
    let one = mark.clone();
    let two = format!("{mark}/b");
    let (slash, three) = (format!("/{mark}"), format!("{mark}/b/c"));
    let doubled = format!("{mark}//b");
    let (tennis, deep_tennis) = (format!("{mark}/tennis"), format!("/tennis/{mark}"));
    let dollar = format!("$x{mark}/tennis");
    let topics: Vec<&str> = vec![&one, &two, &slash, &three, &doubled, &tennis, &deep_tennis, &dollar];
    let cases: [(&str, &[&str]); 7] = [
        ("#", &[&one, &two, &slash, &three, &doubled, &tennis, &deep_tennis]),
        ("+", &[&one]),
        ("+/+", &[&two, &slash, &tennis]),
        ("/+", &[&slash]),
        ("+/tennis/#", &[&tennis, &deep_tennis]),
        ("/#", &[&slash, &deep_tennis]),
        ("+/#", &[&one, &two, &slash, &three, &doubled, &tennis, &deep_tennis]),
    ];
    for (filter, expected) in cases {
        let mut peer = broker.connect(connect(V5, broker.unique("l")));
        peer.subscribe(filter, RETAIN_NEVER);
        let mut publisher = broker.client(V5);
        for topic in &topics {
            publisher.publish(publish(topic, &mark).qos1(1));
        }
        publisher.publish(publish(&dollar, &mark).qos1(1));
        let mut received = Vec::new();
        while received.len() < expected.len() {
            let message = peer.find(Publish);
            if message.payload == mark.as_bytes() {
                received.push(message.topic_text());
            }
        }
        let end = broker.now() + Duration::from_millis(200);
        while let Some(message) = peer.find_within(Publish, end.saturating_sub(broker.now())) {
            assert!(message.payload != mark.as_bytes(), "{filter} got {}", message.topic_text());
        }
        received.sort_unstable();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(received, expected, "{filter}");
    }
}

/// [MQTT5-4.7.2-1] [MQTT5-match-12] [MQTT5-match-13] [MQTT311-4.7.2-1] [MQTT31-§3.1-o] [PITFALL-45]
pub fn leading_wildcards_never_see_the_brokers_own_topics(broker: &Broker) {
    let mut sys = broker.client(V5);
    sys.subscribe("$SYS/#", 0);
    let message = sys.find(Publish);
    assert!(message.topic.starts_with(b"$SYS/"), "the broker tells about itself");
    for version in EVERY_VERSION {
        let mut peer = broker.client(version);
        for filter in ["#", "+/broker/#", "+/broker/uptime", "+/#"] {
            peer.subscribe(filter, 0);
        }
        if version == V5 {
            for filter in ["$share/group/#", "$share/group/+/broker/uptime"] {
                peer.subscribe(filter, 0);
            }
        }
        let end = broker.now() + Duration::from_millis(2500);
        while let Some(message) = peer.find_within(Publish, end.saturating_sub(broker.now())) {
            assert!(!message.topic.starts_with(b"$"), "{}", message.topic_text());
        }
    }
}

/// [MQTT5-match-12] [MQTT5-match-13]
pub fn filters_that_name_the_dollar_match(broker: &Broker) {
    let mark = broker.unique("dollar");
    let mut peer = broker.client(V5);
    peer.subscribe(format!("${mark}/#"), 0);
    peer.subscribe(format!("${mark}/one/+"), 0);
    let mut publisher = broker.client(V5);
    for tail in ["", "/a", "/one/b"] {
        publisher.publish(publish(format!("${mark}{tail}"), tail));
    }
    publisher.publish(publish(format!("{mark}/a"), "wrong"));
    assert_eq!(peer.collect(3), ["", "/a", "/one/b"]);
    while let Some(message) = peer.find_within(Publish, Duration::from_millis(200)) {
        assert_eq!(message.payload_text(), "/one/b", "an extra copy for the second filter at most");
    }
}

/// [MQTT5-1.5.4-3] [MQTT5-4.7.3-4] [MQTT5-§4.7.3] [MQTT311-1.5.3-3] [MQTT311-4.7.3-4]
pub fn topics_are_compared_without_normalization(broker: &Broker) {
    for version in EVERY_VERSION {
        let stem = broker.unique("norm");
        let pairs = [
            (format!("\u{FEFF}{stem}"), stem.clone()),
            (format!("{stem}/é"), format!("{stem}/e\u{301}")),
            (format!("{stem}/A"), format!("{stem}/a")),
            (format!("/{stem}"), stem.clone()),
            (format!("{stem}/"), stem.clone()),
            (format!("{stem}//b"), format!("{stem}/b")),
            (format!("{stem} "), stem.clone()),
        ];
        for (one, other) in pairs {
            let mut first = broker.client(version);
            first.subscribe(&one, 1);
            let mut second = broker.client(version);
            second.subscribe(&other, 1);
            let mut publisher = broker.client(version);
            publisher.publish(publish(&one, "one").qos1(1));
            publisher.publish(publish(&other, "other").qos1(1));
            first.expect_message(&one, "one");
            second.expect_message(&other, "other");
            first.expect_nothing_for(20);
            second.expect_nothing_for(20);
        }
    }
}

/// [MQTT5-4.7.3-3] [MQTT5-§1.5.4#2] [MQTT311-4.7.3-3] [MQTT311-§1.5.3#2]
pub fn topics_of_65535_bytes_pass(broker: &Broker) {
    for version in EVERY_VERSION {
        let stem = broker.unique("long");
        let topic = format!("{stem}/{}", "x".repeat(65_535 - stem.len() - 1));
        let mut peer = broker.client(version);
        assert_eq!(peer.subscribe(&topic, 1), 1);
        peer.publish(publish(&topic, "x").qos1(1).retain());
        let message = peer.expect_message(&topic, "x");
        peer.acknowledge(&message);
        let mut late = broker.client(version);
        late.subscribe(format!("{stem}/+"), 0);
        late.expect_message(&topic, "x");
        late.publish(publish(&topic, "").qos1(1).retain());
    }
}

/// [MQTT5-4.7.3-3] [MQTT5-reason-0x8F] [MQTT5-reason-0x90]
pub fn topics_of_many_levels_are_handled(broker: &Broker) {
    for version in EVERY_VERSION {
        let deep = "/".repeat(30_000);
        let mut peer = broker.client(version);
        peer.send(subscribe(1).filter(&deep, 0));
        match peer.next_within(PATIENCE) {
            Next::Packet(packet) => assert!(packet.kind == Suback || packet.kind == Disconnect),
            Next::Closed => {}
            Next::Nothing => peer.fail("an answer"),
        }
        let mut peer = broker.client(version);
        peer.send(publish(&deep, "x").qos1(1));
        match peer.next_within(PATIENCE) {
            Next::Packet(packet) => assert!(packet.kind == Puback || packet.kind == Disconnect),
            Next::Closed => {}
            Next::Nothing => peer.fail("an answer"),
        }
        broker.client(version).ping();
    }
}
