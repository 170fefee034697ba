//! Observations as text for people, and as JSON for programs.

use std::{collections::BTreeMap, time::SystemTime};

use leader_election::{
    FencingToken,
    observe::{Observation, Snapshot, State},
    peers::Answered,
};
use serde::Serialize;

use crate::status::precise_millis;

/// One JSON object; unknown fields are `null`.
#[derive(Debug, Serialize)]
pub(super) struct Json<'a> {
    at: String,
    state: &'static str,
    leader: Option<&'a str>,
    token: Option<u64>,
    /// Start of the leader's term; for `unknown`, the time since when it is.
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidates: Option<Vec<JsonCandidate<'a>>>,
    /// The server that brings candidates up to date while there is no leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    caretaker: Option<&'a str>,
    /// Measurements of the peers that have answered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    measured: Vec<MeasuredJson<'a>>,
}

/// One server's measurements of the others and of its disk.
#[derive(Debug, Serialize)]
pub(super) struct MeasuredJson<'a> {
    pub(super) server: &'a str,
    round_trips_ms: BTreeMap<&'a str, f64>,
    last_sync_ms: f64,
    worst_sync_ms: f64,
    /// The flag to change if the timing is too short for the measurements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timing_advice: Option<String>,
}

impl<'a> MeasuredJson<'a> {
    /// Returns `None` for a server that has not answered.
    pub(super) fn of(answered: &'a Answered) -> Option<Self> {
        let status = answered.status.as_ref().ok()?;
        let round_trips = status
            .links
            .iter()
            .filter_map(|contact| Some((contact.name.as_str(), precise_millis(contact.round_trip?))));
        Some(Self {
            server: answered.member.name.as_str(),
            round_trips_ms: round_trips.collect(),
            last_sync_ms: precise_millis(status.syncs.last),
            worst_sync_ms: precise_millis(status.syncs.worst),
            timing_advice: status.timing_advice().map(|advice| advice.to_string()),
        })
    }
}

#[derive(Debug, Serialize)]
struct JsonCandidate<'a> {
    name: &'a str,
    token: Option<u64>,
}

impl<'a> Json<'a> {
    pub(super) fn of(Observation { at, state, .. }: &'a Observation) -> Self {
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
            caretaker: None,
            measured: Vec::new(),
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

    pub(super) fn of_snapshot(
        snapshot: &'a Snapshot,
        servers: &'a [Answered],
        measured: Vec<MeasuredJson<'a>>,
    ) -> Self {
        let queued = snapshot.candidates.iter();
        let candidates = queued
            .map(|queued| JsonCandidate { name: &queued.name, token: queued.token.map(FencingToken::get) });
        let (candidates, caretaker) = (Some(candidates.collect()), caretaker(snapshot, servers));
        Self { candidates, caretaker, measured, ..Self::of(&snapshot.observation) }
    }
}

/// Returns the caretaker, which passes the newest log on while there is no leader.
fn caretaker<'a>(snapshot: &Snapshot, servers: &'a [Answered]) -> Option<&'a str> {
    if !matches!(snapshot.observation.state, State::Vacant { .. }) {
        return None;
    }
    let mut statuses = servers.iter().filter_map(|answered| answered.status.as_ref().ok());
    statuses.find(|status| status.role == "caretaker").map(|status| status.name.as_str())
}

/// Returns a line for people about the caretaker.
pub(super) fn caretaking(snapshot: &Snapshot, servers: &[Answered]) -> Option<String> {
    let caretaker = caretaker(snapshot, servers)?;
    let candidates: Vec<&str> = snapshot.candidates.iter().map(|queued| queued.name.as_str()).collect();
    Some(format!("{caretaker} brings {} up to date; there is no leader yet", candidates.join(", ")))
}

/// Formats as RFC 3339, UTC, milliseconds.
fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// Formats one line for people.
pub(super) fn text(Observation { at, state, .. }: &Observation) -> String {
    let at = time(*at);
    match state {
        State::Leader(leader) => {
            let since = leader.since.map(|since| format!(", since {}", time(since))).unwrap_or_default();
            format!("{at} leader {} (token {}{since})", leader.name, leader.token)
        }
        State::Vacant { blocked_by: None } => format!("{at} vacant"),
        State::Vacant { blocked_by: Some(key) } => {
            format!("{at} vacant (the key '{key}', which is no candidate's, blocks the queue)")
        }
        State::Unknown { last_known, problem } => {
            let since = last_known.map(|known| format!(" since {}", time(known))).unwrap_or_default();
            format!("{at} unknown{since} ({problem})")
        }
        _ => format!("{at} unknown"),
    }
}

#[cfg(test)]
mod tests {
    use leader_election::{observe::Queued, peers::PeerStatus};

    use super::*;

    #[test]
    fn a_vacancy_names_the_caretaker_and_who_waits_for_it() {
        let server = |name: &str, role: &str| {
            let mut status = PeerStatus::new(name.parse().unwrap());
            (status.term, status.role) = (3, role.to_owned());
            Answered::new(format!("{name}=localhost:1").parse().unwrap(), Ok(status))
        };
        let candidates = vec![Queued::new("c".to_owned(), None)];
        let observation = Observation::new(SystemTime::now(), State::Vacant { blocked_by: None });
        let snapshot = Snapshot::new(observation, candidates);
        let servers = |role| [server("a", role), server("c", "follower")];
        let line = |role| caretaking(&snapshot, &servers(role));
        assert_eq!(line("caretaker").as_deref(), Some("a brings c up to date; there is no leader yet"));
        assert_eq!(line("follower"), None);
        let json =
            |role| serde_json::to_value(Json::of_snapshot(&snapshot, &servers(role), Vec::new())).unwrap();
        assert_eq!(json("caretaker")["caretaker"], "a");
        assert_eq!(json("follower").get("caretaker"), None);
    }
}
