//! Standing for election: asking who would vote, then having them vote.
//!
//! A pre-candidate asks in its old term, and changes nobody's (thesis §9.6). So a server that
//! is cut off asks in vain for as long as it likes, and disturbs nobody when it comes back. Only a
//! majority that would vote makes it a candidate, which begins a term (§5.2).

#[cfg(test)]
use super::mutant::Mutant;
use super::{
    action::WriteNumber,
    core::Turn,
    identity::{Ballots, NodeId},
    leader::Leader,
    message::Message,
    node::{Node, Server},
};
use crate::clock::Timestamp;

/// Asks who would vote for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PreCandidate {
    /// When it began to ask. An answer to an older question does not count.
    since: Timestamp,
    willing: Ballots,
    /// When to ask again.
    deadline: Timestamp,
}

/// Asks for votes in a term that it began.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Candidate {
    votes: Ballots,
    /// The write that makes its own vote durable, and countable.
    own: WriteNumber,
    /// When to give this term up.
    deadline: Timestamp,
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
    /// Asks everybody whether they would vote for this server.
    pub(super) fn ask_around(self, turn: &mut Turn) -> Node {
        #[cfg(test)]
        if self.core.config.is(Mutant::IgnoresPreVote) {
            return self.campaign(turn, false);
        }
        let (since, last) = (turn.now(), self.core.log.last());
        for peer in self.core.members().others(self.core.me()) {
            self.core.send(turn, peer, Message::PreVote { last, sent: since });
        }
        let mut willing = Ballots::default();
        willing.add(self.core.me());
        let deadline = since + self.core.timing().asking_interval(turn.moment.draw);
        self.in_role(PreCandidate { since, willing, deadline }).decide(turn)
    }

    /// Begins a term, votes for itself, and asks for votes once that is durable (§5.2).
    ///
    /// On a `transfer` voters vote although they heard the leader: it told them, through us, that it
    /// gave up. That is true of the leader of the term right before this one, and so of this term only.
    pub(super) fn campaign(mut self, turn: &mut Turn, transfer: bool) -> Node {
        let me = self.core.me();
        self.core.enter(self.core.term().next());
        self.core.vote_for(me);
        let last = self.core.log.last();
        for peer in self.core.members().others(me) {
            self.core.send_when_durable(turn, peer, Message::RequestVote { last, transfer });
        }
        let deadline = self.core.election_deadline(&turn.moment);
        let own = self.core.coming_write();
        self.in_role(Candidate { votes: Ballots::default(), own, deadline }).into()
    }
}

impl Server<PreCandidate> {
    pub(super) fn would_vote(mut self, turn: &mut Turn, voter: NodeId, echo: Timestamp) -> Node {
        if (self.role.since..=turn.now()).contains(&echo) {
            self.role.willing.add(voter);
        }
        self.decide(turn)
    }

    fn decide(self, turn: &mut Turn) -> Node {
        if self.role.willing.count() < self.core.members().majority() {
            return self.into();
        }
        self.campaign(turn, false)
    }

    /// Leaves it to others, until it would ask again anyway: the later term that it learned of, or the
    /// one that somebody for whom it would vote is about to begin.
    pub(super) fn wait(self) -> Node {
        let deadline = self.role.deadline;
        self.in_role(super::follower::Follower::waiting(None, deadline)).into()
    }
}

impl Server<Candidate> {
    pub(super) fn voted(mut self, turn: &mut Turn, voter: NodeId) -> Node {
        self.role.votes.add(voter);
        self.count(turn)
    }

    /// Counts, with its own vote if that is durable.
    pub(super) fn count(mut self, turn: &mut Turn) -> Node {
        if self.core.is_durable(self.role.own) {
            self.role.votes.add(self.core.me());
        }
        if self.role.votes.count() < self.core.members().majority() {
            return self.into();
        }
        Leader::elected(self, turn)
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
