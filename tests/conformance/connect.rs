//! Accepted CONNECT packets, and CONNACK.

use crate::prelude::*;

/// [MQTT5-3.1.4-5] [MQTT5-3.2.2-1] [MQTT5-3.1.2-6] [MQTT5-3.2.2-3] [MQTT5-§7.1.1] [MQTT5-reason-0x00]
/// [MQTT311-3.1.4-4] [MQTT311-3.2.2-3] [MQTT311-§3.2.2.1] [MQTT311-3.2.0-1] [MQTT311-7.0.0-2] [MQTT311-code-0]
/// [MQTT31-§3.1-a]
pub fn plain_connect_is_accepted(broker: &Broker) {
    for version in EVERY_VERSION {
        let id = broker.unique("plain");
        let (mut peer, present) = broker.connect_present(connect(version, &id).resume().keep_alive(60));
        assert!(!present, "{version:?}: no session existed");
        if version != V5 {
            let connack = peer.connack.as_ref().map(|connack| connack.bytes.clone());
            assert_eq!(connack, Some(vec![0x20, 0x02, 0x00, 0x00]));
        }
        peer.ping();
    }
}

/// The exact bytes of an old client, written by hand. [MQTT31-§3.1-a] [MQTT311-3.1.4-4]
pub fn bytes_of_the_specifications_are_understood(broker: &Broker) {
    let id = broker.unique("b");
    for (name, level, version) in [("MQIsdp", "03", V31), ("MQTT", "04", V311)] {
        let mut peer = broker.open(version);
        peer.send(format!("10 * '{name}' {level} 02 003C '{id}'"));
        assert_eq!(peer.next_packet().bytes, bytes("20 02 00 00"));
        peer.send("C0 00");
        assert_eq!(peer.next_packet().bytes, bytes("D0 00"));
        peer.send("E0 00");
        peer.expect_closed();
    }
    let mut peer = broker.open(V5);
    peer.send(format!("10 * 'MQTT' 05 02 003C 00 '{id}'"));
    assert_eq!(peer.expect(Connack).bytes[2..4], [0, 0]);
}

/// [MQTT5-3.1.0-1] [MQTT311-3.1.0-1] [MQTT5-3.14.0-1] [PITFALL-16]
pub fn first_packet_must_be_connect(broker: &Broker) {
    let first =
        ["C0 00", "82 * 0001 00 'a' 00", "82 * 0001 'a' 00", "30 * 'a' `x`", "E0 00", "D0 00", "F0 00"];
    for said in first {
        let mut peer = broker.open(V5);
        peer.send(said);
        peer.expect_closed();
    }
}

/// [MQTT5-3.1.0-2] [MQTT5-3.2.0-2] [MQTT311-3.1.0-2] [MQTT5-reason-0x82]
pub fn second_connect_is_a_protocol_error(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("second");
        let mut watcher = broker.client(V5);
        watcher.subscribe(&topic, 1);
        let id = broker.unique("twice");
        let mut peer = broker.connect(connect(version, &id).will(will(&topic, "lost")));
        peer.send(connect(version, &id));
        peer.expect_disconnect(&[0x82]);
        watcher.expect_message(&topic, "lost");
    }
}

/// [MQTT5-§3.1.4] [MQTT311-§3.1.4]
pub fn silent_socket_is_closed(broker: &Broker) {
    let Some(broker) = broker.with(&TIGHT) else { return };
    let start = broker.now();
    let mut silent = broker.open(V5);
    let mut half = broker.open(V5);
    half.send("10 20 0004 `MQ`");
    silent.expect_closed();
    half.expect_closed();
    assert!(broker.now() - start > Duration::from_millis(3900), "not before the configured time");
}

/// Bytes that come one by one, or all at once, make no difference.
/// [MQTT5-4.2.0-1] [MQTT311-7.1.1-1]
pub fn packets_are_found_in_a_stream_cut_anywhere(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("cut");
        let conversation: Vec<u8> = [
            connect(version, broker.unique("cut")).encode(version),
            subscribe(1).filter(&topic, 0).encode(version),
            publish(&topic, "first").encode(version),
            publish(&topic, "second").encode(version),
            pingreq(),
        ]
        .concat();
        for cut in 1..conversation.len() {
            let mut peer = broker.open(version);
            peer.send(conversation[..cut].to_vec());
            if cut % 8 == 0 {
                broker.sleep(Duration::from_millis(1));
            }
            peer.send(conversation[cut..].to_vec());
            peer.expect(Connack);
            peer.find(Suback);
            peer.expect_message(&topic, "first");
            peer.expect_message(&topic, "second");
            peer.find(Pingresp);
        }
        let mut peer = broker.open(version);
        for byte in &conversation {
            peer.send(vec![*byte]);
        }
        peer.expect(Connack);
        peer.find(Suback);
        assert_eq!(peer.collect(2), ["first", "second"]);
    }
}

/// [MQTT5-§3.1.4#2] [MQTT311-§3.1.4#3]
pub fn packets_behind_connect_are_served_in_order(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("pipe");
        let mut peer = broker.open(version);
        peer.send_all(&[
            &connect(version, broker.unique("pipe")),
            &subscribe(7).filter(&topic, 1),
            &publish(&topic, "early").qos1(8),
            &pingreq(),
        ]);
        peer.expect(Connack);
        assert_eq!(peer.find(Suback).id, 7);
        let message = peer.expect_message(&topic, "early");
        peer.acknowledge(&message);
        peer.expect_ack(Puback, 8);
        peer.find(Pingresp);
    }
}

/// [MQTT5-3.1.3-2] [MQTT311-3.1.3-2]
pub fn client_identifier_names_the_session(broker: &Broker) {
    for version in EVERY_VERSION {
        let id = broker.unique("name");
        broker.connect(connect(version, &id).lasting()).leave();
        let (_, other) = broker.connect_present(connect(version, broker.unique("name")).lasting());
        let (_, same) = broker.connect_present(connect(version, &id).lasting());
        assert!(!other);
        assert_eq!(same, version != V31, "3.1 has no Session Present");
    }
}

/// [MQTT5-3.1.3-5] [MQTT311-3.1.3-5]
pub fn identifiers_of_23_letters_and_digits_are_accepted(broker: &Broker) {
    let unique = broker.unique("");
    for version in EVERY_VERSION {
        for filler in ["0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"] {
            let id: String = unique.chars().chain(filler.chars().cycle()).take(23).collect();
            broker.connect(connect(version, id)).leave();
        }
    }
}

/// [MQTT5-3.1.3-6] [MQTT5-3.1.3-7] [MQTT5-3.2.2-16] [MQTT5-property-0x12]
pub fn empty_identifier_is_assigned_and_can_be_resumed(broker: &Broker) {
    let mut seen = std::collections::HashSet::new();
    let mut open = Vec::new();
    for clean in [true, false, true, false] {
        let wanted = connect(V5, "").expiry(300);
        let peer = broker.connect(if clean { wanted } else { wanted.resume() });
        let connack = peer.connack.clone().unwrap_or_else(|| peer.fail("CONNACK"));
        assert!(!connack.session_present);
        assert!(connack.text(ASSIGNED_CLIENT_ID).is_some_and(|id| !id.is_empty()));
        assert!(seen.insert(peer.client_id.clone()), "assigned identifiers are unique");
        open.push(peer);
    }
    for peer in &mut open {
        peer.ping();
    }
    let mut peer = open.pop().unwrap_or_else(|| panic!("four peers"));
    let topic = broker.unique("assigned");
    peer.subscribe(&topic, 1);
    let id = peer.client_id.clone();
    peer.leave();
    let (mut peer, present) = broker.connect_present(connect(V5, &id).resume().expiry(300));
    assert!(present && !peer.connack.as_ref().is_some_and(|connack| connack.has(ASSIGNED_CLIENT_ID)));
    broker.client(V5).publish(publish(&topic, "kept").qos1(1));
    peer.expect_message(&topic, "kept");
}

/// [MQTT311-3.1.3-6]
pub fn two_old_clients_without_identifier_coexist(broker: &Broker) {
    let mut first = broker.connect(connect(V311, ""));
    let mut second = broker.connect(connect(V311, ""));
    first.ping();
    second.ping();
}

/// [MQTT311-3.1.3-7] [MQTT311-3.1.3-8] [MQTT311-code-2] [PITFALL-44]
pub fn empty_identifier_without_clean_session_is_refused(broker: &Broker) {
    let mut peer = broker.offer(connect(V311, "").resume());
    assert_eq!(peer.next_packet().bytes, bytes("20 02 00 02"));
    peer.expect_closed();
    broker.connect(connect(V5, "").resume()).leave();
}

/// [MQTT31-§3.1-d]
pub fn version_31_has_no_empty_identifier(broker: &Broker) {
    for wanted in [connect(V31, ""), connect(V31, "").resume()] {
        let mut peer = broker.offer(wanted);
        assert_eq!(peer.next_packet().bytes, bytes("20 02 00 02"));
        peer.expect_closed();
    }
}

/// [MQTT31-§3.1-c]
pub fn version_31_keeps_its_23_characters_in_strict_mode(broker: &Broker) {
    let long = broker.unique("abcdefghijklmnopqrstuvwxyz");
    broker.connect(connect(V31, &long)).leave();
    let Some(strict) = broker.with(&STRICT_31) else { return };
    let mut peer = strict.offer(connect(V31, &long[..24]));
    assert_eq!(peer.next_packet().bytes, bytes("20 02 00 02"));
    peer.expect_closed();
    strict.connect(connect(V31, &long[..23])).leave();
    strict.connect(connect(V311, &long)).leave();
}

/// [MQTT31-§3.1-b] [MQTT5-3.1.2-1] [MQTT5-3.1.2-2] [MQTT311-3.1.2-1] [MQTT311-3.1.2-2]
/// [MQTT311-code-1] [MQTT5-reason-0x84]
pub fn protocol_names_and_levels_that_are_not_served_are_refused(broker: &Broker) {
    let unknown = [
        ("MQTT", 0, V311),
        ("MQTT", 2, V311),
        ("MQTT", 3, V311),
        ("MQTT", 6, V5),
        ("MQTT", 9, V311),
        ("MQTT", 255, V5),
        ("MQIsdp", 4, V311),
        ("MQIsdp", 5, V311),
        ("MQIsdp", 0x84, V31),
        ("MQTT", 0x83, V311),
        ("MQTT", 0x85, V5),
        ("MQTX", 4, V311),
        ("MQTX", 5, V5),
        ("mqtt", 4, V311),
        ("mqtt", 5, V5),
        ("", 4, V311),
        ("", 5, V5),
        ("MQTTT", 5, V5),
    ];
    for (name, level, version) in unknown {
        let id = broker.unique("level");
        let mut peer = broker.offer(connect(version, &id).lasting().protocol(name, level));
        // Nobody can know which format a client of an unknown level reads: that of 3.1.1 or 5.0 is accepted.
        let mut answer = Vec::new();
        while let Next::Packet(packet) = peer.next_raw() {
            answer.extend(packet);
        }
        let allowed: [&[u8]; 4] = [&[], &[0x20, 2, 0, 1], &[0x20, 3, 0, 0x84, 0], &[0x20, 2, 0, 0x84]];
        assert!(allowed.contains(&&answer[..]), "{name} level {level}: {answer:02X?}");
        let (_, present) = broker.connect_present(connect(V311, &id).lasting());
        assert!(!present, "{name} level {level} left a session");
    }
}

/// What mosquitto's bridges set in the level stands for No Local and Retain As Published. [MQTT31-§3.1-r]
pub fn bridges_get_nothing_back_and_retained_messages_as_retained(broker: &Broker) {
    for (name, level, version) in [("MQIsdp", 0x83, V31), ("MQTT", 0x84, V311)] {
        let topic = broker.unique("bridge");
        let mut other = broker.client(V5);
        other.publish(publish(&topic, "before").qos1(1).retain());
        let mut bridge = broker.connect(connect(version, broker.unique("edge")).protocol(name, level));
        bridge.subscribe(&topic, 1);
        // Retained messages are queried on the topic's shard. The query is complete after this.
        assert!(bridge.expect_message(&topic, "before").retain);
        other.subscribe(&topic, 1 | NO_LOCAL);
        assert!(other.expect_message(&topic, "before").retain);
        bridge.publish(publish(&topic, "up").qos1(1).retain());
        assert!(!other.expect_message(&topic, "up").retain);
        other.publish(publish(&topic, "down").qos1(1).retain());
        assert!(bridge.expect_message(&topic, "down").retain, "and nothing before it");
        other.publish(publish(&topic, "plain").qos1(2));
        assert!(!bridge.expect_message(&topic, "plain").retain);
    }
}

/// [MQTT5-§3.1.2.9] [MQTT5-§3.1.3.6] [MQTT311-§3.1.3.5] [MQTT5-3.1.3-1] [MQTT311-3.1.3-1]
pub fn every_field_of_connect_is_read_in_its_order(broker: &Broker) {
    broker.connect(connect(V5, broker.unique("pw")).password([0x00, 0xFF])).leave();
    for version in EVERY_VERSION {
        let (id, topic) = (broker.unique("all"), broker.unique("all"));
        let mut watcher = broker.client(version);
        watcher.subscribe(&topic, 1);
        let mut will = will(&topic, [0x00, 0xFF, 0x80]).qos(1);
        if version == V5 {
            will = will.with(text(CONTENT_TYPE, "all/fields"));
        }
        let wanted = connect(version, &id).will(will).user("user").password([0x00, 0xFF]).keep_alive(30);
        broker.connect(wanted).vanish();
        let message = watcher.expect_message(&topic, [0x00, 0xFF, 0x80]);
        assert_eq!(message.qos, 1);
    }
}

/// [MQTT5-§2.2.2.2#2]
pub fn properties_of_connect_may_come_in_any_order(broker: &Broker) {
    let all = [
        four(SESSION_EXPIRY, 10),
        two(RECEIVE_MAXIMUM, 20),
        four(MAXIMUM_PACKET_SIZE, 10_000),
        two(TOPIC_ALIAS_MAXIMUM, 5),
        byte(REQUEST_RESPONSE, 1),
        byte(REQUEST_PROBLEM, 0),
        pair("a", "b"),
    ];
    for turn in 0..all.len() {
        let mut wanted = connect(V5, broker.unique("order"));
        for at in 0..all.len() {
            wanted = wanted.with(all[(at + turn) % all.len()].clone());
        }
        broker.connect(wanted.clone()).leave();
        wanted.properties.reverse();
        broker.connect(wanted).leave();
    }
}

/// [MQTT5-2.2.2-1]
pub fn property_length_is_written_even_when_it_is_zero(broker: &Broker) {
    let mut peer = broker.client(V5);
    let connack = peer.connack.clone().unwrap_or_else(|| peer.fail("CONNACK"));
    assert!(connack.bytes.len() >= 5, "CONNACK has a Property Length");
    peer.send(subscribe(1).filter(broker.unique("len"), 0));
    assert_eq!(peer.find(Suback).bytes[..5], [0x90, 4, 0, 1, 0]);
    peer.send(unsubscribe(2).filter("nothing"));
    assert_eq!(peer.find(Unsuback).bytes[..5], [0xB0, 4, 0, 2, 0]);
    let topic = broker.unique("len");
    peer.subscribe(&topic, 0);
    peer.send(publish(&topic, "x"));
    let message = peer.expect_message(&topic, "x");
    assert_eq!(message.bytes[4 + topic.len()], 0, "PUBLISH has a Property Length");
}

/// [MQTT5-3.1.2-28] [MQTT5-§3.2.2.3.15] [MQTT5-§3.1.2.11.6] [MQTT5-property-0x1A] [MQTT5-property-0x19]
pub fn response_information_comes_only_on_request(broker: &Broker) {
    let asked = |broker: &Broker, value: Option<u8>| {
        let wanted = connect(V5, broker.unique("ri"));
        let peer = broker.connect(match value {
            Some(value) => wanted.with(byte(REQUEST_RESPONSE, value)),
            None => wanted,
        });
        peer.connack.and_then(|connack| connack.text(RESPONSE_INFORMATION).map(<[u8]>::to_vec))
    };
    assert_eq!(asked(broker, None), None);
    assert_eq!(asked(broker, Some(0)), None);
    asked(broker, Some(1));
    let Some(broker) = broker.with(&RESPONSES) else { return };
    assert_eq!(asked(broker, None), None);
    assert_eq!(asked(broker, Some(0)), None);
    assert_eq!(asked(broker, Some(1)), Some(b"replies/".to_vec()));
}

/// [MQTT5-§3.2.2.3.2] [MQTT5-property-0x11]
pub fn session_expiry_is_returned_when_it_is_capped(broker: &Broker) {
    let expiry_of = |broker: &Broker, wanted: Connect| {
        broker.connect(wanted).connack.and_then(|connack| connack.number(SESSION_EXPIRY))
    };
    let told = expiry_of(broker, connect(V5, broker.unique("cap")).expiry(300));
    assert!(told.is_none_or(|told| told == 300), "as requested");
    let Some(broker) = broker.with(&TIGHT) else { return };
    let id = broker.unique("cap");
    assert_eq!(expiry_of(broker, connect(V5, &id).expiry(300)), Some(6));
    let (_, present) = broker.connect_present(connect(V5, &id).resume().expiry(u32::MAX));
    assert!(present);
    broker.sleep(Duration::from_millis(7500));
    let (_, present) = broker.connect_present(connect(V5, &id).resume());
    assert!(!present, "the cap is enforced");
    let told = expiry_of(broker, connect(V5, broker.unique("cap")).expiry(1));
    assert!(told.is_none_or(|told| told == 1), "below the cap as requested");
}

/// [MQTT5-3.2.2-6] [MQTT5-3.2.2-7] [MQTT311-3.2.2-4] [MQTT311-3.2.2-5] [MQTT5-4.13.2-1]
pub fn refused_resume_has_session_present_0(broker: &Broker) {
    for version in [V5, V311] {
        let id = broker.unique("refused");
        broker.connect(connect(version, &id).lasting()).leave();
        let level = if version == V5 { 6 } else { 9 };
        let mut peer = broker.offer(connect(version, &id).lasting().protocol("MQTT", level));
        // The reader itself refuses Session Present 1 with an error code. This checks that the connection
        // ends.
        while let Next::Packet(answer) = peer.next_raw() {
            assert_eq!(answer[2], 0, "Session Present");
        }
        let (_, present) = broker.connect_present(connect(version, &id).lasting());
        assert!(present, "the session survives the refusal");
    }
}

/// Old clients get old codes, whatever is wrong. [MQTT5-§3.14#2]
pub fn old_clients_never_see_packets_of_5_0(broker: &Broker) {
    for version in BEFORE_5 {
        for wrong in ["F0 00", "30 * 'a/+' `x`", "82 * 0001 'a' 03", "36 * 'a' 0001", "C0 01 00"] {
            let mut peer = broker.client(version);
            peer.send(wrong);
            peer.expect_closed();
        }
        let id = broker.unique("old");
        let mut first = broker.connect(connect(version, &id));
        let _second = broker.connect(connect(V5, &id));
        first.expect_closed();
    }
}
