//! The metrics behind which the counters of the shards stand. Each counter is in one family.

use crate::broker::Counter;

/// How a value moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only rises.
    Counter,
    /// It rises and falls.
    Gauge,
}

/// A metric with the counters behind it.
pub(super) struct Family {
    /// The name, without `_total`.
    pub(super) name: &'static str,
    /// What it is, without a full stop.
    pub(super) help: &'static str,
    /// How it moves.
    pub(super) kind: Kind,
    /// The label that tells its members apart, if it has several.
    pub(super) label: Option<&'static str>,
    /// The counters, each with the value of the label.
    pub(super) members: &'static [(&'static str, Counter)],
    /// The counter of all members and of what none of them counts, which has the label "other".
    pub(super) all: Option<Counter>,
}

macro_rules! families {
    ($($kind:ident $name:literal $help:literal $({ $label:literal $(of $all:ident)?: })?
        $($value:literal)? $($counter:ident)? $([$($v:literal = $c:ident),+ $(,)?])?;)+) => {
        /// All of them.
        pub(super) const FAMILIES: &[Family] = &[$(Family {
            name: $name,
            help: $help,
            kind: Kind::$kind,
            label: families!(@label $($label)?),
            members: families!(@members $($counter)? $([$($v = $c),+])?),
            all: families!(@all $($($all)?)?),
        },)+];

        /// Does not compile if a counter is in no family.
        #[cfg(test)]
        fn is_shown(counter: Counter) -> bool {
            match counter {
                // They are shown by kind: see `kinds`.
                Counter::Violations
                | Counter::KeepAliveTimeouts
                | Counter::PermissionsEnded
                | Counter::ConnectsRefused
                | Counter::PacketsReceived
                | Counter::AnswersSent
                | Counter::PublishesReceived
                | Counter::PublishesSent
                | Counter::PublishesRefused => true,
                $($(Counter::$counter => true,)? $($(Counter::$c => true,)+)? $($(Counter::$all => true,)?)?)+
            }
        }
    };
    (@label $label:literal) => { Some($label) };
    (@label) => { None };
    (@members $counter:ident) => { &[("", Counter::$counter)] };
    (@members [$($v:literal = $c:ident),+]) => { &[$(($v, Counter::$c)),+] };
    (@all $all:ident) => { Some(Counter::$all) };
    (@all) => { None };
}

families! {
    Counter "midge_connections_opened" "Connections that the listeners have accepted" ConnectionsOpened;
    Counter "midge_connections_closed" "Connections closed, whatever the reason" ConnectionsClosed;
    Counter "midge_connections_turned_away" "Connections closed before a CONNECT because of [gate] or limits.connect_rate"
        { "reason": } ["rate" = TurnedAwayTooFast, "banned" = TurnedAwayBanned];
    Counter "midge_addresses_banned" "Addresses banned because of wrong logins or flapping" AddressesBanned;
    Gauge "midge_clients_connected" "Clients that are connected" ClientsConnected;
    Gauge "midge_sessions" "Sessions, connected or not" Sessions;
    Counter "midge_sessions_expired" "Sessions that ended because of their expiry interval" SessionsExpired;
    Counter "midge_sessions_taken_over" "Sessions taken over by a new connection" Takeovers;
    Counter "midge_connects_received" "CONNECT packets received" ConnectsReceived;
    Counter "midge_logins_failed" "CONNECT packets refused because of a wrong login" LoginsFailed;
    Counter "midge_logins_delayed" "Refusals of wrong logins that were delayed" RefusalsDelayed;
    Counter "midge_received_bytes" "Bytes received from clients" BytesReceived;
    Counter "midge_sent_bytes" "Bytes given to the sockets of clients" BytesSent;
    Counter "midge_messages_forwarded" "Messages forwarded to other shards" Forwarded;
    Counter "midge_messages_unrouted" "Messages of clients for which there was no subscription" Unrouted;
    Counter "midge_payload_received_bytes" "Bytes of application messages received" PublishBytesReceived;
    Counter "midge_payload_sent_bytes" "Bytes of application messages sent" PublishBytesSent;
    Counter "midge_messages_dropped" "Messages dropped for a client" { "reason" of PublishesDropped: } [
        "slow" = DroppedSlow,
        "queue_full" = DroppedQueueFull,
        "too_large" = DroppedTooLarge,
        "expired" = DroppedExpired,
        "denied" = DroppedDenied,
    ];
    Counter "midge_subscriptions_refused" "Topic filters of SUBSCRIBE packets refused" SubscriptionsRefused;
    Gauge "midge_subscriptions" "Subscriptions without shared ones" Subscriptions;
    Gauge "midge_shared_subscription_members" "Members of shared subscriptions" SharedSubscriptions;
    Gauge "midge_queued_messages" "Messages in the queues of sessions" MessagesQueued;
    Gauge "midge_queued_bytes" "Bytes in the queues of sessions" BytesQueued;
    Gauge "midge_unsent_publishes" "PUBLISH packets that sockets have not taken, approximately" PacketsWaiting;
    Gauge "midge_retained_messages" "Retained messages" Retained;
    Gauge "midge_retained_bytes" "Bytes of retained messages" RetainedBytes;
    Counter "midge_limit_reached" "How often a limit was reached: something was refused, closed, dropped or paused"
        { "limit": } [
        "connections" = LimitConnections,
        "handshakes" = LimitHandshakes,
        "handshakes_per_address" = LimitHandshakesPerAddress,
        "connect_bytes" = LimitConnectBytes,
        "connect_seconds" = LimitConnectSeconds,
        "packet_bytes" = LimitPacketBytes,
        "subscriptions_per_client" = LimitSubscriptions,
        "topic_levels" = LimitTopicLevels,
        "retained" = LimitRetained,
        "sessions" = LimitSessions,
        "backlog" = LimitBacklog,
        "mesh" = LimitMesh,
        "disk" = LimitDisk,
        "log" = LimitLog,
        "log_bytes" = LimitLogBytes,
        "answers" = LimitAnswers,
        "client_rate" = LimitClientRate,
        "listener_rate" = LimitListenerRate,
        "upload_bytes_per_second_min" = LimitUpload,
        "receive_maximum" = LimitReceiveMaximum,
        "memory" = LimitMemory,
    ];
    Gauge "midge_memory_bytes" "What clients make midge keep, as limits.memory_bytes counts it"
        { "kind": } [
        "messages" = MemoryMessages,
        "backlogs" = MemoryBacklogs,
        "packets" = MemoryPartial,
        "sessions" = MemorySessions,
        "subscriptions" = MemorySubscriptions,
        "wills" = MemoryWills,
        "aliases" = MemoryAliases,
        "retained" = MemoryRetained,
    ];
    Gauge "midge_memory_used_bytes" "What clients make midge keep, all kinds together" MemoryTotal;
}

const fn of_shard(
    name: &'static str,
    help: &'static str,
    kind: Kind,
    members: &'static [(&'static str, Counter)],
) -> Family {
    Family { name, help, kind, label: None, members, all: None }
}

/// Those that are also shown for each shard.
pub(super) const OF_SHARDS: &[Family] = &[
    of_shard("midge_shard_sessions", "Sessions of a shard", Kind::Gauge, &[("", Counter::Sessions)]),
    of_shard(
        "midge_shard_packets_received",
        "Control packets that a shard has received",
        Kind::Counter,
        &[("", Counter::PacketsReceived)],
    ),
    of_shard(
        "midge_shard_publishes_sent",
        "PUBLISH packets that a shard has sent",
        Kind::Counter,
        &[("", Counter::PublishesSent)],
    ),
    of_shard(
        "midge_shard_mesh_waits",
        "How often a shard has stopped reading because the box of another shard was full",
        Kind::Counter,
        &[("", Counter::LimitMesh)],
    ),
    of_shard(
        "midge_shard_memory_bytes",
        "What clients make a shard keep",
        Kind::Gauge,
        &[("", Counter::MemoryTotal)],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_follow_prometheus_and_no_counter_is_shown_twice() {
        let (mut names, mut counters) = (BTreeSet::new(), BTreeSet::new());
        for family in FAMILIES.iter().chain(OF_SHARDS) {
            assert!(names.insert(family.name), "{} is there twice", family.name);
            assert!(family.name.starts_with("midge_") && !family.name.ends_with("_total"), "{}", family.name);
            let is_plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(family.name.chars().all(is_plain), "{}", family.name);
            assert!(!family.help.is_empty() && !family.help.ends_with('.'), "{}", family.name);
            assert_eq!(family.label.is_some(), family.members.len() > 1, "{}", family.name);
        }
        for family in FAMILIES {
            for (_, counter) in family.members {
                assert!(is_shown(*counter) && counters.insert(*counter as usize), "{counter:?}");
            }
        }
    }
}
