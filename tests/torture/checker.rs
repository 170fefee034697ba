//! Checks a history for violations. Pure: no clock, no I/O.
//!
//! One invariant a file, each with a planted violation that it finds and a near miss that it lets pass. The promises
//! under each fault are in `docs/safety.md`; its one exception, a third party that deletes a
//! candidate's key, is counted and reported here, and is no violation within [`Bounds`].

mod commands;
mod fenced;
mod in_the_queue;
mod one_leader;
mod one_log;
#[cfg(test)]
pub(crate) mod sample;
mod stops_in_time;
mod takeover;
mod tokens_grow;

use std::{fmt, time::Duration};

pub(crate) use self::{fenced::stale, one_leader::Overlap};
use super::{history::History, terms::Terms};

/// Bounds on durations, all derived from the TTL or the election timeout in `docs/safety.md`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// From the end of the last fault, or of the last leadership, to the next leader.
    pub(crate) takeover: Duration,
    /// Longest time after which a leader hears that its key was deleted.
    pub(crate) deposed: Duration,
    /// From SIGTERM to the exit.
    pub(crate) stop: Duration,
    /// From a commit to all readers of records.
    pub(crate) reading: Duration,
}

/// The next heartbeat tells a follower of a commit.
const READING: Duration = Duration::from_secs(1);

impl Bounds {
    pub(crate) fn on_etcd(ttl: Duration) -> Self {
        Self {
            takeover: 2 * ttl + Duration::from_secs(12),
            deposed: 2 * ttl + Duration::from_secs(1),
            stop: ttl.min(Duration::from_secs(10)) + Duration::from_secs(7),
            reading: READING,
        }
    }

    /// Bounds for the longest election timeout.
    pub(crate) fn among_peers(longest: Duration) -> Self {
        Self {
            takeover: 4 * longest + Duration::from_millis(4_500),
            // Peers have no key to delete.
            deposed: Duration::ZERO,
            stop: longest + Duration::from_secs(7),
            reading: READING,
        }
    }
}

/// A history, with the terms derived from it.
pub(crate) struct Case<'a> {
    pub(crate) history: &'a History,
    pub(crate) terms: &'a Terms,
    pub(crate) bounds: Bounds,
}

/// A property of every run.
trait Invariant {
    fn name(&self) -> &'static str;

    /// Describes each violation.
    fn broken_by(&self, case: &Case<'_>) -> Vec<String>;
}

/// A violated invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

const INVARIANTS: [&dyn Invariant; 8] = [
    &one_leader::OneLeader,
    &tokens_grow::TokensGrow,
    &fenced::Fenced,
    &one_log::OneLog,
    &commands::Commands,
    &takeover::Takeover,
    &in_the_queue::InTheQueue,
    &stops_in_time::StopsInTime,
];

/// All violations in a history.
pub(crate) fn violations(history: &History, terms: &Terms, bounds: Bounds) -> Vec<Violation> {
    let case = Case { history, terms, bounds };
    let of = |invariant: &dyn Invariant| {
        let name = invariant.name();
        let whats = invariant.broken_by(&case).into_iter();
        whats.map(move |what| Violation { invariant: name, what }).collect::<Vec<_>>()
    };
    INVARIANTS.into_iter().flat_map(of).collect()
}

/// The times at which two led because a third party had deposed one of them.
pub(crate) fn ordered_overlaps(terms: &Terms, bounds: Bounds) -> Vec<Overlap> {
    one_leader::overlaps(terms).into_iter().filter(|overlap| overlap.excused(bounds)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{sample::*, *};
    use crate::history::{Ending, Event, EventKind, WriteTarget};

    /// A term of a legal history, and its end.
    #[derive(Debug, Clone)]
    struct LegalTerm {
        gap: u64,
        renewals: Vec<u64>,
        end: u8,
        deposed: bool,
        writes: u8,
        who: u8,
        step: u64,
    }

    fn reign() -> impl Strategy<Value = LegalTerm> {
        let renewals = prop::collection::vec(1..1_000u64, 0..6);
        (1..5_000u64, renewals, 0..5u8, prop::bool::weighted(0.2), 0..4u8, 0..5u8, 1..9u64).prop_map(
            |(gap, renewals, end, deposed, writes, who, step)| LegalTerm {
                gap,
                renewals,
                end,
                deposed,
                writes,
                who,
                step,
            },
        )
    }

    /// A history in which all processes obey the rules, with any number of terms that end in any way.
    fn legal(reigns: Vec<LegalTerm>) -> History {
        const VALID: u64 = 2_700;
        let names = ["s1", "s2", "r1", "r2", "l1"];
        let mut events: Vec<Event> = names.iter().map(|who| started(0, who)).collect();
        let (mut free, mut token, mut order) = (0, 0, 0);
        for reign in reigns {
            let who = names[usize::from(reign.who)];
            token += reign.step;
            let mut now = free + reign.gap;
            let mut until = now + VALID;
            events.push(proved(now, who, token, until));
            for after in reign.renewals {
                for _ in 0..reign.writes {
                    order += 1;
                    events.push(wrote(now, WriteTarget::Etcd, order, token));
                    events.push(wrote(now, WriteTarget::Store, order, token));
                    events.push(wrote(now, WriteTarget::File, 1_000_000 - order, token));
                }
                if who.starts_with('r') {
                    events.push(alive(now, who, token));
                }
                now += after;
                until = now + VALID;
                events.push(proved(now, who, token, until));
            }
            free = match reign.end {
                // Frozen, and late to notice.
                0 => {
                    events.push(frozen(now, who));
                    events.push(thawed(until, who));
                    events.push(ended(until, who, token, Some(now), Ending::Expired));
                    until
                }
                1 => {
                    events.push(killed(now + 1, who));
                    events.push(started(now + 1, who));
                    now + 1
                }
                2 => {
                    events.push(ended(now + 9, who, token, Some(now), Ending::Resigned));
                    now
                }
                3 => {
                    events.push(ended(until, who, token, Some(until - 1), Ending::Expired));
                    until
                }
                _ => {
                    events.push(told(now, who));
                    events.push(ended(now + 1, who, token, Some(now), Ending::Resigned));
                    events.push(exited(now + 1, who, Some(0)));
                    events.push(started(now + 1, who));
                    now
                }
            };
            if reign.deposed {
                // The next may begin before this one hears of it.
                events.push(deposed(now, token));
                free = now;
            }
        }
        events.push(Event { at: at(free + 6_000), what: EventKind::Healed });
        events.push(proved(free + 9_000, "s1", token + 1, free + 99_000));
        events.push(queue(free + 20_000, &names));
        events.push(Event { at: at(free + 20_000), what: EventKind::Closed });
        for who in names {
            events.push(told(free + 20_000, who));
            events.push(exited(free + 20_100, who, Some(0)));
        }
        History::of(events)
    }

    proptest! {
        #[test]
        fn a_legal_history_passes(reigns in prop::collection::vec(reign(), 0..12)) {
            let history = legal(reigns);
            let terms = Terms::of(history.events());
            prop_assert_eq!(violations(&history, &terms, bounds()), []);
        }

        #[test]
        fn a_second_leader_in_a_legal_history_is_found(
            reigns in prop::collection::vec(reign(), 1..12), which in any::<prop::sample::Index>(),
        ) {
            let history = legal(reigns);
            let terms = Terms::of(history.events());
            // A process believes, for a moment in the middle of a term, with an older term's token.
            let term = which.get(terms.all());
            prop_assume!(term.from < term.end);
            let middle = At((term.from.0 + term.end.0) / 2);
            let mut events = history.events().to_vec();
            let planted = EventKind::Proved { who: "stranger".into(), token: 0, until: At(middle.0 + 1_000_000) };
            events.push(Event { at: middle, what: planted });
            let history = History::of(events);
            let found = violations(&history, &Terms::of(history.events()), bounds());
            let names: Vec<_> = found.iter().map(|violation| violation.invariant).collect();
            prop_assert!(names.contains(&"one leader"), "{:?}", found);
            prop_assert!(names.contains(&"tokens grow"), "{:?}", found);
        }
    }

    use crate::history::At;
}
