//! Waits in the ring, with the system call that submits the turn's batch. Everything that can wake a shard
//! comes through the ring: sockets, files, watched descriptors, and the wake-ups of other shards.

use std::io;
use std::time::Duration;

use super::Buffer;
use super::ring::Wait;
use super::{IoEvent, Net, Sleeping};
use crate::broker::outbox::Outbox;

impl Net {
    /// Ends a turn: sends the outbox (see [`Net::flush`]) and waits for a completion, for the deadline, or
    /// for `ready`. Returns at once if there is something to poll, or if `events` is not empty. It may also
    /// return without a reason.
    ///
    /// `ready` returns whether mail from other shards is there. It is called again after `sleeping` is set.
    /// It must return false after the owner has taken the mail.
    pub fn park(
        &mut self,
        outbox: &Outbox,
        events: &mut Vec<IoEvent<Buffer>>,
        deadline: Option<Duration>,
        sleeping: &Sleeping,
        ready: impl Fn() -> bool,
    ) -> io::Result<()> {
        self.refill();
        // A long batch is sent before the shard announces that it sleeps, so that no other shard wakes it in
        // vain. A close needs its last sends to be done.
        let early = outbox.touched().len() > BATCH_BEFORE_SLEEP || self.has_unsettled();
        if early {
            self.flush(outbox, events)?;
        }
        if self.is_busy() || !events.is_empty() || deadline == Some(Duration::ZERO) {
            if !early {
                self.flush(outbox, events)?;
            }
            // The deferred work runs in the following poll.
            return self.health();
        }
        sleeping.set(true);
        let result = if ready() {
            if early { Ok(()) } else { self.flush(outbox, events) }
        } else {
            self.park_in_ring(outbox, early, events, deadline)
        };
        sleeping.set(false);
        result
    }

    /// Whether the next poll has something to do.
    fn is_busy(&mut self) -> bool {
        self.ring.has_waiting()
            || self.has_file_done()
            || self.ring.has_deferred()
            || !self.resumed.is_empty()
    }

    fn park_in_ring(
        &mut self,
        outbox: &Outbox,
        early: bool,
        events: &mut Vec<IoEvent<Buffer>>,
        deadline: Option<Duration>,
    ) -> io::Result<()> {
        if !early {
            self.queue_sends(outbox, events);
        }
        let patience = [deadline, self.patience()].into_iter().flatten().min();
        let wait = if events.is_empty() { Wait::Until(patience) } else { Wait::Reap };
        self.enter(wait);
        if !early {
            self.settle(outbox, events);
        }
        self.health()
    }
}

/// The largest number of connections whose sends are submitted by the same system call that waits.
const BATCH_BEFORE_SLEEP: usize = 16;
