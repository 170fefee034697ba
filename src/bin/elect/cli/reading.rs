//! The state of an election as it is read from outside, on either backend.

use std::time::Duration;

use anyhow::Context;
use leader_election::{
    ElectionName,
    choosing::{CandidateProfile, Controls},
    etcd::Etcd,
    observe::{Observer, Snapshot, SnapshotError, State},
    peers::{Answered, Client},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::config::{BackendConfig, Config};

/// Time for an answer. Other endpoints of etcd's are tried within it, and all peers.
const PATIENCE: Duration = Duration::from_secs(4);

/// Pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(100);

/// Reads one election.
pub(super) struct ElectionReader {
    source: Source,
    election: ElectionName,
}

enum Source {
    Etcd(Etcd),
    Peers(Client),
}

/// Knowledge of an election at one moment.
#[derive(Debug)]
pub(super) struct ElectionReading {
    pub(super) snapshot: Snapshot,
    /// The answer of each server; empty on etcd.
    pub(super) servers: Vec<Answered>,
    /// The operators' standing orders, as far as they are known.
    pub(super) controls: Controls,
}

impl ElectionReading {
    pub(super) fn of(snapshot: Snapshot, servers: Vec<Answered>) -> Self {
        let controls = controls(&snapshot, &servers);
        Self { snapshot, servers, controls }
    }

    fn on_etcd(snapshot: Snapshot, controls: Controls) -> Self {
        Self { snapshot, servers: Vec::new(), controls }
    }

    /// What a candidate publishes about itself, if it has answered.
    pub(super) fn profile(&self, name: &str) -> Option<&CandidateProfile> {
        let mut statuses = self.servers.iter().filter_map(|answered| answered.status.as_ref().ok());
        let answered = statuses.find(|status| status.name.as_str() == name).map(|status| &status.profile);
        let mut queued = self.snapshot.candidates.iter().filter(|queued| queued.name == name);
        answered.or_else(|| queued.next()?.profile.as_ref())
    }

    /// The reading that has failed.
    pub(super) fn failed(problem: String) -> Self {
        Self::of(Snapshot::unknown(problem), Vec::new())
    }
}

impl ElectionReader {
    pub(super) fn of(config: Config) -> anyhow::Result<Self> {
        let Config { backend, election, .. } = config;
        let source = match backend {
            BackendConfig::Etcd(settings) => Source::Etcd(Etcd::start(settings).context("failed to start")?),
            BackendConfig::Peers(peers) => Source::Peers(peers.client(election.clone())?),
        };
        Ok(Self { source, election })
    }

    /// Reads once. Returns an unknown state if there is no answer in time, or a refusal.
    pub(super) async fn read(&self) -> ElectionReading {
        match &self.source {
            Source::Etcd(etcd) => {
                let snapshot = self.read_etcd(etcd).await;
                let operator = etcd.operator(self.election.clone());
                // A user without the right to read them sees none.
                let controls = match snapshot.observation.state {
                    State::Unknown { .. } => Controls::default(),
                    _ => timeout(PATIENCE, operator.controls())
                        .await
                        .ok()
                        .and_then(Result::ok)
                        .unwrap_or_default(),
                };
                ElectionReading::on_etcd(snapshot, controls)
            }
            Source::Peers(client) => {
                let (snapshot, servers) = client.survey(PATIENCE).await;
                ElectionReading::of(snapshot, servers)
            }
        }
    }

    async fn read_etcd(&self, etcd: &Etcd) -> Snapshot {
        let deadline = Instant::now() + PATIENCE;
        let mut problem = None;
        while let Ok(answer) = timeout_at(deadline, etcd.snapshot(self.election.clone())).await {
            match answer {
                Ok(snapshot) => return snapshot,
                Err(SnapshotError::Refused(why)) => return Snapshot::unknown(why),
                Err(error) => problem = Some(error.to_string()),
            }
            sleep(PAUSE).await;
        }
        Snapshot::unknown(problem.unwrap_or_else(|| format!("no answer within {PATIENCE:?}")))
    }

    /// Follows the leader. Ends if this client is refused.
    pub(super) fn observe(&self) -> Observer {
        match &self.source {
            Source::Etcd(etcd) => etcd.observe(self.election.clone()),
            Source::Peers(client) => client.observe(),
        }
    }

    /// The subject of a sentence about a refusal.
    pub(super) fn refuses(&self) -> &'static str {
        match self.source {
            Source::Etcd(_) => "etcd refuses",
            Source::Peers(_) => "the peers refuse",
        }
    }
}

/// The standing orders by the leader's answer or, without a leader, by that of the latest term.
fn controls(snapshot: &Snapshot, servers: &[Answered]) -> Controls {
    let token = match &snapshot.observation.state {
        State::Leader(leader) => Some(leader.token),
        _ => None,
    };
    let statuses = servers.iter().filter_map(|answered| answered.status.as_ref().ok());
    let best = statuses.max_by_key(|status| {
        let leads = status
            .leader
            .as_ref()
            .is_some_and(|known| known.name == status.name && Some(known.token) == token);
        (leads, status.term)
    });
    best.map(|status| status.controls.clone()).unwrap_or_default()
}
