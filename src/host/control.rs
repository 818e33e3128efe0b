//! What the shards and the main thread share while the broker runs, and what a shard starts with.

use crate::base::ShardId;
use crate::base::Time;
use crate::broker::Limit;
use crate::broker::Shared;
use crate::broker::interest::InterestCounts;
use crate::control::access_policies::AccessPolicies;
use crate::control::logins::CheckLogins;
use crate::control::shared_gate::SharedAddressGate;
use crate::policy::address_gate::Ban;
use crate::settings::Config;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What the shards and the main thread share besides `Shared`.
pub struct Control {
    /// The broker is to stop.
    pub stop: AtomicBool,
    /// Connections of all shards, for `limits.connections`.
    pub open: AtomicUsize,
    /// Connections of the listeners that have a bound of their own.
    pub open_by_listener: Vec<AtomicUsize>,
    /// The effective `limits.connections`.
    pub connections_max: usize,
    /// Shards that know what the sessions of all shards want.
    pub restored: AtomicUsize,
    /// Shards that have done what fell due while the broker was down.
    pub settled: AtomicUsize,
    /// Shards whose clients are gone, once the broker stops.
    pub finished: AtomicUsize,
    /// What is asked of those who want in, and how often it was changed.
    pub policies: Mutex<(AccessPolicies, u64)>,
    /// The same number, to be looked at without the lock.
    pub policies_changed: AtomicU64,
    /// How often a checkpoint was asked for. Looked at when the bell rings.
    pub checkpoints_asked: AtomicU64,
    /// Who checks logins.
    pub logins: Box<dyn CheckLogins>,
    /// Which addresses may come in.
    pub address_gate: SharedAddressGate,
    /// By how much the wall clock was set since the start, as the operator was told, milliseconds.
    pub told_step_millis: AtomicI64,
}

impl Control {
    /// Of a broker that starts, with the effective `limits.connections`.
    pub fn new(
        config: &Config,
        policies: AccessPolicies,
        connections_max: usize,
        logins: Box<dyn CheckLogins>,
        seed: u64,
    ) -> Control {
        Control {
            stop: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            open_by_listener: config.listeners.iter().map(|_| AtomicUsize::new(0)).collect(),
            connections_max,
            restored: AtomicUsize::new(0),
            settled: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            address_gate: SharedAddressGate::new(&policies.address_gate, seed),
            policies: Mutex::new((policies, 0)),
            policies_changed: AtomicU64::new(0),
            checkpoints_asked: AtomicU64::new(0),
            logins,
            told_step_millis: AtomicI64::new(0),
        }
    }

    /// What is asked of those who want in, and how often that was changed.
    pub(super) fn policies(&self) -> (AccessPolicies, u64) {
        self.policies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Something else is asked from now on. The shards see it when their bells ring.
    pub fn change_policies(&self, policies: AccessPolicies) {
        self.address_gate.change(&policies.address_gate);
        let mut current = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        *current = (policies, current.1 + 1);
        self.policies_changed.store(current.1, Ordering::Release);
    }

    /// What of TLS has expired, is not valid yet or soon ends at `now`, in seconds since 1970. A line each.
    pub fn outdated(&self, now: i64) -> Vec<String> {
        self.policies().0.outdated(now)
    }

    /// Bans an address by hand, or with IPv6 its /64, for so many seconds or until [`Control::unban`]. False, and
    /// nothing is done, for one of `gate.exempt`. Clients that are in stay.
    pub fn ban(&self, now: Time, address: IpAddr, seconds: Option<u32>) -> bool {
        self.address_gate.ban(now, address, seconds.map_or(Time::MAX, |seconds| now.after_seconds(seconds)))
    }

    /// Takes a ban back, whatever made it but `gate.banned`; gives whether there was one.
    pub fn unban(&self, now: Time, address: IpAddr) -> bool {
        self.address_gate.unban(now, address)
    }

    /// The bans of this moment but for those of `gate.banned`, on the clock of the shards and in no order.
    pub fn bans(&self, now: Time) -> Vec<Ban> {
        self.address_gate.bans(now)
    }

    /// Counts a connection in, or names the bound that is reached.
    pub(super) fn admit(&self, config: &Config, listener: u16) -> Result<(), Limit> {
        let taken = |open: &AtomicUsize, max| {
            let taken = open.fetch_add(1, Ordering::Relaxed) < max;
            if !taken {
                open.fetch_sub(1, Ordering::Relaxed);
            }
            taken
        };
        if !taken(&self.open, self.connections_max) {
            return Err(Limit::Connections);
        }
        let listener = usize::from(listener);
        let Some(max) = config.listeners[listener].connections else { return Ok(()) };
        if !taken(&self.open_by_listener[listener], max) {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Limit::ListenerConnections);
        }
        Ok(())
    }
}

/// What one shard starts with. `L`: a listening socket.
pub struct ShardStart<L> {
    /// Its number.
    pub id: ShardId,
    /// See `Shared`.
    pub shared: Arc<Shared>,
    /// See `Control`.
    pub control: Arc<Control>,
    /// Listening sockets, with the number of their listener.
    pub listeners: Vec<(u16, L)>,
    /// Wakes the shard from any thread: for those who answer it.
    pub bell: Arc<dyn Fn() + Send + Sync>,
    /// Counts behind its interest in exact filters.
    pub interest: Option<InterestCounts>,
    /// Chance: assigned client identifiers, hash keys.
    pub seed: u64,
}
