//! Who checks logins: threads with a lower priority than the shards, as many as what is configured needs.

use std::io;
use std::sync::Arc;

use crate::control::access_policies::AccessPolicies;
use crate::control::pool::{LaneSettings, Pool, PoolLane, PoolOutcome, PoolSettings};
use crate::policy::access::{Login, Verdict};

/// How many logins of all shards may wait for their turn; one more is refused as too many.
pub const WAITING_MAX: usize = 1024;

/// How many may wait for a thread once their turn has come, and as many for the webhook.
const QUEUE_MAX: usize = 8192;

/// Checks the logins of all shards.
pub trait CheckLogins: Send + Sync {
    /// How many logins each of so many shards should have with the threads at a time: enough that no thread is idle while
    /// logins wait, and few, because those that are with the threads go in the order in which they came.
    fn at_once(&self, shards: usize) -> usize;

    /// Has a login checked; `done` is told the answer, on another thread, exactly once, unless this says at once
    /// that too many wait.
    ///
    /// # Errors
    /// The answer, if it is known at once.
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
}

impl Logins {
    /// Starts those that the policies need.
    ///
    /// # Errors
    /// A thread can't be started.
    pub fn start(policies: &AccessPolicies) -> io::Result<Logins> {
        let none = LaneSettings { threads: 0, queue_max: QUEUE_MAX };
        let pool = Pool::start(PoolSettings { hash: none, http: none })?;
        let logins = Logins { pool: Arc::new(pool) };
        logins.prepare(policies)?;
        Ok(logins)
    }

    /// Starts those that new policies need besides.
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
            // A reload has come between: the client's next try is judged by the new rules.
            return Err(Verdict::Unavailable);
        };
        let pool = Arc::clone(&self.pool);
        let work = {
            let proofs = Arc::clone(&proofs);
            move || match proofs.check(&login) {
                Some(verdict) => Ok(verdict),
                None => Err(login),
            }
        };
        let checked = move |outcome: PoolOutcome<Result<Verdict, Box<Login>>>| match outcome {
            PoolOutcome::Done(Ok(verdict)) => done(verdict),
            PoolOutcome::Done(Err(login)) => {
                let told = Arc::clone(&done);
                let answered = move |outcome| match outcome {
                    PoolOutcome::Done(verdict) => told(verdict),
                    PoolOutcome::Panicked | PoolOutcome::Stopped => told(Verdict::Busy),
                };
                if pool.submit(PoolLane::Http, move || proofs.ask(&login), answered).is_err() {
                    done(Verdict::Busy);
                }
            }
            PoolOutcome::Panicked | PoolOutcome::Stopped => done(Verdict::Busy),
        };
        self.pool.submit(PoolLane::Hash, work, checked).map_err(|_| Verdict::Busy)
    }
}
