//! The receiving side of a session: acknowledges messages, and knows which QoS 2 messages the
//! broker has not released. It outlives the connection if the session does.

use crate::codec::{self, Packet, Publish};
use crate::verify::IdSet;

/// The state of a session for the messages that it receives.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// Allocated with the first QoS 2 message, because most sessions never get one.
    unreleased: Option<IdSet>,
}

impl Inbox {
    /// Appends the acknowledgement of a message. Returns whether the message is new: `false` if it
    /// is a QoS 2 message whose identifier is not yet released.
    #[inline]
    pub(crate) fn receive(&mut self, publish: &Publish<'_>, out: &mut Vec<u8>) -> bool {
        match publish.qos {
            0 => true,
            1 => {
                codec::put_ack(out, codec::PUBACK, publish.id);
                true
            }
            _ => {
                codec::put_ack(out, codec::PUBREC, publish.id);
                self.unreleased.get_or_insert_default().insert(publish.id)
            }
        }
    }

    /// Answers a PUBREL.
    ///
    /// # Errors
    /// The PUBREL is malformed, or releases nothing.
    pub(crate) fn release(&mut self, packet: Packet<'_>, out: &mut Vec<u8>) -> Result<(), &'static str> {
        let (id, _) = codec::ack(packet).map_err(|malformed| malformed.0)?;
        codec::put_ack(out, codec::PUBCOMP, id);
        let known = self.unreleased.as_mut().is_some_and(|ids| ids.remove(id));
        if known { Ok(()) } else { Err("PUBREL without a matching message") }
    }

    /// Number of QoS 2 messages that the broker has not released.
    pub(crate) fn unreleased(&self) -> u64 {
        self.unreleased.as_ref().map_or(0, |ids| ids.len() as u64)
    }
}
