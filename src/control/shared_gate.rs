//! The address gate of the whole broker. All shards use the same gate, so that a rate counts the connections
//! of all shards, and a ban holds on all of them at once. Manual bans are made here too.
//!
//! The gate is divided by address into parts. Each part has a lock that is held for one table lookup. Two
//! shards wait for each other only if clients of the same part connect at the same moment. If there is
//! nothing to check or remember (no rate, no banned networks, no failures yet), no lock is taken.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ahash::RandomState;

use crate::base::Time;
use crate::policy::address_gate::{
    AddressGate, AddressGateSettings, Admission, Ban, LoginTurn, Penalty, counted_with,
};
use crate::settings::Network;

/// A hundred shards seldom meet in one of this many parts. Each part has an equal share of the addresses that
/// are remembered.
const PARTS: usize = 64;

/// See the module. Every `now` is a time on the clock that the shards share.
pub struct SharedAddressGate {
    parts: Box<[Part]>,
    hasher: RandomState,
}

/// A part, on a cache line of its own.
#[repr(align(128))]
struct Part {
    gate: Mutex<AddressGate>,
    /// See [`AddressGate::is_open_to_all`].
    is_open_to_all: AtomicBool,
}

/// A connection that the host must close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnedAway {
    /// Whether the address is banned. Otherwise it connects too often.
    pub is_banned: bool,
    /// The network to name in a log line. `None` if no line is due.
    pub tell: Option<Network>,
}

impl SharedAddressGate {
    /// A gate that has seen no address yet. The seed keys its hash tables.
    pub fn new(settings: &AddressGateSettings, seed: u64) -> SharedAddressGate {
        let share = share(settings);
        let part = |number| {
            let gate = AddressGate::new(share.clone(), seed.wrapping_add(number));
            Part { is_open_to_all: AtomicBool::new(gate.is_open_to_all()), gate: Mutex::new(gate) }
        };
        SharedAddressGate {
            parts: (0..PARTS as u64).map(part).collect(),
            hasher: RandomState::with_seeds(seed, 0x7061, 0x7274, 0x73),
        }
    }

    /// Changes the settings. Bans and counts stay.
    pub fn change(&self, settings: &AddressGateSettings) {
        let share = share(settings);
        for part in &self.parts {
            part.with(|gate| gate.change(share.clone()));
        }
    }

    /// Admits a connection, before a byte of it is read.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn open(&self, now: Time, address: IpAddr) -> Result<(), TurnedAway> {
        let part = self.part(address);
        if part.is_open_to_all.load(Ordering::Acquire) {
            return Ok(());
        }
        let now_millis = now.as_millis();
        part.with(|gate| {
            let is_banned = match gate.open(now_millis, address) {
                Admission::Admit => return Ok(()),
                Admission::TooFast => false,
                Admission::Banned { .. } => true,
            };
            Err(TurnedAway { is_banned, tell: gate.tell(now_millis, address) })
        })
    }

    /// The network to name in a log line about a connection that was closed for another reason than the
    /// gate's. `None` if no line is due. See [`AddressGate::tell`].
    pub fn tell(&self, now: Time, address: IpAddr) -> Option<Network> {
        self.part(address).with(|gate| gate.tell(now.as_millis(), address))
    }

    /// Counts a failed login. Returns what to do with its refusal.
    pub fn failed(&self, now: Time, address: IpAddr) -> Penalty {
        self.part(address).with(|gate| gate.failed(now.as_millis(), address))
    }

    /// Which logins of an address may be checked now.
    pub fn login_turn(&self, now: Time, address: IpAddr) -> LoginTurn {
        let part = self.part(address);
        if part.is_open_to_all.load(Ordering::Acquire) {
            return LoginTurn::Free;
        }
        part.with(|gate| gate.login_turn(now.as_millis(), address))
    }

    /// Counts a successful login.
    pub fn succeeded(&self, now: Time, address: IpAddr) {
        let part = self.part(address);
        if !part.is_open_to_all.load(Ordering::Acquire) {
            part.with(|gate| gate.succeeded(now.as_millis(), address));
        }
    }

    /// Counts the end of an admitted connection that has lived for `lived_millis`. Returns true if this
    /// causes a ban.
    pub fn closed(&self, now: Time, address: IpAddr, lived_millis: u64) -> bool {
        self.part(address).with(|gate| gate.closed(now.as_millis(), address, lived_millis)).is_some()
    }

    /// Bans an address until a time, or for IPv6 its /64. `Time::MAX` bans it until
    /// [`SharedAddressGate::unban`].
    /// Returns false and does nothing for an exempt address. Open connections stay open.
    pub fn ban(&self, now: Time, address: IpAddr, until: Time) -> bool {
        let until_millis = if until == Time::MAX { u64::MAX } else { until.as_millis() };
        self.part(address).with(|gate| gate.ban(now.as_millis(), address, until_millis))
    }

    /// Ends a ban that does not come from the configuration. Returns whether there was one.
    pub fn unban(&self, now: Time, address: IpAddr) -> bool {
        self.part(address).with(|gate| gate.unban(now.as_millis(), address))
    }

    /// The current bans except those of the configuration, in no order.
    pub fn bans(&self, now: Time) -> Vec<Ban> {
        let of_part = |part: &Part| part.with(|gate| gate.bans(now.as_millis()).collect::<Vec<_>>());
        self.parts.iter().flat_map(of_part).collect()
    }

    fn part(&self, address: IpAddr) -> &Part {
        // All addresses of a network that is counted as one are in the same part.
        let hash = self.hasher.hash_one(counted_with(address));
        &self.parts[(hash % PARTS as u64) as usize]
    }
}

impl Part {
    fn with<T>(&self, ask: impl FnOnce(&mut AddressGate) -> T) -> T {
        let mut gate: MutexGuard<'_, AddressGate> = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = ask(&mut gate);
        self.is_open_to_all.store(gate.is_open_to_all(), Ordering::Release);
        answer
    }
}

/// The settings of one part.
fn share(settings: &AddressGateSettings) -> AddressGateSettings {
    AddressGateSettings { addresses_max: settings.addresses_max.div_ceil(PARTS), ..settings.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::sync::atomic::AtomicUsize;

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn a_rate_holds_over_all_threads_that_ask() {
        let settings = AddressGateSettings {
            connects_per_second: 10,
            connects_burst: 50,
            ..AddressGateSettings::default()
        };
        let gate = SharedAddressGate::new(&settings, 7);
        let (admitted, told) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        match gate.open(at(1000), v4(1)) {
                            Ok(()) => admitted.fetch_add(1, Ordering::Relaxed),
                            Err(away) => told.fetch_add(usize::from(away.tell.is_some()), Ordering::Relaxed),
                        };
                    }
                });
            }
        });
        assert_eq!((admitted.into_inner(), told.into_inner()), (50, 1), "and one log line");
        assert_eq!(gate.open(at(1000), v4(2)), Ok(()), "each address has a rate of its own");
    }

    #[test]
    fn a_gate_that_has_nothing_to_remember_is_passed_without_its_locks() {
        let gate = SharedAddressGate::new(&AddressGateSettings::default(), 7);
        let locks: Vec<_> = gate.parts.iter().map(|part| part.gate.lock().unwrap()).collect();
        for number in 0..1000 {
            assert_eq!(gate.open(at(0), v4(number)), Ok(()));
            gate.succeeded(at(0), v4(number));
        }
        drop(locks);
        gate.failed(at(0), v4(1));
        assert!(!gate.part(v4(1)).is_open_to_all.load(Ordering::Relaxed));
    }

    #[test]
    fn bans_by_hand_hold_until_their_time_or_until_they_are_taken_back() {
        let gate = SharedAddressGate::new(&AddressGateSettings::default(), 7);
        let banned = |now, number| gate.open(now, v4(number)).is_err_and(|away| away.is_banned);
        assert!(gate.ban(at(0), v4(1), at(500)) && gate.ban(at(0), v4(2), Time::MAX));
        assert_eq!(gate.bans(at(1)).len(), 2);
        assert!(banned(at(499), 1) && !banned(at(500), 1));
        assert!(banned(at(u64::MAX / 1000), 2));
        gate.change(&AddressGateSettings { connects_per_second: 5, ..AddressGateSettings::default() });
        assert!(banned(at(1000), 2), "other settings forget no ban");
        assert!(gate.unban(at(1000), v4(2)) && !gate.unban(at(1000), v4(2)));
        assert!(!banned(at(1000), 2));
        assert_eq!(gate.bans(at(1000)), []);
    }

    #[test]
    fn what_is_changed_holds_for_every_address_at_once() {
        let gate = SharedAddressGate::new(&AddressGateSettings::default(), 7);
        let banned = ["10.0.0.0/8".parse().unwrap()].into();
        gate.change(&AddressGateSettings { banned, ..AddressGateSettings::default() });
        for number in 0..1000 {
            assert!(gate.open(at(0), v4(0x0a00_0000 + number)).is_err_and(|away| away.is_banned));
            assert_eq!(gate.open(at(0), v4(0x0b00_0000 + number)), Ok(()));
        }
        gate.change(&AddressGateSettings::default());
        assert_eq!(gate.open(at(0), v4(0x0a00_0000)), Ok(()));
    }
}
