//! Reads the configuration from midge's TOML file or from a mosquitto.conf. Every error names its line. Also
//! compares the configuration with what the kernel allows in open files and memory.
//!
//! [`crate::settings`] has the options and their allowed values.

#[cfg(test)]
mod manual;
pub mod memory_limit;
pub mod mosquitto;
pub mod open_files;
pub mod origins;
pub mod parse;
#[cfg(feature = "runtime")]
pub mod sources;
mod summary;
#[cfg(feature = "runtime")]
pub mod variables;

pub use summary::summary;
