//! The text of a `midge.toml`, written from a [`Mapping`], and the configuration that is read from it.
//!
//! Each line of the text has its source, so that an error of midge's reader can name the line of the
//! `mosquitto.conf`.

use std::collections::HashMap;
use std::fmt::Write;

use super::mapping::{Mapped, Mapping, SettingOrigin, TomlTable, TomlValue};
use super::{Diagnostic, MosquittoConf};
use crate::config::parse;
use crate::settings::Config;

/// A `midge.toml`.
pub(super) struct Written {
    pub(super) text: String,
    /// The number of lines in `text`.
    lines: usize,
    /// The source of each setting, by line number, counted from 1.
    origins: HashMap<usize, SettingOrigin>,
}

/// Writes a mapping as text.
pub(super) fn written(conf: &MosquittoConf, mapping: &Mapping) -> Written {
    let mut written = Written { text: String::new(), lines: 0, origins: HashMap::new() };
    written.write_head(conf, mapping);
    let mut table = None;
    for setting in &mapping.settings {
        if table != Some(setting.table) {
            written.write_table(setting.table);
            table = Some(setting.table);
        }
        written.write_setting(setting);
    }
    written
}

impl Written {
    /// Reads the text like any `midge.toml`, and moves its errors to the lines of the `mosquitto.conf`.
    pub(super) fn read(&self, conf: &MosquittoConf) -> Result<Config, Vec<Diagnostic>> {
        parse::parse("midge.toml", &self.text).map_err(|errors| {
            let more = (errors.more > 0).then(|| Diagnostic {
                file: conf.file.to_string(),
                line: None,
                key: String::new(),
                message: format!("{} more errors", errors.more),
            });
            let placed = errors.errors.into_iter().map(|error| {
                let origin =
                    error.line.and_then(|line| self.origins.get(&line)).unwrap_or(&SettingOrigin::Default);
                let message = match error.key.as_str() {
                    "" => error.message,
                    key => format!("{key}: {}", error.message),
                };
                origin.error(conf, &error.key, message)
            });
            placed.chain(more).collect()
        })
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
        self.lines += 1;
    }

    fn comment(&mut self, text: &str) {
        for line in wrapped(text) {
            self.line(&format!("# {line}"));
        }
    }

    fn write_head(&mut self, conf: &MosquittoConf, mapping: &Mapping) {
        self.comment(&format!(
            "Made from {}. What has no line here has midge's default. mosquitto sets no bounds to sessions, \
             subscriptions, retained messages and bytes that wait; midge does, see [limits] of its manual.",
            conf.file
        ));
        if !conf.left_out.is_empty() {
            self.line("#");
            self.comment("Left out, because midge has no equivalent:");
            for left in &conf.left_out {
                self.comment(&format!("- {left}"));
            }
        }
        if mapping.notes.is_empty() {
            return;
        }
        self.line("#");
        self.comment("Lines that change nothing, and other notes:");
        for note in &mapping.notes {
            self.comment(&format!("- {note}"));
        }
    }

    fn write_table(&mut self, table: TomlTable) {
        self.line("");
        match table {
            TomlTable::Listener(_) => self.line("[[listeners]]"),
            TomlTable::Section(name) => self.line(&format!("[{name}]")),
        }
    }

    fn write_setting(&mut self, setting: &Mapped) {
        if let Some(comment) = &setting.comment {
            self.comment(comment);
        }
        let (value, origin) = (literal(&setting.value), one_line(&setting.origin.to_string()));
        if !setting.is_known() {
            let stops = if setting.is_vital { ", and does not start with it" } else { "" };
            self.comment(&format!("This midge has no such option{stops}:"));
            // A vital one stays in the text, so that reading the text fails.
            if !setting.is_vital {
                return self.line(&format!("# {} = {value} # {origin}", setting.key));
            }
        }
        self.origins.insert(self.lines + 1, setting.origin.clone());
        self.line(&format!("{} = {value} # {origin}", setting.key));
    }
}

fn literal(value: &TomlValue) -> String {
    match value {
        TomlValue::Text(text) => string(text),
        TomlValue::Integer(number) => number.to_string(),
        TomlValue::Boolean(truth) => truth.to_string(),
        TomlValue::Texts(texts) => {
            format!("[{}]", texts.iter().map(|text| string(text)).collect::<Vec<_>>().join(", "))
        }
    }
}

/// A string in TOML notation, of any length.
fn string(text: &str) -> String {
    let mut string = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => string.push_str("\\\""),
            '\\' => string.push_str("\\\\"),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(string, "\\u{:04X}", u32::from(c));
            }
            c => string.push(c),
        }
    }
    string.push('"');
    string
}

/// The width of a comment line in characters, without its `# `.
const COMMENT_CHARS_MAX: usize = 98;

/// Text for a comment. TOML allows no control characters in comments.
fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

fn wrapped(text: &str) -> Vec<String> {
    let indent = if text.starts_with("- ") { "  " } else { "" };
    let mut lines = vec![String::new()];
    for word in one_line(text).split(' ').filter(|word| !word.is_empty()) {
        let last = lines.last_mut().expect("there is always a line");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= COMMENT_CHARS_MAX {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(format!("{indent}{word}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_keeps_to_its_lines() {
        assert_eq!(wrapped("a\nb"), ["a?b"]);
        let lines = wrapped(&"word ".repeat(60));
        assert!(lines.len() > 2 && lines.iter().all(|line| line.chars().count() <= COMMENT_CHARS_MAX));
        assert_eq!(lines.concat().matches("word").count(), 60);
    }

    #[test]
    fn a_string_survives_the_way_through_toml() {
        for text in ["", "a \"b\\c\" ü", "\u{1}\u{7f}\u{85}", "/var/lib/mosquitto/", "'#"] {
            let document = format!("a = {}", string(text));
            let document = toml_edit::Document::parse(document.as_str()).expect(text);
            assert_eq!(document.get("a").and_then(|item| item.as_str()), Some(text));
        }
    }
}
