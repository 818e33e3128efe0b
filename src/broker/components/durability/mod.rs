//! What must survive: the journal of what was taken down, the names of things in the log, and the ends of sessions that
//! are not durable yet.

mod ends;

use crate::base::{LogMark, ShardId, TextHash, Time};
use crate::store::{Batch, Journal, Record, Wall};
use ends::Ends;

/// See the module.
pub(in crate::broker) struct Durability {
    journal: Journal,
    /// The log's clock.
    wall: Wall,
    /// The next name in the log, and how far it is to the one after it: shards never give the same.
    next_number: u64,
    numbers_step: u64,
    /// The disk is full.
    is_full: bool,
    ends: Ends,
    /// The timer that tells the log that the broker lives is running.
    is_telling_alive: bool,
}

impl Durability {
    /// Nothing survives, until a log is opened.
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

    /// From now on what must survive goes to this journal. `next_number`: the first name that no shard has given.
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

    /// Takes down what must survive.
    #[inline]
    pub(in crate::broker) fn record(&mut self, record: &Record<'_>) {
        self.journal.record(record);
    }

    /// A name that nothing else in the log has or will have.
    pub(in crate::broker) fn next_number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += self.numbers_step;
        number
    }

    /// The log's clock.
    pub(in crate::broker) fn wall(&self) -> Wall {
        self.wall
    }

    /// The time of the input that is being handled, on the log's clock.
    pub(in crate::broker) fn wall_millis(&self) -> u64 {
        self.journal.wall_millis()
    }

    /// An input is handled at this time.
    #[inline]
    pub(in crate::broker) fn set_now(&mut self, now: Time) {
        self.journal.set_now(now);
    }

    /// Is there a log?
    pub(in crate::broker) fn is_on(&self) -> bool {
        self.journal.is_on()
    }

    /// Has the log failed? Nothing more will be durable then.
    pub(in crate::broker) fn has_failed(&self) -> bool {
        self.journal.has_failed()
    }

    /// The log has failed.
    pub(in crate::broker) fn fail(&mut self) {
        self.journal.fail();
    }

    /// Has the disk no room for more?
    #[inline]
    pub(in crate::broker) fn is_full(&self) -> bool {
        self.is_full
    }

    /// The disk has no room for more, or has again; false if that was known.
    pub(in crate::broker) fn set_full(&mut self, is_full: bool) -> bool {
        std::mem::replace(&mut self.is_full, is_full) != is_full
    }

    /// Records taken down, ever.
    #[inline]
    pub(in crate::broker) fn count(&self) -> u64 {
        self.journal.count()
    }

    /// What has been taken down so far is durable once [`Durability::durable`] is at this mark.
    #[inline]
    pub(in crate::broker) fn mark(&self) -> LogMark {
        self.journal.mark()
    }

    /// The mark of what was taken down since `before`, by [`Durability::count`].
    #[inline]
    pub(in crate::broker) fn mark_since(&self, before: u64) -> LogMark {
        if self.journal.count() > before { self.journal.mark() } else { LogMark::START }
    }

    /// Everything up to this mark is durable.
    #[inline]
    pub(in crate::broker) fn durable(&self) -> LogMark {
        self.journal.durable()
    }

    /// Everything is durable up to the frame with this sequence.
    pub(in crate::broker) fn set_durable(&mut self, sequence: u64) {
        self.journal.set_durable(sequence);
    }

    /// What is said now relies on what was taken down before.
    pub(in crate::broker) fn rely_on_earlier(&mut self) {
        self.journal.rely_on_earlier();
    }

    /// The machine is between two inputs: a frame that is long enough may end here.
    #[inline]
    pub(in crate::broker) fn seal_if_long(&mut self) {
        self.journal.seal_if_long();
    }

    /// Bytes that wait to be taken.
    #[inline]
    pub(in crate::broker) fn waiting_bytes(&self) -> usize {
        self.journal.waiting_bytes()
    }

    /// Frames for the log, if there are any.
    pub(in crate::broker) fn take_batch(&mut self) -> Option<Batch> {
        self.journal.take()
    }

    /// A session of the client with this hash ends, or of one that is not known, with what was taken down until now.
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

    /// Is every end of a session durable?
    pub(in crate::broker) fn are_ends_durable(&mut self) -> bool {
        self.forget_durable_ends();
        self.ends.is_empty()
    }

    /// When the last end of the client with this hash is durable.
    pub(in crate::broker) fn end_mark(&self, client: TextHash) -> LogMark {
        self.ends.mark_of(client)
    }

    /// After a failure no end will ever be durable, and nobody shall wait for one.
    fn forget_durable_ends(&mut self) {
        let durable = if self.journal.has_failed() { LogMark::NEVER } else { self.journal.durable() };
        self.ends.forget_to(durable);
    }

    /// Is the timer to be started that tells the log that the broker lives? True once, until it has fired.
    pub(in crate::broker) fn needs_alive_timer(&mut self) -> bool {
        !std::mem::replace(&mut self.is_telling_alive, true)
    }

    /// The timer has fired.
    pub(in crate::broker) fn note_alive_fired(&mut self) {
        self.is_telling_alive = false;
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.ends.give_memory_back();
    }
}
