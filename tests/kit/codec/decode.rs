//! Decodes what a server has sent. The reader of complete packets checks every one of them against the
//! standard: flags, lengths, allowed properties and reason codes. So every test also proves these rules.

use super::encode::*;

/// A type of packet that a server may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Connack,
    Publish,
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
    Suback,
    Unsuback,
    Pingresp,
    Disconnect,
    Auth,
}

use Kind::*;

/// A packet from the broker. Fields that its kind does not have are zero or empty.
#[derive(Clone, Debug)]
pub struct Packet {
    pub kind: Kind,
    pub id: u16,
    pub code: u8,
    pub codes: Vec<u8>,
    pub session_present: bool,
    pub duplicate: bool,
    pub qos: u8,
    pub retain: bool,
    pub topic: Vec<u8>,
    pub payload: Vec<u8>,
    pub properties: Vec<(u8, Value)>,
    pub bytes: Vec<u8>,
}

/// The value of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Number(u32),
    Text(Vec<u8>),
    Pair(Vec<u8>, Vec<u8>),
}

impl Packet {
    pub fn number(&self, id: u8) -> Option<u32> {
        self.properties.iter().find_map(|(found, value)| match value {
            Value::Number(number) if *found == id => Some(*number),
            _ => None,
        })
    }

    pub fn text(&self, id: u8) -> Option<&[u8]> {
        self.properties.iter().find_map(|(found, value)| match value {
            Value::Text(text) if *found == id => Some(&text[..]),
            _ => None,
        })
    }

    pub fn has(&self, id: u8) -> bool {
        self.properties.iter().any(|(found, _)| *found == id)
    }

    /// The user properties as `name=value`, in order.
    pub fn pairs(&self) -> Vec<String> {
        let shown = |text: &[u8]| String::from_utf8(text.to_vec()).expect("user properties are UTF-8");
        let pairs = self.properties.iter().filter_map(|(_, value)| match value {
            Value::Pair(name, value) => Some(format!("{}={}", shown(name), shown(value))),
            _ => None,
        });
        pairs.collect()
    }

    /// The subscription identifiers, sorted.
    pub fn identifiers(&self) -> Vec<u32> {
        let found = self.properties.iter().filter(|(id, _)| *id == SUBSCRIPTION_ID);
        let mut numbers: Vec<u32> =
            found.map(|(_, value)| if let Value::Number(number) = value { *number } else { 0 }).collect();
        numbers.sort_unstable();
        numbers
    }

    pub fn payload_text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    pub fn topic_text(&self) -> String {
        String::from_utf8_lossy(&self.topic).into_owned()
    }
}

/// The length of the packet at the beginning of `bytes`. `None` if its fixed header is incomplete.
pub fn packet_length(bytes: &[u8]) -> Result<Option<usize>, String> {
    let mut length = 0;
    for at in 1..5 {
        let Some(byte) = bytes.get(at) else { return Ok(None) };
        length |= usize::from(byte & 0x7F) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            if at > 1 && *byte == 0 {
                return Err("a Remaining Length that is not minimal".into());
            }
            return Ok(Some(at + 1 + length));
        }
    }
    Err("a Remaining Length of more than four bytes".into())
}

/// The bytes after the length of a complete packet.
pub fn body_of(packet: &[u8]) -> &[u8] {
    let length = packet.iter().skip(1).position(|byte| byte & 0x80 == 0).expect("a whole packet");
    &packet[length + 2..]
}

/// Reads one complete packet. An error is a violation of the standard by the broker.
pub fn decode(bytes: &[u8], version: Version) -> Result<Packet, String> {
    let first = bytes[0];
    let kind = kind_of(first, version)?;
    let mut at = Cursor { rest: body_of(bytes) };
    let mut packet = Packet {
        kind,
        id: 0,
        code: 0,
        codes: Vec::new(),
        session_present: false,
        duplicate: first & 0x08 != 0 && kind == Publish,
        qos: if kind == Publish { first >> 1 & 3 } else { 0 },
        retain: first & 0x01 != 0 && kind == Publish,
        topic: Vec::new(),
        payload: Vec::new(),
        properties: Vec::new(),
        bytes: bytes.to_vec(),
    };
    match kind {
        Connack => connack(&mut packet, &mut at, version)?,
        Publish => publish_of_server(&mut packet, &mut at, version)?,
        Puback | Pubrec | Pubrel | Pubcomp => {
            packet.id = at.two()?;
            code_and_properties(&mut packet, &mut at, version)?;
        }
        Suback | Unsuback => {
            packet.id = at.two()?;
            if version == V5 {
                packet.properties = at.properties(kind)?;
            }
            packet.codes = std::mem::take(&mut at.rest).to_vec();
        }
        Pingresp => {}
        Disconnect | Auth => code_and_properties(&mut packet, &mut at, version)?,
    }
    if !at.rest.is_empty() {
        return Err(format!("{kind:?} with {} surplus bytes", at.rest.len()));
    }
    check_codes(&packet, version)?;
    Ok(packet)
}

/// Reads complete packets up to the last byte.
pub fn decode_all(mut bytes: &[u8], version: Version) -> Result<Vec<Packet>, String> {
    let mut packets = Vec::new();
    while !bytes.is_empty() {
        let length = packet_length(bytes)?.ok_or("a packet that ends in its header")?;
        let (head, rest) = bytes.split_at_checked(length).ok_or("a packet that is cut")?;
        packets.push(decode(head, version)?);
        bytes = rest;
    }
    Ok(packets)
}

// [MQTT5-2.1.3-1] [MQTT311-2.2.2-1]
fn kind_of(first: u8, version: Version) -> Result<Kind, String> {
    let kind = match first {
        0x20 => Connack,
        0x30..=0x3F => Publish,
        0x40 => Puback,
        0x50 => Pubrec,
        0x62 => Pubrel,
        0x70 => Pubcomp,
        0x90 => Suback,
        0xB0 => Unsuback,
        0xD0 => Pingresp,
        0xE0 if version == V5 => Disconnect,
        0xF0 if version == V5 => Auth,
        _ => return Err(format!("a first byte of {first:02X} in {version:?}")),
    };
    Ok(kind)
}

fn connack(packet: &mut Packet, at: &mut Cursor, version: Version) -> Result<(), String> {
    let flags = at.one()?;
    let allowed = if version == V31 { 0 } else { 1 };
    if flags > allowed {
        return Err(format!("CONNACK flags {flags:02X}"));
    }
    packet.session_present = flags == 1;
    packet.code = at.one()?;
    if version == V5 {
        packet.properties = at.properties(Connack)?;
    }
    if packet.session_present && packet.code != 0 {
        return Err("CONNACK refuses with Session Present 1".into());
    }
    Ok(())
}

fn publish_of_server(packet: &mut Packet, at: &mut Cursor, version: Version) -> Result<(), String> {
    if packet.qos == 3 || (packet.duplicate && packet.qos == 0) {
        return Err("PUBLISH with impossible flags".into());
    }
    packet.topic = at.string()?;
    if packet.qos > 0 {
        packet.id = at.two()?;
        if packet.id == 0 {
            return Err("PUBLISH with packet identifier 0".into());
        }
    }
    if version == V5 {
        packet.properties = at.properties(Publish)?;
    }
    let topic = std::str::from_utf8(&packet.topic).map_err(|_| "PUBLISH topic is not UTF-8".to_string())?;
    let alias_only = topic.is_empty() && packet.has(TOPIC_ALIAS);
    if (topic.is_empty() && !alias_only) || topic.contains(['+', '#', '\0']) {
        return Err(format!("PUBLISH to the topic {topic:?}"));
    }
    packet.payload = std::mem::take(&mut at.rest).to_vec();
    Ok(())
}

fn code_and_properties(packet: &mut Packet, at: &mut Cursor, version: Version) -> Result<(), String> {
    if version == V5 && !at.rest.is_empty() {
        packet.code = at.one()?;
        if !at.rest.is_empty() {
            packet.properties = at.properties(packet.kind)?;
        }
    }
    Ok(())
}

/// Checks the reason codes of a packet against the standard's tables for servers.
fn check_codes(packet: &Packet, version: Version) -> Result<(), String> {
    let five = version == V5;
    let allowed: &[u8] = match packet.kind {
        Connack if !five => &[0, 1, 2, 3, 4, 5],
        Connack => &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
            0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
        ],
        Puback | Pubrec if five => &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
        Pubrel | Pubcomp if five => &[0x00, 0x92],
        Suback if version == V31 => &[0, 1, 2],
        Suback if !five => &[0, 1, 2, 0x80],
        Suback => &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2],
        Unsuback if five => &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91],
        Disconnect => &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96,
            0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
        ],
        Auth => &[0x00, 0x18],
        _ => &[0x00],
    };
    let codes = if matches!(packet.kind, Suback | Unsuback) { &packet.codes[..] } else { &[packet.code] };
    if let Some(code) = codes.iter().find(|code| !allowed.contains(code)) {
        return Err(format!("{:?} with code {code:02X}", packet.kind));
    }
    let expects_codes = packet.kind == Suback || (packet.kind == Unsuback && five);
    if matches!(packet.kind, Suback | Unsuback) && packet.codes.is_empty() == expects_codes {
        return Err(format!("{:?} with {} codes", packet.kind, packet.codes.len()));
    }
    Ok(())
}

/// The properties that a server may put into a packet (section 2).
fn server_properties(kind: Kind) -> &'static [u8] {
    match kind {
        Connack => &[
            SESSION_EXPIRY,
            ASSIGNED_CLIENT_ID,
            SERVER_KEEP_ALIVE,
            AUTH_METHOD,
            AUTH_DATA,
            RESPONSE_INFORMATION,
            SERVER_REFERENCE,
            REASON_STRING,
            RECEIVE_MAXIMUM,
            TOPIC_ALIAS_MAXIMUM,
            MAXIMUM_QOS,
            RETAIN_AVAILABLE,
            USER_PROPERTY,
            MAXIMUM_PACKET_SIZE,
            WILDCARD_AVAILABLE,
            SUBSCRIPTION_ID_AVAILABLE,
            SHARED_AVAILABLE,
        ],
        Publish => &[
            PAYLOAD_FORMAT,
            MESSAGE_EXPIRY,
            CONTENT_TYPE,
            RESPONSE_TOPIC,
            CORRELATION_DATA,
            SUBSCRIPTION_ID,
            TOPIC_ALIAS,
            USER_PROPERTY,
        ],
        Pingresp => &[],
        Disconnect => &[SERVER_REFERENCE, REASON_STRING, USER_PROPERTY],
        Auth => &[AUTH_METHOD, AUTH_DATA, REASON_STRING, USER_PROPERTY],
        _ => &[REASON_STRING, USER_PROPERTY],
    }
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl Cursor<'_> {
    fn take(&mut self, count: usize) -> Result<Vec<u8>, String> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or("a field ends beyond its packet")?;
        self.rest = rest;
        Ok(head.to_vec())
    }

    fn one(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn two(&mut self) -> Result<u16, String> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn four(&mut self) -> Result<u32, String> {
        Ok(u32::from(self.two()?) << 16 | u32::from(self.two()?))
    }

    // [MQTT5-1.5.5-1]
    fn variable(&mut self) -> Result<u32, String> {
        let mut value = 0;
        for at in 0..4 {
            let byte = self.one()?;
            value |= u32::from(byte & 0x7F) << (7 * at);
            if byte & 0x80 == 0 {
                let minimal = at == 0 || byte != 0;
                return minimal.then_some(value).ok_or("a variable byte integer that is not minimal".into());
            }
        }
        Err("a variable byte integer of more than four bytes".into())
    }

    fn string(&mut self) -> Result<Vec<u8>, String> {
        let length = self.two()?;
        self.take(usize::from(length))
    }

    fn utf8(&mut self) -> Result<Vec<u8>, String> {
        let text = self.string()?;
        match std::str::from_utf8(&text) {
            Ok(utf8) if !utf8.contains('\0') => Ok(text),
            _ => Err("a string that is not UTF-8 without U+0000".into()),
        }
    }

    fn properties(&mut self, kind: Kind) -> Result<Vec<(u8, Value)>, String> {
        let length = self.variable()? as usize;
        let body = self.take(length)?;
        let mut at = Cursor { rest: &body };
        let mut found: Vec<(u8, Value)> = Vec::new();
        while !at.rest.is_empty() {
            let id = at.one()?;
            let many = id == USER_PROPERTY || (id == SUBSCRIPTION_ID && kind == Publish);
            if !server_properties(kind).contains(&id) {
                return Err(format!("{kind:?} with property {id:02X}"));
            }
            if !many && found.iter().any(|(known, _)| *known == id) {
                return Err(format!("{kind:?} with property {id:02X} twice"));
            }
            found.push((id, at.value(id)?));
        }
        Ok(found)
    }

    fn value(&mut self, id: u8) -> Result<Value, String> {
        let value = match id {
            PAYLOAD_FORMAT
            | MAXIMUM_QOS
            | RETAIN_AVAILABLE
            | WILDCARD_AVAILABLE
            | SUBSCRIPTION_ID_AVAILABLE
            | SHARED_AVAILABLE => {
                let byte = self.one()?;
                if byte > 1 {
                    return Err(format!("property {id:02X} with {byte}"));
                }
                Value::Number(u32::from(byte))
            }
            SERVER_KEEP_ALIVE | RECEIVE_MAXIMUM | TOPIC_ALIAS_MAXIMUM | TOPIC_ALIAS => {
                let value = self.two()?;
                if value == 0 && matches!(id, RECEIVE_MAXIMUM | TOPIC_ALIAS) {
                    return Err(format!("property {id:02X} with 0"));
                }
                Value::Number(u32::from(value))
            }
            MESSAGE_EXPIRY | SESSION_EXPIRY | MAXIMUM_PACKET_SIZE => Value::Number(self.four()?),
            SUBSCRIPTION_ID => match self.variable()? {
                0 => return Err("subscription identifier 0".into()),
                number => Value::Number(number),
            },
            CORRELATION_DATA | AUTH_DATA => Value::Text(self.string()?),
            USER_PROPERTY => Value::Pair(self.utf8()?, self.utf8()?),
            _ => Value::Text(self.utf8()?),
        };
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reader refuses what a server must never send. Otherwise scenarios would prove nothing.
    #[test]
    fn reader_refuses_what_a_server_must_not_send() {
        let five = [
            "21 03 00 00 00",
            "20 03 02 00 00",
            "20 03 01 87 00",
            "20 03 00 92 00",
            "20 05 00 00 02 24 02",
            "20 06 00 00 03 21 0000",
            "20 0D 00 00 0A 11 00000001 11 00000001",
            "36 05 0001 `a` 0001",
            "38 * 'a' 00 `x`",
            "32 * 'a' 0000 00 `x`",
            "30 * 'a+' 00 `x`",
            "30 * '' 00 `x`",
            "30 * 0001 FF 00 `x`",
            "30 * 'a' 05 18 00000001 `x`",
            "30 * 'a' 02 0B 00 `x`",
            "30 * 'a' 04 01 01 01 01 `x`",
            "40 03 0001 92",
            "60 02 0001",
            "62 03 0001 80",
            "90 03 0001 00",
            "90 04 0001 00 03",
            "B0 04 0001 00 01",
            "D0 01 00",
            "E0 07 82 05 11 00000001",
            "E0 01 04",
            "F0 01 19",
            "10 00",
            "C0 00",
        ];
        for said in five {
            assert!(decode(&bytes(said), V5).is_err(), "{said}");
        }
        for said in [
            "20 02 02 00",
            "20 02 00 06",
            "E0 00",
            "F0 00",
            "40 03 0001 00",
            "B0 03 0001 00",
            "90 03 0001 81",
        ] {
            assert!(decode(&bytes(said), V311).is_err(), "{said}");
        }
        for said in ["20 02 01 00", "90 03 0001 80"] {
            assert!(decode(&bytes(said), V31).is_err(), "{said}");
        }
        assert!(packet_length(&bytes("D0 8000")).is_err());
        assert!(packet_length(&bytes("D0 FFFFFFFF")).is_err());
    }

    #[test]
    fn reader_accepts_what_a_server_may_send() {
        for said in [
            "20 03 00 00 00",
            "40 02 0001",
            "40 03 0001 10",
            "90 04 0001 00 A2",
            "E0 01 8E",
            "30 * 'a' 00 `x`",
        ] {
            assert!(decode(&bytes(said), V5).is_ok(), "{said}");
        }
        for said in ["20 02 01 00", "62 02 0001", "90 04 0001 0180", "B0 02 0001", "3B * 'a' 0001 `x`"] {
            assert!(decode(&bytes(said), V311).is_ok(), "{said}");
        }
    }
}
