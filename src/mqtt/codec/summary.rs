//! A packet in words, for an operator who follows a client. It reads packets of both directions, and what it can't
//! read it says.

use super::property::{Properties, Property, PropertySet};
use super::wire::{FieldReader, packet_type};
use super::{Connect, Frame, Packet, PacketId, Publish, SubscribeFilter, decode};
use crate::mqtt::{ProtocolVersion, QoS, Reason, RetainHandling};
use std::fmt::Write;

/// What is shown of a packet.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PacketSummary<'a> {
    /// The name of its type.
    pub packet: &'static str,
    /// Its fields, without a payload and without a password.
    pub words: String,
    /// The topic name of a PUBLISH. Empty if an alias stands for it.
    pub topic: &'a str,
    /// The topic alias of a PUBLISH.
    pub topic_alias: Option<u16>,
    /// The payload of a PUBLISH.
    pub payload: &'a [u8],
    /// The client identifier of a CONNECT.
    pub client_id: Option<&'a str>,
}

/// The number of filters and reason codes that are shown of one packet.
const SHOWN_MAX: usize = 20;

/// The number of characters that are shown of one text.
const CHARACTERS_MAX: usize = 256;

/// A packet that a client has sent.
pub fn summarize_received(version: ProtocolVersion, frame: Frame<'_>) -> PacketSummary<'_> {
    if frame.packet_type() == packet_type::CONNECT {
        return match Connect::decode(frame) {
            Ok(connect) => of_connect(&connect),
            Err(error) => unreadable("CONNECT", error.cause),
        };
    }
    match decode(version, frame) {
        Err(error) => unreadable(name(frame), error.cause),
        Ok(Packet::Publish(publish)) => of_publish(&publish),
        Ok(Packet::Ack(ack)) => plain(name(frame), of_ack(ack.packet_id, ack.reason)),
        Ok(Packet::Subscribe(subscribe)) => {
            let mut words = format!("packet identifier {}", subscribe.packet_id);
            if let Some(id) = subscribe.subscription_id {
                add(&mut words, format_args!(", subscription identifier {}", id.get()));
            }
            list(&mut words, subscribe.filters.map(|wanted| of_filter(&wanted)));
            plain("SUBSCRIBE", words)
        }
        Ok(Packet::Unsubscribe(unsubscribe)) => {
            let mut words = format!("packet identifier {}", unsubscribe.packet_id);
            list(&mut words, unsubscribe.filters.map(|filter| quoted(filter.as_str())));
            plain("UNSUBSCRIBE", words)
        }
        Ok(Packet::Pingreq) => plain("PINGREQ", String::new()),
        Ok(Packet::Disconnect(disconnect)) => {
            let mut words = in_words(disconnect.reason);
            if let Some(seconds) = disconnect.session_expiry_seconds {
                add(&mut words, format_args!(", session expiry {seconds} s"));
            }
            plain("DISCONNECT", words)
        }
        Ok(Packet::Auth(auth)) => {
            plain("AUTH", format!("{}, method {}", in_words(auth.reason), quoted(auth.method)))
        }
    }
}

/// A packet that midge has encoded for a client.
pub fn summarize_sent(version: ProtocolVersion, frame: Frame<'_>) -> PacketSummary<'_> {
    let mut reader = FieldReader::new(frame.body);
    let read = match frame.packet_type() {
        packet_type::PUBLISH => sent_publish(version, frame),
        packet_type::CONNACK => sent_connack(version, &mut reader),
        packet_type::SUBACK | packet_type::UNSUBACK => sent_codes(version, frame, &mut reader),
        packet_type::DISCONNECT => Some(plain("DISCONNECT", reader.u8().map(coded).unwrap_or_default())),
        packet_type::AUTH => Some(plain("AUTH", reader.u8().map(coded).unwrap_or_default())),
        packet_type::PINGRESP => Some(plain("PINGRESP", String::new())),
        _ => reader.u16().ok().map(|id| {
            let reason = reader.u8().map_or(Some(Reason::Success), Reason::from_code);
            let words = format!("packet identifier {id}, {}", reason.map_or_else(String::new, in_words));
            plain(name(frame), words)
        }),
    };
    read.unwrap_or_else(|| unreadable(name(frame), "it is cut off"))
}

fn sent_publish(version: ProtocolVersion, frame: Frame<'_>) -> Option<PacketSummary<'_>> {
    let flags = frame.flags();
    let qos = QoS::from_bits(flags >> 1 & 0b11)?;
    let mut reader = FieldReader::new(frame.body);
    let topic = reader.utf8().ok()?;
    let packet_id = match qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce | QoS::ExactlyOnce => Some(PacketId::new(reader.u16().ok()?)?),
    };
    let mut publish = Publish {
        dup: flags & 0b1000 != 0,
        qos,
        retain: flags & 1 != 0,
        packet_id,
        topic,
        topic_alias: None,
        message_expiry_seconds: None,
        forward: [&[]; 3],
        payload: &[],
    };
    let mut ids = Vec::new();
    if version == ProtocolVersion::V5 {
        let mut properties = Properties::parse(&mut reader, PropertySet::PUBLISH).ok()?;
        while let Some(property) = properties.read_unchecked().ok()? {
            match property {
                Property::TopicAlias(alias) => publish.topic_alias = Some(alias),
                Property::MessageExpiryInterval(seconds) => publish.message_expiry_seconds = Some(seconds),
                Property::SubscriptionIdentifier(id) => ids.push(id),
                _ => {}
            }
        }
    }
    publish.payload = reader.rest();
    let mut summary = of_publish(&publish);
    for id in ids.into_iter().take(SHOWN_MAX) {
        add(&mut summary.words, format_args!(", subscription identifier {id}"));
    }
    Some(summary)
}

fn sent_connack(version: ProtocolVersion, reader: &mut FieldReader<'_>) -> Option<PacketSummary<'static>> {
    let is_present = reader.u8().ok()? & 1 != 0;
    let code = reader.u8().ok()?;
    let words = match version {
        ProtocolVersion::V5 => coded(code),
        ProtocolVersion::V31 | ProtocolVersion::V311 => format!("return code {code}"),
    };
    Some(plain("CONNACK", format!("{words}{}", if is_present { ", session present" } else { "" })))
}

fn sent_codes(
    version: ProtocolVersion,
    frame: Frame<'_>,
    reader: &mut FieldReader<'_>,
) -> Option<PacketSummary<'static>> {
    let mut words = format!("packet identifier {}", reader.u16().ok()?);
    if version == ProtocolVersion::V5 {
        Properties::parse(reader, PropertySet::ACK).ok()?;
    }
    list(&mut words, reader.rest().iter().map(|&code| coded(code)));
    Some(plain(name(frame), words))
}

fn name(frame: Frame<'_>) -> &'static str {
    const NAMES: [&str; 16] = [
        "reserved",
        "CONNECT",
        "CONNACK",
        "PUBLISH",
        "PUBACK",
        "PUBREC",
        "PUBREL",
        "PUBCOMP",
        "SUBSCRIBE",
        "SUBACK",
        "UNSUBSCRIBE",
        "UNSUBACK",
        "PINGREQ",
        "PINGRESP",
        "DISCONNECT",
        "AUTH",
    ];
    NAMES[usize::from(frame.packet_type())]
}

fn plain(packet: &'static str, words: String) -> PacketSummary<'static> {
    PacketSummary { packet, words, ..PacketSummary::default() }
}

fn unreadable(packet: &'static str, cause: &str) -> PacketSummary<'static> {
    plain(packet, format!("unreadable: {cause}"))
}

fn of_connect<'a>(connect: &Connect<'a>) -> PacketSummary<'a> {
    let version = match connect.version {
        ProtocolVersion::V31 => "3.1",
        ProtocolVersion::V311 => "3.1.1",
        ProtocolVersion::V5 => "5.0",
    };
    let mut words = format!("MQTT {version}, client {}", quoted(connect.client_id));
    if let Some(user) = connect.username {
        add(&mut words, format_args!(", user {}", quoted(user)));
    }
    if connect.password.is_some() {
        words.push_str(", with a password");
    }
    if let Some(method) = connect.authentication_method {
        add(&mut words, format_args!(", method {}", quoted(method)));
    }
    add(&mut words, format_args!(", keep alive {} s", connect.keep_alive_seconds));
    words.push_str(if connect.clean_start { ", clean start" } else { ", takes its session up" });
    if connect.version == ProtocolVersion::V5 {
        add(
            &mut words,
            format_args!(
                ", session expiry {} s, receive maximum {}",
                connect.session_expiry_seconds, connect.receive_maximum
            ),
        );
        if connect.packet_bytes_max < u32::MAX {
            add(&mut words, format_args!(", maximum packet size {}", connect.packet_bytes_max));
        }
    }
    if let Some(will) = &connect.will {
        add(&mut words, format_args!(", will to {} at QoS {}", quoted(will.topic), will.qos as u8));
        if will.retain {
            words.push_str(", retained");
        }
    }
    PacketSummary { client_id: Some(connect.client_id), ..plain("CONNECT", words) }
}

fn of_publish<'a>(publish: &Publish<'a>) -> PacketSummary<'a> {
    let mut words = format!("QoS {}", publish.qos as u8);
    if let Some(id) = publish.packet_id {
        add(&mut words, format_args!(", packet identifier {id}"));
    }
    if publish.dup {
        words.push_str(", DUP");
    }
    if publish.retain {
        words.push_str(", RETAIN");
    }
    if !publish.topic.is_empty() {
        add(&mut words, format_args!(", topic {}", quoted(publish.topic)));
    }
    if let Some(alias) = publish.topic_alias {
        add(&mut words, format_args!(", topic alias {alias}"));
    }
    if let Some(seconds) = publish.message_expiry_seconds {
        add(&mut words, format_args!(", expires in {seconds} s"));
    }
    add(&mut words, format_args!(", payload {} bytes", publish.payload.len()));
    PacketSummary {
        topic: publish.topic,
        topic_alias: publish.topic_alias,
        payload: publish.payload,
        ..plain("PUBLISH", words)
    }
}

fn of_ack(packet_id: PacketId, reason: Reason) -> String {
    format!("packet identifier {packet_id}, {}", in_words(reason))
}

fn of_filter(wanted: &SubscribeFilter<'_>) -> String {
    let options = wanted.options;
    let mut words = format!("{} QoS {}", quoted(wanted.filter.as_str()), options.qos as u8);
    if options.no_local {
        words.push_str(" no local");
    }
    if options.retain_as_published {
        words.push_str(" retain as published");
    }
    match options.retain_handling {
        RetainHandling::Always => {}
        RetainHandling::IfNew => words.push_str(" retained if new"),
        RetainHandling::Never => words.push_str(" no retained"),
    }
    words
}

/// Adds a list with its beginning and the number of the rest.
fn list(words: &mut String, items: impl Iterator<Item = String>) {
    let mut more = 0usize;
    for (number, item) in items.enumerate() {
        if number < SHOWN_MAX {
            add(words, format_args!("{}{item}", if number == 0 { ": " } else { ", " }));
        } else {
            more += 1;
        }
    }
    if more > 0 {
        add(words, format_args!(" and {more} more"));
    }
}

fn coded(code: u8) -> String {
    Reason::from_code(code).map_or_else(|| format!("0x{code:02X}"), in_words)
}

fn in_words(reason: Reason) -> String {
    format!("{} (0x{:02X})", reason.words(), reason.code())
}

/// The beginning of a text of a client, in quotes and without control characters.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

fn add(words: &mut String, more: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = words.write_fmt(more);
}

#[cfg(test)]
mod tests {
    use super::super::{
        Connack, Framing, PublishHeader, encode_connack, encode_publish, encode_suback, frame,
    };
    use super::*;

    fn whole(bytes: &[u8]) -> Frame<'_> {
        match frame(bytes, bytes.len()) {
            Ok(Framing::Whole(frame)) => frame,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_midge_encodes_is_read_back() {
        let mut bytes = Vec::new();
        let header = PublishHeader {
            version: ProtocolVersion::V5,
            dup: true,
            qos: QoS::AtLeastOnce,
            retain: true,
            packet_id: PacketId::new(7),
            topic: "a/\u{1}b",
            topic_alias: Some(3),
            message_expiry_seconds: Some(60),
            forward: [&[]; 3],
            subscription_ids: &[9],
        };
        encode_publish(&mut bytes, &header, 5);
        bytes.extend_from_slice(b"hello");
        let summary = summarize_sent(ProtocolVersion::V5, whole(&bytes));
        assert_eq!((summary.packet, summary.topic, summary.payload), ("PUBLISH", "a/\u{1}b", &b"hello"[..]));
        assert_eq!(
            summary.words,
            "QoS 1, packet identifier 7, DUP, RETAIN, topic \"a/\\u{1}b\", topic alias 3, expires in 60 s, \
             payload 5 bytes, subscription identifier 9"
        );
        let mut bytes = Vec::new();
        let connack = Connack { session_present: true, ..Connack::default() };
        encode_connack(&mut bytes, ProtocolVersion::V5, Reason::Success, &connack, u32::MAX);
        let summary = summarize_sent(ProtocolVersion::V5, whole(&bytes));
        assert_eq!((summary.packet, &*summary.words), ("CONNACK", "success (0x00), session present"));
        let mut bytes = Vec::new();
        let codes = [Reason::GrantedQoS1, Reason::NotAuthorized];
        encode_suback(&mut bytes, ProtocolVersion::V5, PacketId::MIN, &codes);
        let summary = summarize_sent(ProtocolVersion::V5, whole(&bytes));
        let words = "packet identifier 1: granted qos 1 (0x01), not authorized (0x87)";
        assert_eq!((summary.packet, &*summary.words), ("SUBACK", words));
    }

    #[test]
    fn no_password_is_shown_and_long_lists_are_cut() {
        let connect = b"\x10\x1b\0\x04MQTT\x04\xc2\0\x0a\0\x01c\0\x04user\0\x06secret";
        let summary = summarize_received(ProtocolVersion::V311, whole(connect));
        let words = "MQTT 3.1.1, client \"c\", user \"user\", with a password, keep alive 10 s, clean start";
        assert_eq!((summary.client_id, &*summary.words), (Some("c"), words));
        let mut subscribe = vec![0x82, 0, 0, 1];
        for _ in 0..25 {
            subscribe.extend_from_slice(b"\0\x01a\x01");
        }
        subscribe[1] = u8::try_from(subscribe.len() - 2).expect("it is short");
        let words = summarize_received(ProtocolVersion::V311, whole(&subscribe)).words;
        assert!(words.starts_with("packet identifier 1: \"a\" QoS 1, \"a\""), "{words}");
        assert!(words.ends_with(" and 5 more"), "{words}");
    }

    #[test]
    fn no_bytes_of_a_client_or_of_midge_make_it_fail() {
        let mut random = crate::base::Random::new(1);
        for _ in 0..20_000 {
            let mut bytes: Vec<u8> = (0..random.index(40)).map(|_| random.index(256) as u8).collect();
            bytes.splice(
                0..0,
                [(random.index(15) as u8 + 1) << 4 | random.index(16) as u8, bytes.len() as u8],
            );
            for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
                summarize_received(version, whole(&bytes));
                summarize_sent(version, whole(&bytes));
            }
        }
    }
}
