//! Samples of a run, about ten per second: the work done so far, and the CPU time of the broker if
//! its process is known.
//!
//! The samples are cumulative. Leaving out every second one loses detail but no work, so a run of
//! any length fits a table of bounded size. A sample of a broker with many threads takes longer.
//! The interval therefore grows until sampling takes a negligible share of the time.

use crate::process_usage;

/// The samples of a run.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    broker_pid: Option<u32>,
    interval_nanos: u64,
    due_nanos: u64,
    samples: Vec<Sample>,
}

/// The work done up to one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Since the start of the run.
    pub(crate) nanos: u64,
    pub(crate) work: u64,
    /// CPU time of the threads of the broker that are alive.
    pub(crate) broker_nanos: Option<u64>,
}

/// The rate between two samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    pub(crate) from_nanos: u64,
    pub(crate) to_nanos: u64,
    pub(crate) work_per_second: f64,
    /// Number of CPUs that the broker kept busy. 1 is one whole CPU.
    pub(crate) broker_cores: Option<f64>,
}

const INTERVAL_NANOS_MIN: u64 = 100_000_000;
/// At this number of samples, every second one is removed.
const SAMPLES_MAX: usize = 1200;
/// Sampling may take at most one part in this many of the harness's time.
const COST_SHARE: u64 = 200;

impl Timeline {
    pub(crate) fn new(broker_pid: Option<u32>) -> Timeline {
        Timeline { broker_pid, interval_nanos: INTERVAL_NANOS_MIN, due_nanos: 0, samples: Vec::new() }
    }

    /// Whether a sample is due at `now`.
    #[inline]
    pub(crate) fn is_due(&self, now: u64) -> bool {
        now >= self.due_nanos
    }

    /// Takes a sample. `cpu_nanos` returns the CPU time of this thread, which gives the cost of the
    /// sample.
    pub(crate) fn take(&mut self, now: u64, work: u64, cpu_nanos: impl Fn() -> u64) {
        let started = cpu_nanos();
        let broker_nanos = self.broker_pid.and_then(process_usage::running_nanos);
        self.push(Sample { nanos: now, work, broker_nanos });
        let cost = cpu_nanos().saturating_sub(started);
        self.due_nanos = now + self.interval_nanos.max(cost.saturating_mul(COST_SHARE));
    }

    fn push(&mut self, sample: Sample) {
        if self.samples.len() == SAMPLES_MAX {
            let mut at = 0;
            self.samples.retain(|_| {
                at += 1;
                at % 2 == 1
            });
            self.interval_nanos *= 2;
        }
        self.samples.push(sample);
    }

    pub(crate) fn samples(&self) -> &[Sample] {
        &self.samples
    }

    pub(crate) fn rates(&self) -> Vec<Rate> {
        self.samples.windows(2).filter_map(|pair| Rate::between(&pair[0], &pair[1])).collect()
    }

    /// The rate between the last two samples.
    pub(crate) fn last_rate(&self) -> Option<Rate> {
        let [.., old, new] = self.samples.as_slice() else { return None };
        Rate::between(old, new)
    }
}

impl Rate {
    fn between(old: &Sample, new: &Sample) -> Option<Rate> {
        let nanos = new.nanos.saturating_sub(old.nanos);
        let cores = |(new, old): (u64, u64)| {
            // The time of a thread that has ended is missing, so a smaller value counts as zero.
            new.saturating_sub(old) as f64 / nanos as f64
        };
        (nanos > 0).then(|| Rate {
            from_nanos: old.nanos,
            to_nanos: new.nanos,
            work_per_second: new.work.saturating_sub(old.work) as f64 * 1e9 / nanos as f64,
            broker_cores: new.broker_nanos.zip(old.broker_nanos).map(cores),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_run_stays_within_the_sample_limit_and_loses_no_work() {
        let mut timeline = Timeline::new(None);
        let mut taken = 0;
        for step in 0..100_000 {
            let now = step * 10_000_000;
            if timeline.is_due(now) {
                timeline.take(now, step, || 0);
                taken += 1;
            }
        }
        assert!(taken > SAMPLES_MAX && timeline.samples().len() <= SAMPLES_MAX);
        let done: f64 = timeline
            .rates()
            .iter()
            .map(|rate| rate.work_per_second * (rate.to_nanos - rate.from_nanos) as f64 / 1e9)
            .sum();
        let last = timeline.samples().last().unwrap();
        assert!((done - last.work as f64).abs() < 0.5, "{done} of {}", last.work);
    }

    #[test]
    fn expensive_samples_are_taken_less_often() {
        let mut timeline = Timeline::new(None);
        let spent = std::cell::Cell::new(0);
        timeline.take(0, 0, || spent.replace(spent.get() + 5_000_000));
        assert!(!timeline.is_due(999_999_999) && timeline.is_due(1_000_000_000));
    }

    #[test]
    fn decreasing_cpu_time_counts_as_zero() {
        let mut timeline = Timeline::new(None);
        for (nanos, broker_nanos) in [(0, 500), (100, 550), (200, 20)] {
            timeline.push(Sample { nanos, work: 0, broker_nanos: Some(broker_nanos) });
        }
        let cores: Vec<_> = timeline.rates().iter().map(|rate| rate.broker_cores).collect();
        assert_eq!(cores, [Some(0.5), Some(0.0)]);
    }
}
