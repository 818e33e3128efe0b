//! Tests of the whole machine, in a world of one or several shards that acts as its host.

mod admission;
mod authentication;
mod basics;
mod behind;
mod bridge;
mod changes;
mod curves;
mod explain;
mod groups;
mod kept;
mod life;
mod losses;
mod memory;
mod moved;
mod order;
mod pace;
mod penalty;
mod questions;
mod quota;
mod restart;
mod terms;
mod told;
mod trace;
mod turn;
mod will;
