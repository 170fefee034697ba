//! For how long an answer of the backend proves that this process leads, and what else follows from that.
//!
//! | span | on etcd | among peers |
//! |---|---|---|
//! | `span` | TTL | shortest election timeout |
//! | `margin` | a tenth of that, at least 100 ms | a tenth of that |
//! | `interval` | TTL / 3 | heartbeat |
//! | `patience` | (TTL − margin) / 4 | heartbeat |
//!
//! All are of the boot-time clock, and count from when that was sent which was answered. Pure.

use std::{fmt, time::Duration};

use leader_election::{peers::Timing, timing::Ttl};

/// What a leader is proved by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseTiming {
    /// etcd keeps a lease for this long.
    Lease(Ttl),
    /// A majority of the peers answers heartbeats.
    Heartbeats(Timing),
}

/// How many of the longest election timeouts a server may hear no leader for before it counts as out of
/// touch. Elections that go wrong once or twice are over by then.
const ELECTIONS: u32 = 4;

impl LeaseTiming {
    /// When another one may lead, if nothing more is answered.
    pub(crate) fn span(self) -> Duration {
        match self {
            Self::Lease(ttl) => ttl.as_duration(),
            Self::Heartbeats(timing) => timing.shortest(),
        }
    }

    /// What of that is given away for clocks that run at different rates.
    pub(crate) fn margin(self) -> Duration {
        match self {
            Self::Lease(ttl) => ttl.margin(),
            Self::Heartbeats(timing) => timing.margin(),
        }
    }

    /// For how long this process may believe that it leads.
    pub(crate) fn certain(self) -> Duration {
        self.span() - self.margin()
    }

    /// From one renewal, or heartbeat, to the next.
    pub(crate) fn interval(self) -> Duration {
        match self {
            Self::Lease(ttl) => ttl.renewal_interval(),
            Self::Heartbeats(timing) => timing.heartbeat(),
        }
    }

    /// How long one may go unanswered before the next is tried.
    pub(crate) fn patience(self) -> Duration {
        match self {
            Self::Lease(ttl) => ttl.patience(),
            Self::Heartbeats(timing) => timing.heartbeat(),
        }
    }

    /// What was known of the leader is not repeated once the backend has not been heard for this long.
    pub(crate) fn stale_after(self) -> Duration {
        match self {
            Self::Lease(ttl) => ttl.as_duration(),
            Self::Heartbeats(timing) => timing.longest(),
        }
    }

    /// … and this server is not ready any more.
    pub(crate) fn out_of_touch_after(self) -> Duration {
        match self {
            Self::Lease(ttl) => ttl.as_duration(),
            Self::Heartbeats(timing) => timing.longest() * ELECTIONS,
        }
    }
}

/// As one writes it after `--ttl` or `--election-timeout`.
impl fmt::Display for LeaseTiming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lease(ttl) => ttl.fmt(f),
            Self::Heartbeats(timing) => {
                let (shortest, longest) = (written(timing.shortest()), written(timing.longest()));
                write!(f, "{shortest}-{longest}")
            }
        }
    }
}

/// A span as a flag takes it: without blanks, which a shell would take for the end of it.
pub(crate) fn written(span: Duration) -> String {
    humantime::format_duration(span).to_string().replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_certain_for_the_shortest_election_timeout_less_the_margin() {
        let proof = LeaseTiming::Heartbeats(Timing::DEFAULT);
        assert_eq!(proof.certain(), Duration::from_millis(225));
        assert_eq!(proof.to_string(), "250ms-500ms");
        assert!(proof.stale_after() < proof.out_of_touch_after());
    }

    #[test]
    fn what_is_written_can_be_read() {
        for millis in [1, 250, 1500, 61_001] {
            let span = Duration::from_millis(millis);
            assert_eq!(humantime::parse_duration(&written(span)), Ok(span), "{}", written(span));
        }
    }
}
