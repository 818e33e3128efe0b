//! The order of retained messages among themselves and relative to live ones, and the DUP flag.

use super::basics::{PUBLISH_AB, SUBSCRIBE_AB, connect, quiet};
use super::kept::{at_home, connect_kept};
use crate::broker::Hangup;
use crate::broker::world::World;
use crate::settings::{Config, QueuePolicy};

fn subscribe(topic: &str, qos: u8) -> Vec<u8> {
    let length = u8::try_from(topic.len()).unwrap();
    [&[0x82, 5 + length, 0, 1, 0, length], topic.as_bytes(), &[qos]].concat()
}

/// A retained message of QoS 0. An empty payload clears it.
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

/// A shard's clock is that of its turn. The turn may have begun before that of the shard from which a message
/// comes.
#[test]
fn what_a_shard_publishes_after_it_has_seen_a_retained_message_is_newer_than_that() {
    let mut world = quiet(2);
    let now = world.now();
    let mut stamps = Vec::new();
    for shard in [1, 0, 1, 0] {
        let last = stamps.last().copied();
        world.shard(shard).stamps.note(last);
        // All of them in one microsecond.
        stamps.push(world.shard(shard).stamps.next(now));
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

/// After a start it is unknown whether the message was sent, and DUP shows that. [MQTT5 §3.3.1.1]
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
        // Nothing of it delays the next message.
        world.send(publisher, &[b"\x62\x02\x00\x07", publish_qos2.as_slice()].concat());
        let next = world.take(subscriber);
        assert!(next.ends_with(b"hi"), "{next:?}");
        world.send(subscriber, &subscribe("x/y", 0));
        assert_eq!(world.take(subscriber), [0x90, 3, 0, 1, 0]);
    }
}

/// CONNECT of 5.0 with a session of 100 s.
fn connect_kept_v5(world: &mut World, shard: usize, client_id: &str) -> usize {
    let client = world.open(shard);
    let length = u8::try_from(client_id.len()).unwrap();
    let head = [&[0x10, 18 + length], b"\x00\x04MQTT\x05\x00\x00\x3C\x05\x11\x00\x00\x00\x64\x00".as_slice()];
    world.send(client, &[&head.concat(), [length].as_slice(), client_id.as_bytes()].concat());
    assert_eq!(world.take(client)[3], 0, "{client_id} is in");
    client
}

/// Persistent sessions with a subscription of QoS 2 at home on shards 0 and 1, with their names.
fn subscribers(world: &mut World) -> [(usize, String); 2] {
    [0, 1].map(|shard| {
        let name = at_home(shard, "kept");
        let client = connect_kept(world, shard, &name);
        world.send(client, &subscribe("a/b", 2));
        assert_eq!(world.take(client).len(), 4 + 5);
        (client, name)
    })
}

/// [MQTT5-4.3.3-10]: a repeat would be a second copy for the sessions that have the message.
#[test]
fn qos_2_message_that_a_full_disk_refuses_reaches_no_session() {
    let mut world = quiet(2);
    let [(one, _), (two, _)] = subscribers(&mut world);
    let publisher = connect_kept_v5(&mut world, 0, &at_home(0, "publisher"));
    world.shard(1).handle_store_full(true);
    world.send(publisher, b"\x34\x0A\x00\x03a/b\x00\x07\x00hi");
    let refused = world.take(publisher);
    assert_eq!((refused[0], &refused[2..5]), (0x50, [0, 7, 0x97].as_slice()));
    assert_eq!((world.take(one), world.take(two)), (vec![], vec![]));
    // The power fails before the publisher has read the answer.
    world.shard(1).handle_store_full(false);
    let mut world = world.cut_power(2, 0);
    let publisher = connect_kept_v5(&mut world, 0, &at_home(0, "publisher"));
    world.send(publisher, b"\x3C\x0A\x00\x03a/b\x00\x07\x00hi");
    assert_eq!(&world.take(publisher)[..4], [0x50, 2, 0, 7]);
    for shard in [0, 1] {
        let client = connect_kept(&mut world, shard, &at_home(shard, "kept"));
        assert_eq!(world.take(client), b"\x20\x02\x01\x00\x34\x09\x00\x03a/b\x00\x01hi", "once");
    }
}

/// The disk becomes full while the message is between two shards. The publisher's log has it for both.
#[test]
fn qos_2_message_on_its_way_to_a_disk_that_becomes_full_arrives_once_everywhere() {
    for cut in [false, true] {
        let mut world = quiet(2);
        let [(one, _), (two, _)] = subscribers(&mut world);
        let name = at_home(0, "publisher");
        let publisher = connect_kept(&mut world, 0, &name);
        world.take(publisher);
        world.hold(0, 1);
        world.send(publisher, b"\x34\x09\x00\x03a/b\x00\x07hi");
        world.shard(1).handle_store_full(true);
        world.stick(1);
        world.release(0, 1);
        world.run();
        assert_eq!(world.take(one), b"\x34\x09\x00\x03a/b\x00\x01hi");
        assert_eq!(
            (world.take(publisher), world.take(two)),
            (vec![], vec![]),
            "neither acknowledged nor sent"
        );
        if !cut {
            world.shard(1).handle_store_full(false);
            world.unstick(1);
            assert_eq!(world.take(publisher), [0x50, 2, 0, 7]);
            assert_eq!(world.take(two), b"\x34\x09\x00\x03a/b\x00\x01hi");
            continue;
        }
        let mut world = world.cut_power(2, 0);
        let publisher = connect_kept(&mut world, 0, &name);
        world.send(publisher, b"\x3C\x09\x00\x03a/b\x00\x07hi");
        assert_eq!(world.take(publisher), b"\x20\x02\x01\x00\x50\x02\x00\x07");
        let one = connect_kept(&mut world, 0, &at_home(0, "kept"));
        assert_eq!(world.take(one), b"\x20\x02\x01\x00\x3C\x09\x00\x03a/b\x00\x01hi", "a repeat");
        let two = connect_kept(&mut world, 1, &at_home(1, "kept"));
        assert_eq!(world.take(two), b"\x20\x02\x01\x00\x34\x09\x00\x03a/b\x00\x01hi");
    }
}

/// [MQTT5-4.3.3-10]: before the PUBREC has refused it, the message is a repeat. After that, it is a new
/// message. [MQTT5-4.3.3-9]
#[test]
fn qos_2_message_whose_refusal_was_not_sent_reaches_nobody_twice() {
    for (shards, home) in [(1, 0), (2, 1)] {
        let mut config = Config::default();
        config.sys.interval_seconds = 0;
        config.limits.session_queue_messages = 1;
        config.limits.session_queue_policy = QueuePolicy::Refuse;
        let mut world = World::new(shards, config);
        let away = connect_kept(&mut world, home, &at_home(home, "kept"));
        world.send(away, SUBSCRIBE_AB);
        world.hang_up(away, Hangup::Closed);
        let filler = connect(&mut world, 0, &at_home(0, "filler"), 60);
        world.send(filler, PUBLISH_AB);
        // Its queue is full. This one has room.
        let live = connect_kept(&mut world, 0, &at_home(0, "live"));
        world.send(live, &subscribe("a/b", 2));
        world.take(live);
        let name = at_home(0, "publisher");
        let publisher = connect_kept_v5(&mut world, 0, &name);
        let publish = |flags| [&[flags, 10], b"\x00\x03a/b\x00\x07\x00hi".as_slice()].concat();
        world.stick(0);
        world.stick(home);
        world.send(publisher, &publish(0x34));
        world.hang_up(publisher, Hangup::Reset);
        world.unstick(home);
        world.unstick(0);
        assert_eq!(world.take(live), b"\x34\x09\x00\x03a/b\x00\x01hi");
        let publisher = connect_kept_v5(&mut world, 0, &name);
        world.send(publisher, &publish(0x3C));
        let refused = world.take(publisher);
        assert_eq!((refused[0], &refused[2..5]), (0x50, [0, 7, 0x97].as_slice()), "{shards} shards");
        assert_eq!(world.take(live), b"", "{shards} shards");
        world.send(publisher, &publish(0x34));
        assert_eq!(world.take(live), b"\x34\x09\x00\x03a/b\x00\x02hi", "it has heard, and sends a new one");
    }
}

/// [MQTT5-3.3.1-9]: a client has not seen a message for which its full queue has no room.
#[test]
fn retained_message_comes_from_the_store_though_its_live_copy_found_the_queue_full() {
    for policy in [QueuePolicy::Refuse, QueuePolicy::DropNewest, QueuePolicy::DropOldest] {
        let mut config = Config::default();
        config.sys.interval_seconds = 0;
        config.limits.inflight_messages = 1;
        config.limits.session_queue_messages = 1;
        config.limits.session_queue_policy = policy;
        let mut world = World::new(2, config);
        let topic = at_home(1, "t");
        let client = connect(&mut world, 0, &at_home(0, "client"), 60);
        world.send(client, &[subscribe("x", 1), subscribe("y", 1)].concat());
        world.take(client);
        let publisher = connect(&mut world, 0, &at_home(0, "publisher"), 60);
        // One message is in flight, and one in the queue.
        world.send(publisher, &b"\x32\x06\x00\x01x\x00\x01m".repeat(2));
        world.take(client);
        // The query for retained messages is on its way when the message arrives.
        world.hold(0, 1);
        world.send(client, &subscribe(&topic, 1));
        assert_eq!(world.take(client), [0x90, 3, 0, 1, 1]);
        let other = connect(&mut world, 1, &at_home(1, "other"), 60);
        let message = retain(&topic, b"hi");
        world.send(
            other,
            &[&[0x33, message[1] + 2], &message[2..2 + 2 + topic.len()], b"\x00\x07hi"].concat(),
        );
        if policy == QueuePolicy::DropOldest {
            // It has replaced the message in the queue, and is replaced itself.
            world.send(publisher, b"\x32\x06\x00\x01y\x00\x01m");
        }
        world.release(0, 1);
        world.run();
        for id in 1..=3 {
            world.send(client, &[0x40, 2, 0, id]);
        }
        let got = world.take(client);
        let retained = [topic.as_bytes(), b"\x00\x03hi"].concat();
        assert!(got.ends_with(&retained), "{policy:?}: {got:02X?}");
    }
}

/// A live message that No Local has hidden does not arrive in another way. Messages that the client published
/// before it subscribed do arrive. [MQTT5-3.8.3-3]
#[test]
fn message_that_no_local_hides_comes_as_no_retained_one_either() {
    const NO_LOCAL: u8 = 4;
    let mut world = quiet(2);
    let topic = at_home(1, "t");
    let client = connect_kept_v5(&mut world, 0, &at_home(0, "client"));
    // Adds empty properties.
    let v5 = |packet: &[u8], at: usize| {
        [&[packet[0], packet[1] + 1], &packet[2..at], &[0], &packet[at..]].concat()
    };
    let ask = v5(&subscribe(&topic, NO_LOCAL), 4);
    let publish = |payload: &[u8]| v5(&retain(&topic, payload), 4 + topic.len());
    world.send(client, &publish(b"before"));
    for hidden in [&b"after"[..], b"once more"] {
        // The query for retained messages is on its way when the message arrives.
        world.hold(0, 1);
        world.send(client, &ask);
        assert_eq!(world.take(client), [0x90, 4, 0, 1, 0, 0]);
        world.send(client, &publish(hidden));
        world.release(0, 1);
        world.run();
        assert_eq!(world.take(client), [0; 0], "{hidden:?} is its own");
        // Now it is one of the earlier messages.
        world.send(client, &ask);
        let got = world.take(client);
        assert!(got.ends_with(hidden), "{got:02X?}");
    }
}

/// An acknowledgement would be wrong, and a client that waits for one would permanently have one place less
/// for sending.
#[test]
fn publisher_of_3x_is_not_left_without_an_answer_when_a_disk_becomes_full_behind_its_message() {
    let mut world = quiet(2);
    subscribers(&mut world);
    let name = at_home(0, "publisher");
    let publisher = connect(&mut world, 0, &name, 60);
    world.hold(0, 1);
    world.send(publisher, PUBLISH_AB);
    world.shard(1).handle_store_full(true);
    world.release(0, 1);
    world.run();
    assert_eq!(world.take(publisher), b"");
    assert!(world.is_closed(publisher));
    // It sends the message again, which waits for room.
    let publisher = connect(&mut world, 0, &name, 60);
    world.send(publisher, b"\x3A\x09\x00\x03a/b\x00\x07hi");
    assert!(world.take(publisher).is_empty() && !world.is_closed(publisher));
    world.shard(1).handle_store_full(false);
    world.pass(1000);
    assert_eq!(world.take(publisher), [0x40, 2, 0, 7]);
}
