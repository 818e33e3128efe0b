//! The layers below MQTT on a listener: PROXY header, TLS and WebSocket, tested with clients over the
//! network.

mod anonymous;
mod certificates;
mod files;
mod forwarded;
mod identity;
pub(crate) mod pki;
mod proxy;
mod rates;
mod reload;
mod signals;
mod tls;
mod unix;
pub(crate) mod websocket;
mod wire;
