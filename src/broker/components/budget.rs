//! The budget of a turn, counted in steps of work and in bytes, because the machine reads no clock.
//!
//! Steps that were done are added, and [`Budget::is_spent`] shows whether there is room for more. Every loop
//! whose length a client decides checks this. It stops when its share is used up, and continues in
//! [`crate::broker::Shard::handle_turn`] of this turn or a later one. A turn has two shares: one for new
//! input, and one, in parts, for work that was put off. So neither keeps out the other.

/// The size of each of the two shares of a turn. [`crate::broker::Shard::bound_turns`] sets smaller ones for
/// tests.
#[derive(Clone, Copy, Debug)]
pub struct TurnBudget {
    /// The number of steps. A step takes about a sixth of a microsecond, like a delivery at QoS 0.
    pub work: u64,
    /// The bytes queued for sockets, which the kernel must copy and TLS must encrypt.
    pub bytes: u64,
    /// The number of connections that one fan-out may send to. Each costs a send.
    pub touches: u64,
}

impl Default for TurnBudget {
    fn default() -> TurnBudget {
        // These are about two milliseconds each.
        TurnBudget { work: 16_384, bytes: 4 << 20, touches: 1_024 }
    }
}

/// A visit of one connection or fan-out gets one part in [`VISITS`] of a share. Then it is the turn of
/// others.
const VISITS: u64 = 4;

/// The number of bytes that are scanned or copied in the time of one step.
pub(in crate::broker) const BYTES_A_STEP: u64 = 1024;
/// The number of bytes of a topic name that are hashed and matched in the time of one step.
pub(in crate::broker) const TOPIC_BYTES_A_STEP: u64 = 256;
/// The work of a client's packet, without the work that it causes.
pub(in crate::broker) const WORK_A_PACKET: u64 = 4;
/// The work of a message taken from a queue.
pub(in crate::broker) const WORK_A_QUEUED: u64 = 4;
/// The work of a delivery at QoS 1 or 2.
pub(in crate::broker) const WORK_A_NUMBERED: u64 = 3;
/// The work of a filter of a SUBSCRIBE or an UNSUBSCRIBE.
pub(in crate::broker) const WORK_A_FILTER: u64 = 16;
/// The work of an item that waited for the log.
pub(in crate::broker) const WORK_AN_ANSWER: u64 = 4;
/// The work of a timer that is due.
pub(in crate::broker) const WORK_A_TIMER: u64 = 8;
/// The work of a connection that is closed because the broker stops.
pub(in crate::broker) const WORK_A_FAREWELL: u64 = 16;
/// The work of checking a retained message.
pub(in crate::broker) const WORK_A_VISIT: u64 = 2;

/// The work that was done, and the ends of the present share.
#[derive(Debug, Default)]
pub(in crate::broker) struct Budget {
    share: TurnBudget,
    work: u64,
    work_end: u64,
    bytes_end: u64,
}

/// Totals of the outbox.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct Output {
    /// The number of bytes queued for sockets.
    pub(in crate::broker) queued_bytes: u64,
    /// The number of times that a connection got its first data in a turn.
    pub(in crate::broker) touches: u64,
}

/// The limits of one visit.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct Visit {
    work_end: u64,
    bytes_end: u64,
    touches_end: u64,
}

impl Budget {
    /// Sets smaller shares, for tests.
    pub(in crate::broker) fn bound(&mut self, share: TurnBudget) {
        self.share = share;
    }

    /// The total number of steps that were done.
    pub(in crate::broker) fn work_done(&self) -> u64 {
        self.work
    }

    pub(in crate::broker) fn spend(&mut self, work: u64) {
        self.work += work;
    }

    /// Whether the present share is used up.
    pub(in crate::broker) fn is_spent(&self, output: Output) -> bool {
        self.work >= self.work_end || output.queued_bytes >= self.bytes_end
    }

    /// Begins a share, or a part of one.
    pub(in crate::broker) fn renew(&mut self, parts: u64, output: Output) {
        self.work_end = self.work + self.share.work.div_ceil(parts);
        self.bytes_end = output.queued_bytes + self.share.bytes.div_ceil(parts);
    }

    /// Begins a visit.
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
