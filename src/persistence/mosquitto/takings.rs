//! What was taken from a database of mosquitto, what was left out, and the texts for both.

use std::collections::BTreeMap;
use std::fmt;

/// The reason why something was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Left {
    /// The session has expired.
    SessionExpired,
    /// The session ends with its connection.
    SessionEnded,
    /// The session belongs to one of mosquitto's own bridges, in mosquitto itself.
    Bridge,
    /// The client identifier is invalid.
    ClientId,
    /// The topic filter or the options of a subscription are invalid.
    Filter,
    /// The topic name, the properties or the QoS of a message are invalid.
    Message,
    /// The queued message has expired.
    MessageExpired,
    /// The retained message has expired.
    RetainedExpired,
    /// The retained message belongs to the broker itself.
    Own,
    /// The queued message has QoS 0.
    QoS0,
    /// The client has no PUBREC for its message.
    Unacknowledged,
    /// The state of the message makes no sense.
    State,
    /// The item belongs to no session.
    Stray,
    /// The kind of a part of the file is unknown.
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

/// The counts of what was taken and what was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Takings {
    /// The number of retained messages.
    pub retained: u64,
    /// The number of sessions.
    pub sessions: u64,
    /// The number of their subscriptions.
    pub subscriptions: u64,
    /// The number of messages that are queued for a client.
    pub queued: u64,
    /// The number of messages that were sent to a client and are sent again with the same packet identifiers.
    pub sent: u64,
    /// The number of messages of QoS 2 that a client has. Only the end of their exchanges is missing.
    pub released: u64,
    /// The number of messages of QoS 2 from clients that wait for a PUBREL. midge forwards them at once, as
    /// mosquitto would have done after the PUBREL, and keeps their packet identifiers.
    pub held: u64,
    /// The number of deliveries of these to sessions.
    pub passed_on: u64,
    /// The number of items that were left out, by reason.
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
