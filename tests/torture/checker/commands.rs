//! No command of `elect run` is alive outside its term.
//!
//! It may show signs of life from the beginning of its term until the last proved deadline: a
//! killed supervisor takes its command along a moment later. But never while another's newer term runs, unless
//! a third party had deposed its own leader, which may not have heard of it.

use std::{collections::BTreeMap, time::Duration};

use super::{Case, Invariant};
use crate::history::{At, Event, EventKind, Token};

pub(super) struct Commands;

impl Invariant for Commands {
    fn name(&self) -> &'static str {
        "commands live within their terms"
    }

    fn broken_by(&self, case: &Case<'_>) -> Vec<String> {
        // The first violation of each term suffices.
        let mut found: BTreeMap<(Token, &'static str), String> = BTreeMap::new();
        for Event { at, what } in case.history.events() {
            let EventKind::Alive { who, token } = what else { continue };
            let mut offence = |kind, details: String| {
                let seconds = case.history.seconds(*at);
                let text =
                    || format!("{who}'s command of term {token} was alive at {seconds:.4} s, {details}");
                found.entry((*token, kind)).or_insert_with(text);
            };
            let Some(term) = case.terms.with(*token) else {
                if !interrupted(case, who, *at) {
                    offence("unknown", "in a term without a leader".into());
                }
                continue;
            };
            if *at < term.from {
                if term.from.since(*at) > STARTED_FIRST && !interrupted(case, who, *at) {
                    offence("early", "before that term".into());
                }
            } else if *at >= term.proved_until {
                let late = at.since(term.proved_until);
                offence("late", format!("{late:?} after its end"));
            }
            if let Some(next) = next_leader(case, *token, *at)
                && !(term.deposed_by(*at) && at.since(term.deposed.unwrap_or(*at)) <= case.bounds.deposed)
            {
                offence("beside", format!("while {} led with token {}", next.0, next.1));
            }
        }
        found.into_values().collect()
    }
}

/// The supervisor may have the command started just before it logs that it leads.
const STARTED_FIRST: Duration = Duration::from_millis(500);

/// Reports whether a supervisor was frozen or killed about then, and so may not have logged its term.
fn interrupted(case: &Case<'_>, who: &str, about: At) -> bool {
    case.history.events().iter().any(|Event { at, what }| match what {
        EventKind::Killed { who: hit } | EventKind::Frozen { who: hit } => {
            hit == who && at.since(about) < STARTED_FIRST && about.since(*at) < STARTED_FIRST
        }
        _ => false,
    })
}

/// The leader with a newer token at that moment.
fn next_leader(case: &Case<'_>, token: Token, at: At) -> Option<(String, Token)> {
    let mut newer = case.terms.all().iter().filter(|term| term.token > token);
    newer.find(|term| term.from <= at && at < term.end).map(|term| (term.who.clone(), term.token))
}

#[cfg(test)]
mod tests {
    use super::{super::sample::*, *};

    #[test]
    fn finds_a_command_after_the_end_of_its_term() {
        let found = broken(&Commands, vec![proved(0, "r", 1, 30), alive(30, "r", 1), alive(31, "r", 1)]);
        assert_eq!(found.len(), 1, "one for each term: {found:?}");
        assert!(found[0].contains("0ns after its end"), "{found:?}");
    }

    #[test]
    fn finds_a_command_without_a_term_and_one_before_it() {
        assert_eq!(broken(&Commands, vec![alive(5, "r", 1)]).len(), 1);
        assert_eq!(broken(&Commands, vec![alive(5, "r", 1), proved(600, "r", 1, 700)]).len(), 1);
        assert_eq!(broken(&Commands, vec![alive(5, "r", 1), proved(8, "r", 1, 700)]), [""; 0]);
        // Frozen between the start and its log line; or the line was never written.
        let frozen = vec![alive(5, "r", 1), frozen(6, "r"), proved(800, "r", 1, 900)];
        assert_eq!(broken(&Commands, frozen), [""; 0]);
        assert_eq!(broken(&Commands, vec![alive(5, "r", 1), killed(6, "r")]), [""; 0]);
        assert_eq!(broken(&Commands, vec![alive(5, "r", 1), killed(506, "r")]).len(), 1);
    }

    #[test]
    fn lets_a_command_outlive_its_killed_supervisor_but_not_into_the_next_term() {
        let orphan = [proved(0, "r", 1, 30), killed(5, "r"), alive(9, "r", 1)];
        assert_eq!(broken(&Commands, orphan.to_vec()), [""; 0]);
        let next = [&orphan[..], &[proved(8, "b", 2, 30)]].concat();
        let found = broken(&Commands, next);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("while b led with token 2"), "{found:?}");
    }

    #[test]
    fn excuses_one_that_was_deposed() {
        let events = vec![proved(0, "r", 1, 30), deposed(4, 1), proved(8, "b", 2, 30), alive(9, "r", 1)];
        assert_eq!(broken(&Commands, events), [""; 0]);
    }
}
