//! Loopback, with a TCP proxy between each candidate and each member, and between peers: etcd's members
//! or, without those, the candidates.

use crate::support::{
    network::{Network, NetworkMember, ProcessId},
    port::ReservedPort,
    proxy::{Mode, Proxy},
};

use super::{Addresses, Blocked, Host};

#[derive(Debug)]
pub(crate) struct Loopback {
    /// The peers' hosts.
    hosts: Vec<Host>,
    sites: Vec<PeerPorts>,
    network: Network,
    /// `proxies[candidate][member]`.
    proxies: Vec<Vec<Proxy>>,
    blocked: Blocked,
}

#[derive(Debug)]
struct PeerPorts {
    client: ReservedPort,
    peer: ReservedPort,
    process: ProcessId,
}

impl Loopback {
    pub(super) fn new(candidates: usize, members: usize) -> Self {
        let site = |_: &Host| PeerPorts {
            client: ReservedPort::new(),
            peer: ReservedPort::new(),
            process: ProcessId::default(),
        };
        let hosts: Vec<Host> = match members {
            0 => (0..candidates).map(Host::Candidate).collect(),
            _ => (0..members).map(Host::Member).collect(),
        };
        let sites: Vec<PeerPorts> = hosts.iter().map(site).collect();
        let known = |site: &PeerPorts| NetworkMember {
            address: site.peer.address(),
            process_id: site.process.clone(),
        };
        let network = Network::start(&sites.iter().map(known).collect::<Vec<_>>());
        let to_all = |_| sites[..members].iter().map(|site| Proxy::start(&site.client.address())).collect();
        let proxies = (0..candidates).map(to_all).collect();
        Self { hosts, sites, network, proxies, blocked: Blocked::new() }
    }

    fn place(&self, host: Host) -> Option<usize> {
        self.hosts.iter().position(|peer| *peer == host)
    }

    pub(super) fn started(&self, host: Host, process: u32) {
        if let Some(place) = self.place(host) {
            self.sites[place].process.store(process, std::sync::atomic::Ordering::SeqCst);
        }
    }

    pub(super) fn addresses(&self, host: Host) -> Addresses {
        let place = self.place(host).expect("only peers are asked for their addresses");
        let site = &self.sites[place];
        Addresses {
            client: site.client.address(),
            peer: site.peer.address(),
            announced_peer: self.network.address(place).to_owned(),
        }
    }

    pub(super) fn endpoints(&self, candidate: usize) -> String {
        self.proxies[candidate].iter().map(Proxy::endpoint).collect::<Vec<_>>().join(",")
    }

    pub(super) fn shape(&mut self, blocked: &Blocked) {
        let before = std::mem::replace(&mut self.blocked, blocked.clone());
        // The connection's initiator, and the reply direction.
        let mode = |blocked: &Blocked, from: Host, to: Host| match (
            blocked.contains(&(from, to)),
            blocked.contains(&(to, from)),
        ) {
            (true, true) => Mode::Silence,
            (true, false) => Mode::SilenceRequests,
            (false, true) => Mode::SilenceReplies,
            (false, false) => Mode::Pass,
        };
        let changed = |from, to| {
            let new = mode(blocked, from, to);
            (new != mode(&before, from, to)).then_some(new)
        };
        for (candidate, proxies) in self.proxies.iter().enumerate() {
            for (member, proxy) in proxies.iter().enumerate() {
                if let Some(mode) = changed(Host::Candidate(candidate), Host::Member(member)) {
                    proxy.set(mode);
                }
            }
        }
        for (from, one) in self.hosts.iter().enumerate() {
            for (to, other) in self.hosts.iter().enumerate().filter(|(to, _)| *to != from) {
                if let Some(mode) = changed(*one, *other) {
                    self.network.set_link(from, to, mode);
                }
            }
        }
    }
}
