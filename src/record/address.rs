//! IP addresses as they stand in logs, and their networks.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The address in a log's field: bare, with a port, in brackets, with a zone, blanks around it. An IPv4 address
/// that is mapped into IPv6 is that IPv4 address.
pub fn parse(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bracketed = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let bare = bracketed.unwrap_or(text);
    let unzoned = bare.split_once('%').map_or(bare, |(address, _)| address);
    let address = match unzoned.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => text.parse::<SocketAddr>().ok()?.ip(),
    };
    Some(address.to_canonical())
}

/// Writes the /24 of an IPv4 address, the /48 of an IPv6 one.
pub fn write_network(out: &mut impl Write, address: IpAddr) -> fmt::Result {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            write!(out, "{}/24", Ipv4Addr::new(a, b, c, 0))
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            write!(out, "{}/48", Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str) -> Option<String> {
        let mut out = String::new();
        write_network(&mut out, parse(text)?).unwrap();
        Some(out)
    }

    #[test]
    fn addresses_are_found_in_the_forms_of_logs() {
        for (text, network) in [
            ("203.0.113.77", "203.0.113.0/24"),
            (" 203.0.113.77\t", "203.0.113.0/24"),
            ("203.0.113.77:8080", "203.0.113.0/24"),
            ("2001:db8:1:2::7", "2001:db8:1::/48"),
            ("[2001:db8:1:2::7]:443", "2001:db8:1::/48"),
            ("[2001:db8:1:2::7]", "2001:db8:1::/48"),
            ("fe80::1%eth0", "fe80::/48"),
            ("::ffff:203.0.113.77", "203.0.113.0/24"),
            ("[::ffff:203.0.113.77]:80", "203.0.113.0/24"),
        ] {
            assert_eq!(check(text).as_deref(), Some(network), "{text}");
        }
        for text in ["", "localhost", "203.0.113", "203.0.113.300", "1.2.3.4, 5.6.7.8", "[", "%", "1.2.3.4:99999"] {
            assert_eq!(check(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_network_holds_the_address(bits in any::<u128>(), v4 in any::<u32>()) {
            let v6 = Ipv6Addr::from_bits(bits);
            if let (IpAddr::V6(_), Some(network)) = (v6.to_canonical(), check(&v6.to_string())) {
                let base: Ipv6Addr = network.strip_suffix("/48").unwrap().parse().unwrap();
                prop_assert_eq!(base.to_bits() >> 80, bits >> 80);
                prop_assert_eq!(base.to_bits() << 48, 0);
            }
            let network = check(&Ipv4Addr::from_bits(v4).to_string()).unwrap();
            let base: Ipv4Addr = network.strip_suffix("/24").unwrap().parse().unwrap();
            prop_assert_eq!(base.to_bits(), v4 & 0xffff_ff00);
        }
    }
}
