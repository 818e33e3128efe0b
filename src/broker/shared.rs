//! The data that the shards of a broker share. All read it, and one or none writes it.

use super::Counters;
use crate::base::{Homes, ShardId, TextHash};
use crate::broker::interest::{InterestBits, InterestCounts};
use crate::broker::settings::BrokerSettings;
use crate::settings::Config;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The shared data. It is created once at the start.
pub struct Shared {
    /// The settings of the start. Later ones come from the host.
    pub(super) start: Arc<BrokerSettings>,
    /// The exact topic filters to which each shard has subscriptions.
    pub interest: Vec<Arc<InterestBits>>,
    /// The counters of each shard.
    pub counters: Vec<Counters>,
    /// The number of sessions of all shards, for `limits.sessions`.
    sessions: AtomicUsize,
    /// The number of shards whose disk has no room.
    stores_full: AtomicUsize,
    homes: Homes,
}

impl Shared {
    /// Creates the data for `shards` shards. `seed` is the key of the hash that distributes clients and
    /// topics.
    ///
    /// Also returns the counts for each shard's interest, for `Shard::new`. They are `None` if there is only
    /// one shard.
    pub fn new(config: Config, shards: usize, seed: u64) -> (Shared, Vec<Option<InterestCounts>>) {
        let homes = Homes::new(shards, seed);
        // A single shard has no other shard to ask.
        let counts: Vec<_> = (0..shards).map(|_| (shards > 1).then(InterestCounts::new)).collect();
        let shared = Shared {
            start: Arc::new(BrokerSettings::new(config)),
            interest: counts.iter().flatten().map(InterestCounts::bits).collect(),
            counters: (0..shards).map(|_| Counters::default()).collect(),
            sessions: AtomicUsize::new(0),
            stores_full: AtomicUsize::new(0),
            homes,
        };
        (shared, counts)
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.homes.shards()
    }

    /// Counts a session that is about to begin. Returns `false` if there are `max` already: `limits.sessions`.
    pub(super) fn begin_session(&self, max: usize) -> bool {
        let more = |sessions| (sessions < max).then_some(sessions + 1);
        self.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Counts a session of an earlier run. It stays even if there are more than are allowed now.
    pub(super) fn restore_session(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of sessions of all shards.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Subtracts a session that has ended.
    pub(super) fn end_session(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes whether the disk of one more shard has no room, or has room again.
    pub(super) fn note_store_full(&self, full: bool) {
        if full {
            self.stores_full.fetch_add(1, Ordering::Relaxed);
        } else {
            self.stores_full.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether any shard's disk has no room.
    pub(super) fn is_a_store_full(&self) -> bool {
        self.stores_full.load(Ordering::Relaxed) > 0
    }

    /// The hash of a client identifier, topic name or filter. It is the same on all shards.
    pub fn hash(&self, text: &str) -> TextHash {
        self.homes.hash(text)
    }

    /// The home of the item with this hash.
    pub fn home(&self, hash: TextHash) -> ShardId {
        self.homes.home(hash)
    }
}
