//! The state of a shard, in parts that own their fields and do not know of each other.

pub(super) mod behind;
pub(super) mod budget;
pub(super) mod connections;
pub(super) mod convoys;
pub(super) mod durability;
pub(super) mod effects;
pub(super) mod groups;
pub mod interest;
pub(super) mod judging;
pub(super) mod load;
pub(super) mod next_turn;
pub mod outbox;
pub(super) mod outgoing;
pub(super) mod overdue;
pub(super) mod pressure;
pub(super) mod rates;
pub(super) mod replies;
pub(super) mod requests;
pub mod retained;
pub(super) mod sessions;
pub(super) mod stamps;
pub(super) mod timers;
pub(super) mod turn;
pub(super) mod unrecorded;
pub(super) mod wait_for_disk;
