//! What the shards of a broker have in common: read by all, written by one or by none.

use super::Counters;
use crate::base::{Homes, ShardId, TextHash};
use crate::broker::interest::{InterestBits, InterestCounts};
use crate::settings::{Config, ShardShares, Terms};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Made once at start.
pub struct Shared {
    /// The configuration.
    pub config: Config,
    /// What holds on each listener.
    pub terms: Vec<Terms>,
    /// What holds where the listener is not known: nothing is allowed.
    pub(super) denied: Terms,
    /// Which exact topic filters each shard has subscriptions for.
    pub interest: Vec<Arc<InterestBits>>,
    /// What each shard counts.
    pub counters: Vec<Counters>,
    /// Bytes that clients may make all shards keep; no bound: `usize::MAX`. See `limits.memory_bytes`.
    pub memory_bytes_max: usize,
    /// Sessions of all shards, for `limits.sessions`.
    sessions: AtomicUsize,
    /// Shards whose disk has no room.
    stores_full: AtomicUsize,
    homes: Homes,
}

impl Shared {
    /// For `shards` shards; `seed` keys the hash that spreads clients and topics.
    ///
    /// With it come the counts behind each shard's interest, for the shards (`Shard::new`); none
    /// when there is but one.
    pub fn new(config: Config, shards: usize, seed: u64) -> (Shared, Vec<Option<InterestCounts>>) {
        let homes = Homes::new(shards, seed);
        // A single shard asks no one.
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

    /// One shard's part of what is divided among them. Messages and retained messages have at most half of
    /// `limits.memory_bytes` each, so that neither takes the room of everything else.
    pub(super) fn shares(&self) -> ShardShares {
        let half = (self.memory_bytes_max / 2).div_ceil(self.shards());
        let shares = self.config.shares(self.shards());
        ShardShares {
            queue_bytes: shares.queue_bytes.min(half),
            retained_bytes: shares.retained_bytes.min(half),
            ..shares
        }
    }

    /// What holds on a listener.
    pub(super) fn terms_of(&self, listener: Option<u16>) -> &Terms {
        listener.and_then(|listener| self.terms.get(usize::from(listener))).unwrap_or(&self.denied)
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.homes.shards()
    }

    /// Counts a session that is about to begin, unless there are as many as `limits.sessions` allows.
    pub(super) fn begin_session(&self) -> bool {
        let max = self.config.limits.sessions;
        let more = |sessions| (sessions < max).then_some(sessions + 1);
        self.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Counts a session of an earlier run, which stays even if there are more than are allowed now.
    pub(super) fn restore_session(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a session that is over.
    pub(super) fn end_session(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// The disk of one more shard has no room (`true`), or has again.
    pub(super) fn note_store_full(&self, full: bool) {
        if full {
            self.stores_full.fetch_add(1, Ordering::Relaxed);
        } else {
            self.stores_full.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Is there a shard whose disk has no room?
    pub(super) fn is_a_store_full(&self) -> bool {
        self.stores_full.load(Ordering::Relaxed) > 0
    }

    /// The hash of a client identifier, topic name or filter that all shards agree on.
    pub fn hash(&self, text: &str) -> TextHash {
        self.homes.hash(text)
    }

    /// The home of whatever has this hash.
    pub fn home(&self, hash: TextHash) -> ShardId {
        self.homes.home(hash)
    }
}
