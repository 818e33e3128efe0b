//! The events that are reported to an operator. Each is declared once, for the log line, the counter and the
//! tests.
//!
//! Besides [`Event`] there are the causes of an end (`cause`) and the reported bounds (`limit`).

mod cause;
mod limit;
mod words;

pub use cause::{Away, EndCause, Hangup};
pub use limit::{Limit, QueueBound};

use super::{Counter, Violation};
use crate::base::ShardId;
use crate::mqtt::SubscriptionOptions;
use crate::mqtt::{ProtocolVersion, QoS, Reason, SubscriptionId};
use crate::policy::acl::RuleHit;
use crate::session::Losses;
use crate::settings::Network;
use std::net::SocketAddr;

/// An event for the operator. It contains no payload and no password.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client was accepted.
    Connected {
        /// The client identifier.
        client: Box<str>,
        /// The user name.
        user: Option<Box<str>>,
        /// The address of the peer.
        peer: SocketAddr,
        /// The number of the listener.
        listener: u16,
        /// The protocol version.
        version: ProtocolVersion,
        /// The effective keep alive in seconds. 0 if there is none.
        keep_alive_seconds: u16,
        /// Clean Start.
        clean_start: bool,
        /// Whether a session was resumed.
        session_present: bool,
        /// How many seconds the session outlives the connection.
        session_expiry_seconds: u32,
    },
    /// A client's connection has ended.
    Disconnected {
        /// The client identifier.
        client: Box<str>,
        /// The address of the peer.
        peer: SocketAddr,
        /// The user name.
        user: Option<Box<str>>,
        /// The number of the listener.
        listener: u16,
        /// How long the client was connected.
        seconds: u64,
        /// The traffic of the connection.
        traffic: Traffic,
        /// The number of messages that wait in its session.
        queued: usize,
        /// The cause.
        cause: EndCause,
    },
    /// A CONNECT was refused.
    Refused {
        /// The client identifier, if it could be read.
        client: Box<str>,
        /// The address of the peer.
        peer: SocketAddr,
        /// The user name that was tried.
        user: Option<Box<str>>,
        /// The number of the listener.
        listener: u16,
        /// The reason code and the cause in words.
        violation: Violation,
    },
    /// A connection was closed because of a bound on connections.
    ConnectionRefused {
        /// The bound.
        limit: Limit,
        /// The address of the peer.
        peer: SocketAddr,
        /// The number of the listener.
        listener: u16,
    },
    /// A connection was closed before any of its bytes was read. It is reported once per period for each
    /// address.
    TurnedAway {
        /// The address, or the IPv6 network that counts as one.
        network: Network,
        /// The cause.
        cause: Away,
    },
    /// An address was banned.
    Banned {
        /// The address, or the IPv6 network that counts as one.
        network: Network,
        /// Whether it was banned for wrong logins. If not, it was banned for flapping.
        by_failures: bool,
        /// How long it is banned.
        seconds: u64,
    },
    /// A connection ended before any CONNECT.
    Unconnected {
        /// The address of the peer.
        peer: SocketAddr,
        /// The number of the listener.
        listener: u16,
        /// The cause.
        cause: EndCause,
    },
    /// A PUBLISH was refused, or a QoS 0 one was dropped.
    PublishRefused {
        /// The client identifier of the publisher.
        client: Box<str>,
        /// The beginning of the topic. Empty if it is not known any more.
        topic: Box<str>,
        /// The part of an access list that has refused it, if one has.
        rule: Option<RuleHit>,
        /// The reason code and the cause in words.
        violation: Violation,
    },
    /// A topic filter of a SUBSCRIBE was refused for a reason other than a bound.
    SubscribeRefused {
        /// The client identifier.
        client: Box<str>,
        /// The user name.
        user: Option<Box<str>>,
        /// The beginning of the filter.
        filter: Box<str>,
        /// The part of an access list that has refused it, if one has.
        rule: Option<RuleHit>,
        /// The reason code for the client.
        reason: Reason,
    },
    /// More topic filters of the same SUBSCRIBE were refused, for any reason.
    MoreSubscribesRefused {
        /// The client identifier.
        client: Box<str>,
        /// The user name.
        user: Option<Box<str>>,
        /// The number of filters.
        filters: u64,
    },
    /// A subscription was made or replaced. This event and the next three are for the log level debug.
    Subscribed {
        /// The client identifier.
        client: Box<str>,
        /// The beginning of the filter.
        filter: Box<str>,
        /// The granted options.
        options: SubscriptionOptions,
        /// The subscription identifier, if there is one.
        subscription_id: Option<SubscriptionId>,
        /// Whether the session had no subscription with this filter.
        is_new: bool,
    },
    /// A subscription has ended.
    Unsubscribed {
        /// The client identifier.
        client: Box<str>,
        /// The beginning of the filter.
        filter: Box<str>,
    },
    /// More subscriptions have ended with the same session.
    MoreUnsubscribed {
        /// The client identifier.
        client: Box<str>,
        /// The number of filters.
        filters: usize,
    },
    /// The matches of a message on a shard.
    Matched {
        /// The client identifier of the publisher, on the shard that it is connected to.
        client: Option<Box<str>>,
        /// The beginning of the topic.
        topic: Box<str>,
        /// The QoS of the message.
        qos: QoS,
        /// The RETAIN flag of the message.
        retain: bool,
        /// The shard that reports this.
        shard: ShardId,
        /// The shard that the message came from.
        from: Option<ShardId>,
        /// The number of sessions with matching subscriptions, without shared ones.
        subscribers: usize,
        /// The number of matching shared subscriptions at home here.
        groups: usize,
    },
    /// The messages that a session has lost since its client was last told.
    Losses {
        /// The client identifier.
        client: Box<str>,
        /// Whether the client has reconnected and is told. If not, its session has ended.
        is_back: bool,
        /// The losses.
        losses: Losses,
        /// The present time, on the clock of their times.
        now_millis: u64,
    },
    /// A client has read its backlog, or its connection has ended. Messages for it were dropped meanwhile.
    DroppedForSlow {
        /// The client identifier.
        client: Box<str>,
        /// The number of messages.
        messages: u64,
    },
    /// A bound was reached.
    LimitReached {
        /// The bound.
        limit: Limit,
        /// The client identifier. Empty if it is unknown.
        client: Box<str>,
    },
}

/// The traffic of a connection. Packets count as midge encodes them, without the bytes of TLS or WebSocket.
/// Bytes that were written but not taken by the socket count too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The number of PUBLISH packets from the client.
    pub messages_in: u64,
    /// The number of bytes from the client.
    pub bytes_in: u64,
    /// The number of PUBLISH packets to the client.
    pub messages_out: u64,
    /// The number of bytes to the client.
    pub bytes_out: u64,
}

impl Event {
    /// The counter that the event increments.
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
                | EndCause::Operator
                | EndCause::Drained(_)
                | EndCause::ListenerRemoved
                | EndCause::Refused => None,
            },
            // Each connection that is turned away is counted, reported or not.
            Event::TurnedAway { .. } => None,
            Event::Banned { .. } => Some(Counter::AddressesBanned),
            // It is counted by its reason code.
            Event::Refused { .. } => None,
            // It is counted by its reason code.
            Event::PublishRefused { .. } => None,
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

/// The beginning of a client's text, up to the length that is reported.
pub(super) fn beginning(text: &str) -> Box<str> {
    match text.char_indices().nth(LOGGED_CHARACTERS_MAX) {
        Some((end, _)) => text[..end].into(),
        None => text.into(),
    }
}

/// The number of characters of client texts (identifiers, user names, topics) that are reported.
pub const LOGGED_CHARACTERS_MAX: usize = 128;
