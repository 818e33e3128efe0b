//! The addresses that may send a PROXY header.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// Addresses and ranges of addresses. There are few, so they are compared one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedAddresses {
    ranges: Vec<IpNet>,
}

impl TrustedAddresses {
    /// Reads addresses such as `::1` and ranges such as `10.0.0.0/8`. An empty list contains no address. IPv4
    /// addresses in IPv6 form, such as `::ffff:10.0.0.0/104`, count as IPv4.
    ///
    /// # Errors
    /// The first text that is neither, or that is a range whose address has bits after its prefix.
    pub fn parse<T: AsRef<str>>(
        texts: impl IntoIterator<Item = T>,
    ) -> Result<TrustedAddresses, NotAnAddressRange> {
        let ranges = texts.into_iter().map(|text| range(text.as_ref()));
        Ok(TrustedAddresses { ranges: ranges.collect::<Result<_, _>>()? })
    }

    /// Whether the address is one of these. An IPv4-mapped IPv6 address counts as its IPv4 address. `::/0`
    /// contains no IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.ranges.iter().any(|range| range.contains(&address))
    }

    /// Whether there are no addresses.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

fn range(text: &str) -> Result<IpNet, NotAnAddressRange> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address.to_canonical()));
    }
    let range = text.parse::<IpNet>();
    let range = range.map_err(|_| NotAnAddressRange { text: text.to_owned(), meant: None })?;
    if range.trunc() != range {
        // A possible mistake in a trusted address is reported.
        return Err(NotAnAddressRange { text: text.to_owned(), meant: Some(range.trunc()) });
    }
    Ok(canonical(range))
}

/// Turns a range of IPv4-mapped addresses into an IPv4 range.
fn canonical(range: IpNet) -> IpNet {
    let prefix = range.prefix_len().checked_sub(96);
    match (range.addr().to_canonical(), prefix) {
        (IpAddr::V4(address), Some(prefix)) if range.addr().is_ipv6() => {
            Ipv4Net::new(address, prefix).map_or(range, IpNet::V4)
        }
        _ => range,
    }
}

/// A text that is neither an address nor a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAnAddressRange {
    text: String,
    /// The range that is probably meant: the address cut to its prefix.
    meant: Option<IpNet>,
}

impl fmt::Display for NotAnAddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NotAnAddressRange { text, meant } = self;
        match meant {
            Some(range) => write!(
                f,
                "{text:?} has bits behind its prefix: is it the range \"{range}\", or the address without a prefix?"
            ),
            None => write!(
                f,
                "{text:?} is neither an IP address, such as \"192.0.2.7\" or \"::1\", nor a range of them, such as \
                 \"10.0.0.0/8\" or \"fd00::/8\""
            ),
        }
    }
}

impl std::error::Error for NotAnAddressRange {}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(texts: &[&str]) -> TrustedAddresses {
        TrustedAddresses::parse(texts).expect("they are addresses")
    }

    fn contains(trusted: &TrustedAddresses, address: &str) -> bool {
        trusted.contains(address.parse().expect("it is an address"))
    }

    #[test]
    fn an_address_or_a_range_contains_what_it_says_and_no_more() {
        let trusted = trusted(&["10.0.0.0/8", "::1", "192.0.2.7", "fd00::/8", "198.51.100.128/25"]);
        for inside in ["10.0.0.0", "10.255.255.255", "::1", "192.0.2.7", "fd12::1", "198.51.100.128"] {
            assert!(contains(&trusted, inside), "{inside}");
        }
        for outside in ["11.0.0.0", "9.255.255.255", "::2", "192.0.2.8", "fe80::1", "198.51.100.127"] {
            assert!(!contains(&trusted, outside), "{outside}");
        }
    }

    #[test]
    fn ipv4_is_the_same_however_it_is_written() {
        for text in ["10.0.0.0/8", "::ffff:10.0.0.0/104"] {
            let trusted = trusted(&[text]);
            assert!(contains(&trusted, "10.1.2.3") && contains(&trusted, "::ffff:10.1.2.3"), "{text}");
            assert!(!contains(&trusted, "11.1.2.3") && !contains(&trusted, "::ffff:11.1.2.3"), "{text}");
        }
        assert!(contains(&trusted(&["::ffff:192.0.2.7"]), "192.0.2.7"));
        assert!(!contains(&trusted(&["::/0"]), "192.0.2.7"));
        assert!(contains(&trusted(&["0.0.0.0/0"]), "::ffff:192.0.2.7"));
        assert!(contains(&trusted(&["::ffff:0:0/96"]), "192.0.2.7"));
    }

    #[test]
    fn no_addresses_contain_nothing() {
        let none = TrustedAddresses::parse::<&str>([]).expect("none is fine");
        assert!(none.is_empty() && !contains(&none, "::1"));
    }

    #[test]
    fn errors_say_what_is_allowed() {
        for text in
            ["", "localhost", "10.0.0.0/33", "10.0.0/8", "::1/129", "10.0.0.1:80", " ::1", "10.0.0.0/-1"]
        {
            let words = TrustedAddresses::parse([text]).expect_err(text).to_string();
            assert!(words.contains("\"10.0.0.0/8\"") && words.starts_with(&format!("{text:?}")), "{words}");
        }
        let words = TrustedAddresses::parse(["10.1.2.3/8"]).expect_err("bits behind the prefix").to_string();
        assert!(words.contains("\"10.0.0.0/8\", or the address without a prefix"), "{words}");
    }
}
