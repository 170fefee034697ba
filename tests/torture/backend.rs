//! The two backends under test: who stands on each, and how long things take there.

use std::{fmt, time::Duration};

use super::{cast::Kind, checker::Bounds};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Seven candidates in the queue of an etcd of three members.
    Etcd,
    /// Five candidates that elect one of themselves.
    Peers,
}

/// etcd's minimum, with its default election timeout, is 2 s.
pub(crate) const TTL: Duration = Duration::from_secs(3);

/// Of all peers alike. So long that two busy cores alone depose nobody, and that `elect run` can end its command in time.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(100);
pub(crate) const SHORTEST: Duration = Duration::from_secs(1);
pub(crate) const LONGEST: Duration = Duration::from_secs(2);

const ON_ETCD: [(&str, Kind); 7] = [
    ("s1", Kind::Server),
    ("r1", Kind::Run),
    ("l1", Kind::Library),
    ("l2", Kind::Library),
    ("r2", Kind::Run),
    ("s2", Kind::Server),
    ("r3", Kind::Run),
];

const AMONG_PEERS: [(&str, Kind); 5] = [
    ("s1", Kind::Server),
    ("r1", Kind::Run),
    ("l1", Kind::Library),
    ("r2", Kind::Run),
    ("l2", Kind::Library),
];

impl Backend {
    pub(crate) const ALL: [Self; 2] = [Self::Etcd, Self::Peers];

    /// Who stands in every run.
    pub(crate) fn cast(self) -> &'static [(&'static str, Kind)] {
        match self {
            Self::Etcd => &ON_ETCD,
            Self::Peers => &AMONG_PEERS,
        }
    }

    /// How many hosts there are beside the candidates': etcd's members.
    pub(crate) fn members(self) -> usize {
        match self {
            Self::Etcd => 3,
            Self::Peers => 0,
        }
    }

    /// When another one may lead, if nothing more is answered: the TTL, or the shortest election timeout.
    pub(crate) fn span(self) -> Duration {
        match self {
            Self::Etcd => TTL,
            Self::Peers => SHORTEST,
        }
    }

    /// As long as most takeovers take, or longer.
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

    /// The rates of the clocks that run differently: just what the margin covers. On etcd each against etcd's alone, which
    /// keeps the time; among peers any against any.
    pub(crate) fn off_rate(self, name: &str) -> Option<f64> {
        match (self, name) {
            // A clock that is too slow believes longer.
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
