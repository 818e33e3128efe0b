//! Records: what changed in the state that survives.
//!
//! Each record sets or removes something by its name, so that applying one twice does no harm. Numbers
//! name messages, deliveries and sessions for ever, over all shards and restarts. They rise within a
//! shard, so within a frame each is written as its distance from the one before.

use crate::packet::{ProtocolVersion, QoS};
use crate::topic::{RetainHandling, SubscriptionOptions};
use smallvec::SmallVec;
use std::fmt;

/// A message as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredMessage<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Forwarded properties, raw, in up to three runs; read back as one.
    pub properties: [&'a [u8]; 3],
    /// Application message.
    pub payload: &'a [u8],
    /// QoS of the publisher.
    pub qos: QoS,
    /// RETAIN flag of the publisher.
    pub retain: bool,
    /// When it expires, milliseconds since 1970.
    pub expires_at_millis: Option<u64>,
}

/// A will as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredWill<'a> {
    /// The message; its expiry is not set yet.
    pub message: StoredMessage<'a>,
    /// Will Delay Interval, seconds.
    pub delay_seconds: u32,
    /// Message Expiry Interval, seconds, counted from publication.
    pub message_expiry_seconds: Option<u32>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A session is new, or has a new connection and new terms. Its subscriptions, deliveries and held
    /// identifiers stay. It is connected from now on.
    Session {
        /// Its name.
        sid: u64,
        /// Client identifier.
        client_id: &'a str,
        /// Protocol of the connection.
        version: ProtocolVersion,
        /// Session Expiry Interval, seconds; above 0.
        expiry_seconds: u32,
        /// The will of the connection.
        will: Option<StoredWill<'a>>,
    },
    /// The connection of a session ended. Its will, if it still has one, waits for its delay.
    Left {
        /// The session.
        sid: u64,
        /// When, milliseconds since 1970.
        at_millis: u64,
        /// Session Expiry Interval, which DISCONNECT may have changed.
        expiry_seconds: u32,
    },
    /// The will was published or dropped.
    WillGone {
        /// The session.
        sid: u64,
    },
    /// The session is over, with all that is its.
    Ended {
        /// The session.
        sid: u64,
    },
    /// A subscription is new, or its options are.
    Subscribed {
        /// The session.
        sid: u64,
        /// Topic filter, as written.
        filter: &'a str,
        /// Options as granted.
        options: SubscriptionOptions,
        /// Subscription identifier; 0: none.
        subscription_id: u32,
    },
    /// A subscription is gone.
    Unsubscribed {
        /// The session.
        sid: u64,
        /// Topic filter, as written.
        filter: &'a str,
    },
    /// A message that the deliveries after it refer to. It is gone with the last of them.
    Message {
        /// Its name.
        number: u64,
        /// The message.
        message: StoredMessage<'a>,
    },
    /// A message for a session: into its queue, or, with a packet identifier, on its way.
    Delivery {
        /// The session.
        sid: u64,
        /// Its name; a session's deliveries go out in this order.
        number: u64,
        /// The message.
        message: u64,
        /// QoS to send with; never 0.
        qos: QoS,
        /// RETAIN flag to send with.
        retain: bool,
        /// Packet identifier, or 0.
        packet_id: u16,
        /// Subscription identifiers.
        subscription_ids: SmallVec<[u32; 4]>,
    },
    /// A delivery left the queue and has a packet identifier.
    Started {
        /// The session.
        sid: u64,
        /// The delivery.
        number: u64,
        /// Its packet identifier.
        packet_id: u16,
    },
    /// PUBREC came for a delivery.
    Released {
        /// The session.
        sid: u64,
        /// The delivery.
        number: u64,
    },
    /// A delivery is acknowledged, expired or dropped.
    Settled {
        /// The session.
        sid: u64,
        /// The delivery.
        number: u64,
    },
    /// A QoS 2 message of the client waits for PUBREL.
    Held {
        /// The session.
        sid: u64,
        /// Its packet identifier.
        packet_id: u16,
        /// Length of its payload, bytes.
        payload_bytes: u32,
    },
    /// PUBREL came.
    Unheld {
        /// The session.
        sid: u64,
        /// The packet identifier.
        packet_id: u16,
    },
    /// The retained message of its topic.
    Retained {
        /// Its place in the order of the topic's messages.
        stamp: u64,
        /// The message.
        message: StoredMessage<'a>,
    },
    /// A topic has no retained message any more.
    Unretained {
        /// Topic name.
        topic: &'a str,
    },
    /// A QoS 2 message whose packet identifier is held by the records of the same frame must still reach
    /// other shards, each exactly once.
    Intent {
        /// Its name.
        number: u64,
        /// Shards it must reach, as a bit mask.
        targets: u128,
        /// As of a retained message; 0 if it is none.
        stamp: u64,
        /// The filter of the shared subscription for one of whose members it is; empty: it is for whatever
        /// the targets are at home to.
        group: &'a str,
        /// The message.
        message: StoredMessage<'a>,
    },
    /// Every target has it.
    IntentDone {
        /// The intent.
        number: u64,
    },
    /// The records of this frame are what this shard, a target, made of an intent.
    IntentSeen {
        /// The intent.
        number: u64,
    },
    /// Nothing changed, but the broker lives: those that are connected now were so at the frame's time.
    Alive,
}

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRecord {
    /// What is wrong.
    pub cause: &'static str,
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cause)
    }
}

impl std::error::Error for BadRecord {}

pub(super) const fn bad(cause: &'static str) -> BadRecord {
    BadRecord { cause }
}

mod tag {
    pub(super) const SESSION: u8 = 1;
    pub(super) const LEFT: u8 = 2;
    pub(super) const WILL_GONE: u8 = 3;
    pub(super) const ENDED: u8 = 4;
    pub(super) const SUBSCRIBED: u8 = 5;
    pub(super) const UNSUBSCRIBED: u8 = 6;
    pub(super) const MESSAGE: u8 = 7;
    pub(super) const DELIVERY: u8 = 8;
    pub(super) const STARTED: u8 = 9;
    pub(super) const RELEASED: u8 = 10;
    pub(super) const SETTLED: u8 = 11;
    pub(super) const HELD: u8 = 12;
    pub(super) const UNHELD: u8 = 13;
    pub(super) const RETAINED: u8 = 14;
    pub(super) const UNRETAINED: u8 = 15;
    pub(super) const INTENT: u8 = 16;
    pub(super) const INTENT_DONE: u8 = 17;
    pub(super) const INTENT_SEEN: u8 = 18;
    pub(super) const ALIVE: u8 = 19;
}

/// Appends records to a frame.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    /// The number written last in this frame.
    previous: u64,
}

impl Encoder {
    pub(super) fn encode(&mut self, out: &mut Vec<u8>, record: &Record<'_>) {
        match record {
            Record::Session { sid, client_id, version, expiry_seconds, will } => {
                out.push(tag::SESSION);
                put_varint(out, *sid);
                put_bytes(out, client_id.as_bytes());
                out.push(*version as u8);
                put_varint(out, u64::from(*expiry_seconds));
                match will {
                    None => out.push(0),
                    Some(will) => {
                        out.push(1);
                        put_message(out, &will.message);
                        put_varint(out, u64::from(will.delay_seconds));
                        put_option(out, will.message_expiry_seconds.map(u64::from));
                    }
                }
            }
            Record::Left { sid, at_millis, expiry_seconds } => {
                out.push(tag::LEFT);
                put_varint(out, *sid);
                put_varint(out, *at_millis);
                put_varint(out, u64::from(*expiry_seconds));
            }
            Record::WillGone { sid } => put_sid(out, tag::WILL_GONE, *sid),
            Record::Ended { sid } => put_sid(out, tag::ENDED, *sid),
            Record::Subscribed { sid, filter, options, subscription_id } => {
                put_sid(out, tag::SUBSCRIBED, *sid);
                put_bytes(out, filter.as_bytes());
                out.push(options_byte(*options));
                put_varint(out, u64::from(*subscription_id));
            }
            Record::Unsubscribed { sid, filter } => {
                put_sid(out, tag::UNSUBSCRIBED, *sid);
                put_bytes(out, filter.as_bytes());
            }
            Record::Message { number, message } => {
                out.push(tag::MESSAGE);
                self.put_number(out, *number);
                put_message(out, message);
            }
            Record::Delivery { sid, number, message, qos, retain, packet_id, subscription_ids } => {
                put_sid(out, tag::DELIVERY, *sid);
                self.put_number(out, *message);
                self.put_number(out, *number);
                let many = u8::try_from(subscription_ids.len()).unwrap_or(u8::MAX).min(IDS_MAX);
                out.push(*qos as u8 | u8::from(*retain) << 2 | u8::from(*packet_id != 0) << 3 | many << 4);
                if *packet_id != 0 {
                    out.extend_from_slice(&packet_id.to_le_bytes());
                }
                if many == IDS_MAX {
                    put_varint(out, subscription_ids.len() as u64);
                }
                for &id in subscription_ids {
                    put_varint(out, u64::from(id));
                }
            }
            Record::Started { sid, number, packet_id } => {
                put_sid(out, tag::STARTED, *sid);
                self.put_number(out, *number);
                out.extend_from_slice(&packet_id.to_le_bytes());
            }
            Record::Released { sid, number } => {
                put_sid(out, tag::RELEASED, *sid);
                self.put_number(out, *number);
            }
            Record::Settled { sid, number } => {
                put_sid(out, tag::SETTLED, *sid);
                self.put_number(out, *number);
            }
            Record::Held { sid, packet_id, payload_bytes } => {
                put_sid(out, tag::HELD, *sid);
                out.extend_from_slice(&packet_id.to_le_bytes());
                put_varint(out, u64::from(*payload_bytes));
            }
            Record::Unheld { sid, packet_id } => {
                put_sid(out, tag::UNHELD, *sid);
                out.extend_from_slice(&packet_id.to_le_bytes());
            }
            Record::Retained { stamp, message } => {
                out.push(tag::RETAINED);
                put_varint(out, *stamp);
                put_message(out, message);
            }
            Record::Unretained { topic } => {
                out.push(tag::UNRETAINED);
                put_bytes(out, topic.as_bytes());
            }
            Record::Intent { number, targets, stamp, group, message } => {
                out.push(tag::INTENT);
                self.put_number(out, *number);
                out.extend_from_slice(&targets.to_le_bytes());
                put_varint(out, *stamp);
                put_bytes(out, group.as_bytes());
                put_message(out, message);
            }
            Record::IntentDone { number } => {
                out.push(tag::INTENT_DONE);
                self.put_number(out, *number);
            }
            Record::IntentSeen { number } => {
                out.push(tag::INTENT_SEEN);
                self.put_number(out, *number);
            }
            Record::Alive => out.push(tag::ALIVE),
        }
    }

    fn put_number(&mut self, out: &mut Vec<u8>, number: u64) {
        let distance = number.wrapping_sub(self.previous).cast_signed();
        put_varint(out, (distance.cast_unsigned() << 1) ^ (distance >> 63).cast_unsigned());
        self.previous = number;
    }
}

/// Reads the records of a frame.
#[derive(Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
    previous: u64,
}

impl<'a> Decoder<'a> {
    /// The records of a frame's body.
    pub fn new(body: &'a [u8]) -> Decoder<'a> {
        Decoder { rest: body, previous: 0 }
    }

    /// The next record; none at the end.
    ///
    /// # Errors
    /// [`BadRecord`] for bytes that are none; nothing after them can be read.
    pub fn read_next(&mut self) -> Result<Option<Record<'a>>, BadRecord> {
        let Some((&tag, rest)) = self.rest.split_first() else { return Ok(None) };
        self.rest = rest;
        let record = match tag {
            tag::SESSION => Record::Session {
                sid: self.varint()?,
                client_id: self.text()?,
                version: self.version()?,
                expiry_seconds: self.varint32()?,
                will: match self.byte()? {
                    0 => None,
                    _ => Some(StoredWill {
                        message: self.message()?,
                        delay_seconds: self.varint32()?,
                        message_expiry_seconds: self.option32()?,
                    }),
                },
            },
            tag::LEFT => Record::Left {
                sid: self.varint()?,
                at_millis: self.varint()?,
                expiry_seconds: self.varint32()?,
            },
            tag::WILL_GONE => Record::WillGone { sid: self.varint()? },
            tag::ENDED => Record::Ended { sid: self.varint()? },
            tag::SUBSCRIBED => Record::Subscribed {
                sid: self.varint()?,
                filter: self.text()?,
                options: options_of(self.byte()?)?,
                subscription_id: self.varint32()?,
            },
            tag::UNSUBSCRIBED => Record::Unsubscribed { sid: self.varint()?, filter: self.text()? },
            tag::MESSAGE => Record::Message { number: self.number()?, message: self.message()? },
            tag::DELIVERY => self.delivery()?,
            tag::STARTED => {
                Record::Started { sid: self.varint()?, number: self.number()?, packet_id: self.u16()? }
            }
            tag::RELEASED => Record::Released { sid: self.varint()?, number: self.number()? },
            tag::SETTLED => Record::Settled { sid: self.varint()?, number: self.number()? },
            tag::HELD => {
                Record::Held { sid: self.varint()?, packet_id: self.u16()?, payload_bytes: self.varint32()? }
            }
            tag::UNHELD => Record::Unheld { sid: self.varint()?, packet_id: self.u16()? },
            tag::RETAINED => Record::Retained { stamp: self.varint()?, message: self.message()? },
            tag::UNRETAINED => Record::Unretained { topic: self.text()? },
            tag::INTENT => Record::Intent {
                number: self.number()?,
                targets: u128::from_le_bytes(self.array()?),
                stamp: self.varint()?,
                group: self.text()?,
                message: self.message()?,
            },
            tag::INTENT_DONE => Record::IntentDone { number: self.number()? },
            tag::INTENT_SEEN => Record::IntentSeen { number: self.number()? },
            tag::ALIVE => Record::Alive,
            _ => return Err(bad("unknown kind of record")),
        };
        Ok(Some(record))
    }

    /// Is nothing left?
    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    fn delivery(&mut self) -> Result<Record<'a>, BadRecord> {
        let sid = self.varint()?;
        let message = self.number()?;
        let number = self.number()?;
        let bits = self.byte()?;
        let qos = QoS::from_bits(bits & 3).ok_or(bad("no QoS"))?;
        let packet_id = if bits & 8 != 0 { self.u16()? } else { 0 };
        let many = match bits >> 4 {
            IDS_MAX => self.varint()?,
            many => u64::from(many),
        };
        let mut subscription_ids = SmallVec::new();
        for _ in 0..many {
            // Each takes a byte at least, so that a false number ends with the bytes.
            subscription_ids.push(self.varint32()?);
        }
        let retain = bits & 4 != 0;
        Ok(Record::Delivery { sid, number, message, qos, retain, packet_id, subscription_ids })
    }

    fn number(&mut self) -> Result<u64, BadRecord> {
        let coded = self.varint()?;
        let distance = (coded >> 1) ^ (coded & 1).wrapping_neg();
        self.previous = self.previous.wrapping_add(distance);
        Ok(self.previous)
    }

    pub(super) fn message(&mut self) -> Result<StoredMessage<'a>, BadRecord> {
        let bits = self.byte()?;
        Ok(StoredMessage {
            qos: QoS::from_bits(bits & 3).ok_or(bad("no QoS"))?,
            retain: bits & 4 != 0,
            expires_at_millis: if bits & 8 != 0 { Some(self.varint()?) } else { None },
            topic: self.text()?,
            properties: [self.bytes()?, &[], &[]],
            payload: self.bytes()?,
        })
    }

    pub(super) fn byte(&mut self) -> Result<u8, BadRecord> {
        let (&byte, rest) = self.rest.split_first().ok_or(CUT)?;
        self.rest = rest;
        Ok(byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], BadRecord> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(CUT)?;
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn u16(&mut self) -> Result<u16, BadRecord> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn varint(&mut self) -> Result<u64, BadRecord> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(bad("a number has too many bytes"))
    }

    pub(super) fn varint32(&mut self) -> Result<u32, BadRecord> {
        u32::try_from(self.varint()?).map_err(|_| bad("a number is above 32 bits"))
    }

    pub(super) fn option32(&mut self) -> Result<Option<u32>, BadRecord> {
        match self.byte()? {
            0 => Ok(None),
            _ => Ok(Some(self.varint32()?)),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], BadRecord> {
        let len = usize::try_from(self.varint()?).map_err(|_| CUT)?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(CUT)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Topics, filters and client identifiers: 65,535 bytes at most, as on the wire.
    pub(super) fn text(&mut self) -> Result<&'a str, BadRecord> {
        let bytes = self.bytes()?;
        if bytes.len() > usize::from(u16::MAX) {
            return Err(bad("a text is above 65,535 bytes"));
        }
        std::str::from_utf8(bytes).map_err(|_| bad("a text is not UTF-8"))
    }

    pub(super) fn version(&mut self) -> Result<ProtocolVersion, BadRecord> {
        match self.byte()? {
            3 => Ok(ProtocolVersion::V31),
            4 => Ok(ProtocolVersion::V311),
            5 => Ok(ProtocolVersion::V5),
            _ => Err(bad("no protocol version")),
        }
    }
}

const CUT: BadRecord = bad("a record is cut off");

/// From here on the number of subscription identifiers has a place of its own.
const IDS_MAX: u8 = 15;

pub(super) fn options_byte(options: SubscriptionOptions) -> u8 {
    options.qos as u8
        | u8::from(options.no_local) << 2
        | u8::from(options.retain_as_published) << 3
        | (options.retain_handling as u8) << 4
}

pub(super) fn options_of(byte: u8) -> Result<SubscriptionOptions, BadRecord> {
    Ok(SubscriptionOptions {
        qos: QoS::from_bits(byte & 3).ok_or(bad("no QoS"))?,
        no_local: byte & 4 != 0,
        retain_as_published: byte & 8 != 0,
        retain_handling: match byte >> 4 {
            0 => RetainHandling::Always,
            1 => RetainHandling::IfNew,
            2 => RetainHandling::Never,
            _ => return Err(bad("no retain handling")),
        },
    })
}

fn put_sid(out: &mut Vec<u8>, tag: u8, sid: u64) {
    out.push(tag);
    put_varint(out, sid);
}

pub(super) fn put_message(out: &mut Vec<u8>, message: &StoredMessage<'_>) {
    let expires = u8::from(message.expires_at_millis.is_some());
    out.push(message.qos as u8 | u8::from(message.retain) << 2 | expires << 3);
    if let Some(at) = message.expires_at_millis {
        put_varint(out, at);
    }
    put_bytes(out, message.topic.as_bytes());
    put_varint(out, message.properties.iter().map(|run| run.len() as u64).sum());
    for run in message.properties {
        out.extend_from_slice(run);
    }
    put_bytes(out, message.payload);
}

pub(super) fn put_option(out: &mut Vec<u8>, value: Option<u64>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put_varint(out, value);
    }
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use smallvec::smallvec;

    pub(in crate::store) fn message<'a>(topic: &'a str, payload: &'a [u8]) -> StoredMessage<'a> {
        StoredMessage {
            topic,
            properties: [b"\x26\x00\x01a\x00\x01b", &[], &[]],
            payload,
            qos: QoS::AtLeastOnce,
            retain: true,
            expires_at_millis: Some(1_700_000_000_000),
        }
    }

    fn all() -> Vec<Record<'static>> {
        let message = message("a/b", b"payload");
        let plain = StoredMessage { properties: [&[]; 3], expires_at_millis: None, retain: false, ..message };
        let will = StoredWill { message: plain, delay_seconds: 60, message_expiry_seconds: Some(u32::MAX) };
        let options = SubscriptionOptions {
            qos: QoS::ExactlyOnce,
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::Never,
        };
        let version = ProtocolVersion::V5;
        let sid = 300;
        let delivery = |packet_id, subscription_ids| Record::Delivery {
            sid,
            number: 1_000_001,
            message: 1_000_000,
            qos: QoS::ExactlyOnce,
            retain: true,
            packet_id,
            subscription_ids,
        };
        vec![
            Record::Session { sid, client_id: "ä", version, expiry_seconds: u32::MAX, will: Some(will) },
            Record::Session { sid: u64::MAX, client_id: "", version, expiry_seconds: 1, will: None },
            Record::Left { sid, at_millis: u64::MAX, expiry_seconds: 0 },
            Record::WillGone { sid },
            Record::Ended { sid },
            Record::Subscribed { sid, filter: "$share/g/a/#", options, subscription_id: 268_435_455 },
            Record::Subscribed {
                sid,
                filter: "a",
                options: SubscriptionOptions::v3(QoS::AtMostOnce),
                subscription_id: 0,
            },
            Record::Unsubscribed { sid, filter: "+" },
            Record::Message { number: u64::MAX, message },
            delivery(0, smallvec![]),
            delivery(65_535, smallvec![1, 2]),
            delivery(1, (0..20).collect()),
            Record::Started { sid, number: 0, packet_id: 7 },
            Record::Released { sid, number: 5 },
            Record::Settled { sid, number: u64::MAX },
            Record::Held { sid, packet_id: 9, payload_bytes: u32::MAX },
            Record::Unheld { sid, packet_id: 9 },
            Record::Retained { stamp: 99, message: plain },
            Record::Unretained { topic: "a/b" },
            Record::Intent { number: 77, targets: u128::MAX - 5, stamp: 1, group: "", message },
            Record::Intent { number: 79, targets: 2, stamp: 0, group: "$share/g/a", message },
            Record::IntentDone { number: 77 },
            Record::IntentSeen { number: 78 },
            Record::Alive,
        ]
    }

    #[test]
    fn every_record_comes_back_as_it_was() {
        let (mut out, mut encoder) = (Vec::new(), Encoder::default());
        for record in all() {
            encoder.encode(&mut out, &record);
        }
        let mut decoder = Decoder::new(&out);
        for record in all() {
            assert_eq!(decoder.read_next(), Ok(Some(record)));
        }
        assert_eq!(decoder.read_next(), Ok(None));
    }

    #[test]
    fn a_record_that_is_cut_off_is_an_error_at_every_byte() {
        for record in all() {
            let mut out = Vec::new();
            Encoder::default().encode(&mut out, &record);
            for len in 1..out.len() {
                assert!(Decoder::new(&out[..len]).read_next().is_err(), "{record:?} at {len}");
            }
        }
    }

    #[test]
    fn numbers_side_by_side_take_a_byte() {
        let (mut out, mut encoder) = (Vec::new(), Encoder::default());
        encoder.encode(&mut out, &Record::Settled { sid: 1, number: 1 << 40 });
        let first = out.len();
        encoder.encode(&mut out, &Record::Settled { sid: 1, number: (1 << 40) + 2 });
        assert_eq!((first, out.len()), (8, 11));
    }
}
