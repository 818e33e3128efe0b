//! Where messages go beyond a session: retained messages, and the interest of other shards.

pub mod interest;
pub mod retained;
