//! What an operator asks about a login or a delivery that may happen, and what a shard finds, as plain data.

use crate::base::SessionKey;
use crate::broker::questions::PastEvent;
use crate::mqtt::{ProtocolVersion, QoS};
use crate::session::Losses;

/// A login that may happen. No password is asked for, so its proof is not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectCase {
    /// The client identifier. Empty if the broker is to assign one.
    pub client_id: Box<str>,
    /// The user name.
    pub user: Option<Box<str>>,
    /// The number of the listener.
    pub listener: u16,
    /// The protocol version.
    pub version: ProtocolVersion,
    /// Clean Start.
    pub clean_start: bool,
}

/// A message that may come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryCase {
    /// The client that is to get it.
    pub client_id: Box<str>,
    /// The topic name.
    pub topic: Box<str>,
    /// The QoS with which it is published.
    pub qos: QoS,
    /// The length of its payload in bytes.
    pub payload_bytes: usize,
    /// The client that publishes it, if that is known.
    pub publisher: Option<Box<str>>,
}

/// How a thing that was looked at speaks for the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It does not stand in the way.
    Good,
    /// It stands in the way.
    Bad,
    /// It changes how it happens, or can't be known before.
    Note,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindingLine {
    /// How it speaks for the outcome.
    pub finding: Finding,
    /// What was looked at, in a word or two.
    pub subject: &'static str,
    /// What was found.
    pub words: String,
}

/// Everything that was found, in the order in which the broker looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The lines.
    pub lines: Vec<FindingLine>,
}

impl Findings {
    /// Adds a line.
    pub fn add(&mut self, finding: Finding, subject: &'static str, words: impl Into<String>) {
        self.lines.push(FindingLine { finding, subject, words: words.into() });
    }

    /// Adds a line that is good or bad.
    pub fn add_if(&mut self, is_good: bool, subject: &'static str, words: impl Into<String>) {
        self.add(if is_good { Finding::Good } else { Finding::Bad }, subject, words);
    }

    /// The first thing that stands in the way.
    pub fn obstacle(&self) -> Option<&FindingLine> {
        self.lines.iter().find(|line| line.finding == Finding::Bad)
    }
}

/// What the home of a client knows about a delivery.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFindings {
    /// What was found.
    pub findings: Findings,
    /// Whether the message would wait in the client's queue.
    pub would_wait: bool,
    /// The session of the client.
    pub session: Option<SessionKey>,
    /// Its shared subscriptions that match. Their homes know whose turn it is.
    pub groups: Vec<Box<str>>,
    /// Whether a subscription that is not shared matches.
    pub has_own_match: bool,
    /// The messages that were lost for it since it was last told.
    pub losses: Losses,
    /// Its last events, the newest first. The shard's host knows them.
    pub events: Vec<PastEvent>,
}

/// What the home of a shared subscription knows about one of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupTurn {
    /// The number of members.
    pub members: usize,
    /// The number of members that have their turn before it. `None` if it is no member, or if more than can be looked
    /// at come before it.
    pub before: Option<usize>,
    /// Whether it can take messages, as far as the group knows.
    pub is_ready: bool,
}
