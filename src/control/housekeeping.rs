//! Work that may wait for a disk or a network, and so must not block signals, shards or the admin interface. A thread
//! of its own reads the configuration again on request, changes the level of the log, and checks once a day whether
//! certificates expire soon.
//!
//! The clock and the length of a wait are arguments.

use crate::control::questions::Busy;
use crate::settings::LogLevel;
use crate::settings::plan::Plan;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// How often the thread looks at the clock. It is much more often than once a day, so that a clock change or
/// a sleep of the machine does not delay the next check.
pub const LOOK_AFTER: Duration = Duration::from_secs(3600);

const SECONDS_PER_DAY: i64 = 86_400;
/// If the clock has gone back by more than this, it was set.
const CLOCK_SET_SECONDS: i64 = 3600;

/// The number of requests that wait. Further ones are refused; a SIGHUP never is.
const WAITING_MAX: usize = 16;

/// Called with the answer, on the thread.
pub type HouseReply<T> = Box<dyn FnOnce(T) + Send>;

/// What an operator asks of the thread.
pub enum HouseRequest {
    /// What would a reload change?
    Plan(HouseReply<Result<ReloadReport, ReloadRefusal>>),
    /// Read the files again.
    Reload {
        /// Go back to the former configuration if no [`HouseRequest::Confirm`] follows in this time.
        confirm_within: Option<Duration>,
        /// Takes the answer.
        reply: HouseReply<Result<ReloadReport, ReloadRefusal>>,
    },
    /// Keep the configuration of the last reload.
    Confirm(HouseReply<Result<(), ReloadRefusal>>),
    /// Which level has the log?
    LogLevel(HouseReply<LogLevelReport>),
    /// Change the level of the log.
    ChangeLogLevel {
        /// The level.
        level: LogLevel,
        /// Go back to `log.level` after this time. Without it the level stays until `log.level` changes or midge stops.
        lasts: Option<Duration>,
        /// Takes the answer.
        reply: HouseReply<LogLevelReport>,
    },
    /// Nothing: SIGHUP has come.
    Wake,
}

/// What a reload has done, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReloadReport {
    /// The differences between the configuration in force and the files.
    pub plan: Plan,
    /// The number of open connections of listeners that are removed.
    pub disconnected: usize,
    /// What an operator should know: who may connect to listeners that are new or let in others than before, the
    /// certificates that are new, and the addresses that midge listens on now.
    pub notes: Vec<String>,
    /// Warnings about the configuration and its files.
    pub warnings: Vec<String>,
    /// The time for the confirmation, if one must follow.
    pub confirm_within: Option<Duration>,
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReloadRefusal {
    /// The configuration or a file that it names is wrong, or midge can't work with it: all errors, one per line.
    Wrong(String),
    /// An earlier reload waits for its confirmation, for this time.
    Unconfirmed(Duration),
    /// No reload waits for a confirmation.
    NothingToConfirm,
}

impl fmt::Display for ReloadRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadRefusal::Wrong(words) => f.write_str(words),
            ReloadRefusal::Unconfirmed(left) => write!(
                f,
                "the last reload waits for its confirmation; confirm it, or wait {} s for the former configuration",
                left.as_secs().max(1)
            ),
            ReloadRefusal::NothingToConfirm => f.write_str("no reload waits for a confirmation"),
        }
    }
}

/// The level of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLevelReport {
    /// The level in force.
    pub level: LogLevel,
    /// `log.level` of the configuration.
    pub configured: LogLevel,
    /// The time until the configured level returns. `None` if it does not return by itself.
    pub left: Option<Duration>,
}

/// Requests work from the thread. Cheap to clone.
#[derive(Clone)]
pub struct HouseRequests {
    sender: SyncSender<HouseRequest>,
    hangup: Arc<AtomicBool>,
}

/// Receives the requests.
pub struct Housekeeping {
    receiver: Receiver<HouseRequest>,
    hangup: Arc<AtomicBool>,
}

/// Both ends of the request channel.
pub fn requests() -> (HouseRequests, Housekeeping) {
    let (sender, receiver) = sync_channel(WAITING_MAX);
    let hangup = Arc::new(AtomicBool::new(false));
    (HouseRequests { sender, hangup: Arc::clone(&hangup) }, Housekeeping { receiver, hangup })
}

impl HouseRequests {
    /// Requests a reload of the configuration, because of SIGHUP. Never waits. If such a request is already pending,
    /// that one serves for this one too.
    pub fn hang_up(&self) {
        if !self.hangup.swap(true, Ordering::AcqRel) {
            // If the box is full, the thread looks after the next request. If it is gone, the process is ending.
            let _ = self.sender.try_send(HouseRequest::Wake);
        }
    }

    /// Asks the thread. Never waits.
    ///
    /// # Errors
    /// [`Busy`]. Nothing was asked.
    pub fn ask(&self, request: HouseRequest) -> Result<(), Busy> {
        self.sender.try_send(request).map_err(|_| Busy)
    }
}

/// The work of the thread.
pub trait HouseWork {
    /// SIGHUP has come: reads the files again.
    fn hang_up(&mut self);
    /// Answers a request.
    fn handle(&mut self, request: HouseRequest);
    /// Does what is due. Returns the time until something else is.
    fn tend(&mut self) -> Option<Duration>;
    /// A day has passed. `now` is in seconds since 1970.
    fn look(&mut self, now: i64);
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
    /// Works until all [`HouseRequests`] are gone. `clock` gives seconds since 1970. `looked_at` is the time
    /// of the check at the start. Each SIGHUP checks the dates itself.
    pub fn serve(
        self,
        looked_at: i64,
        look_after: Duration,
        clock: impl Fn() -> i64,
        work: &mut impl HouseWork,
    ) {
        let mut day = Day { looked_at };
        loop {
            let wait = work.tend().map_or(look_after, |due| due.min(look_after));
            match self.receiver.recv_timeout(wait) {
                Ok(request) => {
                    work.handle(request);
                    if self.hangup.swap(false, Ordering::AcqRel) {
                        work.hang_up();
                        day.looked_at = clock();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now = clock();
                    if day.is_over(now) {
                        work.look(now);
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
    use std::sync::atomic::{AtomicI64, AtomicUsize};
    use std::sync::mpsc::channel;

    const SOON: Duration = Duration::from_secs(60);
    /// An arbitrary day.
    const START: i64 = 1_800_000_000;

    /// Counts reloads, and tells of looks and of answers.
    #[derive(Default)]
    struct Counting<'a> {
        reloads: Option<&'a AtomicUsize>,
        looked: Option<std::sync::mpsc::Sender<i64>>,
        /// How often something is due, each time at once.
        due: usize,
    }

    impl HouseWork for Counting<'_> {
        fn hang_up(&mut self) {
            self.reloads.map(|reloads| reloads.fetch_add(1, Ordering::SeqCst));
        }

        fn handle(&mut self, request: HouseRequest) {
            if let HouseRequest::Confirm(reply) = request {
                reply(Err(ReloadRefusal::NothingToConfirm));
            }
        }

        fn tend(&mut self) -> Option<Duration> {
            self.due = self.due.saturating_sub(1);
            (self.due > 0).then_some(Duration::ZERO)
        }

        fn look(&mut self, now: i64) {
            self.looked.as_ref().map(|looked| looked.send(now));
        }
    }

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
                let mut work = Counting { reloads: Some(reloads), looked: Some(looked), due: 0 };
                asked.serve(START, Duration::from_millis(1), || clock.load(Ordering::SeqCst), &mut work);
            });
            for day in 1..=3 {
                clock.store(START + day * SECONDS_PER_DAY, Ordering::SeqCst);
                assert_eq!(looks.recv_timeout(SOON), Ok(START + day * SECONDS_PER_DAY));
            }
            requests.hang_up();
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
        let answers = Arc::new(AtomicUsize::new(0));
        let confirm = || {
            let answers = Arc::clone(&answers);
            HouseRequest::Confirm(Box::new(move |_| {
                answers.fetch_add(1, Ordering::SeqCst);
            }))
        };
        for _ in 0..WAITING_MAX {
            assert_eq!(requests.ask(confirm()), Ok(()));
        }
        assert_eq!(requests.ask(confirm()), Err(Busy));
        // A SIGHUP finds the box full and is not lost.
        (0..1000).for_each(|_| requests.hang_up());
        drop(requests);
        let reloads = AtomicUsize::new(0);
        let mut work = Counting { reloads: Some(&reloads), due: 5, ..Counting::default() };
        asked.serve(START, SOON, || START, &mut work);
        assert_eq!((reloads.load(Ordering::SeqCst), answers.load(Ordering::SeqCst)), (1, WAITING_MAX));
        assert_eq!(work.due, 0, "it has tended before each wait");
    }
}
