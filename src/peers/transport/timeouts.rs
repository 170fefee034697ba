//! Time limits for other members, derived from the group's election timeouts.

use std::time::Duration;

use crate::peers::Timing;

/// Pings of an idle connection cost a little, on each of them. A shorter interval would find nothing sooner that
/// matters.
const SHORTEST_PING: Duration = Duration::from_millis(200);

/// For any timing: people look at the connections, too.
const LONGEST_PING: Duration = Duration::from_secs(5);

/// Establishing a connection takes round trips, a handshake's arithmetic, and at the first meeting a write to a
/// disk.
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(1);

/// Time limits by tokio's clock: a suspended machine does not lose its connections by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// After so long in silence a connection is pinged, and has so long to answer. Then it is given up, and a new
    /// one made: TCP itself would try again at ever longer intervals, and after a partition of half a minute be
    /// silent for as long again.
    pub(super) ping: Duration,
    /// Time limit of an attempt to connect, up to the other side's Hello.
    pub(super) attempt: Duration,
}

impl Timeouts {
    pub(crate) fn of(timing: &Timing) -> Self {
        let ping = timing.longest().clamp(SHORTEST_PING, LONGEST_PING);
        Self { ping, attempt: ping.max(SHORTEST_ATTEMPT) }
    }

    /// Time limit of an attempt to connect.
    pub(crate) fn attempt(&self) -> Duration {
        self.attempt
    }

    /// Returns true if a connection that has just ended did so because nothing came. A healthy idle one hears an
    /// answer each `ping`; one that is given up has missed that, and as long again.
    pub(super) fn is_silence(&self, since_heard: Duration) -> bool {
        since_heard > self.ping + self.ping / 2
    }
}
