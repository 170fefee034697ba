//! The start of a server: its backend, its candidate, and the status store for both.

use std::io;

use anyhow::{Context, anyhow};
use leader_election::{
    Candidate, CandidateName, ElectionName,
    candidate::Backend,
    etcd::{self, Etcd},
    peers::{self, Peer, StartError},
    timing::Ttl,
};
use tokio::runtime::Handle;
use tracing::info;

use super::election_log::ElectionLog;
use crate::{
    config::{CandidateConfig, PreferenceArgs},
    lease_timing::LeaseTiming,
    log::Format,
    status::{self, BoundAddress, ServerIdentity, Sources, StatusStore},
    supervise::leader_address::AddressLookup,
};

/// A server that has logged its start and bound its HTTP port, and nothing else yet.
pub(super) struct Startup {
    name: CandidateName,
    election: ElectionName,
    proof: LeaseTiming,
    preferences: PreferenceArgs,
    bound: Option<BoundAddress>,
    election_log: ElectionLog,
}

/// Everything needed to take part in an election.
pub(super) struct Participant<B> {
    pub(super) backend: B,
    pub(super) candidate: Candidate<B>,
    pub(super) store: StatusStore,
    pub(super) election_log: ElectionLog,
    pub(super) proof: LeaseTiming,
    pub(super) addresses: AddressLookup,
}

impl Startup {
    /// Binds the HTTP port before the server takes part: without its port it is not the ordered server.
    pub(super) fn set(
        candidate: &CandidateConfig,
        election: &ElectionName,
        format: Format,
    ) -> anyhow::Result<Self> {
        let bound = candidate.http.as_ref().map(|address| address.bind()).transpose()?;
        let election_log = ElectionLog::starting(candidate, election, format);
        let (name, proof) = (candidate.name.clone(), candidate.place.proof());
        let preferences = candidate.preferences.clone();
        Ok(Self { name, election: election.clone(), proof, preferences, bound, election_log })
    }

    /// Starts it on etcd, on this runtime, which must not be blocked.
    pub(super) fn on_etcd(self, settings: etcd::Settings, ttl: Ttl) -> anyhow::Result<Participant<Etcd>> {
        self.election_log.reaching();
        let etcd = Etcd::start_on(Handle::current(), settings.clone());
        let sources = Sources::of(&etcd, &self.election, settings.tls());
        let candidate = etcd
            .candidate(self.election.clone())?
            .ttl(ttl)
            .announce(true)
            .profile(self.preferences.profile())
            .never(self.preferences.never);
        let candidate = match self.preferences.min_tenure {
            Some(min_tenure) => candidate.min_tenure(min_tenure),
            None => candidate,
        };
        let candidate = candidate.named(self.name.clone())?;
        let addresses = AddressLookup::in_etcd(settings.clone(), self.election.clone());
        self.participant(etcd, candidate, sources, addresses, Some(settings))
    }

    /// Starts it among peers, on this runtime, which must not be blocked.
    pub(super) fn among_peers(self, settings: peers::Settings) -> anyhow::Result<Participant<Peer>> {
        let tls = settings.tls().cloned();
        let peers = Peer::start_on(Handle::current(), settings).map_err(explained)?;
        // Logged only after the start has succeeded.
        self.election_log.reaching();
        let sources = Sources::among_peers(&peers, &self.election, tls.as_ref());
        let candidate = peers.candidate();
        let addresses = AddressLookup::among(peers.clone(), self.election.clone());
        self.participant(peers, candidate, sources, addresses, None)
    }

    fn participant<B: Backend>(
        self,
        backend: B,
        candidate: Candidate<B>,
        sources: Sources,
        addresses: AddressLookup,
        names: Option<etcd::Settings>,
    ) -> anyhow::Result<Participant<B>> {
        let Self { name, election, proof, preferences, bound, election_log } = self;
        let address = preferences.advertise;
        let store = StatusStore::new(ServerIdentity { name, election, proof, address }, sources);
        if let Some(bound) = bound {
            let address = status::serve(bound, store.clone(), names).context("failed to serve HTTP")?;
            info!("serving http://{address}/");
        }
        Ok(Participant { backend, candidate, store, election_log, proof, addresses })
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
