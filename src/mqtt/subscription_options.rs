//! The options of a subscription.

use super::QoS;

/// The options of a subscription (5.0 section 3.8.3.1); 3.x uses [`SubscriptionOptions::v3`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Maximum QoS granted.
    pub qos: QoS,
    /// Not to the publisher's own session. `[MQTT5-3.8.3-3]`
    pub no_local: bool,
    /// Keep the publisher's RETAIN flag on live messages. `[MQTT5-3.3.1-13]`
    pub retain_as_published: bool,
    /// When retained messages are sent at subscribe.
    pub retain_handling: RetainHandling,
}

impl SubscriptionOptions {
    /// What a 3.1 or 3.1.1 subscription means in the terms of 5.0.
    pub fn v3(qos: QoS) -> SubscriptionOptions {
        SubscriptionOptions {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Always,
        }
    }
}

/// Retain Handling of a subscription (5.0 section 3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainHandling {
    /// Always send. `[MQTT5-3.3.1-9]`
    Always = 0,
    /// Only when the subscription is new. `[MQTT5-3.3.1-10]`
    IfNew = 1,
    /// Never. `[MQTT5-3.3.1-11]`
    Never = 2,
}
