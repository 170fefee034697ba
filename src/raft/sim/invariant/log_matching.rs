//! If two logs contain an entry with the same index and term, then the logs are identical up to
//! that entry (Figure 3, §5.3).
//!
//! It is enough that each entry, wherever it is written, has the same content and the same predecessor: earlier
//! entries follow by induction.

use std::collections::BTreeMap;

use super::{Invariant, Seen};
use crate::raft::{
    identity::{Position, Term},
    log::Entry,
    sim::world::fingerprint,
};

#[derive(Default)]
pub(super) struct LogMatching {
    /// Predecessor's term and content of each entry that was ever written.
    known: BTreeMap<Position, (Term, u64)>,
}

impl LogMatching {
    fn learn(&mut self, entry: &Entry, before: Term) -> Result<(), String> {
        let found = (before, fingerprint(&entry.payload));
        let known = *self.known.entry(entry.at).or_insert(found);
        if known == found { Ok(()) } else { Err(format!("two logs differ at or before {}", entry.at)) }
    }
}

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "log matching"
    }

    fn look(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Stepped(_, after, actions) => {
                let change = actions.write.as_ref().and_then(|write| write.log.as_ref());
                let Some((from, entries)) = change.and_then(|change| change.tail.as_ref()) else {
                    return Ok(());
                };
                let before = after.log().term_at(from.previous());
                let mut before = before.ok_or_else(|| format!("a gap in a log before {from}"))?;
                for entry in entries {
                    self.learn(entry, before)?;
                    before = entry.at.term;
                }
                Ok(())
            }
            // Once more, in case a log has changed without a write.
            Seen::Ended { server, .. } => {
                let mut before = server.log().snapshot().at.term;
                for entry in server.log().entries() {
                    self.learn(entry, before)?;
                    before = entry.at.term;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
