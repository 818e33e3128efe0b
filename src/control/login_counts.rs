//! What became of the logins that threads have checked, by the proof that decided, and how long they took.

use crate::broker::HISTOGRAM_MICROS;
use crate::policy::access::Verdict;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The proof that decides about a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginMethod {
    /// A line of a password file.
    Password,
    /// A token.
    Token,
    /// The answer of the webhook, fresh or remembered.
    Webhook,
}

impl LoginMethod {
    /// All of them with their names in metrics, in order.
    pub const ALL: [(LoginMethod, &'static str); 3] = [
        (LoginMethod::Password, "password"),
        (LoginMethod::Token, "token"),
        (LoginMethod::Webhook, "webhook"),
    ];
}

/// The results with their names in metrics, in order.
pub const LOGIN_RESULTS: [&str; 4] = ["good", "bad", "busy", "unavailable"];

/// See the module. Any thread may count.
#[derive(Debug, Default)]
pub struct LoginCounts {
    /// By method and result.
    results: [[AtomicU64; LOGIN_RESULTS.len()]; LoginMethod::ALL.len()],
    /// By method and bound. The last place has what takes longer than all bounds.
    times: [[AtomicU64; HISTOGRAM_MICROS.len() + 1]; LoginMethod::ALL.len()],
    sum_micros: [AtomicU64; LoginMethod::ALL.len()],
}

impl LoginCounts {
    /// Counts a login that was checked, with the time since it was asked for.
    pub fn note(&self, method: LoginMethod, verdict: &Verdict, took: Duration) {
        let result = match verdict {
            Verdict::Good(_) => 0,
            Verdict::Bad(_) => 1,
            Verdict::Busy => 2,
            Verdict::Unavailable => 3,
        };
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let place = HISTOGRAM_MICROS.partition_point(|&bound| bound < micros);
        self.results[method as usize][result].fetch_add(1, Ordering::Relaxed);
        self.times[method as usize][place].fetch_add(1, Ordering::Relaxed);
        self.sum_micros[method as usize].fetch_add(micros, Ordering::Relaxed);
    }

    /// The counts of a method, by result.
    pub fn results(&self, method: LoginMethod) -> [u64; LOGIN_RESULTS.len()] {
        std::array::from_fn(|at| self.results[method as usize][at].load(Ordering::Relaxed))
    }

    /// The times of a method by bound, and their sum in microseconds. See [`HISTOGRAM_MICROS`].
    pub fn times(&self, method: LoginMethod) -> ([u64; HISTOGRAM_MICROS.len() + 1], u64) {
        let times = std::array::from_fn(|at| self.times[method as usize][at].load(Ordering::Relaxed));
        (times, self.sum_micros[method as usize].load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::access::Grant;

    #[test]
    fn a_login_counts_once_by_its_method_and_result() {
        let counts = LoginCounts::default();
        counts.note(LoginMethod::Token, &Verdict::Good(Grant::default()), Duration::from_micros(60));
        counts.note(LoginMethod::Token, &Verdict::Bad("no"), Duration::from_secs(60));
        assert_eq!(counts.results(LoginMethod::Token), [1, 1, 0, 0]);
        assert_eq!(counts.results(LoginMethod::Password), [0; 4]);
        let (times, sum) = counts.times(LoginMethod::Token);
        assert_eq!((times[1], times[HISTOGRAM_MICROS.len()], sum), (1, 1, 60_000_060));
        for (place, (method, _)) in LoginMethod::ALL.into_iter().enumerate() {
            assert_eq!(method as usize, place);
        }
    }
}
