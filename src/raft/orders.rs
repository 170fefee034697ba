//! Operators' standing orders, and the terms of past leaders: both by the log, as each server has it.
//!
//! Each entry of orders holds all of them, in place of those before it. So a server reads them off its own log, also
//! after a restart, and an entry that a later leader overwrites takes its orders along. No safety rests on them: they
//! decide which server tries to lead, never whether it may.
//!
//! A term is in the log by its leader's first entry. That also says how the term before ended: as that term's leader
//! told its successor, or else it was lost.

use std::collections::BTreeMap;

use super::{
    identity::{Members, NodeId, Term},
    log::TimeOfDay,
};
use crate::choosing::{Cordon, OrderedBy, TransferReason};

/// Longest name of an operator, in bytes: user and host.
pub(crate) const LONGEST_OPERATOR: usize = 256;

/// Terms that a snapshot keeps, and that a server tells of.
pub(crate) const TERMS_KEPT: usize = 64;

/// The operators' standing orders.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct StandingOrders {
    pub(crate) paused: Option<OrderedBy>,
    pub(crate) cordons: BTreeMap<NodeId, Cordon>,
}

/// A change of the standing orders.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum ControlOrder {
    Cordon { member: NodeId, cordon: Cordon },
    Uncordon { member: NodeId },
    Pause(OrderedBy),
    Resume,
}

impl StandingOrders {
    /// The same with that change.
    pub(crate) fn with(&self, change: ControlOrder) -> Self {
        let mut orders = self.clone();
        match change {
            ControlOrder::Cordon { member, cordon } => drop(orders.cordons.insert(member, cordon)),
            ControlOrder::Uncordon { member } => drop(orders.cordons.remove(&member)),
            ControlOrder::Pause(by) => orders.paused = Some(by),
            ControlOrder::Resume => orders.paused = None,
        }
        orders
    }

    pub(crate) fn cordon(&self, node: NodeId) -> Option<&Cordon> {
        self.cordons.get(&node)
    }

    /// Returns true if they are about these members, and bounded.
    pub(crate) fn is_of(&self, members: Members) -> bool {
        let bounded = |by: &OrderedBy| by.operator.len() <= LONGEST_OPERATOR;
        self.paused.as_ref().is_none_or(bounded)
            && self.cordons.iter().all(|(node, cordon)| members.contains(*node) && bounded(&cordon.by))
    }

    /// Size, for the bounds of a message.
    pub(crate) fn bytes(&self) -> usize {
        let by = self.cordons.values().map(|cordon| &cordon.by).chain(&self.paused);
        by.map(|by| by.operator.len() + std::mem::size_of::<u64>()).sum()
    }
}

/// A leader's last word to its successor: how and when its term ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Farewell {
    pub(crate) at: TimeOfDay,
    /// The reason to hand over to that successor; `None` if the leader just gave leadership up.
    pub(crate) reason: Option<TransferReason>,
}

impl Farewell {
    /// Returns true if it is bounded.
    pub(crate) fn fits(&self) -> bool {
        match &self.reason {
            Some(TransferReason::Ordered(by)) => by.operator.len() <= LONGEST_OPERATOR,
            _ => true,
        }
    }
}

/// The start of a term, by its leader's first entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TermStart {
    pub(crate) term: Term,
    pub(crate) who: NodeId,
    pub(crate) since: TimeOfDay,
    /// The end of the term before; `None` if it was lost.
    pub(crate) farewell: Option<Farewell>,
}

/// What a snapshot keeps of the entries that it replaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct ElectionRecord {
    pub(crate) orders: StandingOrders,
    /// The last [`TERMS_KEPT`], in order.
    pub(crate) terms: Vec<TermStart>,
}

impl ElectionRecord {
    /// Returns true if it is about these members, bounded, and of terms up to that one.
    pub(crate) fn is_of(&self, members: Members, last: Term) -> bool {
        let known = |start: &TermStart| {
            members.contains(start.who) && start.farewell.as_ref().is_none_or(Farewell::fits)
        };
        self.orders.is_of(members)
            && self.terms.len() <= TERMS_KEPT
            && self.terms.iter().all(known)
            && self.terms.is_sorted_by(|one, next| one.term < next.term)
            && self.terms.last().is_none_or(|start| start.term <= last)
    }
}

/// Adds a term, and drops the oldest if there are too many.
pub(crate) fn add_term(terms: &mut Vec<TermStart>, start: TermStart) {
    if terms.last().is_some_and(|last| last.term >= start.term) {
        return; // A new value in the same term.
    }
    if terms.len() >= TERMS_KEPT {
        terms.remove(0);
    }
    terms.push(start);
}
