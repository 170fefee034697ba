//! The two backends under test: their candidates, and their timing.

use std::{fmt, time::Duration};

use super::{candidates::CandidateKind, checker::Bounds};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Seven candidates in the queue of an etcd of three members.
    Etcd,
    /// Five candidates that elect one of themselves.
    Peers,
}

/// etcd's minimum, with its default election timeout, is 2 s.
pub(crate) const TTL: Duration = Duration::from_secs(3);

/// The same for all peers. So long that two busy cores alone depose no leader, and that `elect run` can end its command in time.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(100);
pub(crate) const SHORTEST: Duration = Duration::from_secs(1);
pub(crate) const LONGEST: Duration = Duration::from_secs(2);

const ON_ETCD: [(&str, CandidateKind); 7] = [
    ("s1", CandidateKind::Server),
    ("r1", CandidateKind::Run),
    ("l1", CandidateKind::Library),
    ("l2", CandidateKind::Library),
    ("r2", CandidateKind::Run),
    ("s2", CandidateKind::Server),
    ("r3", CandidateKind::Run),
];

const AMONG_PEERS: [(&str, CandidateKind); 5] = [
    ("s1", CandidateKind::Server),
    ("r1", CandidateKind::Run),
    ("l1", CandidateKind::Library),
    ("r2", CandidateKind::Run),
    ("l2", CandidateKind::Library),
];

impl Backend {
    pub(crate) const ALL: [Self; 2] = [Self::Etcd, Self::Peers];

    /// Candidates of every run.
    pub(crate) fn candidates(self) -> &'static [(&'static str, CandidateKind)] {
        match self {
            Self::Etcd => &ON_ETCD,
            Self::Peers => &AMONG_PEERS,
        }
    }

    /// Number of hosts beside the candidates': etcd's members.
    pub(crate) fn members(self) -> usize {
        match self {
            Self::Etcd => 3,
            Self::Peers => 0,
        }
    }

    /// The time without answers after which another one may lead: the TTL, or the shortest election timeout.
    pub(crate) fn span(self) -> Duration {
        match self {
            Self::Etcd => TTL,
            Self::Peers => SHORTEST,
        }
    }

    /// As long as most takeovers, or longer.
    pub(crate) fn takeover(self) -> Duration {
        match self {
            Self::Etcd => TTL,
            Self::Peers => LONGEST,
        }
    }

    pub(crate) fn bounds(self) -> Bounds {
        match self {
            Self::Etcd => Bounds::on_etcd(TTL),
            Self::Peers => Bounds::among_peers(LONGEST),
        }
    }

    /// Rates of the clocks that run differently: at the limit of the margin. On etcd each is relative to etcd's,
    /// which is right; among peers any two may differ by this.
    pub(crate) fn off_rate(self, name: &str) -> Option<f64> {
        match (self, name) {
            // A slow clock extends the belief.
            (Self::Etcd, "l1") => Some(0.9),
            (Self::Etcd, "l2") => Some(1.1),
            (Self::Peers, "l1") => Some(0.95),
            (Self::Peers, "l2") => Some(1.05),
            _ => None,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Etcd => "etcd",
            Self::Peers => "peers",
        })
    }
}
