//! Follows a leader, or waits for one (§5.2).

use super::{
    core::StepContext,
    identity::{Index, NodeId, Position},
    log::{Entry, Snapshot, Unfit},
    message::{IgnoreReason, Message},
    node::{Node, Server},
    orders::Farewell,
};
use crate::clock::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Follower {
    leader: Option<NodeId>,
    /// The time to campaign, unless a leader is heard before.
    deadline: Timestamp,
}

impl Follower {
    pub(super) fn waiting(leader: Option<NodeId>, deadline: Timestamp) -> Self {
        Self { leader, deadline }
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    pub(super) fn deadline(&self) -> Timestamp {
        self.deadline
    }
}

impl Server<Follower> {
    /// No leader was heard for the whole election timeout.
    pub(super) fn tick(mut self, context: &mut StepContext) -> Node {
        if self.core.seeks_votes(context.now()) {
            return self.start_pre_vote(context);
        }
        self.role.deadline = self.core.election_deadline(&context.now);
        self.into()
    }

    /// The leader of the term has given up, for this server (thesis §3.10).
    pub(super) fn take_over(self, context: &mut StepContext, farewell: Option<Farewell>) -> Node {
        let core = &self.core;
        let may = core.stands() && !core.is_held(context.now()) && core.may_begin_a_term();
        if may { self.campaign(context, true, farewell) } else { self.into() }
    }

    /// A later term began; its leader is not known yet. The deadline stays.
    pub(super) fn forget_leader(mut self) -> Self {
        self.role.leader = None;
        self
    }

    /// Leaves the other server, for which this one would vote, some time to win.
    pub(super) fn give_way(mut self, now: Timestamp, other: NodeId) -> Self {
        if let Some(until) = self.core.hold_back(now, other) {
            self.role.deadline = self.role.deadline.max(until);
        }
        self
    }

    /// The leader of the term is heard: AppendEntries of Figure 2, InstallSnapshot of Figure 13.
    pub(super) fn hear(mut self, context: &mut StepContext, leader: NodeId, message: Message) -> Node {
        // Counted from here, after the leader sent it: so this server keeps to the leader for longer than the
        // leader counts on it.
        self.core.note_leader(context.now());
        self.role = Follower::waiting(Some(leader), self.core.election_deadline(&context.now));
        match message {
            Message::Append { previous, entries, commit, sent } => {
                self.append(context, leader, Entries { previous, entries, commit, sent });
            }
            Message::Install { snapshot, sent } => self.install(context, leader, snapshot, sent),
            _ => {}
        }
        self.into()
    }

    fn append(&mut self, context: &mut StepContext, leader: NodeId, sent: Entries) {
        let Entries { previous, entries, commit, sent: echo } = sent;
        let before = self.core.log.last();
        match self.core.accept(previous, &entries) {
            Ok(accepted) => {
                self.core.commit_to(context, commit.min(accepted.matched));
                // Entries on their way to the disk count as heartbeats: a new leader sends its first entry with
                // each heartbeat until it is answered.
                let heartbeat = accepted.cut.is_none() && self.core.log.last() == before;
                self.acknowledge(context, leader, accepted.matched, heartbeat, echo);
            }
            Err(Unfit::Conflict(conflict)) => {
                let (previous, stands) = (previous.index, self.core.would_take_over(context.now()));
                let rejected = Message::Rejected { previous, conflict, echo, stands };
                self.core.send(context, leader, rejected);
            }
            Err(Unfit::Committed) => self.core.refusals.count(IgnoreReason::Impossible),
        }
    }

    fn install(&mut self, context: &mut StepContext, leader: NodeId, snapshot: Snapshot, echo: Timestamp) {
        let end = snapshot.at.index;
        self.core.install(context, snapshot);
        self.acknowledge(context, leader, end, false, echo);
    }

    /// New entries are acknowledged once they are durable. A heartbeat is answered at once, for the durable part: a
    /// slow disk must not depose a leader that is heard.
    fn acknowledge(
        &self,
        context: &mut StepContext,
        leader: NodeId,
        matched: Index,
        heartbeat: bool,
        echo: Timestamp,
    ) {
        let stands = self.core.would_take_over(context.now());
        if heartbeat || matched <= self.core.durable() {
            let matched = matched.min(self.core.durable());
            self.core.send(context, leader, Message::Appended { matched, echo, stands });
        } else {
            self.core.send_when_durable(context, leader, Message::Appended { matched, echo, stands });
        }
    }
}

/// Contents of an AppendEntries.
struct Entries {
    previous: Position,
    entries: Vec<Entry>,
    commit: Index,
    sent: Timestamp,
}
