//! The network between the members of one cluster, which can be partitioned.
//!
//! Each member announces one of our ports in place of its own, and we forward what its peers send there. The
//! data does not name its sender: lease renewals that a follower forwards to the leader carry none. So the
//! kernel is asked which member's process owns the other end of each connection. A link is thus known by
//! sender and receiver, and a member can be cut off in both directions while the others talk.
//!
//! A cut link is silent, not closed, as in a real partition.

use std::{
    fs,
    net::SocketAddr,
    os::unix::ffi::OsStrExt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use super::{
    port::ReservedPort,
    proxy::{self, Mode},
    runtime::{self, wait_for},
};

/// The process id of a member; changes when it is restarted.
pub(crate) type ProcessId = Arc<AtomicU32>;

/// A member's addresses and process.
#[derive(Clone, Debug)]
pub(crate) struct NetworkMember {
    /// Its real address for peers.
    pub(crate) address: String,
    pub(crate) process_id: ProcessId,
}

#[derive(Debug)]
pub(crate) struct Network {
    /// Announced to the peers, by member.
    addresses: Vec<String>,
    /// `links[to][from]`.
    links: Vec<Vec<watch::Sender<Mode>>>,
}

impl Network {
    pub(crate) fn start(members: &[NetworkMember]) -> Self {
        let processes: Vec<_> = members.iter().map(|member| member.process_id.clone()).collect();
        let mut network = Self { addresses: Vec::new(), links: Vec::new() };
        for member in members {
            let port = ReservedPort::new();
            let (links, modes) = members.iter().map(|_| watch::channel(Mode::Pass)).unzip();
            network.addresses.push(port.address());
            network.links.push(links);
            let address = port.address();
            let listener = wait_for(async move { TcpListener::bind(address).await });
            let gate = Gate {
                listener: listener.expect("the port is reserved for this network"),
                target: member.address.parse().expect("a member listens on an IP address and a port"),
                processes: processes.clone(),
                modes,
                _port: port,
            };
            runtime::handle().spawn(gate.serve());
        }
        network
    }

    /// The address to which the peers of `member` send.
    pub(crate) fn address(&self, member: usize) -> &str {
        &self.addresses[member]
    }

    /// Sets the connections that `from` opens to `to`.
    pub(crate) fn set_link(&self, from: usize, to: usize, mode: Mode) {
        self.links[to][from].send_replace(mode);
    }

    /// Sets both directions between `member` and every other one.
    pub(crate) fn set(&self, member: usize, mode: Mode) {
        for other in (0..self.links.len()).filter(|&other| other != member) {
            self.links[member][other].send_replace(mode);
            self.links[other][member].send_replace(mode);
        }
    }
}

/// The task that accepts peers' connections to one member.
struct Gate {
    listener: TcpListener,
    target: SocketAddr,
    processes: Vec<ProcessId>,
    /// By sender.
    modes: Vec<watch::Receiver<Mode>>,
    _port: ReservedPort,
}

impl Gate {
    /// Serves until the [`Network`] is dropped.
    async fn serve(self) {
        let mut connections = JoinSet::new();
        let mut dropped = self.modes[0].clone();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => {
                    let Ok((stream, from)) = accepted else { continue };
                    // A client that is no member, or has already closed, is dropped.
                    let Some(sender) = self.sender(from) else { continue };
                    let connection = proxy::ProxiedConnection::new(stream);
                    let modes = self.modes[sender].clone();
                    connections.spawn(proxy::serve_connection(connection, self.target, modes, Arc::default()));
                }
                Some(_ended) = connections.join_next() => {}
                Err(_) = dropped.changed() => return,
            }
        }
    }

    /// The member whose process has the other end of the connection from `from`.
    fn sender(&self, from: SocketAddr) -> Option<usize> {
        let to = self.listener.local_addr().ok()?;
        let socket = format!("socket:[{}]", inode(from, to)?);
        self.processes.iter().position(|process| owns(process.load(SeqCst), &socket))
    }
}

/// The inode of the socket at `local` that is connected to `remote`, both IPv4.
fn inode(local: SocketAddr, remote: SocketAddr) -> Option<String> {
    let (local, remote) = (as_in_proc(local)?, as_in_proc(remote)?);
    let connections = fs::read_to_string("/proc/net/tcp").ok()?;
    connections.lines().find_map(|line| {
        // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields.get(1)? == &local && fields.get(2)? == &remote)
            .then(|| fields.get(9).map(ToString::to_string))?
    })
}

/// An address as /proc/net/tcp prints it: the IP address is one number in the machine's byte order.
fn as_in_proc(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port()))
}

/// Reports whether the process has `socket` open.
fn owns(process: u32, socket: &str) -> bool {
    let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
    targets.any(|target| target.as_os_str().as_bytes() == socket.as_bytes())
}
