//! Packets as text, for the trace.

use crate::audit::number_of;
use midge_kit::codec::{Kind, Packet};

pub fn shown(bytes: &[u8]) -> String {
    let names = [
        "?",
        "CONNECT",
        "CONNACK",
        "PUBLISH",
        "PUBACK",
        "PUBREC",
        "PUBREL",
        "PUBCOMP",
        "SUBSCRIBE",
        "SUBACK",
        "UNSUBSCRIBE",
        "UNSUBACK",
        "PINGREQ",
        "PINGRESP",
        "DISCONNECT",
        "AUTH",
    ];
    let body = bytes.get(2..).unwrap_or_default();
    let id = body.get(..2).map_or(0, |id| u16::from_be_bytes([id[0], id[1]]));
    let name = names[usize::from(bytes[0] >> 4)];
    if matches!(bytes[0] >> 4, 8 | 10) {
        let text: String = body[2..]
            .iter()
            .map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { ' ' })
            .collect();
        return format!("{name} {id} {text}");
    }
    format!("{name} {id}")
}

pub fn described(packet: &Packet) -> String {
    match packet.kind {
        Kind::Publish => {
            let number = number_of(&packet.payload).map_or("empty".into(), |number| format!("m{number}"));
            let retain = if packet.retain { " retain" } else { "" };
            let duplicate = if packet.duplicate { " DUP" } else { "" };
            format!(
                "PUBLISH {number} {} QoS {}{retain}{duplicate} id {}",
                packet.topic_text(),
                packet.qos,
                packet.id
            )
        }
        Kind::Connack => format!("CONNACK {:02X}, session present {}", packet.code, packet.session_present),
        kind => format!("{kind:?} {} {:02X} {:02X?}", packet.id, packet.code, packet.codes),
    }
}
