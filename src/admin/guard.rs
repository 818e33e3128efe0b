//! Whether the sender of a request may make it: its host, its origin, the size of its body, its token.
//!
//! A web page must not use the browser of an operator to reach the admin interface. A page of another site is refused
//! by the headers that browsers send of themselves. A page whose name was made to point to this machine (DNS rebinding)
//! is refused by its host.

use super::access::{AccessGeneration, SharedAccess};
use super::dashboard;
use super::limits::BODY_BYTES_MAX;
use super::tokens::{AdminRight, AdminTokens};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Version};
use std::net::{IpAddr, SocketAddr};

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdminPeer {
    /// A process that the permissions of the socket have let in.
    Local,
    /// An address.
    Remote(SocketAddr),
    /// An address whose client certificate was verified.
    Certified(SocketAddr, AccessGeneration),
}

impl std::fmt::Display for AdminPeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AdminPeer::Local => f.write_str("unix"),
            AdminPeer::Remote(address) | AdminPeer::Certified(address, _) => address.fmt(f),
        }
    }
}

/// What requests are judged by.
pub(super) struct Guard {
    /// What clients need, and the configured host, of an address with a port.
    pub(super) remote: Option<(SharedAccess, Box<str>)>,
}

impl Guard {
    /// Whether a connection must end after its answer: its certificate was verified by rules that count no more.
    pub(super) fn is_outdated(&self, peer: AdminPeer) -> bool {
        match (&self.remote, peer) {
            (Some((access, _)), AdminPeer::Certified(_, generation)) => access.generation() != generation,
            _ => false,
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AdminRefusal {
    /// There is no host, or more than one.
    NoHost,
    /// The host is a name that midge does not know.
    ForeignHost,
    /// A page of another site has caused the request.
    CrossSite,
    /// The body is too large.
    Body,
    /// There is no token.
    NoToken,
    /// The token is unknown.
    WrongToken,
    /// The holder of the token may not change things.
    ReadOnly(Box<str>),
}

impl AdminRefusal {
    /// The status of the answer.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            AdminRefusal::NoHost => StatusCode::BAD_REQUEST,
            AdminRefusal::ForeignHost | AdminRefusal::CrossSite | AdminRefusal::ReadOnly(_) => {
                StatusCode::FORBIDDEN
            }
            AdminRefusal::Body => StatusCode::PAYLOAD_TOO_LARGE,
            AdminRefusal::NoToken | AdminRefusal::WrongToken => StatusCode::UNAUTHORIZED,
        }
    }

    /// What the client and the log are told.
    pub(super) fn words(&self) -> String {
        match self {
            AdminRefusal::NoHost => "the request has no valid Host header".to_owned(),
            AdminRefusal::ForeignHost => {
                "the Host header must be an IP address, localhost or the host of admin.address".to_owned()
            }
            AdminRefusal::CrossSite => "requests of pages of other sites are refused".to_owned(),
            AdminRefusal::Body => format!("the body may have {BODY_BYTES_MAX} bytes"),
            AdminRefusal::NoToken => {
                "a token of admin.token_file is needed: the header \"Authorization: Bearer TOKEN\"".to_owned()
            }
            AdminRefusal::WrongToken => "the token is not one of admin.token_file".to_owned(),
            AdminRefusal::ReadOnly(name) => {
                format!("the token \"{name}\" may only read; this needs one with \"write\"")
            }
        }
    }
}

impl Guard {
    /// Judges a request. The order hides from a web page which tokens there are.
    pub(super) fn check(&self, request: &Parts, peer: AdminPeer) -> Result<(), AdminRefusal> {
        let host = host(request)?;
        match (&self.remote, host.map(without_port)) {
            (Some(_), None) => return Err(AdminRefusal::NoHost),
            (Some((_, own)), Some(name)) if !is_known(name, own) => return Err(AdminRefusal::ForeignHost),
            // A browser can reach the socket through a port of SSH. Names without a point are no other site's.
            (None, Some(name)) if name.contains('.') && !is_known(name, "localhost") => {
                return Err(AdminRefusal::ForeignHost);
            }
            _ => {}
        }
        // A link of another site may lead to the dashboard, which shows nothing by itself and can't be framed.
        if dashboard::is_file(&request.method, request.uri.path()) {
            return Ok(());
        }
        if is_cross_site(&request.headers, host) {
            return Err(AdminRefusal::CrossSite);
        }
        // The holder of a certificate may do everything.
        if let (Some((access, _)), AdminPeer::Remote(_)) = (&self.remote, peer) {
            check_token(request, &access.current().tokens)?;
        }
        let length =
            request.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: u64| length > BODY_BYTES_MAX as u64) {
            return Err(AdminRefusal::Body);
        }
        Ok(())
    }
}

fn check_token(request: &Parts, tokens: &AdminTokens) -> Result<(), AdminRefusal> {
    let token = single(&request.headers, &AUTHORIZATION)
        .ok()
        .flatten()
        .and_then(bearer)
        .ok_or(AdminRefusal::NoToken)?;
    let (name, right) = tokens.holder(token.as_bytes()).ok_or(AdminRefusal::WrongToken)?;
    let only_looks = matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS);
    match only_looks || right == AdminRight::Write {
        true => Ok(()),
        false => Err(AdminRefusal::ReadOnly(name.into())),
    }
}

/// The token of `Bearer TOKEN`. The scheme is not case-sensitive.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start())
}

/// A header that may be there once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(drop),
        (Some(_), Some(_)) => Err(()),
    }
}

/// The host of a request, with its port. HTTP/1.0 may leave it out.
fn host(request: &Parts) -> Result<Option<&str>, AdminRefusal> {
    let header = single(&request.headers, &HOST).map_err(|()| AdminRefusal::NoHost)?;
    // RFC 9112, 3.2.2: the host of an absolute address stands above the header.
    let host = request.uri.authority().map(|authority| authority.as_str()).or(header);
    match host {
        Some("") => Err(AdminRefusal::NoHost),
        None if request.version >= Version::HTTP_11 => Err(AdminRefusal::NoHost),
        host => Ok(host),
    }
}

/// A host without its port: `[::1]:80` is `::1`.
fn without_port(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// Whether no other site can have this host: names of other sites are not addresses.
fn is_known(name: &str, own: &str) -> bool {
    name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost") || name.eq_ignore_ascii_case(own)
}

/// Whether a browser says that a page of another site has caused the request.
fn is_cross_site(headers: &HeaderMap, host: Option<&str>) -> bool {
    if headers.get_all("sec-fetch-site").iter().any(|site| site == "cross-site") {
        return true;
    }
    let is_own = |origin: &str| {
        let origin = origin.split_once("://").map(|(_, host)| host);
        origin.is_some_and(|origin| host.is_some_and(|host| origin.eq_ignore_ascii_case(host)))
    };
    // The origin "null" is that of a page that hides its own.
    headers.get_all(ORIGIN).iter().any(|origin| !origin.to_str().is_ok_and(is_own))
}

#[cfg(test)]
mod tests {
    use super::super::access::AdminAccess;
    use super::*;
    use axum::http::Request;

    const READER: &str = "reader-0123456789";
    const WRITER: &str = "writer-0123456789";

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let builder = Request::builder().method(method).uri(uri);
        let builder = headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
        builder.body(()).expect("a request").into_parts().0
    }

    fn get(headers: &[(&str, &str)]) -> Parts {
        parts("GET", "/healthz", headers)
    }

    const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4242);

    fn judge(guard: &Guard, request: &Parts) -> Result<(), AdminRefusal> {
        let peer = if guard.remote.is_some() { AdminPeer::Remote(PEER) } else { AdminPeer::Local };
        guard.check(request, peer)
    }

    fn local() -> Guard {
        Guard { remote: None }
    }

    fn remote() -> Guard {
        let tokens = AdminTokens::parse("tokens", &format!("r:read:{READER}\nw:write:{WRITER}\n"));
        let mut access = AdminAccess::default();
        access.tokens = tokens.expect("good lines");
        Guard { remote: Some((SharedAccess::new(access), "broker.example".into())) }
    }

    #[test]
    fn a_known_token_lets_in_and_only_one_that_may_write_changes_things() {
        let with = |method: &str, authorization: &str| {
            let request =
                parts(method, "/healthz", &[("host", "127.0.0.1"), ("authorization", authorization)]);
            judge(&remote(), &request)
        };
        let (reader, writer) = (format!("Bearer {READER}"), format!("bearer  {WRITER}"));
        for method in ["GET", "HEAD"] {
            assert_eq!((with(method, &reader), with(method, &writer)), (Ok(()), Ok(())));
        }
        for method in ["POST", "PUT", "DELETE", "PATCH", "CONNECT", "ODD"] {
            assert_eq!(with(method, &reader), Err(AdminRefusal::ReadOnly("r".into())), "{method}");
            assert_eq!(with(method, &writer), Ok(()), "{method}");
        }
        for wrong in ["Bearer wrong-0123456789", "Bearer ", &format!("Bearer {READER} ")] {
            assert_eq!(with("GET", wrong), Err(AdminRefusal::WrongToken), "{wrong}");
        }
        for none in ["", "Bearer", READER, &format!("Basic {READER}")] {
            assert_eq!(with("GET", none), Err(AdminRefusal::NoToken), "{none}");
        }
        let twice = get(&[("host", "[::1]"), ("authorization", &reader), ("authorization", &writer)]);
        assert_eq!(judge(&remote(), &twice), Err(AdminRefusal::NoToken));
        assert_eq!(judge(&remote(), &get(&[("host", "127.0.0.1")])), Err(AdminRefusal::NoToken));
    }

    #[test]
    fn a_host_that_could_be_a_page_of_another_site_is_refused() {
        let token = format!("Bearer {READER}");
        let at = |uri: &str, host: &str| {
            judge(&remote(), &parts("GET", uri, &[("host", host), ("authorization", &token)]))
        };
        for host in
            ["127.0.0.1", "127.0.0.1:9883", "[::1]:9883", "[::1]", "localhost:1", "Broker.Example:9883"]
        {
            assert_eq!(at("/healthz", host), Ok(()), "{host}");
        }
        for host in
            ["evil.example", "evil.example:9883", "127.0.0.1.evil.example", "localhost.evil", "x@127.0.0.1"]
        {
            assert_eq!(at("/", host), Err(AdminRefusal::ForeignHost), "{host}");
        }
        assert_eq!(at("http://evil.example/", "127.0.0.1"), Err(AdminRefusal::ForeignHost));
        assert_eq!(at("/", ""), Err(AdminRefusal::NoHost));
        let none = get(&[("authorization", &token)]);
        let twice = get(&[("host", "127.0.0.1"), ("host", "evil.example"), ("authorization", &token)]);
        for request in [none, twice] {
            assert_eq!(judge(&remote(), &request), Err(AdminRefusal::NoHost));
        }
        for (host, good) in [
            ("midge", true),
            ("localhost:8080", true),
            ("127.0.0.1:8080", true),
            ("[::1]:1", true),
            ("evil.example:8080", false),
        ] {
            let expected = if good { Ok(()) } else { Err(AdminRefusal::ForeignHost) };
            assert_eq!(judge(&local(), &get(&[("host", host)])), expected, "{host}");
        }
    }

    #[test]
    fn a_page_of_another_site_is_refused_even_with_a_token() {
        let token = format!("Bearer {WRITER}");
        for (header, value, good) in [
            ("origin", "http://127.0.0.1:9883", true),
            ("origin", "https://127.0.0.1:9883", true),
            ("origin", "http://127.0.0.1", false),
            ("origin", "http://evil.example", false),
            ("origin", "null", false),
            ("sec-fetch-site", "same-origin", true),
            ("sec-fetch-site", "none", true),
            ("sec-fetch-site", "cross-site", false),
        ] {
            let headers = [("host", "127.0.0.1:9883"), ("authorization", &token), (header, value)];
            let expected = if good { Ok(()) } else { Err(AdminRefusal::CrossSite) };
            for guard in [local(), remote()] {
                assert_eq!(judge(&guard, &get(&headers)), expected, "{header}: {value}");
            }
        }
    }

    #[test]
    fn everybody_may_have_the_files_of_the_dashboard_and_nothing_else() {
        for path in ["/", "/dashboard/app.js"] {
            let with = |method: &str, host: &str| {
                judge(&remote(), &parts(method, path, &[("host", host), ("sec-fetch-site", "cross-site")]))
            };
            assert_eq!((with("GET", "127.0.0.1"), with("HEAD", "localhost:1")), (Ok(()), Ok(())));
            assert_eq!(with("POST", "127.0.0.1"), Err(AdminRefusal::CrossSite));
            assert_eq!(with("GET", "evil.example"), Err(AdminRefusal::ForeignHost));
        }
        for path in [
            "//",
            "/dashboard",
            "/dashboard/",
            "/dashboard/../api/v1/clients",
            "/dashboard/app.js/",
            "/metrics",
        ] {
            let request = parts("GET", path, &[("host", "127.0.0.1")]);
            assert_eq!(judge(&remote(), &request), Err(AdminRefusal::NoToken), "{path}");
        }
    }

    #[test]
    fn a_verified_certificate_stands_for_a_token_until_the_next_reload_and_not_for_a_host() {
        let guard = remote();
        let (access, _) = guard.remote.as_ref().expect("a port");
        let certified = AdminPeer::Certified(PEER, access.generation());
        let delete = |host: &str| parts("DELETE", "/api/v1/clients/a", &[("host", host)]);
        assert_eq!(guard.check(&delete("127.0.0.1"), certified), Ok(()));
        assert_eq!(guard.check(&delete("evil.example"), certified), Err(AdminRefusal::ForeignHost));
        let cross =
            parts("DELETE", "/api/v1/clients/a", &[("host", "127.0.0.1"), ("origin", "http://evil.example")]);
        assert_eq!(guard.check(&cross, certified), Err(AdminRefusal::CrossSite));
        assert!(!guard.is_outdated(certified));
        access.change(access.current());
        assert!(guard.is_outdated(certified) && !guard.is_outdated(AdminPeer::Remote(PEER)));
    }

    #[test]
    fn a_body_that_says_that_it_is_too_large_is_refused() {
        let with = |length: &str| judge(&local(), &get(&[("host", "a"), ("content-length", length)]));
        assert_eq!((with("0"), with(&BODY_BYTES_MAX.to_string())), (Ok(()), Ok(())));
        assert_eq!(with(&(BODY_BYTES_MAX + 1).to_string()), Err(AdminRefusal::Body));
        assert_eq!(with("18446744073709551615"), Err(AdminRefusal::Body));
    }
}
