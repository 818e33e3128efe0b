//! What became of a message: for one session, on a shard, and told to another shard.

use crate::base::Ticket;
use crate::mqtt::ProtocolVersion;

/// What a shard says of a message that it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// From the mail.
    pub ticket: Ticket,
    /// What became of the message.
    pub outcome: Outcome,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Subscriptions that it matched.
    pub matched: bool,
    /// A session's queue or the retained store is full, and a publisher that can be told is told.
    pub refused: bool,
    /// The disk has no room to keep it for those who should have it later.
    pub unkept: bool,
}

impl Outcome {
    pub(in crate::broker) fn merge(&mut self, other: Outcome) {
        self.matched |= other.matched;
        self.refused |= other.refused;
        self.unkept |= other.unkept;
    }

    /// What became of it for one session.
    pub(in crate::broker) fn note(&mut self, taken: Taken) {
        self.refused |= taken == Taken::Refused;
        self.unkept |= taken == Taken::Unkept;
    }

    /// Is it anything but a success for a publisher of this version?
    ///
    /// 3.x has no code for a full queue. The message is dropped for the full session alone then, and acknowledged:
    /// a publisher that is closed sends it again, and every other session gets it once more each time.
    /// [MQTT311-4.3.3-2] A full disk is another matter: an acknowledgement would promise what is not there.
    pub(in crate::broker) fn is_refused_for(self, version: ProtocolVersion) -> bool {
        self.unkept || (self.refused && version == ProtocolVersion::V5)
    }
}

/// What a session made of a message, as far as its publisher is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker) enum Taken {
    /// Sent, queued, or dropped by a rule that concerns this session alone.
    Yes,
    /// Its queue is full, and the policy is to say so.
    Refused,
    /// The disk has no room for it.
    Unkept,
}
