//! A crypto provider for connections that are idle most of the time.
//!
//! It is ring's provider with other record keys. The encrypter and the decrypter of a connection keep the raw
//! key and IV, and expand the key on the stack for each record. ring's own keep the expanded key (AES round
//! keys and the table of GCM) as long as the connection lives. The raw form takes 64 bytes instead of 560 in
//! each direction, and costs one key expansion for each record.
//!
//! rustls still handles everything that is critical for security: sequence numbers, key updates, limits on
//! the use of a key, alerts. A nonce depends only on the IV and the sequence number that rustls passes in, as
//! defined in RFC 8446, section 5.3, RFC 5288, section 3, and RFC 7905, section 2.

use std::sync::LazyLock;

use ring::aead::{self, LessSafeKey, UnboundKey};
use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, KeyBlockShape, MessageDecrypter,
    MessageEncrypter, NONCE_LEN, Nonce, OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload,
    Tls12AeadAlgorithm, Tls13AeadAlgorithm, UnsupportedOperationError, make_tls12_aad, make_tls13_aad,
};
use rustls::crypto::ring::default_provider;
use rustls::{
    CipherSuite, CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion,
    SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite,
};
use zeroize::Zeroizing;

use super::signatures::ALGORITHMS;

/// ring's provider with the same suites in the same order and smaller record keys.
///
/// A suite that this file does not know stays as it is in ring. It works, and takes more memory.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: SUITES.clone(),
        signature_verification_algorithms: *ALGORITHMS,
        ..default_provider()
    }
}

/// The suites, made once for the process, because rustls needs suites with a static lifetime.
static SUITES: LazyLock<Vec<SupportedCipherSuite>> =
    LazyLock::new(|| default_provider().cipher_suites.into_iter().map(compact).collect());

fn compact(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    match suite {
        SupportedCipherSuite::Tls13(inner) => {
            let aead_alg: &'static dyn Tls13AeadAlgorithm = match inner.common.suite {
                CipherSuite::TLS13_AES_128_GCM_SHA256 => &TLS13_AES_128_GCM,
                CipherSuite::TLS13_AES_256_GCM_SHA384 => &TLS13_AES_256_GCM,
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => &TLS13_CHACHA20_POLY1305,
                _ => return suite,
            };
            let common = common(&inner.common);
            let compact =
                Tls13CipherSuite { common, aead_alg, quic: None, hkdf_provider: inner.hkdf_provider };
            SupportedCipherSuite::Tls13(Box::leak(Box::new(compact)))
        }
        SupportedCipherSuite::Tls12(inner) => {
            let aead_alg: &'static dyn Tls12AeadAlgorithm = match inner.common.suite {
                CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => &TLS12_AES_128_GCM,
                CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => &TLS12_AES_256_GCM,
                CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => &Tls12ChaCha,
                _ => return suite,
            };
            let compact = Tls12CipherSuite {
                common: common(&inner.common),
                aead_alg,
                prf_provider: inner.prf_provider,
                kx: inner.kx,
                sign: inner.sign,
            };
            SupportedCipherSuite::Tls12(Box::leak(Box::new(compact)))
        }
    }
}

static TLS13_AES_128_GCM: Tls13Aead = Tls13Aead(&aead::AES_128_GCM);
static TLS13_AES_256_GCM: Tls13Aead = Tls13Aead(&aead::AES_256_GCM);
static TLS13_CHACHA20_POLY1305: Tls13Aead = Tls13Aead(&aead::CHACHA20_POLY1305);
static TLS12_AES_128_GCM: Tls12Gcm = Tls12Gcm(&aead::AES_128_GCM);
static TLS12_AES_256_GCM: Tls12Gcm = Tls12Gcm(&aead::AES_256_GCM);

fn common(of: &CipherSuiteCommon) -> CipherSuiteCommon {
    CipherSuiteCommon {
        suite: of.suite,
        hash_provider: of.hash_provider,
        confidentiality_limit: of.confidentiality_limit,
    }
}

/// The key and IV of one direction, as the handshake derived them. They are wiped when dropped.
struct RawKey {
    algorithm: &'static aead::Algorithm,
    key: Zeroizing<[u8; KEY_BYTES_MAX]>,
    iv: Iv,
}

const _: () = assert!(size_of::<RawKey>() <= 56, "this is what a connection keeps twice");

impl RawKey {
    /// `key` must have the length that the algorithm has reported to rustls.
    fn new(algorithm: &'static aead::Algorithm, key: &[u8], iv: Iv) -> RawKey {
        let mut kept = Zeroizing::new([0; KEY_BYTES_MAX]);
        kept[..algorithm.key_len()].copy_from_slice(key);
        RawKey { algorithm, key: kept, iv }
    }

    /// The expanded key for one record.
    fn expand(&self) -> Result<LessSafeKey, Error> {
        UnboundKey::new(self.algorithm, &self.key[..self.algorithm.key_len()])
            .map(LessSafeKey::new)
            .map_err(|_| Error::General("the record key does not fit its cipher".into()))
    }

    fn nonce(&self, sequence: u64) -> [u8; NONCE_LEN] {
        Nonce::new(&self.iv, sequence).0
    }

    /// Encrypts `payload` from `from` on and appends the tag.
    fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        additional: &[u8],
        payload: &mut PrefixedPayload,
        from: usize,
    ) -> Result<(), Error> {
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let tag = self
            .expand()?
            .seal_in_place_separate_tag(nonce, aead::Aad::from(additional), &mut payload.as_mut()[from..])
            .map_err(|_| Error::EncryptError)?;
        payload.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Decrypts `payload` from `from` on, moves the plaintext to the front, and returns its length.
    fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        additional: &[u8],
        payload: &mut [u8],
        from: usize,
    ) -> Result<usize, Error> {
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        self.expand()?
            .open_within(nonce, aead::Aad::from(additional), payload, from..)
            .map(|plain| plain.len())
            .map_err(|_| Error::DecryptError)
    }
}

/// The AEAD of a TLS 1.3 suite.
struct Tls13Aead(&'static aead::Algorithm);

impl Tls13AeadAlgorithm for Tls13Aead {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Tls13Record(RawKey::new(self.0, key.as_ref(), iv)))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(Tls13Record(RawKey::new(self.0, key.as_ref(), iv)))
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    /// Does not give out secrets. midge never asks for them.
    fn extract_keys(&self, _: AeadKey, _: Iv) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Err(UnsupportedOperationError)
    }
}

/// A record of TLS 1.3 (RFC 8446, section 5.2).
struct Tls13Record(RawKey);

impl MessageEncrypter for Tls13Record {
    fn encrypt(
        &mut self,
        plain: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let bytes = self.encrypted_payload_len(plain.payload.len());
        let mut payload = PrefixedPayload::with_capacity(bytes);
        payload.extend_from_chunks(&plain.payload);
        payload.extend_from_slice(&plain.typ.to_array());
        self.0.seal(self.0.nonce(sequence), &make_tls13_aad(bytes), &mut payload, 0)?;
        // An encrypted record of TLS 1.3 has the version number of 1.2.
        Ok(OutboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, payload))
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        payload_len + CONTENT_TYPE_BYTES + TAG_BYTES
    }
}

impl MessageDecrypter for Tls13Record {
    fn decrypt<'a>(
        &mut self,
        mut sealed: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let payload = &mut sealed.payload;
        if payload.len() < TAG_BYTES {
            return Err(Error::DecryptError);
        }
        let additional = make_tls13_aad(payload.len());
        let plain = self.0.open(self.0.nonce(sequence), &additional, payload, 0)?;
        payload.truncate(plain);
        sealed.into_tls13_unpadded_message()
    }
}

/// AES-GCM in TLS 1.2. A part of its nonce is in the record (RFC 5288).
struct Tls12Gcm(&'static aead::Algorithm);

impl Tls12AeadAlgorithm for Tls12Gcm {
    /// The explicit part of the nonce counts from a start value that the handshake derived. The whole nonce
    /// is the IV xor the sequence number, as in TLS 1.3, so it can't repeat before the sequence number does.
    fn encrypter(&self, key: AeadKey, iv: &[u8], extra: &[u8]) -> Box<dyn MessageEncrypter> {
        Box::new(Tls12GcmRecord(RawKey::new(self.0, key.as_ref(), gcm_iv(iv, extra))))
    }

    fn decrypter(&self, key: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        Box::new(Tls12GcmRecord(RawKey::new(self.0, key.as_ref(), gcm_iv(iv, &[0; GCM_EXPLICIT_BYTES]))))
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        KeyBlockShape {
            enc_key_len: self.0.key_len(),
            fixed_iv_len: GCM_SALT_BYTES,
            explicit_nonce_len: GCM_EXPLICIT_BYTES,
        }
    }

    fn extract_keys(
        &self,
        _: AeadKey,
        _: &[u8],
        _: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Err(UnsupportedOperationError)
    }
}

fn gcm_iv(salt: &[u8], explicit: &[u8]) -> Iv {
    let mut iv = [0; NONCE_LEN];
    iv[..GCM_SALT_BYTES].copy_from_slice(salt);
    iv[GCM_SALT_BYTES..].copy_from_slice(explicit);
    Iv::new(iv)
}

struct Tls12GcmRecord(RawKey);

impl MessageEncrypter for Tls12GcmRecord {
    fn encrypt(
        &mut self,
        plain: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let mut payload = PrefixedPayload::with_capacity(self.encrypted_payload_len(plain.payload.len()));
        let nonce = self.0.nonce(sequence);
        let additional = make_tls12_aad(sequence, plain.typ, plain.version, plain.payload.len());
        payload.extend_from_slice(&nonce[GCM_SALT_BYTES..]);
        payload.extend_from_chunks(&plain.payload);
        self.0.seal(nonce, &additional, &mut payload, GCM_EXPLICIT_BYTES)?;
        Ok(OutboundOpaqueMessage::new(plain.typ, plain.version, payload))
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        payload_len + GCM_EXPLICIT_BYTES + TAG_BYTES
    }
}

impl MessageDecrypter for Tls12GcmRecord {
    fn decrypt<'a>(
        &mut self,
        mut sealed: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let payload = &mut sealed.payload;
        let plain_bytes =
            payload.len().checked_sub(GCM_EXPLICIT_BYTES + TAG_BYTES).ok_or(Error::DecryptError)?;
        let mut nonce = [0; NONCE_LEN];
        nonce[..GCM_SALT_BYTES].copy_from_slice(&self.0.iv.as_ref()[..GCM_SALT_BYTES]);
        nonce[GCM_SALT_BYTES..].copy_from_slice(&payload[..GCM_EXPLICIT_BYTES]);
        let additional = make_tls12_aad(sequence, sealed.typ, sealed.version, plain_bytes);
        let plain = self.0.open(nonce, &additional, payload, GCM_EXPLICIT_BYTES)?;
        finish_tls12(sealed, plain)
    }
}

/// ChaCha20-Poly1305 in TLS 1.2 (RFC 7905).
struct Tls12ChaCha;

impl Tls12AeadAlgorithm for Tls12ChaCha {
    fn encrypter(&self, key: AeadKey, iv: &[u8], _extra: &[u8]) -> Box<dyn MessageEncrypter> {
        Box::new(Tls12ChaChaRecord(RawKey::new(&aead::CHACHA20_POLY1305, key.as_ref(), Iv::copy(iv))))
    }

    fn decrypter(&self, key: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        Box::new(Tls12ChaChaRecord(RawKey::new(&aead::CHACHA20_POLY1305, key.as_ref(), Iv::copy(iv))))
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        KeyBlockShape {
            enc_key_len: aead::CHACHA20_POLY1305.key_len(),
            fixed_iv_len: NONCE_LEN,
            explicit_nonce_len: 0,
        }
    }

    fn extract_keys(
        &self,
        _: AeadKey,
        _: &[u8],
        _: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Err(UnsupportedOperationError)
    }
}

struct Tls12ChaChaRecord(RawKey);

impl MessageEncrypter for Tls12ChaChaRecord {
    fn encrypt(
        &mut self,
        plain: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let mut payload = PrefixedPayload::with_capacity(self.encrypted_payload_len(plain.payload.len()));
        let additional = make_tls12_aad(sequence, plain.typ, plain.version, plain.payload.len());
        payload.extend_from_chunks(&plain.payload);
        self.0.seal(self.0.nonce(sequence), &additional, &mut payload, 0)?;
        Ok(OutboundOpaqueMessage::new(plain.typ, plain.version, payload))
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        payload_len + TAG_BYTES
    }
}

impl MessageDecrypter for Tls12ChaChaRecord {
    fn decrypt<'a>(
        &mut self,
        mut sealed: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let payload = &mut sealed.payload;
        let plain_bytes = payload.len().checked_sub(TAG_BYTES).ok_or(Error::DecryptError)?;
        let additional = make_tls12_aad(sequence, sealed.typ, sealed.version, plain_bytes);
        let plain = self.0.open(self.0.nonce(sequence), &additional, payload, 0)?;
        finish_tls12(sealed, plain)
    }
}

/// RFC 5246, section 6.2.1: a record has no more than 2^14 bytes. (In 1.3 rustls checks this when it removes
/// the padding.)
fn finish_tls12(
    mut opened: InboundOpaqueMessage<'_>,
    plain: usize,
) -> Result<InboundPlainMessage<'_>, Error> {
    if plain > PLAIN_BYTES_MAX {
        return Err(Error::PeerSentOversizedRecord);
    }
    opened.payload.truncate(plain);
    Ok(opened.into_plain_message())
}

/// The longest key of the suites, in bytes: AES-256 and ChaCha20.
const KEY_BYTES_MAX: usize = 32;
const TAG_BYTES: usize = 16;
const CONTENT_TYPE_BYTES: usize = 1;
const GCM_SALT_BYTES: usize = 4;
const GCM_EXPLICIT_BYTES: usize = 8;
const PLAIN_BYTES_MAX: usize = 1 << 14;

#[cfg(test)]
mod tests;
