//! Time for which this process may trust that it leads.
//!
//! etcd expires a lease by *its* clock, one TTL after it last handled a renewal. We never see that clock. We
//! know when we *sent* each renewal, and etcd cannot have handled it before that. So trust counts from the
//! send, less a margin for clocks of different rate ([`Ttl::believed_until`](crate::timing::Ttl)), and always
//! ends first.
//!
//! * The end never moves back, even when answers arrive out of order.
//! * An ended validity stays ended. The first thread that finds the deadline passed closes it for all: a
//!   later answer cannot reopen it.
//! * The end is the minimum of independent bounds. etcd needs one, its lease; a second one can
//!   [`join`](Validity::join).
//!
//! [`Validity`] is the pure rule. `SharedValidity` is the same rule in an atomic, written by the renewing
//! thread and read by every working thread. Neither reads a clock: the caller passes in `now`.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::clock::Timestamp;

/// The deadline has passed, or the validity was ended. It is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("validity has ended")]
pub struct Ended;

/// One of the bounds of a [`Validity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound(usize);

impl Bound {
    /// The initial bound of every validity.
    pub const FIRST: Self = Self(0);
}

/// A validity that ends at the minimum of its bounds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[must_use = "an unused validity protects nothing"]
pub struct Validity {
    /// Never empty: the first bound is there from the start.
    bounds: Vec<Timestamp>,
    ended: bool,
}

impl Validity {
    /// Creates a validity that holds until `until`.
    pub fn new(until: Timestamp) -> Self {
        Self { bounds: vec![until], ended: false }
    }

    /// Adds another bound. It can only bring the end nearer.
    pub fn join(&mut self, until: Timestamp) -> Bound {
        self.bounds.push(until);
        Bound(self.bounds.len() - 1)
    }

    /// Moves one bound forward to `until`; an earlier moment changes nothing.
    ///
    /// # Errors
    ///
    /// [`Ended`] if the validity is over at `now`. It is then over for good.
    pub fn extend(&mut self, bound: Bound, until: Timestamp, now: Timestamp) -> Result<Timestamp, Ended> {
        if !self.holds_at(now) {
            return Err(Ended);
        }
        let bound = &mut self.bounds[bound.0];
        *bound = until.max(*bound);
        Ok(self.until())
    }

    /// Returns whether the validity holds at `now`. Once false it stays false.
    pub fn holds_at(&mut self, now: Timestamp) -> bool {
        self.ended |= now >= self.until();
        !self.ended
    }

    /// Ends the validity.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Returns the end of the validity unless a bound moves.
    pub fn until(&self) -> Timestamp {
        self.bounds.iter().copied().min().expect("a validity has a bound from the start")
    }
}

/// A [`Validity`] with one bound, shared by the renewing thread and those that work.
#[derive(Debug)]
pub(crate) struct SharedValidity {
    /// The deadline in nanoseconds, or [`ENDED`].
    until: AtomicU64,
    /// What must not go before the last that could ask.
    _kept: Option<Arc<dyn Any + Send + Sync>>,
}

/// Zero is free as a marker: no deadline of a running machine is at its very start.
const ENDED: u64 = 0;

impl SharedValidity {
    pub(crate) fn new(until: Timestamp) -> Self {
        Self { until: AtomicU64::new(until.as_nanos()), _kept: None }
    }

    /// The same, and something with it that lives as long.
    #[cfg(feature = "etcd")]
    pub(crate) fn keeping(until: Timestamp, kept: Arc<impl Any + Send + Sync>) -> Self {
        Self { _kept: Some(kept), ..Self::new(until) }
    }

    /// Returns whether the validity holds at `now`; closes it for all threads if it does not.
    ///
    /// A renewal that is recorded between the check and the closing wins, and is checked again: it was proved
    /// while the validity still held.
    pub(crate) fn holds_at(&self, now: Timestamp) -> bool {
        let mut until = self.until.load(Ordering::Acquire);
        loop {
            if until == ENDED || now.as_nanos() < until {
                return until != ENDED;
            }
            match self.swap(until, ENDED) {
                Ok(()) => return false,
                Err(newer) => until = newer,
            }
        }
    }

    /// Moves the deadline forward to `until`; see [`Validity::extend`].
    pub(crate) fn extend(&self, until: Timestamp, now: Timestamp) -> Result<Timestamp, Ended> {
        let mut known = self.until.load(Ordering::Acquire);
        loop {
            if known == ENDED {
                return Err(Ended);
            }
            let next = if now.as_nanos() < known { until.as_nanos().max(known) } else { ENDED };
            match self.swap(known, next) {
                Ok(()) if next == ENDED => return Err(Ended),
                Ok(()) => return Ok(Timestamp::from_nanos(next)),
                Err(newer) => known = newer,
            }
        }
    }

    /// Ends the validity for all threads at once.
    pub(crate) fn end(&self) {
        self.until.store(ENDED, Ordering::Release);
    }

    /// Returns the end of the validity unless it is renewed; `None` once it has ended.
    pub(crate) fn until(&self) -> Option<Timestamp> {
        match self.until.load(Ordering::Acquire) {
            ENDED => None,
            until => Some(Timestamp::from_nanos(until)),
        }
    }

    fn swap(&self, from: u64, to: u64) -> Result<(), u64> {
        self.until.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::timing::Ttl;

    const TTL: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(1) + Duration::from_secs(seconds)
    }

    fn ttl() -> Ttl {
        Ttl::new(TTL).unwrap()
    }

    #[test]
    fn contract_2_counts_from_the_send_less_a_margin() {
        let mut validity = Validity::new(ttl().believed_until(at(0)));
        assert!(validity.holds_at(at(4)));
        // From 5 s after the send etcd may have given the key away, so the end is before that.
        assert_eq!(validity.until(), at(4) + Duration::from_millis(500));
        assert!(!validity.holds_at(at(5)));
    }

    #[test]
    fn contract_2_late_answer_cannot_revive_an_ended_validity() {
        let mut validity = Validity::new(at(5));
        // Sent in time, held up on the network until after the deadline.
        let (sent, answered) = (at(4), at(6));
        assert_eq!(validity.extend(Bound::FIRST, ttl().believed_until(sent), answered), Err(Ended));
        assert!(!validity.holds_at(at(4)), "ended stays ended, even for an older clock reading");
    }

    #[test]
    fn contract_2_is_the_minimum_of_its_bounds() {
        let mut validity = Validity::new(at(9));
        let other = validity.join(at(3));
        assert_eq!(validity.until(), at(3));
        assert_eq!(validity.extend(other, at(7), at(1)), Ok(at(7)));
        assert_eq!(validity.extend(other, at(20), at(2)), Ok(at(9)));
    }

    #[test]
    fn contract_3_a_worker_that_finds_the_deadline_behind_it_closes_it_for_all() {
        let shared = SharedValidity::new(at(5));
        assert!(shared.holds_at(at(4)));
        assert!(!shared.holds_at(at(5)));
        // The renewing thread read its clock just before the deadline, and is late to record it.
        assert_eq!(shared.extend(at(9), at(4)), Err(Ended));
        assert_eq!(shared.until(), None);
    }

    /// An operation on a validity, at a moment that may lie behind an earlier one.
    #[derive(Debug, Clone)]
    enum Step {
        Ask { now: u64 },
        Extend { until: u64, now: u64 },
        End,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..60u64).prop_map(|now| Step::Ask { now }),
            4 => (1..60u64, 1..60u64).prop_map(|(until, now)| Step::Extend { until, now }),
            1 => Just(Step::End),
        ]
    }

    proptest! {
        /// The atomic and the pure rule agree on every sequence, the deadline never
        /// moves back, and no step leads from ended to holding.
        #[test]
        fn contract_2_shared_and_pure_rule_agree(steps in prop::collection::vec(step(), 0..40)) {
            let mut pure = Validity::new(at(10));
            let shared = SharedValidity::new(at(10));
            let (mut ended, mut latest) = (false, at(10));
            for step in steps {
                match step {
                    Step::Ask { now } => {
                        let holds = pure.holds_at(at(now));
                        prop_assert_eq!(holds, shared.holds_at(at(now)));
                        prop_assert!(!(ended && holds));
                        ended |= !holds;
                    }
                    Step::Extend { until, now } => {
                        let extended = pure.extend(Bound::FIRST, at(until), at(now));
                        prop_assert_eq!(extended, shared.extend(at(until), at(now)));
                        prop_assert!(!(ended && extended.is_ok()));
                        match extended {
                            Ok(until) => {
                                prop_assert!(until >= latest);
                                latest = until;
                            }
                            Err(Ended) => ended = true,
                        }
                    }
                    Step::End => {
                        pure.end();
                        shared.end();
                        ended = true;
                    }
                }
            }
        }
    }

    #[test]
    fn contract_2_concurrent_askers_and_renewer_never_see_a_revival() {
        for round in 0..200 {
            let shared = SharedValidity::new(at(5));
            std::thread::scope(|scope| {
                let renewer = scope.spawn(|| shared.extend(at(9), at(4)).is_ok());
                let asker = scope.spawn(|| {
                    let first = shared.holds_at(at(6));
                    let second = shared.holds_at(at(6));
                    assert!(first || !second, "round {round}: revived");
                    first
                });
                let (renewed, held) = (renewer.join().unwrap(), asker.join().unwrap());
                assert!(renewed || !held, "round {round}: held without a renewal");
            });
        }
    }
}
