//! CONNECT, from the packet to a served session or to a refusal. Implements sections 3.1 and 3.2.
//!
//! The steps are in order, and each calls the next:
//!
//! 1. Decode the packet.
//! 2. Identify the client: its identifier, and the shard that is its home. Another shard's client moves there.
//! 3. Check what the listener and the limits allow.
//! 4. Verify the client: at once, by a login check outside of the machine ([`Shard::handle_verdict`]), or by AUTH packets
//!    (`authentication.rs`). Meanwhile the CONNECT is kept, and nothing else is read.
//! 5. Let the client in with its permissions. Its will must be allowed.
//! 6. Accept it: takeover, clean start, CONNACK.
//! 7. Resume its session after CONNACK is sent.
//!
//! A step that fails ends in `refuse.rs`.

use super::connack::Granted;
use super::read::{Progress, seconds_of};
use super::refuse::RefusedClient;
use crate::base::Time;
use crate::base::{ConnectionSlot, SessionSlot};
use crate::broker::components::connections::{Identity, KeptConnect, Stage};
use crate::broker::components::replies::Reply;
use crate::broker::components::sessions::{ALIASES, BACKLOGGED, GATED, MOUNTED, QUEUES_QOS0};
use crate::broker::components::timers::Timer;
use crate::broker::settings::Entrance;
use crate::broker::{Counter, Effect, EndCause, Event, Shard, Violation};
use crate::mqtt::codec::{Ack, AckKind, Connect, Frame, encode_ack};
use crate::mqtt::topic_levels;
use crate::mqtt::{ProtocolVersion, Reason};
use crate::policy::access::{Grant, Login, Verdict};
use crate::session::Publication;
use crate::session::Will;
use crate::settings::Version;
use std::net::SocketAddr;
use zeroize::Zeroizing;

const ANONYMOUS: Violation = Violation {
    reason: Reason::NotAuthorized,
    cause: "anonymous clients are not allowed (auth.allow_anonymous)",
};
const NO_CERTIFICATE: Violation =
    Violation { reason: Reason::BadUserNameOrPassword, cause: "no client certificate that names a user" };
const BUSY: Violation = Violation { reason: Reason::ServerBusy, cause: "too many logins wait to be checked" };
const UNCHECKED: Violation = Violation {
    reason: Reason::ServerBusy,
    cause: "its login was not checked within limits.connect_seconds",
};
const UNAVAILABLE: Violation = Violation {
    reason: Reason::ServerUnavailable,
    cause: "the server that decides on logins does not answer",
};
const OUTDATED: Violation = Violation {
    reason: Reason::ServerUnavailable,
    cause: "the password file has changed since the password was checked",
};
const WILL_DENIED: Violation =
    Violation { reason: Reason::NotAuthorized, cause: "the client may not publish to its will's topic" };

/// The proof of identity in a CONNECT.
enum Proof {
    /// It is enough: the client is accepted with this user name.
    Enough(Option<Box<str>>),
    /// It is a password that must be checked.
    Unchecked(Box<Login>),
    /// It is invalid, which counts as a failed login.
    Invalid(Violation),
    /// There is none, but the listener requires one.
    Missing(Violation),
}

impl Shard {
    /// Steps 1 to 3. `packet` is the first packet of its connection. `[MQTT5-3.1.0-1]`
    pub(in crate::broker) fn handle_connect_frame(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        packet: Frame<'_>,
    ) -> Progress {
        let mut connect = match Connect::decode(packet) {
            Ok(connect) => connect,
            Err(error) => {
                let client = Connect::version_of(packet).map(RefusedClient::unread);
                return self.refuse(now, slot, client, Violation::from(error));
            }
        };
        let user = self.certificate_user(slot);
        if let Err(violation) = self.name_after_user(slot, &mut connect, user.as_deref()) {
            return self.refuse(now, slot, Some(RefusedClient::of(&connect)), violation);
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
            return self.refuse(now, slot, Some(RefusedClient::of(&connect)), violation);
        }
        match connect.authentication_method {
            None => self.verify(now, slot, &connect, packet),
            Some(method) => self.challenge(now, slot, &connect, method, packet),
        }
    }

    /// Checks reasons for which the standard allows refusing a valid packet.
    fn check_policy(&self, slot: ConnectionSlot, connect: &Connect<'_>) -> Result<(), Violation> {
        let config = &self.settings.config;
        let terms = self.terms(slot);
        let refuse = |reason, cause| Err(Violation { reason, cause });
        if !terms.versions.has(version(connect.version)) {
            // [MQTT5-3.1.2-2] [MQTT311-3.1.2-2]
            return refuse(Reason::UnsupportedProtocolVersion, "this listener does not take this version");
        }
        self.refuses_for_drain(connect.version)?;
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
            // 3.x has no code for the size. midge uses the same one as mosquitto.
            let v5 = connect.version == ProtocolVersion::V5;
            let reason = if v5 { Reason::PacketTooLarge } else { Reason::NotAuthorized };
            return refuse(reason, "will payload above limits.payload_bytes");
        }
        // Use the topic that a PUBLISH would have, so that the same rules apply.
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

    /// Step 4, without enhanced authentication.
    fn verify(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        connect: &Connect<'_>,
        packet: Frame<'_>,
    ) -> Progress {
        match self.proof(slot, connect) {
            Proof::Enough(user) => {
                if self.access_of(slot).is_some_and(|access| access.names_by_certificate) {
                    self.note_proof(slot);
                }
                self.let_in(now, slot, connect, Grant { user, ..Grant::default() })
            }
            Proof::Unchecked(login) => {
                let Some(connection) = self.connections.get_mut(slot) else { return Progress::Gone };
                connection.stage = Stage::Check;
                connection.extras().connect = Some(KeptConnect::of(packet));
                let serial = connection.serial;
                self.effects.push(Effect::Check { slot, serial, login });
                Progress::Next
            }
            Proof::Invalid(violation) => self.refuse_login(slot, RefusedClient::of(connect), violation),
            Proof::Missing(violation) => self.refuse(now, slot, Some(RefusedClient::of(connect)), violation),
        }
    }

    /// The proof in the CONNECT and the certificate, compared with what the listener requires.
    fn proof(&self, slot: ConnectionSlot, connect: &Connect<'_>) -> Proof {
        let (Some(connection), Some(access)) = (self.connections.get(slot), self.access_of(slot)) else {
            return Proof::Missing(ANONYMOUS);
        };
        let certified = match &connection.extras {
            Some(extras) if access.names_by_certificate => extras.certificate_user.clone(),
            _ => None,
        };
        if access.names_by_certificate && certified.is_none() {
            return Proof::Invalid(NO_CERTIFICATE);
        }
        let is_certified = certified.is_some();
        let user = certified.or_else(|| connect.username.map(Box::from));
        let is_anonymous_allowed = access.allow_anonymous.unwrap_or(self.terms(slot).allow_anonymous);
        let is_nobody = user.is_none() && connect.password.is_none();
        let is_asked = match (is_certified, is_nobody) {
            (true, _) => access.asks_for_all,
            (false, true) => access.asks_for_all && !is_anonymous_allowed,
            (false, false) => access.asks_for_all || access.checks_passwords,
        };
        if is_asked {
            return Proof::Unchecked(Box::new(Login {
                client_id: connect.client_id.into(),
                user,
                is_certified,
                password: connect.password.map(|password| Zeroizing::new(password.into())),
                peer: SocketAddr::from(&connection.peer),
                listener: self.listener_of(connection.entrance),
                version: connect.version,
            }));
        }
        // A name that nothing checks counts as none.
        if is_certified || is_anonymous_allowed { Proof::Enough(user) } else { Proof::Missing(ANONYMOUS) }
    }

    /// Continues step 4 after a login was checked. `serial`: as in [`Effect::Check`].
    pub fn handle_verdict(&mut self, now: Time, slot: ConnectionSlot, serial: u32, verdict: Verdict) {
        let Some(connection) = self.connections.get(slot) else { return };
        if connection.serial != serial || !matches!(connection.stage, Stage::Check) {
            return;
        }
        let progress = self.with_kept_connect(slot, |shard, connect| {
            let refuse = |shard: &mut Shard, violation| {
                shard.refuse(now, slot, Some(RefusedClient::of(connect)), violation)
            };
            match verdict {
                Verdict::Good(grant) => {
                    // A webhook that is asked about all clients also accepts clients without any proof.
                    if connect.username.is_some() || connect.password.is_some() {
                        shard.note_proof(slot);
                    }
                    shard.let_in(now, slot, connect, grant)
                }
                Verdict::Bad(cause) => {
                    let violation = Violation { reason: Reason::NotAuthorized, cause };
                    shard.refuse_login(slot, RefusedClient::of(connect), violation)
                }
                Verdict::Busy => refuse(shard, BUSY),
                Verdict::Unavailable => refuse(shard, UNAVAILABLE),
            }
        });
        self.settle(now);
        if let Some(Progress::Next) = progress {
            // Read what the client has sent after its CONNECT.
            self.read(now, slot, &[]);
            self.settle(now);
        }
    }

    /// Step 4 takes too long: the login was not checked within the time for CONNECT, because others were
    /// before it or refusals of its address wait. The refusal tells the client that it may try again.
    pub(in crate::broker) fn refuse_unchecked(&mut self, now: Time, slot: ConnectionSlot) {
        self.count(Counter::LimitConnectSeconds, 1);
        self.with_kept_connect(slot, |shard, connect| {
            shard.refuse(now, slot, Some(RefusedClient::of(connect)), UNCHECKED)
        });
    }

    /// Takes the CONNECT that was kept while the client was verified, and continues with it. Returns `None`
    /// if there is none.
    pub(in crate::broker) fn with_kept_connect<R>(
        &mut self,
        slot: ConnectionSlot,
        go_on: impl FnOnce(&mut Shard, &Connect<'_>) -> R,
    ) -> Option<R> {
        let kept = self.connections.get_mut(slot)?.extras().connect.take()?;
        let mut connect = kept.decode().ok()?;
        let user = self.certificate_user(slot);
        self.name_after_user(slot, &mut connect, user.as_deref()).ok()?;
        Some(go_on(self, &connect))
    }

    /// Step 5. The client's identity is verified.
    pub(in crate::broker) fn let_in(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        connect: &Connect<'_>,
        grant: Grant,
    ) -> Progress {
        let Grant { user, line, seconds, permissions: granted } = grant;
        let Some(access) = self.access_of(slot) else { return Progress::Gone };
        if let (Some(user), Some(line)) = (&user, line)
            && !access.has_line(user, line)
        {
            // The file has changed while the proof was checked. The next attempt will be checked with the new
            // one.
            return self.refuse(now, slot, Some(RefusedClient::of(connect)), OUTDATED);
        }
        if let Some(will) = &connect.will {
            let topic = super::mount::mounted(&self.terms(slot).mount_point, will.topic);
            let permissions = access.permissions(user.as_deref(), connect.client_id).and(&granted);
            if !permissions.may_publish(&topic) {
                return self.refuse(now, slot, Some(RefusedClient::of(connect)), WILL_DENIED);
            }
        }
        let ends = seconds.map(|seconds| {
            let end = now.after_millis(seconds.saturating_mul(1000));
            self.timers.schedule(end, Timer::Permission(slot))
        });
        if (user.is_some() || ends.is_some() || !granted.is_everything())
            && let Some(connection) = self.connections.get_mut(slot)
        {
            connection.extras().identity = Identity { user, line, granted, ends, ..Identity::default() };
        }
        self.accept(now, slot, connect)
    }

    /// Step 6: takeover, clean start, CONNACK.
    fn accept(&mut self, now: Time, slot: ConnectionSlot, connect: &Connect<'_>) -> Progress {
        if let Err(violation) = self.check_name_after_user(slot, connect.client_id) {
            return self.refuse(now, slot, Some(RefusedClient::of(connect)), violation);
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
            // A session that ends with its connection is not taken over.
            known = self.sessions.find(client_id);
        }
        if let (Some(session), true) = (known, connect.clean_start) {
            // [MQTT5-3.1.2-4] [MQTT5-3.1.4-4]
            self.end_session(now, session);
            known = None;
        }
        let session_present = known.is_some();
        let granted =
            Granted::of(connect, self.terms(slot), self.settings.config.protocol.session_expiry_seconds_max);
        let proof = self.take_proof(slot);
        let assigned_id = (!connect.has_client_id).then_some(client_id);
        if let Some(session) = known {
            self.drop_all_expired(now, session);
        }
        let losses = known.and_then(|session| self.sessions.session(session).losses().copied());
        let connack =
            self.connack(slot, connect, session_present, assigned_id, proof, granted, losses.as_ref());
        if connack.is_empty() {
            // The client can't be told what it needs to know. [MQTT5-3.1.2-24] [MQTT5-3.2.0-1]
            let violation = Violation {
                reason: Reason::PacketTooLarge,
                cause: "CONNACK is above the client's Maximum Packet Size",
            };
            return self.refuse(now, slot, Some(RefusedClient::of(connect).named(client_id)), violation);
        }
        if self.is_memory_tight() && (known.is_none() || connect.will.is_some()) {
            return self.refuse_for_memory(now, slot, connect, client_id);
        }
        let session = match known {
            Some(session) => session,
            None if self.shared.begin_session(self.settings.config.limits.sessions) => {
                self.count(Counter::Sessions, 1);
                self.note_session(client_id, true);
                self.sessions.create(client_id)
            }
            None => return self.refuse_session(now, slot, connect, client_id),
        };
        self.attach(now, slot, session, connect, granted);
        self.grant(slot, session);
        self.start_pace(now, slot);
        self.record_session(now, session);
        self.effects.push(Effect::Stream { slot });
        let Some(connection) = self.connections.get(slot) else { return Progress::Gone };
        let since = connection.last_packet;
        self.report(Event::Connected {
            client: client_id.into(),
            user: connection.extras.as_ref().and_then(|extras| extras.identity.user.clone()),
            peer: SocketAddr::from(&connection.peer),
            listener: self.listener_of(connection.entrance),
            version: connect.version,
            keep_alive_seconds: granted.keep_alive_seconds,
            clean_start: connect.clean_start,
            session_present,
            session_expiry_seconds: granted.expiry_seconds,
        });
        // The session state that CONNACK reports must be durable, and so must the end of a session that it
        // reports as gone.
        let mark =
            if self.durability.count() > before { self.durability.mark() } else { self.end_mark(client_id) };
        self.sessions.slot_mut(session).flags |= GATED;
        let connack = Reply::Connack { since, packet: connack.into(), losses: losses.map(Box::new) };
        self.reply(now, slot, mark, None, connack);
        Progress::Next
    }

    /// Step 6: connects the session to the connection with the values that CONNACK grants.
    fn attach(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        connect: &Connect<'_>,
        granted: Granted,
    ) {
        self.sessions.session_mut(session).connected_at_seconds = seconds_of(now);
        let settings = std::sync::Arc::clone(&self.settings);
        let (protocol, limits) = (&settings.config.protocol, &settings.config.limits);
        let origin = self.sessions.key(session);
        let will_number = connect.will.as_ref().and_then(|_| self.will_number(granted.expiry_seconds));
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
                stamp: None,
                source: &self.source_of_will(slot, session),
            };
            let will = Will {
                message: publication.to_message(),
                delay_seconds: will.delay_seconds,
                message_expiry_seconds: will.message_expiry_seconds,
                number: will_number,
            };
            will.kept(self.memory.account())
        });
        let mounted = if mount_point.is_empty() { 0 } else { MOUNTED };
        let entrance = self.connections.get(slot).map_or(Entrance::NONE, |connection| connection.entrance);
        let aliases = connect.topic_alias_maximum.min(protocol.topic_alias_maximum_out);
        let is_slow = self.connections.get(slot).is_some_and(|connection| connection.slow.is_some());
        let backlogged = if is_slow { BACKLOGGED } else { 0 };
        let entry = self.sessions.slot_mut(session);
        entry.connection = Some(slot);
        entry.entrance = entrance;
        entry.version = connect.version;
        entry.packet_bytes_max = connect.packet_bytes_max;
        entry.flags =
            (entry.flags & QUEUES_QOS0) | mounted | backlogged | if aliases > 0 { ALIASES } else { 0 };
        let state = entry.session_mut();
        let timers = [state.will_timer.take(), state.expiry_timer.take()];
        state.expiry_seconds = granted.expiry_seconds;
        // [MQTT5-3.1.3-9]: a will that waits for its delay is not published any more.
        state.will = will;
        state
            .resume(connect.receive_maximum.min(u16::try_from(limits.inflight_messages).unwrap_or(u16::MAX)));
        state.inflight.bound_bytes(limits.inflight_bytes);
        for timer in timers.into_iter().flatten() {
            self.timers.cancel(timer);
        }
        self.count(Counter::ClientsConnected, 1);
        let keep_alive = (granted.keep_alive_seconds > 0).then(|| {
            let deadline = super::timers::keep_alive_deadline(now, granted.keep_alive_seconds);
            self.timers.schedule(deadline, Timer::Connection(slot))
        });
        let connect_timer = self.connections.serve(slot, session, granted.keep_alive_seconds, keep_alive);
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

    /// Step 7: sends the packets that the session owes from earlier connections. `[MQTT5-4.4.0-1]`
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

/// A version as the options name it.
pub(in crate::broker) fn version(version: ProtocolVersion) -> Version {
    match version {
        ProtocolVersion::V31 => Version::V31,
        ProtocolVersion::V311 => Version::V311,
        ProtocolVersion::V5 => Version::V5,
    }
}
