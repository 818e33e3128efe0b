//! What survives the end of the process: the records of a shard's log, the frames they travel in, and
//! what a start gets back from them.
//!
//! A shard's machine says what changed in [`Record`]s, which its [`Journal`] gathers in frames; whoever
//! drives the machine writes the frames to a segment ([`segment`]) and tells the machine how far they are
//! durable. No socket, file or clock is known here.

mod journal;
mod record;
mod restored;
pub mod segment;
mod wall;

pub use journal::{Batch, Journal, open_body};
pub use record::{BadRecord, Decoder, Record, StoredMessage, StoredWill};
pub use restored::{Restored, RestoredDelivery, RestoredSession, RestoredState, RestoredSubscription};
pub use wall::Wall;
