//! What the shard asks its host to do, in order, and the mails to itself.

use crate::base::ShardId;
use crate::broker::{Effect, Mail};
use std::collections::VecDeque;

/// See the module.
pub(in crate::broker) struct Effects {
    id: ShardId,
    list: Vec<Effect>,
    /// Mails to this shard.
    loopback: VecDeque<Mail>,
    /// Effects that were looked at, and the bytes of the messages in them.
    seen: usize,
    mail_bytes: usize,
}

impl Effects {
    pub(in crate::broker) fn new(id: ShardId) -> Effects {
        Effects { id, list: Vec::new(), loopback: VecDeque::new(), seen: 0, mail_bytes: 0 }
    }

    pub(in crate::broker) fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Sends a mail, to another shard or to this one.
    pub(in crate::broker) fn post(&mut self, to: ShardId, mail: Mail) {
        if to == self.id {
            self.loopback.push_back(mail);
        } else {
            self.list.push(Effect::Mail { to, mail });
        }
    }

    /// Are there mails of this shard to itself?
    pub(in crate::broker) fn has_own_mail(&self) -> bool {
        !self.loopback.is_empty()
    }

    /// The next mail of this shard to itself.
    pub(in crate::broker) fn pop_own_mail(&mut self) -> Option<Mail> {
        self.loopback.pop_front()
    }

    /// Bytes of the messages that this turn sends to other shards and that are not handed over yet.
    pub(in crate::broker) fn mail_bytes(&mut self) -> usize {
        for effect in self.list.iter().skip(self.seen) {
            if let Effect::Mail { mail, .. } = effect {
                self.mail_bytes += mail.message_bytes();
            }
        }
        self.seen = self.list.len();
        self.mail_bytes
    }

    /// The same as of the last call of [`Effects::mail_bytes`].
    pub(in crate::broker) fn mail_bytes_seen(&self) -> usize {
        self.mail_bytes
    }

    /// All of them, in order.
    pub(in crate::broker) fn take(&mut self) -> Vec<Effect> {
        (self.seen, self.mail_bytes) = (0, 0);
        std::mem::take(&mut self.list)
    }

    /// Takes the list back, so that it is not allocated each turn.
    pub(in crate::broker) fn recycle(&mut self, mut list: Vec<Effect>) {
        if self.list.is_empty() {
            list.clear();
            self.list = list;
        }
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.list.shrink_to_fit();
        self.loopback.shrink_to_fit();
    }
}
