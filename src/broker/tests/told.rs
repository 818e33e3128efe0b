//! The reports to the operator about subscriptions and messages, and their limits.

use super::basics::{PUBLISH_AB, SUBSCRIBE_AB, connect, quiet};
use crate::broker::world::World;
use crate::broker::{Counter, Event, Limit};
use crate::mqtt::QoS;
use crate::mqtt::RetainHandling;
use crate::settings::Config;

/// A SUBSCRIBE of 3.1.1 with this many filters.
fn subscribe(filters: usize, filter: impl Fn(usize) -> String) -> Vec<u8> {
    let mut body = vec![0, 1];
    for at in 0..filters {
        let filter = filter(at);
        body.extend_from_slice(&u16::try_from(filter.len()).unwrap().to_be_bytes());
        body.extend_from_slice(filter.as_bytes());
        body.push(0);
    }
    let mut packet = vec![0x82];
    let mut rest = body.len();
    while rest > 127 {
        packet.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    packet.push(rest as u8);
    [packet, body].concat()
}

fn total(world: &World, counter: Counter) -> u64 {
    world.shared().counters.iter().map(|counters| counters.get(counter)).sum()
}

#[test]
fn filters_that_are_refused_are_all_counted_and_some_of_a_packet_are_told() {
    const FILTERS: usize = 32_768;
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.listeners[0].shared_subscriptions = Some(false);
    config.limits.topic_levels = 2;
    let mut world = World::new(1, config);
    let client = connect(&mut world, 0, "greedy", 0);
    // Half of them reach a bound, and half are not available.
    let filter = |at: usize| if at.is_multiple_of(2) { "a/b/c".to_owned() } else { format!("$share/g/{at}") };
    world.send(client, &subscribe(FILTERS, filter));
    assert!(world.take(client).ends_with(&[0x80; FILTERS]), "all are in the SUBACK");
    assert_eq!(total(&world, Counter::SubscriptionsRefused), FILTERS as u64);
    assert_eq!(total(&world, Counter::LimitTopicLevels), FILTERS as u64 / 2);
    let (mut told, mut untold) = (0, Vec::new());
    for event in &world.events {
        match event {
            Event::SubscribeRefused { .. } => told += 1,
            Event::LimitReached { limit, .. } => {
                assert_eq!(*limit, Limit::TopicLevels);
                told += 1;
            }
            Event::MoreSubscribesRefused { client, filters, .. } => untold.push((client.clone(), *filters)),
            _ => {}
        }
    }
    assert_eq!((told, untold), (20, vec![("greedy".into(), FILTERS as u64 - 20)]));
    // The next packet is reported separately.
    world.events.clear();
    world.send(client, &subscribe(1, |_| "a/b/c".into()));
    assert!(matches!(world.events[..], [Event::LimitReached { .. }]), "{:?}", world.events);
}

#[test]
fn names_in_what_a_packet_brings_about_are_short() {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.limits.topic_levels = 2;
    (config.limits.connect_bytes, config.limits.connect_bytes_unnamed) = (1 << 17, 1 << 17);
    let mut world = World::new(1, config);
    let name = "n".repeat(60_000);
    let client = world.open(0);
    let mut body = b"\x00\x04MQTT\x04\x02\x00\x00\xEA\x60".to_vec();
    body.extend_from_slice(name.as_bytes());
    world.send(client, &[&[0x10, 0xEC, 0xD4, 0x03], &body[..]].concat());
    assert_eq!(world.take(client), [0x20, 2, 0, 0]);
    world.events.clear();
    world.send(client, &subscribe(1, |_| "a/b/c".into()));
    world.send(client, b"\x32\x0A\x00\x05a/b/c\x00\x07x");
    let mut names = 0;
    for event in &world.events {
        match event {
            Event::LimitReached { client, .. } | Event::PublishRefused { client, .. } => {
                assert!(client.len() <= 128, "{}", client.len());
                names += 1;
            }
            _ => {}
        }
    }
    assert_eq!(names, 3, "{:?}", world.events);
}

fn details(world: &World) -> Vec<&Event> {
    let is_detail = |event: &&Event| {
        matches!(
            event,
            Event::Subscribed { .. }
                | Event::Unsubscribed { .. }
                | Event::MoreUnsubscribed { .. }
                | Event::Matched { .. }
        )
    };
    world.events.iter().filter(is_detail).collect()
}

#[test]
fn subscriptions_and_what_messages_match_are_told_only_if_wanted() {
    let mut world = quiet(1);
    for wanted in [false, true, false] {
        world.events.clear();
        world.tell_detail(wanted);
        let [one, other] = ["one", "other"].map(|id| connect(&mut world, 0, id, 0));
        world.send(one, SUBSCRIBE_AB);
        world.send(one, b"\x82\x06\x00\x02\x00\x01#\x00");
        world.send(other, &subscribe(1, |_| "$share/g/a/+".into()));
        world.send(other, PUBLISH_AB);
        world.send(one, b"\xA2\x07\x00\x03\x00\x03a/b");
        for client in [one, other] {
            world.send(client, b"\xE0\x00");
        }
        let told = details(&world);
        if !wanted {
            assert!(told.is_empty(), "{told:?}");
            continue;
        }
        let [made, hash, shared, matched, ended, with_session, member] = told[..] else {
            panic!("{told:#?}")
        };
        let made_of = |event: &Event| match event {
            Event::Subscribed { client, filter, options, subscription_id: None, is_new: true } => {
                assert_eq!(options.retain_handling, RetainHandling::Always);
                (client.to_string(), filter.to_string(), options.qos)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(made_of(made), ("one".into(), "a/b".into(), QoS::AtLeastOnce));
        assert_eq!(made_of(hash), ("one".into(), "#".into(), QoS::AtMostOnce));
        assert_eq!(made_of(shared), ("other".into(), "$share/g/a/+".into(), QoS::AtMostOnce));
        let Event::Matched { client, topic, qos, retain, shard, from, subscribers, groups } = matched else {
            panic!("{matched:?}");
        };
        assert_eq!((client.as_deref(), &**topic), (Some("other"), "a/b"));
        assert_eq!((*qos, *retain, *shard, *from), (QoS::AtLeastOnce, false, 0, None));
        // One session, through two filters, and one group.
        assert_eq!((*subscribers, *groups), (1, 1));
        for (event, wanted) in [(ended, "a/b"), (with_session, "#"), (member, "$share/g/a/+")] {
            assert!(matches!(event, Event::Unsubscribed { filter, .. } if **filter == *wanted), "{event:?}");
        }
    }
}

#[test]
fn each_shard_tells_what_it_matches_and_many_subscriptions_that_end_are_few_events() {
    let mut world = quiet(2);
    world.tell_detail(true);
    for at in 0..10 {
        let client = connect(&mut world, at % 2, &format!("sub{at}"), 0);
        world.send(client, SUBSCRIBE_AB);
    }
    let publisher = connect(&mut world, 0, "publisher", 0);
    world.send(publisher, PUBLISH_AB);
    let mut sum = 0;
    let mut named = Vec::new();
    for event in details(&world) {
        if let Event::Matched { client, shard, from, subscribers, .. } = event {
            sum += subscribers;
            assert_eq!(client.is_some(), from.is_none(), "{event:?}");
            named.push((*shard, client.as_deref()));
        }
    }
    assert_eq!((sum, named.len()), (10, 2), "{named:?}");
    world.events.clear();
    world.send(publisher, &subscribe(1000, |at| format!("own/{at}")));
    assert_eq!(details(&world).len(), 1000);
    world.events.clear();
    world.send(publisher, b"\xE0\x00");
    let told = details(&world);
    assert_eq!(told.len(), 101);
    assert!(matches!(told[100], Event::MoreUnsubscribed { filters: 900, .. }), "{:?}", told[100]);
}
