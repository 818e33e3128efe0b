//! Access control: what a client may publish, subscribe to and receive.
//!
//! The input is a list of rules, from code or from a file. The output is an [`Acl`], which gives each client
//! its [`Permissions`] at login. They decide about topic names and topic filters without allocating, for
//! every message.
//!
//! A rule names its clients, says whether it allows or denies, and names the [`Actions`] and the topics:
//! topic filters in which `%u` stands for the user name and `%c` for the client identifier. **Deny wins over
//! allow**, whatever the order of the rules. If no rule applies, the default does. A filter that begins with
//! a wildcard or a name does not apply to topics that begin with `$`, as everywhere in MQTT. To let a client
//! read `$SYS/#`, a rule must begin with `$SYS`, or `default = "allow"` must be set. `[MQTT5-4.7.2-1]`
//!
//! A name that a client has chosen must not widen a rule. This concerns names that are empty, contain `+`,
//! `#` or `/`, or would put a `$` at the beginning of the topic. A rule that allows does not apply to such a
//! client. A rule that denies applies to everything from the level with the name downwards, so that no client
//! escapes it by its name. In mosquitto's files a name with `/` is ordinary text, as in mosquitto 2.0.
//!
//! The files: `toml` (feature `runtime`) and `mosquitto` read files, and `error` has their errors.
//! `permissions` decides. `tree` holds the topics of the rules, and `pattern` parses them. `filters` compares
//! two filters.

mod filters;
pub mod mosquitto;
mod pattern;
mod permissions;
pub mod toml;
mod tree;

pub use filters::{covers, intersects};
pub use pattern::{LEVELS_MAX, PatternError, check_pattern};
pub use permissions::{Permissions, RuleHit, RuleQuestion, RuleVerdict};

use std::collections::BTreeMap;
use std::fmt;
use std::ops::BitOr;
use std::sync::Arc;

use pattern::Placeholders;
use tree::{Growing, NOTHING, Root, RuleEffects, Tree};

/// The largest number of grants and denials in an [`Acl`]: topics times users times clients.
pub const ENTRIES_MAX: usize = 1_000_000;

/// A set of actions on a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Actions(u8);

impl Actions {
    /// No action.
    pub const NONE: Actions = Actions(0);
    /// To publish, with PUBLISH or with a will.
    pub const PUBLISH: Actions = Actions(1);
    /// To subscribe.
    pub const SUBSCRIBE: Actions = Actions(2);
    /// To receive what others publish.
    pub const RECEIVE: Actions = Actions(4);
    /// To subscribe and to receive.
    pub const READ: Actions = Actions(2 | 4);
    /// Everything.
    pub const ALL: Actions = Actions(1 | 2 | 4);

    /// Whether the set contains all of `those`.
    pub fn contains(self, those: Actions) -> bool {
        self.0 & those.0 == those.0
    }
}

impl BitOr for Actions {
    type Output = Actions;

    fn bitor(self, other: Actions) -> Actions {
        Actions(self.0 | other.0)
    }
}

/// The effect of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleEffect {
    /// Allows, unless another rule denies.
    Allow,
    /// Denies, whatever another rule allows.
    Deny,
}

/// The way to decide about a SUBSCRIBE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subscribing {
    /// It is allowed if one rule that allows covers everything that the filter can match, and no rule that
    /// denies meets any of it.
    Strict,
    /// It is allowed, unless one rule denies subscribing to everything that the filter can match. Messages
    /// that the client may not receive are withheld one by one.
    Filtered,
}

/// The clients that a rule applies to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Who {
    /// Every client, with or without a user name.
    Everyone,
    /// Clients without a user name, or the listed users, or both.
    Some {
        /// Whether clients without a user name are included.
        anonymous: bool,
        /// User names, compared exactly.
        users: Vec<String>,
    },
}

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The clients that it applies to.
    pub who: Who,
    /// Only these client identifiers, compared exactly. If the list is empty, all of them.
    pub clients: Vec<String>,
    /// Allow or deny.
    pub effect: RuleEffect,
    /// The actions that it allows or denies.
    pub actions: Actions,
    /// Topic filters, with `%u` for the user name and `%c` for the client identifier at any place.
    pub topics: Vec<String>,
}

/// Why rules are refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RuleError {
    /// A topic is not a valid topic filter for a rule.
    #[error("rule {}: {}: {error}", .rule + 1, crate::settings::value::quoted(.topic))]
    Pattern {
        /// The number of the rule, from 0.
        rule: usize,
        /// The topic as it was given.
        topic: String,
        /// The problem.
        error: PatternError,
    },
    /// The rules have more than [`ENTRIES_MAX`] grants and denials.
    #[error("{}", Refused::too_many_in_words())]
    TooMany,
}

/// The compiled rules. A clone shares them.
#[derive(Clone)]
pub struct Acl {
    rules: Arc<Rules>,
    /// The permissions of all clients that no rule names, by user name, client identifier or pattern.
    with_user: Permissions,
    anonymous: Permissions,
}

impl Acl {
    /// Compiles rules.
    ///
    /// # Errors
    /// The first [`RuleError`] in the order of the rules.
    pub fn new(default: RuleEffect, subscribing: Subscribing, rules: &[Rule]) -> Result<Acl, RuleError> {
        let mut builder = Builder::new(default, subscribing);
        for (number, rule) in rules.iter().enumerate() {
            builder.add_rule(number, rule, 0)?;
        }
        Ok(builder.finish())
    }

    /// The permissions of a client that has logged in with this user name, if any, and this client
    /// identifier.
    pub fn permissions(&self, user: Option<&str>, client_id: &str) -> Permissions {
        let common = if user.is_some() { &self.with_user } else { &self.anonymous };
        Permissions::at_login(&self.rules, common, user, client_id)
    }

    /// Whether any rule depends on user names.
    pub fn names_users(&self) -> bool {
        self.rules.names_users
    }

    /// The way to decide about a SUBSCRIBE.
    pub fn subscribing(&self) -> Subscribing {
        self.rules.subscribing
    }
}

impl fmt::Debug for Acl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acl").field("subscribing", &self.rules.subscribing).finish_non_exhaustive()
    }
}

/// The compiled rules. All [`Permissions`] of an [`Acl`] share them.
struct Rules {
    tree: Tree,
    everyone: Group,
    anonymous: Group,
    users: BTreeMap<Box<str>, Group>,
    /// The actions that are allowed where no rule applies.
    default: Actions,
    subscribing: Subscribing,
    has_client_groups: bool,
    names_users: bool,
    /// Whether names with `/` stand for themselves and fill several levels, as in mosquitto 2.0.
    takes_slashes: bool,
    /// The file of the rules. Empty if they are not from a file.
    file: Box<str>,
}

/// The rules for one kind of user: for all of its clients, and for those that a rule names.
#[derive(Default)]
struct Group {
    any_client: Root,
    clients: BTreeMap<Box<str>, Root>,
}

impl Group {
    fn client(&self, client_id: &str) -> Root {
        self.clients.get(client_id).copied().unwrap_or(NOTHING)
    }
}

/// A user that a rule names, as the index stores it.
#[derive(Clone, Copy)]
enum Principal<'a> {
    Everyone,
    Anonymous,
    User(&'a str),
}

/// The round in which a rule applies. The second round decides only what the first has left open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Round {
    /// All rules except the patterns of a mosquitto file.
    First,
    /// The patterns of a mosquitto file. They allow nothing to clients whose user name or client identifier
    /// has `+` or `#`.
    Second,
}

/// A topic of a rule, with the effect of the rule.
#[derive(Clone, Copy)]
struct Grant<'a> {
    topic: &'a str,
    placeholders: Placeholders,
    effects: RuleEffects,
    /// The line in the file. 0: there is no file.
    line: u32,
}

/// Collects rules from any source.
struct Builder {
    growing: Growing,
    rules: Rules,
    entries: usize,
}

impl Builder {
    fn new(default: RuleEffect, subscribing: Subscribing) -> Builder {
        let default = if default == RuleEffect::Allow { Actions::ALL } else { Actions::NONE };
        Builder::with_default(default, subscribing)
    }

    fn with_default(default: Actions, subscribing: Subscribing) -> Builder {
        let rules = Rules {
            tree: Tree::default(),
            everyone: Group::default(),
            anonymous: Group::default(),
            users: BTreeMap::new(),
            default,
            subscribing,
            has_client_groups: false,
            names_users: false,
            takes_slashes: false,
            file: "".into(),
        };
        Builder { growing: Growing::default(), rules, entries: 0 }
    }

    fn add_rule(&mut self, number: usize, rule: &Rule, line: u32) -> Result<(), RuleError> {
        let effects = RuleEffects::of(rule.effect, rule.actions, Round::First);
        for topic in &rule.topics {
            let grant = Grant { topic, placeholders: Placeholders::Anywhere, effects, line };
            self.add_for_all(rule, grant).map_err(|refused| match refused {
                Refused::Pattern(error) => RuleError::Pattern { rule: number, topic: topic.clone(), error },
                Refused::TooMany => RuleError::TooMany,
            })?;
        }
        Ok(())
    }

    fn add_for_all(&mut self, rule: &Rule, grant: Grant<'_>) -> Result<(), Refused> {
        match &rule.who {
            Who::Everyone => self.add_for(Principal::Everyone, &rule.clients, grant),
            Who::Some { anonymous, users } => {
                if *anonymous {
                    self.add_for(Principal::Anonymous, &rule.clients, grant)?;
                }
                users.iter().try_for_each(|user| self.add_for(Principal::User(user), &rule.clients, grant))
            }
        }
    }

    fn add_for(&mut self, who: Principal<'_>, clients: &[String], grant: Grant<'_>) -> Result<(), Refused> {
        if clients.is_empty() {
            return self.add(who, None, grant);
        }
        clients.iter().try_for_each(|client| self.add(who, Some(client), grant))
    }

    fn add(&mut self, who: Principal<'_>, client: Option<&str>, grant: Grant<'_>) -> Result<(), Refused> {
        let levels = pattern::parse(grant.topic, grant.placeholders).map_err(Refused::Pattern)?;
        if self.entries == ENTRIES_MAX {
            return Err(Refused::TooMany);
        }
        self.entries += 1;
        self.rules.has_client_groups |= client.is_some();
        self.rules.names_users |= matches!(who, Principal::User(_))
            || (grant.placeholders != Placeholders::Nowhere && grant.topic.contains("%u"));
        let group = match who {
            Principal::Everyone => &mut self.rules.everyone,
            Principal::Anonymous => &mut self.rules.anonymous,
            Principal::User(name) => self.rules.users.entry(name.into()).or_default(),
        };
        let root = match client {
            None => &mut group.any_client,
            Some(client_id) => group.clients.entry(client_id.into()).or_default(),
        };
        if *root == NOTHING {
            *root = self.growing.new_root();
        }
        self.growing.insert(*root, &levels, grant.effects, grant.line);
        Ok(())
    }

    /// Sets the name of the list in refusals.
    fn with_file(mut self, file: &str) -> Builder {
        self.rules.file = file.into();
        self
    }

    fn finish(self) -> Acl {
        let rules = Arc::new(Rules { tree: self.growing.finish(), ..self.rules });
        let with_user = Permissions::common(&rules, NOTHING);
        let anonymous = Permissions::common(&rules, rules.anonymous.any_client);
        Acl { rules, with_user, anonymous }
    }
}

/// Why a grant was refused.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Pattern(PatternError),
    TooMany,
}

impl Refused {
    fn too_many_in_words() -> String {
        format!(
            "topics times users times clients are more than {ENTRIES_MAX}, which is the limit of all rules"
        )
    }
}

/// Slightly damaged files for the tests of the readers.
#[cfg(test)]
mod mutations {
    use crate::base::Random;

    /// Calls back with `count` texts that differ from the seed in one to eight places. They are the same in
    /// every run.
    pub(super) fn each(seed: &str, count: usize, mut read: impl FnMut(&str)) {
        const INSERTED: [&str; 20] = [
            "\n", " ", "\t", "\r", "#", "+", "/", "%", "$", "\"", "'", "[", "]", "=", "{", ",", "\0", "é",
            "\u{FFFE}", "topic",
        ];
        let mut random = Random::new(1);
        let mut below = |bound: usize| random.index(bound);
        for _ in 0..count {
            let mut characters: Vec<char> = seed.chars().collect();
            for _ in 0..1 + below(8) {
                let at = below(characters.len());
                match below(4) {
                    0 => drop(characters.remove(at)),
                    1 => drop(characters.splice(at..at, INSERTED[below(INSERTED.len())].chars())),
                    2 => characters.truncate((at + 1).max(16)),
                    _ => {
                        let end = (at + below(20)).min(characters.len());
                        let copy: Vec<char> = characters[at..end].to_vec();
                        let to = below(characters.len());
                        drop(characters.splice(to..to, copy));
                    }
                }
            }
            read(&characters.iter().collect::<String>());
        }
    }
}
