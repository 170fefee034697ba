//! An election of one contender with a leader and waiting candidates, ready for a fault.

use std::thread;

use crate::{
    Bench,
    claims::parse,
    contender::{Candidate, FOLLOWER, How, SETTLE, SOON, Stand, says_leader},
    programs,
    report::who::Who,
    support::{capture::Mark, clock::BootTime, etcd::Etcd, eventually::eventually, peers::Group, process},
    trials::election,
};

/// An election in which one leads and the others wait only for their turn.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) leader: Candidate,
    pub(crate) others: Vec<Candidate>,
    /// The peers' addresses and data.
    _group: Option<Group>,
}

impl Field {
    /// One leader and one waiting candidate on the run's etcd; or three peers.
    pub(crate) fn of(who: Who, bench: &Bench, ttl: u64, how: How) -> Self {
        Self::on(&bench.etcd, who, 2, ttl, how).0
    }

    /// So many candidates in all on this etcd. Peers are three.
    pub(crate) fn on(etcd: &Etcd, who: Who, count: usize, ttl: u64, how: How) -> (Self, Stand) {
        let stand = Stand { endpoint: etcd.endpoint(), election: election("field"), ttl };
        if who == Who::Peers {
            return (Self::of_peers(&stand.election, how), stand);
        }
        (Self::led_from(&stand.endpoint, etcd, &stand, who, count, how), stand)
    }

    /// One leader, which reaches etcd at this endpoint, and one waiting candidate.
    pub(crate) fn with_leader_at(endpoint: &str, bench: &Bench, who: Who, ttl: u64, how: How) -> Self {
        let stand = Stand { endpoint: bench.etcd.endpoint(), election: election("field"), ttl };
        Self::led_from(endpoint, &bench.etcd, &stand, who, 2, how)
    }

    fn led_from(endpoint: &str, etcd: &Etcd, stand: &Stand, who: Who, count: usize, how: How) -> Self {
        let leaders = Stand { endpoint: endpoint.to_owned(), ..stand.clone() };
        let leader = Candidate::start(who, &leaders, "first", how);
        leader.wait_until_leader();
        let others: Vec<_> = (2..=count)
            .map(|number| Candidate::start(who, stand, &format!("number {number}"), how))
            .collect();
        etcd.admin().wait_for_candidates(&stand.election, count, SOON);
        thread::sleep(SETTLE);
        Self { leader, others, _group: None }
    }

    fn of_peers(election: &str, how: How) -> Self {
        let group = Group::of(3);
        let mut servers: Vec<_> = (0..group.size())
            .map(|place| {
                let (name, list, data) = (group.name(place), group.list(), group.data(place));
                let data = data.to_str().expect("temporary paths are text");
                let (program, args) = match how {
                    How::Claims => (programs::library(), vec!["peer", name, &list, data, election]),
                    How::Quiet => {
                        let args = ["server", name, "--peers", &list, "--data", data];
                        let shared = ["--election", election, "--log-format", "plain"];
                        (programs::elect(), [&args[..], &shared].concat())
                    }
                };
                let args = args.into_iter().map(str::to_owned).collect();
                Candidate::of(Who::Peers, name, process::command(program), args)
            })
            .collect();
        let leading = eventually(SOON, "one of three peers to lead", || {
            servers.iter().position(|server| {
                server.process().lines().iter().any(|line| says_leader(&line.text, &server.name))
            })
        });
        let leader = servers.remove(leading);
        for follower in &servers {
            follower.process().wait_for_line(FOLLOWER, SOON);
        }
        thread::sleep(SETTLE);
        Self { leader, others: servers, _group: Some(group) }
    }

    /// The present ends of the others' output.
    pub(crate) fn marks(&self) -> Vec<Mark> {
        self.others.iter().map(Candidate::mark).collect()
    }

    /// Waits until one of the others claims leadership after `marks`; returns the moment of the claim.
    #[track_caller]
    pub(crate) fn wait_for_next(&self, marks: &[Mark]) -> BootTime {
        eventually(self.leader.patience(), "another one to lead", || {
            let led = self.others.iter().zip(marks).filter_map(|(candidate, mark)| {
                let lines = candidate.process().lines_since(*mark);
                let line = lines.into_iter().find(|line| says_leader(&line.text, &candidate.name))?;
                // A claim has its own stamp, which is older than its arrival.
                Some(parse(&line.text).map_or(line.at, |(nanos, _)| BootTime::from_nanos(nanos)))
            });
            led.min()
        })
    }

    /// Ends all remaining candidates, so that they take no time from the next trial.
    pub(crate) fn dismiss(mut self) {
        for candidate in &mut self.others {
            candidate.leave();
        }
        for candidate in &mut self.others {
            candidate.wait_gone();
        }
    }
}
