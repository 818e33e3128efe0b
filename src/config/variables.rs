//! Variables of the environment that override options: `MIDGE__LIMITS__CONNECTIONS`, `MIDGE__LISTENERS__1__ADDRESS`.

use super::origins::Origin;
use super::parse::{self, Draft, LISTENERS};
use crate::base::Diagnostic;
use crate::settings::options::LISTENERS_MAX;
use crate::settings::value::{Allowed, Literal, Section};
use crate::settings::{Config, Listener};
use std::ffi::OsString;
use toml_edit::{Item, Value};

/// What the names of these variables begin with.
pub const PREFIX: &str = "MIDGE__";

/// The option that a variable sets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    /// An option of a listener, by the listener's number, from 1.
    Listener(usize, String),
    /// A section and a key.
    Section(String, String),
}

/// Sets the options that variables name. Returns the names of the variables.
pub(super) fn apply(
    draft: &mut Draft,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in variables {
        if !name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let shown = name.to_string_lossy().into_owned();
        match (target(&shown), value.into_string()) {
            (Ok(target), Ok(value)) => found.push((target, shown, value)),
            (Err(message), _) => refuse(draft, &shown, String::new(), message),
            (_, Err(_)) => refuse(draft, &shown, String::new(), "its value is not UTF-8".to_owned()),
        }
    }
    // A listener can be added only after those before it.
    found.sort();
    for (target, name, value) in &found {
        if let Err((key, message)) = set(draft, target, name, value) {
            refuse(draft, name, key, message);
        }
    }
    found.into_iter().map(|(_, name, _)| name).collect()
}

fn refuse(draft: &mut Draft, name: &str, key: String, message: String) {
    let file = format!("environment variable {}", name.escape_debug());
    draft.refuse(Diagnostic { file, line: None, key, message });
}

/// The option that a name stands for.
fn target(name: &str) -> Result<Target, String> {
    let rest = name.strip_prefix(PREFIX).unwrap_or_default();
    if rest.chars().any(|character| character.is_lowercase()) {
        return Err(format!("write it in upper case: {}", name.to_uppercase().escape_debug()));
    }
    let rest = rest.to_ascii_lowercase();
    let parts: Vec<&str> = rest.split("__").collect();
    match parts[..] {
        [LISTENERS, number, key] => match number.parse() {
            Ok(number) if (1..=LISTENERS_MAX).contains(&number) => {
                Ok(Target::Listener(number, key.to_owned()))
            }
            _ => Err(format!("listeners are counted from 1 to {LISTENERS_MAX}")),
        },
        [LISTENERS, ..] => Err("a variable of a listener is MIDGE__LISTENERS__1__KEY".to_owned()),
        [section, key] => Ok(Target::Section(section.to_owned(), key.to_owned())),
        _ => Err("allowed is MIDGE__SECTION__KEY".to_owned()),
    }
}

/// Sets an option. An error has the key.
fn set(draft: &mut Draft, target: &Target, name: &str, value: &str) -> Result<(), (String, String)> {
    let origin = || Origin::Variable(name.to_owned());
    match target {
        Target::Listener(number, key) => {
            let listener = format!("{LISTENERS}[{number}]");
            let full = format!("{listener}.{}", parse::shown_key(key));
            let there = draft.config.listeners.len();
            if *number > there + 1 {
                return Err((
                    full,
                    format!("there are {there} listeners: the next is {LISTENERS}[{}]", there + 1),
                ));
            }
            if *number == there + 1 {
                draft.config.listeners.push(Listener::default());
                draft.origins.set(listener, origin());
            }
            set_in(&mut draft.config.listeners[number - 1], key, value)
                .map_err(|message| (full.clone(), message))?;
            draft.origins.set(full, origin());
        }
        Target::Section(section, key) => {
            let full = format!("{}.{}", parse::shown_key(section), parse::shown_key(key));
            let known: Vec<&str> =
                Config::default().sections().iter().map(|section| section.name()).collect();
            let sections = draft.config.sections_mut();
            let Some(found) = sections.into_iter().find(|known| known.name() == section) else {
                let hint = match parse::nearest(section, &known) {
                    Some(near) => format!("; did you mean {}?", variable(near, key)),
                    None => ".".to_owned(),
                };
                return Err((full, format!("unknown section{hint} Sections: {}", known.join(", "))));
            };
            set_in(found, key, value).map_err(|message| (full.clone(), message))?;
            draft.origins.set(full, origin());
        }
    }
    Ok(())
}

fn variable(section: &str, key: &str) -> String {
    format!("{PREFIX}{}__{}", section.to_uppercase(), key.to_uppercase().escape_debug())
}

fn set_in(section: &mut dyn Section, key: &str, value: &str) -> Result<(), String> {
    let allowed = section.rows().iter().find(|row| row.key == key).map(|row| row.allowed);
    parse::set_option(section, key, &literal(value, allowed.as_ref()))
}

/// The value of a variable: as a file would have it, or, where a string is allowed, without quotes.
fn literal(value: &str, allowed: Option<&Allowed>) -> Literal {
    let as_toml = value.trim().parse::<Value>().ok().map(|value| parse::literal_of(&Item::Value(value)));
    let plain = Literal::Text(value.to_owned());
    match (as_toml, allowed) {
        (Some(literal), Some(allowed)) if allowed.fits_type(&literal) || !allowed.fits_type(&plain) => {
            literal
        }
        _ => plain,
    }
}
