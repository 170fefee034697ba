//! The three durations of an election, and their consequences.
//!
//! ```text
//!  sent                                        until           E min               E max
//!   ├──────────┬──────────┬──────────┬───────────┼───────────────┼───────────────────┤
//!   heartbeat  heartbeat  heartbeat  heartbeat   │◄─── margin ──►│◄─ a follower's timeout is drawn here
//!                                  a leader stops here           no voter votes before here
//! ```
//!
//! All are of the boot-time clock of the server that measures them.

use std::time::Duration;

use crate::clock::Timestamp;

/// Share of the minimum election timeout that a leader gives away for clocks of different rate.
const MARGIN_SHARE: u32 = 10;

/// A leader must be able to miss one heartbeat and still be proved by the next: two of them, and the way of the
/// answer, have to fit in before the margin.
const HEARTBEATS_IN_MINIMUM: u32 = 3;

/// Timeouts are drawn from at least this share of the minimum, or two servers draw the same one
/// again and again.
const SPREAD_SHARE: u32 = 5;

/// Round trips that fit into the minimum election timeout beside a heartbeat: pre-vote, votes, and the leader's
/// first heartbeat, before another server would campaign.
const ROUND_TRIPS_IN_MINIMUM: u32 = 3;

/// Syncs that fit into the minimum election timeout: of a vote, on both sides one after the other, with as much
/// left for the way there and back.
const SYNCS_IN_MINIMUM: u32 = 4;

/// Advised timeouts have room for round trips and syncs that are longer than measured by one part in this many.
const ROOM_SHARE: u32 = 4;

/// Advised timeouts are multiples of this, so that they read well.
const STEP: Duration = Duration::from_millis(50);

/// Longer than any useful timeout, and short enough for all sums below.
const LONGEST: Duration = Duration::from_secs(3600);

/// Heartbeat and election timeouts that can work together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timing {
    heartbeat: Duration,
    shortest: Duration,
    longest: Duration,
}

/// Reason why a heartbeat and a range of election timeouts can't work together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTiming {
    /// A heartbeat of less than a millisecond.
    #[error("the heartbeat must be at least 1 ms")]
    HeartbeatTooShort,
    /// A leader could not miss a single heartbeat.
    #[error("the shortest election timeout must be at least {HEARTBEATS_IN_MINIMUM} heartbeats")]
    HeartbeatTooLong,
    /// Servers would campaign at the same time, again and again.
    #[error("the longest election timeout must exceed the shortest by at least a fifth of it")]
    NoSpread,
    /// Longer than any useful timeout.
    #[error("an election timeout of more than an hour")]
    TooLong,
}

/// A fresh random number, which comes in with each step. Timeouts are drawn from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Random(pub(crate) u64);

impl Timing {
    /// Heartbeats of 50 ms, elections after 250 to 500 ms without one.
    pub const DEFAULT: Self = Self {
        heartbeat: Duration::from_millis(50),
        shortest: Duration::from_millis(250),
        longest: Duration::from_millis(500),
    };

    /// A heartbeat, and the range from which election timeouts are drawn.
    ///
    /// # Errors
    ///
    /// Refuses durations that can't work together: see [`InvalidTiming`].
    pub fn new(heartbeat: Duration, shortest: Duration, longest: Duration) -> Result<Self, InvalidTiming> {
        if heartbeat < Duration::from_millis(1) {
            return Err(InvalidTiming::HeartbeatTooShort);
        }
        if longest > LONGEST {
            return Err(InvalidTiming::TooLong);
        }
        if longest < shortest + shortest / SPREAD_SHARE {
            return Err(InvalidTiming::NoSpread);
        }
        if heartbeat.saturating_mul(HEARTBEATS_IN_MINIMUM) > shortest {
            return Err(InvalidTiming::HeartbeatTooLong);
        }
        Ok(Self { heartbeat, shortest, longest })
    }

    /// Returns the interval between a leader's heartbeats.
    pub const fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    /// Returns the time for which a voter that heard a leader votes for no other.
    pub const fn shortest(&self) -> Duration {
        self.shortest
    }

    /// Returns the longest time to wait for a leader before campaigning.
    pub const fn longest(&self) -> Duration {
        self.longest
    }

    /// Returns the share of [`shortest`](Self::shortest) that a leader gives away.
    pub fn margin(&self) -> Duration {
        self.shortest / MARGIN_SHARE
    }

    /// Returns the longest round trip between members with which a leader is elected, and stays.
    pub fn longest_round_trip(&self) -> Duration {
        (self.shortest - self.heartbeat) / ROUND_TRIPS_IN_MINIMUM
    }

    /// Returns the time of a sync from which on a leader is not elected, or does not stay.
    pub fn longest_sync(&self) -> Duration {
        self.shortest / SYNCS_IN_MINIMUM
    }

    /// A longer election timeout that serves this round trip; `None` if this one does.
    pub(crate) fn for_round_trip(&self, takes: Duration) -> Option<Self> {
        let needed = || self.heartbeat.saturating_add(with_room(takes, ROUND_TRIPS_IN_MINIMUM));
        (takes > self.longest_round_trip()).then(|| self.with_shortest(needed()))
    }

    /// A longer election timeout that serves a disk that syncs in this time; `None` if this one does.
    pub(crate) fn for_sync(&self, takes: Duration) -> Option<Self> {
        (takes >= self.longest_sync()).then(|| self.with_shortest(with_room(takes, SYNCS_IN_MINIMUM)))
    }

    fn with_shortest(&self, needed: Duration) -> Self {
        let steps = needed.as_nanos().div_ceil(STEP.as_nanos());
        let most = LONGEST.as_nanos() / STEP.as_nanos() / 2;
        let shortest = STEP * u32::try_from(steps.min(most)).unwrap_or(u32::MAX);
        Self { heartbeat: self.heartbeat, shortest, longest: shortest * 2 }
    }

    /// The time for which a leader may trust a majority's answers: the shortest election timeout less its margin.
    pub fn validity(&self) -> Duration {
        self.shortest - self.margin()
    }

    /// The end of the validity, if a majority answered messages sent at `sent`.
    pub(crate) fn valid_until(&self, sent: Timestamp) -> Timestamp {
        sent + self.validity()
    }

    /// Draws the time to wait for a leader before campaigning (§5.2: drawn anew each time).
    pub(crate) fn election_timeout(&self, draw: Random) -> Duration {
        self.shortest + share(self.longest - self.shortest, draw)
    }

    /// How long a server that would vote for another holds its own candidacy back: until the other's request can
    /// have come, which takes a round trip, and the sync of its own vote.
    pub(crate) fn grace(&self) -> Duration {
        self.shortest
    }

    /// Draws the time before the next pre-vote.
    ///
    /// A pre-vote changes no server's term, so it may be repeated often: the first to ask is often refused only
    /// because a voter heard the leader a little later. Answers to earlier requests count, so requests may be sent
    /// more often than answers can come.
    pub(crate) fn asking_interval(&self, draw: Random) -> Duration {
        self.heartbeat + share(self.heartbeat, draw)
    }
}

/// `times` times that long, and some room.
fn with_room(takes: Duration, times: u32) -> Duration {
    takes.saturating_mul(times).saturating_add(takes.saturating_mul(times) / ROOM_SHARE)
}

fn share(of: Duration, draw: Random) -> Duration {
    let nanos = of.as_nanos() as u64;
    Duration::from_nanos(draw.0.checked_rem(nanos).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Timing::new(ms(50), ms(250), ms(500)), Ok(Timing::DEFAULT));
    }

    #[test]
    fn pairs_that_cannot_work_are_refused() {
        use InvalidTiming::*;
        for (heartbeat, shortest, longest, why) in [
            (0, 250, 500, HeartbeatTooShort),
            (100, 250, 500, HeartbeatTooLong),
            (50, 250, 250, NoSpread),
            (50, 500, 250, NoSpread),
            (50, 250, 4_000_000, TooLong),
        ] {
            assert_eq!(Timing::new(ms(heartbeat), ms(shortest), ms(longest)), Err(why));
        }
    }

    proptest! {
        #[test]
        fn no_timeout_is_shorter_than_what_a_voter_keeps_to(draw: u64) {
            let timeout = Timing::DEFAULT.election_timeout(Random(draw));
            prop_assert!((ms(250)..ms(500)).contains(&timeout));
        }
    }

    #[test]
    fn what_serves_needs_no_advice_and_what_does_not_gets_a_timing_that_does() {
        let timing = |shortest, longest| Timing::new(ms(50), ms(shortest), ms(longest)).ok();
        assert_eq!(Timing::DEFAULT.for_round_trip(ms(66)), None);
        assert_eq!(Timing::DEFAULT.for_round_trip(ms(67)), timing(350, 700));
        assert_eq!(Timing::DEFAULT.for_round_trip(ms(100)), timing(450, 900));
        assert_eq!(Timing::DEFAULT.for_sync(ms(62)), None);
        assert_eq!(Timing::DEFAULT.for_sync(Timing::DEFAULT.longest_sync()), timing(350, 700));
        assert_eq!(Timing::DEFAULT.for_sync(ms(240)), timing(1200, 2400));
    }

    proptest! {
        #[test]
        fn what_is_advised_serves(heartbeat in 1..1000_u64, times in 3..20_u64, takes in 0..400_000_u64) {
            let shortest = heartbeat * times;
            let timing = Timing::new(ms(heartbeat), ms(shortest), ms(shortest * 2)).unwrap();
            for advised in [timing.for_round_trip(ms(takes)), timing.for_sync(ms(takes))].into_iter().flatten() {
                let Timing { heartbeat, shortest, longest } = advised;
                prop_assert_eq!(Timing::new(heartbeat, shortest, longest), Ok(advised));
                prop_assert!(shortest > timing.shortest);
            }
            let serves = |advised: Option<Timing>| advised.unwrap_or(timing);
            prop_assert!(serves(timing.for_round_trip(ms(takes))).longest_round_trip() >= ms(takes));
            prop_assert!(serves(timing.for_sync(ms(takes))).longest_sync() > ms(takes) || takes == 0);
        }
    }

    #[test]
    fn belief_ends_a_margin_before_anybody_votes() {
        let sent = Timestamp::from_nanos(7);
        let until = Timing::DEFAULT.valid_until(sent);
        assert_eq!(until + Timing::DEFAULT.margin(), sent + Timing::DEFAULT.shortest());
    }
}
