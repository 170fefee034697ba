//! Pre-candidates and candidates: the pre-vote, then the vote.
//!
//! A pre-candidate asks in its old term, and changes no server's (thesis §9.6). So a server that
//! is cut off asks in vain for any time, and disturbs no leader when it comes back. Only a
//! majority that would vote makes it a candidate, which begins a term (§5.2).

#[cfg(test)]
use super::mutant::Mutant;
use super::{
    action::WriteNumber,
    core::StepContext,
    identity::{Ballots, NodeId, Position},
    leader::Leader,
    message::Message,
    node::{Node, Server},
    orders::Farewell,
};
use crate::clock::Timestamp;

/// Asks who would vote for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PreCandidate {
    /// The time of this candidacy's first request. An answer to an older one does not count.
    since: Timestamp,
    /// For each server that would vote for this one, the time of the newest request that it answered.
    willing: Vec<(NodeId, Timestamp)>,
    /// The time of the next request.
    deadline: Timestamp,
}

/// Asks for votes in a term that it began.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Candidate {
    votes: Ballots,
    /// The write that makes its own vote durable, and countable.
    own: WriteNumber,
    /// True once that write is known to be durable. No vote is requested before.
    asked: bool,
    /// The time to give this term up or, before any request, to check again.
    deadline: Timestamp,
    /// The last word of the leader before, if it was for this server.
    pub(super) farewell: Option<Farewell>,
}

impl PreCandidate {
    pub(super) fn deadline(&self) -> Timestamp {
        self.deadline
    }
}

impl Candidate {
    pub(super) fn deadline(&self) -> Timestamp {
        self.deadline
    }
}

impl<R> Server<R> {
    /// Asks all members whether they would vote for this server.
    pub(super) fn start_pre_vote(self, context: &mut StepContext) -> Node {
        #[cfg(test)]
        if self.core.config.is(Mutant::IgnoresPreVote) {
            return self.campaign(context, false, None);
        }
        let (since, willing) = (context.now(), Vec::new());
        self.in_role(PreCandidate { since, willing, deadline: since }).ask(context)
    }

    /// Begins a term, votes for itself, and asks for votes once that is durable (§5.2).
    ///
    /// On a `transfer` voters vote although they heard the leader: it told them, through this server, that it gave
    /// up. That holds for the leader of the term right before this one, and so for this term only.
    pub(super) fn campaign(
        mut self,
        context: &mut StepContext,
        transfer: bool,
        farewell: Option<Farewell>,
    ) -> Node {
        let me = self.core.me();
        self.core.enter(self.core.term().next());
        self.core.vote_for(me);
        let last = self.core.log.last();
        for peer in self.core.members().others(me) {
            self.core.send_when_durable(context, peer, Message::RequestVote { last, transfer });
        }
        let deadline = self.core.election_deadline(&context.now);
        let own = self.core.coming_write();
        self.in_role(Candidate { votes: Ballots::default(), own, asked: false, deadline, farewell }).into()
    }
}

impl Server<PreCandidate> {
    /// Asks again. Answers to earlier requests still count: if the round trip is longer than the interval, no
    /// answer ever comes before the next request.
    pub(super) fn ask(mut self, context: &mut StepContext) -> Node {
        if !self.core.seeks_votes(context.now()) {
            return self.follow(context, None);
        }
        let (sent, last) = (context.now(), self.core.log.last());
        #[cfg(test)]
        if self.core.config.is(Mutant::CountsOnlyTheLastAsk) {
            self.role.since = sent;
            self.role.willing.clear();
        }
        for peer in self.core.members().others(self.core.me()) {
            self.core.send(context, peer, Message::PreVote { last, sent });
        }
        self.role.deadline = sent + self.core.timing().asking_interval(context.now.draw);
        self.decide(context)
    }

    pub(super) fn would_vote(mut self, context: &mut StepContext, voter: NodeId, echo: Timestamp) -> Node {
        if (self.role.since..=context.now()).contains(&echo) {
            self.role.willing.retain(|(known, at)| *known != voter || *at > echo);
            if !self.role.willing.iter().any(|(known, _)| *known == voter) {
                self.role.willing.push((voter, echo));
            }
        }
        self.decide(context)
    }

    /// Begins a term if a majority would vote for this server, by answers to requests that are younger than the
    /// shortest timeout: a voter may have heard a leader since.
    fn decide(self, context: &mut StepContext) -> Node {
        let oldest = context.now() - self.core.timing().shortest();
        let counts = |(voter, asked): &&(NodeId, Timestamp)| *asked > oldest && self.core.counts(*voter);
        let willing = self.role.willing.iter().filter(counts).count();
        if willing + 1 < self.core.members().majority() || !self.core.may_begin_a_term() {
            return self.into();
        }
        self.campaign(context, false, None)
    }

    /// A write is durable: perhaps the one that a new term had to wait for.
    pub(super) fn after_write(self, context: &mut StepContext) -> Node {
        self.decide(context)
    }

    /// Stops asking until the next interval: a later term has begun.
    pub(super) fn wait(self) -> Node {
        let deadline = self.role.deadline;
        self.in_role(super::follower::Follower::waiting(None, deadline)).into()
    }

    /// Would vote for the other. The server that ranks lower stops asking, and leaves the other some time to win:
    /// two that would vote for each other and go on would both begin the same term, each with its own vote, and if
    /// both stopped, they would do so for ever.
    pub(super) fn give_way(mut self, now: Timestamp, other: NodeId, last: Position) -> Node {
        let ranks_lower = (self.core.log.last(), self.core.me()) < (last, other);
        #[cfg(test)]
        let ranks_lower = ranks_lower || self.core.config.is(Mutant::BothGiveWay);
        if !ranks_lower {
            return self.into();
        }
        match self.core.hold_back(now, other) {
            Some(until) => {
                let deadline = self.role.deadline.max(until);
                self.in_role(super::follower::Follower::waiting(None, deadline)).into()
            }
            None => self.into(),
        }
    }
}

impl Server<Candidate> {
    pub(super) fn voted(mut self, context: &mut StepContext, voter: NodeId) -> Node {
        if self.core.counts(voter) {
            self.role.votes.add(voter);
        }
        self.count(context)
    }

    /// The deadline has come. The votes were requested only once the own vote was durable, so the time for their
    /// answers begins there: else a disk that is slower than an election timeout would begin term after term, and
    /// ask for votes in each after giving it up.
    pub(super) fn tick(mut self, context: &mut StepContext) -> Node {
        if self.core.is_durable(self.role.own) || self.core.counts_from_the_ballot() {
            if !self.core.stands() {
                self.core.rest(context.now());
            }
            return self.start_pre_vote(context);
        }
        self.role.deadline = self.core.election_deadline(&context.now);
        self.into()
    }

    /// Counts, with its own vote if that is durable.
    pub(super) fn count(mut self, context: &mut StepContext) -> Node {
        if self.core.is_durable(self.role.own) {
            self.role.votes.add(self.core.me());
            if !std::mem::replace(&mut self.role.asked, true) && !self.core.counts_from_the_ballot() {
                self.role.deadline = self.core.election_deadline(&context.now);
            }
        }
        if self.role.votes.count() < self.core.members().majority() {
            return self.into();
        }
        Leader::elected(self, context)
    }

    #[cfg(test)]
    pub(super) fn forget_writes(&mut self) {
        self.role.own = WriteNumber::default();
    }

    /// As [`Server::<PreCandidate>::wait`].
    pub(super) fn wait(self) -> Node {
        let deadline = self.role.deadline;
        self.in_role(super::follower::Follower::waiting(None, deadline)).into()
    }
}
