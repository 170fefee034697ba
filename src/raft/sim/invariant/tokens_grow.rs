//! Each term of leadership has a token larger than all before it (contract, point 5).

use super::{Invariant, Seen};
use crate::{leadership::FencingToken, raft::action::LeadershipChange};

#[derive(Default)]
pub(super) struct TokensGrow {
    largest: Option<FencingToken>,
}

impl Invariant for TokensGrow {
    fn name(&self) -> &'static str {
        "tokens grow"
    }

    fn look(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Leadership { node, change: LeadershipChange::Gained { token, .. }, .. } = *seen else {
            return Ok(());
        };
        if self.largest.is_some_and(|largest| token <= largest) {
            return Err(format!("{node} leads with token {token}, which is not larger than all before"));
        }
        self.largest = Some(token);
        Ok(())
    }
}
