//! `$SYS`: the counts of the broker, with the names that operators know from mosquitto.
//!
//! This component owns the table of the topics, and the last published value of each. `docs/sys-topics.md`
//! tells operators what each one means, and a test compares it with the table. The input is counters and the
//! time, and the output is texts.

mod load;

use crate::base::{Time, TimerId};
use crate::broker::counters::{Counter, Counters};
use load::{Load, Span};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The source of a topic's value.
enum Source {
    /// The sum of a counter over the shards.
    Sum(Counter),
    /// The sum of two counters.
    Both(Counter, Counter),
    /// The difference of two sums.
    Difference(Counter, Counter),
    /// A fixed text.
    Text(&'static str),
    /// The seconds since the start.
    Uptime,
    /// The highest sum of a gauge at any update.
    Maximum(Counter),
    /// An average per minute.
    Load(Flow, Span),
}

/// The rates whose averages are in `$SYS/broker/load`.
#[derive(Clone, Copy)]
enum Flow {
    MessagesReceived,
    MessagesSent,
    PublishesDropped,
    PublishesReceived,
    PublishesSent,
    BytesReceived,
    BytesSent,
    Sockets,
    Connects,
}

/// Every flow, in order.
const FLOWS: [Flow; 9] = [
    Flow::MessagesReceived,
    Flow::MessagesSent,
    Flow::PublishesDropped,
    Flow::PublishesReceived,
    Flow::PublishesSent,
    Flow::BytesReceived,
    Flow::BytesSent,
    Flow::Sockets,
    Flow::Connects,
];

impl Flow {
    /// The counters whose sum it is.
    fn counters(self) -> &'static [Counter] {
        match self {
            Flow::MessagesReceived => &[Counter::PacketsReceived],
            Flow::MessagesSent => &[Counter::AnswersSent, Counter::PublishesSent],
            Flow::PublishesDropped => &[Counter::PublishesDropped],
            Flow::PublishesReceived => &[Counter::PublishesReceived],
            Flow::PublishesSent => &[Counter::PublishesSent],
            Flow::BytesReceived => &[Counter::BytesReceived],
            Flow::BytesSent => &[Counter::BytesSent],
            Flow::Sockets => &[Counter::ConnectionsOpened],
            Flow::Connects => &[Counter::ConnectsReceived],
        }
    }
}

const TOPICS: &[(&str, Source)] = &[
    ("$SYS/broker/version", Source::Text(concat!("midge version ", env!("CARGO_PKG_VERSION")))),
    ("$SYS/broker/uptime", Source::Uptime),
    ("$SYS/broker/clients/connected", Source::Sum(Counter::ClientsConnected)),
    ("$SYS/broker/clients/active", Source::Sum(Counter::ClientsConnected)),
    ("$SYS/broker/clients/total", Source::Sum(Counter::Sessions)),
    ("$SYS/broker/clients/maximum", Source::Maximum(Counter::Sessions)),
    ("$SYS/broker/clients/disconnected", Source::Difference(Counter::Sessions, Counter::ClientsConnected)),
    ("$SYS/broker/clients/inactive", Source::Difference(Counter::Sessions, Counter::ClientsConnected)),
    ("$SYS/broker/clients/expired", Source::Sum(Counter::SessionsExpired)),
    // Only midge has these: why clients lost their connections.
    ("$SYS/broker/clients/ended/taken_over", Source::Sum(Counter::Takeovers)),
    ("$SYS/broker/clients/ended/keep_alive", Source::Sum(Counter::KeepAliveTimeouts)),
    ("$SYS/broker/clients/ended/permission", Source::Sum(Counter::PermissionsEnded)),
    ("$SYS/broker/clients/ended/violation", Source::Sum(Counter::Violations)),
    ("$SYS/broker/messages/received", Source::Sum(Counter::PacketsReceived)),
    ("$SYS/broker/messages/sent", Source::Both(Counter::AnswersSent, Counter::PublishesSent)),
    ("$SYS/broker/messages/stored", Source::Sum(Counter::MessagesQueued)),
    ("$SYS/broker/store/messages/count", Source::Sum(Counter::MessagesQueued)),
    ("$SYS/broker/store/messages/bytes", Source::Sum(Counter::BytesQueued)),
    // Only midge has this: mosquitto has no log.
    ("$SYS/broker/store/log/waits", Source::Sum(Counter::LimitLogBytes)),
    // Only midge has these: how often each limit was reached.
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
    // The memory that clients make the broker keep, by kind, as limits.memory_bytes counts it.
    ("$SYS/broker/memory/messages", Source::Sum(Counter::MemoryMessages)),
    ("$SYS/broker/memory/backlogs", Source::Sum(Counter::MemoryBacklogs)),
    ("$SYS/broker/memory/packets", Source::Sum(Counter::MemoryPartial)),
    ("$SYS/broker/memory/sessions", Source::Sum(Counter::MemorySessions)),
    ("$SYS/broker/memory/subscriptions", Source::Sum(Counter::MemorySubscriptions)),
    ("$SYS/broker/memory/wills", Source::Sum(Counter::MemoryWills)),
    ("$SYS/broker/memory/aliases", Source::Sum(Counter::MemoryAliases)),
    ("$SYS/broker/memory/retained", Source::Sum(Counter::MemoryRetained)),
    ("$SYS/broker/memory/total", Source::Sum(Counter::MemoryTotal)),
    // How often reading was stopped, by reason.
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
    ("$SYS/broker/publish/messages/unrouted", Source::Sum(Counter::Unrouted)),
    ("$SYS/broker/publish/messages/forwarded", Source::Sum(Counter::Forwarded)),
    ("$SYS/broker/publish/bytes/received", Source::Sum(Counter::PublishBytesReceived)),
    ("$SYS/broker/publish/bytes/sent", Source::Sum(Counter::PublishBytesSent)),
    ("$SYS/broker/bytes/received", Source::Sum(Counter::BytesReceived)),
    ("$SYS/broker/bytes/sent", Source::Sum(Counter::BytesSent)),
    ("$SYS/broker/subscriptions/count", Source::Sum(Counter::Subscriptions)),
    ("$SYS/broker/subscriptions/refused", Source::Sum(Counter::SubscriptionsRefused)),
    ("$SYS/broker/shared_subscriptions/count", Source::Sum(Counter::SharedSubscriptions)),
    ("$SYS/broker/retained messages/count", Source::Sum(Counter::Retained)),
    ("$SYS/broker/retained messages/bytes", Source::Sum(Counter::RetainedBytes)),
    ("$SYS/broker/packet/out/count", Source::Sum(Counter::PacketsWaiting)),
    ("$SYS/broker/packet/out/bytes", Source::Sum(Counter::MemoryBacklogs)),
    ("$SYS/broker/heap/current", Source::Sum(Counter::MemoryTotal)),
    ("$SYS/broker/heap/maximum", Source::Maximum(Counter::MemoryTotal)),
    ("$SYS/broker/load/messages/received/1min", Source::Load(Flow::MessagesReceived, Span::One)),
    ("$SYS/broker/load/messages/received/5min", Source::Load(Flow::MessagesReceived, Span::Five)),
    ("$SYS/broker/load/messages/received/15min", Source::Load(Flow::MessagesReceived, Span::Fifteen)),
    ("$SYS/broker/load/messages/sent/1min", Source::Load(Flow::MessagesSent, Span::One)),
    ("$SYS/broker/load/messages/sent/5min", Source::Load(Flow::MessagesSent, Span::Five)),
    ("$SYS/broker/load/messages/sent/15min", Source::Load(Flow::MessagesSent, Span::Fifteen)),
    ("$SYS/broker/load/publish/dropped/1min", Source::Load(Flow::PublishesDropped, Span::One)),
    ("$SYS/broker/load/publish/dropped/5min", Source::Load(Flow::PublishesDropped, Span::Five)),
    ("$SYS/broker/load/publish/dropped/15min", Source::Load(Flow::PublishesDropped, Span::Fifteen)),
    ("$SYS/broker/load/publish/received/1min", Source::Load(Flow::PublishesReceived, Span::One)),
    ("$SYS/broker/load/publish/received/5min", Source::Load(Flow::PublishesReceived, Span::Five)),
    ("$SYS/broker/load/publish/received/15min", Source::Load(Flow::PublishesReceived, Span::Fifteen)),
    ("$SYS/broker/load/publish/sent/1min", Source::Load(Flow::PublishesSent, Span::One)),
    ("$SYS/broker/load/publish/sent/5min", Source::Load(Flow::PublishesSent, Span::Five)),
    ("$SYS/broker/load/publish/sent/15min", Source::Load(Flow::PublishesSent, Span::Fifteen)),
    ("$SYS/broker/load/bytes/received/1min", Source::Load(Flow::BytesReceived, Span::One)),
    ("$SYS/broker/load/bytes/received/5min", Source::Load(Flow::BytesReceived, Span::Five)),
    ("$SYS/broker/load/bytes/received/15min", Source::Load(Flow::BytesReceived, Span::Fifteen)),
    ("$SYS/broker/load/bytes/sent/1min", Source::Load(Flow::BytesSent, Span::One)),
    ("$SYS/broker/load/bytes/sent/5min", Source::Load(Flow::BytesSent, Span::Five)),
    ("$SYS/broker/load/bytes/sent/15min", Source::Load(Flow::BytesSent, Span::Fifteen)),
    ("$SYS/broker/load/sockets/1min", Source::Load(Flow::Sockets, Span::One)),
    ("$SYS/broker/load/sockets/5min", Source::Load(Flow::Sockets, Span::Five)),
    ("$SYS/broker/load/sockets/15min", Source::Load(Flow::Sockets, Span::Fifteen)),
    ("$SYS/broker/load/connections/1min", Source::Load(Flow::Connects, Span::One)),
    ("$SYS/broker/load/connections/5min", Source::Load(Flow::Connects, Span::Five)),
    ("$SYS/broker/load/connections/15min", Source::Load(Flow::Connects, Span::Fifteen)),
    // The total since the start.
    ("$SYS/broker/connections/socket/count", Source::Sum(Counter::ConnectionsOpened)),
    // Only midge has this: the connections that are open.
    (
        "$SYS/broker/connections/open",
        Source::Difference(Counter::ConnectionsOpened, Counter::ConnectionsClosed),
    ),
    ("$SYS/broker/connections/refused/connect", Source::Sum(Counter::ConnectsRefused)),
    ("$SYS/broker/connections/refused/rate", Source::Sum(Counter::TurnedAwayTooFast)),
    ("$SYS/broker/connections/refused/banned", Source::Sum(Counter::TurnedAwayBanned)),
    ("$SYS/broker/logins/failed", Source::Sum(Counter::LoginsFailed)),
    ("$SYS/broker/logins/delayed", Source::Sum(Counter::RefusalsDelayed)),
    ("$SYS/broker/addresses/banned", Source::Sum(Counter::AddressesBanned)),
];

/// The last published values, so that only changes are published.
#[derive(Default)]
pub(in crate::broker) struct Sys {
    started: Time,
    updated: Time,
    loads: [Load; FLOWS.len()],
    /// In the order of the table.
    last: Vec<Last>,
    /// Runs until the next update.
    timer: Option<TimerId>,
}

/// The values of one topic.
#[derive(Clone, Default)]
struct Last {
    value: String,
    highest: u64,
}

impl Sys {
    /// The number of topics.
    pub(in crate::broker) const TOPICS: usize = TOPICS.len();

    /// Starts the clock of the uptime.
    pub(in crate::broker) fn start(&mut self, now: Time) {
        (self.started, self.updated) = (now, now);
    }

    /// The timer of the next update.
    pub(in crate::broker) fn timer(&mut self) -> &mut Option<TimerId> {
        &mut self.timer
    }

    /// Forgets what was published, and returns the topics that have a value.
    pub(in crate::broker) fn withdraw(&mut self) -> Vec<&'static str> {
        let last = std::mem::take(&mut self.last);
        let has_value = last.into_iter().zip(TOPICS).filter(|(last, _)| !last.value.is_empty());
        has_value.map(|(_, (topic, _))| *topic).collect()
    }

    /// Begins another update.
    pub(in crate::broker) fn update(&mut self, now: Time, counters: &[Counters]) {
        self.update_loads(now, counters);
        self.last.resize(TOPICS.len(), Last::default());
    }

    /// A topic and its present value, if it has changed since the last call for this topic.
    pub(in crate::broker) fn changed(
        &mut self,
        at: usize,
        now: Time,
        counters: &[Counters],
    ) -> Option<(&'static str, &str)> {
        let value = self.value(at, now, counters);
        if value == self.last[at].value {
            return None;
        }
        self.last[at].value = value;
        Some((TOPICS[at].0, &self.last[at].value))
    }

    /// The present value of a topic.
    fn value(&mut self, at: usize, now: Time, counters: &[Counters]) -> String {
        match TOPICS[at].1 {
            Source::Text(text) => text.to_owned(),
            Source::Uptime => format!("{} seconds", now.millis_since(self.started) / 1000),
            Source::Load(flow, span) => format!("{:.2}", self.loads[flow as usize].per_minute(span)),
            Source::Maximum(gauge) => {
                let highest = &mut self.last[at].highest;
                *highest = total(counters, gauge).max(*highest);
                highest.to_string()
            }
            ref source => sum(source, counters).map_or_else(String::new, |sum| sum.to_string()),
        }
    }

    fn update_loads(&mut self, now: Time, counters: &[Counters]) {
        let seconds = now.micros_since(self.updated) as f64 / 1e6;
        self.updated = now;
        for (load, flow) in self.loads.iter_mut().zip(FLOWS) {
            load.update(seconds, totals(counters, flow.counters()));
        }
    }
}

/// The counts of all shards with the names of `$SYS`, as lines for the log: one for each level below
/// `$SYS/broker`.
pub fn counted(counters: &[Counters]) -> Vec<String> {
    let mut lines: BTreeMap<&str, String> = BTreeMap::new();
    for (topic, source) in TOPICS {
        let Some(value) = sum(source, counters) else { continue };
        let name = topic.strip_prefix("$SYS/broker/").unwrap_or(topic);
        let (level, rest) = name.split_once('/').unwrap_or((name, ""));
        let line = lines.entry(level).or_insert_with(|| format!("{level}:"));
        let _ = write!(line, " {rest}={value}");
    }
    lines.into_values().collect()
}

/// The value of a count. `None` for a value that also depends on the time.
fn sum(source: &Source, counters: &[Counters]) -> Option<u64> {
    match *source {
        Source::Sum(counter) => Some(total(counters, counter)),
        Source::Both(one, other) => Some(totals(counters, &[one, other])),
        Source::Difference(whole, part) => Some(total(counters, whole).saturating_sub(total(counters, part))),
        Source::Text(_) | Source::Uptime | Source::Maximum(_) | Source::Load(..) => None,
    }
}

fn totals(counters: &[Counters], of: &[Counter]) -> u64 {
    of.iter().fold(0, |sum: u64, &counter| sum.wrapping_add(total(counters, counter)))
}

fn total(counters: &[Counters], counter: Counter) -> u64 {
    counters.iter().fold(0, |sum: u64, counters| sum.wrapping_add(counters.get(counter)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::counters::ALL_COUNTERS;
    use std::collections::BTreeSet;

    #[test]
    fn every_counter_is_published() {
        let is_published = |wanted: Counter| {
            TOPICS.iter().any(|(_, source)| match *source {
                Source::Sum(counter) | Source::Maximum(counter) => counter == wanted,
                Source::Both(one, other) | Source::Difference(one, other) => one == wanted || other == wanted,
                Source::Load(flow, _) => flow.counters().contains(&wanted),
                Source::Text(_) | Source::Uptime => false,
            })
        };
        let unpublished: Vec<_> = ALL_COUNTERS.iter().filter(|&&counter| !is_published(counter)).collect();
        assert!(unpublished.is_empty(), "{unpublished:?}");
    }

    /// The rows of its tables: `` | `topic` | meaning | ``.
    fn documented() -> Vec<(&'static str, &'static str)> {
        let rows =
            include_str!("../../../../docs/sys-topics.md").lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| {
            let mut cells = row.split('|').map(str::trim).skip(1);
            let (topic, meaning) = (cells.next().unwrap_or(""), cells.next().unwrap_or(""));
            (topic.trim_matches('`'), meaning)
        })
        .collect()
    }

    #[test]
    fn every_topic_has_its_row_in_the_document_and_every_row_its_topic() {
        let rows = documented();
        for (topic, meaning) in &rows {
            assert!(meaning.len() > 10, "{topic} means {meaning:?}");
        }
        let documented: BTreeSet<&str> = rows.iter().map(|&(topic, _)| topic).collect();
        assert_eq!(documented.len(), rows.len(), "a topic has one row");
        let published: BTreeSet<&str> =
            TOPICS.iter().map(|(topic, _)| topic.strip_prefix("$SYS/broker/").expect("ours")).collect();
        assert_eq!(published.len(), TOPICS.len());
        let without: Vec<_> = published.difference(&documented).collect();
        assert!(without.is_empty(), "no row in docs/sys-topics.md: {without:?}");
        let without: Vec<_> = documented.difference(&published).collect();
        assert!(without.is_empty(), "rows of docs/sys-topics.md without a topic: {without:?}");
    }

    #[test]
    fn averages_exist_of_each_flow_over_each_span() {
        for (at, flow) in FLOWS.into_iter().enumerate() {
            assert_eq!(flow as usize, at);
            let spans = TOPICS.iter().filter(|(_, source)| match source {
                Source::Load(of, _) => *of as usize == at,
                _ => false,
            });
            assert_eq!(spans.count(), 3);
        }
    }
}
