//! The messages that clients must get: what a publisher was promised, what a subscriber has received, and the
//! difference.

use std::collections::{BTreeMap, HashMap};

/// The number of a message. The messages of a topic are numbered from 1.
pub(super) type Number = usize;

/// The messages of one topic that a subscriber has received.
#[derive(Clone, Debug, Default)]
pub(super) struct Received {
    /// How often each was received, by number.
    times: Vec<u32>,
    /// The highest number so far.
    last: Number,
    /// Numbers up to this one are settled: everyone had acknowledged them, and that was on the disk before
    /// the last kill.
    settled: Number,
}

/// The messages that a subscriber has received, and those that it holds according to the protocol.
#[derive(Clone, Debug, Default)]
pub(super) struct Inbox {
    received: BTreeMap<String, Received>,
    /// QoS 2 messages between PUBLISH and PUBREL, by packet identifier.
    held: HashMap<u16, (String, Number)>,
}

impl Inbox {
    /// Records a message. An error is a broken promise.
    pub(super) fn take(&mut self, topic: &str, number: Number, qos: u8, id: u16) -> Result<(), String> {
        let what = format!("{topic} number {number} at QoS {qos} with packet identifier {id}");
        if qos == 2 {
            if let Some((held_topic, held)) = self.held.get(&id) {
                // The same message is only taken once. [MQTT5-4.3.3-10]
                return if (held_topic.as_str(), *held) == (topic, number) {
                    Ok(())
                } else {
                    Err(format!("{what} came while {held_topic} number {held} still has it"))
                };
            }
            self.held.insert(id, (topic.to_owned(), number));
        }
        let received = self.received.entry(topic.to_owned()).or_default();
        if received.times.len() <= number {
            received.times.resize(number + 1, 0);
        }
        if number <= received.settled {
            return Err(format!("{what} came though it was over long ago"));
        }
        received.times[number] += 1;
        if received.times[number] > 1 {
            return if qos == 2 { Err(format!("{what} came twice")) } else { Ok(()) };
        }
        if number < received.last {
            return Err(format!("{what} came for the first time after number {}", received.last));
        }
        received.last = number;
        Ok(())
    }

    /// Settles everything that came: it is completely acknowledged, and must not come again.
    pub(super) fn settle(&mut self) {
        for received in self.received.values_mut() {
            received.settled = received.last;
        }
    }

    /// Records PUBREL.
    pub(super) fn release(&mut self, id: u16) {
        self.held.remove(&id);
    }

    /// The numbers up to `last` that never came.
    pub(super) fn missing(&self, topic: &str, last: Number) -> Vec<Number> {
        let times = self.received.get(topic).map_or(&[][..], |received| &received.times);
        (1..=last).filter(|&number| times.get(number).is_none_or(|&times| times == 0)).collect()
    }
}

/// A pending message of a publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flight {
    pub(super) id: u16,
    pub(super) topic: String,
    pub(super) number: Number,
    /// Whether PUBREC came. If so, only PUBREL may be sent again.
    pub(super) is_released: bool,
}

/// The pending messages of a publisher, and those that were acknowledged.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox {
    pub(super) flights: Vec<Flight>,
    /// The last number sent, by topic.
    pub(super) sent: BTreeMap<String, Number>,
    /// The last number acknowledged, by topic, with PUBACK or PUBREC.
    pub(super) acknowledged: BTreeMap<String, Number>,
    last_id: u16,
}

impl Outbox {
    /// Begins the next message of a topic.
    pub(super) fn begin(&mut self, topic: &str) -> Flight {
        let number = self.sent.entry(topic.to_owned()).or_default();
        *number += 1;
        let number = *number;
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if self.flights.iter().all(|flight| flight.id != self.last_id) {
                break;
            }
        }
        let flight = Flight { id: self.last_id, topic: topic.to_owned(), number, is_released: false };
        self.flights.push(flight.clone());
        flight
    }

    /// Records PUBACK or PUBREC.
    pub(super) fn acknowledge(&mut self, id: u16, qos: u8, reason: u8) -> Result<(), String> {
        let at = self.flights.iter().position(|flight| flight.id == id);
        let Some(at) = at else {
            return Err(format!("an acknowledgement for {id}, which is not on its way"));
        };
        let flight = &mut self.flights[at];
        if reason >= 0x80 {
            return Err(format!("{flight:?} was refused with {reason:#x}"));
        }
        let acknowledged = self.acknowledged.entry(flight.topic.clone()).or_default();
        *acknowledged = flight.number.max(*acknowledged);
        flight.is_released = true;
        if qos == 1 {
            self.flights.remove(at);
        }
        Ok(())
    }

    /// Records PUBCOMP.
    pub(super) fn complete(&mut self, id: u16) -> Result<(), String> {
        let at = self.flights.iter().position(|flight| flight.id == id && flight.is_released);
        let Some(at) = at else { return Err(format!("PUBCOMP for {id}, which was not released")) };
        self.flights.remove(at);
        Ok(())
    }
}

#[test]
fn what_never_came_is_missing() {
    let mut inbox = Inbox::default();
    for number in [1, 2, 4] {
        inbox.take("t", number, 1, 7).unwrap();
    }
    assert_eq!(inbox.missing("t", 5), [3, 5]);
    assert_eq!(inbox.missing("t", 2), [] as [Number; 0]);
    assert_eq!(inbox.missing("u", 1), [1]);
}

#[test]
fn qos_1_may_come_twice_and_qos_2_only_while_it_is_held() {
    let mut inbox = Inbox::default();
    inbox.take("t", 1, 1, 7).unwrap();
    inbox.take("t", 2, 1, 8).unwrap();
    inbox.take("t", 1, 1, 9).unwrap();
    inbox.take("u", 1, 2, 7).unwrap();
    inbox.take("u", 1, 2, 7).unwrap();
    assert!(inbox.take("u", 2, 2, 7).unwrap_err().contains("still has it"));
    inbox.release(7);
    inbox.take("u", 2, 2, 7).unwrap();
    assert!(inbox.take("u", 1, 2, 8).unwrap_err().contains("came twice"));
}

#[test]
fn a_first_delivery_out_of_order_is_told() {
    let mut inbox = Inbox::default();
    inbox.take("t", 2, 1, 7).unwrap();
    inbox.take("u", 1, 1, 8).unwrap();
    assert!(inbox.take("t", 1, 1, 9).unwrap_err().contains("after number 2"));
}

#[test]
fn a_flight_ends_with_its_last_acknowledgement() {
    let mut outbox = Outbox::default();
    let (first, second) = (outbox.begin("t"), outbox.begin("t"));
    assert_eq!((first.number, second.number, outbox.sent["t"]), (1, 2, 2));
    assert_ne!(first.id, second.id);
    outbox.acknowledge(first.id, 1, 0).unwrap();
    assert_eq!((outbox.flights.len(), outbox.acknowledged["t"]), (1, 1));
    assert!(outbox.complete(second.id).is_err(), "not released");
    outbox.acknowledge(second.id, 2, 0x10).unwrap();
    assert_eq!((outbox.flights[0].is_released, outbox.acknowledged["t"]), (true, 2));
    outbox.complete(second.id).unwrap();
    assert_eq!(outbox.flights, []);
    assert!(outbox.acknowledge(first.id, 1, 0).is_err());
    let third = outbox.begin("t");
    assert!(outbox.acknowledge(third.id, 1, 0x97).unwrap_err().contains("0x97"));
}

#[test]
fn what_is_settled_may_not_come_again() {
    let mut inbox = Inbox::default();
    inbox.take("t", 1, 1, 7).unwrap();
    inbox.settle();
    inbox.take("t", 2, 1, 8).unwrap();
    inbox.take("t", 2, 1, 8).unwrap();
    assert!(inbox.take("t", 1, 1, 9).unwrap_err().contains("long ago"));
}
