//! The client's side of HTTP: one request on a connection of its own.

use crate::settings::Address;
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

/// The time for a connection.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// The time for an answer: more than the server takes at most.
const REPLY_TIME: Duration = Duration::from_secs(60);
/// The largest answer. Pages of lists are much smaller.
const REPLY_BYTES_MAX: usize = 256 << 20;

/// Where to ask, and how.
pub(super) struct Client {
    runtime: Runtime,
    addresses: Vec<Address>,
    token: Option<Zeroizing<String>>,
    tls: Option<Arc<ClientConfig>>,
}

/// An answer.
pub(super) struct CtlReply {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Client {
    /// The addresses are tried in their order. With `tls`, those with a port are spoken to over TLS.
    pub(super) fn new(
        addresses: Vec<Address>,
        token: Option<Zeroizing<String>>,
        tls: Option<Arc<ClientConfig>>,
    ) -> io::Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        Ok(Client { runtime, addresses, token, tls })
    }

    /// Sends a request, with a body of JSON if it has one.
    ///
    /// # Errors
    /// A sentence: nobody listens, or there is no complete answer.
    pub(super) fn request(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<CtlReply, String> {
        self.runtime.block_on(async {
            let (mut sender, address) = self.connect().await?;
            let request = self.build(method, path, body, address)?;
            let failed = |error: &dyn std::fmt::Display| format!("no answer from {address}: {error}");
            let reply = async {
                let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
                let status = response.status();
                let body = Limited::new(response.into_body(), REPLY_BYTES_MAX).collect().await;
                Ok(CtlReply { status, body: body.map_err(|error| failed(&error))?.to_bytes() })
            };
            let late = format!("within {} s", REPLY_TIME.as_secs());
            timeout(REPLY_TIME, reply).await.map_err(|_| failed(&late))?
        })
    }

    /// Reads an answer that goes on, and gives each part of it to `take` until that returns false. Returns an answer
    /// that is no success whole.
    ///
    /// # Errors
    /// As for [`Client::request`], also if the answer breaks off.
    pub(super) fn follow(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<Option<CtlReply>, String> {
        self.runtime.block_on(async {
            let (mut sender, address) = self.connect().await?;
            let request = self.build(&Method::GET, path, None, address)?;
            let failed = |error: &dyn std::fmt::Display| format!("no answer from {address}: {error}");
            let response = timeout(REPLY_TIME, sender.send_request(request)).await;
            let response = response.map_err(|_| failed(&"it is late"))?.map_err(|error| failed(&error))?;
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let body = Limited::new(body, REPLY_BYTES_MAX).collect().await;
                return Ok(Some(CtlReply { status, body: body.map_err(|error| failed(&error))?.to_bytes() }));
            }
            while let Some(frame) =
                timeout(REPLY_TIME, body.frame()).await.map_err(|_| failed(&"it is late"))?
            {
                if let Ok(data) = frame.map_err(|error| failed(&error))?.into_data()
                    && !take(&data)
                {
                    break;
                }
            }
            Ok(None)
        })
    }

    fn build(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        address: &Address,
    ) -> Result<Request<Full<Bytes>>, String> {
        let host = if address.unix().is_some() { "localhost".to_owned() } else { address.to_string() };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host)
            .body(body.map_or_else(Full::default, |body| Full::from(body.to_string())))
            .map_err(|error| format!("{path:?} is no path of a request: {error}"))?;
        if let Some(token) = &self.token {
            let value = Zeroizing::new(format!("Bearer {}", **token));
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| "the token can't be sent in a header".to_owned())?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    async fn connect(&self) -> Result<(SendRequest<Full<Bytes>>, &Address), String> {
        let mut words = Vec::new();
        for address in &self.addresses {
            match timeout(CONNECT_TIME, open(address, self.tls.as_ref())).await {
                Ok(Ok(sender)) => return Ok((sender, address)),
                Ok(Err(error)) => words.push(format!("can't connect to {address}: {}", reason(&error))),
                Err(_) => words.push(format!("can't connect to {address}: it does not answer")),
            }
        }
        words.push("does midge run? --admin names its address".to_owned());
        Err(words.join("; "))
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        io::ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
        io::ErrorKind::PermissionDenied => "you may not use this socket; see admin.socket_mode".to_owned(),
        _ => error.to_string(),
    }
}

async fn open(address: &Address, tls: Option<&Arc<ClientConfig>>) -> io::Result<SendRequest<Full<Bytes>>> {
    if let Some(path) = address.unix() {
        return speak(UnixStream::connect(path).await?).await;
    }
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for socket in address.resolve().map_err(io::Error::other)? {
        match TcpStream::connect(socket).await {
            Ok(stream) => {
                let Some(config) = tls else { return speak(stream).await };
                let name = match address.host_name() {
                    Some(name) => ServerName::try_from(name.to_owned()).map_err(io::Error::other)?,
                    None => ServerName::from(socket.ip()),
                };
                return speak(TlsConnector::from(Arc::clone(config)).connect(name, stream).await?).await;
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> io::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Its errors reach the request too.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}
