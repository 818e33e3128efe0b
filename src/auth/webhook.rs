//! An HTTP server of the operator that decides about logins.
//!
//! The input is a login. The output is the server's decision, or an error if there is none. midge sends one
//! POST of JSON for each login, and the server answers `allow`, `deny` or `ignore`. No other outcome counts
//! as `allow`. A call waits for the server, so it must run on the threads that may wait (`control::pool`).
//! [`WebhookClient::remembered`] is fast enough for a shard.
//!
//! The request:
//! `{"client_id": …, "username": …, "password": …, "peer": …, "protocol_version": …, "listener": …, "mount": …, "username_certified": …}`.
//! All names are always there. Those without a value are `null`. A password that is not UTF-8 is in
//! `"password_base64"` instead.
//!
//! The answer: 200 with
//! `{"result": "allow" | "deny" | "ignore", "user": …, "expires_at": …, "acl": {"publish": […], "subscribe": […]}}`.
//! All but `result` is optional. 204 means `allow`, 401 and 403 mean `deny`.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use ureq::http::{HeaderName, HeaderValue, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;

mod answer;
mod cache;
mod circuit;
mod resolve;

use answer::Body;
use cache::{Cache, Hasher};
use circuit::{Circuit, RequestLimit};

/// The settings of the webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSettings {
    /// The URL, `http://` or `https://`. It must not contain a user name or a password.
    pub url: String,
    /// A header that identifies midge to the server.
    pub header: Option<WebhookHeader>,
    /// A PEM file of CA certificates that the server's certificate is checked against. Without it, Mozilla's
    /// list is used, which is built in. The system's certificates are not used.
    pub ca_file: Option<PathBuf>,
    /// The longest time to open a connection, in milliseconds.
    pub connect_timeout_millis: u64,
    /// The longest time of a whole request, from resolving the name to the last byte, in milliseconds.
    pub timeout_millis: u64,
    /// The largest number of concurrent requests. Beyond that, a login is refused as
    /// [`WebhookRefusal::Busy`].
    pub concurrent_max: usize,
    /// How long an `allow` is remembered, in seconds, but never past its `expires_at`. 0: not at all.
    pub cache_seconds: u64,
    /// How long a `deny` or `ignore` is remembered, in milliseconds, at most [`DENY_CACHE_MILLIS_MAX`]. 0:
    /// not at all.
    pub deny_cache_millis: u64,
    /// The number of `allow` answers that are remembered, and the number of others. The oldest is forgotten
    /// first.
    pub cache_entries_max: usize,
    /// The number of consecutive failures after which the server is not asked for a while.
    pub failures_max: u32,
    /// The length of that time, in milliseconds. After it, one request tests whether the server works again.
    pub circuit_open_millis: u64,
}

/// A header that each request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookHeader {
    /// Its name, usually `Authorization`.
    pub name: String,
    /// The file with its value. White space at both ends is not part of it.
    pub value_file: PathBuf,
}

/// The data of one login for the server. It has no `Debug`, because it holds a password.
#[derive(Clone)]
pub struct LoginRequest {
    /// The client identifier. If CONNECT had none, it is the assigned one.
    pub client_id: String,
    /// The user name of CONNECT, or of the client's certificate.
    pub username: Option<String>,
    /// The password of CONNECT, any bytes.
    pub password: Option<Vec<u8>>,
    /// The address of the client. It has no port, because the port differs each time and means nothing.
    pub peer: IpAddr,
    /// The protocol version: 3 (MQTT 3.1), 4 (3.1.1) or 5.
    pub protocol_version: u8,
    /// The name of the listener.
    pub listener: String,
    /// The topic prefix of the listener, if it has one.
    pub mount: Option<String>,
    /// Whether the user name comes from the client's certificate, which has been checked.
    pub is_certified: bool,
}

/// The server's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookAnswer {
    /// The client may connect.
    Allow(Arc<WebhookGrant>),
    /// The client may not connect.
    Deny,
    /// The other configured proofs decide.
    Ignore,
}

/// The details of an `allow`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookGrant {
    /// The user name, if the server names another one than CONNECT.
    pub user: Option<String>,
    /// When the grant ends, in seconds since 1970.
    pub expires_at: Option<u64>,
    /// Topic filters to which the client may publish. `None` if the answer has no list. They are strings of
    /// the answer that are not yet checked as topic filters.
    pub publish: Option<Vec<String>>,
    /// Topic filters to which the client may subscribe. `None` if the answer has no list.
    pub subscribe: Option<Vec<String>>,
}

/// Why there is no answer. The login must be refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookRefusal {
    /// The largest number of concurrent requests is reached.
    #[error("too many logins wait for the webhook")]
    Busy,
    /// The server has failed several times in a row and is not asked for the moment.
    #[error("the webhook has just failed several times")]
    Resting,
    /// The server can't be reached, is too slow, or gives an invalid answer. The words say which.
    #[error("the webhook is unreachable: {0}")]
    Unreachable(String),
}

/// Why the settings can't be used: the file, if one is at fault, and the cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookError {
    /// The file.
    pub file: Option<PathBuf>,
    /// What is wrong, and what would be right.
    pub cause: String,
}

/// The longest time that a `deny` is remembered. A client that has just been given access must not wait long.
pub const DENY_CACHE_MILLIS_MAX: u64 = 2_000;

/// The longest answer that is read, in bytes.
pub const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Asks the server. The threads that ask share one client.
pub struct WebhookClient {
    agent: ureq::Agent,
    uri: Uri,
    header: Option<(HeaderName, HeaderValue)>,
    timeout: Duration,
    requests: RequestLimit,
    circuit: Circuit,
    hasher: Hasher,
    cache: Mutex<Cache>,
}

impl WebhookSettings {
    /// The default settings for a server.
    pub fn new(url: &str) -> WebhookSettings {
        WebhookSettings {
            url: url.to_owned(),
            header: None,
            ca_file: None,
            connect_timeout_millis: 1_000,
            timeout_millis: 3_000,
            concurrent_max: 64,
            cache_seconds: 60,
            deny_cache_millis: 1_000,
            cache_entries_max: 10_000,
            failures_max: 5,
            circuit_open_millis: 1_000,
        }
    }
}

impl WebhookClient {
    /// Reads the files and prepares the client. It does not contact the server yet.
    ///
    /// # Errors
    ///
    /// The error names the file and the cause, or the setting that is wrong.
    pub fn load(settings: &WebhookSettings) -> Result<WebhookClient, WebhookError> {
        let uri = checked_uri(&settings.url).map_err(in_settings)?;
        if settings.timeout_millis == 0
            || settings.connect_timeout_millis == 0
            || settings.concurrent_max == 0
        {
            return Err(in_settings("the webhook's time-outs and its concurrency must be above zero"));
        }
        let timeout = Duration::from_millis(settings.timeout_millis);
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A proxy from the environment would see the passwords.
            .proxy(None)
            .user_agent("midge")
            .accept("application/json")
            .timeout_global(Some(timeout))
            .timeout_connect(Some(Duration::from_millis(settings.connect_timeout_millis)))
            .max_idle_connections(settings.concurrent_max)
            .max_idle_connections_per_host(settings.concurrent_max)
            .max_idle_age(CONNECTION_IDLE_MAX)
            .tls_config(TlsConfig::builder().root_certs(roots(settings.ca_file.as_deref())?).build())
            .build();
        let resolver = resolve::Remembering::new(&uri);
        let open = Duration::from_millis(settings.circuit_open_millis);
        Ok(WebhookClient {
            agent: ureq::Agent::with_parts(config, DefaultConnector::default(), resolver),
            header: settings.header.as_ref().map(header).transpose()?,
            uri,
            timeout,
            requests: RequestLimit::new(settings.concurrent_max),
            circuit: Circuit::new(settings.failures_max, open),
            hasher: Hasher::new().map_err(in_settings)?,
            cache: Mutex::new(Cache::new(settings)),
        })
    }

    /// Whether passwords cross a network unencrypted. The start logs a warning in this case.
    pub fn sends_passwords_in_clear(&self) -> bool {
        let host = self.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let on_this_machine = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        self.uri.scheme_str() == Some("http") && !on_this_machine
    }

    /// The recent answer to the same login, if it is still valid. It returns `None` if another thread is
    /// using the table, so that a shard never waits. `now` is the monotonic clock.
    pub fn remembered(&self, login: &LoginRequest, now: Instant) -> Option<WebhookAnswer> {
        let key = self.hasher.key(login);
        self.cache.try_lock().ok()?.get(&key, now)
    }

    /// Asks the server, unless there is a recent answer to the same login. May take as long as
    /// [`WebhookSettings::timeout_millis`]. `now_unix_seconds` is the wall clock, which the server's
    /// `expires_at` is compared with.
    ///
    /// # Errors
    ///
    /// There is no answer. The login must be refused.
    #[allow(clippy::disallowed_methods, reason = "it waits for a socket, and time goes by meanwhile")]
    pub fn check(
        &self,
        login: &LoginRequest,
        now_unix_seconds: u64,
    ) -> Result<WebhookAnswer, WebhookRefusal> {
        let key = self.hasher.key(login);
        if let Some(answer) = self.cache().get(&key, Instant::now()) {
            return Ok(answer);
        }
        let Some(_permit) = self.requests.enter() else { return Err(WebhookRefusal::Busy) };
        let Some(attempt) = self.circuit.admit(Instant::now()) else { return Err(WebhookRefusal::Resting) };
        let answer = self.ask(login, now_unix_seconds);
        let now = Instant::now();
        attempt.end(answer.is_ok(), now);
        let answer = answer.map_err(WebhookRefusal::Unreachable)?;

        self.cache().put(key, &answer, now, now_unix_seconds);
        Ok(answer)
    }

    /// Forgets all answers. It is called after the operator has changed the rules.
    pub fn forget(&self) {
        self.cache().clear();
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a request. If the server has closed a kept connection in the meantime, it makes a second one.
    #[allow(clippy::disallowed_methods, reason = "both share one time-out")]
    fn ask(&self, login: &LoginRequest, now_unix_seconds: u64) -> Result<WebhookAnswer, String> {
        let body = request_body(login);
        let start = Instant::now();
        let mut answered = self.post(&body, self.timeout);
        if matches!(&answered, Err(ureq::Error::Io(error)) if connection_went_away(error)) {
            let left = self.timeout.saturating_sub(start.elapsed());
            if !left.is_zero() {
                answered = self.post(&body, left);
            }
        }
        let (status, body) = answered.map_err(|error| error.to_string())?;
        answer::read(status, body, now_unix_seconds)
    }

    fn post(&self, body: &[u8], timeout: Duration) -> Result<(u16, Body), ureq::Error> {
        let mut request = self.agent.post(&self.uri).header("Content-Type", "application/json");
        if let Some((name, value)) = &self.header {
            request = request.header(name, value);
        }
        let mut response = request.config().timeout_global(Some(timeout)).build().send(body)?;
        // The body is read for a `deny` too: a connection with an unread answer can't be reused.
        let body = match response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec() {
            Ok(bytes) => Body::Whole(bytes),
            Err(ureq::Error::BodyExceedsLimit(_)) => Body::TooLong,
            Err(error) => return Err(error),
        };
        Ok((response.status().as_u16(), body))
    }
}

impl fmt::Debug for WebhookClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookClient").field("host", &self.uri.host()).finish_non_exhaustive()
    }
}

impl fmt::Display for WebhookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}: {}", file.display(), self.cause),
            None => f.write_str(&self.cause),
        }
    }
}

impl std::error::Error for WebhookError {}

fn request_body(login: &LoginRequest) -> Vec<u8> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    let text = login.password.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok());
    let mut body = json!({
        "client_id": login.client_id,
        "username": login.username,
        "password": text,
        "peer": login.peer.to_string(),
        "protocol_version": login.protocol_version,
        "listener": login.listener,
        "mount": login.mount,
        "username_certified": login.is_certified,
    });
    if let (Some(bytes), None) = (&login.password, text) {
        body["password_base64"] = STANDARD.encode(bytes).into();
    }
    body.to_string().into_bytes()
}

fn connection_went_away(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn checked_uri(url: &str) -> Result<Uri, &'static str> {
    let uri: Uri = url.parse().map_err(|_| "the webhook's URL can't be read")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err("the webhook's URL must start with http:// or https:// and a host");
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("the webhook's URL must not hold a password; put a header into a file");
    }
    Ok(uri)
}

fn header(header: &WebhookHeader) -> Result<(HeaderName, HeaderValue), WebhookError> {
    let name = HeaderName::try_from(&header.name)
        .map_err(|_| in_settings("the webhook's header has a name that HTTP doesn't allow"))?;
    let value = read(&header.value_file)?;
    let value = HeaderValue::from_bytes(value.trim_ascii());
    let mut value = value.ok().filter(|value| !value.is_empty()).ok_or_else(|| WebhookError {
        file: Some(header.value_file.clone()),
        cause: "is empty, or has bytes that no header may have".into(),
    })?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn roots(file: Option<&Path>) -> Result<RootCerts, WebhookError> {
    let Some(file) = file else { return Ok(RootCerts::WebPki) };
    let pem = read(file)?;
    let at_fault = |cause| WebhookError { file: Some(file.to_owned()), cause };
    let mut certificates: Vec<Certificate<'static>> = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        match item.map_err(|error| at_fault(format!("is no PEM file: {error}")))? {
            PemItem::Certificate(certificate) => certificates.push(certificate),
            _ => return Err(at_fault("holds something else than certificates".into())),
        }
    }
    if certificates.is_empty() {
        return Err(at_fault("has no certificate in PEM".into()));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

fn read(file: &Path) -> Result<Vec<u8>, WebhookError> {
    let at_fault = |cause| WebhookError { file: Some(file.to_owned()), cause };
    let bytes = crate::files::read(file, FILE_BYTES_MAX)
        .map_err(|error| at_fault(format!("can't be read: {error}")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(at_fault("is larger than 1 MiB".into()));
    }
    Ok(bytes)
}

fn in_settings(cause: &str) -> WebhookError {
    WebhookError { file: None, cause: cause.to_owned() }
}

const FILE_BYTES_MAX: u64 = 1 << 20;
/// How long a connection is kept for the next login.
const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(15);

#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
