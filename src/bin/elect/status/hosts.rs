//! Names by which a client may call this server.
//!
//! A page in a browser may reach a server that listens on loopback: its author points a name of theirs at
//! 127.0.0.1 (DNS rebinding), and the browser gives the server's responses to the page. The `Host` header
//! then has that name, which no proper client of a server on loopback uses. An IP address is not a name to
//! rebind.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The accepted names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hosts {
    /// The server listens for other machines too, whose names for it are unknown.
    Any,
    /// It listens on loopback. The name is that of `--http`, if it has one.
    Local { given: Option<String> },
}

impl Hosts {
    /// Decides by the listening address and the given name.
    pub(crate) fn of(address: SocketAddr, given: Option<String>) -> Self {
        if address.ip().is_loopback() { Self::Local { given } } else { Self::Any }
    }

    /// Returns whether a request with this `Host` is accepted.
    pub(crate) fn allow(&self, host: &str) -> bool {
        let Self::Local { given } = self else { return true };
        let host = without_port(host);
        let is = |name: &str| host.eq_ignore_ascii_case(name);
        host.is_empty()
            || is("localhost")
            || host.to_ascii_lowercase().ends_with(".localhost")
            || given.as_deref().is_some_and(is)
            || host.parse::<IpAddr>().is_ok()
            || in_brackets(host).is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => host,
    }
}

fn in_brackets(host: &str) -> Option<&str> {
    host.strip_prefix('[')?.strip_suffix(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_name_is_no_name_of_a_server_on_loopback() {
        let hosts = Hosts::of("127.0.0.1:8080".parse().unwrap(), Some("status.test".into()));
        for host in [
            "localhost",
            "LocalHost:8080",
            "a.localhost",
            "127.0.0.1:8080",
            "[::1]:80",
            "[::1]",
            "status.test:1",
            "",
        ] {
            assert!(hosts.allow(host), "{host}");
        }
        for host in
            ["evil.test", "evil.test:8080", "localhost.evil.test", "127.0.0.1.evil.test", "a", "[a]:1"]
        {
            assert!(!hosts.allow(host), "{host}");
        }
    }

    #[test]
    fn a_server_for_other_machines_answers_to_any_name() {
        assert!(Hosts::of("0.0.0.0:8080".parse().unwrap(), None).allow("leader.example.com"));
    }
}
