//! The queue of a session: QoS 1 and 2 messages that wait for the client or for its window.

use super::Delivery;
use std::collections::VecDeque;

/// Bounds of one session's queue. At a bound the new message is refused.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Messages.
    pub messages: usize,
    /// Bytes, by `Message::bytes`.
    pub bytes: usize,
}

/// A message was refused because the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

/// First in, first out. `[MQTT5-4.6.0-6]`
#[derive(Debug, Default)]
pub struct Queue {
    waiting: VecDeque<Delivery>,
    bytes: usize,
}

impl Queue {
    /// Appends.
    ///
    /// # Errors
    /// `QueueFull` at either bound.
    pub fn push(&mut self, delivery: Delivery, limits: QueueLimits) -> Result<(), QueueFull> {
        let bytes = delivery.message.bytes();
        if self.waiting.len() >= limits.messages || self.bytes.saturating_add(bytes) > limits.bytes {
            return Err(QueueFull);
        }
        self.bytes += bytes;
        self.waiting.push_back(delivery);
        Ok(())
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.waiting.pop_front()?;
        self.bytes -= delivery.message.bytes();
        if self.waiting.is_empty() {
            // The memory of a long absence goes back at once.
            self.waiting = VecDeque::new();
        }
        Some(delivery)
    }

    /// The oldest.
    pub fn front(&self) -> Option<&Delivery> {
        self.waiting.front()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes that wait, by `Message::bytes`.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
