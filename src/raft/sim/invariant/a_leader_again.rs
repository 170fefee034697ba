//! Once faults have ended there is a leader within a bound, and it stays: on the plan's own network and disks, if
//! its timing suits them. On good ones all servers have its log (§5.6, broadcast time ≪ election timeout ≪ time
//! between failures).

use super::{Invariant, Seen};

pub(super) struct ALeaderAgain;

impl Invariant for ALeaderAgain {
    fn name(&self) -> &'static str {
        "a leader again"
    }

    fn look(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Expected { met: false, what, within } => {
                Err(format!("not {what}, {within:?} after all was well"))
            }
            _ => Ok(()),
        }
    }
}
