//! Handshakes that succeed, and the sessions after them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::HandshakeKind;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::UnixTime;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

use super::super::{ClientCertificate, TlsConfig, TlsFailure, TlsProgress, TlsVersion, compact};
use super::peer::{Client, Pair, V12, V13};
use super::pki::{Authority, Listener, client_params, set_end};

fn each_version(check: impl Fn(&'static rustls::SupportedProtocolVersion)) {
    [V12, V13].into_iter().for_each(check);
}

#[track_caller]
fn both_can_talk(pair: &mut Pair) {
    pair.client_writes(b"hello from the client");
    assert_eq!(pair.client_speaks(), Ok(TlsProgress::Open));
    assert_eq!(pair.take_received(), b"hello from the client");
    pair.server_writes(b"hello from the server");
    assert_eq!(pair.client_reads(), b"hello from the server");
}

#[test]
fn a_client_of_either_version_connects_and_both_talk() {
    let listener = Listener::new();
    let config = listener.config();
    for (version, name) in [(V12, TlsVersion::V12), (V13, TlsVersion::V13)] {
        let mut pair = Client::new(version, &listener.authority).connect(&config).handshake();
        let agreed = pair.server.agreed().unwrap();
        assert_eq!((agreed.version, agreed.protocol, agreed.resumed), (name, None, false));
        assert_eq!(pair.server.identity(), None);
        both_can_talk(&mut pair);
    }
}

#[test]
fn every_suite_and_group_of_the_default_provider_works_against_it() {
    let listener = Listener::new();
    let config = listener.config();
    for suite in ring::default_provider().cipher_suites {
        if suite.suite().as_str().is_some_and(|name| name.contains("_RSA_")) {
            continue; // The certificate is ECDSA. The record layer of those suites is the same.
        }
        for group in ring::default_provider().kx_groups {
            let mut provider = ring::default_provider();
            provider.cipher_suites = vec![suite];
            provider.kx_groups = vec![group];
            let version = suite.version();
            let mut pair =
                Client::with(version, &listener.authority, None, provider).connect(&config).handshake();
            assert_eq!(pair.server.agreed().unwrap().cipher_suite, suite.suite().as_str().unwrap());
            both_can_talk(&mut pair);
            pair.client_writes(&[7; 60_000]);
            pair.client_speaks().unwrap();
            assert_eq!(pair.take_received(), [7; 60_000]);
        }
    }
}

#[test]
fn a_client_that_guesses_the_wrong_group_is_asked_again() {
    let listener = Listener::new();
    let mut provider = ring::default_provider();
    // The client sends a key share of the first group, and the listener must ask for the second.
    let mut server_provider = compact::provider();
    server_provider.kx_groups = vec![ring::kx_group::SECP256R1];
    provider.kx_groups = vec![ring::kx_group::X25519, ring::kx_group::SECP256R1];
    let config =
        TlsConfig::load_with(&listener.settings, &Arc::new(server_provider), Arc::new(DefaultTimeProvider))
            .unwrap();
    for protocols in [&[][..], &["mqtt"], &["other"]] {
        let client = Client::with(V13, &listener.authority, None, provider.clone()).offering(protocols);
        let mut pair = client.connect(&config).handshake();
        assert_eq!(pair.client.handshake_kind(), Some(HandshakeKind::FullWithHelloRetryRequest));
        both_can_talk(&mut pair);
    }
}

#[test]
fn bytes_may_come_one_at_a_time() {
    let listener = Listener::asking(ClientCertificate::Required);
    let config = listener.config();
    let issued = listener.authority.client("device-7");
    each_version(|version| {
        let mut pair =
            Client::with_certificate(version, &listener.authority, &[&issued], &[]).connect(&config);
        let mut said = Vec::new();
        while pair.client.is_handshaking() || !said.contains(&TlsProgress::Established) {
            for byte in pair.client_says() {
                said.push(pair.read(&[byte]).unwrap());
            }
            pair.server_speaks().unwrap();
        }
        assert_eq!(said.iter().filter(|&&progress| progress == TlsProgress::Established).count(), 1);
        pair.client_writes(b"one");
        pair.client_writes(b"two");
        for byte in pair.client_says() {
            assert_eq!(pair.read(&[byte]), Ok(TlsProgress::Open));
        }
        assert_eq!(pair.take_received(), b"onetwo");
    });
}

#[test]
fn many_records_in_one_read_and_a_part_of_the_next() {
    let listener = Listener::new();
    let config = listener.config();
    each_version(|version| {
        let mut pair = Client::new(version, &listener.authority).connect(&config).handshake();
        let mut plain = Vec::new();
        let mut cipher = Vec::new();
        for number in 0..200_u8 {
            let message = vec![number; 1 + usize::from(number)];
            pair.client_writes(&message);
            plain.extend(message);
            cipher.extend(pair.client_says());
        }
        let cut = cipher.len() - 3;
        assert_eq!(pair.read(&cipher[..cut]), Ok(TlsProgress::Open));
        assert_eq!(pair.received.len(), plain.len() - 200);
        assert_eq!(pair.read(&cipher[cut..]), Ok(TlsProgress::Open));
        assert_eq!(pair.take_received(), plain);
    });
}

#[test]
fn the_first_message_may_come_with_the_end_of_the_handshake() {
    let listener = Listener::new();
    let config = listener.config();
    each_version(|version| {
        let mut pair = Client::new(version, &listener.authority).connect(&config);
        let mut progress = pair.client_speaks().unwrap();
        while progress != TlsProgress::Established {
            pair.server_speaks().unwrap();
            // The client buffers until it may send.
            pair.client_writes(b"x");
            progress = pair.client_speaks().unwrap();
        }
        if version.version == rustls::ProtocolVersion::TLSv1_3 {
            assert_eq!(pair.take_received(), b"x", "1.3 lets the client speak with its last message");
        }
    });
}

#[test]
fn a_megabyte_is_split_into_records() {
    let listener = Listener::new();
    let config = listener.config();
    each_version(|version| {
        let mut pair = Client::new(version, &listener.authority).connect(&config).handshake();
        let plain: Vec<u8> = (0..1 << 20).map(|number: u32| number.to_le_bytes()[1]).collect();
        pair.server_writes(&plain);
        let records = plain.len() / (1 << 14);
        assert!(pair.out.len() > plain.len() + records * 21 && pair.out.len() < plain.len() + records * 32);
        assert_eq!(pair.client_reads(), plain);
    });
}

/// The content of each record in bytes, for encrypted records with their overhead.
fn records(mut bytes: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        lengths.push(length);
        bytes = &rest[length..];
    }
    lengths
}

#[test]
fn no_record_is_longer_than_the_listener_says_in_the_handshake_and_after_it() {
    for record_bytes in [512, 1024, 4096] {
        let mut listener = Listener::new();
        listener.settings.record_bytes = record_bytes;
        let config = listener.config();
        each_version(|version| {
            let mut pair = Client::new(version, &listener.authority).connect(&config);
            let mut sent = Vec::new();
            while pair.client_speaks().unwrap() != TlsProgress::Established {
                sent.extend_from_slice(&pair.out);
                pair.server_speaks().unwrap();
            }
            sent.extend_from_slice(&pair.out);
            pair.server_speaks().unwrap();
            let plain = vec![7; 5000];
            pair.server_writes(&plain);
            sent.extend_from_slice(&pair.out);
            assert_eq!(pair.client_reads(), plain);
            let records = records(&sent);
            assert!(records.iter().all(|length| *length <= record_bytes + 24), "{record_bytes}: {records:?}");
            assert!(records.len() > 5000 / record_bytes, "{records:?}");
        });
    }
}

#[test]
fn several_parts_become_one_record() {
    let listener = Listener::new();
    let mut pair = Client::new(V13, &listener.authority).connect(&listener.config()).handshake();
    let parts: [&[u8]; 4] = [b"one", b"", b"two", b"three"];
    pair.server.write(parts, &mut pair.scratch, &mut pair.out).unwrap();
    assert_eq!(pair.out.len(), 5 + "onetwothree".len() + 1 + 16);
    assert_eq!(pair.client_reads(), b"onetwothree");
    pair.server.write([], &mut pair.scratch, &mut pair.out).unwrap();
    pair.server.write([&b""[..]], &mut pair.scratch, &mut pair.out).unwrap();
    assert!(pair.out.is_empty());
}

#[test]
fn nothing_can_be_written_before_the_handshake_is_done() {
    let listener = Listener::new();
    let mut pair = Client::new(V13, &listener.authority).connect(&listener.config());
    let write = |pair: &mut Pair| pair.server.write([&b"x"[..]], &mut pair.scratch, &mut pair.out);
    assert_eq!(write(&mut pair), Err(TlsFailure::NotEstablished));
    pair.client_speaks().unwrap();
    assert_eq!(write(&mut pair), Err(TlsFailure::NotEstablished));
    pair.server.close(&mut Vec::new());
    pair.server_speaks().unwrap();
    assert_eq!(pair.client_speaks(), Ok(TlsProgress::Established));
    assert_eq!(write(&mut pair), Ok(()));
}

#[test]
fn either_side_can_end_the_session() {
    let listener = Listener::new();
    let config = listener.config();
    each_version(|version| {
        let mut pair = Client::new(version, &listener.authority).connect(&config).handshake();
        pair.client_writes(b"last");
        pair.client.send_close_notify();
        let mut bytes = pair.client_says();
        bytes.extend(b"what comes after it is dropped");
        assert_eq!(pair.read(&bytes), Ok(TlsProgress::PeerClosed));
        assert_eq!(pair.take_received(), b"last");
        assert_eq!(pair.read(b"more"), Ok(TlsProgress::PeerClosed));
        pair.server_writes(b"and ours");
        pair.server.close(&mut pair.out);
        let said = pair.out.len();
        pair.server.close(&mut pair.out);
        assert_eq!(pair.out.len(), said, "it is said once");
        assert_eq!(pair.client_reads(), b"and ours");
        assert!(pair.client.process_new_packets().unwrap().peer_has_closed());

        let mut pair = Client::new(version, &listener.authority).connect(&config).handshake();
        pair.server.close(&mut pair.out);
        pair.client_reads();
        assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
    });
}

#[test]
fn a_close_that_comes_with_the_end_of_the_handshake_is_told_by_the_next_read() {
    let listener = Listener::new();
    let mut pair = Client::new(V13, &listener.authority).connect(&listener.config());
    pair.client_speaks().unwrap();
    pair.server_speaks().unwrap();
    pair.client_writes(b"short");
    pair.client.send_close_notify();
    assert_eq!(pair.client_speaks(), Ok(TlsProgress::Established));
    assert_eq!(pair.take_received(), b"short");
    assert_eq!(pair.read(b""), Ok(TlsProgress::PeerClosed));
}

#[test]
fn a_client_can_change_its_keys() {
    let listener = Listener::new();
    let mut pair = Client::new(V13, &listener.authority).connect(&listener.config()).handshake();
    for round in 0..3 {
        pair.client.refresh_traffic_keys().unwrap();
        pair.client_writes(b"with new keys");
        let bytes = pair.client_says();
        if round == 1 {
            // This also holds if the message of the change comes in pieces, and we send in between.
            for &byte in &bytes {
                pair.read(&[byte]).unwrap();
                pair.server_writes(b".");
            }
            pair.take_received();
            assert_eq!(pair.client_reads(), vec![b'.'; bytes.len()]);
        } else {
            assert_eq!(pair.read(&bytes), Ok(TlsProgress::Open));
            assert_eq!(pair.take_received(), b"with new keys");
        }
        pair.server_writes(b"so do we");
        assert_eq!(pair.client_reads(), b"so do we");
    }
}

#[test]
fn a_hello_in_many_small_records_is_one_hello() {
    let listener = Listener::new();
    let mut client = Client::new(V13, &listener.authority);
    client.config.max_fragment_size = Some(64);
    let mut pair = client.connect(&listener.config());
    let bytes = pair.client_says();
    assert!(bytes.len() > 3 * 64);
    for &byte in &bytes {
        pair.read(&[byte]).unwrap();
        pair.server.close(&mut Vec::new());
    }
    pair.server_speaks().unwrap();
    assert_eq!(pair.client_speaks(), Ok(TlsProgress::Established));
    both_can_talk(&mut pair);
}

/// rustls remembers where such a message has begun in our buffer, and reads it in every call.
#[test]
fn half_a_key_update_does_not_disturb_what_we_write() {
    let listener = Listener::new();
    let config = listener.config();
    for cut in 1..KEY_UPDATE_BYTES {
        let client = || Client::with(V13, &listener.authority, None, cutting::provider(cut));
        let mut pair = client().connect(&config).handshake();
        pair.client.refresh_traffic_keys().unwrap();
        assert_eq!(pair.client_speaks(), Ok(TlsProgress::Open));
        for _ in 0..2 {
            pair.server_writes(b"we go on");
            assert_eq!(pair.client_reads(), b"we go on");
            assert_eq!(pair.read(b""), Ok(TlsProgress::Open));
        }
        // The client has new keys, and the server does not know it.
        pair.client_writes(b"x");
        assert!(pair.client_speaks().is_err());

        let mut pair = client().connect(&config).handshake();
        pair.client.refresh_traffic_keys().unwrap();
        pair.client_speaks().unwrap();
        pair.server.close(&mut pair.out);
        pair.client_reads();
        assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
    }
}

const KEY_UPDATE_BYTES: usize = 5;

/// A client that sends only the beginning of its key updates.
mod cutting {
    use rustls::crypto::cipher::{
        AeadKey, Iv, MessageDecrypter, MessageEncrypter, OutboundOpaqueMessage, OutboundPlainMessage,
        Tls13AeadAlgorithm, UnsupportedOperationError,
    };
    use rustls::crypto::{CryptoProvider, ring};
    use rustls::{
        CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, SupportedCipherSuite,
        Tls13CipherSuite,
    };

    use super::KEY_UPDATE_BYTES;

    pub(super) fn provider(cut: usize) -> CryptoProvider {
        let SupportedCipherSuite::Tls13(inner) = ring::cipher_suite::TLS13_AES_128_GCM_SHA256 else {
            unreachable!("it is a suite of 1.3")
        };
        let suite = Tls13CipherSuite {
            common: CipherSuiteCommon {
                suite: inner.common.suite,
                hash_provider: inner.common.hash_provider,
                confidentiality_limit: inner.common.confidentiality_limit,
            },
            hkdf_provider: inner.hkdf_provider,
            aead_alg: Box::leak(Box::new(Cutting { inner: inner.aead_alg, cut })),
            quic: None,
        };
        let suite = SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)));
        CryptoProvider { cipher_suites: vec![suite], ..ring::default_provider() }
    }

    struct Cutting<T> {
        inner: T,
        cut: usize,
    }

    impl Tls13AeadAlgorithm for Cutting<&'static dyn Tls13AeadAlgorithm> {
        fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
            Box::new(Cutting { inner: self.inner.encrypter(key, iv), cut: self.cut })
        }

        fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
            self.inner.decrypter(key, iv)
        }

        fn key_len(&self) -> usize {
            self.inner.key_len()
        }

        fn extract_keys(
            &self,
            _: AeadKey,
            _: Iv,
        ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
            Err(UnsupportedOperationError)
        }
    }

    impl MessageEncrypter for Cutting<Box<dyn MessageEncrypter>> {
        fn encrypt(
            &mut self,
            plain: OutboundPlainMessage<'_>,
            seq: u64,
        ) -> Result<OutboundOpaqueMessage, Error> {
            let OutboundPlainMessage { typ, version, payload } = plain;
            let is_key_update = typ == ContentType::Handshake && payload.len() == KEY_UPDATE_BYTES;
            let payload = if is_key_update { payload.split_at(self.cut).0 } else { payload };
            self.inner.encrypt(OutboundPlainMessage { typ, version, payload }, seq)
        }

        fn encrypted_payload_len(&self, payload_len: usize) -> usize {
            self.inner.encrypted_payload_len(payload_len)
        }
    }
}

/// Lets each client connect twice. Returns whether the second connection was a resumption.
fn resumes(listener: &Listener, version: &'static rustls::SupportedProtocolVersion, reload: bool) -> bool {
    let config = listener.config();
    let mut client = Client::new(version, &listener.authority);
    client.config.resumption = Resumption::in_memory_sessions(8);
    let first = client.connect(&config).handshake();
    assert!(!first.server.agreed().unwrap().resumed);
    let again = if reload { listener.config() } else { config };
    let mut second = client.connect(&again).handshake();
    both_can_talk(&mut second);
    let resumed = second.server.agreed().unwrap().resumed;
    assert_eq!(resumed, second.client.handshake_kind() == Some(HandshakeKind::Resumed));
    resumed
}

#[test]
fn a_client_comes_back_with_a_ticket_also_to_another_shard() {
    let listener = Listener::new();
    each_version(|version| assert!(resumes(&listener, version, false)));
}

#[test]
fn a_ticket_does_not_outlive_the_configuration_that_it_was_given_under() {
    let listener = Listener::new();
    each_version(|version| assert!(!resumes(&listener, version, true)));
}

#[test]
fn a_client_that_resumes_keeps_its_identity() {
    let listener = Listener::asking(ClientCertificate::Required);
    let config = listener.config();
    let issued = listener.authority.client("device-7");
    each_version(|version| {
        let mut client = Client::with_certificate(version, &listener.authority, &[&issued], &[]);
        client.config.resumption = Resumption::in_memory_sessions(8);
        client.connect(&config).handshake();
        let second = client.connect(&config).handshake();
        assert!(second.server.agreed().unwrap().resumed);
        assert_eq!(second.server.identity().unwrap().common_name.as_deref(), Some("device-7"));
    });
}

/// A clock that is ahead by this many seconds.
#[derive(Debug, Default)]
struct Ahead(AtomicU64);

impl TimeProvider for Ahead {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = UnixTime::now().as_secs() + self.0.load(Ordering::Relaxed);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

#[test]
fn a_ticket_does_not_outlive_the_certificate_that_it_was_given_for() {
    for (client_hours, ca_hours, says) in [(1, 48, "has expired"), (48, 1, "CA")] {
        let mut listener = Listener::asking(ClientCertificate::Required);
        let authority = Authority::short("short", ca_hours);
        listener.settings.client_ca = Some(listener.files.write("short-ca.pem", authority.pem()));
        let mut params = client_params("device-7", 1);
        set_end(&mut params, client_hours);
        let issued = authority.issue(&params);
        each_version(|version| {
            let time = Arc::new(Ahead::default());
            let provider = Arc::new(compact::provider());
            let config = TlsConfig::load_with(&listener.settings, &provider, time.clone()).unwrap();
            let mut client = Client::with_certificate(version, &listener.authority, &[&issued], &[]);
            client.config.resumption = Resumption::in_memory_sessions(8);
            client.connect(&config).handshake();
            assert!(client.connect(&config).handshake().server.agreed().unwrap().resumed);
            time.0.store(2 * 3600, Ordering::Relaxed);
            let failure = client.connect(&config).try_handshake().unwrap_err().to_string();
            assert!(failure.contains(says), "{failure}");
        });
    }
}

#[test]
fn a_living_connection_keeps_its_configuration_over_a_reload() {
    let listener = Listener::new();
    let config = listener.config();
    let mut pair = Client::new(V13, &listener.authority).connect(&config).handshake();
    drop(config);
    both_can_talk(&mut pair);
}

#[test]
fn ours_is_taken_of_the_application_protocols_and_others_do_no_harm() {
    let listener = Listener::new();
    let config = listener.config();
    let offers: [(&[&str], Option<&[u8]>); 6] = [
        (&[], None),
        (&["mqtt"], Some(b"mqtt")),
        (&["h2", "http/1.1"], Some(b"http/1.1")),
        (&["http/1.1", "mqtt"], Some(b"mqtt")),
        (&["h2"], None),
        (&["x-amzn-mqtt-ca", "h2"], None),
    ];
    each_version(|version| {
        for (offer, taken) in offers {
            let pair = Client::new(version, &listener.authority).offering(offer).connect(&config).handshake();
            assert_eq!(pair.server.agreed().unwrap().protocol, taken, "{offer:?}");
            assert_eq!(pair.client.alpn_protocol(), taken);
        }
    });
}

#[test]
fn the_name_that_a_client_asks_for_chooses_the_certificate() {
    let mut listener = Listener::new();
    let names: [&[&str]; 3] = [&["*.example.org"], &["mqtt.example.org", "B.Example.org"], &["localhost"]];
    for (number, names) in names.iter().enumerate() {
        let issued = listener.authority.server(names);
        listener.settings.certificates.push(listener.files.certificate(&format!("{number}"), &issued));
    }
    let config = listener.config();
    let asked: [(&'static str, usize); 7] = [
        ("localhost", 0), // if two fit, the first
        ("a.example.org", 1),
        ("mqtt.example.org", 2), // an exact name before a wildcard
        ("b.example.org", 2),
        ("example.org", 0),     // a wildcard stands for one label, not for none
        ("a.b.example.org", 0), // and not for two
        ("unknown.test", 0),    // the first is the default
    ];
    for (name, expected) in asked {
        let file = &listener.settings.certificates[expected].chain;
        let pem = std::fs::read_to_string(file).unwrap();
        let mut pair = Client::new(V13, &listener.authority).named(name).connect(&config);
        // A client refuses the default, but has seen it by then.
        let seen = pair.try_handshake();
        let got = pair.client.peer_certificates().map(|chain| chain[0].to_vec());
        match got {
            Some(got) => assert!(same(&pem, &got), "{name} got another certificate"),
            None => assert!(expected == 0 && seen.is_err(), "{name} was refused"),
        }
    }
}

fn same(pem: &str, der: &[u8]) -> bool {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().as_ref() == der
}

#[test]
fn the_name_can_be_taken_for_the_log() {
    let listener = Listener::new();
    let mut pair = Client::new(V13, &listener.authority).connect(&listener.config());
    assert_eq!(pair.server.take_server_name(), None);
    pair.client_speaks().unwrap();
    assert_eq!(pair.server.take_server_name().as_deref(), Some("localhost"));
    assert_eq!(pair.server.take_server_name(), None);
}

#[test]
fn the_oldest_version_can_be_1_3() {
    let mut listener = Listener::new();
    listener.settings.version_min = TlsVersion::V13;
    let config = listener.config();
    Client::new(V13, &listener.authority).connect(&config).handshake();
    let failure = Client::new(V12, &listener.authority).connect(&config).try_handshake().unwrap_err();
    assert_eq!(failure.to_string(), "the client offers no version of TLS that is accepted here");
}
