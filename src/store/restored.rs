//! What a start gets back: the sessions and retained messages of an earlier run.

use crate::mqtt::SubscriptionOptions;
use crate::mqtt::{ProtocolVersion, QoS};
use crate::session::Message;
use crate::session::{Losses, Will};
use std::sync::Arc;

/// The part of one shard.
#[derive(Debug, Default)]
pub struct Restored {
    /// The first number that no message, delivery or session has had; the same for all shards.
    pub next_number: u64,
    /// The highest stamp of a retained message, or more; the same for all shards.
    pub last_stamp: u64,
    /// Sessions whose client identifiers are at home on the shard.
    pub sessions: Vec<RestoredSession>,
    /// Retained messages whose topic names are at home on the shard, with their stamps.
    pub retained: Vec<Message>,
    /// Wills of clients at home on the shard whose sessions ended with the broker: they are due.
    pub wills: Vec<Will>,
}

/// A session.
#[derive(Debug)]
pub struct RestoredSession {
    /// Its name in the log.
    pub sid: u64,
    /// Client identifier.
    pub client_id: Box<str>,
    /// Protocol of its last connection.
    pub version: ProtocolVersion,
    /// Session Expiry Interval, seconds; above 0.
    pub expiry_seconds: u32,
    /// When its connection ended, on the log's clock. For one that was connected when the broker ended that is not
    /// known: it is the latest that it can have been.
    pub left_at_millis: u64,
    /// The will that is to be published, `delay_seconds` after `left_at_millis`.
    pub will: Option<Will>,
    /// Subscriptions, sorted by filter.
    pub subscriptions: Vec<RestoredSubscription>,
    /// Messages on their way to the client and messages that wait, in their order: those with a packet
    /// identifier come first.
    pub deliveries: Vec<RestoredDelivery>,
    /// QoS 2 packet identifiers that wait for PUBREL, and the length of each message's payload.
    pub held: Vec<(u16, usize)>,
    /// What it has lost since its client was told last.
    pub losses: Losses,
}

/// A subscription.
#[derive(Debug, PartialEq, Eq)]
pub struct RestoredSubscription {
    /// Topic filter, as written; `$share/…` for a shared one.
    pub filter: Box<str>,
    /// Options, with the QoS that was granted.
    pub options: SubscriptionOptions,
    /// Subscription identifier; 0: none.
    pub subscription_id: u32,
}

/// A message for a session.
#[derive(Debug)]
pub struct RestoredDelivery {
    /// Its name in the log.
    pub number: u64,
    /// The message. Its bytes are shared with the other sessions that have it.
    pub message: Message,
    /// QoS to send with.
    pub qos: QoS,
    /// RETAIN flag to send with.
    pub retain: bool,
    /// Subscription identifiers.
    pub subscription_ids: Vec<u32>,
    /// The filter of the shared subscription that chose the session.
    pub group: Option<Arc<str>>,
    /// How far it has come.
    pub state: RestoredState,
}

/// How far a delivery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoredState {
    /// It waits.
    Queued,
    /// PUBLISH may have been sent with this packet identifier.
    Sent(u16),
    /// PUBREC came for this packet identifier.
    Released(u16),
}
