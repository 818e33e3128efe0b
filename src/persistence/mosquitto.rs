//! Reads a database of mosquitto (`mosquitto.db`) for users who move to midge: retained messages, sessions,
//! subscriptions and pending messages.
//!
//! The input is the bytes of the file. The output is a [`Database`] that borrows from them, or the position
//! of the first error. Formats 2 to 6 are supported: 6 is the format of mosquitto 2.0 and 2.1, and the others
//! are those that mosquitto 2 still reads. This module checks only the form. [`take`] decides what midge can
//! use.
//!
//! A file is a head and chunks. Numbers are big-endian, except for identifiers of messages and for times,
//! which have the byte order of the machine that wrote the file.

mod take;
mod takings;
#[allow(clippy::disallowed_methods, reason = "the store owns its files")]
mod write;

pub use take::{ImportTerms, take};
pub use takings::{Left, Takings};
pub use write::import;

use std::collections::BTreeMap;
use std::fmt;

/// An error: the bytes are not a database of mosquitto.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadDatabase {
    /// The offset of the error, from 0.
    pub at: usize,
    /// What is wrong.
    pub cause: &'static str,
}

impl fmt::Display for BadDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}", self.at, self.cause)
    }
}

impl std::error::Error for BadDatabase {}

/// A complete database. Texts are bytes, because nothing has checked them.
#[derive(Debug, Default)]
pub struct Database<'a> {
    /// The format.
    pub version: u32,
    /// Whether mosquitto wrote it at its end. If not, mosquitto may still run, or was killed.
    pub is_final: bool,
    /// Persistent sessions, each once, in the order of the file.
    pub sessions: Vec<MosquittoSession<'a>>,
    /// Messages by their identifier.
    pub messages: BTreeMap<u64, MosquittoMessage<'a>>,
    /// The identifiers of the retained messages.
    pub retained: Vec<u64>,
    /// The number of messages and subscriptions of clients that have no session in the file.
    pub strays: u64,
    /// The number of chunks of an unknown kind.
    pub unknown: u64,
    by_client: BTreeMap<&'a [u8], usize>,
}

/// A session.
#[derive(Debug, Default)]
pub struct MosquittoSession<'a> {
    /// The client identifier.
    pub client_id: &'a [u8],
    /// When it ends, in seconds since 1970. 0 if its client was connected or if it does not end.
    pub expires_at: i64,
    /// The Session Expiry Interval in seconds. `u32::MAX` if it does not end; clients of 3.x have this value.
    pub expiry_seconds: u32,
    /// The port of the listener that its client connected to. 0 if it is unknown or there is none.
    pub listener_port: u16,
    /// Its subscriptions.
    pub subscriptions: Vec<MosquittoSubscription<'a>>,
    /// Its messages, in order: first those that are in an exchange, by direction, then those that are queued.
    pub deliveries: Vec<MosquittoDelivery<'a>>,
}

/// A subscription.
#[derive(Clone, Copy, Debug)]
pub struct MosquittoSubscription<'a> {
    /// The topic filter.
    pub filter: &'a [u8],
    /// The Subscription Options in the encoding of SUBSCRIBE.
    pub options: u8,
    /// The subscription identifier. 0 if there is none.
    pub identifier: u32,
}

/// A message.
#[derive(Clone, Copy, Debug)]
pub struct MosquittoMessage<'a> {
    /// The topic name.
    pub topic: &'a [u8],
    /// The application message.
    pub payload: &'a [u8],
    /// The properties, preceded by their length. Empty if there are none.
    pub properties: &'a [u8],
    /// The client identifier of the publisher. Empty if it is unknown.
    pub source: &'a [u8],
    /// The user name of the publisher. Empty if there is none.
    pub source_user: &'a [u8],
    /// The port of the listener that received it. 0 if it is unknown.
    pub source_port: u16,
    /// When it expires, in seconds since 1970. 0 if never.
    pub expires_at: i64,
    /// The QoS of the publisher.
    pub qos: u8,
    /// The RETAIN flag of the publisher.
    pub retain: bool,
}

/// A message of a session.
#[derive(Clone, Copy, Debug)]
pub struct MosquittoDelivery<'a> {
    /// The identifier of the message. The message may be missing: mosquitto leaves out expired messages.
    pub message: u64,
    /// The packet identifier.
    pub packet_id: u16,
    /// The QoS with which it is sent or was received.
    pub qos: u8,
    /// The state of its exchange; see [`state`].
    pub state: u8,
    /// The RETAIN flag with which it is sent.
    pub retain: bool,
    /// Whether it was sent before.
    pub dup: bool,
    /// Whether it goes to the client. If not, it comes from the client.
    pub is_outgoing: bool,
    /// The properties, preceded by their length: the subscription identifier.
    pub properties: &'a [u8],
}

/// The states of a [`MosquittoDelivery`], with mosquitto's numbers.
pub mod state {
    /// A PUBLISH of QoS 1 must be sent.
    pub const PUBLISH_QOS1: u8 = 2;
    /// A PUBACK is expected.
    pub const WAIT_FOR_PUBACK: u8 = 3;
    /// A PUBLISH of QoS 2 must be sent.
    pub const PUBLISH_QOS2: u8 = 4;
    /// A PUBREC is expected.
    pub const WAIT_FOR_PUBREC: u8 = 5;
    /// A PUBREC was received; the PUBREL must be sent again.
    pub const RESEND_PUBREL: u8 = 6;
    /// A PUBREC was sent; a PUBREL is expected.
    pub const WAIT_FOR_PUBREL: u8 = 7;
    /// A PUBREC was received; a PUBCOMP is expected.
    pub const WAIT_FOR_PUBCOMP: u8 = 9;
    /// A PUBREC must be sent.
    pub const SEND_PUBREC: u8 = 10;
    /// The message is queued.
    pub const QUEUED: u8 = 11;
}

/// The first bytes of a file. Four bytes without meaning and the format follow.
const MAGIC: &[u8; 15] = b"\x00\xB5\x00mosquitto db";
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=6;

mod chunk {
    pub(super) const CONFIGURATION: u32 = 1;
    pub(super) const MESSAGE: u32 = 2;
    pub(super) const DELIVERY: u32 = 3;
    pub(super) const RETAINED: u32 = 4;
    pub(super) const SUBSCRIPTION: u32 = 5;
    pub(super) const SESSION: u32 = 6;
    pub(super) const KNOWN: std::ops::RangeInclusive<u32> = CONFIGURATION..=SESSION;
}

impl<'a> Database<'a> {
    /// Reads a complete file.
    ///
    /// # Errors
    /// [`BadDatabase`] if the bytes are not a database or are cut short.
    pub fn parse(bytes: &'a [u8]) -> Result<Database<'a>, BadDatabase> {
        let mut reader = Reader { rest: bytes, at: 0, is_big_endian: false };
        if reader.take(MAGIC.len()).ok() != Some(MAGIC) {
            return Err(BadDatabase { at: 0, cause: "this is no database of mosquitto" });
        }
        reader.u32()?;
        let at = reader.at;
        let version = reader.u32()?;
        if !VERSIONS.contains(&version) {
            return Err(BadDatabase { at, cause: "its format is not one from 2 to 6" });
        }
        let mut database = Database { version, ..Database::default() };
        while !reader.rest.is_empty() {
            database.read_chunk(&mut reader)?;
        }
        Ok(database)
    }

    /// Whether the head of a chunk and the fields before its texts have the layout of format 5.
    fn is_fixed(&self) -> bool {
        self.version >= 5
    }

    fn read_chunk(&mut self, reader: &mut Reader<'a>) -> Result<(), BadDatabase> {
        let kind = if self.is_fixed() { reader.u32()? } else { u32::from(reader.u16()?) };
        let len = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        if !self.is_fixed() && chunk::KNOWN.contains(&kind) {
            // mosquitto has never checked these lengths, and some writers had them wrong.
            let before = reader.rest.len();
            let is_big_endian = self.read_body(kind, reader, len)?;
            debug_assert!(reader.rest.len() < before, "each kind has a field");
            reader.is_big_endian = is_big_endian;
            return Ok(());
        }
        let mut body = Reader { at: reader.at, rest: reader.take(len)?, is_big_endian: reader.is_big_endian };
        reader.is_big_endian = self.read_body(kind, &mut body, len)?;
        Ok(())
    }

    /// Returns whether the rest of the file is big-endian.
    fn read_body(&mut self, kind: u32, body: &mut Reader<'a>, len: usize) -> Result<bool, BadDatabase> {
        match kind {
            chunk::CONFIGURATION => return self.read_configuration(body),
            chunk::MESSAGE => self.read_message(body)?,
            chunk::DELIVERY => self.read_delivery(body)?,
            chunk::RETAINED => self.retained.push(body.native_u64()?),
            chunk::SUBSCRIPTION => self.read_subscription(body)?,
            chunk::SESSION => self.read_session(body, len)?,
            _ => self.unknown += 1,
        }
        Ok(body.is_big_endian)
    }

    /// Returns whether the machine that wrote the file is big-endian. Up to mosquitto 2.0, identifiers count
    /// up from 1. Those of 2.1 are large, and are assumed to be little-endian.
    fn read_configuration(&mut self, body: &mut Reader<'a>) -> Result<bool, BadDatabase> {
        let (last_id, is_final, at, id_bytes);
        if self.is_fixed() {
            last_id = body.native_u64()?;
            is_final = body.u8()? != 0;
            at = body.at;
            id_bytes = body.u8()?;
        } else {
            is_final = body.u8()? != 0;
            at = body.at;
            id_bytes = body.u8()?;
            last_id = body.native_u64()?;
        }
        if id_bytes != 8 {
            return Err(BadDatabase { at, cause: "its message identifiers are not of 8 bytes" });
        }
        self.is_final = is_final;
        let is_counted = |id: u64| id >> 40 == 0;
        Ok(!is_counted(last_id) && is_counted(last_id.swap_bytes()))
    }

    fn read_message(&mut self, body: &mut Reader<'a>) -> Result<(), BadDatabase> {
        let id = body.native_u64()?;
        let message = if self.is_fixed() {
            let expires_at = body.native_u64()?.cast_signed();
            let payload_len = body.u32()?;
            body.u16()?;
            let (source_len, user_len, topic_len) = (body.u16()?, body.u16()?, body.u16()?);
            let source_port = body.u16()?;
            let (qos, retain) = (body.u8()?, body.u8()? != 0);
            MosquittoMessage {
                source: body.take(source_len.into())?,
                source_user: body.take(user_len.into())?,
                topic: body.take(topic_len.into())?,
                payload: body.take(usize::try_from(payload_len).unwrap_or(usize::MAX))?,
                properties: body.rest,
                source_port,
                expires_at,
                qos,
                retain,
            }
        } else {
            let source = body.text()?;
            let (mut source_user, mut source_port) = (&[][..], 0);
            if self.version == 4 {
                source_user = body.text()?;
                source_port = body.u16()?;
            }
            // Packet identifiers, which have no meaning any more.
            body.u32()?;
            let topic = body.text()?;
            let (qos, retain) = (body.u8()?, body.u8()? != 0);
            let payload_len = body.u32()?;
            let payload = body.take(usize::try_from(payload_len).unwrap_or(usize::MAX))?;
            let properties = &[][..];
            MosquittoMessage {
                topic,
                payload,
                properties,
                source,
                source_user,
                source_port,
                expires_at: 0,
                qos,
                retain,
            }
        };
        self.messages.insert(id, message);
        Ok(())
    }

    fn read_delivery(&mut self, body: &mut Reader<'a>) -> Result<(), BadDatabase> {
        let (client_id, delivery);
        if self.is_fixed() {
            let (message, packet_id, id_len) = (body.native_u64()?, body.u16()?, body.u16()?);
            let (qos, state, marks, direction) = (body.u8()?, body.u8()?, body.u8()?, body.u8()?);
            client_id = body.take(id_len.into())?;
            delivery = MosquittoDelivery {
                message,
                packet_id,
                qos,
                state,
                retain: marks >> 4 != 0,
                dup: marks & 0x0F != 0,
                is_outgoing: direction == OUTGOING,
                properties: body.rest,
            };
        } else {
            client_id = body.text()?;
            let (message, packet_id) = (body.native_u64()?, body.u16()?);
            let (qos, retain) = (body.u8()?, body.u8()? != 0);
            let (direction, state, dup) = (body.u8()?, body.u8()?, body.u8()? != 0);
            let is_outgoing = direction == OUTGOING;
            let properties = &[][..];
            delivery =
                MosquittoDelivery { message, packet_id, qos, state, retain, dup, is_outgoing, properties };
        }
        match self.session_of(client_id) {
            Some(session) => session.deliveries.push(delivery),
            None => self.strays += 1,
        }
        Ok(())
    }

    fn read_subscription(&mut self, body: &mut Reader<'a>) -> Result<(), BadDatabase> {
        let (client_id, subscription);
        if self.is_fixed() {
            let (identifier, id_len, filter_len) = (body.u32()?, body.u16()?, body.u16()?);
            let (qos, options) = (body.u8()?, body.u8()?);
            // Padding to a multiple of the largest number.
            body.u16()?;
            client_id = body.take(id_len.into())?;
            let filter = body.take(filter_len.into())?;
            subscription = MosquittoSubscription { filter, options: qos & 3 | options & !3, identifier };
        } else {
            client_id = body.text()?;
            let (filter, options) = (body.text()?, body.u8()?);
            subscription = MosquittoSubscription { filter, options, identifier: 0 };
        }
        match self.session_of(client_id) {
            Some(session) => session.subscriptions.push(subscription),
            None => self.strays += 1,
        }
        Ok(())
    }

    fn read_session(&mut self, body: &mut Reader<'a>, len: usize) -> Result<(), BadDatabase> {
        let (client_id, expires_at, expiry_seconds);
        let mut listener_port = 0;
        if self.is_fixed() {
            expires_at = body.native_u64()?.cast_signed();
            expiry_seconds = body.u32()?;
            // The last packet identifier. midge chooses its own.
            body.u16()?;
            let id_len = usize::from(body.u16()?);
            if self.version >= 6 {
                listener_port = body.u16()?;
                let user_len = usize::from(body.u16()?);
                // Machines that do not align eight-byte values to eight bytes have no padding.
                let filling = body.rest.len().saturating_sub(id_len + user_len);
                body.take(filling.min(FILLING_BYTES_MAX))?;
            }
            client_id = body.take(id_len)?;
        } else {
            let before = body.rest.len();
            client_id = body.text()?;
            body.u16()?;
            // The time at which its client left, in the size of the machine's time type. It is not used any
            // more.
            let is_short = len == before - body.rest.len() + 4;
            body.take(if self.version == 2 { 0 } else { 8 - 4 * usize::from(is_short) })?;
            (expires_at, expiry_seconds) = (0, u32::MAX);
        }
        let next = self.sessions.len();
        let at = *self.by_client.entry(client_id).or_insert(next);
        if at == next {
            self.sessions.push(MosquittoSession { client_id, ..MosquittoSession::default() });
        }
        let session = &mut self.sessions[at];
        (session.expires_at, session.expiry_seconds) = (expires_at, expiry_seconds);
        session.listener_port = listener_port;
        Ok(())
    }

    fn session_of(&mut self, client_id: &[u8]) -> Option<&mut MosquittoSession<'a>> {
        let at = *self.by_client.get(client_id)?;
        self.sessions.get_mut(at)
    }
}

const OUTGOING: u8 = 1;
const FILLING_BYTES_MAX: usize = 4;

/// Reads fields from the front. Every method fails if the bytes end too early.
struct Reader<'a> {
    rest: &'a [u8],
    /// The offset of `rest` in the file.
    at: usize,
    is_big_endian: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], BadDatabase> {
        let cut = BadDatabase { at: self.at, cause: "it ends within a chunk, or a length in it is wrong" };
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(cut)?;
        self.rest = rest;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadDatabase> {
        Ok(self.take(N)?.try_into().expect("so many were taken"))
    }

    fn u8(&mut self) -> Result<u8, BadDatabase> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, BadDatabase> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, BadDatabase> {
        self.array().map(u32::from_be_bytes)
    }

    fn native_u64(&mut self) -> Result<u64, BadDatabase> {
        let bytes = self.array()?;
        Ok(if self.is_big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    fn text(&mut self) -> Result<&'a [u8], BadDatabase> {
        let len = self.u16()?;
        self.take(len.into())
    }
}

#[cfg(test)]
#[path = "mosquitto_tests.rs"]
pub(super) mod tests;
