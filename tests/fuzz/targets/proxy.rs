//! The PROXY protocol: an input is the beginning of a connection.
//!
//! The result for the bytes so far must be final: more bytes change it only if it asked for more, and a
//! header is complete with its last byte. The addresses must be those in the protocol's text.

use midge::transport::proxy::{ProxyStep, V1_BYTES_MAX, V2_BYTES_MAX, read_proxy_header};

/// Runs the target.
pub fn run(input: &[u8]) {
    let answer = read_proxy_header(input);
    let decided = (0..=input.len()).find(|&cut| read_proxy_header(&input[..cut]) != Ok(ProxyStep::More));
    match decided {
        None => assert!(input.len() < V2_BYTES_MAX, "a header is not waited for above its bound"),
        Some(decided) => {
            for cut in [decided, decided + 1, decided.midpoint(input.len())] {
                let cut = cut.min(input.len());
                assert_eq!(read_proxy_header(&input[..cut]), answer, "cut at {cut}");
            }
        }
    }
    match answer {
        Ok(ProxyStep::More) => assert_eq!(decided, None),
        Ok(ProxyStep::Done { source, used, tls }) => {
            assert_eq!(decided, Some(used), "a header is whole with its last byte");
            assert!(source.is_none_or(|source| source.ip() == source.ip().to_canonical()));
            if input[0] == b'P' {
                assert!(used <= V1_BYTES_MAX && tls.is_none() && input[..used].ends_with(b"\r\n"));
                let line = String::from_utf8_lossy(&input[..used]);
                let fields: Vec<&str> = line.trim_end().split(' ').collect();
                assert_eq!(source.is_some(), fields[1] != "UNKNOWN");
                if let Some(source) = source {
                    assert_eq!(fields.len(), 6);
                    assert_eq!(fields[4], source.port().to_string());
                    assert_eq!(
                        fields[2].parse().map(|ip: std::net::IpAddr| ip.to_canonical()),
                        Ok(source.ip())
                    );
                }
            } else {
                let length = u16::from_be_bytes([input[14], input[15]]);
                assert_eq!(used, 16 + usize::from(length));
                let named = matches!(input[12..14], [0x21, 0x11 | 0x21]);
                assert_eq!(source.is_some(), named);
                assert!(named || input[13] == 0x31 || tls.is_none());
            }
        }
        Err(failure) => {
            assert!(failure.words.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{failure:?}");
            assert!(failure.words.len() < 600);
        }
    }
}
