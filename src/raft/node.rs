//! A server in one of its four roles, and one step of it.
//!
//! ```text
//!              deadline                majority would            majority did
//!   Follower ───────────► PreCandidate ───────────► Candidate ───────────────► Leader
//!      ▲  ▲                   │    ▲                 │  │ deadline               │
//!      │  └── a leader heard ─┘    └─────────────────┼──┘                        │
//!      └─────────────── a leader or a later term ────┴── no majority, gave up ───┘
//! ```
//!
//! [`Node::step`] takes the node and returns it: a role can only be left by consuming it, so its data (votes,
//! followers' progress, a claim) cannot outlive it. A [`caretaker`](super::caretaker) is a leader without a claim.

use super::{
    action::{Actions, Declined, Effect, Input, Now, Stored},
    candidacy::{Candidate, PreCandidate},
    core::{Core, CoreConfig, StepContext},
    follower::Follower,
    identity::{Index, NodeId, Position, Term},
    leader::Leader,
    log::Log,
    message::{Envelope, IgnoreReason, IgnoredCounts, Message},
    transfer::CannotTransfer,
};
use crate::clock::Timestamp;

/// A server, whatever its role.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[must_use = "a step returns the node as it is afterwards"]
pub(crate) enum Node {
    Follower(Server<Follower>),
    PreCandidate(Server<PreCandidate>),
    Candidate(Server<Candidate>),
    Leader(Server<Leader>),
}

/// A server in the role `R`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Server<R> {
    pub(super) core: Core,
    pub(super) role: R,
}

/// No server of this group has written the stored state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stored term, vote and log are not of one server of this group")]
pub(crate) struct Inconsistent;

impl Node {
    /// A server that starts with its disk's contents. It takes part in elections after [`Input::Stand`].
    pub(crate) fn start(config: CoreConfig, stored: Stored, now: &Now) -> Result<Self, Inconsistent> {
        let core = Core::restored(config, stored, now.boot_time).ok_or(Inconsistent)?;
        let deadline = core.election_deadline(now);
        Ok(Self::Follower(Server { core, role: Follower::waiting(None, deadline) }))
    }

    /// Takes one input. The actions are to be carried out before the next step.
    pub(crate) fn step(self, now: Now, input: Input) -> (Self, Actions) {
        let mut context = StepContext::new(now);
        // An expired claim ends before anything else is looked at: no answer that comes later can revive it.
        let mut node = self.end_if_over(&mut context).take(&mut context, input);
        let actions = node.core_mut().finish(context);
        (node, actions)
    }

    /// The latest time for the next [`Tick`](Input::Tick).
    pub(crate) fn deadline(&self) -> Timestamp {
        match self {
            Self::Follower(server) => server.role.deadline(),
            Self::PreCandidate(server) => server.role.deadline(),
            Self::Candidate(server) => server.role.deadline(),
            Self::Leader(server) => server.deadline(),
        }
    }

    /// The leader, as far as this server knows; itself included, whether or not it may claim yet.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        match self {
            Self::Follower(server) => server.role.leader(),
            Self::PreCandidate(_) | Self::Candidate(_) => None,
            Self::Leader(server) => Some(server.core.me()),
        }
    }

    /// The role's name.
    pub(crate) fn role(&self) -> &'static str {
        match self {
            Self::Follower(_) => "follower",
            Self::PreCandidate(_) => "pre-candidate",
            Self::Candidate(_) => "candidate",
            Self::Leader(server) if server.role.is_caretaker() => "caretaker",
            Self::Leader(_) => "leader",
        }
    }

    pub(crate) fn term(&self) -> Term {
        self.core().term()
    }

    /// Time when a leader was last heard, or this server started.
    pub(crate) fn heard(&self) -> Timestamp {
        self.core().heard()
    }

    /// The commit index, as far as this server knows.
    pub(crate) fn committed(&self) -> Index {
        self.core().commit
    }

    pub(crate) fn log(&self) -> &Log {
        &self.core().log
    }

    /// Counts of ignored messages.
    pub(crate) fn refusals(&self) -> &IgnoredCounts {
        &self.core().refusals
    }

    #[cfg(test)]
    pub(crate) fn ballot(&self) -> super::action::Ballot {
        self.core().ballot()
    }

    fn core(&self) -> &Core {
        match self {
            Self::Follower(server) => &server.core,
            Self::PreCandidate(server) => &server.core,
            Self::Candidate(server) => &server.core,
            Self::Leader(server) => &server.core,
        }
    }

    pub(super) fn core_mut(&mut self) -> &mut Core {
        match self {
            Self::Follower(server) => &mut server.core,
            Self::PreCandidate(server) => &mut server.core,
            Self::Candidate(server) => &mut server.core,
            Self::Leader(server) => &mut server.core,
        }
    }

    /// Counts its writes from the start again, for a model in which all are durable, and forgets since when others
    /// stand, which is shorter than matters: so states that differ in nothing else are one.
    #[cfg(test)]
    pub(super) fn forget_writes(&mut self) {
        self.core_mut().forget_writes();
        match self {
            Self::Candidate(server) => server.forget_writes(),
            Self::Leader(server) => {
                server.role.peers.iter_mut().for_each(super::progress::Progress::forget_standing);
            }
            _ => {}
        }
    }

    fn end_if_over(self, context: &mut StepContext) -> Self {
        match self {
            Self::Leader(server) => server.end_if_over(context),
            other => other,
        }
    }

    fn take(mut self, context: &mut StepContext, input: Input) -> Self {
        match input {
            Input::Tick => self.tick(context),
            Input::Receive(envelope) => self.receive(context, envelope),
            Input::Persisted(write) => {
                self.core_mut().persisted(context, write);
                self.after_write(context)
            }
            Input::Propose(proposals) => match self {
                Self::Leader(server) => server.propose(context, proposals),
                other => {
                    let why = Declined::NotLeading { leader: other.leader() };
                    for proposal in proposals {
                        context.push(Effect::Declined { proposal: proposal.id, why });
                    }
                    other
                }
            },
            Input::Stand(candidacy) => {
                if candidacy.value.len() <= self.core().config.limits.record {
                    self.core_mut().standing = Some(candidacy);
                }
                self
            }
            Input::Resign => self.resign(context),
            Input::Transfer(request) => match self {
                Self::Leader(server) => server.transfer(context, request),
                other => {
                    let why = CannotTransfer::NotLeading { leader: other.leader() };
                    context.push(Effect::TransferRefused { order: request.id, why });
                    other
                }
            },
            #[cfg(test)]
            Input::Campaign => match self {
                // While a leader counts on it, its own vote is not free either.
                Self::Follower(server) if !server.core.heard_leader_recently(context.now()) => {
                    server.campaign(context, false, None)
                }
                Self::Candidate(server) if !server.core.heard_leader_recently(context.now()) => {
                    server.campaign(context, false, None)
                }
                other => other,
            },
            Input::Withdraw => {
                self.core_mut().standing = None;
                self.resign(context)
            }
            Input::LetGo => {
                self.core_mut().let_go();
                match self {
                    Self::Leader(server) if server.role.has_given_up() => server.hand_over(context),
                    other => other,
                }
            }
            Input::VotingRights(voting_rights) => {
                self.core_mut().set_voting_rights(voting_rights);
                match self {
                    Self::PreCandidate(_) | Self::Candidate(_) if !self.core().may_vote() => {
                        self.resign(context)
                    }
                    Self::Leader(server) if server.role.is_caretaker() && !server.core.may_vote() => {
                        server.give_up(context)
                    }
                    other => other,
                }
            }
            Input::Compact(compacted) => {
                self.core_mut().compact(compacted);
                self
            }
            Input::Met(node, directory) => {
                self.core_mut().record_directory(node, directory);
                self
            }
        }
    }

    fn tick(self, context: &mut StepContext) -> Self {
        if context.now() < self.deadline() {
            return self;
        }
        match self {
            Self::Follower(server) => server.tick(context),
            Self::PreCandidate(server) => server.ask(context),
            Self::Candidate(server) => server.tick(context),
            Self::Leader(server) => server.tick(context),
        }
    }

    fn after_write(self, context: &mut StepContext) -> Self {
        match self {
            Self::PreCandidate(server) => server.after_write(context),
            Self::Candidate(server) => server.count(context),
            Self::Leader(server) => server.count(context),
            other => other,
        }
    }

    fn resign(self, context: &mut StepContext) -> Self {
        match self {
            Self::Leader(server) => server.give_up(context),
            Self::PreCandidate(server) => server.follow(context, None),
            Self::Candidate(server) => server.follow(context, None),
            Self::Follower(server) => Self::Follower(server),
        }
    }

    /// Returns true if this server leads, or counts on a leader that may still be valid (thesis §4.2.3).
    fn heard_leader_recently(&self, now: Timestamp) -> bool {
        match self {
            Self::Leader(server) => !server.role.has_given_up(),
            other => other.core().heard_leader_recently(now),
        }
    }

    /// The rules for all servers of Figure 2, then those for each message.
    fn receive(mut self, context: &mut StepContext, envelope: Envelope) -> Self {
        if let Err(refusal) = self.core().admit(&envelope) {
            self.core_mut().refusals.count(refusal);
            return self;
        }
        let Envelope { from, directory, term, message, .. } = envelope;
        // A request may come from any disk: its term and its log decide. An answer counts, so it has to come from
        // the disk that counts by this server's own log.
        if message.is_answer() && !self.core().speaks(from, directory) {
            return self;
        }
        if term < self.term() {
            return match message {
                // A member that would vote for this server may still be in an older term.
                Message::PreVoteGranted { .. } => self.listen(context, from, message),
                request if request.is_request() => {
                    self.core().send(context, from, Message::Outdated);
                    self
                }
                _ => self,
            };
        }
        if term == self.term() || matches!(message, Message::PreVote { .. }) {
            return self.listen(context, from, message);
        }
        let unsolicited = matches!(message, Message::RequestVote { transfer: false, .. });
        if unsolicited && self.heard_leader_recently(context.now()) {
            return self; // Its term is ignored as well, or it could depose a healthy leader.
        }
        self.step_down(context, term).listen(context, from, message)
    }

    /// Steps down for a later term (§5.1).
    fn step_down(mut self, context: &mut StepContext, term: Term) -> Self {
        if let Self::Leader(server) = &mut self {
            server.lose(context, crate::Loss::Superseded);
        }
        self.core_mut().enter(term);
        match self {
            Self::Follower(server) => server.forget_leader().into(),
            Self::PreCandidate(server) => server.wait(),
            Self::Candidate(server) => server.wait(),
            Self::Leader(server) => server.follow(context, None),
        }
    }

    /// Handles a message of the own term; or about a vote that is not cast yet, of any.
    fn listen(self, context: &mut StepContext, from: NodeId, message: Message) -> Self {
        match message {
            Message::PreVote { last, sent } => self.consider(context, from, last, sent),
            Message::RequestVote { last, transfer } => self.vote(context, from, last, transfer),
            Message::PreVoteGranted { echo } => match self {
                Self::PreCandidate(server) => server.would_vote(context, from, echo),
                other => other,
            },
            Message::VoteGranted => match self {
                Self::Candidate(server) => server.voted(context, from),
                other => other,
            },
            Message::Append { .. } | Message::Install { .. } if !self.disputes(from) => {
                self.follow(context, from).hear(context, from, message)
            }
            Message::TimeoutNow { farewell } if !self.disputes(from) => {
                self.follow(context, from).take_over(context, farewell)
            }
            Message::Append { .. } | Message::Install { .. } | Message::TimeoutNow { .. } => {
                self.impossible()
            }
            Message::Appended { matched, echo, stands } => match self {
                Self::Leader(server) => server.appended(context, from, matched, echo, stands),
                other => other,
            },
            Message::Rejected { previous, conflict, echo, stands } => match self {
                Self::Leader(server) => server.rejected(context, from, previous, conflict, echo, stands),
                other => other,
            },
            Message::Outdated => self,
        }
    }

    /// Reports whether another server is known to lead this term, itself included.
    fn disputes(&self, leader: NodeId) -> bool {
        self.leader().is_some_and(|known| known != leader)
    }

    /// Becomes a follower of the term's leader, which it does not dispute.
    fn follow(self, context: &mut StepContext, leader: NodeId) -> Server<Follower> {
        match self {
            Self::Follower(server) => server,
            Self::PreCandidate(server) => server.into_follower(context, Some(leader)),
            Self::Candidate(server) => server.into_follower(context, Some(leader)),
            Self::Leader(server) => server.into_follower(context, Some(leader)),
        }
    }

    fn impossible(mut self) -> Self {
        self.core_mut().refusals.count(IgnoreReason::Impossible);
        self
    }

    /// Answers a pre-vote, and changes no term and no vote (thesis §9.6).
    ///
    /// A server that would vote for another leaves it some time to win.
    fn consider(mut self, context: &mut StepContext, from: NodeId, last: Position, sent: Timestamp) -> Self {
        if self.heard_leader_recently(context.now()) || !self.core().may_vote() {
            return self;
        }
        if !self.core().up_to_date(last) {
            self.core_mut().refused_older_log(context.now());
            return self;
        }
        self.core().send(context, from, Message::PreVoteGranted { echo: sent });
        match self {
            Self::Follower(server) => server.give_way(context.now(), from).into(),
            Self::PreCandidate(server) => server.give_way(context.now(), from, last),
            other => other,
        }
    }

    /// RequestVote of Figure 2, and of thesis §4.2.3.
    fn vote(mut self, context: &mut StepContext, from: NodeId, last: Position, transfer: bool) -> Self {
        let now = context.now();
        let bound = if transfer { self.core().is_held(now) } else { self.heard_leader_recently(now) };
        // Once the term's leader is known, the vote is of no use.
        if bound || self.leader().is_some() || !self.core().can_vote_for(from, last) {
            return self;
        }
        self.core_mut().vote_for(from);
        self.core().send_when_durable(context, from, Message::VoteGranted);
        match self {
            Self::Follower(server) => server.follow(context, None),
            Self::PreCandidate(server) => server.follow(context, None),
            // It voted for itself, so this can be no other server's request.
            other => other,
        }
    }
}

impl<R> Server<R> {
    /// The same server in another role.
    pub(super) fn in_role<S>(self, role: S) -> Server<S> {
        Server { core: self.core, role }
    }

    pub(super) fn into_follower(self, context: &StepContext, leader: Option<NodeId>) -> Server<Follower> {
        let deadline = self.core.election_deadline(&context.now);
        self.in_role(Follower::waiting(leader, deadline))
    }

    /// Waits for a leader, for a freshly drawn time.
    pub(super) fn follow(self, context: &StepContext, leader: Option<NodeId>) -> Node {
        self.into_follower(context, leader).into()
    }
}

impl From<Server<Follower>> for Node {
    fn from(server: Server<Follower>) -> Self {
        Self::Follower(server)
    }
}

impl From<Server<PreCandidate>> for Node {
    fn from(server: Server<PreCandidate>) -> Self {
        Self::PreCandidate(server)
    }
}

impl From<Server<Candidate>> for Node {
    fn from(server: Server<Candidate>) -> Self {
        Self::Candidate(server)
    }
}

impl From<Server<Leader>> for Node {
    fn from(server: Server<Leader>) -> Self {
        Self::Leader(server)
    }
}
