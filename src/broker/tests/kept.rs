//! What survives a power failure, and what must wait for the disk for that reason.

use super::basics::{DELIVERED_AB, PUBLISH_AB, SUBSCRIBE_AB, connect, quiet};
use crate::broker::world::World;
use crate::broker::{Counter, Hangup};
use crate::settings::{Config, QueuePolicy};

/// CONNECT of 3.1.1 with clean session 0.
pub(super) fn connect_kept(world: &mut World, shard: usize, client_id: &str) -> usize {
    let client = world.open(shard);
    let length = u8::try_from(client_id.len()).unwrap();
    let mut packet = vec![0x10, 12 + length, 0, 4];
    packet.extend_from_slice(b"MQTT\x04\x00\x00");
    packet.extend_from_slice(&[60, 0, length]);
    packet.extend_from_slice(client_id.as_bytes());
    world.send(client, &packet);
    client
}

/// A client identifier whose home is this shard of two.
pub(super) fn at_home(shard: usize, name: &str) -> String {
    let homes = crate::base::Homes::new(2, 7);
    let mut names = (0..).map(|n| format!("{name}{n}"));
    names.find(|name| usize::from(homes.home_of(name)) == shard).unwrap()
}

#[test]
fn who_is_owed_too_many_answers_is_not_read_until_half_of_them_are_out() {
    let mut world = quiet(1);
    let publisher = connect(&mut world, 0, "publisher", 60);
    let count = |world: &World, counter| world.shared().counters[0].get(counter);
    for round in 1..=2 {
        world.stick(0);
        let before = count(&world, Counter::PublishesReceived);
        for _ in 0..9000 {
            // The messages are retained, so each is kept.
            world.send(publisher, b"\x33\x09\x00\x03a/b\x00\x07hi");
        }
        assert_eq!(count(&world, Counter::PublishesReceived) - before, 8001);
        assert_eq!(count(&world, Counter::LimitAnswers), round);
        assert_eq!(world.take(publisher), b"");
        world.unstick(0);
        assert_eq!(world.take(publisher), b"\x40\x02\x00\x07".repeat(9000));
    }
    // Nothing is left of the pause: the client is read as usual.
    world.send(publisher, b"\xC0\x00");
    assert_eq!(world.take(publisher), b"\xD0\x00");
}

#[test]
fn what_promises_something_that_is_kept_waits_for_the_disk() {
    let mut world = quiet(1);
    world.stick(0);
    let client = connect_kept(&mut world, 0, "kept");
    assert_eq!(world.take(client), b"", "CONNACK of a session that is kept");
    world.send(client, b"\xC0\x00\x50\x02\x00\x07\x62\x02\x00\x07");
    assert_eq!(world.take(client), b"", "no PINGRESP, PUBREL or PUBCOMP before CONNACK");
    world.unstick(0);
    assert_eq!(world.take(client), b"\x20\x02\x00\x00\xD0\x00\x62\x02\x00\x07\x70\x02\x00\x07");

    world.stick(0);
    world.send(client, SUBSCRIBE_AB);
    assert_eq!(world.take(client), b"", "SUBACK");
    world.unstick(0);
    assert_eq!(world.take(client), [0x90, 3, 0, 1, 1]);

    world.stick(0);
    let publisher = connect(&mut world, 0, "publisher", 60);
    world.send(publisher, PUBLISH_AB);
    assert_eq!(world.take(publisher), b"", "PUBACK of a message for a session that is kept");
    assert_eq!(world.take(client), DELIVERED_AB, "QoS 1 is delivered at once");
    // A message that nothing keeps is acknowledged after it, in order.
    world.send(publisher, b"\x32\x08\x00\x02xx\x00\x08hi");
    assert_eq!(world.take(publisher), b"");
    let other = connect(&mut world, 0, "other", 60);
    world.send(other, b"\x32\x08\x00\x02xx\x00\x09hi");
    assert_eq!(world.take(other), [0x40, 2, 0, 9], "who promises nothing does not wait");
    world.unstick(0);
    assert_eq!(world.take(publisher), [0x40, 2, 0, 7, 0x40, 2, 0, 8]);

    world.stick(0);
    world.send(client, b"\xA2\x07\x00\x02\x00\x03a/b");
    assert_eq!(world.take(client), b"", "UNSUBACK");
    world.unstick(0);
    assert_eq!(world.take(client), [0xB0, 2, 0, 2]);
}

#[test]
fn a_message_that_nobody_keeps_is_not_taken_down() {
    for policy in [QueuePolicy::Refuse, QueuePolicy::DropNewest] {
        let mut config = Config::default();
        config.limits.session_queue_messages = 2;
        config.limits.session_queue_policy = policy;
        config.persistence.directory = "kept".to_owned();
        config.sys.interval_seconds = 0;
        let mut world = World::new(1, config);
        let away = connect_kept(&mut world, 0, "away");
        world.send(away, SUBSCRIBE_AB);
        world.hang_up(away, Hangup::Closed);
        // A publisher of 5.0 is told and stays connected.
        let publisher = world.open(0);
        world.send(publisher, b"\x10\x0E\x00\x04MQTT\x05\x02\x00\x3C\x00\x00\x01p");
        world.take(publisher);
        let publish = [b"\x32\xA9\x01\x00\x03a/b\x00\x07\x00".as_slice(), &[b'x'; 161]].concat();
        for _ in 0..2 {
            world.send(publisher, &publish);
        }
        world.take(publisher);
        world.stick(0);
        let before = world.shard(0).journal_bytes();
        for _ in 0..100 {
            world.send(publisher, &publish);
        }
        // A message has 170 bytes, but only the loss is recorded.
        let grown = world.shard(0).journal_bytes() - before;
        assert!(grown < 100 * 30, "{policy:?}: what is refused fills no disk: {grown}");
        world.unstick(0);
        let answers = world.take(publisher);
        assert_eq!(answers.len(), 100 * if policy == QueuePolicy::Refuse { 5 } else { 4 }, "{answers:x?}");
        // Kept messages are there after a power failure.
        let mut world = world.cut_power(1, 0);
        let away = connect_kept(&mut world, 0, "away");
        let mut got = world.take(away);
        got.retain(|&byte| byte == b'x');
        assert_eq!(got.len(), 2 * 161, "{policy:?}");
    }
}

/// [MQTT5-4.3.3-4]
#[test]
fn a_clean_start_waits_until_the_end_of_the_session_before_it_is_durable() {
    let mut world = quiet(1);
    let kept = connect_kept(&mut world, 0, "client");
    world.hang_up(kept, Hangup::Closed);
    world.stick(0);
    let clean_start = |world: &mut World| {
        let client = world.open(0);
        world.send(client, b"\x10\x12\x00\x04MQTT\x04\x02\x00\x3C\x00\x06client");
        client
    };
    let first = clean_start(&mut world);
    assert_eq!(world.take(first), b"");
    world.hang_up(first, Hangup::Reset);
    let second = clean_start(&mut world);
    assert_eq!(world.take(second), b"", "a power cut would bring the session back");
    // A client that never had a session does not wait.
    connect(&mut world, 0, "other", 60);
    world.unstick(0);
    assert_eq!(world.take(second), [0x20, 2, 0, 0]);
    world.hang_up(second, Hangup::Reset);
    world.stick(0);
    let third = clean_start(&mut world);
    assert_eq!(world.take(third), [0x20, 2, 0, 0], "nothing of it is on its way any more");
}

#[test]
fn a_retained_message_that_changes_nothing_waits_for_what_another_publisher_has_changed() {
    let clear = b"\x33\x07\x00\x03a/b\x00\x07";
    let puback = b"\x40\x02\x00\x07";
    for fails in [false, true] {
        let mut world = quiet(1);
        let (one, other) = (connect(&mut world, 0, "one", 60), connect(&mut world, 0, "other", 60));
        // If nothing has changed, nobody waits.
        world.send(one, clear);
        assert_eq!(world.take(one), puback);
        world.send(one, b"\x31\x07\x00\x03a/bhi");
        world.await_logs();
        world.stick(0);
        world.send(one, clear);
        world.send(other, clear);
        assert_eq!((world.take(one), world.take(other)), (vec![], vec![]));
        if fails {
            world = world.cut_power(1, 1);
            let client = connect(&mut world, 0, "client", 60);
            world.send(client, SUBSCRIBE_AB);
            let got = world.take(client);
            assert_eq!(got, [&[0x90, 3, 0, 1, 1], b"\x31\x07\x00\x03a/bhi".as_slice()].concat());
        } else {
            world.unstick(0);
            assert_eq!((world.take(one), world.take(other)), (puback.to_vec(), puback.to_vec()));
        }
    }
}

#[test]
fn a_qos_2_message_leaves_when_its_identifier_is_on_the_disk_and_so_does_its_release() {
    let mut world = quiet(1);
    let subscriber = connect_kept(&mut world, 0, "kept");
    world.send(subscriber, b"\x82\x08\x00\x01\x00\x03a/b\x02");
    world.take(subscriber);
    let publisher = connect_kept(&mut world, 0, "publisher");
    world.take(publisher);
    world.stick(0);
    world.send(publisher, b"\x34\x09\x00\x03a/b\x00\x07hi");
    assert_eq!((world.take(publisher), world.take(subscriber)), (vec![], vec![]));
    // The repeat must not be acknowledged either.
    world.send(publisher, b"\x3C\x09\x00\x03a/b\x00\x07hi");
    assert_eq!(world.take(publisher), b"");
    world.unstick(0);
    assert_eq!(world.take(publisher), [0x50, 2, 0, 7, 0x50, 2, 0, 7]);
    assert_eq!(world.take(subscriber), b"\x34\x09\x00\x03a/b\x00\x01hi");
    world.stick(0);
    world.send(publisher, b"\x62\x02\x00\x07");
    world.send(subscriber, b"\x50\x02\x00\x01");
    assert_eq!((world.take(publisher), world.take(subscriber)), (vec![], vec![]));
    world.unstick(0);
    assert_eq!(world.take(publisher), [0x70, 2, 0, 7]);
    assert_eq!(world.take(subscriber), [0x62, 2, 0, 1]);
}

#[test]
fn a_message_for_another_shard_is_acknowledged_when_that_shard_has_it() {
    let mut world = quiet(2);
    let (here, there) = (at_home(0, "publisher"), at_home(1, "kept"));
    let subscriber = connect_kept(&mut world, 1, &there);
    world.send(subscriber, SUBSCRIBE_AB);
    world.take(subscriber);
    let publisher = connect(&mut world, 0, &here, 60);
    world.stick(1);
    world.send(publisher, PUBLISH_AB);
    assert_eq!(world.take(publisher), b"");
    world.unstick(1);
    assert_eq!(world.take(publisher), [0x40, 2, 0, 7]);
    assert_eq!(world.take(subscriber), DELIVERED_AB);
}

#[test]
fn a_qos_2_message_goes_to_another_shard_once_its_own_has_it() {
    let mut world = quiet(2);
    let (here, there) = (at_home(0, "publisher"), at_home(1, "kept"));
    let subscriber = connect_kept(&mut world, 1, &there);
    world.send(subscriber, b"\x82\x08\x00\x01\x00\x03a/b\x02");
    world.take(subscriber);
    let publisher = connect_kept(&mut world, 0, &here);
    world.take(publisher);
    world.stick(0);
    world.send(publisher, b"\x34\x09\x00\x03a/b\x00\x07hi");
    assert_eq!((world.take(publisher), world.take(subscriber)), (vec![], vec![]));
    world.stick(1);
    world.unstick(0);
    assert_eq!((world.take(publisher), world.take(subscriber)), (vec![], vec![]));
    world.unstick(1);
    assert_eq!(world.take(publisher), [0x50, 2, 0, 7]);
    assert_eq!(world.take(subscriber), b"\x34\x09\x00\x03a/b\x00\x01hi");
}

/// The client may be another than the publisher: the promise belongs to the session.
#[test]
fn a_repeat_on_a_new_connection_waits_for_the_other_shard_too() {
    let mut world = quiet(2);
    let (here, there) = (at_home(0, "publisher"), at_home(1, "kept"));
    let subscriber = connect_kept(&mut world, 1, &there);
    world.send(subscriber, b"\x82\x08\x00\x01\x00\x03a/b\x02");
    let publisher = connect_kept(&mut world, 0, &here);
    world.stick(1);
    world.send(publisher, b"\x34\x09\x00\x03a/b\x00\x07hi");
    world.hang_up(publisher, Hangup::Reset);
    let publisher = connect_kept(&mut world, 0, &here);
    assert_eq!(world.take(publisher), [0x20, 2, 1, 0]);
    world.send(publisher, b"\x3C\x09\x00\x03a/b\x00\x07hi");
    assert_eq!(world.take(publisher), b"");
    world.unstick(1);
    assert_eq!(world.take(publisher), [0x50, 2, 0, 7]);
}

/// Publishes to a queue for one message that is full. Returns the publisher's answer, whether the publisher
/// is closed, and what the subscriber gets later.
fn overflow(policy: QueuePolicy) -> (Vec<u8>, bool, Vec<u8>) {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.limits.session_queue_messages = 1;
    config.limits.session_queue_policy = policy;
    let mut world = World::new(2, config);
    let (here, there) = (at_home(0, "publisher"), at_home(1, "kept"));
    let subscriber = connect_kept(&mut world, 1, &there);
    world.send(subscriber, SUBSCRIBE_AB);
    world.hang_up(subscriber, Hangup::Closed);
    let publisher = connect(&mut world, 0, &here, 60);
    world.send(publisher, PUBLISH_AB);
    assert_eq!(world.take(publisher), [0x40, 2, 0, 7]);
    world.send(publisher, b"\x32\x09\x00\x03a/b\x00\x08ho");
    let heard = world.take(publisher);
    let subscriber = connect_kept(&mut world, 1, &there);
    (heard, world.is_closed(publisher), world.take(subscriber))
}

#[test]
fn the_policy_says_what_a_full_queue_of_another_shard_means() {
    let old = b"\x20\x02\x01\x00\x32\x09\x00\x03a/b\x00\x01hi".to_vec();
    let new = b"\x20\x02\x01\x00\x32\x09\x00\x03a/b\x00\x01ho".to_vec();
    // 3.1.1 has no code for it, and a closed publisher sends the message again.
    assert_eq!(overflow(QueuePolicy::Refuse), (vec![0x40, 2, 0, 8], false, old.clone()));
    assert_eq!(overflow(QueuePolicy::DropNewest), (vec![0x40, 2, 0, 8], false, old));
    assert_eq!(overflow(QueuePolicy::DropOldest), (vec![0x40, 2, 0, 8], false, new));
}

/// [MQTT311-4.3.3-2]: a repeated message that a full queue has refused goes to no session a second time.
#[test]
fn qos_2_message_that_a_full_queue_refuses_is_held_and_delivered_once_to_the_others() {
    for shards in [1, 2] {
        let mut config = Config::default();
        config.sys.interval_seconds = 0;
        config.limits.session_queue_messages = 1;
        config.limits.session_queue_policy = QueuePolicy::Refuse;
        let mut world = World::new(shards, config);
        let (here, there) = (at_home(0, "publisher"), at_home(shards - 1, "kept"));
        let away = connect_kept(&mut world, shards - 1, &there);
        world.send(away, SUBSCRIBE_AB);
        world.hang_up(away, Hangup::Closed);
        let live = connect(&mut world, 0, "live", 60);
        world.send(live, b"\x82\x08\x00\x01\x00\x03a/b\x00");
        world.take(live);
        let publisher = connect_kept(&mut world, 0, &here);
        world.take(publisher);
        for id in [7, 8] {
            world.send(publisher, &[b"\x34\x09\x00\x03a/b\x00".as_slice(), &[id], b"hi"].concat());
            assert_eq!(world.take(publisher), [0x50, 2, 0, id]);
        }
        // Its connection breaks before it has read the last PUBREC.
        world.hang_up(publisher, Hangup::Reset);
        let publisher = connect_kept(&mut world, 0, &here);
        world.send(publisher, b"\x3C\x09\x00\x03a/b\x00\x08hi");
        assert_eq!(world.take(publisher), b"\x20\x02\x01\x00\x50\x02\x00\x08");
        assert_eq!(world.take(live), b"\x30\x07\x00\x03a/bhi".repeat(2), "{shards} shards");
    }
}

/// A 3.x client can't be told that its message is not kept, and must not be told that it is.
#[test]
fn message_of_a_3x_publisher_that_must_be_kept_waits_until_the_disk_has_room() {
    for (shards, full) in [(1, 0), (2, 0), (2, 1)] {
        for head in [0x32, 0x34] {
            let mut world = quiet(shards);
            let away = connect_kept(&mut world, 0, &at_home(full, "kept"));
            world.send(away, SUBSCRIBE_AB);
            world.hang_up(away, Hangup::Closed);
            let live = connect(&mut world, 0, "live", 0);
            world.send(live, b"\x82\x08\x00\x01\x00\x03a/b\x00");
            world.take(live);
            let publisher = connect(&mut world, 0, &at_home(0, "publisher"), 60);
            world.shard(full).handle_store_full(true);
            let publish = [&[head, 9], b"\x00\x03a/b\x00\x07hi".as_slice()].concat();
            world.send(publisher, &publish);
            world.pass(100_000);
            assert_eq!((world.take(publisher), world.take(live)), (vec![], vec![]));
            assert!(!world.is_closed(publisher), "nor does keep alive end it");
            // A repeat on a new connection does not succeed either.
            world.hang_up(publisher, Hangup::Reset);
            let publisher = connect(&mut world, 0, &at_home(0, "publisher"), 60);
            world.send(publisher, &publish);
            // A message that needs no disk does.
            world.send(live, b"\x32\x09\x00\x03x/y\x00\x09hi");
            assert_eq!(world.take(live), [0x40, 2, 0, 9]);
            world.shard(full).handle_store_full(false);
            world.pass(1000);
            let answer = if head == 0x32 { 0x40 } else { 0x50 };
            assert_eq!(world.take(publisher), [answer, 2, 0, 7]);
            assert_eq!(world.take(live), b"\x30\x07\x00\x03a/bhi");
            let away = connect_kept(&mut world, 0, &at_home(full, "kept"));
            assert_eq!(world.take(away), resumed(DELIVERED_AB));
        }
    }
}

/// The first packet for a returning client: CONNACK with Session Present.
const RESUMED: &[u8] = b"\x20\x02\x01\x00";

fn resumed(rest: &[u8]) -> Vec<u8> {
    [RESUMED, rest].concat()
}

#[test]
fn queue_and_window_survive_a_power_cut_with_any_number_of_shards() {
    for shards in [1, 2, 3] {
        let mut world = quiet(2);
        let subscriber = connect_kept(&mut world, 0, "kept");
        world.send(subscriber, b"\x82\x0E\x00\x01\x00\x03a/b\x02\x00\x03c/d\x01");
        world.take(subscriber);
        let publisher = connect(&mut world, 1, "publisher", 60);
        // 1: QoS 1, unacknowledged. 2: QoS 2, PUBREC received. 3: QoS 2, sent.
        world.send(publisher, PUBLISH_AB);
        world.send(publisher, b"\x34\x09\x00\x03a/b\x00\x08h2");
        world.send(publisher, b"\x62\x02\x00\x08");
        world.send(publisher, b"\x34\x09\x00\x03a/b\x00\x09h3");
        world.send(subscriber, b"\x50\x02\x00\x02");
        world.hang_up(subscriber, Hangup::Reset);
        world.send(publisher, b"\x32\x09\x00\x03c/d\x00\x0Ah4");
        assert_eq!(world.take(publisher).len(), 5 * 4);

        let mut world = world.cut_power(shards, 1000);
        let subscriber = connect_kept(&mut world, 0, "kept");
        let expected = b"\x62\x02\x00\x02\x3A\x09\x00\x03a/b\x00\x01hi\x3C\x09\x00\x03a/b\x00\x03h3\x32\x09\x00\x03c/d\x00\x04h4";
        assert_eq!(world.take(subscriber), resumed(expected), "{shards} shards");
        world.send(
            subscriber,
            b"\x70\x02\x00\x02\x40\x02\x00\x01\x50\x02\x00\x03\x70\x02\x00\x03\x40\x02\x00\x04",
        );
        assert_eq!(world.take(subscriber), b"\x62\x02\x00\x03");

        // All deliveries are settled, and the subscriptions are there.
        let mut world = world.cut_power(2, 0);
        let subscriber = connect_kept(&mut world, 1, "kept");
        assert_eq!(world.take(subscriber), RESUMED);
        let publisher = connect(&mut world, 0, "publisher", 60);
        world.send(publisher, PUBLISH_AB);
        assert_eq!(world.take(subscriber), b"\x32\x09\x00\x03a/b\x00\x01hi");
    }
}

/// [MQTT5-4.3.3-10]
#[test]
fn a_repeated_qos_2_message_is_known_after_a_power_cut_until_it_was_released() {
    let mut world = quiet(1);
    let subscriber = connect_kept(&mut world, 0, "kept");
    world.send(subscriber, SUBSCRIBE_AB);
    let publisher = connect_kept(&mut world, 0, "publisher");
    world.send(publisher, b"\x34\x09\x00\x03a/b\x00\x07hi");
    let mut world = world.cut_power(1, 0);
    let publisher = connect_kept(&mut world, 0, "publisher");
    world.send(publisher, b"\x3C\x09\x00\x03a/b\x00\x07hi");
    assert_eq!(world.take(publisher), resumed(b"\x50\x02\x00\x07"));
    world.send(publisher, b"\x62\x02\x00\x07");
    assert_eq!(world.take(publisher), b"\x70\x02\x00\x07");
    let mut world = world.cut_power(1, 0);
    let publisher = connect_kept(&mut world, 0, "publisher");
    world.send(publisher, b"\x34\x09\x00\x03a/b\x00\x07ho");
    let subscriber = connect_kept(&mut world, 0, "kept");
    let expected = b"\x3A\x09\x00\x03a/b\x00\x01hi\x32\x09\x00\x03a/b\x00\x02ho";
    assert_eq!(world.take(subscriber), resumed(expected), "once each");
}

/// The power fails while the message is on its way to another shard: before that shard's log has it, and
/// after.
#[test]
fn a_qos_2_message_between_shards_arrives_once_whenever_the_power_goes() {
    for other_has_it in [false, true] {
        let (here, there) = (at_home(0, "publisher"), at_home(1, "kept"));
        let mut world = quiet(2);
        let subscriber = connect_kept(&mut world, 1, &there);
        world.send(subscriber, b"\x82\x08\x00\x01\x00\x03a/b\x02");
        world.hang_up(subscriber, Hangup::Reset);
        let publisher = connect_kept(&mut world, 0, &here);
        world.take(publisher);
        if other_has_it {
            world.hold(1, 0);
        } else {
            world.stick(1);
        }
        world.send(publisher, b"\x34\x09\x00\x03a/b\x00\x07hi");
        assert_eq!(world.take(publisher), b"", "not acknowledged yet");
        let mut world = world.cut_power(1, 0);
        let publisher = connect_kept(&mut world, 0, &here);
        world.send(publisher, b"\x3C\x09\x00\x03a/b\x00\x07hi");
        assert_eq!(world.take(publisher), resumed(b"\x50\x02\x00\x07"));
        let subscriber = connect_kept(&mut world, 0, &there);
        assert_eq!(world.take(subscriber), resumed(b"\x34\x09\x00\x03a/b\x00\x01hi"), "{other_has_it}");
    }
}

#[test]
fn retained_messages_survive_and_newer_ones_still_win() {
    let mut world = quiet(2);
    // Stamps depend on the clock, and the next broker's clock starts at zero.
    world.pass(1_000_000);
    let publisher = connect(&mut world, 0, "publisher", 60);
    for topic in [b'1', b'2', b'3', b'4'] {
        world.send(publisher, &[0x33, 9, 0, 3, b'r', b'/', topic, 0, topic, b'h', b'i']);
    }
    world.send(publisher, b"\x33\x07\x00\x03r/2\x00\x09");
    let mut world = world.cut_power(2, 0);
    let publisher = connect(&mut world, 1, "publisher", 60);
    world.send(publisher, b"\x33\x09\x00\x03r/3\x00\x01ho\x33\x07\x00\x03r/4\x00\x02");
    let mut world = world.cut_power(3, 0);
    let subscriber = connect(&mut world, 0, "subscriber", 60);
    world.send(subscriber, b"\x82\x08\x00\x01\x00\x03r/#\x00");
    let mut got = world.take(subscriber)[5..].to_vec();
    // The homes answer in any order.
    let mut messages: Vec<Vec<u8>> =
        std::iter::from_fn(|| (!got.is_empty()).then(|| got.drain(..9).collect())).collect();
    messages.sort();
    assert_eq!(messages, [b"\x31\x07\x00\x03r/1hi", b"\x31\x07\x00\x03r/3ho"]);
}

/// CONNECT of 5.0 with a session of 100 s and a will with a delay of 50 s.
const WITH_WILL: &[u8] = b"\x10\x27\x00\x04MQTT\x05\x0C\x00\x3C\x05\x11\x00\x00\x00\x64\x00\x04kept\x05\x18\x00\x00\x00\x32\x00\x03a/b\x00\x04gone";

#[test]
fn a_will_waits_for_its_delay_on_the_wall_clock_while_the_broker_is_down() {
    for (down_millis, waits) in [(20_000, true), (60_000, false)] {
        let mut world = quiet(2);
        let client = world.open(0);
        world.send(client, WITH_WILL);
        assert_eq!(world.take(client)[2..4], [0, 0], "is in");
        world.hang_up(client, Hangup::Reset);
        let watcher = connect_kept(&mut world, 0, "watcher");
        world.send(watcher, SUBSCRIBE_AB);
        let mut world = world.cut_power(2, down_millis);
        world.pass(100);
        let watcher = connect_kept(&mut world, 1, "watcher");
        let will = b"\x32\x0B\x00\x03a/b\x00\x01gone";
        if waits {
            assert_eq!(world.take(watcher), RESUMED);
            world.pass(31_000);
            assert_eq!(world.take(watcher), will);
        } else {
            assert_eq!(world.take(watcher), resumed(will), "its hour was while the broker was down");
        }
        // The session ends by the wall clock too, 100 s after its connection.
        world.pass(90_000);
        let client = world.open(0);
        world.send(client, WITH_WILL);
        assert_eq!(world.take(client)[2], 0, "the session has ended");
    }
}

#[test]
fn a_member_of_a_shared_subscription_is_one_after_a_power_cut() {
    let mut world = quiet(2);
    for name in [at_home(0, "one"), at_home(1, "two")] {
        let member = connect_kept(&mut world, 0, &name);
        world.send(member, b"\x82\x0F\x00\x01\x00\x0A$share/g/a\x01");
        assert_eq!(world.take(member).len(), 9);
    }
    let mut world = world.cut_power(2, 0);
    let publisher = connect(&mut world, 0, "publisher", 60);
    for _ in 0..4 {
        world.send(publisher, b"\x32\x07\x00\x01a\x00\x07hi");
    }
    let mut got = 0;
    for name in [at_home(0, "one"), at_home(1, "two")] {
        let member = connect_kept(&mut world, 1, &name);
        got += (world.take(member).len() - 4) / 9;
    }
    assert_eq!(got, 4);
}

#[test]
fn a_publisher_gets_its_own_message_behind_the_pubrec_that_waits() {
    let mut world = quiet(1);
    let client = connect(&mut world, 0, "client", 60);
    world.send(client, b"\x82\x08\x00\x01\x00\x03a/b\x00");
    world.take(client);
    world.stick(0);
    // The message is retained, so the log must have it.
    world.send(client, b"\x35\x09\x00\x03a/b\x00\x07hi");
    assert_eq!(world.take(client), b"");
    world.unstick(0);
    assert_eq!(world.take(client), b"\x50\x02\x00\x07\x30\x07\x00\x03a/bhi");
}

/// [MQTT5-4.6.0-6]
#[test]
fn a_publisher_gets_its_own_messages_in_their_order_though_the_disk_fills_between_them() {
    let mut world = quiet(1);
    let client = connect_kept(&mut world, 0, "client");
    world.send(client, b"\x82\x08\x00\x01\x00\x03a/b\x00");
    world.take(client);
    world.stick(0);
    world.send(client, b"\x34\x09\x00\x03a/b\x00\x07h1");
    world.shard(0).handle_store_full(true);
    world.send(client, b"\x34\x09\x00\x03a/b\x00\x08h2");
    assert_eq!(world.take(client), b"");
    world.unstick(0);
    let expected = b"\x50\x02\x00\x07\x30\x07\x00\x03a/bh1\x50\x02\x00\x08\x30\x07\x00\x03a/bh2";
    assert_eq!(world.take(client), expected);
}

#[test]
fn a_publisher_that_waits_for_its_pubrec_does_not_get_its_own_message_as_a_retained_one_before() {
    for home in [0, 1] {
        let mut world = quiet(2);
        let (name, topic) = (at_home(0, "c"), at_home(home, "t"));
        let client = connect(&mut world, 0, &name, 60);
        world.stick(home);
        let length = u8::try_from(topic.len()).unwrap();
        // The query for retained messages is on its way when the message follows it.
        let subscribe = [&[0x82, 5 + length, 0, 1, 0, length], topic.as_bytes(), &[0]].concat();
        let publish = [&[0x35, 6 + length, 0, length], topic.as_bytes(), &[0, 7], b"hi"].concat();
        world.send(client, &[subscribe, publish].concat());
        assert_eq!(
            world.take(client),
            [0x90, 3, 0, 1, 0],
            "the message is not on the disk of its home {home}"
        );
        world.unstick(home);
        let live = [&[0x30, 4 + length, 0, length], topic.as_bytes(), b"hi"].concat();
        assert_eq!(world.take(client), [b"\x50\x02\x00\x07", live.as_slice()].concat());
    }
}
