//! The counters of a shard. Only their shard writes them, and any shard may read them. So a relaxed store is
//! a plain move, and no two cores write the same cache line.

use crate::broker::EndCause;
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
    /// Messages of clients of the shard for which there was no subscription here, and none that another shard has told
    /// of.
    Unrouted,
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
pub struct Counters {
    cells: [AtomicU64; COUNTERS],
    /// Those with a place for each kind of what they count.
    pub kinds: KindCounters,
}

impl Default for Counters {
    fn default() -> Self {
        Counters { cells: [const { AtomicU64::new(0) }; COUNTERS], kinds: KindCounters::default() }
    }
}

/// Counters with a place for each kind.
#[derive(Default)]
pub struct KindCounters {
    /// Control packets received, by packet type.
    pub packets_received: Tally<16>,
    /// Control packets sent, by packet type, except PUBLISH.
    pub packets_sent: Tally<16>,
    /// PUBLISH packets received, by QoS.
    pub publishes_received: Tally<3>,
    /// PUBLISH packets sent, by QoS.
    pub publishes_sent: Tally<3>,
    /// Connections that ended after they were admitted, by the place of the cause in [`EndCause::LABELS`].
    pub ended: Tally<{ EndCause::LABELS.len() }>,
    /// CONNECTs refused, by reason code.
    pub refused: Tally<256>,
    /// PUBLISH packets refused, by reason code.
    pub publishes_refused: Tally<256>,
    /// What access lists have denied: publishing, subscribing.
    pub denied: Tally<2>,
    /// Logins by enhanced authentication: good ones and bad ones.
    pub exchanges: Tally<2>,
    /// TLS handshakes, by the place in [`HANDSHAKES`].
    pub handshakes: Tally<{ HANDSHAKES.len() }>,
    /// TLS handshakes that have failed.
    pub handshakes_failed: Tally<1>,
    /// From the last packet of a client's handshake to its CONNACK, with the login's check and the disk's write.
    pub connack: Histogram,
    /// From the beginning of a write of the log to its end.
    pub commit: Histogram,
}

/// The results of TLS handshakes: the version, and whether a session was resumed.
pub const HANDSHAKES: [(&str, bool); 4] = [("1.2", false), ("1.2", true), ("1.3", false), ("1.3", true)];

/// A counter for each of several kinds.
pub struct Tally<const KINDS: usize>([AtomicU64; KINDS]);

impl<const KINDS: usize> Default for Tally<KINDS> {
    fn default() -> Self {
        Tally([const { AtomicU64::new(0) }; KINDS])
    }
}

impl<const KINDS: usize> Tally<KINDS> {
    /// Adds to the kind at this place. Only the owning shard may call it.
    #[inline]
    pub fn add(&self, kind: usize, by: u64) {
        let cell = &self.0[kind];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    /// Subtracts one from the kind at this place. Only the owning shard may call it.
    pub fn take_back(&self, kind: usize) {
        self.add(kind, u64::MAX);
    }

    /// The count of the kind at this place.
    pub fn get(&self, kind: usize) -> u64 {
        self.0[kind].load(Ordering::Relaxed)
    }

    /// The sum of all kinds.
    pub fn sum(&self) -> u64 {
        self.0.iter().fold(0, |sum, cell| sum.wrapping_add(cell.load(Ordering::Relaxed)))
    }
}

/// Durations, counted by upper bounds.
#[derive(Default)]
pub struct Histogram {
    /// By the place of the bound in [`HISTOGRAM_MICROS`]. The last place has what is longer than all of them.
    cells: Tally<{ HISTOGRAM_MICROS.len() + 1 }>,
    sum_micros: Tally<1>,
}

/// The upper bounds of a [`Histogram`], in microseconds.
pub const HISTOGRAM_MICROS: [u64; 15] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000,
    5_000_000,
];

impl Histogram {
    /// Counts a duration. Only the owning shard may call it.
    pub fn note(&self, micros: u64) {
        self.cells.add(HISTOGRAM_MICROS.partition_point(|&bound| bound < micros), 1);
        self.sum_micros.add(0, micros);
    }

    /// The counts by bound, the last one without a bound, and the sum in microseconds.
    pub fn read(&self) -> ([u64; HISTOGRAM_MICROS.len() + 1], u64) {
        (std::array::from_fn(|at| self.cells.get(at)), self.sum_micros.get(0))
    }
}

impl KindCounters {
    /// The value of a counter that is the sum of its kinds.
    fn sum(&self, counter: Counter) -> Option<u64> {
        Some(match counter {
            Counter::PacketsReceived => self.packets_received.sum(),
            Counter::AnswersSent => self.packets_sent.sum(),
            Counter::PublishesReceived => self.publishes_received.sum(),
            Counter::PublishesSent => self.publishes_sent.sum(),
            Counter::ConnectsRefused => self.refused.sum(),
            Counter::PublishesRefused => self.publishes_refused.sum(),
            _ => return None,
        })
    }
}

impl Counters {
    /// Adds. Only the owning shard may call it.
    pub fn add(&self, counter: Counter, by: u64) {
        debug_assert!(self.kinds.sum(counter).is_none(), "{counter:?} is the sum of its kinds");
        let cell = &self.cells[counter as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    /// Subtracts, for gauges and for what another shard counts in the end. Only the owning shard may call it.
    pub fn subtract(&self, counter: Counter, by: u64) {
        let cell = &self.cells[counter as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_sub(by), Ordering::Relaxed);
    }

    /// Sets a gauge. Only the owning shard may call it.
    pub fn set(&self, counter: Counter, to: u64) {
        self.cells[counter as usize].store(to, Ordering::Relaxed);
    }

    /// Sets consecutive gauges, from `first` on.
    pub fn set_all<const GAUGES: usize>(&self, first: Counter, to: &[u64; GAUGES]) {
        for (cell, value) in self.cells[first as usize..].iter().zip(to) {
            cell.store(*value, Ordering::Relaxed);
        }
    }

    /// Reads a counter. Any shard may call it.
    pub fn get(&self, counter: Counter) -> u64 {
        self.kinds.sum(counter).unwrap_or_else(|| self.cells[counter as usize].load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_at_the_first_bound_that_it_does_not_exceed() {
        let histogram = Histogram::default();
        for micros in [0, 50, 51, 5_000_000, 5_000_001] {
            histogram.note(micros);
        }
        let (cells, sum) = histogram.read();
        assert_eq!((cells[0], cells[1], cells[14], cells[15], sum), (2, 1, 1, 1, 10_000_102));
        assert_eq!(cells.iter().sum::<u64>(), 5);
    }

    #[test]
    fn the_sum_of_kinds_is_a_counter_too() {
        let counters = Counters::default();
        counters.kinds.publishes_received.add(0, 3);
        counters.kinds.publishes_received.add(2, 4);
        counters.kinds.publishes_received.take_back(2);
        assert_eq!(counters.get(Counter::PublishesReceived), 6);
    }
}
