//! MQTT 3.1.1 over any stream, as bytes.

use midge_kit::codec::{self, Encode, V311};
pub(super) use midge_kit::{expect, open, read_to_end as rest};
use std::io::{Read, Write};
use std::net::SocketAddr;

pub(super) const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

pub(super) fn connect(id: &str) -> Vec<u8> {
    codec::connect(V311, id).encode(V311)
}

/// A CONNECT with a user name and a password.
pub(super) fn connect_as(id: &str, user: &str, password: &str) -> Vec<u8> {
    codec::connect(V311, id).user(user).password(password).encode(V311)
}

/// The return code in the answer to a connection that sends these bytes.
pub(super) fn return_code(address: SocketAddr, bytes: &[u8]) -> u8 {
    let mut stream = open(address);
    stream.write_all(bytes).expect("a socket takes it");
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).expect("CONNACK");
    connack[3]
}

/// A SUBSCRIBE with QoS 0 and packet identifier 1.
pub(super) fn subscribe(filter: &str) -> Vec<u8> {
    codec::subscribe(1).filter(filter, 0).encode(V311)
}

/// The answer to [`subscribe`].
pub(super) const SUBACK: [u8; 5] = [0x90, 3, 0, 1, 0];

/// A PUBLISH with QoS 0. A subscriber gets the same bytes.
pub(super) fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    codec::publish(topic, payload).encode(V311)
}

/// Sends a message to itself.
pub(super) fn echo(stream: &mut (impl Read + Write), topic: &str, payload: &[u8]) {
    stream.write_all(&subscribe(topic)).expect("the broker reads");
    expect(stream, &SUBACK);
    stream.write_all(&publish(topic, payload)).expect("the broker reads");
    expect(stream, &publish(topic, payload));
}
