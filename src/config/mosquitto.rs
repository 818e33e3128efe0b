//! Reads a `mosquitto.conf` as it is, for those who move in from mosquitto 2.
//!
//! In comes the name of a file; out goes a [`MosquittoConf`], plain data with the line of every setting, or
//! everything that stands in the way. [`MosquittoConf::midge_toml`] says the same in midge's own words, and
//! [`MosquittoConf::config`] reads those: there is one way from one file to the other.
//!
//! Each key is one of four kinds (the module `keys` has them all):
//! - *supported*: it means here what it means there;
//! - *harmless*: accepted, checked, and without effect; a [`Remark`] names the line and the reason;
//! - *not supported*: an error. All of these stop the start, because a broker that leaves them out would let
//!   others in, or let other messages through, than the file says: bridges, plugins, pre-shared keys. Only
//!   [`MosquittoConf::load_partial`] leaves them out, for an import that an operator looks through;
//! - *unknown*: an error, as for mosquitto itself.

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

/// A setting and the place where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The file as it was named or found.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
    /// What it says.
    pub value: T,
}

/// A line that was accepted and changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The file as it was named or found.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
    /// The key of the line.
    pub key: String,
    /// Why it changes nothing, in words.
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
    /// mosquitto does not take it either.
    Wrong(String),
    /// midge has no like of it.
    NotSupported(String),
    /// midge has no like of it, and without it the line's listener would be open to others.
    ClosesListener(String),
}

impl From<String> for Problem {
    fn from(words: String) -> Problem {
        Problem::Wrong(words)
    }
}

/// Declares a set of settings, each with its place, all absent until a line gives them.
macro_rules! settings {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: Option<Spanned<$type>>,)*
        }
    };
}

/// A number with "as many as you like": `None`.
pub type MaybeLimit = Option<u32>;

settings! {
    /// What stands outside of listeners.
    Global {
        /// Whether a retained message is checked against its publisher's rights when it is sent.
        check_retain_source: bool,
        /// Only clients whose identifier begins with this may connect.
        clientid_prefixes: String,
        /// Whether a connect and a disconnect are logged.
        connection_messages: bool,
        /// Sessions at most, with and without connection.
        global_max_clients: MaybeLimit,
        /// Connections at most.
        global_max_connections: MaybeLimit,
        /// Bytes on their way to a client without acknowledgement.
        max_inflight_bytes: MaybeLimit,
        /// QoS 1 and 2 messages on their way without acknowledgement, in each direction.
        max_inflight_messages: MaybeLimit,
        /// Longest keep alive, in seconds.
        max_keepalive: MaybeLimit,
        /// Largest packet, in bytes.
        max_packet_size: u32,
        /// Bytes that wait for a client.
        max_queued_bytes: MaybeLimit,
        /// QoS 1 and 2 messages that wait for a client.
        max_queued_messages: MaybeLimit,
        /// Bytes of the heap; 0: no bound.
        memory_limit: u64,
        /// Largest payload, in bytes.
        message_size_limit: MaybeLimit,
        /// Whether anything is kept over a restart.
        persistence: bool,
        /// Name of the file that it is kept in.
        persistence_file: String,
        /// Directory of that file.
        persistence_location: String,
        /// Longest life of a session without connection, in seconds.
        persistent_client_expiration: u64,
        /// Whether QoS 0 messages wait for a session without connection.
        queue_qos0_messages: bool,
        /// Whether retained messages are accepted.
        retain_available: bool,
        /// Seconds between two updates of `$SYS`; 0: none.
        sys_interval: u32,
        /// Whether messages go out with the subscription's QoS even when they came in with a lower one.
        upgrade_outgoing_qos: bool,
        /// Bytes of the headers that a WebSocket client may send; 0: as libwebsockets has it.
        websockets_headers_size: u32,
    }
}

settings! {
    /// Who may come in: of a listener with `per_listener_settings true`, else of the broker.
    Security {
        /// Rights to topics.
        acl_file: String,
        /// Whether clients without a user name may connect.
        allow_anonymous: bool,
        /// Whether the broker chooses an identifier for clients without one.
        allow_zero_length_clientid: bool,
        /// How the identifiers begin that the broker chooses.
        auto_id_prefix: String,
        /// User names and hashed passwords.
        password_file: String,
    }
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT over TCP, TLS or a Unix socket.
    Mqtt,
    /// MQTT over WebSocket.
    Websockets,
}

/// Which of the two families of addresses a listener without an address takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketDomain {
    /// `0.0.0.0` alone.
    Ipv4,
    /// `[::]` alone.
    Ipv6,
}

settings! {
    /// The settings of one listener, without those about who may come in.
    ListenerSettings {
        /// Versions of MQTT that may be spoken: of 3 (for 3.1), 4 (3.1.1) and 5.
        accept_protocol_versions: Vec<u8>,
        /// The one network interface that is served.
        bind_interface: String,
        /// Authorities of clients' certificates.
        cafile: String,
        /// A directory of further ones.
        capath: String,
        /// The listener's certificate; with it, TLS is spoken.
        certfile: String,
        /// Revoked certificates.
        crlfile: String,
        /// Whether a client's certificate counts although it has expired.
        disable_client_cert_date_checks: bool,
        /// Whether connections begin with a PROXY header: 1 or 2, its version.
        enable_proxy_protocol: u32,
        /// The key of the certificate.
        keyfile: String,
        /// Whether clients without a user name may connect here, whatever `allow_anonymous` says.
        listener_allow_anonymous: bool,
        /// How the identifiers begin that the broker chooses here.
        listener_auto_id_prefix: String,
        /// Connections at most.
        max_connections: MaybeLimit,
        /// Highest QoS that clients may publish with.
        max_qos: u32,
        /// Topic aliases that a client may use.
        max_topic_alias: u32,
        /// Topic aliases that the broker uses towards a client.
        max_topic_alias_broker: u32,
        /// What is put before every topic of the listener's clients.
        mount_point: String,
        /// What is spoken.
        protocol: Protocol,
        /// Whether a client must have a certificate.
        require_certificate: bool,
        /// Which addresses are meant when none is named.
        socket_domain: SocketDomain,
        /// Lowest version of TLS.
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
    /// A TCP port of an address or host name; of every address without one.
    Port(u16, Option<String>),
    /// A Unix socket.
    Socket(String),
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MosquittoListener {
    /// Where it listens, and the line that opened it.
    pub place: Spanned<ListenAddress>,
    /// The key of the line that opened it: `listener`; for mosquitto's default listener `port`,
    /// `bind_address`, or a listener's key that no listener stands above.
    pub opened_by: String,
    /// Its settings.
    pub settings: ListenerSettings,
    /// Who may come in here; only with `per_listener_settings true`.
    pub security: Security,
    /// Origins of web pages that may connect over WebSocket; none: all.
    pub websockets_origins: Vec<Spanned<String>>,
}

/// Where the log goes; several may be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogDestination {
    /// Nowhere.
    None,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file of its own.
    File(String),
    /// Whatever midge has no like of: `syslog`, `topic`, `dlt`.
    Other(String),
}

/// A whole `mosquitto.conf` with what it includes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MosquittoConf {
    /// The file as it was named.
    pub file: Arc<str>,
    /// What stands outside of listeners.
    pub global: Global,
    /// Who may come in, without `per_listener_settings true`.
    pub security: Security,
    /// `per_listener_settings true`: each listener says by itself who may come in.
    pub per_listener_settings: Option<Spanned<bool>>,
    /// The listeners, in the order in which they were opened.
    pub listeners: Vec<MosquittoListener>,
    /// Neither `listener`, `port` nor `bind_address` is there: only this machine is served, without TLS,
    /// and mosquitto gives no heed to what `listeners` may hold.
    pub local_only: bool,
    /// The port of the command line. It counts only when `local_only`.
    pub port_override: Option<u16>,
    /// Where the log goes; empty without a `log_dest`.
    pub log_destinations: Vec<Spanned<LogDestination>>,
    /// The words of `log_type`; empty without one.
    pub log_types: Vec<Spanned<String>>,
    /// Lines without effect.
    pub remarks: Vec<Remark>,
    /// Lines that were left out because midge has no like of them; see [`MosquittoConf::load_partial`].
    pub left_out: Vec<Remark>,
    /// Whether this machine has IPv6: mosquitto does without where it hasn't.
    pub has_ipv6: bool,
}

impl MosquittoConf {
    /// Reads a file and what it includes. Relative names of files and directories are meant from the working
    /// directory, as mosquitto means them. `port_override` is the port of the command line.
    ///
    /// Fails with everything that is wrong or can't be done, in the order of the lines; never with an empty
    /// list.
    pub fn load(path: &Path, port_override: Option<u16>) -> Result<MosquittoConf, Vec<Diagnostic>> {
        let mut reader = read::ConfReader::new(&path.display().to_string(), port_override);
        reader.read_file(path);
        reader.conf.has_ipv6 = has_ipv6();
        reader.finish()
    }

    /// As [`MosquittoConf::load`], but what midge has no like of is left out: [`MosquittoConf::left_out`] has the lines.
    /// A listener that would be open to others without such a line is left out as a whole.
    ///
    /// Fails with everything that mosquitto would not take either, and when no listener is left.
    pub fn load_partial(path: &Path) -> Result<MosquittoConf, Vec<Diagnostic>> {
        let mut reader = read::ConfReader::new(&path.display().to_string(), None);
        reader.is_partial = true;
        reader.read_file(path);
        reader.conf.has_ipv6 = has_ipv6();
        reader.finish()
    }

    /// Reads the text of a file; `file` is its name in errors. See [`MosquittoConf::load`].
    pub fn parse(
        file: &str,
        bytes: &[u8],
        port_override: Option<u16>,
    ) -> Result<MosquittoConf, Vec<Diagnostic>> {
        let mut reader = read::ConfReader::new(file, port_override);
        reader.read_bytes(bytes);
        reader.finish()
    }

    /// The same settings in midge's words. See [`Mapping`].
    pub fn mapping(&self) -> Mapping {
        Mapping::of(self)
    }

    /// The `midge.toml` that does the same, with a comment for each thing that differs.
    pub fn midge_toml(&self) -> String {
        toml::written(self, &self.mapping()).text
    }

    /// The configuration that does the same.
    ///
    /// Fails when a setting that decides who may come in or what flows has no place in this midge, or when a
    /// value is outside of midge's bounds: each with the line of the `mosquitto.conf`.
    pub fn config(&self) -> Result<crate::settings::Config, Vec<Diagnostic>> {
        let mapping = self.mapping();
        let missing = mapping.missing(self);
        if !missing.is_empty() {
            return Err(missing);
        }
        toml::written(self, &mapping).read(self)
    }
}

/// Is this text, which is no configuration of midge's, evidently one of mosquitto's? Its first line begins with a key of
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

/// Whether an IPv6 socket can be bound here. The kernel's list is missing or empty where it can't.
#[allow(clippy::disallowed_methods, reason = "a file of the kernel, read with the configuration")]
fn has_ipv6() -> bool {
    std::fs::read("/proc/net/if_inet6").is_ok_and(|addresses| !addresses.is_empty())
}

#[cfg(test)]
mod tests;
