//! The term of a server that hears no other does not run away (thesis §9.6).
//!
//! It may rise by one: by a candidacy that a majority had agreed to just before. A second one would need another
//! majority's agreement.

use super::{Invariant, Seen};
use crate::raft::identity::{NodeId, Term};

pub(super) struct TermsStay {
    /// For each server that hears no other: its term when that began, once it is known.
    deaf: Vec<Option<Option<Term>>>,
}

impl TermsStay {
    pub(super) fn of(machines: usize) -> Self {
        Self { deaf: vec![None; machines] }
    }

    fn stepped(&mut self, node: NodeId, before: Term, after: Term) -> Result<(), String> {
        let Some(began) = &mut self.deaf[node.place()] else { return Ok(()) };
        let began = *began.get_or_insert(before);
        if after <= began.next() {
            return Ok(());
        }
        Err(format!("{node} went from term {began} to {after} and heard no other"))
    }
}

impl Invariant for TermsStay {
    fn name(&self) -> &'static str {
        "terms stay"
    }

    fn look(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match *seen {
            Seen::Hearing { node, anybody: true } => self.deaf[node.place()] = None,
            Seen::Hearing { node, anybody: false } => {
                self.deaf[node.place()].get_or_insert(None);
            }
            // It may come back on another disk.
            Seen::Died { node } => self.deaf[node.place()].iter_mut().for_each(|began| *began = None),
            Seen::Stepped(step, after, _) => return self.stepped(step.node, step.term, after.term()),
            _ => {}
        }
        Ok(())
    }
}
