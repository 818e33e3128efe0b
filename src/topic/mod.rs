//! The index that finds the subscriptions of a topic name (5.0 sections 4.7, 4.8.2 and 3.3.4).
//!
//! The files, from the rim inwards: `index` is what the flows ask; `matches` gathers an answer; `trie` holds the
//! filters with wildcards, those that begin alike in a `node` and each of them in an `entry`, and `slots` is the table
//! by which it finds them; `subscribers` holds the lists of both kinds of filter; `table` and `slab` are the memory
//! beneath.

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
