//! What survives the end of the process: the records of a shard's log, the frames they travel in, and
//! what a start gets back from them.
//!
//! A shard's machine says what changed in [`Record`]s, which its [`Journal`] gathers in frames; the host
//! of the machine writes the frames to a segment ([`segment`]) and tells the machine how far they are
//! durable. No socket, file or clock is known here.
//!
//! What a start gets back lies in rows ([`rows`]): those of the last checkpoint, a [`Base`], and those that
//! the log behind it changes ([`Changes`]). The files of both are the room of the feature `runtime`.

mod base;
#[cfg(feature = "runtime")]
mod chain;
mod check;
#[cfg(feature = "runtime")]
#[allow(clippy::disallowed_methods, reason = "the store owns its files and the thread of the checkpoint")]
mod checkpoint;
mod clock;
#[cfg(feature = "runtime")]
#[allow(clippy::disallowed_methods, reason = "the store owns its files and the thread of the checkpoint")]
mod directory;
mod error;
#[cfg(feature = "runtime")]
#[allow(clippy::disallowed_methods, reason = "the store owns its files and the thread of the checkpoint")]
mod image;
mod intents;
mod journal;
pub mod mosquitto;
mod overlay;
mod passing;
mod rebuild;
mod record;
#[cfg(feature = "runtime")]
#[allow(clippy::disallowed_methods, reason = "the store owns its files and the thread of the checkpoint")]
mod recovery;
mod replay;
mod restored;
pub mod rows;
#[cfg(feature = "runtime")]
#[allow(clippy::disallowed_methods, reason = "the store owns its files and the thread of the checkpoint")]
mod salvage;
pub mod segment;
#[cfg_attr(feature = "runtime", allow(clippy::disallowed_methods, reason = "the store owns its files"))]
mod source;
#[cfg(feature = "runtime")]
#[allow(clippy::disallowed_methods, reason = "the store owns its files and the thread of the checkpoint")]
mod spares;
mod state;
#[cfg(feature = "runtime")]
#[allow(clippy::disallowed_methods, reason = "the store owns its files and the thread of the checkpoint")]
pub mod tools;
mod wall;

pub use base::{Base, MemoryBase};
pub use check::check_rows;
#[cfg(feature = "runtime")]
pub use checkpoint::{Checkpoint, Mark, Submitter};
pub use clock::{ALIVE_SECONDS, ClockMark, ClockReading, LogClock, Measure, STEP_MILLIS_MIN};
#[cfg(feature = "runtime")]
pub use directory::{SegmentName, StoreDirectory};
pub use error::StoreError;
#[cfg(feature = "runtime")]
pub use image::{Image, ImageError};
pub use journal::{Batch, Journal, open_body};
pub use rebuild::RestoredCounts;
pub use record::{BadRecord, Decoder, Record, StoredMessage, StoredWill};
#[cfg(feature = "runtime")]
pub use recovery::{Damage, Recovery, RecoveryReport, recover};
pub use replay::{Gap, Replayed};
pub use restored::{Restored, RestoredDelivery, RestoredSession, RestoredState, RestoredSubscription};
#[cfg(feature = "runtime")]
pub use spares::Spares;
pub use state::{ApplyError, Changes};
pub use wall::Wall;
