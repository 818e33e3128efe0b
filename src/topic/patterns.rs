//! The wildcard patterns in the filters of a shard. They bound the cost of a search in the trie.
//!
//! The inputs are filters with wildcards when they are subscribed and unsubscribed. The output is the number
//! of patterns that one more filter would add. A pattern is the beginning of a filter in which all names
//! count as equal: `a/+/b` and `c/+/d` have the same three patterns. Of all beginnings with the same pattern,
//! a topic name reaches at most one, because its own names select it. So a search in the trie visits at most
//! as many nodes as there are patterns, however many filters there are. A fleet has a few dozen. A client
//! whose filters use every combination of names and `+` doubles the number with each level.

use ahash::{AHashMap, RandomState};

/// The patterns of a shard, and how many each subscriber has added.
#[derive(Debug)]
pub struct Patterns {
    nodes: Vec<Node>,
    free: Vec<u32>,
    /// By subscriber: the patterns that nobody else had when it subscribed. If a subscriber has ended and its
    /// number is reused, the new one inherits the patterns that others still use.
    brought: AHashMap<u32, u32, RandomState>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    /// The node for a next level that is `+`, and that for a name.
    plus: u32,
    named: u32,
    /// The number of subscriptions whose filters begin with this pattern.
    uses: u32,
    /// The subscriber that has added it.
    by: u32,
}

const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;
const EMPTY: Node = Node { plus: NONE, named: NONE, uses: 0, by: NONE };

impl Patterns {
    /// An empty set. `seed` keys a hash table. No observable result depends on it.
    pub fn new(seed: u64) -> Patterns {
        let hasher = RandomState::with_seeds(seed, 0x7061, 0x7474, 0x6572);
        Patterns { nodes: vec![EMPTY], free: Vec::new(), brought: AHashMap::with_hasher(hasher) }
    }

    /// The number of patterns.
    pub fn len(&self) -> usize {
        self.nodes.len() - 1 - self.free.len()
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of patterns that a subscriber has added.
    pub fn brought_by(&self, subscriber: u32) -> usize {
        self.brought.get(&subscriber).map_or(0, |&count| count as usize)
    }

    /// The number of patterns of a filter that no other filter has.
    pub fn new_in(&self, filter: &str) -> usize {
        let mut at = Some(ROOT);
        let mut new = 0;
        for level in levels(filter) {
            at = at.and_then(|at| self.next(at, level));
            new += usize::from(at.is_none());
        }
        new
    }

    /// Adds the filter of a new subscription.
    pub fn add(&mut self, filter: &str, subscriber: u32) {
        let mut at = ROOT;
        let mut new = 0;
        for level in levels(filter) {
            let next = match self.next(at, level) {
                Some(next) => next,
                None => {
                    new += 1;
                    let next = self.free.pop().unwrap_or_else(|| {
                        self.nodes.push(EMPTY);
                        self.nodes.len() as u32 - 1
                    });
                    *self.link(at, level) = next;
                    self.nodes[next as usize].by = subscriber;
                    next
                }
            };
            self.nodes[next as usize].uses += 1;
            at = next;
        }
        if new > 0 {
            *self.brought.entry(subscriber).or_default() += new;
        }
    }

    /// Removes the filter of a subscription that ends.
    pub fn remove(&mut self, filter: &str) {
        let mut at = ROOT;
        let mut gone = 0;
        for level in levels(filter) {
            let Some(next) = self.next(at, level) else { break };
            let node = &mut self.nodes[next as usize];
            node.uses -= 1;
            let after = *node;
            if after.uses == 0 {
                *self.link(at, level) = NONE;
                gone += 1;
                self.free.push(next);
            }
            at = next;
        }
        // Their links were needed until here.
        for &free in &self.free[self.free.len() - gone..] {
            let by = std::mem::replace(&mut self.nodes[free as usize], EMPTY).by;
            if let Some(brought) = self.brought.get_mut(&by) {
                *brought -= 1;
                if *brought == 0 {
                    self.brought.remove(&by);
                }
            }
        }
        if self.is_empty() {
            self.nodes.truncate(1);
            self.nodes.shrink_to_fit();
            self.free = Vec::new();
        }
    }

    fn next(&self, at: u32, is_plus: bool) -> Option<u32> {
        let node = &self.nodes[at as usize];
        Some(if is_plus { node.plus } else { node.named }).filter(|&next| next != NONE)
    }

    fn link(&mut self, at: u32, is_plus: bool) -> &mut u32 {
        let node = &mut self.nodes[at as usize];
        if is_plus { &mut node.plus } else { &mut node.named }
    }
}

/// For each level except a last `#`: whether it is `+`.
fn levels(filter: &str) -> impl Iterator<Item = bool> {
    filter.split('/').filter(|&level| level != "#").map(|level| level == "+")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_with_wildcards_in_the_same_places_have_the_same_patterns() {
        let mut patterns = Patterns::new(1);
        for at in 0..1000 {
            patterns.add(&format!("site/{at}/+/state"), at);
        }
        assert_eq!(patterns.len(), 4);
        assert_eq!((patterns.brought_by(0), patterns.brought_by(1)), (4, 0));
        assert_eq!(patterns.new_in("other/7/+/x"), 0);
        assert_eq!(patterns.new_in("other/+/#"), 1);
        assert_eq!(patterns.new_in("#"), 0);
        for at in 0..1000 {
            patterns.remove(&format!("site/{at}/+/state"));
        }
        assert!(patterns.is_empty() && patterns.brought.is_empty());
    }

    #[test]
    fn every_combination_of_names_and_wildcards_is_a_pattern() {
        let mut patterns = Patterns::new(1);
        let filters: Vec<String> = (0..1_u32 << 8)
            .map(|bits| {
                let level = |at: u32| if bits >> at & 1 == 0 { "a" } else { "+" };
                (0..8_u32).map(level).collect::<Vec<_>>().join("/")
            })
            .collect();
        for filter in &filters {
            patterns.add(filter, 3);
        }
        assert_eq!((patterns.len(), patterns.brought_by(3)), (510, 510));
        for (at, filter) in filters.iter().enumerate().rev() {
            assert_eq!(patterns.new_in(filter), 0, "{at}");
            patterns.remove(filter);
        }
        assert!(patterns.is_empty() && patterns.free.is_empty());
        assert_eq!(patterns.brought_by(3), 0);
    }
}
