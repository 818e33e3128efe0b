//! Clients that exceed their rate, on a virtual clock.

use super::basics::{connect, quiet};
use crate::base::Time;
use crate::broker::world::{World, slot};
use crate::broker::{Counter, Event, Hangup, Limit};
use crate::settings::{Config, Listener};

fn world(shards: usize, change: impl FnOnce(&mut Config)) -> World {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.persistence.directory = String::new();
    change(&mut config);
    World::new(shards, config)
}

fn total(world: &World, counter: Counter) -> u64 {
    world.shared().counters.iter().map(|counters| counters.get(counter)).sum()
}

/// The bounds that were reported, with their clients.
fn told(world: &World) -> Vec<(Limit, &str)> {
    let limit = |event| match event {
        &Event::LimitReached { limit, ref client } => Some((limit, &**client)),
        _ => None,
    };
    world.events.iter().filter_map(limit).collect()
}

/// A client of the first listener that has subscribed to everything.
fn subscriber(world: &mut World) -> usize {
    world.listener = 0;
    let subscriber = connect(world, 0, "subscriber", 0);
    world.send(subscriber, b"\x82\x06\x00\x01\x00\x01#\x00");
    assert_eq!(world.take(subscriber), b"\x90\x03\x00\x01\x00");
    subscriber
}

/// A PUBLISH packet of ten bytes.
fn message(text: u8) -> Vec<u8> {
    vec![0x30, 8, 0, 3, b'a', b'/', b'b', b'.', b'.', text]
}

/// This many of them in one piece.
fn messages(text: u8, count: usize) -> Vec<u8> {
    message(text).repeat(count)
}

/// The texts of the messages that a subscriber has received.
fn texts(world: &mut World, subscriber: usize) -> String {
    let bytes = world.take(subscriber);
    assert_eq!(bytes.len() % 10, 0);
    bytes.chunks(10).map(|packet| char::from(packet[9])).collect()
}

/// The number of messages of one client.
fn count(texts: &str, of: char) -> usize {
    texts.chars().filter(|&text| text == of).count()
}

#[test]
fn a_client_above_its_rate_is_read_no_faster_and_loses_nothing() {
    for shards in [1, 2, 7] {
        let mut world = world(shards, |config| config.limits.client_messages_per_second = 50);
        let subscriber = subscriber(&mut world);
        let publisher = world.open(0);
        let connect = b"\x10\x0D\x00\x04MQTT\x04\x02\x00\x00\x00\x01p";
        world.send(publisher, &[&connect[..], &messages(b'x', 200), b"\xC0\x00"].concat());
        // There are as many messages as the rate of one second.
        assert_eq!(texts(&mut world, subscriber).len(), 50);
        assert_eq!(world.take(publisher), b"\x20\x02\x00\x00");
        world.pass(1010);
        assert_eq!(texts(&mut world, subscriber).len(), 50);
        world.pass(500);
        assert_eq!(texts(&mut world, subscriber).len(), 25);
        // A new message waits after the present ones.
        world.send(publisher, &message(b'y'));
        world.pass(1480);
        assert_eq!(texts(&mut world, subscriber), "x".repeat(74));
        assert_eq!(world.take(publisher), b"");
        world.pass(40);
        assert_eq!(texts(&mut world, subscriber), "xy");
        assert_eq!(world.take(publisher), b"\xD0\x00", "its PINGREQ came behind the messages");
        assert_eq!(told(&world), [(Limit::ClientMessages, "p")]);
        assert_eq!(total(&world, Counter::LimitClientRate), 2, "reading was stopped again for the last one");
        assert_eq!(total(&world, Counter::PublishesReceived), 201);
        assert_eq!(total(&world, Counter::PacketsReceived), 205);
        // After a second of silence the bucket is full.
        world.pass(1000);
        world.send(publisher, &messages(b'z', 50));
        assert_eq!(texts(&mut world, subscriber).len(), 50);
        assert_eq!(total(&world, Counter::LimitClientRate), 2);
        world.send(publisher, &message(b'z'));
        assert_eq!(total(&world, Counter::LimitClientRate), 3);
        assert_eq!(told(&world).len(), 1, "the log has one line for each connection");
    }
}

#[test]
fn who_is_paused_still_gets_what_is_sent_to_it_and_others_are_not_held_up() {
    let mut world = world(1, |config| config.limits.client_messages_per_second = 1);
    let subscriber = subscriber(&mut world);
    let publisher = connect(&mut world, 0, "publisher", 0);
    world.send(publisher, b"\x82\x08\x00\x01\x00\x03a/b\x00");
    world.take(publisher);
    world.send(publisher, &messages(b'x', 3));
    assert_eq!(texts(&mut world, publisher), "x");
    let other = connect(&mut world, 0, "other", 0);
    world.send(other, &message(b'o'));
    assert_eq!(texts(&mut world, subscriber), "xo");
    assert_eq!(texts(&mut world, publisher), "o");
    // Packets other than messages are not limited, unless they come after a message that waits.
    world.send(other, b"\xC0\x00");
    assert_eq!(world.take(other), b"\xD0\x00");
    assert_eq!(told(&world), [(Limit::ClientMessages, "publisher")]);
}

/// [MQTT5-3.1.2-22]
#[test]
fn keep_alive_does_not_end_who_is_not_read() {
    let mut world = world(1, |config| config.limits.client_messages_per_second = 1);
    let client = connect(&mut world, 0, "client", 2);
    world.send(client, &messages(b'x', 10));
    world.send(client, b"\xC0\x00");
    world.pass(8900);
    assert!(!world.is_closed(client));
    assert_eq!(world.take(client), b"");
    world.pass(200);
    assert_eq!(world.take(client), b"\xD0\x00");
    // It is read again, and sends nothing more.
    world.pass(2700);
    assert!(!world.is_closed(client));
    world.pass(300);
    assert!(world.is_closed(client));
    assert_eq!(total(&world, Counter::KeepAliveTimeouts), 1);
}

#[test]
fn a_large_packet_is_taken_and_what_follows_waits_for_its_debt() {
    let mut world = world(1, |config| config.limits.client_bytes_per_second = 1000);
    let subscriber = subscriber(&mut world);
    let publisher = connect(&mut world, 0, "publisher", 0);
    let mut large = vec![0x30, 0x88, 0x27, 0, 1, b'a'];
    large.resize(5003, b'.');
    world.send(publisher, &large);
    assert_eq!(world.take(subscriber).len(), 5003, "whatever a second brings");
    world.send(publisher, &message(b'x'));
    world.pass(3900);
    assert_eq!(world.take(subscriber), b"");
    assert_eq!(told(&world), [(Limit::ClientBytes, "publisher")]);
    world.pass(120);
    assert_eq!(texts(&mut world, subscriber), "x");
    // All packets count: a hundred PINGREQs have 200 bytes.
    world.send(publisher, &[0xC0, 0].repeat(100));
    world.pass(150);
    let answers = world.take(publisher).len() / 2;
    assert!((75..80).contains(&answers), "{answers}");
    world.pass(60);
    assert_eq!(world.take(publisher).len() / 2, 100 - answers);
}

#[test]
fn what_a_client_sent_before_it_closed_is_not_lost() {
    for hangup in [Hangup::Closed, Hangup::Transport("close_notify".into())] {
        let mut world = world(1, |config| config.limits.client_messages_per_second = 10);
        let subscriber = subscriber(&mut world);
        let publisher = connect(&mut world, 0, "publisher", 0);
        world.send(publisher, &messages(b'x', 15));
        // A layer reports the hangup that it has seen after the messages.
        let now = world.now();
        world.shard(0).handle_hangup(now, slot(publisher), hangup);
        world.run();
        assert_eq!(texts(&mut world, subscriber).len(), 10);
        assert_eq!(world.shard(0).connections(), 2);
        world.pass(510);
        assert_eq!(texts(&mut world, subscriber).len(), 5);
        assert!(world.is_closed(publisher));
        assert_eq!(world.shard(0).connections(), 1);
    }
}

#[test]
fn a_client_that_does_not_read_is_ended_though_it_waits() {
    let mut world = world(1, |config| config.limits.client_messages_per_second = 10);
    let publisher = connect(&mut world, 0, "publisher", 0);
    world.send(publisher, &messages(b'x', 15));
    let now = world.now();
    world.shard(0).handle_hangup(now, slot(publisher), Hangup::BacklogFull);
    world.run();
    assert!(world.is_closed(publisher));
    world.pass(1000);
}

#[test]
fn a_listener_shares_its_rate_among_its_clients_in_turn() {
    let mut world = world(1, |config| {
        config.listeners.push(Listener { messages_per_second: 10, ..Listener::default() });
    });
    let subscriber = subscriber(&mut world);
    world.listener = 1;
    let [greedy, other, modest] = ["greedy", "other", "modest"].map(|name| connect(&mut world, 0, name, 2));
    world.send(greedy, &messages(b'g', 60));
    world.send(other, &messages(b'o', 60));
    world.send(modest, &message(b'm'));
    assert_eq!(texts(&mut world, subscriber), "g".repeat(10));
    world.pass(310);
    assert_eq!(texts(&mut world, subscriber), "gom", "each its turn");
    world.pass(2000);
    let both = texts(&mut world, subscriber);
    assert_eq!((count(&both, 'g'), count(&both, 'o')), (10, 10));
    // A new client is placed after them, and is not starved.
    world.send(modest, &message(b'm'));
    world.pass(310);
    assert_eq!(count(&texts(&mut world, subscriber), 'm'), 1);
    assert_eq!(total(&world, Counter::LimitListenerRate), 4);
    assert_eq!(total(&world, Counter::LimitClientRate), 0);
    let limit = Limit::ListenerMessages;
    assert_eq!(told(&world), [(limit, "greedy"), (limit, "other"), (limit, "modest")]);
    // The other listener has no bound.
    world.listener = 0;
    let free = connect(&mut world, 0, "free", 0);
    world.send(free, &messages(b'f', 100));
    assert_eq!(count(&texts(&mut world, subscriber), 'f'), 100);
    // All messages arrive, and no keep alive has expired.
    world.pass(20_000);
    let rest = texts(&mut world, subscriber).len();
    assert_eq!(total(&world, Counter::PublishesReceived), 60 + 60 + 2 + 100);
    assert!(rest > 70, "{rest}");
    assert!(world.shard(0).lanes.of(1).waiting() == 0);
}

#[test]
fn those_who_wait_get_equal_parts_of_what_comes_together() {
    // 640 bytes per tick of the wheel: six of these packets, less a few bytes.
    let mut world = world(1, |config| config.listeners[0].bytes_per_second = 10_000_000);
    let subscriber = subscriber(&mut world);
    let flood = connect(&mut world, 0, "flood", 0);
    let mut large = vec![0x30, 0xC0, 0x84, 0x3D, 0, 1, b'l'];
    large.resize(1_000_004, b'.');
    for _ in 0..11 {
        world.send(flood, &large);
    }
    // The last one waits for a tenth of a second.
    assert_eq!(world.take(subscriber).len(), 10 * 1_000_004);
    let senders = ["one", "two"].map(|name| connect(&mut world, 0, name, 0));
    for (sender, text) in senders.into_iter().zip([b'1', b'2']) {
        let mut packet = vec![0x30, 98, 0, 3, b'a', b'/', b'b'];
        packet.resize(100, text);
        world.send(sender, &packet.repeat(600));
    }
    world.pass(1000);
    let got = world.take(subscriber);
    let packets = got[1_000_004..].chunks(100);
    let order: String = packets.map(|packet| char::from(packet[99])).collect();
    assert_eq!((count(&order, '1'), count(&order, '2')), (600, 600));
    for end in 0..order.len() {
        let ahead = count(&order[..end], '1').abs_diff(count(&order[..end], '2'));
        assert!(ahead <= 7, "{ahead} at {end}: {order}");
    }
    assert!(order.contains("111222"), "more than one at a turn: {order}");
}

#[test]
fn what_is_left_of_equal_parts_goes_to_those_who_wait_in_turn() {
    // The rate is a little more than three messages per tick of the wheel.
    let mut world = world(1, |config| config.listeners[0].messages_per_second = 51_250);
    let subscriber = subscriber(&mut world);
    let flood = connect(&mut world, 0, "flood", 0);
    world.send(flood, &messages(b'f', 60_000));
    world.hang_up(flood, Hangup::Reset);
    world.take(subscriber);
    for (name, text) in [("one", b'1'), ("two", b'2')] {
        let sender = connect(&mut world, 0, name, 0);
        world.send(sender, &messages(text, 600));
    }
    world.pass(10);
    let order = texts(&mut world, subscriber);
    assert!(order.len() > 500, "{}", order.len());
    for end in 0..order.len() {
        let ahead = count(&order[..end], '1').abs_diff(count(&order[..end], '2'));
        assert!(ahead <= 4, "{ahead} at {end}: {order}");
    }
}

#[test]
fn who_ends_while_it_waits_leaves_the_others_in_their_order() {
    let mut world = world(1, |config| config.listeners[0].messages_per_second = 10);
    let subscriber = subscriber(&mut world);
    let names: Vec<String> = (0..10).map(|at| format!("client{at}")).collect();
    for (name, text) in names.iter().zip(b'0'..) {
        let client = connect(&mut world, 0, name, 0);
        world.send(client, &messages(text, 2));
    }
    assert_eq!(texts(&mut world, subscriber), "0011223344");
    // They are taken over, one after the other.
    let lane = |world: &mut World| world.shard(0).lanes.of(0).listed();
    assert_eq!(lane(&mut world), (5, 0));
    for (name, left) in [("client5", (5, 1)), ("client7", (5, 2)), ("client9", (2, 0))] {
        connect(&mut world, 0, name, 0);
        assert_eq!(lane(&mut world), left, "{name}");
    }
    world.pass(1000);
    assert_eq!(texts(&mut world, subscriber), "6868");
    assert_eq!(lane(&mut world), (0, 0));
    world.shut_down();
}

#[test]
fn a_listener_without_rates_keeps_nothing_about_them() {
    let mut world = quiet(1);
    let client = connect(&mut world, 0, "client", 0);
    world.send(client, &messages(b'x', 10_000));
    assert_eq!(total(&world, Counter::PublishesReceived), 10_000);
    let connection = world.shard(0).connections.get(slot(client)).unwrap();
    assert!(!connection.is_paced() && connection.extras.is_none());
    assert!(world.now() < Time::from_millis(100));
}
