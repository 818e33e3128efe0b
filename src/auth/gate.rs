//! The gate before CONNECT: which network addresses may open connections now.
//!
//! In: connections that open, logins that fail or succeed, connections that end, and bans by hand; `now`
//! is an argument, in milliseconds of a clock that never goes back. Out: whether to admit, and
//! how long to wait before a refusal is sent. Nothing is due by itself: bans and counts lapse when
//! the address is next looked at.
//!
//! A source is an IPv4 address, or the /64 network of an IPv6 address, since whoever has one of its
//! addresses has them all. An IPv4 address mapped into IPv6 counts as IPv4.
//!
//! Memory is bounded by [`GateSettings::addresses_max`]. When the table is full, the source seen longest
//! ago makes room: of those without failures and bans, if there are any, then of those with
//! failures, then of those with bans. So a flood of fresh addresses frees nobody who is banned.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ahash::RandomState;
use hashbrown::HashTable;

/// Most networks in [`GateSettings::exempt`]: they are tried one by one at each connection.
pub const EXEMPT_MAX: usize = 256;

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
    /// Networks that are always admitted and never counted; from the [`EXEMPT_MAX`]th on, ignored.
    pub exempt: Vec<Network>,
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
            exempt: Vec::new(),
        }
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
        /// The end of the ban, on the clock of `now`.
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
    /// Refuse at once; the source is banned.
    Ban {
        /// The end of the ban, on the clock of `now`.
        until_millis: u64,
    },
}

/// A network: an address and how many of its leading bits count. Reads and shows as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// `None` when there are more bits than the address has. Bits behind the prefix are cleared.
    pub fn new(address: IpAddr, prefix_bits: u8) -> Option<Network> {
        let (address, prefix_bits) = match (address, address.to_canonical()) {
            // ::ffff:10.0.0.0/104 is 10.0.0.0/8.
            (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if (96..=128).contains(&prefix_bits) => {
                (v4, prefix_bits - 96)
            }
            (address, _) => (address, prefix_bits),
        };
        let address = match address {
            IpAddr::V4(v4) if prefix_bits <= 32 => {
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask_v4(prefix_bits)))
            }
            IpAddr::V6(v6) if prefix_bits <= 128 => {
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask_v6(prefix_bits)))
            }
            _ => return None,
        };
        Some(Network { address, prefix_bits })
    }

    /// Whether the address lies in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(v4)) => {
                v4.to_bits() & mask_v4(self.prefix_bits) == network.to_bits()
            }
            (IpAddr::V6(network), IpAddr::V6(v6)) => {
                v6.to_bits() & mask_v6(self.prefix_bits) == network.to_bits()
            }
            _ => false,
        }
    }
}

fn mask_v4(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

fn mask_v6(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

/// A text that is no [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkError;

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a network; allowed are addresses, and networks such as 10.0.0.0/8 and 2001:db8::/32")
    }
}

impl std::error::Error for NetworkError {}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Network, NetworkError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) if bits.bytes().all(|byte| byte.is_ascii_digit()) => (address, Some(bits)),
            Some(_) => return Err(NetworkError),
            None => (text, None),
        };
        let address = IpAddr::from_str(address).map_err(|_| NetworkError)?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(whole), |bits| bits.parse().map_err(|_| NetworkError))?;
        Network::new(address, bits).ok_or(NetworkError)
    }
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
            Source::V4(bits) => Network { address: IpAddr::V4(Ipv4Addr::from_bits(bits)), prefix_bits: 32 },
            Source::V6(upper) => {
                let address = Ipv6Addr::from_bits(u128::from(upper) << 64);
                Network { address: IpAddr::V6(address), prefix_bits: 64 }
            }
        }
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
        settings.exempt.truncate(EXEMPT_MAX);
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

    /// A connection opens, before a byte of it is read.
    pub fn open(&mut self, now_millis: u64, address: IpAddr) -> Admission {
        if self.is_exempt(address) {
            return Admission::Admit;
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

    /// A login of the source has failed; says what to do with the refusal.
    pub fn failed(&mut self, now_millis: u64, address: IpAddr) -> Penalty {
        if self.is_exempt(address) {
            return Penalty::None;
        }
        let place = self.find_or_insert(Source::of(address));
        self.update(place, now_millis, |entry, settings| {
            if entry.banned_until_millis > 0 {
                return Penalty::Ban { until_millis: entry.banned_until_millis };
            }
            entry.failures = entry.failures.saturating_add(1);
            entry.failed_at_millis = now_millis;
            if settings.ban_after_failures > 0 && entry.failures >= settings.ban_after_failures {
                return Penalty::Ban { until_millis: entry.ban(now_millis, settings) };
            }
            delay(entry.failures, settings)
        })
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
        if self.settings.flap_connects == 0 || lived_millis >= window || self.is_exempt(address) {
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
        if self.is_exempt(address) {
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

    fn is_exempt(&self, address: IpAddr) -> bool {
        self.settings.exempt.iter().any(|network| network.contains(address))
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
mod tests {
    use super::*;

    fn off() -> GateSettings {
        GateSettings { delay_base_millis: 0, addresses_max: 1000, ..GateSettings::default() }
    }

    fn gate(settings: GateSettings) -> AddressGate {
        AddressGate::new(settings, 7)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    /// Each entry is in the table, and in one list: the one of its class.
    fn check(gate: &AddressGate) {
        assert!(gate.entries.len() <= gate.settings.addresses_max);
        assert_eq!(gate.by_source.len(), gate.entries.len());
        let mut linked = 0;
        for class in CLASSES {
            let (mut newer, mut place) = (NONE, gate.lists[class as usize].newest);
            while place != NONE {
                let entry = &gate.entries[place as usize];
                assert!(entry.newer == newer && entry.class == class && entry.class_now() == class);
                assert_eq!(gate.find(entry.source), Some(place));
                linked += 1;
                (newer, place) = (place, entry.older);
            }
            assert_eq!(gate.lists[class as usize].oldest, newer);
        }
        assert_eq!(linked, gate.entries.len());
    }

    #[test]
    fn a_source_may_open_a_burst_and_then_its_rate() {
        let mut gate = gate(GateSettings { connects_per_second: 10, connects_burst: 5, ..off() });
        let (one, other) = (ip("192.0.2.1"), ip("192.0.2.2"));
        let start = 1_000_000;
        for _ in 0..5 {
            assert_eq!(gate.open(start, one), Admission::Admit);
        }
        assert_eq!(gate.open(start, one), Admission::TooFast);
        assert_eq!(gate.open(start + 99, one), Admission::TooFast);
        assert_eq!(gate.open(start + 100, one), Admission::Admit);
        assert_eq!(gate.open(start + 100, one), Admission::TooFast);
        assert_eq!(gate.open(start, other), Admission::Admit, "each source has a rate of its own");
        // After a rest the burst is there again, and no more than the burst.
        let admitted = (0..20).filter(|_| gate.open(start + 60_000, one) == Admission::Admit).count();
        assert_eq!(admitted, 5);
        check(&gate);
    }

    #[test]
    fn over_a_long_time_the_rate_is_kept() {
        let mut gate = gate(GateSettings { connects_per_second: 3, connects_burst: 0, ..off() });
        let admitted = (0..100_000).filter(|&now| gate.open(now, v4(1)) == Admission::Admit).count();
        assert!((295..=301).contains(&admitted), "{admitted} in 100 s");
    }

    #[test]
    fn rate_zero_admits_all_and_remembers_nobody() {
        let mut gate = gate(off());
        for number in 0..10_000 {
            assert_eq!(gate.open(5, v4(number % 10)), Admission::Admit);
        }
        assert!(gate.is_empty());
    }

    #[test]
    fn refusals_are_delayed_twice_as_long_each_time_up_to_a_maximum() {
        let settings = GateSettings {
            failures_before_delay: 2,
            delay_base_millis: 100,
            delay_max_millis: 1000,
            failures_forget_seconds: 60,
            ..off()
        };
        let mut gate = gate(settings);
        let delays: Vec<u64> = (0..100)
            .map(|now| match gate.failed(now, v4(1)) {
                Penalty::None => 0,
                Penalty::Delay { millis } => millis,
                Penalty::Ban { .. } => panic!("bans are off"),
            })
            .collect();
        assert_eq!(delays[..8], [0, 0, 100, 200, 400, 800, 1000, 1000]);
        assert!(delays[8..].iter().all(|&millis| millis == 1000));
        assert_eq!(gate.failed(99 + 60_000, v4(1)), Penalty::None, "a minute without failures heals");
    }

    #[test]
    fn a_success_forgives_one_failure() {
        let mut gate = gate(GateSettings { ban_after_failures: 3, ..off() });
        assert_eq!(gate.failed(0, v4(1)), Penalty::None);
        assert_eq!(gate.failed(1, v4(1)), Penalty::None);
        gate.succeeded(2, v4(1));
        gate.succeeded(2, v4(2));
        assert_eq!(gate.failed(3, v4(1)), Penalty::None);
        assert_eq!(gate.failed(4, v4(1)), Penalty::Ban { until_millis: 300_004 });
        check(&gate);
    }

    #[test]
    fn a_banned_source_is_refused_until_its_time_is_over() {
        let mut gate = gate(GateSettings { ban_after_failures: 2, ban_seconds: 10, ..off() });
        gate.failed(1000, v4(1));
        assert_eq!(gate.failed(1000, v4(1)), Penalty::Ban { until_millis: 11_000 });
        assert_eq!(gate.open(1001, v4(1)), Admission::Banned { until_millis: 11_000 });
        // Connections that were open before the ban add nothing to it.
        assert_eq!(gate.failed(5000, v4(1)), Penalty::Ban { until_millis: 11_000 });
        assert_eq!(gate.open(10_999, v4(1)), Admission::Banned { until_millis: 11_000 });
        assert_eq!(gate.bans(10_999).count(), 1);
        assert_eq!(gate.bans(11_000).count(), 0);
        assert_eq!(gate.open(11_000, v4(1)), Admission::Admit);
        assert_eq!(gate.failed(11_001, v4(1)), Penalty::None, "the count begins anew");
        check(&gate);
    }

    #[test]
    fn flapping_bans() {
        let mut gate = gate(GateSettings { flap_connects: 3, flap_seconds: 10, ban_seconds: 60, ..off() });
        assert_eq!(gate.closed(0, v4(1), 10_000), None, "it lived long enough");
        assert!(gate.is_empty());
        assert_eq!(gate.closed(1000, v4(1), 5), None);
        assert_eq!(gate.closed(2000, v4(1), 9_999), None);
        // The time is over: a new count.
        assert_eq!(gate.closed(11_000, v4(1), 5), None);
        assert_eq!(gate.closed(12_000, v4(1), 5), None);
        assert_eq!(gate.closed(13_000, v4(1), 5), Some(73_000));
        assert_eq!(gate.closed(13_000, v4(1), 5), None);
        assert_eq!(gate.open(13_001, v4(1)), Admission::Banned { until_millis: 73_000 });
        check(&gate);
    }

    #[test]
    fn bans_by_hand_come_and_go() {
        let mut gate = gate(off());
        assert!(gate.ban(0, ip("192.0.2.7"), u64::MAX));
        assert!(gate.ban(0, ip("2001:db8::1"), 500));
        assert!(gate.ban(0, ip("192.0.2.8"), 0), "a ban that has ended is none");
        let bans: Vec<String> =
            gate.bans(1).map(|ban| format!("{} {}", ban.network, ban.until_millis)).collect();
        assert_eq!(bans, ["2001:db8::/64 500", "192.0.2.7/32 18446744073709551615"]);
        assert_eq!(gate.open(u64::MAX - 1, ip("192.0.2.7")), Admission::Banned { until_millis: u64::MAX });
        assert!(gate.unban(1, ip("192.0.2.7")));
        assert!(!gate.unban(1, ip("192.0.2.7")));
        assert!(!gate.unban(1, ip("192.0.2.9")));
        assert_eq!(gate.open(1, ip("192.0.2.7")), Admission::Admit);
        check(&gate);
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_a_mapped_address_is_ipv4() {
        let mut gate = gate(off());
        gate.ban(0, ip("2001:db8:0:1::1"), 100);
        assert_eq!(
            gate.open(1, ip("2001:db8:0:1:ffff:ffff:ffff:ffff")),
            Admission::Banned { until_millis: 100 }
        );
        assert_eq!(gate.open(1, ip("2001:db8:0:2::1")), Admission::Admit);
        gate.ban(0, ip("192.0.2.1"), 100);
        assert_eq!(gate.open(1, ip("::ffff:192.0.2.1")), Admission::Banned { until_millis: 100 });
        assert_eq!(gate.open(1, ip("::ffff:192.0.2.2")), Admission::Admit);
        // The same bits as upper half and as IPv4 address are two sources.
        gate.ban(0, ip("0:0:0:5::"), 100);
        assert_eq!(gate.open(1, ip("0.0.0.5")), Admission::Admit);
    }

    #[test]
    fn exempt_networks_are_never_counted() {
        let exempt = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let mut gate = gate(GateSettings {
            connects_per_second: 1,
            connects_burst: 1,
            ban_after_failures: 1,
            flap_connects: 1,
            exempt,
            ..off()
        });
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8:5::1"] {
            for now in 0..5 {
                assert_eq!(gate.open(now, ip(address)), Admission::Admit);
                assert_eq!(gate.failed(now, ip(address)), Penalty::None);
                assert_eq!(gate.closed(now, ip(address), 0), None);
            }
            assert!(!gate.ban(0, ip(address), 100));
        }
        assert!(gate.is_empty());
        assert!(matches!(gate.failed(0, ip("11.0.0.1")), Penalty::Ban { .. }));
    }

    #[test]
    fn networks_are_read_and_shown() {
        for (text, shown) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), shown);
        }
        for text in
            ["", "10", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/256", "a/8", "/8"]
        {
            assert_eq!(text.parse::<Network>(), Err(NetworkError), "{text}");
        }
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains(ip("255.0.0.1")));
        assert!(!"0.0.0.0/0".parse::<Network>().unwrap().contains(ip("::1")));
    }

    #[test]
    fn a_million_addresses_stay_within_the_bound_and_free_nobody() {
        let settings = GateSettings {
            connects_per_second: 1,
            connects_burst: 1,
            ban_after_failures: 3,
            ban_seconds: 3600,
            addresses_max: 10_000,
            ..off()
        };
        let mut gate = gate(settings);
        gate.ban(0, ip("192.0.2.1"), 3_600_000);
        gate.failed(0, ip("192.0.2.2"));
        gate.failed(0, ip("192.0.2.2"));
        for number in 0..1_000_000_u32 {
            let address = match number % 2 {
                0 => v4(0x0a00_0000 + number),
                _ => IpAddr::V6(Ipv6Addr::from_bits(u128::from(number) << 64)),
            };
            assert_eq!(gate.open(u64::from(number / 1000), address), Admission::Admit);
        }
        assert_eq!(gate.len(), 10_000);
        assert!(gate.entries.capacity() <= 16_384);
        assert!(matches!(gate.open(1000, ip("192.0.2.1")), Admission::Banned { .. }));
        assert!(
            matches!(gate.failed(1000, ip("192.0.2.2")), Penalty::Ban { .. }),
            "failures outlast the flood too"
        );
        check(&gate);
    }

    #[test]
    fn room_is_made_by_the_clean_then_the_failing_then_the_banned() {
        let mut gate = gate(GateSettings { connects_per_second: 1, addresses_max: 4, ..off() });
        gate.ban(0, v4(1), 1000);
        gate.ban(0, v4(2), 1000);
        gate.failed(0, v4(3));
        gate.open(0, v4(4));
        gate.open(0, v4(5));
        assert_eq!(gate.find(Source::V4(4)), None);
        gate.failed(0, v4(5));
        gate.open(0, v4(6));
        assert_eq!(gate.find(Source::V4(3)), None, "of the failing, the one seen longest ago");
        gate.failed(0, v4(6));
        gate.ban(0, v4(5), 1000);
        gate.ban(0, v4(6), 1000);
        gate.open(1, v4(1));
        gate.open(1, v4(7));
        assert_eq!(gate.find(Source::V4(2)), None, "of the banned, the one seen longest ago");
        check(&gate);
    }

    #[test]
    fn whatever_happens_the_lists_hold_together() {
        let settings = GateSettings {
            connects_per_second: 2,
            connects_burst: 3,
            ban_after_failures: 4,
            ban_seconds: 1,
            failures_forget_seconds: 2,
            flap_connects: 3,
            flap_seconds: 1,
            addresses_max: 50,
            ..off()
        };
        let mut gate = gate(settings);
        let mut seed = 3_u64;
        let mut now = 0;
        for step in 0..50_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = (seed >> 33) as u32;
            let address = v4(number % 100);
            now += u64::from(number >> 8 & 31);
            match number >> 16 & 7 {
                0..=2 => drop(gate.open(now, address)),
                3 => drop(gate.failed(now, address)),
                4 => gate.succeeded(now, address),
                5 => drop(gate.closed(now, address, 5)),
                6 => drop(gate.ban(now, address, now + 100)),
                _ => drop(gate.unban(now, address)),
            }
            if step % 100 == 0 {
                check(&gate);
            }
        }
        check(&gate);
    }
}
