//! The opening handshake. An HTTP request is checked (RFC 6455, section 4.2) and answered, with 101 or with
//! an error and the end of the connection.
//!
//! httparse parses the request once, after its empty line has come. The words of a refusal name the problem.
//! They quote the peer's bytes shortened and escaped, and only in the log.

use std::fmt::Write as _;

use httparse::{Header, Request, Status as Parsed};
use tungstenite::handshake::derive_accept_key;

use super::forwarded::{self, NotAnAddress};
use super::{Forwarding, WebSocketFailure, WebSocketSettings};

/// The largest number of header lines in a request. More are answered with 431.
const HEADERS_MAX: usize = 64;
/// The largest number of the peer's bytes in the words of a failure.
const QUOTED_BYTES_MAX: usize = 64;
/// The subprotocols, the preferred one first. Clients of MQTT 3.1 offer the second.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// The answers other than 101.
#[derive(Clone, Copy, Debug)]
enum Status {
    BadRequest = 400,
    Forbidden = 403,
    NotFound = 404,
    UpgradeRequired = 426,
    HeaderTooLarge = 431,
}

/// An answer other than 101, and the reason.
struct Refusal {
    status: Status,
    /// The words for the peer and the log.
    words: &'static str,
    /// The peer's own bytes, escaped, for the log only.
    detail: String,
}

/// The parts of the answer to an accepted request.
struct Accepted<'a> {
    key: &'a [u8],
    subprotocol: &'static str,
}

/// Refuses data that can't be HTTP at its first byte. Otherwise midge would wait for an empty line that never
/// comes.
pub(super) fn check_first_byte(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), WebSocketFailure> {
    let words = match bytes.first() {
        None | Some(b'A'..=b'Z') => return Ok(()),
        Some(0x10) => "the client speaks MQTT without WebSocket",
        Some(0x16) => "the client speaks TLS, and this listener does not",
        Some(_) => "the client does not speak HTTP",
    };
    Err(Refusal::new(Status::BadRequest, words).send(out))
}

/// Answers a request that is too large.
pub(super) fn refuse_large(header_bytes_max: usize, out: &mut Vec<u8>) -> WebSocketFailure {
    let refusal = Refusal::new(Status::HeaderTooLarge, "the request is too large");
    Refusal { detail: format!("more than {header_bytes_max} bytes"), ..refusal }.send(out)
}

/// Splits after the first empty line, searching from `from` on.
pub(super) fn split_request(bytes: &[u8], from: usize) -> Option<(&[u8], &[u8])> {
    let rest = bytes.get(from..)?;
    let newlines = rest.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let mut ends = newlines.map(|(at, _)| from + at);
    ends.find_map(|at| {
        let line_before = bytes.get(..at)?;
        let is_empty = line_before.ends_with(b"\n") || line_before.ends_with(b"\n\r");
        is_empty.then(|| bytes.split_at_checked(at + 1))?
    })
}

/// Answers a complete request.
///
/// # Errors
/// The request was refused. The answer says so.
pub(super) fn answer(
    settings: &WebSocketSettings,
    forwarding: Option<&mut Forwarding<'_>>,
    request: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), WebSocketFailure> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = Request::new(&mut headers);
    let checked = match parsed.parse(request) {
        Ok(Parsed::Complete(_)) => check(settings, &parsed).and_then(|accepted| {
            note_client(forwarding, &Headers(parsed.headers))?;
            Ok(accepted)
        }),
        Ok(Parsed::Partial) => Err(Refusal::new(Status::BadRequest, "the request is not whole")),
        Err(httparse::Error::TooManyHeaders) => {
            Err(Refusal::new(Status::HeaderTooLarge, "the request has more than 64 header lines"))
        }
        Err(error) => {
            let refusal = Refusal::new(Status::BadRequest, "the request is not HTTP");
            Err(Refusal { detail: error.to_string(), ..refusal })
        }
    };
    let Accepted { key, subprotocol } = checked.map_err(|refusal| refusal.send(out))?;
    let lines = [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
        &derive_accept_key(key),
        // [MQTT5-6.0.0-4]
        "\r\nSec-WebSocket-Protocol: ",
        subprotocol,
        "\r\n\r\n",
    ];
    lines.iter().for_each(|line| out.extend_from_slice(line.as_bytes()));
    Ok(())
}

fn check<'a>(settings: &WebSocketSettings, request: &'a Request<'_, 'a>) -> Result<Accepted<'a>, Refusal> {
    if request.method != Some("GET") {
        let method = request.method.unwrap_or_default();
        return Err(Refusal::quoting(Status::BadRequest, "the method is not GET", method.as_bytes()));
    }
    if request.version != Some(1) {
        return Err(Refusal::new(Status::BadRequest, "the request is not HTTP/1.1"));
    }
    let headers = Headers(request.headers);
    if headers.at_most_one("Host")?.is_none() {
        return Err(Refusal::new(Status::BadRequest, "the request has no header Host"));
    }
    // A body would be read as frames.
    if headers.values("Transfer-Encoding").next().is_some()
        || headers.values("Content-Length").any(|length| length != b"0")
    {
        return Err(Refusal::new(Status::BadRequest, "the request has a body"));
    }
    check_path(settings, request.path.unwrap_or_default())?;
    check_origin(settings, &headers)?;
    check_upgrade(&headers)?;
    Ok(Accepted { key: key(&headers)?, subprotocol: subprotocol(&headers)? })
}

/// Notes the client that a trusted proxy names.
fn note_client(forwarding: Option<&mut Forwarding<'_>>, headers: &Headers<'_, '_>) -> Result<(), Refusal> {
    let Some(forwarding) = forwarding else { return Ok(()) };
    let list: Vec<&[u8]> = headers.list("X-Forwarded-For").collect();
    let client = forwarded::client(forwarding.trusted, list.into_iter());
    forwarding.client = client.map_err(|NotAnAddress(member)| {
        Refusal::quoting(Status::BadRequest, "the header X-Forwarded-For does not name an address", member)
    })?;
    Ok(())
}

fn check_path(settings: &WebSocketSettings, target: &str) -> Result<(), Refusal> {
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    // A client may give the full address instead: "http://host/path".
    let path = match path.split_once("://") {
        Some((_, rest)) if !path.starts_with('/') => {
            rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/")
        }
        _ => path,
    };
    if settings.path.is_empty() || settings.path == path {
        return Ok(());
    }
    let words = "nothing is served under this path";
    Err(Refusal::quoting(Status::NotFound, words, target.as_bytes()))
}

fn check_origin(settings: &WebSocketSettings, headers: &Headers<'_, '_>) -> Result<(), Refusal> {
    let Some(origin) = headers.at_most_one("Origin")? else {
        return Ok(());
    };
    let is_served = |served: &String| served.as_bytes().eq_ignore_ascii_case(origin);
    if settings.origins.is_empty() || settings.origins.iter().any(is_served) {
        return Ok(());
    }
    Err(Refusal::quoting(Status::Forbidden, "pages of this origin are not served", origin))
}

fn check_upgrade(headers: &Headers<'_, '_>) -> Result<(), Refusal> {
    let lists =
        |name, word: &str| headers.list(name).any(|found| found.eq_ignore_ascii_case(word.as_bytes()));
    if !lists("Upgrade", "websocket") {
        return Err(Refusal::new(Status::BadRequest, "the header Upgrade does not ask for websocket"));
    }
    if !lists("Connection", "Upgrade") {
        return Err(Refusal::new(Status::BadRequest, "the header Connection does not list Upgrade"));
    }
    let version = headers.at_most_one("Sec-WebSocket-Version")?.unwrap_or_default();
    if version != b"13" {
        let words = "the version of WebSocket is not 13";
        return Err(Refusal::quoting(Status::UpgradeRequired, words, version));
    }
    Ok(())
}

/// The client's key: any 16 bytes in base64.
fn key<'a>(headers: &Headers<'_, 'a>) -> Result<&'a [u8], Refusal> {
    let key = headers.at_most_one("Sec-WebSocket-Key")?.unwrap_or_default();
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    match key.strip_suffix(b"==") {
        Some(digits) if digits.len() == 22 && digits.iter().all(is_digit) => Ok(key),
        _ => {
            let words = "the header Sec-WebSocket-Key is not 16 bytes in base64";
            Err(Refusal::quoting(Status::BadRequest, words, key))
        }
    }
}

/// The subprotocol for the answer. A client must offer `mqtt`. A client that offers none is refused, as in
/// mosquitto, because a page that does not use MQTT must not connect here. `[MQTT5-6.0.0-3]`
fn subprotocol(headers: &Headers<'_, '_>) -> Result<&'static str, Refusal> {
    let offers =
        |name: &&&str| headers.list("Sec-WebSocket-Protocol").any(|offered| offered == name.as_bytes());
    SUBPROTOCOLS.iter().find(offers).copied().ok_or_else(|| {
        let offered = headers.values("Sec-WebSocket-Protocol").next().unwrap_or_default();
        Refusal::quoting(Status::BadRequest, "the client does not offer the subprotocol mqtt", offered)
    })
}

/// The header lines of a request.
struct Headers<'h, 'a>(&'h [Header<'a>]);

impl<'a> Headers<'_, 'a> {
    fn values(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        let named = self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value.trim_ascii())
    }

    /// The members of a list, which may be spread over several lines.
    fn list(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.values(name).flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    }

    /// A header that must not occur twice.
    fn at_most_one(&self, name: &'static str) -> Result<Option<&'a [u8]>, Refusal> {
        let mut values = self.values(name);
        let first = values.next();
        if values.next().is_some() {
            let refusal = Refusal::new(Status::BadRequest, "a header is there twice");
            return Err(Refusal { detail: name.to_owned(), ..refusal });
        }
        Ok(first)
    }
}

impl Refusal {
    fn new(status: Status, words: &'static str) -> Refusal {
        Refusal { status, words, detail: String::new() }
    }

    fn quoting(status: Status, words: &'static str, bytes: &[u8]) -> Refusal {
        let shown = bytes.get(..QUOTED_BYTES_MAX).unwrap_or(bytes);
        let cut = if shown.len() < bytes.len() { "..." } else { "" };
        Refusal { status, words, detail: format!("\"{}\"{cut}", shown.escape_ascii()) }
    }

    /// Appends the answer, and returns the failure for the log.
    fn send(self, out: &mut Vec<u8>) -> WebSocketFailure {
        let (status, words) = (self.status as u16, self.words);
        let (reason, more) = match self.status {
            Status::BadRequest => ("Bad Request", "Connection: close\r\n"),
            Status::Forbidden => ("Forbidden", "Connection: close\r\n"),
            Status::NotFound => ("Not Found", "Connection: close\r\n"),
            Status::UpgradeRequired => (
                "Upgrade Required",
                "Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            ),
            Status::HeaderTooLarge => ("Request Header Fields Too Large", "Connection: close\r\n"),
        };
        let length = words.len() + 1;
        let mut answer = String::new();
        write!(
            answer,
            "HTTP/1.1 {status} {reason}\r\n{more}Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{words}\n"
        )
        .expect("writing to a String does not fail");
        out.extend_from_slice(answer.as_bytes());
        let words = match self.detail.as_str() {
            "" => words.to_owned(),
            detail => format!("{words}: {detail}"),
        };
        WebSocketFailure::Upgrade { status, words }
    }
}
