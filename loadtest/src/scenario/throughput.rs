//! `fan-out`, `pairs` and `fan-in`: the same traffic with three plans.

use std::time::Duration;

use super::{Moment, Stage};
use crate::cli::{Common, FanIn, FanOut, Load, Pairs};
use crate::fleet::join;
use crate::report::Report;
use crate::traffic::{Pace, Plan, PublisherPlan, SubscriberPlan, Traffic};

pub(super) fn fan_out(flags: &FanOut) -> Result<Report, String> {
    let (publishers, subscribers) = (flags.publishers, flags.subscribers);
    let shape = |prefix: &str| Shape {
        topics: (0..publishers).map(|at| format!("{prefix}/out/{at}")).collect(),
        subscribers: (0..subscribers)
            .map(|_| SubscriberPlan { filters: vec![format!("{prefix}/out/+")], streams: 0..publishers })
            .collect(),
        publishers: (0..publishers)
            .map(|at| PublisherPlan { streams: at..at + 1, fan_out: subscribers })
            .collect(),
    };
    let sizes = vec![("publishers", publishers.to_string()), ("subscribers", subscribers.to_string())];
    run("fan-out", sizes, &flags.load, &flags.common, shape)
}

pub(super) fn pairs(flags: &Pairs) -> Result<Report, String> {
    let pairs = flags.pairs;
    let shape = |prefix: &str| {
        let topics: Vec<String> = (0..pairs).map(|at| format!("{prefix}/pair/{at}")).collect();
        Shape {
            subscribers: (0..pairs)
                .map(|at| SubscriberPlan { filters: vec![topics[at as usize].clone()], streams: at..at + 1 })
                .collect(),
            publishers: (0..pairs).map(|at| PublisherPlan { streams: at..at + 1, fan_out: 1 }).collect(),
            topics,
        }
    };
    run("pairs", vec![("pairs", pairs.to_string())], &flags.load, &flags.common, shape)
}

pub(super) fn fan_in(flags: &FanIn) -> Result<Report, String> {
    let publishers = flags.publishers;
    let shape = |prefix: &str| Shape {
        topics: (0..publishers).map(|at| format!("{prefix}/in/{at}")).collect(),
        subscribers: vec![SubscriberPlan { filters: vec![format!("{prefix}/in/+")], streams: 0..publishers }],
        publishers: (0..publishers).map(|at| PublisherPlan { streams: at..at + 1, fan_out: 1 }).collect(),
    };
    run("fan-in", vec![("publishers", publishers.to_string())], &flags.load, &flags.common, shape)
}

struct Shape {
    topics: Vec<String>,
    subscribers: Vec<SubscriberPlan>,
    publishers: Vec<PublisherPlan>,
}

fn run(
    name: &'static str,
    sizes: Vec<(&'static str, String)>,
    load: &Load,
    common: &Common,
    shape: impl FnOnce(&str) -> Shape,
) -> Result<Report, String> {
    let connections: usize = sizes
        .iter()
        .map(|(size, count)| count.parse::<usize>().unwrap_or(0) * if *size == "pairs" { 2 } else { 1 })
        .sum();
    let mut stage = Stage::set(common, connections + 1, 0, 0)?;
    let Shape { topics, subscribers, publishers } = shape(&format!("lt/{:08x}", stage.run));
    let plan = Plan {
        identity: stage.identity.clone(),
        qos: load.qos,
        payload: load.payload,
        run: stage.run,
        topics,
        subscribers,
        publishers,
    };
    let pace = match load.rate {
        Some(per_second) => Pace::Open { per_second },
        None => Pace::Closed { window: load.window, burst: load.burst },
    };
    let mut traffic = Traffic::new(plan, pace);
    let (subscribers, clients) = (traffic.subscriber_count(), traffic.client_count());
    for ids in [0..subscribers, subscribers..clients] {
        join(&mut stage.net, &mut traffic, ids, common.connecting, stage.clock, &mut stage.progress)?;
    }
    let mut report = Report::new(name, [sizes, load.settings(), common.settings()].concat());
    measure(&mut stage, &mut traffic, load, &mut report)?;
    Ok(report)
}

/// Warms up, measures, drains, and verifies that nothing is missing.
fn measure(stage: &mut Stage, traffic: &mut Traffic, load: &Load, report: &mut Report) -> Result<(), String> {
    let connected = stage.memory()?;
    let mut last = Last::default();
    let stall_nanos = nanos(load.stall);
    traffic.start(stage.clock.now());
    let warm = stage.clock.now() + nanos(load.warm_up);
    drive(stage, traffic, warm, stall_nanos, "warming up", &mut last)?;

    let start = Moment::now(stage)?;
    let (published, delivered, reads) = (traffic.published, traffic.delivered, traffic.reads);
    traffic.record(true);
    drive(stage, traffic, start.nanos + nanos(load.seconds), stall_nanos, "measuring", &mut last)?;
    let end = Moment::now(stage)?;
    traffic.record(false);
    let (published, delivered) = (traffic.published - published, traffic.delivered - delivered);
    let reads = traffic.reads - reads;

    let behind = traffic.behind_schedule();
    traffic.stop();
    while !traffic.is_drained() && !last.is_stalled(stage.clock.now(), traffic, stall_nanos) {
        step(stage, traffic, None, "draining")?;
    }
    traffic.settle();
    let loaded = stage.memory()?;
    leave(stage, traffic.client_count())?;
    let left = stage.memory()?;

    let wall_seconds = (end.nanos - start.nanos) as f64 / 1e9;
    end.report(&start, delivered, "us per delivery", report);
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
    if let (Some(before), Some(connected), Some(loaded), Some(left)) = (stage.before, connected, loaded, left)
    {
        report.broker_memory(&[
            ("broker_memory_before_kib", "broker memory, before", before),
            ("broker_memory_connected_kib", "  all connected", connected),
            ("broker_memory_loaded_kib", "  after the load", loaded),
            ("broker_memory_left_kib", "  all disconnected", left),
        ]);
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
    report.course("deliveries", stage.progress.timeline());
    report.faults = traffic.faults;
    report.details.clone_from(&traffic.details);
    Ok(())
}

/// A schedule that ends further behind than this was not kept.
const BEHIND_SECONDS_MAX: f64 = 0.1;

/// When something was delivered last.
#[derive(Default)]
struct Last {
    delivered: u64,
    nanos: u64,
    stalled: bool,
}

impl Last {
    fn is_stalled(&mut self, now: u64, traffic: &Traffic, stall_nanos: u64) -> bool {
        if traffic.delivered != self.delivered || self.nanos == 0 {
            (self.delivered, self.nanos) = (traffic.delivered, now);
        }
        if now - self.nanos > stall_nanos {
            // A slow schedule is no stall: something has to be on its way.
            self.stalled = !traffic.is_drained();
            self.nanos = if self.stalled { self.nanos } else { now };
        }
        self.stalled
    }
}

fn drive(
    stage: &mut Stage,
    traffic: &mut Traffic,
    until: u64,
    stall_nanos: u64,
    what: &str,
    last: &mut Last,
) -> Result<(), String> {
    while stage.clock.now() < until && !last.is_stalled(stage.clock.now(), traffic, stall_nanos) {
        step(stage, traffic, Some(until), what)?;
    }
    Ok(())
}

/// One turn: send what is due, wait for sockets, take what they have.
fn step(stage: &mut Stage, traffic: &mut Traffic, until: Option<u64>, what: &str) -> Result<(), String> {
    const WAIT_NANOS_MAX: u64 = 100_000_000;
    let now = stage.clock.now();
    let due = traffic.advance(now);
    traffic.pump(&mut stage.net, now);
    let wake = [due, until, Some(now + WAIT_NANOS_MAX)].into_iter().flatten().min().unwrap_or(now);
    let timeout = Duration::from_nanos(wake.saturating_sub(stage.clock.now()));
    stage.net.poll(timeout, traffic).map_err(|error| error.to_string())?;
    stage.progress.turn(now, traffic.delivered, || {
        let left = until
            .map_or(String::new(), |until| format!(", {:.0} s left", until.saturating_sub(now) as f64 / 1e9));
        let (published, delivered) = (traffic.published, traffic.delivered);
        let faults = traffic.faults.total();
        format!("{what}{left}: {published} published, {delivered} delivered, {faults} faults")
    });
    Ok(())
}

/// Disconnects everyone and lets the broker clean up, so that the memory it keeps can be seen.
fn leave(stage: &mut Stage, clients: usize) -> Result<(), String> {
    for id in 0..clients {
        stage.net.send(id, crate::wire::put_disconnect);
        stage.net.close(id);
    }
    if stage.broker_pid.is_some() {
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}
