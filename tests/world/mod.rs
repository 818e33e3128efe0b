//! The broker without a kernel: its shards, the boxes between them and their connections on a virtual clock, in
//! one thread. Unit tests and conformance scenarios drive it.

use midge::base::Time;
use midge::base::{ConnectionSlot, ShardId};
use midge::broker::{Effect, Event, Handover, Hangup, Mail, Shard, Shared};
use midge::policy::access::{Access, Login, Verdict};
use midge::settings::Config;
use midge::store::segment::{BLOCK, Header, LogName};
use midge::store::{Batch, Changes, ClockReading, Journal, MemoryBase, Restored, Wall};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

/// Time that goes by with whatever a client does: nothing happens at one and the same moment.
const STEP_MICROS: u64 = 10;

/// Shards and their connections.
pub struct World {
    pub shards: Vec<Shard>,
    /// What is on the way, by receiver and sender.
    boxes: Vec<Vec<VecDeque<ShardMessage>>>,
    /// Boxes that nothing comes out of, by receiver and sender.
    held: Vec<(usize, usize)>,
    /// A link's number is its slot too, on whichever shard it is.
    links: Vec<Link>,
    now: Time,
    /// By which listener the next clients come in.
    pub listener: u16,
    /// Logins to be checked: slot, serial, and what the client has said.
    pub logins: Vec<(ConnectionSlot, u32, Box<Login>)>,
    pub events: Vec<Event>,
    /// How long the refusal of a wrong login waits.
    pub penalty_millis: u64,
    /// Logins that were right.
    pub proofs: usize,
    /// The most bytes that were encoded between two flushes, and that were queued for connections.
    pub most_encoded: usize,
    pub most_queued: usize,
    config: Config,
    disk: Option<Disk>,
    /// The write that is under way, by shard: done with the next turn, unless the disk is stuck.
    writing: Vec<Option<u64>>,
    stuck: Vec<usize>,
    /// Of the next broker.
    stuck_at_start: Option<usize>,
}

/// When the first start of a broker was, milliseconds since 1970.
const BEGIN_MILLIS: u64 = 1_800_000_000_000;

/// What survives a power cut.
struct Disk {
    /// Of earlier starts.
    rows: MemoryBase,
    epoch: u64,
    wall: Wall,
    clocks: Clocks,
    /// The batches of each shard; the last may be under way.
    logs: Vec<Vec<Batch>>,
}

/// The clocks of the machine.
#[derive(Clone, Copy)]
struct Clocks {
    /// What time it is at the zero of the broker's clock, milliseconds since 1970.
    zero_millis: u64,
    /// By how much the wall clock is wrong.
    wrong_millis: i64,
    boot: u64,
    booted_at_millis: u64,
}

impl Clocks {
    fn reading(&self, now: Time) -> ClockReading {
        let millis = self.zero_millis + now.as_millis();
        ClockReading {
            wall_millis: millis.saturating_add_signed(self.wrong_millis),
            boot: self.boot,
            boot_millis: millis - self.booted_at_millis,
        }
    }
}

/// Of the homes of clients and topics.
const SEED: u64 = 7;

enum ShardMessage {
    Mail { from: ShardId, mail: Mail },
    Socket { link: usize, handover: Handover },
}

/// A connection as its client sees it.
struct Link {
    shard: ShardId,
    /// What the broker has sent and nobody has taken.
    received: Vec<u8>,
    /// The broker has closed it.
    closed: bool,
    /// Not read: the broker wants it so, or it is on its way to another shard.
    paused: bool,
    /// Sent while the broker did not read.
    unread: Vec<u8>,
    hangup: Option<Hangup>,
}

impl Link {
    fn of(shard: usize) -> Link {
        Link {
            shard: ShardId::try_from(shard).expect("at most 128 shards"),
            received: Vec::new(),
            closed: false,
            paused: false,
            unread: Vec::new(),
            hangup: None,
        }
    }
}

impl World {
    /// A broker that has started. Unless `persistence.directory` is empty, it keeps what must survive on its disk.
    pub fn new(shards: usize, config: Config) -> World {
        let disk = (!config.persistence.directory.is_empty()).then(|| Disk {
            rows: MemoryBase::default(),
            epoch: 1,
            wall: Wall { zero_millis: BEGIN_MILLIS },
            clocks: Clocks {
                zero_millis: BEGIN_MILLIS,
                wrong_millis: 0,
                boot: 1,
                booted_at_millis: BEGIN_MILLIS - 1000,
            },
            logs: Vec::new(),
        });
        World::start(shards, config, disk, Vec::new(), None)
    }

    /// Cuts the power: all is lost that no write has brought to the disk. After so much time another broker
    /// starts with the same disk.
    pub fn cut_power(self, shards: usize, down_millis: u64) -> World {
        self.start_again(shards, down_millis, 0, true)
    }

    /// The same. The new broker's log of one shard is stuck from its start on, see [`World::stick`].
    pub fn cut_power_and_stick(mut self, shards: usize, down_millis: u64, stuck: usize) -> World {
        self.stuck_at_start = Some(stuck);
        self.cut_power(shards, down_millis)
    }

    /// The same. While the broker is down the wall clock is set by so much; and the machine starts anew, or goes on.
    pub fn start_again(
        self,
        shards: usize,
        down_millis: u64,
        step_millis: i64,
        machine_starts: bool,
    ) -> World {
        let mut disk = self.disk.expect("there is a disk");
        let mut changes = Changes::new(&disk.rows).expect("rows in memory");
        let old_shards = u16::try_from(self.shards.len()).expect("at most 128 shards");
        for (shard, (batches, writing)) in (0..).zip(disk.logs.iter().zip(&self.writing)) {
            let written = batches.len() - usize::from(writing.is_some());
            let header = Header {
                epoch: disk.epoch,
                shard,
                shards: old_shards,
                number: 0,
                first_sequence: 1,
                seed: SEED,
            };
            let mut bytes = header.encode().to_vec();
            for batch in &batches[..written] {
                bytes.extend_from_slice(&batch.bytes);
                bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            }
            let replayed = changes.apply_segment(&disk.rows, &header, &bytes).expect("rows in memory");
            assert_eq!(replayed.gaps, []);
        }
        changes.resolve_intents(&disk.rows).expect("rows in memory");
        assert_eq!(changes.ignored(), 0, "records name what is there");
        let mut clocks = disk.clocks;
        clocks.zero_millis += self.now.as_millis() + down_millis;
        clocks.wrong_millis += step_millis;
        if machine_starts {
            (clocks.boot, clocks.booted_at_millis) =
                (clocks.boot + 1, clocks.zero_millis - 500.min(down_millis));
        }
        let wall = changes.log_clock(clocks.reading(Time::ZERO)).wall;
        let (parts, _) = changes.restore(&disk.rows, shards, SEED, wall).expect("rows in memory");
        disk.rows.commit(&mut changes);
        let disk = Disk { epoch: disk.epoch + 1, wall, clocks, logs: Vec::new(), ..disk };
        World::start(shards, self.config, Some(disk), parts, self.stuck_at_start)
    }

    /// The same at once, in place. The clock begins anew, and the connections of before are closed.
    pub fn restart(&mut self, shards: usize) {
        let nothing = World::start(1, Config::default(), None, Vec::new(), None);
        let old = std::mem::replace(self, nothing);
        let links = old.links.len();
        *self = old.cut_power(shards, 0);
        self.links.extend((0..links).map(|_| Link { closed: true, ..Link::of(0) }));
    }

    fn start(
        shards: usize,
        config: Config,
        disk: Option<Disk>,
        parts: Vec<Restored>,
        stuck: Option<usize>,
    ) -> World {
        let (shared, interests) = Shared::new(config.clone(), shards, SEED);
        let shared = Arc::new(shared);
        let machines = interests.into_iter().enumerate().map(|(id, interest)| {
            let id = ShardId::try_from(id).expect("at most 128 shards");
            Shard::new(id, Arc::clone(&shared), interest, 100 + u64::from(id))
        });
        let mut world = World {
            config,
            shards: machines.collect(),
            boxes: (0..shards).map(|_| (0..shards).map(|_| VecDeque::new()).collect()).collect(),
            held: Vec::new(),
            links: Vec::new(),
            now: Time::from_millis(1),
            listener: 0,
            logins: Vec::new(),
            events: Vec::new(),
            penalty_millis: 0,
            proofs: 0,
            most_encoded: 0,
            most_queued: 0,
            disk,
            writing: (0..shards).map(|_| None).collect(),
            stuck: Vec::from_iter(stuck),
            stuck_at_start: None,
        };
        let mut parts = parts.into_iter();
        for shard in &mut world.shards {
            if let Some(disk) = &mut world.disk {
                disk.logs.push(Vec::new());
                let journal = Journal::new(LogName { epoch: disk.epoch, shard: shard.id() });
                shard.open_store(world.now, journal, disk.wall, parts.next().unwrap_or_default());
                shard.handle_clock(world.now, disk.clocks.reading(world.now));
            }
            shard.handle_start(world.now);
        }
        world.run();
        assert!(world.shards.iter().all(|shard| !shard.is_restoring()), "every shard knows what is wanted");
        world.shards.iter_mut().for_each(Shard::handle_restored);
        while !world.shards.iter().all(Shard::is_settled) {
            world.run();
        }
        world.run();
        world
    }

    /// The wall clock is set.
    pub fn set_wall_clock(&mut self, step_millis: i64) {
        let clocks = &mut self.disk.as_mut().expect("without a disk it does not matter").clocks;
        clocks.wrong_millis += step_millis;
        let reading = clocks.reading(self.now);
        for shard in &mut self.shards {
            shard.handle_clock(self.now, reading);
        }
        self.run();
    }

    /// The clock, since the broker was made.
    pub fn now(&self) -> Time {
        self.now
    }

    /// A connection that `shard` accepts.
    pub fn open(&mut self, shard: usize) -> usize {
        let link = self.links.len();
        self.links.push(Link::of(shard));
        self.shards[shard].handle_open(self.now, slot(link), peer(), self.listener, false);
        self.run();
        link
    }

    /// The client sends; the broker reads it unless it has paused the connection.
    pub fn send(&mut self, link: usize, bytes: &[u8]) {
        self.now = later(self.now, STEP_MICROS);
        self.links[link].unread.extend_from_slice(bytes);
        self.read(link);
        self.run();
    }

    /// The client is gone, or will send no more.
    pub fn hang_up(&mut self, link: usize, hangup: Hangup) {
        self.links[link].hangup = Some(hangup);
        self.read(link);
        self.run();
    }

    /// What the broker has sent since the last look.
    pub fn take(&mut self, link: usize) -> Vec<u8> {
        std::mem::take(&mut self.links[link].received)
    }

    /// The broker has closed this connection.
    /// What the listeners ask of their clients from now on.
    pub fn ask(&mut self, access: &Access) {
        for shard in 0..self.shards.len() {
            self.shards[shard].handle_access([access.clone()].into());
            self.carry_out(shard);
        }
        self.run();
    }

    /// Answers the oldest login that is to be checked.
    pub fn answer(&mut self, verdict: Verdict) {
        let (slot, serial, _) = self.logins.remove(0);
        let shard = usize::from(self.links[slot.at()].shard);
        self.shards[shard].handle_verdict(self.now, slot, serial, verdict);
        self.carry_out(shard);
        self.run();
    }

    pub fn is_closed(&self, link: usize) -> bool {
        self.links[link].closed
    }

    /// Lets time go by until something arrives at this connection, or until `end`; true when something did.
    pub fn await_bytes(&mut self, link: usize, end: Time) -> bool {
        while self.links[link].received.is_empty() && !self.links[link].closed {
            if !self.advance(end) {
                return false;
            }
        }
        true
    }

    /// Lets so much time go by.
    pub fn pass(&mut self, millis: u64) {
        let end = self.now.after_millis(millis);
        while self.advance(end) {}
    }

    /// The broker is told to stop.
    pub fn shut_down(&mut self) {
        for shard in &mut self.shards {
            shard.handle_shutdown(self.now);
        }
        self.run();
    }

    /// To the next deadline of any shard, or to `end`; false once `end` is there.
    fn advance(&mut self, end: Time) -> bool {
        if self.now >= end {
            return false;
        }
        let next = self.shards.iter().filter_map(Shard::next_deadline).min().unwrap_or(end);
        self.now = next.max(later(self.now, 1)).min(end);
        for shard in &mut self.shards {
            if shard.next_deadline().is_some_and(|deadline| deadline <= self.now) {
                shard.handle_time(self.now);
            }
        }
        self.run();
        true
    }

    fn read(&mut self, at: usize) {
        let link = &mut self.links[at];
        if link.closed {
            return;
        }
        // A reset, and the end of a client of which nothing is unread, are told though it is paused.
        let is_told = match &link.hangup {
            Some(Hangup::Closed) => link.unread.is_empty(),
            Some(_) => true,
            None => false,
        };
        if link.paused && is_told {
            (link.paused, link.unread) = (false, Vec::new());
        }
        if link.paused {
            return;
        }
        let bytes = std::mem::take(&mut link.unread);
        let shard = usize::from(link.shard);
        if !bytes.is_empty() {
            self.shards[shard].handle_bytes(self.now, slot(at), &bytes);
            self.carry_out(shard);
        }
        let link = &mut self.links[at];
        if !link.paused
            && !link.closed
            && let Some(hangup) = link.hangup.take()
        {
            let shard = usize::from(link.shard);
            self.shards[shard].handle_hangup(self.now, slot(at), hangup);
            self.carry_out(shard);
        }
    }

    /// What `from` sends to `to` waits until `release`.
    pub fn hold(&mut self, from: usize, to: usize) {
        self.held.push((to, from));
    }

    /// How many mails and sockets are on their way.
    pub fn on_the_way(&self, from: usize, to: usize) -> usize {
        self.boxes[to][from].len()
    }

    /// What was held is there with the receiver's next turn.
    pub fn release(&mut self, from: usize, to: usize) {
        self.held.retain(|held| *held != (to, from));
    }

    /// No write of this shard's log comes to its end until `unstick`.
    pub fn stick(&mut self, shard: usize) {
        self.stuck.push(shard);
    }

    /// The disk is well again.
    pub fn unstick(&mut self, shard: usize) {
        self.stuck.retain(|&stuck| stuck != shard);
        self.run();
    }

    /// Turns of all shards until nothing is left to do.
    pub fn run(&mut self) {
        // A message may give work to a shard that has had its turn: idle means twice in a row.
        let mut idle = 0;
        while idle < 2 {
            idle += 1;
            for shard in 0..self.shards.len() {
                if self.turn(shard) {
                    idle = 0;
                }
            }
        }
    }

    /// One turn of one shard: all that is there for it, then what it had put off. True if there was anything.
    pub fn turn(&mut self, shard: usize) -> bool {
        let mut busy = false;
        if !self.stuck.contains(&shard)
            && let Some(last) = self.writing[shard].take()
        {
            busy = true;
            self.shards[shard].handle_durable(self.now, last);
            self.carry_out(shard);
        }
        for from in 0..self.shards.len() {
            if self.held.contains(&(shard, from)) {
                continue;
            }
            for _ in 0..self.boxes[shard][from].len() {
                if !self.shards[shard].takes_mails() {
                    break;
                }
                let Some(message) = self.boxes[shard][from].pop_front() else { break };
                busy = true;
                self.handle_message(shard, message);
            }
        }
        self.shards[shard].handle_turn(self.now);
        self.carry_out(shard);
        if self.writing[shard].is_none()
            && let Some(batch) = self.shards[shard].take_batch()
        {
            busy = true;
            self.writing[shard] = Some(batch.last);
            self.disk.as_mut().expect("a journal has a disk").logs[shard].push(batch);
        }
        busy || self.shards[shard].has_deferred()
    }

    fn handle_message(&mut self, shard: usize, message: ShardMessage) {
        match message {
            ShardMessage::Mail { from, mail } => self.shards[shard].handle_mail(self.now, from, mail),
            ShardMessage::Socket { link, handover } => {
                self.links[link].paused = false;
                self.shards[shard].handle_open(self.now, slot(link), handover.peer, handover.listener, true);
                self.shards[shard].handle_bytes(self.now, slot(link), &handover.bytes);
                self.carry_out(shard);
                self.read(link);
            }
        }
        self.carry_out(shard);
    }

    fn carry_out(&mut self, shard: usize) {
        let from = self.shards[shard].id();
        let outbox = self.shards[shard].outbox();
        let queued = outbox.touched().iter().map(|touched| touched.bytes as usize).sum();
        self.most_encoded = self.most_encoded.max(outbox.arena_bytes());
        self.most_queued = self.most_queued.max(queued);
        for touched in outbox.touched() {
            let link = &mut self.links[touched.slot.at()];
            assert!(link.shard == from && !link.closed, "bytes go to connections that are the shard's");
            for range in outbox.segments_of(touched) {
                link.received.extend_from_slice(outbox.bytes(range));
            }
        }
        outbox.clear();
        let mut failed = Vec::new();
        for effect in self.shards[shard].take_effects() {
            match effect {
                Effect::Close { slot } => self.own(from, slot).closed = true,
                Effect::HandOver { slot, to, handover } => {
                    let link = self.own(from, slot);
                    (link.shard, link.paused) = (to, true);
                    self.boxes[usize::from(to)][shard]
                        .push_back(ShardMessage::Socket { link: slot.at(), handover });
                }
                Effect::Mail { to, mail } => {
                    self.boxes[usize::from(to)][shard].push_back(ShardMessage::Mail { from, mail });
                }
                Effect::Forward(forward) => {
                    for (to, mail) in self.shards[shard].forward_now(*forward) {
                        self.boxes[usize::from(to)][shard].push_back(ShardMessage::Mail { from, mail });
                    }
                }
                Effect::Event(event) => self.events.push(event),
                Effect::Pause { slot } => self.own(from, slot).paused = true,
                Effect::Resume { slot } => {
                    self.own(from, slot).paused = false;
                    self.read(slot.at());
                }
                Effect::Stream { .. } => {}
                Effect::Check { slot, serial, login } => self.logins.push((slot, serial, login)),
                Effect::LoginFailed { slot, serial, .. } => failed.push((slot, serial)),
                Effect::LoginSucceeded { .. } => self.proofs += 1,
            }
        }
        for (slot, serial) in failed {
            self.shards[shard].handle_penalty(self.now, slot, serial, self.penalty_millis);
            self.carry_out(shard);
        }
    }

    fn own(&mut self, shard: ShardId, slot: ConnectionSlot) -> &mut Link {
        let link = &mut self.links[slot.at()];
        assert_eq!(link.shard, shard, "effects name connections of their shard");
        link
    }
}

fn later(time: Time, micros: u64) -> Time {
    Time::from_micros(time.as_micros() + micros)
}

pub fn slot(link: usize) -> ConnectionSlot {
    ConnectionSlot::new(u32::try_from(link).expect("slots are 32 bits"))
}

fn peer() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}
