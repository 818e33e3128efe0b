//! What mosquitto's bridges receive: each message once, and retained ones as retained. `[MQTT311 §3.1-r]`.

use super::basics::{connect, quiet};
use crate::broker::world::World;

/// CONNECT with clean session 0 and a protocol level. Returns the data that follow CONNACK.
fn connect_at(world: &mut World, name: &str, level: u8) -> (usize, Vec<u8>) {
    let mut packet = vec![0x10, u8::try_from(12 + name.len()).unwrap(), 0, u8::try_from(name.len()).unwrap()];
    packet.extend_from_slice(name.as_bytes());
    packet.extend_from_slice(&[level, 0, 0, 60, 0, 4]);
    packet.extend_from_slice(b"edge");
    let link = world.open(0);
    world.send(link, &packet);
    let mut bytes = world.take(link);
    let rest = bytes.split_off(4);
    assert_eq!((bytes[0], bytes[3]), (0x20, 0), "{name} {level} is in");
    (link, rest)
}

/// A SUBSCRIBE at QoS 1.
fn subscribe(world: &mut World, link: usize, filter: &str) {
    subscribe_only(world, link, filter);
    assert_eq!(world.take(link), b"\x90\x03\x00\x01\x01", "{filter}");
}

/// The same without reading the answer.
fn subscribe_only(world: &mut World, link: usize, filter: &str) {
    let length = u8::try_from(filter.len()).unwrap();
    let mut packet = vec![0x82, 5 + length, 0, 1, 0, length];
    packet.extend_from_slice(filter.as_bytes());
    packet.push(1);
    world.send(link, &packet);
}

const RETAINED_UP: &[u8] = b"\x31\x0A\x00\x07site1/u1";
const RETAINED_DOWN: &[u8] = b"\x31\x0A\x00\x07site1/d2";
/// The same for a subscriber without Retain As Published.
const LIVE_DOWN: &[u8] = b"\x30\x0A\x00\x07site1/d2";
const DOWN: &[u8] = b"\x30\x0A\x00\x07site1/d3";
const ACKNOWLEDGED_DOWN: &[u8] = b"\x33\x0C\x00\x07site1/d\x00\x094";

/// The levels of a bridge of 3.1.1 and of 3.1, and the levels of other clients.
const LEVELS: [(&str, u8, bool); 4] =
    [("MQTT", 0x84, true), ("MQIsdp", 0x83, true), ("MQTT", 4, false), ("MQIsdp", 3, false)];

#[test]
fn a_bridge_gets_nothing_back_and_retained_messages_as_retained() {
    for (name, level, is_bridge) in LEVELS {
        for shards in [1, 2] {
            let mut world = quiet(shards);
            let (edge, _) = connect_at(&mut world, name, level);
            subscribe(&mut world, edge, "site1/#");
            let centre = connect(&mut world, shards - 1, "centre", 60);
            subscribe(&mut world, centre, "site1/u");

            world.send(edge, RETAINED_UP);
            assert_eq!(world.take(centre), b"\x30\x0A\x00\x07site1/u1");
            let back: &[u8] = if is_bridge { b"" } else { b"\x30\x0A\x00\x07site1/u1" };
            assert_eq!(world.take(edge), back, "{name} {level}");

            world.send(centre, RETAINED_DOWN);
            assert_eq!(world.take(edge), if is_bridge { RETAINED_DOWN } else { LIVE_DOWN });
            world.send(centre, DOWN);
            assert_eq!(world.take(edge), DOWN, "what was not retained is not");
        }
    }
}

#[test]
fn many_filters_of_a_bridge_are_all_a_bridges_and_shared_ones_too() {
    // More filters than one visit handles.
    const FILTERS: u16 = 3000;
    let mut world = quiet(1);
    let (edge, _) = connect_at(&mut world, "MQTT", 0x84);
    let mut body = vec![0, 1];
    for number in 0..FILTERS {
        body.extend_from_slice(&[0, 7]);
        body.extend_from_slice(format!("t/{number:05}").as_bytes());
        body.push(0);
    }
    let length = [128 + body.len() % 128, 128 + body.len() / 128 % 128, body.len() / 16_384];
    let mut packet = vec![0x82];
    packet.extend(length.map(|byte| u8::try_from(byte).unwrap()));
    packet.extend_from_slice(&body);
    world.send(edge, &packet);
    assert_eq!(world.take(edge).len(), 5 + usize::from(FILTERS));
    let centre = connect(&mut world, 0, "centre", 60);
    for number in [0, FILTERS / 2, FILTERS - 1] {
        let publish = format!("\x31\x0A\x00\x07t/{number:05}x");
        world.send(edge, publish.as_bytes());
        assert_eq!(world.take(edge), b"");
        world.send(centre, publish.as_bytes());
        assert_eq!(world.take(edge), publish.as_bytes());
    }

    // No Local is not allowed for shared subscriptions. [MQTT5-3.8.3-4]
    subscribe(&mut world, edge, "$share/g/site1/#");
    world.send(edge, RETAINED_UP);
    assert_eq!(world.take(edge), RETAINED_UP);
}

#[test]
fn the_session_of_a_bridge_stays_one_over_a_restart() {
    for (name, level, is_bridge) in LEVELS {
        let mut world = quiet(2);
        let (edge, _) = connect_at(&mut world, name, level);
        subscribe(&mut world, edge, "site1/#");
        let mut world = world.cut_power(2, 1000);
        let centre = connect(&mut world, 1, "centre", 60);
        world.send(centre, ACKNOWLEDGED_DOWN);
        assert_eq!(world.take(centre), b"\x40\x02\x00\x09");
        let (edge, waited) = connect_at(&mut world, name, level);
        assert_eq!(waited[0], if is_bridge { 0x33 } else { 0x32 }, "{name} {level}: {waited:?}");
        // This is before it subscribes again.
        world.send(edge, RETAINED_UP);
        assert_eq!(world.take(edge).is_empty(), is_bridge);
    }
}

/// The topic belongs to the client, although it is below `$SYS`.
#[test]
fn the_state_that_a_bridge_tells_is_kept_over_a_restart() {
    const STATE: &str = "$SYS/broker/connection/edge/state";
    let mut world = quiet(2);
    let (edge, _) = connect_at(&mut world, "MQTT", 0x84);
    let mut packet = vec![0x33, 38, 0, 33];
    packet.extend_from_slice(STATE.as_bytes());
    packet.extend_from_slice(b"\x00\x091");
    world.send(edge, &packet);
    assert_eq!(world.take(edge), b"\x40\x02\x00\x09");
    let mut world = world.cut_power(2, 0);
    let watcher = connect(&mut world, 0, "watcher", 60);
    subscribe_only(&mut world, watcher, STATE);
    let bytes = world.take(watcher);
    assert_eq!((bytes[..2].to_vec(), bytes.last()), (vec![0x90, 3], Some(&b'1')), "{bytes:?}");
}
