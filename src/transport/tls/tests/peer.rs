//! A rustls client, a [`Tls`], and the bytes between them.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use super::super::{Tls, TlsConfig, TlsFailure, TlsProgress, TlsScratch};
use super::pki::{Authority, Issued};

pub(super) static V12: &SupportedProtocolVersion = &rustls::version::TLS12;
pub(super) static V13: &SupportedProtocolVersion = &rustls::version::TLS13;

/// The behaviour of a client in the handshake.
pub(super) struct Client {
    pub(super) config: ClientConfig,
    pub(super) name: &'static str,
}

impl Client {
    pub(super) fn new(version: &'static SupportedProtocolVersion, trusts: &Authority) -> Client {
        Client::with(version, trusts, None, ring::default_provider())
    }

    pub(super) fn with_certificate(
        version: &'static SupportedProtocolVersion,
        trusts: &Authority,
        chain: &[&Issued],
        further: &[&Authority],
    ) -> Client {
        let certificates = chain
            .iter()
            .map(|issued| issued.der.clone())
            .chain(further.iter().map(|authority| authority.der()));
        let key = PrivateKeyDer::try_from(chain[0].key_der.clone()).unwrap();
        let identity = (certificates.map(Into::into).collect(), key);
        Client::with(version, trusts, Some(identity), ring::default_provider())
    }

    pub(super) fn with(
        version: &'static SupportedProtocolVersion,
        trusts: &Authority,
        identity: Option<(Vec<rustls::pki_types::CertificateDer<'static>>, PrivateKeyDer<'static>)>,
        provider: CryptoProvider,
    ) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(trusts.der().into()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        Client { config, name: "localhost" }
    }

    pub(super) fn named(mut self, name: &'static str) -> Client {
        self.name = name;
        self
    }

    pub(super) fn offering(mut self, protocols: &[&str]) -> Client {
        self.config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    pub(super) fn connect(&self, to: &TlsConfig) -> Pair {
        let name = ServerName::try_from(self.name).unwrap();
        Pair {
            client: ClientConnection::new(Arc::new(self.config.clone()), name).unwrap(),
            server: Tls::new(to),
            scratch: TlsScratch::default(),
            received: Vec::new(),
            out: Vec::new(),
        }
    }
}

pub(super) struct Pair {
    pub(super) client: ClientConnection,
    pub(super) server: Tls,
    pub(super) scratch: TlsScratch,
    /// The plaintext that the server has read.
    pub(super) received: Vec<u8>,
    /// The bytes that the server wants to send.
    pub(super) out: Vec<u8>,
}

impl Pair {
    /// The bytes that the client wants to send.
    pub(super) fn client_says(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<TlsProgress, TlsFailure> {
        self.server.read(bytes, &mut self.scratch, &mut self.received, &mut self.out)
    }

    pub(super) fn client_speaks(&mut self) -> Result<TlsProgress, TlsFailure> {
        let bytes = self.client_says();
        self.read(&bytes)
    }

    /// Gives the client the server's bytes.
    pub(super) fn server_speaks(&mut self) -> Result<(), rustls::Error> {
        let bytes = std::mem::take(&mut self.out);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            if self.client.read_tls(&mut rest).unwrap() == 0 {
                return Ok(());
            }
            self.client.process_new_packets()?;
        }
        Ok(())
    }

    /// Runs the handshake to its end, or to the server's failure.
    pub(super) fn try_handshake(&mut self) -> Result<(), TlsFailure> {
        for _ in 0..5 {
            let progress = self.client_speaks()?;
            // The client's reaction to a refusal shows in what it sends.
            let _ = self.server_speaks();
            if progress == TlsProgress::Established {
                return Ok(());
            }
        }
        panic!("the handshake does not end");
    }

    #[track_caller]
    pub(super) fn handshake(mut self) -> Pair {
        self.try_handshake().unwrap();
        assert!(!self.client.is_handshaking());
        self
    }

    pub(super) fn client_writes(&mut self, plain: &[u8]) {
        self.client.writer().write_all(plain).unwrap();
    }

    #[track_caller]
    pub(super) fn server_writes(&mut self, plain: &[u8]) {
        self.server.write([plain], &mut self.scratch, &mut self.out).unwrap();
    }

    /// The plaintext that the client reads from all bytes of the server.
    pub(super) fn client_reads(&mut self) -> Vec<u8> {
        let bytes = std::mem::take(&mut self.out);
        let mut rest = bytes.as_slice();
        let mut plain = Vec::new();
        while !rest.is_empty() {
            if self.client.read_tls(&mut rest).unwrap() == 0 {
                break;
            }
            self.client.process_new_packets().unwrap();
            // A missing close_notify is reported as an error.
            let _ = self.client.reader().read_to_end(&mut plain);
        }
        plain
    }

    pub(super) fn take_received(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.received)
    }
}
