//! Answers the questions of an operator, a bounded number of visits at a time.

use super::read::seconds_of;
use crate::base::{ConnectionSlot, SessionSlot, Time};
use crate::broker::components::connections::{Connection, Stage};
use crate::broker::components::sessions::SessionEntry;
use crate::broker::questions::{
    Answer, ClientDetails, ClientOrder, ClientRank, ClientSubscription, ClientSummary, ClientWill,
    ClientsPage, ClientsQuery, ConnectionSummary, Disconnected, Inquiry, Question, SUBSCRIPTIONS_SHOWN_MAX,
    ShardFigures,
};
use crate::broker::{Counter, EndCause, Shard};
use crate::mqtt::TopicFilter;
use crate::session::{LossCause, Session};
use std::cmp::Reverse;
use std::net::SocketAddr;

impl Shard {
    /// Works on an inquiry. Visits at most `visits` sessions. `None`: it goes on with the next call.
    pub(in crate::broker) fn look_into(
        &mut self,
        now: Time,
        inquiry: &mut Inquiry,
        visits: u32,
    ) -> Option<Answer> {
        Some(match &inquiry.question {
            Question::Alive => Answer::Alive,
            Question::Shard => Answer::Shard(Box::new(self.figures())),
            Question::Client(client_id) => {
                let session = self.sessions.find(client_id);
                Answer::Client(session.map(|session| Box::new(self.details_of(now, session))))
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
                    return None;
                }
                let clients = std::mem::take(&mut inquiry.found).into_iter().collect();
                Answer::Clients(ClientsPage { clients, matching: inquiry.matching })
            }
        })
    }

    fn figures(&self) -> ShardFigures {
        let counters = &self.shared.counters[usize::from(self.id)];
        let gauge = |counter| usize::try_from(counters.get(counter)).unwrap_or(usize::MAX);
        ShardFigures {
            shard: self.id,
            connections: self.connections.len(),
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
            && query.listener.is_none_or(|wanted| entry.listener.map(u16::from) == Some(wanted))
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
                    paused_by: connection.paused_by().collect(),
                }
            }),
            version: entry.version,
            listener: entry.listener.map(u16::from),
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

/// The user name that a client has proved.
fn user_of(connection: &Connection) -> Option<&str> {
    connection.extras.as_ref()?.identity.user.as_deref()
}
