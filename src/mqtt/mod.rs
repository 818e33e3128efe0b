//! The terms of the standard: versions, QoS, reason codes, packet identifiers, topic names and filters,
//! subscription options; and the packets that use them ([`codec`]).

pub mod codec;
mod reason;
mod subscription_options;
mod topic_filter;
mod topic_name;

pub use reason::Reason;
pub use subscription_options::{RetainHandling, SubscriptionOptions};
#[cfg(test)]
pub(crate) use topic_filter::MATCHING;
pub use topic_filter::{FilterError, SharedFilter, TopicFilter, filter_matches};
pub(crate) use topic_name::has_wildcard;
pub use topic_name::{TopicError, check_topic_name, has_forbidden_character, topic_levels};

use std::num::{NonZeroU16, NonZeroU32};

/// The protocol version of a connection. Older versions are smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ProtocolVersion {
    /// MQTT 3.1, protocol name `MQIsdp`, level 3.
    V31 = 3,
    /// MQTT 3.1.1, level 4.
    V311 = 4,
    /// MQTT 5.0, level 5.
    V5 = 5,
}

/// The quality of service of a PUBLISH, a will or a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// At most once.
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

impl QoS {
    /// The QoS of two bits. `None` for 3.
    pub fn from_bits(bits: u8) -> Option<QoS> {
        match bits {
            0 => Some(QoS::AtMostOnce),
            1 => Some(QoS::AtLeastOnce),
            2 => Some(QoS::ExactlyOnce),
            _ => None,
        }
    }
}

/// A packet identifier: 1 to 65,535, never zero. `[MQTT5-2.2.1-3]` `[MQTT311-2.3.1-1]`
pub type PacketId = NonZeroU16;

/// A Subscription Identifier: 1 to 268,435,455, never zero. `[MQTT5 §3.8.2.1.2]`
pub type SubscriptionId = NonZeroU32;
