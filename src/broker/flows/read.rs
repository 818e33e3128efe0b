//! A connection, from the first byte to the close, whichever side closes it.

use super::behind::Brought;
use super::refuse::RefusedClient;
use crate::base::MemoryKind;
use crate::base::ShardId;
use crate::base::Time;
use crate::base::{ConnectionKey, ConnectionSlot, SessionSlot};
use crate::broker::components::budget::{BYTES_A_STEP, Visit, WORK_A_PACKET};
use crate::broker::components::connections::PAUSED_BY_WORK;
use crate::broker::components::connections::{BytesBelow, CONNECT_TYPE, Connection, Partial, Stage};
use crate::broker::components::timers::Timer;
use crate::broker::settings::Entrance;
use crate::broker::{Counter, Effect, EndCause, Event, Handover, Limit, Shard, Violation};
use crate::mqtt::Reason;
use crate::mqtt::codec::{Connect, DecodeError, Frame, Framing, frame};
use crate::settings::Terms;
use std::net::SocketAddr;

/// The shard's clock in seconds.
pub(in crate::broker) fn seconds_of(now: Time) -> u32 {
    u32::try_from(now.millis_since(Time::ZERO) / 1000).unwrap_or(u32::MAX)
}

/// The outcome of a packet.
pub(in crate::broker) enum Progress {
    /// Continue with the next one.
    Next,
    /// It stays with the unread bytes until the connection continues.
    Wait,
    /// The connection is closed or has left this shard.
    Gone,
    /// All unread bytes, including this packet, go to another shard.
    HandOver { to: ShardId },
}

/// The type of a TLS record with a handshake, and the first byte of its version.
const TLS_HANDSHAKE: &[u8] = &[0x16, 0x03];

/// Recognizes bytes that are not the beginning of a CONNECT. midge does not wait for the rest of data from a
/// browser or a port scanner, and does not answer it. `[MQTT5-3.1.0-1]`
fn no_connect(bytes: &[u8]) -> Option<Violation> {
    if bytes.starts_with(TLS_HANDSHAKE) {
        // The bytes would be a malformed CONNECT too, but that cause would not help a reader of the log.
        return Some(Violation {
            reason: Reason::MalformedPacket,
            cause: "the client speaks TLS, and this listener does not",
        });
    }
    let is_other = bytes.first().is_some_and(|first| first >> 4 != CONNECT_TYPE);
    is_other.then_some(Violation { reason: Reason::ProtocolError, cause: "the first packet is not CONNECT" })
}

/// The part of the body of a CONNECT that has arrived.
fn body_so_far(bytes: &[u8]) -> Option<&[u8]> {
    let (&0x10, rest) = bytes.split_first()? else { return None };
    let length_ends = rest.iter().take(4).position(|byte| byte & 0x80 == 0)?;
    rest.get(length_ends + 1..)
}

impl From<DecodeError> for Violation {
    fn from(error: DecodeError) -> Violation {
        Violation { reason: error.reason(), cause: error.cause }
    }
}

impl Shard {
    pub(in crate::broker) fn open(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        peer: SocketAddr,
        listener: u16,
        adopted: bool,
    ) {
        self.count(Counter::ConnectionsOpened, u64::from(!adopted));
        let limit = self.settings.config.limits.handshakes.div_ceil(self.shared.shards());
        let refused = if self.turn.is_closing() {
            true
        } else if !adopted && self.connections.handshakes() >= limit {
            self.report(Event::ConnectionRefused { limit: Limit::Handshakes, peer, listener });
            true
        } else {
            false
        };
        if refused {
            self.effects.push(Effect::Close { slot });
            self.count(Counter::ConnectionsClosed, 1);
            return;
        }
        let deadline = now.after_seconds(self.settings.config.limits.connect_seconds);
        let timer = self.timers.schedule(deadline, Timer::Connection(slot));
        let entrance = self.settings.entrance(listener);
        self.outbox.open(slot);
        self.connections.open(now, slot, peer, entrance, adopted, timer);
        self.note_connection(entrance, true);
    }

    /// Reads bytes, packet by packet.
    #[inline(always)]
    pub(in crate::broker) fn read(&mut self, now: Time, slot: ConnectionSlot, bytes: &[u8]) {
        self.count(Counter::BytesReceived, bytes.len() as u64);
        let Some(connection) = self.connections.get_mut(slot) else { return };
        connection.bytes_in += bytes.len() as u64;
        if let Some(mut partial) = connection.partial.take() {
            partial.bytes.extend_from_slice(bytes);
            let used = self.read_packets(now, slot, &partial.bytes);
            // An idle connection keeps no buffer.
            if let Some(used) = used.filter(|&used| used < partial.bytes.len()) {
                partial.advance(now, used);
                self.keep_partial(now, slot, partial);
            }
        } else {
            let used = self.read_packets(now, slot, bytes);
            if let Some(used) = used.filter(|&used| used < bytes.len()) {
                self.keep_partial(now, slot, Box::new(Partial::new(now, bytes[used..].to_vec())));
            }
        }
    }

    fn keep_partial(&mut self, now: Time, slot: ConnectionSlot, mut partial: Box<Partial>) {
        let bytes = partial.memory_bytes();
        match &mut partial.charge {
            Some(charge) => charge.set(bytes),
            None => partial.charge = Some(self.memory.account().charge(MemoryKind::Partial, bytes)),
        }
        let Some(connection) = self.connections.get_mut(slot) else { return };
        connection.partial = Some(partial);
        let is_untimed = connection.timer.is_none() && matches!(connection.stage, Stage::Serving { .. });
        if is_untimed {
            self.time_untimed_packet(now, slot);
        }
        self.check_partial(now, slot);
    }

    /// Notes bytes that MQTT has not seen. They count like bytes of the packet.
    pub(in crate::broker) fn read_below(&mut self, now: Time, slot: ConnectionSlot, bytes: BytesBelow) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let partial = connection.partial.take();
        if bytes.held == 0 && partial.is_none() {
            return;
        }
        let mut partial = partial.unwrap_or_else(|| Box::new(Partial::new(now, Vec::new())));
        partial.note_below(bytes);
        if !partial.is_empty() {
            self.keep_partial(now, slot, partial);
        }
    }

    /// Handles every complete packet. Returns the number of their bytes, or `None` if the connection is not
    /// here any more.
    fn read_packets(&mut self, now: Time, slot: ConnectionSlot, bytes: &[u8]) -> Option<usize> {
        let mut used = 0;
        // A visit begins at the first packet with others after it. Most packets have none.
        let mut visit: Option<(Visit, Brought)> = None;
        while used < bytes.len() {
            let connection = self.connections.get(slot)?;
            let (served_as, max) = match connection.stage {
                Stage::Serving { session, .. } => {
                    let max = self.settings.terms(connection.entrance).packet_bytes;
                    if connection.is_paused_by(PAUSED_BY_WORK) || self.waits_for_visit(slot, visit.as_ref()) {
                        return Some(used);
                    }
                    (Some(session), max)
                }
                Stage::Check | Stage::Refuse => return Some(used),
                // Logins always continue. They take no turn from connected clients.
                Stage::Connect { .. } | Stage::Authenticate => {
                    let is_first = matches!(connection.stage, Stage::Connect { .. });
                    if is_first && let Some(violation) = no_connect(&bytes[used..]) {
                        self.end_connection(now, slot, EndCause::Violation(violation));
                        return None;
                    }
                    (None, self.connect_bytes_max(connection))
                }
            };
            let progress = match frame(&bytes[used..], max) {
                Ok(Framing::Incomplete { .. }) => return Some(used),
                Ok(Framing::Whole(packet)) => {
                    let len = packet.total_len;
                    let connection = self.connections.get_mut(slot)?;
                    connection.last_packet = now;
                    if connection.is_paced() && !self.takes_packet(now, slot, &packet) {
                        return Some(used);
                    }
                    if visit.is_none() && used + len < bytes.len() {
                        visit = Some((self.begin_visit(), self.brought()));
                    }
                    if self.traces.is_on() {
                        self.trace_received(now, slot, packet);
                    }
                    let kind = usize::from(packet.first_byte >> 4);
                    self.kinds().packets_received.add(kind, 1);
                    self.spend(WORK_A_PACKET + len as u64 / BYTES_A_STEP);
                    let progress = match served_as {
                        Some(session) => self.handle_served_packet(now, slot, session, packet),
                        None => self.handle_packet(now, slot, packet),
                    };
                    // The local consequences of a packet are completed before the next packet.
                    self.settle(now);
                    if matches!(progress, Progress::Next) {
                        used += len;
                    }
                    progress
                }
                Err(error) => self.handle_unreadable(now, slot, &bytes[used..], error),
            };
            match progress {
                Progress::Next => {}
                Progress::Wait => {
                    // The packet is counted when it is taken.
                    self.kinds().packets_received.take_back(usize::from(bytes[used] >> 4));
                    if self.traces.is_on() {
                        self.trace_waits(now, slot);
                    }
                    return Some(used);
                }
                Progress::Gone => return None,
                Progress::HandOver { to } => {
                    if self.traces.is_on() {
                        self.trace_hand_over(now, slot, to, &bytes[used..]);
                    }
                    self.hand_over(slot, to, &bytes[used..]);
                    return None;
                }
            }
        }
        self.connections.get(slot)?;
        Some(used)
    }

    /// Hands a connection over. The home of the client identifier reads the CONNECT again, and counts it.
    fn hand_over(&mut self, slot: ConnectionSlot, to: ShardId, unread: &[u8]) {
        let Some(connection) = self.forget_connection(slot) else { return };
        let handover = Handover {
            peer: SocketAddr::from(&connection.peer),
            listener: self.listener_of(connection.entrance),
            user: connection.extras.and_then(|extras| extras.certificate_user),
            bytes: unread.to_vec(),
        };
        let counters = &self.shared.counters[usize::from(self.id)];
        counters.subtract(Counter::BytesReceived, handover.bytes.len() as u64);
        counters.kinds.packets_received.take_back(usize::from(CONNECT_TYPE));
        self.effects.push(Effect::HandOver { slot, to, handover });
    }

    /// Whether the next packet of a served connection must wait for its turn or for room. `visit` begins at
    /// its first packet.
    fn waits_for_visit(&mut self, slot: ConnectionSlot, visit: Option<&(Visit, Brought)>) -> bool {
        if self.is_spent() || visit.is_some_and(|(visit, _)| self.is_over(visit)) {
            self.put_off_reading(slot);
            return true;
        }
        visit.is_some_and(|(_, before)| self.waits_for_room(slot, *before))
    }

    /// The maximum size of a packet before CONNACK. It limits the cost of a peer that is not identified.
    fn connect_bytes_max(&self, connection: &Connection) -> usize {
        let limits = &self.settings.config.limits;
        let is_named = connection.extras.as_ref().is_some_and(|extras| extras.certificate_user.is_some());
        match is_named {
            true => limits.connect_bytes,
            false => limits.connect_bytes.min(limits.connect_bytes_unnamed),
        }
    }

    /// The violation of a CONNECT above its bound. It is counted, and its cause names the bound.
    fn connect_too_large(&self, slot: ConnectionSlot) -> Violation {
        self.count(Counter::LimitConnectBytes, 1);
        let max = self.connections.get(slot).map(|connection| self.connect_bytes_max(connection));
        let is_unnamed = max < Some(self.settings.config.limits.connect_bytes);
        let cause = match is_unnamed {
            true => "CONNECT above limits.connect_bytes_unnamed",
            false => "CONNECT above limits.connect_bytes",
        };
        Violation { reason: Reason::PacketTooLarge, cause }
    }

    /// The terms under which a connection was accepted. If it has ended, nothing is allowed.
    pub(in crate::broker) fn terms(&self, slot: ConnectionSlot) -> &Terms {
        let entrance = self.connections.get(slot).map_or(Entrance::NONE, |connection| connection.entrance);
        self.settings.terms(entrance)
    }

    /// The number of the listener that has accepted a connection.
    pub(in crate::broker) fn listener_of(&self, entrance: Entrance) -> u16 {
        self.settings.listener_of(entrance).expect("a listener has accepted it")
    }

    /// The terms of the last connection of a session's client, even if it has ended. For a session of an earlier run the listener is unknown until its client returns, so nothing is allowed.
    pub(in crate::broker) fn terms_of_session(&self, session: SessionSlot) -> &Terms {
        self.settings.terms(self.sessions.slot(session).entrance)
    }

    /// Handles one packet of a login.
    fn handle_packet(&mut self, now: Time, slot: ConnectionSlot, packet: Frame<'_>) -> Progress {
        let Some(connection) = self.connections.get(slot) else { return Progress::Gone };
        match connection.stage {
            Stage::Connect { .. } => {
                let progress = self.handle_connect_frame(now, slot, packet);
                // The home of the client identifier reads the packet again, and counts it.
                let is_taken = !matches!(progress, Progress::HandOver { .. });
                self.count(Counter::ConnectsReceived, u64::from(is_taken));
                progress
            }
            Stage::Authenticate => self.handle_authentication(now, slot, packet),
            // Nothing is read in these stages.
            Stage::Check | Stage::Refuse | Stage::Serving { .. } => Progress::Gone,
        }
    }

    /// Handles one packet of a connected client. Every failure ends the connection.
    fn handle_served_packet(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        packet: Frame<'_>,
    ) -> Progress {
        match self.handle_served(now, slot, session, packet) {
            Ok(progress) => progress,
            Err(violation) => {
                self.end_connection(now, slot, EndCause::Violation(violation));
                Progress::Gone
            }
        }
    }

    /// Handles bytes that are not a packet, or a packet that is too large.
    fn handle_unreadable(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        bytes: &[u8],
        error: DecodeError,
    ) -> Progress {
        let mut violation = Violation::from(error);
        let Some(connection) = self.connections.get(slot) else { return Progress::Gone };
        let is_connect = matches!(connection.stage, Stage::Connect { .. });
        if is_connect && violation.reason == Reason::PacketTooLarge {
            violation = self.connect_too_large(slot);
        }
        if is_connect && let Some(body) = body_so_far(bytes) {
            // [MQTT5-3.2.2-15]: a CONNECT that is too large is answered with the reason, if its version is
            // known.
            let frame = Frame { first_byte: bytes[0], body, total_len: bytes.len() };
            let client = Connect::version_of(frame).map(RefusedClient::unread);
            return self.refuse(now, slot, client, violation);
        }
        self.end_connection(now, slot, EndCause::Violation(violation));
        Progress::Gone
    }

    /// Encodes a packet at the end of the arena and sends it.
    pub(in crate::broker) fn send_packet(&mut self, slot: ConnectionSlot, encode: impl FnOnce(&mut Vec<u8>)) {
        self.try_send_packet(slot, encode);
    }

    /// The same. Returns `false` if the encoder wrote none, because the client does not accept packets that
    /// large.
    pub(in crate::broker) fn try_send_packet(
        &mut self,
        slot: ConnectionSlot,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        if self.outbox.is_full() {
            self.outbox.note_overrun(slot);
            return true;
        }
        let start = self.outbox.arena_bytes();
        encode(self.outbox.arena_mut());
        let range = self.outbox.range_since(start);
        if range.len > 0 {
            let kind = self.outbox.arena_mut()[start] >> 4;
            self.kinds().packets_sent.add(usize::from(kind), 1);
            self.note_asked(slot, range.len as usize);
            self.outbox.send(slot, range);
        }
        range.len > 0
    }

    /// Whether the connection is not yet served.
    pub fn is_handshaking(&self, slot: ConnectionSlot) -> bool {
        self.connections
            .get(slot)
            .is_some_and(|connection| !matches!(connection.stage, Stage::Serving { .. }))
    }

    /// Whether the connection waits for the result of its login. Nothing may be read meanwhile.
    pub fn awaits_verdict(&self, slot: ConnectionSlot) -> bool {
        let waits = |stage: &Stage| matches!(stage, Stage::Check | Stage::Refuse);
        self.connections.get(slot).is_some_and(|connection| waits(&connection.stage))
    }

    /// Whether a session still uses this connection.
    pub(in crate::broker) fn is_served_by(&self, session: SessionSlot, key: ConnectionKey) -> bool {
        self.sessions.get(session).is_some_and(|entry| entry.connection == Some(key.slot))
            && self.connections.has(key)
    }
}
