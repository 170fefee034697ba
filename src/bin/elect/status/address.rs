//! The address of the HTTP server: `--http ADDR`, parsed, and bound before anything else happens.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs},
    str::FromStr,
};

use anyhow::{Context, anyhow};
use tokio::net::TcpSocket;

/// Connections that the kernel completes before we accept them. A burst of stuck clients must not fill it, or
/// the next load balancer's check waits until the kernel retries, a second later.
const BACKLOG: u32 = 1024;

/// Bytes of responses that the kernel may hold for a client that does not read. More than the largest
/// response, and small enough that a client that reads nothing is soon noticed.
const SEND_BUFFER: u32 = 64 * 1024;

/// `8080` and `:8080` are for this machine only; wider addresses are written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Loopback { port: u16 },
    Explicit { host: String, port: u16 },
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let how = "write a port, as in 8080 (this machine only), or HOST:PORT, as in 0.0.0.0:8080";
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(format!("write an address to listen on, without '{scheme}://' and path; {how}"));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("'{port}' is not a port; {how}"));
        }
        let port = port.parse().map_err(|_| format!("'{port}' is not a port; {how}"))?;
        match host {
            "" => Ok(Self::Loopback { port }),
            _ if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) => {
                Err(format!("an IPv6 address goes into brackets, as in [::1]:{port}"))
            }
            _ if host.contains(|c: char| c.is_whitespace() || c == '/') => {
                Err(format!("'{host}' is not a host; {how}"))
            }
            _ => Ok(Self::Explicit { host: host.to_owned(), port }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback { port } => write!(f, "{}:{port}", Ipv4Addr::LOCALHOST),
            Self::Explicit { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// A bound port that serves no client yet.
#[derive(Debug)]
pub(crate) struct BoundAddress {
    pub(super) listener: TcpListener,
    pub(super) address: SocketAddr,
    /// The host in `--http`, if it has one.
    pub(super) host: Option<String>,
}

impl Address {
    fn host(&self) -> Option<String> {
        match self {
            Self::Loopback { .. } => None,
            Self::Explicit { host, .. } => Some(host.clone()),
        }
    }

    /// Listens. A name with several addresses gets the first that is available.
    ///
    /// Needs a Tokio runtime around it.
    pub(crate) fn bind(&self) -> anyhow::Result<BoundAddress> {
        let flag = || format!("--http {self}");
        let found = match self {
            Self::Loopback { port } => vec![SocketAddr::from((Ipv4Addr::LOCALHOST, *port))],
            Self::Explicit { .. } => self.to_string().to_socket_addrs().with_context(flag)?.collect(),
        };
        let mut problem = io::Error::from(io::ErrorKind::NotFound);
        for address in found {
            match listen(address) {
                Ok((listener, address)) => return Ok(BoundAddress { listener, address, host: self.host() }),
                Err(error) => problem = error,
            }
        }
        Err(anyhow!("{}: {}", flag(), explained(&problem)))
    }
}

fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // So that a restarted server need not wait for the connections of the process before it.
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?.into_std()?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn explained(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there; stop it, or choose another port (0: any that is free)".into()
        }
        io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address".into(),
        io::ErrorKind::PermissionDenied => "not permitted; ports from 1024 on need no rights".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<String, String> {
        text.parse::<Address>().map(|address| address.to_string())
    }

    #[test]
    fn a_bare_port_is_for_this_machine_only() {
        assert_eq!(parsed("8080").unwrap(), "127.0.0.1:8080");
        assert_eq!(parsed(":8080").unwrap(), "127.0.0.1:8080");
        assert_eq!(parsed("0").unwrap(), "127.0.0.1:0");
    }

    #[test]
    fn wider_addresses_are_taken_as_they_are_written() {
        for text in ["0.0.0.0:8080", "[::]:8080", "[::1]:0", "localhost:80", "status.example.com:65535"] {
            assert_eq!(parsed(text).unwrap(), text);
        }
    }

    #[test]
    fn a_url_is_refused_as_more_than_an_address() {
        for text in ["http://0.0.0.0:8080", "https://localhost:8080/", "http://"] {
            assert!(parsed(text).unwrap_err().contains("without 'http"), "{text}");
        }
    }

    #[test]
    fn refuses_what_nothing_can_listen_on() {
        for text in
            ["", ":", "http", "host:", "host:http", "65536", "::1", "::1:8080", "1.2.3.4", "a b:1", "+80"]
        {
            let refused = parsed(text).unwrap_err();
            assert!(refused.contains("write a port") || refused.contains("brackets"), "{text}: {refused}");
        }
    }
}
