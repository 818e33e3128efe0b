//! A network of the configuration: an address and the number of leading bits that identify the network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network: an address and the number of leading bits that identify it. Its text form is `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Returns `None` if there are more bits than the address has. Clears the bits after the prefix.
    pub fn new(address: IpAddr, prefix_bits: u8) -> Option<Network> {
        let (address, prefix_bits) = match (address, address.to_canonical()) {
            // ::ffff:10.0.0.0/104 is the same as 10.0.0.0/8.
            (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if (96..=128).contains(&prefix_bits) => {
                (v4, prefix_bits - 96)
            }
            (address, _) => (address, prefix_bits),
        };
        let address = match address {
            IpAddr::V4(v4) if prefix_bits <= 32 => {
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask_v4(prefix_bits)))
            }
            IpAddr::V6(v6) if prefix_bits <= 128 => {
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask_v6(prefix_bits)))
            }
            _ => return None,
        };
        Some(Network { address, prefix_bits })
    }

    /// Whether the address belongs to the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(v4)) => {
                v4.to_bits() & mask_v4(self.prefix_bits) == network.to_bits()
            }
            (IpAddr::V6(network), IpAddr::V6(v6)) => {
                v6.to_bits() & mask_v6(self.prefix_bits) == network.to_bits()
            }
            _ => false,
        }
    }
}

fn mask_v4(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

fn mask_v6(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

/// The error for a text that is not a [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a network; allowed are addresses, and networks such as 10.0.0.0/8 and 2001:db8::/32")]
pub struct NetworkError;

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Network, NetworkError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) if bits.bytes().all(|byte| byte.is_ascii_digit()) => (address, Some(bits)),
            Some(_) => return Err(NetworkError),
            None => (text, None),
        };
        let address = IpAddr::from_str(address).map_err(|_| NetworkError)?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(whole), |bits| bits.parse().map_err(|_| NetworkError))?;
        // Bits after the prefix are probably a mistake. They are refused, because a network decides who is
        // trusted or banned.
        let network = Network::new(address, bits).ok_or(NetworkError)?;
        if network.address == address.to_canonical() { Ok(network) } else { Err(NetworkError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_are_read_and_shown() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "10",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/256",
            "a/8",
            "/8",
            "10.1.2.3/8",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError), "{text}");
        }
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains(ip("255.0.0.1")));
        assert!(!"0.0.0.0/0".parse::<Network>().unwrap().contains(ip("::1")));
    }
}
