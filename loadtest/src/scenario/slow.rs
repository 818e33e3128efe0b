//! `slow`: fan-out with some subscribers that stop reading. The others are timed and verified as in
//! `fan-out`. At the end the slow subscribers read again, and the report says what the broker did
//! with them.

use super::throughput::{Topology, TrafficRun};
use crate::flags::Slow;
use crate::plan::{PublisherPlan, SubscriberPlan, one_filter};
use crate::report::Report;

pub(super) fn run(flags: &Slow) -> Result<Report, String> {
    let (publishers, subscribers, slow) = (flags.publishers, flags.subscribers, flags.slow);
    if slow >= subscribers {
        return Err("--slow must be less than --subscribers".to_owned());
    }
    let run = TrafficRun {
        name: "slow",
        sizes: vec![
            ("publishers", publishers.to_string()),
            ("subscribers", subscribers.to_string()),
            ("slow", slow.to_string()),
        ],
        connections: publishers as usize + subscribers as usize,
        load: &flags.load,
        common: &flags.common,
        batch: 1,
    };
    // The slow subscribers are spread evenly, so that they are among the first and the last in any
    // order.
    let is_slow = |at: u32| u64::from(at) * u64::from(slow) % u64::from(subscribers) < u64::from(slow);
    let result = run.execute(|prefix| Topology {
        topics: (0..publishers).map(|at| format!("{prefix}/slow/{at}")).collect(),
        subscribers: (0..subscribers)
            .map(|at| SubscriberPlan {
                slow: is_slow(at),
                ..SubscriberPlan::of(one_filter(format!("{prefix}/slow/+")), 0..publishers)
            })
            .collect(),
        publishers: (0..publishers).map(|at| PublisherPlan::one(at, subscribers - slow)).collect(),
        shared: false,
    })?;
    let mut report = result.report;
    let counts = result.traffic.slow;
    let sent = result.traffic.published * u64::from(slow);
    report.figure("slow_due", "sent to slow subscribers", sent as f64, "messages", 0);
    report.figure("slow_delivered", "  delivered at the end", counts.delivered as f64, "messages", 0);
    report.figure("slow_dropped", "  dropped by the broker", counts.dropped as f64, "messages", 0);
    report.figure("slow_cut_off", "  closed by the broker", counts.cut_off as f64, "connections", 0);
    if sent == counts.delivered {
        report.notes.push(
            "the slow subscribers received everything, because it fitted the buffers of the broker and of the \
             kernel. Use a longer run or a larger --payload to exceed them."
                .to_owned(),
        );
    }
    Ok(report)
}
