//! A small HTTP server that gives the answers a test has set, on a port that the system chooses.

#![allow(clippy::disallowed_methods, reason = "a test's server has sockets and threads of its own")]

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

/// The reply of the server to a request.
#[derive(Clone, Debug)]
pub(super) enum CannedReply {
    /// A status and a JSON body. The connection stays open.
    Json(u16, String),
    /// These bytes. Then the server closes the connection.
    Raw(Vec<u8>),
    /// An `allow` after a delay.
    Late(Duration),
    /// An `allow`, after this is set.
    Once(Arc<AtomicBool>),
    /// An `allow`, byte by byte with a pause between two bytes.
    Drip(Duration),
    /// The server closes the connection without a reply.
    Close,
}

/// A received request.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) head: String,
    pub(super) body: Value,
}

/// A running server. Dropping it stops it.
pub(super) struct TestServer {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    reply: Mutex<CannedReply>,
    received: Mutex<Vec<Received>>,
    connections: AtomicUsize,
    closing: AtomicBool,
    tls: Option<Arc<rustls::ServerConfig>>,
}

impl TestServer {
    pub(super) fn start(reply: CannedReply) -> TestServer {
        TestServer::start_with(reply, None)
    }

    pub(super) fn start_with(reply: CannedReply, tls: Option<Arc<rustls::ServerConfig>>) -> TestServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            reply: Mutex::new(reply),
            received: Mutex::default(),
            connections: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            tls,
        });
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming() {
                    if shared.closing.load(Ordering::SeqCst) {
                        return;
                    }
                    shared.connections.fetch_add(1, Ordering::SeqCst);
                    let (shared, stream) = (Arc::clone(&shared), stream.unwrap());
                    std::thread::spawn(move || shared.serve(stream));
                }
            }
        });
        TestServer { address, shared, acceptor: Some(acceptor) }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/login?x=1", self.address)
    }

    pub(super) fn set(&self, reply: CannedReply) {
        *self.shared.reply.lock().unwrap() = reply;
    }

    pub(super) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    pub(super) fn requests(&self) -> usize {
        self.shared.received.lock().unwrap().len()
    }

    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // The acceptor waits for one more connection.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        match &self.tls {
            None => self.talk(stream),
            Some(config) => {
                let session = rustls::ServerConnection::new(Arc::clone(config)).unwrap();
                self.talk(rustls::StreamOwned::new(session, stream));
            }
        }
    }

    /// Answers until the peer closes the connection, an error occurs, or a reply closes it.
    fn talk(&self, stream: impl Read + Write) {
        let mut reader = BufReader::new(stream);
        while let Some(received) = receive(&mut reader) {
            self.received.lock().unwrap().push(received);
            let reply = self.reply.lock().unwrap().clone();
            if self.answer(reply, reader.get_mut()).is_none() {
                return;
            }
        }
    }

    fn answer(&self, reply: CannedReply, stream: &mut impl Write) -> Option<()> {
        let allow = || whole(200, r#"{"result":"allow"}"#);
        match reply {
            CannedReply::Json(status, body) => stream.write_all(&whole(status, &body)).ok(),
            CannedReply::Raw(bytes) => stream.write_all(&bytes).ok().and(None),
            CannedReply::Close => None,
            CannedReply::Late(pause) => {
                std::thread::sleep(pause);
                stream.write_all(&allow()).ok()
            }
            CannedReply::Once(is_set) => {
                while !is_set.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                stream.write_all(&allow()).ok()
            }
            CannedReply::Drip(pause) => {
                for byte in allow() {
                    std::thread::sleep(pause);
                    stream.write_all(&[byte]).ok()?;
                    stream.flush().ok()?;
                }
                Some(())
            }
        }
    }
}

/// An answer with a Content-Length, as most servers write it.
pub(super) fn whole(status: u16, body: &str) -> Vec<u8> {
    let length = if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\n{length}\r\n{body}").into_bytes()
}

fn receive(reader: &mut impl std::io::BufRead) -> Option<Received> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
        if &head[before..] == "\r\n" {
            break;
        }
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = vec![0; length?];
    reader.read_exact(&mut body).ok()?;
    Some(Received { head, body: serde_json::from_slice(&body).ok()? })
}
