//! Logins, access lists, and the effect of their changes on connected clients.

use crate::broker::Hangup;
use crate::broker::world::{World, slot};
use crate::policy::access::{Access, Grant, Verdict};
use crate::policy::acl::{Acl, Actions, Permissions, Rule, RuleEffect, Subscribing, Who};
use crate::settings::Config;

pub(super) fn quiet(shards: usize, access: Access) -> World {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    let mut world = World::new(shards, config);
    world.ask(&access);
    world
}

fn with_passwords() -> Access {
    Access { checks_passwords: true, ..Access::default() }
}

/// An access list that grants everyone some topics and nothing else.
pub(super) fn list(subscribing: Subscribing, grants: &[(RuleEffect, Actions, &str)]) -> Access {
    let rule = |&(effect, actions, topic): &(RuleEffect, Actions, &str)| Rule {
        who: Who::Everyone,
        clients: Vec::new(),
        effect,
        actions,
        topics: vec![topic.to_owned()],
    };
    let rules: Vec<Rule> = grants.iter().map(rule).collect();
    let acl = Acl::new(RuleEffect::Deny, subscribing, &rules).expect("good rules");
    Access { acl: Some(acl), ..Access::default() }
}

pub(super) fn string(packet: &mut Vec<u8>, text: &str) {
    packet.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
    packet.extend_from_slice(text.as_bytes());
}

/// CONNECT of 3.1.1, with the given flags.
fn connect(client_id: &str, flags: u8, login: Option<(&str, &str)>) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x04".to_vec();
    body.extend_from_slice(&[flags | if login.is_some() { 0xC0 } else { 0 }, 0, 60]);
    string(&mut body, client_id);
    if let Some((user, password)) = login {
        string(&mut body, user);
        string(&mut body, password);
    }
    [vec![0x10, u8::try_from(body.len()).unwrap()], body].concat()
}

fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    string(&mut body, filter);
    body.push(qos);
    [vec![0x82, u8::try_from(body.len()).unwrap()], body].concat()
}

fn publish(head: u8, topic: &str, id: Option<u8>) -> Vec<u8> {
    let mut body = Vec::new();
    string(&mut body, topic);
    body.extend(id.into_iter().flat_map(|id| [0, id]));
    body.extend_from_slice(b"hi");
    [vec![head, u8::try_from(body.len()).unwrap()], body].concat()
}

const IN: &[u8] = &[0x20, 2, 0, 0];

fn enter(world: &mut World, client_id: &str, flags: u8) -> usize {
    let client = world.open(0);
    world.send(client, &connect(client_id, flags, None));
    let connack = world.take(client);
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{client_id}");
    client
}

#[test]
fn a_login_waits_for_its_answer_and_what_was_sent_behind_it_too() {
    for shards in [1, 2] {
        let mut world = quiet(shards, with_passwords());
        for (name, verdict, answer) in [
            ("good", Verdict::Good(Grant::default()), [IN, &[0xD0, 0]].concat()),
            ("bad", Verdict::Bad("for a reason"), vec![0x20, 2, 0, 5]),
            ("busy", Verdict::Busy, vec![0x20, 2, 0, 3]),
        ] {
            let client = world.open(0);
            world.send(client, &[connect(name, 2, Some(("u", "p"))), vec![0xC0, 0]].concat());
            assert_eq!(world.take(client), b"", "{name}");
            let login = &world.logins[0].login;
            assert_eq!(
                (&*login.client_id, login.user.as_deref(), login.password()),
                (name, Some("u"), Some(&b"p"[..]))
            );
            let is_good = matches!(verdict, Verdict::Good(_));
            world.answer(verdict);
            assert_eq!(world.take(client), answer, "{name}");
            assert_eq!(world.is_closed(client), !is_good);
        }
    }
}

#[test]
fn an_answer_that_comes_too_late_is_for_nobody() {
    let mut world = quiet(1, with_passwords());
    let client = world.open(0);
    world.send(client, &connect("c", 2, Some(("u", "p"))));
    world.hang_up(client, Hangup::Reset);
    world.answer(Verdict::Good(Grant::default()));
    assert_eq!(world.shard(0).connections(), 0);
    // The time limit for a complete CONNECT also applies to its login.
    let client = world.open(0);
    world.send(client, &connect("c", 2, Some(("u", "p"))));
    world.pass(11_000);
    assert_eq!(world.take(client), [0x20, 2, 0, 3], "it may try again");
    assert!(world.is_closed(client));
    world.answer(Verdict::Good(Grant::default()));
    assert_eq!(world.shard(0).connections(), 0);
}

#[test]
fn anonymous_clients_come_in_only_where_they_may() {
    let mut world = quiet(1, with_passwords());
    enter(&mut world, "none", 2);
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.auth.allow_anonymous = Some(false);
    let mut world = World::new(1, config);
    for login in [None, Some(("u", "p"))] {
        // Without a password file no client can prove its identity.
        let client = world.open(0);
        world.send(client, &connect("c", 2, login));
        assert_eq!(world.take(client), [0x20, 2, 0, 5]);
    }
}

#[test]
fn a_certificate_names_the_user_and_without_one_nobody_comes_in() {
    let mut world = quiet(1, Access { names_by_certificate: true, ..Access::default() });
    let client = world.open(0);
    world.send(client, &connect("c", 2, Some(("u", "p"))));
    assert_eq!(world.take(client), [0x20, 2, 0, 4]);
    let client = world.open(0);
    world.shard(0).handle_certificate_user(slot(client), "device".into());
    world.send(client, &connect("c", 2, None));
    assert_eq!(world.take(client), IN);
}

#[test]
fn what_the_list_does_not_grant_is_refused_on_every_way() {
    let access = list(
        Subscribing::Strict,
        &[(RuleEffect::Allow, Actions::PUBLISH, "out/%c"), (RuleEffect::Allow, Actions::READ, "in/#")],
    );
    for shards in [1, 2] {
        let mut world = quiet(shards, access.clone());
        let client = enter(&mut world, "c", 2);
        for (filter, code) in [("in/#", 1), ("in/a", 1), ("#", 0x80), ("+/a", 0x80), ("out/c", 0x80)] {
            world.send(client, &subscribe(filter, 1));
            assert_eq!(world.take(client), [0x90, 3, 0, 1, code], "{filter}");
        }
        world.send(client, &subscribe("$share/g/#", 1));
        assert_eq!(world.take(client)[4], 0x80);
        // The 3.x publisher is not told, and nobody receives the message.
        let listener = enter(&mut world, "listener", 2);
        world.ask(&Access::default());
        world.send(listener, &subscribe("#", 0));
        world.take(listener);
        world.ask(&access);
        world.send(client, &publish(0x32, "out/other", Some(7)));
        assert_eq!(world.take(client), [0x40, 2, 0, 7]);
        world.send(client, &publish(0x30, "in/a", None));
        world.send(client, &publish(0x30, "out/c", None));
        assert_eq!((world.take(client), world.take(listener)), (vec![], vec![]));
        // A will is checked like a PUBLISH.
        let dying = world.open(0);
        let mut packet = b"\x10\x1A\x00\x04MQTT\x04\x06\x00\x3C\x00\x01w\x00\x05out/c\x00\x04gone".to_vec();
        packet[1] = u8::try_from(packet.len() - 2).unwrap();
        world.send(dying, &packet);
        assert_eq!(world.take(dying), [0x20, 2, 0, 5]);
    }
}

#[test]
fn a_filtered_subscription_gets_what_it_may_and_so_do_its_queue_and_the_retained_messages() {
    let access = list(
        Subscribing::Filtered,
        &[(RuleEffect::Allow, Actions::ALL, "open/#"), (RuleEffect::Allow, Actions::PUBLISH, "closed/#")],
    );
    for shards in [1, 2] {
        let mut world = quiet(shards, access.clone());
        let publisher = enter(&mut world, "publisher", 2);
        for topic in ["open/r", "closed/r"] {
            world.send(publisher, &publish(0x31, topic, None));
        }
        let client = enter(&mut world, "c", 0);
        world.send(client, &subscribe("#", 1));
        let got = world.take(client);
        assert_eq!(got, [vec![0x90, 3, 0, 1, 1], publish(0x31, "open/r", None)].concat(), "{shards}");
        for topic in ["open/l", "closed/l"] {
            world.send(publisher, &publish(0x30, topic, None));
        }
        assert_eq!(world.take(client), publish(0x30, "open/l", None));
        // Messages that wait while it is away are checked when it returns.
        world.hang_up(client, Hangup::Closed);
        for (id, topic) in [(1, "closed/q"), (2, "open/q")] {
            world.send(publisher, &publish(0x32, topic, Some(id)));
        }
        let client = world.open(0);
        world.send(client, &connect("c", 0, None));
        let resumed = [vec![0x20, 2, 1, 0], publish(0x32, "open/q", Some(2))].concat();
        assert_eq!(world.take(client), resumed, "{shards}");
    }
}

#[test]
fn a_change_of_the_list_holds_for_subscriptions_that_are_there() {
    let open = list(Subscribing::Strict, &[(RuleEffect::Allow, Actions::ALL, "#")]);
    let closed = list(
        Subscribing::Strict,
        &[(RuleEffect::Allow, Actions::ALL, "#"), (RuleEffect::Deny, Actions::RECEIVE, "secret/#")],
    );
    for shards in [1, 2] {
        let mut world = quiet(shards, open.clone());
        let (client, publisher) = (enter(&mut world, "c", 2), enter(&mut world, "publisher", 2));
        world.send(client, &subscribe("#", 0));
        world.take(client);
        let said = |world: &mut World| {
            world.send(publisher, &publish(0x30, "secret/a", None));
            world.send(publisher, &publish(0x30, "plain/a", None));
            world.take(client)
        };
        let both = [publish(0x30, "secret/a", None), publish(0x30, "plain/a", None)].concat();
        assert_eq!(said(&mut world), both);
        world.ask(&closed);
        assert_eq!(said(&mut world), publish(0x30, "plain/a", None));
        world.ask(&open);
        assert_eq!(said(&mut world), both);
    }
}

fn granted(user: &str, seconds: Option<u64>, publish: &str, subscribe: &str) -> Verdict {
    let lists = [vec![publish.to_owned()], vec![subscribe.to_owned()]];
    let permissions = Permissions::of_lists(Some(&lists[0]), Some(&lists[1])).expect("good filters");
    Verdict::Good(Grant { user: Some(user.into()), line: None, seconds, permissions })
}

#[test]
fn what_came_with_a_login_limits_its_client_beside_the_list_also_after_a_reload() {
    let asking = |topics: &[&str]| {
        let grants: Vec<_> = topics.iter().map(|&topic| (RuleEffect::Allow, Actions::ALL, topic)).collect();
        Access { asks_for_all: true, ..list(Subscribing::Strict, &grants) }
    };
    let mut world = quiet(1, asking(&["a/#", "b"]));
    let client = world.open(0);
    world.send(client, &connect("c", 2, Some(("u", "p"))));
    world.answer(granted("u", None, "#", "a/1"));
    assert_eq!(world.take(client), IN);
    world.send(client, &subscribe("a/1", 0));
    assert_eq!(world.take(client), [0x90, 3, 0, 1, 0]);
    // The list allows it, but the grant does not.
    world.send(client, &subscribe("b", 0));
    assert_eq!(world.take(client), [0x90, 3, 0, 1, 0x80]);
    world.send(client, &publish(0x30, "a/1", None));
    assert_eq!(world.take(client), publish(0x30, "a/1", None));
    world.ask(&asking(&["#"]));
    world.send(client, &subscribe("b", 0));
    assert_eq!(world.take(client), [0x90, 3, 0, 1, 0x80], "the grant still holds");
    world.ask(&asking(&["b"]));
    world.send(client, &publish(0x30, "a/1", None));
    assert_eq!(world.take(client), b"", "the new list holds too");
}

// [MQTT5-reason-0xA0]
#[test]
fn client_is_let_go_when_its_permission_ends_and_its_will_is_published() {
    let mut world = quiet(1, Access { asks_for_all: true, ..Access::default() });
    let watcher = enter(&mut world, "watcher", 2);
    world.send(watcher, &subscribe("gone", 0));
    world.take(watcher);
    // CONNECT of 5.0 with a will.
    let mut body = b"\x00\x04MQTT\x05\x86\x00\x3c\x00\x00\x01c\x00\x00\x04gone\x00\x02hi".to_vec();
    string(&mut body, "u");
    let client = world.open(0);
    world.send(client, &[vec![0x10, u8::try_from(body.len()).unwrap()], body].concat());
    world.answer(Verdict::Good(Grant { user: Some("u".into()), seconds: Some(5), ..Grant::default() }));
    assert_eq!(world.take(client)[0], 0x20);
    world.pass(4_900);
    assert!(!world.is_closed(client));
    world.pass(200);
    assert!(world.is_closed(client));
    let bye = world.take(client);
    assert_eq!((bye[0], bye[2]), (0xE0, 0xA0));
    assert_eq!(world.take(watcher), publish(0x30, "gone", None));
    // A client that leaves earlier leaves no timer for the next one.
    let early = world.open(0);
    world.send(early, &connect("early", 2, Some(("u", "p"))));
    world.answer(Verdict::Good(Grant { seconds: Some(5), ..Grant::default() }));
    world.hang_up(early, Hangup::Closed);
    let next = enter(&mut world, "next", 2);
    world.pass(6_000);
    assert!(!world.is_closed(next));
}

/// A token ends at a time of the wall clock. NTP has set the clock meanwhile.
#[test]
fn a_permission_ends_by_the_wall_clock_though_it_is_set() {
    for (step_millis, ends_after_millis) in [(20_000, 40_000), (-20_000, 80_000), (90_000, 0)] {
        let mut world = quiet(1, Access { asks_for_all: true, ..Access::default() });
        let client = world.open(0);
        world.send(client, &connect("c", 2, Some(("u", "p"))));
        world.answer(Verdict::Good(Grant { seconds: Some(60), ..Grant::default() }));
        let now = world.now();
        world.shard(0).handle_wall_step(now, step_millis);
        if ends_after_millis > 0 {
            world.pass(ends_after_millis - 100);
            assert!(!world.is_closed(client), "{step_millis}");
        }
        world.pass(200);
        assert!(world.is_closed(client), "{step_millis}");
    }
}

#[test]
fn who_can_show_nothing_is_asked_for_where_somebody_decides() {
    let mut world = quiet(1, Access { asks_for_all: true, ..Access::default() });
    let anonymous = enter(&mut world, "anonymous", 2);
    assert!(!world.is_closed(anonymous), "it is allowed by itself");
    let mut config = Config::default();
    config.auth.allow_anonymous = Some(false);
    config.sys.interval_seconds = 0;
    let mut world = World::new(1, config);
    world.ask(&Access { asks_for_all: true, ..Access::default() });
    let client = world.open(0);
    world.send(client, &connect("c", 2, None));
    assert_eq!(world.logins[0].login.user, None);
    world.answer(Verdict::Good(Grant::default()));
    assert_eq!(world.take(client), IN);
    let client = world.open(0);
    world.send(client, &connect("d", 2, None));
    world.answer(Verdict::Unavailable);
    assert_eq!(world.take(client), [0x20, 2, 0, 3]);
}
