//! The data that the shards and the main thread share while the broker runs, and the parts that a shard
//! starts with.

use crate::base::Time;
use crate::base::{SHARDS_MAX, ShardId};
use crate::broker::interest::InterestCounts;
use crate::broker::{BrokerSettings, LISTENER_NUMBERS_MAX, Limit, Shared};
use crate::control::access_policies::AccessPolicies;
use crate::control::logins::CheckLogins;
use crate::control::questions::Asked;
use crate::control::shared_gate::SharedAddressGate;
use crate::policy::address_gate::Ban;
use crate::settings::Config;
use crate::transport::tls::{OwnCertificate, TlsConfig};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

/// What became of the reloads of the configuration.
#[derive(Debug, Default)]
pub struct ReloadCounts {
    /// Those that were taken.
    pub good: AtomicU64,
    /// Those that have changed nothing, because something was wrong.
    pub failed: AtomicU64,
    /// Whether the last one has failed.
    pub has_failed: AtomicBool,
}

impl ReloadCounts {
    /// Counts a reload.
    pub fn note(&self, is_good: bool) {
        let count = if is_good { &self.good } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
        self.has_failed.store(!is_good, Ordering::Relaxed);
    }
}

/// A cut through the logs of all shards: each one seals its segment and writes nothing more until all have done so. What
/// has been sealed then holds no consequence of a record that it does not hold too, because a shard acts for another one
/// only when a record is durable.
#[derive(Debug, Default)]
pub struct LogCut {
    /// The number of the request for a checkpoint that asks for the cut.
    request: AtomicU64,
    /// The number of shards that have sealed their segments for it.
    sealed: AtomicUsize,
    /// The last request that a shard has given up, because another one took too long.
    given_up: AtomicU64,
}

impl LogCut {
    /// Whether the request for a checkpoint with this number asks for a cut.
    pub(super) fn is_asked_by(&self, request: u64) -> bool {
        self.request.load(Ordering::Acquire) == request
    }

    /// Notes that a shard has sealed its segment, and writes nothing until [`LogCut::is_complete`].
    pub(super) fn note_sealed(&self) {
        self.sealed.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether this many shards have sealed their segments.
    pub(super) fn is_complete(&self, shards: usize) -> bool {
        self.sealed.load(Ordering::Acquire) >= shards
    }

    /// Gives a request up. Its cut is worth nothing.
    pub(super) fn give_up(&self, request: u64) {
        self.given_up.fetch_max(request, Ordering::AcqRel);
    }

    /// Whether a shard has given this request up.
    pub fn is_given_up(&self, request: u64) -> bool {
        self.given_up.load(Ordering::Acquire) >= request
    }
}

/// The data that the shards and the main thread share, besides `Shared`.
pub struct Control {
    /// Set when the broker must stop.
    pub stop: AtomicBool,
    /// Set while an operator lets all clients go.
    pub drains: AtomicBool,
    /// The number of connections of all shards, for `limits.connections`.
    pub open: AtomicUsize,
    /// The number of connections of each listener, by number.
    pub(super) open_by_listener: [AtomicUsize; LISTENER_NUMBERS_MAX],
    /// The effective value of `limits.connections`.
    connections_max: AtomicUsize,
    /// The number of shards that know the interest of the sessions of all shards.
    pub restored: AtomicUsize,
    /// The number of shards that have handled what fell due while the broker was down.
    pub settled: AtomicUsize,
    /// The number of shards whose clients are gone, while the broker stops.
    pub finished: AtomicUsize,
    in_force: Mutex<InForce>,
    /// `InForce::version`, for reading without the lock.
    version: AtomicU64,
    /// The number of requests for a checkpoint. Shards read it when their bells ring.
    pub checkpoints_asked: AtomicU64,
    /// The threads of the shards by number, as the system names them. 0: it has not begun.
    pub threads: Box<[AtomicU32]>,
    /// What became of the reloads of the configuration.
    pub reloads: ReloadCounts,
    /// A cut through the logs of all shards, for a backup.
    pub cut: LogCut,
    /// Checks logins.
    pub logins: Box<dyn CheckLogins>,
    /// The gate: which addresses may connect.
    pub address_gate: SharedAddressGate,
    /// The sum of the wall clock's changes since the start that has been logged, in milliseconds.
    pub logged_step_millis: AtomicI64,
}

impl Control {
    /// The state at the start, with the effective `limits.connections`.
    pub fn new(
        config: &Config,
        policies: AccessPolicies,
        connections_max: usize,
        logins: Box<dyn CheckLogins>,
        seed: u64,
    ) -> Control {
        Control {
            stop: AtomicBool::new(false),
            drains: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            open_by_listener: [const { AtomicUsize::new(0) }; LISTENER_NUMBERS_MAX],
            connections_max: AtomicUsize::new(connections_max),
            restored: AtomicUsize::new(0),
            settled: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            address_gate: SharedAddressGate::new(&policies.address_gate, seed),
            in_force: Mutex::new(InForce {
                policies,
                settings: Arc::new(BrokerSettings::new(config.clone())),
                version: 0,
            }),
            version: AtomicU64::new(0),
            checkpoints_asked: AtomicU64::new(0),
            cut: LogCut::default(),
            threads: (0..SHARDS_MAX).map(|_| AtomicU32::new(0)).collect(),
            reloads: ReloadCounts::default(),
            logins,
            logged_step_millis: AtomicI64::new(0),
        }
    }

    /// Asks for a checkpoint with a cut. `tell` is called with the number of the request before any shard can see it,
    /// and they see it when their bells ring. Only one cut may be asked for at a time.
    pub fn ask_for_cut(&self, tell: impl FnOnce(u64)) {
        let request = self.checkpoints_asked.load(Ordering::Acquire) + 1;
        self.cut.sealed.store(0, Ordering::Release);
        self.cut.request.store(request, Ordering::Release);
        tell(request);
        // If somebody else has asked for a checkpoint meanwhile, that request is this one.
        self.checkpoints_asked.fetch_max(request, Ordering::AcqRel);
    }

    /// What the operator has set.
    pub fn in_force(&self) -> InForce {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<BrokerSettings> {
        Arc::clone(&self.in_force.lock().unwrap_or_else(PoisonError::into_inner).settings)
    }

    /// `InForce::version`.
    #[inline]
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Changes the access policies. The shards see it when their bells ring.
    pub fn change_policies(&self, policies: AccessPolicies) {
        self.change(policies, self.settings(), self.connections_max());
    }

    /// Changes what the operator has set, all of it at the same time, with the effective `limits.connections`. The
    /// shards see it when their bells ring.
    pub fn change(&self, policies: AccessPolicies, settings: Arc<BrokerSettings>, connections_max: usize) {
        self.address_gate.change(&policies.address_gate);
        self.connections_max.store(connections_max, Ordering::Relaxed);
        let mut current = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let version = current.version + 1;
        *current = InForce { policies, settings, version };
        self.version.store(version, Ordering::Release);
    }

    /// The number of open connections of a listener.
    pub fn open_of(&self, listener: u16) -> usize {
        self.open_by_listener.get(usize::from(listener)).map_or(0, |open| open.load(Ordering::Relaxed))
    }

    /// The effective value of `limits.connections`.
    pub fn connections_max(&self) -> usize {
        self.connections_max.load(Ordering::Relaxed)
    }

    /// The TLS files that at `now`, in seconds since 1970, have expired, are not valid yet, or expire soon,
    /// one per line.
    pub fn outdated(&self, now: i64) -> Vec<String> {
        self.in_force().policies.outdated(now)
    }

    /// Bans an address manually, or for IPv6 its /64, for `seconds` or until [`Control::unban`]. Returns
    /// false and does nothing for an address in `gate.exempt`. Open connections stay open.
    pub fn ban(&self, now: Time, address: IpAddr, seconds: Option<u32>) -> bool {
        self.address_gate.ban(now, address, seconds.map_or(Time::MAX, |seconds| now.after_seconds(seconds)))
    }

    /// Ends a ban that does not come from `gate.banned`. Returns whether there was one.
    pub fn unban(&self, now: Time, address: IpAddr) -> bool {
        self.address_gate.unban(now, address)
    }

    /// The current bans except those of `gate.banned`, on the clock of the shards and in no order.
    pub fn bans(&self, now: Time) -> Vec<Ban> {
        self.address_gate.bans(now)
    }

    /// Whether new connections of an address are closed because it is banned.
    pub fn is_banned(&self, now: Time, address: IpAddr) -> bool {
        self.in_force().policies.address_gate.is_banned(address)
            || self.bans(now).iter().any(|ban| ban.network.contains(address))
    }

    /// The certificates of a listener. Empty if it has no TLS.
    pub fn certificates(&self, listener: u16) -> Vec<OwnCertificate> {
        let InForce { policies, .. } = self.in_force();
        let stack = policies.stacks.get(usize::from(listener));
        stack.and_then(|stack| stack.tls.as_ref()).map_or_else(Vec::new, TlsConfig::certificates)
    }

    /// Counts a new connection, or returns the bound that is reached.
    pub(super) fn admit(&self, settings: &BrokerSettings, listener: u16) -> Result<(), Limit> {
        let taken = |open: &AtomicUsize, max| {
            let taken = open.fetch_add(1, Ordering::Relaxed) < max;
            if !taken {
                open.fetch_sub(1, Ordering::Relaxed);
            }
            taken
        };
        if !taken(&self.open, self.connections_max()) {
            return Err(Limit::Connections);
        }
        let max = settings.listener(listener).and_then(|listener| listener.connections);
        if !taken(&self.open_by_listener[usize::from(listener)], max.unwrap_or(usize::MAX)) {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Limit::ListenerConnections);
        }
        Ok(())
    }
}

/// What the operator has set: the rules for clients and everything else. Cheap to clone.
#[derive(Clone)]
pub struct InForce {
    /// Who may do what, by the number of the listener.
    pub policies: AccessPolicies,
    /// Everything else.
    pub settings: Arc<BrokerSettings>,
    /// How often it has changed.
    pub(super) version: u64,
}

/// The parts that a shard starts with. `L` is a listening socket.
pub struct ShardStart<L> {
    /// The number of the shard.
    pub id: ShardId,
    /// See `Shared`.
    pub shared: Arc<Shared>,
    /// See `Control`.
    pub control: Arc<Control>,
    /// Listening sockets, each with the number of its listener.
    pub listeners: Vec<(u16, L)>,
    /// Sockets of listeners that are added while the broker runs. The shard looks when `Control` has changed.
    pub new_listeners: Option<Receiver<(u16, L)>>,
    /// Wakes the shard from any thread. Other threads call it after sending an answer.
    pub bell: Arc<dyn Fn() + Send + Sync>,
    /// The box with the questions of an operator, if there is an admin interface.
    pub questions: Option<Receiver<Asked>>,
    /// The counts behind the shard's interest in exact filters.
    pub interest: Option<InterestCounts>,
    /// A random seed for assigned client identifiers and hash keys.
    pub seed: u64,
}
