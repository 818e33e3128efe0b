//! Which clients may connect, and enhanced authentication with the built-in test method.

use crate::prelude::*;

const METHOD: &str = "midge-test";

/// A connection that has received a challenge.
fn challenged(broker: &Broker) -> Client {
    let mut peer = broker.offer(connect(V5, broker.unique("auth")).with(text(AUTH_METHOD, METHOD)));
    let challenge = peer.expect(Auth);
    assert_eq!(challenge.code, 0x18);
    assert_eq!(challenge.text(AUTH_METHOD), Some(METHOD.as_bytes()));
    assert_eq!(challenge.text(AUTH_DATA), Some(&b"challenge"[..]));
    peer
}

/// A connection that has authenticated.
fn proved(broker: &Broker) -> Client {
    let mut peer = challenged(broker);
    peer.send(auth(0x18, METHOD, "response"));
    let connack = peer.expect(Connack);
    assert_eq!(connack.code, 0);
    assert_eq!(connack.text(AUTH_METHOD), Some(METHOD.as_bytes()));
    peer
}

/// [MQTT5-3.1.4-2] [MQTT5-reason-0x86] [MQTT5-reason-0x87] [MQTT311-§3.1.4#2] [MQTT311-code-4] [MQTT311-code-5]
/// [MQTT311-3.2.2-5] [MQTT5-3.1.4-6] [MQTT311-3.1.4-5]
pub fn clients_without_proof_are_refused_without_a_trace(broker: &Broker) {
    let Some(broker) = broker.with(&LOCKED) else { return };
    let topic = broker.unique("locked");
    let mut watcher = proved(broker);
    watcher.subscribe(&topic, 0);
    for version in EVERY_VERSION {
        let codes: &[u8] = if version == V5 { &[0x86, 0x87] } else { &[4, 5] };
        for wanted in [
            connect(version, broker.unique("locked")).will(will(&topic, "lost")),
            connect(version, broker.unique("locked"))
                .will(will(&topic, "lost"))
                .user("user")
                .password("wrong"),
        ] {
            broker.offer(wanted.clone()).expect_refused(codes);
            let mut peer = broker.open(version);
            peer.send_all(&[&wanted, &publish(&topic, "forged")]);
            peer.expect_end();
        }
    }
    watcher.expect_nothing();
}

/// [MQTT5-4.12.0-1] [MQTT5-reason-0x8C]
pub fn unknown_methods_are_refused(broker: &Broker) {
    for broker in [Some(broker), broker.with(&LOCKED)].into_iter().flatten() {
        let mut peer = broker.offer(connect(V5, broker.unique("nope")).with(text(AUTH_METHOD, "nope")));
        peer.expect_refused(&[0x8C, 0x87]);
    }
    // If the test method is not offered, it is an unknown method too.
    let mut peer = broker.offer(connect(V5, broker.unique("nope")).with(text(AUTH_METHOD, METHOD)));
    peer.expect_refused(&[0x8C, 0x87]);
}

/// [MQTT5-4.12.0-2] [MQTT5-4.12.0-5] [PITFALL-50] [MQTT5-reason-0x18] [MQTT5-property-0x15] [MQTT5-property-0x16]
pub fn method_is_repeated_in_every_step(broker: &Broker) {
    let Some(broker) = broker.with(&LOCKED) else { return };
    let mut peer = proved(broker);
    let topic = broker.unique("proved");
    peer.subscribe(&topic, 1);
    peer.publish(publish(&topic, "x").qos1(1));
    peer.expect_message(&topic, "x");
}

/// [MQTT5-4.12.0-3] [MQTT5-4.12.0-4] [MQTT5-3.15.2-1]
pub fn wrong_steps_end_the_handshake(broker: &Broker) {
    let Some(broker) = broker.with(&LOCKED) else { return };
    let mut peer = challenged(broker);
    peer.send(auth(0x18, METHOD, "wrong"));
    peer.expect_refused(&[0x87]);
    for (step, codes) in [
        (auth(0x19, METHOD, "response"), &[0x81, 0x82, 0x87][..]),
        (auth(0x00, METHOD, "response"), &[0x81, 0x82]),
        (auth(0x18, "other", "response"), &[0x82, 0x8C]),
        (bytes("F0 00"), &[0x81, 0x82]),
        (bytes("F1 00"), &[0x81]),
    ] {
        let mut peer = challenged(broker);
        peer.send(step);
        let last = peer.expect_end();
        let fine = last.iter().all(|packet| packet.kind == Connack && codes.contains(&packet.code));
        assert!(fine && last.len() <= 1, "{last:?}");
    }
}

/// [MQTT5-3.1.2-30] [MQTT5-3.2.0-1]
pub fn only_auth_and_disconnect_may_come_during_the_handshake(broker: &Broker) {
    let Some(broker) = broker.with(&LOCKED) else { return };
    let topic = broker.unique("mid");
    let mut watcher = proved(broker);
    watcher.subscribe(&topic, 0);
    for packet in [publish(&topic, "early").encode(V5), pingreq(), subscribe(1).filter(&topic, 0).encode(V5)]
    {
        let mut peer = challenged(broker);
        peer.send(packet);
        let last = peer.expect_end();
        assert!(last.iter().all(|packet| packet.kind == Connack && packet.code == 0x82), "{last:?}");
    }
    let mut peer = challenged(broker);
    peer.send(disconnect(0));
    peer.expect_closed();
    watcher.expect_nothing();
}

/// [MQTT5-4.12.0-6] [MQTT5-4.12.0-7] [MQTT5-3.15.1-1]
pub fn auth_without_a_method_in_connect_is_a_protocol_error(broker: &Broker) {
    for step in [auth(0x19, METHOD, ""), auth(0x18, METHOD, "response")] {
        let mut peer = broker.client(V5);
        assert!(!peer.connack.as_ref().is_some_and(|connack| connack.has(AUTH_METHOD)));
        peer.send(step);
        peer.expect_disconnect(&[0x82]);
    }
}

/// [MQTT5-§4.12.1] [MQTT5-4.12.1-1] [PITFALL-50] [MQTT5-reason-0x19]
pub fn client_may_prove_itself_again(broker: &Broker) {
    let Some(broker) = broker.with(&LOCKED) else { return };
    let topic = broker.unique("reauth");
    let mut peer = proved(broker);
    peer.subscribe(&topic, 0);
    for _ in 0..2 {
        peer.send(auth(0x19, METHOD, ""));
        let challenge = peer.expect(Auth);
        assert_eq!((challenge.code, challenge.text(AUTH_METHOD)), (0x18, Some(METHOD.as_bytes())));
        // Other packets flow in both directions at the same time.
        peer.publish(publish(&topic, "meanwhile").qos1(1));
        peer.expect_message(&topic, "meanwhile");
        peer.send(auth(0x18, METHOD, "response"));
        let done = peer.expect(Auth);
        assert_eq!((done.code, done.text(AUTH_METHOD)), (0x00, Some(METHOD.as_bytes())));
    }
    peer.ping();
}

/// [MQTT5-4.12.1-1] [MQTT5-4.12.1-2] [MQTT5-reason-0x8C]
pub fn failed_or_changed_proof_ends_the_connection(broker: &Broker) {
    let Some(broker) = broker.with(&LOCKED) else { return };
    let mut peer = proved(broker);
    peer.send(auth(0x19, METHOD, ""));
    peer.expect(Auth);
    peer.send(auth(0x18, METHOD, "wrong"));
    peer.expect_disconnect(&[0x87]);
    let mut peer = proved(broker);
    peer.send(auth(0x19, "other", ""));
    peer.expect_disconnect(&[0x82]);
    let mut peer = proved(broker);
    peer.send(auth(0x18, METHOD, "response"));
    peer.expect_disconnect(&[0x82]);
}

/// [MQTT5-§3.15.2.2.2] [MQTT5-property-0x15] [MQTT5-property-0x16] [PITFALL-37]
pub fn properties_of_auth_are_checked(broker: &Broker) {
    let Some(broker) = broker.with(&LOCKED) else { return };
    let m = format!("15 '{METHOD}'");
    let length = |said: &str| format!("{:02X} {said}", bytes(said).len());
    for said in [
        format!("F0 * 19 {}", length("16 'data'")),
        "F0 * 19 00".to_string(),
        format!("F0 * 19 {}", length(&format!("{m} {m}"))),
        format!("F0 * 19 {}", length(&format!("{m} 16 'a' 16 'a'"))),
        format!("F0 * 19 {}", length(&format!("{m} 1F 'a' 1F 'a'"))),
    ] {
        let mut peer = proved(broker);
        peer.client_id = format!("saying {said}");
        peer.send(said);
        peer.expect_disconnect(&[0x82]);
    }
    let mut peer = proved(broker);
    peer.send(format!("F0 * 19 {}", length(&format!("{m} 11 00000001"))));
    peer.expect_disconnect(&[0x81]);
    let mut peer = proved(broker);
    peer.send(format!("F0 * 19 {}", length(&format!("{m} 26 'a' 'b' 26 'a' 'b' 1F 'because'"))));
    assert_eq!(peer.expect(Auth).code, 0x18);
}

/// [MQTT5-§3.1.2.11.10] [MQTT5-property-0x16]
pub fn authentication_data_without_method_is_a_protocol_error(broker: &Broker) {
    for broker in [Some(broker), broker.with(&LOCKED)].into_iter().flatten() {
        let mut peer = broker.offer(connect(V5, broker.unique("data")).with(text(AUTH_DATA, "x")));
        peer.expect_refused(&[0x82]);
    }
}

/// [MQTT5-3.15.2-2] [MQTT5-3.15.2-3]
pub fn auth_fits_the_clients_maximum(broker: &Broker) {
    let Some(broker) = broker.with(&LOCKED) else { return };
    let length = proved(broker).largest_packet();
    let wanted = connect(V5, broker.unique("auth")).with(text(AUTH_METHOD, METHOD));
    let mut peer = broker.offer(wanted.with(four(MAXIMUM_PACKET_SIZE, length)));
    // The reader refuses any packet above the announced size.
    assert_eq!(peer.expect(Auth).code, 0x18);
    peer.send(auth(0x18, METHOD, "wrong"));
    peer.expect_refused(&[0x87]);
}
