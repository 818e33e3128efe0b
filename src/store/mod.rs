//! What survives the end of the process: the records of a shard's log, the frames they travel in, and
//! what a start gets back from them.
//!
//! A shard's machine says what changed in [`Record`]s, which its [`Journal`] gathers in frames; the host
//! of the machine writes the frames to a segment ([`segment`]) and tells the machine how far they are
//! durable. No socket, file or clock is known here.
//!
//! What a start gets back lies in rows ([`rows`]): those of the last checkpoint, a [`Base`], and those that
//! the log behind it changes ([`Changes`]). The files of both are in `persistence`.

pub(crate) mod base;
pub(crate) mod check;
mod clock;
pub(crate) mod error;
mod intents;
mod journal;
mod overlay;
pub(crate) mod passing;
pub(crate) mod rebuild;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod restored;
pub mod rows;
pub mod segment;
pub(crate) mod source;
pub(crate) mod state;
mod wall;

pub use base::{Base, MemoryBase};
pub use check::check_rows;
pub use clock::{ALIVE_SECONDS, ClockMark, ClockReading, LogClock, Measure, STEP_MILLIS_MIN};
pub use error::StoreError;
pub use journal::{Batch, Journal, open_body};
pub use rebuild::RestoredCounts;
pub use record::{BadRecord, Decoder, Record, StoredMessage, StoredWill};
pub use replay::{Gap, Replayed};
pub use restored::{Restored, RestoredDelivery, RestoredSession, RestoredState, RestoredSubscription};
pub use state::{ApplyError, Changes};
pub use wall::Wall;
