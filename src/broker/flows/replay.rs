//! Retained messages: storing them, and sending them to a new subscription at the pace of its client.

use super::publish::is_brokers_own;
use super::source::SourceCheck;
use crate::base::{MemoryKind, RequestToken, SessionKey, SessionSlot, Stamp, Time};
use crate::broker::components::budget::WORK_A_VISIT;
use crate::broker::components::queries::RetainedMail;
use crate::broker::components::retained::{BatchLimits, RetainedFull, RetainedMessage, Stored};
use crate::broker::components::sessions::REPLAYING;
use crate::broker::fanout::Fanout;
use crate::broker::outcome::Outcome;
use crate::broker::{Counter, Event, Limit, Mail, MemoryRelief, Shard};
use crate::mqtt::{QoS, SubscriptionId};
use crate::session::KeptMessage;
use crate::session::{Delivery, Extra, Replay, Replays};
use crate::session::{Message, Publication};
use crate::store::Record;

/// The limits of one answer to a query. They are small enough to hold up neither shard.
const BATCH: BatchLimits = BatchLimits { messages: 64, bytes: 64 * 1024, visits: 1024 };

/// Above this number, a session has only one replay per filter. The number of filters has its own bound.
const REPLAYS_MAX: usize = 64;

impl RetainedMessage for Message {
    fn expires_at(&self) -> Option<Time> {
        Message::expires_at(self)
    }

    fn stamp(&self) -> Option<Stamp> {
        Message::stamp(self)
    }

    fn bytes(&self) -> usize {
        Message::bytes(self)
    }

    fn is_own(topic: &str) -> bool {
        is_brokers_own(topic)
    }
}

/// Whether the disk keeps this topic. The broker's own topics show the present state and are not kept.
fn is_kept(topic: &str) -> bool {
    !is_brokers_own(topic)
}

impl Shard {
    /// Stores or clears a retained message at home here, unless a bound or a full disk refuses it.
    pub(in crate::broker) fn retain(&mut self, now: Time, fanout: &mut Fanout<'_>) -> Outcome {
        let publication = fanout.publication;
        let before = self.durability.count();
        let refused = if publication.payload.is_empty() {
            // [MQTT5-3.3.1-6] [MQTT5-3.3.1-7]
            if self.retained.remove(publication.topic, publication.stamp) {
                self.durability.record(&Record::Unretained { topic: publication.topic });
            }
            None
        } else if self.durability.is_full() && is_kept(publication.topic) && !fanout.promised {
            Some(Limit::Disk)
        } else if self.is_memory_tight()
            && !fanout.promised
            && !is_brokers_own(publication.topic)
            && self.is_larger_than_retained(now, &publication)
        {
            Some(Limit::Memory(MemoryRelief::Retain))
        } else {
            // [MQTT5-3.3.1-5]
            let stored = self.retained.store(publication.topic, fanout.to_message());
            if let Ok(Stored::New | Stored::Replaced) = stored
                && is_kept(publication.topic)
                && let Some(stamp) = publication.stamp
            {
                let message = self.stored(&publication);
                self.durability.record(&Record::Retained { stamp, message });
            }
            stored.err().map(|full| match full {
                RetainedFull::Messages => Limit::Retained,
                RetainedFull::Bytes => Limit::RetainedBytes,
            })
        };
        if self.durability.count() == before && is_kept(publication.topic) {
            // Another publisher has just removed it or replaced it by a newer one.
            self.durability.rely_on_earlier();
        }
        self.note_retained();
        self.start_sweep(now);
        if let Some(limit) = refused {
            let client = publication
                .origin
                .and_then(|key| self.sessions.resolve(key))
                .map_or_else(|| "".into(), |session| self.client_for_log(session));
            self.report(Event::LimitReached { limit, client });
        }
        Outcome {
            refused: refused.is_some_and(|limit| limit != Limit::Disk),
            unkept: refused == Some(Limit::Disk),
            ..Outcome::default()
        }
    }

    /// Whether a retained message would take more memory than the present one of its topic.
    fn is_larger_than_retained(&self, now: Time, publication: &Publication<'_>) -> bool {
        let there = self.retained.get(publication.topic, now);
        there.is_none_or(|there| there.as_publication().payload.len() < publication.payload.len())
    }

    pub(in crate::broker) fn note_retained(&self) {
        let counters = &self.shared.counters[usize::from(self.id)];
        counters.set(Counter::Retained, self.retained.len() as u64);
        counters.set(Counter::RetainedBytes, self.retained.bytes() as u64);
        self.memory.account().set(MemoryKind::Retained, self.retained.bytes());
    }

    /// Adds a replay. From now on live messages are noted, so that none is followed by an older one from the
    /// store.
    pub(in crate::broker) fn add_replay(&mut self, session: SessionSlot, replay: Replay) {
        let state = self.sessions.session_mut(session);
        if state.replays.len() >= REPLAYS_MAX {
            // A client that subscribes again and again without reading gets only the last replay.
            state.replays.filled().drop_filter(&replay.filter);
        }
        state.replays.filled().push(replay);
        self.sessions.slot_mut(session).flags |= REPLAYING;
    }

    /// Notes that a session gets a live message: a running replay must send neither this message nor an older
    /// one. With `is_queued` it gets it later, unless [`Shard::forget_live`] is called.
    #[inline]
    pub(in crate::broker) fn note_live(
        &mut self,
        session: SessionSlot,
        fanout: &Fanout<'_>,
        is_queued: bool,
    ) {
        let entry = self.sessions.slot_mut(session);
        if entry.flags & REPLAYING != 0
            && fanout.publication.retain
            && let Some(hash) = fanout.topic_hash
        {
            entry.session_mut().note_overtaken(hash, fanout.publication.stamp, is_queued);
        }
    }

    /// Notes that such a message does not reach the session after all. A replay may then send it.
    pub(in crate::broker) fn forget_live(&mut self, session: SessionSlot, message: &Message) {
        let entry = self.sessions.slot_mut(session);
        if entry.flags & REPLAYING != 0 && message.is_retained() {
            let hash = self.shared.hash(message.as_publication().topic);
            entry.session_mut().forget_overtaken(hash, message.stamp());
        }
    }

    /// Starts the replays of a SUBSCRIBE whose SUBACK was sent.
    pub(in crate::broker) fn start_replays(
        &mut self,
        now: Time,
        session: SessionSlot,
        subscribe: RequestToken,
    ) {
        let replays = self.sessions.session_mut(session).replays.existing();
        if replays.is_some_and(|replays| replays.start(subscribe)) {
            self.pump(now, session);
        }
    }

    /// Sends one retained message or one query for more. Returns `false` if there is nothing to do now.
    pub(in crate::broker) fn pump_replay(&mut self, now: Time, session: SessionSlot) -> bool {
        let key = self.sessions.key(session);
        let state = self.sessions.session_mut(session);
        let has_room = state.inflight.has_room();
        let front = state.replays.existing().and_then(Replays::front_mut);
        let Some(replay) = front.filter(|replay| replay.held_by.is_none()) else { return false };
        if let Some(message) = replay.ready.front() {
            let upgrade = self.settings.config.protocol.upgrade_outgoing_qos;
            let qos = if upgrade { replay.qos } else { message.qos().min(replay.qos) };
            if qos != QoS::AtMostOnce && !has_room {
                return false;
            }
            let (token, subscription_id) = (replay.token, replay.subscription_id);
            let topic = message.as_publication().topic;
            if !self.convoys.is_empty() && self.convoys.has_line(self.shared.hash(topic)) {
                self.defer(session);
                return false;
            }
            let Some(message) = replay.ready.pop_front() else { return false };
            let hidden = message.origin() == Some(key) && replay.hides_own(message.stamp());
            // If the client has received a message live since it subscribed, or a newer one, it gets neither
            // that message again nor an older one.
            let overtaken = state.has_overtaken() && {
                let hash = self.shared.hash(message.as_publication().topic);
                self.sessions.session(session).is_overtaken(hash, message.stamp(), token)
            };
            if !overtaken && !hidden {
                self.send_retained(now, session, message, qos, subscription_id, token);
            }
            return true;
        }
        if replay.is_done() {
            state.finish_replay();
            let more = !state.replays.is_empty();
            if !more {
                self.sessions.slot_mut(session).flags &= !REPLAYING;
            }
            return more;
        }
        // If there is no shard left to ask, it waits only for the log.
        if let Some(&to) = replay.shards.front().filter(|_| !replay.waiting) {
            replay.waiting = true;
            let query = Mail::RetainedQuery {
                token: replay.token,
                session: key,
                filter: (*replay.filter).into(),
                after: replay.cursor.take(),
            };
            self.post(to, query);
        }
        false
    }

    fn send_retained(
        &mut self,
        now: Time,
        session: SessionSlot,
        message: Message,
        qos: QoS,
        subscription_id: Option<SubscriptionId>,
        replay: RequestToken,
    ) {
        if message.is_expired(now) {
            return;
        }
        if self.is_withheld(session, message.as_publication().topic) {
            if qos != QoS::AtMostOnce {
                self.sessions.session_mut(session).inflight.pass_id();
            }
            return;
        }
        let extra = subscription_id
            .map(|id| Box::new(Extra { subscription_ids: [id.get()].as_slice().into(), group: None }));
        // [MQTT5-3.3.1-9]: RETAIN is 1, whatever the value of Retain As Published.
        self.send_delivery(
            now,
            session,
            Delivery {
                message: KeptMessage::new(message, self.memory.account()),
                qos,
                retain: true,
                number: None,
                extra,
            },
            Some(replay),
        );
    }

    pub(in crate::broker) fn arrive(&mut self, mail: RetainedMail) {
        self.queries.arrive(mail);
        self.turn.put_off();
    }

    /// Notes whether some mails that were in the boxes at the last look remain. Call it before
    /// [`Shard::handle_turn`].
    pub fn note_mails_left(&mut self, are_left: bool) {
        self.turn.set_mails_left(are_left);
        let has_more = self.has_next_turn();
        self.turn.put_off_if(has_more);
    }

    /// Whether any of these can be handled now, or without another mail.
    pub(in crate::broker) fn has_next_turn(&self) -> bool {
        if self.turn.has_mails_left() { self.queries.has_due() } else { !self.queries.is_empty() }
    }

    /// Handles mails that came before the boxes were last emptied, as far as the turn allows, and keeps later
    /// ones. A single shard has nothing to wait for.
    pub(in crate::broker) fn handle_next_turn(&mut self, now: Time) {
        if self.shared.shards() == 1 {
            self.queries.make_all_due();
        } else if !self.turn.has_mails_left() {
            self.queries.note_boxes_emptied();
        }
        while !self.is_spent()
            && let Some(mail) = self.queries.pop_due()
        {
            match mail {
                RetainedMail::Query { session, token, filter, after } => {
                    self.answer_query(now, session, token, &filter, after.as_deref());
                }
                RetainedMail::Batch { session, token, messages, next } => {
                    self.handle_retained_batch(now, session, token, messages, next);
                }
            }
        }
    }

    fn answer_query(
        &mut self,
        now: Time,
        session: SessionKey,
        token: RequestToken,
        filter: &str,
        after: Option<&str>,
    ) {
        let mut messages = Vec::new();
        let (mut denied, mut visits) = (0, 1);
        let is_asked = self.settings.config.protocol.check_retain_source;
        let mut check = SourceCheck::new(is_asked, self.access.all());
        let found = |topic: &str, message: &Message| match check.lets(topic, message) {
            true => messages.push(message.clone()),
            false => denied += 1,
        };
        let next = self.retained.matching_counted(filter, after, now, BATCH, &mut visits, found);
        self.count(Counter::DroppedDenied, denied);
        self.spend(WORK_A_VISIT * visits as u64);
        self.post(session.shard, Mail::RetainedBatch { token, session, messages, next });
    }

    pub(in crate::broker) fn handle_retained_batch(
        &mut self,
        now: Time,
        session: SessionKey,
        token: RequestToken,
        messages: Vec<Message>,
        next: Option<Box<str>>,
    ) {
        let Some(session) = self.sessions.resolve(session) else { return };
        let state = self.sessions.session_mut(session);
        let replay = state.replays.existing().and_then(|replays| replays.get_mut(token));
        let Some(replay) = replay else {
            // Its subscription has ended, and the next one has waited for its turn.
            self.pump(now, session);
            return;
        };
        let fruitless = messages.is_empty() && next.is_some();
        replay.handle_batch(messages, next);
        if fruitless {
            // A long walk without a match continues in the next turn, so that it holds up nothing else.
            self.defer(session);
        } else {
            self.pump(now, session);
        }
    }
}
