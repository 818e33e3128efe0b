//! Counts the steps of walks over lists that clients can make long. Only for unit tests.
//!
//! A test bounds the work by its number of steps, because a clock would depend on the machine. Outside of
//! unit tests nothing is counted, and the calls compile to nothing.

/// Counts `items` steps of a walk.
#[inline(always)]
pub(crate) fn walked(items: usize) {
    #[cfg(test)]
    counted::STEPS.with(|steps| steps.set(steps.get() + items as u64));
    let _ = items;
}

/// The result of `work`, and the number of its steps.
#[cfg(test)]
pub(crate) fn of<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = counted::STEPS.with(std::cell::Cell::get);
    let result = work();
    (result, counted::STEPS.with(std::cell::Cell::get) - before)
}

#[cfg(test)]
mod counted {
    use std::cell::Cell;

    thread_local! {
        pub(super) static STEPS: Cell<u64> = const { Cell::new(0) };
    }
}
