//! `$SYS`: what the broker counts, under the names that operators know from mosquitto.

use super::Shard;
use super::counters::{Counter, Counters};
use super::deliver::Fanout;
use crate::message::Publication;
use crate::packet::QoS;
use crate::time::Time;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What stands behind a topic.
enum Source {
    /// The sum over the shards of a counter.
    Sum(Counter),
    /// Two counters together.
    Both(Counter, Counter),
    /// The difference of two sums.
    Difference(Counter, Counter),
    /// Text.
    Text(&'static str),
    /// Seconds since start.
    Uptime,
    /// The most sessions at any update.
    SessionsMaximum,
}

const TOPICS: &[(&str, Source)] = &[
    ("$SYS/broker/version", Source::Text(concat!("midge version ", env!("CARGO_PKG_VERSION")))),
    ("$SYS/broker/uptime", Source::Uptime),
    ("$SYS/broker/clients/connected", Source::Sum(Counter::ClientsConnected)),
    ("$SYS/broker/clients/active", Source::Sum(Counter::ClientsConnected)),
    ("$SYS/broker/clients/total", Source::Sum(Counter::Sessions)),
    ("$SYS/broker/clients/maximum", Source::SessionsMaximum),
    ("$SYS/broker/clients/disconnected", Source::Difference(Counter::Sessions, Counter::ClientsConnected)),
    ("$SYS/broker/clients/inactive", Source::Difference(Counter::Sessions, Counter::ClientsConnected)),
    ("$SYS/broker/clients/expired", Source::Sum(Counter::SessionsExpired)),
    // Ours alone: why clients lost their connections.
    ("$SYS/broker/clients/ended/taken_over", Source::Sum(Counter::Takeovers)),
    ("$SYS/broker/clients/ended/keep_alive", Source::Sum(Counter::KeepAliveTimeouts)),
    ("$SYS/broker/clients/ended/permission", Source::Sum(Counter::PermissionsEnded)),
    ("$SYS/broker/clients/ended/violation", Source::Sum(Counter::Violations)),
    ("$SYS/broker/messages/received", Source::Sum(Counter::PacketsReceived)),
    ("$SYS/broker/messages/sent", Source::Both(Counter::AnswersSent, Counter::PublishesSent)),
    ("$SYS/broker/messages/stored", Source::Sum(Counter::MessagesQueued)),
    ("$SYS/broker/store/messages/count", Source::Sum(Counter::MessagesQueued)),
    ("$SYS/broker/store/messages/bytes", Source::Sum(Counter::BytesQueued)),
    // Ours alone: mosquitto has no log.
    ("$SYS/broker/store/log/waits", Source::Sum(Counter::LimitLogBytes)),
    // Ours alone too: how often each limit was reached.
    ("$SYS/broker/limits/connections", Source::Sum(Counter::LimitConnections)),
    ("$SYS/broker/limits/handshakes", Source::Sum(Counter::LimitHandshakes)),
    ("$SYS/broker/limits/handshakes_per_address", Source::Sum(Counter::LimitHandshakesPerAddress)),
    ("$SYS/broker/limits/connect_bytes", Source::Sum(Counter::LimitConnectBytes)),
    ("$SYS/broker/limits/connect_seconds", Source::Sum(Counter::LimitConnectSeconds)),
    ("$SYS/broker/limits/sessions", Source::Sum(Counter::LimitSessions)),
    ("$SYS/broker/limits/packet_bytes", Source::Sum(Counter::LimitPacketBytes)),
    ("$SYS/broker/limits/upload_bytes_per_second_min", Source::Sum(Counter::LimitUpload)),
    ("$SYS/broker/limits/topic_levels", Source::Sum(Counter::LimitTopicLevels)),
    ("$SYS/broker/limits/subscriptions_per_client", Source::Sum(Counter::LimitSubscriptions)),
    ("$SYS/broker/limits/retained", Source::Sum(Counter::LimitRetained)),
    ("$SYS/broker/limits/receive_maximum", Source::Sum(Counter::LimitReceiveMaximum)),
    ("$SYS/broker/limits/disk", Source::Sum(Counter::LimitDisk)),
    ("$SYS/broker/limits/memory", Source::Sum(Counter::LimitMemory)),
    // What clients make the broker keep, by kind, as limits.memory_bytes counts it.
    ("$SYS/broker/memory/messages", Source::Sum(Counter::MemoryMessages)),
    ("$SYS/broker/memory/backlogs", Source::Sum(Counter::MemoryBacklogs)),
    ("$SYS/broker/memory/packets", Source::Sum(Counter::MemoryPartial)),
    ("$SYS/broker/memory/sessions", Source::Sum(Counter::MemorySessions)),
    ("$SYS/broker/memory/subscriptions", Source::Sum(Counter::MemorySubscriptions)),
    ("$SYS/broker/memory/wills", Source::Sum(Counter::MemoryWills)),
    ("$SYS/broker/memory/aliases", Source::Sum(Counter::MemoryAliases)),
    ("$SYS/broker/memory/retained", Source::Sum(Counter::MemoryRetained)),
    ("$SYS/broker/memory/total", Source::Sum(Counter::MemoryTotal)),
    // How often reading was stopped for each cause.
    ("$SYS/broker/limits/client_rate", Source::Sum(Counter::LimitClientRate)),
    ("$SYS/broker/limits/listener_rate", Source::Sum(Counter::LimitListenerRate)),
    ("$SYS/broker/limits/backlog", Source::Sum(Counter::LimitBacklog)),
    ("$SYS/broker/limits/answers", Source::Sum(Counter::LimitAnswers)),
    ("$SYS/broker/limits/log", Source::Sum(Counter::LimitLog)),
    ("$SYS/broker/limits/mesh", Source::Sum(Counter::LimitMesh)),
    ("$SYS/broker/publish/messages/received", Source::Sum(Counter::PublishesReceived)),
    ("$SYS/broker/publish/messages/sent", Source::Sum(Counter::PublishesSent)),
    ("$SYS/broker/publish/messages/dropped", Source::Sum(Counter::PublishesDropped)),
    ("$SYS/broker/publish/messages/dropped/slow", Source::Sum(Counter::DroppedSlow)),
    ("$SYS/broker/publish/messages/dropped/queue_full", Source::Sum(Counter::DroppedQueueFull)),
    ("$SYS/broker/publish/messages/dropped/too_large", Source::Sum(Counter::DroppedTooLarge)),
    ("$SYS/broker/publish/messages/dropped/expired", Source::Sum(Counter::DroppedExpired)),
    ("$SYS/broker/publish/messages/dropped/denied", Source::Sum(Counter::DroppedDenied)),
    ("$SYS/broker/publish/messages/refused", Source::Sum(Counter::PublishesRefused)),
    ("$SYS/broker/publish/messages/forwarded", Source::Sum(Counter::Forwarded)),
    ("$SYS/broker/publish/bytes/received", Source::Sum(Counter::PublishBytesReceived)),
    ("$SYS/broker/publish/bytes/sent", Source::Sum(Counter::PublishBytesSent)),
    ("$SYS/broker/bytes/received", Source::Sum(Counter::BytesReceived)),
    ("$SYS/broker/bytes/sent", Source::Sum(Counter::BytesSent)),
    ("$SYS/broker/subscriptions/count", Source::Sum(Counter::Subscriptions)),
    ("$SYS/broker/shared_subscriptions/count", Source::Sum(Counter::SharedSubscriptions)),
    ("$SYS/broker/retained messages/count", Source::Sum(Counter::Retained)),
    ("$SYS/broker/retained messages/bytes", Source::Sum(Counter::RetainedBytes)),
    (
        "$SYS/broker/connections/socket/count",
        Source::Difference(Counter::ConnectionsOpened, Counter::ConnectionsClosed),
    ),
    // Ours alone.
    ("$SYS/broker/connections/refused/connect", Source::Sum(Counter::ConnectsRefused)),
    ("$SYS/broker/connections/refused/rate", Source::Sum(Counter::TurnedAwayTooFast)),
    ("$SYS/broker/connections/refused/banned", Source::Sum(Counter::TurnedAwayBanned)),
    ("$SYS/broker/logins/failed", Source::Sum(Counter::LoginsFailed)),
    ("$SYS/broker/logins/delayed", Source::Sum(Counter::RefusalsDelayed)),
    ("$SYS/broker/addresses/banned", Source::Sum(Counter::AddressesBanned)),
];

/// What was last published, so that only changes are.
#[derive(Default)]
pub(super) struct SysState {
    started: Time,
    sessions_maximum: u64,
    last: Vec<String>,
}

/// What all shards have counted, under the names of `$SYS`, as lines for the log: one for each level below
/// `$SYS/broker`.
pub fn counted(counters: &[Counters]) -> Vec<String> {
    let total = |counter| total(counters, counter);
    let mut lines: BTreeMap<&str, String> = BTreeMap::new();
    for (topic, source) in TOPICS {
        let value = match *source {
            Source::Sum(counter) => total(counter),
            Source::Both(one, other) => total(one).wrapping_add(total(other)),
            Source::Difference(whole, part) => total(whole).saturating_sub(total(part)),
            Source::Text(_) | Source::Uptime | Source::SessionsMaximum => continue,
        };
        let name = topic.strip_prefix("$SYS/broker/").unwrap_or(topic);
        let (level, rest) = name.split_once('/').unwrap_or((name, ""));
        let line = lines.entry(level).or_insert_with(|| format!("{level}:"));
        let _ = write!(line, " {rest}={value}");
    }
    lines.into_values().collect()
}

fn total(counters: &[Counters], counter: Counter) -> u64 {
    counters.iter().fold(0, |sum: u64, counters| sum.wrapping_add(counters.get(counter)))
}

impl Shard {
    /// Publishes what has changed; all of it, and the start of the uptime, when `first`.
    pub(super) fn publish_sys(&mut self, now: Time, first: bool) {
        let mut state = std::mem::take(&mut self.sys);
        if first {
            state.started = now;
        }
        state.sessions_maximum = state.sessions_maximum.max(self.total(Counter::Sessions));
        state.last.resize(TOPICS.len(), String::new());
        for ((topic, source), last) in TOPICS.iter().zip(&mut state.last) {
            let value = match *source {
                Source::Sum(counter) => self.total(counter).to_string(),
                Source::Both(one, other) => self.total(one).wrapping_add(self.total(other)).to_string(),
                Source::Difference(whole, part) => {
                    self.total(whole).saturating_sub(self.total(part)).to_string()
                }
                Source::SessionsMaximum => state.sessions_maximum.to_string(),
                Source::Text(text) => text.to_owned(),
                Source::Uptime => format!("{} seconds", now.millis_since(state.started) / 1000),
            };
            if value == *last {
                continue;
            }
            let publication = Publication {
                topic,
                forward: [&[]; 3],
                payload: value.as_bytes(),
                qos: QoS::AtMostOnce,
                retain: true,
                expires_at: None,
                origin: None,
                stamp: self.next_stamp(now),
                source: &[],
            };
            self.publish(now, &mut Fanout::new(publication, now, 0));
            *last = value;
        }
        self.sys = state;
    }

    fn total(&self, counter: Counter) -> u64 {
        total(&self.shared.counters, counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::counters::ALL_COUNTERS;

    #[test]
    fn every_counter_is_told() {
        let is_told = |wanted: Counter| {
            TOPICS.iter().any(|(_, source)| match *source {
                Source::Sum(counter) => counter == wanted,
                Source::Both(one, other) | Source::Difference(one, other) => one == wanted || other == wanted,
                Source::Text(_) | Source::Uptime | Source::SessionsMaximum => false,
            })
        };
        let untold: Vec<_> = ALL_COUNTERS.iter().filter(|&&counter| !is_told(counter)).collect();
        assert!(untold.is_empty(), "{untold:?}");
    }
}
