//! The system that candidates elect through, and the test's own observer of the election.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{backend::Backend, candidates::Paths, history::Event, nemesis::Fault, testbed::Testbed};

mod etcd;
mod peers;

/// Time for etcd's or the peers' first election, on a machine under load.
pub(crate) const READY: Duration = Duration::from_secs(60);

/// The last observed state of an election.
#[derive(Debug, Clone, Default)]
pub(crate) struct ElectionState {
    /// The last known leader.
    pub(crate) leader: Option<String>,
    /// The queue, in order; among peers, the members that lead or follow the leader.
    pub(crate) there: Vec<String>,
    /// The member that is etcd's leader.
    pub(crate) leading_member: Option<usize>,
    pub(crate) looks: u64,
}

/// The system that candidates elect through. Peers are their own system: there are no members to hit.
pub(crate) trait System {
    fn sight(&self) -> ElectionState;

    /// Keeps these members dead, and all others running.
    fn set_down(&mut self, _down: &BTreeSet<usize>, _testbed: &Testbed) {}

    /// Keeps these members frozen, and no others.
    fn set_frozen(&mut self, _frozen: &BTreeSet<usize>) {}

    /// Applies a momentary fault to the system, or to what `whom` has in it.
    fn strike(&self, _fault: Fault, _whom: &str) {}

    /// Notes the candidates present at the end.
    fn note_who_is_there(&self);

    /// Notes the guarded writes that it accepted, in its own order.
    fn note_writes(&self) {}

    /// Its actions and observations, for the history.
    fn events(&self) -> Vec<Event>;
}

/// Starts what must run before the candidates.
pub(crate) fn start(on: Backend, testbed: &Arc<Mutex<Testbed>>, paths: &Paths) -> Box<dyn System> {
    match on {
        Backend::Etcd => Box::new(etcd::EtcdSystem::start(on.members(), testbed, paths)),
        Backend::Peers => Box::new(peers::PeersSystem::open(testbed)),
    }
}
