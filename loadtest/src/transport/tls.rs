//! TLS for clients: rustls with ring, as in the broker, through its unbuffered interface, which
//! decrypts in place.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientConnectionData, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    UnbufferedClientConnection,
};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, NamedGroup, RootCertStore, SignatureScheme, version,
};

use super::{TlsVersion, TransportFlags};
use crate::net::Closed;

/// The TLS configuration of all connections of a run.
pub(super) struct TlsConfig {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsConfig {
    pub(super) fn new(flags: &TransportFlags, host: &str) -> Result<TlsConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let versions = match flags.tls_version {
            None => &[&version::TLS13, &version::TLS12][..],
            Some(TlsVersion::V12) => &[&version::TLS12],
            Some(TlsVersion::V13) => &[&version::TLS13],
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(versions).map_err(|error| error.to_string())?;
        let builder = match &flags.ca {
            Some(ca) => builder.with_root_certificates(roots(ca)?),
            None if flags.insecure => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(NoVerification(provider)))
            }
            None => {
                return Err("--tls needs --ca to check the broker's certificate, or --insecure".to_owned());
            }
        };
        let mut config = match flags.cert.as_deref().zip(flags.key.as_deref()) {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
                let built = builder.with_client_auth_cert(certificates(cert)?, private);
                built.map_err(|error| unusable(cert, &error))?
            }
        };
        config.resumption = match flags.resume {
            true => Resumption::store(Arc::new(TicketStore::default())),
            false => Resumption::disabled(),
        };
        let name =
            ServerName::try_from(host.to_owned()).map_err(|error| format!("--host {host}: {error}"))?;
        Ok(TlsConfig { config: Arc::new(config), name })
    }

    pub(super) fn new_connection(&self) -> Result<Tls, String> {
        let rustls = UnbufferedClientConnection::new(Arc::clone(&self.config), self.name.clone());
        let rustls = rustls.map_err(|error| format!("TLS: {error}"))?;
        Ok(Tls { rustls, pending: Vec::new(), is_established: false, ended: false })
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if found.is_empty() => Err(format!("{}: contains no certificate", file.display())),
        Ok(found) => Ok(found),
        Err(error) => Err(unusable(file, &error)),
    }
}

fn roots(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| unusable(file, &error))?;
    }
    Ok(roots)
}

fn unusable(file: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", file.display())
}

/// TLS of one connection.
pub(super) struct Tls {
    rustls: UnbufferedClientConnection,
    /// Received bytes that are not a whole record. rustls needs them again, before later bytes.
    pending: Vec<u8>,
    /// The handshake is complete.
    pub(super) is_established: bool,
    /// The broker has sent close_notify.
    ended: bool,
}

impl Tls {
    pub(super) fn start(&mut self, wire: &mut Vec<u8>) -> Result<(), Closed> {
        self.receive(&mut [], &mut Vec::new(), wire).map(|_| ())
    }

    /// Decrypts received bytes. Returns whether the broker has sent close_notify.
    pub(super) fn receive(
        &mut self,
        received: &mut [u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<bool, Closed> {
        if self.ended {
            return Ok(true);
        }
        if self.pending.is_empty() {
            let done = self.process(received, plain, wire)?;
            self.pending.extend_from_slice(&received[done..]);
        } else {
            let mut pending = std::mem::take(&mut self.pending);
            pending.extend_from_slice(received);
            let done = self.process(&mut pending, plain, wire)?;
            pending.drain(..done);
            self.pending = pending;
        }
        self.is_established = !self.rustls.is_handshaking();
        Ok(self.ended)
    }

    /// Lets rustls process `bytes` until it needs more. Returns the number of processed bytes.
    fn process(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<usize, Closed> {
        let mut done = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.rustls.process_tls_records(&mut bytes[done..]);
            let mut wants_more = false;
            match state.map_err(|error| failed(&error))? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(|error| failed(&error))?;
                        plain.extend_from_slice(record.payload);
                        discard += record.discard;
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => encode(&mut data, wire),
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => wants_more = true,
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    self.ended = true;
                    return Ok(bytes.len());
                }
                _ => return Err(failed(&"an unexpected state")),
            }
            done += discard;
            if wants_more {
                return Ok(done);
            }
        }
    }

    /// Encrypts `plain`. The next read reports a failure.
    pub(super) fn send(&mut self, plain: &[u8], wire: &mut Vec<u8>) {
        if plain.is_empty() {
            return;
        }
        let bytes = plain.len() + plain.len().div_ceil(RECORD_PLAIN_BYTES) * RECORD_OVERHEAD_BYTES_MAX;
        self.write(wire, bytes, |traffic, space| traffic.encrypt(plain, space));
    }

    pub(super) fn close(&mut self, wire: &mut Vec<u8>) {
        self.write(wire, RECORD_OVERHEAD_BYTES_MAX + 2, |traffic, space| traffic.queue_close_notify(space));
    }

    /// Appends what `put` writes into a space of `bytes` bytes, when rustls is ready to send.
    fn write(
        &mut self,
        wire: &mut Vec<u8>,
        bytes: usize,
        put: impl FnOnce(&mut WriteTraffic<'_, ClientConnectionData>, &mut [u8]) -> Result<usize, EncryptError>,
    ) {
        loop {
            // The pending bytes were processed when they arrived, and contain no whole record.
            match self.rustls.process_tls_records(&mut self.pending).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, wire),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    return append(wire, bytes, |space| put(&mut traffic, space));
                }
                _ => return,
            }
        }
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.rustls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub(super) fn suite(&self) -> Option<String> {
        let (version, suite) = (self.rustls.protocol_version()?, self.rustls.negotiated_cipher_suite()?);
        let group = self.rustls.negotiated_key_exchange_group().map(|group| format!(", {:?}", group.name()));
        Some(format!("{version:?}, {:?}{}", suite.suite(), group.unwrap_or_default()))
    }
}

fn failed(error: &dyn std::fmt::Display) -> Closed {
    Closed::Peer(format!("TLS: {error}"))
}

fn encode(data: &mut EncodeTlsData<'_, ClientConnectionData>, wire: &mut Vec<u8>) {
    if let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) {
        append(wire, needed.required_size, |space| data.encode(space));
    }
}

/// Appends what `put` writes into a space of `bytes` bytes. Appends nothing if it fails.
fn append<E>(wire: &mut Vec<u8>, bytes: usize, put: impl FnOnce(&mut [u8]) -> Result<usize, E>) {
    let start = wire.len();
    wire.resize(start + bytes, 0);
    let written = put(&mut wire[start..]).unwrap_or(0);
    wire.truncate(start + written);
}

/// Maximum number of plain bytes in one record.
const RECORD_PLAIN_BYTES: usize = 1 << 14;
/// Header, explicit nonce (AES-GCM in TLS 1.2), content type (TLS 1.3) and tag. No cipher suite
/// needs more.
const RECORD_OVERHEAD_BYTES_MAX: usize = 5 + 8 + 1 + 16;

/// Accepts any certificate and signature.
#[derive(Debug)]
struct NoVerification(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Stores the tickets of a run, for its one broker. The store of rustls keeps only eight tickets
/// per server. A storm has more connections in progress, and the others would have no ticket.
#[derive(Debug, Default)]
struct TicketStore(Mutex<StoredTickets>);

#[derive(Debug, Default)]
struct StoredTickets {
    /// Each resumes one connection of TLS 1.3.
    tickets: VecDeque<Tls13ClientSessionValue>,
    /// Resumes any number of connections of TLS 1.2.
    session: Option<Tls12ClientSessionValue>,
    group: Option<NamedGroup>,
}

/// Above this number, the oldest ticket is removed.
const TICKETS_MAX: usize = 16_384;

impl TicketStore {
    fn stored(&self) -> std::sync::MutexGuard<'_, StoredTickets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for TicketStore {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.stored().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.stored().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.stored().session = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.stored().session.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.stored().session = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut stored = self.stored();
        if stored.tickets.len() == TICKETS_MAX {
            stored.tickets.pop_front();
        }
        stored.tickets.push_back(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.stored().tickets.pop_back()
    }
}
