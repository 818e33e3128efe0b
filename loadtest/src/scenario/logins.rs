//! `logins`: steady pairs, watched in calm stretches and in stretches in which clients log in beside
//! them at a fixed rate. A broker that checks passwords slowly, as it should, must not let the
//! others wait for it.

use hdrhistogram::Histogram;

use super::storm::{ConnectSchedule, SOURCES, ShortConnections};
use super::throughput::Topology;
use super::{Runner, Snapshot, Stall, nanos};
use crate::codec::{self, Packet};
use crate::connector::join;
use crate::flags::Logins;
use crate::net::{Closed, Handler, Next};
use crate::plan::{Pace, Plan, PublisherPlan, SubscriberPlan, one_filter};
use crate::report::{Report, histogram};
use crate::traffic::Traffic;

/// Logins without an answer for so long never get one. Passwords are slow to check on purpose, and
/// --concurrency of them may wait for two cores.
const PATIENCE_NANOS: u64 = 120_000_000_000;

pub(super) fn run(flags: &Logins) -> Result<Report, String> {
    let (pairs, slots) = (flags.pairs as usize, flags.concurrency as usize);
    let mut runner = Runner::set(&flags.common, 2 * pairs + slots, SOURCES, 60)?;
    let Topology { topics, subscribers, publishers, shared } = shape(&runner, flags.pairs);
    let plan = Plan {
        identity: runner.identity.clone(),
        qos: flags.qos,
        payload: flags.payload,
        run: runner.run,
        topics,
        subscribers,
        publishers,
        shared,
        kept: false,
        batch: 1,
    };
    let mut traffic = Traffic::new(plan, Pace::Open { per_second: flags.rate });
    let (connecting, clock) = (flags.common.connecting, runner.clock);
    join(&mut runner.net, &mut traffic, 0..2 * pairs, connecting, clock, &mut runner.progress)?;
    let dial = ShortConnections::new(runner.identity.clone(), 2 * pairs, slots);
    let mut both = PairsAndLogins { traffic, dial, first: 2 * pairs };
    let (mut calm, mut busy) = (Periods::new(), Periods::new());

    both.traffic.start(runner.clock.now());
    for _ in 0..flags.rounds {
        stretch(&mut runner, &mut both, flags, None, &mut calm)?;
        let schedule = ConnectSchedule { start: runner.clock.now(), per_second: flags.logins };
        both.dial.started = 0;
        stretch(&mut runner, &mut both, flags, Some(schedule), &mut busy)?;
    }
    both.traffic.stop();
    let mut stall = Stall::new(runner.clock.now(), flags.stall);
    while !both.traffic.is_drained() && !stall.is_over(runner.clock.now(), both.traffic.delivered) {
        step(&mut runner, &mut both, None, u64::MAX, "draining")?;
    }
    for ids in [pairs..2 * pairs, 0..pairs] {
        both.traffic.faults.unanswered += runner.look_again(&mut both, ids, flags.stall)?;
    }
    both.traffic.settle();
    for id in 0..2 * pairs {
        runner.net.send(id, codec::put_disconnect);
        runner.net.close(id);
    }
    Ok(report(flags, &runner, both, &calm, busy))
}

fn shape(runner: &Runner, pairs: u32) -> Topology {
    let topic = |at| format!("lt/{:08x}/beside/{at}", runner.run);
    Topology {
        topics: (0..pairs).map(topic).collect(),
        subscribers: (0..pairs).map(|at| SubscriberPlan::of(one_filter(topic(at)), at..at + 1)).collect(),
        publishers: (0..pairs).map(|at| PublisherPlan::one(at, 1)).collect(),
        shared: false,
    }
}

/// All stretches of one kind together.
struct Periods {
    latency: Histogram<u64>,
    seconds: f64,
    delivered: u64,
    accepted: u64,
    /// Logins that were due in the measured time, and could not begin in it.
    behind: u64,
    broker_seconds: Option<f64>,
    own_seconds: f64,
    own_starved_seconds: f64,
}

impl Periods {
    fn new() -> Periods {
        Periods {
            latency: histogram(),
            seconds: 0.0,
            delivered: 0,
            accepted: 0,
            behind: 0,
            broker_seconds: None,
            own_seconds: 0.0,
            own_starved_seconds: 0.0,
        }
    }
}

/// Warms up and measures, with logins if there is a schedule for them, and waits for their answers.
fn stretch(
    runner: &mut Runner,
    both: &mut PairsAndLogins,
    flags: &Logins,
    schedule: Option<ConnectSchedule>,
    sum: &mut Periods,
) -> Result<(), String> {
    let what = if schedule.is_some() { "logins" } else { "calm" };
    let drive = |runner: &mut Runner, both: &mut PairsAndLogins, until: u64| {
        while runner.clock.now() < until {
            step(runner, both, schedule, until, what)?;
        }
        Ok::<(), String>(())
    };
    let warm = runner.clock.now() + nanos(flags.warm_up);
    drive(runner, both, warm)?;
    let start = Snapshot::now(runner)?;
    let (delivered, accepted) = (both.traffic.delivered, both.dial.accepted);
    std::mem::swap(&mut both.traffic.latency, &mut sum.latency);
    both.traffic.record(true);
    both.dial.recording = true;
    drive(runner, both, start.nanos + nanos(flags.seconds))?;
    both.traffic.record(false);
    std::mem::swap(&mut both.traffic.latency, &mut sum.latency);
    let end = Snapshot::now(runner)?;
    sum.seconds += (end.nanos - start.nanos) as f64 / 1e9;
    sum.delivered += both.traffic.delivered - delivered;
    sum.accepted += both.dial.accepted - accepted;
    sum.behind += schedule.map_or(0, |schedule| schedule.due(end.nanos).saturating_sub(both.dial.started));
    if let (Some(after), Some(before)) = (&end.broker, &start.broker) {
        *sum.broker_seconds.get_or_insert_default() += after.since(before).total_seconds;
    }
    let own = end.own.since(&start.own);
    sum.own_seconds += own.total_seconds;
    sum.own_starved_seconds += own.starved_seconds;

    let slots = flags.concurrency as usize;
    let patience = end.nanos + PATIENCE_NANOS;
    while both.dial.free.len() < slots && runner.clock.now() < patience {
        step(runner, both, None, patience, "waiting for logins")?;
    }
    both.dial.recording = false;
    let unanswered = slots - both.dial.free.len();
    if unanswered > 0 {
        return Err(format!("{unanswered} logins got no answer: an overloaded broker, or --concurrency"));
    }
    Ok(())
}

/// One turn: open and send what is due, wait for sockets, take what they have.
fn step(
    runner: &mut Runner,
    both: &mut PairsAndLogins,
    schedule: Option<ConnectSchedule>,
    until: u64,
    what: &str,
) -> Result<(), String> {
    let now = runner.clock.now();
    let mut wake = until;
    if schedule.is_some() {
        wake = wake.min(both.dial.open_due(&mut runner.net, runner.clock, schedule)?);
    }
    wake = wake.min(both.traffic.advance(now).unwrap_or(u64::MAX));
    both.traffic.pump(&mut runner.net, now);
    runner.wait(both, wake)?;
    runner.progress.turn(now, both.traffic.delivered, || {
        format!("{what}: {} delivered, {} logged in", both.traffic.delivered, both.dial.accepted)
    });
    Ok(())
}

fn report(flags: &Logins, runner: &Runner, both: PairsAndLogins, calm: &Periods, busy: Periods) -> Report {
    let settings = vec![
        ("pairs", flags.pairs.to_string()),
        ("rate", flags.rate.to_string()),
        ("qos", flags.qos.to_string()),
        ("payload", flags.payload.to_string()),
        ("logins", flags.logins.to_string()),
        ("concurrency", flags.concurrency.to_string()),
        ("rounds", flags.rounds.to_string()),
        ("warm-up", flags.warm_up.to_string()),
        ("seconds", flags.seconds.to_string()),
    ];
    let mut report = Report::new("logins", [settings, flags.common.settings()].concat());
    let PairsAndLogins { traffic, dial, .. } = both;
    let millis = |histogram: &Histogram<u64>, at: f64| histogram.value_at_percentile(at) as f64 / 1e6;
    for (at, keys, label) in [
        (50.0, ["calm_p50_ms", "logins_p50_ms"], "p50"),
        (99.0, ["calm_p99_ms", "logins_p99_ms"], "p99"),
        (99.9, ["calm_p999_ms", "logins_p999_ms"], "p99.9"),
    ] {
        report.figure(keys[0], label, millis(&calm.latency, at), "ms send to receive, calm", 3);
        report.figure(keys[1], "", millis(&busy.latency, at), "ms with logins", 3);
    }
    let served = busy.accepted as f64 / busy.seconds;
    report.figure("logins_offered_per_second", "logins, offered", flags.logins, "logins/s", 0);
    report.figure("logins_served_per_second", "  served", served, "logins/s", 0);
    report.figure("logins_behind", "  not begun in time", busy.behind as f64, "logins", 0);
    report.figure("login_p50_ms", "  p50", millis(&dial.latency, 50.0), "ms scheduled time to CONNACK", 1);
    report.figure("login_p99_ms", "  p99", millis(&dial.latency, 99.0), "ms scheduled time to CONNACK", 1);
    let rate = calm.delivered as f64 / calm.seconds;
    report.figure("calm_delivered_per_second", "delivered, calm", rate, "messages/s", 0);
    let rate = busy.delivered as f64 / busy.seconds;
    report.figure("delivered_per_second", "  with logins", rate, "messages/s", 0);
    if let (Some(calm_seconds), Some(busy_seconds)) = (calm.broker_seconds, busy.broker_seconds) {
        let (calm, with) = (calm_seconds / calm.seconds, busy_seconds / busy.seconds);
        report.figure("calm_broker_busy_percent", "broker busy, calm", calm * 100.0, "% of a core", 1);
        report.figure("broker_busy_percent", "  with logins", with * 100.0, "% of a core", 1);
        if served > 0.0 {
            let each = (with - calm) * 1e6 / served;
            report.figure("login_cpu_us", "  of it a login", each, "us", 1);
        }
    }
    let (own, starved) = (busy.own_seconds / busy.seconds, busy.own_starved_seconds / busy.seconds);
    report.figure("own_busy_percent", "harness busy", own * 100.0, "% of a core, with logins", 1);
    report.figure("own_starved_percent", "harness waited for a CPU", starved * 100.0, "% of the time", 1);
    report.handshakes(runner.net.handshakes());
    if served < 0.95 * flags.logins {
        report.notes.push("not all logins that were offered were served in time".to_owned());
    }
    report.latency = Some(("send to receive, with logins", busy.latency));
    report.course("deliveries", runner.progress.timeline());
    report.faults = traffic.faults;
    report.faults.protocol += dial.faults.protocol;
    report.faults.refused += dial.faults.refused;
    report.faults.closed += dial.faults.closed;
    report.details = [traffic.details, dial.details].concat();
    report
}

/// The pairs, and behind them the connections that come and go.
struct PairsAndLogins {
    traffic: Traffic,
    dial: ShortConnections,
    /// The number of the first that comes and goes.
    first: usize,
}

impl Handler for PairsAndLogins {
    fn connected(&mut self, id: usize, out: &mut Vec<u8>) {
        if id < self.first { self.traffic.connected(id, out) } else { self.dial.connected(id, out) }
    }

    fn packet(&mut self, id: usize, now: u64, packet: Packet<'_>, out: &mut Vec<u8>) -> Next {
        if id < self.first {
            self.traffic.packet(id, now, packet, out)
        } else {
            self.dial.packet(id, now, packet, out)
        }
    }

    fn writable(&mut self, id: usize) {
        if id < self.first {
            self.traffic.writable(id);
        }
    }

    fn closed(&mut self, id: usize, why: Closed) {
        if id < self.first { self.traffic.closed(id, why) } else { self.dial.closed(id, why) }
    }
}
