//! Wills of clients whose permissions have changed since they connected.

use super::admission::{list, quiet, string};
use super::basics::connect;
use crate::broker::world::World;
use crate::broker::{Counter, Event, Hangup};
use crate::policy::access::Access;
use crate::policy::acl::{Actions, RuleEffect, Subscribing};
use crate::settings::Config;

/// CONNECT of 5.0 with a persistent session, and a will to w/x.
fn connect_with_will(world: &mut World, retain: bool, delay_seconds: u8) -> usize {
    let flags = if retain { 0x2C } else { 0x0C };
    let mut body = [b"\x00\x04MQTT\x05".as_slice(), &[flags], b"\x00\x00\x05\x11\x00\x00\xFF\xFF"].concat();
    string(&mut body, "alice");
    body.extend_from_slice(&[5, 0x18, 0, 0, 0, delay_seconds]);
    string(&mut body, "w/x");
    string(&mut body, "gone");
    let client = world.open(0);
    world.send(client, &[&[0x10, u8::try_from(body.len()).unwrap()], &body[..]].concat());
    assert_eq!(world.take(client)[3], 0, "is in");
    client
}

/// The number of times that a subscriber to w/x has received the will.
fn wills(world: &mut World, watcher: usize) -> usize {
    world.take(watcher).windows(4).filter(|window| window == b"gone").count()
}

fn watch(world: &mut World, name: &str) -> usize {
    let watcher = connect(world, 0, name, 0);
    world.send(watcher, b"\x82\x08\x00\x01\x00\x03w/x\x00");
    watcher
}

#[test]
fn a_will_whose_topic_was_taken_back_is_not_published_at_once_or_after_its_delay_or_a_restart() {
    let allowed = list(Subscribing::Strict, &[(RuleEffect::Allow, Actions::ALL, "#")]);
    let revoked = list(
        Subscribing::Strict,
        &[(RuleEffect::Allow, Actions::READ, "#"), (RuleEffect::Allow, Actions::PUBLISH, "other")],
    );
    for (delay, retain, is_down) in [(0, false, false), (0, true, false), (9, true, false), (9, true, true)] {
        for (rules, published) in [(&allowed, 1), (&revoked, 0)] {
            let case = format!("delay {delay}, retained {retain}, down {is_down}");
            let mut world = quiet(2, allowed.clone());
            let alice = connect_with_will(&mut world, retain, delay);
            let mut live = watch(&mut world, "live");
            world.ask(rules);
            world.hang_up(alice, Hangup::Reset);
            if is_down {
                // Its session and the listener's rules are back before its delay ends.
                world = world.cut_power(2, 3000);
                world.ask(rules);
                live = watch(&mut world, "live");
            }
            world.pass(12_000);
            assert_eq!(wills(&mut world, live), published, "{case}");
            let late = watch(&mut world, "late");
            assert_eq!(wills(&mut world, late), if retain { published } else { 0 }, "{case}");
            let refused = |event: &&Event| matches!(event, Event::PublishRefused { client, .. } if **client == *"alice");
            assert_eq!(world.events.iter().filter(refused).count(), 1 - published, "{case}");
            let counters = &world.shared().counters;
            let counted: u64 = counters.iter().map(|shard| shard.get(Counter::PublishesRefused)).sum();
            assert_eq!(counted, 1 - published as u64, "{case}");
        }
    }
}

#[test]
fn a_will_of_a_listener_that_had_no_rules_obeys_those_that_it_has_got_since() {
    let mut world = quiet(1, Access::default());
    let alice = connect_with_will(&mut world, false, 0);
    let live = watch(&mut world, "live");
    world.ask(&list(Subscribing::Strict, &[(RuleEffect::Allow, Actions::READ, "#")]));
    world.hang_up(alice, Hangup::Reset);
    assert_eq!(wills(&mut world, live), 0);
}

/// [MQTT5-3.14.4-3] [MQTT311-3.14.4-3]: the DISCONNECT has been received, although the message before it
/// waits.
#[test]
fn a_disconnect_behind_a_message_that_waits_drops_the_will_however_the_connection_ends() {
    let waiting: [(&str, &[u8]); 2] =
        [("disk", b"\x33\x09\x00\x03a/b\x00\x07hi"), ("rate", b"\x30\x05\x00\x03a/b")];
    let ends: [(&str, End); 4] = [
        ("closed", |world, client| world.hang_up(client, Hangup::Closed)),
        ("reset", |world, client| world.hang_up(client, Hangup::Reset)),
        ("taken over", |world, _| _ = connect_with_will_of_3x(world)),
        ("stopped", |world, _| world.shut_down()),
    ];
    // With a PINGREQ, or with half a DISCONNECT, it has not announced its end.
    let last: [(&[u8], usize); 3] = [(b"\xE0\x00", 0), (b"\xC0\x00", 1), (b"\xE0", 1)];
    for (why, message) in waiting {
        for (end, go) in ends {
            for (said, published) in last {
                let case = format!("waits for the {why}, {end}, {said:?}");
                let mut config = Config::default();
                config.limits.client_messages_per_second = if why == "rate" { 1 } else { 0 };
                config.sys.interval_seconds = 0;
                let mut world = World::new(1, config);
                let client = connect_with_will_of_3x(&mut world);
                let watcher = watch(&mut world, "watcher");
                world.take(watcher);
                world.shard(0).handle_store_full(why == "disk");
                world.send(client, &[&message.repeat(3), said].concat());
                assert!(!world.is_closed(client), "{case}: it waits");
                go(&mut world, client);
                // Packets that were sent before a close are handled as fast as the rate allows.
                world.pass(10_000);
                assert!(world.is_closed(client), "{case}");
                assert_eq!(wills(&mut world, watcher), published, "{case}");
            }
        }
    }
}

/// How a connection ends.
type End = fn(&mut World, usize);

/// CONNECT of 3.1.1 with a clean session, and a will to w/x.
fn connect_with_will_of_3x(world: &mut World) -> usize {
    let client = world.open(0);
    world.send(client, b"\x10\x18\x00\x04MQTT\x04\x06\x00\x00\x00\x01c\x00\x03w/x\x00\x04gone");
    assert_eq!(world.take(client)[..2], [0x20, 2], "is in");
    client
}
