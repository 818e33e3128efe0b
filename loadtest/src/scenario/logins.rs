//! `logins`: pairs at a steady rate, measured in periods without logins (calm) and in periods in
//! which clients log in at a fixed rate. Checking a password is slow on purpose. The broker must
//! not delay other clients meanwhile.

use hdrhistogram::Histogram;

use super::storm::{ConnectSchedule, SOURCES, ShortConnections};
use super::throughput::Topology;
use super::{Runner, Snapshot, Stall, nanos};
use crate::codec::{self, Packet};
use crate::connector::connect_clients;
use crate::flags::Logins;
use crate::net::{Closed, Handler, Next};
use crate::plan::{Pace, Plan, PublisherPlan, SubscriberPlan, one_filter};
use crate::report::{Report, histogram};
use crate::traffic::Traffic;

/// The run fails if a login has no answer after this time. Passwords are slow to check on purpose,
/// and --concurrency logins may wait for two cores.
const TIMEOUT_NANOS: u64 = 120_000_000_000;

pub(super) fn run(flags: &Logins) -> Result<Report, String> {
    let (pairs, slots) = (flags.pairs as usize, flags.concurrency as usize);
    let mut runner = Runner::new(&flags.common, 2 * pairs + slots, SOURCES, 60)?;
    let Topology { topics, subscribers, publishers, shared } = topology(&runner, flags.pairs);
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
    connect_clients(&mut runner.net, &mut traffic, 0..2 * pairs, connecting, clock, &mut runner.progress)?;
    let logins = ShortConnections::new(runner.identity.clone(), 2 * pairs, slots);
    let mut clients = PairsAndLogins { traffic, logins, first: 2 * pairs };
    let (mut calm, mut busy) = (Periods::new(), Periods::new());

    clients.traffic.start(runner.clock.now());
    for _ in 0..flags.rounds {
        run_period(&mut runner, &mut clients, flags, None, &mut calm)?;
        let schedule = ConnectSchedule { start: runner.clock.now(), per_second: flags.logins };
        clients.logins.started = 0;
        run_period(&mut runner, &mut clients, flags, Some(schedule), &mut busy)?;
    }
    clients.traffic.stop();
    let mut stall = Stall::new(runner.clock.now(), flags.stall);
    while !clients.traffic.is_drained() && !stall.is_over(runner.clock.now(), clients.traffic.delivered) {
        step(&mut runner, &mut clients, None, u64::MAX, "draining")?;
    }
    for ids in [pairs..2 * pairs, 0..pairs] {
        clients.traffic.faults.unanswered += runner.ping_all(&mut clients, ids, flags.stall)?;
    }
    clients.traffic.count_missing();
    for id in 0..2 * pairs {
        runner.net.send(id, codec::put_disconnect);
        runner.net.close(id);
    }
    Ok(report(flags, &runner, clients, &calm, busy))
}

fn topology(runner: &Runner, pairs: u32) -> Topology {
    let topic = |at| format!("lt/{:08x}/beside/{at}", runner.run);
    Topology {
        topics: (0..pairs).map(topic).collect(),
        subscribers: (0..pairs).map(|at| SubscriberPlan::of(one_filter(topic(at)), at..at + 1)).collect(),
        publishers: (0..pairs).map(|at| PublisherPlan::one(at, 1)).collect(),
        shared: false,
    }
}

/// The sum of all periods of one kind.
struct Periods {
    latency: Histogram<u64>,
    seconds: f64,
    delivered: u64,
    accepted: u64,
    /// Logins that were due in the measured time and could not start in it.
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

/// Warms up and measures, with logins if there is a schedule for them, and waits for the answers.
fn run_period(
    runner: &mut Runner,
    clients: &mut PairsAndLogins,
    flags: &Logins,
    schedule: Option<ConnectSchedule>,
    sum: &mut Periods,
) -> Result<(), String> {
    let what = if schedule.is_some() { "with logins" } else { "without logins" };
    let drive = |runner: &mut Runner, clients: &mut PairsAndLogins, until: u64| {
        while runner.clock.now() < until {
            step(runner, clients, schedule, until, what)?;
        }
        Ok::<(), String>(())
    };
    let warm = runner.clock.now() + nanos(flags.warm_up);
    drive(runner, clients, warm)?;
    let start = Snapshot::now(runner)?;
    let (delivered, accepted) = (clients.traffic.delivered, clients.logins.accepted);
    std::mem::swap(&mut clients.traffic.latency, &mut sum.latency);
    clients.traffic.record(true);
    clients.logins.recording = true;
    drive(runner, clients, start.nanos + nanos(flags.seconds))?;
    clients.traffic.record(false);
    std::mem::swap(&mut clients.traffic.latency, &mut sum.latency);
    let end = Snapshot::now(runner)?;
    sum.seconds += (end.nanos - start.nanos) as f64 / 1e9;
    sum.delivered += clients.traffic.delivered - delivered;
    sum.accepted += clients.logins.accepted - accepted;
    sum.behind +=
        schedule.map_or(0, |schedule| schedule.due(end.nanos).saturating_sub(clients.logins.started));
    if let (Some(after), Some(before)) = (&end.broker, &start.broker) {
        *sum.broker_seconds.get_or_insert_default() += after.since(before).total_seconds;
    }
    let own = end.own.since(&start.own);
    sum.own_seconds += own.total_seconds;
    sum.own_starved_seconds += own.starved_seconds;

    let slots = flags.concurrency as usize;
    let deadline = end.nanos + TIMEOUT_NANOS;
    while clients.logins.free.len() < slots && runner.clock.now() < deadline {
        step(runner, clients, None, deadline, "waiting for logins")?;
    }
    clients.logins.recording = false;
    let unanswered = slots - clients.logins.free.len();
    if unanswered > 0 {
        return Err(format!(
            "{unanswered} logins got no answer: the broker is overloaded, or --concurrency is too high"
        ));
    }
    Ok(())
}

/// Opens and sends what is due, waits for events, and handles them.
fn step(
    runner: &mut Runner,
    clients: &mut PairsAndLogins,
    schedule: Option<ConnectSchedule>,
    until: u64,
    what: &str,
) -> Result<(), String> {
    let now = runner.clock.now();
    let mut wake = until;
    if schedule.is_some() {
        wake = wake.min(clients.logins.open_due(&mut runner.net, runner.clock, schedule)?);
    }
    wake = wake.min(clients.traffic.advance(now).unwrap_or(u64::MAX));
    clients.traffic.pump(&mut runner.net, now);
    runner.wait(clients, wake)?;
    runner.progress.update(now, clients.traffic.delivered, || {
        format!("{what}: {} delivered, {} logged in", clients.traffic.delivered, clients.logins.accepted)
    });
    Ok(())
}

fn report(flags: &Logins, runner: &Runner, clients: PairsAndLogins, calm: &Periods, busy: Periods) -> Report {
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
    let PairsAndLogins { traffic, logins, .. } = clients;
    let millis = |histogram: &Histogram<u64>, at: f64| histogram.value_at_percentile(at) as f64 / 1e6;
    for (at, keys, label) in [
        (50.0, ["calm_p50_ms", "logins_p50_ms"], "p50"),
        (99.0, ["calm_p99_ms", "logins_p99_ms"], "p99"),
        (99.9, ["calm_p999_ms", "logins_p999_ms"], "p99.9"),
    ] {
        report.figure(keys[0], label, millis(&calm.latency, at), "ms send to receive, no logins", 3);
        report.figure(keys[1], "", millis(&busy.latency, at), "ms with logins", 3);
    }
    let served = busy.accepted as f64 / busy.seconds;
    report.figure("logins_offered_per_second", "logins, offered", flags.logins, "logins/s", 0);
    report.figure("logins_served_per_second", "  served", served, "logins/s", 0);
    report.figure("logins_behind", "  not started in time", busy.behind as f64, "logins", 0);
    report.figure("login_p50_ms", "  p50", millis(&logins.latency, 50.0), "ms scheduled time to CONNACK", 1);
    report.figure("login_p99_ms", "  p99", millis(&logins.latency, 99.0), "ms scheduled time to CONNACK", 1);
    let rate = calm.delivered as f64 / calm.seconds;
    report.figure("calm_delivered_per_second", "delivered, no logins", rate, "messages/s", 0);
    let rate = busy.delivered as f64 / busy.seconds;
    report.figure("delivered_per_second", "  with logins", rate, "messages/s", 0);
    if let (Some(calm_seconds), Some(busy_seconds)) = (calm.broker_seconds, busy.broker_seconds) {
        let (calm, with) = (calm_seconds / calm.seconds, busy_seconds / busy.seconds);
        report.figure("calm_broker_busy_percent", "broker busy, no logins", calm * 100.0, "% of a core", 1);
        report.figure("broker_busy_percent", "  with logins", with * 100.0, "% of a core", 1);
        if served > 0.0 {
            let each = (with - calm) * 1e6 / served;
            report.figure("login_cpu_us", "  per login", each, "us", 1);
        }
    }
    let (own, starved) = (busy.own_seconds / busy.seconds, busy.own_starved_seconds / busy.seconds);
    report.figure("own_busy_percent", "harness busy", own * 100.0, "% of a core, with logins", 1);
    report.figure("own_starved_percent", "harness waited for a CPU", starved * 100.0, "% of the time", 1);
    report.handshakes(runner.net.handshakes());
    if served < 0.95 * flags.logins {
        report.notes.push("not all offered logins were served in time".to_owned());
    }
    report.latency = Some(("send to receive, with logins", busy.latency));
    report.timeline("deliveries", runner.progress.timeline());
    report.faults = traffic.faults;
    report.faults.protocol += logins.faults.protocol;
    report.faults.refused += logins.faults.refused;
    report.faults.closed += logins.faults.closed;
    report.details = [traffic.details, logins.details].concat();
    report
}

/// The clients of the pairs, followed by the clients that log in.
struct PairsAndLogins {
    traffic: Traffic,
    logins: ShortConnections,
    /// The number of the first client that logs in.
    first: usize,
}

impl Handler for PairsAndLogins {
    fn handle_connected(&mut self, id: usize, out: &mut Vec<u8>) {
        if id < self.first {
            self.traffic.handle_connected(id, out)
        } else {
            self.logins.handle_connected(id, out)
        }
    }

    fn handle_packet(&mut self, id: usize, now: u64, packet: Packet<'_>, out: &mut Vec<u8>) -> Next {
        if id < self.first {
            self.traffic.handle_packet(id, now, packet, out)
        } else {
            self.logins.handle_packet(id, now, packet, out)
        }
    }

    fn handle_writable(&mut self, id: usize) {
        if id < self.first {
            self.traffic.handle_writable(id);
        }
    }

    fn handle_closed(&mut self, id: usize, why: Closed) {
        if id < self.first { self.traffic.handle_closed(id, why) } else { self.logins.handle_closed(id, why) }
    }
}
