//! The longest turn of the machine while clients demand as much as they can. Each of these scenes once
//! stopped a shard for far longer, or ended it. A turn handles input as far as [`Shard::is_spent`] allows,
//! and calls [`Shard::handle_turn`]. It does not include the kernel's part, the sends.
//!
//! `cargo bench --bench turns` prints a table in processor time. Each scene runs three times and the best
//! result is shown, because other work of the machine can only make a turn longer. `-- --check` fails above
//! five milliseconds.

use midge::base::{ConnectionSlot, Time};
use midge::broker::{Effect, Shard, Shared};
use midge::settings::Config;
use midge::store::segment::LogName;
use midge::store::{Journal, Restored, Wall};
use midge_kit::codec::{frame, string};
use rustix::time::{ClockId, clock_gettime};
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

const LONGEST: Duration = Duration::from_millis(5);

/// The processor time of this thread.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

type Event = Box<dyn FnOnce(&mut Shard, Time)>;

/// A shard and its waiting input.
struct Host {
    shard: Shard,
    now: Time,
    arrived: VecDeque<(ConnectionSlot, Vec<u8>)>,
    paused: BTreeSet<ConnectionSlot>,
    durable: Option<u64>,
    next_slot: u32,
    /// An event that is handled in the next turn.
    event: Option<Event>,
    longest: Duration,
    turns: u64,
    encoded: usize,
}

impl Host {
    fn new() -> Host {
        let mut config = Config::default();
        config.sys.interval_seconds = 0;
        config.limits.backlog_bytes = 1 << 30;
        config.limits.connect_bytes_unnamed = config.limits.connect_bytes;
        let (shared, mut interests) = Shared::new(config, 1, 7);
        let mut shard = Shard::new(0, Arc::new(shared), interests.pop().expect("one shard"), 100);
        let now = Time::from_millis(1);
        shard.open_store(
            now,
            Journal::new(LogName { epoch: 1, shard: 0 }),
            Wall::default(),
            Restored::default(),
        );
        shard.handle_start(now);
        shard.handle_restored();
        Host {
            shard,
            now,
            arrived: VecDeque::new(),
            paused: BTreeSet::new(),
            durable: None,
            next_slot: 0,
            event: None,
            longest: Duration::ZERO,
            turns: 0,
            encoded: 0,
        }
    }

    fn connect(&mut self, connect: &[u8]) -> ConnectionSlot {
        let slot = ConnectionSlot::new(self.next_slot);
        self.next_slot += 1;
        self.shard.handle_open(self.now, slot, SocketAddr::from(([127, 0, 0, 1], 1)), 0, false);
        self.send(slot, connect.to_vec());
        slot
    }

    fn send(&mut self, slot: ConnectionSlot, bytes: Vec<u8>) {
        // A part is as large as a receive buffer, or as the bytes that had to be held.
        self.arrived.extend(bytes.chunks(256 << 10).map(|bytes| (slot, bytes.to_vec())));
    }

    /// Runs turns until nothing is left to do.
    fn settle(&mut self) {
        while self.turn() {}
    }

    fn turn(&mut self) -> bool {
        let began = processor_time();
        if let Some(event) = self.event.take() {
            event(&mut self.shard, self.now);
        }
        if let Some(last) = self.durable.take() {
            self.shard.handle_durable(self.now, last);
        }
        let mut held = VecDeque::new();
        while !self.shard.is_spent()
            && let Some((slot, bytes)) = self.arrived.pop_front()
        {
            if self.paused.contains(&slot) {
                held.push_back((slot, bytes));
            } else {
                self.shard.handle_bytes(self.now, slot, &bytes);
                self.carry_out();
            }
        }
        if self.shard.next_deadline().is_some_and(|deadline| deadline <= self.now) {
            self.shard.handle_time(self.now);
        }
        self.shard.handle_turn(self.now);
        self.longest = self.longest.max(processor_time() - began);
        self.turns += 1;
        self.encoded = self.encoded.max(self.shard.outbox().arena_bytes());
        held.append(&mut self.arrived);
        self.arrived = held;
        self.carry_out();
        self.shard.outbox().clear();
        self.durable = self.shard.take_batch().map(|batch| batch.last);
        self.now = Time::from_micros(self.now.as_micros() + 10);
        self.shard.has_deferred() || !self.arrived.is_empty() || self.durable.is_some()
    }

    fn carry_out(&mut self) {
        for effect in self.shard.take_effects() {
            match effect {
                Effect::Pause { slot } => drop(self.paused.insert(slot)),
                Effect::Resume { slot } => drop(self.paused.remove(&slot)),
                _ => {}
            }
        }
    }

    fn begin(&mut self) {
        self.settle();
        (self.longest, self.turns, self.encoded) = (Duration::ZERO, 0, 0);
    }
}

/// A CONNECT of 5.0.
fn connect(id: &str, flags: u8, properties: &[u8], rest: &[u8]) -> Vec<u8> {
    let len = [properties.len() as u8];
    let head = [b"\x00\x04MQTT\x05".as_slice(), &[flags, 0, 0], &len, properties].concat();
    frame(0x10, &[head, string(id), rest.to_vec()].concat())
}

const KEPT: &[u8] = b"\x11\x00\x00\x0E\x10";

fn subscribe(filters: impl IntoIterator<Item = String>, properties: &[u8], qos: u8) -> Vec<u8> {
    let mut body = [b"\x00\x01", properties].concat();
    for filter in filters {
        body.extend(string(&filter));
        body.push(qos);
    }
    frame(0x82, &body)
}

fn members(host: &mut Host, count: usize, filter: &str, kept: bool, properties: &[u8], qos: u8) {
    for at in 0..count {
        let slot = host.connect(&connect(&format!("m{at}"), 2, if kept { KEPT } else { b"" }, b""));
        host.send(slot, subscribe([filter.to_owned()], properties, qos));
    }
    host.settle();
}

fn publish(topic: &str, head: u8, payload: &[u8]) -> Vec<u8> {
    let id: &[u8] = if head & 6 == 0 { b"" } else { b"\x00\x01" };
    frame(head, &[string(topic).as_slice(), id, b"\x00", payload].concat())
}

fn alias_and_identifiers(host: &mut Host) {
    members(host, 150, "a/#", false, b"\x02\x0B\x01", 0);
    let publisher = host.connect(&connect("publisher", 2, b"", b""));
    let topic = format!("a/{}", "x".repeat(65_500));
    host.send(publisher, frame(0x30, &[string(&topic).as_slice(), b"\x03\x23\x00\x01"].concat()));
    host.begin();
    host.send(publisher, b"\x30\x06\x00\x00\x03\x23\x00\x01".repeat(64));
}

fn image(host: &mut Host, kept: bool, head: u8, qos: u8) {
    members(host, 2200, "firmware", kept, b"\x00", qos);
    let publisher = host.connect(&connect("publisher", 2, b"", b""));
    host.begin();
    host.send(publisher, publish("firmware", head, &vec![7; 1_990_000]));
}

fn kept_image(host: &mut Host) {
    image(host, true, 0x34, 2);
}

fn passing_image(host: &mut Host) {
    image(host, false, 0x32, 0);
}

fn wide_fan_out(host: &mut Host) {
    members(host, 100_000, "all", false, b"\x00", 0);
    let publisher = host.connect(&connect("publisher", 2, b"", b""));
    host.begin();
    host.send(publisher, publish("all", 0x30, b"hello").repeat(16));
}

fn wills(host: &mut Host) {
    members(host, 130, "gone/#", false, b"\x02\x0B\x01", 0);
    let mut dying = Vec::new();
    for at in 0..700 {
        let topic = format!("gone/{at}/{}", "x".repeat(60_000));
        let will = [b"\x05\x18\x00\x00\x00\x01".to_vec(), string(&topic), vec![0, 0]].concat();
        dying.push(host.connect(&connect(&format!("d{at}"), 6, KEPT, &will)));
    }
    host.settle();
    for slot in dying {
        host.shard.handle_hangup(host.now, slot, midge::broker::Hangup::Closed);
    }
    host.begin();
    host.now = host.now.after_millis(2000);
}

fn walks(host: &mut Host) {
    let publisher = host.connect(&connect("publisher", 2, b"", b""));
    for at in 0..200_000 {
        host.send(publisher, publish(&format!("r/{at}/x"), 0x31, b"1"));
    }
    let walkers: Vec<ConnectionSlot> =
        (0..1000).map(|at| host.connect(&connect(&format!("w{at}"), 2, b"", b""))).collect();
    host.begin();
    for walker in walkers {
        host.send(walker, subscribe(["+/+/nomatch".to_owned()], b"\x00", 0));
    }
    for _ in 0..5000 {
        host.turn();
    }
    // Otherwise they would walk for a minute.
    for slot in (0..host.next_slot).map(ConnectionSlot::new) {
        host.shard.handle_hangup(host.now, slot, midge::broker::Hangup::Closed);
    }
}

fn long_subscribe(host: &mut Host) {
    let client = host.connect(&connect("many", 2, b"", b""));
    host.begin();
    host.send(client, subscribe((0..32_768).map(|at| format!("{at}/+")), b"\x00", 0));
    host.settle();
    let mut body = b"\x00\x02\x00".to_vec();
    (0..32_768).for_each(|at| body.extend(string(format!("{at}/+"))));
    host.send(client, frame(0xA2, &body));
}

fn combinations(host: &mut Host) {
    let level = |bits: u32, at: u32| if bits >> at & 1 == 0 { "a" } else { "+" };
    let filter = |bits: u32| (0..17).map(|at| level(bits, at)).collect::<Vec<_>>().join("/");
    for client in 0..14_u32 {
        let slot = host.connect(&connect(&format!("c{client}"), 2, b"", b""));
        host.send(slot, subscribe((client * 9362..(client + 1) * 9362).map(filter), b"\x00", 0));
    }
    let publisher = host.connect(&connect("publisher", 2, b"", b""));
    host.begin();
    host.send(publisher, publish(&"a/".repeat(17)[..33], 0x30, b"x").repeat(100));
}

fn end_of_many_filters(host: &mut Host) {
    let client = host.connect(&connect("many", 2, b"", b""));
    host.send(client, subscribe((0..10_000).map(|at| format!("{at}/x")), b"\x00", 0));
    host.begin();
    host.event =
        Some(Box::new(move |shard, now| shard.handle_hangup(now, client, midge::broker::Hangup::Closed)));
}

fn farewell(host: &mut Host) {
    members(host, 20_000, "all", false, b"\x00", 0);
    host.begin();
    host.event = Some(Box::new(|shard, now| shard.handle_shutdown(now)));
}

/// The name, the scene, and the least number of bytes that one of its turns sends. A scene that did not
/// happen proves nothing.
type Scene = (&'static str, fn(&mut Host), usize);

const SCENES: &[Scene] = &[
    ("65 KB topic behind an alias, 64 times, 150 identifiers", alias_and_identifiers, 65_000),
    ("2 MB at QoS 2 to 2,200 kept sessions", kept_image, 1_900_000),
    ("2 MB at QoS 0 to 2,200 subscribers", passing_image, 1_900_000),
    ("16 messages to 100,000 subscribers", wide_fan_out, 100),
    ("700 wills of 60 KB in one tick, 130 identifiers", wills, 60_000),
    ("1,000 walks through 200,000 retained messages", walks, 100),
    ("SUBSCRIBE and UNSUBSCRIBE with 32,768 filters", long_subscribe, 32_768),
    ("100 messages through every combination of a and +", combinations, 7),
    ("a session with 10,000 filters ends", end_of_many_filters, 0),
    ("20,000 farewells", farewell, 2),
];

fn main() -> ExitCode {
    let checks = std::env::args().any(|argument| argument == "--check");
    let mut is_good = true;
    println!("{:56} {:>11} {:>8} {:>12}", "", "longest ms", "turns", "bytes at most");
    for (name, scene, bytes_min) in SCENES {
        let mut best: Option<(Duration, u64, usize)> = None;
        for _ in 0..3 {
            let mut host = Host::new();
            scene(&mut host);
            host.settle();
            let this = (host.longest, host.turns, host.encoded);
            best = Some(best.map_or(this, |best| best.min(this)));
        }
        let (longest, turns, encoded) = best.expect("it was played");
        assert!(encoded >= *bytes_min, "{name}: nothing happened");
        is_good &= longest <= LONGEST;
        println!("{name:56} {:>11.2} {turns:>8} {encoded:>12}", longest.as_secs_f64() * 1000.0);
    }
    if checks && !is_good {
        eprintln!("a turn took longer than {LONGEST:?}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
