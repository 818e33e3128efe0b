//! A client's end of TLS. It encrypts what the client sends, and decrypts what the broker sends.
//!
//! Keys and contents are random, but the lengths of all records are the same in each run of a seed, and nothing
//! that happens depends on anything else. For this reason the certificate has an Ed25519 key and a fixed serial
//! number: signatures of ECDSA keys and drawn numbers have several lengths.

use crate::random::Random;
use midge::settings::Listener;
use midge_kit::ScratchFolder;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SerialNumber};
use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

/// The name in the broker's certificate.
const NAME: &str = "localhost";

/// The broker's certificate and its key, as PEM. All runs of a process have the same.
struct Identity {
    certificate: String,
    key: String,
    /// The settings of clients of 1.3 and of 1.2.
    clients: [ClientConfig; 2],
}

impl Identity {
    fn get() -> &'static Identity {
        static IDENTITY: OnceLock<Identity> = OnceLock::new();
        IDENTITY.get_or_init(Identity::new)
    }

    fn new() -> Identity {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a new key");
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).expect("a name of DNS");
        // A drawn one has several lengths.
        params.serial_number = Some(SerialNumber::from(1_u64));
        let certificate = params.self_signed(&key).expect("a key that signs");
        let der: &CertificateDer<'static> = certificate.der();
        let mut roots = RootCertStore::empty();
        roots.add(der.clone()).expect("a certificate that can be read");
        let provider = Arc::new(default_provider());
        let clients = [&TLS13, &TLS12].map(|version| {
            ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[version])
                .expect("ring has both versions")
                .with_root_certificates(roots.clone())
                .with_no_client_auth()
        });
        Identity { certificate: certificate.pem(), key: key.serialize_pem(), clients }
    }
}

/// The TLS of a run: the broker's files, and the settings of the clients.
pub struct RunTls {
    folder: ScratchFolder,
    record_bytes: usize,
    /// For connections that begin with a full handshake.
    full: Arc<ClientConfig>,
    /// For connections that resume the session of an earlier one, if a client has a ticket.
    resuming: Arc<ClientConfig>,
}

impl RunTls {
    /// The version and the sizes of the records are not drawn, so that the other actions of a seed stay.
    pub fn new(seed: u64) -> RunTls {
        let identity = Identity::get();
        let folder = ScratchFolder::new("simulation");
        for (name, pem) in [("certificate.pem", &identity.certificate), ("key.pem", &identity.key)] {
            #[allow(clippy::disallowed_methods, reason = "the broker reads its certificate from a file")]
            std::fs::write(folder.join(name), pem).expect("the folder is new");
        }
        let mut client = identity.clients[usize::from((seed / 4).is_multiple_of(3))].clone();
        // The broker knows the second one, and not the third one.
        let protocol = [None, Some("mqtt"), Some("coap")][(seed / 7 % 3) as usize];
        client.alpn_protocols = protocol.iter().map(|name| name.as_bytes().to_vec()).collect();
        client.max_fragment_size = [None, Some(RECORD_BYTES_MIN), Some(500)][(seed / 3 % 3) as usize];
        client.resumption = Resumption::in_memory_sessions(8);
        let mut full = client.clone();
        full.resumption = Resumption::disabled();
        let record_bytes = [16_384, 512, 2048][(seed / 5 % 3) as usize];
        RunTls { folder, record_bytes, full: Arc::new(full), resuming: Arc::new(client) }
    }

    /// Configures the broker.
    pub fn configure(&self, listener: &mut Listener) {
        let path = |name: &str| vec![self.folder.join(name).display().to_string()];
        listener.tls_certificates = path("certificate.pem");
        listener.tls_keys = path("key.pem");
        listener.tls_record_bytes = self.record_bytes;
    }

    /// A new connection, which begins with these bytes before TLS.
    pub fn open(&self, before: Vec<u8>, resumes: bool) -> TlsEnd {
        let config = if resumes { &self.resuming } else { &self.full };
        let name = ServerName::try_from(NAME).expect("a name of DNS");
        let mut rustls = ClientConnection::new(Arc::clone(config), name).expect("settings that fit");
        rustls.set_buffer_limit(None);
        let mut start = before;
        write_records(&mut rustls, &mut start);
        TlsEnd {
            rustls,
            start,
            is_established: false,
            waiting: Vec::new(),
            raw: 0,
            records: VecDeque::from([(0, 0)]),
            incomplete: Vec::new(),
            sent: 0,
            arrived: 0,
            on_the_way: VecDeque::new(),
            is_closed: false,
        }
    }
}

/// The client's end of a connection.
///
/// It decrypts the records of the broker when they are sent, because the audit needs them whether or not they
/// arrive. What the client learns from them, and what it answers, waits until they have arrived.
pub struct TlsEnd {
    rustls: ClientConnection,
    /// The bytes that are sent first.
    start: Vec<u8>,
    /// Whether the last record of the handshake has arrived at the client.
    is_established: bool,
    /// What the client says after the handshake.
    waiting: Vec<u8>,
    /// The number of bytes that the client has sent.
    raw: u64,
    /// The client's records with plaintext: the end in its bytes, and the number of bytes of plaintext up to
    /// there. The first one counts for everything before it.
    records: VecDeque<(u64, u64)>,
    /// The start of a record of the broker whose end is not sent.
    incomplete: Vec<u8>,
    /// The numbers of bytes that the broker has sent, and that have arrived at the client.
    sent: u64,
    arrived: u64,
    on_the_way: VecDeque<Record>,
    /// Whether the broker has sent close_notify.
    is_closed: bool,
}

/// A record of the broker that has not arrived completely.
struct Record {
    /// The end in the broker's bytes.
    end: u64,
    plain: Vec<u8>,
    /// What the client answers.
    answer: Vec<u8>,
    /// Whether it completes the handshake for the client.
    completes: bool,
}

/// The effect of bytes that have arrived at the client.
#[derive(Default)]
pub struct TlsArrival {
    pub plain: Vec<u8>,
    /// What the client sends at once.
    pub answer: Vec<u8>,
    /// Whether the handshake is complete now.
    pub completes: bool,
}

impl TlsEnd {
    /// The bytes to send for this plaintext. Before the handshake is complete, it has to wait.
    pub fn seal(&mut self, plain: &[u8], rng: &mut Random) -> Vec<u8> {
        let mut raw = std::mem::take(&mut self.start);
        self.raw += raw.len() as u64;
        if self.is_established {
            if self.is_new_version() && rng.chance(20) {
                self.refresh_keys(&mut raw);
            }
            self.encrypt(plain, &mut raw);
        } else {
            self.waiting.extend_from_slice(plain);
        }
        raw
    }

    fn is_new_version(&self) -> bool {
        self.rustls.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// Takes new keys, and asks the broker to do the same.
    fn refresh_keys(&mut self, raw: &mut Vec<u8>) {
        self.rustls.refresh_traffic_keys().expect("1.3 has this, and the handshake is complete");
        let start = raw.len();
        write_records(&mut self.rustls, raw);
        self.raw += (raw.len() - start) as u64;
    }

    fn encrypt(&mut self, plain: &[u8], raw: &mut Vec<u8>) {
        let overhead = if self.is_new_version() { OVERHEAD_BYTES_V13 } else { OVERHEAD_BYTES_V12 };
        self.rustls.writer().write_all(plain).expect("the buffer has no limit");
        let start = raw.len();
        write_records(&mut self.rustls, raw);
        let mut rest = &raw[start..];
        while let Some(len) = record_len(rest).filter(|&len| len <= rest.len()) {
            let (_, before) = self.records.back().expect("the first one stays");
            let plain = before + (len - overhead) as u64;
            self.raw += len as u64;
            self.records.push_back((self.raw, plain));
            rest = &rest[len..];
        }
        debug_assert!(rest.is_empty(), "only whole records are written");
    }

    /// The client's last record.
    pub fn close_notify(&mut self) -> Vec<u8> {
        self.rustls.send_close_notify();
        let mut raw = Vec::new();
        write_records(&mut self.rustls, &mut raw);
        self.raw += raw.len() as u64;
        raw
    }

    pub fn is_established(&self) -> bool {
        self.is_established
    }

    /// Whether it resumes an earlier session. It is known when the broker has answered.
    pub fn is_resumed(&self) -> bool {
        self.rustls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Whether the broker has sent close_notify.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// The number of bytes of plaintext in the complete records of the first `raw` bytes.
    pub fn plain_in(&self, raw: u64) -> u64 {
        let record = self.records.iter().rev().find(|&&(end, _)| end <= raw);
        record.map_or(0, |&(_, plain)| plain)
    }

    /// Forgets positions before `raw`. They are not queried any more.
    pub fn forget(&mut self, raw: u64) {
        while self.records.len() > 1 && self.records[1].0 <= raw {
            self.records.pop_front();
        }
    }

    /// Takes bytes that the broker has sent. Returns the plaintext of the records that they complete.
    pub fn sent(&mut self, raw: &[u8]) -> Result<Vec<u8>, String> {
        self.incomplete.extend_from_slice(raw);
        let mut all = Vec::new();
        while let Some(len) = record_len(&self.incomplete).filter(|&len| len <= self.incomplete.len()) {
            let record: Vec<u8> = self.incomplete.drain(..len).collect();
            if self.is_closed {
                return Err("a record of the broker after its close_notify".into());
            }
            self.sent += len as u64;
            let was_handshaking = self.rustls.is_handshaking();
            let plain = self.decrypt(&record).map_err(|error| format!("TLS: {error}"))?;
            let mut answer = Vec::new();
            write_records(&mut self.rustls, &mut answer);
            all.extend_from_slice(&plain);
            let completes = was_handshaking && !self.rustls.is_handshaking();
            self.on_the_way.push_back(Record { end: self.sent, plain, answer, completes });
        }
        Ok(all)
    }

    /// The plaintext of a record of the broker.
    fn decrypt(&mut self, mut record: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let mut plain = Vec::new();
        // One read takes a part of a long record.
        while !record.is_empty() {
            self.rustls.read_tls(&mut record).expect("reading from a slice does not fail");
            let state = self.rustls.process_new_packets()?;
            self.is_closed = state.peer_has_closed();
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            self.rustls.reader().read_exact(&mut plain[start..]).expect("so much can be read");
        }
        Ok(plain)
    }

    /// The effect of this many more bytes that arrive at the client.
    pub fn arrived(&mut self, bytes: usize) -> TlsArrival {
        self.arrived += bytes as u64;
        let mut arrival = TlsArrival::default();
        while self.on_the_way.front().is_some_and(|record| record.end <= self.arrived) {
            let Some(record) = self.on_the_way.pop_front() else { break };
            arrival.plain.extend_from_slice(&record.plain);
            self.raw += record.answer.len() as u64;
            arrival.answer.extend_from_slice(&record.answer);
            if record.completes {
                (self.is_established, arrival.completes) = (true, true);
                let waiting = std::mem::take(&mut self.waiting);
                self.encrypt(&waiting, &mut arrival.answer);
            }
        }
        arrival
    }
}

fn write_records(rustls: &mut ClientConnection, raw: &mut Vec<u8>) {
    while rustls.wants_write() {
        rustls.write_tls(raw).expect("writing to a vector does not fail");
    }
}

/// The length of the record that begins here, if its header is complete.
fn record_len(bytes: &[u8]) -> Option<usize> {
    let [_, _, _, high, low] = bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
    Some(RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low])))
}

const RECORD_HEADER_BYTES: usize = 5;
/// Header, content type, tag.
const OVERHEAD_BYTES_V13: usize = RECORD_HEADER_BYTES + 1 + 16;
/// Header, the nonce of AES-GCM, tag.
const OVERHEAD_BYTES_V12: usize = RECORD_HEADER_BYTES + 8 + 16;
/// The smallest size of a record that rustls takes, with its header.
const RECORD_BYTES_MIN: usize = 32;
