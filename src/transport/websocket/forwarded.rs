//! `X-Forwarded-For`: the address of the client behind HTTP proxies.
//!
//! Each proxy appends the address that it was connected from. So only the end of the list can be believed: the first
//! address from the right that is no trusted proxy is the client. What stands left of it is the client's own invention.

use crate::transport::proxy::TrustedAddresses;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The addresses of a header that names no client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotAnAddress<'a>(pub(super) &'a [u8]);

/// The client that a list of addresses names: the last one that is not trusted, or the first of all if they all are.
/// `None` for an empty list. The port is 0 if it is not named.
///
/// # Errors
/// The member that should be an address, and is none.
pub(super) fn client<'a>(
    trusted: &TrustedAddresses,
    list: impl DoubleEndedIterator<Item = &'a [u8]>,
) -> Result<Option<SocketAddr>, NotAnAddress<'a>> {
    let mut client = None;
    for member in list.rev().filter(|member| !member.is_empty()) {
        let address = address(member).ok_or(NotAnAddress(member))?;
        client = Some(address);
        if !trusted.contains(address.ip()) {
            break;
        }
    }
    Ok(client)
}

/// Some proxies add the port, and write IPv6 addresses in brackets.
fn address(member: &[u8]) -> Option<SocketAddr> {
    let text = str::from_utf8(member).ok()?;
    let bare = text.parse::<IpAddr>().ok();
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    match bare.or_else(bracketed) {
        Some(address) => Some(SocketAddr::new(address, 0)),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(list: &str) -> Result<Option<String>, String> {
        let trusted = TrustedAddresses::parse(["10.0.0.0/8", "fd00::/8"]).expect("networks");
        let members: Vec<&[u8]> = list.split(',').map(|member| member.trim().as_bytes()).collect();
        match client(&trusted, members.into_iter()) {
            Ok(client) => Ok(client.map(|client| client.to_string())),
            Err(NotAnAddress(member)) => Err(String::from_utf8_lossy(member).into_owned()),
        }
    }

    #[test]
    fn the_last_address_that_is_no_proxy_is_the_client() {
        for (list, client) in [
            ("192.0.2.7", "192.0.2.7:0"),
            ("192.0.2.7, 10.0.0.1", "192.0.2.7:0"),
            ("198.51.100.1, 192.0.2.7, 10.0.0.2, 10.0.0.1", "192.0.2.7:0"),
            // What the client itself has sent is not looked at.
            ("nonsense, 192.0.2.7", "192.0.2.7:0"),
            ("10.0.0.9, 192.0.2.7", "192.0.2.7:0"),
            ("10.0.0.9, 10.0.0.1", "10.0.0.9:0"),
            ("192.0.2.7:4242, 10.0.0.1:80", "192.0.2.7:4242"),
            ("2001:db8::7, fd00::1", "[2001:db8::7]:0"),
            ("[2001:db8::7], [fd00::1]:443", "[2001:db8::7]:0"),
            ("[2001:db8::7]:4242", "[2001:db8::7]:4242"),
            ("::ffff:192.0.2.7, ::ffff:10.0.0.1", "[::ffff:192.0.2.7]:0"),
            (", 192.0.2.7,, ", "192.0.2.7:0"),
        ] {
            assert_eq!(named(list), Ok(Some(client.to_owned())), "{list}");
        }
        assert_eq!(named(""), Ok(None));
    }

    #[test]
    fn what_a_proxy_has_written_must_be_an_address() {
        for (list, wrong) in [
            ("192.0.2.7, unknown", "unknown"),
            ("unknown, 10.0.0.1", "unknown"),
            ("192.0.2.7.9", "192.0.2.7.9"),
            ("192.0.2.7:99999", "192.0.2.7:99999"),
            ("[192.0.2.7]", "[192.0.2.7]"),
        ] {
            assert_eq!(named(list), Err(wrong.to_owned()), "{list}");
        }
    }
}
