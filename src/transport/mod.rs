//! The layers between the bytes of a socket and the bytes of MQTT. They do no I/O, like the machine above
//! them.

mod layers;
pub mod proxy;
pub mod tls;
pub mod websocket;

pub use layers::{Input, LayerFault, LayerStack, Layers, ProxyHeader, Scratch, TlsIdentity};
