//! Limits a line that may repeat many times a second: a few at once, then one an interval. Pure.

use std::time::Duration;

use leader_election::clock::Timestamp;

/// Lines that may come at once.
const AT_ONCE: u32 = 5;

/// After those, one line in each interval (boot-time clock).
const EVERY: Duration = Duration::from_secs(1);

/// Decides which of many lines to log.
#[derive(Debug)]
pub(crate) struct RateLimit {
    allowed: u32,
    /// Time when `allowed` last grew, in whole lines.
    counted: Option<Timestamp>,
    left_out: u64,
}

impl RateLimit {
    pub(crate) const fn new() -> Self {
        Self { allowed: AT_ONCE, counted: None, left_out: 0 }
    }

    /// Returns whether to log this line, with the number left out before it.
    pub(crate) fn pass(&mut self, now: Timestamp) -> Option<u64> {
        let counted = *self.counted.get_or_insert(now);
        let earned = now.since(counted).as_nanos() / EVERY.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        self.allowed = self.allowed.saturating_add(earned).min(AT_ONCE);
        self.counted = Some(if self.allowed == AT_ONCE { now } else { counted + EVERY * earned });
        if self.allowed == 0 {
            self.left_out += 1;
            return None;
        }
        self.allowed -= 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(1_000_000_000) + Duration::from_millis(millis)
    }

    #[test]
    fn a_few_at_once_and_then_one_a_second() {
        let mut limit = RateLimit::new();
        let logged: Vec<u64> =
            (0..1000).filter(|i| limit.pass(at(i * 10)).is_some()).map(|i| i * 10).collect();
        assert_eq!(logged[..5], [0, 10, 20, 30, 40]);
        assert_eq!(logged.len(), 5 + 9, "{logged:?}");
        assert!(logged[5..].windows(2).all(|pair| pair[1] - pair[0] == 1000), "{logged:?}");
    }

    #[test]
    fn the_number_left_out_is_reported_once() {
        let mut limit = RateLimit::new();
        let told: Vec<_> = [0, 0, 0, 0, 0, 0, 0, 1000, 2000].map(|millis| limit.pass(at(millis))).into();
        let told: Vec<_> = told[4..].to_vec();
        assert_eq!(told, [Some(0), None, None, Some(2), Some(0)]);
    }

    #[test]
    fn a_rare_line_is_always_logged() {
        let mut limit = RateLimit::new();
        assert!((0..100).all(|i| limit.pass(at(i * 1000)) == Some(0)));
        assert!((0..5).all(|i| limit.pass(at(200_000 + i)) == Some(0)));
    }
}
