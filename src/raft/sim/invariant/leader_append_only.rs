//! A leader never overwrites or deletes entries of its log; it only appends (Figure 3, §5.3).

use super::{Invariant, Seen, leads};

pub(super) struct LeaderAppendOnly;

impl Invariant for LeaderAppendOnly {
    fn name(&self) -> &'static str {
        "leader append-only"
    }

    fn look(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Stepped(step, after, actions) = seen else { return Ok(()) };
        if step.role != "leader" || !leads(after) || step.term != after.term() {
            return Ok(());
        }
        let (node, last) = (step.node, step.last);
        if after.log().term_at(last.index) != Some(last.term) {
            return Err(format!("{node} led, and does not have {last} any more"));
        }
        let change = actions.write.as_ref().and_then(|write| write.log.as_ref());
        match change.and_then(|change| change.tail.as_ref()) {
            Some((from, _)) if *from <= last.index => {
                Err(format!("{node} leads, its log ends at {last}, and it writes from {from} on"))
            }
            _ => Ok(()),
        }
    }
}
