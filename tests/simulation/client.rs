//! A simulated device: what it remembers across connections, and how it answers.

use crate::plan::ClientPlan;
use midge_kit::codec::{self, Encode, Version};
use std::collections::{BTreeMap, VecDeque};

/// A message that the client has sent and that is not settled.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub id: u16,
    pub number: u64,
    pub qos: u8,
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
    /// Whether PUBREL is sent.
    pub released: bool,
}

pub struct Client {
    pub name: String,
    pub plan: ClientPlan,
    pub link: Option<usize>,
    /// Whether CONNACK has come.
    pub up: bool,
    pub connect_len: u64,
    pub received: Vec<u8>,
    /// As the last CONNECT has asked.
    pub lasting: bool,
    /// Whether the session of the last established connection ends with it.
    pub is_brief: bool,
    pub outgoing: VecDeque<Outgoing>,
    /// Incoming QoS 2 messages that wait for PUBREL.
    pub held: BTreeMap<u16, Option<u64>>,
    pub aliases: BTreeMap<u16, String>,
    /// The session, in the model, that the client remembers.
    pub session: Option<usize>,
    next_id: u16,
    pub thinks_until: u64,
    pub holds_until: u64,
    /// Whether it stays away until the end.
    pub away: bool,
}

/// The largest number of messages that a client has on the way.
const OUTGOING_MAX: usize = 60;

impl Client {
    pub fn new(at: usize, plan: ClientPlan) -> Client {
        Client {
            name: format!("client-{at}"),
            plan,
            link: None,
            up: false,
            connect_len: 0,
            received: Vec::new(),
            lasting: false,
            is_brief: false,
            outgoing: VecDeque::new(),
            held: BTreeMap::new(),
            aliases: BTreeMap::new(),
            session: None,
            next_id: 0,
            thinks_until: 0,
            holds_until: 0,
            away: false,
        }
    }

    pub fn version(&self) -> Version {
        self.plan.version
    }

    pub fn is_full(&self) -> bool {
        self.outgoing.len() >= OUTGOING_MAX
    }

    pub fn free_id(&mut self, in_use: impl Fn(u16) -> bool) -> u16 {
        loop {
            self.next_id = self.next_id % 500 + 1;
            let id = self.next_id;
            if self.outgoing.iter().all(|out| out.id != id) && !in_use(id) {
                return id;
            }
        }
    }

    /// Forgets everything, because there is a new session.
    pub fn forget(&mut self) {
        self.outgoing.clear();
        self.held.clear();
    }

    /// The Session Expiry Interval in seconds that a CONNECT of this kind asks for.
    pub fn expiry_seconds(&self, lasting: bool) -> u32 {
        if lasting { self.plan.expiry_seconds } else { 0 }
    }

    /// The CONNECT packet. A 3.1.1 session lasts unless it is a clean one.
    pub fn connect(&self, clean: bool, lasting: bool, will: Option<codec::Will>) -> Vec<u8> {
        let mut connect = codec::connect(self.version(), &self.name).keep_alive(self.plan.keep_alive);
        connect.clean = clean;
        connect.will = will;
        if self.version() == Version::V5 {
            connect = connect.expiry(self.expiry_seconds(lasting));
            if let Some(maximum) = self.plan.receive_maximum {
                connect = connect.with(codec::two(codec::RECEIVE_MAXIMUM, maximum));
            }
            if let Some(maximum) = self.plan.packet_max {
                connect = connect.with(codec::four(codec::MAXIMUM_PACKET_SIZE, maximum));
            }
            if self.plan.aliases > 0 {
                connect = connect.with(codec::two(codec::TOPIC_ALIAS_MAXIMUM, self.plan.aliases));
            }
        }
        connect.encode(self.version())
    }

    pub fn publish(&self, out: &Outgoing, duplicate: bool, expiry: Option<u32>) -> Vec<u8> {
        let mut message = codec::publish(&out.topic, &out.payload).qos(out.qos, out.id);
        message.retain = out.retain;
        message.duplicate = duplicate;
        if let (Some(seconds), Version::V5) = (expiry, self.version()) {
            message = message.with(codec::four(codec::MESSAGE_EXPIRY, seconds));
        }
        message.encode(self.version())
    }
}
