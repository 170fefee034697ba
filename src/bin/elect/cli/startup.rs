//! What a server stands on: a backend that was started, a candidate on it, and what shows both to others.

use std::io;

use anyhow::{Context, anyhow};
use leader_election::{
    Candidate, CandidateName, ElectionName,
    candidate::Backend,
    etcd::{self, Etcd},
    peers::{self, Peers, StartError},
    timing::Ttl,
};
use tokio::runtime::Handle;
use tracing::info;

use super::election_log::ElectionLog;
use crate::{
    config::CandidateConfig,
    lease_timing::LeaseTiming,
    log::Format,
    status::{self, BoundAddress, ServerIdentity, Sources, StatusStore},
};

/// A server that has said that it starts, and has its HTTP port, and nothing else yet.
pub(super) struct Startup {
    name: CandidateName,
    election: ElectionName,
    proof: LeaseTiming,
    bound: Option<BoundAddress>,
    journal: ElectionLog,
}

/// All that it takes to stand.
pub(super) struct Participant<B> {
    pub(super) backend: B,
    pub(super) candidate: Candidate<B>,
    pub(super) board: StatusStore,
    pub(super) journal: ElectionLog,
    pub(super) proof: LeaseTiming,
}

impl Startup {
    /// Before it stands: a server that can't be asked is not what was ordered.
    pub(super) fn set(
        standing: &CandidateConfig,
        election: &ElectionName,
        format: Format,
    ) -> anyhow::Result<Self> {
        let bound = standing.http.as_ref().map(|address| address.bind()).transpose()?;
        let journal = ElectionLog::starting(standing, election, format);
        let (name, proof) = (standing.name.clone(), standing.place.proof());
        Ok(Self { name, election: election.clone(), proof, bound, journal })
    }

    /// On this runtime, which must not be blocked.
    pub(super) fn on_etcd(self, settings: etcd::Settings, ttl: Ttl) -> anyhow::Result<Participant<Etcd>> {
        self.journal.reaching();
        let etcd = Etcd::start_on(Handle::current(), settings.clone());
        let sources = Sources::of(&etcd, &self.election, settings.tls());
        let candidate =
            etcd.candidate(self.election.clone())?.ttl(ttl).announce(true).named(self.name.clone())?;
        self.ground(etcd, candidate, sources, Some(settings))
    }

    /// On this runtime, which must not be blocked.
    pub(super) fn among_peers(self, settings: peers::Settings) -> anyhow::Result<Participant<Peers>> {
        let tls = settings.tls().cloned();
        let peers = Peers::start_on(Handle::current(), settings).map_err(explained)?;
        // Not before it does.
        self.journal.reaching();
        let sources = Sources::among_peers(&peers, &self.election, tls.as_ref());
        let candidate = peers.candidate();
        self.ground(peers, candidate, sources, None)
    }

    fn ground<B: Backend>(
        self,
        backend: B,
        candidate: Candidate<B>,
        sources: Sources,
        names: Option<etcd::Settings>,
    ) -> anyhow::Result<Participant<B>> {
        let Self { name, election, proof, bound, journal } = self;
        let board = StatusStore::new(ServerIdentity { name, election, proof }, sources);
        if let Some(bound) = bound {
            let address = status::serve(bound, board.clone(), names).context("failed to serve HTTP")?;
            info!("serving http://{address}/");
        }
        Ok(Participant { backend, candidate, board, journal, proof })
    }
}

fn explained(error: StartError) -> anyhow::Error {
    match error {
        StartError::Listen { address, problem } => {
            let problem = match problem.kind() {
                io::ErrorKind::AddrInUse => {
                    "another process listens there; stop it, or give this server another address, in --peers on \
                     every server"
                        .into()
                }
                io::ErrorKind::AddrNotAvailable => {
                    "no interface of this machine has that address; say with --listen where to listen, as in \
                     0.0.0.0:10000"
                        .into()
                }
                io::ErrorKind::PermissionDenied => "not permitted; ports from 1024 on need no rights".into(),
                _ => problem.to_string(),
            };
            anyhow!("--listen {address}: {problem}")
        }
        problem @ StartError::Unprotected { .. } => anyhow!(
            "--listen {problem}; give all members a certificate each (--cacert, --cert, --key), or a secret \
             (--secret-file), or say --insecure-peers if the network lets only members connect"
        ),
        problem @ (StartError::Data(_) | StartError::Inconsistent(_)) => anyhow!("--data {problem}"),
        other => anyhow!(other),
    }
}
