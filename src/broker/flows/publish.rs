//! PUBLISH from a client: the checks, the acknowledgement, and the delivery to every subscriber.

use super::convoy::{Served, size_of_message, step_of, work_of};
use super::full_disk::DISK;
use super::mount::{TOPIC_BYTES_MAX, mounted};
use super::reply::{QUOTA, publish_reply};
use crate::base::ConnectionKey;
use crate::base::LogMark;
use crate::base::Time;
use crate::base::{Charge, MemoryKind, allocated};
use crate::base::{ConnectionSlot, SessionSlot};
use crate::broker::components::budget::TOPIC_BYTES_A_STEP;
use crate::broker::components::connections::PAUSED_BY_WORK;
use crate::broker::components::replies::{OwnDelivery, PublishAnswer, Purpose, Reply};
use crate::broker::components::sessions::MOUNTED;
use crate::broker::event::beginning;
use crate::broker::fanout::Fanout;
use crate::broker::outcome::{Outcome, Taken};
use crate::broker::{Counter, Event, Limit, Shard, Violation};
use crate::mqtt::codec::{Ack, AckKind, Publish};
use crate::mqtt::topic_levels;
use crate::mqtt::{PacketId, ProtocolVersion, QoS, Reason};
use crate::session::Publication;
use crate::topic::Matches;
use std::borrow::Cow;

const DENIED: Violation = Violation {
    reason: Reason::NotAuthorized,
    cause: "the access list does not let the client publish to this topic",
};

/// Whether clients may only read this topic. `[MQTT5 §4.7.2]`
pub(in crate::broker) fn is_reserved(topic: &str) -> bool {
    // `$share/…` is a form of topic filters. A topic name of that form would not reach the intended
    // receivers.
    topic.starts_with('$')
        && ["$SYS", "$share"].iter().any(|root| topic.strip_prefix(root).is_some_and(begins_level))
        && !is_bridge_state(topic)
}

/// Whether this is the topic with the state of a mosquitto bridge. Such a bridge publishes it to the broker
/// at its other end. As in mosquitto, it is the only topic below `$SYS` that clients may write.
fn is_bridge_state(topic: &str) -> bool {
    topic.strip_prefix("$SYS/broker/connection/").is_some_and(|rest| rest.ends_with("/state"))
}

/// Whether only the broker publishes to this topic. There is one value for each of these topics, and their
/// number is fixed.
pub(in crate::broker) fn is_brokers_own(topic: &str) -> bool {
    topic.starts_with("$SYS/") && !is_bridge_state(topic)
}

/// The number of QoS 2 messages for which a 3.x client may have received PUBREC without sending PUBREL. The
/// standard sets no bound except the number of identifiers, and no way to announce one. This value is far
/// above the number that client libraries have in flight (10 to 100 by default). A client that exceeds it is
/// disconnected: its PUBRELs come after its next PUBLISH in the same stream, so pausing the connection would
/// block it forever. On a new connection the client sends the PUBRELs first. `[MQTT311-4.4.0-1]`
fn unreleased_max(receive_maximum: usize) -> usize {
    UNRELEASED_FACTOR * receive_maximum.max(UNRELEASED_BASIS_MIN)
}

const UNRELEASED_FACTOR: usize = 8;
const UNRELEASED_BASIS_MIN: usize = 1000;

fn begins_level(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('/')
}

impl Shard {
    pub(in crate::broker) fn handle_publish(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        publish: &Publish<'_>,
    ) -> Result<(), Violation> {
        let counters = &self.shared.counters[usize::from(self.id)];
        counters.kinds.publishes_received.add(publish.qos as usize, 1);
        counters.add(Counter::PublishBytesReceived, publish.payload.len() as u64);
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.messages_in += 1;
        }
        match publish.topic_alias {
            None => self.take_publish(now, slot, session, publish, publish.topic),
            Some(alias) => {
                // The table is taken out while a topic name is borrowed from it.
                let mut aliases = self.take_aliases(slot, alias)?;
                let bound = &mut aliases[usize::from(alias) - 1];
                if !publish.topic.is_empty() {
                    let unbound = bound.as_ref().map_or(0, |topic| allocated(topic.len()));
                    *bound = Some(publish.topic.into());
                    if let Some(charge) = self.alias_charge(slot) {
                        charge.set(charge.bytes() - unbound + allocated(publish.topic.len()));
                    }
                }
                let taken = match bound.as_deref() {
                    Some(topic) => self.take_publish(now, slot, session, publish, topic),
                    // [MQTT5 §3.3.4]
                    None => {
                        Err(Violation { reason: Reason::ProtocolError, cause: "topic alias is not bound" })
                    }
                };
                if let Some(connection) = self.connections.get_mut(slot) {
                    connection.extras().aliases_in = aliases;
                }
                taken
            }
        }
    }

    /// The memory charge of a connection's topic aliases.
    pub(in crate::broker) fn alias_charge(&mut self, slot: ConnectionSlot) -> Option<&mut Charge> {
        let account = self.memory.account().clone();
        let extras = self.connections.get_mut(slot)?.extras();
        Some(extras.alias_charge.get_or_insert_with(|| account.charge(MemoryKind::Aliases, 0)))
    }

    fn take_aliases(&mut self, slot: ConnectionSlot, alias: u16) -> Result<Vec<Option<Box<str>>>, Violation> {
        let max = self.terms(slot).topic_alias_maximum;
        if alias > max {
            // [MQTT5-3.2.2-17] [MQTT5-3.3.2-9]
            return Err(Violation {
                reason: Reason::TopicAliasInvalid,
                cause: "topic alias above the maximum",
            });
        }
        let Some(connection) = self.connections.get_mut(slot) else {
            return Ok(vec![None; usize::from(max)]);
        };
        let mut aliases = std::mem::take(&mut connection.extras().aliases_in);
        aliases.resize(usize::from(max), None);
        Ok(aliases)
    }

    fn take_publish(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        publish: &Publish<'_>,
        topic: &str,
    ) -> Result<(), Violation> {
        let mut mounted_topic = Cow::Borrowed(topic);
        if self.sessions.slot(session).flags & MOUNTED != 0 {
            mounted_topic = mounted(&self.terms(slot).mount_point, topic);
        }
        let topic = &*mounted_topic;
        self.check_capabilities(slot, session, publish)?;
        let source = self.source_of(slot, session, publish.retain);
        let publication = Publication {
            topic,
            forward: publish.forward,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            expires_at: publish.message_expiry_seconds.map(|seconds| now.after_seconds(seconds)),
            origin: Some(self.sessions.key(session)),
            stamp: if publish.retain { Some(self.stamps.next(now)) } else { None },
            source: &source,
        };
        let Some(packet_id) = publish.packet_id else {
            if let Err(violation) = self.check_message(slot, topic, publish.payload) {
                self.report_refused(session, topic, violation);
                return Ok(());
            }
            let mut fanout = Fanout::new(publication, now);
            if self.waits_for_others(&fanout) {
                fanout.ticket = Some(self.replies.next_ticket());
            }
            self.publish(now, &mut fanout);
            if fanout.missing > 0
                && let Some(key) = self.hold_until_received(slot)
            {
                let intents = std::mem::take(&mut fanout.intents);
                let then = Purpose::ReadOn(key);
                self.replies.open_ticket(fanout.missing, Outcome::default(), intents, then);
            }
            return Ok(());
        };
        let kind = if publish.qos == QoS::AtLeastOnce { AckKind::Puback } else { AckKind::Pubrec };
        if kind == AckKind::Pubrec && self.sessions.session(session).holds(packet_id.get()) {
            // [MQTT5-4.3.3-10]
            self.check_repeat(session, publish, packet_id)?;
            self.answer_repeat(now, slot, session, packet_id);
            return Ok(());
        }
        if let Err(violation) = self.check_message(slot, topic, publish.payload) {
            self.report_refused(session, topic, violation);
            self.refuse_publish(now, slot, session, Ack { kind, packet_id, reason: violation.reason });
            return Ok(());
        }
        if kind == AckKind::Pubrec && self.has_no_room_on_disk(session, publish, topic) {
            let ack = Ack { kind, packet_id, reason: DISK.reason };
            self.report_refused(session, topic, DISK);
            self.refuse_publish(now, slot, session, ack);
            return Ok(());
        }
        self.take_acknowledged(now, slot, session, publication, kind, packet_id);
        Ok(())
    }

    /// Delivers a message that needs an acknowledgement, and acknowledges it.
    fn take_acknowledged(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        publication: Publication<'_>,
        kind: AckKind,
        packet_id: PacketId,
    ) {
        let before = self.durability.count();
        let mut fanout = Fanout::new(publication, now);
        fanout.ticket = Some(self.replies.next_ticket());
        if kind == AckKind::Pubrec {
            fanout.own = Some(session);
            fanout.intended = self.sid(session).is_some();
        }
        let outcome = self.publish(now, &mut fanout);
        let version = self.version_of_session(session);
        let ticket = fanout.ticket.filter(|_| fanout.missing > 0);
        let refused = ticket.is_none() && outcome.is_refused_for(version);
        if kind == AckKind::Pubrec && (!refused || version == ProtocolVersion::V5) {
            let payload_bytes = u32::try_from(publication.payload.len()).unwrap_or(u32::MAX);
            if refused {
                // The identifier is held until its PUBREC is sent.
                let state = self.sessions.session_mut(session);
                state.hold(packet_id.get(), payload_bytes, ticket);
                state.refuse_held(packet_id.get());
                self.note_held(1);
            } else {
                self.hold(session, packet_id, payload_bytes, ticket);
            }
        }
        let mark = self.durability.mark_since(before);
        let key = self.sessions.key(session);
        if refused {
            self.report_quota(session);
        }
        if ticket.is_some() {
            let reads_on = if self.waits_for_others(&fanout) { self.hold_until_received(slot) } else { None };
            let answer = PublishAnswer { slot, session: key, kind, packet_id, reads_on, reply: None };
            let intents = std::mem::take(&mut fanout.intents);
            self.replies.open_ticket(fanout.missing, outcome, intents, Purpose::Answer(answer));
        }
        // PUBREC comes before the publisher's own copy of its message, as clients and test suites expect it.
        // PUBACK comes after it.
        self.reply(now, slot, mark, ticket, publish_reply(version, kind, packet_id, outcome));
        self.deliver_own(now, Some(slot), &mut fanout);
    }

    /// Whether a message is so large that its publisher is not read until every other shard has it. Boxes are
    /// bounded by the number of mails. So a client that must wait for its own messages can't fill them with
    /// large ones.
    fn waits_for_others(&self, fanout: &Fanout<'_>) -> bool {
        self.shared.shards() > 1 && size_of_message(fanout) > MAIL_BYTES_MAX
    }

    /// Stops reading from a publisher. Returns its key for [`Shard::read_on_later`].
    fn hold_until_received(&mut self, slot: ConnectionSlot) -> Option<ConnectionKey> {
        let key = self.connections.key(slot)?;
        self.pause(slot, PAUSED_BY_WORK);
        Some(key)
    }

    /// Answers a repeated QoS 2 message with PUBREC, when the promises for the first one are fulfilled.
    fn answer_repeat(&mut self, now: Time, slot: ConnectionSlot, session: SessionSlot, packet_id: PacketId) {
        let ticket = self.sessions.session(session).held_ticket(packet_id.get());
        let ticket = ticket.filter(|&ticket| self.replies.is_ticket_open(ticket));
        if let Some(ticket) = ticket {
            self.replies.redirect_ticket(ticket, slot);
        }
        let mark =
            if self.sessions.slot(session).sid.is_some() { self.durability.mark() } else { LogMark::START };
        let refused = self.sessions.session(session).is_held_refused(packet_id.get());
        let reason = if refused { QUOTA.reason } else { Reason::Success };
        let pubrec = Ack { kind: AckKind::Pubrec, packet_id, reason };
        self.reply(now, slot, mark, ticket, Reply::Ack(pubrec));
    }

    /// Checks the capabilities that CONNACK announced. Each violation ends the connection.
    fn check_capabilities(
        &self,
        slot: ConnectionSlot,
        session: SessionSlot,
        publish: &Publish<'_>,
    ) -> Result<(), Violation> {
        let terms = self.terms(slot);
        let refuse = |reason, cause| Err(Violation { reason, cause });
        if publish.qos as u8 > terms.maximum_qos {
            // [MQTT5-3.2.2-11]
            return refuse(Reason::QoSNotSupported, "QoS above the maximum QoS");
        }
        if publish.retain && !terms.retain_available {
            // [MQTT5-3.2.2-14]
            return refuse(Reason::RetainNotSupported, "RETAIN, and retain is not available");
        }
        let Some(packet_id) = publish.packet_id else { return Ok(()) };
        let state = self.sessions.session(session);
        let (held, receive_maximum) = (state.held_count(), usize::from(terms.receive_maximum));
        if held < receive_maximum {
            return Ok(());
        }
        let is_repeat = publish.qos == QoS::ExactlyOnce && state.holds(packet_id.get());
        if is_repeat {
            return Ok(());
        }
        if self.version_of_session(session) == ProtocolVersion::V5 {
            // [MQTT5-3.3.4-7]
            return refuse(Reason::ReceiveMaximumExceeded, "more unfinished messages than Receive Maximum");
        }
        if publish.qos == QoS::ExactlyOnce && held >= unreleased_max(receive_maximum) {
            return refuse(
                Reason::ReceiveMaximumExceeded,
                "more QoS 2 messages without PUBREL than protocol.receive_maximum allows a 3.x client",
            );
        }
        Ok(())
    }

    /// Checks a repeated QoS 2 message. With DUP it is the repeat that the standard requires. Without DUP, an
    /// identifier is used twice. midge accepts that once as a repeat, like mosquitto. Otherwise a client
    /// could send the same message again and again without end.
    fn check_repeat(
        &mut self,
        session: SessionSlot,
        publish: &Publish<'_>,
        packet_id: PacketId,
    ) -> Result<(), Violation> {
        let bytes = u32::try_from(publish.payload.len()).unwrap_or(u32::MAX);
        if !publish.dup && !self.sessions.session_mut(session).note_repeat(packet_id.get(), bytes) {
            return Err(Violation {
                reason: Reason::ProtocolError,
                cause: "packet identifier is in use, and DUP is not set",
            });
        }
        Ok(())
    }

    /// Checks the reasons to refuse a well-formed message. The connection stays.
    pub(in crate::broker) fn check_message(
        &self,
        slot: ConnectionSlot,
        topic: &str,
        payload: &[u8],
    ) -> Result<(), Violation> {
        self.check_size(topic, payload)?;
        if !self.may_publish(slot, topic) {
            return Err(DENIED);
        }
        self.check_levels(topic)
    }

    /// Checks the bounds of a message, and that its topic is not reserved.
    pub(in crate::broker) fn check_size(&self, topic: &str, payload: &[u8]) -> Result<(), Violation> {
        if payload.len() > self.settings.config.limits.payload_bytes {
            return Err(Violation {
                reason: Reason::PacketTooLarge,
                cause: "payload above limits.payload_bytes",
            });
        }
        if topic.len() > TOPIC_BYTES_MAX {
            return Err(Violation {
                reason: Reason::TopicNameInvalid,
                cause: "topic is too long behind the mount point",
            });
        }
        if is_reserved(topic) {
            return Err(Violation { reason: Reason::NotAuthorized, cause: "topic is reserved" });
        }
        Ok(())
    }

    /// Checks the number of levels of a topic.
    pub(in crate::broker) fn check_levels(&self, topic: &str) -> Result<(), Violation> {
        if topic_levels(topic) > self.settings.config.limits.topic_levels {
            return Err(Violation { reason: Reason::TopicNameInvalid, cause: "topic has too many levels" });
        }
        Ok(())
    }

    /// Answers a message that was refused. 5.0 clients get the reason code. 3.x clients get an
    /// acknowledgement without meaning. `[MQTT311-3.3.5-2]`
    fn refuse_publish(&mut self, now: Time, slot: ConnectionSlot, session: SessionSlot, ack: Ack) {
        let version = self.version_of_session(session);
        let mut mark = LogMark::START;
        if version < ProtocolVersion::V5 && ack.kind == AckKind::Pubrec {
            self.hold(session, ack.packet_id, 0, None);
            mark = self.durability.mark();
        }
        self.reply(now, slot, mark, None, Reply::Ack(ack));
    }

    pub(in crate::broker) fn report_refused(
        &mut self,
        session: SessionSlot,
        topic: &str,
        violation: Violation,
    ) {
        let client = self.client_for_log(session);
        let slot = self.sessions.slot(session).connection;
        let rule = (violation == DENIED)
            .then(|| self.permissions(slot?).map(|permissions| permissions.why_no_publish(topic)))
            .flatten();
        if violation.reason == Reason::TopicNameInvalid {
            self.report(Event::LimitReached { limit: Limit::TopicLevels, client: client.clone() });
        }
        self.report(Event::PublishRefused { client, topic: beginning(topic), rule, violation });
    }

    /// Reports the refusal of a message that is not available any more.
    pub(in crate::broker) fn report_quota(&mut self, session: SessionSlot) {
        self.report_refused(session, "", QUOTA);
    }

    /// Distributes a message that has passed every check: to the retained store, the subscriptions of this
    /// shard, and other shards.
    pub(in crate::broker) fn publish(&mut self, now: Time, fanout: &mut Fanout<'_>) -> Outcome {
        let publication = fanout.publication;
        let mut retained_home = None;
        if publication.retain {
            let hash = self.shared.hash(publication.topic);
            fanout.topic_hash = Some(hash);
            retained_home = Some(self.shared.home(hash));
        }
        // A message for which the retained store has no room still reaches present subscribers.
        let kept = if retained_home == Some(self.id) { self.retain(now, fanout) } else { Outcome::default() };
        let mut outcome = self.route(now, fanout);
        outcome.merge(kept);
        let has_taken = outcome.matched;
        let goes_on = self.shared.shards() > 1 && self.send_to_others(fanout, retained_home);
        if !has_taken && !goes_on && fanout.publication.origin.is_some() {
            self.count(Counter::Unrouted, 1);
        }
        outcome
    }

    /// Delivers to the subscribers of this shard: to all of them now, or to the rest of them later.
    pub(in crate::broker) fn route(&mut self, now: Time, fanout: &mut Fanout<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        self.detail_matched(fanout);
        if self.traces.is_on() {
            self.trace_route(fanout);
        }
        if !self.convoys.is_empty() && self.join_line(fanout) {
            outcome.matched = true;
            return outcome;
        }
        let publication = fanout.publication;
        let origin = publication.origin.and_then(|key| self.sessions.resolve(key));
        let matches = self.subscriptions.find(publication.topic, origin);
        // A subscriber whose only matching subscription has No Local counts too.
        outcome.matched = matches.filters() > 0;
        let topic_bytes = fanout.publication.topic.len() as u64;
        self.spend(matches.visited() as u64 / VISITED_A_STEP + topic_bytes / TOPIC_BYTES_A_STEP);
        let is_done = match matches.as_slice() {
            [] => true,
            // Most messages take this path, which begins no visit.
            [matched] => {
                self.spend(work_of(fanout));
                let (session, ids) =
                    (SessionSlot::new(matched.subscriber), matches.subscription_ids(matched));
                let (qos, retain, own) = (matched.qos, matched.retain_as_published, fanout.own);
                outcome.note(self.deliver_matched(now, fanout, session, qos, retain, ids, own));
                true
            }
            _ => self.fan_out(now, fanout, &matches, &mut outcome),
        };
        if is_done && !self.groups.is_empty() {
            outcome.merge(self.route_groups(now, fanout, &matches));
        }
        self.subscriptions.recycle(matches);
        outcome
    }

    /// Delivers to the matches, as far as a visit goes. Returns `false` if the rest of them, and the groups,
    /// get the message later.
    fn fan_out(
        &mut self,
        now: Time,
        fanout: &mut Fanout<'_>,
        matches: &Matches,
        outcome: &mut Outcome,
    ) -> bool {
        let all = matches.as_slice();
        let step = step_of(fanout);
        if all.len() > step && (self.is_spent() || !self.has_room_for_convoy()) {
            self.put_off_fanout(fanout);
            return false;
        }
        let visit = self.begin_visit();
        let mut served = 0;
        loop {
            let some = &all[served..all.len().min(served + step)];
            for matched in some {
                let (session, ids) =
                    (SessionSlot::new(matched.subscriber), matches.subscription_ids(matched));
                let (qos, retain, own) = (matched.qos, matched.retain_as_published, fanout.own);
                outcome.note(self.deliver_matched(now, fanout, session, qos, retain, ids, own));
            }
            served += some.len();
            self.spend(work_of(fanout) * some.len() as u64);
            if served == all.len() {
                return true;
            }
            if self.is_over(&visit) || self.is_spent() {
                self.go_on_later(fanout, matches, Served { sessions: served, groups: 0 });
                return false;
            }
        }
    }

    /// Delivers to one match of the index. `own` is the publisher if it is served last. The result shows
    /// whether the session refuses the message.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // A delivery has that many inputs.
    pub(in crate::broker) fn deliver_matched(
        &mut self,
        now: Time,
        fanout: &mut Fanout<'_>,
        session: SessionSlot,
        qos: QoS,
        retain: bool,
        ids: &[u32],
        own: Option<SessionSlot>,
    ) -> Taken {
        // At QoS 0 no queue can refuse it, and a queue that is full now must not let it overtake messages
        // that wait already. [MQTT5-4.6.0-6]
        if own == Some(session) && self.leaves_for_own(fanout, session, qos, retain, ids) {
            return Taken::Yes;
        }
        self.deliver(now, fanout, session, qos, retain, ids, None)
    }

    /// Whether the publisher may get its own message last. If so, the delivery is stored for that.
    fn leaves_for_own(
        &mut self,
        fanout: &mut Fanout<'_>,
        session: SessionSlot,
        qos: QoS,
        retain: bool,
        ids: &[u32],
    ) -> bool {
        let may_wait = qos == QoS::AtMostOnce || self.takes(session, fanout);
        if may_wait {
            fanout.own_delivery = Some((qos, retain, ids.into()));
        }
        may_wait
    }

    /// Delivers to the publisher itself what `route` has left for the end.
    #[inline(always)]
    pub(in crate::broker) fn deliver_own(
        &mut self,
        now: Time,
        slot: Option<ConnectionSlot>,
        fanout: &mut Fanout<'_>,
    ) {
        if fanout.own_delivery.is_some() {
            self.deliver_left_own(now, slot, fanout);
        }
    }

    fn deliver_left_own(&mut self, now: Time, slot: Option<ConnectionSlot>, fanout: &mut Fanout<'_>) {
        let Some((granted, retain_as_published, ids)) = fanout.own_delivery.take() else { return };
        let own = fanout.publication.origin.and_then(|key| self.sessions.resolve(key));
        let Some(session) = own else { return };
        // A message that the session must get, even if the connection ends now or the queue becomes full,
        // can't wait for the PUBREC.
        let Some(slot) = slot.filter(|&slot| granted == QoS::AtMostOnce && self.replies.are_pending(slot))
        else {
            self.deliver(now, fanout, session, granted, retain_as_published, &ids, None);
            return;
        };
        // It follows the PUBREC, which may wait for a disk. A retained copy of it does not wait.
        self.note_live(session, fanout, false);
        let own = OwnDelivery {
            message: fanout.keep(self.memory.account()),
            topic_hash: fanout.topic_hash,
            granted,
            retain_as_published,
            subscription_ids: ids,
        };
        self.reply(now, slot, LogMark::START, None, Reply::Own(Box::new(own)));
    }
}

/// Of larger messages, each publisher sends only one at a time to other shards.
const MAIL_BYTES_MAX: usize = 32 << 10;

/// The number of trie nodes that are visited in the time of a delivery.
pub(in crate::broker) const VISITED_A_STEP: u64 = 4;

#[cfg(test)]
mod tests {
    use super::is_reserved;

    #[test]
    fn reserved_topics_are_whole_levels() {
        assert!(is_reserved("$SYS/x") && is_reserved("$share/g/t") && is_reserved("$SYS"));
        assert!(!is_reserved("$SYS/broker/connection/bridge/state"), "a mosquitto bridge's notification");
        assert!(is_reserved("$SYS/broker/connection/bridge"));
        assert!(!is_reserved("$SYSTEM/x") && !is_reserved("SYS/x") && !is_reserved("$other"));
    }
}
