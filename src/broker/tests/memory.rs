//! The account of memory: state is counted while it is kept. Also the actions when memory is short.

use super::basics::connect;
use super::kept::{at_home, connect_kept};
use crate::base::MemoryKind;
use crate::broker::world::{World, slot};
use crate::broker::{BytesBelow, Counter, Event, Hangup, Limit, MemoryRelief};
use crate::settings::{Config, QueuePolicy};

const MIB: usize = 1 << 20;

fn world(shards: usize, change: impl FnOnce(&mut Config)) -> World {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.persistence.directory = String::new();
    change(&mut config);
    World::new(shards, config)
}

/// A packet with this body.
fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![head];
    let mut length = body.len();
    while length > 127 {
        packet.push((length % 128) as u8 | 128);
        length /= 128;
    }
    packet.push(length as u8);
    packet.extend_from_slice(body);
    packet
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

/// CONNECT of 5.0 with Clean Start. It has a will with `will_bytes` bytes unless that is 0.
fn connect_5(client_id: &str, expiry_seconds: u32, will_bytes: usize) -> Vec<u8> {
    let flags = if will_bytes > 0 { 0x06 } else { 0x02 };
    let mut body = b"\x00\x04MQTT\x05".to_vec();
    body.extend([flags, 0, 0, 5, 0x11]);
    body.extend(expiry_seconds.to_be_bytes());
    body.extend(text(client_id));
    if will_bytes > 0 {
        body.push(0);
        body.extend(text("will"));
        body.extend(u16::try_from(will_bytes).unwrap().to_be_bytes());
        body.resize(body.len() + will_bytes, b'w');
    }
    packet(0x10, &body)
}

/// A connected 5.0 client.
fn client_5(world: &mut World, client_id: &str, expiry_seconds: u32, will_bytes: usize) -> usize {
    let link = world.open(0);
    world.send(link, &connect_5(client_id, expiry_seconds, will_bytes));
    assert_eq!(world.take(link)[3], 0, "{client_id} is in");
    link
}

fn publish(qos: u8, topic: &str, properties: &[u8], bytes: usize) -> Vec<u8> {
    let mut body = text(topic);
    if qos > 0 {
        body.extend([0, 9]);
    }
    body.push(u8::try_from(properties.len()).unwrap());
    body.extend(properties);
    body.resize(body.len() + bytes, b'.');
    packet(0x30 | qos << 1, &body)
}

fn used(world: &mut World, kind: MemoryKind) -> usize {
    world.shards().map(|shard| shard.memory.account().of(kind)).sum()
}

fn told(world: &World, wanted: MemoryRelief) -> usize {
    let fits = |event: &&Event| matches!(event, Event::LimitReached { limit: Limit::Memory(relief), .. } if *relief == wanted);
    world.events.iter().filter(fits).count()
}

#[test]
fn each_kind_is_counted_while_it_is_kept_and_not_longer() {
    for shards in [1, 2, 7] {
        let mut world = world(shards, |config| config.protocol.session_expiry_seconds_max = 3600);
        let none: usize = world.shards().map(|shard| shard.memory.account().total()).sum();
        assert_eq!(none, 0);
        let kept = connect_kept(&mut world, 0, "kept");
        world.send(kept, b"\x82\x0A\x00\x01\x00\x01q\x01\x00\x01+\x00");
        world.hang_up(kept, Hangup::Closed);
        let will = client_5(&mut world, "will", 0, 5000);
        assert!(used(&mut world, MemoryKind::Wills) >= 5000);
        let publisher = client_5(&mut world, "publisher", 0, 0);
        for _ in 0..3 {
            world.send(publisher, &publish(1, "q", b"", 1000));
        }
        assert!(
            (3000..6000).contains(&used(&mut world, MemoryKind::Messages)),
            "each once, not once for each filter"
        );
        // Sets the same topic alias twice.
        for name in ["a".repeat(3000), "b".repeat(2000)] {
            world.send(publisher, &publish(0, &name, b"\x23\x00\x01", 1));
        }
        assert!((2000..2500).contains(&used(&mut world, MemoryKind::Aliases)));
        let retained = |bytes| {
            let mut packet = publish(0, "kept/here", b"", bytes);
            packet[0] |= 1;
            packet
        };
        world.send(publisher, &retained(100));
        assert!(used(&mut world, MemoryKind::Retained) >= 100);
        world.send(publisher, &publish(0, "half", b"", 4000)[..3000]);
        assert!((3000..5000).contains(&used(&mut world, MemoryKind::Partial)));
        assert!(used(&mut world, MemoryKind::Subscriptions) > 0);
        // All of it is subtracted again.
        world.send(publisher, &publish(0, "half", b"", 4000)[3000..]);
        assert_eq!(used(&mut world, MemoryKind::Partial), 0);
        world.send(publisher, &retained(0));
        assert_eq!(used(&mut world, MemoryKind::Retained), 0);
        world.hang_up(publisher, Hangup::Closed);
        assert_eq!(used(&mut world, MemoryKind::Aliases), 0);
        world.hang_up(will, Hangup::Closed);
        assert_eq!(used(&mut world, MemoryKind::Wills), 0);
        let again = connect(&mut world, 0, "kept", 60);
        world.hang_up(again, Hangup::Closed);
        for shard in world.shards() {
            assert_eq!(shard.memory.account().total(), 0, "{:?}", shard.memory);
        }
    }
}

#[test]
fn identifier_of_a_qos_2_message_that_was_refused_counts_no_longer_than_it_is_held() {
    // On two shards the other one may refuse it, and later.
    for shards in [1, 2] {
        let mut world = world(shards, |config| {
            config.limits.session_queue_policy = QueuePolicy::Refuse;
            config.limits.session_queue_messages = 1;
        });
        for shard in 0..shards {
            let subscriber = connect_kept(&mut world, shard, &at_home(shard, "kept"));
            world.send(subscriber, b"\x82\x06\x00\x01\x00\x01q\x02");
            world.hang_up(subscriber, Hangup::Closed);
        }
        let publisher = client_5(&mut world, &at_home(0, "publisher"), 0, 0);
        let mut codes = Vec::new();
        let mut before = 0;
        for round in 0..10 {
            if round == 1 {
                before = used(&mut world, MemoryKind::Sessions);
            }
            world.send(publisher, &publish(2, "q", &[], 10));
            let answer = world.take(publisher);
            assert_eq!((answer[0], &answer[2..4]), (0x50, &[0, 9][..]));
            codes.push(answer.get(4).copied().unwrap_or(0));
            if round == 0 {
                world.send(publisher, b"\x62\x02\x00\x09");
                world.take(publisher);
            }
        }
        assert_eq!(codes, [0, 0x97, 0x97, 0x97, 0x97, 0x97, 0x97, 0x97, 0x97, 0x97], "{shards} shards");
        assert_eq!(used(&mut world, MemoryKind::Sessions), before, "{shards} shards");
    }
}

#[test]
fn a_message_on_its_way_counts_and_a_full_account_lets_each_client_have_one() {
    let mut world = world(1, |config| config.limits.queue_bytes_total = MIB);
    let subscribers: Vec<usize> = (0..4)
        .map(|number| {
            let subscriber = client_5(&mut world, &format!("s{number}"), 0, 0);
            let filter = format!("q/{number}");
            world.send(subscriber, &packet(0x82, &[&[0, 1, 0], &text(&filter)[..], &[1]].concat()));
            world.take(subscriber);
            subscriber
        })
        .collect();
    let publisher = client_5(&mut world, "publisher", 0, 0);
    // Nobody acknowledges: without a bound, 40 messages of 256 KiB would be in flight.
    for round in 0..10 {
        for (number, &subscriber) in subscribers.iter().enumerate() {
            world.send(publisher, &publish(1, &format!("q/{number}"), b"", 256 * 1024));
            world.take(publisher);
            let got = world.take(subscriber).len();
            assert!(round > 0 || got > 256 * 1024, "each has had one");
        }
        assert!(used(&mut world, MemoryKind::Messages) < 2 * MIB);
    }
    for &subscriber in &subscribers {
        world.hang_up(subscriber, Hangup::Closed);
    }
    assert_eq!(used(&mut world, MemoryKind::Messages), 0);
}

#[test]
fn tight_memory_refuses_what_is_new_and_keeps_serving_those_who_are_in() {
    let mut world = world(1, |config| {
        config.limits.memory_bytes = MIB;
        config.limits.connect_bytes_unnamed = config.limits.connect_bytes;
    });
    let other = client_5(&mut world, "other", 0, 0);
    world.send(other, &packet(0x82, &[&[0, 1, 0], &text("news")[..], &[1]].concat()));
    world.take(other);
    // The wills of connected clients can't be dropped.
    let mut refused = 0;
    for number in 0..40 {
        let link = world.open(0);
        world.send(link, &connect_5(&format!("w{number}"), 0, 40_000));
        refused += usize::from(world.take(link)[3] == 0x97);
    }
    assert!((10..30).contains(&refused), "{refused}");
    assert_eq!(told(&world, MemoryRelief::Connect), refused);
    assert!(world.shard(0).memory.account().total() < MIB);
    // A 3.x client gets 0x03.
    let old = world.open(0);
    world.send(old, b"\x10\x0D\x00\x04MQTT\x04\x02\x00\x3C\x00\x01x");
    assert_eq!(world.take(old), [0x20, 2, 0, 3]);
    world.send(other, &packet(0x82, &[&[0, 2, 0], &text("more")[..], &[1]].concat()));
    assert_eq!(world.take(other)[..6], [0x90, 4, 0, 2, 0, 0x97]);
    assert_eq!(told(&world, MemoryRelief::Subscribe), 1);
    let mut retained = publish(1, "r", b"", 100);
    retained[0] |= 1;
    world.send(other, &retained);
    assert_eq!(world.take(other), [0x40, 3, 0, 9, 0x97]);
    assert_eq!(told(&world, MemoryRelief::Retain), 1);
    world.send(other, &publish(1, "news", b"", 5));
    assert_eq!(world.take(other)[0] >> 4, 3, "what is there goes on");
    assert!(world.shared().counters[0].get(Counter::LimitMemory) > 0);
}

#[test]
fn half_handshakes_count_and_end_when_memory_is_full() {
    let mut world = world(1, |config| config.limits.memory_bytes = MIB);
    let before = world.shard(0).memory.account().total();
    let other = client_5(&mut world, "other", 0, 0);
    let links: Vec<usize> = (0..100).map(|_| world.open(0)).collect();
    for &link in &links {
        let now = world.now();
        // TLS has half of a first message.
        world.shard(0).handle_bytes_below(now, slot(link), BytesBelow { received: 15_000, held: 30_000 });
        world.run();
    }
    let open = links.iter().filter(|&&link| !world.is_closed(link)).count();
    assert!((20..36).contains(&open), "{open}");
    assert_eq!(used(&mut world, MemoryKind::Partial), open * 30_000);
    assert_eq!(told(&world, MemoryRelief::Connect), 100 - open);
    let new = world.open(0);
    let now = world.now();
    world.shard(0).handle_bytes_below(now, slot(new), BytesBelow { received: 1500, held: 3000 });
    world.run();
    assert!(!world.is_closed(new), "a usual one is kept");
    for &link in links.iter().chain([&new, &other]) {
        if !world.is_closed(link) {
            world.hang_up(link, Hangup::Closed);
        }
    }
    assert_eq!(used(&mut world, MemoryKind::Partial), 0);
    assert_eq!(world.shard(0).memory.account().total(), before);
}

#[test]
fn large_packets_under_way_wait_and_the_connection_that_holds_the_most_is_ended() {
    let mut world = world(1, |config| config.limits.memory_bytes = MIB);
    let small = client_5(&mut world, "small", 0, 0);
    let links: Vec<usize> = (0..4).map(|number| client_5(&mut world, &format!("c{number}"), 0, 0)).collect();
    let whole = publish(0, "large", b"", 900_000);
    // Each has sent 300 KB, and one has sent more.
    for (at, &link) in links.iter().enumerate() {
        for piece in whole[..if at == 2 { 400_000 } else { 300_000 }].chunks(10_000) {
            world.send(link, piece);
        }
    }
    assert!(told(&world, MemoryRelief::Read) > 0);
    assert!(world.shard(0).memory.account().total() < 2 * MIB);
    // Memory is tight for a while.
    world.pass(60_000);
    let closed = links.iter().filter(|&&link| world.is_closed(link)).count();
    assert!((1..4).contains(&closed), "{closed}");
    assert_eq!(told(&world, MemoryRelief::End), closed);
    assert!(!world.is_closed(small));
    // The others continue, because there is room now.
    let left = *links.iter().find(|&&link| !world.is_closed(link)).expect("one is left");
    for piece in whole[300_000..].chunks(10_000) {
        world.send(left, piece);
    }
    assert!(!world.is_closed(left));
}
