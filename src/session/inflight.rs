//! Messages that were sent with QoS 1 or 2 and are not settled: their packet identifiers, their states, and
//! the window.

use super::LazyBox;
use super::unsettled::{IDS, Unsettled, after};
use crate::base::DeliveryNumber;
use crate::mqtt::codec::AckKind;
use crate::mqtt::{PacketId, QoS};
use crate::session::KeptMessage;
use smallvec::SmallVec;
use std::rc::Rc;
use std::sync::Arc;

/// A message for one session, with the effect of its subscription.
#[derive(Debug)]
pub struct Delivery {
    /// The message. The sessions of the shard share it.
    pub message: Rc<KeptMessage>,
    /// The smaller of published and granted QoS. `[MQTT5-3.8.4-8]`
    pub qos: QoS,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// Its number in the log; 0: it is not in the log.
    pub number: Option<DeliveryNumber>,
    /// Parts that most deliveries do not have.
    pub extra: Option<Box<Extra>>,
}

/// The rarer parts of a delivery.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// Subscription identifiers. `[MQTT5-3.3.4-3]`
    pub subscription_ids: SmallVec<[u32; 4]>,
    /// The filter of the shared subscription that has chosen this session.
    pub group: Option<Arc<str>>,
}

impl Delivery {
    /// The filter of the shared subscription that has chosen the session.
    pub fn group(&self) -> Option<&Arc<str>> {
        self.extra.as_ref()?.group.as_ref()
    }
}

/// The state of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflightState {
    /// It was sent on an earlier connection and must be sent again on this one.
    Resend,
    /// PUBLISH is sent, or will be when the log has it. PUBACK or PUBREC is expected.
    Sent,
    /// PUBREL is sent, and PUBCOMP is expected. `[MQTT5-4.3.3-5]`
    Released,
}

/// An unsettled delivery.
#[derive(Debug)]
pub struct Inflight {
    /// Its packet identifier.
    pub packet_id: PacketId,
    /// Its state.
    pub state: InflightState,
    /// Whether it may have been sent. If so, it is sent with DUP. `[MQTT5-3.3.1-1]`
    pub attempted: bool,
    /// The delivery. After the release, the message is no longer needed.
    pub delivery: Delivery,
}

/// The effect of an acknowledgement.
#[derive(Debug)]
pub enum AckOutcome {
    /// The delivery with this number is settled, and its identifier is free.
    Settled(Option<DeliveryNumber>),
    /// PUBREL must be sent for the delivery with this number.
    Release(Option<DeliveryNumber>),
    /// The identifier is not in use.
    Unknown,
    /// The identifier belongs to another exchange or state. This is a protocol error.
    Mismatch,
}

/// The unsettled deliveries of a session in the order of their first sending, and the number of messages that
/// may still be sent.
#[derive(Debug)]
pub struct InflightWindow {
    entries: LazyBox<Unsettled>,
    next_id: PacketId,
    quota: u16,
    window: u16,
    /// Whether the identifiers have wrapped around past one that is still in use. If so, each must be checked
    /// before use.
    crowded: bool,
    /// The number of entries in the state `Resend`.
    resends: u16,
    /// Whether a QoS 2 message was sent on this connection.
    sent_qos2: bool,
    /// The payload bytes that may still be sent. `UNBOUND`: they are not counted.
    bytes_left: i32,
}

/// No bound on the bytes of a window.
const UNBOUND: i32 = i32::MAX;

#[inline(always)]
fn payload_bytes(delivery: &Delivery) -> i32 {
    i32::try_from(delivery.message.payload_len()).unwrap_or(i32::MAX)
}

impl Default for InflightWindow {
    fn default() -> Self {
        InflightWindow {
            entries: LazyBox::default(),
            next_id: PacketId::MIN,
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
    /// Starts a new connection with its own window, the smaller one of Receive Maximum and midge's limit.
    /// `[MQTT5-4.9.0-1]`
    pub fn reconnect(&mut self, window: u16) {
        self.window = window;
        self.quota = window;
        self.resends = 0;
        self.sent_qos2 = !self.entries.is_empty();
        let Some(entries) = self.entries.existing() else { return };
        entries.begin_resending();
        for entry in entries.iter_mut() {
            if entry.state == InflightState::Released {
                // Its PUBCOMP will free a place, so it takes one. [MQTT5-3.3.4-9]
                self.quota = self.quota.saturating_sub(1);
            } else {
                entry.state = InflightState::Resend;
                self.resends += 1;
            }
        }
    }

    /// Bounds the unsettled payload bytes, including those that are unsettled now. The message that reaches
    /// the bound is still sent.
    pub fn bound_bytes(&mut self, max: usize) {
        let max = i32::try_from(max).unwrap_or(UNBOUND);
        self.bytes_left = max;
        if max != UNBOUND {
            let unsettled = self.entries.iter().map(|entry| payload_bytes(&entry.delivery));
            self.bytes_left = unsettled.fold(max, i32::saturating_sub);
        }
    }

    /// Whether a message that was never sent may be sent now. Older ones go first. `[MQTT5-4.6.0-1]`
    pub fn has_room(&self) -> bool {
        self.quota > 0 && self.resends == 0 && self.entries.len() < IDS && self.bytes_left > 0
    }

    /// Adds a delivery and gives it a packet identifier. `[MQTT5-2.2.1-4]` `[MQTT5-4.9.0-2]`
    ///
    /// The caller must have checked `has_room`, and sends it now.
    pub fn start(&mut self, delivery: Delivery) -> PacketId {
        self.take_in(delivery, true)
    }

    /// The same, but the caller sends it later, if [`InflightWindow::send_first`] still has it.
    pub fn prepare(&mut self, delivery: Delivery) -> PacketId {
        self.take_in(delivery, false)
    }

    #[inline(always)]
    fn take_in(&mut self, delivery: Delivery, attempted: bool) -> PacketId {
        debug_assert!(self.has_room(), "a delivery starts only where there is room");
        self.quota -= 1;
        if self.bytes_left != UNBOUND {
            self.bytes_left = self.bytes_left.saturating_sub(payload_bytes(&delivery));
        }
        self.sent_qos2 |= delivery.qos == QoS::ExactlyOnce;
        let packet_id = self.free_id().expect("where there is room an identifier is free");
        let state = InflightState::Sent;
        self.entries.filled().push(Inflight { packet_id, state, attempted, delivery });
        packet_id
    }

    /// Skips the next identifier for a message that could have had it but is not sent. mosquitto numbers
    /// messages when it receives them, and clients that depend on this find the same numbers here. If no
    /// identifier is free, none is skipped.
    pub fn pass_id(&mut self) {
        self.free_id();
    }

    /// Takes the next delivery that an earlier connection has left, if the quota allows it. True: it may have
    /// been sent before, and the caller must send it with DUP 1. `[MQTT5-3.3.1-1]`
    pub fn next_resend(&mut self) -> Option<(&Inflight, bool)> {
        if self.resends == 0 || self.quota == 0 {
            return None;
        }
        let entry = self.entries.existing()?.next_resend()?;
        self.quota -= 1;
        self.resends -= 1;
        entry.state = InflightState::Sent;
        let duplicate = std::mem::replace(&mut entry.attempted, true);
        Some((entry, duplicate))
    }

    /// Whether a QoS 2 exchange was begun or continued on this connection.
    pub fn sent_qos2(&self) -> bool {
        self.sent_qos2
    }

    /// The packet identifiers for which PUBREL must be sent, in order.
    pub fn released(&self) -> impl Iterator<Item = PacketId> {
        self.entries
            .iter()
            .filter(|entry| entry.state == InflightState::Released)
            .map(|entry| entry.packet_id)
    }

    /// Handles an acknowledgement (PUBACK, PUBREC or PUBCOMP). `refused`: its code is 0x80 or above.
    pub fn handle_ack(&mut self, kind: AckKind, packet_id: PacketId, refused: bool) -> AckOutcome {
        let rises = !self.crowded;
        let Some(entries) = self.entries.existing() else { return AckOutcome::Unknown };
        let Some(at) = entries.position_indexed(packet_id, rises) else { return AckOutcome::Unknown };
        let Some(entry) = entries.get_mut(at) else { return AckOutcome::Unknown };
        match (kind, entry.delivery.qos, entry.state) {
            // A client may acknowledge an entry that this connection has not sent again yet, because it
            // remembers the entry from the last connection. The entry counts as sent.
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

    /// Restores a delivery of an earlier run, after those that are there.
    pub fn restore(&mut self, packet_id: PacketId, released: bool, delivery: Delivery) {
        let state = if released { InflightState::Released } else { InflightState::Sent };
        self.next_id = after(packet_id);
        // The point at which the earlier run has wrapped around is not known.
        self.crowded = true;
        // It is not known whether the earlier run has sent this one. DUP says that it "might be" a
        // re-delivery. [MQTT5 §3.3.1.1]
        self.entries.filled().push(Inflight { packet_id, state, attempted: true, delivery });
    }

    /// The delivery that was prepared with this packet identifier and this number, if it is not sent yet.
    pub fn first(&self, packet_id: PacketId, number: DeliveryNumber) -> Option<&Delivery> {
        let entry = self.entries.get(self.entries.position(packet_id, !self.crowded)?)?;
        let waits = entry.state == InflightState::Sent && !entry.attempted;
        (waits && entry.delivery.number == Some(number)).then_some(&entry.delivery)
    }

    /// The same, and the caller sends it now.
    pub fn send_first(&mut self, packet_id: PacketId, number: DeliveryNumber) -> Option<&Delivery> {
        self.first(packet_id, number)?;
        let at = self.entries.position(packet_id, !self.crowded)?;
        let entry = self.entries.existing()?.get_mut(at)?;
        entry.attempted = true;
        Some(&entry.delivery)
    }

    /// The unsettled deliveries, in the order of their first sending.
    pub fn iter(&self) -> impl Iterator<Item = &Inflight> {
        self.entries.iter()
    }

    /// Whether deliveries must be sent again.
    pub fn has_resends(&self) -> bool {
        self.resends > 0
    }

    /// The number of unsettled deliveries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether everything is settled.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    #[inline(always)]
    fn settle(&mut self, at: usize) -> AckOutcome {
        let entries = self.entries.filled();
        let Some(settled) = entries.remove(at) else { return AckOutcome::Unknown };
        if entries.is_empty() {
            self.crowded = false;
            if entries.trim() {
                self.entries = LazyBox::default();
            }
        }
        if settled.state == InflightState::Resend {
            self.resends -= 1;
        } else if self.quota < self.window {
            // The quota never exceeds its start value. [MQTT5 §4.9]
            self.quota += 1;
        }
        if self.bytes_left != UNBOUND {
            let bytes = payload_bytes(&settled.delivery);
            self.bytes_left = self.bytes_left.saturating_add(bytes).min(UNBOUND - 1);
        }
        AckOutcome::Settled(settled.delivery.number)
    }

    /// The next identifier that is not in use. `None` if all are.
    #[inline(always)]
    fn free_id(&mut self) -> Option<PacketId> {
        let mut id = self.next_id;
        if let Some(oldest) = self.entries.first() {
            // Identifiers increase, so the next one can only be in use after a complete round past the
            // oldest.
            self.crowded |= oldest.packet_id == id;
            if self.crowded {
                id = self.entries.filled().next_free(id)?;
            }
        }
        self.next_id = after(id);
        Some(id)
    }
}

const _: () = assert!(size_of::<InflightWindow>() <= 24);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::MemoryAccount;
    use crate::base::Random;
    use crate::base::nth;
    use crate::base::steps;
    use crate::session::Publication;
    use std::num::NonZeroU16;

    fn delivery(qos: QoS) -> Delivery {
        let publication = Publication {
            topic: "t",
            forward: [&[]; 3],
            payload: b"p",
            qos,
            retain: false,
            expires_at: None,
            origin: None,
            stamp: None,
            source: &[],
        };
        let message = KeptMessage::new(publication.to_message(), &MemoryAccount::default());
        Delivery { message, qos, retain: false, number: None, extra: None }
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
        let numbered = || Delivery { number: Some(nth(5)), ..delivery(QoS::ExactlyOnce) };
        let prepared = window.prepare(numbered());
        window.reconnect(9);
        assert!(
            window.send_first(prepared, nth(5)).is_none(),
            "it is to be sent again, on the connection that is"
        );
        let mut again = || window.next_resend().map(|(entry, duplicate)| (entry.packet_id, duplicate));
        assert_eq!(again(), Some((sent, true)));
        assert_eq!(again(), Some((prepared, false)));
        assert_eq!(again(), None);
        window.reconnect(9);
        window.next_resend();
        assert!(window.next_resend().is_some_and(|(_, duplicate)| duplicate), "now it has been sent");
        let last = window.prepare(numbered());
        assert!(window.send_first(last, nth(7)).is_none(), "another delivery");
        assert!(window.send_first(last, nth(5)).is_some());
        assert!(window.send_first(last, nth(5)).is_none(), "once");
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

    /// A window in which all identifiers are in use with QoS 2, and the identifiers.
    fn full() -> (InflightWindow, Vec<PacketId>) {
        let mut window = InflightWindow::default();
        window.reconnect(u16::MAX);
        let ids = (0..IDS).map(|_| window.start(delivery(QoS::ExactlyOnce))).collect();
        assert!(!window.has_room());
        (window, ids)
    }

    /// Checks the number of steps for one of `operations` with everything in flight.
    fn assert_few(steps: u64, operations: usize, what: &str) {
        let each = steps / operations as u64;
        assert!(each <= 40, "{each} steps each for {operations} {what}");
    }

    #[test]
    fn with_every_identifier_in_use_one_is_passed_over_without_an_end_to_wait_for() {
        // [MQTT5-2.2.1-4]
        let (mut window, ids) = full();
        let ((), steps) = steps::of(|| (0..1000).for_each(|_| window.pass_id()));
        assert_few(steps, 1000, "identifiers passed over");
        for at in [4711, 0, 65_534] {
            assert!(matches!(window.handle_ack(AckKind::Pubrec, ids[at], true), AckOutcome::Settled(_)));
            assert_eq!(window.start(delivery(QoS::ExactlyOnce)), ids[at], "the only one that is free");
        }
        // The search for the only free identifier is bounded by the words of the index, wherever the next
        // identifier is.
        window.handle_ack(AckKind::Pubrec, ids[9], true);
        let (id, steps) = steps::of(|| window.start(delivery(QoS::ExactlyOnce)));
        assert_eq!(id, ids[9]);
        assert!(steps <= 1100, "{steps}");
    }

    #[test]
    fn acknowledgements_in_any_order_cost_few_steps() {
        type Order = fn(usize) -> usize;
        let orders: [(&str, Order); 4] = [
            ("in order", |n| n),
            ("newest first", |n| IDS - 1 - n),
            ("from both ends", |n| if n % 2 == 0 { n / 2 } else { IDS - 1 - n / 2 }),
            // 3 and 65,535 have a common factor; 7919 and 65,535 have none.
            ("scattered", |n| n * 7919 % IDS),
        ];
        for goes_round in [false, true] {
            for (name, order) in orders {
                let (mut window, mut ids) = full();
                if goes_round {
                    // The first identifiers are used again, so the position no longer follows from the
                    // identifier.
                    for id in &ids[1000..2000] {
                        window.handle_ack(AckKind::Pubrec, *id, true);
                    }
                    (1000..2000).for_each(|at| ids[at] = window.start(delivery(QoS::ExactlyOnce)));
                }
                let ((), steps) = steps::of(|| {
                    for n in 0..IDS {
                        let id = ids[order(n)];
                        assert!(matches!(
                            window.handle_ack(AckKind::Pubrec, id, false),
                            AckOutcome::Release(_)
                        ));
                        assert!(matches!(
                            window.handle_ack(AckKind::Pubcomp, id, false),
                            AckOutcome::Settled(_)
                        ));
                        assert!(matches!(
                            window.handle_ack(AckKind::Pubcomp, id, false),
                            AckOutcome::Unknown
                        ));
                    }
                });
                assert_few(steps, 3 * IDS, name);
                assert!(window.is_empty());
            }
        }
    }

    #[test]
    fn everything_is_sent_again_in_order_and_in_few_steps() {
        // [MQTT5-4.4.0-1] [MQTT5-4.6.0-1]
        let (mut window, ids) = full();
        window.reconnect(u16::MAX);
        // Some are settled before they were sent again.
        for id in ids.iter().skip(1).step_by(3) {
            assert!(matches!(window.handle_ack(AckKind::Pubrec, *id, true), AckOutcome::Settled(_)));
        }
        let (again, steps) = steps::of(|| {
            let next = |_| window.next_resend().map(|(entry, _)| entry.packet_id);
            (0..).map_while(next).collect::<Vec<_>>()
        });
        let expected: Vec<_> = (0..IDS).filter(|at| at % 3 != 1).map(|at| ids[at]).collect();
        assert_eq!(again, expected);
        assert_few(steps, again.len(), "sent again");
        assert!(!window.has_resends());
    }

    #[test]
    fn a_window_agrees_with_a_plain_list_whatever_happens_to_it() {
        for seed in 1..=60_u64 {
            let bound = [5, 70, 300, 2000][seed as usize % 4];
            let mut numbers = Random::new(seed);
            let mut random = |below: usize| numbers.index(below);
            let mut window = InflightWindow::default();
            window.reconnect(u16::MAX);
            // The test begins shortly before the identifiers wrap around.
            (0..64_000).for_each(|_| window.pass_id());
            // The identifier, and whether it must be sent again.
            let mut model: Vec<(PacketId, bool)> = Vec::new();
            for step in 0..6000 {
                let grows = step / 500 % 2 == 0;
                match random(20) {
                    0..12 if grows && model.len() < bound && window.has_room() => {
                        let id = window.start(delivery(QoS::AtLeastOnce));
                        assert!(model.iter().all(|(have, _)| *have != id), "seed {seed}: {id} is in use");
                        model.push((id, false));
                    }
                    12 => window.pass_id(),
                    13 => (0..random(3000)).for_each(|_| window.pass_id()),
                    14 if random(20) == 0 => {
                        window.reconnect(u16::MAX);
                        model.iter_mut().for_each(|entry| entry.1 = true);
                    }
                    15 => {
                        let expected = model.iter_mut().find(|entry| entry.1).map(|entry| {
                            entry.1 = false;
                            entry.0
                        });
                        assert_eq!(
                            window.next_resend().map(|(entry, _)| entry.packet_id),
                            expected,
                            "seed {seed}"
                        );
                    }
                    _ if !model.is_empty() => {
                        let choice =
                            [0, model.len() - 1, random(model.len()), random(model.len())][random(4)];
                        let (id, _) = model.remove(choice);
                        assert!(matches!(
                            window.handle_ack(AckKind::Puback, id, false),
                            AckOutcome::Settled(_)
                        ));
                        assert!(matches!(window.handle_ack(AckKind::Puback, id, false), AckOutcome::Unknown));
                    }
                    _ => {}
                }
                assert_eq!(window.len(), model.len());
            }
            let left: Vec<_> = window.iter().map(|entry| entry.packet_id).collect();
            assert_eq!(left, model.iter().map(|entry| entry.0).collect::<Vec<_>>(), "seed {seed}");
        }
    }
}
