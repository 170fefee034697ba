//! At no true instant do two servers validly lead (the contract's claim; safety.md).
//!
//! No server is asked for its view. A claim is valid until the server's own clock shows its end, frozen or not,
//! unless the server gave it up, or its process has ended. A lost term is its holder's until then, or until the
//! holder has let go: it may need that time to stop (point 8). True time, which no server knows, decides whether
//! two claims overlap.

use super::{Invariant, Seen};
use crate::{
    leadership::{FencingToken, Loss},
    raft::{
        action::LeadershipChange,
        identity::NodeId,
        sim::clock::{Clock, TrueTime},
    },
};

pub(super) struct OneValidLeader {
    claims: Vec<Option<Claim>>,
}

#[derive(Debug, Clone, Copy)]
struct Claim {
    token: FencingToken,
    /// The first moment at which it is not valid any more.
    end: TrueTime,
    /// True if it was lost, and only its holder may still act on it.
    lost: bool,
}

impl OneValidLeader {
    pub(super) fn of(machines: usize) -> Self {
        Self { claims: vec![None; machines] }
    }

    fn valid(&self, at: TrueTime) -> impl Iterator<Item = NodeId> {
        let claims = self.claims.iter().enumerate();
        claims
            .filter(move |(_, claim)| claim.is_some_and(|claim| at < claim.end))
            .map(|(place, _)| NodeId::new(place as u8))
    }

    pub(super) fn leader(&self, at: TrueTime) -> Option<NodeId> {
        self.valid(at).find(|node| self.claims[node.place()].is_some_and(|claim| !claim.lost))
    }

    fn hear(
        &mut self,
        node: NodeId,
        change: LeadershipChange,
        at: TrueTime,
        clock: Clock,
    ) -> Result<(), String> {
        let before = self.claims[node.place()];
        match change {
            LeadershipChange::Gained { token, until } => {
                if let Some(other) = self.valid(at).next() {
                    return Err(format!("{node} leads with token {token} while {other} does"));
                }
                self.claims[node.place()] = Some(Claim { token, end: clock.when(until), lost: false });
            }
            LeadershipChange::Extended { token, until } => {
                let end = clock.when(until);
                match before {
                    Some(claim)
                        if claim.token == token && !claim.lost && at < claim.end && claim.end <= end => {}
                    _ => return Err(format!("{node} extends with token {token} what is over: {before:?}")),
                }
                if let Some(other) = self.valid(at).find(|other| *other != node) {
                    return Err(format!("{node} goes on leading while {other} leads"));
                }
                self.claims[node.place()] = Some(Claim { token, end, lost: false });
            }
            LeadershipChange::Lost { loss: Loss::Superseded | Loss::Transferred, .. } => {
                self.claims[node.place()].iter_mut().for_each(|claim| claim.lost = true);
            }
            LeadershipChange::Lost { .. } => self.claims[node.place()] = None,
        }
        Ok(())
    }
}

impl Invariant for OneValidLeader {
    fn name(&self) -> &'static str {
        "one valid leader"
    }

    fn look(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        match *seen {
            Seen::Leadership { node, change, at, clock } => self.hear(node, change, at, clock),
            Seen::LetGo { node } => {
                self.claims[node.place()].take_if(|claim| claim.lost);
                Ok(())
            }
            Seen::Died { node } => {
                self.claims[node.place()] = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
