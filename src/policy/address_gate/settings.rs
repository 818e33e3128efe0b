//! What the address gate allows, as its section of the configuration says.

use std::net::IpAddr;
use std::sync::Arc;

use crate::settings::{Config, Network};

/// What the address gate allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressGateSettings {
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
    /// Connections that end within [`AddressGateSettings::flap_seconds`] of their start, counted over as
    /// long a time, that ban a source; 0: none do.
    pub flap_connects: u32,
    /// See [`AddressGateSettings::flap_connects`].
    pub flap_seconds: u64,
    /// Sources that are remembered at once, about 80 bytes each; 0 counts as 1. Beyond that, the least bad source
    /// that was seen longest ago is forgotten.
    pub addresses_max: usize,
    /// Networks that are always admitted and never counted, even if they are among the banned.
    pub exempt: Arc<[Network]>,
    /// Networks that are never admitted.
    pub banned: Arc<[Network]>,
}

impl Default for AddressGateSettings {
    /// Delays only: a fleet behind one address must not be locked out by one wrong device.
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
    /// Whether a network of [`AddressGateSettings::banned`] holds the address, and none of the exempt does.
    pub fn is_banned(&self, address: IpAddr) -> bool {
        self.banned.iter().any(|network| network.contains(address)) && !self.is_exempt(address)
    }

    /// Whether none of the rules applies to the address.
    pub fn is_exempt(&self, address: IpAddr) -> bool {
        self.exempt.iter().any(|network| network.contains(address))
    }
}
