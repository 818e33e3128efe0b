//! The will: a message that the broker publishes when a connection ends without a DISCONNECT.

use crate::base::{Charged, MemoryAccount, MemoryKind, WillNumber, allocated};
use crate::session::Message;

/// A will as CONNECT has set it. `[MQTT5-3.1.2-7]`
#[derive(Debug)]
pub struct Will {
    /// The topic, forwarded properties, payload, QoS and retain flag. Its expiry starts at publication.
    pub message: Message,
    /// The Will Delay Interval in seconds. It is never forwarded.
    pub delay_seconds: u32,
    /// The Message Expiry Interval in seconds, counted from publication.
    pub message_expiry_seconds: Option<u32>,
    /// Its number in the log. `None` if it has none because its session is in the log, or because neither is.
    pub number: Option<WillNumber>,
}

impl Will {
    /// The will as a session keeps it.
    pub fn kept(self, account: &MemoryAccount) -> Box<Charged<Will>> {
        let bytes = self.message.bytes() + allocated(size_of::<Charged<Will>>());
        Box::new(Charged::new(self, account.charge(MemoryKind::Wills, bytes)))
    }
}
