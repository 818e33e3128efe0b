//! Converts bytes to records. Bytes from a disk may be anything: invalid ones are [`BadRecord`] and never
//! cause a panic.

use super::short::{PacketIdPlace, ShortReader};
use super::{BadRecord, IDS_MAX, Record, StoredMessage, StoredWill, bad, tag};
use crate::base::{DeliveryNumber, Numbered, SessionNumber, Stamp};
use crate::mqtt::{PacketId, ProtocolVersion, QoS, RetainHandling, SubscriptionId, SubscriptionOptions};
use crate::session::{LOSS_CAUSES, LossCause};
use crate::store::{ClockMark, ClockReading};
use smallvec::SmallVec;

/// Reads the records of a frame.
#[derive(Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
    pub(super) short: ShortReader<'a>,
}

impl<'a> Decoder<'a> {
    /// The records of a frame's body.
    pub fn new(body: &'a [u8]) -> Decoder<'a> {
        Decoder { rest: body, short: ShortReader::default() }
    }

    /// Reads the next record. `None` at the end.
    ///
    /// # Errors
    /// [`BadRecord`] if the bytes are not a record. Nothing after them can be read.
    pub fn read_next(&mut self) -> Result<Option<Record<'a>>, BadRecord> {
        let Some((&tag, rest)) = self.rest.split_first() else { return Ok(None) };
        self.rest = rest;
        let record = match tag {
            tag::SESSION => Record::Session {
                sid: self.sid()?,
                client_id: self.text()?,
                version: self.version()?,
                expiry_seconds: self.varint32()?,
                will: match self.byte()? {
                    0 => None,
                    _ => Some(self.will()?),
                },
            },
            tag::LEFT => {
                Record::Left { sid: self.sid()?, at_millis: self.varint()?, expiry_seconds: self.varint32()? }
            }
            tag::WILL_GONE => Record::WillGone { sid: self.sid()? },
            tag::ENDED => Record::Ended { sid: self.sid()? },
            tag::SUBSCRIBED => Record::Subscribed {
                sid: self.sid()?,
                filter: self.text()?,
                options: options_of(self.byte()?)?,
                subscription_id: SubscriptionId::new(self.varint32()?),
            },
            tag::UNSUBSCRIBED => Record::Unsubscribed { sid: self.sid()?, filter: self.text()? },
            tag::MESSAGE => Record::Message { number: self.number()?, message: self.message()? },
            tag::DELIVERY => self.delivery()?,
            tag::STARTED => {
                Record::Started { sid: self.sid()?, number: self.number()?, packet_id: self.packet_id()? }
            }
            tag::RELEASED => Record::Released { sid: self.sid()?, number: self.number()? },
            tag::SETTLED => Record::Settled { sid: self.sid()?, number: self.number()? },
            tag::LOST => Record::Lost {
                sid: self.sid()?,
                number: DeliveryNumber::from_number(self.raw_number()?),
                cause: *LossCause::ALL.get(usize::from(self.byte()?)).ok_or(bad("no cause of a loss"))?,
                count: self.varint32()?,
            },
            tag::LOSSES_TOLD => Record::LossesTold { sid: self.sid()?, left: self.counts()? },
            tag::RETURNED => {
                Record::Returned { sid: self.sid()?, delivery: self.number()?, number: self.number()? }
            }
            tag::HELD => {
                let place = PacketIdPlace { sid: self.sid()?, packet_id: self.packet_id()? };
                self.held(place)?
            }
            tag::HELD_NEXT => self.held(next(self.short.recent.held)?)?,
            tag::UNHELD => {
                let place = PacketIdPlace { sid: self.sid()?, packet_id: self.packet_id()? };
                self.unheld(place)
            }
            tag::UNHELD_NEXT => self.unheld(next(self.short.recent.unheld)?),
            tag::RETAINED => Record::Retained { stamp: numbered(self.varint()?)?, message: self.message()? },
            tag::UNRETAINED => Record::Unretained { topic: self.text()? },
            tag::INTENT => Record::Intent {
                number: self.number()?,
                targets: u128::from_le_bytes(self.array()?),
                stamp: Stamp::from_number(self.varint()?),
                group: self.text()?,
                message: self.message()?,
            },
            tag::INTENT_DONE => Record::IntentDone { number: self.number()? },
            tag::INTENT_SEEN => Record::IntentSeen { number: self.number()? },
            tag::ALIVE => Record::Alive,
            tag::CLOCK => Record::Clock(self.clock()?),
            tag::WILL => Record::Will { number: self.number()?, client_id: self.text()?, will: self.will()? },
            tag::WILL_OVER => Record::WillOver { number: self.number()? },
            kind @ tag::MESSAGE_SHORT.. => self.short_message(kind)?,
            kind @ tag::DELIVERY_SHORT.. => self.short_delivery(kind)?,
            kind @ tag::SETTLED_SHORT..tag::RELEASED_SHORT => {
                self.short_settled(kind - tag::SETTLED_SHORT)?
            }
            kind @ tag::RELEASED_SHORT..tag::HELD_NEXT => self.short_released(kind - tag::RELEASED_SHORT)?,
            _ => return Err(bad("unknown kind of record")),
        };
        Ok(Some(record))
    }

    /// Whether nothing is left.
    pub(crate) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    fn delivery(&mut self) -> Result<Record<'a>, BadRecord> {
        let sid = self.sid()?;
        let message = self.number()?;
        let number = self.number()?;
        let bits = self.byte()?;
        let qos = QoS::from_bits(bits & 3).ok_or(bad("no QoS"))?;
        let packet_id = if bits & 8 != 0 { Some(self.packet_id()?) } else { None };
        let many = match bits >> 5 {
            IDS_MAX => self.varint()?,
            many => u64::from(many),
        };
        let mut subscription_ids = SmallVec::new();
        for _ in 0..many {
            // Each takes at least one byte, so a false number ends with the bytes.
            subscription_ids.push(self.varint32()?);
        }
        let retain = bits & 4 != 0;
        let group = if bits & 16 != 0 { self.text()? } else { "" };
        Ok(Record::Delivery { sid, number, message, qos, retain, packet_id, subscription_ids, group })
    }

    pub(super) fn number<N: Numbered>(&mut self) -> Result<N, BadRecord> {
        numbered(self.raw_number()?)
    }

    pub(super) fn sid(&mut self) -> Result<SessionNumber, BadRecord> {
        numbered(self.varint()?)
    }

    pub(crate) fn packet_id(&mut self) -> Result<PacketId, BadRecord> {
        PacketId::new(self.u16()?).ok_or(bad("a packet identifier is 0"))
    }

    /// A number that may be 0.
    fn raw_number(&mut self) -> Result<u64, BadRecord> {
        let number = self.distance(self.short.recent.number)?;
        self.short.recent.number = number;
        Ok(number)
    }

    /// Reads a number that is written as its distance from another.
    pub(super) fn distance(&mut self, before: u64) -> Result<u64, BadRecord> {
        let coded = self.varint()?;
        Ok(before.wrapping_add((coded >> 1) ^ (coded & 1).wrapping_neg()))
    }

    pub(crate) fn message(&mut self) -> Result<StoredMessage<'a>, BadRecord> {
        let bits = self.byte()?;
        Ok(StoredMessage {
            qos: QoS::from_bits(bits & 3).ok_or(bad("no QoS"))?,
            retain: bits & 4 != 0,
            expires_at_millis: if bits & 8 != 0 { Some(self.varint()?) } else { None },
            topic: self.text()?,
            properties: [self.bytes()?, &[], &[]],
            payload: self.bytes()?,
            source: if bits & 16 != 0 { self.bytes()? } else { &[] },
        })
    }

    pub(crate) fn will(&mut self) -> Result<StoredWill<'a>, BadRecord> {
        Ok(StoredWill {
            message: self.message()?,
            delay_seconds: self.varint32()?,
            message_expiry_seconds: self.option32()?,
        })
    }

    pub(crate) fn clock(&mut self) -> Result<ClockMark, BadRecord> {
        let at_millis = self.varint()?;
        let (wall_millis, boot, boot_millis) = (self.varint()?, self.varint()?, self.varint()?);
        Ok(ClockMark { at_millis, reading: ClockReading { wall_millis, boot, boot_millis } })
    }

    pub(crate) fn byte(&mut self) -> Result<u8, BadRecord> {
        let (&byte, rest) = self.rest.split_first().ok_or(CUT)?;
        self.rest = rest;
        Ok(byte)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], BadRecord> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(CUT)?;
        self.rest = rest;
        Ok(*array)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, BadRecord> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn varint(&mut self) -> Result<u64, BadRecord> {
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

    pub(crate) fn counts(&mut self) -> Result<[u32; LOSS_CAUSES], BadRecord> {
        let mut counts = [0; LOSS_CAUSES];
        for count in &mut counts {
            *count = self.varint32()?;
        }
        Ok(counts)
    }

    pub(crate) fn varint32(&mut self) -> Result<u32, BadRecord> {
        u32::try_from(self.varint()?).map_err(|_| bad("a number is above 32 bits"))
    }

    fn option32(&mut self) -> Result<Option<u32>, BadRecord> {
        match self.byte()? {
            0 => Ok(None),
            _ => Ok(Some(self.varint32()?)),
        }
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], BadRecord> {
        let len = usize::try_from(self.varint()?).map_err(|_| CUT)?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(CUT)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Reads a topic, filter or client identifier: at most 65,535 bytes, as in MQTT.
    pub(crate) fn text(&mut self) -> Result<&'a str, BadRecord> {
        let bytes = self.bytes()?;
        if bytes.len() > usize::from(u16::MAX) {
            return Err(bad("a text is above 65,535 bytes"));
        }
        std::str::from_utf8(bytes).map_err(|_| bad("a text is not UTF-8"))
    }

    pub(crate) fn version(&mut self) -> Result<ProtocolVersion, BadRecord> {
        match self.byte()? {
            3 => Ok(ProtocolVersion::V31),
            4 => Ok(ProtocolVersion::V311),
            5 => Ok(ProtocolVersion::V5),
            _ => Err(bad("no protocol version")),
        }
    }
}

const CUT: BadRecord = bad("a record is cut off");
pub(super) const NO_SESSION: BadRecord = bad("there is no session before");

/// A number as read. None of those that count from 1 is 0.
pub(crate) fn numbered<N: Numbered>(number: u64) -> Result<N, BadRecord> {
    N::from_number(number).ok_or(bad("a number is 0"))
}

/// The packet identifier after the last one.
fn next(last: Option<PacketIdPlace>) -> Result<PacketIdPlace, BadRecord> {
    last.map(PacketIdPlace::next).ok_or(NO_SESSION)
}

pub(crate) fn options_of(byte: u8) -> Result<SubscriptionOptions, BadRecord> {
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
