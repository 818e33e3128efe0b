//! The files of the store: the segments of the log, the checkpoint, the recovery at a start, and the
//! operator's tools.
//!
//! [`crate::store`] defines their content.

mod backup;
mod chain;
mod checkpoint;
mod directory;
mod image;
pub mod mosquitto;
mod recovery;
mod salvage;
mod segment_file;
pub mod tools;

pub use backup::{BackupOrder, BackupReport, check_target};
pub use checkpoint::{Checkpoint, Submitter};
pub use directory::{SegmentName, StoreDirectory};
pub use image::{Image, ImageError};
pub use recovery::{Damage, Recovery, RecoveryReport, recover};

#[cfg(test)]
mod version_2_tests;
