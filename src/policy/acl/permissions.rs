//! The permissions of one client, fixed at its login.
//!
//! The input is a topic name or topic filter. The answer is yes or no, without an allocation. A
//! [`Permissions`] is a pointer. It is null if everything is allowed. Otherwise it points to the names of the
//! client and the shared rules of its [`Acl`](super::Acl), which compare the names in place. Clients that no
//! rule names share one.

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use super::pattern::Placeholders;
use super::tree::{ClientNames, NOTHING, Name, Root, RuleEffects, RuleScope, Sought};
use super::{Actions, Builder, Grant, Principal, Refused, Round, RuleEffect, RuleError, Rules, Subscribing};
use crate::mqtt::TopicFilter;

/// What a client may publish, subscribe to and receive. A clone points to the same data.
#[derive(Clone)]
pub struct Permissions(Option<Arc<Inner>>);

enum Inner {
    Login(Login),
    Both(Permissions, Permissions),
}

/// A client as the rules see it.
struct Login {
    rules: Arc<Rules>,
    /// The rules for its user name or for anonymous clients, for its client identifier, and for both
    /// together. The rules for everyone are the same for all clients.
    roots: [Root; 3],
    /// The length of the user name at the beginning of `names`, in bytes.
    user_len: u16,
    user: NameKind,
    client_id: NameKind,
    /// The user name and the client identifier, if the rules need them.
    names: SmallVec<[u8; NAMES_INLINE_BYTES]>,
}

/// The total length of names that need no allocation, in bytes.
const NAMES_INLINE_BYTES: usize = 24;

/// How patterns treat a name of a client. If the rules do not need the name, only `Wild` is recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NameKind {
    Missing,
    Plain,
    /// It can't stand for itself.
    Unusable,
    /// It can't stand for itself because of `+` or `#`, and excludes the client from the second round.
    Wild,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Permissions>() == 8 && size_of::<Inner>() == 56);

impl Default for Permissions {
    fn default() -> Permissions {
        Permissions::everything()
    }
}

impl Permissions {
    /// No access control: everything is allowed.
    pub const fn everything() -> Permissions {
        Permissions(None)
    }

    /// The permissions from lists of topic filters of a token or a webhook. Everything outside of the lists
    /// is denied, and `None` means no limit. `%u` and `%c` have no meaning here. A SUBSCRIBE is decided as
    /// [`Strict`](Subscribing::Strict).
    ///
    /// # Errors
    /// [`RuleError`]. Its rule 0 is `publish`, its rule 1 is `subscribe`.
    pub fn of_lists(
        publish: Option<&[String]>,
        subscribe: Option<&[String]>,
    ) -> Result<Permissions, RuleError> {
        let lists = [(publish, Actions::PUBLISH), (subscribe, Actions::READ)];
        let mut unlimited = Actions::NONE;
        for (list, actions) in lists {
            unlimited = if list.is_none() { unlimited | actions } else { unlimited };
        }
        if unlimited == Actions::ALL {
            return Ok(Permissions::everything());
        }
        let mut builder = Builder::with_default(unlimited, Subscribing::Strict);
        for (rule, (list, actions)) in lists.into_iter().enumerate() {
            let effects = RuleEffects::of(RuleEffect::Allow, actions, Round::First);
            for topic in list.unwrap_or_default() {
                let grant = Grant { topic, placeholders: Placeholders::Nowhere, effects, line: 0 };
                builder.add(Principal::Everyone, None, grant).map_err(|refused| match refused {
                    Refused::Pattern(error) => RuleError::Pattern { rule, topic: topic.clone(), error },
                    Refused::TooMany => RuleError::TooMany,
                })?;
            }
        }
        Ok(builder.finish().permissions(None, ""))
    }

    /// The permissions that both allow.
    pub fn and(&self, other: &Permissions) -> Permissions {
        match (&self.0, &other.0) {
            (None, _) => other.clone(),
            (_, None) => self.clone(),
            (Some(one), Some(two)) if Arc::ptr_eq(one, two) => self.clone(),
            _ => Permissions(Some(Arc::new(Inner::Both(self.clone(), other.clone())))),
        }
    }

    /// Whether everything is allowed, so that no check is needed.
    #[inline]
    pub fn is_everything(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the client may publish to a topic name, with PUBLISH or with its will.
    #[inline]
    pub fn may_publish(&self, topic: &str) -> bool {
        self.0.as_ref().is_none_or(|inner| inner.may(topic, Actions::PUBLISH))
    }

    /// Whether the client may receive a message with this topic name.
    #[inline]
    pub fn may_receive(&self, topic: &str) -> bool {
        self.0.as_ref().is_none_or(|inner| inner.may(topic, Actions::RECEIVE))
    }

    /// Whether the client may subscribe to this topic filter. For a shared subscription, the filter after the
    /// share name decides. An invalid topic filter is refused. See [`Subscribing`].
    ///
    /// With [`Strict`](Subscribing::Strict) the client may also receive everything that the filter can match.
    pub fn may_subscribe(&self, filter: &str) -> bool {
        let Some(inner) = &self.0 else { return true };
        TopicFilter::parse(filter).is_ok_and(|filter| inner.may_subscribe(filter.matching_part()))
    }

    /// Why the client may not publish to a topic name.
    pub fn why_no_publish(&self, topic: &str) -> RuleHit {
        self.denial(RuleQuestion::Publish(topic))
    }

    /// Why the client may not subscribe to a topic filter.
    pub fn why_no_subscribe(&self, filter: &str) -> RuleHit {
        self.denial(RuleQuestion::Subscribe(filter))
    }

    fn denial(&self, question: RuleQuestion<'_>) -> RuleHit {
        self.0.as_ref().and_then(|inner| inner.denial(question)).unwrap_or_default()
    }

    /// What the rules say, and which of them.
    pub fn verdict(&self, question: RuleQuestion<'_>) -> RuleVerdict {
        let Some(inner) = &self.0 else { return RuleVerdict::NoList };
        let is_known = match question {
            RuleQuestion::Subscribe(filter) => TopicFilter::parse(filter).is_ok(),
            RuleQuestion::Publish(_) | RuleQuestion::Receive(_) => true,
        };
        match inner.denial(question) {
            Some(hit) => RuleVerdict::Denied(hit),
            None if !is_known => RuleVerdict::Denied(RuleHit::default()),
            None => RuleVerdict::Allowed(inner.grant(question)),
        }
    }

    /// Why the client may not receive a message with this topic name.
    pub fn why_no_receive(&self, topic: &str) -> RuleHit {
        self.denial(RuleQuestion::Receive(topic))
    }

    /// Whether the client may receive everything that this topic filter can match, so that no message needs a
    /// check. It may be `false` although it could be true: two rules that cover the filter only together do
    /// not count.
    pub fn receives_all_of(&self, filter: &str) -> bool {
        let Some(inner) = &self.0 else { return true };
        TopicFilter::parse(filter).is_ok_and(|filter| inner.receives_all_of(filter.matching_part()))
    }

    /// The permissions of clients that no rule names.
    pub(super) fn common(rules: &Arc<Rules>, user_root: Root) -> Permissions {
        Permissions(Some(Arc::new(Inner::Login(Login {
            rules: Arc::clone(rules),
            roots: [user_root, NOTHING, NOTHING],
            user_len: 0,
            user: NameKind::Missing,
            client_id: NameKind::Missing,
            names: SmallVec::new(),
        }))))
    }

    /// The permissions of a client that logs in. They are `common` if no rule names it.
    pub(super) fn at_login(
        rules: &Arc<Rules>,
        common: &Permissions,
        user: Option<&str>,
        client_id: &str,
    ) -> Permissions {
        let group = match user {
            None => Some(&rules.anonymous),
            Some(user) => rules.users.get(user),
        };
        let user_root = group.map_or(NOTHING, |group| group.any_client);
        let mut roots = [user_root, NOTHING, NOTHING];
        if rules.has_client_groups {
            roots[1] = rules.everyone.client(client_id);
            roots[2] = group.map_or(NOTHING, |group| group.client(client_id));
        }
        let uses = rules.tree.uses();
        let user_name = user.unwrap_or_default();
        let kind = |name, is_used| kind_of(name, is_used, rules.takes_slashes);
        let (user_kind, client_kind) = (kind(user_name, uses.user), kind(client_id, uses.client_id));
        let is_nameless = user_kind == NameKind::Missing && client_kind == NameKind::Missing;
        if is_nameless && roots[1..] == [NOTHING; 2] && (user.is_none() || user_root == NOTHING) {
            return common.clone();
        }
        let kept = |kind, name| if kind == NameKind::Plain { name } else { "" };
        let (user_name, client_id) = (kept(user_kind, user_name), kept(client_kind, client_id));
        let mut names = SmallVec::with_capacity(user_name.len() + client_id.len());
        names.extend_from_slice(user_name.as_bytes());
        names.extend_from_slice(client_id.as_bytes());
        // `kind_of` has checked that a plain name is short enough.
        let user_len = user_name.len() as u16;
        let rules = Arc::clone(rules);
        let login = Login { rules, roots, user_len, user: user_kind, client_id: client_kind, names };
        Permissions(Some(Arc::new(Inner::Login(login))))
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_deref() {
            None => f.write_str("Everything"),
            Some(Inner::Login(_)) => f.write_str("ByRules"),
            Some(Inner::Both(one, two)) => f.debug_tuple("Both").field(one).field(two).finish(),
        }
    }
}

fn kind_of(name: &str, is_used: bool, takes_slashes: bool) -> NameKind {
    match name {
        name if name.contains(['+', '#']) => NameKind::Wild,
        name if name.is_empty() || !is_used => NameKind::Missing,
        name if name.contains('/') && !takes_slashes || name.len() > NAME_BYTES_MAX => NameKind::Unusable,
        _ => NameKind::Plain,
    }
}

/// The longest name that a packet can carry, in bytes.
const NAME_BYTES_MAX: usize = u16::MAX as usize;

/// The rule or the list that has denied something, for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleHit {
    /// The access list. Empty: the lists that came with the login, such as those of a token.
    file: Box<str>,
    /// The line of the rule that denies. 0: no rule allows it.
    line: u32,
}

impl fmt::Display for RuleHit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&*self.file, self.line) {
            ("", _) => f.write_str("no list that came with the login has it"),
            (file, 0) => write!(f, "{file}: no rule allows it"),
            (file, line) => write!(f, "{file}:{line}"),
        }
    }
}

/// What the rules are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleQuestion<'a> {
    /// May the client publish to this topic name?
    Publish(&'a str),
    /// May it receive messages with this topic name?
    Receive(&'a str),
    /// May it subscribe to this topic filter?
    Subscribe(&'a str),
}

/// What the rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleVerdict {
    /// There is no access list: everything is allowed.
    NoList,
    /// Every list allows it, by these rules.
    Allowed(Vec<RuleHit>),
    /// A list does not allow it.
    Denied(RuleHit),
}

impl RuleVerdict {
    /// Whether it is allowed.
    pub fn is_allowed(&self) -> bool {
        !matches!(self, RuleVerdict::Denied(_))
    }
}

impl fmt::Display for RuleVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleVerdict::NoList => f.write_str("there is no access list"),
            RuleVerdict::Denied(hit) => write!(f, "denied by {hit}"),
            RuleVerdict::Allowed(hits) => {
                f.write_str("allowed by ")?;
                for (number, hit) in hits.iter().enumerate() {
                    f.write_str(if number > 0 { " and " } else { "" })?;
                    match (&*hit.file, hit.line) {
                        ("", _) => f.write_str("a list that came with the login")?,
                        (file, 0) => write!(f, "the default of {file}")?,
                        (file, line) => write!(f, "{file}:{line}")?,
                    }
                }
                Ok(())
            }
        }
    }
}

impl Inner {
    /// The first list that does not allow something, and the line. `None` if all allow it.
    fn denial(&self, question: RuleQuestion<'_>) -> Option<RuleHit> {
        match self {
            Inner::Both(one, two) => {
                [one, two].into_iter().flat_map(|half| &half.0).find_map(|half| half.denial(question))
            }
            Inner::Login(login) if login.allows(question) => None,
            Inner::Login(login) => {
                let line = login.line(RuleEffect::Deny, question);
                Some(RuleHit { file: login.rules.file.clone(), line })
            }
        }
    }

    /// The rules that allow something that all lists allow.
    fn grant(&self, question: RuleQuestion<'_>) -> Vec<RuleHit> {
        match self {
            Inner::Both(one, two) => [one, two]
                .into_iter()
                .flat_map(|half| &half.0)
                .flat_map(|half| half.grant(question))
                .collect(),
            Inner::Login(login) => {
                let line = login.line(RuleEffect::Allow, question);
                vec![RuleHit { file: login.rules.file.clone(), line }]
            }
        }
    }

    fn may(&self, topic: &str, action: Actions) -> bool {
        match self {
            Inner::Login(login) => login.may(topic, action),
            Inner::Both(one, two) => both(one, two, |half| half.may(topic, action)),
        }
    }

    fn may_subscribe(&self, filter: &str) -> bool {
        match self {
            Inner::Login(login) => login.may_subscribe(filter),
            Inner::Both(one, two) => both(one, two, |half| half.may_subscribe(filter)),
        }
    }

    fn receives_all_of(&self, filter: &str) -> bool {
        match self {
            Inner::Login(login) => login.grants_all_of(filter, Actions::RECEIVE),
            Inner::Both(one, two) => both(one, two, |half| half.receives_all_of(filter)),
        }
    }
}

fn both(one: &Permissions, two: &Permissions, may: impl Fn(&Inner) -> bool) -> bool {
    [one, two].into_iter().flat_map(|half| &half.0).all(|half| may(half))
}

impl Login {
    fn may(&self, topic: &str, action: Actions) -> bool {
        let names = self.names();
        let found = self.gather(|root| self.rules.tree.matching(root, topic, names));
        found.granted(self.rules.default).contains(action)
    }

    fn may_subscribe(&self, filter: &str) -> bool {
        match self.rules.subscribing {
            Subscribing::Strict => self.grants_all_of(filter, Actions::READ),
            Subscribing::Filtered => {
                let names = self.names();
                let found = self.gather(|root| self.rules.tree.covering(root, filter, names));
                !found.denied().contains(Actions::SUBSCRIBE)
            }
        }
    }

    /// Whether grants that each cover the filter allow the actions, and no denial meets it.
    fn grants_all_of(&self, filter: &str, actions: Actions) -> bool {
        let names = self.names();
        let covering = self.gather(|root| self.rules.tree.covering(root, filter, names));
        let meeting = self.gather(|root| self.rules.tree.meeting(root, filter, names));
        covering.with_denials_of(meeting).granted(self.rules.default).contains(actions)
    }

    fn allows(&self, question: RuleQuestion<'_>) -> bool {
        match question {
            RuleQuestion::Publish(topic) => self.may(topic, Actions::PUBLISH),
            RuleQuestion::Receive(topic) => self.may(topic, Actions::RECEIVE),
            RuleQuestion::Subscribe(filter) => {
                TopicFilter::parse(filter).is_ok_and(|filter| self.may_subscribe(filter.matching_part()))
            }
        }
    }

    /// The line of a rule with this effect. 0: there is none, or it has no line.
    fn line(&self, effect: RuleEffect, question: RuleQuestion<'_>) -> u32 {
        let (scope, actions) = match question {
            RuleQuestion::Publish(topic) => (RuleScope::Topic(topic), Actions::PUBLISH),
            RuleQuestion::Receive(topic) => (RuleScope::Topic(topic), Actions::RECEIVE),
            RuleQuestion::Subscribe(filter) => {
                let Ok(filter) = TopicFilter::parse(filter) else { return 0 };
                let filter = filter.matching_part();
                match (self.rules.subscribing, effect) {
                    (Subscribing::Strict, RuleEffect::Deny) => (RuleScope::Met(filter), Actions::READ),
                    (Subscribing::Strict, RuleEffect::Allow) => (RuleScope::Covered(filter), Actions::READ),
                    (Subscribing::Filtered, _) => (RuleScope::Covered(filter), Actions::SUBSCRIBE),
                }
            }
        };
        let sought = Sought { effect, actions, scope };
        let names = self.names();
        let everyone = self.rules.everyone.any_client;
        let roots = [everyone, self.roots[0], self.roots[1], self.roots[2]].into_iter();
        roots
            .filter(|&root| root != NOTHING)
            .map(|root| self.rules.tree.line(root, sought, names))
            .find(|&line| line != 0)
            .unwrap_or_default()
    }

    #[inline]
    fn gather(&self, of: impl Fn(Root) -> RuleEffects) -> RuleEffects {
        let mut found = RuleEffects::default();
        let everyone = self.rules.everyone.any_client;
        for root in [everyone, self.roots[0], self.roots[1], self.roots[2]] {
            if root != NOTHING {
                found.add(of(root));
            }
        }
        let is_wild = self.user == NameKind::Wild || self.client_id == NameKind::Wild;
        if is_wild { found.second_round_only_denies() } else { found }
    }

    fn names(&self) -> ClientNames<'_> {
        let (user, client_id) = self.names.split_at(usize::from(self.user_len));
        let name = |kind, text| match kind {
            NameKind::Missing => Name::Missing,
            NameKind::Unusable | NameKind::Wild => Name::Unusable,
            NameKind::Plain => Name::Plain(text),
        };
        ClientNames { user: name(self.user, user), client_id: name(self.client_id, client_id) }
    }
}

#[cfg(test)]
#[path = "permissions_tests.rs"]
mod tests;
