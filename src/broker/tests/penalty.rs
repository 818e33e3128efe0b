//! Wrong logins: when their refusals are sent, and what the gate is asked.

use crate::broker::world::{World, slot};
use crate::broker::{Counter, EndCause, Event, Hangup, REFUSALS_WAITING_MAX};
use crate::policy::access::{Access, Grant, Verdict};
use crate::policy::address_gate::LoginTurn;
use crate::settings::Config;
use std::net::Ipv4Addr;

/// CONNECT of 3.1.1 with a user name, followed by a PINGREQ.
const LOGIN: &[u8] = b"\x10\x13\x00\x04MQTT\x04\xC2\x00\x3C\x00\x01c\x00\x01u\x00\x01p\xC0\x00";
const LOGIN_V5: &[u8] = b"\x10\x14\x00\x04MQTT\x05\xC2\x00\x3C\x00\x00\x01c\x00\x01u\x00\x01p";
const REFUSED: &[u8] = &[0x20, 2, 0, 5];

fn strict(penalty_millis: u64) -> World {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.gate.failures_before_delay = 0;
    (config.gate.delay_milliseconds, config.gate.delay_milliseconds_max) = (penalty_millis, penalty_millis);
    let mut world = World::new(1, config);
    world.ask(&Access { checks_passwords: true, ..Access::default() });
    world
}

fn fail(world: &mut World) -> usize {
    let client = world.open(0);
    world.send(client, LOGIN);
    world.answer(Verdict::Bad("for a reason"));
    client
}

fn counted(world: &World, counter: Counter) -> u64 {
    world.shared().counters[0].get(counter)
}

#[test]
fn refusal_of_a_wrong_login_waits_and_nothing_is_read_meanwhile() {
    // The delay may exceed the time limit for CONNECT.
    for penalty in [500, 30_000] {
        let mut world = strict(penalty);
        let client = fail(&mut world);
        assert!(world.shard(0).awaits_verdict(slot(0)));
        assert_eq!(world.shard(0).connections.handshakes(), 0, "it takes no place from those who log in");
        let refused = |event: &&Event| matches!(event, Event::Refused { .. });
        assert_eq!(world.events.iter().filter(refused).count(), 1, "it is told at once");
        world.send(client, &[0xC0, 0]);
        world.pass(penalty - 10);
        assert!(world.take(client).is_empty() && !world.is_closed(client));
        world.pass(20);
        assert_eq!(world.take(client), REFUSED);
        assert!(world.is_closed(client));
        assert_eq!(world.events.iter().filter(refused).count(), 1);
        assert_eq!(counted(&world, Counter::LoginsFailed), 1);
        assert_eq!(counted(&world, Counter::RefusalsDelayed), 1);
        assert_eq!(counted(&world, Counter::ConnectsRefused), 1);
        assert_eq!(world.shard(0).connections.handshakes(), 0);
        assert_eq!(world.shard(0).connections.refusals_waiting(), 0);
    }
}

#[test]
fn without_a_penalty_the_refusal_is_sent_at_once_in_the_words_of_the_version() {
    let mut world = strict(0);
    let client = fail(&mut world);
    assert_eq!(world.take(client), REFUSED);
    let client = world.open(0);
    world.send(client, LOGIN_V5);
    world.answer(Verdict::Bad("for a reason"));
    assert_eq!(world.take(client), [0x20, 3, 0, 0x87, 0]);
    assert!(world.is_closed(client));
    assert_eq!(counted(&world, Counter::RefusalsDelayed), 0);
}

#[test]
fn no_more_refusals_wait_than_the_bound_says() {
    let mut world = strict(1000);
    let waiting: Vec<_> = (0..REFUSALS_WAITING_MAX).map(|_| fail(&mut world)).collect();
    assert!(waiting.iter().all(|&client| !world.is_closed(client)));
    let client = fail(&mut world);
    assert_eq!(world.take(client), REFUSED, "one more is sent at once");
    // A client that has disconnected makes room.
    let now = world.now();
    world.shard(0).handle_hangup(now, slot(waiting[0]), Hangup::Reset);
    let client = fail(&mut world);
    assert!(!world.is_closed(client));
    world.pass(1100);
    assert_eq!(world.take(waiting[1]), REFUSED);
    assert_eq!(world.shard(0).connections.refusals_waiting(), 0);
    assert_eq!(world.shard(0).connections(), 0);
}

#[test]
fn only_a_proof_counts_as_a_good_login() {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.gate.failures_before_delay = 1;
    let mut world = World::new(1, config);
    world.ask(&Access { checks_passwords: true, ..Access::default() });
    // The gate forgives an address one wrong login for each correct one. Until then the next wrong one would
    // wait.
    let address = Ipv4Addr::new(192, 0, 2, 1);
    world.address = Some(address);
    let do_wrong = |world: &World| _ = world.control().address_gate.failed(world.now(), address.into());
    let turn = |world: &World| world.control().address_gate.login_turn(world.now(), address.into());
    do_wrong(&world);
    assert_eq!(turn(&world), LoginTurn::One);
    let client = world.open(0);
    world.send(client, LOGIN);
    world.answer(Verdict::Good(Grant::default()));
    assert_eq!(world.take(client)[..4], [0x20, 2, 0, 0]);
    assert_eq!(turn(&world), LoginTurn::Free);
    do_wrong(&world);
    world.ask(&Access::default());
    let client = world.open(0);
    world.send(client, LOGIN);
    assert_eq!(world.take(client)[..4], [0x20, 2, 0, 0], "a name that nobody looks at");
    assert_eq!(turn(&world), LoginTurn::One);
    world.ask(&Access { names_by_certificate: true, ..Access::default() });
    let client = world.open(0);
    world.shard(0).handle_certificate_user(slot(client), "device".into());
    world.send(client, LOGIN);
    assert_eq!(turn(&world), LoginTurn::Free);
    let client = world.open(0);
    world.send(client, LOGIN);
    assert_eq!(world.take(client), [0x20, 2, 0, 4]);
    assert_eq!(turn(&world), LoginTurn::One, "no certificate is a wrong login too");
    assert_eq!(counted(&world, Counter::LoginsFailed), 1);
}

// [MQTT5-reason-0x98]
#[test]
fn who_is_banned_is_disconnected_and_the_others_stay() {
    let mut world = strict(60_000);
    world.ask(&Access::default());
    let [stays, goes] = [b"\x01a", b"\x01b"].map(|id| {
        let client = world.open(0);
        world.send(client, &[b"\x10\x0E\x00\x04MQTT\x05\x02\x00\x3C\x00\x00", &id[..]].concat());
        assert_eq!(world.take(client)[3], 0);
        client
    });
    world.ask(&Access { checks_passwords: true, ..Access::default() });
    let waits = fail(&mut world);
    let now = world.now();
    let gone = [goes, waits].map(slot);
    let why = |slot, _, _| gone.contains(&slot).then_some(EndCause::Banned);
    world.shard(0).handle_unwanted(now, 0, why);
    // The next turn carries it out.
    world.pass(1);
    assert_eq!(world.take(goes), [0xE0, 1, 0x98]);
    assert!(world.is_closed(goes) && world.is_closed(waits) && !world.is_closed(stays));
    assert!(world.take(waits).is_empty());
    let told = |event: &&Event| matches!(event, Event::Disconnected { cause: EndCause::Banned, .. });
    assert_eq!(world.events.iter().filter(told).count(), 1);
}
