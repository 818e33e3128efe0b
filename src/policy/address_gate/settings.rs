//! The settings of the address gate, from their section of the configuration.

use std::net::IpAddr;
use std::sync::Arc;

use crate::settings::{Config, Network};

/// The settings of the address gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressGateSettings {
    /// The connections per second that one source may open in the long run; 0: no limit.
    pub connects_per_second: u32,
    /// The connections that a source may open at once after a pause; 0 counts as 1.
    pub connects_burst: u32,
    /// The failed logins of a source whose refusals are not delayed.
    pub failures_before_delay: u32,
    /// The delay of the first refusal after those. It doubles with each further one. 0: no delays.
    pub delay_base_millis: u64,
    /// The longest delay.
    pub delay_max_millis: u64,
    /// The failed logins after which a source is banned; 0: failed logins ban no source.
    pub ban_after_failures: u32,
    /// How long failed logins and short connections ban a source.
    pub ban_seconds: u64,
    /// After this long without a failed login, the earlier ones are forgotten; 0: never.
    pub failures_forget_seconds: u64,
    /// The number of connections after which a source is banned, if they end within
    /// [`AddressGateSettings::flap_seconds`] of their start, counted over the same time. 0 if there is no
    /// such ban.
    pub flap_connects: u32,
    /// See [`AddressGateSettings::flap_connects`].
    pub flap_seconds: u64,
    /// The number of sources that are remembered, about 80 bytes each; 0 counts as 1. Beyond that, a source
    /// of the least bad class is forgotten, the one that was seen longest ago.
    pub addresses_max: usize,
    /// Networks that are always admitted and never counted, even if they are banned too.
    pub exempt: Arc<[Network]>,
    /// Networks that are never admitted.
    pub banned: Arc<[Network]>,
}

impl Default for AddressGateSettings {
    /// The default has delays only: one faulty device must not lock out a fleet behind the same address.
    fn default() -> AddressGateSettings {
        AddressGateSettings {
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

impl From<&Config> for AddressGateSettings {
    fn from(config: &Config) -> AddressGateSettings {
        let (gate, limits) = (&config.gate, &config.limits);
        AddressGateSettings {
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

impl AddressGateSettings {
    /// Whether a network of [`AddressGateSettings::banned`] contains the address, and no exempt network does.
    pub fn is_banned(&self, address: IpAddr) -> bool {
        self.banned.iter().any(|network| network.contains(address)) && !self.is_exempt(address)
    }

    /// Whether the address is exempt from all rules.
    pub fn is_exempt(&self, address: IpAddr) -> bool {
        self.exempt.iter().any(|network| network.contains(address))
    }
}
