//! The time to end a command, all counted back from the end of validity.
//!
//! ```text
//!  send of the last renewal that was answered                                                  the next one
//!  │                                                                                             may lead
//!  ├── renewal interval ──┬── patience ──┬─ spare ─┬──── kill after ────┬──── grace ────┬── margin ──┤
//!  0                                             TERM                 KILL            until         TTL
//! ```
//!
//! Among peers a heartbeat is the renewal, and the shortest election timeout takes the TTL's place.
//!
//! A budget exists only if the spare time is not negative: then one renewal may go unanswered for all of its
//! patience, and be repeated elsewhere, before the command is affected. Pure; all spans are of the boot-time
//! clock.

use std::{fmt, time::Duration};

use leader_election::{clock::Timestamp, peers::Timing, timing::Ttl};

use crate::lease_timing::{LeaseTiming, written};

/// Time between KILL and the end of validity.
///
/// It covers the time from a timer to the end of the last process: the guard gets the processor late on a
/// machine under load, each generation of processes costs a scan of `/proc`, and a large process takes a
/// while to exit.
pub(crate) const GRACE: Duration = Duration::from_millis(250);

/// Time for one of the two processes to carry out an order, before the other counts it as stuck. Half of the
/// grace, so that the other half is left for doing it in its place.
pub(crate) const ALLOWANCE: Duration = Duration::from_millis(125);

/// Default share of the TTL, or of the shortest election timeout, for stopping the command.
const USUAL_SHARE: u32 = 5;

/// A consistent plan: made by [`new`](Self::new) only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    proof: LeaseTiming,
    kill_after: Duration,
}

/// The time between TERM and KILL, if it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KillAfter {
    Given(Duration),
    Usual,
}

impl KillAfter {
    fn under(self, proof: LeaseTiming) -> Duration {
        match self {
            Self::Given(span) => span,
            Self::Usual => proof.span() / USUAL_SHARE,
        }
    }
}

/// Stopping takes longer than this proof leaves time for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} does not fit into {} {proof}: {}", self.what(), flag(*proof), self.remedy())]
pub(crate) struct Impossible {
    proof: LeaseTiming,
    kill_after: KillAfter,
    /// The smallest proof that would be enough, if any is.
    pub(crate) smallest: Option<LeaseTiming>,
    /// The longest time that this one leaves, if any.
    longest: Option<Duration>,
}

impl Impossible {
    fn what(&self) -> String {
        match self.kill_after {
            KillAfter::Given(span) => format!("--kill-after {}", written(span)),
            KillAfter::Usual => "stopping a command".into(),
        }
    }

    fn remedy(&self) -> String {
        let flag = flag(self.proof);
        let larger = self.smallest.map(|smallest| format!("{flag} {smallest} is the smallest that would do"));
        let shorter = self
            .longest
            .map(|longest| format!("--kill-after {} is the longest for this one", written(longest)));
        match (larger, shorter) {
            (Some(larger), Some(shorter)) => format!("{larger}, or {shorter}"),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => format!("no {flag} is long enough"),
        }
    }
}

const fn flag(proof: LeaseTiming) -> &'static str {
    match proof {
        LeaseTiming::Lease(_) => "--ttl",
        LeaseTiming::Heartbeats(_) => "--election-timeout",
    }
}

impl Budget {
    /// # Errors
    ///
    /// The smallest proof that would be enough, if stopping does not fit into this one.
    pub(crate) fn new(proof: LeaseTiming, kill_after: KillAfter) -> Result<Self, Box<Impossible>> {
        if spare(proof, kill_after.under(proof)).is_some() {
            return Ok(Self { proof, kill_after: kill_after.under(proof) });
        }
        let longest = spare(proof, Duration::ZERO).map(|left| Duration::from_millis(left.as_millis() as u64));
        Err(Box::new(Impossible { proof, kill_after, smallest: smallest(proof, kill_after), longest }))
    }

    /// Returns the time between TERM and KILL.
    pub(crate) fn kill_after(self) -> Duration {
        self.kill_after
    }

    /// Returns when TERM must be sent, given the end of the proved time.
    pub(crate) fn terminate_at(self, until: Timestamp) -> Timestamp {
        until - GRACE - self.kill_after
    }

    /// Returns when KILL must be sent.
    pub(crate) fn kill_at(self, until: Timestamp) -> Timestamp {
        until - GRACE
    }

    /// Returns when the supervisor acts itself, if the guard has not reported the end by then.
    pub(crate) fn backstop(self, until: Timestamp) -> Timestamp {
        until - GRACE + ALLOWANCE
    }
}

/// Returns the spare time in the plan, or `None` if it does not fit.
fn spare(proof: LeaseTiming, kill_after: Duration) -> Option<Duration> {
    let needed = proof.interval() + proof.patience() + kill_after.checked_add(GRACE)?;
    proof.certain().checked_sub(needed)
}

/// Returns the smallest proof of its kind that leaves enough time.
fn smallest(proof: LeaseTiming, kill_after: KillAfter) -> Option<LeaseTiming> {
    let fits = |proof: LeaseTiming| spare(proof, kill_after.under(proof)).is_some();
    match proof {
        LeaseTiming::Lease(_) => {
            let lease =
                |seconds| Ttl::try_from(seconds).ok().map(LeaseTiming::Lease).filter(|proof| fits(*proof));
            least(Ttl::MAX.as_secs(), lease)
        }
        // With the same heartbeat, and a range as wide as the default.
        LeaseTiming::Heartbeats(timing) => {
            let range = |millis: u32| {
                let shortest = Duration::from_millis(millis.into());
                let timing = Timing::new(timing.heartbeat(), shortest, 2 * shortest).ok()?;
                Some(LeaseTiming::Heartbeats(timing)).filter(|proof| fits(*proof))
            };
            least(LONGEST_SHORTEST, range)
        }
    }
}

/// Milliseconds: twice that is the longest possible election timeout.
const LONGEST_SHORTEST: u32 = 1_800_000;

/// Finds the first that fits by bisection: the available time grows in proportion, the needed time by less.
fn least(most: u32, fitting: impl Fn(u32) -> Option<LeaseTiming>) -> Option<LeaseTiming> {
    let (mut below, mut above, mut found) = (0, most, fitting(most)?);
    while above - below > 1 {
        let middle = below + (above - below) / 2;
        match fitting(middle) {
            Some(proof) => (above, found) = (middle, proof),
            None => below = middle,
        }
    }
    Some(found)
}

/// The table of `--explain`.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { proof, kill_after } = *self;
        let start = Timestamp::from_nanos(0);
        let until = start + proof.certain();
        let spare = spare(proof, kill_after).unwrap_or_default();
        let mut row = |what: &str, span: Duration, why: &str| {
            let span = humantime::format_duration(Duration::from_millis(span.as_millis() as u64)).to_string();
            writeln!(f, "{what:<18}{span:<12}{why}")
        };
        let (of_proof, interval, one, next) = match proof {
            LeaseTiming::Lease(_) => (
                ("TTL", "how long etcd keeps a lease that is not renewed (--ttl)"),
                ("renewal interval", "from one renewal to the next"),
                "renewal",
                "etcd lets the next one lead",
            ),
            LeaseTiming::Heartbeats(_) => (
                (
                    "election timeout",
                    "how long a member that heard the leader votes for no other (--election-timeout)",
                ),
                ("heartbeat", "from one heartbeat to the next (--heartbeat)"),
                "heartbeat",
                "the others may elect the next one",
            ),
        };
        row(of_proof.0, proof.span(), of_proof.1)?;
        row("margin", proof.margin(), "taken off for clocks that run at different rates")?;
        row(interval.0, proof.interval(), interval.1)?;
        row("patience", proof.patience(), &format!("how long a {one} may go unanswered"))?;
        row("kill after", kill_after, "from TERM to KILL (--kill-after)")?;
        row("grace", GRACE, "from KILL to the end of validity: all is dead by then")?;
        row("spare", spare, "what is left over")?;
        writeln!(f, "\nWithout another {one}, counted from when the last one was sent:")?;
        let mut row = |at: Timestamp, what: &str| {
            let at = Duration::from_millis(at.since(start).as_millis() as u64);
            writeln!(f, "{:<18}{what}", humantime::format_duration(at).to_string())
        };
        row(self.terminate_at(until), "TERM to the command's process group")?;
        row(self.kill_at(until), "KILL to all that is left of it")?;
        row(until, "leadership ends; none of it is alive")?;
        row(start + proof.span(), next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ttl(seconds: u32) -> LeaseTiming {
        LeaseTiming::Lease(Ttl::try_from(seconds).unwrap())
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn peers(heartbeat: u64, shortest: u64) -> LeaseTiming {
        LeaseTiming::Heartbeats(Timing::new(ms(heartbeat), ms(shortest), ms(2 * shortest)).unwrap())
    }

    fn any_proof() -> impl Strategy<Value = LeaseTiming> {
        let heartbeats =
            (1..=500u64, 3..1000u64).prop_map(|(heartbeat, times)| peers(heartbeat, heartbeat * times));
        prop_oneof![(1..=60u32).prop_map(ttl), (1..=Ttl::MAX.as_secs()).prop_map(ttl), heartbeats]
    }

    fn any_kill_after() -> impl Strategy<Value = KillAfter> {
        let given = |millis| KillAfter::Given(ms(millis));
        prop_oneof![
            (0..60_000u64).prop_map(given),
            (0..100_000_000u64).prop_map(given),
            Just(KillAfter::Usual)
        ]
    }

    proptest! {
        #[test]
        fn an_accepted_budget_leaves_time_for_an_unanswered_renewal(
            proof in any_proof(), kill_after in any_kill_after(), sent in 0..u64::from(u32::MAX),
        ) {
            if let Ok(budget) = Budget::new(proof, kill_after) {
                let sent = Timestamp::from_nanos(sent);
                let until = sent + proof.certain();
                let given_up = sent + proof.interval() + proof.patience();
                prop_assert!(given_up <= budget.terminate_at(until));
                prop_assert_eq!(budget.kill_at(until).since(budget.terminate_at(until)), kill_after.under(proof));
                prop_assert!(budget.kill_at(until) < budget.backstop(until));
                prop_assert!(budget.backstop(until) < until);
                prop_assert!(until < sent + proof.span());
            }
        }

        #[test]
        fn the_smallest_does_and_a_smaller_one_does_not(proof in any_proof(), kill_after in any_kill_after()) {
            if let Err(refused) = Budget::new(proof, kill_after)
                && let Impossible { smallest: Some(smallest), longest, .. } = *refused
            {
                prop_assert!(smallest.span() > proof.span());
                prop_assert!(Budget::new(smallest, kill_after).is_ok());
                let smaller = match smallest {
                    LeaseTiming::Lease(ttl) => Ttl::try_from(ttl.as_secs() - 1).ok().map(LeaseTiming::Lease),
                    LeaseTiming::Heartbeats(timing) => {
                        let shortest = timing.shortest() - ms(1);
                        Timing::new(timing.heartbeat(), shortest, 2 * shortest).ok().map(LeaseTiming::Heartbeats)
                    }
                };
                if let Some(smaller) = smaller {
                    prop_assert!(Budget::new(smaller, kill_after).is_err());
                }
                if let Some(longest) = longest {
                    prop_assert!(Budget::new(proof, KillAfter::Given(longest)).is_ok());
                }
            }
        }

        #[test]
        fn the_default_fits_wherever_etcd_grants_the_lease(seconds in 2..=Ttl::MAX.as_secs()) {
            prop_assert!(Budget::new(ttl(seconds), KillAfter::Usual).is_ok());
        }
    }

    #[test]
    fn a_refusal_names_both_remedies() {
        let refused = Budget::new(ttl(5), KillAfter::Given(Duration::from_secs(10))).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "--kill-after 10s does not fit into --ttl 5s: --ttl 30s is the smallest that would do, \
             or --kill-after 1s458ms is the longest for this one"
        );
    }

    #[test]
    fn among_peers_the_remedy_is_a_longer_election_timeout() {
        let refused = Budget::new(peers(50, 1000), KillAfter::Given(Duration::from_secs(2))).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "--kill-after 2s does not fit into --election-timeout 1s-2s: --election-timeout 2s612ms-5s224ms is the \
             smallest that would do, or --kill-after 550ms is the longest for this one"
        );
        let refused = Budget::new(LeaseTiming::Heartbeats(Timing::DEFAULT), KillAfter::Usual).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "stopping a command does not fit into --election-timeout 250ms-500ms: --election-timeout 500ms-1s is \
             the smallest that would do"
        );
    }

    #[test]
    fn nothing_is_long_enough_for_an_endless_stop() {
        for proof in [ttl(5), peers(50, 1000)] {
            let refused = Budget::new(proof, KillAfter::Given(Duration::MAX)).unwrap_err();
            assert_eq!(refused.smallest, None);
        }
    }

    #[test]
    fn the_table_adds_up() {
        let table = Budget::new(ttl(5), KillAfter::Given(Duration::from_secs(1))).unwrap().to_string();
        for row in ["spare             458ms", "3s 250ms          TERM", "4s 250ms          KILL", "4s 500ms"]
        {
            assert!(table.contains(row), "{row:?} in\n{table}");
        }
        let table = Budget::new(peers(50, 1000), KillAfter::Usual).unwrap().to_string();
        for row in
            ["spare             350ms", "450ms             TERM", "650ms             KILL", "900ms", "1s "]
        {
            assert!(table.contains(row), "{row:?} in\n{table}");
        }
    }
}
