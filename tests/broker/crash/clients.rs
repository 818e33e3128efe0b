//! The clients of the crash tests. Each keeps across the broker's ends what the standard demands of a client.

use super::Round;
use super::ledger::{Inbox, Number, Outbox};
use super::link::{Link, PATIENCE, broken};
use midge::base::Random;
use midge_kit::codec::{self, Kind, Packet};
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

/// How long a client waits for a packet before it does something else.
const GLANCE: Duration = Duration::from_millis(2);

/// A session that was acknowledged once must exist from then on.
#[derive(Debug, Default)]
struct Presence {
    is_acknowledged: bool,
}

impl Presence {
    fn resume(&mut self, round: &Round, id: &str) -> io::Result<Link> {
        let (link, is_present) = Link::resume(round.address, id)?;
        if self.is_acknowledged && !is_present {
            return Err(broken("its session is lost: CONNACK says none is present"));
        }
        self.is_acknowledged = true;
        Ok(link)
    }
}

/// Sends numbered messages, and repeats those that were not acknowledged.
#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) name: String,
    pub(super) qos: u8,
    pub(super) retain: bool,
    /// The topics, which it uses in turn.
    pub(super) topics: Vec<String>,
    pub(super) outbox: Outbox,
    presence: Presence,
}

impl Publisher {
    pub(super) fn new(name: &str, qos: u8, retain: bool, topics: &[&str]) -> Publisher {
        Publisher {
            name: name.to_owned(),
            qos,
            retain,
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            outbox: Outbox::default(),
            presence: Presence::default(),
        }
    }

    /// Publishes until the broker ends.
    pub(super) fn load(&mut self, round: &Round, mut random: Random) -> io::Result<()> {
        let mut link = self.resume(round)?;
        // A retained message must not be sent again while a later one of its topic is pending.
        let window = if self.retain { self.topics.len() } else { 8 };
        let mut turn = self.outbox.sent.values().sum::<Number>();
        while !round.is_cut() {
            if self.outbox.flights.len() < window && random.below(3) != 0 {
                let topic = self.topics[turn % self.topics.len()].clone();
                let is_free = self.outbox.flights.iter().all(|flight| flight.topic != topic);
                if is_free || !self.retain {
                    turn += 1;
                    let flight = self.outbox.begin(&topic);
                    let message = self.message(&topic, flight.number, flight.id);
                    link.send(message)?;
                    continue;
                }
            }
            self.look(&mut link)?;
        }
        Ok(())
    }

    /// Sends nothing new, until everything is acknowledged.
    pub(super) fn finish(&mut self, round: &Round) -> io::Result<()> {
        let mut link = self.resume(round)?;
        let until = Instant::now() + PATIENCE;
        while !self.outbox.flights.is_empty() {
            self.look(&mut link)?;
            if Instant::now() > until {
                return Err(broken(format!("no acknowledgement for {:?}", self.outbox.flights)));
            }
        }
        Ok(())
    }

    fn message(&self, topic: &str, number: Number, id: u16) -> codec::Message {
        let message = codec::publish(topic, number.to_string()).qos(self.qos, id);
        if self.retain { message.retain() } else { message }
    }

    fn resume(&mut self, round: &Round) -> io::Result<Link> {
        let mut link = self.presence.resume(round, &self.name)?;
        // [MQTT5-4.4.0-1]
        for flight in &self.outbox.flights {
            if flight.is_released {
                link.send(codec::pubrel(flight.id))?;
            } else {
                link.send(self.message(&flight.topic, flight.number, flight.id).duplicate())?;
            }
        }
        Ok(link)
    }

    fn look(&mut self, link: &mut Link) -> io::Result<()> {
        match (self.qos, link.receive(GLANCE)?) {
            (_, None) => Ok(()),
            (1, Some(Packet { kind: Kind::Puback, id, code, .. })) => {
                self.outbox.acknowledge(id, 1, code).map_err(broken)
            }
            (2, Some(Packet { kind: Kind::Pubrec, id, code, .. })) => {
                self.outbox.acknowledge(id, 2, code).map_err(broken)?;
                link.send(codec::pubrel(id))
            }
            (2, Some(Packet { kind: Kind::Pubcomp, id, .. })) => self.outbox.complete(id).map_err(broken),
            (_, Some(other)) => Err(broken(format!("{other:?} came"))),
        }
    }
}

/// Receives messages and records them.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) name: String,
    pub(super) filters: Vec<String>,
    pub(super) qos: u8,
    /// Whether it is offline most of the time while there is load.
    pub(super) is_absent: bool,
    pub(super) inbox: Inbox,
    /// Acknowledgements that it has not sent yet, and how many it delays under load.
    owed: Vec<codec::Ack>,
    owed_max: usize,
    /// The number of received SUBACKs.
    grants: usize,
    presence: Presence,
}

impl Subscriber {
    pub(super) fn new(name: &str, filters: &[&str], qos: u8, is_absent: bool) -> Subscriber {
        Subscriber {
            name: name.to_owned(),
            filters: filters.iter().map(|filter| (*filter).to_owned()).collect(),
            qos,
            is_absent,
            inbox: Inbox::default(),
            owed: Vec::new(),
            owed_max: if is_absent { 100 } else { 0 },
            grants: 0,
            presence: Presence::default(),
        }
    }

    /// Subscribes. It is called before any load.
    pub(super) fn enter(&mut self, round: &Round) -> io::Result<()> {
        let mut link = self.presence.resume(round, &self.name)?;
        for filter in &self.filters {
            link.send(codec::subscribe(1).filter(filter, self.qos))?;
            match link.receive(PATIENCE)? {
                Some(Packet { kind: Kind::Suback, id: 1, codes, .. }) if codes == [self.qos] => {}
                other => return Err(broken(format!("SUBACK, not {other:?}"))),
            }
        }
        Ok(())
    }

    /// Receives messages until the broker ends.
    pub(super) fn load(&mut self, round: &Round) -> io::Result<()> {
        let mut link = self.presence.resume(round, &self.name)?;
        self.owed.clear();
        while !round.is_cut() {
            self.look(&mut link, self.owed_max)?;
            if self.is_absent {
                // The queue must last longer than the broker.
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        Ok(())
    }

    /// Receives messages until everything up to `last` has come, and its acknowledgements are on the disk.
    pub(super) fn finish(&mut self, round: &Round, last: &BTreeMap<String, Number>) -> io::Result<()> {
        let mut link = self.presence.resume(round, &self.name)?;
        self.owed.clear();
        let mut until = Instant::now() + PATIENCE;
        loop {
            if self.look(&mut link, 0)? {
                until = Instant::now() + PATIENCE;
                continue;
            }
            let missing: Vec<(&String, Vec<Number>)> = last
                .iter()
                .filter(|(topic, _)| self.wants(topic))
                .map(|(topic, &last)| (topic, self.inbox.missing(topic, last)))
                .filter(|(_, missing)| !missing.is_empty())
                .collect();
            if missing.is_empty() {
                break;
            }
            if Instant::now() > until {
                return Err(broken(format!("acknowledged to the publisher, but never came: {missing:?}")));
            }
        }
        // The broker does not answer a PUBACK. Only the answer to a later packet shows that the log has it.
        let (until, grants) = (Instant::now() + PATIENCE, self.grants);
        link.send(codec::subscribe(1).filter(&self.filters[0], self.qos))?;
        while self.grants == grants {
            self.look(&mut link, 0)?;
            if Instant::now() > until {
                return Err(broken("no SUBACK came"));
            }
        }
        self.inbox.settle();
        Ok(())
    }

    fn wants(&self, topic: &str) -> bool {
        self.filters.iter().any(|filter| match filter.strip_suffix('#') {
            Some(prefix) => topic.starts_with(prefix),
            None => filter == topic,
        })
    }

    /// Returns true if something came.
    fn look(&mut self, link: &mut Link, owed_max: usize) -> io::Result<bool> {
        match link.receive(GLANCE)? {
            None => Ok(false),
            Some(packet) if packet.kind == Kind::Publish && packet.qos > 0 => {
                let (id, qos, topic, payload) = (packet.id, packet.qos, packet.topic_text(), &packet.payload);
                let number = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok());
                let number = number.ok_or_else(|| broken(format!("{payload:?} came from {topic}")))?;
                if !self.wants(&topic) || qos > self.qos {
                    return Err(broken(format!("{topic} came at QoS {qos}")));
                }
                // It is recorded before it is acknowledged.
                self.inbox.take(&topic, number, qos, id).map_err(broken)?;
                self.owed.push(if qos == 2 { codec::pubrec(id) } else { codec::puback(id) });
                if self.owed.len() > owed_max {
                    for ack in self.owed.drain(..) {
                        link.send(ack)?;
                    }
                }
                Ok(true)
            }
            Some(Packet { kind: Kind::Pubrel, id, .. }) => {
                self.inbox.release(id);
                link.send(codec::pubcomp(id))?;
                Ok(true)
            }
            Some(Packet { kind: Kind::Suback, id: 1, codes, .. }) if codes == [self.qos] => {
                self.grants += 1;
                Ok(true)
            }
            Some(other) => Err(broken(format!("{other:?} came"))),
        }
    }
}

/// The known state of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Subscribed,
    Unsubscribed,
    /// The acknowledgement did not come.
    InDoubt,
}

/// Subscribes and unsubscribes all the time.
#[derive(Debug)]
pub(super) struct Storm {
    filters: Vec<Known>,
    /// The filters of pending packets, by packet identifier, and whether they subscribe.
    flights: BTreeMap<u16, (usize, bool)>,
    last_id: u16,
    presence: Presence,
}

const STORM: &str = "storm-client";
const FILTERS: usize = 8;

impl Storm {
    pub(super) fn new() -> Storm {
        Storm {
            filters: vec![Known::Unsubscribed; FILTERS],
            flights: BTreeMap::new(),
            last_id: 0,
            presence: Presence::default(),
        }
    }

    pub(super) fn enter(&mut self, round: &Round) -> io::Result<()> {
        let mut link = self.presence.resume(round, STORM)?;
        link.send(codec::subscribe(1).filter("storm/marker", 1))?;
        match link.receive(PATIENCE)? {
            Some(Packet { kind: Kind::Suback, id: 1, codes, .. }) if codes == [1] => Ok(()),
            other => Err(broken(format!("SUBACK, not {other:?}"))),
        }
    }

    /// Checks that everything acknowledged is in force.
    pub(super) fn check(&mut self, round: &Round) -> io::Result<()> {
        let mut link = self.presence.resume(round, STORM)?;
        for (index, _) in std::mem::take(&mut self.flights).into_values() {
            self.filters[index] = Known::InDoubt;
        }
        let mut prober = Link::visit(round.address, "prober")?;
        let marker = FILTERS;
        for index in 0..=marker {
            let topic = if index == marker { "storm/marker".to_owned() } else { filter(index) };
            let payload = format!("{} {index}", round.cycle);
            prober.send(codec::publish(&topic, &payload).qos1(1))?;
            match prober.receive(PATIENCE)? {
                Some(Packet { kind: Kind::Puback, id: 1, code, .. }) if code < 0x80 => {}
                other => return Err(broken(format!("PUBACK for the probe, not {other:?}"))),
            }
        }
        let mut came = [false; FILTERS + 1];
        let mut until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match link.receive(GLANCE)? {
                None => {}
                Some(packet) if packet.kind == Kind::Publish && packet.qos == 1 => {
                    link.send(codec::puback(packet.id))?;
                    let (topic, payload) = (packet.topic_text(), packet.payload_text());
                    let (cycle, index) = payload
                        .split_once(' ')
                        .and_then(|(cycle, index)| {
                            Some((cycle.parse::<u32>().ok()?, index.parse::<usize>().ok()?))
                        })
                        .ok_or_else(|| broken(format!("{payload:?} came from {topic}")))?;
                    // An earlier probe may come again until it is acknowledged.
                    if cycle == round.cycle {
                        came[index] = true;
                    }
                }
                Some(other) => return Err(broken(format!("{other:?} came"))),
            }
            let is_all = came[marker]
                && (0..FILTERS).all(|index| self.filters[index] != Known::Subscribed || came[index]);
            if is_all {
                // A message that should not come may still come.
                until = until.min(Instant::now() + Duration::from_millis(10));
            }
        }
        for (index, known) in self.filters.iter().enumerate() {
            match (known, came[index]) {
                (Known::Subscribed, false) => {
                    return Err(broken(format!("SUBSCRIBE {} was acknowledged and is lost", filter(index))));
                }
                (Known::Unsubscribed, true) => {
                    return Err(broken(format!(
                        "UNSUBSCRIBE {} was acknowledged and is lost",
                        filter(index)
                    )));
                }
                _ => {}
            }
        }
        if came[marker] { Ok(()) } else { Err(broken("storm/marker is lost")) }
    }

    /// Subscribes and unsubscribes until the broker ends.
    pub(super) fn load(&mut self, round: &Round, mut random: Random) -> io::Result<()> {
        let mut link = self.presence.resume(round, STORM)?;
        while !round.is_cut() {
            let index = random.index(FILTERS);
            let is_free = self.flights.values().all(|&(flying, _)| flying != index);
            if is_free && self.flights.len() < 3 {
                self.last_id = self.last_id.checked_add(1).unwrap_or(1);
                let subscribes = self.filters[index] != Known::Subscribed;
                self.flights.insert(self.last_id, (index, subscribes));
                if subscribes {
                    link.send(codec::subscribe(self.last_id).filter(filter(index), 1))?;
                } else {
                    link.send(codec::unsubscribe(self.last_id).filter(filter(index)))?;
                }
                continue;
            }
            match link.receive(GLANCE)? {
                None => {}
                Some(Packet { kind: Kind::Suback, id, codes, .. }) if codes == [1] => {
                    self.settle(id, true)?
                }
                Some(Packet { kind: Kind::Unsuback, id, codes, .. }) if codes == [0] => {
                    self.settle(id, false)?
                }
                // The broker ended before this probe was acknowledged.
                Some(Packet { kind: Kind::Publish, id, qos: 1, .. }) => link.send(codec::puback(id))?,
                Some(other) => return Err(broken(format!("{other:?} came"))),
            }
        }
        Ok(())
    }

    fn settle(&mut self, id: u16, subscribed: bool) -> io::Result<()> {
        match self.flights.remove(&id) {
            Some((index, subscribes)) if subscribes == subscribed => {
                self.filters[index] = if subscribed { Known::Subscribed } else { Known::Unsubscribed };
                Ok(())
            }
            other => Err(broken(format!("acknowledgement {id} for {other:?}"))),
        }
    }
}

fn filter(index: usize) -> String {
    format!("storm/{index}")
}
