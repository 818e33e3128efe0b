//! What a session loses, from the loss to the CONNACK that tells of it.
//!
//! A loss of a session that is in the log is one record: the end of a delivery that would be recorded anyway, with its
//! cause and the new count. So a message and the account of its loss are durable together, and a power cut between them
//! is none.

use super::{Event, Shard};
use crate::session::{LossCause, Losses};
use crate::store::Record;

impl Shard {
    /// A QoS 1 or 2 message is lost for a session. `number`: the name of its delivery in the log; 0: it has none.
    pub(super) fn lose(&mut self, session: u32, number: u64, cause: LossCause) {
        let at_millis = self.journal.wall_millis();
        let losses = self.directory.session_mut(session).losses_mut();
        losses.note(cause, at_millis);
        let count = losses.of(cause);
        if let Some(sid) = self.sid(session) {
            self.journal.record(&Record::Lost { sid, number, cause, count });
        }
    }

    /// The CONNACK with these losses has gone out. A client that can't be told in it is told nothing: the log is.
    pub(super) fn note_losses_told(&mut self, session: u32, told: &Losses) {
        let state = self.directory.session_mut(session);
        let Some(left) = state.losses().map(|losses| losses.without(told)) else { return };
        state.leave_losses(left);
        let client = state.client_id.clone();
        if let Some(sid) = self.sid(session) {
            self.journal.record(&Record::LossesTold { sid, left });
        }
        let now_millis = self.journal.wall_millis();
        self.report(Event::LossesTold { client, losses: *told, now_millis });
    }
}

/// The User Properties of a CONNACK: the name and the value of each.
pub(super) fn user_properties(losses: &Losses) -> Vec<(&'static str, String)> {
    let figures = [("midge-dropped", losses.dropped()), ("midge-expired", losses.of(LossCause::Expired))];
    figures
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| (name, count.to_string()))
        .collect()
}
