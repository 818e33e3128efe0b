//! What was taken of a database of mosquitto, and what was left, in words.

use std::collections::BTreeMap;
use std::fmt;

/// Why something was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Left {
    /// A session is over.
    SessionExpired,
    /// A session lasts as long as its connection.
    SessionEnded,
    /// A session is that of a bridge of mosquitto's own, in mosquitto itself.
    Bridge,
    /// A client identifier is wrong.
    ClientId,
    /// A topic filter or the options of a subscription are wrong.
    Filter,
    /// The topic name, the properties or the QoS of a message are wrong.
    Message,
    /// A queued message has expired.
    MessageExpired,
    /// A retained message has expired.
    RetainedExpired,
    /// A retained message is the broker's own.
    Own,
    /// A message of QoS 0 waits.
    QoS0,
    /// A client has no PUBREC for its message.
    Unacknowledged,
    /// A message is in a state that makes no sense.
    State,
    /// Something belongs to no session.
    Stray,
    /// A part of the file is of a kind that is not known.
    Unknown,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Left::SessionExpired => "sessions: they have expired",
            Left::SessionEnded => "sessions: they end with their connection",
            Left::Bridge => {
                "sessions: they are those of mosquitto's own bridges (local.…), and no client comes back to them"
            }
            Left::ClientId => "sessions: their client identifiers are none that MQTT allows",
            Left::Filter => "subscriptions: their topic filters are none that MQTT allows",
            Left::Message => "messages: their topics or properties are none that MQTT allows",
            Left::MessageExpired => "queued messages: they have expired",
            Left::RetainedExpired => "retained messages: they have expired",
            Left::Own => "retained messages of $SYS: midge has its own",
            Left::QoS0 => "queued messages of QoS 0: midge keeps none of these over a restart",
            Left::Unacknowledged => {
                "messages of QoS 2 from clients: mosquitto has not acknowledged them, and the clients send them again"
            }
            Left::State => "messages: how far they have come makes no sense",
            Left::Stray => "messages and subscriptions: they belong to no kept session",
            Left::Unknown => "parts of the file: their kind is not known",
        })
    }
}

/// What was taken, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Takings {
    /// Retained messages.
    pub retained: u64,
    /// Sessions.
    pub sessions: u64,
    /// Their subscriptions.
    pub subscriptions: u64,
    /// Messages that wait for a client.
    pub queued: u64,
    /// Messages that were sent to a client, and are sent again with their packet identifiers.
    pub sent: u64,
    /// Messages of QoS 2 that a client has: only the end of their handshakes is missing.
    pub released: u64,
    /// Messages of QoS 2 from clients that wait for PUBREL. midge passes them on at once, as mosquitto would have done
    /// with PUBREL, and keeps their packet identifiers.
    pub held: u64,
    /// Deliveries of these to sessions.
    pub passed_on: u64,
    /// How much was left out, and why.
    pub left: BTreeMap<Left, u64>,
}

impl fmt::Display for Takings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "taken: {} retained messages", self.retained)?;
        writeln!(f, "taken: {} sessions", self.sessions)?;
        writeln!(f, "taken: {} subscriptions", self.subscriptions)?;
        writeln!(f, "taken: {} queued messages", self.queued)?;
        writeln!(
            f,
            "taken: {} messages on their way to clients, with their packet identifiers; of {} more of QoS 2 only the \
             end of the handshake is missing",
            self.sent, self.released
        )?;
        writeln!(
            f,
            "taken: {} messages of QoS 2 from clients that wait for PUBREL; they are passed on now, to {} sessions",
            self.held, self.passed_on
        )?;
        for (left, count) in &self.left {
            writeln!(f, "left out: {count} {left}")?;
        }
        writeln!(
            f,
            "not in the file: clean sessions; wills, which clients bring along; and shared subscriptions: their clients \
             must subscribe again, as after a restart of mosquitto"
        )
    }
}
