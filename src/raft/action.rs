//! What goes into a step, and what comes out of it.
//!
//! ```text
//!              ┌────── effects ─────► performed at once, in order
//!  step(input) ┤
//!              └────── write ───────► the disk ── durable ──► step(Persisted)
//!                                                                 │
//!                   messages that rest on the write ◄── effects ──┘
//! ```
//!
//! A message that rests on a write does not come out of the step that asks for the write. It stays
//! inside until the write's [`Persisted`] comes back, and that can be had only from the
//! [`Write`] itself. So a driver can't send it too early by mistake: it does not have it.

use std::sync::Arc;

use super::{
    identity::{NodeId, Position, Term},
    log::{Change, Compacted, Entry, Snapshot, TimeOfDay},
    membership::{CannotReplace, DirectoryId, Objection, VotingRights},
    message::Envelope,
    timing::Random,
};
use crate::{
    clock::Timestamp,
    leadership::{FencingToken, Loss},
};

/// All that the core may know of the world at the time of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// The boot-time clock.
    pub(crate) now: Timestamp,
    /// The clock on the wall, to be announced.
    pub(crate) today: TimeOfDay,
    /// A fresh random number.
    pub(crate) draw: Random,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// The clock has reached [`Node::deadline`](super::node::Node::deadline), or nearly so.
    Tick,
    /// A message came.
    Receive(Envelope),
    /// A write, and with it all before it, is durable.
    Persisted(Persisted),
    /// Additions to the log. Each is answered by [`Effect::Accepted`] or [`Effect::Declined`].
    Propose(Vec<Proposal>),
    /// Stand for election, to announce this value if elected. Nothing happens if it is larger than
    /// [`Limits::record`](super::message::Limits).
    Stand(Arc<[u8]>),
    /// Its holder has let go of it: give leadership up, to another server if one can have it at once, and stand again later.
    Resign,
    /// Stand without having asked who would vote. Asking is a courtesy, on which no safety may rest; that
    /// no leader was heard for the shortest timeout is none.
    #[cfg(test)]
    Campaign,
    /// Give leadership up as in [`Resign`](Self::Resign), and don't stand again. Votes and log go on.
    Withdraw,
    /// The holder of the term that this server lost last has stopped all that rested on it.
    LetGo,
    /// Whether this server votes has changed, durably. One whose right is revoked and that leads is to resign.
    Franchise(VotingRights),
    /// The state up to this entry, in place of the entries. Nothing happens if the entry was not
    /// applied, or if the state is larger than [`Limits::snapshot`](super::message::Limits).
    Compact(Compacted),
    /// That directory is the first one of a member that was met, durably.
    Met(NodeId, DirectoryId),
}

/// Something that is to be committed.
#[derive(Debug, Clone)]
pub(crate) struct Proposal {
    pub(crate) id: ProposalId,
    pub(crate) content: NewEntry,
}

/// What a leader may add to its log.
#[derive(Debug, Clone)]
pub(crate) enum NewEntry {
    /// A record of the user's.
    Record(Arc<[u8]>),
    /// Another value for observers, in place of the one that the leader stood with.
    Value(Arc<[u8]>),
    /// That a member's disk counts no more, and another one is to take its place. The leader adds by itself, in the end, that
    /// the new one counts.
    Replacement { member: NodeId, directory: DirectoryId },
}

impl NewEntry {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Record(bytes) | Self::Value(bytes) => bytes.len(),
            Self::Replacement { .. } => 0,
        }
    }
}

/// The proposer's own number for a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ProposalId(pub(crate) u64);

/// What to do.
#[derive(Debug, Default)]
#[must_use = "the core believes that its actions are carried out"]
pub(crate) struct Actions {
    /// To be done at once and in this order: a loss stands before the message that lets another
    /// server lead.
    pub(crate) effects: Vec<Effect>,
    /// To be made durable, after all writes before it.
    pub(crate) write: Option<Write>,
}

/// Something to be done at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Effect {
    Send(Envelope),
    /// Entries that are committed, each once and in order since the start or the last `Restore`.
    Apply(Vec<Entry>),
    /// Begin anew from this state, which stands for everything up to a point.
    Restore(Snapshot),
    Leadership(LeadershipChange),
    /// A member's answer proves that its disk has lost something: it is to be told, and must not vote any more.
    Objection {
        member: NodeId,
        objection: Objection,
    },
    /// A proposal is in the leader's log. It is committed if the entry that is applied at this index
    /// has this term, and lost if it has another.
    Accepted {
        proposal: ProposalId,
        at: Position,
    },
    /// A proposal is not, and will not be, in the log.
    Declined {
        proposal: ProposalId,
        why: Declined,
    },
}

/// What became of this server's leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LeadershipChange {
    /// This server leads, provably until this moment of the boot-time clock.
    Gained { token: FencingToken, until: Timestamp },
    /// … until this later one.
    Extended { token: FencingToken, until: Timestamp },
    /// This server does not lead any more.
    Lost { token: FencingToken, loss: Loss },
}

/// Why a proposal was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Declined {
    /// Another server leads, or none, as far as this server knows.
    NotLeading { leader: Option<NodeId> },
    /// The record is larger than [`Limits::record`](super::message::Limits).
    TooLarge,
    /// Too many are waiting for their commit, or for the leader's disk.
    Busy,
    /// That member's disk can't be replaced now, or by that one.
    NotReplaced(CannotReplace),
}

/// What must be on the disk before anything that rests on it is said.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
#[must_use = "messages wait for this write to be durable"]
pub(crate) struct Write {
    pub(crate) term: Term,
    pub(crate) vote: Option<NodeId>,
    pub(crate) log: Option<Change>,
    number: WriteNumber,
}

impl Write {
    pub(super) fn new(ballot: Ballot, log: Option<Change>, number: WriteNumber) -> Self {
        Self { term: ballot.term, vote: ballot.vote, log, number }
    }

    /// A write of no node's, for tests of what carries writes out.
    #[cfg(test)]
    pub(crate) fn numbered(number: u64, ballot: Ballot, log: Option<Change>) -> Self {
        Self::new(ballot, log, WriteNumber(number))
    }

    /// The writer's word that this write, and all before it, are durable.
    pub(crate) fn persisted(self) -> Persisted {
        Persisted(self.number)
    }
}

/// Proof that a [`Write`] and all before it are durable.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Persisted(pub(super) WriteNumber);

/// Writes of one run, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct WriteNumber(pub(super) u64);

/// Term and vote, as Figure 2 keeps them on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Ballot {
    pub(crate) term: Term,
    pub(crate) vote: Option<NodeId>,
}

/// What a disk holds: the result of all durable writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Stored {
    pub(crate) ballot: Ballot,
    pub(crate) snapshot: Snapshot,
    pub(crate) entries: Vec<Entry>,
}

impl Stored {
    /// A new disk.
    pub(crate) fn nothing() -> Self {
        Self { ballot: Ballot::default(), snapshot: Snapshot::none(), entries: Vec::new() }
    }

    /// A disk on which nothing has happened begins behind that term, as all others of its group do. It is written with the
    /// first vote.
    pub(crate) fn with_tokens_after(mut self, term: Term) -> Self {
        let is_new = self.entries.is_empty() && self.snapshot == Snapshot::none();
        if is_new && term > self.ballot.term {
            self.ballot = Ballot { term, vote: None };
        }
        self
    }

    /// Carries out a write. What a storage does, for those that keep it all in memory.
    #[cfg(test)]
    pub(crate) fn apply(&mut self, write: &Write) {
        self.ballot = Ballot { term: write.term, vote: write.vote };
        let Some(change) = &write.log else { return };
        if let Some(snapshot) = &change.snapshot {
            self.entries.retain(|entry| entry.at.index > snapshot.at.index);
            self.snapshot = snapshot.clone();
        }
        if let Some((from, entries)) = &change.tail {
            let keep = from.after(self.snapshot.at.index).saturating_sub(1);
            self.entries.truncate(keep);
            self.entries.extend(entries.iter().cloned());
        }
    }
}
