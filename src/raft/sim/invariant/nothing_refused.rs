//! Servers that follow the protocol send no message that is refused: a refusal shows that the rule or the server is
//! wrong.

use super::{Invariant, Seen};
use crate::raft::message::{IgnoreReason, IgnoredCounts};

pub(super) struct NothingRefused;

impl Invariant for NothingRefused {
    fn name(&self) -> &'static str {
        "nothing refused"
    }

    fn look(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Ended { node, server } = seen else { return Ok(()) };
        if *server.refusals() == IgnoredCounts::default() {
            return Ok(());
        }
        let impossible = server.refusals().of(IgnoreReason::Impossible);
        Err(format!("{node} refused messages, {impossible} of them as impossible"))
    }
}
