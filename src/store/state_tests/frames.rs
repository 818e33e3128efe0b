//! Random frames like those of a shard, with records that refer to nothing among them.

use crate::base::{DeliveryNumber, Numbered, Random, SessionNumber, WillNumber, nth};
use crate::mqtt::{PacketId, ProtocolVersion, QoS, RetainHandling, SubscriptionId, SubscriptionOptions};
use crate::session::LossCause;
use crate::store::record::tests::packet;
use crate::store::{Record, StoredMessage, StoredWill};

/// Generates frames like a shard, with records that refer to nothing among them.
pub(crate) struct Frames {
    random: Random,
    number: u64,
    /// The sid and client identifier of each session.
    sessions: Vec<(SessionNumber, &'static str)>,
    deliveries: Vec<(SessionNumber, DeliveryNumber)>,
    wills: Vec<WillNumber>,
}

const CLIENTS: [&str; 6] = ["a", "b", "c", "dd", "ää", "f"];
const TOPICS: [&str; 6] = ["t", "t/1", "t/2", "u", "u/ü", "$x"];
const FILTERS: [&str; 6] = ["#", "t/+", "t", "$share/g/#", "$share/h/t", "u/#"];
const BYTES: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz0123456789";

impl Frames {
    pub(crate) fn new(seed: u64) -> Frames {
        Frames {
            random: Random::new(seed),
            number: 3,
            sessions: Vec::new(),
            deliveries: Vec::new(),
            wills: Vec::new(),
        }
    }

    /// The highest number that a record refers to, except for records that refer to nothing.
    pub(crate) fn highest_number(&self) -> u64 {
        self.number
    }

    fn next_number<N: Numbered>(&mut self) -> N {
        self.number += 4;
        nth(self.number)
    }

    fn sid(&mut self) -> SessionNumber {
        if self.sessions.is_empty() || self.random.below(20) == 0 {
            return nth(1 + self.random.below(2 * self.number));
        }
        let at = self.random.below(self.sessions.len() as u64) as usize;
        self.sessions[at].0
    }

    fn delivery(&mut self) -> (SessionNumber, DeliveryNumber) {
        if self.deliveries.is_empty() || self.random.below(20) == 0 {
            return (self.sid(), nth(1 + self.random.below(2 * self.number)));
        }
        let at = self.random.below(self.deliveries.len() as u64) as usize;
        self.deliveries[at]
    }

    fn message(&mut self) -> StoredMessage<'static> {
        let from = self.random.below(20) as usize;
        let len = self.random.below(25) as usize;
        StoredMessage {
            topic: self.random.pick(&TOPICS),
            properties: [self.random.pick(&[&b""[..], b"\x26\x00\x01a\x00\x01b"]), &[], &[]],
            payload: &BYTES[from..from + len],
            qos: self.random.pick(&[QoS::AtLeastOnce, QoS::ExactlyOnce]),
            retain: self.random.below(2) == 0,
            expires_at_millis: None,
            source: self.random.pick(&[&b""[..], b"source"]),
        }
    }

    fn will(&mut self) -> StoredWill<'static> {
        StoredWill { message: self.message(), delay_seconds: 5, message_expiry_seconds: Some(7) }
    }

    fn connect(&mut self, sid: SessionNumber, client_id: &'static str) -> Record<'static> {
        let will = (self.random.below(3) == 0).then(|| self.will());
        let version = self.random.pick(&[ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5]);
        let expiry_seconds = 1 + self.random.below(1000) as u32;
        Record::Session { sid, client_id, version, expiry_seconds, will }
    }

    pub(crate) fn next_frame(&mut self) -> Vec<Record<'static>> {
        let mut records = Vec::new();
        for _ in 0..=self.random.below(3) {
            self.input(&mut records);
        }
        if records.is_empty() {
            // A journal writes no frame without a record.
            records.push(Record::Alive);
        }
        records
    }

    fn input(&mut self, records: &mut Vec<Record<'static>>) {
        let sid = self.sid();
        match self.random.below(18) {
            16 => {
                let (sid, number) = match self.random.below(3) {
                    0 => (sid, None),
                    _ => {
                        let (sid, number) = self.delivery();
                        (sid, Some(number))
                    }
                };
                let (cause, count) = (self.random.pick(&LossCause::ALL), 1 + self.random.below(300) as u32);
                records.push(Record::Lost { sid, number, cause, count });
            }
            17 => {
                let left = self.random.pick(&[[0; 4], [0, 1, 0, 0]]);
                records.push(Record::LossesTold { sid, left });
            }
            0 => {
                let client = self.random.pick(&CLIENTS);
                if let Some(at) = self.sessions.iter().position(|session| session.1 == client) {
                    records.push(Record::Ended { sid: self.sessions.remove(at).0 });
                }
                let sid = self.next_number();
                self.sessions.push((sid, client));
                records.push(self.connect(sid, client));
            }
            1 => {
                if let Some(&(sid, client)) = self.sessions.iter().find(|session| session.0 == sid) {
                    records.push(self.connect(sid, client));
                }
            }
            2 => records.push(Record::Left { sid, at_millis: self.random.below(900), expiry_seconds: 9 }),
            3 if self.random.below(2) == 0 => records.push(Record::WillGone { sid }),
            3 if !self.wills.is_empty() && self.random.below(2) == 0 => {
                let at = self.random.below(self.wills.len() as u64) as usize;
                records.push(Record::WillOver { number: self.wills[at] });
            }
            3 => {
                let number = self.next_number();
                self.wills.push(number);
                let will = self.will();
                records.push(Record::Will { number, client_id: self.random.pick(&CLIENTS), will });
            }
            4 if self.random.below(3) == 0 => {
                self.sessions.retain(|session| session.0 != sid);
                records.push(Record::Ended { sid });
            }
            4 | 5 => {
                let options = SubscriptionOptions {
                    qos: self.random.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]),
                    no_local: false,
                    retain_as_published: self.random.below(2) == 0,
                    retain_handling: RetainHandling::IfNew,
                };
                let (filter, subscription_id) =
                    (self.random.pick(&FILTERS), SubscriptionId::new(self.random.below(300) as u32));
                records.push(Record::Subscribed { sid, filter, options, subscription_id });
            }
            6 => records.push(Record::Unsubscribed { sid, filter: self.random.pick(&FILTERS) }),
            7..=9 => {
                let number = self.next_number();
                records.push(Record::Message { number, message: self.message() });
                for _ in 0..self.random.below(4) {
                    let (sid, delivery) = (self.sid(), self.next_number());
                    self.deliveries.push((sid, delivery));
                    records.push(Record::Delivery {
                        sid,
                        number: delivery,
                        message: number,
                        qos: QoS::AtLeastOnce,
                        retain: self.random.below(2) == 0,
                        packet_id: PacketId::new(self.random.below(2) as u16 * 7),
                        subscription_ids: (0..self.random.below(3) as u32).map(|id| id * 200 + 1).collect(),
                        group: self.random.pick(&["", "", "$share/nobody/#", "$share/nobody/t"]),
                    });
                }
            }
            10 => {
                let (sid, number) = self.delivery();
                records.push(Record::Started {
                    sid,
                    number,
                    packet_id: packet(1 + self.random.below(500) as u16),
                });
            }
            11 => {
                let (sid, number) = self.delivery();
                records.push(Record::Released { sid, number });
            }
            12 if self.random.below(3) == 0 => {
                let (sid, delivery) = self.delivery();
                records.push(Record::Returned { sid, delivery, number: self.next_number() });
            }
            12 => {
                let (sid, number) = self.delivery();
                records.push(Record::Settled { sid, number });
            }
            13 => {
                let (packet_id, payload_bytes) =
                    (packet(1 + self.random.below(5) as u16), self.random.below(500) as u32);
                records.push(Record::Held { sid, packet_id, payload_bytes });
            }
            14 => records.push(Record::Unheld { sid, packet_id: packet(1 + self.random.below(5) as u16) }),
            _ if self.random.below(3) == 0 => {
                records.push(Record::Unretained { topic: self.random.pick(&TOPICS) });
            }
            _ => records
                .push(Record::Retained { stamp: nth(1 + self.random.below(1000)), message: self.message() }),
        }
    }
}
