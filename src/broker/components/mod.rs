//! The state of a shard, in components that own their fields and do not depend on each other.

pub(super) mod access;
pub(super) mod behind;
pub(super) mod budget;
pub(super) mod connections;
pub(super) mod convoys;
pub(super) mod durability;
pub(super) mod effects;
pub(super) mod groups;
pub mod interest;
pub(super) mod memory;
pub mod outbox;
pub(super) mod outgoing;
pub(super) mod queries;
pub(super) mod rates;
pub(super) mod replies;
pub(super) mod requests;
pub(super) mod restart;
pub mod retained;
pub(super) mod sent;
pub(super) mod sessions;
pub(super) mod stamps;
pub(super) mod subscriptions;
pub(super) mod sys;
pub(super) mod timers;
pub(super) mod turn;
pub(super) mod unrecorded;
