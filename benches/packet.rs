//! The codec: the cost of framing and decoding a packet, and of encoding one at the end of an arena.

use criterion::{Criterion, criterion_group, criterion_main};
use midge::mqtt::codec::{
    Ack, AckKind, Connack, Connect, Framing, PACKET_BYTES_LIMIT, PublishHeader, decode, encode_ack,
    encode_connack, encode_publish, frame,
};
use midge::mqtt::{PacketId, ProtocolVersion, QoS, Reason};
use midge_kit::codec::frame as packet;
use std::hint::black_box;
use std::time::Duration;

const TOPIC: &str = "site/00001/device/000042/state";
/// The content type and one user property.
const PROPERTIES: &[u8] = b"\x03\0\x10application/json\x26\0\x06source\0\x05pump1";
const SIZES: [(&str, usize); 2] = [("64 B", 64), ("1 KiB", 1024)];

fn header(version: ProtocolVersion, qos: QoS, properties: &[u8]) -> PublishHeader<'_> {
    PublishHeader {
        version,
        dup: false,
        qos,
        retain: false,
        packet_id: (qos != QoS::AtMostOnce).then_some(PacketId::MIN),
        topic: TOPIC,
        topic_alias: None,
        message_expiry_seconds: None,
        forward: [properties, &[], &[]],
        subscription_ids: &[],
    }
}

/// The headers of the measured PUBLISH packets: 3.1.1, 5.0, and 5.0 with properties.
fn headers() -> [(&'static str, PublishHeader<'static>); 3] {
    [
        ("v3.1.1", header(ProtocolVersion::V311, QoS::AtLeastOnce, &[])),
        ("v5.0", header(ProtocolVersion::V5, QoS::AtLeastOnce, &[])),
        ("v5.0 with properties", header(ProtocolVersion::V5, QoS::AtLeastOnce, PROPERTIES)),
    ]
}

fn publish(header: &PublishHeader<'_>, payload_len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    encode_publish(&mut out, header, payload_len);
    out.resize(out.len() + payload_len, b'p');
    out
}

fn config() -> Criterion {
    Criterion::default()
        .sample_size(50)
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500))
}

fn decoding(c: &mut Criterion) {
    use ProtocolVersion::{V5, V311};
    let mut group = c.benchmark_group("decode");
    let mut bench = |name: String, version: ProtocolVersion, bytes: &[u8]| {
        group.bench_function(name, |b| {
            b.iter(|| {
                let Ok(Framing::Whole(found)) = frame(black_box(bytes), PACKET_BYTES_LIMIT) else {
                    panic!("a whole packet")
                };
                decode(version, found).expect("a good packet")
            });
        });
    };
    for (name, header) in headers() {
        for (size_name, size) in SIZES {
            bench(format!("PUBLISH/{name}/{size_name}"), header.version, &publish(&header, size));
        }
    }
    let filters = b"\0\x19site/00001/device/+/state\x01\0\x0Asite/000/#\x02";
    let subscribe = |properties: &[u8]| packet(0x82, &[b"\0\x0A", properties, filters].concat());
    bench("SUBSCRIBE of 2/v3.1.1".to_owned(), V311, &subscribe(b""));
    bench("SUBSCRIBE of 2/v5.0".to_owned(), V5, &subscribe(b"\x02\x0B\x07"));
    bench("PUBACK/v3.1.1".to_owned(), V311, &packet(0x40, b"\0\x01"));
    bench("PUBACK/v5.0".to_owned(), V5, &packet(0x40, b"\0\x01"));
    bench("PUBACK/v5.0 with reason".to_owned(), V5, &packet(0x40, b"\0\x01\x10\0"));

    let v3 = packet(0x10, b"\0\x04MQTT\x04\xC2\0\x3C\0\x0Ddevice-000042\0\x04user\0\x06secret");
    let v5 = packet(
        0x10,
        b"\0\x04MQTT\x05\xC2\0\x3C\x08\x11\0\0\x0E\x10\x21\0\x64\0\x0Ddevice-000042\0\x04user\0\x06secret",
    );
    for (name, bytes) in [("CONNECT/v3.1.1", v3), ("CONNECT/v5.0", v5)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let Ok(Framing::Whole(found)) = frame(black_box(&bytes), PACKET_BYTES_LIMIT) else {
                    panic!("a whole packet")
                };
                Connect::decode(found).expect("a good packet").keep_alive_seconds
            });
        });
    }
    group.finish();
}

fn encoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    let mut arena = Vec::with_capacity(1 << 16);
    let mut bench = |name: String, encode: &dyn Fn(&mut Vec<u8>)| {
        group.bench_function(name, |b| {
            b.iter(|| {
                arena.clear();
                encode(&mut arena);
                black_box(&arena).len()
            });
        });
    };
    // The payload follows the header, as in a variant of up to 512 bytes.
    for (name, header) in headers() {
        for (size_name, size) in SIZES {
            let payload = vec![b'p'; size];
            bench(format!("PUBLISH/{name}/{size_name}"), &|out| {
                encode_publish(out, black_box(&header), payload.len());
                out.extend_from_slice(&payload);
            });
        }
    }
    let puback = Ack { kind: AckKind::Puback, packet_id: PacketId::MIN, reason: Reason::Success };
    let connack = Connack {
        session_present: true,
        receive_maximum: Some(100),
        packet_bytes_max: Some(1 << 20),
        topic_alias_maximum: Some(10),
        assigned_client_id: Some("auto-0123456789abcdef"),
        ..Connack::default()
    };
    for (name, version) in [("v3.1.1", ProtocolVersion::V311), ("v5.0", ProtocolVersion::V5)] {
        bench(format!("PUBACK/{name}"), &|out| encode_ack(out, version, black_box(puback)));
        bench(format!("CONNACK/{name}"), &|out| {
            encode_connack(out, version, Reason::Success, black_box(&connack), u32::MAX);
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = config();
    targets = decoding, encoding
}
criterion_main!(benches);
