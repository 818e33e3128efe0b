//! `shared`: publishers to one shared subscription. The group gets each message exactly once.

use super::throughput::{Topology, TrafficRun};
use crate::flags::Shared;
use crate::plan::{PublisherPlan, SubscriberPlan, one_filter};
use crate::report::Report;

pub(super) fn run(flags: &Shared) -> Result<Report, String> {
    let (publishers, members) = (flags.publishers, flags.members);
    let run = TrafficRun {
        name: "shared",
        sizes: vec![("publishers", publishers.to_string()), ("members", members.to_string())],
        connections: publishers as usize + members as usize,
        load: &flags.load,
        common: &flags.common,
        batch: 1,
    };
    let result = run.execute(|prefix| {
        let group = prefix.replace('/', "");
        let filter = || one_filter(format!("$share/{group}/{prefix}/shared/+"));
        Topology {
            topics: (0..publishers).map(|at| format!("{prefix}/shared/{at}")).collect(),
            subscribers: (0..members).map(|_| SubscriberPlan::of(filter(), 0..publishers)).collect(),
            publishers: (0..publishers).map(|at| PublisherPlan::one(at, 1)).collect(),
            shared: true,
        }
    })?;
    let mut report = result.report;
    let each = result.traffic.delivered_each();
    let fair = result.traffic.delivered as f64 / f64::from(members);
    if fair > 0.0 {
        let percent = |count: Option<&u64>| count.map_or(0.0, |&count| count as f64 / fair * 100.0);
        let least = percent(each.iter().min());
        report.figure("member_least_percent", "member with the least", least, "% of an even share", 1);
        let most = percent(each.iter().max());
        report.figure("member_most_percent", "member with the most", most, "% of an even share", 1);
        let squares: f64 = each.iter().map(|&count| (count as f64 - fair).powi(2)).sum();
        let deviation = (squares / f64::from(members)).sqrt() / fair * 100.0;
        report.figure("member_deviation_percent", "  standard deviation", deviation, "% of an even share", 1);
    }
    Ok(report)
}
