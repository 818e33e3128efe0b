//! Listening sockets on the ring. Each has a multishot accept, which is armed again after errors of the
//! kernel or the peers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::{opcode, types};

use super::Buffer;
use super::listen::{BindOptions, peer_of, tune};
use super::ring::{Op, RingCompletion, Tag, more};
use super::{IoEvent, Net};
use crate::base::ConnectionSlot;

pub(super) struct Listener {
    number: u16,
    /// `None` after the listener is stopped and its accept has ended.
    socket: Option<OwnedFd>,
    stopping: bool,
    pub(super) paused_until: Option<Instant>,
}

impl Net {
    /// Accepts connections from a socket made by [`super::bind`]. They get the listener's number.
    pub fn listen(&mut self, listener: u16, socket: OwnedFd) {
        let listener =
            Listener { number: listener, socket: Some(socket), stopping: false, paused_until: None };
        // A listener that was stopped leaves its place when its accept has ended.
        match self.listeners.iter().position(|listener| listener.socket.is_none()) {
            Some(free) => {
                self.listeners[free] = listener;
                self.arm_accept(free);
            }
            None => {
                self.listeners.push(listener);
                self.arm_accept(self.listeners.len() - 1);
            }
        }
    }

    /// Stops accepting on all listeners. Connections that the kernel has not handed over are reset.
    pub fn stop_listening(&mut self) {
        self.listeners.iter_mut().for_each(Listener::stop);
    }

    /// Stops accepting on the sockets of one listener.
    pub fn close_listener(&mut self, listener: u16) {
        self.listeners.iter_mut().filter(|other| other.number == listener).for_each(Listener::stop);
    }

    /// Sets the options of the listening sockets that detect vanished peers, for connections that are accepted later.
    ///
    /// # Errors
    /// The kernel's error. Some sockets may have the new options.
    pub fn tune_listeners(&self, options: &BindOptions) -> io::Result<()> {
        let sockets = self.listeners.iter().filter_map(|listener| listener.socket.as_ref());
        sockets.into_iter().try_for_each(|socket| tune(socket, options))
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
            // The connection stays in the kernel's queue. Trying again at once would cause a busy loop.
            listener.paused_until = Some(Instant::now() + ACCEPT_PAUSE);
        } else {
            self.arm_accept(index);
        }
    }

    fn admit(&mut self, index: usize, fd: RawFd, events: &mut Vec<IoEvent<Buffer>>) {
        // SAFETY: the kernel has just created this descriptor for us, and nothing else uses it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let listener = &self.listeners[index];
        // A peer that has already gone has no address. Its socket is dropped here.
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

impl Listener {
    fn stop(&mut self) {
        self.stopping = true;
        if self.paused_until.take().is_some() {
            // No accept is armed, so the socket can be closed.
            self.socket = None;
        } else if let Some(socket) = &self.socket {
            // This ends the accept. It fails because the socket is not connected; the error is ignored.
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Read);
        }
    }
}

fn lacks_resources(error: i32) -> bool {
    matches!(error, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
}

/// How long a listener waits if file descriptors or memory are missing.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
