//! The log of a group of peers, as the readers of its committed records saw it.
//!
//! Every program on the library reads it from the beginning, anew after each start. Each of these *readings* is a part
//! of the one log.

use std::collections::BTreeMap;

use super::history::{At, Event, EventKind, Token, WriteTarget};

/// One process's stream of committed records, in one run of it.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) who: String,
    /// It starts after this index.
    pub(crate) after: u64,
    /// In order of arrival.
    pub(crate) records: Vec<LogEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogEntry {
    pub(crate) at: At,
    pub(crate) index: u64,
    pub(crate) token: Token,
    pub(crate) record: String,
}

/// All readings, in the order of their beginnings.
pub(crate) fn readings(events: &[Event]) -> Vec<Reading> {
    let mut readings: Vec<Reading> = Vec::new();
    for Event { at, what } in events {
        match what {
            EventKind::Reads { who, after } => {
                readings.push(Reading { who: who.clone(), after: *after, records: Vec::new() });
            }
            EventKind::Committed { who, index, token, record } => {
                if let Some(reading) = readings.iter_mut().rfind(|reading| reading.who == *who) {
                    let entry = LogEntry { at: *at, index: *index, token: *token, record: record.clone() };
                    reading.records.push(entry);
                }
            }
            _ => {}
        }
    }
    readings
}

/// Each record once, as a write that took effect when it was first seen.
pub(crate) fn writes(events: &[Event]) -> Vec<Event> {
    let mut first: BTreeMap<u64, (At, Token)> = BTreeMap::new();
    for Event { at, what } in events {
        if let EventKind::Committed { index, token, .. } = what {
            let seen = first.entry(*index).or_insert((*at, *token));
            if *at < seen.0 {
                *seen = (*at, *token);
            }
        }
    }
    let write =
        |(order, (at, token))| Event { at, what: EventKind::Wrote { place: WriteTarget::Log, order, token } };
    first.into_iter().map(write).collect()
}
