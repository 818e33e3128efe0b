//! The progress of a run: one line per second on standard error, and the samples of the
//! [`Timeline`].

use crate::process_usage;
use crate::report::grouped;
use crate::timeline::Timeline;

/// Prints progress at most once a second, and records the timeline.
#[derive(Debug)]
pub(crate) struct Progress {
    quiet: bool,
    due_nanos: u64,
    /// Time and work when the last line was printed.
    last: (u64, u64),
    timeline: Timeline,
}

const INTERVAL_NANOS: u64 = 1_000_000_000;

impl Progress {
    /// `broker_pid` is the process whose CPU time is sampled.
    pub(crate) fn new(quiet: bool, broker_pid: Option<u32>) -> Progress {
        let timeline = Timeline::new(broker_pid);
        Progress { quiet, due_nanos: INTERVAL_NANOS, last: (0, 0), timeline }
    }

    /// Prints `text` if a line is due at `now`.
    pub(crate) fn print_line(&mut self, now: u64, text: impl FnOnce() -> String) {
        if now >= self.due_nanos && !self.quiet {
            eprintln!("{:>6.1} s  {}", now as f64 / 1e9, text());
            self.due_nanos = now + INTERVAL_NANOS;
        }
    }

    /// Updates the progress of a scenario that has done `work` units in all. Takes a sample if one
    /// is due. Prints the rate since the last line, and `text`, if a line is due.
    #[inline]
    pub(crate) fn update(&mut self, now: u64, work: u64, text: impl FnOnce() -> String) {
        if self.timeline.is_due(now) {
            self.timeline.take(now, work, process_usage::own_thread_nanos);
        }
        if now >= self.due_nanos && !self.quiet {
            self.print_rate(now, work, text);
        }
    }

    /// The timeline of the run so far.
    pub(crate) fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    fn print_rate(&mut self, now: u64, work: u64, text: impl FnOnce() -> String) {
        let (then, before) = std::mem::replace(&mut self.last, (now, work));
        let rate = work.saturating_sub(before) as f64 * 1e9 / now.saturating_sub(then).max(1) as f64;
        let busy = self.timeline.last_rate().and_then(|rate| rate.broker_cores);
        let busy = busy.map_or(String::new(), |cores| format!(", broker CPU {:.0} %", cores * 100.0));
        // There is no earlier line that the first one could compute a rate from.
        let rate = if then == 0 { String::new() } else { format!("{}/s, ", grouped(rate, 0)) };
        self.print_line(now, || format!("{rate}{}{busy}", text()));
    }
}
