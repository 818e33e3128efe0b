//! The budget of the turn, as the flows use it. Work is counted in the budget, and bytes and touched
//! connections in the outbox.

use crate::broker::Shard;
use crate::broker::components::budget::{Output, TurnBudget, Visit};

impl Shard {
    /// Sets smaller shares, so that tests can interrupt loops.
    pub fn bound_turns(&mut self, share: TurnBudget) {
        self.budget.bound(share);
        self.renew(1);
    }

    /// The total number of steps that were done. Benchmarks derive the work of a turn from it.
    pub fn work_done(&self) -> u64 {
        self.budget.work_done()
    }

    /// Whether this turn has used its budget. The host should then put off more input to the next turn.
    /// Nothing is lost if it does not.
    pub fn is_spent(&self) -> bool {
        self.budget.is_spent(self.output())
    }

    /// Begins a share, or a part of one.
    pub(in crate::broker) fn renew(&mut self, parts: u64) {
        self.budget.renew(parts, self.output());
    }

    pub(in crate::broker) fn spend(&mut self, work: u64) {
        self.budget.spend(work);
    }

    pub(in crate::broker) fn begin_visit(&self) -> Visit {
        self.budget.begin_visit(self.output())
    }

    pub(in crate::broker) fn is_over(&self, visit: &Visit) -> bool {
        self.budget.is_over(visit, self.output())
    }

    fn output(&self) -> Output {
        Output { queued_bytes: self.outbox.queued_bytes(), touches: self.outbox.touches() }
    }
}
