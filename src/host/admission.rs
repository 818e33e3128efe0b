//! Connects the host to the address gate of all shards: which connections are admitted, the penalty for a
//! wrong login, and the durations of connections while flapping is watched.

use super::UNIX_PEER;
use super::connections::{ConnectionEntry, ConnectionTable, Stay};
use super::handshakes::Handshakes;
use super::layers::Layered;
use super::{Host, Io};
use crate::base::ConnectionSlot;
use crate::base::Time;
use crate::broker::Counter;
use crate::broker::{Away, EndCause, Event};
use crate::policy::address_gate::{Penalty, counted_with};
use crate::settings::Network;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A wrong login that the address gate has not judged yet.
pub(super) struct FailedLogin {
    pub(super) slot: ConnectionSlot,
    pub(super) serial: u32,
    pub(super) peer: SocketAddr,
}

/// A wrong login with the address gate's penalty.
#[derive(Clone, Copy)]
pub(super) struct Judged {
    pub(super) slot: ConnectionSlot,
    pub(super) serial: u32,
    pub(super) penalty: Penalty,
}

/// The part of the address gate that belongs to one shard.
pub(super) struct Admissions {
    pub(super) handshakes: Handshakes,
    pub(super) failed: Vec<FailedLogin>,
    /// The login whose verdict is being handled.
    pub(super) judged: Option<Judged>,
    /// After a change of the banned networks and of the listeners, the connections in slots from this one on must
    /// still be checked.
    pub(super) unwanted_to: Option<u32>,
}

impl Admissions {
    pub(super) fn new(handshakes: Handshakes) -> Admissions {
        Admissions { handshakes, failed: Vec::new(), judged: None, unwanted_to: None }
    }
}

/// The address that a connection counts for. `None` for a Unix-domain socket, and for a load balancer that
/// has named no client.
pub(super) fn source(
    connections: &ConnectionTable,
    slot: ConnectionSlot,
    peer: SocketAddr,
) -> Option<IpAddr> {
    let is_balancers_own = connections.layered(slot).is_some_and(Layered::is_balancers_own);
    (peer != UNIX_PEER && !is_balancers_own).then(|| peer.ip())
}

impl<I: Io> Host<I> {
    /// Whether a connection from this address may be admitted. A refused one is counted, and logged from time
    /// to time.
    pub(super) fn lets_in(&mut self, now: Time, address: IpAddr) -> bool {
        let Err(away) = self.control.address_gate.open(now, address) else { return true };
        let cause = if away.is_banned { Away::Banned } else { Away::TooFast };
        self.turn_away(now, cause, away.tell);
        false
    }

    fn turn_away(&mut self, now: Time, cause: Away, tell: Option<Network>) {
        self.shared.counters[usize::from(self.machine.id())].add(cause.counter(), 1);
        if let Some(network) = tell {
            self.write_event(now, Event::TurnedAway { network, cause });
        }
    }

    /// Counts the start of a handshake of this address. Returns false if the address has its share of
    /// handshakes already. This is counted, and logged from time to time.
    pub(super) fn begin_handshake(&mut self, now: Time, slot: ConnectionSlot, address: IpAddr) -> bool {
        if self.in_force.policies.address_gate.is_exempt(address) {
            return true;
        }
        self.end_handshake(slot);
        if let Some(source) = self.admissions.handshakes.begin(address) {
            self.connections.entry(slot).handshake = Some(source);
            return true;
        }
        let tell = self.control.address_gate.tell(now, address);
        self.turn_away(now, Away::Handshakes, tell);
        false
    }

    /// Ends the handshake of a connection: its CONNECT is answered, or it ends.
    pub(super) fn end_handshake(&mut self, slot: ConnectionSlot) {
        if let Some(source) = self.connections.end_handshake(slot) {
            self.admissions.handshakes.end(source);
        }
    }

    /// Records an admitted connection of this address.
    pub(super) fn begin_stay(&mut self, now: Time, slot: ConnectionSlot, address: IpAddr) {
        if self.in_force.policies.address_gate.flap_connects > 0 {
            self.connections.entry(slot).stay = Some(Stay { address, since: now });
        }
    }

    /// Removes a connection that has ended from all counts.
    pub(super) fn forget(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        connection: Option<Box<ConnectionEntry>>,
    ) {
        self.control.open.fetch_sub(1, Ordering::Relaxed);
        self.verdicts.forget(slot);
        if let Some(listener) = self.connections.take_listener(slot) {
            self.control.open_by_listener[usize::from(listener)].fetch_sub(1, Ordering::Relaxed);
        }
        let Some(connection) = connection else { return };
        let ConnectionEntry { layered, handshake, stay } = *connection;
        if let Some(layered) = layered {
            self.layers.close(slot, layered);
        }
        if let Some(source) = handshake {
            self.admissions.handshakes.end(source);
        }
        if let Some(Stay { address, since }) = stay
            && self.control.address_gate.closed(now, address, now.millis_since(since))
        {
            self.tell_of_ban(now, address, false);
        }
    }

    /// Tells the machine the penalties for the wrong logins that it has reported.
    pub(super) fn judge_failures(&mut self, now: Time) {
        for FailedLogin { slot, serial, peer } in std::mem::take(&mut self.admissions.failed) {
            let judged =
                self.admissions.judged.filter(|judged| (judged.slot, judged.serial) == (slot, serial));
            let penalty = match (judged, source(&self.connections, slot, peer)) {
                (Some(judged), _) => judged.penalty,
                (None, Some(address)) => self.penalty(now, address),
                (None, None) => Penalty::None,
            };
            let delay_millis = match penalty {
                Penalty::Delay { millis } => millis,
                Penalty::None | Penalty::Ban { .. } => 0,
            };
            self.machine.handle_penalty(now, slot, serial, delay_millis);
        }
        self.carry_out(now, None);
    }

    /// The penalty for a wrong login from this address. Logs the ban if this causes one.
    pub(super) fn penalty(&mut self, now: Time, address: IpAddr) -> Penalty {
        let penalty = self.control.address_gate.failed(now, address);
        if let Penalty::Ban { .. } = penalty {
            self.tell_of_ban(now, address, true);
        }
        penalty
    }

    pub(super) fn note_success(&mut self, now: Time, slot: ConnectionSlot, peer: SocketAddr) {
        if let Some(address) = source(&self.connections, slot, peer) {
            self.control.address_gate.succeeded(now, address);
        }
    }

    /// Continues to end the connections of newly banned networks, and of listeners that were removed.
    pub(super) fn end_unwanted(&mut self, now: Time) {
        let Some(from) = self.admissions.unwanted_to.take() else { return };
        let gate = Arc::clone(&self.in_force.policies.address_gate);
        let settings = Arc::clone(&self.in_force.settings);
        if gate.banned.is_empty() && settings.open_listeners().len() == settings.config.listeners.len() {
            return;
        }
        let connections = &self.connections;
        let why = |slot, peer, listener| {
            if !settings.is_open(listener) {
                return Some(EndCause::ListenerRemoved);
            }
            source(connections, slot, peer)
                .is_some_and(|address| gate.is_banned(address))
                .then_some(EndCause::Banned)
        };
        self.admissions.unwanted_to = self.machine.handle_unwanted(now, from, why);
        self.carry_out(now, None);
    }

    fn tell_of_ban(&mut self, now: Time, address: IpAddr, by_failures: bool) {
        let seconds = self.in_force.policies.address_gate.ban_seconds;
        let event = Event::Banned { network: counted_with(address), by_failures, seconds };
        self.shared.counters[usize::from(self.machine.id())].add(Counter::AddressesBanned, 1);
        self.write_event(now, event);
    }
}
