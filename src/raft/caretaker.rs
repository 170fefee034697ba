//! When a server that does not stand leads a term all the same: to bring up to date one that does.
//!
//! A voter gives no vote for a log that is older than its own (§5.4.1). So where the newest log of those that are left is
//! on a server that does not stand, no other can win, and it does not want to. After a while it becomes a *caretaker*: it
//! is elected like any other, but claims nothing, appends nothing and takes no proposals. It copies its log to those that
//! stand, says TimeoutNow to the first one that has all, and follows it.
//!
//! That is as safe as a leader that resigned at the moment of its election: a caretaker has ordinary votes, so any earlier
//! leader's term is over, and never had a claim of its own that TimeoutNow could overtake.
//!
//! Not every server that does not stand may do it: see [`Caretaking::is_due`].

use std::time::Duration;

use super::timing::Timing;
use crate::clock::Timestamp;

/// For how many of the longest timeouts no leader must have been heard. One is an ordinary election.
const WAITS: u32 = 2;

/// For how many of them it rests after a term of its own: an election takes at most so many, so a server that this one
/// does not reach, and others do, can win meanwhile.
const RESTS: u32 = 4;

/// What a server knows of whether it is needed as a caretaker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Caretaking {
    not_before: Timestamp,
    /// When this server last refused a candidate for nothing but its older log.
    refused: Option<Timestamp>,
}

impl Caretaking {
    /// A leader was heard just now, or may have been, or was this server itself.
    pub(super) fn led(now: Timestamp, timing: &Timing) -> Self {
        Self { not_before: now + waits(timing), refused: None }
    }

    /// Another server asked for this one's vote, and has an older log.
    pub(super) fn refused_older_log(&mut self, now: Timestamp) {
        self.refused = Some(now);
    }

    /// A term of this server's own as a caretaker is over.
    pub(super) fn rest(&mut self, now: Timestamp, timing: &Timing) {
        self.not_before = now + timing.longest() * RESTS;
    }

    /// Whether no leader has been heard for long enough, and a candidate could not win for want of this server's log.
    pub(super) fn is_due(&self, now: Timestamp, timing: &Timing) -> bool {
        now >= self.not_before && self.refused.is_some_and(|refused| now < refused + waits(timing))
    }
}

fn waits(timing: &Timing) -> Duration {
    timing.longest() * WAITS
}
