//! What midge says at start, in plain words: version, listeners, shards, bounds, what is kept, and what
//! anonymous clients may do.

use std::path::Path;

use crate::config::memory_limit::MemorySource;
use crate::config::{Address, Config, SyncPolicy};

/// What the start found out, besides the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Started<'a> {
    /// Shards that run.
    pub shards: usize,
    /// Addresses that are listened on, with the ports that the kernel chose.
    pub listeners: &'a [Address],
    /// The configuration file; `None` when all is at its default.
    pub config_file: Option<&'a str>,
    /// Limit on open files; `u64::MAX` for none.
    pub open_files: u64,
    /// Connections that are allowed at a time.
    pub connections: usize,
    /// What clients may make the broker keep, in bytes, and what the system allows.
    pub memory_bytes: usize,
    /// See [`crate::config::memory_limit::allowed`].
    pub memory_allowed: Option<(usize, MemorySource)>,
    /// Where what survives is kept; `None`: nowhere.
    pub state_directory: Option<&'a Path>,
}

/// The lines of the start, in order.
pub fn banner(config: &Config, started: &Started<'_>) -> Vec<String> {
    let mut lines = vec![format!("midge {}: MQTT 3.1, 3.1.1 and 5.0", env!("CARGO_PKG_VERSION"))];
    lines.push(match started.config_file {
        Some(file) => format!("Configuration: {file}."),
        None => "No configuration file: every option is at its default.".to_string(),
    });
    lines.push(format!("Listening on {} with {}.", addresses(started.listeners), shards(started.shards)));
    lines.push(connections(config, started));
    lines.push(memory(config, started));
    lines.push(kept(config.persistence.sync, started.state_directory));
    lines.push(anonymous(config, started.listeners));
    if config.auth.test_method {
        lines.push(
            "The authentication method \"midge-test\" is on (auth.test_method = true): it protects nothing and \
             is for developers of clients only."
                .to_string(),
        );
    }
    lines
}

fn kept(sync: SyncPolicy, directory: Option<&Path>) -> String {
    let Some(directory) = directory else {
        return "Nothing is kept over a restart: sessions, queued and retained messages live in memory."
            .to_string();
    };
    let directory = directory.display();
    let lost = match sync {
        SyncPolicy::Always => "what is acknowledged is on the disk",
        SyncPolicy::Interval => {
            "the disk is told once a second: a power cut may lose what was acknowledged in the last second, a \
             kill in the last moment (persistence.sync = \"interval\")"
        }
        SyncPolicy::Off => {
            "the disk is never told: a power cut may lose what was acknowledged since the last checkpoint, a \
             kill in the last moment (persistence.sync = \"off\")"
        }
    };
    format!("Sessions, their messages and retained messages are kept in {directory}: {lost}.")
}

fn addresses(listeners: &[Address]) -> String {
    let addresses: Vec<String> = listeners.iter().map(Address::to_string).collect();
    match addresses.as_slice() {
        [] => "no address".to_string(),
        [only] => only.clone(),
        [start @ .., last] => format!("{} and {last}", start.join(", ")),
    }
}

fn shards(shards: usize) -> String {
    match shards {
        1 => "1 shard (one thread on a core of its own)".to_string(),
        shards => format!("{shards} shards (threads, each on a core of its own)"),
    }
}

fn connections(config: &Config, started: &Started<'_>) -> String {
    let open_files = match started.open_files {
        u64::MAX => "no limit on open files".to_string(),
        limit => format!("a limit of {limit} open files"),
    };
    let reason = match config.limits.connections {
        0 => format!("as many as fit {open_files}"),
        _ => format!("limits.connections; {open_files}"),
    };
    format!("At most {} connections at a time ({reason}).", started.connections)
}

fn memory(config: &Config, started: &Started<'_>) -> String {
    let mib = |bytes: usize| bytes >> 20;
    let allowed = started.memory_allowed.map(|(bytes, source)| format!("{source} {} MiB", mib(bytes)));
    let reason = match (config.limits.memory_bytes, allowed) {
        (0, Some(allowed)) => format!("half of what is allowed; {allowed}"),
        (0, None) => {
            return "No bound on the memory that clients may make midge keep: the system tells none.".into();
        }
        (_, Some(allowed)) => format!("limits.memory_bytes; {allowed}"),
        (_, None) => "limits.memory_bytes".into(),
    };
    format!(
        "At most {} MiB of memory for what clients make midge keep ({reason}).",
        mib(started.memory_bytes)
    )
}

fn anonymous(config: &Config, listeners: &[Address]) -> String {
    let anonymous = config.listeners.iter().filter(|listener| config.terms(listener).allow_anonymous).count();
    if anonymous == 0 {
        return "Only clients that prove who they are may connect; to let others in, set allow_anonymous = true in \
                [auth] or for a listener."
            .to_string();
    }
    if anonymous < config.listeners.len() {
        let open = config.listeners.iter().filter(|listener| config.terms(listener).allow_anonymous);
        let open: Vec<String> = open.map(|listener| listener.address.to_string()).collect();
        return format!(
            "Clients that do not prove who they are may connect on {} only (allow_anonymous).",
            open.join(", ")
        );
    }
    let only_this_machine = listeners.iter().all(Address::is_loopback);
    let who = match only_this_machine {
        true => "Only this machine can reach",
        false => "Anyone who can reach",
    };
    let addresses = addresses(listeners);
    match only_this_machine {
        true => format!(
            "{who} {addresses}; every client on it may connect, publish and subscribe (allow_anonymous = true)."
        ),
        false => {
            format!("{who} {addresses} may connect, publish and subscribe (allow_anonymous = true).")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Listener;

    fn lines(config: &Config, listeners: &[&str], file: Option<&str>) -> Vec<String> {
        let listeners: Vec<Address> =
            listeners.iter().map(|address| Address::parse(address).expect("an address")).collect();
        let started = Started {
            shards: 2,
            listeners: &listeners,
            config_file: file,
            open_files: 20_000,
            connections: 19_934,
            memory_bytes: 4 << 30,
            memory_allowed: Some((8 << 30, MemorySource::Cgroup)),
            state_directory: Some(Path::new("/var/lib/midge")),
        };
        banner(config, &started)
    }

    #[test]
    fn without_a_file_the_start_says_so_and_what_the_defaults_mean() {
        assert_eq!(
            lines(&Config::default(), &["127.0.0.1:1883"], None),
            [
                &format!("midge {}: MQTT 3.1, 3.1.1 and 5.0", env!("CARGO_PKG_VERSION")),
                "No configuration file: every option is at its default.",
                "Listening on 127.0.0.1:1883 with 2 shards (threads, each on a core of its own).",
                "At most 19934 connections at a time (as many as fit a limit of 20000 open files).",
                "At most 4096 MiB of memory for what clients make midge keep (half of what is allowed; the cgroup \
                 allows 8192 MiB).",
                "Sessions, their messages and retained messages are kept in /var/lib/midge: what is acknowledged \
                 is on the disk.",
                "Only this machine can reach 127.0.0.1:1883; every client on it may connect, publish and \
                 subscribe (allow_anonymous = true).",
            ]
        );
    }

    #[test]
    fn an_open_door_is_named() {
        let lines = lines(&Config::default(), &["0.0.0.0:1883", "127.0.0.1:1884"], Some("midge.toml"));
        assert_eq!(lines[1], "Configuration: midge.toml.");
        assert_eq!(
            lines[6],
            "Anyone who can reach 0.0.0.0:1883 and 127.0.0.1:1884 may connect, publish and subscribe \
             (allow_anonymous = true)."
        );
    }

    #[test]
    fn a_closed_door_is_named_too() {
        let mut config = Config::default();
        config.auth.allow_anonymous = Some(false);
        config.auth.test_method = true;
        let closed = lines(&config, &["0.0.0.0:1883"], None);
        assert!(closed[6].starts_with("Only clients that prove who they are"), "{closed:?}");
        assert!(closed[6].contains("allow_anonymous = true"), "{closed:?}");
        assert!(closed[7].contains("protects nothing"), "{closed:?}");
        config.listeners.push(Listener { allow_anonymous: Some(true), ..Listener::default() });
        let half_open = lines(&config, &["0.0.0.0:1883"], None);
        assert!(half_open[6].contains("on 127.0.0.1:1883 only"), "{half_open:?}");
    }

    #[test]
    fn a_number_of_the_file_is_told_apart_from_the_systems_limit() {
        let mut config = Config::default();
        config.limits.connections = 100;
        let lines = lines(&config, &["[::]:1883"], None);
        assert!(lines[3].ends_with("(limits.connections; a limit of 20000 open files)."), "{}", lines[3]);
    }
}
