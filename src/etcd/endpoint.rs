//! The address of an etcd member: `host:port`, parsed once.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

/// One etcd member's client address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// As the user wrote it, for messages.
    given: String,
    scheme: Option<Scheme>,
    /// In address form: an IPv6 address is in brackets.
    host: String,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Scheme {
    Http,
    Https,
}

/// Reason that a text is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{given}' is not an etcd endpoint: {problem}; write HOST:PORT, as in localhost:2379")]
pub struct InvalidEndpoint {
    given: String,
    problem: &'static str,
}

impl Endpoint {
    /// Returns the address to connect to.
    pub(crate) fn uri(&self, tls: bool) -> String {
        let scheme = match self.scheme {
            Some(Scheme::Https) => "https",
            Some(Scheme::Http) => "http",
            None if tls => "https",
            None => "http",
        };
        format!("{scheme}://{}:{}", self.host, self.port)
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns whether the address itself asks for TLS.
    pub fn wants_tls(&self) -> bool {
        self.scheme == Some(Scheme::Https)
    }

    /// Returns whether it is this machine: traffic to it crosses no network.
    pub fn is_loopback(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        let name = host.to_ascii_lowercase();
        // RFC 6761, 6.3.
        name == "localhost"
            || name.ends_with(".localhost")
            || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Returns whether the address itself excludes TLS.
    pub fn forbids_tls(&self) -> bool {
        self.scheme == Some(Scheme::Http)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    /// Ignores white space around an endpoint and the case of its scheme.
    fn from_str(given: &str) -> Result<Self, InvalidEndpoint> {
        let given = given.trim();
        let wrong = |problem| InvalidEndpoint { given: given.escape_debug().to_string(), problem };
        let (scheme, rest) = match given.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Some(Scheme::Https), rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some(Scheme::Http), rest),
            Some(_) => return Err(wrong("only http:// and https:// are supported")),
            None => (None, given),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@', ' ']) {
            return Err(wrong("there is more than a host and a port"));
        }
        let (host, port) = authority.rsplit_once(':').ok_or_else(|| wrong("the port is missing"))?;
        let port = match port.parse::<u16>() {
            Ok(0) | Err(_) => return Err(wrong("the port is not a number from 1 to 65535")),
            Ok(port) => port,
        };
        if host.is_empty() {
            return Err(wrong("the host is missing"));
        }
        match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) if address.parse::<Ipv6Addr>().is_ok() => {}
            Some(address) if has_zone(address) => {
                return Err(wrong("an IPv6 address with a zone is not supported, use one without (no %)"));
            }
            Some(_) => return Err(wrong("there is no IPv6 address in the brackets")),
            None if host.contains([':', '[', ']']) => return Err(wrong("an IPv6 address goes in brackets")),
            None => {}
        }
        let known = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if !host.chars().all(known) {
            return Err(wrong("the host has a character that no host name has"));
        }
        let endpoint = Self { given: given.to_owned(), scheme, host: host.to_owned(), port };
        match endpoint.uri(false).parse::<tonic::transport::Uri>() {
            Ok(_) => Ok(endpoint),
            Err(_) => Err(wrong("it does not make an address")),
        }
    }
}

/// Returns whether an address has a zone (`fe80::1%eth0`), which is local to an interface and not possible in
/// a URI.
fn has_zone(address: &str) -> bool {
    address.split_once('%').is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_hosts_with_and_without_a_scheme() {
        for (given, uri) in [
            ("localhost:2379", "http://localhost:2379"),
            ("etcd_server:2378", "http://etcd_server:2378"),
            ("http://10.0.0.1:2379", "http://10.0.0.1:2379"),
            ("https://etcd.example:2379/", "https://etcd.example:2379"),
            ("[::1]:2379", "http://[::1]:2379"),
            (" \n etcd1:2379\t", "http://etcd1:2379"),
            ("HTTP://etcd1:2379", "http://etcd1:2379"),
            ("hTTps://etcd1:2379/", "https://etcd1:2379"),
        ] {
            assert_eq!(given.parse::<Endpoint>().unwrap().uri(false), uri);
        }
        assert_eq!("etcd:1".parse::<Endpoint>().unwrap().uri(true), "https://etcd:1");
    }

    #[test]
    fn says_what_is_wrong() {
        for (given, problem) in [
            ("localhost", "port is missing"),
            ("", "port is missing"),
            (":2379", "host is missing"),
            ("host:0", "not a number"),
            ("host:99999", "not a number"),
            ("::1:2379", "brackets"),
            ("[]:2379", "no IPv6 address"),
            ("[fe80::1%eth0]:2379", "with a zone is not supported"),
            ("[nothing%eth0]:2379", "no IPv6 address"),
            ("[lo]calhost:2379", "brackets"),
            ("ftp://host:1", "only http"),
            ("host:2379/v3", "more than a host"),
            ("user@host:2379", "more than a host"),
            ("ho\nst:2379", "no host name"),
        ] {
            let error = given.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("localhost:2379"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn anything_parsed_makes_an_address(given in "\\PC{0,40}") {
            if let Ok(endpoint) = given.parse::<Endpoint>() {
                prop_assert!(endpoint.uri(true).parse::<tonic::transport::Uri>().is_ok());
            }
        }
    }

    #[test]
    fn fuzz_endpoints() {
        bolero::check!().for_each(|text: &[u8]| {
            let Ok(text) = std::str::from_utf8(text) else { return };
            for given in text.split(',') {
                match given.parse::<Endpoint>() {
                    Ok(endpoint) => {
                        let uri = endpoint.uri(true).parse::<tonic::transport::Uri>().unwrap();
                        assert_eq!(uri.host(), Some(endpoint.host()));
                        assert_eq!(uri.port_u16(), Some(endpoint.port()));
                        assert!(!endpoint.to_string().contains(char::is_control));
                    }
                    Err(refused) => assert!(!refused.to_string().contains(char::is_control), "{refused}"),
                }
            }
        });
    }
}
