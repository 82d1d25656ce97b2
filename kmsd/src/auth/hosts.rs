//! The names under which kmsd is asked over the network.
//!
//! A signature covers the name of the host that a request is for. Two kmsd that know the same access key would both take what
//! is signed for either, and whoever got hold of a request could send it to the other one within five minutes.

use hyper::header::HOST;
use hyper::http::request::Parts;
use kms_api::{ApiError, ErrorCode};

/// Longest name with a port, in bytes.
const MAX_LENGTH: usize = 262;

/// Names that requests may be signed for; none: any.
#[derive(Debug, Default)]
pub(crate) struct Hosts(Vec<String>);

impl Hosts {
    pub(crate) fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    /// Whether `name` can be one: a host name or address (IPv6 in brackets), with a port or without.
    pub(crate) fn is_name(name: &str) -> bool {
        let (host, port) = split(name);
        let is_host = match host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && host
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
            }
        };
        let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        is_host && is_port && name.len() <= MAX_LENGTH
    }

    /// # Errors
    /// `InvalidSignatureException` for a request to another host.
    pub(crate) fn check(&self, parts: &Parts) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let other = parts
            .headers
            .get_all(HOST)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .find(|value| !self.has(value.trim()));
        let Some(other) = other else {
            return Ok(());
        };
        let shown: String = other
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_LENGTH)
            .collect();
        let text = format!(
            "The request is signed for the host '{shown}', which is none of this kmsd's names (network.hosts)."
        );
        Err(ApiError::new(ErrorCode::InvalidRequestSignature, text))
    }

    /// A name without a port stands for any port.
    fn has(&self, asked: &str) -> bool {
        let asked = asked.to_ascii_lowercase();
        let host = split(&asked).0;
        self.0.iter().any(|name| *name == asked || *name == host)
    }
}

/// Host and port.
fn split(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        // The colons of an address without a port are within its brackets.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn asked(hosts: &Hosts, values: &[&str]) -> bool {
        let mut request = Request::builder();
        for value in values {
            request = request.header(HOST, *value);
        }
        hosts
            .check(&request.body(()).unwrap().into_parts().0)
            .is_ok()
    }

    #[test]
    fn only_own_names_are_taken() {
        let names = [
            "kms.example.com",
            "KMS2.example.com:8443",
            "[2001:db8::1]",
            "192.0.2.7",
        ];
        let hosts = Hosts::new(&names.map(str::to_owned));
        for own in [
            "kms.example.com",
            "kms.example.com:443",
            "KMS.Example.Com:8443",
            "kms2.example.com:8443",
            "[2001:db8::1]",
            "[2001:DB8::1]:8443",
            "192.0.2.7:1",
        ] {
            assert!(asked(&hosts, &[own]), "{own}");
        }
        for other in [
            "",
            "example.com",
            "a.kms.example.com",
            "kms.example.com.",
            "kms2.example.com",
            "kms2.example.com:443",
            "[2001:db8::2]",
            "2001:db8::1",
            "kms.example.com:8443:8443",
        ] {
            assert!(!asked(&hosts, &[other]), "{other}");
        }
        assert!(!asked(&hosts, &["kms.example.com", "other"]));
        assert!(asked(&Hosts::default(), &["anything"]));
    }

    #[test]
    fn names_are_names() {
        for good in [
            "a",
            "kms.example.com",
            "kms.example.com:8443",
            "[::1]",
            "[::1]:8443",
            "192.0.2.7:80",
        ] {
            assert!(Hosts::is_name(good), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a:",
            "a:0",
            "a:99999",
            "::1",
            "[::1",
            "[x]:80",
            "a/b",
            "https://a",
            "a b",
            "*.example.com",
        ] {
            assert!(!Hosts::is_name(bad), "{bad}");
        }
    }
}
