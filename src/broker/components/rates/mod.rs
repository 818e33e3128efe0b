//! The rates of clients and listeners: a bucket for each client that has one, and for each listener a bucket and those
//! that wait for it.

mod bucket;

pub(in crate::broker) use bucket::{Cost, Levels, RateMeasure};

use crate::base::{ConnectionKey, ConnectionSlot, Time, TimerId};
use crate::settings::Terms;
use bucket::{Meter, Rates};
use std::collections::VecDeque;

/// The lanes of all listeners, by their numbers.
#[derive(Debug)]
pub(in crate::broker) struct Lanes(Box<[Lane]>);

impl Lanes {
    /// For a shard that is one of `shards`.
    pub(in crate::broker) fn new(listeners: &[Terms], shards: usize) -> Lanes {
        Lanes(listeners.iter().map(|terms| Lane::new(terms, shards)).collect())
    }

    /// The lane of a listener that there is.
    pub(in crate::broker) fn of(&mut self, listener: u16) -> &mut Lane {
        &mut self.0[usize::from(listener)]
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.0.iter_mut().for_each(Lane::give_memory_back);
    }
}

/// What a connection has whose listener has rates. It begins with what one second brings.
#[derive(Debug)]
pub(in crate::broker) struct Pace {
    meter: Meter,
    /// Runs while it waits for its own bucket.
    timer: Option<TimerId>,
    /// The log has a line about it.
    is_told: bool,
}

/// The bucket of a listener's clients on this shard, and those who wait for it.
#[derive(Debug)]
pub(in crate::broker) struct Lane {
    meter: Meter,
    /// In the order in which they were paused.
    waiting: VecDeque<Waiting>,
    /// How many of them have ended meanwhile.
    gone: usize,
    has_timer: bool,
    turn: Option<LaneTurn>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    connection: ConnectionKey,
    /// Of its next packet.
    cost: Cost,
}

/// A connection that goes on, how much it has to leave to the others, and whether its first packet is to come.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct LaneTurn {
    pub slot: ConnectionSlot,
    floor: Levels,
    is_first: bool,
}

impl Lane {
    fn new(terms: &Terms, shards: usize) -> Lane {
        let rates = Rates {
            messages_per_second: terms.messages_per_second,
            bytes_per_second: terms.bytes_per_second,
        };
        Lane {
            meter: Meter::new(Time::ZERO, rates, shards),
            waiting: VecDeque::new(),
            gone: 0,
            has_timer: false,
            turn: None,
        }
    }

    fn give_memory_back(&mut self) {
        self.waiting.shrink_to_fit();
    }

    /// May a packet come now? If not, for want of what?
    pub(in crate::broker) fn admit(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        cost: Cost,
    ) -> Result<(), RateMeasure> {
        self.meter.fill(now);
        let Some(counted) = self.meter.counts(cost) else { return Ok(()) };
        let turn = self.turn.as_mut().filter(|turn| turn.slot == slot);
        let may = match turn {
            Some(turn) => std::mem::take(&mut turn.is_first) || self.meter.leaves(cost, turn.floor),
            // Nobody gets past those who wait.
            None => self.waiting.is_empty(),
        };
        match self.meter.lacks(cost) {
            None if may => {
                self.meter.take(cost);
                Ok(())
            }
            short => Err(short.unwrap_or(counted)),
        }
    }

    /// What each of those who wait may take of what is there.
    pub(in crate::broker) fn part(&self) -> Levels {
        self.meter.part(self.waiting())
    }

    /// The next turn, if there is enough for its first packet; it may take this part.
    pub(in crate::broker) fn next_turn(&mut self, part: Levels) -> Option<LaneTurn> {
        let front = self.waiting.front()?;
        if self.meter.lacks(front.cost).is_some() {
            return None;
        }
        let floor = self.meter.without(part);
        let turn = LaneTurn { slot: front.connection.slot, floor, is_first: true };
        self.waiting.pop_front();
        self.turn = Some(turn);
        self.turn
    }

    /// A connection waits for the bucket, with this packet.
    pub(in crate::broker) fn wait(&mut self, connection: ConnectionKey, cost: Cost) {
        self.waiting.push_back(Waiting { connection, cost });
    }

    /// When there is enough for the first that waits, if a timer is to be started for it: true once, until it has fired.
    pub(in crate::broker) fn next_timer(&mut self) -> Option<Time> {
        let front = self.waiting.front().filter(|_| !self.has_timer)?;
        self.has_timer = true;
        Some(self.meter.ready_at(front.cost))
    }

    /// The timer has fired.
    pub(in crate::broker) fn note_fired(&mut self, now: Time) {
        self.has_timer = false;
        self.meter.fill(now);
    }

    /// The turn is over.
    pub(in crate::broker) fn end_turn(&mut self) {
        self.turn = None;
    }

    /// How many wait.
    pub(in crate::broker) fn waiting(&self) -> usize {
        self.waiting.len() - self.gone
    }

    /// Those that wait and those that have ended and are listed still.
    #[cfg(all(test, feature = "runtime"))]
    pub(in crate::broker) fn listed(&self) -> (usize, usize) {
        (self.waiting.len(), self.gone)
    }

    /// Takes those out of the front that have ended.
    pub(in crate::broker) fn drop_gone(&mut self, is_here: impl Fn(ConnectionKey) -> bool) {
        while self.waiting.front().is_some_and(|front| !is_here(front.connection)) {
            self.waiting.pop_front();
            self.gone -= 1;
        }
    }

    /// One that waited has ended. It is left where it is, as long as most others have not.
    pub(in crate::broker) fn note_gone(&mut self, is_here: impl Fn(ConnectionKey) -> bool) {
        self.gone += 1;
        if self.gone * 2 > self.waiting.len() {
            self.waiting.retain(|waiting| is_here(waiting.connection));
            self.gone = 0;
        }
    }
}

impl Pace {
    /// Of a client that is in from now on.
    pub(in crate::broker) fn new(now: Time, terms: &Terms) -> Pace {
        let rates = Rates {
            messages_per_second: terms.client_messages_per_second,
            bytes_per_second: terms.client_bytes_per_second,
        };
        Pace { meter: Meter::new(now, rates, 1), timer: None, is_told: false }
    }

    /// What there is not enough of for a packet now, and when there will be.
    pub(in crate::broker) fn lacks(&mut self, now: Time, cost: Cost) -> Option<(RateMeasure, Time)> {
        self.meter.fill(now);
        self.meter.lacks(cost).map(|measure| (measure, self.meter.ready_at(cost)))
    }

    /// Takes out what a packet counts for.
    pub(in crate::broker) fn take(&mut self, cost: Cost) {
        self.meter.take(cost);
    }

    /// The timer that runs while the connection waits for its own bucket.
    pub(in crate::broker) fn timer(&mut self) -> &mut Option<TimerId> {
        &mut self.timer
    }

    /// True once: the log is to have a line about it.
    pub(in crate::broker) fn tell(&mut self) -> bool {
        !std::mem::replace(&mut self.is_told, true)
    }
}
