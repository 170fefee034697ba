//! Ports of the loopback interface that no other program gets while we hold them.
//!
//! A killed server is restarted on its port. Meanwhile another program could take that port, or the kernel
//! assign it to an outgoing connection. A bound socket that does not listen prevents both, and still admits a
//! server with `SO_REUSEADDR`, which this socket sets too, as servers do.

use std::net::Ipv4Addr;

use anyhow::Context;
use tokio::net::TcpSocket;

#[derive(Debug)]
pub(super) struct Port {
    number: u16,
    _bound: TcpSocket,
}

impl Port {
    /// Holds a free port.
    pub(super) fn hold() -> anyhow::Result<Self> {
        let bind = || {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
            Ok::<_, std::io::Error>(Self { number: socket.local_addr()?.port(), _bound: socket })
        };
        bind().context("no port on 127.0.0.1 can be had")
    }

    /// Returns `127.0.0.1:PORT`.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", Ipv4Addr::LOCALHOST, self.number)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};

    use super::*;

    #[tokio::test]
    async fn servers_listen_again_and_again_on_a_port_that_is_held_and_that_others_do_not_get() {
        let port = Port::hold().unwrap();
        let address: SocketAddr = port.address().to_socket_addrs().unwrap().next().unwrap();
        // First, while no old connection can be in the way.
        TcpSocket::new_v4().unwrap().bind(address).unwrap_err();
        for _ in 0..3 {
            let server = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(address).unwrap();
            assert_eq!(server.accept().unwrap().1, client.local_addr().unwrap());
            drop((server, client));
            TcpStream::connect(address).unwrap_err();
        }
    }
}
