//! The only pseudo-random generator: SplitMix64. A seed gives the same sequence on every machine. The
//! generator is small, has no bad seed, and repeats only after 2^64 steps. Anyone who has seen one number can
//! compute the next, so secrets must come from the system instead.

use std::ops::RangeInclusive;

/// A sequence of numbers that depends on its seed.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The sequence of a seed. Seeds that differ in one bit give unrelated sequences.
    pub const fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// The next number, with 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to below `bound`.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// An index into `len` elements.
    ///
    /// # Panics
    /// If `len` is 0.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// A number of the range, both ends included.
    ///
    /// # Panics
    /// If the range is empty.
    pub fn range(&mut self, of: RangeInclusive<u64>) -> u64 {
        of.start() + self.below(of.end() - of.start() + 1)
    }

    /// True with a probability of `permille` in a thousand.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// One of the elements.
    ///
    /// # Panics
    /// If there are no elements.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference implementation has these numbers. Other numbers would make every recorded seed useless.
    #[test]
    fn sequence_is_that_of_splitmix64() {
        let mut random = Random::new(1_234_567);
        let numbers: Vec<u64> = (0..5).map(|_| random.next_u64()).collect();
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(numbers, expected);
    }

    #[test]
    fn every_number_within_the_bounds_comes_and_none_beyond() {
        let mut random = Random::new(1);
        let mut seen = [false; 8];
        for _ in 0..1000 {
            seen[random.range(2..=5) as usize] = true;
        }
        assert_eq!(seen, [false, false, true, true, true, true, false, false]);
        assert!((0..1000).all(|_| !random.chance(0) && random.chance(1000)));
    }
}
