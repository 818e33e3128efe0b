//! MQTT 3.1.1 over any stream, a few packets written out byte by byte.

use crate::client::{packet, string};
use crate::running::PATIENCE;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

pub(super) const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

/// A connection that no read of a test waits on for ever.
pub(super) fn open(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    stream
}

pub(super) fn connect(id: &str) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x04\x02\x00\x00".to_vec();
    string(&mut body, id);
    packet(0x10, &body)
}

/// With a user name and a password.
pub(super) fn connect_as(id: &str, user: &str, password: &str) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x04\xC2\x00\x00".to_vec();
    [id, user, password].into_iter().for_each(|text| string(&mut body, text));
    packet(0x10, &body)
}

/// The return code with which a connection that sends these bytes is answered.
pub(super) fn return_code(address: SocketAddr, bytes: &[u8]) -> u8 {
    let mut stream = open(address);
    stream.write_all(bytes).expect("a socket takes it");
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).expect("CONNACK");
    connack[3]
}

/// With QoS 0 and packet identifier 1.
pub(super) fn subscribe(filter: &str) -> Vec<u8> {
    let mut body = vec![0, 1];
    string(&mut body, filter);
    body.push(0);
    packet(0x82, &body)
}

/// The answer to [`subscribe`].
pub(super) const SUBACK: [u8; 5] = [0x90, 3, 0, 1, 0];

/// With QoS 0; what a subscriber gets is the same.
pub(super) fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    string(&mut body, topic);
    body.extend(payload);
    packet(0x30, &body)
}

pub(super) fn expect(stream: &mut impl Read, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).expect("an answer");
    assert_eq!(got, expected);
}

/// Sends a message to itself.
pub(super) fn echo(stream: &mut (impl Read + Write), topic: &str, payload: &[u8]) {
    stream.write_all(&subscribe(topic)).expect("the broker reads");
    expect(stream, &SUBACK);
    stream.write_all(&publish(topic, payload)).expect("the broker reads");
    expect(stream, &publish(topic, payload));
}

/// What still comes until the broker closes or resets.
pub(super) fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("it stays open: {error}"),
        _ => rest,
    }
}
