//! The numbers that identify shards, sessions and connections, and the choice of a home shard.

use ahash::RandomState;
use std::num::{NonZeroU32, NonZeroU64};

macro_rules! slots {
    ($($(#[doc = $doc:literal])+ $name:ident;)+) => {$(
        $(#[doc = $doc])+
        ///
        /// An index into a table whose places are reused. It is less than 2^32 - 1, so that an `Option` of it
        /// is no larger.
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(NonZeroU32);

        impl $name {
            /// Makes a slot of a number, which must be less than 2^32 - 1.
            #[inline(always)]
            pub const fn new(number: u32) -> $name {
                $name(NonZeroU32::new(!number).expect("a table has less than 2^32 - 1 places"))
            }

            /// The number.
            #[inline(always)]
            pub const fn get(self) -> u32 {
                !self.0.get()
            }

            /// The number as an index.
            #[inline(always)]
            pub const fn at(self) -> usize {
                self.get() as usize
            }
        }

        /// Ordered by their numbers.
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                self.get().cmp(&other.get())
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({})", stringify!($name), self.get())
            }
        }
    )+};
}

slots! {
    /// A connection's slot in its shard. It is the same in the machine, the outbox, the host and the driver.
    ConnectionSlot;
    /// A session's slot in its home shard.
    SessionSlot;
    /// A shared subscription's slot in its home shard.
    GroupSlot;
}

/// A position in a shard's log. Everything before it is durable, or is not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogMark(u64);

impl LogMark {
    /// The start of the log. It is always durable.
    pub const START: LogMark = LogMark(0);
    /// A mark that is never durable, because the log has failed.
    pub const NEVER: LogMark = LogMark(u64::MAX);

    /// The mark after the frame with this sequence number.
    pub const fn behind(sequence: u64) -> LogMark {
        LogMark(sequence)
    }
}

/// A number that is given once. What has none is an `Option` of it, which is no larger.
pub trait Numbered: Copy {
    /// The number as such. `None` for 0, which is never given.
    fn from_number(number: u64) -> Option<Self>;
    /// The number.
    fn get(self) -> u64;
}

/// The number of this value, in tests.
#[cfg(test)]
pub(crate) fn nth<N: Numbered>(number: u64) -> N {
    N::from_number(number).expect("numbers count from 1")
}

macro_rules! numbers {
    ($($(#[doc = $doc:literal])+ $name:ident;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(NonZeroU64);

        impl $name {
            /// The one with this number, which must not be 0.
            #[inline]
            pub const fn new(number: u64) -> $name {
                $name(NonZeroU64::new(number).expect("numbers count from 1"))
            }

            /// Its number.
            #[inline(always)]
            pub const fn get(self) -> u64 {
                self.0.get()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl Numbered for $name {
            #[inline]
            fn from_number(number: u64) -> Option<$name> {
                NonZeroU64::new(number).map($name)
            }

            #[inline(always)]
            fn get(self) -> u64 {
                self.0.get()
            }
        }
    )+};
}

numbers! {
    /// Identifies a message for which receipts of other shards are missing. Each shard counts its own.
    Ticket;
    /// Identifies a request of a shard to others until they have answered. Each shard counts its own.
    RequestToken;
    /// A session in the log. All shards together give it once, over all starts, as for the next four.
    SessionNumber;
    /// A message in the log.
    MessageNumber;
    /// A delivery in the log. The deliveries of a session are sent in the order of their numbers.
    DeliveryNumber;
    /// An intent in the log.
    IntentNumber;
    /// In the log, a will whose session ends with its connection.
    WillNumber;
    /// Orders the retained messages of a topic, over all shards and starts.
    Stamp;
}

/// Identifies a connection of a shard. A later connection in the same slot has another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionKey {
    /// The slot.
    pub slot: ConnectionSlot,
    /// A counter of the shard's connections, which wraps around.
    pub serial: u32,
}

/// The number of a shard, 0 to 127.
pub type ShardId = u16;

/// The largest number of shards. A bit mask has one bit for each.
pub const SHARDS_MAX: usize = 128;

/// Identifies a session in the whole broker. The generation distinguishes sessions that use the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The home shard.
    pub shard: ShardId,
    /// The slot in the home shard.
    pub slot: SessionSlot,
    /// The generation of the slot.
    pub generation: u32,
}

/// The hash of a client identifier, a topic name or a filter. It is the same on all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TextHash(NonZeroU64);

impl TextHash {
    /// A hash. It is never 0, so that an `Option` of it is no larger.
    #[inline]
    pub fn new(hash: u64) -> TextHash {
        TextHash(NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN))
    }

    /// The hash as a number.
    #[inline]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// Chooses the home shard of a client identifier, a topic name or the filter of a group.
#[derive(Clone, Debug)]
pub struct Homes {
    hasher: RandomState,
    shards: usize,
}

impl Homes {
    /// For a broker with `shards` shards and the seed `seed`.
    pub fn new(shards: usize, seed: u64) -> Homes {
        assert!((1..=SHARDS_MAX).contains(&shards), "1 to 128 shards");
        let hasher = RandomState::with_seeds(seed, seed.rotate_left(17), seed ^ 0x6d69_6467, 1883);
        Homes { hasher, shards }
    }

    /// The hash of a text. It is the same on all shards.
    pub fn hash(&self, text: &str) -> TextHash {
        TextHash::new(self.hasher.hash_one(text))
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// The home shard of this text.
    pub fn home_of(&self, text: &str) -> ShardId {
        self.home(self.hash(text))
    }

    /// The home shard for this hash.
    pub fn home(&self, hash: TextHash) -> ShardId {
        // It uses the upper bits, because the lower ones choose places in tables.
        ShardId::try_from((hash.get() >> 32) % self.shards as u64).expect("at most 128 shards")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_have_the_order_of_their_numbers_and_an_option_is_no_larger() {
        let slots = [0, 1, 7, u32::MAX - 1].map(ConnectionSlot::new);
        assert!(slots.is_sorted());
        assert_eq!(slots.map(ConnectionSlot::get), [0, 1, 7, u32::MAX - 1]);
        assert_eq!(size_of::<Option<SessionSlot>>(), 4);
    }
}
