//! What a client, or all of them, may hold: each bound with its answer, its counter and its log line.

use super::tests::connect;
use super::world::World;
use super::{Counter, Event, Hangup, Limit};
use crate::config::Config;

fn world(shards: usize, change: impl FnOnce(&mut Config)) -> World {
    let mut config = Config::default();
    config.sys.interval_seconds = 0;
    config.persistence.directory = String::new();
    change(&mut config);
    World::new(shards, config)
}

fn total(world: &World, counter: Counter) -> u64 {
    world.shards[0].shared.counters.iter().map(|counters| counters.get(counter)).sum()
}

/// How often a bound was told to the operator, with the client that it was about.
fn told(world: &World, wanted: Limit, client_id: &str) -> usize {
    let fits = |event: &&Event| matches!(event, Event::LimitReached { limit, client } if *limit == wanted && **client == *client_id);
    world.events.iter().filter(fits).count()
}

const CONNECT_5: &[u8] = b"\x10\x0E\x00\x04MQTT\x05\x02\x00\x3C\x00\x00\x01x";

#[test]
fn sessions_are_counted_over_all_shards() {
    for shards in [1, 2, 7] {
        let mut world = world(shards, |config| config.limits.sessions = 10);
        let clients: Vec<usize> =
            (0..10).map(|at| connect(&mut world, at % shards, &format!("client{at}"), 60)).collect();
        for round in 1..=2 {
            let late = world.open(0);
            world.send(late, CONNECT_5);
            assert_eq!(world.take(late), [0x20, 3, 0, 0x89, 0], "round {round} with {shards} shards");
            assert!(world.is_closed(late));
            assert_eq!(total(&world, Counter::LimitSessions), round);
            assert_eq!(told(&world, Limit::Sessions, "x"), round as usize);
        }
        // Who has a session needs no place, not even for a clean one.
        connect(&mut world, 0, "client3", 60);
        world.hang_up(clients[7], Hangup::Closed);
        let late = world.open(0);
        world.send(late, CONNECT_5);
        assert_eq!(world.take(late)[3], 0, "a place is free again");
    }
}
