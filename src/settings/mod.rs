//! The options that an operator can set, with checked values. Without a file, every option has its default.
//!
//! [`Config`] is plain data for code that needs a bound or a choice. [`options`] has one row for each option.
//! The room `config` reads the file.

mod address;
mod admin_address;
mod means;
mod network;
pub mod options;
mod pin;
pub mod plan;
mod state_directory;
mod terms;
pub mod value;

pub use address::Address;
pub use admin_address::{AdminAddress, FileMode, SYSTEM_ADMIN_SOCKET, admin_socket};
pub use means::Means;
pub use network::Network;
pub use options::{
    Acl, Admin, Auth, Gate, Jwt, Limits, Listener, Log, Persistence, Protocol, Runtime, Shutdown, Sys,
    Webhook,
};
pub use pin::{Pin, shown_cores};
pub use state_directory::state_directory;
pub use terms::Terms;
pub use value::{
    ChangeTime, ClientCertificateRules, ClientCertificates, CrlScope, ListenerProtocol, LogFormat, LogLevel,
    LogTarget, ProxyHeaderKind, QueuePolicy, SyncPolicy, TlsMinimum, TokenAlgorithm, UserNames, Version,
    Versions,
};

use value::Section;

/// Everything that an operator can set.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The addresses that clients connect to; never empty.
    pub listeners: Vec<Listener>,
    /// The engine: shards and cores.
    pub runtime: Runtime,
    /// Which clients may connect.
    pub auth: Auth,
    /// Tokens as passwords.
    pub jwt: Jwt,
    /// The server that decides about logins.
    pub webhook: Webhook,
    /// What clients may do.
    pub acl: Acl,
    /// What midge announces to clients and accepts from them.
    pub protocol: Protocol,
    /// The limits.
    pub limits: Limits,
    /// Which addresses may connect.
    pub gate: Gate,
    /// What survives a restart.
    pub persistence: Persistence,
    /// The broker's own topics.
    pub sys: Sys,
    /// The admin interface.
    pub admin: Admin,
    /// How the broker stops.
    pub shutdown: Shutdown,
    /// What midge logs.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listeners: vec![Listener::default()],
            runtime: Runtime::default(),
            auth: Auth::default(),
            jwt: Jwt::default(),
            webhook: Webhook::default(),
            acl: Acl::default(),
            protocol: Protocol::default(),
            limits: Limits::default(),
            gate: Gate::default(),
            persistence: Persistence::default(),
            sys: Sys::default(),
            admin: Admin::default(),
            shutdown: Shutdown::default(),
            log: Log::default(),
        }
    }
}

/// The number of sections besides the listeners.
const SECTIONS: usize = 13;

impl Config {
    /// The sections besides the listeners, in the order of the manual.
    pub fn sections(&self) -> [&dyn Section; SECTIONS] {
        [
            &self.runtime,
            &self.auth,
            &self.jwt,
            &self.webhook,
            &self.acl,
            &self.protocol,
            &self.limits,
            &self.gate,
            &self.persistence,
            &self.sys,
            &self.admin,
            &self.shutdown,
            &self.log,
        ]
    }

    /// The same sections, mutable.
    pub fn sections_mut(&mut self) -> [&mut dyn Section; SECTIONS] {
        let Config {
            listeners: _,
            runtime,
            auth,
            jwt,
            webhook,
            acl,
            protocol,
            limits,
            gate,
            persistence,
            sys,
            admin,
            shutdown,
            log,
        } = self;
        [runtime, auth, jwt, webhook, acl, protocol, limits, gate, persistence, sys, admin, shutdown, log]
    }

    /// What applies after a reload: this file, with the options that only a restart changes as they are in
    /// `running`.
    pub fn with_restart_options_of(self, running: &Config) -> Config {
        let Config {
            listeners,
            runtime,
            auth,
            jwt,
            webhook,
            acl,
            protocol,
            limits,
            gate,
            persistence,
            sys,
            admin,
            shutdown,
            log,
        } = self;
        Config {
            // A listener is the same one only with the same address. None of its options needs a restart.
            listeners,
            runtime: runtime.with_restart_options_of(&running.runtime),
            auth: auth.with_restart_options_of(&running.auth),
            jwt: jwt.with_restart_options_of(&running.jwt),
            webhook: webhook.with_restart_options_of(&running.webhook),
            acl: acl.with_restart_options_of(&running.acl),
            protocol: protocol.with_restart_options_of(&running.protocol),
            limits: limits.with_restart_options_of(&running.limits),
            gate: gate.with_restart_options_of(&running.gate),
            persistence: persistence.with_restart_options_of(&running.persistence),
            sys: sys.with_restart_options_of(&running.sys),
            admin: admin.with_restart_options_of(&running.admin),
            shutdown: shutdown.with_restart_options_of(&running.shutdown),
            log: log.with_restart_options_of(&running.log),
        }
    }

    /// The limits of one of `shards` shards, for the limits that are divided among the shards.
    pub fn shares(&self, shards: usize) -> ShardShares {
        let share = |total: usize| total.div_ceil(shards.max(1));
        ShardShares {
            subscriptions: share(self.limits.subscriptions_total),
            retained_messages: share(self.limits.retained_messages),
            retained_bytes: share(self.limits.retained_bytes),
            queue_bytes: share(self.limits.queue_bytes_total),
        }
    }
}

/// One shard's equal part of the limits that are divided among the shards, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardShares {
    /// Its part of `limits.subscriptions_total`.
    pub subscriptions: usize,
    /// Its part of `limits.retained_messages`.
    pub retained_messages: usize,
    /// Its part of `limits.retained_bytes`, in bytes.
    pub retained_bytes: usize,
    /// Its part of `limits.queue_bytes_total`, in bytes.
    pub queue_bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_file_only_this_machine_is_served() {
        let config = Config::default();
        assert_eq!(config.listeners.len(), 1);
        assert_eq!(config.listeners[0].address.to_string(), "127.0.0.1:1883");
        assert!(config.terms(&config.listeners[0]).allow_anonymous);
        assert!(!config.auth.test_method);
    }

    #[test]
    fn the_sections_to_read_are_the_sections_to_set() {
        let mut config = Config::default();
        let read = config.sections().map(Section::name);
        assert_eq!(config.sections_mut().map(|section| section.name()), read);
    }

    #[test]
    fn shares_add_up_to_the_limit_or_a_little_more() {
        let config = Config::default();
        for shards in [0, 1, 2, 7, 128] {
            let shares = config.shares(shards);
            let total = shares.subscriptions * shards.max(1);
            let limit = config.limits.subscriptions_total;
            assert!((limit..limit + 128).contains(&total));
        }
    }
}
