//! TLS against a client of rustls in memory, with certificates made in the test.

#![allow(clippy::disallowed_methods, reason = "certificates are read from files")]

mod clients;
mod failures;
mod files;
mod peer;
mod pki;
mod sessions;
