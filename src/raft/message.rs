//! Messages among servers, and the checks before one is handled.
//!
//! | request | answer | paper |
//! |---|---|---|
//! | [`PreVote`](Message::PreVote) | [`PreVoteGranted`](Message::PreVoteGranted) or silence | thesis §9.6 |
//! | [`RequestVote`](Message::RequestVote) | [`VoteGranted`](Message::VoteGranted) or silence | Figure 2 |
//! | [`Append`](Message::Append) | [`Appended`](Message::Appended), [`Rejected`](Message::Rejected) | Figure 2 |
//! | [`Install`](Message::Install) | [`Appended`](Message::Appended) | Figure 13 |
//! | [`TimeoutNow`](Message::TimeoutNow) | none | thesis §3.10 |
//! | any, of an old term | [`Outdated`](Message::Outdated) | Figure 2 |
//!
//! A refused vote is silence: nothing follows from a refusal that does not follow from its absence. A request that
//! expects an answer carries its time of sending, by its sender's clock, and the answer echoes it: so a leader
//! knows from when a majority heard it without a list of its messages, and recognizes an answer to an older
//! request.

use std::fmt;

use super::{
    identity::{Index, Members, NodeId, Position, Term},
    log::{Conflict, Entry, Snapshot, follows},
    membership::DirectoryId,
    orders::Farewell,
};
use crate::{choosing::Priority, clock::Timestamp, leadership::ClusterId};

/// By how much a message's term may lead this server's. A server that was down for a century of one election a
/// second still catches up; a corrupted number is unlikely to pass, and can't bring terms near the end of their
/// range.
pub(crate) const LONGEST_LEAP: u64 = 1 << 32;

/// A message on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Envelope {
    pub(crate) cluster: ClusterId,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    /// The disk that the sender runs on.
    pub(crate) directory: DirectoryId,
    /// The sender's current term.
    pub(crate) term: Term,
    pub(crate) message: Message,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    /// Asks for a vote in the term after the sender's. Changes nothing at the receiver.
    PreVote {
        last: Position,
        sent: Timestamp,
    },
    PreVoteGranted {
        echo: Timestamp,
    },
    /// Asks for a vote. `transfer` if the leader of the term before gave up for the sender.
    RequestVote {
        last: Position,
        transfer: bool,
    },
    VoteGranted,
    /// Entries behind `previous`; none in a heartbeat.
    Append {
        previous: Position,
        entries: Vec<Entry>,
        commit: Index,
        sent: Timestamp,
    },
    /// The log is the leader's, durably, up to `matched`. `stands` if its sender would take over, with its priority.
    Appended {
        matched: Index,
        echo: Timestamp,
        stands: Option<Priority>,
    },
    /// The log lacks the entry before those that were sent, at `previous`, or has another there.
    Rejected {
        previous: Index,
        conflict: Conflict,
        echo: Timestamp,
        stands: Option<Priority>,
    },
    /// Everything up to a point that the leader's log does not reach back to. In one piece: it is bounded, so
    /// Figure 13's offsets are left to the transport.
    Install {
        snapshot: Snapshot,
        sent: Timestamp,
    },
    /// The leader has given up. Campaign at once. A caretaker says no farewell: its term was no leader's.
    TimeoutNow {
        farewell: Option<Farewell>,
    },
    /// The receiver's term is over; the sender's is in the envelope.
    Outdated,
}

impl Message {
    /// Reports whether the receiver counts it: then it must come from a disk that counts.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(
            self,
            Self::PreVoteGranted { .. } | Self::VoteGranted | Self::Appended { .. } | Self::Rejected { .. }
        )
    }

    /// Returns true if an old term is answered with [`Outdated`](Self::Outdated).
    pub(crate) fn is_request(&self) -> bool {
        matches!(
            self,
            Self::PreVote { .. } | Self::RequestVote { .. } | Self::Append { .. } | Self::Install { .. }
        )
    }
}

/// Bounds of messages and of a server's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Limits {
    /// Entries in one message. A few hundred small ones cost less than their fsync.
    pub(crate) entries: usize,
    /// Bytes of payload in one message: far below what gRPC takes, and above one record.
    pub(crate) bytes: usize,
    /// Bytes of one record or announced value. Small by design: this is not a database.
    pub(crate) record: usize,
    /// Bytes of a snapshot, which travels in one piece.
    pub(crate) snapshot: usize,
    /// Entries sent to one follower and not answered: what a broken connection can cost.
    pub(crate) in_flight: usize,
    /// A leader's entries that wait for their commit, or for its own disk. Without a majority, or with a disk that
    /// hangs, they must not grow for ever.
    pub(crate) waiting: usize,
    /// Their bytes of payload: a step takes in that much of the largest records.
    pub(crate) waiting_bytes: usize,
    /// Answers that wait for the disk. More come only from a stuck disk, and they are stale by then.
    pub(crate) held: usize,
}

impl Limits {
    pub(crate) const DEFAULT: Self = Self {
        entries: 256,
        bytes: 512 << 10,
        record: 64 << 10,
        snapshot: 1 << 20,
        in_flight: 2048,
        waiting: 8192,
        waiting_bytes: 16 << 20,
        held: 256,
    };
}

/// Reason for ignoring a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum IgnoreReason {
    /// It is of another group of servers.
    OtherCluster,
    /// Its sender is not a member, or is this server.
    UnknownPeer,
    /// It is for another member.
    NotForUs,
    /// No server that follows the protocol has this term, or sends this message in it.
    Impossible,
    /// It is larger than anything that a server sends.
    TooLarge,
}

impl IgnoreReason {
    pub(crate) const ALL: [Self; 5] =
        [Self::OtherCluster, Self::UnknownPeer, Self::NotForUs, Self::Impossible, Self::TooLarge];

    /// The label of metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::OtherCluster => "other_cluster",
            Self::UnknownPeer => "unknown_peer",
            Self::NotForUs => "not_for_us",
            Self::Impossible => "impossible",
            Self::TooLarge => "too_large",
        }
    }
}

/// Numbers of ignored messages, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct IgnoredCounts([u64; IgnoreReason::ALL.len()]);

impl IgnoredCounts {
    pub(crate) fn count(&mut self, refusal: IgnoreReason) {
        self.0[refusal as usize] += 1;
    }

    pub(crate) fn of(&self, refusal: IgnoreReason) -> u64 {
        self.0[refusal as usize]
    }
}

/// The receiver and its term.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listener {
    pub(crate) me: NodeId,
    pub(crate) members: Members,
    pub(crate) cluster: ClusterId,
    pub(crate) limits: Limits,
    pub(crate) term: Term,
}

impl Listener {
    /// Checks a message, whatever the receiver's state.
    pub(crate) fn admit(&self, envelope: &Envelope) -> Result<(), IgnoreReason> {
        if envelope.cluster != self.cluster {
            return Err(IgnoreReason::OtherCluster);
        }
        if envelope.from == self.me || !self.members.contains(envelope.from) {
            return Err(IgnoreReason::UnknownPeer);
        }
        if envelope.to != self.me {
            return Err(IgnoreReason::NotForUs);
        }
        if envelope.term.get().saturating_sub(self.term.get()) > LONGEST_LEAP {
            return Err(IgnoreReason::Impossible);
        }
        self.sized(&envelope.message)?;
        if possible(envelope.term, &envelope.message) && self.disk_entries(&envelope.message) {
            Ok(())
        } else {
            Err(IgnoreReason::Impossible)
        }
    }

    /// Returns true if the disks that it names are of this group's members.
    fn disk_entries(&self, message: &Message) -> bool {
        match message {
            Message::Append { entries, .. } => entries.iter().all(|entry| entry.is_of(self.members)),
            Message::Install { snapshot, .. } => snapshot.is_of(self.members),
            _ => true,
        }
    }

    fn sized(&self, message: &Message) -> Result<(), IgnoreReason> {
        let fits = match message {
            Message::Append { entries, .. } => {
                let sizes = || entries.iter().map(|entry| entry.payload.bytes());
                entries.len() <= self.limits.entries
                    && sizes().all(|bytes| bytes <= self.limits.record)
                    && sizes().sum::<usize>() <= self.limits.bytes
            }
            Message::Install { snapshot, .. } => snapshot.data.len() <= self.limits.snapshot,
            Message::TimeoutNow { farewell } => farewell.as_ref().is_none_or(Farewell::fits),
            _ => true,
        };
        if fits { Ok(()) } else { Err(IgnoreReason::TooLarge) }
    }
}

/// Returns true if a server that follows the protocol can send this in this term.
fn possible(term: Term, message: &Message) -> bool {
    match message {
        Message::PreVote { last, .. } => last.term <= term,
        Message::PreVoteGranted { .. } => true,
        Message::RequestVote { last, .. } => last.term < term,
        Message::Append { previous, entries, .. } => {
            let mut before = *previous;
            let runs = entries.iter().all(|entry| {
                let runs = follows(before, entry.at);
                before = entry.at;
                runs
            });
            term > Term::ZERO && runs && before.term <= term && before.index < Index::new(u64::MAX / 2)
        }
        Message::Install { snapshot, .. } => {
            let at = snapshot.at;
            Term::ZERO < at.term
                && at.term <= term
                && Index::ZERO < at.index
                && at.index < Index::new(u64::MAX / 2)
        }
        Message::VoteGranted
        | Message::Appended { .. }
        | Message::Rejected { .. }
        | Message::TimeoutNow { .. }
        | Message::Outdated => term > Term::ZERO,
    }
}

impl fmt::Display for Envelope {
    /// As a line of a transcript.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} term {}: ", self.from, self.to, self.term)?;
        match &self.message {
            Message::PreVote { last, .. } => write!(f, "would you vote for me? my log ends at {last}"),
            Message::PreVoteGranted { .. } => f.write_str("I would"),
            Message::RequestVote { last, transfer } => {
                let why = if *transfer { ", the leader asked me to" } else { "" };
                write!(f, "vote for me; my log ends at {last}{why}")
            }
            Message::VoteGranted => f.write_str("you have my vote"),
            Message::Append { previous, entries, commit, .. } => match entries.last() {
                None => write!(f, "heartbeat behind {previous}, committed {commit}"),
                Some(last) => write!(f, "entries {previous} .. {}, committed {commit}", last.at),
            },
            Message::Appended { matched, .. } => write!(f, "have all up to {matched}"),
            Message::Rejected { previous, conflict: Conflict { term, first }, .. } => match term {
                Some(term) => write!(f, "not what I have at {previous}; my term {term} starts at {first}"),
                None => write!(f, "nothing at {previous}; I lack {first}"),
            },
            Message::Install { snapshot, .. } => write!(f, "snapshot up to {}", snapshot.at),
            Message::TimeoutNow { .. } => f.write_str("I gave up, campaign at once"),
            Message::Outdated => f.write_str("your term is over"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::raft::log::Payload;

    const US: ClusterId = ClusterId(1);

    fn listener(term: u64) -> Listener {
        Listener {
            me: NodeId::new(0),
            members: Members::of(3).unwrap(),
            cluster: US,
            limits: Limits::DEFAULT,
            term: Term::new(term),
        }
    }

    fn from(from: u8, term: u64, message: Message) -> Envelope {
        let (from, to) = (NodeId::new(from), NodeId::new(0));
        let directory = DirectoryId::in_tests(from);
        Envelope { cluster: US, from, to, directory, term: Term::new(term), message }
    }

    fn append(previous: (u64, u64), entries: &[(u64, u64)]) -> Message {
        let at = |(index, term): (u64, u64)| Position { term: Term::new(term), index: Index::new(index) };
        let payload = Payload::Record(Arc::from([]));
        let entry = |place: &(u64, u64)| Entry { at: at(*place), payload: payload.clone() };
        Message::Append {
            previous: at(previous),
            entries: entries.iter().map(entry).collect(),
            commit: Index::ZERO,
            sent: Timestamp::from_nanos(1),
        }
    }

    #[test]
    fn strangers_and_other_clusters_are_refused() {
        let good = from(1, 1, Message::Outdated);
        assert_eq!(listener(1).admit(&good), Ok(()));
        assert_eq!(listener(1).admit(&from(3, 1, Message::Outdated)), Err(IgnoreReason::UnknownPeer));
        assert_eq!(listener(1).admit(&from(0, 1, Message::Outdated)), Err(IgnoreReason::UnknownPeer));
        let other = Envelope { cluster: ClusterId(2), ..good.clone() };
        assert_eq!(listener(1).admit(&other), Err(IgnoreReason::OtherCluster));
        let misled = Envelope { to: NodeId::new(2), ..good };
        assert_eq!(listener(1).admit(&misled), Err(IgnoreReason::NotForUs));
    }

    #[test]
    fn a_term_that_no_server_can_have_is_refused() {
        assert_eq!(listener(5).admit(&from(1, 5 + LONGEST_LEAP, Message::Outdated)), Ok(()));
        for term in [0, 6 + LONGEST_LEAP, u64::MAX] {
            assert_eq!(listener(5).admit(&from(1, term, Message::Outdated)), Err(IgnoreReason::Impossible));
        }
    }

    #[test]
    fn entries_that_no_leader_sends_are_refused() {
        let admit = |term, message| listener(5).admit(&from(1, term, message));
        assert_eq!(admit(5, append((2, 1), &[(3, 1), (4, 5)])), Ok(()));
        for impossible in [
            append((2, 1), &[(4, 1)]),         // a gap
            append((2, 2), &[(3, 1)]),         // a term that falls
            append((2, 1), &[(3, 1), (4, 6)]), // of a term after the leader's own
            append((9, 9), &[]),
            append((0, 0), &[(1, 0)]),
            append((u64::MAX, 1), &[]),
        ] {
            assert_eq!(admit(5, impossible), Err(IgnoreReason::Impossible));
        }
        let last = Position { term: Term::new(6), index: Index::new(1) };
        assert_eq!(admit(6, Message::RequestVote { last, transfer: false }), Err(IgnoreReason::Impossible));
    }

    #[test]
    fn what_is_too_large_is_refused_and_counted() {
        let tight = Listener { limits: Limits { entries: 1, ..Limits::DEFAULT }, ..listener(5) };
        let refused = tight.admit(&from(1, 5, append((0, 0), &[(1, 1), (2, 1)]))).unwrap_err();
        assert_eq!(refused, IgnoreReason::TooLarge);

        let at = Position { term: Term::new(1), index: Index::new(1) };
        let data = Arc::from(vec![0; Limits::DEFAULT.snapshot + 1]);
        let install = Message::Install {
            snapshot: Snapshot {
                at,
                data,
                disks: None,
                record: crate::raft::orders::ElectionRecord::default(),
            },
            sent: Timestamp::from_nanos(1),
        };
        assert_eq!(listener(5).admit(&from(1, 5, install)), Err(IgnoreReason::TooLarge));

        let mut refusals = IgnoredCounts::default();
        refusals.count(refused);
        let counts = IgnoreReason::ALL.map(|refusal| refusals.of(refusal));
        assert_eq!(counts, [0, 0, 0, 0, 1]);
    }
}
