//! `fan-out`, `pairs` and `fan-in`: the same traffic with three plans; and the run that every
//! scenario with such traffic makes of its plan.

use std::time::Duration;

use super::{Moment, Stage, Stall, nanos};
use crate::cli::{Common, FanIn, FanOut, Load, Pairs};
use crate::fleet::join;
use crate::plan::{Filters, Pace, Plan, PublisherPlan, Streams, SubscriberPlan, one_filter};
use crate::report::Report;
use crate::traffic::Traffic;

pub(super) fn fan_out(flags: &FanOut) -> Result<Report, String> {
    let (publishers, subscribers) = (flags.publishers, flags.subscribers);
    let shape = |prefix: &str| {
        let reader = || SubscriberPlan::of(one_filter(format!("{prefix}/out/+")), 0..publishers);
        Shape {
            topics: (0..publishers).map(|at| format!("{prefix}/out/{at}")).collect(),
            subscribers: (0..subscribers).map(|_| reader()).collect(),
            publishers: (0..publishers).map(|at| PublisherPlan::one(at, subscribers)).collect(),
            shared: false,
        }
    };
    let sizes = vec![("publishers", publishers.to_string()), ("subscribers", subscribers.to_string())];
    let connections = publishers + subscribers;
    let (load, common) = (&flags.load, &flags.common);
    Ok(Run { name: "fan-out", sizes, connections, load, common, batch: 1 }.make(shape)?.report)
}

pub(super) fn pairs(flags: &Pairs) -> Result<Report, String> {
    let pairs = flags.pairs;
    let shape = |prefix: &str| {
        let topic = |at| format!("{prefix}/pair/{at}");
        Shape {
            topics: (0..pairs).map(topic).collect(),
            subscribers: (0..pairs).map(|at| SubscriberPlan::of(one_filter(topic(at)), at..at + 1)).collect(),
            publishers: (0..pairs).map(|at| PublisherPlan::one(at, 1)).collect(),
            shared: false,
        }
    };
    let sizes = vec![("pairs", pairs.to_string())];
    let (load, common) = (&flags.load, &flags.common);
    Ok(Run { name: "pairs", sizes, connections: 2 * pairs, load, common, batch: 1 }.make(shape)?.report)
}

pub(super) fn fan_in(flags: &FanIn) -> Result<Report, String> {
    let publishers = flags.publishers;
    let shape = |prefix: &str| Shape {
        topics: (0..publishers).map(|at| format!("{prefix}/in/{at}")).collect(),
        subscribers: vec![SubscriberPlan::of(one_filter(format!("{prefix}/in/+")), 0..publishers)],
        publishers: (0..publishers).map(|at| PublisherPlan::one(at, 1)).collect(),
        shared: false,
    };
    let sizes = vec![("publishers", publishers.to_string())];
    let (load, common) = (&flags.load, &flags.common);
    Ok(Run { name: "fan-in", sizes, connections: publishers + 1, load, common, batch: 1 }.make(shape)?.report)
}

/// Who publishes what to whom, under one prefix.
pub(super) struct Shape {
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
    /// A publisher with one stream, each message to `fan_out` subscribers.
    pub(super) fn one(stream: u32, fan_out: u32) -> PublisherPlan {
        PublisherPlan { streams: stream..stream + 1, fan_out }
    }
}

/// A run of traffic, before its shape is known.
pub(super) struct Run<'a> {
    pub(super) name: &'static str,
    pub(super) sizes: Vec<(&'static str, String)>,
    pub(super) connections: u32,
    pub(super) load: &'a Load,
    pub(super) common: &'a Common,
    /// Filters in one SUBSCRIBE.
    pub(super) batch: usize,
}

/// What a run leaves for a scenario to add to.
pub(super) struct Ran {
    pub(super) report: Report,
    pub(super) traffic: Traffic,
    /// Before anything was connected, and when all had subscribed.
    pub(super) subscribing: [Moment; 2],
}

impl Run<'_> {
    /// Connects the clients of the shape that is made with the run's prefix, measures their
    /// traffic, and verifies it.
    pub(super) fn make(self, shape: impl FnOnce(&str) -> Shape) -> Result<Ran, String> {
        let Run { load, common, .. } = self;
        let mut stage = Stage::set(common, self.connections as usize, 0, 0)?;
        let Shape { topics, subscribers, publishers, shared } = shape(&format!("lt/{:08x}", stage.run));
        let plan = Plan {
            identity: stage.identity.clone(),
            qos: load.qos,
            payload: load.payload,
            run: stage.run,
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
        let mut bring_up = |stage: &mut Stage, ids| {
            join(&mut stage.net, &mut traffic, ids, common.connecting, stage.clock, &mut stage.progress)
        };
        let before = Moment::now(&stage)?;
        bring_up(&mut stage, 0..subscribers)?;
        let subscribing = [before, Moment::now(&stage)?];
        bring_up(&mut stage, subscribers..clients)?;
        let mut report = Report::new(self.name, [self.sizes, load.settings(), common.settings()].concat());
        measure(&mut stage, &mut traffic, load, &mut report)?;
        Ok(Ran { report, traffic, subscribing })
    }
}

/// Warms up, measures, drains, and verifies that nothing is missing.
fn measure(stage: &mut Stage, traffic: &mut Traffic, load: &Load, report: &mut Report) -> Result<(), String> {
    let connected = stage.memory()?;
    let mut last = Last::default();
    let stall_nanos = nanos(load.stall);
    let slow = traffic.slow_ids();
    for &id in &slow {
        stage.net.pause(id);
    }
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
    let paused = stage.memory()?;
    catch_up(stage, traffic, &slow, load.stall)?;
    // What nobody asked for comes behind what was waited for, and is a fault all the same.
    // Publishers first: when they are answered, the broker has passed on all that they sent.
    let (subscribers, clients) = (traffic.subscriber_count(), traffic.client_count());
    for ids in [subscribers..clients, 0..subscribers] {
        traffic.faults.unanswered += stage.look_again(traffic, ids, load.stall)?;
    }
    traffic.settle();
    let loaded = stage.memory()?;
    leave(stage, traffic.client_count())?;
    let left = stage.memory()?;

    let wall_seconds = (end.nanos - start.nanos) as f64 / 1e9;
    end.report(&start, delivered, "us per delivery", report);
    report.handshakes(stage.net.handshakes());
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
    if let (false, Some(paused)) = (slow.is_empty(), paused) {
        report.broker_memory(&[("broker_memory_paused_kib", "  before the slow ones read on", paused)]);
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

/// Lets the slow subscribers read on, until they have everything or nothing comes any more.
fn catch_up(stage: &mut Stage, traffic: &mut Traffic, slow: &[usize], stall: f64) -> Result<(), String> {
    for &id in slow {
        stage.net.resume(id, traffic);
    }
    let mut stalled = Stall::new(stage.clock.now(), stall);
    while slow.iter().any(|&id| traffic.is_behind(id))
        && !stalled.is_over(stage.clock.now(), traffic.slow.delivered)
    {
        step(stage, traffic, None, "the slow ones read on")?;
    }
    Ok(())
}

/// One turn: send what is due, wait for sockets, take what they have.
fn step(stage: &mut Stage, traffic: &mut Traffic, until: Option<u64>, what: &str) -> Result<(), String> {
    let now = stage.clock.now();
    let due = traffic.advance(now);
    traffic.pump(&mut stage.net, now);
    let wake = [due, until].into_iter().flatten().min().unwrap_or(u64::MAX);
    stage.wait(traffic, wake)?;
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
