//! The will: a message that the broker publishes when a connection ends without a farewell.

use crate::base::{Charged, MemoryAccount, MemoryKind, allocated};
use crate::session::Message;

/// A will as CONNECT gave it. `[MQTT5-3.1.2-7]`
#[derive(Debug)]
pub struct Will {
    /// Topic, forwarded properties, payload, QoS and retain; its expiry starts at publication.
    pub message: Message,
    /// Will Delay Interval, seconds. Never forwarded.
    pub delay_seconds: u32,
    /// Message Expiry Interval, seconds, counted from publication.
    pub message_expiry_seconds: Option<u32>,
    /// Its name in the log, if its session is not there; 0: it has none.
    pub number: u64,
}

impl Will {
    /// The will as a session keeps it.
    pub fn kept(self, account: &MemoryAccount) -> Box<Charged<Will>> {
        let bytes = self.message.bytes() + allocated(size_of::<Charged<Will>>());
        Box::new(Charged::new(self, account.charge(MemoryKind::Wills, bytes)))
    }
}
