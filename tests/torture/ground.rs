//! What candidates stand on, and the test's own eye on the election.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{arena::Arena, backend::Backend, cast::Paths, history::Event, nemesis::Fault};

mod etcd;
mod peers;

/// For etcd's first election, or that of the peers, on a machine under load.
pub(crate) const READY: Duration = Duration::from_secs(60);

/// What was seen of an election last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    /// Who leads, or did when somebody was last known to.
    pub(crate) leader: Option<String>,
    /// Who is in the queue, first one first; among peers, who says that it leads, or follows whoever leads.
    pub(crate) there: Vec<String>,
    /// The leader of etcd's own, by its place.
    pub(crate) leading_member: Option<usize>,
    pub(crate) looks: u64,
}

/// What candidates stand on. Peers stand on each other: there are no members, and nothing but candidates can be hit.
pub(crate) trait Ground {
    fn sight(&self) -> Sight;

    /// Has these members be dead, and all others run.
    fn set_down(&mut self, _down: &BTreeSet<usize>, _arena: &Arena) {}

    /// Has these members stand still, and no others.
    fn set_frozen(&mut self, _frozen: &BTreeSet<usize>) {}

    /// Does to the ground, or to what `whom` has on it, what is over at once.
    fn strike(&self, _fault: Fault, _whom: &str) {}

    /// Notes who is there in the end.
    fn note_who_is_there(&self);

    /// Notes the guarded writes that it took, in its own order.
    fn note_writes(&self) {}

    /// What it did and saw, for the history.
    fn events(&self) -> Vec<Event>;
}

/// Starts what is to be there before the candidates.
pub(crate) fn start(on: Backend, arena: &Arc<Mutex<Arena>>, paths: &Paths) -> Box<dyn Ground> {
    match on {
        Backend::Etcd => Box::new(etcd::Etcd::start(on.members(), arena, paths)),
        Backend::Peers => Box::new(peers::Eye::open(arena)),
    }
}
