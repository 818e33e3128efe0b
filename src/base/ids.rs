//! The numbers by which shards and sessions are named, and which shard is the home of what.

use ahash::RandomState;

/// Number of a shard, 0 to 127.
pub type ShardId = u16;

/// The most shards a broker can have: shards fit a bit mask.
pub const SHARDS_MAX: usize = 128;

/// Names a session in the whole broker. The generation guards against a reused slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// Home shard.
    pub shard: ShardId,
    /// Slot in its directory.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u32,
}

/// Which shard is the home of a client identifier, a topic name or the filter of a group.
#[derive(Clone, Debug)]
pub struct Homes {
    hasher: RandomState,
    shards: usize,
}

impl Homes {
    /// Of a broker with `shards` shards whose seed is `seed`.
    pub fn new(shards: usize, seed: u64) -> Homes {
        assert!((1..=SHARDS_MAX).contains(&shards), "1 to 128 shards");
        let hasher = RandomState::with_seeds(seed, seed.rotate_left(17), seed ^ 0x6d69_6467, 1883);
        Homes { hasher, shards }
    }

    /// The hash of a text that all shards agree on.
    pub fn hash(&self, text: &str) -> u64 {
        self.hasher.hash_one(text)
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// The home of this text.
    pub fn home_of(&self, text: &str) -> ShardId {
        self.home(self.hash(text))
    }

    /// The home of whatever has this hash.
    pub fn home(&self, hash: u64) -> ShardId {
        // The upper bits: the lower ones choose slots in tables.
        ShardId::try_from((hash >> 32) % self.shards as u64).expect("at most 128 shards")
    }
}
