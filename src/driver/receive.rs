//! Receiving: single receives for a connection that may still move to another shard, a multishot for one that
//! stays, and the pause of a connection whose owner can't take more.

use io_uring::{opcode, squeue, types};

use super::ring::{Op, RingCompletion, buffer_of, more};
use super::send::socket_error;
use super::slots::{
    AT_END, BROKEN, CANCELLING, CLOSING, HOLDING, HUNG_UP, Mode, PAUSED, PEER_SHUT, POLLING, RECEIVING,
    STARVED, Slot, WATCHED,
};
use super::{Buffer, IoEvent, Net, SocketEnd, buffers};
use crate::base::ConnectionSlot;

impl Net {
    /// The received bytes of a buffer.
    pub fn bytes<'a>(&'a self, buffer: &Buffer) -> &'a [u8] {
        if buffer.id & HELD == 0 {
            return self.buffers.bytes(buffer.id as u16, buffer.len);
        }
        self.lent.get(buffer.id & !HELD).expect("a buffer is on loan until it is given back")
    }

    /// Returns a buffer. The kernel gets it at the end of the turn.
    pub fn give_back(&mut self, buffer: Buffer) {
        if buffer.id & HELD == 0 {
            self.buffers.give_back(buffer.id as u16);
        } else {
            self.lent.give_back(buffer.id & !HELD);
        }
    }

    /// Requests the next bytes, once. Nothing is armed between their arrival and the next call, so the
    /// connection can be detached in between.
    pub fn receive_once(&mut self, slot: ConnectionSlot) {
        self.set_mode(slot, Mode::Once);
    }

    /// Receives continuously from now on.
    pub fn receive_stream(&mut self, slot: ConnectionSlot) {
        self.set_mode(slot, Mode::Stream);
    }

    /// Stops delivering bytes of a connection until [`Net::resume`]. Bytes that its armed receive still
    /// brings are held. These are at most about two rounds of a multishot with 32 buffers each, because the
    /// receive is stopped when the first bytes must be held.
    ///
    /// Events of the connection that [`Net::poll`] has already delivered are with the owner, who returns them
    /// with [`Net::hold`] and [`Net::hold_hangup`]. A reset or an error is still reported.
    pub fn pause(&mut self, slot: ConnectionSlot) {
        if let Some(entry) = self.slots.get_mut(slot)
            && !entry.has(CLOSING)
        {
            entry.set(PAUSED);
            self.watch_peer(slot);
        }
    }

    /// Delivers the held bytes with the next [`Net::poll`], and receives again.
    pub fn resume(&mut self, slot: ConnectionSlot) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        if !entry.has(PAUSED) {
            return;
        }
        entry.clear(PAUSED);
        if entry.has(HOLDING) {
            self.resumed.push(slot);
        } else {
            self.arm_receive(slot);
        }
    }

    /// Whether the owner must not handle bytes of this connection, because it is paused or older bytes are
    /// held. A [`IoEvent::Received`] in this state must be passed to [`Net::hold`].
    pub fn is_held(&self, slot: ConnectionSlot) -> bool {
        self.slots.get(slot).is_some_and(|entry| entry.has(PAUSED | HOLDING))
    }

    /// Holds the bytes of a buffer from `consumed` on, after those that are already held, and takes the
    /// buffer back. It is for an owner that pauses a connection while it still has events of it.
    pub fn hold(&mut self, slot: ConnectionSlot, buffer: Buffer, consumed: usize) {
        let rest = self.bytes(&buffer).get(consumed..).unwrap_or_default().to_vec();
        self.give_back(buffer);
        self.hold_bytes(slot, &rest);
    }

    /// Holds a peer's end of stream after the held bytes. It is reported again after them, so a pause loses
    /// nothing that the peer has sent. Returns false if the connection must end now: nothing is held, or its
    /// peer can't be reached any more and needs no answer.
    pub fn hold_hangup(&mut self, slot: ConnectionSlot, cause: SocketEnd) -> bool {
        let Some(entry) = self.slots.get_mut(slot) else { return false };
        if cause != SocketEnd::EndOfStream || entry.has(CLOSING | BROKEN) || !entry.has(HOLDING) {
            return false;
        }
        entry.clear(HUNG_UP);
        entry.extra_mut().held_hangup = Some(cause);
        true
    }

    fn hold_bytes(&mut self, slot: ConnectionSlot, bytes: &[u8]) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        if !bytes.is_empty() && !entry.has(CLOSING) {
            entry.extra_mut().held.extend_from_slice(bytes);
            self.begin_holding(slot);
        }
    }

    fn begin_holding(&mut self, slot: ConnectionSlot) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        if !entry.has(HOLDING) {
            entry.set(HOLDING);
            if !entry.has(PAUSED) {
                self.resumed.push(slot);
            }
        }
    }

    /// Delivers the held bytes of resumed connections to the owner.
    pub(super) fn deliver_held(&mut self, events: &mut Vec<IoEvent<Buffer>>) {
        for index in 0..self.resumed.len() {
            let slot = self.resumed[index];
            let Some(entry) = self.slots.get_mut(slot) else { continue };
            if !entry.has(HOLDING) || entry.has(PAUSED | CLOSING | BROKEN) {
                continue;
            }
            entry.clear(HOLDING);
            let extra = entry.extra_mut();
            let held = std::mem::take(&mut extra.held);
            let hangup = extra.held_hangup.take();
            entry.trim_extra();
            if !held.is_empty() {
                let buffer = self.lend_bytes(held);
                events.push(IoEvent::Received { slot, buffer });
            }
            match hangup {
                Some(cause) => self.hang_up(slot, cause, events),
                None => self.arm_receive(slot),
            }
        }
        self.resumed.clear();
    }

    fn lend_bytes(&mut self, bytes: Vec<u8>) -> Buffer {
        let len = bytes.len() as u32;
        Buffer { id: self.lent.lend(bytes) | HELD, len }
    }

    pub(super) fn received(&mut self, completion: RingCompletion, events: &mut Vec<IoEvent<Buffer>>) {
        let slot = completion.tag.slot();
        let buffer = buffer_of(completion.flags);
        if buffer.is_some() {
            self.buffers.lend();
        }
        let more = more(completion.flags);
        if let Some(entry) = self.slots.tagged(completion.tag)
            && !more
        {
            entry.armed -= 1;
            entry.clear(RECEIVING | CANCELLING);
            if entry.mode == Mode::Once && completion.result > 0 && !entry.has(CLOSING) {
                entry.mode = Mode::Off;
            }
        }
        match (completion.result, buffer) {
            (1.., Some(id)) => {
                let buffer = Buffer { id: u32::from(id), len: completion.result as u32 };
                self.received_bytes(completion, buffer, more, events);
            }
            (result, buffer) => {
                if let Some(id) = buffer {
                    self.buffers.give_back(id);
                }
                self.receive_ended(completion, result, events);
            }
        }
        if let Some(entry) = self.slots.tagged(completion.tag)
            && entry.has(CLOSING)
        {
            self.step_close(slot);
        }
    }

    fn received_bytes(
        &mut self,
        completion: RingCompletion,
        buffer: Buffer,
        more: bool,
        events: &mut Vec<IoEvent<Buffer>>,
    ) {
        let slot = completion.tag.slot();
        let Some(entry) = self.slots.tagged(completion.tag) else { return self.give_back(buffer) };
        if entry.has(CLOSING | BROKEN) {
            let discarded = entry.has(CLOSING).then(|| {
                let extra = entry.extra_mut();
                extra.discarded_bytes += buffer.len();
                extra.discarded_bytes
            });
            let stop = entry.has(BROKEN);
            self.give_back(buffer);
            if more && stop {
                self.stop_receive(slot);
            }
            if discarded.is_some_and(|bytes| bytes > DISCARDED_BYTES_MAX) {
                self.break_off(slot);
            }
            return;
        }
        if entry.has(PAUSED | HOLDING) {
            let stop = entry.has(PAUSED);
            self.hold(slot, buffer, 0);
            if more && stop {
                self.stop_receive(slot);
            } else if !more {
                self.watch_peer(slot);
            }
            return;
        }
        events.push(IoEvent::Received { slot, buffer });
        if !more {
            self.arm_receive(slot);
        }
    }

    fn receive_ended(&mut self, completion: RingCompletion, result: i32, events: &mut Vec<IoEvent<Buffer>>) {
        let slot = completion.tag.slot();
        let Some(entry) = self.slots.tagged(completion.tag) else { return };
        let cause = match -result {
            0 => {
                entry.set(AT_END);
                SocketEnd::EndOfStream
            }
            libc::ENOBUFS => {
                if !entry.has(RECEIVING | STARVED) {
                    entry.set(STARVED);
                    self.starved.push_back(slot);
                }
                return;
            }
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => return self.arm_receive(slot),
            error => return self.socket_failed(slot, error, events),
        };
        if entry.has(HOLDING) {
            entry.extra_mut().held_hangup = Some(cause);
        } else {
            self.hang_up(slot, cause, events);
        }
    }

    /// Requests a notification when the peer of a connection that is not being read has gone. A poll for room
    /// to send gives that notification too.
    pub(super) fn watch_peer(&mut self, slot: ConnectionSlot) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        let unfit = RECEIVING | STARVED | POLLING | WATCHED | PEER_SHUT | AT_END | BROKEN | CLOSING;
        if entry.mode != Mode::Stream || !entry.has(PAUSED) || entry.has(unfit) {
            return;
        }
        entry.set(WATCHED);
        entry.armed += 1;
        // Errors and the end of both directions are always reported.
        let poll = opcode::PollAdd::new(types::Fd(entry.fd), libc::POLLRDHUP as u32).build();
        self.push(self.slots.tag(Op::Gone, slot), poll);
    }

    pub(super) fn peer_went(&mut self, completion: RingCompletion, events: &mut Vec<IoEvent<Buffer>>) {
        let slot = completion.tag.slot();
        let Some(entry) = self.slots.tagged(completion.tag) else { return };
        entry.armed -= 1;
        entry.clear(WATCHED);
        if entry.has(CLOSING | BROKEN) {
            return self.step_close(slot);
        }
        let polled = completion.result.max(0);
        if polled & i32::from(libc::POLLERR | libc::POLLHUP) == 0 {
            // The peer may still read, and its bytes wait until the pause is over.
            entry.set(PEER_SHUT);
        } else if entry.has(PAUSED) {
            let error = socket_error(entry.fd);
            self.socket_failed(slot, error, events);
        }
        // For a connection that is being read, its receive reports the end after the last bytes.
    }

    /// Reports the end of a connection to the owner, once.
    pub(super) fn hang_up(
        &mut self,
        slot: ConnectionSlot,
        cause: SocketEnd,
        events: &mut Vec<IoEvent<Buffer>>,
    ) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        if !entry.has(HUNG_UP) {
            entry.set(HUNG_UP);
            events.push(IoEvent::Hangup { slot, cause });
        }
    }

    fn set_mode(&mut self, slot: ConnectionSlot, mode: Mode) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        if !entry.has(CLOSING) {
            entry.mode = mode;
            self.arm_receive(slot);
        }
    }

    /// Arms the receive of a starved slot. Returns false if it needs none.
    pub(super) fn feed(&mut self, slot: ConnectionSlot) -> bool {
        let Some(entry) = self.slots.get_mut(slot) else { return false };
        if !entry.has(STARVED) {
            return false;
        }
        entry.clear(STARVED);
        self.arm_receive(slot);
        true
    }

    /// Arms the receive for the slot's mode, unless it is already armed, paused or at its end.
    pub(super) fn arm_receive(&mut self, slot: ConnectionSlot) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        let unfit = RECEIVING | STARVED | PAUSED | HOLDING | AT_END | BROKEN;
        if entry.mode == Mode::Off || entry.has(unfit) {
            return self.watch_peer(slot);
        }
        entry.set(RECEIVING);
        entry.armed += 1;
        let entry = receive_entry(entry);
        self.push(self.slots.tag(Op::Receive, slot), entry);
    }

    /// Cancels a multishot. Nothing else is ever cancelled, and a shutdown would end the connection.
    fn stop_receive(&mut self, slot: ConnectionSlot) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        if !entry.has(RECEIVING) || entry.has(CANCELLING) {
            return;
        }
        entry.set(CANCELLING);
        let target = self.slots.tag(Op::Receive, slot).pack();
        let entry = opcode::AsyncCancel::new(target).build().flags(squeue::Flags::SKIP_SUCCESS);
        self.push(self.slots.tag(Op::Cancel, slot), entry);
    }
}

fn receive_entry(slot: &Slot) -> squeue::Entry {
    let fd = types::Fd(slot.fd);
    match slot.mode {
        Mode::Stream => opcode::RecvMulti::new(fd, buffers::GROUP).build(),
        Mode::Once | Mode::Off => opcode::Recv::new(fd, std::ptr::null_mut(), 0)
            .buf_group(buffers::GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT),
    }
}

/// Marks a buffer with held bytes. The lower 16 bits are the number of a ring buffer.
const HELD: u32 = 1 << 31;

/// The largest number of bytes that the peer of a closed connection may send before it is reset.
const DISCARDED_BYTES_MAX: usize = 16 << 20;
