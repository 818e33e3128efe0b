//! The topics of all rules as one tree of levels, with a root for each kind of client.
//!
//! In come a root, a topic name or topic filter, and the [`Names`] of a client; out comes what the rules of the
//! root have to say ([`Effects`]). The names stay outside: a pattern is stored once, however many clients it is
//! for, and compared with their names in place. A walk visits a node at most once and allocates nothing; a topic
//! that no wildcard and no pattern meets takes one binary search a level.
//!
//! Topics that begin with `$` are met only by rules that begin with `$`. `[MQTT5-4.7.2-1]`

use std::collections::BTreeMap;

use super::filters::spelt_out;
use super::pattern::{LEVELS_MAX, Level, Part};
use super::{Actions, ENTRIES_MAX, Effect, Round};

/// Number of the node where the rules of some clients begin; [`NOTHING`] has no rules.
pub(super) type Root = u32;

/// The root without rules.
pub(super) const NOTHING: Root = 0;

// Node numbers are 32 bits wide, and each grant adds a root and a node a level at most.
const _: () = assert!(ENTRIES_MAX * (LEVELS_MAX + 1) < u32::MAX as usize);

/// What rules have to say: a bit for each action in each of the two rounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Effects {
    allow: u8,
    deny: u8,
}

const SECOND_SHIFT: u32 = 3;

impl Effects {
    pub(super) fn of(effect: Effect, actions: Actions, round: Round) -> Effects {
        let bits = match round {
            Round::First => actions.0,
            Round::Second => actions.0 << SECOND_SHIFT,
        };
        match effect {
            Effect::Allow => Effects { allow: bits, deny: 0 },
            Effect::Deny => Effects { allow: 0, deny: bits },
        }
    }

    pub(super) fn add(&mut self, other: Effects) {
        self.allow |= other.allow;
        self.deny |= other.deny;
    }

    /// These grants with those denials.
    pub(super) fn with_denials_of(self, other: Effects) -> Effects {
        Effects { deny: other.deny, ..self }
    }

    /// Without what the second round allows.
    pub(super) fn second_round_only_denies(self) -> Effects {
        Effects { allow: self.allow & Actions::ALL.0, ..self }
    }

    /// What is granted in the end.
    #[inline]
    pub(super) fn granted(self, default: Actions) -> Actions {
        let (allow, deny) = (self.allow & Actions::ALL.0, self.deny & Actions::ALL.0);
        let (later_allow, later_deny) = (self.allow >> SECOND_SHIFT, self.deny >> SECOND_SHIFT);
        let later = (later_allow | default.0) & !later_deny;
        Actions((allow | later) & !deny)
    }

    /// What some rule denies, in either round.
    pub(super) fn denied(self) -> Actions {
        Actions((self.deny | self.deny >> SECOND_SHIFT) & Actions::ALL.0)
    }
}

/// A name that may stand in a pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Name<'a> {
    /// There is none: rules with it are not for this client.
    Missing,
    /// It can't stand for itself: such rules deny more, and allow nothing.
    Unusable,
    Plain(&'a [u8]),
}

/// The names of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Names<'a> {
    pub(super) user: Name<'a>,
    pub(super) client_id: Name<'a>,
}

/// Of what a denial is looked for.
#[derive(Clone, Copy)]
pub(super) enum Asked<'a> {
    /// A topic name.
    Topic(&'a str),
    /// All that a filter matches.
    Covered(&'a str),
    /// Any of it.
    Met(&'a str),
}

/// The tree of all rules of an access list.
#[derive(Default)]
pub(super) struct Tree {
    nodes: Box<[Node]>,
    /// The children by text of all nodes; those of one node together, in the order of their bytes.
    children: Box<[Child]>,
    named: Box<[Named]>,
    pieces: Box<[Piece]>,
    texts: Box<[u8]>,
    uses: Uses,
    /// By node: the lines of the first rules that deny here, and with `#` here. Looked at only to explain.
    denial_lines: Box<[[u32; 2]]>,
}

/// Which names the patterns have.
#[derive(Clone, Copy, Default)]
pub(super) struct Uses {
    pub(super) user: bool,
    pub(super) client_id: bool,
}

#[derive(Clone, Copy, Default)]
struct Node {
    children: Span,
    named: Span,
    /// Node behind `+`; 0 when there is none.
    any: u32,
    /// Of rules that end here.
    here: Effects,
    /// Of rules that end with `#` here.
    rest: Effects,
}

#[derive(Clone, Copy)]
struct Child {
    text: Span,
    node: u32,
}

/// A level with names.
#[derive(Clone, Copy)]
struct Named {
    pieces: Span,
    node: u32,
    /// All that is denied by rules from here on.
    denied_below: Effects,
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
    /// What the rules say that match a topic name.
    #[inline]
    pub(super) fn matching(&self, root: Root, topic: &str, names: Names<'_>) -> Effects {
        let mut walk = Walk::<false>::new(self, names, topic);
        walk.matching(root, Some(topic.as_bytes()), true);
        walk.found
    }

    /// What the rules say that match every topic name that a filter matches.
    pub(super) fn covering(&self, root: Root, filter: &str, names: Names<'_>) -> Effects {
        let mut walk = Walk::<false>::new(self, names, filter);
        walk.covering(root, Some(spelt_out(filter).as_bytes()), true);
        walk.found
    }

    /// What the rules say that match at least one of the topic names that a filter matches.
    pub(super) fn meeting(&self, root: Root, filter: &str, names: Names<'_>) -> Effects {
        let mut walk = Walk::<false>::new(self, names, filter);
        walk.meeting(root, Some(spelt_out(filter).as_bytes()), true);
        walk.found
    }

    /// The line of a rule that denies one of these actions, among those that match a topic name; or that cover or meet
    /// a filter. 0: there is none, or it has no line.
    pub(super) fn denial_line(&self, root: Root, what: Asked<'_>, names: Names<'_>, actions: Actions) -> u32 {
        let (Asked::Topic(text) | Asked::Covered(text) | Asked::Met(text)) = what;
        let mut walk = Walk::<true>::new(self, names, text);
        walk.denial.0 = actions.0 | actions.0 << SECOND_SHIFT;
        match what {
            Asked::Topic(topic) => walk.matching(root, Some(topic.as_bytes()), true),
            Asked::Covered(filter) => walk.covering(root, Some(spelt_out(filter).as_bytes()), true),
            Asked::Met(filter) => walk.meeting(root, Some(spelt_out(filter).as_bytes()), true),
        }
        walk.denial.1
    }

    pub(super) fn uses(&self) -> Uses {
        self.uses
    }

    fn node(&self, number: u32) -> &Node {
        &self.nodes[number as usize]
    }

    fn child(&self, node: &Node, level: &[u8]) -> Option<u32> {
        let children = node.children.of(&self.children);
        let at = children.binary_search_by(|child| child.text.of(&self.texts).cmp(level)).ok()?;
        Some(children[at].node)
    }
}

/// One walk. `dollar`: what is looked up begins with `$`. Each step has the node, the levels that are left
/// (`None` behind the last one), and whether it is the first.
struct Walk<'a, const WHY: bool> {
    tree: &'a Tree,
    names: Names<'a>,
    dollar: bool,
    found: Effects,
    /// With `WHY`: the bits of which a denial is looked for, and the line of the first one that was met.
    denial: (u8, u32),
}

/// Which of a node's rules: those that end there, or those that end with `#` there.
const HERE: usize = 0;
const REST: usize = 1;

impl<'a, const WHY: bool> Walk<'a, WHY> {
    fn new(tree: &'a Tree, names: Names<'a>, text: &str) -> Walk<'a, WHY> {
        Walk { tree, names, dollar: text.starts_with('$'), found: Effects::default(), denial: (0, 0) }
    }

    #[inline]
    fn note(&mut self, effects: Effects, number: u32, of: usize) {
        self.found.add(effects);
        if WHY && effects.deny & self.denial.0 != 0 && self.denial.1 == 0 {
            self.denial.1 = self.tree.denial_lines.get(number as usize).map_or(0, |lines| lines[of]);
        }
    }

    fn matching(&mut self, mut number: u32, mut rest: Option<&[u8]>, mut is_first: bool) {
        loop {
            let node = self.tree.node(number);
            let wildcards_match = !(is_first && self.dollar);
            if wildcards_match {
                self.note(node.rest, number, REST);
            }
            let Some(levels) = rest else {
                return self.note(node.here, number, HERE);
            };
            let (level, behind) = split(levels);
            if node.any != 0 && wildcards_match {
                self.matching(node.any, behind, false);
            }
            for named in node.named.of(&self.tree.named) {
                match self.expansion(named, is_first) {
                    Expansion::Usable => {
                        if let Some(behind) = self.behind_name(named, levels) {
                            self.matching(named.node, behind, false);
                        }
                    }
                    Expansion::Unusable => self.found.add(named.denied_below),
                    Expansion::Never => {}
                }
            }
            let Some(child) = self.tree.child(node, level) else { return };
            (number, rest, is_first) = (child, behind, false);
        }
    }

    fn covering(&mut self, number: u32, rest: Option<&[u8]>, is_first: bool) {
        let node = self.tree.node(number);
        let wildcards_match = !(is_first && self.dollar);
        if wildcards_match {
            self.note(node.rest, number, REST);
        }
        let Some(levels) = rest else {
            return self.note(node.here, number, HERE);
        };
        let (level, behind) = split(levels);
        // It matches the parent too, and rules that do so were found above.
        if level == b"#" {
            return;
        }
        if node.any != 0 && wildcards_match {
            self.covering(node.any, behind, false);
        }
        for named in node.named.of(&self.tree.named) {
            match self.expansion(named, is_first) {
                Expansion::Usable => {
                    if let Some(behind) = self.behind_name(named, levels) {
                        self.covering(named.node, behind, false);
                    }
                }
                Expansion::Unusable => self.found.add(named.denied_below),
                Expansion::Never => {}
            }
        }
        if level != b"+"
            && let Some(child) = self.tree.child(node, level)
        {
            self.covering(child, behind, false);
        }
    }

    fn meeting(&mut self, number: u32, rest: Option<&[u8]>, is_first: bool) {
        let node = self.tree.node(number);
        let wildcards_match = !(is_first && self.dollar);
        if wildcards_match {
            self.note(node.rest, number, REST);
        }
        let Some(levels) = rest else {
            return self.note(node.here, number, HERE);
        };
        let (level, behind) = split(levels);
        let is_rest = level == b"#";
        if is_rest {
            self.note(node.here, number, HERE);
        }
        // Behind `#` comes whatever the rules have.
        let behind = if is_rest { Some(&b"#"[..]) } else { behind };
        let is_wild = is_rest || level == b"+";
        if node.any != 0 && wildcards_match {
            self.meeting(node.any, behind, false);
        }
        for named in node.named.of(&self.tree.named) {
            match self.expansion(named, is_first) {
                Expansion::Usable => {
                    if let Some(behind) = self.behind_met_name(named, levels) {
                        self.meeting(named.node, behind, false);
                    }
                }
                Expansion::Unusable => self.found.add(named.denied_below),
                Expansion::Never => {}
            }
        }
        if is_wild {
            for child in node.children.of(&self.tree.children) {
                if !(is_first && child.text.of(&self.tree.texts).starts_with(b"$")) {
                    self.meeting(child.node, behind, false);
                }
            }
        } else if let Some(child) = self.tree.child(node, level) {
            self.meeting(child, behind, false);
        }
    }

    fn expansion(&self, named: &Named, is_first: bool) -> Expansion {
        let mut expansion = Expansion::Usable;
        for (position, piece) in named.pieces.of(&self.tree.pieces).iter().enumerate() {
            match self.name(*piece) {
                Some(Name::Missing) => return Expansion::Never,
                Some(Name::Unusable) => expansion = Expansion::Unusable,
                // A client does not become the owner of `$SYS` by that name.
                Some(Name::Plain(name)) if is_first && position == 0 && name.starts_with(b"$") => {
                    expansion = Expansion::Unusable;
                }
                Some(Name::Plain(_)) | None => {}
            }
        }
        expansion
    }

    /// What is behind the levels that a usable pattern comes to, if these levels begin with them: one, or more if a
    /// name has slashes.
    fn behind_name<'b>(&self, named: &Named, levels: &'b [u8]) -> Option<Option<&'b [u8]>> {
        let mut left = levels;
        for piece in named.pieces.of(&self.tree.pieces) {
            left = left.strip_prefix(self.text(*piece)?)?;
        }
        match left {
            [] => Some(None),
            [b'/', behind @ ..] => Some(Some(behind)),
            _ => None,
        }
    }

    /// The same where the levels are those of a filter, whose wildcards stand for what the pattern comes to.
    fn behind_met_name<'b>(&self, named: &Named, levels: &'b [u8]) -> Option<Option<&'b [u8]>> {
        let pieces = named.pieces.of(&self.tree.pieces);
        if pieces.iter().any(|piece| self.text(*piece).is_none()) {
            return None;
        }
        let mut bytes =
            pieces.iter().flat_map(|piece| self.text(*piece).unwrap_or_default()).copied().peekable();
        let mut rest = Some(levels);
        loop {
            // The filter ends above what the pattern comes to, unless a `#` stands there.
            let (level, behind) = split(rest?);
            if level == b"#" {
                return Some(Some(b"#"));
            }
            let mut wanted = level.iter();
            let is_any = level == b"+";
            while let Some(byte) = bytes.next_if(|byte| *byte != b'/') {
                if !is_any && wanted.next() != Some(&byte) {
                    return None;
                }
            }
            if !is_any && wanted.next().is_some() {
                return None;
            }
            rest = behind;
            // The slash, if there is another level.
            if bytes.next().is_none() {
                return Some(rest);
            }
        }
    }

    /// What a piece of a usable pattern comes to.
    fn text(&self, piece: Piece) -> Option<&'a [u8]> {
        match (self.name(piece), piece) {
            (Some(Name::Plain(name)), _) => Some(name),
            (None, Piece::Text(text)) => Some(text.of(&self.tree.texts)),
            _ => None,
        }
    }

    fn name(&self, piece: Piece) -> Option<Name<'a>> {
        match piece {
            Piece::User => Some(self.names.user),
            Piece::ClientId => Some(self.names.client_id),
            Piece::Text(_) => None,
        }
    }
}

/// What becomes of a level with names for a client.
enum Expansion {
    /// It is not for this client.
    Never,
    Unusable,
    Usable,
}

/// The first level, and what is behind its slash.
fn split(levels: &[u8]) -> (&[u8], Option<&[u8]>) {
    match levels.iter().position(|&byte| byte == b'/') {
        Some(slash) => (&levels[..slash], Some(&levels[slash + 1..])),
        None => (levels, None),
    }
}

/// A tree that is being made.
pub(super) struct Growing {
    nodes: Vec<GrowingNode>,
}

#[derive(Default)]
struct GrowingNode {
    children: BTreeMap<Box<str>, u32>,
    named: Vec<(Vec<GrowingPiece>, u32)>,
    any: u32,
    here: Effects,
    rest: Effects,
    denial_lines: [u32; 2],
}

impl GrowingNode {
    fn add(&mut self, of: usize, effects: Effects, line: u32) {
        if of == HERE {
            self.here.add(effects)
        } else {
            self.rest.add(effects)
        }
        if effects.deny != 0 && self.denial_lines[of] == 0 {
            self.denial_lines[of] = line;
        }
    }
}

#[derive(PartialEq, Eq)]
enum GrowingPiece {
    Text(Box<str>),
    User,
    ClientId,
}

impl Default for Growing {
    fn default() -> Growing {
        Growing { nodes: vec![GrowingNode::default()] }
    }
}

impl Growing {
    pub(super) fn new_root(&mut self) -> Root {
        let number = u32::try_from(self.nodes.len()).expect("ENTRIES_MAX bounds the nodes");
        self.nodes.push(GrowingNode::default());
        number
    }

    pub(super) fn insert(&mut self, root: Root, levels: &[Level<'_>], effects: Effects, line: u32) {
        let mut number = root;
        for level in levels {
            number = match level {
                Level::Rest => return self.nodes[number as usize].add(REST, effects, line),
                Level::Any => self.any(number),
                Level::Text(text) => self.child(number, text),
                Level::Named(parts) => self.named(number, parts),
            };
        }
        self.nodes[number as usize].add(HERE, effects, line);
    }

    fn any(&mut self, number: u32) -> u32 {
        if self.nodes[number as usize].any == 0 {
            self.nodes[number as usize].any = self.new_root();
        }
        self.nodes[number as usize].any
    }

    fn child(&mut self, number: u32, text: &str) -> u32 {
        if let Some(child) = self.nodes[number as usize].children.get(text) {
            return *child;
        }
        let child = self.new_root();
        self.nodes[number as usize].children.insert(text.into(), child);
        child
    }

    fn named(&mut self, number: u32, parts: &[Part<'_>]) -> u32 {
        let pieces = parts.iter().map(|part| match part {
            Part::Text(text) => GrowingPiece::Text((*text).into()),
            Part::User => GrowingPiece::User,
            Part::ClientId => GrowingPiece::ClientId,
        });
        let pieces: Vec<GrowingPiece> = pieces.collect();
        if let Some((_, node)) =
            self.nodes[number as usize].named.iter().find(|(present, _)| *present == pieces)
        {
            return *node;
        }
        let node = self.new_root();
        self.nodes[number as usize].named.push((pieces, node));
        node
    }

    pub(super) fn finish(self) -> Tree {
        let denied_below = self.denied_below();
        let has_denials = self.nodes.iter().any(|node| node.denial_lines != [0; 2]);
        let lines = self.nodes.iter().filter(|_| has_denials).map(|node| node.denial_lines).collect();
        let mut packing = Packing::default();
        let nodes = self.nodes.into_iter().map(|node| packing.node(node, &denied_below)).collect();
        Tree {
            nodes,
            children: packing.children.into(),
            named: packing.named.into(),
            pieces: packing.pieces.into(),
            texts: packing.texts.into(),
            uses: packing.uses,
            denial_lines: lines,
        }
    }

    /// For each node, what the rules deny that go through it.
    fn denied_below(&self) -> Vec<Effects> {
        let mut denied: Vec<Effects> = vec![Effects::default(); self.nodes.len()];
        // Children are younger than their parent.
        for (number, node) in self.nodes.iter().enumerate().rev() {
            let mut all = node.here;
            all.add(node.rest);
            let named = node.named.iter().map(|(_, child)| child);
            for child in node.children.values().chain(named).chain((node.any != 0).then_some(&node.any)) {
                all.add(denied[*child as usize]);
            }
            denied[number] = Effects::default().with_denials_of(all);
        }
        denied
    }
}

/// What nodes have of variable length, one behind the other.
#[derive(Default)]
struct Packing {
    children: Vec<Child>,
    named: Vec<Named>,
    pieces: Vec<Piece>,
    texts: Vec<u8>,
    uses: Uses,
}

impl Packing {
    fn node(&mut self, node: GrowingNode, denied_below: &[Effects]) -> Node {
        let first_child = self.children.len();
        for (text, child) in node.children {
            let text = self.text(&text);
            self.children.push(Child { text, node: child });
        }
        let first_named = self.named.len();
        for (pieces, child) in node.named {
            let first_piece = self.pieces.len();
            for piece in pieces {
                let piece = self.piece(piece);
                self.pieces.push(piece);
            }
            let pieces = span(first_piece, self.pieces.len());
            self.named.push(Named { pieces, node: child, denied_below: denied_below[child as usize] });
        }
        Node {
            children: span(first_child, self.children.len()),
            named: span(first_named, self.named.len()),
            any: node.any,
            here: node.here,
            rest: node.rest,
        }
    }

    fn piece(&mut self, piece: GrowingPiece) -> Piece {
        match piece {
            GrowingPiece::Text(text) => Piece::Text(self.text(&text)),
            GrowingPiece::User => {
                self.uses.user = true;
                Piece::User
            }
            GrowingPiece::ClientId => {
                self.uses.client_id = true;
                Piece::ClientId
            }
        }
    }

    fn text(&mut self, text: &str) -> Span {
        let start = self.texts.len();
        self.texts.extend_from_slice(text.as_bytes());
        span(start, self.texts.len())
    }
}

fn span(start: usize, end: usize) -> Span {
    // Entries, levels and the size of a file are bounded far below.
    let number = |count: usize| u32::try_from(count).expect("an access list is smaller than 4 GiB");
    Span { start: number(start), len: number(end - start) }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
