//! Topic names, topic filters, and the index that finds the subscriptions of a topic name
//! (5.0 sections 4.7, 4.8.2 and 3.3.4).
//!
//! The files, from the rim inwards: `name` and `filter` check text; `index` is what the router
//! asks; `matches` gathers an answer; `trie` holds the filters with wildcards and `names` their
//! level names; `subscribers` holds the lists of both kinds of filter; `table` and `slab` are the
//! memory beneath.

mod index;
mod matches;
mod names;
mod patterns;
mod slab;
mod subscribers;
mod table;
mod trie;

pub use index::TopicIndex;
pub use matches::{Matched, Matches};
pub use patterns::Patterns;
