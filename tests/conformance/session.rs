//! Sessions: clean start, resumption, expiry, takeover, and what a session remembers.

use crate::prelude::*;

/// [MQTT5-3.1.2-4] [MQTT5-3.2.2-2] [MQTT311-3.1.2-6] [MQTT311-3.2.2-1] [PITFALL-14] [MQTT5-§3.1.2.11.2#3]
pub fn clean_start_discards_the_session(broker: &Broker) {
    for version in EVERY_VERSION {
        let (topic, id) = (broker.unique("clean"), broker.unique("clean"));
        let mut peer = broker.connect(connect(version, &id).lasting());
        peer.subscribe(&topic, 1);
        peer.leave();
        broker.client(version).publish(publish(&topic, "queued").qos1(1));
        let (mut peer, present) = broker.connect_present(connect(version, &id));
        assert!(!present);
        broker.client(version).publish(publish(&topic, "live").qos1(1));
        peer.expect_nothing();
        peer.leave();
        let (mut peer, present) = broker.connect_present(connect(version, &id).lasting());
        assert!(!present, "a clean session ends with its connection");
        peer.expect_nothing();
    }
}

/// [MQTT5-3.1.2-5] [MQTT5-3.1.2-23] [MQTT5-4.1.0-1] [MQTT5-4.5.0-1] [MQTT5-3.2.2-3] [MQTT5-3.2.0-1]
/// [MQTT311-3.1.2-4] [MQTT311-3.1.2-5] [MQTT311-3.2.2-2] [MQTT311-4.1.0-1] [MQTT311-4.5.0-1] [MQTT311-3.2.0-1]
/// [PITFALL-15] [MQTT5-§4.1]
pub fn resumed_session_has_its_subscriptions_and_its_queue(broker: &Broker) {
    for version in EVERY_VERSION {
        let (topic, id) = (broker.unique("resume"), broker.unique("resume"));
        let mut peer = broker.connect(connect(version, &id).lasting());
        peer.subscribe(&topic, 2);
        peer.leave();
        let mut publisher = broker.client(version);
        publisher.publish(publish(&topic, "one").qos1(1));
        publisher.publish(publish(&topic, "two").qos2(2));
        let (mut peer, present) = broker.connect_present(connect(version, &id).lasting());
        assert_eq!(present, version != V31);
        let message = peer.expect_message(&topic, "one");
        assert!(message.qos == 1 && !message.duplicate, "the first sending has DUP 0");
        peer.acknowledge(&message);
        let message = peer.expect_message(&topic, "two");
        assert!(message.qos == 2 && !message.duplicate);
        peer.acknowledge(&message);
        publisher.publish(publish(&topic, "live").qos1(3));
        peer.expect_message(&topic, "live");
    }
}

/// [MQTT311-3.2.2-2]
pub fn empty_session_counts_as_a_session(broker: &Broker) {
    for version in [V5, V311] {
        let id = broker.unique("bare");
        broker.connect(connect(version, &id).lasting()).leave();
        let (_, present) = broker.connect_present(connect(version, &id).lasting());
        assert!(present);
    }
}

/// [MQTT31-§3.1-e]
pub fn version_31_has_no_session_present(broker: &Broker) {
    let id = broker.unique("noflag");
    broker.connect(connect(V31, &id).resume()).leave();
    let mut peer = broker.offer(connect(V31, &id).resume());
    assert_eq!(peer.next_packet().bytes, bytes("20 02 00 00"));
}

/// [MQTT5-§4.1#2] [MQTT311-3.1.2-5]
pub fn qos_0_may_wait_or_be_dropped_while_a_client_is_away(broker: &Broker) {
    for version in EVERY_VERSION {
        let (topic, id) = (broker.unique("away"), broker.unique("away"));
        let mut peer = broker.connect(connect(version, &id).lasting());
        peer.subscribe(&topic, 1);
        peer.leave();
        let mut publisher = broker.client(version);
        publisher.publish(publish(&topic, "zero"));
        publisher.publish(publish(&topic, "one").qos1(1));
        let mut peer = broker.connect(connect(version, &id).lasting());
        let first = peer.collect(1);
        assert!(first == ["one"] || (first == ["zero"] && peer.collect(1) == ["one"]));
    }
}

/// [MQTT5-§3.1.2.11.2] [PITFALL-13] [MQTT5-property-0x11]
pub fn session_without_expiry_ends_with_its_connection(broker: &Broker) {
    for wanted in
        [connect(V5, broker.unique("short")).resume(), connect(V5, broker.unique("short")).resume().expiry(0)]
    {
        let mut peer = broker.connect(wanted.clone());
        peer.subscribe(broker.unique("short"), 1);
        peer.vanish();
        // The broker may see the new connection before the end of the old one. In either case the session has
        // ended.
        let (_, present) = broker.connect_present(wanted);
        assert!(!present);
    }
}

/// [MQTT5-4.1.0-2] [MQTT5-3.2.2-3] [MQTT5-4.1.0-1] [PITFALL-13] [MQTT5-§4.1#3] [MQTT311-4.1.0-2]
pub fn session_expires_after_its_interval_and_not_while_connected(broker: &Broker) {
    let (topic, id) = (broker.unique("lapse"), broker.unique("lapse"));
    let wanted = || connect(V5, &id).resume().expiry(5);
    let mut peer = broker.connect(wanted());
    peer.subscribe(&topic, 1);
    let mut publisher = broker.client(V5);
    publisher.publish(publish(format!("{topic}/kept"), "kept").qos1(1).retain());
    broker.sleep(Duration::from_millis(6500));
    publisher.publish(publish(&topic, "still here").qos1(1));
    let message = peer.expect_message(&topic, "still here");
    peer.acknowledge(&message);
    peer.leave();
    publisher.publish(publish(&topic, "queued").qos1(1));
    let (peer, present) = broker.connect_present(wanted());
    assert!(present, "not before its time");
    peer.vanish();
    broker.sleep(Duration::from_millis(7000));
    let (mut peer, present) = broker.connect_present(wanted());
    assert!(!present, "expired");
    publisher.publish(publish(&topic, "to nobody").qos1(1));
    peer.expect_nothing();
    peer.subscribe(format!("{topic}/kept"), 1);
    peer.expect_message(&format!("{topic}/kept"), "kept");
}

/// [MQTT5-§3.1.2.11.2] [MQTT5-§3.1.2.11.2#2] [MQTT5-§3.1.2.11.2#3]
pub fn sessions_go_from_version_to_version(broker: &Broker) {
    for (from, to) in [(V311, V5), (V5, V311), (V31, V5), (V311, V31)] {
        let (topic, id) = (broker.unique("cross"), broker.unique("cross"));
        let wanted = |version| {
            if version == V5 {
                connect(V5, &id).resume().expiry(u32::MAX)
            } else {
                connect(version, &id).resume()
            }
        };
        let mut peer = broker.connect(wanted(from));
        peer.subscribe(&topic, 1);
        peer.leave();
        let mut publisher = broker.client(V5);
        publisher.publish(publish(&topic, "queued").qos1(1).retain());
        let (mut peer, present) = broker.connect_present(wanted(to));
        assert_eq!(present, to != V31);
        assert_eq!(peer.collect(1), ["queued"]);
        peer.leave();
        let mut peer = broker.connect(connect(to, &id));
        peer.expect_nothing();
    }
}

/// [MQTT5-§3.14.2.2.2] [MQTT5-property-0x11]
pub fn disconnect_may_change_the_expiry(broker: &Broker) {
    let id = broker.unique("change");
    let mut peer = broker.connect(connect(V5, &id).resume().expiry(300));
    peer.send("E0 * 00 05 11 00000000");
    peer.expect_closed();
    let (mut peer, present) = broker.connect_present(connect(V5, &id).resume().expiry(300));
    assert!(!present, "lowered to 0");
    peer.send("E0 * 00 05 11 0000000A");
    peer.expect_closed();
    let (mut peer, present) = broker.connect_present(connect(V5, &id).resume().expiry(1));
    assert!(present, "ten seconds");
    peer.send("E0 * 00 05 11 0000012C");
    peer.expect_closed();
    broker.sleep(Duration::from_millis(2500));
    let (_, present) = broker.connect_present(connect(V5, &id).resume());
    assert!(present, "raised to 300");
}

/// [MQTT5-§3.14.2.2.2#2] [PITFALL-12]
pub fn disconnect_must_not_raise_the_expiry_from_0(broker: &Broker) {
    let (topic, id) = (broker.unique("raise"), broker.unique("raise"));
    let mut watcher = broker.client(V5);
    watcher.subscribe(&topic, 0);
    let mut peer = broker.connect(connect(V5, &id).resume().will(will(&topic, "lost")));
    peer.send("E0 * 00 05 11 0000000A");
    peer.expect_disconnect(&[0x82]);
    watcher.expect_message(&topic, "lost");
    let (_, present) = broker.connect_present(connect(V5, &id).resume());
    assert!(!present);
}

/// [MQTT5-3.1.4-3] [MQTT311-3.1.4-2] [PITFALL-17] [MQTT5-reason-0x8E] [MQTT5-3.14.4-1] [MQTT5-3.14.4-2]
pub fn takeover_disconnects_the_old_connection(broker: &Broker) {
    for version in EVERY_VERSION {
        for newer in EVERY_VERSION {
            let id = broker.unique("taken");
            let mut old = broker.connect(connect(version, &id).lasting());
            let (mut new, present) = broker.connect_present(connect(newer, &id).lasting());
            assert_eq!(present, newer != V31, "{version:?} taken over by {newer:?}");
            old.expect_disconnect(&[0x8E]);
            new.ping();
        }
    }
}

/// [MQTT5-3.1.4-4] [MQTT311-3.1.4-3]
pub fn clean_start_applies_after_takeover(broker: &Broker) {
    for version in EVERY_VERSION {
        let (topic, id) = (broker.unique("over"), broker.unique("over"));
        let mut old = broker.connect(connect(version, &id).lasting());
        old.subscribe(&topic, 1);
        let (mut new, present) = broker.connect_present(connect(version, &id));
        assert!(!present);
        old.expect_disconnect(&[0x8E]);
        broker.client(version).publish(publish(&topic, "x").qos1(1));
        new.expect_nothing();
    }
}

/// [PITFALL-9] [MQTT5-§3.1.2.11.2]
pub fn session_with_expiry_0_is_not_handed_over(broker: &Broker) {
    for _ in 0..10 {
        let (topic, id) = (broker.unique("race"), broker.unique("race"));
        let mut old = broker.connect(connect(V5, &id).resume());
        old.subscribe(&topic, 1);
        let mut new = broker.offer(connect(V5, &id).resume());
        assert!(!new.expect(Connack).session_present);
        old.expect_disconnect(&[0x8E]);
        broker.client(V5).publish(publish(&topic, "x").qos1(1));
        new.expect_nothing();
    }
}

/// Many connections compete for one identifier: one remains, and works. [MQTT5-3.1.4-3] [MQTT311-3.1.4-2]
pub fn takeovers_in_a_row_leave_one_connection(broker: &Broker) {
    let (topic, id) = (broker.unique("fight"), broker.unique("fight"));
    let mut peers: Vec<Client> =
        (0..30).map(|at| broker.offer(connect(EVERY_VERSION[at % 3], &id).lasting())).collect();
    // Each is accepted, or was replaced before.
    for peer in &mut peers {
        let _ = peer.find_within(Connack, PATIENCE);
    }
    let mut last = broker.connect(connect(V5, &id).lasting());
    for peer in &mut peers {
        let end = peer.expect_end();
        assert!(end.iter().all(|packet| packet.code == 0 || packet.code == 0x8E), "{end:?}");
    }
    last.subscribe(&topic, 1);
    last.publish(publish(&topic, "x").qos1(1));
    last.expect_message(&topic, "x");
}

/// [MQTT5-3.3.1-1] [MQTT5-4.3.2-3] [MQTT5-4.3.3-3] [MQTT5-4.4.0-1] [MQTT5-4.6.0-1] [MQTT311-3.3.1-1]
/// [MQTT311-4.3.2-1] [MQTT311-4.4.0-1] [MQTT311-4.6.0-1] [MQTT311-2.3.1-4] [PITFALL-5] [MQTT5-machine-9]
/// [MQTT5-machine-12] [MQTT5-§3.3.4#3] [MQTT311-2.3.1-3]
pub fn unacknowledged_messages_are_resent_in_order_with_dup(broker: &Broker) {
    for version in EVERY_VERSION {
        let (topic, id) = (broker.unique("resend"), broker.unique("resend"));
        let wanted = || {
            let wanted = connect(version, &id).lasting();
            if version == V5 { wanted.with(two(TOPIC_ALIAS_MAXIMUM, 5)) } else { wanted }
        };
        let mut peer = broker.connect(wanted());
        peer.subscribe(&topic, 2);
        let mut publisher = broker.client(version);
        for at in 0..5 {
            publisher.publish(publish(&topic, format!("{at}")).qos(1 + at % 2, 1));
        }
        let ids: Vec<u16> = (0..5).map(|at| peer.expect_message(&topic, format!("{at}")).id).collect();
        peer.vanish();
        for at in 5..8 {
            publisher.publish(publish(&topic, format!("{at}")).qos1(1));
        }
        let mut peer = broker.connect(wanted());
        for at in 0..8u8 {
            let message = peer.expect_message(&topic, format!("{at}"));
            assert_eq!(message.duplicate, at < 5, "DUP of {at}");
            assert_eq!(message.qos, if at < 5 { 1 + at % 2 } else { 1 });
            if at < 5 {
                assert_eq!(message.id, ids[usize::from(at)], "the original identifier");
            }
        }
        for (at, id) in ids.iter().enumerate() {
            peer.send(if at % 2 == 0 { puback(*id) } else { pubrec(*id) });
        }
        assert_eq!(peer.find(Pubrel).id, ids[1]);
        assert_eq!(peer.find(Pubrel).id, ids[3]);
    }
}

/// [MQTT5-4.3.3-5] [MQTT5-4.3.3-6] [MQTT5-4.4.0-1] [MQTT311-4.3.3-1] [MQTT311-4.4.0-1] [PITFALL-2]
/// [MQTT5-machine-14] [MQTT5-machine-15]
pub fn owed_pubrel_is_resent_and_its_publish_is_not(broker: &Broker) {
    for version in EVERY_VERSION {
        let (topic, id) = (broker.unique("release"), broker.unique("release"));
        let mut peer = broker.connect(connect(version, &id).lasting());
        peer.subscribe(&topic, 2);
        let mut publisher = broker.client(version);
        publisher.publish(publish(&topic, "x").qos2(1));
        let message = peer.expect_message(&topic, "x");
        peer.send(pubrec(message.id));
        peer.expect_ack(Pubrel, message.id);
        for _ in 0..2 {
            peer.vanish();
            peer = broker.connect(connect(version, &id).lasting());
            assert_eq!(peer.next_packet().kind, Pubrel);
        }
        peer.send(pubcomp(message.id));
        peer.expect_nothing();
        peer.vanish();
        let mut peer = broker.connect(connect(version, &id).lasting());
        peer.expect_nothing();
    }
}

/// [MQTT5-4.3.3-10] [MQTT5-machine-7] [PITFALL-1] [PITFALL-7] [MQTT5-§3.7.2.1] [MQTT311-2.3.1-3]
/// [MQTT311-4.3.3-2]
pub fn received_qos_2_identifiers_survive_a_resume(broker: &Broker) {
    for version in EVERY_VERSION {
        let (topic, id) = (broker.unique("held"), broker.unique("held"));
        let mut watcher = broker.client(version);
        watcher.subscribe(&topic, 0);
        let mut peer = broker.connect(connect(version, &id).lasting());
        peer.send(publish(&topic, "x").qos2(5));
        peer.expect_ack(Pubrec, 5);
        peer.vanish();
        let mut peer = broker.connect(connect(version, &id).lasting());
        peer.send(publish(&topic, "x").qos2(5).duplicate());
        peer.expect_ack(Pubrec, 5);
        peer.send(pubrel(5));
        assert_eq!(peer.expect_ack(Pubcomp, 5), 0, "a tracked identifier");
        watcher.expect_message(&topic, "x");
        watcher.expect_nothing();
        peer.vanish();
        let mut peer = broker.connect(connect(version, &id).lasting());
        peer.send(pubrel(5));
        let code = peer.expect_ack(Pubcomp, 5);
        assert!(code == 0 || code == 0x92);
        peer.ping();
    }
}

/// [MQTT5-4.3.3-7] [MQTT5-4.3.3-13] [PITFALL-3]
pub fn expiry_does_not_stop_a_flow_that_began(broker: &Broker) {
    let (topic, id) = (broker.unique("began"), broker.unique("began"));
    let mut peer = broker.connect(connect(V5, &id).lasting());
    peer.subscribe(&topic, 2);
    let mut publisher = broker.client(V5);
    publisher.publish(publish(&topic, "sent").qos2(1).with(four(MESSAGE_EXPIRY, 1)));
    publisher.publish(publish(&topic, "received").qos2(1).with(four(MESSAGE_EXPIRY, 1)));
    publisher.publish(publish(&topic, "one").qos1(1).with(four(MESSAGE_EXPIRY, 1)));
    let sent = peer.expect_message(&topic, "sent");
    let received = peer.expect_message(&topic, "received");
    let one = peer.expect_message(&topic, "one");
    peer.send(pubrec(received.id));
    peer.expect_ack(Pubrel, received.id);
    peer.vanish();
    broker.sleep(Duration::from_millis(2500));
    let mut peer = broker.connect(connect(V5, &id).lasting());
    let (mut publishes, mut releases) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let packet = peer.next_packet();
        match packet.kind {
            Publish => {
                assert!(packet.duplicate);
                publishes.push(packet.id);
            }
            _ => releases.push(packet.id),
        }
    }
    assert_eq!(publishes, [sent.id, one.id]);
    assert_eq!(releases, [received.id]);
}

/// [MQTT5-§3.1.2.11.3] [MQTT5-4.9.0-1] [PITFALL-31] [MQTT5-3.3.2-7]
pub fn limits_belong_to_the_connection(broker: &Broker) {
    let (topic, id) = (broker.unique("limits"), broker.unique("limits"));
    let wanted = || connect(V5, &id).lasting();
    let mut peer =
        broker.connect(wanted().with(two(RECEIVE_MAXIMUM, 1)).with(four(MAXIMUM_PACKET_SIZE, 100)));
    peer.subscribe(&topic, 1);
    let mut publisher = broker.client(V5);
    for at in 0..5 {
        publisher.publish(publish(&topic, format!("{at}")).qos1(1));
    }
    peer.expect_message(&topic, "0");
    peer.expect_nothing();
    peer.vanish();
    publisher.publish(publish(&topic, "x".repeat(150)).qos1(1));
    let mut peer = broker.connect(wanted().with(two(RECEIVE_MAXIMUM, 10)));
    for at in 0..5 {
        peer.expect_message(&topic, format!("{at}"));
    }
    peer.expect_message(&topic, "x".repeat(150));
}

/// [PITFALL-20] [MQTT5-§3.3.1.3#3]
pub fn retained_messages_do_not_come_with_a_resume(broker: &Broker) {
    for version in EVERY_VERSION {
        let (topic, id) = (broker.unique("noretain"), broker.unique("noretain"));
        broker.client(version).publish(publish(&topic, "kept").qos1(1).retain());
        let mut peer = broker.connect(connect(version, &id).lasting());
        peer.subscribe(&topic, 1);
        let message = peer.expect_message(&topic, "kept");
        peer.acknowledge(&message);
        peer.ping();
        let mut taken = broker.connect(connect(version, &id).lasting());
        taken.expect_nothing();
        taken.leave();
        let mut resumed = broker.connect(connect(version, &id).lasting());
        resumed.expect_nothing();
    }
}

/// Options and identifiers of subscriptions are session state. [MQTT5-§4.1] [MQTT5-3.3.1-13] [PITFALL-21]
pub fn subscription_options_survive_a_resume(broker: &Broker) {
    let (topic, id) = (broker.unique("options"), broker.unique("options"));
    let mut peer = broker.connect(connect(V5, &id).lasting());
    peer.request(subscribe(1).identifier(321).filter(&topic, 1 | AS_PUBLISHED | NO_LOCAL), Suback);
    peer.leave();
    let mut publisher = broker.client(V5);
    publisher.publish(publish(&topic, "queued").qos1(1).retain());
    let mut peer = broker.connect(connect(V5, &id).lasting());
    let message = peer.expect_message(&topic, "queued");
    peer.acknowledge(&message);
    assert!(message.retain && message.identifiers() == [321]);
    peer.publish(publish(&topic, "mine").qos1(1));
    publisher.publish(publish(&topic, "live").qos1(1));
    let message = peer.expect_message(&topic, "live");
    assert!(!message.retain && message.identifiers() == [321]);
}

/// [MQTT5-§3.8.4]
pub fn resent_message_has_the_old_or_the_new_identifier(broker: &Broker) {
    let (topic, id) = (broker.unique("newid"), broker.unique("newid"));
    let mut peer = broker.connect(connect(V5, &id).lasting());
    peer.request(subscribe(1).identifier(1).filter(&topic, 1), Suback);
    let mut publisher = broker.client(V5);
    publisher.publish(publish(&topic, "before").qos1(1));
    assert_eq!(peer.expect_message(&topic, "before").identifiers(), [1]);
    peer.request(subscribe(2).identifier(2).filter(&topic, 1), Suback);
    peer.vanish();
    publisher.publish(publish(&topic, "after").qos1(1));
    let mut peer = broker.connect(connect(V5, &id).lasting());
    let resent = peer.expect_message(&topic, "before").identifiers();
    assert!(resent == [1] || resent == [2], "{resent:?}");
    assert_eq!(peer.expect_message(&topic, "after").identifiers(), [2]);
}
