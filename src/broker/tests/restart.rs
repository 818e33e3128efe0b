//! What a start derives from the time before it: wills, sessions that have ended, and clocks that were set.

use super::basics::quiet;
use crate::broker::world::World;
use crate::broker::{Counter, Hangup};

const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;
const DECADE: u64 = 10 * 365 * 24 * HOUR;

/// A will to a topic, with a delay in seconds.
#[derive(Clone, Copy)]
struct Will {
    topic: &'static str,
    retain: bool,
    delay: u32,
}

const OFFLINE: Will = Will { topic: "state/1", retain: true, delay: 0 };

/// CONNECT of 5.0, with Clean Start unless the session outlives its connection.
fn send_connect(world: &mut World, shard: usize, id: &str, expiry: u32, will: Option<Will>) -> usize {
    let mut flags = if expiry == 0 { 2 } else { 0 };
    let mut payload = text(id);
    if let Some(will) = will {
        flags |= if will.retain { 0x2C } else { 0x0C };
        payload.extend([5, 0x18]);
        payload.extend(will.delay.to_be_bytes());
        payload.extend(text(will.topic));
        payload.extend(text("offline"));
    }
    let mut body = b"\x00\x04MQTT\x05".to_vec();
    body.extend([flags, 0, 0, 5, 0x11]);
    body.extend(expiry.to_be_bytes());
    body.extend(payload);
    let link = world.open(shard);
    world.send(link, &packet(0x10, &body));
    link
}

/// The same, and whether CONNACK reports a session.
fn connect(world: &mut World, shard: usize, id: &str, expiry: u32, will: Option<Will>) -> (usize, bool, Got) {
    let link = send_connect(world, shard, id, expiry, will);
    let bytes = world.take(link);
    assert_eq!((bytes[0], bytes[3]), (0x20, 0), "{id} is in");
    let rest = 2 + usize::from(bytes[1]);
    (link, bytes[2] == 1, got(&bytes[rest..]))
}

fn subscribe(world: &mut World, link: usize, filter: &str) -> Got {
    let mut body = vec![0, 1, 0];
    body.extend(text(filter));
    body.push(1);
    world.send(link, &packet(0x82, &body));
    let bytes = world.take(link);
    assert_eq!(bytes[..6], [0x90, 4, 0, 1, 0, 1]);
    got(&bytes[6..])
}

fn publish(world: &mut World, link: usize, topic: &str, retain: bool, expiry: Option<u32>) {
    let mut body = text(topic);
    body.extend([0, 9]);
    match expiry {
        None => body.push(0),
        Some(seconds) => {
            body.extend([5, 2]);
            body.extend(seconds.to_be_bytes());
        }
    }
    body.extend(b"hi");
    world.send(link, &packet(0x32 | u8::from(retain), &body));
    let bytes = world.take(link);
    // The client may have subscribed to the topic itself.
    let puback = bytes.windows(4).find(|window| [window[0], window[2], window[3]] == [0x40, 0, 9]);
    assert!(puback.is_some_and(|puback| puback[1] < 4), "PUBACK in {bytes:?}");
}

fn text(text: &str) -> Vec<u8> {
    let mut out = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    out.extend(text.as_bytes());
    out
}

fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![head, u8::try_from(body.len()).unwrap()];
    assert!(out[1] < 128);
    out.extend(body);
    out
}

/// The topic, payload and Message Expiry Interval of each PUBLISH.
type Got = Vec<(String, String, Option<u32>)>;

fn got(mut bytes: &[u8]) -> Got {
    let mut got = Vec::new();
    while let [head, len, rest @ ..] = bytes {
        let (body, rest) = rest.split_at(usize::from(*len));
        bytes = rest;
        assert_eq!(head >> 4, 3, "a PUBLISH, not {head:#x} {body:?}");
        let topic_ends = 2 + usize::from(body[1]);
        let properties = topic_ends + if head & 6 == 0 { 0 } else { 2 };
        let payload = properties + 1 + usize::from(body[properties]);
        let expiry = (body[properties] == 5 && body[properties + 1] == 2)
            .then(|| u32::from_be_bytes(body[properties + 2..payload].try_into().unwrap()));
        let words = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        got.push((words(&body[2..topic_ends]), words(&body[payload..]), expiry));
    }
    got
}

fn offline() -> Got {
    vec![("state/1".into(), "offline".into(), None)]
}

fn expired(world: &World) -> u64 {
    world.shared().counters.iter().map(|counters| counters.get(Counter::SessionsExpired)).sum()
}

/// [MQTT5-3.1.2-8]
#[test]
fn a_will_of_a_clean_session_is_on_the_disk_before_connack() {
    let mut world = quiet(1);
    world.stick(0);
    let with = send_connect(&mut world, 0, "with", 0, Some(OFFLINE));
    let without = send_connect(&mut world, 0, "without", 0, None);
    assert_eq!(world.take(with), b"");
    assert_eq!(world.take(without)[0], 0x20, "a clean session without a will waits for no disk");
    world.unstick(0);
    assert_eq!(world.take(with)[0], 0x20);
}

#[test]
fn while_the_disk_is_full_or_has_failed_a_clean_session_with_a_will_is_let_in() {
    let mut world = quiet(1);
    world.shard(0).handle_store_full(true);
    connect(&mut world, 0, "full", 0, Some(OFFLINE));
    world.shard(0).handle_store_full(false);
    world.shard(0).handle_store_failed();
    let (link, ..) =
        connect(&mut world, 0, "failed", 0, Some(Will { topic: "state/2", retain: false, ..OFFLINE }));
    let (watcher, ..) = connect(&mut world, 0, "watcher", 0, None);
    subscribe(&mut world, watcher, "state/2");
    world.hang_up(link, Hangup::Reset);
    assert_eq!(got(&world.take(watcher)).len(), 1, "the will lives in memory");
}

/// [MQTT5-3.1.2-8]: the will reaches sessions and the retained store, whichever shards are their homes, and
/// only once.
#[test]
fn a_will_of_a_clean_session_is_published_by_the_next_start_and_not_by_the_one_after() {
    for (before, after) in [(1, 1), (3, 2), (2, 4)] {
        let mut world = quiet(before);
        for watcher in 0..6 {
            let (link, ..) = connect(&mut world, 0, &format!("watcher{watcher}"), 1_000_000, None);
            subscribe(&mut world, link, "state/+");
            world.hang_up(link, Hangup::Reset);
        }
        let (device, ..) = connect(&mut world, 0, "device", 0, Some(OFFLINE));
        publish(&mut world, device, "state/1", true, None);
        for shards in [after, before] {
            world = world.cut_power(shards, SECOND);
            for watcher in 0..6 {
                let (link, present, got) =
                    connect(&mut world, 0, &format!("watcher{watcher}"), 1_000_000, None);
                assert!(present);
                let told: Vec<_> = got.into_iter().filter(|(_, payload, _)| payload == "offline").collect();
                // It is not acknowledged, so it is sent again.
                assert_eq!(told, offline(), "{before} {after} watcher {watcher}");
                world.hang_up(link, Hangup::Reset);
            }
            let (late, ..) = connect(&mut world, 0, "late", 0, None);
            assert_eq!(subscribe(&mut world, late, "state/1"), offline());
        }
    }
}

#[test]
fn a_will_comes_before_what_its_client_publishes_when_it_is_back() {
    let mut world = quiet(2);
    connect(&mut world, 0, "device", 0, Some(OFFLINE));
    let mut world = world.cut_power(2, SECOND);
    let (device, present, _) = connect(&mut world, 0, "device", 0, Some(OFFLINE));
    assert!(!present);
    publish(&mut world, device, "state/1", true, None);
    let (late, ..) = connect(&mut world, 0, "late", 0, None);
    assert_eq!(subscribe(&mut world, late, "state/1"), [("state/1".into(), "hi".into(), None)]);
}

#[test]
fn a_will_that_was_dropped_or_published_is_not_published_again_by_a_start() {
    for ends in 0..3 {
        let mut world = quiet(2);
        let (device, ..) = connect(&mut world, 0, "device", 0, Some(OFFLINE));
        match ends {
            0 => world.send(device, b"\xE0\x00"),
            1 => world.hang_up(device, Hangup::Reset),
            // [MQTT5-3.1.4-3]
            _ => drop(connect(&mut world, 1, "device", 0, None)),
        }
        let (cleaner, ..) = connect(&mut world, 0, "cleaner", 0, None);
        let retained = subscribe(&mut world, cleaner, "state/1");
        assert_eq!(retained.len(), usize::from(ends > 0), "{ends}");
        publish(&mut world, cleaner, "state/1", true, None);
        world.await_logs();
        let mut world = world.cut_power(2, SECOND);
        let (late, ..) = connect(&mut world, 0, "late", 0, None);
        assert_eq!(subscribe(&mut world, late, "state/1"), [("state/1".into(), "hi".into(), None)], "{ends}");
    }
}

/// The power fails before the shard with the retained message and the watcher has recorded the will.
#[test]
fn a_will_on_its_way_between_shards_is_neither_lost_nor_published_twice() {
    for kept in [false, true] {
        for stuck in [false, true] {
            let mut world = quiet(2);
            let names: Vec<String> = (0..8).map(|n| format!("watcher{n}")).collect();
            for name in &names {
                let (link, ..) = connect(&mut world, 0, name, 1_000_000, None);
                subscribe(&mut world, link, "state/1");
                world.hang_up(link, Hangup::Reset);
            }
            let homes = crate::base::Homes::new(2, 7);
            let device = (0..).map(|n| format!("device{n}"));
            let other = 1 - homes.home_of("state/1");
            let device = device.into_iter().find(|name| homes.home_of(name) == other).unwrap();
            let (link, ..) = connect(&mut world, 0, &device, if kept { 9_000_000 } else { 0 }, Some(OFFLINE));
            if stuck {
                world.stick(1 - usize::from(other));
            } else {
                world.hold(usize::from(other), 1 - usize::from(other));
            }
            world.hang_up(link, Hangup::Reset);
            for _ in 0..2 {
                world = world.cut_power(2, SECOND);
                for name in &names {
                    let (link, _, got) = connect(&mut world, 0, name, 1_000_000, None);
                    assert_eq!(got, offline(), "{name}: kept {kept}, stuck {stuck}");
                    world.hang_up(link, Hangup::Reset);
                }
                let (late, ..) = connect(&mut world, 0, "late", 0, None);
                assert_eq!(subscribe(&mut world, late, "state/1"), offline());
            }
        }
    }
}

#[test]
fn a_client_that_is_back_while_its_will_waits_for_the_disk_is_told_so_after_it() {
    let mut world = quiet(2);
    let homes = crate::base::Homes::new(2, 7);
    let other = 1 - homes.home_of("state/1");
    let device = (0..).map(|n| format!("device{n}")).find(|name| homes.home_of(name) == other).unwrap();
    let (link, ..) = connect(&mut world, 0, &device, 0, Some(OFFLINE));
    world.stick(usize::from(other));
    world.hang_up(link, Hangup::Reset);
    let back = send_connect(&mut world, 0, &device, 0, None);
    assert_eq!(world.take(back), b"");
    world.unstick(usize::from(other));
    assert_eq!(world.take(back)[0], 0x20);
}

/// Otherwise subscribers would consider a client offline that has returned.
#[test]
fn a_client_that_is_back_while_its_will_of_before_the_start_waits_for_the_disk_is_told_so_after_it() {
    let mut world = quiet(2);
    let homes = crate::base::Homes::new(2, 7);
    let home = homes.home_of("state/1");
    let named = |kind: &str, shard| {
        let mut names = (0..).map(|n| format!("{kind}{n}"));
        names.find(|name| homes.home_of(name) == shard).unwrap()
    };
    let (device, watcher) = (named("device", 1 - home), named("watcher", home));
    let (link, ..) = connect(&mut world, 0, &watcher, 1_000_000, None);
    subscribe(&mut world, link, "state/1");
    connect(&mut world, 0, &device, 0, Some(OFFLINE));
    let stuck = usize::from(1 - home);
    let mut world = world.cut_power_and_stick(2, SECOND, stuck);
    let (watcher, ..) = connect(&mut world, 0, &watcher, 1_000_000, None);
    let back = send_connect(&mut world, 0, &device, 0, None);
    assert_eq!(world.take(back), b"", "what it publishes would come before its will");
    world.unstick(stuck);
    assert_eq!(world.take(back)[0], 0x20);
    publish(&mut world, back, "state/1", false, None);
    let told: Vec<String> = got(&world.take(watcher)).into_iter().map(|(_, payload, _)| payload).collect();
    assert_eq!(told, ["offline", "hi"]);
}

/// [MQTT5-3.1.2-23]
#[test]
fn a_session_that_is_over_is_not_resumed_before_its_timer_fires() {
    let mut world = quiet(2);
    let (link, ..) = connect(&mut world, 0, "brief", 3, None);
    world.hang_up(link, Hangup::Reset);
    world.await_logs();
    let mut world = world.cut_power(2, 6 * SECOND);
    assert_eq!(expired(&world), 1);
    let (link, present, _) = connect(&mut world, 0, "brief", 3, None);
    assert!(!present);
    world.hang_up(link, Hangup::Reset);
    // In a running broker the timer fires a little late.
    world.pass(3 * SECOND);
    assert_eq!(expired(&world), 1, "it has not fired");
    let (_, present, _) = connect(&mut world, 0, "brief", 3, None);
    assert_eq!((present, expired(&world)), (false, 2));
}

#[test]
fn a_session_of_a_client_that_was_connected_has_all_its_time_though_nothing_was_written_for_a_while() {
    let mut world = quiet(1);
    world.pass(72 * HOUR);
    connect(&mut world, 0, "sleeper", 30, None);
    world.pass(59 * SECOND);
    let mut world = world.cut_power(1, SECOND);
    let (_, present, _) = connect(&mut world, 0, "sleeper", 30, None);
    assert!(present, "its connection ended a second ago");
}

/// The machine has no battery clock: NTP sets the clock after the start.
#[test]
fn a_clock_that_is_set_while_the_broker_runs_loses_nothing_and_lets_no_expiry_grow() {
    let steps = [1, -1].map(i64::from).into_iter();
    let steps =
        steps.flat_map(|sign| [3 * SECOND, 3 * HOUR, 25 * HOUR, DECADE].map(|by| sign * by.cast_signed()));
    for step in steps {
        for machine_starts in [false, true] {
            let mut world = quiet(2);
            // The clock was wrong from the start.
            world.set_wall_clock(-step);
            let mut world = world.start_again(2, 0, 0, true);
            world.set_wall_clock(step);
            let (sleeper, ..) = connect(&mut world, 0, "sleeper", 86_400, None);
            subscribe(&mut world, sleeper, "cmd/#");
            world.send(sleeper, b"\xE0\x00");
            let (publisher, ..) = connect(&mut world, 1, "publisher", 0, None);
            publish(&mut world, publisher, "cmd/a", false, None);
            publish(&mut world, publisher, "cmd/b", false, Some(3600));
            publish(&mut world, publisher, "state/r", true, Some(3600));
            world.pass(10 * SECOND);
            let mut world = world.start_again(2, 50 * SECOND, 0, machine_starts);
            let (_, present, got) = connect(&mut world, 0, "sleeper", 86_400, None);
            assert!(present, "{step}");
            let about = |got: &Got, at: usize| got[at].2.is_some_and(|left| (3535..=3540).contains(&left));
            assert_eq!(got.len(), 2, "{step} {got:?}");
            assert!(got[0].2.is_none() && about(&got, 1), "{step} {got:?}");
            let (late, ..) = connect(&mut world, 0, "late", 0, None);
            let retained = subscribe(&mut world, late, "state/r");
            assert!(about(&retained, 0), "{step} {retained:?}");
        }
    }
}

#[test]
fn a_clock_that_is_set_while_the_broker_is_down_loses_nothing_and_lets_no_expiry_grow() {
    for by in [3 * SECOND, 3 * HOUR, 25 * HOUR, DECADE] {
        for (step, machine_starts) in
            [(by.cast_signed(), false), (-by.cast_signed(), false), (-by.cast_signed(), true)]
        {
            let mut world = quiet(1);
            let (sleeper, ..) = connect(&mut world, 0, "sleeper", 86_400, None);
            subscribe(&mut world, sleeper, "cmd/#");
            world.send(sleeper, b"\xE0\x00");
            let (publisher, ..) = connect(&mut world, 0, "publisher", 0, None);
            publish(&mut world, publisher, "cmd/b", false, Some(3600));
            world.pass(10 * SECOND);
            let mut world = world.start_again(1, 50 * SECOND, step, machine_starts);
            let (_, present, got) = connect(&mut world, 0, "sleeper", 86_400, None);
            assert!(present, "{step}");
            let left = got[0].2.unwrap();
            // A machine whose clock is behind can't know how long it was off, or how long it ran after the
            // last record.
            let most = if machine_starts { 3600 } else { 3540 };
            assert!((3535..=most).contains(&left), "{step} {left}");
        }
    }
}

#[test]
fn retained_messages_keep_their_order_over_starts_whatever_the_clock_does() {
    for step in [0, DECADE.cast_signed(), -DECADE.cast_signed()] {
        let mut world = quiet(2);
        for round in 0..3 {
            let (publisher, ..) = connect(&mut world, round % 2, "publisher", 0, None);
            publish(&mut world, publisher, "state/r", true, Some(10_000 + u32::try_from(round).unwrap()));
            let (late, ..) = connect(&mut world, 0, "late", 0, None);
            let got = subscribe(&mut world, late, "state/r");
            assert!(got[0].2.is_some_and(|left| left > 9990 + u32::try_from(round).unwrap()), "{got:?}");
            world = world.start_again(2, 0, step, round == 1);
        }
    }
}

#[test]
fn a_stop_does_not_wait_for_ever_for_a_disk_that_does_not_answer() {
    let mut world = quiet(1);
    let (link, ..) = connect(&mut world, 0, "a", 3600, None);
    world.stick(0);
    world.send(link, b"\x82\x07\x00\x01\x00\x00\x01t\x01");
    world.shut_down();
    world.pass(60 * SECOND);
    assert!(world.has_stopped());
}
