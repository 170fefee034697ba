//! An entry that is committed in a term is in the logs of the leaders of all later terms
//! (Figure 3, §5.4).

use std::collections::BTreeMap;

use super::{Invariant, Seen, leads};
use crate::raft::{
    identity::{Position, Term},
    node::Node,
};

#[derive(Default)]
pub(super) struct LeaderCompleteness {
    /// The last entry that was committed in each term, by its leader.
    committed: BTreeMap<Term, Position>,
}

impl LeaderCompleteness {
    fn has_all_before(&self, node: &Node) -> Result<(), String> {
        let Some((term, last)) = self.committed.range(..node.term()).next_back() else { return Ok(()) };
        let compacted = last.index < node.log().snapshot().at.index;
        if compacted || node.log().term_at(last.index) == Some(last.term) {
            return Ok(());
        }
        Err(format!("the leader of term {} lacks {last}, committed in term {term}", node.term()))
    }
}

impl Invariant for LeaderCompleteness {
    fn name(&self) -> &'static str {
        "leader completeness"
    }

    fn look(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Stepped(step, after, _) = seen else { return Ok(()) };
        if step.elects(after) {
            self.has_all_before(after)?;
        }
        if leads(after) && after.committed() > step.commit {
            let index = after.committed();
            let term = after.log().term_at(index).ok_or("what is just committed is not there")?;
            self.committed.insert(after.term(), Position { term, index });
        }
        Ok(())
    }
}
