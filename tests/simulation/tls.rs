//! The client's end of TLS.
//!
//! Keys and signatures are random, but a story depends on lengths alone, and these are the same in each run: TLS 1.3
//! only, one group, and keys whose signatures have one length.
//!
//! A client reads what the broker sends in the moment in which it is sent, because the reference wants to know it then.
//! It learns what it has read, and answers, when the bytes have arrived.

use midge_kit::ScratchFolder;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SerialNumber};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// What TLS 1.3 adds to the content of a record: its header, the type of the content, and the tag.
const RECORD_OVERHEAD: usize = 5 + 1 + 16;
/// The largest content of a record.
const CONTENT_MAX: usize = 1 << 14;
/// The content type of records with application data, and of those of the handshake that are encrypted.
const APPLICATION_DATA: u8 = 23;

/// The files of the broker's certificate and of its key.
pub fn files() -> (PathBuf, PathBuf) {
    static FILES: OnceLock<(ScratchFolder, PathBuf, PathBuf)> = OnceLock::new();
    let (_, certificate, key) = FILES.get_or_init(|| {
        let folder = ScratchFolder::new("simulation-tls");
        let pair = KeyPair::generate_for(&PKCS_ED25519).expect("there is chance");
        let mut params = CertificateParams::new(vec!["broker".to_owned()]).expect("a good name");
        // A random one would have a random length.
        params.serial_number = Some(SerialNumber::from(1));
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        std::fs::write(&certificate, params.self_signed(&pair).expect("it is signed").pem())
            .expect("written");
        std::fs::write(&key, pair.serialize_pem()).expect("written");
        (folder, certificate, key)
    });
    (certificate.clone(), key.clone())
}

/// The simulated clients look at the bytes and not at the certificate. Its checks have their own tests.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

fn config() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    Arc::clone(CONFIG.get_or_init(|| {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.kx_groups.truncate(1);
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has TLS 1.3");
        let mut config =
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Trusting)).with_no_client_auth();
        // What is resumed depends on the order of the runs.
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }))
}

/// A record of the broker that has not arrived as a whole.
struct Coming {
    /// The end of the record in the bytes of the broker.
    end: u64,
    plain: Vec<u8>,
    /// What the client answers to it.
    answer: Vec<u8>,
    /// Whether the handshake is done with it.
    establishes: bool,
}

/// See the module.
pub struct TlsEnd {
    client: ClientConnection,
    /// What is sent before everything else.
    first: Vec<u8>,
    /// What is sent when the handshake is done.
    waiting: Vec<u8>,
    is_established: bool,
    /// The beginning of a record of the broker.
    partial: Vec<u8>,
    /// The bytes of the broker in whole records, and those that have arrived.
    sent: u64,
    arrived: u64,
    coming: VecDeque<Coming>,
    /// The bytes that the client has sent, and the plain ones in them.
    up: u64,
    up_plain: u64,
    /// The ends of its records, in both.
    up_records: VecDeque<(u64, u64)>,
}

/// What a client has of the bytes that have arrived.
pub struct Arrived {
    pub plain: Vec<u8>,
    pub answer: Vec<u8>,
    pub is_established: bool,
}

impl TlsEnd {
    /// A client that sends `preface` before its first record.
    pub fn new(preface: Vec<u8>) -> TlsEnd {
        let name = ServerName::try_from("broker").expect("a good name");
        let mut client = ClientConnection::new(config(), name).expect("a good configuration");
        let mut first = preface;
        first.extend(written(&mut client));
        TlsEnd {
            client,
            first,
            waiting: Vec::new(),
            is_established: false,
            partial: Vec::new(),
            sent: 0,
            arrived: 0,
            coming: VecDeque::new(),
            up: 0,
            up_plain: 0,
            up_records: VecDeque::new(),
        }
    }

    /// The bytes to send for these. They wait until the handshake is done.
    pub fn wrap(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut raw = std::mem::take(&mut self.first);
        self.up += raw.len() as u64;
        if self.is_established {
            raw.extend(self.seal(plain));
        } else {
            self.waiting.extend_from_slice(plain);
        }
        raw
    }

    fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        self.client.writer().write_all(plain).expect("its buffer has no bound");
        let raw = written(&mut self.client);
        let mut rest = &raw[..];
        while let Some(len) = record_len(rest) {
            self.up += len as u64;
            self.up_plain += (len - RECORD_OVERHEAD) as u64;
            self.up_records.push_back((self.up, self.up_plain));
            rest = &rest[len..];
        }
        assert!(
            rest.is_empty() && plain.len().div_ceil(CONTENT_MAX) <= raw.len(),
            "whole records are written"
        );
        raw
    }

    /// The broker has sent these bytes. Returns the plain ones in them.
    pub fn read(&mut self, raw: &[u8]) -> Result<Vec<u8>, String> {
        self.partial.extend_from_slice(raw);
        let mut all = Vec::new();
        while let Some(len) = record_len(&self.partial).filter(|&len| len <= self.partial.len()) {
            let record: Vec<u8> = self.partial.drain(..len).collect();
            self.sent += len as u64;
            let was_handshaking = self.client.is_handshaking();
            let failed =
                |error: &dyn std::fmt::Display| format!("a record of the broker can't be read: {error}");
            let (mut left, mut plain) = (&record[..], Vec::new());
            while !left.is_empty() {
                // It takes a few kilobytes at a time.
                self.client.read_tls(&mut left).map_err(|error| failed(&error))?;
                self.client.process_new_packets().map_err(|error| failed(&error))?;
            }
            // It ends with an error where more could come.
            let _ = self.client.reader().read_to_end(&mut plain);
            all.extend_from_slice(&plain);
            let establishes = was_handshaking && !self.client.is_handshaking();
            let answer = written(&mut self.client);
            self.coming.push_back(Coming { end: self.sent, plain, answer, establishes });
        }
        Ok(all)
    }

    /// So many more bytes of the broker have arrived.
    pub fn arrive(&mut self, bytes: usize) -> Arrived {
        self.arrived += bytes as u64;
        let mut arrived = Arrived { plain: Vec::new(), answer: Vec::new(), is_established: false };
        while let Some(coming) = self.coming.pop_front_if(|coming| coming.end <= self.arrived) {
            arrived.plain.extend(coming.plain);
            self.up += coming.answer.len() as u64;
            arrived.answer.extend(coming.answer);
            if coming.establishes {
                (self.is_established, arrived.is_established) = (true, true);
                let waiting = std::mem::take(&mut self.waiting);
                arrived.answer.extend(self.seal(&waiting));
            }
        }
        arrived
    }

    /// The number of plain bytes that can be read of the client's first `raw` bytes.
    pub fn plain_in(&self, raw: u64) -> u64 {
        self.up_records.iter().rev().find(|(end, _)| *end <= raw).map_or(0, |(_, plain)| *plain)
    }

    /// Forgets positions before `raw`. They are not queried any more.
    pub fn forget(&mut self, raw: u64) {
        while self.up_records.get(1).is_some_and(|(end, _)| *end <= raw) {
            self.up_records.pop_front();
        }
    }
}

/// What a client wants to send.
fn written(client: &mut ClientConnection) -> Vec<u8> {
    let mut raw = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut raw).expect("memory takes everything");
    }
    raw
}

/// The length of the first record, if its header is there.
fn record_len(bytes: &[u8]) -> Option<usize> {
    let [kind, _, _, high, low, ..] = bytes else { return None };
    debug_assert!((20..=APPLICATION_DATA).contains(kind), "this is no record");
    Some(5 + usize::from(u16::from_be_bytes([*high, *low])))
}
