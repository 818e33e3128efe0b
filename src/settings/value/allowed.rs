//! The allowed values of an option: its type and its bounds, also in words.

use super::{Literal, Refused};
use std::fmt;

/// The allowed values of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// A whole number from `min` to `max`, both included.
    Integer {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// A power of two from `min` to `max`, both included.
    PowerOfTwo {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// `true` or `false`.
    Boolean,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A string of at most `bytes_max` bytes of UTF-8 that MQTT can carry: no control characters.
    Text {
        /// Longest string, in bytes.
        bytes_max: usize,
    },
    /// An array of at most `count_max` strings, each as with `Text`.
    Texts {
        /// Longest string, in bytes.
        bytes_max: usize,
        /// The largest number of strings.
        count_max: usize,
    },
    /// An array of some of a few words.
    Choices(&'static [&'static str]),
    /// An array of at most `count_max` addresses and networks.
    Networks {
        /// The largest number of addresses and networks.
        count_max: usize,
    },
    /// `host:port`, where the host is an address or a name, or `unix:/path`.
    Address,
    /// The address of the admin interface; see [`crate::settings::AdminAddress`].
    AdminAddress,
    /// Permission bits in octal.
    FileMode,
    /// Cores to run on; see [`crate::settings::Pin`].
    Pin,
}

impl Allowed {
    /// Whether a literal has the right type. Its value does not matter.
    pub fn fits_type(&self, literal: &Literal) -> bool {
        match self {
            Allowed::Integer { .. } | Allowed::PowerOfTwo { .. } => matches!(literal, Literal::Integer(_)),
            Allowed::Boolean => matches!(literal, Literal::Boolean(_)),
            Allowed::Choice(_)
            | Allowed::Text { .. }
            | Allowed::Address
            | Allowed::AdminAddress
            | Allowed::FileMode
            | Allowed::Pin => {
                matches!(literal, Literal::Text(_))
            }
            Allowed::Choices(_) | Allowed::Texts { .. } | Allowed::Networks { .. } => {
                matches!(literal, Literal::Texts(_))
            }
        }
    }

    /// A literal as a number inside of the bounds.
    pub(super) fn integer(&self, literal: &Literal) -> Result<u64, Refused> {
        let &Literal::Integer(number) = literal else { return Err(Refused::NotAllowed) };
        let number = u64::try_from(number).map_err(|_| Refused::NotAllowed)?;
        let good = match *self {
            Allowed::Integer { min, max } => (min..=max).contains(&number),
            Allowed::PowerOfTwo { min, max } => (min..=max).contains(&number) && number.is_power_of_two(),
            _ => false,
        };
        if good { Ok(number) } else { Err(Refused::NotAllowed) }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Integer { min, max } => write!(f, "an integer from {min} to {max}"),
            Allowed::PowerOfTwo { min, max } => write!(f, "a power of two from {min} to {max}"),
            Allowed::Boolean => f.write_str("true or false"),
            Allowed::Choice(words) => f.write_str(&words_in_quotes(words)),
            Allowed::Texts { bytes_max, count_max } => {
                write!(
                    f,
                    "an array of at most {count_max} strings of at most {bytes_max} bytes without control \
                     characters"
                )
            }
            Allowed::Choices(words) => {
                write!(f, "an array with one or more of {}", words_in_quotes(words))
            }
            Allowed::Networks { count_max } => {
                write!(
                    f,
                    "an array of at most {count_max} addresses and networks, such as \"192.0.2.7\", \"10.0.0.0/8\" and \
                     \"2001:db8::/32\""
                )
            }
            Allowed::Text { bytes_max } => {
                write!(f, "a string of at most {bytes_max} bytes without control characters")
            }
            Allowed::Pin => f.write_str(
                "\"auto\", \"none\", or numbers of cores from 0 to 1023 and ranges of them, each once, such as \"0\" and \
                 \"2,4-7\"",
            ),
            Allowed::AdminAddress => f.write_str(
                "\"auto\", \"unix:PATH\", \"ADDRESS:PORT\", \"HOSTNAME:PORT\" or \"\", such as \
                 \"unix:/run/midge/admin.sock\" or \"127.0.0.1:9883\"",
            ),
            Allowed::FileMode => f.write_str("permissions in octal from \"0000\" to \"0777\", such as \"0660\""),
            Allowed::Address => f.write_str(
                "\"ADDRESS:PORT\", \"HOSTNAME:PORT\" or \"unix:PATH\", such as \"0.0.0.0:1883\", \"[::]:1883\", \
                 \"localhost:1883\" or \"unix:/run/midge/midge.sock\"",
            ),
        }
    }
}

/// Words in quotes, joined by commas and "or".
fn words_in_quotes(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match words.as_slice() {
        [start @ .., last] if !start.is_empty() => format!("{} or {last}", start.join(", ")),
        words => words.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LogFormat, LogLevel};
    use super::*;

    #[test]
    fn choices_are_listed_in_words() {
        assert_eq!(Allowed::Choice(LogFormat::WORDS).to_string(), "\"human\" or \"json\"");
        assert_eq!(Allowed::Choice(&["mqtt"]).to_string(), "\"mqtt\"");
        assert_eq!(
            Allowed::Choice(LogLevel::WORDS).to_string(),
            "\"error\", \"warn\", \"info\", \"debug\" or \"trace\""
        );
    }
}
