//! Connects the host to the threads that check logins. Their answers arrive with a ring of the shard's bell.

use super::admission::{Judged, source};
use super::{Host, Io};
use crate::base::ConnectionSlot;
use crate::base::Time;
use crate::control::login_queue::{LoginOrigin, LoginQueue, Next};
use crate::control::logins::WAITING_MAX;
use crate::policy::access::{Login, Verdict};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

struct Answer {
    slot: ConnectionSlot,
    serial: u32,
    verdict: Verdict,
    /// The origin of a checked login. `None`: the login was refused before its turn came.
    checked: Option<LoginOrigin>,
}

/// A login that waits for its turn.
struct Waiting {
    slot: ConnectionSlot,
    serial: u32,
    login: Box<Login>,
}

/// The pending answers of a shard, and its logins that wait for their turn.
pub(super) struct Verdicts {
    sender: Sender<Answer>,
    receiver: Receiver<Answer>,
    bell: Arc<dyn Fn() + Send + Sync>,
    /// Answers that have arrived and are not handled yet.
    come: Vec<Answer>,
    queue: LoginQueue<Waiting>,
}

impl Verdicts {
    /// For one of `shards` shards.
    pub(super) fn new(bell: Arc<dyn Fn() + Send + Sync>, shards: usize, seed: u64) -> Verdicts {
        let (sender, receiver) = channel();
        let queue = LoginQueue::new(WAITING_MAX.div_ceil(shards.max(1)), seed);
        Verdicts { sender, receiver, bell, come: Vec::new(), queue }
    }

    /// Collects answers after the bell has rung.
    pub(super) fn look(&mut self) {
        self.come.extend(self.receiver.try_iter());
    }

    pub(super) fn has_some(&self) -> bool {
        !self.come.is_empty()
    }

    /// Forgets the login of a connection that has gone.
    pub(super) fn forget(&mut self, slot: ConnectionSlot) {
        if self.queue.waiting() > 0 {
            self.queue.forget(slot);
        }
    }

    fn refuse(&mut self, Waiting { slot, serial, .. }: Waiting) {
        self.come.push(Answer { slot, serial, verdict: Verdict::Busy, checked: None });
    }
}

impl<I: Io> Host<I> {
    pub(super) fn check_login(&mut self, now: Time, slot: ConnectionSlot, serial: u32, login: Box<Login>) {
        let address = source(&self.connections, slot, login.peer);
        let queue = &mut self.verdicts.queue;
        let origin = queue.origin(address, login.user.as_deref(), &login.client_id);
        if let Some(refused) = queue.push(origin, slot, Waiting { slot, serial, login }) {
            self.verdicts.refuse(refused);
        }
        self.begin_checks(now);
    }

    /// Passes logins to the threads when it is their turn.
    fn begin_checks(&mut self, now: Time) {
        while self.has_idle_threads() {
            let gate = &self.control.address_gate;
            let next = self.verdicts.queue.next(now, |address| gate.login_turn(now, address));
            let (origin, Waiting { slot, serial, login }) = match next {
                None => return,
                Some(Next::Refuse(refused)) => {
                    self.verdicts.refuse(refused);
                    continue;
                }
                Some(Next::Check(origin, waiting)) => (origin, waiting),
            };
            let (sender, bell) = (self.verdicts.sender.clone(), Arc::clone(&self.verdicts.bell));
            let checked = Some(origin);
            let answer = move |verdict| {
                // A shard that has ended needs no answer.
                let _ = sender.send(Answer { slot, serial, verdict, checked });
                bell();
            };
            if let Err(verdict) = self.control.logins.check(&self.in_force.policies, login, Arc::new(answer))
            {
                self.verdicts.come.push(Answer { slot, serial, verdict, checked });
            }
        }
    }

    fn has_idle_threads(&self) -> bool {
        self.verdicts.queue.checked() < self.control.logins.at_once(self.shared.shards())
    }

    /// The time at which a waiting login must be looked at again if nothing else happens.
    pub(super) fn logins_due(&self) -> Option<Time> {
        self.verdicts.queue.due().filter(|_| self.has_idle_threads())
    }

    pub(super) fn take_verdicts(&mut self, now: Time) {
        for Answer { slot, serial, verdict, checked } in std::mem::take(&mut self.verdicts.come) {
            if let Some(origin) = checked {
                let was_wrong = matches!(verdict, Verdict::Bad(_));
                self.verdicts.queue.done(origin, was_wrong);
                // It counts even if its connection has gone, because the guess was made.
                let address = origin.address.filter(|_| was_wrong);
                let penalty = address.map(|address| self.penalty(now, address));
                self.admissions.judged = penalty.map(|penalty| Judged { slot, serial, penalty });
            }
            self.machine.handle_verdict(now, slot, serial, verdict);
            self.carry_out(now, Some(slot));
            self.admissions.judged = None;
            if self.reads_once(slot) {
                self.io.receive_once(slot);
            }
        }
        if self.verdicts.queue.waiting() > 0 {
            self.begin_checks(now);
        }
    }
}
