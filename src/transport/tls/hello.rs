//! The start of a connection, until the client's first message is complete.
//!
//! That message decides which of the configurations a client gets. So rustls' acceptor reads the message
//! once, only for this decision, and then the connection gets the same bytes. A peer that connects and sends
//! nothing has no other TLS state.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::Acceptor;
use rustls::server::danger::ClientCertVerifier;

use super::client_hello::record_bytes_wanted;
use super::config::TlsConfig;
use super::error::{Spoken, TlsFailure};

pub(super) struct Hello {
    config: TlsConfig,
    acceptor: Acceptor,
    /// The bytes that have come so far.
    pub(super) bytes: Vec<u8>,
}

/// The result of the client's first message.
pub(super) struct ChosenConfig {
    pub(super) config: Arc<ServerConfig>,
    /// The content of a record that midge sends, in bytes.
    pub(super) record_bytes: usize,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    pub(super) server_name: Option<Box<str>>,
}

impl Hello {
    pub(super) fn new(config: &TlsConfig) -> Hello {
        Hello { config: config.clone(), acceptor: Acceptor::default(), bytes: Vec::new() }
    }

    pub(super) fn held_bytes(&self) -> usize {
        // The acceptor has a copy.
        2 * self.bytes.capacity()
    }

    /// Takes bytes. Returns the client's configuration when the message is complete. All bytes are then in
    /// `self.bytes`.
    pub(super) fn read(
        &mut self,
        cipher: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<ChosenConfig>, TlsFailure> {
        if let (true, Some(&first)) = (self.bytes.is_empty(), cipher.first()) {
            check_first_byte(first)?;
        }
        // A second part is rare, so no room is reserved for it.
        self.bytes.reserve_exact(cipher.len());
        self.bytes.extend_from_slice(cipher);
        let mut rest = cipher;
        while !rest.is_empty() {
            // The acceptor stops at its own limit on a message. No valid message is that long.
            if self.acceptor.read_tls(&mut rest).map_err(|_| TlsFailure::HandshakeTooLong)? == 0 {
                return Err(TlsFailure::HandshakeTooLong);
            }
            match self.acceptor.accept() {
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let wanted = record_bytes_wanted(&self.bytes);
                    let (config, record_bytes) =
                        self.config.for_client(TlsConfig::takes(hello.alpn()), wanted);
                    return Ok(Some(ChosenConfig {
                        config,
                        record_bytes,
                        verifier: self.config.verifier(),
                        server_name: hello.server_name().map(Box::from),
                    }));
                }
                Ok(None) if self.bytes.len() > HELLO_BYTES_MAX => {
                    return Err(TlsFailure::HandshakeTooLong);
                }
                Ok(None) => {}
                Err((error, mut alert)) => {
                    alert.write_all(out).expect("writing to a vector does not fail");
                    return Err(error.into());
                }
            }
        }
        Ok(None)
    }
}

/// A record of the handshake starts with its type. Any other first byte is refused at once, with a
/// description.
fn check_first_byte(first: u8) -> Result<(), TlsFailure> {
    match first {
        RECORD_OF_HANDSHAKE => Ok(()),
        MQTT_CONNECT => Err(TlsFailure::NotTls(Spoken::Mqtt)),
        b'A'..=b'Z' => Err(TlsFailure::NotTls(Spoken::Http)),
        _ => Err(TlsFailure::NotTls(Spoken::Unknown)),
    }
}

/// The longest first message, in bytes. Anyone may send one, so a longer one is refused. A client's
/// certificate chain comes later, or is within a ticket of ours, for which there is room.
const HELLO_BYTES_MAX: usize = 16 * 1024;

const RECORD_OF_HANDSHAKE: u8 = 0x16;
const MQTT_CONNECT: u8 = 0x10;
