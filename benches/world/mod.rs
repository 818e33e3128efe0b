//! The machine without a kernel, for measuring: one shard whose connections are byte strings.
//!
//! Publishers send, every subscriber answers what its QoS asks for, until all is acknowledged: a
//! [`World::round`]. The bytes of one connection in one turn arrive as one read, and a turn ends as
//! it does behind the driver: effects carried out, each connection's ranges read, the outbox
//! cleared. After the first rounds the world itself allocates nothing, so that allocations may be
//! counted around it; what it costs is the small part of a round that [`World::read_outbox`] takes.

use midge::base::{ConnectionSlot, Time};
use midge::broker::{Backlog, Effect, Shard, Shared};
use midge::mqtt::codec::{Framing, PACKET_BYTES_LIMIT, frame};
use midge::mqtt::{ProtocolVersion, QoS};
use midge::settings::Config;
use midge_kit::codec::{self, Encode, V5, V31, V311, Version};
use std::net::SocketAddr;
use std::sync::Arc;

/// Who there is, and what a round is.
#[derive(Clone, Copy)]
pub(crate) struct Scene {
    /// What all speak.
    pub(crate) version: ProtocolVersion,
    /// Of the messages and of the subscriptions.
    pub(crate) qos: QoS,
    /// Each has a topic of its own.
    pub(crate) publishers: usize,
    /// Subscribers of each topic, by an exact filter.
    pub(crate) subscribers: usize,
    /// Messages that each publisher sends in one go, at most 100.
    pub(crate) burst: u16,
    /// Subscription identifier of every subscription (5.0), 0: none.
    pub(crate) subscription_id: u8,
    /// Receive Maximum of every subscriber (5.0), 0: none.
    pub(crate) receive_maximum: u16,
    /// Clients beside them whose sockets take nothing of what waits for them.
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

    /// How many messages arrive in a round.
    pub(crate) fn deliveries(&self) -> usize {
        self.publishers * self.subscribers * usize::from(self.burst)
    }
}

/// Bytes of every message.
const PAYLOAD: [u8; 64] = [b'p'; 64];

/// One shard and its connections: the publishers have the first slots, in order.
pub(crate) struct World {
    scene: Scene,
    shard: Shard,
    now: Time,
    /// By publisher: what it sends in each round.
    publishes: Vec<Vec<u8>>,
    /// What arrives in the next turn.
    input: Input,
    /// What arrives in this one; kept for its memory.
    arriving: Input,
    delivered: usize,
    acknowledged: usize,
}

/// Bytes by connection.
#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
    /// Slot, and where its bytes end.
    reads: Vec<(ConnectionSlot, usize)>,
}

impl World {
    /// Everyone is connected and subscribed.
    pub(crate) fn new(scene: Scene) -> World {
        let mut config = Config::default();
        config.sys.interval_seconds = 0;
        let (shared, mut interests) = Shared::new(config, 1, 7);
        let interest = interests.pop().expect("one shard");
        let mut world = World {
            scene,
            shard: Shard::new(0, Arc::new(shared), interest, 100),
            now: Time::from_millis(1),
            publishes: (0..scene.publishers).map(|at| publishes(&scene, at)).collect(),
            input: Input::default(),
            arriving: Input::default(),
            delivered: 0,
            acknowledged: 0,
        };
        world.shard.handle_start(world.now);
        for slot in 0..scene.publishers * (1 + scene.subscribers) {
            world.connect(ConnectionSlot::new(slot as u32));
        }
        for subscriber in 0..scene.publishers * scene.subscribers {
            let packet = subscribe(&scene, subscriber % scene.publishers);
            world.shard.handle_bytes(
                world.now,
                ConnectionSlot::new((scene.publishers + subscriber) as u32),
                &packet,
            );
            world.turn();
        }
        let served = scene.publishers * (1 + scene.subscribers);
        for slot in served..served + scene.stuck {
            world.connect(ConnectionSlot::new(slot as u32));
            world.shard.handle_backlog(
                world.now,
                ConnectionSlot::new(slot as u32),
                Backlog { bytes: 2 << 20, taken: 0 },
            );
            world.turn();
        }
        world
    }

    /// From the publishers' bytes to the last acknowledgement; how many messages were delivered.
    #[inline(never)]
    pub(crate) fn round(&mut self) -> usize {
        (self.delivered, self.acknowledged) = (0, 0);
        for slot in 0..self.publishes.len() {
            self.end_turn_if_spent();
            self.shard.handle_bytes(self.now, ConnectionSlot::new(slot as u32), &self.publishes[slot]);
        }
        self.turn();
        // A burst to many is more than a turn has room for.
        while !self.input.reads.is_empty() || self.shard.has_deferred() {
            std::mem::swap(&mut self.input, &mut self.arriving);
            let mut start = 0;
            for at in 0..self.arriving.reads.len() {
                self.end_turn_if_spent();
                let (slot, end) = self.arriving.reads[at];
                self.shard.handle_bytes(self.now, slot, &self.arriving.bytes[start..end]);
                start = end;
            }
            self.arriving.clear();
            self.turn();
        }
        let published = if self.scene.qos == QoS::AtMostOnce { 0 } else { self.scene.publishers };
        assert_eq!(self.acknowledged, published * usize::from(self.scene.burst));
        assert_eq!(self.delivered, self.scene.deliveries());
        self.delivered
    }

    fn connect(&mut self, slot: ConnectionSlot) {
        self.shard.handle_open(self.now, slot, SocketAddr::from(([127, 0, 0, 1], 1)), 0, false);
        let version = version_of(&self.scene);
        let mut connect = codec::connect(version, format!("client-{:05}", slot.get()));
        if version == V5 && self.scene.receive_maximum != 0 {
            connect = connect.with(codec::two(codec::RECEIVE_MAXIMUM, self.scene.receive_maximum));
        }
        self.shard.handle_bytes(self.now, slot, &connect.encode(version));
        self.turn();
    }

    /// A turn takes no more than it has room for, as the driver's.
    fn end_turn_if_spent(&mut self) {
        if self.shard.is_spent() {
            self.turn();
        }
    }

    /// The end of a turn, as the driver's.
    fn turn(&mut self) {
        self.shard.handle_turn(self.now);
        let mut effects = self.shard.take_effects();
        for effect in effects.drain(..) {
            let is_known = matches!(
                effect,
                Effect::Stream { .. } | Effect::Event(_) | Effect::Pause { .. } | Effect::Resume { .. }
            );
            assert!(is_known, "{effect:?}");
        }
        self.shard.recycle_effects(effects);
        self.read_outbox();
        self.shard.outbox().clear();
        self.now = Time::from_micros(self.now.as_micros() + 1);
    }

    /// Every client reads what it got and says what that asks for.
    #[inline(never)]
    fn read_outbox(&mut self) {
        let outbox = &*self.shard.outbox();
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
    }
}

impl Input {
    fn clear(&mut self) {
        self.bytes.clear();
        self.reads.clear();
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
