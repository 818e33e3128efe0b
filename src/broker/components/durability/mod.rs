//! The durable state: the journal of recorded changes, the numbers for the log, and the ends of sessions that
//! are not durable yet.

mod ends;

use crate::base::{LogMark, Numbered, ShardId, TextHash, Time};
use crate::store::{Batch, Journal, Record, Wall};
use ends::Ends;

/// See the module.
pub(in crate::broker) struct Durability {
    journal: Journal,
    /// The log's clock.
    wall: Wall,
    /// The next number for the log, and the step to the one after it. Shards never use the same numbers.
    next_number: u64,
    numbers_step: u64,
    /// Whether the disk is full.
    is_full: bool,
    ends: Ends,
    /// Whether the timer runs that records in the log that the broker is alive.
    is_telling_alive: bool,
}

impl Durability {
    /// Without a log, nothing survives.
    pub(in crate::broker) fn off(shard: ShardId, shards: usize, seed: u64) -> Durability {
        Durability {
            journal: Journal::off(),
            wall: Wall::default(),
            next_number: 1 + u64::from(shard),
            numbers_step: shards as u64,
            is_full: false,
            ends: Ends::new(seed),
            is_telling_alive: false,
        }
    }

    /// Starts to record in this journal. `next_number` is the first number that no shard has used.
    pub(in crate::broker) fn open(
        &mut self,
        now: Time,
        shard: ShardId,
        journal: Journal,
        wall: Wall,
        next_number: u64,
    ) {
        self.journal = journal;
        self.wall = wall;
        self.journal.set_wall(wall);
        self.journal.set_now(now);
        self.next_number = next_number.max(1).next_multiple_of(self.numbers_step) + u64::from(shard);
    }

    /// Records a change that must survive.
    #[inline]
    pub(in crate::broker) fn record(&mut self, record: &Record<'_>) {
        self.journal.record(record);
    }

    /// A number that nothing else in the log has or will have.
    pub(in crate::broker) fn next_number<N: Numbered>(&mut self) -> N {
        let number = self.next_number;
        self.next_number += self.numbers_step;
        N::from_number(number).expect("numbers count from 1")
    }

    /// The log's clock.
    pub(in crate::broker) fn wall(&self) -> Wall {
        self.wall
    }

    /// The time of the input that is being handled, on the log's clock.
    pub(in crate::broker) fn wall_millis(&self) -> u64 {
        self.journal.wall_millis()
    }

    /// The time of the input that is being handled.
    pub(in crate::broker) fn now(&self) -> Time {
        self.journal.now()
    }

    /// Sets the time of the input that is being handled.
    #[inline]
    pub(in crate::broker) fn set_now(&mut self, now: Time) {
        self.journal.set_now(now);
    }

    /// Whether there is a log.
    pub(in crate::broker) fn is_on(&self) -> bool {
        self.journal.is_on()
    }

    /// Whether the log has failed, so that nothing more will be durable.
    pub(in crate::broker) fn has_failed(&self) -> bool {
        self.journal.has_failed()
    }

    /// Notes that the log has failed.
    pub(in crate::broker) fn fail(&mut self) {
        self.journal.fail();
    }

    /// Whether the disk is full.
    #[inline]
    pub(in crate::broker) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Notes whether the disk is full. Returns `false` if nothing has changed.
    pub(in crate::broker) fn set_full(&mut self, is_full: bool) -> bool {
        std::mem::replace(&mut self.is_full, is_full) != is_full
    }

    /// See [`Journal::count`].
    #[inline]
    pub(in crate::broker) fn count(&self) -> u64 {
        self.journal.count()
    }

    /// The mark that [`Durability::durable`] must reach for everything recorded so far to be durable.
    #[inline]
    pub(in crate::broker) fn mark(&self) -> LogMark {
        self.journal.mark()
    }

    /// The mark of what was recorded since `before`, a value of [`Durability::count`].
    #[inline]
    pub(in crate::broker) fn mark_since(&self, before: u64) -> LogMark {
        if self.journal.count() > before { self.journal.mark() } else { LogMark::START }
    }

    /// The mark up to which everything is durable.
    #[inline]
    pub(in crate::broker) fn durable(&self) -> LogMark {
        self.journal.durable()
    }

    /// Notes that everything is durable up to the frame with this sequence.
    pub(in crate::broker) fn set_durable(&mut self, sequence: u64) {
        self.journal.set_durable(sequence);
    }

    /// Notes that the present answer relies on earlier records.
    pub(in crate::broker) fn rely_on_earlier(&mut self) {
        self.journal.rely_on_earlier();
    }

    /// See [`Journal::seal_if_long`].
    #[inline]
    pub(in crate::broker) fn seal_if_long(&mut self) {
        self.journal.seal_if_long();
    }

    /// The number of bytes that wait to be taken.
    #[inline]
    pub(in crate::broker) fn waiting_bytes(&self) -> usize {
        self.journal.waiting_bytes()
    }

    /// Takes frames for the log, if there are any.
    pub(in crate::broker) fn take_batch(&mut self) -> Option<Batch> {
        self.journal.take()
    }

    /// Notes that the records so far end a session of the client with this hash. `None` if the client is
    /// unknown.
    pub(in crate::broker) fn note_end(&mut self, client: Option<TextHash>) {
        if !self.journal.is_on() || self.journal.has_failed() {
            return;
        }
        self.forget_durable_ends();
        match client {
            Some(client) => self.ends.note(client, self.journal.mark()),
            None => self.ends.note_unknown(self.journal.mark()),
        }
    }

    /// Whether every end of a session is durable.
    pub(in crate::broker) fn are_ends_durable(&mut self) -> bool {
        self.forget_durable_ends();
        self.ends.is_empty()
    }

    /// The mark at which the last end of the client with this hash is durable.
    pub(in crate::broker) fn end_mark(&self, client: TextHash) -> LogMark {
        self.ends.mark_of(client)
    }

    /// Forgets durable ends. After a failure no end will ever be durable, and nothing may wait for one.
    fn forget_durable_ends(&mut self) {
        let durable = if self.journal.has_failed() { LogMark::NEVER } else { self.journal.durable() };
        self.ends.forget_to(durable);
    }

    /// Whether the timer must be started that records that the broker is alive. True once until it has fired.
    pub(in crate::broker) fn needs_alive_timer(&mut self) -> bool {
        !std::mem::replace(&mut self.is_telling_alive, true)
    }

    /// Notes that the timer has fired.
    pub(in crate::broker) fn note_alive_fired(&mut self) {
        self.is_telling_alive = false;
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.ends.give_memory_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{DeliveryNumber, MessageNumber};
    use crate::store::segment::LogName;

    fn opened(shard: ShardId, next_number: u64) -> Durability {
        let mut durability = Durability::off(shard, 4, 1);
        let journal = Journal::new(LogName { epoch: 1, shard });
        durability.open(Time::ZERO, shard, journal, Wall::default(), next_number);
        durability
    }

    #[test]
    fn no_two_shards_give_the_same_number_and_none_gives_one_of_an_earlier_run() {
        let mut given = Vec::new();
        for shard in 0..4 {
            let mut durability = opened(shard, 1001);
            for _ in 0..5 {
                given.push(durability.next_number::<MessageNumber>().get());
                given.push(durability.next_number::<DeliveryNumber>().get());
            }
        }
        assert!(given.iter().all(|&number| number > 1000));
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), 40);
    }

    #[test]
    fn an_end_is_durable_with_its_record_and_no_end_is_awaited_after_the_log_has_failed() {
        let (client, other) = (TextHash::new(5), TextHash::new(6));
        let mut durability = opened(0, 1);
        assert!(durability.are_ends_durable());
        durability.record(&Record::Ended { sid: crate::base::SessionNumber::new(4) });
        durability.note_end(Some(client));
        assert!(!durability.are_ends_durable());
        assert!(durability.end_mark(client) > durability.durable());
        assert!(durability.end_mark(other) <= durability.durable());
        let batch = durability.take_batch().expect("there is a record");
        durability.set_durable(batch.last);
        assert!(durability.are_ends_durable());
        durability.record(&Record::Ended { sid: crate::base::SessionNumber::new(8) });
        durability.note_end(Some(client));
        durability.fail();
        assert!(durability.are_ends_durable() && durability.mark() == LogMark::NEVER);
    }

    #[test]
    fn what_was_recorded_since_a_count_has_a_mark() {
        let mut durability = opened(0, 1);
        let before = durability.count();
        assert_eq!(durability.mark_since(before), LogMark::START);
        durability.rely_on_earlier();
        assert_eq!(durability.mark_since(before), durability.mark());
    }
}
