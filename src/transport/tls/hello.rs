//! The start of a connection, until the client's first message is whole.
//!
//! Which of our configurations a client gets depends on what it offers there, so the message is read once by
//! rustls' acceptor, for that alone, and then given to the connection as it came. A peer that connects and says
//! nothing has no TLS state but this.

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
    /// What has come so far.
    pub(super) bytes: Vec<u8>,
}

/// What the client's first message asks for.
pub(super) struct ChosenConfig {
    pub(super) config: Arc<ServerConfig>,
    /// Bytes of content in a record that we send.
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

    /// Takes bytes; says what is asked for once the message is whole. All bytes are then in `self.bytes`.
    pub(super) fn read(
        &mut self,
        cipher: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<ChosenConfig>, TlsFailure> {
        if let (true, Some(&first)) = (self.bytes.is_empty(), cipher.first()) {
            check_first_byte(first)?;
        }
        // A second piece is rare, and no reason to keep room for more.
        self.bytes.reserve_exact(cipher.len());
        self.bytes.extend_from_slice(cipher);
        let mut rest = cipher;
        while !rest.is_empty() {
            // It takes no more than its limit on a message, and none is so long here.
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

/// A record of the handshake starts with its type. Whatever else comes is known at once, and said in words.
fn check_first_byte(first: u8) -> Result<(), TlsFailure> {
    match first {
        RECORD_OF_HANDSHAKE => Ok(()),
        MQTT_CONNECT => Err(TlsFailure::NotTls(Spoken::Mqtt)),
        b'A'..=b'Z' => Err(TlsFailure::NotTls(Spoken::Http)),
        _ => Err(TlsFailure::NotTls(Spoken::Unknown)),
    }
}

/// Above this the first message is refused: anybody may send one. A client's chain of certificates comes later, or
/// within a ticket of ours, which has room here.
const HELLO_BYTES_MAX: usize = 16 * 1024;

const RECORD_OF_HANDSHAKE: u8 = 0x16;
const MQTT_CONNECT: u8 = 0x10;
