//! MQTT as bytes, for both sides of a test: [`Encode`] makes what a client sends, well formed or not, and [`decode`]
//! holds what a server sends to the standard. It shares no line with midge's own codec: a mistake there must not
//! hide itself here.

#![allow(missing_docs, reason = "packets, fields and constants are called what the standard calls them")]

mod decode;
mod encode;

pub use decode::{Kind, Packet, Value, body_of, decode, decode_all, packet_length};
pub use encode::*;
