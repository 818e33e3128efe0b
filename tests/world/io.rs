//! The hosts' kernel interface in memory: one clock, links that deliver at once, boxes without a bound, a
//! disk.
//!
//! A link's number is also its slot, on every shard.

use super::disk::{Clocks, Disk};
use super::socket::{Came, Socket};
use midge::base::log_files::{FileDone, FileId, FileOperation, LogFiles, LogWork};
use midge::base::{ClockReading, ConnectionSlot, Time};
use midge::broker::outbox::Outbox;
use midge::host::{Io, IoEvent, ShardMessage, SocketEnd};
use midge::settings::Limits;
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The duration of a system call. Loops of the host wait for the clock.
const CALL: Duration = Duration::from_micros(1);

/// The state that all shards of a world share.
pub struct Kernel {
    pub now: Time,
    pub clocks: Clocks,
    pub disk: Disk,
    pub links: Vec<Link>,
    sides: Vec<Side>,
    /// Messages on their way, by receiver and sender.
    boxes: Vec<Vec<VecDeque<ShardMessage<u32>>>>,
    /// Boxes that deliver nothing, by receiver and sender.
    held: Vec<(usize, usize)>,
    /// The largest number of bytes that were encoded between two flushes, and that were queued for
    /// connections.
    pub most_encoded: usize,
    pub most_queued: usize,
}

/// A connection.
pub struct Link {
    /// The shard that owns it. `None` if it is on its way to another shard, or closed.
    shard: Option<usize>,
    socket: Socket,
    /// The bytes that the broker has sent and nobody has taken.
    pub received: Vec<u8>,
    /// Whether the broker has closed it.
    pub is_closed: bool,
}

/// The kernel's state of one shard.
struct Side {
    listening: Vec<u16>,
    connections: usize,
    accepted: Vec<IoEvent<Vec<u8>>>,
    /// Links for which a poll may report something.
    stirred: BTreeSet<ConnectionSlot>,
    /// Links that are closed at the next flush.
    closing: Vec<ConnectionSlot>,
    has_rung: Arc<AtomicBool>,
    parked: Parked,
}

/// The way in which a shard has parked.
#[derive(Default)]
struct Parked {
    /// The time at which it needs its next turn.
    until: Option<Time>,
    takes_mails: bool,
    /// Whether it has taken more events than it has handled.
    has_events: bool,
}

impl Kernel {
    pub fn new() -> Kernel {
        Kernel {
            now: Time::ZERO,
            clocks: Clocks::new(),
            disk: Disk::default(),
            links: Vec::new(),
            sides: Vec::new(),
            boxes: Vec::new(),
            held: Vec::new(),
            most_encoded: 0,
            most_queued: 0,
        }
    }

    /// Begins a broker. Only the disk of the previous one is left.
    pub fn begin_shards(&mut self, shards: usize) {
        self.now = Time::ZERO;
        (0..self.sides.len()).for_each(|shard| self.close_all(shard));
        self.links.iter_mut().for_each(|link| (link.shard, link.is_closed) = (None, true));
        self.boxes = (0..shards).map(|_| (0..shards).map(|_| VecDeque::new()).collect()).collect();
        self.held.clear();
        self.disk.begin_shards(shards);
        let side = |_| Side {
            listening: Vec::new(),
            connections: 0,
            accepted: Vec::new(),
            stirred: BTreeSet::new(),
            closing: Vec::new(),
            has_rung: Arc::default(),
            parked: Parked::default(),
        };
        self.sides = (0..shards).map(side).collect();
    }

    /// The bell of a shard. It can be rung from any thread.
    pub fn bell(&self, shard: usize) -> Arc<dyn Fn() + Send + Sync> {
        let has_rung = Arc::clone(&self.sides[shard].has_rung);
        Arc::new(move || has_rung.store(true, Ordering::Release))
    }

    pub fn is_listening(&self, shard: usize) -> bool {
        !self.sides[shard].listening.is_empty()
    }

    /// Opens a client connection.
    pub fn open(&mut self, shard: usize, listener: u16, peer: SocketAddr) -> usize {
        let side = &mut self.sides[shard];
        assert!(side.listening.contains(&listener), "nobody listens");
        let link = self.links.len();
        let slot = ConnectionSlot::new(u32::try_from(link).expect("slots are 32 bits"));
        side.accepted.push(IoEvent::Accepted { listener, slot, peer });
        side.connections += 1;
        let socket = Socket::new();
        self.links.push(Link { shard: Some(shard), socket, received: Vec::new(), is_closed: false });
        link
    }

    pub fn send(&mut self, link: usize, bytes: &[u8]) {
        self.links[link].socket.put(bytes);
        self.stir(link);
    }

    pub fn end(&mut self, link: usize, end: SocketEnd) {
        self.links[link].socket.end(end);
        self.stir(link);
    }

    /// From now on, messages from `from` to `to` wait until `release`.
    pub fn hold(&mut self, from: usize, to: usize) {
        self.held.push((to, from));
    }

    pub fn release(&mut self, from: usize, to: usize) {
        self.held.retain(|held| *held != (to, from));
    }

    /// The number of mails and sockets that are on their way.
    pub fn on_the_way(&self, from: usize, to: usize) -> usize {
        self.boxes[to][from].len()
    }

    /// Whether a turn of this shard would find something to do now.
    pub fn has_work(&self, shard: usize) -> bool {
        let Side { parked, accepted, stirred, has_rung, .. } = &self.sides[shard];
        parked.has_events
            || parked.until.is_some_and(|until| until <= self.now)
            || (parked.takes_mails && self.has_messages(shard))
            || !accepted.is_empty()
            || stirred.iter().any(|&slot| self.links[slot.at()].socket.is_ready())
            || has_rung.load(Ordering::Acquire)
            || self.disk.is_ready(shard)
    }

    /// The time at which a sleeping shard needs its next turn.
    pub fn wakes_at(&self, shard: usize) -> Option<Time> {
        self.sides[shard].parked.until
    }

    /// Closes all sockets of a shard that has ended.
    pub fn close_all(&mut self, shard: usize) {
        for link in self.links.iter_mut().filter(|link| link.shard == Some(shard)) {
            (link.shard, link.is_closed) = (None, true);
        }
        self.sides[shard].connections = 0;
    }

    fn stir(&mut self, link: usize) {
        if let Some(shard) = self.links[link].shard {
            self.sides[shard].stirred.insert(ConnectionSlot::new(link as u32));
        }
    }

    /// A connection of a shard. `None` if it has gone.
    fn link(&mut self, shard: usize, slot: ConnectionSlot) -> Option<&mut Link> {
        self.links.get_mut(slot.at()).filter(|link| link.shard == Some(shard))
    }

    fn change(&mut self, shard: usize, slot: ConnectionSlot, change: impl FnOnce(&mut Socket)) {
        if let Some(link) = self.link(shard, slot) {
            change(&mut link.socket);
            self.sides[shard].stirred.insert(slot);
        }
    }

    fn close(&mut self, shard: usize, slot: ConnectionSlot) {
        let link = self.link(shard, slot).expect("a shard closes what is its own");
        (link.shard, link.is_closed) = (None, true);
        self.sides[shard].connections -= 1;
    }

    fn has_messages(&self, shard: usize) -> bool {
        (0..self.boxes.len()).any(|from| self.waiting(shard, from) > 0)
    }

    fn waiting(&self, shard: usize, from: usize) -> usize {
        if self.held.contains(&(shard, from)) { 0 } else { self.boxes[shard][from].len() }
    }

    fn poll(&mut self, shard: usize, events: &mut Vec<IoEvent<Vec<u8>>>) {
        self.disk.finish(shard);
        let side = &mut self.sides[shard];
        events.append(&mut side.accepted);
        if side.has_rung.swap(false, Ordering::AcqRel) {
            events.push(IoEvent::Readable { token: 0 });
        }
        for slot in std::mem::take(&mut side.stirred) {
            let Some(link) = self.link(shard, slot) else { continue };
            events.extend(link.socket.take(|all| all).into_iter().map(|came| match came {
                Came::Bytes(buffer) => IoEvent::Received { slot, buffer },
                Came::End(cause) => IoEvent::Hangup { slot, cause },
            }));
            if link.socket.is_ready() {
                self.sides[shard].stirred.insert(slot);
            }
        }
    }

    /// Delivers the sent bytes to the clients.
    fn flush(&mut self, shard: usize, outbox: &Outbox) {
        let queued = outbox.touched().iter().map(|touched| touched.bytes as usize).sum();
        self.most_encoded = self.most_encoded.max(outbox.arena_bytes());
        self.most_queued = self.most_queued.max(queued);
        for touched in outbox.touched() {
            let link = self.link(shard, touched.slot).expect("bytes go to the shard's own connections");
            for range in outbox.segments_of(touched) {
                link.received.extend_from_slice(outbox.bytes(range));
            }
        }
        for slot in std::mem::take(&mut self.sides[shard].closing) {
            self.close(shard, slot);
        }
    }
}

/// The interface for one shard.
pub struct WorldIo {
    kernel: Rc<RefCell<Kernel>>,
    shard: usize,
}

impl WorldIo {
    pub fn new(kernel: Rc<RefCell<Kernel>>, shard: usize) -> WorldIo {
        WorldIo { kernel, shard }
    }

    fn change(&mut self, slot: ConnectionSlot, change: impl FnOnce(&mut Socket)) {
        self.kernel.borrow_mut().change(self.shard, slot, change);
    }
}

impl Io for WorldIo {
    type Listener = ();
    type Socket = u32;
    type Buffer = Vec<u8>;

    fn now(&self) -> Time {
        self.kernel.borrow().now
    }

    fn read_clock(&self) -> (Time, ClockReading) {
        let kernel = self.kernel.borrow();
        (kernel.now, kernel.clocks.reading(kernel.now))
    }

    fn poll(&mut self, events: &mut Vec<IoEvent<Vec<u8>>>) {
        self.kernel.borrow_mut().poll(self.shard, events);
    }

    fn flush(&mut self, outbox: &Outbox, _: &mut Vec<IoEvent<Vec<u8>>>) -> io::Result<()> {
        let mut kernel = self.kernel.borrow_mut();
        kernel.flush(self.shard, outbox);
        kernel.now = kernel.now.after(CALL);
        Ok(())
    }

    fn park(
        &mut self,
        outbox: &Outbox,
        events: &mut Vec<IoEvent<Vec<u8>>>,
        deadline: Option<Duration>,
        takes_mails: bool,
    ) -> io::Result<()> {
        let mut kernel = self.kernel.borrow_mut();
        kernel.flush(self.shard, outbox);
        let until = deadline.map(|deadline| kernel.now.after(deadline));
        kernel.sides[self.shard].parked = Parked { until, takes_mails, has_events: !events.is_empty() };
        Ok(())
    }

    fn set_backlog_bytes_max(&mut self, _: usize) {}

    fn listen(&mut self, listener: u16, (): ()) {
        self.kernel.borrow_mut().sides[self.shard].listening.push(listener);
    }

    fn close_listener(&mut self, listener: u16) {
        self.kernel.borrow_mut().sides[self.shard].listening.retain(|&other| other != listener);
    }

    fn tune_listeners(&mut self, _: &Limits) -> io::Result<()> {
        Ok(())
    }

    fn stop_listening(&mut self) {
        self.kernel.borrow_mut().sides[self.shard].listening.clear();
    }

    fn connections(&self) -> usize {
        self.kernel.borrow().sides[self.shard].connections
    }

    fn bytes<'a>(&'a self, buffer: &'a Vec<u8>) -> &'a [u8] {
        buffer
    }

    fn give_back(&mut self, _: Vec<u8>) {}

    fn hold(&mut self, slot: ConnectionSlot, buffer: Vec<u8>, consumed: usize) {
        self.change(slot, |socket| socket.hold(&buffer[consumed..]));
    }

    fn hold_hangup(&mut self, slot: ConnectionSlot, cause: SocketEnd) -> bool {
        let mut kernel = self.kernel.borrow_mut();
        kernel.link(self.shard, slot).is_some_and(|link| link.socket.hold_end(cause))
    }

    fn is_held(&self, slot: ConnectionSlot) -> bool {
        let mut kernel = self.kernel.borrow_mut();
        kernel.link(self.shard, slot).is_some_and(|link| link.socket.is_held())
    }

    fn receive_once(&mut self, slot: ConnectionSlot) {
        self.change(slot, Socket::receive_once);
    }

    fn receive_stream(&mut self, slot: ConnectionSlot) {
        self.change(slot, Socket::receive_stream);
    }

    fn pause(&mut self, slot: ConnectionSlot) {
        self.change(slot, Socket::pause);
    }

    fn resume(&mut self, slot: ConnectionSlot) {
        self.change(slot, Socket::resume);
    }

    fn close(&mut self, slot: ConnectionSlot) {
        self.kernel.borrow_mut().sides[self.shard].closing.push(slot);
    }

    fn abort(&mut self, slot: ConnectionSlot) {
        self.kernel.borrow_mut().close(self.shard, slot);
    }

    fn detach(&mut self, slot: ConnectionSlot) -> Option<u32> {
        let mut kernel = self.kernel.borrow_mut();
        let link = kernel.link(self.shard, slot).expect("a shard hands over what is its own");
        if !link.socket.can_move() {
            return None;
        }
        link.shard = None;
        kernel.sides[self.shard].connections -= 1;
        Some(slot.get())
    }

    fn adopt(&mut self, link: u32) -> ConnectionSlot {
        let mut kernel = self.kernel.borrow_mut();
        let slot = ConnectionSlot::new(link);
        let link = &mut kernel.links[slot.at()];
        link.shard = Some(self.shard);
        link.socket.adopt();
        kernel.sides[self.shard].connections += 1;
        slot
    }

    fn send(&mut self, to: usize, message: ShardMessage<u32>, _: usize) -> Result<(), ShardMessage<u32>> {
        self.kernel.borrow_mut().boxes[to][self.shard].push_back(message);
        Ok(())
    }

    fn waiting(&self, from: usize) -> usize {
        self.kernel.borrow().waiting(self.shard, from)
    }

    fn receive(&mut self, from: usize) -> Option<ShardMessage<u32>> {
        let mut kernel = self.kernel.borrow_mut();
        if kernel.waiting(self.shard, from) == 0 {
            return None;
        }
        kernel.boxes[self.shard][from].pop_front()
    }

    fn has_messages(&self) -> bool {
        self.kernel.borrow().has_messages(self.shard)
    }

    fn next_file_done(&mut self) -> Option<FileDone> {
        self.kernel.borrow_mut().disk.next_done(self.shard)
    }

    fn await_files(&mut self, patience: Duration) -> io::Result<()> {
        let mut kernel = self.kernel.borrow_mut();
        let waits = if kernel.disk.is_ready(self.shard) { CALL } else { patience };
        kernel.now = kernel.now.after(waits);
        kernel.disk.finish(self.shard);
        Ok(())
    }

    fn give_memory_back(&mut self) {}
}

impl LogFiles for WorldIo {
    fn begin(&mut self, work: LogWork, operation: FileOperation) {
        self.kernel.borrow_mut().disk.begin(self.shard, work, operation);
    }

    fn write(&mut self, work: LogWork, file: FileId, at: u64, bytes: usize, fill: impl FnOnce(&mut [u8])) {
        let mut buffer = vec![0; bytes];
        fill(&mut buffer);
        self.kernel.borrow_mut().disk.write(self.shard, work, file, at, buffer);
    }

    fn close_file(&mut self, _: FileId) {}

    fn is_found(&self, path: &Path, file: FileId) -> io::Result<bool> {
        self.kernel.borrow().disk.is_found(path, file)
    }
}
