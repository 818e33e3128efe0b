//! `fan-out`, `pairs` and `fan-in`: the same traffic with three topologies. Also contains the run
//! that is common to all scenarios with such traffic.

use std::time::Duration;

use super::{Runner, Snapshot, Stall, nanos};
use crate::cli::{Common, FanIn, FanOut, Load, Pairs};
use crate::connector::connect_clients;
use crate::plan::{Filters, Pace, Plan, PublisherPlan, Streams, SubscriberPlan, one_filter};
use crate::report::Report;
use crate::traffic::Traffic;

pub(super) fn fan_out(flags: &FanOut) -> Result<Report, String> {
    let (publishers, subscribers) = (flags.publishers, flags.subscribers);
    let topology = |prefix: &str| {
        let reader = || SubscriberPlan::of(one_filter(format!("{prefix}/out/+")), 0..publishers);
        Topology {
            topics: (0..publishers).map(|at| format!("{prefix}/out/{at}")).collect(),
            subscribers: (0..subscribers).map(|_| reader()).collect(),
            publishers: (0..publishers).map(|at| PublisherPlan::one(at, subscribers)).collect(),
            shared: false,
        }
    };
    let sizes = vec![("publishers", publishers.to_string()), ("subscribers", subscribers.to_string())];
    let connections = publishers as usize + subscribers as usize;
    let (load, common) = (&flags.load, &flags.common);
    Ok(TrafficRun { name: "fan-out", sizes, connections, load, common, batch: 1 }.execute(topology)?.report)
}

pub(super) fn pairs(flags: &Pairs) -> Result<Report, String> {
    let pairs = flags.pairs;
    let topology = |prefix: &str| {
        let topic = |at| format!("{prefix}/pair/{at}");
        Topology {
            topics: (0..pairs).map(topic).collect(),
            subscribers: (0..pairs).map(|at| SubscriberPlan::of(one_filter(topic(at)), at..at + 1)).collect(),
            publishers: (0..pairs).map(|at| PublisherPlan::one(at, 1)).collect(),
            shared: false,
        }
    };
    let sizes = vec![("pairs", pairs.to_string())];
    let (load, common) = (&flags.load, &flags.common);
    Ok(TrafficRun { name: "pairs", sizes, connections: 2 * pairs as usize, load, common, batch: 1 }
        .execute(topology)?
        .report)
}

pub(super) fn fan_in(flags: &FanIn) -> Result<Report, String> {
    let publishers = flags.publishers;
    let topology = |prefix: &str| Topology {
        topics: (0..publishers).map(|at| format!("{prefix}/in/{at}")).collect(),
        subscribers: vec![SubscriberPlan::of(one_filter(format!("{prefix}/in/+")), 0..publishers)],
        publishers: (0..publishers).map(|at| PublisherPlan::one(at, 1)).collect(),
        shared: false,
    };
    let sizes = vec![("publishers", publishers.to_string())];
    let (load, common) = (&flags.load, &flags.common);
    Ok(TrafficRun { name: "fan-in", sizes, connections: publishers as usize + 1, load, common, batch: 1 }
        .execute(topology)?
        .report)
}

/// Who publishes what to whom, under one topic prefix.
pub(super) struct Topology {
    pub(super) topics: Vec<String>,
    pub(super) subscribers: Vec<SubscriberPlan>,
    pub(super) publishers: Vec<PublisherPlan>,
    pub(super) shared: bool,
}

impl SubscriberPlan {
    pub(super) fn of(filters: Filters, streams: std::ops::Range<u32>) -> SubscriberPlan {
        SubscriberPlan { filters, streams: Streams::Range(streams), slow: false }
    }
}

impl PublisherPlan {
    /// A publisher with one stream. Each message goes to `fan_out` subscribers.
    pub(super) fn one(stream: u32, fan_out: u32) -> PublisherPlan {
        PublisherPlan { streams: stream..stream + 1, fan_out }
    }
}

/// A run of traffic, before its topology is known.
pub(super) struct TrafficRun<'a> {
    pub(super) name: &'static str,
    pub(super) sizes: Vec<(&'static str, String)>,
    pub(super) connections: usize,
    pub(super) load: &'a Load,
    pub(super) common: &'a Common,
    /// Number of filters in one SUBSCRIBE.
    pub(super) batch: usize,
}

/// The result of a run. A scenario may add to it.
pub(super) struct TrafficResult {
    pub(super) report: Report,
    pub(super) traffic: Traffic,
    /// Before the first connection, and when all clients had subscribed.
    pub(super) subscribing: [Snapshot; 2],
}

impl TrafficRun<'_> {
    /// Connects the clients of the topology for the run's topic prefix, measures their traffic, and
    /// verifies it.
    pub(super) fn execute(self, topology: impl FnOnce(&str) -> Topology) -> Result<TrafficResult, String> {
        let TrafficRun { load, common, .. } = self;
        let mut runner = Runner::new(common, self.connections, 0, 0)?;
        let Topology { topics, subscribers, publishers, shared } =
            topology(&format!("lt/{:08x}", runner.run));
        let plan = Plan {
            identity: runner.identity.clone(),
            qos: load.qos,
            payload: load.payload,
            run: runner.run,
            topics,
            subscribers,
            publishers,
            shared,
            kept: load.kept,
            batch: self.batch,
        };
        let pace = match load.rate {
            Some(per_second) => Pace::Open { per_second },
            None => Pace::Closed { window: load.window, burst: load.burst },
        };
        let mut traffic = Traffic::new(plan, pace);
        let (subscribers, clients) = (traffic.subscriber_count(), traffic.client_count());
        let mut connect = |runner: &mut Runner, ids| {
            connect_clients(
                &mut runner.net,
                &mut traffic,
                ids,
                common.connecting,
                runner.clock,
                &mut runner.progress,
            )
        };
        let before = Snapshot::now(&runner)?;
        connect(&mut runner, 0..subscribers)?;
        let subscribing = [before, Snapshot::now(&runner)?];
        connect(&mut runner, subscribers..clients)?;
        let mut report = Report::new(self.name, [self.sizes, load.settings(), common.settings()].concat());
        measure(&mut runner, &mut traffic, load, &mut report)?;
        Ok(TrafficResult { report, traffic, subscribing })
    }
}

/// Warms up, measures, drains, and verifies that nothing is missing.
fn measure(
    runner: &mut Runner,
    traffic: &mut Traffic,
    load: &Load,
    report: &mut Report,
) -> Result<(), String> {
    let connected = runner.memory()?;
    let mut last = LastDelivery::default();
    let stall_nanos = nanos(load.stall);
    let slow = traffic.slow_ids();
    for &id in &slow {
        runner.net.pause(id);
    }
    traffic.start(runner.clock.now());
    let warm = runner.clock.now() + nanos(load.warm_up);
    drive(runner, traffic, warm, stall_nanos, "warming up", &mut last)?;

    let start = Snapshot::now(runner)?;
    let (published, delivered, reads) = (traffic.published, traffic.delivered, traffic.reads);
    traffic.record(true);
    drive(runner, traffic, start.nanos + nanos(load.seconds), stall_nanos, "measuring", &mut last)?;
    let end = Snapshot::now(runner)?;
    traffic.record(false);
    let (published, delivered) = (traffic.published - published, traffic.delivered - delivered);
    let reads = traffic.reads - reads;

    let behind = traffic.behind_schedule();
    traffic.stop();
    while !traffic.is_drained() && !last.is_stalled(runner.clock.now(), traffic, stall_nanos) {
        step(runner, traffic, None, "draining")?;
    }
    let paused = runner.memory()?;
    catch_up(runner, traffic, &slow, load.stall)?;
    // Unexpected messages arrive after the expected ones, and are faults too. Publishers come
    // first: when they are answered, the broker has forwarded everything that they sent.
    let (subscribers, clients) = (traffic.subscriber_count(), traffic.client_count());
    for ids in [subscribers..clients, 0..subscribers] {
        traffic.faults.unanswered += runner.ping_all(traffic, ids, load.stall)?;
    }
    traffic.count_missing();
    let loaded = runner.memory()?;
    disconnect_all(runner, traffic.client_count())?;
    let left = runner.memory()?;

    let wall_seconds = (end.nanos - start.nanos) as f64 / 1e9;
    end.report(&start, delivered, "us per delivery", report);
    report.handshakes(runner.net.handshakes());
    report.figure("published_per_second", "published", published as f64 / wall_seconds, "messages/s", 0);
    report.figure("delivered_per_second", "delivered", delivered as f64 / wall_seconds, "messages/s", 0);
    report.figure("delivered", "delivered and verified", traffic.delivered as f64, "messages in all", 0);
    if reads > 0 {
        let per_read = delivered as f64 / reads as f64;
        report.figure("deliveries_per_read", "deliveries per read", per_read, "(broker's coalescing)", 1);
    }
    if traffic.redelivered > 0 {
        report.figure("redelivered", "redelivered with DUP", traffic.redelivered as f64, "messages", 0);
    }
    if let (Some(before), Some(connected), Some(loaded), Some(left)) =
        (runner.before, connected, loaded, left)
    {
        report.broker_memory(&[
            ("broker_memory_before_kib", "broker memory, before", before),
            ("broker_memory_connected_kib", "  all connected", connected),
            ("broker_memory_loaded_kib", "  after the load", loaded),
            ("broker_memory_left_kib", "  all disconnected", left),
        ]);
    }
    if let (false, Some(paused)) = (slow.is_empty(), paused) {
        report.broker_memory(&[("broker_memory_paused_kib", "  slow ones still paused", paused)]);
    }
    if last.stalled {
        let seconds = load.stall;
        report.notes.push(format!("nothing was delivered for {seconds} s: the run ended early"));
    }
    if behind > 0 {
        report.figure("behind_schedule", "behind schedule", behind as f64, "messages at the end", 0);
    }
    if load.rate.is_some_and(|rate| behind as f64 > rate * BEHIND_SECONDS_MAX) {
        report.notes.push("not all messages could be sent when they were due (sockets full)".to_owned());
    }
    if traffic.latency.is_empty() {
        report.notes.push("nothing was delivered in the measured time".to_owned());
    } else {
        report.latency = Some(("send to receive", traffic.latency.clone()));
    }
    report.timeline("deliveries", runner.progress.timeline());
    report.faults = traffic.faults;
    report.details.clone_from(&traffic.details);
    Ok(())
}

/// If the schedule ends further behind than this, a note says so.
const BEHIND_SECONDS_MAX: f64 = 0.1;

/// When the last delivery arrived.
#[derive(Default)]
struct LastDelivery {
    delivered: u64,
    nanos: u64,
    stalled: bool,
}

impl LastDelivery {
    fn is_stalled(&mut self, now: u64, traffic: &Traffic, stall_nanos: u64) -> bool {
        if traffic.delivered != self.delivered || self.nanos == 0 {
            (self.delivered, self.nanos) = (traffic.delivered, now);
        }
        if now - self.nanos > stall_nanos {
            // A slow schedule is no stall. A stall needs messages in flight.
            self.stalled = !traffic.is_drained();
            self.nanos = if self.stalled { self.nanos } else { now };
        }
        self.stalled
    }
}

fn drive(
    runner: &mut Runner,
    traffic: &mut Traffic,
    until: u64,
    stall_nanos: u64,
    what: &str,
    last: &mut LastDelivery,
) -> Result<(), String> {
    while runner.clock.now() < until && !last.is_stalled(runner.clock.now(), traffic, stall_nanos) {
        step(runner, traffic, Some(until), what)?;
    }
    Ok(())
}

/// Lets the slow subscribers read until they have everything or nothing arrives any more.
fn catch_up(runner: &mut Runner, traffic: &mut Traffic, slow: &[usize], stall: f64) -> Result<(), String> {
    for &id in slow {
        runner.net.resume(id, traffic);
    }
    let mut stalled = Stall::new(runner.clock.now(), stall);
    while slow.iter().any(|&id| traffic.is_behind(id))
        && !stalled.is_over(runner.clock.now(), traffic.slow.delivered)
    {
        step(runner, traffic, None, "slow subscribers catching up")?;
    }
    Ok(())
}

/// Sends what is due, waits for events, and handles them.
fn step(runner: &mut Runner, traffic: &mut Traffic, until: Option<u64>, what: &str) -> Result<(), String> {
    let now = runner.clock.now();
    let due = traffic.advance(now);
    traffic.pump(&mut runner.net, now);
    let wake = [due, until].into_iter().flatten().min().unwrap_or(u64::MAX);
    runner.wait(traffic, wake)?;
    runner.progress.update(now, traffic.delivered, || {
        let left = until
            .map_or(String::new(), |until| format!(", {:.0} s left", until.saturating_sub(now) as f64 / 1e9));
        let (published, delivered) = (traffic.published, traffic.delivered);
        let faults = traffic.faults.total();
        format!("{what}{left}: {published} published, {delivered} delivered, {faults} faults")
    });
    Ok(())
}

/// Disconnects all clients, and lets the broker clean up before its memory is measured.
fn disconnect_all(runner: &mut Runner, clients: usize) -> Result<(), String> {
    for id in 0..clients {
        runner.net.send(id, crate::codec::put_disconnect);
        runner.net.close(id);
    }
    if runner.broker_pid.is_some() {
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}
