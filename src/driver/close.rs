//! Closes connections. Everything that was sent must reach the peer, and the socket is closed when nothing is
//! armed on it any more.
//!
//! Closing a socket with unread bytes resets the connection, and a reset makes the peer lose our last packet.
//! So after our end of stream we read and discard bytes until the peer's end of stream, for a limited time.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Instant;

use super::Net;
use super::slots::{
    AT_END, BROKEN, CLOSING, HOLDING, HUNG_UP, LISTED, Mode, PAUSED, RECEIVING, SHUT, STARVED, TORN,
};
use crate::base::ConnectionSlot;

impl Net {
    /// Closes a connection after this turn's outbox and its backlog are sent, within
    /// [`super::NetConfig::linger`]. It causes no further events.
    pub fn close(&mut self, slot: ConnectionSlot) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        if entry.has(CLOSING) {
            return;
        }
        entry.set(CLOSING | HUNG_UP);
        entry.clear(PAUSED | HOLDING);
        if let Some(extra) = &mut entry.extra {
            extra.held = Vec::new();
            extra.held_hangup = None;
        }
        let generation = entry.generation;
        self.list_closing(slot);
        self.lingering.push_back((Instant::now() + self.config.linger, slot, generation));
    }

    /// Resets a connection. Nothing more is sent, and it causes no further events.
    pub fn abort(&mut self, slot: ConnectionSlot) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        entry.set(CLOSING | HUNG_UP);
        entry.clear(PAUSED | HOLDING);
        self.break_off(slot);
    }

    /// Takes a connection out of this shard, so that another shard can [`Net::adopt`] it. This is only
    /// possible if nothing is armed on it and no bytes of it are held here: between the bytes of a
    /// [`Net::receive_once`] and the next one.
    pub fn detach(&mut self, slot: ConnectionSlot) -> Option<OwnedFd> {
        let entry = self.slots.get(slot)?;
        if entry.armed > 0 || entry.has(CLOSING | BROKEN | HOLDING | STARVED) || entry.has_backlog() {
            return None;
        }
        let fd = self.slots.remove(slot);
        // SAFETY: the slot owned the socket and has just released it.
        Some(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Puts a stream socket in blocking mode into a slot. Nothing is armed on it.
    pub fn adopt(&mut self, fd: OwnedFd) -> ConnectionSlot {
        self.slots.insert(fd.into_raw_fd())
    }

    pub(super) fn list_closing(&mut self, slot: ConnectionSlot) {
        if let Some(entry) = self.slots.get_mut(slot)
            && !entry.has(LISTED)
        {
            entry.set(LISTED);
            self.closing.push(slot);
        }
    }

    /// Continues the closes of this turn, after its sends.
    pub(super) fn step_closes(&mut self) {
        for slot in std::mem::take(&mut self.closing) {
            if let Some(entry) = self.slots.get_mut(slot)
                && entry.has(LISTED)
            {
                entry.clear(LISTED);
                self.step_close(slot);
            }
        }
    }

    /// Takes the next step of a close: send the backlog, send our end of stream, wait for the peer's, free
    /// the slot.
    pub(super) fn step_close(&mut self, slot: ConnectionSlot) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        if entry.has(LISTED) || !entry.has(CLOSING) {
            return;
        }
        if entry.has(BROKEN) {
            return self.tear(slot);
        }
        if entry.has_backlog() {
            return;
        }
        if !entry.has(SHUT) {
            entry.set(SHUT);
            if !shutdown(entry.fd, libc::SHUT_WR) {
                entry.set(BROKEN);
                return self.tear(slot);
            }
        }
        if entry.has(AT_END) {
            return self.tear(slot);
        }
        if !entry.has(RECEIVING | STARVED) {
            entry.mode = Mode::Stream;
            self.arm_receive(slot);
        }
    }

    /// Ends a closing connection with a reset.
    pub(super) fn break_off(&mut self, slot: ConnectionSlot) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        entry.set(BROKEN);
        entry.clear(LISTED);
        entry.extra = None;
        reset_on_close(entry.fd);
        self.tear(slot);
    }

    /// Closes the socket, or ends the armed operations so that it can be closed.
    fn tear(&mut self, slot: ConnectionSlot) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        if entry.armed == 0 {
            let fd = self.slots.remove(slot);
            close_socket(fd);
        } else if !entry.has(TORN) {
            entry.set(TORN);
            shutdown(entry.fd, libc::SHUT_RDWR);
        }
    }

    pub(super) fn end_lingering(&mut self, now: Instant) {
        while let Some(&(deadline, slot, generation)) = self.lingering.front() {
            let live = self.slots.get(slot).is_some_and(|entry| entry.generation == generation);
            if live && deadline > now {
                break;
            }
            self.lingering.pop_front();
            if live {
                self.break_off(slot);
            }
        }
    }
}

/// Shuts down one or both directions. Returns false if the connection has already gone.
fn shutdown(fd: RawFd, how: libc::c_int) -> bool {
    // SAFETY: this is a system call on a socket that the slot owns. It takes no pointer.
    unsafe { libc::shutdown(fd, how) == 0 }
}

/// Makes the close of a socket drop the unsent bytes and reset the connection.
fn reset_on_close(fd: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option's value is a live `linger` of the given size.
    unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
}

/// Closes a socket that has left its slot.
pub(super) fn close_socket(fd: RawFd) {
    // SAFETY: slots own their sockets. The caller has taken this one out of its slot or drops the slots, so
    // nothing else uses the descriptor.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}
