//! Listening sockets on the ring: a multishot accept each, that survives whatever the kernel or the
//! peers do to it.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::{opcode, types};

use super::Buffer;
use super::listen::peer_of;
use super::ring::{Op, RingCompletion, Tag, more};
use super::{IoEvent, Net};
use crate::base::ConnectionSlot;

pub(super) struct Listener {
    number: u16,
    /// None once the listener is stopped and its accept has ended.
    socket: Option<OwnedFd>,
    stopping: bool,
    pub(super) paused_until: Option<Instant>,
}

impl Net {
    /// Accepts connections from a socket made by [`super::bind`]; they carry its number.
    pub fn listen(&mut self, listener: u16, socket: OwnedFd) {
        self.listeners.push(Listener {
            number: listener,
            socket: Some(socket),
            stopping: false,
            paused_until: None,
        });
        self.arm_accept(self.listeners.len() - 1);
    }

    /// Stops accepting, on all listeners. Connections the kernel has not handed over are reset.
    pub fn stop_listening(&mut self) {
        for listener in &mut self.listeners {
            listener.stopping = true;
            match listener.paused_until.take() {
                // Nothing is armed, so the socket can be closed.
                Some(_) => listener.socket = None,
                None => shutdown_listener(listener),
            }
        }
    }

    fn arm_accept(&mut self, index: usize) {
        let Some(socket) = &self.listeners[index].socket else { return };
        let fd = types::Fd(socket.as_raw_fd());
        let entry = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
        self.push(Tag { op: Op::Accept, generation: 0, index: index as u32 }, entry);
    }

    pub(super) fn accepted(&mut self, completion: RingCompletion, events: &mut Vec<IoEvent<Buffer>>) {
        let index = completion.tag.index as usize;
        let number = self.listeners[index].number;
        if completion.result >= 0 {
            self.admit(index, completion.result, events);
        } else if !self.listeners[index].stopping {
            events.push(IoEvent::AcceptFailed { listener: number, error: -completion.result });
        }
        if more(completion.flags) {
            return;
        }
        let listener = &mut self.listeners[index];
        if listener.stopping {
            listener.socket = None;
        } else if lacks_resources(-completion.result) {
            // The connection stays in the kernel's queue: trying again at once would spin.
            listener.paused_until = Some(Instant::now() + ACCEPT_PAUSE);
        } else {
            self.arm_accept(index);
        }
    }

    fn admit(&mut self, index: usize, fd: RawFd, events: &mut Vec<IoEvent<Buffer>>) {
        // SAFETY: the kernel has just made this descriptor for us, and nothing else has it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let listener = &self.listeners[index];
        // A peer that is gone already has no address; its socket is dropped here.
        let Some(peer) = peer_of(&socket).filter(|_| !listener.stopping) else { return };
        let listener = listener.number;
        let slot = self.adopt(socket);
        events.push(accepted_event(listener, slot, peer));
        self.receive_once(slot);
    }

    pub(super) fn end_pauses(&mut self, now: Instant) {
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            if listener.paused_until.is_some_and(|until| until <= now) {
                listener.paused_until = None;
                self.arm_accept(index);
            }
        }
    }
}

fn accepted_event(listener: u16, slot: ConnectionSlot, peer: SocketAddr) -> IoEvent<Buffer> {
    IoEvent::Accepted { listener, slot, peer }
}

fn shutdown_listener(listener: &Listener) {
    if let Some(socket) = &listener.socket {
        // It ends the accept; a socket that is not connected says so.
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Read);
    }
}

fn lacks_resources(error: i32) -> bool {
    matches!(error, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
}

/// How long a listener waits for descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
