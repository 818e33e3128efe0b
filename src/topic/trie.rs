//! The filters with wildcards: a trie over levels.
//!
//! A node stands for the levels on the way to it. It keeps the subscribers of the filter that ends
//! at it and those of the filter that goes on with `#` only. Most nodes have one child by name,
//! kept in the node; further ones are found in one table of all nodes by parent and level name.
//! Nodes that nothing needs any longer are pruned.
//!
//! A search goes level by level with the set of nodes reached so far, never by recursion. The nodes
//! are a tree, so it looks at each at most once: at level *d* at most at 2^*d* nodes, and never at
//! more than the trie has. Filters such as `+/+/+/…/x` can make it look at every node that was paid
//! for with a subscription, but no filter and no topic can make it look twice. The owner bounds the
//! patterns of wildcards ([`super::Patterns`]), of each of which a topic name reaches one node.

use super::names::LevelNames;
use super::slab::{NONE, Slab};
use super::subscribers::ListSlot;
use super::table::{Keys, Table};

#[derive(Debug)]
pub(super) struct Trie {
    nodes: Slab<Node>,
    /// Made with the first filter, pruned with the last.
    root: u32,
    /// Children by name other than those kept in their parents, by parent and level name.
    children: Table<u32>,
    names: LevelNames,
}

#[derive(Debug)]
struct Node {
    parent: u32,
    /// The name of this node's level, or `PLUS`, or `NONE` at the root.
    level: u32,
    /// The child by the wildcard `+`.
    plus: u32,
    /// One of the children by name, and its level name.
    child: u32,
    child_level: u32,
    /// How many more children by name the table has.
    children_in_table: u32,
    /// The subscribers of the filter that ends here.
    here: ListSlot,
    /// The subscribers of the filter that goes on with `#`.
    below: ListSlot,
}

const _: () = assert!(size_of::<Node>() == 40);

impl Default for Node {
    fn default() -> Node {
        Node::new(NONE, NONE)
    }
}

impl Node {
    fn new(parent: u32, level: u32) -> Node {
        Node {
            parent,
            level,
            plus: NONE,
            child: NONE,
            child_level: NONE,
            children_in_table: 0,
            here: ListSlot::default(),
            below: ListSlot::default(),
        }
    }

    fn has_named_child(&self) -> bool {
        self.child != NONE || self.children_in_table > 0
    }

    fn is_needed(&self) -> bool {
        self.plus != NONE || self.has_named_child() || !self.here.is_empty() || !self.below.is_empty()
    }
}

/// Where in the trie a filter has its subscribers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    node: u32,
    is_below: bool,
}

/// The working memory of a search, reused.
#[derive(Debug, Default)]
pub(super) struct Frontier {
    reached: Vec<u32>,
    next: Vec<u32>,
    /// Nodes that the last search has looked at.
    pub(super) visited: usize,
}

impl Trie {
    pub(super) fn new() -> Trie {
        Trie { nodes: Slab::new(), root: NONE, children: Table::new(), names: LevelNames::new() }
    }

    /// The place of a filter, made if it is new. A new place must get a subscriber.
    pub(super) fn place_or_insert(&mut self, keys: &Keys, filter: &str) -> Place {
        if self.root == NONE {
            self.root = self.nodes.insert(Node::default());
        }
        let (path, is_below) = split_hash(filter);
        let mut node = self.root;
        for text in path.into_iter().flat_map(|path| path.split('/')) {
            node = self.child_or_insert(keys, node, text);
        }
        Place { node, is_below }
    }

    /// The place of a filter that has subscribers.
    pub(super) fn place(&self, keys: &Keys, filter: &str) -> Option<Place> {
        let (path, is_below) = split_hash(filter);
        let mut node = Some(self.root).filter(|root| *root != NONE)?;
        for text in path.into_iter().flat_map(|path| path.split('/')) {
            node = match text {
                "+" => Some(self.nodes[node].plus).filter(|plus| *plus != NONE)?,
                text => self.named_child(keys, node, self.names.find(keys, text)?)?,
            };
        }
        Some(Place { node, is_below })
    }

    pub(super) fn slot(&self, place: Place) -> &ListSlot {
        let node = &self.nodes[place.node];
        if place.is_below { &node.below } else { &node.here }
    }

    pub(super) fn slot_mut(&mut self, place: Place) -> &mut ListSlot {
        let node = &mut self.nodes[place.node];
        if place.is_below { &mut node.below } else { &mut node.here }
    }

    /// Removes the node of a place whose list is empty now, and those above it, as far as nothing
    /// else needs them.
    pub(super) fn prune(&mut self, keys: &Keys, place: Place) {
        let mut node = place.node;
        while node != NONE && !self.nodes[node].is_needed() {
            let parent = self.nodes[node].parent;
            self.unlink(keys, node);
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
        let Frontier { reached, next, visited } = frontier;
        reached.clear();
        reached.push(self.root);
        // A wildcard in the first place does not match `$…`. [MQTT5-4.7.2-1] [MQTT311-4.7.2-1]
        let mut wildcards_match = !topic.starts_with('$');
        let mut rest = Some(topic);
        while let Some(topic) = rest {
            if reached.is_empty() {
                return;
            }
            // Levels are short: a plain loop finds their end sooner than a search made for long texts.
            let end = topic.bytes().position(|byte| byte == b'/');
            let text = &topic[..end.unwrap_or(topic.len())];
            rest = end.map(|end| &topic[end + 1..]);
            next.clear();
            let mut level = None;
            for &number in &*reached {
                let node = &self.nodes[number];
                if wildcards_match {
                    found.extend(Some(node.below).filter(|list| !list.is_empty()));
                    next.extend(Some(node.plus).filter(|plus| *plus != NONE));
                }
                if node.has_named_child()
                    && let Some(level) = *level.get_or_insert_with(|| self.names.find(keys, text))
                {
                    next.extend(self.named_child(keys, number, level));
                }
            }
            wildcards_match = true;
            *visited += reached.len();
            std::mem::swap(reached, next);
        }
        for &number in &*reached {
            let node = &self.nodes[number];
            // `a/#` matches its parent `a` too. [MQTT5-4.7.1-1]
            found.extend([node.below, node.here].into_iter().filter(|list| !list.is_empty()));
        }
    }

    fn named_child(&self, keys: &Keys, parent: u32, level: u32) -> Option<u32> {
        let node = &self.nodes[parent];
        if node.child_level == level {
            return Some(node.child);
        }
        if node.children_in_table == 0 {
            return None;
        }
        let is_it = |child: &u32| {
            let child = &self.nodes[*child];
            child.parent == parent && child.level == level
        };
        self.children.find(keys.pair(parent, level), is_it).copied()
    }

    fn child_or_insert(&mut self, keys: &Keys, parent: u32, text: &str) -> u32 {
        if text == "+" {
            if self.nodes[parent].plus == NONE {
                self.nodes[parent].plus = self.nodes.insert(Node::new(parent, PLUS));
            }
            return self.nodes[parent].plus;
        }
        if let Some(level) = self.names.find(keys, text)
            && let Some(child) = self.named_child(keys, parent, level)
        {
            return child;
        }
        let level = self.names.acquire(keys, text);
        let child = self.nodes.insert(Node::new(parent, level));
        let node = &mut self.nodes[parent];
        if node.child == NONE {
            (node.child, node.child_level) = (child, level);
        } else {
            node.children_in_table += 1;
            let nodes = &self.nodes;
            self.children.insert(keys.pair(parent, level), child, |child| nodes[*child].hash(keys));
        }
        child
    }

    /// Takes a node from its parent, and its bearing from its level name.
    fn unlink(&mut self, keys: &Keys, number: u32) {
        let Node { parent, level, .. } = self.nodes[number];
        if parent == NONE {
            self.root = NONE;
            return;
        }
        let node = &mut self.nodes[parent];
        if level == PLUS {
            node.plus = NONE;
            return;
        }
        if node.child == number {
            (node.child, node.child_level) = (NONE, NONE);
        } else {
            node.children_in_table -= 1;
            let nodes = &self.nodes;
            let hasher = |child: &u32| nodes[*child].hash(keys);
            let removed = self.children.remove(keys.pair(parent, level), |child| *child == number, hasher);
            debug_assert!(removed.is_some(), "a child is in its parent or in the table");
        }
        self.names.release(keys, level);
    }

    #[cfg(test)]
    pub(super) fn is_freed(&self) -> bool {
        self.nodes.len() == 0 && self.root == NONE && self.names.len() == 0 && self.children.capacity() == 0
    }

    #[cfg(test)]
    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }
}

impl Node {
    fn hash(&self, keys: &Keys) -> u64 {
        keys.pair(self.parent, self.level)
    }
}

/// The filter without its `#`, if it ends with one: `None` when nothing else is left.
fn split_hash(filter: &str) -> (Option<&str>, bool) {
    match filter.strip_suffix("/#") {
        Some(path) => (Some(path), true),
        None if filter == "#" => (None, true),
        None => (Some(filter), false),
    }
}

/// The level of a `+`; no name gets this number.
const PLUS: u32 = NONE;
