//! Reads the text of a configuration file into a [`Config`], or reports everything that is wrong with it.
//!
//! The input is the text of a file, or of several, one after another (`Draft`). The output is a checked configuration,
//! or up to [`ERRORS_MAX`] errors.
//! Each error gives the file, the line, the key, what is allowed and the nearest known key. A file that is
//! not TOML gives one error, for the first place that can't be read.

use std::collections::HashMap;

use toml_edit::{Document, Item, Key, TableLike, TomlError, Value};

use super::origins::{Origin, Origins};
use crate::base::{Diagnostic, Diagnostics, ERRORS_MAX};
use crate::settings::options::{LISTENERS_MAX, Listener};
use crate::settings::value::{Literal, OptionRow, Refused, Section, quoted};
use crate::settings::{Admin, AdminAddress, Config};

/// The largest configuration file, in bytes. A larger file is refused.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Checks the text of a file. `file` is its name in errors. Options that the text leaves out have their
/// defaults. Such a text includes no other files.
pub fn parse(file: &str, text: &str) -> Result<Config, Diagnostics> {
    let mut draft = Draft::new(Vec::new());
    if let Some(include) = draft.read(file, text, IncludedBy::Nothing) {
        let message = "other files are included by a file only, not by a text".to_owned();
        draft.refuse(include.error(INCLUDE, message));
    }
    draft.finish().map(|(config, _)| config)
}

/// The key for the names of other files to read.
pub(super) const INCLUDE: &str = "include";

/// The largest number of names and patterns in `include`.
const INCLUDES_MAX: usize = 64;

/// Whether a text stands for itself, or a file with `include` has named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IncludedBy {
    /// It may name other files.
    Nothing,
    /// It may not.
    File,
}

/// The files that a text names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Include {
    file: String,
    line: usize,
    /// Names of files, or patterns of them.
    pub(super) names: Vec<String>,
}

impl Include {
    /// An error about it.
    pub(super) fn error(&self, key: &str, message: String) -> Diagnostic {
        Diagnostic { file: self.file.clone(), line: Some(self.line), key: key.to_owned(), message }
    }
}

/// A configuration while its sources are read one after another: a later one overrides what an earlier one has set.
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) origins: Origins,
    errors: Vec<Diagnostic>,
    more: usize,
}

impl Draft {
    /// All options at their defaults, and these listeners.
    pub(super) fn new(listeners: Vec<Listener>) -> Draft {
        let config = Config { listeners, ..Config::default() };
        Draft { config, origins: Origins::default(), errors: Vec::new(), more: 0 }
    }

    /// The errors so far that are reported one by one.
    pub(super) fn errors(&mut self) -> &mut Vec<Diagnostic> {
        &mut self.errors
    }

    /// Notes an error.
    pub(super) fn refuse(&mut self, error: Diagnostic) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(error);
        } else {
            self.more += 1;
        }
    }

    /// Reads the text of a file. Returns the files that it includes.
    pub(super) fn read(&mut self, file: &str, text: &str, included_by: IncludedBy) -> Option<Include> {
        let document = match Document::parse(text) {
            Ok(document) => document,
            Err(error) => {
                self.refuse(syntax_error(file, text, &error));
                return None;
            }
        };
        let mut reader = Reader { file, text, draft: self, included_by, include: None, errors: Vec::new() };
        reader.read_root(document.as_table());
        reader.finish()
    }

    /// Checks what takes more than one option.
    pub(super) fn finish(mut self) -> Result<(Config, Origins), Diagnostics> {
        if self.errors.is_empty() {
            if self.config.listeners.is_empty() {
                self.config.listeners.push(Listener::default());
            }
            self.check_listeners();
            self.check_admin();
        }
        if self.errors.is_empty() {
            return Ok((self.config, self.origins));
        }
        Err(Diagnostics { errors: self.errors, more: self.more })
    }

    fn check_listeners(&mut self) {
        let mut problems = Vec::new();
        let count = self.config.listeners.len();
        if count > LISTENERS_MAX {
            let message = format!("got {count} listeners in all files; allowed are {LISTENERS_MAX}");
            problems.push((format!("{LISTENERS}[{}]", LISTENERS_MAX + 1), LISTENERS.to_owned(), message));
        }
        let mut places: HashMap<String, usize> = HashMap::new();
        for (place, listener) in self.config.listeners.iter().enumerate() {
            let prefix = format!("{LISTENERS}[{}]", place + 1);
            let Listener { address, interface, mount_point, .. } = listener;
            let mut refuse = |key: &str, message: String| {
                problems.push((format!("{prefix}.{key}"), format!("{prefix}.{key}"), message));
            };
            // Every shard listens with SO_REUSEPORT, so the kernel would not report it.
            let named = format!("{address} {interface}");
            if address.port() != 0
                && let Some(first) = places.insert(named, place)
            {
                let other = match self.origin_of(&format!("{LISTENERS}[{}].address", first + 1)) {
                    Some(Origin::Line { line, .. }) if self.file_of(first) == self.file_of(place) => {
                        format!("line {line}")
                    }
                    Some(origin) => origin.to_string(),
                    None => format!("{LISTENERS}[{}]", first + 1),
                };
                refuse("address", format!("\"{address}\" is also the address of the listener of {other}"));
            }
            if address.unix().is_some() && !interface.is_empty() {
                refuse("interface", "a path has no network interface".to_owned());
            }
            if mount_point.contains(['+', '#']) {
                refuse("mount_point", "no + and no # is allowed".to_owned());
            }
        }
        let mut errors: Vec<Diagnostic> =
            problems.into_iter().map(|(of, key, message)| self.error_at(&of, &key, message)).collect();
        // Listeners are in the order of the files, and the options of one stand in any order.
        errors.sort_by_key(|error| error.line);
        errors.into_iter().for_each(|error| self.refuse(error));
    }

    /// Refuses an admin interface that everyone who reaches its port could use.
    fn check_admin(&mut self) {
        let AdminAddress::At(address) = &self.config.admin.address else { return };
        let Admin { token_file, tls_certificate, tls_key, tls_client_ca, tls_crl, .. } = &self.config.admin;
        let is_set = |file: &String| !file.is_empty();
        let problem = if address.unix().is_none() && !is_set(token_file) && !is_set(tls_client_ca) {
            Some((
                "address",
                format!(
                    "\"{address}\" has a port, so it needs tokens or client certificates: set admin.token_file or \
                     admin.tls_client_ca"
                ),
            ))
        } else if is_set(tls_certificate) != is_set(tls_key) {
            Some(("tls_certificate", "tls_certificate and tls_key must be set together".to_owned()))
        } else if is_set(tls_client_ca) && !is_set(tls_certificate) {
            Some(("tls_client_ca", "without tls_certificate there is no TLS".to_owned()))
        } else if is_set(tls_crl) && !is_set(tls_client_ca) {
            Some(("tls_crl", "without tls_client_ca there are no client certificates".to_owned()))
        } else {
            None
        };
        if let Some((key, message)) = problem {
            let key = format!("{ADMIN}.{key}");
            let error = self.error_at(&key, &key, message);
            self.refuse(error);
        }
    }

    /// The file that has a listener, by its place.
    fn file_of(&self, place: usize) -> Option<&str> {
        match self.origin_of(&format!("{LISTENERS}[{}].address", place + 1)) {
            Some(Origin::Line { file, .. }) => Some(file),
            _ => None,
        }
    }

    /// The origin of a value, or of the listener that it belongs to.
    fn origin_of(&self, key: &str) -> Option<&Origin> {
        let listener = key.split_once('.').map_or(key, |(listener, _)| listener);
        self.origins.of(key).or_else(|| self.origins.of(listener))
    }

    /// An error about a value that has been taken.
    fn error_at(&self, of: &str, key: &str, message: String) -> Diagnostic {
        let (file, line) = match self.origin_of(of) {
            Some(Origin::Line { file, line }) => (file.clone(), Some(*line)),
            Some(Origin::Variable(name)) => (format!("environment variable {name}"), None),
            None => ("the defaults".to_owned(), None),
        };
        Diagnostic { file, line, key: key.to_owned(), message }
    }
}

fn syntax_error(file: &str, text: &str, error: &TomlError) -> Diagnostic {
    let line = error.span().map_or(1, |span| line_of(text, span.start));
    let mut message = format!("not TOML: {}", error.message().replace('\n', " "));
    let key = match option_on_line(text, line) {
        // For a duplicate key, the value is not the problem.
        Some((key, _)) if message.contains("duplicate") => key,
        Some((key, row)) => {
            message.push_str(&format!("; allowed is {}", row.allowed_in_words()));
            key
        }
        None => String::new(),
    };
    Diagnostic { file: file.to_string(), line: Some(line), key, message }
}

pub(super) fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    // For a file that ends too early, TOML's parser points to the end. The error names the last line with
    // text instead.
    let before = if offset >= text.len() { text.trim_end().as_bytes() } else { before };
    1 + newlines(before)
}

/// The option that a line with a syntax error seems to set, such as `shards = 2MB` under `[runtime]`.
fn option_on_line(text: &str, line: usize) -> Option<(String, OptionRow)> {
    let mut lines = text.lines().take(line).collect::<Vec<_>>().into_iter().rev();
    let (key, _) = lines.next()?.split_once('=')?;
    let header = lines.map(str::trim).find(|line| line.starts_with('['))?;
    let name = header.trim_matches(['[', ']', ' ']);
    let (config, listener) = (Config::default(), Listener::default());
    let mut sections = config.sections().to_vec();
    sections.push(&listener);
    let section = sections.into_iter().find(|section| section.name() == name)?;
    let row = section.rows().iter().find(|row| row.key == key.trim())?;
    Some((format!("{name}.{}", row.key), *row))
}

/// A place in the text, in bytes from its start.
type Offset = usize;

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    draft: &'a mut Draft,
    included_by: IncludedBy,
    include: Option<Include>,
    errors: Vec<(Offset, String, String)>,
}

impl Reader<'_> {
    /// Hands the errors over, in the order of their lines. Returns the files that the text includes.
    fn finish(mut self) -> Option<Include> {
        self.errors.sort_by_key(|(offset, ..)| *offset);
        for (offset, key, message) in std::mem::take(&mut self.errors) {
            let line = Some(line_of(self.text, offset));
            self.draft.refuse(Diagnostic { file: self.file.to_string(), line, key, message });
        }
        self.include
    }

    fn refuse(&mut self, offset: Offset, key: String, message: String) {
        self.errors.push((offset, key, message));
    }

    fn origin(&self, offset: Offset) -> Origin {
        Origin::Line { file: self.file.to_string(), line: line_of(self.text, offset) }
    }

    fn read_root(&mut self, root: &dyn TableLike) {
        for (name, item) in root.iter() {
            let offset = offset_of(root, name, item);
            if name == LISTENERS {
                self.read_listeners(item, offset);
            } else if name == INCLUDE {
                self.read_include(item, offset);
            } else if self.draft.config.sections().iter().any(|section| section.name() == name) {
                self.read_section(name, item, offset);
            } else {
                let is_table = item.is_table_like() || item.is_array_of_tables();
                let message = unknown_at_root(name, is_table, &self.draft.config);
                self.refuse(offset, shown_key(name), message);
            }
        }
    }

    fn read_section(&mut self, name: &str, item: &Item, offset: Offset) {
        let Some(table) = item.as_table_like() else {
            let message = if item.is_array_of_tables() {
                format!("there is one such section: write [{name}]")
            } else {
                format!("got {}; this is a section: write [{name}]", literal_of(item).shown_with_type())
            };
            return self.refuse(offset, name.to_string(), message);
        };
        let mut config = std::mem::take(&mut self.draft.config);
        if let Some(section) = config.sections_mut().into_iter().find(|section| section.name() == name) {
            self.read_table(section, name, name, table);
        }
        self.draft.config = config;
    }

    fn read_include(&mut self, item: &Item, offset: Offset) {
        let key = INCLUDE.to_owned();
        let allowed = format!(
            "an array of at most {INCLUDES_MAX} names of files or patterns, such as \"conf.d/*.toml\""
        );
        match literal_of(item) {
            Literal::Texts(names) if names.len() <= INCLUDES_MAX => {
                if self.included_by == IncludedBy::File && !names.is_empty() {
                    let message =
                        "an included file can't include others: name them in the main file".to_owned();
                    return self.refuse(offset, key, message);
                }
                let include =
                    Include { file: self.file.to_string(), line: line_of(self.text, offset), names };
                self.include = Some(include).filter(|include| !include.names.is_empty());
            }
            Literal::Texts(names) => {
                self.refuse(offset, key, format!("got {} names; allowed is {allowed}", names.len()));
            }
            other => {
                self.refuse(offset, key, format!("got {}; allowed is {allowed}", other.shown_with_type()))
            }
        }
    }

    fn read_listeners(&mut self, item: &Item, offset: Offset) {
        let tables: Option<Vec<&dyn TableLike>> = match item {
            Item::ArrayOfTables(tables) => Some(tables.iter().map(|table| table as &dyn TableLike).collect()),
            Item::Value(Value::Array(values)) => values
                .iter()
                .map(|value| value.as_inline_table().map(|table| table as &dyn TableLike))
                .collect(),
            _ => None,
        };
        let Some(tables) = tables else {
            let message = match item.is_table_like() {
                true => "got one table; write [[listeners]], one for each address".to_string(),
                false => {
                    let got = literal_of(item).shown_with_type();
                    format!("got {got}; write a table [[listeners]] for each address")
                }
            };
            return self.refuse(offset, LISTENERS.to_string(), message);
        };
        if tables.len() > LISTENERS_MAX {
            let message = format!("got {} listeners; allowed are {LISTENERS_MAX}", tables.len());
            return self.refuse(offset, LISTENERS.to_string(), message);
        }
        for (number, table) in tables.iter().enumerate() {
            let mut listener = Listener::default();
            // An error counts the listeners of its file.
            let shown = format!("{LISTENERS}[{}]", number + 1);
            let of = format!("{LISTENERS}[{}]", self.draft.config.listeners.len() + 1);
            let origin = self.origin(offset);
            self.draft.origins.set(of.clone(), origin);
            self.read_table(&mut listener, &shown, &of, *table);
            self.draft.config.listeners.push(listener);
        }
    }

    /// Sets the values of a table. Each wrong key and each wrong value is an error of its own. `of` is the key of the
    /// table among the origins.
    fn read_table(&mut self, section: &mut dyn Section, prefix: &str, of: &str, table: &dyn TableLike) {
        for (key, item) in table.iter() {
            let offset = offset_of(table, key, item);
            match set_option(section, key, &literal_of(item)) {
                Ok(()) => {
                    let origin = self.origin(offset);
                    self.draft.origins.set(format!("{of}.{key}"), origin);
                }
                Err(message) => self.refuse(offset, format!("{prefix}.{}", shown_key(key)), message),
            }
        }
    }
}

/// Sets an option of a section.
///
/// Fails with a sentence for the operator.
pub(super) fn set_option(section: &mut dyn Section, key: &str, literal: &Literal) -> Result<(), String> {
    let Some(row) = section.rows().iter().find(|row| row.key == key) else {
        return Err(unknown_key(key, section));
    };
    section.set(row, literal).map_err(|refused| refused_value(row, literal, &refused))
}

pub(super) const LISTENERS: &str = "listeners";
const ADMIN: &str = "admin";

/// The place of a key in a table, or of its value if the place of the key is unknown.
fn offset_of(table: &dyn TableLike, key: &str, item: &Item) -> Offset {
    let of_key = table.get_key_value(key).and_then(|(key, _)| Key::span(key));
    of_key.or_else(|| item.span()).map_or(0, |span| span.start)
}

pub(super) fn literal_of(item: &Item) -> Literal {
    match item {
        Item::Value(Value::Integer(number)) => Literal::Integer(*number.value()),
        Item::Value(Value::Boolean(truth)) => Literal::Boolean(*truth.value()),
        Item::Value(Value::String(text)) => Literal::Text(text.value().clone()),
        Item::Value(Value::Float(number)) => Literal::Other(format!("the float {}", number.value())),
        Item::Value(Value::Datetime(_)) => Literal::Other("a date or time".to_string()),
        Item::Value(Value::Array(values)) => {
            let texts: Option<Vec<_>> =
                values.iter().map(|value| value.as_str().map(str::to_string)).collect();
            texts.map_or_else(|| Literal::Other("an array".to_string()), Literal::Texts)
        }
        Item::ArrayOfTables(_) => Literal::Other("an array of tables".to_string()),
        Item::Value(Value::InlineTable(_)) | Item::Table(_) => Literal::Other("a table".to_string()),
        Item::None => Literal::Other("nothing".to_string()),
    }
}

fn refused_value(row: &OptionRow, literal: &Literal, refused: &Refused) -> String {
    let allowed = row.allowed_in_words();
    if !row.allowed.fits_type(literal) {
        return format!("got {}; allowed is {allowed}", literal.shown_with_type());
    }
    let got = literal.shown();
    match refused {
        Refused::NotAllowed => format!("got {got}; allowed is {allowed}"),
        Refused::Because(reason) => format!("got {got}: {reason}; allowed is {allowed}"),
        Refused::Element(element) => format!("got {} among others; allowed is {allowed}", quoted(element)),
    }
}

/// A key as an error shows it: bare if TOML allows it, otherwise quoted and shortened.
pub(super) fn shown_key(key: &str) -> String {
    let is_bare = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if is_bare && (1..=KEY_CHARS_MAX).contains(&key.len()) { key.to_string() } else { quoted(key) }
}

/// The longest key, in bytes, that is compared with the known keys. The comparison takes quadratic time.
const KEY_CHARS_MAX: usize = 60;

fn unknown_key(key: &str, section: &dyn Section) -> String {
    let known: Vec<&str> = section.rows().iter().map(|row| row.key).collect();
    let header = header_of(section.name());
    let hint = match (nearest(key, &known), home_of(key, &Config::default())) {
        _ if key == INCLUDE => "; it belongs before the first section.".to_string(),
        (_, Some(home)) => format!("; it belongs in {home}."),
        (Some(near), None) => format!("; did you mean \"{near}\"?"),
        (None, None) => ".".to_string(),
    };
    format!("unknown key{hint} Keys of {header}: {}", known.join(", "))
}

fn unknown_at_root(name: &str, is_table: bool, config: &Config) -> String {
    let names: Vec<&str> =
        std::iter::once(LISTENERS).chain(config.sections().iter().map(|section| section.name())).collect();
    let headers: Vec<String> = names.iter().map(|name| header_of(name)).collect();
    let kind = if is_table { "unknown section" } else { "unknown key" };
    let hint = match (nearest(name, &names), home_of(name, config)) {
        _ if nearest(name, &[INCLUDE]).is_some() => format!("; did you mean {INCLUDE}?"),
        (_, Some(home)) if !is_table => format!("; it belongs in {home}."),
        (Some(near), _) => format!("; did you mean {}?", header_of(near)),
        (None, _) => ".".to_string(),
    };
    format!("{kind}{hint} Sections: {}", headers.join(", "))
}

fn header_of(section: &str) -> String {
    if section == LISTENERS { "[[listeners]]".to_string() } else { format!("[{section}]") }
}

/// The header of the section that has exactly this key.
fn home_of(key: &str, config: &Config) -> Option<String> {
    let listener = Listener::default();
    let mut sections = config.sections().to_vec();
    sections.push(&listener);
    let home = sections.into_iter().find(|section| section.rows().iter().any(|row| row.key == key))?;
    Some(header_of(home.name()))
}

/// The known word that is nearest to another, if it is near enough to be a likely misspelling.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if word.len() > KEY_CHARS_MAX {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    let distance = |known: &str| strsim::damerau_levenshtein(&word, known);
    let near = known.iter().copied().min_by_key(|known| distance(known))?;
    // One wrong character in three is near. A part of a key ("packet" for "packet_bytes") counts as well.
    let is_near = distance(near) <= (near.len() / 3).max(1);
    let part_of = || known.iter().copied().find(|known| word.len() >= 4 && known.contains(word.as_str()));
    if is_near { Some(near) } else { part_of() }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
