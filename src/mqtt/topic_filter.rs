//! Topic filters, including shared ones (5.0 sections 4.7 and 4.8.2), and the simple matcher.
//!
//! The input is a filter as a client has sent it, valid UTF-8. The output is a [`TopicFilter`], which is
//! always valid, or the reason why the filter is refused.

use super::topic_name::{has_forbidden_character, has_wildcard, topic_levels};

/// Why a topic filter is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// It has no character. `[MQTT5-4.7.3-1]` `[MQTT311-4.7.3-1]`
    Empty,
    /// A wildcard that does not fill its level, or a `#` that is not last.
    /// `[MQTT5-4.7.1-1]` `[MQTT5-4.7.1-2]` `[MQTT311-4.7.1-2]` `[MQTT311-4.7.1-3]`
    Wildcard,
    /// It has U+0000, another control character, or a non-character. `[MQTT5-4.7.3-2]`
    ControlCharacter,
    /// It begins with `$share` but does not have the form `$share/{name}/{filter}`, in which the name has at
    /// least one character and no wildcard, and the filter has at least one character. `[MQTT5-4.8.2-1]`
    /// `[MQTT5-4.8.2-2]`
    ShareName,
}

impl FilterError {
    /// The cause in words.
    pub fn words(self) -> &'static str {
        match self {
            FilterError::Empty => "the topic filter is empty",
            FilterError::Wildcard => "a wildcard that does not fill its level, or a # that is not last",
            FilterError::ControlCharacter => "control character or non-character in a topic filter",
            FilterError::ShareName => "a shared subscription has the form $share/NAME/FILTER",
        }
    }
}

/// A checked topic filter. One that came from the wire has at most 65,535 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicFilter<'a> {
    whole: &'a str,
    /// The length of `$share/{name}/` in bytes. 0 if the filter is not shared.
    share_len: usize,
}

/// The two parts of a shared filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedFilter<'a> {
    /// The name of the group. It has at least one character, no `/` and no wildcard.
    pub share_name: &'a str,
    /// The part that matches topic names.
    pub filter: &'a str,
}

impl<'a> TopicFilter<'a> {
    /// Checks a filter. `[MQTT5-4.7.1-1]` `[MQTT5-4.7.1-2]` `[MQTT5-4.8.2-1]` `[MQTT5-4.8.2-2]`
    ///
    /// # Errors
    /// One of [`FilterError`].
    pub fn parse(filter: &'a str) -> Result<TopicFilter<'a>, FilterError> {
        if filter.is_empty() {
            return Err(FilterError::Empty);
        }
        if has_forbidden_character(filter) {
            return Err(FilterError::ControlCharacter);
        }
        let share_len = share_len(filter)?;
        let parsed = TopicFilter { whole: filter, share_len };
        if !wildcards_are_placed_well(parsed.matching_part()) {
            return Err(FilterError::Wildcard);
        }
        Ok(parsed)
    }

    /// The filter as the client has sent it, with `$share/{name}/`.
    pub fn as_str(self) -> &'a str {
        self.whole
    }

    /// The part that matches topic names. For a filter that is not shared, this is all of it.
    pub fn matching_part(self) -> &'a str {
        &self.whole[self.share_len..]
    }

    /// The share name and the filter. `None` if it is not shared.
    pub fn shared(self) -> Option<SharedFilter<'a>> {
        let share_name = self.whole[..self.share_len].strip_prefix(SHARE_PREFIX)?.strip_suffix('/')?;
        Some(SharedFilter { share_name, filter: self.matching_part() })
    }

    /// Whether the matching part has a wildcard.
    pub fn has_wildcard(self) -> bool {
        has_wildcard(self.matching_part())
    }

    /// The number of levels of the matching part, including wildcards. Limits on levels count these.
    pub fn levels(self) -> usize {
        topic_levels(self.matching_part())
    }
}

/// Whether a topic name matches a filter (its matching part). It is the simple, evidently correct matcher:
/// its time is linear in the two lengths, and it allocates nothing. `[MQTT5-4.7.2-1]` `[MQTT311-4.7.2-1]`
pub fn filter_matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut names = topic.split('/');
    for level in filter.split('/') {
        // This is checked before the next name: `a/#` also matches its parent `a`.
        if level == "#" {
            return true;
        }
        match names.next() {
            Some(name) if level == "+" || level == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

const SHARE_PREFIX: &str = "$share/";

/// The length of `$share/{name}/` in bytes, or 0 if the filter is not shared.
fn share_len(filter: &str) -> Result<usize, FilterError> {
    // Without the slash, it could only be a topic name that midge reserves.
    if filter == "$share" {
        return Err(FilterError::ShareName);
    }
    let Some(rest) = filter.strip_prefix(SHARE_PREFIX) else { return Ok(0) };
    match rest.split_once('/') {
        Some((name, filter)) if !name.is_empty() && !has_wildcard(name) && !filter.is_empty() => {
            Ok(SHARE_PREFIX.len() + name.len() + 1)
        }
        _ => Err(FilterError::ShareName),
    }
}

fn wildcards_are_placed_well(filter: &str) -> bool {
    if !has_wildcard(filter) {
        return true;
    }
    let mut levels = filter.split('/');
    levels.all(|level| match level {
        "+" => true,
        // `[MQTT5-4.7.1-1]`: `#` must be the last character. A slash after it would be one more level.
        "#" => filter.ends_with("/#") || filter == "#",
        level => !has_wildcard(level),
    }) && filter.bytes().filter(|&byte| byte == b'#').count() <= 1
}

#[cfg(test)]
pub(crate) use tests::MATCHING;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_table_16_1_are_valid_or_not() {
        // [MQTT5-4.7.1-1] [MQTT5-4.7.1-2] [MQTT311-4.7.1-2] [MQTT311-4.7.1-3]
        let valid = [
            "#",
            "a/#",
            "/#",
            "+",
            "+/+",
            "/+",
            "+/",
            "a/+/#",
            "/",
            "//",
            " ",
            "$SYS/#",
            "$x",
            "+/+/+/#",
            "a",
            "$SHARE/g/t",
            "$shared",
            "$shared/x",
            "a/$share/g",
            "é/+",
        ];
        for filter in valid {
            let parsed = TopicFilter::parse(filter).unwrap_or_else(|error| panic!("{filter:?}: {error:?}"));
            assert_eq!((parsed.as_str(), parsed.matching_part(), parsed.shared()), (filter, filter, None));
            assert_eq!(parsed.has_wildcard(), filter.contains(['+', '#']), "{filter:?}");
        }
        let invalid = [
            "a#", "a/#/b", "#/a", "a+", "+a/b", "a/b+/c", "##", "++", "a/##", "#/", "#/#", "a/#/#", "/#/",
            "+#", "#+", "a/+b", "a/#b",
        ];
        for filter in invalid {
            assert_eq!(TopicFilter::parse(filter), Err(FilterError::Wildcard), "{filter:?}");
        }
        // [MQTT5-4.7.3-1]
        assert_eq!(TopicFilter::parse(""), Err(FilterError::Empty));
    }

    #[test]
    fn filters_with_control_characters_or_non_characters_are_refused() {
        // [MQTT5-4.7.3-2] [MQTT5-1.5.4-2]
        for filter in [
            "\0",
            "a/\u{1F}/#",
            "a\u{7F}",
            "é\u{85}",
            "+/\u{FFFE}",
            "\u{FDD0}",
            "$share/\u{1}/t",
            "\u{2FFFF}",
        ] {
            assert_eq!(TopicFilter::parse(filter), Err(FilterError::ControlCharacter), "{filter:?}");
        }
    }

    #[test]
    fn shared_filters_split_into_name_and_filter() {
        // [MQTT5-4.8.2-1] [MQTT5-4.8.2-2]
        for (whole, share_name, filter, levels) in [
            ("$share/g/t", "g", "t", 1),
            ("$share/g//finance", "g", "/finance", 2),
            ("$share/g/#", "g", "#", 1),
            ("$share/g//", "g", "/", 2),
            ("$share/a b/+/x/#", "a b", "+/x/#", 3),
            ("$share/$share/$share/g/t", "$share", "$share/g/t", 3),
        ] {
            let parsed = TopicFilter::parse(whole).unwrap_or_else(|error| panic!("{whole:?}: {error:?}"));
            assert_eq!(parsed.shared(), Some(SharedFilter { share_name, filter }), "{whole:?}");
            assert_eq!((parsed.as_str(), parsed.matching_part(), parsed.levels()), (whole, filter, levels));
            assert_eq!(parsed.has_wildcard(), filter.contains(['+', '#']));
        }
    }

    #[test]
    fn shared_filters_without_a_proper_name_or_filter_are_refused() {
        // [MQTT5-4.8.2-1] [MQTT5-4.8.2-2]
        for filter in [
            "$share",
            "$share/",
            "$share//t",
            "$share//",
            "$share/g",
            "$share/g/",
            "$share/+/t",
            "$share/g#/t",
            "$share/#",
        ] {
            assert_eq!(TopicFilter::parse(filter), Err(FilterError::ShareName), "{filter:?}");
        }
        assert_eq!(TopicFilter::parse("$share/g/a#"), Err(FilterError::Wildcard));
        assert_eq!(TopicFilter::parse("$share/g/#/a"), Err(FilterError::Wildcard));
    }

    #[test]
    fn levels_of_the_matching_part_are_counted() {
        for (filter, levels) in [("#", 1), ("a/#", 2), ("/", 2), ("+/+/+", 3), ("$share/g/a", 1)] {
            assert_eq!(TopicFilter::parse(filter).map(TopicFilter::levels), Ok(levels), "{filter:?}");
        }
    }

    #[test]
    fn topics_of_table_16_2_match_or_not() {
        for (filter, matching, others) in MATCHING {
            for topic in *matching {
                assert!(filter_matches(filter, topic), "{filter:?} must match {topic:?}");
            }
            for topic in *others {
                assert!(!filter_matches(filter, topic), "{filter:?} must not match {topic:?}");
            }
        }
    }

    /// Table 16.2: filter, topics that match, topics that do not.
    /// [MQTT5-4.7.1-1] [MQTT5-4.7.1-2] [MQTT5-4.7.2-1] [MQTT5-4.7.3-4] [MQTT311-4.7.2-1] [MQTT311-4.7.3-4]
    pub(crate) const MATCHING: &[(&str, &[&str], &[&str])] = &[
        ("sport/#", &["sport", "sport/", "sport/a", "sport/a/b"], &["sports", "/sport", "Sport"]),
        (
            "sport/tennis/player1/#",
            &["sport/tennis/player1", "sport/tennis/player1/ranking"],
            &["sport/tennis/player10", "sport/tennis"],
        ),
        ("#", &["a", "/", "a//b", "a/$b"], &["$SYS/x", "$"]),
        ("+", &["finance", " "], &["/finance", "a/b", "$SYS"]),
        ("+/+", &["/finance", "a/b", "/", "a/"], &["finance", "a/b/c", "$SYS/x"]),
        ("/+", &["/finance", "/"], &["finance", "/a/b"]),
        ("sport/+", &["sport/", "sport/a"], &["sport", "sport/a/b"]),
        ("sport/+/player1", &["sport/x/player1", "sport//player1"], &["sport/player1"]),
        ("+/tennis/#", &["sport/tennis", "/tennis/x"], &["tennis", "$x/tennis"]),
        ("/#", &["/", "/a"], &["a"]),
        ("+/#", &["a", "a/b", "/", "/a"], &["$SYS", "$SYS/a"]),
        ("$SYS/#", &["$SYS", "$SYS/a"], &["SYS/a"]),
        ("$SYS/+", &["$SYS/a"], &["$SYS", "$SYS/a/b"]),
        ("a//b", &["a//b"], &["a/b", "a/x/b"]),
        ("a/", &["a/"], &["a"]),
        ("é", &["é"], &["e\u{301}"]),
        ("A", &["A"], &["a"]),
    ];
}
