//! A leader without a claim: a server that takes no part in elections leads a term to bring a candidate up to date.
//!
//! A voter gives no vote to a log that is older than its own (§5.4.1). So if a server that takes no part has the
//! newest log of those left, no candidate can win. After a while that server becomes a *caretaker*: it is elected
//! like any other, but claims nothing, appends nothing and takes no proposals. It copies its log to the candidates,
//! sends TimeoutNow to the first one that has all of it, and follows that one.
//!
//! That is as safe as a leader that resigned at the moment of its election: a caretaker has ordinary votes, so any earlier
//! leader's term is over, and never had a claim of its own that TimeoutNow could overtake.
//!
//! Not every server that takes no part may do it: see [`Caretaking::is_due`].

use std::time::Duration;

use super::timing::Timing;
use crate::clock::Timestamp;

/// Number of longest timeouts without a leader before it acts. One is an ordinary election.
const WAITS: u32 = 2;

/// Number of longest timeouts that it rests after a term of its own. An election takes at most that long, so a
/// server that only others reach can win meanwhile.
const RESTS: u32 = 4;

/// State that decides if this server is needed as a caretaker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Caretaking {
    not_before: Timestamp,
    /// Time of the last refusal of a candidate for its older log alone.
    refused: Option<Timestamp>,
    /// True if this server had a caretaker's term since a leader was heard.
    helped: bool,
}

impl Caretaking {
    /// A leader was heard just now, or may have been, or was this server itself.
    pub(super) fn led(now: Timestamp, timing: &Timing) -> Self {
        Self { not_before: now + waits(timing), refused: None, helped: false }
    }

    /// Another server with an older log asked for this one's vote.
    pub(super) fn refused_older_log(&mut self, now: Timestamp) {
        self.refused = Some(now);
    }

    /// A caretaker's term of this server is over.
    pub(super) fn rest(&mut self, now: Timestamp, timing: &Timing) {
        (self.not_before, self.helped) = (now + timing.longest() * RESTS, true);
    }

    /// Returns true if no leader has been heard for long enough.
    pub(super) fn waited(&self, now: Timestamp) -> bool {
        now >= self.not_before
    }

    /// Returns true if a candidate lacked only this server's log, lately.
    fn is_wanted(&self, now: Timestamp, timing: &Timing) -> bool {
        self.refused.is_some_and(|refused| now < refused + waits(timing))
    }

    /// Returns true if no leader has been heard for long enough, and a candidate lacked only this server's log.
    pub(super) fn is_due(&self, now: Timestamp, timing: &Timing) -> bool {
        self.waited(now) && self.is_wanted(now, timing)
    }

    /// Returns true if a candidate lacked only this server's log, and this server has not tried to help it.
    pub(super) fn may_help(&self, now: Timestamp, timing: &Timing) -> bool {
        self.is_wanted(now, timing) && !self.helped
    }
}

fn waits(timing: &Timing) -> Duration {
    timing.longest() * WAITS
}
