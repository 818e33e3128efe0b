//! A hop between shards: a box of the mesh within one thread, and between two threads.
//!
//! Between threads the figures are those of two busy cores: neither side sleeps, so no ring is woken. If both
//! threads share one core, they show what the scheduler does.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use midge::broker::Mail;
use midge::driver::{MeshEnd, MeshSize, mesh};
use midge::mqtt::QoS;
use midge::session::Publication;
use std::hint::black_box;
use std::time::Duration;

const CAPACITY: usize = 1024;
/// The number of items that are sent before the writer waits for the answer.
const BATCH: u64 = 65_536;

/// The last item of a batch, which is answered.
const LAST: u64 = u64::MAX - 1;
const STOP: u64 = u64::MAX;

fn mail() -> Mail {
    let publication = Publication {
        topic: "site/00001/state",
        forward: [&[]; 3],
        payload: &[b'p'; 64],
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: None,
        origin: None,
        stamp: None,
        source: &[],
    };
    Mail::Publish { message: publication.to_message(), ticket: None, intent: None }
}

fn one_thread(c: &mut Criterion) {
    let mut group = c.benchmark_group("mesh/one thread");
    group.throughput(Throughput::Elements(1));
    group.bench_function("u64", |b| push_and_pop(b, 7_u64));
    group.bench_function("mail", |b| push_and_pop(b, mail()));
    group.finish();
}

fn push_and_pop<T: Send>(b: &mut criterion::Bencher<'_>, item: T) {
    let mut ends = mesh::<T>(MeshSize { shards: 2, ring_items: CAPACITY });
    let (mut reader, mut writer) = (ends.pop().expect("two ends"), ends.pop().expect("two ends"));
    let mut carried = Some(item);
    b.iter(|| {
        let sent = writer.send(1, carried.take().expect("it came back"), 0);
        assert!(sent.is_ok() && writer.wakes().next().is_none());
        carried = black_box(reader.receive(0));
    });
}

/// Spins, and yields the core to another thread from time to time.
fn until<T>(mut ready: impl FnMut() -> Option<T>) -> T {
    loop {
        for _ in 0..1000 {
            if let Some(value) = ready() {
                return value;
            }
            std::hint::spin_loop();
        }
        std::thread::yield_now();
    }
}

fn send(end: &mut MeshEnd<u64>, to: usize, item: u64) {
    until(|| end.send(to, item, 0).ok());
    assert!(end.wakes().next().is_none(), "no one sleeps");
}

/// Answers the last item of each batch.
fn answer(mut end: MeshEnd<u64>) {
    loop {
        match until(|| end.receive(0)) {
            STOP => return,
            LAST => send(&mut end, 0, LAST),
            item => drop(black_box(item)),
        }
    }
}

fn two_threads(c: &mut Criterion) {
    let mut ends = mesh::<u64>(MeshSize { shards: 2, ring_items: CAPACITY });
    let (theirs, mut ours) = (ends.pop().expect("two ends"), ends.pop().expect("two ends"));
    std::thread::scope(|scope| {
        scope.spawn(move || answer(theirs));
        let mut group = c.benchmark_group("mesh/two threads");
        group.bench_function("round trip", |b| {
            b.iter(|| {
                send(&mut ours, 1, LAST);
                until(|| ours.receive(1))
            });
        });
        group.throughput(Throughput::Elements(BATCH));
        group.bench_function(BenchmarkId::new("one way", BATCH), |b| {
            b.iter(|| {
                (1..BATCH).for_each(|item| send(&mut ours, 1, item));
                send(&mut ours, 1, LAST);
                until(|| ours.receive(1))
            });
        });
        group.finish();
        send(&mut ours, 1, STOP);
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(50)
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500));
    targets = one_thread, two_threads
}
criterion_main!(benches);
