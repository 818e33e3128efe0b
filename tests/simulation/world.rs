//! The broker on a virtual clock: the hosts of its shards, with a kernel that behaves as the seed says.

use crate::disk::{Disk, Torn};
use crate::io::SimIo;
use crate::kernel::{Due, Happening, Kernel, Ready, ShardState, Wake};
use crate::link::Link;
use crate::plan::Plan;
use crate::recovery::{DIRECTORY, Recovered, Store};
use crate::tls::{RunTls, TlsEnd};
use crate::wire::{Wire, proxy_header};
use midge::base::ShardId;
use midge::broker::questions::{Answer, Inquiry, InquiryProgress, Question};
use midge::broker::trace::{TRACE_SECONDS_MAX, TraceId, TraceOrder, TraceTarget};
use midge::broker::{Counter, Shared, TurnBudget};
use midge::control::access_policies::AccessPolicies;
use midge::control::logins::CheckLogins;
use midge::host::{Control, Host, Io, ShardStart, StartStore};
use midge::policy::access::{Login, Verdict};
use midge::settings::Config;
use midge::store::segment::LogName;
use midge::store::{Restored, Wall};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// See the module. The kernel has everything but the broker itself.
pub struct World {
    /// `None` while a host has it.
    kernel: Option<Box<Kernel>>,
    hosts: Vec<Host<SimIo>>,
    shared: Arc<Shared>,
    control: Arc<Control>,
    store: Store,
    seed: u64,
    /// Shards whose disk was full, as far as they know.
    full: BTreeSet<usize>,
    watched: bool,
}

impl Deref for World {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        self.kernel.as_ref().expect("no host has its turn")
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Kernel {
        self.kernel.as_mut().expect("no host has its turn")
    }
}

/// Logins for a broker whose clients have no passwords.
struct NoLogins;

impl CheckLogins for NoLogins {
    fn at_once(&self, _shards: usize) -> usize {
        1
    }

    fn check(
        &self,
        _policies: &AccessPolicies,
        _login: Box<Login>,
        _done: Arc<dyn Fn(Verdict) + Send + Sync>,
    ) -> Result<(), Verdict> {
        Err(Verdict::Unavailable)
    }
}

fn control(config: &Config, seed: u64) -> Arc<Control> {
    let policies = AccessPolicies::load(config).expect("no listener names a file");
    // This is more than any run has at a time.
    let connections_max = 1000;
    Arc::new(Control::new(config, policies, connections_max, Box::new(NoLogins), seed))
}

impl World {
    pub fn new(plan: &Plan, config: Config, tls: Option<RunTls>) -> World {
        let &Plan { shards, weather, seed, layers, watched, .. } = plan;
        let kernel = Kernel::new(weather, seed, layers, tls);
        let wall = Wall { zero_millis: kernel.clocks.reading(0).wall_millis };
        let mut world = World {
            kernel: Some(Box::new(kernel)),
            hosts: Vec::new(),
            shared: Arc::new(Shared::new(config.clone(), shards, seed).0),
            control: control(&config, seed),
            store: Store::new(1, shards),
            seed,
            full: BTreeSet::new(),
            watched,
        };
        world.power_on(shards, config, wall, Vec::new());
        world
    }

    /// Cuts the power: every connection and everything in memory is lost. Returns what has become of the
    /// pending writes.
    pub fn power_off(&mut self) -> Torn {
        self.hosts.clear();
        self.full.clear();
        self.run += 1;
        for link in 0..self.links.len() {
            let told = self.rng.range(0..=200_000);
            let now = self.now;
            let state = &mut self.links[link];
            // A turn whose effects were still appearing has no further effects.
            if state.closed_at.is_none_or(|closed| closed > now) || state.sent_at > now {
                state.closed_at = Some(now);
                state.slot = None;
                self.sever(link, None, Some(told), true);
            }
        }
        self.shards.clear();
        self.unread.clear();
        let Kernel { disk, rng, now, .. } = &mut **self;
        disk.power_cut(*now, rng)
    }

    /// Recovers the state from the disk for a start.
    pub fn recover(&mut self, shards: usize) -> Result<Recovered, String> {
        let (epoch, seed) = (u64::from(self.run) + 1, self.seed);
        let kernel = self.kernel.as_mut().expect("no host has its turn");
        // The zero of the broker's clock is a little before now.
        let reading = kernel.clocks.reading(kernel.clocks.zero);
        self.store.recover(&mut kernel.disk, (epoch, shards, seed), reading, &mut kernel.rng)
    }

    /// Starts the broker with the state that it has kept: a part for each shard, or nothing. An empty
    /// directory in the configuration means that nothing will be kept.
    pub fn power_on(&mut self, shards: usize, config: Config, wall: Wall, mut restored: Vec<Restored>) {
        let is_persistent = !config.persistence.directory.is_empty();
        let (shared, interests) = Shared::new(config.clone(), shards, self.seed);
        (self.shared, self.control) = (Arc::new(shared), control(&config, self.seed));
        restored.resize_with(shards, Restored::default);
        let run = u64::from(self.run);
        self.shards = (0..shards).map(|_| ShardState::new(shards)).collect();
        for ((shard, interest), restored) in interests.into_iter().enumerate().zip(restored) {
            let id = ShardId::try_from(shard).expect("at most 128 shards");
            let start = ShardStart {
                id,
                shared: Arc::clone(&self.shared),
                control: Arc::clone(&self.control),
                listeners: vec![(0, ())],
                new_listeners: None,
                bell: Arc::new(|| {}),
                questions: None,
                interest,
                seed: self.seed.wrapping_add(u64::from(id) << 32).wrapping_add(run << 48),
            };
            let store = is_persistent.then(|| StartStore {
                name: LogName { epoch: run + 1, shard: id },
                directory: DIRECTORY.into(),
                seed: self.seed,
                restored,
                wall,
                checkpoint: Box::new(self.store.submitter()),
            });
            let mut host = Host::new(start, SimIo::new(shard, self.kernel.take()));
            self.kernel = host.io().kernel.take();
            self.bound(&mut host);
            let told = Rc::clone(&self.shards[shard].told);
            host.observe(move |_, event| told.borrow_mut().push(event.clone()));
            self.hosts.push(host);
            self.lend(shard, |host| host.begin(store));
        }
        let soon = self.now + 1;
        (0..shards).for_each(|shard| self.plan_turn(shard, soon));
    }

    /// This is not drawn, so that other seeds do not change.
    fn bound(&self, host: &mut Host<SimIo>) {
        match self.seed % 13 {
            1 => host.machine().bound_journal(300),
            2 => host.machine().bound_journal(2000),
            12 => host.machine().bound_journal(8000),
            _ => {}
        }
        if self.seed >= SHORT_TURNS_FROM && !self.seed.is_multiple_of(4) {
            let work = [8, 64, 512][self.seed as usize % 4 - 1];
            host.machine().bound_turns(TurnBudget { work, bytes: work * 16, touches: 1 + work / 16 });
        }
    }

    /// Lends the kernel to a host, collects the effects, and plans its next turn.
    fn lend<R>(&mut self, shard: usize, turn: impl FnOnce(&mut Host<SimIo>) -> std::io::Result<R>) -> R {
        let began = self.now;
        self.turn = Some((shard, began));
        let host = &mut self.hosts[shard];
        host.io().kernel = self.kernel.take();
        let result = turn(host).expect("no ring of a simulation fails");
        host.io().tell_events();
        self.kernel = host.io().kernel.take();
        self.note_consumed(shard, began);
        self.note_room(shard);
        let ended = std::mem::replace(&mut self.now, began);
        self.turn = None;
        let state = &mut self.shards[shard];
        state.stalled_until = state.stalled_until.max(ended);
        let run = self.run;
        for (at, happening) in std::mem::take(&mut self.brought) {
            self.schedule(at, Due::Happens { run, happening });
        }
        if self.store.has_sealed() && !std::mem::replace(&mut self.is_checkpoint_due, true) {
            let after = self.rng.range(100..=500_000);
            self.schedule(ended + after, Due::Checkpoint { run });
        }
        self.plan_next_turn(shard, ended);
        result
    }

    fn plan_next_turn(&mut self, shard: usize, ended: u64) {
        let soon = ended + self.rng.range(1..=20);
        let state = &mut self.shards[shard];
        let found_box_full = std::mem::take(&mut state.found_box_full);
        let has_room = std::mem::replace(&mut state.is_overflowing, found_box_full) && !found_box_full;
        let is_busy = !state.ready.is_empty() || !state.files_done.is_empty();
        let mail = state.boxes.iter().filter_map(|place| place.front()).map(|posted| posted.at).min();
        let mail = mail.filter(|_| state.takes_mails);
        let at = [is_busy.then_some(soon), mail, state.wait].into_iter().flatten().min();
        if let Some(at) = at {
            self.plan_turn(shard, at.max(soon));
        }
        if has_room && self.shards.iter().all(|state| !state.is_overflowing) {
            self.happenings.push_back(Happening::BoxesHaveRoom);
        }
    }

    /// Records how many of its bytes the machine has taken. The rest waits in the machine.
    fn note_consumed(&mut self, shard: usize, began: u64) {
        let mut consumed = Vec::new();
        for link in std::mem::take(&mut self.unread) {
            let state = &self.links[link];
            let is_over = state.closing || state.closed_at.is_some();
            let slot = state.slot.filter(|_| !is_over);
            // While it moves to another shard, no shard reads it.
            if state.shard != shard || (slot.is_none() && !is_over) {
                self.unread.insert(link);
                continue;
            }
            let unread = slot.map_or(0, |slot| self.hosts[shard].machine().unread_bytes(slot));
            let state = &mut self.links[link];
            let upto = state.mqtt_in(state.up_given) - unread as u64;
            state.forget(state.up_given.min(state.up_arrived));
            if upto > std::mem::replace(&mut state.up_consumed, upto) {
                consumed.push((began, Happening::Consumed { link, upto, whole: slot.is_some() }));
            }
            if unread > 0 {
                self.unread.insert(link);
            }
        }
        self.brought.splice(..0, consumed);
    }

    /// Checks whether a shard whose disk was full has found room.
    fn note_room(&mut self, shard: usize) {
        if self.full.contains(&shard)
            && !self.disk.is_full(shard)
            && !self.hosts[shard].machine().is_store_full()
        {
            self.full.remove(&shard);
            self.tell(Happening::DiskHasRoom { shard });
        }
    }

    /// Cuts the power as soon as a batch of more than one block is being written.
    pub fn cut_power_while_writing(&mut self, down: u64, shards: usize) {
        self.cut_while_writing = Some((down, shards));
    }

    /// Fills the disk for the log of a shard. Returns false if there is no such log now.
    pub fn fill_disk(&mut self, shard: usize) -> bool {
        let is_there = shard < self.hosts.len() && !self.disk.has_failed(shard);
        if is_there {
            self.disk.set_full(shard, true);
            self.full.insert(shard);
        }
        is_there
    }

    /// Makes room on the disk again.
    pub fn empty_disk(&mut self, shard: usize) {
        self.disk.set_full(shard, false);
        if shard < self.hosts.len() {
            self.wake_shard(shard, 1);
        }
    }

    /// Makes the log of a shard fail: nothing is durable any more.
    pub fn fail_disk(&mut self, shard: usize) -> bool {
        let is_there = shard < self.hosts.len();
        if is_there {
            self.disk.fail(shard);
        }
        is_there
    }

    /// Whether it accepts connections.
    pub fn is_serving(&self) -> bool {
        !self.shards.is_empty() && self.shards.iter().all(|shard| shard.is_listening)
    }

    /// Whether it has ever accepted connections.
    pub fn has_served(&self) -> bool {
        !self.shards.is_empty() && self.shards.iter().all(|shard| shard.has_listened)
    }

    /// How long the power must stay on: a shard that has waited for the disk in its turn is ahead by that
    /// time.
    pub fn must_wait(&self) -> Option<u64> {
        let until = self.shards.iter().map(|shard| shard.waited_until).max()?;
        until.checked_sub(self.now).filter(|&left| left > 0)
    }

    /// Whether it was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.control.stop.load(Ordering::Acquire)
    }

    pub fn has_stopped(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_over)
    }

    /// Requests a wake-up after this many microseconds.
    pub fn wake_after(&mut self, micros: u64, wake: Wake) {
        let at = self.now + micros;
        self.schedule(at, Due::Wake(wake));
    }

    /// Opens a connection of a client, which this shard accepts.
    pub fn open(&mut self, shard: usize) -> usize {
        let latency = self.rng.range(20..=1500);
        let link = self.links.len();
        let layers = self.layers;
        let header = if layers.proxy { proxy_header(peer(link)) } else { Vec::new() };
        let resumes = self.tls.is_some() && self.rng.chance(500);
        let ends = match &self.tls {
            Some(tls) => (Wire::new(layers, Vec::new()), Some(tls.open(header, resumes))),
            None => (Wire::new(layers, header), None),
        };
        let mut new = Link::new(shard, latency, self.weather.socket_bytes, layers, ends);
        new.up_last = self.now + latency;
        self.links.push(new);
        if !self.is_serving() {
            self.links[link].closed_at = Some(self.now);
            self.sever(link, None, Some(latency), true);
            return link;
        }
        self.shards[shard].ready.push_back(Ready::Accept(link));
        self.wake_shard(shard, latency);
        link
    }

    /// Sends bytes of the client. Returns how many bytes it has sent in total.
    pub fn send(&mut self, link: usize, bytes: &[u8]) -> u64 {
        let kernel = &mut **self;
        let raw = kernel.links[link].wrap(bytes, &mut kernel.rng);
        kernel.send_raw(link, &raw);
        let state = &mut self.links[link];
        state.up_sent += bytes.len() as u64;
        state.up_sent
    }

    /// Closes the client's end after what it has sent. What waits for a handshake is sent first.
    pub fn leave(&mut self, link: usize) {
        let state = &mut self.links[link];
        state.left = true;
        state.ended = true;
        if state.tls.as_ref().is_none_or(TlsEnd::is_established) {
            self.end_up(link);
        }
    }

    /// Delays everything that would arrive at the broker, or at the client, by these times.
    pub fn stall(&mut self, link: usize, up: u64, down: u64) {
        let now = self.now;
        let state = &mut self.links[link];
        state.up_stalled_until = state.up_stalled_until.max(now + up);
        state.down_stalled_until = state.down_stalled_until.max(now + down);
    }

    /// Takes the core away from a shard for this time.
    pub fn stall_shard(&mut self, shard: usize, micros: u64) {
        let until = self.now + micros;
        if let Some(state) = self.shards.get_mut(shard) {
            state.stalled_until = state.stalled_until.max(until);
        }
    }

    pub fn shut_down(&mut self) {
        self.control.stop.store(true, Ordering::Release);
        for shard in 0..self.hosts.len() {
            self.wake_shard(shard, 0);
        }
    }

    /// Whether a CONNECT was processed, or can't be processed any more.
    pub fn connect_is_settled(&self, link: usize, connect_len: u64) -> bool {
        let link = &self.links[link];
        let arrived = link.mqtt_in(link.up_arrived);
        link.served || link.closed_at.is_some() || (link.severed && arrived < connect_len)
    }

    pub fn shard_count(&self) -> usize {
        self.hosts.len()
    }

    pub fn counter(&self, counter: Counter) -> u64 {
        self.shared.counters.iter().map(|counters| counters.get(counter)).sum()
    }

    pub fn connections(&mut self) -> usize {
        self.hosts.iter_mut().map(|host| host.machine().connections()).sum()
    }

    /// Whether no shard has anything to do, or a timer.
    pub fn is_idle(&mut self) -> bool {
        let is_idle = |host: &mut Host<SimIo>| {
            let machine = host.machine();
            !machine.has_deferred() && machine.next_deadline().is_none()
        };
        self.hosts.iter_mut().all(is_idle)
            && self.shards.iter().all(|shard| {
                !shard.is_overflowing && shard.boxes.iter().all(std::collections::VecDeque::is_empty)
            })
    }

    /// Handles the next due event, if it is not later than `end`. The clock advances to it, or to `end`.
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
                if run == self.run && self.shards[shard].due_at == Some(at) {
                    self.shards[shard].due_at = None;
                    self.take_turn(shard);
                }
            }
            Due::FileDone { number } => self.finish_file(number),
            Due::Checkpoint { run } if run == self.run => self.checkpoint(),
            Due::Happens { run, happening } if run == self.run => self.happenings.push_back(happening),
            Due::Checkpoint { .. } | Due::Happens { .. } => {}
            Due::UpArrives { link, bytes } => self.up_arrives(link, &bytes),
            Due::UpEnds { link, end } => {
                if self.links[link].closed_at.is_none() {
                    self.links[link].socket.end(end);
                    self.look_at(link);
                }
            }
            Due::DownArrives { link } => self.down_arrives(link),
            Due::DownEnds { link } => self.down_ends(link),
            Due::Wake(wake) => self.happenings.push_back(Happening::Woken(wake)),
        }
        true
    }

    fn take_turn(&mut self, shard: usize) {
        let until = self.shards[shard].stalled_until;
        if until > self.now {
            return self.plan_turn(shard, until);
        }
        let watched = self.watched;
        let goes_on = self.lend(shard, |host| {
            if watched {
                watch(host);
            }
            host.turn()
        });
        self.shards[shard].is_over |= !goes_on;
    }

    /// The checkpoint takes what waits, or fails and tries again.
    fn checkpoint(&mut self) {
        self.is_checkpoint_due = false;
        let kernel = self.kernel.as_mut().expect("no host has its turn");
        if kernel.rng.chance(100) {
            kernel.is_checkpoint_due = true;
            let (at, run) = (kernel.now + 1_000_000, kernel.run);
            return kernel.schedule(at, Due::Checkpoint { run });
        }
        let disk: &mut Disk = &mut kernel.disk;
        if let Err(why) = self.store.work(disk) {
            kernel.happenings.push_back(Happening::Broken(why));
        }
    }
}

/// From this seed on, three out of four have turns that may do very little.
pub const SHORT_TURNS_FROM: u64 = 10_000_000;

/// Reads the traces of an operator, or begins them: of every topic, and of one client's address.
fn watch(host: &mut Host<SimIo>) {
    let now = Io::now(host.io());
    let mut ask = |question| host.machine().answer(now, &mut Inquiry::new(question), 64);
    let targets = [TraceTarget::Topic("#".into()), TraceTarget::Address(peer(0).ip())];
    for (number, target) in (0..).zip(targets) {
        let id = TraceId(number);
        if let InquiryProgress::Done(Answer::TraceRead(None)) = ask(Question::TraceRead(id)) {
            let order = TraceOrder { id, target, shows_payload: true, seconds: TRACE_SECONDS_MAX };
            ask(Question::TraceBegin(Box::new(order)));
        }
    }
}

/// The connection with this peer address.
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
