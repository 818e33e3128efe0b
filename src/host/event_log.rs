//! Writes events to the log: one line each, with client and cause, at a limited rate.

mod lines;

use super::UNIX_PEER;
use crate::base::Time;
use crate::broker::{Away, EndCause, Event, LOGGED_CHARACTERS_MAX};
use crate::mqtt::{ProtocolVersion, QoS, Reason, SubscriptionId};
use crate::mqtt::{RetainHandling, SubscriptionOptions};
use crate::settings::Config;
use lines::{LeftOut, Lines};
use std::fmt;
use std::net::SocketAddr;
use tracing::level_filters::LevelFilter;

/// The largest number of lines per second and shard for events that a client can cause at will (refusals,
/// limits). Further ones are counted and reported in one line. Refused clients have a bound of their own.
const LINES_PER_SECOND: u64 = 20;

/// The largest number of lines per second for clients that connect, and for clients that disconnect. Normal
/// coming and going is logged completely, and a reconnect storm does not fill the disk.
const CONNECTION_LINES_PER_SECOND: u64 = 50;

/// At log level debug: subscriptions, and the subscribers that messages have matched.
const DETAIL_LINES_PER_SECOND: u64 = 1000;

/// The kinds of lines. Each has its own bound, so that no kind hides another.
#[derive(Clone, Copy)]
enum Kind {
    Connected,
    Disconnected,
    /// A flood of other lines must not hide a refusal.
    Refused,
    Others,
    Details,
}

/// Every kind with its name and its bound, in the order of the variants.
const KINDS: [(&str, u64); 5] = [
    ("client connected", CONNECTION_LINES_PER_SECOND),
    ("client disconnected", CONNECTION_LINES_PER_SECOND),
    ("connect refused", LINES_PER_SECOND),
    ("connections without a session, publish and subscribe refused, losses, limits", LINES_PER_SECOND),
    ("details", DETAIL_LINES_PER_SECOND),
];

/// Writes events to the log.
#[derive(Debug)]
pub(super) struct EventLog {
    /// By kind.
    lines: [Lines; KINDS.len()],
    /// The time at which suppressed lines may have to be reported.
    due: Time,
    /// The addresses of the listeners.
    listeners: Vec<String>,
}

impl EventLog {
    /// For the listeners of a configuration.
    pub(super) fn new(config: &Config) -> EventLog {
        let listeners = shown_listeners(config);
        let sums_up = config.log.storm_summary;
        let lines = KINDS.map(|(kind, per_second)| Lines::new(kind, per_second, sums_up));
        EventLog { lines, due: Time::MAX, listeners }
    }

    /// Takes over what the operator has changed.
    pub(super) fn change(&mut self, config: &Config) {
        self.listeners = shown_listeners(config);
        self.lines.iter_mut().for_each(|lines| lines.set_summary(config.log.storm_summary));
    }

    fn listener(&self, number: u16) -> &str {
        self.listeners.get(usize::from(number)).map_or("", String::as_str)
    }

    /// Whether events for log level debug are logged.
    pub(super) fn shows_detail() -> bool {
        LevelFilter::current() >= LevelFilter::DEBUG
    }

    /// The time at which [`EventLog::tell_left_out`] has something to report.
    pub(super) fn due(&self) -> Option<Time> {
        (self.due < Time::MAX).then_some(self.due)
    }

    /// Reports the suppressed lines of seconds that are over.
    pub(super) fn tell_left_out(&mut self, now: Time) {
        if now < self.due {
            return;
        }
        for lines in &mut self.lines {
            tell(lines.kind, lines.turn(now));
        }
        self.due = self.lines.iter().filter_map(Lines::due).min().unwrap_or(Time::MAX);
    }

    /// Reports the suppressed lines. No more lines follow.
    pub(super) fn close(&mut self) {
        for lines in &mut self.lines {
            tell(lines.kind, lines.close());
        }
    }

    pub(super) fn write(&mut self, now: Time, event: &Event) {
        let (kind, cause) = kind_of(event);
        let lines = &mut self.lines[kind as usize];
        tell(lines.kind, lines.turn(now));
        if lines.allows(cause) {
            return self.put(event);
        }
        self.due = lines.due().unwrap_or(Time::MAX).min(self.due);
    }

    /// Writes one line.
    fn put(&self, event: &Event) {
        match event {
            Event::Connected {
                client,
                user,
                peer,
                listener,
                version,
                keep_alive_seconds,
                clean_start,
                session_present,
                session_expiry_seconds,
            } => {
                let protocol = protocol(*version);
                tracing::info!(
                    client = shown(client),
                    user = user.as_deref().map(shown),
                    peer = %Shown(*peer),
                    listener = self.listener(*listener),
                    protocol,
                    keep_alive_seconds,
                    clean_start,
                    session_present,
                    session_expiry_seconds,
                    "client connected"
                );
            }
            Event::Disconnected { client, peer, user, listener, seconds, traffic, queued, cause } => {
                tracing::info!(
                    client = shown(client),
                    user = user.as_deref().map(shown),
                    peer = %Shown(*peer),
                    listener = self.listener(*listener),
                    seconds,
                    messages_in = traffic.messages_in,
                    bytes_in = traffic.bytes_in,
                    messages_out = traffic.messages_out,
                    bytes_out = traffic.bytes_out,
                    queued,
                    reason_code = cause.reason().map(Reason::code),
                    %cause,
                    "client disconnected"
                );
            }
            Event::Refused { client, peer, user, listener, violation } => {
                tracing::info!(
                    client = shown(client),
                    user = user.as_deref().map(shown),
                    peer = %Shown(*peer),
                    listener = self.listener(*listener),
                    reason_code = violation.reason.code(),
                    cause = %violation,
                    "connect refused"
                );
            }
            Event::ConnectionRefused { limit, peer, listener } => {
                tracing::warn!(
                    peer = %Shown(*peer),
                    listener = self.listener(*listener),
                    limit = limit.key(),
                    "limit reached: {}",
                    limit.consequence()
                );
            }
            Event::TurnedAway { network, cause: Away::Banned } => {
                tracing::warn!(address = %network, "connections of this address are closed: it is banned");
            }
            Event::TurnedAway { network, cause } => {
                tracing::warn!(
                    address = %network,
                    limit = cause.key(),
                    "limit reached: new connections of this address are closed"
                );
            }
            Event::Banned { network, by_failures, seconds } => {
                let cause = if *by_failures { "gate.ban_after_failures" } else { "gate.flap_connections" };
                tracing::warn!(address = %network, cause, seconds, "address is banned");
            }
            Event::Unconnected { peer, listener, cause } => {
                let listener = self.listener(*listener);
                tracing::info!(peer = %Shown(*peer), listener, %cause, "connection ended before a session began");
            }
            Event::PublishRefused { client, topic, rule, violation } => {
                tracing::info!(
                    client = shown(client),
                    topic = printable(topic),
                    rule = rule.as_ref().map(tracing::field::display),
                    reason_code = violation.reason.code(),
                    cause = %violation,
                    "publish refused"
                );
            }
            Event::SubscribeRefused { client, user, filter, rule, reason } => {
                tracing::info!(
                    client = shown(client),
                    user = user.as_deref().map(shown),
                    topic = printable(filter),
                    rule = rule.as_ref().map(tracing::field::display),
                    reason_code = reason.code(),
                    cause = reason.words(),
                    "subscribe refused"
                );
            }
            Event::Losses { client, is_back, losses, now_millis } => {
                let [queue_full, expired, too_large, withdrawn] = losses.counts();
                let times = losses.times();
                tracing::warn!(
                    client = shown(client),
                    queue_full,
                    expired,
                    too_large,
                    withdrawn,
                    first_seconds_ago = now_millis.saturating_sub(times.first_millis) / 1000,
                    last_seconds_ago = now_millis.saturating_sub(times.last_millis) / 1000,
                    "{}, and the session has lost messages",
                    if *is_back { "the client is back" } else { "the session has ended" }
                );
            }
            Event::DroppedForSlow { client, messages } => {
                tracing::warn!(
                    client = shown(client),
                    messages,
                    "QoS 0 messages were dropped while the client did not read"
                );
            }
            Event::LimitReached { limit, client } => {
                tracing::warn!(
                    client = shown(client),
                    limit = limit.key(),
                    "limit reached: {}",
                    limit.consequence()
                );
            }
            Event::MoreSubscribesRefused { client, user, filters } => {
                tracing::info!(
                    client = shown(client),
                    user = user.as_deref().map(shown),
                    filters,
                    "more topic filters of the same SUBSCRIBE were refused"
                );
            }
            Event::Subscribed { .. }
            | Event::Unsubscribed { .. }
            | Event::MoreUnsubscribed { .. }
            | Event::Matched { .. } => put_detail(event),
        }
    }
}

/// Writes one line of level debug.
fn put_detail(event: &Event) {
    match event {
        Event::Subscribed { client, filter, options, subscription_id, is_new } => {
            let SubscriptionOptions { qos, no_local, retain_as_published, retain_handling } = *options;
            tracing::debug!(
                client = shown(client),
                topic = shown(filter),
                qos = level(qos),
                no_local,
                retain_as_published,
                retain_handling = retain_handling_word(retain_handling),
                subscription_id = subscription_id.map(SubscriptionId::get),
                is_new,
                "subscribed"
            );
        }
        Event::Unsubscribed { client, filter } => {
            tracing::debug!(client = shown(client), topic = shown(filter), "subscription ended");
        }
        Event::MoreUnsubscribed { client, filters } => {
            tracing::debug!(client = shown(client), filters, "more subscriptions ended with the session");
        }
        Event::Matched { client, topic, qos, retain, shard, from, subscribers, groups } => {
            tracing::debug!(
                client = client.as_deref().map(shown),
                topic = shown(topic),
                qos = level(*qos),
                retain,
                shard,
                from_shard = from,
                subscribers,
                groups,
                "publish matched"
            );
        }
        _ => {}
    }
}

/// Reports the suppressed lines of a kind.
fn tell(kind: &str, left_out: Option<LeftOut>) {
    if let Some(left_out) = left_out {
        tracing::warn!(lines = left_out.lines, causes = %left_out, "log lines were left out: {kind}");
    }
}

/// The kind of an event's line, and the cause it is counted under if the line is suppressed.
fn kind_of(event: &Event) -> (Kind, &'static str) {
    match event {
        Event::Connected { session_present: true, .. } => (Kind::Connected, "session resumed"),
        Event::Connected { .. } => (Kind::Connected, "new session"),
        Event::Disconnected { cause, .. } => (Kind::Disconnected, cause.kind()),
        Event::Refused { violation, .. } => (Kind::Refused, violation.cause),
        Event::ConnectionRefused { limit, .. } | Event::LimitReached { limit, .. } => {
            (Kind::Others, limit.key())
        }
        Event::TurnedAway { cause, .. } => (Kind::Others, cause.key()),
        Event::Banned { .. } => (Kind::Others, "address is banned"),
        Event::Unconnected { cause: EndCause::Violation(_), .. } => {
            (Kind::Others, "connection without a session: violation")
        }
        Event::Unconnected { .. } => (Kind::Others, "connection without a session"),
        Event::PublishRefused { .. } => (Kind::Others, "publish refused"),
        Event::SubscribeRefused { .. } | Event::MoreSubscribesRefused { .. } => {
            (Kind::Others, "subscribe refused")
        }
        Event::Losses { .. } => (Kind::Others, "losses"),
        Event::DroppedForSlow { .. } => (Kind::Others, "QoS 0 messages dropped"),
        Event::Subscribed { .. } => (Kind::Details, "subscribed"),
        Event::Unsubscribed { .. } | Event::MoreUnsubscribed { .. } => (Kind::Details, "subscription ended"),
        Event::Matched { .. } => (Kind::Details, "publish matched"),
    }
}

fn level(qos: QoS) -> u8 {
    qos as u8
}

fn retain_handling_word(retain_handling: RetainHandling) -> &'static str {
    match retain_handling {
        RetainHandling::Always => "always",
        RetainHandling::IfNew => "if_new",
        RetainHandling::Never => "never",
    }
}

/// An address in the form that log lines use.
struct Shown(SocketAddr);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == UNIX_PEER { f.write_str("unix") } else { self.0.fmt(f) }
    }
}

/// The beginning of a client identifier, which may have 65,535 bytes. The decoder refuses control characters,
/// so it can't forge a line.
fn shown(client: &str) -> &str {
    match client.char_indices().nth(LOGGED_CHARACTERS_MAX) {
        Some((end, _)) => &client[..end],
        None => client,
    }
}

/// A text, or `None` if it is empty. Log lines leave out unknown texts.
fn printable(text: &str) -> Option<&str> {
    (!text.is_empty()).then(|| shown(text))
}

fn protocol(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V31 => "3.1",
        ProtocolVersion::V311 => "3.1.1",
        ProtocolVersion::V5 => "5.0",
    }
}

fn shown_listeners(config: &Config) -> Vec<String> {
    config.listeners.iter().map(|listener| listener.address.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Limit;

    fn limit(limit: Limit) -> Event {
        Event::LimitReached { limit, client: "client".into() }
    }

    #[test]
    fn a_flood_of_one_kind_hides_no_other_and_is_told_when_it_is_due() {
        let mut log = EventLog::new(&Config::default());
        let now = Time::from_millis(5000);
        assert_eq!(log.due(), None);
        for _ in 0..1000 {
            log.write(now, &limit(Limit::Sessions));
        }
        assert_eq!(log.due(), Some(Time::from_millis(6000)));
        for kind in [Kind::Connected, Kind::Disconnected, Kind::Refused, Kind::Details] {
            let lines = &mut log.lines[kind as usize];
            assert!(lines.turn(now).is_none() && lines.allows("a cause"), "{}", lines.kind);
        }
        log.tell_left_out(Time::from_millis(5999));
        assert!(log.due().is_some());
        log.tell_left_out(Time::from_millis(6000));
        assert_eq!(log.due(), None);
        assert_eq!(log.lines[Kind::Others as usize].close(), None, "they are told");
    }

    #[test]
    fn each_kind_has_its_name() {
        assert_eq!(KINDS[Kind::Refused as usize].0, "connect refused");
        assert_eq!(KINDS[Kind::Details as usize].0, "details");
    }
}
