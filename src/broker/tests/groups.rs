//! Which member gets a message, and what happens to the messages of a member that ends, with power failures
//! at any time.

use super::basics::{DELIVERED_AB, PUBLISH_AB, connect, quiet};
use super::kept::connect_kept;
use crate::broker::Hangup;
use crate::broker::world::World;
use crate::settings::{Config, QueuePolicy};

/// A text whose home is this shard of three.
fn at_home(shard: usize, text: impl Fn(u32) -> String) -> String {
    let homes = crate::base::Homes::new(3, 7);
    (0..).map(text).find(|text| usize::from(homes.home_of(text)) == shard).unwrap()
}

fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    let length = u8::try_from(filter.len()).unwrap();
    let mut packet = vec![0x82, length + 5, 0, 1, 0, length];
    packet.extend_from_slice(filter.as_bytes());
    packet.push(qos);
    packet
}

/// The number of times that this payload is in the bytes.
fn copies(bytes: &[u8], payload: &[u8]) -> usize {
    bytes.windows(payload.len()).filter(|window| *window == payload).count()
}

/// `[MQTT5 §4.8.2]` `[MQTT5-4.8.2-5]`
#[test]
fn what_a_member_had_before_a_power_cut_goes_to_another_when_its_session_ends_after_it() {
    for shards in [1, 2, 3, 7] {
        let mut world = quiet(2);
        let member = connect_kept(&mut world, 0, "member");
        world.send(member, &subscribe("$share/g/a/b", 2));
        let publisher = connect(&mut world, 1, "publisher", 60);
        world.send(publisher, PUBLISH_AB);
        world.send(publisher, b"\x34\x09\x00\x03a/b\x00\x08on");
        world.hang_up(member, Hangup::Reset);
        world.send(publisher, b"\x34\x09\x00\x03a/b\x00\x09wa");

        let mut world = world.cut_power(2, 0).cut_power(shards, 1000);
        let other = connect_kept(&mut world, 0, "other");
        world.send(other, &subscribe("$share/g/a/b", 2));
        assert_eq!(world.take(other), [0x20, 2, 0, 0, 0x90, 3, 0, 1, 2]);
        connect(&mut world, 0, "member", 60);
        // A QoS 1 message without an acknowledgement; a QoS 2 message that was sent, which goes to no other
        // member; and a queued QoS 2 message.
        let expected = [DELIVERED_AB, b"\x34\x09\x00\x03a/b\x00\x02wa"].concat();
        assert_eq!(world.take(other), expected, "{shards} shards");

        // It is not a member any more, and nothing is left that might come again.
        let mut world = world.cut_power(shards, 0);
        let member = connect_kept(&mut world, 0, "member");
        assert_eq!(world.take(member), [0x20, 2, 0, 0]);
        let other = connect_kept(&mut world, 0, "other");
        assert_eq!(world.take(other).len(), 4 + expected.len());
    }
}

/// A world of three shards. A member at home on the first is away and has the message `hi`. Its group is at
/// home on the second, and another member on the third.
struct Ending {
    world: World,
    member: String,
    other: String,
}

impl Ending {
    fn new(qos: u8) -> Ending {
        let member = at_home(0, |salt| format!("member{salt}"));
        let other = at_home(2, |salt| format!("other{salt}"));
        let filter = at_home(1, |salt| format!("$share/g{salt}/a/b"));
        let mut world = quiet(3);
        let first = connect_kept(&mut world, 0, &member);
        world.send(first, &subscribe(&filter, 2));
        world.hang_up(first, Hangup::Reset);
        let publisher = connect(&mut world, 1, "publisher", 60);
        world.send(publisher, &[&[0x30 | qos << 1][..], b"\x09\x00\x03a/b\x00\x07hi"].concat());
        assert_eq!(world.take(publisher), [if qos == 1 { 0x40 } else { 0x50 }, 2, 0, 7]);
        let second = connect_kept(&mut world, 2, &other);
        world.send(second, &subscribe(&filter, 2));
        world.hang_up(second, Hangup::Reset);
        Ending { world, member, other }
    }

    /// The session of the first member ends.
    fn end(&mut self) {
        let clean = self.world.open(0);
        let length = u8::try_from(self.member.len()).unwrap();
        let mut packet = vec![0x10, 12 + length, 0, 4];
        packet.extend_from_slice(b"MQTT\x04\x02\x00\x3C\x00");
        packet.push(length);
        packet.extend_from_slice(self.member.as_bytes());
        self.world.send(clean, &packet);
    }

    /// The number of copies of the message that the members have after a power failure.
    fn left_after_power_cut(self, shards: usize) -> usize {
        let mut world = self.world.cut_power(shards, 0);
        let both = [&self.member, &self.other].map(|client| connect_kept(&mut world, 0, client));
        both.iter().map(|&client| copies(&world.take(client), b"a/b\x00\x01hi")).sum()
    }
}

/// `[MQTT5 §4.8.2]` `[MQTT5-4.3.3-1]`
#[test]
fn what_a_member_gives_back_is_there_once_whenever_the_power_goes() {
    for qos in [1, 2] {
        for stuck in 0..8 {
            for held in [None, Some((0, 1)), Some((1, 2)), Some((2, 1)), Some((1, 0))] {
                let mut ending = Ending::new(qos);
                (0..3).filter(|shard| stuck >> shard & 1 == 1).for_each(|shard| ending.world.stick(shard));
                if let Some((from, to)) = held {
                    ending.world.hold(from, to);
                }
                ending.end();
                let case = format!("QoS {qos}, stuck {stuck:03b}, held {held:?}");
                assert_eq!(ending.left_after_power_cut(1 + stuck % 3), 1, "{case}");
            }
        }
    }
}

/// The chosen member leaves while the message is on its way to it.
#[test]
fn what_finds_its_member_gone_is_there_once_whenever_the_power_goes() {
    for stuck in 0..8 {
        for held in [None, Some((2, 1)), Some((1, 2)), Some((1, 0))] {
            let mut ending = Ending::new(2);
            let name = at_home(0, |salt| format!("third{salt}"));
            let third = connect_kept(&mut ending.world, 0, &name);
            let filter = at_home(1, |salt| format!("$share/g{salt}/a/b"));
            ending.world.send(third, &subscribe(&filter, 2));
            ending.world.hang_up(third, Hangup::Reset);
            ending.world.hold(1, 0);
            ending.world.hold(1, 2);
            ending.end();
            // Whichever member was chosen, the message has not arrived there yet.
            for name in [ending.other.clone(), name] {
                let client = connect(&mut ending.world, 0, &name, 60);
                ending.world.hang_up(client, Hangup::Reset);
            }
            let last = connect_kept(&mut ending.world, 0, &ending.other);
            ending.world.send(last, &subscribe(&filter, 2));
            ending.world.hang_up(last, Hangup::Reset);
            ending.world.await_logs();
            (0..3).filter(|shard| stuck >> shard & 1 == 1).for_each(|shard| ending.world.stick(shard));
            (0..3).for_each(|to| ending.world.release(1, to));
            if let Some((from, to)) = held {
                ending.world.hold(from, to);
            }
            ending.world.run();
            let case = format!("stuck {stuck:03b}, held {held:?}");
            assert_eq!(ending.left_after_power_cut(2), 1, "{case}");
        }
    }
}

/// Sessions with room for one message in flight and one more in the queue.
fn narrow(shards: usize, policy: QueuePolicy) -> World {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.limits.inflight_messages = 1;
    config.limits.session_queue_messages = 1;
    config.limits.session_queue_policy = policy;
    World::new(shards, config)
}

fn publish(id: u8) -> Vec<u8> {
    [b"\x32\x08\x00\x03a/b\x00".as_slice(), &[id, b'w' + id]].concat()
}

fn puback(id: u8) -> [u8; 4] {
    [0x40, 2, 0, id]
}

#[test]
fn a_publisher_whose_own_queue_is_full_as_a_member_is_not_cut_off() {
    for home in 0..3 {
        let mut world = narrow(3, QueuePolicy::Refuse);
        let client = connect_kept(&mut world, 0, &at_home(0, |salt| format!("client{salt}")));
        world.send(client, &subscribe(&at_home(home, |salt| format!("$share/g{salt}/a/b")), 1));
        assert_eq!(world.take(client), [0x20, 2, 0, 0, 0x90, 3, 0, 1, 1]);
        world.send(client, &publish(1));
        assert_eq!(world.take(client).len(), 10 + 4);
        world.send(client, &publish(2));
        assert_eq!(world.take(client), puback(2));
        // 3.1.1 has no code for a message that does not fit in the publisher's own queue.
        world.send(client, &publish(3));
        assert_eq!(world.take(client), puback(3));
        world.send(client, &puback(1));
        assert_eq!(copies(&world.take(client), b"y"), 1);
        world.send(client, &puback(2));
        assert_eq!(world.take(client), b"");
        assert!(!world.is_closed(client), "group at home on shard {home}");
    }
}

#[test]
fn a_message_waits_with_a_member_that_has_room_before_any_is_refused_or_dropped() {
    for policy in [QueuePolicy::Refuse, QueuePolicy::DropOldest, QueuePolicy::DropNewest] {
        waits_with_a_member_that_has_room(policy);
    }
}

fn waits_with_a_member_that_has_room(policy: QueuePolicy) {
    let mut world = narrow(1, policy);
    let away = connect_kept(&mut world, 0, "away");
    world.send(away, &subscribe("$share/g/a/b", 1));
    world.hang_up(away, Hangup::Closed);
    let publisher = connect(&mut world, 0, "publisher", 60);
    world.send(publisher, &publish(1));
    let busy = connect_kept(&mut world, 0, "busy");
    world.send(busy, &subscribe("$share/g/a/b", 1));
    world.take(busy);
    world.send(publisher, &publish(2));
    // It is the turn of the member that is away, whose queue is full.
    world.send(publisher, &publish(3));
    assert_eq!(world.take(publisher), [puback(1), puback(2), puback(3)].concat());
    assert_eq!(copies(&world.take(busy), b"y"), 1);
    world.send(busy, &puback(1));
    assert_eq!(copies(&world.take(busy), b"z"), 1);
}

/// The publisher got an acknowledgement when a member took the message whose session no disk keeps.
#[test]
fn what_a_clean_session_of_a_group_leaves_behind_is_not_refused_by_a_full_disk() {
    for shards in [1, 3] {
        for home in 0..3 {
            let filter = at_home(home, |salt| format!("$share/g{salt}/a/b"));
            for member in 0..3 {
                let kept = at_home(member, |salt| format!("kept{salt}"));
                let mut world = quiet(shards);
                // This member is away, so the other one gets the message.
                let away = connect_kept(&mut world, 0, &kept);
                world.send(away, &subscribe(&filter, 1));
                world.hang_up(away, Hangup::Reset);
                let brief = connect(&mut world, 0, "brief", 60);
                world.send(brief, &subscribe(&filter, 1));
                world.take(brief);
                let publisher = connect(&mut world, 0, "publisher", 60);
                world.send(publisher, PUBLISH_AB);
                assert_eq!(world.take(publisher), [0x40, 2, 0, 7]);
                assert_eq!(world.take(brief), DELIVERED_AB);

                world.shards().for_each(|shard| shard.handle_store_full(true));
                world.hang_up(brief, Hangup::Reset);
                world.shards().for_each(|shard| shard.handle_store_full(false));
                world.await_logs();
                let mut world = world.cut_power(shards, 0);
                let back = connect_kept(&mut world, 0, &kept);
                assert_eq!(world.take(back)[4..], *DELIVERED_AB, "{shards} shards, {home}, {member}");
            }
        }
    }
}
