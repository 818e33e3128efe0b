//! Ports for listeners whose port must be known before they are bound.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// A free port of the loopback address. It is below the range from which the system assigns ports, so neither
/// a listener on port 0 nor a client of another test gets it in the meantime. Another test process starts at
/// another port.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    const LOWEST: u16 = 10_000;
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let end = range.split_whitespace().next().and_then(|lowest| lowest.parse().ok()).unwrap_or(32_768);
    if end < LOWEST + 1000 {
        // The system leaves no such range. A port that is free now must be enough.
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        return socket.local_addr().expect("bound").port();
    }
    let count = u32::from(end - LOWEST);
    for _ in 0..count {
        let next =
            std::process::id().wrapping_mul(37) % count + u32::from(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = LOWEST + u16::try_from(next % count).expect("below the end");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {LOWEST} to {end} is free");
}

#[cfg(test)]
mod tests {
    use super::free_port;
    use std::net::TcpListener;

    #[test]
    fn a_port_is_free_and_is_given_once() {
        let (first, second) = (free_port(), free_port());
        assert_ne!(first, second);
        assert!(TcpListener::bind(("127.0.0.1", first)).is_ok());
    }
}
