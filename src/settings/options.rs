//! Every option of the broker, one row each: key, type, default, bounds, unit, and the text of the reference
//! manual. The struct of a section, its defaults and its rows all come from these rows.
//!
//! A test checks `config/midge.toml` against the rows. To add an option, add a row to its section in one of
//! the files in `options/`, and run the test once with `MIDGE_WRITE_MANUAL=1`.

use super::value::Allowed;
use std::ops::RangeInclusive;

/// Declares the sections. Each has a struct, its defaults and its rows.
macro_rules! sections {
    ($(
        $(#[$doc:meta])*
        $name:literal => $section:ident, $about:literal {
            $($key:ident: $type:ty = $default:expr, $allowed:expr, $unit:literal, $change:expr, $text:literal;)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        #[allow(rustdoc::broken_intra_doc_links, reason = "in the manual's texts, brackets are addresses")]
        pub struct $section {
            $(
                #[doc = concat!($text, " Unit: `", $unit, "`; allowed: `", stringify!($allowed), "`.")]
                pub $key: $type,
            )*
        }

        impl $section {
            const ROWS: &'static [OptionRow] = &[
                $(OptionRow {
                    key: stringify!($key),
                    allowed: $allowed,
                    unit: $unit,
                    change: $change,
                    text: $text,
                    may_be_left_out: <$type as Setting>::MAY_BE_LEFT_OUT,
                },)*
            ];
        }

        impl Default for $section {
            fn default() -> Self {
                $section { $($key: $default,)* }
            }
        }

        impl $section {
            /// What applies after a reload: this, with the options that only a restart changes as they are in
            /// `running`.
            pub fn with_restart_options_of(mut self, running: &$section) -> $section {
                $(if !$change.is_taken() {
                    self.$key = running.$key.clone();
                })*
                self
            }
        }

        impl Section for $section {
            fn name(&self) -> &'static str {
                $name
            }

            fn about(&self) -> &'static str {
                $about
            }

            fn rows(&self) -> &'static [OptionRow] {
                $section::ROWS
            }

            fn shown(&self, key: &str) -> Option<String> {
                match key {
                    $(stringify!($key) => Some(self.$key.shown()),)*
                    _ => None,
                }
            }

            fn set(&mut self, row: &OptionRow, literal: &Literal) -> Result<(), Refused> {
                match row.key {
                    $(stringify!($key) => self.$key = <$type as Setting>::read(literal, &row.allowed)?,)*
                    _ => return Err(Refused::NotAllowed),
                }
                Ok(())
            }
        }
    )*};
}
mod access;
mod limits;
mod listener;
mod process;
mod protocol;

pub use access::{Acl, Auth, Gate, Jwt, Webhook};
pub use limits::Limits;
pub use listener::Listener;
pub use process::{Admin, Log, Persistence, Runtime, Shutdown, Sys};
pub use protocol::Protocol;

const fn integer(allowed: RangeInclusive<u64>) -> Allowed {
    Allowed::Integer { min: *allowed.start(), max: *allowed.end() }
}

const fn power_of_two(allowed: RangeInclusive<u64>) -> Allowed {
    Allowed::PowerOfTwo { min: *allowed.start(), max: *allowed.end() }
}

/// The largest number of shards.
pub const SHARDS_MAX: u64 = 128;

/// The largest number of listeners in one file.
pub const LISTENERS_MAX: usize = 64;

/// The largest packet that MQTT's fixed header can announce, with the header, in bytes.
const PACKET_BYTES_MAX: u64 = 268_435_460;

/// Higher rates would not limit anything.
const MESSAGES_PER_SECOND_MAX: u64 = 1_000_000_000;
const BYTES_PER_SECOND_MAX: u64 = 1 << 40;

#[cfg(test)]
mod tests {
    use super::super::value::{Allowed, Literal, OptionRow, Refused, Section};
    use super::*;

    /// Calls `check` with the default of each section and each of its rows.
    fn each_row(mut check: impl FnMut(&mut dyn Section, &OptionRow)) {
        let mut config = super::super::Config::default();
        let mut listener = Listener::default();
        let mut sections: Vec<&mut dyn Section> = vec![&mut listener];
        sections.extend(config.sections_mut());
        for section in sections {
            for row in section.rows() {
                check(section, row);
            }
        }
    }

    #[test]
    fn every_bound_of_an_integer_can_be_set_and_nothing_beyond_it() {
        each_row(|section, row| {
            let (Allowed::Integer { min, max } | Allowed::PowerOfTwo { min, max }) = row.allowed else {
                return;
            };
            for bound in [min, max] {
                let literal = Literal::Integer(i64::try_from(bound).expect("bounds fit TOML's integers"));
                assert_eq!(section.set(row, &literal), Ok(()), "{}", row.key);
                assert_eq!(section.shown(row.key), Some(bound.to_string()));
            }
            for beyond in [i128::from(min) - 1, i128::from(max) + 1] {
                if let Ok(beyond) = i64::try_from(beyond) {
                    let refused = section.set(row, &Literal::Integer(beyond));
                    assert_eq!(refused, Err(Refused::NotAllowed), "{} = {beyond}", row.key);
                }
            }
            assert_eq!(section.shown(row.key), Some(max.to_string()), "a refused value changes nothing");
        });
    }

    #[test]
    fn every_word_of_a_choice_can_be_set_and_nothing_else() {
        each_row(|section, row| {
            let Allowed::Choice(words) = row.allowed else { return };
            for word in words {
                assert_eq!(section.set(row, &Literal::Text((*word).into())), Ok(()));
                assert_eq!(section.shown(row.key), Some(format!("\"{word}\"")));
            }
            assert!(section.set(row, &Literal::Text("loud".into())).is_err());
        });
    }

    #[test]
    fn every_number_has_a_unit_and_every_row_a_text_that_is_a_sentence() {
        each_row(|section, row| {
            let is_number = matches!(row.allowed, Allowed::Integer { .. } | Allowed::PowerOfTwo { .. });
            assert_eq!(is_number, !row.unit.is_empty(), "{}.{}", section.name(), row.key);
            assert!(row.text.ends_with('.'), "{}.{}", section.name(), row.key);
        });
    }

    #[test]
    fn no_value_of_a_wrong_type_is_taken() {
        let values = [
            Literal::Integer(2),
            Literal::Boolean(true),
            Literal::Text("\u{1}".into()),
            Literal::Other("an array".into()),
        ];
        each_row(|section, row| {
            for value in &values {
                if !row.allowed.fits_type(value) {
                    assert!(section.set(row, value).is_err(), "{}.{} = {value:?}", section.name(), row.key);
                }
            }
        });
    }
}
