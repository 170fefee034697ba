//! A snapshot as JSON: the fields of `elect status --json`, and those that only this process knows.

use std::time::{Duration, SystemTime};

use leader_election::FencingToken;
use serde::Serialize;

use super::{
    metrics::slug,
    snapshot::{GroupMeasurements, LeaderView, PeerRow, QueuedCandidate, Role, StatusSnapshot},
    store::ServerIdentity,
};
use crate::{config::AdvertisedAddress, lease_timing::LeaseTiming};

/// Candidates that are listed; their number is given beside them.
const LISTED: usize = 100;

/// One object; unknown fields are `null`.
#[derive(Debug, Serialize)]
pub(crate) struct StatusReport<'a> {
    at: String,
    /// `leader`, `vacant` or `unknown`.
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
    candidates: Option<Vec<QueuedJson<'a>>>,
    /// Number of candidates; among peers no server knows it.
    queue_length: Option<usize>,
    /// All servers; only among peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    servers: Option<Vec<PeerJson<'a>>>,
    election: &'a str,
    /// `etcd` or `peers`.
    backend: &'static str,
    server: ServerJson<'a>,
    terms: Vec<TermJson<'a>>,
}

#[derive(Debug, Serialize)]
struct QueuedJson<'a> {
    name: Option<&'a str>,
    token: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
}

/// A server of a group, as the answering one sees it.
#[derive(Debug, Serialize)]
struct PeerJson<'a> {
    name: &'a str,
    connected: bool,
    /// Time since its last message; 0 for the answering server.
    heard_ms: Option<u64>,
    /// Its usual round trip.
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_ms: Option<f64>,
    /// True if it leads, as far as the answering server knows.
    leader: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
}

/// The answering process.
#[derive(Debug, Serialize)]
struct ServerJson<'a> {
    name: &'a str,
    /// `leader`, `follower` or `outside`.
    role: &'static str,
    /// Its token in the queue.
    token: Option<u64>,
    queue_position: Option<usize>,
    /// Time left of the validity while it leads.
    remaining_ms: Option<u64>,
    /// Time that a renewal proves: the TTL, or the shortest election timeout, less the margin.
    lease_ms: u64,
    /// `null` among peers.
    ttl_ms: Option<u64>,
    last_contact_ms: u64,
    /// True if etcd answered within the TTL, or a leader was heard recently.
    fresh: bool,
    healthy: bool,
    /// The address that it advertises.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
    /// Time of its disk to make writes durable; only among peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    sync_ms: Option<SyncsJson>,
    /// The flag to change if the timing is too short for the round trips and syncs; only among peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    timing_advice: Option<String>,
    version: &'static str,
}

#[derive(Debug, Serialize)]
struct SyncsJson {
    last: f64,
    worst: f64,
}

#[derive(Debug, Serialize)]
struct TermJson<'a> {
    token: u64,
    name: Option<&'a str>,
    /// True for this process's own term.
    own: bool,
    began: Option<String>,
    ended: Option<String>,
    reason: Option<&'static str>,
}

impl<'a> StatusReport<'a> {
    pub(crate) fn of(identity: &'a ServerIdentity, snapshot: &'a StatusSnapshot) -> Self {
        let (state, token, blocked_by, problem) = match &snapshot.leads {
            LeaderView::Term(token) => ("leader", Some(token.get()), None, None),
            LeaderView::Vacant { blocked_by } => ("vacant", None, blocked_by.as_deref(), None),
            LeaderView::Unknown { problem, .. } => ("unknown", None, None, Some(*problem)),
        };
        let since = match snapshot.leads {
            LeaderView::Unknown { since, .. } => snapshot.at.checked_sub(since),
            LeaderView::Term(_) | LeaderView::Vacant { .. } => snapshot.leads_since,
        };
        let queue = snapshot.queue.as_deref();
        let listed = |queue: &'a [QueuedCandidate]| queue.iter().take(LISTED).map(QueuedJson::of).collect();
        Self {
            at: time(snapshot.at),
            state,
            leader: snapshot.leader.as_deref(),
            token,
            since: since.map(time),
            address: snapshot.address.as_deref(),
            blocked_by,
            problem,
            candidates: queue.map(listed),
            queue_length: queue.filter(|_| snapshot.servers.is_none()).map(<[_]>::len),
            servers: snapshot.servers.as_deref().map(|servers| servers.iter().map(PeerJson::of).collect()),
            election: identity.election.as_str(),
            backend: match identity.proof {
                LeaseTiming::Lease(_) => "etcd",
                LeaseTiming::Heartbeats(_) => "peers",
            },
            server: ServerJson::of(identity, snapshot),
            terms: snapshot.terms.iter().map(TermJson::of).collect(),
        }
    }

    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always make JSON")
    }
}

impl<'a> QueuedJson<'a> {
    fn of(candidate: &'a QueuedCandidate) -> Self {
        Self {
            name: candidate.name.as_deref(),
            token: candidate.token.map(FencingToken::get),
            address: candidate.address.as_deref(),
        }
    }
}

impl<'a> PeerJson<'a> {
    fn of(peer: &'a PeerRow) -> Self {
        Self {
            name: &peer.name,
            connected: peer.connected,
            heard_ms: peer.heard.map(millis),
            round_trip_ms: peer.round_trip.map(precise_millis),
            leader: peer.leads,
            problem: peer.problem.as_deref(),
        }
    }
}

impl<'a> ServerJson<'a> {
    fn of(identity: &'a ServerIdentity, snapshot: &StatusSnapshot) -> Self {
        let remaining = match snapshot.role {
            Role::Leader { remaining, .. } => Some(millis(remaining)),
            Role::Follower { .. } | Role::Outside => None,
        };
        Self {
            name: identity.name.as_str(),
            role: snapshot.role.as_str(),
            token: snapshot.role.token().map(|token| token.get()),
            queue_position: snapshot.role.place(),
            remaining_ms: remaining,
            lease_ms: millis(identity.proof.certain()),
            ttl_ms: match identity.proof {
                LeaseTiming::Lease(ttl) => Some(millis(ttl.as_duration())),
                LeaseTiming::Heartbeats(_) => None,
            },
            last_contact_ms: millis(snapshot.unheard),
            fresh: snapshot.fresh,
            healthy: snapshot.healthy,
            address: identity.address.as_ref().map(AdvertisedAddress::as_str),
            sync_ms: snapshot.measured.as_ref().map(|GroupMeasurements { syncs, .. }| SyncsJson {
                last: precise_millis(syncs.last),
                worst: precise_millis(syncs.worst),
            }),
            timing_advice: snapshot
                .measured
                .as_ref()
                .and_then(|measured| Some(measured.advice.as_ref()?.to_string())),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

impl<'a> TermJson<'a> {
    fn of(past: &'a super::snapshot::PastTerm) -> Self {
        Self {
            token: past.token.get(),
            name: past.name.as_deref(),
            own: past.term.own,
            began: past.term.began.map(time),
            ended: past.term.ended.map(time),
            reason: past.term.reason.map(slug),
        }
    }
}

/// Formats as RFC 3339, UTC, milliseconds.
fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// Includes microseconds as decimals: round trips and syncs may take less than a millisecond.
pub(crate) fn precise_millis(span: Duration) -> f64 {
    span.as_micros() as f64 / 1000.0
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
