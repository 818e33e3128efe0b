//! The outcome of a message: for one session, for a shard, and in the report to another shard.

use crate::base::Ticket;
use crate::mqtt::ProtocolVersion;

/// A shard's report about a message that it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The ticket of the mail.
    pub ticket: Ticket,
    /// The outcome of the message.
    pub outcome: Outcome,
}

/// The outcome of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it matched subscriptions.
    pub matched: bool,
    /// Whether a session's queue or the retained store is full and refuses it. The publisher is told if
    /// possible.
    pub refused: bool,
    /// Whether the disk has no room to keep it for sessions that should get it later.
    pub unkept: bool,
}

impl Outcome {
    pub(in crate::broker) fn merge(&mut self, other: Outcome) {
        self.matched |= other.matched;
        self.refused |= other.refused;
        self.unkept |= other.unkept;
    }

    /// Adds the outcome for one session.
    pub(in crate::broker) fn note(&mut self, taken: Taken) {
        self.refused |= taken == Taken::Refused;
        self.unkept |= taken == Taken::Unkept;
    }

    /// Whether it is an error for a publisher of this version.
    ///
    /// 3.x has no code for a full queue. So only the full session loses the message, and it is acknowledged.
    /// If midge closed the connection instead, the publisher would send the message again, and every other
    /// session would get it once more each time. [MQTT311-4.3.3-2] A full disk is different: an
    /// acknowledgement would promise something that is not stored.
    pub(in crate::broker) fn is_refused_for(self, version: ProtocolVersion) -> bool {
        self.unkept || (self.refused && version == ProtocolVersion::V5)
    }
}

/// How a session took a message, as far as its publisher is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker) enum Taken {
    /// It was sent, queued, or dropped by a rule that concerns only this session.
    Yes,
    /// The queue is full, and the policy is to refuse the message.
    Refused,
    /// The disk has no room for it.
    Unkept,
}
