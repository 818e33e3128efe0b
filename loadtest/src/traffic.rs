//! Sends messages from publishers to subscribers in a closed or an open loop, and verifies each of
//! them. The scenarios `fan-out`, `pairs`, `fan-in`, `wildcard`, `shared` and `slow` differ only in
//! their [`Plan`].
//!
//! Closed loop: a publisher has at most `window` messages that are not yet delivered to all
//! subscribers and, above QoS 0, acknowledged. Deliveries are counted per publisher, not per
//! message: a window of 32 with 1,000 subscribers allows 32,000 outstanding deliveries of any
//! messages. A delivery that is known to be skipped counts as made, so that a loss does not close
//! the window for ever. In a shared subscription no member can know what was skipped, so every
//! delivery there counts as one.
//!
//! Open loop: message *k* of all publishers together is due at `k / rate`, independently of the
//! broker, and carries that time.

use hdrhistogram::Histogram;

use crate::codec::{self, Packet, Publish, PublishHead, Version};
use crate::connector::{ClientSpec, Connector, Handled, HasConnector, count_closed, detail};
use crate::inbox::Inbox;
use crate::net::{Closed, Handler, Net, Next};
use crate::payload::{self, Stamp};
use crate::plan::{Pace, Plan, Streams};
use crate::report::histogram;
use crate::verify::{AckResult, Arrival, Faults, InFlight, Stream};

/// The clients and counters of the running scenario.
pub(crate) struct Traffic {
    plan: Plan,
    version: Version,
    pace: Pace,
    connector: Connector,
    subscribers: Vec<Subscriber>,
    publishers: Vec<Publisher>,
    /// One per subscriber and stream. `Subscriber::base` is the first of a subscriber.
    streams: Vec<Stream>,
    /// Number of messages sent per stream.
    sent: Vec<u32>,
    /// Publishers that may be able to send.
    dirty: Vec<u32>,
    sending: bool,
    /// Open loop: the time of message 0, and the number of messages that are due.
    schedule_start: u64,
    scheduled: u64,
    recording: bool,
    pub(crate) latency: Histogram<u64>,
    pub(crate) published: u64,
    pub(crate) delivered: u64,
    /// Number of reads with at least one delivery.
    pub(crate) reads: u64,
    last_read: u64,
    /// Legal repetitions at QoS 1, with DUP.
    pub(crate) redelivered: u64,
    pub(crate) slow: SlowCount,
    pub(crate) faults: Faults,
    pub(crate) details: Vec<String>,
}

/// The results of the slow subscribers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SlowCount {
    /// Messages that they received, most of them after they resumed reading.
    pub(crate) delivered: u64,
    /// Messages that they never received although the broker kept their connection.
    pub(crate) dropped: u64,
    /// Number of slow subscribers that the broker disconnected.
    pub(crate) cut_off: u64,
}

struct Subscriber {
    base: usize,
    streams: Streams,
    inbox: Inbox,
    delivered: u64,
    slow: bool,
    cut_off: bool,
    /// For a member of a group, per stream: the lowest sequence number that it may get next.
    order: Box<[u32]>,
}

#[derive(Debug)]
struct Publisher {
    first: u32,
    count: u32,
    /// The stream of the next message, relative to `first`.
    next_stream: u32,
    fan_out: u64,
    sent: u64,
    /// Deliveries that were made or are known to be lost.
    credited: u64,
    /// Open loop: messages that are due, sent or not.
    due: u64,
    flight: InFlight,
    /// Whether the publisher is in `Traffic::dirty`.
    queued: bool,
}

/// Open loop: maximum number of unacknowledged publications.
const OPEN_IN_FLIGHT_MAX: usize = 4096;
/// Writes after this number of bytes, even if the publisher could send more.
const WRITE_MAX: usize = 128 * 1024;

impl Traffic {
    pub(crate) fn new(plan: Plan, pace: Pace) -> Traffic {
        let version = plan.identity.version;
        let mut base = 0;
        let subscribers: Vec<Subscriber> = plan
            .subscribers
            .iter()
            .map(|subscriber| {
                let count = subscriber.streams.len();
                // The members of a group share their streams.
                let first = if plan.shared { 0 } else { base };
                base = first + count;
                Subscriber {
                    base: first,
                    streams: subscriber.streams.clone(),
                    inbox: Inbox::default(),
                    delivered: 0,
                    slow: subscriber.slow,
                    cut_off: false,
                    order: vec![0; if plan.shared { count } else { 0 }].into(),
                }
            })
            .collect();
        let in_flight_max = match pace {
            Pace::Closed { window, .. } => usize::from(window),
            Pace::Open { .. } => OPEN_IN_FLIGHT_MAX,
        };
        let publishers: Vec<Publisher> = plan
            .publishers
            .iter()
            .map(|publisher| Publisher {
                first: publisher.streams.start,
                count: publisher.streams.len() as u32,
                next_stream: 0,
                fan_out: u64::from(publisher.fan_out),
                sent: 0,
                credited: 0,
                due: 0,
                flight: InFlight::new(in_flight_max),
                queued: false,
            })
            .collect();
        Traffic {
            version,
            pace,
            connector: Connector::new(version, subscribers.len() + publishers.len()),
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
            slow: SlowCount::default(),
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

    /// Allows every publisher to send.
    pub(crate) fn start(&mut self, now: u64) {
        self.sending = true;
        self.schedule_start = now;
        for publisher in 0..self.publishers.len() {
            self.mark_dirty(publisher);
        }
    }

    /// Stops new messages. Messages in flight still arrive.
    pub(crate) fn stop(&mut self) {
        self.sending = false;
    }

    /// Sets whether latencies are recorded.
    pub(crate) fn record(&mut self, recording: bool) {
        self.recording = recording;
    }

    /// Open loop: counts the messages that are due, and returns when the next one is.
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
            self.mark_dirty(publisher);
        }
    }

    /// Sends all that may be sent.
    pub(crate) fn pump(&mut self, net: &mut Net, now: u64) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for publisher in dirty.drain(..) {
            self.publishers[publisher as usize].queued = false;
            self.publish(publisher as usize, net, now);
        }
        // No publisher was marked meanwhile, because nothing was received.
        self.dirty = dirty;
    }

    /// Whether every message was delivered to all its subscribers and acknowledged, as far as can
    /// be known.
    pub(crate) fn is_drained(&self) -> bool {
        let sent = self.publishers.iter().all(|publisher| {
            publisher.credited >= publisher.sent * publisher.fan_out && publisher.flight.len() == 0
        });
        let awaited = |subscriber: &&Subscriber| !subscriber.slow;
        sent && self.subscribers.iter().filter(awaited).all(|subscriber| subscriber.inbox.unreleased() == 0)
    }

    /// The slow subscribers.
    pub(crate) fn slow_ids(&self) -> Vec<usize> {
        (0..self.subscribers.len()).filter(|&id| self.subscribers[id].slow).collect()
    }

    /// Whether a subscriber is connected and misses messages.
    pub(crate) fn is_behind(&self, id: usize) -> bool {
        let subscriber = &self.subscribers[id];
        !subscriber.cut_off && (self.missing(subscriber) > 0 || subscriber.inbox.unreleased() > 0)
    }

    /// Number of deliveries to each subscriber.
    pub(crate) fn delivered_each(&self) -> Vec<u64> {
        self.subscribers.iter().map(|subscriber| subscriber.delivered).collect()
    }

    /// Number of messages that were sent to a subscriber, or to its group, and did not arrive.
    fn missing(&self, subscriber: &Subscriber) -> u64 {
        let streams = &self.streams[subscriber.base..][..subscriber.streams.len()];
        let sent = |index| self.sent[subscriber.streams.get(index) as usize];
        streams.iter().enumerate().map(|(index, stream)| stream.missing(sent(index))).sum()
    }

    /// Number of messages that were due and could not be sent.
    pub(crate) fn behind_schedule(&self) -> u64 {
        self.publishers.iter().map(|publisher| publisher.due.saturating_sub(publisher.sent)).sum()
    }

    /// Adds what is missing at the end to the faults.
    pub(crate) fn count_missing(&mut self) {
        for (at, subscriber) in self.subscribers.iter().enumerate() {
            // The losses of a group are counted once, with its first member.
            let lost = if self.plan.shared && at > 0 { 0 } else { self.missing(subscriber) };
            if subscriber.cut_off {
                self.slow.cut_off += 1;
                continue;
            }
            if subscriber.slow {
                self.slow.dropped += lost;
            }
            if !subscriber.slow || self.plan.qos > 0 {
                self.faults.lost += lost;
                if lost > 0 {
                    let who = if self.plan.shared { "group" } else { "subscriber" };
                    detail(&mut self.details, || format!("{who} {at} misses {lost} messages"));
                }
            }
            let waiting = subscriber.inbox.unreleased();
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

    fn mark_dirty(&mut self, publisher: usize) {
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

    /// Appends the next messages of a publisher. Returns whether only the size of the write stopped
    /// it.
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
                _ => match state.flight.take_id(qos) {
                    Some(id) => id,
                    None => return false,
                },
            };
            let stream = state.first + state.next_stream;
            state.next_stream = if state.next_stream + 1 == state.count { 0 } else { state.next_stream + 1 };
            let sequence = self.sent[stream as usize];
            self.sent[stream as usize] += 1;
            state.sent += 1;
            self.published += 1;
            let topic = self.plan.topics[stream as usize].as_bytes();
            let payload_len = self.plan.payload;
            let head = PublishHead { topic, qos, dup: false, retain: false, id, payload_len };
            codec::put_publish(out, self.version, &head);
            let stamp =
                Stamp { run: self.plan.run, publisher: publisher as u32, stream, sequence, sent_nanos };
            payload::put(out, topic, payload_len, &stamp);
            if out.len() >= WRITE_MAX {
                return true;
            }
        }
    }

    /// Handles a PUBLISH at a subscriber: acknowledges and verifies it, and credits its publisher.
    #[inline]
    fn handle_publish(&mut self, id: usize, now: u64, publish: &Publish<'_>, out: &mut Vec<u8>) {
        let subscriber = &mut self.subscribers[id];
        if !subscriber.inbox.receive(publish, out) {
            // No client has reconnected, so the broker must not resend.
            self.faults.duplicate += 1;
            return;
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
            return detail(&mut self.details, || format!("subscriber {id}: payload or topic was changed"));
        };
        let Some(index) = subscriber.streams.index_of(stamp.stream) else {
            self.faults.misrouted += 1;
            return detail(&mut self.details, || {
                format!("subscriber {id} has no subscription to stream {}", stamp.stream)
            });
        };
        let arrival = self.streams[subscriber.base + index].arrive(stamp.sequence);
        let credit = match arrival {
            Arrival::First { .. } | Arrival::Late if self.plan.shared => {
                self.faults.reordered += u64::from(!subscriber.is_in_order(index, stamp.sequence));
                1
            }
            Arrival::First { skipped } => 1 + u64::from(skipped),
            Arrival::Late => {
                self.faults.reordered += 1;
                0
            }
            Arrival::Duplicate if publish.qos == 1 && publish.dup => {
                self.redelivered += 1;
                return;
            }
            Arrival::Duplicate => {
                self.faults.duplicate += 1;
                return;
            }
        };
        if publish.dup {
            self.faults.dup_flag += 1;
        }
        subscriber.delivered += 1;
        if subscriber.slow {
            self.slow.delivered += 1;
            return;
        }
        self.delivered += 1;
        // All packets of one read have the same time, and no two reads have the same.
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

    fn handle_subscriber_packet(&mut self, id: usize, now: u64, packet: Packet<'_>, out: &mut Vec<u8>) {
        match packet.kind() {
            codec::PUBLISH => match codec::publish(self.version, packet) {
                Ok(publish) => self.handle_publish(id, now, &publish, out),
                Err(malformed) => self.protocol_fault(id, malformed.0),
            },
            codec::PUBREL => {
                if let Err(why) = self.subscribers[id].inbox.release(packet, out) {
                    self.protocol_fault(id, why);
                }
            }
            codec::DISCONNECT => self.handle_disconnect(id, packet),
            _ => self.protocol_fault(id, "unexpected packet for a subscriber"),
        }
    }

    fn handle_publisher_packet(&mut self, id: usize, packet: Packet<'_>, out: &mut Vec<u8>) {
        let publisher = id - self.subscribers.len();
        let kind = packet.kind();
        match kind {
            codec::PUBACK | codec::PUBREC | codec::PUBCOMP => match codec::ack(packet) {
                Ok((packet_id, reason)) => {
                    let failed = reason >= 0x80;
                    if failed {
                        self.faults.refused += 1;
                        detail(&mut self.details, || {
                            format!("publisher {publisher}: refused with {reason:#04x}")
                        });
                    }
                    match self.publishers[publisher].flight.handle_ack(kind, packet_id, failed) {
                        AckResult::Done => self.mark_dirty(publisher),
                        AckResult::Release => codec::put_ack(out, codec::PUBREL, packet_id),
                        AckResult::Unknown => {
                            self.protocol_fault(id, "acknowledgement that matches nothing in flight")
                        }
                    }
                }
                Err(malformed) => self.protocol_fault(id, malformed.0),
            },
            codec::DISCONNECT => self.handle_disconnect(id, packet),
            _ => self.protocol_fault(id, "unexpected packet for a publisher"),
        }
    }

    fn handle_disconnect(&mut self, id: usize, packet: Packet<'_>) {
        let reason = packet.body.first().copied().unwrap_or(0);
        detail(&mut self.details, || format!("client {id}: DISCONNECT with reason {reason:#04x}"));
    }

    #[cold]
    fn protocol_fault(&mut self, id: usize, why: &'static str) {
        self.faults.protocol += 1;
        detail(&mut self.details, || format!("client {id}: {why}"));
    }
}

impl Handler for Traffic {
    fn handle_connected(&mut self, id: usize, out: &mut Vec<u8>) {
        self.plan.connect(id, out);
    }

    #[inline]
    fn handle_packet(&mut self, id: usize, now: u64, packet: Packet<'_>, out: &mut Vec<u8>) -> Next {
        if !self.connector.is_ready(id) {
            let mut accepted = None;
            let handled = self.connector.handle_packet(id, packet, out, &self.plan, &mut accepted);
            if let (Some(publisher), Some(connack)) = (id.checked_sub(self.subscribers.len()), accepted) {
                self.publishers[publisher].flight.set_receive_maximum(connack.receive_maximum);
            }
            if handled != Handled::NotHandshake {
                return Next::Continue;
            }
        }
        if id < self.subscribers.len() {
            self.handle_subscriber_packet(id, now, packet, out);
        } else {
            self.handle_publisher_packet(id, packet, out);
        }
        Next::Continue
    }

    fn handle_writable(&mut self, id: usize) {
        if let Some(publisher) = id.checked_sub(self.subscribers.len()) {
            self.mark_dirty(publisher);
        }
    }

    fn handle_closed(&mut self, id: usize, why: Closed) {
        if self.connector.handle_closed(id, &why) {
            if let Some(subscriber) = self.subscribers.get_mut(id).filter(|subscriber| subscriber.slow) {
                subscriber.cut_off = true;
                return;
            }
            count_closed(&mut self.faults, &mut self.details, id, &why);
        }
    }
}

impl HasConnector for Traffic {
    fn connector(&mut self) -> &mut Connector {
        &mut self.connector
    }
}

impl Subscriber {
    /// For a member of a group: whether the message is later than all that it got of the stream.
    fn is_in_order(&mut self, index: usize, sequence: u32) -> bool {
        let next = &mut self.order[index];
        let is_later = sequence >= *next;
        *next = (*next).max(sequence + 1);
        is_later
    }
}

impl Publisher {
    /// Number of messages that still fit the window.
    fn free(&self, window: u16) -> u64 {
        let window = u64::from(window);
        let outstanding =
            (self.sent * self.fan_out).saturating_sub(self.credited).div_ceil(self.fan_out.max(1));
        window.saturating_sub(outstanding.max(self.flight.len() as u64))
    }
}

/// Nanoseconds from the start of the schedule to message `message`, without drift in long runs.
fn due_nanos(message: u64, per_second: f64) -> u64 {
    (message as f64 * 1e9 / per_second) as u64
}
