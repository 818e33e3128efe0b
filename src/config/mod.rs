//! Reads the configuration: the file in TOML, or mosquitto's, with the line of every error; what the kernel allows in
//! open files and memory is weighed against it.
//!
//! What can be set, and to what, is in [`crate::settings`].

#[cfg(test)]
mod manual;
pub mod memory_limit;
pub mod mosquitto;
pub mod open_files;
pub mod parse;
mod summary;

pub use summary::summary;
