//! The TLS of a connection after the client's first message: rustls between two buffers of the caller.
//!
//! rustls has no buffer of its own here. It works on the bytes in place and reports how many it has finished
//! with. The rest is part of a record, or part of a handshake message whose records are already decrypted. So
//! every call must pass [`TlsConnection::pending`] to rustls first.

use std::sync::Arc;

use rustls::HandshakeKind;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::time_provider::TimeProvider;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};

use super::error::TlsFailure;
use super::hello::ChosenConfig;
use super::{HANDSHAKE_BYTES_MAX, PENDING_BYTES_MAX, TlsProgress, TlsScratch};

pub(super) struct TlsConnection {
    pub(super) rustls: UnbufferedServerConnection,
    /// Received bytes that are not complete yet. It has no capacity while it is empty.
    pending: Vec<u8>,
    /// The number of bytes that came before the handshake was done.
    handshake_bytes: u32,
    /// The content of a record that midge sends, in bytes.
    record_bytes: u16,
    pub(super) established: bool,
    peer_closed: bool,
    pub(super) server_name: Option<Box<str>>,
    /// Only set until the handshake is done.
    checks: Option<Box<Checks>>,
}

/// The data for checking a certificate that comes from a ticket.
struct Checks {
    verifier: Arc<dyn ClientCertVerifier>,
    time: Arc<dyn TimeProvider>,
}

impl TlsConnection {
    pub(super) fn new(asked: ChosenConfig) -> Result<TlsConnection, TlsFailure> {
        let checks = Checks { verifier: asked.verifier, time: Arc::clone(&asked.config.time_provider) };
        Ok(TlsConnection {
            rustls: UnbufferedServerConnection::new(asked.config)?,
            pending: Vec::new(),
            handshake_bytes: 0,
            record_bytes: u16::try_from(asked.record_bytes).unwrap_or(u16::MAX),
            established: false,
            peer_closed: false,
            server_name: asked.server_name,
            checks: Some(Box::new(checks)),
        })
    }

    pub(super) fn read(
        &mut self,
        cipher: &[u8],
        scratch: &mut TlsScratch,
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<TlsProgress, TlsFailure> {
        if self.peer_closed {
            return Ok(TlsProgress::PeerClosed);
        }
        if !self.established {
            let bytes = u32::try_from(cipher.len()).unwrap_or(u32::MAX);
            self.handshake_bytes = self.handshake_bytes.saturating_add(bytes);
        }
        self.take(cipher, scratch, plain, out)?;
        if self.pending.len() > PENDING_BYTES_MAX {
            return Err(TlsFailure::PendingTooLong);
        }
        let was_established = self.established;
        if !was_established && !self.rustls.is_handshaking() {
            self.check_resumed()?;
            self.established = true;
        }
        Ok(match (was_established, self.established) {
            (false, true) => TlsProgress::Established,
            _ if self.peer_closed => TlsProgress::PeerClosed,
            (true, _) => TlsProgress::Open,
            (false, false) if self.handshake_bytes as usize > HANDSHAKE_BYTES_MAX => {
                return Err(TlsFailure::HandshakeTooLong);
            }
            (false, false) => TlsProgress::Handshaking,
        })
    }

    /// Checks the certificate of a resumed session again. It was valid when the ticket was given, but it or
    /// one of its CAs may have expired since.
    fn check_resumed(&mut self) -> Result<(), TlsFailure> {
        let Some(checks) = self.checks.take() else { return Ok(()) };
        if self.rustls.handshake_kind() != Some(HandshakeKind::Resumed) {
            return Ok(());
        }
        let Some((own, further)) = self.rustls.peer_certificates().and_then(<[_]>::split_first) else {
            return Ok(());
        };
        let now = checks.time.current_time().ok_or(rustls::Error::FailedToGetCurrentTime)?;
        checks.verifier.verify_client_cert(own, further, now)?;
        Ok(())
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.pending.capacity()
    }

    /// Processes the pending bytes and `cipher`, and keeps what is incomplete.
    fn take(
        &mut self,
        cipher: &[u8],
        scratch: &mut TlsScratch,
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), TlsFailure> {
        if self.pending.is_empty() {
            scratch.cipher.clear();
            scratch.cipher.extend_from_slice(cipher);
            let done = self.process(&mut scratch.cipher, plain, out)?;
            self.pending = scratch.cipher[done..].to_vec();
        } else {
            let mut pending = std::mem::take(&mut self.pending);
            pending.extend_from_slice(cipher);
            let done = self.process(&mut pending, plain, out)?;
            if done < pending.len() {
                pending.drain(..done);
                self.pending = pending;
            }
        }
        Ok(())
    }

    /// Lets rustls process `bytes` until it needs more. Returns how many bytes it has finished with.
    fn process(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<usize, TlsFailure> {
        let mut done = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.rustls.process_tls_records(&mut bytes[done..]);
            let mut wants_more = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        plain.extend_from_slice(record.payload);
                        discard += record.discard;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, out)?,
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => wants_more = true,
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    self.peer_closed = true;
                    // Bytes after the close are not part of the session (RFC 8446, section 6.1).
                    return Ok(bytes.len());
                }
                // Early data is not accepted, because it could be replayed.
                Ok(_) => return Err(TlsFailure::Ended),
                Err(error) => {
                    self.flush(&mut bytes[done + discard..], out);
                    return Err(error.into());
                }
            }
            done += discard;
            if wants_more {
                return Ok(done);
            }
        }
    }

    /// Appends the last message of rustls, the alert. After a failure it must not be asked for anything else.
    fn flush(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) {
        while self.rustls.wants_write() {
            let went_on = match self.rustls.process_tls_records(bytes).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, out).is_ok(),
                Ok(ConnectionState::ReadTraffic(mut traffic)) => traffic.next_record().is_some(),
                _ => false,
            };
            if !went_on {
                return;
            }
        }
    }

    pub(super) fn write(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsFailure> {
        if plain.is_empty() {
            return Ok(());
        }
        let records = plain.len().div_ceil(usize::from(self.record_bytes).max(1));
        let bytes = plain.len() + records * RECORD_OVERHEAD_BYTES_MAX;
        let written = self.with_traffic(out, |mut traffic, out| {
            append(out, bytes, |space| traffic.encrypt(plain, space).map_err(needed))
        })?;
        if written.is_err() {
            // It has queued a close_notify.
            let mut pending = std::mem::take(&mut self.pending);
            self.flush(&mut pending, out);
        }
        written
    }

    pub(super) fn close(&mut self, out: &mut Vec<u8>) -> Result<(), TlsFailure> {
        self.with_traffic(out, |mut traffic, out| {
            append(out, ALERT_BYTES_MAX, |space| traffic.queue_close_notify(space).map_err(needed))
        })?
    }

    /// Calls `act` if rustls can encrypt our bytes, which is the case after the handshake. The pending bytes
    /// are passed to rustls here too, because it remembers where a message has begun in them, and reads them.
    fn with_traffic<R>(
        &mut self,
        out: &mut Vec<u8>,
        act: impl FnOnce(WriteTraffic<'_, ServerConnectionData>, &mut Vec<u8>) -> R,
    ) -> Result<R, TlsFailure> {
        loop {
            let UnbufferedStatus { discard, state } = self.rustls.process_tls_records(&mut self.pending);
            debug_assert_eq!(discard, 0, "the read has taken whatever was whole");
            match state? {
                ConnectionState::EncodeTlsData(mut data) => encode(&mut data, out)?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(traffic) => return Ok(act(traffic, out)),
                ConnectionState::PeerClosed => self.peer_closed = true,
                ConnectionState::BlockedHandshake => return Err(TlsFailure::NotEstablished),
                _ => return Err(TlsFailure::Ended),
            }
        }
    }
}

fn encode(data: &mut EncodeTlsData<'_, ServerConnectionData>, out: &mut Vec<u8>) -> Result<(), TlsFailure> {
    append(out, 0, |space| {
        data.encode(space).map_err(|error| match error {
            EncodeError::InsufficientSize(size) => Some(size.required_size),
            EncodeError::AlreadyEncoded => None,
        })
    })
}

/// How many bytes rustls needs. `None` if more bytes do not help.
fn needed(error: EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(size) => Some(size.required_size),
        EncryptError::EncryptExhausted => None,
    }
}

/// Appends the bytes that `write` puts into the space it is given: `guess` bytes first, and at the second try
/// as many as it asks for.
fn append(
    out: &mut Vec<u8>,
    guess: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), TlsFailure> {
    let start = out.len();
    let mut space = guess;
    for _ in 0..2 {
        out.resize(start + space, 0);
        match write(&mut out[start..]) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(Some(needed)) => space = needed,
            Err(None) => break,
        }
    }
    out.truncate(start);
    Err(TlsFailure::KeysExhausted)
}

/// Header, explicit nonce (AES-GCM in TLS 1.2), content type (TLS 1.3), tag. No suite needs more.
const RECORD_OVERHEAD_BYTES_MAX: usize = 5 + 8 + 1 + 16;
const ALERT_BYTES_MAX: usize = 2 + RECORD_OVERHEAD_BYTES_MAX;
