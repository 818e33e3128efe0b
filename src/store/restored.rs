//! What a start restores: the sessions and retained messages of earlier runs.

use crate::base::{DeliveryNumber, SessionNumber, Stamp};
use crate::mqtt::{PacketId, ProtocolVersion, QoS, SubscriptionId, SubscriptionOptions};
use crate::session::Message;
use crate::session::{Losses, Will};
use std::sync::Arc;

/// The part of one shard.
#[derive(Debug, Default)]
pub struct Restored {
    /// The first unused number for a message, delivery or session. It is the same for all shards.
    pub next_number: u64,
    /// At least the highest stamp of a retained message. It is the same for all shards.
    pub last_stamp: Option<Stamp>,
    /// Sessions whose client identifiers are at home on the shard.
    pub sessions: Vec<RestoredSession>,
    /// Retained messages whose topic names are at home on the shard, with their stamps.
    pub retained: Vec<Message>,
    /// The wills of clients at home on the shard whose sessions ended with the broker. They are due.
    pub wills: Vec<Will>,
}

/// A session.
#[derive(Debug)]
pub struct RestoredSession {
    /// Its number in the log.
    pub sid: SessionNumber,
    /// The client identifier.
    pub client_id: Box<str>,
    /// The protocol version of its last connection.
    pub version: ProtocolVersion,
    /// The Session Expiry Interval in seconds, above 0.
    pub expiry_seconds: u32,
    /// When its connection ended, on the log's clock. If it was connected when the broker ended, that time is
    /// unknown, and this is the latest possible time.
    pub left_at_millis: u64,
    /// The will that must be published `delay_seconds` after `left_at_millis`.
    pub will: Option<Will>,
    /// The subscriptions, sorted by filter.
    pub subscriptions: Vec<RestoredSubscription>,
    /// The messages for the client, in order. Those that have a packet identifier come first, then the queued
    /// ones.
    pub deliveries: Vec<RestoredDelivery>,
    /// The QoS 2 packet identifiers that wait for a PUBREL, each with the length of its message's payload.
    pub held: Vec<(PacketId, usize)>,
    /// The losses since its client was last told.
    pub losses: Losses,
}

/// A subscription.
#[derive(Debug, PartialEq, Eq)]
pub struct RestoredSubscription {
    /// The topic filter, as the client wrote it. It begins with `$share/` if it is shared.
    pub filter: Box<str>,
    /// The options, with the granted QoS.
    pub options: SubscriptionOptions,
    /// The subscription identifier, if there is one.
    pub subscription_id: Option<SubscriptionId>,
}

/// A message for a session.
#[derive(Debug)]
pub struct RestoredDelivery {
    /// Its number in the log.
    pub number: DeliveryNumber,
    /// The message. It shares its bytes with the other sessions that have it.
    pub message: Message,
    /// The QoS to send with.
    pub qos: QoS,
    /// The RETAIN flag to send with.
    pub retain: bool,
    /// The subscription identifiers.
    pub subscription_ids: Vec<u32>,
    /// The filter of the shared subscription that chose the session.
    pub group: Option<Arc<str>>,
    /// The state of the delivery.
    pub state: RestoredState,
}

/// The state of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoredState {
    /// It is queued.
    Queued,
    /// A PUBLISH may have been sent with this packet identifier.
    Sent(PacketId),
    /// A PUBREC was received for this packet identifier.
    Released(PacketId),
}
