//! A situation as JSON: what `elect status --json` says, and what only this process knows.

use std::time::{Duration, SystemTime};

use leader_election::FencingToken;
use serde::Serialize;

use super::{
    board::Identity,
    metrics::slug,
    situation::{Candidate, Leads, Measured, Peer, Role, Situation},
};
use crate::proof::Proof;

/// Candidates that are listed; how many there are is said beside them.
const LISTED: usize = 100;

/// One object. A field that is not known is `null`.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    at: String,
    /// `leader`, `vacant` or `unknown`.
    state: &'static str,
    leader: Option<&'a str>,
    token: Option<u64>,
    /// Since when the leader leads; of `unknown`, since when it is.
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
    candidates: Option<Vec<Queued<'a>>>,
    /// How many candidates there are; among peers that is known to none of them alone.
    queue_length: Option<usize>,
    /// Among peers: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    servers: Option<Vec<SeenPeer<'a>>>,
    election: &'a str,
    /// `etcd` or `peers`.
    backend: &'static str,
    server: Server<'a>,
    terms: Vec<Term<'a>>,
}

#[derive(Debug, Serialize)]
struct Queued<'a> {
    name: Option<&'a str>,
    token: Option<u64>,
}

/// A server of a group, as the one that answers sees it.
#[derive(Debug, Serialize)]
struct SeenPeer<'a> {
    name: &'a str,
    connected: bool,
    /// How long ago it was heard; of the one that answers, 0.
    heard_ms: Option<u64>,
    /// How long its answers usually take.
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip_ms: Option<f64>,
    /// Whether it leads, as far as that is known there.
    leader: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
}

/// The process that answers.
#[derive(Debug, Serialize)]
struct Server<'a> {
    name: &'a str,
    /// `leader`, `follower` or `outside`.
    role: &'static str,
    /// The token that it has in the queue.
    token: Option<u64>,
    queue_position: Option<usize>,
    /// What is left of the proved time while it leads.
    remaining_ms: Option<u64>,
    /// All that a renewal proves: the TTL, or the shortest election timeout, less the margin.
    lease_ms: u64,
    /// `null` among peers.
    ttl_ms: Option<u64>,
    last_contact_ms: u64,
    /// Whether etcd was heard within the TTL, or a leader lately.
    fresh: bool,
    healthy: bool,
    /// Among peers: how long its disk takes to make writes durable.
    #[serde(skip_serializing_if = "Option::is_none")]
    sync_ms: Option<Syncs>,
    /// Among peers: the flag to change where the timing can't serve the round trips and syncs.
    #[serde(skip_serializing_if = "Option::is_none")]
    timing_advice: Option<String>,
    version: &'static str,
}

#[derive(Debug, Serialize)]
struct Syncs {
    last: f64,
    worst: f64,
}

#[derive(Debug, Serialize)]
struct Term<'a> {
    token: u64,
    name: Option<&'a str>,
    /// Whether it was this process's.
    own: bool,
    began: Option<String>,
    ended: Option<String>,
    reason: Option<&'static str>,
}

impl<'a> Report<'a> {
    pub(crate) fn of(identity: &'a Identity, situation: &'a Situation) -> Self {
        let (state, token, blocked_by, problem) = match &situation.leads {
            Leads::Term(token) => ("leader", Some(token.get()), None, None),
            Leads::Nobody { blocked_by } => ("vacant", None, blocked_by.as_deref(), None),
            Leads::Unknown { problem, .. } => ("unknown", None, None, Some(*problem)),
        };
        let since = match situation.leads {
            Leads::Unknown { since, .. } => situation.at.checked_sub(since),
            Leads::Term(_) | Leads::Nobody { .. } => situation.leads_since,
        };
        let queue = situation.queue.as_deref();
        let listed = |queue: &'a [Candidate]| queue.iter().take(LISTED).map(Queued::of).collect();
        Self {
            at: time(situation.at),
            state,
            leader: situation.leader.as_deref(),
            token,
            since: since.map(time),
            blocked_by,
            problem,
            candidates: queue.map(listed),
            queue_length: queue.filter(|_| situation.servers.is_none()).map(<[_]>::len),
            servers: situation.servers.as_deref().map(|servers| servers.iter().map(SeenPeer::of).collect()),
            election: identity.election.as_str(),
            backend: match identity.proof {
                Proof::Lease(_) => "etcd",
                Proof::Heartbeats(_) => "peers",
            },
            server: Server::of(identity, situation),
            terms: situation.terms.iter().map(Term::of).collect(),
        }
    }

    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always make JSON")
    }
}

impl<'a> Queued<'a> {
    fn of(candidate: &'a Candidate) -> Self {
        Self { name: candidate.name.as_deref(), token: candidate.token.map(FencingToken::get) }
    }
}

impl<'a> SeenPeer<'a> {
    fn of(peer: &'a Peer) -> Self {
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

impl<'a> Server<'a> {
    fn of(identity: &'a Identity, situation: &Situation) -> Self {
        let remaining = match situation.role {
            Role::Leader { remaining, .. } => Some(millis(remaining)),
            Role::Follower { .. } | Role::Outside => None,
        };
        Self {
            name: identity.name.as_str(),
            role: situation.role.as_str(),
            token: situation.role.token().map(|token| token.get()),
            queue_position: situation.role.place(),
            remaining_ms: remaining,
            lease_ms: millis(identity.proof.certain()),
            ttl_ms: match identity.proof {
                Proof::Lease(ttl) => Some(millis(ttl.as_duration())),
                Proof::Heartbeats(_) => None,
            },
            last_contact_ms: millis(situation.unheard),
            fresh: situation.fresh,
            healthy: situation.healthy,
            sync_ms: situation.measured.as_ref().map(|Measured { syncs, .. }| Syncs {
                last: precise_millis(syncs.last),
                worst: precise_millis(syncs.worst),
            }),
            timing_advice: situation
                .measured
                .as_ref()
                .and_then(|measured| Some(measured.advice.as_ref()?.to_string())),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

impl<'a> Term<'a> {
    fn of(past: &'a super::situation::PastTerm) -> Self {
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

/// RFC 3339, UTC, milliseconds.
fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// With microseconds behind the point: round trips and syncs may take less than a millisecond.
pub(crate) fn precise_millis(span: Duration) -> f64 {
    span.as_micros() as f64 / 1000.0
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
