//! The output of a turn: an arena of encoded packets and, for each touched connection, the ranges of it to
//! send.
//!
//! The protocol machine encodes each packet once at the end of the arena and queues the range for any number
//! of connections. The driver sends all ranges of a touched connection in one operation, and the owner clears
//! the outbox. Nothing is allocated per connection or turn. An idle connection costs 24 bytes here. They
//! include the totals of what it was given since it was opened, next to the data that each send reads anyway.

use crate::base::ConnectionSlot;

/// A range of the arena, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The offset of the first byte.
    pub start: u32,
    /// The number of bytes.
    pub len: u32,
}

impl Range {
    fn end(self) -> u32 {
        self.start + self.len
    }
}

/// A connection that has something to send in this turn.
#[derive(Clone, Copy, Debug)]
pub struct Touched {
    /// The driver's slot of the connection.
    pub slot: ConnectionSlot,
    /// The sum of its ranges, in bytes.
    pub bytes: u32,
    /// The number of its ranges, at least one.
    pub segments: u32,
    first: Range,
    next: u32,
    last: u32,
}

impl Touched {
    fn new(slot: ConnectionSlot, range: Range) -> Touched {
        Touched { slot, bytes: range.len, segments: 1, first: range, next: NONE, last: NONE }
    }
}

/// The send arena of one turn, and which connections get which part of it.
#[derive(Debug, Default)]
pub struct Outbox {
    arena: Vec<u8>,
    segments: Vec<Segment>,
    touched: Vec<Touched>,
    /// By slot.
    places: Vec<Place>,
    /// The total number of bytes queued, and of connections touched before this turn. The owner's budgets
    /// check how these grow.
    queued_bytes: u64,
    touches_before: u64,
    /// The number of times it was cleared. Earlier ranges are void.
    turn: u64,
    /// The connections that would have had more in one turn than their ranges can describe.
    overrun: Vec<ConnectionSlot>,
}

/// The state of one slot.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// One more than its index in `touched`. Zero if the slot has nothing to send.
    touched: u32,
    given: Given,
}

const _: () = assert!(size_of::<Place>() <= 24);

/// The totals of what a connection was given since it was opened, sent or not. Packets count as the machine
/// encodes them, without the bytes of TLS or WebSocket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// The number of PUBLISH packets.
    pub messages: u64,
    /// The number of bytes of all packets.
    pub bytes: u64,
}

impl Outbox {
    /// An empty outbox that has allocated nothing.
    pub fn new() -> Outbox {
        Outbox::default()
    }

    /// The arena. Only append to it: bytes in existing ranges must not move.
    pub fn arena_mut(&mut self) -> &mut Vec<u8> {
        &mut self.arena
    }

    /// The offset of the next encoded byte.
    pub fn arena_len(&self) -> u32 {
        u32::try_from(self.arena.len()).unwrap_or(u32::MAX)
    }

    /// The range that was encoded since the arena had this length. If a range can't describe it, the bytes
    /// are removed and the range is empty. The owner's budgets end a turn long before that.
    pub fn range_since(&mut self, start: usize) -> Range {
        if self.arena.len() > ARENA_BYTES_MAX {
            self.arena.truncate(start);
            return Range { start: 0, len: 0 };
        }
        Range { start: start as u32, len: (self.arena.len() - start) as u32 }
    }

    /// Whether nothing more may be encoded in this turn. As long as this is false, any packet fits.
    pub fn is_full(&self) -> bool {
        self.arena.len() > ARENA_BYTES_FULL
    }

    /// The bytes of a range that lies within the arena.
    pub fn bytes(&self, range: Range) -> &[u8] {
        &self.arena[range.start as usize..range.end() as usize]
    }

    /// The total number of bytes queued for connections.
    pub fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    /// The total number of times that a connection was given its first data in a turn.
    pub fn touches(&self) -> u64 {
        self.touches_before + self.touched.len() as u64
    }

    /// Distinguishes the ranges of one turn from those of another.
    pub fn turn(&self) -> u64 {
        self.turn
    }

    /// Notes that a connection did not get all of its data, so that its stream must end here.
    pub fn note_overrun(&mut self, slot: ConnectionSlot) {
        self.overrun.push(slot);
    }

    /// Whether there is a connection whose stream must end.
    pub fn has_overrun(&self) -> bool {
        !self.overrun.is_empty()
    }

    /// The connections whose streams must end.
    pub fn take_overrun(&mut self) -> Vec<ConnectionSlot> {
        std::mem::take(&mut self.overrun)
    }

    /// Notes that the slot has a new connection: the totals of the previous one are forgotten.
    pub fn open(&mut self, slot: ConnectionSlot) {
        if let Some(place) = self.places.get_mut(slot.at()) {
            place.given = Given::default();
        }
    }

    /// The totals of what the connection in this slot was given.
    pub fn given(&self, slot: ConnectionSlot) -> Given {
        self.places.get(slot.at()).map_or_else(Given::default, |place| place.given)
    }

    /// Queues a range for a connection, after what it already has. A range that starts at the end of the
    /// connection's last one is merged with it. An empty range has no effect.
    #[inline(always)]
    pub fn send(&mut self, slot: ConnectionSlot, range: Range) {
        self.give(slot, range, 0);
    }

    /// The same for the beginning of a PUBLISH packet.
    #[inline(always)]
    pub fn send_message(&mut self, slot: ConnectionSlot, range: Range) {
        self.give(slot, range, 1);
    }

    #[inline(always)]
    fn give(&mut self, slot: ConnectionSlot, range: Range, messages: u64) {
        if range.len == 0 {
            return self.send_nothing(slot);
        }
        debug_assert!(range.end() as usize <= self.arena.len());
        self.queued_bytes += u64::from(range.len);
        let Some(place) = self.places.get_mut(slot.at()) else {
            self.grow(slot);
            return self.give_again(slot, range, messages);
        };
        place.given.messages += messages;
        place.given.bytes += u64::from(range.len);
        match place.touched {
            0 => {
                self.touched.push(Touched::new(slot, range));
                place.touched = self.touched.len() as u32;
            }
            touched => self.append(touched as usize - 1, range),
        }
    }

    /// Reached once per slot.
    #[cold]
    fn give_again(&mut self, slot: ConnectionSlot, range: Range, messages: u64) {
        self.queued_bytes -= u64::from(range.len);
        self.give(slot, range, messages);
    }

    /// There was nothing to encode, or no room for it.
    #[cold]
    fn send_nothing(&mut self, slot: ConnectionSlot) {
        if self.is_full() {
            self.note_overrun(slot);
        }
    }

    /// Queues a range for a connection before what it already has. It does not count as a packet.
    pub fn send_first(&mut self, slot: ConnectionSlot, range: Range) {
        let Some(place) = self.place_of(slot) else {
            let given = self.given(slot);
            self.send(slot, range);
            if let Some(place) = self.places.get_mut(slot.at()) {
                place.given = given;
            }
            return;
        };
        if range.len == 0 {
            return;
        }
        let touched = &mut self.touched[place];
        let Some(bytes) = touched.bytes.checked_add(range.len) else { return self.overrun.push(slot) };
        touched.bytes = bytes;
        let added = self.segments.len() as u32;
        self.segments.push(Segment { range: touched.first, next: touched.next });
        touched.first = range;
        touched.next = added;
        if touched.last == NONE {
            touched.last = added;
        }
        touched.segments += 1;
    }

    /// Replaces everything that a touched connection has by one range, which may be empty.
    pub fn replace(&mut self, slot: ConnectionSlot, range: Range) {
        debug_assert!(range.end() as usize <= self.arena.len());
        if let Some(place) = self.place_of(slot) {
            self.touched[place] = Touched::new(slot, range);
        }
    }

    #[inline]
    fn place_of(&self, slot: ConnectionSlot) -> Option<usize> {
        match self.places.get(slot.at()) {
            None | Some(Place { touched: 0, .. }) => None,
            Some(place) => Some(place.touched as usize - 1),
        }
    }

    /// The number of bytes queued for a connection in this turn.
    #[inline]
    pub fn pending_bytes(&self, slot: ConnectionSlot) -> u32 {
        self.touched_of(slot).map_or(0, |touched| touched.bytes)
    }

    /// The connections with something to send, in the order in which they were first touched.
    pub fn touched(&self) -> &[Touched] {
        &self.touched
    }

    /// The entry of one connection, if it has something to send.
    #[inline]
    pub fn touched_of(&self, slot: ConnectionSlot) -> Option<&Touched> {
        self.place_of(slot).map(|place| &self.touched[place])
    }

    /// The ranges of a connection in sending order.
    pub fn segments_of(&self, touched: &Touched) -> impl Iterator<Item = Range> + '_ {
        Segments { segments: &self.segments, current: Some(touched.first), next: touched.next }
    }

    /// Whether no connection has anything to send.
    pub fn is_empty(&self) -> bool {
        self.touched.is_empty()
    }

    /// The number of bytes encoded in this turn.
    pub fn arena_bytes(&self) -> usize {
        self.arena.len()
    }

    /// Ends the turn. Everything encoded so far becomes void. Memory is kept for the next turn, up to
    /// [`KEPT_BYTES_MAX`] in each list.
    pub fn clear(&mut self) {
        for touched in &self.touched {
            self.places[touched.slot.at()].touched = 0;
        }
        self.turn += 1;
        self.touches_before += self.touched.len() as u64;
        clear_and_trim(&mut self.arena);
        clear_and_trim(&mut self.segments);
        clear_and_trim(&mut self.touched);
    }

    /// Frees all memory if nothing is queued, except for the totals of the connections in the first `slots`
    /// slots.
    pub fn give_memory_back(&mut self, slots: usize) {
        if self.is_empty() && self.arena.is_empty() {
            self.arena = Vec::new();
            self.segments = Vec::new();
            self.touched = Vec::new();
            self.places.truncate(slots);
            self.places.shrink_to_fit();
        }
    }

    #[cold]
    fn grow(&mut self, slot: ConnectionSlot) {
        self.places.resize(slot.at() + 1, Place::default());
    }

    fn append(&mut self, place: usize, range: Range) {
        let touched = &mut self.touched[place];
        let Some(bytes) = touched.bytes.checked_add(range.len) else {
            return self.overrun.push(touched.slot);
        };
        touched.bytes = bytes;
        let last = match touched.last {
            NONE => &mut touched.first,
            last => &mut self.segments[last as usize].range,
        };
        if last.end() == range.start {
            last.len += range.len;
            return;
        }
        let added = self.segments.len() as u32;
        match touched.last {
            NONE => touched.next = added,
            last => self.segments[last as usize].next = added,
        }
        touched.last = added;
        touched.segments += 1;
        self.segments.push(Segment { range, next: NONE });
    }
}

/// The arena's offsets have 32 bits.
const ARENA_BYTES_MAX: usize = u32::MAX as usize;
/// Below this length there is room for a packet of any size and form.
const ARENA_BYTES_FULL: usize = 1 << 31;
const _: () = assert!(ARENA_BYTES_FULL + 2 * crate::mqtt::codec::PACKET_BYTES_LIMIT <= ARENA_BYTES_MAX);

/// The memory that a list may keep after the end of a turn. The memory of an exceptional turn is freed.
pub const KEPT_BYTES_MAX: usize = 4 << 20;

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Segment {
    range: Range,
    next: u32,
}

struct Segments<'a> {
    segments: &'a [Segment],
    current: Option<Range>,
    next: u32,
}

impl Iterator for Segments<'_> {
    type Item = Range;

    fn next(&mut self) -> Option<Range> {
        let range = self.current.take()?;
        if self.next != NONE {
            let segment = &self.segments[self.next as usize];
            self.current = Some(segment.range);
            self.next = segment.next;
        }
        Some(range)
    }
}

fn clear_and_trim<T>(list: &mut Vec<T>) {
    list.clear();
    if list.capacity() * size_of::<T>() > KEPT_BYTES_MAX {
        list.shrink_to(KEPT_BYTES_MAX / size_of::<T>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(outbox: &mut Outbox, bytes: &[u8]) -> Range {
        let start = outbox.arena_len();
        outbox.arena_mut().extend_from_slice(bytes);
        Range { start, len: bytes.len() as u32 }
    }

    fn sent(outbox: &Outbox, slot: ConnectionSlot) -> Vec<u8> {
        let Some(touched) = outbox.touched_of(slot) else { return Vec::new() };
        outbox.segments_of(touched).flat_map(|range| outbox.bytes(range).to_vec()).collect()
    }

    #[test]
    fn one_encoding_reaches_many_connections() {
        let mut outbox = Outbox::new();
        let range = encode(&mut outbox, b"publish");
        for slot in 0..1000 {
            outbox.send(ConnectionSlot::new(slot), range);
        }
        assert_eq!(outbox.touched().len(), 1000);
        assert_eq!(outbox.arena_bytes(), 7);
        assert_eq!(sent(&outbox, ConnectionSlot::new(999)), b"publish");
        assert_eq!(outbox.pending_bytes(ConnectionSlot::new(999)), 7);
        assert_eq!(outbox.pending_bytes(ConnectionSlot::new(1000)), 0);
    }

    #[test]
    fn adjacent_ranges_merge_and_others_keep_their_order() {
        let mut outbox = Outbox::new();
        let ranges: Vec<Range> =
            [b"aa", b"bb", b"cc", b"dd", b"ee"].into_iter().map(|bytes| encode(&mut outbox, bytes)).collect();
        outbox.send(ConnectionSlot::new(1), ranges[0]);
        outbox.send(ConnectionSlot::new(1), ranges[1]);
        outbox.send(ConnectionSlot::new(2), ranges[0]);
        outbox.send(ConnectionSlot::new(2), ranges[2]);
        outbox.send(ConnectionSlot::new(1), ranges[3]);
        outbox.send(ConnectionSlot::new(1), ranges[4]);
        outbox.send(ConnectionSlot::new(2), ranges[0]);
        assert_eq!(sent(&outbox, ConnectionSlot::new(1)), b"aabbddee");
        assert_eq!(sent(&outbox, ConnectionSlot::new(2)), b"aaccaa");
        assert_eq!(outbox.touched_of(ConnectionSlot::new(1)).unwrap().segments, 2);
        assert_eq!(outbox.touched_of(ConnectionSlot::new(2)).unwrap().segments, 3);
        assert_eq!(outbox.touched_of(ConnectionSlot::new(2)).unwrap().bytes, 6);
    }

    #[test]
    fn an_empty_range_touches_nobody() {
        let mut outbox = Outbox::new();
        outbox.send(ConnectionSlot::new(3), Range { start: 0, len: 0 });
        assert!(outbox.is_empty());
    }

    #[test]
    fn clearing_forgets_the_turn_and_gives_exceptional_memory_back() {
        let mut outbox = Outbox::new();
        let range = encode(&mut outbox, &vec![7; KEPT_BYTES_MAX * 2]);
        outbox.send(ConnectionSlot::new(5), range);
        outbox.clear();
        assert!(outbox.is_empty());
        assert_eq!(outbox.pending_bytes(ConnectionSlot::new(5)), 0);
        assert!(outbox.arena.capacity() <= KEPT_BYTES_MAX);
        let range = encode(&mut outbox, b"next");
        outbox.send(ConnectionSlot::new(5), range);
        assert_eq!(sent(&outbox, ConnectionSlot::new(5)), b"next");
    }

    #[test]
    fn an_idle_connection_costs_24_bytes() {
        let mut outbox = Outbox::new();
        let range = encode(&mut outbox, b"x");
        outbox.send(ConnectionSlot::new(9_999), range);
        outbox.clear();
        outbox.give_memory_back(10_000);
        assert_eq!(outbox.places.capacity() * size_of_val(&outbox.places[0]), 240_000);
        outbox.give_memory_back(0);
        assert_eq!(outbox.places.capacity(), 0);
    }

    #[test]
    fn what_a_connection_was_given_is_counted_until_its_slot_has_another() {
        let mut outbox = Outbox::new();
        let (head, payload) = (encode(&mut outbox, b"head"), encode(&mut outbox, b"payload"));
        outbox.send_message(ConnectionSlot::new(7), head);
        outbox.send(ConnectionSlot::new(7), payload);
        outbox.send(ConnectionSlot::new(7), head);
        // Data that a layer adds in front, or that replaces everything, does not count as a packet.
        outbox.send_first(ConnectionSlot::new(7), payload);
        outbox.send_first(ConnectionSlot::new(8), payload);
        outbox.replace(ConnectionSlot::new(7), head);
        outbox.clear();
        outbox.give_memory_back(8);
        let head = encode(&mut outbox, b"head");
        outbox.send(ConnectionSlot::new(7), head);
        assert_eq!(outbox.given(ConnectionSlot::new(7)), Given { messages: 1, bytes: 4 + 7 + 4 + 4 });
        assert_eq!([8, 9].map(|slot| outbox.given(ConnectionSlot::new(slot))), [Given::default(); 2]);
        outbox.open(ConnectionSlot::new(7));
        assert_eq!(outbox.given(ConnectionSlot::new(7)), Given::default());
    }
}
