//! The bounds of data that waits for the disk and for other shards, within a turn and over turns.

use super::basics::{connect, quiet};
use super::kept::{at_home, connect_kept};
use crate::broker::world::World;
use crate::broker::{Counter, Hangup};

const BOUND: usize = 1 << 20;

/// A broker with this many shards and a log, each with a small bound for its journal.
fn bounded(shards: usize) -> World {
    let mut world = quiet(shards);
    world.shards().for_each(|shard| shard.bound_journal(BOUND));
    world
}

/// Creates a session on a shard that has subscribed to `a/b` at QoS 1 and is away.
fn leave_session(world: &mut World, shard: usize, name: &str) {
    let away = connect_kept(world, shard, name);
    world.send(away, b"\x82\x08\x00\x01\x00\x03a/b\x01");
    world.hang_up(away, Hangup::Closed);
}

/// `count` PUBLISH packets with QoS 1 and 10,000 bytes to `a/b`, with identifiers from 1 on.
fn publishes(count: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for id in 1..=count {
        bytes.extend(b"\x32\x97\x4E\x00\x03a/b");
        bytes.extend(id.to_be_bytes());
        bytes.resize(bytes.len() + 10_000, b'x');
    }
    bytes
}

fn pubacks(count: u16) -> Vec<u8> {
    (1..=count).flat_map(|id| [0x40, 2, id.to_be_bytes()[0], id.to_be_bytes()[1]]).collect()
}

#[test]
fn the_journal_is_bounded_within_one_read_and_what_was_unread_is_read_when_the_disk_goes_on() {
    let mut world = bounded(1);
    leave_session(&mut world, 0, "away");
    let clients: Vec<usize> =
        (0..5).map(|n| connect(&mut world, 0, &format!("p{n}"), if n == 0 { 0 } else { 60 })).collect();
    let other = connect(&mut world, 0, "other", 60);
    world.stick(0);
    for &client in &clients {
        world.send(client, &publishes(200));
        let bytes = world.shard(0).journal_bytes();
        // Each connection may exceed the bound by one packet.
        assert!(bytes < BOUND + 6 * 10_100, "{bytes}");
    }
    assert!(world.shard(0).journal_bytes() > BOUND && world.shard(0).is_log_behind());
    // Reading stops once more after the first batch was taken.
    assert_eq!(world.shared().counters[0].get(Counter::LimitLog), 2);
    // A client that needs no log is served.
    world.send(other, b"\x30\x05\x00\x01xhi\xC0\x00\x30\x05\x00\x01xhi\xC0\x00");
    assert_eq!(world.take(other), b"\xD0\x00\xD0\x00");
    // The silence of clients that are not read does not count against them.
    world.pass(200_000);
    for &client in &clients {
        assert!(!world.is_closed(client));
    }
    assert!(world.is_closed(other));
    world.unstick(0);
    for &client in &clients {
        assert_eq!(world.take(client), pubacks(200));
        world.send(client, b"\xC0\x00");
        assert_eq!(world.take(client), b"\xD0\x00", "it is read as ever");
    }
    assert!(!world.shard(0).is_log_behind() && !world.shard(0).has_deferred());
    // All messages are kept.
    let mut world = world.cut_power(1, 0);
    let away = connect_kept(&mut world, 0, "away");
    for _ in 0..1000 {
        let got = world.take(away);
        if got.is_empty() {
            break;
        }
    }
    assert_eq!(world.shared().counters[0].get(Counter::PublishesSent), 1000);
}

#[test]
fn a_connection_that_goes_while_it_waits_for_the_disk_is_forgotten_and_its_slot_is_another_s() {
    let mut world = bounded(1);
    leave_session(&mut world, 0, "away");
    let first = connect(&mut world, 0, "first", 60);
    let second = connect(&mut world, 0, "second", 60);
    world.stick(0);
    world.send(first, &publishes(200));
    world.send(second, &publishes(200));
    // A takeover ends it at once.
    let third = connect(&mut world, 0, "first", 60);
    assert!(world.is_closed(first));
    world.unstick(0);
    assert_eq!(world.take(second), pubacks(200));
    world.take(third);
    world.send(third, b"\xC0\x00");
    assert_eq!(world.take(third), b"\xD0\x00");
    assert!(!world.shard(0).has_deferred());
}

#[test]
fn mails_wait_while_the_log_is_behind_and_shards_that_fill_each_other_go_on() {
    let mut world = bounded(2);
    let homes = [0, 1].map(|shard| at_home(shard, "away"));
    for (shard, home) in homes.iter().enumerate() {
        leave_session(&mut world, shard, home);
    }
    let clients = [0, 1].map(|shard| connect(&mut world, shard, &at_home(shard, "publisher"), 60));
    world.stick(0);
    world.stick(1);
    // Each message is for both shards.
    for client in clients {
        world.send(client, &publishes(400));
    }
    for shard in world.shards() {
        // The only client of the other shard may exceed the bound by one packet, and its mails wait in the
        // box.
        assert!(shard.is_log_behind());
        assert!(shard.journal_bytes() < BOUND + 4 * 10_100, "{}", shard.journal_bytes());
    }
    for client in clients {
        assert_eq!(world.take(client), b"");
    }
    world.unstick(0);
    world.unstick(1);
    for client in clients {
        assert_eq!(world.take(client), pubacks(400));
    }
    assert!(world.shards().all(|shard| shard.takes_mails() && !shard.has_deferred()));
}

#[test]
fn while_the_box_of_another_shard_is_full_who_fills_it_is_read_no_further() {
    let mut world = quiet(2);
    let (here, there) = (at_home(0, "publisher"), at_home(1, "subscriber"));
    let subscriber = connect(&mut world, 1, &there, 60);
    world.send(subscriber, b"\x82\x08\x00\x01\x00\x03a/b\x00");
    world.take(subscriber);
    let publisher = connect(&mut world, 0, &here, 60);
    world.shard(0).handle_mesh_full(true);
    world.send(publisher, &publishes(100));
    let received = |world: &World| world.shared().counters[0].get(Counter::PublishesReceived);
    assert_eq!(received(&world), 1);
    let other = connect(&mut world, 0, &at_home(0, "other"), 60);
    world.send(other, b"\xC0\x00\xC0\x00");
    assert_eq!(world.take(other), b"\xD0\x00\xD0\x00");
    world.shard(0).handle_mesh_full(false);
    world.run();
    assert_eq!(received(&world), 100);
    assert_eq!(world.take(publisher), pubacks(100));
    // Even if no box is full, one read produces no more than the bound before the driver checks the boxes.
    world.send(publisher, &publishes(400));
    assert_eq!(world.take(publisher), pubacks(400));
}
