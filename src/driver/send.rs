//! Sending: one operation per touched connection and turn. It runs inline in the enter that submits it.
//!
//! With `MSG_DONTWAIT | MSG_WAITALL` a complete send posts nothing, and an incomplete one posts the number of
//! bytes sent. So after the enter the arena is free again. The bytes that were not taken become the
//! connection's backlog. While there is a backlog, all new bytes are appended to it, so that the order is
//! kept.

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use io_uring::{opcode, squeue, types};

use super::Buffer;
use super::ring::{Op, RingCompletion, Wait};
use super::slots::{AT_END, BROKEN, CLOSING, DRAINING, PEER_SHUT, POLLING, SHORT, SHUT, Slot};
use super::{IoEvent, Net, SocketEnd};
use crate::base::ConnectionSlot;
use crate::broker::outbox::{Outbox, Touched};

/// The memory that the operations of one batch point to, besides the arena. The lists never grow, so that the
/// kernel's pointers stay valid.
pub(super) struct SendBatch {
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::msghdr>,
    copies: Vec<Box<[u8]>>,
    /// Slots with a send from their backlog, and the number of bytes that was tried.
    drains: Vec<(ConnectionSlot, usize)>,
}

impl Default for SendBatch {
    fn default() -> SendBatch {
        SendBatch {
            vectors: Vec::with_capacity(VECTORS),
            headers: Vec::with_capacity(HEADERS),
            copies: Vec::new(),
            drains: Vec::new(),
        }
    }
}

impl SendBatch {
    fn has_room(&self) -> bool {
        self.headers.len() < HEADERS && self.vectors.len() + SEGMENTS_MAX <= VECTORS
    }

    /// Clears the batch. It must only be called after the enter that has run it.
    fn clear(&mut self) {
        self.vectors.clear();
        self.headers.clear();
        self.copies.clear();
    }

    /// Builds the header for a connection's ranges.
    fn gather(&mut self, outbox: &Outbox, touched: &Touched) -> *const libc::msghdr {
        let first = self.vectors.len();
        self.vectors.extend(outbox.segments_of(touched).map(|range| {
            let bytes = outbox.bytes(range);
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
        }));
        assert!(self.vectors.len() <= VECTORS && self.headers.len() < HEADERS, "the lists must not move");
        let count = self.vectors.len() - first;
        // SAFETY: a zeroed message header is valid: it has no name, no vectors and no control data.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = self.vectors[first..].as_mut_ptr();
        header.msg_iovlen = count;
        self.headers.push(header);
        &raw const self.headers[self.headers.len() - 1]
    }
}

impl Net {
    /// Sends the outbox: one operation per touched connection, in one system call for each few thousand of
    /// them. What a peer does not take at once becomes its backlog. The outbox can be cleared afterwards. An
    /// error is the ring's, and the shard must end.
    ///
    /// [`Net::park`] does the same and waits in the same system call.
    pub fn flush(&mut self, outbox: &Outbox, events: &mut Vec<IoEvent<Buffer>>) -> io::Result<()> {
        self.refill();
        self.queue_sends(outbox, events);
        if self.ring.queued() > 0 {
            let wait = if self.ring.has_waiting() { Wait::Never } else { Wait::Reap };
            self.enter(wait);
        }
        self.settle(outbox, events);
        self.health()
    }

    /// The number of unsent bytes of a connection.
    pub fn backlog_bytes(&self, slot: ConnectionSlot) -> usize {
        self.slots.get(slot).map_or(0, |entry| entry.backlog_bytes())
    }

    /// Whether the next flush has something to do besides the outbox.
    pub(super) fn has_unsettled(&self) -> bool {
        !self.closing.is_empty() || !self.writable.is_empty()
    }

    /// Queues the turn's sends. An enter and [`Net::settle`] must follow, and the outbox and the backlogs
    /// must not change in between.
    pub(super) fn queue_sends(&mut self, outbox: &Outbox, events: &mut Vec<IoEvent<Buffer>>) {
        for touched in outbox.touched() {
            let Some(entry) = self.slots.get(touched.slot) else { continue };
            if entry.has(BROKEN | SHUT) || touched.bytes == 0 {
                continue;
            }
            if entry.has_backlog() || touched.bytes > SEND_BYTES_MAX {
                self.append_backlog(outbox, touched, events);
            } else {
                self.queue_send(outbox, touched, entry.fd);
            }
        }
        for slot in std::mem::take(&mut self.writable) {
            self.queue_drain(slot);
        }
    }

    fn queue_send(&mut self, outbox: &Outbox, touched: &Touched, fd: i32) {
        let fd = types::Fd(fd);
        let entry = match touched.segments {
            1 => {
                let range = outbox.segments_of(touched).next().expect("a touched connection has a range");
                send_entry(fd, outbox.bytes(range))
            }
            2..=SEGMENTS_IN_PLACE_MAX => {
                if !self.batch.has_room() {
                    self.enter(Wait::Never);
                    self.batch.clear();
                }
                let header = self.batch.gather(outbox, touched);
                opcode::SendMsg::new(fd, header).flags(SEND_FLAGS as u32).build()
            }
            _ => {
                let mut copy = Vec::with_capacity(touched.bytes as usize);
                outbox.segments_of(touched).for_each(|range| copy.extend_from_slice(outbox.bytes(range)));
                let copy = copy.into_boxed_slice();
                let entry = send_entry(fd, &copy);
                self.batch.copies.push(copy);
                entry
            }
        };
        self.push(self.slots.tag(Op::Send, touched.slot), entry.flags(squeue::Flags::SKIP_SUCCESS));
    }

    fn queue_drain(&mut self, slot: ConnectionSlot) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        if entry.has(BROKEN | DRAINING) || !entry.has_backlog() {
            return;
        }
        entry.set(DRAINING);
        let unsent = entry.extra.as_ref().map_or(&[][..], |extra| extra.backlog.unsent());
        let unsent = &unsent[..unsent.len().min(SEND_BYTES_MAX as usize)];
        let send = send_entry(types::Fd(entry.fd), unsent).flags(squeue::Flags::SKIP_SUCCESS);
        self.batch.drains.push((slot, unsent.len()));
        self.push(self.slots.tag(Op::Send, slot), send);
    }

    /// Handles the results of the enter, and continues the closes that have waited for it.
    pub(super) fn settle(&mut self, outbox: &Outbox, events: &mut Vec<IoEvent<Buffer>>) {
        self.batch.clear();
        let sends = self.ring.take_sends();
        for send in &sends {
            self.settle_send(send, outbox, events);
        }
        self.ring.return_sends(sends);
        let mut drains = std::mem::take(&mut self.batch.drains);
        for (slot, tried) in drains.drain(..) {
            self.settle_drain(slot, tried, events);
        }
        self.batch.drains = drains;
        self.step_closes();
    }

    fn settle_send(&mut self, send: &RingCompletion, outbox: &Outbox, events: &mut Vec<IoEvent<Buffer>>) {
        let slot = send.tag.slot();
        let Some(entry) = self.slots.tagged(send.tag) else { return };
        let sent = match send.result {
            0.. => send.result as usize,
            error => match -error {
                libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM => 0,
                error => return self.socket_failed(slot, error, events),
            },
        };
        if entry.has(DRAINING) {
            entry.set(SHORT);
            take_from_backlog(entry, sent);
            return;
        }
        let Some(touched) = outbox.touched_of(slot) else { return };
        self.keep_unsent(outbox, touched, sent, events);
    }

    fn settle_drain(&mut self, slot: ConnectionSlot, tried: usize, events: &mut Vec<IoEvent<Buffer>>) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        let short = entry.has(SHORT);
        entry.clear(DRAINING | SHORT);
        if entry.has(BROKEN) {
            return;
        }
        if !short {
            take_from_backlog(entry, tried);
        }
        if entry.has_backlog() {
            self.tell_backlog(slot, events);
            return self.poll_writable(slot, events);
        }
        entry.trim_extra();
        if entry.has(CLOSING) {
            self.list_closing(slot);
        } else {
            events.push(IoEvent::Drained { slot });
            self.watch_peer(slot);
        }
    }

    /// Reports a backlog that has grown or shrunk, so that the owner need not check all backlogs.
    fn tell_backlog(&self, slot: ConnectionSlot, events: &mut Vec<IoEvent<Buffer>>) {
        let Some(entry) = self.slots.get(slot).filter(|entry| !entry.has(CLOSING)) else { return };
        let bytes = u32::try_from(entry.backlog_bytes()).unwrap_or(u32::MAX);
        let taken = entry.extra.as_ref().map_or(0, |extra| extra.backlog.taken());
        events.push(IoEvent::Backlogged { slot, bytes, taken });
    }

    /// Begins a backlog with the bytes that a send has left.
    fn keep_unsent(
        &mut self,
        outbox: &Outbox,
        touched: &Touched,
        sent: usize,
        events: &mut Vec<IoEvent<Buffer>>,
    ) {
        let slot = touched.slot;
        let Some(entry) = self.slots.get_mut(slot) else { return };
        let backlog = &mut entry.extra_mut().backlog;
        let mut skip = sent;
        for range in outbox.segments_of(touched) {
            let bytes = outbox.bytes(range);
            let skipped = skip.min(bytes.len());
            skip -= skipped;
            if backlog.append(&bytes[skipped..]).is_err() {
                return self.socket_failed(slot, libc::ENOMEM, events);
            }
        }
        if backlog.len() == 0 {
            return entry.trim_extra();
        }
        self.tell_backlog(slot, events);
        self.poll_writable(slot, events);
    }

    /// Appends the turn's bytes to an existing backlog, or begins one with bytes that are too many for one
    /// operation.
    fn append_backlog(&mut self, outbox: &Outbox, touched: &Touched, events: &mut Vec<IoEvent<Buffer>>) {
        let slot = touched.slot;
        let Some(entry) = self.slots.get_mut(slot) else { return };
        if !entry.has_backlog() {
            return self.keep_unsent(outbox, touched, 0, events);
        }
        let backlog = &mut entry.extra_mut().backlog;
        if backlog.len() > self.config.backlog_bytes_max {
            self.break_connection(slot);
            return self.hang_up(slot, SocketEnd::BacklogFull, events);
        }
        for range in outbox.segments_of(touched) {
            if backlog.append(outbox.bytes(range)).is_err() {
                return self.socket_failed(slot, libc::ENOMEM, events);
            }
        }
        self.tell_backlog(slot, events);
    }

    /// The connection is of no use any more. Its owner is told at once, even if bytes are held.
    pub(super) fn socket_failed(
        &mut self,
        slot: ConnectionSlot,
        error: i32,
        events: &mut Vec<IoEvent<Buffer>>,
    ) {
        self.break_connection(slot);
        let cause = match error {
            libc::EPIPE | libc::ECONNRESET => SocketEnd::Reset,
            error => SocketEnd::Error(error),
        };
        self.hang_up(slot, cause, events);
    }

    /// Nothing is sent or delivered any more. A pending close continues.
    fn break_connection(&mut self, slot: ConnectionSlot) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        entry.set(BROKEN);
        if let Some(extra) = &mut entry.extra {
            extra.backlog = Default::default();
        }
        if entry.has(CLOSING) {
            self.list_closing(slot);
        }
    }

    fn poll_writable(&mut self, slot: ConnectionSlot, events: &mut Vec<IoEvent<Buffer>>) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        if entry.has(POLLING) {
            return;
        }
        if entry.has(PEER_SHUT | AT_END) {
            return self.retry_shut_peer(slot, events);
        }
        entry.set(POLLING);
        entry.armed += 1;
        let poll = opcode::PollAdd::new(types::Fd(entry.fd), libc::POLLOUT as u32).build();
        self.push(self.slots.tag(Op::Writable, slot), poll);
    }

    pub(super) fn became_writable(&mut self, completion: RingCompletion) {
        let slot = completion.tag.slot();
        let Some(entry) = self.slots.tagged(completion.tag) else { return };
        entry.armed -= 1;
        entry.clear(POLLING);
        if entry.has(BROKEN) {
            return self.step_close(slot);
        }
        if completion.result > 0 && completion.result & i32::from(libc::POLLRDHUP) != 0 {
            entry.set(PEER_SHUT);
        }
        // An error shows when the backlog is sent.
        self.writable.push(slot);
    }

    /// Tries again to send to a peer that has closed its side. For its socket, the kernel's poll returns at
    /// once instead of waiting for room, so it is tried again by the clock. If the peer takes nothing for as
    /// long as a closed connection may linger, it has gone.
    fn retry_shut_peer(&mut self, slot: ConnectionSlot, events: &mut Vec<IoEvent<Buffer>>) {
        let linger = self.config.linger;
        let now = Instant::now();
        let Some(entry) = self.slots.get_mut(slot) else { return };
        let since = *entry.extra_mut().stalled_since.get_or_insert(now);
        if !entry.has(CLOSING) && now.saturating_duration_since(since) >= linger {
            self.break_connection(slot);
            return self.hang_up(slot, SocketEnd::EndOfStream, events);
        }
        self.shut_peers.push(slot);
        self.shut_retry_at.get_or_insert(now + SHUT_RETRY);
    }

    pub(super) fn retry_shut_peers(&mut self, now: Instant) {
        if self.shut_retry_at.is_some_and(|at| at <= now) {
            self.shut_retry_at = None;
            self.writable.append(&mut self.shut_peers);
        }
    }
}

fn take_from_backlog(entry: &mut Slot, bytes: usize) {
    if bytes > 0 {
        let extra = entry.extra_mut();
        extra.backlog.advance(bytes);
        extra.stalled_since = None;
    }
}

/// The error of a failed socket. The kernel reports it only once.
pub(super) fn socket_error(fd: RawFd) -> i32 {
    let mut error: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: this is a system call on a socket that its slot owns. Both pointers refer to live values of the
    // given size.
    let got = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &raw mut len)
    };
    // Both directions may be closed without an error.
    if got == 0 && error != 0 { error } else { libc::ECONNRESET }
}

fn send_entry(fd: types::Fd, bytes: &[u8]) -> squeue::Entry {
    opcode::Send::new(fd, bytes.as_ptr(), bytes.len() as u32).flags(SEND_FLAGS).build()
}

const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// The kernel silently limits one operation to two GiB. Larger sends go through the backlog, in parts.
const SEND_BYTES_MAX: u32 = 1 << 30;

/// How soon the socket of a peer that has closed its side is tried again.
const SHUT_RETRY: Duration = Duration::from_millis(20);

/// The largest number of ranges that are sent in place. If there are more, they are copied into one piece
/// first, which is cheaper.
const SEGMENTS_IN_PLACE_MAX: u32 = SEGMENTS_MAX as u32;
const SEGMENTS_MAX: usize = 64;

const VECTORS: usize = 4096;
const HEADERS: usize = 1024;
