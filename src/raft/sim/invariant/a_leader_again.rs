//! Once nothing goes wrong any more there is a leader within a bound, and everybody has what it has
//! (§5.6, broadcast time ≪ election timeout ≪ time between failures).

use super::{Invariant, Seen};

pub(super) struct ALeaderAgain;

impl Invariant for ALeaderAgain {
    fn name(&self) -> &'static str {
        "a leader again"
    }

    fn look(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Settled { settled: false, within } => {
                Err(format!("no leader that all have caught up with, {within:?} after all was well"))
            }
            _ => Ok(()),
        }
    }
}
