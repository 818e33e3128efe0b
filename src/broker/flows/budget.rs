//! The budget of the turn, as the flows ask for it: work is counted there, bytes and touched connections in the outbox.

use crate::broker::Shard;
use crate::broker::components::budget::{Output, TurnBudget, Visit};

impl Shard {
    /// Smaller shares, so that tests see loops go on.
    pub fn bound_turns(&mut self, share: TurnBudget) {
        self.budget.bound(share);
        self.renew(1);
    }

    /// Steps that were done, ever: what a turn has taken, for those who measure.
    pub fn work_done(&self) -> u64 {
        self.budget.work_done()
    }

    /// Has this turn done what it may? What comes in then is better left for the next one; nothing is lost if it is
    /// not.
    pub fn is_spent(&self) -> bool {
        self.budget.is_spent(self.output())
    }

    /// A share, or a part of one, begins.
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
