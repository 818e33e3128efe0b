//! Clocks that are set, by seconds, hours and decades, in both directions, while the broker runs and while it
//! is down. Also messages with an expiry, which must count the time that passes.
//!
//! The machine's steady clock is the simulation's own. The random values here are drawn separately, so that
//! the other actions of a seed do not change.

use crate::model::{Model, Publication};
use crate::plan::{Action, Plan, Planned, TOPICS};
use crate::random::{self, Random};
use midge::base::Time;
use midge::store::{ClockReading, STEP_MILLIS_MIN};
use midge_kit::codec::Packet;
use midge_kit::codec::{MESSAGE_EXPIRY, Version};
use std::cell::Cell;

const SECOND: u64 = 1_000_000;
const HOUR_MILLIS: u64 = 3_600_000;

/// Milliseconds since 1970 at the zero of the simulation.
const BEGIN_MILLIS: u64 = 1_800_000_000_000;

/// A wall clock before 2025 counts as never set.
const SET_MILLIS_MIN: u64 = 1_735_689_600_000;

/// The clocks of the machine.
pub struct Clocks {
    /// The error of the wall clock.
    wrong_millis: i64,
    boot: u64,
    booted_at: u64,
    /// The times at which it was set in this run of the broker, and its errors before.
    sets: Vec<(u64, i64)>,
    /// The error that the disk knows for certain, at the end of the last run.
    known_millis: i64,
    /// Whether it was set in the last moments, so that the disk may or may not know.
    is_doubtful: bool,
    /// The times at which the machine was restarted.
    machine_starts: Vec<u64>,
    /// The zero of the broker's clock, in the simulation's time.
    pub zero: u64,
    /// The times at which the broker has started since without knowing how long it was down.
    pub lost_at: Vec<u64>,
    is_set: bool,
    rng: Random,
}

/// Whether clocks are set with this seed.
fn has_clocks(seed: u64) -> bool {
    seed % 3 == 1
}

impl Clocks {
    pub fn new(seed: u64) -> Clocks {
        let (is_set, mut rng) = (has_clocks(seed), random::of_seed(seed ^ 0x63_6c6f_636b));
        let wrong_millis = if is_set && rng.chance(500) { a_step(&mut rng) } else { 0 };
        Clocks {
            wrong_millis,
            boot: 1,
            booted_at: 0,
            sets: Vec::new(),
            known_millis: wrong_millis,
            is_doubtful: false,
            machine_starts: Vec::new(),
            zero: 0,
            lost_at: Vec::new(),
            is_set,
            rng,
        }
    }

    pub fn time(&self, now: u64) -> Time {
        Time::from_micros(now - self.zero)
    }

    pub fn reading(&self, now: u64) -> ClockReading {
        ClockReading {
            wall_millis: (BEGIN_MILLIS + now / 1000).saturating_add_signed(self.wrong_millis),
            boot: self.boot,
            boot_millis: (now - self.booted_at) / 1000,
        }
    }

    /// Starts the broker: its clock begins at zero, and what happened to the machine's clock in the meantime
    /// is drawn. Returns a description.
    pub fn start(&mut self, now: u64, down: u64) -> String {
        self.zero = now - 1000;
        if !self.is_set {
            return String::new();
        }
        let machine_starts = self.rng.chance(500);
        let mut step = if self.rng.chance(500) { a_step(&mut self.rng) } else { 0 };
        if machine_starts {
            // No machine can know whether it was off for so long or its clock is ahead. Up to a day counts.
            step = step.saturating_add(self.wrong_millis).min(self.known_millis) - self.wrong_millis;
            (self.boot, self.booted_at) = (self.boot + 1, now - down.min(1000));
            let was_set = BEGIN_MILLIS.saturating_add_signed(self.known_millis) >= SET_MILLIS_MIN;
            self.machine_starts.push(now);
            if self.wrong_millis + step != self.known_millis || !was_set || self.is_doubtful {
                self.lost_at.push(now);
            }
        }
        self.wrong_millis = self.wrong_millis.saturating_add(step);
        self.sets.clear();
        format!(", the wall clock set by {step} ms, the machine started anew: {machine_starts}")
    }

    /// Cuts the power. The disk may lack what was written in the last moments, and more if it was full or had
    /// failed.
    pub fn stop(&mut self, now: u64, is_disk_sound: bool, noted: &[Noted]) {
        // A shard that has nothing to do has no turn. It records a step in its next turn.
        let is_noted = |at: u64| noted.iter().all(|noted| noted.at >= at && noted.at + SECOND <= now);
        let lost = self.sets.iter().filter(|&&(at, _)| !is_disk_sound || at + SECOND > now || !is_noted(at));
        self.is_doubtful = lost.clone().next().is_some();
        self.known_millis = lost.map(|&(_, before)| before).chain([self.wrong_millis]).min().unwrap_or(0);
    }

    pub fn set(&mut self, now: u64, step_millis: i64) {
        self.sets.push((now, self.wrong_millis));
        self.wrong_millis = self.wrong_millis.saturating_add(step_millis);
    }
}

/// The wall clock as a host has last seen it, and since when.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noted {
    wrong_millis: i64,
    at: u64,
}

/// The host of a shard reads the clocks.
pub fn look(noted: &Cell<Noted>, clocks: &Clocks, now: u64) {
    if noted.get().at == 0 || noted.get().wrong_millis.abs_diff(clocks.wrong_millis) >= STEP_MILLIS_MIN {
        noted.set(Noted { wrong_millis: clocks.wrong_millis, at: now });
    }
}

fn a_step(rng: &mut Random) -> i64 {
    let decade = 10 * 365 * 24 * HOUR_MILLIS;
    let most = rng.pick(&[5000, 3 * HOUR_MILLIS, 60 * HOUR_MILLIS, decade]);
    let step = rng.range(0..=most).cast_signed();
    if rng.chance(500) { step } else { -step }
}

/// Adds the times at which clocks are set.
pub fn add_to(plan: &mut Plan) {
    let mut rng = random::of_seed(plan.seed ^ 0x73_6574);
    let last = plan.actions.iter().map(|planned| planned.at).max().unwrap_or(0);
    if !has_clocks(plan.seed) || last == 0 {
        return;
    }
    for _ in 0..rng.range(0..=4) {
        let action = Action::SetClock { step_millis: a_step(&mut rng) };
        plan.actions.push(Planned { at: rng.below(last), client: 0, action });
    }
}

/// The Message Expiry Interval in seconds of a publication of a 5.0 client: none, one that is longer than any
/// run, or a short one.
pub fn expiry_of(seed: u64, number: u64, topic: &str, retain: bool) -> Option<u32> {
    let mut rng = random::of_seed(seed ^ number << 20 ^ 0x65_7870);
    if !rng.chance(400) {
        return None;
    }
    let may_be_brief = !retain && TOPICS[..4].contains(&topic);
    if may_be_brief && rng.chance(400) {
        return Some(rng.range(1..=6) as u32);
    }
    Some(if retain { 3600 } else { rng.pick(&[3600, 90_000]) })
}

/// Whether the message may expire during the run.
pub fn is_brief(seed: u64, number: u64, publication: &Publication, version: Version) -> bool {
    let expiry = expiry_of(seed, number, &publication.topic, publication.retain);
    version == Version::V5 && !publication.is_will && expiry.is_some_and(|seconds| seconds < 3600)
}

/// Checks a PUBLISH to a 5.0 client against the time that has passed. Its interval must be the publisher's
/// minus that time, and sending must not begin after it. `[MQTT5-3.3.2-5]` `[MQTT5-3.3.2-6]`
pub fn check_expiry(
    (seed, version): (u64, Version),
    (model, clocks): (&Model, &Clocks),
    (number, packet): (u64, &Packet),
    now: u64,
) -> Result<(), String> {
    let Some(publication) = model.publication(number) else { return Ok(()) };
    let expiry = expiry_of(seed, number, &publication.topic, publication.retain);
    let expiry = expiry.filter(|_| version == Version::V5 && !publication.is_will);
    let (Some(seconds), Some(told)) = (expiry, packet.number(MESSAGE_EXPIRY)) else {
        let agrees = expiry.is_none() == packet.number(MESSAGE_EXPIRY).is_none();
        return if agrees { Ok(()) } else { Err(format!("m{number} with an expiry that is not its own")) };
    };
    if told > seconds {
        return Err(format!("m{number} with {told} s of {seconds}: its expiry has grown"));
    }
    let (Some(first), Some(last)) = (publication.first(), publication.last()) else { return Ok(()) };
    let whole = u64::from(seconds) * SECOND;
    // The log does not record differences of a few milliseconds.
    let slack = 5000;
    // A step below a second is not recorded, and changes the measured downtime by as much.
    let off = clocks.machine_starts.iter().filter(|&&start| start > first).count() as u64 * SECOND;
    let most = (last + whole + GRACE_OF_EXPIRY + off).saturating_sub(now).div_ceil(SECOND);
    let least = (first + whole).saturating_sub(now + slack + off) / SECOND;
    if u64::from(told) < least {
        return Err(format!("m{number} with {told} s instead of {least}: some were lost"));
    }
    if clocks.lost_at.iter().any(|&lost| lost > first) {
        return Ok(());
    }
    if u64::from(told) > most {
        return Err(format!("m{number} with {told} s instead of {most}: some were not counted"));
    }
    if !packet.duplicate && last + whole + GRACE_OF_EXPIRY < now {
        return Err(format!("m{number}, which has expired"));
    }
    Ok(())
}

/// The sending of a message that has begun is completed, however long the network and the log take. Its
/// interval counts until it begins: a message behind a CONNACK that waits for the disk already contains the
/// rest of its interval. "If the Message Expiry Interval has passed and the Server has not managed to start
/// onward delivery" (3.3.2.3.3) refers to the beginning, too.
const GRACE_OF_EXPIRY: u64 = 700_000;
