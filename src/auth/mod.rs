//! Who may come in, and what they may do: password files, certificates' names and access lists, the parts for
//! tokens and a webhook, and enhanced authentication (chapter 4.12) by SCRAM or by the method that client developers
//! and our tests use.
//!
//! [`access`] and [`method`] are what the machine knows of it all; which files a listener names is read by `control::entrance`, and
//! what takes long is checked on its threads.

#[cfg(feature = "runtime")]
pub mod hash;
#[cfg(feature = "runtime")]
pub mod jwt;
#[cfg(feature = "runtime")]
pub mod passwd;
#[cfg(feature = "runtime")]
pub mod password_edit;
#[cfg(feature = "runtime")]
pub mod password_file;
#[cfg(feature = "runtime")]
pub mod scram;
#[cfg(feature = "runtime")]
pub mod scram_users;
#[cfg(feature = "runtime")]
pub mod webhook;
