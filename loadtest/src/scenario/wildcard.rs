//! `wildcard`: many filters with `+` and `#`, as the applications of a fleet have. Each message
//! matches a known number of them.
//!
//! The filters are for *lines*: line 1234 stands for `site/12/line/34`. Every line has one filter
//! for each of `matches` subscribers, in one of four forms. Messages go to some of the lines, and
//! no other filter may match.

use super::throughput::{Topology, TrafficRun};
use super::{memory_each, nanos};
use crate::flags::Wildcard;
use crate::plan::{Filters, PublisherPlan, Streams, SubscriberPlan};
use crate::report::Report;

pub(super) fn run(flags: &Wildcard) -> Result<Report, String> {
    let lines = flags.filters / flags.matches;
    let population = Population { lines, matches: flags.matches, subscribers: flags.subscribers };
    let topics = flags.topics.min(lines);
    if flags.matches > flags.subscribers || topics < flags.publishers {
        return Err(
            "--matches must not exceed --subscribers. --publishers must not exceed the number of topics, \
                    which is at most --filters / --matches"
                .to_owned(),
        );
    }
    let sizes = vec![
        ("filters", (lines * flags.matches).to_string()),
        ("subscribers", flags.subscribers.to_string()),
        ("batch", flags.batch.to_string()),
        ("publishers", flags.publishers.to_string()),
        ("topics", topics.to_string()),
        ("matches", flags.matches.to_string()),
    ];
    let run = TrafficRun {
        name: "wildcard",
        sizes,
        connections: flags.subscribers as usize + flags.publishers as usize,
        load: &flags.load,
        common: &flags.common,
        batch: usize::from(flags.batch),
    };
    let publishers = flags.publishers;
    let result = run.execute(|prefix| {
        let line_of = |topic: u32| (u64::from(topic) * u64::from(lines) / u64::from(topics)) as u32;
        let mut wanted = vec![Vec::new(); flags.subscribers as usize];
        for topic in 0..topics {
            for copy in 0..flags.matches {
                wanted[population.subscriber(line_of(topic), copy) as usize].push(topic);
            }
        }
        let subscriber = |(id, topics): (usize, Vec<u32>)| SubscriberPlan {
            filters: population.filters(id as u32, prefix),
            streams: Streams::Listed(topics.into()),
            slow: false,
        };
        let first =
            |publisher: u32| (u64::from(publisher) * u64::from(topics) / u64::from(publishers)) as u32;
        Topology {
            topics: (0..topics).map(|topic| topic_of(line_of(topic), prefix)).collect(),
            subscribers: wanted.into_iter().enumerate().map(subscriber).collect(),
            publishers: (0..publishers)
                .map(|at| PublisherPlan { streams: first(at)..first(at + 1), fan_out: flags.matches })
                .collect(),
            shared: false,
        }
    })?;
    let mut report = result.report;
    let filters = u64::from(lines) * u64::from(flags.matches);
    let [before, after] = result.subscribing;
    let seconds = (after.nanos - before.nanos).max(nanos(1e-6)) as f64 / 1e9;
    report.figure("subscribe_ms", "subscribing", seconds * 1e3, "ms, connecting included", 1);
    report.figure("subscribe_per_second", "  rate", filters as f64 / seconds, "filters/s", 0);
    if let (Some(before), Some(after)) = (&before.broker, &after.broker) {
        let micros = after.since(before).total_seconds * 1e6 / filters as f64;
        report.figure("subscribe_cpu_us", "  broker CPU", micros, "us per filter", 3);
    }
    let memory = [before, after].map(|moment| moment.broker.map(|sample| sample.memory));
    let grown = (memory[0], memory[1]);
    memory_each(&mut report, "filter_bytes", "  broker memory", "bytes per filter", grown, filters);
    Ok(report)
}

/// Which subscriber has which filters.
#[derive(Clone, Copy)]
struct Population {
    lines: u32,
    matches: u32,
    subscribers: u32,
}

impl Population {
    /// The subscriber with filter `copy` of a line. No subscriber has two filters of one line, so
    /// that no message reaches a subscriber through two subscriptions.
    fn subscriber(self, line: u32, copy: u32) -> u32 {
        (line + copy) % self.subscribers
    }

    /// The filters of a subscriber, by number.
    fn filters(self, subscriber: u32, prefix: &str) -> Filters {
        let prefix = prefix.to_owned();
        Box::new(move |at| {
            let mut at = u32::try_from(at).ok()?;
            for copy in 0..self.matches {
                // The lines of this subscriber for this copy are `first`, `first + subscribers`,
                // and so on.
                let first = (subscriber + self.subscribers - copy) % self.subscribers;
                let count = self.lines.saturating_sub(first).div_ceil(self.subscribers);
                if at < count {
                    return Some(filter_of(first + at * self.subscribers, copy, &prefix));
                }
                at -= count;
            }
            None
        })
    }
}

fn topic_of(line: u32, prefix: &str) -> String {
    format!("{prefix}/site/{}/line/{}/temperature", line / 100, line % 100)
}

/// A filter that matches the topic of `line` and of no other line.
fn filter_of(line: u32, copy: u32, prefix: &str) -> String {
    let (site, number) = (line / 100, line % 100);
    let run = prefix.trim_start_matches("lt/");
    // Dividing by 7 mixes the forms at every subscriber and line.
    match (line / 7 + 3 * copy) % 10 {
        0..4 => format!("{prefix}/site/{site}/+/{number}/temperature"),
        4..8 => format!("{prefix}/site/{site}/line/{number}/#"),
        8 => format!("{prefix}/+/{site}/line/{number}/+"),
        _ => format!("+/{run}/site/{site}/line/{number}/temperature"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_line_has_all_its_filters_at_their_subscribers() {
        let population = Population { lines: 1003, matches: 3, subscribers: 7 };
        let mut all = HashSet::new();
        for subscriber in 0..7 {
            let filters = population.filters(subscriber, "lt/1");
            let own: Vec<String> = (0..).map_while(&filters).collect();
            for line in 0..1003 {
                for copy in 0..3 {
                    let is_own = population.subscriber(line, copy) == subscriber;
                    let filter = filter_of(line, copy, "lt/1");
                    assert!(!is_own || own.contains(&filter), "{line} {copy} {filter}");
                }
            }
            all.extend(own.into_iter().map(|filter| (subscriber, filter)));
        }
        assert_eq!(all.len(), 3009);
    }
}
