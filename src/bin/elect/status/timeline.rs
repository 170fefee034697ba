//! Terms of leadership, as far as this process saw them begin and end. Pure.
//!
//! Two sources report them, and not in step: the candidate its own terms, with the reason of each end, and
//! the head of the queue all terms. Both identify a term by its token, so their order does not matter.

use std::{collections::BTreeMap, time::SystemTime};

use leader_election::{FencingToken, Loss};

/// Terms that are kept. A page shows them all, and a flapping election must not grow it.
const REMEMBERED: usize = 50;

/// One term. Times are of this machine's time of day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObservedTerm {
    /// True for this process's own term.
    pub(crate) own: bool,
    /// `None` if it began before this process watched.
    pub(crate) began: Option<SystemTime>,
    /// `None` while it lasts.
    pub(crate) ended: Option<SystemTime>,
    /// Reason of the end of an own term. Only its leader knows it.
    pub(crate) reason: Option<Loss>,
}

#[derive(Debug, Default)]
pub(crate) struct Timeline {
    terms: BTreeMap<FencingToken, ObservedTerm>,
    /// True once a head of the queue was seen: later ones were seen to begin.
    head_seen: bool,
}

impl Timeline {
    /// Records that this process leads.
    pub(crate) fn elected(&mut self, token: FencingToken, at: SystemTime) {
        let term = self.begin(token, Some(at));
        (term.own, term.began) = (true, Some(at));
    }

    /// Records the end of this process's term.
    pub(crate) fn lost(&mut self, token: FencingToken, reason: Loss, at: SystemTime) {
        let term = self.begin(token, None);
        term.own = true;
        term.reason = Some(reason);
        term.ended.get_or_insert(at);
    }

    /// Records the head of the queue, or that it is empty.
    pub(crate) fn head(&mut self, token: Option<FencingToken>, at: SystemTime) {
        let others = self.terms.iter_mut().filter(|(known, _)| Some(**known) != token);
        for (_, term) in others {
            term.ended.get_or_insert(at);
        }
        let began = std::mem::replace(&mut self.head_seen, true).then_some(at);
        if let Some(token) = token {
            self.begin(token, began);
        }
    }

    /// Records the leader's announced start, if it was not seen here.
    pub(crate) fn announced(&mut self, token: FencingToken, since: SystemTime) {
        if let Some(term) = self.terms.get_mut(&token) {
            term.began.get_or_insert(since);
        }
    }

    pub(crate) fn term(&self, token: FencingToken) -> Option<&ObservedTerm> {
        self.terms.get(&token)
    }

    /// Returns whether this process has led with this token.
    pub(crate) fn is_own(&self, token: FencingToken) -> bool {
        self.terms.get(&token).is_some_and(|term| term.own)
    }

    /// Returns the terms, the newest first.
    pub(crate) fn terms(&self) -> impl Iterator<Item = (FencingToken, &ObservedTerm)> {
        self.terms.iter().rev().map(|(token, term)| (*token, term))
    }

    fn begin(&mut self, token: FencingToken, began: Option<SystemTime>) -> &mut ObservedTerm {
        let newest = self.terms.len() < REMEMBERED || self.terms.contains_key(&token);
        if !newest {
            self.terms.pop_first();
        }
        self.terms.entry(token).or_insert(ObservedTerm { own: false, began, ended: None, reason: None })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn token(number: u64) -> FencingToken {
        FencingToken::new(number)
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn an_earlier_term_has_no_beginning_until_its_leader_announces_it() {
        let mut timeline = Timeline::default();
        timeline.head(Some(token(3)), at(10));
        assert_eq!(timeline.term(token(3)).unwrap().began, None);
        timeline.announced(token(3), at(4));
        assert_eq!(timeline.term(token(3)).unwrap().began, Some(at(4)));
        timeline.head(Some(token(5)), at(12));
        assert_eq!(timeline.term(token(3)).unwrap().ended, Some(at(12)));
        timeline.announced(token(5), at(13));
        assert_eq!(timeline.term(token(5)).unwrap().began, Some(at(12)), "seen here");
    }

    #[test]
    fn an_own_term_has_its_reason_in_either_order_of_sources() {
        let lose = |timeline: &mut Timeline| timeline.lost(token(3), Loss::Expired, at(9));
        let next = |timeline: &mut Timeline| timeline.head(Some(token(5)), at(9));
        for order in [[&lose as &dyn Fn(&mut Timeline), &next], [&next, &lose]] {
            let mut timeline = Timeline::default();
            timeline.head(None, at(0));
            timeline.elected(token(3), at(1));
            order.iter().for_each(|source| source(&mut timeline));
            let own = ObservedTerm {
                own: true,
                began: Some(at(1)),
                ended: Some(at(9)),
                reason: Some(Loss::Expired),
            };
            let other = ObservedTerm { own: false, began: Some(at(9)), ended: None, reason: None };
            assert_eq!(timeline.terms().collect::<Vec<_>>(), [(token(5), &other), (token(3), &own)]);
        }
    }

    #[test]
    fn a_vacancy_ends_the_term_before_it() {
        let mut timeline = Timeline::default();
        timeline.head(Some(token(1)), at(1));
        timeline.head(None, at(2));
        assert_eq!(timeline.term(token(1)).unwrap().ended, Some(at(2)));
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_at_most_one_term_of_others_lasts(leader_watch in prop::collection::vec(prop::option::of(1_u64..200), 0..300)) {
            let mut timeline = Timeline::default();
            for (second, head) in leader_watch.iter().enumerate() {
                timeline.head(head.map(token), at(second as u64));
            }
            prop_assert!(timeline.terms().count() <= REMEMBERED);
            prop_assert!(timeline.terms().filter(|(_, term)| term.ended.is_none()).count() <= 1);
        }
    }
}
