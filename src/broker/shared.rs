//! The data that the shards of a broker share. All read it, and one or none writes it.

use super::Counters;
use crate::base::{Homes, ShardId, TextHash};
use crate::broker::interest::{InterestBits, InterestCounts};
use crate::settings::{Config, ShardShares, Terms};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The shared data. It is created once at the start.
pub struct Shared {
    /// The configuration.
    pub config: Config,
    /// The terms of each listener.
    pub terms: Vec<Terms>,
    /// The terms if the listener is unknown: nothing is allowed.
    pub(super) denied: Terms,
    /// The exact topic filters to which each shard has subscriptions.
    pub interest: Vec<Arc<InterestBits>>,
    /// The counters of each shard.
    pub counters: Vec<Counters>,
    /// The number of bytes that clients may make all shards keep. `usize::MAX` if there is no bound. See
    /// `limits.memory_bytes`.
    pub memory_bytes_max: usize,
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
            terms: config.listeners.iter().map(|listener| config.terms(listener)).collect(),
            memory_bytes_max: match config.limits.memory_bytes {
                0 => usize::MAX,
                bytes => bytes,
            },
            denied: Terms::denied(),
            config,
            interest: counts.iter().flatten().map(InterestCounts::bits).collect(),
            counters: (0..shards).map(|_| Counters::default()).collect(),
            sessions: AtomicUsize::new(0),
            stores_full: AtomicUsize::new(0),
            homes,
        };
        (shared, counts)
    }

    /// One shard's part of the limits that are divided among shards. Messages and retained messages may each
    /// use at most half of `limits.memory_bytes`, so that neither takes all the memory.
    pub(super) fn shares(&self) -> ShardShares {
        let half = (self.memory_bytes_max / 2).div_ceil(self.shards());
        let shares = self.config.shares(self.shards());
        ShardShares {
            queue_bytes: shares.queue_bytes.min(half),
            retained_bytes: shares.retained_bytes.min(half),
            ..shares
        }
    }

    /// The terms of a listener.
    pub(super) fn terms_of(&self, listener: Option<u16>) -> &Terms {
        listener.and_then(|listener| self.terms.get(usize::from(listener))).unwrap_or(&self.denied)
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.homes.shards()
    }

    /// Counts a session that is about to begin. Returns `false` if the number that `limits.sessions` allows
    /// is reached.
    pub(super) fn begin_session(&self) -> bool {
        let max = self.config.limits.sessions;
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
