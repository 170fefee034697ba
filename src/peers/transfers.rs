//! Transfers that operators, or the leader's own program, wait for.
//!
//! The core refuses a transfer, or begins it. From then on the outcome is what the log says: the leader of a later
//! term is the target, or another member.

use tokio::sync::mpsc;

use super::operate::OrderProgress;
use crate::{
    choosing::{TransferError, Transferred},
    clock::Timestamp,
    leadership::{FencingToken, TransferOutcome},
    raft::{
        action::ProposalId,
        identity::{NodeId, Term},
    },
};

/// A transfer under way.
#[derive(Debug)]
struct AwaitedTransfer {
    order: ProposalId,
    to: NodeId,
    /// The term that was given up for it.
    begun: Option<Term>,
    /// The time to give up waiting.
    by: Timestamp,
    told: mpsc::UnboundedSender<OrderProgress>,
}

/// All that are under way.
#[derive(Debug, Default)]
pub(super) struct AwaitedTransfers(Vec<AwaitedTransfer>);

impl AwaitedTransfers {
    pub(super) fn add(
        &mut self,
        order: ProposalId,
        to: NodeId,
        by: Timestamp,
        told: mpsc::UnboundedSender<OrderProgress>,
    ) {
        self.0.push(AwaitedTransfer { order, to, begun: None, by, told });
    }

    /// The leader leads on.
    pub(super) fn refused(&mut self, order: ProposalId, why: &str) {
        self.0.retain(|transfer| {
            let meant = transfer.order == order;
            if meant {
                transfer.tell(OrderProgress::Refused(why.to_owned()));
            }
            !meant
        });
    }

    /// The leader of that term stops.
    pub(super) fn begun(&mut self, order: ProposalId, term: Term) {
        for transfer in self.0.iter_mut().filter(|transfer| transfer.order == order) {
            transfer.begun = Some(term);
            transfer.tell(OrderProgress::Begun);
        }
    }

    /// Looks for outcomes: the leader of that term is known, or the time is over.
    pub(super) fn follow(
        &mut self,
        now: Timestamp,
        term: Term,
        leader: Option<NodeId>,
        name: impl Fn(NodeId) -> String,
    ) {
        self.0.retain(|transfer| {
            let outcome = match (transfer.begun, leader) {
                (Some(begun), Some(leader)) if term > begun && leader == transfer.to => {
                    OrderProgress::Led(FencingToken::new(term.get()))
                }
                (Some(begun), Some(leader)) if term > begun => OrderProgress::Void(name(leader)),
                _ if now >= transfer.by => {
                    OrderProgress::Unconfirmed("no other leader was heard in time".to_owned())
                }
                _ => return true,
            };
            transfer.tell(outcome);
            false
        });
    }

    /// The next time to look.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.0.iter().map(|transfer| transfer.by).min()
    }
}

/// Waits for the outcome of a transfer by the leader of that name.
pub(super) async fn outcome(
    mut progress: mpsc::UnboundedReceiver<OrderProgress>,
    leader: String,
    to: String,
) -> TransferOutcome {
    loop {
        return match progress.recv().await {
            Some(OrderProgress::Begun) => continue,
            Some(OrderProgress::Led(token)) => Ok(Transferred { to, token }),
            Some(OrderProgress::Void(_)) => Err(TransferError::Void(to)),
            Some(OrderProgress::Refused(why)) => Err(TransferError::Refused { leader, why }),
            Some(OrderProgress::Unconfirmed(why)) => Err(TransferError::Unconfirmed(why)),
            Some(OrderProgress::Done) | None => {
                Err(TransferError::Unconfirmed("this server has stopped".to_owned()))
            }
        };
    }
}

impl AwaitedTransfer {
    fn tell(&self, progress: OrderProgress) {
        // The caller may have gone.
        let _ = self.told.send(progress);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: ProposalId = ProposalId(1);
    const TO: NodeId = NodeId::new(1);

    fn awaited() -> (AwaitedTransfers, mpsc::UnboundedReceiver<OrderProgress>) {
        let (told, progress) = mpsc::unbounded_channel();
        let mut transfers = AwaitedTransfers::default();
        transfers.add(ORDER, TO, Timestamp::from_nanos(100), told);
        (transfers, progress)
    }

    fn follow(transfers: &mut AwaitedTransfers, now: u64, term: u64, leader: Option<u8>) {
        let leader = leader.map(NodeId::new);
        transfers.follow(Timestamp::from_nanos(now), Term::new(term), leader, |node| node.to_string());
    }

    #[test]
    fn only_a_later_leader_ends_a_transfer_that_began() {
        for (leads, outcome) in
            [(1, OrderProgress::Led(FencingToken::new(8))), (2, OrderProgress::Void("s3".to_owned()))]
        {
            let (mut transfers, mut progress) = awaited();
            follow(&mut transfers, 0, 7, Some(1));
            assert!(progress.try_recv().is_err(), "it has not begun");
            transfers.begun(ORDER, Term::new(7));
            assert_eq!(progress.try_recv(), Ok(OrderProgress::Begun));
            follow(&mut transfers, 0, 7, Some(0));
            follow(&mut transfers, 0, 8, None);
            assert!(progress.try_recv().is_err());
            follow(&mut transfers, 0, 8, Some(leads));
            assert_eq!(progress.try_recv(), Ok(outcome));
        }
    }

    #[test]
    fn no_caller_waits_for_ever() {
        let (mut transfers, mut progress) = awaited();
        transfers.begun(ORDER, Term::new(7));
        assert_eq!(transfers.due(), Some(Timestamp::from_nanos(100)));
        follow(&mut transfers, 100, 8, None);
        assert_eq!(progress.try_recv(), Ok(OrderProgress::Begun));
        assert!(matches!(progress.try_recv(), Ok(OrderProgress::Unconfirmed(_))));
        assert_eq!(transfers.due(), None);
    }
}
