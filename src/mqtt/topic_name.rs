//! Topic names: those of a PUBLISH, a will, or any other source of a message (5.0 sections 1.5.4 and 4.7).
//!
//! The input is a text that is valid UTF-8. Names are not normalized: they are compared byte by byte.
//! `[MQTT5-4.7.3-4]`

/// Why a topic name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicError {
    /// It has no character. `[MQTT5-4.7.3-1]` `[MQTT311-4.7.3-1]`
    Empty,
    /// It has a `+` or a `#`. `[MQTT5-4.7.0-1]` `[MQTT311-4.7.1-1]`
    Wildcard,
    /// It has U+0000, another control character, or a non-character. `[MQTT5-4.7.3-2]`
    ControlCharacter,
}

impl TopicError {
    /// The cause in words.
    pub fn words(self) -> &'static str {
        match self {
            TopicError::Empty => "the topic name is empty",
            TopicError::Wildcard => "wildcard in a topic name",
            TopicError::ControlCharacter => "control character or non-character in a topic name",
        }
    }
}

/// Checks a topic name: it must not be empty, and must have no wildcard, no U+0000, no control character and
/// no non-character. The wire format limits its length to 65,535 bytes. `[MQTT5-3.3.2-2]` `[MQTT5-4.7.3-1]`
///
/// # Errors
/// The first rule of [`TopicError`] that the name breaks, in the order of the variants.
pub fn check_topic_name(name: &str) -> Result<(), TopicError> {
    if name.is_empty() {
        return Err(TopicError::Empty);
    }
    // This one pass is enough for most names. It has no early exit, so that the compiler can check many bytes
    // at a time.
    let is_plain = |byte| matches!(byte, b' '..=b'"' | b'$'..=b'*' | b','..=b'~');
    if name.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
        return Ok(());
    }
    if has_wildcard(name) {
        return Err(TopicError::Wildcard);
    }
    if has_forbidden_character(name) {
        return Err(TopicError::ControlCharacter);
    }
    Ok(())
}

/// The number of levels: the number of slashes plus one.
pub fn topic_levels(name: &str) -> usize {
    name.bytes().filter(|&byte| byte == b'/').count() + 1
}

/// Whether a text has U+0000 to U+001F, U+007F to U+009F, or a code point that Unicode reserves as a
/// non-character. midge refuses these in every topic name, topic filter and client identifier.
/// `[MQTT5-1.5.4-2]` `[MQTT311-1.5.3-2]`
pub fn has_forbidden_character(text: &str) -> bool {
    // It has no early exit, so that the compiler can check many bytes at a time.
    let plain = text.bytes().fold(true, |plain, byte| plain & matches!(byte, 0x20..=0x7E));
    !plain && text.chars().any(is_forbidden)
}

/// Whether a text has `+` or `#` anywhere.
pub(crate) fn has_wildcard(text: &str) -> bool {
    text.bytes().fold(false, |found, byte| found | matches!(byte, b'+' | b'#'))
}

fn is_forbidden(character: char) -> bool {
    let code_point = u32::from(character);
    character.is_control() || matches!(code_point, 0xFDD0..=0xFDEF) || code_point & 0xFFFE == 0xFFFE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_allowed() {
        // [MQTT5-4.7.3-1] [MQTT5-4.7.3-4]
        for name in
            ["a", "/", "//", " ", "a b/c", "$SYS/x", "$", "é", "e\u{301}", "\u{FEFF}a", "😀/x", "\u{FDCF}"]
        {
            assert_eq!(check_topic_name(name), Ok(()), "{name:?}");
        }
        assert_eq!(check_topic_name(&"/".repeat(65_535)), Ok(()));
    }

    #[test]
    fn names_that_are_refused() {
        // [MQTT5-4.7.3-1] [MQTT5-4.7.0-1] [MQTT5-3.3.2-2] [MQTT5-4.7.3-2] [MQTT5-1.5.4-2]
        use TopicError::{ControlCharacter, Empty, Wildcard};
        for (name, error) in [
            ("", Empty),
            ("#", Wildcard),
            ("a/+", Wildcard),
            ("a+b", Wildcard),
            ("a#", Wildcard),
            ("\0", ControlCharacter),
            ("a\u{1}", ControlCharacter),
            ("a\u{1F}b", ControlCharacter),
            ("\u{7F}", ControlCharacter),
            ("é\u{80}", ControlCharacter),
            ("\u{9F}", ControlCharacter),
            ("\u{FDD0}", ControlCharacter),
            ("\u{FDEF}", ControlCharacter),
            ("\u{FFFE}", ControlCharacter),
            ("a/\u{FFFF}", ControlCharacter),
            ("\u{1FFFE}", ControlCharacter),
            ("\u{10FFFF}", ControlCharacter),
        ] {
            assert_eq!(check_topic_name(name), Err(error), "{name:?}");
        }
    }

    #[test]
    fn exactly_the_controls_and_the_non_characters_are_forbidden() {
        let forbidden = (0..=0x10_FFFF).filter_map(char::from_u32).filter(|c| is_forbidden(*c)).count();
        let (controls, arabic_block, plane_ends) = (65, 32, 34);
        assert_eq!(forbidden, controls + arabic_block + plane_ends);
    }

    #[test]
    fn every_slash_begins_a_level() {
        for (name, levels) in [("a", 1), ("/", 2), ("a/", 2), ("/a/b", 3), ("a//b", 3)] {
            assert_eq!(topic_levels(name), levels, "{name:?}");
        }
        assert_eq!(topic_levels(&"/".repeat(65_535)), 65_536);
    }
}
