//! The cost of one operation at 1, 10 and 100 times the size of what a client has accumulated. Each case must
//! stay flat, or nearly so. There is a group for each case, named after what grows.

#![allow(clippy::disallowed_methods, reason = "a bench reads clocks")]

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use midge::base::Random;
use midge::base::ShardId;
use midge::base::Time;
use midge::base::{ConnectionSlot, MemoryAccount, RequestToken};
use midge::broker::{Shard, Shared};
use midge::mqtt::codec::AckKind;
use midge::mqtt::{PacketId, QoS};
use midge::policy::access::Access;
use midge::policy::acl::{Acl, Actions, Rule, RuleEffect, Subscribing, Who};
use midge::session::KeptMessage;
use midge::session::Publication;
use midge::session::{AckOutcome, Delivery, InflightWindow, Replay, Replays, Session};
use midge::settings::Config;
use midge::store::segment::LogName;
use midge::store::{Journal, Restored, Wall};
use midge_kit::codec::{self, Encode, V311};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NOW: Time = Time::from_millis(5);

fn sizes<'a>(
    c: &'a mut Criterion,
    name: &str,
    sizes: [usize; 3],
    mut case: impl FnMut(&mut BenchmarkGroup<'a, WallTime>, usize),
) {
    let mut group = c.benchmark_group(name);
    for size in sizes {
        case(&mut group, size);
    }
    group.finish();
}

// Messages in flight.

fn delivery(message: &Rc<KeptMessage>) -> Delivery {
    Delivery { message: Rc::clone(message), qos: QoS::AtLeastOnce, retain: false, number: None, extra: None }
}

fn message() -> Rc<KeptMessage> {
    let publication = Publication {
        topic: "site/00001/state",
        forward: [&[]; 3],
        payload: &[b'p'; 64],
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: None,
        origin: None,
        stamp: None,
        source: &[],
    };
    KeptMessage::new(publication.to_message(), &MemoryAccount::default())
}

/// A window with `size` messages in flight, whose identifiers have wrapped around.
fn window(size: usize) -> (InflightWindow, Vec<PacketId>) {
    let message = message();
    let mut window = InflightWindow::default();
    window.reconnect(u16::MAX);
    (0..u16::MAX / 2).for_each(|_| window.pass_id());
    let mut ids: Vec<PacketId> = (0..size).map(|_| window.start(delivery(&message))).collect();
    // The second identifier is used again, one whole round later.
    let settled = ids.remove(1);
    window.handle_ack(AckKind::Puback, settled, false);
    (0..usize::from(u16::MAX) - size).for_each(|_| window.pass_id());
    ids.push(window.start(delivery(&message)));
    (window, ids)
}

fn inflight(c: &mut Criterion) {
    sizes(c, "in flight/acknowledged at random and sent", [650, 6_500, 65_000], |group, size| {
        let message = message();
        let (mut window, mut ids) = window(size);
        let mut random = Random::new(1);
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                let at = random.index(ids.len());
                let outcome = window.handle_ack(AckKind::Puback, ids[at], false);
                assert!(matches!(outcome, AckOutcome::Settled(_)));
                ids[at] = window.start(delivery(&message));
            });
        });
    });
    sizes(c, "in flight/sent again", [650, 6_500, 65_000], |group, size| {
        let (mut window, _) = window(size);
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                let mut left = times;
                while left > 0 {
                    window.reconnect(u16::MAX);
                    let began = Instant::now();
                    let some = left.min(size as u64);
                    (0..some).for_each(|_| assert!(window.next_resend().is_some()));
                    spent += began.elapsed();
                    left -= some;
                }
                spent
            });
        });
    });
    sizes(c, "in flight/an identifier passed over", [650, 6_500, 65_000], |group, size| {
        let (mut window, _) = window(size);
        group.bench_function(BenchmarkId::from_parameter(size), |b| b.iter(|| window.pass_id()));
    });
}

// Parts of one session.

fn held(c: &mut Criterion) {
    sizes(c, "QoS 2 held/a repeat", [650, 6_500, 65_000], |group, size| {
        let mut session = Session::new("hoarder".into());
        let last = u16::try_from(size).expect("identifiers");
        (1..=last).for_each(|id| session.hold(id, 64, None));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| (session.holds(last), session.held_ticket(last), session.note_repeat(last, 64)));
        });
    });
    sizes(c, "QoS 2 held/released and held", [650, 6_500, 65_000], |group, size| {
        let mut session = Session::new("hoarder".into());
        let last = u16::try_from(size).expect("identifiers");
        (1..=last).for_each(|id| session.hold(id, 64, None));
        let mut id = 0;
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                id = id % last + 1;
                assert!(session.release(id).is_some());
                session.hold(id, 64, None);
            });
        });
    });
}

/// A filter. The order of the filters differs from that of their numbers.
fn filter(number: usize) -> String {
    format!("device/{:08x}/state", (number as u32).wrapping_mul(0x9E37_79B1))
}

fn filters(c: &mut Criterion) {
    sizes(c, "filters of a session/one removed and added", [1_000, 10_000, 100_000], |group, size| {
        let mut session = Session::new("greedy".into());
        (0..size).for_each(|number| assert!(session.add_subscription(&filter(number))));
        let mut number = 0;
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                number = (number + 1) % size;
                assert!(session.remove_subscription(&filter(number)));
                assert!(session.add_subscription(&filter(number)));
            });
        });
    });
    sizes(c, "replays of a session/one begun anew", [100, 1_000, 10_000], |group, size| {
        let replay = |token: u64, number: usize| Replay {
            token: RequestToken::new(token),
            filter: filter(number).into(),
            qos: QoS::AtMostOnce,
            subscription_id: None,
            hides_own_after: None,
            shards: VecDeque::new(),
            cursor: None,
            held_by: Some(RequestToken::new(token - 1)),
            waiting: false,
            ready: VecDeque::new(),
            for_log: 0,
        };
        let mut replays = Replays::default();
        (0..size).for_each(|number| replays.push(replay(2 * number as u64 + 2, number)));
        let mut number = 0;
        let mut token = 2 * size as u64 + 2;
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                number = (number + 7919) % size;
                replays.drop_filter(&filter(number));
                replays.push(replay(token, number));
                assert!(replays.start(RequestToken::new(token - 1)));
                token += 2;
            });
        });
    });
}

// Parts of a shard.

fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    codec::subscribe(1).filter(filter, qos).encode(V311)
}

fn publish(topic: &str, id: u16) -> Vec<u8> {
    codec::publish(topic, "payload").qos1(id).encode(V311)
}

/// Shards that send each other mails, with clients on the first and the last of them.
struct World {
    shards: Vec<Shard>,
    slots: u32,
    /// Whether mails between shards are delivered.
    carries: bool,
    waiting: Vec<(usize, ShardId, midge::broker::Mail)>,
}

impl World {
    fn new(shards: usize, change: impl FnOnce(&mut Config)) -> World {
        let mut config = Config::default();
        config.sys.interval_seconds = 0;
        config.limits.handshakes = 1_000_000;
        change(&mut config);
        let (shared, interests) = Shared::new(config, shards, 7);
        let shared = Arc::new(shared);
        let machine = |(id, interest)| {
            let mut shard = Shard::new(id, Arc::clone(&shared), interest, 100 + u64::from(id));
            shard.handle_start(NOW);
            shard
        };
        let shards = (0..).zip(interests).map(machine).collect();
        World { shards, slots: 0, carries: true, waiting: Vec::new() }
    }

    /// A client of 3.1.1; `flags` 2: with clean session. It stays on this shard, wherever its identifier has
    /// its home.
    fn connect(&mut self, shard: usize, id: &str, flags: u8) -> ConnectionSlot {
        let slot = ConnectionSlot::new(self.slots);
        self.slots += 1;
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        self.shards[shard].handle_open(NOW, slot, peer, 0, true);
        self.send(shard, slot, &codec::connect(V311, id).flags(flags).encode(V311));
        slot
    }

    fn send(&mut self, shard: usize, slot: ConnectionSlot, bytes: &[u8]) {
        self.shards[shard].handle_bytes(NOW, slot, bytes);
        self.run();
    }

    fn run(&mut self) {
        loop {
            for at in 0..self.shards.len() {
                let shard = &mut self.shards[at];
                shard.handle_turn(NOW);
                shard.outbox().clear();
                while let Some((to, mail)) = shard.next_mail(|_| true) {
                    self.waiting.push((usize::from(to), at as ShardId, mail));
                }
                shard.take_effects();
            }
            if self.waiting.is_empty() || !self.carries {
                return;
            }
            for (to, from, mail) in std::mem::take(&mut self.waiting) {
                self.shards[to].handle_mail(NOW, from, mail);
            }
        }
    }
}

fn owed(c: &mut Criterion) {
    sizes(c, "answers owed/one whose ticket is complete", [70, 700, 7_000], |group, size| {
        let mut world = World::new(2, |_| {});
        let subscriber = world.connect(1, "subscriber", 2);
        world.send(1, subscriber, &subscribe("t", 0));
        let publisher = world.connect(0, "publisher", 2);
        let bytes: Vec<u8> = (1..=size as u16).flat_map(|id| publish("t", id)).collect();
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times.div_ceil(size as u64) {
                    world.carries = false;
                    world.send(0, publisher, &bytes);
                    world.carries = true;
                    let mails = std::mem::take(&mut world.waiting);
                    for (to, from, mail) in mails {
                        world.shards[to].handle_mail(NOW, from, mail);
                    }
                    world.carries = false;
                    world.run();
                    // All receipts come in one mail.
                    let receipts = std::mem::take(&mut world.waiting);
                    world.carries = true;
                    let began = Instant::now();
                    for (to, from, mail) in receipts {
                        world.shards[to].handle_mail(NOW, from, mail);
                    }
                    spent += began.elapsed();
                    world.run();
                }
                spent.mul_f64(times as f64 / (times.div_ceil(size as u64) * size as u64) as f64)
            });
        });
    });
}

fn groups(c: &mut Criterion) {
    let group_of = |size: usize| {
        let mut world = World::new(1, |config| config.limits.session_queue_messages = 1);
        for at in 0..size {
            let slot = world.connect(0, &format!("away{at}"), 0);
            world.send(0, slot, &subscribe("$share/g/t", 1));
            world.shards[0].handle_hangup(NOW, slot, midge::broker::Hangup::Closed);
            world.run();
        }
        world
    };
    sizes(
        c,
        "members of a group/a message for the only one who is there",
        [200, 2_000, 20_000],
        |group, size| {
            let mut world = group_of(size);
            let member = world.connect(0, "here", 2);
            world.send(0, member, &subscribe("$share/g/t", 0));
            let publisher = world.connect(0, "publisher", 2);
            let bytes = publish("t", 1);
            group.bench_function(BenchmarkId::from_parameter(size), |b| {
                b.iter(|| world.send(0, publisher, &bytes));
            });
        },
    );
    sizes(
        c,
        "members of a group/a message for members with full queues",
        [200, 2_000, 20_000],
        |group, size| {
            let mut world = group_of(size);
            let publisher = world.connect(0, "publisher", 2);
            let bytes = codec::publish("t", "payload").encode(V311);
            let fill = publish("t", 1);
            (0..size).for_each(|_| world.send(0, publisher, &fill));
            group.bench_function(BenchmarkId::from_parameter(size), |b| {
                b.iter(|| world.send(0, publisher, &bytes));
            });
        },
    );
    sizes(c, "members of a group/one leaves and joins", [200, 2_000, 20_000], |group, size| {
        let mut world = group_of(size);
        let member = world.connect(0, "here", 2);
        let (join, leave) =
            (subscribe("$share/g/t", 1), codec::unsubscribe(1).filter("$share/g/t").encode(V311));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                world.send(0, member, &join);
                world.send(0, member, &leave);
            });
        });
    });
}

fn judging(c: &mut Criterion) {
    let access = || {
        let rule = Rule {
            who: Who::Everyone,
            clients: Vec::new(),
            effect: RuleEffect::Allow,
            actions: Actions::ALL,
            topics: vec!["device/#".to_owned()],
        };
        let acl = Acl::new(RuleEffect::Deny, Subscribing::Filtered, &[rule]).expect("a good rule");
        Arc::<[Access]>::from([Access { acl: Some(acl), ..Access::default() }])
    };
    sizes(
        c,
        "filters of a client/the longest turn after new rules",
        [1_000, 10_000, 100_000],
        |group, size| {
            let mut world = World::new(1, |config| config.limits.subscriptions_per_client = 1_000_000);
            let client = world.connect(0, "greedy", 2);
            (0..size).for_each(|number| world.send(0, client, &subscribe(&filter(number), 0)));
            group.bench_function(BenchmarkId::from_parameter(size), |b| {
                b.iter_custom(|times| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..times {
                        world.shards[0].handle_access(access());
                        let mut longest = Duration::ZERO;
                        while world.shards[0].has_deferred() {
                            let began = Instant::now();
                            world.shards[0].handle_turn(NOW);
                            longest = longest.max(began.elapsed());
                        }
                        spent += longest;
                    }
                    spent
                });
            });
        },
    );
}

fn ends(c: &mut Criterion) {
    sizes(c, "ends of sessions not on disk/a client comes", [600, 6_000, 60_000], |group, size| {
        let setup = || {
            let mut world = World::new(1, |config| config.limits.sessions = 1_000_000);
            let name = LogName { epoch: 1, shard: 0 };
            world.shards[0].open_store(NOW, Journal::new(name), Wall::default(), Restored::default());
            for at in 0..size {
                let slot = world.connect(0, &format!("kept{at}"), 0);
                world.shards[0].handle_hangup(NOW, slot, midge::broker::Hangup::Closed);
                // A client with clean session ends the session.
                let slot = world.connect(0, &format!("kept{at}"), 2);
                world.shards[0].handle_hangup(NOW, slot, midge::broker::Hangup::Closed);
                world.run();
            }
            world
        };
        let mut world = setup();
        let mut at = 0;
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter_batched(
                || {
                    at += 1;
                    format!("new{at}")
                },
                |id| {
                    let slot = world.connect(0, &id, 2);
                    world.shards[0].handle_hangup(NOW, slot, midge::broker::Hangup::Closed);
                    world.run();
                },
                BatchSize::SmallInput,
            );
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(300));
    targets = inflight, held, filters, owed, groups, judging, ends
}
criterion_main!(benches);
