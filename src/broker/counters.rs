//! The counters of a shard. Only their shard writes them, and any shard may read them. So a relaxed store is
//! a plain move, and no two cores write the same cache line.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter { $($(#[doc = $doc])+ $name,)+ }

        /// All counters, in order.
        pub(super) const ALL_COUNTERS: &[Counter] = &[$(Counter::$name,)+];
        const COUNTERS: usize = ALL_COUNTERS.len();
    };
}

counters! {
    /// Connections that the listeners have accepted from the kernel, including those that are closed at once.
    ConnectionsOpened,
    /// Connections closed, whatever the reason.
    ConnectionsClosed,
    /// Clients connected now (a gauge, which rises and falls).
    ClientsConnected,
    /// Sessions, connected or not (a gauge).
    Sessions,
    /// CONNECTs received.
    ConnectsReceived,
    /// CONNECTs refused.
    ConnectsRefused,
    /// CONNECTs refused because of a wrong login.
    LoginsFailed,
    /// Those of them whose refusal was delayed.
    RefusalsDelayed,
    /// Connections closed because of `limits.connect_rate`.
    TurnedAwayTooFast,
    /// Connections closed because their address was banned.
    TurnedAwayBanned,
    /// Addresses banned because of wrong logins or flapping.
    AddressesBanned,
    /// Connections that ended because of a malformed packet or a protocol error.
    Violations,
    /// Connections that ended because of their keep alive.
    KeepAliveTimeouts,
    /// Connections that ended because their login has expired or was revoked.
    PermissionsEnded,
    /// Sessions that ended because of their expiry interval.
    SessionsExpired,
    /// Sessions taken over by a new connection.
    Takeovers,
    /// Bytes received.
    BytesReceived,
    /// Bytes given to the sockets.
    BytesSent,
    /// Control packets received.
    PacketsReceived,
    /// PUBLISH packets received.
    PublishesReceived,
    /// Bytes of application messages received.
    PublishBytesReceived,
    /// Control packets sent, except PUBLISH.
    AnswersSent,
    /// PUBLISH packets sent.
    PublishesSent,
    /// Bytes of application messages sent.
    PublishBytesSent,
    /// Messages dropped for any reason below.
    PublishesDropped,
    /// QoS 0 messages dropped because the client does not read.
    DroppedSlow,
    /// QoS 1 and 2 messages refused because a session's queue is full.
    DroppedQueueFull,
    /// Messages larger than the client's Maximum Packet Size.
    DroppedTooLarge,
    /// Messages that expired while they waited.
    DroppedExpired,
    /// Deliveries that an access list forbids the client to receive.
    DroppedDenied,
    /// PUBLISH packets refused because of a reserved topic, too many levels, or a bound of retained messages.
    PublishesRefused,
    /// Topic filters of SUBSCRIBE packets refused because of an access list, a feature that is not available,
    /// or a bound.
    SubscriptionsRefused,
    /// Messages in session queues (a gauge).
    MessagesQueued,
    /// Bytes in session queues (a gauge).
    BytesQueued,
    /// The approximate number of PUBLISH packets that sockets have not taken (a gauge).
    PacketsWaiting,
    /// Subscriptions (a gauge).
    Subscriptions,
    /// Shared subscriptions' members (a gauge).
    SharedSubscriptions,
    /// Retained messages (a gauge).
    Retained,
    /// Bytes of retained messages (a gauge).
    RetainedBytes,
    /// Publishes forwarded to other shards.
    Forwarded,
    /// Connections refused because `limits.connections`, or `connections` of a listener, was reached.
    LimitConnections,
    /// Connections refused because `limits.handshakes` was reached.
    LimitHandshakes,
    /// Connections closed because of `limits.handshakes_per_address`.
    LimitHandshakesPerAddress,
    /// CONNECTs refused because of `limits.connect_bytes` or `limits.connect_bytes_unnamed`.
    LimitConnectBytes,
    /// Connections closed because no CONNECT came in time.
    LimitConnectSeconds,
    /// Connections closed because a packet was too large.
    LimitPacketBytes,
    /// Subscriptions refused because of `limits.subscriptions_per_client`.
    LimitSubscriptions,
    /// Topics and filters refused because of `limits.topic_levels`.
    LimitTopicLevels,
    /// Retained messages refused because of their bound.
    LimitRetained,
    /// Sessions refused because of `limits.sessions`.
    LimitSessions,
    /// Times that reading was stopped because a client asked for more than it read.
    LimitBacklog,
    /// Times that reading was stopped because another shard's box was full.
    LimitMesh,
    /// Messages refused because the disk is full or has failed.
    LimitDisk,
    /// Times that reading was stopped because the disk was behind.
    LimitLog,
    /// Times that a log waited for the checkpoint because of `persistence.log_bytes`.
    LimitLogBytes,
    /// Times that reading was stopped because too many answers waited for the log or for other shards.
    LimitAnswers,
    /// Times that reading was stopped because a client exceeded its rate.
    LimitClientRate,
    /// Times that reading was stopped because the clients of a listener together exceeded its rate.
    LimitListenerRate,
    /// Connections closed because a packet came too slowly.
    LimitUpload,
    /// Clients that sent more than midge's Receive Maximum allows.
    LimitReceiveMaximum,
    /// Packets, connections and reads that were refused, ended or stopped because of `limits.memory_bytes`.
    LimitMemory,
    /// Bytes of messages kept for sessions, queued and in flight (a gauge).
    MemoryMessages,
    /// Bytes that sockets have not taken (a gauge).
    MemoryBacklogs,
    /// Bytes of packets whose end has not arrived (a gauge).
    MemoryPartial,
    /// Bytes of sessions and connections (a gauge).
    MemorySessions,
    /// Bytes of subscriptions (a gauge).
    MemorySubscriptions,
    /// Bytes of wills (a gauge).
    MemoryWills,
    /// Bytes of topic aliases (a gauge).
    MemoryAliases,
    /// Bytes of retained messages (a gauge).
    MemoryRetained,
    /// Bytes of all of these (a gauge).
    MemoryTotal,
}

/// The counters of one shard.
#[repr(align(128))]
pub struct Counters([AtomicU64; COUNTERS]);

impl Default for Counters {
    fn default() -> Self {
        Counters([const { AtomicU64::new(0) }; COUNTERS])
    }
}

impl Counters {
    /// Adds. Only the owning shard may call it.
    pub fn add(&self, counter: Counter, by: u64) {
        let cell = &self.0[counter as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    /// Subtracts, for gauges and for what another shard counts in the end. Only the owning shard may call it.
    pub fn subtract(&self, counter: Counter, by: u64) {
        let cell = &self.0[counter as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_sub(by), Ordering::Relaxed);
    }

    /// Sets a gauge. Only the owning shard may call it.
    pub fn set(&self, counter: Counter, to: u64) {
        self.0[counter as usize].store(to, Ordering::Relaxed);
    }

    /// Sets consecutive gauges, from `first` on.
    pub fn set_all<const GAUGES: usize>(&self, first: Counter, to: &[u64; GAUGES]) {
        for (cell, value) in self.0[first as usize..].iter().zip(to) {
            cell.store(*value, Ordering::Relaxed);
        }
    }

    /// Reads a counter. Any shard may call it.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }
}
