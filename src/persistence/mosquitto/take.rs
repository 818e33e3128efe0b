//! Converts a database of mosquitto to midge's records, and decides what is taken and what is left out.
//!
//! The output is records in frames, as in a log. They are applied to rows like the records of a log.
//! Everything that was acknowledged is taken. A message without an acknowledgement may be left out, because
//! its sender sends it again.

use super::{Database, Left, MosquittoDelivery, MosquittoMessage, MosquittoSession, Takings, state};
use crate::base::{MessageNumber, Numbered, SessionNumber, Stamp};
use crate::broker::source_bytes;
use crate::mqtt::codec::read_kept_properties;
use crate::mqtt::{PacketId, ProtocolVersion, QoS, SubscriptionId};
use crate::mqtt::{
    RetainHandling, SubscriptionOptions, TopicFilter, check_topic_name, filter_matches,
    has_forbidden_character,
};
use crate::store::record::{Encoder, put_varint};
use crate::store::{ClockMark, ClockReading, Record, StoreError, StoredMessage};
use smallvec::{SmallVec, smallvec};
use std::collections::{BTreeMap, BTreeSet};

/// Facts that the conversion needs and that are not in the file.
#[derive(Debug)]
pub struct ImportTerms<'a> {
    /// The machine's clocks. midge's clock of the new state begins here.
    pub now: ClockReading,
    /// When the file was written, in seconds since 1970.
    pub written_seconds: i64,
    /// The ports of midge's listeners, in their order. They identify the listeners of the publishers of
    /// retained messages.
    pub ports: &'a [u16],
}

/// Converts a database. The caller must apply each frame before the next one is produced.
///
/// # Errors
/// The errors of `apply`.
pub fn take(
    database: &Database<'_>,
    terms: &ImportTerms<'_>,
    apply: &mut dyn FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<Takings, StoreError> {
    let takings = Takings::default();
    let mut taker = Taker {
        database,
        terms,
        frame: Frame { body: Vec::new(), encoder: Encoder::default(), apply },
        takings,
        highest: 0,
        last_stamp: 0,
        numbers: BTreeMap::new(),
        subscriptions: Vec::new(),
        held: Vec::new(),
    };
    taker
        .frame
        .put(terms.now, &Record::Clock(ClockMark { at_millis: terms.now.wall_millis, reading: terms.now }));
    for session in &database.sessions {
        taker.take_session(session)?;
    }
    taker.take_retained()?;
    taker.pass_on()?;
    taker.leave_many(Left::Stray, database.strays);
    taker.leave_many(Left::Unknown, database.unknown);
    taker.frame.end()?;
    Ok(taker.takings)
}

/// The size at which a frame ends, after a complete item of mosquitto.
const FRAME_BYTES_WANTED: usize = 32 << 10;

/// Collects records.
struct Frame<'a> {
    body: Vec<u8>,
    encoder: Encoder,
    apply: &'a mut dyn FnMut(&[u8]) -> Result<(), StoreError>,
}

impl Frame<'_> {
    fn put(&mut self, now: ClockReading, record: &Record<'_>) {
        if self.body.is_empty() {
            put_varint(&mut self.body, now.wall_millis);
            self.encoder.begin_frame();
        }
        self.encoder.encode(&mut self.body, record);
    }

    fn end_if_long(&mut self) -> Result<(), StoreError> {
        if self.body.len() >= FRAME_BYTES_WANTED { self.end() } else { Ok(()) }
    }

    fn end(&mut self) -> Result<(), StoreError> {
        if self.body.is_empty() {
            return Ok(());
        }
        (self.apply)(&self.body)?;
        self.body.clear();
        Ok(())
    }
}

/// The state of a message to a client.
enum Way {
    Queued,
    Sent(PacketId),
    Released(PacketId),
}

/// A message from a client that waits for a PUBREL.
struct Held<'a> {
    sid: SessionNumber,
    message: &'a MosquittoMessage<'a>,
    topic: &'a str,
}

/// The combined options of the matching subscriptions of a session.
struct Wanted {
    qos: QoS,
    retain_as_published: bool,
    subscription_ids: SmallVec<[u32; 4]>,
}

struct Taker<'a> {
    database: &'a Database<'a>,
    terms: &'a ImportTerms<'a>,
    frame: Frame<'a>,
    takings: Takings,
    /// The last number given to a session, message or delivery.
    highest: u64,
    last_stamp: u64,
    /// midge's number for each of mosquitto's message identifiers. `None` if the message can't be taken.
    numbers: BTreeMap<u64, Option<MessageNumber>>,
    /// All subscriptions that were taken, with their sessions.
    subscriptions: Vec<(SessionNumber, TopicFilter<'a>, SubscriptionOptions, Option<SubscriptionId>)>,
    held: Vec<Held<'a>>,
}

impl<'a> Taker<'a> {
    fn put(&mut self, record: &Record<'_>) {
        self.frame.put(self.terms.now, record);
    }

    fn leave(&mut self, left: Left) {
        self.leave_many(left, 1);
    }

    fn leave_many(&mut self, left: Left, count: u64) {
        if count > 0 {
            *self.takings.left.entry(left).or_default() += count;
        }
    }

    fn next_number<N: Numbered>(&mut self) -> N {
        self.highest += 1;
        N::from_number(self.highest).expect("numbers count from 1")
    }

    fn take_session(&mut self, session: &'a MosquittoSession<'a>) -> Result<(), StoreError> {
        let Some(client_id) = client_id_of(session.client_id) else {
            self.leave(Left::ClientId);
            return Ok(());
        };
        if is_own_bridge(client_id, session) {
            self.leave(Left::Bridge);
            return Ok(());
        }
        let (left_seconds, expiry_seconds) = match lifetime(session, self.terms) {
            Ok(lifetime) => lifetime,
            Err(left) => {
                self.leave(left);
                return Ok(());
            }
        };
        let sid = self.next_number();
        // The file does not contain the protocol version of a client. Clients of 3.x have sessions that do
        // not end.
        let is_5 = session.expiry_seconds != u32::MAX;
        let version = if is_5 { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
        self.put(&Record::Session { sid, client_id, version, expiry_seconds, will: None });
        self.put(&Record::Left { sid, at_millis: millis(left_seconds), expiry_seconds });
        self.takings.sessions += 1;
        self.take_subscriptions(sid, session)?;
        self.take_deliveries(sid, session)
    }

    fn take_subscriptions(
        &mut self,
        sid: SessionNumber,
        session: &'a MosquittoSession<'a>,
    ) -> Result<(), StoreError> {
        for subscription in &session.subscriptions {
            let filter = std::str::from_utf8(subscription.filter).ok();
            let filter = filter.and_then(|filter| TopicFilter::parse(filter).ok());
            let (Some(filter), Some(options)) = (filter, options_of(subscription.options)) else {
                self.leave(Left::Filter);
                continue;
            };
            let subscription_id = SubscriptionId::new(subscription.identifier & SUBSCRIPTION_ID_MAX);
            self.put(&Record::Subscribed { sid, filter: filter.as_str(), options, subscription_id });
            self.subscriptions.push((sid, filter, options, subscription_id));
            self.takings.subscriptions += 1;
            self.frame.end_if_long()?;
        }
        Ok(())
    }

    fn take_deliveries(
        &mut self,
        sid: SessionNumber,
        session: &'a MosquittoSession<'a>,
    ) -> Result<(), StoreError> {
        // Outgoing and incoming messages have separate packet identifiers.
        let mut packet_ids = [BTreeSet::new(), BTreeSet::new()];
        for delivery in &session.deliveries {
            let of_direction = &mut packet_ids[usize::from(delivery.is_outgoing)];
            let packet_id = PacketId::new(delivery.packet_id).filter(|&id| of_direction.insert(id));
            let done = match self.database.messages.get(&delivery.message) {
                // mosquitto left it out of the file because it has expired.
                None => Err(Left::MessageExpired),
                Some(message) if delivery.is_outgoing => {
                    self.take_outgoing(sid, delivery, message, packet_id)
                }
                Some(message) => self.take_incoming(sid, delivery, message, packet_id),
            };
            if let Err(left) = done {
                self.leave(left);
            }
            self.frame.end_if_long()?;
        }
        Ok(())
    }

    fn take_outgoing(
        &mut self,
        sid: SessionNumber,
        delivery: &MosquittoDelivery<'_>,
        message: &'a MosquittoMessage<'a>,
        packet_id: Option<PacketId>,
    ) -> Result<(), Left> {
        let qos = QoS::from_bits(delivery.qos).ok_or(Left::Message)?;
        let way = way_of(qos, delivery, packet_id)?;
        // A message that was sent before is completed. [MQTT5-3.3.2-5]
        if matches!(way, Way::Queued) && self.is_expired(message) {
            return Err(Left::MessageExpired);
        }
        let ids = match delivery.properties {
            [] => None,
            properties => read_kept_properties(properties).map_err(|_| Left::Message)?.subscription_id,
        };
        let message = self.number_of(delivery.message, message).ok_or(Left::Message)?;
        let number = self.next_number();
        self.put(&Record::Delivery {
            sid,
            number,
            message,
            qos,
            retain: delivery.retain,
            packet_id: match way {
                Way::Queued => None,
                Way::Sent(id) | Way::Released(id) => Some(id),
            },
            subscription_ids: ids.into_iter().collect(),
            group: "",
        });
        match way {
            Way::Queued => self.takings.queued += 1,
            Way::Sent(_) => self.takings.sent += 1,
            Way::Released(_) => {
                self.put(&Record::Released { sid, number });
                self.takings.released += 1;
            }
        }
        Ok(())
    }

    /// mosquitto forwards a message of QoS 2 when the PUBREL arrives, midge when the PUBLISH arrives. The
    /// client has its PUBREC and won't send the message again, so the message is forwarded now.
    fn take_incoming(
        &mut self,
        sid: SessionNumber,
        delivery: &MosquittoDelivery<'_>,
        message: &'a MosquittoMessage<'a>,
        packet_id: Option<PacketId>,
    ) -> Result<(), Left> {
        match (delivery.qos, delivery.state) {
            (2, state::WAIT_FOR_PUBREL | state::SEND_PUBREC) => {}
            (2, state::QUEUED) => return Err(Left::Unacknowledged),
            _ => return Err(Left::State),
        }
        let packet_id = packet_id.ok_or(Left::State)?;
        let payload_bytes = u32::try_from(message.payload.len()).unwrap_or(u32::MAX);
        self.put(&Record::Held { sid, packet_id, payload_bytes });
        self.takings.held += 1;
        if self.is_expired(message) {
            return Err(Left::MessageExpired);
        }
        // Its properties are checked when it is written.
        let topic = topic_of(message).ok_or(Left::Message)?;
        self.held.push(Held { sid, message, topic });
        Ok(())
    }

    fn is_expired(&self, message: &MosquittoMessage<'_>) -> bool {
        message.expires_at > 0 && millis(message.expires_at) <= self.terms.now.wall_millis
    }

    /// midge's number of a message. The message is written with its first delivery.
    fn number_of(&mut self, id: u64, message: &MosquittoMessage<'_>) -> Option<MessageNumber> {
        if let Some(&number) = self.numbers.get(&id) {
            return number;
        }
        let number = self.put_message(message);
        self.numbers.insert(id, number);
        number
    }

    fn put_message(&mut self, message: &MosquittoMessage<'_>) -> Option<MessageNumber> {
        let topic = topic_of(message)?;
        let properties = properties_of(message)?;
        let number = self.next_number();
        let message = stored(message, topic, &properties, &[])?;
        self.put(&Record::Message { number, message });
        Some(number)
    }

    fn take_retained(&mut self) -> Result<(), StoreError> {
        for id in &self.database.retained {
            let done = match self.database.messages.get(id) {
                None => Err(Left::RetainedExpired),
                Some(message) if self.is_expired(message) => Err(Left::RetainedExpired),
                Some(message) => self.put_retained(message),
            };
            match done {
                Ok(()) => self.takings.retained += 1,
                Err(left) => self.leave(left),
            }
            self.frame.end_if_long()?;
        }
        Ok(())
    }

    fn put_retained(&mut self, message: &MosquittoMessage<'_>) -> Result<(), Left> {
        let topic = topic_of(message).filter(|_| !message.payload.is_empty()).ok_or(Left::Message)?;
        if topic.starts_with("$SYS/") {
            return Err(Left::Own);
        }
        let properties = properties_of(message).ok_or(Left::Message)?;
        // A source without a client identifier is not a client. A name that is not valid text has no
        // permissions.
        let source = match (std::str::from_utf8(message.source), std::str::from_utf8(message.source_user)) {
            (Ok(""), _) => Vec::new(),
            (Ok(client_id), Ok(user)) => {
                let listener = self.terms.ports.iter().position(|port| *port == message.source_port);
                // If no port matches, the first listener is used: without its own access policy, any listener
                // will do.
                let listener = u16::try_from(listener.unwrap_or(0)).unwrap_or(0);
                source_bytes(listener, (!user.is_empty()).then_some(user), client_id)
            }
            _ => return Err(Left::Message),
        };
        let message = stored(message, topic, &properties, &source).ok_or(Left::Message)?;
        self.last_stamp += 1;
        let stamp = Stamp::new(self.last_stamp);
        self.put(&Record::Retained { stamp, message: StoredMessage { retain: true, ..message } });
        Ok(())
    }

    /// Forwards the held messages to the sessions that want them, after all their other messages.
    fn pass_on(&mut self) -> Result<(), StoreError> {
        let held = std::mem::take(&mut self.held);
        let wanted = self.wanted(&held);
        for (held, wanted) in held.iter().zip(wanted) {
            let message = held.message;
            if message.retain {
                if message.payload.is_empty() {
                    // [MQTT5-3.3.1-6]
                    self.put(&Record::Unretained { topic: held.topic });
                } else if let Err(left) = self.put_retained(message) {
                    self.leave(left);
                }
            }
            if !wanted.is_empty() {
                match self.put_message(message) {
                    Some(number) => self.deliver(number, message.retain, wanted),
                    None => self.leave(Left::Message),
                }
            }
            self.frame.end_if_long()?;
        }
        Ok(())
    }

    fn deliver(&mut self, message: MessageNumber, retain: bool, wanted: BTreeMap<SessionNumber, Wanted>) {
        for (sid, Wanted { qos, retain_as_published, subscription_ids }) in wanted {
            let (number, retain) = (self.next_number(), retain_as_published && retain);
            let (packet_id, group) = (None, "");
            self.put(&Record::Delivery {
                sid,
                number,
                message,
                qos,
                retain,
                packet_id,
                subscription_ids,
                group,
            });
            self.takings.passed_on += 1;
        }
    }

    /// For each message, the sessions that receive it with a QoS above 0. A file never contains shared
    /// subscriptions.
    fn wanted(&self, held: &[Held<'_>]) -> Vec<BTreeMap<SessionNumber, Wanted>> {
        let mut by_topic: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, held) in held.iter().enumerate() {
            by_topic.entry(held.topic).or_default().push(at);
        }
        let mut wanted: Vec<BTreeMap<SessionNumber, Wanted>> = held.iter().map(|_| BTreeMap::new()).collect();
        for (sid, filter, options, id) in &self.subscriptions {
            if options.qos == QoS::AtMostOnce || filter.shared().is_some() {
                continue;
            }
            let mut add = |at: usize| {
                // [MQTT5-3.8.3-3]
                if options.no_local && held[at].sid == *sid {
                    return;
                }
                let qos = QoS::AtMostOnce;
                let new = || Wanted { qos, retain_as_published: false, subscription_ids: smallvec![] };
                let wanted = wanted[at].entry(*sid).or_insert_with(new);
                wanted.qos = wanted.qos.max(options.qos);
                wanted.retain_as_published |= options.retain_as_published;
                wanted.subscription_ids.extend(id.map(SubscriptionId::get));
            };
            if filter.has_wildcard() {
                let matching = by_topic.iter().filter(|(topic, _)| filter_matches(filter.as_str(), topic));
                matching.flat_map(|(_, places)| places).for_each(|&at| add(at));
            } else if let Some(places) = by_topic.get(filter.as_str()) {
                places.iter().for_each(|&at| add(at));
            }
        }
        wanted
    }
}

const SUBSCRIPTION_ID_MAX: u32 = 268_435_455;

fn millis(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1000)
}

fn client_id_of(bytes: &[u8]) -> Option<&str> {
    let id = std::str::from_utf8(bytes).ok()?;
    (!id.is_empty() && !has_forbidden_character(id)).then_some(id)
}

/// Whether this is the session of one of mosquitto's own bridges in mosquitto itself. Such a session would
/// take messages forever. It has no listener, and its name begins with `local.` unless local_clientid sets
/// another.
fn is_own_bridge(client_id: &str, session: &MosquittoSession<'_>) -> bool {
    client_id.starts_with("local.") && session.listener_port == 0
}

fn topic_of<'a>(message: &MosquittoMessage<'a>) -> Option<&'a str> {
    let topic = std::str::from_utf8(message.topic).ok()?;
    check_topic_name(topic).ok().map(|()| topic)
}

/// The properties that are forwarded.
fn properties_of(message: &MosquittoMessage<'_>) -> Option<Vec<u8>> {
    match message.properties {
        [] => Some(Vec::new()),
        properties => Some(read_kept_properties(properties).ok()?.forward),
    }
}

fn stored<'a>(
    message: &MosquittoMessage<'a>,
    topic: &'a str,
    properties: &'a [u8],
    source: &'a [u8],
) -> Option<StoredMessage<'a>> {
    Some(StoredMessage {
        topic,
        properties: [properties, &[], &[]],
        payload: message.payload,
        qos: QoS::from_bits(message.qos)?,
        retain: message.retain,
        expires_at_millis: (message.expires_at > 0).then(|| millis(message.expires_at)),
        source,
    })
}

fn options_of(byte: u8) -> Option<SubscriptionOptions> {
    Some(SubscriptionOptions {
        qos: QoS::from_bits(byte & 3)?,
        no_local: byte & 4 != 0,
        retain_as_published: byte & 8 != 0,
        retain_handling: match byte >> 4 & 3 {
            0 => RetainHandling::Always,
            1 => RetainHandling::IfNew,
            2 => RetainHandling::Never,
            _ => return None,
        },
    })
}

/// When the connection of a session ended, and how long the session lasts after that, both in seconds.
fn lifetime(session: &MosquittoSession<'_>, terms: &ImportTerms<'_>) -> Result<(i64, u32), Left> {
    let now = i64::try_from(terms.now.wall_millis / 1000).unwrap_or(i64::MAX);
    let written = terms.written_seconds.clamp(0, now);
    let (left, ends) = match (session.expires_at, session.expiry_seconds) {
        (..=0, u32::MAX) => return Ok((written, u32::MAX)),
        (_, 0) => return Err(Left::SessionEnded),
        // The client was connected when the file was written.
        (..=0, seconds) => (written, written.saturating_add(seconds.into())),
        // persistent_client_expiration ends the session.
        (ends, u32::MAX) => (written, ends),
        (ends, seconds) => (ends.saturating_sub(seconds.into()).clamp(0, now), ends),
    };
    if ends <= now {
        return Err(Left::SessionExpired);
    }
    let seconds = u32::try_from(ends - left).unwrap_or(u32::MAX - 1);
    Ok((left, seconds.clamp(1, u32::MAX - 1)))
}

fn way_of(qos: QoS, delivery: &MosquittoDelivery<'_>, packet_id: Option<PacketId>) -> Result<Way, Left> {
    let on_its_way = |way: fn(PacketId) -> Way| packet_id.map_or(Way::Queued, way);
    Ok(match (qos, delivery.state) {
        (QoS::AtMostOnce, _) => return Err(Left::QoS0),
        (_, state::QUEUED) => Way::Queued,
        (QoS::AtLeastOnce, state::PUBLISH_QOS1) | (QoS::ExactlyOnce, state::PUBLISH_QOS2) => {
            if delivery.dup {
                on_its_way(Way::Sent)
            } else {
                Way::Queued
            }
        }
        (QoS::AtLeastOnce, state::WAIT_FOR_PUBACK) | (QoS::ExactlyOnce, state::WAIT_FOR_PUBREC) => {
            on_its_way(Way::Sent)
        }
        // Without a packet identifier there is no exchange to complete, and the client has the message.
        (QoS::ExactlyOnce, state::RESEND_PUBREL | state::WAIT_FOR_PUBCOMP) => {
            Way::Released(packet_id.ok_or(Left::State)?)
        }
        _ => return Err(Left::State),
    })
}
