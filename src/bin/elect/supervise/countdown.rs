//! The times of TERM and KILL for a running command: a pure function of the guard's orders, and the clock.
//!
//! * Time runs out: TERM and KILL by the [`Budget`]. Nothing takes back a TERM for that reason, not even a
//!   renewal.
//! * Told to stop: KILL after `kill_after`, but never later than the budget allows. Renewals extend that.

use leader_election::clock::Timestamp;

use super::budget::Budget;

/// The step to take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KillStep {
    Nothing,
    Terminate,
    Kill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CountdownState {
    Free,
    /// Told to stop: KILL by then at the latest.
    Told {
        kill_at: Timestamp,
    },
    /// TERM was sent because time ran out. Fixed.
    RanOut {
        kill_at: Timestamp,
    },
    Killed,
}

/// The time of one run of the command.
#[derive(Debug)]
pub(crate) struct Countdown {
    budget: Budget,
    until: Timestamp,
    stage: CountdownState,
    ran_out: bool,
}

impl Countdown {
    /// Begins for a command that is about to start under a leadership proved until then. `None` if it would
    /// have to be stopped at once.
    pub(crate) fn begin(budget: Budget, until: Timestamp, now: Timestamp) -> Option<Self> {
        let countdown = Self { budget, until, stage: CountdownState::Free, ran_out: false };
        (now < budget.terminate_at(until)).then_some(countdown)
    }

    /// Extends the proved time. It never moves back.
    pub(crate) fn extend(&mut self, until: Timestamp) {
        self.until = self.until.max(until);
    }

    /// The command was told to stop, by a signal that the user chose.
    pub(crate) fn stop(&mut self, now: Timestamp) {
        if self.stage == CountdownState::Free {
            self.stage = CountdownState::Told { kill_at: now + self.budget.kill_after() };
        }
    }

    /// KILL was ordered.
    pub(crate) fn kill(&mut self) {
        self.stage = CountdownState::Killed;
    }

    /// Returns the step for this moment, once.
    pub(crate) fn due(&mut self, now: Timestamp) -> KillStep {
        if self.stage == CountdownState::Killed || now < self.next() {
            return KillStep::Nothing;
        }
        // Late by all of `kill_after`, as after a freeze: no time is left for TERM.
        let too_late = now >= self.budget.kill_at(self.until);
        if self.stage == CountdownState::Free {
            self.ran_out = true;
            if !too_late {
                let kill_at = self.budget.kill_at(self.until).min(now + self.budget.kill_after());
                self.stage = CountdownState::RanOut { kill_at };
                return KillStep::Terminate;
            }
        }
        self.stage = CountdownState::Killed;
        KillStep::Kill
    }

    /// Returns the time of the next step. After KILL there is none.
    pub(crate) fn next(&self) -> Timestamp {
        match self.stage {
            CountdownState::Free => self.budget.terminate_at(self.until),
            CountdownState::Told { kill_at } => kill_at.min(self.budget.kill_at(self.until)),
            CountdownState::RanOut { kill_at } => kill_at,
            CountdownState::Killed => Timestamp::from_nanos(u64::MAX),
        }
    }

    /// Returns when the kernel, or the supervisor, takes over if nothing was done by then. It never moves
    /// back.
    pub(crate) fn backstop(&self) -> Timestamp {
        self.budget.backstop(self.until)
    }

    /// Returns whether the command was told to stop and has time left to do so.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(self.stage, CountdownState::Told { .. } | CountdownState::RanOut { .. })
    }

    /// Returns whether it was stopped because time ran out, and not by an order.
    pub(crate) fn ran_out(&self) -> bool {
        self.ran_out
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use leader_election::timing::Ttl;
    use proptest::prelude::*;

    use super::{super::budget::KillAfter, *};
    use crate::lease_timing::LeaseTiming;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    /// TTL 5 s, 1 s from TERM to KILL: TERM 1250 ms and KILL 250 ms before the end.
    fn budget() -> Budget {
        Budget::new(LeaseTiming::Lease(Ttl::DEFAULT), KillAfter::Given(Duration::from_secs(1))).unwrap()
    }

    fn begun(until: Timestamp) -> Countdown {
        Countdown::begin(budget(), until, at(0)).unwrap()
    }

    #[test]
    fn without_a_renewal_term_and_kill_come_before_the_end() {
        let mut countdown = begun(at(4500));
        assert_eq!(countdown.due(at(3249)), KillStep::Nothing);
        assert_eq!(countdown.due(at(3250)), KillStep::Terminate);
        assert_eq!(countdown.due(at(4249)), KillStep::Nothing);
        assert_eq!(countdown.due(at(4250)), KillStep::Kill);
        assert!(countdown.ran_out());
    }

    #[test]
    fn a_renewal_after_term_takes_nothing_back() {
        let mut countdown = begun(at(4500));
        assert_eq!(countdown.due(at(3250)), KillStep::Terminate);
        countdown.extend(at(9000));
        assert_eq!(countdown.due(at(4250)), KillStep::Kill);
    }

    #[test]
    fn after_a_freeze_past_the_time_for_kill_there_is_no_term() {
        assert_eq!(begun(at(4500)).due(at(60_000)), KillStep::Kill);
    }

    #[test]
    fn told_to_stop_it_has_its_time_as_long_as_the_lease_is_renewed() {
        let mut countdown = begun(at(4500));
        countdown.stop(at(3000));
        countdown.extend(at(6000));
        assert_eq!(countdown.due(at(3999)), KillStep::Nothing);
        assert_eq!(countdown.due(at(4000)), KillStep::Kill);
        assert!(!countdown.ran_out());
    }

    #[test]
    fn told_to_stop_it_has_no_more_time_than_the_lease() {
        let mut countdown = begun(at(4500));
        countdown.stop(at(3900));
        assert_eq!(countdown.due(at(4250)), KillStep::Kill);
    }

    #[test]
    fn nothing_starts_that_would_have_to_stop() {
        assert!(Countdown::begin(budget(), at(4500), at(3250)).is_none());
        assert!(Countdown::begin(budget(), at(4500), at(3249)).is_some());
    }

    proptest! {
        /// For all inputs and delays: at each step past the time for KILL, KILL was returned.
        #[test]
        fn kill_is_said_in_time_whatever_happens(
            what in prop::collection::vec((0u8..3, 0u64..2_000), 1..60),
        ) {
            let (mut now, mut until) = (at(0), at(4500));
            let mut countdown = begun(until);
            let mut killed = false;
            for (kind, pause) in what {
                now = now + Duration::from_millis(pause);
                match kind {
                    0 => {
                        until = until.max(now + Duration::from_millis(4500 - 500));
                        countdown.extend(until);
                    }
                    1 => countdown.stop(now),
                    _ => {}
                }
                loop {
                    match countdown.due(now) {
                        KillStep::Kill => killed = true,
                        KillStep::Terminate => {}
                        KillStep::Nothing => break,
                    }
                }
                prop_assert!(killed || now < budget().kill_at(until));
                prop_assert!(killed || countdown.next() <= budget().kill_at(until));
            }
        }
    }
}
