//! The actions of timers: keep alive, the time limit for CONNECT, will delay, session expiry, and
//! housekeeping.

use crate::base::Time;
use crate::base::TimerId;
use crate::base::{ConnectionSlot, SessionSlot};
use crate::broker::components::budget::WORK_A_TIMER;
use crate::broker::components::connections::Stage;
use crate::broker::components::timers::Timer;
use crate::broker::{Counter, EndCause, Shard};

/// The interval of sweeps for expired retained messages, while there are any messages.
const SWEEP_SECONDS: u32 = 10;
/// The number of entries per sweep.
const SWEEP_VISITS: usize = 4096;

/// The keep alive that applies to packets of a client without one.
const UNTIMED_SECONDS: u16 = 600;

/// The deadline: one and a half times the keep alive after the last packet. `[MQTT5-3.1.2-22]`
pub(in crate::broker) fn keep_alive_deadline(last_packet: Time, keep_alive_seconds: u16) -> Time {
    last_packet.after_millis(u64::from(keep_alive_seconds) * 1500)
}

impl Shard {
    pub(in crate::broker) fn start_timers(&mut self, now: Time) {
        self.start_sys(now);
    }

    /// Starts the timer of the sweep, if there is something to sweep. An idle broker needs no timer.
    pub(in crate::broker) fn start_sweep(&mut self, now: Time) {
        if self.retained.needs_sweep_timer() {
            self.timers.schedule(now.after_seconds(SWEEP_SECONDS), Timer::Sweep);
        }
    }

    pub(in crate::broker) fn expire_timers(&mut self, now: Time) {
        self.timers.expire(now);
        self.run_timers(now);
        let has_more = self.timers.has_fired();
        self.turn.put_off_if(has_more);
    }

    /// Handles the timers that have fired, as far as the turn allows.
    pub(in crate::broker) fn run_timers(&mut self, now: Time) {
        while !self.is_spent()
            && let Some(timer) = self.timers.pop_fired()
        {
            self.spend(WORK_A_TIMER);
            self.handle_timer(now, timer);
            // The local consequences of a timer are completed before the next timer.
            self.settle(now);
        }
    }

    fn handle_timer(&mut self, now: Time, timer: Timer) {
        match timer {
            Timer::Connection(slot) => self.handle_connection_timer(now, slot),
            Timer::Permission(slot) => self.handle_permission_end(now, slot),
            Timer::WillDelay(session) => self.handle_will_delay(now, session),
            Timer::SessionExpiry(session) => self.handle_session_expiry(now, session),
            Timer::Rate(slot) => self.handle_rate_timer(now, slot),
            Timer::Lane(listener) => self.handle_lane_timer(now, listener),
            Timer::Disk => self.handle_disk_timer(now),
            Timer::Losses => self.handle_losses_timer(now),
            Timer::Sweep => {
                self.retained.sweep(now, SWEEP_VISITS);
                self.note_retained();
                self.start_sweep(now);
            }
            Timer::Alive => self.handle_alive(now),
            Timer::Memory => self.handle_memory_timer(),
            Timer::Drain => self.handle_drain_timer(now),
            Timer::Sys if self.timers.take_fired(self.sys.timer()) => self.publish_sys(now),
            Timer::Sys => {}
        }
    }

    // Between the time when a timer fires and its turn, the connection or session may have ended, and another
    // may have its slot, or the timer may have been replaced. A timer that is running is not the one that has
    // fired.

    fn handle_will_delay(&mut self, now: Time, session: SessionSlot) {
        let waits = self.sessions.get(session).is_some()
            && self.timers.take_fired(&mut self.sessions.session_mut(session).will_timer);
        if waits && self.restart.is_held() {
            self.restart.add_will(session);
        } else if waits {
            self.publish_will(now, session);
        }
    }

    /// `[MQTT5-4.1.0-2]`
    fn handle_session_expiry(&mut self, now: Time, session: SessionSlot) {
        let waits = self.sessions.get(session).is_some()
            && self.timers.take_fired(&mut self.sessions.session_mut(session).expiry_timer);
        if waits && self.restart.is_held() {
            self.restart.add_session(session);
        } else if waits {
            self.expire_session(now, session);
        }
    }

    pub(in crate::broker) fn expire_session(&mut self, now: Time, session: SessionSlot) {
        self.count(Counter::SessionsExpired, 1);
        self.end_session(now, session);
    }

    /// Handles the due timers of a session whose client returns. A timer fires up to a tick late, so its
    /// deadline may have passed already.
    pub(in crate::broker) fn run_due(&mut self, now: Time, session: SessionSlot) {
        let state = self.sessions.session(session);
        // A timer that has fired waits for its turn.
        let has_passed = |timer| self.timers.deadline(timer).is_none_or(|deadline| deadline <= now);
        let is_due = |timer: Option<TimerId>| timer.filter(|&timer| has_passed(timer));
        let (will, expiry) = (is_due(state.will_timer), is_due(state.expiry_timer));
        if let Some(timer) = will {
            self.timers.cancel(timer);
            self.handle_will_delay(now, session);
        }
        if let Some(timer) = expiry {
            self.timers.cancel(timer);
            self.handle_session_expiry(now, session);
        }
    }

    fn handle_connection_timer(&mut self, now: Time, slot: ConnectionSlot) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if !self.timers.take_fired(&mut connection.timer) {
            return;
        }
        let cause = match connection.stage {
            Stage::Refuse => return self.send_refusal(now, slot),
            Stage::Check => return self.refuse_unchecked(now, slot),
            Stage::Connect { .. } | Stage::Authenticate => EndCause::ConnectTimeout,
            Stage::Serving { keep_alive_seconds, .. } => {
                let Some(cause) = self.judge_silence(now, slot, keep_alive_seconds) else { return };
                cause
            }
        };
        self.end_connection(now, slot, cause);
    }

    /// Checks a keep alive that may be over. Returns the cause if it is. Otherwise sets the timer again.
    fn judge_silence(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        keep_alive_seconds: u16,
    ) -> Option<EndCause> {
        let rate = self.settings.config.limits.upload_bytes_per_second_min;
        let connection = self.connections.get_mut(slot)?;
        connection.forgive_pauses(now);
        let is_untimed = keep_alive_seconds == 0;
        if is_untimed && connection.partial.is_none() {
            return None;
        }
        let (seconds, since) = match &connection.partial {
            Some(partial) if is_untimed => (UNTIMED_SECONDS, partial.since()),
            _ => (keep_alive_seconds, connection.last_packet),
        };
        // Packets may have arrived since the timer was set, because they do not touch the wheel.
        let mut deadline = keep_alive_deadline(since, seconds);
        if deadline <= now {
            let Some(partial) = &mut connection.partial else { return Some(EndCause::KeepAlive) };
            if !partial.comes_at(now, rate.into()) {
                return Some(EndCause::SlowPacket);
            }
            // A packet in progress is a sign of life.
            partial.count_anew(now);
            connection.last_packet = now;
            deadline = keep_alive_deadline(now, seconds);
        }
        let timer = self.timers.schedule(deadline, Timer::Connection(slot));
        self.connections.get_mut(slot)?.timer = Some(timer);
        None
    }

    /// Times a packet of a client without a keep alive, whose end has not arrived.
    pub(in crate::broker) fn time_untimed_packet(&mut self, now: Time, slot: ConnectionSlot) {
        let timer = self.timers.schedule(keep_alive_deadline(now, UNTIMED_SECONDS), Timer::Connection(slot));
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.timer = Some(timer);
        }
    }
}
