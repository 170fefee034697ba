//! The time that there is to end a command, all counted back from the end of validity.
//!
//! ```text
//!  send of the last renewal that was answered                                                    etcd lets
//!  │                                                                                             the next lead
//!  ├── renewal interval ──┬── patience ──┬─ spare ─┬──── kill after ────┬──── grace ────┬── margin ──┤
//!  0                                             TERM                 KILL            until         TTL
//! ```
//!
//! A budget only exists where the spare time is not negative: then one renewal may go unanswered for all of
//! its patience, and be repeated elsewhere, before the command hears of it. Pure; all spans are of the
//! boot-time clock.

use std::{fmt, time::Duration};

use leader_election::{clock::Timestamp, timing::Ttl};

/// How long before the end of validity KILL is sent.
///
/// It covers what lies between a timer and the last process being gone: the guard gets the processor late
/// on a machine under load, each generation of processes costs a look through `/proc`, and a large process
/// takes a while to be taken down.
pub(crate) const GRACE: Duration = Duration::from_millis(250);

/// How long the other of the two processes may take to do what it was told, before it counts as stuck.
/// Half of the grace, so that the other half is left for doing it in its place.
pub(crate) const ALLOWANCE: Duration = Duration::from_millis(125);

/// A plan that holds together: made by [`new`](Self::new) only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    ttl: Ttl,
    kill_after: Duration,
}

/// Stopping takes longer than this TTL leaves time for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "--kill-after {} does not fit into --ttl {ttl}: {}",
    humantime::format_duration(*kill_after),
    remedy(*smallest, *longest)
)]
pub(crate) struct Impossible {
    ttl: Ttl,
    kill_after: Duration,
    /// The smallest TTL that would do, if any does.
    pub(crate) smallest: Option<Ttl>,
    /// The longest time that this TTL leaves, if any.
    longest: Option<Duration>,
}

fn remedy(smallest: Option<Ttl>, longest: Option<Duration>) -> String {
    let ttl = smallest.map(|ttl| format!("--ttl {ttl} is the smallest that would do"));
    let shorter = longest.map(|longest| {
        format!("--kill-after {} is the longest for this one", humantime::format_duration(longest))
    });
    match (ttl, shorter) {
        (Some(ttl), Some(shorter)) => format!("{ttl}, or {shorter}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "no TTL is long enough".into(),
    }
}

impl Budget {
    /// # Errors
    ///
    /// With the smallest TTL that would do, if stopping does not fit into this one.
    pub(crate) fn new(ttl: Ttl, kill_after: Duration) -> Result<Self, Impossible> {
        if spare(ttl, kill_after).is_some() {
            return Ok(Self { ttl, kill_after });
        }
        let longest = spare(ttl, Duration::ZERO).map(|left| Duration::from_millis(left.as_millis() as u64));
        Err(Impossible { ttl, kill_after, smallest: smallest_ttl(kill_after), longest })
    }

    /// What `--kill-after` is unless somebody says otherwise.
    pub(crate) fn default_kill_after(ttl: Ttl) -> Duration {
        ttl.as_duration() / 5
    }

    /// The time between TERM and KILL.
    pub(crate) fn kill_after(self) -> Duration {
        self.kill_after
    }

    /// When TERM must be sent, if leadership is proved until then and not beyond.
    pub(crate) fn terminate_at(self, until: Timestamp) -> Timestamp {
        until - GRACE - self.kill_after
    }

    /// When KILL must be sent.
    pub(crate) fn kill_at(self, until: Timestamp) -> Timestamp {
        until - GRACE
    }

    /// When the supervisor does it itself, if the guard has not reported by then that all is over.
    pub(crate) fn backstop(self, until: Timestamp) -> Timestamp {
        until - GRACE + ALLOWANCE
    }

    fn validity(self) -> Duration {
        self.ttl.as_duration() - self.ttl.margin()
    }
}

/// What is left over in the plan, or `None` if it does not fit.
fn spare(ttl: Ttl, kill_after: Duration) -> Option<Duration> {
    let needed = ttl.renewal_interval() + ttl.patience() + kill_after.checked_add(GRACE)?;
    (ttl.as_duration() - ttl.margin()).checked_sub(needed)
}

/// All terms grow with the TTL in proportion, so the first that fits is found by halving.
fn smallest_ttl(kill_after: Duration) -> Option<Ttl> {
    let fits = |seconds: u32| Ttl::try_from(seconds).ok().filter(|ttl| spare(*ttl, kill_after).is_some());
    let (mut below, mut fitting) = (0, fits(Ttl::MAX.as_secs())?);
    while fitting.as_secs() - below > 1 {
        let middle = below + (fitting.as_secs() - below) / 2;
        match fits(middle) {
            Some(ttl) => fitting = ttl,
            None => below = middle,
        }
    }
    Some(fitting)
}

/// The table of `--explain`.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ttl = self.ttl;
        let start = Timestamp::from_nanos(0);
        let until = start + self.validity();
        let spare = spare(ttl, self.kill_after).unwrap_or_default();
        let mut row = |what: &str, span: Duration, why: &str| {
            let span = humantime::format_duration(Duration::from_millis(span.as_millis() as u64)).to_string();
            writeln!(f, "{what:<18}{span:<12}{why}")
        };
        row("TTL", ttl.as_duration(), "how long etcd keeps a lease that is not renewed (--ttl)")?;
        row("margin", ttl.margin(), "taken off for clocks that run at different rates")?;
        row("renewal interval", ttl.renewal_interval(), "from one renewal to the next")?;
        row("patience", ttl.patience(), "how long a renewal may go unanswered")?;
        row("kill after", self.kill_after, "from TERM to KILL (--kill-after)")?;
        row("grace", GRACE, "from KILL to the end of validity: all is dead by then")?;
        row("spare", spare, "what is left over")?;
        writeln!(f, "\nWithout another renewal, counted from when the last one was sent:")?;
        let mut row = |at: Timestamp, what: &str| {
            let at = Duration::from_millis(at.since(start).as_millis() as u64);
            writeln!(f, "{:<18}{what}", humantime::format_duration(at).to_string())
        };
        row(self.terminate_at(until), "TERM to the command's process group")?;
        row(self.kill_at(until), "KILL to all that is left of it")?;
        row(until, "leadership ends; none of it is alive")?;
        row(start + ttl.as_duration(), "etcd lets the next one lead")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ttl(seconds: u32) -> Ttl {
        Ttl::try_from(seconds).unwrap()
    }

    fn any_ttl() -> impl Strategy<Value = Ttl> {
        prop_oneof![1..=60u32, 1..=Ttl::MAX.as_secs()].prop_map(ttl)
    }

    fn any_kill_after() -> impl Strategy<Value = Duration> {
        prop_oneof![0..60_000u64, 0..100_000_000u64].prop_map(Duration::from_millis)
    }

    proptest! {
        #[test]
        fn what_is_accepted_leaves_time_for_a_renewal_that_nobody_answers(
            ttl in any_ttl(), kill_after in any_kill_after(), sent in 0..u64::from(u32::MAX),
        ) {
            if let Ok(budget) = Budget::new(ttl, kill_after) {
                let sent = Timestamp::from_nanos(sent);
                let until = ttl.believed_until(sent);
                let given_up = sent + ttl.renewal_interval() + ttl.patience();
                prop_assert!(given_up <= budget.terminate_at(until));
                prop_assert_eq!(budget.kill_at(until).since(budget.terminate_at(until)), kill_after);
                prop_assert!(budget.kill_at(until) < budget.backstop(until));
                prop_assert!(budget.backstop(until) < until);
            }
        }

        #[test]
        fn the_smallest_ttl_does_and_a_smaller_one_does_not(ttl in any_ttl(), kill_after in any_kill_after()) {
            if let Err(Impossible { smallest: Some(smallest), longest, .. }) = Budget::new(ttl, kill_after) {
                prop_assert!(smallest > ttl);
                prop_assert!(Budget::new(smallest, kill_after).is_ok());
                if let Ok(smaller) = Ttl::try_from(smallest.as_secs() - 1) {
                    prop_assert!(Budget::new(smaller, kill_after).is_err());
                }
                if let Some(longest) = longest {
                    prop_assert!(Budget::new(ttl, longest).is_ok());
                }
            }
        }

        #[test]
        fn the_default_fits_wherever_etcd_grants_the_lease(seconds in 2..=Ttl::MAX.as_secs()) {
            let ttl = ttl(seconds);
            prop_assert!(Budget::new(ttl, Budget::default_kill_after(ttl)).is_ok());
        }
    }

    #[test]
    fn a_refusal_names_both_remedies() {
        let refused = Budget::new(ttl(5), Duration::from_secs(10)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "--kill-after 10s does not fit into --ttl 5s: --ttl 30s is the smallest that would do, \
             or --kill-after 1s 458ms is the longest for this one"
        );
    }

    #[test]
    fn no_ttl_is_long_enough_for_an_endless_stop() {
        let refused = Budget::new(ttl(5), Duration::MAX).unwrap_err();
        assert_eq!(refused.smallest, None);
    }

    #[test]
    fn the_table_adds_up() {
        let table = Budget::new(ttl(5), Duration::from_secs(1)).unwrap().to_string();
        for row in ["spare             458ms", "3s 250ms          TERM", "4s 250ms          KILL", "4s 500ms"]
        {
            assert!(table.contains(row), "{row:?} in\n{table}");
        }
    }
}
