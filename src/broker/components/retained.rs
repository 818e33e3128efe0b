//! The retained messages whose topic names have their home on one shard.
//!
//! The input is messages to store and to remove, each with the stamp that orders it among all shards, and
//! topic filters to look up. The output is the matching messages, in batches of bounded size and bounded
//! work. So a million of them can be streamed to a slow subscriber and are never queued as a whole. This
//! component implements the retained part of section 3.3.1.3 and message expiry (section 3.3.2.3.3) of the
//! standard.
//!
//! The messages are in one map in the byte order of their topic names. In this order every sub-tree `a/b/…`
//! is one contiguous range (from `a/b/` up to, not including, `a/b0`: `0` comes right after `/`). Its root
//! `a/b` is before it, with names such as `a/b c` between. A walk for a filter seeks from range to range: at
//! a topic name that does not match, the first level that differs shows how much can be skipped in one step.

use crate::base::{Stamp, Time};
use std::collections::BTreeMap;
use std::ops::Bound;

/// The properties of a message that the store needs.
pub trait RetainedMessage {
    /// When it expires. `None` if never.
    fn expires_at(&self) -> Option<Time>;
    /// Its position in the order of its topic's messages, over all shards.
    fn stamp(&self) -> Option<Stamp>;
    /// Its size in bytes.
    fn bytes(&self) -> usize;
    /// Whether the retained message of this topic belongs to the broker itself. There are few such topics,
    /// and no client can add or enlarge them, so they count in no bound.
    fn is_own(topic: &str) -> bool;
}

/// The bounds of one shard's retained messages, without the broker's own. At a bound a message is refused.
#[derive(Clone, Copy, Debug)]
pub struct RetainedLimits {
    /// The number of messages.
    pub messages: usize,
    /// The number of bytes: for each message, [`RetainedMessage::bytes`] and the topic name.
    pub bytes: usize,
}

/// The bounds of one step of a walk. Zero counts as one, so that a walk always progresses.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// The number of messages that are returned.
    pub messages: usize,
    /// Their bytes, by [`RetainedMessage::bytes`]. A larger message is alone in its batch.
    pub bytes: usize,
    /// The number of topic names that are visited, matching or not. This bounds the work.
    pub visits: usize,
}

/// The result for a message that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is the first of its topic.
    New,
    /// It replaced an older one. `[MQTT5-3.3.1-5]` `[MQTT311-3.3.1-5]`
    Replaced,
    /// It was dropped because of a newer message or a newer removal.
    Outdated,
}

/// A message was refused because a bound of [`RetainedLimits`] is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainedFull {
    /// [`RetainedLimits::messages`].
    Messages,
    /// [`RetainedLimits::bytes`].
    Bytes,
}

/// The retained messages of a shard, by topic name.
#[derive(Debug)]
pub struct Retained<M> {
    messages: BTreeMap<Box<str>, M>,
    limits: RetainedLimits,
    bytes: usize,
    /// The number of the broker's own messages, and their bytes.
    own: usize,
    own_bytes: usize,
    /// The number of messages that have an expiry.
    expiring: usize,
    /// The last topic name that `sweep` visited. `None` at the start of a round.
    swept: Option<Box<str>>,
    tombs: Tombs,
    /// Whether a timer for the next `sweep` runs.
    has_sweep_timer: bool,
}

impl<M: RetainedMessage> Retained<M> {
    /// An empty store.
    pub fn new(limits: RetainedLimits) -> Retained<M> {
        Retained {
            messages: BTreeMap::new(),
            limits,
            bytes: 0,
            own: 0,
            own_bytes: 0,
            expiring: 0,
            swept: None,
            tombs: Tombs::default(),
            has_sweep_timer: false,
        }
    }

    /// Changes the bounds. Messages that are there stay.
    pub fn set_limits(&mut self, limits: RetainedLimits) {
        self.limits = limits;
    }

    /// The number of messages, including expired ones that `sweep` has not removed yet.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there are no messages.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The number of bytes, counted like [`RetainedLimits::bytes`] but including the broker's own.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `sweep` has anything to do. If not, the shard needs no timer for it.
    pub fn needs_sweep(&self) -> bool {
        self.expiring != 0 || !self.tombs.is_empty()
    }

    /// Whether a timer for the next `sweep` must be started. True once until the sweep.
    pub fn needs_sweep_timer(&mut self) -> bool {
        self.needs_sweep() && !std::mem::replace(&mut self.has_sweep_timer, true)
    }

    /// Stores a message as the retained one of its topic, unless a newer one (or a newer removal) is known.
    /// The message with the highest stamp wins, whatever the order of arrival from the shards. If two have
    /// the same stamp, the one that comes last wins. `[MQTT5-3.3.1-5]` `[MQTT311-3.3.1-5]`
    ///
    /// # Errors
    /// [`RetainedFull`] if the store would exceed a bound. Then nothing changes: an older message of the
    /// topic stays, so that a publisher that gets 0x97 loses nothing that was accepted before. Expired
    /// messages count until they are swept.
    pub fn store(&mut self, topic: &str, message: M) -> Result<Stored, RetainedFull> {
        let charge = charge(topic, &message);
        let is_own = M::is_own(topic);
        let expiring = usize::from(message.expires_at().is_some());
        if let Some(present) = self.messages.get_mut(topic) {
            if message.stamp() < present.stamp() {
                return Ok(Stored::Outdated);
            }
            let before = self::charge(topic, present);
            let bytes = (self.bytes - before).saturating_add(charge);
            if is_own {
                self.own_bytes = (self.own_bytes - before).saturating_add(charge);
            } else if bytes.saturating_sub(self.own_bytes) > self.limits.bytes {
                return Err(RetainedFull::Bytes);
            }
            self.bytes = bytes;
            self.expiring -= usize::from(present.expires_at().is_some());
            self.expiring += expiring;
            *present = message;
            return Ok(Stored::Replaced);
        }

        if message.stamp() < self.tombs.stamp(topic) {
            return Ok(Stored::Outdated);
        }
        let bytes = self.bytes.saturating_add(charge);
        if is_own {
            self.own += 1;
            self.own_bytes = self.own_bytes.saturating_add(charge);
        } else if self.messages.len() - self.own >= self.limits.messages {
            return Err(RetainedFull::Messages);
        } else if bytes.saturating_sub(self.own_bytes) > self.limits.bytes {
            return Err(RetainedFull::Bytes);
        }
        self.bytes = bytes;
        self.expiring += expiring;
        self.messages.insert(topic.into(), message);
        Ok(Stored::New)
    }

    /// Removes the message of a topic, as an empty retained publish requests, unless the message is newer
    /// than `stamp`. Returns whether one was removed. `[MQTT5-3.3.1-6]` `[MQTT311-3.3.1-10]`
    ///
    /// The removal is remembered for a while: a client on another shard may remove a message that it has just
    /// received while the message itself still waits in the box between its publisher's shard and this one.
    /// Without a record of the removal, the message would then be stored for good. See [`TOMB_SECONDS_MIN`]
    /// and [`TOMBS_MAX`].
    pub fn remove(&mut self, topic: &str, stamp: Option<Stamp>) -> bool {
        match self.messages.get(topic) {
            Some(present) if stamp < present.stamp() => return false,
            _ => self.tombs.add(topic, stamp),
        }
        self.take(topic)
    }

    /// The message of a topic, if there is one that has not expired. `[MQTT5-3.3.2-5]`
    pub fn get(&self, topic: &str, now: Time) -> Option<&M> {
        self.messages.get(topic).filter(|message| !is_expired(*message, now))
    }

    /// Passes to `found` some of the messages whose topic name matches `filter`, in the byte order of the
    /// topic names, beginning after the topic name `after`. Returns the next call's `after`, or `None` when
    /// all have been visited.
    ///
    /// A message that is there during the whole walk is found exactly once, whatever else is stored, removed
    /// or swept between the calls. A call may find nothing although it is not the last. A filter without
    /// wildcards is one lookup. Expired messages are skipped. `filter` must be a valid topic filter. For a
    /// shared subscription it must be the matching part. `[MQTT5-3.3.1-9]` `[MQTT311-3.3.1-6]`
    pub fn matching(
        &self,
        filter: &str,
        after: Option<&str>,
        now: Time,
        limits: BatchLimits,
        found: impl FnMut(&str, &M),
    ) -> Option<Box<str>> {
        self.matching_counted(filter, after, now, limits, &mut 0, found)
    }

    /// Whether there may be a message that matches. Visits at most `visits_max` topic names, and returns true
    /// if that is not enough to tell, or if the message has expired since the last sweep. Adds the number of
    /// visited topic names to `visits`.
    pub fn may_match(&self, filter: &str, visits_max: usize, visits: &mut usize) -> bool {
        let mut is_found = false;
        let limits = BatchLimits { messages: 1, bytes: 1, visits: visits_max };
        let rest = self.matching_counted(filter, None, Time::ZERO, limits, visits, |_, _| is_found = true);
        is_found || rest.is_some()
    }

    /// The same as [`Retained::matching`], and adds the number of visited topic names to `visits`.
    pub fn matching_counted(
        &self,
        filter: &str,
        after: Option<&str>,
        now: Time,
        limits: BatchLimits,
        visits: &mut usize,
        mut found: impl FnMut(&str, &M),
    ) -> Option<Box<str>> {
        let run = LiteralRun::of(filter);
        if run.end == RunEnd::Filter {
            if after.is_none_or(|after| after < filter)
                && let Some(message) = self.get(filter, now)
            {
                found(filter, message);
            }
            return None;
        }

        let (mut messages, mut bytes) = (0, 0usize);
        let visits_end = visits.saturating_add(limits.visits.max(1));
        let mut last = after.unwrap_or_default();
        let from = match after {
            Some(after) if after >= run.text => Bound::Excluded(after),
            _ => Bound::Included(run.text),
        };
        let mut walk = self.messages.range::<str, _>((from, Bound::Unbounded));
        let mut seek = String::new();
        while let Some((topic, message)) = walk.next() {
            if *visits >= visits_end {
                return Some(last.into());
            }
            *visits += 1;
            match step(filter, topic, &mut seek) {
                Step::Match if is_expired(message, now) => {}
                Step::Match => {
                    bytes = bytes.saturating_add(message.bytes());
                    if messages > 0 && bytes > limits.bytes {
                        return Some(last.into());
                    }
                    messages += 1;
                    found(topic, message);
                    if messages >= limits.messages || bytes >= limits.bytes {
                        return Some(topic.clone());
                    }
                }
                Step::Next => {}
                Step::Seek => {
                    debug_assert!(seek.as_str() > &**topic, "a walk goes one way");
                    walk = self.messages.range::<str, _>((Bound::Included(seek.as_str()), Bound::Unbounded));
                }
                Step::Done => return None,
            }
            last = topic;
        }
        None
    }

    /// Visits `visits` more messages (at least one) and removes those that have expired. The next call
    /// continues after them, and starts again at the end. Returns the number of removed messages.
    /// `[MQTT5-3.3.2-5]`
    pub fn sweep(&mut self, now: Time, visits: usize) -> usize {
        self.has_sweep_timer = false;
        self.tombs.age(now);
        let visits = visits.max(1);
        let swept = self.swept.take();
        if self.expiring == 0 {
            return 0;
        }
        let from = swept.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut expired: Vec<Box<str>> = Vec::new();
        let mut visited = 0;
        for (topic, message) in self.messages.range::<str, _>((from, Bound::Unbounded)).take(visits) {
            visited += 1;
            if visited == visits {
                self.swept = Some(topic.clone());
            }
            if is_expired(message, now) {
                expired.push(topic.clone());
            }
        }
        for topic in &expired {
            self.take(topic);
        }
        expired.len()
    }

    /// Removes a message, and its size from the totals.
    fn take(&mut self, topic: &str) -> bool {
        let Some(message) = self.messages.remove(topic) else { return false };
        let charge = charge(topic, &message);
        self.bytes -= charge;
        if M::is_own(topic) {
            self.own -= 1;
            self.own_bytes -= charge;
        }
        self.expiring -= usize::from(message.expires_at().is_some());
        true
    }
}

/// Removals are remembered for at least this many seconds, and at most three times as long if `sweep` is
/// called that often. Mail never waits nearly that long between two shards.
pub const TOMB_SECONDS_MIN: u32 = 60;

/// At least this many of the latest removals are remembered (at most twice as many), unless their topic names
/// together are longer than [`TOMB_BYTES_MAX`]. Beyond that, the older ones are forgotten: a message that a
/// removal has overtaken may then stay until it is removed again.
pub const TOMBS_MAX: usize = 4096;

/// The maximum bytes of topic names in each of the two generations of remembered removals.
pub const TOMB_BYTES_MAX: usize = 1 << 20;

/// The stamps of removals in two generations. When the young one is full or old enough, it replaces the old
/// one, which is forgotten as a whole.
#[derive(Debug, Default)]
struct Tombs {
    young: BTreeMap<Box<str>, Option<Stamp>>,
    old: BTreeMap<Box<str>, Option<Stamp>>,
    young_bytes: usize,
    /// When the young generation becomes old. `None` if it has only just begun, at an unknown time.
    ages_at: Option<Time>,
}

impl Tombs {
    fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    fn stamp(&self, topic: &str) -> Option<Stamp> {
        self.young.get(topic).max(self.old.get(topic)).copied().flatten()
    }

    fn add(&mut self, topic: &str, stamp: Option<Stamp>) {
        if let Some(present) = self.young.get_mut(topic) {
            *present = stamp.max(*present);
            return;
        }
        if self.young.len() >= TOMBS_MAX || self.young_bytes + topic.len() > TOMB_BYTES_MAX {
            self.turn();
        }
        self.young_bytes += topic.len();
        self.young.insert(topic.into(), stamp);
    }

    fn age(&mut self, now: Time) {
        if self.ages_at.is_some_and(|at| at <= now) {
            self.turn();
        }
        if self.ages_at.is_none() && !self.is_empty() {
            self.ages_at = Some(now.after_seconds(TOMB_SECONDS_MIN));
        }
    }

    fn turn(&mut self) {
        self.old = std::mem::take(&mut self.young);
        self.young_bytes = 0;
        self.ages_at = None;
    }
}

fn charge<M: RetainedMessage>(topic: &str, message: &M) -> usize {
    message.bytes().saturating_add(topic.len())
}

fn is_expired<M: RetainedMessage>(message: &M, now: Time) -> bool {
    message.expires_at().is_some_and(|at| at <= now)
}

/// The action of a walk at a topic name.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It matches.
    Match,
    /// It does not match, and nothing can be ruled out.
    Next,
    /// Neither it nor any other before the text of `seek` matches.
    Seek,
    /// Neither it nor any other after it matches.
    Done,
}

/// Compares a filter with wildcards to a topic name, level by level.
fn step(filter: &str, topic: &str, seek: &mut String) -> Step {
    seek.clear();
    // [MQTT5-4.7.2-1] [MQTT311-4.7.2-1]
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        seek.push('%');
        return Step::Seek;
    }
    // The end of the level that the last `+` matched. It is the nearest level that may have another value.
    let mut choice = None;
    let (mut filter_at, mut topic_at) = (0, 0);
    loop {
        let (level, filter_end) = level_at(filter, filter_at);
        if level == "#" {
            // [MQTT5-4.7.1-2]: the parent level matches too; then the topic ended here.
            return Step::Match;
        }
        if topic_at > topic.len() {
            return Step::Next;
        }
        let (name, topic_end) = level_at(topic, topic_at);
        if level == "+" {
            choice = Some(topic_end);
        } else if level != name {
            return seek_literal(&filter[filter_at..], topic, topic_at, choice, seek);
        }
        match (filter_end == filter.len(), topic_end == topic.len()) {
            (true, true) => return Step::Match,
            (true, false) => return seek_choice(topic, choice, seek),
            (false, _) => {}
        }
        filter_at = filter_end + 1;
        topic_at = topic_end + 1;
    }
}

/// The topic name differs where `filter_rest` begins with literal levels. Seeks the literal, if it is still
/// ahead.
fn seek_literal(
    filter_rest: &str,
    topic: &str,
    topic_at: usize,
    choice: Option<usize>,
    seek: &mut String,
) -> Step {
    let run = LiteralRun::of(filter_rest);
    seek.push_str(&topic[..topic_at]);
    seek.push_str(run.text);
    if seek.as_str() > topic {
        return Step::Seek;
    }
    // Skip `a` and names such as `a b`, which are before `a/…`.
    seek.push('/');
    if run.end == RunEnd::Hash && seek.as_str() > topic {
        return Step::Seek;
    }
    seek_choice(topic, choice, seek)
}

/// Nothing more can match below the level that the last `+` matched. Seeks its next value.
fn seek_choice(topic: &str, choice: Option<usize>, seek: &mut String) -> Step {
    let Some(end) = choice else { return Step::Done };
    seek.clear();
    seek.push_str(&topic[..end]);
    seek.push(AFTER_SEPARATOR);
    Step::Seek
}

/// The level that begins at `at`, and its end. `at` must not be after the end of `text`.
fn level_at(text: &str, at: usize) -> (&str, usize) {
    let rest = &text[at..];
    let level = rest.split_once('/').map_or(rest, |(level, _)| level);
    (level, at + level.len())
}

/// The leading levels of a filter that are not wildcards. A matching topic name begins with them.
struct LiteralRun<'a> {
    /// Includes the last separator if `+` follows, but not if `#` follows, which also matches the parent.
    text: &'a str,
    end: RunEnd,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RunEnd {
    Filter,
    Plus,
    Hash,
}

impl LiteralRun<'_> {
    fn of(filter: &str) -> LiteralRun<'_> {
        // In a valid filter a wildcard is a level by itself.
        match filter.find(['+', '#']) {
            None => LiteralRun { text: filter, end: RunEnd::Filter },
            Some(at) if filter[at..].starts_with('+') => {
                LiteralRun { text: &filter[..at], end: RunEnd::Plus }
            }
            Some(at) => LiteralRun { text: &filter[..at.saturating_sub(1)], end: RunEnd::Hash },
        }
    }
}

/// The next character after the level separator in byte order.
const AFTER_SEPARATOR: char = '0';
const _: () = assert!(AFTER_SEPARATOR as u32 == '/' as u32 + 1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Numbered;
    use crate::base::Random;
    use crate::mqtt::filter_matches;

    #[derive(Clone, Debug, PartialEq)]
    struct Note {
        text: u64,
        stamp: u64,
        bytes: usize,
        expires_at: Option<Time>,
    }

    impl RetainedMessage for Note {
        fn expires_at(&self) -> Option<Time> {
            self.expires_at
        }

        fn stamp(&self) -> Option<Stamp> {
            Stamp::from_number(self.stamp)
        }

        fn bytes(&self) -> usize {
            self.bytes
        }

        fn is_own(topic: &str) -> bool {
            topic.starts_with("own/")
        }
    }

    fn note(stamp: u64) -> Note {
        Note { text: stamp, stamp, bytes: 10, expires_at: None }
    }

    fn expiring(stamp: u64, millis: u64) -> Note {
        Note { expires_at: Some(Time::from_millis(millis)), ..note(stamp) }
    }

    const UNLIMITED: RetainedLimits = RetainedLimits { messages: usize::MAX, bytes: usize::MAX };
    const ALL: BatchLimits = BatchLimits { messages: usize::MAX, bytes: usize::MAX, visits: usize::MAX };
    const NOW: Time = Time::from_millis(5000);

    fn store_of<S: AsRef<str>>(topics: impl IntoIterator<Item = S>) -> Retained<Note> {
        let mut retained = Retained::new(UNLIMITED);
        for (stamp, topic) in topics.into_iter().enumerate() {
            retained.store(topic.as_ref(), note(stamp as u64)).unwrap();
        }
        retained
    }

    fn found(retained: &Retained<Note>, filter: &str) -> Vec<String> {
        let mut found = Vec::new();
        assert_eq!(retained.matching(filter, None, NOW, ALL, |topic, _| found.push(topic.to_string())), None);
        found
    }

    /// The number of visits of a whole walk.
    fn visits(retained: &Retained<Note>, filter: &str) -> usize {
        let limits = |visits| BatchLimits { visits, ..ALL };
        let needed = |visits| retained.matching(filter, None, NOW, limits(visits), |_, _| {}).is_none();
        let (mut low, mut high) = (1, 2 * retained.len() + 2);
        assert!(needed(high));
        while low < high {
            let middle = (low + high) / 2;
            if needed(middle) { high = middle } else { low = middle + 1 }
        }
        low
    }

    #[test]
    fn the_last_writer_wins_by_stamp_not_by_arrival() {
        // [MQTT5-3.3.1-5] [MQTT311-3.3.1-5]
        let mut retained = Retained::new(UNLIMITED);
        assert_eq!(retained.store("a", note(5)), Ok(Stored::New));
        assert_eq!(retained.store("a", note(4)), Ok(Stored::Outdated));
        assert_eq!(retained.get("a", NOW), Some(&note(5)));
        assert_eq!(retained.store("a", Note { text: 7, ..note(5) }), Ok(Stored::Replaced));
        assert_eq!(retained.get("a", NOW).unwrap().text, 7);
        assert_eq!(retained.store("a", note(6)), Ok(Stored::Replaced));
        assert_eq!((retained.len(), retained.bytes()), (1, 11));
    }

    #[test]
    fn a_removal_beats_an_older_store_that_arrives_later() {
        // [MQTT5-3.3.1-6] [MQTT311-3.3.1-10]
        let mut retained = Retained::new(UNLIMITED);
        assert!(!retained.remove("a", Stamp::from_number(7)));
        assert_eq!(retained.store("a", note(6)), Ok(Stored::Outdated));
        assert_eq!(retained.store("a", note(8)), Ok(Stored::New));
        assert!(!retained.remove("a", Stamp::from_number(7)));
        assert!(retained.remove("a", Stamp::from_number(9)));
        assert!(!retained.remove("a", Stamp::from_number(8)));
        assert_eq!(retained.store("a", note(8)), Ok(Stored::Outdated));
        assert_eq!(retained.store("b", note(1)), Ok(Stored::New));
        assert_eq!((retained.len(), retained.bytes()), (1, 11));
    }

    #[test]
    fn a_short_look_tells_that_nothing_matches_or_leaves_it_open() {
        let retained = store_of(["a/1", "a/2", "a/3", "b"]);
        let look = |filter, visits_max| {
            let mut visits = 0;
            let may = retained.may_match(filter, visits_max, &mut visits);
            assert!(visits <= visits_max, "{filter}");
            may
        };
        assert!(look("+", 2) && look("b", 2) && look("#", 2));
        assert!(!look("c", 2) && !look("c/#", 2) && !look("a/4/#", 2));
        assert!(!look("a/+/b", 10), "all were looked at");
        assert!(look("+/1/2", 1), "not all were looked at");
        assert!(!store_of([""; 0]).may_match("#", 1, &mut 0));
    }

    #[test]
    fn removals_are_forgotten_by_time() {
        let mut retained: Retained<Note> = Retained::new(UNLIMITED);
        let at = |seconds| Time::ZERO.after_seconds(seconds);
        assert!(!retained.needs_sweep());
        retained.sweep(at(1), 1);
        retained.remove("a", Stamp::from_number(7));
        assert!(retained.needs_sweep());
        for seconds in 2..62 {
            retained.sweep(at(seconds), 1);
            assert_eq!(retained.store("a", note(6)), Ok(Stored::Outdated), "{seconds}");
        }
        for seconds in 62..182 {
            retained.sweep(at(seconds), 1);
        }
        assert!(!retained.needs_sweep());
        assert_eq!(retained.store("a", note(6)), Ok(Stored::New));
    }

    #[test]
    fn removals_are_bounded_in_number_and_bytes() {
        let mut retained: Retained<Note> = Retained::new(UNLIMITED);
        for i in 0..5 * TOMBS_MAX {
            retained.remove(&format!("t{i}"), Stamp::from_number(9));
            assert!(retained.tombs.young.len() + retained.tombs.old.len() <= 2 * TOMBS_MAX);
        }
        for i in 4 * TOMBS_MAX..5 * TOMBS_MAX {
            assert_eq!(retained.store(&format!("t{i}"), note(1)), Ok(Stored::Outdated));
        }
        for i in 0..200 {
            retained.remove(&format!("{i}{}", "x".repeat(65_000)), Stamp::from_number(9));
            let bytes: usize = retained.tombs.young.keys().map(|topic| topic.len()).sum();
            assert!(bytes <= TOMB_BYTES_MAX && bytes == retained.tombs.young_bytes);
        }
    }

    #[test]
    fn what_is_the_brokers_own_counts_in_no_bound() {
        let mut retained = Retained::new(RetainedLimits { messages: 2, bytes: 22 });
        for topic in ["own/1", "a", "own/2", "b", "own/3"] {
            assert_eq!(retained.store(topic, note(1)), Ok(Stored::New));
        }
        assert_eq!((retained.len(), retained.bytes()), (5, 2 * 11 + 3 * 15));
        assert_eq!(retained.store("own/2", Note { bytes: 1000, ..note(2) }), Ok(Stored::Replaced));
        assert_eq!(retained.store("c", note(2)), Err(RetainedFull::Messages));
        assert_eq!(retained.store("b", Note { bytes: 11, ..note(2) }), Err(RetainedFull::Bytes));
        // Nor does removing them make room for others.
        assert!(
            retained.remove("own/1", Stamp::from_number(3))
                && retained.remove("own/2", Stamp::from_number(3))
        );
        assert_eq!(retained.store("c", note(2)), Err(RetainedFull::Messages));
        assert_eq!(retained.store("b", Note { bytes: 11, ..note(2) }), Err(RetainedFull::Bytes));
        assert!(retained.remove("a", Stamp::from_number(3)));
        assert_eq!(retained.store("c", note(2)), Ok(Stored::New));
        assert_eq!((retained.len(), retained.bytes()), (3, 2 * 11 + 15));
    }

    #[test]
    fn a_full_store_refuses_and_keeps_what_it_has() {
        let mut retained = Retained::new(RetainedLimits { messages: 3, bytes: 40 });
        for topic in ["a", "b", "c"] {
            assert_eq!(retained.store(topic, note(1)), Ok(Stored::New));
        }
        assert_eq!(retained.store("d", note(2)), Err(RetainedFull::Messages));
        assert_eq!(retained.store("a", Note { bytes: 17, ..note(2) }), Ok(Stored::Replaced));
        assert_eq!(retained.bytes(), 40);
        assert_eq!(retained.store("b", Note { bytes: 11, ..note(2) }), Err(RetainedFull::Bytes));
        assert_eq!(retained.store("b", Note { bytes: usize::MAX, ..note(2) }), Err(RetainedFull::Bytes));
        assert_eq!(retained.get("b", NOW), Some(&note(1)));
        assert!(retained.remove("c", Stamp::from_number(1)));
        assert_eq!(retained.store("d", Note { bytes: 11, ..note(2) }), Err(RetainedFull::Bytes));
        assert_eq!(retained.store("d", note(2)), Ok(Stored::New));
        assert_eq!((retained.len(), retained.bytes()), (3, 40));
    }

    #[test]
    fn an_expired_message_is_never_found_and_swept_in_bounded_steps() {
        // [MQTT5-3.3.2-5]
        let mut retained = store_of((0..50).map(|i| format!("keep/{i}")));
        for i in 0..100 {
            retained.store(&format!("x/{i:02}"), expiring(1, 5000 + i)).unwrap();
        }
        assert_eq!(retained.get("x/00", Time::from_millis(4999)).unwrap().stamp, 1);
        assert_eq!(retained.get("x/00", NOW), None);
        assert!(retained.get("x/01", NOW).is_some());
        assert_eq!(found(&retained, "x/#").len(), 99);
        assert_eq!(found(&retained, "x/00"), [""; 0]);

        let later = Time::from_millis(5000 + 49);
        let mut steps = 0;
        while retained.len() > 100 {
            assert!(retained.sweep(later, 7) <= 7);
            steps += 1;
        }
        assert!(steps <= 150 / 7 + 1, "{steps}");
        assert_eq!(retained.bytes(), store_of((0..50).map(|i| format!("keep/{i}"))).bytes() + 50 * 14);
        assert!(retained.needs_sweep());
        let mut removed = 0;
        for _ in 0..100 {
            removed += retained.sweep(Time::MAX, 3);
        }
        assert_eq!((removed, retained.len(), retained.needs_sweep()), (50, 50, false));
    }

    #[test]
    fn a_replaced_message_takes_its_expiry_with_it() {
        let mut retained = Retained::new(UNLIMITED);
        retained.store("a", expiring(1, 6000)).unwrap();
        retained.store("a", note(2)).unwrap();
        assert!(!retained.needs_sweep());
        retained.store("a", expiring(3, 6000)).unwrap();
        assert!(retained.remove("a", Stamp::from_number(4)));
        assert_eq!((retained.expiring, retained.bytes()), (0, 0));
    }

    #[test]
    fn a_sub_tree_includes_its_root_and_not_what_stands_between_them() {
        // [MQTT5-4.7.1-2] [MQTT311-4.7.1-2]
        let retained = store_of(["a", "a b/c", "a!", "a/", "a/b", "a/b c", "a0", "a0/b", "aa", "A/b", "b"]);
        assert_eq!(found(&retained, "a/#"), ["a", "a/", "a/b", "a/b c"]);
        assert_eq!(found(&retained, "a/+"), ["a/", "a/b", "a/b c"]);
        assert_eq!(found(&retained, "+/b"), ["A/b", "a/b", "a0/b"]);
        assert_eq!(found(&retained, "a"), ["a"]);
        assert_eq!(found(&retained, "+").len(), 5);
        assert_eq!(found(&retained, "#").len(), 11);
    }

    #[test]
    fn a_leading_wildcard_matches_no_dollar_topic() {
        // [MQTT5-4.7.2-1] [MQTT311-4.7.2-1]
        let mut retained = store_of((0..1000).map(|i| format!("$SYS/{i}")));
        for topic in ["$", "#no", "%a/b", "!a/b", "a/$b"] {
            retained.store(topic, note(1)).unwrap();
        }
        assert_eq!(found(&retained, "#"), ["!a/b", "#no", "%a/b", "a/$b"]);
        assert_eq!(found(&retained, "+/+"), ["!a/b", "%a/b", "a/$b"]);
        assert_eq!(found(&retained, "$SYS/#").len(), 1000);
        assert!(visits(&retained, "#") <= 6);
    }

    #[test]
    fn a_walk_passes_over_the_sub_trees_it_can_rule_out() {
        let mut topics = Vec::new();
        for device in 0..100 {
            topics.push(format!("d{device}"));
            for value in 0..100 {
                topics.push(format!("d{device}/b/{value}"));
                topics.push(format!("d{device}/m/{value}"));
            }
        }
        let mut retained = store_of(&topics);
        assert_eq!(found(&retained, "+/a/#"), [""; 0]);
        assert!(visits(&retained, "+/a/#") <= 2 * 100 + 2, "{}", visits(&retained, "+/a/#"));
        assert!(visits(&retained, "+/z") <= 4 * 100, "{}", visits(&retained, "+/z"));
        assert_eq!(found(&retained, "+/m/7").len(), 100);
        assert!(visits(&retained, "+/m/7") <= 4 * 100 + 2, "{}", visits(&retained, "+/m/7"));
        assert_eq!(found(&retained, "d7/+/7"), ["d7/b/7", "d7/m/7"]);
        assert!(visits(&retained, "d7/+/7") <= 8, "{}", visits(&retained, "d7/+/7"));
        assert!(visits(&retained, "d7/b/+/+") <= 201);
        assert_eq!(visits(&retained, "nothing/+"), 1);
        assert_eq!(found(&retained, "+").len(), 100);
        assert!(visits(&retained, "+") <= 202);
        retained.store("z/a/1", note(1)).unwrap();
        assert_eq!(found(&retained, "+/a/#"), ["z/a/1"]);
    }

    #[test]
    fn a_batch_keeps_every_bound_and_always_moves_on() {
        let retained = store_of((0..100).map(|i| format!("a/{i:02}")));
        let walk = |filter: &str, limits: BatchLimits, most: usize| {
            let (mut after, mut all, mut calls) = (None::<Box<str>>, 0, 0);
            loop {
                let mut batch = 0;
                let next = retained.matching(filter, after.as_deref(), NOW, limits, |_, _| batch += 1);
                assert!(batch <= most);
                assert!(next.is_none() || next > after);
                (all, calls, after) = (all + batch, calls + 1, next);
                if after.is_none() {
                    return (all, calls);
                }
            }
        };
        assert_eq!(walk("a/+", BatchLimits { messages: 7, ..ALL }, 7), (100, 15));
        assert_eq!(walk("a/#", BatchLimits { bytes: 35, ..ALL }, 3), (100, 34));
        assert_eq!(walk("a/#", BatchLimits { bytes: 3, ..ALL }, 1), (100, 101));
        assert_eq!(walk("a/#", BatchLimits { visits: 9, ..ALL }, 9), (100, 12));
        assert_eq!(walk("a/+/b", BatchLimits { visits: 9, ..ALL }, 0), (0, 12));
        assert_eq!(walk("a/#", BatchLimits { messages: 0, bytes: 0, visits: 0 }, 1), (100, 101));
        assert_eq!(walk("+/99", BatchLimits { visits: 1, ..ALL }, 1), (1, 100));
    }

    #[test]
    fn an_exact_filter_is_found_once() {
        let retained = store_of(["a/b", "a/b/c"]);
        assert_eq!(found(&retained, "a/b"), ["a/b"]);
        assert_eq!(retained.matching("a/b", Some("a/b"), NOW, ALL, |_, _| panic!("found again")), None);
    }

    fn a_path(random: &mut Random, levels: &[&str]) -> String {
        let path: Vec<&str> = (0..random.range(1..=4)).map(|_| random.pick(levels)).collect();
        if path == [""] { "a".to_string() } else { path.join("/") }
    }

    fn a_topic(random: &mut Random) -> String {
        a_path(random, &["", "a", "b", "a b", "a!", "a.", "a0", "ab", "$x", "$", "%", "ä", "c"])
    }

    fn a_filter(random: &mut Random) -> String {
        let mut filter = a_path(random, &["", "a", "b", "a b", "a0", "ab", "$x", "c", "+", "+", "+", "+"]);
        match random.below(8) {
            0 => filter = "#".to_string(),
            1..=3 => filter.push_str("/#"),
            _ => {}
        }
        filter
    }

    #[test]
    fn a_walk_finds_what_the_naive_matcher_finds() {
        let mut random = Random::new(3);
        for _ in 0..60 {
            let mut topics: Vec<String> = (0..random.below(400)).map(|_| a_topic(&mut random)).collect();
            let retained = store_of(&topics);
            topics.sort();
            topics.dedup();
            for _ in 0..100 {
                let filter = a_filter(&mut random);
                let expected: Vec<&String> = topics.iter().filter(|t| filter_matches(&filter, t)).collect();
                assert_eq!(found(&retained, &filter).iter().collect::<Vec<_>>(), expected, "{filter}");
            }
        }
    }

    #[test]
    fn a_message_that_stays_is_found_once_whatever_happens_between_the_batches() {
        let mut random = Random::new(5);
        for _ in 0..600 {
            let mut retained = Retained::new(UNLIMITED);
            let mut stays: Vec<String> = Vec::new();
            for _ in 0..200 {
                let topic = a_topic(&mut random);
                retained.store(&topic, note(1)).unwrap();
                stays.push(topic);
            }
            stays.sort();
            stays.dedup();
            let filter = a_filter(&mut random);
            let limits = BatchLimits {
                messages: 1 + random.index(5),
                bytes: 1 + random.index(60),
                visits: 1 + random.index(10),
            };
            let mut after: Option<Box<str>> = None;
            let mut seen: Vec<String> = Vec::new();
            for stamp in 2.. {
                after = retained.matching(&filter, after.as_deref(), NOW, limits, |topic, _| {
                    assert!(filter_matches(&filter, topic));
                    seen.push(topic.to_string());
                });
                let Some(cursor) = &after else { break };
                assert!(seen.last().is_none_or(|last| last.as_str() <= &**cursor));
                for _ in 0..3 {
                    let topic = a_topic(&mut random);
                    match random.below(3) {
                        0 => drop(retained.store(&topic, note(stamp))),
                        1 => drop(retained.store(&topic, expiring(stamp, 4000))),
                        _ => drop(retained.remove(&topic, Stamp::from_number(stamp))),
                    }
                    // If it is stored again, it may be found or not. The same holds if it is replaced or
                    // removed.
                    stays.retain(|stay| *stay != topic);
                }
                retained.sweep(NOW, 5);
            }
            assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "in order, none twice");
            for stay in stays.iter().filter(|topic| filter_matches(&filter, topic)) {
                assert!(seen.contains(stay), "{filter} {stay}");
            }
        }
    }
}
