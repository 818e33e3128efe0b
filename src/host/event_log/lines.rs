//! Limits how many lines of a kind are written per second, and counts the others.
//!
//! It counts the lines of the current second, and the suppressed ones by cause. The inputs are events and the
//! time. The outputs are whether an event gets a line, and at most once per second the counts of the
//! suppressed ones. A flood uses no more memory: the number of causes is bounded, and their names are
//! constants of the program.

use crate::base::Time;
use std::fmt;

/// The number of causes that are counted separately. The rest are counted together.
const CAUSES_MAX: usize = 12;
/// The length of the window for the bound.
const WINDOW_MILLIS: u64 = 1000;

/// The lines of one kind.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) kind: &'static str,
    per_second: u64,
    /// Whether a second with too many events is reported in one line only.
    sums_up: bool,
    is_storm: bool,
    window: Time,
    came: u64,
    left_out: LeftOut,
}

/// The suppressed lines of one second.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) lines: u64,
    causes: Vec<(&'static str, u64)>,
}

impl Lines {
    pub(super) fn new(kind: &'static str, per_second: u64, sums_up: bool) -> Lines {
        Lines {
            kind,
            per_second,
            sums_up,
            is_storm: false,
            window: Time::ZERO,
            came: 0,
            left_out: LeftOut::default(),
        }
    }

    /// Sets whether a second with too many events is reported in one line only.
    pub(super) fn set_summary(&mut self, sums_up: bool) {
        self.sums_up = sums_up;
    }

    /// Advances the time to `now`. Returns the suppressed lines of a second that is over, if there are any.
    pub(super) fn turn(&mut self, now: Time) -> Option<LeftOut> {
        let passed = now.millis_since(self.window);
        if passed < WINDOW_MILLIS {
            return None;
        }
        // A second without an event also ends a storm.
        let is_next = passed < 2 * WINDOW_MILLIS;
        self.is_storm = self.sums_up && is_next && self.came > self.per_second;
        (self.window, self.came) = (now, 0);
        self.close()
    }

    /// Whether the line of an event may be written. If not, it is counted. Call it after [`Lines::turn`].
    pub(super) fn allows(&mut self, cause: &'static str) -> bool {
        self.came += 1;
        let may = !self.is_storm && self.came <= self.per_second;
        if !may {
            self.left_out.add(cause);
        }
        may
    }

    /// The time at which there is something to report.
    pub(super) fn due(&self) -> Option<Time> {
        (self.left_out.lines > 0).then(|| self.window.after_millis(WINDOW_MILLIS))
    }

    /// The suppressed lines so far.
    pub(super) fn close(&mut self) -> Option<LeftOut> {
        (self.left_out.lines > 0).then(|| std::mem::take(&mut self.left_out))
    }
}

impl LeftOut {
    fn add(&mut self, cause: &'static str) {
        self.lines += 1;
        if let Some((_, count)) = self.causes.iter_mut().find(|(known, _)| *known == cause) {
            *count += 1;
        } else if self.causes.len() < CAUSES_MAX {
            self.causes.push((cause, 1));
        }
    }
}

/// The causes with their counts, the most frequent first.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut causes = self.causes.clone();
        causes.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let mut others = self.lines;
        for (at, (cause, count)) in causes.iter().enumerate() {
            others -= count;
            write!(f, "{}{cause}: {count}", if at > 0 { ", " } else { "" })?;
        }
        if others > 0 { write!(f, ", other causes: {others}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::ZERO.after_millis(10_000 + millis)
    }

    /// Sends `events` at a time. Returns how many get a line, and the report before them.
    fn flood(lines: &mut Lines, millis: u64, events: usize) -> (usize, Option<String>) {
        let told = lines.turn(at(millis)).map(|left_out| format!("{} {left_out}", left_out.lines));
        ((0..events).filter(|_| lines.allows("a cause")).count(), told)
    }

    #[test]
    fn a_flood_is_cut_to_some_lines_a_second_and_the_rest_is_told_once() {
        let mut lines = Lines::new("of a kind", 20, false);
        assert_eq!(flood(&mut lines, 0, 100), (20, None));
        assert_eq!(flood(&mut lines, 999, 100), (0, None));
        assert_eq!(lines.due(), Some(at(1000)));
        assert_eq!(flood(&mut lines, 1000, 10), (10, Some("180 a cause: 180".into())));
        assert_eq!(lines.due(), None);
        assert_eq!(flood(&mut lines, 1500, 20), (10, None));
        // It is reported when it is due, even without a further event.
        assert_eq!(flood(&mut lines, 2000, 0), (0, Some("10 a cause: 10".into())));
        assert_eq!((flood(&mut lines, 60_000, 0), lines.due()), ((0, None), None));
    }

    #[test]
    fn a_storm_is_one_line_a_second_until_a_second_has_no_more_than_the_bound() {
        let mut lines = Lines::new("of a kind", 20, true);
        assert_eq!(flood(&mut lines, 0, 100), (20, None));
        assert_eq!(flood(&mut lines, 1000, 100), (0, Some("80 a cause: 80".into())));
        assert_eq!(flood(&mut lines, 2000, 15), (0, Some("100 a cause: 100".into())));
        // That second was within the bound, so lines are written again.
        assert_eq!(flood(&mut lines, 3000, 15), (15, Some("15 a cause: 15".into())));
        assert_eq!(flood(&mut lines, 4000, 100), (20, None));
        // Nothing came for a while.
        assert_eq!(flood(&mut lines, 5000, 0), (0, Some("80 a cause: 80".into())));
        assert_eq!(flood(&mut lines, 9000, 100), (20, None));
    }

    #[test]
    fn causes_are_counted_and_bounded() {
        const WORDS: [&str; 15] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o"];
        let mut lines = Lines::new("of a kind", 0, false);
        assert_eq!(lines.turn(at(0)), None);
        for (at, cause) in WORDS.into_iter().enumerate() {
            (0..=at).for_each(|_| assert!(!lines.allows(cause)));
        }
        let left_out = lines.close().expect("all of them");
        assert_eq!(left_out.lines, 15 * 16 / 2);
        assert_eq!(
            left_out.to_string(),
            "l: 12, k: 11, j: 10, i: 9, h: 8, g: 7, f: 6, e: 5, d: 4, c: 3, b: 2, a: 1, other causes: 42"
        );
        assert_eq!(lines.close(), None);
    }
}
