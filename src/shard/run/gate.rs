//! The runner and the gate that all shards have in common: which connections come in, what a wrong login costs, and
//! how long those stay who come in where flapping is watched.

use super::Runner;
use super::doors::Doors;
use crate::auth::gate::{Penalty, counted_with};
use crate::driver::UNIX_PEER;
use crate::shard::Counter;
use crate::shard::event::Event;
use crate::time::Time;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Who has come in, and when; kept only while flapping is watched.
#[derive(Clone, Copy)]
pub(super) struct Visit {
    address: IpAddr,
    since: Time,
}

/// A wrong login that the gate has not judged yet.
pub(super) struct FailedLogin {
    pub(super) slot: u32,
    pub(super) serial: u32,
    pub(super) peer: SocketAddr,
}

/// What of the gate is a shard's own.
#[derive(Default)]
pub(super) struct AtGate {
    /// By slot.
    pub(super) visits: BTreeMap<u32, Visit>,
    pub(super) failed: Vec<FailedLogin>,
    /// The list of the banned is new: connections in slots from this one on are still to be looked at.
    pub(super) banned_to: Option<u32>,
}

/// The address that a connection counts for; none for a Unix-domain socket, and for a load balancer that does not
/// speak for a client, or has not yet.
fn source(doors: &Doors, slot: u32, peer: SocketAddr) -> Option<IpAddr> {
    (peer != UNIX_PEER && !doors.is_balancers_own(slot)).then(|| peer.ip())
}

impl Runner {
    /// May a connection come in from this address? One that may not is counted, and told of once in a while.
    pub(super) fn lets_in(&mut self, now: Time, address: IpAddr) -> bool {
        let Err(away) = self.control.gate.open(now, address) else { return true };
        let counter = if away.is_banned { Counter::TurnedAwayBanned } else { Counter::TurnedAwayTooFast };
        self.shared.counters[usize::from(self.machine.id())].add(counter, 1);
        if let Some(network) = away.tell {
            self.log.write(now, &Event::TurnedAway { network, is_banned: away.is_banned });
        }
        false
    }

    /// A connection has come in from this address.
    pub(super) fn begin_visit(&mut self, now: Time, slot: u32, address: IpAddr) {
        if self.entrance.gate.flap_connects > 0 {
            self.at_gate.visits.insert(slot, Visit { address, since: now });
        }
    }

    /// The connection ends.
    pub(super) fn end_visit(&mut self, now: Time, slot: u32) {
        // Nearly always there are none.
        if self.at_gate.visits.is_empty() {
            return;
        }
        let Some(Visit { address, since }) = self.at_gate.visits.remove(&slot) else { return };
        if self.control.gate.closed(now, address, now.millis_since(since)) {
            self.tell_of_ban(now, address, false);
        }
    }

    /// Tells the machine what the wrong logins cost that it has told of.
    pub(super) fn judge_failures(&mut self, now: Time) {
        for FailedLogin { slot, serial, peer } in std::mem::take(&mut self.at_gate.failed) {
            let address = source(&self.doors, slot, peer);
            let penalty = address.map_or(Penalty::None, |address| self.control.gate.failed(now, address));
            let delay_millis = match penalty {
                Penalty::Delay { millis } => millis,
                Penalty::None | Penalty::Ban { .. } => 0,
            };
            if let (Penalty::Ban { .. }, Some(address)) = (penalty, address) {
                self.tell_of_ban(now, address, true);
            }
            self.machine.handle_penalty(now, slot, serial, delay_millis);
        }
        self.carry_out(now, None);
    }

    pub(super) fn note_success(&mut self, now: Time, slot: u32, peer: SocketAddr) {
        if let Some(address) = source(&self.doors, slot, peer) {
            self.control.gate.succeeded(now, address);
        }
    }

    /// Goes on with ending the connections of those who stand in a new list of the banned.
    pub(super) fn end_banned(&mut self, now: Time) {
        let Some(from) = self.at_gate.banned_to.take() else { return };
        let settings = Arc::clone(&self.entrance.gate);
        if settings.banned.is_empty() {
            return;
        }
        let doors = &self.doors;
        let is_banned =
            |slot, peer| source(doors, slot, peer).is_some_and(|address| settings.is_banned(address));
        self.at_gate.banned_to = self.machine.handle_bans(now, from, is_banned);
        self.carry_out(now, None);
    }

    fn tell_of_ban(&mut self, now: Time, address: IpAddr, by_failures: bool) {
        let seconds = self.entrance.gate.ban_seconds;
        let event = Event::Banned { network: counted_with(address), by_failures, seconds };
        self.shared.counters[usize::from(self.machine.id())].add(Counter::AddressesBanned, 1);
        self.log.write(now, &event);
    }
}
