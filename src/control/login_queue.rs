//! The logins of a shard that wait for a thread. The addresses that they come from take turns.
//!
//! The inputs are logins with their address, and the ends of their checks. The outputs are the next login to
//! check, and the logins that do not fit. The gate decides which logins of an address may be checked now.
//! While the refusals of an address are delayed, none of its logins is checked. If the next wrong login would
//! be delayed, one login of the address is checked at a time. When the queue is full, the address with the
//! most waiting logins loses one, so the others are not affected.
//!
//! Within an address, devices whose last login was not wrong go first. A device with an old password
//! therefore delays the others behind the same router by one wait at most.
//!
//! This module has no side effects: `now` and the gate are arguments.

use crate::base::{ConnectionSlot, Time};
use crate::policy::address_gate::{LoginTurn, counted_with};
use crate::settings::Network;
use ahash::RandomState;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;

/// The device that logs in, and the address that it counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginOrigin {
    /// `None` for a Unix-domain socket or a load balancer's own connection. All of these count as one
    /// address.
    pub address: Option<IpAddr>,
    /// A hash of the user name, the client identifier and the address.
    device: u64,
}

/// Addresses that are counted together.
type Source = Option<Network>;

impl LoginOrigin {
    fn source(&self) -> Source {
        self.address.map(counted_with)
    }
}

/// The state of an address in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It takes turns with the others, or has nothing that waits.
    Turn,
    /// Its refusals are delayed until this time.
    Held(Time, u64),
    /// One of its logins is being checked. No other may be checked at the same time.
    Single,
}

struct Line<T> {
    waiting: VecDeque<(LoginOrigin, ConnectionSlot, T)>,
    checked: usize,
    place: Place,
}

/// See the module. `T` is the login to check.
pub struct LoginQueue<T> {
    lines: HashMap<Source, Line<T>, RandomState>,
    /// The lines in [`Place::Turn`] that are not empty, each once.
    turns: VecDeque<Source>,
    /// The lines in [`Place::Held`], by the end of their delay.
    held: BTreeMap<(Time, u64), Source>,
    /// The address of each waiting login, by the slot of its connection.
    slots: BTreeMap<ConnectionSlot, Source>,
    waiting_max: usize,
    checked: usize,
    /// The next number for a held line.
    next: u64,
    /// Devices whose last login was wrong, each at its index. Empty until the first wrong login.
    wrong: Vec<u64>,
    hasher: RandomState,
}

/// The number of devices that are remembered. Later ones overwrite earlier ones.
const WRONG_MAX: usize = 4096;

/// The next step.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// Check this login, then call [`LoginQueue::done`].
    Check(LoginOrigin, T),
    /// Refuse this login: its address is banned.
    Refuse(T),
}

impl<T> LoginQueue<T> {
    /// At most `waiting_max` logins wait. The seed keys the hash tables.
    pub fn new(waiting_max: usize, seed: u64) -> LoginQueue<T> {
        let hasher = RandomState::with_seeds(seed, 0x6c6f, 0x6769, 0x6e73);
        LoginQueue {
            lines: HashMap::with_hasher(hasher.clone()),
            turns: VecDeque::new(),
            held: BTreeMap::new(),
            slots: BTreeMap::new(),
            waiting_max: waiting_max.max(1),
            checked: 0,
            next: 0,
            wrong: Vec::new(),
            hasher,
        }
    }

    /// The origin of a login: a user name (or none) with a client identifier at an address.
    pub fn origin(&self, address: Option<IpAddr>, user: Option<&str>, client_id: &str) -> LoginOrigin {
        let device = self.hasher.hash_one((address.map(counted_with), user, client_id));
        LoginOrigin { address, device }
    }

    /// The number of logins that wait.
    pub fn waiting(&self) -> usize {
        self.slots.len()
    }

    /// The number of logins that are being checked.
    pub fn checked(&self) -> usize {
        self.checked
    }

    /// Adds a login of the connection in `slot`. If there is no room, returns the login to refuse: the newest
    /// one of the address with the most logins, or this one.
    pub fn push(&mut self, origin: LoginOrigin, slot: ConnectionSlot, login: T) -> Option<T> {
        let source = origin.source();
        let mut refused = None;
        if self.slots.len() >= self.waiting_max {
            let own = self.lines.get(&source).map_or(0, |line| line.waiting.len());
            let longest = self.lines.iter().max_by_key(|(_, line)| line.waiting.len());
            let Some((&longest, _)) = longest.filter(|(_, line)| line.waiting.len() > own + 1) else {
                return Some(login);
            };
            refused = self.lines.get_mut(&longest).and_then(|line| line.waiting.pop_back());
            if let Some((_, slot, _)) = &refused {
                self.slots.remove(slot);
            }
            self.tidy(longest);
        }
        let new = || Line { waiting: VecDeque::new(), checked: 0, place: Place::Turn };
        let line = self.lines.entry(source).or_insert_with(new);
        if line.waiting.is_empty() && line.place == Place::Turn {
            self.turns.push_back(source);
        }
        line.waiting.push_back((origin, slot, login));
        self.slots.insert(slot, source);
        refused.map(|(_, _, login)| login)
    }

    /// Removes the login of a connection that has closed.
    pub fn forget(&mut self, slot: ConnectionSlot) {
        let Some(source) = self.slots.remove(&slot) else { return };
        if let Some(line) = self.lines.get_mut(&source) {
            line.waiting.retain(|(_, of, _)| *of != slot);
        }
        self.tidy(source);
    }

    /// The next login whose turn it is. `turn` is the gate's decision for an address.
    pub fn next(&mut self, now: Time, turn: impl Fn(IpAddr) -> LoginTurn) -> Option<Next<T>> {
        while let Some((&(until, number), &source)) = self.held.first_key_value() {
            if until > now {
                break;
            }
            self.held.remove(&(until, number));
            self.back_to_its_turn(source);
        }
        // Each line is visited once: it yields a login, or leaves the queue of turns.
        while let Some(source) = self.turns.pop_front() {
            let Some(line) = self.lines.get_mut(&source) else { continue };
            let address = line.waiting.front().and_then(|(origin, _, _)| origin.address);
            match address.map_or(LoginTurn::Free, &turn) {
                LoginTurn::Until(until) => {
                    self.next += 1;
                    line.place = Place::Held(until, self.next);
                    self.held.insert((until, self.next), source);
                    continue;
                }
                LoginTurn::One if line.checked > 0 => {
                    line.place = Place::Single;
                    continue;
                }
                LoginTurn::Banned => {
                    let refused = line.waiting.pop_front();
                    return self.took(source, refused).map(|(_, login)| Next::Refuse(login));
                }
                LoginTurn::Free | LoginTurn::One => {}
            }
            let wrong = &self.wrong;
            let is_good = |device: u64| wrong.get(place_of(device)) != Some(&device);
            let good = line.waiting.iter().position(|(origin, _, _)| is_good(origin.device));
            let taken = line.waiting.remove(good.unwrap_or(0));
            if taken.is_some() {
                line.checked += 1;
                self.checked += 1;
            }
            return self.took(source, taken).map(|(origin, login)| Next::Check(origin, login));
        }
        None
    }

    /// Ends a check. `was_wrong`: the proof was wrong.
    pub fn done(&mut self, origin: LoginOrigin, was_wrong: bool) {
        self.checked -= 1;
        if was_wrong {
            self.wrong.resize(WRONG_MAX, 0);
            self.wrong[place_of(origin.device)] = origin.device;
        } else if let Some(of) = self.wrong.get_mut(place_of(origin.device))
            && *of == origin.device
        {
            *of = 0;
        }
        let source = origin.source();
        let Some(line) = self.lines.get_mut(&source) else { return };
        line.checked -= 1;
        if line.place == Place::Single {
            self.back_to_its_turn(source);
        }
        self.tidy(source);
    }

    /// The time at which the first delayed address must be looked at again. `None` while another address has
    /// its turn.
    pub fn due(&self) -> Option<Time> {
        match self.turns.is_empty() {
            true => self.held.first_key_value().map(|(&(until, _), _)| until),
            false => Some(Time::ZERO),
        }
    }

    fn took(
        &mut self,
        source: Source,
        taken: Option<(LoginOrigin, ConnectionSlot, T)>,
    ) -> Option<(LoginOrigin, T)> {
        if self.lines.get(&source).is_some_and(|line| !line.waiting.is_empty()) {
            self.turns.push_back(source);
        }
        let (origin, slot, login) = taken?;
        self.slots.remove(&slot);
        self.tidy(source);
        Some((origin, login))
    }

    fn back_to_its_turn(&mut self, source: Source) {
        if let Some(line) = self.lines.get_mut(&source) {
            line.place = Place::Turn;
            if !line.waiting.is_empty() {
                self.turns.push_back(source);
            }
        }
    }

    /// Forgets an address that has no login waiting or being checked.
    fn tidy(&mut self, source: Source) {
        let Some(line) = self.lines.get(&source).filter(|line| line.waiting.is_empty()) else { return };
        let (place, is_checked) = (line.place, line.checked > 0);
        if let Place::Held(until, number) = place {
            self.held.remove(&(until, number));
        }
        self.turns.retain(|&other| other != source);
        if is_checked {
            self.lines.entry(source).and_modify(|line| line.place = Place::Turn);
        } else {
            self.lines.remove(&source);
        }
    }
}

fn place_of(device: u64) -> usize {
    usize::try_from(device % WRONG_MAX as u64).expect("a small number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;
    use std::collections::BTreeMap;

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    fn queue(waiting_max: usize) -> LoginQueue<u32> {
        LoginQueue::new(waiting_max, 7)
    }

    /// A login of a device at an address. Its slot is also the login.
    fn push(queue: &mut LoginQueue<u32>, last: u8, device: &str, slot: u32) -> Option<u32> {
        let origin = queue.origin(Some(ip(last)), Some("user"), device);
        queue.push(origin, ConnectionSlot::new(slot), slot)
    }

    fn checked(
        queue: &mut LoginQueue<u32>,
        now: Time,
        turn: impl Fn(IpAddr) -> LoginTurn,
    ) -> Option<(LoginOrigin, u32)> {
        match queue.next(now, turn)? {
            Next::Check(origin, slot) => Some((origin, slot)),
            Next::Refuse(slot) => panic!("{slot} is refused"),
        }
    }

    const FREE: fn(IpAddr) -> LoginTurn = |_| LoginTurn::Free;

    #[test]
    fn addresses_take_turns_however_much_one_of_them_wants() {
        let mut queue = queue(1000);
        for slot in 0..100 {
            assert_eq!(push(&mut queue, 9, &format!("guess{slot}"), slot), None);
        }
        push(&mut queue, 1, "good", 500);
        push(&mut queue, 2, "good", 501);
        let order: Vec<u32> =
            (0..6).filter_map(|_| checked(&mut queue, at(0), FREE)).map(|(_, slot)| slot).collect();
        assert_eq!(order, [0, 500, 501, 1, 2, 3]);
        assert_eq!((queue.waiting(), queue.checked()), (96, 6));
    }

    #[test]
    fn a_full_queue_takes_from_the_longest_line() {
        let mut queue = queue(10);
        for slot in 0..10 {
            push(&mut queue, 9, &format!("guess{slot}"), slot);
        }
        assert_eq!(push(&mut queue, 9, "guess", 10), Some(10), "its own is the longest");
        assert_eq!(push(&mut queue, 1, "good", 11), Some(9), "the newest of the longest");
        assert_eq!(queue.waiting(), 10);
        for slot in 20..24 {
            push(&mut queue, 1, "good", slot);
        }
        // Both have five now. Another login is refused.
        assert_eq!(push(&mut queue, 1, "good", 30), Some(30));
        assert_eq!(push(&mut queue, 2, "good", 31), Some(24 - 1));
    }

    #[test]
    fn nothing_of_an_address_is_checked_while_its_refusals_wait() {
        let mut queue = queue(100);
        let turn = |now: u64| {
            move |address: IpAddr| match address == ip(9) && now < 500 {
                true => LoginTurn::Until(at(500)),
                false => LoginTurn::Free,
            }
        };
        push(&mut queue, 9, "guess", 1);
        push(&mut queue, 1, "good", 2);
        assert_eq!(checked(&mut queue, at(0), turn(0)).map(|(_, slot)| slot), Some(2));
        assert_eq!(queue.next(at(0), turn(0)), None);
        assert_eq!(queue.due(), Some(at(500)));
        assert_eq!(queue.next(at(499), turn(499)), None);
        assert_eq!(checked(&mut queue, at(500), turn(500)).map(|(_, slot)| slot), Some(1));
        assert_eq!(queue.due(), None);
    }

    #[test]
    fn an_address_whose_next_failure_waits_has_one_login_checked_at_a_time() {
        let mut queue = queue(100);
        let one = |_| LoginTurn::One;
        for slot in 0..3 {
            push(&mut queue, 9, "guess", slot);
        }
        for slot in 0..3 {
            let (origin, next) = checked(&mut queue, at(0), one).expect("its turn");
            assert_eq!(next, slot);
            assert_eq!(queue.next(at(0), one), None);
            queue.done(origin, true);
        }
        assert_eq!((queue.waiting(), queue.checked(), queue.lines.len()), (0, 0, 0));
    }

    #[test]
    fn a_device_with_an_old_password_goes_behind_the_others_of_its_address() {
        let mut queue = queue(100);
        push(&mut queue, 9, "old", 0);
        let (origin, _) = checked(&mut queue, at(0), FREE).expect("the only one");
        queue.done(origin, true);
        for (slot, device) in [(1, "old"), (2, "a"), (3, "old"), (4, "b")] {
            push(&mut queue, 9, device, slot);
        }
        let order: Vec<_> = std::iter::from_fn(|| checked(&mut queue, at(0), FREE)).collect();
        assert_eq!(order.iter().map(|(_, slot)| *slot).collect::<Vec<_>>(), [2, 4, 1, 3]);
        // After a right login a device has the same rank as any other.
        order.iter().for_each(|(origin, _)| queue.done(*origin, false));
        for (slot, device) in [(5, "old"), (6, "a")] {
            push(&mut queue, 9, device, slot);
        }
        assert_eq!(checked(&mut queue, at(0), FREE).map(|(_, slot)| slot), Some(5));
    }

    #[test]
    fn logins_of_a_banned_address_and_of_those_who_have_gone_are_not_checked() {
        let mut queue = queue(100);
        for slot in 0..4 {
            push(&mut queue, 9, "guess", slot);
        }
        queue.forget(ConnectionSlot::new(1));
        queue.forget(ConnectionSlot::new(77));
        for slot in [0, 2, 3] {
            assert_eq!(queue.next(at(0), |_| LoginTurn::Banned), Some(Next::Refuse(slot)));
        }
        assert_eq!(queue.next(at(0), |_| LoginTurn::Banned), None);
        assert_eq!((queue.lines.len(), queue.turns.len(), queue.due()), (0, 0, None));
    }

    #[test]
    fn every_login_is_checked_once_refused_once_or_forgotten_whatever_the_gate_says() {
        let mut numbers = Random::new(1);
        let mut random = |below: u64| numbers.below(below);
        let mut queue = queue(20);
        let (mut open, mut running) = (BTreeMap::new(), Vec::new());
        let mut ends = 0;
        for step in 0..20_000_u32 {
            let now = at(u64::from(step));
            match random(5) {
                0 | 1 => {
                    open.insert(step, ());
                    let device = format!("d{}", random(6));
                    if let Some(refused) = push(&mut queue, random(5) as u8, &device, step) {
                        assert!(open.remove(&refused).is_some());
                        ends += 1;
                    }
                }
                2 => {
                    let seed = random(1000);
                    let turn = |address: IpAddr| match (seed + u64::from(address.is_ipv4())) % 4 {
                        0 => LoginTurn::Until(now.after_millis(1 + seed % 30)),
                        1 => LoginTurn::One,
                        2 if seed % 8 == 2 => LoginTurn::Banned,
                        _ => LoginTurn::Free,
                    };
                    match queue.next(now, turn) {
                        Some(Next::Check(origin, slot)) => {
                            assert!(open.remove(&slot).is_some());
                            running.push(origin);
                        }
                        Some(Next::Refuse(slot)) => {
                            assert!(open.remove(&slot).is_some());
                            ends += 1;
                        }
                        None => {}
                    }
                }
                3 if !running.is_empty() => {
                    let at = random(running.len() as u64) as usize;
                    queue.done(running.swap_remove(at), random(2) == 0);
                    ends += 1;
                }
                _ if random(4) == 0 => {
                    if let Some((&slot, ())) = open.first_key_value() {
                        open.remove(&slot);
                        queue.forget(ConnectionSlot::new(slot));
                        ends += 1;
                    }
                }
                _ => {}
            }
            assert_eq!((queue.waiting(), queue.checked()), (open.len(), running.len()));
            assert!(queue.waiting() <= 20);
        }
        assert!(ends > 5_000);
        running.drain(..).for_each(|origin| queue.done(origin, false));
        let later = at(1_000_000);
        while let Some((origin, slot)) = checked(&mut queue, later, FREE) {
            assert!(open.remove(&slot).is_some());
            queue.done(origin, false);
        }
        assert!(open.is_empty() && queue.lines.is_empty() && queue.turns.is_empty() && queue.held.is_empty());
    }
}
