//! Reads the lines of a file and of the files that it includes, and stores each setting where it belongs.
//!
//! mosquitto stops at the first error; midge reads every line and reports all errors. A key belongs to the
//! listener that was opened last *in the same file*, as in mosquitto. Without one, it belongs to the default
//! listener if the key may open that.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::keys::{self, Form, KeyHandling, Stands};
use super::line::{Line, text};
use super::set::{
    host_of, listener_at, listener_place, port_of, refuse_second, second_time, set_global, set_listener,
    set_security,
};
use super::{
    Diagnostic, Global, ListenAddress, LogDestination, MosquittoConf, Problem, Remark, Security, Spanned,
    check,
};
use crate::config::parse::FILE_BYTES_MAX;
use crate::settings::options::LISTENERS_MAX;
use crate::settings::value::quoted;

/// The largest number of files that one file may include.
const INCLUDED_MAX: usize = 1000;

/// The port of the default listener if there is no `port` line.
const DEFAULT_PORT: u16 = 1883;

/// The sections that the lines of one file have opened so far.
#[derive(Debug, Default)]
struct Opened {
    listener: Option<usize>,
    /// The line that opened the bridge.
    bridge: Option<usize>,
    plugin: bool,
}

/// Reads files into a [`MosquittoConf`].
#[derive(Debug)]
pub(super) struct ConfReader {
    pub(super) conf: MosquittoConf,
    /// Whether lines without an equivalent in midge are left out instead of refused.
    pub(super) is_partial: bool,
    errors: Vec<Diagnostic>,
    /// The listeners that are left out, each with the line that is the reason.
    closed: BTreeMap<usize, usize>,
    default_listener: Option<usize>,
    /// Whether a key that decides who may connect was read. `per_listener_settings` must stand before all of
    /// these.
    security_seen: bool,
    included: bool,
}

impl ConfReader {
    pub(super) fn new(file: &str, port_override: Option<u16>) -> ConfReader {
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
            left_out: Vec::new(),
            has_ipv6: true,
        };
        ConfReader {
            conf,
            is_partial: false,
            errors: Vec::new(),
            closed: BTreeMap::new(),
            default_listener: None,
            security_seen: false,
            included: false,
        }
    }

    /// Returns everything that was read, or all errors.
    pub(super) fn finish(mut self) -> Result<MosquittoConf, Vec<Diagnostic>> {
        if self.errors.is_empty() {
            self.close_listeners();
            for (listener, error, problem) in check::check(&self.conf) {
                self.refuse(error, problem, Some(listener));
            }
            self.close_listeners();
        }
        if self.errors.is_empty() { Ok(self.conf) } else { Err(self.errors) }
    }

    /// Reads the main file.
    pub(super) fn read_file(&mut self, path: &Path) {
        let file = self.conf.file.clone();
        if let Some(bytes) = self.bytes_of(&file, path) {
            self.read_bytes(&bytes);
        }
    }

    /// Reads the text of the main file.
    pub(super) fn read_bytes(&mut self, bytes: &[u8]) {
        let file = self.conf.file.clone();
        self.read_lines(&file, bytes);
    }

    /// Removes the listeners that are left out.
    fn close_listeners(&mut self) {
        // It starts with the last one, so that the numbers of the others do not change.
        for (listener, line) in std::mem::take(&mut self.closed).into_iter().rev() {
            let listener = self.conf.listeners.remove(listener);
            let why = format!("left out as a whole: without line {line} it would be open to others");
            let (file, key) = (listener.place.file, listener.opened_by);
            self.conf.left_out.push(Remark { file, line: listener.place.line, key, why });
            if self.conf.listeners.is_empty() && !self.conf.local_only {
                let (file, message) = (self.conf.file.to_string(), "no listener is left".to_owned());
                self.errors.push(Diagnostic { file, line: None, key: String::new(), message });
            }
        }
    }

    /// Records an error. `listener` is the listener that the line belongs to.
    fn refuse(&mut self, mut error: Diagnostic, problem: Problem, listener: Option<usize>) {
        let (message, closes) = match problem {
            Problem::Wrong(message) => {
                error.message = message;
                return self.errors.push(error);
            }
            Problem::NotSupported(message) => (message, None),
            Problem::ClosesListener(message) => (message, listener),
        };
        if !self.is_partial {
            error.message = message;
            return self.errors.push(error);
        }
        let (file, line) = (Arc::from(error.file), error.line.unwrap_or(0));
        self.closed.extend(closes.map(|listener| (listener, line)));
        self.conf.left_out.push(Remark { file, line, key: error.key, why: message });
    }

    fn bytes_of(&mut self, file: &Arc<str>, path: &Path) -> Option<Vec<u8>> {
        let problem = match crate::files::read(path, FILE_BYTES_MAX) {
            Ok(bytes) if bytes.len() as u64 <= FILE_BYTES_MAX => return Some(bytes),
            Ok(_) => format!("larger than {FILE_BYTES_MAX} bytes: no configuration file"),
            Err(_) if path.is_dir() => "is a directory".to_owned(),
            Err(error) => format!("cannot be read: {error}"),
        };
        self.errors.push(Diagnostic {
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
                Err(message) => ("", Err(Problem::Wrong(message))),
            };
            if let Err(problem) = outcome {
                let (file, key) = (file.to_string(), shown_key(key));
                let error = Diagnostic { file, line: Some(number), key, message: String::new() };
                self.refuse(error, problem, opened.listener);
            }
        }
    }

    /// Handles one line. The error says what is wrong with it.
    fn take(&mut self, line: &Line<'_>, opened: &mut Opened) -> Result<(), Problem> {
        match keys::find(line.key).ok_or_else(|| keys::unknown(line.key))? {
            KeyHandling::Bridge => bridge(line, opened),
            KeyHandling::Plugin => plugin(line, opened),
            KeyHandling::NotSupported(why) => Err(Problem::NotSupported(format!("not supported: {why}"))),
            KeyHandling::ClosesListener(why) => {
                self.place(Stands::ListenerOrDefault, line, opened)?;
                Err(Problem::ClosesListener(format!("not supported: {why}")))
            }
            KeyHandling::Harmless(stands, form, why) => {
                self.place(stands, line, opened)?;
                self.check_harmless(line, form)?;
                self.remark(line, why);
                Ok(())
            }
            KeyHandling::Supported(stands) => {
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

    /// The listener that a key belongs to; `None` for a key of the whole broker. Fails if the key may not
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
                self.conf.listeners.push(listener_at(line, ListenAddress::Port(DEFAULT_PORT, None)));
                self.conf.listeners.len() - 1
            }
        };
        self.default_listener = Some(index);
        opened.listener = Some(index);
        index
    }

    fn set(&mut self, line: &Line<'_>, listener: Option<usize>, opened: &mut Opened) -> Result<(), Problem> {
        match line.key {
            "listener" => Ok(self.open_listener(line, opened)?),
            "port" | "bind_address" => Ok(self.set_default_place(line, opened)?),
            "include_dir" => Ok(self.include(line)?),
            "per_listener_settings" => Ok(self.set_per_listener(line)?),
            "log_dest" => Ok(self.set_log_destination(line)?),
            "log_type" => Ok(self.set_log_type(line)?),
            "tls_keyform" => self.check_key_form(line),
            "acl_file"
            | "allow_anonymous"
            | "allow_zero_length_clientid"
            | "auto_id_prefix"
            | "password_file" => {
                let security = match listener.and_then(|index| self.conf.listeners.get_mut(index)) {
                    Some(listener) => {
                        // Two keys have two names each. The last line counts, and a prefix may be set once
                        // only.
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
                Ok(set_security(security, line)?)
            }
            _ => match listener.and_then(|index| self.conf.listeners.get_mut(index)) {
                Some(listener) => set_listener(listener, line),
                None => Ok(set_global(&mut self.conf.global, line)?),
            },
        }
    }

    fn open_listener(&mut self, line: &Line<'_>, opened: &mut Opened) -> Result<(), String> {
        self.conf.local_only = false;
        if self.conf.listeners.len() >= LISTENERS_MAX {
            return Err(format!("more than {LISTENERS_MAX} listeners"));
        }
        // A listener with an error in its own line is opened too, so that the keys below it cause no errors.
        let place = listener_place(line);
        let opening = place.clone().unwrap_or(ListenAddress::Port(DEFAULT_PORT, None));
        self.conf.listeners.push(listener_at(line, opening));
        opened.listener = Some(self.conf.listeners.len() - 1);
        place.map(drop)
    }

    fn set_default_place(&mut self, line: &Line<'_>, opened: &mut Opened) -> Result<(), String> {
        self.conf.local_only = false;
        let index = self.open_default(line, opened);
        let Some(listener) = self.conf.listeners.get_mut(index) else { return Ok(()) };
        let ListenAddress::Port(port, host) = listener.place.value.clone() else { return Ok(()) };
        let place = if line.key == "port" {
            ListenAddress::Port(port_of(line, 1)?, host)
        } else if host.is_some() {
            return Err(second_time(&listener.place.file, listener.place.line));
        } else {
            ListenAddress::Port(port, Some(host_of(&line.text()?.value)?))
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
            // Once it is on, mosquitto ignores the value of further lines.
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

    fn check_key_form(&mut self, line: &Line<'_>) -> Result<(), Problem> {
        if line.text()?.value == "engine" {
            let why = "not supported: midge reads a key from keyfile, not from an OpenSSL engine";
            return Err(Problem::NotSupported(why.to_owned()));
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

fn needs_listener() -> String {
    "a listener line must stand above it in this file".to_owned()
}

fn bridge(line: &Line<'_>, opened: &mut Opened) -> Result<(), Problem> {
    if line.key == "connection" {
        opened.bridge = Some(line.number);
        let name = line.word()?;
        return Err(Problem::NotSupported(format!(
            "not supported: midge has no bridges; without {}, messages that are passed on today would not be",
            quoted(name)
        )));
    }
    match opened.bridge {
        Some(first) => {
            Err(Problem::NotSupported(format!("not supported: belongs to the bridge of line {first}")))
        }
        None => Err("belongs to a bridge: a connection line must stand above it in this file".to_owned())?,
    }
}

fn plugin(line: &Line<'_>, opened: &mut Opened) -> Result<(), Problem> {
    match line.key {
        "plugin" | "global_plugin" | "auth_plugin" | "plugin_load" | "plugin_use" => {
            opened.plugin = true;
            let path = text(line.rest())?;
            let instead = PLUGINS_OF_FILES.iter().find(|(name, _)| path.contains(name));
            Err(Problem::NotSupported(match instead {
                Some((_, key)) => {
                    format!("not supported: midge has no plugins; write \"{key} FILE\" instead")
                }
                None => {
                    "not supported: midge has no plugins; leaving it out could change who may come in and \
                         what they may do"
                        .to_owned()
                }
            }))
        }
        _ if opened.plugin => Err(Problem::NotSupported("not supported: belongs to a plugin".to_owned())),
        _ => Err("belongs to a plugin: plugin, global_plugin or plugin_load must stand above it".to_owned())?,
    }
}

/// Plugins of mosquitto that do the same as a key.
const PLUGINS_OF_FILES: [(&str, &str); 2] =
    [("mosquitto_password_file", "password_file"), ("mosquitto_acl_file", "acl_file")];

fn shown_key(key: &str) -> String {
    if key.bytes().all(|byte| byte.is_ascii_graphic()) && key.len() <= 60 {
        key.to_owned()
    } else {
        quoted(key)
    }
}

/// The files of a directory that mosquitto would read, in mosquitto's order: case is ignored, and among equal
/// names capital letters come first.
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
