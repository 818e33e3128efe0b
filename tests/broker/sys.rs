//! `$SYS`: the statistics agree exactly with what has really happened.

use crate::Running;
use crate::client::{Client, Tally};
use crate::running::PATIENCE;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

type Figures = BTreeMap<String, String>;

/// A broker, all of its clients, and their own counts.
struct World {
    running: Running,
    watch: Client,
    clients: BTreeMap<&'static str, Client>,
    gone: Tally,
}

impl World {
    fn start(name: &str, shards: usize) -> World {
        let rest = format!(
            "[runtime]\nshards = {shards}\n[sys]\ninterval_seconds = 1\n[limits]\nsession_queue_messages = 5\n"
        );
        let running = Running::start(name, &rest);
        let watch = running.client("watch");
        World { running, watch, clients: BTreeMap::new(), gone: Tally::default() }
    }

    fn connect(&mut self, id: &'static str, clean_start: bool, expiry_seconds: u32) {
        let client = Client::connect(self.running.address, id, clean_start, expiry_seconds);
        if let Some(taken_over) = self.clients.insert(id, client) {
            self.gone = self.gone + taken_over.read_to_end();
        }
    }

    fn client(&mut self, id: &str) -> &mut Client {
        self.clients.get_mut(id).expect("it is connected")
    }

    fn disconnect(&mut self, id: &str) {
        let client = self.clients.remove(id).expect("it is connected");
        self.gone = self.gone + client.disconnect();
    }

    /// Leaves without DISCONNECT.
    fn vanish(&mut self, id: &str) {
        let client = self.clients.remove(id).expect("it is connected");
        self.gone = self.gone + client.tally();
    }

    fn tally(&self) -> Tally {
        let connected = self.clients.values().map(Client::tally).fold(self.watch.tally(), |a, b| a + b);
        self.gone + connected
    }

    /// The current values in `$SYS`.
    fn figures(&mut self) -> Figures {
        let mut figures = Figures::new();
        let until = Instant::now() + PATIENCE;
        self.watch.subscribe("$SYS/#", 0);
        while !TOPICS.iter().all(|topic| figures.contains_key(*topic)) {
            // Live values never stop coming.
            assert!(Instant::now() < until, "of {TOPICS:?} only {figures:#?}");
            let message = self.watch.message();
            let topic = message.topic.strip_prefix("$SYS/broker/").expect("what was subscribed to");
            let value = String::from_utf8(message.payload).expect("figures are text");
            assert!(TOPICS.contains(&topic), "no test knows {topic}");
            figures.entry(topic.to_owned()).or_insert(value);
        }
        self.watch.unsubscribe("$SYS/#");
        self.watch.forget_messages();
        figures
    }

    /// Waits until these values and those of the traffic are as expected.
    fn expect(&mut self, when: &str, wanted: &[(&str, u64)]) -> Figures {
        let until = Instant::now() + PATIENCE;
        loop {
            // It waits for two updates, so that the second one includes everything before.
            std::thread::sleep(Duration::from_millis(2100));
            let tally = self.tally();
            let figures = self.figures();
            let traffic = [
                ("messages/received", tally.packets_sent),
                ("messages/sent", tally.packets_received),
                ("publish/messages/received", tally.publishes_sent),
                ("publish/messages/sent", tally.publishes_received),
                ("publish/bytes/received", tally.payload_bytes_sent),
                ("publish/bytes/sent", tally.payload_bytes_received),
                ("bytes/received", tally.bytes_sent),
                ("bytes/sent", tally.bytes_received),
            ];
            let wrong: Vec<String> = wanted
                .iter()
                .chain(&traffic)
                .filter(|(topic, value)| figures[*topic] != value.to_string())
                .map(|(topic, value)| format!("{topic} is {}, not {value}", figures[*topic]))
                .collect();
            if wrong.is_empty() {
                return figures;
            }
            assert!(Instant::now() < until, "{when}: {wrong:#?}");
        }
    }
}

/// The values are many more than the limit, and are still there.
#[test]
fn figures_do_not_count_in_the_limits_of_retained_messages() {
    let rest = "[runtime]\nshards = 1\n[sys]\ninterval_seconds = 1\n\
                [limits]\nretained_messages = 2\nretained_bytes = 1024\n";
    let running = Running::start("sys-limits", rest);
    let mut client = running.client("client");
    client.subscribe("$SYS/broker/+/#", 0);
    let mut figures = std::collections::BTreeSet::new();
    let until = Instant::now() + PATIENCE;
    while figures.len() < TOPICS.len() {
        figures.insert(client.message().topic);
        assert!(Instant::now() < until, "{} of {} figures", figures.len(), TOPICS.len());
    }
    // 0x10: no client has subscribed to it.
    for (topic, reason) in [("a", 0x10), ("b", 0x10), ("c", 0x97), ("b", 0x10)] {
        assert_eq!(client.publish_acknowledged(topic, b"kept", true), reason, "{topic}");
    }
    // A bridge's state is a client's message.
    assert_eq!(client.publish_acknowledged("$SYS/broker/connection/edge/state", b"1", true), 0x97);
}

fn uptime_seconds(figures: &Figures) -> u64 {
    let seconds = figures["uptime"].strip_suffix(" seconds").expect("mosquitto's words");
    seconds.parse().expect("a number")
}

fn figures_agree_with_what_happened(shards: usize) {
    let started = Instant::now();
    let mut world = World::start(&format!("sys{shards}"), shards);
    let topics = TOPICS.len() as u64;

    let figures = world.expect(
        "alone",
        &[
            ("clients/connected", 1),
            ("clients/active", 1),
            ("clients/total", 1),
            ("clients/maximum", 1),
            ("clients/disconnected", 0),
            ("clients/inactive", 0),
            ("clients/expired", 0),
            ("subscriptions/count", 0),
            ("shared_subscriptions/count", 0),
            // The values are retained messages themselves.
            ("retained messages/count", topics),
            ("messages/stored", 0),
            ("store/messages/count", 0),
            ("store/messages/bytes", 0),
            ("publish/messages/dropped", 0),
            ("connections/open", 1),
            ("connections/socket/count", 1),
        ],
    );
    assert_eq!(figures["version"], concat!("midge version ", env!("CARGO_PKG_VERSION")));
    let first_uptime = uptime_seconds(&figures);

    for id in KEPT {
        world.connect(id, true, 3600);
        world.client(id).subscribe("t/+", 1);
    }
    for id in ["c0", "c1", "c2"] {
        world.client(id).subscribe("$share/group/s/#", 0);
    }
    world.connect("brief", true, 1);
    world.client("brief").subscribe("brief/#", 1);
    // Subscribing again does not add a second subscription. [MQTT5-3.8.4-3]
    world.client("c0").subscribe("t/+", 1);
    for number in 0..10 {
        assert_eq!(world.client("c0").publish_acknowledged("t/x", &[b'x'; 100], false), 0);
        world.client("c1").publish("nobody/listens", b"lost", false);
        for id in KEPT {
            assert_eq!(world.client(id).message().payload, [b'x'; 100], "{number} for {id}");
        }
    }
    world.client("c0").publish_acknowledged("r/1", b"kept", true);
    world.client("c1").publish("r/2", b"kept", true);
    world.client("c2").publish("r/3", b"kept", true);
    world.expect(
        "all are here",
        &[
            ("clients/connected", 10),
            ("clients/active", 10),
            ("clients/total", 10),
            ("clients/maximum", 10),
            ("clients/disconnected", 0),
            ("subscriptions/count", 9),
            ("shared_subscriptions/count", 3),
            ("retained messages/count", topics + 3),
            ("messages/stored", 0),
            ("publish/messages/dropped", 0),
            ("connections/open", 10),
            ("connections/socket/count", 10),
        ],
    );

    world.client("c0").unsubscribe("$share/group/s/#");
    world.client("c1").publish("r/1", b"", true);
    for id in ["c3", "c4", "brief"] {
        world.disconnect(id);
    }
    for _ in 0..8 {
        // It is 0x97 if the full queue is on the publisher's shard, which another test checks.
        world.client("c0").publish_acknowledged("t/y", b"y", false);
    }
    for id in KEPT.iter().filter(|id| !["c3", "c4"].contains(id)) {
        for _ in 0..8 {
            world.client(id).message();
        }
    }
    let figures = world.expect(
        "three are away, one of them for good",
        &[
            ("clients/connected", 7),
            ("clients/active", 7),
            ("clients/total", 9),
            ("clients/maximum", 10),
            ("clients/disconnected", 2),
            ("clients/inactive", 2),
            ("clients/expired", 1),
            ("subscriptions/count", 8),
            ("shared_subscriptions/count", 2),
            ("retained messages/count", topics + 2),
            ("messages/stored", 10),
            ("store/messages/count", 10),
            ("publish/messages/dropped", 6),
            ("publish/messages/dropped/queue_full", 6),
            ("connections/open", 7),
            ("connections/socket/count", 10),
        ],
    );
    assert!(figures["store/messages/bytes"].parse::<u64>().expect("a number") > 0);

    world.connect("c3", false, 3600);
    for _ in 0..5 {
        assert_eq!(world.client("c3").message().payload, b"y");
    }
    // The session is new: it has neither the queue nor the subscription of the old one.
    world.connect("c4", true, 3600);
    world.connect("c5", false, 3600);
    world.vanish("c6");
    let figures = world.expect(
        "two are back, one was taken over, one vanished",
        &[
            ("clients/connected", 8),
            ("clients/active", 8),
            ("clients/total", 9),
            ("clients/maximum", 10),
            ("clients/disconnected", 1),
            ("clients/inactive", 1),
            ("clients/expired", 1),
            ("clients/ended/taken_over", 1),
            ("clients/ended/violation", 0),
            ("subscriptions/count", 7),
            ("shared_subscriptions/count", 2),
            ("messages/stored", 0),
            ("store/messages/count", 0),
            ("store/messages/bytes", 0),
            ("publish/messages/dropped", 6),
            ("connections/open", 8),
            ("connections/socket/count", 13),
        ],
    );
    let last_uptime = uptime_seconds(&figures);
    assert!(last_uptime > first_uptime, "{last_uptime} after {first_uptime}");
    assert!(last_uptime <= started.elapsed().as_secs() + 1, "{last_uptime} of {:?}", started.elapsed());
}

#[test]
fn sys_figures_agree_with_what_happened_on_one_shard() {
    figures_agree_with_what_happened(1);
}

#[test]
fn sys_figures_agree_with_what_happened_on_two_shards() {
    figures_agree_with_what_happened(2);
}

#[test]
fn sys_figures_keep_moving_for_who_is_subscribed() {
    let mut world = World::start("sys-live", 2);
    world.watch.subscribe("$SYS/broker/bytes/sent", 0);
    let mut last = 0;
    for _ in 0..3 {
        let message = world.watch.message();
        let value: u64 = String::from_utf8_lossy(&message.payload).parse().expect("a number");
        assert!(last == 0 || (value > last && !message.retain), "{value} after {last}, {message:?}");
        last = value;
    }
}

/// An average with its two decimals.
fn average(figures: &Figures, topic: &str) -> f64 {
    let value = &figures[topic];
    assert_eq!(value.split_once('.').map(|(_, decimals)| decimals.len()), Some(2), "{topic} is {value}");
    value.parse().expect("a number")
}

/// The topics that an exporter for mosquitto reads.
#[test]
fn averages_and_heap_are_read_under_mosquittos_names() {
    let mut world = World::start("sys-load", 2);
    world.connect("reader", true, 0);
    world.client("reader").subscribe("t", 0);
    let flows = ["messages/received", "messages/sent", "publish/received", "publish/sent"];
    let others = ["bytes/received", "bytes/sent", "sockets", "connections"];
    let until = Instant::now() + PATIENCE;
    let figures = loop {
        for _ in 0..100 {
            world.watch.publish("t", b"message", false);
            world.client("reader").message();
        }
        let figures = world.figures();
        let counts = |flow: &&str| average(&figures, &format!("load/{flow}/15min")) > 0.0;
        if flows.iter().chain(&others).all(counts) {
            // All of these are from updates that included each flow.
            break world.figures();
        }
        assert!(Instant::now() < until, "{figures:#?}");
    };
    for flow in flows.iter().chain(&others) {
        // Starting from 0, a shorter average contains more of the new traffic.
        let [one, five, fifteen] =
            ["1min", "5min", "15min"].map(|span| average(&figures, &format!("load/{flow}/{span}")));
        assert!(one > five && five > fifteen, "{flow}: {one}, {five}, {fifteen}");
    }
    assert_eq!(average(&figures, "load/publish/dropped/1min"), 0.0);
    let heap = |topic: &str| figures[topic].parse::<u64>().expect("a number");
    assert!(heap("heap/current") > 0 && heap("heap/maximum") > 0, "{figures:#?}");
}

/// Sessions that outlive their connections, enough for two shards.
const KEPT: [&str; 8] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"];

/// The topics below `$SYS/broker/`.
const TOPICS: &[&str] = &[
    "version",
    "uptime",
    "clients/connected",
    "clients/active",
    "clients/total",
    "clients/maximum",
    "clients/disconnected",
    "clients/inactive",
    "clients/expired",
    "clients/ended/taken_over",
    "clients/ended/keep_alive",
    "clients/ended/permission",
    "clients/ended/violation",
    "messages/received",
    "messages/sent",
    "messages/stored",
    "store/messages/count",
    "store/messages/bytes",
    "store/log/waits",
    "limits/connections",
    "limits/handshakes",
    "limits/handshakes_per_address",
    "limits/connect_bytes",
    "limits/connect_seconds",
    "limits/sessions",
    "limits/packet_bytes",
    "limits/upload_bytes_per_second_min",
    "limits/topic_levels",
    "limits/subscriptions_per_client",
    "limits/retained",
    "limits/receive_maximum",
    "limits/memory",
    "memory/messages",
    "memory/backlogs",
    "memory/packets",
    "memory/sessions",
    "memory/subscriptions",
    "memory/wills",
    "memory/aliases",
    "memory/retained",
    "memory/total",
    "limits/disk",
    "limits/client_rate",
    "limits/listener_rate",
    "limits/backlog",
    "limits/answers",
    "limits/log",
    "limits/mesh",
    "publish/messages/received",
    "publish/messages/sent",
    "publish/messages/dropped",
    "publish/messages/dropped/slow",
    "publish/messages/dropped/queue_full",
    "publish/messages/dropped/too_large",
    "publish/messages/dropped/expired",
    "publish/messages/dropped/denied",
    "publish/messages/refused",
    "publish/messages/unrouted",
    "publish/messages/forwarded",
    "publish/bytes/received",
    "publish/bytes/sent",
    "bytes/received",
    "bytes/sent",
    "subscriptions/count",
    "subscriptions/refused",
    "shared_subscriptions/count",
    "retained messages/count",
    "retained messages/bytes",
    "packet/out/count",
    "packet/out/bytes",
    "heap/current",
    "heap/maximum",
    "load/messages/received/1min",
    "load/messages/received/5min",
    "load/messages/received/15min",
    "load/messages/sent/1min",
    "load/messages/sent/5min",
    "load/messages/sent/15min",
    "load/publish/dropped/1min",
    "load/publish/dropped/5min",
    "load/publish/dropped/15min",
    "load/publish/received/1min",
    "load/publish/received/5min",
    "load/publish/received/15min",
    "load/publish/sent/1min",
    "load/publish/sent/5min",
    "load/publish/sent/15min",
    "load/bytes/received/1min",
    "load/bytes/received/5min",
    "load/bytes/received/15min",
    "load/bytes/sent/1min",
    "load/bytes/sent/5min",
    "load/bytes/sent/15min",
    "load/sockets/1min",
    "load/sockets/5min",
    "load/sockets/15min",
    "load/connections/1min",
    "load/connections/5min",
    "load/connections/15min",
    "connections/socket/count",
    "connections/open",
    "connections/refused/connect",
    "connections/refused/rate",
    "connections/refused/banned",
    "logins/failed",
    "logins/delayed",
    "addresses/banned",
];
