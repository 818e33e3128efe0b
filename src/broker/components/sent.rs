//! The messages that a turn has sent. They are counted one by one, and reported together at the end of the
//! turn.

use crate::mqtt::QoS;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::broker) struct Sent {
    /// The number of PUBLISH packets, by QoS.
    pub messages: [u64; 3],
    /// The bytes of their payloads.
    pub payload_bytes: u64,
}

impl Sent {
    #[inline(always)]
    pub(in crate::broker) fn note(&mut self, qos: QoS, payload_bytes: usize) {
        self.messages[qos as usize] += 1;
        self.payload_bytes += payload_bytes as u64;
    }

    /// What was sent since the last call. `None` if nothing was.
    pub(in crate::broker) fn take(&mut self) -> Option<Sent> {
        let sent = std::mem::take(self);
        (sent.messages != [0; 3]).then_some(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_told_once() {
        let mut sent = Sent::default();
        assert_eq!(sent.take(), None);
        sent.note(QoS::AtMostOnce, 0);
        sent.note(QoS::ExactlyOnce, 7);
        assert_eq!(sent.take(), Some(Sent { messages: [1, 0, 1], payload_bytes: 7 }));
        assert_eq!(sent.take(), None);
    }
}
