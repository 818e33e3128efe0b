//! The bounds that are reported: for each its key in the configuration, what happens at it, and its counter.

use crate::broker::{Counter, MemoryRelief};

/// A bound that is reported, named after its key in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `limits.connections`.
    Connections,
    /// `connections` of a listener.
    ListenerConnections,
    /// `limits.handshakes`.
    Handshakes,
    /// A session's queue is full: the message is refused. If the publisher uses 3.x, the message is dropped.
    SessionQueue(QueueBound),
    /// A session's queue is full: the oldest message is dropped.
    SessionQueueOldest(QueueBound),
    /// A session's queue is full: the new message is dropped.
    SessionQueueNewest(QueueBound),
    /// `limits.backlog_bytes`: QoS 0 messages are dropped.
    BacklogDrop,
    /// `limits.backlog_bytes`: reading stops.
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
    /// `runtime.mesh_capacity`: reading stops.
    Mesh,
    /// The disk of `persistence.directory` is full: the message is refused.
    Disk,
    /// The disk of `persistence.directory` is full: reading stops, because 3.x has no code for it.
    DiskPause,
    /// The disk is too slow for the messages that it must store: reading stops.
    Log,
    /// `persistence.log_bytes`: the checkpoint is behind.
    LogBytes,
    /// `limits.client_messages_per_second`: reading stops.
    ClientMessages,
    /// `limits.client_bytes_per_second`: reading stops.
    ClientBytes,
    /// `messages_per_second` of a listener: reading stops.
    ListenerMessages,
    /// `bytes_per_second` of a listener: reading stops.
    ListenerBytes,
    /// `limits.subscription_bytes_per_client`.
    SubscriptionBytes,
    /// `limits.memory_bytes`.
    Memory(MemoryRelief),
}

/// The bound of a session's queue that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueBound {
    /// `limits.session_queue_messages`.
    Messages,
    /// `limits.session_queue_bytes`.
    Bytes,
    /// `limits.queue_bytes_total`.
    Total,
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
    /// The key in the configuration that an operator would change.
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

    /// The consequence, in words.
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
            Limit::Memory(MemoryRelief::Read) => "reading stopped in the middle of a packet",
            Limit::Memory(MemoryRelief::End) => "the connection that holds the most is ended",
            Limit::Mesh => "reading stopped, another shard is behind",
            Limit::Disk => "message refused, the disk is full or has failed",
            Limit::DiskPause => {
                "reading stopped, the disk is full or has failed, and 3.x has no code for that"
            }
            Limit::Log => "reading stopped, the disk or the checkpoint is behind",
            Limit::LogBytes => "nothing that must be kept is acknowledged until the checkpoint has caught up",
            Limit::ClientMessages | Limit::ClientBytes => "the client sends faster and is throttled",
            Limit::ListenerMessages | Limit::ListenerBytes => {
                "the clients of the listener together send faster and are throttled"
            }
        }
    }

    /// The counter that the bound increments.
    pub(in crate::broker) fn counter(self) -> Counter {
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
