//! The durations of an election, all derived from one: the lease's time to live.
//!
//! | span | value | why |
//! |---|---|---|
//! | renewal interval | TTL / 3 | etcd's own convention: two renewals may be lost |
//! | margin | TTL / 10, so at least 100 ms | the clocks' *rates* may differ by this much over one TTL |
//! | patience | (TTL − margin) / 4 | an unanswered renewal leaves time for another endpoint |
//!
//! Deadlines are moments of the boot-time [`clock`](crate::clock). Pauses and timeouts for answers are
//! measured by Tokio, whose clock stands still in suspend: no safety depends on those.

use std::{fmt, time::Duration};

use crate::clock::Timestamp;

/// Time to live of an etcd lease without a renewal: whole seconds, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Ttl(u32);

/// Reason that a duration cannot be the time to live of a lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTtl {
    /// Zero: the lease would expire at once.
    #[error("a lease must live for at least 1s; 5s is a good start")]
    Zero,
    /// etcd counts leases in seconds.
    #[error("etcd's leases live for whole seconds; use {below}s or {}s", below + 1)]
    NotWholeSeconds {
        /// The whole seconds just below the requested time.
        below: u64,
    },
    /// Longer than a day: a crashed leader would keep its place for that long.
    #[error("a lease may live for at most {}s: a crashed leader holds its place for that long", Ttl::MAX.0)]
    TooLong,
}

impl Ttl {
    /// The default of the command line: 5 s.
    pub const DEFAULT: Self = Self(5);

    /// The longest accepted: one day.
    pub const MAX: Self = Self(24 * 60 * 60);

    /// Creates a time to live.
    ///
    /// # Errors
    ///
    /// Refuses zero, fractions of a second, and more than a [day](Self::MAX).
    pub fn new(span: Duration) -> Result<Self, InvalidTtl> {
        if span.is_zero() {
            return Err(InvalidTtl::Zero);
        }
        if span.subsec_nanos() != 0 {
            let below = span.as_secs();
            return Err(if below == 0 { InvalidTtl::Zero } else { InvalidTtl::NotWholeSeconds { below } });
        }
        let seconds = u32::try_from(span.as_secs()).map_err(|_| InvalidTtl::TooLong)?;
        if seconds > Self::MAX.0 { Err(InvalidTtl::TooLong) } else { Ok(Self(seconds)) }
    }

    /// Returns the whole seconds.
    pub const fn as_secs(self) -> u32 {
        self.0
    }

    /// Returns it as a [`Duration`].
    pub const fn as_duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }

    /// Returns the safety margin: our trust in the lease ends before etcd's lease does.
    ///
    /// Covers clocks whose rates differ by up to a tenth, far more than any healthy machine's.
    pub fn margin(self) -> Duration {
        self.as_duration() / 10
    }

    /// Returns the time for which a lease may be trusted: the time to live less its margin.
    pub fn validity(self) -> Duration {
        self.as_duration() - self.margin()
    }

    /// Returns the time between two renewals.
    pub fn renewal_interval(self) -> Duration {
        self.as_duration() / 3
    }

    /// Returns how long an unanswered renewal may take before another endpoint is tried.
    pub fn patience(self) -> Duration {
        self.validity() / 4
    }

    /// Returns the time until which a lease may be trusted, given the send time of an acknowledged message.
    pub fn believed_until(self, sent: Timestamp) -> Timestamp {
        sent + self.validity()
    }
}

impl TryFrom<u32> for Ttl {
    type Error = InvalidTtl;

    /// Parses whole seconds.
    fn try_from(seconds: u32) -> Result<Self, InvalidTtl> {
        Self::new(Duration::from_secs(u64::from(seconds)))
    }
}

impl From<Ttl> for u32 {
    fn from(ttl: Ttl) -> Self {
        ttl.0
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

/// Growing, jittered pauses between attempts: 100 ms at first, at most 3 s, unless told otherwise.
///
/// Each pause is drawn evenly from the upper half of its range, so that candidates that lost etcd at one
/// instant do not return at one instant.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    last: Duration,
    ceiling: Duration,
}

#[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "only etcd's"))]
impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LAST: Duration = Duration::from_secs(3);

    pub(crate) fn new() -> Self {
        Self::between(Self::FIRST, Self::LAST)
    }
}

impl Backoff {
    pub(crate) fn between(first: Duration, last: Duration) -> Self {
        Self { first, last, ceiling: first }
    }

    pub(crate) fn reset(&mut self) {
        self.ceiling = self.first;
    }

    pub(crate) fn pause(&mut self) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = (ceiling * 2).min(self.last);
        ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_etcd_cannot_lease() {
        assert_eq!(Ttl::new(Duration::ZERO), Err(InvalidTtl::Zero));
        assert_eq!(Ttl::new(Duration::from_millis(300)), Err(InvalidTtl::Zero));
        assert_eq!(Ttl::new(Duration::from_millis(2500)), Err(InvalidTtl::NotWholeSeconds { below: 2 }));
        assert_eq!(Ttl::new(Duration::from_secs(86_401)), Err(InvalidTtl::TooLong));
        assert_eq!(Ttl::new(Duration::from_secs(u64::MAX)), Err(InvalidTtl::TooLong));
    }

    #[test]
    fn two_endpoints_can_be_tried_before_validity_ends() {
        for seconds in 2..=60 {
            let ttl = Ttl(seconds);
            let spent = ttl.renewal_interval() + 2 * ttl.patience();
            assert!(spent < ttl.as_duration() - ttl.margin(), "{ttl}: {spent:?}");
        }
    }

    #[test]
    fn backoff_grows_to_its_limit_and_never_vanishes() {
        let mut backoff = Backoff::new();
        for _ in 0..20 {
            let pause = backoff.pause();
            assert!(pause >= Backoff::FIRST / 2 && pause <= Backoff::LAST);
        }
        assert!(backoff.pause() >= Backoff::LAST / 2);
        backoff.reset();
        assert!(backoff.pause() <= Backoff::FIRST);
    }
}
