//! An etcd cluster whose members fail one by one.

use std::{
    ops::{Index, IndexMut},
    time::Duration,
};

use super::{
    client::Admin,
    etcd::{Etcd, EtcdBuilder, EtcdVersion},
    eventually::eventually,
    network::Network,
    proxy::Mode,
};

/// Time for an election among etcd's members: 1 to 2 s, and again if the vote is split.
const ELECTION_DEADLINE: Duration = Duration::from_secs(30);

/// `cluster[i]` is a member, with all that [`Etcd`] can do.
#[derive(Debug)]
pub(crate) struct Cluster {
    members: Vec<Etcd>,
    isolated: Vec<bool>,
    network: Option<Network>,
}

impl Cluster {
    /// Starts `count` members and waits until each of them answers.
    #[track_caller]
    pub(crate) fn start(version: EtcdVersion, count: usize) -> Self {
        Self::start_with(Etcd::builder(version), count)
    }

    #[track_caller]
    pub(crate) fn start_with(how: EtcdBuilder, count: usize) -> Self {
        let (members, network) = how.start_members(count);
        Self { members, isolated: vec![false; count], network }
    }

    /// Starts a cluster whose members can be [isolated](Self::isolate).
    #[track_caller]
    pub(crate) fn start_partitionable(version: EtcdVersion, count: usize) -> Self {
        Self::start_with(Etcd::builder(version).partitionable(), count)
    }

    /// Cuts `index` off from the other members, silently and in both directions. Clients still reach all of them.
    #[track_caller]
    pub(crate) fn isolate(&mut self, index: usize) {
        self.network().set(index, Mode::Silence);
        self.isolated[index] = true;
    }

    /// Lets all members talk to each other again.
    pub(crate) fn heal(&mut self) {
        for index in 0..self.len() {
            self.network().set(index, Mode::Pass);
        }
        self.isolated.fill(false);
    }

    fn network(&self) -> &Network {
        self.network.as_ref().expect("isolation needs Cluster::start_partitionable")
    }

    /// The members that run and are not isolated.
    fn connected(&self) -> impl Iterator<Item = (usize, &Etcd)> {
        let members = self.members.iter().enumerate();
        members.filter(|&(index, member)| member.is_running() && !self.isolated[index])
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// `HOST:PORT` of each member.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Etcd::endpoint).collect()
    }

    /// All endpoints as `elect --etcd` takes them.
    pub(crate) fn endpoint_list(&self) -> String {
        self.endpoints().join(",")
    }

    /// A client of the first member that runs and is not isolated.
    #[track_caller]
    pub(crate) fn admin(&self) -> Admin {
        let (_, member) = self.connected().next().expect("a member runs");
        member.admin()
    }

    /// The member that reports itself as etcd's leader. Waits while there is none. An isolated one does
    /// not count.
    #[track_caller]
    pub(crate) fn leader_index(&self) -> usize {
        eventually(ELECTION_DEADLINE, "etcd's members to elect a leader", || {
            let reports = self.connected().filter_map(|(index, member)| {
                let status = member.admin().try_status().ok()?;
                Some((status.raft_term, status.leader_id == Some(status.member_id), index))
            });
            // A member frozen while it led may still report itself, with its old term.
            reports.max().filter(|&(_, leads, _)| leads).map(|(.., index)| index)
        })
    }

    /// Some member that is not etcd's leader, runs, and is not isolated.
    #[track_caller]
    pub(crate) fn follower_index(&self) -> usize {
        let leader = self.leader_index();
        self.connected().map(|(index, _)| index).find(|&index| index != leader).expect("a follower runs")
    }

    /// Makes `index` etcd's leader.
    #[track_caller]
    pub(crate) fn move_leader(&self, index: usize) {
        let leader = self.leader_index();
        if leader != index {
            let member_id = self[index].admin().status().member_id;
            self[leader].admin().move_leader(member_id);
        }
    }
}

impl Index<usize> for Cluster {
    type Output = Etcd;

    fn index(&self, index: usize) -> &Etcd {
        &self.members[index]
    }
}

impl IndexMut<usize> for Cluster {
    fn index_mut(&mut self, index: usize) -> &mut Etcd {
        &mut self.members[index]
    }
}
