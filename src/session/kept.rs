//! Messages that a shard keeps for its sessions, and their memory account.

use super::Message;
use crate::base::{MemoryAccount, MemoryKind};
use std::ops::Deref;
use std::rc::Rc;

/// A message that a shard keeps for sessions. It is counted once, however many sessions share it.
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
