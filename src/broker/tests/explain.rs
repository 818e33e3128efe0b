//! What is explained to an operator, and that it is what happens.

use super::basics::{SUBSCRIBE_AB, connect, quiet};
use crate::broker::Hangup;
use crate::broker::explain::{ConnectCase, DeliveryCase, DeliveryFindings, Finding, Findings};
use crate::broker::questions::{Answer, Question};
use crate::broker::world::World;
use crate::mqtt::{ProtocolVersion, QoS};
use crate::policy::access::Access;

fn delivery(
    world: &mut World,
    client: &str,
    topic: &str,
    qos: QoS,
    publisher: Option<&str>,
) -> DeliveryFindings {
    let case = DeliveryCase {
        client_id: client.into(),
        topic: topic.into(),
        qos,
        payload_bytes: 10,
        publisher: publisher.map(Into::into),
    };
    match world.question(0, Question::ExplainDelivery(Box::new(case))) {
        Answer::ExplainDelivery(found) => *found,
        other => panic!("{other:?}"),
    }
}

fn login(world: &mut World, client: &str, user: Option<&str>) -> Findings {
    let case = ConnectCase {
        client_id: client.into(),
        user: user.map(Into::into),
        listener: 0,
        version: ProtocolVersion::V5,
        clean_start: true,
    };
    match world.question(0, Question::ExplainConnect(Box::new(case))) {
        Answer::ExplainConnect(found) => found,
        other => panic!("{other:?}"),
    }
}

/// What stands in the way: the subject and the words.
fn obstacle(found: &Findings) -> Option<(&'static str, &str)> {
    found.obstacle().map(|line| (line.subject, line.words.as_str()))
}

#[test]
fn a_delivery_is_explained_by_what_would_stop_it() {
    let mut world = quiet(1);
    let found = delivery(&mut world, "sub", "a/b", QoS::AtLeastOnce, None);
    assert_eq!(obstacle(&found.findings).map(|(subject, _)| subject), Some("session"));
    let sub = world.open(0);
    world.send(sub, b"\x10\x0f\0\x04MQTT\x04\x00\0\0\0\x03sub");
    let found = delivery(&mut world, "sub", "a/b", QoS::AtLeastOnce, None);
    assert_eq!(obstacle(&found.findings), Some(("subscription", "none of its 0 subscriptions matches")));
    world.send(sub, SUBSCRIBE_AB);
    let found = delivery(&mut world, "sub", "a/b", QoS::AtLeastOnce, None);
    assert!(found.has_own_match && !found.would_wait && obstacle(&found.findings).is_none(), "{found:?}");
    assert_eq!(
        obstacle(&delivery(&mut world, "sub", "a/c", QoS::AtLeastOnce, None).findings).unwrap().0,
        "subscription"
    );
    world.hang_up(sub, Hangup::Closed);
    let found = delivery(&mut world, "sub", "a/b", QoS::AtLeastOnce, None);
    assert!(found.would_wait && obstacle(&found.findings).is_none(), "{found:?}");
    let found = delivery(&mut world, "sub", "a/b", QoS::AtMostOnce, None);
    assert_eq!(obstacle(&found.findings), Some(("queue", "QoS 0 is not queued for a client that is away")));
    let events: Vec<_> = found.events.iter().map(|event| event.what).collect();
    assert_eq!(events, ["connection ended", "accepted"]);
}

#[test]
fn no_local_and_the_turn_in_a_group_are_told() {
    let mut world = quiet(1);
    let client = world.open(0);
    world.send(client, b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01c");
    world.send(client, b"\x82\x09\0\x01\0\0\x03a/b\x05");
    let found = delivery(&mut world, "c", "a/b", QoS::AtLeastOnce, Some("c"));
    assert_eq!(obstacle(&found.findings).unwrap().0, "No Local");
    assert!(obstacle(&delivery(&mut world, "c", "a/b", QoS::AtLeastOnce, Some("d")).findings).is_none());
    world.send(client, b"\x82\x12\0\x02\0\0\x0c$share/g/x/y\x01");
    let found = delivery(&mut world, "c", "x/y", QoS::AtLeastOnce, None);
    assert!(!found.has_own_match && *found.groups == ["$share/g/x/y".into()], "{found:?}");
    let turn = Question::GroupTurn { filter: "$share/g/x/y".into(), member: found.session.unwrap() };
    match world.question(0, turn) {
        Answer::GroupTurn(Some(turn)) => {
            assert_eq!((turn.members, turn.before, turn.is_ready), (1, Some(0), true))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_login_is_explained_without_being_made() {
    let mut world = quiet(1);
    let found = login(&mut world, "c", None);
    assert!(obstacle(&found).is_none(), "{found:?}");
    assert_eq!(obstacle(&login(&mut world, &"x".repeat(70_000), None)).unwrap().0, "client identifier");
    let link = connect(&mut world, 0, "c", 0);
    let found = login(&mut world, "c", None);
    let takeover = found.lines.iter().find(|line| line.subject == "takeover").expect("it is connected");
    assert_eq!(takeover.finding, Finding::Note);
    assert!(!world.is_closed(link), "nothing has happened");
    world.ask(&Access { allow_anonymous: Some(false), checks_passwords: true, ..Access::default() });
    assert_eq!(obstacle(&login(&mut world, "c", None)).unwrap().0, "login");
    let found = login(&mut world, "c", Some("u"));
    assert!(obstacle(&found).is_none(), "a proof can't be known before: {found:?}");
}
