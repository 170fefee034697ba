//! One server's view of the election.

use std::time::{Duration, SystemTime};

use super::{SyncTimes, Timing, TimingAdvice};
use crate::{
    choosing::{CandidateProfile, Controls},
    leadership::FencingToken,
    names::CandidateName,
};

/// One server's view of the election, at one time. All durations count from that time.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// The server.
    pub name: CandidateName,
    /// Its term.
    pub term: u64,
    /// `follower`, `pre-candidate`, `candidate`, `leader`, or `caretaker`: a server that leads nothing, and brings
    /// candidates with an older log up to date.
    pub role: String,
    /// True if a candidate takes part there.
    pub standing: bool,
    /// The leader, by a committed entry of its term; `None` in a vacancy, by this server's knowledge.
    pub leader: Option<KnownLeader>,
    /// The other members, sorted by name.
    pub links: Vec<PeerLink>,
    /// The timing that it was started with; `None` if it does not report that.
    pub timing: Option<Timing>,
    /// Times of its disk for durable writes. Of another server only the last, the worst and the usual are known.
    pub syncs: SyncTimes,
    /// Its candidate's data about itself, made fit to be shown.
    pub profile: CandidateProfile,
    /// The standing orders that are committed, as far as it knows.
    pub controls: Controls,
}

impl PeerStatus {
    /// A follower of that name that knows no leader and no other member: for tests of programs that show a status.
    pub fn new(name: CandidateName) -> Self {
        Self {
            name,
            term: 0,
            role: "follower".to_owned(),
            standing: false,
            leader: None,
            links: Vec::new(),
            timing: None,
            syncs: SyncTimes::default(),
            profile: CandidateProfile::default(),
            controls: Controls::default(),
        }
    }

    /// The timing that its usual round trips and syncs need, if its own does not suit them.
    pub fn timing_advice(&self) -> Option<TimingAdvice> {
        TimingAdvice::for_usual(self.timing.as_ref()?, &self.links, &self.syncs)
    }
}

/// A leader, as one server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KnownLeader {
    /// The leader's name.
    pub name: CandidateName,
    /// Its announced value: its name, or its last proclamation; made fit to be shown.
    pub value: String,
    /// Its term.
    pub token: FencingToken,
    /// The beginning of its term, by its own wall clock.
    pub since: SystemTime,
    /// The address that its candidate gives, made fit to be shown.
    pub address: Option<String>,
    /// The evidence for its leadership.
    pub evidence: Evidence,
}

impl KnownLeader {
    /// A leader that announces its name, and whose term began at the Unix epoch: for tests of programs that show a status.
    pub fn new(name: CandidateName, token: FencingToken, evidence: Evidence) -> Self {
        Self { value: name.to_string(), name, token, since: SystemTime::UNIX_EPOCH, address: None, evidence }
    }
}

/// A server's evidence for a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evidence {
    /// It is the leader itself, and valid for this long; zero if it is not valid any more.
    OwnClaim {
        /// The rest of the time that a majority has confirmed.
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
    /// True if it votes and its entries count; otherwise it has yet to replace another one.
    pub counts: bool,
}

/// Another member, as one server sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerLink {
    /// Its name.
    pub name: CandidateName,
    /// True if there is a connection on which both have proved who they are.
    pub connected: bool,
    /// Its data directory: by the group's log if one was ever replaced, otherwise the first one that was met.
    pub disk: Option<PeerDisk>,
    /// The last refused directory under its name: the first eight digits of its id.
    pub refused: Option<String>,
    /// The time since anything was heard from it; `None` if never.
    pub heard: Option<Duration>,
    /// The median of its last few round trips. `None` if too few are known.
    pub round_trip: Option<Duration>,
    /// The reason for a missing connection, if known. Only for a member of this process: others are not told.
    pub problem: Option<String>,
}

impl PeerLink {
    /// A member without a connection: for tests of programs that show a status.
    pub fn new(name: CandidateName) -> Self {
        Self {
            name,
            connected: false,
            disk: None,
            refused: None,
            heard: None,
            round_trip: None,
            problem: None,
        }
    }
}
