//! One machine: disk, clock, and the process on it, with the driver's state beside the node.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use super::{
    super::clock::{Clock, TrueTime},
    Event,
    proposing::Asked,
};
use crate::raft::{
    action::{Stored, Write},
    identity::{NodeId, Position},
    log::{Compacted, Entry, Payload, Snapshot},
    membership::{DirectoryId, Identity, MemberRecord, Run, RunId, VotingRights, WriteCount},
    node::Node,
};

/// One machine: it has a disk and a clock, and most of the time a server runs on it.
#[derive(Debug)]
pub(super) struct Machine {
    /// The member of the server there, by its disk.
    pub(super) member: NodeId,
    pub(super) clock: Clock,
    pub(super) stored: Stored,
    pub(super) papers: Papers,
    /// A copy of the disk, to be put back later.
    pub(super) backup: Option<(Stored, Papers)>,
    /// Another disk of the same member.
    pub(super) spare: Option<(Stored, Papers)>,
    /// True if its disk was ever lost or put back.
    pub(super) tampered: bool,
    /// Servers that knew, durably, of writes that its disk had lost when it was put back to an older state.
    pub(super) known_better_by: Vec<NodeId>,
    pub(super) process: Option<Process>,
    /// Processes started so far: events for an older one are lost.
    pub(super) run: u32,
    pub(super) slow: u32,
    /// True if a server that runs there takes part in elections.
    pub(super) stands: bool,
    /// Additional delay of messages to it.
    pub(super) lag: Duration,
    /// The end of the fsync that began last.
    pub(super) synced_at: TrueTime,
}

impl Machine {
    /// A machine on which no server runs yet.
    pub(super) fn new(member: NodeId, clock: Clock, slow: u32, (stored, papers): (Stored, Papers)) -> Self {
        Self {
            member,
            clock,
            stored,
            papers,
            backup: None,
            spare: None,
            tampered: false,
            known_better_by: Vec::new(),
            process: None,
            run: 0,
            slow,
            stands: true,
            lag: Duration::ZERO,
            synced_at: TrueTime(0),
        }
    }
}

#[derive(Debug)]
pub(super) struct Process {
    /// Always there between steps.
    pub(super) node: Option<Node>,
    /// The time of its timer.
    pub(super) timer: TrueTime,
    /// Requested, and not durable.
    pub(super) writes: VecDeque<Write>,
    /// The number of them in the fsync under way.
    pub(super) syncing: usize,
    /// Events while it was frozen.
    pub(super) frozen: Option<Vec<Event>>,
    pub(super) state: StateMachine,
    pub(super) asked: Asked,
    /// The members with which it is connected, or was last; one connection each.
    pub(super) admitted: BTreeMap<NodeId, Identity>,
    /// Numbers of writes of others that go to the disk with the next write.
    pub(super) raised: BTreeMap<(NodeId, DirectoryId), WriteCount>,
}

/// A disk's contents beside Raft's own: the identity of the server, and its records of others.
#[derive(Debug, Clone)]
pub(super) struct Papers {
    pub(super) identity: Identity,
    pub(super) writes: WriteCount,
    /// The first ones that were met.
    pub(super) known: BTreeMap<NodeId, MemberRecord>,
    /// Those that a log names.
    pub(super) named: BTreeMap<NodeId, MemberRecord>,
    pub(super) voting_rights: VotingRights,
}

impl Papers {
    /// Those of a new disk.
    pub(super) fn blank(number: u64) -> Self {
        let directory = DirectoryId::from_bytes(u128::from(number).to_be_bytes());
        let run = Run { number: 0, id: RunId::from_bytes([0; 16]), began: WriteCount(0) };
        let identity = Identity { directory, run };
        let (known, named) = (BTreeMap::new(), BTreeMap::new());
        Self { identity, writes: WriteCount(0), known, named, voting_rights: VotingRights::Waiting }
    }

    /// The record of that directory of a member.
    pub(super) fn of(&self, node: NodeId, directory: DirectoryId) -> Option<&MemberRecord> {
        let known = [self.known.get(&node), self.named.get(&node)];
        known.into_iter().flatten().find(|record| record.identity.directory == directory)
    }

    pub(super) fn of_mut(&mut self, node: NodeId, directory: DirectoryId) -> Option<&mut MemberRecord> {
        let known = [self.known.get_mut(&node), self.named.get_mut(&node)];
        known.into_iter().flatten().find(|record| record.identity.directory == directory)
    }

    pub(super) fn wrote(&mut self, writes: u64) {
        self.writes.0 += writes;
    }
}

/// The applied state: the hash of all applied entries, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StateMachine {
    pub(crate) at: Position,
    pub(crate) hash: u64,
}

impl StateMachine {
    pub(super) fn restored(snapshot: &Snapshot) -> Self {
        let hash = snapshot.data.as_ref().try_into().map_or(0, u64::from_be_bytes);
        Self { at: snapshot.at, hash }
    }

    pub(super) fn apply(&mut self, entry: &Entry) {
        self.at = entry.at;
        self.hash = mix(mix(self.hash, entry.at.term.get()), fingerprint(&entry.payload));
    }

    pub(super) fn compacted(&self) -> Compacted {
        Compacted { at: self.at, data: Arc::from(self.hash.to_be_bytes()) }
    }
}

/// One step of FNV-1a, on words.
pub(crate) fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
}

/// A hash that tells payloads apart.
pub(crate) fn fingerprint(payload: &Payload) -> u64 {
    match payload {
        Payload::Leadership(word) => mix(word.since.0, word.who.place() as u64 + 1),
        Payload::Record(bytes) => bytes.iter().fold(7, |hash, byte| mix(hash, u64::from(*byte))),
        Payload::Disks(disks) => disks.all().iter().fold(11, |hash, disk| {
            let directory = disk.directory();
            let hash = directory.as_bytes().iter().fold(hash, |hash, byte| mix(hash, u64::from(*byte)));
            mix(hash, u64::from(disk.counts()))
        }),
        Payload::Controls(orders) => {
            let mut hasher = DefaultHasher::new();
            orders.hash(&mut hasher);
            mix(13, hasher.finish())
        }
    }
}
