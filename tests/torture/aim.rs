//! The targets of faults, by the election's last observed state, and a fault's effect on them.

use super::{
    arena::{Blocked, Host},
    backend::Backend,
    cast::{Candidate, Kind},
    ground::Sight,
    nemesis::{Fault, Member, Site, Weather, Whom},
};

/// An active fault, with the processes it affects.
#[derive(Debug, Clone)]
pub(crate) enum Hit {
    Killed(Vec<usize>),
    Frozen(Vec<Host>),
    Restarting(usize),
    GuardKilled(usize),
    GuardFrozen(usize),
    PairKilled(usize),
    PairFrozen(usize),
    Blocked(Blocked),
    Weather(Host, Weather),
    MemberKilled(usize),
    Stutter(Host),
    /// No host: the fault affects the system, at once, or nothing at all.
    Nothing,
}

/// The possible targets.
pub(crate) struct Aim<'a> {
    pub(crate) on: Backend,
    pub(crate) candidates: &'a [Candidate],
    pub(crate) sight: &'a Sight,
}

/// The candidate whose guard, or whose key or lease, is affected.
pub(crate) fn whom(fault: Fault) -> Option<Whom> {
    match fault {
        Fault::KillGuard(whom) | Fault::Revoke(whom) | Fault::Delete(whom) | Fault::Stranger(whom) => {
            Some(whom)
        }
        _ => None,
    }
}

impl Aim<'_> {
    /// The affected processes, by name.
    pub(crate) fn told(&self, fault: Fault, hit: &Hit) -> String {
        let name = |place: &usize| self.host_name(Host::Candidate(*place));
        let names =
            |hosts: &[Host]| hosts.iter().map(|host| self.host_name(*host)).collect::<Vec<_>>().join(", ");
        match hit {
            Hit::Restarting(place)
            | Hit::GuardFrozen(place)
            | Hit::GuardKilled(place)
            | Hit::PairKilled(place)
            | Hit::PairFrozen(place) => format!("{fault} ({})", name(place)),
            Hit::Killed(places) => {
                format!("{fault} ({})", places.iter().map(name).collect::<Vec<_>>().join(", "))
            }
            Hit::Frozen(hosts) => format!("{fault} ({})", names(hosts)),
            Hit::MemberKilled(member) => format!("{fault} ({})", self.host_name(Host::Member(*member))),
            Hit::Weather(host, _) | Hit::Stutter(host) => format!("{fault} ({})", self.host_name(*host)),
            Hit::Blocked(_) => {
                let hosts: Vec<Host> = sites(fault).map(|site| self.host(site)).collect();
                format!("{fault} ({})", names(&hosts))
            }
            Hit::Nothing => match whom(fault) {
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
    pub(crate) fn place(&self, whom: Whom) -> usize {
        let Sight { leader, there, .. } = self.sight;
        let at = |name: Option<&String>| {
            self.candidates.iter().position(|candidate| Some(&candidate.name) == name)
        };
        let behind = |so_many| there.iter().filter(|name| Some(*name) != leader.as_ref()).nth(so_many);
        match whom {
            Whom::Leader => at(leader.as_ref()).unwrap_or(0),
            Whom::Next => at(behind(0)).unwrap_or(1),
            Whom::Third => at(behind(1)).unwrap_or(2),
            Whom::One(place) => place,
        }
    }

    fn member(&self, member: Member) -> usize {
        match member {
            Member::Leading => self.sight.leading_member.unwrap_or(0),
            Member::One(place) => place,
        }
    }

    fn host(&self, site: Site) -> Host {
        match site {
            Site::Of(whom) => Host::Candidate(self.place(whom)),
            Site::Etcd(member) => Host::Member(self.member(member)),
        }
    }

    fn hosts(&self) -> impl Iterator<Item = Host> + use<> {
        (0..self.on.cast().len()).map(Host::Candidate).chain((0..self.on.members()).map(Host::Member))
    }

    pub(crate) fn resolve(&self, fault: Fault) -> Hit {
        let others = |host: Host| self.hosts().filter(move |other| *other != host);
        match fault {
            Fault::Kill(whom) => Hit::Killed(vec![self.place(whom)]),
            Fault::Freeze(whom) => frozen([self.place(whom)]),
            Fault::KillPair(whom) => match self.place(whom) {
                place if self.has_guard(place) => Hit::PairKilled(place),
                place => Hit::Killed(vec![place]),
            },
            Fault::FreezePair(whom) => match self.place(whom) {
                place if self.has_guard(place) => Hit::PairFrozen(place),
                place => frozen([place]),
            },
            Fault::KillAll => Hit::Killed((0..self.candidates.len()).collect()),
            Fault::KillMajority => {
                Hit::Killed(self.after_leader().take(self.candidates.len() / 2 + 1).collect())
            }
            Fault::FreezeOthers => frozen(self.after_leader().skip(1)),
            Fault::Restart(whom) => Hit::Restarting(self.place(whom)),
            Fault::KillGuard(whom) => match self.place(whom) {
                place if self.has_guard(place) => Hit::GuardKilled(place),
                _ => Hit::Nothing,
            },
            Fault::FreezeGuard(whom) => match self.place(whom) {
                place if self.has_guard(place) => Hit::GuardFrozen(place),
                _ => Hit::Nothing,
            },
            Fault::CutOff(site) => {
                let host = self.host(site);
                Hit::Blocked(others(host).flat_map(|other| [(host, other), (other, host)]).collect())
            }
            Fault::Mute(site) => {
                let host = self.host(site);
                Hit::Blocked(others(host).map(|other| (host, other)).collect())
            }
            Fault::Deaf(site) => {
                let host = self.host(site);
                Hit::Blocked(others(host).map(|other| (other, host)).collect())
            }
            Fault::OneWay(from, to) => Hit::Blocked([(self.host(from), self.host(to))].into()),
            Fault::Apart(one, other) => {
                let (one, other) = (self.host(one), self.host(other));
                Hit::Blocked([(one, other), (other, one)].into())
            }
            Fault::Exile(one, other) => {
                let pair = [self.place(one), self.place(other)].map(Host::Candidate);
                let rest = || self.hosts().filter(|host| !pair.contains(host));
                let cut =
                    pair.iter().flat_map(|exiled| rest().flat_map(|host| [(*exiled, host), (host, *exiled)]));
                Hit::Blocked(cut.collect())
            }
            Fault::Weather(site, weather) => Hit::Weather(self.host(site), weather),
            Fault::Stutter(site) => Hit::Stutter(self.host(site)),
            Fault::KillMember(member) => Hit::MemberKilled(self.member(member)),
            Fault::FreezeMember(member) => Hit::Frozen(vec![Host::Member(self.member(member))]),
            Fault::FreezeEtcd => Hit::Frozen((0..self.on.members()).map(Host::Member).collect()),
            Fault::MoveLeader | Fault::Revoke(_) | Fault::Delete(_) | Fault::Compact | Fault::Stranger(_) => {
                Hit::Nothing
            }
        }
    }

    /// All candidates, the leader first.
    fn after_leader(&self) -> impl Iterator<Item = usize> + use<> {
        let count = self.candidates.len();
        let leader = self.place(Whom::Leader);
        (leader..leader + count).map(move |place| place % count)
    }

    /// Reports whether it is an `elect run` with an unaffected guard.
    fn has_guard(&self, place: usize) -> bool {
        self.candidates[place].kind == Kind::Run && self.candidates[place].has_whole_guard()
    }
}

fn frozen(places: impl IntoIterator<Item = usize>) -> Hit {
    Hit::Frozen(places.into_iter().map(Host::Candidate).collect())
}

/// The hosts between which the network is broken.
fn sites(fault: Fault) -> impl Iterator<Item = Site> {
    let (one, other) = match fault {
        Fault::CutOff(site) | Fault::Mute(site) | Fault::Deaf(site) => (Some(site), None),
        Fault::OneWay(from, to) | Fault::Apart(from, to) => (Some(from), Some(to)),
        Fault::Exile(one, other) => (Some(Site::Of(one)), Some(Site::Of(other))),
        _ => (None, None),
    };
    one.into_iter().chain(other)
}
