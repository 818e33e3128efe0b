//! The admin interface: HTTP for operators, served on a thread beside the shards, and `midge ctl`, its client.
//!
//! [`AdminSockets`] are bound at the start, and [`AdminServer`] serves on them until the broker has stopped. A request
//! passes `guard`, which decides whether its sender may make it, and then a handler in `api`. Handlers ask the shards
//! by [`crate::control::questions`], and never wait for one without a bound. No handler may panic: the lints below
//! forbid what could, since a panic ends the process in a release build.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::unreachable
    )
)]

pub mod access;
mod api;
pub mod ctl;
mod dashboard;
mod guard;
mod limits;
mod metrics;
mod pace;
mod server;
mod sockets;
pub mod tokens;

pub use server::{AdminParts, AdminServer};
pub use sockets::{AdminSockets, NoAdmin};
