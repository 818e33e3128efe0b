//! Which shards may have a subscriber for a topic name, for filters without wildcards.
//!
//! Each shard has a Bloom filter over the hashes of its exact topic filters. [`InterestBits`] are shared:
//! every shard reads those of all others on each publish, and only the owner writes. The owner also has
//! [`InterestCounts`], which count how many filters need a bit, so that it can be cleared again. A set bit
//! may be wrong, and a publish is then forwarded for nothing. A clear bit is always right. Filters with
//! wildcards are announced to other shards in another way.
//!
//! A filter takes two of the 64 bits of one word: a reader loads one word per shard, both bits change at
//! once, and a filter touches one page of the counts. The table shows the share of publishes that are
//! forwarded for nothing. The row in bold is measured, and a test checks it. The others are `1 - e^(-n/m)`
//! and `(1 - e^(-2n/m))^2`.
//!
//! | exact filters of the shard | 10,000 | 100,000 | 1,000,000 | 3,000,000 |
//! |---|---|---|---|---|
//! | one bit | 0.24 % | 2.4 % | 21 % | 51 % |
//! | **two bits in a word** | 0.01 % | 0.3 % | 15 % | 58 % |
//! | two bits anywhere | 0.002 % | 0.2 % | 14 % | 58 % |
//!
//! Memory: at most 512 KiB of bits and 4 MiB of counts per shard. Both begin as untouched zero pages, so that
//! a broker with few filters uses few of them.

use crate::base::TextHash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The bits of one shard, as the others see them.
#[derive(Debug)]
pub struct InterestBits {
    words: Box<[AtomicU64]>,
}

impl InterestBits {
    /// Whether the shard may have a subscription to the topic name with this hash. `false` is certain.
    ///
    /// [`InterestCounts::add`] describes the guarantees for a reader.
    pub fn may_want(&self, hash: TextHash) -> bool {
        let place = Place::of(hash);
        self.words[place.word].load(Ordering::SeqCst) & place.mask() == place.mask()
    }

    fn new() -> InterestBits {
        // The collection happens in place. A release build optimizes it away and touches no page.
        InterestBits { words: vec![0u64; WORDS].into_iter().map(AtomicU64::new).collect() }
    }
}

/// How many exact filters of a shard need each bit. The owner of the counts is the only writer of their bits.
#[derive(Debug)]
pub struct InterestCounts {
    /// A count of 255 stays, because it is not known any more when its bit could be cleared.
    counts: Vec<u8>,
    bits: Arc<InterestBits>,
}

impl InterestCounts {
    /// The counts of a shard without subscriptions, with their bits.
    pub fn new() -> InterestCounts {
        InterestCounts { counts: vec![0; WORDS * WORD_BITS], bits: Arc::new(InterestBits::new()) }
    }

    /// The bits, for the other shards.
    pub fn bits(&self) -> Arc<InterestBits> {
        Arc::clone(&self.bits)
    }

    /// Announces that the shard now has an exact filter with this hash. Call it once for each distinct
    /// filter, not for each subscription. All shards use the same hash, with a key that clients do not know.
    ///
    /// After the return, a SUBACK is safe: no publish that its receiver causes is missed. The bits are set by
    /// a sequentially consistent read-modify-write. SUBACK reaches the client by a later system call of this
    /// thread. The client's next packet reaches the publishing shard's thread by a system call there, before
    /// that thread reads the bits. The kernel orders both (one releases a socket's lock and the other
    /// acquires it, or the bytes leave the machine after a write barrier), so the set happens before the
    /// read. The same holds for mail between shards, whose indices are released and acquired.
    ///
    /// Both sides are sequentially consistent (a plain load on x86) also for another pattern: one shard sets
    /// its bits and then reads something that the other has written, and the other writes it and then reads
    /// the bits. If that something is sequentially consistent too, at least one of the two sees the other's
    /// write.
    pub fn add(&mut self, hash: TextHash) {
        let place = Place::of(hash);
        let mut set = 0;
        for bit in place.bits {
            let count = &mut self.counts[place.word * WORD_BITS + bit];
            if *count == 0 {
                set |= 1 << bit;
            }
            *count = count.saturating_add(1);
        }
        if set != 0 {
            self.bits.words[place.word].fetch_or(set, Ordering::SeqCst);
        }
    }

    /// Reverts one `add` of the same hash.
    pub fn remove(&mut self, hash: TextHash) {
        let place = Place::of(hash);
        let mut clear = 0;
        for bit in place.bits {
            let count = &mut self.counts[place.word * WORD_BITS + bit];
            debug_assert_ne!(*count, 0, "only what was added is removed");
            match *count {
                0 | u8::MAX => {}
                1 => {
                    *count = 0;
                    clear |= 1 << bit;
                }
                _ => *count -= 1,
            }
        }
        if clear != 0 {
            self.bits.words[place.word].fetch_and(!clear, Ordering::SeqCst);
        }
    }
}

impl Default for InterestCounts {
    fn default() -> InterestCounts {
        InterestCounts::new()
    }
}

/// The places of the two different bits of a hash.
struct Place {
    word: usize,
    bits: [usize; 2],
}

impl Place {
    fn of(hash: TextHash) -> Place {
        let hash = hash.get();
        let first = hash as usize % WORD_BITS;
        let step = 1 + (hash >> 32) as usize % (WORD_BITS - 1);
        Place {
            word: (hash >> (u64::BITS - WORDS.ilog2())) as usize,
            bits: [first, (first + step) % WORD_BITS],
        }
    }

    fn mask(&self) -> u64 {
        1 << self.bits[0] | 1 << self.bits[1]
    }
}

const WORD_BITS: usize = u64::BITS as usize;
/// 2^22 bits.
const WORDS: usize = (1 << 22) / WORD_BITS;

// The three parts of a hash do not overlap: the lowest 6 bits, some of the 16 from bit 32 on, and the highest
// 16.
const _: () = assert!(WORDS.is_power_of_two() && WORDS.ilog2() == 16);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// A good hash of small numbers.
    fn hash(value: u64) -> TextHash {
        let mut hash = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        TextHash::new(hash ^ (hash >> 31))
    }

    #[test]
    fn a_filter_is_wanted_from_its_first_add_to_its_last_remove() {
        let mut counts = InterestCounts::new();
        let bits = counts.bits();
        assert!(!bits.may_want(hash(1)));
        counts.add(hash(1));
        counts.add(hash(1));
        counts.remove(hash(1));
        assert!(bits.may_want(hash(1)));
        counts.remove(hash(1));
        assert!(!bits.may_want(hash(1)));
        assert!(bits.words.iter().all(|word| word.load(Ordering::SeqCst) == 0));
    }

    #[test]
    fn the_two_bits_of_a_hash_differ() {
        for value in 0..100_000 {
            assert_eq!(Place::of(hash(value)).mask().count_ones(), 2);
        }
        for value in [0, u64::MAX, 63, 62 << 32, u64::MAX << 32] {
            assert_eq!(Place::of(TextHash::new(value)).mask().count_ones(), 2);
        }
    }

    #[test]
    fn filters_that_share_a_bit_do_not_clear_it_for_each_other() {
        let mut counts = InterestCounts::new();
        let bits = counts.bits();
        let mut live: HashMap<TextHash, u32> = HashMap::new();
        for step in 0..60_000 {
            // There are few words, so that nearly every bit is shared.
            let hash = TextHash::new(hash(step % 4001).get() & !(0xFFF8 << 48));
            let count = live.entry(hash).or_default();
            if *count > 0 && step % 3 != 0 {
                *count -= 1;
                counts.remove(hash);
            } else {
                *count += 1;
                counts.add(hash);
            }
            if step % 1000 == 0 {
                assert!(live.iter().filter(|(_, count)| **count > 0).all(|(&hash, _)| bits.may_want(hash)));
            }
        }
    }

    #[test]
    fn a_count_that_has_reached_its_bound_keeps_its_bit() {
        let mut counts = InterestCounts::new();
        let bits = counts.bits();
        for _ in 0..300 {
            counts.add(hash(9));
        }
        for _ in 0..300 {
            counts.remove(hash(9));
        }
        assert!(bits.may_want(hash(9)));
    }

    #[test]
    fn false_positives_are_as_rare_as_the_table_says() {
        let mut counts = InterestCounts::new();
        let bits = counts.bits();
        let mut added = 0;
        for (filters, percent_min, percent_max) in
            [(10_000, 0.0, 0.03), (100_000, 0.2, 0.4), (1_000_000, 13.0, 16.0), (3_000_000, 54.0, 60.0)]
        {
            while added < filters {
                counts.add(hash(added));
                added += 1;
            }
            let probes = 200_000;
            let lies = (0..probes).filter(|probe| bits.may_want(hash((1 << 40) + probe))).count();
            let percent = lies as f64 * 100.0 / probes as f64;
            assert!((percent_min..percent_max).contains(&percent), "{filters}: {percent} %");
        }
        for value in 0..added {
            counts.remove(hash(value));
        }
        assert!(bits.words.iter().all(|word| word.load(Ordering::SeqCst) == 0));
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the other shard of this test is a thread")]
    fn another_thread_sees_an_interest_as_soon_as_it_hears_of_it() {
        let mut counts = InterestCounts::new();
        let bits = counts.bits();
        let (suback, heard) = std::sync::mpsc::sync_channel::<TextHash>(1);
        let (unsuback, gone) = std::sync::mpsc::sync_channel::<TextHash>(1);
        let publisher = std::thread::spawn(move || {
            for hash in heard {
                assert!(bits.may_want(hash));
                unsuback.send(hash).unwrap();
            }
            bits
        });
        for value in 0..20_000 {
            counts.add(hash(value));
            suback.send(hash(value)).unwrap();
            assert_eq!(gone.recv(), Ok(hash(value)));
            counts.remove(hash(value));
        }
        drop(suback);
        let bits = publisher.join().unwrap();
        assert!((0..20_000).all(|value| !bits.may_want(hash(value))));
    }

    #[test]
    fn of_two_shards_that_set_and_then_look_one_sees_the_other() {
        // The pattern of SUBSCRIBE against a retained publish: store, then load the other's value.
        for round in 0..300 {
            let mut counts = InterestCounts::new();
            let bits = counts.bits();
            let published = AtomicU64::new(0);
            let start = std::sync::Barrier::new(2);
            let (heard, forwarded) = std::thread::scope(|scope| {
                let publisher = scope.spawn(|| {
                    start.wait();
                    published.store(1, Ordering::SeqCst);
                    bits.may_want(hash(round))
                });
                start.wait();
                counts.add(hash(round));
                (published.load(Ordering::SeqCst) == 1, publisher.join().unwrap())
            });
            assert!(heard || forwarded);
        }
    }
}
