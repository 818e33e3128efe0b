//! The broker on a virtual clock, with a kernel, a network and a mesh that do as the seed says.
//!
//! Each shard takes turns as the real runner does: what was ready when the turn began, the mails of each box,
//! the clock, what was put off, the flush. Between any two effects it may lose its core for a while; what it
//! had put into boxes by then is seen by the others, and the rest is not.

use crate::disk::{Disk, Torn};
use crate::link::Link;
use crate::rng::Rng;
use midge::config::Config;
use midge::shard::{Counter, Effect, Event, Hangup, Mail, Shard, ShardId, Shared};
use midge::store::segment::{BLOCK, Header, LogName};
use midge::store::{Journal, Restored, Wall};
use midge::time::Time;
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
    /// The broker has no such connection any more.
    Closed { link: usize },
    /// What the broker tells its operator.
    Told(Event),
    /// A time that somebody has asked for.
    Woken(Wake),
    /// A box was full.
    BoxFull,
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

enum Due {
    Written { shard: usize, run: u32 },
    Turn { shard: usize, run: u32 },
    UpArrives { link: usize, bytes: Vec<u8> },
    UpEnds { link: usize, hangup: Hangup },
    DownArrives { link: usize },
    DownEnds { link: usize },
    Wake(Wake),
}

enum Parcel {
    Mail(Mail),
    Socket { link: usize, bytes: Vec<u8> },
}

enum Ready {
    Accept(usize),
    Read(usize),
    Backlogged(usize),
    Drained(usize),
    Durable(u64),
}

enum Job {
    Ready(Ready),
    Overflow,
    Boxes(usize),
    Mail(usize),
    Time,
    Turn,
    Backlogs,
    Flush,
}

/// A shard and what the driver keeps for it.
struct Host {
    machine: Shard,
    slots: Vec<Option<usize>>,
    free: Vec<u32>,
    /// By sender.
    boxes: Vec<VecDeque<Parcel>>,
    /// By receiver.
    overflow: Vec<VecDeque<Parcel>>,
    paused_by_mesh: Vec<usize>,
    ready: VecDeque<Ready>,
    jobs: VecDeque<Job>,
    effects: VecDeque<(Effect, Option<usize>)>,
    closes: Vec<usize>,
    /// None: nothing is kept.
    disk: Option<Disk>,
    /// When its next turn, or the rest of this one, is due.
    due_at: Option<u64>,
    stalled_until: u64,
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
    hosts: Vec<Host>,
    due: BTreeMap<(u64, u64), Due>,
    next_due: u64,
    rng: Rng,
    /// Counts the starts of the broker.
    run: u32,
    down: bool,
    seed: u64,
    /// How long the power will be gone, and with how many shards it comes back.
    cut_while_writing: Option<(u64, usize)>,
}

/// The wall clock at the zero of the simulation's, milliseconds since 1970.
pub const WALL: Wall = Wall { zero_millis: 1_800_000_000_000 };

const PAUSED_BY_MACHINE: u8 = 1;
const PAUSED_BY_MESH: u8 = 2;
/// How soon a full box is tried again, microseconds.
const OVERFLOW_RETRY: u64 = 200;

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
            rng: Rng::new(seed ^ 0x77_6f72_6c64),
            run: 0,
            down: true,
            seed,
            cut_while_writing: None,
        };
        world.power_on(shards, config, Vec::new());
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
    pub fn power_on(&mut self, shards: usize, config: Config, mut restored: Vec<Restored>) {
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
            if is_persistent {
                let (epoch, shards) = (run + 1, u16::try_from(shards).expect("at most 128 shards"));
                let header =
                    Header { epoch, shard: id, shards, number: 0, first_sequence: 1, seed: self.seed };
                host.disk = Some(Disk::new(&header));
                let journal = Journal::new(LogName { epoch, shard: id });
                host.machine.open_store(now, journal, WALL, restored);
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
        !self.down && !self.hosts.iter().any(|host| host.machine.is_restoring())
    }

    /// The first turn of a start, whatever there is to do.
    fn begin_turn(&mut self, shard: usize) {
        let (at, run) = (self.now + 1, self.run);
        self.hosts[shard].due_at = Some(at);
        self.schedule(at, Due::Turn { shard, run });
    }

    pub fn shards(&self) -> usize {
        self.hosts.len()
    }

    pub fn time(&self) -> Time {
        Time::from_micros(self.now)
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
            let now = self.time();
            self.hosts[shard].machine.handle_shutdown(now);
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

    fn schedule(&mut self, at: u64, due: Due) {
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

    fn up_arrives(&mut self, link: usize, bytes: &[u8]) {
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

    fn mark_readable(&mut self, link: usize) {
        let state = &mut self.links[link];
        if state.readable || state.paused != 0 || state.slot.is_none() || !state.has_input() {
            return;
        }
        state.readable = true;
        let shard = state.shard;
        self.hosts[shard].ready.push_back(Ready::Read(link));
        let soon = self.rng.range(1, 30);
        self.wake_shard(shard, soon);
    }

    fn down_arrives(&mut self, link: usize) {
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
    fn transfer(&mut self, link: usize) {
        let now = self.now;
        let jitter = self.rng.below(30);
        let state = &mut self.links[link];
        let room = state.capacity.saturating_sub(state.in_flight).min(state.backlog.len());
        if room > 0 {
            let bytes: Vec<u8> = state.backlog.drain(..room).collect();
            state.in_flight += room;
            let at = state.down_last.max(now + state.latency + jitter).max(state.down_stalled_until);
            state.down_last = at;
            state.on_the_way.push_back(bytes);
            self.schedule(at, Due::DownArrives { link });
        }
        let state = &mut self.links[link];
        if !state.backlog.is_empty() {
            return;
        }
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

    fn wake_shard(&mut self, shard: usize, after: u64) {
        let host = &mut self.hosts[shard];
        let at = (self.now + after).max(host.stalled_until);
        if host.due_at.is_some_and(|due| due <= at) || !host.jobs.is_empty() || !host.effects.is_empty() {
            return;
        }
        host.due_at = Some(at);
        let run = self.run;
        self.schedule(at, Due::Turn { shard, run });
    }

    /// A turn, or the rest of one that was interrupted.
    fn go_on(&mut self, shard: usize) {
        let now = self.now;
        let host = &mut self.hosts[shard];
        if host.stalled_until > now {
            let at = host.stalled_until;
            host.due_at = Some(at);
            let run = self.run;
            return self.schedule(at, Due::Turn { shard, run });
        }
        if host.jobs.is_empty() && host.effects.is_empty() {
            let ready = std::mem::take(&mut host.ready);
            host.jobs.extend(ready.into_iter().map(Job::Ready));
            host.jobs.push_back(Job::Overflow);
            let boxes = host.boxes.len();
            host.jobs.extend((0..boxes).filter(|&from| from != shard).map(Job::Boxes));
            host.jobs.extend([Job::Time, Job::Turn, Job::Backlogs, Job::Flush]);
        }
        loop {
            while let Some((effect, cause)) = self.hosts[shard].effects.pop_front() {
                self.carry_out(shard, effect, cause);
                if self.rng.chance(self.weather.preempt_permille) {
                    let away = self.rng.range(1, 3000);
                    let run = self.run;
                    let at = self.now + away;
                    self.hosts[shard].due_at = Some(at);
                    return self.schedule(at, Due::Turn { shard, run });
                }
            }
            let Some(job) = self.hosts[shard].jobs.pop_front() else { break };
            self.work(shard, job);
        }
        self.write(shard);
        self.plan_next_turn(shard);
    }

    /// One write at a time is under way.
    fn write(&mut self, shard: usize) {
        let took = if self.rng.chance(20) { self.rng.below(30_000) } else { 0 };
        let took = took + self.rng.range(20, self.weather.write_max);
        let host = &mut self.hosts[shard];
        if let Some(disk) = &mut host.disk
            && !disk.is_writing()
            && let Some(batch) = host.machine.take_batch()
        {
            if batch.bytes.len() > BLOCK
                && let Some((down, shards)) = self.cut_while_writing.take()
            {
                let wake = Due::Wake(Wake::PowerOff { down, shards });
                disk.write(batch);
                return self.schedule(self.now + took / 2, wake);
            }
            disk.write(batch);
            let run = self.run;
            self.schedule(self.now + took, Due::Written { shard, run });
        }
    }

    fn plan_next_turn(&mut self, shard: usize) {
        let soon = self.rng.range(1, 20);
        let now = self.now;
        let host = &self.hosts[shard];
        let busy = host.machine.has_deferred()
            || !host.ready.is_empty()
            || host.boxes.iter().any(|parcels| !parcels.is_empty());
        let timer = host.machine.next_deadline().map(|deadline| deadline.as_micros().max(now + 1));
        let retry = host.overflow.iter().any(|list| !list.is_empty()).then_some(now + OVERFLOW_RETRY);
        let at = [busy.then_some(now + soon), timer, retry].into_iter().flatten().min();
        if let Some(at) = at {
            self.wake_shard(shard, at - now);
        }
    }

    fn work(&mut self, shard: usize, job: Job) {
        let now = self.time();
        let mut cause = None;
        match job {
            Job::Ready(Ready::Accept(link)) => {
                let slot = self.give_slot(shard, link);
                self.hosts[shard].machine.handle_open(now, slot, peer(link), false);
                self.mark_readable(link);
            }
            Job::Ready(Ready::Read(link)) => {
                cause = Some(link);
                self.read(shard, link);
            }
            Job::Ready(Ready::Backlogged(link)) => {
                if let Some(slot) = self.own_slot(shard, link) {
                    self.hosts[shard].machine.handle_backlog(slot, self.links[link].backlog.len());
                }
            }
            Job::Ready(Ready::Durable(last)) => self.hosts[shard].machine.handle_durable(now, last),
            Job::Ready(Ready::Drained(link)) => {
                if let Some(slot) = self.own_slot(shard, link) {
                    self.hosts[shard].machine.handle_drained(now, slot);
                }
            }
            Job::Overflow => self.empty_overflow(shard),
            Job::Boxes(from) => {
                let waiting = self.hosts[shard].boxes[from].len();
                for _ in 0..waiting {
                    self.hosts[shard].jobs.push_front(Job::Mail(from));
                }
            }
            Job::Mail(from) => {
                let parcel = self.hosts[shard].boxes[from].pop_front();
                match parcel {
                    Some(Parcel::Mail(mail)) => {
                        let from = ShardId::try_from(from).expect("at most 128 shards");
                        self.hosts[shard].machine.handle_mail(now, from, mail);
                    }
                    Some(Parcel::Socket { link, bytes }) => {
                        let slot = self.give_slot(shard, link);
                        self.hosts[shard].machine.handle_open(now, slot, peer(link), true);
                        self.hosts[shard].machine.handle_bytes(now, slot, &bytes);
                        self.mark_readable(link);
                    }
                    None => {}
                }
            }
            Job::Time => {
                let machine = &mut self.hosts[shard].machine;
                if machine.next_deadline().is_some_and(|deadline| deadline <= now) {
                    machine.handle_time(now);
                }
            }
            Job::Turn => self.hosts[shard].machine.handle_turn(now),
            Job::Backlogs => {
                for at in 0..self.hosts[shard].slots.len() {
                    let Some(link) = self.hosts[shard].slots[at] else { continue };
                    if self.links[link].backlogged && !self.links[link].closing {
                        let slot = u32::try_from(at).expect("slots are 32 bits");
                        self.hosts[shard].machine.handle_backlog(slot, self.links[link].backlog.len());
                    }
                }
            }
            Job::Flush => self.flush(shard),
        }
        let host = &mut self.hosts[shard];
        let effects = host.machine.take_effects();
        host.effects.extend(effects.into_iter().map(|effect| (effect, cause)));
    }

    fn give_slot(&mut self, shard: usize, link: usize) -> u32 {
        let host = &mut self.hosts[shard];
        let slot = match host.free.pop() {
            Some(slot) => slot,
            None => {
                host.slots.push(None);
                u32::try_from(host.slots.len() - 1).expect("slots are 32 bits")
            }
        };
        host.slots[slot as usize] = Some(link);
        let state = &mut self.links[link];
        (state.slot, state.shard, state.readable, state.paused) = (Some(slot), shard, false, 0);
        slot
    }

    /// Its slot, if the link is this shard's still.
    fn own_slot(&self, shard: usize, link: usize) -> Option<u32> {
        let state = &self.links[link];
        state.slot.filter(|_| state.shard == shard && !state.closing)
    }

    fn read(&mut self, shard: usize, link: usize) {
        let now = self.time();
        let Some(slot) = self.own_slot(shard, link) else { return };
        self.links[link].readable = false;
        if self.links[link].paused != 0 {
            return;
        }
        let waiting = self.links[link].inbound.len();
        let len = if waiting > 1 && self.rng.chance(100) { self.rng.index(waiting) + 1 } else { waiting };
        if len > 0 {
            let bytes: Vec<u8> = self.links[link].inbound.drain(..len).collect();
            self.links[link].up_consumed += bytes.len() as u64;
            let upto = self.links[link].up_consumed;
            self.hosts[shard].machine.handle_bytes(now, slot, &bytes);
            let whole = self.hosts[shard].machine.has_connection(slot);
            if whole {
                self.links[link].up_sure = upto;
            }
            self.happenings.push_back(Happening::Consumed { link, upto, whole });
        } else if let Some(hangup) = self.links[link].hangup {
            self.hosts[shard].machine.handle_hangup(now, slot, hangup);
            return;
        }
        self.mark_readable(link);
    }

    fn flush(&mut self, shard: usize) {
        let mut sent = Vec::new();
        let outbox = self.hosts[shard].machine.outbox();
        for touched in outbox.touched() {
            let bytes: Vec<u8> =
                outbox.segments_of(touched).flat_map(|range| outbox.bytes(range).to_vec()).collect();
            sent.push((touched.slot, bytes));
        }
        outbox.clear();
        for (slot, bytes) in sent {
            let link = self.hosts[shard].slots[slot as usize].expect("bytes go to connections that are open");
            self.put(shard, link, bytes);
        }
        for link in std::mem::take(&mut self.hosts[shard].closes) {
            if let Some(slot) = self.links[link].slot.take() {
                self.hosts[shard].slots[slot as usize] = None;
                self.hosts[shard].free.push(slot);
            }
            self.links[link].closed_at = Some(self.now);
            self.transfer(link);
        }
    }

    fn put(&mut self, shard: usize, link: usize, bytes: Vec<u8>) {
        self.links[link].served = true;
        self.links[link].backlog.extend(&bytes);
        self.happenings.push_back(Happening::Sent { link, bytes });
        self.transfer(link);
        let state = &mut self.links[link];
        if !state.backlog.is_empty() && !state.backlogged {
            (state.backlogged, state.was_backlogged) = (true, true);
            self.hosts[shard].ready.push_back(Ready::Backlogged(link));
        }
    }

    fn carry_out(&mut self, shard: usize, effect: Effect, cause: Option<usize>) {
        match effect {
            Effect::Mail { to, mail } => self.post(shard, usize::from(to), Parcel::Mail(mail), cause),
            Effect::Forward(forward) => {
                for (to, mail) in self.hosts[shard].machine.forward_now(*forward) {
                    self.post(shard, usize::from(to), Parcel::Mail(mail), cause);
                }
            }
            Effect::Close { slot } => {
                let link = self.link_of(shard, slot);
                self.links[link].closing = true;
                self.hosts[shard].closes.push(link);
                self.happenings.push_back(Happening::Closed { link });
            }
            Effect::HandOver { slot, to, bytes, .. } => {
                let link = self.link_of(shard, slot);
                self.hosts[shard].slots[slot as usize] = None;
                self.hosts[shard].free.push(slot);
                self.links[link].slot = None;
                let cut = self.links[link].hangup.is_some();
                self.happenings.push_back(Happening::HandOver { cut });
                if cut {
                    self.links[link].closed_at = Some(self.now);
                    self.happenings.push_back(Happening::Closed { link });
                    return;
                }
                self.links[link].shard = usize::from(to);
                self.post(shard, usize::from(to), Parcel::Socket { link, bytes }, None);
            }
            Effect::Pause { slot } => {
                let link = self.link_of(shard, slot);
                self.links[link].paused |= PAUSED_BY_MACHINE;
            }
            Effect::Resume { slot } => {
                let link = self.link_of(shard, slot);
                self.resume(link, PAUSED_BY_MACHINE);
            }
            Effect::Stream { .. } => {}
            Effect::Event(event) => self.happenings.push_back(Happening::Told(event)),
        }
    }

    fn link_of(&self, shard: usize, slot: u32) -> usize {
        self.hosts[shard].slots[slot as usize].expect("effects name connections that are open")
    }

    fn resume(&mut self, link: usize, why: u8) {
        self.links[link].paused &= !why;
        self.mark_readable(link);
    }

    fn post(&mut self, from: usize, to: usize, parcel: Parcel, cause: Option<usize>) {
        if self.hosts[from].overflow[to].is_empty()
            && self.hosts[to].boxes[from].len() < self.weather.box_capacity
        {
            self.hosts[to].boxes[from].push_back(parcel);
            let soon = self.rng.range(1, 40);
            return self.wake_shard(to, soon);
        }
        self.happenings.push_back(Happening::BoxFull);
        self.hosts[from].overflow[to].push_back(parcel);
        if let Some(link) = cause
            && self.links[link].paused & PAUSED_BY_MESH == 0
        {
            self.links[link].paused |= PAUSED_BY_MESH;
            self.hosts[from].paused_by_mesh.push(link);
        }
    }

    fn empty_overflow(&mut self, from: usize) {
        for to in 0..self.hosts.len() {
            while self.hosts[to].boxes[from].len() < self.weather.box_capacity {
                let Some(parcel) = self.hosts[from].overflow[to].pop_front() else { break };
                self.hosts[to].boxes[from].push_back(parcel);
                self.wake_shard(to, 1);
            }
        }
        if self.hosts[from].overflow.iter().all(VecDeque::is_empty) {
            for link in std::mem::take(&mut self.hosts[from].paused_by_mesh) {
                if self.links[link].shard == from {
                    self.resume(link, PAUSED_BY_MESH);
                }
            }
        }
    }
}

impl Host {
    fn new(machine: Shard, shards: usize) -> Host {
        Host {
            machine,
            slots: Vec::new(),
            free: Vec::new(),
            boxes: (0..shards).map(|_| VecDeque::new()).collect(),
            overflow: (0..shards).map(|_| VecDeque::new()).collect(),
            paused_by_mesh: Vec::new(),
            ready: VecDeque::new(),
            jobs: VecDeque::new(),
            effects: VecDeque::new(),
            closes: Vec::new(),
            disk: None,
            due_at: None,
            stalled_until: 0,
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

fn peer(link: usize) -> SocketAddr {
    let link = u32::try_from(link).expect("a run has less than 2^32 connections");
    let [_, high, middle, low] = link.to_be_bytes();
    SocketAddr::from(([10, high, middle, low], 1883))
}
