//! Steps of walks over lists that clients can make long, counted in unit tests.
//!
//! A bound on work is tested by its number of steps: a clock would depend on the machine. Outside of unit tests
//! nothing is counted, and nothing is left of the calls.

/// A walk has looked at so many items.
#[inline(always)]
pub(crate) fn walked(items: usize) {
    #[cfg(test)]
    counted::STEPS.with(|steps| steps.set(steps.get() + items as u64));
    let _ = items;
}

/// What `work` gives, and the steps that it took.
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
