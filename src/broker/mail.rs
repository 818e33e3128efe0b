//! The mails that shards send to each other.

use crate::base::{IntentNumber, RequestToken, SessionKey, Ticket};
use crate::broker::Receipt;
use crate::mqtt::{QoS, SubscriptionId};
use crate::session::Message;
use std::sync::Arc;

/// A member of a shared subscription.
#[derive(Clone, Copy, Debug)]
pub struct GroupMember {
    /// The session's key.
    pub key: SessionKey,
    /// The granted QoS.
    pub qos: QoS,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// The subscription identifier, if there is one.
    pub subscription_id: Option<SubscriptionId>,
}

/// A mail. Mails from one shard to another keep their order.
#[derive(Debug)]
pub enum Mail {
    /// A message for which the receiver may have subscriptions, or whose retained home it is.
    Publish {
        /// The message.
        message: Message,
        /// The ticket for the receipt, if anything waits for one.
        ticket: Option<Ticket>,
        /// Its number as an intent in the sender's log, if it is an intent.
        intent: Option<IntentNumber>,
    },
    /// A retained message whose home is the receiver. A second mail follows if it must deliver the message.
    Retain {
        /// The message.
        message: Message,
    },
    /// The outcomes of messages that the receiver has sent.
    Receipts(Vec<Receipt>),
    /// The sender has subscriptions with this wildcard filter. The answer is `InterestKnown`.
    InterestAdd {
        /// The matching part of the topic filter.
        filter: Box<str>,
        /// The token for the answer.
        token: RequestToken,
    },
    /// The sender has no such subscriptions any more.
    InterestRemove {
        /// The matching part of the topic filter.
        filter: Box<str>,
    },
    /// The sender knows the receiver's interest.
    InterestKnown {
        /// The token of the request.
        token: RequestToken,
    },
    /// A session joins a shared subscription or updates its membership. The answer is `GroupJoined`.
    GroupJoin {
        /// The filter as the client wrote it, with `$share/`.
        filter: Box<str>,
        /// The member.
        member: GroupMember,
        /// The token for the answer.
        token: RequestToken,
    },
    /// The membership is in effect on every shard.
    GroupJoined {
        /// The token of the request.
        token: RequestToken,
    },
    /// A session leaves. If there is a token, the answer is `GroupLeft`.
    GroupLeave {
        /// The filter as the client wrote it, with `$share/`.
        filter: Box<str>,
        /// The member.
        member: SessionKey,
        /// The token for the answer. `None` if nothing waits for it.
        token: Option<RequestToken>,
    },
    /// The member is not chosen any more. Messages for which it was chosen were sent before this.
    GroupLeft {
        /// The token of the request.
        token: RequestToken,
    },
    /// A member can take messages now, or can't.
    GroupReady {
        /// The member.
        member: SessionKey,
        /// Whether it is connected and no messages wait for it.
        ready: bool,
    },
    /// A message for the chosen member.
    GroupDeliver {
        /// The group's filter, as the client wrote it.
        group: Arc<str>,
        /// The member, as the group knows it.
        member: GroupMember,
        /// The message.
        message: Message,
        /// The ticket for the receipt, if anything waits for one.
        ticket: Option<Ticket>,
        /// Its number as an intent in the sender's log, if it is an intent.
        intent: Option<IntentNumber>,
    },
    /// A member's session ended before it settled the message. Another member must be chosen.
    GroupReturn {
        /// The group's filter, as the client wrote it.
        group: Arc<str>,
        /// The message.
        message: Message,
        /// The ticket for the receipt, if anything waits for one.
        ticket: Option<Ticket>,
        /// Its number as an intent in the log of some shard, if it is an intent.
        intent: Option<IntentNumber>,
    },
    /// A query for retained messages for a replay. The answer is `RetainedBatch`.
    RetainedQuery {
        /// The token for the answer.
        token: RequestToken,
        /// The session that asks, for the way back.
        session: SessionKey,
        /// The topic filter.
        filter: Box<str>,
        /// The topic name after which to continue.
        after: Option<Box<str>>,
    },
    /// The answer to `RetainedQuery`.
    RetainedBatch {
        /// The token of the query.
        token: RequestToken,
        /// The session of the query.
        session: SessionKey,
        /// The messages, in the order of topic names.
        messages: Vec<Message>,
        /// Where to continue. `None` if there are no more.
        next: Option<Box<str>>,
    },
}

impl Mail {
    /// The bytes of the messages in it.
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
