//! Records of the other servers, and this server's own identity: in memory, as on the disk or about to be.
//!
//! A directory and a run are on the disk before they are here. The number of a member's writes grows with its
//! messages, and with the leader's reports; it is here first, and goes to the disk with the next write.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::wire::proto;
use crate::raft::{
    identity::{Index, NodeId},
    membership::{
        Admission, DirectoryId, Identity, MemberDisk, MemberDisks, MemberRecord, Objection, VotingRights,
        WriteCount, entrance,
    },
};

/// Shared by the disk's thread, which writes it down, and the connections, which ask.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// This server's identity.
    identity: Identity,
    /// Its own durable writes.
    writes: AtomicU64,
    others: Vec<NodeId>,
    inner: Mutex<LedgerState>,
}

#[derive(Debug)]
struct LedgerState {
    records: MemberRecords,
    /// The disks that count by the log, as of the last step.
    disks: Option<(Index, MemberDisks)>,
    /// Refused directories, by the members' names: an operator may name one to replace a disk.
    refused: BTreeMap<NodeId, DirectoryId>,
    /// Members whose number of writes grew since the last write here; true for the directory that a log names.
    raised: BTreeSet<(NodeId, bool)>,
    voting_rights: VotingRights,
}

/// Records of the other members.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct MemberRecords {
    /// The first one met of each. A log's entries can be taken back, so these stay.
    pub(crate) first: BTreeMap<NodeId, MemberRecord>,
    /// Members that a log names with another directory.
    pub(crate) named: BTreeMap<NodeId, MemberRecord>,
}

impl MemberRecords {
    /// The record of that directory of a member.
    fn of(&self, node: NodeId, directory: &DirectoryId) -> Option<&MemberRecord> {
        let known = [self.first.get(&node), self.named.get(&node)];
        known.into_iter().flatten().find(|record| record.identity.directory == *directory)
    }

    fn of_mut(&mut self, node: NodeId, directory: &DirectoryId) -> Option<&mut MemberRecord> {
        let known = [self.first.get_mut(&node), self.named.get_mut(&node)];
        known.into_iter().flatten().find(|record| record.identity.directory == *directory)
    }

    fn all(&self) -> impl Iterator<Item = (NodeId, &MemberRecord)> {
        self.first.iter().chain(&self.named).map(|(node, record)| (*node, record))
    }

    /// Replaces the record of that directory, or becomes that of the one that a log names.
    pub(crate) fn keep(&mut self, node: NodeId, record: MemberRecord, entrance: Admission) {
        match entrance {
            Admission::First | Admission::Founder => self.first.insert(node, record),
            Admission::Named => self.named.insert(node, record),
        };
    }
}

/// A meeting with a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meeting {
    pub(crate) identity: Identity,
    pub(crate) writes: WriteCount,
    /// Its number of writes as known before it was asked.
    pub(crate) known_writes: WriteCount,
    /// True if another connection of it just answered.
    pub(crate) another_answers: bool,
    /// True if it says that it has recorded this server.
    pub(crate) mutual: bool,
    /// The entry of its log that names its directory.
    pub(crate) claim: Index,
}

/// A member's record to write down, and its kind.
pub(crate) type RecordUpdate = (MemberRecord, Admission);

/// A member's number of writes, as passed on. Only a fingerprint of its directory is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriteTally {
    pub(crate) node: NodeId,
    pub(crate) directory: u64,
    /// The number of its run.
    pub(crate) run: u64,
    pub(crate) writes: WriteCount,
}

impl Ledger {
    pub(crate) fn new(
        identity: Identity,
        writes: WriteCount,
        records: MemberRecords,
        voting_rights: VotingRights,
        others: impl IntoIterator<Item = NodeId>,
    ) -> Self {
        let (disks, refused, raised) = (None, BTreeMap::new(), BTreeSet::new());
        let inner = LedgerState { records, disks, refused, raised, voting_rights };
        let (writes, others) = (AtomicU64::new(writes.0), others.into_iter().collect());
        Self { identity, writes, others, inner: Mutex::new(inner) }
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// This server's own durable writes.
    pub(crate) fn writes(&self) -> WriteCount {
        WriteCount(self.writes.load(Ordering::Acquire))
    }

    pub(crate) fn wrote(&self, writes: WriteCount) {
        self.writes.store(writes.0, Ordering::Release);
    }

    pub(crate) fn voting_rights(&self) -> VotingRights {
        self.all().voting_rights
    }

    pub(crate) fn set_voting_rights(&self, voting_rights: VotingRights) {
        self.all().voting_rights = voting_rights;
    }

    /// The others that are not known to have recorded this server.
    pub(crate) fn unmet(&self) -> Vec<NodeId> {
        let inner = self.all();
        let met = |node: &NodeId| inner.records.first.get(node).is_some_and(|record| record.mutual);
        self.others.iter().copied().filter(|node| !met(node)).collect()
    }

    /// Sets the disks that count by the log from now on.
    pub(crate) fn set_disks(&self, disks: Option<(Index, MemberDisks)>) {
        self.all().disks = disks;
    }

    /// The entry of this server's log that names its own directory.
    pub(crate) fn claim(&self) -> Index {
        let inner = self.all();
        let mut disks = inner
            .disks
            .iter()
            .filter(|(_, disks)| disks.all().iter().any(|disk| disk.directory() == self.identity.directory));
        disks.next().map(|(at, _)| *at).unwrap_or_default()
    }

    /// The disk of that member, as far as this server knows: by its log, or as it was first met.
    pub(crate) fn disk_of(&self, node: NodeId) -> Option<MemberDisk> {
        let inner = self.all();
        let first =
            || inner.records.first.get(&node).map(|record| MemberDisk::Founding(record.identity.directory));
        match &inner.disks {
            Some((_, disks)) => disks.disk(node),
            None => first(),
        }
    }

    /// Returns true if the log names this server's directory: then it votes by that.
    pub(crate) fn is_named(&self) -> bool {
        self.claim() > Index::ZERO
    }

    /// The directory under that member's name that was refused last.
    pub(crate) fn refused(&self, node: NodeId) -> Option<DirectoryId> {
        self.all().refused.get(&node).copied()
    }

    /// Returns true if a server on that directory is still admitted under that member's name.
    pub(crate) fn is_welcome(&self, node: NodeId, directory: DirectoryId, claim: Index) -> bool {
        self.all().entrance(node, directory, claim).is_ok()
    }

    /// Returns true if that directory is admitted as the first one that was met.
    pub(crate) fn is_founder(&self, node: NodeId, directory: DirectoryId) -> bool {
        let inner = self.all();
        inner.records.first.get(&node).is_some_and(|record| record.identity.directory == directory)
    }

    /// The most writes known to be durable on each directory of that member.
    pub(crate) fn writes_of(&self, node: NodeId) -> KnownWrites {
        let inner = self.all();
        let known = inner.records.all().filter(|(other, _)| *other == node);
        KnownWrites(known.map(|(_, record)| (record.identity.directory, record.writes)).collect())
    }

    /// Returns true if that is another start of a member than the known one, or another directory.
    pub(crate) fn is_another_run(&self, node: NodeId, identity: &Identity) -> bool {
        let inner = self.all();
        let known = inner.records.of(node, &identity.directory);
        known.is_none_or(|record| record.identity.run != identity.run)
    }

    /// Judges a server under a member's name. Returns the record to write first, if any.
    pub(crate) fn judge(&self, node: NodeId, meeting: &Meeting) -> Result<Option<RecordUpdate>, Objection> {
        let mut inner = self.all();
        let directory = meeting.identity.directory;
        let entrance = inner.entrance(node, directory, meeting.claim);
        let entrance = entrance.inspect_err(|_| {
            inner.refused.insert(node, directory);
        })?;
        inner.refused.remove(&node);
        let Some(known) = inner.records.of_mut(node, &directory) else {
            let first = MemberRecord::first(meeting.identity, meeting.writes);
            return Ok(Some((MemberRecord { mutual: meeting.mutual, ..first }, entrance)));
        };
        known.judge(&meeting.identity, meeting.another_answers)?;
        if meeting.identity.run == known.identity.run {
            MemberRecord { writes: meeting.known_writes, ..*known }.judge_writes(meeting.writes)?;
        }
        let writes = known.writes.max(meeting.writes);
        let now = MemberRecord { identity: meeting.identity, writes, mutual: known.mutual || meeting.mutual };
        if (now.identity, now.mutual) != (known.identity, known.mutual) {
            return Ok(Some((now, entrance)));
        }
        if writes > known.writes {
            known.writes = writes;
            inner.raised.insert((node, entrance == Admission::Named));
        }
        Ok(None)
    }

    /// That record is on the disk now. Its number of writes may have grown meanwhile.
    pub(crate) fn record(&self, node: NodeId, record: MemberRecord, entrance: Admission) {
        let mut inner = self.all();
        let known = inner.records.of(node, &record.identity.directory);
        let known = known.map(|known| known.writes).unwrap_or_default();
        if known > record.writes {
            inner.raised.insert((node, entrance == Admission::Named));
        }
        inner.records.keep(node, MemberRecord { writes: record.writes.max(known), ..record }, entrance);
    }

    /// A record which says that the member has recorded this server, too; `None` if that is known, or the member is
    /// not.
    pub(crate) fn confirmed(&self, node: NodeId) -> Option<MemberRecord> {
        let inner = self.all();
        let known = inner.records.first.get(&node).filter(|record| !record.mutual)?;
        Some(MemberRecord { mutual: true, ..*known })
    }

    /// A member has reported its number of writes, or the leader has.
    pub(crate) fn raise(&self, node: NodeId, directory: &DirectoryId, writes: WriteCount) {
        let mut inner = self.all();
        let named = inner.records.first.get(&node).is_none_or(|it| it.identity.directory != *directory);
        if let Some(record) = inner.records.of_mut(node, directory)
            && record.writes < writes
        {
            record.writes = writes;
            inner.raised.insert((node, named));
        }
    }

    /// The leader's reports. About a run that is not on record they would say too much: a later one has to begin
    /// behind the known number.
    pub(crate) fn heed(&self, tally: WriteTally) {
        let same = |(node, record): &(NodeId, &MemberRecord)| {
            let Identity { directory, run } = record.identity;
            *node == tally.node && run.number == tally.run && fingerprint(&directory) == tally.directory
        };
        let directory = self.all().records.all().find(same).map(|(_, record)| record.identity.directory);
        if let Some(directory) = directory {
            self.raise(tally.node, &directory, tally.writes);
        }
    }

    /// The reports that a leader passes on.
    pub(crate) fn tallies(&self) -> Vec<WriteTally> {
        let tally = |(node, record): (NodeId, &MemberRecord)| WriteTally {
            node,
            directory: fingerprint(&record.identity.directory),
            run: record.identity.run.number,
            writes: record.writes,
        };
        self.all().records.all().map(tally).collect()
    }

    /// The records that go to the disk with the next write.
    pub(crate) fn take_raised(&self) -> MemberRecords {
        let mut inner = self.all();
        let raised = std::mem::take(&mut inner.raised);
        let mut all = MemberRecords::default();
        for (node, is_named) in raised {
            let (from, to) = if is_named {
                (&inner.records.named, &mut all.named)
            } else {
                (&inner.records.first, &mut all.first)
            };
            to.extend(from.get(&node).map(|record| (node, *record)));
        }
        all
    }

    /// The ledger of a server that has met no other, and never will.
    #[cfg(test)]
    pub(crate) fn of_a_loner() -> std::sync::Arc<Self> {
        let identity = super::handshake::first_run([1; 16]);
        std::sync::Arc::new(Self::new(
            identity,
            WriteCount(1),
            MemberRecords::default(),
            VotingRights::Full,
            [],
        ))
    }

    fn all(&self) -> MutexGuard<'_, LedgerState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<WriteTally> for proto::WriteTally {
    fn from(tally: WriteTally) -> Self {
        let member = tally.node.place() as u32;
        Self { member, directory: tally.directory, run: tally.run, writes: tally.writes.0 }
    }
}

impl LedgerState {
    fn entrance(&self, node: NodeId, directory: DirectoryId, claim: Index) -> Result<Admission, Objection> {
        let disk = self.disks.as_ref().and_then(|(at, disks)| Some((disks.disk(node)?, *at)));
        let first = self.records.first.get(&node).map(|record| record.identity.directory);
        entrance(disk, first, directory, claim)
    }
}

/// A member's known numbers of writes, by directory.
#[derive(Debug, Default)]
pub(crate) struct KnownWrites(Vec<(DirectoryId, WriteCount)>);

impl KnownWrites {
    pub(crate) fn on(&self, directory: &DirectoryId) -> WriteCount {
        self.0.iter().find(|(known, _)| known == directory).map(|(_, writes)| *writes).unwrap_or_default()
    }
}

impl WriteTally {
    /// From a message; `None` if it is of no possible member.
    pub(crate) fn read(tally: &proto::WriteTally) -> Option<Self> {
        let node = NodeId::new(u8::try_from(tally.member).ok()?);
        Some(Self { node, directory: tally.directory, run: tally.run, writes: WriteCount(tally.writes) })
    }
}

/// Tells directories apart without revealing them.
fn fingerprint(directory: &DirectoryId) -> u64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, directory.as_bytes());
    u64::from_le_bytes(*digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
}
