//! SUBSCRIBE and UNSUBSCRIBE.
//!
//! A SUBACK is sent only when every shard can see the interest, so that a message published after it reaches
//! the subscriber (`[MQTT5 §3.9]`). All shards see an exact filter at once, through the shared bits. A
//! wildcard filter is known when every shard has answered, and a shared subscription when its home has
//! answered. An UNSUBACK is sent when the homes of its shared subscriptions have removed the session.
//! Messages for which they had chosen it come before that.

use super::groups::member_of;
use super::refused_filters::RefusedFilter;
use crate::base::ConnectionKey;
use crate::base::LogMark;
use crate::base::RequestToken;
use crate::base::ShardId;
use crate::base::Time;
use crate::base::{ConnectionSlot, SessionSlot};
use crate::broker::components::budget::{WORK_A_FILTER, WORK_A_VISIT};
use crate::broker::components::connections::PAUSED_BY_WORK;
use crate::broker::components::replies::Reply;
use crate::broker::components::requests::{
    Completion, FiltersAnswer, FiltersKind, Needed, Pending, RefusedFilters, Unfinished,
};
use crate::broker::components::subscriptions::PatternsMax;
use crate::broker::{Counter, EndCause, GroupMember, Limit, Mail, MemoryRelief, Shard, Violation};
use crate::mqtt::codec::{
    Subscribe, SubscribeFilter, SubscribeFilters, Unsubscribe, UnsubscribeFilters, encode_suback,
    encode_unsuback,
};
use crate::mqtt::{PacketId, ProtocolVersion, QoS, Reason, SubscriptionId};
use crate::mqtt::{RetainHandling, SubscriptionOptions, TopicFilter};
use crate::session::Replay;
use crate::store::Record;
use std::collections::VecDeque;

/// The filters of a packet that must still be handled.
enum Filters<'a> {
    /// The filters, with the subscription identifier.
    Subscribe(SubscribeFilters<'a>, Option<SubscriptionId>),
    Unsubscribe(UnsubscribeFilters<'a>),
}

impl<'a> Filters<'a> {
    fn rest(&self) -> &'a [u8] {
        match self {
            Filters::Subscribe(filters, _) => filters.rest(),
            Filters::Unsubscribe(filters) => filters.rest(),
        }
    }

    fn kind(&self) -> FiltersKind {
        match self {
            Filters::Subscribe(_, id) => FiltersKind::Subscribe(*id),
            Filters::Unsubscribe(_) => FiltersKind::Unsubscribe,
        }
    }
}

/// The options for a bridge of 3.x, which could not request them: its own messages do not come back to it,
/// and retained messages stay retained at its other end. The options stay with the subscription, also over
/// restarts. `[MQTT311 §3.1-r]`.
fn options_of_bridge(wanted: &SubscribeFilter<'_>) -> SubscriptionOptions {
    // [MQTT5-3.8.3-4]: No Local is not allowed for shared subscriptions.
    let no_local = wanted.filter.shared().is_none();
    SubscriptionOptions { no_local, retain_as_published: true, ..wanted.options }
}

impl Shard {
    pub(in crate::broker) fn handle_subscribe(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        subscribe: &Subscribe<'_>,
    ) -> Result<(), Violation> {
        let version = self.version_of_session(session);
        if version == ProtocolVersion::V5 {
            self.check_subscribe_capabilities(session, subscribe)?;
        }
        let token = self.requests.next_token();
        let answer = self.new_answer(slot, session, subscribe.packet_id);
        let pending = Pending { needed: Needed::default(), then: Completion::Suback(answer) };
        let filters = Filters::Subscribe(subscribe.filters.clone(), subscribe.subscription_id);
        self.take_filters(now, slot, session, token, pending, filters)
    }

    /// Handles as many filters as the visit allows. The others, and the answer, follow later.
    fn take_filters(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        token: RequestToken,
        mut pending: Pending,
        mut filters: Filters<'_>,
    ) -> Result<(), Violation> {
        self.visit_filters(session, token, &mut pending, &mut filters)?;
        if filters.rest().is_empty() {
            self.await_answers(now, token, pending);
            return Ok(());
        }
        // This represents the rest of the filters.
        pending.needed.remaining += 1;
        self.requests.insert(token, pending);
        let Some(connection) = self.connections.key(slot) else { return Ok(()) };
        self.pause(slot, PAUSED_BY_WORK);
        self.turn.put_off();
        self.requests.put_off(Unfinished {
            connection,
            session: self.sessions.key(session),
            token,
            rest: filters.rest().into(),
            at: 0,
            kind: filters.kind(),
        });
        Ok(())
    }

    /// Makes one visit to the filters of a packet.
    fn visit_filters(
        &mut self,
        session: SessionSlot,
        token: RequestToken,
        pending: &mut Pending,
        filters: &mut Filters<'_>,
    ) -> Result<(), Violation> {
        let visit = self.begin_visit();
        let before = self.durability.count();
        let Pending { needed, then: Completion::Suback(answer) | Completion::Unsuback(answer) } = pending
        else {
            return Ok(());
        };
        while !filters.rest().is_empty() && !self.is_over(&visit) && !self.is_spent() {
            let code = match filters {
                Filters::Subscribe(filters, id) => {
                    let Some(wanted) = filters.next() else { break };
                    self.take_filter(session, wanted, *id, token, needed, &mut answer.refused)?
                }
                Filters::Unsubscribe(filters) => {
                    let Some(filter) = filters.next() else { break };
                    self.drop_filter(session, filter, token, needed)
                }
            };
            answer.codes.push(code);
            self.spend(WORK_A_FILTER);
        }
        answer.mark = answer.mark.max(self.durability.mark_since(before));
        if filters.rest().is_empty() {
            self.report_unlogged_filters(session, &mut answer.refused);
        }
        Ok(())
    }

    /// Continues with the filters of long packets, each in its turn.
    pub(in crate::broker) fn finish_filters(&mut self, now: Time) {
        while !self.is_spent()
            && let Some(unfinished) = self.requests.pop_unfinished()
        {
            let Unfinished { connection, token, .. } = unfinished;
            let session = self.sessions.resolve(unfinished.session);
            let session = session.filter(|&session| self.is_served_by(session, connection));
            let Some(session) = session else {
                self.requests.take(token);
                continue;
            };
            match self.go_on_with_filters(session, unfinished) {
                Ok(Some(left)) => self.requests.put_off(left),
                Ok(None) => {
                    self.handle_answer(now, token);
                    self.read_on_later(connection);
                }
                Err(violation) => {
                    self.requests.take(token);
                    self.end_connection(now, connection.slot, EndCause::Violation(violation));
                }
            }
            self.settle(now);
        }
    }

    /// Makes one visit to a packet. Returns the rest of it, if there is any.
    fn go_on_with_filters(
        &mut self,
        session: SessionSlot,
        mut unfinished: Unfinished,
    ) -> Result<Option<Unfinished>, Violation> {
        let version = self.version_of_session(session);
        let Some(mut pending) = self.requests.take(unfinished.token) else { return Ok(None) };
        let bytes = &unfinished.rest[unfinished.at..];
        let mut filters = match unfinished.kind {
            FiltersKind::Subscribe(id) => Filters::Subscribe(SubscribeFilters::go_on(bytes, version), id),
            FiltersKind::Unsubscribe => Filters::Unsubscribe(UnsubscribeFilters::go_on(bytes)),
        };
        self.visit_filters(session, unfinished.token, &mut pending, &mut filters)?;
        unfinished.at = unfinished.rest.len() - filters.rest().len();
        self.requests.insert(unfinished.token, pending);
        Ok((unfinished.at < unfinished.rest.len()).then_some(unfinished))
    }

    /// Handles one filter of a SUBSCRIBE. Returns its reason code.
    fn take_filter(
        &mut self,
        session: SessionSlot,
        wanted: SubscribeFilter<'_>,
        subscription_id: Option<SubscriptionId>,
        token: RequestToken,
        needed: &mut Needed,
        refused_filters: &mut RefusedFilters,
    ) -> Result<Reason, Violation> {
        let whole = self.mounted_filter(session, wanted.filter);
        let Ok(filter) = whole.as_deref().map_or(Ok(wanted.filter), TopicFilter::parse) else {
            let refused = RefusedFilter::from(Reason::TopicFilterInvalid);
            self.report_refused_filter(session, wanted.filter, &refused, refused_filters);
            return Ok(refused.reason);
        };
        let mut wanted = SubscribeFilter { filter, ..wanted };
        if self.is_bridge(session) {
            wanted.options = options_of_bridge(&wanted);
        }
        let Err(refused) = self.check_filter(session, wanted.filter) else {
            return Ok(self.subscribe_one(session, &wanted, subscription_id, token, needed));
        };
        self.report_refused_filter(session, wanted.filter, &refused, refused_filters);
        match refused.reason {
            reason if self.version_of_session(session) == ProtocolVersion::V31 => {
                // [MQTT311 §3.1-f]: SUBACK of 3.1 has no way to say no.
                Err(Violation { reason, cause: "subscription refused, and 3.1 has no code for it" })
            }
            reason => Ok(reason),
        }
    }

    /// Whether the session's client has declared itself as a bridge.
    fn is_bridge(&self, session: SessionSlot) -> bool {
        let connection = self.sessions.slot(session).connection.and_then(|slot| self.connections.get(slot));
        connection.and_then(|connection| connection.extras.as_ref()).is_some_and(|extras| extras.is_bridge)
    }

    /// Handles one filter of an UNSUBSCRIBE. Returns its reason code.
    fn drop_filter(
        &mut self,
        session: SessionSlot,
        filter: TopicFilter<'_>,
        token: RequestToken,
        needed: &mut Needed,
    ) -> Reason {
        let whole = self.mounted_filter(session, filter);
        let Ok(filter) = whole.as_deref().map_or(Ok(filter), TopicFilter::parse) else {
            return Reason::TopicFilterInvalid;
        };
        if !self.sessions.session_mut(session).remove_subscription(filter.as_str()) {
            return Reason::NoSubscriptionExisted;
        }
        // Its group's home may choose the session until it has taken note. [MQTT5-3.10.4-2]
        needed.remaining += usize::from(filter.shared().is_some());
        self.detail_unsubscribed(session, filter);
        self.withdraw(session, filter, Some(token));
        if let Some(sid) = self.sid(session) {
            self.durability.record(&Record::Unsubscribed { sid, filter: filter.as_str() });
        }
        Reason::Success
    }

    fn new_answer(&self, slot: ConnectionSlot, session: SessionSlot, packet_id: PacketId) -> FiltersAnswer {
        let serial = self.connections.get(slot).map_or(0, |connection| connection.serial);
        FiltersAnswer {
            connection: ConnectionKey { slot, serial },
            session,
            packet_id,
            codes: Vec::new(),
            refused: RefusedFilters::default(),
            mark: LogMark::START,
        }
    }

    /// Waits for the answers of other shards before the shard may serve clients.
    pub(in crate::broker) fn await_restore(&mut self, now: Time, token: RequestToken, needed: Needed) {
        self.restart.set_restoring(true);
        self.await_answers(now, token, Pending { needed, then: Completion::Restored });
    }

    fn await_answers(&mut self, now: Time, token: RequestToken, pending: Pending) {
        if pending.needed.remaining == 0 {
            self.complete(now, token, pending);
        } else {
            self.requests.insert(token, pending);
        }
    }

    /// Checks for features that CONNACK has announced as not available.
    fn check_subscribe_capabilities(
        &self,
        session: SessionSlot,
        subscribe: &Subscribe<'_>,
    ) -> Result<(), Violation> {
        let terms = self.terms_of_session(session);
        let refuse = |reason, cause| Err(Violation { reason, cause });
        if subscribe.subscription_id.is_some() && !terms.subscription_identifiers {
            return refuse(
                Reason::SubscriptionIdentifiersNotSupported,
                "subscription identifiers are not available",
            );
        }
        if terms.shared_subscriptions && terms.wildcard_subscriptions {
            return Ok(());
        }
        for wanted in subscribe.filters.clone() {
            if wanted.filter.shared().is_some() && !terms.shared_subscriptions {
                return refuse(
                    Reason::SharedSubscriptionsNotSupported,
                    "shared subscriptions are not available",
                );
            }
            if wanted.filter.has_wildcard() && !terms.wildcard_subscriptions {
                return refuse(
                    Reason::WildcardSubscriptionsNotSupported,
                    "wildcard subscriptions are not available",
                );
            }
        }
        Ok(())
    }

    /// Checks the reasons to refuse a single well-formed filter. `[MQTT5-3.8.4-7]`
    fn check_filter(&mut self, session: SessionSlot, filter: TopicFilter<'_>) -> Result<(), RefusedFilter> {
        if !self.may_subscribe(session, filter.as_str()) {
            return Err(Reason::NotAuthorized.into());
        }
        let config = &self.settings.config;
        let terms = self.terms_of_session(session);
        let state = self.sessions.session(session);
        let is_new = !state.has_subscription(filter.as_str());
        let limit = if filter.levels() > config.limits.topic_levels {
            (Limit::TopicLevels, Reason::TopicFilterInvalid)
        } else if is_new && state.subscriptions().len() >= config.limits.subscriptions_per_client {
            (Limit::Subscriptions, Reason::QuotaExceeded)
        } else if is_new
            && state.subscription_text_bytes() + filter.as_str().len()
                > config.limits.subscription_bytes_per_client
        {
            (Limit::SubscriptionBytes, Reason::QuotaExceeded)
        } else if is_new && self.is_memory_tight() {
            (Limit::Memory(MemoryRelief::Subscribe), Reason::QuotaExceeded)
        } else if is_new && self.subscriptions.is_full() {
            (Limit::SubscriptionsTotal, Reason::QuotaExceeded)
        } else if is_new && filter.has_wildcard() && !self.has_room_for_pattern(session, filter) {
            (Limit::WildcardPatterns, Reason::QuotaExceeded)
        } else if filter.shared().is_some() && !terms.shared_subscriptions {
            // A 3.x client can't be told in CONNACK.
            return Err(Reason::SharedSubscriptionsNotSupported.into());
        } else if filter.has_wildcard() && !terms.wildcard_subscriptions {
            return Err(Reason::WildcardSubscriptionsNotSupported.into());
        } else {
            return Ok(());
        };
        Err(RefusedFilter { reason: limit.1, limit: Some(limit.0) })
    }

    /// Whether a session may add the new patterns of a filter.
    fn has_room_for_pattern(&self, session: SessionSlot, filter: TopicFilter<'_>) -> bool {
        let of_session = self.settings.config.limits.wildcard_patterns_per_client;
        let max = PatternsMax { of_session, of_shard: of_session * PATTERNS_FACTOR };
        self.subscriptions.has_room_for_patterns(filter.matching_part(), session, max)
    }

    fn subscribe_one(
        &mut self,
        session: SessionSlot,
        wanted: &SubscribeFilter<'_>,
        subscription_id: Option<SubscriptionId>,
        token: RequestToken,
        needed: &mut Needed,
    ) -> Reason {
        let filter = wanted.filter;
        let maximum = self.terms_of_session(session).maximum_qos;
        // [MQTT5-3.2.2-10]
        let qos = wanted.options.qos.min(QoS::from_bits(maximum).unwrap_or(QoS::ExactlyOnce));
        let options = SubscriptionOptions { qos, ..wanted.options };
        let new = self.sessions.session_mut(session).add_subscription(filter.as_str());
        if new {
            self.note_subscription(filter.as_str(), true);
        }
        if new && filter.has_wildcard() {
            self.subscriptions.add_patterns(filter.matching_part(), session);
        }
        if let Some(sid) = self.sid(session) {
            let filter = filter.as_str();
            self.durability.record(&Record::Subscribed { sid, filter, options, subscription_id });
        }
        self.detail_subscribed(session, wanted, options, subscription_id, new);
        if filter.shared().is_some() {
            self.count(Counter::SharedSubscriptions, u64::from(new));
            let member = member_of(self.sessions.key(session), options, subscription_id);
            needed.remaining += 1;
            let home = self.group_home(filter.as_str());
            self.post(home, Mail::GroupJoin { filter: filter.as_str().into(), member, token });
            // [MQTT5 §4.8.2]: no retained messages, whatever Retain Handling says.
            return granted(qos);
        }
        // [MQTT5-3.8.4-3]
        let is_first = self.subscriptions.add(filter.matching_part(), session, options, subscription_id);
        self.count(Counter::Subscriptions, u64::from(new));
        if is_first {
            self.acquire_interest(filter.matching_part());
        }
        self.announce(filter.matching_part(), token, needed);
        let replay = match options.retain_handling {
            RetainHandling::Always => true,
            // [MQTT5-3.3.1-10]
            RetainHandling::IfNew => new,
            RetainHandling::Never => false,
        };
        if replay {
            let mut shards = if filter.has_wildcard() {
                std::iter::once(self.id).chain(self.other_shards()).collect()
            } else {
                VecDeque::from([self.shared.home(self.shared.hash(filter.as_str()))])
            };
            if shards.front() == Some(&self.id) && !self.may_have_retained(filter.as_str()) {
                shards.pop_front();
            }
            if shards.is_empty() {
                return granted(qos);
            }
            let replay = Replay {
                token: self.requests.next_token(),
                filter: filter.as_str().into(),
                qos,
                subscription_id,
                hides_own_after: options.no_local.then_some(self.stamps.last()),
                shards,
                cursor: None,
                held_by: Some(token),
                waiting: false,
                ready: VecDeque::new(),
                for_log: 0,
            };
            self.add_replay(session, replay);
        }
        granted(qos)
    }

    /// Whether this shard may have a retained message that matches a filter. If it has none now, its session
    /// needs no replay from this shard: the subscription gets messages that are retained here later live.
    fn may_have_retained(&mut self, filter: &str) -> bool {
        let mut visits = 0;
        let may = self.retained.may_match(filter, VISITS_AT_SUBSCRIBE, &mut visits);
        self.spend(WORK_A_VISIT * visits as u64);
        may
    }

    pub(in crate::broker) fn handle_unsubscribe(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        session: SessionSlot,
        unsubscribe: &Unsubscribe<'_>,
    ) -> Result<(), Violation> {
        let token = self.requests.next_token();
        let answer = self.new_answer(slot, session, unsubscribe.packet_id);
        let pending = Pending { needed: Needed::default(), then: Completion::Unsuback(answer) };
        let filters = Filters::Unsubscribe(unsubscribe.filters.clone());
        self.take_filters(now, slot, session, token, pending, filters)
    }

    fn withdraw(&mut self, session: SessionSlot, filter: TopicFilter<'_>, token: Option<RequestToken>) {
        self.note_subscription(filter.as_str(), false);
        if filter.has_wildcard() {
            self.subscriptions.remove_patterns(filter.matching_part());
        }
        let counters = &self.shared.counters[usize::from(self.id)];
        if filter.shared().is_some() {
            counters.subtract(Counter::SharedSubscriptions, 1);
            let member = self.sessions.key(session);
            let home = self.group_home(filter.as_str());
            self.post(home, Mail::GroupLeave { filter: filter.as_str().into(), member, token });
        } else {
            counters.subtract(Counter::Subscriptions, 1);
            if self.subscriptions.remove(filter.matching_part(), session) {
                self.release_interest(filter.matching_part());
            }
        }
    }

    /// Removes all subscriptions of a session that ends.
    pub(in crate::broker) fn drop_subscriptions(&mut self, session: SessionSlot) {
        let filters = self.sessions.session_mut(session).take_subscriptions();
        self.detail_ended(session, filters.iter().map(|filter| &**filter));
        for filter in filters {
            if let Ok(filter) = TopicFilter::parse(&filter) {
                self.withdraw(session, filter, None);
            }
        }
    }

    /// Handles a member that joins a group at home here. The answer is sent when every shard knows the
    /// filter.
    pub(in crate::broker) fn handle_group_join(
        &mut self,
        now: Time,
        from: ShardId,
        filter: &str,
        member: GroupMember,
        token: RequestToken,
    ) {
        let Ok(parsed) = TopicFilter::parse(filter) else { return };
        if self.groups.join(filter, parsed.matching_part(), member) {
            self.acquire_interest(parsed.matching_part());
        }
        let mut needed = Needed::default();
        let own_token = self.requests.next_token();
        self.announce(parsed.matching_part(), own_token, &mut needed);
        let then = Completion::Joined { to: from, token };
        self.await_answers(now, own_token, Pending { needed, then });
    }

    /// Takes one of the answers that a token waits for.
    pub(in crate::broker) fn handle_answer(&mut self, now: Time, token: RequestToken) {
        if let Some(pending) = self.requests.take_answer(token) {
            self.complete(now, token, pending);
        }
    }

    fn complete(&mut self, now: Time, token: RequestToken, pending: Pending) {
        for (filter, serial) in pending.needed.wildcards {
            self.interest.note_known(&filter, serial);
        }
        match pending.then {
            Completion::Joined { to, token } => self.post(to, Mail::GroupJoined { token }),
            Completion::Restored => self.restart.set_restoring(false),
            Completion::Suback(FiltersAnswer { connection, session, packet_id, codes, mark, .. }) => {
                if self.is_served_by(session, connection) {
                    let mut packet = Vec::new();
                    encode_suback(&mut packet, self.version_of_session(session), packet_id, &codes);
                    self.reply(
                        now,
                        connection.slot,
                        mark,
                        None,
                        Reply::Suback { packet: packet.into(), token },
                    );
                }
            }
            // [MQTT5-3.10.4-5]
            Completion::Unsuback(FiltersAnswer { connection, session, packet_id, codes, mark, .. }) => {
                if self.is_served_by(session, connection) {
                    let mut packet = Vec::new();
                    encode_unsuback(&mut packet, self.version_of_session(session), packet_id, &codes);
                    self.reply(now, connection.slot, mark, None, Reply::Packet(packet.into()));
                }
            }
        }
    }
}

/// The number of retained messages that a SUBSCRIBE visits before it begins a replay from its own shard.
const VISITS_AT_SUBSCRIBE: usize = 16;

/// The patterns of all clients of a shard are limited to this many times the limit of one client. This bounds
/// a search for the subscribers of a topic name, by default to a millisecond.
const PATTERNS_FACTOR: usize = 32;

fn granted(qos: QoS) -> Reason {
    match qos {
        QoS::AtMostOnce => Reason::Success,
        QoS::AtLeastOnce => Reason::GrantedQoS1,
        QoS::ExactlyOnce => Reason::GrantedQoS2,
    }
}
