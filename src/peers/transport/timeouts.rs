//! How long to wait for another member, by how soon the group wants a leader.

use std::time::Duration;

use crate::peers::Timing;

/// Pings of an idle connection cost a little, on each of them. More often than this they would
/// find nothing sooner that matters.
const SHORTEST_PING: Duration = Duration::from_millis(200);

/// However patient the group is: a person looks at the contacts, too.
const LONGEST_PING: Duration = Duration::from_secs(5);

/// Establishing a connection takes round trips, a handshake's arithmetic, and at the first meeting
/// a write to a disk.
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(1);

/// How long to wait, by tokio's clock: a suspended machine does not lose its connections by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// After so long without a word a connection is asked whether it lives, and has so long to
    /// answer. Then it is given up, and a new one made: TCP itself would try again at ever longer
    /// intervals, and after a partition of half a minute be silent for as long again.
    pub(super) ping: Duration,
    /// How long an attempt to connect may take, up to the other side's Hello.
    pub(super) attempt: Duration,
}

impl Timeouts {
    pub(crate) fn of(timing: &Timing) -> Self {
        let ping = timing.longest().clamp(SHORTEST_PING, LONGEST_PING);
        Self { ping, attempt: ping.max(SHORTEST_ATTEMPT) }
    }

    /// How long an attempt to connect may take.
    pub(crate) fn attempt(&self) -> Duration {
        self.attempt
    }

    /// Whether a connection that has just ended did so because nothing came. One that is idle and
    /// well hears an answer each `ping`; one that is given up has missed that, and as long again.
    pub(super) fn is_silence(&self, since_heard: Duration) -> bool {
        since_heard > self.ping + self.ping / 2
    }
}
