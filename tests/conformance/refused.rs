//! CONNECT packets that cannot be accepted: midge refuses them or closes the connection, and they have no
//! other effect.

use crate::prelude::*;

/// Sends each of these CONNECT packets. None is accepted, the reason code is one of `codes`, and nothing
/// follows.
fn all_refused(broker: &Broker, codes: &[u8], said: &[String]) {
    each(said, |said| {
        let mut peer = broker.open(V5);
        peer.send(&said[..]);
        peer.expect_refused(codes);
    });
}

/// Sends each of these CONNECT packets of 3.1 and 3.1.1. Each connection is closed without a byte.
fn all_closed(broker: &Broker, said: &[String]) {
    each(said, |said| {
        let mut peer = broker.open(V311);
        peer.send(&said[..]);
        peer.expect_closed();
    });
}

/// [MQTT5-3.1.2-3] [MQTT5-3.1.2-9] [MQTT5-3.1.2-12] [MQTT5-3.1.2-16] [MQTT5-3.1.2-17] [MQTT5-3.1.2-18]
/// [MQTT5-3.1.2-19] [MQTT5-3.1.3-3] [MQTT5-3.1.4-1] [MQTT5-3.14.0-1] [MQTT5-3.2.2-7] [MQTT5-3.2.2-8] [PITFALL-15]
pub fn connect_that_cannot_be_read_is_malformed(broker: &Broker) {
    let id = broker.unique("bad");
    let said = [
        format!("10 * 'MQTT' 05 03 0000 00 '{id}'"),
        format!("10 * 'MQTT' 05 06 0000 00 '{id}'"),
        format!("10 * 'MQTT' 05 06 0000 00 '{id}' 00"),
        format!("10 * 'MQTT' 05 06 0000 00 '{id}' 00 'topic'"),
        format!("10 * 'MQTT' 05 1E 0000 00 '{id}' 00 'topic' 'payload'"),
        format!("10 * 'MQTT' 05 02 0000 00 '{id}' 'user'"),
        format!("10 * 'MQTT' 05 82 0000 00 '{id}'"),
        format!("10 * 'MQTT' 05 82 0000 00 '{id}' 'user' 'password'"),
        format!("10 * 'MQTT' 05 C2 0000 00 '{id}' 'user'"),
        format!("10 * 'MQTT' 05 42 0000 00 '{id}'"),
        "10 * 'MQTT' 05 02 0000 00".to_string(),
        "10 * 'MQTT' 05 02 0000".to_string(),
        "10 * 'MQTT' 05 02 00".to_string(),
        format!("10 * 'MQTT' 05 02 0000 C8 '{id}'"),
        format!("10 * 'MQTT' 05 02 0000 05 11 0000 '{id}'"),
        format!("10 * 'MQTT' 05 02 0000 00 00FF `{id}`"),
    ];
    all_refused(broker, &[0x81], &said);
    let (_, present) = broker.connect_present(connect(V5, &id).lasting());
    assert!(!present, "a malformed CONNECT leaves no session");
}

/// [MQTT5-3.1.2-11] [MQTT5-3.1.2-13] [PITFALL-43]
pub fn will_bits_without_will_flag_are_refused(broker: &Broker) {
    let id = broker.unique("bits");
    let said: Vec<String> =
        ["0A", "12", "1A", "22", "2A"].map(|flags| format!("10 * 'MQTT' 05 {flags} 0000 00 '{id}'")).into();
    all_refused(broker, &[0x81, 0x82], &said);
}

/// [MQTT311-3.1.2-3] [MQTT311-3.1.2-9] [MQTT311-3.1.2-11] [MQTT311-3.1.2-13] [MQTT311-3.1.2-14]
/// [MQTT311-3.1.2-15] [MQTT311-3.1.2-18] [MQTT311-3.1.2-19] [MQTT311-3.1.2-20] [MQTT311-3.1.2-21]
/// [MQTT311-3.1.2-22] [MQTT311-3.1.3-3] [MQTT311-3.1.4-1] [MQTT311-3.2.2-6] [PITFALL-43]
pub fn connect_of_311_that_does_not_conform_is_closed(broker: &Broker) {
    let id = broker.unique("bad");
    let said = [
        format!("10 * 'MQTT' 04 03 0000 '{id}'"),
        format!("10 * 'MQTT' 04 06 0000 '{id}'"),
        format!("10 * 'MQTT' 04 06 0000 '{id}' 'topic'"),
        format!("10 * 'MQTT' 04 0A 0000 '{id}'"),
        format!("10 * 'MQTT' 04 22 0000 '{id}'"),
        format!("10 * 'MQTT' 04 1E 0000 '{id}' 'topic' 'payload'"),
        format!("10 * 'MQTT' 04 02 0000 '{id}' 'user'"),
        format!("10 * 'MQTT' 04 82 0000 '{id}'"),
        format!("10 * 'MQTT' 04 82 0000 '{id}' 'user' 'password'"),
        format!("10 * 'MQTT' 04 C2 0000 '{id}' 'user'"),
        format!("10 * 'MQTT' 04 42 0000 '{id}' 'password'"),
        "10 * 'MQTT' 04 02 0000".to_string(),
        "10 * 'MQTT' 04 02 00".to_string(),
    ];
    all_closed(broker, &said);
    let (_, present) = broker.connect_present(connect(V311, &id).lasting());
    assert!(!present, "a CONNECT that was refused leaves no session");
}

/// [MQTT31-§3.1-i] [MQTT31-§3.1-j]
pub fn unused_connect_bits_of_31_are_no_errors(broker: &Broker) {
    for flags in ["0A", "22", "03"] {
        let mut peer = broker.open(V31);
        peer.send(format!("10 * 'MQIsdp' 03 {flags} 0000 '{}'", broker.unique("m")));
        assert_eq!(peer.next_packet().bytes, bytes("20 02 00 00"));
    }
    let mut peer = broker.open(V31);
    peer.send(format!("10 * 'MQIsdp' 03 42 0000 '{}' 'password'", broker.unique("m")));
    peer.expect_closed();
}

/// [MQTT5-3.1.3-4] [MQTT5-3.1.3-11] [MQTT5-3.1.3-12] [MQTT311-3.1.3-4] [MQTT311-3.1.3-10] [MQTT311-3.1.3-11]
/// [MQTT311-1.5.3-2] [MQTT5-1.5.4-2] [MQTT5-reason-0x90] [PITFALL-43]
pub fn strings_of_connect_must_be_utf8(broker: &Broker) {
    let id = broker.unique("utf");
    for wrong in ["0001 FF", "0003 EDA080", "0002 C0AF", "0001 00", "0002 6100"] {
        let said = [
            format!("10 * 'MQTT' 05 02 0000 00 {wrong}"),
            format!("10 * 'MQTT' 05 06 0000 00 '{id}' 00 {wrong} 'payload'"),
            format!("10 * 'MQTT' 05 82 0000 00 '{id}' {wrong}"),
            format!("10 * 'MQTT' 05 06 0000 00 '{id}' {:02X} 03 {wrong} 't' 'p'", bytes(wrong).len() + 1),
            format!("10 * 'MQTT' 05 02 0000 {:02X} 26 'n' {wrong} '{id}'", bytes(wrong).len() + 4),
        ];
        all_refused(broker, &[0x81], &said);
        let said = [
            format!("10 * 'MQTT' 04 02 0000 {wrong}"),
            format!("10 * 'MQTT' 04 06 0000 '{id}' {wrong} 'payload'"),
            format!("10 * 'MQTT' 04 82 0000 '{id}' {wrong}"),
            format!("10 * 'MQIsdp' 03 06 0000 '{id}' {wrong} 'payload'"),
        ];
        all_closed(broker, &said);
    }
    for topic in ["''", "'a/#'", "'+'", "'a+'"] {
        all_refused(
            broker,
            &[0x81, 0x82, 0x90],
            &[format!("10 * 'MQTT' 05 06 0000 00 '{id}' 00 {topic} 'payload'")],
        );
        all_closed(broker, &[format!("10 * 'MQTT' 04 06 0000 '{id}' {topic} 'payload'")]);
    }
}

/// A will with an invalid or reserved topic is never published. [MQTT5-4.7.0-1] [MQTT311-4.7.1-1]
pub fn will_topics_pass_the_checks_of_publish(broker: &Broker) {
    let mut watcher = broker.client(V5);
    watcher.subscribe("$SYS/midge-conformance/#", 0);
    for version in EVERY_VERSION {
        let id = broker.unique("sys");
        let mut peer = broker.offer(connect(version, id).will(will("$SYS/midge-conformance/will", "forged")));
        if let Next::Packet(_) = peer.next_within(PATIENCE) {
            peer.vanish();
        }
    }
    watcher.expect_nothing_for(400);
}

/// [MQTT5-3.1.3-8] [MQTT311-3.1.3-9] [MQTT5-reason-0x85]
pub fn refused_identifiers_get_their_code(broker: &Broker) {
    // The identifier is well-formed, but it has control characters, which midge does not accept.
    let mut peer = broker.offer(connect(V5, "bad\u{1}id"));
    peer.expect_refused(&[0x81, 0x85]);
    let mut peer = broker.offer(connect(V311, "bad\u{1}id"));
    peer.expect_refused(&[2]);
}

/// [MQTT5-3.1.4-6] [MQTT311-3.1.4-5]
pub fn nothing_behind_a_refused_connect_is_processed(broker: &Broker) {
    let topic = broker.unique("behind");
    let mut watcher = broker.client(V5);
    watcher.subscribe(&topic, 0);
    let mut peer = broker.open(V5);
    peer.send_all(&[&"10 * 'MQTT' 05 03 0000 00 'bad'", &publish(&topic, "x")]);
    // Unread bytes may turn the close into a reset, and the CONNACK may be lost with it.
    let last = peer.expect_end();
    assert!(last.iter().all(|packet| packet.kind == Connack && packet.code == 0x81), "{last:?}");
    let mut peer = broker.open(V311);
    peer.send_all(&[&"10 * 'MQTT' 04 03 0000 'bad'", &publish(&topic, "x")]);
    peer.expect_closed();
    watcher.expect_nothing();
}

/// [MQTT5-§3.1.3.2.3] [MQTT5-reason-0x99] [MQTT5-§3.3.2.3.2] [MQTT5-property-0x01]
pub fn payload_format_is_checked_or_carried_unchanged(broker: &Broker) {
    let topic = broker.unique("format");
    let mut watcher = broker.client(V5);
    watcher.subscribe(&topic, 1);
    let wrong = will(&topic, [0xFF, 0xFE]).with(byte(PAYLOAD_FORMAT, 1));
    let mut peer = broker.offer(connect(V5, broker.unique("format")).will(wrong));
    let accepted = peer.next_packet();
    if accepted.code == 0 {
        peer.vanish();
        watcher.expect_message(&topic, [0xFF, 0xFE]);
    } else {
        assert_eq!(accepted.code, 0x99);
    }
    let mut peer = broker.client(V5);
    let wrong = |qos| publish(&topic, [0xFF, 0xFE]).with(byte(PAYLOAD_FORMAT, 1)).qos(qos, 1);
    for qos in [1, 2] {
        let code = peer.publish(wrong(qos));
        assert!(matches!(code, 0x00 | 0x10 | 0x99), "code {code:02X}");
        if code != 0x99 {
            let message = watcher.expect_message(&topic, [0xFF, 0xFE]);
            watcher.acknowledge(&message);
            assert_eq!(message.number(PAYLOAD_FORMAT), Some(1));
        }
    }
    for value in ["02", "FF"] {
        let mut peer = broker.client(V5);
        peer.send(format!("30 * '{topic}' 02 01 {value} `x`"));
        peer.expect_disconnect(&[0x81, 0x82]);
        let mut peer = broker.open(V5);
        peer.send(format!("10 * 'MQTT' 05 06 0000 00 'format' 02 01 {value} 't' 'p'"));
        peer.expect_refused(&[0x81, 0x82]);
    }
    watcher.expect_nothing();
}

/// [PITFALL-39] [MQTT5-property-0x17] [MQTT5-property-0x19] [MQTT5-property-0x21] [MQTT5-property-0x27]
pub fn values_out_of_range_are_protocol_errors(broker: &Broker) {
    for property in ["03 21 0000", "05 27 00000000", "02 17 02", "02 19 02", "02 17 FF", "02 19 FF"] {
        let mut peer = broker.open(V5);
        peer.client_id = format!("saying {property}");
        peer.send(format!("10 * 'MQTT' 05 02 0000 {property} 'range'"));
        peer.expect_refused(&[0x82]);
    }
}

/// [PITFALL-37] [MQTT5-property-0x11] [MQTT5-property-0x17] [MQTT5-property-0x18] [MQTT5-property-0x19]
/// [MQTT5-property-0x21] [MQTT5-property-0x22] [MQTT5-property-0x27]
pub fn properties_of_connect_come_once(broker: &Broker) {
    for once in ["11 00000001", "21 0005", "27 00001000", "22 0005", "17 01", "19 01", "15 'm'"] {
        let twice = format!("{once} {once}");
        let mut peer = broker.open(V5);
        peer.client_id = format!("saying {twice}");
        peer.send(format!("10 * 'MQTT' 05 02 0000 {:02X} {twice} 'once'", bytes(&twice).len()));
        peer.expect_refused(&[0x82]);
    }
    for once in ["01 01", "02 00000005", "03 'a'", "08 'a'", "09 'a'", "18 00000005"] {
        let twice = format!("{once} {once}");
        let mut peer = broker.open(V5);
        peer.client_id = format!("saying {twice} in the Will");
        peer.send(format!("10 * 'MQTT' 05 06 0000 00 'once' {:02X} {twice} 't' 'p'", bytes(&twice).len()));
        peer.expect_refused(&[0x82]);
    }
}
