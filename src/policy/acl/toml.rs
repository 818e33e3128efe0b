//! Reads an access list in TOML. `config/acl.toml` is the manual of its format.
//!
//! The input is the text of a file. The output is an [`Acl`], or up to
//! [`ERRORS_MAX`](crate::base::ERRORS_MAX) errors, each with the file, the line, the key and what is allowed.
//! A file that is not TOML gives one error, for the first place that can't be read.

use toml_edit::{Array, Document, Item, Key, TableLike, Value};

use super::{Acl, Actions, Builder, Rule, RuleEffect, RuleError, Subscribing, Who, check_pattern};
use crate::base::{Diagnostic, Diagnostics};
use crate::mqtt::has_forbidden_character;
use crate::settings::value::quoted;

/// Checks the text of a file. `file` is its name in errors. Without any rule, the default applies to all
/// clients.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(file: &str, text: &str) -> Result<Acl, Diagnostics> {
    let document = Document::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let message = format!("not TOML: {}", error.message().replace('\n', " "));
        Diagnostics::one(file, Some(line_of(text, offset)), "", message)
    })?;
    let mut reader = Reader {
        default: RuleEffect::Deny,
        subscribing: Subscribing::Strict,
        rules: Vec::new(),
        wrongs: Vec::new(),
    };
    reader.read_root(document.as_table());
    reader.finish(file, text)
}

/// A place in the text, in bytes from its start.
type Offset = usize;

/// One error.
struct Wrong {
    offset: Offset,
    key: String,
    message: String,
}

struct Reader {
    default: RuleEffect,
    subscribing: Subscribing,
    rules: Vec<(Offset, Rule)>,
    wrongs: Vec<Wrong>,
}

const ROOT_KEYS: [&str; 3] = ["default", "subscribing", RULES];
const RULES: &str = "rules";
const RULE_KEYS: [&str; 7] = ["users", "anonymous", "everyone", "clients", "allow", "deny", "topics"];

const DEFAULTS: [(&str, RuleEffect); 2] = [("deny", RuleEffect::Deny), ("allow", RuleEffect::Allow)];
const SUBSCRIBINGS: [(&str, Subscribing); 2] =
    [("strict", Subscribing::Strict), ("filtered", Subscribing::Filtered)];
/// Every subscriber receives what is published, so the two words for reading mean the same.
const ACTIONS: [(&str, Actions); 6] = [
    ("publish", Actions::PUBLISH),
    ("write", Actions::PUBLISH),
    ("subscribe", Actions::READ),
    ("read", Actions::READ),
    ("receive", Actions::RECEIVE),
    ("all", Actions::ALL),
];

impl Reader {
    fn finish(mut self, file: &str, text: &str) -> Result<Acl, Diagnostics> {
        let mut builder = Builder::new(self.default, self.subscribing).with_file(file);
        let mut lines = Lines { text, counted: 0, line: 1 };
        // The limit is reported for the first rule that exceeds it, and only if there is no other error.
        if self.wrongs.is_empty() {
            for (number, (offset, rule)) in self.rules.iter().enumerate() {
                if let Err(error) = builder.add_rule(number, rule, lines.at(*offset)) {
                    let message = match error {
                        RuleError::TooMany => error.to_string(),
                        RuleError::Pattern { topic, error, .. } => format!("got {}: {error}", quoted(&topic)),
                    };
                    self.wrongs.push(Wrong { offset: *offset, key: rule_key(number), message });
                    break;
                }
            }
        }
        if self.wrongs.is_empty() {
            return Ok(builder.finish());
        }
        self.wrongs.sort_by_key(|wrong| wrong.offset);
        let mut errors = Diagnostics { errors: Vec::new(), more: 0 };
        let mut line = 1;
        let mut counted = 0;
        for Wrong { offset, key, message } in self.wrongs {
            let offset = offset.min(text.len());
            line += newlines(&text.as_bytes()[counted..offset]);
            counted = offset;
            errors.add(Diagnostic { file: file.to_string(), line: Some(line), key, message });
        }
        Err(errors)
    }

    fn refuse(&mut self, offset: Offset, key: impl Into<String>, message: impl Into<String>) {
        self.wrongs.push(Wrong { offset, key: key.into(), message: message.into() });
    }

    fn read_root(&mut self, root: &dyn TableLike) {
        for (name, item) in root.iter() {
            let offset = offset_of(root, name, item);
            match name {
                "default" => self.default = self.choice(name, item, &DEFAULTS).unwrap_or(self.default),
                "subscribing" => {
                    self.subscribing = self.choice(name, item, &SUBSCRIBINGS).unwrap_or(self.subscribing);
                }
                RULES => self.read_rules(item, offset),
                _ if RULE_KEYS.contains(&name) => {
                    let message = "unknown key; it belongs in a [[rules]] table";
                    self.refuse(offset, name, message);
                }
                _ => self.refuse(offset, shown_key(name), unknown_key(name, &ROOT_KEYS)),
            }
        }
    }

    fn choice<T: Copy>(&mut self, key: &str, item: &Item, words: &[(&str, T)]) -> Option<T> {
        let found = item.as_str().and_then(|word| words.iter().find(|(known, _)| *known == word));
        if found.is_none() {
            let allowed: Vec<String> = words.iter().map(|(word, _)| quoted(word)).collect();
            let message = format!("got {}; allowed is {}", got(item), allowed.join(" or "));
            self.refuse(start_of(item), key, message);
        }
        found.map(|(_, value)| *value)
    }

    fn read_rules(&mut self, item: &Item, offset: Offset) {
        let place = |span: Option<std::ops::Range<Offset>>| span.map_or(offset, |span| span.start);
        let tables: Option<Vec<(Offset, &dyn TableLike)>> = match item {
            Item::ArrayOfTables(tables) => {
                Some(tables.iter().map(|table| (place(table.span()), table as &dyn TableLike)).collect())
            }
            Item::Value(Value::Array(values)) => values
                .iter()
                .map(|value| {
                    value.as_inline_table().map(|table| (place(value.span()), table as &dyn TableLike))
                })
                .collect(),
            _ => None,
        };
        let Some(tables) = tables else {
            let message = format!("got {}; write a table [[rules]] for each rule", got(item));
            return self.refuse(offset, RULES, message);
        };
        for (number, (offset, table)) in tables.into_iter().enumerate() {
            let wrongs = self.wrongs.len();
            let rule = self.read_rule(&rule_key(number), offset, table);
            if let Some(rule) = rule.filter(|_| self.wrongs.len() == wrongs) {
                self.rules.push((offset, rule));
            }
        }
    }

    /// The rule, if it is complete. All of its errors have been recorded.
    fn read_rule(&mut self, prefix: &str, offset: Offset, table: &dyn TableLike) -> Option<Rule> {
        for (name, item) in table.iter() {
            if !RULE_KEYS.contains(&name) {
                let key = format!("{prefix}.{}", shown_key(name));
                self.refuse(offset_of(table, name, item), key, unknown_key(name, &RULE_KEYS));
            }
        }
        let key = |name: &str| format!("{prefix}.{name}");
        let users = table.get("users").map(|item| self.names(key("users"), item));
        let clients = table.get("clients").map(|item| self.names(key("clients"), item));
        let anonymous = table.get("anonymous").is_some_and(|item| self.truth(key("anonymous"), item));
        let everyone = table.get("everyone").is_some_and(|item| self.truth(key("everyone"), item));
        let who =
            self.who(prefix, offset, Subjects { users, has_clients: clients.is_some(), anonymous, everyone });
        let (effect, actions) = match (table.get("allow"), table.get("deny")) {
            (Some(item), None) => (RuleEffect::Allow, self.actions(key("allow"), item)),
            (None, Some(item)) => (RuleEffect::Deny, self.actions(key("deny"), item)),
            (Some(_), Some(item)) => {
                let offset = offset_of(table, "deny", item);
                self.refuse(offset, key("deny"), "a rule allows or denies: write two rules");
                return None;
            }
            (None, None) => {
                self.refuse(offset, prefix, "missing key: allow = [...] or deny = [...]");
                return None;
            }
        };
        let Some(item) = table.get("topics") else {
            self.refuse(offset, prefix, "missing key: topics = [...]");
            return None;
        };
        let is_anonymous_only = matches!(&who, Some(Who::Some { users, .. }) if users.is_empty());
        let topics = self.topics(key("topics"), item, is_anonymous_only);
        Some(Rule { who: who?, clients: clients.unwrap_or_default(), effect, actions, topics })
    }

    fn who(&mut self, prefix: &str, offset: Offset, subjects: Subjects) -> Option<Who> {
        let Subjects { users, has_clients, anonymous, everyone } = subjects;
        if everyone {
            if anonymous || users.is_some() {
                let message = "everyone includes users and anonymous: leave them out";
                self.refuse(offset, format!("{prefix}.everyone"), message);
            }
            return Some(Who::Everyone);
        }
        match users {
            None if !anonymous && has_clients => Some(Who::Everyone),
            None if !anonymous => {
                let names = "users = [...], clients = [...], anonymous = true or everyone = true";
                self.refuse(offset, prefix, format!("for whom? Give {names}"));
                None
            }
            users => Some(Who::Some { anonymous, users: users.unwrap_or_default() }),
        }
    }

    fn truth(&mut self, key: String, item: &Item) -> bool {
        let truth = item.as_bool();
        if truth.is_none() {
            self.refuse(start_of(item), key, format!("got {}; allowed is true or false", got(item)));
        }
        truth.unwrap_or_default()
    }

    fn names(&mut self, key: String, item: &Item) -> Vec<String> {
        self.strings(key, item, "names", |name| match name {
            "" => Some("an empty name".to_string()),
            name if name.len() > usize::from(u16::MAX) => Some("a name has at most 65535 bytes".to_string()),
            name if has_forbidden_character(name) => {
                Some("it has a control character or a non-character, which no client can send".to_string())
            }
            _ => None,
        })
    }

    fn topics(&mut self, key: String, item: &Item, is_anonymous_only: bool) -> Vec<String> {
        self.strings(key, item, "topic filters", |topic| match check_pattern(topic) {
            Err(error) => Some(error.to_string()),
            Ok(()) if is_anonymous_only && topic.contains("%u") => {
                Some("anonymous clients have no user name for %u".to_string())
            }
            Ok(()) => None,
        })
    }

    fn actions(&mut self, key: String, item: &Item) -> Actions {
        let known: Vec<&str> = ACTIONS.iter().map(|(word, _)| *word).collect();
        let find = |word: &str| ACTIONS.iter().find(|(known, _)| *known == word);
        let words = self.strings(key, item, "actions", |word| {
            find(word).is_none().then(|| format!("no action; allowed are {}", known.join(", ")))
        });
        words.iter().filter_map(|word| find(word)).fold(Actions::NONE, |all, (_, actions)| all | *actions)
    }

    /// The strings of an array, without those for which `wrong` reports an error.
    fn strings(
        &mut self,
        key: String,
        item: &Item,
        of: &str,
        wrong: impl Fn(&str) -> Option<String>,
    ) -> Vec<String> {
        let Some(array) = item.as_array().filter(|array| !array.is_empty()) else {
            let is_empty = item.as_array().is_some_and(Array::is_empty);
            let got = if is_empty { "an empty array".to_string() } else { got(item) };
            self.refuse(start_of(item), key, format!("got {got}; allowed is an array of {of}, at least one"));
            return Vec::new();
        };
        let mut strings = Vec::new();
        for value in array.iter() {
            let offset = value.span().map_or_else(|| start_of(item), |span| span.start);
            match value.as_str() {
                None => {
                    let message = format!("got {} in the array; allowed are {of} in quotes", kind_of(value));
                    self.refuse(offset, key.clone(), message);
                }
                Some(string) => match wrong(string) {
                    Some(reason) => {
                        self.refuse(offset, key.clone(), format!("got {}: {reason}", quoted(string)))
                    }
                    None => strings.push(string.to_string()),
                },
            }
        }
        strings
    }
}

/// The parts of a rule that name its clients.
struct Subjects {
    users: Option<Vec<String>>,
    has_clients: bool,
    anonymous: bool,
    everyone: bool,
}

fn rule_key(number: usize) -> String {
    format!("{RULES}[{}]", number + 1)
}

/// The place of a key in a table, or of its value if the place of the key is unknown.
fn offset_of(table: &dyn TableLike, key: &str, item: &Item) -> Offset {
    let of_key = table.get_key_value(key).and_then(|(key, _)| Key::span(key));
    of_key.map_or_else(|| start_of(item), |span| span.start)
}

fn start_of(item: &Item) -> Offset {
    item.span().map_or(0, |span| span.start)
}

/// Counts lines. It is cheap while the offsets increase.
struct Lines<'a> {
    text: &'a str,
    counted: Offset,
    line: u32,
}

impl Lines<'_> {
    fn at(&mut self, offset: Offset) -> u32 {
        let offset = offset.min(self.text.len());
        if offset < self.counted {
            (self.counted, self.line) = (0, 1);
        }
        let new = newlines(&self.text.as_bytes()[self.counted..offset]);
        self.counted = offset;
        self.line = self.line.saturating_add(u32::try_from(new).unwrap_or(u32::MAX));
        self.line
    }
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

fn line_of(text: &str, offset: Offset) -> usize {
    // For a file that ends too early, TOML's parser points to the end. The error names the last line with
    // text instead.
    let before = if offset >= text.len() { text.trim_end().as_bytes() } else { &text.as_bytes()[..offset] };
    1 + newlines(before)
}

/// A value in words, for "got ...".
fn got(item: &Item) -> String {
    match item {
        Item::Value(value) => kind_of(value),
        Item::ArrayOfTables(_) => "an array of tables".to_string(),
        Item::Table(_) => "a table".to_string(),
        Item::None => "nothing".to_string(),
    }
}

fn kind_of(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the string {}", quoted(text.value())),
        Value::Integer(number) => format!("the integer {}", number.value()),
        Value::Float(number) => format!("the float {}", number.value()),
        Value::Boolean(truth) => truth.value().to_string(),
        Value::Datetime(_) => "a date or time".to_string(),
        Value::Array(_) => "an array".to_string(),
        Value::InlineTable(_) => "a table".to_string(),
    }
}

/// A key as an error shows it: bare if TOML allows it, otherwise quoted and shortened.
fn shown_key(key: &str) -> String {
    let is_bare = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if is_bare && (1..=KEY_CHARS_MAX).contains(&key.len()) { key.to_string() } else { quoted(key) }
}

/// The longest key, in bytes, that is compared with the known keys. The comparison takes quadratic time.
const KEY_CHARS_MAX: usize = 60;

fn unknown_key(key: &str, known: &[&str]) -> String {
    let distance = |known: &str| strsim::damerau_levenshtein(&key.to_lowercase(), known);
    let near = known.iter().filter(|_| key.len() <= KEY_CHARS_MAX).min_by_key(|known| distance(known));
    let hint = match near {
        // One wrong character in three is near.
        Some(near) if distance(near) <= (near.len() / 3).max(1) => format!("; did you mean {near}?"),
        _ => ".".to_string(),
    };
    format!("unknown key{hint} Allowed are: {}", known.join(", "))
}

#[cfg(test)]
#[path = "toml_tests.rs"]
mod tests;
