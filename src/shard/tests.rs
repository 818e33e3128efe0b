//! The machine without a kernel: a few shards, a virtual clock, connections that are byte strings.

use super::{Effect, Event, Hangup, Mail, Shard, ShardId, Shared};
use crate::config::Config;
use crate::time::Time;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

/// Shards and their connections. Slot numbers count up; mails keep their order.
struct World {
    shards: Vec<Shard>,
    mails: VecDeque<(ShardId, ShardId, Mail)>,
    /// Shard, slot and what was sent, by connection.
    clients: Vec<Client>,
    now: Time,
    events: Vec<Event>,
}

#[derive(Default)]
struct Client {
    shard: usize,
    slot: u32,
    received: Vec<u8>,
    closed: bool,
}

impl World {
    fn new(shards: usize, config: Config) -> World {
        let (shared, interests) = Shared::new(config, shards, 7);
        let shared = Arc::new(shared);
        let shards = interests.into_iter().enumerate().map(|(id, interest)| {
            Shard::new(u16::try_from(id).unwrap(), Arc::clone(&shared), interest, 100 + id as u64)
        });
        let mut world = World {
            shards: shards.collect(),
            mails: VecDeque::new(),
            clients: Vec::new(),
            now: Time::from_millis(1),
            events: Vec::new(),
        };
        for shard in 0..world.shards.len() {
            world.shards[shard].handle_start(world.now);
        }
        world.run();
        world
    }

    fn quiet() -> Config {
        let mut config = Config::default();
        config.sys.interval_seconds = 0;
        config
    }

    fn peer() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }

    /// A connection that is accepted by `shard`, and its CONNECT (3.1.1, clean session).
    fn connect(&mut self, shard: usize, client_id: &str, keep_alive: u8) -> usize {
        let client = self.clients.len();
        let slot = u32::try_from(client).unwrap();
        self.clients.push(Client { shard, slot, ..Client::default() });
        self.shards[shard].handle_open(self.now, slot, World::peer(), false);
        let mut packet = vec![0x10, 12 + u8::try_from(client_id.len()).unwrap(), 0, 4];
        packet.extend_from_slice(b"MQTT\x04\x02\x00");
        packet.extend_from_slice(&[keep_alive, 0, u8::try_from(client_id.len()).unwrap()]);
        packet.extend_from_slice(client_id.as_bytes());
        self.send(client, &packet);
        assert_eq!(self.take(client), [0x20, 2, 0, 0], "{client_id} is in");
        client
    }

    fn send(&mut self, client: usize, bytes: &[u8]) {
        let Client { shard, slot, .. } = self.clients[client];
        self.shards[shard].handle_bytes(self.now, slot, bytes);
        self.run();
    }

    fn take(&mut self, client: usize) -> Vec<u8> {
        std::mem::take(&mut self.clients[client].received)
    }

    fn pass(&mut self, millis: u64) {
        self.now = self.now.after_millis(millis);
        for shard in 0..self.shards.len() {
            self.shards[shard].handle_time(self.now);
        }
        self.run();
    }

    /// Until nothing is left to do.
    fn run(&mut self) {
        // A hand-over may give work to a shard that has had its turn: idle means twice in a row.
        let mut idle = false;
        loop {
            for shard in 0..self.shards.len() {
                self.shards[shard].handle_turn(self.now);
                self.carry_out(shard);
            }
            if let Some((from, to, mail)) = self.mails.pop_front() {
                self.shards[usize::from(to)].handle_mail(self.now, from, mail);
                idle = false;
            } else if !self.shards.iter().any(Shard::has_deferred) && std::mem::replace(&mut idle, true) {
                return;
            }
        }
    }

    fn carry_out(&mut self, shard: usize) {
        for client in self.clients.iter_mut().filter(|client| client.shard == shard && !client.closed) {
            let outbox = self.shards[shard].outbox();
            if let Some(touched) = outbox.touched_of(client.slot) {
                for range in outbox.segments_of(touched) {
                    client.received.extend_from_slice(outbox.bytes(range));
                }
            }
        }
        self.shards[shard].outbox().clear();
        let from = self.shards[shard].id();
        for effect in self.shards[shard].take_effects() {
            match effect {
                Effect::Close { slot } => self.client(shard, slot).closed = true,
                Effect::HandOver { slot, to, peer, bytes } => {
                    let client = self.client(shard, slot);
                    client.shard = usize::from(to);
                    let home = &mut self.shards[usize::from(to)];
                    home.handle_open(self.now, slot, peer, true);
                    home.handle_bytes(self.now, slot, &bytes);
                }
                Effect::Mail { to, mail } => self.mails.push_back((from, to, mail)),
                Effect::Forward { message, home } => {
                    let targets =
                        self.shards[shard].interested(message.as_publication().topic) & !(1 << home);
                    for to in super::publish::shards_of(targets) {
                        self.mails.push_back((from, to, Mail::Publish(message.clone())));
                    }
                }
                Effect::Event(event) => self.events.push(event),
                Effect::Stream { .. } | Effect::Pause { .. } | Effect::Resume { .. } => {}
            }
        }
    }

    fn client(&mut self, shard: usize, slot: u32) -> &mut Client {
        let found = self.clients.iter_mut().find(|client| client.shard == shard && client.slot == slot);
        found.expect("effects name connections of their shard")
    }
}

const SUBSCRIBE_ANY: &[u8] = b"\x82\x08\x00\x01\x00\x03a/+\x01";
const SUBSCRIBE_AB: &[u8] = b"\x82\x08\x00\x01\x00\x03a/b\x01";
const PUBLISH_AB: &[u8] = b"\x32\x09\x00\x03a/b\x00\x07hi";
const DELIVERED_AB: &[u8] = b"\x32\x09\x00\x03a/b\x00\x01hi";

#[test]
fn publish_reaches_exact_and_wildcard_subscribers_on_every_shard_once() {
    for shards in [1, 2, 7] {
        let mut world = World::new(shards, World::quiet());
        let subscribers: Vec<usize> =
            (0..20).map(|at| world.connect(at % shards, &format!("sub{at}"), 60)).collect();
        for (at, &client) in subscribers.iter().enumerate() {
            world.send(client, if at % 2 == 0 { SUBSCRIBE_ANY } else { SUBSCRIBE_AB });
            assert_eq!(world.take(client), [0x90, 3, 0, 1, 1]);
        }
        let publisher = world.connect(0, "publisher", 60);
        world.send(publisher, PUBLISH_AB);
        assert_eq!(world.take(publisher), [0x40, 2, 0, 7]);
        for &client in &subscribers {
            assert_eq!(world.take(client), DELIVERED_AB, "{shards} shards");
        }
    }
}

#[test]
fn retained_message_is_found_by_late_subscribers_of_every_shard() {
    for shards in [1, 2, 7] {
        let mut world = World::new(shards, World::quiet());
        let publisher = world.connect(0, "publisher", 60);
        world.send(publisher, b"\x31\x07\x00\x03a/bhi");
        for at in 0..10 {
            let client = world.connect(at % shards, &format!("late{at}"), 60);
            world.send(client, if at % 2 == 0 { SUBSCRIBE_ANY } else { SUBSCRIBE_AB });
            assert_eq!(world.take(client), b"\x90\x03\x00\x01\x01\x31\x07\x00\x03a/bhi", "{shards} shards");
        }
    }
}

#[test]
fn silent_client_is_cut_at_one_and_a_half_keep_alives() {
    // [MQTT311-3.1.2-24]
    let mut world = World::new(1, World::quiet());
    let client = world.connect(0, "silent", 2);
    world.pass(2900);
    assert!(!world.clients[client].closed);
    world.pass(200);
    assert!(world.clients[client].closed);
}

#[test]
fn what_does_not_begin_with_connect_is_closed_at_its_first_byte() {
    // [MQTT5-3.1.0-1]
    for first in [b"G".as_slice(), b"\x16\x03\x01\x02\x00\x01", b"\xc0"] {
        let mut world = World::new(1, World::quiet());
        world.clients.push(Client::default());
        world.shards[0].handle_open(world.now, 0, World::peer(), false);
        world.send(0, first);
        assert!(world.clients[0].closed && world.take(0).is_empty());
    }
}

#[test]
fn bytes_may_come_one_at_a_time() {
    // [MQTT5-4.2.0-1]
    let mut world = World::new(2, World::quiet());
    let client = world.connect(1, "drip", 60);
    for byte in SUBSCRIBE_AB.iter().chain(PUBLISH_AB) {
        world.send(client, &[*byte]);
    }
    assert_eq!(
        world.take(client),
        [b"\x90\x03\x00\x01\x01".as_slice(), DELIVERED_AB, b"\x40\x02\x00\x07"].concat()
    );
}

#[test]
fn everything_is_given_back_when_the_last_client_has_gone() {
    let mut world = World::new(2, World::quiet());
    for at in 0..10 {
        let client = world.connect(at % 2, &format!("guest{at}"), 60);
        world.send(client, if at % 2 == 0 { SUBSCRIBE_ANY } else { SUBSCRIBE_AB });
        world.send(client, b"\x82\x11\x00\x02\x00\x0c$share/g/a/b\x01");
        let Client { shard, slot, .. } = world.clients[client];
        world.shards[shard].handle_hangup(world.now, slot, Hangup::Reset);
        world.run();
        assert!(world.clients[client].closed);
    }
    for shard in &mut world.shards {
        assert_eq!(shard.connections(), 0);
        assert_eq!(shard.directory.len(), 0);
        assert!(
            shard.subscriptions.is_empty() && shard.foreign_wildcards.is_empty() && shard.groups.is_empty()
        );
        assert!(shard.pending.is_empty() && shard.wheel.is_empty());
        assert_eq!(shard.interested("a/b"), 0, "no bit is left behind");
        shard.give_memory_back();
        assert_eq!((shard.connections.capacity(), shard.deferred.capacity()), (0, 0));
    }
}
