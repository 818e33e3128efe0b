//! Fan-outs that continue in a later turn: one message, or several of the same topic, that must reach many
//! subscribers. Each topic has its own line.

use crate::base::{ConnectionKey, LogMark, SessionKey, SessionSlot, TextHash, Ticket};
use crate::broker::outcome::Outcome;
use crate::mqtt::QoS;
use crate::session::KeptMessage;
use ahash::{AHashMap, RandomState};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

/// The largest number of fan-outs in progress, each with a list of its subscribers. Further ones wait as
/// single messages.
const CONVOYS_MAX: usize = 64;

/// The options with which the publisher gets its own message: granted QoS, Retain As Published, subscription
/// identifiers.
pub(in crate::broker) type OwnMatch = (QoS, bool, SmallVec<[u32; 4]>);

/// All unfinished fan-outs, in a line for each topic.
pub(in crate::broker) struct Convoys {
    lines: AHashMap<TextHash, VecDeque<Member>, RandomState>,
    /// The lines in the order of their turns.
    order: VecDeque<TextHash>,
    under_way: usize,
    riders_by_mail: usize,
}

/// A member of a line.
pub(in crate::broker) enum Member {
    Convoy(Convoy),
    Waiting(Rider),
}

pub(in crate::broker) struct Convoy {
    pub stops: Vec<Stop>,
    pub ids: Vec<u32>,
    /// The index of the next stop.
    pub at: usize,
    pub riders: VecDeque<Rider>,
    pub origin: Option<SessionKey>,
    /// The version of the subscriptions when the stops were looked up.
    pub version: u64,
}

/// A receiver of the messages.
pub(in crate::broker) enum Stop {
    Session { session: SessionSlot, generation: u32, qos: QoS, retain_as_published: bool, ids: (u32, u32) },
    Group(Arc<str>),
}

/// A message that is being sent to all stops.
pub(in crate::broker) struct Rider {
    pub message: Rc<KeptMessage>,
    pub topic_hash: Option<TextHash>,
    /// Gets one receipt when the message has reached all stops.
    pub ticket: Option<Ticket>,
    pub intended: bool,
    /// Whether its publisher gets its own message last.
    pub own_last: bool,
    pub own_delivery: Option<OwnMatch>,
    pub outcome: Outcome,
    pub mark: LogMark,
    /// The number of stops that are left.
    pub left: usize,
    /// The connection that is not read until the message has reached all stops.
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

    /// Whether messages of the topic with this hash are in a line. A retained message of the topic waits
    /// until they are done, because a subscriber must not see an older message after a newer one, or the same
    /// message twice.
    pub(in crate::broker) fn has_line(&self, line: TextHash) -> bool {
        self.lines.contains_key(&line)
    }

    /// Adds a message, or a fan-out of several, to the end of a line.
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

    /// The last member of a line.
    pub(in crate::broker) fn last_mut(&mut self, line: TextHash) -> Option<&mut Member> {
        self.lines.get_mut(&line).and_then(VecDeque::back_mut)
    }

    /// Whether one more fan-out may be in progress.
    pub(in crate::broker) fn has_room(&self) -> bool {
        self.under_way < CONVOYS_MAX
    }

    /// Takes the line whose turn it is, with its first member. The caller must put the member back if it is
    /// not done.
    pub(in crate::broker) fn take_next(&mut self) -> Option<(TextHash, Option<Member>)> {
        let line = self.order.pop_front()?;
        let member = self.lines.get_mut(&line).and_then(VecDeque::pop_front);
        if let Some(Member::Convoy(_)) = member {
            self.under_way -= 1;
        }
        Some((line, member))
    }

    /// Ends the turn of a line. `left` is its first member if it is not done.
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

    /// Takes the first member of a line if it is a waiting message of this publisher.
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

    /// Notes that a message from another shard is being sent.
    pub(in crate::broker) fn note_by_mail(&mut self) {
        self.riders_by_mail += 1;
    }

    /// Notes that a message has reached all stops.
    pub(in crate::broker) fn note_arrived(&mut self, by_mail: bool) {
        self.riders_by_mail -= usize::from(by_mail);
    }

    /// The number of messages from other shards that are being sent.
    pub(in crate::broker) fn riders_by_mail(&self) -> usize {
        self.riders_by_mail
    }
}

impl Convoy {
    pub(in crate::broker) fn new(version: u64, origin: Option<SessionKey>) -> Convoy {
        Convoy { stops: Vec::new(), ids: Vec::new(), at: 0, riders: VecDeque::new(), origin, version }
    }

    /// Adds a message, which must reach every stop once.
    pub(in crate::broker) fn get_on(&mut self, mut rider: Rider) {
        rider.left = self.stops.len();
        self.riders.push_back(rider);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{MemoryAccount, SessionKey, SessionSlot};
    use crate::session::Publication;

    fn publisher(number: u32) -> Option<SessionKey> {
        Some(SessionKey { shard: 0, slot: SessionSlot::new(number), generation: 0 })
    }

    fn rider(origin: Option<SessionKey>) -> Rider {
        let publication = Publication {
            topic: "t",
            forward: [&[]; 3],
            payload: b"",
            qos: QoS::AtMostOnce,
            retain: false,
            expires_at: None,
            origin,
            stamp: None,
            source: &[],
        };
        Rider {
            message: KeptMessage::new(publication.to_message(), &MemoryAccount::default()),
            topic_hash: None,
            ticket: None,
            intended: false,
            own_last: false,
            own_delivery: None,
            outcome: Outcome::default(),
            mark: LogMark::START,
            left: 0,
            publisher: None,
            by_mail: false,
        }
    }

    #[test]
    fn lines_take_turns_and_the_messages_of_one_keep_their_order() {
        let (a, b) = (TextHash::new(1), TextHash::new(2));
        let mut convoys = Convoys::new(0);
        for (line, number) in [(a, 1), (a, 2), (b, 3)] {
            convoys.push(line, Member::Waiting(rider(publisher(number))));
        }
        let mut order = Vec::new();
        while let Some((line, member)) = convoys.take_next() {
            assert!(convoys.has_line(line), "a line has its turn until it is put back");
            let Some(Member::Waiting(rider)) = member else { panic!("each line has a message") };
            order.push(rider.message.origin().map(|key| key.slot.get()));
            convoys.put_back(line, None);
        }
        assert_eq!(order, [Some(1), Some(3), Some(2)]);
        assert!(convoys.is_empty() && !convoys.has_line(a) && !convoys.has_line(b));
    }

    #[test]
    fn a_fan_out_that_is_not_done_stays_first_in_its_line_and_counts() {
        let line = TextHash::new(1);
        let mut convoys = Convoys::new(0);
        for _ in 0..CONVOYS_MAX {
            assert!(convoys.has_room());
            convoys.push(line, Member::Convoy(Convoy::new(0, None)));
        }
        assert!(!convoys.has_room());
        let Some((line, first @ Some(Member::Convoy(_)))) = convoys.take_next() else {
            panic!("there are some")
        };
        assert!(convoys.has_room());
        convoys.put_back(line, first);
        assert!(!convoys.has_room());
        assert!(matches!(convoys.last_mut(line), Some(Member::Convoy(_))));
    }

    #[test]
    fn only_messages_of_the_same_publisher_join_it() {
        let line = TextHash::new(1);
        let mut convoys = Convoys::new(0);
        for number in [1, 1, 2] {
            convoys.push(line, Member::Waiting(rider(publisher(number))));
        }
        assert!(convoys.pop_waiting(line, publisher(1)).is_some());
        assert!(convoys.pop_waiting(line, publisher(1)).is_some());
        assert!(convoys.pop_waiting(line, publisher(1)).is_none(), "the next one is of another publisher");
        assert!(convoys.pop_waiting(TextHash::new(9), publisher(1)).is_none());
    }

    #[test]
    fn who_gets_on_has_all_stops_ahead() {
        let mut convoy = Convoy::new(0, None);
        convoy.stops = (0..3).map(|_| Stop::Group("$share/g/t".into())).collect();
        convoy.at = 2;
        convoy.get_on(rider(None));
        assert_eq!(convoy.riders[0].left, 3);
    }
}
