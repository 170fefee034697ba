//! At most one leader is elected in a term (Figure 3, §5.2).

use std::collections::BTreeMap;

use super::{Invariant, Seen, leads};
use crate::raft::identity::{NodeId, Term};

#[derive(Default)]
pub(super) struct ElectionSafety {
    leaders: BTreeMap<Term, NodeId>,
}

impl Invariant for ElectionSafety {
    fn name(&self) -> &'static str {
        "election safety"
    }

    fn look(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Stepped(step, after, _) = seen else { return Ok(()) };
        if !leads(after) {
            return Ok(());
        }
        let first = *self.leaders.entry(after.term()).or_insert(step.node);
        if first == step.node {
            return Ok(());
        }
        Err(format!("{first} and {} both lead term {}", step.node, after.term()))
    }
}
