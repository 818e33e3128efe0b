//! The sessions of a shard, by slot for the delivery of messages, and by client identifier for CONNECT.

use crate::base::{ConnectionSlot, SessionKey, SessionNumber, SessionSlot, ShardId};
use crate::broker::settings::Entrance;
use crate::mqtt::ProtocolVersion;
use crate::session::Session;
use ahash::RandomState;
use hashbrown::HashTable;

/// Bytes wait in the driver for this session's socket.
pub(in crate::broker) const BACKLOGGED: u8 = 1;
/// The client accepts topic aliases.
pub(in crate::broker) const ALIASES: u8 = 2;
/// Retained messages are being replayed.
pub(in crate::broker) const REPLAYING: u8 = 4;
/// The session is in the list for the next turn.
pub(in crate::broker) const DEFERRED: u8 = 8;
/// The connection's CONNACK waits for the log. Nothing may be sent before it.
pub(in crate::broker) const GATED: u8 = 16;

/// Each message must be checked before it is sent, because the client may not receive everything that it has
/// subscribed to.
pub(in crate::broker) const CHECKED: u8 = 32;
/// The client's listener has a mount point.
pub(in crate::broker) const MOUNTED: u8 = 64;
/// QoS 0 messages wait in the queue. New ones go after them.
pub(in crate::broker) const QUEUES_QOS0: u8 = 128;

/// The data of each session that a fan-out reads. It is separate from the session itself, so that a thousand
/// subscribers are a thousand times 32 bytes side by side.
#[derive(Debug)]
pub(in crate::broker) struct SessionEntry {
    /// The session's connection, if its client is connected.
    pub connection: Option<ConnectionSlot>,
    pub generation: u32,
    /// The client's Maximum Packet Size.
    pub packet_bytes_max: u32,
    pub version: ProtocolVersion,
    pub flags: u8,
    /// The listener that its client used last, and its terms at that time.
    pub entrance: Entrance,
    /// The session's number in the log, if it is in the log.
    pub sid: Option<SessionNumber>,
    session: Option<Box<Session>>,
}

const _: () = assert!(size_of::<SessionEntry>() <= 32);

/// All sessions whose client identifiers are at home here.
pub(in crate::broker) struct Sessions {
    shard: ShardId,
    slots: Vec<SessionEntry>,
    free: Vec<SessionSlot>,
    by_client: HashTable<SessionSlot>,
    hasher: RandomState,
    /// The generation of the next session, whatever its slot. So an empty slot need not remember its earlier
    /// generations.
    generation: u32,
}

impl Sessions {
    pub(in crate::broker) fn new(shard: ShardId, seed: u64) -> Sessions {
        Sessions {
            shard,
            slots: Vec::new(),
            free: Vec::new(),
            by_client: HashTable::new(),
            hasher: RandomState::with_seeds(seed, 0x6469_7265, 0x6374_6f72, 0x79),
            generation: 0,
        }
    }

    #[cfg(test)]
    pub(in crate::broker) fn len(&self) -> usize {
        self.by_client.len()
    }

    /// The session of a client identifier.
    pub(in crate::broker) fn find(&self, client_id: &str) -> Option<SessionSlot> {
        let hash = self.hasher.hash_one(client_id);
        self.by_client.find(hash, |&slot| *self.session(slot).client_id == *client_id).copied()
    }

    /// Creates a session. The client identifier must have none.
    pub(in crate::broker) fn create(&mut self, client_id: &str) -> SessionSlot {
        let entry = SessionEntry {
            connection: None,
            generation: self.generation,
            packet_bytes_max: u32::MAX,
            version: ProtocolVersion::V311,
            flags: 0,
            entrance: Entrance::NONE,
            sid: None,
            session: Some(Box::new(Session::new(client_id.into()))),
        };
        self.generation = self.generation.wrapping_add(1);
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot.at()] = entry;
                slot
            }
            None => {
                self.slots.push(entry);
                let number =
                    u32::try_from(self.slots.len() - 1).expect("a shard holds less than 2^32 sessions");
                SessionSlot::new(number)
            }
        };
        let hash = self.hasher.hash_one(client_id);
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.by_client.insert_unique(hash, slot, |&slot| {
            hasher.hash_one(&*slots[slot.at()].session.as_ref().expect("listed sessions exist").client_id)
        });
        slot
    }

    /// Removes a session. Its slot may be used again with a new generation.
    pub(in crate::broker) fn remove(&mut self, slot: SessionSlot) -> Box<Session> {
        let hash = self.hasher.hash_one(&*self.session(slot).client_id);
        if let Ok(entry) = self.by_client.find_entry(hash, |&listed| listed == slot) {
            entry.remove();
        }
        let entry = &mut self.slots[slot.at()];
        entry.connection = None;
        entry.flags = 0;
        self.free.push(slot);
        entry.session.take().expect("a session ends once")
    }

    /// Forgets the free slots after the last session, and frees their memory.
    pub(in crate::broker) fn give_memory_back(&mut self) {
        let used = self.slots.iter().rposition(|entry| entry.session.is_some()).map_or(0, |last| last + 1);
        self.slots.truncate(used);
        self.slots.shrink_to_fit();
        self.free.retain(|&slot| (slot.at()) < used);
        self.free.shrink_to_fit();
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.by_client.shrink_to(self.by_client.len(), |&slot| {
            hasher.hash_one(&*slots[slot.at()].session.as_ref().expect("listed sessions exist").client_id)
        });
    }

    /// The number of slots, used or free.
    pub(in crate::broker) fn slots(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("a shard holds less than 2^32 sessions")
    }

    pub(in crate::broker) fn get(&self, slot: SessionSlot) -> Option<&SessionEntry> {
        self.slots.get(slot.at()).filter(|entry| entry.session.is_some())
    }

    /// The session must exist.
    pub(in crate::broker) fn slot(&self, slot: SessionSlot) -> &SessionEntry {
        &self.slots[slot.at()]
    }

    pub(in crate::broker) fn slot_mut(&mut self, slot: SessionSlot) -> &mut SessionEntry {
        &mut self.slots[slot.at()]
    }

    pub(in crate::broker) fn session(&self, slot: SessionSlot) -> &Session {
        self.slots[slot.at()].session.as_ref().expect("the caller knows that the session exists")
    }

    pub(in crate::broker) fn session_mut(&mut self, slot: SessionSlot) -> &mut Session {
        self.slots[slot.at()].session.as_mut().expect("the caller knows that the session exists")
    }

    /// The key by which other shards know it.
    pub(in crate::broker) fn key(&self, slot: SessionSlot) -> SessionKey {
        SessionKey { shard: self.shard, slot, generation: self.slots[slot.at()].generation }
    }

    /// The slot of a key, if the key belongs to this shard and the session still exists.
    pub(in crate::broker) fn resolve(&self, key: SessionKey) -> Option<SessionSlot> {
        let lives = key.shard == self.shard && self.get(key.slot)?.generation == key.generation;
        lives.then_some(key.slot)
    }
}

impl SessionEntry {
    pub(in crate::broker) fn session_mut(&mut self) -> &mut Session {
        self.session.as_mut().expect("the caller knows that the session exists")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reaches_no_later_session_even_after_memory_was_given_back() {
        let mut sessions = Sessions::new(3, 1);
        let slots: Vec<SessionSlot> = (0..1000).map(|n| sessions.create(&format!("device-{n}"))).collect();
        let stale = sessions.key(slots[500]);
        assert_eq!(sessions.resolve(stale), Some(SessionSlot::new(500)));
        for &slot in &slots[5..] {
            sessions.remove(slot);
        }
        sessions.give_memory_back();
        assert_eq!((sessions.slots.len(), sessions.free.len(), sessions.len()), (5, 0, 5));
        assert!(sessions.slots.capacity() < 100 && sessions.by_client.capacity() < 100);
        assert_eq!(sessions.find("device-4"), Some(SessionSlot::new(4)));
        for n in 0..1000 {
            sessions.create(&format!("again-{n}"));
        }
        assert!(sessions.get(SessionSlot::new(500)).is_some() && sessions.resolve(stale).is_none());
    }
}
