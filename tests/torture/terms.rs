//! Terms of leadership, with the time in which each leader believed that it led, from the processes' notes.
//!
//! A term starts at the first moment at which its holder could ask its guard and get a yes. It ends at the
//! last such moment:
//!
//! * the deadline, as last proved, or later if the guard was asked later and still said yes. A frozen
//!   process counts as believing: its guard would say yes up to the deadline;
//! * the process's own note, if it learnt of the end before the deadline;
//! * its kill: a dead process believes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    history::{At, Ending, Event, EventKind, Token},
    nemesis::MEMBER_FROZEN,
};

/// One term of leadership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Term {
    pub(crate) token: Token,
    pub(crate) who: String,
    pub(crate) from: At,
    /// The first moment at which it is no longer believed.
    pub(crate) end: At,
    /// The last proved deadline: a command that outlives its killed supervisor may use it.
    pub(crate) proved_until: At,
    /// The first moment at which a third party had its key removed, or a thawed leader of etcd did.
    pub(crate) deposed: Option<At>,
}

/// Time after its thaw in which a frozen leader of etcd may still revoke leases that it takes for expired. Until it
/// hears of its successor it trusts its own clock (`docs/safety.md`, bugs of etcd).
const WAKING: Duration = Duration::from_millis(500);

/// Notes of one moment by two threads may be in either order.
const AT_ONCE: Duration = Duration::from_millis(50);

impl Term {
    /// Reports whether a third party had removed its key by `at`.
    pub(crate) fn deposed_by(&self, at: At) -> bool {
        self.deposed.is_some_and(|deposed| deposed <= at)
    }
}

/// All terms, in the order in which they began.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    terms: Vec<Term>,
    /// Tokens with which two processes led.
    pub(crate) shared: Vec<(Token, String, String)>,
}

/// A term's data while the events are read.
struct Notes {
    who: String,
    from: At,
    proved_until: At,
    /// The last renewal of its lease that it heard of.
    renewed: At,
    /// The last moment with a sign of belief.
    last_sign: At,
    asked: Option<At>,
    ended: Option<(Option<At>, Ending)>,
    killed: Option<At>,
}

impl Terms {
    pub(crate) fn of(events: &[Event]) -> Self {
        let mut notes: BTreeMap<Token, Notes> = BTreeMap::new();
        let mut deposed: BTreeMap<Token, At> = BTreeMap::new();
        let mut shared = Vec::new();
        let thaws = thaws(events);
        // Keys that a thawed leader of etcd removed before their holders had reported that they lead.
        let mut taken: BTreeMap<Token, (At, At)> = BTreeMap::new();
        for Event { at, what } in events {
            match what {
                EventKind::Proved { who, token, until } => {
                    // It was first by etcd's last answer, and its lease was good: the news of the end was on its way.
                    if let Some((thaw, gone)) = taken.remove(token)
                        && at.since(gone) <= AT_ONCE
                    {
                        deposed.entry(*token).or_insert(thaw.min(gone));
                    }
                    let note = notes.entry(*token).or_insert_with(|| Notes::begin(who, *at, *until));
                    if note.who != *who {
                        shared.push((*token, note.who.clone(), who.clone()));
                    }
                    note.proved_until = note.proved_until.max(*until);
                    note.renewed = note.renewed.max(*at);
                    note.last_sign = note.last_sign.max(*at);
                }
                EventKind::Held { who, token } => {
                    let note = notes.entry(*token).or_insert_with(|| Notes::begin(who, *at, *at));
                    note.asked = note.asked.max(Some(*at));
                    note.last_sign = note.last_sign.max(*at);
                }
                EventKind::Alive { token, .. } => {
                    if let Some(note) = notes.get_mut(token) {
                        note.last_sign = note.last_sign.max(*at);
                    }
                }
                EventKind::Ended { token, last, how, .. } => {
                    if let Some(note) = notes.get_mut(token) {
                        note.ended.get_or_insert((*last, *how));
                    }
                }
                EventKind::Killed { who } => {
                    for note in notes.values_mut().filter(|note| note.who == *who && note.ended.is_none()) {
                        note.killed.get_or_insert(*at);
                    }
                }
                EventKind::Deposed { token } => {
                    deposed.entry(*token).or_insert(*at);
                }
                EventKind::Gone { token, .. } => {
                    let waking =
                        thaws.iter().find(|thaw| thaw.since(*at) <= AT_ONCE && at.since(**thaw) <= WAKING);
                    match (waking, notes.get(token)) {
                        (Some(thaw), Some(note)) if note.was_renewed_shortly_before(*at) => {
                            deposed.entry(*token).or_insert(*thaw.min(at));
                        }
                        (Some(thaw), None) => drop(taken.insert(*token, (*thaw, *at))),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        let term = |(token, note): (Token, Notes)| Term {
            token,
            end: note.end(),
            who: note.who,
            from: note.from,
            proved_until: note.proved_until,
            deposed: deposed.get(&token).copied(),
        };
        let mut terms: Vec<Term> = notes.into_iter().map(term).collect();
        terms.sort_by_key(|term| (term.from, term.token));
        Self { terms, shared }
    }

    pub(crate) fn all(&self) -> &[Term] {
        &self.terms
    }

    pub(crate) fn with(&self, token: Token) -> Option<&Term> {
        self.terms.iter().find(|term| term.token == token)
    }

    /// The intervals in `[from, to)` without a leader, in order.
    pub(crate) fn vacancies(&self, from: At, to: At) -> Vec<(At, At)> {
        let mut free = from;
        let mut vacancies = Vec::new();
        for term in &self.terms {
            if term.from > free && free < to {
                vacancies.push((free, term.from.min(to)));
            }
            free = free.max(term.end);
        }
        if free < to {
            vacancies.push((free, to));
        }
        vacancies
    }
}

/// The moments at which frozen members of etcd were thawed.
fn thaws(events: &[Event]) -> Vec<At> {
    let mut frozen = BTreeSet::new();
    let mut thaws = Vec::new();
    for Event { at, what } in events {
        match what {
            EventKind::Began { fault, kind, .. } if kind == MEMBER_FROZEN => drop(frozen.insert(*fault)),
            EventKind::Over { fault } if frozen.remove(fault) => thaws.push(*at),
            _ => {}
        }
    }
    thaws
}

impl Notes {
    /// Reports whether the lease had most of its time left, so that it can't have expired by itself.
    fn was_renewed_shortly_before(&self, at: At) -> bool {
        at.since(self.renewed) < self.proved_until.since(at)
    }

    fn begin(who: &str, from: At, until: At) -> Self {
        let who = who.to_owned();
        let (renewed, last_sign) = (from, from);
        Self { who, from, proved_until: until, renewed, last_sign, asked: None, ended: None, killed: None }
    }

    fn end(&self) -> At {
        // A yes after the guard's own deadline is exactly the violation to find.
        let believable = self.asked.map_or(self.proved_until, |asked| asked.max(self.proved_until));
        match (self.ended, self.killed) {
            (Some((last, Ending::Expired)), _) => last.map_or(believable, |last| last.max(believable)),
            // A frozen process may note it after its deadline.
            (Some((Some(last), _)), _) => last.max(self.asked.unwrap_or(last)).min(believable),
            // The note has no time: no later than its last sign of belief, for certain.
            (Some((None, _)), _) => self.last_sign.min(believable),
            (None, Some(killed)) => believable.min(killed),
            (None, None) => believable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{checker::sample::*, history::WriteTarget},
        *,
    };

    fn end_of(token: Token, events: Vec<Event>) -> At {
        Terms::of(&events).with(token).expect("a term").end
    }

    #[test]
    fn a_term_ends_at_its_last_proved_deadline() {
        assert_eq!(end_of(5, vec![proved(1, "a", 5, 30), proved(10, "a", 5, 40)]), at(40));
    }

    #[test]
    fn the_killed_believe_nothing_and_the_frozen_do() {
        assert_eq!(end_of(5, vec![proved(1, "a", 5, 30), killed(7, "a")]), at(7));
        assert_eq!(end_of(5, vec![proved(1, "a", 5, 30), frozen(7, "a")]), at(30));
    }

    #[test]
    fn a_guard_that_says_yes_after_its_deadline_is_taken_at_its_word() {
        assert_eq!(end_of(5, vec![proved(1, "a", 5, 30), held(35, "a", 5)]), at(35));
        let ended = ended(36, "a", 5, Some(35), Ending::Expired);
        assert_eq!(end_of(5, vec![proved(1, "a", 5, 30), held(35, "a", 5), ended]), at(35));
    }

    #[test]
    fn who_learns_of_the_end_early_says_when() {
        let taken = ended(12, "a", 5, Some(11), Ending::Taken);
        assert_eq!(end_of(5, vec![proved(1, "a", 5, 30), taken]), at(11));
    }

    #[test]
    fn who_was_asleep_at_its_deadline_gives_nothing_up_any_more() {
        let stopped = ended(40, "a", 5, Some(40), Ending::Resigned);
        assert_eq!(end_of(5, vec![proved(1, "a", 5, 30), stopped]), at(30));
    }

    #[test]
    fn a_command_s_supervisor_ends_with_the_last_sign_of_it() {
        let resigned = ended(20, "r", 5, None, Ending::Resigned);
        assert_eq!(end_of(5, vec![proved(1, "r", 5, 30), alive(9, "r", 5), resigned]), at(9));
    }

    #[test]
    fn vacancies_are_what_no_term_covers() {
        let events = vec![proved(10, "a", 1, 20), proved(15, "b", 2, 30), proved(50, "c", 3, 60)];
        let terms = Terms::of(&events);
        assert_eq!(terms.vacancies(at(0), at(70)), [(at(0), at(10)), (at(30), at(50)), (at(60), at(70))]);
        assert_eq!(terms.vacancies(at(12), at(40)), [(at(30), at(40))]);
        assert_eq!(terms.vacancies(at(51), at(55)), []);
    }

    #[test]
    fn a_leader_of_etcds_that_wakes_up_deposes_whom_it_had_no_reason_to() {
        let deposed = |gone_at, proofs: &[Event]| {
            let waking = [began(0, 7, MEMBER_FROZEN), over(100, 7), gone(gone_at, 5, 1)];
            Terms::of(&[proofs, &waking].concat()).with(5).expect("a term").deposed
        };
        let renewed = [proved(1, "a", 5, 300), proved(90, "a", 5, 390)];
        assert_eq!(deposed(110, &renewed), Some(at(100)));
        assert_eq!(deposed(99, &renewed), Some(at(99)));
        // Too long after it, or before.
        assert_eq!(deposed(700, &[proved(1, "a", 5, 300), proved(690, "a", 5, 990)]), None);
        assert_eq!(deposed(40, &renewed), None);
        // Not renewed for long: it may have expired by itself.
        assert_eq!(deposed(110, &[proved(1, "a", 5, 200)]), None);

        // It had just won, and had not reported so yet.
        let won = |at| {
            let waking = [began(0, 7, MEMBER_FROZEN), over(100, 7), gone(110, 5, 1), proved(at, "a", 5, 300)];
            Terms::of(&waking).with(5).expect("a term").deposed
        };
        assert_eq!(won(130), Some(at(100)));
        assert_eq!(won(161), None);
    }

    #[test]
    fn a_write_is_no_sign_of_belief() {
        let events = vec![proved(1, "a", 5, 30), wrote(40, WriteTarget::File, 0, 5)];
        assert_eq!(end_of(5, events), at(30));
    }
}
