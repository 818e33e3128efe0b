//! The broker is killed at random moments, again and again, and started with another number of shards. Its
//! clients check that it keeps what it has acknowledged.
//!
//! `MIDGE_KILLS` is the number of kills (100). `MIDGE_SEED` repeats a run, except for the moments of the
//! kills, which depend on the machine's progress.

mod clients;
mod ledger;
mod link;

use crate::running::Running;
use clients::{Publisher, Storm, Subscriber};
use ledger::Number;
use link::{Link, PATIENCE, broken};
use midge::base::Random;
use midge_kit::codec::{self, Kind, Packet};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// The broker between two kills, as a client knows it.
struct Round {
    address: SocketAddr,
    cycle: u32,
    /// Whether the clients must drop their connections. A killed broker does that for them.
    is_cut: AtomicBool,
}

impl Round {
    fn new(broker: &Running, cycle: u32) -> Round {
        Round { address: broker.address, cycle, is_cut: AtomicBool::new(false) }
    }

    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }
}

/// Everything except the broker.
struct World {
    seed: u64,
    random: Random,
    directory: PathBuf,
    publishers: Vec<Publisher>,
    /// The publisher of retained messages.
    keeper: Publisher,
    subscribers: Vec<Subscriber>,
    storm: Storm,
}

/// A fast machine queues more than a hundred thousand messages for offline clients. None of them may be
/// dropped.
const QUEUES: &str = "[limits]\nsession_queue_messages = 10000000\nsession_queue_bytes = 1073741824\n";

/// All queues are emptied after this many kills, and at the end.
const DRAIN_EVERY: u32 = 10;

#[test]
fn what_was_acknowledged_survives_every_kill() {
    let kills: u32 = number("MIDGE_KILLS").unwrap_or(100);
    let mut world = World::new("crash");
    for cycle in 0..=kills {
        let broker = world.start(cycle);
        let round = Round::new(&broker, cycle);
        world.check(&round, &broker, cycle == kills);
        if cycle < kills {
            world.load(&round, Some(broker), None);
        }
    }
    println!("seed {}, {kills} kills, {} messages", world.seed, world.messages());
    std::fs::remove_dir_all(&world.directory).expect("the test's own directory");
}

#[test]
fn what_was_acknowledged_survives_every_cut_connection() {
    let mut world = World::new("cuts");
    let broker =
        Running::start("cuts", &format!("[runtime]\nshards = 2\n[persistence]\ndirectory = \"\"\n{QUEUES}"));
    for cycle in 0..=CUTS {
        let round = Round::new(&broker, cycle);
        world.check(&round, &broker, cycle == CUTS);
        if cycle < CUTS {
            world.load(&round, None, Some(&broker));
        }
    }
}

fn number<N: std::str::FromStr>(variable: &str) -> Option<N> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// In one of this many rounds, offline clients return to their queues, and the kill comes while they read
/// them.
const ABSENT_BACK_EVERY: u32 = 4;

const CUTS: u32 = 15;

impl World {
    fn new(name: &str) -> World {
        let seed = number("MIDGE_SEED").unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            since.map_or(1, |since| since.as_nanos() as u64)
        });
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        World {
            seed,
            random: Random::new(seed),
            directory,
            publishers: vec![
                Publisher::new("one", 1, false, &["load/one"]),
                Publisher::new("one-b", 1, false, &["load/one-b", "load/one-c"]),
                Publisher::new("two", 2, false, &["load/two"]),
                Publisher::new("two-b", 2, false, &["load/two-b", "load/two-c"]),
            ],
            keeper: Publisher::new("keeper", 1, true, &["kept/a", "kept/b", "kept/c", "kept/d"]),
            subscribers: vec![
                Subscriber::new("all-one", &["load/#"], 1, false),
                Subscriber::new("all-two", &["load/#"], 2, false),
                Subscriber::new("exact", &["load/two", "load/one", "load/two-c"], 2, false),
                Subscriber::new("absent-one", &["load/#"], 1, true),
                Subscriber::new("absent-two", &["load/#"], 2, true),
            ],
            storm: Storm::new(),
        }
    }

    fn start(&mut self, cycle: u32) -> Running {
        let shards = cycle % 3 + 1;
        let rest = format!(
            "[runtime]\nshards = {shards}\n[persistence]\ndirectory = \"{}\"\nsegment_bytes = 1048576\n\
             {QUEUES}",
            self.directory.display(),
        );
        Running::start("crash", &rest)
    }

    fn messages(&self) -> Number {
        let publishers = self.publishers.iter().chain([&self.keeper]);
        publishers.flat_map(|publisher| publisher.outbox.sent.values()).sum()
    }

    /// Checks what the last kill has left.
    fn check(&mut self, round: &Round, broker: &Running, is_last: bool) {
        let mut faults = Vec::new();
        if round.cycle == 0 {
            note(&mut faults, "storm", self.storm.enter(round));
            for subscriber in &mut self.subscribers {
                let entered = subscriber.enter(round);
                note(&mut faults, &subscriber.name, entered);
            }
        }
        note(&mut faults, "retained", self.check_retained(round));
        note(&mut faults, "storm", self.storm.check(round));
        if faults.is_empty() && (is_last || round.cycle % DRAIN_EVERY == DRAIN_EVERY - 1) {
            faults.extend(self.drain(round));
        }
        self.tell(round, &faults, || broker.lines());
    }

    /// Loads the broker, and kills it or cuts the connections.
    fn load(&mut self, round: &Round, to_kill: Option<Running>, to_keep: Option<&Running>) {
        let life = Duration::from_millis(100 + self.random.below(200));
        let is_killed = &AtomicBool::new(false);
        let (faults, lines) = std::thread::scope(|scope| {
            let mut clients = Vec::new();
            for publisher in self.publishers.iter_mut().chain([&mut self.keeper]) {
                let random = Random::new(self.random.next_u64());
                let name = publisher.name.clone();
                clients.push((name, scope.spawn(move || told(is_killed, publisher.load(round, random)))));
            }
            for subscriber in self.subscribers.iter_mut() {
                if subscriber.is_absent && round.cycle % ABSENT_BACK_EVERY != ABSENT_BACK_EVERY - 1 {
                    continue;
                }
                let name = subscriber.name.clone();
                clients.push((name, scope.spawn(move || told(is_killed, subscriber.load(round)))));
            }
            let random = Random::new(self.random.next_u64());
            let storm = &mut self.storm;
            let storm = scope.spawn(move || told(is_killed, storm.load(round, random)));
            clients.push(("storm".to_owned(), storm));
            let until = Instant::now() + life;
            // A failure ends the load at once.
            while Instant::now() < until && clients.iter().all(|(_, client)| !client.is_finished()) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let lines = to_kill.as_ref().or(to_keep).map(Running::lines);
            if let Some(broker) = to_kill {
                is_killed.store(true, Ordering::SeqCst);
                // This sends SIGKILL.
                drop(broker);
            } else {
                round.is_cut.store(true, Ordering::Relaxed);
            }
            let mut faults = Vec::new();
            for (name, client) in clients {
                note(&mut faults, &name, client.join().expect("no client panics"));
            }
            (faults, lines)
        });
        self.tell(round, &faults, || lines.unwrap_or_default());
    }

    /// Empties all queues, and checks that nothing is missing.
    fn drain(&mut self, round: &Round) -> Vec<String> {
        let mut faults = Vec::new();
        for publisher in self.publishers.iter_mut().chain([&mut self.keeper]) {
            let finished = publisher.finish(round);
            note(&mut faults, &publisher.name, finished);
        }
        if !faults.is_empty() {
            return faults;
        }
        // Everything that was sent is acknowledged by now.
        let sent: BTreeMap<String, Number> =
            self.publishers.iter().flat_map(|publisher| publisher.outbox.sent.clone()).collect();
        let results: Vec<(String, io::Result<()>)> = std::thread::scope(|scope| {
            let clients: Vec<_> = self
                .subscribers
                .iter_mut()
                .map(|subscriber| {
                    let sent = &sent;
                    (subscriber.name.clone(), scope.spawn(move || subscriber.finish(round, sent)))
                })
                .collect();
            clients
                .into_iter()
                .map(|(name, client)| (name, client.join().expect("no client panics")))
                .collect()
        });
        for (name, result) in results {
            note(&mut faults, &name, result);
        }
        faults
    }

    /// Checks that each retained message is the last one acknowledged, or a later one. The last bytes of a
    /// cut connection may still wait in the kernel. The broker reads them later, and what they publish comes
    /// as live messages.
    fn check_retained(&self, round: &Round) -> io::Result<()> {
        let mut link = Link::visit(round.address, "looker")?;
        link.send(codec::subscribe(1).filter("kept/#", 1))?;
        let mut kept: BTreeMap<String, Number> = BTreeMap::new();
        let acknowledged = &self.keeper.outbox.acknowledged;
        let until = Instant::now() + PATIENCE;
        let mut is_granted = false;
        while !is_granted || acknowledged.keys().any(|topic| !kept.contains_key(topic)) {
            match link.receive(Duration::from_millis(50))? {
                None if Instant::now() > until => {
                    return Err(broken(format!("acknowledged {acknowledged:?}, came {kept:?}")));
                }
                None => {}
                Some(Packet { kind: Kind::Suback, id: 1, codes, .. }) if codes == [1] => is_granted = true,
                Some(packet) if packet.kind == Kind::Publish && packet.qos == 1 => {
                    link.send(codec::puback(packet.id))?;
                    let (topic, payload) = (packet.topic_text(), packet.payload);
                    let number = std::str::from_utf8(&payload).ok().and_then(|text| text.parse().ok());
                    let number: Number = number.ok_or_else(|| broken(format!("{payload:?} is retained")))?;
                    if let Some(before) = kept.insert(topic.clone(), number).filter(|&before| before > number)
                    {
                        return Err(broken(format!("{topic} {number} came after {before}")));
                    }
                }
                Some(other) => return Err(broken(format!("{other:?} came"))),
            }
        }
        for (topic, number) in &kept {
            let last = acknowledged.get(topic).copied().unwrap_or(0);
            let sent = self.keeper.outbox.sent.get(topic).copied().unwrap_or(0);
            if !(last..=sent).contains(number) {
                return Err(broken(format!("{topic} is {number}; acknowledged {last}, sent {sent}")));
            }
        }
        Ok(())
    }

    fn tell(&self, round: &Round, faults: &[String], lines: impl FnOnce() -> Vec<String>) {
        assert!(faults.is_empty(), "{}", self.story(round, faults, &lines()));
    }

    fn story(&self, round: &Round, faults: &[String], lines: &[String]) -> String {
        let mut story = format!(
            "seed {} (MIDGE_SEED), cycle {} (of MIDGE_KILLS), {} shards, directory {}\n",
            self.seed,
            round.cycle,
            round.cycle % 3 + 1,
            self.directory.display()
        );
        for fault in faults {
            story += &format!("BROKEN: {fault}\n");
        }
        for publisher in self.publishers.iter().chain([&self.keeper]) {
            let outbox = &publisher.outbox;
            story += &format!(
                "{}: sent {:?}, acknowledged {:?}, on their way {:?}\n",
                publisher.name, outbox.sent, outbox.acknowledged, outbox.flights
            );
        }
        story += &format!("{:?}\nthe broker said:\n{}\n", self.storm, lines.join("\n"));
        story
    }
}

fn note(faults: &mut Vec<String>, name: &str, result: io::Result<()>) {
    if let Err(fault) = result {
        faults.push(format!("{name}: {fault}"));
    }
}

/// Ignores an end of the connection that came after the kill. A broken promise is never ignored.
fn told(is_killed: &AtomicBool, result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != ErrorKind::InvalidData && is_killed.load(Ordering::SeqCst) => Ok(()),
        other => other,
    }
}
