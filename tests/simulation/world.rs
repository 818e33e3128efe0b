//! The broker on a virtual clock, with a kernel, a network and a mesh that do as the seed says.
//!
//! Each shard takes turns as the real runner does: what was ready when the turn began, the mails of each box,
//! the clock, what was put off, the flush. Between any two effects it may lose its core for a while; what it
//! had put into boxes by then is seen by the others, and the rest is not.

use crate::clocks::{self, Clocks};
use crate::disk::{Disk, Torn};
use crate::link::Link;
use crate::random::{self, Random};
use midge::base::Time;
use midge::base::{ConnectionSlot, ShardId};
use midge::broker::{Counter, Effect, EndCause, Event, Hangup, Mail, Shard, Shared, TurnBudget};
use midge::settings::Config;
use midge::store::segment::{Header, LogName};
use midge::store::{Journal, Restored, Wall};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

/// What the outside learns.
pub enum Happening {
    /// Bytes have reached the client.
    Received { link: usize, bytes: Vec<u8> },
    /// The client learns that its connection is over.
    Ended { link: usize },
    /// The broker has sent these bytes, wherever they get to.
    Sent { link: usize, bytes: Vec<u8> },
    /// The broker has read so many bytes in all. `whole`: the connection has lived through them.
    Consumed { link: usize, upto: u64, whole: bool },
    /// The broker has ended this connection, whose client was in.
    Left { link: usize, cause: EndCause },
    /// The broker has no such connection any more.
    Closed { link: usize },
    /// What the broker tells its operator.
    Told(Event),
    /// A time that somebody has asked for.
    Woken(Wake),
    /// A box was full.
    BoxFull,
    /// All that found a box full is in it by now.
    BoxesHaveRoom,
    /// A socket was handed over to another shard; `cut`: or would have been, had its client not gone.
    HandOver { cut: bool },
}

/// Who wants to be woken.
#[derive(Debug)]
pub enum Wake {
    /// The plan.
    Action(usize),
    /// A client that sends something after having thought about it, if it still has this connection.
    Send { client: usize, link: usize, bytes: Vec<u8>, ack: Option<Acked> },
    /// A client that keeps its connection alive.
    Ping { client: usize, link: usize },
    /// A client that comes back.
    Return { client: usize },
    /// The power goes.
    PowerOff { down: u64, shards: usize },
    /// And is back.
    PowerOn { shards: usize },
    /// A disk that was full is so no more.
    DiskHasRoom { shard: usize },
}

/// An acknowledgement as the client's books have it.
#[derive(Clone, Copy, Debug)]
pub struct Acked {
    pub kind: u8,
    pub id: u16,
}

pub enum Due {
    Written { shard: usize, run: u32 },
    Turn { shard: usize, run: u32 },
    UpArrives { link: usize, bytes: Vec<u8> },
    UpEnds { link: usize, hangup: Hangup },
    DownArrives { link: usize },
    DownEnds { link: usize },
    Wake(Wake),
}

pub enum ShardMessage {
    Mail(Mail),
    Socket { link: usize, bytes: Vec<u8> },
}

pub enum Ready {
    Accept(usize),
    Read(usize),
    Backlogged(usize),
    Drained(usize),
    Durable(u64),
}

pub enum Job {
    Shutdown,
    Ready(Ready),
    Overflow,
    Boxes(usize),
    Mail(usize),
    Time,
    Turn,
    Flush,
}

/// A shard and what the driver keeps for it.
pub struct Host {
    pub machine: Shard,
    pub slots: Vec<Option<usize>>,
    pub free: Vec<ConnectionSlot>,
    /// By sender.
    pub boxes: Vec<VecDeque<ShardMessage>>,
    /// By receiver.
    pub overflow: Vec<VecDeque<ShardMessage>>,
    pub paused_by_mesh: Vec<usize>,
    pub paused_by_log: Vec<usize>,
    pub ready: VecDeque<Ready>,
    /// What a turn had no room for.
    pub left: VecDeque<Ready>,
    /// By sender: mails that were there when the boxes were last looked at, and are not taken yet.
    pub mails_left: Vec<usize>,
    /// This turn takes those, and no others.
    pub takes_rest: bool,
    /// It is told to stop, with its next turn.
    pub stops: bool,
    pub jobs: VecDeque<Job>,
    pub effects: VecDeque<(Effect, Option<usize>)>,
    pub closes: Vec<usize>,
    /// None: nothing is kept.
    pub disk: Option<Disk>,
    /// When its next turn, or the rest of this one, is due.
    pub due_at: Option<u64>,
    pub stalled_until: u64,
    /// See [`clocks::watch`].
    pub noted_clock: clocks::Noted,
}

/// How unkind the world is.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Places in each box.
    pub box_capacity: usize,
    /// Times of a thousand that a shard loses its core after an effect.
    pub preempt_permille: u64,
    /// Bytes in the kernels on the way to a client.
    pub socket_bytes: usize,
    /// Times of a thousand that bytes arrive in pieces.
    pub split_permille: u64,
    /// A write takes as long as this at most, microseconds.
    pub write_max: u64,
}

/// See the head of this file.
pub struct World {
    pub now: u64,
    pub shared: Arc<Shared>,
    pub links: Vec<Link>,
    pub happenings: VecDeque<Happening>,
    pub weather: Weather,
    pub hosts: Vec<Host>,
    pub due: BTreeMap<(u64, u64), Due>,
    pub next_due: u64,
    pub rng: Random,
    /// Counts the starts of the broker.
    pub run: u32,
    pub down: bool,
    pub seed: u64,
    /// How long the power will be gone, and with how many shards it comes back.
    pub cut_while_writing: Option<(u64, usize)>,
    pub clocks: Clocks,
    /// The shards know what the sessions of all want.
    pub is_restored: bool,
}

/// How soon a full box is tried again, microseconds.
pub const OVERFLOW_RETRY: u64 = 200;

impl World {
    pub fn new(shards: usize, config: Config, weather: Weather, seed: u64) -> World {
        let mut world = World {
            now: 1000,
            shared: Arc::new(Shared::new(config.clone(), shards, seed).0),
            links: Vec::new(),
            happenings: VecDeque::new(),
            weather,
            hosts: Vec::new(),
            due: BTreeMap::new(),
            next_due: 0,
            rng: random::of_seed(seed ^ 0x77_6f72_6c64),
            run: 0,
            down: true,
            seed,
            cut_while_writing: None,
            clocks: Clocks::new(seed),
            is_restored: false,
        };
        let wall = Wall { zero_millis: world.clocks.reading(0).wall_millis };
        world.power_on(shards, config, wall, Vec::new());
        world
    }

    /// The power fails: every connection and all that was in memory is gone. Returns what the disks have.
    pub fn power_off(&mut self) -> Vec<(Vec<u8>, Torn)> {
        self.run += 1;
        self.down = true;
        for link in 0..self.links.len() {
            let told = self.rng.range(0, 200_000);
            if self.links[link].closed_at.is_none() {
                self.links[link].closed_at = Some(self.now);
                self.links[link].slot = None;
                self.sever(link, None, Some(told), true);
            }
        }
        let disks = std::mem::take(&mut self.hosts).into_iter().filter_map(|host| host.disk);
        let rng = &mut self.rng;
        disks.map(|disk| disk.power_cut(rng)).collect()
    }

    /// It starts, with what it kept: a part for each shard, or nothing at all. An empty directory in the
    /// configuration means that nothing will be kept.
    pub fn power_on(&mut self, shards: usize, config: Config, wall: Wall, mut restored: Vec<Restored>) {
        self.is_restored = false;
        let is_persistent = !config.persistence.directory.is_empty();
        let now = self.time();
        let (shared, interests) = Shared::new(config, shards, self.seed);
        (self.shared, self.down) = (Arc::new(shared), false);
        restored.resize_with(shards, Restored::default);
        let run = u64::from(self.run);
        for ((id, interest), restored) in interests.into_iter().enumerate().zip(restored) {
            let id = ShardId::try_from(id).expect("at most 128 shards");
            let chance = self.seed.wrapping_add(u64::from(id) << 32).wrapping_add(run << 48);
            let mut host = Host::new(Shard::new(id, Arc::clone(&self.shared), interest, chance), shards);
            // Not drawn, so that the other seeds are what they are without it.
            match self.seed % 13 {
                1 => host.machine.bound_journal(300),
                2 => host.machine.bound_journal(2000),
                12 => host.machine.bound_journal(8000),
                _ => {}
            }
            if is_persistent {
                let (epoch, shards) = (run + 1, u16::try_from(shards).expect("at most 128 shards"));
                let header =
                    Header { epoch, shard: id, shards, number: 0, first_sequence: 1, seed: self.seed };
                host.disk = Some(Disk::new(&header));
                let journal = Journal::new(LogName { epoch, shard: id });
                host.machine.open_store(now, journal, wall, restored);
                host.machine.handle_clock(now, self.clocks.reading(self.now));
                host.noted_clock = clocks::noted(&self.clocks, self.now);
            }
            if self.seed >= SHORT_TURNS_FROM && !self.seed.is_multiple_of(4) {
                let work = [8, 64, 512][self.seed as usize % 4 - 1];
                host.machine.bound_turns(TurnBudget { work, bytes: work * 16, touches: 1 + work / 16 });
            }
            host.machine.handle_start(now);
            let effects = host.machine.take_effects();
            host.effects.extend(effects.into_iter().map(|effect| (effect, None)));
            self.hosts.push(host);
        }
        for shard in 0..shards {
            self.begin_turn(shard);
        }
    }

    /// The power goes as soon as a batch of more than one block is being written.
    pub fn cut_power_while_writing(&mut self, down: u64, shards: usize) {
        self.cut_while_writing = Some((down, shards));
    }

    /// The log of a shard has no room, or has again; false if there is no such shard now.
    pub fn set_disk_full(&mut self, shard: usize, full: bool) -> bool {
        let host =
            self.hosts.get_mut(shard).filter(|host| host.disk.as_ref().is_some_and(|d| !d.has_failed()));
        host.map(|host| host.machine.handle_store_full(full)).is_some()
    }

    /// The log of a shard fails: nothing is durable any more.
    pub fn fail_disk(&mut self, shard: usize) -> bool {
        let Some(host) = self.hosts.get_mut(shard) else { return false };
        host.machine.handle_store_failed();
        host.disk.as_mut().map(Disk::fail).is_some()
    }

    /// Does it take connections?
    pub fn is_serving(&self) -> bool {
        !self.down && self.hosts.iter().all(|host| host.machine.is_settled())
    }

    /// The first turn of a start, whatever there is to do.
    pub fn begin_turn(&mut self, shard: usize) {
        let (at, run) = (self.now + 1, self.run);
        self.hosts[shard].due_at = Some(at);
        self.schedule(at, Due::Turn { shard, run });
    }

    pub fn shards(&self) -> usize {
        self.hosts.len()
    }

    pub fn time(&self) -> Time {
        self.clocks.time(self.now)
    }

    /// Asks to be woken after so many microseconds.
    pub fn wake_after(&mut self, micros: u64, wake: Wake) {
        self.schedule(self.now + micros, Due::Wake(wake));
    }

    /// A client opens a connection, which this shard accepts.
    pub fn open(&mut self, shard: usize) -> usize {
        let latency = self.rng.range(20, 1500);
        let link = self.links.len();
        let mut new = Link::new(shard, latency, self.weather.socket_bytes);
        new.up_last = self.now + latency;
        self.links.push(new);
        if !self.is_serving() {
            self.links[link].closed_at = Some(self.now);
            self.sever(link, None, Some(latency), true);
            return link;
        }
        self.hosts[shard].ready.push_back(Ready::Accept(link));
        self.wake_shard(shard, latency);
        link
    }

    /// The client sends; returns how many bytes it has sent in all.
    pub fn send(&mut self, link: usize, bytes: &[u8]) -> u64 {
        let now = self.now;
        let pieces = if self.rng.chance(self.weather.split_permille) { self.rng.range(2, 4) } else { 1 };
        let mut rest = bytes;
        for left in (1..=pieces).rev() {
            let len = if left == 1 { rest.len() } else { self.rng.index(rest.len() + 1) };
            let (piece, after) = rest.split_at(len);
            rest = after;
            if piece.is_empty() {
                continue;
            }
            let jitter = self.rng.below(if left == pieces { 30 } else { 3000 });
            let state = &mut self.links[link];
            let at = state.up_last.max(now + state.latency + jitter).max(state.up_stalled_until);
            state.up_last = at;
            self.schedule(at, Due::UpArrives { link, bytes: piece.to_vec() });
        }
        let state = &mut self.links[link];
        state.up_sent += bytes.len() as u64;
        state.up_sent
    }

    /// The client closes its end after what it has sent.
    pub fn leave(&mut self, link: usize) {
        let now = self.now;
        let state = &mut self.links[link];
        state.left = true;
        state.ended = true;
        let at = state.up_last.max(now + state.latency);
        state.up_last = at;
        self.schedule(at, Due::UpEnds { link, hangup: Hangup::Closed });
    }

    /// No byte gets through any more. The sides are told after so many microseconds, or never.
    pub fn sever(&mut self, link: usize, broker: Option<u64>, client: Option<u64>, reset: bool) {
        let state = &mut self.links[link];
        if state.severed {
            return;
        }
        state.severed = true;
        if reset {
            state.inbound.clear();
        }
        if let Some(after) = broker {
            let hangup = if reset { Hangup::Reset } else { Hangup::Closed };
            self.schedule(self.now + after, Due::UpEnds { link, hangup });
        }
        if let Some(after) = client {
            self.schedule(self.now + after, Due::DownEnds { link });
        }
    }

    /// Nothing arrives at the broker for so long, or at the client.
    pub fn stall(&mut self, link: usize, up: u64, down: u64) {
        let now = self.now;
        let state = &mut self.links[link];
        state.up_stalled_until = state.up_stalled_until.max(now + up);
        state.down_stalled_until = state.down_stalled_until.max(now + down);
    }

    /// A shard gets no core for so long.
    pub fn stall_shard(&mut self, shard: usize, micros: u64) {
        if let Some(host) = self.hosts.get_mut(shard) {
            host.stalled_until = host.stalled_until.max(self.now + micros);
        }
    }

    pub fn shut_down(&mut self) {
        for shard in 0..self.hosts.len() {
            self.hosts[shard].stops = true;
            self.wake_shard(shard, 0);
        }
    }

    /// A CONNECT that can't be processed any more, or has been.
    pub fn connect_is_settled(&self, link: usize, connect_len: u64) -> bool {
        let link = &self.links[link];
        link.served || link.closed_at.is_some() || (link.severed && link.up_arrived < connect_len)
    }

    pub fn counter(&self, counter: Counter) -> u64 {
        self.shared.counters.iter().map(|counters| counters.get(counter)).sum()
    }

    pub fn connections(&self) -> usize {
        self.hosts.iter().map(|host| host.machine.connections()).sum()
    }

    /// Has any shard something to do, or a timer?
    pub fn is_idle(&self) -> bool {
        self.hosts.iter().all(|host| {
            !host.machine.has_deferred()
                && host.machine.next_deadline().is_none()
                && host.boxes.iter().all(VecDeque::is_empty)
                && host.overflow.iter().all(VecDeque::is_empty)
        })
    }

    pub fn schedule(&mut self, at: u64, due: Due) {
        self.next_due += 1;
        self.due.insert((at, self.next_due), due);
    }

    /// The next thing that is due, if it is not later than `end`. The clock moves to it, or to `end`.
    pub fn step(&mut self, end: u64) -> bool {
        let Some((&(at, number), _)) = self.due.first_key_value() else {
            self.now = end;
            return false;
        };
        if at > end {
            self.now = end;
            return false;
        }
        self.now = self.now.max(at);
        let Some(due) = self.due.remove(&(at, number)) else { return false };
        match due {
            Due::Turn { shard, run } => {
                if run == self.run && self.hosts[shard].due_at == Some(at) {
                    self.hosts[shard].due_at = None;
                    self.go_on(shard);
                }
            }
            Due::Written { shard, run } => {
                if run == self.run
                    && let Some(last) = self.hosts[shard].disk.as_mut().and_then(Disk::finish)
                {
                    self.hosts[shard].ready.push_back(Ready::Durable(last));
                    self.wake_shard(shard, 1);
                }
            }
            Due::UpArrives { link, bytes } => self.up_arrives(link, &bytes),
            Due::UpEnds { link, hangup } => {
                if self.links[link].closed_at.is_none() {
                    self.links[link].hangup.get_or_insert(hangup);
                    self.mark_readable(link);
                }
            }
            Due::DownArrives { link } => self.down_arrives(link),
            Due::DownEnds { link } if self.links[link].in_flight > 0 && !self.links[link].severed => {
                self.schedule(self.now + 100, Due::DownEnds { link });
            }
            Due::DownEnds { link } => {
                if !self.links[link].ended {
                    self.links[link].ended = true;
                    self.happenings.push_back(Happening::Ended { link });
                }
            }
            Due::Wake(wake) => self.happenings.push_back(Happening::Woken(wake)),
        }
        true
    }

    pub fn up_arrives(&mut self, link: usize, bytes: &[u8]) {
        let state = &mut self.links[link];
        if state.severed || state.closed_at.is_some() {
            return;
        }
        let room = state.up_cut_after.map_or(u64::MAX, |after| after.saturating_sub(state.up_arrived));
        let taken = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        state.up_arrived += taken as u64;
        state.inbound.extend(&bytes[..taken]);
        if taken < bytes.len() {
            let (broker, client) = (self.rng.range(0, 20_000), self.rng.range(0, 20_000));
            self.sever(link, Some(broker), Some(client), false);
        }
        self.mark_readable(link);
    }

    pub fn mark_readable(&mut self, link: usize) {
        let state = &mut self.links[link];
        let is_held = state.paused && !state.tells_hangup() && state.hangup != Some(Hangup::Reset);
        if state.readable || is_held || state.slot.is_none() || !state.has_input() {
            return;
        }
        state.readable = true;
        let shard = state.shard;
        self.hosts[shard].ready.push_back(Ready::Read(link));
        let soon = self.rng.range(1, 30);
        self.wake_shard(shard, soon);
    }

    pub fn down_arrives(&mut self, link: usize) {
        let state = &mut self.links[link];
        if state.severed {
            return;
        }
        if state.down_stalled_until > self.now {
            let at = state.down_stalled_until;
            state.down_last = state.down_last.max(at);
            return self.schedule(at, Due::DownArrives { link });
        }
        let Some(bytes) = state.on_the_way.pop_front() else { return };
        state.in_flight -= bytes.len();
        if !state.ended {
            self.happenings.push_back(Happening::Received { link, bytes });
        }
        self.transfer(link);
    }

    /// From the driver's backlog to the kernel, as far as there is room.
    pub fn transfer(&mut self, link: usize) {
        let now = self.now;
        let jitter = self.rng.below(30);
        let state = &mut self.links[link];
        let room = state.capacity.saturating_sub(state.in_flight).min(state.backlog.len());
        if room > 0 {
            let bytes: Vec<u8> = state.backlog.drain(..room).collect();
            state.in_flight += room;
            state.backlog_taken += room as u64;
            let at = state.down_last.max(now + state.latency + jitter).max(state.down_stalled_until);
            state.down_last = at;
            state.on_the_way.push_back(bytes);
            self.schedule(at, Due::DownArrives { link });
        }
        let state = &mut self.links[link];
        if !state.backlog.is_empty() {
            if room > 0 && state.backlogged {
                let shard = state.shard;
                self.tell_backlog(shard, link);
            }
            return;
        }
        state.backlog_taken = 0;
        if state.closed_at.is_some() {
            let at = state.down_last.max(now + state.latency);
            if !state.severed {
                self.schedule(at, Due::DownEnds { link });
            }
        } else if state.backlogged {
            state.backlogged = false;
            if state.slot.is_some() {
                let shard = state.shard;
                self.hosts[shard].ready.push_back(Ready::Drained(link));
                self.wake_shard(shard, 1);
            }
        }
    }

    /// The driver tells of each change of a backlog.
    pub fn tell_backlog(&mut self, shard: usize, link: usize) {
        let state = &mut self.links[link];
        if state.slot.is_some() && !std::mem::replace(&mut state.backlog_told, true) {
            self.hosts[shard].ready.push_back(Ready::Backlogged(link));
            self.wake_shard(shard, 1);
        }
    }

    pub fn wake_shard(&mut self, shard: usize, after: u64) {
        let host = &mut self.hosts[shard];
        let at = (self.now + after).max(host.stalled_until);
        if host.due_at.is_some_and(|due| due <= at) || !host.jobs.is_empty() || !host.effects.is_empty() {
            return;
        }
        host.due_at = Some(at);
        let run = self.run;
        self.schedule(at, Due::Turn { shard, run });
    }
}

/// From this seed on, three of four have turns that may do very little.
pub const SHORT_TURNS_FROM: u64 = 10_000_000;

impl Host {
    pub fn new(machine: Shard, shards: usize) -> Host {
        Host {
            machine,
            slots: Vec::new(),
            free: Vec::new(),
            boxes: (0..shards).map(|_| VecDeque::new()).collect(),
            overflow: (0..shards).map(|_| VecDeque::new()).collect(),
            paused_by_mesh: Vec::new(),
            paused_by_log: Vec::new(),
            ready: VecDeque::new(),
            left: VecDeque::new(),
            mails_left: vec![0; shards],
            takes_rest: false,
            stops: false,
            jobs: VecDeque::new(),
            effects: VecDeque::new(),
            closes: Vec::new(),
            disk: None,
            due_at: None,
            stalled_until: 0,
            noted_clock: clocks::Noted::default(),
        }
    }
}

/// The connection that has this address at its other end.
pub fn link_of(peer: SocketAddr) -> usize {
    match peer {
        SocketAddr::V4(peer) => u32::from_be_bytes(peer.ip().octets()) as usize & 0xFF_FFFF,
        SocketAddr::V6(_) => usize::MAX,
    }
}

pub fn peer(link: usize) -> SocketAddr {
    let link = u32::try_from(link).expect("a run has less than 2^32 connections");
    let [_, high, middle, low] = link.to_be_bytes();
    SocketAddr::from(([10, high, middle, low], 1883))
}
