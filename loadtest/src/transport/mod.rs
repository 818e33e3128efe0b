//! The layers between MQTT and TCP: TLS, WebSocket, or both.
//!
//! A [`TransportConfig`] holds the configuration of a run; [`Layers`] belong to one connection.
//! They own no socket: [`crate::net`] passes received bytes in and sends the output. A run on plain
//! TCP has no layers and no cost for them.

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
    /// Use TLS. The certificate of the broker must be issued by a CA in --ca and contain --host.
    #[arg(long)]
    pub(crate) tls: bool,
    /// PEM file with the trusted CA certificates.
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub(crate) ca: Option<PathBuf>,
    /// Accept any certificate and any signature. This also saves the harness the CPU time of the
    /// checks.
    #[arg(long, requires = "tls", conflicts_with = "ca")]
    pub(crate) insecure: bool,
    /// PEM file with the client certificate and its intermediate certificates. All clients use it.
    #[arg(long, value_name = "FILE", requires = "tls", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// PEM file with the private key of --cert.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// The only TLS version to use. Without it, 1.3, or 1.2 if the broker has no 1.3.
    #[arg(long, value_enum, value_name = "VERSION", requires = "tls")]
    pub(crate) tls_version: Option<TlsVersion>,
    /// Resume TLS sessions with tickets of earlier connections of the run. Without it, every
    /// handshake is a full one.
    #[arg(long, requires = "tls")]
    pub(crate) resume: bool,
    /// Use MQTT over WebSocket, at this path.
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
    /// The transport settings for the report.
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

/// The transport of a run. Creates the layers of each connection.
pub(crate) struct TransportConfig {
    tls: Option<tls::TlsConfig>,
    /// The request that opens a WebSocket.
    request: Option<Arc<[u8]>>,
}

impl TransportConfig {
    /// The transport to `host`. `None` for plain TCP.
    ///
    /// # Errors
    /// A file is unusable, or there is no way to check the certificate of the broker.
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
    /// rustls fails to start.
    pub(crate) fn new_layers(&self) -> Result<Layers, String> {
        let tls = self.tls.as_ref().map(tls::TlsConfig::new_connection).transpose()?;
        let websocket = self.request.as_ref().map(|request| WebSocket::new(Arc::clone(request)));
        Ok(Layers { tls, websocket, is_established: false })
    }
}

/// The layers of one connection between TCP and MQTT.
pub(crate) struct Layers {
    tls: Option<Tls>,
    websocket: Option<WebSocket>,
    /// All handshakes are complete.
    is_established: bool,
}

/// How received bytes change the state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// The state is unchanged.
    NoChange,
    /// The connection is established, so MQTT may begin.
    Established,
    /// The broker will send nothing more.
    Ended,
}

/// A buffer for the data between TLS and WebSocket, shared by all connections.
#[derive(Default)]
pub(crate) struct Scratch(Vec<u8>);

impl Layers {
    /// Appends the first bytes of the client to `wire`.
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

    /// Handles received bytes. Appends the MQTT bytes to `mqtt` and the answers of the layers to
    /// `wire`. Decrypts `received` in place.
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

    /// Appends `mqtt` to `wire`, framed and encrypted. Does nothing before the connection is
    /// established.
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

    /// Appends the closing messages of the layers.
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

    /// Whether TLS resumed a session. `None` without TLS.
    pub(crate) fn is_resumed(&self) -> Option<bool> {
        self.tls.as_ref().map(Tls::is_resumed)
    }

    /// The negotiated version and cipher suite.
    pub(crate) fn suite(&self) -> Option<String> {
        self.tls.as_ref().and_then(Tls::suite)
    }
}
