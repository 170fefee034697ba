//! Observations as text for people, and as JSON for programs.

use std::{collections::BTreeMap, time::SystemTime};

use leader_election::{
    FencingToken,
    choosing::{CandidateProfile, Controls, OrderedBy, Priority},
    observe::{Observation, Queued, Snapshot, State},
    peers::Answered,
};
use serde::Serialize;

use super::reading::ElectionReading;
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
    /// The address that the leader advertises.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidates: Option<Vec<JsonCandidate<'a>>>,
    /// The server that brings candidates up to date while there is no leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    caretaker: Option<&'a str>,
    /// While set, nothing moves by priority or transfer.
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<JsonOrder<'a>>,
    /// Servers that do not lead while another one can.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cordons: Vec<JsonCordon<'a>>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
}

impl<'a> JsonCandidate<'a> {
    fn of(queued: &'a Queued, profile: Option<&'a CandidateProfile>) -> Self {
        Self {
            name: &queued.name,
            token: queued.token.map(FencingToken::get),
            priority: profile.map(|profile| profile.priority.get()),
            address: profile.and_then(|profile| profile.address.as_deref()),
            zone: profile.and_then(|profile| profile.zone.as_deref()),
            version: profile.and_then(|profile| profile.version.as_deref()),
        }
    }
}

/// The origin of a standing order.
#[derive(Debug, Serialize)]
pub(super) struct JsonOrder<'a> {
    by: &'a str,
    at: String,
}

impl<'a> JsonOrder<'a> {
    fn of(by: &'a OrderedBy) -> Self {
        Self { by: &by.operator, at: time(by.at) }
    }
}

#[derive(Debug, Serialize)]
struct JsonCordon<'a> {
    name: &'a str,
    hard: bool,
    #[serde(flatten)]
    order: JsonOrder<'a>,
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
            address: None,
            blocked_by: None,
            problem: None,
            candidates: None,
            caretaker: None,
            paused: None,
            cordons: Vec::new(),
            measured: Vec::new(),
        };
        match state {
            State::Leader(leader) => Self {
                state: "leader",
                leader: Some(&leader.name),
                token: Some(leader.token.get()),
                since: leader.since.map(time),
                address: leader.address.as_deref(),
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

    pub(super) fn of_reading(reading: &'a ElectionReading, measured: Vec<MeasuredJson<'a>>) -> Self {
        let ElectionReading { snapshot, servers, controls, .. } = reading;
        let queued = snapshot.candidates.iter();
        let candidates = queued.map(|queued| JsonCandidate::of(queued, reading.profile(&queued.name)));
        let (candidates, caretaker) = (Some(candidates.collect()), caretaker(snapshot, servers));
        let paused = controls.paused.as_ref().map(JsonOrder::of);
        let cordons = controls.cordons.iter().map(|(name, cordon)| JsonCordon {
            name: name.as_str(),
            hard: cordon.hard,
            order: JsonOrder::of(&cordon.by),
        });
        let cordons = cordons.collect();
        Self { candidates, caretaker, measured, paused, cordons, ..Self::of(&snapshot.observation) }
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
pub(super) fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// Formats one line for people.
pub(super) fn text(Observation { at, state, .. }: &Observation) -> String {
    let at = time(*at);
    match state {
        State::Leader(leader) => {
            let since = leader.since.map(|since| format!(", since {}", time(since))).unwrap_or_default();
            let address =
                leader.address.as_ref().map(|address| format!(", at {address}")).unwrap_or_default();
            format!("{at} leader {} (token {}{since}{address})", leader.name, leader.token)
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

/// Formats a candidate that waits.
pub(super) fn waiting(queued: &Queued, profile: Option<&CandidateProfile>) -> String {
    let mut details: Vec<_> = queued.token.iter().map(|token| format!("token {token}")).collect();
    if let Some(profile) = profile {
        if profile.priority != Priority::DEFAULT {
            details.push(format!("priority {}", profile.priority));
        }
        details.extend(profile.zone.iter().map(|zone| format!("zone {zone}")));
        details.extend(profile.address.iter().map(|address| format!("at {address}")));
    }
    if details.is_empty() { queued.name.clone() } else { format!("{} ({})", queued.name, details.join(", ")) }
}

/// Formats the standing orders, one a line.
pub(super) fn standing_orders(controls: &Controls) -> Vec<String> {
    let by = |by: &OrderedBy| format!("by {} since {}", by.operator, time(by.at));
    let paused = controls.paused.iter().map(|order| format!("paused {}", by(order)));
    let cordons = controls.cordons.iter().map(|(name, cordon)| {
        let hard = if cordon.hard { " (hard)" } else { "" };
        format!("cordoned: {name}{hard} {}", by(&cordon.by))
    });
    paused.chain(cordons).collect()
}

#[cfg(test)]
mod tests {
    use leader_election::{
        choosing::Cordon,
        observe::{Leader, Queued},
        peers::PeerStatus,
    };

    use super::*;

    #[test]
    fn a_leader_is_shown_with_its_address_if_it_has_one() {
        let shown = |address: Option<&str>| {
            let mut leader = Leader::new("a".to_owned(), FencingToken::new(7));
            leader.address = address.map(str::to_owned);
            let observation = Observation::new(SystemTime::UNIX_EPOCH, State::Leader(leader));
            (text(&observation), serde_json::to_value(Json::of(&observation)).unwrap())
        };
        let (line, json) = shown(Some("host1:8443"));
        assert_eq!(line, "1970-01-01T00:00:00.000Z leader a (token 7, at host1:8443)");
        assert_eq!(json["address"], "host1:8443");
        let (line, json) = shown(None);
        assert_eq!(line, "1970-01-01T00:00:00.000Z leader a (token 7)");
        assert_eq!(json.get("address"), None);
    }

    #[test]
    fn standing_orders_are_shown_with_who_and_when() {
        let by = || OrderedBy::new("alice@host1".into(), SystemTime::UNIX_EPOCH);
        let mut status = PeerStatus::new("a".parse().unwrap());
        status.controls.paused = Some(by());
        status.controls.cordons.insert("b".parse().unwrap(), Cordon::new(true, by()));
        (status.profile.zone, status.profile.priority) = (Some("east".into()), Priority::new(50));
        let mut observation = Observation::new(SystemTime::now(), State::Vacant { blocked_by: None });
        observation.at = SystemTime::UNIX_EPOCH;
        let snapshot = Snapshot::new(observation, vec![Queued::new("a".to_owned(), None)]);
        let answered = Answered::new("a=localhost:1".parse().unwrap(), Ok(status));
        let reading = ElectionReading::of(snapshot, vec![answered]);
        assert_eq!(
            standing_orders(&reading.controls),
            [
                "paused by alice@host1 since 1970-01-01T00:00:00.000Z",
                "cordoned: b (hard) by alice@host1 since 1970-01-01T00:00:00.000Z"
            ]
        );
        assert_eq!(
            waiting(&reading.snapshot.candidates[0], reading.profile("a")),
            "a (priority 50, zone east)"
        );
        let json = serde_json::to_value(Json::of_reading(&reading, Vec::new())).unwrap();
        assert_eq!(json["paused"]["by"], "alice@host1");
        assert_eq!((&json["cordons"][0]["name"], &json["cordons"][0]["hard"]), (&"b".into(), &true.into()));
        assert_eq!(json["candidates"][0]["zone"], "east");
    }

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
        let servers = |role| vec![server("a", role), server("c", "follower")];
        let line = |role| caretaking(&snapshot, &servers(role));
        assert_eq!(line("caretaker").as_deref(), Some("a brings c up to date; there is no leader yet"));
        assert_eq!(line("follower"), None);
        let json = |role| {
            let reading = ElectionReading::of(snapshot.clone(), servers(role));
            serde_json::to_value(Json::of_reading(&reading, Vec::new())).unwrap()
        };
        assert_eq!(json("caretaker")["caretaker"], "a");
        assert_eq!(json("follower").get("caretaker"), None);
    }
}
