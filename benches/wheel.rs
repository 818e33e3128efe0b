//! The timer wheel: the cost of a keep alive when it is set and reset, and when it fires.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use midge::base::Time;
use midge::base::Wheel;
use std::hint::black_box;

const TIMERS: u64 = 10_000;
const KEEP_ALIVE_MILLIS: u64 = 90_000;

fn full_wheel() -> Wheel<u64> {
    let mut wheel = Wheel::new();
    for token in 0..TIMERS {
        wheel.schedule(Time::from_millis(1 + token * KEEP_ALIVE_MILLIS / TIMERS), token);
    }
    wheel
}

fn schedule_and_cancel(c: &mut Criterion) {
    let mut wheel = full_wheel();
    let mut deadline = 0;
    c.bench_function("wheel/schedule and cancel", |b| {
        b.iter(|| {
            deadline = (deadline + 7919) % KEEP_ALIVE_MILLIS;
            let id = wheel.schedule(Time::from_millis(deadline + 1), black_box(7));
            assert!(wheel.cancel(id));
        });
    });
}

fn expire_nothing(c: &mut Criterion) {
    let mut wheel = full_wheel();
    let mut out = Vec::new();
    c.bench_function("wheel/expire of 0 in 10,000", |b| {
        b.iter(|| wheel.expire(black_box(Time::ZERO), &mut out));
    });
}

/// The time advances by the distance of two deadlines, and the timer that fires is set again. So each
/// iteration also includes its share of the moves between levels.
fn expire_one(c: &mut Criterion) {
    let mut wheel = full_wheel();
    let mut out = Vec::new();
    let mut now = Time::ZERO;
    c.bench_function("wheel/expire of 1 in 10,000 and set it again", |b| {
        b.iter(|| {
            now = now.after_millis(KEEP_ALIVE_MILLIS / TIMERS);
            wheel.expire(now, &mut out);
            for token in out.drain(..) {
                wheel.schedule(now.after_millis(KEEP_ALIVE_MILLIS), token);
            }
        });
    });
}

fn expire_all(c: &mut Criterion) {
    c.bench_function("wheel/expire of 10,000 at once", |b| {
        let mut out = Vec::with_capacity(TIMERS as usize);
        b.iter_batched_ref(
            full_wheel,
            |wheel| {
                out.clear();
                wheel.expire(Time::from_millis(KEEP_ALIVE_MILLIS + 100), &mut out);
                assert_eq!(out.len() as u64, TIMERS);
            },
            BatchSize::LargeInput,
        );
    });
}

criterion_group!(benches, schedule_and_cancel, expire_nothing, expire_one, expire_all);
criterion_main!(benches);
