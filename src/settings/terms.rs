//! The options that apply at one listener: its own if it has them, otherwise those of the whole broker.

use super::{Config, Listener, QueuePolicy, Versions};

/// The terms that apply to the clients of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The versions that clients may use.
    pub versions: Versions,
    /// The prefix of every topic of the listener's clients. It is nearly always empty.
    pub mount_point: String,
    /// Whether clients may connect without proving who they are.
    pub allow_anonymous: bool,
    /// The largest packet from a client after CONNECT, in bytes.
    pub packet_bytes: usize,
    /// The longest keep alive, in seconds.
    pub keep_alive_seconds_max: u16,
    /// The Receive Maximum that midge announces.
    pub receive_maximum: u16,
    /// The largest number of topic aliases that a client may use.
    pub topic_alias_maximum: u16,
    /// The highest QoS that clients may publish with.
    pub maximum_qos: u8,
    /// Whether retained messages are accepted.
    pub retain_available: bool,
    /// Whether topic filters may contain + and #.
    pub wildcard_subscriptions: bool,
    /// Whether subscriptions may have an identifier.
    pub subscription_identifiers: bool,
    /// Whether shared subscriptions are accepted.
    pub shared_subscriptions: bool,
    /// Whether the broker assigns an identifier to a client without one.
    pub zero_length_client_id: bool,
    /// The prefix of assigned identifiers. If empty, midge uses its own form.
    pub assigned_client_id_prefix: String,
    /// Whether the user name is the client's identifier.
    pub user_name_as_client_id: bool,
    /// The policy for a message to a session whose queue is full.
    pub session_queue_policy: QueuePolicy,
    /// The number of PUBLISH packets that each client may send per second; 0: no limit.
    pub client_messages_per_second: u64,
    /// The number of bytes that each client may send per second; 0: no limit.
    pub client_bytes_per_second: u64,
    /// The number of PUBLISH packets that all clients of the listener together may send per second; 0: no
    /// limit.
    pub messages_per_second: u64,
    /// The number of bytes that all clients of the listener together may send per second; 0: no limit.
    pub bytes_per_second: u64,
}

impl Terms {
    /// Terms that allow nothing. They are for a connection or a session whose client's listener is not known.
    pub fn denied() -> Terms {
        Terms {
            versions: Versions::of(&[]),
            mount_point: String::new(),
            allow_anonymous: false,
            packet_bytes: 0,
            keep_alive_seconds_max: 1,
            receive_maximum: 1,
            topic_alias_maximum: 0,
            maximum_qos: 0,
            retain_available: false,
            wildcard_subscriptions: false,
            subscription_identifiers: false,
            shared_subscriptions: false,
            zero_length_client_id: false,
            assigned_client_id_prefix: String::new(),
            user_name_as_client_id: true,
            session_queue_policy: QueuePolicy::Refuse,
            client_messages_per_second: 0,
            client_bytes_per_second: 0,
            messages_per_second: 0,
            bytes_per_second: 0,
        }
    }

    /// Whether there is a limit on how fast clients may send.
    pub fn is_paced(&self) -> bool {
        let rates = [
            self.client_messages_per_second,
            self.client_bytes_per_second,
            self.messages_per_second,
            self.bytes_per_second,
        ];
        rates.into_iter().any(|rate| rate > 0)
    }
}

impl Config {
    /// The terms of a listener.
    pub fn terms(&self, listener: &Listener) -> Terms {
        let Config { protocol, limits, .. } = self;
        Terms {
            versions: listener.versions,
            mount_point: listener.mount_point.clone(),
            allow_anonymous: self.allows_anonymous(listener),
            packet_bytes: listener.packet_bytes.unwrap_or(limits.packet_bytes),
            keep_alive_seconds_max: listener
                .keep_alive_seconds_max
                .unwrap_or(protocol.keep_alive_seconds_max),
            receive_maximum: listener.receive_maximum.unwrap_or(protocol.receive_maximum),
            topic_alias_maximum: listener.topic_alias_maximum.unwrap_or(protocol.topic_alias_maximum),
            maximum_qos: listener.maximum_qos.unwrap_or(protocol.maximum_qos),
            retain_available: listener.retain_available.unwrap_or(protocol.retain_available),
            wildcard_subscriptions: listener
                .wildcard_subscriptions
                .unwrap_or(protocol.wildcard_subscriptions),
            subscription_identifiers: protocol.subscription_identifiers,
            shared_subscriptions: listener.shared_subscriptions.unwrap_or(protocol.shared_subscriptions),
            zero_length_client_id: listener.zero_length_client_id.unwrap_or(protocol.zero_length_client_id),
            assigned_client_id_prefix: listener
                .assigned_client_id_prefix
                .as_ref()
                .unwrap_or(&protocol.assigned_client_id_prefix)
                .clone(),
            user_name_as_client_id: listener.user_name_as_client_id,
            session_queue_policy: listener.session_queue_policy.unwrap_or(limits.session_queue_policy),
            client_messages_per_second: listener
                .client_messages_per_second
                .unwrap_or(limits.client_messages_per_second),
            client_bytes_per_second: listener
                .client_bytes_per_second
                .unwrap_or(limits.client_bytes_per_second),
            messages_per_second: listener.messages_per_second,
            bytes_per_second: listener.bytes_per_second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_has_the_terms_of_the_broker_but_for_its_own() {
        let mut config = Config::default();
        config.protocol.receive_maximum = 7;
        config.limits.packet_bytes = 1000;
        config.limits.client_bytes_per_second = 3;
        config.limits.client_messages_per_second = 4;
        let own = Listener {
            client_messages_per_second: Some(0),
            packet_bytes: Some(500),
            session_queue_policy: Some(QueuePolicy::DropOldest),
            ..Listener::default()
        };
        let terms = config.terms(&own);
        assert_eq!((terms.packet_bytes, terms.receive_maximum), (500, 7));
        assert_eq!(terms.session_queue_policy, QueuePolicy::DropOldest);
        assert_eq!((terms.client_messages_per_second, terms.client_bytes_per_second), (0, 3));
        assert!(terms.is_paced() && !Config::default().terms(&Listener::default()).is_paced());
        let common = config.terms(&Listener::default());
        assert_eq!(common.packet_bytes, 1000);
        assert_eq!(common.session_queue_policy, config.limits.session_queue_policy);
    }
}
