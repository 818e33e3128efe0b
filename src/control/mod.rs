//! The control side: work that a shard must not do, because it computes for long or waits for others. Shards
//! hand such work over and get the result by a callback.

pub mod access_policies;
mod exposed;
pub mod housekeeping;
pub mod login_counts;
pub mod login_queue;
pub mod logins;
pub mod pool;
pub mod proofs;
pub mod questions;
pub mod shared_gate;
