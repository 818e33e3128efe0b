//! Why a connection ends or is not admitted: the words of the log line, the reason code that is sent, and the counter.

use crate::broker::{Counter, Violation};
use crate::mqtt::Reason;
use std::fmt;

/// How the peer left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hangup {
    /// It closed.
    Closed,
    /// It reset the connection.
    Reset,
    /// What lies below MQTT (PROXY header, TLS, WebSocket) has failed, in words.
    Transport(Box<str>),
    /// Another error of the socket (errno).
    Error(i32),
    /// It does not read, and its backlog has reached the driver's bound.
    BacklogFull,
}

impl fmt::Display for Hangup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hangup::Closed => f.write_str("connection closed by the client without DISCONNECT"),
            Hangup::Reset => f.write_str("connection reset by the client"),
            Hangup::Transport(words) => f.write_str(words),
            Hangup::BacklogFull => {
                f.write_str("connection ended: the client does not read (limits.backlog_bytes)")
            }
            Hangup::Error(errno) => {
                write!(f, "connection lost: {}", std::io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// DISCONNECT from the client.
    Disconnect(Reason),
    /// The peer went away.
    Hangup(Hangup),
    /// The peer broke a rule.
    Violation(Violation),
    /// Nothing came for one and a half times the keep alive. `[MQTT5-3.1.2-22]`
    KeepAlive,
    /// Only a part of a packet came, too slowly.
    SlowPacket,
    /// The proof with which the client connected, for example a token, has expired.
    PermissionEnded,
    /// The user's line in the password file has changed or was removed since the client connected.
    Revoked,
    /// No CONNECT came in time.
    ConnectTimeout,
    /// The client identifier connected again. `[MQTT5-3.1.4-3]`
    TakenOver,
    /// The broker stops.
    Shutdown,
    /// Its address was added to the list of banned addresses.
    Banned,
    /// An operator has disconnected it.
    Operator,
    /// An operator lets all clients go. The reason code of its DISCONNECT.
    Drained(Reason),
    /// Its listener was removed from the configuration.
    ListenerRemoved,
    /// Refused at CONNECT. `Event::Refused` says why.
    Refused,
}

impl EndCause {
    /// The reason code of the DISCONNECT that a 5.0 client gets. `None` if it gets no DISCONNECT.
    pub fn reason_sent(&self) -> Option<Reason> {
        match self {
            EndCause::Violation(violation) => Some(violation.reason),
            EndCause::KeepAlive | EndCause::SlowPacket => Some(Reason::KeepAliveTimeout),
            EndCause::PermissionEnded => Some(Reason::MaximumConnectTime),
            EndCause::Revoked => Some(Reason::NotAuthorized),
            EndCause::TakenOver => Some(Reason::SessionTakenOver),
            EndCause::Shutdown => Some(Reason::ServerShuttingDown),
            EndCause::Drained(reason) => Some(*reason),
            // [MQTT5-3.14.2-1]: DISCONNECT has no 0x8A.
            EndCause::Banned | EndCause::Operator | EndCause::ListenerRemoved => {
                Some(Reason::AdministrativeAction)
            }
            EndCause::Disconnect(_) | EndCause::Hangup(_) | EndCause::ConnectTimeout | EndCause::Refused => {
                None
            }
        }
    }

    /// The reason code of the DISCONNECT that was sent or received.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            EndCause::Disconnect(reason) => Some(*reason),
            other => other.reason_sent(),
        }
    }

    /// The causes in single words, for metrics. What is not in it does not change without need.
    pub const LABELS: [&str; 19] = [
        "disconnect",
        "closed",
        "reset",
        "transport",
        "socket_error",
        "not_reading",
        "protocol",
        "keep_alive",
        "slow_packet",
        "login_expired",
        "login_revoked",
        "no_connect",
        "taken_over",
        "shutdown",
        "banned",
        "operator",
        "refused",
        "drained",
        "listener_removed",
    ];

    /// The place of the cause in [`EndCause::LABELS`].
    pub fn place(&self) -> usize {
        match self {
            EndCause::Disconnect(_) => 0,
            EndCause::Hangup(Hangup::Closed) => 1,
            EndCause::Hangup(Hangup::Reset) => 2,
            EndCause::Hangup(Hangup::Transport(_)) => 3,
            EndCause::Hangup(Hangup::Error(_)) => 4,
            EndCause::Hangup(Hangup::BacklogFull) => 5,
            EndCause::Violation(_) => 6,
            EndCause::KeepAlive => 7,
            EndCause::SlowPacket => 8,
            EndCause::PermissionEnded => 9,
            EndCause::Revoked => 10,
            EndCause::ConnectTimeout => 11,
            EndCause::TakenOver => 12,
            EndCause::Shutdown => 13,
            EndCause::Banned => 14,
            EndCause::Operator => 15,
            EndCause::Refused => 16,
            EndCause::Drained(_) => 17,
            EndCause::ListenerRemoved => 18,
        }
    }

    /// The cause in a few fixed words. Summaries of many causes count by these words.
    pub fn kind(&self) -> &'static str {
        match self {
            EndCause::Disconnect(_) => "DISCONNECT from the client",
            EndCause::Hangup(Hangup::Closed) => "closed without DISCONNECT",
            EndCause::Hangup(Hangup::Reset) => "reset by the client",
            EndCause::Hangup(Hangup::Transport(_)) => "TLS, WebSocket or PROXY header failed",
            EndCause::Hangup(Hangup::Error(_)) => "connection lost",
            EndCause::Hangup(Hangup::BacklogFull) => "the client does not read",
            EndCause::Violation(violation) => violation.cause,
            EndCause::KeepAlive => "keep alive timeout",
            EndCause::SlowPacket => "a packet came too slowly",
            EndCause::PermissionEnded => "login expired",
            EndCause::Revoked => "login revoked",
            EndCause::ConnectTimeout => "no CONNECT in time",
            EndCause::TakenOver => "session taken over",
            EndCause::Shutdown => "server shutting down",
            EndCause::Banned => "address banned",
            EndCause::Operator => "disconnected by the operator",
            EndCause::ListenerRemoved => "listener removed",
            EndCause::Refused => "refused",
            EndCause::Drained(_) => "let go by a drain",
        }
    }

    /// Whether the will is not published. `[MQTT5-3.14.4-3]`
    pub fn drops_will(&self) -> bool {
        matches!(self, EndCause::Disconnect(Reason::Success))
    }
}

impl fmt::Display for EndCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndCause::Disconnect(reason) => {
                write!(f, "client disconnected, {} (0x{:02X})", reason.words(), reason.code())
            }
            EndCause::Hangup(hangup) => write!(f, "{hangup}"),
            EndCause::Violation(violation) => write!(f, "{violation}"),
            EndCause::KeepAlive => f.write_str("keep alive timeout (0x8D)"),
            EndCause::SlowPacket => f.write_str(
                "keep alive timeout (0x8D): a packet came more slowly than limits.upload_bytes_per_second_min",
            ),
            EndCause::PermissionEnded => f.write_str("the client's login has expired (0xA0)"),
            EndCause::Revoked => {
                f.write_str("the user's line in the password file has changed or is gone (0x87)")
            }
            EndCause::ConnectTimeout => f.write_str("no CONNECT within limits.connect_seconds"),
            EndCause::TakenOver => f.write_str("session taken over by a new connection (0x8E)"),
            EndCause::Shutdown => f.write_str("server shutting down (0x8B)"),
            EndCause::Banned => f.write_str("address banned by gate.banned (0x98)"),
            EndCause::Operator => f.write_str("disconnected by the operator (0x98)"),
            EndCause::ListenerRemoved => f.write_str("its listener was removed from the configuration (0x98)"),
            EndCause::Refused => f.write_str("refused"),
            EndCause::Drained(reason) => write!(f, "let go by a drain, {} (0x{:02X})", reason.words(), reason.code()),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (0x{:02X})", self.reason.words(), self.cause, self.reason.code())
    }
}

/// Why a connection is closed before a byte of it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// Its address is banned.
    Banned,
    /// Its address opens connections too fast.
    TooFast,
    /// Its address has as many unfinished handshakes as it may have.
    Handshakes,
}

impl Away {
    /// The counter that each such connection increments.
    pub fn counter(self) -> Counter {
        match self {
            Away::Banned => Counter::TurnedAwayBanned,
            Away::TooFast => Counter::TurnedAwayTooFast,
            Away::Handshakes => Counter::LimitHandshakesPerAddress,
        }
    }

    /// The key in the configuration that an operator would change.
    pub fn key(self) -> &'static str {
        match self {
            Away::Banned => "[gate]",
            Away::TooFast => "limits.connect_rate",
            Away::Handshakes => "limits.handshakes_per_address",
        }
    }
}
