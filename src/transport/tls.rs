//! TLS between the net driver and the reader of a connection: bytes in, bytes out, no socket and no thread.
//!
//! A [`TlsConfig`] is a listener's certificates and rules; a [`Tls`] is one connection. The driver gives
//! ciphertext to [`Tls::read`] and gets plaintext, and what must go to the peer; it gives plaintext to
//! [`Tls::write`] and gets ciphertext. Whatever is appended to `out` has to be sent, in that order, also when an
//! error comes with it.
//!
//! Versions 1.2 and 1.3 (RFC 5246, RFC 8446) by rustls, with the cipher suites, key exchange groups and signature
//! schemes of its ring provider; a connection at rest keeps its keys and no buffer ([`compact`]).

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
pub use validity::EXPIRY_NOTICE_DAYS;

use rustls::{HandshakeKind, ProtocolVersion};

use connection::TlsConnection;
use hello::Hello;

/// So many bytes a peer may send before the handshake is done; then the connection ends. A client's certificate
/// chain is what is long in it.
pub const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;
/// So many bytes of content a record has at most (RFC 8446, section 5.1).
pub const RECORD_BYTES_MAX: usize = 1 << 14;
/// So many bytes may wait for the rest of their record or handshake message; then the connection ends. A record
/// has up to 18 KiB, and what is longer in pieces is of no use to anyone.
pub const PENDING_BYTES_MAX: usize = 64 * 1024;

/// The TLS of one connection. It may be moved to another thread.
///
/// Two words where it is kept, and what it points to (`tests/allocations/tls.rs` states how much that is at rest).
pub struct Tls(Stage);

/// A handshake becomes a session once, and either can end.
enum Stage {
    Hello(Box<Hello>),
    Connected(Box<TlsConnection>),
    Ended,
}

/// Space for the work on one connection at a time: one for each shard.
#[derive(Default)]
pub struct TlsScratch {
    /// Ciphertext, which is decrypted where it lies.
    cipher: Vec<u8>,
    /// Plaintext from several places that goes into one record.
    plain: Vec<u8>,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsProgress {
    /// The handshake is not done.
    Handshaking,
    /// This read has completed it. It is said once; `plain` may have bytes already. If the peer has also said in
    /// this read that it sends no more, the next read tells it, even an empty one.
    Established,
    /// It is done, and both sides may send.
    Open,
    /// The peer has said that it sends no more (close_notify), so nothing is missing at the end of `plain`. We may
    /// still send. Anything that comes after it is dropped.
    PeerClosed,
}

impl TlsScratch {
    /// Gives back what an exceptional read or write took.
    fn trim(&mut self) {
        for buffer in [&mut self.cipher, &mut self.plain] {
            if buffer.capacity() > SCRATCH_BYTES_MAX {
                *buffer = Vec::new();
            }
        }
    }
}

/// What was agreed on in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed<'a> {
    /// The version of TLS.
    pub version: TlsVersion,
    /// The cipher suite by its registered name.
    pub cipher_suite: &'static str,
    /// The application protocol, if the client has offered one of ours: `mqtt` or `http/1.1`.
    pub protocol: Option<&'a [u8]>,
    /// The client came back with a ticket.
    pub resumed: bool,
}

impl Tls {
    /// A connection of which nothing has been read yet.
    pub fn new(config: &TlsConfig) -> Tls {
        Tls(Stage::Hello(Box::new(Hello::new(config))))
    }

    /// Takes ciphertext. Plaintext is appended to `plain`, and what must go to the peer to `out`.
    ///
    /// # Errors
    /// The connection is to be closed, after `out` has been sent: it may have the alert that tells the peer why.
    /// What was appended to `plain` did come from the peer. Every later call fails with [`TlsFailure::Ended`].
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

    /// Encrypts `parts`, one after the other as if they were one slice, and appends the records to `out`. A part
    /// that comes alone is not copied before.
    ///
    /// # Errors
    /// [`TlsFailure::NotEstablished`] before the handshake is done. With any other the connection is to be closed,
    /// as with [`Tls::read`].
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

    /// Tells the peer that we send no more (close_notify), if the handshake is done and it was not told before.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if let Stage::Connected(connection) = &mut self.0 {
            // Before the handshake is done there is nothing to end, and after a failure there is an alert already.
            let _ = connection.close(out);
        }
    }

    /// Who the client is by its certificate: none before the handshake is done, or if it has sent none.
    pub fn identity(&self) -> Option<ClientIdentity> {
        self.established()?.rustls.peer_certificates()?.first().and_then(ClientIdentity::read)
    }

    /// What was agreed on; none before the handshake is done.
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

    /// The name that the client has asked for (SNI). It is given away, so that it need not be kept for the log
    /// line of a session's start.
    pub fn take_server_name(&mut self) -> Option<Box<str>> {
        match &mut self.0 {
            Stage::Connected(connection) => connection.server_name.take(),
            _ => None,
        }
    }

    /// Bytes of memory that hold what has come of a message of the handshake, or a record, whose end has not.
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

/// A shard's [`TlsScratch`] keeps no buffer that is longer.
const SCRATCH_BYTES_MAX: usize = 256 * 1024;

const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Tls>();
    is_send::<TlsConfig>();
};

#[cfg(test)]
mod tests;
