//! Encodes and decodes MQTT 3.1.1 and 5.0 for a client: CONNECT, SUBSCRIBE, PUBLISH, the
//! acknowledgements, and all answers of a broker.
//!
//! This crate has its own codec, because a codec that it shared with a broker would also share the
//! broker's errors. Decoding borrows from the read buffer, and never panics on invalid input.

use std::fmt;

/// The protocol version of all connections of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5.0, protocol level 5.
    V5,
}

pub(crate) const CONNACK: u8 = 2;
pub(crate) const PUBLISH: u8 = 3;
pub(crate) const PUBACK: u8 = 4;
pub(crate) const PUBREC: u8 = 5;
pub(crate) const PUBREL: u8 = 6;
pub(crate) const PUBCOMP: u8 = 7;
pub(crate) const SUBACK: u8 = 9;
pub(crate) const PINGRESP: u8 = 13;
pub(crate) const DISCONNECT: u8 = 14;

/// The bytes break the standard. The text names the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// One packet in the read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    /// The first byte: packet type in the upper four bits, flags in the lower four.
    pub(crate) first: u8,
    /// Everything after the remaining length.
    pub(crate) body: &'a [u8],
}

impl Packet<'_> {
    /// The packet type: 1 to 15.
    pub(crate) fn kind(&self) -> u8 {
        self.first >> 4
    }
}

/// Takes the first packet from `bytes`. Returns it with its length in bytes, or `None` if it is
/// incomplete.
#[inline]
pub(crate) fn split(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, Malformed> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let mut length = 0usize;
    for at in 0..4 {
        let Some(&byte) = bytes.get(1 + at) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let start = 2 + at;
            let end = start + length;
            return Ok(bytes.get(start..end).map(|body| (Packet { first, body }, end)));
        }
    }
    Err(Malformed("remaining length of more than four bytes"))
}

/// A PUBLISH from the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    pub(crate) dup: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) topic: &'a [u8],
    /// Zero at QoS 0, never zero otherwise.
    pub(crate) id: u16,
    pub(crate) payload: &'a [u8],
}

#[inline]
pub(crate) fn publish<'a>(version: Version, packet: Packet<'a>) -> Result<Publish<'a>, Malformed> {
    const SHORT: Malformed = Malformed("PUBLISH ends inside its variable header");
    let qos = packet.first >> 1 & 3;
    if qos == 3 {
        return Err(Malformed("PUBLISH with QoS 3"));
    }
    let (topic, mut rest) = text(packet.body).ok_or(SHORT)?;
    let mut id = 0;
    if qos > 0 {
        (id, rest) = number(rest).ok_or(SHORT)?;
        if id == 0 {
            return Err(Malformed("PUBLISH with packet identifier zero"));
        }
    }
    if version == Version::V5 {
        let (properties, after) = varint(rest).ok_or(SHORT)?;
        rest = after.get(properties..).ok_or(SHORT)?;
    }
    let dup = packet.first & 8 != 0;
    Ok(Publish { dup, qos, retain: packet.first & 1 != 0, topic, id, payload: rest })
}

/// The parts of CONNACK that the harness uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Connack {
    pub(crate) session_present: bool,
    /// 0 means accepted.
    pub(crate) code: u8,
    /// Maximum number of QoS 1 and 2 publications in flight to the broker.
    pub(crate) receive_maximum: u16,
}

pub(crate) fn connack(version: Version, packet: Packet<'_>) -> Result<Connack, Malformed> {
    let &[flags, code, ref rest @ ..] = packet.body else { return Err(Malformed("short CONNACK")) };
    if flags > 1 {
        return Err(Malformed("reserved CONNACK flags are set"));
    }
    let mut receive_maximum = u16::MAX;
    // A broker without 5.0 refuses with the two bytes of 3.1.1.
    if version == Version::V5 && !rest.is_empty() {
        each_property(rest, |id, value| {
            if let (0x21, &[high, low]) = (id, value) {
                receive_maximum = u16::from_be_bytes([high, low]);
            }
        })?;
    }
    if receive_maximum == 0 {
        return Err(Malformed("CONNACK with Receive Maximum zero"));
    }
    Ok(Connack { session_present: flags == 1, code, receive_maximum })
}

/// Decodes PUBACK, PUBREC, PUBREL or PUBCOMP: the packet identifier and the reason code, which is 0
/// in 3.1.1 and if 5.0 leaves it out.
#[inline]
pub(crate) fn ack(packet: Packet<'_>) -> Result<(u16, u8), Malformed> {
    let (id, rest) = number(packet.body).ok_or(Malformed("acknowledgement of fewer than two bytes"))?;
    if id == 0 {
        return Err(Malformed("acknowledgement with packet identifier zero"));
    }
    if packet.kind() == PUBREL && packet.first & 0x0f != 2 {
        return Err(Malformed("PUBREL flags are not 2"));
    }
    Ok((id, rest.first().copied().unwrap_or(0)))
}

/// Decodes SUBACK: the packet identifier and one code per filter.
pub(crate) fn suback(version: Version, packet: Packet<'_>) -> Result<(u16, &[u8]), Malformed> {
    const SHORT: Malformed = Malformed("SUBACK ends inside its variable header");
    let (id, mut rest) = number(packet.body).ok_or(SHORT)?;
    if version == Version::V5 {
        let (properties, after) = varint(rest).ok_or(SHORT)?;
        rest = after.get(properties..).ok_or(SHORT)?;
    }
    Ok((id, rest))
}

/// The fields of a CONNECT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connect<'a> {
    pub(crate) client_id: &'a str,
    /// Clean Session of 3.1.1, Clean Start of 5.0.
    pub(crate) clean: bool,
    pub(crate) keep_alive_seconds: u16,
    /// Sent in 5.0 only, and only if it is not zero. 3.1.1 uses `clean` instead.
    pub(crate) session_expiry_seconds: u32,
    pub(crate) username: Option<&'a str>,
    pub(crate) password: Option<&'a str>,
    pub(crate) will: Option<Will<'a>>,
}

/// The message that the broker publishes if the connection ends without DISCONNECT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Will<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: u8,
}

pub(crate) fn put_connect(out: &mut Vec<u8>, version: Version, connect: &Connect<'_>) {
    let mut flags = u8::from(connect.clean) << 1;
    if let Some(will) = &connect.will {
        flags |= 0x04 | will.qos << 3;
    }
    flags |= u8::from(connect.username.is_some()) << 7 | u8::from(connect.password.is_some()) << 6;
    framed(out, 0x10, |out| {
        put_text(out, b"MQTT");
        out.push(if version == Version::V5 { 5 } else { 4 });
        out.push(flags);
        out.extend_from_slice(&connect.keep_alive_seconds.to_be_bytes());
        if version == Version::V5 {
            if connect.session_expiry_seconds > 0 {
                out.extend_from_slice(&[5, 0x11]);
                out.extend_from_slice(&connect.session_expiry_seconds.to_be_bytes());
            } else {
                out.push(0);
            }
        }
        put_text(out, connect.client_id.as_bytes());
        if let Some(will) = &connect.will {
            if version == Version::V5 {
                out.push(0);
            }
            put_text(out, will.topic.as_bytes());
            put_text(out, will.payload);
        }
        for field in [connect.username, connect.password].into_iter().flatten() {
            put_text(out, field.as_bytes());
        }
    });
}

/// Appends one SUBSCRIBE for all `filters` at `qos`.
pub(crate) fn put_subscribe<'a>(
    out: &mut Vec<u8>,
    version: Version,
    id: u16,
    filters: impl Iterator<Item = &'a str>,
    qos: u8,
) {
    framed(out, 0x82, |out| {
        out.extend_from_slice(&id.to_be_bytes());
        if version == Version::V5 {
            out.push(0);
        }
        for filter in filters {
            put_text(out, filter.as_bytes());
            out.push(qos);
        }
    });
}

/// The fixed and variable header of a PUBLISH. `payload_len` bytes of payload must follow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublishHead<'a> {
    pub(crate) topic: &'a [u8],
    pub(crate) qos: u8,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
    pub(crate) id: u16,
    pub(crate) payload_len: usize,
}

#[inline]
pub(crate) fn put_publish(out: &mut Vec<u8>, version: Version, head: &PublishHead<'_>) {
    let v5 = version == Version::V5;
    let length = 2 + head.topic.len() + if head.qos > 0 { 2 } else { 0 } + usize::from(v5) + head.payload_len;
    out.push(0x30 | u8::from(head.dup) << 3 | head.qos << 1 | u8::from(head.retain));
    put_varint(out, length);
    put_text(out, head.topic);
    if head.qos > 0 {
        out.extend_from_slice(&head.id.to_be_bytes());
    }
    if v5 {
        out.push(0);
    }
}

/// Appends PUBACK, PUBREC, PUBREL or PUBCOMP in the short form, which means success in both
/// versions.
#[inline]
pub(crate) fn put_ack(out: &mut Vec<u8>, kind: u8, id: u16) {
    let flags = if kind == PUBREL { 2 } else { 0 };
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[kind << 4 | flags, 2, high, low]);
}

pub(crate) fn put_pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xc0, 0]);
}

pub(crate) fn put_disconnect(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xe0, 0]);
}

/// The meaning of a CONNACK code.
pub(crate) fn connack_code(code: u8) -> &'static str {
    match code {
        1 | 0x84 => "protocol version refused",
        2 | 0x85 => "client identifier refused",
        3 | 0x88 | 0x89 => "server unavailable or busy",
        4 | 0x86 => "bad user name or password",
        5 | 0x87 => "not authorized",
        0x97 => "quota exceeded",
        0x9f => "connection rate exceeded",
        _ => "refused",
    }
}

/// Appends a packet whose body `fill` writes. The length is filled in afterwards.
fn framed(out: &mut Vec<u8>, first: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut body = Vec::new();
    fill(&mut body);
    out.push(first);
    put_varint(out, body.len());
    out.extend_from_slice(&body);
}

#[inline]
fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
fn put_text(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("topics and names are shorter than 64 KiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

#[inline]
fn number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*head), rest))
}

#[inline]
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = number(bytes)?;
    rest.split_at_checked(usize::from(length))
}

#[inline]
fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

/// Visits the properties at the start of `bytes`, which begin with their length.
fn each_property(bytes: &[u8], mut visit: impl FnMut(u8, &[u8])) -> Result<(), Malformed> {
    const BAD: Malformed = Malformed("properties run past their end");
    let (length, rest) = varint(bytes).ok_or(BAD)?;
    let mut left = rest.get(..length).ok_or(BAD)?;
    while let Some((&id, value)) = left.split_first() {
        let size = match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            0x13 | 0x21 | 0x22 | 0x23 => 2,
            0x02 | 0x11 | 0x18 | 0x27 => 4,
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => {
                2 + usize::from(number(value).ok_or(BAD)?.0)
            }
            0x26 => {
                let (_, after) = text(value).ok_or(BAD)?;
                let (_, after) = text(after).ok_or(BAD)?;
                value.len() - after.len()
            }
            0x0b => value.len() - varint(value).ok_or(BAD)?.1.len(),
            _ => return Err(Malformed("unknown property")),
        };
        visit(id, value.get(..size).ok_or(BAD)?);
        left = &value[size..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_round_trips_in_both_versions() {
        for version in [Version::V311, Version::V5] {
            for qos in 0..3 {
                let mut out = Vec::new();
                let id = if qos > 0 { 513 } else { 0 };
                let head =
                    PublishHead { topic: b"a/b", qos, dup: qos > 0, retain: true, id, payload_len: 200 };
                put_publish(&mut out, version, &head);
                out.extend_from_slice(&[7; 200]);
                let (packet, used) = split(&out).unwrap().unwrap();
                assert_eq!(used, out.len());
                let read = publish(version, packet).unwrap();
                assert_eq!(
                    (read.topic, read.qos, read.dup, read.retain, read.id),
                    (&b"a/b"[..], qos, qos > 0, true, id)
                );
                assert_eq!(read.payload, [7; 200]);
            }
        }
    }

    #[test]
    fn connect_and_subscribe_match_the_standard() {
        let connect = Connect {
            client_id: "x",
            clean: true,
            keep_alive_seconds: 10,
            session_expiry_seconds: 0,
            username: None,
            password: None,
            will: None,
        };
        let mut out = Vec::new();
        put_connect(&mut out, Version::V311, &connect);
        assert_eq!(out, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x0a\x00\x01x");
        out.clear();
        put_connect(&mut out, Version::V5, &Connect { session_expiry_seconds: 1, clean: false, ..connect });
        assert_eq!(out, b"\x10\x13\x00\x04MQTT\x05\x00\x00\x0a\x05\x11\x00\x00\x00\x01\x00\x01x");
        out.clear();
        put_subscribe(&mut out, Version::V5, 3, ["a", "b"].into_iter(), 1);
        assert_eq!(out, b"\x82\x0b\x00\x03\x00\x00\x01a\x01\x00\x01b\x01");
    }

    #[test]
    fn partial_packets_are_incomplete_and_truncated_bodies_do_not_panic() {
        let mut out = Vec::new();
        let head = PublishHead { topic: b"t", qos: 1, dup: false, retain: false, id: 1, payload_len: 3 };
        put_publish(&mut out, Version::V5, &head);
        out.extend_from_slice(b"abc");
        for cut in 0..out.len() {
            assert_eq!(split(&out[..cut]), Ok(None));
        }
        for length in 0..out.len() - 2 {
            let packet = Packet { first: out[0], body: &out[2..2 + length] };
            let _ = publish(Version::V5, packet);
            let _ = connack(Version::V5, packet);
            let _ = suback(Version::V5, packet);
            let _ = ack(packet);
        }
    }

    #[test]
    fn receive_maximum_is_found_among_other_properties() {
        let body = [0, 0, 11, 0x1f, 0, 2, b'o', b'k', 0x21, 0, 20, 0x25, 1, 0x2a];
        let body = [&body[..13], &[0x2a, 1]].concat();
        let mut body = body;
        body[2] = body.len() as u8 - 3;
        let read = connack(Version::V5, Packet { first: 0x20, body: &body }).unwrap();
        assert_eq!(read.receive_maximum, 20);
    }
}
