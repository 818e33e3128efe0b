//! What is worth telling: declared once, and so the log line, the counter and what tests see.

use super::{Counter, MemoryRelief, Violation};
use crate::base::ShardId;
use crate::mqtt::SubscriptionOptions;
use crate::mqtt::{ProtocolVersion, QoS, Reason};
use crate::policy::acl::RuleHit;
use crate::session::Losses;
use crate::settings::Network;
use std::fmt;
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

/// Why a connection is closed that has hardly begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// Its address is banned.
    Banned,
    /// Its address opens connections too fast.
    TooFast,
    /// Its address has its share of the handshakes.
    Handshakes,
}

impl Away {
    /// The counter that moves with each.
    pub fn counter(self) -> Counter {
        match self {
            Away::Banned => Counter::TurnedAwayBanned,
            Away::TooFast => Counter::TurnedAwayTooFast,
            Away::Handshakes => Counter::LimitHandshakesPerAddress,
        }
    }

    /// The key that an operator would change.
    pub fn key(self) -> &'static str {
        match self {
            Away::Banned => "[gate]",
            Away::TooFast => "limits.connect_rate",
            Away::Handshakes => "limits.handshakes_per_address",
        }
    }
}

/// The bounds that are reported, by their keys in the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `limits.connections`.
    Connections,
    /// `connections` of a listener.
    ListenerConnections,
    /// `limits.handshakes`.
    Handshakes,
    /// A session's queue is full: refused; of a 3.x publisher, dropped.
    SessionQueue(QueueBound),
    /// The same: the oldest dropped.
    SessionQueueOldest(QueueBound),
    /// The same: the newest dropped.
    SessionQueueNewest(QueueBound),
    /// `limits.backlog_bytes`, for QoS 0 messages.
    BacklogDrop,
    /// `limits.backlog_bytes`: reading stopped.
    BacklogPause,
    /// `limits.subscriptions_per_client`.
    Subscriptions,
    /// `limits.subscriptions_total`.
    SubscriptionsTotal,
    /// `limits.wildcard_patterns_per_client`.
    WildcardPatterns,
    /// `limits.topic_levels`.
    TopicLevels,
    /// `limits.retained_messages`.
    Retained,
    /// `limits.retained_bytes`.
    RetainedBytes,
    /// `limits.sessions`.
    Sessions,
    /// `runtime.mesh_capacity`: reading stopped.
    Mesh,
    /// The disk of `persistence.directory` is full: refused.
    Disk,
    /// The same: reading stopped, since 3.x has no code for it.
    DiskPause,
    /// The disk is slower than what must be kept comes in: reading stopped.
    Log,
    /// `persistence.log_bytes`: the checkpoint is behind.
    LogBytes,
    /// `limits.client_messages_per_second`: reading stopped.
    ClientMessages,
    /// `limits.client_bytes_per_second`: reading stopped.
    ClientBytes,
    /// `messages_per_second` of a listener: reading stopped.
    ListenerMessages,
    /// `bytes_per_second` of a listener: reading stopped.
    ListenerBytes,
    /// `limits.subscription_bytes_per_client`.
    SubscriptionBytes,
    /// `limits.memory_bytes`.
    Memory(MemoryRelief),
}

/// What makes a session's queue full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueBound {
    /// `limits.session_queue_messages`.
    Messages,
    /// `limits.session_queue_bytes`.
    Bytes,
    /// `limits.queue_bytes_total`.
    Total,
}

/// How the peer went away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hangup {
    /// It closed.
    Closed,
    /// It reset the connection.
    Reset,
    /// What lies below MQTT (PROXY header, TLS, WebSocket) has failed, in words.
    Transport(Box<str>),
    /// Another error of the socket (errno).
    Error(i32),
    /// It does not read, and what waits for it has reached the driver's bound.
    BacklogFull,
}

impl fmt::Display for Hangup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hangup::Closed => f.write_str("connection closed by the client without DISCONNECT"),
            Hangup::Reset => f.write_str("connection reset by the client"),
            Hangup::Transport(words) => f.write_str(words),
            Hangup::BacklogFull => {
                f.write_str("connection ended: the client does not read (limits.backlog_bytes)")
            }
            Hangup::Error(errno) => {
                write!(f, "connection lost: {}", std::io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// DISCONNECT from the client.
    Disconnect(Reason),
    /// The peer went away.
    Hangup(Hangup),
    /// The peer broke a rule.
    Violation(Violation),
    /// Nothing came for one and a half times the keep alive. `[MQTT5-3.1.2-22]`
    KeepAlive,
    /// Nothing came but a part of a packet, and that too slowly.
    SlowPacket,
    /// What the client was let in with, a token for example, has expired.
    PermissionEnded,
    /// The password file has another line for its user, or none, than when it came in.
    Revoked,
    /// No CONNECT came in time.
    ConnectTimeout,
    /// The client identifier connected again. `[MQTT5-3.1.4-3]`
    TakenOver,
    /// The broker stops.
    Shutdown,
    /// Its address was put on the list of the banned.
    Banned,
    /// Refused at CONNECT; said in `Event::Refused`.
    Refused,
}

impl EndCause {
    /// The reason code of the DISCONNECT that a 5.0 client gets; none: no DISCONNECT.
    pub fn reason_sent(&self) -> Option<Reason> {
        match self {
            EndCause::Violation(violation) => Some(violation.reason),
            EndCause::KeepAlive | EndCause::SlowPacket => Some(Reason::KeepAliveTimeout),
            EndCause::PermissionEnded => Some(Reason::MaximumConnectTime),
            EndCause::Revoked => Some(Reason::NotAuthorized),
            EndCause::TakenOver => Some(Reason::SessionTakenOver),
            EndCause::Shutdown => Some(Reason::ServerShuttingDown),
            // [MQTT5-3.14.2-1]: DISCONNECT has no 0x8A.
            EndCause::Banned => Some(Reason::AdministrativeAction),
            EndCause::Disconnect(_) | EndCause::Hangup(_) | EndCause::ConnectTimeout | EndCause::Refused => {
                None
            }
        }
    }

    /// The reason code that says why: of the DISCONNECT that was sent or that has come.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            EndCause::Disconnect(reason) => Some(*reason),
            other => other.reason_sent(),
        }
    }

    /// In a few words of the program's own: what a cause is counted by where there are many.
    pub fn kind(&self) -> &'static str {
        match self {
            EndCause::Disconnect(_) => "DISCONNECT from the client",
            EndCause::Hangup(Hangup::Closed) => "closed without DISCONNECT",
            EndCause::Hangup(Hangup::Reset) => "reset by the client",
            EndCause::Hangup(Hangup::Transport(_)) => "TLS, WebSocket or PROXY header failed",
            EndCause::Hangup(Hangup::Error(_)) => "connection lost",
            EndCause::Hangup(Hangup::BacklogFull) => "the client does not read",
            EndCause::Violation(violation) => violation.cause,
            EndCause::KeepAlive => "keep alive timeout",
            EndCause::SlowPacket => "a packet came too slowly",
            EndCause::PermissionEnded => "what let the client in has expired",
            EndCause::Revoked => "login taken back",
            EndCause::ConnectTimeout => "no CONNECT in time",
            EndCause::TakenOver => "session taken over",
            EndCause::Shutdown => "server shutting down",
            EndCause::Banned => "address banned",
            EndCause::Refused => "refused",
        }
    }

    /// Does the will go unpublished? `[MQTT5-3.14.4-3]`
    pub fn drops_will(&self) -> bool {
        matches!(self, EndCause::Disconnect(Reason::Success))
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

impl fmt::Display for EndCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndCause::Disconnect(reason) => {
                write!(f, "client disconnected, {} (0x{:02X})", reason.words(), reason.code())
            }
            EndCause::Hangup(hangup) => write!(f, "{hangup}"),
            EndCause::Violation(violation) => write!(f, "{violation}"),
            EndCause::KeepAlive => f.write_str("keep alive timeout (0x8D)"),
            EndCause::SlowPacket => f.write_str(
                "keep alive timeout (0x8D): a packet came more slowly than limits.upload_bytes_per_second_min",
            ),
            EndCause::PermissionEnded => f.write_str("what the client was let in with has expired (0xA0)"),
            EndCause::Revoked => {
                f.write_str("its user's line in the password file is another, or gone (0x87)")
            }
            EndCause::ConnectTimeout => f.write_str("no CONNECT within limits.connect_seconds"),
            EndCause::TakenOver => f.write_str("session taken over by a new connection (0x8E)"),
            EndCause::Shutdown => f.write_str("server shutting down (0x8B)"),
            EndCause::Banned => f.write_str("address banned by gate.banned (0x98)"),
            EndCause::Refused => f.write_str("refused"),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (0x{:02X})", self.reason.words(), self.cause, self.reason.code())
    }
}

impl QueueBound {
    fn key(self) -> &'static str {
        match self {
            QueueBound::Messages => "limits.session_queue_messages",
            QueueBound::Bytes => "limits.session_queue_bytes",
            QueueBound::Total => "limits.queue_bytes_total",
        }
    }
}

impl Limit {
    /// The key that an operator would change.
    pub fn key(self) -> &'static str {
        match self {
            Limit::Connections => "limits.connections",
            Limit::ListenerConnections => "listeners.connections",
            Limit::Handshakes => "limits.handshakes",
            Limit::SessionQueue(bound)
            | Limit::SessionQueueOldest(bound)
            | Limit::SessionQueueNewest(bound) => bound.key(),
            Limit::BacklogDrop | Limit::BacklogPause => "limits.backlog_bytes",
            Limit::Subscriptions => "limits.subscriptions_per_client",
            Limit::SubscriptionsTotal => "limits.subscriptions_total",
            Limit::WildcardPatterns => "limits.wildcard_patterns_per_client",
            Limit::TopicLevels => "limits.topic_levels",
            Limit::Retained => "limits.retained_messages",
            Limit::RetainedBytes => "limits.retained_bytes",
            Limit::Sessions => "limits.sessions",
            Limit::Mesh => "runtime.mesh_capacity",
            Limit::Disk | Limit::DiskPause => "persistence.directory",
            Limit::Log | Limit::LogBytes => "persistence.log_bytes",
            Limit::ClientMessages => "limits.client_messages_per_second",
            Limit::ClientBytes => "limits.client_bytes_per_second",
            Limit::ListenerMessages => "listeners.messages_per_second",
            Limit::ListenerBytes => "listeners.bytes_per_second",
            Limit::SubscriptionBytes => "limits.subscription_bytes_per_client",
            Limit::Memory(_) => "limits.memory_bytes",
        }
    }

    /// What happened, in words.
    pub fn consequence(self) -> &'static str {
        match self {
            Limit::Connections | Limit::ListenerConnections | Limit::Handshakes => "new connection closed",
            Limit::SessionQueue(_) => {
                "messages refused (those of 3.x publishers dropped), the session's queue is full"
            }
            Limit::SessionQueueOldest(_) => "oldest messages dropped, the session's queue is full",
            Limit::SessionQueueNewest(_) => "new messages dropped, the session's queue is full",
            Limit::BacklogDrop => "QoS 0 messages dropped, the client does not read",
            Limit::BacklogPause => "reading stopped, the client asks for more than it reads",
            Limit::Subscriptions
            | Limit::SubscriptionsTotal
            | Limit::SubscriptionBytes
            | Limit::WildcardPatterns
            | Limit::Memory(MemoryRelief::Subscribe) => "subscription refused",
            Limit::TopicLevels => "topic refused",
            Limit::Retained | Limit::RetainedBytes | Limit::Memory(MemoryRelief::Retain) => {
                "retained message refused"
            }
            Limit::Sessions | Limit::Memory(MemoryRelief::Connect) => "connect refused",
            Limit::Memory(MemoryRelief::Read) => "the packet under way is read no further",
            Limit::Memory(MemoryRelief::End) => "the connection that holds the most is ended",
            Limit::Mesh => "reading stopped, another shard is behind",
            Limit::Disk => "message refused, the disk is full or has failed",
            Limit::DiskPause => {
                "reading stopped, the disk is full or has failed, and 3.x has no code to say so"
            }
            Limit::Log => "reading stopped, the disk or the checkpoint is behind",
            Limit::LogBytes => "nothing that must be kept is acknowledged until the checkpoint has caught up",
            Limit::ClientMessages | Limit::ClientBytes => "the client sends faster, and is read no faster",
            Limit::ListenerMessages | Limit::ListenerBytes => {
                "the listener's clients send faster together, and are read no faster"
            }
        }
    }

    pub(super) fn counter(self) -> Counter {
        match self {
            Limit::Connections | Limit::ListenerConnections => Counter::LimitConnections,
            Limit::Handshakes => Counter::LimitHandshakes,
            Limit::SessionQueue(_) | Limit::SessionQueueOldest(_) | Limit::SessionQueueNewest(_) => {
                Counter::DroppedQueueFull
            }
            Limit::BacklogDrop => Counter::DroppedSlow,
            Limit::BacklogPause => Counter::LimitBacklog,
            Limit::Subscriptions
            | Limit::SubscriptionsTotal
            | Limit::SubscriptionBytes
            | Limit::WildcardPatterns => Counter::LimitSubscriptions,
            Limit::Memory(_) => Counter::LimitMemory,
            Limit::TopicLevels => Counter::LimitTopicLevels,
            Limit::Retained | Limit::RetainedBytes => Counter::LimitRetained,
            Limit::Sessions => Counter::LimitSessions,
            Limit::Mesh => Counter::LimitMesh,
            Limit::Disk | Limit::DiskPause => Counter::LimitDisk,
            Limit::Log => Counter::LimitLog,
            Limit::LogBytes => Counter::LimitLogBytes,
            Limit::ClientMessages | Limit::ClientBytes => Counter::LimitClientRate,
            Limit::ListenerMessages | Limit::ListenerBytes => Counter::LimitListenerRate,
        }
    }
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
