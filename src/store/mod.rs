//! The state that survives the process: the records of a shard's log, the frames that contain them, and what
//! a start restores from them.
//!
//! A shard's machine describes each change as a [`Record`]. Its [`Journal`] collects records in frames. The
//! host of the machine writes the frames to a segment ([`segment`]) and tells the machine which of them are
//! durable. This module uses no sockets, files or clocks.
//!
//! A start restores rows ([`rows`]): those of the last checkpoint, a [`Base`], plus the changes in the log
//! after it ([`Changes`]). `persistence` contains the files of both.
//!
//! `FORMAT.md` beside this file describes every byte on the disk and the versions that are read.

pub(crate) mod base;
pub(crate) mod check;
mod clock;
pub(crate) mod error;
mod intents;
mod journal;
mod log;
mod overlay;
pub(crate) mod passing;
pub(crate) mod rebuild;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod restored;
pub mod rows;
pub mod segment;
pub(crate) mod source;
mod spares;
pub(crate) mod state;
mod wall;

pub use base::{Base, MemoryBase};
pub use check::check_rows;
pub use clock::{ALIVE_SECONDS, ClockMark, ClockReading, LogClock, Measure, STEP_MILLIS_MIN};
pub use error::StoreError;
pub use journal::{Batch, Journal, open_body};
pub use log::{LogConfig, LogEvent, LogStart, LogWriter, Start};
pub use rebuild::RestoredCounts;
pub use record::{BadRecord, Decoder, Record, StoredMessage, StoredWill};
pub use replay::{Gap, Replayed};
pub use restored::{Restored, RestoredDelivery, RestoredSession, RestoredState, RestoredSubscription};
pub use rows::DeliveryKey;
pub use spares::Spares;
pub use state::{ApplyError, Changes};
pub use wall::Wall;
