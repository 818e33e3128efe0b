//! Events as log lines: one line each, client and cause, and never a flood.

use super::event::{Away, CHARACTERS_TOLD, Event};
use crate::config::Config;
use crate::driver::UNIX_PEER;
use crate::packet::{ProtocolVersion, Reason};
use crate::time::Time;
use std::fmt;
use std::net::SocketAddr;

/// Lines of a kind that a client can bring about at will (refusals, limits) are written this
/// often per second and shard; the rest is counted and told in one line. Refused clients have as many of their own.
const LINES_PER_SECOND: u32 = 20;

/// Clients that come and clients that go have so many each: a fleet that comes and goes all day is told of, and a storm
/// fills no disk.
const CONNECTION_LINES_PER_SECOND: u32 = 50;

const CONNECTED: &str = "client connected";
const DISCONNECTED: &str = "client disconnected";
const REFUSED: &str = "connect refused";
const OTHERS: &str = "connections without a session, publish and subscribe refused, losses, limits";

/// Writes events to the log.
#[derive(Debug)]
pub(super) struct EventLog {
    connected: Budget,
    disconnected: Budget,
    /// A flood of other lines hides no refusal.
    refusals: Budget,
    others: Budget,
    /// The addresses of the listeners.
    listeners: Vec<String>,
}

/// Lines of a kind: so many in a second.
#[derive(Debug)]
struct Budget {
    kind: &'static str,
    lines_per_second: u32,
    window: Time,
    written: u32,
    left_out: u64,
}

impl Default for EventLog {
    fn default() -> EventLog {
        EventLog {
            connected: Budget::new(CONNECTED, CONNECTION_LINES_PER_SECOND),
            disconnected: Budget::new(DISCONNECTED, CONNECTION_LINES_PER_SECOND),
            refusals: Budget::new(REFUSED, LINES_PER_SECOND),
            others: Budget::new(OTHERS, LINES_PER_SECOND),
            listeners: Vec::new(),
        }
    }
}

impl EventLog {
    /// For the listeners of a configuration.
    pub(super) fn new(config: &Config) -> EventLog {
        let listeners = config.listeners.iter().map(|listener| listener.address.to_string()).collect();
        EventLog { listeners, ..EventLog::default() }
    }

    fn listener(&self, number: u16) -> &str {
        self.listeners.get(usize::from(number)).map_or("", String::as_str)
    }

    /// No more lines come: says what was left out.
    pub(super) fn close(&mut self) {
        for budget in [&mut self.connected, &mut self.disconnected, &mut self.refusals, &mut self.others] {
            budget.tell_left_out();
        }
    }

    pub(super) fn write(&mut self, now: Time, event: &Event) {
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
            } if self.connected.allows(now) => {
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
            Event::Disconnected { client, peer, user, listener, seconds, traffic, queued, cause }
                if self.disconnected.allows(now) =>
            {
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
            Event::Refused { client, peer, user, listener, violation } if self.refusals.allows(now) => {
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
            Event::ConnectionRefused { limit, peer, listener } if self.others.allows(now) => {
                tracing::warn!(
                    peer = %Shown(*peer),
                    listener = self.listener(*listener),
                    limit = limit.key(),
                    "limit reached: {}",
                    limit.consequence()
                );
            }
            Event::TurnedAway { network, cause: Away::Banned } if self.others.allows(now) => {
                tracing::warn!(address = %network, "connections of this address are closed: it is banned");
            }
            Event::TurnedAway { network, cause } if self.others.allows(now) => {
                let limit = match cause {
                    Away::Handshakes => "limits.handshakes_per_address",
                    Away::TooFast | Away::Banned => "limits.connect_rate",
                };
                tracing::warn!(
                    address = %network,
                    limit,
                    "limit reached: new connections of this address are closed"
                );
            }
            Event::Banned { network, by_failures, seconds } if self.others.allows(now) => {
                let cause = if *by_failures { "gate.ban_after_failures" } else { "gate.flap_connections" };
                tracing::warn!(address = %network, cause, seconds, "address is banned");
            }
            Event::Unconnected { peer, listener, cause } if self.others.allows(now) => {
                let listener = self.listener(*listener);
                tracing::info!(peer = %Shown(*peer), listener, %cause, "connection ended before a session began");
            }
            Event::PublishRefused { client, topic, rule, violation } if self.others.allows(now) => {
                tracing::info!(
                    client = shown(client),
                    topic = told(topic),
                    rule = rule.as_ref().map(tracing::field::display),
                    reason_code = violation.reason.code(),
                    cause = %violation,
                    "publish refused"
                );
            }
            Event::SubscribeRefused { client, user, filter, rule, reason } if self.others.allows(now) => {
                tracing::info!(
                    client = shown(client),
                    user = user.as_deref().map(shown),
                    topic = told(filter),
                    rule = rule.as_ref().map(tracing::field::display),
                    reason_code = reason.code(),
                    cause = reason.words(),
                    "subscribe refused"
                );
            }
            Event::Losses { client, is_back, losses, now_millis } if self.others.allows(now) => {
                let [queue_full, expired, too_large, withdrawn] = losses.counts();
                let (first, last) = losses.times_millis();
                tracing::warn!(
                    client = shown(client),
                    queue_full,
                    expired,
                    too_large,
                    withdrawn,
                    first_seconds_ago = now_millis.saturating_sub(first) / 1000,
                    last_seconds_ago = now_millis.saturating_sub(last) / 1000,
                    "{}, and the session has lost messages",
                    if *is_back { "the client is back" } else { "the session has ended" }
                );
            }
            Event::DroppedForSlow { client, messages } if self.others.allows(now) => {
                tracing::warn!(
                    client = shown(client),
                    messages,
                    "QoS 0 messages were dropped while the client did not read"
                );
            }
            Event::LimitReached { limit, client } if self.others.allows(now) => {
                tracing::warn!(
                    client = shown(client),
                    limit = limit.key(),
                    "limit reached: {}",
                    limit.consequence()
                );
            }
            Event::Connected { .. }
            | Event::Disconnected { .. }
            | Event::Refused { .. }
            | Event::TurnedAway { .. }
            | Event::Banned { .. }
            | Event::Unconnected { .. }
            | Event::ConnectionRefused { .. }
            | Event::PublishRefused { .. }
            | Event::SubscribeRefused { .. }
            | Event::Losses { .. }
            | Event::DroppedForSlow { .. }
            | Event::LimitReached { .. } => {}
        }
    }
}

impl Budget {
    fn new(kind: &'static str, lines_per_second: u32) -> Budget {
        Budget { kind, lines_per_second, window: Time::ZERO, written: 0, left_out: 0 }
    }

    /// May one more line be written? How many could not, is told in the first second that has room again.
    fn allows(&mut self, now: Time) -> bool {
        if now.millis_since(self.window) >= 1000 {
            self.window = now;
            self.written = 0;
            self.tell_left_out();
        }
        self.written += 1;
        let may = self.written <= self.lines_per_second;
        self.left_out += u64::from(!may);
        may
    }

    fn tell_left_out(&mut self) {
        if self.left_out > 0 {
            let kind = self.kind;
            tracing::warn!(lines = self.left_out, "log lines were left out: {kind}");
            self.left_out = 0;
        }
    }
}

/// An address as log lines have it.
struct Shown(SocketAddr);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == UNIX_PEER { f.write_str("unix") } else { self.0.fmt(f) }
    }
}

/// A client identifier may have 65,535 bytes; a log line shows the beginning. Control characters
/// never got past the decoder, so it can't forge a line.
fn shown(client: &str) -> &str {
    match client.char_indices().nth(CHARACTERS_TOLD) {
        Some((end, _)) => &client[..end],
        None => client,
    }
}

/// A text that is not known is left out.
fn told(text: &str) -> Option<&str> {
    (!text.is_empty()).then(|| shown(text))
}

fn protocol(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V31 => "3.1",
        ProtocolVersion::V311 => "3.1.1",
        ProtocolVersion::V5 => "5.0",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_some_lines_a_second_and_counted() {
        let mut budget = Budget::new("of a kind", LINES_PER_SECOND);
        let mut flood = |now| (0..100).filter(|_| budget.allows(Time::ZERO.after_millis(now))).count();
        assert_eq!([0, 999, 1000, 5000].map(&mut flood), [20, 0, 20, 20]);
        assert_eq!(budget.left_out, 80);
    }

    #[test]
    fn a_storm_of_connections_hides_no_disconnect_and_neither_hides_a_refusal() {
        let mut log = EventLog::default();
        let connected = (0..1000).filter(|_| log.connected.allows(Time::ZERO)).count();
        let disconnected = (0..1000).filter(|_| log.disconnected.allows(Time::ZERO)).count();
        let lines = CONNECTION_LINES_PER_SECOND as usize;
        assert_eq!((connected, disconnected), (lines, lines));
        assert!(log.refusals.allows(Time::ZERO) && log.others.allows(Time::ZERO));
        log.close();
        assert_eq!(log.connected.left_out, 0, "they are told");
    }
}
