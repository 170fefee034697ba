//! The invariants of every run, one a file, and the events that they check.

mod a_leader_again;
mod election_safety;
mod leader_append_only;
mod leader_completeness;
mod log_matching;
mod nothing_refused;
mod one_valid_leader;
mod state_machine_safety;
mod terms_stay;
mod tokens_grow;

use std::{fmt, time::Duration};

use super::{
    clock::{Clock, TrueTime},
    world::StateMachine,
};
use crate::raft::{
    action::{Actions, LeadershipChange},
    identity::{Index, NodeId, Position, Term},
    node::Node,
};

/// A property that must always hold.
trait Invariant {
    /// Its name, as in its source.
    fn name(&self) -> &'static str;

    /// Checks an event.
    fn look(&mut self, seen: &Seen<'_>) -> Result<(), String>;
}

/// An event. A server is named by its machine.
pub(crate) enum Seen<'a> {
    /// A server took a step.
    Stepped(&'a Step, &'a Node, &'a Actions),
    /// A state machine moved on by one entry.
    Applied { node: NodeId, before: Position, state: StateMachine },
    /// A state machine began from a snapshot, or empty.
    Restored { node: NodeId, state: StateMachine },
    /// A server's leadership changed.
    Leadership { node: NodeId, change: LeadershipChange, at: TrueTime, clock: Clock },
    /// The holder of a lost term has let go of it.
    LetGo { node: NodeId },
    /// A process has ended.
    Died { node: NodeId },
    /// True if any other server's messages reach this one.
    Hearing { node: NodeId, anybody: bool },
    /// The faults were over for that long, and the expectation is met, or not.
    Expected { met: bool, what: &'static str, within: Duration },
    /// The run ends.
    Ended { node: NodeId, server: &'a Node },
}

/// A server as it was before a step.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) node: NodeId,
    pub(crate) role: &'static str,
    pub(crate) term: Term,
    pub(crate) last: Position,
    pub(crate) commit: Index,
}

impl Step {
    pub(crate) fn before(node: NodeId, server: &Node) -> Self {
        let (role, term, last) = (server.role(), server.term(), server.log().last());
        Self { node, role, term, last, commit: server.committed() }
    }

    /// Returns true if this step makes the server the leader of its term.
    pub(crate) fn elects(&self, after: &Node) -> bool {
        leads(after) && (self.role != after.role() || self.term != after.term())
    }
}

fn leads(server: &Node) -> bool {
    matches!(server, Node::Leader(_))
}

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// All of them.
pub(crate) struct Invariants {
    valid: one_valid_leader::OneValidLeader,
    others: Vec<Box<dyn Invariant>>,
}

impl Invariants {
    pub(crate) fn all(machines: usize) -> Self {
        let others: Vec<Box<dyn Invariant>> = vec![
            Box::<election_safety::ElectionSafety>::default(),
            Box::new(leader_append_only::LeaderAppendOnly),
            Box::<log_matching::LogMatching>::default(),
            Box::<leader_completeness::LeaderCompleteness>::default(),
            Box::<state_machine_safety::StateMachineSafety>::default(),
            Box::<tokens_grow::TokensGrow>::default(),
            Box::new(a_leader_again::ALeaderAgain),
            Box::new(terms_stay::TermsStay::of(machines)),
            Box::new(nothing_refused::NothingRefused),
        ];
        Self { valid: one_valid_leader::OneValidLeader::of(machines), others }
    }

    pub(crate) fn look(&mut self, seen: &Seen<'_>) -> Result<(), Violation> {
        let all = self.others.iter_mut().map(|it| &mut **it).chain([&mut self.valid as &mut dyn Invariant]);
        for invariant in all {
            invariant.look(seen).map_err(|what| Violation { invariant: invariant.name(), what })?;
        }
        Ok(())
    }

    pub(crate) fn valid_leader(&self, at: TrueTime) -> Option<NodeId> {
        self.valid.leader(at)
    }
}
