//! Order of messages, and independence of subscribers.

use crate::prelude::*;

/// [MQTT5-4.6.0-5] [MQTT5-4.6.0-6] [MQTT311-4.6.0-5] [MQTT311-4.6.0-6]
pub fn messages_arrive_in_the_order_of_publishing(broker: &Broker) {
    const COUNT: usize = 10_000;
    const WINDOW: usize = 18;
    for (qos, granted) in [(0, 0), (1, 1), (2, 2), (2, 0)] {
        let topic = broker.unique("sequence");
        let mut peer = broker.client(V311);
        peer.subscribe(&topic, granted);
        let mut publisher = broker.client(V5);
        let mut expected = 0;
        for first in (0..COUNT).step_by(WINDOW) {
            let numbers = first..COUNT.min(first + WINDOW);
            let burst: Vec<u8> = numbers
                .clone()
                .flat_map(|at| publish(&topic, format!("{at}")).qos(qos, at as u16 + 1).encode(V5))
                .collect();
            publisher.send(burst);
            if qos == 2 {
                for at in numbers.clone() {
                    publisher.send(pubrel(at as u16 + 1));
                }
            }
            for _ in numbers.clone() {
                let message = peer.find(Publish);
                assert_eq!(message.payload_text(), expected.to_string(), "QoS {qos}");
                expected += 1;
                peer.acknowledge_without_waiting(&message);
            }
            for _ in numbers {
                match qos {
                    0 => {}
                    1 => drop(publisher.find(Puback)),
                    _ => drop(publisher.find(Pubcomp)),
                }
            }
            if granted == 2 {
                while let Some(release) = peer.find_within(Pubrel, Duration::ZERO) {
                    peer.send(pubcomp(release.id));
                }
            }
        }
    }
}

/// The topics of one publisher stay in order across a queue that fills while the client is offline and
/// continues live. [MQTT5-4.6.0-6] [MQTT5-4.6.0-5]
pub fn order_holds_from_the_queue_into_live_traffic(broker: &Broker) {
    let (stem, id) = (broker.unique("queue"), broker.unique("queue"));
    let mut peer = broker.connect(connect(V5, &id).lasting());
    peer.subscribe(format!("{stem}/#"), 1);
    peer.leave();
    let mut publisher = broker.client(V5);
    for at in 0..60 {
        publisher.publish(publish(format!("{stem}/{}", at % 3), format!("{at}")).qos1(1));
    }
    let mut peer = broker.connect(connect(V5, &id).lasting());
    for at in 60..120 {
        publisher.publish(publish(format!("{stem}/{}", at % 3), format!("{at}")).qos1(1));
    }
    let expected: Vec<String> = (0..120).map(|at| at.to_string()).collect();
    assert_eq!(peer.collect(120), expected);
}

/// [MQTT5-§4.3#2] [PITFALL-54] [MQTT5-4.5.0-2] [MQTT311-4.5.0-2]
pub fn stuck_subscriber_delays_nobody(broker: &Broker) {
    let topic = broker.unique("stuck");
    let mut silent = broker.client(V5);
    silent.subscribe(&topic, 1);
    let mut deaf = broker.client(V311);
    deaf.subscribe(&topic, 0);
    let mut lively = broker.client(V5);
    lively.subscribe(&topic, 1);
    let mut publisher = broker.client(V5);
    let payload = vec![b'x'; 10_000];
    for at in 0..300 {
        publisher.send(publish(&topic, &payload).qos1(1));
        let message = lively.find(Publish);
        lively.acknowledge(&message);
        publisher.find(Puback);
        assert_eq!(message.payload.len(), payload.len(), "message {at}");
    }
    silent.ping();
}

/// An offline session with a QoS 1 subscription.
fn absent(broker: &Broker, topic: &str) -> String {
    let id = broker.unique("absent");
    let mut peer = broker.connect(connect(V5, &id).lasting());
    peer.subscribe(topic, 1);
    peer.leave();
    id
}

/// The messages that such a session has when it is back: this many, and no more.
fn queued(broker: &Broker, id: &str, count: usize) -> Vec<String> {
    let mut peer = broker.connect(connect(V5, id).lasting());
    let mut received = Vec::new();
    for _ in 0..count {
        let message = peer.find(Publish);
        peer.acknowledge(&message);
        received.push(message.payload_text());
    }
    peer.expect_nothing();
    received
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|at| at.to_string()).collect()
}

/// A session that is never emptied has a bound, and its publisher is told. [MQTT5-4.5.0-2] [MQTT311-4.5.0-2]
/// [PITFALL-54] [MQTT5-reason-0x97]
pub fn queue_of_an_absent_client_is_bounded(broker: &Broker) {
    let Some(broker) = broker.with(&REFUSE) else { return };
    let topic = broker.unique("bounded");
    let id = absent(broker, &topic);
    let mut live = broker.client(V5);
    live.subscribe(&topic, 0);
    let mut publisher = broker.client(V5);
    for at in 0..40 {
        let code = publisher.publish(publish(&topic, format!("{at}")).qos1(1));
        assert_eq!(code == 0x97, at >= 10, "{at}: code {code:02X}");
        live.expect_message(&topic, format!("{at}"));
    }
    assert_eq!(queued(broker, &id, 10), numbers(0..10), "a success code is a promise");
}

/// 3.x has no code for a full queue: no publisher is disconnected, and each session with room gets each
/// message once. [MQTT311-4.5.0-2] [MQTT311-4.3.3-2] [PITFALL-54]
pub fn full_queue_ends_no_publisher(broker: &Broker) {
    for config in [&DROP_OLDEST, &REFUSE] {
        let Some(broker) = broker.with(config) else { continue };
        let topic = broker.unique("away");
        let id = absent(broker, &topic);
        let mut live = broker.client(V5);
        live.subscribe(&topic, 0);
        let mut publisher = broker.client(V311);
        for at in 0..20 {
            let text = format!("{at}");
            publisher.publish(if at % 2 == 0 {
                publish(&topic, &text).qos1(7)
            } else {
                publish(&topic, &text).qos2(8)
            });
            live.expect_message(&topic, &text);
        }
        live.expect_nothing();
        let kept = if config.name == DROP_OLDEST.name { numbers(10..20) } else { numbers(0..10) };
        assert_eq!(queued(broker, &id, 10), kept, "{}", config.name);
    }
}
