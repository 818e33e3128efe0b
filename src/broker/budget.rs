//! What a turn may do, counted in work and in bytes, since the machine reads no clock.
//!
//! In come the steps that have been done; out goes whether there is room for more. Every loop whose length a client
//! decides asks here, stops when its share is used up, and goes on in [`Shard::handle_turn`] of this turn or a later
//! one. A turn has two shares: one for what comes in, and one, in parts, for what was put off. So what is put off
//! never keeps out what comes in, nor the other way round.

use super::Shard;

/// What one of the two shares of a turn is. [`Shard::bound_turns`] sets smaller ones for tests.
#[derive(Clone, Copy, Debug)]
pub struct TurnBudget {
    /// Steps of about a sixth of a microsecond: a delivery at QoS 0 is one.
    pub work: u64,
    /// Bytes queued for sockets, which the kernel copies, or TLS encrypts first.
    pub bytes: u64,
    /// Connections that one fan-out may give something to: each costs a send.
    pub touches: u64,
}

impl Default for TurnBudget {
    fn default() -> TurnBudget {
        // About two milliseconds each.
        TurnBudget { work: 16_384, bytes: 4 << 20, touches: 1_024 }
    }
}

/// A visit of one connection, or of one fan-out, has this part of a share; then it is the turn of others.
const VISITS: u64 = 4;

/// So many bytes are looked at, or copied, in the time of a step.
pub(super) const BYTES_A_STEP: u64 = 1024;
/// So many bytes of a topic name are hashed, and matched, in that time.
pub(super) const TOPIC_BYTES_A_STEP: u64 = 256;
/// A packet of a client, besides what it sets going.
pub(super) const WORK_A_PACKET: u64 = 4;
/// A message out of a queue.
pub(super) const WORK_A_QUEUED: u64 = 4;
/// A delivery at QoS 1 or 2.
pub(super) const WORK_A_NUMBERED: u64 = 3;
/// A filter of a SUBSCRIBE or an UNSUBSCRIBE.
pub(super) const WORK_A_FILTER: u64 = 16;
/// Something that has waited for the log.
pub(super) const WORK_AN_ANSWER: u64 = 4;
/// A timer that is due.
pub(super) const WORK_A_TIMER: u64 = 8;
/// A connection that is closed because the broker stops.
pub(super) const WORK_A_FAREWELL: u64 = 16;
/// A retained message that is looked at.
pub(super) const WORK_A_VISIT: u64 = 2;

/// What has been done, and how far the present share goes.
#[derive(Debug, Default)]
pub(super) struct Budget {
    share: TurnBudget,
    work: u64,
    work_end: u64,
    bytes_end: u64,
}

/// How far one visit may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visit {
    work_end: u64,
    bytes_end: u64,
    touches_end: u64,
}

impl Shard {
    /// Smaller shares, so that tests see loops go on.
    pub fn bound_turns(&mut self, share: TurnBudget) {
        self.budget.share = share;
        self.renew(1);
    }

    /// Steps that were done, ever: what a turn has taken, for those who measure.
    pub fn work_done(&self) -> u64 {
        self.budget.work
    }

    /// Has this turn done what it may? What comes in then is better left for the next one; nothing is lost if it is
    /// not.
    pub fn is_spent(&self) -> bool {
        self.budget.work >= self.budget.work_end || self.outbox.queued_bytes() >= self.budget.bytes_end
    }

    /// A share, or a part of one, begins.
    pub(super) fn renew(&mut self, parts: u64) {
        let budget = &mut self.budget;
        budget.work_end = budget.work + budget.share.work.div_ceil(parts);
        budget.bytes_end = self.outbox.queued_bytes() + budget.share.bytes.div_ceil(parts);
    }

    pub(super) fn spend(&mut self, work: u64) {
        self.budget.work += work;
    }

    pub(super) fn begin_visit(&self) -> Visit {
        let share = &self.budget.share;
        Visit {
            work_end: self.budget.work + share.work.div_ceil(VISITS),
            bytes_end: self.outbox.queued_bytes() + share.bytes.div_ceil(VISITS),
            touches_end: self.outbox.touches() + share.touches,
        }
    }

    pub(super) fn is_over(&self, visit: &Visit) -> bool {
        self.budget.work >= visit.work_end
            || self.outbox.queued_bytes() >= visit.bytes_end
            || self.outbox.touches() >= visit.touches_end
    }
}
