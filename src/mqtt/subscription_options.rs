//! The options of a subscription.

use super::QoS;

/// The options of a subscription (5.0 section 3.8.3.1). For 3.x, use [`SubscriptionOptions::v3`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// The maximum QoS that was granted.
    pub qos: QoS,
    /// Messages of the session itself are not sent to it. `[MQTT5-3.8.3-3]`
    pub no_local: bool,
    /// Messages keep the publisher's RETAIN flag. `[MQTT5-3.3.1-13]`
    pub retain_as_published: bool,
    /// Whether retained messages are sent after subscribing.
    pub retain_handling: RetainHandling,
}

impl SubscriptionOptions {
    /// The options of a 3.1 or 3.1.1 subscription in terms of 5.0.
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
    /// They are always sent. `[MQTT5-3.3.1-9]`
    Always = 0,
    /// They are sent only if the subscription is new. `[MQTT5-3.3.1-10]`
    IfNew = 1,
    /// They are never sent. `[MQTT5-3.3.1-11]`
    Never = 2,
}
