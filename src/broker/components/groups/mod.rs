//! The shared subscriptions at home on this shard: their members, whose turn it is, and which are not ready.

mod members;

pub(in crate::broker) use members::LOOKED_AT_MAX;

use crate::base::{GroupSlot, SessionKey};
use crate::broker::GroupMember;
use crate::broker::questions::{GroupMemberSummary, GroupSummary, MEMBERS_SHOWN_MAX};
use crate::mqtt::{QoS, RetainHandling, SubscriptionOptions};
use crate::topic::{Matches, TopicIndex};
use ahash::{AHashMap, RandomState};
use members::Members;
use smallvec::SmallVec;
use std::sync::Arc;

/// The groups at home on this shard.
pub(in crate::broker) struct Groups {
    slots: Vec<Option<Group>>,
    free: Vec<GroupSlot>,
    by_filter: AHashMap<Arc<str>, GroupSlot>,
    index: TopicIndex,
    matches: Matches,
    sessions: AHashMap<SessionKey, Participant>,
}

/// A session that is a member of groups at home here.
#[derive(Default)]
struct Participant {
    groups: u32,
    /// Whether its shard has reported that it can't take messages. Sessions of this shard are checked when it
    /// is their turn.
    is_busy: bool,
    /// The groups that considered it ready at its turn and then skipped it.
    passed_over: SmallVec<[GroupSlot; 2]>,
}

struct Group {
    filter: Arc<str>,
    /// The part of the filter that is matched. Interest is announced for it.
    matching: Box<str>,
    /// Members are ready unless something else is known. This is checked when it is their turn.
    members: Members,
}

impl Group {
    fn summary(&self, is_ready: impl Fn(SessionKey) -> bool) -> GroupSummary {
        let first = self.members.iter().take(MEMBERS_SHOWN_MAX).map(|member| GroupMemberSummary {
            key: member.key,
            qos: member.qos,
            is_ready: is_ready(member.key),
        });
        GroupSummary { filter: (*self.filter).into(), members: self.members.len(), first: first.collect() }
    }
}

impl Groups {
    pub(in crate::broker) fn new(seed: u64) -> Groups {
        Groups {
            slots: Vec::new(),
            free: Vec::new(),
            by_filter: AHashMap::with_hasher(RandomState::with_seeds(seed, 0x6772, 0x6f75, 0x7073)),
            index: TopicIndex::new(seed),
            matches: Matches::default(),
            sessions: AHashMap::with_hasher(RandomState::with_seeds(seed, 0x6d65, 0x6d62, 0x6572)),
        }
    }

    pub(in crate::broker) fn is_empty(&self) -> bool {
        self.by_filter.is_empty()
    }

    /// Whether a group at home here matches this topic name.
    pub(in crate::broker) fn has_one_for(&mut self, topic: &str) -> bool {
        if self.is_empty() {
            return false;
        }
        self.index.matches(topic, None, &mut self.matches);
        !self.matches.as_slice().is_empty()
    }

    /// Adds or updates a member. Returns whether the group is new.
    pub(in crate::broker) fn join(&mut self, filter: &str, matching: &str, member: GroupMember) -> bool {
        if let Some(&slot) = self.by_filter.get(filter) {
            let group = self.slots[slot.at()].as_mut().expect("listed groups exist");
            if group.members.join(member) {
                self.sessions.entry(member.key).or_default().groups += 1;
            }
            return false;
        }
        self.sessions.entry(member.key).or_default().groups += 1;
        let members = Members::new(member);
        let filter: Arc<str> = filter.into();
        let group = Group { filter: Arc::clone(&filter), matching: matching.into(), members };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot.at()] = Some(group);
                slot
            }
            None => {
                self.slots.push(Some(group));
                let number =
                    u32::try_from(self.slots.len() - 1).expect("a shard holds less than 2^32 groups");
                GroupSlot::new(number)
            }
        };
        let options = SubscriptionOptions {
            qos: QoS::ExactlyOnce,
            no_local: false,
            retain_as_published: true,
            retain_handling: RetainHandling::Never,
        };
        self.by_filter.insert(filter, slot);
        self.index.subscribe(matching, slot.get(), options, 0);
        true
    }

    /// Removes a member. If the group is empty then, it is removed, and the matched part of its filter is
    /// returned.
    pub(in crate::broker) fn leave(&mut self, filter: &str, member: SessionKey) -> Option<Box<str>> {
        let &slot = self.by_filter.get(filter)?;
        let group = &mut self.slots[slot.at()];
        let live = group.as_mut().expect("listed groups exist");
        if live.members.leave(member)
            && let Some(session) = self.sessions.get_mut(&member)
        {
            session.groups -= 1;
            if session.groups == 0 {
                self.sessions.remove(&member);
            }
        }
        if !live.members.is_empty() {
            return None;
        }
        let gone = group.take().expect("listed groups exist");
        self.by_filter.remove(&gone.filter);
        self.index.unsubscribe(&gone.matching, slot.get());
        self.free.push(slot);
        Some(gone.matching)
    }

    /// Notes whether a session can take messages. If it can't, groups find out at its turn.
    pub(in crate::broker) fn set_ready(&mut self, member: SessionKey, ready: bool) {
        let Some(session) = self.sessions.get_mut(&member) else { return };
        session.is_busy = !ready;
        if ready {
            for slot in std::mem::take(&mut session.passed_over) {
                if let Some(members) = self.members_mut(slot) {
                    members.set_ready(member);
                }
            }
        }
    }

    /// Notes that the member at a place could not take a message at its turn. It is skipped until it is
    /// reported as ready. So the number of such checks is limited by the number of these reports.
    pub(in crate::broker) fn pass_over(&mut self, slot: GroupSlot, place: usize, member: SessionKey) {
        if let Some(members) = self.members_mut(slot) {
            members.pass_over(place);
        }
        if let Some(session) = self.sessions.get_mut(&member) {
            session.passed_over.push(slot);
        }
    }

    pub(in crate::broker) fn is_busy(&self, member: SessionKey) -> bool {
        self.sessions.get(&member).is_some_and(|session| session.is_busy)
    }

    /// The number of changes of the groups' filters.
    pub(in crate::broker) fn version(&self) -> u64 {
        self.index.version()
    }

    /// The filters of the groups that match a topic name, in the order in which the index finds them.
    pub(in crate::broker) fn matching_filters(&mut self, topic: &str) -> Vec<Arc<str>> {
        self.index.matches(topic, None, &mut self.matches);
        let slots = self.matches.as_slice().iter().map(|matched| GroupSlot::new(matched.subscriber));
        slots.filter_map(|slot| self.get(slot).map(|group| Arc::clone(&group.filter))).collect()
    }

    pub(in crate::broker) fn slot_of(&self, filter: &str) -> Option<GroupSlot> {
        self.by_filter.get(filter).copied()
    }

    fn get(&self, slot: GroupSlot) -> Option<&Group> {
        self.slots.get(slot.at())?.as_ref()
    }

    fn members_mut(&mut self, slot: GroupSlot) -> Option<&mut Members> {
        self.slots.get_mut(slot.at())?.as_mut().map(|group| &mut group.members)
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.by_filter.shrink_to_fit();
        self.sessions.shrink_to_fit();
        self.matches = Matches::default();
    }

    /// The groups that match a topic name. Return the list with [`Groups::recycle`].
    pub(in crate::broker) fn matching(&mut self, topic: &str) -> Matches {
        let mut matches = std::mem::take(&mut self.matches);
        self.index.matches(topic, None, &mut matches);
        matches
    }

    /// Takes the list of [`Groups::matching`] for reuse.
    pub(in crate::broker) fn recycle(&mut self, matches: Matches) {
        self.matches = matches;
    }

    /// The number of slots, used or free.
    pub(in crate::broker) fn slots(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("a shard holds less than 2^32 groups")
    }

    /// The filter of the group in a slot.
    pub(in crate::broker) fn filter(&self, slot: GroupSlot) -> Option<&Arc<str>> {
        self.get(slot).map(|group| &group.filter)
    }

    /// What an operator is shown of the group in a slot.
    pub(in crate::broker) fn summary(&self, slot: GroupSlot) -> Option<GroupSummary> {
        self.get(slot).map(|group| group.summary(|key| !self.is_busy(key)))
    }

    /// The members of a group.
    pub(in crate::broker) fn members(&self, slot: GroupSlot) -> Option<&Members> {
        self.get(slot).map(|group| &group.members)
    }

    /// Ends the turn of the member at a place, and returns it with the group's filter.
    pub(in crate::broker) fn take_turn(
        &mut self,
        slot: GroupSlot,
        place: usize,
    ) -> Option<(Arc<str>, GroupMember)> {
        self.members_mut(slot)?.set_next(place);
        let group = self.get(slot)?;
        Some((Arc::clone(&group.filter), *group.members.get(place)?))
    }
}
