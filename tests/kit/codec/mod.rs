//! MQTT as bytes, for both sides of a test. [`Encode`] makes what a client sends, well-formed or not.
//! [`decode`] checks what a server sends against the standard. It shares no code with midge's own codec, so
//! that a mistake there can't hide here.

#![allow(missing_docs, reason = "packets, fields and constants are called what the standard calls them")]

mod decode;
mod encode;

pub use decode::{Kind, Packet, Value, body_of, decode, decode_all, packet_length};
pub use encode::*;
