//! Properties of 5.0 in packets from clients: which packet may have which, how often, and in what range.
//!
//! At the property length, the decoder of a packet passes on its `Reader` and takes the properties one by
//! one, already checked against the table of section 2.2.2.2. The properties of a PUBLISH or a will that must
//! be forwarded unaltered are collected as ranges of the raw bytes.

use super::wire::{FieldReader, Sink, put_binary};
use super::{DecodeError, Fault};
use crate::mqtt::{TopicError, check_topic_name};

/// The identifiers of section 2.2.2.2.
pub(super) mod id {
    pub(in crate::mqtt::codec) const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
    pub(in crate::mqtt::codec) const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
    pub(in crate::mqtt::codec) const CONTENT_TYPE: u8 = 0x03;
    pub(in crate::mqtt::codec) const RESPONSE_TOPIC: u8 = 0x08;
    pub(in crate::mqtt::codec) const CORRELATION_DATA: u8 = 0x09;
    pub(in crate::mqtt::codec) const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
    pub(in crate::mqtt::codec) const SESSION_EXPIRY_INTERVAL: u8 = 0x11;
    pub(in crate::mqtt::codec) const ASSIGNED_CLIENT_IDENTIFIER: u8 = 0x12;
    pub(in crate::mqtt::codec) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(in crate::mqtt::codec) const AUTHENTICATION_METHOD: u8 = 0x15;
    pub(in crate::mqtt::codec) const AUTHENTICATION_DATA: u8 = 0x16;
    pub(in crate::mqtt::codec) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub(in crate::mqtt::codec) const WILL_DELAY_INTERVAL: u8 = 0x18;
    pub(in crate::mqtt::codec) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub(in crate::mqtt::codec) const RESPONSE_INFORMATION: u8 = 0x1A;
    pub(in crate::mqtt::codec) const SERVER_REFERENCE: u8 = 0x1C;
    pub(in crate::mqtt::codec) const REASON_STRING: u8 = 0x1F;
    pub(in crate::mqtt::codec) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(in crate::mqtt::codec) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(in crate::mqtt::codec) const TOPIC_ALIAS: u8 = 0x23;
    pub(in crate::mqtt::codec) const MAXIMUM_QOS: u8 = 0x24;
    pub(in crate::mqtt::codec) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(in crate::mqtt::codec) const USER_PROPERTY: u8 = 0x26;
    pub(in crate::mqtt::codec) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub(in crate::mqtt::codec) const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
    pub(in crate::mqtt::codec) const SUBSCRIPTION_IDENTIFIER_AVAILABLE: u8 = 0x29;
    pub(in crate::mqtt::codec) const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2A;
}

/// A set of properties, one bit each.
#[derive(Clone, Copy, Debug)]
pub(super) struct PropertySet(u64);

impl PropertySet {
    const fn of(ids: &[u8]) -> PropertySet {
        let (mut bits, mut at) = (0, 0);
        while at < ids.len() {
            bits |= 1 << ids[at];
            at += 1;
        }
        PropertySet(bits)
    }

    pub(super) const CONNECT: PropertySet = PropertySet::of(&[
        id::SESSION_EXPIRY_INTERVAL,
        id::AUTHENTICATION_METHOD,
        id::AUTHENTICATION_DATA,
        id::REQUEST_PROBLEM_INFORMATION,
        id::REQUEST_RESPONSE_INFORMATION,
        id::RECEIVE_MAXIMUM,
        id::TOPIC_ALIAS_MAXIMUM,
        id::USER_PROPERTY,
        id::MAXIMUM_PACKET_SIZE,
    ]);
    pub(super) const WILL: PropertySet = PropertySet::of(&[
        id::PAYLOAD_FORMAT_INDICATOR,
        id::MESSAGE_EXPIRY_INTERVAL,
        id::CONTENT_TYPE,
        id::RESPONSE_TOPIC,
        id::CORRELATION_DATA,
        id::WILL_DELAY_INTERVAL,
        id::USER_PROPERTY,
    ]);
    /// The subscription identifier is in the set although clients may not send it: the decoder refuses it.
    pub(super) const PUBLISH: PropertySet = PropertySet::of(&[
        id::PAYLOAD_FORMAT_INDICATOR,
        id::MESSAGE_EXPIRY_INTERVAL,
        id::CONTENT_TYPE,
        id::RESPONSE_TOPIC,
        id::CORRELATION_DATA,
        id::SUBSCRIPTION_IDENTIFIER,
        id::TOPIC_ALIAS,
        id::USER_PROPERTY,
    ]);
    pub(super) const ACK: PropertySet = PropertySet::of(&[id::REASON_STRING, id::USER_PROPERTY]);
    pub(super) const SUBSCRIBE: PropertySet =
        PropertySet::of(&[id::SUBSCRIPTION_IDENTIFIER, id::USER_PROPERTY]);
    pub(super) const UNSUBSCRIBE: PropertySet = PropertySet::of(&[id::USER_PROPERTY]);
    /// The server reference is in the set although clients may not send it: the decoder refuses it.
    pub(super) const DISCONNECT: PropertySet = PropertySet::of(&[
        id::SESSION_EXPIRY_INTERVAL,
        id::SERVER_REFERENCE,
        id::REASON_STRING,
        id::USER_PROPERTY,
    ]);
    pub(super) const AUTH: PropertySet = PropertySet::of(&[
        id::AUTHENTICATION_METHOD,
        id::AUTHENTICATION_DATA,
        id::REASON_STRING,
        id::USER_PROPERTY,
    ]);
}

/// One property. If only a subscriber reads its value, the value is not here.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::enum_variant_names, reason = "User Property is the standard's word")]
pub(super) enum Property<'a> {
    PayloadFormatIndicator(u8),
    MessageExpiryInterval(u32),
    ContentType,
    ResponseTopic(&'a str),
    CorrelationData,
    SubscriptionIdentifier(u32),
    SessionExpiryInterval(u32),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(u8),
    WillDelayInterval(u32),
    RequestResponseInformation(u8),
    ReasonString,
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    UserProperty,
    MaximumPacketSize(u32),
    ServerReference,
    /// A property that is only allowed in CONNACK.
    OfConnack,
}

impl<'a> Property<'a> {
    /// Reads the identifier and the value. The bytes are consumed even if the property is not allowed.
    fn read(reader: &mut FieldReader<'a>) -> Result<(u8, Property<'a>), DecodeError> {
        let unknown = DecodeError::malformed("unknown property");
        let id = u8::try_from(reader.varint()?).map_err(|_| unknown)?;
        let property = match id {
            id::PAYLOAD_FORMAT_INDICATOR => Property::PayloadFormatIndicator(reader.u8()?),
            id::MESSAGE_EXPIRY_INTERVAL => Property::MessageExpiryInterval(reader.u32()?),
            // [MQTT5-3.3.2-19]
            id::CONTENT_TYPE => reader.text().map(|_| Property::ContentType)?,
            // [MQTT5-3.3.2-13]
            id::RESPONSE_TOPIC => Property::ResponseTopic(reader.text()?),
            id::CORRELATION_DATA => reader.binary().map(|_| Property::CorrelationData)?,
            id::SUBSCRIPTION_IDENTIFIER => Property::SubscriptionIdentifier(reader.varint()?),
            id::SESSION_EXPIRY_INTERVAL => Property::SessionExpiryInterval(reader.u32()?),
            id::AUTHENTICATION_METHOD => Property::AuthenticationMethod(reader.text()?),
            id::AUTHENTICATION_DATA => Property::AuthenticationData(reader.binary()?),
            id::REQUEST_PROBLEM_INFORMATION => Property::RequestProblemInformation(reader.u8()?),
            id::WILL_DELAY_INTERVAL => Property::WillDelayInterval(reader.u32()?),
            id::REQUEST_RESPONSE_INFORMATION => Property::RequestResponseInformation(reader.u8()?),
            id::REASON_STRING => reader.text().map(|_| Property::ReasonString)?,
            id::RECEIVE_MAXIMUM => Property::ReceiveMaximum(reader.u16()?),
            id::TOPIC_ALIAS_MAXIMUM => Property::TopicAliasMaximum(reader.u16()?),
            id::TOPIC_ALIAS => Property::TopicAlias(reader.u16()?),
            id::USER_PROPERTY => {
                // [MQTT5-1.5.7-1]
                reader.text()?;
                reader.text()?;
                Property::UserProperty
            }
            id::MAXIMUM_PACKET_SIZE => Property::MaximumPacketSize(reader.u32()?),
            id::SERVER_REFERENCE => reader.text().map(|_| Property::ServerReference)?,
            id::ASSIGNED_CLIENT_IDENTIFIER | id::RESPONSE_INFORMATION => {
                reader.text().map(|_| Property::OfConnack)?
            }
            id::SERVER_KEEP_ALIVE => reader.u16().map(|_| Property::OfConnack)?,
            id::MAXIMUM_QOS
            | id::RETAIN_AVAILABLE
            | id::WILDCARD_SUBSCRIPTION_AVAILABLE
            | id::SUBSCRIPTION_IDENTIFIER_AVAILABLE
            | id::SHARED_SUBSCRIPTION_AVAILABLE => reader.u8().map(|_| Property::OfConnack)?,
            _ => return Err(unknown),
        };
        Ok((id, property))
    }

    /// Refuses values that section 3 calls protocol errors, each in the paragraph of its property.
    fn check_range(&self) -> Result<(), DecodeError> {
        match self {
            Property::PayloadFormatIndicator(2..) => {
                Err(DecodeError::protocol("payload format indicator above 1"))
            }
            Property::RequestProblemInformation(2..) => {
                Err(DecodeError::protocol("request problem information above 1"))
            }
            Property::RequestResponseInformation(2..) => {
                Err(DecodeError::protocol("request response information above 1"))
            }
            Property::SubscriptionIdentifier(0) => Err(DecodeError::protocol("subscription identifier 0")),
            Property::ReceiveMaximum(0) => Err(DecodeError::protocol("receive maximum 0")),
            Property::MaximumPacketSize(0) => Err(DecodeError::protocol("maximum packet size 0")),
            // [MQTT5-3.3.2-8]
            Property::TopicAlias(0) => {
                Err(DecodeError { fault: Fault::TopicAliasInvalid, cause: "topic alias 0" })
            }
            // [MQTT5-3.3.2-14]
            Property::ResponseTopic(topic) => check_topic_name(topic).map_err(|error| match error {
                TopicError::Empty | TopicError::Wildcard => {
                    DecodeError::protocol("response topic is no topic name")
                }
                TopicError::ControlCharacter => {
                    DecodeError::malformed("control character or non-character in a response topic")
                }
            }),
            _ => Ok(()),
        }
    }
}

/// The properties of one packet, in order.
#[derive(Debug)]
pub(super) struct Properties<'a> {
    raw: &'a [u8],
    reader: FieldReader<'a>,
    allowed: PropertySet,
    seen: u64,
    /// The start in `raw` of the property that was read last.
    last_start: usize,
    forward: [&'a [u8]; 3],
    cuts: usize,
    run_start: usize,
}

impl<'a> Properties<'a> {
    /// Reads the property length and takes the properties from the front of `reader`.
    pub(super) fn parse(
        reader: &mut FieldReader<'a>,
        allowed: PropertySet,
    ) -> Result<Properties<'a>, DecodeError> {
        let len = reader.varint()?;
        let raw = reader.take(len as usize)?;
        Ok(Properties {
            raw,
            reader: FieldReader::new(raw),
            allowed,
            seen: 0,
            last_start: 0,
            forward: [&[]; 3],
            cuts: 0,
            run_start: 0,
        })
    }

    /// The next property, checked.
    pub(super) fn read_next(&mut self) -> Result<Option<Property<'a>>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        self.last_start = self.position();
        let (id, property) = Property::read(&mut self.reader)?;
        let bit = 1 << id;
        if self.allowed.0 & bit == 0 {
            return Err(DecodeError::malformed("property not allowed in this packet"));
        }
        if self.seen & bit != 0 && id != id::USER_PROPERTY {
            return Err(DecodeError::protocol("property twice"));
        }
        self.seen |= bit;
        property.check_range()?;
        Ok(Some(property))
    }

    /// The next property of a packet that midge has encoded.
    pub(super) fn read_unchecked(&mut self) -> Result<Option<Property<'a>>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        Property::read(&mut self.reader).map(|(_, property)| Some(property))
    }

    /// Checks all properties of a packet from which the server uses none.
    pub(super) fn skip(mut self) -> Result<(), DecodeError> {
        while self.read_next()?.is_some() {}
        Ok(())
    }

    /// Excludes the property that was read last from forwarding. At most two per packet, because each
    /// property that is excluded may occur only once.
    pub(super) fn cut(&mut self) {
        debug_assert!(self.cuts < 2, "three runs lie around two cuts");
        self.forward[self.cuts] = &self.raw[self.run_start..self.last_start];
        self.cuts += 1;
        self.run_start = self.position();
    }

    /// The properties that were not excluded, as ranges of raw bytes in the publisher's order.
    pub(super) fn into_forward(self) -> [&'a [u8]; 3] {
        let mut forward = self.forward;
        forward[self.cuts] = &self.raw[self.run_start..];
        forward
    }

    fn position(&self) -> usize {
        self.raw.len() - self.reader.rest().len()
    }
}

/// The properties of a PUBLISH that another broker has stored.
#[derive(Debug, Default)]
pub struct KeptProperties {
    /// The forwarded properties, as raw bytes.
    pub forward: Vec<u8>,
    /// The subscription identifier.
    pub subscription_id: Option<u32>,
}

/// Reads these properties, which begin with their length.
///
/// # Errors
/// The same as for a PUBLISH.
pub fn read_kept_properties(bytes: &[u8]) -> Result<KeptProperties, DecodeError> {
    let mut reader = FieldReader::new(bytes);
    let mut properties = Properties::parse(&mut reader, PropertySet::PUBLISH)?;
    reader.finish()?;
    let mut kept = KeptProperties::default();
    while let Some(property) = properties.read_next()? {
        match property {
            Property::SubscriptionIdentifier(id) => kept.subscription_id = Some(id),
            // These were meant for the broker that has stored the message.
            Property::TopicAlias(_) | Property::MessageExpiryInterval(_) => {}
            _ => {
                kept.forward.extend_from_slice(&properties.raw[properties.last_start..properties.position()])
            }
        }
    }
    Ok(kept)
}

pub(super) fn put_u8(out: &mut impl Sink, id: u8, value: Option<u8>) {
    if let Some(value) = value {
        out.put(&[id, value]);
    }
}

pub(super) fn put_u16(out: &mut impl Sink, id: u8, value: Option<u16>) {
    if let Some(value) = value {
        let [high, low] = value.to_be_bytes();
        out.put(&[id, high, low]);
    }
}

pub(super) fn put_u32(out: &mut impl Sink, id: u8, value: Option<u32>) {
    if let Some(value) = value {
        let [a, b, c, d] = value.to_be_bytes();
        out.put(&[id, a, b, c, d]);
    }
}

/// Appends a string or binary data.
pub(super) fn put_bytes(out: &mut impl Sink, id: u8, value: Option<&[u8]>) {
    if let Some(value) = value {
        out.put(&[id]);
        put_binary(out, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each identifier with a valid value.
    fn samples() -> Vec<(u8, Vec<u8>)> {
        let byte = [0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A].map(|id| (id, vec![1]));
        let two = [0x13, 0x21, 0x22, 0x23].map(|id| (id, vec![0, 5]));
        let four = [0x02, 0x11, 0x18, 0x27].map(|id| (id, vec![0, 0, 1, 2]));
        let text = [0x03, 0x08, 0x12, 0x15, 0x1A, 0x1C, 0x1F].map(|id| (id, vec![0, 1, b'p']));
        let binary = [0x09, 0x16].map(|id| (id, vec![0, 3, 0x00, 0xFF, 0x80]));
        let rest = [(0x0B, vec![0xFF, 0x7F]), (0x26, vec![0, 1, b'k', 0, 0])];
        byte.into_iter().chain(two).chain(four).chain(text).chain(binary).chain(rest).collect()
    }

    fn judge(allowed: PropertySet, raw: &[u8]) -> Result<(), Fault> {
        let mut field = vec![raw.len() as u8];
        field.extend_from_slice(raw);
        let mut reader = FieldReader::new(&field);
        Properties::parse(&mut reader, allowed).and_then(Properties::skip).map_err(|error| error.fault)
    }

    // Sections 2.2.2.2 and 3.x.2: the table, truncated values, duplicates
    #[test]
    fn each_packet_takes_its_own_properties_once_and_no_others() {
        let packets: [(PropertySet, &[u8]); 8] = [
            (PropertySet::CONNECT, &[0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27]),
            (PropertySet::WILL, &[0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26]),
            (PropertySet::PUBLISH, &[0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x23, 0x26]),
            (PropertySet::ACK, &[0x1F, 0x26]),
            (PropertySet::SUBSCRIBE, &[0x0B, 0x26]),
            (PropertySet::UNSUBSCRIBE, &[0x26]),
            (PropertySet::DISCONNECT, &[0x11, 0x1C, 0x1F, 0x26]),
            (PropertySet::AUTH, &[0x15, 0x16, 0x1F, 0x26]),
        ];
        for (set, ids) in packets {
            for (id, value) in samples() {
                let mut raw = vec![id];
                raw.extend_from_slice(&value);
                let once = judge(set, &raw);
                assert_eq!(once, if ids.contains(&id) { Ok(()) } else { Err(Fault::Malformed) }, "{id:#x}");
                for cut in 1..raw.len() {
                    assert_eq!(judge(set, &raw[..cut]), Err(Fault::Malformed), "{id:#x} cut at {cut}");
                }
                if ids.contains(&id) {
                    let twice = judge(set, &raw.repeat(2));
                    assert_eq!(twice, if id == 0x26 { Ok(()) } else { Err(Fault::Protocol) }, "{id:#x}");
                }
            }
        }
    }

    #[test]
    fn unknown_identifiers_are_malformed_in_every_length() {
        let known: Vec<u8> = samples().into_iter().map(|(id, _)| id).collect();
        for id in (0..0x80).filter(|id| !known.contains(id)) {
            assert_eq!(judge(PropertySet::PUBLISH, &[id, 1]), Err(Fault::Malformed), "{id:#x}");
        }
        for long in
            [&[0x80, 0x00][..], &[0x80, 0x01], &[0xFF, 0xFF, 0xFF, 0x7F], &[0x80, 0x80, 0x80, 0x80, 1]]
        {
            assert_eq!(judge(PropertySet::PUBLISH, long), Err(Fault::Malformed));
        }
    }

    // [MQTT5-3.3.2-8] [MQTT5-3.3.2-14] and the ranges of section 3.1.2.11
    #[test]
    fn values_out_of_range_get_the_code_of_their_paragraph() {
        for (set, raw, fault) in [
            (PropertySet::PUBLISH, &[0x01, 2][..], Fault::Protocol),
            (PropertySet::PUBLISH, &[0x23, 0, 0], Fault::TopicAliasInvalid),
            (PropertySet::PUBLISH, &[0x08, 0, 0], Fault::Protocol),
            (PropertySet::PUBLISH, &[0x08, 0, 3, b'a', b'/', b'#'], Fault::Protocol),
            (PropertySet::PUBLISH, &[0x08, 0, 2, b'a', 0x01], Fault::Malformed),
            (PropertySet::PUBLISH, &[0x08, 0, 1, 0xFF], Fault::Malformed),
            (PropertySet::PUBLISH, &[0x03, 0, 1, 0xFF], Fault::Malformed),
            (PropertySet::PUBLISH, &[0x26, 0, 1, b'k', 0, 1, 0x00], Fault::Malformed),
            (PropertySet::CONNECT, &[0x17, 2], Fault::Protocol),
            (PropertySet::CONNECT, &[0x19, 2], Fault::Protocol),
            (PropertySet::CONNECT, &[0x21, 0, 0], Fault::Protocol),
            (PropertySet::CONNECT, &[0x27, 0, 0, 0, 0], Fault::Protocol),
            (PropertySet::SUBSCRIBE, &[0x0B, 0], Fault::Protocol),
            (PropertySet::SUBSCRIBE, &[0x0B, 0x80, 0x00], Fault::Malformed),
        ] {
            assert_eq!(judge(set, raw), Err(fault), "{raw:x?}");
        }
    }
}
