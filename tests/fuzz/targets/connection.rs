//! A whole connection against the machine: an input is what a client sends, split at arbitrary places.
//!
//! Two bytes give the parameters: the version of a valid CONNECT before the input, or none at all; one or two
//! shards; limits; one connection or two of the same session; where to split. Other clients are connected at
//! the same time and subscribed to everything. Whatever is sent, the broker must answer in complete packets
//! that a server may send, use a bounded amount of memory, serve the others, and keep no connection.

use crate::world::World;
use midge::broker::Hangup;
use midge::mqtt::codec::{Connect, Framing, PACKET_BYTES_LIMIT};
use midge::settings::Config;
use midge_kit::codec::{
    EVERY_VERSION, Kind, Packet, V5, V31, V311, Version, bytes, decode_all, frame, string,
};

/// The number of bytes of an input that are sent. The rest is ignored.
const SENT_BYTES_MAX: usize = 4096;
/// The largest total size of the answers. Every message of an input may be retained, and sent again for each
/// subscription.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// The time that passes after the client has sent everything, in milliseconds: wills and sessions become due.
const WAIT_MILLIS: u64 = 12_000;

/// The number of client identifiers that are tried until every shard is the home of one.
const WITNESSES_MAX: usize = 16;

/// How the input is sent.
struct Scene {
    /// The version of the CONNECT before the input. Without one, the input must have its own.
    version: Option<Version>,
    shards: usize,
    tight: bool,
    /// Whether the second half is sent on a second connection.
    again: bool,
    will: bool,
    lasting: bool,
    /// Determines where the input is split; 0: nowhere.
    cuts: u8,
}

impl Scene {
    fn of(how: u8, cuts: u8) -> Scene {
        let bit = |position: u8| how >> position & 1 == 1;
        Scene {
            version: [None, Some(V31), Some(V311), Some(V5)][usize::from(how & 0b11)],
            shards: 1 + usize::from(bit(2)),
            tight: bit(3),
            again: bit(4),
            will: bit(5),
            lasting: bit(6),
            cuts,
        }
    }

    fn config(&self) -> Config {
        let mut config = Config::default();
        config.auth.test_method = true;
        if self.tight {
            config.protocol.session_expiry_seconds_max = 2;
            config.protocol.receive_maximum = 2;
            config.protocol.topic_alias_maximum = 3;
            config.protocol.response_information = "replies/".into();
            config.limits.connect_seconds = 1;
            config.limits.connect_bytes = 200;
            config.limits.packet_bytes = 100;
            config.limits.session_queue_messages = 4;
            config.limits.subscriptions_per_client = 3;
            config.limits.topic_levels = 8;
            config.limits.retained_messages = 4;
        }
        config
    }

    fn connect(&self, version: Version) -> Vec<u8> {
        let mut body = bytes(if version == V31 { "'MQIsdp' 03" } else { "'MQTT'" });
        if version != V31 {
            body.push(version as u8);
        }
        body.push(u8::from(!self.lasting) << 1 | if self.will { 0b0010_1100 } else { 0 });
        // There is no keep alive. In 5.0 there are a session of 100 s, a Receive Maximum of 3 and 5 aliases.
        body.extend(bytes("0000"));
        if version == V5 {
            body.extend(bytes("0B 11 00000064 21 0003 22 0005"));
        }
        body.extend(string("f"));
        if self.will {
            // In 5.0 it comes after a second.
            body.extend(bytes(if version == V5 { "05 18 00000001" } else { "" }));
            body.extend(bytes("'will' 'gone'"));
        }
        frame(0x10, &body)
    }
}

/// Runs the target.
pub fn run(input: &[u8]) {
    let [how, cuts, said @ ..] = input else { return };
    let said = &said[..said.len().min(SENT_BYTES_MAX)];
    let scene = Scene::of(*how, *cuts);
    let mut world = World::new(scene.shards, scene.config());
    let witnesses = Witness::at_every_shard(&mut world);
    let half = if scene.again { said.len() / 2 } else { said.len() };
    for part in [&said[..half], &said[half..]] {
        send(&mut world, &scene, part);
        witnesses.iter().for_each(|witness| witness.is_served(&mut world));
        let open: usize = witnesses.iter().filter(|witness| !world.is_closed(witness.link)).count();
        assert_eq!(connections(&mut world), open, "a connection is left");
        if !scene.again {
            break;
        }
    }
    world.pass(WAIT_MILLIS);
    for witness in &witnesses {
        witness.is_served(&mut world);
        world.hang_up(witness.link, Hangup::Closed);
    }
    assert_eq!(connections(&mut world), 0, "a connection is left at the end");
}

/// One connection: the bytes in parts, then its end.
fn send(world: &mut World, scene: &Scene, said: &[u8]) {
    let connect = scene.version.map(|version| scene.connect(version)).unwrap_or_default();
    let all = [&connect[..], said].concat();
    let link = world.open(0);
    let (mut rest, mut chance) = (&all[..], u32::from(scene.cuts));
    let mut answer = Vec::new();
    while !rest.is_empty() {
        chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let piece = match scene.cuts {
            0 => rest.len(),
            _ => (1 + (chance >> 24) as usize % 31).min(rest.len()),
        };
        world.send(link, &rest[..piece]);
        rest = &rest[piece..];
        answer.extend(world.take(link));
        for shard in world.shards() {
            assert!(shard.outbox().is_empty() && shard.outbox().arena_bytes() == 0);
            assert!(!shard.has_deferred(), "the world lets every shard come to rest");
        }
    }
    world.hang_up(link, Hangup::Closed);
    answer.extend(world.take(link));
    assert!(answer.len() <= ANSWER_BYTES_MAX, "{} bytes for {} bytes", answer.len(), all.len());
    check_answer(scene, &all, &answer);
}

/// Checks for complete packets, in the order of a connection, none larger than the client accepts.
fn check_answer(scene: &Scene, said: &[u8], answer: &[u8]) {
    let packets = match scene.version {
        Some(version) => {
            decode_all(answer, version).unwrap_or_else(|breach| panic!("{breach}: {answer:02X?}"))
        }
        // The broker may take it for any version, but it must be one of them.
        None => {
            let read = EVERY_VERSION.map(|version| decode_all(answer, version));
            read.into_iter()
                .find_map(Result::ok)
                .unwrap_or_else(|| panic!("packets of no version: {answer:02X?}"))
        }
    };
    let connacks = packets.iter().filter(|packet| packet.kind == Kind::Connack);
    assert!(connacks.count() <= 1, "CONNACK comes once");
    let welcome = packets.iter().find(|packet| packet.kind != Kind::Auth);
    assert!(welcome.is_none_or(|packet| packet.kind == Kind::Connack), "CONNACK comes first");
    let goodbye = packets.iter().position(|packet| packet.kind == Kind::Disconnect);
    assert!(goodbye.is_none_or(|at| at + 1 == packets.len()), "nothing comes after DISCONNECT");
    if let Ok(Framing::Whole(first)) = midge::mqtt::codec::frame(said, PACKET_BYTES_LIMIT)
        && let Ok(connect) = Connect::decode(first)
    {
        let is_small = |packet: &Packet| packet.bytes.len() <= connect.packet_bytes_max as usize;
        assert!(packets.iter().all(is_small), "a packet is larger than the client takes");
    }
}

fn connections(world: &mut World) -> usize {
    world.shards().map(|shard| shard.connections()).sum()
}

/// A client that follows the rules, subscribed to everything.
struct Witness {
    link: usize,
    version: Version,
}

impl Witness {
    /// As many as are needed to have one with its home on each shard, at least two.
    fn at_every_shard(world: &mut World) -> Vec<Witness> {
        let mut witnesses = Vec::new();
        while witnesses.len() < 2 || world.shards().any(|shard| shard.connections() == 0) {
            assert!(witnesses.len() < WITNESSES_MAX, "a shard is home to nobody");
            let version = if witnesses.len() % 2 == 0 { V5 } else { V311 };
            let name = format!("witness {}", witnesses.len());
            witnesses.push(Witness::connected(world, version, &name));
        }
        witnesses
    }

    fn connected(world: &mut World, version: Version, name: &str) -> Witness {
        let link = world.open(0);
        let (properties, qos) = if version == V5 { ("00", 1) } else { ("", 0) };
        let mut body = bytes("'MQTT'");
        body.extend([version as u8, 0x02, 0, 0]);
        body.extend(bytes(properties));
        body.extend(string(name));
        world.send(link, &frame(0x10, &body));
        let mut body = bytes("0001");
        body.extend(bytes(properties));
        for filter in ["#", "$SYS/broker/uptime"] {
            body.extend(string(filter));
            body.push(qos);
        }
        world.send(link, &frame(0x82, &body));
        Witness { link, version }
    }

    /// Checks that it was sent complete packets, and gets its PINGRESP.
    fn is_served(&self, world: &mut World) {
        if !world.is_closed(self.link) {
            world.send(self.link, &[0xC0, 0x00]);
        }
        let sent = world.take(self.link);
        let packets =
            decode_all(&sent, self.version).unwrap_or_else(|breach| panic!("{breach}: {sent:02X?}"));
        match packets.last() {
            Some(last) if last.kind == Kind::Pingresp => {}
            // Its client identifier was guessed.
            Some(last) if last.kind == Kind::Disconnect => assert_eq!(last.code, 0x8E),
            last => assert!(world.is_closed(self.link), "no PINGRESP, but {last:?}"),
        }
    }
}
