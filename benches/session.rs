//! A session's part in one publication: the exchange of acknowledgements through the window of sent messages,
//! and through the list of received QoS 2 messages.
//!
//! "1000 in flight": this many others are unacknowledged during the measurement. The settled one is the
//! oldest ("in order"), a random one, or the newest ("newest first": all others are checked before it).
//! "Behind one stuck" is in order, except for the oldest, which is never acknowledged: soon each new packet
//! identifier must be searched among those in use.

use criterion::{Criterion, criterion_group, criterion_main};
use midge::base::{MemoryAccount, Random};
use midge::mqtt::codec::AckKind;
use midge::mqtt::{PacketId, QoS};
use midge::session::KeptMessage;
use midge::session::Publication;
use midge::session::{AckOutcome, Delivery, InflightWindow, Session};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

const IN_FLIGHT: usize = 1000;

/// Selects the message in flight that is acknowledged next.
type Choice = fn(&mut VecDeque<PacketId>, &mut Random) -> PacketId;

const CHOICES: [(&str, usize, Choice); 5] = [
    ("the only one", 0, oldest),
    ("1000 in flight, in order", IN_FLIGHT, oldest),
    ("1000 in flight, random", IN_FLIGHT, random),
    ("1000 in flight, newest first", IN_FLIGHT, newest),
    ("1000 in flight, behind one stuck", IN_FLIGHT, second),
];

fn oldest(ids: &mut VecDeque<PacketId>, _: &mut Random) -> PacketId {
    ids.pop_front().expect("one is in flight")
}

fn newest(ids: &mut VecDeque<PacketId>, _: &mut Random) -> PacketId {
    ids.pop_back().expect("one is in flight")
}

fn second(ids: &mut VecDeque<PacketId>, _: &mut Random) -> PacketId {
    ids.remove(1).expect("two are in flight")
}

fn random(ids: &mut VecDeque<PacketId>, random: &mut Random) -> PacketId {
    let at = random.index(ids.len());
    ids.swap_remove_back(at).expect("it is within")
}

fn message() -> Rc<KeptMessage> {
    let publication = Publication {
        topic: "site/00001/state",
        forward: [&[]; 3],
        payload: &[b'p'; 64],
        qos: QoS::ExactlyOnce,
        retain: false,
        expires_at: None,
        origin: None,
        stamp: None,
        source: &[],
    };
    KeptMessage::new(publication.to_message(), &MemoryAccount::default())
}

fn sent(c: &mut Criterion) {
    let message = message();
    for (qos_name, qos) in [("QoS 1", QoS::AtLeastOnce), ("QoS 2", QoS::ExactlyOnce)] {
        let mut group = c.benchmark_group(format!("sent/{qos_name}"));
        for (name, in_flight, choose) in CHOICES {
            group.bench_function(name, |b| {
                let mut window = InflightWindow::default();
                window.reconnect(u16::MAX);
                let mut ids = VecDeque::with_capacity(in_flight + 1);
                let start = |window: &mut InflightWindow, ids: &mut VecDeque<PacketId>| {
                    assert!(window.has_room());
                    let delivery = Delivery {
                        message: Rc::clone(&message),
                        qos,
                        retain: false,
                        number: None,
                        extra: None,
                    };
                    ids.push_back(window.start(delivery));
                };
                for _ in 0..in_flight {
                    start(&mut window, &mut ids);
                }
                let mut random = Random::new(1);
                // The identifiers wrap around once, so that they reach the stuck one.
                let mut step = || {
                    start(&mut window, &mut ids);
                    let id = choose(&mut ids, &mut random);
                    if qos == QoS::ExactlyOnce {
                        let outcome = window.handle_ack(AckKind::Pubrec, id, false);
                        assert!(matches!(outcome, AckOutcome::Release(_)));
                        let outcome = window.handle_ack(AckKind::Pubcomp, id, false);
                        assert!(matches!(outcome, AckOutcome::Settled(_)));
                    } else {
                        let outcome = window.handle_ack(AckKind::Puback, id, false);
                        assert!(matches!(outcome, AckOutcome::Settled(_)));
                    }
                };
                (0..=u16::MAX).for_each(|_| step());
                b.iter(step);
            });
        }
        group.finish();
    }
}

/// PUBLISH with QoS 2, held until its PUBREL.
fn received(c: &mut Criterion) {
    let mut group = c.benchmark_group("received/QoS 2");
    let cases: [(&str, u16, u16); 3] =
        [("the only one", 0, 0), ("1000 held, in order", 1000, 1000), ("1000 held, newest first", 1000, 0)];
    for (name, held, lag) in cases {
        group.bench_function(name, |b| {
            let mut session = Session::new("publisher".into());
            let start = 40_000 - held;
            (start..40_000).for_each(|id| session.hold(id, 64, None));
            let mut next = 40_000_u16;
            b.iter(|| {
                assert!(!session.holds(next));
                session.hold(next, 64, None);
                assert!(session.release(next.wrapping_sub(lag)).is_some());
                next = next.wrapping_add(1);
                if lag == 0 && next == start {
                    // The identifiers that stay held are not used again.
                    next = 40_000;
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(50)
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500));
    targets = sent, received
}
criterion_main!(benches);
