//! What `bench-library claimant` prints, and whether two terms ever overlap.

use std::{collections::BTreeMap, time::Duration};

use crate::support::capture::Captured;

/// The first and the last claim of each term, by its token, in nanoseconds since boot.
#[derive(Debug, Default)]
pub(crate) struct Claims(BTreeMap<u64, (u64, u64)>);

impl Claims {
    /// All that these processes have claimed so far.
    pub(crate) fn of(claimants: &[&Captured]) -> Self {
        let mut claims = Self::default();
        for claimant in claimants {
            for line in claimant.lines() {
                if let Some((nanos, token)) = claim(&line.text) {
                    let (first, last) = claims.0.entry(token).or_insert((nanos, nanos));
                    (*first, *last) = ((*first).min(nanos), (*last).max(nanos));
                }
            }
        }
        claims
    }

    pub(crate) fn tokens(&self) -> Vec<u64> {
        self.0.keys().copied().collect()
    }

    /// The shortest time between the last claim of a term and the first of a later one; `Err` with how long
    /// an old term was still claimed after a newer one, if one was.
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

/// Whether a line is a claim.
pub(crate) fn is_claim(line: &str) -> bool {
    line.starts_with("claims ")
}

fn claim(line: &str) -> Option<(u64, u64)> {
    let (nanos, token) = line.strip_prefix("claims ")?.split_once(' ')?;
    Some((nanos.parse().ok()?, token.parse().ok()?))
}
