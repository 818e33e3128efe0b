//! Wakes a shard from a thread that is not a shard.

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
    /// The process has no file descriptors left.
    pub fn new() -> io::Result<Bell> {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        Ok(Bell(Arc::new(rustix::event::eventfd(0, flags)?)))
    }

    /// Rings the bell. Its counter is never read: each write wakes the shard, and the counter would need
    /// centuries to overflow.
    pub fn ring(&self) {
        // A shard that has ended needs no bell.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Another descriptor of the bell, for watching.
    pub(super) fn to_fd(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }
}
