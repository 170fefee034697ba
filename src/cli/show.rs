//! Observations as text for people, and as JSON for programs.

use std::time::SystemTime;

use leader_election::{
    FencingToken,
    observe::{Observation, Snapshot, State},
};
use serde::Serialize;

/// One JSON object. A field that is not known is `null`.
#[derive(Debug, Serialize)]
pub(super) struct Json<'a> {
    at: String,
    state: &'static str,
    leader: Option<&'a str>,
    token: Option<u64>,
    /// Since when the leader leads; of `unknown`, since when it is.
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidates: Option<Vec<JsonCandidate<'a>>>,
}

#[derive(Debug, Serialize)]
struct JsonCandidate<'a> {
    name: &'a str,
    token: Option<u64>,
}

impl<'a> Json<'a> {
    pub(super) fn of(Observation { at, state }: &'a Observation) -> Self {
        let at = time(*at);
        let empty = Self {
            at,
            state: "unknown",
            leader: None,
            token: None,
            since: None,
            blocked_by: None,
            problem: None,
            candidates: None,
        };
        match state {
            State::Leader(leader) => Self {
                state: "leader",
                leader: Some(&leader.name),
                token: Some(leader.token.get()),
                since: leader.since.map(time),
                ..empty
            },
            State::Vacant { blocked_by } => {
                Self { state: "vacant", blocked_by: blocked_by.as_deref(), ..empty }
            }
            State::Unknown { last_known, problem } => {
                Self { since: last_known.map(time), problem: Some(problem), ..empty }
            }
            _ => empty,
        }
    }

    pub(super) fn of_snapshot(snapshot: &'a Snapshot) -> Self {
        let queued = snapshot.candidates.iter();
        let candidates = queued
            .map(|queued| JsonCandidate { name: &queued.name, token: queued.token.map(FencingToken::get) });
        Self { candidates: Some(candidates.collect()), ..Self::of(&snapshot.observation) }
    }
}

/// RFC 3339, UTC, milliseconds.
fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// One line for people.
pub(super) fn text(Observation { at, state }: &Observation) -> String {
    let at = time(*at);
    match state {
        State::Leader(leader) => {
            let since = leader.since.map(|since| format!(", since {}", time(since))).unwrap_or_default();
            format!("{at} leader {} (token {}{since})", leader.name, leader.token)
        }
        State::Vacant { blocked_by: None } => format!("{at} vacant"),
        State::Vacant { blocked_by: Some(key) } => {
            format!("{at} vacant (the key '{key}', which is no candidate's, keeps everybody from leading)")
        }
        State::Unknown { last_known, problem } => {
            let since = last_known.map(|known| format!(" since {}", time(known))).unwrap_or_default();
            format!("{at} unknown{since} ({problem})")
        }
        _ => format!("{at} unknown"),
    }
}
