//! Proposed records and their outcomes: every one is answered, in time and truly.
//!
//! The production code ([`Proposals`]) keeps the waiting callers; this does the driver's part. Only a server that
//! may claim leadership takes records for which a caller waits.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::oneshot::{self, error::TryRecvError};

use super::{super::invariant::Violation, Event, World};
use crate::{
    peers::proposals::{Proposals, ProposeError, RecordReply},
    raft::{
        action::{Declined, Input, LeadershipChange, NewEntry, Proposal, ProposalId},
        identity::{NodeId, Position, Term},
        log::{Entry, Payload},
        mutant::Mutant,
    },
};

/// The records that a server was asked to propose.
#[derive(Debug, Default)]
pub(super) struct Asked {
    proposals: Proposals,
    /// The term in which the server may claim leadership.
    leads: Option<Term>,
    /// The server's numbers of proposals that the core has not answered.
    asked: BTreeMap<ProposalId, ProposalId>,
    open: Vec<Open>,
}

/// A record whose outcome is waited for.
#[derive(Debug)]
struct Open {
    id: ProposalId,
    at: Option<Position>,
    outcome: oneshot::Receiver<Result<u64, ProposeError>>,
}

/// Outcomes that are certain, of all records.
#[derive(Debug, Default)]
pub(super) struct Fates {
    committed: BTreeSet<ProposalId>,
    overtaken: BTreeSet<ProposalId>,
}

impl Asked {
    pub(super) fn of(mutant: Option<Mutant>) -> Self {
        let mut asked = Self::default();
        asked.proposals.mutant = mutant;
        asked
    }

    fn ask(&mut self, id: ProposalId) {
        if self.leads.is_some() {
            let (answer, outcome) = oneshot::channel();
            self.asked.insert(id, self.proposals.record(RecordReply::to(answer)));
            self.open.push(Open { id, at: None, outcome });
        }
    }

    pub(super) fn accepted(&mut self, id: ProposalId, at: Position) {
        if let Some(theirs) = self.asked.remove(&id) {
            self.open.iter_mut().filter(|open| open.id == id).for_each(|open| open.at = Some(at));
            self.proposals.accepted(theirs, at);
        }
    }

    pub(super) fn declined(&mut self, id: ProposalId, why: Declined) {
        if let Some(theirs) = self.asked.remove(&id) {
            self.proposals.declined(theirs, why);
        }
    }

    pub(super) fn applied(&mut self, at: Position) {
        self.proposals.applied(at);
    }

    pub(super) fn restored(&mut self, through: Position) {
        self.proposals.restored(through);
    }

    /// Takes the answers since the last time.
    fn answers(&mut self) -> Vec<(ProposalId, Result<u64, ProposeError>)> {
        let mut answers = Vec::new();
        self.open.retain_mut(|Open { id, outcome, .. }| match outcome.try_recv() {
            Ok(answer) => {
                answers.push((*id, answer));
                false
            }
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Closed) => panic!("{id:?} was dropped without an answer"),
        });
        answers
    }
}

impl World {
    /// Proposes records to that server, in one step; `accepted` has their positions if a leader took them.
    pub(crate) fn propose(&mut self, node: NodeId, count: usize) -> Vec<ProposalId> {
        let numbers = self.proposals + 1..=self.proposals + count as u64;
        self.proposals = *numbers.end();
        let process = self.machines[node.place()].process.as_mut();
        if let Some(process) = process.filter(|it| it.frozen.is_none()) {
            numbers.clone().for_each(|number| process.asked.ask(ProposalId(number)));
            let record = |number: u64| NewEntry::Record(Arc::from(number.to_be_bytes()));
            let proposal = |number| Proposal { id: ProposalId(number), content: record(number) };
            self.step(node, Input::Propose(numbers.clone().map(proposal).collect()));
        }
        numbers.map(ProposalId).collect()
    }

    /// Applies a change of the server's leadership to its proposals.
    pub(super) fn follow(&mut self, node: NodeId, change: LeadershipChange) {
        let machine = &mut self.machines[node.place()];
        let Some(process) = &mut machine.process else { return };
        match change {
            LeadershipChange::Gained { token, .. } => process.asked.leads = Some(Term::new(token.get())),
            LeadershipChange::Extended { .. } => {}
            LeadershipChange::Lost { token, .. } => {
                process.asked.leads = None;
                if !process.asked.open.is_empty() {
                    let (term, run) = (Term::new(token.get()), machine.run);
                    let clock = machine.clock;
                    let until = clock.when(clock.shows(self.now) + self.plan.timing.longest());
                    self.schedule(until, Event::GiveUp { node, run, term });
                }
            }
        }
    }

    /// Gives up proposals that were open when that term was lost.
    pub(super) fn give_up(&mut self, node: NodeId, run: u32, term: Term) {
        let machine = &mut self.machines[node.place()];
        let (Some(process), true) = (&mut machine.process, machine.run == run) else { return };
        if self.plan.mutant != Some(Mutant::WaitsForProposalsForEver) {
            process.asked.proposals.unconfirmed(term);
        }
        self.expect_answers(node, |at| at.term <= term, "an election timeout after its term was lost");
    }

    /// A committed entry decides the outcome of some proposals.
    pub(super) fn decided(&mut self, node: NodeId, entry: &Entry) {
        if let Payload::Record(bytes) = &entry.payload
            && let Ok(number) = bytes.as_ref().try_into().map(u64::from_be_bytes)
        {
            let id = ProposalId(number);
            self.fates.committed.insert(id);
            if self.fates.overtaken.contains(&id) {
                self.untrue(node, id, "overtaken, and it is committed");
            }
        }
        let at = entry.at;
        if let Some(process) = &mut self.machines[node.place()].process {
            process.asked.applied(at);
        }
        self.expect_answers(node, |of| of.term < at.term, "though an entry of a later term is committed");
    }

    /// At the end of a run, when all have the leader's log.
    pub(super) fn expect_all_answers(&mut self) {
        for node in self.machines() {
            self.expect_answers(node, |_| true, "though all is committed");
        }
    }

    fn expect_answers(&mut self, node: NodeId, of: impl Fn(&Position) -> bool, since: &str) {
        let Some(process) = &mut self.machines[node.place()].process else { return };
        for (id, answer) in process.asked.answers() {
            self.hear_answer(node, id, &answer);
        }
        let Some(process) = &self.machines[node.place()].process else { return };
        let open = process.asked.open.iter().find(|open| open.at.as_ref().is_some_and(&of));
        if let Some(Open { id, at, .. }) = open {
            let what = format!("{node} has said nothing of {id:?}, put at {at:?}, {since}");
            self.violation.get_or_insert(Violation { invariant: "a proposal is answered", what });
        }
    }

    fn hear_answer(&mut self, node: NodeId, id: ProposalId, answer: &Result<u64, ProposeError>) {
        match answer {
            Ok(_) if !self.fates.committed.contains(&id) => self.untrue(node, id, "committed, and it is not"),
            Err(ProposeError::Overtaken) => {
                self.fates.overtaken.insert(id);
                if self.fates.committed.contains(&id) {
                    self.untrue(node, id, "overtaken, and it is committed");
                }
            }
            _ => {}
        }
    }

    fn untrue(&mut self, node: NodeId, id: ProposalId, said: &str) {
        let what = format!("{node} said of {id:?} that it is {said}");
        self.violation.get_or_insert(Violation { invariant: "answers to proposals are true", what });
    }
}
