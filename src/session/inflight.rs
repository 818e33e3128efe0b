//! Messages sent at QoS 1 and 2 and not yet settled: packet identifiers, states, the window.

use super::Seldom;
use crate::message::Message;
use crate::packet::{AckKind, PacketId, QoS};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::sync::Arc;

/// A message for one session: what the subscription made of it.
#[derive(Debug)]
pub struct Delivery {
    /// The message, shared with the other sessions of the shard.
    pub message: Rc<Message>,
    /// The smaller of published and granted QoS. `[MQTT5-3.8.4-8]`
    pub qos: QoS,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// Its name in the log; 0: it is not there.
    pub number: u64,
    /// What most deliveries do not have.
    pub extra: Option<Box<Extra>>,
}

/// The rarer parts of a delivery.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// Subscription identifiers. `[MQTT5-3.3.4-3]`
    pub subscription_ids: SmallVec<[u32; 4]>,
    /// The filter of the shared subscription that chose this session.
    pub group: Option<Arc<str>>,
}

impl Delivery {
    /// The filter of the shared subscription that chose the session.
    pub fn group(&self) -> Option<&Arc<str>> {
        self.extra.as_ref()?.group.as_ref()
    }
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflightState {
    /// Sent on an earlier connection, to be sent again on this one.
    Resend,
    /// PUBLISH sent, or about to be once the log has it; waiting for PUBACK or PUBREC.
    Sent,
    /// PUBREL sent, waiting for PUBCOMP. `[MQTT5-4.3.3-5]`
    Released,
}

/// One unsettled delivery.
#[derive(Debug)]
pub struct Inflight {
    /// Its packet identifier.
    pub packet_id: PacketId,
    /// Its state.
    pub state: InflightState,
    /// It may have been sent: from now on it carries DUP. `[MQTT5-3.3.1-1]`
    pub attempted: bool,
    /// The delivery; the message is not needed once it is released.
    pub delivery: Delivery,
}

/// What an acknowledgement did.
#[derive(Debug)]
pub enum AckOutcome {
    /// The delivery with this number is settled and its identifier free.
    Settled(u64),
    /// PUBREL is due for the delivery with this number.
    Release(u64),
    /// No such identifier.
    Unknown,
    /// The identifier is in another flow or state: a protocol error.
    Mismatch,
}

/// The unsettled deliveries of a session in the order of their first sending, and how many
/// more may be sent.
#[derive(Debug)]
pub struct InflightWindow {
    entries: Seldom<VecDeque<Inflight>>,
    next_id: u16,
    quota: u16,
    window: u16,
    /// Identifiers have gone round past one that is still in use: look before each use.
    crowded: bool,
    /// Entries in state `Resend`.
    resends: u16,
    /// A QoS 2 message has been sent on this connection.
    sent_qos2: bool,
    /// Payload bytes that may still be sent; `UNBOUND`: not counted.
    bytes_left: i32,
}

/// No bound on the bytes of a window.
const UNBOUND: i32 = i32::MAX;

fn payload_bytes(delivery: &Delivery) -> i32 {
    i32::try_from(delivery.message.as_publication().payload.len()).unwrap_or(i32::MAX)
}

impl Default for InflightWindow {
    fn default() -> Self {
        InflightWindow {
            entries: Seldom::default(),
            next_id: 1,
            quota: 0,
            window: 0,
            crowded: false,
            resends: 0,
            sent_qos2: false,
            bytes_left: UNBOUND,
        }
    }
}

impl InflightWindow {
    /// A new connection with its own window (Receive Maximum and our own limit, the smaller).
    /// `[MQTT5-4.9.0-1]`
    pub fn reconnect(&mut self, window: u16) {
        self.window = window;
        self.quota = window;
        self.resends = 0;
        self.sent_qos2 = !self.entries.is_empty();
        for entry in self.entries.existing().into_iter().flatten() {
            if entry.state == InflightState::Released {
                // Its PUBCOMP will free a place, so it takes one. [MQTT5-3.3.4-9]
                self.quota = self.quota.saturating_sub(1);
            } else {
                entry.state = InflightState::Resend;
                self.resends += 1;
            }
        }
    }

    /// Lets so many payload bytes be unsettled at a time, those that are already among them: the message that
    /// reaches the bound still goes.
    pub fn bound_bytes(&mut self, max: usize) {
        let max = i32::try_from(max).unwrap_or(UNBOUND);
        self.bytes_left = max;
        if max != UNBOUND {
            let unsettled = self.entries.iter().map(|entry| payload_bytes(&entry.delivery));
            self.bytes_left = unsettled.fold(max, i32::saturating_sub);
        }
    }

    /// May a message that was never sent go out now? Older ones go first. `[MQTT5-4.6.0-1]`
    pub fn has_room(&self) -> bool {
        self.quota > 0
            && self.resends == 0
            && self.entries.len() < usize::from(u16::MAX)
            && self.bytes_left > 0
    }

    /// Takes a delivery in and gives it a packet identifier. `[MQTT5-2.2.1-4]` `[MQTT5-4.9.0-2]`
    ///
    /// The caller has asked `has_room`, and sends it now.
    pub fn start(&mut self, delivery: Delivery) -> PacketId {
        self.take_in(delivery, true)
    }

    /// The same; the caller sends it later, if [`InflightWindow::send_first`] still has it.
    pub fn prepare(&mut self, delivery: Delivery) -> PacketId {
        self.take_in(delivery, false)
    }

    fn take_in(&mut self, delivery: Delivery, attempted: bool) -> PacketId {
        debug_assert!(self.has_room(), "a delivery starts only where there is room");
        self.quota -= 1;
        if self.bytes_left != UNBOUND {
            self.bytes_left = self.bytes_left.saturating_sub(payload_bytes(&delivery));
        }
        self.sent_qos2 |= delivery.qos == QoS::ExactlyOnce;
        let packet_id = self.free_id();
        let state = InflightState::Sent;
        self.entries.filled().push_back(Inflight { packet_id, state, attempted, delivery });
        packet_id
    }

    /// A message that could have had the next identifier goes nowhere. mosquitto numbers messages as it takes them
    /// in, and those who count on that find the same numbers here.
    pub fn pass_id(&mut self) {
        self.free_id();
    }

    /// Takes the next delivery that an earlier connection has left, if the quota allows. True: it may have
    /// been sent then, and the caller sends it with DUP 1. `[MQTT5-3.3.1-1]`
    pub fn next_resend(&mut self) -> Option<(&Inflight, bool)> {
        if self.resends == 0 || self.quota == 0 {
            return None;
        }
        let entry = self.entries.existing()?.iter_mut().find(|entry| entry.state == InflightState::Resend)?;
        self.quota -= 1;
        self.resends -= 1;
        entry.state = InflightState::Sent;
        let duplicate = std::mem::replace(&mut entry.attempted, true);
        Some((entry, duplicate))
    }

    /// Has a QoS 2 exchange been begun or gone on with on this connection?
    pub fn sent_qos2(&self) -> bool {
        self.sent_qos2
    }

    /// Packet identifiers whose PUBREL is owed, in order.
    pub fn released(&self) -> impl Iterator<Item = PacketId> {
        self.entries
            .iter()
            .filter(|entry| entry.state == InflightState::Released)
            .map(|entry| entry.packet_id)
    }

    /// An acknowledgement came in (PUBACK, PUBREC or PUBCOMP), `refused` if its code is 0x80 or
    /// above.
    pub fn handle_ack(&mut self, kind: AckKind, packet_id: PacketId, refused: bool) -> AckOutcome {
        let Some(at) = self.position(packet_id) else { return AckOutcome::Unknown };
        let entry = &mut self.entries.filled()[at];
        match (kind, entry.delivery.qos, entry.state) {
            // An entry that this connection has not seen again yet is acknowledged by a client
            // that remembers it from the last one: as good as sent.
            (AckKind::Puback, QoS::AtLeastOnce, InflightState::Sent | InflightState::Resend) => {
                self.settle(at)
            }
            (AckKind::Pubrec, QoS::ExactlyOnce, InflightState::Sent | InflightState::Resend) if refused => {
                // [MQTT5-4.4.0-2]
                self.settle(at)
            }
            (AckKind::Pubrec, QoS::ExactlyOnce, InflightState::Sent | InflightState::Resend) => {
                if entry.state == InflightState::Resend {
                    self.resends -= 1;
                    self.quota = self.quota.saturating_sub(1);
                }
                entry.state = InflightState::Released;
                AckOutcome::Release(entry.delivery.number)
            }
            (AckKind::Pubrec, QoS::ExactlyOnce, InflightState::Released) => {
                AckOutcome::Release(entry.delivery.number)
            }
            (AckKind::Pubcomp, QoS::ExactlyOnce, InflightState::Released) => self.settle(at),
            _ => AckOutcome::Mismatch,
        }
    }

    /// Puts a delivery of an earlier run back, behind those that are there.
    pub fn restore(&mut self, packet_id: PacketId, released: bool, delivery: Delivery) {
        let state = if released { InflightState::Released } else { InflightState::Sent };
        self.next_id = packet_id.get().checked_add(1).unwrap_or(1);
        // Where the earlier run stood in the round is not known.
        self.crowded = true;
        // Nor whether it sent this one: DUP says that it "might be" a re-delivery. [MQTT5 §3.3.1.1]
        self.entries.filled().push_back(Inflight { packet_id, state, attempted: true, delivery });
    }

    /// The delivery that was prepared with this packet identifier and this number, if it is still to be sent.
    pub fn first(&self, packet_id: PacketId, number: u64) -> Option<&Delivery> {
        let entry = &self.entries[self.position(packet_id)?];
        let waits = entry.state == InflightState::Sent && !entry.attempted;
        (waits && entry.delivery.number == number).then_some(&entry.delivery)
    }

    /// The same; the caller sends it now.
    pub fn send_first(&mut self, packet_id: PacketId, number: u64) -> Option<&Delivery> {
        self.first(packet_id, number)?;
        let at = self.position(packet_id)?;
        let entry = &mut self.entries.filled()[at];
        entry.attempted = true;
        Some(&entry.delivery)
    }

    /// Unsettled deliveries, in the order of their first sending.
    pub fn iter(&self) -> impl Iterator<Item = &Inflight> {
        self.entries.iter()
    }

    /// Is there something to be sent again?
    pub fn has_resends(&self) -> bool {
        self.resends > 0
    }

    /// Unsettled deliveries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Is everything settled?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn position(&self, packet_id: PacketId) -> Option<usize> {
        // Clients acknowledge in order, nearly always; what was sent last is asked for next most often.
        if self.entries.front()?.packet_id == packet_id {
            return Some(0);
        }
        if self.entries.back()?.packet_id == packet_id {
            return Some(self.entries.len() - 1);
        }
        self.entries.iter().position(|entry| entry.packet_id == packet_id)
    }

    fn settle(&mut self, at: usize) -> AckOutcome {
        if self.entries[at].state == InflightState::Resend {
            self.resends -= 1;
        } else if self.quota < self.window {
            // Never above the start value. [MQTT5 §4.9]
            self.quota += 1;
        }
        let entries = self.entries.filled();
        let settled = if at == 0 { entries.pop_front() } else { entries.remove(at) };
        if let Some(entry) = &settled
            && self.bytes_left != UNBOUND
        {
            self.bytes_left = self.bytes_left.saturating_add(payload_bytes(&entry.delivery)).min(UNBOUND - 1);
        }
        let number = settled.map_or(0, |entry| entry.delivery.number);
        if entries.is_empty() {
            self.crowded = false;
            if entries.capacity() > KEPT_CAPACITY {
                self.entries = Seldom::default();
            }
        }
        AckOutcome::Settled(number)
    }

    fn free_id(&mut self) -> PacketId {
        loop {
            let id = NonZeroU16::new(self.next_id).unwrap_or(NonZeroU16::MIN);
            self.next_id = id.get().checked_add(1).unwrap_or(1);
            let Some(oldest) = self.entries.front() else { return id };
            // Identifiers rise; one can be in use only after a whole round past the oldest.
            self.crowded |= oldest.packet_id == id;
            if !self.crowded || self.entries.iter().all(|entry| entry.packet_id != id) {
                return id;
            }
        }
    }
}

const _: () = assert!(size_of::<InflightWindow>() <= 24);

/// An idle session keeps room for no more than this many inflight messages.
const KEPT_CAPACITY: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Publication;

    fn delivery(qos: QoS) -> Delivery {
        let publication = Publication {
            topic: "t",
            forward: [&[]; 3],
            payload: b"p",
            qos,
            retain: false,
            expires_at: None,
            origin: None,
            stamp: 0,
            source: &[],
        };
        Delivery { message: Rc::new(publication.to_message()), qos, retain: false, number: 0, extra: None }
    }

    fn id(n: u16) -> PacketId {
        NonZeroU16::new(n).unwrap()
    }

    #[test]
    fn window_closes_at_receive_maximum_and_opens_with_each_settlement() {
        // [MQTT5-4.9.0-2]
        let mut window = InflightWindow::default();
        window.reconnect(2);
        let first = window.start(delivery(QoS::AtLeastOnce));
        let second = window.start(delivery(QoS::ExactlyOnce));
        assert!(!window.has_room());
        assert!(matches!(window.handle_ack(AckKind::Puback, first, false), AckOutcome::Settled(_)));
        assert!(window.has_room());
        window.start(delivery(QoS::AtLeastOnce));
        assert!(matches!(window.handle_ack(AckKind::Pubrec, second, false), AckOutcome::Release(_)));
        assert!(!window.has_room(), "PUBREC below 0x80 frees nothing");
        assert!(matches!(window.handle_ack(AckKind::Pubcomp, second, false), AckOutcome::Settled(_)));
        assert!(window.has_room());
    }

    #[test]
    fn bytes_close_the_window_too_and_those_of_an_earlier_connection_count() {
        let mut window = InflightWindow::default();
        window.reconnect(10);
        window.bound_bytes(2);
        let first = window.start(delivery(QoS::AtLeastOnce));
        window.start(delivery(QoS::AtLeastOnce));
        assert!(!window.has_room());
        assert!(matches!(window.handle_ack(AckKind::Puback, first, false), AckOutcome::Settled(_)));
        assert!(window.has_room());
        window.reconnect(10);
        window.bound_bytes(1);
        let again = window.next_resend().expect("one is unsettled").0.packet_id;
        assert!(!window.has_room());
        assert!(matches!(window.handle_ack(AckKind::Puback, again, false), AckOutcome::Settled(_)));
        assert!(window.has_room());
        window.bound_bytes(i32::MAX as usize);
        window.start(delivery(QoS::AtLeastOnce));
        assert!(window.has_room());
    }

    #[test]
    fn dup_is_set_only_on_what_may_have_been_sent_before() {
        // [MQTT5-3.3.1-1] [MQTT5-3.3.1-2]
        let mut window = InflightWindow::default();
        window.reconnect(9);
        let sent = window.start(delivery(QoS::ExactlyOnce));
        let prepared = window.prepare(delivery(QoS::ExactlyOnce));
        window.reconnect(9);
        assert!(window.send_first(prepared, 0).is_none(), "it is to be sent again, on the connection that is");
        let mut again = || window.next_resend().map(|(entry, duplicate)| (entry.packet_id, duplicate));
        assert_eq!(again(), Some((sent, true)));
        assert_eq!(again(), Some((prepared, false)));
        assert_eq!(again(), None);
        window.reconnect(9);
        window.next_resend();
        assert!(window.next_resend().is_some_and(|(_, duplicate)| duplicate), "now it has been sent");
        let last = window.prepare(delivery(QoS::ExactlyOnce));
        assert!(window.send_first(last, 7).is_none(), "another delivery");
        assert!(window.send_first(last, 0).is_some());
        assert!(window.send_first(last, 0).is_none(), "once");
    }

    #[test]
    fn refused_pubrec_settles_without_pubrel() {
        // [MQTT5-4.4.0-2]
        let mut window = InflightWindow::default();
        window.reconnect(1);
        let first = window.start(delivery(QoS::ExactlyOnce));
        assert!(matches!(window.handle_ack(AckKind::Pubrec, first, true), AckOutcome::Settled(_)));
        assert!(window.is_empty());
    }

    #[test]
    fn acknowledgement_of_another_flow_is_a_mismatch() {
        let mut window = InflightWindow::default();
        window.reconnect(9);
        let one = window.start(delivery(QoS::AtLeastOnce));
        let two = window.start(delivery(QoS::ExactlyOnce));
        assert!(matches!(window.handle_ack(AckKind::Pubrec, one, false), AckOutcome::Mismatch));
        assert!(matches!(window.handle_ack(AckKind::Puback, two, false), AckOutcome::Mismatch));
        assert!(matches!(window.handle_ack(AckKind::Pubcomp, two, false), AckOutcome::Mismatch));
        assert!(matches!(window.handle_ack(AckKind::Puback, id(999), false), AckOutcome::Unknown));
    }

    #[test]
    fn resends_come_first_in_order_and_within_the_new_window() {
        // [MQTT5-4.4.0-1] [MQTT5-4.6.0-1]
        let mut window = InflightWindow::default();
        window.reconnect(5);
        let ids: Vec<_> = (0..5).map(|_| window.start(delivery(QoS::ExactlyOnce))).collect();
        window.handle_ack(AckKind::Pubrec, ids[1], false);
        window.reconnect(2);
        assert_eq!(window.released().collect::<Vec<_>>(), [ids[1]]);
        assert_eq!(window.next_resend().map(|(entry, _)| entry.packet_id), Some(ids[0]));
        assert!(window.next_resend().is_none(), "the released one has the other place");
        assert!(!window.has_room());
        window.handle_ack(AckKind::Pubcomp, ids[1], false);
        assert_eq!(window.next_resend().map(|(entry, _)| entry.packet_id), Some(ids[2]));
    }

    #[test]
    fn identifiers_go_round_past_one_in_use() {
        // [MQTT5-2.2.1-4]
        let mut window = InflightWindow::default();
        window.reconnect(10);
        let stuck = window.start(delivery(QoS::AtLeastOnce));
        for _ in 0..200_000u32 {
            let next = window.start(delivery(QoS::AtLeastOnce));
            assert_ne!(next, stuck);
            window.handle_ack(AckKind::Puback, next, false);
        }
    }
}
