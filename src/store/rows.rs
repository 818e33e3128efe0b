//! The state that survives, as rows: the tables, their keys and their values.
//!
//! Numbers in keys are big-endian, so that rows are in the order of their numbers. [`Decoder`] reads a value
//! like a record. An invalid value is [`BadRecord`] and never causes a panic.

use super::record::{
    bad, numbered, options_byte, options_of, put_bytes, put_clock, put_counts, put_message, put_packet_id,
    put_varint, put_will,
};
use super::{BadRecord, ClockMark, Decoder, StoredMessage, StoredWill};
use crate::base::{DeliveryNumber, MessageNumber, Numbered, SessionNumber, Stamp};
use crate::mqtt::{PacketId, ProtocolVersion, QoS, SubscriptionId, SubscriptionOptions};
use crate::session::{LossTimes, Losses};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// A key or a value. Those that are numbers need no allocation.
pub type Row = SmallVec<[u8; 16]>;

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// One row: [`Meta`].
    Meta = 0,
    /// sid → [`SessionRow`].
    Sessions = 1,
    /// sid, filter → [`SubscriptionRow`].
    Subscriptions = 2,
    /// sid, number → [`DeliveryRow`].
    Deliveries = 3,
    /// number → message.
    Messages = 4,
    /// number → how many deliveries refer to the message, as four bytes. No row if it is one.
    Counts = 5,
    /// sid, packet identifier → length of the payload.
    Held = 6,
    /// topic → [`RetainedRow`].
    Retained = 7,
    /// number → [`IntentRow`].
    Intents = 8,
    /// number, shard → nothing.
    Seen = 9,
    /// sid → [`Losses`]. No row if there are none.
    Losses = 10,
    /// number → [`WillRow`].
    Wills = 11,
}

impl Table {
    /// All tables, each at the index of its discriminant.
    pub const ALL: [Table; 12] = [
        Table::Meta,
        Table::Sessions,
        Table::Subscriptions,
        Table::Deliveries,
        Table::Messages,
        Table::Counts,
        Table::Held,
        Table::Retained,
        Table::Intents,
        Table::Seen,
        Table::Losses,
        Table::Wills,
    ];

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Sessions => "sessions",
            Table::Subscriptions => "subscriptions",
            Table::Deliveries => "deliveries",
            Table::Messages => "messages",
            Table::Counts => "counts",
            Table::Held => "held",
            Table::Retained => "retained",
            Table::Intents => "intents",
            Table::Seen => "seen",
            Table::Losses => "losses",
            Table::Wills => "wills",
        }
    }

    /// A lower bound for the number of a row of this table: a base whose highest number is lower can't
    /// contain it.
    pub(crate) fn born(self, key: &[u8]) -> u64 {
        match self {
            Table::Meta | Table::Retained => 0,
            Table::Deliveries => raw_number_at(key, 8).unwrap_or(0),
            _ => raw_number_at(key, 0).unwrap_or(0),
        }
    }
}

/// The number at an offset of a key.
pub(crate) fn number_at<N: Numbered>(key: &[u8], at: usize) -> Option<N> {
    N::from_number(raw_number_at(key, at)?)
}

/// The same, whatever it numbers.
pub(crate) fn raw_number_at(key: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(at..at + 8)?.try_into().ok()?))
}

/// A key of a number and two bytes, as for held identifiers and seen intents.
pub(crate) fn read_pair<N: Numbered>(key: &[u8]) -> Option<(N, u16)> {
    let tail: [u8; 2] = key.get(8..)?.try_into().ok()?;
    Some((number_at(key, 0)?, u16::from_be_bytes(tail)))
}

pub(crate) fn key(number: impl Numbered) -> [u8; 8] {
    number.get().to_be_bytes()
}

pub(crate) fn pair_key(number: impl Numbered, small: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&number.get().to_be_bytes());
    key[8..].copy_from_slice(&small.to_be_bytes());
    key
}

/// A delivery of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryKey {
    /// The session's name in the store.
    pub sid: SessionNumber,
    /// The delivery's number, which no other delivery of the store has.
    pub number: DeliveryNumber,
}

impl DeliveryKey {
    /// The key of its row.
    pub(crate) fn row(self) -> [u8; 16] {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.sid.get().to_be_bytes());
        key[8..].copy_from_slice(&self.number.get().to_be_bytes());
        key
    }
}

pub(crate) fn subscription_key(sid: SessionNumber, filter: &str) -> Row {
    let mut key = Row::from_slice(&sid.get().to_be_bytes());
    key.extend_from_slice(filter.as_bytes());
    key
}

/// The filter in the key of a subscription.
pub(crate) fn filter_of(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(8..)?).ok()
}

/// Whether a session is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It was connected when the start of the broker with this epoch ended, unless a record says otherwise.
    Connected {
        /// The epoch of the start.
        epoch: u64,
    },
    /// It is not connected.
    Left {
        /// Since when, on the log's clock.
        at_millis: u64,
    },
}

/// A session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRow<'a> {
    /// The protocol version of its last connection.
    pub version: ProtocolVersion,
    /// The Session Expiry Interval, in seconds.
    pub expiry_seconds: u32,
    /// Whether it is connected.
    pub presence: Presence,
    /// The client identifier.
    pub client_id: &'a str,
    /// The will that was not published yet.
    pub will: Option<StoredWill<'a>>,
}

impl<'a> SessionRow<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.version as u8);
        put_varint(out, u64::from(self.expiry_seconds));
        match self.presence {
            Presence::Left { at_millis } => {
                out.push(0);
                put_varint(out, at_millis);
            }
            Presence::Connected { epoch } => {
                out.push(1);
                put_varint(out, epoch);
            }
        }
        put_bytes(out, self.client_id.as_bytes());
        out.push(u8::from(self.will.is_some()));
        if let Some(will) = &self.will {
            put_will(out, will);
        }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// [`BadRecord`] if the value is not valid.
    pub fn decode(value: &'a [u8]) -> Result<SessionRow<'a>, BadRecord> {
        let mut decoder = Decoder::new(value);
        let row = SessionRow {
            version: decoder.version()?,
            expiry_seconds: decoder.varint32()?,
            presence: match decoder.byte()? {
                0 => Presence::Left { at_millis: decoder.varint()? },
                _ => Presence::Connected { epoch: decoder.varint()? },
            },
            client_id: decoder.text()?,
            will: match decoder.byte()? {
                0 => None,
                _ => Some(decoder.will()?),
            },
        };
        whole(decoder, row)
    }
}

/// A subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionRow {
    /// The granted options.
    pub options: SubscriptionOptions,
    /// The subscription identifier, if there is one.
    pub subscription_id: Option<SubscriptionId>,
}

impl SubscriptionRow {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(options_byte(self.options));
        put_varint(out, self.subscription_id.map_or(0, |id| u64::from(id.get())));
    }

    /// Reads a value.
    ///
    /// # Errors
    /// [`BadRecord`] if the value is not valid.
    pub fn decode(value: &[u8]) -> Result<SubscriptionRow, BadRecord> {
        let mut decoder = Decoder::new(value);
        let options = options_of(decoder.byte()?)?;
        let row = SubscriptionRow { options, subscription_id: SubscriptionId::new(decoder.varint32()?) };
        whole(decoder, row)
    }
}

/// A delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRow<'a> {
    /// The message.
    pub message: MessageNumber,
    /// The QoS to send with.
    pub qos: QoS,
    /// The RETAIN flag to send with.
    pub retain: bool,
    /// The packet identifier. `None` if it is queued.
    pub packet_id: Option<PacketId>,
    /// Whether a PUBREC was received.
    pub released: bool,
    /// The subscription identifiers.
    pub subscription_ids: SmallVec<[u32; 4]>,
    /// The filter of the shared subscription that chose the session. Empty if there was none.
    pub group: &'a str,
}

impl<'a> DeliveryRow<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.message.get());
        let has_id = self.packet_id.is_some();
        let bits = u8::from(self.retain) << 2 | u8::from(has_id) << 3 | u8::from(self.released) << 4;
        out.push(self.qos as u8 | bits | u8::from(!self.group.is_empty()) << 5);
        if let Some(packet_id) = self.packet_id {
            put_packet_id(out, packet_id);
        }
        if !self.group.is_empty() {
            put_bytes(out, self.group.as_bytes());
        }
        for &id in &self.subscription_ids {
            put_varint(out, u64::from(id));
        }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// [`BadRecord`] if the value is not valid.
    pub fn decode(value: &'a [u8]) -> Result<DeliveryRow<'a>, BadRecord> {
        let mut decoder = Decoder::new(value);
        let message = numbered(decoder.varint()?)?;
        let bits = decoder.byte()?;
        let mut row = DeliveryRow {
            message,
            qos: QoS::from_bits(bits & 3).ok_or(bad("no QoS"))?,
            retain: bits & 4 != 0,
            packet_id: if bits & 8 != 0 { Some(decoder.packet_id()?) } else { None },
            released: bits & 16 != 0,
            group: if bits & 32 != 0 { decoder.text()? } else { "" },
            subscription_ids: SmallVec::new(),
        };
        while !decoder.is_at_end() {
            row.subscription_ids.push(decoder.varint32()?);
        }
        Ok(row)
    }
}

/// A retained message. Its topic is the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedRow<'a> {
    /// Its position in the order of the topic's messages.
    pub stamp: Stamp,
    /// The message.
    pub message: StoredMessage<'a>,
}

impl<'a> RetainedRow<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.stamp.get());
        put_message(out, &StoredMessage { topic: "", ..self.message });
    }

    /// Reads a row.
    ///
    /// # Errors
    /// [`BadRecord`] if the row is not valid.
    pub fn decode(key: &'a [u8], value: &'a [u8]) -> Result<RetainedRow<'a>, BadRecord> {
        let mut decoder = Decoder::new(value);
        let stamp = numbered(decoder.varint()?)?;
        let message = decoder.message()?;
        let topic = std::str::from_utf8(key).map_err(|_| bad("a text is not UTF-8"))?;
        if topic.len() > usize::from(u16::MAX) {
            return Err(bad("a text is above 65,535 bytes"));
        }
        whole(decoder, RetainedRow { stamp, message: StoredMessage { topic, ..message } })
    }
}

/// An intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntentRow<'a> {
    /// The shards that it must reach, as a bit mask. Without meaning for a shared subscription.
    pub targets: u128,
    /// The stamp, as for a retained message. `None` if it is not retained.
    pub stamp: Option<Stamp>,
    /// The shared subscription if the message is for one of its members. Empty if it is not.
    pub group: &'a str,
    /// The message.
    pub message: StoredMessage<'a>,
}

impl<'a> IntentRow<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.targets.to_le_bytes());
        put_varint(out, self.stamp.map_or(0, Stamp::get));
        put_bytes(out, self.group.as_bytes());
        put_message(out, &self.message);
    }

    /// Reads a value.
    ///
    /// # Errors
    /// [`BadRecord`] if the value is not valid.
    pub fn decode(value: &'a [u8]) -> Result<IntentRow<'a>, BadRecord> {
        let mut decoder = Decoder::new(value);
        let targets = u128::from_le_bytes(decoder.array()?);
        let row = IntentRow {
            targets,
            stamp: Stamp::from_number(decoder.varint()?),
            group: decoder.text()?,
            message: decoder.message()?,
        };
        whole(decoder, row)
    }
}

pub(crate) fn encode_losses(losses: &Losses, out: &mut Vec<u8>) {
    put_counts(out, losses.counts());
    let LossTimes { first_millis, last_millis } = losses.times();
    put_varint(out, first_millis);
    put_varint(out, last_millis);
}

/// Reads the value of a session's losses.
pub(crate) fn decode_losses(value: &[u8]) -> Result<Losses, BadRecord> {
    let mut decoder = Decoder::new(value);
    let counts = decoder.counts()?;
    let times = LossTimes { first_millis: decoder.varint()?, last_millis: decoder.varint()? };
    let losses = Losses::new(counts, times);
    whole(decoder, losses)
}

/// The will of a connection whose session ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WillRow<'a> {
    /// The client identifier.
    pub client_id: &'a str,
    /// The will.
    pub will: StoredWill<'a>,
}

impl<'a> WillRow<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.client_id.as_bytes());
        put_will(out, &self.will);
    }

    /// Reads a value.
    ///
    /// # Errors
    /// [`BadRecord`] if the value is not valid.
    pub fn decode(value: &'a [u8]) -> Result<WillRow<'a>, BadRecord> {
        let mut decoder = Decoder::new(value);
        let row = WillRow { client_id: decoder.text()?, will: decoder.will()? };
        whole(decoder, row)
    }
}

/// Reads the value of a message.
pub(crate) fn decode_message(value: &[u8]) -> Result<StoredMessage<'_>, BadRecord> {
    let mut decoder = Decoder::new(value);
    let message = decoder.message()?;
    whole(decoder, message)
}

/// Reads the value of a held identifier: the length of the payload in bytes.
pub(crate) fn decode_held(value: &[u8]) -> Result<u32, BadRecord> {
    let mut decoder = Decoder::new(value);
    let bytes = decoder.varint32()?;
    whole(decoder, bytes)
}

fn whole<T>(decoder: Decoder<'_>, row: T) -> Result<T, BadRecord> {
    if decoder.is_at_end() { Ok(row) } else { Err(bad("a row has bytes to spare")) }
}

/// The position up to which the rows contain a shard's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// The number of the last segment.
    pub number: u64,
    /// The sequence of its last frame. 0 if it is unknown.
    pub last_sequence: u64,
}

/// The summary of all rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// At least the highest number of a message, delivery, session or intent.
    pub highest: u64,
    /// At least the highest stamp of a retained message.
    pub last_stamp: Option<Stamp>,
    /// The epoch of the start whose log was applied last. 0 if there is none.
    pub epoch: u64,
    /// The number of shards in that epoch.
    pub shards: u16,
    /// The seed of that epoch.
    pub seed: u64,
    /// Epoch → the latest time of a frame, on the log's clock. It is the last sign of life of that start, for
    /// the sessions that were connected then.
    pub walls: BTreeMap<u64, u64>,
    /// Shard → how far its log of that epoch is applied.
    pub logs: BTreeMap<u16, LogPosition>,
    /// Shard → the highest number of an intent in its log of that epoch.
    pub intents: BTreeMap<u16, u64>,
    /// The last reading of the machine's clocks.
    pub clock: Option<ClockMark>,
}

/// The key of the only row of [`Table::Meta`].
pub(crate) const META_KEY: &[u8] = b"state";
/// The format of the rows that are written, for all tables: see FORMAT.md. A new kind of row needs a new
/// version too.
const META_VERSION: u8 = 2;
/// The oldest format that is read: the previous one, but not older than the first that was released.
const META_VERSION_OLDEST: u8 = 2;
/// The formats that are read.
pub const META_VERSIONS: RangeInclusive<u8> = META_VERSION_OLDEST..=META_VERSION;

impl Meta {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(META_VERSION);
        for number in [
            self.highest,
            self.last_stamp.map_or(0, Stamp::get),
            self.epoch,
            u64::from(self.shards),
            self.seed,
        ] {
            put_varint(out, number);
        }
        put_varint(out, self.walls.len() as u64);
        for (&epoch, &millis) in &self.walls {
            put_varint(out, epoch);
            put_varint(out, millis);
        }
        put_varint(out, self.logs.len() as u64);
        for (&shard, mark) in &self.logs {
            put_varint(out, u64::from(shard));
            put_varint(out, mark.number);
            put_varint(out, mark.last_sequence);
        }
        put_varint(out, self.intents.len() as u64);
        for (&shard, &number) in &self.intents {
            put_varint(out, u64::from(shard));
            put_varint(out, number);
        }
        if let Some(mark) = &self.clock {
            put_clock(out, mark);
        }
    }

    /// The version of the rows if this midge does not read it. It is the first byte in every version.
    pub fn other_version(value: &[u8]) -> Option<u8> {
        value.first().copied().filter(|version| !META_VERSIONS.contains(version))
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Meta, BadRecord> {
        let mut decoder = Decoder::new(value);
        if !(META_VERSION_OLDEST..=META_VERSION).contains(&decoder.byte()?) {
            return Err(bad("it was written by another version of midge"));
        }
        let mut meta = Meta {
            highest: decoder.varint()?,
            last_stamp: Stamp::from_number(decoder.varint()?),
            epoch: decoder.varint()?,
            shards: shard(decoder.varint()?)?,
            seed: decoder.varint()?,
            ..Meta::default()
        };
        for _ in 0..decoder.varint()? {
            meta.walls.insert(decoder.varint()?, decoder.varint()?);
        }
        for _ in 0..decoder.varint()? {
            let shard = shard(decoder.varint()?)?;
            let mark = LogPosition { number: decoder.varint()?, last_sequence: decoder.varint()? };
            meta.logs.insert(shard, mark);
        }
        for _ in 0..decoder.varint()? {
            meta.intents.insert(shard(decoder.varint()?)?, decoder.varint()?);
        }
        // An earlier version had no clock.
        if !decoder.is_at_end() {
            meta.clock = Some(decoder.clock()?);
        }
        whole(decoder, meta)
    }
}

fn shard(number: u64) -> Result<u16, BadRecord> {
    u16::try_from(number).map_err(|_| bad("a shard is above 16 bits"))
}

#[cfg(test)]
mod tests {
    use super::super::ClockReading;
    use super::super::record::tests::message;
    use super::*;
    use crate::base::nth;
    use smallvec::smallvec;

    fn encoded(encode: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out);
        out
    }

    #[test]
    fn rows_come_back_as_they_were_and_none_is_read_when_cut() {
        let message = message("a/b", b"payload");
        let will = StoredWill { message, delay_seconds: 7, message_expiry_seconds: Some(9) };
        for presence in [Presence::Connected { epoch: 300 }, Presence::Left { at_millis: u64::MAX }] {
            let row = SessionRow {
                version: ProtocolVersion::V5,
                expiry_seconds: u32::MAX,
                presence,
                client_id: "ä",
                will: Some(will),
            };
            let bytes = encoded(|out| row.encode(out));
            assert_eq!(SessionRow::decode(&bytes), Ok(row));
            assert!((0..bytes.len()).all(|len| SessionRow::decode(&bytes[..len]).is_err()));
        }
        let losses = Losses::new([1, 0, u32::MAX, 300], LossTimes { first_millis: 7, last_millis: u64::MAX });
        let bytes = encoded(|out| encode_losses(&losses, out));
        assert_eq!(decode_losses(&bytes), Ok(losses));
        assert!((0..bytes.len()).all(|len| decode_losses(&bytes[..len]).is_err()));
        let row = WillRow { client_id: "ä", will };
        let bytes = encoded(|out| row.encode(out));
        assert_eq!(WillRow::decode(&bytes), Ok(row));
        assert!((0..bytes.len()).all(|len| WillRow::decode(&bytes[..len]).is_err()));
        let row = RetainedRow { stamp: nth(7), message };
        let bytes = encoded(|out| row.encode(out));
        assert_eq!(RetainedRow::decode(b"a/b", &bytes), Ok(row));
        let row = IntentRow { targets: 1 << 127, stamp: Some(nth(1)), group: "$share/g/a", message };
        let bytes = encoded(|out| row.encode(out));
        assert_eq!(IntentRow::decode(&bytes), Ok(row));
        assert!((0..bytes.len()).all(|len| IntentRow::decode(&bytes[..len]).is_err()));
        for subscription_ids in [smallvec![], smallvec![1, u32::MAX]] {
            for packet_id in [0, 9].map(PacketId::new) {
                let row = DeliveryRow {
                    message: nth(1 << 50),
                    qos: QoS::ExactlyOnce,
                    retain: true,
                    packet_id,
                    released: packet_id.is_some(),
                    subscription_ids: SmallVec::clone(&subscription_ids),
                    group: if packet_id.is_some() { "$share/g/ä" } else { "" },
                };
                assert_eq!(DeliveryRow::decode(&encoded(|out| row.encode(out))), Ok(row));
            }
        }
    }

    #[test]
    fn the_usual_delivery_takes_no_allocation() {
        let row = DeliveryRow {
            message: nth(1 << 55),
            qos: QoS::AtLeastOnce,
            retain: false,
            packet_id: Some(PacketId::MAX),
            released: false,
            subscription_ids: smallvec![],
            group: "",
        };
        assert!(!Row::from_slice(&encoded(|out| row.encode(out))).spilled());
    }

    #[test]
    fn meta_comes_back_as_it_was() {
        let meta = Meta {
            highest: u64::MAX,
            last_stamp: Some(nth(1)),
            epoch: 2,
            shards: 128,
            seed: u64::MAX,
            walls: [(1, 10), (2, 20)].into(),
            logs: [(0, LogPosition { number: 3, last_sequence: 4 }), (127, LogPosition::default())].into(),
            intents: [(5, 6)].into(),
            clock: None,
        };
        let earlier = encoded(|out| meta.encode(out));
        assert_eq!(Meta::decode(&earlier), Ok(meta.clone()));
        assert!((0..earlier.len()).all(|len| Meta::decode(&earlier[..len]).is_err()));
        let reading = ClockReading { wall_millis: 0, boot: u64::MAX, boot_millis: 1 };
        let meta = Meta { clock: Some(ClockMark { at_millis: 9, reading }), ..meta };
        let bytes = encoded(|out| meta.encode(out));
        assert_eq!(Meta::decode(&bytes), Ok(meta));
        let cut = (0..bytes.len()).filter(|&len| len != earlier.len());
        assert!(cut.clone().all(|len| Meta::decode(&bytes[..len]).is_err()));
    }
}
