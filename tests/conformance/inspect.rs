//! One packet of every kind, with many of the codes, from the broker. The reader checks each of them: flags,
//! lengths, allowed properties, allowed codes.

use crate::prelude::*;

/// [MQTT5-§2.4] [MQTT5-2.1.3-1] [MQTT5-2.2.2-1] [MQTT5-3.4.2-1] [MQTT5-3.5.2-1] [MQTT5-3.6.2-1] [MQTT5-3.7.2-1]
/// [MQTT5-3.9.3-2] [MQTT5-3.11.3-2] [MQTT5-3.2.2-1] [MQTT5-1.5.5-1]
pub fn packets_of_every_kind_are_as_the_standard_says(broker: &Broker) {
    let topic = broker.unique("kinds");
    let mut peer = broker.client(V5);
    peer.subscribe(&topic, 2);
    let mut seen = vec![(Connack, 0x20)];
    peer.send_all(&[
        &publish("$SYS/denied", "x").qos1(1),
        &publish("$SYS/denied", "x").qos2(2),
        &pubrel(77),
        &pubrec(78),
        &unsubscribe(4).filter("not/there").filter("nor/there"),
        &subscribe(5).filter(format!("{topic}/a"), 0).filter(format!("{topic}/b"), 2),
        &pingreq(),
    ]);
    for _ in 0..7 {
        let packet = peer.next_packet();
        seen.push((packet.kind, packet.bytes[0]));
    }
    for (qos, first) in [(0, 0x30), (1, 0x32), (2, 0x34)] {
        peer.publish(publish(&topic, "x").qos(qos, 9));
        let message = peer.expect_message(&topic, "x");
        assert_eq!(message.bytes[0], first);
        peer.acknowledge(&message);
    }
    for expected in [
        (Puback, 0x40),
        (Pubrec, 0x50),
        (Pubcomp, 0x70),
        (Pubrel, 0x62),
        (Unsuback, 0xB0),
        (Suback, 0x90),
        (Pingresp, 0xD0),
    ] {
        assert!(seen.contains(&expected), "{expected:?} in {seen:02X?}");
    }
}

/// [MQTT5-3.14.2-1] [MQTT5-3.14.2-2] [MQTT5-3.14.4-1] [MQTT5-3.14.4-2] [MQTT5-4.13.2-1]
pub fn disconnect_is_the_last_packet_and_has_no_session_expiry(broker: &Broker) {
    let causes = [
        "36 * 'a' 0001 00 `x`",
        "82 03 0001 00",
        "30 * '' 00 `x`",
        "C1 00",
        "30 * 'a' 03 23 0000 `x`",
        "10 00",
    ];
    each(causes, |said| {
        let mut peer = broker.connect(connect(V5, broker.unique("bye")).expiry(60));
        peer.send_all(&[said, &pingreq(), &publish("a", "x").qos1(1)]);
        let last = peer.expect_end();
        assert!(last.len() <= 1, "nothing after DISCONNECT: {last:?}");
        for packet in last {
            assert!(packet.kind == Disconnect && packet.code >= 0x80);
            assert!(!packet.has(SESSION_EXPIRY));
        }
    });
}

/// [MQTT311-2.2.2-1] [MQTT311-§3.4–3.7] [MQTT311-§3.2.2.1]
pub fn packets_of_every_kind_are_as_the_old_standards_say(broker: &Broker) {
    for version in BEFORE_5 {
        let topic = broker.unique("kinds");
        let mut peer = broker.client(version);
        peer.send(subscribe(0x0102).filter(&topic, 2));
        assert_eq!(peer.next_packet().bytes, bytes("90 03 0102 02"));
        peer.send(publish(&topic, "x").qos2(7));
        peer.expect_ack(Pubrec, 7);
        peer.send(pubrel(7));
        peer.expect_ack(Pubcomp, 7);
        let message = peer.expect_message(&topic, "x");
        peer.send(pubrec(message.id));
        assert_eq!(peer.next_packet().bytes, [&[0x62, 0x02][..], &message.id.to_be_bytes()].concat());
        peer.send(pubcomp(message.id));
        peer.send(unsubscribe(9).filter(&topic));
        assert_eq!(peer.next_packet().bytes, bytes("B0 02 0009"));
        peer.send(pingreq());
        assert_eq!(peer.next_packet().bytes, bytes("D0 00"));
    }
}
