//! The questions and orders of an operator.

use super::basics::{PUBLISH_AB, SUBSCRIBE_AB, connect, quiet};
use crate::base::Time;
use crate::broker::questions::{
    Answer, ClientDetails, ClientOrder, ClientRank, ClientsPage, ClientsQuery, Disconnected, Inquiry,
    Question,
};
use crate::broker::world::World;
use crate::broker::{EndCause, Event};
use crate::mqtt::QoS;

/// A client whose session outlives its connection.
fn connect_kept(world: &mut World, shard: usize, client_id: &str) -> usize {
    let client = world.open(shard);
    let length = u8::try_from(client_id.len()).unwrap();
    let head = [0x10, 12 + length, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 0, 0, length];
    world.send(client, &[&head[..], client_id.as_bytes()].concat());
    assert_eq!(world.take(client), [0x20, 2, 0, 0]);
    client
}

fn query(order: ClientOrder, count: usize) -> ClientsQuery {
    ClientsQuery {
        prefix: "".into(),
        user: None,
        listener: None,
        address: None,
        is_connected: None,
        order,
        after: None,
        count,
    }
}

/// The page of all shards together.
fn list(world: &mut World, shards: usize, query: &ClientsQuery) -> ClientsPage {
    let pages: Vec<ClientsPage> = (0..shards)
        .map(|shard| match world.question(shard, Question::Clients(Box::new(query.clone()))) {
            Answer::Clients(page) => page,
            other => panic!("{other:?}"),
        })
        .collect();
    ClientsPage::merge(pages, query.count)
}

fn names(page: &ClientsPage) -> Vec<&str> {
    page.clients.iter().map(|(rank, _)| &*rank.client_id).collect()
}

fn home(world: &World, client_id: &str) -> usize {
    usize::from(world.shared().home(world.shared().hash(client_id)))
}

fn details(world: &mut World, client_id: &str) -> Option<Box<ClientDetails>> {
    let shard = home(world, client_id);
    match world.question(shard, Question::Client(client_id.into())) {
        Answer::Client(details) => details,
        other => panic!("{other:?}"),
    }
}

fn disconnect(world: &mut World, client_id: &str, ends_session: bool) -> Disconnected {
    let shard = home(world, client_id);
    match world.question(shard, Question::Disconnect { client_id: client_id.into(), ends_session }) {
        Answer::Disconnect(done) => done,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pages_hold_each_client_of_all_shards_once_and_in_order() {
    let mut world = quiet(3);
    let mut all: Vec<String> = (0..200).map(|at| format!("device-{:03}", at * 77 % 200)).collect();
    for client_id in &all {
        connect(&mut world, 0, client_id, 0);
    }
    all.sort();
    let mut query = query(ClientOrder::ClientId, 30);
    let mut listed = Vec::new();
    loop {
        let page = list(&mut world, 3, &query);
        assert_eq!(page.matching, 200);
        listed.extend(names(&page).into_iter().map(str::to_owned));
        let Some((last, _)) = page.clients.last() else { break };
        query.after = Some(last.clone());
    }
    assert_eq!(listed, all);
}

#[test]
fn the_busiest_come_first() {
    let mut world = quiet(2);
    for (client_id, messages) in [("idle", 0), ("busy", 5), ("busier", 9)] {
        let client = connect(&mut world, 0, client_id, 0);
        (0..messages).for_each(|_| world.send(client, PUBLISH_AB));
    }
    let page = list(&mut world, 2, &query(ClientOrder::Messages, 2));
    assert_eq!((names(&page), page.matching), (vec!["busier", "busy"], 3));
    let first = page.clients[0].1.connection.as_ref().expect("it is connected");
    assert_eq!((first.messages_in, first.messages_out), (9, 0));
    assert!(first.bytes_in > 9 * PUBLISH_AB.len() as u64, "its CONNECT counts too");
}

#[test]
fn filters_leave_out_who_does_not_fit() {
    let mut world = quiet(1);
    for client_id in ["a1", "a2", "b1"] {
        connect(&mut world, 0, client_id, 0);
    }
    let away = connect_kept(&mut world, 0, "a3");
    world.hang_up(away, crate::broker::Hangup::Closed);
    let of = |change: &dyn Fn(&mut ClientsQuery), world: &mut World| {
        let mut query = query(ClientOrder::ClientId, 10);
        change(&mut query);
        let page = list(world, 1, &query);
        names(&page).join(" ")
    };
    assert_eq!(of(&|query| query.prefix = "a".into(), &mut world), "a1 a2 a3");
    assert_eq!(of(&|query| query.is_connected = Some(false), &mut world), "a3");
    assert_eq!(of(&|query| query.is_connected = Some(true), &mut world), "a1 a2 b1");
    assert_eq!(of(&|query| query.listener = Some(7), &mut world), "");
    assert_eq!(of(&|query| query.user = Some("u".into()), &mut world), "");
    assert_eq!(of(&|query| query.address = Some([203, 0, 113, 9].into()), &mut world), "");
}

#[test]
fn a_scan_visits_no_more_than_it_may_and_comes_to_the_same() {
    let mut world = quiet(1);
    for at in 0..300 {
        connect(&mut world, 0, &format!("device-{at:03}"), 0);
    }
    let query = query(ClientOrder::ClientId, 5);
    let mut inquiry = Inquiry::new(Question::Clients(Box::new(query)));
    let mut calls = 0;
    let page = loop {
        calls += 1;
        match world.shard(0).answer(Time::from_millis(9), &mut inquiry, 10) {
            Some(Answer::Clients(page)) => break page,
            Some(other) => panic!("{other:?}"),
            None => assert!(inquiry.found.len() <= 5, "it keeps no more than a page"),
        }
    };
    assert_eq!((calls, page.matching), (30, 300));
    assert_eq!(names(&page), ["device-000", "device-001", "device-002", "device-003", "device-004"]);
}

#[test]
fn one_client_is_shown_with_its_subscriptions() {
    let mut world = quiet(2);
    let client = connect_kept(&mut world, 0, "one");
    world.send(client, SUBSCRIBE_AB);
    let shown = details(&mut world, "one").expect("it is there");
    let [subscription] = &shown.subscriptions[..] else { panic!("{:?}", shown.subscriptions) };
    assert_eq!(&*subscription.filter, "a/b");
    assert_eq!(subscription.granted.map(|granted| granted.qos), Some(QoS::AtLeastOnce));
    assert!(shown.summary.connection.is_some() && shown.will.is_none() && shown.losses.is_empty());
    assert!(details(&mut world, "another").is_none());
}

#[test]
fn a_disconnected_client_keeps_its_session_unless_the_order_ends_it() {
    for ends_session in [false, true] {
        let mut world = quiet(2);
        let client = connect_kept(&mut world, 1, "kept");
        let done = disconnect(&mut world, "kept", ends_session);
        assert_eq!(done, Disconnected { was_connected: true, has_session_ended: ends_session });
        assert!(world.is_closed(client));
        let told = |event: &&Event| matches!(event, Event::Disconnected { cause: EndCause::Operator, .. });
        assert_eq!(world.events.iter().filter(told).count(), 1);
        assert_eq!(details(&mut world, "kept").is_none(), ends_session);
        // The second order finds no connection.
        let done = disconnect(&mut world, "kept", true);
        assert_eq!(done, Disconnected { was_connected: false, has_session_ended: !ends_session });
    }
    let mut world = quiet(1);
    let done = disconnect(&mut world, "nobody", true);
    assert_eq!(done, Disconnected { was_connected: false, has_session_ended: false });
}

#[test]
fn a_shard_tells_that_it_turns_and_what_it_holds() {
    let mut world = quiet(2);
    connect(&mut world, 0, "one", 0);
    let mut sessions = 0;
    for shard in 0..2 {
        assert!(matches!(world.question(shard, Question::Alive), Answer::Alive));
        let Answer::Shard(figures) = world.question(shard, Question::Shard) else { panic!() };
        assert_eq!(usize::from(figures.shard), shard);
        assert!(!figures.has_log_failed);
        sessions += figures.sessions;
    }
    assert_eq!(sessions, 1);
}

#[test]
fn ranks_order_by_falling_numbers_and_rising_names() {
    let rank = |number, client_id: &str| ClientRank {
        number: std::cmp::Reverse(number),
        client_id: client_id.into(),
    };
    let mut ranks = [rank(1, "a"), rank(9, "b"), rank(9, "a")];
    ranks.sort();
    assert_eq!(ranks, [rank(9, "a"), rank(9, "b"), rank(1, "a")]);
}
