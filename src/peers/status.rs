//! What one server of a group knows of its election.

use std::time::{Duration, SystemTime};

use super::{SyncTimes, Timing, TimingAdvice};
use crate::{leadership::FencingToken, names::CandidateName};

/// What one server knows, at one moment. All durations count back from, or on from, that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who says this.
    pub name: CandidateName,
    /// Its term.
    pub term: u64,
    /// `follower`, `pre-candidate`, `candidate`, `leader`, or `caretaker`: one that leads nothing, and brings candidates up to
    /// date that have an older log.
    pub role: String,
    /// Whether a candidate stands there.
    pub standing: bool,
    /// Whom it knows to lead, by a committed entry of that server's term; `None` in a vacancy, as
    /// seen from there.
    pub leader: Option<KnownLeader>,
    /// The other members, sorted by name.
    pub contacts: Vec<PeerLink>,
    /// The timing that it was started with; `None` of a server that does not say so.
    pub timing: Option<Timing>,
    /// How long its disk takes to make writes durable. Of another server only the last, the worst and the usual are known.
    pub syncs: SyncTimes,
}

impl PeerStatus {
    /// The timing that the round trips and syncs need which are usual there, if its own does not serve them.
    pub fn timing_advice(&self) -> Option<TimingAdvice> {
        TimingAdvice::for_usual(self.timing.as_ref()?, &self.contacts, &self.syncs)
    }
}

/// A leader, as one server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownLeader {
    /// The member that leads.
    pub name: CandidateName,
    /// What it announces: its name, or what it last proclaimed; made fit to be shown.
    pub value: String,
    /// Its term.
    pub token: FencingToken,
    /// Since when, by its own wall clock.
    pub since: SystemTime,
    /// How this is known.
    pub evidence: Evidence,
}

/// How a server knows who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evidence {
    /// It is the leader itself, and certain for this long; zero if it is not certain any more.
    OwnClaim {
        /// What is left of the time that a majority has confirmed.
        certain: Duration,
    },
    /// It follows, and last heard the leader this long ago.
    Heartbeat {
        /// The time since.
        ago: Duration,
    },
}

/// A member's data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerDisk {
    /// The first eight digits of its id.
    pub id: String,
    /// Whether it votes, and what it has counts; else it is yet to take the place of another one.
    pub counts: bool,
}

/// Another member, as one server sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerLink {
    /// Its name.
    pub name: CandidateName,
    /// Whether there is a connection on which both have said who they are.
    pub connected: bool,
    /// Its data directory: by the group's log if one was ever replaced, and else the one that was met first.
    pub disk: Option<PeerDisk>,
    /// Another data directory that was refused under its name, last: the first eight digits of its id.
    pub refused: Option<String>,
    /// How long ago anything was heard from it; `None` if never.
    pub heard: Option<Duration>,
    /// How long a question and its answer take, usually (the median of the last few). `None` as long as too few are known.
    pub round_trip: Option<Duration>,
    /// Why there is no connection, if it is known. Only of a member of this process: others are not told.
    pub problem: Option<String>,
}
