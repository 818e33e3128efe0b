//! Connects the host to the layers below MQTT. Bytes of a socket pass through the connection's layers before
//! the machine gets them. The bytes that the machine sends pass through them at the end of the turn.

use super::connections::ConnectionTable;
use super::{Host, Io};
use crate::base::ConnectionSlot;
use crate::base::Time;
use crate::base::steps;
use crate::broker::outbox::{Outbox, Range};
use crate::broker::questions::ClientSecurity;
use crate::broker::{BytesBelow, Hangup, HoldBack};
use crate::control::access_policies::user_of_certificate;
use crate::transport::{Input, LayerFault, LayerStack, Layers, ProxyHeader, Scratch, TlsIdentity};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// The layers of a connection, and its listener.
pub(super) struct Layered {
    listener: u16,
    layers: Layers,
}

impl Layered {
    /// What TLS tells of the connection.
    pub(super) fn security(&self) -> Option<ClientSecurity> {
        let (secured, subject) = self.layers.security()?;
        Some(ClientSecurity {
            version: secured.version.name(),
            cipher_suite: secured.cipher_suite,
            certificate_subject: subject.map(Into::into),
        })
    }

    /// Whether it is a load balancer's own connection, which has named no client.
    pub(super) fn is_balancers_own(&self) -> bool {
        self.layers.is_balancers_own()
    }
}

/// The layers of a shard's listeners, and the work of a turn on those of its connections.
pub(super) struct ConnectionLayers {
    stacks: Arc<[LayerStack]>,
    scratch: Scratch,
    cipher: Vec<u8>,
    /// The layers' own answers of this turn. They are sent before the machine's bytes.
    answers: Vec<(ConnectionSlot, Range)>,
    /// Connections whose last bytes are sent in this turn.
    closing: Vec<(ConnectionSlot, Box<Layered>)>,
    /// The time that handshakes have taken in this turn.
    spent: Duration,
    /// Connections whose handshake continues in a later turn.
    waiting: VecDeque<ConnectionSlot>,
}

/// A handshake costs as much as a thousand messages. After this time in a turn, the other handshakes wait for
/// the next one.
const HANDSHAKE_BUDGET: Duration = Duration::from_millis(1);

impl ConnectionLayers {
    pub(super) fn new(stacks: Arc<[LayerStack]>) -> ConnectionLayers {
        ConnectionLayers {
            stacks,
            scratch: Scratch::default(),
            cipher: Vec::new(),
            answers: Vec::new(),
            closing: Vec::new(),
            spent: Duration::ZERO,
            waiting: VecDeque::new(),
        }
    }

    /// Sets the layers for new connections.
    pub(super) fn reload(&mut self, stacks: Arc<[LayerStack]>) {
        self.stacks = stacks;
    }

    fn stack(&self, listener: u16) -> &LayerStack {
        &self.stacks[usize::from(listener)]
    }

    /// Creates the layers of a new connection. `None` if it is plain.
    pub(super) fn open(&self, listener: u16, peer: SocketAddr) -> Option<Box<Layered>> {
        let layers = self.stack(listener).open(peer.ip())?;
        Some(Box::new(Layered { listener, layers }))
    }

    /// Takes the unsent answers of a connection's layers, because the connection moves to another shard.
    pub(super) fn take_unsent(&mut self, slot: ConnectionSlot, outbox: &Outbox) -> Vec<u8> {
        let mut unsent = Vec::new();
        self.answers.retain(|&(of, range)| {
            if of == slot {
                unsent.extend_from_slice(outbox.bytes(range));
            }
            of != slot
        });
        unsent
    }

    /// Adds the layers of a connection from another shard, where its layers have answered this.
    pub(super) fn adopt(&mut self, slot: ConnectionSlot, unsent: &[u8], outbox: &mut Outbox) {
        let start = outbox.arena_bytes();
        outbox.arena_mut().extend_from_slice(unsent);
        self.note_answer(slot, start, outbox);
    }

    /// Marks the connection as closing: it is closed after this turn is sent.
    pub(super) fn close(&mut self, slot: ConnectionSlot, layered: Box<Layered>) {
        self.closing.push((slot, layered));
    }

    fn note_answer(&mut self, slot: ConnectionSlot, start: usize, outbox: &mut Outbox) {
        let range = since(slot, start, outbox);
        if range.len > 0 {
            self.answers.push((slot, range));
        }
    }

    /// Whether a peer at this address is a load balancer.
    pub(super) fn is_balancer(&self, listener: u16, address: IpAddr) -> bool {
        self.stack(listener).is_balancer(address)
    }

    fn read(
        &mut self,
        slot: ConnectionSlot,
        layered: &mut Layered,
        bytes: &[u8],
        outbox: &mut Outbox,
    ) -> Result<Input, LayerFault> {
        let start = outbox.arena_bytes();
        let stack = &self.stacks[usize::from(layered.listener)];
        let read = layered.layers.read(stack, bytes, &mut self.scratch, outbox.arena_mut());
        self.note_answer(slot, start, outbox);
        read
    }

    /// Converts the turn's bytes of each layered connection into the bytes for its socket.
    pub(super) fn seal(&mut self, connections: &mut ConnectionTable, outbox: &mut Outbox) {
        // The table may have been freed in the turn in which its last connection ended.
        if connections.are_plain() && self.closing.is_empty() && self.answers.is_empty() {
            return;
        }
        // The list is sorted because all clients of a listener may be closed in one turn.
        self.closing.sort_unstable_by_key(|(slot, _)| *slot);
        let touched: Vec<ConnectionSlot> = outbox.touched().iter().map(|touched| touched.slot).collect();
        for slot in touched {
            let closing = self.closing.binary_search_by_key(&slot, |(closing, _)| {
                steps::walked(1);
                *closing
            });
            let layered = match closing {
                Ok(at) => Some(&mut *self.closing[at].1),
                Err(_) => connections.layered_mut(slot),
            };
            if let Some(layered) = layered {
                seal_one(slot, &mut layered.layers, &mut self.scratch, &mut self.cipher, outbox);
            }
        }
        for (slot, range) in self.answers.drain(..).rev() {
            outbox.send_first(slot, range);
        }
        for (slot, mut layered) in self.closing.drain(..) {
            let start = outbox.arena_bytes();
            layered.layers.close(&mut self.scratch, outbox.arena_mut());
            let range = since(slot, start, outbox);
            outbox.send(slot, range);
        }
    }

    /// Begins a turn. Returns connections whose handshake has waited and must be resumed.
    pub(super) fn begin_turn(&mut self) -> Vec<ConnectionSlot> {
        self.spent = Duration::ZERO;
        // It returns as many as are likely to fit. The others would only be put back.
        let some = self.waiting.len().min(16);
        self.waiting.drain(..some).collect()
    }

    /// Whether handshakes wait for the next turn.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn give_memory_back(&mut self) {
        self.cipher = Vec::new();
        self.scratch = Scratch::default();
        self.waiting.shrink_to_fit();
    }
}

/// Without encryption, only headers are added between the parts. With encryption, there is one range of
/// ciphertext.
fn seal_one(
    slot: ConnectionSlot,
    layers: &mut Layers,
    scratch: &mut Scratch,
    cipher: &mut Vec<u8>,
    outbox: &mut Outbox,
) {
    let Some(&touched) = outbox.touched_of(slot) else { return };
    let bytes = touched.bytes as usize;
    let start = outbox.arena_bytes();
    let first = outbox.segments_of(&touched).next().map_or(&[][..], |range| outbox.bytes(range));
    if layers.only_frames(first, bytes) {
        if layers.frame(bytes, outbox.arena_mut()) {
            let range = since(slot, start, outbox);
            outbox.send_first(slot, range);
        } else {
            outbox.replace(slot, Range { start: 0, len: 0 });
        }
        return;
    }
    cipher.clear();
    let parts = outbox.segments_of(&touched).map(|range| outbox.bytes(range));
    // After a failure, an alert is among the answers, or the peer is gone. Nothing more can be sent.
    let written = layers.write(parts, bytes, scratch, cipher);
    if written.is_err() {
        cipher.clear();
    }
    outbox.arena_mut().extend_from_slice(cipher);
    let range = since(slot, start, outbox);
    outbox.replace(slot, range);
    if cipher.capacity() > CIPHER_BYTES_KEPT {
        *cipher = Vec::new();
    }
}

/// The bytes that were appended for a connection. If they exceed what a turn can hold, the connection does
/// not get them and its stream ends. The budget of a turn is far below that.
fn since(slot: ConnectionSlot, start: usize, outbox: &mut Outbox) -> Range {
    let has_some = outbox.arena_bytes() > start;
    let range = outbox.range_since(start);
    if has_some && range.len == 0 {
        outbox.note_overrun(slot);
    }
    range
}

/// The largest capacity that the ciphertext buffer keeps for the next connection, in bytes.
const CIPHER_BYTES_KEPT: usize = 1 << 20;

impl<I: Io> Host<I> {
    /// Takes bytes of a connection with layers. Returns false and does nothing for a plain one.
    pub(super) fn receive_layered(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        buffer: I::Buffer,
    ) -> Option<I::Buffer> {
        if self.connections.layered(slot).is_none() {
            return Some(buffer);
        }
        let is_handshaking = self.machine.is_handshaking(slot);
        if is_handshaking && self.layers.spent >= HANDSHAKE_BUDGET {
            self.pause(slot, HoldBack::Turn);
            self.io.hold(slot, buffer, 0);
            self.layers.waiting.push_back(slot);
            return None;
        }
        let began = is_handshaking.then(|| self.now());
        let unanswered = self.machine.outbox().arena_bytes();
        let bytes = self.io.bytes(&buffer);
        let read = match self.connections.layered_mut(slot) {
            None => Ok(Input::default()),
            Some(layered) if layered.layers.awaits_header() => {
                let header = layered.layers.read_header(bytes);
                self.follow_header(now, slot, header)
            }
            Some(layered) => self.layers.read(slot, layered, bytes, self.machine.outbox()),
        };
        let came = self.io.bytes(&buffer).len();
        self.io.give_back(buffer);
        let answered = self.machine.outbox().arena_bytes() - unanswered;
        if answered > 0 {
            self.machine.handle_answer_below(slot, answered);
        }
        if let Some(began) = began {
            self.layers.spent += self.now().since(began);
        }
        let mut mqtt = self.layers.scratch.take_mqtt();
        if let Some(client) = self.layers.scratch.take_client()
            && !self.admit_named(now, slot, client)
        {
            mqtt.clear();
        }
        let end = match read {
            Ok(input) => {
                if let Some(identity) = input.identity {
                    self.note_identity(slot, identity);
                }
                if let Some(secured) = input.secured {
                    let version =
                        if secured.version == crate::transport::tls::TlsVersion::V12 { 0 } else { 2 };
                    let place = version + usize::from(secured.resumed);
                    self.shared.counters[usize::from(self.machine.id())].kinds.handshakes.add(place, 1);
                    tracing::debug!(
                        shard = self.machine.id(),
                        slot = slot.get(),
                        "TLS is established: {secured}"
                    );
                }
                input.is_closed.then_some(Hangup::Closed)
            }
            Err(fault) => {
                // An established connection that fails has a client.
                if matches!(fault, LayerFault::Tls(_)) && self.machine.is_handshaking(slot) {
                    let counters = &self.shared.counters[usize::from(self.machine.id())];
                    counters.kinds.handshakes_failed.add(0, 1);
                }
                Some(Hangup::Transport(fault.to_string().into()))
            }
        };
        let received = if mqtt.is_empty() { came } else { 0 };
        if !mqtt.is_empty() {
            self.machine.handle_bytes(now, slot, &mqtt);
        }
        let below = BytesBelow {
            received,
            held: self.connections.layered(slot).map_or(0, |layered| layered.layers.held_bytes()),
        };
        self.machine.handle_bytes_below(now, slot, below);
        self.layers.scratch.give_back(mqtt);
        if let Some(hangup) = end {
            // The effects come first: they may have moved or ended the connection.
            self.carry_out(now, Some(slot));
            if self.machine.has_connection(slot) {
                self.machine.handle_hangup(now, slot, hangup);
            }
        }
        None
    }

    /// Handles a complete PROXY header: asks the gate about the client, and continues with the bytes after
    /// the header.
    fn follow_header(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        header: Result<Option<ProxyHeader>, LayerFault>,
    ) -> Result<Input, LayerFault> {
        let Some(ProxyHeader { peer, identity, rest }) = header? else { return Ok(Input::default()) };
        if let Some(peer) = peer
            && !self.admit_named(now, slot, peer)
        {
            return Ok(Input::default());
        }
        if let Some(identity) = identity {
            self.note_identity(slot, identity);
        }
        if rest.is_empty() {
            return Ok(Input::default());
        }
        match self.connections.layered_mut(slot) {
            Some(layered) => self.layers.read(slot, layered, &rest, self.machine.outbox()),
            None => Ok(Input::default()),
        }
    }

    /// Asks the gate about the client that a load balancer has named. Returns false if it is turned away.
    fn admit_named(&mut self, now: Time, slot: ConnectionSlot, client: SocketAddr) -> bool {
        self.machine.handle_peer(slot, client);
        if !self.lets_in(now, client.ip()) || !self.begin_handshake(now, slot, client.ip()) {
            self.machine.handle_turned_away(now, slot);
            return false;
        }
        self.begin_stay(now, slot, client.ip());
        true
    }

    fn note_identity(&mut self, slot: ConnectionSlot, identity: TlsIdentity) {
        let Some(layered) = self.connections.layered(slot) else { return };
        let Some(listener) = self.in_force.settings.listener(layered.listener) else { return };
        let user = user_of_certificate(listener, identity.common_name, identity.subject);
        if let Some(user) = user {
            self.machine.handle_certificate_user(slot, user);
        }
    }

    /// Continues with the handshakes that had to wait for this turn.
    pub(super) fn resume_handshakes(&mut self) {
        for slot in self.layers.begin_turn() {
            // Few turns have such a handshake, so the clock is only read here.
            let now = self.now();
            self.resume(now, slot, HoldBack::Turn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::websocket::WebSocketSettings;

    #[test]
    fn last_words_go_out_when_memory_is_given_back_in_the_same_turn() {
        let stack = LayerStack { websocket: Some(WebSocketSettings::default()), ..LayerStack::default() };
        let mut layers = ConnectionLayers::new([stack].into());
        let mut outbox = Outbox::default();
        let mut layered = layers.open(0, ([127, 0, 0, 1], 4242).into()).expect("WebSocket");
        let slot = ConnectionSlot::new(3);
        layers.read(slot, &mut layered, b"\x10 is no HTTP", &mut outbox).expect_err("it is no HTTP");
        layers.close(slot, layered);
        layers.give_memory_back();
        layers.seal(&mut ConnectionTable::default(), &mut outbox);
        assert!(
            outbox.touched_of(ConnectionSlot::new(3)).is_some_and(|touched| touched.bytes > 0),
            "the refusal is sent"
        );
        assert!(layers.answers.is_empty() && layers.closing.is_empty());
    }

    #[test]
    fn a_listener_full_of_clients_is_closed_in_few_steps() {
        const CLIENTS: u32 = 5000;
        let stack = LayerStack { websocket: Some(WebSocketSettings::default()), ..LayerStack::default() };
        let mut layers = ConnectionLayers::new([stack].into());
        let mut outbox = Outbox::default();
        for slot in (0..CLIENTS).rev().map(ConnectionSlot::new) {
            let start = outbox.arena_len();
            outbox.arena_mut().extend_from_slice(b"\xE0\x01\x8B");
            outbox.send(slot, Range { start, len: 3 });
            layers.close(slot, layers.open(0, ([127, 0, 0, 1], 4242).into()).expect("WebSocket"));
        }
        let ((), steps) = steps::of(|| layers.seal(&mut ConnectionTable::default(), &mut outbox));
        assert!(steps <= u64::from(CLIENTS) * 16, "{steps} steps for {CLIENTS} clients");
        assert!(layers.closing.is_empty() && outbox.touched().len() == CLIENTS as usize);
    }

    #[test]
    fn each_packet_has_a_websocket_frame_of_its_own() {
        const PINGRESP: &[u8] = b"\xD0\x00";
        const PUBLISH: &[u8] = b"\x30\x04\x00\x01ta";
        let request: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Protocol: mqtt\r\n\r\n";
        let stack = LayerStack { websocket: Some(WebSocketSettings::default()), ..LayerStack::default() };
        let mut layers = ConnectionLayers::new([stack].into());
        let mut outbox = Outbox::default();
        let mut connections = ConnectionTable::default();
        let slot = ConnectionSlot::new(0);
        connections.set_layers(slot, layers.open(0, ([127, 0, 0, 1], 4242).into()).expect("WebSocket"));
        let layered = connections.layered_mut(slot).expect("WebSocket");
        layers.read(slot, layered, request, &mut outbox).expect("a good request");
        layers.seal(&mut connections, &mut outbox);
        outbox.clear();
        let mut sent = |layers: &mut ConnectionLayers, outbox: &mut Outbox, parts: &[&[u8]]| {
            for part in parts {
                let start = outbox.arena_len();
                outbox.arena_mut().extend_from_slice(part);
                // Bytes of another connection lie between them.
                outbox.send(ConnectionSlot::new(0), Range { start, len: outbox.arena_len() - start });
                outbox.arena_mut().push(0);
            }
            layers.seal(&mut connections, outbox);
            let touched = *outbox.touched_of(ConnectionSlot::new(0)).expect("something is sent");
            let bytes: Vec<_> = outbox.segments_of(&touched).map(|range| outbox.bytes(range)).collect();
            let bytes = bytes.concat();
            assert_eq!(bytes.len(), touched.bytes as usize);
            outbox.clear();
            bytes
        };
        assert_eq!(sent(&mut layers, &mut outbox, &[PINGRESP]), b"\x82\x02\xD0\x00");
        // The packets come one after the other, and a payload is separate from its header.
        let both = b"\x82\x02\xD0\x00\x82\x06\x30\x04\x00\x01ta\x82\x02\xD0\x00";
        assert_eq!(sent(&mut layers, &mut outbox, &[PINGRESP, PUBLISH, PINGRESP]), both);
        let joined = [PINGRESP, &PUBLISH[..5]].concat();
        assert_eq!(sent(&mut layers, &mut outbox, &[&joined, &PUBLISH[5..], PINGRESP]), both);
        assert_eq!(sent(&mut layers, &mut outbox, &[&PUBLISH[..5], &PUBLISH[5..]]), both[4..12]);
    }
}
