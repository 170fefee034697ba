//! Hands leadership on: when it is given up, or on request, to a named server (thesis §3.10).
//!
//! ```text
//!  request ──► refused: leads on
//!     └──────► pending ── the target answers, and has the log ──► given up ── the holder let go ──► TimeoutNow, follows
//!                 └── not in time: refused, leads on                 └── the target is silent: to the best other one
//! ```
//!
//! The target is brought up to date while this server leads, and it has to answer a message that was sent after the
//! request: a frozen one costs no leadership. From the end of the claim on there is no way back, because TimeoutNow
//! may arrive late, or twice, and then voters wait for no leader's validity.

use std::time::Duration;

#[cfg(test)]
use super::mutant::Mutant;
use super::{
    action::{Effect, ProposalId},
    core::StepContext,
    follower::Follower,
    identity::{Index, NodeId, Term},
    leader::{Claim, Leader},
    message::Message,
    node::{Node, Server},
    orders::Farewell,
    preference::Challenger,
    progress::Progress,
};
use crate::{choosing::TransferReason, clock::Timestamp, leadership::Loss};

/// Number of longest election timeouts for which a server that gave leadership up does not campaign, if there are
/// others: they go first, even if the chosen successor did not hear of it.
const TIMEOUTS_OF_REST: u32 = 2;

/// Time for a better server to catch up with the log, before the leader tries another time.
const CATCHES_UP_WITHIN: Duration = Duration::from_secs(10);

/// A request to hand leadership to a member.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TransferRequest {
    pub(crate) id: ProposalId,
    pub(crate) to: NodeId,
    /// The term that is meant; `None` for any.
    pub(crate) term: Option<Term>,
    /// Time for the target to catch up with the log.
    pub(crate) within: Duration,
    pub(crate) reason: TransferReason,
}

/// A transfer whose target has to answer and to catch up first. The server leads on meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PendingTransfer {
    /// The request; `None` if it is this leader's own.
    order: Option<ProposalId>,
    target: TransferTarget,
    /// An answer to a message from then on proves that the target is there.
    asked: Timestamp,
    /// The end of the log at that time.
    goal: Index,
    by: Timestamp,
}

/// The server to hand over to, before all others, or any; and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TransferTarget {
    to: Option<NodeId>,
    reason: TransferReason,
}

impl TransferTarget {
    /// The best server.
    pub(super) fn any(reason: TransferReason) -> Self {
        Self { to: None, reason }
    }
}

/// Reason why a leader does not hand over to a member, and leads on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub(crate) enum CannotTransfer {
    /// The receiver of the request leads nothing.
    #[error("it does not lead")]
    NotLeading { leader: Option<NodeId> },
    #[error("leadership was lost before the transfer began")]
    LostMeanwhile,
    #[error("its token is {} by now, not the given one", leads.get())]
    OtherToken { leads: Term },
    #[error("it was elected just now and has nothing committed yet; try again")]
    NothingCommitted,
    #[error("another transfer is under way; wait until that one is done")]
    OneAtATime,
    #[error("that is the leader itself")]
    ItLeads,
    #[error("that server is cordoned; uncordon it first")]
    Cordoned,
    #[error("leadership is paused; resume first")]
    Paused,
    #[error("that server takes no part in the election now: it has no candidate, or its disk hangs")]
    DoesNotStand,
    #[error("that server does not answer")]
    Silent,
    #[error("that server did not catch up with the log in time")]
    Behind,
}

/// The state of a pending transfer.
enum Readiness {
    Ready,
    Waits,
    Never(CannotTransfer),
}

impl Server<Leader> {
    /// Begins to hand over to a member, or refuses.
    pub(super) fn transfer(mut self, context: &mut StepContext, request: TransferRequest) -> Node {
        if let Some(why) = self.objects_to(&request) {
            context.push(Effect::TransferRefused { order: request.id, why });
            return self.into();
        }
        let TransferRequest { id, to, within, reason, .. } = request;
        self.prepare_transfer(context, Some(id), (to, reason), within);
        self.into()
    }

    /// Asks the target for an answer, and brings it up to date.
    fn prepare_transfer(
        &mut self,
        context: &mut StepContext,
        order: Option<ProposalId>,
        (to, reason): (NodeId, TransferReason),
        within: Duration,
    ) {
        let (asked, goal) = (context.now(), self.core.log.last().index);
        let target = TransferTarget { to: Some(to), reason };
        self.role.transfer = Some(PendingTransfer { order, target, asked, goal, by: asked + within });
        // Its answer need not wait for the next round.
        let core = &self.core;
        self.role
            .peers
            .iter_mut()
            .filter(|peer| peer.peer == to)
            .for_each(|peer| peer.heartbeat(core, context));
        self.go_on_with_transfer(context);
    }

    /// Begins to hand over to a server that should rather lead, if there is one.
    pub(super) fn give_way_to_a_better_one(&mut self, context: &mut StepContext) {
        if !matches!(self.role.claim, Claim::Held(_)) || self.role.transfer.is_some() {
            return;
        }
        let now = context.now();
        let tenure = now.since(self.role.elected);
        let challenger = |peer: &Progress| {
            let (node, priority) = (peer.peer, peer.stands?);
            let last_resort = self.core.is_last_resort(node, priority);
            Some(Challenger { node, priority, last_resort, stood: peer.stood(now) })
        };
        let challengers = self.successors(now).filter_map(challenger);
        let incumbent = self.core.incumbent(tenure, self.role.ordered);
        let lost_lately = || self.core.lost_lately(&context.now);
        if let Some(better) = incumbent.yields_to(challengers, &self.core.config, lost_lately) {
            self.prepare_transfer(context, None, better, CATCHES_UP_WITHIN);
        } else if self.core.is_barred() {
            // Another last resort may lead, or none.
            let to = self.successors(now).max_by_key(|peer| self.fitness(peer)).map(|peer| peer.peer);
            match to {
                Some(to) => {
                    self.prepare_transfer(context, None, (to, TransferReason::LastResort), CATCHES_UP_WITHIN);
                }
                None => {
                    let term = self.core.term();
                    let reason = TransferReason::LastResort;
                    context.push(Effect::TransferBegun { order: None, term, reason });
                    self.lose(context, Loss::Transferred);
                    self.aim_at(Some(TransferTarget::any(TransferReason::LastResort)));
                }
            }
        }
    }

    fn objects_to(&self, request: &TransferRequest) -> Option<CannotTransfer> {
        let leads = self.core.term();
        if self.role.has_given_up() {
            return Some(CannotTransfer::NotLeading { leader: None });
        }
        if request.term.is_some_and(|term| term != leads) {
            return Some(CannotTransfer::OtherToken { leads });
        }
        if request.to == self.core.me() {
            return Some(CannotTransfer::ItLeads);
        }
        if !matches!(self.role.claim, Claim::Held(_)) {
            return Some(CannotTransfer::NothingCommitted);
        }
        if self.core.log.orders().paused.is_some() {
            return Some(CannotTransfer::Paused);
        }
        if self.core.log.orders().cordon(request.to).is_some() {
            return Some(CannotTransfer::Cordoned);
        }
        // One of its own gives way to an operator's.
        let ordered = self.role.transfer.as_ref().is_some_and(|transfer| transfer.order.is_some());
        ordered.then_some(CannotTransfer::OneAtATime)
    }

    /// Stops leading once the target of a pending transfer is ready; gives the transfer up if it never will be.
    pub(super) fn go_on_with_transfer(&mut self, context: &mut StepContext) {
        let Some(pending) = &self.role.transfer else { return };
        match self.readiness(pending, context.now()) {
            Readiness::Waits => {}
            Readiness::Never(why) => self.refuse_transfer(context, why),
            Readiness::Ready => {
                let target = self.begin_transfer(context);
                self.lose(context, Loss::Transferred);
                self.aim_at(target);
            }
        }
    }

    fn readiness(&self, pending: &PendingTransfer, now: Timestamp) -> Readiness {
        let PendingTransfer { target, asked, goal, by, .. } = pending;
        let Some(peer) = self.role.peers.iter().find(|peer| Some(peer.peer) == target.to) else {
            return Readiness::Never(CannotTransfer::DoesNotStand);
        };
        #[cfg(test)]
        if self.core.config.is(Mutant::StopsBeforeTheTargetHasAll) {
            return Readiness::Ready;
        }
        let shortest = self.core.timing().shortest();
        let (is_there, missing) =
            (peer.answered >= Some(*asked), self.core.log.last().index.after(peer.matched));
        if is_there && !(peer.stands.is_some() && self.core.counts(peer.peer)) {
            return Readiness::Never(CannotTransfer::DoesNotStand);
        }
        // On a busy log there is always some entry under way.
        if is_there && peer.matched >= *goal && missing <= self.core.config.limits.entries {
            return Readiness::Ready;
        }
        if now >= *asked + shortest && peer.answered < Some(now - shortest) {
            return Readiness::Never(CannotTransfer::Silent);
        }
        if now >= *by { Readiness::Never(CannotTransfer::Behind) } else { Readiness::Waits }
    }

    pub(super) fn refuse_transfer(&mut self, context: &mut StepContext, why: CannotTransfer) {
        if let Some(PendingTransfer { order: Some(order), .. }) = self.role.transfer.take() {
            context.push(Effect::TransferRefused { order, why });
        }
    }

    /// Reports that a pending transfer begins. Returns its target.
    fn begin_transfer(&mut self, context: &mut StepContext) -> Option<TransferTarget> {
        let PendingTransfer { order, target, .. } = self.role.transfer.take()?;
        let (term, reason) = (self.core.term(), target.reason.clone());
        context.push(Effect::TransferBegun { order, term, reason });
        Some(target)
    }

    /// Hands over to that server, if it is there, and not to the best one.
    fn aim_at(&mut self, aim: Option<TransferTarget>) {
        if let (Claim::GivenUp { target, .. }, Some(aim)) = (&mut self.role.claim, aim) {
            *target = Some(aim);
        }
    }

    /// The last word of this leader to that successor. A target that fell silent makes the request void.
    fn farewell(&self, context: &StepContext, successor: NodeId) -> Option<Farewell> {
        let Claim::GivenUp { target, .. } = &self.role.claim else { return None };
        let meant = target.as_ref().filter(|target| target.to.is_none_or(|to| to == successor));
        let reason = meant.map(|target| target.reason.clone());
        Some(Farewell { at: context.now.today, reason })
    }

    /// Gives leadership up. The claim ends here; then a successor is brought up to date (thesis §3.10).
    pub(super) fn give_up(mut self, context: &mut StepContext) -> Node {
        if self.role.is_caretaker() {
            return self.retire(context);
        }
        if !self.role.has_given_up() {
            let target = self.begin_transfer(context);
            self.lose(context, Loss::Resigned);
            self.aim_at(target);
        }
        self.hand_over(context)
    }

    /// Servers that are alive, and would take over.
    fn successors(&self, now: Timestamp) -> impl Iterator<Item = &Progress> {
        let lately = Some(now - self.core.timing().shortest());
        let alive = self.role.peers.iter().filter(move |peer| peer.answered >= lately);
        let counted = alive.filter(|peer| self.core.counts(peer.peer));
        counted.filter(|peer| peer.stands.is_some() || self.hands_over_to_any())
    }

    /// Returns true if one of them has made entries durable that this server has not. Else its disk is no better.
    pub(super) fn is_outrun(&self, now: Timestamp) -> bool {
        self.successors(now).any(|peer| peer.matched > self.core.durable())
    }

    /// The server to hand over to: the target of a transfer, if it is there, or the best one.
    fn successor(&self, now: Timestamp) -> Option<(NodeId, Index)> {
        let target = match &self.role.claim {
            Claim::GivenUp { target, .. } => target.as_ref().and_then(|target| target.to),
            _ => None,
        };
        // Answers are that old where the round trip is as long as the timing permits. From then on the target is silent.
        let lately = Some(now - self.core.timing().shortest() * 2 / 3);
        let rank = |peer: &&Progress| {
            let is_target = Some(peer.peer) == target;
            (is_target && peer.answered >= lately, !is_target, self.fitness(peer))
        };
        let successor = self.successors(now).max_by_key(rank);
        successor.map(|peer| (peer.peer, peer.matched))
    }

    /// The order of successors: one that lacks much of the log comes last; then the last resorts; then by priority,
    /// and by log.
    fn fitness(&self, peer: &Progress) -> impl Ord + use<> {
        let priority = peer.stands.unwrap_or_default();
        let near = self.core.log.last().index.after(peer.matched) <= self.core.config.limits.entries;
        (near, !self.core.is_last_resort(peer.peer, priority), priority, peer.matched)
    }

    /// Sends TimeoutNow to the successor, once that has all.
    ///
    /// Only a server that gave its claim up gets here, and it never takes it back: the message may arrive late, or
    /// twice, and then voters wait for no leader's validity.
    pub(super) fn hand_over(self, context: &mut StepContext) -> Node {
        if self.core.is_held(context.now()) {
            return self.into(); // The holder is at work still.
        }
        match self.successor(context.now()) {
            Some((_, matched)) if matched < self.core.log.last().index => return self.into(),
            Some((peer, _)) => {
                self.claim_as_caretaker(context);
                let farewell = self.farewell(context, peer);
                self.core.send(context, peer, Message::TimeoutNow { farewell });
            }
            None if self.role.is_caretaker() => return self.into(),
            None => {}
        }
        #[cfg(test)]
        if self.core.config.is(Mutant::TakesLeadershipBack) {
            let mut kept = self;
            kept.role.claim = Claim::Unproved { first: Index::ZERO };
            return kept.into();
        }
        self.retire(context)
    }

    /// Follows, and lets the others go first.
    fn retire(mut self, context: &mut StepContext) -> Node {
        self.leave(context.now());
        let timeouts = if self.role.peers.is_empty() { 0 } else { TIMEOUTS_OF_REST };
        let rest = self.core.timing().longest() * timeouts;
        let deadline = self.core.election_deadline(&context.now) + rest;
        self.in_role(Follower::waiting(None, deadline)).into()
    }

    #[cfg(test)]
    fn hands_over_to_any(&self) -> bool {
        self.core.config.is(Mutant::HandsOverToAny)
    }

    #[cfg(not(test))]
    fn hands_over_to_any(&self) -> bool {
        false
    }
}
