//! One line on standard error per second while a run goes on.

/// Says how far the run is, at most once a second.
#[derive(Debug)]
pub(crate) struct Progress {
    quiet: bool,
    due_nanos: u64,
}

const INTERVAL_NANOS: u64 = 1_000_000_000;

impl Progress {
    pub(crate) fn new(quiet: bool) -> Progress {
        Progress { quiet, due_nanos: INTERVAL_NANOS }
    }

    /// Prints `text` if a line is due at `now`.
    pub(crate) fn say(&mut self, now: u64, text: impl FnOnce() -> String) {
        if now >= self.due_nanos && !self.quiet {
            eprintln!("{:>6.1} s  {}", now as f64 / 1e9, text());
            self.due_nanos = now + INTERVAL_NANOS;
        }
    }
}
