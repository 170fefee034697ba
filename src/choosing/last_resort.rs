//! Last resorts: candidates that lead only while no other can.
//!
//! A candidate is one by its own priority (0), or by a cordon. It waits outside the queue while a candidate
//! stands in it that is not known to be a last resort, leaves the queue for such a one, and hands over to such
//! a one. It never does that for another last resort: two of them would give way to each other for ever, and
//! none would lead.

use std::cmp::Reverse;

use super::{Controls, Priority, field::CandidateField};
use crate::names::CandidateName;

/// Willingness of a candidate to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Willingness {
    /// It takes its turn.
    Always,
    /// It leads while no other can, by its own priority.
    LastResort,
    /// It leads while no other can, by an operator's order.
    Cordoned,
    /// It does not lead at all: `--never`, or a hard cordon.
    Never,
}

/// A leader's step towards other candidates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GiveWay<K> {
    /// Lead on.
    Stay,
    /// Hand over to one of these, the best first; never empty. Those with a member record have to say that
    /// they are ready; the others cannot.
    HandOver { to: Vec<K> },
    /// Give leadership up: there is no such candidate.
    Resign,
}

impl Willingness {
    /// Returns a candidate's own willingness; `never` is its own setting.
    pub(crate) fn of(name: &CandidateName, priority: Priority, never: bool, controls: &Controls) -> Self {
        match controls.cordons.get(name) {
            _ if never => Self::Never,
            Some(cordon) if cordon.hard => Self::Never,
            Some(_) => Self::Cordoned,
            None if priority.is_last_resort() => Self::LastResort,
            None => Self::Always,
        }
    }

    /// Returns whether a candidate that does not lead should be in the queue: if not, it stays out, or leaves.
    ///
    /// `others` are all candidates in the queue but itself, the leader among them.
    pub(crate) fn queues<K: Clone + PartialEq>(
        self,
        others: &CandidateField<K>,
        controls: &Controls,
    ) -> bool {
        match self {
            Self::Always => true,
            Self::LastResort | Self::Cordoned => {
                others.contenders().iter().all(|other| other.is_last_resort(controls))
            }
            Self::Never => false,
        }
    }

    /// Returns a leader's step; `ordered` if an operator ordered its term, which priorities do not undo.
    pub(crate) fn gives_way<K: Clone + PartialEq>(
        self,
        ordered: bool,
        others: &CandidateField<K>,
        controls: &Controls,
    ) -> GiveWay<K> {
        match self {
            Self::Always => return GiveWay::Stay,
            // By priority alone, so a pause and an operator's order hold it.
            Self::LastResort if ordered || controls.paused.is_some() => return GiveWay::Stay,
            Self::LastResort | Self::Cordoned | Self::Never => {}
        }
        let fit = |key: &K| others.passed(key).is_ok();
        let mut to: Vec<_> =
            others.contenders().iter().filter(|one| !one.is_last_resort(controls) && fit(&one.key)).collect();
        // A sort that keeps the order of the queue among equals.
        to.sort_by_key(|one| Reverse(one.priority()));
        match (to.is_empty(), self) {
            (false, _) => GiveWay::HandOver { to: to.into_iter().map(|one| one.key.clone()).collect() },
            (true, Self::Never) => GiveWay::Resign,
            (true, _) => GiveWay::Stay,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::choosing::{
        Cordon, OrderedBy,
        field::tests::{any_field, foreign, name, ours},
    };

    fn by() -> OrderedBy {
        OrderedBy::new("kim@ops1".into(), SystemTime::UNIX_EPOCH)
    }

    fn cordoned(numbers: impl IntoIterator<Item = u32>, hard: bool) -> Controls {
        let cordons = numbers.into_iter().map(|number| (name(number), Cordon::new(hard, by()))).collect();
        Controls { cordons, ..Controls::default() }
    }

    fn queue(all: impl Into<Vec<crate::choosing::field::Contender<u32>>>) -> CandidateField<u32> {
        CandidateField::Queue(all.into())
    }

    #[test]
    fn a_candidate_is_a_last_resort_by_its_priority_or_by_a_cordon() {
        let of = |priority, never, controls: &_| {
            Willingness::of(&name(1), Priority::new(priority), never, controls)
        };
        let none = Controls::default();
        assert_eq!(of(100, false, &none), Willingness::Always);
        assert_eq!(of(0, false, &none), Willingness::LastResort);
        assert_eq!(of(100, false, &cordoned([2], true)), Willingness::Always);
        assert_eq!(of(0, false, &cordoned([1], false)), Willingness::Cordoned);
        assert_eq!(of(100, false, &cordoned([1], true)), Willingness::Never);
        assert_eq!(of(100, true, &none), Willingness::Never);
    }

    #[test]
    fn a_last_resort_stays_out_of_the_queue_while_another_can_lead() {
        let controls = cordoned([2], false);
        let queues = |field| Willingness::LastResort.queues(&queue(field), &controls);
        assert!(queues(vec![]));
        assert!(queues(vec![ours(1, 0), ours(2, 100)]), "last resorts, both");
        assert!(!queues(vec![ours(1, 0), ours(3, 1)]));
        assert!(!queues(vec![foreign(1)]), "foreign ones are none");
        assert!(Willingness::Always.queues(&queue([ours(3, 1)]), &controls));
        assert!(!Willingness::Never.queues(&queue([]), &controls));
    }

    #[test]
    fn a_cordoned_leader_hands_over_but_never_to_another_last_resort() {
        let gives = |willingness: Willingness, field| {
            willingness.gives_way(false, &queue(field), &cordoned([2], false))
        };
        let to = |to: &[u32]| GiveWay::HandOver { to: to.into() };
        let field = || vec![ours(1, 0), ours(2, 100), ours(3, 50), ours(4, 60), foreign(5), ours(6, 100)];
        assert_eq!(gives(Willingness::Cordoned, field()), to(&[5, 4, 3]), "6 is behind a foreign key");
        assert_eq!(gives(Willingness::LastResort, field()), to(&[5, 4, 3]));
        assert_eq!(gives(Willingness::Always, field()), GiveWay::Stay);
        let resorts = || vec![ours(1, 0), ours(2, 100)];
        assert_eq!(gives(Willingness::Cordoned, resorts()), GiveWay::Stay);
        assert_eq!(gives(Willingness::Never, resorts()), GiveWay::Resign);
        assert_eq!(gives(Willingness::Never, field()), to(&[5, 4, 3]));
    }

    #[test]
    fn a_pause_and_an_order_hold_a_last_resort_and_no_cordon() {
        let field = queue([ours(1, 100)]);
        let to = GiveWay::HandOver { to: vec![1] };
        let paused = Controls { paused: Some(by()), ..Controls::default() };
        assert_eq!(Willingness::LastResort.gives_way(false, &field, &paused), GiveWay::Stay);
        assert_eq!(Willingness::LastResort.gives_way(true, &field, &Controls::default()), GiveWay::Stay);
        assert_eq!(Willingness::Cordoned.gives_way(true, &field, &paused), to);
    }

    proptest! {
        /// For all queues: a last resort gives way, and stays out, only for one that is not known to be another.
        #[test]
        fn no_two_last_resorts_give_way_to_each_other(
            field in any_field(), cordons in prop::collection::vec(0..6u32, 0..4), own in 0..4usize,
        ) {
            let controls = cordoned(cordons, false);
            let own = [Willingness::Always, Willingness::LastResort, Willingness::Cordoned, Willingness::Never][own];
            let resort = |key: &u32| field.find(key).unwrap().is_last_resort(&controls);
            if let GiveWay::HandOver { to } = own.gives_way(false, &field, &controls) {
                prop_assert!(!to.is_empty());
                for key in &to {
                    prop_assert!(!resort(key) && field.passed(key).is_ok());
                }
            }
            if field.contenders().iter().all(|one| resort(&one.key)) && own != Willingness::Never {
                prop_assert!(own.queues(&field, &controls));
                prop_assert_eq!(own.gives_way(false, &field, &controls), GiveWay::Stay);
            }
        }
    }
}
