//! The loss ledger of a session: how many messages it has lost since its client was told last, and why.
//!
//! It counts what was meant for the session at QoS 1 or 2. QoS 0 promises nothing, and a stream of it to a slow client
//! would hide the losses that matter; it is in the counters of the broker alone.

/// Why a message was lost for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// Its queue was full: dropped, or refused.
    QueueFull = 0,
    /// The Message Expiry Interval ran out while the message waited.
    Expired = 1,
    /// It was above the client's Maximum Packet Size.
    TooLarge = 2,
    /// By then the client of the session might not receive it: rules have changed, or another user has the session.
    Withdrawn = 3,
}

/// How many causes there are.
pub const LOSS_CAUSES: usize = 4;

/// The ledger. A count stays at its highest value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    counts: [u32; LOSS_CAUSES],
    times: LossTimes,
}

/// When the first and the last message of a ledger was lost, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossTimes {
    /// The first one.
    pub first_millis: u64,
    /// The last one.
    pub last_millis: u64,
}

impl LossCause {
    /// All of them; each stands at the place of its discriminant.
    pub const ALL: [LossCause; LOSS_CAUSES] =
        [LossCause::QueueFull, LossCause::Expired, LossCause::TooLarge, LossCause::Withdrawn];
}

impl Losses {
    /// From its parts.
    pub fn new(counts: [u32; LOSS_CAUSES], times: LossTimes) -> Losses {
        Losses { counts, times }
    }

    /// By cause.
    pub fn counts(&self) -> [u32; LOSS_CAUSES] {
        self.counts
    }

    /// When they were lost.
    pub fn times(&self) -> LossTimes {
        self.times
    }

    /// So many were lost for this cause.
    pub fn of(&self, cause: LossCause) -> u32 {
        self.counts[cause as usize]
    }

    /// Nothing was lost.
    pub fn is_empty(&self) -> bool {
        self.counts == [0; LOSS_CAUSES]
    }

    /// What the client should have got and has not, but for what has expired. What it may not receive is not among it:
    /// with a filtered subscription, that is everything that was never its own.
    pub fn dropped(&self) -> u32 {
        self.of(LossCause::QueueFull).saturating_add(self.of(LossCause::TooLarge))
    }

    /// One more.
    pub fn note(&mut self, cause: LossCause, at_millis: u64) {
        self.set(cause, self.of(cause).saturating_add(1), at_millis);
    }

    /// The last one made it so many.
    pub fn set(&mut self, cause: LossCause, count: u32, at_millis: u64) {
        if self.is_empty() {
            self.times.first_millis = at_millis;
        }
        self.times.last_millis = at_millis;
        self.counts[cause as usize] = count;
    }

    /// So many are left that the client was not told of.
    pub fn leave(&mut self, left: [u32; LOSS_CAUSES]) {
        *self = match left {
            [0, 0, 0, 0] => Losses::default(),
            left => {
                let last_millis = self.times.last_millis;
                Losses::new(left, LossTimes { first_millis: last_millis, last_millis })
            }
        };
    }

    /// What is left after a client was told of these.
    pub fn without(&self, told: &Losses) -> [u32; LOSS_CAUSES] {
        std::array::from_fn(|at| self.counts[at].saturating_sub(told.counts[at]))
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
        let told = losses;
        losses.note(LossCause::QueueFull, 9);
        losses.note(LossCause::Withdrawn, 10);
        let times = LossTimes { first_millis: 5, last_millis: 10 };
        assert_eq!((losses.times(), losses.dropped()), (times, 2));
        losses.leave(losses.without(&told));
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
