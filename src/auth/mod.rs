//! Who may come in, and what they may do: password files, certificates' names and access lists, the parts for
//! tokens and a webhook, and enhanced authentication (chapter 4.12) by SCRAM or by the method that client developers
//! and our tests use.
//!
//! [`policy`](crate::policy) is what the machine knows of it all; `control::access_policies` reads the files that a
//! listener names, and what takes long is checked on its threads.

pub mod acl_file;
pub mod hash;
pub mod jwt;
pub mod passwd;
pub mod password_edit;
pub mod password_file;
pub mod scram;
pub mod scram_users;
pub mod webhook;
