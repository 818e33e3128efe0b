//! The paced sending of retained messages to a new subscription.

use crate::message::Message;
use crate::packet::QoS;
use std::collections::VecDeque;

/// One subscription's retained messages, fetched in batches from one shard after the other.
///
/// At most one batch is on its way or waiting at a time, so a million retained messages cost
/// the broker no more than a batch.
#[derive(Debug)]
pub struct Replay {
    /// Names the replay in queries and batches.
    pub token: u64,
    /// The topic filter.
    pub filter: Box<str>,
    /// Granted QoS.
    pub qos: QoS,
    /// Subscription identifier, 0: none.
    pub subscription_id: u32,
    /// Shards still to be asked, the present one first.
    pub shards: VecDeque<u16>,
    /// Where the present shard goes on; none: from its start.
    pub cursor: Option<Box<str>>,
    /// The SUBSCRIBE that waits for other shards before its SUBACK and this replay may leave; 0: none.
    pub held_by: u64,
    /// A query is on its way.
    pub waiting: bool,
    /// Messages that have arrived and are not yet sent.
    pub ready: VecDeque<Message>,
    /// Messages that wait for the log, to be sent then.
    pub for_log: u32,
}

impl Replay {
    /// Everything fetched and sent?
    pub fn is_done(&self) -> bool {
        !self.waiting && self.ready.is_empty() && self.shards.is_empty() && self.for_log == 0
    }

    /// Takes a batch in. `next` none: the present shard is done.
    pub fn handle_batch(&mut self, messages: Vec<Message>, next: Option<Box<str>>) {
        self.waiting = false;
        self.ready.extend(messages);
        if next.is_none() {
            self.shards.pop_front();
        }
        self.cursor = next;
    }
}
