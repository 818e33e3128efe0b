//! The layers between the socket and the machine for the connections of one listener: PROXY header, TLS and
//! WebSocket, in this order. A listener has any number of them.
//!
//! A [`LayerStack`] belongs to a listener, a [`Layers`] to a connection. [`Layers::read`] turns bytes of the
//! socket into MQTT bytes, and [`Layers::write`] turns MQTT bytes into bytes for the socket. A plain listener
//! has no layers, and its connections have no such cost.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::proxy::{ProxyFailure, ProxyStep, TrustedAddresses, read_proxy_header};
use super::tls::{
    self, CertificateAndKey, CertificateRules, ClientCertificate, RevocationScope, Tls, TlsConfig,
    TlsFailure, TlsSettings, TlsVersion,
};
use super::websocket::{self, Forwarding, WebSocket, WebSocketFailure, WebSocketSettings};
use crate::settings::{
    ClientCertificateRules, ClientCertificates, CrlScope, Listener, ListenerProtocol, ProxyHeaderKind,
    TlsMinimum,
};

/// The layers of a listener.
#[derive(Clone)]
pub struct LayerStack {
    /// The addresses of load balancers, which name their clients. `None`: there are none.
    pub proxy: Option<TrustedAddresses>,
    /// How they name them.
    pub proxy_header: ProxyHeaderKind,
    /// The certificates and rules of TLS.
    pub tls: Option<TlsConfig>,
    /// The requirements for a WebSocket request.
    pub websocket: Option<WebSocketSettings>,
}

/// A listener without layers.
impl Default for LayerStack {
    fn default() -> LayerStack {
        LayerStack { proxy: None, proxy_header: ProxyHeaderKind::Proxy, tls: None, websocket: None }
    }
}

impl LayerStack {
    /// Makes the layers of a configured listener. Reads its TLS files.
    ///
    /// # Errors
    /// A sentence that names the key or the file, and what is wrong.
    pub fn of(listener: &Listener) -> Result<LayerStack, String> {
        let proxy = match listener.proxy_trusted.as_slice() {
            [] => None,
            texts => Some(
                TrustedAddresses::parse(texts)
                    .map_err(|error| format!("listeners.proxy_trusted: {error}"))?,
            ),
        };
        let websocket = (listener.protocol == ListenerProtocol::WebSocket).then(|| WebSocketSettings {
            path: listener.websocket_path.clone(),
            origins: listener.websocket_origins.clone(),
            header_bytes_max: listener.websocket_header_bytes,
        });
        let tls = tls_settings(listener)?;
        let tls =
            tls.map(|settings| TlsConfig::load(&settings).map_err(|error| error.to_string())).transpose()?;
        let proxy_header = listener.proxy_header;
        if proxy_header == ProxyHeaderKind::ForwardedFor && websocket.is_none() {
            return Err("listeners.proxy_header: \"x-forwarded-for\" is a header of WebSocket requests: it needs protocol = \
                 \"websocket\""
                .to_owned());
        }
        Ok(LayerStack { proxy, proxy_header, tls, websocket })
    }

    /// Whether the listener has no layers.
    pub fn is_plain(&self) -> bool {
        self.proxy.is_none() && self.tls.is_none() && self.websocket.is_none()
    }

    /// Whether `peer` is a load balancer, which will name its client in a header.
    pub fn is_balancer(&self, peer: IpAddr) -> bool {
        self.proxy.as_ref().is_some_and(|trusted| trusted.contains(peer))
    }

    /// The layers of a new connection from `peer`. `None` if the connection needs no layer.
    pub fn open(&self, peer: IpAddr) -> Option<Layers> {
        let is_balancer = self.is_balancer(peer);
        let layers = Layers {
            header: (is_balancer && self.proxy_header == ProxyHeaderKind::Proxy).then(Vec::new),
            is_balancers_own: is_balancer,
            tls: self.tls.as_ref().map(Tls::new),
            websocket: self.websocket.as_ref().map(|_| WebSocket::new()),
        };
        let is_plain = layers.header.is_none() && layers.tls.is_none() && layers.websocket.is_none();
        (!is_plain).then_some(layers)
    }
}

fn tls_settings(listener: &Listener) -> Result<Option<TlsSettings>, String> {
    let Listener { tls_certificates: chains, tls_keys: keys, .. } = listener;
    if chains.len() != keys.len() {
        return Err(format!(
            "listeners.tls_keys: {} keys for {} certificates in tls_certificates; each needs one",
            keys.len(),
            chains.len()
        ));
    }
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let client_certificate = match listener.tls_client_certificate {
        ClientCertificates::None => ClientCertificate::None,
        ClientCertificates::Optional => ClientCertificate::Optional,
        ClientCertificates::Required => ClientCertificate::Required,
    };
    if chains.is_empty() {
        // A setting that was meant to keep clients out must not be ignored.
        return match client_certificate {
            ClientCertificate::None => Ok(None),
            _ => Err("listeners.tls_client_certificate: without tls_certificates there is no TLS".to_owned()),
        };
    }
    let certificates = chains.iter().zip(keys);
    Ok(Some(TlsSettings {
        certificates: certificates
            .map(|(chain, key)| CertificateAndKey { chain: chain.into(), key: key.into() })
            .collect(),
        chain: path(&listener.tls_chain),
        client_ca: path(&listener.tls_client_ca),
        ca_directory: path(&listener.tls_ca_directory),
        client_certificate,
        client_certificate_dates: listener.tls_client_certificate_dates,
        client_certificate_rules: match listener.tls_client_certificate_rules {
            ClientCertificateRules::Standard => CertificateRules::Standard,
            ClientCertificateRules::OpenSsl => CertificateRules::OpenSsl,
        },
        crl: path(&listener.tls_crl),
        crl_scope: match listener.tls_crl_scope {
            CrlScope::Chain => RevocationScope::Chain,
            CrlScope::Client => RevocationScope::Client,
        },
        record_bytes: listener.tls_record_bytes,
        version_min: match listener.tls_minimum {
            TlsMinimum::V12 => TlsVersion::V12,
            TlsMinimum::V13 => TlsVersion::V13,
        },
    }))
}

/// The layers of one connection. They may be moved to another thread.
pub struct Layers {
    /// The bytes of the PROXY header so far, until it is complete.
    header: Option<Vec<u8>>,
    /// Whether it is a load balancer's own connection, which names no client. It is true until a header has
    /// named one.
    is_balancers_own: bool,
    tls: Option<Tls>,
    websocket: Option<WebSocket>,
}

/// Buffers for the work on one connection at a time. Each shard has one.
#[derive(Default)]
pub struct Scratch {
    tls: tls::TlsScratch,
    /// The bytes that TLS has decrypted, for WebSocket.
    decrypted: Vec<u8>,
    /// The answers of WebSocket, for TLS.
    answers: Vec<u8>,
    /// The MQTT bytes of the last read.
    mqtt: Vec<u8>,
    header: Vec<u8>,
    /// The client that the load balancer has named in the last read.
    client: Option<SocketAddr>,
}

impl Scratch {
    /// Takes the client that the last [`Layers::read`] has found named by a load balancer. It must be admitted before
    /// the MQTT bytes are used.
    pub fn take_client(&mut self) -> Option<SocketAddr> {
        self.client.take()
    }

    /// The MQTT bytes of the last [`Layers::read`].
    pub fn mqtt(&self) -> &[u8] {
        &self.mqtt
    }

    /// Takes the MQTT bytes of the last [`Layers::read`]. [`Scratch::give_back`] returns the buffer.
    pub fn take_mqtt(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.mqtt)
    }

    /// Returns a buffer for the next read, to save an allocation.
    pub fn give_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        if buffer.capacity() <= KEPT_BYTES_MAX {
            self.mqtt = buffer;
        }
    }

    fn trim(&mut self) {
        for buffer in [&mut self.decrypted, &mut self.answers, &mut self.header] {
            buffer.clear();
            if buffer.capacity() > KEPT_BYTES_MAX {
                *buffer = Vec::new();
            }
        }
    }
}

/// The identity of a client, from its certificate or from the load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The common name of the subject.
    pub common_name: Option<String>,
    /// The subject in the form of RFC 2253. A load balancer does not provide it.
    pub subject: Option<String>,
}

/// The content of a PROXY header, and the bytes after it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client's address. `None` if the connection is the balancer's own.
    pub peer: Option<SocketAddr>,
    /// The identity in the certificate that the client has shown to the balancer.
    pub identity: Option<TlsIdentity>,
    /// The bytes to read next.
    pub rest: Vec<u8>,
}

/// A new TLS session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secured {
    /// The version of TLS.
    pub version: TlsVersion,
    /// The registered name of the cipher suite.
    pub cipher_suite: &'static str,
    /// Whether the client has resumed a session with a ticket.
    pub resumed: bool,
}

impl fmt::Display for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resumed = if self.resumed { ", resumed" } else { "" };
        write!(f, "{}, {}{resumed}", self.version.name(), self.cipher_suite)
    }
}

/// The result of a read, besides MQTT bytes and bytes for the socket.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// The identity in the client's certificate. It is set once, before any MQTT byte.
    pub identity: Option<TlsIdentity>,
    /// The TLS session, set by the read that completes the handshake.
    pub secured: Option<Secured>,
    /// Whether the peer has announced that it sends no more.
    pub is_closed: bool,
}

/// Why a connection ends below MQTT. The bytes that were appended for the socket must be sent before the
/// connection is closed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LayerFault {
    /// The PROXY header is refused.
    #[error(transparent)]
    Proxy(ProxyFailure),
    /// TLS has failed.
    #[error("TLS: {0}")]
    Tls(TlsFailure),
    /// WebSocket has failed.
    #[error(transparent)]
    WebSocket(WebSocketFailure),
}

impl Layers {
    /// Whether the PROXY header is not complete yet. In this case bytes must go to [`Layers::read_header`].
    pub fn awaits_header(&self) -> bool {
        self.header.is_some()
    }

    /// Whether it is a load balancer's own connection, which has named no client, or not yet.
    pub fn is_balancers_own(&self) -> bool {
        self.is_balancers_own
    }

    /// The TLS session, and the subject of the client's certificate if it has shown one. `None` without TLS, and before
    /// the handshake is done.
    pub fn security(&self) -> Option<(Secured, Option<String>)> {
        let tls = self.tls.as_ref()?;
        let agreed = tls.agreed()?;
        let secured =
            Secured { version: agreed.version, cipher_suite: agreed.cipher_suite, resumed: agreed.resumed };
        Some((secured, tls.identity().map(|identity| identity.subject)))
    }

    /// The bytes of memory that hold received data which can't be passed on before more comes.
    pub fn held_bytes(&self) -> usize {
        self.header.as_ref().map_or(0, Vec::capacity)
            + self.tls.as_ref().map_or(0, Tls::held_bytes)
            + self.websocket.as_ref().map_or(0, WebSocket::held_bytes)
    }

    /// Takes bytes of a connection that begins with a PROXY header. Returns `None` until the header is
    /// complete. The bytes after it are not read, so that nothing is spent on a client before its address is
    /// known.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn read_header(&mut self, bytes: &[u8]) -> Result<Option<ProxyHeader>, LayerFault> {
        let mut header = self.header.take().unwrap_or_default();
        header.extend_from_slice(bytes);
        match read_proxy_header(&header).map_err(LayerFault::Proxy)? {
            ProxyStep::More => {
                self.header = Some(header);
                Ok(None)
            }
            ProxyStep::Done { source, used, tls } => {
                self.is_balancers_own = source.is_none();
                let identity = tls
                    .filter(|tls| tls.verified)
                    .map(|tls| TlsIdentity { common_name: tls.common_name, subject: None });
                Ok(Some(ProxyHeader { peer: source, identity, rest: header.split_off(used) }))
            }
        }
    }

    /// Takes bytes of the socket after the PROXY header. Puts the MQTT bytes into `scratch`, and appends the
    /// bytes for the socket to `out`, even if there is an error.
    ///
    /// # Errors
    /// The connection must be closed after `out` is sent. `scratch` has the MQTT bytes that came before the
    /// error.
    pub fn read(
        &mut self,
        stack: &LayerStack,
        bytes: &[u8],
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<Input, LayerFault> {
        scratch.mqtt.clear();
        scratch.client = None;
        let mut input = Input::default();
        let read = self.read_tls(stack, bytes, scratch, out, &mut input);
        scratch.trim();
        read.map(|()| input)
    }

    fn read_tls(
        &mut self,
        stack: &LayerStack,
        bytes: &[u8],
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
        input: &mut Input,
    ) -> Result<(), LayerFault> {
        let Some(tls) = &mut self.tls else { return self.read_websocket(stack, bytes, scratch, out, input) };
        let mut decrypted = std::mem::take(&mut scratch.decrypted);
        let plain = if self.websocket.is_some() { &mut decrypted } else { &mut scratch.mqtt };
        let progress = tls.read(bytes, &mut scratch.tls, plain, out);
        if let Ok(tls::TlsProgress::Established) = progress {
            input.identity = tls.identity().map(|identity| TlsIdentity {
                common_name: identity.common_name,
                subject: Some(identity.subject),
            });
            input.secured = tls.agreed().map(|agreed| Secured {
                version: agreed.version,
                cipher_suite: agreed.cipher_suite,
                resumed: agreed.resumed,
            });
            tls.take_server_name();
        }
        // If the read that completes the handshake also closes the session, the next read reports the close.
        input.is_closed = matches!(progress, Ok(tls::TlsProgress::PeerClosed));
        let read = match decrypted.is_empty() {
            true => Ok(()),
            false => self.read_websocket(stack, &decrypted, scratch, out, input),
        };
        scratch.decrypted = decrypted;
        progress.map_err(LayerFault::Tls)?;
        read
    }

    fn read_websocket(
        &mut self,
        stack: &LayerStack,
        bytes: &[u8],
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
        input: &mut Input,
    ) -> Result<(), LayerFault> {
        let Some(websocket) = &mut self.websocket else {
            scratch.mqtt.extend_from_slice(bytes);
            return Ok(());
        };
        // After a reload the listener may have no WebSocket. Its open WebSocket connections continue, without
        // requirements.
        let none = WebSocketSettings::default();
        let settings = stack.websocket.as_ref().unwrap_or(&none);
        let Scratch { tls: tls_scratch, answers, mqtt, client: named, .. } = scratch;
        let to_peer = if self.tls.is_some() { &mut *answers } else { &mut *out };
        let trusted = stack
            .proxy
            .as_ref()
            .filter(|_| self.is_balancers_own && stack.proxy_header == ProxyHeaderKind::ForwardedFor);
        let mut forwarding = trusted.map(|trusted| Forwarding { trusted, client: None });
        let progress = websocket.read(settings, forwarding.as_mut(), bytes, mqtt, to_peer);
        if let Some(client) = forwarding.and_then(|forwarding| forwarding.client) {
            self.is_balancers_own = false;
            *named = Some(client);
        }
        if let Some(tls) = self.tls.as_mut().filter(|_| !answers.is_empty()) {
            tls.write([answers.as_slice()], tls_scratch, out).map_err(LayerFault::Tls)?;
        }
        match progress.map_err(LayerFault::WebSocket)? {
            websocket::WebSocketProgress::PeerClosed => input.is_closed = true,
            websocket::WebSocketProgress::Handshaking
            | websocket::WebSocketProgress::Established
            | websocket::WebSocketProgress::Open => {}
        }
        Ok(())
    }

    /// Whether the only change to `len` MQTT bytes, of which `first` is the beginning, is a header before
    /// them.
    pub fn only_frames(&self, first: &[u8], len: usize) -> bool {
        self.tls.is_none() && (self.websocket.is_none() || packet_len(first) == len)
    }

    /// Appends the header for `len` MQTT bytes, which follow it unchanged. Only for layers that [only
    /// frame](Layers::only_frames). Returns false and appends nothing if the connection has ended. In this
    /// case no bytes may follow.
    pub fn frame(&self, len: usize, out: &mut Vec<u8>) -> bool {
        match &self.websocket {
            None => true,
            Some(websocket) if websocket.is_open() => {
                websocket.write_header(len, out);
                true
            }
            Some(_) => false,
        }
    }

    /// Takes complete MQTT packets in several parts, and appends the bytes for the socket to `out`. No part
    /// may end within a fixed header. Each packet gets a WebSocket frame of its own. A frame may hold several
    /// [MQTT5-6.0.0-2], but some clients read only the first one.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn write<'a>(
        &mut self,
        parts: impl IntoIterator<Item = &'a [u8]>,
        len: usize,
        scratch: &'a mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), LayerFault> {
        let Scratch { tls: tls_scratch, header, .. } = scratch;
        header.clear();
        let mut parts = parts.into_iter().peekable();
        let is_one = parts.peek().is_some_and(|first| packet_len(first) == len);
        match (&mut self.tls, &self.websocket) {
            (_, Some(websocket)) if !websocket.is_open() => Ok(()),
            (Some(tls), Some(websocket)) if is_one => {
                websocket.write_header(len, header);
                let framed = std::iter::once(header.as_slice()).chain(parts);
                tls.write(framed, tls_scratch, out).map_err(LayerFault::Tls)
            }
            (Some(tls), Some(websocket)) => {
                frame_each(websocket, parts, header);
                tls.write([header.as_slice()], tls_scratch, out).map_err(LayerFault::Tls)
            }
            (Some(tls), None) => tls.write(parts, tls_scratch, out).map_err(LayerFault::Tls),
            (None, Some(websocket)) => {
                frame_each(websocket, parts, out);
                Ok(())
            }
            (None, None) => {
                parts.for_each(|part| out.extend_from_slice(part));
                Ok(())
            }
        }
    }

    /// Announces in each layer that has such a message that we send no more.
    pub fn close(&mut self, scratch: &mut Scratch, out: &mut Vec<u8>) {
        if let Some(websocket) = &mut self.websocket {
            let to_peer = if self.tls.is_some() { &mut scratch.answers } else { &mut *out };
            websocket.close(NORMAL_CLOSURE, to_peer);
            if let Some(tls) = self.tls.as_mut().filter(|_| !scratch.answers.is_empty()) {
                // If TLS can't write any more, the peer does not get the message.
                let _ = tls.write([scratch.answers.as_slice()], &mut scratch.tls, out);
            }
        }
        if let Some(tls) = &mut self.tls {
            tls.close(out);
        }
        scratch.trim();
    }
}

/// Puts each packet into a frame.
fn frame_each<'a>(websocket: &WebSocket, parts: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    // The bytes of the current packet that are still to come.
    let mut left = 0;
    for mut part in parts {
        while !part.is_empty() {
            if left == 0 {
                left = packet_len(part);
                websocket.write_header(left, out);
            }
            let (now, rest) = part.split_at(left.min(part.len()));
            out.extend_from_slice(now);
            left -= now.len();
            part = rest;
        }
    }
    debug_assert_eq!(left, 0, "only whole packets are sent");
}

/// The length of the packet that begins here. Its fixed header must be complete.
fn packet_len(bytes: &[u8]) -> usize {
    let mut len = 0;
    for (at, &byte) in bytes.iter().enumerate().skip(1).take(4) {
        len |= usize::from(byte & 0x7F) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            return at + 1 + len;
        }
    }
    // This is not one of our packets. The rest is taken as one, since a frame need not be a packet.
    bytes.len()
}

/// RFC 6455, section 7.4.1.
const NORMAL_CLOSURE: u16 = 1000;

/// The largest capacity that a scratch buffer keeps for the next connection, in bytes.
const KEPT_BYTES_MAX: usize = 64 << 10;
