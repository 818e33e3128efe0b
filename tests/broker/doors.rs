//! What stands before MQTT on a listener: PROXY header, TLS and WebSocket, as clients from outside meet them.

mod identity;
pub(crate) mod pki;
mod proxy;
mod rates;
mod reload;
mod tls;
mod unix;
pub(crate) mod websocket;
mod wire;
