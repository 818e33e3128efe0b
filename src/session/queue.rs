//! The queue of a session: QoS 1 and 2 messages that wait for the client or for its window.

use super::Delivery;
use crate::base::Time;
use crate::base::{DeliveryNumber, Empty, LazyBox};
use std::collections::VecDeque;

/// The bounds of one session's queue. At a bound the new message is refused.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// The largest number of messages.
    pub messages: usize,
    /// The largest number of bytes, by `Message::bytes`.
    pub bytes: usize,
}

/// A message was refused because the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

/// First in, first out. `[MQTT5-4.6.0-6]`
#[derive(Debug, Default)]
pub struct Queue(LazyBox<Waiting>);

/// The content of a queue that is not empty.
#[derive(Debug, Default)]
struct Waiting {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
}

impl Empty for Waiting {
    const EMPTY: &Self = &Waiting { deliveries: VecDeque::new(), bytes: 0 };
}

impl Queue {
    /// Appends a delivery.
    ///
    /// # Errors
    /// `QueueFull` at either bound.
    pub fn push(&mut self, delivery: Delivery, limits: QueueLimits) -> Result<(), QueueFull> {
        let bytes = delivery.message.bytes();
        if self.len() >= limits.messages || self.bytes().saturating_add(bytes) > limits.bytes {
            return Err(QueueFull);
        }
        let waiting = self.0.filled();
        waiting.bytes += bytes;
        waiting.deliveries.push_back(delivery);
        Ok(())
    }

    /// Sets the log number of the newest delivery.
    pub fn number_newest(&mut self, number: DeliveryNumber) {
        if let Some(newest) = self.0.existing().and_then(|waiting| waiting.deliveries.back_mut()) {
            newest.number = Some(number);
        }
    }

    /// Takes the oldest delivery.
    pub fn pop(&mut self) -> Option<Delivery> {
        let waiting = self.0.existing()?;
        let delivery = waiting.deliveries.pop_front()?;
        waiting.bytes -= delivery.message.bytes();
        if waiting.deliveries.is_empty() {
            // The memory of a long absence is freed at once.
            self.0 = LazyBox::default();
        }
        Some(delivery)
    }

    /// Takes the expired deliveries among the oldest `visits_max`.
    pub fn take_expired(&mut self, now: Time, visits_max: usize) -> Vec<Delivery> {
        let has_expired = |delivery: &Delivery| delivery.message.is_expired(now);
        if !self.iter().take(visits_max).any(has_expired) {
            return Vec::new();
        }
        let Some(waiting) = self.0.existing() else { return Vec::new() };
        let visits = waiting.deliveries.len().min(visits_max);
        let visited: Vec<Delivery> = waiting.deliveries.drain(..visits).collect();
        let (expired, left): (Vec<_>, Vec<_>) = visited.into_iter().partition(has_expired);
        for delivery in left.into_iter().rev() {
            waiting.deliveries.push_front(delivery);
        }
        waiting.bytes -= expired.iter().map(|delivery| delivery.message.bytes()).sum::<usize>();
        if waiting.deliveries.is_empty() {
            self.0 = LazyBox::default();
        }
        expired
    }

    /// The oldest delivery.
    pub fn front(&self) -> Option<&Delivery> {
        self.0.deliveries.front()
    }

    /// All deliveries, from the oldest on.
    pub fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.0.deliveries.iter()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.deliveries.is_empty()
    }

    /// The number of messages that wait.
    pub fn len(&self) -> usize {
        self.0.deliveries.len()
    }

    /// The bytes that wait, by `Message::bytes`.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }
}
