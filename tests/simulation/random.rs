//! The random numbers of a seed: they are the same on every machine, and do not change.

pub use midge::base::Random;

/// The numbers of a seed. The simulator has always begun with this value: the findings of known seeds depend
/// on it.
pub fn of_seed(seed: u64) -> Random {
    Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6d69_6467_6573_696d)
}
