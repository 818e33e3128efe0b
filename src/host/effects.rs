//! Handles the events of the host's sockets, and carries out the machine's effects.

use super::admission::FailedLogin;
use super::{Host, Io, IoEvent, SocketEnd, UNIX_PEER};
use crate::base::{ConnectionSlot, Time};
use crate::broker::{Backlog, Counter, Effect, Event, Hangup};
use std::net::SocketAddr;

impl<I: Io> Host<I> {
    pub(super) fn handle_event(&mut self, now: Time, event: IoEvent<I::Buffer>) {
        match event {
            IoEvent::Accepted { listener, slot, peer } => self.accept(now, slot, peer, listener),
            IoEvent::AcceptFailed { error, .. } => {
                let cause = std::io::Error::from_raw_os_error(error);
                tracing::warn!(%cause, "a connection could not be accepted");
            }
            IoEvent::Received { slot, buffer } => self.receive(now, slot, buffer),
            IoEvent::Hangup { slot, cause } => {
                let hangup = match cause {
                    SocketEnd::EndOfStream => Hangup::Closed,
                    SocketEnd::Reset => Hangup::Reset,
                    SocketEnd::Error(error) => Hangup::Error(error),
                    SocketEnd::BacklogFull => Hangup::BacklogFull,
                };
                // The host may hold bytes that came before the hangup.
                if self.io.hold_hangup(slot, cause) {
                    return;
                }
                self.machine.handle_hangup(now, slot, hangup);
                self.carry_out(now, Some(slot));
            }
            IoEvent::Backlogged { slot, bytes, taken } => {
                self.machine.handle_backlog(now, slot, Backlog { bytes: bytes as usize, taken });
                self.carry_out(now, None);
            }
            IoEvent::Drained { slot } => {
                self.machine.handle_drained(now, slot);
                self.carry_out(now, None);
            }
            // Mails and `Control` are read every turn anyway.
            IoEvent::Woken => {}
            IoEvent::Readable { .. } => {
                self.verdicts.look();
                self.inquiries.look();
                self.look_for_checkpoint();
            }
        }
    }

    fn accept(&mut self, now: Time, slot: ConnectionSlot, peer: SocketAddr, listener: u16) {
        if !self.in_force.settings.is_open(listener) {
            // The kernel had accepted it before the listener was removed.
            return self.close_at_once(slot);
        }
        // For a load balancer, the gate decides about the client's address after the PROXY header has named
        // it.
        let counts = peer != UNIX_PEER && !self.layers.is_balancer(listener, peer.ip());
        if counts && !(self.lets_in(now, peer.ip()) && self.begin_handshake(now, slot, peer.ip())) {
            return self.close_at_once(slot);
        }
        if let Err(limit) = self.control.admit(&self.in_force.settings, listener) {
            self.end_handshake(slot);
            let event = Event::ConnectionRefused { limit, peer, listener };
            self.shared.counters[usize::from(self.machine.id())].add(Counter::LimitConnections, 1);
            self.write_event(now, event);
            return self.close_at_once(slot);
        }
        self.connections.note_listener(slot, listener);
        if let Some(layered) = self.layers.open(listener, peer) {
            self.connections.set_layers(slot, layered);
        }
        if counts {
            self.begin_stay(now, slot, peer.ip());
        }
        self.machine.handle_open(now, slot, peer, listener, false);
        self.carry_out(now, None);
    }

    /// Closes a connection that the machine never sees.
    fn close_at_once(&mut self, slot: ConnectionSlot) {
        let counters = &self.shared.counters[usize::from(self.machine.id())];
        counters.add(Counter::ConnectionsOpened, 1);
        counters.add(Counter::ConnectionsClosed, 1);
        self.io.abort(slot);
    }

    fn receive(&mut self, now: Time, slot: ConnectionSlot, buffer: I::Buffer) {
        if self.io.is_held(slot) || self.hold_back(now, slot) {
            self.io.hold(slot, buffer, 0);
            return;
        }
        if let Some(buffer) = self.receive_layered(now, slot, buffer) {
            self.machine.handle_bytes(now, slot, self.io.bytes(&buffer));
            self.io.give_back(buffer);
        }
        self.carry_out(now, Some(slot));
        if self.reads_once(slot) {
            self.io.receive_once(slot);
        }
    }

    /// Whether the connection is read one receive at a time and is due for the next one. Two kinds are not
    /// due: a connection whose handshake waits for the next turn, because it may still move to another shard,
    /// and a connection whose login is being checked.
    pub(super) fn reads_once(&self, slot: ConnectionSlot) -> bool {
        self.machine.is_handshaking(slot) && !self.machine.awaits_verdict(slot) && !self.io.is_held(slot)
    }

    /// Sends the machine's mails and carries out its effects. `cause` is the connection whose bytes have caused them.
    pub(super) fn carry_out(&mut self, now: Time, cause: Option<ConnectionSlot>) {
        self.send_mails(now, cause);
        // Most packets of clients have no effects.
        if !self.machine.has_effects() {
            return;
        }
        let mut effects = self.machine.take_effects();
        for effect in effects.drain(..) {
            match effect {
                Effect::Close { slot } => {
                    let connection = self.connections.take(slot);
                    self.forget(now, slot, connection);
                    self.io.close(slot);
                }
                Effect::Stream { slot } => {
                    self.end_handshake(slot);
                    self.io.receive_stream(slot);
                }
                Effect::HandOver { slot, to, handover } => self.hand_over(now, slot, to, handover),
                Effect::Check { slot, serial, login } => self.check_login(now, slot, serial, login),
                Effect::LoginFailed { slot, serial, peer } => {
                    // Its CONNECT is finished.
                    self.end_handshake(slot);
                    self.admissions.failed.push(FailedLogin { slot, serial, peer });
                }
                Effect::LoginSucceeded { slot, peer } => self.note_success(now, slot, peer),
                Effect::Pause { slot } => self.io.pause(slot),
                // The shard itself may have a reason to pause it by now.
                Effect::Resume { slot } if self.machine.is_paused(slot) => {}
                Effect::Resume { slot } => self.io.resume(slot),
                Effect::Event(event) => self.write_event(now, event),
            }
        }
        self.machine.recycle_effects(effects);
        if !self.admissions.failed.is_empty() {
            self.judge_failures(now);
        }
    }

    pub(super) fn write_event(&mut self, now: Time, event: Event) {
        self.log.write(now, &event);
        if let Some(observer) = &mut self.observer {
            observer(now, &event);
        }
        self.history.keep(now, event);
    }
}
