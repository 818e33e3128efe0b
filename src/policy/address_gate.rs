//! The address gate acts before CONNECT: it decides which addresses may open connections now.
//!
//! The inputs are connections that open, logins that fail or succeed, connections that end, and manual bans.
//! `now` is an argument, in milliseconds of a clock that never goes back. The outputs are whether to admit a
//! connection, and how long to wait before a refusal is sent. There are no timers: expired bans and counts
//! are removed when the address is next used.
//!
//! A source is an IPv4 address, or the /64 network of an IPv6 address, because a host with one address of a
//! /64 usually has all of them. An IPv4 address mapped into IPv6 counts as IPv4.
//!
//! [`AddressGateSettings::addresses_max`] bounds the memory. This file has the rules, `settings` their
//! values, and `sources` the remembered sources.

mod settings;
mod sources;

pub use settings::AddressGateSettings;

use std::fmt;
use std::net::IpAddr;

use crate::base::Time;
use crate::settings::Network;
use sources::{SourceAddress, SourceEntry, Sources};

/// The decision about a connection that opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Admit it.
    Admit,
    /// The source opens connections too fast. Close it.
    TooFast,
    /// The source is banned. Close it.
    Banned {
        /// The end of the ban, on the clock of `now`. `u64::MAX`: no end.
        until_millis: u64,
    },
}

/// The consequence of a failed login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Penalty {
    /// Refuse at once.
    None,
    /// Refuse after this time.
    Delay {
        /// At most [`AddressGateSettings::delay_max_millis`].
        millis: u64,
    },
    /// Refuse at once. The source is banned from now on.
    Ban {
        /// The end of the ban, on the clock of `now`.
        until_millis: u64,
    },
}

/// How many logins of a source may be checked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginTurn {
    /// Any number.
    Free,
    /// One at a time: if it is wrong, its refusal is delayed.
    One,
    /// None until this time, because refusals of earlier logins are delayed.
    Until(Time),
    /// None, because the source is banned.
    Banned,
}

/// The network that an address is counted with: the address itself (/32) for IPv4, its /64 for IPv6.
pub fn counted_with(address: IpAddr) -> Network {
    SourceAddress::of(address).network()
}

/// A ban that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    /// One IPv4 address (/32) or an IPv6 network (/64).
    pub network: Network,
    /// The end of the ban, on the clock of `now`. `u64::MAX`: no end.
    pub until_millis: u64,
}

/// The time between two log lines for a source that is not admitted.
pub const TELL_SECONDS: u32 = 60;

/// The address gate. It shares nothing: the caller may have one for each shard, or one for all.
pub struct AddressGate {
    settings: AddressGateSettings,
    sources: Sources,
}

impl fmt::Debug for AddressGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressGate").field("sources", &self.sources.len()).finish_non_exhaustive()
    }
}

impl AddressGate {
    /// A gate that has seen no address yet. The seed keys its table, so that nobody can choose addresses that
    /// collide.
    pub fn new(settings: AddressGateSettings, seed: u64) -> AddressGate {
        AddressGate { sources: Sources::new(settings.addresses_max, seed), settings }
    }

    /// Changes the settings. A banned address stays banned until the time that was set.
    pub fn change(&mut self, settings: AddressGateSettings) {
        self.sources.change_max(settings.addresses_max);
        self.settings = settings;
    }

    /// Whether every connection may be admitted without a check at the moment.
    pub fn is_open_to_all(&self) -> bool {
        self.sources.is_empty() && self.settings.connects_per_second == 0 && self.settings.banned.is_empty()
    }

    /// Decides about a connection that opens, before a byte of it is read.
    pub fn open(&mut self, now_millis: u64, address: IpAddr) -> Admission {
        if self.settings.is_exempt(address) {
            return Admission::Admit;
        }
        if self.settings.is_banned(address) {
            return Admission::Banned { until_millis: u64::MAX };
        }
        let per_second = u64::from(self.settings.connects_per_second);
        let source = SourceAddress::of(address);
        // Without a rate, nothing must be remembered about a source without failures.
        let place = if per_second == 0 {
            self.sources.find(source)
        } else {
            Some(self.sources.find_or_insert(source))
        };
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

    /// Records a connection that was not admitted. Returns the network that counts as one source if a log
    /// line is due: once per source and [`TELL_SECONDS`].
    pub fn tell(&mut self, now_millis: u64, address: IpAddr) -> Option<Network> {
        let source = SourceAddress::of(address);
        let place = self.sources.find_or_insert(source);
        self.update(place, now_millis, |entry, _| {
            let now_seconds = u32::try_from(now_millis / 1000).unwrap_or(u32::MAX);
            let is_due = entry.tell_at_seconds <= now_seconds;
            if is_due {
                entry.tell_at_seconds = now_seconds.saturating_add(TELL_SECONDS);
            }
            is_due.then(|| source.network())
        })
    }

    /// Counts a failed login of the source. Returns what to do with its refusal.
    pub fn failed(&mut self, now_millis: u64, address: IpAddr) -> Penalty {
        if self.settings.is_exempt(address) {
            return Penalty::None;
        }
        let place = self.sources.find_or_insert(SourceAddress::of(address));
        self.update(place, now_millis, |entry, settings| {
            // The connection was open before the ban. It does not extend the ban.
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

    /// Which logins of a source may be checked now.
    pub fn login_turn(&self, now_millis: u64, address: IpAddr) -> LoginTurn {
        let settings = &self.settings;
        let entry = self.sources.find(SourceAddress::of(address)).and_then(|place| self.sources.entry(place));
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

    /// Counts a successful login of the source: it removes one failure.
    ///
    /// It does not remove all failures. Otherwise someone with an account could guess another user's
    /// password, and reset the count with logins of their own in between.
    pub fn succeeded(&mut self, now_millis: u64, address: IpAddr) {
        if let Some(place) = self.sources.find(SourceAddress::of(address)) {
            self.update(place, now_millis, |entry, _| entry.failures = entry.failures.saturating_sub(1));
        }
    }

    /// Counts the end of an admitted connection. Returns the end of the ban if this causes one.
    ///
    /// `lived_millis` is the time since the connection opened.
    pub fn closed(&mut self, now_millis: u64, address: IpAddr, lived_millis: u64) -> Option<u64> {
        let window = seconds(self.settings.flap_seconds);
        if self.settings.flap_connects == 0 || lived_millis >= window || self.settings.is_exempt(address) {
            return None;
        }
        let place = self.sources.find_or_insert(SourceAddress::of(address));
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

    /// Bans a source manually. This replaces another ban of it. `u64::MAX`: until [`AddressGate::unban`].
    /// Returns false and does nothing for an exempt address.
    pub fn ban(&mut self, now_millis: u64, address: IpAddr, until_millis: u64) -> bool {
        if self.settings.is_exempt(address) {
            return false;
        }
        let place = self.sources.find_or_insert(SourceAddress::of(address));
        self.update(place, now_millis, |entry, _| {
            // A ban whose end has already passed has no effect.
            entry.banned_until_millis = if until_millis > now_millis { until_millis } else { 0 };
        });
        true
    }

    /// Ends a ban, and removes the failures that led to it. Returns whether there was one.
    pub fn unban(&mut self, now_millis: u64, address: IpAddr) -> bool {
        let Some(place) = self.sources.find(SourceAddress::of(address)) else { return false };
        self.update(place, now_millis, |entry, _| {
            entry.failures = 0;
            entry.flaps = 0;
            std::mem::take(&mut entry.banned_until_millis) > 0
        })
    }

    /// The current bans, with the source that was seen last first.
    pub fn bans(&self, now_millis: u64) -> impl Iterator<Item = Ban> {
        let ban = |entry: &SourceEntry| Ban {
            network: entry.source.network(),
            until_millis: entry.banned_until_millis,
        };
        self.sources.banned().map(ban).filter(move |ban| ban.until_millis > now_millis)
    }

    /// The number of remembered sources, at most [`AddressGateSettings::addresses_max`].
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Whether no source is remembered.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Changes the entry of a source, after removing what has expired.
    fn update<T>(
        &mut self,
        place: u32,
        now_millis: u64,
        change: impl FnOnce(&mut SourceEntry, &AddressGateSettings) -> T,
    ) -> T {
        let settings = &self.settings;
        self.sources.update(place, |entry| {
            entry.lapse(now_millis, settings);
            change(entry, settings)
        })
    }
}

fn seconds(seconds: u64) -> u64 {
    seconds.saturating_mul(1000)
}

fn delay(failures: u32, settings: &AddressGateSettings) -> Penalty {
    let Some(beyond) = failures.checked_sub(settings.failures_before_delay).filter(|&beyond| beyond > 0)
    else {
        return Penalty::None;
    };
    // 2^63 milliseconds exceed every maximum.
    let doubled = settings.delay_base_millis.saturating_mul(1 << (beyond - 1).min(63));
    match doubled.min(settings.delay_max_millis) {
        0 => Penalty::None,
        millis => Penalty::Delay { millis },
    }
}

#[cfg(test)]
#[path = "address_gate_tests.rs"]
mod tests;
