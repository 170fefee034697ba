//! The targets of faults, by the election's last observed state, and a fault's effect on them.

use super::{
    backend::Backend,
    candidates::{CandidateKind, CandidateProcess},
    nemesis::{Fault, HostTarget, LinkQuality, MemberTarget, Target},
    system::ElectionState,
    testbed::{Blocked, Host},
};

/// An active fault, with the processes it affects.
#[derive(Debug, Clone)]
pub(crate) enum Affected {
    Killed(Vec<usize>),
    Frozen(Vec<Host>),
    Restarting(usize),
    GuardKilled(usize),
    GuardFrozen(usize),
    PairKilled(usize),
    PairFrozen(usize),
    Blocked(Blocked),
    BadLink(Host, LinkQuality),
    MemberKilled(usize),
    Stutter(Host),
    /// No host: the fault affects the system, at once, or nothing at all.
    Nothing,
}

/// The possible targets.
pub(crate) struct Targets<'a> {
    pub(crate) on: Backend,
    pub(crate) candidates: &'a [CandidateProcess],
    pub(crate) sight: &'a ElectionState,
}

/// The candidate whose guard, or whose key or lease, is affected.
pub(crate) fn whom(fault: Fault) -> Option<Target> {
    match fault {
        Fault::KillGuard(whom) | Fault::Revoke(whom) | Fault::Delete(whom) | Fault::Stranger(whom) => {
            Some(whom)
        }
        _ => None,
    }
}

impl Targets<'_> {
    /// The affected processes, by name.
    pub(crate) fn told(&self, fault: Fault, hit: &Affected) -> String {
        let name = |place: &usize| self.host_name(Host::Candidate(*place));
        let names =
            |hosts: &[Host]| hosts.iter().map(|host| self.host_name(*host)).collect::<Vec<_>>().join(", ");
        match hit {
            Affected::Restarting(place)
            | Affected::GuardFrozen(place)
            | Affected::GuardKilled(place)
            | Affected::PairKilled(place)
            | Affected::PairFrozen(place) => format!("{fault} ({})", name(place)),
            Affected::Killed(places) => {
                format!("{fault} ({})", places.iter().map(name).collect::<Vec<_>>().join(", "))
            }
            Affected::Frozen(hosts) => format!("{fault} ({})", names(hosts)),
            Affected::MemberKilled(member) => format!("{fault} ({})", self.host_name(Host::Member(*member))),
            Affected::BadLink(host, _) | Affected::Stutter(host) => {
                format!("{fault} ({})", self.host_name(*host))
            }
            Affected::Blocked(_) => {
                let hosts: Vec<Host> = sites(fault).map(|site| self.host(site)).collect();
                format!("{fault} ({})", names(&hosts))
            }
            Affected::Nothing => match whom(fault) {
                Some(whom) => format!("{fault} ({})", name(&self.place(whom))),
                None => fault.to_string(),
            },
        }
    }

    fn host_name(&self, host: Host) -> String {
        match host {
            Host::Candidate(place) => self.candidates[place].name.clone(),
            Host::Member(place) => format!("m{place}"),
        }
    }

    /// The candidate that this target is at present.
    pub(crate) fn place(&self, whom: Target) -> usize {
        let ElectionState { leader, there, .. } = self.sight;
        let at = |name: Option<&String>| {
            self.candidates.iter().position(|candidate| Some(&candidate.name) == name)
        };
        let behind = |so_many| there.iter().filter(|name| Some(*name) != leader.as_ref()).nth(so_many);
        match whom {
            Target::Leader => at(leader.as_ref()).unwrap_or(0),
            Target::Next => at(behind(0)).unwrap_or(1),
            Target::Third => at(behind(1)).unwrap_or(2),
            Target::One(place) => place,
        }
    }

    fn member(&self, member: MemberTarget) -> usize {
        match member {
            MemberTarget::Leading => self.sight.leading_member.unwrap_or(0),
            MemberTarget::One(place) => place,
        }
    }

    fn host(&self, site: HostTarget) -> Host {
        match site {
            HostTarget::Of(whom) => Host::Candidate(self.place(whom)),
            HostTarget::Etcd(member) => Host::Member(self.member(member)),
        }
    }

    fn hosts(&self) -> impl Iterator<Item = Host> + use<> {
        (0..self.on.candidates().len()).map(Host::Candidate).chain((0..self.on.members()).map(Host::Member))
    }

    pub(crate) fn resolve(&self, fault: Fault) -> Affected {
        let others = |host: Host| self.hosts().filter(move |other| *other != host);
        match fault {
            Fault::Kill(whom) => Affected::Killed(vec![self.place(whom)]),
            Fault::Freeze(whom) => frozen([self.place(whom)]),
            Fault::KillPair(whom) => match self.place(whom) {
                place if self.has_guard(place) => Affected::PairKilled(place),
                place => Affected::Killed(vec![place]),
            },
            Fault::FreezePair(whom) => match self.place(whom) {
                place if self.has_guard(place) => Affected::PairFrozen(place),
                place => frozen([place]),
            },
            Fault::KillAll => Affected::Killed((0..self.candidates.len()).collect()),
            Fault::KillMajority => {
                Affected::Killed(self.after_leader().take(self.candidates.len() / 2 + 1).collect())
            }
            Fault::FreezeOthers => frozen(self.after_leader().skip(1)),
            Fault::Restart(whom) => Affected::Restarting(self.place(whom)),
            Fault::KillGuard(whom) => match self.place(whom) {
                place if self.has_guard(place) => Affected::GuardKilled(place),
                _ => Affected::Nothing,
            },
            Fault::FreezeGuard(whom) => match self.place(whom) {
                place if self.has_guard(place) => Affected::GuardFrozen(place),
                _ => Affected::Nothing,
            },
            Fault::CutOff(site) => {
                let host = self.host(site);
                Affected::Blocked(others(host).flat_map(|other| [(host, other), (other, host)]).collect())
            }
            Fault::Mute(site) => {
                let host = self.host(site);
                Affected::Blocked(others(host).map(|other| (host, other)).collect())
            }
            Fault::Deaf(site) => {
                let host = self.host(site);
                Affected::Blocked(others(host).map(|other| (other, host)).collect())
            }
            Fault::OneWay(from, to) => Affected::Blocked([(self.host(from), self.host(to))].into()),
            Fault::Apart(one, other) => {
                let (one, other) = (self.host(one), self.host(other));
                Affected::Blocked([(one, other), (other, one)].into())
            }
            Fault::Exile(one, other) => {
                let pair = [self.place(one), self.place(other)].map(Host::Candidate);
                let rest = || self.hosts().filter(|host| !pair.contains(host));
                let cut =
                    pair.iter().flat_map(|exiled| rest().flat_map(|host| [(*exiled, host), (host, *exiled)]));
                Affected::Blocked(cut.collect())
            }
            Fault::BadLink(site, quality) => Affected::BadLink(self.host(site), quality),
            Fault::Stutter(site) => Affected::Stutter(self.host(site)),
            Fault::KillMember(member) => Affected::MemberKilled(self.member(member)),
            Fault::FreezeMember(member) => Affected::Frozen(vec![Host::Member(self.member(member))]),
            Fault::FreezeEtcd => Affected::Frozen((0..self.on.members()).map(Host::Member).collect()),
            Fault::MoveLeader | Fault::Revoke(_) | Fault::Delete(_) | Fault::Compact | Fault::Stranger(_) => {
                Affected::Nothing
            }
        }
    }

    /// All candidates, the leader first.
    fn after_leader(&self) -> impl Iterator<Item = usize> + use<> {
        let count = self.candidates.len();
        let leader = self.place(Target::Leader);
        (leader..leader + count).map(move |place| place % count)
    }

    /// Reports whether it is an `elect run` with an unaffected guard.
    fn has_guard(&self, place: usize) -> bool {
        self.candidates[place].kind == CandidateKind::Run && self.candidates[place].has_whole_guard()
    }
}

fn frozen(places: impl IntoIterator<Item = usize>) -> Affected {
    Affected::Frozen(places.into_iter().map(Host::Candidate).collect())
}

/// The hosts between which the network is broken.
fn sites(fault: Fault) -> impl Iterator<Item = HostTarget> {
    let (one, other) = match fault {
        Fault::CutOff(site) | Fault::Mute(site) | Fault::Deaf(site) => (Some(site), None),
        Fault::OneWay(from, to) | Fault::Apart(from, to) => (Some(from), Some(to)),
        Fault::Exile(one, other) => (Some(HostTarget::Of(one)), Some(HostTarget::Of(other))),
        _ => (None, None),
    };
    one.into_iter().chain(other)
}
