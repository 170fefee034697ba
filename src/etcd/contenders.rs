//! The other candidates of an election, with their records: the field that the rules of choosing judge.
//!
//! The queue is the [view](super::view)'s. A record is read once, when its key is first seen: it was put in
//! the transaction that put the key, so a key without one is foreign, and stays so.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use tokio::sync::watch;

use super::{
    EtcdShared,
    error::{EtcdError, Remedy},
    followed,
    keys::{self, LeaseId, MadeKey},
    member::{self, StoredMember},
    view::QueueView,
};
use crate::{
    choosing::field::{CandidateField, Contender},
    clock::Timestamp,
    names::{ElectionName, displayed},
};

/// So many records are read one by one; more are read at once.
const FEW: usize = 4;

/// The other candidates, as one candidate sees them.
pub(super) struct Contenders {
    shared: Arc<EtcdShared>,
    election: ElectionName,
    own: Vec<u8>,
    view: Arc<QueueView>,
    changes: watch::Receiver<()>,
    /// Records, by lease; `None` for a key without one.
    members: BTreeMap<LeaseId, Option<StoredMember>>,
    since: HashMap<MadeKey, Timestamp>,
    denied: bool,
}

impl Contenders {
    /// Creates the field of all candidates but the one with the key `own`.
    pub(super) fn new(
        shared: &Arc<EtcdShared>,
        election: &ElectionName,
        view: &Arc<QueueView>,
        own: Vec<u8>,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            election: election.clone(),
            own,
            view: Arc::clone(view),
            changes: view.changes(),
            members: BTreeMap::new(),
            since: HashMap::new(),
            denied: false,
        }
    }

    /// Waits for a change of the queue. Cancel safe.
    pub(super) async fn changed(&mut self) {
        followed::changed(&mut self.changes).await;
    }

    /// Makes a candidate's wait begin anew.
    pub(super) fn failed(&mut self, key: &MadeKey) {
        self.since.insert(key.clone(), Timestamp::now());
    }

    /// Reads the queue, and the records that are not known yet; `false` while the queue is not known.
    ///
    /// # Errors
    ///
    /// If etcd did not answer: the field would have foreign candidates that are none.
    pub(super) async fn learn(&mut self) -> Result<bool, EtcdError> {
        let Some(keys) = self.view.kept() else { return Ok(false) };
        let leases: HashSet<_> =
            keys.iter().filter_map(|(made, _)| keys::candidate_lease(&self.election, &made.key)).collect();
        self.members.retain(|lease, _| leases.contains(lease));
        let unknown: Vec<_> = leases.into_iter().filter(|lease| !self.members.contains_key(lease)).collect();
        if self.denied || unknown.is_empty() {
            return Ok(true);
        }
        match self.read(&unknown).await {
            Err(error) if error.remedy == Remedy::Human => {
                tracing::warn!(%error, "etcd does not let this user read the records of candidates: \
                    they have no priority here, and no transfer passes them");
                self.denied = true;
                Ok(true)
            }
            read => read.map(|()| true),
        }
    }

    async fn read(&mut self, unknown: &[LeaseId]) -> Result<(), EtcdError> {
        let connection = self.shared.connections.connection().await?;
        if unknown.len() > FEW {
            let mut read = member::read_members(&self.shared, &connection, &self.election).await?;
            for lease in unknown {
                self.members.insert(*lease, read.remove(lease).map(|(member, _)| member));
            }
            return Ok(());
        }
        for lease in unknown {
            let member = member::read_member(&self.shared, &connection, &self.election, *lease).await?;
            self.members.insert(*lease, member);
        }
        Ok(())
    }

    /// Returns the field as last [learnt](Self::learn), first come first; `ready` has said that it is.
    ///
    /// `blocked`: with keys that are in the queue but can never lead.
    pub(super) fn field(&mut self, ready: Option<&MadeKey>, blocked: bool) -> CandidateField<MadeKey> {
        let keys = self.view.kept().unwrap_or_default();
        let there: HashSet<_> = keys.iter().map(|(made, _)| made).collect();
        self.since.retain(|made, _| there.contains(made));
        let now = Timestamp::now();
        let others = keys.iter().filter(|(made, candidate)| made.key != self.own && (blocked || *candidate));
        let contender = |(made, candidate): &(MadeKey, bool)| {
            let lease = keys::candidate_lease(&self.election, &made.key).filter(|_| *candidate);
            let stored = lease.and_then(|lease| self.members.get(&lease)?.as_ref());
            let mut member = stored.map(|stored| stored.record(None));
            if let Some(member) = &mut member {
                member.ready = ready == Some(made);
            }
            let shown = stored.map_or_else(|| displayed(&made.key), |stored| stored.name.to_string());
            let since = *self.since.entry(made.clone()).or_insert(now);
            Contender { key: made.clone(), shown, since, member }
        };
        CandidateField::Queue(others.map(contender).collect())
    }

    /// Returns the lease of the first in the queue.
    pub(super) fn leaders_lease(&self) -> Option<LeaseId> {
        let (first, _) = self.view.kept()?.into_iter().next()?;
        keys::candidate_lease(&self.election, &first.key)
    }

    /// Returns whether a key is a candidate's, so that it can lead.
    pub(super) fn can_lead(&self, key: &MadeKey) -> bool {
        self.view.kept().unwrap_or_default().iter().any(|(made, candidate)| made == key && *candidate)
    }
}
