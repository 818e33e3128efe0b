//! Application messages: borrowed while they pass through, owned if they must outlive the read buffer.
//!
//! A [`Publication`] borrows from the bytes that a client has sent, from a stored [`Message`], or from a
//! will. Routing and encoding work on it, so a QoS 0 message that nobody has to keep is only copied into the
//! send arena. A [`Message`] is one allocation (topic name, forwarded properties and payload together) that
//! shards share by reference count.

use crate::base::{SessionKey, Stamp, Time, allocated};
use crate::mqtt::QoS;
use bytes::Bytes;

/// A borrowed message on its way.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// The topic name.
    pub topic: &'a str,
    /// The properties that are forwarded unaltered, as raw bytes. `[MQTT5-3.3.2-17]`
    pub forward: [&'a [u8]; 3],
    /// The application message.
    pub payload: &'a [u8],
    /// The publisher's QoS.
    pub qos: QoS,
    /// The publisher's RETAIN flag.
    pub retain: bool,
    /// The end of the message expiry interval.
    pub expires_at: Option<Time>,
    /// The session that has published it, for No Local. `None` for messages of the broker itself.
    pub origin: Option<SessionKey>,
    /// The order among the retained messages of one topic, over all shards. `None` if it is not retained.
    pub stamp: Option<Stamp>,
    /// The publisher, as bytes. It is for retained messages that are only sent as long as the publisher may
    /// publish them. It is nearly always empty.
    pub source: &'a [u8],
}

/// A message that is kept: queued, inflight, retained, or on its way to another shard.
#[derive(Clone)]
pub struct Message {
    body: Bytes,
    topic_len: u16,
    properties_len: u32,
    qos: QoS,
    /// The bits [`RETAIN`] and [`SOURCE`].
    marks: u8,
    expires_at: Option<Time>,
    origin: Option<SessionKey>,
    stamp: Option<Stamp>,
}

/// The publisher's RETAIN flag.
const RETAIN: u8 = 1;
/// The source follows the payload, and its length follows in four bytes.
const SOURCE: u8 = 2;

/// The record of a kept message, the reference count of its body, and one place in a queue or window. These
/// grow by doubling.
const RECORD_BYTES: usize = allocated(size_of::<Message>() + 24) + allocated(24) + PLACE_BYTES;
const PLACE_BYTES: usize = 48;

impl Publication<'_> {
    /// Copies the borrowed parts into one allocation.
    pub fn to_message(&self) -> Message {
        let properties_len: usize = self.forward.iter().map(|run| run.len()).sum();
        let mut body = Vec::with_capacity(self.topic.len() + properties_len + self.payload.len());
        body.extend_from_slice(self.topic.as_bytes());
        for run in self.forward {
            body.extend_from_slice(run);
        }
        body.extend_from_slice(self.payload);
        let mut marks = if self.retain { RETAIN } else { 0 };
        if !self.source.is_empty() {
            marks |= SOURCE;
            let len = u32::try_from(self.source.len()).expect("two texts have less than 2^18 bytes");
            body.reserve_exact(self.source.len() + 4);
            body.extend_from_slice(self.source);
            body.extend_from_slice(&len.to_le_bytes());
        }
        Message {
            body: Bytes::from(body),
            topic_len: u16::try_from(self.topic.len()).expect("a topic name has at most 65,535 bytes"),
            properties_len: u32::try_from(properties_len).expect("a packet has less than 2^28 bytes"),
            qos: self.qos,
            marks,
            expires_at: self.expires_at,
            origin: self.origin,
            stamp: self.stamp,
        }
    }

    /// Whether the message expiry interval has passed. `[MQTT5-3.3.2-5]`
    pub fn is_expired(&self, now: Time) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// The interval to send on: the received one minus the time that the message has waited.
    /// `[MQTT5-3.3.2-6]`
    pub fn expiry_seconds_left(&self, now: Time) -> Option<u32> {
        self.expires_at.map(|at| at.seconds_left(now))
    }
}

impl Message {
    /// The message in borrowed form.
    pub fn as_publication(&self) -> Publication<'_> {
        let (body, source) = self.split_source();
        let (topic, rest) = body.split_at(usize::from(self.topic_len));
        let (properties, payload) = rest.split_at(self.properties_len as usize);
        Publication {
            topic: std::str::from_utf8(topic).expect("a message's topic name was UTF-8 when it came in"),
            forward: [properties, &[], &[]],
            payload,
            qos: self.qos,
            retain: self.is_retained(),
            expires_at: self.expires_at,
            origin: self.origin,
            stamp: self.stamp,
            source,
        }
    }

    fn split_source(&self) -> (&[u8], &[u8]) {
        if self.marks & SOURCE == 0 {
            return (&self.body, &[]);
        }
        let (rest, len) = self.body.split_last_chunk().expect("the mark says that a length is there");
        rest.split_at(rest.len() - u32::from_le_bytes(*len) as usize)
    }

    /// The publisher. See [`Publication::source`].
    pub fn source(&self) -> &[u8] {
        self.split_source().1
    }

    /// The length of the payload in bytes.
    pub fn payload_len(&self) -> usize {
        let source = if self.marks & SOURCE == 0 { 0 } else { self.source().len() + 4 };
        self.body.len() - usize::from(self.topic_len) - self.properties_len as usize - source
    }

    /// The publisher's QoS.
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// The session that has published it.
    pub fn origin(&self) -> Option<SessionKey> {
        self.origin
    }

    /// The publisher's RETAIN flag.
    pub fn is_retained(&self) -> bool {
        self.marks & RETAIN != 0
    }

    /// Whether the message expiry interval has passed.
    pub fn is_expired(&self, now: Time) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// The size of the message for every limit in bytes: what the allocator takes for its body and for the
    /// record, with a place in a queue.
    pub fn bytes(&self) -> usize {
        allocated(self.body.len()) + RECORD_BYTES
    }

    /// Its position in the order of its topic's retained messages.
    pub fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    /// The time at which it expires.
    pub fn expires_at(&self) -> Option<Time> {
        self.expires_at
    }
}

impl std::fmt::Debug for Message {
    // Payloads must never be logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Message({} bytes, {:?})", self.body.len(), self.qos)
    }
}
