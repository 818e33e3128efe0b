//! The index that finds the subscriptions of a topic name (5.0 sections 4.7, 4.8.2 and 3.3.4).
//!
//! The files: the flows use `index`. `matches` collects an answer. `trie` holds the filters with wildcards:
//! those with the same beginning in a `node`, each of them in an `entry`, and `slots` is the table in which
//! it finds them. `subscribers` holds the lists of both kinds of filter. `table` and `slab` manage memory.

mod entry;
mod index;
mod matches;
mod node;
mod patterns;
mod slab;
mod slots;
mod subscribers;
mod table;
mod trie;

pub use index::TopicIndex;
pub use matches::{Matched, Matches};
pub use patterns::Patterns;
pub use subscribers::GrantedOptions;
