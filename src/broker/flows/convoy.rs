//! Fan-outs that continue in a later turn: one message, or several of the same topic, that must reach many
//! subscribers.
//!
//! The input is a message whose fan-out has used up its visit, and the subscribers that it has not reached
//! yet. The output is deliveries, a limited number at a time, and in the end what the publisher waits for:
//! the rest of a fan-out counts as one more receipt of its ticket, like another shard. Messages of one topic
//! stay in one line, so that each subscriber gets them in order, and no newer one overtakes an older one. If
//! a message finds a convoy in progress with the same subscribers, it joins the convoy at its present stop,
//! visits every stop once, and leaves. So a burst costs each subscriber one send instead of one per message.

use crate::base::ConnectionKey;
use crate::base::LogMark;
use crate::base::SessionSlot;
use crate::base::TextHash;
use crate::base::Time;
use crate::broker::Shard;
use crate::broker::components::budget::WORK_A_NUMBERED;
use crate::broker::components::connections::PAUSED_BY_WORK;
use crate::broker::components::convoys::{Convoy, Member, Rider, Stop};
use crate::broker::components::replies::Intents;
use crate::broker::fanout::Fanout;
use crate::broker::outcome::{Outcome, Receipt};
use crate::mqtt::QoS;
use crate::session::KeptMessage;
use crate::topic::Matches;
use smallvec::SmallVec;
use std::rc::Rc;

/// The largest number of messages in a convoy.
const RIDERS_MAX: usize = 32;
/// A publisher whose message is larger, or exceeds the number, is not read until the message has reached all
/// stops.
const RIDER_BYTES_MAX: usize = 4096;
/// Mails with messages are left in their boxes while this many messages from mails wait here.
const RIDERS_BY_MAIL_MAX: usize = 64;

impl Shard {
    /// Whether there is room for messages from other shards. Mails that are left in a box hold up their
    /// sender.
    pub(in crate::broker) fn has_turn_for_mails(&self) -> bool {
        !self.is_spent() && self.convoys.riders_by_mail() < RIDERS_BY_MAIL_MAX
    }

    /// The number of changes of subscriptions and groups.
    fn subscriptions_version(&self) -> u64 {
        self.subscriptions.version() + self.groups.version()
    }

    fn line_of(&self, fanout: &Fanout<'_>) -> TextHash {
        self.shared.hash(fanout.publication.topic)
    }

    /// Adds a message to the end of its topic's line, if there is one.
    pub(in crate::broker) fn join_line(&mut self, fanout: &mut Fanout<'_>) -> bool {
        let line = self.line_of(fanout);
        if !self.convoys.has_line(line) {
            return false;
        }
        let mut rider = self.rider_of(fanout);
        let (version, origin) = (self.subscriptions_version(), fanout.publication.origin);
        let last = self.convoys.last_mut(line);
        match last {
            Some(Member::Convoy(convoy))
                if convoy.version == version
                    && convoy.origin == origin
                    && convoy.riders.len() < RIDERS_MAX =>
            {
                if convoy.riders.len() + 1 < RIDERS_MAX && rider.message.bytes() <= RIDER_BYTES_MAX {
                    rider.publisher = None;
                }
                let publisher = rider.publisher;
                convoy.get_on(rider);
                self.hold_publisher(publisher);
            }
            _ => self.wait_in_line(line, rider),
        }
        true
    }

    /// Puts off a message that no subscriber has been given yet.
    pub(in crate::broker) fn put_off_fanout(&mut self, fanout: &mut Fanout<'_>) {
        let (line, rider) = (self.line_of(fanout), self.rider_of(fanout));
        self.wait_in_line(line, rider);
    }

    fn wait_in_line(&mut self, line: TextHash, rider: Rider) {
        self.hold_publisher(rider.publisher);
        self.convoys.push(line, Member::Waiting(rider));
        self.turn.put_off();
    }

    /// Whether there is room for one more unfinished fan-out.
    pub(in crate::broker) fn has_room_for_convoy(&self) -> bool {
        self.convoys.has_room()
    }

    /// Ends a visit: the first `served` of `matches` and of the groups have the message, and the others get
    /// it later.
    pub(in crate::broker) fn go_on_later(
        &mut self,
        fanout: &mut Fanout<'_>,
        matches: &Matches,
        served: Served,
    ) {
        let line = self.line_of(fanout);
        let mut convoy = Convoy::new(self.subscriptions_version(), fanout.publication.origin);
        self.list_stops(&mut convoy, matches, fanout.publication.topic);
        // Messages that join visit all stops. This one has visited the first ones.
        convoy.at = served.sessions + served.groups;
        let left = convoy.stops.len().saturating_sub(convoy.at);
        if left == 0 {
            return;
        }
        let mut rider = self.rider_of(fanout);
        if rider.message.bytes() <= RIDER_BYTES_MAX {
            rider.publisher = None;
        }
        rider.left = left;
        self.note_encoded(&rider.message, fanout);
        self.hold_publisher(rider.publisher);
        convoy.riders.push_back(rider);
        self.convoys.push(line, Member::Convoy(convoy));
        self.turn.put_off();
    }

    fn list_stops(&mut self, convoy: &mut Convoy, matches: &Matches, topic: &str) {
        convoy.stops.reserve_exact(matches.as_slice().len());
        for matched in matches.as_slice() {
            let from = convoy.ids.len() as u32;
            convoy.ids.extend_from_slice(matches.subscription_ids(matched));
            convoy.stops.push(Stop::Session {
                session: SessionSlot::new(matched.subscriber),
                generation: self.sessions.slot(SessionSlot::new(matched.subscriber)).generation,
                qos: matched.qos,
                retain_as_published: matched.retain_as_published,
                ids: (from, convoy.ids.len() as u32),
            });
        }
        if !self.groups.is_empty() {
            convoy.stops.extend(self.groups.matching_filters(topic).into_iter().map(Stop::Group));
        }
    }

    fn rider_of(&mut self, fanout: &mut Fanout<'_>) -> Rider {
        let origin = fanout.publication.origin;
        let by_mail = origin.is_some_and(|key| key.shard != self.id);
        if by_mail {
            self.convoys.note_by_mail();
        }
        let publisher = origin
            .and_then(|key| self.sessions.resolve(key))
            .and_then(|session| self.connections.key(self.sessions.slot(session).connection?));
        Rider {
            message: fanout.keep(self.memory.account()),
            topic_hash: fanout.topic_hash,
            ticket: fanout.await_receipts(1),
            intended: fanout.intended,
            own_last: fanout.own.is_some(),
            own_delivery: None,
            outcome: Outcome::default(),
            mark: LogMark::START,
            left: 0,
            publisher,
            by_mail,
        }
    }

    fn hold_publisher(&mut self, publisher: Option<ConnectionKey>) {
        if let Some(key) = publisher {
            self.pause(key.slot, PAUSED_BY_WORK);
        }
    }

    /// Makes one visit of the line whose turn it is. Returns `false` if there is none.
    pub(in crate::broker) fn run_convoy(&mut self, now: Time) -> bool {
        let Some((line, member)) = self.convoys.take_next() else { return false };
        let left = match member {
            Some(Member::Convoy(convoy)) => self.ride(now, convoy),
            Some(Member::Waiting(rider)) => self.start_riding(now, line, rider),
            None => None,
        };
        self.convoys.put_back(line, left);
        true
    }

    /// Looks up the subscribers of the first message in a line, and takes along the messages that wait behind
    /// it.
    fn start_riding(&mut self, now: Time, line: TextHash, rider: Rider) -> Option<Member> {
        if !self.convoys.has_room() {
            return Some(Member::Waiting(rider));
        }
        let message = Rc::clone(&rider.message);
        let publication = message.as_publication();
        let mut convoy = Convoy::new(self.subscriptions_version(), publication.origin);
        let origin = publication.origin.and_then(|key| self.sessions.resolve(key));
        let matches = self.subscriptions.find(publication.topic, origin);
        let by_filter = matches.filters() > 0;
        self.list_stops(&mut convoy, &matches, publication.topic);
        self.subscriptions.recycle(matches);
        let matched = by_filter || !convoy.stops.is_empty();
        let get_on = |convoy: &mut Convoy, mut rider: Rider| {
            rider.outcome.matched |= matched;
            convoy.get_on(rider);
        };
        get_on(&mut convoy, rider);
        while convoy.riders.len() < RIDERS_MAX
            && let Some(next) = self.convoys.pop_waiting(line, convoy.origin)
        {
            get_on(&mut convoy, next);
        }
        self.ride(now, convoy)
    }

    /// Takes the messages from stop to stop, until they have visited all or the visit is over.
    fn ride(&mut self, now: Time, mut convoy: Convoy) -> Option<Member> {
        let visit = self.begin_visit();
        let before = self.durability.count();
        let messages: SmallVec<[Rc<KeptMessage>; 4]> =
            convoy.riders.iter().map(|rider| Rc::clone(&rider.message)).collect();
        // Each visit records the message again if it goes to sessions that are in the log. There a message
        // exists from its first delivery to its last one, and the first ones may be settled before the next
        // visit.
        let mut fanouts = Vec::with_capacity(messages.len());
        for (rider, message) in convoy.riders.iter().zip(&messages) {
            let mut fanout = self.fanout_of(message, now);
            fanout.topic_hash = rider.topic_hash;
            (fanout.ticket, fanout.intended) = (rider.ticket, rider.intended);
            fanouts.push(fanout);
        }
        // The messages that have visited all stops.
        let mut done = 0;
        loop {
            while convoy.riders.get(done).is_some_and(|rider| rider.left == 0) {
                done += 1;
            }
            if done == fanouts.len() || self.is_over(&visit) || self.is_spent() {
                break;
            }
            let at = convoy.at;
            for (rider, fanout) in convoy.riders.iter_mut().zip(&mut fanouts).skip(done) {
                rider.left -= 1;
                let outcome = self.serve_stop(now, &convoy.stops[at], &convoy.ids, rider.own_last, fanout);
                rider.outcome.merge(outcome);
            }
            convoy.at = if at + 1 < convoy.stops.len() { at + 1 } else { 0 };
        }
        if let ([message], [fanout]) = (&messages[..], &mut fanouts[..]) {
            self.note_encoded(message, fanout);
        }
        let mark = self.durability.mark_since(before);
        for (rider, fanout) in convoy.riders.iter_mut().zip(&mut fanouts) {
            rider.mark = rider.mark.max(mark);
            rider.own_delivery = fanout.own_delivery.take().or(rider.own_delivery.take());
            let intents: Intents = std::mem::take(&mut fanout.intents);
            if let Some(ticket) = rider.ticket {
                self.replies.add_to_ticket(ticket, fanout.missing, intents);
            }
        }
        for (mut rider, mut fanout) in convoy.riders.drain(..done).zip(fanouts) {
            fanout.own_delivery = rider.own_delivery.take();
            self.get_off(now, &rider, &mut fanout);
        }
        (!convoy.riders.is_empty()).then_some(Member::Convoy(convoy))
    }

    fn serve_stop(
        &mut self,
        now: Time,
        stop: &Stop,
        ids: &[u32],
        own_last: bool,
        fanout: &mut Fanout<'_>,
    ) -> Outcome {
        self.spend(work_of(fanout));
        match *stop {
            Stop::Session { session, generation, qos, retain_as_published, ids: (from, to) } => {
                let mut outcome = Outcome::default();
                if self.sessions.get(session).is_none_or(|entry| entry.generation != generation) {
                    return outcome;
                }
                let ids = &ids[from as usize..to as usize];
                let origin = fanout.publication.origin.and_then(|key| self.sessions.resolve(key));
                let own = origin.filter(|_| own_last);
                outcome.note(self.deliver_matched(now, fanout, session, qos, retain_as_published, ids, own));
                outcome
            }
            Stop::Group(ref filter) => match self.groups.slot_of(filter) {
                Some(slot) => self.deliver_to_group(now, slot, fanout),
                None => Outcome::default(),
            },
        }
    }

    /// Completes a message that has visited all stops.
    fn get_off(&mut self, now: Time, rider: &Rider, fanout: &mut Fanout<'_>) {
        self.convoys.note_arrived(rider.by_mail);
        let own = fanout.publication.origin.and_then(|key| self.sessions.resolve(key));
        if let Some(session) = own {
            let slot = self.sessions.slot(session).connection;
            self.deliver_own(now, slot, fanout);
        }
        if let Some(ticket) = rider.ticket {
            let receipt = Receipt { ticket, outcome: rider.outcome };
            self.give_receipt(self.id, rider.mark, receipt);
        }
        if let Some(key) = rider.publisher {
            self.read_on_later(key);
        }
    }
}

/// The number of subscribers that have the message of a fan-out when its visit is over. They are the first of
/// the matches.
pub(in crate::broker) struct Served {
    pub(in crate::broker) sessions: usize,
    /// Groups get the message after all sessions.
    pub(in crate::broker) groups: usize,
}

/// The work of a delivery of this message.
pub(in crate::broker) fn work_of(fanout: &Fanout<'_>) -> u64 {
    if fanout.publication.qos == QoS::AtMostOnce { 1 } else { WORK_A_NUMBERED }
}

/// The approximate size of a message in an arena or a box.
pub(in crate::broker) fn size_of_message(fanout: &Fanout<'_>) -> usize {
    let publication = &fanout.publication;
    let forward: usize = publication.forward.iter().map(|run| run.len()).sum();
    publication.topic.len() + forward + publication.payload.len()
}

/// The number of deliveries between two checks of the budget. It is small for large messages.
pub(in crate::broker) fn step_of(fanout: &Fanout<'_>) -> usize {
    (STEP_BYTES_MAX / size_of_message(fanout).max(1)).clamp(1, STEP_MAX)
}

/// With so few checks, the budget costs a fan-out nothing.
const STEP_MAX: usize = 32;
const STEP_BYTES_MAX: usize = 64 << 10;
