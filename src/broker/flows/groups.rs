//! Shared subscriptions: the groups whose home is this shard, and the choice of a member.
//!
//! Implements section 4.8.2. The home of a group is found by the hash of its whole filter. Only the home
//! matches messages with the group's filter and chooses the member, in turn, among those that can take the
//! message now. When a member's session ends, it returns the messages that it has not settled.
//! settled.

use super::convoy::{Served, work_of};
use super::forward::shards_of;
use crate::base::Ticket;
use crate::base::Time;
use crate::base::steps;
use crate::base::{DeliveryNumber, GroupSlot, IntentNumber, SessionSlot};
use crate::base::{RequestToken, SessionKey, ShardId};
use crate::broker::components::groups::LOOKED_AT_MAX;
use crate::broker::components::replies::{AfterLog, Intents, Purpose};
use crate::broker::components::sessions::{BACKLOGGED, GATED};
use crate::broker::fanout::Fanout;
use crate::broker::outcome::Outcome;
use crate::broker::{GroupMember, Mail, Shard};
use crate::mqtt::SubscriptionOptions;
use crate::mqtt::{QoS, SubscriptionId};
use crate::session::InflightState;
use crate::session::KeptMessage;
use crate::session::Message;
use crate::store::Record;
use crate::topic::Matches;
use std::rc::Rc;
use std::sync::Arc;

/// A session as a member of a group.
pub(in crate::broker) fn member_of(
    key: SessionKey,
    options: SubscriptionOptions,
    subscription_id: Option<SubscriptionId>,
) -> GroupMember {
    let SubscriptionOptions { qos, retain_as_published, .. } = options;
    GroupMember { key, qos, retain_as_published, subscription_id }
}

impl Shard {
    pub(in crate::broker) fn group_home(&self, filter: &str) -> ShardId {
        self.shared.home(self.shared.hash(filter))
    }

    pub(in crate::broker) fn has_group(&mut self, topic: &str) -> bool {
        self.groups.has_one_for(topic)
    }

    /// Sends a message to one member of every group that matches. If the visit ends earlier, the rest of them
    /// get it later. `matches` has the sessions, which already have the message.
    pub(in crate::broker) fn route_groups(
        &mut self,
        now: Time,
        fanout: &mut Fanout<'_>,
        sessions: &Matches,
    ) -> Outcome {
        let matches = self.groups.matching(fanout.publication.topic);
        let mut outcome = Outcome::default();
        let visit = self.begin_visit();
        for (at, matched) in matches.as_slice().iter().enumerate() {
            if self.is_over(&visit) {
                outcome.matched = true;
                self.groups.recycle(matches);
                let served = Served { sessions: sessions.as_slice().len(), groups: at };
                self.go_on_later(fanout, sessions, served);
                return outcome;
            }
            self.spend(work_of(fanout));
            outcome.merge(self.deliver_to_group(now, GroupSlot::new(matched.subscriber), fanout));
        }
        self.groups.recycle(matches);
        outcome
    }

    pub(in crate::broker) fn deliver_to_group(
        &mut self,
        now: Time,
        slot: GroupSlot,
        fanout: &mut Fanout<'_>,
    ) -> Outcome {
        let reached = Outcome { matched: true, ..Outcome::default() };
        let Some((group, chosen)) = self.choose_member(slot, fanout) else { return reached };
        let to = chosen.key.shard;
        if to == self.id
            && let Some(session) = self.sessions.resolve(chosen.key)
        {
            return self.deliver_to_member(now, &group, session, chosen, fanout);
        }
        let ticket = fanout.await_receipts(1);
        let message = fanout.to_message();
        if !fanout.intended {
            self.post(to, Mail::GroupDeliver { group, member: chosen, message, ticket, intent: None });
            return reached;
        }
        let intent: IntentNumber = self.durability.next_number();
        fanout.intents.push(intent);
        let stored = self.stored(&fanout.publication);
        self.durability.record(&Record::Intent {
            number: intent,
            targets: 1 << to,
            stamp: None,
            group: &group,
            message: stored,
        });
        let mail = Mail::GroupDeliver { group, member: chosen, message, ticket, intent: Some(intent) };
        self.wait_for_log(self.durability.mark(), AfterLog::Mail(to, Box::new(mail)));
        reached
    }

    /// The next member that can take a message now. If none can, the next whose queue is not known to be
    /// full. If all are full, the next in turn.
    fn choose_member(&mut self, slot: GroupSlot, fanout: &Fanout<'_>) -> Option<(Arc<str>, GroupMember)> {
        loop {
            let members = self.groups.members(slot)?;
            let Some(place) = members.next_ready() else { break };
            let member = *members.get(place)?;
            if self.can_take(member.key) {
                return self.groups.take_turn(slot, place);
            }
            self.groups.pass_over(slot, place, member.key);
            if let Some(session) = self.sessions.resolve(member.key) {
                self.sessions.session_mut(session).passed_over = true;
            }
        }
        let members = self.groups.members(slot)?;
        let has_room =
            |&place: &usize| members.get(place).is_some_and(|member| self.may_have_room(member, fanout));
        let place = members.in_turn().find(has_room).or_else(|| {
            let mut in_turn = members.in_turn();
            // The next message continues after the members that were checked.
            if members.len() > LOOKED_AT_MAX { in_turn.last() } else { in_turn.next() }
        })?;
        self.groups.take_turn(slot, place)
    }

    /// Whether a member that is listed as ready can take a message now.
    fn can_take(&self, member: SessionKey) -> bool {
        let Some(session) = self.sessions.resolve(member) else {
            return member.shard != self.id && !self.groups.is_busy(member);
        };
        let entry = self.sessions.slot(session);
        let state = self.sessions.session(session);
        entry.connection.is_some()
            && entry.flags & (BACKLOGGED | GATED) == 0
            && state.queue.is_empty()
            && state.inflight.has_room()
    }

    fn may_have_room(&self, member: &GroupMember, fanout: &Fanout<'_>) -> bool {
        match self.sessions.resolve(member.key) {
            Some(session) => {
                member.qos.min(fanout.publication.qos) == QoS::AtMostOnce || self.has_room(session, fanout)
            }
            // Its shard may know better.
            None => member.key.shard != self.id,
        }
    }

    fn deliver_to_member(
        &mut self,
        now: Time,
        group: &Arc<str>,
        session: SessionSlot,
        member: GroupMember,
        fanout: &mut Fanout<'_>,
    ) -> Outcome {
        let id = member.subscription_id.map(SubscriptionId::get);
        let mut outcome = Outcome { matched: true, ..Outcome::default() };
        outcome.note(self.deliver(
            now,
            fanout,
            session,
            member.qos,
            member.retain_as_published,
            id.as_slice(),
            Some(group),
        ));
        outcome
    }

    pub(in crate::broker) fn handle_group_deliver(
        &mut self,
        now: Time,
        group: &Arc<str>,
        member: GroupMember,
        intent: Option<IntentNumber>,
        fanout: &mut Fanout<'_>,
    ) -> Outcome {
        let Some(session) = self.sessions.resolve(member.key) else {
            // The member left while the message was on its way. When this mail reaches the home, it is not a
            // member any more, because mails keep their order. This shard does not count the message as seen,
            // so the group's home may choose another member.
            let ticket = fanout.await_receipts(1);
            let (group, message) = (Arc::clone(group), fanout.to_message());
            self.post(self.group_home(&group), Mail::GroupReturn { group, message, ticket, intent });
            return Outcome { matched: true, ..Outcome::default() };
        };
        if let Some(number) = intent {
            self.durability.record(&Record::IntentSeen { number });
        }
        fanout.promised = intent.is_some() || fanout.ticket.is_none();
        self.deliver_to_member(now, group, session, member, fanout)
    }

    /// `[MQTT5 §4.8.2]`: a message that a member did not settle goes to another member. If nothing waits for
    /// a receipt, its publisher has already got an acknowledgement. So a full disk does not refuse it, and
    /// memory holds it until there is room.
    pub(in crate::broker) fn handle_group_return(
        &mut self,
        now: Time,
        group: &str,
        intent: Option<IntentNumber>,
        fanout: &mut Fanout<'_>,
    ) -> Outcome {
        if let Some(number) = intent {
            self.durability.record(&Record::IntentSeen { number });
            // Messages that are forwarded from here must not be lost either.
            fanout.intended = true;
        }
        fanout.promised = intent.is_some() || fanout.ticket.is_none();
        match self.groups.slot_of(group) {
            Some(slot) => self.deliver_to_group(now, slot, fanout),
            None => Outcome { matched: true, ..Outcome::default() },
        }
    }

    pub(in crate::broker) fn handle_group_leave(
        &mut self,
        from: ShardId,
        filter: &str,
        member: SessionKey,
        token: Option<RequestToken>,
    ) {
        if let Some(matching) = self.groups.leave(filter, member) {
            self.release_interest(&matching);
        }
        if let Some(token) = token {
            self.post(from, Mail::GroupLeft { token });
        }
    }

    pub(in crate::broker) fn handle_group_ready(&mut self, member: SessionKey, ready: bool) {
        self.groups.set_ready(member, ready);
    }

    /// Tells the homes of a session's shared subscriptions whether it can take messages.
    pub(in crate::broker) fn tell_groups(&mut self, session: SessionSlot, ready: bool) {
        let member = self.sessions.key(session);
        let state = self.sessions.session_mut(session);
        if ready && std::mem::take(&mut state.passed_over) {
            self.groups.set_ready(member, true);
        }
        let state = self.sessions.session_mut(session);
        if std::mem::replace(&mut state.group_ready, ready) == ready {
            return;
        }
        // The group's own shard checks this itself: see `choose_member`.
        for home in shards_of(self.group_homes(session) & !(1 << self.id)) {
            self.post(home, Mail::GroupReady { member, ready });
        }
    }

    /// The homes of a session's shared subscriptions, as a bit mask. All shards if there are more
    /// subscriptions than shards.
    fn group_homes(&self, session: SessionSlot) -> u128 {
        let mut filters = self.sessions.session(session).shared_subscriptions();
        let shards = self.shared.shards();
        let homes = filters.by_ref().take(shards).fold(0, |homes, filter| {
            steps::walked(1);
            homes | 1 << self.group_home(filter)
        });
        if filters.next().is_some() { u128::MAX >> (128 - shards) } else { homes }
    }

    /// The messages that an ending session returns to its groups: QoS 1 messages that were not acknowledged,
    /// and all that were never sent. A QoS 2 delivery that has begun goes to no other member.
    /// `[MQTT5-4.8.2-5]`
    ///
    /// In the log, each becomes an intent. Otherwise it would be lost in a power failure, or it would arrive
    /// twice if the end of the session did not reach the log. The ticket counts the receipts of the groups.
    pub(in crate::broker) fn take_shared(&mut self, session: SessionSlot) -> (Vec<Returned>, Option<Ticket>) {
        let state = self.sessions.session(session);
        let unsettled = state
            .inflight
            .iter()
            .filter(|entry| entry.delivery.qos == QoS::AtLeastOnce && entry.state != InflightState::Released);
        let deliveries = unsettled.map(|entry| &entry.delivery).chain(state.queue.iter());
        let back = deliveries.filter_map(|delivery| {
            let (group, message) = (Arc::clone(delivery.group()?), Rc::clone(&delivery.message));
            Some(Returned { group, message, number: delivery.number, intent: None })
        });
        let mut back: Vec<Returned> = back.collect();
        let Some(sid) = self.sid(session) else { return (back, None) };
        let mut intents = Intents::new();
        for returned in &mut back {
            let Some(delivery) = returned.number else { continue };
            let number = self.durability.next_number();
            self.durability.record(&Record::Returned { sid, delivery, number });
            returned.intent = Some(number);
            intents.push(number);
        }
        let missing = u32::try_from(intents.len()).expect("a queue is bounded");
        if missing == 0 {
            return (back, None);
        }
        let ticket = self.replies.next_ticket();
        self.replies.open_ticket(missing, Outcome::default(), intents, Purpose::Intents);
        (back, Some(ticket))
    }

    /// Returns the messages of a session that has ended to its groups. Messages in the log are returned only
    /// when the records are durable, because otherwise their first member might come back for them.
    pub(in crate::broker) fn return_shared(&mut self, back: Vec<Returned>, ticket: Option<Ticket>) {
        for Returned { group, message, intent, .. } in back {
            let home = self.group_home(&group);
            let ticket = intent.and(ticket);
            let mail = Mail::GroupReturn { group, message: Message::clone(&message), ticket, intent };
            if intent.is_none() || home == self.id {
                self.post(home, mail);
            } else {
                self.wait_for_log(self.durability.mark(), AfterLog::Mail(home, Box::new(mail)));
            }
        }
    }
}

/// A message that is returned to its group.
pub(in crate::broker) struct Returned {
    group: Arc<str>,
    message: Rc<KeptMessage>,
    /// Its delivery's number in the log, if it is in the log.
    number: Option<DeliveryNumber>,
    /// Its number as an intent, if it is an intent.
    intent: Option<IntentNumber>,
}
