//! The filters with wildcards: a trie over levels, with a layout for which a search reads few cache lines.
//!
//! There are nodes only where filters differ. A node stands for the levels on the path to it. It has the
//! subscribers of the filter that ends at it, and those of the filter that continues only with `#`. A leaf is
//! a filter that is alone from some level on. Nodes and leaves hold the text of their levels. A node has
//! links to its child by `+` and to one other child. All further children are in one table for all nodes, by
//! the hash of the parent and the first level. So for a filter of a fleet, such as
//! `site/<site>/+/<device>/state`, a search reads one line of the table and half a line for the leaf. Nodes
//! that are no longer needed are pruned, but a node that is left with one child stays.
//!
//! A search goes level by level with the set of nodes reached so far, never by recursion. The nodes form a
//! tree, so it visits each of them at most once: at level *d* at most 2^*d* nodes, and never more than the
//! trie has. Filters such as `+/+/+/…/x` can make it visit every node, each of which needed a subscription,
//! but no filter and no topic can make it visit a node twice. The owner bounds the wildcard patterns
//! ([`super::Patterns`]). For each pattern, a topic name reaches one level of one node or leaf.
//!
//! The cache lines that one level needs are requested before the first of them is used, so that the memory
//! fetches them at the same time. Otherwise the branches of a search would make them wait for each other.

use super::entry::{Compared, Entry, Topic, common_levels, first_level};
use super::node::{Link, Linked, Node};
use super::slab::{NONE, Slab};
use super::slots::{Slots, tag};
use super::subscribers::ListSlot;
use super::table::Keys;
use std::hint::black_box;
use std::mem;

#[derive(Debug)]
pub(super) struct Trie {
    nodes: Slab<Node>,
    leaves: Slab<Entry>,
    /// Created with the first filter, pruned with the last.
    root: u32,
    /// The children by name that are not linked in their parents, by [`Keys::child`].
    children: Slots,
}

/// The place of a filter's subscribers in the trie.
#[derive(Clone, Copy, Debug)]
pub(super) enum FilterPlace {
    /// The filter ends at this node.
    Node(u32),
    /// The filter continues from this node with `#`.
    Below(u32),
    Leaf(u32),
}

/// The working memory of a search. It is reused.
#[derive(Debug, Default)]
pub(super) struct Frontier {
    /// Empty between searches.
    reached: Vec<Reached<'static>>,
    next: Vec<Reached<'static>>,
    /// The number of nodes that the last search would have visited if each filter had a node for each of its
    /// levels.
    pub(super) visited: usize,
}

/// A node or a leaf on the frontier of a search.
#[derive(Clone, Copy, Debug)]
struct Reached<'a> {
    at: At<'a>,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum At<'a> {
    Node(&'a Node),
    Leaf(&'a Entry),
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// It was found by a hash. Its parent and its text are not checked yet.
    Candidate { parent: u32 },
    /// It matches, and has this many more levels. The search waits for these levels, so that the order of the
    /// lists does not depend on where filters differ.
    Matches { levels_left: u32 },
}

impl Trie {
    pub(super) fn new() -> Trie {
        Trie { nodes: Slab::new(), leaves: Slab::new(), root: NONE, children: Slots::new() }
    }

    /// The place of a filter. It is created if it is new. A new place must get a subscriber.
    pub(super) fn place_or_insert(&mut self, keys: &Keys, filter: &str) -> FilterPlace {
        if self.root == NONE {
            self.root = self.add_node(NONE, b"");
        }
        let mut node = self.root;
        let mut rest = filter.as_bytes();
        loop {
            if rest == b"#" {
                return FilterPlace::Below(node);
            }
            let used;
            (node, used) = match self.child(keys, node, rest) {
                None if rest.len() <= TEXT_MAX => {
                    return FilterPlace::Leaf(self.insert_leaf(keys, node, rest));
                }
                None => self.insert_node(keys, node, rest),
                Some(child) => {
                    let text = self.entry(child).text();
                    let common = common_levels(text, rest).expect("it was found by its first level");
                    match child.linked() {
                        Linked::Leaf(leaf) if text == rest => return FilterPlace::Leaf(leaf),
                        Linked::Node(node) if common == text.len() => (node, common),
                        _ => (self.split(keys, child, common), common),
                    }
                }
            };
            if used == rest.len() {
                return FilterPlace::Node(node);
            }
            rest = &rest[used + 1..];
        }
    }

    /// The place of a filter that has subscribers.
    pub(super) fn place(&self, keys: &Keys, filter: &str) -> Option<FilterPlace> {
        let mut node = Some(self.root).filter(|root| *root != NONE)?;
        let mut rest = filter.as_bytes();
        loop {
            if rest == b"#" {
                return Some(FilterPlace::Below(node));
            }
            let child = self.child(keys, node, rest)?;
            let text = self.entry(child).text();
            rest = rest.strip_prefix(text)?;
            node = match child.linked() {
                Linked::Leaf(leaf) => return Some(FilterPlace::Leaf(leaf)).filter(|_| rest.is_empty()),
                Linked::Node(node) if rest.is_empty() => return Some(FilterPlace::Node(node)),
                Linked::Node(node) => node,
            };
            rest = rest.strip_prefix(b"/")?;
        }
    }

    pub(super) fn slot(&self, place: FilterPlace) -> &ListSlot {
        match place {
            FilterPlace::Node(node) => self.nodes[node].head.list(),
            FilterPlace::Below(node) => &self.nodes[node].below,
            FilterPlace::Leaf(leaf) => self.leaves[leaf].list(),
        }
    }

    pub(super) fn slot_mut(&mut self, place: FilterPlace) -> &mut ListSlot {
        match place {
            FilterPlace::Node(node) => self.nodes[node].head.list_mut(),
            FilterPlace::Below(node) => &mut self.nodes[node].below,
            FilterPlace::Leaf(leaf) => self.leaves[leaf].list_mut(),
        }
    }

    /// Removes the leaf or node of a place whose list is now empty, and the nodes above it that nothing else
    /// needs.
    pub(super) fn prune(&mut self, keys: &Keys, place: FilterPlace) {
        let mut node = match place {
            FilterPlace::Node(node) | FilterPlace::Below(node) => node,
            FilterPlace::Leaf(leaf) => {
                let parent = self.leaves[leaf].parent();
                self.detach(keys, Link::new(Linked::Leaf(leaf)));
                self.leaves.remove(leaf);
                parent
            }
        };
        while node != NONE && !self.nodes[node].is_needed() {
            let parent = self.nodes[node].head.parent();
            if parent == NONE {
                self.root = NONE;
            } else {
                self.detach(keys, Link::new(Linked::Node(node)));
            }
            self.nodes.remove(node);
            node = parent;
        }
    }

    /// Appends the subscriber lists of all filters that match a topic name.
    pub(super) fn collect(
        &self,
        keys: &Keys,
        topic: &str,
        frontier: &mut Frontier,
        found: &mut Vec<ListSlot>,
    ) {
        if self.root == NONE {
            return;
        }
        let mut reached = recycle(mem::take(&mut frontier.reached));
        let mut next = recycle(mem::take(&mut frontier.next));
        reached.push(Reached { at: At::Node(&self.nodes[self.root]), state: State::MATCHES });
        // A wildcard in the first place does not match `$…`. [MQTT5-4.7.2-1] [MQTT311-4.7.2-1]
        let mut wildcards_match = !topic.starts_with('$');
        let is_large = self.nodes.len() + self.leaves.len() > IN_CACHE_MAX;
        let mut rest = Some(topic.as_bytes());
        while let Some(text) = rest.filter(|_| !reached.is_empty()) {
            frontier.visited += reached.len();
            let (level, after) = first_level(text);
            next.clear();
            let mut hash = None;
            if is_large && reached.len() > 1 {
                hash = self.touch_children(keys, level, &reached);
            }
            self.step(keys, (level, hash), wildcards_match, &reached, &mut next, found);
            if is_large && next.len() > 1 {
                // All cache lines are requested first, as in `touch_children`.
                black_box(next.iter().fold(0, |sum, candidate| sum ^ candidate.at.entry().parent()));
            }
            verify(text, &mut next, &mut frontier.visited);
            mem::swap(&mut reached, &mut next);
            wildcards_match = true;
            rest = after;
        }
        for Reached { at, .. } in &reached {
            match at {
                At::Node(node) => {
                    // `a/#` matches its parent `a` too. [MQTT5-4.7.1-1]
                    push_list(found, node.below);
                    push_list(found, *node.head.list());
                }
                At::Leaf(leaf) => found.push(*leaf.list()),
            }
        }
        (frontier.reached, frontier.next) = (recycle(reached), recycle(next));
    }

    /// Extends what a search has reached by one level, and collects the lists of `#`. `hash` is the hash of
    /// the level, if it is known.
    fn step<'a>(
        &'a self,
        keys: &Keys,
        (level, mut hash): (&[u8], Option<u64>),
        wildcards_match: bool,
        reached: &[Reached<'a>],
        next: &mut Vec<Reached<'a>>,
        found: &mut Vec<ListSlot>,
    ) {
        for &Reached { at, state } in reached {
            if let State::Matches { levels_left: levels_left @ 1.. } = state {
                next.push(Reached { at, state: State::Matches { levels_left: levels_left - 1 } });
                continue;
            }
            let node = match at {
                At::Node(node) => node,
                At::Leaf(leaf) => {
                    // The leaf ends with `#`, because the topic name has more levels.
                    found.push(*leaf.list());
                    continue;
                }
            };
            let state = State::Candidate { parent: node.number };
            if wildcards_match {
                push_list(found, node.below);
                if let Some(link) = node.plus {
                    next.push(Reached { at: self.at(link), state });
                }
            }
            if !node.has_named_child() {
                continue;
            }
            let hash = keys.child(node.number, *hash.get_or_insert_with(|| keys.text(level)));
            if let Some(link) = node.child
                && node.child_tag == tag(hash)
            {
                next.push(Reached { at: self.at(link), state });
            }
            if node.children_in_table > 0 {
                self.children.each_with_hash(hash, |link| next.push(Reached { at: self.at(link), state }));
            }
        }
    }

    /// Reads the table at the places of all children of the reached nodes, so that the memory fetches them at
    /// the same time. Returns the hash of the level if it was computed.
    fn touch_children(&self, keys: &Keys, level: &[u8], reached: &[Reached<'_>]) -> Option<u64> {
        let (mut sum, mut hash) = (0, None);
        for Reached { at, state } in reached {
            if let (At::Node(node), State::Matches { levels_left: 0 }) = (at, state)
                && node.children_in_table > 0
            {
                let hash = *hash.get_or_insert_with(|| keys.text(level));
                sum ^= self.children.touch(keys.child(node.number, hash));
            }
        }
        black_box(sum);
        hash
    }

    fn at(&self, link: Link) -> At<'_> {
        match link.linked() {
            Linked::Node(node) => At::Node(&self.nodes[node]),
            Linked::Leaf(leaf) => At::Leaf(&self.leaves[leaf]),
        }
    }

    fn entry(&self, link: Link) -> &Entry {
        match link.linked() {
            Linked::Node(node) => &self.nodes[node].head,
            Linked::Leaf(leaf) => &self.leaves[leaf],
        }
    }

    /// The child of a node for the first level of the rest of a filter.
    fn child(&self, keys: &Keys, parent: u32, rest: &[u8]) -> Option<Link> {
        let node = &self.nodes[parent];
        let level = first_level(rest).0;
        if level == b"+" {
            return node.plus;
        }
        let is_it = |link: &Link| {
            let entry = self.entry(*link);
            entry.parent() == parent && entry.level() == level
        };
        if node.child.is_some_and(|child| is_it(&child)) {
            return node.child;
        }
        if node.children_in_table == 0 {
            return None;
        }
        let mut found = None;
        self.children.each_with_hash(keys.child(parent, keys.text(level)), |link| {
            if is_it(&link) {
                found = Some(link);
            }
        });
        found
    }

    fn insert_leaf(&mut self, keys: &Keys, parent: u32, text: &[u8]) -> u32 {
        let leaf = self.leaves.insert(Entry::new(parent, text, ListSlot::default()));
        self.attach(keys, Link::new(Linked::Leaf(leaf)));
        leaf
    }

    /// Adds a node for the first levels of a text that is too long for one leaf. Returns the node and the
    /// length of these levels.
    fn insert_node(&mut self, keys: &Keys, parent: u32, rest: &[u8]) -> (u32, usize) {
        let is_end = |at: &usize| rest[*at] == b'/';
        let used = (0..=TEXT_MAX).rev().find(is_end).or_else(|| (TEXT_MAX..rest.len()).find(is_end));
        let used = used.unwrap_or(rest.len());
        let node = self.add_node(parent, &rest[..used]);
        self.attach(keys, Link::new(Linked::Node(node)));
        (node, used)
    }

    /// Creates a node for the first bytes of the text of a node or leaf, and puts that with the remaining
    /// bytes below it. Returns the new node.
    fn split(&mut self, keys: &Keys, old: Link, common: usize) -> u32 {
        let (parent, list) = (self.entry(old).parent(), *self.entry(old).list());
        let text = self.entry(old).text().to_vec();
        let upper = self.add_node(parent, &text[..common]);
        self.replace(keys, old, Link::new(Linked::Node(upper)));
        match (old.linked(), text.get(common + 1..)) {
            (Linked::Leaf(leaf), None) => {
                *self.nodes[upper].head.list_mut() = list;
                self.leaves.remove(leaf);
            }
            (Linked::Leaf(leaf), Some(b"#")) => {
                self.nodes[upper].below = list;
                self.leaves.remove(leaf);
            }
            (linked, rest) => {
                let lower = Entry::new(upper, rest.unwrap_or_default(), list);
                match linked {
                    Linked::Leaf(leaf) => self.leaves[leaf] = lower,
                    Linked::Node(node) => self.nodes[node].head = lower,
                }
                self.attach(keys, old);
            }
        }
        upper
    }

    /// Adds a node without linking it in its parent.
    fn add_node(&mut self, parent: u32, text: &[u8]) -> u32 {
        let number = self.nodes.insert(Node::new(parent, text));
        self.nodes[number].number = number;
        number
    }

    /// Links a node or leaf in its parent.
    fn attach(&mut self, keys: &Keys, link: Link) {
        let (parent, hash) = self.parent_and_hash(keys, link);
        let node = &mut self.nodes[parent];
        match hash {
            None => node.plus = Some(link),
            Some(hash) if node.child.is_none() => (node.child, node.child_tag) = (Some(link), tag(hash)),
            Some(hash) => {
                node.children_in_table += 1;
                self.children.insert(hash, link);
            }
        }
    }

    /// Unlinks a node or leaf from its parent.
    fn detach(&mut self, keys: &Keys, link: Link) {
        let (parent, hash) = self.parent_and_hash(keys, link);
        let node = &mut self.nodes[parent];
        match hash {
            None => node.plus = None,
            Some(_) if node.child == Some(link) => node.child = None,
            Some(hash) => {
                node.children_in_table -= 1;
                let removed = self.children.remove(hash, link);
                debug_assert!(removed, "a child is known to its parent or in the table");
            }
        }
    }

    /// Replaces a node or leaf by a node that begins with the same level.
    fn replace(&mut self, keys: &Keys, old: Link, new: Link) {
        let (parent, hash) = self.parent_and_hash(keys, old);
        let node = &mut self.nodes[parent];
        match hash {
            None => node.plus = Some(new),
            Some(_) if node.child == Some(old) => node.child = Some(new),
            Some(hash) => {
                let replaced = self.children.replace(hash, old, new);
                debug_assert!(replaced, "a child is known to its parent or in the table");
            }
        }
    }

    /// The parent and the hash of a child by name. A child by `+` has no hash.
    fn parent_and_hash(&self, keys: &Keys, link: Link) -> (u32, Option<u64>) {
        let entry = self.entry(link);
        let (parent, level) = (entry.parent(), entry.level());
        (parent, (level != b"+").then(|| keys.child(parent, keys.text(level))))
    }

    #[cfg(test)]
    pub(super) fn is_freed(&self) -> bool {
        let empty = self.nodes.len() + self.leaves.len() + self.children.capacity() == 0;
        empty && self.root == NONE
    }

    #[cfg(test)]
    pub(super) fn node_count(&self) -> usize {
        self.nodes.len() + self.leaves.len()
    }
}

impl State {
    const MATCHES: State = State::Matches { levels_left: 0 };
}

impl<'a> At<'a> {
    fn entry(self) -> &'a Entry {
        match self {
            At::Node(node) => &node.head,
            At::Leaf(leaf) => leaf,
        }
    }
}

/// Keeps the candidates that match. `topic` is the rest of the topic name, from the level that they are for.
fn verify(topic: &[u8], candidates: &mut Vec<Reached<'_>>, visited: &mut usize) {
    let mut with_first_bytes = None;
    let mut kept = 0;
    for index in 0..candidates.len() {
        let Reached { at, state } = candidates[index];
        let state = match state {
            State::Candidate { parent } => {
                matching(at, parent, *with_first_bytes.get_or_insert_with(|| Topic::new(topic)), visited)
            }
            State::Matches { .. } => Some(state),
        };
        if let Some(state) = state {
            candidates[kept] = Reached { at, state };
            kept += 1;
        }
    }
    candidates.truncate(kept);
}

/// The state of a candidate, if it has this parent and matches.
fn matching(at: At<'_>, parent: u32, topic: Topic<'_>, visited: &mut usize) -> Option<State> {
    let entry = at.entry();
    if entry.parent() != parent {
        return None;
    }
    let levels = match entry.compare(topic) {
        Compared::Whole(levels) | Compared::UpToHash(levels) => levels,
        Compared::Beginning(levels) if matches!(at, At::Node(_)) => levels,
        Compared::Beginning(levels) | Compared::Differs(levels) => {
            *visited += levels as usize;
            return None;
        }
        Compared::TopicEnds(levels) => {
            *visited += levels as usize - 1;
            return None;
        }
    };
    Some(State::Matches { levels_left: levels - 1 })
}

/// Reuses the memory for another search.
fn recycle<'a>(mut reached: Vec<Reached<'_>>) -> Vec<Reached<'a>> {
    reached.clear();
    // The vector is empty, so nothing is converted. Only the allocation moves to the new vector.
    reached.into_iter().map(|_| unreachable!("it was cleared")).collect()
}

fn push_list(found: &mut Vec<ListSlot>, list: ListSlot) {
    if !list.is_empty() {
        found.push(list);
    }
}

/// The longest text of a leaf, and of a node with more than one level, in bytes. It bounds the comparisons.
const TEXT_MAX: usize = 64;
/// The number of nodes and leaves that fit into a cache. Up to it, no line needs to be requested early.
const IN_CACHE_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_leaves_its_memory_to_the_next() {
        let reached: Vec<Reached<'_>> = Vec::with_capacity(100);
        let memory = reached.as_ptr().addr();
        let reached = recycle(reached);
        assert_eq!((reached.as_ptr().addr(), reached.capacity()), (memory, 100));
    }
}
