//! Where each value of a configuration comes from.

use crate::settings::Config;
use crate::settings::value::Section;
use std::collections::BTreeMap;
use std::fmt;

/// The place that has set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file.
    Line {
        /// The name of the file, as it was given or found.
        file: String,
        /// The line, from 1.
        line: usize,
    },
    /// A variable of the environment, by its name.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Line { file, line } => write!(f, "{file}:{line}"),
            Origin::Variable(name) => f.write_str(name),
        }
    }
}

/// The origins of all values that have one, by key: `limits.connections`, `listeners[1].address`. What is not here has
/// its default. A listener has an origin too, `listeners[1]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// The origin of a value. `None`: it is the default.
    pub fn of(&self, key: &str) -> Option<&Origin> {
        self.0.get(key)
    }

    /// Notes who has set a value last.
    pub fn set(&mut self, key: String, origin: Origin) {
        self.0.insert(key, origin);
    }
}

/// The configuration in force as a file that midge can read, with the origin of each value as a comment.
pub fn written(config: &Config, origins: &Origins) -> String {
    let mut text = String::new();
    for (place, listener) in config.listeners.iter().enumerate() {
        write_section(&mut text, listener, "[[listeners]]", &format!("listeners[{}]", place + 1), origins);
    }
    for section in config.sections() {
        write_section(&mut text, section, &format!("[{}]", section.name()), section.name(), origins);
    }
    text
}

fn write_section(text: &mut String, section: &dyn Section, header: &str, prefix: &str, origins: &Origins) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(header);
    text.push('\n');
    for row in section.rows() {
        let value = section.shown(row.key).unwrap_or_default();
        let origin = origins.of(&format!("{prefix}.{}", row.key));
        let setting = match value.is_empty() {
            true => format!("# {} =", row.key),
            false => format!("{} = {value}", row.key),
        };
        let origin = match origin {
            Some(origin) => origin.to_string(),
            None if value.is_empty() => "left out".to_owned(),
            None => "default".to_owned(),
        };
        text.push_str(&format!("{setting:COLUMN$} # {}\n", plain(&origin)));
    }
}

/// The column of the comments.
const COLUMN: usize = 48;

/// A name of a file in a comment: a control character would end the line.
fn plain(words: &str) -> String {
    words.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse::parse;

    #[test]
    fn what_is_written_reads_as_the_same_configuration() {
        let mut config = Config::default();
        config.listeners.push(crate::settings::Listener::default());
        config.listeners[1].address =
            crate::settings::Address::parse("unix:/run/midge.sock").expect("an address");
        config.listeners[1].allow_anonymous = Some(true);
        config.auth.password_file = format!("/etc/{}/\"quoted\\", "long".repeat(60));
        config.limits.connections = 7;
        let mut origins = Origins::default();
        origins
            .set("limits.connections".to_owned(), Origin::Variable("MIDGE__LIMITS__CONNECTIONS".to_owned()));
        origins.set(
            "listeners[2].address".to_owned(),
            Origin::Line { file: "conf.d/a\n.toml".to_owned(), line: 4 },
        );
        let text = written(&config, &origins);
        assert_eq!(parse("midge.toml", &text), Ok(config), "{text}");
        let line = |start: &str| text.lines().rfind(|line| line.starts_with(start)).expect("a line");
        assert!(line("connections = 7").ends_with(" # MIDGE__LIMITS__CONNECTIONS"), "{text}");
        assert!(line("address = \"unix").ends_with(" # conf.d/a\u{fffd}.toml:4"), "{text}");
        assert!(line("handshakes = ").ends_with(" # default"), "{text}");
        assert!(line("# jwt =").ends_with(" # left out"), "{text}");
    }
}
