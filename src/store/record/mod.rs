//! Records: the changes of the state that survives. `FORMAT.md` in the directory above describes their bytes.
//!
//! Each record sets or removes one item by its number, so applying a record twice does no harm. Numbers
//! identify messages, deliveries and sessions forever, over all shards and restarts. They rise within a
//! shard, so a frame stores each number as its distance from the one before.

mod decode;
mod encode;
mod short;
#[cfg(test)]
pub(crate) mod tests;

pub use decode::Decoder;
pub(crate) use decode::{numbered, options_of};
pub(crate) use encode::{
    Encoder, options_byte, put_bytes, put_clock, put_counts, put_message, put_packet_id, put_varint, put_will,
};

use super::ClockMark;
use crate::base::{DeliveryNumber, IntentNumber, MessageNumber, SessionNumber, Stamp, Time, WillNumber};
use crate::mqtt::{PacketId, ProtocolVersion, QoS, SubscriptionId, SubscriptionOptions};
use crate::session::{LOSS_CAUSES, LossCause, Message, Publication};
use smallvec::SmallVec;
use std::fmt;

/// A message in its stored form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredMessage<'a> {
    /// The topic name.
    pub topic: &'a str,
    /// The forwarded properties, as raw bytes in up to three runs. They are read back as one run.
    pub properties: [&'a [u8]; 3],
    /// The application message.
    pub payload: &'a [u8],
    /// The QoS of the publisher.
    pub qos: QoS,
    /// The RETAIN flag of the publisher.
    pub retain: bool,
    /// When it expires, on the log's clock.
    pub expires_at_millis: Option<u64>,
    /// The publisher of a retained message if its permissions are checked later. Empty otherwise.
    pub source: &'a [u8],
}

impl StoredMessage<'_> {
    /// The message in the form that this run uses. It has no publisher in this run.
    pub fn to_message(&self, expires_at: Option<Time>, stamp: Option<Stamp>) -> Message {
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

/// A will in its stored form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredWill<'a> {
    /// The message. Its expiry is not set yet.
    pub message: StoredMessage<'a>,
    /// The Will Delay Interval, in seconds.
    pub delay_seconds: u32,
    /// The Message Expiry Interval in seconds, counted from publication.
    pub message_expiry_seconds: Option<u32>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A session is new, or has a new connection with new settings. Its subscriptions, deliveries and held
    /// identifiers stay. It is connected from now on.
    Session {
        /// Its number.
        sid: SessionNumber,
        /// The client identifier.
        client_id: &'a str,
        /// The protocol version of the connection.
        version: ProtocolVersion,
        /// The Session Expiry Interval in seconds, above 0.
        expiry_seconds: u32,
        /// The will of the connection.
        will: Option<StoredWill<'a>>,
    },
    /// The connection of a session ended. Its will, if it still has one, waits for its delay.
    Left {
        /// The session.
        sid: SessionNumber,
        /// When it ended, on the log's clock.
        at_millis: u64,
        /// The Session Expiry Interval. DISCONNECT may have changed it.
        expiry_seconds: u32,
    },
    /// The will was published or dropped.
    WillGone {
        /// The session.
        sid: SessionNumber,
    },
    /// The session has ended, together with everything that belongs to it.
    Ended {
        /// The session.
        sid: SessionNumber,
    },
    /// A subscription is new, or its options have changed.
    Subscribed {
        /// The session.
        sid: SessionNumber,
        /// The topic filter, as the client wrote it.
        filter: &'a str,
        /// The granted options.
        options: SubscriptionOptions,
        /// The subscription identifier, if there is one.
        subscription_id: Option<SubscriptionId>,
    },
    /// A subscription was removed.
    Unsubscribed {
        /// The session.
        sid: SessionNumber,
        /// The topic filter, as the client wrote it.
        filter: &'a str,
    },
    /// A message that the following deliveries refer to. It is removed with the last of them.
    Message {
        /// Its number.
        number: MessageNumber,
        /// The message.
        message: StoredMessage<'a>,
    },
    /// A message for a session. Without a packet identifier it is queued, otherwise it is sent.
    Delivery {
        /// The session.
        sid: SessionNumber,
        /// Its number. A session's deliveries are sent in this order.
        number: DeliveryNumber,
        /// The message.
        message: MessageNumber,
        /// The QoS to send with, never 0.
        qos: QoS,
        /// The RETAIN flag to send with.
        retain: bool,
        /// The packet identifier. `None` if it is queued.
        packet_id: Option<PacketId>,
        /// The subscription identifiers.
        subscription_ids: SmallVec<[u32; 4]>,
        /// The filter of the shared subscription that chose the session. Empty if there was none.
        group: &'a str,
    },
    /// A delivery left the queue and has a packet identifier.
    Started {
        /// The session.
        sid: SessionNumber,
        /// The delivery.
        number: DeliveryNumber,
        /// Its packet identifier.
        packet_id: PacketId,
    },
    /// A PUBREC was received for a delivery.
    Released {
        /// The session.
        sid: SessionNumber,
        /// The delivery.
        number: DeliveryNumber,
    },
    /// A delivery was acknowledged, has expired, or was dropped.
    Settled {
        /// The session.
        sid: SessionNumber,
        /// The delivery.
        number: DeliveryNumber,
    },
    /// A session has lost a QoS 1 or 2 message.
    Lost {
        /// The session.
        sid: SessionNumber,
        /// The delivery that this record settles, if there was one.
        number: Option<DeliveryNumber>,
        /// The cause.
        cause: LossCause,
        /// The number of messages lost for this cause, including this one, since the client was last told.
        count: u32,
    },
    /// The client of a session was told about its losses.
    LossesTold {
        /// The session.
        sid: SessionNumber,
        /// By cause, the number of losses that it was not told about.
        left: [u32; LOSS_CAUSES],
    },
    /// A session ends, and one of its deliveries becomes an intent for one member of its group.
    Returned {
        /// The session.
        sid: SessionNumber,
        /// The delivery. It contains the group.
        delivery: DeliveryNumber,
        /// The number of the intent.
        number: IntentNumber,
    },
    /// A QoS 2 message of the client waits for a PUBREL.
    Held {
        /// The session.
        sid: SessionNumber,
        /// Its packet identifier.
        packet_id: PacketId,
        /// The length of its payload, in bytes.
        payload_bytes: u32,
    },
    /// The PUBREL was received.
    Unheld {
        /// The session.
        sid: SessionNumber,
        /// The packet identifier.
        packet_id: PacketId,
    },
    /// The retained message of its topic.
    Retained {
        /// Its position in the order of the topic's messages.
        stamp: Stamp,
        /// The message.
        message: StoredMessage<'a>,
    },
    /// A topic has no retained message any more.
    Unretained {
        /// The topic name.
        topic: &'a str,
    },
    /// A QoS 2 message whose packet identifier is held by the records of the same frame must still reach
    /// other shards, each exactly once.
    Intent {
        /// Its number.
        number: IntentNumber,
        /// The shards that it must reach, as a bit mask.
        targets: u128,
        /// The stamp, as for a retained message. `None` if it is not retained.
        stamp: Option<Stamp>,
        /// The filter of the shared subscription if the message is for one of its members. The first shard
        /// that sees the intent gets it. Empty if it is for everything at home on the targets.
        group: &'a str,
        /// The message.
        message: StoredMessage<'a>,
    },
    /// Every target has it.
    IntentDone {
        /// The intent.
        number: IntentNumber,
    },
    /// The records of this frame result from an intent of which this shard is a target.
    IntentSeen {
        /// The intent.
        number: IntentNumber,
    },
    /// Nothing changed, but the broker is alive. All sessions that are connected now were connected at the
    /// frame's time.
    Alive,
    /// The machine's clocks, at the start of the log and when the wall clock was set.
    Clock(ClockMark),
    /// The will of a connection whose session ends with it and is therefore not in the log.
    Will {
        /// Its number.
        number: WillNumber,
        /// The client identifier.
        client_id: &'a str,
        /// The will. Its delay has no meaning, because the session ends first.
        will: StoredWill<'a>,
    },
    /// A will of this kind was published or dropped.
    WillOver {
        /// Its number.
        number: WillNumber,
    },
}

/// An error: the bytes are not a record.
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
    /// Each of the short forms uses all kinds up to the next one.
    pub(crate) const SETTLED_SHORT: u8 = 33;
    pub(crate) const RELEASED_SHORT: u8 = 36;
    pub(crate) const HELD_NEXT: u8 = 39;
    pub(crate) const UNHELD_NEXT: u8 = 40;
    pub(crate) const DELIVERY_SHORT: u8 = 64;
    pub(crate) const MESSAGE_SHORT: u8 = 128;
}

/// From this value on, the number of subscription identifiers is stored separately.
const IDS_MAX: u8 = 7;
