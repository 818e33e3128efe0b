//! Messages from publishers to subscribers, sent in a closed or an open loop and verified one by
//! one. What the scenarios `fan-out`, `pairs` and `fan-in` differ in is a [`Plan`].
//!
//! Closed loop: a publisher has at most `window` messages that were not yet delivered to everyone
//! and, above QoS 0, acknowledged. Deliveries are counted per publisher, not per message: a window
//! of 32 to 1,000 subscribers is 32,000 deliveries on the way, whichever they are. A delivery that
//! is seen to be skipped counts as made, so that a loss does not close the window for ever.
//!
//! Open loop: message *k* of all publishers together is due at `k / rate`, whatever the broker
//! does, and carries that time.

use hdrhistogram::Histogram;

use crate::fleet::{Fleet, Identity, Joins, Offered, Roster, count_closed, detail};
use crate::net::{Closed, Handler, Net, Next};
use crate::payload::{self, Stamp};
use crate::report::histogram;
use crate::verify::{Answered, Arrival, Faults, IdSet, InFlight, Stream};
use crate::wire::{self, Packet, Publish, PublishHead, Version};

/// Who publishes what to whom. Clients are numbered: subscribers first, then publishers.
pub(crate) struct Plan {
    pub(crate) identity: Identity,
    pub(crate) qos: u8,
    pub(crate) payload: usize,
    pub(crate) run: u32,
    /// The topic of each stream.
    pub(crate) topics: Vec<String>,
    pub(crate) subscribers: Vec<SubscriberPlan>,
    pub(crate) publishers: Vec<PublisherPlan>,
}

/// What one subscriber asks for, and the streams that it must get all of.
#[derive(Clone, Debug)]
pub(crate) struct SubscriberPlan {
    pub(crate) filters: Vec<String>,
    pub(crate) streams: std::ops::Range<u32>,
}

/// The streams that one publisher sends on in turn, each message to `fan_out` subscribers.
#[derive(Clone, Debug)]
pub(crate) struct PublisherPlan {
    pub(crate) streams: std::ops::Range<u32>,
    pub(crate) fan_out: u32,
}

/// When messages are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    Closed { window: u16, burst: u16 },
    Open { per_second: f64 },
}

/// The running scenario.
pub(crate) struct Traffic {
    plan: Plan,
    version: Version,
    pace: Pace,
    fleet: Fleet,
    subscribers: Vec<Subscriber>,
    publishers: Vec<Publisher>,
    /// Per subscriber and stream, at `Subscriber::base`.
    streams: Vec<Stream>,
    /// Messages sent per stream.
    sent: Vec<u32>,
    /// Publishers that may be able to send.
    dirty: Vec<u32>,
    sending: bool,
    /// Open loop: the time of message 0, and how many messages are due.
    schedule_start: u64,
    scheduled: u64,
    recording: bool,
    pub(crate) latency: Histogram<u64>,
    pub(crate) published: u64,
    pub(crate) delivered: u64,
    /// Reads that brought at least one delivery.
    pub(crate) reads: u64,
    last_read: u64,
    /// Legal repetitions at QoS 1, with DUP.
    pub(crate) redelivered: u64,
    pub(crate) faults: Faults,
    pub(crate) details: Vec<String>,
}

#[derive(Debug)]
struct Subscriber {
    base: usize,
    first: u32,
    count: u32,
    unreleased: Option<IdSet>,
}

#[derive(Debug)]
struct Publisher {
    first: u32,
    count: u32,
    /// The stream whose turn it is, from `first`.
    turn: u32,
    fan_out: u64,
    sent: u64,
    /// Deliveries made, or known to be lost.
    credited: u64,
    /// Open loop: messages that are due, sent or not.
    due: u64,
    flight: InFlight,
    /// Is in `Traffic::dirty`.
    queued: bool,
}

/// Open loop: publications that may wait for their acknowledgement.
const OPEN_IN_FLIGHT_MAX: usize = 4096;
/// Bytes after which a publisher's messages are written even though it could send more.
const WRITE_MAX: usize = 128 * 1024;

impl Traffic {
    pub(crate) fn new(plan: Plan, pace: Pace) -> Traffic {
        let version = plan.identity.version;
        let mut base = 0;
        let subscribers: Vec<Subscriber> = plan
            .subscribers
            .iter()
            .map(|subscriber| {
                let Range { first, count } = Range::of(&subscriber.streams);
                base += count as usize;
                let unreleased = (plan.qos == 2).then(IdSet::default);
                Subscriber { base: base - count as usize, first, count, unreleased }
            })
            .collect();
        let in_flight_max = match pace {
            Pace::Closed { window, .. } => usize::from(window),
            Pace::Open { .. } => OPEN_IN_FLIGHT_MAX,
        };
        let publishers: Vec<Publisher> = plan
            .publishers
            .iter()
            .map(|publisher| {
                let Range { first, count } = Range::of(&publisher.streams);
                Publisher {
                    first,
                    count,
                    turn: 0,
                    fan_out: u64::from(publisher.fan_out),
                    sent: 0,
                    credited: 0,
                    due: 0,
                    flight: InFlight::new(in_flight_max),
                    queued: false,
                }
            })
            .collect();
        Traffic {
            version,
            pace,
            fleet: Fleet::new(version, subscribers.len() + publishers.len()),
            streams: vec![Stream::default(); base],
            sent: vec![0; plan.topics.len()],
            dirty: Vec::with_capacity(publishers.len()),
            subscribers,
            publishers,
            sending: false,
            schedule_start: 0,
            scheduled: 0,
            recording: false,
            latency: histogram(),
            published: 0,
            delivered: 0,
            reads: 0,
            last_read: 0,
            redelivered: 0,
            faults: Faults::default(),
            details: Vec::new(),
            plan,
        }
    }

    pub(crate) fn subscriber_count(&self) -> usize {
        self.subscribers.len()
    }

    pub(crate) fn client_count(&self) -> usize {
        self.subscribers.len() + self.publishers.len()
    }

    /// Every publisher may send from now on.
    pub(crate) fn start(&mut self, now: u64) {
        self.sending = true;
        self.schedule_start = now;
        for publisher in 0..self.publishers.len() {
            self.touch(publisher);
        }
    }

    /// No publisher sends anything new; what is under way still arrives.
    pub(crate) fn stop(&mut self) {
        self.sending = false;
    }

    /// Whether latencies are kept.
    pub(crate) fn record(&mut self, recording: bool) {
        self.recording = recording;
    }

    /// Open loop: counts what has become due, and tells when the next message will be.
    pub(crate) fn advance(&mut self, now: u64) -> Option<u64> {
        let Pace::Open { per_second } = self.pace else { return None };
        if !self.sending {
            return None;
        }
        loop {
            let due = self.schedule_start + due_nanos(self.scheduled, per_second);
            if due > now {
                return Some(due);
            }
            let publisher = (self.scheduled % self.publishers.len() as u64) as usize;
            self.publishers[publisher].due += 1;
            self.scheduled += 1;
            self.touch(publisher);
        }
    }

    /// Sends all that may be sent.
    pub(crate) fn pump(&mut self, net: &mut Net, now: u64) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for publisher in dirty.drain(..) {
            self.publishers[publisher as usize].queued = false;
            self.publish(publisher as usize, net, now);
        }
        // Touched meanwhile: nobody, as nothing was received.
        self.dirty = dirty;
    }

    /// Whether every message has reached everyone and was acknowledged, as far as can be known.
    pub(crate) fn is_drained(&self) -> bool {
        let sent = self.publishers.iter().all(|publisher| {
            publisher.credited >= publisher.sent * publisher.fan_out && publisher.flight.len() == 0
        });
        sent && self.subscribers.iter().all(|subscriber| subscriber.unreleased() == 0)
    }

    /// Messages that were due and could not be sent.
    pub(crate) fn behind_schedule(&self) -> u64 {
        self.publishers.iter().map(|publisher| publisher.due.saturating_sub(publisher.sent)).sum()
    }

    /// Adds to the faults what is still missing at the end.
    pub(crate) fn settle(&mut self) {
        for (at, subscriber) in self.subscribers.iter().enumerate() {
            let streams = &self.streams[subscriber.base..][..subscriber.count as usize];
            let sent = &self.sent[subscriber.first as usize..];
            let lost: u64 = streams.iter().zip(sent).map(|(stream, &sent)| stream.missing(sent)).sum();
            self.faults.lost += lost;
            if lost > 0 {
                detail(&mut self.details, || format!("subscriber {at} misses {lost}"));
            }
            let waiting = subscriber.unreleased();
            self.faults.unanswered += waiting;
            if waiting > 0 {
                detail(&mut self.details, || format!("subscriber {at} waits for {waiting} PUBREL"));
            }
        }
        for (at, publisher) in self.publishers.iter().enumerate() {
            let waiting = publisher.flight.len() as u64;
            self.faults.unanswered += waiting;
            if waiting > 0 {
                detail(&mut self.details, || format!("publisher {at} waits for {waiting} acknowledgements"));
            }
        }
    }

    fn touch(&mut self, publisher: usize) {
        let state = &mut self.publishers[publisher];
        if !state.queued {
            state.queued = true;
            self.dirty.push(publisher as u32);
        }
    }

    fn publish(&mut self, publisher: usize, net: &mut Net, now: u64) {
        let client = self.subscribers.len() + publisher;
        if !self.sending || net.is_blocked(client) || !net.is_open(client) {
            return;
        }
        if let Pace::Closed { window, burst } = self.pace {
            let state = &self.publishers[publisher];
            let (free, wanted) = (state.free(window), u64::from(burst.min(window)));
            if free < wanted {
                return;
            }
        }
        let mut more = true;
        while more && !net.is_blocked(client) {
            net.send(client, |out| more = self.fill(publisher, now, out));
        }
    }

    /// Appends a publisher's next messages; whether it stopped only for the size of the write.
    fn fill(&mut self, publisher: usize, now: u64, out: &mut Vec<u8>) -> bool {
        let (publishers, qos) = (self.publishers.len() as u64, self.plan.qos);
        let state = &mut self.publishers[publisher];
        loop {
            let sent_nanos = match self.pace {
                Pace::Closed { window, .. } if state.free(window) > 0 => now,
                Pace::Open { per_second } if state.sent < state.due => {
                    let message = state.sent * publishers + publisher as u64;
                    self.schedule_start + due_nanos(message, per_second)
                }
                _ => return false,
            };
            let id = match qos {
                0 => 0,
                _ => match state.flight.take(qos) {
                    Some(id) => id,
                    None => return false,
                },
            };
            let stream = state.first + state.turn;
            state.turn = if state.turn + 1 == state.count { 0 } else { state.turn + 1 };
            let sequence = self.sent[stream as usize];
            self.sent[stream as usize] += 1;
            state.sent += 1;
            self.published += 1;
            let topic = self.plan.topics[stream as usize].as_bytes();
            let payload_len = self.plan.payload;
            let head = PublishHead { topic, qos, dup: false, retain: false, id, payload_len };
            wire::put_publish(out, self.version, &head);
            let stamp =
                Stamp { run: self.plan.run, publisher: publisher as u32, stream, sequence, sent_nanos };
            payload::put(out, topic, payload_len, &stamp);
            if out.len() >= WRITE_MAX {
                return true;
            }
        }
    }

    /// A PUBLISH at a subscriber: acknowledge, verify, credit its publisher.
    #[inline]
    fn deliver(&mut self, id: usize, now: u64, publish: &Publish<'_>, out: &mut Vec<u8>) {
        let subscriber = &mut self.subscribers[id];
        match publish.qos {
            0 => {}
            1 => wire::put_ack(out, wire::PUBACK, publish.id),
            _ => {
                wire::put_ack(out, wire::PUBREC, publish.id);
                if !subscriber.unreleased.get_or_insert_default().insert(publish.id) {
                    // Nothing was reconnected, so nothing may be sent again.
                    self.faults.duplicate += 1;
                    return;
                }
            }
        }
        if publish.qos != self.plan.qos {
            self.faults.qos += 1;
        }
        if publish.retain {
            self.faults.retain_flag += 1;
        }
        let Some(stamp) =
            payload::read(publish.payload, publish.topic).filter(|stamp| stamp.run == self.plan.run)
        else {
            self.faults.corrupt += 1;
            return detail(&mut self.details, || format!("subscriber {id}: payload or topic changed"));
        };
        let at = stamp.stream.wrapping_sub(subscriber.first);
        if at >= subscriber.count {
            self.faults.misrouted += 1;
            return detail(&mut self.details, || {
                format!("subscriber {id} did not ask for stream {}", stamp.stream)
            });
        }
        let credit = match self.streams[subscriber.base + at as usize].arrive(stamp.sequence) {
            Arrival::First { skipped } => 1 + u64::from(skipped),
            Arrival::Late => {
                self.faults.reordered += 1;
                0
            }
            Arrival::Again if publish.qos == 1 && publish.dup => {
                self.redelivered += 1;
                return;
            }
            Arrival::Again => {
                self.faults.duplicate += 1;
                return;
            }
        };
        if publish.dup {
            self.faults.dup_flag += 1;
        }
        self.delivered += 1;
        // All packets of one read have its time, and no two reads have the same.
        if self.last_read != now {
            self.last_read = now;
            self.reads += 1;
        }
        if self.recording {
            self.latency.saturating_record(now.saturating_sub(stamp.sent_nanos));
        }
        let publisher = stamp.publisher as usize;
        if let Some(state) = self.publishers.get_mut(publisher) {
            state.credited += credit;
            if !state.queued {
                state.queued = true;
                self.dirty.push(publisher as u32);
            }
        }
    }

    fn subscriber_packet(&mut self, id: usize, now: u64, packet: Packet<'_>, out: &mut Vec<u8>) {
        match packet.kind() {
            wire::PUBLISH => match wire::publish(self.version, packet) {
                Ok(publish) => self.deliver(id, now, &publish, out),
                Err(malformed) => self.broken(id, malformed.0),
            },
            wire::PUBREL => match wire::ack(packet) {
                Ok((packet_id, _)) => {
                    wire::put_ack(out, wire::PUBCOMP, packet_id);
                    if !self.subscribers[id].unreleased.as_mut().is_some_and(|ids| ids.remove(packet_id)) {
                        self.broken(id, "PUBREL for nothing that was received");
                    }
                }
                Err(malformed) => self.broken(id, malformed.0),
            },
            wire::DISCONNECT => self.disconnected(id, packet),
            _ => self.broken(id, "a subscriber got a packet that is none of its business"),
        }
    }

    fn publisher_packet(&mut self, id: usize, packet: Packet<'_>, out: &mut Vec<u8>) {
        let publisher = id - self.subscribers.len();
        let kind = packet.kind();
        match kind {
            wire::PUBACK | wire::PUBREC | wire::PUBCOMP => match wire::ack(packet) {
                Ok((packet_id, reason)) => {
                    let failed = reason >= 0x80;
                    if failed {
                        self.faults.refused += 1;
                        detail(&mut self.details, || {
                            format!("publisher {publisher}: refused with {reason:#04x}")
                        });
                    }
                    match self.publishers[publisher].flight.answer(kind, packet_id, failed) {
                        Answered::Done => self.touch(publisher),
                        Answered::Release => wire::put_ack(out, wire::PUBREL, packet_id),
                        Answered::Unknown => self.broken(id, "acknowledgement of nothing in flight"),
                    }
                }
                Err(malformed) => self.broken(id, malformed.0),
            },
            wire::DISCONNECT => self.disconnected(id, packet),
            _ => self.broken(id, "a publisher got a packet that is none of its business"),
        }
    }

    fn disconnected(&mut self, id: usize, packet: Packet<'_>) {
        let reason = packet.body.first().copied().unwrap_or(0);
        detail(&mut self.details, || format!("client {id}: DISCONNECT with reason {reason:#04x}"));
    }

    #[cold]
    fn broken(&mut self, id: usize, why: &'static str) {
        self.faults.protocol += 1;
        detail(&mut self.details, || format!("client {id}: {why}"));
    }
}

impl Handler for Traffic {
    fn connected(&mut self, id: usize, out: &mut Vec<u8>) {
        self.plan.connect(id, out);
    }

    #[inline]
    fn packet(&mut self, id: usize, now: u64, packet: Packet<'_>, out: &mut Vec<u8>) -> Next {
        if !self.fleet.is_ready(id) {
            let mut receive_maximum = u16::MAX;
            let offered = self.fleet.offer(id, packet, out, &self.plan, &mut receive_maximum);
            if let Some(publisher) = id.checked_sub(self.subscribers.len()) {
                self.publishers[publisher].flight.limit(receive_maximum);
            }
            if offered != Offered::NotMine {
                return Next::Continue;
            }
        }
        if id < self.subscribers.len() {
            self.subscriber_packet(id, now, packet, out);
        } else {
            self.publisher_packet(id, packet, out);
        }
        Next::Continue
    }

    fn writable(&mut self, id: usize) {
        if let Some(publisher) = id.checked_sub(self.subscribers.len()) {
            self.touch(publisher);
        }
    }

    fn closed(&mut self, id: usize, why: Closed) {
        if self.fleet.closed(id, &why) {
            count_closed(&mut self.faults, &mut self.details, id, &why);
        }
    }
}

impl Joins for Traffic {
    fn fleet(&mut self) -> &mut Fleet {
        &mut self.fleet
    }
}

impl Roster for Plan {
    fn connect(&self, id: usize, out: &mut Vec<u8>) {
        let name = match id.checked_sub(self.subscribers.len()) {
            None => format!("s{id}"),
            Some(publisher) => format!("p{publisher}"),
        };
        self.identity.put_connect(out, &name);
    }

    fn filters(&self, id: usize, from: usize) -> Vec<String> {
        const PER_SUBSCRIBE: usize = 100;
        let Some(subscriber) = self.subscribers.get(id) else { return Vec::new() };
        subscriber.filters.iter().skip(from).take(PER_SUBSCRIBE).cloned().collect()
    }

    fn subscribe_qos(&self) -> u8 {
        self.qos
    }
}

impl Subscriber {
    /// QoS 2 messages that the broker has not released.
    fn unreleased(&self) -> u64 {
        self.unreleased.as_ref().map_or(0, |ids| ids.len() as u64)
    }
}

impl Publisher {
    /// How many more messages fit the window.
    fn free(&self, window: u16) -> u64 {
        let window = u64::from(window);
        let outstanding =
            (self.sent * self.fan_out).saturating_sub(self.credited).div_ceil(self.fan_out.max(1));
        window.saturating_sub(outstanding.max(self.flight.len() as u64))
    }
}

struct Range {
    first: u32,
    count: u32,
}

impl Range {
    fn of(range: &std::ops::Range<u32>) -> Range {
        Range { first: range.start, count: range.end - range.start }
    }
}

/// Nanoseconds from the schedule's start to message `message`, without drift over long runs.
fn due_nanos(message: u64, per_second: f64) -> u64 {
    (message as f64 * 1e9 / per_second) as u64
}
