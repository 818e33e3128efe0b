//! CONNACK: what the broker grants an accepted client.

use super::authentication::ConnackProof;
use crate::base::ConnectionSlot;
use crate::broker::Shard;
use crate::mqtt::codec::{Connack, Connect, encode_connack};
use crate::mqtt::{ProtocolVersion, Reason};
use crate::session::Losses;
use crate::settings::Terms;
use smallvec::SmallVec;

/// The values that CONNACK grants.
#[derive(Clone, Copy)]
pub(in crate::broker) struct Granted {
    pub expiry_seconds: u32,
    pub keep_alive_seconds: u16,
}

impl Granted {
    pub(in crate::broker) fn of(connect: &Connect<'_>, listener: &Terms, expiry_seconds_max: u32) -> Granted {
        Granted {
            expiry_seconds: connect.session_expiry_seconds.min(expiry_seconds_max),
            keep_alive_seconds: keep_alive(connect, listener.keep_alive_seconds_max),
        }
    }
}

/// The keep alive that is enforced. 3.x has no way to announce another one than the client's.
/// `[MQTT5-3.2.2-21]` `[MQTT5-3.2.2-22]`
fn keep_alive(connect: &Connect<'_>, max: u16) -> u16 {
    let asked = connect.keep_alive_seconds;
    if connect.version == ProtocolVersion::V5 && max < u16::MAX && (asked == 0 || asked > max) {
        max
    } else {
        asked
    }
}

impl Shard {
    /// Encodes CONNACK. The result is empty if the client does not accept packets that large.
    #[allow(clippy::too_many_arguments)] // CONNACK has that many inputs.
    pub(in crate::broker) fn connack(
        &self,
        slot: ConnectionSlot,
        connect: &Connect<'_>,
        session_present: bool,
        assigned: Option<&str>,
        proof: Option<ConnackProof>,
        granted: Granted,
        losses: Option<&Losses>,
    ) -> Vec<u8> {
        let config = &self.settings.config;
        let protocol = &config.protocol;
        let own = self.terms(slot);
        let off = |available: bool| (!available).then_some(false);
        let information = protocol.response_information.as_str();
        let losses = losses.map(super::losses::user_properties).unwrap_or_default();
        let losses: SmallVec<[(&str, &str); 2]> =
            losses.iter().map(|(name, count)| (*name, count.as_str())).collect();
        let connack = Connack {
            session_present,
            session_expiry_seconds: (granted.expiry_seconds != connect.session_expiry_seconds)
                .then_some(granted.expiry_seconds),
            receive_maximum: (own.receive_maximum < u16::MAX).then_some(own.receive_maximum),
            // [MQTT5-3.2.2-9]
            maximum_qos: (own.maximum_qos < 2).then_some(own.maximum_qos),
            retain_available: off(own.retain_available),
            packet_bytes_max: u32::try_from(own.packet_bytes).ok(),
            assigned_client_id: assigned,
            topic_alias_maximum: (own.topic_alias_maximum > 0).then_some(own.topic_alias_maximum),
            wildcard_subscription_available: off(own.wildcard_subscriptions),
            subscription_ids_available: off(own.subscription_identifiers),
            shared_subscription_available: off(own.shared_subscriptions),
            server_keep_alive_seconds: (granted.keep_alive_seconds != connect.keep_alive_seconds)
                .then_some(granted.keep_alive_seconds),
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
}
