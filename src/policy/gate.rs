//! The gate before CONNECT: which network addresses may open connections now.
//!
//! In: connections that open, logins that fail or succeed, connections that end, and bans by hand; `now`
//! is an argument, in milliseconds of a clock that never goes back. Out: whether to admit, and
//! how long to wait before a refusal is sent. Nothing is due by itself: bans and counts lapse when
//! the address is next looked at.
//!
//! A source is an IPv4 address, or the /64 network of an IPv6 address, since a host that has
//! one of its addresses has them all. An IPv4 address mapped into IPv6 counts as IPv4.
//!
//! Memory is bounded by [`GateSettings::addresses_max`]. When the table is full, the source seen longest
//! ago makes room: of those without failures and bans, if there are any, then of those with
//! failures, then of those with bans. So a flood of fresh addresses frees nobody who is banned.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use std::sync::Arc;

use crate::base::Time;
use crate::settings::{Config, Network};
use ahash::RandomState;
use hashbrown::HashTable;

/// What the gate allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateSettings {
    /// Connections a second that one source may open in the long run; 0: any number.
    pub connects_per_second: u32,
    /// Connections that a source may open at once after a rest; 0 counts as 1.
    pub connects_burst: u32,
    /// Failed logins of a source whose refusals are not delayed.
    pub failures_before_delay: u32,
    /// Delay of the first refusal after those, doubled with each further one; 0: no delays.
    pub delay_base_millis: u64,
    /// Longest delay.
    pub delay_max_millis: u64,
    /// Failed logins that ban a source; 0: none do.
    pub ban_after_failures: u32,
    /// How long failures and flapping ban a source.
    pub ban_seconds: u64,
    /// Without a failed login for this long, the earlier ones are forgotten; 0: never.
    pub failures_forget_seconds: u64,
    /// Connections that end within [`GateSettings::flap_seconds`] of their start, counted over as
    /// long a time, that ban a source; 0: none do.
    pub flap_connects: u32,
    /// See [`GateSettings::flap_connects`].
    pub flap_seconds: u64,
    /// Sources that are remembered at once, about 80 bytes each; 0 counts as 1. Beyond, the least
    /// bad and longest unseen are forgotten.
    pub addresses_max: usize,
    /// Networks that are always admitted and never counted, even if they are among the banned.
    pub exempt: Arc<[Network]>,
    /// Networks that are never admitted.
    pub banned: Arc<[Network]>,
}

impl Default for GateSettings {
    /// Delays only: a fleet behind one address must not be locked out by one wrong device.
    fn default() -> GateSettings {
        GateSettings {
            connects_per_second: 0,
            connects_burst: 100,
            failures_before_delay: 3,
            delay_base_millis: 250,
            delay_max_millis: 5_000,
            ban_after_failures: 0,
            ban_seconds: 300,
            failures_forget_seconds: 600,
            flap_connects: 0,
            flap_seconds: 60,
            addresses_max: 100_000,
            exempt: [].into(),
            banned: [].into(),
        }
    }
}

impl From<&Config> for GateSettings {
    fn from(config: &Config) -> GateSettings {
        let (gate, limits) = (&config.gate, &config.limits);
        GateSettings {
            connects_per_second: limits.connect_rate,
            connects_burst: limits.connect_burst,
            failures_before_delay: gate.failures_before_delay,
            delay_base_millis: gate.delay_milliseconds,
            delay_max_millis: gate.delay_milliseconds_max,
            ban_after_failures: gate.ban_after_failures,
            ban_seconds: gate.ban_seconds,
            failures_forget_seconds: gate.forget_seconds,
            flap_connects: gate.flap_connections,
            flap_seconds: gate.flap_seconds,
            addresses_max: gate.addresses,
            exempt: gate.exempt.as_slice().into(),
            banned: gate.banned.as_slice().into(),
        }
    }
}

impl GateSettings {
    /// Whether a network of [`GateSettings::banned`] holds the address, and none of the exempt does.
    pub fn is_banned(&self, address: IpAddr) -> bool {
        self.banned.iter().any(|network| network.contains(address)) && !self.is_exempt(address)
    }

    /// Whether nothing of all this concerns the address.
    pub fn is_exempt(&self, address: IpAddr) -> bool {
        self.exempt.iter().any(|network| network.contains(address))
    }
}

/// What to do with a connection that opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Let it in.
    Admit,
    /// The source opens connections too fast: close it.
    TooFast,
    /// The source is banned: close it.
    Banned {
        /// The end of the ban, on the clock of `now`; `u64::MAX`: none.
        until_millis: u64,
    },
}

/// What a failed login costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Penalty {
    /// Refuse at once.
    None,
    /// Refuse after this time.
    Delay {
        /// At most [`GateSettings::delay_max_millis`].
        millis: u64,
    },
    /// Refuse at once; the source is banned from now on.
    Ban {
        /// The end of the ban, on the clock of `now`.
        until_millis: u64,
    },
}

/// What logins of a source may be checked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginTurn {
    /// As many as there are.
    Free,
    /// One at a time: if it is wrong, its refusal waits.
    One,
    /// None until then: refusals of earlier ones wait.
    Until(Time),
    /// None: it is banned.
    Banned,
}

/// The network that an address is counted with: its own (/32) for IPv4, its /64 for IPv6.
pub fn counted_with(address: IpAddr) -> Network {
    Source::of(address).network()
}

/// A ban that has not lapsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    /// One IPv4 address (/32) or an IPv6 network (/64).
    pub network: Network,
    /// Its end, on the clock of `now`; `u64::MAX`: none.
    pub until_millis: u64,
}

/// Who is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    V4(u32),
    /// The upper half of the address.
    V6(u64),
}

impl Source {
    fn of(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V4(v4) => Source::V4(v4.to_bits()),
            IpAddr::V6(v6) => Source::V6((v6.to_bits() >> 64) as u64),
        }
    }

    fn network(self) -> Network {
        match self {
            Source::V4(bits) => Network::new(IpAddr::V4(Ipv4Addr::from_bits(bits)), 32),
            Source::V6(upper) => Network::new(IpAddr::V6(Ipv6Addr::from_bits(u128::from(upper) << 64)), 64),
        }
        .expect("an address has as many bits")
    }
}

/// How bad a source is: a list each, and the order in which they make room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Clean,
    Failing,
    Banned,
}

const CLASSES: [Class; 3] = [Class::Clean, Class::Failing, Class::Banned];
/// How often a source that is not admitted is worth a log line.
pub const TELL_SECONDS: u32 = 60;
/// No entry.
const NONE: u32 = u32::MAX;

/// What is remembered of a source.
struct Entry {
    source: Source,
    /// When the next connection would be due at the long-run rate, in microseconds.
    connect_due_micros: u64,
    /// 0: no ban.
    banned_until_millis: u64,
    failed_at_millis: u64,
    flaps_since_millis: u64,
    /// When a connection that is closed is next worth a log line.
    tell_at_seconds: u32,
    failures: u32,
    flaps: u32,
    newer: u32,
    older: u32,
    class: Class,
}

const _: () = assert!(size_of::<Entry>() <= 72);

impl Entry {
    fn new(source: Source) -> Entry {
        Entry {
            source,
            connect_due_micros: 0,
            banned_until_millis: 0,
            failed_at_millis: 0,
            flaps_since_millis: 0,
            tell_at_seconds: 0,
            failures: 0,
            flaps: 0,
            newer: NONE,
            older: NONE,
            class: Class::Clean,
        }
    }

    fn class_now(&self) -> Class {
        if self.banned_until_millis > 0 {
            Class::Banned
        } else if self.failures > 0 {
            Class::Failing
        } else {
            Class::Clean
        }
    }

    /// Forgets what time has healed.
    fn lapse(&mut self, now_millis: u64, settings: &GateSettings) {
        if self.banned_until_millis <= now_millis {
            self.banned_until_millis = 0;
        }
        let forget = seconds(settings.failures_forget_seconds);
        if forget > 0 && now_millis.saturating_sub(self.failed_at_millis) >= forget {
            self.failures = 0;
        }
    }

    fn ban(&mut self, now_millis: u64, settings: &GateSettings) -> u64 {
        let until = now_millis.saturating_add(seconds(settings.ban_seconds));
        self.banned_until_millis = self.banned_until_millis.max(until);
        self.failures = 0;
        self.flaps = 0;
        self.banned_until_millis
    }
}

/// Ends of a list from newest to oldest.
#[derive(Clone, Copy)]
struct Ends {
    newest: u32,
    oldest: u32,
}

/// The gate. One for each shard or one for all, as the caller likes: it shares nothing.
pub struct AddressGate {
    settings: GateSettings,
    hasher: RandomState,
    /// Places in `entries`.
    by_source: HashTable<u32>,
    entries: Vec<Entry>,
    lists: [Ends; CLASSES.len()],
}

impl fmt::Debug for AddressGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressGate").field("sources", &self.entries.len()).finish_non_exhaustive()
    }
}

impl AddressGate {
    /// A gate that knows nobody yet. The seed keys the table, so that nobody can choose addresses that
    /// collide.
    pub fn new(mut settings: GateSettings, seed: u64) -> AddressGate {
        // A place is a u32, and one value of it says "none".
        settings.addresses_max = settings.addresses_max.clamp(1, NONE as usize - 1);
        AddressGate {
            settings,
            hasher: RandomState::with_seeds(seed, 0x6761, 0x7465, 0x73),
            by_source: HashTable::new(),
            entries: Vec::new(),
            lists: [Ends { newest: NONE, oldest: NONE }; CLASSES.len()],
        }
    }

    /// Other settings from now on. An address that is banned stays so until the time that was set.
    pub fn change(&mut self, settings: GateSettings) {
        let empty = AddressGate { hasher: self.hasher.clone(), ..AddressGate::new(settings, 0) };
        let old = std::mem::replace(self, empty);
        if old.entries.len() <= self.settings.addresses_max {
            let settings = std::mem::take(&mut self.settings);
            *self = AddressGate { settings, ..old };
            return;
        }
        // Put in from the least bad and longest unseen on, they make room for each other.
        for ends in old.lists {
            let mut place = ends.oldest;
            while let Some(entry) = old.entries.get(place as usize) {
                let new = self.find_or_insert(entry.source);
                self.unlink(new);
                let kept = &mut self.entries[new as usize];
                *kept = Entry { ..*entry };
                self.link(new, entry.class);
                place = entry.newer;
            }
        }
    }

    /// Whether every connection may come in as things are, without being asked for.
    pub fn is_open_to_all(&self) -> bool {
        self.entries.is_empty() && self.settings.connects_per_second == 0 && self.settings.banned.is_empty()
    }

    /// A connection opens, before a byte of it is read.
    pub fn open(&mut self, now_millis: u64, address: IpAddr) -> Admission {
        if self.settings.is_exempt(address) {
            return Admission::Admit;
        }
        if self.settings.is_banned(address) {
            return Admission::Banned { until_millis: u64::MAX };
        }
        let per_second = u64::from(self.settings.connects_per_second);
        let source = Source::of(address);
        // Without a rate there is nothing to remember of a source that has done nothing wrong.
        let place = if per_second == 0 { self.find(source) } else { Some(self.find_or_insert(source)) };
        let Some(place) = place else { return Admission::Admit };
        let burst = u64::from(self.settings.connects_burst.max(1));
        self.update(place, now_millis, |entry, _| {
            if entry.banned_until_millis > 0 {
                return Admission::Banned { until_millis: entry.banned_until_millis };
            }
            let Some(interval_micros) = 1_000_000_u64.checked_div(per_second) else {
                return Admission::Admit;
            };
            let now_micros = now_millis.saturating_mul(1000);
            let due = entry.connect_due_micros.max(now_micros);
            if due - now_micros > (burst - 1).saturating_mul(interval_micros) {
                return Admission::TooFast;
            }
            entry.connect_due_micros = due.saturating_add(interval_micros);
            Admission::Admit
        })
    }

    /// A connection was not admitted: is it worth a log line? Once for each source and
    /// [`TELL_SECONDS`], with the network that is counted as one.
    pub fn tell(&mut self, now_millis: u64, address: IpAddr) -> Option<Network> {
        let source = Source::of(address);
        let place = self.find_or_insert(source);
        self.update(place, now_millis, |entry, _| {
            let now_seconds = u32::try_from(now_millis / 1000).unwrap_or(u32::MAX);
            let is_due = entry.tell_at_seconds <= now_seconds;
            if is_due {
                entry.tell_at_seconds = now_seconds.saturating_add(TELL_SECONDS);
            }
            is_due.then(|| source.network())
        })
    }

    /// A login of the source has failed; says what to do with the refusal.
    pub fn failed(&mut self, now_millis: u64, address: IpAddr) -> Penalty {
        if self.settings.is_exempt(address) {
            return Penalty::None;
        }
        let place = self.find_or_insert(Source::of(address));
        self.update(place, now_millis, |entry, settings| {
            // A connection that was open before the ban: it adds nothing to it.
            if entry.banned_until_millis > 0 {
                return Penalty::None;
            }
            entry.failures = entry.failures.saturating_add(1);
            entry.failed_at_millis = now_millis;
            if settings.ban_after_failures > 0 && entry.failures >= settings.ban_after_failures {
                return Penalty::Ban { until_millis: entry.ban(now_millis, settings) };
            }
            delay(entry.failures, settings)
        })
    }

    /// What logins of a source may be checked now.
    pub fn login_turn(&self, now_millis: u64, address: IpAddr) -> LoginTurn {
        let settings = &self.settings;
        let entry = self.find(Source::of(address)).and_then(|place| self.entries.get(place as usize));
        let Some(entry) = entry.filter(|_| !settings.is_exempt(address)) else { return LoginTurn::Free };
        if entry.banned_until_millis > now_millis {
            return LoginTurn::Banned;
        }
        let forget = seconds(settings.failures_forget_seconds);
        let since = now_millis.saturating_sub(entry.failed_at_millis);
        if entry.failures == 0 || forget > 0 && since >= forget {
            return LoginTurn::Free;
        }
        match (delay(entry.failures, settings), delay(entry.failures.saturating_add(1), settings)) {
            (Penalty::Delay { millis }, _) if since < millis => {
                LoginTurn::Until(Time::from_millis(entry.failed_at_millis.saturating_add(millis)))
            }
            (_, Penalty::Delay { .. }) => LoginTurn::One,
            _ => LoginTurn::Free,
        }
    }

    /// A login of the source has succeeded: one failure is forgiven.
    ///
    /// Not all of them: somebody with an account of his own could clear the count for a series of
    /// guesses at another's with each login.
    pub fn succeeded(&mut self, now_millis: u64, address: IpAddr) {
        if let Some(place) = self.find(Source::of(address)) {
            self.update(place, now_millis, |entry, _| entry.failures = entry.failures.saturating_sub(1));
        }
    }

    /// A connection that was admitted has ended; gives the end of the ban if that makes one.
    ///
    /// `lived_millis` is the time since it opened.
    pub fn closed(&mut self, now_millis: u64, address: IpAddr, lived_millis: u64) -> Option<u64> {
        let window = seconds(self.settings.flap_seconds);
        if self.settings.flap_connects == 0 || lived_millis >= window || self.settings.is_exempt(address) {
            return None;
        }
        let place = self.find_or_insert(Source::of(address));
        self.update(place, now_millis, |entry, settings| {
            if entry.banned_until_millis > 0 {
                return None;
            }
            if entry.flaps == 0 || now_millis.saturating_sub(entry.flaps_since_millis) >= window {
                entry.flaps = 0;
                entry.flaps_since_millis = now_millis;
            }
            entry.flaps = entry.flaps.saturating_add(1);
            (entry.flaps >= settings.flap_connects).then(|| entry.ban(now_millis, settings))
        })
    }

    /// Bans a source by hand, in place of another ban of it; `u64::MAX`: until it is taken back. Gives false,
    /// and does nothing, for an address that is exempt.
    pub fn ban(&mut self, now_millis: u64, address: IpAddr, until_millis: u64) -> bool {
        if self.settings.is_exempt(address) {
            return false;
        }
        let place = self.find_or_insert(Source::of(address));
        self.update(place, now_millis, |entry, _| {
            // A ban that has ended already is none.
            entry.banned_until_millis = if until_millis > now_millis { until_millis } else { 0 };
        });
        true
    }

    /// Takes a ban back, with the failures that led to it; gives whether there was one.
    pub fn unban(&mut self, now_millis: u64, address: IpAddr) -> bool {
        let Some(place) = self.find(Source::of(address)) else { return false };
        self.update(place, now_millis, |entry, _| {
            entry.failures = 0;
            entry.flaps = 0;
            std::mem::take(&mut entry.banned_until_millis) > 0
        })
    }

    /// The bans of this moment, the source seen last first.
    pub fn bans(&self, now_millis: u64) -> impl Iterator<Item = Ban> {
        let mut place = self.lists.get(Class::Banned as usize).map_or(NONE, |ends| ends.newest);
        std::iter::from_fn(move || {
            let entry = self.entries.get(place as usize)?;
            place = entry.older;
            Some(Ban { network: entry.source.network(), until_millis: entry.banned_until_millis })
        })
        .filter(move |ban| ban.until_millis > now_millis)
    }

    /// Sources remembered, at most [`GateSettings::addresses_max`].
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no source is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn find(&self, source: Source) -> Option<u32> {
        let is_it =
            |&place: &u32| self.entries.get(place as usize).is_some_and(|entry| entry.source == source);
        self.by_source.find(self.hasher.hash_one(source), is_it).copied()
    }

    fn find_or_insert(&mut self, source: Source) -> u32 {
        if let Some(place) = self.find(source) {
            return place;
        }
        let entry = Entry::new(source);
        let place = if self.entries.len() < self.settings.addresses_max {
            self.entries.push(entry);
            (self.entries.len() - 1) as u32
        } else {
            let place = self.evict();
            self.entries[place as usize] = entry;
            place
        };
        self.link(place, Class::Clean);
        let (entries, hasher) = (&self.entries, &self.hasher);
        let hash = hasher.hash_one(source);
        self.by_source.insert_unique(hash, place, |&place| hasher.hash_one(entries[place as usize].source));
        place
    }

    /// Takes the least bad source, seen longest ago, out of its list and of the table.
    fn evict(&mut self) -> u32 {
        let place = self.lists.iter().map(|ends| ends.oldest).find(|&place| place != NONE);
        let place = place.expect("a full table has an entry, and each entry is in a list");
        self.unlink(place);
        let hash = self.hasher.hash_one(self.entries[place as usize].source);
        match self.by_source.find_entry(hash, |&other| other == place) {
            Ok(slot) => drop(slot.remove()),
            Err(_) => debug_assert!(false, "each entry is in the table"),
        }
        place
    }

    /// Changes an entry, and puts it where it belongs now: newest of its class.
    fn update<T>(
        &mut self,
        place: u32,
        now_millis: u64,
        change: impl FnOnce(&mut Entry, &GateSettings) -> T,
    ) -> T {
        let entry = &mut self.entries[place as usize];
        entry.lapse(now_millis, &self.settings);
        let outcome = change(entry, &self.settings);
        let class = entry.class_now();
        self.unlink(place);
        self.link(place, class);
        outcome
    }

    fn link(&mut self, place: u32, class: Class) {
        let ends = &mut self.lists[class as usize];
        let second = std::mem::replace(&mut ends.newest, place);
        if second == NONE {
            ends.oldest = place;
        } else {
            self.entries[second as usize].newer = place;
        }
        let entry = &mut self.entries[place as usize];
        (entry.newer, entry.older, entry.class) = (NONE, second, class);
    }

    fn unlink(&mut self, place: u32) {
        let entry = &self.entries[place as usize];
        let (newer, older, class) = (entry.newer, entry.older, entry.class);
        if newer == NONE {
            self.lists[class as usize].newest = older;
        } else {
            self.entries[newer as usize].older = older;
        }
        if older == NONE {
            self.lists[class as usize].oldest = newer;
        } else {
            self.entries[older as usize].newer = newer;
        }
    }
}

fn seconds(seconds: u64) -> u64 {
    seconds.saturating_mul(1000)
}

fn delay(failures: u32, settings: &GateSettings) -> Penalty {
    let Some(beyond) = failures.checked_sub(settings.failures_before_delay).filter(|&beyond| beyond > 0)
    else {
        return Penalty::None;
    };
    // 2^63 milliseconds are past any maximum.
    let doubled = settings.delay_base_millis.saturating_mul(1 << (beyond - 1).min(63));
    match doubled.min(settings.delay_max_millis) {
        0 => Penalty::None,
        millis => Penalty::Delay { millis },
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
