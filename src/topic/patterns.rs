//! The patterns of wildcards in the filters of a shard: what a search in the trie costs at most.
//!
//! In come filters with wildcards as they are subscribed to and withdrawn; out goes how many patterns one more filter
//! would bring. A pattern is a beginning of a filter in which all names are alike: `a/+/b` and `c/+/d` have the
//! same three. Of all beginnings with one pattern a topic name reaches at most one, since its own names decide which.
//! So a search in the trie looks at no more nodes than there are patterns, however many filters there are. A fleet has
//! a few dozen; a client whose filters have every combination of names and `+` makes twice as many with each level.

use ahash::{AHashMap, RandomState};

/// The patterns of a shard, and how many each subscriber has brought in.
#[derive(Debug)]
pub struct Patterns {
    nodes: Vec<Node>,
    free: Vec<u32>,
    /// By subscriber: patterns that no other had when it came with them. One that has ended, and whose number another
    /// has by now, leaves it those that others still have.
    brought: AHashMap<u32, u32, RandomState>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    /// The next level is `+`, or a name.
    plus: u32,
    named: u32,
    /// Subscriptions whose filters begin so.
    uses: u32,
    /// The subscriber that has brought it in.
    by: u32,
}

const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;
const EMPTY: Node = Node { plus: NONE, named: NONE, uses: 0, by: NONE };

impl Patterns {
    /// None yet. `seed` keys a hash table, and nothing that can be observed depends on it.
    pub fn new(seed: u64) -> Patterns {
        let hasher = RandomState::with_seeds(seed, 0x7061, 0x7474, 0x6572);
        Patterns { nodes: vec![EMPTY], free: Vec::new(), brought: AHashMap::with_hasher(hasher) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.nodes.len() - 1 - self.free.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many a subscriber has brought in.
    pub fn brought_by(&self, subscriber: u32) -> usize {
        self.brought.get(&subscriber).map_or(0, |&count| count as usize)
    }

    /// How many a filter has that no other has.
    pub fn new_in(&self, filter: &str) -> usize {
        let mut at = Some(ROOT);
        let mut new = 0;
        for level in levels(filter) {
            at = at.and_then(|at| self.next(at, level));
            new += usize::from(at.is_none());
        }
        new
    }

    /// A subscription with this filter begins.
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

    /// A subscription with this filter ends.
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
        // The links of those that have gone were needed on the way.
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

/// For each level but a last `#`: is it `+`?
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
