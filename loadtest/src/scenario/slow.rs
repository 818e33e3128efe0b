//! `slow`: fan-out with some subscribers that stop reading. The others are timed and verified as
//! in `fan-out`; at the end the slow ones read on, and what the broker did with them is told.

use super::throughput::{Topology, TrafficRun};
use crate::flags::Slow;
use crate::plan::{PublisherPlan, SubscriberPlan, one_filter};
use crate::report::Report;

pub(super) fn run(flags: &Slow) -> Result<Report, String> {
    let (publishers, subscribers, slow) = (flags.publishers, flags.subscribers, flags.slow);
    if slow >= subscribers {
        return Err("--slow has to be below --subscribers: somebody has to read".to_owned());
    }
    let run = TrafficRun {
        name: "slow",
        sizes: vec![
            ("publishers", publishers.to_string()),
            ("subscribers", subscribers.to_string()),
            ("slow", slow.to_string()),
        ],
        connections: publishers + subscribers,
        load: &flags.load,
        common: &flags.common,
        batch: 1,
    };
    // Spread evenly, so that wherever a broker begins, slow ones are among the first and the last.
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
    report.figure("slow_due", "to the slow ones, sent", sent as f64, "messages", 0);
    report.figure("slow_delivered", "  delivered in the end", counts.delivered as f64, "messages", 0);
    report.figure("slow_dropped", "  dropped by the broker", counts.dropped as f64, "messages", 0);
    report.figure("slow_cut_off", "  connections cut off", counts.cut_off as f64, "connections", 0);
    if sent == counts.delivered {
        report.notes.push(
            "the slow ones got everything: it fitted the buffers of the broker and of the kernel. A longer \
             run or a larger --payload goes beyond them."
                .to_owned(),
        );
    }
    Ok(report)
}
