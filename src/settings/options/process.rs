//! How the program runs and stops, what it keeps, and what it reports: `[runtime]`, `[persistence]`, `[sys]`,
//! `[admin]`, `[shutdown]` and `[log]`.

use super::{SHARDS_MAX, integer, power_of_two};
use crate::settings::value::ChangeTime::{AtOnce, AtRestart, NewConnections};
use crate::settings::value::{
    Allowed, Literal, LogFormat, LogLevel, LogTarget, OptionRow, Refused, Section, Setting, SyncPolicy,
};
use crate::settings::{AdminAddress, FileMode, Pin};

sections! {
    /// The engine: the shards and the mesh between them.
    "runtime" => Runtime,
    "The engine: one thread for each shard, each pinned to a core unless pin says otherwise." {
        shards: usize = 0, integer(0..=SHARDS_MAX), "shards", AtRestart,
            "Threads that serve clients, each on its own core. 0: one for each core that this process may use, or \
             that pin names. More shards than cores work, but are slower.";
        pin: Pin = Pin::Auto, Allowed::Pin, "", AtRestart,
            "Cores on which the shards run, in this order and written as for taskset: \"0\", \"2,4-7\". \"auto\": the \
             cores that this process may use, from the first on; a second broker on the same machine needs other \
             cores. \"none\": the system places the threads. A start-up line names the cores.";
        mesh_capacity: usize = 4096, power_of_two(2..=1 << 20), "messages between shards", AtRestart,
            "Capacity of the mailbox from each shard to each other shard. While a mailbox is full, the sending shard \
             does not read from publishing clients; it drops nothing.";
        spin_microseconds: u64 = 0, integer(0..=10_000), "microseconds", AtOnce,
            "How long a shard that has run out of work looks for more before it sleeps. Waking up is most of the \
             latency of a lone message. Spinning avoids it, but uses the core's time while messages are rarer than \
             this. 0: the shard sleeps at once.";
    }

    /// What survives a restart.
    "persistence" => Persistence,
    "What survives a restart, and how safely: sessions that outlive their connection, with their subscriptions and \
     messages, retained messages, and wills. Expiry intervals and delays go on while midge is down. They follow the \
     time that passes, not a wall clock that is set: README, \"What survives\"." {
        directory: String = "auto".to_string(), Allowed::Text { bytes_max: 4096 }, "", AtRestart,
            "The state directory. midge makes it if it does not exist. \"auto\": the directory that systemd gives, \
             otherwise /var/lib/midge for root, and midge in $XDG_STATE_HOME (~/.local/state) for other users. Empty: \
             nothing survives a restart. Only one midge can use a directory at a time.";
        sync: SyncPolicy = SyncPolicy::Always, Allowed::Choice(SyncPolicy::WORDS), "", AtRestart,
            "\"always\": what is acknowledged is on the disk; nothing is lost, whatever fails. \"interval\": midge \
             flushes the log to the disk once a second; a power failure may lose the last second, a kill the last \
             moment. \"off\": midge never flushes the log; a power failure may lose everything since the last \
             checkpoint, a kill the last moment.";
        segment_bytes: usize = 16_777_216, integer(1 << 20..=1 << 30), "bytes", AtRestart,
            "Size of a file of the log. Full files are merged into the checkpoint and removed. A larger packet makes \
             a larger file.";
        log_bytes: usize = 536_870_912, integer(4 << 20..=1 << 40), "bytes", AtRestart,
            "Log of all shards that is not yet in the checkpoint. Above this, acknowledgements wait for the \
             checkpoint, and so do the publishers.";
    }

    /// The broker's own topics.
    "sys" => Sys,
    "The $SYS topics: what the broker reports about itself." {
        interval_seconds: u32 = 10, integer(0..=86_400), "seconds", AtOnce,
            "Time between two updates of the $SYS topics. 0: no $SYS topics. docs/sys-topics.md explains each topic.";
    }

    /// The admin interface.
    "admin" => Admin,
    "The admin interface: HTTP for operators, for Prometheus and for midge ctl. Whoever may use it can disconnect \
     clients and read what midge keeps." {
        address: AdminAddress = AdminAddress::Auto, Allowed::AdminAddress, "", AtRestart,
            "Where the admin interface listens. \"auto\": a Unix-domain socket, admin.sock in the directory that systemd \
             gives, otherwise /run/midge/admin.sock for root and services of systemd, and midge/admin.sock in \
             $XDG_RUNTIME_DIR for other users. If there is no such directory, or another midge uses the socket, midge \
             starts without admin interface and says so. An address with a port needs token_file or \
             tls_client_ca. Without tls_certificate the traffic is not encrypted: use an address of this machine then. \
             Empty: no admin interface.";
        token_file: String = String::new(), Allowed::Text { bytes_max: 4096 }, "", AtOnce,
            "File with the tokens for an address with a port: a line `name:read:TOKEN` or `name:write:TOKEN` for each. \
             \"read\" may look, \"write\" may also change things. A token has 16 to 256 letters, digits and \
             characters of -._~+/=; `openssl rand -hex 32` makes one. Lines that begin with # are comments. Other \
             users of this machine must not be able to read the file. Clients send the header `Authorization: Bearer \
             TOKEN`. SIGHUP reads the file again. Empty: none.";
        tls_certificate: String = String::new(), Allowed::Text { bytes_max: 4096 }, "", NewConnections,
            "PEM file with the certificate for an address with a port, followed by those that lead to its CA. The admin \
             interface then speaks TLS 1.3. SIGHUP reads this and the other files again. Empty: no TLS.";
        tls_key: String = String::new(), Allowed::Text { bytes_max: 4096 }, "", NewConnections,
            "PEM file with the private key of tls_certificate, without a password.";
        tls_client_ca: String = String::new(), Allowed::Text { bytes_max: 4096 }, "", NewConnections,
            "PEM file with the CAs whose client certificates may do everything here. Use a CA that issues certificates for \
             operators only. With token_file a client may have either; without it every client must have a certificate. \
             Empty: midge asks for no certificates.";
        tls_crl: String = String::new(), Allowed::Text { bytes_max: 4096 }, "", NewConnections,
            "PEM file with revocation lists for client certificates. It must have a list, not expired, of each issuer. \
             Empty: none is looked up.";
        socket_mode: FileMode = FileMode::GROUP, Allowed::FileMode, "", AtRestart,
            "Permissions of the Unix-domain socket, in octal. Whoever can write to it may do everything.";
    }

    /// How the broker stops.
    "shutdown" => Shutdown,
    "What happens on SIGTERM, SIGINT and SIGQUIT. A second signal ends midge at once." {
        grace_seconds: u32 = 5, integer(0..=600), "seconds", AtOnce,
            "Longest time to send clients their DISCONNECT 0x8B and what is already written for them. 0: none.";
    }

    /// What midge logs, and how and where.
    "log" => Log,
    "What midge logs. It never logs payloads or passwords." {
        level: LogLevel = LogLevel::Info, Allowed::Choice(LogLevel::WORDS), "", AtOnce,
            "Lowest level that is logged. \"info\" has one line for each connect, disconnect and refusal. \"debug\" \
             also has one for each subscription that is made or ended, and one for each PUBLISH with what it has \
             matched. SIGHUP reads this option again.";
        format: LogFormat = LogFormat::Human, Allowed::Choice(LogFormat::WORDS), "", AtRestart,
            "\"human\": a line of text; \"json\": one JSON object a line. Times are UTC, RFC 3339.";
        target: LogTarget = LogTarget::Stderr, Allowed::Choice(LogTarget::WORDS), "", AtRestart,
            "Where midge writes the log.";
        queue_lines: usize = 8192, integer(64..=1 << 20), "lines", AtRestart,
            "Lines that wait to be written while the target is slow. Further lines are dropped and counted, so a \
             blocked terminal never stops a shard.";
        storm_summary: bool = false, Allowed::Boolean, "", AtOnce,
            "Each shard writes at most 50 lines a second for clients that connect, 50 for those that disconnect, 20 \
             for refused ones, 20 for other events of clients, and 1000 of level \"debug\". Once a second, one more \
             line says how many lines of a kind were left out, by cause. With true, only this line is written while \
             there are more.";
    }
}
