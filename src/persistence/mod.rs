//! The files of the store: segments of the log, the checkpoint, what a start makes of them, and the operator's tools.
//!
//! What is in them is in [`crate::store`].

mod chain;
mod checkpoint;
mod directory;
mod image;
pub mod mosquitto;
mod recovery;
mod salvage;
mod segment_file;
pub mod tools;

pub use checkpoint::{Checkpoint, Submitter};
pub use directory::{SegmentName, StoreDirectory};
pub use image::{Image, ImageError};
pub use recovery::{Damage, Recovery, RecoveryReport, recover};

#[cfg(test)]
mod version_2_tests;
