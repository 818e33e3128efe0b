//! Messages that a shard keeps for its sessions, and what they count for.

use super::Message;
use crate::base::{MemoryAccount, MemoryKind};
use std::ops::Deref;
use std::rc::Rc;

/// A message that a shard keeps for sessions, counted once however many of them share it.
#[derive(Debug)]
pub struct KeptMessage {
    message: Message,
    account: MemoryAccount,
}

impl KeptMessage {
    /// Keeps a message.
    #[inline(always)]
    pub fn new(message: Message, account: &MemoryAccount) -> Rc<KeptMessage> {
        account.add(MemoryKind::Messages, message.bytes());
        Rc::new(KeptMessage { message, account: account.clone() })
    }
}

impl Deref for KeptMessage {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl Drop for KeptMessage {
    fn drop(&mut self) {
        self.account.subtract(MemoryKind::Messages, self.message.bytes());
    }
}
