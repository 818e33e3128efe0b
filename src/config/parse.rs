//! Reads a configuration file into a [`Config`], or reports everything that is wrong with it.
//!
//! The input is the text of a file. The output is a checked configuration, or up to [`ERRORS_MAX`] errors.
//! Each error gives the file, the line, the key, what is allowed and the nearest known key. A file that is
//! not TOML gives one error, for the first place that can't be read.

use std::collections::HashMap;
use std::path::Path;

use toml_edit::{Document, Item, Key, TableLike, Value};

use crate::base::{Diagnostic, Diagnostics, ERRORS_MAX};
use crate::files;
use crate::settings::options::{LISTENERS_MAX, Listener};
use crate::settings::value::{Literal, OptionRow, Refused, Section, quoted};
use crate::settings::{AdminAddress, Config};

/// The largest configuration file, in bytes. A larger file is refused.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads and checks a file.
///
/// Fails if the file can't be read, is larger than [`FILE_BYTES_MAX`] or is not a valid configuration.
pub fn load(path: &Path) -> Result<Config, Diagnostics> {
    let file = path.display().to_string();
    let whole = |message: String| whole_file(&file, None, message);
    let bytes =
        files::read(path, FILE_BYTES_MAX).map_err(|error| whole(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(whole(format!("larger than {FILE_BYTES_MAX} bytes: no configuration file")));
    }
    match str::from_utf8(&bytes) {
        Ok(text) => parse(&file, text).map_err(|mut errors| {
            if super::mosquitto::is_evident(&bytes)
                && let Some(first) = errors.errors.first_mut()
            {
                first.message += &format!(
                    "; this is a mosquitto.conf: \"midge --mosquitto-conf {file}\" serves as mosquitto would with it, \
                     and \"midge import-mosquitto {file}\" writes the midge.toml that does the same"
                );
            }
            errors
        }),
        Err(error) => {
            let line = 1 + newlines(&bytes[..error.valid_up_to()]);
            Err(whole_file(&file, Some(line), "not TOML: not UTF-8".to_string()))
        }
    }
}

/// Checks the text of a file. `file` is its name in errors. Options that the text leaves out have their
/// defaults.
pub fn parse(file: &str, text: &str) -> Result<Config, Diagnostics> {
    let document = Document::parse(text).map_err(|error| {
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
        let error = Diagnostic { file: file.to_string(), line: Some(line), key, message };
        Diagnostics { errors: vec![error], more: 0 }
    })?;
    let mut reader = Reader { file, text, config: Config::default(), errors: Vec::new(), more: 0 };
    reader.read_root(document.as_table());
    reader.finish()
}

fn whole_file(file: &str, line: Option<usize>, message: String) -> Diagnostics {
    let error = Diagnostic { file: file.to_string(), line, key: String::new(), message };
    Diagnostics { errors: vec![error], more: 0 }
}

fn newlines(bytes: &[u8]) -> usize {
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
    config: Config,
    errors: Vec<(Offset, String, String)>,
    more: usize,
}

impl Reader<'_> {
    fn finish(mut self) -> Result<Config, Diagnostics> {
        if self.errors.is_empty() {
            return Ok(self.config);
        }
        self.errors.sort_by_key(|(offset, ..)| *offset);
        let errors = self.errors.into_iter().map(|(offset, key, message)| {
            let line = Some(line_of(self.text, offset));
            Diagnostic { file: self.file.to_string(), line, key, message }
        });
        Err(Diagnostics { errors: errors.collect(), more: self.more })
    }

    fn refuse(&mut self, offset: Offset, key: String, message: String) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push((offset, key, message));
        } else {
            self.more += 1;
        }
    }

    fn read_root(&mut self, root: &dyn TableLike) {
        for (name, item) in root.iter() {
            let offset = offset_of(root, name, item);
            if name == LISTENERS {
                self.read_listeners(item, offset);
            } else if self.config.sections().iter().any(|section| section.name() == name) {
                self.read_section(name, item, offset);
            } else {
                let is_table = item.is_table_like() || item.is_array_of_tables();
                let message = unknown_at_root(name, is_table, &self.config);
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
        let mut config = std::mem::take(&mut self.config);
        if let Some(section) = config.sections_mut().into_iter().find(|section| section.name() == name) {
            self.read_table(section, name, table);
        }
        self.config = config;
        if name == ADMIN {
            self.refuse_open_admin(table);
        }
    }

    /// Refuses an admin interface that everyone who reaches its port could use.
    fn refuse_open_admin(&mut self, table: &dyn TableLike) {
        let Some(item) = table.get("address") else { return };
        let AdminAddress::At(address) = &self.config.admin.address else { return };
        if address.unix().is_none() && self.config.admin.token_file.is_empty() {
            let message = format!("\"{address}\" has a port, so it needs tokens: set admin.token_file");
            self.refuse(offset_of(table, "address", item), format!("{ADMIN}.address"), message);
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
        let mut listeners = Vec::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        for (number, table) in tables.iter().enumerate() {
            let mut listener = Listener::default();
            let prefix = format!("{LISTENERS}[{}]", number + 1);
            self.read_table(&mut listener, &prefix, *table);
            let place = table.get("address").map_or(offset, |item| offset_of(*table, "address", item));
            self.refuse_double(&listener, place, &prefix, &mut lines);
            if listener.address.unix().is_some() && !listener.interface.is_empty() {
                let place =
                    table.get("interface").map_or(offset, |item| offset_of(*table, "interface", item));
                self.refuse(
                    place,
                    format!("{prefix}.interface"),
                    "a path has no network interface".to_owned(),
                );
            }
            if listener.mount_point.contains(['+', '#']) {
                let place =
                    table.get("mount_point").map_or(offset, |item| offset_of(*table, "mount_point", item));
                self.refuse(place, format!("{prefix}.mount_point"), "no + and no # is allowed".to_owned());
            }
            listeners.push(listener);
        }
        if !listeners.is_empty() {
            self.config.listeners = listeners;
        }
    }

    /// Refuses an address that two listeners have. Every shard listens with SO_REUSEPORT, so the kernel would
    /// not report it.
    fn refuse_double(
        &mut self,
        listener: &Listener,
        place: Offset,
        prefix: &str,
        lines: &mut HashMap<String, usize>,
    ) {
        let Listener { address, interface, .. } = listener;
        if address.port() == 0 {
            return;
        }
        let line = line_of(self.text, place);
        if let Some(first) = lines.insert(format!("{address} {interface}"), line) {
            let message = format!("\"{address}\" is also the address of the listener of line {first}");
            self.refuse(place, format!("{prefix}.address"), message);
        }
    }

    /// Sets the values of a table. Each wrong key and each wrong value is an error of its own.
    fn read_table(&mut self, section: &mut dyn Section, prefix: &str, table: &dyn TableLike) {
        for (key, item) in table.iter() {
            let offset = offset_of(table, key, item);
            let full_key = format!("{prefix}.{}", shown_key(key));
            let Some(row) = section.rows().iter().find(|row| row.key == key) else {
                let message = unknown_key(key, section);
                self.refuse(offset, full_key, message);
                continue;
            };
            let literal = literal_of(item);
            if let Err(refused) = section.set(row, &literal) {
                self.refuse(offset, full_key, refused_value(row, &literal, &refused));
            }
        }
    }
}

const LISTENERS: &str = "listeners";
const ADMIN: &str = "admin";

/// The place of a key in a table, or of its value if the place of the key is unknown.
fn offset_of(table: &dyn TableLike, key: &str, item: &Item) -> Offset {
    let of_key = table.get_key_value(key).and_then(|(key, _)| Key::span(key));
    of_key.or_else(|| item.span()).map_or(0, |span| span.start)
}

fn literal_of(item: &Item) -> Literal {
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
fn shown_key(key: &str) -> String {
    let is_bare = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if is_bare && (1..=KEY_CHARS_MAX).contains(&key.len()) { key.to_string() } else { quoted(key) }
}

/// The longest key, in bytes, that is compared with the known keys. The comparison takes quadratic time.
const KEY_CHARS_MAX: usize = 60;

fn unknown_key(key: &str, section: &dyn Section) -> String {
    let known: Vec<&str> = section.rows().iter().map(|row| row.key).collect();
    let header = header_of(section.name());
    let hint = match (nearest(key, &known), home_of(key, &Config::default())) {
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
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
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
