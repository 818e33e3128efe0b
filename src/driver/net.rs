//! The net of a shard: the ring, the buffers and the slots together, and the way of a completion to
//! the part that understands it.

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

/// All sockets of one shard. It lives and dies on the thread that made it.
pub struct Net {
    pub(super) ring: Ring,
    pub(super) buffers: Buffers,
    pub(super) slots: SocketSlots,
    pub(super) config: NetConfig,
    pub(super) listeners: Vec<Listener>,
    watches: Vec<Watched>,
    /// Held bytes that the owner has on loan, by the number in their buffer.
    pub(super) lent: Lent,
    /// Slots whose receive found no buffer.
    pub(super) starved: VecDeque<ConnectionSlot>,
    /// Slots with held bytes to deliver.
    pub(super) resumed: Vec<ConnectionSlot>,
    /// Slots with a backlog whose peer takes bytes again.
    pub(super) writable: Vec<ConnectionSlot>,
    /// Slots with a backlog whose peer has closed its side: they are tried again at that time.
    pub(super) shut_peers: Vec<ConnectionSlot>,
    pub(super) shut_retry_at: Option<Instant>,
    /// Slots to be closed as soon as this turn's sends are out.
    pub(super) closing: Vec<ConnectionSlot>,
    /// Closed slots in the order of their deadlines, with their generation.
    pub(super) lingering: VecDeque<(Instant, ConnectionSlot, u32)>,
    pub(super) batch: SendBatch,
    pub(super) files: Files,
    woken: bool,
    /// The ring's first error. It is told by every flush and park from then on.
    failure: Option<i32>,
    _not_send: PhantomData<*const ()>,
}

impl Net {
    /// Makes the ring and its buffers. Must be called on the shard's own thread.
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

    /// The ring, for other shards to wake this one.
    pub fn ring_fd(&self) -> RawFd {
        self.ring.fd()
    }

    /// Connections, those that linger after a close included.
    pub fn connections(&self) -> usize {
        self.slots.len()
    }

    /// Tells with [`IoEvent::Readable`] whenever `fd` has something new to read: pipes and event
    /// counters that signals and other threads write to. The owner reads it until it is empty.
    pub fn watch(&mut self, fd: OwnedFd, token: u32) {
        self.watches.push(Watched { fd, token });
        self.arm_watch(self.watches.len() as u32 - 1);
    }

    /// Wakes the shard whose ring this is, with the batch that goes out at the end of the turn.
    pub fn wake(&mut self, ring: RawFd) {
        let woken = Tag { op: Op::Woken, generation: 0, index: 0 }.pack();
        // The target is kept in the index's place, to try again should the kernel lack memory.
        let tag = Tag { op: Op::Wake, generation: 0, index: ring as u32 };
        let entry = opcode::MsgRingData::new(types::Fd(ring), 0, woken, None)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        self.push(tag, entry);
    }

    /// Appends what happened to `events`, at most [`EVENTS_MAX`] completions of it. Makes no system
    /// call unless the kernel says that it has deferred work.
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

    /// Gives back to the system what only a larger number of connections needed. Takes some
    /// milliseconds after tens of thousands have left; for a quiet moment.
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
        // A ring that is gone belongs to a shard that has ended.
        if !matches!(-completion.result, libc::EBADF | libc::EBADFD | libc::EOWNERDEAD) {
            self.wake(completion.tag.index as RawFd);
        }
    }

    fn arm_watch(&mut self, index: u32) {
        let fd = types::Fd(self.watches[index as usize].fd.as_raw_fd());
        let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
        self.push(Tag { op: Op::Watch, generation: 0, index }, entry);
    }

    /// Queues an operation whose pointers, if it has any, are valid for as long as the kernel needs them:
    /// sends from the outbox and from backlogs, which nothing moves between queueing and entering, and
    /// operations on files, whose memory is kept until their completion.
    pub(super) fn push(&mut self, tag: Tag, entry: squeue::Entry) {
        if self.failure.is_some() {
            return;
        }
        let entry = entry.user_data(tag.pack());
        // SAFETY: only `send` and `files` queue entries with pointers, and they keep the rule above;
        // file descriptors are closed only when nothing is armed on them.
        let pushed = unsafe { self.ring.push(&entry) };
        self.note(pushed);
    }

    pub(super) fn enter(&mut self, wait: Wait) {
        // After an error the queue may hold entries whose memory is gone: never enter again.
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

    /// Shows the kernel the buffers that were given back, and arms what waited for them.
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

    /// How long the net itself can wait: the next end of a linger or of a listener's pause, or the next try with a
    /// peer that has closed its side.
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

/// Completions handled by one [`Net::poll`].
pub const EVENTS_MAX: usize = 1024;
