//! The address that a new leader advertises, for the hook that is told of it.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use leader_election::{
    ElectionName, FencingToken,
    candidate::Backend,
    etcd::{Etcd, Settings},
    observe::State,
};
use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};

/// Time for a leader to announce itself, which takes milliseconds. A leader of another program never does, and the hook
/// waits for no longer than this.
const WITHIN: Duration = Duration::from_millis(500);

/// Pause between two readings.
const PAUSE: Duration = Duration::from_millis(50);

type FoundAddress = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// Finds the address of a term's leader. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AddressLookup(Arc<dyn Fn(FencingToken) -> FoundAddress + Send + Sync>);

impl fmt::Debug for AddressLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AddressLookup")
    }
}

impl AddressLookup {
    /// Asks etcd, through a connection that ends with the lookup: a slow answer must not move the candidate to another
    /// endpoint.
    pub(crate) fn in_etcd(settings: Settings, election: ElectionName) -> Self {
        Self(Arc::new(move |token| {
            let (settings, election) = (settings.clone(), election.clone());
            Box::pin(
                async move { found(&Etcd::start_on(Handle::current(), settings), &election, token).await },
            )
        }))
    }

    /// Asks the servers of the group.
    pub(crate) fn among<B: Backend>(peers: B, election: ElectionName) -> Self {
        Self(Arc::new(move |token| {
            let (peers, election) = (peers.clone(), election.clone());
            Box::pin(async move { found(&peers, &election, token).await })
        }))
    }

    /// Returns the address of this term's leader, if it advertises one and still leads.
    pub(crate) async fn of(&self, term: FencingToken) -> Option<String> {
        timeout(WITHIN, (self.0)(term)).await.ok().flatten()
    }
}

/// Reads until this term's leader has announced itself, or a later term began.
async fn found(backend: &impl Backend, election: &ElectionName, term: FencingToken) -> Option<String> {
    loop {
        if let Ok(snapshot) = backend.snapshot(election.clone()).await
            && let State::Leader(leader) = snapshot.observation.state
        {
            let is_announced = leader.since.is_some() || leader.address.is_some();
            if leader.token > term || (leader.token == term && is_announced) {
                return leader.address.filter(|_| leader.token == term);
            }
        }
        sleep(PAUSE).await;
    }
}
