//! What shards tell each other.

use crate::base::{RequestToken, SessionKey, Ticket};
use crate::broker::Receipt;
use crate::mqtt::QoS;
use crate::session::Message;
use std::sync::Arc;

/// A member of a shared subscription.
#[derive(Clone, Copy, Debug)]
pub struct GroupMember {
    /// The session.
    pub key: SessionKey,
    /// Granted QoS.
    pub qos: QoS,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Subscription identifier, 0: none.
    pub subscription_id: u32,
}

/// A mail. Mails of a pair of shards keep their order.
#[derive(Debug)]
pub enum Mail {
    /// A publish that the receiver may have subscriptions for, or is the home of as retained.
    Publish {
        /// The message.
        message: Message,
        /// To be given back in a receipt, if anyone waits for one.
        ticket: Option<Ticket>,
        /// Its number as an intent in the sender's log; 0: it is none.
        intent: u64,
    },
    /// A message that the receiver is the home of as retained, and will be sent once more to deliver.
    Retain {
        /// The message.
        message: Message,
    },
    /// What became of messages that the receiver has sent.
    Receipts(Vec<Receipt>),
    /// The sender has subscriptions with this wildcard filter. Answer: `InterestKnown`.
    InterestAdd {
        /// Topic filter, matching part.
        filter: Box<str>,
        /// To be given back.
        token: RequestToken,
    },
    /// It has none any more.
    InterestRemove {
        /// Topic filter, matching part.
        filter: Box<str>,
    },
    /// The receiver's interest is known to the sender.
    InterestKnown {
        /// From the question.
        token: RequestToken,
    },
    /// A session joins (or updates) a shared subscription. Answer: `GroupJoined`.
    GroupJoin {
        /// `$share/…`, as written.
        filter: Box<str>,
        /// Who.
        member: GroupMember,
        /// To be given back.
        token: RequestToken,
    },
    /// The membership is in force on every shard.
    GroupJoined {
        /// From the question.
        token: RequestToken,
    },
    /// A session leaves. Answer, if there is a token: `GroupLeft`.
    GroupLeave {
        /// `$share/…`, as written.
        filter: Box<str>,
        /// Who.
        member: SessionKey,
        /// To be given back; none when nobody waits for it.
        token: Option<RequestToken>,
    },
    /// The member is not chosen any more; what it was chosen for has been sent before.
    GroupLeft {
        /// From the question.
        token: RequestToken,
    },
    /// A member can take messages now, or can't.
    GroupReady {
        /// Who.
        member: SessionKey,
        /// Connected, and nothing waits for it.
        ready: bool,
    },
    /// A message for the chosen member.
    GroupDeliver {
        /// The group's filter, as written.
        group: Arc<str>,
        /// The member as the group knows it.
        member: GroupMember,
        /// The message.
        message: Message,
        /// To be given back in a receipt, if anyone waits for one.
        ticket: Option<Ticket>,
        /// Its number as an intent in the sender's log; 0: it is none.
        intent: u64,
    },
    /// A member's session ended before it settled the message: choose another.
    GroupReturn {
        /// The group's filter, as written.
        group: Arc<str>,
        /// The message.
        message: Message,
        /// To be given back in a receipt, if anyone waits for one.
        ticket: Option<Ticket>,
        /// Its number as an intent in the log of whichever shard; 0: it is none.
        intent: u64,
    },
    /// Retained messages for a replay, please.
    RetainedQuery {
        /// To be given back.
        token: RequestToken,
        /// The session that asks (for the answer's way back).
        session: SessionKey,
        /// Topic filter.
        filter: Box<str>,
        /// Go on after this topic name.
        after: Option<Box<str>>,
    },
    /// The answer.
    RetainedBatch {
        /// From the question.
        token: RequestToken,
        /// From the question.
        session: SessionKey,
        /// In the order of topic names.
        messages: Vec<Message>,
        /// Where to go on; none: that was all.
        next: Option<Box<str>>,
    },
}

impl Mail {
    /// Bytes of the messages in it.
    pub fn message_bytes(&self) -> usize {
        match self {
            Mail::Publish { message, .. }
            | Mail::Retain { message }
            | Mail::GroupDeliver { message, .. }
            | Mail::GroupReturn { message, .. } => message.bytes(),
            Mail::RetainedBatch { messages, .. } => messages.iter().map(Message::bytes).sum(),
            _ => 0,
        }
    }
}
