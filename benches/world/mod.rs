//! A shard without a kernel, for measuring: the real host and machine, with connections that are byte strings.
//!
//! The publishers send, and every subscriber answers as its QoS demands, until everything is acknowledged:
//! this is a [`World::round`]. The bytes of one connection in one turn arrive in one read. After the first
//! rounds the clients themselves allocate nothing, so allocations can be counted around a round. Their own
//! cost is the small part of a round in [`Clients::read`].

use midge::base::log_files::{FileDone, FileId, FileOperation, LogFiles, LogWork};
use midge::base::{ClockReading, ConnectionSlot, Time};
use midge::broker::Shared;
use midge::broker::outbox::Outbox;
use midge::control::access_policies::AccessPolicies;
use midge::control::logins::Logins;
use midge::host::{Control, Host, Io, IoEvent, ShardMessage, ShardStart, SocketEnd};
use midge::mqtt::codec::{Framing, PACKET_BYTES_LIMIT, frame};
use midge::mqtt::{ProtocolVersion, QoS};
use midge::settings::{Config, Limits};
use midge_kit::codec::{self, Encode, V5, V31, V311, Version};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The clients, and the content of a round.
#[derive(Clone, Copy)]
pub(crate) struct Scene {
    /// The version that all clients use.
    pub(crate) version: ProtocolVersion,
    /// The QoS of the messages and of the subscriptions.
    pub(crate) qos: QoS,
    /// The number of publishers. Each has a topic of its own.
    pub(crate) publishers: usize,
    /// The number of subscribers of each topic, with an exact filter.
    pub(crate) subscribers: usize,
    /// The number of messages that each publisher sends at once, at most 100.
    pub(crate) burst: u16,
    /// The subscription identifier of every subscription (5.0); 0: none.
    pub(crate) subscription_id: u8,
    /// The Receive Maximum of every subscriber (5.0); 0: none.
    pub(crate) receive_maximum: u16,
    /// The number of further clients whose sockets take nothing.
    pub(crate) stuck: usize,
}

impl Scene {
    /// One message from one publisher to one subscriber.
    pub(crate) fn new(version: ProtocolVersion, qos: QoS) -> Scene {
        Scene {
            version,
            qos,
            publishers: 1,
            subscribers: 1,
            burst: 1,
            subscription_id: 0,
            receive_maximum: 0,
            stuck: 0,
        }
    }

    /// The number of messages that are delivered in a round.
    pub(crate) fn deliveries(&self) -> usize {
        self.publishers * self.subscribers * usize::from(self.burst)
    }
}

/// The payload of every message.
const PAYLOAD: [u8; 64] = [b'p'; 64];

/// One shard and its connections. The publishers have the first slots, in order.
pub(crate) struct World {
    host: Host<Clients>,
}

/// The clients of a shard, as its host sees them.
pub(crate) struct Clients {
    scene: Scene,
    now: Time,
    /// By publisher: the bytes that it sends in each round.
    publishes: Vec<Vec<u8>>,
    /// The events of the next turn, besides `input`.
    events: Vec<IoEvent<Received>>,
    /// The bytes that arrive in the next turn.
    input: Input,
    /// The bytes that have arrived in this turn. It is kept to reuse its memory.
    arriving: Input,
    connections: usize,
    /// Whether the host has events that did not fit into its turn.
    is_busy: bool,
    delivered: usize,
    acknowledged: usize,
}

/// The place of received bytes.
#[derive(Debug)]
pub(crate) enum Received {
    /// The bytes that a publisher sends in each round.
    Publishes(usize),
    /// A range of `arriving`.
    Arriving(usize, usize),
    /// Other bytes.
    Bytes(Vec<u8>),
}

/// Bytes by connection.
#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
    /// The slot, and the end of its bytes.
    reads: Vec<(ConnectionSlot, usize)>,
}

impl World {
    /// A world in which all clients are connected and subscribed.
    pub(crate) fn new(scene: Scene) -> World {
        let mut config = Config::default();
        config.sys.interval_seconds = 0;
        let policies = AccessPolicies::load(&config).expect("no listener names a file");
        let logins = Logins::start(&policies).expect("no thread is needed");
        let (shared, mut interests) = Shared::new(config.clone(), 1, 7);
        let start = ShardStart {
            id: 0,
            shared: Arc::new(shared),
            control: Arc::new(Control::new(&config, policies, 1 << 20, Box::new(logins), 7)),
            listeners: vec![(0, ())],
            new_listeners: None,
            bell: Arc::new(|| {}),
            questions: None,
            interest: interests.pop().expect("one shard"),
            seed: 100,
        };
        let clients = Clients {
            scene,
            now: Time::from_millis(1),
            publishes: (0..scene.publishers).map(|at| publishes(&scene, at)).collect(),
            events: Vec::new(),
            input: Input::default(),
            arriving: Input::default(),
            connections: 0,
            is_busy: false,
            delivered: 0,
            acknowledged: 0,
        };
        let mut world = World { host: Host::new(start, clients) };
        world.host.begin(None).expect("nothing is kept");
        world.turns();
        for slot in (0..(scene.publishers * (1 + scene.subscribers)) as u32).map(ConnectionSlot::new) {
            world.connect(slot);
        }
        for subscriber in 0..scene.publishers * scene.subscribers {
            let packet = subscribe(&scene, subscriber % scene.publishers);
            world.send(ConnectionSlot::new((scene.publishers + subscriber) as u32), packet);
        }
        let served = scene.publishers * (1 + scene.subscribers);
        for slot in served..served + scene.stuck {
            world.connect(ConnectionSlot::new(slot as u32));
            let backlog =
                IoEvent::Backlogged { slot: ConnectionSlot::new(slot as u32), bytes: 2 << 20, taken: 0 };
            world.host.io().events.push(backlog);
            world.turns();
        }
        world
    }

    /// Runs from the publishers' bytes to the last acknowledgement. Returns the number of delivered messages.
    #[inline(never)]
    pub(crate) fn round(&mut self) -> usize {
        let clients = self.host.io();
        (clients.delivered, clients.acknowledged) = (0, 0);
        for slot in 0..clients.publishes.len() {
            let buffer = Received::Publishes(slot);
            clients.events.push(IoEvent::Received { slot: ConnectionSlot::new(slot as u32), buffer });
        }
        self.turns();
        let clients = self.host.io();
        let scene = clients.scene;
        let published = if scene.qos == QoS::AtMostOnce { 0 } else { scene.publishers };
        assert_eq!(clients.acknowledged, published * usize::from(scene.burst));
        assert_eq!(clients.delivered, scene.deliveries());
        clients.delivered
    }

    /// Runs turns until nothing is left to do. A burst to many subscribers does not fit into one turn.
    fn turns(&mut self) {
        while {
            assert!(self.host.turn().expect("there is no ring that could fail"), "it goes on");
            self.host.io().has_more() || self.host.machine().has_deferred()
        } {}
    }

    fn connect(&mut self, slot: ConnectionSlot) {
        let clients = self.host.io();
        let scene = clients.scene;
        clients.connections += 1;
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        clients.events.push(IoEvent::Accepted { listener: 0, slot, peer });
        let version = version_of(&scene);
        let mut connect = codec::connect(version, format!("client-{:05}", slot.get()));
        if version == V5 && scene.receive_maximum != 0 {
            connect = connect.with(codec::two(codec::RECEIVE_MAXIMUM, scene.receive_maximum));
        }
        self.send(slot, connect.encode(version));
    }

    fn send(&mut self, slot: ConnectionSlot, bytes: Vec<u8>) {
        self.host.io().events.push(IoEvent::Received { slot, buffer: Received::Bytes(bytes) });
        self.turns();
    }
}

impl Clients {
    fn has_more(&self) -> bool {
        self.is_busy || !self.events.is_empty() || !self.input.reads.is_empty()
    }

    /// Every client reads what it got and sends the answers.
    #[inline(never)]
    fn read(&mut self, outbox: &Outbox) {
        for touched in outbox.touched() {
            for range in outbox.segments_of(touched) {
                let mut bytes = outbox.bytes(range);
                while !bytes.is_empty() {
                    let Ok(Framing::Whole(packet)) = frame(bytes, PACKET_BYTES_LIMIT) else {
                        panic!("payloads of this size are copied behind their headers");
                    };
                    bytes = &bytes[packet.total_len..];
                    let body = packet.body;
                    match packet.first_byte {
                        0x30 => self.delivered += 1,
                        0x32 | 0x34 => {
                            self.delivered += 1;
                            let at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                            let answer = if packet.first_byte == 0x32 { 0x40 } else { 0x50 };
                            self.input.bytes.extend_from_slice(&[answer, 2, body[at], body[at + 1]]);
                        }
                        0x50 => self.input.bytes.extend_from_slice(&[0x62, 2, body[0], body[1]]),
                        0x62 => self.input.bytes.extend_from_slice(&[0x70, 2, body[0], body[1]]),
                        0x40 | 0x70 => self.acknowledged += 1,
                        0x20 => assert_eq!(body[1], 0, "connected"),
                        0x90 => assert_eq!(body.last(), Some(&(self.scene.qos as u8)), "subscribed"),
                        other => panic!("nobody asked for {other:#x}"),
                    }
                }
            }
            let end = self.input.bytes.len();
            if end > self.input.reads.last().map_or(0, |&(_, end)| end) {
                self.input.reads.push((touched.slot, end));
            }
        }
        self.now = Time::from_micros(self.now.as_micros() + 1);
    }
}

impl Io for Clients {
    type Listener = ();
    type Socket = ();
    type Buffer = Received;

    fn now(&self) -> Time {
        self.now
    }

    fn read_clock(&self) -> (Time, ClockReading) {
        (self.now, ClockReading::default())
    }

    fn poll(&mut self, events: &mut Vec<IoEvent<Received>>) {
        events.append(&mut self.events);
        std::mem::swap(&mut self.input, &mut self.arriving);
        self.input.bytes.clear();
        self.input.reads.clear();
        let mut start = 0;
        events.extend(self.arriving.reads.iter().map(|&(slot, end)| {
            let buffer = Received::Arriving(std::mem::replace(&mut start, end), end);
            IoEvent::Received { slot, buffer }
        }));
    }

    fn flush(&mut self, outbox: &Outbox, _events: &mut Vec<IoEvent<Received>>) -> io::Result<()> {
        self.read(outbox);
        Ok(())
    }

    fn park(
        &mut self,
        outbox: &Outbox,
        events: &mut Vec<IoEvent<Received>>,
        _deadline: Option<Duration>,
        _takes_mails: bool,
    ) -> io::Result<()> {
        self.read(outbox);
        self.is_busy = !events.is_empty();
        Ok(())
    }

    fn set_backlog_bytes_max(&mut self, _bytes: usize) {}

    fn listen(&mut self, _listener: u16, (): ()) {}

    fn close_listener(&mut self, _: u16) {}
    fn tune_listeners(&mut self, _: &Limits) -> io::Result<()> {
        Ok(())
    }
    fn stop_listening(&mut self) {}

    fn connections(&self) -> usize {
        self.connections
    }

    fn bytes<'a>(&'a self, buffer: &'a Received) -> &'a [u8] {
        match buffer {
            Received::Publishes(publisher) => &self.publishes[*publisher],
            Received::Arriving(start, end) => &self.arriving.bytes[*start..*end],
            Received::Bytes(bytes) => bytes,
        }
    }

    fn give_back(&mut self, _buffer: Received) {}

    fn hold(&mut self, _slot: ConnectionSlot, _buffer: Received, _consumed: usize) {
        unreachable!("nothing is held");
    }

    fn hold_hangup(&mut self, _slot: ConnectionSlot, _cause: SocketEnd) -> bool {
        false
    }

    fn is_held(&self, _slot: ConnectionSlot) -> bool {
        false
    }

    fn receive_once(&mut self, _slot: ConnectionSlot) {}

    fn receive_stream(&mut self, _slot: ConnectionSlot) {}

    // A machine that has enough for a turn keeps the rest of its input.
    fn pause(&mut self, _slot: ConnectionSlot) {}

    fn resume(&mut self, _slot: ConnectionSlot) {}

    fn close(&mut self, slot: ConnectionSlot) {
        panic!("client {slot:?} is closed");
    }

    fn abort(&mut self, slot: ConnectionSlot) {
        panic!("client {slot:?} is refused");
    }

    fn detach(&mut self, _slot: ConnectionSlot) -> Option<()> {
        unreachable!("there is one shard");
    }

    fn adopt(&mut self, (): ()) -> ConnectionSlot {
        unreachable!("there is one shard");
    }

    fn send(&mut self, _to: usize, message: ShardMessage<()>, _bytes: usize) -> Result<(), ShardMessage<()>> {
        Err(message)
    }

    fn waiting(&self, _from: usize) -> usize {
        0
    }

    fn receive(&mut self, _from: usize) -> Option<ShardMessage<()>> {
        None
    }

    fn has_messages(&self) -> bool {
        false
    }

    fn next_file_done(&mut self) -> Option<FileDone> {
        None
    }

    fn await_files(&mut self, _patience: Duration) -> io::Result<()> {
        unreachable!("nothing is kept");
    }

    fn give_memory_back(&mut self) {}
}

impl LogFiles for Clients {
    fn begin(&mut self, _work: LogWork, _operation: FileOperation) {
        unreachable!("nothing is kept");
    }

    fn write(&mut self, _: LogWork, _: FileId, _: u64, _: usize, _fill: impl FnOnce(&mut [u8])) {
        unreachable!("nothing is kept");
    }

    fn close_file(&mut self, _file: FileId) {}

    fn is_found(&self, _path: &Path, _file: FileId) -> io::Result<bool> {
        Ok(true)
    }
}

fn topic(publisher: usize) -> String {
    format!("site/{publisher:05}/state")
}

fn version_of(scene: &Scene) -> Version {
    match scene.version {
        ProtocolVersion::V31 => V31,
        ProtocolVersion::V311 => V311,
        ProtocolVersion::V5 => V5,
    }
}

fn publishes(scene: &Scene, publisher: usize) -> Vec<u8> {
    let message = |id| codec::publish(topic(publisher), PAYLOAD).qos(scene.qos as u8, id);
    (1..=scene.burst).flat_map(|id| message(id).encode(version_of(scene))).collect()
}

fn subscribe(scene: &Scene, publisher: usize) -> Vec<u8> {
    let mut subscribe = codec::subscribe(1).filter(topic(publisher), scene.qos as u8);
    if scene.version == ProtocolVersion::V5 && scene.subscription_id != 0 {
        subscribe = subscribe.identifier(scene.subscription_id.into());
    }
    subscribe.encode(version_of(scene))
}
