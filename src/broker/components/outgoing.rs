//! The mails that leave this shard, in order, and the mails to itself.

use crate::base::{IntentNumber, ShardId, Ticket};
use crate::broker::Mail;
use crate::session::Message;
use std::collections::VecDeque;

/// See the module.
pub(in crate::broker) struct Outgoing {
    id: ShardId,
    /// The mails to other shards.
    queue: VecDeque<Posting>,
    /// The mails to this shard.
    own: VecDeque<Mail>,
    /// The number of postings, from the front of the queue on, whose bytes are counted already, and those
    /// bytes.
    seen: usize,
    bytes: usize,
}

/// An item of the queue.
pub(in crate::broker) enum Posting {
    Mail(ShardId, Mail),
    /// A retained message, after the mail to its home.
    Onward(Box<Onward>),
}

impl Posting {
    fn message_bytes(&self) -> usize {
        match self {
            Posting::Mail(_, mail) => mail.message_bytes(),
            // It shares the message with the mail to its home.
            Posting::Onward(_) => 0,
        }
    }
}

/// A retained message that goes to the shards with subscribers after its home was told.
///
/// These shards are looked up when the mail to the home is in that shard's box. This order closes a gap: a
/// shard that subscribes meanwhile is either among those that get a mail, or asks the home after the message
/// got there.
#[derive(Debug)]
pub(in crate::broker) struct Onward {
    pub message: Message,
    pub home: ShardId,
    pub ticket: Option<Ticket>,
    /// The intent, if it is one.
    pub intent: Option<IntentNumber>,
    /// The shards that the intent targets.
    pub targets: u128,
}

impl Outgoing {
    pub(in crate::broker) fn new(id: ShardId) -> Outgoing {
        Outgoing { id, queue: VecDeque::new(), own: VecDeque::new(), seen: 0, bytes: 0 }
    }

    /// Sends a mail to another shard or to this one.
    pub(in crate::broker) fn post(&mut self, to: ShardId, mail: Mail) {
        if to == self.id {
            self.own.push_back(mail);
        } else {
            self.queue.push_back(Posting::Mail(to, mail));
        }
    }

    /// Forwards a retained message after everything that was posted before it is in its boxes.
    pub(in crate::broker) fn post_onward(&mut self, onward: Onward) {
        self.queue.push_back(Posting::Onward(Box::new(onward)));
    }

    /// The next posting for another shard. `is_open` returns whether everything for a shard is in its box. A
    /// retained message is forwarded only if this is so for its home, and nothing overtakes it.
    pub(in crate::broker) fn pop(&mut self, is_open: impl Fn(ShardId) -> bool) -> Option<Posting> {
        if let Posting::Onward(onward) = self.queue.front()?
            && !is_open(onward.home)
        {
            return None;
        }
        let posting = self.queue.pop_front()?;
        if self.seen > 0 {
            self.seen -= 1;
            self.bytes -= posting.message_bytes();
        }
        Some(posting)
    }

    /// Puts a mail to another shard before all others.
    pub(in crate::broker) fn post_first(&mut self, to: ShardId, mail: Mail) {
        let posting = Posting::Mail(to, mail);
        if self.seen > 0 {
            self.seen += 1;
            self.bytes += posting.message_bytes();
        }
        self.queue.push_front(posting);
    }

    /// The number of postings for other shards.
    pub(in crate::broker) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether there is a mail of this shard to itself.
    pub(in crate::broker) fn has_own(&self) -> bool {
        !self.own.is_empty()
    }

    /// The next mail of this shard to itself.
    pub(in crate::broker) fn pop_own(&mut self) -> Option<Mail> {
        self.own.pop_front()
    }

    /// The bytes of the messages for other shards.
    pub(in crate::broker) fn bytes(&mut self) -> usize {
        self.bytes += self.queue.iter().skip(self.seen).map(Posting::message_bytes).sum::<usize>();
        self.seen = self.queue.len();
        self.bytes
    }

    /// The bytes of the messages that were there at the last call of [`Outgoing::bytes`] and have not left
    /// since then.
    pub(in crate::broker) fn bytes_seen(&self) -> usize {
        self.bytes
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.queue.shrink_to_fit();
        self.own.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::QoS;
    use crate::session::Publication;

    fn message(payload: &[u8]) -> Message {
        let publication = Publication {
            topic: "t",
            forward: [&[]; 3],
            payload,
            qos: QoS::AtMostOnce,
            retain: false,
            expires_at: None,
            origin: None,
            stamp: None,
            source: &[],
        };
        publication.to_message()
    }

    fn publish(payload: &[u8]) -> Mail {
        Mail::Publish { message: message(payload), ticket: None, intent: None }
    }

    fn to(posting: Option<Posting>) -> Option<ShardId> {
        match posting? {
            Posting::Mail(to, _) => Some(to),
            Posting::Onward(_) => None,
        }
    }

    #[test]
    fn nothing_overtakes_a_retained_message_whose_home_is_behind() {
        let mut outgoing = Outgoing::new(0);
        outgoing.post(1, publish(b"first"));
        outgoing.post_onward(Onward {
            message: message(b"kept"),
            home: 1,
            ticket: None,
            intent: None,
            targets: 0,
        });
        outgoing.post(2, publish(b"later"));
        assert_eq!(to(outgoing.pop(|_| false)), Some(1), "a mail waits for nothing");
        assert!(outgoing.pop(|shard| shard != 1).is_none());
        assert_eq!(outgoing.len(), 2);
        assert!(matches!(outgoing.pop(|_| true), Some(Posting::Onward(_))));
        outgoing.post_first(3, publish(b"kept"));
        assert_eq!(to(outgoing.pop(|_| true)), Some(3));
        assert_eq!(to(outgoing.pop(|_| true)), Some(2));
    }

    #[test]
    fn mails_to_itself_are_apart() {
        let mut outgoing = Outgoing::new(2);
        outgoing.post(2, publish(b"own"));
        assert!(outgoing.has_own() && outgoing.len() == 0);
        assert!(outgoing.pop_own().is_some() && !outgoing.has_own());
    }

    #[test]
    fn bytes_count_what_has_not_left() {
        let mut outgoing = Outgoing::new(0);
        outgoing.post(1, publish(&[0; 100]));
        let one = outgoing.bytes();
        assert!(one >= 100);
        outgoing.post(1, publish(&[0; 100]));
        assert_eq!(outgoing.bytes(), 2 * one);
        assert_eq!(outgoing.bytes_seen(), 2 * one);
        outgoing.pop(|_| true);
        assert_eq!(outgoing.bytes(), one);
    }
}
