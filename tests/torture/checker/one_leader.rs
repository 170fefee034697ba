//! At no instant do two processes believe that they lead (contract, points 1 to 4).
//!
//! The exception of `docs/safety.md`: a third party had etcd delete the older one's key before that instant. It may
//! not have heard of it, but only for so long.

use std::time::Duration;

use super::{Bounds, Case, Invariant};
use crate::{
    history::At,
    terms::{Term, Terms},
};

pub(super) struct OneLeader;

/// An interval in which two led.
#[derive(Debug, Clone)]
pub(crate) struct Overlap {
    /// The one with the smaller token.
    pub(crate) older: Term,
    pub(crate) newer: Term,
    pub(crate) from: At,
    pub(crate) end: At,
}

impl Overlap {
    pub(crate) fn lasted(&self) -> Duration {
        self.end.since(self.from)
    }

    /// Reports whether the older one had been deposed, and not for too long.
    pub(super) fn excused(&self, bounds: Bounds) -> bool {
        let deposed = self.older.deposed.filter(|deposed| *deposed <= self.from);
        deposed.is_some_and(|deposed| self.end.since(deposed) <= bounds.deposed)
    }
}

/// All intervals in which two led.
pub(super) fn overlaps(terms: &Terms) -> Vec<Overlap> {
    let mut found = Vec::new();
    let all = terms.all();
    for (place, one) in all.iter().enumerate() {
        for other in &all[place + 1..] {
            let (from, end) = (one.from.max(other.from), one.end.min(other.end));
            if from < end {
                let (older, newer) = if one.token <= other.token { (one, other) } else { (other, one) };
                found.push(Overlap { older: older.clone(), newer: newer.clone(), from, end });
            }
        }
    }
    found
}

impl Invariant for OneLeader {
    fn name(&self) -> &'static str {
        "one leader"
    }

    fn broken_by(&self, case: &Case<'_>) -> Vec<String> {
        let wrong = overlaps(case.terms).into_iter().filter(|overlap| !overlap.excused(case.bounds));
        wrong
            .map(|overlap| {
                let Overlap { older, newer, from, .. } = &overlap;
                let whether = match older.deposed {
                    Some(at) => format!(", the former deposed at {:.3} s", case.history.seconds(at)),
                    None => String::new(),
                };
                format!(
                    "{} (token {}) and {} (token {}) both led for {:?}, from {:.4} s on{whether}",
                    older.who,
                    older.token,
                    newer.who,
                    newer.token,
                    overlap.lasted(),
                    case.history.seconds(*from),
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample::*, *};
    use crate::history::Ending;

    #[test]
    fn finds_two_at_once_by_a_millisecond() {
        let found = broken(&OneLeader, vec![proved(0, "a", 1, 30), proved(29, "b", 2, 60)]);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("a (token 1) and b (token 2) both led for 1ms"), "{found:?}");
    }

    #[test]
    fn lets_the_next_begin_when_the_last_has_ended() {
        assert_eq!(broken(&OneLeader, vec![proved(0, "a", 1, 30), proved(30, "b", 2, 60)]), [""; 0]);
        let ended = ended(9, "a", 1, Some(8), Ending::Resigned);
        assert_eq!(broken(&OneLeader, vec![proved(0, "a", 1, 30), ended, proved(8, "b", 2, 60)]), [""; 0]);
    }

    #[test]
    fn finds_one_within_another_and_beside_a_third() {
        let events = vec![proved(0, "a", 1, 100), proved(10, "b", 2, 20), proved(90, "c", 3, 110)];
        assert_eq!(broken(&OneLeader, events).len(), 2);
    }

    #[test]
    fn excuses_a_leader_deposed_by_a_third_party_but_only_from_then_on() {
        let both = [proved(0, "a", 1, 30), proved(20, "b", 2, 60)];
        let with = |millis| [&both[..], &[deposed(millis, 1)]].concat();
        assert_eq!(broken(&OneLeader, with(19)), [""; 0]);
        assert_eq!(broken(&OneLeader, with(21)).len(), 1);
        // A deposed newer one excuses nothing.
        assert_eq!(broken(&OneLeader, [&both[..], &[deposed(0, 2)]].concat()).len(), 1);
    }

    #[test]
    fn does_not_excuse_for_ever() {
        let limit = bounds().deposed.as_millis() as u64;
        let until = |millis| vec![deposed(0, 1), proved(0, "a", 1, millis), proved(20, "b", 2, 90_000)];
        assert_eq!(broken(&OneLeader, until(limit)), [""; 0]);
        assert_eq!(broken(&OneLeader, until(limit + 1)).len(), 1);
    }
}
