//! Work that may wait for a disk or a network, and so must not block signals or shards. A thread of its own
//! reads the configuration again on request, and checks once a day whether certificates expire soon.
//!
//! The clock and the length of a wait are arguments.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// How often the thread looks at the clock. It is much more often than once a day, so that a clock change or
/// a sleep of the machine does not delay the next check.
pub const LOOK_AFTER: Duration = Duration::from_secs(3600);

const SECONDS_PER_DAY: i64 = 86_400;
/// If the clock has gone back by more than this, it was set.
const CLOCK_SET_SECONDS: i64 = 3600;

/// Requests work from the thread. Cheap to clone.
#[derive(Clone)]
pub struct ReloadRequests(SyncSender<()>);

/// Receives the requests.
pub struct Housekeeping(Receiver<()>);

/// Both ends of the request channel.
pub fn requests() -> (ReloadRequests, Housekeeping) {
    let (sender, receiver) = sync_channel(1);
    (ReloadRequests(sender), Housekeeping(receiver))
}

impl ReloadRequests {
    /// Requests a reload of the configuration. Never waits. If a request is already pending, that one serves
    /// for this one too.
    pub fn reload(&self) {
        match self.0.try_send(()) {
            // If the thread is gone, the process is ending.
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }
}

/// Tells whether a day has passed since the last check.
#[derive(Debug, Clone, Copy)]
struct Day {
    looked_at: i64,
}

impl Day {
    fn is_over(&mut self, now: i64) -> bool {
        let is_set = now < self.looked_at - CLOCK_SET_SECONDS;
        let is_over = is_set || now >= self.looked_at.saturating_add(SECONDS_PER_DAY);
        if is_over {
            self.looked_at = now;
        }
        is_over
    }
}

impl Housekeeping {
    /// Works until all [`ReloadRequests`] are gone. `clock` gives seconds since 1970. `looked_at` is the time
    /// of the check at the start. Each reload checks the dates itself.
    pub fn serve(
        self,
        looked_at: i64,
        look_after: Duration,
        clock: impl Fn() -> i64,
        mut reload: impl FnMut(),
        mut look: impl FnMut(i64),
    ) {
        let mut day = Day { looked_at };
        loop {
            match self.0.recv_timeout(look_after) {
                Ok(()) => {
                    reload();
                    day.looked_at = clock();
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now = clock();
                    if day.is_over(now) {
                        look(now);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the tests run the thread")]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    const SOON: Duration = Duration::from_secs(60);
    /// An arbitrary day.
    const START: i64 = 1_800_000_000;

    #[test]
    fn a_day_is_a_day_of_the_wall_clock_also_when_that_is_set() {
        let mut day = Day { looked_at: START };
        for (after, is_over) in [
            (0, false),
            (SECONDS_PER_DAY - 1, false),
            (SECONDS_PER_DAY, true),
            (SECONDS_PER_DAY + 1, false),
            (2 * SECONDS_PER_DAY, true),
            // A small step back is a clock adjustment. A large step in either direction means that the clock
            // was set.
            (2 * SECONDS_PER_DAY - 10, false),
            (-START, true),
            (-START + 60, false),
            (0, true),
        ] {
            assert_eq!(day.is_over(START + after), is_over, "{after}");
        }
    }

    #[test]
    fn the_thread_looks_once_a_day_and_reads_again_when_asked() {
        let clock = AtomicI64::new(START);
        let (looked, looks) = channel();
        let reloads = AtomicUsize::new(0);
        let (requests, asked) = requests();
        std::thread::scope(|scope| {
            let (clock, reloads) = (&clock, &reloads);
            scope.spawn(move || {
                asked.serve(
                    START,
                    Duration::from_millis(1),
                    || clock.load(Ordering::SeqCst),
                    || {
                        reloads.fetch_add(1, Ordering::SeqCst);
                    },
                    |now| looked.send(now).unwrap(),
                );
            });
            for day in 1..=3 {
                clock.store(START + day * SECONDS_PER_DAY, Ordering::SeqCst);
                assert_eq!(looks.recv_timeout(SOON), Ok(START + day * SECONDS_PER_DAY));
            }
            requests.reload();
            while reloads.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            drop(requests);
        });
        // It has ended. It never looked twice on the same day, and the reload counted as a check.
        assert_eq!(looks.iter().count(), 0);
    }

    #[test]
    fn asking_never_waits_and_a_reload_that_has_not_begun_stands_for_all() {
        let (requests, asked) = requests();
        for _ in 0..1000 {
            requests.reload();
        }
        drop(requests);
        let mut reloads = 0;
        asked.serve(START, SOON, || START, || reloads += 1, |_| ());
        assert_eq!(reloads, 1);
    }
}
