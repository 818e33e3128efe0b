//! Keeps a slow or dead server from blocking all threads. It bounds the concurrent requests, and a circuit
//! breaker opens after consecutive failures. While it is open, no request is made. After a time, one request
//! tests the server; the others are still refused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Counts the requests that run.
pub(super) struct RequestLimit {
    running: AtomicUsize,
    running_max: usize,
}

/// A place among the running requests. Dropping it frees the place.
pub(super) struct Permit<'a>(&'a RequestLimit);

impl RequestLimit {
    pub(super) fn new(running_max: usize) -> RequestLimit {
        RequestLimit { running: AtomicUsize::new(0), running_max }
    }

    /// Takes a place. `None` if all are taken.
    pub(super) fn enter(&self) -> Option<Permit<'_>> {
        if self.running.fetch_add(1, Ordering::Relaxed) < self.running_max {
            return Some(Permit(self));
        }
        self.running.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts consecutive failures.
pub(super) struct Circuit {
    state: Mutex<State>,
    failures_max: u32,
    open: Duration,
}

#[derive(Clone, Copy)]
enum State {
    /// Requests may be made.
    Closed { failures: u32 },
    /// No request may be made until this time.
    Open { until: Instant },
    /// One request tests the server.
    Probing,
}

/// A request that runs. If it is dropped without [`Attempt::end`], it counts as neither failed nor
/// successful.
pub(super) struct Attempt<'a> {
    circuit: &'a Circuit,
    /// The time at which the testing request was admitted. `None` for other requests.
    probing_since: Option<Instant>,
    ended: bool,
}

impl Circuit {
    pub(super) fn new(failures_max: u32, open: Duration) -> Circuit {
        let state = Mutex::new(State::Closed { failures: 0 });
        Circuit { state, failures_max: failures_max.max(1), open }
    }

    /// Admits a request. `None` if none may be made now.
    pub(super) fn admit(&self, now: Instant) -> Option<Attempt<'_>> {
        let mut state = self.state();
        let probing_since = match *state {
            State::Closed { .. } => None,
            State::Open { until } if until <= now => {
                *state = State::Probing;
                Some(now)
            }
            State::Open { .. } | State::Probing => return None,
        };
        Some(Attempt { circuit: self, probing_since, ended: false })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// Records how and when the request ended. If it was admitted before the circuit opened, its success
    /// closes the circuit again, and its failure changes nothing.
    pub(super) fn end(mut self, succeeded: bool, now: Instant) {
        self.ended = true;
        let circuit = self.circuit;
        let mut state = circuit.state();
        *state = match *state {
            _ if succeeded => State::Closed { failures: 0 },
            State::Closed { failures } if failures + 1 < circuit.failures_max => {
                State::Closed { failures: failures + 1 }
            }
            State::Closed { .. } => State::Open { until: now + circuit.open },
            State::Probing if self.probing_since.is_some() => State::Open { until: now + circuit.open },
            other => other,
        };
    }
}

impl Drop for Attempt<'_> {
    /// After a panic, the circuit must not wait for a test that never ends.
    fn drop(&mut self) {
        if let (false, Some(since)) = (self.ended, self.probing_since) {
            let mut state = self.circuit.state();
            if matches!(*state, State::Probing) {
                *state = State::Open { until: since };
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an instant can't be made up, only moved")]
mod tests {
    use super::*;

    #[test]
    fn the_gate_admits_as_many_as_it_has_places() {
        let limit = RequestLimit::new(2);
        let first = limit.enter().unwrap();
        let second = limit.enter().unwrap();
        assert!(limit.enter().is_none());
        drop(first);
        let third = limit.enter().unwrap();
        assert!(limit.enter().is_none());
        drop((second, third));
        assert_eq!(limit.running.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_circuit_opens_after_failures_in_a_row_and_lets_one_try_after_its_time() {
        let circuit = Circuit::new(3, Duration::from_secs(1));
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let end = |succeeded, now| circuit.admit(now).unwrap().end(succeeded, now);
        end(false, start);
        end(false, start);
        end(true, start);
        end(false, start);
        end(false, start);
        end(false, at(10));
        assert!(circuit.admit(at(1_009)).is_none());
        let probe = circuit.admit(at(1_010)).unwrap();
        assert!(circuit.admit(at(1_010)).is_none());
        probe.end(false, at(1_500));
        assert!(circuit.admit(at(2_499)).is_none());
        let probe = circuit.admit(at(2_500)).unwrap();
        probe.end(true, at(2_600));
        for _ in 0..2 {
            end(false, at(2_600));
        }
        assert!(circuit.admit(at(2_600)).is_some());
    }

    #[test]
    fn those_admitted_before_it_opened_close_it_by_success_only() {
        let circuit = Circuit::new(1, Duration::from_secs(1));
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let (one, two, three) =
            (circuit.admit(now).unwrap(), circuit.admit(now).unwrap(), circuit.admit(now).unwrap());
        one.end(false, now);
        two.end(false, now + Duration::from_millis(900));
        let probe = circuit.admit(later).unwrap();
        assert!(circuit.admit(later).is_none());
        three.end(true, later);
        assert!(circuit.admit(later).is_some());
        probe.end(false, later);
        assert!(circuit.admit(later).is_none());
    }

    #[test]
    fn a_probe_that_is_lost_lets_the_next_one_try() {
        let circuit = Circuit::new(1, Duration::from_secs(1));
        let now = Instant::now();
        circuit.admit(now).unwrap().end(false, now);
        let later = now + Duration::from_secs(1);
        drop(circuit.admit(later).unwrap());
        assert!(circuit.admit(later).is_some());
    }
}
