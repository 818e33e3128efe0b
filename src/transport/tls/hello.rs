//! The start of a connection, until the client's first message is whole.
//!
//! Which of our configurations a client gets depends on what it offers there, so the message is read once by
//! rustls' acceptor, for that alone, and then given to the connection as it came. A peer that connects and says
//! nothing has no TLS state but this.

use std::sync::Arc;

use rustls::server::{AcceptedAlert, Acceptor};
use rustls::{PeerMisbehaved, ServerConfig};

use super::HANDSHAKE_BYTES_MAX;
use super::client_hello::record_bytes_wanted;
use super::config::TlsConfig;
use super::error::{Spoken, TlsFailure};
use super::server_name::Unreadable;

pub(super) struct Hello {
    config: TlsConfig,
    acceptor: Acceptor,
    /// What has come so far.
    pub(super) bytes: Vec<u8>,
}

/// What the client's first message asks for.
pub(super) struct Asked {
    pub(super) config: Arc<ServerConfig>,
    /// Bytes of content in a record that we send.
    pub(super) record_bytes: usize,
    pub(super) server_name: Option<Box<str>>,
    /// A server name that is no DNS name.
    pub(super) unreadable: Option<Unreadable>,
}

impl Hello {
    pub(super) fn new(config: &TlsConfig) -> Hello {
        Hello { config: config.clone(), acceptor: Acceptor::default(), bytes: Vec::new() }
    }

    /// Takes bytes; says what is asked for once the message is whole. All bytes are then in `self.bytes`.
    pub(super) fn read(&mut self, cipher: &[u8], out: &mut Vec<u8>) -> Result<Option<Asked>, TlsFailure> {
        if let (true, Some(&first)) = (self.bytes.is_empty(), cipher.first()) {
            check_first_byte(first)?;
        }
        self.bytes.extend_from_slice(cipher);
        let mut asked = self.accept(cipher);
        let mut unreadable = None;
        if matches!(&asked, Err(refused) if refused.is_for_server_name()) {
            unreadable = Unreadable::hide(&mut self.bytes);
            if unreadable.is_some() {
                self.acceptor = Acceptor::default();
                let bytes = std::mem::take(&mut self.bytes);
                asked = self.accept(&bytes);
                self.bytes = bytes;
            }
        }
        match asked {
            Ok(Some(Offer { is_ours, server_name })) => {
                let wanted = record_bytes_wanted(&self.bytes);
                let (config, record_bytes) = self.config.for_client(is_ours, wanted);
                Ok(Some(Asked { config, record_bytes, server_name, unreadable }))
            }
            Ok(None) if self.bytes.len() > HANDSHAKE_BYTES_MAX => Err(TlsFailure::HandshakeTooLong),
            Ok(None) => Ok(None),
            Err(Refused { failure, alert }) => {
                if let Some(mut alert) = alert {
                    alert.write_all(out).expect("writing to a vector does not fail");
                }
                Err(failure)
            }
        }
    }

    fn accept(&mut self, mut rest: &[u8]) -> Result<Option<Offer>, Refused> {
        while !rest.is_empty() {
            // It takes no more than its limit on a message, and none is so long here.
            if !matches!(self.acceptor.read_tls(&mut rest), Ok(1..)) {
                return Err(Refused { failure: TlsFailure::HandshakeTooLong, alert: None });
            }
            match self.acceptor.accept() {
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    return Ok(Some(Offer {
                        is_ours: TlsConfig::takes(hello.alpn()),
                        server_name: hello.server_name().map(Box::from),
                    }));
                }
                Ok(None) => {}
                Err((error, alert)) => return Err(Refused { failure: error.into(), alert: Some(alert) }),
            }
        }
        Ok(None)
    }
}

/// What rustls tells of the client's first message.
struct Offer {
    /// It has no application protocols, or one of ours.
    is_ours: bool,
    server_name: Option<Box<str>>,
}

struct Refused {
    failure: TlsFailure,
    alert: Option<AcceptedAlert>,
}

impl Refused {
    fn is_for_server_name(&self) -> bool {
        let refused = PeerMisbehaved::ServerNameMustContainOneHostName;
        self.failure == TlsFailure::Library(refused.into())
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

const RECORD_OF_HANDSHAKE: u8 = 0x16;
const MQTT_CONNECT: u8 = 0x10;
