//! A `mosquitto.conf` as a list of midge's settings, each with the line that it comes from.
//!
//! There is only one mapping: the text of a `midge.toml` and the configuration in memory are both made from
//! it. Where mosquitto's default differs from midge's, the list has mosquitto's default. Where they are the
//! same, it has nothing. [`Mapping::missing`] reports the options that midge does not have.

use std::fmt;
use std::sync::LazyLock;

use super::{Diagnostic, LogDestination, MaybeLimit, MosquittoConf, Security, Spanned};
use crate::settings::options::Listener;
use crate::settings::value::Section;
use crate::settings::{Config, Limits, LogLevel};

/// The source of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingOrigin {
    /// A line of the `mosquitto.conf`. The value is the line's key.
    Line(Spanned<String>),
    /// No line. It is mosquitto's default, which differs from midge's.
    Default,
    /// The command line.
    CommandLine,
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingOrigin::Line(at) => write!(f, "{}:{} {}", at.file, at.line, at.value),
            SettingOrigin::Default => f.write_str("mosquitto's default"),
            SettingOrigin::CommandLine => f.write_str("the command line"),
        }
    }
}

/// A table of the `midge.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TomlTable {
    /// One of `[[listeners]]`, counted from 0.
    Listener(usize),
    /// A section.
    Section(&'static str),
}

/// A value of the `midge.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TomlValue {
    /// A string.
    Text(String),
    /// An integer.
    Integer(u64),
    /// `true` or `false`.
    Boolean(bool),
    /// An array of strings.
    Texts(Vec<String>),
}

/// One setting of midge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// The table that holds it.
    pub table: TomlTable,
    /// Its key in that table.
    pub key: &'static str,
    /// Its value.
    pub value: TomlValue,
    /// How its effect differs from mosquitto's, in words.
    pub comment: Option<String>,
    /// Its source.
    pub origin: SettingOrigin,
    /// Whether leaving it out would change who may connect or which messages flow.
    pub is_vital: bool,
}

/// A note for the operator that is not a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The source that the note is about.
    pub origin: SettingOrigin,
    /// A sentence.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.text)
    }
}

/// A `mosquitto.conf` in terms of midge's options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The settings, grouped by table.
    pub settings: Vec<Mapped>,
    /// The notes.
    pub notes: Vec<Note>,
}

impl Mapping {
    /// Maps a whole file.
    pub(super) fn of(conf: &MosquittoConf) -> Mapping {
        let mut writer = Writer {
            conf,
            mapping: Mapping { settings: Vec::new(), notes: Vec::new() },
            table: TomlTable::Section(""),
            listeners: 0,
        };
        writer.write_remarks();
        writer.write_listeners();
        writer.write_access();
        writer.write_protocol();
        writer.write_limits();
        writer.write_queues();
        writer.write_persistence();
        writer.write_sys_and_log();
        writer.mapping
    }

    /// The vital settings that midge has no option for.
    pub(super) fn missing(&self, conf: &MosquittoConf) -> Vec<Diagnostic> {
        let missing = self.settings.iter().filter(|setting| setting.is_vital && !setting.is_known());
        let mut errors: Vec<Diagnostic> = missing
            .map(|setting| setting.origin.error(conf, setting.key, "midge has no equivalent".to_owned()))
            .collect();
        errors.sort_by(|one, other| (&one.file, one.line).cmp(&(&other.file, other.line)));
        // A listener for both address families has two tables.
        errors.dedup();
        errors
    }
}

impl Mapped {
    /// Whether midge has this option.
    pub fn is_known(&self) -> bool {
        static DEFAULTS: LazyLock<(Listener, Config)> = LazyLock::new(Default::default);

        let has = |section: &dyn Section| section.rows().iter().any(|row| row.key == self.key);
        let (listener, config) = &*DEFAULTS;
        match self.table {
            TomlTable::Listener(_) => has(listener),
            TomlTable::Section(name) => {
                config.sections().into_iter().any(|section| section.name() == name && has(section))
            }
        }
    }
}

impl SettingOrigin {
    /// An error about a setting with this source.
    pub(super) fn error(&self, conf: &MosquittoConf, key: &str, message: String) -> Diagnostic {
        match self {
            SettingOrigin::Line(at) => {
                Diagnostic { file: at.file.to_string(), line: Some(at.line), key: at.value.clone(), message }
            }
            _ => Diagnostic { file: conf.file.to_string(), line: None, key: key.to_owned(), message },
        }
    }
}

pub(super) fn line<T>(at: &Spanned<T>, key: &str) -> SettingOrigin {
    SettingOrigin::Line(Spanned { file: at.file.clone(), line: at.line, value: key.to_owned() })
}

/// A setting and its key in the `mosquitto.conf`.
macro_rules! from {
    ($settings:expr, $key:ident) => {
        $settings
            .$key
            .as_ref()
            .map(|at| (at.value.clone(), $crate::config::mosquitto::mapping::line(at, stringify!($key))))
    };
}
pub(super) use from;

/// Writes a mapping, table by table. The module `listeners` writes the tables of the listeners.
pub(super) struct Writer<'a> {
    pub(super) conf: &'a MosquittoConf,
    mapping: Mapping,
    /// The current table.
    pub(super) table: TomlTable,
    /// The number of listener tables so far.
    pub(super) listeners: usize,
}

impl Writer<'_> {
    /// Adds a setting to the current table. The caller may add a comment or make the setting vital.
    pub(super) fn put(&mut self, key: &'static str, value: TomlValue, origin: SettingOrigin) -> &mut Mapped {
        let table = self.table;
        let settings = &mut self.mapping.settings;
        settings.push(Mapped { table, key, value, comment: None, origin, is_vital: false });
        settings.last_mut().expect("one was pushed")
    }

    pub(super) fn note(&mut self, origin: SettingOrigin, text: impl Into<String>) {
        self.mapping.notes.push(Note { origin, text: text.into() });
    }

    fn write_remarks(&mut self) {
        for remark in &self.conf.remarks {
            let at = Spanned { file: remark.file.clone(), line: remark.line, value: remark.key.clone() };
            self.note(SettingOrigin::Line(at), remark.why.clone());
        }
        if self.conf.port_override.is_some() && !self.conf.local_only {
            self.note(
                SettingOrigin::CommandLine,
                "the port of the command line counts only without listener and port lines",
            );
        }
    }

    pub(super) fn write_client_ids(&mut self, security: &Security) {
        if let Some((false, origin)) = from!(security, allow_zero_length_clientid) {
            self.put("zero_length_client_id", TomlValue::Boolean(false), origin).is_vital = true;
        }
        if let Some((prefix, origin)) = from!(security, auto_id_prefix) {
            self.put("assigned_client_id_prefix", TomlValue::Text(prefix), origin);
        }
    }

    pub(super) fn is_per_listener(&self) -> bool {
        self.conf.per_listener_settings.as_ref().is_some_and(|setting| setting.value)
    }

    fn write_access(&mut self) {
        let conf = self.conf;
        let security = &conf.security;
        self.table = TomlTable::Section("auth");
        let default = (conf.local_only, SettingOrigin::Default);
        if let (true, None, Some((file, origin))) =
            (conf.local_only, &security.allow_anonymous, from!(security, password_file))
        {
            let text = format!(
                "without a listener line mosquitto lets in clients without a user name too, whatever {file} says; \
                 allow_anonymous false keeps them out"
            );
            self.note(origin, text);
        }
        let (allowed, origin) = from!(security, allow_anonymous).unwrap_or(default);
        self.put("allow_anonymous", TomlValue::Boolean(allowed), origin).is_vital = true;
        if let Some((file, origin)) = from!(security, password_file) {
            self.put("password_file", TomlValue::Text(file), origin).is_vital = true;
        }
        let per_listener = self.conf.listeners.iter().map(|listener| &listener.security);
        let mut all = per_listener.chain([&self.conf.security]);
        if let Some((_, origin)) = all.find_map(|security| from!(security, password_file)) {
            self.put("skip_bad_password_lines", TomlValue::Boolean(true), origin);
        }
        if let Some((prefix, origin)) = from!(self.conf.global, clientid_prefixes) {
            self.put("client_id_prefix", TomlValue::Text(prefix), origin).is_vital = true;
        }
        self.table = TomlTable::Section("acl");
        if let Some((file, origin)) = from!(security, acl_file) {
            self.put("file", TomlValue::Text(file), origin).is_vital = true;
        }
    }

    fn write_protocol(&mut self) {
        let global = &self.conf.global;
        self.table = TomlTable::Section("protocol");
        if let Some((Some(seconds), origin)) = from!(global, max_keepalive) {
            let longest = TomlValue::Integer(seconds.into());
            self.put("keep_alive_seconds_max", longest, origin.clone()).is_vital = true;
            // Only 5.0 has a way to tell the client. mosquitto refuses a 3.x client that asks for more.
            let refused = TomlValue::Boolean(true);
            self.put("keep_alive_refused_in_3x", refused, origin);
        }
        if let Some((seconds, origin)) = from!(global, persistent_client_expiration) {
            let seconds = seconds.min(u32::MAX.into());
            let setting = self.put("session_expiry_seconds_max", TomlValue::Integer(seconds), origin);
            setting.is_vital = true;
            setting.comment = Some("midge tells a 5.0 client of it; mosquitto does not.".to_owned());
        }
        let (window, origin) = self.window();
        let setting = self.put("receive_maximum", TomlValue::Integer(window), origin);
        setting.comment = Some("max_inflight_messages holds in both directions; see limits.".to_owned());
        if let Some((available, origin)) = from!(global, retain_available) {
            self.put("retain_available", TomlValue::Boolean(available), origin).is_vital = !available;
        }
        if let Some((true, origin)) = from!(global, upgrade_outgoing_qos) {
            self.put("upgrade_outgoing_qos", TomlValue::Boolean(true), origin).is_vital = true;
        }
        let (checked, origin) = from!(global, check_retain_source).unwrap_or((true, SettingOrigin::Default));
        let is_asked_for = checked && origin != SettingOrigin::Default;
        let setting = self.put("check_retain_source", TomlValue::Boolean(checked), origin);
        setting.is_vital = is_asked_for;
        if let Some((true, origin)) = from!(global, queue_qos0_messages) {
            self.put("queue_qos0", TomlValue::Boolean(true), origin).is_vital = true;
        }
        self.put("reason_strings", TomlValue::Boolean(false), SettingOrigin::Default);
        let conf = self.conf;
        self.write_client_ids(&conf.security);
        if conf.security.auto_id_prefix.is_none() {
            self.put(
                "assigned_client_id_prefix",
                TomlValue::Text("auto-".to_owned()),
                SettingOrigin::Default,
            );
        }
    }

    /// The bound on unacknowledged messages. For mosquitto's "no limit" it is the number of packet
    /// identifiers.
    fn window(&self) -> (u64, SettingOrigin) {
        let (limit, origin) =
            from!(self.conf.global, max_inflight_messages).unwrap_or((Some(20), SettingOrigin::Default));
        (limit.map_or(65_535, u64::from), origin)
    }

    fn write_limits(&mut self) {
        let global = &self.conf.global;
        self.table = TomlTable::Section("limits");
        if let Some((Some(limit), origin)) = from!(global, global_max_connections) {
            self.put("connections", TomlValue::Integer(limit.into()), origin).is_vital = true;
        }
        if let Some((Some(limit), origin)) = from!(global, global_max_clients) {
            self.put("sessions", TomlValue::Integer(limit.into()), origin).is_vital = true;
        }
        if let Some((bytes, origin)) = from!(global, max_packet_size) {
            // No fixed header can announce a larger packet.
            let bytes = u64::from(bytes).min(268_435_460);
            self.put("packet_bytes", TomlValue::Integer(bytes), origin).is_vital = true;
        } else {
            self.note_packet_bound();
        }
        // mosquitto waits for CONNECT for one and a half times its keep alive of 60 seconds.
        self.put("connect_seconds", TomlValue::Integer(90), SettingOrigin::Default);
        // mosquitto accepts 100,000 bytes after the fixed header before a client has logged in.
        self.put("connect_bytes_unnamed", TomlValue::Integer(100_004), SettingOrigin::Default);
        if let Some((Some(bytes), origin)) = from!(global, message_size_limit) {
            self.put("payload_bytes", TomlValue::Integer(bytes.into()), origin).is_vital = true;
        }
        if let Some((bytes @ 1.., origin)) = from!(global, memory_limit) {
            self.put("memory_bytes", TomlValue::Integer(bytes.clamp(1, 1 << 50)), origin.clone());
            let text = "memory_limit bounds all memory: at most half of it is for messages that are kept for \
                        sessions, and half for the retained ones.";
            let half = bytes / 2;
            let waiting = TomlValue::Integer(half.clamp(1 << 20, 1 << 50));
            self.put("queue_bytes_total", waiting, origin.clone()).comment = Some(text.to_owned());
            self.put("retained_bytes", TomlValue::Integer(half.clamp(1024, 1 << 50)), origin);
        }
    }

    /// mosquitto 2.0 accepts packets of any size unless the file sets a bound. 2.1 has the same bound as
    /// midge.
    fn note_packet_bound(&mut self) {
        let bytes = Limits::default().packet_bytes;
        // A packet has a topic and properties besides its payload.
        let is_bounded = |limit: MaybeLimit| limit.is_some_and(|payload| payload as usize <= bytes / 2);
        if !self.conf.global.message_size_limit.as_ref().is_some_and(|limit| is_bounded(limit.value)) {
            let text = format!(
                "mosquitto 2.0 takes packets of any size without max_packet_size; midge disconnects a client that \
                 sends one above {bytes} bytes, as mosquitto 2.1 does. max_packet_size (limits.packet_bytes) sets \
                 another bound"
            );
            self.note(SettingOrigin::Default, text);
        }
    }

    fn write_queues(&mut self) {
        let global = &self.conf.global;
        let (window, origin) = self.window();
        self.put("inflight_messages", TomlValue::Integer(window), origin);
        if let Some((Some(bytes), origin)) = from!(global, max_inflight_bytes) {
            let bytes = bytes.min(i32::MAX.cast_unsigned());
            self.put("inflight_bytes", TomlValue::Integer(bytes.into()), origin);
        }
        let (limit, origin) =
            from!(global, max_queued_messages).unwrap_or((Some(1000), SettingOrigin::Default));
        let messages = limit.map_or(100_000_000, u64::from).min(100_000_000);
        self.put("session_queue_messages", TomlValue::Integer(messages), origin);
        let (limit, origin) = from!(global, max_queued_bytes).unwrap_or((None, SettingOrigin::Default));
        let bytes = limit.map_or(1 << 40, u64::from);
        let setting = self.put("session_queue_bytes", TomlValue::Integer(bytes.max(1024)), origin);
        if bytes < 1024 {
            setting.comment = Some(format!("mosquitto's bound is {bytes}; midge's least is 1024."));
        }
        let policy = TomlValue::Text("drop_newest".to_owned());
        let setting = self.put("session_queue_policy", policy, SettingOrigin::Default);
        setting.is_vital = true;
        let text =
            "mosquitto drops the new message when a queue is full; midge's own default is \"drop_oldest\".";
        setting.comment = Some(text.to_owned());
    }

    fn write_persistence(&mut self) {
        let global = &self.conf.global;
        self.table = TomlTable::Section("persistence");
        let (is_on, origin) = from!(global, persistence).unwrap_or((false, SettingOrigin::Default));
        if !is_on {
            for at in [&global.persistence_location, &global.persistence_file].into_iter().flatten() {
                self.note(line(at, "persistence_location"), "without effect as long as persistence is off");
            }
            let setting = self.put("directory", TomlValue::Text(String::new()), origin);
            setting.is_vital = true;
            return;
        }
        let file = global.persistence_file.as_ref().map_or("mosquitto.db", |file| file.value.as_str());
        let location = global.persistence_location.as_ref().map_or("", |at| at.value.as_str());
        let slash = if location.is_empty() || location.ends_with('/') { "" } else { "/" };
        let directory = format!("{location}{slash}{file}.midge");
        let setting = self.put("directory", TomlValue::Text(directory), origin);
        setting.is_vital = true;
        let text = "A directory of its own beside mosquitto's file, which the broker neither reads nor writes; \
                    \"midge import-mosquitto --database\" takes over what is in that.";
        setting.comment = Some(text.to_owned());
    }

    fn write_sys_and_log(&mut self) {
        self.table = TomlTable::Section("sys");
        if let Some((seconds, origin)) = from!(self.conf.global, sys_interval) {
            self.put("interval_seconds", TomlValue::Integer(seconds.into()), origin);
        }
        self.table = TomlTable::Section("log");
        self.write_log_level();
        self.write_log_target();
    }

    fn write_log_level(&mut self) {
        let mut level = None;
        for kind in &self.conf.log_types {
            let (of_kind, resets) = match kind.value.as_str() {
                "none" => (LogLevel::Error, true),
                "error" => (LogLevel::Error, false),
                "warning" => (LogLevel::Warn, false),
                "notice" | "information" => (LogLevel::Info, false),
                _ => (LogLevel::Debug, false),
            };
            let kept = if resets {
                LogLevel::Error
            } else {
                level.as_ref().map_or(LogLevel::Error, |(kept, _)| *kept)
            };
            level = Some((kept.max(of_kind), line(kind, "log_type")));
        }
        if let Some((false, origin)) = from!(self.conf.global, connection_messages) {
            let quiet = level.as_ref().map_or(LogLevel::Info, |(level, _)| *level);
            level = Some((quiet.min(LogLevel::Warn), origin));
        }
        if let Some((level, origin)) = level {
            let setting = self.put("level", TomlValue::Text(level.word().to_owned()), origin);
            setting.comment =
                Some("A level and everything above it; midge has no log without errors.".to_owned());
        }
    }

    fn write_log_target(&mut self) {
        let mut target = None;
        let conf = self.conf;
        for destination in &conf.log_destinations {
            let origin = line(destination, "log_dest");
            let instead = match &destination.value {
                LogDestination::Stderr => {
                    target = Some(("stderr", origin));
                    continue;
                }
                LogDestination::Stdout => {
                    target = target.or(Some(("stdout", origin)));
                    continue;
                }
                LogDestination::None => "log_dest none".to_owned(),
                LogDestination::File(path) => format!("the file {path}"),
                LogDestination::Other(word) => format!("log_dest {word}"),
            };
            let text = format!(
                "midge logs to standard error or output, and not to {instead}; the program that starts it can forward that"
            );
            self.note(origin, text);
        }
        if let Some((target, origin)) = target {
            self.put("target", TomlValue::Text(target.to_owned()), origin);
        }
    }
}
