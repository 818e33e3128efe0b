//! The topic index: nanoseconds per match, for several sizes and shapes of filter, and for a fan-out.
//!
//! The numbers of instructions and cache misses do not depend on what else the machine does. There are misses
//! of a first and a second level. The second is as large as what the broker's other work leaves of a cache.
//!
//! ```sh
//! CARGO_PROFILE_BENCH_DEBUG=line-tables-only cargo bench --bench topic --no-run
//! valgrind --tool=callgrind --cache-sim=yes --D1=32768,8,64 --LL=524288,8,64 \
//!     --toggle-collect='*TopicIndex::matches*' EXECUTABLE --bench --profile-time 1 'match/lines/1000000'
//! ```
//!
//! The cost of one match is callgrind's count for `matches`, divided by the number of its calls.
//!
//! `MIDGE_BENCH_LARGE=1` adds indexes of ten million subscriptions, which need 2 GiB of memory.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use midge::base::Random;
use midge::mqtt::QoS;
use midge::mqtt::SubscriptionOptions;
use midge::topic::{Matches, TopicIndex};
use std::hint::black_box;
use std::time::Duration;

type Shape = (&'static str, fn(u32) -> String, fn(u32) -> String);

/// The name, the filter of a subscriber, and a topic that reaches this subscriber.
const SHAPES: [Shape; 4] = [
    ("exact", |n| format!("device/{n:08}/cmd"), |n| format!("device/{n:08}/cmd")),
    ("plus", |n| format!("tenant/{n}/+/state"), |n| format!("tenant/{n}/pump/state")),
    ("hash", |n| format!("site/{n}/#"), |n| format!("site/{n}/floor/2/lamp")),
    ("fleet", fleet_filter, fleet_topic),
];

/// Three applications that each subscribe to a fleet's devices in their own way.
fn fleet_filter(device: u32) -> String {
    match device % 3 {
        0 => format!("site/+/dev/{device}/#"),
        1 => format!("a/{device}/+/x"),
        _ => format!("+/{device}/state"),
    }
}

fn fleet_topic(device: u32) -> String {
    match device % 3 {
        0 => format!("site/7/dev/{device}/temperature"),
        1 => format!("a/{device}/pump/x"),
        _ => format!("b/{device}/state"),
    }
}

fn index(size: u32, filter: impl Fn(u32) -> String) -> TopicIndex {
    let mut index = TopicIndex::new(1);
    for subscriber in 0..size {
        index.subscribe(&filter(subscriber), subscriber, SubscriptionOptions::v3(QoS::AtLeastOnce), 0);
    }
    index
}

/// 65,536 topics in a random order, which defeats caches.
fn topics(size: u32, topic: impl Fn(u32) -> String) -> Vec<String> {
    let mut random = Random::new(1);
    (0..65_536).map(|_| topic(random.below(u64::from(size)) as u32)).collect()
}

fn bench_matches(c: &mut Criterion, name: &str, size: u32, index: &TopicIndex, topics: &[String]) {
    let mut matches = Matches::default();
    let mut next = topics.iter().cycle();
    c.bench_function(&format!("match/{name}/{size}"), |b| {
        b.iter(|| {
            let topic = next.next().expect("a cycle has no end");
            index.matches(black_box(topic), None, &mut matches);
            assert!(!matches.is_empty());
        });
    });
}

fn one_subscriber_each(c: &mut Criterion) {
    let mut sizes = vec![1_000, 100_000, 1_000_000];
    sizes.extend(std::env::var_os("MIDGE_BENCH_LARGE").map(|_| 10_000_000));
    for size in sizes {
        for (name, filter, topic) in SHAPES {
            let index = index(size, filter);
            bench_matches(c, name, size, &index, &topics(size, topic));
        }
    }
}

/// The load test's scenario `wildcard`: each line of a factory has five filters of four shapes, and every
/// message matches all of them.
fn lines(c: &mut Criterion) {
    for size in [1_000, 100_000, 1_000_000] {
        let lines = size / MATCHES;
        let mut index = TopicIndex::new(1);
        // The order is that of the subscribers: each adds a batch of its filters in turn.
        let batches = size.div_ceil(SUBSCRIBERS * BATCH);
        for batch in 0..batches {
            for subscriber in 0..SUBSCRIBERS {
                let own = (0..size).skip(subscriber as usize).step_by(SUBSCRIBERS as usize);
                for number in own.skip((batch * BATCH) as usize).take(BATCH as usize) {
                    let (copy, line) = (number / lines, number % lines);
                    let options = SubscriptionOptions::v3(QoS::AtLeastOnce);
                    // No line has two filters of one subscriber.
                    index.subscribe(&line_filter(line, copy), (line + copy) % SUBSCRIBERS, options, 0);
                }
            }
        }
        assert_eq!(index.subscription_count(), size as usize);
        bench_matches(c, "lines", size, &index, &topics(lines, line_topic));
    }
}

const MATCHES: u32 = 5;
const SUBSCRIBERS: u32 = 100;
const BATCH: u32 = 100;

fn line_topic(line: u32) -> String {
    format!("lt/5f3a9c01/site/{}/line/{}/temperature", line / 100, line % 100)
}

fn line_filter(line: u32, copy: u32) -> String {
    let (site, number) = (line / 100, line % 100);
    match (line / 7 + 3 * copy) % 10 {
        0..4 => format!("lt/5f3a9c01/site/{site}/+/{number}/temperature"),
        4..8 => format!("lt/5f3a9c01/site/{site}/line/{number}/#"),
        8 => format!("lt/5f3a9c01/+/{site}/line/{number}/+"),
        _ => format!("+/5f3a9c01/site/{site}/line/{number}/temperature"),
    }
}

/// A typical fleet: exact commands, a few wildcards, and some subscribers that receive everything.
fn mixed(c: &mut Criterion) {
    let size = 1_000_000;
    let mut index = index(size, SHAPES[0].1);
    let options = SubscriptionOptions::v3(QoS::AtLeastOnce);
    for subscriber in 0..1_000 {
        index.subscribe(&format!("device/{subscriber:08}/#"), size + subscriber, options, 7);
        index.subscribe(&format!("device/+/event/{subscriber}"), size + subscriber, options, 0);
    }
    index.subscribe("device/+/cmd", 5, options, 1);
    index.subscribe("#", 5, options, 2);
    bench_matches(c, "mixed", size, &index, &topics(size, SHAPES[0].2));
}

fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("fan_out");
    let size = 1_000_000;
    group.throughput(Throughput::Elements(u64::from(size))).sample_size(20);
    let mut index = index(size, |_| "news".to_owned());
    let mut matches = Matches::default();
    group.bench_function(BenchmarkId::new("one_list", size), |b| {
        b.iter(|| index.matches(black_box("news"), None, &mut matches));
    });
    index.subscribe("#", 5, SubscriptionOptions::v3(QoS::AtLeastOnce), 0);
    group.bench_function(BenchmarkId::new("merged_with_hash", size), |b| {
        b.iter(|| index.matches(black_box("news"), None, &mut matches));
    });
    group.finish();
}

fn churn(c: &mut Criterion) {
    let mut group = c.benchmark_group("churn");
    let size = 1_000_000;
    group.throughput(Throughput::Elements(u64::from(size))).sample_size(10);
    for (name, filter) in
        [("one_filter", (|_| "news".to_owned()) as fn(u32) -> String), ("plus", SHAPES[1].1)]
    {
        let filters: Vec<String> = (0..size).map(filter).collect();
        let full = || index(size, |subscriber| filters[subscriber as usize].clone());
        group.bench_function(BenchmarkId::new("subscribe", name), |b| b.iter_with_large_drop(full));
        group.bench_function(BenchmarkId::new("unsubscribe", name), |b| {
            let empty = |mut index: TopicIndex| {
                for (subscriber, filter) in (0..).zip(&filters) {
                    assert!(index.unsubscribe(filter, subscriber));
                }
                index
            };
            b.iter_batched(full, empty, BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    targets = one_subscriber_each, lines, mixed, fan_out, churn
}
criterion_main!(benches);
