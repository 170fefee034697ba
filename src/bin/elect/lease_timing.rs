//! The time for which an answer of the backend proves that this process leads, and the times that follow from
//! it.
//!
//! | span | on etcd | among peers |
//! |---|---|---|
//! | `span` | TTL | shortest election timeout |
//! | `margin` | a tenth of that, at least 100 ms | a tenth of that |
//! | `interval` | TTL / 3 | heartbeat |
//! | `patience` | (TTL − margin) / 4 | heartbeat |
//!
//! All are of the boot-time clock, and count from the send of the answered message. Pure.

use std::{fmt, time::Duration};

use leader_election::{peers::Timing, timing::Ttl};

/// The proof of a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseTiming {
    /// A lease in etcd with this time to live.
    Lease(Ttl),
    /// Heartbeats that a majority of the peers answers.
    Heartbeats(Timing),
}

/// Longest election timeouts without a leader before a server counts as out of touch. One or two failed
/// elections are over by then.
const ELECTIONS: u32 = 4;

impl LeaseTiming {
    /// Returns the time after which another candidate may lead, without further answers.
    pub(crate) fn span(self) -> Duration {
        match self {
            Self::Lease(ttl) => ttl.as_duration(),
            Self::Heartbeats(timing) => timing.shortest(),
        }
    }

    /// Returns the part of it that is kept for clocks of different rates.
    pub(crate) fn margin(self) -> Duration {
        match self {
            Self::Lease(ttl) => ttl.margin(),
            Self::Heartbeats(timing) => timing.margin(),
        }
    }

    /// Returns the time for which this process may trust that it leads.
    pub(crate) fn certain(self) -> Duration {
        match self {
            Self::Lease(ttl) => ttl.validity(),
            Self::Heartbeats(timing) => timing.validity(),
        }
    }

    /// Returns the time from one renewal, or heartbeat, to the next.
    pub(crate) fn interval(self) -> Duration {
        match self {
            Self::Lease(ttl) => ttl.renewal_interval(),
            Self::Heartbeats(timing) => timing.heartbeat(),
        }
    }

    /// Returns the timeout of one before the next is tried.
    pub(crate) fn patience(self) -> Duration {
        match self {
            Self::Lease(ttl) => ttl.patience(),
            Self::Heartbeats(timing) => timing.heartbeat(),
        }
    }

    /// Returns the time without contact after which the known leader is not shown any more.
    pub(crate) fn stale_after(self) -> Duration {
        match self {
            Self::Lease(ttl) => ttl.as_duration(),
            Self::Heartbeats(timing) => timing.longest(),
        }
    }

    /// Returns the time without contact after which this server is not ready any more.
    pub(crate) fn out_of_touch_after(self) -> Duration {
        match self {
            Self::Lease(ttl) => ttl.as_duration(),
            Self::Heartbeats(timing) => timing.longest() * ELECTIONS,
        }
    }
}

/// Formats it like the value of `--ttl` or `--election-timeout`.
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

/// Formats a span as a flag takes it: without blanks, at which a shell would split it.
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
