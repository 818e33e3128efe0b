//! The losses of a session: how many messages it has lost since its client was last told, and why.
//!
//! Only messages for the session with QoS 1 or 2 are counted. QoS 0 guarantees nothing, and many QoS 0 losses
//! of a slow client would hide the losses that matter. They are in the broker's counters only.

/// Why a message was lost for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// Its queue was full: the message was dropped or refused.
    QueueFull = 0,
    /// The Message Expiry Interval ended while the message waited.
    Expired = 1,
    /// The message was larger than the client's Maximum Packet Size.
    TooLarge = 2,
    /// The client was no longer allowed to receive the message: the rules have changed, or another user has
    /// the session.
    Withdrawn = 3,
}

/// The number of causes.
pub const LOSS_CAUSES: usize = 4;

/// The counts. A count at its highest value does not wrap around.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    counts: [u32; LOSS_CAUSES],
    times: LossTimes,
}

/// The times of the first and the last loss of a ledger, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossTimes {
    /// The time of the first loss.
    pub first_millis: u64,
    /// The time of the last loss.
    pub last_millis: u64,
}

impl LossCause {
    /// All causes, in the order of their discriminants.
    pub const ALL: [LossCause; LOSS_CAUSES] =
        [LossCause::QueueFull, LossCause::Expired, LossCause::TooLarge, LossCause::Withdrawn];
}

impl Losses {
    /// Creates a ledger from its parts.
    pub fn new(counts: [u32; LOSS_CAUSES], times: LossTimes) -> Losses {
        Losses { counts, times }
    }

    /// The counts by cause.
    pub fn counts(&self) -> [u32; LOSS_CAUSES] {
        self.counts
    }

    /// The times of the first and the last loss.
    pub fn times(&self) -> LossTimes {
        self.times
    }

    /// The number of losses with this cause.
    pub fn of(&self, cause: LossCause) -> u32 {
        self.counts[cause as usize]
    }

    /// Whether nothing was lost.
    pub fn is_empty(&self) -> bool {
        self.counts == [0; LOSS_CAUSES]
    }

    /// The messages that the client should have received, without expired ones and without those that it was
    /// not allowed to receive. With a filtered subscription, the latter include everything that was never
    /// meant for it.
    pub fn dropped(&self) -> u32 {
        self.of(LossCause::QueueFull).saturating_add(self.of(LossCause::TooLarge))
    }

    /// Counts a loss.
    pub fn note(&mut self, cause: LossCause, at_millis: u64) {
        self.set(cause, self.of(cause).saturating_add(1), at_millis);
    }

    /// Sets the count after the latest loss.
    pub fn set(&mut self, cause: LossCause, count: u32, at_millis: u64) {
        if self.is_empty() {
            self.times.first_millis = at_millis;
        }
        self.times.last_millis = at_millis;
        self.counts[cause as usize] = count;
    }

    /// Sets the losses that the client has not been told of.
    pub fn leave(&mut self, left: [u32; LOSS_CAUSES]) {
        *self = match left {
            [0, 0, 0, 0] => Losses::default(),
            left => {
                let last_millis = self.times.last_millis;
                Losses::new(left, LossTimes { first_millis: last_millis, last_millis })
            }
        };
    }

    /// The losses that are left after the client was told of `told`.
    pub fn without(&self, reported: &Losses) -> [u32; LOSS_CAUSES] {
        std::array::from_fn(|at| self.counts[at].saturating_sub(reported.counts[at]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_after_the_telling_began_is_left() {
        let mut losses = Losses::default();
        losses.note(LossCause::Expired, 5);
        losses.note(LossCause::QueueFull, 7);
        let reported = losses;
        losses.note(LossCause::QueueFull, 9);
        losses.note(LossCause::Withdrawn, 10);
        let times = LossTimes { first_millis: 5, last_millis: 10 };
        assert_eq!((losses.times(), losses.dropped()), (times, 2));
        losses.leave(losses.without(&reported));
        assert_eq!(losses, Losses::new([1, 0, 0, 1], LossTimes { first_millis: 10, last_millis: 10 }));
        losses.leave(losses.without(&losses));
        assert_eq!(losses, Losses::default());
    }

    #[test]
    fn a_count_stays_at_its_highest_value() {
        let mut losses = Losses::new([u32::MAX, 0, 0, 0], LossTimes { first_millis: 1, last_millis: 2 });
        losses.note(LossCause::QueueFull, 3);
        losses.note(LossCause::TooLarge, 3);
        assert_eq!((losses.of(LossCause::QueueFull), losses.dropped()), (u32::MAX, u32::MAX));
    }

    #[test]
    fn each_cause_stands_at_its_place() {
        assert!(LossCause::ALL.iter().enumerate().all(|(at, &cause)| cause as usize == at));
    }
}
