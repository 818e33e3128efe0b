//! Counts the connections that have not finished CONNECT, by address. No address may have more than its
//! share, so that a few addresses can't exclude all others.

use crate::policy::address_gate::counted_with;
use crate::settings::Network;
use ahash::RandomState;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

/// See the module.
pub(super) struct Handshakes {
    by_source: HashMap<Network, usize, RandomState>,
    share: usize,
}

impl Handshakes {
    /// Each address may have `share` handshakes. The seed keys the table.
    pub(super) fn new(share: usize, seed: u64) -> Handshakes {
        let hasher = RandomState::with_seeds(seed, 0x6861, 0x6e64, 0x73);
        Handshakes { by_source: HashMap::with_hasher(hasher), share }
    }

    /// Changes the share. Handshakes above it go on.
    pub(super) fn set_share(&mut self, share: usize) {
        self.share = share;
    }

    /// Counts a connection of an address. Returns the source to which it counts, for [`Handshakes::end`].
    /// Returns `None` and does not count it if the address has its share.
    pub(super) fn begin(&mut self, address: IpAddr) -> Option<Network> {
        let source = counted_with(address);
        let count = self.by_source.entry(source).or_default();
        if *count >= self.share {
            return None;
        }
        *count += 1;
        Some(source)
    }

    /// Ends a handshake that counts to this source: the connection has finished it, moved or closed.
    pub(super) fn end(&mut self, source: Network) {
        if let Entry::Occupied(mut entry) = self.by_source.entry(source) {
            match *entry.get() {
                0 | 1 => drop(entry.remove()),
                _ => *entry.get_mut() -= 1,
            }
        }
    }

    pub(super) fn give_memory_back(&mut self) {
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
        let mut begun: Vec<Network> = (0..3).filter_map(|_| handshakes.begin(address(1))).collect();
        assert_eq!(begun.len(), 3);
        assert!(handshakes.begin(address(1)).is_none());
        begun.extend(handshakes.begin(address(2)));
        assert_eq!(begun.len(), 4, "another address");
        assert!(handshakes.begin(address(1)).is_none(), "what was not counted leaves no place");
        handshakes.end(begun.remove(0));
        begun.extend(handshakes.begin(address(1)));
        assert!(begun.len() == 4 && handshakes.begin(address(1)).is_none());
        // An IPv6 network counts as one address.
        let v6 = |host: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, host]);
        begun.extend((10..14).filter_map(|host| handshakes.begin(v6(host))));
        assert_eq!(begun.len(), 7);
        begun.into_iter().for_each(|source| handshakes.end(source));
        assert!(handshakes.by_source.is_empty());
    }
}
