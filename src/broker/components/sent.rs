//! The messages that a turn has sent. They are counted one by one, and reported together at the end of the
//! turn.

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::broker) struct Sent {
    /// The number of PUBLISH packets.
    pub messages: u64,
    /// The bytes of their payloads.
    pub payload_bytes: u64,
}

impl Sent {
    #[inline(always)]
    pub(in crate::broker) fn note(&mut self, payload_bytes: usize) {
        self.messages += 1;
        self.payload_bytes += payload_bytes as u64;
    }

    /// What was sent since the last call. `None` if nothing was.
    pub(in crate::broker) fn take(&mut self) -> Option<Sent> {
        let sent = std::mem::take(self);
        (sent.messages > 0).then_some(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_told_once() {
        let mut sent = Sent::default();
        assert_eq!(sent.take(), None);
        sent.note(0);
        sent.note(7);
        assert_eq!(sent.take(), Some(Sent { messages: 2, payload_bytes: 7 }));
        assert_eq!(sent.take(), None);
    }
}
