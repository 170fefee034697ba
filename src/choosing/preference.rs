//! Leadership moves to a candidate of a higher priority, seldom and never back.
//!
//! Only the leader decides. It hands over to the highest priority *above* its own: an equal one never moves
//! it, or two would take turns. It waits until that candidate has proved steady, and its own tenure has lasted.
//! While a higher one is still new, a lower one does not get the term in its place: so after any event from
//! outside (a candidate came or went, an operator's order) leadership moves at most once.

use std::{
    cmp::Reverse,
    time::{Duration, SystemTime},
};

use super::{Controls, PastTerm, Priority, TermEnding, field::CandidateField};
use crate::clock::Timestamp;

/// Shortest time in the queue after which a candidate may be preferred.
pub(crate) const STEADY: Duration = Duration::from_secs(30);

/// Age beyond which a term that was lost by force does not count any more.
pub(crate) const LATELY: Duration = Duration::from_secs(24 * 60 * 60);

/// Most doublings of the shortest tenure: 10 minutes become 10 hours 40 minutes.
pub(crate) const MOST_DOUBLINGS: u32 = 6;

/// The durations of the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PriorityRule {
    steady: Duration,
    min_tenure: Duration,
}

/// The present term, as far as the rule uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tenure {
    pub(crate) priority: Priority,
    pub(crate) since: Timestamp,
    /// An operator ordered this leader: no priority undoes that.
    pub(crate) ordered: bool,
    /// Number of terms that were [lost lately](lost_lately).
    pub(crate) losses: u32,
}

/// Decision of the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PriorityStep<K> {
    /// Nothing will change by time alone.
    Stay,
    /// Nothing changes before this moment.
    LookAt(Timestamp),
    /// Hand over to this one, by a [`TransferOrder`](super::order::TransferOrder) of the leader's own.
    HandOver { to: K },
}

impl PriorityRule {
    /// Creates the rule; `failure_detection` is the time within which a dead candidate drops out: the TTL.
    pub(crate) fn new(failure_detection: Duration, min_tenure: Duration) -> Self {
        Self { steady: (2 * failure_detection).max(STEADY), min_tenure }
    }

    /// Creates a rule without waits, for models without time.
    #[cfg(test)]
    pub(crate) fn impatient() -> Self {
        Self { steady: Duration::ZERO, min_tenure: Duration::ZERO }
    }

    pub(crate) fn see<K: Clone + PartialEq>(
        &self,
        now: Timestamp,
        tenure: &Tenure,
        field: &CandidateField<K>,
        controls: &Controls,
    ) -> PriorityStep<K> {
        if tenure.ordered || controls.paused.is_some() {
            return PriorityStep::Stay;
        }
        let above = field.contenders().iter().filter(|one| {
            // An unknown one has no rank, and cannot say that it is ready.
            one.member.is_some()
                && one.priority() > tenure.priority
                && one.cordon(controls).is_none()
                && field.passed(&one.key).is_ok()
        });
        let Some(highest) = above.min_by_key(|one| Reverse(one.priority())) else {
            return PriorityStep::Stay;
        };
        let shortest = self.min_tenure.saturating_mul(1 << tenure.losses.min(MOST_DOUBLINGS));
        let due = (tenure.since + shortest).max(highest.waited(self.steady));
        if now < due { PriorityStep::LookAt(due) } else { PriorityStep::HandOver { to: highest.key.clone() } }
    }
}

/// Counts the terms of a history that ended by force within the last day.
pub(crate) fn lost_lately(history: &[PastTerm], now: SystemTime) -> u32 {
    let lately = |at: &SystemTime| now.duration_since(*at).is_ok_and(|age| age <= LATELY);
    let lost = history.iter().filter(|term| {
        term.ended == Some(TermEnding::Lost) && term.until.as_ref().or(term.from.as_ref()).is_some_and(lately)
    });
    lost.count().try_into().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::choosing::{
        Cordon, OrderedBy, TransferReason,
        field::{
            Contender,
            tests::{foreign, name, ours},
        },
    };
    use crate::leadership::FencingToken;

    const MIN_TENURE: Duration = Duration::from_secs(600);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(0) + Duration::from_secs(seconds)
    }

    fn rule() -> PriorityRule {
        PriorityRule::new(Duration::from_secs(5), MIN_TENURE)
    }

    fn tenure(priority: u32) -> Tenure {
        Tenure { priority: Priority::new(priority), since: at(0), ordered: false, losses: 0 }
    }

    fn queue(all: impl Into<Vec<Contender<u32>>>) -> CandidateField<u32> {
        CandidateField::Queue(all.into())
    }

    fn by() -> OrderedBy {
        OrderedBy::new("kim@ops1".into(), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn a_higher_priority_leads_once_tenure_and_candidate_are_old_enough() {
        let field = queue([ours(1, 150), Contender { since: at(590), ..ours(2, 200) }]);
        let none = Controls::default();
        let seen = |now| rule().see(now, &tenure(100), &field, &none);
        assert_eq!(seen(at(1)), PriorityStep::LookAt(at(620)), "not the lower one in the meantime");
        assert_eq!(seen(at(620)), PriorityStep::HandOver { to: 2 });
        let slow = PriorityRule::new(Duration::from_secs(60), Duration::ZERO);
        let step = slow.see(at(600), &tenure(100), &field, &none);
        assert_eq!(step, PriorityStep::LookAt(at(710)), "two TTLs");
    }

    #[test]
    fn an_equal_priority_never_moves_leadership() {
        let step =
            rule().see(at(10_000), &tenure(100), &queue([ours(1, 100), ours(2, 99)]), &Controls::default());
        assert_eq!(step, PriorityStep::Stay);
    }

    #[test]
    fn of_several_the_first_in_the_queue_leads() {
        let field = queue([ours(1, 150), ours(2, 200), ours(3, 200)]);
        let step = rule().see(at(600), &tenure(100), &field, &Controls::default());
        assert_eq!(step, PriorityStep::HandOver { to: 2 });
    }

    #[test]
    fn orders_pauses_cordons_and_foreign_keys_hold_leadership() {
        let (field, none) = (queue([ours(1, 200)]), Controls::default());
        let see = |tenure: &Tenure, field: &_, controls: &_| rule().see(at(10_000), tenure, field, controls);
        assert_eq!(see(&tenure(100), &field, &none), PriorityStep::HandOver { to: 1 });
        assert_eq!(see(&Tenure { ordered: true, ..tenure(100) }, &field, &none), PriorityStep::Stay);
        let paused = Controls { paused: Some(by()), ..Controls::default() };
        assert_eq!(see(&tenure(100), &field, &paused), PriorityStep::Stay);
        let cordons = [(name(1), Cordon::new(false, by()))].into();
        let cordoned = Controls { cordons, ..Controls::default() };
        assert_eq!(see(&tenure(100), &field, &cordoned), PriorityStep::Stay);
        assert_eq!(see(&tenure(100), &queue([foreign(1), ours(2, 200)]), &none), PriorityStep::Stay);
        assert_eq!(see(&tenure(50), &queue([foreign(1)]), &none), PriorityStep::Stay, "it has no rank");
    }

    #[test]
    fn each_term_lost_by_force_doubles_the_shortest_tenure() {
        let step = |losses| {
            let tenure = Tenure { losses, ..tenure(100) };
            rule().see(at(600), &tenure, &queue([ours(1, 200)]), &Controls::default())
        };
        assert_eq!(step(0), PriorityStep::HandOver { to: 1 });
        assert_eq!(step(1), PriorityStep::LookAt(at(1200)));
        assert_eq!(step(2), PriorityStep::LookAt(at(2400)));
        assert_eq!(step(1000), PriorityStep::LookAt(at(600 * 64)));
    }

    #[test]
    fn only_terms_that_were_lost_within_a_day_count() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let term = |ended, hours: u64| PastTerm {
            leader: "server1".into(),
            token: FencingToken::new(1),
            from: None,
            until: Some(now - Duration::from_secs(hours * 3600)),
            ended: Some(ended),
        };
        let moved = TermEnding::Transferred { to: "server2".into(), reason: TransferReason::Priority };
        let history = [
            term(TermEnding::Lost, 25),
            term(TermEnding::Lost, 23),
            term(TermEnding::Resigned, 2),
            term(moved, 1),
            term(TermEnding::Lost, 0),
        ];
        assert_eq!(lost_lately(&history, now), 2);
    }

    /// A queue with its leader at the head, a step a second.
    struct Simulated {
        now: u64,
        next: u32,
        /// Key, priority, and since when it waits.
        queue: Vec<(u32, u32, u64)>,
        since: u64,
    }

    impl Simulated {
        fn join(&mut self, priority: u32) {
            self.queue.push((self.next, priority, self.now));
            self.next += 1;
        }

        /// Lets the leader look; returns true if leadership moved.
        fn looks(&mut self) -> bool {
            let Some((&(own, priority, _), others)) = self.queue.split_first() else { return false };
            let one = |&(key, priority, since): &_| Contender { since: at(since), ..ours(key, priority) };
            let field = queue(others.iter().map(one).collect::<Vec<_>>());
            let tenure = Tenure { since: at(self.since), ..tenure(priority) };
            let step = rule().see(at(self.now), &tenure, &field, &Controls::default());
            let PriorityStep::HandOver { to } = step else { return false };
            let passed = field.passed(&to).unwrap();
            let again = self.queue.extract_if(.., |(key, ..)| *key == own || passed.contains(key));
            let again: Vec<_> = again.map(|(_, priority, _)| priority).collect();
            again.into_iter().for_each(|priority| self.join(priority));
            self.since = self.now;
            true
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// For all comings and goings: between two of them leadership moves at most once, to one of the
        /// highest priority. Those that are passed queue again.
        #[test]
        fn leadership_moves_at_most_once_after_any_outside_event(
            events in prop::collection::vec((1..1500u64, prop::option::of(0..4u32), 0..8usize), 1..12),
        ) {
            let mut all = Simulated { now: 0, next: 0, queue: Vec::new(), since: 0 };
            for (pause, joins, leaves) in events {
                match joins {
                    Some(priority) => all.join(priority),
                    None if leaves < all.queue.len() => {
                        all.queue.remove(leaves);
                        if leaves == 0 {
                            all.since = all.now;
                        }
                    }
                    None => {}
                }
                let mut moves = 0;
                for _ in 0..pause {
                    moves += usize::from(all.looks());
                    all.now += 1;
                }
                prop_assert!(moves <= 1, "{moves} moves");
                if pause > MIN_TENURE.as_secs() + 31
                    && let Some((_, leads, _)) = all.queue.first()
                {
                    prop_assert!(all.queue.iter().all(|(_, priority, _)| priority <= leads));
                }
            }
        }
    }
}
