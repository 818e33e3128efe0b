//! The averages of `$SYS/broker/load`: events per minute, exponentially damped over 1, 5 and 15 minutes.
//!
//! This component owns the averages and the totals of the last update. The input is totals and the time that
//! has passed, and the output is averages. Their meaning is that of mosquitto, so that its exporters and
//! dashboards work: an average starts at 0, and after an interval of `s` seconds the rate of the interval has
//! the weight `1 - e^(-s / span)`.

/// The period of an average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker) enum Span {
    One,
    Five,
    Fifteen,
}

/// Every span, in order.
const SPANS: [Span; 3] = [Span::One, Span::Five, Span::Fifteen];

impl Span {
    const fn seconds(self) -> f64 {
        match self {
            Span::One => 60.0,
            Span::Five => 300.0,
            Span::Fifteen => 900.0,
        }
    }
}

/// The averages of a total that only grows.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::broker) struct Load {
    total: u64,
    per_minute: [f64; SPANS.len()],
}

impl Load {
    /// Updates the averages: `seconds` have passed, and `total` was counted since the start.
    pub(in crate::broker) fn update(&mut self, seconds: f64, total: u64) {
        if seconds <= 0.0 {
            return;
        }
        // A shard that hands over a connection subtracts what it has counted. The connection's home adds it a
        // moment later.
        let grown = total.saturating_sub(self.total);
        self.total = self.total.max(total);
        let rate = grown as f64 * 60.0 / seconds;
        for (average, span) in self.per_minute.iter_mut().zip(SPANS) {
            *average = rate + (*average - rate) * (-seconds / span.seconds()).exp();
        }
    }

    /// The number of events per minute.
    pub(in crate::broker) fn per_minute(&self, span: Span) -> f64 {
        self.per_minute[span as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, wanted: f64) -> bool {
        (value - wanted).abs() < 0.005
    }

    #[test]
    fn one_interval_weighs_what_mosquitto_gives_it() {
        let mut load = Load::default();
        // 100 events in 10 s are 600 per minute.
        load.update(10.0, 100);
        assert!(near(load.per_minute(Span::One), 92.11), "{load:?}");
        assert!(near(load.per_minute(Span::Five), 19.67), "{load:?}");
        assert!(near(load.per_minute(Span::Fifteen), 6.63), "{load:?}");
        // Without events in the next 10 s, the averages decay.
        load.update(10.0, 100);
        assert!(near(load.per_minute(Span::One), 77.97), "{load:?}");
    }

    #[test]
    fn a_steady_rate_is_reached_whatever_the_interval() {
        for seconds in [1.0, 10.0, 70.0] {
            let mut load = Load::default();
            let mut total = 0;
            for _ in 0..(20_000.0 / seconds) as u32 {
                total += 5 * seconds as u64;
                load.update(seconds, total);
            }
            for span in SPANS {
                assert!(near(load.per_minute(span), 300.0), "{seconds} s: {load:?}");
            }
        }
    }

    #[test]
    fn a_total_that_falls_for_a_moment_is_no_negative_rate_and_is_not_counted_twice() {
        let mut load = Load::default();
        load.update(60.0, 1000);
        let before = load.per_minute(Span::One);
        load.update(60.0, 900);
        assert!(load.per_minute(Span::One) > 0.0 && load.per_minute(Span::One) < before);
        let mut steady = load;
        load.update(60.0, 1000);
        steady.update(60.0, 900);
        assert_eq!(load.per_minute, steady.per_minute);
    }

    #[test]
    fn no_time_changes_nothing() {
        let mut load = Load::default();
        load.update(0.0, 1000);
        assert_eq!(load.per_minute, [0.0; 3]);
        load.update(1.0, 1000);
        assert!(load.per_minute(Span::One) > 0.0, "what came in no time is not lost");
    }
}
