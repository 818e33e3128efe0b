//! Packets that can't be read: each ends its own connection with the standard's code, and has no other
//! effect.

use crate::prelude::*;

/// Sends each of these on a new 5.0 connection. All must end it with one of the codes.
fn all_end_with(broker: &Broker, codes: &[u8], said: &[&str]) {
    each(said, |said| {
        let mut peer = broker.client(V5);
        peer.send(**said);
        peer.expect_disconnect(codes);
    });
}

/// Sends each of these on new connections of the old versions. All must end them without a byte.
fn all_close(broker: &Broker, versions: &[Version], said: &[&str]) {
    for version in versions {
        each(said, |said| {
            let mut peer = broker.client(*version);
            peer.send(**said);
            peer.expect_closed();
        });
    }
}

/// [MQTT5-2.1.3-1] [MQTT5-3.6.1-1] [MQTT5-3.8.1-1] [MQTT5-3.10.1-1] [MQTT5-3.14.1-1] [MQTT5-3.15.1-1]
/// [PITFALL-40] [MQTT5-reason-0x81] [MQTT5-4.13.1-1]
pub fn reserved_flag_bits_are_malformed(broker: &Broker) {
    all_end_with(
        broker,
        &[0x81],
        &[
            "C1 00",
            "C8 00",
            "E1 00",
            "E2 00",
            "F1 00",
            "41 02 0001",
            "51 02 0001",
            "60 02 0001",
            "63 02 0001",
            "71 02 0001",
            "80 * 0001 00 'a' 00",
            "83 * 0001 00 'a' 00",
            "A0 * 0001 00 'a'",
            "A3 * 0001 00 'a'",
        ],
    );
}

/// [MQTT311-2.2.2-2] [MQTT311-3.6.1-1] [MQTT311-3.8.1-1] [MQTT311-3.10.1-1] [MQTT311-3.14.1-1]
pub fn reserved_flag_bits_close_311_connections(broker: &Broker) {
    let said = [
        "C1 00",
        "E1 00",
        "41 02 0001",
        "51 02 0001",
        "60 02 0001",
        "71 02 0001",
        "80 * 0001 'a' 00",
        "A0 * 0001 'a'",
    ];
    all_close(broker, &[V311], &said);
}

/// [MQTT31-§3.1-g] [MQTT31-§3.1-h]
pub fn flag_bits_of_31_are_tolerated(broker: &Broker) {
    let topic = broker.unique("dup");
    let mut peer = broker.client(V31);
    peer.send(format!("8A * 0005 '{topic}' 01"));
    assert_eq!(peer.expect(Suback).codes, [1]);
    peer.send(format!("3A * '{topic}' 0006 `x`"));
    let message = peer.expect_message(&topic, "x");
    peer.send(vec![0x41, 2, (message.id >> 8) as u8, message.id as u8]);
    peer.expect_ack(Puback, 6);
    peer.send(publish(&topic, "two").qos2(9));
    peer.expect_ack(Pubrec, 9);
    peer.send("6A 02 0009");
    peer.expect_ack(Pubcomp, 9);
    peer.send(format!("AA * 0007 '{topic}'"));
    assert_eq!(peer.find(Unsuback).id, 7);
    peer.ping();
}

/// [MQTT5-3.3.1-4] [MQTT311-3.3.1-4] [PITFALL-40]
pub fn qos_3_is_malformed(broker: &Broker) {
    all_end_with(broker, &[0x81], &["36 * 'a' 0001 00 `x`", "37 * 'a' 0001 00 `x`", "3E * 'a' 0001 00 `x`"]);
    all_close(broker, &BEFORE_5, &["36 * 'a' 0001 `x`", "3E * 'a' 0001 `x`"]);
}

/// [MQTT5-§2.1.2] [MQTT311-§2.2.1]
pub fn packets_of_a_server_and_forbidden_types_end_the_connection(broker: &Broker) {
    let servers = ["00 00", "20 03 00 00 00", "90 04 0001 00 00", "B0 04 0001 00 00", "D0 00"];
    all_end_with(broker, &[0x81, 0x82], &servers);
    all_close(broker, &BEFORE_5, &["00 00", "F0 00", "20 02 00 00", "90 03 0001 00", "B0 02 0001", "D0 00"]);
}

/// [MQTT5-§1.5.5] [MQTT311-§2.2.3]
pub fn endless_remaining_length_ends_the_connection_at_once(broker: &Broker) {
    all_end_with(broker, &[0x81], &["30 FFFFFFFF", "C0 80808080", "30 FFFFFF80"]);
    all_close(broker, &BEFORE_5, &["30 FFFFFFFF", "C0 80808080"]);
}

/// A length that is not minimal may be refused or read, but must never be misframed. [MQTT5-1.5.5-1]
pub fn overlong_lengths_are_never_misframed(broker: &Broker) {
    for said in ["C0 8000 C000", "C0 808000 C000"] {
        let mut peer = broker.client(V5);
        peer.send(said);
        let first = match peer.next_within(PATIENCE) {
            Next::Packet(packet) => packet.kind,
            _ => continue,
        };
        if first == Pingresp {
            peer.expect(Pingresp);
        } else {
            assert_eq!(first, Disconnect);
        }
    }
}

/// [MQTT5-§2.1.4] [MQTT5-§2.2.2.1] [MQTT5-§3.8.3] [MQTT5-§1.5.4#2]
pub fn lengths_that_lie_are_malformed(broker: &Broker) {
    all_end_with(
        broker,
        &[0x81],
        &[
            "C0 01 00",
            "40 01 00",
            "40 00",
            "50 01 00",
            "62 01 00",
            "70 00",
            "40 05 0001 00 00 00",
            "82 * 0001 00 'a' 00 FF",
            "82 * 0001 00 'a'",
            "82 * 0001 00 'a' 00 'b'",
            "82 * 0001 00 0005 `a` 00",
            "82 01 00",
            "A2 * 0001 00 'a' 00",
            "A2 * 0001 00 0005 `a`",
            "30 00",
            "30 01 00",
            "30 * 00FF `a`",
            "32 * 'a' 00",
            "30 * 'a'",
            "30 * 'a' C8 01 00",
            "30 * 'a' 05 01 00",
            "30 * 'a' 02 02 00",
            "82 * 0001 C8 'a' 00",
            "E0 03 00 05 11",
            "E0 02 00 C8",
            "40 04 0001 00 05",
        ],
    );
}

/// [MQTT311-§2.2.3#2] [MQTT311-§1.5.3#2] [MQTT311-§3.4–3.7]
pub fn lengths_that_lie_close_old_connections(broker: &Broker) {
    let said = [
        "C0 01 00",
        "40 03 0001 00",
        "50 03 0001 00",
        "62 03 0001 00",
        "70 03 0001 00",
        "40 01 00",
        "E0 01 00",
        "82 * 0001 'a'",
        "82 * 0001 'a' 00 FF",
        "82 * 0001 0005 `a` 00",
        "A2 * 0001 0005 `a`",
        "30 * 00FF `a`",
        "30 01 00",
        "32 * 'a' 00",
    ];
    all_close(broker, &BEFORE_5, &said);
}

/// Every string of every packet. [MQTT5-1.5.4-1] [MQTT5-1.5.4-2] [MQTT5-1.5.7-1] [MQTT5-3.3.2-1]
/// [MQTT5-3.3.2-13] [MQTT5-3.3.2-19] [MQTT5-3.8.3-1] [MQTT5-3.10.3-1] [MQTT5-4.7.3-2] [MQTT5-property-0x03]
/// [MQTT5-property-0x26]
pub fn strings_that_are_not_utf8_are_malformed(broker: &Broker) {
    for wrong in [
        "0003 EDA080",
        "0003 EDBFBF",
        "0002 C0AF",
        "0004 F5808080",
        "0004 F4908080",
        "0001 FF",
        "0002 6100",
        "0001 80",
        "0002 C3 28",
        "0001 C3",
    ] {
        let places = [
            format!("30 * {wrong} 00 `x`"),
            format!("32 * {wrong} 0001 00 `x`"),
            format!("30 * 'a' {:02X} 08 {wrong} `x`", property_length(wrong)),
            format!("30 * 'a' {:02X} 03 {wrong} `x`", property_length(wrong)),
            format!("30 * 'a' {:02X} 26 'n' {wrong} `x`", property_length(wrong) + 3),
            format!("30 * 'a' {:02X} 26 {wrong} 'v' `x`", property_length(wrong) + 3),
            format!("82 * 0001 00 {wrong} 00"),
            format!("A2 * 0001 00 {wrong}"),
            format!("E0 * 00 {:02X} 1F {wrong}", property_length(wrong)),
        ];
        let places: Vec<&str> = places.iter().map(|place| &place[..]).collect();
        all_end_with(broker, &[0x81], &places);
    }
}

fn property_length(said: &str) -> usize {
    bytes(said).len() + 1
}

/// No part of an ill-formed PUBLISH reaches a subscriber. [MQTT5-1.5.4-1] [MQTT311-1.5.3-1]
pub fn ill_formed_topics_are_forwarded_to_nobody(broker: &Broker) {
    let stem = broker.unique("ill");
    for version in EVERY_VERSION {
        let mut watcher = broker.client(V5);
        watcher.subscribe(format!("{stem}/#"), 0);
        for wrong in [&b"\xED\xA0\x80"[..], b"\xC0\xAF", b"\xF5\x80\x80\x80", b"\x00"] {
            let topic = [stem.as_bytes(), b"/", wrong].concat();
            let mut peer = broker.client(version);
            peer.send(publish(topic, "x"));
            peer.expect_disconnect(&[0x81]);
        }
        watcher.expect_nothing();
    }
}

/// [MQTT311-1.5.3-1] [MQTT311-1.5.3-2] [MQTT311-3.3.2-1] [MQTT311-3.8.3-1] [MQTT311-3.10.3-1] [MQTT311-4.7.3-2]
/// [MQTT311-4.7.3-1] [MQTT31-§3.1-n]
pub fn strings_that_are_not_utf8_close_old_connections(broker: &Broker) {
    for wrong in ["0003 EDA080", "0002 C0AF", "0004 F5808080", "0001 FF", "0002 6100", "0000"] {
        let places =
            [format!("30 * {wrong} `x`"), format!("82 * 0001 {wrong} 00"), format!("A2 * 0001 {wrong}")];
        let places: Vec<&str> = places.iter().map(|place| &place[..]).collect();
        all_close(broker, &BEFORE_5, &places);
    }
}

/// Control characters are malformed (midge's choice). [MQTT5-§1.5.4] [MQTT311-§1.5.3]
pub fn control_characters_are_refused_or_carried_unchanged(broker: &Broker) {
    for version in EVERY_VERSION {
        for special in ["\u{1}", "\u{7F}", "\u{9F}", "\u{FFFF}", "\u{FDD0}", "\u{1FFFE}"] {
            let topic = format!("{}{special}", broker.unique("control"));
            let mut peer = broker.client(version);
            peer.send(publish(&topic, "x"));
            peer.expect_disconnect(&[0x81]);
            let mut peer = broker.client(version);
            peer.send(subscribe(1).filter(&topic, 0));
            peer.expect_disconnect(&[0x81]);
        }
        for usual in [" ", "é", "\u{FFFD}", "😀", "\u{FEFF}"] {
            let topic = format!("{}{usual}", broker.unique("usual"));
            let mut peer = broker.client(version);
            peer.subscribe(&topic, 0);
            peer.publish(publish(&topic, "x"));
            peer.expect_message(&topic, "x");
        }
    }
}

/// [MQTT5-§2.2.2.2] [PITFALL-38]
pub fn unknown_and_misplaced_properties_are_malformed(broker: &Broker) {
    all_end_with(
        broker,
        &[0x81],
        &[
            "30 * 'a' 02 7F 00 `x`",
            "30 * 'a' 05 11 00000001 `x`",
            "30 * 'a' 04 1C 'a' `x`",
            "30 * 'a' 05 18 00000001 `x`",
            "30 * 'a' 02 00 00 `x`",
            "30 * 'a' 04 1F 'a' `x`",
            "82 * 0001 02 01 01 'a' 00",
            "82 * 0001 04 1F 'a' 'a' 00",
            "82 * 0001 02 7F 01 'a' 00",
            "A2 * 0001 02 0B 01 'a'",
            "A2 * 0001 04 1F 'a' 'a'",
            "40 * 0001 00 05 11 00000001",
            "50 * 0001 00 02 01 01",
            "62 * 0001 00 02 0B 01",
            "70 * 0001 00 02 7F 01",
            "E0 * 00 05 02 00000001",
            "E0 * 00 03 21 0001",
        ],
    );
    for property in [
        "02 01 01",
        "05 02 00000001",
        "04 03 'a'",
        "02 0B 01",
        "05 18 00000001",
        "02 24 01",
        "02 7F 00",
        "03 23 0001",
        "04 12 'a'",
        "03 13 0001",
        "04 1F 'a'",
        "04 1C 'a'",
        "04 08 'a'",
    ] {
        let mut peer = broker.open(V5);
        peer.send(format!("10 * 'MQTT' 05 02 0000 {property} 'misplaced'"));
        peer.expect_refused(&[0x81]);
    }
    let mut peer = broker.open(V5);
    peer.send("10 * 'MQTT' 05 06 0000 00 'misplaced' 05 11 00000001 't' 'p'");
    peer.expect_refused(&[0x81]);
}

/// [MQTT5-2.2.1-3] [MQTT311-2.3.1-1]
pub fn packet_identifier_0_ends_the_connection(broker: &Broker) {
    let topic = broker.unique("zero");
    let mut watcher = broker.client(V5);
    watcher.subscribe(&topic, 0);
    let said = [
        format!("32 * '{topic}' 0000 00 `x`"),
        format!("34 * '{topic}' 0000 00 `x`"),
        format!("82 * 0000 00 '{topic}' 00"),
        format!("A2 * 0000 00 '{topic}'"),
    ];
    let said: Vec<&str> = said.iter().map(|said| &said[..]).collect();
    all_end_with(broker, &[0x81, 0x82], &said);
    let said = [
        format!("32 * '{topic}' 0000 `x`"),
        format!("82 * 0000 '{topic}' 00"),
        format!("A2 * 0000 '{topic}'"),
    ];
    let said: Vec<&str> = said.iter().map(|said| &said[..]).collect();
    all_close(broker, &BEFORE_5, &said);
    watcher.expect_nothing();
}

/// [MQTT5-3.8.3-2] [MQTT5-3.10.3-2] [PITFALL-42] [MQTT311-3.8.3-3] [MQTT311-3.10.3-2]
pub fn requests_without_filters_are_protocol_errors(broker: &Broker) {
    all_end_with(broker, &[0x82], &["82 03 0001 00", "A2 03 0001 00"]);
    all_end_with(broker, &[0x81, 0x82], &["82 * 0001 00 '' 00", "A2 * 0001 00 ''"]);
    all_close(broker, &BEFORE_5, &["82 02 0001", "A2 02 0001", "82 * 0001 '' 00", "A2 * 0001 ''"]);
}

/// [MQTT5-3.8.3-5] [MQTT5-§3.8.3.1] [MQTT5-§3.8.3.1#2] [PITFALL-41] [MQTT311-3.8.3-4]
pub fn subscription_options_are_checked(broker: &Broker) {
    all_end_with(
        broker,
        &[0x82],
        &["82 * 0001 00 'a' 03", "82 * 0001 00 'a' 30", "82 * 0001 00 'a' 00 'b' 07"],
    );
    all_end_with(
        broker,
        &[0x81],
        &["82 * 0001 00 'a' 40", "82 * 0001 00 'a' 80", "82 * 0001 00 'a' 00 'b' C1"],
    );
    all_close(broker, &BEFORE_5, &["82 * 0001 'a' 03", "82 * 0001 'a' 04", "82 * 0001 'a' 80"]);
}

/// [MQTT5-§2.4#2] [MQTT5-3.15.2-1]
pub fn unknown_reason_codes_end_the_connection(broker: &Broker) {
    all_end_with(
        broker,
        &[0x81, 0x82],
        &["40 03 0001 55", "50 03 0001 11", "62 03 0001 01", "70 03 0001 80", "F0 00", "F0 02 55 00"],
    );
}

/// An error of one peer does not affect others. [MQTT5-4.13.1-1] [MQTT311-4.8.0-1] [MQTT311-4.8.0-2]
/// [MQTT5-§4.13.2#2]
pub fn errors_touch_only_their_own_connection(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("other");
        let mut other = broker.client(version);
        other.subscribe(&topic, 1);
        for said in ["36 * 0000 0000", "82 03 0000 00", "30 FFFFFFFF", "F1 00", "20 02 00 00"] {
            let mut peer = broker.client(version);
            peer.send(said);
            let last = peer.expect_end();
            assert!(
                last.iter().all(|packet| packet.kind == Disconnect && [0x81, 0x82].contains(&packet.code))
            );
            other.ping();
        }
        other.publish(publish(&topic, "fine").qos1(1));
        other.expect_message(&topic, "fine");
    }
}
