//! The connections of a shard, by slot: the stage of each, its client, and the reasons why it is not read.

mod identity;
mod partial;
mod pauses;
mod peer;
mod slow;

pub(in crate::broker) use identity::{Authentication, Identity};
pub use partial::BytesBelow;
pub(in crate::broker) use partial::Partial;
pub use pauses::HoldBack;
pub(in crate::broker) use pauses::{
    GOES_ON, PAUSED_BY_BACKLOG, PAUSED_BY_DISK, PAUSED_BY_LANE, PAUSED_BY_MEMORY, PAUSED_BY_RATE,
    PAUSED_BY_REPLIES, PAUSED_BY_ROOM, PAUSED_BY_WORK,
};
pub(in crate::broker) use peer::Peer;
pub use slow::Backlog;
pub(in crate::broker) use slow::Slow;

use crate::base::{Charge, ConnectionKey, ConnectionSlot, SessionSlot, Time, TimerId};
use crate::broker::components::rates::Pace;
use crate::broker::event::Hangup;
use crate::broker::settings::Entrance;
use crate::mqtt::codec::{Connect, DecodeError, Frame};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use zeroize::Zeroizing;

/// See the module.
#[derive(Default)]
pub(in crate::broker) struct Connections {
    slots: Vec<Option<Box<Connection>>>,
    count: usize,
    /// The number of connections by entrance.
    by_entrance: Vec<usize>,
    /// The number of connections whose CONNECT is not answered yet.
    handshakes: usize,
    /// The number of connections whose login was wrong and whose refusal waits.
    refusals_waiting: usize,
    next_serial: u32,
}

impl Connections {
    pub(in crate::broker) fn get(&self, slot: ConnectionSlot) -> Option<&Connection> {
        self.slots.get(slot.at())?.as_deref()
    }

    pub(in crate::broker) fn get_mut(&mut self, slot: ConnectionSlot) -> Option<&mut Connection> {
        self.slots.get_mut(slot.at())?.as_deref_mut()
    }

    /// The key of the connection in a slot, if there is one.
    pub(in crate::broker) fn key(&self, slot: ConnectionSlot) -> Option<ConnectionKey> {
        self.get(slot).map(|connection| ConnectionKey { slot, serial: connection.serial })
    }

    /// Whether the connection with this key is still here.
    pub(in crate::broker) fn has(&self, key: ConnectionKey) -> bool {
        self.get(key.slot).is_some_and(|connection| connection.serial == key.serial)
    }

    /// The session of a connection in the stage [`Stage::Serving`].
    pub(in crate::broker) fn session_of(&self, slot: ConnectionSlot) -> Option<SessionSlot> {
        match self.get(slot)?.stage {
            Stage::Serving { session, .. } => Some(session),
            Stage::Connect { .. } | Stage::Check | Stage::Authenticate | Stage::Refuse => None,
        }
    }

    /// The number of connections in any stage.
    pub(in crate::broker) fn len(&self) -> usize {
        self.count
    }

    /// The number of connections in any stage by entrance. Entrances that had none may be missing.
    pub(in crate::broker) fn by_entrance(&self) -> &[usize] {
        &self.by_entrance
    }

    /// The number of slots, used or free.
    pub(in crate::broker) fn slots(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("slots are 32 bits")
    }

    /// The number of connections whose CONNECT is not answered yet.
    pub(in crate::broker) fn handshakes(&self) -> usize {
        self.handshakes
    }

    /// The number of connections whose login was wrong and whose refusal waits.
    pub(in crate::broker) fn refusals_waiting(&self) -> usize {
        self.refusals_waiting
    }

    /// Adds a new connection. Its CONNECT must arrive before `timer` fires. The slot must be free.
    pub(in crate::broker) fn open(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        peer: SocketAddr,
        entrance: Entrance,
        adopted: bool,
        timer: TimerId,
    ) {
        let connection = Connection {
            stage: Stage::Connect { adopted },
            serial: self.next_serial,
            peer: peer.into(),
            entrance,
            partial: None,
            last_packet: now,
            timer: Some(timer),
            slow: None,
            paused: 0,
            extras: None,
            bytes_in: 0,
            messages_in: 0,
        };
        self.next_serial = self.next_serial.wrapping_add(1);
        if self.slots.len() <= slot.at() {
            self.slots.resize_with(slot.at() + 1, || None);
        }
        debug_assert!(self.slots[slot.at()].is_none(), "the driver reuses a slot only after its close");
        self.slots[slot.at()] = Some(Box::new(connection));
        if self.by_entrance.len() <= entrance.at() {
            self.by_entrance.resize(entrance.at() + 1, 0);
        }
        self.by_entrance[entrance.at()] += 1;
        self.count += 1;
        self.handshakes += 1;
    }

    /// Accepts the client: the connection serves a session from now on. Returns the timer of its CONNECT,
    /// which the keep-alive timer replaces.
    pub(in crate::broker) fn serve(
        &mut self,
        slot: ConnectionSlot,
        session: SessionSlot,
        keep_alive_seconds: u16,
        keep_alive: Option<TimerId>,
    ) -> Option<TimerId> {
        let connection = self.slots.get_mut(slot.at())?.as_deref_mut()?;
        self.handshakes -= 1;
        connection.stage = Stage::Serving { session, keep_alive_seconds, is_paced: false };
        std::mem::replace(&mut connection.timer, keep_alive)
    }

    /// Notes that the login was wrong: the connection waits with this CONNACK from now on. Its CONNECT is
    /// finished, so it takes no place from clients that log in.
    pub(in crate::broker) fn refuse(
        &mut self,
        slot: ConnectionSlot,
        refusal: Box<[u8]>,
    ) -> Option<&mut Connection> {
        let connection = self.slots.get_mut(slot.at())?.as_deref_mut()?;
        self.handshakes -= 1;
        self.refusals_waiting += 1;
        connection.stage = Stage::Refuse;
        connection.extras().refusal = refusal;
        Some(connection)
    }

    /// Removes a connection. Its slot belongs to the driver again.
    pub(in crate::broker) fn take(&mut self, slot: ConnectionSlot) -> Option<Box<Connection>> {
        let connection = self.slots.get_mut(slot.at())?.take()?;
        self.count -= 1;
        self.by_entrance[connection.entrance.at()] -= 1;
        match connection.stage {
            Stage::Serving { .. } => {}
            Stage::Connect { .. } | Stage::Check | Stage::Authenticate => self.handshakes -= 1,
            Stage::Refuse => self.refusals_waiting -= 1,
        }
        Some(connection)
    }

    /// Frees the memory after the last connection. Returns the number of slots that are left.
    pub(in crate::broker) fn give_memory_back(&mut self) -> usize {
        let used = self.slots.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.slots.truncate(used);
        self.slots.shrink_to_fit();
        used
    }
}

/// The stage of a connection.
#[derive(Debug)]
pub(in crate::broker) enum Stage {
    /// It waits for CONNECT.
    Connect {
        /// Whether it came from another shard because this one is its home.
        adopted: bool,
    },
    /// The login of the CONNECT in `ConnectionExtras` is being checked.
    Check,
    /// Enhanced authentication is in progress for the CONNECT in `ConnectionExtras`.
    Authenticate,
    /// The login was wrong, and the refusal in `ConnectionExtras` waits for its time.
    Refuse,
    /// The client is accepted.
    Serving {
        /// The slot in the directory.
        session: SessionSlot,
        /// 0 if there is none.
        keep_alive_seconds: u16,
        /// Whether each packet must be admitted by [`Shard::takes_packet`].
        is_paced: bool,
    },
}

/// A CONNECT that waits. It has at most `limits.connect_bytes`, and is wiped when dropped because it may
/// contain a password.
#[derive(Debug)]
pub(in crate::broker) struct KeptConnect {
    body: Zeroizing<Box<[u8]>>,
    total_len: usize,
}

impl KeptConnect {
    pub(in crate::broker) fn of(packet: Frame<'_>) -> KeptConnect {
        KeptConnect { body: Zeroizing::new(packet.body.into()), total_len: packet.total_len }
    }

    pub(in crate::broker) fn decode(&self) -> Result<Connect<'_>, DecodeError> {
        Connect::decode(Frame { first_byte: CONNECT_TYPE << 4, body: &self.body, total_len: self.total_len })
    }
}

/// State that few connections need.
#[derive(Debug, Default)]
pub(in crate::broker) struct ConnectionExtras {
    /// Topic alias → topic name, as set by the client. `[MQTT5-3.3.2-12]`
    pub aliases_in: Vec<Option<Box<str>>>,
    /// Topic name → topic alias, as set by midge. `[MQTT5-3.3.2-11]`
    pub aliases_out: BTreeMap<Box<str>, u16>,
    /// The number of aliases that midge may set.
    pub aliases_out_max: u16,
    /// The memory charge of the aliases.
    pub alias_charge: Option<Charge>,
    /// The CONNECT, while a login is checked or enhanced authentication is in progress.
    pub connect: Option<KeptConnect>,
    /// Enhanced authentication.
    pub authentication: Option<Box<Authentication>>,
    /// The user name from the client's certificate.
    pub certificate_user: Option<Box<str>>,
    /// The identity and permissions of the client.
    pub identity: Identity,
    /// A CONNACK that waits. Empty if there is nothing to send.
    pub refusal: Box<[u8]>,
    /// The hangup of the peer, if not everything that it sent has been handled.
    pub hangup: Option<Hangup>,
    /// The state of its rate limits, if there are any.
    pub pace: Option<Box<Pace>>,
    /// Whether its subscriptions get No Local and Retain As Published.
    pub is_bridge: bool,
}

/// A connection. Its memory while idle determines the cost of a fleet. So rare state is boxed, and state that
/// each message needs is in the directory's slot.
pub(in crate::broker) struct Connection {
    pub stage: Stage,
    /// Distinguishes it from an earlier connection in the same slot.
    pub serial: u32,
    pub peer: Peer,
    /// The listener that accepted it, and its terms at that time.
    pub entrance: Entrance,
    /// The beginning of a packet whose end has not arrived.
    pub(in crate::broker) partial: Option<Box<Partial>>,
    pub last_packet: Time,
    pub timer: Option<TimerId>,
    /// The state while its socket does not take everything.
    pub slow: Option<Box<Slow>>,
    /// The reasons why it is not read: see [`pauses`].
    pub(in crate::broker) paused: u16,
    pub extras: Option<Box<ConnectionExtras>>,
    /// The number of received bytes of MQTT and of received PUBLISH packets.
    pub bytes_in: u64,
    pub messages_in: u64,
}

// With the allocator's header of eight bytes it takes 96.
const _: () = assert!(size_of::<Connection>() <= 88);

impl Connection {
    pub(in crate::broker) fn extras(&mut self) -> &mut ConnectionExtras {
        self.extras.get_or_insert_default()
    }

    /// Whether each of its packets must be admitted by [`Shard::takes_packet`].
    #[inline]
    pub(in crate::broker) fn is_paced(&self) -> bool {
        matches!(self.stage, Stage::Serving { is_paced: true, .. })
    }

    /// Begins to admit each packet.
    pub(in crate::broker) fn begin_pace(&mut self, pace: Pace) {
        if let Stage::Serving { is_paced, .. } = &mut self.stage {
            *is_paced = true;
            self.extras().pace = Some(Box::new(pace));
        }
    }

    pub(in crate::broker) fn pace_mut(&mut self) -> Option<&mut Pace> {
        self.extras.as_mut()?.pace.as_deref_mut()
    }

    /// The number of received bytes of packets that are not handled yet.
    pub(in crate::broker) fn partial_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.len())
    }

    /// The same number without the bytes in the layers below MQTT.
    pub(in crate::broker) fn unread_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.bytes.len())
    }

    /// The number of bytes that its socket has not taken.
    pub(in crate::broker) fn backlog_bytes(&self) -> usize {
        self.slow.as_ref().map_or(0, |slow| slow.bytes())
    }

    /// The approximate number of PUBLISH packets among them.
    pub(in crate::broker) fn backlog_packets(&self) -> u64 {
        self.slow.as_ref().map_or(0, |slow| slow.packets())
    }

    /// The number of bytes of topic aliases in both directions.
    pub(in crate::broker) fn alias_bytes(&self) -> usize {
        self.extras.as_ref().and_then(|extras| extras.alias_charge.as_ref()).map_or(0, Charge::bytes)
    }
}

/// The packet type of CONNECT.
pub(in crate::broker) const CONNECT_TYPE: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Wheel;
    use crate::broker::settings::BrokerSettings;
    use crate::settings::Config;

    fn entrance() -> Entrance {
        BrokerSettings::new(Config::default()).entrance(0)
    }

    fn open(connections: &mut Connections, slot: u32) -> ConnectionKey {
        let timer = Wheel::new().schedule(Time::ZERO, ());
        let slot = ConnectionSlot::new(slot);
        connections.open(Time::ZERO, slot, ([127, 0, 0, 1], 1).into(), entrance(), false, timer);
        connections.key(slot).expect("it was opened")
    }

    #[test]
    fn a_key_names_one_connection_and_not_the_next_in_its_slot() {
        let mut connections = Connections::default();
        let first = open(&mut connections, 3);
        assert!(connections.has(first));
        assert!(connections.take(first.slot).is_some());
        assert!(!connections.has(first) && connections.take(first.slot).is_none());
        let second = open(&mut connections, 3);
        assert!(connections.has(second) && !connections.has(first));
    }

    #[test]
    fn each_stage_is_counted() {
        let mut connections = Connections::default();
        let keys: Vec<_> = (0..3).map(|slot| open(&mut connections, slot)).collect();
        assert_eq!((connections.len(), connections.handshakes()), (3, 3));
        assert_eq!(connections.by_entrance(), [3]);
        let session = SessionSlot::new(7);
        connections.serve(keys[0].slot, session, 0, None);
        assert!(connections.refuse(keys[1].slot, Box::default()).is_some());
        assert_eq!((connections.handshakes(), connections.refusals_waiting()), (1, 1));
        assert_eq!(connections.session_of(keys[0].slot), Some(session));
        assert_eq!(connections.session_of(keys[1].slot), None);
        for key in keys {
            connections.take(key.slot);
        }
        assert_eq!((connections.len(), connections.handshakes(), connections.refusals_waiting()), (0, 0, 0));
        assert_eq!(connections.give_memory_back(), 0);
    }
}
