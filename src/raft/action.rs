//! Inputs and outputs of a step.
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
    orders::ControlOrder,
    timing::Random,
    transfer::{CannotTransfer, TransferRequest},
};
use crate::{
    choosing::{Priority, TransferReason},
    clock::Timestamp,
    leadership::{FencingToken, Loss},
};

/// The outside world at the time of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// The boot-time clock.
    pub(crate) boot_time: Timestamp,
    /// The wall clock, to be announced.
    pub(crate) today: TimeOfDay,
    /// A fresh random number.
    pub(crate) draw: Random,
}

/// An event.
#[derive(Debug)]
pub(crate) enum Input {
    /// The clock has reached [`Node::deadline`](super::node::Node::deadline), or nearly so.
    Tick,
    /// A message arrived.
    Receive(Envelope),
    /// A write, and with it all before it, is durable.
    Persisted(Persisted),
    /// Additions to the log. Each is answered by [`Effect::Accepted`] or [`Effect::Declined`].
    Propose(Vec<Proposal>),
    /// Take part in elections. Nothing happens if the value is larger than
    /// [`Limits::record`](super::message::Limits).
    Stand(Nomination),
    /// The holder has let go of leadership: give it up, if possible to another server at once, and take part again
    /// later.
    Resign,
    /// Hand leadership to a member. Answered by [`Effect::TransferRefused`] or [`Effect::TransferBegun`].
    Transfer(TransferRequest),
    /// Campaign without a pre-vote. The pre-vote is a courtesy, on which no safety may rest; the silence of the
    /// leader for the shortest timeout is none.
    #[cfg(test)]
    Campaign,
    /// Give leadership up as in [`Resign`](Self::Resign), and take part no more. Votes and log go on.
    Withdraw,
    /// The holder of the last lost term has stopped all that rested on it.
    LetGo,
    /// This server's voting rights have changed, durably. A leader whose rights are revoked has to resign.
    VotingRights(VotingRights),
    /// The state up to this entry, in place of the entries. Nothing happens if the entry was not
    /// applied, or if the state is larger than [`Limits::snapshot`](super::message::Limits).
    Compact(Compacted),
    /// A member's first directory was met, durably.
    Met(NodeId, DirectoryId),
}

/// A server's part in elections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Nomination {
    /// The value to announce if elected.
    pub(crate) value: Arc<[u8]>,
    /// The address to announce with it.
    pub(crate) address: Option<Arc<str>>,
    pub(crate) priority: Priority,
}

impl Nomination {
    /// One of the usual priority.
    #[cfg(test)]
    pub(crate) fn of(value: impl Into<Arc<[u8]>>) -> Self {
        Self { value: value.into(), address: None, priority: Priority::DEFAULT }
    }
}

/// An entry to commit.
#[derive(Debug, Clone)]
pub(crate) struct Proposal {
    pub(crate) id: ProposalId,
    pub(crate) content: NewEntry,
}

/// An entry that a leader may add to its log.
#[derive(Debug, Clone)]
pub(crate) enum NewEntry {
    /// A user's record.
    Record(Arc<[u8]>),
    /// A new value for observers, in place of the announced one.
    Value(Arc<[u8]>),
    /// Takes a member's disk out of count, for another one to replace it. At the end the leader itself adds the
    /// entry that lets the new disk count.
    Replacement { member: NodeId, directory: DirectoryId },
    /// Changes the operators' standing orders.
    Control(ControlOrder),
}

impl NewEntry {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Record(bytes) | Self::Value(bytes) => bytes.len(),
            Self::Replacement { .. } | Self::Control(_) => 0,
        }
    }
}

/// The proposer's own number for a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ProposalId(pub(crate) u64);

/// The driver's instructions.
#[derive(Debug, Default)]
#[must_use = "the core believes that its actions are carried out"]
pub(crate) struct Actions {
    /// To be done at once and in this order: a loss comes before the message that lets another server lead.
    pub(crate) effects: Vec<Effect>,
    /// To be made durable, after all writes before it.
    pub(crate) write: Option<Write>,
}

/// An action to perform at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Effect {
    Send(Envelope),
    /// Entries that are committed, each once and in order since the start or the last `Restore`.
    Apply(Vec<Entry>),
    /// Start again from this state, which replaces all entries up to a point.
    Restore(Snapshot),
    Leadership(LeadershipChange),
    /// A member's answer proves that its disk has lost something: it must be told, and must not vote any more.
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
    /// A transfer was not begun, or was given up: this server leads on, unless a loss says otherwise.
    TransferRefused {
        order: ProposalId,
        why: CannotTransfer,
    },
    /// The target of a transfer has all, and this server stops leading: its loss follows.
    TransferBegun {
        order: Option<ProposalId>,
        term: Term,
        reason: TransferReason,
    },
    /// A proposal is not in the log, and will not be.
    Declined {
        proposal: ProposalId,
        why: Declined,
    },
}

/// A change of this server's leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LeadershipChange {
    /// This server leads, provably until this moment of the boot-time clock.
    Gained { token: FencingToken, until: Timestamp },
    /// The validity now ends later.
    Extended { token: FencingToken, until: Timestamp },
    /// This server does not lead any more.
    Lost { token: FencingToken, loss: Loss },
}

/// Reason for declining a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Declined {
    /// Another server leads, or none, as far as this server knows.
    NotLeading { leader: Option<NodeId> },
    /// The record is larger than [`Limits::record`](super::message::Limits).
    TooLarge,
    /// Too many are waiting for their commit, or for the leader's disk.
    Busy,
    /// That member's disk can't be replaced now, or by that disk.
    NotReplaced(CannotReplace),
}

/// Changes that must be on disk before any message that rests on them is sent.
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

    /// A write of no node, for tests of its executors.
    #[cfg(test)]
    pub(crate) fn numbered(number: u64, ballot: Ballot, log: Option<Change>) -> Self {
        Self::new(ballot, log, WriteNumber(number))
    }

    /// The writer's confirmation that this write, and all before it, are durable.
    pub(crate) fn persisted(self) -> Persisted {
        Persisted(self.number)
    }
}

/// Proof that a [`Write`] and all before it are durable.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Persisted(pub(super) WriteNumber);

/// Number of a write, within one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct WriteNumber(pub(super) u64);

/// Term and vote, as Figure 2 keeps them on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Ballot {
    pub(crate) term: Term,
    pub(crate) vote: Option<NodeId>,
}

/// The contents of a disk: the result of all durable writes.
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

    /// A new disk begins behind that term, as all others of its group do. The term is written with the first vote.
    pub(crate) fn with_tokens_after(mut self, term: Term) -> Self {
        let is_new = self.entries.is_empty() && self.snapshot == Snapshot::none();
        if is_new && term > self.ballot.term {
            self.ballot = Ballot { term, vote: None };
        }
        self
    }

    /// Carries out a write, as a store in memory does.
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
