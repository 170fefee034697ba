//! Proposals that wait for their commit, and the callers that wait for them.
//!
//! A leader's log takes a proposal at an index. Once an entry is applied there, the outcome is final: committed if
//! the entry is of the proposal's term, lost if it is of another. An entry of a later term that is applied anywhere
//! before it decides the same: terms never fall along a log, so an entry of an older term never comes after it.
//!
//! Nothing waits for ever: an election timeout after the term was lost, open proposals are unconfirmed.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot};

use super::operate::OrderProgress;
#[cfg(test)]
use crate::raft::mutant::Mutant;
use crate::{
    leadership::{OrderError, OrderOutcome},
    raft::{
        action::{Declined, ProposalId},
        identity::{Index, Position, Term},
    },
};

/// Reason why a record is not in the log, or may not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Not added: this process does not lead any more.
    #[error("not added: leadership is over")]
    NotLeading,
    /// Not added: it exceeds the limit of a record.
    #[error("not added: a record may have at most {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// Not added: too many records wait for their commit, or for this server's disk. Try again once some are done.
    #[error("not added: too many records wait to be committed")]
    Busy,
    /// Not committed, and it never will be: another leader came before.
    #[error("not committed: another leader came before")]
    Overtaken,
    /// It may be committed, now or later: this server can't tell any more.
    #[error("not confirmed, it may be committed: {0}")]
    Unconfirmed(String),
}

/// The receiver of a record's outcome: its index.
#[derive(Debug)]
pub(crate) struct RecordReply(oneshot::Sender<Result<u64, ProposeError>>);

impl RecordReply {
    pub(crate) fn to(asker: oneshot::Sender<Result<u64, ProposeError>>) -> Self {
        Self(asker)
    }

    pub(super) fn not_leading(self) {
        self.tell(Err(ProposeError::NotLeading));
    }

    fn tell(self, outcome: Result<u64, ProposeError>) {
        // The caller may have gone.
        let _ = self.0.send(outcome);
    }
}

/// A caller that waits for an outcome.
#[derive(Debug)]
enum PendingReply {
    Record(RecordReply),
    Value(oneshot::Sender<OrderOutcome>),
    /// Answered once it is in the log, or not.
    Replacement(oneshot::Sender<Result<(), Declined>>),
    /// A standing order of an operator's.
    Control(mpsc::UnboundedSender<OrderProgress>),
}

/// The outcome of a proposal.
enum Fate {
    Committed(Index),
    Failed(ProposeError),
}

impl PendingReply {
    fn tell(self, fate: Fate) {
        match (self, fate) {
            // Answered before.
            (Self::Replacement(_), _) => {}
            (Self::Control(told), fate) => {
                let _ = told.send(match fate {
                    Fate::Committed(_) => OrderProgress::Done,
                    Fate::Failed(why @ ProposeError::Unconfirmed(_)) => {
                        OrderProgress::Unconfirmed(why.to_string())
                    }
                    Fate::Failed(why) => OrderProgress::Refused(format!("{why}; try again")),
                });
            }
            (Self::Record(answer), Fate::Committed(index)) => answer.tell(Ok(index.get())),
            (Self::Record(answer), Fate::Failed(why)) => answer.tell(Err(why)),
            (Self::Value(done), Fate::Committed(_)) => drop(done.send(Ok(()))),
            (Self::Value(done), Fate::Failed(ProposeError::NotLeading | ProposeError::Overtaken)) => {
                drop(done.send(Err(OrderError::NotLeading)));
            }
            (Self::Value(done), Fate::Failed(why @ (ProposeError::TooLarge { .. } | ProposeError::Busy))) => {
                drop(done.send(Err(OrderError::Refused(why.to_string()))));
            }
            (Self::Value(done), Fate::Failed(why)) => {
                drop(done.send(Err(OrderError::Unconfirmed(why.to_string()))));
            }
        }
    }
}

/// All that are under way.
#[derive(Debug, Default)]
pub(crate) struct Proposals {
    last: u64,
    /// Not yet answered by the core: it answers within the same step.
    asked: BTreeMap<ProposalId, PendingReply>,
    /// In the log, by index. The core bounds their number.
    accepted: BTreeMap<Index, (Term, PendingReply)>,
    #[cfg(test)]
    pub(crate) mutant: Option<Mutant>,
}

impl Proposals {
    /// A record for the log.
    pub(crate) fn record(&mut self, answer: RecordReply) -> ProposalId {
        self.ask(PendingReply::Record(answer))
    }

    /// A new value for observers.
    pub(super) fn proclaim(&mut self, done: oneshot::Sender<OrderOutcome>) -> ProposalId {
        self.ask(PendingReply::Value(done))
    }

    /// A new disk for a member.
    pub(super) fn replacement(&mut self, answer: oneshot::Sender<Result<(), Declined>>) -> ProposalId {
        self.ask(PendingReply::Replacement(answer))
    }

    /// A standing order.
    pub(super) fn control(&mut self, told: mpsc::UnboundedSender<OrderProgress>) -> ProposalId {
        self.ask(PendingReply::Control(told))
    }

    /// A number for a request that is not for the log.
    pub(super) fn number(&mut self) -> ProposalId {
        self.last += 1;
        ProposalId(self.last)
    }

    fn ask(&mut self, waiting: PendingReply) -> ProposalId {
        let id = self.number();
        self.asked.insert(id, waiting);
        id
    }

    /// A proposal is in the leader's log.
    pub(crate) fn accepted(&mut self, id: ProposalId, at: Position) {
        let waiting = match self.asked.remove(&id) {
            None => return,
            Some(PendingReply::Replacement(answer)) => {
                let _ = answer.send(Ok(()));
                return;
            }
            Some(waiting) => waiting,
        };
        if let PendingReply::Control(told) = &waiting {
            let _ = told.send(OrderProgress::Begun);
        }
        if let Some((_, overtaken)) = self.accepted.insert(at.index, (at.term, waiting)) {
            // It was in an earlier term's log, and cut off.
            overtaken.tell(Fate::Failed(ProposeError::Overtaken));
        }
    }

    /// A proposal is not in the log, and will not be.
    pub(crate) fn declined(&mut self, id: ProposalId, why: Declined) {
        let waiting = match self.asked.remove(&id) {
            None => return,
            Some(PendingReply::Replacement(answer)) => {
                let _ = answer.send(Err(why));
                return;
            }
            Some(waiting) => waiting,
        };
        waiting.tell(Fate::Failed(match why {
            Declined::NotLeading { .. } => ProposeError::NotLeading,
            Declined::TooLarge => {
                ProposeError::TooLarge { limit: crate::raft::message::Limits::DEFAULT.record }
            }
            Declined::Busy | Declined::NotReplaced(_) => ProposeError::Busy,
        }));
    }

    /// An entry is committed there.
    pub(crate) fn applied(&mut self, at: Position) {
        if let Some((term, waiting)) = self.accepted.remove(&at.index) {
            let committed = term == at.term;
            let fate =
                if committed { Fate::Committed(at.index) } else { Fate::Failed(ProposeError::Overtaken) };
            waiting.tell(fate);
        }
        self.overtake(at.term);
    }

    /// An entry of that term is committed: open proposals of older terms would have to come after it.
    fn overtake(&mut self, by: Term) {
        #[cfg(test)]
        if self.mutant == Some(Mutant::OvertakesPlaceByPlace) {
            return;
        }
        self.fail(|term| term < by, || ProposeError::Overtaken);
    }

    /// Gives up on open proposals of terms up to this one.
    pub(crate) fn unconfirmed(&mut self, through: Term) {
        let why = || ProposeError::Unconfirmed("leadership was lost before a majority answered".into());
        self.fail(|term| term <= through, why);
    }

    fn fail(&mut self, these: impl Fn(Term) -> bool, why: impl Fn() -> ProposeError) {
        if !self.accepted.values().any(|(term, _)| these(*term)) {
            return; // As nearly always.
        }
        for (index, (term, waiting)) in std::mem::take(&mut self.accepted) {
            if these(term) {
                waiting.tell(Fate::Failed(why()));
            } else {
                self.accepted.insert(index, (term, waiting));
            }
        }
    }

    /// All up to that entry is committed, and the entries before it are not known here.
    pub(crate) fn restored(&mut self, through: Position) {
        let later = self.accepted.split_off(&through.index.next());
        for (_, waiting) in std::mem::replace(&mut self.accepted, later).into_values() {
            waiting.tell(Fate::Failed(ProposeError::Unconfirmed("this server was left behind".into())));
        }
        self.overtake(through.term);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, term: u64) -> Position {
        Position { term: Term::new(term), index: Index::new(index) }
    }

    fn asked(proposals: &mut Proposals) -> (ProposalId, oneshot::Receiver<Result<u64, ProposeError>>) {
        let (answer, outcome) = oneshot::channel();
        (proposals.record(RecordReply::to(answer)), outcome)
    }

    #[test]
    fn a_record_is_committed_only_in_its_own_term() {
        let mut proposals = Proposals::default();
        let (first, mut committed) = asked(&mut proposals);
        let (second, mut overtaken) = asked(&mut proposals);
        proposals.accepted(first, at(5, 2));
        proposals.accepted(second, at(6, 2));
        proposals.applied(at(5, 2));
        proposals.applied(at(6, 3));
        assert_eq!(committed.try_recv(), Ok(Ok(5)));
        assert_eq!(overtaken.try_recv(), Ok(Err(ProposeError::Overtaken)));
    }

    #[test]
    fn contract_12_an_entry_of_a_later_term_overtakes_all_that_was_to_come_after_it() {
        let mut proposals = Proposals::default();
        let mut outcomes = Vec::new();
        for index in 5..10 {
            let (id, outcome) = asked(&mut proposals);
            proposals.accepted(id, at(index, 2));
            outcomes.push(outcome);
        }
        proposals.applied(at(5, 2));
        proposals.applied(at(6, 3));
        let mut told = outcomes.iter_mut().map(|outcome| outcome.try_recv());
        assert_eq!(told.next(), Some(Ok(Ok(5))));
        assert!(told.all(|outcome| outcome == Ok(Err(ProposeError::Overtaken))));
    }

    #[test]
    fn contract_12_what_is_open_after_the_term_is_unconfirmed() {
        let mut proposals = Proposals::default();
        let (first, mut open) = asked(&mut proposals);
        let (second, mut later) = asked(&mut proposals);
        proposals.accepted(first, at(5, 2));
        proposals.accepted(second, at(6, 4));
        proposals.unconfirmed(Term::new(2));
        assert!(matches!(open.try_recv(), Ok(Err(ProposeError::Unconfirmed(_)))));
        assert!(later.try_recv().is_err(), "of a later term of this server's");
    }

    #[test]
    fn a_value_that_is_certainly_refused_is_refused() {
        let mut proposals = Proposals::default();
        let (done, mut refused) = oneshot::channel();
        let id = proposals.proclaim(done);
        proposals.declined(id, Declined::TooLarge);
        assert!(matches!(refused.try_recv(), Ok(Err(OrderError::Refused(_)))));
    }

    #[test]
    fn a_record_that_was_cut_off_is_told_when_its_place_is_taken() {
        let mut proposals = Proposals::default();
        let (first, mut cut) = asked(&mut proposals);
        let (second, mut waits) = asked(&mut proposals);
        proposals.accepted(first, at(5, 2));
        proposals.accepted(second, at(5, 4));
        assert_eq!(cut.try_recv(), Ok(Err(ProposeError::Overtaken)));
        assert!(waits.try_recv().is_err());
    }

    #[test]
    fn a_snapshot_leaves_open_what_became_of_records_before_it() {
        let mut proposals = Proposals::default();
        let (first, mut open) = asked(&mut proposals);
        let (second, mut waits) = asked(&mut proposals);
        proposals.accepted(first, at(5, 2));
        proposals.accepted(second, at(6, 2));
        proposals.restored(at(5, 2));
        assert!(matches!(open.try_recv(), Ok(Err(ProposeError::Unconfirmed(_)))));
        assert!(waits.try_recv().is_err());
        proposals.applied(at(6, 2));
        assert_eq!(waits.try_recv(), Ok(Ok(6)));
    }

    #[test]
    fn contract_12_a_snapshot_of_a_later_term_overtakes_what_was_to_come_after_it() {
        let mut proposals = Proposals::default();
        let (first, mut open) = asked(&mut proposals);
        let (second, mut overtaken) = asked(&mut proposals);
        proposals.accepted(first, at(5, 2));
        proposals.accepted(second, at(6, 2));
        proposals.restored(at(5, 3));
        assert!(matches!(open.try_recv(), Ok(Err(ProposeError::Unconfirmed(_)))));
        assert_eq!(overtaken.try_recv(), Ok(Err(ProposeError::Overtaken)));
    }

    #[test]
    fn what_is_declined_says_why() {
        let mut proposals = Proposals::default();
        let (id, mut declined) = asked(&mut proposals);
        proposals.declined(id, Declined::Busy);
        assert_eq!(declined.try_recv(), Ok(Err(ProposeError::Busy)));
    }
}
