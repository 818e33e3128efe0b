//! Which messages the shards want from each other: the filters of this shard's subscriptions and which shards
//! know them, and the wildcard filters of the other shards.
//!
//! All shards see exact filters at once, through the bits of [`exact`](InterestBits).

mod exact;

pub use exact::{InterestBits, InterestCounts};

use crate::base::{ShardId, TextHash};
use crate::mqtt::{QoS, RetainHandling, SubscriptionOptions};
use crate::topic::{Matches, TopicIndex};
use ahash::{AHashMap, RandomState};

/// See the module. Empty if there is only one shard.
pub(in crate::broker) struct Interest {
    /// `None` if this is the only shard.
    own_exact: Option<InterestCounts>,
    own_wildcards: AHashMap<Box<str>, OwnWildcard>,
    next_serial: u64,
    /// The wildcard filters of other shards. The subscribers are shard numbers.
    foreign: TopicIndex,
    matches: Matches,
}

/// A wildcard filter of this shard's subscriptions.
struct OwnWildcard {
    references: u32,
    known_everywhere: bool,
    serial: u64,
}

impl Interest {
    pub(in crate::broker) fn new(own_exact: Option<InterestCounts>, seed: u64) -> Interest {
        let hasher = RandomState::with_seeds(seed ^ 4, 0x7769, 0x6c64, 0x6361);
        Interest {
            own_exact,
            own_wildcards: AHashMap::with_hasher(hasher),
            next_serial: 0,
            foreign: TopicIndex::new(seed ^ 3),
            matches: Matches::default(),
        }
    }

    /// Notes the first subscription or group with this filter. `hash` is the one that all shards agree on.
    pub(in crate::broker) fn acquire(&mut self, filter: &str, hash: TextHash) {
        let Some(exact) = &mut self.own_exact else { return };
        if !is_wildcard(filter) {
            return exact.add(hash);
        }
        let serial = self.next_serial;
        let new = OwnWildcard { references: 0, known_everywhere: false, serial };
        let own = self.own_wildcards.entry(filter.into()).or_insert(new);
        own.references += 1;
        if own.references == 1 {
            self.next_serial += 1;
        }
    }

    /// Notes that the last subscription or group with this filter is gone. Returns whether the other shards
    /// must be told.
    pub(in crate::broker) fn release(&mut self, filter: &str, hash: TextHash) -> bool {
        let Some(exact) = &mut self.own_exact else { return false };
        if !is_wildcard(filter) {
            exact.remove(hash);
            return false;
        }
        let Some(own) = self.own_wildcards.get_mut(filter) else { return false };
        own.references -= 1;
        let is_gone = own.references == 0;
        if is_gone {
            self.own_wildcards.remove(filter);
        }
        is_gone
    }

    /// The serial number of a wildcard filter, if some shard may not know the filter yet.
    pub(in crate::broker) fn unknown(&self, filter: &str) -> Option<u64> {
        self.own_wildcards.get(filter).filter(|own| !own.known_everywhere).map(|own| own.serial)
    }

    /// Notes that every shard knows a wildcard filter, if it still has this serial number.
    pub(in crate::broker) fn note_known(&mut self, filter: &str, serial: u64) {
        if let Some(own) = self.own_wildcards.get_mut(filter)
            && own.serial == serial
        {
            own.known_everywhere = true;
        }
    }

    /// Notes that another shard has subscriptions with a wildcard filter. Returns `false` if that was known.
    pub(in crate::broker) fn add_foreign(&mut self, filter: &str, shard: ShardId) -> bool {
        let options = SubscriptionOptions {
            qos: QoS::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Never,
        };
        !self.foreign.subscribe(filter, u32::from(shard), options, 0)
    }

    /// Notes that another shard has none any more. Returns `false` if it had none.
    pub(in crate::broker) fn remove_foreign(&mut self, filter: &str, shard: ShardId) -> bool {
        self.foreign.unsubscribe(filter, u32::from(shard))
    }

    /// The shards with wildcard filters that match a topic name, as a bit mask.
    pub(in crate::broker) fn foreign(&mut self, topic: &str) -> u128 {
        if self.foreign.is_empty() {
            return 0;
        }
        self.foreign.matches(topic, None, &mut self.matches);
        self.matches.as_slice().iter().fold(0, |shards, matched| shards | 1 << matched.subscriber)
    }

    /// Whether no other shard has a wildcard filter.
    #[cfg(all(test, feature = "runtime"))]
    pub(in crate::broker) fn has_no_foreign(&self) -> bool {
        self.foreign.is_empty()
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.own_wildcards.shrink_to_fit();
        self.matches = Matches::default();
    }
}

fn is_wildcard(filter: &str) -> bool {
    filter.bytes().any(|byte| byte == b'+' || byte == b'#')
}
