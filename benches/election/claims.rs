//! Claims to lead, and for how long two overlapped.
//!
//! A claim is the moment at which a contender printed that it leads, or acted as leader. Pure; the moments are
//! nanoseconds since boot, of one machine. `tests/bench_report.rs` runs its tests.

#![allow(
    dead_code,
    unused_imports,
    reason = "the benchmark and the test each use their own part, and the benchmark drops the functions with #[test]"
)]

use std::{collections::BTreeMap, time::Duration};

/// A line of a program that claims each millisecond: `claims NANOS TOKEN`.
pub(crate) fn parse(line: &str) -> Option<(u64, u64)> {
    let (nanos, token) = line.strip_prefix("claims ")?.split_once(' ')?;
    Some((nanos.parse().ok()?, token.parse().ok()?))
}

/// Reports whether a line is a claim.
pub(crate) fn is_claim(line: &str) -> bool {
    line.starts_with("claims ")
}

/// The overlap of two claims: from the next leader's first claim, or from when the former leader ran again
/// if that is later, until the former leader's last claim.
pub(crate) fn both_claimed(former_last: u64, ran_again: u64, next_first: u64) -> Duration {
    Duration::from_nanos(former_last.saturating_sub(next_first.max(ran_again)))
}

/// The first and the last claim of each term, by token.
#[derive(Debug, Default)]
pub(crate) struct Terms(BTreeMap<u64, (u64, u64)>);

impl Terms {
    pub(crate) fn of<L: AsRef<str>>(lines: impl IntoIterator<Item = L>) -> Self {
        let mut terms = Self::default();
        for (nanos, token) in lines.into_iter().filter_map(|line| parse(line.as_ref())) {
            let (first, last) = terms.0.entry(token).or_insert((nanos, nanos));
            (*first, *last) = ((*first).min(nanos), (*last).max(nanos));
        }
        terms
    }

    pub(crate) fn tokens(&self) -> Vec<u64> {
        self.0.keys().copied().collect()
    }

    /// The shortest time between the last claim of a term and the first of a later one; `Err` with the time for which
    /// an old term was claimed after a newer one, if one was.
    pub(crate) fn shortest_gap(&self) -> Result<Option<Duration>, Duration> {
        let (mut gap, mut last_of_all): (Option<Duration>, Option<u64>) = (None, None);
        for (first, last) in self.0.values() {
            if let Some(before) = last_of_all {
                match first.checked_sub(before) {
                    Some(free) if free > 0 => {
                        let free = Duration::from_nanos(free);
                        gap = Some(gap.map_or(free, |gap| gap.min(free)));
                    }
                    _ => return Err(Duration::from_nanos(before - first)),
                }
            }
            last_of_all = Some(last_of_all.map_or(*last, |before| before.max(*last)));
        }
        Ok(gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_former_leader_that_claims_after_the_next_one_is_counted_from_there() {
        assert_eq!(both_claimed(1_500, 0, 1_000), Duration::from_nanos(500));
        assert_eq!(both_claimed(999, 0, 1_000), Duration::ZERO);
    }

    #[test]
    fn time_spent_frozen_is_no_claim() {
        assert_eq!(both_claimed(9_000, 8_700, 1_000), Duration::from_nanos(300));
        // Its last claim was before the freeze.
        assert_eq!(both_claimed(900, 8_700, 1_000), Duration::ZERO);
    }

    #[test]
    fn terms_that_follow_each_other_have_a_gap() {
        let terms =
            Terms::of(["claims 10 7", "claims 20 7", "I am the leader.", "claims 25 9", "claims 99 x"]);
        assert_eq!(terms.tokens(), [7, 9]);
        assert_eq!(terms.shortest_gap(), Ok(Some(Duration::from_nanos(5))));
    }

    #[test]
    fn an_old_term_claimed_after_a_newer_one_is_found() {
        let terms = Terms::of(["claims 10 7", "claims 25 9", "claims 30 7"]);
        assert_eq!(terms.shortest_gap(), Err(Duration::from_nanos(5)));
    }
}
