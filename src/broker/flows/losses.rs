//! The losses of a session, from the loss to the CONNACK that reports it.
//!
//! The loss of a delivery that is in the log is one record: its end, which would be recorded anyway, with the
//! cause and the new count. So the end of the delivery and the account of its loss become durable together. A
//! message that its session never took leaves no record, and its publisher must not wait for one. The counts
//! of such losses are recorded once a second for each session, so a power failure loses at most the account
//! of the last second.

use crate::base::{DeliveryNumber, SessionSlot, Time};
use crate::broker::components::timers::Timer;
use crate::broker::{Event, Shard};
use crate::session::{LossCause, Losses, Session};
use crate::store::Record;

const RECORD_MILLIS: u64 = 1000;
/// The number of sessions that are recorded at once, and the delay before the next ones.
const AT_ONCE_MAX: usize = 1024;
const NEXT_MILLIS: u64 = 10;

impl Shard {
    /// Notes the loss of a message of QoS 1 or 2. `number` is the number of its delivery in the log. It
    /// has none if the session never took it.
    pub(in crate::broker) fn lose(
        &mut self,
        now: Time,
        session: SessionSlot,
        number: Option<DeliveryNumber>,
        cause: LossCause,
    ) {
        if self.traces.is_on() {
            self.trace_loss(now, session, cause);
        }
        let at_millis = self.durability.wall_millis();
        let losses = self.sessions.session_mut(session).losses_mut();
        losses.note(cause, at_millis);
        let count = losses.of(cause);
        match self.sid(session) {
            None => {}
            Some(sid) if number.is_some() => {
                self.durability.record(&Record::Lost { sid, number, cause, count })
            }
            Some(_) => {
                self.unrecorded.add(session);
                self.start_losses_timer(now, RECORD_MILLIS);
            }
        }
    }

    fn start_losses_timer(&mut self, now: Time, millis: u64) {
        if self.unrecorded.needs_timer() {
            self.timers.schedule(now.after_millis(millis), Timer::Losses);
        }
    }

    pub(in crate::broker) fn handle_losses_timer(&mut self, now: Time) {
        self.unrecorded.note_fired();
        self.record_losses(AT_ONCE_MAX);
        self.start_losses_timer(now, NEXT_MILLIS);
    }

    /// Records the counts of up to `at_once` sessions.
    pub(in crate::broker) fn record_losses(&mut self, at_once: usize) {
        for _ in 0..at_once {
            let Some(session) = self.unrecorded.pop() else { break };
            // The session may have ended, and its slot may have another one, which has lost nothing or is
            // recorded early.
            let Some(sid) = self.sessions.get(session).and_then(|entry| entry.sid) else { continue };
            let Some(&losses) = self.sessions.session(session).losses() else { continue };
            for cause in LossCause::ALL {
                let count = losses.of(cause);
                if count > 0 {
                    self.durability.record(&Record::Lost { sid, number: None, cause, count });
                }
            }
        }
    }

    /// Notes that the CONNACK with these losses was sent. If it can't tell the client, only the log reports
    /// them.
    pub(in crate::broker) fn note_losses_reported(&mut self, session: SessionSlot, reported: &Losses) {
        let state = self.sessions.session_mut(session);
        let Some(left) = state.losses().map(|losses| losses.without(reported)) else { return };
        state.leave_losses(left);
        let client = state.client_id.clone();
        if let Some(sid) = self.sid(session) {
            self.durability.record(&Record::LossesTold { sid, left });
        }
        let now_millis = self.durability.wall_millis();
        self.report(Event::Losses { client, is_back: true, losses: *reported, now_millis });
    }

    /// Reports the losses of a session that has ended before its client was told.
    pub(in crate::broker) fn report_unreported(&mut self, state: &Session) {
        if let Some(&losses) = state.losses() {
            let (client, now_millis) = (state.client_id.clone(), self.durability.wall_millis());
            self.report(Event::Losses { client, is_back: false, losses, now_millis });
        }
    }
}

/// The User Properties of a CONNACK, as names and values.
pub(in crate::broker) fn user_properties(losses: &Losses) -> Vec<(&'static str, String)> {
    let figures = [("midge-dropped", losses.dropped()), ("midge-expired", losses.of(LossCause::Expired))];
    figures
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| (name, count.to_string()))
        .collect()
}
