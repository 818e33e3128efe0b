//! How many messages each connection carries a second, averaged over one and five minutes.
//!
//! Connections count their messages anyway. Now and then the shard visits them all, some in each turn, and compares the
//! counts with those of the visit before. Nothing is done when a message passes, and an idle shard is not woken.

use crate::base::{ConnectionSlot, Time};
use crate::broker::questions::ClientLoad;

/// The time between two rounds over all connections.
const ROUND_MILLIS: u64 = 5000;
/// The periods of the averages in seconds.
const SPANS: [f32; 2] = [60.0, 300.0];

/// See the module.
#[derive(Default)]
pub(in crate::broker) struct Loads {
    /// By slot of the connection.
    samples: Vec<Sample>,
    /// The next slot of this round. `None` between two rounds.
    next: Option<u32>,
    began: Time,
    /// The time from the beginning of the round before to that of this one.
    seconds: f32,
}

/// What was seen of a connection.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    serial: u32,
    /// The lower halves of the counts.
    received: u32,
    sent: u32,
    received_per_second: [f32; SPANS.len()],
    sent_per_second: [f32; SPANS.len()],
}

const _: () = assert!(size_of::<Sample>() <= 28);

/// What a visit sees of a connection.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct LoadSeen {
    /// Distinguishes it from an earlier connection in the same slot.
    pub serial: u32,
    /// The number of messages that came from the client.
    pub received: u64,
    /// The number of messages that went to it.
    pub sent: u64,
}

impl Loads {
    /// The slot at which the round goes on or begins, if one is due.
    #[inline(always)]
    pub(in crate::broker) fn due(&self, now: Time) -> Option<u32> {
        match self.next {
            Some(next) => Some(next),
            None => (now.millis_since(self.began) >= ROUND_MILLIS).then_some(0),
        }
    }

    /// Begins a round over this many slots.
    pub(in crate::broker) fn begin(&mut self, now: Time, slots: u32) {
        self.seconds = now.millis_since(self.began) as f32 / 1000.0;
        self.began = now;
        // Slots beyond these are free.
        self.samples.resize(slots as usize, Sample::default());
    }

    /// Notes where the round goes on. `None`: it is complete.
    pub(in crate::broker) fn go_on_at(&mut self, next: Option<u32>) {
        self.next = next;
    }

    /// Visits a connection.
    pub(in crate::broker) fn visit(&mut self, slot: ConnectionSlot, seen: LoadSeen) {
        // One that has opened since the round began waits for the next.
        let Some(sample) = self.samples.get_mut(slot.at()) else { return };
        if sample.serial != seen.serial {
            *sample = Sample { serial: seen.serial, ..Sample::default() };
        }
        // The counts may pass the end of their lower halves.
        let (received, sent) = (seen.received as u32, seen.sent as u32);
        let grown = [received.wrapping_sub(sample.received), sent.wrapping_sub(sample.sent)];
        (sample.received, sample.sent) = (received, sent);
        for (rates, grown) in
            [&mut sample.received_per_second, &mut sample.sent_per_second].into_iter().zip(grown)
        {
            let rate = grown as f32 / self.seconds.max(0.001);
            for (average, span) in rates.iter_mut().zip(SPANS) {
                *average = rate + (*average - rate) * (-self.seconds / span).exp();
            }
        }
    }

    /// The averages of a connection. Zero if it was not visited yet.
    pub(in crate::broker) fn of(&self, now: Time, slot: ConnectionSlot, serial: u32) -> ClientLoad {
        let Some(sample) = self.samples.get(slot.at()).filter(|sample| sample.serial == serial) else {
            return ClientLoad::default();
        };
        // A shard that sleeps carries nothing.
        let quiet = (now.millis_since(self.began).saturating_sub(ROUND_MILLIS)) as f32 / 1000.0;
        let now_of = |rates: [f32; SPANS.len()]| {
            let mut rates = rates;
            for (rate, span) in rates.iter_mut().zip(SPANS) {
                *rate *= (-quiet / span).exp();
            }
            rates
        };
        let ([received_1, received_5], [sent_1, sent_5]) =
            (now_of(sample.received_per_second), now_of(sample.sent_per_second));
        ClientLoad { received_1, received_5, sent_1, sent_5 }
    }

    pub(in crate::broker) fn give_memory_back(&mut self, slots: usize) {
        self.samples.truncate(slots);
        self.samples.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: ConnectionSlot = ConnectionSlot::new(3);

    fn round(loads: &mut Loads, seconds: u64, seen: LoadSeen) {
        let now = Time::from_millis(seconds * 1000);
        assert_eq!(loads.due(now), Some(0));
        loads.begin(now, 8);
        loads.visit(SLOT, seen);
        loads.go_on_at(None);
        assert_eq!(loads.due(now), None);
    }

    #[test]
    fn a_steady_rate_is_reached_and_decays_also_while_the_shard_sleeps() {
        let mut loads = Loads::default();
        for at in 1..=400u64 {
            round(&mut loads, at * 5, LoadSeen { serial: 1, received: at * 50, sent: at * 5 });
        }
        let now = Time::from_millis(400 * 5000);
        let load = loads.of(now, SLOT, 1);
        assert!((load.received_1 - 10.0).abs() < 0.1 && (load.received_5 - 10.0).abs() < 0.2, "{load:?}");
        assert!((load.sent_1 - 1.0).abs() < 0.01, "{load:?}");
        let later = loads.of(now.after_seconds(65), SLOT, 1);
        assert!((later.received_1 - 10.0 / std::f32::consts::E).abs() < 0.1, "{later:?}");
    }

    #[test]
    fn counts_may_pass_the_end_of_32_bits() {
        let mut loads = Loads::default();
        let end = u64::from(u32::MAX);
        round(&mut loads, 5, LoadSeen { serial: 1, received: end - 10, sent: 0 });
        let before = loads.of(Time::from_millis(5000), SLOT, 1).received_1;
        round(&mut loads, 10, LoadSeen { serial: 1, received: end + 40, sent: 0 });
        let after = loads.of(Time::from_millis(10_000), SLOT, 1).received_1;
        assert!(after < before, "{after} is not more than {before}");
    }

    #[test]
    fn a_new_connection_in_a_slot_has_nothing_of_the_old_one() {
        let mut loads = Loads::default();
        round(&mut loads, 10, LoadSeen { serial: 1, received: 1000, sent: 0 });
        let now = Time::from_millis(10_000);
        assert!(loads.of(now, SLOT, 1).received_1 > 0.0);
        assert_eq!(loads.of(now, SLOT, 2), ClientLoad::default());
        round(&mut loads, 20, LoadSeen { serial: 2, received: 0, sent: 0 });
        assert_eq!(loads.of(Time::from_millis(20_000), SLOT, 2).received_1, 0.0);
        loads.give_memory_back(0);
        assert_eq!(loads.of(now, SLOT, 2), ClientLoad::default());
    }
}
