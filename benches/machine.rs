//! The whole way of a PUBLISH through host and machine, without a kernel: from the publisher's bytes to
//! ranges of the outbox, and the acknowledgements back. A time is that of a round. The throughput counts
//! deliveries.
//!
//! The number of instructions does not depend on what else the machine does:
//!
//! ```sh
//! CARGO_PROFILE_BENCH_DEBUG=line-tables-only cargo bench --bench machine --no-run
//! valgrind --tool=callgrind --toggle-collect='*World::round*' EXECUTABLE \
//!     --bench --profile-time 3 '1 to 1/v3.1.1/QoS 1'
//! ```
//!
//! The cost of a round is callgrind's count for `round`, divided by the number of its calls.

mod world;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use midge::mqtt::{ProtocolVersion, QoS};
use std::time::Duration;
use world::{Scene, World};

const VERSIONS: [(&str, ProtocolVersion); 2] =
    [("v3.1.1", ProtocolVersion::V311), ("v5.0", ProtocolVersion::V5)];
const LEVELS: [(&str, QoS); 3] =
    [("QoS 0", QoS::AtMostOnce), ("QoS 1", QoS::AtLeastOnce), ("QoS 2", QoS::ExactlyOnce)];

fn each(c: &mut Criterion, name: &str, adapt: impl Fn(&mut Scene)) {
    let mut group = c.benchmark_group(name);
    for (version_name, version) in VERSIONS {
        for (qos_name, qos) in LEVELS {
            let mut scene = Scene::new(version, qos);
            adapt(&mut scene);
            group.throughput(Throughput::Elements(scene.deliveries() as u64));
            group.bench_function(format!("{version_name}/{qos_name}"), |b| {
                let mut world = World::new(scene);
                b.iter(|| world.round());
            });
        }
    }
    group.finish();
}

fn one_to_one(c: &mut Criterion) {
    each(c, "1 to 1", |_| {});
}

/// A publisher that sends several messages before it waits for an acknowledgement.
fn burst(c: &mut Criterion) {
    each(c, "1 to 1 in bursts of 16", |scene| scene.burst = 16);
}

fn fan_out(c: &mut Criterion) {
    each(c, "1 to 1000", |scene| scene.subscribers = 1000);
}

/// Two thousand sessions, each visited once per round.
fn pairs(c: &mut Criterion) {
    each(c, "1000 pairs", |scene| scene.publishers = 1000);
}

/// The cost of a message while `stuck` other clients do not read.
fn beside_stuck(c: &mut Criterion) {
    let mut group = c.benchmark_group("1 to 1 beside clients that do not read");
    for stuck in [0, 50, 500, 5000] {
        let scene = Scene { stuck, ..Scene::new(ProtocolVersion::V5, QoS::AtLeastOnce) };
        group.throughput(Throughput::Elements(1));
        group.bench_function(stuck.to_string(), |b| {
            let mut world = World::new(scene);
            b.iter(|| world.round());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_secs(1));
    targets = one_to_one, burst, fan_out, pairs, beside_stuck
}
criterion_main!(benches);
