//! If a server has applied an entry at an index, no other server ever applies another one there
//! (Figure 3, §5.4.3).
//!
//! A state is the hash of all applied entries, so two servers with the same state agree on everything before. A
//! snapshot contains its state and is compared too.

use std::collections::BTreeMap;

use super::{Invariant, Seen};
use crate::raft::{
    identity::{Index, NodeId},
    sim::world::StateMachine,
};

#[derive(Default)]
pub(super) struct StateMachineSafety {
    states: BTreeMap<Index, StateMachine>,
}

impl StateMachineSafety {
    fn agree(&mut self, node: NodeId, state: StateMachine) -> Result<(), String> {
        let first = *self.states.entry(state.at.index).or_insert(state);
        if first == state {
            return Ok(());
        }
        Err(format!(
            "{node} applied {}, another server {}, with other content or history",
            state.at, first.at
        ))
    }
}

impl Invariant for StateMachineSafety {
    fn name(&self) -> &'static str {
        "state machine safety"
    }

    fn look(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match *seen {
            Seen::Applied { node, before, state } if state.at.index != before.index.next() => {
                Err(format!("{node} applied {} right after {before}", state.at))
            }
            Seen::Applied { node, state, .. } | Seen::Restored { node, state } => self.agree(node, state),
            _ => Ok(()),
        }
    }
}
