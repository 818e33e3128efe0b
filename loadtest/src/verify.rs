//! The checks of a run. Every message must arrive once, in order, unchanged and with the right
//! flags. Everything else is counted as a fault.
//!
//! A [`Stream`] follows the messages of one publisher on one topic as one subscriber gets them. It
//! stores the next expected sequence number and the skipped ones, if there are any. A message with
//! a skipped number was reordered if it arrives later, and is lost if it never arrives. A message
//! with a number that was already seen is a duplicate.

/// The number of faults of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Messages that a subscriber should have received and did not.
    pub(crate) lost: u64,
    /// Illegal repetitions: any at QoS 0 and 2, those without DUP at QoS 1.
    pub(crate) duplicate: u64,
    /// Messages that arrived after a later one of the same publisher and topic.
    pub(crate) reordered: u64,
    /// Messages whose payload or topic is changed or belongs to another run.
    pub(crate) corrupt: u64,
    /// Intact messages at a subscriber without a matching subscription.
    pub(crate) misrouted: u64,
    /// DUP set on a first delivery, or at QoS 0.
    pub(crate) dup_flag: u64,
    /// RETAIN set on a live message, or not set on a retained one.
    pub(crate) retain_flag: u64,
    /// Messages that were not delivered at the lower of the published and the granted QoS.
    pub(crate) qos: u64,
    /// Malformed packets, unexpected packet types, and acknowledgements that match nothing in
    /// flight.
    pub(crate) protocol: u64,
    /// Refusals of CONNECT, SUBSCRIBE or PUBLISH.
    pub(crate) refused: u64,
    /// Connections that the broker closed, or that failed.
    pub(crate) closed: u64,
    /// Missing answers, such as PUBACK, PINGRESP or CONNACK.
    pub(crate) unanswered: u64,
}

impl Faults {
    /// Name and count of each kind, in the order of the report.
    pub(crate) fn rows(&self) -> [(&'static str, u64); 12] {
        [
            ("lost", self.lost),
            ("duplicate", self.duplicate),
            ("reordered", self.reordered),
            ("corrupt", self.corrupt),
            ("misrouted", self.misrouted),
            ("dup_flag", self.dup_flag),
            ("retain_flag", self.retain_flag),
            ("qos", self.qos),
            ("protocol", self.protocol),
            ("refused", self.refused),
            ("closed", self.closed),
            ("unanswered", self.unanswered),
        ]
    }

    pub(crate) fn total(&self) -> u64 {
        self.rows().iter().map(|row| row.1).sum()
    }
}

/// What a sequence number means for its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It arrives for the first time. `skipped` earlier ones have not arrived yet.
    First { skipped: u32 },
    /// It arrives for the first time, but after a later one.
    Late,
    /// It has arrived before.
    Duplicate,
}

/// The messages of one publisher on one topic, as one subscriber receives them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stream {
    next: u32,
    /// Half-open ranges of skipped numbers, ascending. Boxed, because almost every stream has none.
    #[allow(clippy::box_collection)]
    gaps: Option<Box<Vec<(u32, u32)>>>,
}

impl Stream {
    #[inline]
    pub(crate) fn arrive(&mut self, sequence: u32) -> Arrival {
        if sequence == self.next {
            self.next = sequence.wrapping_add(1);
            return Arrival::First { skipped: 0 };
        }
        self.arrive_out_of_order(sequence)
    }

    /// How many of the `sent` messages of this stream have not arrived.
    pub(crate) fn missing(&self, sent: u32) -> u64 {
        let gaps = self.gaps.iter().flat_map(|gaps| gaps.iter());
        let skipped: u64 = gaps.map(|&(from, to)| u64::from(to - from)).sum();
        skipped + u64::from(sent.saturating_sub(self.next))
    }

    /// The first missing number and how many in a row are missing, out of `sent` messages.
    pub(crate) fn first_missing(&self, sent: u32) -> Option<(u32, u32)> {
        let gap = self.gaps.iter().flat_map(|gaps| gaps.first()).next().copied();
        let (from, to) = gap.unwrap_or((self.next, sent));
        (from < to).then(|| (from, to - from))
    }

    /// The number after the highest one that has arrived.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// How many of these numbers have not arrived.
    pub(crate) fn missing_among(&self, sequences: &[u32]) -> u64 {
        let gaps = || self.gaps.iter().flat_map(|gaps| gaps.iter());
        let is_missing = |&&sequence: &&u32| {
            sequence >= self.next || gaps().any(|&(from, to)| from <= sequence && sequence < to)
        };
        sequences.iter().filter(is_missing).count() as u64
    }

    #[cold]
    fn arrive_out_of_order(&mut self, sequence: u32) -> Arrival {
        if sequence > self.next {
            let skipped = sequence - self.next;
            self.gaps.get_or_insert_default().push((self.next, sequence));
            self.next = sequence.wrapping_add(1);
            return Arrival::First { skipped };
        }
        let Some(gaps) = &mut self.gaps else { return Arrival::Duplicate };
        let Some(at) = gaps.iter().rposition(|&(from, to)| from <= sequence && sequence < to) else {
            return Arrival::Duplicate;
        };
        let (from, to) = gaps[at];
        let halves = [(from, sequence), (sequence + 1, to)].into_iter().filter(|(from, to)| from < to);
        gaps.splice(at..=at, halves);
        Arrival::Late
    }
}

/// A set of packet identifiers of QoS 2 messages that are received and not yet released.
#[derive(Debug)]
pub(crate) struct IdSet {
    bits: Box<[u64; 1024]>,
    len: usize,
}

impl Default for IdSet {
    fn default() -> IdSet {
        IdSet { bits: Box::new([0; 1024]), len: 0 }
    }
}

impl IdSet {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    // Both methods return early instead of adding a bool to `len`, because rustc 1.95 (LLVM 22)
    // drops that addition at opt-level 2 and above, at least on x86-64.

    /// Adds `id`. Returns whether it was not in the set.
    pub(crate) fn insert(&mut self, id: u16) -> bool {
        let (word, bit) = (&mut self.bits[usize::from(id >> 6)], 1 << (id & 63));
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        self.len += 1;
        true
    }

    /// Removes `id`. Returns whether it was in the set.
    pub(crate) fn remove(&mut self, id: u16) -> bool {
        let (word, bit) = (&mut self.bits[usize::from(id >> 6)], 1 << (id & 63));
        if *word & bit == 0 {
            return false;
        }
        *word &= !bit;
        self.len -= 1;
        true
    }
}

/// Publications in flight to the broker, by packet identifier. Identifiers are assigned in turn.
#[derive(Debug)]
pub(crate) struct InFlight {
    /// The state of the publication with identifier `id` is at `id & mask`.
    slots: Vec<Step>,
    last_id: u16,
    count: usize,
    max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Free,
    Acknowledge(u16),
    Receive(u16),
    Complete(u16),
}

/// What must follow an acknowledgement from the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckResult {
    /// Nothing; the publication is complete.
    Done,
    /// PUBREL must be sent.
    Release,
    /// The acknowledgement matches nothing in flight.
    Unknown,
}

impl InFlight {
    /// At most `max` publications in flight. The value is clamped to 1 to 16,384.
    pub(crate) fn new(max: usize) -> InFlight {
        let max = max.clamp(1, 16_384);
        InFlight { slots: vec![Step::Free; (2 * max).next_power_of_two()], last_id: 0, count: 0, max }
    }

    /// Lowers the limit to the Receive Maximum of the broker. `[MQTT5-3.3.4-7]`
    pub(crate) fn set_receive_maximum(&mut self, receive_maximum: u16) {
        self.max = self.max.min(usize::from(receive_maximum));
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Assigns an identifier to one more publication. `None` if the limit is reached.
    #[inline]
    pub(crate) fn take_id(&mut self, qos: u8) -> Option<u16> {
        if self.count == self.max {
            return None;
        }
        // Skips identifiers whose slot still waits for an answer. There is always a free slot,
        // because there are at least twice as many slots as publications.
        let mut id = self.last_id;
        let at = loop {
            id = id.checked_add(1).unwrap_or(1);
            let at = self.at(id);
            if self.slots[at] == Step::Free {
                break at;
            }
        };
        self.slots[at] = if qos == 1 { Step::Acknowledge(id) } else { Step::Receive(id) };
        self.last_id = id;
        self.count += 1;
        Some(id)
    }

    /// Handles a PUBACK, PUBREC or PUBCOMP (`kind`). `failed` if its reason code is a refusal.
    #[inline]
    pub(crate) fn handle_ack(&mut self, kind: u8, id: u16, failed: bool) -> AckResult {
        let at = self.at(id);
        match (self.slots[at], kind) {
            (Step::Acknowledge(of), crate::codec::PUBACK) if of == id => {}
            (Step::Receive(of), crate::codec::PUBREC) if of == id => {
                if !failed {
                    self.slots[at] = Step::Complete(id);
                    return AckResult::Release;
                }
            }
            (Step::Complete(of), crate::codec::PUBCOMP) if of == id => {}
            _ => return AckResult::Unknown,
        }
        self.slots[at] = Step::Free;
        self.count -= 1;
        AckResult::Done
    }

    fn at(&self, id: u16) -> usize {
        usize::from(id) & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_number_is_missing_until_it_arrives_late() {
        let mut stream = Stream::default();
        assert_eq!(stream.arrive(0), Arrival::First { skipped: 0 });
        assert_eq!(stream.arrive(5), Arrival::First { skipped: 4 });
        assert_eq!(stream.missing(6), 4);
        assert_eq!(stream.arrive(3), Arrival::Late);
        assert_eq!(stream.arrive(3), Arrival::Duplicate);
        assert_eq!(stream.arrive(5), Arrival::Duplicate);
        assert_eq!(stream.missing(8), 5);
        for late in [1, 2, 4] {
            assert_eq!(stream.arrive(late), Arrival::Late);
        }
        assert_eq!(stream.missing(6), 0);
    }

    #[test]
    fn identifiers_wrap_without_zero_and_are_not_reused_in_flight() {
        let mut flight = InFlight::new(4);
        let first = flight.take_id(1).unwrap();
        for _ in 0..200_000 {
            let id = flight.take_id(1).unwrap();
            assert!(id != 0 && id != first);
            assert_eq!(flight.handle_ack(crate::codec::PUBACK, id, false), AckResult::Done);
        }
        assert_eq!(flight.handle_ack(crate::codec::PUBACK, first, false), AckResult::Done);
        let taken: Vec<u16> = std::iter::from_fn(|| flight.take_id(1)).collect();
        assert_eq!(taken.len(), 4);
    }

    #[test]
    fn id_set_counts_its_identifiers() {
        let mut ids = IdSet::default();
        let mut again = 0;
        for id in std::hint::black_box([1, 64, 65_535, 64]) {
            if !ids.insert(id) {
                again += 1;
            }
        }
        assert_eq!((ids.len(), again), (3, 1));
        assert!(ids.remove(64) && !ids.remove(64));
        assert_eq!(ids.len(), 2);
    }

    #[test]
    fn qos_2_publication_needs_pubrec_then_pubcomp() {
        let mut flight = InFlight::new(4);
        let id = flight.take_id(2).unwrap();
        assert_eq!(flight.handle_ack(crate::codec::PUBACK, id, false), AckResult::Unknown);
        assert_eq!(flight.handle_ack(crate::codec::PUBCOMP, id, false), AckResult::Unknown);
        assert_eq!(flight.handle_ack(crate::codec::PUBREC, id, false), AckResult::Release);
        assert_eq!(flight.handle_ack(crate::codec::PUBREC, id, false), AckResult::Unknown);
        assert_eq!(flight.handle_ack(crate::codec::PUBCOMP, id, false), AckResult::Done);
        assert_eq!(flight.len(), 0);
    }
}
