//! What stands between the bytes of a socket and the bytes of MQTT: sans-io, like the machine behind it.

pub mod proxy;
pub mod websocket;
