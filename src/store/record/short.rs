//! The short forms of the most frequent records of a busy log. They leave out what a record has in common
//! with an earlier one in its frame.
//!
//! Writer and reader remember the same data about the short records of a frame. They remember nothing across
//! frames, so a frame can be read by itself, and a damaged frame does not affect others.

use super::decode::{NO_SESSION, numbered};
use super::encode::{put_distance, put_varint};
use super::{BadRecord, Decoder, Record, StoredMessage, bad, tag};
use crate::base::{MessageNumber, SessionNumber};
use crate::mqtt::{PacketId, QoS};
use crate::store::rows::DeliveryKey;
use ahash::RandomState;
use smallvec::SmallVec;

/// The data that both the writer and the reader of a frame remember.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// The previous number, for numbers that are written as the distance from it.
    pub(super) number: u64,
    message: Option<MessageNumber>,
    delivery: RecentDelivery,
    settled: Run,
    released: Run,
    pub(super) held: Option<PacketIdPlace>,
    pub(super) unheld: Option<PacketIdPlace>,
}

/// A packet identifier of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PacketIdPlace {
    pub(super) sid: SessionNumber,
    pub(super) packet_id: PacketId,
}

impl PacketIdPlace {
    /// The next one of the same session.
    pub(super) fn next(self) -> PacketIdPlace {
        PacketIdPlace { packet_id: next_packet_id(Some(self.packet_id)), ..self }
    }
}

/// The one that a client usually takes after this one. The first is 1.
fn next_packet_id(packet_id: Option<PacketId>) -> PacketId {
    packet_id.and_then(|packet_id| packet_id.checked_add(1)).unwrap_or(PacketId::MIN)
}

/// The previous delivery.
#[derive(Clone, Copy, Debug, Default)]
struct RecentDelivery {
    sid: Option<SessionNumber>,
    packet_id: Option<PacketId>,
    /// The distance of its number from the previous number.
    step: u64,
}

/// A run of deliveries with the same kind of end.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    sid: Option<SessionNumber>,
    /// 0 before the first.
    number: u64,
    /// The distance of the last number from the one before it.
    step: u64,
}

/// The bits in the kind of a short message, in addition to its QoS.
mod message {
    pub(super) const RETAIN: u8 = 1 << 2;
    pub(super) const EXPIRES: u8 = 1 << 3;
    pub(super) const HAS_PROPERTIES: u8 = 1 << 4;
    /// Two bits that tell where the topic is.
    pub(super) const TOPIC: u8 = 3 << 5;
    pub(super) const TOPIC_WRITTEN: u8 = 0;
    pub(super) const TOPIC_BY_NUMBER: u8 = 1 << 5;
    pub(super) const TOPIC_AS_BEFORE: u8 = 2 << 5;
}

/// The bits in the kind of a short delivery.
mod delivery {
    pub(super) const SAME_SESSION: u8 = 1;
    /// Two bits that tell where the packet identifier is. If both are 0, there is none.
    pub(super) const PACKET_ID: u8 = 3 << 1;
    pub(super) const PACKET_ID_WRITTEN: u8 = 1 << 1;
    pub(super) const PACKET_ID_NEXT: u8 = 2 << 1;
    pub(super) const QOS_2: u8 = 1 << 3;
    pub(super) const SAME_STEP: u8 = 1 << 4;
    pub(super) const RETAIN: u8 = 1 << 5;
}

/// The number of topics of a frame that get a number. They are the first ones that are written.
const TOPICS_MAX: usize = 128;

/// The data that the writer remembers.
#[derive(Debug, Default)]
pub(super) struct ShortWriter {
    pub(super) recent: Recent,
    topics: WrittenTopics,
}

impl ShortWriter {
    /// Begins a new frame.
    pub(super) fn begin_frame(&mut self) {
        self.recent = Recent::default();
        self.topics.clear();
    }

    /// Writes a message. It must have no source; only retained messages have one.
    pub(super) fn put_message(
        &mut self,
        out: &mut Vec<u8>,
        number: MessageNumber,
        stored: &StoredMessage<'_>,
    ) {
        let at = out.len();
        out.push(0);
        put_distance(out, number.get(), &mut self.recent.number);
        self.recent.message = Some(number);
        let mut kind = tag::MESSAGE_SHORT | stored.qos as u8;
        if stored.retain {
            kind |= message::RETAIN;
        }
        if let Some(millis) = stored.expires_at_millis {
            kind |= message::EXPIRES;
            put_varint(out, millis);
        }
        kind |= self.topics.put(out, stored.topic);
        if stored.properties.iter().any(|run| !run.is_empty()) {
            kind |= message::HAS_PROPERTIES;
            super::encode::put_runs(out, stored.properties);
        }
        super::put_bytes(out, stored.payload);
        out[at] = kind;
    }

    /// Writes a delivery of the last message if its short form can be used. Returns whether it was written.
    pub(super) fn put_delivery(&mut self, out: &mut Vec<u8>, record: &Record<'_>) -> bool {
        let Record::Delivery { sid, number, message, qos, retain, packet_id, subscription_ids, group } =
            record
        else {
            return false;
        };
        let is_plain = subscription_ids.is_empty() && group.is_empty() && *qos != QoS::AtMostOnce;
        if !is_plain || self.recent.message != Some(*message) {
            return false;
        }
        let before = self.recent.delivery;
        let at = out.len();
        out.push(0);
        let mut kind = tag::DELIVERY_SHORT;
        if *retain {
            kind |= delivery::RETAIN;
        }
        if *qos == QoS::ExactlyOnce {
            kind |= delivery::QOS_2;
        }
        if Some(*sid) == before.sid {
            kind |= delivery::SAME_SESSION;
        } else {
            put_varint(out, sid.get());
        }
        let number = number.get();
        if number.wrapping_sub(self.recent.number) == before.step {
            kind |= delivery::SAME_STEP;
            self.recent.number = number;
        } else {
            self.recent.delivery.step = number.wrapping_sub(self.recent.number);
            put_distance(out, number, &mut self.recent.number);
        }
        if let Some(packet_id) = *packet_id {
            if packet_id == next_packet_id(before.packet_id) {
                kind |= delivery::PACKET_ID_NEXT;
            } else {
                kind |= delivery::PACKET_ID_WRITTEN;
                out.extend_from_slice(&packet_id.get().to_le_bytes());
            }
            self.recent.delivery.packet_id = Some(packet_id);
        }
        self.recent.delivery.sid = Some(*sid);
        out[at] = kind;
        true
    }

    /// Is this the packet identifier after the one that was held last?
    pub(super) fn is_next_held(&mut self, place: PacketIdPlace) -> bool {
        self.recent.held.replace(place).is_some_and(|last| last.next() == place)
    }

    /// Is this the packet identifier after the one that was let go last?
    pub(super) fn is_next_unheld(&mut self, place: PacketIdPlace) -> bool {
        self.recent.unheld.replace(place).is_some_and(|last| last.next() == place)
    }

    pub(super) fn put_settled(&mut self, out: &mut Vec<u8>, delivery: DeliveryKey) {
        self.recent.settled.put(out, tag::SETTLED_SHORT, delivery);
    }

    pub(super) fn put_released(&mut self, out: &mut Vec<u8>, delivery: DeliveryKey) {
        self.recent.released.put(out, tag::RELEASED_SHORT, delivery);
    }
}

impl Run {
    /// Writes one more. `kinds` and the next two kinds mean: another session, the same session, the same
    /// session and step.
    fn put(&mut self, out: &mut Vec<u8>, kinds: u8, delivery: DeliveryKey) {
        let (sid, number) = (Some(delivery.sid), delivery.number.get());
        let step = number.wrapping_sub(self.number);
        if sid != self.sid {
            out.push(kinds);
            put_varint(out, delivery.sid.get());
        } else if step != self.step {
            out.push(kinds + 1);
        } else {
            out.push(kinds + 2);
            self.number = number;
            return;
        }
        put_distance(out, number, &mut self.number);
        *self = Run { sid, number, step };
    }

    /// Reads one more. `form` is 0, 1 or 2 for the three kinds of [`Run::put`].
    fn read(&mut self, decoder: &mut Decoder<'_>, form: u8) -> Result<DeliveryKey, BadRecord> {
        if form == 0 {
            self.sid = Some(decoder.sid()?);
        }
        if form < 2 {
            let before = self.number;
            self.number = decoder.distance(before)?;
            self.step = self.number.wrapping_sub(before);
        } else {
            self.number = self.number.wrapping_add(self.step);
        }
        Ok(DeliveryKey { sid: self.sid.ok_or(NO_SESSION)?, number: numbered(self.number)? })
    }
}

/// The data that the reader remembers.
#[derive(Debug, Default)]
pub(super) struct ShortReader<'a> {
    pub(super) recent: Recent,
    /// By number.
    topics: Vec<&'a str>,
    topic: Option<&'a str>,
}

impl<'a> Decoder<'a> {
    pub(super) fn short_message(&mut self, kind: u8) -> Result<Record<'a>, BadRecord> {
        let number = self.number()?;
        self.short.recent.message = Some(number);
        let qos = QoS::from_bits(kind & 3).ok_or(bad("no QoS"))?;
        let expires_at_millis = if kind & message::EXPIRES != 0 { Some(self.varint()?) } else { None };
        let topic = self.short_topic(kind & message::TOPIC)?;
        let properties = if kind & message::HAS_PROPERTIES != 0 { self.bytes()? } else { &[] };
        let message = StoredMessage {
            topic,
            properties: [properties, &[], &[]],
            payload: self.bytes()?,
            qos,
            retain: kind & message::RETAIN != 0,
            expires_at_millis,
            source: &[],
        };
        Ok(Record::Message { number, message })
    }

    fn short_topic(&mut self, place: u8) -> Result<&'a str, BadRecord> {
        let topic = match place {
            message::TOPIC_WRITTEN => {
                let topic = self.text()?;
                if self.short.topics.len() < TOPICS_MAX {
                    self.short.topics.push(topic);
                }
                topic
            }
            message::TOPIC_BY_NUMBER => {
                let number = usize::from(self.byte()?);
                self.short.topics.get(number).ok_or(bad("no topic has this number"))?
            }
            message::TOPIC_AS_BEFORE => self.short.topic.ok_or(bad("there is no topic before"))?,
            _ => return Err(bad("no place of a topic")),
        };
        self.short.topic = Some(topic);
        Ok(topic)
    }

    pub(super) fn short_delivery(&mut self, kind: u8) -> Result<Record<'a>, BadRecord> {
        let message = self.short.recent.message.ok_or(bad("there is no message before"))?;
        let before = self.short.recent.delivery;
        let sid =
            if kind & delivery::SAME_SESSION != 0 { before.sid.ok_or(NO_SESSION)? } else { self.sid()? };
        let from = self.short.recent.number;
        let number = if kind & delivery::SAME_STEP != 0 {
            from.wrapping_add(before.step)
        } else {
            self.distance(from)?
        };
        let packet_id = match kind & delivery::PACKET_ID {
            0 => None,
            delivery::PACKET_ID_WRITTEN => Some(self.packet_id()?),
            delivery::PACKET_ID_NEXT => Some(next_packet_id(before.packet_id)),
            _ => return Err(bad("no place of a packet identifier")),
        };
        self.short.recent.number = number;
        self.short.recent.delivery = RecentDelivery {
            sid: Some(sid),
            packet_id: packet_id.or(before.packet_id),
            step: number.wrapping_sub(from),
        };
        Ok(Record::Delivery {
            sid,
            number: numbered(number)?,
            message,
            qos: if kind & delivery::QOS_2 != 0 { QoS::ExactlyOnce } else { QoS::AtLeastOnce },
            retain: kind & delivery::RETAIN != 0,
            packet_id,
            subscription_ids: SmallVec::new(),
            group: "",
        })
    }

    pub(super) fn held(&mut self, place: PacketIdPlace) -> Result<Record<'a>, BadRecord> {
        self.short.recent.held = Some(place);
        let PacketIdPlace { sid, packet_id } = place;
        Ok(Record::Held { sid, packet_id, payload_bytes: self.varint32()? })
    }

    pub(super) fn unheld(&mut self, place: PacketIdPlace) -> Record<'a> {
        self.short.recent.unheld = Some(place);
        let PacketIdPlace { sid, packet_id } = place;
        Record::Unheld { sid, packet_id }
    }

    pub(super) fn short_settled(&mut self, form: u8) -> Result<Record<'a>, BadRecord> {
        let mut run = self.short.recent.settled;
        let DeliveryKey { sid, number } = run.read(self, form)?;
        self.short.recent.settled = run;
        Ok(Record::Settled { sid, number })
    }

    pub(super) fn short_released(&mut self, form: u8) -> Result<Record<'a>, BadRecord> {
        let mut run = self.short.recent.released;
        let DeliveryKey { sid, number } = run.read(self, form)?;
        self.short.recent.released = run;
        Ok(Record::Released { sid, number })
    }
}

/// The topics of the frame that is being written. They can be found by their bytes.
#[derive(Debug, Default)]
struct WrittenTopics {
    /// By number: the place of the topic in the frame's bytes.
    places: Vec<Place>,
    /// A hash table of numbers with open addressing. [`NONE`] marks a free slot. It has twice as many slots
    /// as needed.
    numbers: Vec<u8>,
    /// The topic of the previous message.
    before: Option<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    at: usize,
    len: usize,
    hash: u64,
}

impl Place {
    fn is(self, out: &[u8], topic: &str) -> bool {
        out[self.at..][..self.len] == *topic.as_bytes()
    }
}

/// Not the number of any topic.
const NONE: u8 = u8::MAX;
const NUMBERS_LEN: usize = 2 * TOPICS_MAX;
const _: () = assert!(TOPICS_MAX <= NONE as usize && NUMBERS_LEN.is_power_of_two());

impl WrittenTopics {
    fn clear(&mut self) {
        if !self.places.is_empty() {
            self.places.clear();
            self.numbers.fill(NONE);
        }
        self.before = None;
    }

    /// Writes a topic, or a reference to an earlier copy. Returns the bits of the kind that tell which.
    fn put(&mut self, out: &mut Vec<u8>, topic: &str) -> u8 {
        if self.before.is_some_and(|place| place.is(out, topic)) {
            return message::TOPIC_AS_BEFORE;
        }
        // The bytes of the log do not depend on the hash.
        let hash = RandomState::with_seeds(1, 2, 3, 4).hash_one(topic.as_bytes());
        if self.numbers.is_empty() {
            self.numbers.resize(NUMBERS_LEN, NONE);
        }
        let mut slot = hash as usize % NUMBERS_LEN;
        loop {
            let number = self.numbers[slot];
            let Some(&place) = self.places.get(usize::from(number)) else { break };
            if place.hash == hash && place.is(out, topic) {
                out.push(number);
                self.before = Some(place);
                return message::TOPIC_BY_NUMBER;
            }
            slot = (slot + 1) % NUMBERS_LEN;
        }
        super::put_bytes(out, topic.as_bytes());
        let place = Place { at: out.len() - topic.len(), len: topic.len(), hash };
        if self.places.len() < TOPICS_MAX {
            self.numbers[slot] = u8::try_from(self.places.len()).expect("there are fewer than NONE");
            self.places.push(place);
        }
        self.before = Some(place);
        message::TOPIC_WRITTEN
    }
}
