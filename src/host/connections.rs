//! The table of everything that the host keeps of its connections, by slot.
//!
//! A connection has an entry until it is closed or moves to another shard. Taking the entry takes everything.
//! A plain connection has no entry after it is accepted, because there is nothing to keep but its listener.

use super::layers::Layered;
use crate::base::{ConnectionSlot, Time};
use crate::settings::Network;
use std::net::IpAddr;

/// The host's state of one connection.
#[derive(Default)]
pub(super) struct ConnectionEntry {
    /// The layers below MQTT.
    pub(super) layered: Option<Box<Layered>>,
    /// The source to which its handshake counts, until CONNECT is answered.
    pub(super) handshake: Option<Network>,
    /// The start of the connection, if flapping is watched.
    pub(super) stay: Option<Stay>,
}

/// The address and the start of an admitted connection.
#[derive(Clone, Copy)]
pub(super) struct Stay {
    pub(super) address: IpAddr,
    pub(super) since: Time,
}

impl ConnectionEntry {
    fn is_empty(&self) -> bool {
        let ConnectionEntry { layered, handshake, stay } = self;
        layered.is_none() && handshake.is_none() && stay.is_none()
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct ConnectionTable {
    slots: Vec<Option<Box<ConnectionEntry>>>,
    /// The number of the listener for which each connection counts.
    listeners: Vec<Option<u8>>,
    /// The number of connections with layers.
    layered: usize,
}

impl ConnectionTable {
    /// The entry of a connection. It is created if there is none.
    pub(super) fn entry(&mut self, slot: ConnectionSlot) -> &mut ConnectionEntry {
        if self.slots.len() <= slot.at() {
            self.slots.resize_with(slot.at() + 1, || None);
        }
        self.slots[slot.at()].get_or_insert_default()
    }

    /// Notes that a connection counts for a listener.
    pub(super) fn note_listener(&mut self, slot: ConnectionSlot, listener: u16) {
        if self.listeners.len() <= slot.at() {
            self.listeners.resize(slot.at() + 1, None);
        }
        self.listeners[slot.at()] = Some(u8::try_from(listener).expect("at most 255 listeners"));
    }

    /// The listener for which a connection has counted until now.
    pub(super) fn take_listener(&mut self, slot: ConnectionSlot) -> Option<u16> {
        self.listeners.get_mut(slot.at())?.take().map(u16::from)
    }

    /// Inserts the entry of a connection that comes from another shard.
    pub(super) fn insert(&mut self, slot: ConnectionSlot, connection: Option<Box<ConnectionEntry>>) {
        if let Some(connection) = connection {
            self.layered += usize::from(connection.layered.is_some());
            *self.entry(slot) = *connection;
        }
    }

    /// Removes and returns the entry of a connection that ends here.
    pub(super) fn take(&mut self, slot: ConnectionSlot) -> Option<Box<ConnectionEntry>> {
        let entry = self.slots.get_mut(slot.at())?.take()?;
        self.layered -= usize::from(entry.layered.is_some());
        Some(entry)
    }

    /// Sets the layers of a connection that has none.
    pub(super) fn set_layers(&mut self, slot: ConnectionSlot, layered: Box<Layered>) {
        let before = self.entry(slot).layered.replace(layered);
        debug_assert!(before.is_none(), "a connection gets its layers once");
        self.layered += 1;
    }

    /// Ends a handshake, and returns the source to which it counted.
    pub(super) fn end_handshake(&mut self, slot: ConnectionSlot) -> Option<Network> {
        let entry = self.slots.get_mut(slot.at())?;
        let handshake = entry.as_mut()?.handshake.take();
        entry.take_if(|connection| connection.is_empty());
        handshake
    }

    /// Whether all connections are plain.
    #[inline]
    pub(super) fn are_plain(&self) -> bool {
        self.layered == 0
    }

    #[inline]
    pub(super) fn layered(&self, slot: ConnectionSlot) -> Option<&Layered> {
        if self.are_plain() {
            return None;
        }
        self.slots.get(slot.at())?.as_ref()?.layered.as_deref()
    }

    #[inline]
    pub(super) fn layered_mut(&mut self, slot: ConnectionSlot) -> Option<&mut Layered> {
        self.slots.get_mut(slot.at())?.as_mut()?.layered.as_deref_mut()
    }

    pub(super) fn give_memory_back(&mut self) {
        let used = self.slots.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.slots.truncate(used);
        self.slots.shrink_to_fit();
        let used = self.listeners.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.listeners.truncate(used);
        self.listeners.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::address_gate::counted_with;

    #[test]
    fn an_entry_without_content_goes_with_the_handshake() {
        let mut connections = ConnectionTable::default();
        let (plain, bounded) = (ConnectionSlot::new(1), ConnectionSlot::new(4));
        let network = counted_with([192, 0, 2, 1].into());
        connections.entry(plain).handshake = Some(network);
        connections.entry(bounded).handshake = Some(network);
        connections.entry(bounded).stay = Some(Stay { address: [192, 0, 2, 7].into(), since: Time::ZERO });
        assert!(connections.end_handshake(plain).is_some() && connections.end_handshake(plain).is_none());
        assert!(connections.take(plain).is_none());
        assert!(connections.end_handshake(bounded).is_some());
        assert!(connections.take(bounded).is_some_and(|entry| entry.stay.is_some()));
        assert!(connections.take(bounded).is_none());
        connections.give_memory_back();
        assert!(connections.slots.is_empty() && connections.are_plain());
    }

    #[test]
    fn an_entry_moves_whole() {
        let (mut here, mut there) = (ConnectionTable::default(), ConnectionTable::default());
        let address = [192, 0, 2, 1].into();
        here.entry(ConnectionSlot::new(2)).stay = Some(Stay { address, since: Time::ZERO });
        there.insert(ConnectionSlot::new(9), here.take(ConnectionSlot::new(2)));
        let entry = there.take(ConnectionSlot::new(9)).expect("it has come");
        assert!(entry.stay.is_some_and(|stay| stay.address == address));
    }

    #[test]
    fn a_connection_counts_for_its_listener_until_it_ends() {
        let mut connections = ConnectionTable::default();
        connections.note_listener(ConnectionSlot::new(3), 254);
        assert_eq!(connections.take_listener(ConnectionSlot::new(2)), None);
        assert_eq!(connections.take_listener(ConnectionSlot::new(3)), Some(254));
        assert_eq!(connections.take_listener(ConnectionSlot::new(3)), None);
        connections.give_memory_back();
        assert!(connections.listeners.is_empty());
    }
}
