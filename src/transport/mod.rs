//! What stands between the bytes of a socket and the bytes of MQTT: sans-io, like the machine behind it.

mod layers;
pub mod proxy;
pub mod tls;
pub mod websocket;

pub use layers::{Input, LayerFault, LayerStack, Layers, ProxyHeader, Scratch, TlsIdentity};
