//! Literals: the values of a configuration file before they are checked, and the TOML notation of values.

use super::Refused;

/// A value of a configuration file, before it is checked.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// A whole number.
    Integer(i64),
    /// `true` or `false`.
    Boolean(bool),
    /// A string.
    Text(String),
    /// An array of strings.
    Texts(Vec<String>),
    /// A value of a type that no option has, in words: "an array", "the float 2.5".
    Other(String),
}

impl Literal {
    /// Parses a string literal. Literals of other types are not allowed.
    pub(in crate::settings) fn parsed<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Refused> {
        match self {
            Literal::Text(text) => parse(text).ok_or(Refused::NotAllowed),
            _ => Err(Refused::NotAllowed),
        }
    }

    /// The value in words, for messages with "got …": `500`, `"loud"`, `an array`. Long strings are
    /// shortened.
    pub fn shown(&self) -> String {
        match self {
            Literal::Integer(number) => number.to_string(),
            Literal::Boolean(truth) => truth.to_string(),
            Literal::Text(text) => quoted(text),
            Literal::Texts(texts) => {
                format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "))
            }
            Literal::Other(words) => words.clone(),
        }
    }

    /// The value with the name of its type, for errors about the type.
    pub fn shown_with_type(&self) -> String {
        match self {
            Literal::Integer(_) => format!("the integer {}", self.shown()),
            Literal::Text(_) => format!("the string {}", self.shown()),
            Literal::Texts(_) => format!("the array {}", self.shown()),
            Literal::Boolean(_) | Literal::Other(_) => self.shown(),
        }
    }
}

/// An array of strings in TOML notation.
pub(super) fn written_list<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", texts.map(written).collect::<Vec<_>>().join(", "))
}

/// A string in TOML notation.
pub(in crate::settings) fn written(text: &str) -> String {
    let mut written = String::from("\"");
    text.chars().for_each(|character| escape(character, &mut written));
    written.push('"');
    written
}

/// A string in TOML notation, shortened to fit an error line.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for (count, character) in text.chars().enumerate() {
        if count == SHOWN_CHARS_MAX {
            quoted.push('…');
            break;
        }
        escape(character, &mut quoted);
    }
    quoted.push('"');
    quoted
}

fn escape(character: char, into: &mut String) {
    match character {
        '"' => into.push_str("\\\""),
        '\\' => into.push_str("\\\\"),
        c if c.is_control() => into.push_str(&format!("\\u{:04X}", u32::from(c))),
        c => into.push(c),
    }
}

/// The largest number of characters of a value that an error repeats.
const SHOWN_CHARS_MAX: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_or_unprintable_string_is_cut_and_escaped_when_shown() {
        assert_eq!(quoted("a\n\"b\\"), "\"a\\u000A\\\"b\\\\\"");
        assert_eq!(quoted(&"x".repeat(200)).chars().count(), SHOWN_CHARS_MAX + 3);
    }
}
