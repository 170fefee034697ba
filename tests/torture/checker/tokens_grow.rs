//! Each term has a unique token, larger than those of all terms before it (contract, point 5).
//!
//! The exception of `docs/safety.md`: a candidate that was first in the queue, and whose key a third party deleted
//! before it acted on its win, may begin a term after the next one has.

use super::{Case, Invariant};

pub(super) struct TokensGrow;

impl Invariant for TokensGrow {
    fn name(&self) -> &'static str {
        "tokens grow"
    }

    fn broken_by(&self, case: &Case<'_>) -> Vec<String> {
        let shared = case.terms.shared.iter();
        let mut found: Vec<String> = shared
            .map(|(token, one, other)| format!("{one} and {other} led with the same token {token}"))
            .collect();
        let mut largest = None;
        for term in case.terms.all() {
            if largest.is_some_and(|largest| term.token <= largest) && !term.deposed_by(term.from) {
                let (who, token) = (&term.who, term.token);
                let from = case.history.seconds(term.from);
                found.push(format!(
                    "{who} began to lead with token {token} at {from:.4} s, after {largest:?}"
                ));
            }
            largest = largest.max(Some(term.token));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample::*, *};

    #[test]
    fn finds_a_token_that_went_back() {
        let found = broken(&TokensGrow, vec![proved(0, "a", 7, 10), proved(20, "b", 6, 30)]);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("b began to lead with token 6"), "{found:?}");
    }

    #[test]
    fn finds_a_token_of_two() {
        let found = broken(&TokensGrow, vec![proved(0, "a", 7, 10), proved(20, "b", 7, 30)]);
        assert_eq!(found, ["a and b led with the same token 7"]);
    }

    #[test]
    fn lets_tokens_leave_gaps_and_the_same_one_be_renewed() {
        let events = vec![proved(0, "a", 7, 10), proved(5, "a", 7, 15), proved(20, "b", 700, 30)];
        assert_eq!(broken(&TokensGrow, events), [""; 0]);
    }

    #[test]
    fn excuses_a_win_that_was_deposed_before_it_began() {
        let events = vec![proved(10, "b", 8, 30), deposed(5, 7), proved(20, "a", 7, 30)];
        assert_eq!(broken(&TokensGrow, events), [""; 0]);
        let too_late = vec![proved(10, "b", 8, 30), deposed(25, 7), proved(20, "a", 7, 30)];
        assert_eq!(broken(&TokensGrow, too_late).len(), 1);
    }
}
