//! Reads an unchanged `mosquitto.conf`, for operators who move from mosquitto 2.
//!
//! The input is the name of a file. The output is a [`MosquittoConf`], plain data with the line of every
//! setting, or a list of all errors. [`MosquittoConf::midge_toml`] writes the same settings as a midge.toml,
//! and [`MosquittoConf::config`] reads that text, so there is one conversion only.
//!
//! Each key is one of four kinds. The module `keys` lists them all:
//! - *supported*: it means the same in midge;
//! - *harmless*: accepted, checked, and without effect. A [`Remark`] names the line and the reason;
//! - *not supported*: an error that stops the start. Without such a line (a bridge, a plugin, a pre-shared
//!   key) midge would admit other clients or pass other messages than the file says.
//!   [`MosquittoConf::load_partial`] leaves these lines out, for an import that an operator reviews;
//! - *unknown*: an error, as in mosquitto.

mod check;
mod keys;
mod line;
mod listeners;
mod mapping;
mod read;
mod set;
mod toml;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::base::Diagnostic;
use crate::settings::TlsMinimum;
pub use mapping::{Mapped, Mapping, Note, SettingOrigin, TomlTable, TomlValue};

/// A setting and its place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The name of the file, as it was given or found.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
    /// The value of the setting.
    pub value: T,
}

/// A line that midge accepts and that has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The name of the file, as it was given or found.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
    /// The key of the line.
    pub key: String,
    /// The reason why the line has no effect, in words.
    pub why: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.key, self.why)
    }
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Problem {
    /// mosquitto does not accept it either.
    Wrong(String),
    /// midge has no equivalent.
    NotSupported(String),
    /// midge has no equivalent, and without the line its listener would admit clients that mosquitto refuses.
    ClosesListener(String),
}

impl From<String> for Problem {
    fn from(words: String) -> Problem {
        Problem::Wrong(words)
    }
}

/// Declares a set of settings, each with its place. Every setting is absent until a line gives it.
macro_rules! settings {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: Option<Spanned<$type>>,)*
        }
    };
}

/// A number; `None` means "no limit".
pub type MaybeLimit = Option<u32>;

settings! {
    /// The settings outside of listeners.
    Global {
        /// Whether midge checks a retained message against its publisher's rights before it sends the
        /// message.
        check_retain_source: bool,
        /// Only clients whose identifier begins with this prefix may connect.
        clientid_prefixes: String,
        /// Whether connects and disconnects are logged.
        connection_messages: bool,
        /// The largest number of sessions, with and without connection.
        global_max_clients: MaybeLimit,
        /// The largest number of connections.
        global_max_connections: MaybeLimit,
        /// The largest number of unacknowledged bytes on the way to a client.
        max_inflight_bytes: MaybeLimit,
        /// The largest number of unacknowledged QoS 1 and 2 messages, in each direction.
        max_inflight_messages: MaybeLimit,
        /// Longest keep alive, in seconds.
        max_keepalive: MaybeLimit,
        /// Largest packet, in bytes.
        max_packet_size: u32,
        /// The largest number of bytes that wait for a client.
        max_queued_bytes: MaybeLimit,
        /// The largest number of QoS 1 and 2 messages that wait for a client.
        max_queued_messages: MaybeLimit,
        /// The largest heap, in bytes; 0: no bound.
        memory_limit: u64,
        /// Largest payload, in bytes.
        message_size_limit: MaybeLimit,
        /// Whether midge keeps anything over a restart.
        persistence: bool,
        /// The name of the file that holds the state.
        persistence_file: String,
        /// The directory of that file.
        persistence_location: String,
        /// Longest life of a session without connection, in seconds.
        persistent_client_expiration: u64,
        /// Whether QoS 0 messages wait for a session without connection.
        queue_qos0_messages: bool,
        /// Whether retained messages are accepted.
        retain_available: bool,
        /// Seconds between two updates of `$SYS`; 0: none.
        sys_interval: u32,
        /// Whether messages are sent with the subscription's QoS even if they were published with a lower
        /// one.
        upgrade_outgoing_qos: bool,
        /// The size of the headers that a WebSocket client may send, in bytes; 0: the default of
        /// libwebsockets.
        websockets_headers_size: u32,
    }
}

settings! {
    /// The settings that decide who may connect. With `per_listener_settings true` each listener has its own;
    /// otherwise they are the broker's.
    Security {
        /// Rights to topics.
        acl_file: String,
        /// Whether clients without a user name may connect.
        allow_anonymous: bool,
        /// Whether the broker assigns an identifier to clients without one.
        allow_zero_length_clientid: bool,
        /// The prefix of the identifiers that the broker assigns.
        auto_id_prefix: String,
        /// User names and hashed passwords.
        password_file: String,
    }
}

/// The protocol of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT over TCP, TLS or a Unix socket.
    Mqtt,
    /// MQTT over WebSocket.
    Websockets,
}

/// The family of addresses that a listener without an address listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketDomain {
    /// `0.0.0.0` alone.
    Ipv4,
    /// `[::]` alone.
    Ipv6,
}

settings! {
    /// The settings of one listener, without those that decide who may connect.
    ListenerSettings {
        /// The versions of MQTT that clients may use: 3 (for 3.1), 4 (3.1.1) and 5.
        accept_protocol_versions: Vec<u8>,
        /// The one network interface that the listener serves.
        bind_interface: String,
        /// The file with the CA certificates that client certificates are checked against.
        cafile: String,
        /// A directory with more CA certificates.
        capath: String,
        /// The listener's certificate. If there is one, the listener uses TLS.
        certfile: String,
        /// The file with revoked certificates.
        crlfile: String,
        /// Whether midge accepts client certificates that have expired.
        disable_client_cert_date_checks: bool,
        /// Whether connections begin with a PROXY header; the value is the header's version, 1 or 2.
        enable_proxy_protocol: u32,
        /// The private key of the certificate.
        keyfile: String,
        /// Whether clients without a user name may connect here, whatever `allow_anonymous` says.
        listener_allow_anonymous: bool,
        /// The prefix of the identifiers that the broker assigns at this listener.
        listener_auto_id_prefix: String,
        /// The largest number of connections.
        max_connections: MaybeLimit,
        /// The highest QoS that clients may publish with.
        max_qos: u32,
        /// The largest number of topic aliases that a client may use.
        max_topic_alias: u32,
        /// The largest number of topic aliases that the broker uses towards a client.
        max_topic_alias_broker: u32,
        /// The prefix of every topic of the listener's clients.
        mount_point: String,
        /// The protocol.
        protocol: Protocol,
        /// Whether a client must have a certificate.
        require_certificate: bool,
        /// The address family if the listener has no address.
        socket_domain: SocketDomain,
        /// The lowest version of TLS.
        tls_version: TlsMinimum,
        /// Whether the common name of a client's certificate is its user name.
        use_identity_as_username: bool,
        /// Whether the subject of a client's certificate is its user name.
        use_subject_as_username: bool,
        /// Whether a client's user name is its identifier.
        use_username_as_clientid: bool,
    }
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP port at an address or host name. Without a host, at every address.
    Port(u16, Option<String>),
    /// A Unix socket.
    Socket(String),
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MosquittoListener {
    /// Where it listens, and the line that opened it.
    pub place: Spanned<ListenAddress>,
    /// The key of the line that opened it. It is `listener`, or for mosquitto's default listener `port`,
    /// `bind_address`, or a listener's key that has no `listener` line above it.
    pub opened_by: String,
    /// Its settings.
    pub settings: ListenerSettings,
    /// The settings that decide who may connect here. Only with `per_listener_settings true`.
    pub security: Security,
    /// The origins of web pages that may connect over WebSocket; if empty, all may.
    pub websockets_origins: Vec<Spanned<String>>,
}

/// The destination of the log. A file may name several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogDestination {
    /// Nowhere.
    None,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A log file.
    File(String),
    /// A destination that midge does not have: `syslog`, `topic`, `dlt`.
    Other(String),
}

/// A whole `mosquitto.conf` with the files that it includes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MosquittoConf {
    /// The name of the file, as it was given.
    pub file: Arc<str>,
    /// The settings outside of listeners.
    pub global: Global,
    /// The settings that decide who may connect, if `per_listener_settings` is not true.
    pub security: Security,
    /// With `per_listener_settings true` each listener has its own settings for who may connect.
    pub per_listener_settings: Option<Spanned<bool>>,
    /// The listeners, in the order in which they were opened.
    pub listeners: Vec<MosquittoListener>,
    /// The file has no `listener`, `port` or `bind_address`. In this case mosquitto serves this machine only,
    /// without TLS, and ignores everything in `listeners`.
    pub local_only: bool,
    /// The port of the command line. It only counts if `local_only` is set.
    pub port_override: Option<u16>,
    /// The destinations of the log; empty without a `log_dest`.
    pub log_destinations: Vec<Spanned<LogDestination>>,
    /// The words of `log_type`; empty without one.
    pub log_types: Vec<Spanned<String>>,
    /// Lines without effect.
    pub remarks: Vec<Remark>,
    /// The lines that were left out because midge has no equivalent. See [`MosquittoConf::load_partial`].
    pub left_out: Vec<Remark>,
    /// Whether this machine has IPv6. mosquitto does not use IPv6 on machines without it.
    pub has_ipv6: bool,
}

impl MosquittoConf {
    /// Reads a file and the files that it includes. Relative names of files and directories are relative to
    /// the working directory, as in mosquitto. `port_override` is the port of the command line.
    ///
    /// Fails with a list of everything that is wrong or not supported, in the order of the lines. The list is
    /// never empty.
    pub fn load(path: &Path, port_override: Option<u16>) -> Result<MosquittoConf, Vec<Diagnostic>> {
        let mut reader = read::ConfReader::new(&path.display().to_string(), port_override);
        reader.read_file(path);
        reader.conf.has_ipv6 = has_ipv6();
        reader.finish()
    }

    /// Like [`MosquittoConf::load`], but leaves out what midge has no equivalent for.
    /// [`MosquittoConf::left_out`] has these lines. If a listener would admit other clients without such a
    /// line, the whole listener is left out.
    ///
    /// Fails if mosquitto would not accept the file either, or if no listener is left.
    pub fn load_partial(path: &Path) -> Result<MosquittoConf, Vec<Diagnostic>> {
        let mut reader = read::ConfReader::new(&path.display().to_string(), None);
        reader.is_partial = true;
        reader.read_file(path);
        reader.conf.has_ipv6 = has_ipv6();
        reader.finish()
    }

    /// Reads the text of a file. `file` is its name in errors. See [`MosquittoConf::load`].
    pub fn parse(
        file: &str,
        bytes: &[u8],
        port_override: Option<u16>,
    ) -> Result<MosquittoConf, Vec<Diagnostic>> {
        let mut reader = read::ConfReader::new(file, port_override);
        reader.read_bytes(bytes);
        reader.finish()
    }

    /// The same settings as options of midge. See [`Mapping`].
    pub fn mapping(&self) -> Mapping {
        Mapping::of(self)
    }

    /// The `midge.toml` that does the same, with a comment for each difference.
    pub fn midge_toml(&self) -> String {
        toml::written(self, &self.mapping()).text
    }

    /// The configuration that does the same.
    ///
    /// Fails if midge has no option for a setting that decides who may connect or which messages flow, or if
    /// a value is outside of midge's bounds. Each error names the line of the `mosquitto.conf`.
    pub fn config(&self) -> Result<crate::settings::Config, Vec<Diagnostic>> {
        let mapping = self.mapping();
        let missing = mapping.missing(self);
        if !missing.is_empty() {
            return Err(missing);
        }
        toml::written(self, &mapping).read(self)
    }
}

/// Whether a text that is not a midge.toml is clearly a mosquitto.conf: its first line begins with a key of
/// mosquitto's, and no `=` follows.
pub(super) fn is_evident(bytes: &[u8]) -> bool {
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let Some(first) = lines.into_iter().find(|line| !line.is_empty() && !line.starts_with(b"#")) else {
        return false;
    };
    let Ok(first) = std::str::from_utf8(first) else { return false };
    let (key, rest) = first.split_once(' ').unwrap_or((first, ""));
    keys::find(key).is_some() && !rest.trim_start().starts_with('=')
}

/// Whether this machine can bind an IPv6 socket. If it can't, the kernel's list is missing or empty.
#[allow(clippy::disallowed_methods, reason = "a file of the kernel, read with the configuration")]
fn has_ipv6() -> bool {
    std::fs::read("/proc/net/if_inet6").is_ok_and(|addresses| !addresses.is_empty())
}

#[cfg(test)]
mod tests;
