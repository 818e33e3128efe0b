//! The heap's way back to the system.

/// Returns the heap's free pages, wherever they lie, to the system: the allocator by itself returns
/// only the end of it. Costs a visit to each free stretch, and an allocation of another thread waits
/// meanwhile: for a quiet moment after much was freed.
pub(super) fn give_heap_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call touches free memory only, under the allocator's own locks; it takes no
    // pointer, and any thread may make it at any time.
    unsafe {
        libc::malloc_trim(0)
    };
}
