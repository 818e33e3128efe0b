//! The start-up lines: the version, the listeners, the shards, the limits, what survives a restart, and which
//! clients may connect at each listener.

use std::path::Path;

use crate::config::memory_limit::MemorySource;
use crate::driver::RingSize;
use crate::settings::{Address, Config, Listener, QueuePolicy, SyncPolicy, shown_cores};

/// Facts that the start has found out and the configuration does not give.
#[derive(Debug, Clone, Copy)]
pub struct Started<'a> {
    /// The number of shards that run.
    pub shards: usize,
    /// The cores of the shards, in order. `None` if the operating system places the threads.
    pub cores: Option<&'a [usize]>,
    /// The ring size of each shard.
    pub ring: RingSize,
    /// The addresses that midge listens on, each with its listener's number and the port that the kernel
    /// chose.
    pub listeners: &'a [(u16, Address)],
    /// The configuration file. `None` if every option is at its default.
    pub config_file: Option<&'a str>,
    /// The other sources of the configuration, in words. Empty if there are none.
    pub further_sources: &'a str,
    /// The limit on open files; `u64::MAX` if there is none.
    pub open_files: u64,
    /// The largest number of simultaneous connections.
    pub connections: usize,
    /// The bound on the memory that clients may make midge keep, in bytes.
    pub memory_bytes: usize,
    /// The memory that the system allows. See [`crate::config::memory_limit::allowed`].
    pub memory_allowed: Option<(usize, MemorySource)>,
    /// The state directory. `None` if nothing is kept.
    pub state_directory: Option<&'a Path>,
}

/// The lines of the start, in order.
pub fn banner(config: &Config, started: &Started<'_>) -> Vec<String> {
    let mut lines = vec![format!("midge {}: MQTT 3.1, 3.1.1 and 5.0", env!("CARGO_PKG_VERSION"))];
    lines.push(match (started.config_file, started.further_sources) {
        (Some(file), "") => format!("Configuration: {file}."),
        (Some(file), others) => format!("Configuration: {file}, {others}."),
        (None, others) if !others.is_empty() => format!("Configuration: {others}."),
        (None, _) => "No configuration file: every option is at its default.".to_string(),
    });
    let all: Vec<&Address> = started.listeners.iter().map(|(_, address)| address).collect();
    lines.push(format!("Listening on {} with {}.", addresses(&all), shards(started.shards, started.cores)));
    if started.ring != RingSize::FULL {
        lines.push(small_rings(started.ring));
    }
    lines.push(connections(config, started));
    lines.push(memory(config, started));
    lines.push(kept(config.persistence.sync, started.state_directory));
    lines.push(full_queue(config));
    for (number, listener) in (0..).zip(&config.listeners) {
        let own: Vec<&Address> =
            started.listeners.iter().filter(|(of, _)| *of == number).map(|(_, address)| address).collect();
        // It is empty if the network interface has no address of this family.
        if !own.is_empty() {
            lines.push(format!("Listener {}: {}.", addresses(&own), admitted(config, listener, &own)));
        }
    }
    if config.auth.test_method {
        lines.push(
            "The authentication method \"midge-test\" is on (auth.test_method = true): it protects nothing and \
             is for developers of clients only."
                .to_string(),
        );
    }
    lines
}

/// The line about rings that are smaller because of the limit on locked memory.
fn small_rings(ring: RingSize) -> String {
    format!(
        "To fit the limit of locked memory (RLIMIT_MEMLOCK) the io_uring of each shard has {} entries instead of {}, \
         which costs more system calls under load. LimitMEMLOCK= in the systemd unit or ulimit -l raises the limit.",
        ring.submissions(),
        RingSize::FULL.submissions(),
    )
}

/// The line that says what midge keeps over a restart, and what may be lost.
pub fn kept(sync: SyncPolicy, directory: Option<&Path>) -> String {
    let Some(directory) = directory else {
        return "Nothing is kept over a restart: sessions, queued and retained messages are in memory only."
            .to_string();
    };
    let directory = directory.display();
    let lost = match sync {
        SyncPolicy::Always => "what is acknowledged is on the disk, and no crash loses it",
        SyncPolicy::Interval => {
            "the log is flushed to the disk once a second: a power failure may lose what was acknowledged in the last \
             second, a kill what was acknowledged in the last moment (persistence.sync = \"interval\")"
        }
        SyncPolicy::Off => {
            "the log is never flushed to the disk: a power failure may lose what was acknowledged since the last \
             checkpoint, a kill what was acknowledged in the last moment (persistence.sync = \"off\")"
        }
    };
    format!("Sessions, their messages and retained messages are kept in {directory}: {lost}.")
}

/// The line that says which acknowledged messages may still be dropped.
fn full_queue(config: &Config) -> String {
    let limits = &config.limits;
    let consequence = match limits.session_queue_policy {
        QueuePolicy::DropOldest => "its oldest messages are dropped, although they were acknowledged",
        QueuePolicy::DropNewest => "new messages are dropped for it, although they are acknowledged",
        QueuePolicy::Refuse => {
            "new messages are dropped for it; 5.0 publishers get 0x97, 3.x publishers an acknowledgement"
        }
    };
    let own = |listener: &Listener| {
        listener.session_queue_policy.is_some_and(|policy| policy != limits.session_queue_policy)
    };
    let some = match config.listeners.iter().any(own) {
        true => " Some listeners have their own policy.",
        false => "",
    };
    format!(
        "When the queue of a session that is away or slow is full ({} messages or {} bytes), {consequence} \
         (limits.session_queue_policy = \"{}\").{some}",
        limits.session_queue_messages,
        limits.session_queue_bytes,
        limits.session_queue_policy.word()
    )
}

fn addresses(listeners: &[&Address]) -> String {
    let addresses: Vec<String> = listeners.iter().map(ToString::to_string).collect();
    match addresses.as_slice() {
        [] => "no address".to_string(),
        [only] => only.clone(),
        [start @ .., last] => format!("{} and {last}", start.join(", ")),
    }
}

/// The number of shards and their cores. `cores` is `None` if the system places the threads.
fn shards(shards: usize, cores: Option<&[usize]>) -> String {
    let count = if shards == 1 { "1 shard".to_string() } else { format!("{shards} shards") };
    let Some(cores) = cores else {
        return format!("{count} (threads that the system places: runtime.pin = \"none\")");
    };
    let used = shown_cores(&cores[..shards.min(cores.len())]);
    match (shards, cores.len()) {
        (1, _) => format!("{count} (one thread, on core {used})"),
        (_, 1) => format!("{count} (threads that share core {used})"),
        (_, available) if shards > available => format!("{count} (threads that share the cores {used})"),
        _ => format!("{count} (threads on the cores {used}, one on each)"),
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
            return "No limit on the memory that clients may make midge keep: the system names none.".into();
        }
        (_, Some(allowed)) => format!("limits.memory_bytes; {allowed}"),
        (_, None) => "limits.memory_bytes".into(),
    };
    format!(
        "At most {} MiB of memory for what clients make midge keep ({reason}).",
        mib(started.memory_bytes)
    )
}

/// The clients that may connect at a listener, and what they may do there.
pub fn admitted(config: &Config, listener: &Listener, addresses: &[&Address]) -> String {
    let means = config.means(listener);
    let is_open = config.terms(listener).allow_anonymous;
    let acl = listener.acl_file.as_ref().unwrap_or(&config.acl.file);
    let rights = if acl.is_empty() { "publish and subscribe" } else { "do what its access list says" };
    if means.certificates {
        return format!("only clients whose certificate names them may connect, and {rights}");
    }
    match (is_open, means.any()) {
        (false, true) => format!(
            "only clients that prove who they are may connect, by {means}, and {rights} (allow_anonymous = false)"
        ),
        (false, false) => {
            "no client can connect: there is no means of proof, and clients without proof may not \
                           connect (allow_anonymous = false)"
                .to_string()
        }
        (true, true) => format!(
            "clients may connect without proof of who they are, or by {means}, and {rights} (allow_anonymous = true)"
        ),
        (true, false) => {
            let is_local = addresses.iter().all(|address| address.is_loopback());
            let who = match is_local && listener.proxy_trusted.is_empty() {
                true => "only this machine can reach it; every client on it",
                false => "anyone who can reach it",
            };
            format!("{who} may connect, and {rights} (allow_anonymous = true)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Listener;

    fn lines(config: &Config, listeners: &[&str], file: Option<&str>) -> Vec<String> {
        let listeners: Vec<(u16, Address)> =
            (0..).zip(listeners.iter().map(|address| Address::parse(address).expect("an address"))).collect();
        let started = Started {
            shards: 2,
            cores: Some(&[0, 1]),
            ring: RingSize::FULL,
            listeners: &listeners,
            config_file: file,
            further_sources: "",
            open_files: 20_000,
            connections: 19_934,
            memory_bytes: 4 << 30,
            memory_allowed: Some((8 << 30, MemorySource::Cgroup)),
            state_directory: Some(Path::new("/var/lib/midge")),
        };
        banner(config, &started)
    }

    #[test]
    fn start_says_on_which_cores_shards_run() {
        for (count, cores, said) in [
            (1, Some(&[3, 4][..]), "1 shard (one thread, on core 3)"),
            (2, Some(&[3]), "2 shards (threads that share core 3)"),
            (3, Some(&[0, 1, 3, 7]), "3 shards (threads on the cores 0-1,3, one on each)"),
            (3, Some(&[0, 2]), "3 shards (threads that share the cores 0,2)"),
            (2, None, "2 shards (threads that the system places: runtime.pin = \"none\")"),
        ] {
            assert_eq!(shards(count, cores), said);
        }
    }

    #[test]
    fn without_a_file_the_start_says_so_and_what_the_defaults_mean() {
        assert_eq!(
            lines(&Config::default(), &["127.0.0.1:1883"], None),
            [
                &format!("midge {}: MQTT 3.1, 3.1.1 and 5.0", env!("CARGO_PKG_VERSION")),
                "No configuration file: every option is at its default.",
                "Listening on 127.0.0.1:1883 with 2 shards (threads on the cores 0-1, one on each).",
                "At most 19934 connections at a time (as many as fit a limit of 20000 open files).",
                "At most 4096 MiB of memory for what clients make midge keep (half of what is allowed; the cgroup \
                 allows 8192 MiB).",
                "Sessions, their messages and retained messages are kept in /var/lib/midge: what is acknowledged \
                 is on the disk, and no crash loses it.",
                "When the queue of a session that is away or slow is full (10000 messages or 16777216 bytes), its \
                 oldest messages are dropped, although they were acknowledged (limits.session_queue_policy = \
                 \"drop_oldest\").",
                "Listener 127.0.0.1:1883: only this machine can reach it; every client on it may connect, and \
                 publish and subscribe (allow_anonymous = true).",
            ]
        );
    }

    /// The line of a listener on all addresses, and the line of the test method if there is one.
    fn of_listener(set: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        config.listeners[0].address = Address::parse("0.0.0.0:1883").expect("an address");
        set(&mut config);
        lines(&config, &["0.0.0.0:1883"], Some("midge.toml")).split_off(7)
    }

    #[test]
    fn each_listener_says_who_may_connect() {
        let says = |set: fn(&mut Config), words: &str| {
            let lines = of_listener(set);
            assert!(lines[0].starts_with(&format!("Listener 0.0.0.0:1883: {words}")), "{lines:?}");
        };
        says(|config| config.auth.allow_anonymous = Some(true), "anyone who can reach it may connect");
        says(
            |_| (),
            "no client can connect: there is no means of proof, and clients without proof may not connect",
        );
        says(
            |config| config.auth.password_file = "p".into(),
            "only clients that prove who they are may connect, by password, and publish and subscribe \
             (allow_anonymous = false).",
        );
        says(
            |config| {
                config.auth.password_file = "p".into();
                config.auth.allow_anonymous = Some(true);
                config.acl.file = "a".into();
            },
            "clients may connect without proof of who they are, or by password, and do what its access list says",
        );
        says(
            |config| config.listeners[0].tls_user_name = crate::settings::UserNames::CommonName,
            "only clients whose certificate names them may connect",
        );
    }

    #[test]
    fn a_balancer_on_this_machine_speaks_for_anyone() {
        let mut config = Config::default();
        config.listeners[0].proxy_trusted = vec!["127.0.0.1".into()];
        config.listeners[0].allow_anonymous = Some(true);
        let lines = lines(&config, &["127.0.0.1:1883"], None);
        assert!(lines[7].starts_with("Listener 127.0.0.1:1883: anyone who can reach it"), "{lines:?}");
    }

    #[test]
    fn listeners_with_rules_of_their_own_have_lines_of_their_own() {
        let mut config = Config::default();
        config.auth.test_method = true;
        config.listeners.push(Listener { allow_anonymous: Some(false), ..Listener::default() });
        let lines = lines(&config, &["127.0.0.1:1883", "127.0.0.1:1884"], None);
        assert!(lines[7].contains("127.0.0.1:1883: only this machine"), "{lines:?}");
        assert!(lines[8].contains("127.0.0.1:1884: no client can connect"), "{lines:?}");
        assert!(lines[9].contains("protects nothing"), "{lines:?}");
    }

    #[test]
    fn each_policy_of_a_full_queue_says_what_it_costs() {
        let mut config = Config::default();
        config
            .listeners
            .push(Listener { session_queue_policy: Some(QueuePolicy::DropNewest), ..Listener::default() });
        for (policy, words) in [
            (QueuePolicy::DropOldest, "oldest messages are dropped"),
            (QueuePolicy::DropNewest, "new messages are dropped for it, although they are acknowledged"),
            (QueuePolicy::Refuse, "5.0 publishers get 0x97"),
        ] {
            config.limits.session_queue_policy = policy;
            let line = lines(&config, &["127.0.0.1:1883"], None).swap_remove(6);
            assert!(line.contains(words) && line.contains(policy.word()), "{line}");
            let differs = policy != QueuePolicy::DropNewest;
            assert_eq!(line.ends_with("Some listeners have their own policy."), differs, "{line}");
        }
    }

    #[test]
    fn a_number_of_the_file_is_told_apart_from_the_systems_limit() {
        let mut config = Config::default();
        config.limits.connections = 100;
        let lines = lines(&config, &["[::]:1883"], None);
        assert!(lines[3].ends_with("(limits.connections; a limit of 20000 open files)."), "{}", lines[3]);
    }
}
