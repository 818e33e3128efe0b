//! The topics of rules: topic filters in which `%u` stands for the user name and `%c` for the client
//! identifier.
//!
//! The input is a topic of a rule. The output is its levels, or the reason why it is refused. The format
//! decides where the names may stand ([`Placeholders`]).

use std::fmt;

use super::filters::spelt_out;
use crate::mqtt::{FilterError, TopicFilter};

/// The largest number of levels in a topic of a rule. It also bounds the depth of the walks through the
/// rules.
pub const LEVELS_MAX: usize = 256;

/// Why a topic of a rule is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PatternError {
    /// It is not a topic filter.
    Filter(FilterError),
    /// It begins with `$share/{name}/`. A rule must name the filter after that.
    Shared,
    /// It has more than [`LEVELS_MAX`] levels.
    TooManyLevels,
    /// Its first level has `$` and a name: a client could choose `$SYS` or another topic by its name.
    NameBehindDollar,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PatternError::Filter(FilterError::Empty) => f.write_str("a topic has at least one character"),
            PatternError::Filter(FilterError::Wildcard) => {
                f.write_str("no topic filter: + and # fill a whole level, and # is the last one")
            }
            PatternError::Filter(FilterError::ControlCharacter) => {
                f.write_str("no topic filter: it has a control character or a non-character")
            }
            PatternError::Filter(FilterError::ShareName) | PatternError::Shared => {
                f.write_str("write the filter without $share/GROUP/: shared subscriptions are judged by it")
            }
            PatternError::TooManyLevels => write!(f, "more than {LEVELS_MAX} levels"),
            PatternError::NameBehindDollar => {
                f.write_str("%u and %c are not allowed in a first level that begins with $")
            }
        }
    }
}

/// Checks a topic of a rule, with `%u` and `%c` anywhere.
///
/// # Errors
/// One of [`PatternError`].
pub fn check_pattern(topic: &str) -> Result<(), PatternError> {
    parse(topic, Placeholders::Anywhere).map(drop)
}

/// Where `%u` and `%c` stand for names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Placeholders {
    /// Nowhere: they are ordinary characters.
    Nowhere,
    Anywhere,
}

/// A level of a rule's topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Level<'a> {
    /// `+`
    Any,
    /// `#`
    Rest,
    Text(&'a str),
    /// A level with at least one name.
    Named(Vec<Part<'a>>),
}

/// A part of a level that has names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part<'a> {
    Text(&'a str),
    User,
    ClientId,
}

pub(super) fn parse(topic: &str, placeholders: Placeholders) -> Result<Vec<Level<'_>>, PatternError> {
    let filter = TopicFilter::parse(topic).map_err(PatternError::Filter)?;
    if filter.shared().is_some() {
        return Err(PatternError::Shared);
    }
    if filter.levels() > LEVELS_MAX {
        return Err(PatternError::TooManyLevels);
    }
    let levels: Vec<Level<'_>> =
        spelt_out(topic).split('/').map(|level| parse_level(level, placeholders)).collect();
    if topic.starts_with('$') && matches!(levels.first(), Some(Level::Named(_))) {
        return Err(PatternError::NameBehindDollar);
    }
    Ok(levels)
}

fn parse_level(level: &str, placeholders: Placeholders) -> Level<'_> {
    match level {
        "+" => return Level::Any,
        "#" => return Level::Rest,
        _ => {}
    }
    let may_have_names = placeholders != Placeholders::Nowhere;
    let mut parts = Vec::new();
    let mut text = level;
    while let Some((at, part)) = may_have_names.then(|| first_name(text)).flatten() {
        if at > 0 {
            parts.push(Part::Text(&text[..at]));
        }
        parts.push(part);
        text = &text[at + 2..];
    }
    if parts.is_empty() {
        return Level::Text(level);
    }
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Level::Named(parts)
}

/// The first `%u` or `%c` and its place.
fn first_name(text: &str) -> Option<(usize, Part<'static>)> {
    let user = text.find("%u").map(|at| (at, Part::User));
    let client = text.find("%c").map(|at| (at, Part::ClientId));
    [user, client].into_iter().flatten().min_by_key(|(at, _)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_where_the_format_lets_them() {
        let named = |topic, placeholders| parse(topic, placeholders).expect("valid");
        assert_eq!(
            named("d/%c/x%u-%c%%u/+/#", Placeholders::Anywhere),
            [
                Level::Text("d"),
                Level::Named(vec![Part::ClientId]),
                Level::Named(vec![
                    Part::Text("x"),
                    Part::User,
                    Part::Text("-"),
                    Part::ClientId,
                    Part::Text("%"),
                    Part::User
                ]),
                Level::Any,
                Level::Rest,
            ]
        );
        assert_eq!(named("%u/%c", Placeholders::Nowhere), [Level::Text("%u"), Level::Text("%c")]);
        assert_eq!(named("50%/%", Placeholders::Anywhere), [Level::Text("50%"), Level::Text("%")]);
    }

    #[test]
    fn topics_that_no_rule_can_have_are_refused() {
        let long = "a/".repeat(LEVELS_MAX);
        for (topic, error) in [
            ("", PatternError::Filter(FilterError::Empty)),
            ("a#", PatternError::Filter(FilterError::Wildcard)),
            ("%u#", PatternError::Filter(FilterError::Wildcard)),
            ("a\u{7}", PatternError::Filter(FilterError::ControlCharacter)),
            ("$share", PatternError::Filter(FilterError::ShareName)),
            ("$share/g/t", PatternError::Shared),
            (&long, PatternError::TooManyLevels),
            ("$%u/#", PatternError::NameBehindDollar),
            ("$SYS%c", PatternError::NameBehindDollar),
        ] {
            assert_eq!(check_pattern(topic), Err(error), "{topic:?}");
            assert!(!error.to_string().is_empty());
        }
        assert_eq!(check_pattern(&long[2..long.len()]), Ok(()));
    }
}
