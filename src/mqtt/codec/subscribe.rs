//! SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK.
//!
//! Decoding checks every filter once. The resulting iterators read the same bytes again and allocate nothing.
//! Implements sections 3.8 to 3.11.

use super::property::{Properties, Property, PropertySet};
use super::wire::{FieldReader, Sink, packet_len, put_varint};
use super::{DecodeError, Fault, Frame, PacketId, ProtocolVersion, QoS, Reason};
use crate::mqtt::SubscriptionId;
use crate::mqtt::{FilterError, RetainHandling, SubscriptionOptions, TopicFilter};

/// A SUBSCRIBE whose filters have all been checked.
#[derive(Clone, Debug)]
pub struct Subscribe<'a> {
    /// The identifier that SUBACK must repeat. `[MQTT5-3.8.4-2]` `[MQTT311-3.8.4-2]`
    pub packet_id: PacketId,
    /// The Subscription Identifier, if there is one.
    pub subscription_id: Option<SubscriptionId>,
    /// At least one filter.
    pub filters: SubscribeFilters<'a>,
}

/// Iterates over the filters in order. It can't fail, because `decode` has already read them.
#[derive(Clone, Debug)]
pub struct SubscribeFilters<'a> {
    rest: &'a [u8],
    version: ProtocolVersion,
}

/// One filter and its options.
#[derive(Clone, Copy, Debug)]
pub struct SubscribeFilter<'a> {
    /// The checked filter.
    pub filter: TopicFilter<'a>,
    /// 3.x only has the QoS. The other options have the meaning of zeros in section 3.8.3.1 of 5.0.
    pub options: SubscriptionOptions,
}

/// An UNSUBSCRIBE whose filters have all been checked.
#[derive(Clone, Debug)]
pub struct Unsubscribe<'a> {
    /// The identifier that UNSUBACK must repeat. `[MQTT5-3.10.4-5]` `[MQTT311-3.10.4-4]`
    pub packet_id: PacketId,
    /// At least one filter.
    pub filters: UnsubscribeFilters<'a>,
}

/// Iterates over the filters in order. It can't fail, because `decode` has already read them.
#[derive(Clone, Debug)]
pub struct UnsubscribeFilters<'a> {
    rest: &'a [u8],
}

impl<'a> Subscribe<'a> {
    /// Decodes the frame of a SUBSCRIBE.
    ///
    /// # Errors
    /// Malformed for wrong flags, lengths and properties, the packet identifier 0, reserved option bits, and
    /// filters that break the grammar. Protocol for a packet without filters, QoS 3, retain handling 3, a bad
    /// share name, and No Local on a shared filter.
    pub fn decode(version: ProtocolVersion, frame: Frame<'a>) -> Result<Subscribe<'a>, DecodeError> {
        // [MQTT5-3.8.1-1] [MQTT311-3.8.1-1]
        frame.check_flags(version, 0b0010)?;
        frame.check_length(version)?;
        let mut reader = FieldReader::new(frame.body);
        let packet_id = reader.packet_id(PACKET_ID_ZERO)?;
        let mut subscription_id = None;
        if version == ProtocolVersion::V5 {
            let mut properties = Properties::parse(&mut reader, PropertySet::SUBSCRIBE)?;
            while let Some(property) = properties.read_next()? {
                if let Property::SubscriptionIdentifier(id) = property {
                    subscription_id = SubscriptionId::new(id);
                }
            }
        }
        let filters = SubscribeFilters { rest: reader.rest(), version };
        // [MQTT5-3.8.3-2] [MQTT311-3.8.3-3]
        check_not_empty(&reader)?;
        let mut count = 0;
        while !reader.is_empty() {
            read_subscription(&mut reader, version)?;
            check_count(&mut count)?;
        }
        Ok(Subscribe { packet_id, subscription_id, filters })
    }
}

impl<'a> Unsubscribe<'a> {
    /// Decodes the frame of an UNSUBSCRIBE.
    ///
    /// # Errors
    /// Malformed for wrong flags, lengths and properties, the packet identifier 0, and filters that break the
    /// grammar. Protocol for a packet without filters, and for a bad share name.
    pub fn decode(version: ProtocolVersion, frame: Frame<'a>) -> Result<Unsubscribe<'a>, DecodeError> {
        // [MQTT5-3.10.1-1] [MQTT311-3.10.1-1]
        frame.check_flags(version, 0b0010)?;
        frame.check_length(version)?;
        let mut reader = FieldReader::new(frame.body);
        let packet_id = reader.packet_id(PACKET_ID_ZERO)?;
        if version == ProtocolVersion::V5 {
            Properties::parse(&mut reader, PropertySet::UNSUBSCRIBE)?.skip()?;
        }
        let filters = UnsubscribeFilters { rest: reader.rest() };
        // [MQTT5-3.10.3-2] [MQTT311-3.10.3-2]
        check_not_empty(&reader)?;
        let mut count = 0;
        while !reader.is_empty() {
            read_filter(&mut reader)?;
            check_count(&mut count)?;
        }
        Ok(Unsubscribe { packet_id, filters })
    }
}

/// The largest number of filters in a packet. Reading more, even to refuse them, would block other clients.
const FILTERS_MAX: usize = 32_768;

fn check_count(count: &mut usize) -> Result<(), DecodeError> {
    *count += 1;
    if *count > FILTERS_MAX {
        return Err(DecodeError {
            fault: Fault::TooMany,
            cause: "more than 32,768 topic filters in one packet",
        });
    }
    Ok(())
}

impl<'a> SubscribeFilters<'a> {
    /// Continues an iterator over a checked packet that has stopped at these bytes.
    pub fn go_on(rest: &'a [u8], version: ProtocolVersion) -> SubscribeFilters<'a> {
        SubscribeFilters { rest, version }
    }

    /// The bytes that have not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> UnsubscribeFilters<'a> {
    /// Continues an iterator over a checked packet that has stopped at these bytes.
    pub fn go_on(rest: &'a [u8]) -> UnsubscribeFilters<'a> {
        UnsubscribeFilters { rest }
    }

    /// The bytes that have not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for SubscribeFilters<'a> {
    type Item = SubscribeFilter<'a>;

    fn next(&mut self) -> Option<SubscribeFilter<'a>> {
        let mut reader = FieldReader::new(self.rest);
        let subscription = read_subscription(&mut reader, self.version).ok()?;
        self.rest = reader.rest();
        Some(subscription)
    }
}

impl<'a> Iterator for UnsubscribeFilters<'a> {
    type Item = TopicFilter<'a>;

    fn next(&mut self) -> Option<TopicFilter<'a>> {
        let mut reader = FieldReader::new(self.rest);
        let filter = read_filter(&mut reader).ok()?;
        self.rest = reader.rest();
        Some(filter)
    }
}

/// The standard defines no code for the identifier 0 here. [MQTT5-2.2.1-3] [MQTT311-2.3.1-1] midge uses
/// mosquitto's.
const PACKET_ID_ZERO: DecodeError = DecodeError::malformed("packet identifier 0");

fn check_not_empty(reader: &FieldReader<'_>) -> Result<(), DecodeError> {
    if reader.is_empty() { Err(DecodeError::protocol("no topic filter")) } else { Ok(()) }
}

/// Reads a filter and its options byte.
fn read_subscription<'a>(
    reader: &mut FieldReader<'a>,
    version: ProtocolVersion,
) -> Result<SubscribeFilter<'a>, DecodeError> {
    let filter = read_filter(reader)?;
    let byte = reader.u8()?;
    let options = if version == ProtocolVersion::V5 { options_v5(byte)? } else { options_v3(byte)? };
    if options.no_local && filter.shared().is_some() {
        // [MQTT5-3.8.3-4]
        return Err(DecodeError::protocol("No Local on a shared subscription"));
    }
    Ok(SubscribeFilter { filter, options })
}

fn read_filter<'a>(reader: &mut FieldReader<'a>) -> Result<TopicFilter<'a>, DecodeError> {
    // [MQTT5-3.8.3-1] [MQTT5-3.10.3-1] [MQTT311-3.8.3-1] [MQTT311-3.10.3-1]
    TopicFilter::parse(reader.utf8()?).map_err(|error| match error {
        // [MQTT5-4.7.3-1] [MQTT311-4.7.3-1]
        FilterError::Empty => DecodeError::malformed("empty topic filter"),
        // [MQTT5-4.7.1-1] [MQTT5-4.7.1-2] [MQTT311-4.7.1-2] [MQTT311-4.7.1-3]
        FilterError::Wildcard => DecodeError::malformed("misplaced wildcard in a topic filter"),
        FilterError::ControlCharacter => {
            DecodeError::malformed("control character or non-character in a topic filter")
        }
        // [MQTT5-4.8.2-1] [MQTT5-4.8.2-2]
        FilterError::ShareName => DecodeError::protocol("shared subscription without name or filter"),
    })
}

fn options_v5(byte: u8) -> Result<SubscriptionOptions, DecodeError> {
    if byte & 0xC0 != 0 {
        // [MQTT5-3.8.3-5]
        return Err(DecodeError::malformed("reserved bits of the subscription options"));
    }
    // Section 3.8.3.1 makes both values 3 a protocol error.
    let qos = QoS::from_bits(byte & 0b11).ok_or(DecodeError::protocol("subscription of QoS 3"))?;
    let retain_handling = match byte >> 4 {
        0 => RetainHandling::Always,
        1 => RetainHandling::IfNew,
        2 => RetainHandling::Never,
        _ => return Err(DecodeError::protocol("retain handling 3")),
    };
    Ok(SubscriptionOptions {
        qos,
        no_local: byte & 0b0100 != 0,
        retain_as_published: byte & 0b1000 != 0,
        retain_handling,
    })
}

fn options_v3(byte: u8) -> Result<SubscriptionOptions, DecodeError> {
    // [MQTT311-3.8.3-4]
    let qos = QoS::from_bits(byte).ok_or(DecodeError::malformed("requested QoS above 2"))?;
    Ok(SubscriptionOptions {
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Always,
    })
}

/// Appends a SUBACK, with one code per filter in the order of the request. `[MQTT5-3.8.4-6]`
/// `[MQTT5-3.9.3-1]` `[MQTT311-3.8.4-5]` `[MQTT311-3.9.3-1]`
///
/// In 3.1.1 every failure is 0x80. The caller never passes a failure for 3.1, which has no code for it.
pub fn encode_suback(out: &mut Vec<u8>, version: ProtocolVersion, packet_id: PacketId, codes: &[Reason]) {
    debug_assert!(version > ProtocolVersion::V31 || !codes.iter().any(|code| code.is_error()));
    put_ack_head(out, 0x90, version, packet_id, codes.len());
    if version == ProtocolVersion::V5 {
        out.extend(codes.iter().map(|code| code.code()));
    } else {
        // [MQTT311-3.9.3-2]
        out.extend(codes.iter().map(|code| if code.is_error() { 0x80 } else { code.code() }));
    }
}

/// Appends an UNSUBACK, in 5.0 with one code per filter in the order of the request, in 3.x without codes.
/// `[MQTT5-3.11.3-1]` `[MQTT311-3.10.4-4]`
pub fn encode_unsuback(out: &mut Vec<u8>, version: ProtocolVersion, packet_id: PacketId, codes: &[Reason]) {
    let codes = if version == ProtocolVersion::V5 { codes } else { &[] };
    put_ack_head(out, 0xB0, version, packet_id, codes.len());
    out.extend(codes.iter().map(|code| code.code()));
}

/// Appends the fixed header, the packet identifier and, in 5.0, empty properties. `[MQTT5-2.2.2-1]`
fn put_ack_head(
    out: &mut Vec<u8>,
    first_byte: u8,
    version: ProtocolVersion,
    packet_id: PacketId,
    codes_len: usize,
) {
    let properties_len = usize::from(version == ProtocolVersion::V5);
    let remaining_len = 2 + properties_len + codes_len;
    out.reserve(packet_len(remaining_len));
    out.push(first_byte);
    put_varint(out, remaining_len);
    out.put(&packet_id.get().to_be_bytes());
    if version == ProtocolVersion::V5 {
        out.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fault, Framing, Packet, decode, frame};
    use super::*;
    use ProtocolVersion::{V5, V31, V311};

    fn read(version: ProtocolVersion, bytes: &[u8]) -> Result<Packet<'_>, Fault> {
        let Ok(Framing::Whole(frame)) = frame(bytes, bytes.len()) else { panic!("not one packet") };
        decode(version, frame).map_err(|error| error.fault)
    }

    fn subscribe(version: ProtocolVersion, bytes: &[u8]) -> Subscribe<'_> {
        match read(version, bytes) {
            Ok(Packet::Subscribe(packet)) => packet,
            other => panic!("{other:?}"),
        }
    }

    fn fault(version: ProtocolVersion, bytes: &[u8]) -> Fault {
        read(version, bytes).err().unwrap_or_else(|| panic!("accepted {bytes:x?}"))
    }

    /// A packet whose payload has the filters, each followed by `options`.
    fn packet(version: ProtocolVersion, first: u8, filters: &[&[u8]], options: &[u8]) -> Vec<u8> {
        let mut body = vec![0, 10];
        if version == V5 {
            body.push(0);
        }
        for filter in filters {
            body.put(&(filter.len() as u16).to_be_bytes());
            body.put(filter);
            body.put(options);
        }
        let mut out = vec![first, body.len() as u8];
        out.put(&body);
        out
    }

    fn id(value: u16) -> PacketId {
        PacketId::new(value).expect("not zero")
    }

    // Figures 3.20 and 3.22 of 5.0: identifier 10, a/b with QoS 1, c/d with QoS 2
    #[test]
    fn the_example_of_the_standard_is_read_in_order() {
        let v5 = [0x82, 15, 0, 10, 0, 0, 3, b'a', b'/', b'b', 0x01, 0, 3, b'c', b'/', b'd', 0x02];
        let v3 = [0x82, 14, 0, 10, 0, 3, b'a', b'/', b'b', 0x01, 0, 3, b'c', b'/', b'd', 0x02];
        for (version, bytes) in [(V31, &v3[..]), (V311, &v3), (V5, &v5)] {
            let got = subscribe(version, bytes);
            assert_eq!((got.packet_id, got.subscription_id), (id(10), None));
            let filters: Vec<_> = got.filters.map(|f| (f.filter.as_str(), f.options.qos)).collect();
            assert_eq!(filters, [("a/b", QoS::AtLeastOnce), ("c/d", QoS::ExactlyOnce)]);
        }
    }

    // Section 3.8.3.1
    #[test]
    fn every_legal_options_byte_is_taken_apart_and_no_other_accepted() {
        for byte in 0..=u8::MAX {
            let bytes = packet(V5, 0x82, &[b"t"], &[byte]);
            if byte & 0xC0 != 0 {
                assert_eq!(fault(V5, &bytes), Fault::Malformed, "{byte:#x}"); // [MQTT5-3.8.3-5]
            } else if byte & 3 == 3 || byte >> 4 == 3 {
                assert_eq!(fault(V5, &bytes), Fault::Protocol, "{byte:#x}");
            } else {
                let filter = subscribe(V5, &bytes).filters.next().expect("one");
                let options = filter.options;
                let again = options.qos as u8
                    | u8::from(options.no_local) << 2
                    | u8::from(options.retain_as_published) << 3
                    | (options.retain_handling as u8) << 4;
                assert_eq!(again, byte);
            }
            let bytes = packet(V311, 0x82, &[b"t"], &[byte]);
            assert_eq!(read(V311, &bytes).is_ok(), byte < 3); // [MQTT311-3.8.3-4]
        }
    }

    // [MQTT5-3.8.1-1] [MQTT5-3.10.1-1] [MQTT311-3.8.1-1] [MQTT311-3.10.1-1] and rows 3.1-g, 3.1-h
    #[test]
    fn flags_are_0010_but_3_1_may_set_dup() {
        for flags in (0..16).filter(|flags| *flags != 2) {
            for version in [V311, V5] {
                assert_eq!(fault(version, &packet(version, 0x80 | flags, &[b"t"], &[0])), Fault::Malformed);
                assert_eq!(fault(version, &packet(version, 0xA0 | flags, &[b"t"], &[])), Fault::Malformed);
            }
            assert!(read(V31, &packet(V31, 0x80 | flags, &[b"t"], &[0])).is_ok());
            assert!(read(V31, &packet(V31, 0xA0 | flags, &[b"t"], &[])).is_ok());
        }
    }

    // [MQTT5-3.8.3-2] [MQTT5-3.10.3-2] [MQTT5-2.2.1-3] and section 3.8.3
    #[test]
    fn packets_without_filter_identifier_or_options_are_refused() {
        for version in [V31, V311, V5] {
            assert_eq!(fault(version, &packet(version, 0x82, &[], &[])), Fault::Protocol);
            assert_eq!(fault(version, &packet(version, 0xA2, &[], &[])), Fault::Protocol);
            assert_eq!(fault(version, &packet(version, 0x82, &[b"t"], &[])), Fault::Malformed);
            assert_eq!(fault(version, &packet(version, 0xA2, &[b"t"], &[9])), Fault::Malformed);
            assert_eq!(fault(version, &[0x82, 6, 0, 0, 0, 0, 0, 0]), Fault::Malformed);
            assert_eq!(fault(version, &[0xA2, 6, 0, 0, 0, 0, 0, 0]), Fault::Malformed);
            assert_eq!(fault(version, &[0x82, 0]), Fault::Malformed);
            assert_eq!(fault(version, &[0xA2, 1, 0]), Fault::Malformed);
        }
    }

    // [MQTT5-3.8.3-1] [MQTT5-3.10.3-1] [MQTT5-4.7.1-1] [MQTT5-4.7.1-2] [MQTT5-4.7.3-1] [MQTT5-4.7.3-2]
    #[test]
    fn one_bad_filter_among_good_ones_refuses_the_packet() {
        let bad: [&[u8]; 9] =
            [b"", b"a#", b"a/#/b", b"ab/+e", b"a\0", b"a\x01", b"\xED\xA0\x80", b"\xFF", b"\xEF\xBF\xBF"];
        for version in [V311, V5] {
            for filter in bad {
                for filters in [[filter, b"ok"], [b"ok", filter]] {
                    assert_eq!(fault(version, &packet(version, 0x82, &filters, &[0])), Fault::Malformed);
                    assert_eq!(fault(version, &packet(version, 0xA2, &filters, &[])), Fault::Malformed);
                }
            }
        }
    }

    // [MQTT5-3.8.3-4] [MQTT5-4.8.2-1] [MQTT5-4.8.2-2]
    #[test]
    fn shared_filters_are_checked_and_exclude_no_local() {
        assert_eq!(fault(V5, &packet(V5, 0x82, &[b"$share/p/p"], &[0x04])), Fault::Protocol);
        assert!(read(V5, &packet(V5, 0x82, &[b"$share/p/p"], &[0])).is_ok());
        assert!(read(V311, &packet(V311, 0x82, &[b"$share/share/#"], &[0])).is_ok());
        assert_eq!(fault(V5, &packet(V5, 0x82, &[b"$share//t"], &[0])), Fault::Protocol);
    }

    // Section 3.8.2.1.2
    #[test]
    fn the_subscription_identifier_is_read_and_zero_or_two_are_refused() {
        let largest = [0x82, 12, 0, 1, 5, 0x0B, 0xFF, 0xFF, 0xFF, 0x7F, 0, 1, b'p', 0];
        assert_eq!(subscribe(V5, &largest).subscription_id, SubscriptionId::new(268_435_455));
        assert_eq!(fault(V5, &[0x82, 9, 0, 1, 2, 0x0B, 0, 0, 1, b'p', 0]), Fault::Protocol);
        assert_eq!(fault(V5, &[0x82, 11, 0, 1, 4, 0x0B, 1, 0x0B, 1, 0, 1, b'p', 0]), Fault::Protocol);
        assert_eq!(fault(V5, &[0x82, 9, 0, 1, 2, 0x01, 1, 0, 1, b'p', 0]), Fault::Malformed);
        assert_eq!(fault(V5, &[0xA2, 8, 0, 1, 2, 0x0B, 1, 0, 1, b'p']), Fault::Malformed);
    }

    #[test]
    fn unsubscribe_lists_its_filters() {
        for version in [V31, V311, V5] {
            let bytes = packet(version, 0xA2, &[b"a/+", b"$share/g/b"], &[]);
            match read(version, &bytes) {
                Ok(Packet::Unsubscribe(got)) => {
                    assert_eq!(got.packet_id, id(10));
                    let filters: Vec<_> = got.filters.map(TopicFilter::as_str).collect();
                    assert_eq!(filters, ["a/+", "$share/g/b"]);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    // [MQTT5-2.2.1-6] [MQTT5-3.9.3-1] [MQTT5-3.11.3-1] [MQTT311-2.3.1-7] [MQTT311-3.9.3-2]
    #[test]
    fn suback_and_unsuback_are_written_as_each_version_has_them() {
        let codes = [Reason::Success, Reason::GrantedQoS1, Reason::GrantedQoS2, Reason::NotAuthorized];
        let mut out = Vec::new();
        encode_suback(&mut out, V5, id(256), &codes);
        assert_eq!(out, [0x90, 7, 1, 0, 0, 0, 1, 2, 0x87]);
        out.clear();
        encode_suback(&mut out, V311, id(256), &codes);
        assert_eq!(out, [0x90, 6, 1, 0, 0, 1, 2, 0x80]);
        out.clear();
        encode_suback(&mut out, V31, id(256), &codes[..3]);
        assert_eq!(out, [0x90, 5, 1, 0, 0, 1, 2]);
        let codes = [Reason::Success, Reason::NoSubscriptionExisted];
        out.clear();
        encode_unsuback(&mut out, V5, id(65_535), &codes);
        assert_eq!(out, [0xB0, 5, 0xFF, 0xFF, 0, 0, 0x11]);
        out.clear();
        encode_unsuback(&mut out, V311, id(65_535), &codes);
        assert_eq!(out, [0xB0, 2, 0xFF, 0xFF]);
    }
}
