//! Loopback, with a TCP proxy between each candidate and each member, and between members.

use crate::support::{
    network::{Member, Network, ProcessId},
    port::ReservedPort,
    proxy::{Mode, Proxy},
};

use super::{Addresses, Blocked, Host};

#[derive(Debug)]
pub(crate) struct Loopback {
    members: Vec<Site>,
    network: Network,
    /// `proxies[candidate][member]`.
    proxies: Vec<Vec<Proxy>>,
    blocked: Blocked,
}

#[derive(Debug)]
struct Site {
    client: ReservedPort,
    peer: ReservedPort,
    process: ProcessId,
}

impl Loopback {
    pub(super) fn new(candidates: usize, members: usize) -> Self {
        let site = |_| Site {
            client: ReservedPort::new(),
            peer: ReservedPort::new(),
            process: ProcessId::default(),
        };
        let members: Vec<Site> = (0..members).map(site).collect();
        let known = |site: &Site| Member { address: site.peer.address(), process_id: site.process.clone() };
        let network = Network::start(&members.iter().map(known).collect::<Vec<_>>());
        let to_all = |_| members.iter().map(|site| Proxy::start(&site.client.address())).collect();
        let proxies = (0..candidates).map(to_all).collect();
        Self { members, network, proxies, blocked: Blocked::new() }
    }

    pub(super) fn started(&self, member: usize, process: u32) {
        self.members[member].process.store(process, std::sync::atomic::Ordering::SeqCst);
    }

    pub(super) fn member(&self, member: usize) -> Addresses {
        let site = &self.members[member];
        Addresses {
            client: site.client.address(),
            peer: site.peer.address(),
            announced_peer: self.network.address(member).to_owned(),
        }
    }

    pub(super) fn endpoints(&self, candidate: usize) -> String {
        self.proxies[candidate].iter().map(Proxy::endpoint).collect::<Vec<_>>().join(",")
    }

    pub(super) fn shape(&mut self, blocked: &Blocked) {
        let before = std::mem::replace(&mut self.blocked, blocked.clone());
        // Of a connection: from whoever opens it, and back.
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
        for from in 0..self.members.len() {
            for to in (0..self.members.len()).filter(|to| *to != from) {
                if let Some(mode) = changed(Host::Member(from), Host::Member(to)) {
                    self.network.set_link(from, to, mode);
                }
            }
        }
    }
}
