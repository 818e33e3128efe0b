//! What is known of a connection whose socket does not take everything: how much waits, how much of that the client has
//! asked for itself, and when its socket has last taken something.
//!
//! Which bytes of a backlog are which is not kept byte by byte: what was asked for counts until the socket has taken
//! all that waited at a mark behind it.

use crate::base::Time;
use crate::broker::components::outbox::Given;

/// A backlog, as the driver tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes that wait in the driver.
    pub bytes: usize,
    /// What the socket has taken since the backlog began.
    pub taken: u64,
}

/// Of a connection with a backlog, and only as long as it has one.
#[derive(Debug)]
pub(in crate::broker) struct Slow {
    backlog: Backlog,
    /// Bytes of answers, and of what the client has sent to itself, since the mark.
    asked: usize,
    /// The same from before the mark, as far as it may still wait.
    asked_before: usize,
    /// Once the socket has taken so much, all that was asked for before the mark is with the peer.
    mark: u64,
    /// When the socket has last taken something.
    pub(in crate::broker) progressed_at: Time,
    /// QoS 0 messages that were dropped for want of room.
    pub(in crate::broker) dropped: u64,
    /// PUBLISH packets that wait in the driver, about: see [`Slow::estimate`].
    packets: u64,
}

/// Of the bytes that a backlog may have, this part may be what the client has asked for itself.
const ASKED_PART: usize = 8;

impl Slow {
    pub(in crate::broker) fn new(now: Time, backlog: Backlog) -> Slow {
        let mark = backlog.taken + backlog.bytes as u64;
        Slow { backlog, asked: 0, asked_before: 0, mark, progressed_at: now, dropped: 0, packets: 0 }
    }

    /// The backlog has grown or shrunk.
    pub(in crate::broker) fn note(&mut self, now: Time, backlog: Backlog) {
        if backlog.taken > self.backlog.taken {
            self.progressed_at = now;
        }
        self.backlog = backlog;
        if backlog.taken >= self.mark {
            self.asked_before = std::mem::take(&mut self.asked);
            self.mark = backlog.taken + backlog.bytes as u64;
        }
    }

    /// So many bytes more go to the client because it has asked for them.
    pub(in crate::broker) fn note_asked(&mut self, bytes: usize) {
        self.asked = self.asked.saturating_add(bytes);
    }

    /// How many packets wait, at the mean size of what the connection was given so far: which bytes of a backlog are
    /// which is not kept, and those of TLS can't be told apart.
    pub(in crate::broker) fn estimate(&mut self, given: Given) {
        let (bytes, of) = (self.backlog.bytes as u128, u128::from(given.bytes.max(1)));
        let packets = (bytes * u128::from(given.messages)).div_ceil(of);
        self.packets = u64::try_from(packets).unwrap_or(u64::MAX).max(u64::from(bytes > 0));
    }

    pub(in crate::broker) fn packets(&self) -> u64 {
        self.packets
    }

    pub(in crate::broker) fn bytes(&self) -> usize {
        self.backlog.bytes
    }

    /// Bytes that wait because the client has asked for them: these, or less.
    fn asked(&self) -> usize {
        (self.asked + self.asked_before).min(self.backlog.bytes)
    }

    /// Does the client ask for more than it reads?
    pub(in crate::broker) fn asks_too_much(&self, backlog_bytes_max: usize) -> bool {
        self.backlog.bytes >= backlog_bytes_max && self.asked() > backlog_bytes_max / ASKED_PART
    }

    /// Has it read enough to ask for more?
    pub(in crate::broker) fn may_ask_again(&self, backlog_bytes_max: usize) -> bool {
        self.backlog.bytes <= backlog_bytes_max / 2 || self.asked() <= backlog_bytes_max / ASKED_PART / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 8000;

    fn after(seconds: u64) -> Time {
        Time::from_millis(seconds * 1000)
    }

    #[test]
    fn messages_of_others_are_no_reason_to_stop_reading_however_many_there_are() {
        let mut slow = Slow::new(after(1), Backlog { bytes: 100, taken: 0 });
        slow.note(after(2), Backlog { bytes: 50 * MAX, taken: 0 });
        slow.note_asked(2);
        assert!(!slow.asks_too_much(MAX));
        assert_eq!(slow.progressed_at, after(1), "it has taken nothing");
    }

    #[test]
    fn who_asks_for_more_than_it_reads_is_stopped_until_it_has_read_most_of_it() {
        let mut slow = Slow::new(after(1), Backlog { bytes: 100, taken: 0 });
        slow.note_asked(MAX / 8 + 1);
        slow.note(after(1), Backlog { bytes: MAX - 1, taken: 0 });
        assert!(!slow.asks_too_much(MAX), "there is room");
        slow.note(after(1), Backlog { bytes: MAX, taken: 0 });
        assert!(slow.asks_too_much(MAX) && !slow.may_ask_again(MAX));
        // All that waited before the answers came is taken, and the answers are not.
        slow.note(after(2), Backlog { bytes: MAX - 100, taken: 100 });
        assert!(!slow.may_ask_again(MAX));
        assert_eq!(slow.progressed_at, after(2));
        slow.note(after(3), Backlog { bytes: MAX / 2, taken: MAX as u64 / 2 });
        assert!(slow.may_ask_again(MAX));
    }

    #[test]
    fn packets_that_wait_are_estimated_by_their_mean_size() {
        let mut slow = Slow::new(after(1), Backlog { bytes: 1000, taken: 0 });
        slow.estimate(Given { messages: 30, bytes: 3000 });
        assert_eq!(slow.packets(), 10);
        slow.note(after(2), Backlog { bytes: 150, taken: 850 });
        slow.estimate(Given { messages: 30, bytes: 3000 });
        assert_eq!(slow.packets(), 2, "a part of one is one");
        // Nothing but answers, or what only the layers below know of.
        for given in [Given { messages: 0, bytes: 40 }, Given::default()] {
            slow.estimate(given);
            assert_eq!(slow.packets(), 1);
        }
    }

    #[test]
    fn answers_of_long_ago_do_not_count_though_the_backlog_never_ends() {
        let mut slow = Slow::new(after(1), Backlog { bytes: MAX, taken: 0 });
        // For each 1000 bytes of others that the client reads, it asks for 10.
        for round in 1..10_000 {
            slow.note_asked(10);
            slow.note(after(round), Backlog { bytes: MAX, taken: round * 1000 });
            assert!(!slow.asks_too_much(MAX), "in round {round}");
        }
    }
}
