//! Keep alive: the client's, the server's own, and which packets show that a client is alive.

use crate::prelude::*;

/// How long the broker waits at most before it closes this connection, which is silent since its CONNECT. The
/// CONNECT was sent after `start`.
fn silence(broker: &Broker, peer: &mut Client, start: Duration) -> Duration {
    let last = peer.expect_end();
    assert!(
        last.iter()
            .all(|packet| packet.kind == Publish || (packet.kind == Disconnect && packet.code == 0x8D))
    );
    broker.now() - start
}

/// [MQTT5-3.1.2-22] [MQTT5-3.2.2-22] [MQTT5-3.1.2-8] [MQTT5-reason-0x8D] [MQTT311-3.1.2-24] [MQTT311-3.1.2-8]
/// [MQTT31-§3.1-k]
pub fn silent_client_is_cut_after_one_and_a_half_keep_alives(broker: &Broker) {
    for version in EVERY_VERSION {
        let topic = broker.unique("silent");
        let mut watcher = broker.client(V5);
        watcher.subscribe(&topic, 0);
        let wanted = connect(version, broker.unique("silent")).keep_alive(2).will(will(&topic, "lost"));
        let start = broker.now();
        let mut peer = broker.connect(wanted);
        let took = silence(broker, &mut peer, start);
        assert!(took.as_millis() >= 2900 && took < broker.at_most(Duration::from_secs(6)), "took {took:?}");
        watcher.expect_message(&topic, "lost");
    }
}

/// [MQTT5-3.1.2-20] [MQTT311-3.1.2-23]
pub fn any_whole_packet_is_a_sign_of_life(broker: &Broker) {
    let topic = broker.unique("alive");
    let mut peers: Vec<Client> = EVERY_VERSION
        .into_iter()
        .map(|version| broker.connect(connect(version, broker.unique("alive")).keep_alive(4)))
        .collect();
    // Each kind alone comes after more than six seconds, which is too late.
    for at in 0..7 {
        broker.sleep(Duration::from_millis(2100));
        for peer in &mut peers {
            match at % 3 {
                0 => peer.send(publish(&topic, "x")),
                1 => peer.send(puback(77)),
                _ => peer.send(pingreq()),
            }
        }
    }
    peers.iter_mut().for_each(Client::ping);
}

/// [MQTT5-§3.1.2.10]
pub fn messages_to_a_client_are_no_sign_of_its_life(broker: &Broker) {
    let topic = broker.unique("busy");
    let mut peer = broker.connect(connect(V5, broker.unique("busy")).keep_alive(1));
    let start = broker.now();
    peer.subscribe(&topic, 0);
    let mut publisher = broker.client(V5);
    let mut ended = None;
    while ended.is_none() && broker.now() - start < broker.at_most(Duration::from_secs(6)) {
        publisher.send(publish(&topic, "x"));
        match peer.next_within(Duration::from_millis(100)) {
            Next::Packet(packet) if packet.kind == Publish => broker.sleep(Duration::from_millis(100)),
            Next::Packet(packet) => assert_eq!(packet.code, 0x8D),
            Next::Closed => ended = Some(broker.now() - start),
            Next::Nothing => {}
        }
    }
    let took = ended.unwrap_or_else(|| peer.fail("the end of a client that only listens"));
    assert!(took >= Duration::from_millis(1300), "took {took:?}");
}

/// An incomplete packet does not count. [MQTT5-3.1.2-20]
pub fn half_a_packet_is_no_sign_of_life(broker: &Broker) {
    let mut peer = broker.connect(connect(V5, broker.unique("half")).keep_alive(1));
    let start = broker.now();
    peer.send("30 64 0001 `a`");
    while broker.now() - start < Duration::from_millis(2500) {
        broker.sleep(Duration::from_millis(400));
        peer.send("00");
    }
    let last = peer.expect_end();
    assert!(last.iter().all(|packet| packet.code == 0x8D));
    assert!(broker.now() - start < broker.at_most(Duration::from_secs(7)));
}

/// [MQTT5-§3.1.2.10] [MQTT5-§3.1.2.10#2] [MQTT311-3.1.2-24]
pub fn keep_alive_0_and_65535_do_not_end_at_once(broker: &Broker) {
    let mut peers: Vec<Client> = EVERY_VERSION
        .into_iter()
        .flat_map(|version| {
            [0, 65_535].map(|seconds| connect(version, broker.unique("long")).keep_alive(seconds))
        })
        .map(|wanted| broker.connect(wanted))
        .collect();
    broker.sleep(Duration::from_secs(4));
    for peer in &mut peers {
        peer.ping();
        peer.expect_nothing_for(10);
    }
}

/// [MQTT5-3.1.2-21] [MQTT5-3.2.2-21] [MQTT5-property-0x13] [PITFALL-52]
pub fn keep_alive_of_the_server_is_announced_and_enforced(broker: &Broker) {
    let announced =
        |peer: &Client| peer.connack.as_ref().and_then(|connack| connack.number(SERVER_KEEP_ALIVE));
    let peer = broker.connect(connect(V5, broker.unique("own")).keep_alive(30));
    assert!(
        announced(&peer).is_none_or(|seconds| seconds == 30),
        "the client's value, unless told otherwise"
    );
    let Some(broker) = broker.with(&KEEP_ALIVE) else { return };
    for asked in [0, 3, 600] {
        let start = broker.now();
        let mut peer = broker.connect(connect(V5, broker.unique("own")).keep_alive(asked));
        assert_eq!(announced(&peer), Some(2), "asked for {asked}");
        if asked == 600 {
            let took = silence(broker, &mut peer, start);
            assert!(
                took.as_millis() >= 2900 && took < broker.at_most(Duration::from_secs(6)),
                "took {took:?}"
            );
        }
    }
    let peer = broker.connect(connect(V5, broker.unique("own")).keep_alive(1));
    assert!(announced(&peer).is_none_or(|seconds| seconds == 1));
}

/// [MQTT5-4.1.0-1] [MQTT311-4.1.0-2]
pub fn idle_session_lives_as_long_as_its_connection(broker: &Broker) {
    let mut idle: Vec<(Client, String)> = Vec::new();
    for version in EVERY_VERSION {
        let topic = broker.unique("idle");
        let mut peer = broker.client(version);
        peer.subscribe(&topic, 1);
        idle.push((peer, topic));
    }
    broker.sleep(Duration::from_secs(3));
    for (peer, topic) in &mut idle {
        broker.client(V5).publish(publish(&*topic, "still").qos1(1));
        peer.expect_message(topic, "still");
    }
}
