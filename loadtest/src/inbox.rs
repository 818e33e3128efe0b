//! The receiver's side of a session: acknowledges what comes and knows which QoS 2 messages the
//! broker has yet to release. It outlives the connection when the session does.

use crate::codec::{self, Packet, Publish};
use crate::verify::IdSet;

/// What a session owes the broker for messages that it received.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// Allocated with the first QoS 2 message: most sessions never see one.
    unreleased: Option<IdSet>,
}

impl Inbox {
    /// Appends the acknowledgement of a message. Whether the message is to be looked at: `false`
    /// for a QoS 2 one under an identifier that was not yet released.
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
    /// What is wrong with it.
    pub(crate) fn release(&mut self, packet: Packet<'_>, out: &mut Vec<u8>) -> Result<(), &'static str> {
        let (id, _) = codec::ack(packet).map_err(|malformed| malformed.0)?;
        codec::put_ack(out, codec::PUBCOMP, id);
        let known = self.unreleased.as_mut().is_some_and(|ids| ids.remove(id));
        if known { Ok(()) } else { Err("PUBREL for nothing that was received") }
    }

    /// QoS 2 messages that the broker has not released.
    pub(crate) fn unreleased(&self) -> u64 {
        self.unreleased.as_ref().map_or(0, |ids| ids.len() as u64)
    }
}
