//! CONNECT: from the packet to a served session, or to a truthful refusal.
//!
//! Keeps chapters 3.1 and 3.2. The order is the standard's:
//! read, policy, authentication, takeover, clean start, CONNACK, resumption.

use super::authentication::ProofTold;
use super::read::{Progress, seconds_of};
use crate::base::Time;
use crate::base::{ConnectionSlot, SessionSlot};
use crate::broker::components::connections::Stage;
use crate::broker::components::replies::Reply;
use crate::broker::components::sessions::{ALIASES, BACKLOGGED, GATED, MOUNTED, QUEUES_QOS0};
use crate::broker::components::timers::Timer;
use crate::broker::event::beginning;
use crate::broker::{Counter, Effect, EndCause, Event, Shard, Violation};
use crate::mqtt::codec::{Ack, AckKind, Connack, Connect, Frame, encode_ack, encode_connack};
use crate::mqtt::topic_levels;
use crate::mqtt::{ProtocolVersion, Reason};
use crate::session::Publication;
use crate::session::{Losses, Will};
use crate::settings::{Terms as ListenerTerms, Version};
use smallvec::SmallVec;
use std::net::SocketAddr;

impl Shard {
    /// The first packet of a connection. `[MQTT5-3.1.0-1]`
    pub(in crate::broker) fn handle_connect_frame(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        packet: Frame<'_>,
    ) -> Progress {
        let mut connect = match Connect::decode(packet) {
            Ok(connect) => connect,
            Err(error) => {
                let told = Connect::version_of(packet).map(Told::unread);
                return self.refuse(now, slot, told, "", Violation::from(error));
            }
        };
        let user = self.certificate_user(slot);
        if let Err(violation) = self.name_after_user(slot, &mut connect, user.as_deref()) {
            return self.refuse(now, slot, Some(Told::of(&connect)), connect.client_id, violation);
        }
        let Some(Stage::Connect { adopted }) = self.connections.get(slot).map(|connection| &connection.stage)
        else {
            return Progress::Gone;
        };
        if !adopted && !connect.client_id.is_empty() {
            let home = self.shared.home(self.shared.hash(connect.client_id));
            if home != self.id {
                return Progress::HandOver { to: home };
            }
        }
        if let Err(violation) = self.check_policy(slot, &connect) {
            return self.refuse(now, slot, Some(Told::of(&connect)), connect.client_id, violation);
        }
        match connect.authentication_method {
            None => self.admit(now, slot, &connect, packet),
            Some(method) => self.challenge(now, slot, &connect, method, packet),
        }
    }

    /// What the standard lets us refuse although the packet is right.
    fn check_policy(&self, slot: ConnectionSlot, connect: &Connect<'_>) -> Result<(), Violation> {
        let config = &self.shared.config;
        let terms = self.terms(slot);
        let refuse = |reason, cause| Err(Violation { reason, cause });
        if !terms.versions.has(version(connect)) {
            // [MQTT5-3.1.2-2] [MQTT311-3.1.2-2]
            return refuse(Reason::UnsupportedProtocolVersion, "this listener does not take this version");
        }
        self.check_client_id(slot, connect)?;
        let asked = connect.keep_alive_seconds;
        if config.protocol.keep_alive_refused_in_3x
            && connect.version != ProtocolVersion::V5
            && terms.keep_alive_seconds_max < u16::MAX
            && (asked == 0 || asked > terms.keep_alive_seconds_max)
        {
            return refuse(Reason::ClientIdentifierNotValid, "protocol.keep_alive_refused_in_3x");
        }
        let Some(will) = &connect.will else { return Ok(()) };
        if will.payload.len() > config.limits.payload_bytes {
            // 3.x has no code for the size; of those it has, this is mosquitto's.
            let v5 = connect.version == ProtocolVersion::V5;
            let reason = if v5 { Reason::PacketTooLarge } else { Reason::NotAuthorized };
            return refuse(reason, "will payload above limits.payload_bytes");
        }
        // The same topic as a PUBLISH to it would have, and so the same rules.
        let topic = super::mount::mounted(&terms.mount_point, will.topic);
        if topic.len() > super::mount::TOPIC_BYTES_MAX {
            return refuse(Reason::TopicNameInvalid, "will topic is too long behind the mount point");
        }
        if will.qos as u8 > terms.maximum_qos {
            // [MQTT5-3.2.2-12]
            return refuse(Reason::QoSNotSupported, "will QoS above the maximum QoS");
        }
        if will.retain && !terms.retain_available {
            // [MQTT5-3.2.2-13]
            return refuse(Reason::RetainNotSupported, "retained will, and retain is not available");
        }
        if super::publish::is_reserved(&topic) {
            return refuse(Reason::NotAuthorized, "will topic is reserved");
        }
        if topic_levels(&topic) > config.limits.topic_levels {
            return refuse(Reason::TopicNameInvalid, "will topic has too many levels");
        }
        Ok(())
    }

    /// CONNACK with a reason, where the version has one for it, and the end. `[MQTT5-3.2.2-7]`
    pub(in crate::broker) fn refuse(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        told: Option<Told>,
        client_id: &str,
        violation: Violation,
    ) -> Progress {
        let user = self.user_tried(slot, told.as_ref());
        if let Some(told) = told {
            // [MQTT311-3.1.4-1]: a CONNECT of 3.x that is not well formed gets no answer.
            self.send_packet(slot, |out| told.encode(out, violation.reason));
        }
        if let Some(connection) = self.connections.get(slot) {
            let (peer, listener) = (SocketAddr::from(&connection.peer), connection.listener.into());
            self.report(Event::Refused { client: client_id.into(), peer, user, listener, violation });
        }
        self.end_connection(now, slot, EndCause::Refused);
        Progress::Gone
    }

    /// The user name with which a client that is refused has tried: that of its certificate rules.
    pub(in crate::broker) fn user_tried(
        &self,
        slot: ConnectionSlot,
        told: Option<&Told>,
    ) -> Option<Box<str>> {
        let certified = self.certificate_user(slot);
        certified.as_deref().map(beginning).or_else(|| told?.user.clone())
    }

    /// The client is in: takeover, clean start, CONNACK, and what the session still owes.
    pub(in crate::broker) fn accept(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        connect: &Connect<'_>,
    ) -> Progress {
        if let Err(violation) = self.check_name_after_user(slot, connect.client_id) {
            return self.refuse(now, slot, Some(Told::of(connect)), connect.client_id, violation);
        }
        let assigned = connect.client_id.is_empty().then(|| self.assign_client_id(slot));
        let client_id = assigned.as_deref().unwrap_or(connect.client_id);
        let before = self.durability.count();
        let mut known = self.sessions.find(client_id);
        if let Some(session) = known {
            self.run_due(now, session);
            known = self.sessions.find(client_id);
        }
        if let Some(old) = known.and_then(|session| self.sessions.slot(session).connection) {
            // [MQTT5-3.1.4-3]
            self.end_connection(now, old, EndCause::TakenOver);
            // A session that ends with its connection is not handed on.
            known = self.sessions.find(client_id);
        }
        if let (Some(session), true) = (known, connect.clean_start) {
            // [MQTT5-3.1.2-4] [MQTT5-3.1.4-4]
            self.end_session(now, session);
            known = None;
        }
        let session_present = known.is_some();
        let terms =
            Terms::of(connect, self.terms(slot), self.shared.config.protocol.session_expiry_seconds_max);
        let proof = self.take_proof(slot);
        let told_id = (!connect.has_client_id).then_some(client_id);
        if let Some(session) = known {
            self.drop_all_expired(now, session);
        }
        let losses = known.and_then(|session| self.sessions.session(session).losses().copied());
        let connack = self.connack(slot, connect, session_present, told_id, proof, terms, losses.as_ref());
        if connack.is_empty() {
            // It can't be told what it needs to know. [MQTT5-3.1.2-24] [MQTT5-3.2.0-1]
            let violation = Violation {
                reason: Reason::PacketTooLarge,
                cause: "CONNACK is above the client's Maximum Packet Size",
            };
            return self.refuse(now, slot, Some(Told::of(connect)), client_id, violation);
        }
        if self.is_memory_tight() && (known.is_none() || connect.will.is_some()) {
            return self.refuse_for_memory(now, slot, connect, client_id);
        }
        let session = match known {
            Some(session) => session,
            None if self.shared.begin_session() => {
                self.count(Counter::Sessions, 1);
                self.note_session(client_id, true);
                self.sessions.create(client_id)
            }
            None => return self.refuse_session(now, slot, connect, client_id),
        };
        self.attach(now, slot, session, connect, terms);
        self.grant(slot, session);
        self.start_pace(now, slot);
        self.record_session(now, session);
        self.effects.push(Effect::Stream { slot });
        let Some(connection) = self.connections.get(slot) else { return Progress::Gone };
        self.report(Event::Connected {
            client: client_id.into(),
            user: connection.extras.as_ref().and_then(|extras| extras.identity.user.clone()),
            peer: SocketAddr::from(&connection.peer),
            listener: connection.listener.into(),
            version: connect.version,
            keep_alive_seconds: terms.keep_alive_seconds,
            clean_start: connect.clean_start,
            session_present,
            session_expiry_seconds: terms.expiry_seconds,
        });
        // What CONNACK says of the session must not be undone, nor what it says of one that is gone.
        let mark =
            if self.durability.count() > before { self.durability.mark() } else { self.end_mark(client_id) };
        self.sessions.slot_mut(session).flags |= GATED;
        let connack = Reply::Connack { packet: connack.into(), told: losses.map(Box::new) };
        self.reply(now, slot, mark, None, connack);
        Progress::Next
    }

    /// Joins connection and session under the terms of this CONNECT.
    fn attach(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        connect: &Connect<'_>,
        terms: Terms,
    ) {
        self.sessions.session_mut(session).connected_at_seconds = seconds_of(now);
        let shared = std::sync::Arc::clone(&self.shared);
        let (protocol, limits) = (&shared.config.protocol, &shared.config.limits);
        let origin = self.sessions.key(session);
        let will_number = if connect.will.is_some() { self.will_number(terms.expiry_seconds) } else { 0 };
        let mount_point = self.terms(slot).mount_point.as_str();
        let will = connect.will.as_ref().map(|will| {
            let publication = Publication {
                topic: &super::mount::mounted(mount_point, will.topic),
                forward: will.forward,
                payload: will.payload,
                qos: will.qos,
                retain: will.retain,
                expires_at: None,
                origin: Some(origin),
                stamp: 0,
                source: &self.source_of_will(slot, session),
            };
            let will = Will {
                message: publication.to_message(),
                delay_seconds: will.delay_seconds,
                message_expiry_seconds: will.message_expiry_seconds,
                number: will_number,
            };
            will.kept(&self.memory)
        });
        let mounted = if mount_point.is_empty() { 0 } else { MOUNTED };
        let listener = self.connections.get(slot).map(|connection| connection.listener);
        let aliases = connect.topic_alias_maximum.min(protocol.topic_alias_maximum_out);
        let is_slow = self.connections.get(slot).is_some_and(|connection| connection.slow.is_some());
        let backlogged = if is_slow { BACKLOGGED } else { 0 };
        let entry = self.sessions.slot_mut(session);
        entry.connection = Some(slot);
        entry.listener = listener;
        entry.version = connect.version;
        entry.packet_bytes_max = connect.packet_bytes_max;
        entry.flags =
            (entry.flags & QUEUES_QOS0) | mounted | backlogged | if aliases > 0 { ALIASES } else { 0 };
        let state = entry.session_mut();
        let timers = [state.will_timer.take(), state.expiry_timer.take()];
        state.expiry_seconds = terms.expiry_seconds;
        // [MQTT5-3.1.3-9]: a will that waited for its delay is not sent any more.
        state.will = will;
        state
            .resume(connect.receive_maximum.min(u16::try_from(limits.inflight_messages).unwrap_or(u16::MAX)));
        state.inflight.bound_bytes(limits.inflight_bytes);
        for timer in timers.into_iter().flatten() {
            self.timers.cancel(timer);
        }
        self.count(Counter::ClientsConnected, 1);
        let keep_alive = (terms.keep_alive_seconds > 0).then(|| {
            let deadline = super::timers::keep_alive_deadline(now, terms.keep_alive_seconds);
            self.timers.schedule(deadline, Timer::Connection(slot))
        });
        let connect_timer = self.connections.serve(slot, session, terms.keep_alive_seconds, keep_alive);
        if let Some(timer) = connect_timer {
            self.timers.cancel(timer);
        }
        if let Some(connection) = self.connections.get_mut(slot) {
            if aliases > 0 {
                connection.extras().aliases_out_max = aliases;
            }
            if connect.is_bridge {
                connection.extras().is_bridge = true;
            }
        }
    }

    /// CONNACK; empty when the client takes no packet that large.
    #[allow(clippy::too_many_arguments)] // As many as CONNACK has to say.
    fn connack(
        &self,
        slot: ConnectionSlot,
        connect: &Connect<'_>,
        session_present: bool,
        assigned: Option<&str>,
        proof: Option<ProofTold>,
        terms: Terms,
        losses: Option<&Losses>,
    ) -> Vec<u8> {
        let config = &self.shared.config;
        let protocol = &config.protocol;
        let own = self.terms(slot);
        let off = |available: bool| (!available).then_some(false);
        let information = protocol.response_information.as_str();
        let losses = losses.map(super::losses::user_properties).unwrap_or_default();
        let losses: SmallVec<[(&str, &str); 2]> =
            losses.iter().map(|(name, count)| (*name, count.as_str())).collect();
        let connack = Connack {
            session_present,
            session_expiry_seconds: (terms.expiry_seconds != connect.session_expiry_seconds)
                .then_some(terms.expiry_seconds),
            receive_maximum: (own.receive_maximum < u16::MAX).then_some(own.receive_maximum),
            // [MQTT5-3.2.2-9]
            maximum_qos: (own.maximum_qos < 2).then_some(own.maximum_qos),
            retain_available: off(own.retain_available),
            packet_bytes_max: u32::try_from(own.packet_bytes).ok(),
            assigned_client_id: assigned,
            topic_alias_maximum: (own.topic_alias_maximum > 0).then_some(own.topic_alias_maximum),
            wildcard_subscription_available: off(own.wildcard_subscriptions),
            subscription_ids_available: off(protocol.subscription_identifiers),
            shared_subscription_available: off(own.shared_subscriptions),
            server_keep_alive_seconds: (terms.keep_alive_seconds != connect.keep_alive_seconds)
                .then_some(terms.keep_alive_seconds),
            // [MQTT5-3.1.2-28]
            response_information: (connect.request_response_information && !information.is_empty())
                .then_some(information),
            // [MQTT5-4.12.0-5]
            authentication_method: proof.as_ref().map(|proof| proof.method),
            authentication_data: proof.as_ref().and_then(|proof| proof.data.as_deref()),
            user_properties: &losses,
            ..Connack::default()
        };
        let mut packet = Vec::new();
        encode_connack(&mut packet, connect.version, Reason::Success, &connack, connect.packet_bytes_max);
        packet
    }

    /// Sends what the session owes from before. `[MQTT5-4.4.0-1]`
    pub(in crate::broker) fn resume(&mut self, now: Time, session: SessionSlot) {
        let entry = self.sessions.slot(session);
        let version = entry.version;
        let Some(slot) = entry.connection else { return };
        let owed: Vec<_> = self.sessions.session(session).inflight.released().collect();
        for packet_id in owed {
            let pubrel = Ack { kind: AckKind::Pubrel, packet_id, reason: Reason::Success };
            self.send_packet(slot, |out| encode_ack(out, version, pubrel));
        }
        self.tell_groups(session, true);
        self.pump(now, session);
    }
}

/// What CONNACK grants.
#[derive(Clone, Copy)]
struct Terms {
    expiry_seconds: u32,
    keep_alive_seconds: u16,
}

impl Terms {
    fn of(connect: &Connect<'_>, listener: &ListenerTerms, expiry_seconds_max: u32) -> Terms {
        Terms {
            expiry_seconds: connect.session_expiry_seconds.min(expiry_seconds_max),
            keep_alive_seconds: keep_alive(connect, listener.keep_alive_seconds_max),
        }
    }
}

/// To whom a refusal goes.
pub(in crate::broker) struct Told {
    version: ProtocolVersion,
    /// The refusal must not be larger. `[MQTT5-3.1.2-24]`
    packet_bytes_max: u32,
    /// The beginning of its user name, for the log.
    user: Option<Box<str>>,
}

impl Told {
    pub(in crate::broker) fn of(connect: &Connect<'_>) -> Told {
        let user = connect.username.map(beginning);
        Told { version: connect.version, packet_bytes_max: connect.packet_bytes_max, user }
    }

    /// CONNACK with a reason; nothing where the version has no return code for it, or it would be too large.
    pub(in crate::broker) fn encode(&self, out: &mut Vec<u8>, reason: Reason) {
        encode_connack(out, self.version, reason, &Connack::default(), self.packet_bytes_max);
    }

    /// One whose CONNECT could not be read further than its version.
    pub(in crate::broker) fn unread(version: ProtocolVersion) -> Told {
        Told { version, packet_bytes_max: u32::MAX, user: None }
    }
}

fn version(connect: &Connect<'_>) -> Version {
    match connect.version {
        ProtocolVersion::V31 => Version::V31,
        ProtocolVersion::V311 => Version::V311,
        ProtocolVersion::V5 => Version::V5,
    }
}

/// The keep alive that is enforced: 3.x has no way to announce another than the client's.
/// `[MQTT5-3.2.2-21]` `[MQTT5-3.2.2-22]`
fn keep_alive(connect: &Connect<'_>, max: u16) -> u16 {
    let asked = connect.keep_alive_seconds;
    if connect.version == ProtocolVersion::V5 && max < u16::MAX && (asked == 0 || asked > max) {
        max
    } else {
        asked
    }
}
