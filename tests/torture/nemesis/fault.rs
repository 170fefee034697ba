//! The faults of both backends, and their targets.
//!
//! A target may be a role, which is resolved when the fault begins.

use std::{fmt, time::Duration};

/// The table's name for the freezing of one member of etcd.
pub(crate) const MEMBER_FROZEN: &str = "member frozen";

/// A candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The present first in the queue, or leader of the peers; any candidate if it is not known.
    Leader,
    /// The next one in the queue, or a follower.
    Next,
    /// The one behind that.
    Third,
    One(usize),
}

/// A member of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberTarget {
    /// etcd's present leader.
    Leading,
    One(usize),
}

/// A host in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostTarget {
    Of(Target),
    Etcd(MemberTarget),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL, and a restart at the end.
    Kill(Target),
    /// SIGSTOP, and SIGCONT at the end.
    Freeze(Target),
    /// SIGTERM, and a restart once it has exited.
    Restart(Target),
    /// The guard of an `elect run`: SIGKILL, once.
    KillGuard(Target),
    /// The guard of an `elect run`: SIGSTOP, and SIGCONT at the end.
    FreezeGuard(Target),
    /// SIGKILL to an `elect run` and its guard, before either can see the other's end. The same as `Kill` without a
    /// guard.
    KillPair(Target),
    /// SIGSTOP to both, and SIGCONT at the end.
    FreezePair(Target),
    /// SIGKILL to all candidates at once.
    KillAll,
    /// SIGKILL to the leader and as many others as it takes to leave a minority.
    KillMajority,
    /// SIGSTOP to all but the leader.
    FreezeOthers,

    /// No packets to it or from it.
    CutOff(HostTarget),
    /// No packets from it.
    Mute(HostTarget),
    /// No packets to it.
    Deaf(HostTarget),
    /// No packets from the first to the second.
    OneWay(HostTarget, HostTarget),
    /// No packets between the two.
    Apart(HostTarget, HostTarget),
    /// No packets between these two and all others.
    Exile(Target, Target),
    /// Its packets are delayed and dropped.
    BadLink(HostTarget, LinkQuality),

    KillMember(MemberTarget),
    FreezeMember(MemberTarget),
    /// All members are frozen at once.
    FreezeEtcd,
    /// Frozen for a moment, repeatedly: to the others this looks like a disk that syncs slowly.
    Stutter(HostTarget),
    /// etcd's leader hands over to another member.
    MoveLeader,

    /// A third party revokes a candidate's lease.
    Revoke(Target),
    /// A third party deletes a candidate's key.
    Delete(Target),
    /// The history is compacted.
    Compact,

    /// A stranger calls all other members under this member's name, repeatedly for a moment.
    Stranger(Target),
}

/// The quality of a bad link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkQuality {
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    /// Percent of packets.
    pub(crate) lost: u8,
}

impl Fault {
    /// Its name in tables.
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
            Self::BadLink(..) => "delay and loss",
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

    /// Reports whether it is momentary.
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

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => f.write_str("the leader"),
            Self::Next => f.write_str("the next in the queue"),
            Self::Third => f.write_str("the one behind that"),
            Self::One(place) => write!(f, "candidate {place}"),
        }
    }
}

impl fmt::Display for MemberTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leading => f.write_str("etcd's leader"),
            Self::One(place) => write!(f, "member {place}"),
        }
    }
}

impl fmt::Display for HostTarget {
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
            Self::BadLink(site, LinkQuality { delay, jitter, lost }) => {
                write!(f, "what {site} sends takes {delay:?} ± {jitter:?} longer, {lost} % of it is lost")
            }
            Self::KillMember(member) => write!(f, "{member} is killed"),
            Self::FreezeMember(member) => write!(f, "{member} is frozen"),
            Self::FreezeEtcd => f.write_str("all of etcd is frozen"),
            Self::Stutter(site) => write!(f, "{site} stutters"),
            Self::MoveLeader => f.write_str("etcd's leader hands over"),
            Self::Revoke(whom) => write!(f, "the lease of {whom} is revoked by a third party"),
            Self::Delete(whom) => write!(f, "the key of {whom} is deleted by a third party"),
            Self::Compact => f.write_str("history is compacted"),
            Self::Stranger(whom) => write!(f, "a stranger calls all others as {whom}"),
        }
    }
}
