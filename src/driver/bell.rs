//! What wakes a shard from a thread that is no shard.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Wakes a shard from any thread. Cheap to clone.
#[derive(Clone)]
pub struct Bell(Arc<OwnedFd>);

impl Bell {
    /// A bell for one shard.
    ///
    /// # Errors
    /// The process may open no more files.
    pub fn new() -> io::Result<Bell> {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        Ok(Bell(Arc::new(rustix::event::eventfd(0, flags)?)))
    }

    /// Rings it. The counter behind it is never read: each write wakes, and it takes centuries to fill.
    pub fn ring(&self) {
        // A shard that is gone needs no bell.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Another descriptor of it, to be watched.
    pub(super) fn to_fd(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }
}
