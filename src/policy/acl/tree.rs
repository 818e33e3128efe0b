//! The topics of all rules as one tree of levels, with a root for each kind of client.
//!
//! The inputs are a root, a topic name or topic filter, and the [`ClientNames`] of a client. The output is
//! the [`RuleEffects`] of the root's rules. The tree stores a pattern once for all clients, and compares it
//! with their names in place. A walk visits a node at most once and allocates nothing. A topic that no
//! wildcard and no pattern matches takes one binary search per level.
//!
//! Topics that begin with `$` are matched only by rules that begin with `$`. `[MQTT5-4.7.2-1]`
//!
//! The files: `walk` looks topics up, `growing` builds the tree, `effects` has its results.

mod effects;
mod growing;
mod walk;

pub(super) use effects::RuleEffects;
pub(super) use growing::Growing;

use super::filters::spelt_out;
use super::pattern::LEVELS_MAX;
use super::{Actions, ENTRIES_MAX, RuleEffect};
use walk::Walk;

/// The number of the node where the rules for some clients begin. [`NOTHING`] has no rules.
pub(super) type Root = u32;

/// The root without rules.
pub(super) const NOTHING: Root = 0;

// Node numbers are 32 bits wide. Each grant adds a root, and one node per level, at most.
const _: () = assert!(ENTRIES_MAX * (LEVELS_MAX + 1) < u32::MAX as usize);

/// A name that a pattern may contain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Name<'a> {
    /// The client has no such name. Rules with this name do not apply to it.
    Missing,
    /// The name can't stand for itself. Rules with this name deny more and allow nothing.
    Unusable,
    Plain(&'a [u8]),
}

/// The names of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ClientNames<'a> {
    pub(super) user: Name<'a>,
    pub(super) client_id: Name<'a>,
}

/// The rule that is searched for.
#[derive(Clone, Copy)]
pub(super) struct Sought<'a> {
    pub(super) effect: RuleEffect,
    pub(super) actions: Actions,
    pub(super) scope: RuleScope<'a>,
}

/// What a rule must match.
#[derive(Clone, Copy)]
pub(super) enum RuleScope<'a> {
    /// A topic name.
    Topic(&'a str),
    /// All topics that a filter matches.
    Covered(&'a str),
    /// Any topic that a filter matches.
    Met(&'a str),
}

/// The tree of all rules of an access list.
#[derive(Default)]
pub(super) struct Tree {
    nodes: Box<[Node]>,
    /// The named children of all nodes. Those of one node are adjacent, sorted by their bytes.
    children: Box<[Child]>,
    named: Box<[Named]>,
    pieces: Box<[Piece]>,
    texts: Box<[u8]>,
    uses: Uses,
    /// The rules, by node. They are only needed to explain a decision.
    lines: Box<[RuleLine]>,
}

/// Where a rule ends, and its line in the file.
struct RuleLine {
    node: u32,
    /// [`HERE`] or [`REST`].
    of: usize,
    effects: RuleEffects,
    line: u32,
}

/// The names that the patterns use.
#[derive(Clone, Copy, Default)]
pub(super) struct Uses {
    pub(super) user: bool,
    pub(super) client_id: bool,
}

#[derive(Clone, Copy, Default)]
struct Node {
    children: Span,
    named: Span,
    /// The node after `+`. 0 if there is none.
    any: u32,
    /// The effects of rules that end here.
    here: RuleEffects,
    /// The effects of rules that end with `#` here.
    rest: RuleEffects,
}

#[derive(Clone, Copy)]
struct Child {
    text: Span,
    node: u32,
}

/// A level that contains names.
#[derive(Clone, Copy)]
struct Named {
    pieces: Span,
    node: u32,
    /// Everything that rules deny from here on.
    denied_below: RuleEffects,
}

#[derive(Clone, Copy)]
enum Piece {
    Text(Span),
    User,
    ClientId,
}

#[derive(Clone, Copy, Default)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn of<T>(self, all: &[T]) -> &[T] {
        &all[self.start as usize..][..self.len as usize]
    }
}

impl Tree {
    /// The effects of the rules that match a topic name.
    #[inline]
    pub(super) fn matching(&self, root: Root, topic: &str, names: ClientNames<'_>) -> RuleEffects {
        let mut walk = Walk::<false>::new(self, names, topic);
        walk.matching(root, Some(topic.as_bytes()), true);
        walk.found
    }

    /// The effects of the rules that match every topic name that a filter matches.
    pub(super) fn covering(&self, root: Root, filter: &str, names: ClientNames<'_>) -> RuleEffects {
        let mut walk = Walk::<false>::new(self, names, filter);
        walk.covering(root, Some(spelt_out(filter).as_bytes()), true);
        walk.found
    }

    /// The effects of the rules that match at least one of the topic names that a filter matches.
    pub(super) fn meeting(&self, root: Root, filter: &str, names: ClientNames<'_>) -> RuleEffects {
        let mut walk = Walk::<false>::new(self, names, filter);
        walk.meeting(root, Some(spelt_out(filter).as_bytes()), true);
        walk.found
    }

    /// The line of a rule that allows or denies one of these actions, among the rules that match a topic name, or
    /// that cover or meet a filter. 0: there is no such rule, or it has no line.
    pub(super) fn line(&self, root: Root, sought: Sought<'_>, names: ClientNames<'_>) -> u32 {
        let (RuleScope::Topic(text) | RuleScope::Covered(text) | RuleScope::Met(text)) = sought.scope;
        let mut walk = Walk::<true>::new(self, names, text);
        walk.sought = (sought.effect, sought.actions);
        match sought.scope {
            RuleScope::Topic(topic) => walk.matching(root, Some(topic.as_bytes()), true),
            RuleScope::Covered(filter) => walk.covering(root, Some(spelt_out(filter).as_bytes()), true),
            RuleScope::Met(filter) => walk.meeting(root, Some(spelt_out(filter).as_bytes()), true),
        }
        walk.line
    }

    pub(super) fn uses(&self) -> Uses {
        self.uses
    }

    fn node(&self, number: u32) -> &Node {
        &self.nodes[number as usize]
    }

    /// The line of the first rule at a place of a node that has this effect on one of these actions.
    fn line_at(&self, number: u32, of: usize, effect: RuleEffect, actions: Actions) -> u32 {
        let first = self.lines.partition_point(|rule| rule.node < number);
        let mut rules = self.lines[first..].iter().take_while(|rule| rule.node == number);
        let rule = rules.find(|rule| rule.of == of && rule.effects.has(effect, actions));
        rule.map_or(0, |rule| rule.line)
    }

    fn child(&self, node: &Node, level: &[u8]) -> Option<u32> {
        let children = node.children.of(&self.children);
        let at = children.binary_search_by(|child| child.text.of(&self.texts).cmp(level)).ok()?;
        Some(children[at].node)
    }
}

/// Which of a node's rules: those that end there, or those that end with `#` there.
const HERE: usize = 0;
const REST: usize = 1;

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
