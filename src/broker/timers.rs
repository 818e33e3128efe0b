//! What the clock does: keep alive, time for CONNECT, will delay, session expiry, house-keeping.

use super::budget::WORK_A_TIMER;
use super::connection::Stage;
use super::{Counter, EndCause, Shard};
use crate::base::Time;
use crate::base::{TimerId, Wheel};

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// Time for CONNECT, later keep alive; or the time of a refusal that waits.
    Connection(u32),
    /// What a client was let in with runs out.
    Permission(u32),
    /// A will's delay is over.
    WillDelay(u32),
    /// A session's expiry interval is over.
    SessionExpiry(u32),
    /// There is enough in the bucket of a connection.
    Rate(u32),
    /// There is enough in the bucket of a listener.
    Lane(u16),
    /// Take down what sessions have lost.
    Losses,
    /// Look whether the disks have room for those who wait.
    Disk,
    /// Look for expired retained messages.
    Sweep,
    /// Publish `$SYS`.
    Sys,
    /// Tell the log that the broker lives.
    Alive,
    /// Look whether memory is still tight.
    Memory,
}

/// Expired retained messages are looked for this often, while there are any messages.
const SWEEP_SECONDS: u32 = 10;
/// And this many entries at a time.
const SWEEP_VISITS: usize = 4096;

/// A packet of a client without a keep alive is judged as if this were it.
const UNTIMED_SECONDS: u16 = 600;

/// One and a half times the keep alive after the last packet. `[MQTT5-3.1.2-22]`
pub(super) fn keep_alive_deadline(last_packet: Time, keep_alive_seconds: u16) -> Time {
    last_packet.after_millis(u64::from(keep_alive_seconds) * 1500)
}

impl Shard {
    pub(super) fn start_timers(&mut self, now: Time) {
        if self.id == 0 && self.shared.config.sys.interval_seconds > 0 {
            self.publish_sys(now, true);
            self.wheel.schedule(now.after_seconds(self.shared.config.sys.interval_seconds), Timer::Sys);
        }
    }

    /// Nothing to sweep, no timer: an idle broker sleeps.
    pub(super) fn start_sweep(&mut self, now: Time) {
        if !self.sweeping && self.retained.needs_sweep() {
            self.sweeping = true;
            self.wheel.schedule(now.after_seconds(SWEEP_SECONDS), Timer::Sweep);
        }
    }

    pub(super) fn expire_timers(&mut self, now: Time) {
        self.wheel.expire(now, &mut self.due);
        self.run_timers(now);
        self.has_put_off |= !self.due.is_empty();
    }

    /// Handles the timers that have fired, as far as the turn allows.
    pub(super) fn run_timers(&mut self, now: Time) {
        while !self.is_spent()
            && let Some(timer) = self.due.pop_front()
        {
            self.spend(WORK_A_TIMER);
            self.handle_timer(now, timer);
            // What it set going here is done before the next one is looked at.
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
                self.sweeping = false;
                self.start_sweep(now);
            }
            Timer::Alive => self.handle_alive(now),
            Timer::Memory => self.handle_memory_timer(),
            Timer::Sys => {
                self.publish_sys(now, false);
                self.wheel.schedule(now.after_seconds(self.shared.config.sys.interval_seconds), Timer::Sys);
            }
        }
    }

    // Between the time when a timer fires and its turn, the connection or session may have gone, and another may be in
    // its place, or the timer may have been replaced: one that is running is not the one that has fired.

    /// Takes a timer out that has fired; false if there is none.
    pub(super) fn take_fired(wheel: &Wheel<Timer>, timer: &mut Option<TimerId>) -> bool {
        timer.take_if(|id| !wheel.is_running(*id)).is_some()
    }

    fn handle_will_delay(&mut self, now: Time, session: u32) {
        let waits = self.directory.get(session).is_some()
            && Shard::take_fired(&self.wheel, &mut self.directory.session_mut(session).will_timer);
        if waits && self.overdue.is_held() {
            self.overdue.add_will(session);
        } else if waits {
            self.publish_will(now, session);
        }
    }

    /// `[MQTT5-4.1.0-2]`
    fn handle_session_expiry(&mut self, now: Time, session: u32) {
        let waits = self.directory.get(session).is_some()
            && Shard::take_fired(&self.wheel, &mut self.directory.session_mut(session).expiry_timer);
        if waits && self.overdue.is_held() {
            self.overdue.add_session(session);
        } else if waits {
            self.expire_session(now, session);
        }
    }

    pub(super) fn expire_session(&mut self, now: Time, session: u32) {
        self.count(Counter::SessionsExpired, 1);
        self.end_session(now, session);
    }

    /// A timer fires up to a tick late: its client is back after the deadline all the same.
    pub(super) fn run_due(&mut self, now: Time, session: u32) {
        let state = self.directory.session(session);
        // One that has fired waits for its turn.
        let has_passed = |timer| self.wheel.deadline(timer).is_none_or(|deadline| deadline <= now);
        let is_due = |timer: Option<TimerId>| timer.filter(|&timer| has_passed(timer));
        let (will, expiry) = (is_due(state.will_timer), is_due(state.expiry_timer));
        if let Some(timer) = will {
            self.wheel.cancel(timer);
            self.handle_will_delay(now, session);
        }
        if let Some(timer) = expiry {
            self.wheel.cancel(timer);
            self.handle_session_expiry(now, session);
        }
    }

    fn handle_connection_timer(&mut self, now: Time, slot: u32) {
        let Some(connection) = self.connections.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        if !Shard::take_fired(&self.wheel, &mut connection.timer) {
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

    /// The keep alive of a client may be over: why it ends, or nothing, and the timer is set anew.
    fn judge_silence(&mut self, now: Time, slot: u32, keep_alive_seconds: u16) -> Option<EndCause> {
        let rate = self.shared.config.limits.upload_bytes_per_second_min;
        let connection = self.connection_mut(slot)?;
        connection.forgive_pauses(now);
        let is_untimed = keep_alive_seconds == 0;
        if is_untimed && connection.partial.is_none() {
            return None;
        }
        let (seconds, since) = match &connection.partial {
            Some(partial) if is_untimed => (UNTIMED_SECONDS, partial.since()),
            _ => (keep_alive_seconds, connection.last_packet),
        };
        // Packets came since the timer was set: they do not touch the wheel.
        let mut deadline = keep_alive_deadline(since, seconds);
        if deadline <= now {
            let Some(partial) = &mut connection.partial else { return Some(EndCause::KeepAlive) };
            if !partial.comes_at(now, rate.into()) {
                return Some(EndCause::SlowPacket);
            }
            // A packet that is under way is a sign of life.
            partial.count_anew(now);
            connection.last_packet = now;
            deadline = keep_alive_deadline(now, seconds);
        }
        let timer = self.wheel.schedule(deadline, Timer::Connection(slot));
        self.connection_mut(slot)?.timer = Some(timer);
        None
    }

    /// A packet of a client without a keep alive has begun, and has not come whole.
    pub(super) fn time_untimed_packet(&mut self, now: Time, slot: u32) {
        let timer = self.wheel.schedule(keep_alive_deadline(now, UNTIMED_SECONDS), Timer::Connection(slot));
        if let Some(connection) = self.connection_mut(slot) {
            connection.timer = Some(timer);
        }
    }
}
