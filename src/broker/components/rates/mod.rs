//! The rates of clients and listeners. A client may have its own bucket. Each listener has a bucket, and a
//! list of connections that wait for it.

mod bucket;

pub(in crate::broker) use bucket::{Cost, Levels, RateMeasure};

use crate::base::{ConnectionKey, ConnectionSlot, Time, TimerId};
use crate::settings::Terms;
use bucket::{Meter, Rates};
use std::collections::VecDeque;

/// The lanes of all listeners, by number.
#[derive(Debug)]
pub(in crate::broker) struct Lanes(Vec<Lane>);

impl Lanes {
    /// The lanes on one of `shards` shards.
    pub(in crate::broker) fn new<'a>(listeners: impl Iterator<Item = &'a Terms>, shards: usize) -> Lanes {
        Lanes(listeners.map(|terms| Lane::new(Time::ZERO, terms.into(), shards)).collect())
    }

    /// Sets the rates of all listeners, of which there may be more than before. Returns those whose rates have changed
    /// while connections may wait for them. A bucket with a new rate is full.
    pub(in crate::broker) fn change<'a>(
        &mut self,
        now: Time,
        listeners: impl Iterator<Item = &'a Terms>,
        shards: usize,
    ) -> Vec<u16> {
        let mut changed = Vec::new();
        for (number, terms) in (0..).zip(listeners) {
            let rates = Rates::from(terms);
            match self.0.get_mut(usize::from(number)) {
                None => self.0.push(Lane::new(now, rates, shards)),
                Some(lane) if lane.rates != rates => {
                    (lane.rates, lane.meter) = (rates, Meter::new(now, rates, shards));
                    changed.push(number);
                }
                Some(_) => {}
            }
        }
        changed
    }

    /// The lane of a listener, which must exist.
    pub(in crate::broker) fn of(&mut self, listener: u16) -> &mut Lane {
        &mut self.0[usize::from(listener)]
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.0.iter_mut().for_each(Lane::give_memory_back);
    }
}

/// The rate state of a connection whose listener has rates. It begins with the amount of one second.
#[derive(Debug)]
pub(in crate::broker) struct Pace {
    rates: Rates,
    meter: Meter,
    /// Runs while the connection waits for its own bucket.
    timer: Option<TimerId>,
    /// Whether the log has a line about it.
    is_logged: bool,
}

/// The bucket of a listener's clients on this shard, and the connections that wait for it.
#[derive(Debug)]
pub(in crate::broker) struct Lane {
    rates: Rates,
    meter: Meter,
    /// In the order in which they were paused.
    waiting: VecDeque<Waiting>,
    /// The number of them that have ended.
    gone: usize,
    /// Runs while connections wait.
    timer: Option<TimerId>,
    turn: Option<LaneTurn>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    connection: ConnectionKey,
    /// The cost of its next packet.
    cost: Cost,
}

/// A connection that continues, how much it must leave to the others, and whether its first packet is still
/// to come.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct LaneTurn {
    pub slot: ConnectionSlot,
    floor: Levels,
    is_first: bool,
}

impl Lane {
    fn new(now: Time, rates: Rates, shards: usize) -> Lane {
        Lane {
            rates,
            meter: Meter::new(now, rates, shards),
            waiting: VecDeque::new(),
            gone: 0,
            timer: None,
            turn: None,
        }
    }

    fn give_memory_back(&mut self) {
        self.waiting.shrink_to_fit();
    }

    /// Whether a packet may pass now. If not, the error is the unit that it lacks.
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
            // No packet overtakes connections that wait.
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

    /// The amount that each waiting connection may take now.
    pub(in crate::broker) fn part(&self) -> Levels {
        self.meter.part(self.waiting())
    }

    /// The next turn, if there is enough for its first packet. It may take this part.
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

    /// Adds a connection that waits for the bucket with this packet.
    pub(in crate::broker) fn wait(&mut self, connection: ConnectionKey, cost: Cost) {
        self.waiting.push_back(Waiting { connection, cost });
    }

    /// When there is enough for the first waiting connection, if a timer must be started for it.
    pub(in crate::broker) fn next_timer(&self) -> Option<Time> {
        let front = self.waiting.front().filter(|_| self.timer.is_none())?;
        Some(self.meter.ready_at(front.cost))
    }

    /// Notes the timer that was started.
    pub(in crate::broker) fn set_timer(&mut self, timer: TimerId) {
        self.timer = Some(timer);
    }

    /// The timer that runs, which does not count any more.
    pub(in crate::broker) fn take_timer(&mut self) -> Option<TimerId> {
        self.timer.take()
    }

    /// Notes that the timer has fired.
    pub(in crate::broker) fn note_fired(&mut self, now: Time) {
        self.timer = None;
        self.meter.fill(now);
    }

    /// Ends the turn.
    pub(in crate::broker) fn end_turn(&mut self) {
        self.turn = None;
    }

    /// The number of waiting connections.
    pub(in crate::broker) fn waiting(&self) -> usize {
        self.waiting.len() - self.gone
    }

    /// The number of list entries, and of those that have ended.
    #[cfg(all(test, feature = "runtime"))]
    pub(in crate::broker) fn listed(&self) -> (usize, usize) {
        (self.waiting.len(), self.gone)
    }

    /// Removes ended connections from the front.
    pub(in crate::broker) fn drop_gone(&mut self, is_here: impl Fn(ConnectionKey) -> bool) {
        while self.waiting.front().is_some_and(|front| !is_here(front.connection)) {
            self.waiting.pop_front();
            self.gone -= 1;
        }
    }

    /// Notes that a waiting connection has ended. It stays in the list until most entries have ended.
    pub(in crate::broker) fn note_gone(&mut self, is_here: impl Fn(ConnectionKey) -> bool) {
        self.gone += 1;
        if self.gone * 2 > self.waiting.len() {
            self.waiting.retain(|waiting| is_here(waiting.connection));
            self.gone = 0;
        }
    }
}

impl Pace {
    /// The pace of a client that is accepted now.
    pub(in crate::broker) fn new(now: Time, terms: &Terms) -> Pace {
        let rates = rates_of_client(terms);
        Pace { rates, meter: Meter::new(now, rates, 1), timer: None, is_logged: false }
    }

    /// Sets the rates. Returns whether they are new; the bucket is full then.
    pub(in crate::broker) fn change(&mut self, now: Time, terms: &Terms) -> bool {
        let rates = rates_of_client(terms);
        let is_new = rates != self.rates;
        if is_new {
            (self.rates, self.meter) = (rates, Meter::new(now, rates, 1));
        }
        is_new
    }

    /// The unit that a packet lacks now, and when there will be enough.
    pub(in crate::broker) fn lacks(&mut self, now: Time, cost: Cost) -> Option<(RateMeasure, Time)> {
        self.meter.fill(now);
        self.meter.lacks(cost).map(|measure| (measure, self.meter.ready_at(cost)))
    }

    /// Takes the cost of a packet.
    pub(in crate::broker) fn take(&mut self, cost: Cost) {
        self.meter.take(cost);
    }

    /// The timer that runs while the connection waits for its own bucket.
    pub(in crate::broker) fn timer(&mut self) -> &mut Option<TimerId> {
        &mut self.timer
    }

    /// Whether the log must have a line about it. True once.
    pub(in crate::broker) fn tell(&mut self) -> bool {
        !std::mem::replace(&mut self.is_logged, true)
    }
}

fn rates_of_client(terms: &Terms) -> Rates {
    Rates {
        messages_per_second: terms.client_messages_per_second,
        bytes_per_second: terms.client_bytes_per_second,
    }
}

impl From<&Terms> for Rates {
    /// The rates of all clients of a listener together.
    fn from(terms: &Terms) -> Rates {
        Rates { messages_per_second: terms.messages_per_second, bytes_per_second: terms.bytes_per_second }
    }
}
