//! Deadlines that survive a restart are stored on the log's clock.

use crate::base::Time;

/// The log's clock ([`LogClock`](super::LogClock)) at the zero of the broker's clock. It is about
/// milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wall {
    /// The log's clock at [`Time::ZERO`], in milliseconds.
    pub zero_millis: u64,
}

impl Wall {
    /// The log's clock at this time of the broker's clock, in milliseconds.
    pub fn millis(self, time: Time) -> u64 {
        self.zero_millis.saturating_add(time.as_millis())
    }

    /// The time on the broker's clock. Times before its zero become zero.
    pub fn time(self, millis: u64) -> Time {
        Time::from_millis(millis.saturating_sub(self.zero_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_goes_on_running_while_the_broker_is_down() {
        let before = Wall { zero_millis: 1_000_000 };
        let deadline = before.millis(Time::from_millis(500).after_seconds(60));
        let after = Wall { zero_millis: 1_040_000 };
        assert_eq!(after.time(deadline), Time::from_millis(20_500));
        let late = Wall { zero_millis: 9_000_000 };
        assert_eq!(late.time(deadline), Time::ZERO);
        assert_eq!(late.time(u64::MAX), Time::from_millis(u64::MAX - 9_000_000));
    }
}
