//! The thread that serves: it accepts connections within their bounds, judges each request and gives it to its handler.

use super::access::AccessGeneration;
use super::api;
use super::guard::{AdminPeer, AdminRefusal, Guard};
use super::limits::{
    AdminEvent, BODY_BYTES_MAX, CONNECTIONS_MAX, HEADER_BYTES_MAX, HEADER_FIELDS_MAX, HEADER_TIME, IDLE_TIME,
    REQUEST_TIME,
};
use super::pace::{ConnectionPace, Paced};
use super::sockets::{AdminListeners, AdminSocketFile, AdminSockets};
use crate::base::Time;
use crate::broker::Shared;
use crate::control::housekeeping::HouseRequests;
use crate::control::login_counts::LoginCounts;
use crate::control::pool::NICE;
use crate::control::questions::Questions;
use crate::host::Control;
use crate::persistence::Submitter;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, HeaderValue, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Request, Response, StatusCode};
use http_body_util::Limited;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{getpriority_process, setpriority_process};
use rustls::ServerConfig;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

/// What the handlers see of the broker.
pub struct AdminParts {
    /// Asks the shards.
    pub questions: Questions,
    /// What the shards and the main thread share.
    pub control: Arc<Control>,
    /// The configuration and the counters.
    pub shared: Arc<Shared>,
    /// The checkpoint. `None` if nothing is kept.
    pub checkpoint: Option<Submitter>,
    /// What became of the logins that threads have checked.
    pub logins: Arc<LoginCounts>,
    /// The number of log lines that were dropped.
    pub log_lines: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Stops the broker in good order, as SIGTERM does.
    pub stop: Box<dyn Fn() + Send + Sync>,
    /// Asks the thread that reads the configuration.
    pub house: HouseRequests,
    /// The clock of the shards.
    pub clock: Box<dyn Fn() -> Time + Send + Sync>,
}

impl AdminParts {
    /// The present time on the clock of the shards.
    pub(super) fn now(&self) -> Time {
        (self.clock)()
    }
}

/// A server on a thread of its own.
pub struct AdminServer {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl AdminServer {
    /// Starts to serve.
    ///
    /// # Errors
    /// The thread, its poll or its sockets can't be had.
    pub fn start(sockets: AdminSockets, parts: AdminParts) -> io::Result<AdminServer> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let host = sockets.address.host_name().unwrap_or("localhost").into();
        let (listeners, file, remote) = {
            let _entered = runtime.enter();
            match sockets.listeners {
                AdminListeners::Unix(listener, file) => {
                    (vec![Listener::Unix(UnixListener::from_std(listener)?)], Some(file), None)
                }
                AdminListeners::Tcp(listeners, access) => {
                    let listeners = listeners.into_iter().map(TcpListener::from_std);
                    let listeners = listeners.map(|listener| listener.map(Listener::Tcp));
                    (listeners.collect::<io::Result<Vec<_>>>()?, None, Some((access, host)))
                }
            }
        };
        let access = remote.as_ref().map(|(access, _)| access.clone());
        let state = Arc::new(api::AdminState::new(parts, access));
        let router = api::router(Arc::clone(&state));
        let door = Arc::new(Door { router, guard: Guard { remote }, state });
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("midge-admin".into()).spawn(move || {
            yield_to_shards();
            runtime.block_on(async move {
                for listener in listeners {
                    tokio::spawn(accept(listener, Arc::clone(&door)));
                }
                // The other end is dropped when the server must stop.
                let _ = stopped.await;
            });
            // Requests that are still being answered end here.
            drop(runtime);
            drop::<Option<AdminSocketFile>>(file);
        })?;
        Ok(AdminServer { stop, thread })
    }

    /// Closes all connections and removes the socket file.
    pub fn stop(self) {
        drop(self.stop);
        // It ends early only by a panic, which has already been reported.
        let _ = self.thread.join();
    }
}

/// Lowers the priority of the thread, like that of the threads for logins: a flood of requests must use only the time
/// that the shards leave.
fn yield_to_shards() {
    if getpriority_process(None).is_ok_and(|now| now < NICE) {
        let _ = setpriority_process(None, NICE);
    }
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// What every connection needs.
struct Door {
    router: Router,
    guard: Guard,
    state: Arc<api::AdminState>,
}

impl Door {
    fn note(&self, event: AdminEvent, detail: &str) {
        self.state.counts.note(event, std::time::Instant::now(), detail);
    }
}

/// How long the server waits when it can't accept a connection, because the process has no descriptor left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

async fn accept(listener: Listener, door: Arc<Door>) {
    loop {
        let failed = match &listener {
            Listener::Unix(listener) => match listener.accept().await {
                Ok((stream, _)) => {
                    admit(stream, AdminPeer::Local, &door);
                    continue;
                }
                Err(error) => error,
            },
            Listener::Tcp(listener) => match listener.accept().await {
                Ok((stream, address)) => {
                    // Without it an answer in two parts waits for the client's acknowledgement of the first.
                    let _ = stream.set_nodelay(true);
                    match door.guard.remote.as_ref().and_then(|(access, _)| access.tls()) {
                        Some(tls) => admit_encrypted(stream, address, tls, &door),
                        None => admit(stream, AdminPeer::Remote(address), &door),
                    }
                    continue;
                }
                Err(error) => error,
            },
        };
        door.note(AdminEvent::AcceptFailed, &failed.to_string());
        tokio::time::sleep(ACCEPT_RETRY).await;
    }
}

/// A connection that counts.
struct OpenConnection(Arc<Door>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.state.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that can be refused without waiting.
trait AdminStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize>;
}

impl AdminStream for UnixStream {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        UnixStream::try_write(self, bytes)
    }

    fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        UnixStream::try_read(self, bytes)
    }
}

impl AdminStream for TcpStream {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        TcpStream::try_write(self, bytes)
    }

    fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        TcpStream::try_read(self, bytes)
    }
}

/// The place of a new connection. `None` if there are too many.
fn place(peer: AdminPeer, door: &Arc<Door>) -> Option<OpenConnection> {
    if door.state.counts.open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
        door.state.counts.open.fetch_sub(1, Ordering::Relaxed);
        door.note(AdminEvent::Connections, &peer.to_string());
        return None;
    }
    Some(OpenConnection(Arc::clone(door)))
}

/// Serves a new connection, or refuses it if there are too many.
fn admit(stream: impl AdminStream, peer: AdminPeer, door: &Arc<Door>) {
    let Some(open) = place(peer, door) else {
        // Bytes that were not read would reset the connection before its client has read the answer.
        let _ = stream.try_read(&mut [0; 4096]);
        let _ = stream.try_write(TOO_MANY);
        return;
    };
    tokio::spawn(async move { serve(stream, peer, &open.0).await });
}

/// Serves a new connection over TLS, or closes it if there are too many.
fn admit_encrypted(
    stream: TcpStream,
    address: SocketAddr,
    (config, generation): (Arc<ServerConfig>, AccessGeneration),
    door: &Arc<Door>,
) {
    let Some(open) = place(AdminPeer::Remote(address), door) else { return };
    tokio::spawn(async move {
        match timeout(HEADER_TIME, TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates();
                let peer = match certificates.is_some_and(|certificates| !certificates.is_empty()) {
                    true => AdminPeer::Certified(address, generation),
                    false => AdminPeer::Remote(address),
                };
                serve(stream, peer, &open.0).await;
            }
            Ok(Err(error)) => open.0.note(AdminEvent::TlsFailed, &format!("{address}: {error}")),
            Err(_) => open.0.note(AdminEvent::HeaderTime, &address.to_string()),
        }
    });
}

const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 33\r\n\
                          Connection: close\r\n\r\n{\"error\": \"too many connections\"}";

/// Serves a connection to its end.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: AdminPeer,
    door: &Arc<Door>,
) {
    let now = Instant::now();
    let pace = ConnectionPace::new(now);
    let late = Arc::clone(door);
    let stream = Paced::new(stream, pace.clone(), now, move |event| late.note(event, &peer.to_string()));
    let service = service_fn(|request| {
        let (door, pace) = (Arc::clone(door), pace.clone());
        async move { Ok::<_, Infallible>(door.answer(request, peer, pace).await) }
    });
    let ended = http1::Builder::new()
        .timer(TokioTimer::new())
        // It also bounds the time between two requests. That for a header is shorter, see `ConnectionPace`.
        .header_read_timeout(IDLE_TIME)
        .max_headers(HEADER_FIELDS_MAX)
        .max_header_size(HEADER_BYTES_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    match ended {
        Err(error) if error.is_parse_too_large() => door.note(AdminEvent::Header, &peer.to_string()),
        Err(error) if error.is_timeout() => door.note(AdminEvent::Idle, &peer.to_string()),
        // The client has gone, or speaks no HTTP.
        Ok(()) | Err(_) => {}
    }
}

impl Door {
    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: AdminPeer,
        pace: ConnectionPace,
    ) -> Response<AnswerBody> {
        pace.begin_answer(Instant::now());
        let (parts, body) = request.into_parts();
        let mut response = match self.guard.check(&parts, peer) {
            Ok(()) => {
                let body = Body::new(Limited::new(body, BODY_BYTES_MAX));
                let router = TowerToHyperService::new(self.router.clone());
                match tokio::time::timeout(REQUEST_TIME, router.call(Request::from_parts(parts, body))).await
                {
                    Ok(Ok(response)) => response,
                    Ok(Err(never)) => match never {},
                    Err(_) => {
                        self.note(AdminEvent::RequestTime, &peer.to_string());
                        api::error(StatusCode::SERVICE_UNAVAILABLE, "the broker did not answer in time")
                    }
                }
            }
            Err(refusal) => self.refuse(&refusal, peer),
        };
        self.state.counts.requests.fetch_add(1, Ordering::Relaxed);
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // The dashboard has its own.
        headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(CONTENT_POLICY));
        if self.guard.is_outdated(peer) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let goes_on = response.extensions().get::<api::GoesOn>().is_some();
        response.map(|body| AnswerBody { body, goes_on, end: AnswerEnd(pace) })
    }

    fn refuse(&self, refusal: &AdminRefusal, peer: AdminPeer) -> Response<Body> {
        let event = match refusal {
            AdminRefusal::NoToken | AdminRefusal::WrongToken => AdminEvent::LoginFailed,
            AdminRefusal::Body => AdminEvent::Body,
            AdminRefusal::NoHost
            | AdminRefusal::ForeignHost
            | AdminRefusal::CrossSite
            | AdminRefusal::ReadOnly(_) => AdminEvent::Forbidden,
        };
        self.note(event, &format!("{peer}: {}", refusal.words()));
        let mut response = api::error(refusal.status(), &refusal.words());
        let headers = response.headers_mut();
        // Who may not come in keeps no connection.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if refusal.status() == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"midge\""));
        }
        response
    }
}

/// What a browser may do with an answer: nothing but show it.
const CONTENT_POLICY: &str =
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The body of an answer. When it is dropped, the connection has taken the answer.
struct AnswerBody {
    body: Body,
    /// Whether it has no end of its own: each part of it has the time of an answer.
    goes_on: bool,
    end: AnswerEnd,
}

struct AnswerEnd(ConnectionPace);

impl Drop for AnswerEnd {
    fn drop(&mut self) {
        self.0.end_answer();
    }
}

impl hyper::body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if self.goes_on && frame.is_ready() {
            self.end.0.begin_answer(Instant::now());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
