//! Shared subscriptions.

use crate::prelude::*;

/// The messages that wait for this peer. They are acknowledged.
fn drain(peer: &mut Client) -> Vec<String> {
    let mut payloads = Vec::new();
    while let Some(message) = peer.find_within(Publish, Duration::from_millis(300)) {
        peer.acknowledge(&message);
        payloads.push(message.payload_text());
    }
    payloads
}

/// [MQTT5-4.8.2-1] [MQTT5-4.8.2-2] [PITFALL-29]
pub fn names_and_filters_of_shared_subscriptions_are_checked(broker: &Broker) {
    let wrong = [
        "$share//t",
        "$share",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share/+/t",
        "$share/g#/t",
        "$share/#/t",
        "$share/g+/t",
        "$share/g/a#",
        "$share/g/a/#/b",
    ];
    each(wrong, |filter| {
        let mut peer = broker.client(V5);
        peer.send(subscribe(1).filter(filter, 0));
        if let Next::Packet(answer) = peer.next_within(PATIENCE) {
            match answer.kind {
                Suback => assert_eq!(answer.codes, [0x8F]),
                _ => assert!(answer.kind == Disconnect && [0x81, 0x82].contains(&answer.code)),
            }
        }
    });
}

/// [MQTT5-3.8.3-4] [PITFALL-29]
pub fn no_local_on_a_shared_filter_is_a_protocol_error(broker: &Broker) {
    let mut peer = broker.client(V5);
    peer.send(subscribe(1).filter("$share/g/nolocal", NO_LOCAL));
    peer.expect_disconnect(&[0x82]);
}

/// [MQTT5-§4.8.2#2] [MQTT5-§4.6] [MQTT5-3.3.2-3]
pub fn each_message_goes_to_one_member(broker: &Broker) {
    const COUNT: usize = 300;
    let topic = broker.unique("one");
    let mut members: Vec<Client> = (0..3).map(|_| broker.client(V5)).collect();
    for member in &mut members {
        assert_eq!(member.subscribe(format!("$share/group/{topic}"), 1), 1);
    }
    let mut publishers: Vec<Client> = (0..3).map(|_| broker.client(V311)).collect();
    for at in 0..COUNT {
        publishers[at % 3].send(publish(&topic, format!("{at}")).qos1(at as u16 + 1));
        if at % 15 == 14 {
            for publisher in &mut publishers {
                while publisher.find_within(Puback, Duration::from_millis(5)).is_some() {}
            }
            for member in &mut members {
                while let Some(message) = member.find_within(Publish, Duration::from_millis(1)) {
                    member.send(puback(message.id));
                    member.client_id.push_str(&format!(",{}", message.payload_text()));
                }
            }
        }
    }
    let mut all: Vec<usize> = Vec::new();
    for member in &mut members {
        let early = member.client_id.split(',').skip(1).map(str::to_string).collect::<Vec<_>>();
        all.extend(early.iter().chain(&drain(member)).filter_map(|payload| payload.parse::<usize>().ok()));
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(0..COUNT), "each message exactly once");
}

/// [MQTT5-§4.8.2#3]
pub fn groups_and_plain_subscriptions_are_independent(broker: &Broker) {
    let topic = broker.unique("groups");
    let filters = [
        format!("$share/one/{topic}"),
        format!("$share/two/{topic}"),
        format!("$share/one/{topic}/#"),
        topic.clone(),
    ];
    let mut peers: Vec<Client> = filters.iter().map(|_| broker.client(V5)).collect();
    for (peer, filter) in peers.iter_mut().zip(&filters) {
        peer.subscribe(filter, 1);
    }
    broker.client(V5).publish(publish(&topic, "x").qos1(1));
    for peer in &mut peers {
        peer.expect_message(&topic, "x");
        peer.expect_nothing_for(50);
    }
    // A session with a shared and an ordinary subscription gets a copy for each.
    let topic = broker.unique("both");
    let mut peer = broker.client(V5);
    peer.request(subscribe(1).identifier(1).filter(&topic, 1), Suback);
    peer.request(subscribe(2).identifier(2).filter(format!("$share/one/{topic}"), 1), Suback);
    broker.client(V5).publish(publish(&topic, "x").qos1(1));
    let mut identifiers =
        [peer.expect_message(&topic, "x"), peer.expect_message(&topic, "x")].map(|m| m.identifiers());
    identifiers.sort();
    assert_eq!(identifiers, [vec![1], vec![2]]);
    peer.expect_nothing_for(50);
}

/// [MQTT5-§4.8.2] [MQTT5-4.7.2-1]
pub fn share_prefix_plays_no_part_in_matching(broker: &Broker) {
    let topic = broker.unique("prefix");
    let mut peer = broker.client(V5);
    peer.subscribe(format!("$share/g//{topic}"), 0);
    peer.subscribe(format!("$share/g/{topic}/+/x"), 0);
    let mut publisher = broker.client(V5);
    publisher.publish(publish(format!("/{topic}"), "slash").qos1(1));
    publisher.publish(publish(&topic, "plain").qos1(1));
    publisher.publish(publish(format!("{topic}/a/x"), "wild").qos1(1));
    // The two topics come through two groups, whose homes may be on two shards, so their order is not
    // defined.
    let mut received = peer.collect(2);
    received.sort();
    assert_eq!(received, ["slash", "wild"]);
    peer.expect_nothing();
}

/// [MQTT5-§4.8.2#4] [PITFALL-28]
pub fn shared_subscriptions_get_no_retained_messages(broker: &Broker) {
    let topic = broker.unique("retained");
    broker.client(V5).publish(publish(&topic, "kept").qos1(1).retain());
    let mut peer = broker.client(V5);
    for options in [0, RETAIN_IF_NEW, RETAIN_NEVER, 0] {
        peer.subscribe(format!("$share/g/{topic}"), options);
        peer.expect_nothing();
    }
    peer.subscribe(format!("$share/h/{topic}/#"), 0);
    peer.expect_nothing();
}

/// [MQTT5-§4.8.2#5]
pub fn live_retained_publishes_go_to_one_member(broker: &Broker) {
    for options in [0, AS_PUBLISHED] {
        let topic = broker.unique("live");
        let mut members = [broker.client(V5), broker.client(V5)];
        for member in &mut members {
            member.subscribe(format!("$share/g/{topic}"), 1 | options);
        }
        broker.client(V5).publish(publish(&topic, "x").qos1(1).retain());
        let mut flags = Vec::new();
        for member in &mut members {
            while let Some(message) = member.find_within(Publish, Duration::from_millis(300)) {
                flags.push(message.retain);
            }
        }
        assert_eq!(flags, [options == AS_PUBLISHED]);
    }
}

/// [MQTT5-4.8.2-3] [MQTT5-§3.3.4#6] [MQTT5-§3.3.4#5]
pub fn each_member_has_its_own_qos_and_identifier(broker: &Broker) {
    let topic = broker.unique("own");
    let filter = format!("$share/g/{topic}");
    let mut members = [broker.client(V5), broker.client(V5)];
    members[0].request(subscribe(1).identifier(10).filter(&filter, 0), Suback);
    members[1].request(subscribe(1).identifier(12).filter(&filter, 2), Suback);
    let mut publisher = broker.client(V5);
    for at in 0..10 {
        publisher.publish(publish(&topic, format!("{at}")).qos2(1));
    }
    let mut total = 0;
    for (member, qos) in members.iter_mut().zip([0, 2]) {
        while let Some(message) = member.find_within(Publish, Duration::from_millis(300)) {
            member.acknowledge(&message);
            assert_eq!((message.qos, message.identifiers()), (qos, vec![10 + u32::from(qos)]));
            total += 1;
        }
    }
    assert_eq!(total, 10);
}

/// [MQTT5-4.8.2-4]
pub fn qos_2_flow_that_began_is_finished_with_its_member(broker: &Broker) {
    let (topic, id) = (broker.unique("begun"), broker.unique("begun"));
    let mut member = broker.connect(connect(V5, &id).lasting());
    member.subscribe(format!("$share/g/{topic}"), 2);
    let mut publisher = broker.client(V5);
    publisher.publish(publish(&topic, "released").qos2(1));
    publisher.publish(publish(&topic, "sent").qos2(1));
    let released = member.expect_message(&topic, "released");
    let sent = member.expect_message(&topic, "sent");
    let mut other = broker.client(V5);
    other.subscribe(format!("$share/g/{topic}"), 2);
    member.send(pubrec(released.id));
    member.expect_ack(Pubrel, released.id);
    member.vanish();
    other.expect_nothing_for(500);
    let mut member = broker.connect(connect(V5, &id).lasting());
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let packet = member.next_packet();
        assert!(packet.id == if packet.kind == Publish { sent.id } else { released.id });
        kinds.push(packet.kind);
    }
    assert!(kinds.contains(&Publish) && kinds.contains(&Pubrel));
    other.expect_nothing();
}

/// [MQTT5-4.8.2-5] [PITFALL-30]
pub fn qos_2_message_of_a_member_that_ended_goes_to_nobody_else(broker: &Broker) {
    let topic = broker.unique("ended");
    let mut member = broker.client(V5);
    member.subscribe(format!("$share/g/{topic}"), 2);
    broker.client(V5).publish(publish(&topic, "begun").qos2(1));
    member.expect_message(&topic, "begun");
    let mut other = broker.client(V5);
    other.subscribe(format!("$share/g/{topic}"), 2);
    member.vanish();
    other.expect_nothing_for(800);
}

/// [MQTT5-§4.8.2#6] [PITFALL-30]
pub fn qos_1_message_of_a_member_that_ended_goes_to_another(broker: &Broker) {
    let topic = broker.unique("again");
    let mut member = broker.client(V5);
    member.subscribe(format!("$share/g/{topic}"), 1);
    let mut publisher = broker.client(V5);
    for at in 0..3 {
        publisher.publish(publish(&topic, format!("{at}")).qos1(1));
        member.expect_message(&topic, format!("{at}"));
    }
    let mut other = broker.client(V5);
    other.subscribe(format!("$share/g/{topic}"), 1);
    member.vanish();
    let mut received = other.collect(3);
    received.sort_unstable();
    assert_eq!(received, ["0", "1", "2"]);
}

/// [MQTT5-§4.8.2#6] [PITFALL-30]
pub fn what_a_member_had_before_a_restart_goes_to_another_when_its_session_ends(broker: &Broker) {
    let Some(mut own) = OwnBroker::like(broker, &DEFAULT) else { return };
    let filter = "$share/g/kept/#";
    let mut member = own.broker.connect(connect(V5, "member").lasting());
    member.subscribe(filter, 2);
    let mut publisher = own.broker.client(V5);
    publisher.publish(publish("kept/1", "sent").qos1(1));
    member.expect_message("kept/1", "sent");
    member.vanish();
    for (at, qos) in [(2, 1), (3, 2)] {
        publisher.publish(publish(format!("kept/{at}"), format!("queued {at}")).qos(qos, 1));
    }
    if !own.restart() {
        return;
    }
    let mut other = own.broker.connect(connect(V5, "other").lasting());
    other.subscribe(filter, 2);
    other.expect_nothing();
    own.broker.connect(connect(V5, "member"));
    let mut received = drain(&mut other);
    received.sort_unstable();
    assert_eq!(received, ["queued 2", "queued 3", "sent"]);
    assert!(own.restart());
    let mut other = own.broker.connect(connect(V5, "other").lasting());
    other.expect_nothing();
}

/// [MQTT5-4.8.2-6] [PITFALL-30]
pub fn refused_message_is_offered_to_nobody_else(broker: &Broker) {
    for qos in 1..=2 {
        let topic = broker.unique("refuse");
        let mut members = [broker.client(V5), broker.client(V5)];
        for member in &mut members {
            member.subscribe(format!("$share/g/{topic}"), qos);
        }
        broker.client(V5).publish(publish(&topic, "x").qos(qos, 1));
        let mut deliveries = 0;
        for _ in 0..2 {
            for member in &mut members {
                while let Some(message) = member.find_within(Publish, Duration::from_millis(300)) {
                    let refusal = if qos == 1 { puback(message.id) } else { pubrec(message.id) };
                    member.send(refusal.code(0x80));
                    deliveries += 1;
                }
            }
        }
        assert_eq!(deliveries, 1);
    }
}

/// [MQTT5-§4.8.2#7] [MQTT5-§3.10.4#2]
pub fn second_subscribe_updates_the_membership(broker: &Broker) {
    let topic = broker.unique("update");
    let filter = format!("$share/g/{topic}");
    let mut member = broker.client(V5);
    let mut other = broker.client(V5);
    member.subscribe(&filter, 0);
    member.subscribe(&filter, 1);
    let mut publisher = broker.client(V5);
    publisher.publish(publish(&topic, "x").qos1(1));
    let message = member.expect_message(&topic, "x");
    assert_eq!(message.qos, 1);
    member.acknowledge(&message);
    member.expect_nothing_for(50);
    other.subscribe(&filter, 1);
    assert_eq!(member.request(unsubscribe(1).filter(&filter), Unsuback), [0]);
    assert_eq!(member.request(unsubscribe(2).filter(&filter), Unsuback), [0x11]);
    for at in 0..4 {
        publisher.publish(publish(&topic, format!("{at}")).qos1(1));
    }
    assert_eq!(other.collect(4), ["0", "1", "2", "3"]);
    member.expect_nothing();
}

/// [MQTT5-§4.8.2#8] [MQTT5-§3.10.4#2]
pub fn shared_subscription_ends_with_its_last_session(broker: &Broker) {
    for leave in [false, true] {
        let topic = broker.unique("last");
        let filter = format!("$share/g/{topic}");
        let mut member = broker.client(V5);
        member.subscribe(&filter, 1);
        if leave {
            member.leave();
        } else {
            member.request(unsubscribe(1).filter(&filter), Unsuback);
        }
        let mut publisher = broker.client(V5);
        publisher.publish(publish(&topic, "lost").qos1(1));
        let mut late = broker.client(V5);
        late.subscribe(&filter, 1);
        late.expect_nothing();
        publisher.publish(publish(&topic, "live").qos1(1));
        late.expect_message(&topic, "live");
    }
}

/// [MQTT5-§3.1.2.11.4]
pub fn message_too_large_for_a_member_spares_the_group(broker: &Broker) {
    let topic = broker.unique("large");
    let filter = format!("$share/g/{topic}");
    let mut small = broker.connect(connect(V5, broker.unique("large")).with(four(MAXIMUM_PACKET_SIZE, 100)));
    let mut large = broker.client(V5);
    small.subscribe(&filter, 1);
    large.subscribe(&filter, 1);
    let mut publisher = broker.client(V5);
    for _ in 0..4 {
        publisher.publish(publish(&topic, "x".repeat(200)).qos1(1));
    }
    assert!(drain(&mut large).len() <= 4);
    for _ in 0..4 {
        publisher.publish(publish(&topic, "small").qos1(1));
    }
    assert_eq!(drain(&mut small).len() + drain(&mut large).len(), 4);
}

/// Supporting or refusing `$share` before 5.0 is a choice, but it must be consistent. [MQTT5-§4.8.2#9]
pub fn share_filters_before_5_have_one_behaviour(broker: &Broker) {
    let mut outcomes = Vec::new();
    for _ in 0..3 {
        let topic = broker.unique("old");
        let mut members = [broker.client(V311), broker.client(V311)];
        let codes: Vec<u8> =
            members.iter_mut().map(|member| member.subscribe(format!("$share/g/{topic}"), 1)).collect();
        broker.client(V311).publish(publish(&topic, "x").qos1(1));
        let received: usize = members.iter_mut().map(|member| drain(member).len()).sum();
        assert!((codes == [1, 1] && received == 1) || (codes == [0x80, 0x80] && received == 0), "{codes:?}");
        outcomes.push(received);
    }
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]));
}

/// With members on all shards, some of them offline, no acknowledged message is lost. [MQTT5-§4.8.2#2]
/// [PITFALL-30]
pub fn group_loses_nothing_while_members_come_and_go(broker: &Broker) {
    let topic = broker.unique("churn");
    let filter = format!("$share/g/{topic}");
    let mut steady = broker.client(V5);
    steady.subscribe(&filter, 1);
    let mut publisher = broker.client(V5);
    let mut received = std::collections::BTreeSet::new();
    for round in 0..10 {
        let mut visitor = broker.client(V5);
        visitor.subscribe(&filter, 1);
        for at in 0..4 {
            publisher.publish(publish(&topic, format!("{:03}", round * 4 + at)).qos1(1));
        }
        visitor.vanish();
        while let Some(message) = steady.find_within(Publish, Duration::from_millis(100)) {
            steady.acknowledge(&message);
            received.insert(message.payload_text());
        }
    }
    let end = broker.now() + PATIENCE;
    while received.len() < 40 && broker.now() < end {
        received.extend(drain(&mut steady));
    }
    assert_eq!(received.len(), 40);
}
