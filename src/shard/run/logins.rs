//! The runner and the logins of its clients: they are checked on other threads, whose answers come with a ring of
//! the shard's bell.

use super::Runner;
use crate::auth::access::{Login, Verdict};
use crate::time::Time;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Wakes a shard from any thread. Cheap to clone.
#[derive(Clone)]
pub struct Bell(Arc<OwnedFd>);

impl Bell {
    /// A bell for one shard.
    ///
    /// # Errors
    /// The process may open no more files.
    pub fn new() -> io::Result<Bell> {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        Ok(Bell(Arc::new(rustix::event::eventfd(0, flags)?)))
    }

    /// Rings it. The counter behind it is never read: each write wakes, and it takes centuries to fill.
    pub fn ring(&self) {
        // A shard that is gone needs no bell.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Another descriptor of it, to be watched.
    pub(super) fn to_fd(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }
}

struct Answer {
    slot: u32,
    serial: u32,
    verdict: Verdict,
}

/// The answers that a shard waits for.
pub(super) struct Verdicts {
    sender: Sender<Answer>,
    receiver: Receiver<Answer>,
    bell: Bell,
    /// Come, and not yet handled.
    come: Vec<Answer>,
}

impl Verdicts {
    pub(super) fn new(bell: Bell) -> Verdicts {
        let (sender, receiver) = channel();
        Verdicts { sender, receiver, bell, come: Vec::new() }
    }

    /// The bell has rung.
    pub(super) fn look(&mut self) {
        self.come.extend(self.receiver.try_iter());
    }

    pub(super) fn has_some(&self) -> bool {
        !self.come.is_empty()
    }
}

impl Runner {
    pub(super) fn check_login(&mut self, slot: u32, serial: u32, login: Box<Login>) {
        let (sender, bell) = (self.verdicts.sender.clone(), self.verdicts.bell.clone());
        let told = move |verdict| {
            // A shard that has ended wants no answer.
            let _ = sender.send(Answer { slot, serial, verdict });
            bell.ring();
        };
        if let Err(verdict) = self.control.logins.check(&self.entrance, login, told) {
            self.verdicts.come.push(Answer { slot, serial, verdict });
        }
    }

    pub(super) fn take_verdicts(&mut self, now: Time) {
        for Answer { slot, serial, verdict } in std::mem::take(&mut self.verdicts.come) {
            self.machine.handle_verdict(now, slot, serial, verdict);
            self.carry_out(now, Some(slot));
            if self.reads_once(slot) {
                self.net.receive_once(slot);
            }
        }
    }
}
