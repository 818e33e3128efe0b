//! The sources that the address gate remembers, in a table of bounded size.
//!
//! When the table is full, it forgets the source that was seen longest ago: first one without failures and
//! bans, otherwise one with failures, otherwise one with a ban. So a flood of new addresses does not end a
//! ban while other entries can be forgotten.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{AddressGateSettings, seconds};
use crate::settings::Network;
use ahash::RandomState;
use hashbrown::HashTable;

/// Addresses that count as one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SourceAddress {
    V4(u32),
    /// The upper half of the address.
    V6(u64),
}

impl SourceAddress {
    pub(super) fn of(address: IpAddr) -> SourceAddress {
        match address.to_canonical() {
            IpAddr::V4(v4) => SourceAddress::V4(v4.to_bits()),
            IpAddr::V6(v6) => SourceAddress::V6((v6.to_bits() >> 64) as u64),
        }
    }

    pub(super) fn network(self) -> Network {
        match self {
            SourceAddress::V4(bits) => Network::new(IpAddr::V4(Ipv4Addr::from_bits(bits)), 32),
            SourceAddress::V6(upper) => {
                Network::new(IpAddr::V6(Ipv6Addr::from_bits(u128::from(upper) << 64)), 64)
            }
        }
        .expect("an address has as many bits")
    }
}

/// How bad a source is. Each class has a list. Entries of the first class are forgotten first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Clean,
    Failing,
    Banned,
}

const CLASSES: [Class; 3] = [Class::Clean, Class::Failing, Class::Banned];
/// The place that means "no entry".
const NONE: u32 = u32::MAX;

/// What the gate remembers about a source.
pub(super) struct SourceEntry {
    pub(super) source: SourceAddress,
    /// The time at which the next connection would be due at the long-run rate, in microseconds.
    pub(super) connect_due_micros: u64,
    /// The end of the ban; 0: no ban.
    pub(super) banned_until_millis: u64,
    pub(super) failed_at_millis: u64,
    pub(super) flaps_since_millis: u64,
    /// The time from which a closed connection gets a log line again.
    pub(super) tell_at_seconds: u32,
    pub(super) failures: u32,
    pub(super) flaps: u32,
    newer: u32,
    older: u32,
    class: Class,
}

const _: () = assert!(size_of::<SourceEntry>() <= 72);

impl SourceEntry {
    fn new(source: SourceAddress) -> SourceEntry {
        SourceEntry {
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

    /// Removes a ban that has ended, and old failures.
    pub(super) fn lapse(&mut self, now_millis: u64, settings: &AddressGateSettings) {
        if self.banned_until_millis <= now_millis {
            self.banned_until_millis = 0;
        }
        let forget = seconds(settings.failures_forget_seconds);
        if forget > 0 && now_millis.saturating_sub(self.failed_at_millis) >= forget {
            self.failures = 0;
        }
    }

    /// Bans the source. Returns the end of the ban.
    pub(super) fn ban(&mut self, now_millis: u64, settings: &AddressGateSettings) -> u64 {
        let until = now_millis.saturating_add(seconds(settings.ban_seconds));
        self.banned_until_millis = self.banned_until_millis.max(until);
        self.failures = 0;
        self.flaps = 0;
        self.banned_until_millis
    }
}

/// The ends of a list, which is sorted from newest to oldest.
#[derive(Clone, Copy)]
struct Ends {
    newest: u32,
    oldest: u32,
}

/// The table.
pub(super) struct Sources {
    /// The largest number of entries.
    entries_max: usize,
    hasher: RandomState,
    /// The place of each source in `entries`.
    by_source: HashTable<u32>,
    entries: Vec<SourceEntry>,
    lists: [Ends; CLASSES.len()],
}

impl Sources {
    /// An empty table. The seed keys it, so that nobody can choose addresses that collide.
    pub(super) fn new(entries_max: usize, seed: u64) -> Sources {
        Sources {
            // A place is a u32, and one of its values means "none".
            entries_max: entries_max.clamp(1, NONE as usize - 1),
            hasher: RandomState::with_seeds(seed, 0x6761, 0x7465, 0x73),
            by_source: HashTable::new(),
            entries: Vec::new(),
            lists: [Ends { newest: NONE, oldest: NONE }; CLASSES.len()],
        }
    }

    /// Changes the bound. If there are too many sources, the excess is forgotten.
    pub(super) fn change_max(&mut self, entries_max: usize) {
        let empty = Sources { hasher: self.hasher.clone(), ..Sources::new(entries_max, 0) };
        if self.entries.len() <= empty.entries_max {
            self.entries_max = empty.entries_max;
            return;
        }
        let old = std::mem::replace(self, empty);
        // The entries are inserted starting with the least bad and longest unseen, so that later ones evict
        // the less important ones.
        for ends in old.lists {
            let mut place = ends.oldest;
            while let Some(entry) = old.entries.get(place as usize) {
                let new = self.find_or_insert(entry.source);
                self.unlink(new);
                let kept = &mut self.entries[new as usize];
                *kept = SourceEntry { ..*entry };
                self.link(new, entry.class);
                place = entry.newer;
            }
        }
    }

    /// The number of remembered sources.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn entry(&self, place: u32) -> Option<&SourceEntry> {
        self.entries.get(place as usize)
    }

    /// The banned sources, with the one that was seen last first. Some of the bans may have ended.
    pub(super) fn banned(&self) -> impl Iterator<Item = &SourceEntry> {
        let mut place = self.lists.get(Class::Banned as usize).map_or(NONE, |ends| ends.newest);
        std::iter::from_fn(move || {
            let entry = self.entries.get(place as usize)?;
            place = entry.older;
            Some(entry)
        })
    }

    /// The place of a source, if it is remembered.
    pub(super) fn find(&self, source: SourceAddress) -> Option<u32> {
        let is_it =
            |&place: &u32| self.entries.get(place as usize).is_some_and(|entry| entry.source == source);
        self.by_source.find(self.hasher.hash_one(source), is_it).copied()
    }

    pub(super) fn find_or_insert(&mut self, source: SourceAddress) -> u32 {
        if let Some(place) = self.find(source) {
            return place;
        }
        let entry = SourceEntry::new(source);
        let place = if self.entries.len() < self.entries_max {
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

    /// Removes the source of the least bad class that was seen longest ago.
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

    /// Changes an entry, and makes it the newest of its new class.
    pub(super) fn update<T>(&mut self, place: u32, change: impl FnOnce(&mut SourceEntry) -> T) -> T {
        let entry = &mut self.entries[place as usize];
        let outcome = change(entry);
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Checks that each entry is in the table, and in exactly the list of its class.
    pub(in crate::policy::address_gate) fn check(sources: &Sources) {
        assert!(sources.entries.len() <= sources.entries_max);
        assert_eq!(sources.by_source.len(), sources.entries.len());
        let mut linked = 0;
        for class in CLASSES {
            let (mut newer, mut place) = (NONE, sources.lists[class as usize].newest);
            while place != NONE {
                let entry = &sources.entries[place as usize];
                assert!(entry.newer == newer && entry.class == class && entry.class_now() == class);
                assert_eq!(sources.find(entry.source), Some(place));
                linked += 1;
                (newer, place) = (place, entry.older);
            }
            assert_eq!(sources.lists[class as usize].oldest, newer);
        }
        assert_eq!(linked, sources.entries.len());
    }

    pub(in crate::policy::address_gate) fn capacity(sources: &Sources) -> usize {
        sources.entries.capacity()
    }
}
