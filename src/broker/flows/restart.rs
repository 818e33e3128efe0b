//! What fell due while the broker was down: ends of sessions, and wills.
//!
//! Comes in: what a start restored, and [`Shard::handle_restored`] once every shard knows what the sessions of all of
//! them want: a will that was published before would pass them by. Goes out: the ends and the wills, some of them a
//! turn. Nobody is let in before [`Shard::is_settled`]: no session that is over is resumed, and no will comes after
//! what its client publishes when it is back. Keeps chapters 3.1.2.5 and 3.1.2.11.2.

use crate::base::SessionSlot;
use crate::base::Time;
use crate::broker::Shard;
use crate::broker::components::timers::Timer;
use crate::session::{NEVER_EXPIRES, Will};
use std::collections::VecDeque;

/// What is due since before the start.
#[derive(Default)]
pub(in crate::broker) struct Overdue {
    /// Not every shard is restored.
    is_held: bool,
    /// Of sessions that ended with the broker.
    wills: VecDeque<Will>,
    /// Sessions whose will has waited for its delay.
    delayed: VecDeque<SessionSlot>,
    /// Sessions that are over.
    sessions: VecDeque<SessionSlot>,
}

/// So many are worked off in a turn.
const OVERDUE_A_TURN: usize = 64;
/// None while more bytes than these wait for the log.
const JOURNAL_BYTES_MAX: usize = 4 << 20;

impl Overdue {
    /// Of a start that has something to restore.
    pub(in crate::broker) fn held(wills: Vec<Will>) -> Overdue {
        Overdue { is_held: true, wills: wills.into(), ..Overdue::default() }
    }

    /// No timer of a session may take effect yet.
    pub(in crate::broker) fn is_held(&self) -> bool {
        self.is_held
    }

    /// A will's delay is over.
    pub(in crate::broker) fn add_will(&mut self, session: SessionSlot) {
        self.delayed.push_back(session);
    }

    /// A session is over.
    pub(in crate::broker) fn add_session(&mut self, session: SessionSlot) {
        self.sessions.push_back(session);
    }

    fn is_empty(&self) -> bool {
        self.wills.is_empty() && self.delayed.is_empty() && self.sessions.is_empty()
    }

    /// Is there something to do in the next turn?
    pub(in crate::broker) fn has_work(&self) -> bool {
        !self.is_held && !self.is_empty()
    }
}

impl Shard {
    /// Every shard knows what the sessions of all shards want (see [`Shard::is_restoring`]). What is overdue begins
    /// with the next turn.
    pub fn handle_restored(&mut self) {
        self.overdue.is_held = false;
        self.has_put_off |= self.overdue.has_work();
    }

    /// May clients come in? Not before what was overdue at the start is done.
    pub fn is_settled(&self) -> bool {
        !self.overdue.is_held && self.overdue.is_empty()
    }

    /// The time that a restored session and its will have left, which has run while the broker was down.
    pub(in crate::broker) fn restore_deadlines(
        &mut self,
        now: Time,
        session: SessionSlot,
        left_at_millis: u64,
        will: Option<Will>,
    ) {
        let wall = self.wall;
        let deadline = |seconds: u32| wall.time(left_at_millis.saturating_add(u64::from(seconds) * 1000));
        if let Some(will) = will {
            let will = will.kept(&self.memory);
            let ends = deadline(will.delay_seconds);
            let timer = if ends <= now {
                self.overdue.add_will(session);
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
            self.overdue.add_session(session);
        } else {
            let timer = self.timers.schedule(ends, Timer::SessionExpiry(session));
            self.sessions.session_mut(session).expiry_timer = Some(timer);
        }
    }

    /// Some of what is overdue.
    pub(in crate::broker) fn work_off_overdue(&mut self, now: Time) {
        for _ in 0..OVERDUE_A_TURN {
            if !self.overdue.has_work() || self.journal.waiting_bytes() > JOURNAL_BYTES_MAX {
                return;
            }
            if let Some(will) = self.overdue.wills.pop_front() {
                self.publish_will_of(now, &will, None);
            } else if let Some(session) = self.overdue.delayed.pop_front() {
                self.publish_will(now, session);
            } else if let Some(session) = self.overdue.sessions.pop_front() {
                self.expire_session(now, session);
            }
            self.settle(now);
        }
    }
}
