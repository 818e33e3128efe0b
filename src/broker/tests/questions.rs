//! The questions and orders of an operator.

use super::basics::{PUBLISH_AB, SUBSCRIBE_AB, connect, quiet};
use crate::base::Time;
use crate::broker::questions::{
    Answer, ClientDetails, ClientOrder, ClientRank, ClientsPage, ClientsQuery, Disconnected, GroupSummary,
    Inquiry, InquiryProgress, OperatorMessage, Published, Question, RetainedPage, RetainedQuery,
    SubscriptionsPage, SubscriptionsQuery,
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
            InquiryProgress::Done(Answer::Clients(page)) => break page,
            InquiryProgress::Done(other) => panic!("{other:?}"),
            InquiryProgress::Waits => panic!("a scan waits for nothing"),
            InquiryProgress::GoesOn => assert!(inquiry.found.len() <= 5, "it keeps no more than a page"),
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

/// A SUBSCRIBE of 3.1.1 with one filter, at QoS 1.
fn subscribe(world: &mut World, client: usize, filter: &str) {
    let length = u8::try_from(filter.len()).unwrap();
    let packet = [&[0x82, 5 + length, 0, 1, 0, length][..], filter.as_bytes(), &[1]].concat();
    world.send(client, &packet);
    assert_eq!(world.take(client)[..5], [0x90, 3, 0, 1, 1]);
}

fn subscriptions(world: &mut World, shards: usize, query: &SubscriptionsQuery) -> SubscriptionsPage {
    let pages: Vec<SubscriptionsPage> = (0..shards)
        .map(|shard| match world.question(shard, Question::Subscriptions(Box::new(query.clone()))) {
            Answer::Subscriptions(page) => page,
            other => panic!("{other:?}"),
        })
        .collect();
    SubscriptionsPage::merge(pages, query.count)
}

#[test]
fn subscriptions_are_listed_by_filter_by_topic_and_in_pages() {
    let mut world = quiet(2);
    for (client_id, filters) in
        [("one", &["a/+", "a/b", "x"][..]), ("two", &["a/b", "$share/g/a/#"]), ("three", &["y"])]
    {
        let client = connect(&mut world, 0, client_id, 0);
        filters.iter().for_each(|filter| subscribe(&mut world, client, filter));
    }
    let all = SubscriptionsQuery { prefix: "".into(), filter: None, topic: None, after: None, count: 100 };
    let listed = |page: &SubscriptionsPage| -> Vec<String> {
        page.subscriptions.keys().map(|(client, filter)| format!("{client} {filter}")).collect()
    };
    let page = subscriptions(&mut world, 2, &all);
    assert_eq!(page.matching, 6);
    assert_eq!(listed(&page), ["one a/+", "one a/b", "one x", "three y", "two $share/g/a/#", "two a/b"]);
    let by_topic = SubscriptionsQuery { topic: Some("a/b".into()), ..all.clone() };
    let page = subscriptions(&mut world, 2, &by_topic);
    assert_eq!(listed(&page), ["one a/+", "one a/b", "two $share/g/a/#", "two a/b"]);
    let granted = page.subscriptions.values().map(|granted| granted.map(|granted| granted.qos));
    let once = Some(QoS::AtLeastOnce);
    assert_eq!(granted.collect::<Vec<_>>(), [once, once, None, once], "a group has its own options");
    let by_filter = SubscriptionsQuery { filter: Some("a/b".into()), ..all.clone() };
    assert_eq!(listed(&subscriptions(&mut world, 2, &by_filter)), ["one a/b", "two a/b"]);
    let mut pages = SubscriptionsQuery { count: 2, ..all };
    let mut paged = Vec::new();
    while let page = subscriptions(&mut world, 2, &pages)
        && let Some((last, _)) = page.subscriptions.last_key_value()
    {
        pages.after = Some(last.clone());
        paged.extend(listed(&page));
    }
    assert_eq!(paged.len(), 6);
    assert!(paged.is_sorted());
}

#[test]
fn a_scan_goes_on_within_a_session_with_many_filters() {
    let mut world = quiet(1);
    let client = connect(&mut world, 0, "many", 0);
    (0..50).for_each(|at| subscribe(&mut world, client, &format!("f/{at:02}")));
    let query = SubscriptionsQuery { prefix: "m".into(), filter: None, topic: None, after: None, count: 100 };
    let mut inquiry = Inquiry::new(Question::Subscriptions(Box::new(query)));
    let mut calls = 0;
    let page = loop {
        calls += 1;
        match world.shard(0).answer(Time::from_millis(9), &mut inquiry, 8) {
            InquiryProgress::Done(Answer::Subscriptions(page)) => break page,
            InquiryProgress::GoesOn => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(calls > 5, "{calls}");
    assert_eq!((page.matching, page.subscriptions.len()), (50, 50));
}

fn message(topic: &str, qos: QoS, retain: bool) -> OperatorMessage {
    OperatorMessage { topic: topic.into(), payload: b"hi"[..].into(), qos, retain, expiry_seconds: None }
}

fn publish(world: &mut World, message: OperatorMessage) -> Published {
    match world.question(0, Question::Publish(Box::new(message))) {
        Answer::Publish(Ok(published)) => published,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_operator_publishes_to_clients_of_all_shards() {
    let mut world = quiet(3);
    let clients: Vec<usize> = (0..9).map(|at| connect(&mut world, 0, &format!("device-{at}"), 0)).collect();
    clients.iter().for_each(|&client| subscribe(&mut world, client, "a/b"));
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let published = publish(&mut world, message("a/b", qos, false));
        assert_eq!(published, Published { has_subscribers: true, was_refused: false });
        for &client in &clients {
            // The subscriptions have QoS 1.
            assert_eq!(world.take(client)[0], if qos == QoS::AtMostOnce { 0x30 } else { 0x32 });
        }
    }
    assert!(!publish(&mut world, message("nobody", QoS::AtLeastOnce, false)).has_subscribers);
    for (topic, cause) in [
        ("a/+", "wildcard in a topic name"),
        ("", "the topic name is empty"),
        ("$SYS/x", "topic is reserved"),
    ] {
        match world.question(0, Question::Publish(Box::new(message(topic, QoS::AtMostOnce, false)))) {
            Answer::Publish(Err(violation)) => assert_eq!(violation.cause, cause),
            other => panic!("{other:?}"),
        }
    }
}

fn retained(world: &mut World, shards: usize, filter: &str) -> Vec<String> {
    let mut topics = Vec::new();
    for shard in 0..shards {
        let mut after = None;
        loop {
            let query = RetainedQuery { filter: filter.into(), after, count: 2 };
            let Answer::Retained(RetainedPage { messages, next }) =
                world.question(shard, Question::Retained(Box::new(query)))
            else {
                panic!()
            };
            topics.extend(messages.into_iter().map(|message| message.topic.into_string()));
            after = next;
            if after.is_none() {
                break;
            }
        }
    }
    topics.sort();
    topics
}

#[test]
fn retained_messages_are_listed_shown_and_removed() {
    let mut world = quiet(2);
    let topics: Vec<String> = (0..7).map(|at| format!("r/{at}")).collect();
    for topic in &topics {
        publish(&mut world, message(topic, QoS::AtLeastOnce, true));
    }
    assert_eq!(retained(&mut world, 2, "r/#"), topics);
    assert_eq!(retained(&mut world, 2, "r/3"), ["r/3"]);
    let shard = home(&world, "r/3");
    let Answer::RetainedMessage(Some(shown)) = world.question(shard, Question::RetainedMessage("r/3".into()))
    else {
        panic!()
    };
    assert_eq!(shown.message.as_publication().payload, b"hi");
    assert_eq!((shown.summary.payload_bytes, shown.summary.qos), (2, QoS::AtLeastOnce));
    for was_there in [true, false] {
        let done = world.question(shard, Question::RemoveRetained("r/3".into()));
        assert!(matches!(done, Answer::RemoveRetained(was) if was == was_there));
    }
    assert_eq!(retained(&mut world, 2, "r/#").len(), 6);
    let gone = world.question(shard, Question::RetainedMessage("r/3".into()));
    assert!(matches!(gone, Answer::RetainedMessage(None)));
}

#[test]
fn groups_are_listed_with_their_members() {
    let mut world = quiet(2);
    for at in 0..5 {
        let client = connect(&mut world, 0, &format!("member-{at}"), 0);
        subscribe(&mut world, client, "$share/g/t");
        subscribe(&mut world, client, &format!("$share/g{at}/t"));
    }
    let mut found: Vec<GroupSummary> = Vec::new();
    for shard in 0..2 {
        let mut after = None;
        loop {
            let Answer::Groups(groups) = world.question(shard, Question::Groups { after, count: 2 }) else {
                panic!()
            };
            let Some(last) = groups.last() else { break };
            after = Some(last.filter.clone());
            found.extend(groups);
        }
    }
    found.sort_by(|one, other| one.filter.cmp(&other.filter));
    assert_eq!(found.len(), 6);
    assert_eq!((&*found[0].filter, found[0].members, found[0].first.len()), ("$share/g/t", 5, 5));
    assert!(found[0].first.iter().all(|member| member.qos == QoS::AtLeastOnce && member.is_ready));
}

#[test]
fn an_order_is_answered_when_the_disk_has_it() {
    let mut config = crate::settings::Config::default();
    config.sys.interval_seconds = 0;
    config.persistence.directory = "/kept".into();
    let mut world = World::new(1, config);
    world.stick(0);
    let kept = message("r", QoS::AtLeastOnce, true);
    let mut inquiry = Inquiry::new(Question::Publish(Box::new(kept)));
    let now = world.now();
    for _ in 0..3 {
        assert!(matches!(world.shard(0).answer(now, &mut inquiry, 8), InquiryProgress::Waits));
        world.run();
    }
    world.unstick(0);
    world.run();
    assert!(matches!(
        world.shard(0).answer(now, &mut inquiry, 8),
        InquiryProgress::Done(Answer::Publish(Ok(_)))
    ));
    let mut world = world.cut_power(1, 10);
    assert_eq!(retained(&mut world, 1, "#"), ["r"]);
    assert!(matches!(world.question(0, Question::RemoveRetained("r".into())), Answer::RemoveRetained(true)));
    let mut world = world.cut_power(1, 10);
    assert_eq!(retained(&mut world, 1, "#"), [""; 0]);
}
