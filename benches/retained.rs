//! The retained store with a million messages, as a subscriber's replay uses it.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use midge::base::{Stamp, Time};
use midge::broker::retained::{BatchLimits, Retained, RetainedLimits, RetainedMessage};
use std::hint::black_box;

/// It has about the size of a message of the broker.
#[derive(Clone)]
struct Message {
    stamp: Stamp,
    _body: [u64; 10],
}

impl RetainedMessage for Message {
    fn expires_at(&self) -> Option<Time> {
        None
    }

    fn stamp(&self) -> Option<Stamp> {
        Some(self.stamp)
    }

    fn bytes(&self) -> usize {
        100
    }

    fn is_own(_: &str) -> bool {
        false
    }
}

const DEVICES: u64 = 100_000;
const BATCH: BatchLimits = BatchLimits { messages: 64, bytes: 1 << 20, visits: 1024 };
const UNLIMITED: RetainedLimits = RetainedLimits { messages: usize::MAX, bytes: usize::MAX };

/// Ten topics for each of 100,000 devices in ten sites, in no particular order.
fn million() -> Retained<Message> {
    let mut retained = Retained::new(UNLIMITED);
    for number in 0..10 * DEVICES {
        let place = number * 7_777_777 % (10 * DEVICES);
        let (device, value) = (place / 10, place % 10);
        let topic = format!("site{}/d{device}/b/v{value}", device % 10);
        retained
            .store(&topic, Message { stamp: Stamp::new(number + 1), _body: [number; 10] })
            .expect("no limit");
    }
    retained
}

/// Walks to the end in batches. Returns the number of messages and the number of batches.
fn walk(retained: &Retained<Message>, filter: &str) -> (u64, u64) {
    let (mut messages, mut batches) = (0, 0);
    let mut after: Option<Box<str>> = None;
    let mut batch = Vec::with_capacity(BATCH.messages);
    loop {
        batch.clear();
        after = retained.matching(filter, after.as_deref(), Time::ZERO, BATCH, |_, message| {
            batch.push(message.clone());
        });
        messages += batch.len() as u64;
        batches += 1;
        black_box(&batch);
        if after.is_none() {
            return (messages, batches);
        }
    }
}

fn retained(c: &mut Criterion) {
    let mut retained = million();
    assert_eq!(retained.len() as u64, 10 * DEVICES);

    let mut group = c.benchmark_group("retained");
    let mut device = 0;
    group.bench_function("exact filter, 1 of 1M", |b| {
        b.iter(|| {
            device = (device + 7919) % DEVICES;
            let found = walk(&retained, &format!("site{}/d{device}/b/v3", device % 10));
            assert_eq!(found.0, 1);
        });
    });
    group.bench_function("wildcard filter, 1 of 1M", |b| {
        b.iter(|| {
            device = (device + 7919) % DEVICES;
            let found = walk(&retained, &format!("site{}/d{device}/+/v3", device % 10));
            assert_eq!(found.0, 1);
        });
    });
    let mut number = 10 * DEVICES;
    group.bench_function("replace 1 of 1M", |b| {
        b.iter(|| {
            number += 1;
            device = (device + 7919) % DEVICES;
            let topic = format!("site{}/d{device}/b/v3", device % 10);
            retained.store(&topic, Message { stamp: Stamp::new(number + 1), _body: [number; 10] })
        });
    });

    group.sample_size(10);
    group.throughput(Throughput::Elements(DEVICES));
    group.bench_function("replay of 100k in batches of 64", |b| {
        b.iter(|| assert_eq!(walk(&retained, "site4/#").0, DEVICES));
    });
    group.throughput(Throughput::Elements(DEVICES / 10));
    group.bench_function("+ in the middle, 10k of 100k", |b| {
        b.iter(|| assert_eq!(walk(&retained, "site4/+/b/v3").0, DEVICES / 10));
    });
    group.bench_function("+ in the middle, none: a seek for each of 10k sub-trees", |b| {
        b.iter(|| assert_eq!(walk(&retained, "site4/+/a/#").0, 0));
    });
    group.finish();
}

criterion_group!(benches, retained);
criterion_main!(benches);
