//! The timer wheel of a shard: keep alives, will delays, session ends, handshakes.
//!
//! The inputs are deadlines with a small token, cancellations, and the current time. The outputs are the
//! tokens whose deadline has passed, and the time until which the shard may sleep. The wheel has no clock and
//! does not know the meaning of a token.
//!
//! Ten levels of 64 slots cover the whole range of [`Time`], so there is no list for the far future and no
//! wrap-around. A timer is on the level of the highest base-64 digit in which its tick differs from the
//! current tick. It moves down a level each time that digit is reached: at most nine times in its life, and
//! once for a keep alive of a minute. The place of a timer depends only on its tick and the current tick. So
//! timers of one tick are always in the same list, in the order of their scheduling.

use crate::base::Time;
use std::num::NonZeroU32;

/// The length of a tick in microseconds: 65.5 ms (64 µs in unit tests, so that their numbers stay readable).
/// A timer fires less than this after its deadline, never before it.
pub const TICK_MICROS: u64 = 1 << TICK_BITS;

/// Identifies a scheduled timer.
///
/// It has the serial number of its `schedule` call. An identifier that is kept after its timer has fired or
/// was cancelled therefore never refers to the next timer in the same entry (except exactly 2^32 timers
/// later). An `Option` of it also takes eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    entry: u32,
    serial: NonZeroU32,
}

/// Timers in the order of their deadlines.
#[derive(Debug)]
pub struct Wheel<T> {
    /// A slab. Each entry is linked into exactly one list, the free ones too.
    entries: Vec<Entry<T>>,
    /// `LEVELS * SLOTS` slots, then `DUE`, then `FREE`.
    lists: Box<[List; LISTS]>,
    /// A bit for each slot that is not empty, by level.
    occupied: [u64; LEVELS],
    /// The last tick that `expire` has processed.
    reached: u64,
    /// The latest time that was passed to `expire`.
    now: Time,
    serial: NonZeroU32,
    len: usize,
    /// A buffer for `expire`.
    firing: Vec<(Time, T)>,
}

#[derive(Debug)]
struct Entry<T> {
    deadline: Time,
    token: T,
    prev: u32,
    next: u32,
    /// Zero for a free entry.
    serial: u32,
    list: u16,
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

impl<T: Copy> Wheel<T> {
    /// An empty wheel whose clock is at [`Time::ZERO`]. The first `expire` may be at any time.
    pub fn new() -> Wheel<T> {
        Wheel {
            entries: Vec::new(),
            lists: Box::new([List { head: NIL, tail: NIL }; LISTS]),
            occupied: [0; LEVELS],
            reached: 0,
            now: Time::ZERO,
            serial: NonZeroU32::MIN,
            len: 0,
            firing: Vec::new(),
        }
    }

    /// The number of running timers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is running.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Starts a timer, in constant time. If its deadline has already passed at the last `expire`, it fires at
    /// the next `expire`.
    ///
    /// # Panics
    /// If 2^32 - 1 timers are running. They would take 128 GiB.
    pub fn schedule(&mut self, deadline: Time, token: T) -> TimerId {
        let list = if deadline <= self.now { DUE } else { self.slot_of(tick_at_or_after(deadline)) };
        let serial = self.serial;
        self.serial = serial.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let timer = Entry { deadline, token, prev: NIL, next: NIL, serial: serial.get(), list: NO_LIST };
        let entry = self.take_entry(timer);
        self.push_back(list, entry);
        self.len += 1;
        TimerId { entry, serial }
    }

    /// Stops a timer, in constant time. Returns false if it has already fired or was cancelled.
    pub fn cancel(&mut self, id: TimerId) -> bool {
        let running = self.is_running(id);
        if running {
            self.release(id.entry);
        }
        running
    }

    /// The deadline of a running timer.
    pub fn deadline(&self, id: TimerId) -> Option<Time> {
        let entry = self.entries.get(id.entry as usize).filter(|entry| entry.serial == id.serial.get());
        entry.map(|entry| entry.deadline)
    }

    /// Whether the timer is still running. If not, it has fired or was cancelled.
    pub fn is_running(&self, id: TimerId) -> bool {
        self.entries.get(id.entry as usize).is_some_and(|entry| entry.serial == id.serial.get())
    }

    /// Appends to `out` the tokens of all timers whose deadline, rounded up to a tick, has come. They are in
    /// the order of their deadlines; those with the same deadline are in the order of their scheduling. The
    /// timers are no longer running. A `now` before that of an earlier call counts as that one.
    ///
    /// It costs almost nothing if nothing is due, so it may be called every turn.
    pub fn expire(&mut self, now: Time, out: &mut impl Extend<T>) {
        let now = now.max(self.now);
        let target = tick_reached(now);
        while let Some((list, tick)) = self.first_slot()
            && tick <= target
        {
            debug_assert!(tick >= self.reached, "the wheel turns one way");
            self.reached = tick;
            if list < SLOTS { self.fire(list) } else { self.cascade(list) }
        }
        // A due timer was scheduled after the last call, so after all others with the same deadline that are
        // still in a slot. So it is appended last, and the sort is stable.
        self.fire(DUE);
        self.reached = target;
        self.now = now;

        self.firing.sort_by_key(|&(deadline, _)| deadline);
        out.extend(self.firing.drain(..).map(|(_, token)| token));
        self.firing.shrink_to(FIRING_KEPT);
    }

    /// The time of the next call of `expire`. `None` while no timer is running.
    ///
    /// It is never later than the earliest deadline rounded up to a tick. It is earlier only if that timer
    /// must move down a level first, which `expire` does at the returned time. So each wake-up fires a timer
    /// or moves a whole slot, and none is for an empty tick.
    pub fn next_deadline(&self) -> Option<Time> {
        if self.lists[DUE].head != NIL {
            return Some(self.now);
        }
        self.first_slot().map(|(_, tick)| Time::from_micros(tick.saturating_mul(TICK_MICROS)))
    }

    /// The slot of a tick that is not before the current one.
    fn slot_of(&self, tick: u64) -> usize {
        let highest_bit = ((tick ^ self.reached) | 1).ilog2();
        let level = highest_bit / SLOT_BITS;
        let slot = (tick >> (level * SLOT_BITS)) as usize % SLOTS;
        level as usize * SLOTS + slot
    }

    /// The next occupied slot and its first tick. Every timer of a level is due before those of the levels
    /// above, because it still has the same digits as the current tick there.
    fn first_slot(&self) -> Option<(usize, u64)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = level as u32 * SLOT_BITS;
        let above = shift + SLOT_BITS;
        let tick = (self.reached >> above << above) | (u64::from(slot) << shift);
        Some((level * SLOTS + slot as usize, tick))
    }

    /// Ends all timers of a list and collects them for `expire`.
    fn fire(&mut self, list: usize) {
        while let Some(entry) = self.entries.get(self.lists[list].head as usize) {
            self.firing.push((entry.deadline, entry.token));
            self.release(self.lists[list].head);
        }
    }

    /// Moves the timers of a slot whose first tick is reached to lower levels.
    fn cascade(&mut self, list: usize) {
        while let Some(entry) = self.entries.get(self.lists[list].head as usize) {
            let index = self.lists[list].head;
            let below = self.slot_of(tick_at_or_after(entry.deadline));
            debug_assert!(below < list, "a timer only moves down");
            self.unlink(index);
            self.push_back(below, index);
        }
    }

    /// Stores an entry in the slab, in no list yet.
    fn take_entry(&mut self, timer: Entry<T>) -> u32 {
        // The entry that was freed last is still in the cache.
        let free = self.lists[FREE].tail;
        if free != NIL {
            self.unlink(free);
            self.entries[free as usize] = timer;
            return free;
        }
        let index = u32::try_from(self.entries.len()).ok().filter(|&index| index != NIL);
        self.entries.push(timer);
        index.expect("fewer than 2^32 - 1 timers are running")
    }

    /// Ends a running timer, and frees memory when a quarter of it is enough. Only the entries after the last
    /// running timer can be freed, because identifiers are positions.
    fn release(&mut self, index: u32) {
        self.unlink(index);
        self.entries[index as usize].serial = 0;
        self.push_back(FREE, index);
        self.len -= 1;
        while self.entries.last().is_some_and(|last| usize::from(last.list) == FREE) {
            self.unlink(self.entries.len() as u32 - 1);
            self.entries.pop();
        }
        let capacity = self.entries.capacity();
        if capacity > ENTRIES_KEPT && self.entries.len() < capacity / 4 {
            self.entries.shrink_to((self.entries.len() * 2).max(ENTRIES_KEPT));
        }
    }

    /// Frees the memory after the last running timer.
    pub fn give_memory_back(&mut self) {
        self.entries.shrink_to_fit();
        self.firing.shrink_to_fit();
    }

    fn push_back(&mut self, list: usize, index: u32) {
        let tail = self.lists[list].tail;
        let entry = &mut self.entries[index as usize];
        entry.list = list as u16;
        entry.prev = tail;
        entry.next = NIL;
        self.lists[list].tail = index;
        match self.entries.get_mut(tail as usize) {
            Some(before) => before.next = index,
            None => self.lists[list].head = index,
        }
        if list < DUE {
            self.occupied[list / SLOTS] |= 1 << (list % SLOTS);
        }
    }

    fn unlink(&mut self, index: u32) {
        let Entry { prev, next, list, .. } = self.entries[index as usize];
        let list = usize::from(list);
        match self.entries.get_mut(prev as usize) {
            Some(before) => before.next = next,
            None => self.lists[list].head = next,
        }
        match self.entries.get_mut(next as usize) {
            Some(after) => after.prev = prev,
            None => self.lists[list].tail = prev,
        }
        if list < DUE && self.lists[list].head == NIL {
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        }
    }
}

impl<T: Copy> Default for Wheel<T> {
    fn default() -> Wheel<T> {
        Wheel::new()
    }
}

/// The first tick at which a deadline has passed for certain.
fn tick_at_or_after(deadline: Time) -> u64 {
    deadline.as_micros().div_ceil(TICK_MICROS)
}

/// The last tick that is not after `now`.
fn tick_reached(now: Time) -> u64 {
    // The end of time is not a multiple of a tick, but the last deadlines must still fire.
    if now == Time::MAX { tick_at_or_after(now) } else { now.as_micros() / TICK_MICROS }
}

const TICK_BITS: u32 = if cfg!(test) { 6 } else { 16 };
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 10;
/// The list of timers whose deadline had passed when they were scheduled.
const DUE: usize = LEVELS * SLOTS;
/// The list of entries without a timer.
const FREE: usize = DUE + 1;
const LISTS: usize = FREE + 1;
/// The list of an entry that is not linked yet.
const NO_LIST: u16 = u16::MAX;
/// The end of a list. No entry has this index.
const NIL: u32 = u32::MAX;
/// A slab of at most this many entries never shrinks.
const ENTRIES_KEPT: usize = 1024;
/// The capacity for fired timers that is kept from one `expire` to the next.
const FIRING_KEPT: usize = 256;

// The highest tick has 59 bits.
const _: () = assert!(SLOT_BITS * LEVELS as u32 > u64::BITS - TICK_BITS);
const _: () = assert!(SLOTS == u64::BITS as usize && LISTS < NO_LIST as usize);
const _: () = assert!(size_of::<Entry<u64>>() == 32 && size_of::<Option<TimerId>>() == 8);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;
    use std::collections::BTreeMap;

    fn expired(wheel: &mut Wheel<u64>, now: u64) -> Vec<u64> {
        let mut out = Vec::new();
        wheel.expire(Time::from_micros(now), &mut out);
        out
    }

    fn schedule(wheel: &mut Wheel<u64>, deadline: u64, token: u64) -> TimerId {
        wheel.schedule(Time::from_micros(deadline), token)
    }

    #[test]
    fn a_keep_alive_of_two_seconds_is_cut_at_three_and_less_than_a_tick() {
        // [MQTT5-3.1.2-22] [MQTT311-3.1.2-24]
        for start in 0..200 {
            let mut wheel = Wheel::new();
            expired(&mut wheel, start);
            schedule(&mut wheel, start + 3000, 1);
            assert!(expired(&mut wheel, start + 2999).is_empty());
            assert_eq!(expired(&mut wheel, start + 3000 + TICK_MICROS - 1), [1]);
            assert!(wheel.is_empty());
        }
    }

    #[test]
    fn timers_fire_in_the_order_of_their_deadlines_and_ties_in_that_of_scheduling() {
        let mut wheel = Wheel::new();
        for (token, deadline) in [5000, 130, 129, 5000, 129, 1, 100_000, 5000].into_iter().enumerate() {
            schedule(&mut wheel, deadline, token as u64);
        }
        assert_eq!(expired(&mut wheel, 200_000), [5, 2, 4, 1, 0, 3, 7, 6]);
    }

    #[test]
    fn a_timer_scheduled_in_the_past_fires_at_the_next_expire() {
        let mut wheel = Wheel::new();
        assert!(expired(&mut wheel, 1_000_001).is_empty());
        schedule(&mut wheel, 1_000_001, 1);
        schedule(&mut wheel, 3, 2);
        assert_eq!(wheel.next_deadline(), Some(Time::from_micros(1_000_001)));
        assert_eq!(expired(&mut wheel, 1_000_001), [2, 1]);
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn a_clock_that_steps_back_is_held() {
        let mut wheel = Wheel::new();
        expired(&mut wheel, 10_000);
        schedule(&mut wheel, 10_500, 1);
        schedule(&mut wheel, 9_999, 2);
        assert_eq!(expired(&mut wheel, 500), [2]);
        assert_eq!(expired(&mut wheel, 10_600), [1]);
    }

    #[test]
    fn the_identifier_of_an_ended_timer_cannot_cancel_the_next_user_of_its_entry() {
        let mut wheel = Wheel::new();
        let first = schedule(&mut wheel, 100, 1);
        assert!(wheel.cancel(first));
        let second = schedule(&mut wheel, 100, 2);
        assert_eq!(first.entry, second.entry);
        assert!(!wheel.cancel(first));
        assert_eq!(expired(&mut wheel, 200), [2]);
        assert!(!wheel.cancel(second));
        // The slab has shrunk in between. The serial number still distinguishes the timers.
        let third = schedule(&mut wheel, 300, 3);
        assert_eq!(first.entry, third.entry);
        assert!(!wheel.cancel(first) && !wheel.cancel(second) && wheel.cancel(third));
    }

    #[test]
    fn deadlines_at_the_end_of_time_are_kept_and_fire() {
        let mut wheel = Wheel::new();
        schedule(&mut wheel, u64::MAX, 1);
        let year_136 = Time::ZERO.after_seconds(u32::MAX);
        wheel.schedule(year_136, 2);
        schedule(&mut wheel, u64::MAX - 1000, 3);
        assert!(expired(&mut wheel, year_136.as_micros() - 1).is_empty());
        assert_eq!(expired(&mut wheel, year_136.as_micros() + TICK_MICROS), [2]);
        assert_eq!(expired(&mut wheel, u64::MAX - 1), [3]);
        assert_eq!(wheel.next_deadline(), Some(Time::MAX));
        schedule(&mut wheel, u64::MAX, 4);
        assert_eq!(expired(&mut wheel, u64::MAX), [1, 4]);
        schedule(&mut wheel, u64::MAX, 5);
        assert_eq!(expired(&mut wheel, u64::MAX), [5]);
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn a_sleeper_wakes_about_as_often_as_timers_fire() {
        // Ten thousand clients with a keep alive of 60 s send a ping every 60 s. Each timer fires 90 s after
        // it was set, finds that its client is alive, and is set again.
        let mut wheel = Wheel::new();
        let mut random = Random::new(11);
        for client in 0..10_000 {
            schedule(&mut wheel, random.below(90_000), client);
        }
        let (mut wakes, mut fired, mut ticks_with_timers) = (0u64, 0u64, 0u64);
        while let Some(now) = wheel.next_deadline()
            && now < Time::from_micros(900_000)
        {
            let tokens = expired(&mut wheel, now.as_micros());
            wakes += 1;
            fired += tokens.len() as u64;
            ticks_with_timers += u64::from(!tokens.is_empty());
            for token in tokens {
                schedule(&mut wheel, now.as_micros() + 90_000, token);
            }
        }
        assert!((99_000..=101_000).contains(&fired), "{fired}");
        assert!(wakes < ticks_with_timers + 900_000 / (64 * TICK_MICROS) + 20, "{wakes} {ticks_with_timers}");

        // For one timer a year away there is a wake-up for each level. An empty wheel has none.
        let mut wheel = Wheel::new();
        expired(&mut wheel, 123_456_789);
        schedule(&mut wheel, 123_456_789 + 31_536_000_000, 1);
        let mut wakes = 0;
        while let Some(now) = wheel.next_deadline() {
            expired(&mut wheel, now.as_micros());
            wakes += 1;
        }
        assert!(wakes <= 6, "{wakes}");
    }

    #[test]
    fn memory_is_given_back_after_a_storm() {
        let mut wheel = Wheel::new();
        let stays = schedule(&mut wheel, 1 << 40, 0);
        let storm: Vec<_> = (0..100_000).map(|token| schedule(&mut wheel, 1000 + token, token)).collect();
        assert!(wheel.entries.capacity() >= 100_000);
        for id in &storm[..50_000] {
            assert!(wheel.cancel(*id));
        }
        assert_eq!(expired(&mut wheel, 1_000_000).len(), 50_000);
        assert_eq!((wheel.len(), wheel.entries.len()), (1, 1));
        assert!(wheel.entries.capacity() <= ENTRIES_KEPT * 2, "{}", wheel.entries.capacity());
        assert!(wheel.firing.capacity() <= FIRING_KEPT * 2, "{}", wheel.firing.capacity());
        assert!(wheel.cancel(stays));
    }

    /// The behaviour of the wheel, implemented with a map.
    #[derive(Default)]
    struct Reference {
        /// Serial number → the time of firing, and the deadline.
        timers: BTreeMap<u64, (u128, u64)>,
        now: u64,
    }

    impl Reference {
        fn schedule(&mut self, deadline: u64, token: u64) {
            let tick = u128::from(TICK_MICROS);
            let rounded = u128::from(deadline).div_ceil(tick) * tick;
            let fires_at = if deadline <= self.now { 0 } else { rounded.min(u128::from(u64::MAX)) };
            self.timers.insert(token, (fires_at, deadline));
        }

        fn expire(&mut self, now: u64) -> Vec<u64> {
            self.now = now;
            let due = |fires_at: u128| fires_at <= u128::from(now);
            let mut fired: Vec<_> = self.timers.iter().filter(|(_, timer)| due(timer.0)).collect();
            fired.sort_by_key(|&(token, timer)| (timer.1, token));
            let fired: Vec<u64> = fired.into_iter().map(|(&token, _)| token).collect();
            self.timers.retain(|_, timer| !due(timer.0));
            fired
        }
    }

    fn distance(random: &mut Random) -> u64 {
        // This gives every magnitude from a millisecond to the end of time, small ones more often.
        let bits = random.below(64).min(random.below(64));
        random.next_u64() >> (63 - bits)
    }

    fn differs_nowhere_from_the_reference(seed: u64, start: u64) {
        let mut random = Random::new(seed);
        let mut wheel = Wheel::new();
        let mut reference = Reference::default();
        let mut ids: Vec<(TimerId, u64)> = Vec::new();
        let mut now = start;
        for token in 0..4000 {
            match random.below(10) {
                0..=4 => {
                    let away = distance(&mut random);
                    let past = random.below(20) == 0;
                    let deadline = if past { now.saturating_sub(away) } else { now.saturating_add(away) };
                    ids.push((schedule(&mut wheel, deadline, token), token));
                    reference.schedule(deadline, token);
                }
                5..=6 if !ids.is_empty() => {
                    let (id, token) = random.pick(&ids);
                    assert_eq!(wheel.cancel(id), reference.timers.remove(&token).is_some());
                }
                _ => {
                    now = match random.below(8) {
                        0 => now,
                        1 => wheel.next_deadline().map_or(now, |at| at.as_micros().max(now)),
                        2 => now.saturating_add(distance(&mut random) >> 10),
                        _ => now.saturating_add(random.below(300)),
                    };
                    assert_eq!(expired(&mut wheel, now), reference.expire(now), "seed {seed}");
                }
            }
            assert_eq!(wheel.len(), reference.timers.len());
            let earliest = reference.timers.values().map(|timer| timer.0).min();
            match (wheel.next_deadline(), earliest) {
                (None, None) => {}
                (Some(wake), Some(fires_at)) => {
                    assert!(u128::from(wake.as_micros()) <= fires_at.max(u128::from(wheel.now.as_micros())))
                }
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        // Sleeping from deadline to deadline fires everything that is left, and always makes progress.
        let mut wakes = 0;
        while let Some(wake) = wheel.next_deadline() {
            now = now.max(wake.as_micros());
            assert_eq!(expired(&mut wheel, now), reference.expire(now), "seed {seed}");
            wakes += 1;
        }
        assert!(reference.timers.is_empty() && wakes <= 40_000);
        assert!(wheel.entries.is_empty());
    }

    #[test]
    fn random_operations_agree_with_a_map() {
        for seed in 1..=60 {
            differs_nowhere_from_the_reference(seed, seed * 977);
        }
        for seed in 1..=20 {
            differs_nowhere_from_the_reference(seed, u64::MAX - (1 << (seed + 10)));
        }
    }
}
