//! What a turn may do, counted in work and in bytes, since the machine reads no clock.
//!
//! In come the steps that have been done; out goes whether there is room for more. Every loop whose length a client
//! decides asks here, stops when its share is used up, and goes on in [`crate::broker::Shard::handle_turn`] of this turn or a later
//! one. A turn has two shares: one for what comes in, and one, in parts, for what was put off. So what is put off
//! never keeps out what comes in, nor the other way round.

/// What one of the two shares of a turn is. [`crate::broker::Shard::bound_turns`] sets smaller ones for tests.
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
pub(in crate::broker) const BYTES_A_STEP: u64 = 1024;
/// So many bytes of a topic name are hashed, and matched, in that time.
pub(in crate::broker) const TOPIC_BYTES_A_STEP: u64 = 256;
/// A packet of a client, besides what it sets going.
pub(in crate::broker) const WORK_A_PACKET: u64 = 4;
/// A message out of a queue.
pub(in crate::broker) const WORK_A_QUEUED: u64 = 4;
/// A delivery at QoS 1 or 2.
pub(in crate::broker) const WORK_A_NUMBERED: u64 = 3;
/// A filter of a SUBSCRIBE or an UNSUBSCRIBE.
pub(in crate::broker) const WORK_A_FILTER: u64 = 16;
/// Something that has waited for the log.
pub(in crate::broker) const WORK_AN_ANSWER: u64 = 4;
/// A timer that is due.
pub(in crate::broker) const WORK_A_TIMER: u64 = 8;
/// A connection that is closed because the broker stops.
pub(in crate::broker) const WORK_A_FAREWELL: u64 = 16;
/// A retained message that is looked at.
pub(in crate::broker) const WORK_A_VISIT: u64 = 2;

/// What has been done, and how far the present share goes.
#[derive(Debug, Default)]
pub(in crate::broker) struct Budget {
    share: TurnBudget,
    work: u64,
    work_end: u64,
    bytes_end: u64,
}

/// What the outbox was given, ever.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct Output {
    /// Bytes queued for sockets.
    pub(in crate::broker) queued_bytes: u64,
    /// Connections that had something to send.
    pub(in crate::broker) touches: u64,
}

/// How far one visit may go.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct Visit {
    work_end: u64,
    bytes_end: u64,
    touches_end: u64,
}

impl Budget {
    /// Smaller shares, for tests.
    pub(in crate::broker) fn bound(&mut self, share: TurnBudget) {
        self.share = share;
    }

    /// Steps that were done, ever.
    pub(in crate::broker) fn work_done(&self) -> u64 {
        self.work
    }

    pub(in crate::broker) fn spend(&mut self, work: u64) {
        self.work += work;
    }

    /// Is the present share used up?
    pub(in crate::broker) fn is_spent(&self, output: Output) -> bool {
        self.work >= self.work_end || output.queued_bytes >= self.bytes_end
    }

    /// A share, or a part of one, begins.
    pub(in crate::broker) fn renew(&mut self, parts: u64, output: Output) {
        self.work_end = self.work + self.share.work.div_ceil(parts);
        self.bytes_end = output.queued_bytes + self.share.bytes.div_ceil(parts);
    }

    /// A visit begins.
    pub(in crate::broker) fn begin_visit(&self, output: Output) -> Visit {
        Visit {
            work_end: self.work + self.share.work.div_ceil(VISITS),
            bytes_end: output.queued_bytes + self.share.bytes.div_ceil(VISITS),
            touches_end: output.touches + self.share.touches,
        }
    }

    pub(in crate::broker) fn is_over(&self, visit: &Visit, output: Output) -> bool {
        self.work >= visit.work_end
            || output.queued_bytes >= visit.bytes_end
            || output.touches >= visit.touches_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(queued_bytes: u64) -> Output {
        Output { queued_bytes, touches: 0 }
    }

    #[test]
    fn a_share_is_spent_by_work_or_by_bytes() {
        let mut budget = Budget::default();
        budget.bound(TurnBudget { work: 100, bytes: 1000, touches: 10 });
        budget.renew(2, queued(5000));
        assert!(!budget.is_spent(queued(5499)));
        assert!(budget.is_spent(queued(5500)), "half of the bytes");
        budget.spend(50);
        assert!(budget.is_spent(queued(5000)), "half of the work");
        budget.renew(1, queued(5500));
        assert!(!budget.is_spent(queued(5500)));
        assert_eq!(budget.work_done(), 50);
    }

    #[test]
    fn a_visit_has_a_part_of_a_share_and_may_touch_so_many_connections() {
        let mut budget = Budget::default();
        budget.bound(TurnBudget { work: 400, bytes: 4000, touches: 10 });
        let visit = budget.begin_visit(queued(0));
        let output = |queued_bytes, touches| Output { queued_bytes, touches };
        assert!(!budget.is_over(&visit, output(999, 9)));
        assert!(budget.is_over(&visit, output(1000, 0)) && budget.is_over(&visit, output(0, 10)));
        budget.spend(100);
        assert!(budget.is_over(&visit, output(0, 0)));
    }
}
