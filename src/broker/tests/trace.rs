//! What traces show.

use super::basics::{PUBLISH_AB, SUBSCRIBE_AB, connect, quiet};
use crate::broker::questions::{Answer, Question};
use crate::broker::trace::{TraceDirection, TraceId, TraceLine, TraceOrder, TraceTarget};
use crate::broker::world::World;
use std::net::{IpAddr, Ipv4Addr};

const ID: TraceId = TraceId(7);

fn begin(world: &mut World, shards: usize, target: TraceTarget) {
    for shard in 0..shards {
        let order = TraceOrder { id: ID, target: target.clone(), shows_payload: true, seconds: 60 };
        assert!(matches!(
            world.question(shard, Question::TraceBegin(Box::new(order))),
            Answer::TraceBegin(true)
        ));
    }
}

fn read(world: &mut World, shard: usize) -> Vec<TraceLine> {
    match world.question(shard, Question::TraceRead(ID)) {
        Answer::TraceRead(Some(page)) => {
            assert_eq!(page.left_out, 0);
            page.lines
        }
        other => panic!("{other:?}"),
    }
}

/// The lines of all shards, each as its direction, its client and what it is.
fn read_all(world: &mut World, shards: usize) -> Vec<String> {
    let lines = (0..shards).flat_map(|shard| read(world, shard)).collect::<Vec<_>>();
    lines
        .iter()
        .map(|line| {
            let direction = match line.direction {
                TraceDirection::In => "in",
                TraceDirection::Out => "out",
                TraceDirection::Inside => "-",
            };
            format!("{direction} {} {}", line.client, line.what)
        })
        .collect()
}

fn home(world: &World, client_id: &str) -> usize {
    usize::from(world.shared().home(world.shared().hash(client_id)))
}

#[test]
fn a_client_is_followed_from_its_connect_to_its_end() {
    let mut world = quiet(1);
    begin(&mut world, 1, TraceTarget::Client("sub".into()));
    let (other, sub) = (connect(&mut world, 0, "other", 0), connect(&mut world, 0, "sub", 0));
    let shown = read_all(&mut world, 1);
    assert_eq!(shown, ["in sub CONNECT", "- sub accepted", "out sub CONNACK"]);
    world.send(sub, SUBSCRIBE_AB);
    assert_eq!(read_all(&mut world, 1), ["in sub SUBSCRIBE", "out sub SUBACK"]);
    world.send(other, PUBLISH_AB);
    let lines = read(&mut world, 0);
    let shown: Vec<_> = lines.iter().map(|line| (line.direction, line.what)).collect();
    assert_eq!(shown, [(TraceDirection::Inside, "delivered"), (TraceDirection::Out, "PUBLISH")]);
    assert_eq!(&*lines[0].words, "\"a/b\" at QoS 1 by \"a/b\": to its connection");
    assert!(lines[1].payload.is_some() && lines[1].bytes == PUBLISH_AB.len(), "{:?}", lines[1]);
    // A second CONNECT is a violation.
    world.send(sub, &[0x10, 0]);
    let lines = read(&mut world, 0);
    let last = lines.last().expect("its end");
    assert!(last.what == "connection ended" && last.words.contains("second CONNECT"), "{last:?}");
    world.send(other, PUBLISH_AB);
    assert!(read(&mut world, 0).is_empty(), "its session has ended");
}

#[test]
fn a_message_is_followed_over_the_shards_by_its_topic() {
    let mut world = quiet(2);
    let (one, two) = two_homes(&world);
    let publisher = connect(&mut world, 0, &one, 0);
    let subscriber = connect(&mut world, 0, &two, 0);
    world.send(subscriber, SUBSCRIBE_AB);
    begin(&mut world, 2, TraceTarget::Topic("a/+".into()));
    world.send(publisher, PUBLISH_AB);
    let (first, second) = (home(&world, &one), home(&world, &two));
    let mut lines = read(&mut world, first);
    let received = lines.remove(0);
    assert_eq!((received.direction, received.what), (TraceDirection::In, "PUBLISH"));
    assert!(lines[0].words.contains("0 sessions") && lines[0].words.contains("other shards"), "{lines:?}");
    let lines = read(&mut world, second);
    let shown: Vec<_> = lines.iter().map(|line| (line.direction, line.what, &*line.client)).collect();
    assert_eq!(
        shown,
        [
            (TraceDirection::Inside, "matched", ""),
            (TraceDirection::Inside, "delivered", &*two),
            (TraceDirection::Out, "PUBLISH", &*two),
        ]
    );
    assert!(lines[0].words.contains("from shard"), "{lines:?}");
    // Packets without that topic are not shown.
    world.send(publisher, &[0xC0, 0]);
    world.send(publisher, b"\x30\x05\0\x03x/y");
    assert_eq!(read_all(&mut world, 2), Vec::<String>::new());
}

/// Two client identifiers, one at home on each of two shards.
fn two_homes(world: &World) -> (String, String) {
    let named = |shard: usize| {
        let mut names = (0..).map(|number| format!("client-{number}"));
        names.find(|name| home(world, name) == shard).expect("some number fits")
    };
    (named(0), named(1))
}

#[test]
fn what_becomes_of_a_message_is_told_with_the_reason() {
    let mut world = quiet(1);
    let kept = world.open(0);
    world.send(kept, b"\x10\x10\0\x04MQTT\x04\x00\0\0\0\x04kept");
    world.send(kept, b"\x82\x08\0\x01\0\x03a/b\x01");
    let publisher = connect(&mut world, 0, "publisher", 0);
    world.hang_up(kept, crate::broker::Hangup::Closed);
    begin(&mut world, 1, TraceTarget::Client("kept".into()));
    world.send(publisher, b"\x32\x07\0\x03a/b\0\x01");
    world.send(publisher, b"\x30\x05\0\x03a/b");
    let words: Vec<_> = read(&mut world, 0).into_iter().map(|line| (line.what, line.words)).collect();
    assert_eq!(
        words,
        [
            ("queued", "\"a/b\" at QoS 1 by \"a/b\": the client is away; 1 messages in its queue".into()),
            (
                "not delivered",
                "\"a/b\" at QoS 0 by \"a/b\": the client is away, and QoS 0 is not queued".into()
            ),
        ]
    );
}

#[test]
fn an_address_is_followed_before_it_has_a_name() {
    let mut world = quiet(1);
    let address = IpAddr::from(Ipv4Addr::LOCALHOST);
    world.address = Some(Ipv4Addr::LOCALHOST);
    begin(&mut world, 1, TraceTarget::Address(address));
    let link = world.open(0);
    // The version does not exist.
    world.send(link, b"\x10\x0d\0\x04MQTT\x07\x02\0\0\0\x01c");
    let shown = read_all(&mut world, 1);
    assert!(shown.contains(&"in  CONNECT".to_owned()), "{shown:?}");
    assert!(shown.contains(&"out  CONNACK".to_owned()), "the last packet to it: {shown:?}");
    assert!(shown.iter().any(|line| line.ends_with("connect refused")), "{shown:?}");
}

#[test]
fn an_alias_is_told_with_its_topic() {
    let mut world = quiet(1);
    let link = world.open(0);
    // 5.0. The topic alias maximum of midge is announced in CONNACK.
    world.send(link, b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01c");
    world.take(link);
    begin(&mut world, 1, TraceTarget::Topic("a/b".into()));
    world.send(link, b"\x30\x0a\0\x03a/b\x03\x23\0\x01x");
    world.send(link, b"\x30\x07\0\0\x03\x23\0\x01y");
    let received: Vec<_> =
        read(&mut world, 0).into_iter().filter(|line| line.direction == TraceDirection::In).collect();
    assert_eq!(received.len(), 2, "{received:?}");
    assert!(received[1].words.contains("topic alias 1") && received[1].words.ends_with("for \"a/b\""));
}
