//! Tests of the record keys: the standards' vectors, ring's own keys as the other side, and changed or
//! truncated bytes.

use rustls::crypto::cipher::OutboundChunks;

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let (pairs, []) = digits.as_chunks::<2>() else { panic!("half a byte") };
    pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn message<'a>(plain: &'a [u8], typ: ContentType) -> OutboundPlainMessage<'a> {
    OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload: OutboundChunks::Single(plain) }
}

/// The encrypted record with its header.
fn sealed(encrypter: &mut dyn MessageEncrypter, plain: &[u8], typ: ContentType, sequence: u64) -> Vec<u8> {
    let length = encrypter.encrypted_payload_len(plain.len());
    let record = encrypter.encrypt(message(plain, typ), sequence).unwrap().encode();
    assert_eq!(record.len(), 5 + length);
    record
}

fn opened(
    decrypter: &mut dyn MessageDecrypter,
    record: &[u8],
    sequence: u64,
) -> Result<(ContentType, Vec<u8>), Error> {
    let (header, payload) = record.split_at(5);
    let version = ProtocolVersion::from(u16::from_be_bytes([header[1], header[2]]));
    let mut payload = payload.to_vec();
    let sealed = InboundOpaqueMessage::new(ContentType::from(header[0]), version, &mut payload);
    decrypter.decrypt(sealed, sequence).map(|plain| (plain.typ, plain.payload.to_vec()))
}

/// RFC 8448, section 3: the records of a session after its handshake, TLS_AES_128_GCM_SHA256.
#[test]
fn the_records_of_rfc_8448_come_out_and_go_in() {
    let payload: Vec<u8> = (0..50).collect();
    let record = |key: &str, iv: &str| {
        let iv: [u8; NONCE_LEN] = hex(iv).try_into().unwrap();
        Tls13Record(RawKey::new(&aead::AES_128_GCM, &hex(key), Iv::new(iv)))
    };
    let client = || record("17422dda596ed5d9acd890e3c63f5051", "5b78923dee08579033e523d9");
    let server = || record("9f02283b6c9c07efc26bb9f2ac92e356", "cf782b88dd83549aadf1e984");
    let client_data = hex(
        "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc ab 3f 2b 98 19
         a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69 49
         15 e4",
    );
    let server_data = hex(
        "17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc 32 25 d0 5f 82 aa 1b 36 e3 0e fa
         f9 7d 90 e6 df fc 60 2d cb 50 1a 59 a8 fc c4 9c 4b f2 e5 f0 a2 1c 00 47 c2 ab f3 32 54 0d d0 32 e1 67 c2
         95 5d",
    );
    let client_close = hex("17 03 03 00 13 c9 87 27 60 65 56 66 b7 4d 7f f1 15 3e fd 6d b6 d0 b0 e3");
    let server_close = hex("17 03 03 00 13 b5 8f d6 71 66 eb f5 99 d2 47 20 cf be 7e fa 7a 88 64 a9");
    // The server has sent a ticket first, with sequence number 0.
    let data = ContentType::ApplicationData;
    for (keys, sequence, typ, plain, wire) in [
        (&client as &dyn Fn() -> Tls13Record, 0, data, payload.as_slice(), client_data),
        (&server, 1, data, payload.as_slice(), server_data),
        (&client, 1, ContentType::Alert, &[1, 0], client_close),
        (&server, 2, ContentType::Alert, &[1, 0], server_close),
    ] {
        assert_eq!(sealed(&mut keys(), plain, typ, sequence), wire);
        assert_eq!(opened(&mut keys(), &wire, sequence), Ok((typ, plain.to_vec())));
    }
}

/// An encrypter and a decrypter of the same keys.
type Side = (Box<dyn MessageEncrypter>, Box<dyn MessageDecrypter>);

struct Sides {
    suite: CipherSuite,
    ours: Side,
    /// ring's own, with the same keys. Keys of 16 bytes can't be passed to ring from here. Suites with such
    /// keys are tested by the vectors above, and by handshakes with clients of ring and of OpenSSL.
    theirs: Option<Side>,
}

fn sides() -> Vec<Sides> {
    let both = provider().cipher_suites.into_iter().zip(default_provider().cipher_suites);
    both.map(|(ours, theirs)| {
        let suite = ours.suite();
        assert_eq!(suite, theirs.suite());
        let short = suite.as_str().is_some_and(|name| name.contains("AES_128"));
        Sides {
            suite,
            ours: if short { short_side(ours) } else { side(ours) },
            theirs: (!short).then(|| side(theirs)),
        }
    })
    .collect()
}

fn side(suite: SupportedCipherSuite) -> Side {
    let key = || AeadKey::from([0x5a; KEY_BYTES_MAX]);
    match suite {
        SupportedCipherSuite::Tls13(suite) => {
            let iv = || Iv::new([0xa5; NONCE_LEN]);
            (suite.aead_alg.encrypter(key(), iv()), suite.aead_alg.decrypter(key(), iv()))
        }
        SupportedCipherSuite::Tls12(suite) => {
            let shape = suite.aead_alg.key_block_shape();
            let (iv, extra) = ([0xa5; NONCE_LEN], [0x33; 8]);
            let (iv, extra) = (&iv[..shape.fixed_iv_len], &extra[..shape.explicit_nonce_len]);
            (suite.aead_alg.encrypter(key(), iv, extra), suite.aead_alg.decrypter(key(), iv))
        }
    }
}

fn short_side(suite: SupportedCipherSuite) -> Side {
    let key = |iv| RawKey::new(&aead::AES_128_GCM, &[0x5a; 16], iv);
    let iv = || Iv::new([0xa5; NONCE_LEN]);
    match suite {
        SupportedCipherSuite::Tls13(_) => {
            (Box::new(Tls13Record(key(iv()))), Box::new(Tls13Record(key(iv()))))
        }
        SupportedCipherSuite::Tls12(_) => {
            let encrypter = Tls12GcmRecord(key(gcm_iv(&[0xa5; 4], &[0x33; 8])));
            (Box::new(encrypter), Box::new(Tls12GcmRecord(key(gcm_iv(&[0xa5; 4], &[0; 8])))))
        }
    }
}

const SEQUENCES: [u64; 6] = [0, 1, 255, 256, 1 << 32, u64::MAX - 1];

#[test]
fn every_suite_seals_as_ring_does_and_opens_what_ring_seals() {
    for Sides { suite, ours, theirs } in &mut sides() {
        for sequence in SEQUENCES {
            for bytes in [1, 2, 15, 16, 17, 128, 1000, PLAIN_BYTES_MAX] {
                let plain = vec![0x77; bytes];
                for typ in [ContentType::ApplicationData, ContentType::Handshake, ContentType::Alert] {
                    let record = sealed(&mut *ours.0, &plain, typ, sequence);
                    assert_eq!(
                        opened(&mut *ours.1, &record, sequence),
                        Ok((typ, plain.clone())),
                        "{suite:?}"
                    );
                    if let Some(theirs) = theirs {
                        assert_eq!(record, sealed(&mut *theirs.0, &plain, typ, sequence), "{suite:?}");
                        assert_eq!(opened(&mut *theirs.1, &record, sequence), Ok((typ, plain.clone())));
                    }
                }
            }
        }
    }
}

#[test]
fn chunks_are_sealed_as_if_they_were_one() {
    for Sides { suite, ours, .. } in &mut sides() {
        let chunks: [&[u8]; 3] = [b"one", b"two", b"three"];
        let payload = OutboundChunks::new(&chunks);
        let typ = ContentType::ApplicationData;
        let plain = OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload };
        let record = ours.0.encrypt(plain, 7).unwrap().encode();
        assert_eq!(record, sealed(&mut *ours.0, b"onetwothree", typ, 7), "{suite:?}");
    }
}

#[test]
fn no_bit_of_a_record_can_be_changed() {
    for Sides { suite, ours, .. } in &mut sides() {
        let record = sealed(&mut *ours.0, b"a message", ContentType::ApplicationData, 3);
        // The type and the version of an encrypted record of 1.3 are constants, which rustls checks earlier.
        let first = if matches!(suite.as_str(), Some(name) if name.starts_with("TLS13")) { 5 } else { 0 };
        for position in (first..record.len()).filter(|position| !(3..5).contains(position)) {
            for bit in 0..8 {
                let mut changed = record.clone();
                changed[position] ^= 1 << bit;
                let result = opened(&mut *ours.1, &changed, 3);
                assert_eq!(result, Err(Error::DecryptError), "{suite:?}: byte {position}, bit {bit}");
            }
        }
        assert!(opened(&mut *ours.1, &record, 3).is_ok());
    }
}

#[test]
fn a_record_that_is_cut_or_longer_or_of_another_place_is_refused() {
    for Sides { suite, ours, .. } in &mut sides() {
        let record = sealed(&mut *ours.0, b"a message", ContentType::ApplicationData, 3);
        for length in 5..record.len() {
            assert_eq!(
                opened(&mut *ours.1, &record[..length], 3),
                Err(Error::DecryptError),
                "{suite:?}: {length}"
            );
        }
        let longer = [record.as_slice(), &[0]].concat();
        assert_eq!(opened(&mut *ours.1, &longer, 3), Err(Error::DecryptError));
        for sequence in [2, 4, 3 + (1 << 32)] {
            assert_eq!(opened(&mut *ours.1, &record, sequence), Err(Error::DecryptError), "{suite:?}");
        }
    }
}

#[test]
fn a_nonce_does_not_come_twice() {
    for Sides { suite, ours, .. } in &mut sides() {
        let records =
            SEQUENCES.map(|sequence| sealed(&mut *ours.0, &[0; 32], ContentType::ApplicationData, sequence));
        for (position, record) in records.iter().enumerate() {
            assert!(!records[..position].contains(record), "{suite:?}");
        }
    }
}

#[test]
fn a_record_with_more_than_the_standard_allows_is_refused() {
    let plain = vec![0; PLAIN_BYTES_MAX + 1];
    for Sides { suite, ours, .. } in &mut sides() {
        let record = sealed(&mut *ours.0, &plain, ContentType::ApplicationData, 0);
        assert_eq!(opened(&mut *ours.1, &record, 0), Err(Error::PeerSentOversizedRecord), "{suite:?}");
    }
}

/// The refusal to give out secrets is also the way to tell our suites from ring's.
#[test]
fn the_suites_are_those_of_the_default_provider_and_all_of_them_are_compact() {
    assert_eq!(provider().cipher_suites.len(), default_provider().cipher_suites.len());
    for (ours, theirs) in provider().cipher_suites.into_iter().zip(default_provider().cipher_suites) {
        assert_eq!(ours.suite(), theirs.suite());
        assert!(gives_secrets_out(theirs));
        assert!(!gives_secrets_out(ours), "{:?} is new: this file does not know it yet", ours.suite());
        let limit = |suite| match suite {
            SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
            SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
        };
        assert_eq!(limit(ours), limit(theirs));
    }
}

fn gives_secrets_out(suite: SupportedCipherSuite) -> bool {
    let (key, iv) = (AeadKey::from([0; KEY_BYTES_MAX]), [0; NONCE_LEN]);
    match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.extract_keys(key, Iv::new(iv)).is_ok(),
        SupportedCipherSuite::Tls12(suite) => {
            let shape = suite.aead_alg.key_block_shape();
            suite.aead_alg.extract_keys(key, &iv[..shape.fixed_iv_len], &[0; 8]).is_ok()
        }
    }
}
