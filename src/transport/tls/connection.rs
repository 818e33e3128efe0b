//! A connection's TLS from the client's first message on: rustls between two buffers of the caller.
//!
//! rustls has no buffer of its own here. What it is given stays where it is until it says how much of it is done
//! with; what remains is part of a record, or part of a handshake message whose records are decrypted already,
//! so [`TlsConnection::pending`] must be what it sees first at every call.

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
    /// What has come and is not whole. It has no capacity while it is empty.
    pending: Vec<u8>,
    /// Bytes that have come while the handshake was not done.
    handshake_bytes: u32,
    /// Bytes of content in a record that we send.
    record_bytes: u16,
    pub(super) established: bool,
    peer_closed: bool,
    pub(super) server_name: Option<Box<str>>,
    /// Until the handshake is done.
    checks: Option<Box<Checks>>,
}

/// What a certificate is looked at with that comes with a ticket.
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

    /// The certificate of a ticket was good when the ticket was given; it, or one of its CAs, may have expired since.
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

    /// Works on what is pending and on `cipher`, and keeps what is not whole.
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

    /// Lets rustls work on `bytes` until it wants more, and says how many of them it is done with.
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
                    // Whatever comes after it is not part of the session (RFC 8446, section 6.1).
                    return Ok(bytes.len());
                }
                // Early data is not accepted: it could be played again.
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

    /// Appends what rustls wants to say at the end: the alert. It must not be asked for more than that after a
    /// failure.
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

    /// Calls `act` once rustls takes our bytes, which it does when the handshake is done. What is pending is shown
    /// to it here too: it remembers where in there a message has begun, and looks.
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

/// How many bytes rustls wants; none if more bytes don't help.
fn needed(error: EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(size) => Some(size.required_size),
        EncryptError::EncryptExhausted => None,
    }
}

/// Appends what `write` puts into the space it is given: `guess` bytes, and as many as it asks for at the second
/// try.
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

/// Header, explicit nonce (AES-GCM in TLS 1.2), type of content (TLS 1.3), tag: more than any suite needs.
const RECORD_OVERHEAD_BYTES_MAX: usize = 5 + 8 + 1 + 16;
const ALERT_BYTES_MAX: usize = 2 + RECORD_OVERHEAD_BYTES_MAX;
