//! Plans that are written down instead of drawn. A finding of a seed stays the same here when the drawing of
//! plans changes.

use crate::kernel::Weather;
use crate::plan::{Action, ClientPlan, FilterPlan, Plan, Planned, PowerCut, WillPlan};
use crate::sim::Sim;
use crate::wire::Layers;
use crate::world::SHORT_TURNS_FROM;
use midge::base::Homes;
use midge::settings::{QueuePolicy, SyncPolicy};
use midge_kit::codec::Version;

const SECOND: u64 = 1_000_000;
/// Indexes into `TOPICS`.
const T_A: usize = 0;
const R_A: usize = 4;
const W_A: usize = 7;
/// Indexes into `FILTERS`.
const TO_T_A: usize = 0;
const TO_R_A: usize = 6;
const TO_ALL_W: usize = 11;

/// A client of 3.1.1 that answers after some time to think.
fn client(think_max: u64) -> ClientPlan {
    let version = Version::V311;
    ClientPlan {
        version,
        expiry_seconds: u32::MAX,
        keep_alive: 0,
        receive_maximum: None,
        aliases: 0,
        packet_max: None,
        think_max,
    }
}

fn five(think_max: u64) -> ClientPlan {
    ClientPlan { version: Version::V5, ..client(think_max) }
}

fn plan(clients: &[ClientPlan], actions: Vec<(u64, usize, Action)>) -> Plan {
    let planned = |(at, client, action)| Planned { at, client, action };
    Plan {
        seed: 1,
        shards: 1,
        weather: Weather {
            box_capacity: 4096,
            preempt_permille: 0,
            socket_bytes: 65536,
            split_permille: 0,
            write_max: 100,
        },
        layers: Layers::default(),
        watched: false,
        persistent: false,
        sync: SyncPolicy::Always,
        queue_messages: 10_000,
        queue_policy: QueuePolicy::DropOldest,
        aliases_out: 0,
        groups: None,
        clients: clients.to_vec(),
        actions: actions.into_iter().map(planned).collect(),
    }
}

fn connect(clean: bool, lasting: bool, will_delay: Option<u32>) -> Action {
    let will = will_delay.map(|delay_seconds| WillPlan { topic: W_A, delay_seconds, qos: 1, retain: false });
    Action::Connect { shard: 0, clean, lasting, will }
}

fn subscribe(filter: usize) -> Action {
    let filter =
        FilterPlan { filter, qos: 2, no_local: false, as_published: false, handling: 0, identifier: 0 };
    Action::Subscribe { filters: vec![filter] }
}

fn publish(qos: u8, count: usize) -> Action {
    Action::Publish { topic: T_A, qos, retain: false, bytes: 5, count }
}

fn holds(plan: &Plan) {
    let outcome = Sim::run(plan, true);
    assert!(
        outcome.failure.is_none(),
        "{}\n{}",
        outcome.failure.unwrap_or_default(),
        outcome.lines.join("\n")
    );
}

fn wills_on_w_a(plan: &Plan) -> usize {
    let lines = Sim::run(plan, true).lines;
    lines.iter().filter(|line| line.contains("client-0: PUBLISH") && line.contains("w/a")).count()
}

/// From seeds 18991, 29568, 39582, 47934, 290176, 327540, 424030, 7014172, 7025702 and 7029568: a DISCONNECT
/// has arrived where nobody reads any more. "The Will Message MUST be published after the Network Connection
/// is subsequently closed ... unless the Will Message has been deleted by the Server on receipt of a
/// DISCONNECT packet". [MQTT5-3.1.2-8]
#[test]
fn will_is_published_when_the_broker_stops_before_it_has_read_the_disconnect() {
    let stopped = |disconnect_after| {
        let mut actions = vec![
            // A stopping broker ends its connections in this order.
            (1000, 1, connect(true, false, Some(0))),
            (5000, 0, connect(false, true, None)),
            (50_000, 0, subscribe(TO_ALL_W)),
            (200_000, 1, Action::StallShard { shard: 0, micros: 77_000 }),
            (230_000, 1, Action::PowerCut { down: 300_000, shards: 1, when: PowerCut::Stopped }),
        ];
        let farewell = Action::Disconnect { keeps_will: false, back_after: Some(2 * SECOND) };
        actions.push((disconnect_after, 1, farewell));
        actions.sort_by_key(|(at, _, _)| *at);
        plan(&[five(50), client(2000)], actions)
    };
    // It arrives after the turn that stops the broker.
    let unread = stopped(276_990);
    holds(&unread);
    assert_eq!(wills_on_w_a(&unread), 1);
    let read = stopped(100_000);
    holds(&read);
    assert_eq!(wills_on_w_a(&read), 0);
}

/// From seed 7008700. The delay begins when the broker ends the connection, even if its turn continues for
/// long.
#[test]
fn delay_of_a_will_counts_from_the_end_of_its_connection() {
    let mut actions: Vec<_> =
        (0..4).map(|shard| (199_000, 0, Action::StallShard { shard, micros: 5000 })).collect();
    for subscriber in 2..6 {
        actions.push((50_000, subscriber, connect(false, true, None)));
        actions.push((110_000, subscriber, subscribe(TO_T_A)));
    }
    actions.extend([
        (50_000, 0, connect(false, true, None)),
        (50_000, 1, connect(false, true, Some(1))),
        (100_000, 0, subscribe(TO_ALL_W)),
        (200_000, 1, publish(2, 40)),
        (201_000, 1, Action::Disconnect { keeps_will: true, back_after: None }),
        (3 * SECOND, 0, Action::HoldAcks { micros: 0 }),
    ]);
    actions.sort_by_key(|(at, _, _)| *at);
    let mut long_turn = plan(&[five(50), five(20), five(20), five(20), five(20), five(20)], actions);
    // Before the close, each of forty mails to the subscribers' shards takes a millisecond or two.
    long_turn.shards = 4;
    long_turn.weather.preempt_permille = 1000;
    holds(&long_turn);
    assert_eq!(wills_on_w_a(&long_turn), 1);
}

/// From seed 21905. "If a CONNECT packet is received with Clean Start is set to 1, the Client and Server MUST
/// discard any existing Session": this includes the client, although it never sees that CONNACK.
/// [MQTT5-3.1.2-4]
#[test]
fn packet_identifier_of_before_a_clean_start_is_none_after_it() {
    holds(&plan(
        &[five(50), five(50_000), five(20)],
        vec![
            (1000, 1, connect(false, true, None)),
            (1000, 2, connect(false, true, None)),
            (50_000, 1, subscribe(TO_T_A)),
            // The client has the message, and thinks.
            (100_000, 1, Action::HoldAcks { micros: SECOND }),
            (110_000, 2, publish(2, 1)),
            (200_000, 1, connect(true, true, None)),
            // It replaces the connection whose CONNACK is on its way.
            (201_700, 1, connect(false, true, None)),
            (300_000, 1, subscribe(TO_T_A)),
            (400_000, 2, publish(2, 3)),
        ],
    ));
}

/// A start publishes the will of a session that ended with the broker, and the power is cut again at once,
/// before or after the log has a record of this. A message that is published at QoS 2 must still reach a
/// session only once. [MQTT5-4.3.3-1]
#[test]
fn will_of_a_start_is_published_once_whenever_the_power_goes_again() {
    // Some turns may do much, others may do little.
    for seed in [1, SHORT_TURNS_FROM + 1, SHORT_TURNS_FROM + 2] {
        for shards in [1, 3] {
            for after in (500..12_000).step_by(500) {
                let will = Some(WillPlan { topic: W_A, delay_seconds: 0, qos: 2, retain: false });
                let cut = |down| Action::PowerCut { down, shards, when: PowerCut::Now };
                let mut actions = vec![
                    (100_000, 4, Action::Connect { shard: 0, clean: true, lasting: false, will }),
                    (200_000, 4, cut(SECOND)),
                    (200_000 + SECOND + after, 4, cut(10_000)),
                ];
                for subscriber in 0..4 {
                    actions.push((1000, subscriber, connect(false, true, None)));
                    actions.push((50_000, subscriber, subscribe(TO_ALL_W)));
                }
                actions.sort_by_key(|(at, _, _)| *at);
                let clients = [client(50), client(50), client(50), client(50), client(50)];
                let mut plan = Plan { seed, shards, persistent: true, ..plan(&clients, actions) };
                plan.weather.write_max = 5000;
                holds(&plan);
            }
        }
    }
}

/// A retained message goes to its home first, and then to interested shards. Behind a full box it is not at
/// its home yet. A client that subscribes in the meantime must still get it.
#[test]
fn retained_message_that_waits_for_its_home_reaches_who_subscribes_meanwhile() {
    const PUBLISHERS: usize = 8;
    const RUNS: usize = 8;
    let mut runs = 0;
    for seed in (0..400).map(|number| number * 26) {
        let homes = Homes::new(3, seed);
        let topic = homes.home_of("r/a");
        let at_home = |client: usize| homes.home_of(&format!("client-{client}"));
        // The subscriber has its home on one shard, and all publishers on another.
        let third = (0..3).find(|&shard| shard != topic && shard != at_home(1)).expect("there are three");
        let publishers: Vec<_> =
            (2..40).filter(|&client| at_home(client) == third).take(PUBLISHERS).collect();
        if at_home(1) == topic || publishers.len() < PUBLISHERS || runs == RUNS {
            continue;
        }
        runs += 1;
        let mut actions = vec![
            (50_000, 1, connect(true, false, None)),
            (200_000, 0, Action::StallShard { shard: usize::from(topic), micros: 3 * SECOND }),
            (200_000 + 2 * SECOND, 1, subscribe(TO_R_A)),
            (4 * SECOND, 1, Action::HoldAcks { micros: 0 }),
        ];
        for (at, &publisher) in (0..).zip(&publishers) {
            let retained = Action::Publish { topic: R_A, qos: 1, retain: true, bytes: 5, count: 1 };
            actions.push((50_000, publisher, connect(true, false, None)));
            actions.push((210_000 + 5000 * at, publisher, retained));
        }
        actions.sort_by_key(|(at, _, _)| *at);
        let mut plan =
            Plan { seed, shards: 3, layers: Layers::of(seed), ..plan(&vec![five(50); 40], actions) };
        plan.weather.box_capacity = 2;
        holds(&plan);
    }
    assert_eq!(runs, RUNS);
}
