//! Operators' orders to a world's leader.

use std::time::{Duration, SystemTime};

use super::World;
use crate::{
    choosing::{Cordon, OrderedBy, TransferReason},
    raft::{
        action::{Input, NewEntry, Proposal, ProposalId},
        identity::NodeId,
        orders::ControlOrder,
        transfer::TransferRequest,
    },
};

/// Time for the target of a transfer to catch up.
const WITHIN: Duration = Duration::from_secs(10);

fn operator() -> OrderedBy {
    OrderedBy::new("operator".to_owned(), SystemTime::UNIX_EPOCH)
}

impl World {
    fn next_order(&mut self) -> ProposalId {
        self.proposals += 1;
        ProposalId(self.proposals)
    }

    /// Tells a server to hand over to another one; a frozen one can't hear it.
    pub(crate) fn transfer(&mut self, node: NodeId, to: NodeId) {
        let (id, reason) = (self.next_order(), TransferReason::Ordered(operator()));
        let request = TransferRequest { id, to: self.member(to), term: None, within: WITHIN, reason };
        self.order(node, Input::Transfer(request));
    }

    /// Tells the leader, if there is one.
    fn control(&mut self, change: ControlOrder) {
        let Some(leader) = self.raft_leader() else { return };
        let (id, content) = (self.next_order(), NewEntry::Control(change));
        self.order(leader, Input::Propose(vec![Proposal { id, content }]));
    }

    pub(crate) fn cordon(&mut self, node: NodeId, hard: bool) {
        let (member, cordon) = (self.member(node), Cordon::new(hard, operator()));
        self.control(ControlOrder::Cordon { member, cordon });
    }

    pub(crate) fn uncordon(&mut self, node: NodeId) {
        let member = self.member(node);
        self.control(ControlOrder::Uncordon { member });
    }

    pub(crate) fn pause(&mut self, paused: bool) {
        self.control(if paused { ControlOrder::Pause(operator()) } else { ControlOrder::Resume });
    }

    /// The holder of a lost term lets go of it at once.
    pub(crate) fn let_go_at_once(&mut self, node: NodeId) {
        let run = self.machines[node.place()].run;
        self.let_go(node, run);
    }
}
