//! Connections of a shard that have not finished CONNECT, by the address that they count for: no address has more than
//! its share, so that a few can't lock all others out.

use crate::base::ConnectionSlot;
use crate::policy::address_gate::counted_with;
use crate::settings::Network;
use ahash::RandomState;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

/// See the module.
pub(super) struct Handshakes {
    by_slot: HashMap<ConnectionSlot, Network, RandomState>,
    by_source: HashMap<Network, usize, RandomState>,
    share: usize,
}

impl Handshakes {
    /// Each address may have `share` of them. The seed keys the tables.
    pub(super) fn new(share: usize, seed: u64) -> Handshakes {
        let hasher = RandomState::with_seeds(seed, 0x6861, 0x6e64, 0x73);
        let (by_slot, by_source) = (HashMap::with_hasher(hasher.clone()), HashMap::with_hasher(hasher));
        Handshakes { by_slot, by_source, share }
    }

    /// The connection in this slot has come in from an address; false, and it is not counted, if that has its share.
    pub(super) fn begin(&mut self, slot: ConnectionSlot, address: IpAddr) -> bool {
        self.end(slot);
        let source = counted_with(address);
        let count = self.by_source.entry(source).or_default();
        if *count >= self.share {
            return false;
        }
        *count += 1;
        self.by_slot.insert(slot, source);
        true
    }

    /// The connection in this slot has finished, left or ended; nothing for one that is not counted.
    pub(super) fn end(&mut self, slot: ConnectionSlot) {
        let Some(source) = self.by_slot.remove(&slot) else { return };
        if let Entry::Occupied(mut entry) = self.by_source.entry(source) {
            match *entry.get() {
                0 | 1 => drop(entry.remove()),
                _ => *entry.get_mut() -= 1,
            }
        }
    }

    pub(super) fn give_memory_back(&mut self) {
        self.by_slot.shrink_to_fit();
        self.by_source.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_and_no_more_and_others_have_theirs() {
        let mut handshakes = Handshakes::new(3, 7);
        let address = |last| IpAddr::from([192, 0, 2, last]);
        for slot in 0..3 {
            assert!(handshakes.begin(ConnectionSlot::new(slot), address(1)));
        }
        assert!(!handshakes.begin(ConnectionSlot::new(3), address(1)));
        assert!(handshakes.begin(ConnectionSlot::new(4), address(2)), "another address");
        handshakes.end(ConnectionSlot::new(3));
        assert!(
            !handshakes.begin(ConnectionSlot::new(5), address(1)),
            "what was not counted leaves no place"
        );
        handshakes.end(ConnectionSlot::new(1));
        handshakes.end(ConnectionSlot::new(1));
        assert!(
            handshakes.begin(ConnectionSlot::new(6), address(1))
                && !handshakes.begin(ConnectionSlot::new(7), address(1))
        );
        // A network of IPv6 that counts as one.
        let v6 = |host: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, host]);
        assert!((10..13).all(|slot| handshakes.begin(ConnectionSlot::new(slot), v6(slot as u16))));
        assert!(!handshakes.begin(ConnectionSlot::new(13), v6(13)));
        (0..20).for_each(|slot| handshakes.end(ConnectionSlot::new(slot)));
        assert!(handshakes.by_slot.is_empty() && handshakes.by_source.is_empty());
    }
}
