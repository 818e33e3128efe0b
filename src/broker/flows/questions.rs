//! Answers the questions of an operator, a bounded number of visits at a time.

use super::full_disk::DISK;
use super::read::seconds_of;
use crate::base::{ConnectionSlot, GroupSlot, SessionSlot, Time};
use crate::broker::components::connections::{Connection, Stage};
use crate::broker::components::replies::{AfterLog, Purpose};
use crate::broker::components::sessions::SessionEntry;
use crate::broker::fanout::Fanout;
use crate::broker::questions::{
    Answer, Awaited, ClientDetails, ClientOrder, ClientRank, ClientSubscription, ClientSummary, ClientWill,
    ClientsPage, ClientsQuery, ConnectionSummary, Disconnected, Inquiry, InquiryProgress, OperatorMessage,
    Published, Question, RetainedPage, RetainedQuery, RetainedSummary, SUBSCRIPTIONS_SHOWN_MAX, ShardFigures,
    ShownRetained, SubscriptionsPage, SubscriptionsQuery,
};
use crate::broker::retained::BatchLimits;
use crate::broker::trace::TraceOrder;
use crate::broker::{Counter, EndCause, Shard, Violation};
use crate::mqtt::{QoS, Reason, TopicFilter, check_topic_name, filter_matches};
use crate::session::{LossCause, Message, Publication, Session};
use std::cmp::Reverse;
use std::net::SocketAddr;

/// The retained messages that are visited for a page. A page may be short, and then says where to go on.
const RETAINED_VISITS: usize = 1024;

impl Shard {
    /// Works on an inquiry. Visits at most `visits` sessions. `None`: it goes on with the next call.
    pub(in crate::broker) fn look_into(
        &mut self,
        now: Time,
        inquiry: &mut Inquiry,
        visits: u32,
    ) -> InquiryProgress {
        if inquiry.awaits.is_some() {
            return self.await_effect(inquiry);
        }
        InquiryProgress::Done(match &inquiry.question {
            Question::Alive => Answer::Alive,
            Question::Shard => Answer::Shard(Box::new(self.figures())),
            Question::Client(client_id) => {
                let session = self.sessions.find(client_id);
                Answer::Client(session.map(|session| Box::new(self.details_of(now, session))))
            }
            Question::ExplainConnect(case) => Answer::ExplainConnect(self.explain_connect(case)),
            Question::ExplainDelivery(case) => Answer::ExplainDelivery(Box::new(self.explain_delivery(case))),
            Question::ExplainPublish { client_id, topic } => {
                Answer::ExplainPublish(self.explain_publish(client_id, topic))
            }
            Question::GroupTurn { filter, member } => Answer::GroupTurn(self.group_turn(filter, *member)),
            Question::TraceBegin(order) => {
                Answer::TraceBegin(self.traces.begin(now, TraceOrder::clone(order)))
            }
            Question::Drain(order) => {
                self.set_drain(now, order.clone());
                Answer::Drain
            }
            Question::TraceRead(id) => Answer::TraceRead(self.traces.read(now, *id)),
            Question::TraceEnd(id) => {
                self.traces.end(*id);
                Answer::TraceEnd
            }
            Question::Disconnect { client_id, ends_session } => {
                Answer::Disconnect(self.disconnect_client(now, client_id, *ends_session))
            }
            Question::Clients(query) => {
                let until = inquiry.next.saturating_add(visits).min(self.sessions.slots());
                for slot in (inquiry.next..until).map(SessionSlot::new) {
                    let Some((rank, summary)) = self.matching_client(now, slot, query) else { continue };
                    inquiry.matching += 1;
                    if query.after.as_ref().is_some_and(|after| rank <= *after) {
                        continue;
                    }
                    let is_full = inquiry.found.len() >= query.count;
                    if is_full && inquiry.found.last_key_value().is_some_and(|(last, _)| rank > *last) {
                        continue;
                    }
                    inquiry.found.insert(rank, summary);
                    if is_full {
                        inquiry.found.pop_last();
                    }
                }
                inquiry.next = until;
                if until < self.sessions.slots() {
                    return InquiryProgress::GoesOn;
                }
                let clients = std::mem::take(&mut inquiry.found).into_iter().collect();
                Answer::Clients(ClientsPage { clients, matching: inquiry.matching })
            }
            Question::Subscriptions(query) => {
                let mut left = visits as usize;
                while inquiry.next < self.sessions.slots() {
                    if left == 0 {
                        return InquiryProgress::GoesOn;
                    }
                    left -= 1;
                    let slot = SessionSlot::new(inquiry.next);
                    let from = inquiry.filter.take();
                    inquiry.filter =
                        self.list_subscriptions(slot, from, query, &mut left, &mut inquiry.subscriptions);
                    inquiry.next += u32::from(inquiry.filter.is_none());
                }
                Answer::Subscriptions(std::mem::take(&mut inquiry.subscriptions))
            }
            Question::Retained(query) => Answer::Retained(self.list_retained(now, query)),
            Question::RetainedMessage(topic) => {
                let message = self.retained.get(topic, now).map(|message| {
                    let summary = retained_summary(now, topic, message);
                    Box::new(ShownRetained { summary, message: message.clone() })
                });
                Answer::RetainedMessage(message)
            }
            Question::RemoveRetained(topic) => {
                let was_there = self.retained.get(topic, now).is_some();
                let before = self.durability.count();
                if was_there {
                    let publication = Publication {
                        payload: b"",
                        stamp: Some(self.stamps.next(now)),
                        ..operator_publication(topic)
                    };
                    self.retain(now, &mut Fanout::new(publication, now));
                }
                let awaited = Awaited {
                    mark: self.durability.mark_since(before),
                    ticket: None,
                    answer: Answer::RemoveRetained(was_there),
                };
                return self.begin_to_await(inquiry, awaited);
            }
            Question::Groups { after, count } => {
                let until = inquiry.next.saturating_add(visits).min(self.groups.slots());
                for slot in (inquiry.next..until).map(GroupSlot::new) {
                    let Some(filter) = self.groups.filter(slot) else { continue };
                    let is_full = inquiry.groups.len() >= *count;
                    let is_late =
                        || inquiry.groups.last_key_value().is_some_and(|(last, _)| **filter > **last);
                    if after.as_ref().is_some_and(|after| **filter <= **after) || (is_full && is_late()) {
                        continue;
                    }
                    if let Some(summary) = self.groups.summary(slot) {
                        inquiry.groups.insert(summary.filter.clone(), summary);
                    }
                    if is_full {
                        inquiry.groups.pop_last();
                    }
                }
                inquiry.next = until;
                if until < self.groups.slots() {
                    return InquiryProgress::GoesOn;
                }
                Answer::Groups(std::mem::take(&mut inquiry.groups).into_values().collect())
            }
            Question::ClientIds(keys) => Answer::ClientIds(
                keys.iter()
                    .map(|key| Some(self.sessions.session(self.sessions.resolve(*key)?).client_id.clone()))
                    .collect(),
            ),
            Question::Publish(message) => {
                let awaited = match self.check_operator_message(message) {
                    Err(violation) => return InquiryProgress::Done(Answer::Publish(Err(violation))),
                    Ok(()) => self.publish_for_operator(now, message),
                };
                return self.begin_to_await(inquiry, awaited);
            }
        })
    }

    /// Lets an order that was carried out wait for the log and for other shards.
    fn begin_to_await(&mut self, inquiry: &mut Inquiry, awaited: Awaited) -> InquiryProgress {
        if awaited.mark > self.durability.durable() {
            self.wait_for_log(awaited.mark, AfterLog::Order);
        }
        inquiry.awaits = Some(awaited);
        self.await_effect(inquiry)
    }

    /// Whether the effect of an order is durable by now.
    fn await_effect(&mut self, inquiry: &mut Inquiry) -> InquiryProgress {
        let is_done = |awaited: &mut Awaited| {
            awaited.mark <= self.durability.durable()
                && awaited.ticket.is_none_or(|ticket| !self.replies.is_ticket_open(ticket))
        };
        match inquiry.awaits.take_if(is_done) {
            Some(awaited) => InquiryProgress::Done(awaited.answer),
            None if self.durability.has_failed() => InquiryProgress::Done(Answer::Failed(DISK)),
            None => InquiryProgress::Waits,
        }
    }

    fn check_operator_message(&self, message: &OperatorMessage) -> Result<(), Violation> {
        let reason = Reason::TopicNameInvalid;
        check_topic_name(&message.topic).map_err(|error| Violation { reason, cause: error.words() })?;
        self.check_size(&message.topic, &message.payload)?;
        self.check_levels(&message.topic)?;
        if message.qos != QoS::AtMostOnce && (self.durability.has_failed() || self.durability.is_full()) {
            return Err(DISK);
        }
        Ok(())
    }

    fn publish_for_operator(&mut self, now: Time, message: &OperatorMessage) -> Awaited {
        let before = self.durability.count();
        let publication = Publication {
            payload: &message.payload,
            qos: message.qos,
            retain: message.retain,
            expires_at: message.expiry_seconds.map(|seconds| now.after_seconds(seconds)),
            stamp: message.retain.then(|| self.stamps.next(now)),
            ..operator_publication(&message.topic)
        };
        let mut fanout = Fanout::new(publication, now);
        if message.qos != QoS::AtMostOnce {
            fanout.ticket = Some(self.replies.next_ticket());
            fanout.intended = message.qos == QoS::ExactlyOnce && self.durability.is_on();
        }
        let outcome = self.publish(now, &mut fanout);
        let ticket = fanout.ticket.filter(|_| fanout.missing > 0);
        if ticket.is_some() {
            let intents = std::mem::take(&mut fanout.intents);
            self.replies.open_ticket(fanout.missing, outcome, intents, Purpose::Intents);
        }
        let published = Published {
            has_subscribers: outcome.matched || self.interested(&message.topic) != 0,
            was_refused: outcome.refused || outcome.unkept,
        };
        Awaited { mark: self.durability.mark_since(before), ticket, answer: Answer::Publish(Ok(published)) }
    }

    /// Adds the subscriptions of a session that the filter lets through, after the filter `from`. Visits at most `left`,
    /// and subtracts them. Returns the last visited filter if there are more.
    fn list_subscriptions(
        &self,
        slot: SessionSlot,
        from: Option<Box<str>>,
        query: &SubscriptionsQuery,
        left: &mut usize,
        page: &mut SubscriptionsPage,
    ) -> Option<Box<str>> {
        self.sessions.get(slot)?;
        let state = self.sessions.session(slot);
        if !state.client_id.starts_with(&*query.prefix) {
            return None;
        }
        let mut last: Option<&str> = from.as_deref();
        for text in state.subscriptions().after(last.unwrap_or_default()) {
            if *left == 0 {
                return last.map(Into::into);
            }
            *left -= 1;
            last = Some(text);
            let Ok(filter) = TopicFilter::parse(text) else { continue };
            let passes = query.filter.as_deref().is_none_or(|wanted| wanted == text)
                && query.topic.as_deref().is_none_or(|topic| filter_matches(filter.matching_part(), topic));
            if !passes {
                continue;
            }
            page.matching += 1;
            let key: (Box<str>, Box<str>) = (state.client_id.clone(), text.into());
            let is_full = page.subscriptions.len() >= query.count;
            let is_late = || page.subscriptions.last_key_value().is_some_and(|(last, _)| key > *last);
            if query.after.as_ref().is_some_and(|after| key <= *after) || (is_full && is_late()) {
                continue;
            }
            let granted = match filter.shared() {
                None => self.subscriptions.granted(filter.matching_part(), slot),
                Some(_) => None,
            };
            page.subscriptions.insert(key, granted);
            if is_full {
                page.subscriptions.pop_last();
            }
        }
        None
    }

    fn list_retained(&self, now: Time, query: &RetainedQuery) -> RetainedPage {
        let limits = BatchLimits { messages: query.count, bytes: usize::MAX, visits: RETAINED_VISITS };
        let mut messages = Vec::new();
        let next =
            self.retained.matching(&query.filter, query.after.as_deref(), now, limits, |topic, message| {
                messages.push(retained_summary(now, topic, message));
            });
        RetainedPage { messages, next }
    }

    /// The number of connections in any stage by the number of the listener.
    fn connections_by_listener(&self) -> Vec<usize> {
        let mut sums = vec![0; self.settings.config.listeners.len()];
        for (at, count) in self.connections.by_entrance().iter().enumerate() {
            if let Some(sum) =
                self.settings.listener_at(at).and_then(|listener| sums.get_mut(usize::from(listener)))
            {
                *sum += count;
            }
        }
        sums
    }

    fn figures(&self) -> ShardFigures {
        let counters = &self.shared.counters[usize::from(self.id)];
        let gauge = |counter| usize::try_from(counters.get(counter)).unwrap_or(usize::MAX);
        ShardFigures {
            shard: self.id,
            connections: self.connections.len(),
            connections_by_listener: self.connections_by_listener(),
            handshakes: self.connections.handshakes(),
            sessions: gauge(Counter::Sessions),
            subscriptions: gauge(Counter::Subscriptions),
            retained: self.retained.len(),
            kept_bytes: self.memory.account().total(),
            journal_bytes: self.durability.waiting_bytes(),
            has_log_failed: self.durability.has_failed(),
        }
    }

    /// A session with its place in the order, if the filter lets it through.
    fn matching_client(
        &self,
        now: Time,
        slot: SessionSlot,
        query: &ClientsQuery,
    ) -> Option<(ClientRank, ClientSummary)> {
        let entry = self.sessions.get(slot)?;
        let state = self.sessions.session(slot);
        let connected = entry.connection.and_then(|slot| Some((slot, self.connections.get(slot)?)));
        let user = || connected.and_then(|(_, connection)| user_of(connection));
        let address = || connected.map(|(_, connection)| SocketAddr::from(&connection.peer).ip());
        let passes = state.client_id.starts_with(&*query.prefix)
            && query.is_connected.is_none_or(|wanted| wanted == connected.is_some())
            && query.listener.is_none_or(|wanted| self.settings.listener_of(entry.entrance) == Some(wanted))
            && query.user.as_deref().is_none_or(|wanted| user() == Some(wanted))
            && query.address.is_none_or(|wanted| address() == Some(wanted));
        if !passes {
            return None;
        }
        let summary = self.summary_of(now, entry, state, connected);
        let of_connection = |sum: fn(&ConnectionSummary) -> u64| summary.connection.as_ref().map_or(0, sum);
        let number = match query.order {
            ClientOrder::ClientId => 0,
            ClientOrder::Messages => {
                of_connection(|connection| connection.messages_in + connection.messages_out)
            }
            ClientOrder::Bytes => of_connection(|connection| connection.bytes_in + connection.bytes_out),
            // In thousandths, so that slow clients have an order too.
            ClientOrder::Rate => of_connection(|connection| {
                ((connection.load.received_1 + connection.load.sent_1) * 1000.0) as u64
            }),
            ClientOrder::Queue => summary.queued as u64,
            ClientOrder::Lost => summary.lost,
        };
        Some((ClientRank { number: Reverse(number), client_id: state.client_id.clone() }, summary))
    }

    fn summary_of(
        &self,
        now: Time,
        entry: &SessionEntry,
        state: &Session,
        connected: Option<(ConnectionSlot, &Connection)>,
    ) -> ClientSummary {
        ClientSummary {
            connection: connected.map(|(slot, connection)| {
                let given = self.outbox.given(slot);
                ConnectionSummary {
                    peer: SocketAddr::from(&connection.peer),
                    user: user_of(connection).map(Into::into),
                    seconds: u64::from(seconds_of(now).saturating_sub(state.connected_at_seconds)),
                    keep_alive_seconds: match connection.stage {
                        Stage::Serving { keep_alive_seconds, .. } => keep_alive_seconds,
                        _ => 0,
                    },
                    messages_in: connection.messages_in,
                    bytes_in: connection.bytes_in,
                    messages_out: given.messages,
                    bytes_out: given.bytes,
                    backlog_bytes: connection.backlog_bytes(),
                    load: self.loads.of(now, slot, connection.serial),
                    paused_by: connection.paused_by().collect(),
                }
            }),
            version: entry.version,
            listener: self.settings.listener_of(entry.entrance),
            expiry_seconds: state.expiry_seconds,
            is_kept: entry.sid.is_some(),
            subscriptions: state.subscriptions().len(),
            queued: state.queue.len(),
            queued_bytes: state.queue.bytes(),
            inflight: state.inflight.len(),
            lost: state.losses().map_or(0, |losses| {
                LossCause::ALL.into_iter().map(|cause| u64::from(losses.of(cause))).sum()
            }),
        }
    }

    fn details_of(&self, now: Time, session: SessionSlot) -> ClientDetails {
        let (entry, state) = (self.sessions.slot(session), self.sessions.session(session));
        let connected = entry.connection.and_then(|slot| Some((slot, self.connections.get(slot)?)));
        let filters = state.subscriptions().iter().take(SUBSCRIPTIONS_SHOWN_MAX);
        let subscriptions = filters.map(|filter| ClientSubscription {
            filter: filter.into(),
            granted: TopicFilter::parse(filter)
                .ok()
                .filter(|parsed| parsed.shared().is_none())
                .and_then(|parsed| self.subscriptions.granted(parsed.matching_part(), session)),
        });
        ClientDetails {
            summary: self.summary_of(now, entry, state, connected),
            subscriptions: subscriptions.collect(),
            losses: state.losses().copied().unwrap_or_default(),
            held: state.held_count(),
            packet_bytes_max: (entry.packet_bytes_max < u32::MAX).then_some(entry.packet_bytes_max),
            will: state.will.as_ref().map(|will| {
                let publication = will.message.as_publication();
                ClientWill {
                    topic: publication.topic.into(),
                    qos: publication.qos,
                    retain: publication.retain,
                    payload_bytes: publication.payload.len(),
                    delay_seconds: will.delay_seconds,
                }
            }),
            slot: connected.map(|(slot, _)| slot),
            security: None,
            events: Vec::new(),
        }
    }

    fn disconnect_client(&mut self, now: Time, client_id: &str, ends_session: bool) -> Disconnected {
        let Some(session) = self.sessions.find(client_id) else {
            return Disconnected { was_connected: false, has_session_ended: false };
        };
        let key = self.sessions.key(session);
        let connection = self.sessions.slot(session).connection;
        if let Some(slot) = connection {
            self.end_connection(now, slot, EndCause::Operator);
        }
        if ends_session && let Some(session) = self.sessions.resolve(key) {
            self.end_session(now, session);
        }
        Disconnected {
            was_connected: connection.is_some(),
            has_session_ended: self.sessions.resolve(key).is_none(),
        }
    }
}

/// A message of an operator without contents. It has no origin, so every subscriber gets it.
fn operator_publication(topic: &str) -> Publication<'_> {
    Publication {
        topic,
        forward: [&[]; 3],
        payload: b"",
        qos: QoS::AtMostOnce,
        retain: true,
        expires_at: None,
        origin: None,
        stamp: None,
        source: &[],
    }
}

fn retained_summary(now: Time, topic: &str, message: &Message) -> RetainedSummary {
    RetainedSummary {
        topic: topic.into(),
        qos: message.qos(),
        payload_bytes: message.payload_len(),
        expires_in_seconds: message.expires_at().map(|at| at.seconds_left(now)),
    }
}

/// The user name that a client has proved.
fn user_of(connection: &Connection) -> Option<&str> {
    connection.extras.as_ref()?.identity.user.as_deref()
}
