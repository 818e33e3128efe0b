//! TLS between the driver and the reader of a connection. It turns bytes into bytes, without sockets or
//! threads.
//!
//! A [`TlsConfig`] has the certificates and rules of a listener. A [`Tls`] is one connection. The caller
//! gives ciphertext to [`Tls::read`], and gets plaintext and bytes for the peer. It gives plaintext to
//! [`Tls::write`] and gets ciphertext. Everything that is appended to `out` must be sent, in that order, even
//! if there is an error.
//!
//! rustls implements the versions 1.2 and 1.3 (RFC 5246, RFC 8446), with the cipher suites, key exchange
//! groups and signature schemes of its ring provider. An idle connection keeps its keys and no buffer
//! (module `compact`).

mod certificates;
mod client_hello;
mod compact;
mod config;
mod connection;
mod directory;
mod error;
mod hello;
mod identity;
mod path;
mod refusal;
mod revocation;
mod signatures;
mod validity;
mod verifier;

pub use config::{
    CertificateAndKey, CertificateRules, ClientCertificate, RevocationScope, TlsConfig, TlsSettings,
    TlsVersion,
};
pub use error::{LoadFailure, Spoken, TlsError, TlsFailure};
pub use identity::ClientIdentity;
pub(crate) use identity::is_user_name;
pub use validity::{EXPIRY_NOTICE_DAYS, OwnCertificate, date};

use rustls::{HandshakeKind, ProtocolVersion};

use connection::TlsConnection;
use hello::Hello;

/// The largest number of bytes that a peer may send before the handshake is done. Beyond that, the connection
/// is closed. The longest part of a handshake is a client's certificate chain.
pub const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;
/// The largest content of a record, in bytes (RFC 8446, section 5.1).
pub const RECORD_BYTES_MAX: usize = 1 << 14;
/// The largest number of bytes that may wait for the rest of their record or handshake message. Beyond that,
/// the connection is closed. A record has up to 18 KiB, and no useful message is longer than the bound.
pub const PENDING_BYTES_MAX: usize = 64 * 1024;

/// The TLS of one connection. It may be moved to another thread.
///
/// It takes two words in place, and the memory that it points to. `tests/allocations/tls.rs` checks how much
/// that is for an idle connection.
pub struct Tls(Stage);

/// A handshake becomes a session once. Both can end.
enum Stage {
    Hello(Box<Hello>),
    Connected(Box<TlsConnection>),
    Ended,
}

/// Buffers for the work on one connection at a time. Each shard has one.
#[derive(Default)]
pub struct TlsScratch {
    /// Ciphertext, which is decrypted in place.
    cipher: Vec<u8>,
    /// Plaintext from several places that goes into one record.
    plain: Vec<u8>,
}

/// The progress of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsProgress {
    /// The handshake is not done.
    Handshaking,
    /// This read has completed the handshake. It is reported once. `plain` may already have bytes. If the
    /// peer has also sent close_notify in this read, the next read reports it, even an empty one.
    Established,
    /// The handshake is done, and both sides may send.
    Open,
    /// The peer has announced that it sends no more (close_notify), so nothing is missing at the end of
    /// `plain`. We may still send. Bytes that come later are dropped.
    PeerClosed,
}

impl TlsScratch {
    /// Frees buffers that an exceptionally large read or write has used.
    fn trim(&mut self) {
        for buffer in [&mut self.cipher, &mut self.plain] {
            if buffer.capacity() > SCRATCH_BYTES_MAX {
                *buffer = Vec::new();
            }
        }
    }
}

/// The result of the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed<'a> {
    /// The version of TLS.
    pub version: TlsVersion,
    /// The registered name of the cipher suite.
    pub cipher_suite: &'static str,
    /// The application protocol, if the client has offered one of ours: `mqtt` or `http/1.1`.
    pub protocol: Option<&'a [u8]>,
    /// Whether the client has resumed a session with a ticket.
    pub resumed: bool,
}

impl Tls {
    /// A new connection, before any byte is read.
    pub fn new(config: &TlsConfig) -> Tls {
        Tls(Stage::Hello(Box::new(Hello::new(config))))
    }

    /// Takes ciphertext. Appends plaintext to `plain`, and bytes for the peer to `out`.
    ///
    /// # Errors
    /// The connection must be closed after `out` has been sent. `out` may have the alert that tells the peer
    /// the reason. The bytes in `plain` did come from the peer. Every later call fails with
    /// [`TlsFailure::Ended`].
    pub fn read(
        &mut self,
        cipher: &[u8],
        scratch: &mut TlsScratch,
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<TlsProgress, TlsFailure> {
        let progress = self.try_read(cipher, scratch, plain, out);
        scratch.trim();
        if progress.is_err() {
            self.0 = Stage::Ended;
        }
        progress
    }

    fn try_read(
        &mut self,
        cipher: &[u8],
        scratch: &mut TlsScratch,
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<TlsProgress, TlsFailure> {
        match &mut self.0 {
            Stage::Hello(hello) => {
                let Some(asked) = hello.read(cipher, out)? else { return Ok(TlsProgress::Handshaking) };
                let bytes = std::mem::take(&mut hello.bytes);
                let mut connection = Box::new(TlsConnection::new(asked)?);
                let progress = connection.read(&bytes, scratch, plain, out);
                self.0 = Stage::Connected(connection);
                progress
            }
            Stage::Connected(connection) => connection.read(cipher, scratch, plain, out),
            Stage::Ended => Err(TlsFailure::Ended),
        }
    }

    /// Encrypts `parts`, joined together, and appends the records to `out`. A single part is encrypted
    /// without a copy.
    ///
    /// # Errors
    /// [`TlsFailure::NotEstablished`] before the handshake is done. After any other error the connection must
    /// be closed, as with [`Tls::read`].
    pub fn write<'a>(
        &mut self,
        parts: impl IntoIterator<Item = &'a [u8]>,
        scratch: &mut TlsScratch,
        out: &mut Vec<u8>,
    ) -> Result<(), TlsFailure> {
        let Stage::Connected(connection) = &mut self.0 else {
            return Err(match self.0 {
                Stage::Hello(_) => TlsFailure::NotEstablished,
                _ => TlsFailure::Ended,
            });
        };
        let mut parts = parts.into_iter();
        let Some(first) = parts.next() else { return Ok(()) };
        let written = match parts.next() {
            None => connection.write(first, out),
            Some(second) => {
                scratch.plain.clear();
                [first, second]
                    .into_iter()
                    .chain(parts)
                    .for_each(|part| scratch.plain.extend_from_slice(part));
                connection.write(&scratch.plain, out)
            }
        };
        scratch.trim();
        if !matches!(written, Ok(()) | Err(TlsFailure::NotEstablished)) {
            self.0 = Stage::Ended;
        }
        written
    }

    /// Tells the peer that we send no more (close_notify), once, and only after the handshake.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if let Stage::Connected(connection) = &mut self.0 {
            // Before the handshake is done there is nothing to close. After a failure an alert has already
            // been sent.
            let _ = connection.close(out);
        }
    }

    /// The identity in the client's certificate. `None` before the handshake is done, and for clients that
    /// sent none.
    pub fn identity(&self) -> Option<ClientIdentity> {
        self.established()?.rustls.peer_certificates()?.first().and_then(ClientIdentity::read)
    }

    /// The result of the handshake. `None` before it is done.
    pub fn agreed(&self) -> Option<Agreed<'_>> {
        let rustls = &self.established()?.rustls;
        Some(Agreed {
            version: match rustls.protocol_version()? {
                ProtocolVersion::TLSv1_3 => TlsVersion::V13,
                _ => TlsVersion::V12,
            },
            cipher_suite: rustls.negotiated_cipher_suite()?.suite().as_str().unwrap_or("unknown"),
            protocol: rustls.alpn_protocol(),
            resumed: rustls.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }

    /// Takes the server name that the client has asked for (SNI). It is only needed for the log line at the
    /// start of a session, so it is not kept.
    pub fn take_server_name(&mut self) -> Option<Box<str>> {
        match &mut self.0 {
            Stage::Connected(connection) => connection.server_name.take(),
            _ => None,
        }
    }

    /// The bytes of memory that hold an incomplete handshake message or record.
    pub fn held_bytes(&self) -> usize {
        match &self.0 {
            Stage::Hello(hello) => hello.held_bytes(),
            Stage::Connected(connection) => connection.held_bytes(),
            Stage::Ended => 0,
        }
    }

    fn established(&self) -> Option<&TlsConnection> {
        match &self.0 {
            Stage::Connected(connection) => connection.established.then_some(connection),
            _ => None,
        }
    }
}

/// The largest buffer that a shard's [`TlsScratch`] keeps, in bytes.
const SCRATCH_BYTES_MAX: usize = 256 * 1024;

const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Tls>();
    is_send::<TlsConfig>();
};

#[cfg(test)]
mod tests;
