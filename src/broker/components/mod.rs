//! The state of a shard, in parts that own their fields and do not know of each other.

pub(super) mod behind;
pub(super) mod bucket;
pub(super) mod budget;
pub(super) mod connections;
pub(super) mod effects;
pub(super) mod ends;
pub mod interest;
pub(super) mod load;
pub(super) mod members;
pub mod outbox;
pub(super) mod replies;
pub mod retained;
pub(super) mod sessions;
pub(super) mod timers;
