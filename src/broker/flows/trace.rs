//! What traces show: the packets of a client in both directions, what is decided about messages, and events.
//!
//! While no trace runs, each place checks one flag. What is sent is read from the output of a turn, so sending a
//! packet checks nothing.

use super::mount::mounted;
use crate::base::{ConnectionSlot, SessionSlot, ShardId, Time};
use crate::broker::components::connections::{CONNECT_TYPE, Connection};
use crate::broker::components::sessions::{BACKLOGGED, CHECKED, GATED, MOUNTED};
use crate::broker::components::traces::{TraceAbout, TraceSight};
use crate::broker::fanout::Fanout;
use crate::broker::outbox::Touched;
use crate::broker::outcome::Taken;
use crate::broker::trace::TraceDirection;
use crate::broker::{Counter, Event, Shard};
use crate::mqtt::codec::{
    Frame, Framing, PACKET_BYTES_LIMIT, PacketSummary, frame, summarize_received, summarize_sent,
};
use crate::mqtt::{ProtocolVersion, QoS, TopicFilter, filter_matches};
use crate::session::LossCause;
use std::net::SocketAddr;
use std::sync::Arc;

/// The number of packets that are looked at in the output of one turn. Those of further ones are counted.
const PACKETS_A_TURN: usize = 2048;
/// The number of a client's subscriptions that are compared with a topic, and of those that are named.
const FILTERS_LOOKED_AT: usize = 1000;
const FILTERS_NAMED: usize = 5;

/// What a delivery may change.
#[derive(PartialEq, Eq)]
struct DeliveryState {
    queued: usize,
    inflight: usize,
    pending_bytes: u32,
    lost: u64,
    too_large: u64,
    dropped_slow: u64,
}

/// A delivery that is traced.
struct TracedDelivery<'a> {
    subscriber: SessionSlot,
    topic: &'a str,
    group: Option<&'a Arc<str>>,
}

impl Shard {
    /// Shows a packet that a client has sent.
    #[cold]
    pub(in crate::broker) fn trace_received(&mut self, now: Time, slot: ConnectionSlot, packet: Frame<'_>) {
        let Some(connection) = self.connections.get(slot) else { return };
        let peer = Some(SocketAddr::from(&connection.peer));
        let session = self.connections.session_of(slot);
        let client = session.map(|session| &*self.sessions.session(session).client_id);
        let known = TraceAbout { client, peer, ..TraceAbout::default() };
        let is_connect = packet.first_byte >> 4 == CONNECT_TYPE;
        if !is_connect && !self.traces.follows_topics() && !self.traces.follows(&known) {
            return;
        }
        let version = session.map_or(ProtocolVersion::V5, |session| self.sessions.slot(session).version);
        let summary = summarize_received(version, packet);
        let alias_of = |alias: u16| {
            let bound = connection.extras.as_ref()?.aliases_in.get(usize::from(alias).checked_sub(1)?)?;
            bound.as_deref()
        };
        let topic = whole_topic(&summary, alias_of);
        let mut words = summary.words.clone();
        note_alias(&mut words, &summary, topic);
        let is_mounted = session.is_some_and(|session| self.sessions.slot(session).flags & MOUNTED != 0);
        let mount_point = if is_mounted { &*self.terms(slot).mount_point } else { "" };
        let topic = topic.map(|topic| mounted(mount_point, topic));
        let about = TraceAbout {
            client: client.or(summary.client_id),
            peer,
            topic: topic.as_deref(),
            publisher: None,
        };
        let sight = TraceSight {
            direction: TraceDirection::In,
            what: summary.packet,
            words,
            bytes: packet.total_len,
            payload: summary.payload,
        };
        self.traces.show(now, &about, &sight);
    }

    /// Shows that a packet is read again later.
    #[cold]
    pub(in crate::broker) fn trace_waits(&mut self, now: Time, slot: ConnectionSlot) {
        self.trace_of(now, slot, &TraceSight::inside("packet waits", "it is read again later"));
    }

    /// Shows that the client that begins with this CONNECT is at home on another shard.
    #[cold]
    pub(in crate::broker) fn trace_hand_over(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        to: ShardId,
        unread: &[u8],
    ) {
        let Ok(Framing::Whole(packet)) = frame(unread, PACKET_BYTES_LIMIT) else { return };
        let client = summarize_received(ProtocolVersion::V5, packet).client_id;
        let peer = self.connections.get(slot).map(|connection| SocketAddr::from(&connection.peer));
        let words = format!("to shard {to}, the home of its client identifier");
        let about = TraceAbout { client, peer, ..TraceAbout::default() };
        self.traces.show(now, &about, &TraceSight::inside("handed over", words));
    }

    /// Shows a decision about a connection.
    fn trace_of(&mut self, now: Time, slot: ConnectionSlot, sight: &TraceSight<'_>) {
        let client = self.connections.session_of(slot);
        let client = client.map(|session| &*self.sessions.session(session).client_id);
        let peer = self.connections.get(slot).map(|connection| SocketAddr::from(&connection.peer));
        let about = TraceAbout { client, peer, ..TraceAbout::default() };
        self.traces.show(now, &about, sight);
    }

    /// Shows what goes to the sockets. Call it when the output is complete, and before it is sent.
    pub fn trace_output(&mut self, now: Time) {
        if self.traces.is_on() {
            self.show_output(now);
        }
    }

    #[cold]
    fn show_output(&mut self, now: Time) {
        let touched = self.outbox.touched().to_vec();
        let mut left = PACKETS_A_TURN;
        for touched in touched {
            self.show_sent(now, touched, &mut left);
        }
    }

    /// Shows the last packets to a connection that is about to go.
    #[cold]
    pub(in crate::broker) fn trace_last_output(&mut self, slot: ConnectionSlot) {
        if let Some(&touched) = self.outbox.touched_of(slot) {
            let mut left = PACKETS_A_TURN;
            self.show_sent(self.durability.now(), touched, &mut left);
        }
    }

    fn show_sent(&mut self, now: Time, touched: Touched, left: &mut usize) {
        let Some(connection) = self.connections.get(touched.slot) else { return };
        let peer = Some(SocketAddr::from(&connection.peer));
        let session = self.connections.session_of(touched.slot);
        let client = session.map(|session| &*self.sessions.session(session).client_id);
        let about = TraceAbout { client, peer, ..TraceAbout::default() };
        if !self.traces.follows_topics() && !self.traces.follows(&about) {
            return;
        }
        let version = session.map_or(ProtocolVersion::V5, |session| self.sessions.slot(session).version);
        let is_mounted = session.is_some_and(|session| self.sessions.slot(session).flags & MOUNTED != 0);
        let mount_point: Box<str> =
            if is_mounted { self.terms(touched.slot).mount_point.as_str().into() } else { "".into() };
        let ranges = self.outbox.segments_of(&touched);
        let bytes = ranges.flat_map(|range| self.outbox.bytes(range)).copied().collect::<Vec<u8>>();
        let mut rest = bytes.as_slice();
        while let Ok(Framing::Whole(packet)) = frame(rest, PACKET_BYTES_LIMIT) {
            if *left == 0 {
                return self.traces.leave_out(1);
            }
            *left -= 1;
            rest = &rest[packet.total_len..];
            let summary = summarize_sent(version, packet);
            let topic = whole_topic(&summary, |alias| alias_out(connection, alias));
            let mut words = summary.words.clone();
            note_alias(&mut words, &summary, topic);
            let topic = topic.map(|topic| mounted(&mount_point, topic));
            let sight = TraceSight {
                direction: TraceDirection::Out,
                what: summary.packet,
                words,
                bytes: packet.total_len,
                payload: summary.payload,
            };
            self.traces.show(now, &TraceAbout { topic: topic.as_deref(), ..about }, &sight);
        }
    }

    /// Shows an event.
    #[cold]
    pub(in crate::broker) fn trace_event(&mut self, event: &Event) {
        let Some(shown) = event.in_words() else { return };
        // Its client may be connected, or its event may have come without its address.
        let of_client = || {
            let session = self.sessions.find(shown.client)?;
            let connection = self.connections.get(self.sessions.slot(session).connection?)?;
            Some(SocketAddr::from(&connection.peer))
        };
        let about = TraceAbout {
            client: Some(shown.client).filter(|client| !client.is_empty()),
            peer: shown.peer.or_else(of_client),
            topic: shown.topic,
            publisher: None,
        };
        self.traces.show(self.durability.now(), &about, &TraceSight::inside(shown.what, shown.words));
    }

    /// Shows the loss of a message of QoS 1 or 2.
    #[cold]
    pub(in crate::broker) fn trace_loss(&mut self, now: Time, session: SessionSlot, cause: LossCause) {
        let words = match cause {
            LossCause::QueueFull => "its queue is full",
            LossCause::Expired => "the message has expired while it waited",
            LossCause::TooLarge => "the message is larger than the client's Maximum Packet Size",
            LossCause::Withdrawn => "the client may not receive the message any more",
        };
        let client = Some(&*self.sessions.session(session).client_id);
        let slot = self.sessions.slot(session).connection;
        let peer = slot.and_then(|slot| Some(SocketAddr::from(&self.connections.get(slot)?.peer)));
        let about = TraceAbout { client, peer, ..TraceAbout::default() };
        self.traces.show(now, &about, &TraceSight::inside("lost", words));
    }

    /// Shows whom a message has found on this shard, before it goes there.
    #[cold]
    pub(in crate::broker) fn trace_route(&mut self, fanout: &Fanout<'_>) {
        let publication = &fanout.publication;
        let publisher = publication.origin.and_then(|key| self.sessions.resolve(key));
        let client = publisher.map(|session| self.sessions.session(session).client_id.clone());
        let slot = publisher.and_then(|session| self.sessions.slot(session).connection);
        let peer = slot.and_then(|slot| Some(SocketAddr::from(&self.connections.get(slot)?.peer)));
        let about =
            TraceAbout { client: client.as_deref(), peer, topic: Some(publication.topic), publisher: None };
        if !self.traces.follows(&about) {
            return;
        }
        let matches = self.subscriptions.find(publication.topic, publisher);
        let sessions = matches.as_slice().len();
        self.subscriptions.recycle(matches);
        let groups =
            if self.groups.is_empty() { 0 } else { self.groups.matching_filters(publication.topic).len() };
        let from = publication.origin.map(|key| key.shard).filter(|&from| from != self.id);
        let mut words = match from {
            Some(from) => format!("{:?} from shard {from}: ", publication.topic),
            None => format!("{:?}: ", publication.topic),
        };
        words += &format!("{sessions} sessions and {groups} shared subscriptions on shard {}", self.id);
        if from.is_none() && self.shared.shards() > 1 {
            words += ", and those of the other shards";
        }
        self.traces.show(self.durability.now(), &about, &TraceSight::inside("matched", words));
    }

    /// Delivers, and shows what has come of it.
    #[cold]
    #[allow(clippy::too_many_arguments)] // As `deliver` has them.
    pub(in crate::broker) fn deliver_traced(
        &mut self,
        now: Time,
        fanout: &mut Fanout<'_>,
        subscriber: SessionSlot,
        granted: QoS,
        retain_as_published: bool,
        subscription_ids: &[u32],
        group: Option<&Arc<str>>,
    ) -> Taken {
        let topic = fanout.publication.topic;
        let client = self.sessions.session(subscriber).client_id.clone();
        let slot = self.sessions.slot(subscriber).connection;
        let peer = slot.and_then(|slot| Some(SocketAddr::from(&self.connections.get(slot)?.peer)));
        let publisher = fanout.publication.origin.and_then(|key| self.sessions.resolve(key));
        let publisher = publisher.map(|session| self.sessions.session(session).client_id.clone());
        let about =
            TraceAbout { client: Some(&client), peer, topic: Some(topic), publisher: publisher.as_deref() };
        let before = self.traces.follows(&about).then(|| self.delivery_state(subscriber));
        let taken = self.deliver_untraced(
            now,
            fanout,
            subscriber,
            granted,
            retain_as_published,
            subscription_ids,
            group,
        );
        let Some(before) = before else { return taken };
        let after = self.delivery_state(subscriber);
        let upgrade = self.settings.config.protocol.upgrade_outgoing_qos;
        let qos = if upgrade { granted } else { fanout.publication.qos.min(granted) };
        let delivery = TracedDelivery { subscriber, topic, group };
        let (what, why) = self.what_became(&delivery, taken, &before, &after);
        let words = format!("{topic:?} at QoS {}{}: {why}", qos as u8, self.matched_by(&delivery));
        self.traces.show(now, &about, &TraceSight::inside(what, words));
        taken
    }

    fn delivery_state(&self, session: SessionSlot) -> DeliveryState {
        let entry = self.sessions.slot(session);
        let state = self.sessions.session(session);
        let counters = &self.shared.counters[usize::from(self.id)];
        let slow = entry.connection.and_then(|slot| self.connections.get(slot)?.slow.as_ref());
        DeliveryState {
            queued: state.queue.len(),
            inflight: state.inflight.len(),
            pending_bytes: entry.connection.map_or(0, |slot| self.outbox.pending_bytes(slot)),
            lost: state.losses().map_or(0, |losses| losses.counts().into_iter().map(u64::from).sum()),
            too_large: counters.get(Counter::DroppedTooLarge),
            dropped_slow: slow.map_or(0, |slow| slow.dropped),
        }
    }

    /// What a delivery has come to, and why.
    fn what_became(
        &self,
        delivery: &TracedDelivery<'_>,
        taken: Taken,
        before: &DeliveryState,
        after: &DeliveryState,
    ) -> (&'static str, String) {
        let entry = self.sessions.slot(delivery.subscriber);
        if entry.flags & CHECKED != 0
            && let Some(permissions) = entry.connection.and_then(|slot| self.permissions(slot))
            && !permissions.may_receive(delivery.topic)
        {
            let rule = permissions.why_no_receive(delivery.topic);
            return ("not delivered", format!("the client may not receive it: {rule}"));
        }
        match taken {
            Taken::Refused => return ("refused", "the session's queue is full".to_owned()),
            Taken::Unkept => return ("refused", "the disk is full or has failed".to_owned()),
            Taken::Yes => {}
        }
        if after.too_large > before.too_large {
            return ("dropped", "it is larger than the client's Maximum Packet Size".to_owned());
        }
        if after.dropped_slow > before.dropped_slow {
            return ("dropped", "the client does not read (limits.backlog_bytes)".to_owned());
        }
        if after.queued > before.queued {
            let why = match entry.connection {
                None => "the client is away",
                Some(_) if entry.flags & BACKLOGGED != 0 => "the client does not read as fast",
                Some(_) if entry.flags & GATED != 0 => "its CONNACK waits for the log",
                Some(_) => "earlier messages wait for its acknowledgements",
            };
            return ("queued", format!("{why}; {} messages in its queue", after.queued));
        }
        if after.lost > before.lost {
            return ("dropped", "the session's queue is full".to_owned());
        }
        if after.pending_bytes > before.pending_bytes {
            return ("delivered", "to its connection".to_owned());
        }
        if after.inflight > before.inflight {
            return ("delivered", "it is sent when the log has it".to_owned());
        }
        match entry.connection {
            None => ("not delivered", "the client is away, and QoS 0 is not queued".to_owned()),
            Some(_) if entry.flags & GATED != 0 => {
                ("not delivered", "its CONNACK is not sent yet, and QoS 0 is not queued".to_owned())
            }
            Some(_) => ("not delivered", "the session did not take it".to_owned()),
        }
    }

    /// The subscriptions of a client that match.
    fn matched_by(&self, delivery: &TracedDelivery<'_>) -> String {
        if let Some(group) = delivery.group {
            return format!(" as a member of {group:?}");
        }
        let state = self.sessions.session(delivery.subscriber);
        let mut named = Vec::new();
        for text in state.subscriptions().iter().take(FILTERS_LOOKED_AT) {
            let is_match = TopicFilter::parse(text).is_ok_and(|filter| {
                filter.shared().is_none() && filter_matches(filter.matching_part(), delivery.topic)
            });
            if is_match {
                named.push(format!("{text:?}"));
                if named.len() == FILTERS_NAMED {
                    break;
                }
            }
        }
        if named.is_empty() { String::new() } else { format!(" by {}", named.join(", ")) }
    }
}

/// The topic of a PUBLISH, also if an alias stands for it.
fn whole_topic<'a>(
    summary: &PacketSummary<'a>,
    of_alias: impl FnOnce(u16) -> Option<&'a str>,
) -> Option<&'a str> {
    match summary.topic {
        "" => summary.topic_alias.and_then(of_alias),
        topic => Some(topic),
    }
}

fn note_alias(words: &mut String, summary: &PacketSummary<'_>, topic: Option<&str>) {
    if summary.topic.is_empty()
        && let Some(topic) = topic
    {
        *words += &format!(", which stands for {topic:?}");
    }
}

/// The topic for which midge has set an alias.
fn alias_out(connection: &Connection, alias: u16) -> Option<&str> {
    let aliases = &connection.extras.as_ref()?.aliases_out;
    aliases.iter().find(|(_, set)| **set == alias).map(|(topic, _)| &**topic)
}
