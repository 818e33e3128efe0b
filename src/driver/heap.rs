//! Returns free memory of the heap to the system.

/// Returns the heap's free pages to the system, wherever they are. The allocator by itself returns only those
/// at the end. The call visits each free part, and allocations of other threads wait during it. It is meant
/// for a quiet moment after much was freed.
pub(super) fn give_heap_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call only touches free memory, under the allocator's own locks. It takes no pointer, and
    // any thread may make it at any time.
    unsafe {
        libc::malloc_trim(0)
    };
}
