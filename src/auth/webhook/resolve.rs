//! Resolves the server's address. The client library resolves it with every request, on a thread that it
//! starts for that. This resolver reads a numeric address once, and remembers the addresses of a name for a
//! few seconds.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Remembers the addresses of one server.
#[derive(Debug)]
pub(super) struct Remembering {
    /// The address, if the URL has a numeric one.
    fixed: Option<SocketAddr>,
    last: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
    names: DefaultResolver,
}

impl Remembering {
    /// A resolver for the server of this URL only.
    pub(super) fn new(uri: &Uri) -> Remembering {
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let fixed = host.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, port));
        Remembering { fixed, last: Mutex::new(None), names: DefaultResolver::default() }
    }

    fn remembered(&self, now: Instant) -> Option<Vec<SocketAddr>> {
        if let Some(fixed) = self.fixed {
            return Some(vec![fixed]);
        }
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(until, _)| now < *until).map(|(_, addresses)| addresses.clone())
    }
}

impl Resolver for Remembering {
    #[allow(clippy::disallowed_methods, reason = "it waits for a name server, outside the core")]
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        if let Some(addresses) = self.remembered(Instant::now()) {
            let mut resolved = self.empty();
            for address in addresses {
                resolved.push(address);
            }
            return Ok(resolved);
        }
        let resolved = self.names.resolve(uri, config, timeout)?;
        let until = Instant::now() + REMEMBERED;
        let addresses = resolved.iter().copied().collect();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((until, addresses));
        Ok(resolved)
    }
}

/// How long the addresses of a name are remembered. A server that moves is unreachable for this time at most.
const REMEMBERED: Duration = Duration::from_secs(5);
