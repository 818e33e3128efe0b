//! The events that an operator wants to know of. Each is declared once, for the log line, the counter and the tests.
//!
//! Beside [`Event`] stand the causes of an end (`cause`) and the bounds that are reported (`limit`).

mod cause;
mod limit;

pub use cause::{Away, EndCause, Hangup};
pub use limit::{Limit, QueueBound};

use super::{Counter, Violation};
use crate::base::ShardId;
use crate::mqtt::SubscriptionOptions;
use crate::mqtt::{ProtocolVersion, QoS, Reason};
use crate::policy::acl::RuleHit;
use crate::session::Losses;
use crate::settings::Network;
use std::net::SocketAddr;

/// Something that an operator wants to know. Holds no payload and no password.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client is in.
    Connected {
        /// Client identifier.
        client: Box<str>,
        /// User name.
        user: Option<Box<str>>,
        /// Where from.
        peer: SocketAddr,
        /// Number of the listener.
        listener: u16,
        /// Protocol.
        version: ProtocolVersion,
        /// Effective keep alive, seconds; 0: none.
        keep_alive_seconds: u16,
        /// Clean Start.
        clean_start: bool,
        /// Was a session resumed?
        session_present: bool,
        /// Seconds that the session outlives the connection.
        session_expiry_seconds: u32,
    },
    /// A client is out.
    Disconnected {
        /// Client identifier.
        client: Box<str>,
        /// Where from.
        peer: SocketAddr,
        /// User name.
        user: Option<Box<str>>,
        /// Number of the listener.
        listener: u16,
        /// How long the client was in.
        seconds: u64,
        /// What went over the connection.
        traffic: Traffic,
        /// Messages that its session has left for it.
        queued: usize,
        /// Why.
        cause: EndCause,
    },
    /// A CONNECT was refused.
    Refused {
        /// Client identifier, if one could be read.
        client: Box<str>,
        /// Where from.
        peer: SocketAddr,
        /// The user name that was tried.
        user: Option<Box<str>>,
        /// Number of the listener.
        listener: u16,
        /// Reason code and words.
        violation: Violation,
    },
    /// A connection was closed because of a bound on connections.
    ConnectionRefused {
        /// Which.
        limit: Limit,
        /// Where from.
        peer: SocketAddr,
        /// Number of the listener.
        listener: u16,
    },
    /// A connection was closed before a byte of it was read; told once in a while for each address.
    TurnedAway {
        /// The address, or the IPv6 network that counts as one.
        network: Network,
        /// Why.
        cause: Away,
    },
    /// An address is banned from now on.
    Banned {
        /// The address, or the IPv6 network that counts as one.
        network: Network,
        /// Else it flaps.
        by_failures: bool,
        /// For so long.
        seconds: u64,
    },
    /// A connection ended before any CONNECT.
    Unconnected {
        /// Where from.
        peer: SocketAddr,
        /// Number of the listener.
        listener: u16,
        /// Why.
        cause: EndCause,
    },
    /// A PUBLISH was refused, or a QoS 0 one swallowed.
    PublishRefused {
        /// Client identifier of the publisher.
        client: Box<str>,
        /// The beginning of the topic; empty where it is not known any more.
        topic: Box<str>,
        /// What of an access list has refused it, if one has.
        rule: Option<RuleHit>,
        /// Reason code and words.
        violation: Violation,
    },
    /// A topic filter of a SUBSCRIBE was refused, but not because of a bound.
    SubscribeRefused {
        /// Client identifier.
        client: Box<str>,
        /// User name.
        user: Option<Box<str>>,
        /// The beginning of the filter.
        filter: Box<str>,
        /// What of an access list has refused it, if one has.
        rule: Option<RuleHit>,
        /// What the client is told.
        reason: Reason,
    },
    /// More topic filters of the same SUBSCRIBE were refused, for whatever cause.
    MoreSubscribesRefused {
        /// Client identifier.
        client: Box<str>,
        /// User name.
        user: Option<Box<str>>,
        /// How many.
        filters: u64,
    },
    /// A subscription was made, or replaced. For log level debug, as the next three.
    Subscribed {
        /// Client identifier.
        client: Box<str>,
        /// The beginning of the filter.
        filter: Box<str>,
        /// As granted.
        options: SubscriptionOptions,
        /// 0: none.
        subscription_id: u32,
        /// The session had none with this filter.
        is_new: bool,
    },
    /// A subscription has ended.
    Unsubscribed {
        /// Client identifier.
        client: Box<str>,
        /// The beginning of the filter.
        filter: Box<str>,
    },
    /// More subscriptions have ended with the same session.
    MoreUnsubscribed {
        /// Client identifier.
        client: Box<str>,
        /// How many.
        filters: usize,
    },
    /// What a message has matched on a shard.
    Matched {
        /// Client identifier of the publisher, on the shard that it is connected to.
        client: Option<Box<str>>,
        /// The beginning of the topic.
        topic: Box<str>,
        /// Of the message.
        qos: QoS,
        /// Of the message.
        retain: bool,
        /// Here.
        shard: ShardId,
        /// It came from there.
        from: Option<ShardId>,
        /// Sessions with subscriptions that match, but for shared ones.
        subscribers: usize,
        /// Shared subscriptions at home here that match.
        groups: usize,
    },
    /// A session has lost messages since its client was told last.
    Losses {
        /// Client identifier.
        client: Box<str>,
        /// The client is back, and is told; else its session has ended.
        is_back: bool,
        /// What it has lost.
        losses: Losses,
        /// Now, by the clock of their times.
        now_millis: u64,
    },
    /// A client has read what waited for it, or is out; meanwhile messages for it were dropped.
    DroppedForSlow {
        /// Client identifier.
        client: Box<str>,
        /// How many.
        messages: u64,
    },
    /// A bound was reached.
    LimitReached {
        /// Which.
        limit: Limit,
        /// Client identifier, empty where none is known.
        client: Box<str>,
    },
}

/// What went over a connection: packets as they are encoded, without what TLS or WebSocket adds. What was written and
/// its socket has not taken counts too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// PUBLISH packets from the client.
    pub messages_in: u64,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// PUBLISH packets to the client.
    pub messages_out: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
}

impl Event {
    /// The counter that moves with the event.
    pub fn counter(&self) -> Option<Counter> {
        match self {
            // Each message was counted when it was lost.
            Event::Connected { .. } | Event::Losses { .. } | Event::DroppedForSlow { .. } => None,
            Event::Disconnected { cause, .. } | Event::Unconnected { cause, .. } => match cause {
                EndCause::Violation(violation) if violation.reason == Reason::PacketTooLarge => {
                    Some(Counter::LimitPacketBytes)
                }
                EndCause::Violation(violation) if violation.reason == Reason::ReceiveMaximumExceeded => {
                    Some(Counter::LimitReceiveMaximum)
                }
                EndCause::Violation(_) => Some(Counter::Violations),
                EndCause::KeepAlive => Some(Counter::KeepAliveTimeouts),
                EndCause::SlowPacket => Some(Counter::LimitUpload),
                EndCause::PermissionEnded | EndCause::Revoked => Some(Counter::PermissionsEnded),
                EndCause::ConnectTimeout => Some(Counter::LimitConnectSeconds),
                EndCause::TakenOver => Some(Counter::Takeovers),
                EndCause::Disconnect(_)
                | EndCause::Hangup(_)
                | EndCause::Shutdown
                | EndCause::Banned
                | EndCause::Refused => None,
            },
            // Each connection that is turned away is counted, told or not.
            Event::TurnedAway { .. } => None,
            Event::Banned { .. } => Some(Counter::AddressesBanned),
            Event::Refused { .. } => Some(Counter::ConnectsRefused),
            Event::PublishRefused { .. } => Some(Counter::PublishesRefused),
            // Each filter was counted.
            Event::SubscribeRefused { .. } | Event::MoreSubscribesRefused { .. } => None,
            Event::Subscribed { .. }
            | Event::Unsubscribed { .. }
            | Event::MoreUnsubscribed { .. }
            | Event::Matched { .. } => None,
            Event::LimitReached { limit, .. } | Event::ConnectionRefused { limit, .. } => {
                Some(limit.counter())
            }
        }
    }
}

/// The beginning of a client's text, as far as it is worth telling.
pub(super) fn beginning(text: &str) -> Box<str> {
    match text.char_indices().nth(CHARACTERS_TOLD) {
        Some((end, _)) => text[..end].into(),
        None => text.into(),
    }
}

/// Of texts of clients: identifiers, user names, topics.
pub const CHARACTERS_TOLD: usize = 128;
