//! The basis of all rooms, which depends on none of them: identifying numbers, time, the timer wheel, random
//! numbers, and the account of memory.

mod diagnostics;
mod ids;
mod lazy_box;
pub mod log_files;
pub mod memory;
mod random;
pub(crate) mod steps;
mod time;
pub mod wheel;

pub use diagnostics::{Diagnostic, Diagnostics, ERRORS_MAX};
#[cfg(test)]
pub(crate) use ids::nth;
pub use ids::{
    ConnectionKey, ConnectionSlot, DeliveryNumber, GroupSlot, Homes, IntentNumber, LogMark, MessageNumber,
    Numbered, RequestToken, SHARDS_MAX, SessionKey, SessionNumber, SessionSlot, ShardId, Stamp, TextHash,
    Ticket, WillNumber,
};
pub use lazy_box::{Empty, LazyBox};
pub use memory::{Charge, Charged, MEMORY_KINDS, MemoryAccount, MemoryKind, allocated};
pub use random::Random;
pub use time::{ClockReading, Time};
pub use wheel::{TICK_MICROS, TimerId, Wheel};
