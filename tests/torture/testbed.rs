//! Placement of the processes: hosts, and the network between them, which can be broken pair by pair and direction by
//! direction.
//!
//! Two kinds: network namespaces, one a host, if the machine allows it ([`namespaces`]); else loopback, with
//! proxies in between ([`loopback`]). Faults are always given as a whole set, as they may overlap.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    process::Command,
};

pub(crate) use self::hub::Hub;
use self::{loopback::Loopback, namespaces::Namespaces};
use super::nemesis::LinkQuality;

mod hub;
mod loopback;
mod namespaces;

/// A host: candidates first, then members, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Host {
    Candidate(usize),
    Member(usize),
}

/// Pairs of hosts: packets from the first do not reach the second.
pub(crate) type Blocked = BTreeSet<(Host, Host)>;

/// Hosts with a bad link.
pub(crate) type BadLinks = BTreeMap<Host, LinkQuality>;

/// A listening address, and the address announced to the peers.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    pub(crate) client: String,
    pub(crate) peer: String,
    pub(crate) announced_peer: String,
}

#[derive(Debug)]
pub(crate) enum Testbed {
    Namespaces(Namespaces),
    Loopback(Loopback),
}

impl Testbed {
    /// Uses namespaces if this machine has them and `loopback` is not asked for.
    pub(crate) fn new(candidates: usize, members: usize, loopback: bool) -> Self {
        if !loopback {
            match Namespaces::new(candidates, members) {
                Ok(namespaces) => return Self::Namespaces(namespaces),
                Err(why) => eprintln!("no network namespaces, loopback instead: {why}"),
            }
        }
        Self::Loopback(Loopback::new(candidates, members))
    }

    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Namespaces(namespaces) => namespaces.describe(),
            Self::Loopback(_) => "loopback with proxies; no delay and loss".into(),
        }
    }

    /// A command on that host, which the kernel kills together with this process.
    pub(crate) fn command(&self, host: Host, program: impl AsRef<OsStr>) -> Command {
        match self {
            Self::Namespaces(namespaces) => namespaces.command(host, program.as_ref()),
            Self::Loopback(_) => crate::support::process::command(program),
        }
    }

    /// Notes a started process: loopback identifies peers by their processes.
    pub(crate) fn started(&self, host: Host, process: u32) {
        if let Self::Loopback(loopback) = self {
            loopback.started(host, process);
        }
    }

    /// A host's listening addresses: of a member or, without members, of a candidate.
    pub(crate) fn addresses(&self, host: Host) -> Addresses {
        match self {
            Self::Namespaces(_) => Namespaces::addresses(host),
            Self::Loopback(loopback) => loopback.addresses(host),
        }
    }

    /// etcd's endpoints for a candidate, as `--etcd` takes them.
    pub(crate) fn endpoints(&self, candidate: usize) -> String {
        match self {
            Self::Namespaces(namespaces) => namespaces.endpoints(),
            Self::Loopback(loopback) => loopback.endpoints(candidate),
        }
    }

    /// Applies these faults, and repairs all other links.
    pub(crate) fn shape(&mut self, blocked: &Blocked, bad_links: &BadLinks) {
        match self {
            Self::Namespaces(namespaces) => namespaces.shape(blocked, bad_links),
            Self::Loopback(loopback) => loopback.shape(blocked),
        }
    }

    /// Moves the calling thread to where all hosts are reachable, whatever is broken between them.
    pub(crate) fn enter(&self) {
        if let Self::Namespaces(namespaces) = self {
            namespaces.enter();
        }
    }
}
