//! The environment between the shards and the clients: a kernel, a network, boxes and a disk that behave as
//! the seed says.
//!
//! A turn of a shard happens at one moment, and its effects appear over a period. Between any two effects the
//! shard may lose its core. The others then see what it had put into boxes by that time, and not the rest.

use crate::clocks::{Clocks, Noted};
use crate::disk::Disk;
use crate::link::Link;
use crate::random::{self, Random};
use crate::tls::{RunTls, TlsEnd};
use crate::wire::Layers;
use midge::base::log_files::FileDone;
use midge::base::{ConnectionSlot, Time};
use midge::broker::{EndCause, Event};
use midge::host::{ShardMessage, SocketEnd};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// Something that the outside learns.
pub enum Happening {
    /// Bytes have reached the client.
    Received { link: usize, bytes: Vec<u8> },
    /// The client has completed the handshake of TLS.
    Secured { link: usize, resumed: bool },
    /// A shard holds back the bytes of a handshake of TLS, mostly because it has no time for it in this turn.
    HandshakeWaits,
    /// The client learns that its connection has ended.
    Ended { link: usize },
    /// The broker has sent these bytes, whether or not they arrive.
    Sent { link: usize, bytes: Vec<u8> },
    /// The broker has read `upto` bytes in total. `whole`: the connection was open during all of it.
    Consumed { link: usize, upto: u64, whole: bool },
    /// The broker has ended the connection of a client that was accepted.
    Left { link: usize, cause: EndCause },
    /// The broker has no such connection any more.
    Closed { link: usize },
    /// An event that the broker reports to its operator.
    Told(Event),
    /// A requested time has come.
    Woken(Wake),
    /// A box was full.
    BoxFull,
    /// Everything that found a box full is in it now.
    BoxesHaveRoom,
    /// A socket was handed over to another shard. `cut`: it would have been, but its client had gone.
    HandOver { cut: bool },
    /// The log of a shard has room again, and the shard knows it.
    DiskHasRoom { shard: usize },
    /// The store does something that it must not do.
    Broken(String),
}

/// The receiver of a wake-up.
#[derive(Debug)]
pub enum Wake {
    /// The plan.
    Action(usize),
    /// A client that sends something after thinking about it, if it still has this connection.
    Send { client: usize, link: usize, bytes: Vec<u8>, ack: Option<Acked> },
    /// A client that keeps its connection alive.
    Ping { client: usize, link: usize },
    /// A client that comes back.
    Return { client: usize },
    /// The power is cut.
    PowerOff { down: u64, shards: usize },
    /// The power is back.
    PowerOn { shards: usize },
    /// A full disk has room again.
    DiskHasRoom { shard: usize },
}

/// An acknowledgement as the client remembers it.
#[derive(Clone, Copy, Debug)]
pub struct Acked {
    pub kind: u8,
    pub id: u16,
}

pub enum Due {
    FileDone {
        number: u64,
    },
    Turn {
        shard: usize,
        run: u32,
    },
    Checkpoint {
        run: u32,
    },
    UpArrives {
        link: usize,
        bytes: Vec<u8>,
    },
    UpEnds {
        link: usize,
        end: SocketEnd,
    },
    DownArrives {
        link: usize,
    },
    DownEnds {
        link: usize,
    },
    Wake(Wake),
    /// A shard has caused it.
    Happens {
        run: u32,
        happening: Happening,
    },
}

/// Something that a shard must look at.
pub enum Ready {
    Accept(usize),
    Read(usize),
    Backlogged(usize),
    Drained(usize),
}

/// A message in a box, and the time from which it is visible.
pub struct Posted {
    pub at: u64,
    pub message: ShardMessage<usize>,
}

/// The kernel's state of a shard.
pub struct ShardState {
    /// By slot: its connection.
    pub slots: Vec<Option<usize>>,
    pub free: Vec<ConnectionSlot>,
    /// Slots that are free at the next poll.
    pub freed: Vec<ConnectionSlot>,
    /// By sender.
    pub boxes: Vec<VecDeque<Posted>>,
    pub ready: VecDeque<Ready>,
    pub files_done: VecDeque<FileDone>,
    /// Connections to close after this turn's bytes are sent.
    pub closes: Vec<usize>,
    pub is_listening: bool,
    pub has_listened: bool,
    /// Whether a box was full for a message that is not in it yet.
    pub is_overflowing: bool,
    /// The same, in this turn.
    pub found_box_full: bool,
    /// How the turn has ended: when the next one is due at the latest, and whether messages end the wait.
    pub wait: Option<u64>,
    pub takes_mails: bool,
    /// The time of its next turn.
    pub due_at: Option<u64>,
    /// The time until which it has no core.
    pub stalled_until: u64,
    /// The time until which it has waited for the disk within a turn.
    pub waited_until: u64,
    pub noted_clock: Cell<Noted>,
    /// Whether it has had its last turn.
    pub is_over: bool,
    /// The machine's events of this turn.
    pub told: Rc<RefCell<Vec<Event>>>,
}

/// How hostile the environment is.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// The number of places in each box.
    pub box_capacity: usize,
    /// How often in a thousand a shard loses its core after an effect.
    pub preempt_permille: u64,
    /// The number of bytes that the kernels hold on the way to a client.
    pub socket_bytes: usize,
    /// How often in a thousand bytes arrive in pieces.
    pub split_permille: u64,
    /// The longest duration of a write, in microseconds.
    pub write_max: u64,
}

/// See the module.
pub struct Kernel {
    pub now: u64,
    /// The shard whose turn it is, and the time of the turn.
    pub turn: Option<(usize, u64)>,
    /// The effects of the turn so far, with their times.
    pub brought: Vec<(u64, Happening)>,
    pub links: Vec<Link>,
    pub happenings: VecDeque<Happening>,
    pub weather: Weather,
    pub shards: Vec<ShardState>,
    pub due: BTreeMap<(u64, u64), Due>,
    pub next_due: u64,
    pub rng: Random,
    /// Counts the starts of the broker.
    pub run: u32,
    pub disk: Disk,
    /// Connections with bytes that the machine was given and has not taken, as far as is known.
    pub unread: BTreeSet<usize>,
    pub is_checkpoint_due: bool,
    pub layers: Layers,
    /// If a layer is TLS.
    pub tls: Option<RunTls>,
    /// How long the power will be off, and the number of shards after that.
    pub cut_while_writing: Option<(u64, usize)>,
    pub clocks: Clocks,
}

impl ShardState {
    pub fn new(shards: usize) -> ShardState {
        ShardState {
            slots: Vec::new(),
            free: Vec::new(),
            freed: Vec::new(),
            boxes: (0..shards).map(|_| VecDeque::new()).collect(),
            ready: VecDeque::new(),
            files_done: VecDeque::new(),
            closes: Vec::new(),
            is_listening: false,
            has_listened: false,
            is_overflowing: false,
            found_box_full: false,
            wait: None,
            takes_mails: true,
            due_at: None,
            stalled_until: 0,
            waited_until: 0,
            noted_clock: Cell::default(),
            is_over: false,
            told: Rc::default(),
        }
    }
}

impl Kernel {
    pub fn new(weather: Weather, seed: u64, layers: Layers, tls: Option<RunTls>) -> Kernel {
        Kernel {
            now: 1000,
            turn: None,
            brought: Vec::new(),
            links: Vec::new(),
            happenings: VecDeque::new(),
            weather,
            shards: Vec::new(),
            due: BTreeMap::new(),
            next_due: 0,
            rng: random::of_seed(seed ^ 0x77_6f72_6c64),
            run: 0,
            disk: Disk::default(),
            unread: BTreeSet::new(),
            is_checkpoint_due: false,
            layers,
            tls,
            cut_while_writing: None,
            clocks: Clocks::new(seed),
        }
    }

    pub fn schedule(&mut self, at: u64, due: Due) {
        self.next_due += 1;
        self.due.insert((at, self.next_due), due);
    }

    /// Reports it to the outside: now, or when the turn has come that far.
    pub fn tell(&mut self, happening: Happening) {
        match self.turn {
            Some(_) => self.brought.push((self.now, happening)),
            None => self.happenings.push_back(happening),
        }
    }

    /// The broker's clock. It stands still during a turn.
    pub fn time(&self) -> Time {
        self.clocks.time(self.turn.map_or(self.now, |(_, at)| at))
    }

    /// Called after an effect: the shard may lose its core before the next one.
    pub fn after_effect(&mut self) {
        if self.rng.chance(self.weather.preempt_permille) {
            self.now += self.rng.range(1..=3000);
        }
    }

    /// Sends bytes of the client's socket, in pieces.
    pub fn send_raw(&mut self, link: usize, raw: &[u8]) {
        if raw.is_empty() {
            return;
        }
        let now = self.now;
        let split_permille = self.weather.split_permille;
        let pieces = if self.rng.chance(split_permille) { self.rng.range(2..=4) } else { 1 };
        let mut rest = raw;
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
    }

    /// The client has completed the handshake. If it has left in the meantime, it has said what it wanted to.
    fn secured(&mut self, link: usize) {
        let state = &self.links[link];
        let resumed = state.tls.as_ref().is_some_and(TlsEnd::is_resumed);
        let has_left = state.left;
        self.happenings.push_back(Happening::Secured { link, resumed });
        if has_left {
            self.end_up(link);
        }
    }

    /// Ends what the client sends. With TLS, half of the clients announce it.
    pub fn end_up(&mut self, link: usize) {
        if self.links[link].tls.is_some()
            && self.rng.chance(500)
            && let Some(tls) = &mut self.links[link].tls
        {
            let raw = tls.close_notify();
            self.send_raw(link, &raw);
        }
        let now = self.now;
        let state = &mut self.links[link];
        let at = state.up_last.max(now + state.latency);
        state.up_last = at;
        self.schedule(at, Due::UpEnds { link, end: SocketEnd::EndOfStream });
    }

    /// Delivers the client's bytes to the broker's machine.
    pub fn up_arrives(&mut self, link: usize, bytes: &[u8]) {
        let state = &mut self.links[link];
        if state.severed || state.closed_at.is_some() {
            return;
        }
        let room = state.up_cut_after.map_or(u64::MAX, |after| after.saturating_sub(state.up_arrived));
        let taken = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        state.up_arrived += taken as u64;
        state.socket.put(&bytes[..taken]);
        if taken < bytes.len() {
            let (broker, client) = (self.rng.range(0..=20_000), self.rng.range(0..=20_000));
            self.sever(link, Some(broker), Some(client), false);
        }
        self.look_at(link);
    }

    /// Cuts the connection: no more bytes pass. The sides are told after these times in microseconds, or
    /// never.
    pub fn sever(&mut self, link: usize, broker: Option<u64>, client: Option<u64>, reset: bool) {
        let state = &mut self.links[link];
        if state.severed {
            return;
        }
        state.severed = true;
        if reset {
            state.socket.lose_inbound();
        }
        if let Some(after) = broker {
            let end = if reset { SocketEnd::Reset } else { SocketEnd::EndOfStream };
            self.schedule(self.now + after, Due::UpEnds { link, end });
        }
        if let Some(after) = client {
            self.schedule(self.now + after, Due::DownEnds { link });
        }
    }

    /// Makes the shard of a connection look at it, if there is something to see.
    pub fn look_at(&mut self, link: usize) {
        let state = &mut self.links[link];
        if state.is_ready || state.slot.is_none() || state.closing || !state.socket.is_ready() {
            return;
        }
        state.is_ready = true;
        let shard = state.shard;
        self.shards[shard].ready.push_back(Ready::Read(link));
        let soon = self.rng.range(1..=30);
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
        let is_read = !state.ended;
        match state.take_arrived(&bytes) {
            Ok((mqtt, arrival)) => {
                self.send_raw(link, &arrival.answer);
                if arrival.completes {
                    self.secured(link);
                }
                if is_read && !mqtt.is_empty() {
                    self.happenings.push_back(Happening::Received { link, bytes: mqtt });
                }
            }
            Err(why) => self.happenings.push_back(Happening::Broken(why)),
        }
        self.transfer(link);
    }

    /// Moves bytes from the driver's backlog to the kernel, as far as there is room.
    pub fn transfer(&mut self, link: usize) {
        let now = self.now;
        let jitter = self.rng.below(30);
        let state = &mut self.links[link];
        let room = state.capacity.saturating_sub(state.in_flight).min(state.backlog.len());
        if room > 0 {
            let bytes: Vec<u8> = state.backlog.drain(..room).collect();
            state.in_flight += room;
            state.backlog_taken += room as u64;
            // A turn whose effects are still appearing may have sent them later than now.
            let at = state.down_last.max(now.max(state.sent_at) + state.latency + jitter);
            let at = at.max(state.down_stalled_until);
            state.down_last = at;
            state.on_the_way.push_back(bytes);
            self.schedule(at, Due::DownArrives { link });
        }
        let state = &mut self.links[link];
        if !state.backlog.is_empty() {
            if room > 0 && state.backlogged {
                self.tell_backlog(link);
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
                self.shards[shard].ready.push_back(Ready::Drained(link));
                self.wake_shard(shard, 1);
            }
        }
    }

    /// The driver reports each change of a backlog.
    pub fn tell_backlog(&mut self, link: usize) {
        let state = &mut self.links[link];
        if state.slot.is_some() && !std::mem::replace(&mut state.backlog_told, true) {
            let shard = state.shard;
            self.shards[shard].ready.push_back(Ready::Backlogged(link));
            self.wake_shard(shard, 1);
        }
    }

    pub fn down_ends(&mut self, link: usize) {
        let state = &mut self.links[link];
        if state.in_flight > 0 && !state.severed {
            return self.schedule(self.now + 100, Due::DownEnds { link });
        }
        if !std::mem::replace(&mut state.ended, true) {
            self.happenings.push_back(Happening::Ended { link });
        }
    }

    /// Gives a shard its next turn after this time at the latest. A shard that has its turn now plans the
    /// next one itself.
    pub fn wake_shard(&mut self, shard: usize, after: u64) {
        if self.turn.is_some_and(|(own, _)| own == shard) {
            return;
        }
        let at = self.now + after;
        self.plan_turn(shard, at);
    }

    pub fn plan_turn(&mut self, shard: usize, at: u64) {
        let state = &mut self.shards[shard];
        let at = at.max(state.stalled_until);
        if state.is_over || state.due_at.is_some_and(|due| due <= at) {
            return;
        }
        state.due_at = Some(at);
        let run = self.run;
        self.schedule(at, Due::Turn { shard, run });
    }

    /// The connection in this slot, as long as the host has not closed it.
    pub fn link_at(&self, shard: usize, slot: ConnectionSlot) -> Option<usize> {
        let link = self.shards[shard].slots.get(slot.at()).copied().flatten()?;
        (!self.links[link].closing).then_some(link)
    }

    pub fn give_slot(&mut self, shard: usize, link: usize) -> ConnectionSlot {
        let state = &mut self.shards[shard];
        let slot = match state.free.pop() {
            Some(slot) => slot,
            None => {
                state.slots.push(None);
                ConnectionSlot::new(u32::try_from(state.slots.len() - 1).expect("slots are 32 bits"))
            }
        };
        state.slots[slot.at()] = Some(link);
        let link = &mut self.links[link];
        (link.slot, link.shard) = (Some(slot), shard);
        slot
    }

    pub fn take_slot(&mut self, link: usize) {
        let shard = self.links[link].shard;
        if let Some(slot) = self.links[link].slot.take() {
            self.shards[shard].slots[slot.at()] = None;
            self.shards[shard].freed.push(slot);
        }
    }

    /// Ends a pending operation on files.
    pub fn finish_file(&mut self, number: u64) {
        if let Some((shard, work, result)) = self.disk.finish(number) {
            self.shards[shard].files_done.push_back(FileDone { work, result });
            self.wake_shard(shard, 1);
        }
    }
}
