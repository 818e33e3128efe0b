//! The state of a connection whose socket does not take everything: how much waits, how much of that the
//! client has asked for itself, and when its socket last took something.
//!
//! The bytes of a backlog are not tracked one by one. Bytes that the client asked for count until the socket
//! has taken everything that waited at a later mark.

use crate::base::Time;
use crate::broker::components::outbox::Given;

/// A backlog, as the driver reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// The number of bytes that wait in the driver.
    pub bytes: usize,
    /// The number of bytes that the socket has taken since the backlog began.
    pub taken: u64,
}

/// The backlog state of a connection. It exists only while there is a backlog.
#[derive(Debug)]
pub(in crate::broker) struct Slow {
    backlog: Backlog,
    /// The number of bytes since the mark that the client asked for: answers, and messages that it sent to
    /// itself.
    asked: usize,
    /// The number of such bytes before the mark that may still wait.
    asked_before: usize,
    /// When the socket has taken this many bytes, everything asked for before the mark is with the peer.
    mark: u64,
    /// When the socket last took something.
    pub(in crate::broker) progressed_at: Time,
    /// The number of QoS 0 messages that were dropped for lack of room.
    pub(in crate::broker) dropped: u64,
    /// The approximate number of PUBLISH packets that wait in the driver: see [`Slow::estimate`].
    packets: u64,
}

/// The client may have asked for one part in [`ASKED_PART`] of the allowed bytes of a backlog.
const ASKED_PART: usize = 8;

impl Slow {
    pub(in crate::broker) fn new(now: Time, backlog: Backlog) -> Slow {
        let mark = backlog.taken + backlog.bytes as u64;
        Slow { backlog, asked: 0, asked_before: 0, mark, progressed_at: now, dropped: 0, packets: 0 }
    }

    /// Notes that the backlog has grown or shrunk.
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

    /// Notes that the client gets more bytes because it has asked for them.
    pub(in crate::broker) fn note_asked(&mut self, bytes: usize) {
        self.asked = self.asked.saturating_add(bytes);
    }

    /// Estimates how many packets wait, from the mean size of those that were queued for the connection so
    /// far. Packets in a backlog are not tracked one by one, and TLS hides their limits.
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

    /// An upper bound of the bytes that wait because the client has asked for them.
    fn asked(&self) -> usize {
        (self.asked + self.asked_before).min(self.backlog.bytes)
    }

    /// Whether the client asks for more than it reads.
    pub(in crate::broker) fn asks_too_much(&self, backlog_bytes_max: usize) -> bool {
        self.backlog.bytes >= backlog_bytes_max && self.asked() > backlog_bytes_max / ASKED_PART
    }

    /// Whether it has read enough to ask for more.
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
        // The socket has taken everything that waited before the answers, but not the answers.
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
        // Only answers wait, or only bytes of the layers below.
        for given in [Given { messages: 0, bytes: 40 }, Given::default()] {
            slow.estimate(given);
            assert_eq!(slow.packets(), 1);
        }
    }

    #[test]
    fn answers_of_long_ago_do_not_count_though_the_backlog_never_ends() {
        let mut slow = Slow::new(after(1), Backlog { bytes: MAX, taken: 0 });
        // For each 1000 bytes of other data that the client reads, it asks for 10.
        for round in 1..10_000 {
            slow.note_asked(10);
            slow.note(after(round), Backlog { bytes: MAX, taken: round * 1000 });
            assert!(!slow.asks_too_much(MAX), "in round {round}");
        }
    }
}
