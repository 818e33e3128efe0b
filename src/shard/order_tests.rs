//! The order of retained messages among themselves and beside live ones, and what DUP says.

use super::Hangup;
use super::kept_tests::{at_home, connect_kept};
use super::tests::{connect, quiet};

fn subscribe(topic: &str, qos: u8) -> Vec<u8> {
    let length = u8::try_from(topic.len()).unwrap();
    [&[0x82, 5 + length, 0, 1, 0, length], topic.as_bytes(), &[qos]].concat()
}

/// A retained message of QoS 0, or a clear.
fn retain(topic: &str, payload: &[u8]) -> Vec<u8> {
    let (length, all) = (topic.len(), 2 + topic.len() + payload.len());
    let length = u8::try_from(length).unwrap();
    [&[0x31, u8::try_from(all).unwrap(), 0, length], topic.as_bytes(), payload].concat()
}

/// [MQTT5-3.3.1-6]
#[test]
fn clear_on_another_shard_right_after_a_burst_of_retained_messages_is_the_newer_one() {
    for home in [0, 1] {
        let mut world = quiet(2);
        let topic = at_home(home, "t");
        let busy = connect(&mut world, 0, &at_home(0, "busy"), 60);
        let other = connect(&mut world, 1, &at_home(1, "other"), 60);
        world.send(busy, &retain(&topic, b"hi").repeat(60));
        // A client's next step takes ten microseconds.
        world.send(other, &retain(&topic, b""));
        let reader = connect(&mut world, 0, &at_home(0, "reader"), 60);
        world.send(reader, &subscribe(&topic, 0));
        assert_eq!(world.take(reader), [0x90, 3, 0, 1, 0], "home {home}");
    }
}

/// A shard's clock is that of its turn, which may have begun before that of the shard a message comes from.
#[test]
fn what_a_shard_publishes_after_it_has_seen_a_retained_message_is_newer_than_that() {
    let mut world = quiet(2);
    let now = world.now();
    let mut stamps = Vec::new();
    for shard in [1, 0, 1, 0] {
        let last = stamps.last().copied().unwrap_or(0);
        world.shards[shard].note_stamp(last);
        // All of them in one microsecond.
        stamps.push(world.shards[shard].next_stamp(now));
    }
    assert!(stamps.is_sorted_by(|one, next| one < next), "{stamps:?}");
}

/// [MQTT5-3.3.1-1] [MQTT5-3.3.1-2]
#[test]
fn message_that_no_connection_has_been_sent_has_no_dup() {
    let mut world = quiet(1);
    let subscriber = connect_kept(&mut world, 0, "kept");
    world.send(subscriber, &subscribe("a/b", 2));
    let publisher = connect(&mut world, 0, "publisher", 60);
    world.stick(0);
    world.send(publisher, b"\x34\x09\x00\x03a/b\x00\x07hi");
    // It has a packet identifier, and waits for the disk.
    world.hang_up(subscriber, Hangup::Reset);
    let subscriber = connect_kept(&mut world, 0, "kept");
    world.unstick(0);
    assert_eq!(world.take(subscriber), b"\x20\x02\x01\x00\x34\x09\x00\x03a/b\x00\x01hi");
    world.hang_up(subscriber, Hangup::Reset);
    let subscriber = connect_kept(&mut world, 0, "kept");
    assert_eq!(world.take(subscriber), b"\x20\x02\x01\x00\x3C\x09\x00\x03a/b\x00\x01hi");
}

/// After a start nothing tells whether it was sent: DUP says that it might have been. [MQTT5 §3.3.1.1]
#[test]
fn message_that_had_its_identifier_before_a_power_cut_has_dup() {
    let mut world = quiet(1);
    let subscriber = connect_kept(&mut world, 0, "kept");
    world.send(subscriber, &subscribe("a/b", 2));
    let publisher = connect(&mut world, 0, "publisher", 60);
    world.send(publisher, b"\x34\x09\x00\x03a/b\x00\x07hi");
    let mut world = world.cut_power(1, 0);
    let subscriber = connect_kept(&mut world, 0, "kept");
    assert_eq!(world.take(subscriber), b"\x20\x02\x01\x00\x3C\x09\x00\x03a/b\x00\x01hi");
}

/// A subscriber never sees an older retained message after a newer live one.
#[test]
fn retained_message_that_waits_for_the_disk_gives_way_to_a_newer_live_one() {
    let topic = at_home(1, "t");
    let length = u8::try_from(topic.len()).unwrap();
    let publish_qos2 = [&[0x35, 6 + length, 0, length], topic.as_bytes(), &[0, 7], b"hi"].concat();
    let replayed = [&[0x35, 6 + length, 0, length], topic.as_bytes(), &[0, 1], b"hi"].concat();
    let live = [&[0x30, 4 + length, 0, length], topic.as_bytes(), b"ho"].concat();
    for (newer, expected) in [(true, live), (false, replayed)] {
        let mut world = quiet(2);
        let publisher = connect(&mut world, 0, &at_home(0, "publisher"), 60);
        world.send(publisher, &publish_qos2);
        let subscriber = connect_kept(&mut world, 0, &at_home(0, "kept"));
        world.take(subscriber);
        // The topic's home answers late, and then the disk is slow.
        world.hold(1, 0);
        world.send(subscriber, &subscribe(&topic, 2));
        assert_eq!(world.take(subscriber), [0x90, 3, 0, 1, 2]);
        world.stick(0);
        world.release(1, 0);
        world.run();
        assert_eq!(world.take(subscriber), b"");
        if newer {
            world.send(publisher, &retain(&topic, b"ho"));
        }
        world.unstick(0);
        assert_eq!(world.take(subscriber), expected);
        // Nothing of it keeps the next one back.
        world.send(publisher, &[b"\x62\x02\x00\x07", publish_qos2.as_slice()].concat());
        let next = world.take(subscriber);
        assert!(next.ends_with(b"hi"), "{next:?}");
        world.send(subscriber, &subscribe("x/y", 0));
        assert_eq!(world.take(subscriber), [0x90, 3, 0, 1, 0]);
    }
}
