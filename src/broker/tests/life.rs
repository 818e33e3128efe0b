//! The signs of life of a client: its packets, and the bytes of a packet in progress. Actions of midge do not
//! count.

use super::basics::{connect, quiet};
use crate::broker::world::{World, slot};
use crate::broker::{Backlog, BytesBelow, Counter, EndCause, Event, Hangup, HoldBack, Limit};
use crate::settings::Config;

const PINGREQ: &[u8] = b"\xC0\x00";
/// SUBSCRIBE to `f` with QoS 0.
const SUBSCRIBE_F: &[u8] = b"\x82\x06\x00\x01\x00\x01f\x00";

fn world(change: impl FnOnce(&mut Config)) -> World {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.persistence.directory = String::new();
    change(&mut config);
    World::new(1, config)
}

/// A world whose bound of a backlog is 8000 bytes. A thousand of them may be answers.
fn slow_world() -> World {
    world(|config| config.limits.backlog_bytes = 8000)
}

fn total(world: &World, counter: Counter) -> u64 {
    world.shared().counters[0].get(counter)
}

fn cause(world: &World, name: &str) -> Option<EndCause> {
    world.events.iter().find_map(|event| match event {
        Event::Disconnected { client, cause, .. } if **client == *name => Some(cause.clone()),
        _ => None,
    })
}

/// The numbers of lost messages that were reported for a slow client.
fn dropped(world: &World, name: &str) -> Vec<u64> {
    let told = world.events.iter().filter_map(|event| match event {
        Event::DroppedForSlow { client, messages } if **client == *name => Some(*messages),
        _ => None,
    });
    told.collect()
}

/// The driver reports how much waits for a client, and how much its socket has taken.
fn backlog(world: &mut World, client: usize, bytes: usize, taken: u64) {
    let now = world.now();
    world.shard(0).handle_backlog(now, slot(client), Backlog { bytes, taken });
    world.run();
}

/// A PUBLISH of QoS 0 to `f` with this length.
fn message(len: usize) -> Vec<u8> {
    let mut packet = vec![0x30];
    let mut rest = len;
    while rest > 127 {
        packet.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    packet.push(rest as u8);
    packet.extend_from_slice(b"\x00\x01f");
    packet.resize(packet.len() + len - 3, b'x');
    packet
}

#[test]
fn a_client_whose_backlog_comes_from_others_is_read_on() {
    let mut world = slow_world();
    let slow = connect(&mut world, 0, "slow", 2);
    world.send(slow, SUBSCRIBE_F);
    backlog(&mut world, slow, 50_000, 0);
    world.take(slow);
    // For a minute it gets only the answers to its pings, which wait in the backlog.
    for _ in 0..60 {
        world.pass(1000);
        world.send(slow, PINGREQ);
        assert_eq!(world.take(slow), b"\xD0\x00", "its ping is read");
    }
    assert!(!world.is_closed(slow));
    // Its acknowledgements and its own messages are handled too.
    let other = connect(&mut world, 0, "other", 0);
    world.send(other, b"\x82\x06\x00\x01\x00\x01g\x00");
    world.take(other);
    world.send(slow, b"\x30\x04\x00\x01gh");
    assert_eq!(world.take(other), b"\x30\x04\x00\x01gh");
    // Messages for it are dropped and counted while there is no room.
    world.send(other, &message(100));
    assert_eq!(world.take(slow), b"");
    assert_eq!(total(&world, Counter::PublishesDropped), 1);
    assert!(dropped(&world, "slow").is_empty());
    backlog(&mut world, slow, 7000, 43_000);
    world.send(other, &message(100_000));
    assert!(world.take(slow) == message(100_000), "a single message may be larger than the bound");
    assert_eq!(total(&world, Counter::LimitBacklog), 0);
    let now = world.now();
    world.shard(0).handle_drained(now, slot(slow));
    world.run();
    assert_eq!(dropped(&world, "slow"), [1], "said once the backlog is over");
    world.pass(4000);
    assert_eq!(cause(&world, "slow"), Some(EndCause::KeepAlive), "it is silent itself");
}

#[test]
fn packets_that_wait_are_counted_as_long_as_they_wait() {
    let mut world = slow_world();
    let [one, other] = ["one", "other"].map(|id| connect(&mut world, 0, id, 0));
    for client in [one, other] {
        world.send(client, SUBSCRIBE_F);
    }
    let mut sent = 4 + 5;
    for _ in 0..10 {
        world.send(one, &message(1000));
        sent += message(1000).len();
    }
    for client in [one, other] {
        backlog(&mut world, client, 3 * sent / 10, 0);
        backlog(&mut world, client, sent / 2, 0);
    }
    assert_eq!(total(&world, Counter::PacketsWaiting), 10);
    let now = world.now();
    world.shard(0).handle_drained(now, slot(one));
    assert_eq!(total(&world, Counter::PacketsWaiting), 5);
    world.send(other, b"\xE0\x00");
    assert_eq!(total(&world, Counter::PacketsWaiting), 0);
}

#[test]
fn who_asks_for_more_than_it_reads_is_stopped_and_lives_while_its_socket_takes_something() {
    let mut world = slow_world();
    let greedy = connect(&mut world, 0, "greedy", 2);
    backlog(&mut world, greedy, 8000, 0);
    world.send(greedy, &PINGREQ.repeat(501));
    backlog(&mut world, greedy, 8500, 502);
    world.take(greedy);
    assert_eq!(total(&world, Counter::LimitBacklog), 1);
    let is_told = |event: &Event| matches!(event, Event::LimitReached { limit: Limit::BacklogPause, client } if &**client == "greedy");
    assert_eq!(world.events.iter().filter(|event| is_told(event)).count(), 1);
    // It is not read, and stays connected because it reads.
    for second in 1..=20 {
        world.pass(1000);
        world.send(greedy, PINGREQ);
        assert_eq!(world.take(greedy), b"");
        backlog(&mut world, greedy, 8500 - second, 502 + second as u64);
    }
    assert!(!world.is_closed(greedy));
    // It has read half of what it had asked for, so its pings are answered now.
    backlog(&mut world, greedy, 400, 8602);
    assert_eq!(world.take(greedy), b"\xD0\x00".repeat(20));
    // It asks again, and this time it reads nothing.
    backlog(&mut world, greedy, 9000, 8602);
    world.send(greedy, &PINGREQ.repeat(2000));
    backlog(&mut world, greedy, 12_000, 8602);
    world.pass(2900);
    assert!(!world.is_closed(greedy));
    world.pass(200);
    assert_eq!(cause(&world, "greedy"), Some(EndCause::KeepAlive));
}

#[test]
fn messages_to_itself_are_asked_for_too() {
    let mut world = slow_world();
    let own = connect(&mut world, 0, "own", 0);
    world.send(own, SUBSCRIBE_F);
    backlog(&mut world, own, 5000, 0);
    for _ in 0..4 {
        world.send(own, &message(900));
    }
    backlog(&mut world, own, 8600, 0);
    assert_eq!(total(&world, Counter::LimitBacklog), 1);
    let before = total(&world, Counter::PublishesReceived);
    world.send(own, &message(900));
    assert_eq!(total(&world, Counter::PublishesReceived), before, "it is not read");
}

#[test]
fn no_pause_of_midges_own_counts_against_a_keep_alive() {
    for why in [HoldBack::Mesh, HoldBack::Log, HoldBack::Turn] {
        let mut world = quiet(1);
        let client = connect(&mut world, 0, "held-back", 2);
        assert!(world.shard(0).hold_back(slot(client), why));
        assert!(!world.shard(0).hold_back(slot(client), why), "told once");
        world.pass(60_000);
        assert!(!world.is_closed(client));
        let now = world.now();
        assert!(world.shard(0).let_go(now, slot(client), why));
        world.pass(2900);
        assert!(!world.is_closed(client), "what it has sent meanwhile is still to be read");
        world.pass(200);
        assert_eq!(cause(&world, "held-back"), Some(EndCause::KeepAlive));
    }
}

#[test]
fn answers_that_wait_for_a_disk_that_hangs_end_no_client() {
    let mut world = quiet(1);
    let publisher = connect(&mut world, 0, "publisher", 2);
    world.stick(0);
    for _ in 0..9000 {
        // The messages are retained, so each is kept.
        world.send(publisher, b"\x33\x09\x00\x03a/b\x00\x07hi");
    }
    assert_eq!(total(&world, Counter::LimitAnswers), 1);
    world.pass(60_000);
    assert!(!world.is_closed(publisher));
    world.unstick(0);
    assert_eq!(world.take(publisher), b"\x40\x02\x00\x07".repeat(9000));
}

#[test]
fn reading_goes_on_only_when_the_last_reason_is_gone() {
    let mut world = slow_world();
    let client = connect(&mut world, 0, "twice", 0);
    let (slot, now) = (slot(client), world.now());
    assert!(world.shard(0).hold_back(slot, HoldBack::Mesh));
    assert!(world.shard(0).hold_back(slot, HoldBack::Log));
    assert!(!world.shard(0).let_go(now, slot, HoldBack::Mesh) && world.shard(0).is_paused(slot));
    assert!(!world.shard(0).let_go(now, slot, HoldBack::Mesh), "it is gone already");
    assert!(world.shard(0).let_go(now, slot, HoldBack::Log) && !world.shard(0).is_paused(slot));
    // The reasons end with the connection.
    assert!(world.shard(0).hold_back(slot, HoldBack::Log));
    world.hang_up(client, Hangup::Reset);
    assert!(!world.shard(0).is_paused(slot) && !world.shard(0).let_go(now, slot, HoldBack::Log));
}

#[test]
fn a_reset_ends_a_client_that_waits_for_its_rate_and_a_close_lets_it_finish() {
    for (hangup, arrive) in [(Hangup::Reset, 50), (Hangup::Error(110), 50), (Hangup::Closed, 60)] {
        let mut world = world(|config| config.limits.client_messages_per_second = 50);
        let subscriber = connect(&mut world, 0, "subscriber", 0);
        world.send(subscriber, SUBSCRIBE_F);
        world.take(subscriber);
        let hasty = connect(&mut world, 0, "hasty", 0);
        world.send(hasty, &message(10).repeat(60));
        world.hang_up(hasty, hangup.clone());
        let at_once = hangup != Hangup::Closed;
        assert_eq!(cause(&world, "hasty").is_some(), at_once, "{hangup:?}");
        world.pass(1000);
        assert_eq!(world.take(subscriber).len(), arrive * 12);
        assert_eq!(cause(&world, "hasty"), Some(EndCause::Hangup(hangup)));
    }
}

#[test]
fn a_packet_under_way_is_life_as_long_as_it_comes_at_the_lowest_rate() {
    for (bytes_a_second, lives) in [(200, true), (50, false)] {
        let mut world = quiet(1);
        let subscriber = connect(&mut world, 0, "subscriber", 0);
        world.send(subscriber, SUBSCRIBE_F);
        world.take(subscriber);
        let sender = connect(&mut world, 0, "sender", 2);
        let packet = message(200 * 60);
        for piece in packet.chunks(bytes_a_second) {
            world.send(sender, piece);
            if world.is_closed(sender) {
                break;
            }
            world.pass(1000);
        }
        if lives {
            assert_eq!(cause(&world, "sender"), None, "after {:?}", world.now());
            assert!(world.take(subscriber) == packet);
            assert_eq!(total(&world, Counter::LimitUpload), 0);
        } else {
            assert_eq!(cause(&world, "sender"), Some(EndCause::SlowPacket));
            assert!(world.now().as_micros() < 5_000_000, "at one and a half times its keep alive");
            assert_eq!(total(&world, Counter::LimitUpload), 1);
        }
    }
}

#[test]
fn half_a_packet_and_silence_is_the_end_even_without_a_keep_alive() {
    let mut world = quiet(1);
    let packet = message(20_000);
    let never = connect(&mut world, 0, "never", 0);
    let late = connect(&mut world, 0, "late", 0);
    let slow = connect(&mut world, 0, "slow", 0);
    world.send(never, &packet[..10_000]);
    world.pass(899_000);
    assert!(!world.is_closed(never));
    // A packet that begins shortly before is not timed together with the previous one.
    world.send(late, &packet);
    world.send(late, &packet[..10]);
    world.send(slow, &packet[..10_000]);
    world.pass(2000);
    assert_eq!(cause(&world, "never"), Some(EndCause::SlowPacket));
    assert!(!world.is_closed(late));
    world.send(late, &packet[10..]);
    world.pass(1_000_000);
    assert!(!world.is_closed(late), "idle, and without a keep alive");
    assert_eq!(cause(&world, "slow"), Some(EndCause::SlowPacket));
}

#[test]
fn bytes_of_a_record_that_is_not_whole_are_as_good_as_those_of_a_packet() {
    let mut world = quiet(1);
    let sender = connect(&mut world, 0, "sender", 2);
    for _ in 0..30 {
        world.pass(1000);
        let now = world.now();
        world.shard(0).handle_bytes_below(now, slot(sender), BytesBelow { received: 200, held: 300 });
    }
    assert!(!world.is_closed(sender));
    // The record was complete and had no bytes for MQTT, so no packet is in progress.
    let now = world.now();
    world.shard(0).handle_bytes_below(now, slot(sender), BytesBelow { received: 200, held: 0 });
    world.pass(3100);
    assert_eq!(cause(&world, "sender"), Some(EndCause::KeepAlive));
}
