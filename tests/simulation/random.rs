//! Chance that is a seed's: the same numbers on every machine and for ever.

pub use midge::base::Random;

/// The numbers of a seed. The simulator has always begun here: what its known seeds find depends on it.
pub fn of_seed(seed: u64) -> Random {
    Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6d69_6467_6573_696d)
}
