//! What lies between MQTT and TCP: TLS, a WebSocket, or both.
//!
//! A [`TransportConfig`] is what the flags say, once for a run; [`Layers`] are one connection's. They own no
//! socket: [`crate::net`] hands them what came and sends what they give. A run without a door has
//! no layers, and pays nothing for them.

mod tls;
mod websocket;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use crate::net::Closed;
use tls::Tls;
use websocket::WebSocket;

/// How connections reach the broker.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TransportFlags {
    /// Speak TLS. The broker's certificate has to lead to one of --ca and to name --host.
    #[arg(long)]
    pub(crate) tls: bool,
    /// CA certificates to trust, a PEM file.
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub(crate) ca: Option<PathBuf>,
    /// Take any certificate and any signature, which also spares the harness the work of checking.
    #[arg(long, requires = "tls", conflicts_with = "ca")]
    pub(crate) insecure: bool,
    /// Certificate that every client shows, a PEM file, with those that lead to its CA.
    #[arg(long, value_name = "FILE", requires = "tls", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// Private key of --cert, a PEM file.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// The one version of TLS to speak; without it 1.3, or 1.2 where the broker knows no other.
    #[arg(long, value_enum, value_name = "VERSION", requires = "tls")]
    pub(crate) tls_version: Option<TlsVersion>,
    /// Resume sessions: a connection uses a ticket that an earlier one of the run got. Without it
    /// every handshake is a full one.
    #[arg(long, requires = "tls")]
    pub(crate) resume: bool,
    /// Speak MQTT in a WebSocket, at this path.
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = "/mqtt")]
    #[arg(value_parser = websocket::path)]
    pub(crate) websocket: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TlsVersion {
    #[value(name = "1.2")]
    V12,
    #[value(name = "1.3")]
    V13,
}

impl TransportFlags {
    /// What of it shaped the run, for the report.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = Vec::new();
        if self.tls {
            let version = match self.tls_version {
                None => "any version",
                Some(TlsVersion::V12) => "1.2",
                Some(TlsVersion::V13) => "1.3",
            };
            let check = if self.insecure { ", unchecked" } else { "" };
            let client = if self.cert.is_some() { ", client certificate" } else { "" };
            let resume = if self.resume { ", resuming" } else { "" };
            settings.push(("TLS", format!("{version}{check}{client}{resume}")));
        }
        settings.extend(self.websocket.iter().map(|path| ("websocket", path.clone())));
        settings
    }
}

/// Makes the layers of each connection.
pub(crate) struct TransportConfig {
    tls: Option<tls::TlsConfig>,
    /// The request that opens a WebSocket.
    request: Option<Arc<[u8]>>,
}

impl TransportConfig {
    /// The door to `host`; `None` for MQTT right on TCP.
    ///
    /// # Errors
    /// A file that can't be used, or a certificate that nothing is there to check with.
    pub(crate) fn new(
        flags: &TransportFlags,
        host: &str,
        port: u16,
    ) -> Result<Option<TransportConfig>, String> {
        if !flags.tls && flags.websocket.is_none() {
            return Ok(None);
        }
        let tls = if flags.tls { Some(tls::TlsConfig::new(flags, host)?) } else { None };
        let request = flags.websocket.as_deref().map(|path| websocket::request(path, host, port).into());
        Ok(Some(TransportConfig { tls, request }))
    }

    /// The layers of a new connection.
    ///
    /// # Errors
    /// rustls can't begin.
    pub(crate) fn new_layers(&self) -> Result<Layers, String> {
        let tls = self.tls.as_ref().map(tls::TlsConfig::new_connection).transpose()?;
        let websocket = self.request.as_ref().map(|request| WebSocket::new(Arc::clone(request)));
        Ok(Layers { tls, websocket, is_established: false })
    }
}

/// One connection's way from TCP to MQTT and back.
pub(crate) struct Layers {
    tls: Option<Tls>,
    websocket: Option<WebSocket>,
    /// All handshakes are done.
    is_established: bool,
}

/// How far a connection is after what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// As far as before.
    NoChange,
    /// MQTT may begin now.
    Established,
    /// The broker has said that it sends nothing more.
    Ended,
}

/// Room for what one read becomes on its way, shared by all connections.
#[derive(Default)]
pub(crate) struct Scratch(Vec<u8>);

impl Layers {
    /// Appends to `wire` what the client says first.
    pub(crate) fn start(&mut self, wire: &mut Vec<u8>) -> Result<(), Closed> {
        match (&mut self.tls, &mut self.websocket) {
            (Some(tls), _) => tls.start(wire),
            (None, Some(websocket)) => {
                websocket.start(wire);
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    /// Takes what came from the socket, appends what of it is MQTT to `mqtt`, and what has to be
    /// answered to `wire`. Bytes of `came` are decrypted where they are.
    pub(crate) fn receive(
        &mut self,
        received: &mut [u8],
        scratch: &mut Scratch,
        mqtt: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Received, Closed> {
        let was_established = self.is_established;
        let mut ended = false;
        match (&mut self.tls, &mut self.websocket) {
            (None, None) => mqtt.extend_from_slice(received),
            (None, Some(websocket)) => ended = websocket.receive(received, mqtt, wire)?,
            (Some(tls), None) => ended = tls.receive(received, mqtt, wire)?,
            (Some(tls), Some(websocket)) => {
                let plain = &mut scratch.0;
                plain.clear();
                let read = tls.receive(received, plain, wire);
                let mut answer = Vec::new();
                if tls.is_established && !websocket.is_requested() {
                    websocket.start(&mut answer);
                }
                ended |= websocket.receive(plain, mqtt, &mut answer)?;
                tls.send(&answer, wire);
                ended |= read?;
            }
        }
        self.is_established = self.tls.as_ref().is_none_or(|tls| tls.is_established)
            && self.websocket.as_ref().is_none_or(WebSocket::is_established);
        Ok(match () {
            () if ended => Received::Ended,
            () if self.is_established && !was_established => Received::Established,
            () => Received::NoChange,
        })
    }

    /// Appends to `wire` what `mqtt` becomes; nothing before the connection stands.
    pub(crate) fn send(&mut self, mqtt: &[u8], scratch: &mut Scratch, wire: &mut Vec<u8>) {
        if !self.is_established || mqtt.is_empty() {
            return;
        }
        match (&mut self.tls, &mut self.websocket) {
            (None, None) => wire.extend_from_slice(mqtt),
            (None, Some(websocket)) => websocket.send(mqtt, wire),
            (Some(tls), None) => tls.send(mqtt, wire),
            (Some(tls), Some(websocket)) => {
                scratch.0.clear();
                websocket.send(mqtt, &mut scratch.0);
                tls.send(&scratch.0, wire);
            }
        }
    }

    /// Appends the words with which a well-behaved client leaves.
    pub(crate) fn close(&mut self, wire: &mut Vec<u8>) {
        if !self.is_established {
            return;
        }
        match (&mut self.tls, &mut self.websocket) {
            (None, None) => {}
            (None, Some(websocket)) => websocket.close(wire),
            (Some(tls), None) => tls.close(wire),
            (Some(tls), Some(websocket)) => {
                let mut close = Vec::new();
                websocket.close(&mut close);
                tls.send(&close, wire);
                tls.close(wire);
            }
        }
    }

    /// Whether the TLS of a connection that stands was resumed; `None` without TLS.
    pub(crate) fn is_resumed(&self) -> Option<bool> {
        self.tls.as_ref().map(Tls::is_resumed)
    }

    /// The version and the cipher suite that were agreed on.
    pub(crate) fn suite(&self) -> Option<String> {
        self.tls.as_ref().and_then(Tls::suite)
    }
}
