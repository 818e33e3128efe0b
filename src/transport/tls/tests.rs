//! TLS with a rustls client in memory. The tests make their own certificates.

#![allow(clippy::disallowed_methods, reason = "certificates are read from files")]

mod clients;
mod failures;
mod files;
mod peer;
mod pki;
mod sessions;
