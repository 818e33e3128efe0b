//! Checks logins on threads with a lower priority than the shards. Their number depends on the configuration.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::control::access_policies::AccessPolicies;
use crate::control::login_counts::{LoginCounts, LoginMethod};
use crate::control::pool::{LaneSettings, Pool, PoolLane, PoolOutcome, PoolSettings};
use crate::policy::access::{Login, Verdict};

/// The number of logins of all shards that may wait for their turn. Further ones are refused.
pub const WAITING_MAX: usize = 1024;

/// The number of logins that may wait for a thread after their turn has come, and the same number for the
/// webhook.
const QUEUE_MAX: usize = 8192;

/// Checks the logins of all shards.
pub trait CheckLogins: Send + Sync {
    /// How many logins each of `shards` shards should have with the threads at a time. It must be enough that
    /// no thread is idle while logins wait. It must also be small, because the threads check logins in the
    /// order of their arrival.
    fn at_once(&self, shards: usize) -> usize;

    /// Checks a login. `done` is called with the answer on another thread, exactly once, unless this method
    /// returns an error.
    ///
    /// # Errors
    /// The answer, if it is known at once: for example, too many logins wait.
    fn check(
        &self,
        policies: &AccessPolicies,
        login: Box<Login>,
        done: Arc<dyn Fn(Verdict) + Send + Sync>,
    ) -> Result<(), Verdict>;
}

/// The threads. Cheap to clone.
#[derive(Clone)]
pub struct Logins {
    pool: Arc<Pool>,
    counts: Arc<LoginCounts>,
}

impl Logins {
    /// Starts the threads that the policies need.
    ///
    /// # Errors
    /// A thread can't be started.
    pub fn start(policies: &AccessPolicies) -> io::Result<Logins> {
        let none = LaneSettings { threads: 0, queue_max: QUEUE_MAX };
        let pool = Pool::start(PoolSettings { hash: none, http: none })?;
        let logins = Logins { pool: Arc::new(pool), counts: Arc::default() };
        logins.prepare(policies)?;
        Ok(logins)
    }

    /// What became of the logins.
    pub fn counts(&self) -> Arc<LoginCounts> {
        Arc::clone(&self.counts)
    }

    /// Starts the additional threads that new policies need.
    ///
    /// # Errors
    /// A thread can't be started.
    pub fn prepare(&self, policies: &AccessPolicies) -> io::Result<()> {
        let (hash, http) = policies.threads();
        self.pool.grow(PoolLane::Hash, hash)?;
        self.pool.grow(PoolLane::Http, http)
    }
}

impl CheckLogins for Logins {
    fn at_once(&self, shards: usize) -> usize {
        let threads = self.pool.threads(PoolLane::Hash) + self.pool.threads(PoolLane::Http);
        (threads + 1).min(QUEUE_MAX / shards.max(1)).max(1)
    }

    fn check(
        &self,
        policies: &AccessPolicies,
        login: Box<Login>,
        done: Arc<dyn Fn(Verdict) + Send + Sync>,
    ) -> Result<(), Verdict> {
        let Some(proofs) = policies.proofs(login.listener) else {
            // A reload has happened in between. The new rules apply when the client tries again.
            return Err(Verdict::Unavailable);
        };
        let (pool, counts, begun) = (Arc::clone(&self.pool), Arc::clone(&self.counts), instant());
        let done = move |method, verdict: Verdict| {
            counts.note(method, &verdict, instant().duration_since(begun));
            done(verdict);
        };
        let done = Arc::new(done);
        let work = {
            let proofs = Arc::clone(&proofs);
            move || match proofs.check(&login) {
                Some(verdict) => Ok(verdict),
                None => Err(login),
            }
        };
        let checked = move |outcome: PoolOutcome<Result<(LoginMethod, Verdict), Box<Login>>>| match outcome {
            PoolOutcome::Done(Ok((method, verdict))) => done(method, verdict),
            PoolOutcome::Done(Err(login)) => {
                let answer = Arc::clone(&done);
                let answered = move |outcome| match outcome {
                    PoolOutcome::Done(verdict) => answer(LoginMethod::Webhook, verdict),
                    PoolOutcome::Panicked | PoolOutcome::Stopped => {
                        answer(LoginMethod::Webhook, Verdict::Busy);
                    }
                };
                if pool.submit(PoolLane::Http, move || proofs.ask(&login), answered).is_err() {
                    done(LoginMethod::Webhook, Verdict::Busy);
                }
            }
            PoolOutcome::Panicked | PoolOutcome::Stopped => done(LoginMethod::Password, Verdict::Busy),
        };
        self.pool.submit(PoolLane::Hash, work, checked).map_err(|_| {
            self.counts.note(LoginMethod::Password, &Verdict::Busy, instant().duration_since(begun));
            Verdict::Busy
        })
    }
}

#[allow(clippy::disallowed_methods, reason = "the time of a check")]
fn instant() -> Instant {
    Instant::now()
}
