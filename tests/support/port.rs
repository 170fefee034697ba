//! Ports that stay reserved while nothing listens on them.
//!
//! A test kills a server and starts it again on the same port. Meanwhile that port is free, and a port that
//! the kernel chose (bind to port 0) can be taken: by a parallel test, as the source port of any outgoing
//! connection, or by a client whose connection attempts to the dead port meet themselves (a TCP
//! self-connect). So these ports lie below the range that Linux chooses from, and each is reserved against
//! our own tests by a UDP socket with the same number: TCP does not see it, no two processes can hold it, and
//! the kernel frees it with its owner.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

/// Above the usual services, below 32768, where Linux begins to choose ports by default.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// Far more than needed, even if hundreds of the 17,000 are in use.
const ATTEMPTS: usize = 1_000;

/// A TCP port on a loopback address, 127.0.0.1 by default, that no other `ReservedPort` on this machine has.
#[derive(Debug)]
pub(crate) struct ReservedPort {
    host: Ipv4Addr,
    number: u16,
    _reservation: UdpSocket,
}

impl ReservedPort {
    pub(crate) fn new() -> Self {
        let any = || Self::reserve(Ipv4Addr::LOCALHOST, fastrand::u16(RANGE));
        (0..ATTEMPTS).find_map(|_| any()).expect("one of 17,000 ports is free")
    }

    /// The same port on each of these addresses.
    pub(crate) fn same_on<const N: usize>(hosts: [Ipv4Addr; N]) -> [Self; N] {
        let any = || {
            let number = fastrand::u16(RANGE);
            let reserved: Vec<_> = hosts.iter().filter_map(|host| Self::reserve(*host, number)).collect();
            reserved.try_into().ok()
        };
        (0..ATTEMPTS).find_map(|_| any()).expect("one of 17,000 ports is free on all of them")
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// `HOST:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.number)
    }

    fn reserve(host: Ipv4Addr, number: u16) -> Option<Self> {
        let reservation = UdpSocket::bind((host, number)).ok()?;
        // A program outside these tests may listen there.
        TcpListener::bind((host, number)).ok()?;
        Some(Self { host, number, _reservation: reservation })
    }
}
