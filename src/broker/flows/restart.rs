//! What fell due while the broker was down: ends of sessions, and wills.
//!
//! Comes in: what a start restored, and [`Shard::handle_restored`] once every shard knows what the sessions of all of
//! them want: a will that was published before would pass them by. Goes out: the ends and the wills, some of them a
//! turn. Nobody is let in before [`Shard::is_settled`]: no session that is over is resumed, and no will comes after
//! what its client publishes when it is back. Keeps chapters 3.1.2.5 and 3.1.2.11.2.

use crate::base::SessionSlot;
use crate::base::Time;
use crate::broker::Shard;
use crate::broker::components::restart::OverdueWork;
use crate::broker::components::timers::Timer;
use crate::session::{NEVER_EXPIRES, Will};

/// So many are worked off in a turn.
const OVERDUE_A_TURN: usize = 64;
/// None while more bytes than these wait for the log.
const JOURNAL_BYTES_MAX: usize = 4 << 20;

impl Shard {
    /// Every shard knows what the sessions of all shards want (see [`Shard::is_restoring`]). What is overdue begins
    /// with the next turn.
    pub fn handle_restored(&mut self) {
        self.restart.release();
        let has_more = self.restart.has_work();
        self.turn.put_off_if(has_more);
    }

    /// May clients come in? Not before what was overdue at the start is done.
    pub fn is_settled(&self) -> bool {
        !self.restart.is_held() && self.restart.is_empty()
    }

    /// The time that a restored session and its will have left, which has run while the broker was down.
    pub(in crate::broker) fn restore_deadlines(
        &mut self,
        now: Time,
        session: SessionSlot,
        left_at_millis: u64,
        will: Option<Will>,
    ) {
        let wall = self.durability.wall();
        let deadline = |seconds: u32| wall.time(left_at_millis.saturating_add(u64::from(seconds) * 1000));
        if let Some(will) = will {
            let will = will.kept(self.memory.account());
            let ends = deadline(will.delay_seconds);
            let timer = if ends <= now {
                self.restart.add_will(session);
                None
            } else {
                Some(self.timers.schedule(ends, Timer::WillDelay(session)))
            };
            let state = self.sessions.session_mut(session);
            state.will = Some(will);
            state.will_timer = timer;
        }
        let expiry_seconds = self.sessions.session(session).expiry_seconds;
        let ends = deadline(expiry_seconds);
        if expiry_seconds == NEVER_EXPIRES {
            return;
        }
        if ends <= now {
            self.restart.add_session(session);
        } else {
            let timer = self.timers.schedule(ends, Timer::SessionExpiry(session));
            self.sessions.session_mut(session).expiry_timer = Some(timer);
        }
    }

    /// Some of what is overdue.
    pub(in crate::broker) fn work_off_overdue(&mut self, now: Time) {
        for _ in 0..OVERDUE_A_TURN {
            if self.durability.waiting_bytes() > JOURNAL_BYTES_MAX {
                return;
            }
            match self.restart.pop() {
                None => return,
                Some(OverdueWork::Will(will)) => self.publish_will_of(now, &will, None),
                Some(OverdueWork::DelayedWill(session)) => self.publish_will(now, session),
                Some(OverdueWork::Session(session)) => self.expire_session(now, session),
            }
            self.settle(now);
        }
    }
}
