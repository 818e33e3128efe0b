//! PUBLISH from a client: checks, the acknowledgement, and the way to every subscriber.

use super::deliver::Fanout;
use super::{Counter, Effect, Event, Limit, Mail, Shard, ShardId, Violation};
use crate::message::Publication;
use crate::outbox::Range;
use crate::packet::{Ack, AckKind, PacketId, ProtocolVersion, Publish, QoS, Reason, encode_ack};
use crate::time::Time;
use crate::topic::topic_levels;

/// Topics that clients may read and not write. `[MQTT5 §4.7.2]`
pub(super) fn is_reserved(topic: &str) -> bool {
    // `$share/…` is a form of filters; as a topic name it would reach no one who means it.
    topic.starts_with('$')
        && ["$SYS", "$share"].iter().any(|root| topic.strip_prefix(root).is_some_and(begins_level))
        && !is_bridge_state(topic)
}

/// A mosquitto bridge tells the broker at its other end about itself under this topic; the only
/// one below `$SYS` that mosquitto lets clients write, and so do we.
fn is_bridge_state(topic: &str) -> bool {
    topic.strip_prefix("$SYS/broker/connection/").is_some_and(|rest| rest.ends_with("/state"))
}

fn begins_level(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('/')
}

/// How many sessions a message reached, and how many refused it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    pub matched: usize,
    pub refused: usize,
}

impl Shard {
    pub(super) fn handle_publish(
        &mut self,
        now: Time,
        slot: u32,
        session: u32,
        publish: &Publish<'_>,
    ) -> Result<(), Violation> {
        self.count(Counter::PublishesReceived, 1);
        self.count(Counter::PublishBytesReceived, publish.payload.len() as u64);
        match publish.topic_alias {
            None => self.take_publish(now, slot, session, publish, publish.topic),
            Some(alias) => {
                // The table is taken out for as long as a topic name is borrowed from it.
                let mut aliases = self.take_aliases(slot, alias)?;
                let bound = &mut aliases[usize::from(alias) - 1];
                if !publish.topic.is_empty() {
                    *bound = Some(publish.topic.into());
                }
                let taken = match bound.as_deref() {
                    Some(topic) => self.take_publish(now, slot, session, publish, topic),
                    // [MQTT5 §3.3.4]
                    None => {
                        Err(Violation { reason: Reason::ProtocolError, cause: "topic alias is not bound" })
                    }
                };
                if let Some(connection) = self.connection_mut(slot) {
                    connection.rare().aliases_in = aliases;
                }
                taken
            }
        }
    }

    fn take_aliases(&mut self, slot: u32, alias: u16) -> Result<Vec<Option<Box<str>>>, Violation> {
        let max = self.shared.config.protocol.topic_alias_maximum;
        if alias > max {
            // [MQTT5-3.2.2-17] [MQTT5-3.3.2-9]
            return Err(Violation {
                reason: Reason::TopicAliasInvalid,
                cause: "topic alias above the maximum",
            });
        }
        let Some(connection) = self.connection_mut(slot) else { return Ok(vec![None; usize::from(max)]) };
        let mut aliases = std::mem::take(&mut connection.rare().aliases_in);
        aliases.resize(usize::from(max), None);
        Ok(aliases)
    }

    fn take_publish(
        &mut self,
        now: Time,
        slot: u32,
        session: u32,
        publish: &Publish<'_>,
        topic: &str,
    ) -> Result<(), Violation> {
        self.check_capabilities(session, publish)?;
        let version = self.version_of_session(session);
        let publication = Publication {
            topic,
            forward: publish.forward,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            expires_at: publish.message_expiry_seconds.map(|seconds| now.after_seconds(seconds)),
            origin: Some(self.directory.key(session)),
            stamp: if publish.retain { self.next_stamp(now) } else { 0 },
        };
        let Some(packet_id) = publish.packet_id else {
            if let Err(violation) = self.check_topic(topic) {
                self.report_refused(session, violation);
                return Ok(());
            }
            self.publish(now, publication);
            return Ok(());
        };
        let kind = if publish.qos == QoS::AtLeastOnce { AckKind::Puback } else { AckKind::Pubrec };
        if kind == AckKind::Pubrec && self.directory.session(session).holds(packet_id.get()) {
            // [MQTT5-4.3.3-10]
            self.check_repeat(session, publish, packet_id)?;
            let pubrec = Ack { kind, packet_id, reason: Reason::Success };
            self.send_packet(slot, |out| encode_ack(out, version, pubrec));
            return Ok(());
        }
        if let Err(violation) = self.check_topic(topic) {
            return self.refuse_publish(
                slot,
                session,
                Ack { kind, packet_id, reason: violation.reason },
                violation,
            );
        }
        // PUBREC stands before whatever the publisher gets of its own message, as clients and
        // test suites know it; its code is filled in once it is known. PUBACK comes after.
        let placeholder = (kind == AckKind::Pubrec).then(|| self.reserve_pubrec(slot, version, packet_id));
        let reason = match self.publish(now, publication) {
            // As mosquitto: 0x10 in PUBACK alone.
            Reason::NoMatchingSubscribers if kind == AckKind::Pubrec => Reason::Success,
            reason => reason,
        };
        let ack = Ack { kind, packet_id, reason };
        if reason == Reason::QuotaExceeded {
            let violation = Violation { reason, cause: "a bound for queued or retained messages is reached" };
            self.report_refused(session, violation);
            if version < ProtocolVersion::V5 && kind == AckKind::Pubrec {
                // 3.x has no code to say so: it is acknowledged, as to the many who got it.
                self.directory.session_mut(session).hold(packet_id.get(), publish.payload.len());
            }
        } else if kind == AckKind::Pubrec {
            self.directory.session_mut(session).hold(packet_id.get(), publish.payload.len());
        }
        match placeholder {
            Some(range) => self.fill_pubrec(range, version, reason),
            None => self.send_packet(slot, |out| encode_ack(out, version, ack)),
        }
        Ok(())
    }

    /// What the connection was told in CONNACK. Each is the end of it.
    fn check_capabilities(&self, session: u32, publish: &Publish<'_>) -> Result<(), Violation> {
        let protocol = &self.shared.config.protocol;
        let refuse = |reason, cause| Err(Violation { reason, cause });
        if publish.qos as u8 > protocol.maximum_qos {
            // [MQTT5-3.2.2-11]
            return refuse(Reason::QoSNotSupported, "QoS above the maximum QoS");
        }
        if publish.retain && !protocol.retain_available {
            // [MQTT5-3.2.2-14]
            return refuse(Reason::RetainNotSupported, "RETAIN, and retain is not available");
        }
        let Some(packet_id) = publish.packet_id else { return Ok(()) };
        let state = self.directory.session(session);
        let repeated = publish.qos == QoS::ExactlyOnce && state.holds(packet_id.get());
        let full = state.held_count() >= usize::from(protocol.receive_maximum);
        if full && !repeated && self.version_of_session(session) == ProtocolVersion::V5 {
            // [MQTT5-3.3.4-7]
            return refuse(Reason::ReceiveMaximumExceeded, "more unfinished messages than Receive Maximum");
        }
        Ok(())
    }

    /// A repeat of a QoS 2 message that carries DUP is what the standard asks of a client. One
    /// without is an identifier used twice: once we take it for a repeat, as mosquitto does; a
    /// client that sends the same again and again would never come to an end.
    fn check_repeat(
        &mut self,
        session: u32,
        publish: &Publish<'_>,
        packet_id: PacketId,
    ) -> Result<(), Violation> {
        let bytes = publish.payload.len();
        if !publish.dup && !self.directory.session_mut(session).note_repeat(packet_id.get(), bytes) {
            return Err(Violation {
                reason: Reason::ProtocolError,
                cause: "packet identifier is in use, and DUP is not set",
            });
        }
        Ok(())
    }

    /// What a well-formed topic name may still be refused for; the connection stays.
    fn check_topic(&self, topic: &str) -> Result<(), Violation> {
        if is_reserved(topic) {
            return Err(Violation { reason: Reason::NotAuthorized, cause: "topic is reserved" });
        }
        if topic_levels(topic) > self.shared.config.limits.topic_levels {
            return Err(Violation { reason: Reason::TopicNameInvalid, cause: "topic has too many levels" });
        }
        Ok(())
    }

    /// 5.0 hears the truth; 3.x gets an acknowledgement without meaning. `[MQTT311-3.3.5-2]`
    fn refuse_publish(
        &mut self,
        slot: u32,
        session: u32,
        ack: Ack,
        violation: Violation,
    ) -> Result<(), Violation> {
        let version = self.version_of_session(session);
        self.report_refused(session, violation);
        if version < ProtocolVersion::V5 && ack.kind == AckKind::Pubrec {
            self.directory.session_mut(session).hold(ack.packet_id.get(), 0);
        }
        self.send_packet(slot, |out| encode_ack(out, version, ack));
        Ok(())
    }

    fn report_refused(&mut self, session: u32, violation: Violation) {
        let client = self.directory.session(session).client_id.clone();
        if violation.reason == Reason::TopicNameInvalid {
            self.report(Event::LimitReached { limit: Limit::TopicLevels, client: client.clone() });
        }
        self.report(Event::PublishRefused { client, violation });
    }

    fn reserve_pubrec(&mut self, slot: u32, version: ProtocolVersion, packet_id: PacketId) -> Range {
        // Encoded with a code that is never the short form, so that the code's byte is there.
        let reason = if version == ProtocolVersion::V5 { Reason::UnspecifiedError } else { Reason::Success };
        let start = self.outbox.arena_len();
        self.send_packet(slot, |out| {
            encode_ack(out, version, Ack { kind: AckKind::Pubrec, packet_id, reason })
        });
        Range { start, len: self.outbox.arena_len() - start }
    }

    fn fill_pubrec(&mut self, range: Range, version: ProtocolVersion, reason: Reason) {
        if version == ProtocolVersion::V5 {
            let at = range.start as usize + 4;
            self.outbox.arena_mut()[at] = reason.code();
        }
    }

    /// Distributes a message that has passed every check: retained store, own subscriptions,
    /// other shards. The reason is what an acknowledgement says.
    pub(super) fn publish(&mut self, now: Time, publication: Publication<'_>) -> Reason {
        let alone = self.shared.shards() == 1;
        let hash = if publication.retain { self.shared.hash(publication.topic) } else { 0 };
        let mut fanout = Fanout::new(publication, now, hash);
        let retained_home = publication.retain.then(|| self.shared.home(hash));
        if retained_home == Some(self.id) && !self.retain(now, &mut fanout) {
            return Reason::QuotaExceeded;
        }
        let outcome = self.route(now, &mut fanout);
        let forwarded = match retained_home.filter(|&home| home != self.id) {
            _ if alone => 0,
            Some(home) => self.forward_retained(&fanout, home),
            None => self.forward(&fanout),
        };
        if outcome.refused > 0 {
            Reason::QuotaExceeded
        } else if outcome.matched == 0 && forwarded == 0 {
            Reason::NoMatchingSubscribers
        } else {
            Reason::Success
        }
    }

    /// To the subscribers of this shard.
    pub(super) fn route(&mut self, now: Time, fanout: &mut Fanout<'_>) -> Outcome {
        let publication = fanout.publication;
        let mut outcome = Outcome::default();
        let mut matches = std::mem::take(&mut self.matches);
        let origin = publication.origin.and_then(|key| self.directory.resolve(key));
        self.subscriptions.matches(publication.topic, origin, &mut matches);
        // One whose only subscription has No Local is a matching subscriber too.
        outcome.matched = matches.filters();
        for matched in matches.as_slice() {
            let ids = matches.subscription_ids(matched);
            if !self.deliver(
                now,
                fanout,
                matched.subscriber,
                matched.qos,
                matched.retain_as_published,
                ids,
                None,
            ) {
                outcome.refused += 1;
            }
        }
        self.matches = matches;
        if !self.groups.is_empty() {
            outcome.matched += self.route_groups(now, fanout);
        }
        outcome
    }

    /// To every shard that may have subscribers; how many those were.
    fn forward(&mut self, fanout: &Fanout<'_>) -> usize {
        let targets = self.interested(fanout.publication.topic);
        self.count(Counter::Forwarded, u64::from(targets.count_ones()));
        let mut others = shards_of(targets);
        if let Some(first) = others.next() {
            let message = fanout.to_message();
            for to in others {
                self.effects.push(Effect::Mail { to, mail: Mail::Publish(message.clone()) });
            }
            self.effects.push(Effect::Mail { to: first, mail: Mail::Publish(message) });
        }
        targets.count_ones() as usize
    }

    /// To the home of a retained message, and then to every shard that may have subscribers.
    fn forward_retained(&mut self, fanout: &Fanout<'_>, home: ShardId) -> usize {
        self.count(Counter::Forwarded, 1);
        let message = fanout.to_message();
        self.effects.push(Effect::Mail { to: home, mail: Mail::Publish(message.clone()) });
        self.effects.push(Effect::Forward { message, home });
        // How many there are is not known yet: not "surely nobody".
        1
    }

    /// The other shards that may have subscribers for a topic name, as a bit mask.
    pub fn interested(&mut self, topic: &str) -> u128 {
        let hash = self.shared.hash(topic);
        let mut targets: u128 = 0;
        for shard in self.other_shards() {
            if self.shared.interest[usize::from(shard)].may_want(hash) {
                targets |= 1 << shard;
            }
        }
        if !self.foreign_wildcards.is_empty() {
            let mut matches = std::mem::take(&mut self.foreign_matches);
            self.foreign_wildcards.matches(topic, None, &mut matches);
            for matched in matches.as_slice() {
                targets |= 1 << matched.subscriber;
            }
            self.foreign_matches = matches;
        }
        targets
    }

    /// A stamp that orders retained messages of a topic over all shards: by the clock that all
    /// shards share, in a shard never twice, and between shards never the same.
    pub(super) fn next_stamp(&mut self, now: Time) -> u64 {
        let by_clock = now.as_micros() << 7;
        let next = by_clock.max((self.last_stamp | 127) + 1) | u64::from(self.id);
        self.last_stamp = next;
        next
    }
}

/// The shards of a bit mask, in order.
pub(super) fn shards_of(mut mask: u128) -> impl Iterator<Item = ShardId> {
    std::iter::from_fn(move || {
        let shard = ShardId::try_from(mask.trailing_zeros()).ok().filter(|_| mask != 0)?;
        mask &= mask - 1;
        Some(shard)
    })
}

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
