//! Fan-outs that go on in a later turn: one message, or several of one topic, on their way round many subscribers, in a
//! line for each topic.

use crate::base::{ConnectionKey, LogMark, SessionKey, SessionSlot, TextHash, Ticket};
use crate::broker::outcome::Outcome;
use crate::mqtt::QoS;
use crate::session::KeptMessage;
use ahash::{AHashMap, RandomState};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

/// So many fan-outs are under way at a time, each with a list of its subscribers; further ones wait as a message alone.
const CONVOYS_MAX: usize = 64;

/// What the publisher gets of its own message: granted QoS, Retain As Published, subscription identifiers.
pub(in crate::broker) type OwnMatch = (QoS, bool, SmallVec<[u32; 4]>);

/// All fan-outs that go on, in a line for each topic.
pub(in crate::broker) struct Convoys {
    lines: AHashMap<TextHash, VecDeque<Member>, RandomState>,
    /// The lines in the order of their turns.
    order: VecDeque<TextHash>,
    under_way: usize,
    riders_by_mail: usize,
}

/// What stands in a line.
pub(in crate::broker) enum Member {
    Convoy(Convoy),
    Waiting(Rider),
}

pub(in crate::broker) struct Convoy {
    pub stops: Vec<Stop>,
    pub ids: Vec<u32>,
    /// The next stop.
    pub at: usize,
    pub riders: VecDeque<Rider>,
    pub origin: Option<SessionKey>,
    /// Of the subscriptions, when the stops were looked up.
    pub version: u64,
}

/// Who is to get the messages.
pub(in crate::broker) enum Stop {
    Session { session: SessionSlot, generation: u32, qos: QoS, retain_as_published: bool, ids: (u32, u32) },
    Group(Arc<str>),
}

/// A message on its way round.
pub(in crate::broker) struct Rider {
    pub message: Rc<KeptMessage>,
    pub topic_hash: Option<TextHash>,
    /// Gets one receipt when it has been everywhere.
    pub ticket: Option<Ticket>,
    pub intended: bool,
    /// Its publisher gets its own message last.
    pub own_last: bool,
    pub own_delivery: Option<OwnMatch>,
    pub outcome: Outcome,
    pub mark: LogMark,
    /// Stops still to go.
    pub left: usize,
    /// The connection that is not read until it has been everywhere.
    pub publisher: Option<ConnectionKey>,
    pub by_mail: bool,
}

impl Convoys {
    pub(in crate::broker) fn new(seed: u64) -> Convoys {
        Convoys {
            lines: AHashMap::with_hasher(RandomState::with_seeds(seed, 0x636f, 0x6e76, 0x6f79)),
            order: VecDeque::new(),
            under_way: 0,
            riders_by_mail: 0,
        }
    }

    pub(in crate::broker) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Do messages of the topic with this hash stand in a line? What is retained of it waits until they are through: a
    /// subscriber must not see an older message after a newer one, nor the same twice.
    pub(in crate::broker) fn has_line(&self, line: TextHash) -> bool {
        self.lines.contains_key(&line)
    }

    /// Puts a message, or several on their way, at the end of a line.
    pub(in crate::broker) fn push(&mut self, line: TextHash, member: Member) {
        let members = self.lines.entry(line).or_default();
        if members.is_empty() {
            self.order.push_back(line);
        }
        self.under_way += usize::from(matches!(member, Member::Convoy(_)));
        members.push_back(member);
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.lines.shrink_to_fit();
        self.order.shrink_to_fit();
    }

    /// The last in a line.
    pub(in crate::broker) fn last_mut(&mut self, line: TextHash) -> Option<&mut Member> {
        self.lines.get_mut(&line).and_then(VecDeque::back_mut)
    }

    /// Is there room for one more fan-out that is under way?
    pub(in crate::broker) fn has_room(&self) -> bool {
        self.under_way < CONVOYS_MAX
    }

    /// The line whose turn it is, and the first in it, which is to be put back if it is not done.
    pub(in crate::broker) fn take_next(&mut self) -> Option<(TextHash, Option<Member>)> {
        let line = self.order.pop_front()?;
        let member = self.lines.get_mut(&line).and_then(VecDeque::pop_front);
        if let Some(Member::Convoy(_)) = member {
            self.under_way -= 1;
        }
        Some((line, member))
    }

    /// The turn of a line is over; `left`: what was first in it and is not done.
    pub(in crate::broker) fn put_back(&mut self, line: TextHash, left: Option<Member>) {
        let members = self.lines.entry(line).or_default();
        if let Some(left) = left {
            self.under_way += usize::from(matches!(left, Member::Convoy(_)));
            members.push_front(left);
        }
        if members.is_empty() {
            self.lines.remove(&line);
        } else {
            self.order.push_back(line);
        }
    }

    /// The next message that waits first in a line, if it is of the publisher of these.
    pub(in crate::broker) fn pop_waiting(
        &mut self,
        line: TextHash,
        origin: Option<SessionKey>,
    ) -> Option<Rider> {
        let behind = self.lines.get_mut(&line)?;
        match behind.front() {
            Some(Member::Waiting(next)) if next.message.origin() == origin => {}
            _ => return None,
        }
        match behind.pop_front() {
            Some(Member::Waiting(next)) => Some(next),
            _ => None,
        }
    }

    /// A message that has come by mail is on its way round.
    pub(in crate::broker) fn note_by_mail(&mut self) {
        self.riders_by_mail += 1;
    }

    /// It has been everywhere.
    pub(in crate::broker) fn note_arrived(&mut self, by_mail: bool) {
        self.riders_by_mail -= usize::from(by_mail);
    }

    /// Messages that have come by mail and are on their way round.
    pub(in crate::broker) fn riders_by_mail(&self) -> usize {
        self.riders_by_mail
    }
}

impl Convoy {
    pub(in crate::broker) fn new(version: u64, origin: Option<SessionKey>) -> Convoy {
        Convoy { stops: Vec::new(), ids: Vec::new(), at: 0, riders: VecDeque::new(), origin, version }
    }

    /// A message goes along, and round once.
    pub(in crate::broker) fn get_on(&mut self, mut rider: Rider) {
        rider.left = self.stops.len();
        self.riders.push_back(rider);
    }
}
