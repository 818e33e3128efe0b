//! The end of a connection, whichever side ends it, and the consequences for its session. The session stays
//! or ends. Its will is published, waits for its delay, or is dropped. Implements sections 3.14 and 3.1.2.5.

use super::full_disk::DISK;
use super::read::seconds_of;
use super::source::client_of_source;
use crate::base::{ConnectionSlot, MemoryKind, SessionSlot, Time};
use crate::broker::components::connections::{Connection, PAUSED_BY_DISK, Stage};
use crate::broker::components::replies::Purpose;
use crate::broker::components::sessions::{GATED, QUEUES_QOS0};
use crate::broker::components::timers::Timer;
use crate::broker::event::{Traffic, beginning};
use crate::broker::fanout::Fanout;
use crate::broker::{Counter, Effect, EndCause, Event, Hangup, Shard, Violation};
use crate::mqtt::codec::{Disconnect, DisconnectText, Framing, Packet, decode, encode_disconnect, frame};
use crate::mqtt::{ProtocolVersion, QoS, Reason};
use crate::session::{NEVER_EXPIRES, Will};
use crate::store::Record;
use std::net::SocketAddr;

impl Shard {
    pub(in crate::broker) fn handle_disconnect(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        disconnect: Disconnect,
    ) -> Result<(), Violation> {
        let cause = self.take_farewell(session, disconnect)?;
        self.end_connection(now, slot, cause);
        Ok(())
    }

    fn take_farewell(&mut self, session: SessionSlot, disconnect: Disconnect) -> Result<EndCause, Violation> {
        let max = self.settings.config.protocol.session_expiry_seconds_max;
        let state = self.sessions.session_mut(session);
        if let Some(seconds) = disconnect.session_expiry_seconds {
            if state.expiry_seconds == 0 && seconds > 0 {
                // [MQTT5 §3.14.2.2.2]: the DISCONNECT is not valid, so the will is published.
                return Err(Violation {
                    reason: Reason::ProtocolError,
                    cause: "DISCONNECT sets a session expiry, but that of CONNECT was 0",
                });
            }
            state.expiry_seconds = seconds.min(max);
        }
        Ok(EndCause::Disconnect(disconnect.reason))
    }

    /// The cause of an end if the client has sent DISCONNECT after packets that wait for room on the disk,
    /// for a rate, or for their turn. The DISCONNECT has been received, so the will is discarded.
    /// [MQTT5-3.14.4-3] [MQTT311-3.14.4-3] The packets before it are dropped without an acknowledgement, as
    /// at any other end. If the client violated the protocol or the operator ended the connection, that cause
    /// stays.
    pub(in crate::broker) fn cause_with_unread(&mut self, slot: ConnectionSlot, cause: EndCause) -> EndCause {
        let from_without = matches!(cause, EndCause::Hangup(_) | EndCause::TakenOver | EndCause::Shutdown)
            || cause == EndCause::Violation(DISK);
        let Some(connection) = self.connections.get_mut(slot).filter(|_| from_without) else { return cause };
        let Stage::Serving { session, .. } = connection.stage else { return cause };
        let Some(partial) = connection.partial.take() else { return cause };
        let (version, max) = (self.version_of_session(session), self.terms(slot).packet_bytes);
        let mut bytes = &partial.bytes[..];
        while let Ok(Framing::Whole(packet)) = frame(bytes, max) {
            let len = packet.total_len;
            match decode(version, packet) {
                Ok(Packet::Disconnect(disconnect)) => {
                    return self.take_farewell(session, disconnect).unwrap_or(cause);
                }
                Ok(_) => bytes = &bytes[len..],
                Err(_) => break,
            }
        }
        cause
    }

    /// Handles the end by the peer. What it has sent before it closed is handled first, unless that waits for
    /// a full disk, which may take forever. After a reset, nothing of it need be handled. A DISCONNECT always
    /// counts: see [`Shard::cause_with_unread`].
    pub(in crate::broker) fn hang_up(&mut self, now: Time, slot: ConnectionSlot, hangup: Hangup) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let is_soon = connection.has_unhandled() && !connection.is_paused_by(PAUSED_BY_DISK);
        if is_soon && matches!(hangup, Hangup::Closed | Hangup::Transport(_)) {
            connection.extras().hangup = Some(hangup);
            return;
        }
        self.end_connection(now, slot, EndCause::Hangup(hangup));
    }

    /// Ends a connection, whichever side requests it. Sends DISCONNECT to a 5.0 client, closes, and keeps or
    /// ends the session.
    pub(in crate::broker) fn end_connection(&mut self, now: Time, slot: ConnectionSlot, cause: EndCause) {
        let cause = self.cause_with_unread(slot, cause);
        let Some(connection) = self.forget_connection(slot) else { return };
        // [MQTT5-3.14.0-1]: only after a successful CONNACK. [MQTT5-4.13.1-1]
        if let (Stage::Serving { session, .. }, Some(reason)) = (&connection.stage, cause.reason_sent()) {
            let entry = self.sessions.slot(*session);
            // [MQTT5-3.1.2-24]
            let (version, packet_bytes_max) = (entry.version, entry.packet_bytes_max);
            let words = match cause {
                EndCause::Violation(violation) if self.settings.config.protocol.reason_strings => {
                    Some(violation.cause.into())
                }
                // [MQTT5 §4.11]
                EndCause::Drained(_) => self.drain.server_reference().map(Box::<str>::from),
                _ => None,
            };
            let text = words.as_deref().map(|words| match cause {
                EndCause::Drained(_) => DisconnectText::ServerReference(words),
                _ => DisconnectText::Reason(words),
            });
            if version == ProtocolVersion::V5 && entry.flags & GATED == 0 {
                self.send_packet(slot, |out| encode_disconnect(out, reason, text, packet_bytes_max));
            }
        }
        self.effects.push(Effect::Close { slot });
        self.count(Counter::ConnectionsClosed, 1);
        self.kinds().ended.add(cause.place(), 1);
        let (peer, listener) = (SocketAddr::from(&connection.peer), self.listener_of(connection.entrance));
        match connection.stage {
            Stage::Serving { session, .. } => {
                let client = self.sessions.session(session).client_id.clone();
                let drops_will = cause.drops_will();
                self.tell_dropped(session, connection.slow.as_deref());
                let queued = self.sessions.session(session).queue.len();
                let since = self.sessions.session(session).connected_at_seconds;
                let seconds = u64::from(seconds_of(now).saturating_sub(since));
                let given = self.outbox.given(slot);
                let traffic = Traffic {
                    messages_in: connection.messages_in,
                    bytes_in: connection.bytes_in,
                    messages_out: given.messages,
                    bytes_out: given.bytes,
                };
                let user = connection.extras.and_then(|extras| extras.identity.user);
                let end =
                    Event::Disconnected { client, peer, user, listener, seconds, traffic, queued, cause };
                self.report(end);
                self.detach(now, session, drops_will);
            }
            Stage::Connect { .. } | Stage::Check | Stage::Authenticate if cause != EndCause::Refused => {
                self.report(Event::Unconnected { peer, listener, cause });
            }
            // The refusal was reported earlier.
            Stage::Connect { .. } | Stage::Check | Stage::Authenticate | Stage::Refuse => {}
        }
    }

    /// Removes a connection from this machine.
    pub(in crate::broker) fn forget_connection(&mut self, slot: ConnectionSlot) -> Option<Box<Connection>> {
        if self.traces.is_on() {
            self.trace_last_output(slot);
        }
        let mut connection = self.connections.take(slot)?;
        self.note_connection(connection.entrance, false);
        self.memory.account().subtract(MemoryKind::Backlogs, connection.backlog_bytes());
        self.count_no_backlog(connection.backlog_packets());
        self.replies.forget(slot);
        if connection.is_paced() {
            self.end_pace(&mut connection);
        }
        if connection.is_paused_by(PAUSED_BY_DISK) {
            self.behind.forget(slot);
        }
        match connection.stage {
            Stage::Serving { .. } => {
                self.shared.counters[usize::from(self.id)].subtract(Counter::ClientsConnected, 1);
            }
            Stage::Connect { .. } | Stage::Check | Stage::Authenticate | Stage::Refuse => {}
        }
        let ends = connection.extras.as_ref().and_then(|extras| extras.identity.ends);
        for timer in [connection.timer, ends].into_iter().flatten() {
            self.timers.cancel(timer);
        }
        Some(connection)
    }

    /// Separates a session from its connection: publishes its will, or starts the will's delay.
    pub(in crate::broker) fn detach(&mut self, now: Time, session: SessionSlot, drop_will: bool) {
        let entry = self.sessions.slot_mut(session);
        entry.connection = None;
        entry.flags &= QUEUES_QOS0;
        let state = entry.session_mut();
        state.drop_replays();
        let expiry_seconds = state.expiry_seconds;
        let dropped = if drop_will { state.will.take() } else { None };
        let delay_seconds = state.will.as_ref().map(|will| will.delay_seconds);
        if let Some(will) = dropped {
            self.record_will_gone(&will, Some(session));
        }
        if expiry_seconds == 0 {
            self.end_session(now, session);
            return;
        }
        if let Some(sid) = self.sid(session) {
            self.durability.record(&Record::Left {
                sid,
                at_millis: self.durability.wall().millis(now),
                expiry_seconds,
            });
        }
        self.tell_groups(session, false);
        if expiry_seconds != NEVER_EXPIRES {
            let timer =
                self.timers.schedule(now.after_seconds(expiry_seconds), Timer::SessionExpiry(session));
            self.sessions.session_mut(session).expiry_timer = Some(timer);
        }
        match delay_seconds {
            None => {}
            Some(0) => self.publish_will(now, session),
            Some(delay) => {
                // [MQTT5 §3.1.3.2.2]: the will is published after its delay or at the session end, whichever
                // is earlier.
                let timer = self.timers.schedule(now.after_seconds(delay), Timer::WillDelay(session));
                self.sessions.session_mut(session).will_timer = Some(timer);
            }
        }
    }

    /// Ends a session: its will, its subscriptions, and its messages from shared subscriptions.
    pub(in crate::broker) fn end_session(&mut self, now: Time, session: SessionSlot) {
        self.publish_will(now, session);
        let state = self.sessions.session_mut(session);
        let timers = [state.will_timer.take(), state.expiry_timer.take()];
        for timer in timers.into_iter().flatten() {
            self.timers.cancel(timer);
        }
        let (back, ticket) = self.take_shared(session);
        if let Some(sid) = self.sid(session) {
            self.record_end(session, sid);
        }
        self.drop_subscriptions(session);
        let state = self.sessions.remove(session);
        self.note_session(&state.client_id, false);
        self.note_released(state.held_count());
        self.shared.end_session();
        self.shared.counters[usize::from(self.id)].subtract(Counter::Sessions, 1);
        self.forget_queue(&state);
        self.report_unreported(&state);
        self.return_shared(back, ticket);
    }

    /// Publishes the will of a session, if it has one. `[MQTT5-3.1.2-8]` `[MQTT5-3.1.2-10]`
    pub(in crate::broker) fn publish_will(&mut self, now: Time, session: SessionSlot) {
        let Some(will) = self.sessions.session_mut(session).will.take() else { return };
        self.publish_will_of(now, &will, Some(session));
    }

    /// Publishes a will that belongs to this session, or to no session any more.
    pub(in crate::broker) fn publish_will_of(
        &mut self,
        now: Time,
        will: &Will,
        session: Option<SessionSlot>,
    ) {
        self.record_will_gone(will, session);
        let mut publication = will.message.as_publication();
        if !self.lets_will(&publication) {
            // The client's permission at CONNECT was revoked since then.
            let client = client_of_source(publication.source).into();
            let topic = beginning(publication.topic);
            self.report(Event::PublishRefused { client, topic, rule: None, violation: WILL_REVOKED });
            return;
        }
        if !(publication.retain && self.settings.config.protocol.check_retain_source) {
            publication.source = &[];
        }
        publication.expires_at = will.message_expiry_seconds.map(|seconds| now.after_seconds(seconds));
        publication.stamp = Some(self.stamps.next(now));
        // A will of an earlier run has no origin.
        publication.origin = session.map(|session| self.sessions.key(session));
        let mut fanout = Fanout::new(publication, now);
        let is_kept = will.number.is_some() || session.is_some_and(|session| self.sid(session).is_some());
        let is_promised = publication.qos != QoS::AtMostOnce || publication.retain;
        if is_kept && is_promised && !self.durability.has_failed() && !self.durability.is_full() {
            // It reaches the other shards once, even if the power fails between their records and this
            // shard's.
            fanout.ticket = Some(self.replies.next_ticket());
            fanout.intended = true;
        }
        let outcome = self.publish(now, &mut fanout);
        if fanout.missing > 0 {
            let intents = std::mem::take(&mut fanout.intents);
            self.replies.open_ticket(fanout.missing, outcome, intents, Purpose::Intents);
            // It waits for the log. Messages that its client publishes after it returns must come later.
            match session {
                Some(session) => self.note_end(session),
                None => self.durability.note_end(None),
            }
        }
    }
}

const WILL_REVOKED: Violation = Violation {
    reason: Reason::NotAuthorized,
    cause: "the access list does not let the client publish its will any more",
};
