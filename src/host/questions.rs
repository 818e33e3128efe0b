//! Answers the questions of an operator between the turn's other work, for a bounded time a turn.

use super::layers::Layered;
use super::{Host, Io};
use crate::base::Time;
use crate::broker::questions::{Answer, Inquiry, InquiryProgress};
use crate::control::questions::Asked;
use std::collections::VecDeque;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// How long a shard works on questions in one turn.
const TURN_MAX: Duration = Duration::from_micros(200);

/// The sessions that are visited between two looks at the clock. It takes some microseconds.
const VISITS: u32 = 64;

/// The questions of a shard.
pub(super) struct Inquiries {
    receiver: Option<Receiver<Asked>>,
    /// Those that are being worked on. Each has its turn in the round.
    open: VecDeque<Asked>,
    /// Those that wait for the log or for other shards. What they wait for makes the shard turn.
    waiting: VecDeque<Asked>,
}

impl Inquiries {
    pub(super) fn new(receiver: Option<Receiver<Asked>>) -> Inquiries {
        Inquiries { receiver, open: VecDeque::new(), waiting: VecDeque::new() }
    }

    /// Collects questions after the bell has rung.
    pub(super) fn look(&mut self) {
        if let Some(receiver) = &self.receiver {
            self.open.extend(receiver.try_iter());
        }
    }

    pub(super) fn has_some(&self) -> bool {
        !self.open.is_empty()
    }
}

impl<I: Io> Host<I> {
    /// Works on questions for a limited time.
    pub(super) fn answer_questions(&mut self, now: Time) {
        let Inquiries { open, waiting, .. } = &mut self.inquiries;
        open.append(waiting);
        if open.is_empty() {
            return;
        }
        let until = self.now().after(TURN_MAX);
        while let Some(mut asked) = self.inquiries.open.pop_front() {
            match self.machine.answer(now, &mut asked.inquiry, VISITS) {
                InquiryProgress::Done(mut answer) => {
                    self.complete(&asked.inquiry, &mut answer);
                    (asked.answer)(answer);
                }
                InquiryProgress::GoesOn => self.inquiries.open.push_back(asked),
                InquiryProgress::Waits => self.inquiries.waiting.push_back(asked),
            }
            self.carry_out(now, None);
            if self.now() >= until {
                return;
            }
        }
    }

    /// Adds to an answer about a client what the machine does not know: its last events, and what lies below MQTT.
    fn complete(&self, inquiry: &Inquiry, answer: &mut Answer) {
        let Some(client_id) = inquiry.client() else { return };
        match answer {
            Answer::Client(Some(details)) => {
                details.events = self.history.of(client_id);
                let layered = details.slot.and_then(|slot| self.connections.layered(slot));
                details.security = layered.and_then(Layered::security);
            }
            Answer::ExplainDelivery(found) => found.events = self.history.of(client_id),
            _ => {}
        }
    }
}
