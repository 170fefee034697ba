//! What this server knows of the others, and says of itself: in memory, as the disk has it or is about to.
//!
//! A directory and a run are on the disk before they are here. The number of a member's writes grows with what it says,
//! and with what the leader passes on; it is here first, and goes to the disk with the next write.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::wire::proto;
use crate::raft::{
    identity::NodeId,
    membership::{DirectoryId, Franchise, Identity, Objection, Record, Writes},
};

/// Shared by the disk's thread, which writes it down, and the connections, which ask.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Who this server is.
    identity: Identity,
    /// Its own durable writes.
    writes: AtomicU64,
    others: Vec<NodeId>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    records: BTreeMap<NodeId, Record>,
    /// Members whose number of writes grew since the last write here.
    raised: BTreeSet<NodeId>,
    franchise: Franchise,
}

/// How a member is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meeting {
    pub(crate) identity: Identity,
    pub(crate) writes: Writes,
    /// What was known of its writes before it was asked for them.
    pub(crate) known_writes: Writes,
    /// Whether another connection of it is there, and was answered on just now.
    pub(crate) another_answers: bool,
    /// Whether it has recorded us, as it says.
    pub(crate) mutual: bool,
}

/// A member's number of writes, as it is passed on. Its directory is not told: this only tells one from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) node: NodeId,
    pub(crate) directory: u64,
    /// Which of its runs.
    pub(crate) run: u64,
    pub(crate) writes: Writes,
}

impl Ledger {
    pub(crate) fn new(
        identity: Identity,
        writes: Writes,
        records: BTreeMap<NodeId, Record>,
        franchise: Franchise,
        others: impl IntoIterator<Item = NodeId>,
    ) -> Self {
        let inner = Inner { records, raised: BTreeSet::new(), franchise };
        let (writes, others) = (AtomicU64::new(writes.0), others.into_iter().collect());
        Self { identity, writes, others, inner: Mutex::new(inner) }
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// This server's own durable writes.
    pub(crate) fn writes(&self) -> Writes {
        Writes(self.writes.load(Ordering::Acquire))
    }

    pub(crate) fn wrote(&self, writes: Writes) {
        self.writes.store(writes.0, Ordering::Release);
    }

    pub(crate) fn franchise(&self) -> Franchise {
        self.all().franchise
    }

    pub(crate) fn set_franchise(&self, franchise: Franchise) {
        self.all().franchise = franchise;
    }

    /// The others that are not known to have recorded this server.
    pub(crate) fn unmet(&self) -> Vec<NodeId> {
        let inner = self.all();
        let met = |node: &NodeId| inner.records.get(node).is_some_and(|record| record.mutual);
        self.others.iter().copied().filter(|node| !met(node)).collect()
    }

    /// The most that is known to be durable at that member.
    pub(crate) fn writes_of(&self, node: NodeId) -> Writes {
        self.all().records.get(&node).map(|record| record.writes).unwrap_or_default()
    }

    /// The run under which a member is known.
    pub(crate) fn is_another_run(&self, node: NodeId, identity: &Identity) -> bool {
        self.all().records.get(&node).is_some_and(|record| record.identity.run != identity.run)
    }

    /// Whether that may be the member, and what is to be written down of it first, if anything.
    pub(crate) fn judge(&self, node: NodeId, meeting: &Meeting) -> Result<Option<Record>, Objection> {
        let mut inner = self.all();
        let Some(known) = inner.records.get_mut(&node) else {
            let first = Record::first(meeting.identity, meeting.writes);
            return Ok(Some(Record { mutual: meeting.mutual, ..first }));
        };
        known.judge(&meeting.identity, meeting.another_answers)?;
        if meeting.identity.run == known.identity.run {
            Record { writes: meeting.known_writes, ..*known }.judge_writes(meeting.writes)?;
        }
        let writes = known.writes.max(meeting.writes);
        let now = Record { identity: meeting.identity, writes, mutual: known.mutual || meeting.mutual };
        if (now.identity, now.mutual) != (known.identity, known.mutual) {
            return Ok(Some(now));
        }
        if writes > known.writes {
            known.writes = writes;
            inner.raised.insert(node);
        }
        Ok(None)
    }

    /// That is on the disk now. More may have become known of its writes meanwhile.
    pub(crate) fn record(&self, node: NodeId, record: Record) {
        let mut inner = self.all();
        let known = inner.records.get(&node).map(|known| known.writes).unwrap_or_default();
        if known > record.writes {
            inner.raised.insert(node);
        }
        inner.records.insert(node, Record { writes: record.writes.max(known), ..record });
    }

    /// A record that says that the member has recorded us, too; `None` if that is known, or the member is not.
    pub(crate) fn confirmed(&self, node: NodeId) -> Option<Record> {
        let inner = self.all();
        let known = inner.records.get(&node).filter(|record| !record.mutual)?;
        Some(Record { mutual: true, ..*known })
    }

    /// A member has said how many writes it has made, or the leader has of it.
    pub(crate) fn raise(&self, node: NodeId, writes: Writes) {
        let mut inner = self.all();
        if let Some(record) = inner.records.get_mut(&node)
            && record.writes < writes
        {
            record.writes = writes;
            inner.raised.insert(node);
        }
    }

    /// The leader has passed on what it knows. Of a run that is not the one on record it would say too much: a later
    /// one has to begin behind what is known.
    pub(crate) fn heed(&self, tally: Tally) {
        let same = |record: &Record| {
            let Identity { directory, run } = record.identity;
            run.number == tally.run && fingerprint(&directory) == tally.directory
        };
        if self.all().records.get(&tally.node).is_some_and(same) {
            self.raise(tally.node, tally.writes);
        }
    }

    /// What a leader passes on.
    pub(crate) fn tallies(&self) -> Vec<Tally> {
        let tally = |(node, record): (&NodeId, &Record)| Tally {
            node: *node,
            directory: fingerprint(&record.identity.directory),
            run: record.identity.run.number,
            writes: record.writes,
        };
        self.all().records.iter().map(tally).collect()
    }

    /// What goes to the disk with the next write.
    pub(crate) fn take_raised(&self) -> Vec<(NodeId, Record)> {
        let mut inner = self.all();
        let raised = std::mem::take(&mut inner.raised);
        raised.into_iter().filter_map(|node| Some((node, *inner.records.get(&node)?))).collect()
    }

    /// Of a server that has met nobody, and never will.
    #[cfg(test)]
    pub(crate) fn of_nobody() -> std::sync::Arc<Self> {
        let identity = super::hello::first_run([1; 16]);
        std::sync::Arc::new(Self::new(identity, Writes(1), BTreeMap::new(), Franchise::Full, []))
    }

    fn all(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Tally> for proto::Tally {
    fn from(tally: Tally) -> Self {
        let member = tally.node.place() as u32;
        Self { member, directory: tally.directory, run: tally.run, writes: tally.writes.0 }
    }
}

impl Tally {
    /// As it came; `None` if it is of no possible member.
    pub(crate) fn read(tally: &proto::Tally) -> Option<Self> {
        let node = NodeId::new(u8::try_from(tally.member).ok()?);
        Some(Self { node, directory: tally.directory, run: tally.run, writes: Writes(tally.writes) })
    }
}

/// Tells one directory from another, and does not tell which it is.
fn fingerprint(directory: &DirectoryId) -> u64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, directory.as_bytes());
    u64::from_le_bytes(*digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
}
