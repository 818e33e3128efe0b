//! Refusals: CONNACK with a reason and the end of the connection, at once or, after a failed login, when the
//! login throttle allows.
//!
//! The delay after a failed login depends on the client's address. This machine alone does not know enough
//! about the address: it reports the failure as an effect, and the answer comes as [`Shard::handle_penalty`].
//! Nothing is read meanwhile.

use super::read::Progress;
use crate::base::ConnectionSlot;
use crate::base::Time;
use crate::broker::components::connections::Stage;
use crate::broker::components::timers::Timer;
use crate::broker::event::beginning;
use crate::broker::{Counter, Effect, EndCause, Event, Limit, MemoryRelief, Shard, Violation};
use crate::mqtt::codec::{Connack, Connect, encode_connack};
use crate::mqtt::{ProtocolVersion, Reason};
use std::net::SocketAddr;

/// The largest number of refusals of a shard that wait at the same time. Others are sent at once, so that
/// guessing does not fill the shard with waiting connections. The documentation of
/// `gate.delay_milliseconds_max` mentions it.
pub const REFUSALS_WAITING_MAX: usize = 1000;

/// The client that is refused.
pub(in crate::broker) struct RefusedClient<'a> {
    client_id: &'a str,
    version: ProtocolVersion,
    /// The maximum size of the refusal. `[MQTT5-3.1.2-24]`
    packet_bytes_max: u32,
    /// The beginning of its user name, for the log.
    user: Option<Box<str>>,
}

impl<'a> RefusedClient<'a> {
    pub(in crate::broker) fn of(connect: &Connect<'a>) -> RefusedClient<'a> {
        RefusedClient {
            client_id: connect.client_id,
            version: connect.version,
            packet_bytes_max: connect.packet_bytes_max,
            user: connect.username.map(beginning),
        }
    }

    /// A client whose CONNECT could be read only up to its version.
    pub(in crate::broker) fn unread(version: ProtocolVersion) -> RefusedClient<'a> {
        RefusedClient { client_id: "", version, packet_bytes_max: u32::MAX, user: None }
    }

    /// The client with the identifier that the broker has assigned.
    pub(in crate::broker) fn named(self, client_id: &str) -> RefusedClient<'_> {
        RefusedClient { client_id, ..self }
    }

    /// Encodes CONNACK with a reason. Writes nothing if the version has no return code for it, or if the
    /// packet would be too large.
    fn encode(&self, out: &mut Vec<u8>, reason: Reason, server_reference: Option<&str>) {
        let said = Connack { server_reference, ..Connack::default() };
        encode_connack(out, self.version, reason, &said, self.packet_bytes_max);
    }
}

impl Shard {
    /// Sends CONNACK with a reason, if the version has one for it, and ends the connection. `[MQTT5-3.2.2-7]`
    pub(in crate::broker) fn refuse(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        client: Option<RefusedClient<'_>>,
        violation: Violation,
    ) -> Progress {
        let user = self.user_tried(slot, client.as_ref());
        if let Some(client) = &client {
            // [MQTT311-3.1.4-1]: a CONNECT of 3.x that is not well formed gets no answer.
            let elsewhere = match violation.reason {
                Reason::UseAnotherServer => self.drain.server_reference().map(Box::<str>::from),
                _ => None,
            };
            self.send_packet(slot, |out| client.encode(out, violation.reason, elsewhere.as_deref()));
        }
        let client_id = client.map_or("", |client| client.client_id);
        if let Some(connection) = self.connections.get(slot) {
            let (peer, listener) =
                (SocketAddr::from(&connection.peer), self.listener_of(connection.entrance));
            self.report(Event::Refused { client: client_id.into(), peer, user, listener, violation });
        }
        self.end_connection(now, slot, EndCause::Refused);
        Progress::Gone
    }

    /// The user name that a refused client has tried. The name of its certificate has priority.
    fn user_tried(&self, slot: ConnectionSlot, client: Option<&RefusedClient<'_>>) -> Option<Box<str>> {
        let certified = self.certificate_user(slot);
        certified.as_deref().map(beginning).or_else(|| client?.user.clone())
    }

    /// Refuses a client without a session because the limit of sessions is reached.
    pub(in crate::broker) fn refuse_session(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        connect: &Connect<'_>,
        client_id: &str,
    ) -> Progress {
        self.report(Event::LimitReached { limit: Limit::Sessions, client: client_id.into() });
        // The code is the same as in mosquitto: there is room again when another session ends.
        let is_3 = connect.version < ProtocolVersion::V5;
        let reason = if is_3 { Reason::ServerUnavailable } else { Reason::ServerBusy };
        let violation = Violation { reason, cause: "limits.sessions is reached" };
        self.refuse(now, slot, Some(RefusedClient::of(connect).named(client_id)), violation)
    }

    /// Refuses a client because its session or will would take memory that is short.
    pub(in crate::broker) fn refuse_for_memory(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        connect: &Connect<'_>,
        client_id: &str,
    ) -> Progress {
        self.report_memory(MemoryRelief::Connect, client_id);
        let is_3 = connect.version < ProtocolVersion::V5;
        let reason = if is_3 { Reason::ServerUnavailable } else { Reason::QuotaExceeded };
        let violation = Violation { reason, cause: "limits.memory_bytes is nearly reached" };
        self.refuse(now, slot, Some(RefusedClient::of(connect).named(client_id)), violation)
    }

    /// Ends a connection because its address became known and the gate refuses it. Nothing is sent, and it
    /// has no log line.
    pub fn handle_turned_away(&mut self, now: Time, slot: ConnectionSlot) {
        self.end_connection(now, slot, EndCause::Refused);
        self.settle(now);
    }

    /// Takes the penalty for a wrong login of this connection. `serial`: as in [`Effect::LoginFailed`]. The
    /// refusal is sent after the delay, or at once if there is none or if [`REFUSALS_WAITING_MAX`] refusals
    /// wait.
    pub fn handle_penalty(&mut self, now: Time, slot: ConnectionSlot, serial: u32, delay_millis: u64) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if connection.serial != serial || !matches!(connection.stage, Stage::Refuse) {
            return;
        }
        if delay_millis == 0 || self.connections.refusals_waiting() > REFUSALS_WAITING_MAX {
            return self.send_refusal(now, slot);
        }
        self.count(Counter::RefusalsDelayed, 1);
        // The answer has ended the time limit for CONNECT.
        let timer = self.timers.schedule(now.after_millis(delay_millis), Timer::Connection(slot));
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if let Some(connect_timer) = connection.timer.replace(timer) {
            self.timers.cancel(connect_timer);
        }
    }

    /// Refuses a client that has not proved its identity, when the gate allows.
    pub(in crate::broker) fn refuse_login(
        &mut self,
        slot: ConnectionSlot,
        client: RefusedClient<'_>,
        violation: Violation,
    ) -> Progress {
        let user = self.user_tried(slot, Some(&client));
        let mut refusal = Vec::new();
        client.encode(&mut refusal, violation.reason, None);
        let Some(connection) = self.connections.refuse(slot, refusal.into()) else { return Progress::Gone };
        let (serial, peer) = (connection.serial, SocketAddr::from(&connection.peer));
        let entrance = connection.entrance;
        let listener = self.listener_of(entrance);
        self.report(Event::Refused { client: client.client_id.into(), peer, user, listener, violation });
        self.note_failure(slot, serial, peer);
        Progress::Next
    }

    fn note_failure(&mut self, slot: ConnectionSlot, serial: u32, peer: SocketAddr) {
        self.count(Counter::LoginsFailed, 1);
        self.effects.push(Effect::LoginFailed { slot, serial, peer });
    }

    /// Notes that a connected client has failed to authenticate again. It counts like any wrong login, and
    /// the connection ends at once.
    pub(in crate::broker) fn note_failed_again(&mut self, slot: ConnectionSlot) {
        if let Some(connection) = self.connections.get(slot) {
            self.note_failure(slot, connection.serial, SocketAddr::from(&connection.peer));
        }
    }

    /// Notes that the client has proved its identity, even if it is refused for another reason.
    pub(in crate::broker) fn note_proof(&mut self, slot: ConnectionSlot) {
        if let Some(connection) = self.connections.get(slot) {
            let peer = SocketAddr::from(&connection.peer);
            self.effects.push(Effect::LoginSucceeded { slot, peer });
        }
    }

    pub(in crate::broker) fn send_refusal(&mut self, now: Time, slot: ConnectionSlot) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let refusal = std::mem::take(&mut connection.extras().refusal);
        self.send_packet(slot, |out| out.extend_from_slice(&refusal));
        self.end_connection(now, slot, EndCause::Refused);
        self.settle(now);
    }
}
