//! A proxy in front of the mock broker. It terminates TLS and WebSocket, and forwards MQTT in both
//! directions.
//!
//! It uses the WebSocket of tungstenite and the server side of rustls, so that the harness is
//! tested against another implementation of RFC 6455.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Error, Message, WebSocket};

/// The layers that a proxy terminates.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProxyLayers {
    pub(crate) tls: bool,
    pub(crate) websocket: bool,
    /// Clients must send a certificate.
    pub(crate) client_certificate: bool,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    folder: PathBuf,
}

impl Proxy {
    /// Starts a proxy for the port `to`.
    pub(crate) fn start(to: u16, layers: ProxyLayers) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let folder = std::env::temp_dir().join(format!("midge-loadtest-proxy-{port}"));
        std::fs::create_dir_all(&folder).unwrap();
        let proxy = Proxy { port, folder };
        let config = proxy.certify(layers);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let config = Arc::clone(&config);
                let broker = TcpStream::connect(("127.0.0.1", to)).unwrap();
                thread::spawn(move || {
                    let tls = layers.tls.then(|| {
                        let mut tls = ServerConnection::new(config).unwrap();
                        tls.set_buffer_limit(None);
                        tls
                    });
                    let socket = if layers.websocket { Socket::Requested(Vec::new()) } else { Socket::None };
                    forward(&client, &broker, ClientSide { tls, socket });
                });
            }
        });
        proxy
    }

    /// The path of a file: `ca`, `cert` and `key` of clients, `other-ca`.
    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.join(format!("{name}.pem")).display().to_string()
    }

    /// The TLS configuration of the server. Writes the files for the clients.
    fn certify(&self, layers: ProxyLayers) -> Arc<ServerConfig> {
        let [ours, other] = [(); 2].map(|()| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
        });
        let issue = || {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            (params.signed_by(&key, &ours).unwrap(), key)
        };
        let (client, client_key) = issue();
        for (name, pem) in [
            ("ca", ours.pem()),
            ("other-ca", other.pem()),
            ("cert", client.pem()),
            ("key", client_key.serialize_pem()),
        ] {
            std::fs::write(self.file(name), pem).unwrap();
        }
        let (certificate, key) = issue();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ours.der().clone()).unwrap();
        let builder = if layers.client_certificate {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
        Arc::new(config)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn forward(client: &TcpStream, broker: &TcpStream, side: ClientSide) {
    for stream in [client, broker] {
        stream.set_nodelay(true).unwrap();
    }
    let side = Mutex::new(side);
    // When one side ends or fails, both end.
    let to_broker = || -> io::Result<()> {
        let (mut client_end, mut broker_end) = (client, broker);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = client_end.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            let mut mqtt = Vec::new();
            let mut side = side.lock().unwrap();
            let open = side.take(&buffer[..count], &mut mqtt);
            side.flush(client)?;
            drop(side);
            broker_end.write_all(&mqtt)?;
            if !open {
                return Ok(());
            }
        }
    };
    let to_client = || -> io::Result<()> {
        let mut broker_end = broker;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = broker_end.read(&mut buffer)?;
            let mut side = side.lock().unwrap();
            if count == 0 {
                side.close();
                return side.flush(client);
            }
            side.put(&buffer[..count]);
            side.flush(client)?;
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = to_client();
            let _ = client.shutdown(Shutdown::Both);
        });
        let _ = to_broker();
        let _ = broker.shutdown(Shutdown::Both);
    });
}

/// The layers of one connection, on the server side.
struct ClientSide {
    tls: Option<ServerConnection>,
    socket: Socket,
}

enum Socket {
    None,
    /// The request so far.
    Requested(Vec<u8>),
    Open(Box<WebSocket<Pipe>>),
}

/// The input and output of a WebSocket.
#[derive(Default)]
struct Pipe {
    received: VecDeque<u8>,
    wire: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.received.is_empty() { Err(ErrorKind::WouldBlock.into()) } else { self.received.read(buffer) }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wire.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ClientSide {
    /// Appends the MQTT bytes of `received` to `mqtt`. Returns whether more may arrive.
    fn take(&mut self, mut received: &[u8], mqtt: &mut Vec<u8>) -> bool {
        let mut plain = Vec::new();
        match &mut self.tls {
            None => plain.extend_from_slice(received),
            Some(tls) => {
                while !received.is_empty() {
                    tls.read_tls(&mut received).unwrap();
                    if tls.process_new_packets().is_err() {
                        return false;
                    }
                    // An error means that nothing is left to read or that the peer has closed. Both
                    // are expected.
                    let _ = tls.reader().read_to_end(&mut plain);
                }
            }
        }
        self.unframe(&plain, mqtt)
    }

    fn unframe(&mut self, plain: &[u8], mqtt: &mut Vec<u8>) -> bool {
        match &mut self.socket {
            Socket::None => {
                mqtt.extend_from_slice(plain);
                true
            }
            Socket::Requested(request) => {
                request.extend_from_slice(plain);
                let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { return true };
                let text = String::from_utf8(request[..end].to_vec()).unwrap();
                let key = text.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
                if !text.starts_with("GET /mqtt HTTP/1.1") {
                    let pipe =
                        Pipe { received: VecDeque::new(), wire: b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec() };
                    let socket = WebSocket::from_raw_socket(pipe, Role::Server, None);
                    self.socket = Socket::Open(Box::new(socket));
                    return false;
                }
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
                    derive_accept_key(key.as_bytes())
                );
                let pipe = Pipe { received: VecDeque::new(), wire: answer.into_bytes() };
                let rest = request[end + 4..].to_vec();
                let socket = WebSocket::from_partially_read(pipe, rest, Role::Server, None);
                self.socket = Socket::Open(Box::new(socket));
                self.unframe(&[], mqtt)
            }
            Socket::Open(socket) => {
                socket.get_mut().received.extend(plain);
                loop {
                    match socket.read() {
                        Ok(Message::Binary(data)) => mqtt.extend_from_slice(&data),
                        Ok(Message::Close(_)) => return false,
                        Ok(_) => {}
                        Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return true,
                        Err(_) => return false,
                    }
                }
            }
        }
    }

    /// Frames and encrypts the bytes of the broker, in two frames with a ping between them.
    fn put(&mut self, mqtt: &[u8]) {
        if let Socket::Open(socket) = &mut self.socket {
            let (first, second) = mqtt.split_at(mqtt.len() / 2);
            let _ = socket.send(Message::Binary(first.to_vec().into()));
            let _ = socket.send(Message::Ping(b"still there?".to_vec().into()));
            let _ = socket.send(Message::Binary(second.to_vec().into()));
        } else if let Some(tls) = &mut self.tls {
            tls.writer().write_all(mqtt).unwrap();
        }
    }

    fn close(&mut self) {
        if let Socket::Open(socket) = &mut self.socket {
            let _ = socket.close(None);
        }
        self.encrypt();
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
    }

    /// Moves the output of the WebSocket into TLS.
    fn encrypt(&mut self) {
        if let (Some(tls), Socket::Open(socket)) = (&mut self.tls, &mut self.socket) {
            tls.writer().write_all(&std::mem::take(&mut socket.get_mut().wire)).unwrap();
        }
    }

    fn flush(&mut self, mut client: &TcpStream) -> io::Result<()> {
        self.encrypt();
        match (&mut self.tls, &mut self.socket) {
            (Some(tls), _) => {
                while tls.wants_write() {
                    tls.write_tls(&mut client)?;
                }
                Ok(())
            }
            (None, Socket::Open(socket)) => client.write_all(&std::mem::take(&mut socket.get_mut().wire)),
            (None, _) => Ok(()),
        }
    }
}
