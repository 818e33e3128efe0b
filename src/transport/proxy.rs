//! The receiving side of the PROXY protocol, versions 1 and 2. It gives the address of the client behind a
//! load balancer.
//!
//! The header comes before everything else on a connection, including TLS and WebSocket.
//! [`read_proxy_header`] takes the bytes of the connection from the first one on, and keeps no state between
//! its calls. The caller must check with [`TrustedAddresses`] first whether a peer may send a header, because
//! a header can claim any address and any certificate.
//!
//! midge has its own implementation, because no maintained crate fits (checked in 2026). The newest change of
//! `ppp` was in February 2025, and it leaves bounds and the TLS block to its caller. `proxy-header` has only
//! a few commits. `proxy-protocol` has an unanswered report of panics on wrong lengths. `proxy-protocol-rs`
//! needs an asynchronous runtime.

mod trusted;

pub use trusted::{NotAnAddressRange, TrustedAddresses};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::tls::is_user_name;

/// The largest header of version 1 in bytes, with its CRLF.
pub const V1_BYTES_MAX: usize = 107;
/// The largest header of version 2 in bytes. The length field of the protocol allows 64 KiB; balancers send
/// less than 1 KiB.
pub const V2_BYTES_MAX: usize = 4096;

/// The beginning of a header of version 1.
const V1_SIGNATURE: &[u8] = b"PROXY ";
/// The beginning of a header of version 2.
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The type of the block about the client's TLS connection.
const TLV_SSL: u8 = 0x20;
/// The type of the common name within it.
const TLV_SSL_CN: u8 = 0x22;
/// A bit of the block: the client is connected over TLS.
const CLIENT_SSL: u8 = 0x01;
/// Bits of the block: the client has sent a certificate, over this connection or within the same TLS session.
const CLIENT_CERTIFICATE: u8 = 0x02 | 0x04;

/// The result of reading the first bytes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyStep {
    /// The header is not complete. Call again with these bytes and more.
    More,
    /// The header is complete.
    Done {
        /// The client's address. An IPv4-mapped address is given as IPv4. `None` if the connection is the
        /// balancer's own, such as a health check (LOCAL), or if the balancer does not know it (UNKNOWN, or a
        /// Unix socket). In this case the address of the socket counts.
        source: Option<SocketAddr>,
        /// The length of the header in bytes, at most [`V2_BYTES_MAX`]. The client's own bytes follow.
        used: usize,
        /// The client's TLS connection to the balancer. `None` if there is none, or if the header does not
        /// describe it.
        tls: Option<ProxyTls>,
    },
}

/// The balancer's statement about the client's TLS connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyTls {
    /// The common name of the certificate's subject. It has no meaning unless `verified`.
    pub common_name: Option<String>,
    /// Whether the client sent a certificate and the balancer found it valid.
    pub verified: bool,
}

/// Why the bytes are not an acceptable header. The connection is closed without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PROXY header refused: {words}")]
pub struct ProxyFailure {
    /// The reason, for the log. It has few bytes of the peer, and they are escaped.
    pub words: String,
}

impl ProxyFailure {
    fn new(words: impl Into<String>) -> ProxyFailure {
        ProxyFailure { words: words.into() }
    }
}

/// Reads the header at the beginning of a connection, of either version. Unless the result is
/// [`ProxyStep::More`], more bytes do not change it.
///
/// # Errors
/// The bytes are not a header, or the header is too large, malformed, or about another transport than TCP.
pub fn read_proxy_header(bytes: &[u8]) -> Result<ProxyStep, ProxyFailure> {
    let begins = |signature: &[u8]| bytes.iter().zip(signature).all(|(byte, expected)| byte == expected);
    if begins(V1_SIGNATURE) {
        return if bytes.len() < V1_SIGNATURE.len() { Ok(ProxyStep::More) } else { read_v1(bytes) };
    }
    if begins(V2_SIGNATURE) {
        return if bytes.len() < V2_SIGNATURE.len() { Ok(ProxyStep::More) } else { read_v2(bytes) };
    }
    Err(ProxyFailure::new(match bytes.first() {
        Some(0x10) => "the connection begins with MQTT; is there a balancer, and does it send the header?",
        Some(0x16) => "the connection begins with TLS; is there a balancer, and does it send the header?",
        _ => "the connection does not begin with a header of version 1 or 2",
    }))
}

fn read_v1(bytes: &[u8]) -> Result<ProxyStep, ProxyFailure> {
    let bounded = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = bounded.iter().position(|byte| *byte == b'\n') else {
        return if bounded.len() < V1_BYTES_MAX {
            Ok(ProxyStep::More)
        } else {
            Err(ProxyFailure::new(format!("a line of more than {V1_BYTES_MAX} bytes")))
        };
    };
    let (line, _) = bounded.split_at(end);
    let source = v1_source(line).ok_or_else(|| {
        ProxyFailure::new(format!("not a header of version 1: \"{}\"", line.escape_ascii()))
    })?;
    Ok(ProxyStep::Done { source, used: end + 1, tls: None })
}

/// The source in a line of version 1 without its LF. `None` if the line is malformed.
fn v1_source(line: &[u8]) -> Option<Option<SocketAddr>> {
    let line = std::str::from_utf8(line.strip_prefix(V1_SIGNATURE)?).ok()?.strip_suffix('\r')?;
    // Everything after UNKNOWN must be ignored.
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let mut fields = line.split(' ');
    let mut field = || fields.next();
    let (family, source, destination) = (field()?, field()?, field()?);
    let (source_port, destination_port) = (field()?, field()?);
    if field().is_some() {
        return None;
    }
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        _ => None,
    };
    // `parse` would accept "+80" and "0080".
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| port.to_string() == text);
    address(destination)?;
    port(destination_port)?;
    Some(Some(SocketAddr::new(address(source)?.to_canonical(), port(source_port)?)))
}

fn read_v2(bytes: &[u8]) -> Result<ProxyStep, ProxyFailure> {
    let rest = bytes.get(V2_SIGNATURE.len()..).unwrap_or_default();
    let Some((&[version_and_command, family, length @ ..], body)) = rest.split_first_chunk::<4>() else {
        return Ok(ProxyStep::More);
    };
    let length = usize::from(u16::from_be_bytes(length));
    let used = V2_SIGNATURE.len() + 4 + length;
    if used > V2_BYTES_MAX {
        return Err(ProxyFailure::new(format!("{used} bytes, and at most {V2_BYTES_MAX} are taken")));
    }
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => {
            let words = format!("version and command are 0x{version_and_command:02X}, not 0x20 or 0x21");
            return Err(ProxyFailure::new(words));
        }
    };
    // A wrong family is refused before the addresses have come.
    let address = if is_local { Family::Unknown } else { Family::of(family)? };
    let Some(body) = body.get(..length) else {
        return Ok(ProxyStep::More);
    };
    let (source, blocks) = match address {
        Family::Unknown => return Ok(ProxyStep::Done { source: None, used, tls: None }),
        Family::Ipv4 => v2_address::<4, 12>(body)?,
        Family::Ipv6 => v2_address::<16, 36>(body)?,
        Family::Unix => {
            let blocks = body.get(216..).ok_or_else(addresses_are_cut)?;
            (None, blocks)
        }
    };
    Ok(ProxyStep::Done { source, used, tls: v2_tls(blocks)? })
}

/// The kind of the addresses in a header of version 2.
enum Family {
    /// The header has no addresses, or none that count.
    Unknown,
    Ipv4,
    Ipv6,
    Unix,
}

impl Family {
    /// Reads the byte with the address family and the transport.
    fn of(byte: u8) -> Result<Family, ProxyFailure> {
        match byte {
            0x00 => Ok(Family::Unknown),
            0x11 => Ok(Family::Ipv4),
            0x21 => Ok(Family::Ipv6),
            0x31 => Ok(Family::Unix),
            0x12 | 0x22 | 0x32 => Err(ProxyFailure::new("the client's transport is UDP")),
            _ => Err(ProxyFailure::new(format!("address family and transport are 0x{byte:02X}"))),
        }
    }
}

/// The source of two addresses of `ADDRESS` bytes and two ports, `BLOCK` bytes in total, and the bytes after
/// them.
fn v2_address<const ADDRESS: usize, const BLOCK: usize>(
    body: &[u8],
) -> Result<(Option<SocketAddr>, &[u8]), ProxyFailure>
where
    IpAddr: From<[u8; ADDRESS]>,
{
    const { assert!(BLOCK == 2 * ADDRESS + 4) };
    let parts = body.split_first_chunk::<ADDRESS>();
    let source = parts.map(|(source, _)| IpAddr::from(*source).to_canonical());
    let port = body.get(2 * ADDRESS..).and_then(<[u8]>::first_chunk::<2>);
    match (source, port, body.get(BLOCK..)) {
        (Some(source), Some(port), Some(blocks)) => {
            Ok((Some(SocketAddr::new(source, u16::from_be_bytes(*port))), blocks))
        }
        _ => Err(addresses_are_cut()),
    }
}

fn addresses_are_cut() -> ProxyFailure {
    ProxyFailure::new("the length leaves no room for the addresses")
}

/// The statement about TLS in the blocks after the addresses. Other blocks are skipped, and so is the
/// checksum, because TCP has its own.
fn v2_tls(blocks: &[u8]) -> Result<Option<ProxyTls>, ProxyFailure> {
    let Some(block) = find_block(blocks, TLV_SSL)? else {
        return Ok(None);
    };
    // The block has one byte of bits, then four bytes. These are zero if the certificate, if any, was found
    // valid.
    let Some((&[client, verify @ ..], inner)) = block.split_first_chunk::<5>() else {
        return Err(ProxyFailure::new("the block of TLS is cut"));
    };
    let common_name = find_block(inner, TLV_SSL_CN)?.map(|name| std::str::from_utf8(name).map(str::to_owned));
    let common_name = common_name.transpose();
    let common_name = common_name.map_err(|_| ProxyFailure::new("the common name is not UTF-8"))?;
    if client & CLIENT_SSL == 0 {
        return Ok(None);
    }
    Ok(Some(ProxyTls {
        // The rule is the same as for certificates that midge checks itself. See `is_user_name`.
        common_name: common_name.filter(|name| is_user_name(name)),
        verified: client & CLIENT_CERTIFICATE != 0 && verify == [0; 4],
    }))
}

/// The value of the only block of a type. All blocks are parsed, because a trusted header must be valid to
/// its end.
fn find_block(mut blocks: &[u8], wanted: u8) -> Result<Option<&[u8]>, ProxyFailure> {
    let mut found = None;
    while !blocks.is_empty() {
        let (&[kind, high, low], rest) = blocks.split_first_chunk::<3>().ok_or_else(block_is_cut)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, behind) = rest.split_at_checked(length).ok_or_else(block_is_cut)?;
        if kind == wanted && found.replace(value).is_some() {
            return Err(ProxyFailure::new(format!("two blocks of type 0x{kind:02X}")));
        }
        blocks = behind;
    }
    Ok(found)
}

fn block_is_cut() -> ProxyFailure {
    ProxyFailure::new("a block behind the addresses is cut")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 2.
    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, body].concat()
    }

    fn block(kind: u8, value: &[u8]) -> Vec<u8> {
        [&[kind][..], &(value.len() as u16).to_be_bytes(), value].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x1F, 0x90, 0x07, 0x5B];

    /// Every truncated header asks for more bytes, and bytes after the header change nothing.
    #[track_caller]
    fn done(header: &[u8]) -> (Option<SocketAddr>, Option<ProxyTls>) {
        for cut in 0..header.len() {
            assert_eq!(read_proxy_header(&header[..cut]), Ok(ProxyStep::More), "cut at {cut}");
        }
        let whole = read_proxy_header(header);
        assert_eq!(whole, read_proxy_header(&[header, b"\x10\x00PROXY \r\n"].concat()));
        match whole {
            Ok(ProxyStep::Done { source, used, tls }) => {
                assert_eq!(used, header.len());
                (source, tls)
            }
            other => panic!("{other:?}"),
        }
    }

    fn source(header: impl AsRef<[u8]>) -> Option<String> {
        done(header.as_ref()).0.map(|source| source.to_string())
    }

    #[track_caller]
    fn refused(bytes: impl AsRef<[u8]>, words: &str) {
        let failure = read_proxy_header(bytes.as_ref()).expect_err("it is no header");
        assert!(failure.words.contains(words), "{failure}");
        assert!(failure.words.is_ascii() && !failure.words.contains(['\r', '\n', '\0']));
    }

    #[test]
    fn version_1_names_the_client() {
        assert_eq!(
            source("PROXY TCP4 192.0.2.7 198.51.100.1 8080 1883\r\n").as_deref(),
            Some("192.0.2.7:8080")
        );
        assert_eq!(
            source("PROXY TCP6 2001:db8::7 2001:db8::1 0 65535\r\n").as_deref(),
            Some("[2001:db8::7]:0")
        );
        assert_eq!(
            source("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n").as_deref(),
            Some("192.0.2.7:1"),
            "an IPv4-mapped address is IPv4"
        );
    }

    #[test]
    fn version_1_unknown_names_nobody_whatever_stands_behind_it() {
        assert_eq!(source("PROXY UNKNOWN\r\n"), None);
        assert_eq!(source("PROXY UNKNOWN what ever 99999\r\n"), None);
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_BYTES_MAX - 16));
        assert_eq!(longest.len(), V1_BYTES_MAX);
        assert_eq!(source(longest), None);
    }

    #[test]
    fn a_line_above_the_bound_is_refused_without_waiting_for_its_end() {
        let line = format!("PROXY UNKNOWN {}", "f".repeat(V1_BYTES_MAX));
        assert_eq!(read_proxy_header(&line.as_bytes()[..V1_BYTES_MAX - 1]), Ok(ProxyStep::More));
        refused(&line.as_bytes()[..V1_BYTES_MAX], "more than 107 bytes");
        refused(line + "\r\n", "more than 107 bytes");
    }

    #[test]
    fn malformed_lines_are_refused() {
        for line in [
            "PROXY \r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 8080 1883\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 8080 1883 \r\n",
            "PROXY TCP4  192.0.2.7 198.51.100.1 8080 1883\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 8080\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 8080 65536\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +80 1883\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 080 1883\r\n",
            "PROXY TCP4 192.0.2 198.51.100.1 8080 1883\r\n",
            "PROXY TCP4 192.0.2.07 198.51.100.1 8080 1883\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 8080 1883\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.1 8080 1883\r\n",
            "PROXY TCP6 2001:db8::7%1 2001:db8::1 8080 1883\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 8080 1883\r\n",
            "PROXY TCP4 192.0.2.7 \r\0.1 8080 1883\r\n",
        ] {
            refused(line, "not a header of version 1");
        }
        refused(b"PROXY TCP4 \xFF\xFE\r\n", "\\xff");
    }

    #[test]
    fn version_2_names_the_client() {
        assert_eq!(source(v2(0x21, 0x11, &IPV4)).as_deref(), Some("192.0.2.7:8080"));
        let mut ipv6 = [0; 36];
        ipv6[..4].copy_from_slice(&[0x20, 0x01, 0x0D, 0xB8]);
        ipv6[15] = 7;
        ipv6[31] = 1;
        ipv6[32..34].copy_from_slice(&8080_u16.to_be_bytes());
        assert_eq!(source(v2(0x21, 0x21, &ipv6)).as_deref(), Some("[2001:db8::7]:8080"));
        ipv6[..16].copy_from_slice(&Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().octets());
        assert_eq!(source(v2(0x21, 0x21, &ipv6)).as_deref(), Some("192.0.2.7:8080"));
    }

    #[test]
    fn version_2_without_an_address_of_the_client_names_nobody() {
        assert_eq!(done(&v2(0x20, 0x00, b"")), (None, None), "LOCAL");
        assert_eq!(done(&v2(0x20, 0x11, &IPV4)), (None, None), "LOCAL with addresses");
        assert_eq!(done(&v2(0x20, 0xFF, b"any")), (None, None), "LOCAL of any family");
        assert_eq!(done(&v2(0x21, 0x00, b"any")), (None, None), "UNSPEC");
        assert_eq!(done(&v2(0x21, 0x31, &[b'/'; 216])), (None, None), "UNIX");
    }

    #[test]
    fn other_versions_commands_and_transports_are_refused_before_their_addresses() {
        refused(v2(0x11, 0x11, b""), "0x11, not 0x20 or 0x21");
        refused(v2(0x22, 0x11, b""), "0x22, not 0x20 or 0x21");
        for udp in [0x12, 0x22, 0x32] {
            refused(v2(0x21, udp, b""), "UDP");
        }
        for family in [0x01, 0x10, 0x13, 0x20, 0x41, 0xFF] {
            refused(v2(0x21, family, b""), "address family and transport are 0x");
        }
    }

    #[test]
    fn addresses_that_are_cut_are_refused() {
        refused(v2(0x21, 0x11, &IPV4[..11]), "no room for the addresses");
        refused(v2(0x21, 0x21, &[0; 35]), "no room for the addresses");
        refused(v2(0x21, 0x31, &[0; 215]), "no room for the addresses");
        refused(v2(0x21, 0x11, b""), "no room for the addresses");
    }

    #[test]
    fn a_header_of_4_kib_is_taken_and_a_larger_one_refused_at_its_length() {
        let filler = V2_BYTES_MAX - 16 - IPV4.len() - 3;
        let largest = v2(0x21, 0x11, &[&IPV4[..], &block(0x04, &vec![0; filler])].concat());
        assert_eq!(largest.len(), V2_BYTES_MAX);
        assert_eq!(source(largest).as_deref(), Some("192.0.2.7:8080"));
        let larger = v2(0x21, 0x11, &[0; V2_BYTES_MAX - 15]);
        refused(&larger[..16], "4097 bytes, and at most 4096 are taken");
    }

    fn tls(client: u8, verify: u32, inner: &[u8]) -> Option<ProxyTls> {
        let ssl = block(TLV_SSL, &[&[client][..], &verify.to_be_bytes(), inner].concat());
        let blocks = [block(0x01, b"mqtt"), ssl, block(0xEA, b"vpce")].concat();
        done(&v2(0x21, 0x11, &[&IPV4[..], &blocks].concat())).1
    }

    #[test]
    fn the_common_name_is_read_and_verified_only_with_a_certificate_that_is_good() {
        let inner = [block(0x21, b"TLSv1.3"), block(TLV_SSL_CN, b"d\xC3\xB6rte")].concat();
        let said = |verified| Some(ProxyTls { common_name: Some("dörte".into()), verified });
        assert_eq!(tls(0x07, 0, &inner), said(true));
        assert_eq!(tls(0x05, 0, &inner), said(true), "the certificate came with the session");
        assert_eq!(tls(0x07, 1, &inner), said(false));
        assert_eq!(tls(0x01, 0, &inner), said(false), "without a certificate nothing was verified");
        assert_eq!(tls(0x06, 0, &inner), None, "no TLS");
        let anonymous = Some(ProxyTls { common_name: None, verified: false });
        assert_eq!(tls(0x01, 0, b""), anonymous);
        assert_eq!(tls(0x01, 0, &block(TLV_SSL_CN, b"")), anonymous);
        for name in [&b"ad\0min"[..], b"ad\nmin", b"\x1b[31m", b"\x7f", "a\u{85}b".as_bytes()] {
            let said = tls(0x07, 0, &block(TLV_SSL_CN, name));
            let nameless = ProxyTls { common_name: None, verified: true };
            assert_eq!(said, Some(nameless), "as one without: {name:?}");
        }
    }

    #[test]
    fn blocks_that_lie_about_their_length_are_refused() {
        let with = |blocks: &[u8]| v2(0x21, 0x11, &[&IPV4[..], blocks].concat());
        refused(with(&[0x04]), "a block behind the addresses is cut");
        refused(with(&[0x04, 0, 2, 1]), "a block behind the addresses is cut");
        refused(with(&block(TLV_SSL, &[1, 0, 0, 0])), "the block of TLS is cut");
        refused(with(&block(TLV_SSL, &[1, 0, 0, 0, 0, TLV_SSL_CN, 0, 1])), "is cut");
        refused(with(&block(TLV_SSL, &[1, 0, 0, 0, 0, TLV_SSL_CN, 0, 1, 0xFF])), "not UTF-8");
        let ssl = block(TLV_SSL, &[1, 0, 0, 0, 0]);
        refused(with(&[&ssl[..], &ssl].concat()), "two blocks of type 0x20");
        let names = [block(TLV_SSL_CN, b"a"), block(TLV_SSL_CN, b"b")].concat();
        refused(with(&block(TLV_SSL, &[&[7, 0, 0, 0, 0], &names[..]].concat())), "two blocks of type 0x22");
    }

    #[test]
    fn what_begins_otherwise_is_refused_with_its_first_byte_that_differs() {
        refused(b"\x10", "begins with MQTT");
        refused(b"\x16\x03\x01", "begins with TLS");
        refused(b"GET / HTTP/1.1\r\n", "does not begin with a header");
        refused(b"PROXZ", "does not begin with a header");
        refused(b"\r\n\r\n\0\r\nQUIT\r", "does not begin with a header");
    }
}
