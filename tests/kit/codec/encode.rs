//! Encodes what a client sends: builders for every packet that a client may send, and a small byte language
//! for those that it may not send.
//!
//! The byte language of [`bytes`]: `82 0A00` are hexadecimal bytes, `'a/b'` is a UTF-8 string with its
//! two-byte length before it, `` `raw` `` are plain characters, `*` is the Remaining Length of everything
//! after it.

/// A version of the protocol. Its value is the level byte of CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V31 = 3,
    V311 = 4,
    V5 = 5,
}

pub use Version::{V5, V31, V311};

pub const EVERY_VERSION: [Version; 3] = [V5, V311, V31];
pub const BEFORE_5: [Version; 2] = [V311, V31];

pub const PAYLOAD_FORMAT: u8 = 0x01;
pub const MESSAGE_EXPIRY: u8 = 0x02;
pub const CONTENT_TYPE: u8 = 0x03;
pub const RESPONSE_TOPIC: u8 = 0x08;
pub const CORRELATION_DATA: u8 = 0x09;
pub const SUBSCRIPTION_ID: u8 = 0x0B;
pub const SESSION_EXPIRY: u8 = 0x11;
pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
pub const SERVER_KEEP_ALIVE: u8 = 0x13;
pub const AUTH_METHOD: u8 = 0x15;
pub const AUTH_DATA: u8 = 0x16;
pub const REQUEST_PROBLEM: u8 = 0x17;
pub const WILL_DELAY: u8 = 0x18;
pub const REQUEST_RESPONSE: u8 = 0x19;
pub const RESPONSE_INFORMATION: u8 = 0x1A;
pub const SERVER_REFERENCE: u8 = 0x1C;
pub const REASON_STRING: u8 = 0x1F;
pub const RECEIVE_MAXIMUM: u8 = 0x21;
pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub const TOPIC_ALIAS: u8 = 0x23;
pub const MAXIMUM_QOS: u8 = 0x24;
pub const RETAIN_AVAILABLE: u8 = 0x25;
pub const USER_PROPERTY: u8 = 0x26;
pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
pub const WILDCARD_AVAILABLE: u8 = 0x28;
pub const SUBSCRIPTION_ID_AVAILABLE: u8 = 0x29;
pub const SHARED_AVAILABLE: u8 = 0x2A;

/// One property as bytes: its identifier and its value.
pub type Property = Vec<u8>;

pub fn byte(id: u8, value: u8) -> Property {
    vec![id, value]
}

pub fn two(id: u8, value: u16) -> Property {
    [&[id][..], &value.to_be_bytes()].concat()
}

pub fn four(id: u8, value: u32) -> Property {
    [&[id][..], &value.to_be_bytes()].concat()
}

pub fn varint(id: u8, value: u32) -> Property {
    [&[id][..], &variable(value)].concat()
}

pub fn text(id: u8, value: impl AsRef<[u8]>) -> Property {
    [&[id][..], &string(value)].concat()
}

pub fn pair(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Property {
    [&[USER_PROPERTY][..], &string(name), &string(value)].concat()
}

/// A string or binary data with its two-byte length before it.
pub fn string(value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    let length = u16::try_from(value.len()).expect("a string of a test fits its length field");
    [&length.to_be_bytes()[..], value].concat()
}

/// A variable byte integer.
pub fn variable(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value % 128) as u8;
        value /= 128;
        bytes.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return bytes;
        }
    }
}

/// A packet with the byte `first`, the correct Remaining Length, and `body`.
pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first][..], &variable(body.len() as u32), body].concat()
}

/// Encodes the byte language that the module describes.
pub fn bytes(said: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = said.trim_start();
    while let Some(first) = rest.chars().next() {
        match first {
            '*' => {
                let tail = bytes(&rest[1..]);
                out.extend(variable(tail.len() as u32));
                out.extend(tail);
                return out;
            }
            quote @ ('\'' | '`') => {
                let end = rest[1..].find(quote).expect("a quote of a test is closed") + 1;
                let inner = &rest.as_bytes()[1..end];
                out.extend(if quote == '`' { inner.to_vec() } else { string(inner) });
                rest = rest[end + 1..].trim_start();
            }
            _ => {
                let end = rest.find([' ', '\'', '`', '*']).unwrap_or(rest.len());
                for at in (0..end).step_by(2) {
                    out.push(
                        u8::from_str_radix(&rest[at..at + 2], 16).expect("a test says hex digits in pairs"),
                    );
                }
                rest = rest[end..].trim_start();
            }
        }
    }
    out
}

/// Something that can be sent on a connection of some version.
pub trait Encode {
    fn encode(&self, version: Version) -> Vec<u8>;
}

impl Encode for Vec<u8> {
    fn encode(&self, _: Version) -> Vec<u8> {
        self.clone()
    }
}

impl Encode for &str {
    fn encode(&self, _: Version) -> Vec<u8> {
        bytes(self)
    }
}

impl Encode for String {
    fn encode(&self, _: Version) -> Vec<u8> {
        bytes(self)
    }
}

fn properties(version: Version, list: &[Property]) -> Vec<u8> {
    if version != V5 {
        assert!(list.is_empty(), "a test gives properties to a version that has none");
        return Vec::new();
    }
    let all = list.concat();
    [variable(all.len() as u32), all].concat()
}

/// The will of a [`Connect`].
#[derive(Clone, Debug)]
pub struct Will {
    pub topic: Vec<u8>,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub properties: Vec<Property>,
}

pub fn will(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Will {
    Will {
        topic: topic.as_ref().to_vec(),
        payload: payload.as_ref().to_vec(),
        qos: 0,
        retain: false,
        properties: Vec::new(),
    }
}

impl Will {
    pub fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    pub fn delay(self, seconds: u32) -> Self {
        self.with(four(WILL_DELAY, seconds))
    }
}

/// A CONNECT. By default it has Clean Start and no keep alive.
#[derive(Clone, Debug)]
pub struct Connect {
    pub version: Version,
    pub client_id: Vec<u8>,
    pub clean: bool,
    pub keep_alive: u16,
    pub properties: Vec<Property>,
    pub will: Option<Will>,
    pub user: Option<Vec<u8>>,
    pub password: Option<Vec<u8>>,
    pub flags: Option<u8>,
    pub protocol: Option<(Vec<u8>, u8)>,
}

pub fn connect(version: Version, client_id: impl AsRef<[u8]>) -> Connect {
    Connect {
        version,
        client_id: client_id.as_ref().to_vec(),
        clean: true,
        keep_alive: 0,
        properties: Vec::new(),
        will: None,
        user: None,
        password: None,
        flags: None,
        protocol: None,
    }
}

impl Connect {
    /// Resumes the session, if there is one.
    pub fn resume(mut self) -> Self {
        self.clean = false;
        self
    }

    /// Uses a session that outlives its connection, in any version. An existing session is resumed.
    pub fn lasting(self) -> Self {
        if self.version == V5 { self.resume().expiry(300) } else { self.resume() }
    }

    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    pub fn expiry(self, seconds: u32) -> Self {
        self.with(four(SESSION_EXPIRY, seconds))
    }

    pub fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    pub fn user(mut self, user: impl AsRef<[u8]>) -> Self {
        self.user = Some(user.as_ref().to_vec());
        self
    }

    pub fn password(mut self, password: impl AsRef<[u8]>) -> Self {
        self.password = Some(password.as_ref().to_vec());
        self
    }

    /// Uses these flags, whatever the fields say.
    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = Some(flags);
        self
    }

    /// Uses this protocol name and level, whatever the version is.
    pub fn protocol(mut self, name: impl AsRef<[u8]>, level: u8) -> Self {
        self.protocol = Some((name.as_ref().to_vec(), level));
        self
    }

    fn true_flags(&self) -> u8 {
        let mut flags = u8::from(self.clean) << 1;
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        flags | u8::from(self.password.is_some()) << 6 | u8::from(self.user.is_some()) << 7
    }
}

impl Encode for Connect {
    fn encode(&self, _: Version) -> Vec<u8> {
        let name: &[u8] = if self.version == V31 { b"MQIsdp" } else { b"MQTT" };
        let (name, level) = self.protocol.clone().unwrap_or((name.to_vec(), self.version as u8));
        let mut body = string(name);
        body.extend([level, self.flags.unwrap_or(self.true_flags())]);
        body.extend(self.keep_alive.to_be_bytes());
        body.extend(properties(self.version, &self.properties));
        body.extend(string(&self.client_id));
        if let Some(will) = &self.will {
            body.extend(properties(self.version, &will.properties));
            body.extend(string(&will.topic));
            body.extend(string(&will.payload));
        }
        body.extend(self.user.iter().chain(&self.password).flat_map(string));
        frame(0x10, &body)
    }
}

/// A PUBLISH. By default it has QoS 0.
#[derive(Clone, Debug)]
pub struct Message {
    pub topic: Vec<u8>,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub id: u16,
    pub duplicate: bool,
    pub retain: bool,
    pub properties: Vec<Property>,
}

pub fn publish(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Message {
    Message {
        topic: topic.as_ref().to_vec(),
        payload: payload.as_ref().to_vec(),
        qos: 0,
        id: 0,
        duplicate: false,
        retain: false,
        properties: Vec::new(),
    }
}

impl Message {
    /// QoS 1 with this packet identifier.
    pub fn qos1(mut self, id: u16) -> Self {
        (self.qos, self.id) = (1, id);
        self
    }

    /// QoS 2 with this packet identifier.
    pub fn qos2(mut self, id: u16) -> Self {
        (self.qos, self.id) = (2, id);
        self
    }

    pub fn qos(mut self, qos: u8, id: u16) -> Self {
        (self.qos, self.id) = (qos, id);
        self
    }

    pub fn duplicate(mut self) -> Self {
        self.duplicate = true;
        self
    }

    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    pub fn alias(self, alias: u16) -> Self {
        self.with(two(TOPIC_ALIAS, alias))
    }
}

impl Encode for Message {
    fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = string(&self.topic);
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        body.extend(properties(version, &self.properties));
        body.extend(&self.payload);
        frame(0x30 | u8::from(self.duplicate) << 3 | self.qos << 1 | u8::from(self.retain), &body)
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP, in its shortest form.
#[derive(Clone, Debug)]
pub struct Ack {
    first: u8,
    id: u16,
    code: u8,
}

pub fn puback(id: u16) -> Ack {
    Ack { first: 0x40, id, code: 0 }
}

pub fn pubrec(id: u16) -> Ack {
    Ack { first: 0x50, id, code: 0 }
}

pub fn pubrel(id: u16) -> Ack {
    Ack { first: 0x62, id, code: 0 }
}

pub fn pubcomp(id: u16) -> Ack {
    Ack { first: 0x70, id, code: 0 }
}

impl Ack {
    pub fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

impl Encode for Ack {
    fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = self.id.to_be_bytes().to_vec();
        if self.code != 0 && version == V5 {
            body.push(self.code);
        }
        frame(self.first, &body)
    }
}

/// Bit of the subscription options: No Local.
pub const NO_LOCAL: u8 = 0x04;
/// Bit of the subscription options: Retain As Published.
pub const AS_PUBLISHED: u8 = 0x08;
/// Bits of the subscription options: Retain Handling 1, only if the subscription is new.
pub const RETAIN_IF_NEW: u8 = 0x10;
/// Bits of the subscription options: Retain Handling 2, never.
pub const RETAIN_NEVER: u8 = 0x20;

/// SUBSCRIBE.
#[derive(Clone, Debug)]
pub struct Subscribe {
    id: u16,
    filters: Vec<(Vec<u8>, u8)>,
    properties: Vec<Property>,
}

pub fn subscribe(id: u16) -> Subscribe {
    Subscribe { id, filters: Vec::new(), properties: Vec::new() }
}

impl Subscribe {
    /// Adds a filter with its options byte: QoS and the constants above.
    pub fn filter(mut self, filter: impl AsRef<[u8]>, options: u8) -> Self {
        self.filters.push((filter.as_ref().to_vec(), options));
        self
    }

    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    pub fn identifier(self, identifier: u32) -> Self {
        self.with(varint(SUBSCRIPTION_ID, identifier))
    }
}

impl Encode for Subscribe {
    fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = self.id.to_be_bytes().to_vec();
        body.extend(properties(version, &self.properties));
        for (filter, options) in &self.filters {
            body.extend(string(filter));
            body.push(*options);
        }
        frame(0x82, &body)
    }
}

/// UNSUBSCRIBE.
#[derive(Clone, Debug)]
pub struct Unsubscribe {
    id: u16,
    filters: Vec<Vec<u8>>,
}

pub fn unsubscribe(id: u16) -> Unsubscribe {
    Unsubscribe { id, filters: Vec::new() }
}

impl Unsubscribe {
    pub fn filter(mut self, filter: impl AsRef<[u8]>) -> Self {
        self.filters.push(filter.as_ref().to_vec());
        self
    }
}

impl Encode for Unsubscribe {
    fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = self.id.to_be_bytes().to_vec();
        body.extend(properties(version, &[]));
        body.extend(self.filters.iter().flat_map(string));
        frame(0xA2, &body)
    }
}

pub fn pingreq() -> Vec<u8> {
    vec![0xC0, 0x00]
}

/// DISCONNECT with a reason code: `E0 00` for 0x00.
pub fn disconnect(code: u8) -> Vec<u8> {
    if code == 0 { vec![0xE0, 0x00] } else { vec![0xE0, 0x01, code] }
}

/// An AUTH of the built-in test method, with data.
pub fn auth(code: u8, method: &str, data: &str) -> Vec<u8> {
    let list = [text(AUTH_METHOD, method), text(AUTH_DATA, data)];
    frame(0xF0, &[vec![code], properties(V5, &list)].concat())
}
