//! What became due while the broker was down: ends of sessions, and wills.
//!
//! The input is the restored state, and [`Shard::handle_restored`] when every shard knows what the sessions
//! of all shards want. A will that was published earlier would not reach them. The output is the ends and the
//! wills, some per turn. No client is accepted before [`Shard::is_settled`]. So no expired session is
//! resumed, and no will follows messages that its client publishes after its return. Implements sections
//! 3.1.2.5 and 3.1.2.11.2.

use crate::base::SessionSlot;
use crate::base::Time;
use crate::broker::Shard;
use crate::broker::components::restart::OverdueWork;
use crate::broker::components::timers::Timer;
use crate::session::{NEVER_EXPIRES, Will};

/// The number of items that a turn handles.
const OVERDUE_A_TURN: usize = 64;
/// No items are handled while more bytes than this wait for the log.
const JOURNAL_BYTES_MAX: usize = 4 << 20;

impl Shard {
    /// Notes that every shard knows what the sessions of all shards want (see [`Shard::is_restoring`]).
    /// Overdue items are handled from the next turn on.
    pub fn handle_restored(&mut self) {
        self.restart.release();
        let has_more = self.restart.has_work();
        self.turn.put_off_if(has_more);
    }

    /// Whether clients may be accepted. They must wait until the overdue items are handled.
    pub fn is_settled(&self) -> bool {
        !self.restart.is_held() && self.restart.is_empty()
    }

    /// Restores the time that is left to a session and its will. It has run while the broker was down.
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

    /// Handles some overdue items.
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
