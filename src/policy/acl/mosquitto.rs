//! Reads mosquitto's ACL file, with the meaning that it has in mosquitto 2.
//!
//! The input is the text of a file. The output is an [`Acl`], or up to
//! [`ERRORS_MAX`](crate::base::ERRORS_MAX) errors. The lines:
//!
//! - `topic [read|write|readwrite|deny] FILTER` is for the user of the last `user` line. Before the first
//!   one, it is for clients without a user name only. If the filter has spaces, the access word is needed.
//! - `user NAME` begins the rules of a user. The name goes to the end of the line and may have spaces.
//! - `pattern [read|write|readwrite|deny] FILTER` is for all clients. `%u` and `%c` are replaced by their
//!   user name and client identifier, at any place and as text, as in mosquitto 2.0: a name with `/` fills
//!   several levels (2.1 refuses such a client). Patterns apply after the topics of the client: a pattern
//!   can't deny what those allow. Patterns allow nothing to a client whose user name or client identifier has
//!   `+` or `#`.
//! - Empty lines and lines that begin with `#` are ignored.
//!
//! Among the topics of a client, and among the patterns, deny wins. Everything that is not allowed is denied,
//! so an empty file denies everything. A SUBSCRIBE is always allowed: messages are checked when they are
//! delivered ([`Subscribing::Filtered`]).

use super::pattern::Placeholders;
use super::tree::RuleEffects;
use super::{Acl, Actions, Builder, Grant, Principal, Refused, Round, RuleEffect, Subscribing};
use crate::base::{Diagnostic, Diagnostics};
use crate::mqtt::has_forbidden_character;
use crate::settings::value::quoted;

/// Checks the text of a file. `file` is its name in errors.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(file: &str, text: &str) -> Result<Acl, Diagnostics> {
    let mut builder = Builder::new(RuleEffect::Deny, Subscribing::Filtered).with_file(file);
    builder.rules.takes_slashes = true;
    let mut reader =
        Reader { builder, line: 0, user: None, errors: Diagnostics { errors: Vec::new(), more: 0 } };
    for (number, line) in text.split('\n').enumerate() {
        let line = line.trim_end_matches(is_space);
        // The `#` of a comment must be the first character, as in mosquitto.
        if line.starts_with('#') {
            continue;
        }
        reader.line = u32::try_from(number + 1).unwrap_or(u32::MAX);
        if let Err(wrong) = reader.read_line(line) {
            reader.errors.add(Diagnostic {
                file: file.to_string(),
                line: Some(number + 1),
                key: wrong.key.to_string(),
                message: wrong.message,
            });
        }
    }
    if reader.errors.errors.is_empty() { Ok(reader.builder.finish()) } else { Err(reader.errors) }
}

struct Reader<'a> {
    builder: Builder,
    /// The number of the current line.
    line: u32,
    user: Option<&'a str>,
    errors: Diagnostics,
}

/// What is wrong with a line.
struct Wrong {
    key: &'static str,
    message: String,
}

impl<'a> Reader<'a> {
    fn read_line(&mut self, line: &'a str) -> Result<(), Wrong> {
        let (keyword, rest) = first_word(line);
        match keyword {
            "" => Ok(()),
            "topic" => {
                let who = self.user.map_or(Principal::Anonymous, Principal::User);
                let form = Form { key: "topic", placeholders: Placeholders::Nowhere, round: Round::First };
                self.read_grant(who, form, rest)
            }
            "pattern" => {
                let form =
                    Form { key: "pattern", placeholders: Placeholders::Anywhere, round: Round::Second };
                self.read_grant(Principal::Everyone, form, rest)
            }
            "user" => self.read_user(rest),
            other => {
                let got = quoted(other);
                let message =
                    format!("got {got}; a line begins with topic, user, pattern or, as a comment, with #");
                Err(Wrong { key: "", message })
            }
        }
    }

    fn read_user(&mut self, rest: &'a str) -> Result<(), Wrong> {
        let wrong = |message: &str| Err(Wrong { key: "user", message: message.to_string() });
        let name = rest.trim_matches(is_space);
        if name.is_empty() {
            return wrong("no user name; write user NAME");
        }
        if has_forbidden_character(name) {
            return wrong("the user name has a control character or a non-character");
        }
        self.user = Some(name);
        Ok(())
    }

    fn read_grant(&mut self, who: Principal<'_>, form: Form, rest: &str) -> Result<(), Wrong> {
        let wrong = |message: String| Wrong { key: form.key, message };
        let (first, behind) = first_word(rest);
        // If the line has only one word, it is the filter, even if it is `read`.
        let (access, topic) = match behind.trim_matches(is_space) {
            "" => ("readwrite", first),
            topic => (first, topic),
        };
        if topic.is_empty() {
            return Err(wrong(format!(
                "no topic filter; write {} [read|write|readwrite|deny] FILTER",
                form.key
            )));
        }
        let (effect, actions) = match access {
            "read" => (RuleEffect::Allow, Actions::READ),
            "write" => (RuleEffect::Allow, Actions::PUBLISH),
            "readwrite" => (RuleEffect::Allow, Actions::ALL),
            // The SUBSCRIBE is allowed anyway.
            "deny" => (RuleEffect::Deny, Actions::PUBLISH | Actions::RECEIVE),
            other => {
                let got = quoted(other);
                return Err(wrong(format!("got {got}; allowed is read, write, readwrite or deny")));
            }
        };
        let effects = RuleEffects::of(effect, actions, form.round);
        let grant = Grant { topic, placeholders: form.placeholders, effects, line: self.line };
        self.builder.add(who, None, grant).map_err(|refused| {
            wrong(match refused {
                Refused::Pattern(error) => format!("got {}: {error}", quoted(topic)),
                Refused::TooMany => Refused::too_many_in_words(),
            })
        })
    }
}

/// The differences between the two kinds of grant.
#[derive(Clone, Copy)]
struct Form {
    key: &'static str,
    placeholders: Placeholders,
    round: Round,
}

/// The first word, and the text after the space that ends it.
fn first_word(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches(' ');
    text.split_once(' ').unwrap_or((text, ""))
}

/// Whether a character is white space for C's `isspace`.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t'..='\r')
}

#[cfg(test)]
#[path = "mosquitto_tests.rs"]
mod tests;
