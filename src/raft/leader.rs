//! Leads a term: replicates, counts, commits, and tracks how long its leadership is valid.
//!
//! Being the term's leader is not yet leadership. A [`Claim`] begins once the term's first entry is
//! committed and ends, for good, with the term's validity: when no majority answers in time,
//! when a later term is seen, or when leadership is given up. A leader whose claim has ended never
//! claims again in its term; without a majority it stops being the leader too (thesis §6.2).
//! A [`caretaker`](super::caretaker) has none from the start.

#[cfg(test)]
use super::mutant::Mutant;
use super::{
    action::{Declined, Effect, LeadershipChange, NewEntry, Nomination, Proposal},
    candidacy::Candidate,
    core::StepContext,
    identity::{Index, NodeId},
    log::{Conflict, Payload, Proclamation, TimeOfDay},
    membership::{CannotReplace, DirectoryId, MemberDisk, MemberDisks, Objection},
    message::IgnoreReason,
    node::{Node, Server},
    progress::Progress,
    transfer::{CannotTransfer, PendingTransfer, TransferTarget},
};
use crate::{
    choosing::{Priority, TransferReason},
    clock::Timestamp,
    leadership::{FencingToken, Loss},
    validity::{Bound, Validity},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Leader {
    pub(super) elected: Timestamp,
    since: TimeOfDay,
    /// The time of the last round of heartbeats.
    sent: Timestamp,
    /// All others, in order.
    pub(super) peers: Vec<Progress>,
    pub(super) claim: Claim,
    /// A transfer whose target has to answer and to catch up first.
    pub(super) transfer: Option<PendingTransfer>,
    /// True if an operator handed leadership to this server.
    pub(super) ordered: bool,
}

/// This server's claim to lead.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Claim {
    /// None yet: the term's first entry, here, is not committed. Its commit is the proof of the win.
    Unproved {
        first: Index,
    },
    Held(Validity),
    /// The claim has ended, or will never begin. The server only looks for a successor, until then: the target, if
    /// there is one.
    GivenUp {
        by: Timestamp,
        target: Option<TransferTarget>,
    },
    /// The server takes no part in elections, and so never claims. It brings candidates up to date, until then.
    Caretaker {
        by: Timestamp,
    },
}

impl Leader {
    /// Becomes leader and appends the first entry of its term; a caretaker appends none.
    pub(super) fn elected(mut candidate: Server<Candidate>, context: &mut StepContext) -> Node {
        let farewell = candidate.role.farewell.take();
        let reason = farewell.as_ref().and_then(|farewell| farewell.reason.as_ref());
        let ordered = matches!(reason, Some(TransferReason::Ordered(_)));
        let core = &mut candidate.core;
        let (me, since) = (core.me(), context.now.today);
        let first = core.log.last().index.next();
        let unknown = |peer| Progress::unknown(peer, first, core.config.limits.in_flight);
        let peers = core.members().others(me).map(unknown).collect();
        let claim = match core.leads_with(context.now()) {
            Some(Nomination { value, address, .. }) => {
                let announcement = Proclamation { who: me, value, since, address, farewell };
                core.log.append(core.term(), Payload::Leadership(announcement));
                Claim::Unproved { first }
            }
            None => Claim::Caretaker { by: context.now() + core.timing().longest() },
        };
        let (elected, sent) = (context.now(), context.now());
        let role = Leader { elected, since, sent, peers, claim, transfer: None, ordered };
        let mut leader = candidate.in_role(role);
        leader.broadcast_heartbeat(context);
        leader.into()
    }

    pub(super) fn has_given_up(&self) -> bool {
        matches!(self.claim, Claim::GivenUp { .. } | Claim::Caretaker { .. })
    }

    pub(super) fn is_caretaker(&self) -> bool {
        matches!(self.claim, Claim::Caretaker { .. })
    }
}

impl Server<Leader> {
    pub(super) fn deadline(&self) -> Timestamp {
        let heartbeat = self.role.sent + self.core.timing().heartbeat();
        let deadline = heartbeat.min(self.over_at());
        match self.role.claim {
            Claim::GivenUp { by, .. } | Claim::Caretaker { by } => deadline.min(by),
            _ => deadline,
        }
    }

    /// The sending time of the newest messages that a majority answered; itself, the leader always hears.
    fn proved_at(&self) -> Option<Timestamp> {
        let counted = |peer: &Progress| peer.answered.filter(|_| self.core.counts(peer.peer));
        let answered = self.role.peers.iter().map(counted);
        let own = answered.clone().max().flatten().max(Some(self.role.sent));
        self.core.members().reached_by_majority(answered.chain([own]))
    }

    /// The time when this server stops being the leader, unless a majority answers.
    fn over_at(&self) -> Timestamp {
        let heard = self.proved_at().map_or(self.role.elected, |proved| proved.max(self.role.elected));
        self.core.timing().valid_until(heard)
    }

    /// Check-quorum, by the clock and before anything else in a step (thesis §6.2).
    ///
    /// A leader whose disk hangs ends its claim, too. It hands over once the holder has let go.
    pub(super) fn end_if_over(mut self, context: &mut StepContext) -> Node {
        let by = match self.role.claim {
            Claim::GivenUp { by, .. } | Claim::Caretaker { by } => by,
            _ => self.over_at(),
        };
        #[cfg(test)]
        if self.core.config.is(Mutant::IgnoresQuorum) {
            return self.into();
        }
        if context.now() < by.min(self.over_at()) {
            if !self.role.has_given_up()
                && self.core.disk_hangs(context.now())
                && self.is_outrun(context.now())
            {
                self.lose(context, Loss::Transferred);
            }
            return self.into();
        }
        self.lose(context, Loss::Expired);
        // The vote stays: it was given in this term, which is not over.
        self.follow(context, None)
    }

    /// Ends the claim, if there is one, and with it a transfer that was not begun.
    pub(super) fn lose(&mut self, context: &mut StepContext, loss: Loss) {
        self.refuse_transfer(context, CannotTransfer::LostMeanwhile);
        let mut from = context.now();
        if let Claim::Held(validity) = &self.role.claim {
            let token = self.token();
            context.tell(LeadershipChange::Lost { token, loss });
            if loss != Loss::Resigned {
                self.core.hold_until(validity.until());
                from = from.max(validity.until());
            }
        }
        self.leave(context.now());
        let hangs = (loss == Loss::Transferred).then_some(TransferTarget::any(TransferReason::Disk));
        self.role.claim = Claim::GivenUp { by: from + self.core.timing().shortest(), target: hangs };
    }

    /// From now on counts the wait before this server may be a caretaker, if it takes no part in elections.
    pub(super) fn leave(&mut self, now: Timestamp) {
        if self.role.is_caretaker() { self.core.rest(now) } else { self.core.led(now) }
    }

    fn token(&self) -> FencingToken {
        FencingToken::new(self.core.term().get())
    }

    pub(super) fn tick(mut self, context: &mut StepContext) -> Node {
        if context.now() >= self.role.sent + self.core.timing().heartbeat() {
            self.broadcast_heartbeat(context);
            self.update_validity(context); // A group of one is its own majority.
        }
        self.go_on_with_transfer(context);
        self.give_way_to_a_better_one(context);
        self.into()
    }

    fn broadcast_heartbeat(&mut self, context: &mut StepContext) {
        self.role.sent = context.now();
        self.role.peers.iter_mut().for_each(|peer| peer.heartbeat(&self.core, context));
    }

    fn replicate(&mut self, context: &mut StepContext) {
        self.role.peers.iter_mut().for_each(|peer| peer.stream(&self.core, context));
    }

    pub(super) fn propose(mut self, context: &mut StepContext, proposals: Vec<Proposal>) -> Node {
        let mut waiting = self.core.waiting();
        for Proposal { id, content } in proposals {
            context.push(match self.take(context, content, &mut waiting) {
                Ok(at) => Effect::Accepted { proposal: id, at },
                Err(why) => Effect::Declined { proposal: id, why },
            });
        }
        self.replicate(context);
        self.into()
    }

    fn take(
        &mut self,
        context: &StepContext,
        content: NewEntry,
        (entries, bytes): &mut (usize, usize),
    ) -> Result<super::identity::Position, Declined> {
        let limits = self.core.config.limits;
        if self.role.has_given_up() {
            return Err(Declined::NotLeading { leader: None });
        }
        if content.bytes() > limits.record {
            return Err(Declined::TooLarge);
        }
        (*entries, *bytes) = (*entries + 1, *bytes + content.bytes());
        if *entries > limits.waiting || *bytes > limits.waiting_bytes {
            return Err(Declined::Busy);
        }
        let (who, since) = (self.core.me(), self.role.since);
        let payload = match content {
            NewEntry::Record(record) => Payload::Record(record),
            NewEntry::Value(value) => {
                let address = self.core.standing.as_ref().and_then(|standing| standing.address.clone());
                Payload::Leadership(Proclamation { who, value, since, address, farewell: None })
            }
            NewEntry::Control(change) => Payload::Controls(self.core.log.orders().with(change)),
            NewEntry::Replacement { member, directory } => {
                let disks = self.replace(context, member, directory).map_err(Declined::NotReplaced)?;
                Payload::Disks(disks)
            }
        };
        Ok(self.core.log.append(self.core.term(), payload))
    }

    /// Begins to replace a member's disk: from this entry on the old disk's answers count no more.
    ///
    /// Only once an entry of the own term is committed: until then other logs may hold a replacement that this one
    /// lacks, and two at a time could leave two majorities without a common disk. The leader's proved time stays;
    /// no answer of the old disk adds to it.
    fn replace(
        &mut self,
        context: &StepContext,
        member: NodeId,
        directory: DirectoryId,
    ) -> Result<MemberDisks, CannotReplace> {
        let members = self.core.members();
        if members.count() <= 2 {
            return Err(CannotReplace::TooFewMembers);
        }
        if member == self.core.me() {
            return Err(CannotReplace::ItLeads);
        }
        if !matches!(self.role.claim, Claim::Held(_)) {
            return Err(CannotReplace::NothingCommitted);
        }
        let founders = || Some((Index::ZERO, self.core.config.founders.disks()?));
        let by_log = self.core.log.disks().map(|(at, disks)| (at, disks.clone()));
        let (at, disks) = by_log.or_else(founders).ok_or(CannotReplace::NotAllMet)?;
        let under_way = disks.incoming().is_some_and(|(other, _)| other != member);
        if under_way || at > self.core.commit {
            return Err(CannotReplace::OneAtATime);
        }
        if let Some(owner) =
            members.all().find(|node| disks.disk(*node).map(MemberDisk::directory) == Some(directory))
        {
            let same = owner == member;
            return Err(if same { CannotReplace::SameDirectory } else { CannotReplace::AnotherMembers });
        }
        let lately = Some(context.now() - self.core.timing().shortest());
        let others = self.role.peers.iter().filter(|peer| peer.peer != member);
        let alive = others.filter(|peer| peer.answered >= lately && self.core.counts(peer.peer)).count();
        if alive + 1 < members.majority() {
            return Err(CannotReplace::NoMajorityWithout);
        }
        let (next, window) = (self.core.log.last().index.next(), self.core.config.limits.in_flight);
        for progress in self.role.peers.iter_mut().filter(|progress| progress.peer == member) {
            *progress = Progress::unknown(member, next, window);
        }
        #[cfg(test)]
        if self.core.config.is(Mutant::AdmitsDisksAtOnce) {
            return Ok(disks.with(member, MemberDisk::Voting(directory)));
        }
        Ok(disks.with(member, MemberDisk::Incoming(directory)))
    }

    /// Lets a new disk count, once the removal of the old one is committed, and the new one has that entry: it
    /// votes by it.
    fn admit(&mut self, context: &mut StepContext) {
        let Some((at, disks)) = self.core.log.disks() else { return };
        let Some((member, directory)) = disks.incoming() else { return };
        let has_it = |peer: &Progress| peer.peer == member && peer.matched >= at;
        let ready = at <= self.core.commit && self.role.peers.iter().any(has_it);
        #[cfg(test)]
        let ready = ready || self.core.config.is(Mutant::AdmitsDisksBeforeTheCommit);
        let ready = ready && matches!(self.role.claim, Claim::Held(_));
        if ready {
            let disks = disks.with(member, MemberDisk::Voting(directory));
            self.core.log.append(self.core.term(), Payload::Disks(disks));
            self.replicate(context);
        }
    }

    /// Returns true if an answer is to a message that this leader sent.
    fn sent_at(&self, context: &StepContext, echo: Timestamp) -> bool {
        (self.role.elected..=context.now()).contains(&echo)
    }

    pub(super) fn appended(
        mut self,
        context: &mut StepContext,
        from: NodeId,
        matched: Index,
        echo: Timestamp,
        stands: Option<Priority>,
    ) -> Node {
        if !self.sent_at(context, echo) || matched > self.core.log.last().index {
            return self.refuse();
        }
        let (echo, timing, mut moved) = (self.credited(context, echo), *self.core.timing(), false);
        for progress in self.role.peers.iter_mut().filter(|progress| progress.peer == from) {
            progress.answer(echo, stands, &timing);
            moved |= stands.is_some() && matched > progress.matched;
            progress.appended(&self.core, context, matched);
            progress.stream(&self.core, context);
        }
        self.keep_on(context, moved);
        self.count(context)
    }

    pub(super) fn rejected(
        mut self,
        context: &mut StepContext,
        from: NodeId,
        previous: Index,
        conflict: Conflict,
        echo: Timestamp,
        stands: Option<Priority>,
    ) -> Node {
        if !self.sent_at(context, echo) {
            return self.refuse();
        }
        for progress in self.role.peers.iter().filter(|progress| progress.peer == from) {
            if progress.has_lost(previous, echo) && !self.overlooks_losses() {
                let objection = Objection::LostEntries { had: progress.matched, lacks: previous };
                context.push(Effect::Objection { member: from, objection });
            }
        }
        let (echo, timing, mut moved) = (self.credited(context, echo), *self.core.timing(), false);
        for progress in self.role.peers.iter_mut().filter(|progress| progress.peer == from) {
            progress.answer(echo, stands, &timing);
            if progress.rejected(&self.core, context, previous, conflict, echo) {
                // While it looks for the last common entry. Later a follower may lose a message, and be sent the
                // same again and again.
                moved |= stands.is_some() && progress.matched == Index::ZERO;
                progress.probe(&self.core, context);
            }
        }
        self.keep_on(context, moved);
        self.count(context)
    }

    /// A caretaker goes on as long as a candidate makes progress.
    fn keep_on(&mut self, context: &StepContext, moved: bool) {
        if let (Claim::Caretaker { by }, true) = (&mut self.role.claim, moved) {
            *by = context.now() + self.core.timing().longest();
        }
    }

    fn refuse(mut self) -> Node {
        self.core.refusals.count(IgnoreReason::Impossible);
        self.into()
    }

    #[cfg(test)]
    pub(super) fn claim_as_caretaker(&self, context: &mut StepContext) {
        let mutant = self.core.config.is(Mutant::CaretakerClaims) && self.role.is_caretaker();
        if let (true, Some(proved)) = (mutant, self.proved_at()) {
            let (token, until) = (self.token(), self.core.timing().valid_until(proved));
            context.tell(LeadershipChange::Gained { token, until });
        }
    }

    #[cfg(not(test))]
    pub(super) fn claim_as_caretaker(&self, _: &mut StepContext) {}

    #[cfg(test)]
    fn overlooks_losses(&self) -> bool {
        self.core.config.is(Mutant::OverlooksLosses)
    }

    #[cfg(not(test))]
    fn overlooks_losses(&self) -> bool {
        false
    }

    #[cfg(test)]
    fn credited(&self, context: &StepContext, echo: Timestamp) -> Timestamp {
        if self.core.config.is(Mutant::CountsFromTheAnswer) { context.now() } else { echo }
    }

    #[cfg(not(test))]
    fn credited(&self, _: &StepContext, echo: Timestamp) -> Timestamp {
        echo
    }

    /// Counts the durable copies, commits, and applies the consequences.
    pub(super) fn count(mut self, context: &mut StepContext) -> Node {
        self.commit(context);
        self.admit(context);
        self.update_validity(context);
        self.go_on_with_transfer(context);
        if self.role.has_given_up() { self.hand_over(context) } else { self.into() }
    }

    /// The last rule for leaders of Figure 2: only an entry of the own term is committed by counting. Entries
    /// before it are committed with it (§5.4.2, Figure 8).
    fn commit(&mut self, context: &mut StepContext) {
        let counted = |peer: &Progress| if self.core.counts(peer.peer) { peer.matched } else { Index::ZERO };
        let matched = self.role.peers.iter().map(counted);
        let reached = self.core.members().reached_by_majority(matched.chain([self.core.durable()]));
        if reached > self.core.commit && self.may_commit(reached) {
            self.core.commit_to(context, reached);
        }
    }

    fn may_commit(&self, index: Index) -> bool {
        #[cfg(test)]
        if self.core.config.is(Mutant::CountsOldTerms) {
            return true;
        }
        self.core.log.term_at(index) == Some(self.core.term())
    }

    /// Claims leadership, or extends the claim, by the answers of a majority.
    fn update_validity(&mut self, context: &mut StepContext) {
        let Some(proved) = self.proved_at() else { return };
        let (until, token, now) = (self.core.timing().valid_until(proved), self.token(), context.now());
        match &mut self.role.claim {
            Claim::Unproved { first } if self.core.commit >= *first && now < until => {
                self.role.claim = Claim::Held(Validity::new(until));
                context.tell(LeadershipChange::Gained { token, until });
            }
            Claim::Held(validity) if until > validity.until() => {
                if let Ok(until) = validity.extend(Bound::FIRST, until, now) {
                    context.tell(LeadershipChange::Extended { token, until });
                }
            }
            _ => {}
        }
    }
}
