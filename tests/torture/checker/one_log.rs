//! All members read one log: the same records at the same indexes, in order, without a gap, and tokens that never
//! decrease. It has every record acknowledged as committed, once, and nothing else: no record that was not
//! proposed in that term, and none whose leader was told that it will never be committed.
//!
//! etcd has no such log, so this checks nothing there.

use std::collections::{BTreeMap, BTreeSet};

use super::{Case, Invariant};
use crate::{
    history::{At, Event, EventKind, Token},
    log::{Reading, readings},
};

pub(super) struct OneLog;

impl Invariant for OneLog {
    fn name(&self) -> &'static str {
        "one log"
    }

    fn broken_by(&self, case: &Case<'_>) -> Vec<String> {
        let readings = readings(case.history.events());
        let mut found = Vec::new();
        let log = CommittedLog::of(&readings, &mut found);
        for reading in &readings {
            found.extend(log.misread_by(reading));
        }
        found.extend(log.out_of_order());
        let proposals = Proposals::of(case.history.events());
        found.extend(log.not_as_proposed(&proposals));
        found.extend(log.lacks(&proposals, case));
        found.extend(behind(&readings, &proposals, case));
        found
    }
}

/// The log that all readings together show.
struct CommittedLog<'a>(BTreeMap<u64, (Token, &'a str)>);

impl<'a> CommittedLog<'a> {
    fn of(readings: &'a [Reading], found: &mut Vec<String>) -> Self {
        let mut log: BTreeMap<u64, (Token, &str)> = BTreeMap::new();
        for reading in readings {
            for entry in &reading.records {
                let seen = (entry.token, entry.record.as_str());
                let known = *log.entry(entry.index).or_insert(seen);
                if known != seen {
                    let (who, index) = (&reading.who, entry.index);
                    found.push(format!("at index {index}, {who} was shown {seen:?}, and others {known:?}"));
                }
            }
        }
        Self(log)
    }

    /// Errors in its order, and gaps.
    fn misread_by(&self, Reading { who, after, records }: &Reading) -> Vec<String> {
        let mut found = Vec::new();
        let mut last = *after;
        for entry in records {
            if entry.index <= last {
                found.push(format!("{who} was shown index {} after {last}", entry.index));
                continue;
            }
            let left_out: Vec<_> = self.0.range(last + 1..entry.index).map(|(index, _)| *index).collect();
            if !left_out.is_empty() {
                found.push(format!(
                    "{who} was shown index {} after {last}, without {left_out:?}",
                    entry.index
                ));
            }
            last = entry.index;
        }
        found
    }

    fn out_of_order(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut newest = 0;
        for (index, (token, _)) in &self.0 {
            if *token < newest {
                found.push(format!("a record of term {token} at index {index}, after one of term {newest}"));
            }
            newest = newest.max(*token);
        }
        found
    }

    fn not_as_proposed(&self, proposals: &Proposals<'_>) -> Vec<String> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        for (index, (token, record)) in &self.0 {
            if !seen.insert(record) {
                found.push(format!("{record} is in the log twice, the second time at index {index}"));
            }
            match proposals.made.get(record) {
                Some(proposed) if proposed == token => {}
                Some(proposed) => found.push(format!(
                    "{record} was proposed in term {proposed}, and is in the log at index {index} as of term {token}"
                )),
                None => found.push(format!("{record}, at index {index}, was proposed by no leader")),
            }
            if proposals.denied.contains(record) {
                found.push(format!(
                    "{record} is at index {index}, and its leader was told that it never will be"
                ));
            }
        }
        found
    }

    /// Records acknowledged as committed that no process read, from the time that all have read.
    fn lacks(&self, proposals: &Proposals<'_>, case: &Case<'_>) -> Vec<String> {
        let mut found = Vec::new();
        for (record, (at, index)) in &proposals.committed {
            match self.0.get(index) {
                Some((_, there)) if there == record => {}
                Some((_, there)) => found.push(format!(
                    "{record} is committed at index {index}, its leader was told, and {there} is there"
                )),
                None if *at < read_by_the_end(case) => {
                    found.push(format!(
                        "{record} is committed at index {index}, its leader was told, and is lost"
                    ));
                }
                None => {}
            }
        }
        found
    }
}

/// Live processes at the end that have not read a committed record.
fn behind(readings: &[Reading], proposals: &Proposals<'_>, case: &Case<'_>) -> Vec<String> {
    let settled = proposals.committed.values().filter(|(at, _)| *at < read_by_the_end(case));
    let Some(newest) = settled.map(|(_, index)| *index).max() else { return Vec::new() };
    let mut latest: BTreeMap<&str, u64> = BTreeMap::new();
    for reading in readings {
        latest.insert(&reading.who, reading.records.last().map_or(reading.after, |entry| entry.index));
    }
    for Event { at, what } in case.history.events() {
        if let EventKind::Killed { who } | EventKind::Told { who } | EventKind::Exited { who, .. } = what
            && *at >= read_by_the_end(case)
            && *at < case.history.end()
        {
            latest.remove(who.as_str());
        }
    }
    let late = latest.into_iter().filter(|(_, index)| *index < newest);
    late.map(|(who, index)| {
        format!("{who} was shown all up to index {index} in the end, and {newest} is committed")
    })
    .collect()
}

/// Every record committed by this time is read by the end of the run.
fn read_by_the_end(case: &Case<'_>) -> At {
    let grace = case.bounds.reading;
    At(case.history.end().0.saturating_sub(grace.as_nanos() as u64))
}

/// Records that leaders proposed, and the results.
struct Proposals<'a> {
    made: BTreeMap<&'a str, Token>,
    committed: BTreeMap<&'a str, (At, u64)>,
    denied: BTreeSet<&'a str>,
}

impl<'a> Proposals<'a> {
    fn of(events: &'a [Event]) -> Self {
        let mut proposals =
            Self { made: BTreeMap::new(), committed: BTreeMap::new(), denied: BTreeSet::new() };
        for Event { at, what } in events {
            match what {
                EventKind::Proposed { token, record, .. } => drop(proposals.made.insert(record, *token)),
                EventKind::Answered { record, index: Some(index), .. } => {
                    proposals.committed.insert(record, (*at, *index));
                }
                EventKind::Answered { record, index: None, .. } => drop(proposals.denied.insert(record)),
                _ => {}
            }
        }
        proposals
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample::*, *};

    fn event(millis: u64, what: EventKind) -> Event {
        Event { at: at(millis), what }
    }

    fn proposed(millis: u64, token: Token, record: &str) -> Event {
        event(millis, EventKind::Proposed { who: "a".into(), token, record: record.into() })
    }

    fn answered(millis: u64, record: &str, index: Option<u64>) -> Event {
        event(millis, EventKind::Answered { who: "a".into(), record: record.into(), index })
    }

    fn reads(millis: u64, who: &str) -> Event {
        event(millis, EventKind::Reads { who: who.into(), after: 0 })
    }

    fn shown(millis: u64, who: &str, index: u64, token: Token, record: &str) -> Event {
        event(millis, EventKind::Committed { who: who.into(), index, token, record: record.into() })
    }

    /// Two records of two terms, and further events.
    fn with(more: &[Event]) -> Vec<String> {
        let before = [proposed(1, 3, "x"), proposed(2, 5, "y"), reads(0, "a"), reads(0, "b")];
        broken(&OneLog, [&before[..], more, &[closed(90_000)]].concat())
    }

    #[test]
    fn lets_all_read_the_same_each_in_its_time_and_from_the_beginning_again() {
        let more = [
            shown(5, "a", 2, 3, "x"),
            shown(6, "a", 4, 5, "y"),
            answered(7, "y", Some(4)),
            shown(900, "b", 2, 3, "x"),
            reads(1_000, "b"),
            shown(1_001, "b", 2, 3, "x"),
            shown(1_002, "b", 4, 5, "y"),
        ];
        assert_eq!(with(&more), [""; 0]);
    }

    #[test]
    fn finds_two_logs() {
        let found = with(&[shown(5, "a", 2, 3, "x"), shown(6, "b", 2, 5, "y")]);
        assert!(found[0].starts_with("at index 2, b was shown"), "{found:?}");
    }

    #[test]
    fn finds_what_a_reader_was_not_shown_and_what_came_out_of_order() {
        let both = [shown(5, "a", 2, 3, "x"), shown(6, "a", 4, 5, "y")];
        let gap = with(&[&both[..], &[shown(7, "b", 4, 5, "y")]].concat());
        assert_eq!(gap, ["b was shown index 4 after 0, without [2]"]);
        let order = with(&[&both[..], &[shown(7, "b", 4, 5, "y"), shown(8, "b", 2, 3, "x")]].concat());
        assert!(order.contains(&"b was shown index 2 after 4".to_owned()), "{order:?}");
    }

    #[test]
    fn finds_an_older_term_after_a_newer() {
        let found = with(&[shown(5, "a", 2, 5, "y"), shown(6, "a", 4, 3, "x")]);
        assert_eq!(found, ["a record of term 3 at index 4, after one of term 5"]);
    }

    #[test]
    fn finds_records_that_were_not_proposed_or_in_another_term_or_twice() {
        assert_eq!(with(&[shown(5, "a", 2, 3, "z")]), ["z, at index 2, was proposed by no leader"]);
        assert_eq!(with(&[shown(5, "a", 2, 4, "x")]).len(), 1);
        let twice = with(&[shown(5, "a", 2, 3, "x"), shown(5, "a", 3, 3, "x")]);
        assert_eq!(twice, ["x is in the log twice, the second time at index 3"]);
    }

    #[test]
    fn finds_what_was_denied_and_what_was_lost() {
        let found = with(&[answered(4, "x", None), shown(5, "a", 2, 3, "x")]);
        assert_eq!(found, ["x is at index 2, and its leader was told that it never will be"]);
        let found = with(&[answered(4, "x", Some(2))]);
        assert!(
            found.contains(&"x is committed at index 2, its leader was told, and is lost".to_owned()),
            "{found:?}"
        );
        let found = with(&[answered(4, "x", Some(2)), shown(5, "a", 2, 5, "y")]);
        assert!(found[0].ends_with("and y is there"), "{found:?}");
        // Acknowledged so late that no process can have read it yet.
        assert_eq!(with(&[answered(89_990, "x", Some(2))]), [""; 0]);
    }

    #[test]
    fn finds_a_living_reader_that_is_behind_in_the_end_and_lets_the_dead_be() {
        let more = [shown(5, "a", 2, 3, "x"), answered(5, "x", Some(2))];
        assert_eq!(with(&more), ["b was shown all up to index 0 in the end, and 2 is committed"]);
        assert_eq!(with(&[&more[..], &[killed(89_990, "b")]].concat()), [""; 0]);
    }
}
