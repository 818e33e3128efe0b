//! Enhanced authentication (section 4.12): AUTH from a client that is connecting, and from one that is
//! connected and authenticates again.
//!
//! Both have two steps: the first one opens an exchange and is answered by AUTH 0x18, and the second one
//! closes it. The CONNECT is kept between the two, and no other packet is allowed. A connected client may
//! send other packets meanwhile.

use super::read::Progress;
use super::refuse::RefusedClient;
use crate::base::Time;
use crate::base::{ConnectionSlot, SessionSlot};
use crate::broker::components::connections::Authentication;
use crate::broker::components::connections::{KeptConnect, Stage};
use crate::broker::components::sessions::GATED;
use crate::broker::{EndCause, Shard, Violation};
use crate::mqtt::codec::{Auth, Connect, Frame, Packet, decode, encode_auth};
use crate::mqtt::{ProtocolVersion, Reason};
use crate::policy::access::Grant;
use crate::policy::method::{ExchangeId, MethodFailure, Proved};

/// The authentication fields of CONNACK. `[MQTT5-4.12.0-5]`
pub(in crate::broker) struct ConnackProof {
    pub method: &'static str,
    pub data: Option<Vec<u8>>,
}

const BAD_METHOD: Violation =
    Violation { reason: Reason::BadAuthenticationMethod, cause: "authentication method not offered here" };
/// The refusal of a wrong password in CONNECT.
const BAD_PROOF: Violation =
    Violation { reason: Reason::NotAuthorized, cause: "unknown user or wrong password" };
const OTHER_USER: Violation = Violation {
    reason: Reason::NotAuthorized,
    cause: "the user of the authentication data is not that of the user name, or of the session",
};
/// `[MQTT5-3.1.2-24]`
const AUTH_TOO_LARGE: Violation =
    Violation { reason: Reason::PacketTooLarge, cause: "AUTH is above the client's Maximum Packet Size" };

const fn protocol_error(cause: &'static str) -> Violation {
    Violation { reason: Reason::ProtocolError, cause }
}

impl From<MethodFailure> for Violation {
    fn from(failure: MethodFailure) -> Violation {
        match failure {
            MethodFailure::Malformed(cause) => protocol_error(cause),
            MethodFailure::Proof => BAD_PROOF,
            MethodFailure::Refused(cause) => Violation { reason: Reason::NotAuthorized, cause },
        }
    }
}

impl Shard {
    /// Handles a CONNECT with an Authentication Method that is otherwise valid. `[MQTT5-4.12.0-1]`
    /// `[MQTT5-4.12.0-2]`
    pub(in crate::broker) fn challenge(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        connect: &Connect<'_>,
        method: &str,
        packet: Frame<'_>,
    ) -> Progress {
        let opened = self
            .open_exchange(slot, method, connect.authentication_data, connect.username)
            .and_then(|challenge| self.send_challenge(slot, &challenge, connect.packet_bytes_max));
        match (opened, self.connections.get_mut(slot)) {
            (Ok(()), Some(connection)) => {
                connection.stage = Stage::Authenticate;
                connection.extras().connect = Some(KeptConnect::of(packet));
                Progress::Next
            }
            (Ok(()), None) => Progress::Gone,
            (Err(violation), _) => self.refuse(now, slot, Some(RefusedClient::of(connect)), violation),
        }
    }

    /// Handles AUTH (or DISCONNECT) before CONNACK. `[MQTT5-3.1.2-30]`
    pub(in crate::broker) fn handle_authentication(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        packet: Frame<'_>,
    ) -> Progress {
        let progress = self.with_kept_connect(slot, |shard, connect| {
            shard.continue_authentication(now, slot, connect, packet)
        });
        progress.unwrap_or(Progress::Gone)
    }

    fn continue_authentication(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        connect: &Connect<'_>,
        packet: Frame<'_>,
    ) -> Progress {
        let proved = match decode(ProtocolVersion::V5, packet) {
            Ok(Packet::Auth(auth)) => self.close_exchange(slot, &auth),
            Ok(Packet::Disconnect(disconnect)) => {
                self.end_connection(now, slot, EndCause::Disconnect(disconnect.reason));
                return Progress::Gone;
            }
            Ok(_) => Err(protocol_error("only AUTH may come before CONNACK")),
            Err(error) => Err(Violation::from(error)),
        };
        match proved {
            Ok(Proved { user, line, data }) => {
                if let Some(authentication) = self.authentication_mut(slot) {
                    authentication.last_data = data;
                }
                if user.is_some() {
                    self.note_proof(slot);
                }
                self.let_in(now, slot, connect, Grant { user, line, ..Grant::default() })
            }
            // [MQTT5-4.12.0-4]
            Err(violation) if violation == BAD_PROOF => {
                self.refuse_login(slot, RefusedClient::of(connect), violation)
            }
            Err(violation) => self.refuse(now, slot, Some(RefusedClient::of(connect)), violation),
        }
    }

    /// Handles AUTH after CONNACK, which is re-authentication. Everything else continues meanwhile.
    /// `[MQTT5 §4.12.1]`
    pub(in crate::broker) fn handle_reauthentication(
        &mut self,
        slot: ConnectionSlot,
        session: SessionSlot,
        auth: &Auth<'_>,
    ) -> Result<(), Violation> {
        let entry = self.sessions.slot(session);
        let packet_bytes_max = entry.packet_bytes_max;
        if entry.flags & GATED != 0 {
            // [MQTT5 §4.12.1]
            return Err(protocol_error("AUTH before CONNACK"));
        }
        let Some(authentication) = self.authentication_mut(slot) else {
            // [MQTT5-4.12.0-7]
            return Err(protocol_error("AUTH on a connection without authentication method"));
        };
        let method = authentication.method;
        if auth.method != method {
            // [MQTT5-4.12.1-1]
            return Err(protocol_error("AUTH with another method than CONNECT"));
        }
        if auth.reason == Reason::ReAuthenticate {
            if authentication.exchange.is_some() {
                return Err(protocol_error("re-authentication is under way already"));
            }
            // The user of a session must not change.
            let user = self.user(slot).map(Box::<str>::from);
            let challenge = self.open_exchange(slot, method, auth.data, user.as_deref())?;
            return self.send_challenge(slot, &challenge, packet_bytes_max);
        }
        // [MQTT5-4.12.1-2]
        let proved = self.close_exchange(slot, auth).inspect_err(|violation| {
            if *violation == BAD_PROOF {
                self.note_failed_again(slot);
            }
        })?;
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.extras().identity.line = proved.line;
        }
        let answer = Auth { reason: Reason::Success, method, data: proved.data.as_deref() };
        self.send_auth(slot, &answer, packet_bytes_max)
    }

    /// The authentication fields of CONNACK, if the client authenticated this way.
    pub(in crate::broker) fn take_proof(&mut self, slot: ConnectionSlot) -> Option<ConnackProof> {
        let authentication = self.authentication_mut(slot)?;
        Some(ConnackProof { method: authentication.method, data: authentication.last_data.take() })
    }

    /// Handles the first step and returns the challenge. `user` is the user that the client must prove to be,
    /// if that is fixed.
    fn open_exchange(
        &mut self,
        slot: ConnectionSlot,
        method: &str,
        data: Option<&[u8]>,
        user: Option<&str>,
    ) -> Result<Vec<u8>, Violation> {
        let id = ExchangeId { shard: self.id, number: self.requests.next_token().get() };
        let access = self.access_of(slot).ok_or(BAD_METHOD)?;
        let method = access.method(method, self.settings.config.auth.test_method).ok_or(BAD_METHOD)?;
        let (exchange, challenge) = method.begin(data, id)?;
        if user.is_some_and(|user| !exchange.is_by(user)) {
            return Err(OTHER_USER);
        }
        if let Some(connection) = self.connections.get_mut(slot) {
            let opened = Authentication { method: method.name(), exchange: Some(exchange), last_data: None };
            connection.extras().authentication = Some(Box::new(opened));
        }
        Ok(challenge)
    }

    /// Handles the second step.
    fn close_exchange(&mut self, slot: ConnectionSlot, auth: &Auth<'_>) -> Result<Proved, Violation> {
        let out_of_turn = protocol_error("AUTH does not continue what has begun");
        let authentication = self.authentication_mut(slot).ok_or(out_of_turn)?;
        if auth.reason != Reason::ContinueAuthentication || auth.method != authentication.method {
            // [MQTT5-4.12.0-3] [MQTT5-4.12.0-5]
            return Err(out_of_turn);
        }
        let exchange = authentication.exchange.take().ok_or(out_of_turn)?;
        let proved = exchange.finish(auth.data);
        self.kinds().exchanges.add(usize::from(proved.is_err()), 1);
        Ok(proved?)
    }

    fn send_challenge(
        &mut self,
        slot: ConnectionSlot,
        challenge: &[u8],
        packet_bytes_max: u32,
    ) -> Result<(), Violation> {
        let Some(authentication) = self.authentication_mut(slot) else { return Ok(()) };
        let method = authentication.method;
        let auth = Auth { reason: Reason::ContinueAuthentication, method, data: Some(challenge) };
        self.send_auth(slot, &auth, packet_bytes_max)
    }

    fn send_auth(
        &mut self,
        slot: ConnectionSlot,
        auth: &Auth<'_>,
        packet_bytes_max: u32,
    ) -> Result<(), Violation> {
        let sent = self.try_send_packet(slot, |out| encode_auth(out, auth, packet_bytes_max));
        if sent { Ok(()) } else { Err(AUTH_TOO_LARGE) }
    }

    fn authentication_mut(&mut self, slot: ConnectionSlot) -> Option<&mut Authentication> {
        self.connections.get_mut(slot)?.extras.as_mut()?.authentication.as_deref_mut()
    }
}
