//! The net of a shard: it joins the ring, the buffers and the slots, and passes each completion to the part
//! that handles it.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::{opcode, squeue, types};

use super::Buffer;
use super::accept::Listener;
use super::buffers::Buffers;
use super::files::Files;
use super::kernel::make_patiently;
use super::lent::Lent;
use super::ring::{Op, Ring, RingCompletion, Tag, Wait, more};
use super::send::SendBatch;
use super::slots::SocketSlots;
use super::{IoEvent, NetConfig};
use crate::base::ConnectionSlot;

/// All sockets of one shard. It stays on the thread that has created it.
pub struct Net {
    pub(super) ring: Ring,
    pub(super) buffers: Buffers,
    pub(super) slots: SocketSlots,
    pub(super) config: NetConfig,
    pub(super) listeners: Vec<Listener>,
    watches: Vec<Watched>,
    /// Held bytes that are on loan to the owner, by the number in their buffer.
    pub(super) lent: Lent,
    /// Slots for whose receive there was no buffer.
    pub(super) starved: VecDeque<ConnectionSlot>,
    /// Slots with held bytes to deliver.
    pub(super) resumed: Vec<ConnectionSlot>,
    /// Slots with a backlog whose peer can take bytes again.
    pub(super) writable: Vec<ConnectionSlot>,
    /// Slots with a backlog whose peer has closed its side. They are tried again at that time.
    pub(super) shut_peers: Vec<ConnectionSlot>,
    pub(super) shut_retry_at: Option<Instant>,
    /// Slots to close after this turn's sends.
    pub(super) closing: Vec<ConnectionSlot>,
    /// Closed slots with their generation, in the order of their deadlines.
    pub(super) lingering: VecDeque<(Instant, ConnectionSlot, u32)>,
    pub(super) batch: SendBatch,
    pub(super) files: Files,
    woken: bool,
    /// The ring's first error. Every later flush and park returns it.
    failure: Option<i32>,
    _not_send: PhantomData<*const ()>,
}

impl Net {
    /// Creates the ring and its buffers. It must be called on the shard's own thread.
    pub fn new(config: &NetConfig) -> io::Result<Net> {
        make_patiently(|| Net::make(config))
    }

    fn make(config: &NetConfig) -> io::Result<Net> {
        let ring = Ring::new(config.ring)?;
        let buffers = Buffers::new(&ring.submitter(), config.buffers, config.buffer_bytes)?;
        Ok(Net {
            ring,
            buffers,
            slots: SocketSlots::default(),
            config: config.clone(),
            listeners: Vec::new(),
            watches: Vec::new(),
            lent: Lent::default(),
            starved: VecDeque::new(),
            resumed: Vec::new(),
            writable: Vec::new(),
            shut_peers: Vec::new(),
            shut_retry_at: None,
            closing: Vec::new(),
            lingering: VecDeque::new(),
            batch: SendBatch::default(),
            files: Files::default(),
            woken: false,
            failure: None,
            _not_send: PhantomData,
        })
    }

    /// Sets [`NetConfig::backlog_bytes_max`].
    pub fn set_backlog_bytes_max(&mut self, bytes: usize) {
        self.config.backlog_bytes_max = bytes;
    }

    /// The descriptor of the ring, with which other shards wake this one.
    pub fn ring_fd(&self) -> RawFd {
        self.ring.fd()
    }

    /// The number of connections, including those that linger after a close.
    pub fn connections(&self) -> usize {
        self.slots.len()
    }

    /// Reports [`IoEvent::Readable`] whenever `fd` has something new to read. It is for pipes and event
    /// counters that signals and other threads write to. The owner must read it until it is empty.
    pub fn watch(&mut self, fd: OwnedFd, token: u32) {
        self.watches.push(Watched { fd, token });
        self.arm_watch(self.watches.len() as u32 - 1);
    }

    /// Wakes the shard with this ring, in the batch at the end of the turn.
    pub fn wake(&mut self, ring: RawFd) {
        let woken = Tag { op: Op::Woken, generation: 0, index: 0 }.pack();
        // The index of the tag is the target, for another try if the kernel lacks memory.
        let tag = Tag { op: Op::Wake, generation: 0, index: ring as u32 };
        let entry = opcode::MsgRingData::new(types::Fd(ring), 0, woken, None)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        self.push(tag, entry);
    }

    /// Appends what has happened to `events`, at most [`EVENTS_MAX`] completions. It makes no system call
    /// unless the kernel has deferred work.
    pub fn poll(&mut self, events: &mut Vec<IoEvent<Buffer>>) {
        self.slots.recycle();
        self.refill();
        self.expire();
        self.deliver_held(events);
        self.ring.reap();
        if !self.ring.has_waiting() && self.ring.has_deferred() {
            self.enter(Wait::Reap);
        }
        self.woken = false;
        for _ in 0..EVENTS_MAX {
            let Some(completion) = self.ring.next() else { break };
            self.complete(completion, events);
        }
    }

    fn complete(&mut self, completion: RingCompletion, events: &mut Vec<IoEvent<Buffer>>) {
        match completion.tag.op {
            Op::Receive => self.received(completion, events),
            Op::Writable => self.became_writable(completion),
            Op::Accept => self.accepted(completion, events),
            Op::Watch => self.became_readable(completion, events),
            Op::Woken => self.was_woken(events),
            Op::Wake => self.wake_failed(completion),
            Op::Gone => self.peer_went(completion, events),
            Op::Send | Op::Cancel | Op::File => {}
        }
    }

    /// Frees memory that was only needed for a larger number of connections. It takes some milliseconds after
    /// tens of thousands have gone, so it is meant for a quiet moment.
    pub fn give_memory_back(&mut self) {
        self.slots.give_memory_back();
        self.ring.give_memory_back();
        self.lent.give_memory_back();
        self.files.give_memory_back();
        self.lingering.shrink_to_fit();
        self.starved.shrink_to_fit();
        for list in [&mut self.resumed, &mut self.writable, &mut self.closing, &mut self.shut_peers] {
            list.shrink_to_fit();
        }
        self.ring.reap();
        if !self.ring.has_waiting() && !self.ring.has_deferred() {
            self.buffers.give_memory_back();
        }
    }

    fn became_readable(&mut self, completion: RingCompletion, events: &mut Vec<IoEvent<Buffer>>) {
        let index = completion.tag.index;
        let Some(watched) = self.watches.get(index as usize) else { return };
        if completion.result > 0 {
            events.push(IoEvent::Readable { token: watched.token });
        }
        if !more(completion.flags) && completion.result > 0 {
            self.arm_watch(index);
        }
    }

    fn was_woken(&mut self, events: &mut Vec<IoEvent<Buffer>>) {
        if !self.woken {
            self.woken = true;
            events.push(IoEvent::Woken);
        }
    }

    fn wake_failed(&mut self, completion: RingCompletion) {
        // A closed ring belongs to a shard that has ended.
        if !matches!(-completion.result, libc::EBADF | libc::EBADFD | libc::EOWNERDEAD) {
            self.wake(completion.tag.index as RawFd);
        }
    }

    fn arm_watch(&mut self, index: u32) {
        let fd = types::Fd(self.watches[index as usize].fd.as_raw_fd());
        let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
        self.push(Tag { op: Op::Watch, generation: 0, index }, entry);
    }

    /// Queues an operation. Its pointers, if any, must stay valid as long as the kernel needs them. Sends
    /// point into the outbox and into backlogs, which do not move between queueing and entering. The memory
    /// of operations on files is kept until their completion.
    pub(super) fn push(&mut self, tag: Tag, entry: squeue::Entry) {
        if self.failure.is_some() {
            return;
        }
        let entry = entry.user_data(tag.pack());
        // SAFETY: only `send` and `files` queue entries with pointers, and they follow the rule above. File
        // descriptors are closed only when nothing is armed on them.
        let pushed = unsafe { self.ring.push(&entry) };
        self.note(pushed);
    }

    pub(super) fn enter(&mut self, wait: Wait) {
        // After an error, the queue may have entries whose memory has been freed, so the kernel must not be
        // entered again.
        if self.failure.is_none() {
            let entered = self.ring.enter(wait);
            self.note(entered);
        }
    }

    fn note(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.failure.get_or_insert(error.raw_os_error().unwrap_or(libc::EIO));
        }
    }

    pub(super) fn health(&self) -> io::Result<()> {
        self.failure.map_or(Ok(()), |error| Err(io::Error::from_raw_os_error(error)))
    }

    /// Publishes the buffers that were given back, and arms the receives that have waited for them.
    pub(super) fn refill(&mut self) {
        self.buffers.publish();
        let mut available = self.buffers.available();
        while available > 0
            && let Some(slot) = self.starved.pop_front()
        {
            if self.feed(slot) {
                available -= 1;
            }
        }
    }

    /// How long the net itself may wait: until the next end of a linger or of a listener's pause, or the next
    /// try with a peer that has closed its side.
    pub(super) fn patience(&self) -> Option<Duration> {
        let linger = self.lingering.front().map(|&(deadline, ..)| deadline);
        let pause = self.listeners.iter().filter_map(|listener| listener.paused_until).min();
        let deadline = [linger, pause, self.shut_retry_at].into_iter().flatten().min()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    fn expire(&mut self) {
        if self.lingering.is_empty()
            && self.shut_retry_at.is_none()
            && self.listeners.iter().all(|listener| listener.paused_until.is_none())
        {
            return;
        }
        let now = Instant::now();
        self.end_lingering(now);
        self.end_pauses(now);
        self.retry_shut_peers(now);
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.buffers.unregister(&self.ring.submitter());
        self.files.abandon();
        for fd in self.slots.sockets() {
            super::close::close_socket(fd);
        }
    }
}

struct Watched {
    fd: OwnedFd,
    token: u32,
}

/// The largest number of completions that one [`Net::poll`] handles.
pub const EVENTS_MAX: usize = 1024;
