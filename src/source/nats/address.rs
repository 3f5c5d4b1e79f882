//! Where a server is. Pure.

use super::NatsError;
use url::{Host, Url};

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) encrypted: bool,
    /// What its certificate is for: that of the server which told of it, as it may have told a bare address.
    pub(super) name: String,
}

impl Address {
    pub(super) fn parse(url: &str, encrypted: bool) -> Result<Self, NatsError> {
        let wrong = || NatsError::Address { url: url.to_owned() };
        let parsed = Url::parse(url).map_err(|_| wrong())?;
        // The scheme isn't one of those whose hosts `url` reads as addresses.
        let host = match parsed.host().ok_or_else(wrong)? {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let encrypted = match parsed.scheme() {
            "nats" => encrypted,
            "tls" => true,
            _ => return Err(wrong()),
        };
        if host.is_empty() || !parsed.username().is_empty() || !matches!(parsed.path(), "" | "/") {
            return Err(wrong());
        }
        Ok(Self { name: host.clone(), host, port: parsed.port().unwrap_or(4222), encrypted })
    }

    /// One that a server tells of, as `HOST:PORT`.
    pub(super) fn told(text: &str, by: &Self) -> Option<Self> {
        let told = Self::parse(&format!("nats://{text}"), by.encrypted).ok()?;
        let is_name = told.host.parse::<std::net::IpAddr>().is_err();
        let name = if is_name { told.host.clone() } else { by.name.clone() };
        Some(Self { name, ..told })
    }

    /// `host:port`, for messages.
    pub(super) fn show(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_told_of_by_its_bare_address_has_the_certificate_of_the_one_that_tells() {
        let by = Address::parse("tls://nats.example.com:4222", false).unwrap();
        let told = Address::told("10.0.0.7:4222", &by).unwrap();
        assert_eq!((told.host.as_str(), told.name.as_str(), told.encrypted), ("10.0.0.7", "nats.example.com", true));
        assert_eq!(Address::told("other.example.com:4222", &by).unwrap().name, "other.example.com");
        assert_eq!(Address::told("[::1]:4222", &by).unwrap().show(), "[::1]:4222");
        assert_eq!(Address::told("", &by), None);
    }
}
