//! Goes through the lines of a file and of those it includes, and puts each setting where it belongs.
//!
//! mosquitto ends at the first error; here every line is read, and all errors are told. Which listener a key
//! belongs to is mosquitto's rule: the last one that was opened *in the same file*, else the default
//! listener where the key may open it.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::keys::{self, Form, Kind, Stands};
use super::line::{INT, Line, text};
use super::{
    ConfError, Global, ListenerSettings, LogDestination, MosquittoConf, MosquittoListener, Place, Protocol,
    Remark, Security, SocketDomain, Spanned, TlsVersion, check,
};
use crate::config::options::LISTENERS_MAX;
use crate::config::parse::FILE_BYTES_MAX;
use crate::config::value::quoted;

/// Files that one file may include; more are no configuration.
const INCLUDED_MAX: usize = 1000;

/// Port of the default listener as long as no `port` line says another.
const DEFAULT_PORT: u16 = 1883;

/// What the lines of one file have opened so far.
#[derive(Debug, Default)]
struct Opened {
    listener: Option<usize>,
    /// Line of the bridge.
    bridge: Option<usize>,
    plugin: bool,
}

/// Reads files into a [`MosquittoConf`].
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) conf: MosquittoConf,
    errors: Vec<ConfError>,
    default_listener: Option<usize>,
    /// Whether a key about who may come in was read: `per_listener_settings` must stand before it.
    security_seen: bool,
    included: bool,
}

impl Reader {
    pub(super) fn new(file: &str, port_override: Option<u16>) -> Reader {
        let conf = MosquittoConf {
            file: Arc::from(file),
            global: Global::default(),
            security: Security::default(),
            per_listener_settings: None,
            listeners: Vec::new(),
            local_only: true,
            port_override,
            log_destinations: Vec::new(),
            log_types: Vec::new(),
            remarks: Vec::new(),
            has_ipv6: true,
        };
        Reader { conf, errors: Vec::new(), default_listener: None, security_seen: false, included: false }
    }

    /// Everything that was read, if nothing was wrong with it.
    pub(super) fn finish(mut self) -> Result<MosquittoConf, Vec<ConfError>> {
        if self.errors.is_empty() {
            check::check(&self.conf, &mut self.errors);
        }
        if self.errors.is_empty() { Ok(self.conf) } else { Err(self.errors) }
    }

    /// Reads the file of the command line.
    pub(super) fn read_file(&mut self, path: &Path) {
        let file = self.conf.file.clone();
        if let Some(bytes) = self.bytes_of(&file, path) {
            self.read_bytes(&bytes);
        }
    }

    /// Reads its text.
    pub(super) fn read_bytes(&mut self, bytes: &[u8]) {
        let file = self.conf.file.clone();
        self.read_lines(&file, bytes);
    }

    fn bytes_of(&mut self, file: &Arc<str>, path: &Path) -> Option<Vec<u8>> {
        let problem = match read_bounded(path) {
            Ok(bytes) if bytes.len() as u64 <= FILE_BYTES_MAX => return Some(bytes),
            Ok(_) => format!("larger than {FILE_BYTES_MAX} bytes: no configuration file"),
            Err(_) if path.is_dir() => "is a directory".to_owned(),
            Err(error) => format!("cannot be read: {error}"),
        };
        self.errors.push(ConfError {
            file: file.to_string(),
            line: None,
            key: String::new(),
            message: problem,
        });
        None
    }

    fn read_lines(&mut self, file: &Arc<str>, bytes: &[u8]) {
        let mut opened = Opened::default();
        for (number, raw) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            let (key, outcome) = match Line::cut(file, number, raw) {
                Ok(None) => continue,
                Ok(Some(line)) => (line.key, self.take(&line, &mut opened)),
                Err(message) => ("", Err(message)),
            };
            if let Err(message) = outcome {
                let (file, key) = (file.to_string(), shown_key(key));
                self.errors.push(ConfError { file, line: Some(number), key, message });
            }
        }
    }

    /// Takes one line. The error says what is wrong with it.
    fn take(&mut self, line: &Line<'_>, opened: &mut Opened) -> Result<(), String> {
        match keys::find(line.key).ok_or_else(|| unknown(line.key))? {
            Kind::Bridge => bridge(line, opened),
            Kind::Plugin => plugin(line, opened),
            Kind::NotSupported(why) => Err(format!("not supported: {why}")),
            Kind::Harmless(stands, form, why) => {
                self.place(stands, line, opened)?;
                self.check_harmless(line, form)?;
                self.remark(line, why);
                Ok(())
            }
            Kind::Supported(stands) => {
                let listener = self.place(stands, line, opened)?;
                self.set(line, listener, opened)
            }
        }
    }

    fn remark(&mut self, line: &Line<'_>, why: impl Into<String>) {
        let key = line.key.to_owned();
        self.conf.remarks.push(Remark { file: line.file.clone(), line: line.number, key, why: why.into() });
    }

    fn check_harmless(&self, line: &Line<'_>, form: Form) -> Result<(), String> {
        match form {
            Form::Anything => Ok(()),
            Form::Boolean => line.boolean().map(drop),
            Form::Integer(min, max) => line.integer(min..=max).map(drop),
            Form::Text => {
                let once = matches!(line.key, "pid_file" | "log_timestamp_format");
                let first = self.conf.remarks.iter().find(|remark| once && remark.key == line.key);
                match first {
                    Some(first) => Err(second_time(&first.file, first.line)),
                    None => line.text().map(drop),
                }
            }
        }
    }

    /// The listener that a key belongs to; `None` for a key of the whole broker. Fails when the key may not
    /// stand here.
    fn place(
        &mut self,
        stands: Stands,
        line: &Line<'_>,
        opened: &mut Opened,
    ) -> Result<Option<usize>, String> {
        let per_listener = self.conf.per_listener_settings.as_ref().is_some_and(|setting| setting.value);
        match stands {
            Stands::Anywhere => Ok(None),
            Stands::Security => {
                self.security_seen = true;
                match (per_listener, opened.listener) {
                    (false, _) => Ok(None),
                    (true, Some(listener)) => Ok(Some(listener)),
                    (true, None) => Err("with per_listener_settings true, a listener line must stand above \
                                         it in this file"
                        .to_owned()),
                }
            }
            Stands::ListenerOrDefault => match opened.listener {
                Some(listener) => Ok(Some(listener)),
                None => Ok(Some(self.open_default(line, opened))),
            },
            Stands::Listener => opened.listener.map(Some).ok_or_else(needs_listener),
            Stands::NamedListener => match opened.listener {
                Some(listener) if Some(listener) != self.default_listener => Ok(Some(listener)),
                _ => Err(needs_listener()),
            },
        }
    }

    fn open_default(&mut self, line: &Line<'_>, opened: &mut Opened) -> usize {
        let index = match self.default_listener {
            Some(index) => index,
            None => {
                self.conf.listeners.push(listener_at(line, Place::Port(DEFAULT_PORT, None)));
                self.conf.listeners.len() - 1
            }
        };
        self.default_listener = Some(index);
        opened.listener = Some(index);
        index
    }

    fn set(&mut self, line: &Line<'_>, listener: Option<usize>, opened: &mut Opened) -> Result<(), String> {
        match line.key {
            "listener" => self.open_listener(line, opened),
            "port" | "bind_address" => self.set_default_place(line, opened),
            "include_dir" => self.include(line),
            "per_listener_settings" => self.set_per_listener(line),
            "log_dest" => self.set_log_destination(line),
            "log_type" => self.set_log_type(line),
            "tls_keyform" => self.check_key_form(line),
            "acl_file"
            | "allow_anonymous"
            | "allow_zero_length_clientid"
            | "auto_id_prefix"
            | "password_file" => {
                let security = match listener.and_then(|index| self.conf.listeners.get_mut(index)) {
                    Some(listener) => {
                        // Here, two keys have two names; the last line counts, and a prefix stands once.
                        match line.key {
                            "allow_anonymous" => listener.settings.listener_allow_anonymous = None,
                            "auto_id_prefix" => {
                                refuse_second(listener.settings.listener_auto_id_prefix.as_ref())?;
                            }
                            _ => {}
                        }
                        &mut listener.security
                    }
                    None => &mut self.conf.security,
                };
                set_security(security, line)
            }
            _ => match listener.and_then(|index| self.conf.listeners.get_mut(index)) {
                Some(listener) => set_listener(listener, line),
                None => set_global(&mut self.conf.global, line),
            },
        }
    }

    fn open_listener(&mut self, line: &Line<'_>, opened: &mut Opened) -> Result<(), String> {
        self.conf.local_only = false;
        if self.conf.listeners.len() >= LISTENERS_MAX {
            return Err(format!("more than {LISTENERS_MAX} listeners"));
        }
        // One whose own line is wrong is opened all the same: the keys below it are not to blame.
        let place = listener_place(line);
        let opening = place.clone().unwrap_or(Place::Port(DEFAULT_PORT, None));
        self.conf.listeners.push(listener_at(line, opening));
        opened.listener = Some(self.conf.listeners.len() - 1);
        place.map(drop)
    }

    fn set_default_place(&mut self, line: &Line<'_>, opened: &mut Opened) -> Result<(), String> {
        self.conf.local_only = false;
        let index = self.open_default(line, opened);
        let Some(listener) = self.conf.listeners.get_mut(index) else { return Ok(()) };
        let Place::Port(port, host) = listener.place.value.clone() else { return Ok(()) };
        let place = if line.key == "port" {
            Place::Port(port_of(line, 1)?, host)
        } else if host.is_some() {
            return Err(second_time(&listener.place.file, listener.place.line));
        } else {
            Place::Port(port, Some(host_of(&line.text()?.value)?))
        };
        listener.place = line.at(place);
        line.key.clone_into(&mut listener.opened_by);
        Ok(())
    }

    fn include(&mut self, line: &Line<'_>) -> Result<(), String> {
        if self.included {
            return Err("allowed in the main file only".to_owned());
        }
        let directory = text(line.rest())?;
        let files = included_files(&directory)?;
        self.included = true;
        for path in files {
            let file: Arc<str> = Arc::from(path.display().to_string());
            if let Some(bytes) = self.bytes_of(&file, &path) {
                self.read_lines(&file, &bytes);
            }
        }
        self.included = false;
        Ok(())
    }

    fn set_per_listener(&mut self, line: &Line<'_>) -> Result<(), String> {
        if self.conf.per_listener_settings.as_ref().is_some_and(|setting| setting.value) {
            // Once it is on, mosquitto does not look at the value of another such line.
            self.remark(line, "it is on since an earlier line, and stays on");
            return Ok(());
        }
        let setting = line.boolean()?;
        if setting.value && self.security_seen {
            return Err("must stand above every key about who may come in".to_owned());
        }
        self.conf.per_listener_settings = Some(setting);
        Ok(())
    }

    fn set_log_destination(&mut self, line: &Line<'_>) -> Result<(), String> {
        let destination = match line.word()? {
            "none" => LogDestination::None,
            "stdout" => LogDestination::Stdout,
            "stderr" => LogDestination::Stderr,
            other @ ("syslog" | "topic" | "dlt") => LogDestination::Other(other.to_owned()),
            "file" => {
                let same = |other: &&Spanned<LogDestination>| matches!(other.value, LogDestination::File(_));
                if let Some(first) = self.conf.log_destinations.iter().find(same) {
                    return Err(second_time(&first.file, first.line));
                }
                LogDestination::File(text(line.behind_word())?)
            }
            other => {
                return Err(format!(
                    "got {}; allowed is none, stdout, stderr, syslog, topic, dlt or \"file PATH\"",
                    quoted(other)
                ));
            }
        };
        self.conf.log_destinations.push(line.at(destination));
        Ok(())
    }

    fn set_log_type(&mut self, line: &Line<'_>) -> Result<(), String> {
        let word = line.word()?;
        if !LOG_TYPES.contains(&word) {
            return Err(format!("got {}; allowed is {}", quoted(word), LOG_TYPES.join(", ")));
        }
        self.conf.log_types.push(line.at(word.to_owned()));
        Ok(())
    }

    fn check_key_form(&mut self, line: &Line<'_>) -> Result<(), String> {
        if line.text()?.value == "engine" {
            return Err(
                "not supported: midge reads a key from keyfile, not from an OpenSSL engine".to_owned()
            );
        }
        self.remark(line, "midge reads PEM, and nothing else");
        Ok(())
    }
}

const LOG_TYPES: [&str; 11] = [
    "none",
    "error",
    "warning",
    "notice",
    "information",
    "debug",
    "subscribe",
    "unsubscribe",
    "websockets",
    "internal",
    "all",
];

fn set_global(global: &mut Global, line: &Line<'_>) -> Result<(), String> {
    match line.key {
        "check_retain_source" => global.check_retain_source = Some(line.boolean()?),
        "clientid_prefixes" => global.clientid_prefixes = Some(line.text()?),
        "connection_messages" => global.connection_messages = Some(line.boolean()?),
        "global_max_clients" => global.global_max_clients = Some(line.limit()?),
        "global_max_connections" => global.global_max_connections = Some(line.limit()?),
        "max_inflight_bytes" => global.max_inflight_bytes = Some(line.limit()?),
        "max_inflight_messages" => {
            let number = line.integer(*INT.start()..=65_535)?;
            let limit = u32::try_from(number).ok().filter(|number| (1..65_535).contains(number));
            global.max_inflight_messages = Some(line.at(limit));
        }
        "max_keepalive" => {
            line.integer(0..=65_535)?;
            global.max_keepalive = Some(line.limit()?);
        }
        "max_packet_size" => global.max_packet_size = Some(line.unsigned(20..=INT_MAX)?),
        "max_queued_bytes" => global.max_queued_bytes = Some(line.limit()?),
        "max_queued_messages" => global.max_queued_messages = Some(line.limit()?),
        "memory_limit" => {
            let bytes = line.integer(0..=i64::MAX)?;
            global.memory_limit = Some(line.at(bytes.unsigned_abs()));
        }
        "message_size_limit" => {
            line.integer(0..=PAYLOAD_BYTES_MAX)?;
            global.message_size_limit = Some(line.limit()?);
        }
        "persistence" | "retained_persistence" => global.persistence = Some(line.boolean()?),
        "persistence_file" => once(&mut global.persistence_file, line)?,
        "persistence_location" => once(&mut global.persistence_location, line)?,
        "persistent_client_expiration" => {
            let seconds = duration_seconds(line.word()?)?;
            global.persistent_client_expiration = Some(line.at(seconds));
        }
        "queue_qos0_messages" => global.queue_qos0_messages = Some(line.boolean()?),
        "retain_available" => global.retain_available = Some(line.boolean()?),
        "retain_expiry_interval" => {
            let minutes = line.unsigned(1..=INT_MAX)?;
            global.retain_expiry_interval = Some(line.at(minutes.value.min(RETAIN_MINUTES_MAX)));
        }
        "sys_interval" => global.sys_interval = Some(line.unsigned(0..=65_535)?),
        "upgrade_outgoing_qos" => global.upgrade_outgoing_qos = Some(line.boolean()?),
        key => return Err(unknown(key)),
    }
    Ok(())
}

const INT_MAX: u32 = i32::MAX as u32;

/// Largest payload that a PUBLISH can carry, in bytes.
const PAYLOAD_BYTES_MAX: i64 = 268_435_455;

/// mosquitto goes no further than nineteen years.
const RETAIN_MINUTES_MAX: u32 = 10_000_000;

fn set_security(security: &mut Security, line: &Line<'_>) -> Result<(), String> {
    match line.key {
        "acl_file" => security.acl_file = Some(line.text()?),
        "allow_anonymous" => security.allow_anonymous = Some(line.boolean()?),
        "allow_zero_length_clientid" => security.allow_zero_length_clientid = Some(line.boolean()?),
        "auto_id_prefix" => prefix(&mut security.auto_id_prefix, line)?,
        "password_file" => security.password_file = Some(line.text()?),
        key => return Err(unknown(key)),
    }
    Ok(())
}

fn set_listener(listener: &mut MosquittoListener, line: &Line<'_>) -> Result<(), String> {
    let settings = &mut listener.settings;
    match line.key {
        "accept_protocol_versions" => settings.accept_protocol_versions = Some(versions(line)?),
        "bind_interface" => once(&mut settings.bind_interface, line)?,
        "cafile" => settings.cafile = Some(line.text()?),
        "certfile" => settings.certfile = Some(line.text()?),
        "crlfile" => settings.crlfile = Some(line.text()?),
        "disable_client_cert_date_checks" => settings.disable_client_cert_date_checks = Some(line.boolean()?),
        "enable_proxy_protocol" => settings.enable_proxy_protocol = Some(line.unsigned(1..=2)?),
        "keyfile" => settings.keyfile = Some(line.text()?),
        "listener_allow_anonymous" => {
            settings.listener_allow_anonymous = Some(line.boolean()?);
            listener.security.allow_anonymous = None;
        }
        "listener_auto_id_prefix" => {
            refuse_second(listener.security.auto_id_prefix.as_ref())?;
            prefix(&mut settings.listener_auto_id_prefix, line)?;
        }
        "max_connections" => settings.max_connections = Some(line.limit()?),
        "max_qos" | "maximum_qos" => settings.max_qos = Some(line.unsigned(0..=2)?),
        "max_topic_alias" => settings.max_topic_alias = Some(line.unsigned(0..=65_535)?),
        "max_topic_alias_broker" => settings.max_topic_alias_broker = Some(line.unsigned(0..=65_535)?),
        "mount_point" => settings.mount_point = Some(mount_point(line)?),
        "protocol" => settings.protocol = Some(protocol(line)?),
        "require_certificate" => settings.require_certificate = Some(line.boolean()?),
        "socket_domain" => settings.socket_domain = Some(socket_domain(line)?),
        "tls_version" => {
            let version = tls_version(line)?;
            refuse_second(settings.tls_version.as_ref())?;
            settings.tls_version = Some(version);
        }
        "use_identity_as_username" => settings.use_identity_as_username = Some(line.boolean()?),
        "use_subject_as_username" => settings.use_subject_as_username = Some(line.boolean()?),
        "use_username_as_clientid" => settings.use_username_as_clientid = Some(line.boolean()?),
        "websockets_origin" => listener.websockets_origins.push(line.text()?),
        key => return Err(unknown(key)),
    }
    Ok(())
}

fn listener_at(line: &Line<'_>, place: Place) -> MosquittoListener {
    MosquittoListener {
        place: line.at(place),
        opened_by: line.key.to_owned(),
        settings: ListenerSettings::default(),
        security: Security::default(),
        websockets_origins: Vec::new(),
    }
}

/// `listener PORT [ADDRESS]` or `listener 0 PATH`.
fn listener_place(line: &Line<'_>) -> Result<Place, String> {
    let port = port_of(line, 0)?;
    let second = line.words().nth(1).filter(|word| !word.starts_with('#'));
    match (port, second) {
        (0, Some(path)) => Ok(Place::Socket(text(path)?)),
        (0, None) => Err("port 0 stands for a Unix socket: its path must follow".to_owned()),
        (port, Some(host)) => Ok(Place::Port(port, Some(host_of(host)?))),
        (port, None) => Ok(Place::Port(port, None)),
    }
}

fn port_of(line: &Line<'_>, min: i64) -> Result<u16, String> {
    let port = line.integer(min..=65_535)?;
    u16::try_from(port).map_err(|_| "is no port".to_owned())
}

/// Checks that midge can listen on what is meant as an address.
fn host_of(host: &str) -> Result<String, String> {
    use crate::config::Address;

    let bracketed = if host.contains(':') { format!("[{host}]:1") } else { format!("{host}:1") };
    match Address::parse(&bracketed) {
        Some(_) => Ok(host.to_owned()),
        None => Err(format!("got {}; allowed is an IP address or a host name", quoted(host))),
    }
}

fn versions(line: &Line<'_>) -> Result<Spanned<Vec<u8>>, String> {
    let words = line.rest().split([',', ' ', '\t']).filter(|word| !word.is_empty());
    let mut versions = Vec::new();
    for word in words {
        // As mosquitto, words of another kind are passed over.
        let version = match word {
            "3" => 3,
            "4" => 4,
            "5" => 5,
            _ => continue,
        };
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    versions.sort_unstable();
    if versions.is_empty() {
        return Err(
            "names no version; allowed is a list of 3, 4 and 5, for MQTT 3.1, 3.1.1 and 5.0".to_owned()
        );
    }
    Ok(line.at(versions))
}

fn mount_point(line: &Line<'_>) -> Result<Spanned<String>, String> {
    let mount_point = line.text()?;
    if mount_point.value.contains(['+', '#']) {
        return Err(format!("got {}; wildcards are not allowed", quoted(&mount_point.value)));
    }
    Ok(mount_point)
}

fn protocol(line: &Line<'_>) -> Result<Spanned<Protocol>, String> {
    match line.word()? {
        "mqtt" => Ok(line.at(Protocol::Mqtt)),
        "websockets" => Ok(line.at(Protocol::Websockets)),
        "http_api" => Err("not supported: midge has no HTTP interface; remove this listener".to_owned()),
        other => Err(format!("got {}; allowed is mqtt or websockets", quoted(other))),
    }
}

fn socket_domain(line: &Line<'_>) -> Result<Spanned<SocketDomain>, String> {
    match line.word()? {
        "ipv4" => Ok(line.at(SocketDomain::Ipv4)),
        "ipv6" => Ok(line.at(SocketDomain::Ipv6)),
        other => Err(format!("got {}; allowed is ipv4 or ipv6", quoted(other))),
    }
}

fn tls_version(line: &Line<'_>) -> Result<Spanned<TlsVersion>, String> {
    match line.text()?.value.as_str() {
        "tlsv1.2" => Ok(line.at(TlsVersion::V1_2)),
        "tlsv1.3" => Ok(line.at(TlsVersion::V1_3)),
        "tlsv1.1" => {
            Err("not supported: midge speaks TLS 1.2 and 1.3, and clients that can't would be left \
                          out; say tlsv1.2 if there are none"
                .to_owned())
        }
        other => Err(format!("got {}; allowed is tlsv1.2 or tlsv1.3", quoted(other))),
    }
}

/// A whole number with the letter of its unit: `14d`.
fn duration_seconds(word: &str) -> Result<u64, String> {
    let refused = || {
        format!(
            "got {}; allowed is a whole number above 0 with a unit: s, h, d, w, m or y, such as 14d",
            quoted(word)
        )
    };
    let unit = match word.as_bytes().last() {
        Some(b's') => 1,
        Some(b'h') => 3600,
        Some(b'd') => 86_400,
        Some(b'w') => 86_400 * 7,
        Some(b'm') => 86_400 * 30,
        Some(b'y') => 86_400 * 365,
        _ => return Err(refused()),
    };
    let number = word.get(..word.len() - 1).and_then(|number| number.parse::<u32>().ok());
    number.filter(|number| *number > 0).map(|number| u64::from(number) * unit).ok_or_else(refused)
}

/// Sets a text that may stand there once.
fn once(slot: &mut Option<Spanned<String>>, line: &Line<'_>) -> Result<(), String> {
    refuse_second(slot.as_ref())?;
    *slot = Some(line.text()?);
    Ok(())
}

fn refuse_second<T>(first: Option<&Spanned<T>>) -> Result<(), String> {
    first.map_or(Ok(()), |first| Err(second_time(&first.file, first.line)))
}

fn second_time(file: &str, line: usize) -> String {
    format!("is already set in {file}:{line}")
}

/// Longest beginning of an identifier that the broker chooses, in bytes.
const PREFIX_BYTES_MAX: usize = 50;

fn prefix(slot: &mut Option<Spanned<String>>, line: &Line<'_>) -> Result<(), String> {
    let prefix = line.text()?;
    if prefix.value.len() > PREFIX_BYTES_MAX {
        return Err(format!("is longer than {PREFIX_BYTES_MAX} bytes"));
    }
    once(slot, line)
}

fn needs_listener() -> String {
    "a listener line must stand above it in this file".to_owned()
}

fn bridge(line: &Line<'_>, opened: &mut Opened) -> Result<(), String> {
    if line.key == "connection" {
        opened.bridge = Some(line.number);
        let name = line.word()?;
        return Err(format!(
            "not supported: midge has no bridges; without {}, messages that are passed on today would not be",
            quoted(name)
        ));
    }
    match opened.bridge {
        Some(first) => Err(format!("not supported: belongs to the bridge of line {first}")),
        None => Err("belongs to a bridge: a connection line must stand above it in this file".to_owned()),
    }
}

fn plugin(line: &Line<'_>, opened: &mut Opened) -> Result<(), String> {
    match line.key {
        "plugin" | "global_plugin" | "auth_plugin" | "plugin_load" | "plugin_use" => {
            opened.plugin = true;
            let path = text(line.rest())?;
            let instead = PLUGINS_OF_FILES.iter().find(|(name, _)| path.contains(name));
            Err(match instead {
                Some((_, key)) => {
                    format!("not supported: midge has no plugins; write \"{key} FILE\" instead")
                }
                None => {
                    "not supported: midge has no plugins; leaving it out could change who may come in and \
                         what they may do"
                        .to_owned()
                }
            })
        }
        _ if opened.plugin => Err("not supported: belongs to a plugin".to_owned()),
        _ => Err("belongs to a plugin: plugin, global_plugin or plugin_load must stand above it".to_owned()),
    }
}

/// mosquitto's own plugins that do what a key does too.
const PLUGINS_OF_FILES: [(&str, &str); 2] =
    [("mosquitto_password_file", "password_file"), ("mosquitto_acl_file", "acl_file")];

fn unknown(key: &str) -> String {
    let hint = if key.contains('\t') {
        "; between a key and its value mosquitto wants a space, not a tab".to_owned()
    } else if key.starts_with('#') {
        "; a comment must begin in the first column".to_owned()
    } else {
        keys::nearest(key).map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"))
    };
    format!("Unknown configuration variable{hint}")
}

fn shown_key(key: &str) -> String {
    if key.bytes().all(|byte| byte.is_ascii_graphic()) && key.len() <= 60 {
        key.to_owned()
    } else {
        quoted(key)
    }
}

#[allow(clippy::disallowed_methods, reason = "the reader of the configuration")]
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The files of a directory that mosquitto would read, in its order: without regard to case, capital letters
/// first among equals.
fn included_files(directory: &str) -> Result<Vec<PathBuf>, String> {
    let unreadable =
        |error: std::io::Error| format!("the directory {} cannot be read: {error}", quoted(directory));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        if name.len() > ".conf".len() && name.as_bytes().ends_with(b".conf") {
            files.push(Path::new(directory).join(name));
        }
        if files.len() > INCLUDED_MAX {
            return Err(format!("the directory {} has more than {INCLUDED_MAX} files", quoted(directory)));
        }
    }
    files.sort_by_cached_key(|path| -> Vec<(u8, u8)> {
        path.as_os_str().as_bytes().iter().map(|byte| (byte.to_ascii_uppercase(), *byte)).collect()
    });
    Ok(files)
}
