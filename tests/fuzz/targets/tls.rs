//! TLS below MQTT. The first byte of an input selects the mode. The rest is what a client sends, or it
//! describes what a client does after a real handshake, in TLS 1.2 or 1.3, and which byte is changed on the
//! way.
//!
//! The result must not depend on how the bytes are split into reads, answers must be bounded, and the
//! plaintext must be exactly what the client has sent, in order, with nothing after a changed byte.

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use midge::transport::tls::{
    CertificateAndKey, CertificateRules, ClientCertificate, RECORD_BYTES_MAX, RevocationScope, Tls,
    TlsConfig, TlsScratch, TlsSettings, TlsVersion,
};
use midge_kit::ScratchFolder;
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// The largest number of bytes sent before a client is known: a certificate, its signature, alerts.
const ANSWER_BYTES_MAX: usize = 4096;

/// Runs the target.
pub fn run(input: &[u8]) {
    let Some((&choice, rest)) = input.split_first() else { return };
    match choice % 3 {
        0 => raw(rest),
        1 => conversation(rest, &rustls::version::TLS12),
        _ => conversation(rest, &rustls::version::TLS13),
    }
}

/// The broker's side, and the roots that clients trust.
fn scene() -> &'static (TlsConfig, RootCertStore) {
    static SCENE: OnceLock<(TlsConfig, RootCertStore)> = OnceLock::new();
    SCENE.get_or_init(|| {
        let folder = ScratchFolder::new("fuzz-tls");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a good name");
        let issuer =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("chance")).expect("signed");
        let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
        std::fs::write(&chain, issuer.pem()).expect("written");
        std::fs::write(&key, issuer.key().serialize_pem()).expect("written");
        let settings = TlsSettings {
            certificates: vec![CertificateAndKey { chain, key }],
            chain: None,
            client_ca: None,
            ca_directory: None,
            client_certificate: ClientCertificate::None,
            client_certificate_dates: true,
            client_certificate_rules: CertificateRules::Standard,
            crl: None,
            crl_scope: RevocationScope::Chain,
            record_bytes: RECORD_BYTES_MAX,
            version_min: TlsVersion::V12,
        };
        let config = TlsConfig::load(&settings).expect("good files");
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone()).expect("a certificate");
        (config, roots)
    })
}

/// Sends bytes that no rustls client would send.
fn raw(bytes: &[u8]) {
    let heard = |size: usize| {
        let (mut tls, mut scratch) = (Tls::new(&scene().0), TlsScratch::default());
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        let failed =
            bytes.chunks(size).any(|read| tls.read(read, &mut scratch, &mut plain, &mut out).is_err());
        if failed {
            assert!(tls.read(b"x", &mut scratch, &mut plain, &mut out).is_err(), "the end is the end");
        }
        assert!(out.len() <= ANSWER_BYTES_MAX, "{} bytes of answer", out.len());
        assert!(plain.is_empty(), "nobody has a key yet");
        (failed, out.is_empty())
    };
    let whole = heard(bytes.len().max(1));
    assert_eq!(whole, heard(1), "byte by byte");
    assert_eq!(whole, heard(1 + bytes.len() % 13), "in parts");
}

/// Both sides in memory.
struct Conversation {
    client: ClientConnection,
    tls: Tls,
    scratch: TlsScratch,
    /// The bytes that the client has sent, and the result.
    sent: Vec<u8>,
    plain: Vec<u8>,
}

impl Conversation {
    /// Delivers the client's bytes, in parts and with one bit changed. Returns false if the broker ends the
    /// connection.
    fn carry(&mut self, size: usize, changed: Option<usize>) -> bool {
        let mut flight = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut flight).expect("memory");
        }
        if let Some(at) = changed.filter(|_| !flight.is_empty()) {
            // The type and version in the header of an encrypted record protect nothing, and rustls does not
            // check them.
            let at = (at % flight.len()).max(3);
            flight[at] ^= 1;
        }
        let mut out = Vec::new();
        for read in flight.chunks(size) {
            if self.tls.read(read, &mut self.scratch, &mut self.plain, &mut out).is_err() {
                return false;
            }
        }
        let mut unread = out.as_slice();
        while !unread.is_empty() {
            self.client.read_tls(&mut unread).expect("memory");
            self.client.process_new_packets().expect("the broker says what a client understands");
        }
        true
    }
}

fn conversation(steps: &[u8], version: &'static rustls::SupportedProtocolVersion) {
    let (config, roots) = scene();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
    let trusting =
        builder.expect("ring has both").with_root_certificates(roots.clone()).with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut both = Conversation {
        client: ClientConnection::new(Arc::new(trusting), name).expect("a good configuration"),
        tls: Tls::new(config),
        scratch: TlsScratch::default(),
        sent: Vec::new(),
        plain: Vec::new(),
    };
    while both.client.is_handshaking() || both.client.wants_write() {
        assert!(both.carry(usize::MAX, None), "a true handshake");
    }
    for step in steps.chunks_exact(2) {
        let length = usize::from(step[1]);
        let (size, changed) = match step[0] % 4 {
            // The client sends many records, or few.
            0 => (1 + length, None),
            1 => (usize::MAX, None),
            2 => (1 + length, Some(usize::from(step[0]) * 7 + length)),
            _ => {
                let words = vec![step[0]; 1 + length * 97];
                let mut out = Vec::new();
                both.tls.write([words.as_slice()], &mut both.scratch, &mut out).expect("it is open");
                let mut unread = out.as_slice();
                let mut heard = Vec::new();
                while !unread.is_empty() {
                    both.client.read_tls(&mut unread).expect("memory");
                    let state = both.client.process_new_packets().expect("the broker's records are good");
                    let mut part = vec![0; state.plaintext_bytes_to_read()];
                    both.client.reader().read_exact(&mut part).expect("they are there");
                    heard.extend(part);
                }
                assert!(heard == words, "what the broker says arrives");
                continue;
            }
        };
        let words = vec![step[1]; 1 + length * 31];
        both.client.writer().write_all(&words).expect("memory");
        let before = both.sent.len();
        both.sent.extend(&words);
        let goes_on = both.carry(size, changed);
        assert!(both.sent.starts_with(&both.plain), "only what was sent");
        if changed.is_none() {
            assert!(goes_on && both.plain == both.sent, "all that was sent");
            continue;
        }
        // A changed length waits for more bytes, anything else is refused. In any case the record is lost.
        assert!(
            both.plain.len() <= before || both.plain.len() < both.sent.len(),
            "nothing behind the change"
        );
        return;
    }
}
