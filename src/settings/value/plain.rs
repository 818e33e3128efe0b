//! Reads and shows option values of standard types: numbers, booleans, strings, and lists of strings and
//! networks.

use super::literal::{written, written_list};
use super::{Allowed, Literal, Refused, Setting};
use crate::settings::Network;

/// An option of a listener that may be left out. The option of the whole broker then applies.
impl<T: Setting> Setting for Option<T> {
    fn read(literal: &Literal, allowed: &Allowed) -> Result<Self, Refused> {
        T::read(literal, allowed).map(Some)
    }

    fn shown(&self) -> String {
        self.as_ref().map(T::shown).unwrap_or_default()
    }

    const MAY_BE_LEFT_OUT: bool = true;
}

macro_rules! integer_settings {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            fn read(literal: &Literal, allowed: &Allowed) -> Result<Self, Refused> {
                // A test finds rows whose bounds exceed their type. This code refuses such a value instead of
                // truncating it.
                <$type>::try_from(allowed.integer(literal)?).map_err(|_| Refused::NotAllowed)
            }

            fn shown(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

integer_settings!(u8, u16, u32, u64, usize);

impl Setting for bool {
    fn read(literal: &Literal, _: &Allowed) -> Result<Self, Refused> {
        match literal {
            Literal::Boolean(truth) => Ok(*truth),
            _ => Err(Refused::NotAllowed),
        }
    }

    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn read(literal: &Literal, allowed: &Allowed) -> Result<Self, Refused> {
        match (literal, allowed) {
            // [MQTT5-1.5.4-2] Some strings of the file go on the wire, so they must be strings that MQTT can
            // carry.
            (Literal::Text(text), Allowed::Text { bytes_max })
                if text.len() <= *bytes_max && !text.chars().any(char::is_control) =>
            {
                Ok(text.clone())
            }
            _ => Err(Refused::NotAllowed),
        }
    }

    fn shown(&self) -> String {
        written(self)
    }
}

impl Setting for Vec<String> {
    fn read(literal: &Literal, allowed: &Allowed) -> Result<Self, Refused> {
        match (literal, allowed) {
            (Literal::Texts(texts), Allowed::Texts { bytes_max, count_max })
                if texts.len() <= *count_max
                    && texts
                        .iter()
                        .all(|text| text.len() <= *bytes_max && !text.chars().any(char::is_control)) =>
            {
                Ok(texts.clone())
            }
            _ => Err(Refused::NotAllowed),
        }
    }

    fn shown(&self) -> String {
        written_list(self.iter().map(String::as_str))
    }
}

impl Setting for Vec<Network> {
    fn read(literal: &Literal, allowed: &Allowed) -> Result<Self, Refused> {
        let (Literal::Texts(texts), Allowed::Networks { count_max }) = (literal, allowed) else {
            return Err(Refused::NotAllowed);
        };
        if texts.len() > *count_max {
            return Err(Refused::NotAllowed);
        }
        let network = |text: &String| text.parse().map_err(|_| Refused::Element(text.clone()));
        texts.iter().map(network).collect()
    }

    fn shown(&self) -> String {
        let texts: Vec<String> = self.iter().map(ToString::to_string).collect();
        written_list(texts.iter().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_of_two_is_checked_against_both_bounds() {
        let allowed = Allowed::PowerOfTwo { min: 2, max: 8 };
        for (number, good) in
            [(0, false), (1, false), (2, true), (3, false), (8, true), (16, false), (-4, false)]
        {
            assert_eq!(u64::read(&Literal::Integer(number), &allowed).is_ok(), good, "{number}");
        }
    }

    #[test]
    fn a_string_that_mqtt_cannot_carry_is_refused() {
        let allowed = Allowed::Text { bytes_max: 4 };
        assert!(String::read(&Literal::Text("abcd".into()), &allowed).is_ok());
        assert!(String::read(&Literal::Text("abcde".into()), &allowed).is_err());
        assert!(String::read(&Literal::Text("a\0".into()), &allowed).is_err());
    }
}
