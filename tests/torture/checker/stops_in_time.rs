//! A process told to stop does so within the bound, and no other process stops (contract, points 6 and 8).
//!
//! Time frozen does not count. Time lost to a fault while it stops does: being unable to give leadership up
//! is no reason to stay.

use std::collections::BTreeMap;

use super::{Case, Invariant};
use crate::history::{At, Event, EventKind};

pub(super) struct StopsInTime;

/// A process that was told to stop.
struct Stopping {
    since: At,
    frozen: bool,
}

impl Invariant for StopsInTime {
    fn name(&self) -> &'static str {
        "processes stop in time, and only when told to"
    }

    fn broken_by(&self, case: &Case<'_>) -> Vec<String> {
        let bound = case.bounds.stop;
        let mut stopping: BTreeMap<&str, Stopping> = BTreeMap::new();
        let mut frozen: BTreeMap<&str, bool> = BTreeMap::new();
        let mut found = Vec::new();
        for Event { at, what } in case.history.events() {
            match what {
                EventKind::Told { who } => {
                    let frozen = frozen.get(who.as_str()).copied().unwrap_or_default();
                    stopping.insert(who, Stopping { since: *at, frozen });
                }
                EventKind::Frozen { who } => {
                    frozen.insert(who, true);
                    stopping.entry(who).and_modify(|it| it.frozen = true);
                }
                EventKind::Thawed { who } => {
                    frozen.insert(who, false);
                    // From here on all steps of stopping may still be ahead.
                    stopping.entry(who).and_modify(|it| (it.frozen, it.since) = (false, *at));
                }
                EventKind::Killed { who } => {
                    frozen.insert(who, false);
                    if let Some(it) = stopping.remove(who.as_str()) {
                        found.extend(too_long(case, who, &it, *at, bound));
                    }
                }
                EventKind::Exited { who, code } => match stopping.remove(who.as_str()) {
                    Some(it) => found.extend(too_long(case, who, &it, *at, bound)),
                    None => {
                        let at = case.history.seconds(*at);
                        found.push(format!(
                            "{who} exited at {at:.3} s with {code:?}, without having been told to"
                        ));
                    }
                },
                _ => {}
            }
        }
        let end = case.history.events().last().map_or(At(0), |event| event.at);
        for (who, it) in &stopping {
            found.extend(too_long(case, who, it, end, bound));
        }
        found
    }
}

fn too_long(
    case: &Case<'_>,
    who: &str,
    Stopping { since, frozen }: &Stopping,
    at: At,
    bound: std::time::Duration,
) -> Option<String> {
    let took = at.since(*since);
    (!frozen && took > bound).then(|| {
        let told = case.history.seconds(*since);
        format!("{who}, told to stop at {told:.3} s, was still there {took:?} later; the bound is {bound:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::{super::sample::*, *};

    fn bound() -> u64 {
        bounds().stop.as_millis() as u64
    }

    #[test]
    fn finds_one_that_stops_late_or_never() {
        assert_eq!(broken(&StopsInTime, vec![told(0, "a"), exited(bound() + 1, "a", Some(0))]).len(), 1);
        assert_eq!(broken(&StopsInTime, vec![told(0, "a"), closed(bound() + 1)]).len(), 1);
        assert_eq!(broken(&StopsInTime, vec![told(0, "a"), killed(bound() + 1, "a")]).len(), 1);
    }

    #[test]
    fn finds_one_that_gives_up() {
        assert_eq!(broken(&StopsInTime, vec![started(0, "a"), exited(5, "a", Some(1))]).len(), 1);
    }

    #[test]
    fn does_not_count_the_time_in_which_it_was_frozen() {
        let thawed_late =
            vec![told(0, "a"), frozen(1, "a"), thawed(90_000, "a"), exited(90_000 + bound(), "a", Some(0))];
        assert_eq!(broken(&StopsInTime, thawed_late), [""; 0]);
        assert_eq!(broken(&StopsInTime, vec![frozen(0, "a"), told(1, "a"), closed(90_000)]), [""; 0]);
    }

    #[test]
    fn lets_the_killed_be_gone_and_a_new_one_be_told() {
        let events = vec![told(0, "a"), exited(5, "a", Some(0)), started(6, "a"), killed(99_000, "a")];
        assert_eq!(broken(&StopsInTime, events), [""; 0]);
    }
}
