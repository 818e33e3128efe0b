//! The address of the peer in half the memory of a `SocketAddr`.

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

/// An address and a port. IPv6 ones, which are longer and rarer, are boxed.
#[derive(Clone, Debug)]
pub(in crate::broker) enum Peer {
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
}

const _: () = assert!(size_of::<Peer>() == 16);

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Peer {
        match address {
            SocketAddr::V4(address) => Peer::V4(address),
            SocketAddr::V6(address) => Peer::V6(Box::new(address)),
        }
    }
}

impl From<&Peer> for SocketAddr {
    fn from(peer: &Peer) -> SocketAddr {
        match peer {
            Peer::V4(address) => (*address).into(),
            Peer::V6(address) => (**address).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_an_address_is_lost() {
        for text in ["192.0.2.1:65535", "[2001:db8::1]:1883", "[fe80::1%3]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(&Peer::from(address)), address);
        }
    }
}
