//! One line of a `mosquitto.conf`: its key, and a value that is read as a word, a number, a boolean or a
//! text.
//!
//! The rules are mosquitto's. Only a space separates the key from its value. Words after the value are
//! ignored, so a comment may follow it. A text reaches to the end of the line.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::Spanned;
use crate::settings::value::quoted;

/// A line that is neither empty nor a comment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) file: &'a Arc<str>,
    pub(super) number: usize,
    pub(super) key: &'a str,
    rest: &'a str,
}

/// The longest text, in bytes. mosquitto has the same bound.
const TEXT_BYTES_MAX: usize = 65_535;

impl<'a> Line<'a> {
    /// Splits a line, without its line feed, into key and value. Returns `None` for an empty line or a
    /// comment, and an error in words for a line that can't be read.
    pub(super) fn cut(file: &'a Arc<str>, number: usize, raw: &'a [u8]) -> Result<Option<Line<'a>>, String> {
        if matches!(raw.first(), None | Some(b'#' | b'\r')) {
            return Ok(None);
        }
        let text = str::from_utf8(raw).map_err(|_| "the line is not UTF-8".to_owned())?;
        if text.contains('\0') {
            return Err("the line has a NUL byte".to_owned());
        }
        let text = text.trim_end_matches('\r').trim_start_matches(' ');
        let (key, rest) = text.split_once(' ').unwrap_or((text, ""));
        Ok((!key.is_empty()).then_some(Line { file, number, key, rest }))
    }

    /// Adds this line's place to a value.
    pub(super) fn at<T>(&self, value: T) -> Spanned<T> {
        Spanned { file: self.file.clone(), line: self.number, value }
    }

    /// The words after the key.
    pub(super) fn words(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.rest.split(' ').filter(|word| !word.is_empty())
    }

    /// The first word.
    pub(super) fn word(&self) -> Result<&'a str, String> {
        self.words().next().ok_or_else(|| "has no value".to_owned())
    }

    /// The text after the first word of the value.
    pub(super) fn behind_word(&self) -> &'a str {
        self.rest.trim_start_matches(' ').split_once(' ').map_or("", |(_, rest)| rest)
    }

    /// Everything after the key, unchanged.
    pub(super) fn rest(&self) -> &'a str {
        self.rest
    }

    /// The value as a text: everything to the end of the line, without white space at both ends.
    pub(super) fn text(&self) -> Result<Spanned<String>, String> {
        text(self.rest).map(|text| self.at(text))
    }

    pub(super) fn boolean(&self) -> Result<Spanned<bool>, String> {
        match self.word()? {
            "true" | "1" => Ok(self.at(true)),
            "false" | "0" => Ok(self.at(false)),
            other => Err(format!("got {}; allowed is true or false (or 1 or 0)", quoted(other))),
        }
    }

    /// A whole number within bounds.
    pub(super) fn integer(&self, allowed: RangeInclusive<i64>) -> Result<i64, String> {
        let word = self.word()?;
        number(word).filter(|number| allowed.contains(number)).ok_or_else(|| {
            format!(
                "got {}; allowed is a whole number from {} to {}",
                quoted(word),
                allowed.start(),
                allowed.end()
            )
        })
    }

    /// A whole number within bounds, unsigned.
    pub(super) fn unsigned(&self, allowed: RangeInclusive<u32>) -> Result<Spanned<u32>, String> {
        let number = self.integer(i64::from(*allowed.start())..=i64::from(*allowed.end()))?;
        u32::try_from(number).map(|number| self.at(number)).map_err(|_| "is no such number".to_owned())
    }

    /// A number; 0 and negative numbers mean "no limit".
    pub(super) fn limit(&self) -> Result<Spanned<super::MaybeLimit>, String> {
        let number = self.integer(INT)?;
        Ok(self.at(u32::try_from(number).ok().filter(|number| *number > 0)))
    }
}

/// The range of the integer type that mosquitto uses.
pub(super) const INT: RangeInclusive<i64> = i32::MIN as i64..=i32::MAX as i64;

/// The text of a value, without white space at both ends.
pub(super) fn text(rest: &str) -> Result<String, String> {
    let text = rest.trim_matches(|character: char| character.is_ascii_whitespace() || character == '\x0b');
    if text.is_empty() {
        return Err("has no value".to_owned());
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("is longer than {TEXT_BYTES_MAX} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("got {}; control characters are not allowed", quoted(text)));
    }
    Ok(text.to_owned())
}

/// Reads a number in C notation: `20`, `0x14`, `024`, with or without a sign.
fn number(word: &str) -> Option<i64> {
    let word = word.trim_start_matches('\t');
    let (sign, digits) = match word.as_bytes().first()? {
        b'-' => (-1, &word[1..]),
        b'+' => (1, &word[1..]),
        _ => (1, word),
    };
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    // `from_str_radix` would accept a second sign.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    i64::from_str_radix(digits, radix).ok().map(|number| sign * number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(raw: &str) -> Option<(String, String)> {
        let file = Arc::from("f");
        let line = Line::cut(&file, 1, raw.as_bytes()).expect("readable");
        line.map(|line| (line.key.to_owned(), line.rest.to_owned()))
    }

    #[test]
    fn a_line_is_cut_at_its_first_space() {
        for nothing in ["", "\r", "# listener 1883", "   ", "#"] {
            assert_eq!(cut(nothing), None, "{nothing:?}");
        }
        let key_and_rest = |key: &str, rest: &str| Some((key.to_owned(), rest.to_owned()));
        assert_eq!(cut("port 1883\r"), key_and_rest("port", "1883"));
        assert_eq!(cut("  port  1883 "), key_and_rest("port", " 1883 "));
        assert_eq!(cut("user"), key_and_rest("user", ""));
        assert_eq!(cut("port\t1883"), key_and_rest("port\t1883", ""));
    }

    #[test]
    fn a_number_is_written_as_in_c() {
        for (word, expected) in [
            ("20", Some(20)),
            ("-1", Some(-1)),
            ("+7", Some(7)),
            ("0x1F", Some(31)),
            ("010", Some(8)),
            ("0", Some(0)),
            ("-0x10", Some(-16)),
            ("08", None),
            ("0x", None),
            ("", None),
            ("-", None),
            ("--1", None),
            ("0x-1", None),
            ("12k", None),
            ("1.5", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(number(word), expected, "{word:?}");
        }
    }

    #[test]
    fn words_behind_the_one_that_counts_are_passed_over() {
        let file = Arc::from("f");
        let line = |raw: &'static str| Line::cut(&file, 1, raw.as_bytes()).expect("readable").expect("a key");
        assert!(line("persistence  true # kept").boolean().expect("a truth").value);
        assert_eq!(line("sys_interval 7 seconds").unsigned(0..=9).expect("a number").value, 7);
        assert_eq!(line("log_dest file /a b.log").behind_word(), "/a b.log");
        assert_eq!(line("acl_file  /a b/c \t").text().expect("a text").value, "/a b/c");
        assert_eq!(line("max_connections -5").limit().expect("a number").value, None);
    }

    #[test]
    fn what_is_no_value_says_what_is_allowed() {
        let file = Arc::from("f");
        let line = |raw: &'static str| Line::cut(&file, 1, raw.as_bytes()).expect("readable").expect("a key");
        assert!(line("persistence falst").boolean().expect_err("no truth").contains("true or false"));
        assert!(line("max_qos 3").integer(0..=2).expect_err("too high").contains("from 0 to 2"));
        for raw in ["user", "user ", "user  \t"] {
            assert!(line(raw).text().expect_err("empty").contains("no value"));
        }
        assert!(Line::cut(&file, 1, b"user \xff").is_err());
        assert!(Line::cut(&file, 1, b"user a\0b").is_err());
        assert!(line("user a\x01b").text().is_err());
    }
}
