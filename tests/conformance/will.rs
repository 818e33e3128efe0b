//! The will: when it is published, when it is not, and in which form.

use crate::prelude::*;

/// A client that waits for a will.
fn watcher(broker: &Broker, topic: &str) -> Client {
    let mut watcher = broker.client(V5);
    watcher.subscribe(topic, 2);
    watcher
}

/// [MQTT5-3.1.2-7] [MQTT5-3.1.2-8] [MQTT5-3.1.2-10] [MQTT311-3.1.2-8] [MQTT311-3.1.2-10]
pub fn will_is_published_once_when_the_connection_is_lost(broker: &Broker) {
    for version in EVERY_VERSION {
        let (topic, id) = (broker.unique("lost"), broker.unique("lost"));
        let mut watcher = watcher(broker, &topic);
        let peer = broker.connect(connect(version, &id).will(will(&topic, "lost").qos(1)));
        watcher.expect_nothing();
        peer.vanish();
        let message = watcher.expect_message(&topic, "lost");
        assert!(message.qos == 1 && !message.retain);
        watcher.acknowledge(&message);
        broker.connect(connect(version, &id)).vanish();
        watcher.expect_nothing();
    }
}

/// Half-closed sockets and errors count too. [MQTT5-3.1.2-8] [MQTT311-3.1.2-8] [MQTT311-3.14.1-1]
pub fn will_is_published_after_every_abnormal_end(broker: &Broker) {
    for version in EVERY_VERSION {
        for said in ["", "36 * 'a' 0001 `x`", "00 00", "82 02 0000", "20 02 00 00", "30 FFFFFFFF"] {
            let topic = broker.unique("abnormal");
            let mut watcher = watcher(broker, &topic);
            let mut peer = broker.connect(connect(version, broker.unique("a")).will(will(&topic, "lost")));
            if said.is_empty() {
                peer.finish();
            } else {
                peer.send(said);
            }
            peer.expect_end();
            watcher.expect_message(&topic, "lost");
        }
    }
    for version in [V5, V311] {
        let topic = broker.unique("abnormal");
        let mut watcher = watcher(broker, &topic);
        let mut peer = broker.connect(connect(version, broker.unique("a")).will(will(&topic, "lost")));
        peer.send("E1 00");
        peer.expect_disconnect(&[0x81]);
        watcher.expect_message(&topic, "lost");
    }
}

/// [MQTT5-3.14.4-3] [MQTT5-3.1.2-10] [MQTT5-§3.14.4] [MQTT311-3.14.4-3] [MQTT311-3.1.2-10] [MQTT311-§3.14.4]
/// [MQTT5-§3.14] [MQTT5-§3.14.2.1#2]
pub fn clean_disconnect_drops_the_will(broker: &Broker) {
    for version in EVERY_VERSION {
        let forms: &[&str] = if version == V5 { &["E0 00", "E0 01 00", "E0 02 00 00"] } else { &["E0 00"] };
        for form in forms {
            let (topic, behind) = (broker.unique("clean"), broker.unique("behind"));
            let mut watcher = watcher(broker, &topic);
            watcher.subscribe(&behind, 0);
            let mut peer = broker.connect(connect(version, broker.unique("w")).will(will(&topic, "lost")));
            peer.send_all(&[form, &publish(&behind, "too late")]);
            peer.expect_closed();
            watcher.expect_nothing();
        }
    }
}

/// [MQTT5-§3.14.2.1] [MQTT5-§3.14.2.1#2] [PITFALL-11] [MQTT5-reason-0x04]
pub fn disconnect_with_another_code_keeps_the_will(broker: &Broker) {
    each(
        ["E0 01 04", "E0 02 04 00", "E0 01 80", "E0 01 81", "E0 01 82", "E0 01 83", "E0 01 90", "E0 01 99"],
        |said| {
            let topic = broker.unique("code");
            let mut watcher = watcher(broker, &topic);
            let mut peer = broker.connect(connect(V5, broker.unique("w")).will(will(&topic, "lost")));
            peer.send(*said);
            peer.expect_closed();
            watcher.expect_message(&topic, "lost");
        },
    );
}

/// [MQTT5-§3.14.2.1#3] [PITFALL-11]
pub fn disconnect_with_a_code_that_is_not_a_clients_is_an_error(broker: &Broker) {
    each(["E0 01 FF", "E0 01 8E", "E0 01 01", "E0 01 8B"], |said| {
        let topic = broker.unique("unlisted");
        let mut watcher = watcher(broker, &topic);
        let mut peer = broker.connect(connect(V5, broker.unique("w")).will(will(&topic, "lost")));
        peer.send(*said);
        peer.expect_disconnect(&[0x81, 0x82]);
        watcher.expect_message(&topic, "lost");
    });
}

/// [MQTT5-3.1.2-14] [MQTT5-3.1.2-15] [MQTT311-3.1.2-16] [MQTT311-3.1.2-17]
pub fn will_retain_decides_whether_it_stays(broker: &Broker) {
    for version in EVERY_VERSION {
        for retain in [false, true] {
            let topic = broker.unique("retain");
            let mut early = watcher(broker, &topic);
            let wanted = will(&topic, "lost").qos(1);
            let wanted = if retain { wanted.retain() } else { wanted };
            broker.connect(connect(version, broker.unique("w")).will(wanted)).vanish();
            early.expect_live(&topic, "lost");
            // The will has passed this client's shard. What comes after another SUBSCRIBE is retained.
            early.request(unsubscribe(1).filter(&topic), Unsuback);
            early.subscribe(&topic, 2);
            if retain {
                assert!(early.expect_message(&topic, "lost").retain);
            } else {
                early.expect_nothing();
            }
        }
    }
}

/// [MQTT5-§3.1.2.5] [MQTT5-3.1.3-10] [MQTT5-§3.1.3.2.4] [PITFALL-10] [MQTT5-property-0x18] [MQTT5-property-0x26]
/// [MQTT5-property-0x02] [MQTT5-property-0x09]
pub fn will_is_published_with_its_properties_but_the_delay(broker: &Broker) {
    let topic = broker.unique("full");
    let mut watcher = watcher(broker, &topic);
    let wanted = will(&topic, "lost")
        .qos(2)
        .delay(1)
        .with(byte(PAYLOAD_FORMAT, 1))
        .with(four(MESSAGE_EXPIRY, 100))
        .with(text(CONTENT_TYPE, "type"))
        .with(text(RESPONSE_TOPIC, "answer"))
        .with(text(CORRELATION_DATA, [0, 0xFF]))
        .with(pair("c", "3"))
        .with(pair("a", "1"))
        .with(pair("b", "2"));
    broker.connect(connect(V5, broker.unique("w")).expiry(60).will(wanted)).vanish();
    let message = watcher.expect_message(&topic, "lost");
    assert_eq!(message.qos, 2);
    assert_eq!(message.pairs(), ["c=3", "a=1", "b=2"]);
    assert!(
        matches!(message.number(MESSAGE_EXPIRY), Some(40..=100)),
        "its lifetime starts with its publication"
    );
    assert_eq!(message.text(CONTENT_TYPE), Some(&b"type"[..]));
    assert_eq!(message.text(RESPONSE_TOPIC), Some(&b"answer"[..]));
    assert_eq!(message.text(CORRELATION_DATA), Some(&[0, 0xFF][..]));
    assert_eq!(message.number(PAYLOAD_FORMAT), Some(1));
}

/// [MQTT5-3.1.2-8] [MQTT5-§3.1.3.2.2] [PITFALL-10] [MQTT5-property-0x18]
pub fn will_waits_for_its_delay_or_the_end_of_the_session(broker: &Broker) {
    let lost = |delay: u32, expiry: u32| {
        let topic = broker.unique("delay");
        let watcher = watcher(broker, &topic);
        let wanted = connect(V5, broker.unique("w")).expiry(expiry).will(will(&topic, "lost").delay(delay));
        let peer = broker.connect(wanted);
        let gone = broker.now();
        peer.vanish();
        (watcher, topic, gone)
    };
    let (mut at_once, topic, gone) = lost(300, 0);
    at_once.expect_message(&topic, "lost");
    assert!(broker.now() - gone < broker.at_most(Duration::from_secs(1)), "no session, no delay");
    for (mut later, topic, gone) in [lost(2, 300), lost(300, 2)] {
        later.expect_message(&topic, "lost");
        let took = broker.now() - gone;
        assert!(took >= Duration::from_millis(1900), "took {took:?}");
        assert!(took < broker.at_most(Duration::from_secs(6)), "took {took:?}");
    }
}

/// [MQTT5-3.1.3-9] [MQTT5-§3.1.3.2.2#2] [PITFALL-8]
pub fn reconnecting_in_time_cancels_a_delayed_will(broker: &Broker) {
    let (topic, id) = (broker.unique("cancel"), broker.unique("cancel"));
    let mut watcher = watcher(broker, &topic);
    let wanted = connect(V5, &id).resume().expiry(60).will(will(&topic, "lost").delay(5));
    let peer = broker.connect(wanted.clone());
    peer.vanish();
    broker.sleep(Duration::from_millis(700));
    let _back = broker.connect(connect(V5, &id).resume().expiry(60));
    watcher.expect_nothing_for(6000);
    // The same happens by takeover: the connection is new, the session continues, and the delay has not
    // passed.
    let other = broker.unique("cancel");
    let mut taken =
        broker.connect(connect(V5, &other).resume().expiry(60).will(will(&topic, "lost").delay(1)));
    let _back = broker.connect(connect(V5, &other).resume().expiry(60));
    taken.expect_disconnect(&[0x8E]);
    watcher.expect_nothing_for(2200);
}

/// [MQTT5-§3.1.3.2.2#2] [MQTT5-3.1.4-3] [PITFALL-8] [MQTT311-3.1.4-2] [MQTT311-3.1.2-8]
pub fn takeover_publishes_the_will_of_the_old_connection(broker: &Broker) {
    let taken = |old: Connect, new: Connect| {
        let topic = broker.unique("takeover");
        let mut watcher = watcher(broker, &topic);
        let delay = old.will.clone().map_or(Vec::new(), |will| will.properties);
        let mut wanted = old.clone();
        wanted.will = Some(Will { properties: delay, ..will(&topic, "lost") });
        let mut first = broker.connect(wanted);
        let _second = broker.connect(new);
        first.expect_disconnect(&[0x8E]);
        watcher.expect_message(&topic, "lost");
    };
    let id = |stem: &str| broker.unique(stem);
    let delayed = || will("replaced", "").delay(30);
    let same = id("a");
    taken(connect(V5, &same).resume().expiry(60), connect(V5, &same).resume().expiry(60));
    let same = id("b");
    taken(connect(V5, &same).resume().expiry(60).will(delayed()), connect(V5, &same).expiry(60));
    let same = id("c");
    taken(connect(V5, &same).resume().will(delayed()), connect(V5, &same).resume());
    for version in BEFORE_5 {
        let same = id("d");
        taken(connect(version, &same).resume(), connect(version, &same).resume());
        let same = id("e");
        taken(connect(version, &same), connect(version, &same));
    }
}

/// [MQTT5-§3.1.3.2.2#3]
pub fn clean_start_publishes_a_pending_will(broker: &Broker) {
    let (topic, id) = (broker.unique("pending"), broker.unique("pending"));
    let mut watcher = watcher(broker, &topic);
    broker.connect(connect(V5, &id).resume().expiry(60).will(will(&topic, "lost").delay(30))).vanish();
    watcher.expect_nothing_for(300);
    let _back = broker.connect(connect(V5, &id).expiry(60));
    watcher.expect_message(&topic, "lost");
    watcher.expect_nothing();
}

/// [MQTT311-3.1.2-12]
pub fn connection_without_will_publishes_none_of_an_earlier_one(broker: &Broker) {
    for version in EVERY_VERSION {
        let (topic, id) = (broker.unique("earlier"), broker.unique("earlier"));
        let mut watcher = watcher(broker, &topic);
        broker.connect(connect(version, &id).lasting().will(will(&topic, "lost"))).leave();
        broker.connect(connect(version, &id).lasting()).vanish();
        watcher.expect_nothing_for(500);
    }
}

/// [MQTT311-§3.1.3.5] [MQTT311-3.1.2-9]
pub fn will_may_be_empty_and_binary(broker: &Broker) {
    for version in EVERY_VERSION {
        for payload in [&[][..], &[0x00, 0xFF, 0xC0]] {
            let topic = broker.unique("binary");
            let mut watcher = watcher(broker, &topic);
            broker.connect(connect(version, broker.unique("w")).will(will(&topic, payload))).vanish();
            watcher.expect_message(&topic, payload);
        }
    }
}

/// A will reaches offline sessions. [MQTT5-4.5.0-1]
pub fn will_waits_in_the_queue_of_an_absent_client(broker: &Broker) {
    let (topic, id) = (broker.unique("queued"), broker.unique("queued"));
    let mut absent = broker.connect(connect(V5, &id).lasting());
    absent.subscribe(&topic, 1);
    absent.leave();
    let mut here = watcher(broker, &topic);
    broker.connect(connect(V311, broker.unique("w")).will(will(&topic, "lost").qos(2))).vanish();
    here.expect_message(&topic, "lost");
    let mut absent = broker.connect(connect(V5, &id).lasting());
    assert_eq!(absent.expect_message(&topic, "lost").qos, 1);
}
