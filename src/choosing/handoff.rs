//! The transactions of a transfer on etcd, as data.
//!
//! `src/etcd/` turns a [`Plan`] into a transaction, and the model executes the very same plan.
//!
//! Everything is compared by etcd. A leader's transaction may arrive at any later time, and more than once: it
//! does nothing unless the leader's key is the one that it won with. While that key stands, none behind it was
//! ever the first, so no candidate behind it leads or believes that it might.
//!
//! etcd makes all compares of a transaction, nested ones too, before its first write. No plan here compares a
//! key that it has written.

/// A plan of compares and operations, nested as etcd's transactions are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan<K, N> {
    /// Runs `then` if all of `there` exist as they were made (by `create_revision`) and none of `absent`
    /// exists; else `otherwise`.
    If { there: Vec<K>, absent: Vec<N>, then: Vec<Self>, otherwise: Vec<Self> },
    /// Deletes a key that was compared before.
    Delete(K),
    /// Writes the end of the term to the history.
    Record(HandoffEnd),
    /// Writes the order's key, on the operator's own lease.
    PlaceOrder,
    /// Writes the leader's refusal into the order's key, which stays on the operator's lease.
    AnswerOrder,
}

/// End of a term in the transaction of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum HandoffEnd {
    /// The target is the first now.
    Transferred,
    /// The target was gone; whichever candidate is next follows.
    Void,
}

/// An accepted transfer. Keys are identified by name and `create_revision`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HandoffKeys<K> {
    /// The leader's key, as it won with it.
    pub(crate) own: K,
    pub(crate) target: K,
    /// Those of ours before the target.
    pub(crate) passed: Vec<K>,
    /// The order's key; `None` if no operator ordered it.
    pub(crate) order: Option<K>,
}

impl<K: Clone> HandoffKeys<K> {
    /// Returns the one transaction that ends the term. The leader's belief must have ended before it is sent.
    pub(crate) fn plan<N>(&self) -> Plan<K, N> {
        let leave = |passed: &[K], end| {
            let gone = passed.iter().chain(&self.order).map(Plan::delete_if_there);
            [Plan::Delete(self.own.clone())].into_iter().chain(gone).chain([Plan::Record(end)]).collect()
        };
        let by_target = Plan::If {
            there: vec![self.target.clone()],
            absent: Vec::new(),
            then: leave(&self.passed, HandoffEnd::Transferred),
            otherwise: leave(&[], HandoffEnd::Void),
        };
        Plan::when([self.own.clone()], [by_target])
    }
}

impl<K: Clone, N> Plan<K, N> {
    /// Returns an operator's transaction that places an order: it is for this leader and this target, and
    /// there is no other.
    pub(crate) fn place_order(leader: K, target: K, order: N) -> Self {
        let (then, otherwise) = (vec![Self::PlaceOrder], Vec::new());
        Self::If { there: vec![leader, target], absent: vec![order], then, otherwise }
    }

    /// Returns a leader's transaction that refuses an order.
    pub(crate) fn refuse_order(own: K, order: K) -> Self {
        Self::when([own, order], [Self::AnswerOrder])
    }

    /// One of ours that is gone by itself, or stands anew, must not spoil the rest.
    fn delete_if_there(key: &K) -> Self {
        Self::when([key.clone()], [Self::Delete(key.clone())])
    }

    fn when(there: impl Into<Vec<K>>, then: impl Into<Vec<Self>>) -> Self {
        Self::If { there: there.into(), absent: Vec::new(), then: then.into(), otherwise: Vec::new() }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A store that executes plans, for this test and for the model.
    pub(crate) trait PlanStore<K, N> {
        fn has(&self, key: &K) -> bool;
        fn has_name(&self, name: &N) -> bool;
        /// Executes an operation, which is not a nested plan.
        fn operate(&mut self, operation: &Plan<K, N>);
    }

    /// Executes a plan as etcd would, in one step.
    pub(crate) fn execute<K, N>(plan: &Plan<K, N>, store: &mut impl PlanStore<K, N>) {
        let Plan::If { there, absent, then, otherwise } = plan else { return store.operate(plan) };
        let holds = there.iter().all(|key| store.has(key)) && !absent.iter().any(|name| store.has_name(name));
        for nested in if holds { then } else { otherwise } {
            execute(nested, store);
        }
    }

    /// Names with the revisions that made them.
    #[derive(Debug, Clone, Default, PartialEq)]
    struct Keys {
        made: BTreeMap<u8, i64>,
        records: Vec<HandoffEnd>,
    }

    type Made = (u8, i64);

    impl PlanStore<Made, u8> for Keys {
        fn has(&self, (name, created): &Made) -> bool {
            self.made.get(name) == Some(created)
        }

        fn has_name(&self, name: &u8) -> bool {
            self.made.contains_key(name)
        }

        fn operate(&mut self, operation: &Plan<Made, u8>) {
            match operation {
                Plan::Delete(key) => assert_eq!(self.made.remove(&key.0), Some(key.1)),
                Plan::Record(end) => self.records.push(*end),
                Plan::If { .. } | Plan::PlaceOrder | Plan::AnswerOrder => unreachable!("{operation:?}"),
            }
        }
    }

    const ORDER: Made = (9, 90);

    fn handoff() -> HandoffKeys<Made> {
        HandoffKeys { own: (0, 1), target: (3, 4), passed: vec![(1, 2), (2, 3)], order: Some(ORDER) }
    }

    fn after(made: &[Made]) -> (Vec<Made>, Vec<HandoffEnd>) {
        let mut keys = Keys { made: made.iter().copied().collect(), records: Vec::new() };
        execute(&handoff().plan(), &mut keys);
        (keys.made.into_iter().collect(), keys.records)
    }

    #[test]
    fn a_transfer_clears_those_in_between() {
        let left = after(&[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), ORDER]);
        assert_eq!(left, (vec![(3, 4), (4, 5)], vec![HandoffEnd::Transferred]));
    }

    #[test]
    fn without_its_target_a_transfer_is_void_and_clears_no_other() {
        let left = after(&[(0, 1), (1, 2), (2, 3), (3, 44), ORDER]);
        assert_eq!(left, (vec![(1, 2), (2, 3), (3, 44)], vec![HandoffEnd::Void]));
    }

    #[test]
    fn a_key_that_went_by_itself_or_stands_anew_does_not_spoil_a_transfer() {
        let left = after(&[(0, 1), (2, 33), (3, 4), (9, 91)]);
        assert_eq!(left, (vec![(2, 33), (3, 4), (9, 91)], vec![HandoffEnd::Transferred]));
    }

    #[test]
    fn an_order_is_placed_once_and_for_one_term() {
        let place = Plan::<_, u8>::place_order((0, 1), (3, 4), 9);
        let there = |made: &[Made]| {
            let Plan::If { there, absent, then, otherwise } = &place else { panic!("{place:?}") };
            assert_eq!((then, otherwise), (&vec![Plan::PlaceOrder], &vec![]));
            let keys = Keys { made: made.iter().copied().collect(), ..Keys::default() };
            there.iter().all(|key| keys.has(key)) && !absent.iter().any(|name| keys.has_name(name))
        };
        assert!(there(&[(0, 1), (3, 4)]));
        assert!(!there(&[(0, 5), (3, 4)]) && !there(&[(0, 1)]) && !there(&[(0, 1), (3, 4), (9, 8)]));
    }

    proptest! {
        /// For all keys that etcd may have by then, and however often it arrives.
        #[test]
        fn contract_10_a_transfer_deletes_only_the_very_keys_that_were_judged(
            made in prop::collection::btree_map(0..10u8, 0..8i64, 0..10), times in 1..3,
        ) {
            let mut keys = Keys { made: made.clone(), records: Vec::new() };
            for _ in 0..times {
                execute(&handoff().plan(), &mut keys);
            }
            let HandoffKeys { own, target, passed, order } = handoff();
            let there = |(name, created): Made| made.get(&name) == Some(&created);
            if !there(own) {
                prop_assert_eq!(&keys.made, &made, "a late one does nothing");
            }
            prop_assert_eq!(keys.records.len(), usize::from(there(own)));
            for (name, created) in &made {
                let key = (*name, *created);
                let cleared = passed.contains(&key) && there(target);
                let may_go = key == own || Some(key) == order || cleared;
                prop_assert_eq!(keys.made.contains_key(name), !(may_go && there(own)));
            }
        }
    }
}
