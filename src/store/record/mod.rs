//! Records: what changed in the state that survives. `FORMAT.md` in the folder above has their bytes.
//!
//! Each record sets or removes something by its name, so applying a record twice does no harm. Numbers name
//! messages, deliveries and sessions for ever, over all shards and restarts. They rise within a shard, so within a
//! frame each number is written as its distance from the one before.

mod decode;
mod encode;
mod short;
#[cfg(test)]
pub(crate) mod tests;

pub use decode::Decoder;
pub(crate) use decode::options_of;
pub(crate) use encode::{
    Encoder, options_byte, put_bytes, put_clock, put_counts, put_message, put_varint, put_will,
};

use super::ClockMark;
use crate::base::Time;
use crate::mqtt::SubscriptionOptions;
use crate::mqtt::{ProtocolVersion, QoS};
use crate::session::{LOSS_CAUSES, LossCause, Message, Publication};
use smallvec::SmallVec;
use std::fmt;

/// A message as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredMessage<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Forwarded properties, raw, in up to three runs; read back as one.
    pub properties: [&'a [u8]; 3],
    /// Application message.
    pub payload: &'a [u8],
    /// QoS of the publisher.
    pub qos: QoS,
    /// RETAIN flag of the publisher.
    pub retain: bool,
    /// When it expires, on the log's clock.
    pub expires_at_millis: Option<u64>,
    /// Who published it, for a retained message whose publisher is asked about; else empty.
    pub source: &'a [u8],
}

impl StoredMessage<'_> {
    /// The message as this run keeps it; nobody of this run published it.
    pub fn to_message(&self, expires_at: Option<Time>, stamp: u64) -> Message {
        let publication = Publication {
            topic: self.topic,
            forward: self.properties,
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            expires_at,
            origin: None,
            stamp,
            source: self.source,
        };
        publication.to_message()
    }
}

/// A will as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredWill<'a> {
    /// The message; its expiry is not set yet.
    pub message: StoredMessage<'a>,
    /// Will Delay Interval, seconds.
    pub delay_seconds: u32,
    /// Message Expiry Interval, seconds, counted from publication.
    pub message_expiry_seconds: Option<u32>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A session is new, or has a new connection and new terms. Its subscriptions, deliveries and held
    /// identifiers stay. It is connected from now on.
    Session {
        /// Its name.
        sid: u64,
        /// Client identifier.
        client_id: &'a str,
        /// Protocol of the connection.
        version: ProtocolVersion,
        /// Session Expiry Interval, seconds; above 0.
        expiry_seconds: u32,
        /// The will of the connection.
        will: Option<StoredWill<'a>>,
    },
    /// The connection of a session ended. Its will, if it still has one, waits for its delay.
    Left {
        /// The session.
        sid: u64,
        /// When, on the log's clock.
        at_millis: u64,
        /// Session Expiry Interval, which DISCONNECT may have changed.
        expiry_seconds: u32,
    },
    /// The will was published or dropped.
    WillGone {
        /// The session.
        sid: u64,
    },
    /// The session is over, with all that is its.
    Ended {
        /// The session.
        sid: u64,
    },
    /// A subscription is new, or its options are.
    Subscribed {
        /// The session.
        sid: u64,
        /// Topic filter, as written.
        filter: &'a str,
        /// Options as granted.
        options: SubscriptionOptions,
        /// Subscription identifier; 0: none.
        subscription_id: u32,
    },
    /// A subscription is gone.
    Unsubscribed {
        /// The session.
        sid: u64,
        /// Topic filter, as written.
        filter: &'a str,
    },
    /// A message that the deliveries after it refer to. It is gone with the last of them.
    Message {
        /// Its name.
        number: u64,
        /// The message.
        message: StoredMessage<'a>,
    },
    /// A message for a session: into its queue, or, with a packet identifier, on its way.
    Delivery {
        /// The session.
        sid: u64,
        /// Its name; a session's deliveries go out in this order.
        number: u64,
        /// The message.
        message: u64,
        /// QoS to send with; never 0.
        qos: QoS,
        /// RETAIN flag to send with.
        retain: bool,
        /// Packet identifier, or 0.
        packet_id: u16,
        /// Subscription identifiers.
        subscription_ids: SmallVec<[u32; 4]>,
        /// The filter of the shared subscription that chose the session; empty: none did.
        group: &'a str,
    },
    /// A delivery left the queue and has a packet identifier.
    Started {
        /// The session.
        sid: u64,
        /// The delivery.
        number: u64,
        /// Its packet identifier.
        packet_id: u16,
    },
    /// PUBREC came for a delivery.
    Released {
        /// The session.
        sid: u64,
        /// The delivery.
        number: u64,
    },
    /// A delivery is acknowledged, expired or dropped.
    Settled {
        /// The session.
        sid: u64,
        /// The delivery.
        number: u64,
    },
    /// A QoS 1 or 2 message is lost for a session.
    Lost {
        /// The session.
        sid: u64,
        /// The delivery, which is settled by it; 0: there was none.
        number: u64,
        /// Why.
        cause: LossCause,
        /// With it, so many were lost for this cause since the client was told last.
        count: u32,
    },
    /// The client of a session was told what it has lost.
    LossesTold {
        /// The session.
        sid: u64,
        /// By cause, what it was not told of.
        left: [u32; LOSS_CAUSES],
    },
    /// A delivery is its session's no more, but an intent for one member of its group: the session ends.
    Returned {
        /// The session.
        sid: u64,
        /// The delivery, which names its group.
        delivery: u64,
        /// The name of the intent.
        number: u64,
    },
    /// A QoS 2 message of the client waits for PUBREL.
    Held {
        /// The session.
        sid: u64,
        /// Its packet identifier.
        packet_id: u16,
        /// Length of its payload, bytes.
        payload_bytes: u32,
    },
    /// PUBREL came.
    Unheld {
        /// The session.
        sid: u64,
        /// The packet identifier.
        packet_id: u16,
    },
    /// The retained message of its topic.
    Retained {
        /// Its place in the order of the topic's messages.
        stamp: u64,
        /// The message.
        message: StoredMessage<'a>,
    },
    /// A topic has no retained message any more.
    Unretained {
        /// Topic name.
        topic: &'a str,
    },
    /// A QoS 2 message whose packet identifier is held by the records of the same frame must still reach
    /// other shards, each exactly once.
    Intent {
        /// Its name.
        number: u64,
        /// Shards it must reach, as a bit mask.
        targets: u128,
        /// As of a retained message; 0 if it is none.
        stamp: u64,
        /// The filter of the shared subscription for one of whose members it is: the first shard that sees it
        /// has it, whichever that is. Empty: it is for whatever the targets are at home to.
        group: &'a str,
        /// The message.
        message: StoredMessage<'a>,
    },
    /// Every target has it.
    IntentDone {
        /// The intent.
        number: u64,
    },
    /// The records of this frame are what this shard, a target, made of an intent.
    IntentSeen {
        /// The intent.
        number: u64,
    },
    /// Nothing changed, but the broker lives: those that are connected now were so at the frame's time.
    Alive,
    /// What the machine's clocks say: at the start of the log, and when the wall clock was set.
    Clock(ClockMark),
    /// The will of a connection whose session ends with it, and so is not in the log.
    Will {
        /// Its name.
        number: u64,
        /// Client identifier.
        client_id: &'a str,
        /// The will. Its delay has no meaning: the session ends first.
        will: StoredWill<'a>,
    },
    /// Such a will was published or dropped.
    WillOver {
        /// Its name.
        number: u64,
    },
}

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRecord {
    /// What is wrong.
    pub cause: &'static str,
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cause)
    }
}

impl std::error::Error for BadRecord {}

pub(crate) const fn bad(cause: &'static str) -> BadRecord {
    BadRecord { cause }
}

mod tag {
    pub(crate) const SESSION: u8 = 1;
    pub(crate) const LEFT: u8 = 2;
    pub(crate) const WILL_GONE: u8 = 3;
    pub(crate) const ENDED: u8 = 4;
    pub(crate) const SUBSCRIBED: u8 = 5;
    pub(crate) const UNSUBSCRIBED: u8 = 6;
    pub(crate) const MESSAGE: u8 = 7;
    pub(crate) const DELIVERY: u8 = 8;
    pub(crate) const STARTED: u8 = 9;
    pub(crate) const RELEASED: u8 = 10;
    pub(crate) const SETTLED: u8 = 11;
    pub(crate) const HELD: u8 = 12;
    pub(crate) const UNHELD: u8 = 13;
    pub(crate) const RETAINED: u8 = 14;
    pub(crate) const UNRETAINED: u8 = 15;
    pub(crate) const INTENT: u8 = 16;
    pub(crate) const INTENT_DONE: u8 = 17;
    pub(crate) const INTENT_SEEN: u8 = 18;
    pub(crate) const ALIVE: u8 = 19;
    pub(crate) const RETURNED: u8 = 20;
    pub(crate) const LOST: u8 = 21;
    pub(crate) const LOSSES_TOLD: u8 = 22;
    pub(crate) const CLOCK: u8 = 30;
    pub(crate) const WILL: u8 = 31;
    pub(crate) const WILL_OVER: u8 = 32;
    /// Each of the short forms has all kinds up to the next one.
    pub(crate) const SETTLED_SHORT: u8 = 33;
    pub(crate) const RELEASED_SHORT: u8 = 36;
    pub(crate) const RELEASED_SHORT_END: u8 = 39;
    pub(crate) const DELIVERY_SHORT: u8 = 64;
    pub(crate) const MESSAGE_SHORT: u8 = 128;
}

/// From here on the number of subscription identifiers has a place of its own.
const IDS_MAX: u8 = 7;
