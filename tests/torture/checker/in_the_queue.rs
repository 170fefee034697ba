//! At the end, every live candidate is in the queue (contract, point 6); among peers, it leads or follows
//! the leader.

use std::collections::BTreeSet;

use super::{Case, Invariant};
use crate::history::{Event, EventKind};

pub(super) struct InTheQueue;

impl Invariant for InTheQueue {
    fn name(&self) -> &'static str {
        "everyone is there"
    }

    fn broken_by(&self, case: &Case<'_>) -> Vec<String> {
        let mut living = BTreeSet::new();
        for Event { what, .. } in case.history.events() {
            match what {
                EventKind::Started { who } => {
                    living.insert(who.as_str());
                }
                EventKind::Killed { who } | EventKind::Told { who } | EventKind::Exited { who, .. } => {
                    living.remove(who.as_str());
                }
                EventKind::Queue { names } => {
                    let missing: Vec<_> =
                        living.iter().filter(|who| !names.iter().any(|name| name == *who)).copied().collect();
                    if missing.is_empty() {
                        return Vec::new();
                    }
                    return vec![format!("{} is missing in {names:?}", missing.join(", "))];
                }
                // The queue could not be read.
                EventKind::Closed => return vec!["the queue could not be read".into()],
                _ => {}
            }
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample::*, *};

    #[test]
    fn finds_a_living_candidate_that_is_not_in_the_queue() {
        let found = broken(&InTheQueue, vec![started(0, "a"), started(0, "b"), queue(9, &["a"]), closed(9)]);
        assert_eq!(found, [r#"b is missing in ["a"]"#]);
        let restarted = vec![started(0, "a"), killed(1, "a"), started(2, "a"), queue(9, &[]), closed(9)];
        assert_eq!(broken(&InTheQueue, restarted).len(), 1);
    }

    #[test]
    fn finds_a_queue_that_could_not_be_read() {
        assert_eq!(broken(&InTheQueue, vec![started(0, "a"), closed(9)]).len(), 1);
    }

    #[test]
    fn lets_the_dead_be_missing_and_their_keys_be_there() {
        let dead = vec![started(0, "a"), started(0, "b"), killed(5, "b"), queue(9, &["a"]), closed(9)];
        assert_eq!(broken(&InTheQueue, dead), [""; 0]);
        let twice = vec![started(0, "a"), queue(9, &["a", "gone", "a"]), closed(9)];
        assert_eq!(broken(&InTheQueue, twice), [""; 0]);
    }
}
