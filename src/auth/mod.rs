//! Authentication and access lists: password files, names in certificates, tokens, the webhook, and enhanced
//! authentication (chapter 4.12) with SCRAM or with the built-in test method.
//!
//! [`policy`](crate::policy) has the rules that the machine uses. `control::access_policies` reads the files
//! that a listener names, and slow checks run on the threads of `control`.

pub mod acl_file;
pub mod hash;
pub mod jwt;
pub mod passwd;
pub mod password_edit;
pub mod password_file;
pub mod scram;
pub mod scram_users;
pub mod webhook;
