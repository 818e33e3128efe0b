//! Client identifiers: the requirements for them, and identifiers that differ from the one in CONNECT.

use crate::base::{ConnectionSlot, Random};
use crate::broker::{Shard, Violation};
use crate::mqtt::codec::Connect;
use crate::mqtt::{ProtocolVersion, Reason};
use crate::settings::Terms;

const NO_USER: Violation = Violation {
    reason: Reason::NotAuthorized,
    cause: "no user name to be the client identifier (listeners.user_name_as_client_id)",
};
const OTHER_USER: Violation = Violation {
    reason: Reason::NotAuthorized,
    cause: "the user name that was proved is not that of CONNECT (listeners.user_name_as_client_id)",
};

impl Shard {
    /// Takes the user name from a client's certificate.
    pub fn handle_certificate_user(&mut self, slot: ConnectionSlot, user: Box<str>) {
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.extras().certificate_user = Some(user);
        }
    }

    /// The user name from the certificate of a connection's client.
    pub(in crate::broker) fn certificate_user(&self, slot: ConnectionSlot) -> Option<Box<str>> {
        self.connections.get(slot)?.extras.as_ref()?.certificate_user.clone()
    }

    /// Replaces the client identifier by the user name, on a listener that requires it. `by_certificate`: see
    /// [`Shard::certificate_user`].
    pub(in crate::broker) fn name_after_user<'a>(
        &self,
        slot: ConnectionSlot,
        connect: &mut Connect<'a>,
        by_certificate: Option<&'a str>,
    ) -> Result<(), Violation> {
        if !self.terms(slot).user_name_as_client_id {
            return Ok(());
        }
        let user = by_certificate.or(connect.username).filter(|user| !user.is_empty());
        connect.client_id = user.ok_or(NO_USER)?;
        Ok(())
    }

    /// On such a listener, checks that an accepted client is the user after which it is named. A client that
    /// has proved another name, for example with a token, must not get the session of this one.
    pub(in crate::broker) fn check_name_after_user(
        &self,
        slot: ConnectionSlot,
        client_id: &str,
    ) -> Result<(), Violation> {
        let is_free = !self.terms(slot).user_name_as_client_id;
        if is_free || self.user(slot) == Some(client_id) { Ok(()) } else { Err(OTHER_USER) }
    }

    /// Checks the requirements for a client identifier that can be read.
    pub(in crate::broker) fn check_client_id(
        &self,
        slot: ConnectionSlot,
        connect: &Connect<'_>,
    ) -> Result<(), Violation> {
        let config = &self.settings.config;
        let terms = self.terms(slot);
        let refuse = |reason, cause| Err(Violation { reason, cause });
        if connect.version == ProtocolVersion::V31
            && config.protocol.strict_31
            && connect.client_id.chars().count() > 23
        {
            // [MQTT311 §3.1-c]
            return refuse(Reason::ClientIdentifierNotValid, "client identifier longer than 23 characters");
        }
        if connect.client_id.len() > config.limits.client_id_bytes {
            return refuse(
                Reason::ClientIdentifierNotValid,
                "client identifier above limits.client_id_bytes",
            );
        }
        if connect.client_id.is_empty() && !terms.zero_length_client_id {
            // The code is 0x80 and not 0x85, as in mosquitto, because the option exists for users of
            // mosquitto.
            let v5 = connect.version == ProtocolVersion::V5;
            let reason = if v5 { Reason::UnspecifiedError } else { Reason::ClientIdentifierNotValid };
            return refuse(reason, "protocol.zero_length_client_id = false");
        }
        let begins = match connect.client_id {
            // midge will choose an identifier with this prefix.
            "" => assigned_prefix(terms),
            client_id => client_id,
        };
        if !begins.starts_with(config.auth.client_id_prefix.as_str()) {
            return refuse(Reason::NotAuthorized, "client identifier without auth.client_id_prefix");
        }
        Ok(())
    }

    /// A new client identifier that no session has and whose home is this shard. `[MQTT5-3.1.3-6]`
    pub(in crate::broker) fn assign_client_id(&mut self, slot: ConnectionSlot) -> Box<str> {
        let is_ours = self.terms(slot).assigned_client_id_prefix.is_empty();
        let prefix = assigned_prefix(self.terms(slot)).to_owned();
        loop {
            let candidate = if is_ours {
                format!("{prefix}{:016x}", self.random.next_u64())
            } else {
                uuid(&prefix, &mut self.random)
            };
            if self.shared.home(self.shared.hash(&candidate)) == self.id
                && self.sessions.find(&candidate).is_none()
            {
                return candidate.into();
            }
        }
    }
}

/// The prefix of identifiers that the broker chooses.
fn assigned_prefix(terms: &Terms) -> &str {
    if terms.assigned_client_id_prefix.is_empty() { "midge-" } else { &terms.assigned_client_id_prefix }
}

/// A prefix and a random UUID (version 4).
fn uuid(prefix: &str, random: &mut Random) -> String {
    let (high, low) = (random.next_u64(), random.next_u64());
    format!(
        "{prefix}{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 48 & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}
