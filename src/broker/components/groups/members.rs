//! The members of one group of a shared subscription, in the order in which they joined, and whose turn it
//! is. Joining, leaving and choosing among ready members need no scan over the others.

use crate::base::SessionKey;
use crate::base::steps;
use crate::broker::GroupMember;
use ahash::RandomState;
use hashbrown::HashTable;

/// See the module. A place is an index. Members keep theirs until another member leaves.
#[derive(Debug)]
pub(in crate::broker) struct Members {
    /// Empty places belong to members that have left.
    places: Vec<Option<GroupMember>>,
    count: usize,
    ready: Ready,
    /// Places by key, if there are many. Keys are midge's own numbers.
    by_key: Option<Box<HashTable<u32>>>,
    /// The place whose turn it is.
    next: usize,
}

/// A bit for each place: whether its member can take messages, as far as is known here.
#[derive(Debug, Default)]
struct Ready {
    words: Vec<u64>,
    count: usize,
}

/// The length up to which a scan is as good as a table.
const SCAN_MAX: usize = 32;

/// The number of members that are not ready and are checked for one message, in case their queues have room
/// again. The next message continues after them.
pub(in crate::broker) const LOOKED_AT_MAX: usize = 128;

impl Members {
    pub(in crate::broker) fn new(first: GroupMember) -> Members {
        let mut members =
            Members { places: Vec::new(), count: 0, ready: Ready::default(), by_key: None, next: 0 };
        members.join(first);
        members
    }

    pub(in crate::broker) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(in crate::broker) fn len(&self) -> usize {
        self.count
    }

    /// All members, in the order in which they joined.
    pub(in crate::broker) fn iter(&self) -> impl Iterator<Item = &GroupMember> {
        self.places.iter().flatten()
    }

    pub(in crate::broker) fn get(&self, place: usize) -> Option<&GroupMember> {
        self.places.get(place)?.as_ref()
    }

    /// Adds a member, which is ready, or updates it. Returns whether it is new.
    pub(in crate::broker) fn join(&mut self, member: GroupMember) -> bool {
        if let Some(place) = self.place(member.key) {
            self.places[place] = Some(member);
            return false;
        }
        let place = self.places.len();
        self.places.push(Some(member));
        self.count += 1;
        self.ready.set(place);
        match &mut self.by_key {
            Some(by_key) => note(by_key, &self.places, place),
            None if self.places.len() > SCAN_MAX => self.index(),
            None => {}
        }
        true
    }

    /// Removes a member. Returns `false` if there is no such member.
    pub(in crate::broker) fn leave(&mut self, key: SessionKey) -> bool {
        let Some(place) = self.place(key) else { return false };
        if let Some(by_key) = &mut self.by_key
            && let Ok(entry) = by_key.find_entry(hash(key), |&found| found as usize == place)
        {
            entry.remove();
        }
        self.places[place] = None;
        self.count -= 1;
        self.ready.clear(place);
        if self.places.len() - self.count > self.count {
            self.close_up();
        }
        true
    }

    /// Notes that a member that was skipped is ready again.
    pub(in crate::broker) fn set_ready(&mut self, key: SessionKey) {
        if let Some(place) = self.place(key) {
            self.ready.set(place);
        }
    }

    /// The next ready member in turn. If it turns out not to be ready, the caller must call
    /// [`Members::pass_over`] and ask again.
    pub(in crate::broker) fn next_ready(&self) -> Option<usize> {
        self.ready.next(self.next).or_else(|| self.ready.next(0))
    }

    /// Notes that the member at a place is not ready, contrary to what was known.
    pub(in crate::broker) fn pass_over(&mut self, place: usize) {
        self.ready.clear(place);
    }

    /// The next members in turn, ready or not, up to the number that is checked for one message.
    pub(in crate::broker) fn in_turn(&self) -> impl Iterator<Item = usize> {
        let start = self.start();
        (start..self.places.len())
            .chain(0..start)
            .filter(|&place| self.places[place].is_some())
            .take(LOOKED_AT_MAX)
            .inspect(|_| steps::walked(1))
    }

    fn start(&self) -> usize {
        // Members may have left since then.
        if self.next < self.places.len() { self.next } else { 0 }
    }

    /// Ends the turn of the member at a place.
    pub(in crate::broker) fn set_next(&mut self, chosen: usize) {
        self.next = chosen + 1;
    }

    fn place(&self, key: SessionKey) -> Option<usize> {
        let is_it = |place: usize| {
            steps::walked(1);
            self.places[place].as_ref().is_some_and(|member| member.key == key)
        };
        match &self.by_key {
            Some(by_key) => {
                by_key.find(hash(key), |&place| is_it(place as usize)).map(|&place| place as usize)
            }
            None => (0..self.places.len()).find(|&place| is_it(place)),
        }
    }

    fn index(&mut self) {
        steps::walked(self.places.len());
        let mut by_key = Box::new(HashTable::with_capacity(2 * self.count));
        for (place, member) in self.places.iter().enumerate() {
            if member.is_some() {
                note(&mut by_key, &self.places, place);
            }
        }
        self.by_key = Some(by_key);
    }

    /// Most members have left. The others move together and keep their order.
    fn close_up(&mut self) {
        steps::walked(self.places.len());
        self.next = self.places[..self.start()].iter().flatten().count();
        let mut ready = Ready::default();
        let mut places = Vec::with_capacity(self.count);
        for (place, member) in std::mem::take(&mut self.places).into_iter().enumerate() {
            if member.is_some() {
                if self.ready.has(place) {
                    ready.set(places.len());
                }
                places.push(member);
            }
        }
        (self.places, self.ready, self.by_key) = (places, ready, None);
        if self.count > SCAN_MAX {
            self.index();
        }
    }
}

impl Ready {
    fn has(&self, place: usize) -> bool {
        self.words.get(place / 64).is_some_and(|word| word >> (place % 64) & 1 == 1)
    }

    fn set(&mut self, place: usize) {
        if self.words.len() <= place / 64 {
            self.words.resize(place / 64 + 1, 0);
        }
        self.count += usize::from(!self.has(place));
        self.words[place / 64] |= 1 << (place % 64);
    }

    fn clear(&mut self, place: usize) {
        if self.has(place) {
            self.count -= 1;
            self.words[place / 64] &= !(1 << (place % 64));
        }
    }

    /// The first ready place from this one on. It takes one step for 64 places that are not ready.
    fn next(&self, from: usize) -> Option<usize> {
        if self.count == 0 {
            return None;
        }
        let first = self.words.get(from / 64)? & (u64::MAX << (from % 64));
        let rest = self.words.iter().copied().enumerate().skip(from / 64 + 1);
        let mut words = std::iter::once((from / 64, first)).chain(rest);
        let (at, word) = words.find(|(_, word)| {
            steps::walked(1);
            *word != 0
        })?;
        Some(at * 64 + word.trailing_zeros() as usize)
    }
}

fn note(by_key: &mut HashTable<u32>, places: &[Option<GroupMember>], place: usize) {
    let hasher = |place: &u32| places[*place as usize].as_ref().map_or(0, |member| hash(member.key));
    let number = u32::try_from(place).expect("a group has less than 2^32 places");
    by_key.insert_unique(hasher(&number), number, hasher);
}

/// Shards and slots are midge's own numbers, so no peer can aim at a bucket.
fn hash(key: SessionKey) -> u64 {
    RandomState::with_seeds(0x6d65, 0x6d62, 0x6572, 0x73).hash_one((key.shard, key.slot, key.generation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SessionSlot;
    use crate::mqtt::QoS;

    fn member(slot: u32) -> GroupMember {
        let key = SessionKey { shard: 3, slot: SessionSlot::new(slot), generation: slot ^ 5 };
        GroupMember { key, qos: QoS::AtLeastOnce, retain_as_published: false, subscription_id: None }
    }

    fn group(count: u32) -> Members {
        let mut members = Members::new(member(0));
        (1..count).for_each(|slot| assert!(members.join(member(slot))));
        members
    }

    fn set_ready(members: &mut Members, slot: u32, ready: bool) {
        match members.place(member(slot).key) {
            Some(_) if ready => members.set_ready(member(slot).key),
            Some(place) => members.pass_over(place),
            None => {}
        }
    }

    /// Returns the member whose turn it is, and ends the turn.
    fn turn(members: &mut Members) -> Option<u32> {
        let place = members.next_ready()?;
        members.set_next(place);
        members.get(place).map(|member| member.key.slot.get())
    }

    #[test]
    fn turns_go_round_among_those_who_are_ready_in_the_order_of_their_joining() {
        let mut members = group(5);
        let turns = |members: &mut Members| (0..7).map(|_| turn(members)).collect::<Vec<_>>();
        assert_eq!(turns(&mut members), [0, 1, 2, 3, 4, 0, 1].map(Some));
        set_ready(&mut members, 3, false);
        members.leave(member(0).key);
        members.join(member(9));
        assert_eq!(turns(&mut members), [2, 4, 9, 1, 2, 4, 9].map(Some));
        set_ready(&mut members, 3, true);
        members.join(member(3));
        assert_eq!(turns(&mut members), [1, 2, 3, 4, 9, 1, 2].map(Some));
        // The remaining members keep their order, and the turn keeps its place.
        [1, 2, 4].into_iter().for_each(|slot| assert!(members.leave(member(slot).key)));
        assert_eq!(turns(&mut members), [3, 9, 3, 9, 3, 9, 3].map(Some));
        [3, 9].into_iter().for_each(|slot| set_ready(&mut members, slot, false));
        assert_eq!(turn(&mut members), None);
        assert_eq!(members.in_turn().count(), 2);
    }

    #[test]
    fn members_of_a_large_group_come_go_and_take_turns_in_few_steps() {
        const MEMBERS: u32 = 20_000;
        let (mut members, steps) = steps::of(|| group(MEMBERS));
        assert!(steps <= 8 * u64::from(MEMBERS), "{steps} to join");
        let ((), steps) = steps::of(|| {
            (0..MEMBERS).for_each(|slot| assert_eq!(turn(&mut members), Some(slot)));
            (0..MEMBERS).for_each(|slot| set_ready(&mut members, slot, slot % 1000 == 999));
            (0..MEMBERS).for_each(|at| assert_eq!(turn(&mut members), Some(at % 20 * 1000 + 999)));
        });
        // A thousand members that are not ready are sixteen words.
        assert!(steps <= 24 * u64::from(MEMBERS), "{steps} for turns");
        let ((), steps) = steps::of(|| {
            (0..MEMBERS).rev().step_by(2).for_each(|slot| assert!(members.leave(member(slot).key)));
            (0..MEMBERS).step_by(2).for_each(|slot| assert!(members.leave(member(slot).key)));
        });
        assert!(steps <= 8 * u64::from(MEMBERS), "{steps} to leave");
        assert!(members.is_empty() && members.next_ready().is_none());
    }

    #[test]
    fn of_those_who_are_not_ready_some_are_looked_at_for_each_message() {
        let mut members = group(1000);
        (0..1000).for_each(|slot| set_ready(&mut members, slot, false));
        assert_eq!((members.next_ready(), members.in_turn().count()), (None, LOOKED_AT_MAX));
        let last = members.in_turn().last().expect("there are some");
        members.set_next(last);
        assert_eq!(members.in_turn().next(), Some(LOOKED_AT_MAX));
    }
}
