//! Turns have a budget. Work that they put off continues in order, and nothing is lost.

use super::basics::{connect, quiet};
use super::kept::{at_home, connect_kept};
use crate::broker::world::{World, slot};
use crate::broker::{Counter, Hangup, TurnBudget};
use crate::mqtt::codec::{Framing, PACKET_BYTES_LIMIT, frame};

const SMALL: TurnBudget = TurnBudget { work: 64, bytes: 4096, touches: 4 };

fn bounded(shards: usize, budget: TurnBudget) -> World {
    let mut world = quiet(shards);
    for shard in world.shards() {
        shard.bound_turns(budget);
    }
    world
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first_byte];
    let mut len = body.len();
    while len > 127 {
        packet.push((len % 128) as u8 | 128);
        len /= 128;
    }
    packet.push(len as u8);
    packet.extend_from_slice(body);
    packet
}

/// PUBLISH of 3.1.1. With packet identifier 0 it has QoS 0.
fn publish(topic: &str, packet_id: u16, qos: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if qos > 0 {
        body.extend_from_slice(&packet_id.to_be_bytes());
    }
    body.extend_from_slice(payload);
    packet(0x30 | qos << 1, &body)
}

/// SUBSCRIBE of 3.1.1.
fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    packet(0x82, &[&[0, 1], text(filter).as_slice(), &[qos]].concat())
}

/// The first bytes and the bodies of packets.
fn packets(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut packets = Vec::new();
    while !bytes.is_empty() {
        let Ok(Framing::Whole(packet)) = frame(bytes, PACKET_BYTES_LIMIT) else { panic!("whole packets") };
        packets.push((packet.first_byte, packet.body.to_vec()));
        bytes = &bytes[packet.total_len..];
    }
    packets
}

/// The last bytes of the PUBLISH packets that a client received.
fn payloads(world: &mut World, client: usize) -> Vec<u8> {
    let got = packets(&world.take(client));
    got.iter().filter(|(head, _)| head >> 4 == 3).map(|(_, body)| *body.last().unwrap()).collect()
}

fn crowd(world: &mut World, size: usize, filter: &str, qos: u8) -> Vec<usize> {
    let shards = world.shards().count();
    let mut crowd = Vec::new();
    for at in 0..size {
        let client = connect(world, at % shards, &format!("member{at}"), 60);
        world.send(client, &subscribe(filter, qos));
        world.take(client);
        crowd.push(client);
    }
    crowd
}

#[test]
fn burst_reaches_every_subscriber_in_its_order_and_is_acknowledged_when_all_have_it() {
    for (shards, qos) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
        let mut world = bounded(shards, SMALL);
        let members = crowd(&mut world, 50, "a/+", qos);
        let publisher = connect(&mut world, 0, "publisher", 60);
        let burst: Vec<u8> = (0..60).flat_map(|n| publish("a/b", u16::from(n) + 1, qos, &[n])).collect();
        world.send(publisher, &burst);
        for &member in &members {
            assert_eq!(payloads(&mut world, member), (0..60).collect::<Vec<u8>>(), "{shards} {qos}");
        }
        let acks = packets(&world.take(publisher));
        let expected: Vec<_> = (1..=60).map(|id| (0x40, vec![0, id])).collect();
        assert_eq!(acks, if qos == 0 { Vec::new() } else { expected });
        assert!(!world.shards().any(|shard| shard.has_deferred()));
    }
}

#[test]
fn others_are_served_before_a_long_fan_out_has_come_to_its_end() {
    let mut world = bounded(1, SMALL);
    let members = crowd(&mut world, 50, "a/b", 0);
    let other = connect(&mut world, 0, "other", 60);
    world.send(other, &subscribe("news", 1));
    world.take(other);
    let shard = world.shard(0);
    let now = crate::base::Time::from_millis(2);
    shard.handle_bytes(now, slot(members[0]), &publish("a/b", 0, 0, &[7; 3000]));
    shard.handle_turn(now);
    assert!(shard.has_deferred(), "it goes on");
    shard.handle_bytes(now, slot(other), &publish("news", 3, 1, b"x"));
    let touched = shard.outbox().touched_of(slot(other)).map(|touched| touched.bytes);
    assert_eq!(touched, Some(4 + 11), "PUBACK and the message");
    world.run();
    for member in members {
        assert_eq!(payloads(&mut world, member), [7]);
    }
}

/// Before turns had budgets, this took 40 times 64 times 6 KB in one turn.
#[test]
fn few_bytes_that_ask_for_many_are_answered_in_pieces() {
    let mut world = bounded(1, TurnBudget { bytes: 64 << 10, ..TurnBudget::default() });
    let mut members = Vec::new();
    for at in 0..40 {
        let member = connect_5(&mut world, &format!("m{at}"), b"");
        let body = [b"\x00\x01\x02\x0b\x01".as_slice(), &text("a/#"), &[0]].concat();
        world.send(member, &packet(0x82, &body));
        world.take(member);
        members.push(member);
    }
    let publisher = connect_5(&mut world, "publisher", b"");
    let topic = format!("a/{}", "x".repeat(6000));
    world.send(publisher, &packet(0x30, &[text(&topic).as_slice(), b"\x03\x23\x00\x01"].concat()));
    for &member in &members {
        world.take(member);
    }
    (world.most_encoded, world.most_queued) = (0, 0);
    let burst: Vec<u8> = (0..64)
        .flat_map(|n| packet(0x30, &[b"\x00\x00\x03\x23\x00\x01".as_slice(), &[n]].concat()))
        .collect();
    world.send(publisher, &burst);
    for &member in &members {
        assert_eq!(payloads(&mut world, member), (0..64).collect::<Vec<u8>>());
    }
    assert!(world.most_encoded < 192 << 10, "{} bytes in one turn", world.most_encoded);
}

/// CONNECT of 5.0 with a clean start.
fn connect_5(world: &mut World, client_id: &str, properties: &[u8]) -> usize {
    let client = world.open(0);
    let length = [u8::try_from(properties.len()).unwrap()];
    let body = [b"\x00\x04MQTT\x05\x02\x00\x3C", length.as_slice(), properties, &text(client_id)].concat();
    world.send(client, &packet(0x10, &body));
    assert_eq!(packets(&world.take(client))[0].1[1], 0);
    client
}

#[test]
fn message_that_waits_for_the_log_is_encoded_once_for_all_who_wait() {
    let mut world = quiet(1);
    let mut members = Vec::new();
    for at in 0..30 {
        let member = connect_kept(&mut world, 0, &format!("kept{at}"));
        world.send(member, &subscribe("firmware", 2));
        world.take(member);
        members.push(member);
    }
    let publisher = connect(&mut world, 0, "publisher", 60);
    world.most_encoded = 0;
    let image = vec![9; 100_000];
    world.send(publisher, &publish("firmware", 5, 2, &image));
    assert_eq!(world.take(publisher), [0x50, 2, 0, 5]);
    for member in members {
        let got = packets(&world.take(member));
        assert_eq!((got.len(), got[0].0), (1, 0x34));
        assert_eq!(got[0].1[12..], image);
    }
    assert!(world.most_encoded < 300_000, "{} bytes in one turn", world.most_encoded);
}

#[test]
fn large_messages_at_qos_1_reach_kept_sessions_in_order_with_small_ones_behind_them() {
    let mut world = quiet(1);
    let mut members = Vec::new();
    for at in 0..40 {
        let member = connect_kept(&mut world, 0, &format!("kept{at}"));
        world.send(member, &subscribe("firmware", 1));
        world.take(member);
        members.push(member);
    }
    let publisher = connect(&mut world, 0, "publisher", 60);
    world.shard(0).bound_turns(TurnBudget { bytes: 64 << 10, ..TurnBudget::default() });
    world.most_queued = 0;
    let mut burst = Vec::new();
    for n in 0..6_u8 {
        let size = if n % 3 == 0 { 50_000 } else { 5 };
        burst.extend(publish("firmware", u16::from(n) + 1, 1, &vec![n; size]));
    }
    world.send(publisher, &burst);
    assert_eq!(packets(&world.take(publisher)).len(), 6);
    for member in members {
        assert_eq!(payloads(&mut world, member), [0, 1, 2, 3, 4, 5]);
    }
    assert!(world.most_queued < 600_000, "{} bytes in one turn", world.most_queued);
}

/// The first subscribers have settled the message before the last ones have it.
#[test]
fn power_cut_loses_no_message_of_a_fan_out_that_has_gone_on_for_turns() {
    let mut world = quiet(1);
    let mut members = Vec::new();
    for at in 0..60 {
        let member = connect_kept(&mut world, 0, &format!("kept{at}"));
        world.send(member, &subscribe("a/b", 1));
        world.take(member);
        members.push(member);
    }
    for &member in &members[30..] {
        world.hang_up(member, Hangup::Closed);
    }
    let publisher = connect(&mut world, 0, "publisher", 60);
    world.shard(0).bound_turns(TurnBudget { work: 40, bytes: 1 << 20, touches: 100 });
    let now = world.now();
    world.shard(0).handle_bytes(now, slot(publisher), &publish("a/b", 1, 1, b"x"));
    // Before the next turn, each turn's records become durable, and its receivers acknowledge the message.
    for _ in 0..40 {
        world.turn(0);
        for &member in &members[..30] {
            if !payloads(&mut world, member).is_empty() {
                world.shard(0).handle_bytes(now, slot(member), b"\x40\x02\x00\x01");
            }
        }
    }
    world.run();
    assert_eq!(packets(&world.take(publisher)), [(0x40, vec![0, 1])]);
    let mut world = world.cut_power(1, 10);
    for at in 30..60 {
        let member = connect_kept(&mut world, 0, &format!("kept{at}"));
        assert_eq!(payloads(&mut world, member), b"x", "{at}");
    }
}

#[test]
fn answers_that_the_log_sets_free_together_go_out_in_pieces_and_in_order() {
    let mut world = quiet(1);
    let publisher = connect(&mut world, 0, "publisher", 60);
    let member = connect_kept(&mut world, 0, "kept");
    world.send(member, &subscribe("a/b", 2));
    world.take(member);
    world.shard(0).bound_turns(SMALL);
    world.stick(0);
    for id in 1..=100_u8 {
        world.send(publisher, &publish("a/b", u16::from(id), 2, &[id]));
    }
    assert_eq!(world.take(publisher), b"");
    world.unstick(0);
    let expected: Vec<_> = (1..=100).map(|id| (0x50, vec![0, id])).collect();
    assert_eq!(packets(&world.take(publisher)), expected);
    assert_eq!(payloads(&mut world, member), (1..=100).collect::<Vec<u8>>());
}

#[test]
fn wills_that_are_due_together_are_published_in_pieces() {
    let mut world = bounded(1, TurnBudget { bytes: 32 << 10, ..TurnBudget::default() });
    let members = crowd(&mut world, 20, "gone/#", 0);
    for at in 0..40_u8 {
        let client = world.open(0);
        let topic = format!("gone/{at}");
        let body = [
            b"\x00\x04MQTT\x04\x06\x00\x0A".as_slice(),
            &text(&format!("will{at}")),
            &text(&topic),
            &[0x13, 0x88],
            &vec![at; 5000],
        ];
        world.send(client, &packet(0x10, &body.concat()));
        assert_eq!(world.take(client), [0x20, 2, 0, 0]);
    }
    world.most_queued = 0;
    // The keep alive of all of them ends in the same tick. Members send nothing either, but have a longer
    // one.
    world.pass(16_000);
    for member in members {
        let mut got = payloads(&mut world, member);
        got.sort_unstable();
        assert_eq!(got, (0..40).collect::<Vec<u8>>());
    }
    assert!(world.most_queued < 256 << 10, "{} bytes in one turn", world.most_queued);
}

#[test]
fn long_subscribe_goes_on_in_later_turns_and_is_answered_as_one() {
    for shards in [1, 2] {
        let mut world = bounded(shards, SMALL);
        let client = connect(&mut world, 0, "many", 60);
        let mut body = vec![0, 9];
        for n in 0..500 {
            body.extend_from_slice(&text(&format!("{n}/+")));
            body.push(1);
        }
        let bytes = [packet(0x82, &body), b"\xC0\x00".to_vec()].concat();
        world.send(client, &bytes);
        let mut got = packets(&world.take(client));
        // If other shards must know first, the next packet does not wait for that.
        got.sort_unstable();
        assert_eq!(got[0], (0x90, [vec![0, 9], vec![1; 500]].concat()));
        assert_eq!(got[1..], [(0xD0, vec![])]);
        let publisher = connect(&mut world, 0, "publisher", 60);
        for n in [0, 250, 499] {
            world.send(publisher, &publish(&format!("{n}/x"), 0, 0, b"m"));
        }
        assert_eq!(payloads(&mut world, client), b"mmm");
        let mut body = vec![0, 10];
        for n in 0..500 {
            body.extend_from_slice(&text(&format!("{n}/+")));
        }
        world.send(client, &packet(0xA2, &body));
        assert_eq!(packets(&world.take(client)), [(0xB0, vec![0, 10])]);
        assert_eq!(world.shards().map(|shard| shard.subscriptions.len()).sum::<usize>(), 0);
    }
}

#[test]
fn packet_with_more_filters_than_a_packet_may_have_ends_its_connection() {
    let mut world = quiet(1);
    let client = connect_5(&mut world, "many", b"");
    let body = [b"\x00\x09\x00".to_vec(), b"\x00\x01a\x00".repeat(32_769)].concat();
    world.send(client, &packet(0x82, &body));
    assert_eq!(packets(&world.take(client))[0].1[0], 0x97);
    assert!(world.is_closed(client));
}

#[test]
fn filters_with_every_combination_of_wildcards_are_refused_from_a_bound_on() {
    let mut world = quiet(1);
    let client = connect(&mut world, 0, "many", 60);
    let other = connect(&mut world, 0, "other", 60);
    let level = |bits: u32, at: u32| if bits >> at & 1 == 0 { "a" } else { "+" };
    let filters: Vec<String> = (0..1_u32 << 12)
        .map(|bits| (0..12).map(|at| level(bits, at)).collect::<Vec<_>>().join("/"))
        .collect();
    let mut body = vec![0, 9];
    for filter in &filters {
        body.extend_from_slice(&text(filter));
        body.push(0);
    }
    world.send(client, &packet(0x82, &body));
    let codes = packets(&world.take(client))[0].1[2..].to_vec();
    let granted = codes.iter().filter(|&&code| code == 0).count();
    assert!(codes.iter().all(|&code| code == 0 || code == 0x80) && granted > 30, "{granted}");
    let patterns = world.shard(0).subscriptions.patterns();
    assert!((400..=512).contains(&patterns), "{patterns}");
    // A filter with the same pattern as an existing one is accepted, and so is another client's.
    world.send(client, &subscribe(&format!("+{}", "/b".repeat(11)), 0));
    assert_eq!(packets(&world.take(client)), [(0x90, vec![0, 1, 0])]);
    world.send(other, &subscribe("+/x/+/x/+/#", 0));
    assert_eq!(packets(&world.take(other)), [(0x90, vec![0, 1, 0])]);
    world.hang_up(client, Hangup::Closed);
    assert_eq!(world.shard(0).subscriptions.patterns(), 5);
    world.hang_up(other, Hangup::Closed);
    assert!(world.shard(0).subscriptions.patterns() == 0);
}

#[test]
fn large_messages_of_a_publisher_go_to_another_shard_one_at_a_time() {
    for qos in [0, 1] {
        let mut world = quiet(2);
        let member = connect(&mut world, 1, &at_home(1, "member"), 60);
        world.send(member, &subscribe("a/b", qos));
        world.take(member);
        let publisher = connect(&mut world, 0, &at_home(0, "publisher"), 60);
        world.hold(0, 1);
        for n in 0..10 {
            world.send(publisher, &publish("a/b", u16::from(n) + 1, qos, &[n; 40_000]));
        }
        assert_eq!(world.on_the_way(0, 1), 1, "QoS {qos}");
        world.release(0, 1);
        world.run();
        assert_eq!(payloads(&mut world, member), (0..10).collect::<Vec<u8>>());
        let acks = if qos == 0 { 0 } else { 10 };
        assert_eq!(packets(&world.take(publisher)).len(), acks);
    }
}

#[test]
fn walks_through_retained_messages_share_a_turn_and_come_to_their_ends() {
    let mut world = quiet(2);
    let publisher = connect(&mut world, 0, "publisher", 60);
    for n in 0..500 {
        world.send(publisher, &packet(0x31, &[text(&format!("r/{n}")), b"x".to_vec()].concat()));
    }
    for shard in world.shards() {
        shard.bound_turns(SMALL);
    }
    let now = crate::base::Time::from_millis(900);
    let shard = world.shard(0);
    for at in 0..20 {
        let walker = slot(1000 + at);
        shard.handle_open(now, walker, ([127, 0, 0, 1], 9).into(), 0, true);
        shard.handle_bytes(now, walker, b"\x10\x0C\x00\x04MQTT\x04\x02\x00\x00\x00\x00");
        shard.handle_bytes(now, walker, &subscribe("+/+/nomatch", 0));
    }
    for _ in 0..40 {
        let before = shard.work_done();
        shard.handle_turn(now);
        let done = shard.work_done() - before;
        // Each kind of work has its part, and may end with the longest possible step: 1024 visits.
        assert!(done < 2 * (64 + 2 * 1024), "{done} in one turn");
    }
    for at in 0..20 {
        shard.handle_hangup(now, slot(1000 + at), Hangup::Closed);
    }
    shard.outbox().clear();
    shard.take_effects();
    for (filter, expected) in [("+/+/nomatch", 0), ("r/#", 500)] {
        for at in 0..5 {
            let client = connect(&mut world, at % 2, &format!("{filter}{at}"), 60);
            world.send(client, &subscribe(filter, 0));
            assert_eq!(payloads(&mut world, client).len(), expected);
        }
    }
}

#[test]
fn retained_message_and_live_ones_of_its_topic_come_in_order_to_who_subscribes_meanwhile() {
    let mut world = bounded(1, SMALL);
    let members = crowd(&mut world, 100, "a/b", 0);
    let publisher = connect(&mut world, 0, "publisher", 60);
    let late = connect(&mut world, 0, "late", 60);
    let now = crate::base::Time::from_millis(500);
    let shard = world.shard(0);
    let retained = |n: u8| packet(0x31, &[text("a/b"), vec![n]].concat());
    let burst: Vec<u8> = (1..=5).flat_map(retained).collect();
    shard.handle_bytes(now, slot(publisher), &burst);
    shard.handle_bytes(now, slot(late), &subscribe("a/b", 0));
    shard.handle_bytes(now, slot(members[99]), &subscribe("a/b", 0));
    world.run();
    for client in [late, members[99]] {
        let got = payloads(&mut world, client);
        assert!(got.is_sorted() && got.last() == Some(&5), "{got:?}");
        let mut distinct = got.clone();
        distinct.dedup();
        assert_eq!(got, distinct, "none comes twice");
    }
}

#[test]
fn timer_that_has_fired_does_not_meet_who_is_in_the_same_place_later() {
    let mut world = bounded(1, TurnBudget { work: 1, bytes: 1, touches: 1 });
    let first: Vec<usize> = (0..10).map(|at| connect(&mut world, 0, &format!("c{at}"), 1)).collect();
    let shard = world.shard(0);
    let now = crate::base::Time::from_millis(5000);
    shard.handle_time(now);
    assert!(shard.has_deferred(), "most of their timers wait");
    let ended = shard.connections();
    assert!(ended > 5, "{ended} are left");
    // The last client leaves by itself, and another connection gets its slot before its timer is handled.
    let place = slot(first[9]);
    shard.handle_hangup(now, place, Hangup::Closed);
    shard.take_effects();
    shard.handle_open(now, place, ([127, 0, 0, 1], 9).into(), 0, false);
    for _ in 0..100 {
        shard.handle_turn(now);
        shard.outbox().clear();
    }
    assert_eq!(shard.connections(), 1, "it has time to connect");
    assert_eq!(shard.shared.counters[0].get(Counter::LimitConnectSeconds), 0);
}

#[test]
fn shutdown_says_farewell_to_everyone_in_pieces() {
    let mut world = bounded(1, SMALL);
    let clients: Vec<usize> = (0..60).map(|at| connect_5(&mut world, &format!("c{at}"), b"")).collect();
    world.shut_down();
    for client in clients {
        assert_eq!(world.take(client), [0xE0, 1, 0x8B]);
        assert!(world.is_closed(client));
    }
}
