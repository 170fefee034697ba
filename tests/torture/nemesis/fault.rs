//! What can go wrong: the faults of both backends, and whom they hit.
//!
//! Whom a fault hits may be a role, which is looked up when it comes.

use std::{fmt, time::Duration};

/// What a table calls the freezing of one member of etcd.
pub(crate) const MEMBER_FROZEN: &str = "member frozen";

/// A candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    /// Whoever is first in the queue by then, or leads the peers; somebody if it is not known.
    Leader,
    /// The one behind, or a follower.
    Next,
    /// The one behind that.
    Third,
    One(usize),
}

/// A member of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Member {
    /// The leader of etcd's own by then.
    Leading,
    One(usize),
}

/// A machine in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Site {
    Of(Whom),
    Etcd(Member),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL, and started anew when it is over.
    Kill(Whom),
    /// SIGSTOP, and SIGCONT when it is over.
    Freeze(Whom),
    /// SIGTERM, and started anew once it has stopped.
    Restart(Whom),
    /// The guard of an `elect run`: SIGKILL, once.
    KillGuard(Whom),
    /// The guard of an `elect run`: SIGSTOP, and SIGCONT when it is over.
    FreezeGuard(Whom),
    /// SIGKILL to an `elect run` and its guard, before either can see the other's end. The same as `Kill` where there is no
    /// guard.
    KillPair(Whom),
    /// SIGSTOP to both, and SIGCONT when it is over.
    FreezePair(Whom),
    /// SIGKILL to all candidates at once.
    KillAll,
    /// SIGKILL to the leader and as many others as it takes to leave a minority.
    KillMajority,
    /// SIGSTOP to all but the leader.
    FreezeOthers,

    /// Nothing to it or from it.
    CutOff(Site),
    /// Nothing gets out of it.
    Mute(Site),
    /// Nothing gets to it.
    Deaf(Site),
    /// Nothing from the first to the second.
    OneWay(Site, Site),
    /// Nothing between the two.
    Apart(Site, Site),
    /// Nothing between these two and all others.
    Exile(Whom, Whom),
    /// What it sends is slow and gets lost.
    Weather(Site, Weather),

    KillMember(Member),
    FreezeMember(Member),
    /// All members stand still at once.
    FreezeEtcd,
    /// Frozen for a moment, again and again: how a disk that is slow to sync looks to everybody else.
    Stutter(Site),
    /// etcd's leader hands over to another member.
    MoveLeader,

    /// A third party revokes a candidate's lease.
    Revoke(Whom),
    /// A third party deletes a candidate's key.
    Delete(Whom),
    /// History is compacted up to now.
    Compact,

    /// Somebody who is no member calls all others by its name, again and again for a moment.
    Stranger(Whom),
}

/// How bad a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weather {
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    /// Of a hundred packets.
    pub(crate) lost: u8,
}

impl Fault {
    /// What to call it in a table.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Kill(_) => "candidate killed",
            Self::Freeze(_) => "candidate frozen",
            Self::Restart(_) => "candidate restarted",
            Self::KillGuard(_) => "guard killed",
            Self::FreezeGuard(_) => "guard frozen",
            Self::KillPair(_) => "killed with its guard",
            Self::FreezePair(_) => "frozen with its guard",
            Self::KillAll => "all candidates killed",
            Self::KillMajority => "majority killed",
            Self::FreezeOthers => "all others frozen",
            Self::CutOff(_) | Self::Apart(..) | Self::Exile(..) => "partition, two-way",
            Self::Mute(_) | Self::Deaf(_) | Self::OneWay(..) => "partition, one-way",
            Self::Weather(..) => "delay and loss",
            Self::KillMember(_) => "member killed",
            Self::FreezeMember(_) => MEMBER_FROZEN,
            Self::FreezeEtcd => "all of etcd frozen",
            Self::Stutter(_) => "slow disk",
            Self::MoveLeader => "etcd's leader moved",
            Self::Revoke(_) => "lease revoked",
            Self::Delete(_) => "key deleted",
            Self::Compact => "compaction",
            Self::Stranger(_) => "stranger calls",
        }
    }

    /// Whether it is over as soon as it has happened.
    pub(crate) fn is_a_moment(self) -> bool {
        matches!(
            self,
            Self::KillGuard(_)
                | Self::MoveLeader
                | Self::Revoke(_)
                | Self::Delete(_)
                | Self::Compact
                | Self::Stranger(_)
        )
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => f.write_str("the leader"),
            Self::Next => f.write_str("the next in the queue"),
            Self::Third => f.write_str("the one behind that"),
            Self::One(place) => write!(f, "candidate {place}"),
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leading => f.write_str("etcd's leader"),
            Self::One(place) => write!(f, "member {place}"),
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(whom) => whom.fmt(f),
            Self::Etcd(member) => member.fmt(f),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(whom) => write!(f, "{whom} is killed"),
            Self::Freeze(whom) => write!(f, "{whom} is frozen"),
            Self::Restart(whom) => write!(f, "{whom} is told to stop"),
            Self::KillGuard(whom) => write!(f, "the guard of {whom} is killed"),
            Self::FreezeGuard(whom) => write!(f, "the guard of {whom} is frozen"),
            Self::KillPair(whom) => write!(f, "{whom} and its guard are killed"),
            Self::FreezePair(whom) => write!(f, "{whom} and its guard are frozen"),
            Self::KillAll => f.write_str("all candidates are killed"),
            Self::KillMajority => f.write_str("a majority is killed, the leader with it"),
            Self::FreezeOthers => f.write_str("all but the leader are frozen"),
            Self::CutOff(site) => write!(f, "{site} is cut off"),
            Self::Mute(site) => write!(f, "nothing gets out of {site}"),
            Self::Deaf(site) => write!(f, "nothing gets to {site}"),
            Self::OneWay(from, to) => write!(f, "nothing gets from {from} to {to}"),
            Self::Apart(one, other) => write!(f, "nothing gets through between {one} and {other}"),
            Self::Exile(one, other) => write!(f, "{one} and {other} are cut off from the rest"),
            Self::Weather(site, Weather { delay, jitter, lost }) => {
                write!(f, "what {site} sends takes {delay:?} ± {jitter:?} longer, {lost} % of it is lost")
            }
            Self::KillMember(member) => write!(f, "{member} is killed"),
            Self::FreezeMember(member) => write!(f, "{member} is frozen"),
            Self::FreezeEtcd => f.write_str("all of etcd is frozen"),
            Self::Stutter(site) => write!(f, "{site} stutters"),
            Self::MoveLeader => f.write_str("etcd's leader hands over"),
            Self::Revoke(whom) => write!(f, "the lease of {whom} is revoked by somebody else"),
            Self::Delete(whom) => write!(f, "the key of {whom} is deleted by somebody else"),
            Self::Compact => f.write_str("history is compacted"),
            Self::Stranger(whom) => write!(f, "a stranger calls all others as {whom}"),
        }
    }
}
