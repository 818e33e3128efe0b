//! Counts the allocations on the way of a message through one shard.
//!
//! After everything has grown to its size, a QoS 0 message allocates nothing, whatever the number of its
//! subscribers. A QoS 1 or 2 message is copied once for all of them, because it must outlive the read buffer:
//! this is [`PER_KEPT_MESSAGE`]. Allocations beyond that are stated with their reasons. A change that reduces
//! a number must reduce it here too.
//!
//! Each thread has its own counter, so that tests do not affect each other.

#[cfg(feature = "runtime")]
mod tls;
#[path = "../../benches/world/mod.rs"]
mod world;

use midge::mqtt::{ProtocolVersion, QoS};
use world::{Scene, World};

/// A kept message: a record that the sessions of the shard share, and its bytes.
const PER_KEPT_MESSAGE: u64 = 2;
/// Bytes that are read later because the visit of a connection is over: a box, and the bytes.
const PER_VISIT_ENDED: u64 = 2;
/// A list that grows from nothing to sixteen entries: its box, and capacity for 4, 8, 16.
const PER_SIXTEEN: u64 = 4;
/// Rounds before the count, in which the lists of the shard and of the world itself grow.
const WARM_UP: u64 = 20;
/// Enough rounds to detect an allocation that only some of them make.
const ROUNDS: u64 = 50;

const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V311, ProtocolVersion::V5];
const KEPT: [QoS; 2] = [QoS::AtLeastOnce, QoS::ExactlyOnce];

/// The allocations of all rounds. The rounds must have freed them again.
fn count(scene: Scene, mut between: impl FnMut()) -> u64 {
    let mut world = World::new(scene);
    (0..WARM_UP).for_each(|_| assert_eq!(world.round(), scene.deliveries()));
    let counted = allocation_counter::measure(|| {
        for _ in 0..ROUNDS {
            world.round();
            between();
        }
    });
    assert_eq!((counted.count_current, counted.bytes_current), (0, 0), "a round leaves nothing behind");
    counted.count_total
}

/// The numbers of publishers and subscribers.
fn shapes(scene: Scene) -> [Scene; 3] {
    [scene, Scene { subscribers: 1000, ..scene }, Scene { publishers: 1000, ..scene }]
}

fn each(levels: &[QoS], mut check: impl FnMut(Scene)) {
    for version in VERSIONS {
        levels.iter().for_each(|&qos| check(Scene::new(version, qos)));
    }
}

#[track_caller]
fn expect(scene: Scene, per_round: u64) {
    let Scene { version, qos, publishers, subscribers, burst, .. } = scene;
    let name = format!("{version:?} {qos:?}, {publishers} × {burst} to {subscribers}");
    assert_eq!(count(scene, || ()), per_round * ROUNDS, "{name}: allocations in {ROUNDS} rounds");
}

#[test]
fn one_intended_allocation_in_each_round_is_seen() {
    let scene = Scene::new(ProtocolVersion::V5, QoS::AtMostOnce);
    assert_eq!(count(scene, || drop(std::hint::black_box(Box::new(7_u8)))), ROUNDS);
}

#[test]
fn a_qos_0_message_allocates_nothing() {
    each(&[QoS::AtMostOnce], |scene| {
        for shape in shapes(scene) {
            expect(shape, 0);
            // 16,000 messages take five visits of one publisher, or five turns for a thousand publishers. The
            // bytes that are unread between two of them are kept.
            let ended = if shape.subscribers * shape.publishers == 1000 { 4 } else { 0 };
            expect(Scene { burst: 16, ..shape }, ended * PER_VISIT_ENDED);
            expect(Scene { subscription_id: 7, ..shape }, 0);
        }
    });
}

#[test]
fn a_qos_1_or_2_message_is_kept_once_and_a_delivery_allocates_nothing() {
    each(&KEPT, |scene| {
        for shape in shapes(scene) {
            expect(shape, shape.publishers as u64 * PER_KEPT_MESSAGE);
        }
    });
}

/// The window of an idle session has room for four. A window that had to hold more frees its memory when it
/// is empty, and grows again in the next burst.
#[test]
fn a_window_that_must_hold_sixteen_grows_four_times() {
    each(&KEPT, |scene| {
        expect(Scene { burst: 4, ..scene }, 4 * PER_KEPT_MESSAGE);
        for subscribers in [1, 100] {
            let scene = Scene { burst: 16, subscribers, ..scene };
            let ended = if subscribers == 100 { PER_VISIT_ENDED } else { 0 };
            expect(scene, 16 * PER_KEPT_MESSAGE + subscribers as u64 * PER_SIXTEEN + ended);
        }
    });
}

/// A queue frees its memory as soon as it is empty.
#[test]
fn a_queue_that_must_hold_twelve_grows_four_times() {
    for qos in KEPT {
        let scene = Scene { burst: 16, receive_maximum: 4, ..Scene::new(ProtocolVersion::V5, qos) };
        expect(scene, 16 * PER_KEPT_MESSAGE + PER_SIXTEEN);
    }
}

/// They are stored with the delivery, which may have to be sent again.
#[test]
fn a_subscription_identifier_costs_one_allocation_for_each_delivery_of_qos_1_or_2() {
    for qos in KEPT {
        let scene = Scene { subscribers: 100, subscription_id: 7, ..Scene::new(ProtocolVersion::V5, qos) };
        expect(scene, PER_KEPT_MESSAGE + 100);
    }
}
