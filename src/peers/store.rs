//! A member's durable state: its term, its vote, its log, and the members that it knows.
//!
//! ```text
//!  DIR/elect.db    ├ preface, marks ┼ redb: identity ─ owner, directory id, shortest election timeout, ┤
//!                                                     run, voting rights
//!                                          members ── records of the others: one for the first directory that was
//!                                                     met, and one for the directory that a log names
//!                                          state ──── number of the commit, term, vote
//!                                          snapshot
//!                                          log ────── index → entry
//! ```
//!
//! A [`Store`] is a directory that is open, locked, and was found to be whole and this member's. Its contents after
//! any sequence of writes are those of `Stored::apply`.
//!
//! # Durability
//!
//! [`Store::write`] is one transaction of redb's with [`redb::Durability::Immediate`] in one phase: all pages,
//! their checksums and the new root are written, then there is one `fdatasync`. After a crash or a power cut redb
//! takes the newest root under which every checksum is right: the last transaction is there as a whole or not at
//! all, and every one that returned is there, as long as the disk keeps what it reported as durable. (Two phases
//! would cost a second `fdatasync`. They are meant against an attacker who chooses the stored bytes such that half
//! a transaction has the right checksum.)
//!
//! That rule would also take back a durable transaction of which a byte was damaged later. After the process was
//! killed, a mark of the acknowledged commit prevents that: see `file`. A power cut can take away the mark of the
//! very last transaction, so damage to just that one, together with a power cut, is not found.
//!
//! Opening reads everything and checks every checksum: a directory whose bytes were changed is refused, or has its
//! contents unchanged. It does not detect a directory that was replaced by an older copy of itself: the other
//! members do, by the number of the start and of the commit (see [`membership`](crate::raft::membership)).
//!
//! # Not here
//!
//! The core decides if the contents make a log ([`Node::start`](crate::raft::node::Node::start)).

mod directory;
mod error;
mod file;
mod owner;
#[cfg(test)]
pub(super) mod tests;

use std::{
    fmt,
    ops::RangeBounds,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use redb::{
    Database, ReadTransaction, ReadableDatabase as _, ReadableTable as _, Table, TableDefinition,
    WriteTransaction,
};

pub use self::error::StoreError;
pub(crate) use self::owner::Owner;
use self::{
    directory::DataDirectory,
    file::{Behind, CommitNumber, DataFile, Medium},
};
use super::{ledger::MemberRecords, wire};
pub(crate) use crate::raft::membership::DirectoryId;
use crate::raft::{
    action::{Ballot, Stored, Write},
    identity::{NodeId, Term},
    log::{Change, Entry, Snapshot},
    membership::{Admission, Identity, MemberRecord, Run, RunId, VotingRights, WriteCount},
};

/// This server's identity. Changes so rarely that it does not share a page with values that change each time.
const IDENTITY: TableDefinition<&str, &[u8]> = TableDefinition::new("identity");
const OWNER: &str = "owner";
const DIRECTORY: &str = "directory";
const SHORTEST: &str = "shortest election timeout, in nanoseconds";

const RUN: &str = "run";
const FRANCHISE: &str = "franchise";

/// By the member's index: a [`MemberRecord`] as [`record_to_bytes`] writes it.
const MEMBERS: TableDefinition<u8, &[u8]> = TableDefinition::new("members");

/// The same, of members whose directory a log names, if it is not the first one that was met.
const NAMED: TableDefinition<u8, &[u8]> = TableDefinition::new("members that a log names");

/// The same of earlier versions, which knew directories only.
const MET: TableDefinition<u8, &[u8; 16]> = TableDefinition::new("met");

/// The number of the commit, the term, and the vote.
const STATE: TableDefinition<(), (u64, u64, Option<u8>)> = TableDefinition::new("state");
const SNAPSHOT: TableDefinition<(), &[u8]> = TableDefinition::new("snapshot");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");

/// Bytes of the database that redb may keep in memory. The log is in memory anyway, and a write needs only the last
/// page of each table and the path there.
const CACHE: usize = 1 << 20;

/// An opened directory and its contents.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: Store,
    /// The state of the last run: durable, and not checked to be a log.
    pub(crate) stored: Stored,
    pub(crate) directory: DirectoryId,
    /// How long, by its own clock, the last run promised its votes to a leader that it heard. `None` if no run
    /// recorded that.
    pub(crate) previous_shortest: Option<Duration>,
}

/// A member's directory, for this process alone.
///
/// Synchronous: a write returns when it is durable. [`Disk`](super::disk::Disk) puts a thread around it.
#[derive(Debug)]
pub(crate) struct Store {
    database: Database,
    file: Arc<DataFile>,
    path: PathBuf,
    latest: CommitNumber,
    /// The last entry's index; 0 if there is none. So an append has nothing to look for and cut.
    last: u64,
    known: MemberRecords,
    /// The last start, if it was counted.
    run: Option<Run>,
    voting_rights: VotingRights,
}

/// The contents of a database.
struct Contents {
    owner: Owner,
    directory: DirectoryId,
    shortest: Option<Duration>,
    known: MemberRecords,
    run: Option<Run>,
    voting_rights: VotingRights,
    /// The reason why it is revoked, if it is.
    revoked: Option<String>,
    latest: CommitNumber,
    stored: Stored,
}

impl Store {
    /// Opens `data`, or makes it if it is missing or empty.
    ///
    /// Reads all of it. The returned contents are durable.
    ///
    /// # Errors
    ///
    /// Refuses a directory that is not this owner's, not whole, not writable, or in use. It is then left unchanged.
    pub(crate) fn open(data: &Path, owner: &Owner) -> Result<Opened, StoreError> {
        match DataDirectory::claim(data)? {
            DataDirectory::Complete { file, path } => Self::resume(file, path, owner),
            DataDirectory::New(unfinished) => {
                let file = unfinished.file.try_clone();
                let file = file.map_err(|error| StoreError::io(&unfinished.path, "opened", error))?;
                let mut opened = Self::begin(file, unfinished.path.clone(), owner)?;
                opened.store.path = unfinished.finish()?;
                Ok(opened)
            }
        }
    }

    /// Makes a database.
    fn begin(medium: impl Medium, path: PathBuf, owner: &Owner) -> Result<Opened, StoreError> {
        let failed = |error| StoreError::io(&path, "written", error);
        let file = Arc::new(DataFile::create(medium).map_err(failed)?);
        let database = builder().create_with_backend(Behind(Arc::clone(&file)));
        let database = database.map_err(|error| StoreError::redb(&path, "written", error))?;
        let directory = DirectoryId::from_bytes(random(&path)?);
        let (latest, last, known) = (CommitNumber(0), 0, MemberRecords::default());
        let (run, voting_rights) = (None, VotingRights::Waiting);
        let mut store = Self { database, file, path, latest, last, known, run, voting_rights };
        store.commit(|transaction| {
            let mut identity = transaction.open_table(IDENTITY)?;
            identity.insert(OWNER, &*owner.to_bytes())?;
            identity.insert(DIRECTORY, &directory.as_bytes()[..])?;
            // Tables exist from the first time they are opened. A database that lacks one is damaged.
            transaction.open_table(MEMBERS)?;
            transaction.open_table(LOG)?;
            transaction.open_table(SNAPSHOT)?;
            Ok(())
        })?;
        // With its mark, which a commit's own fsync does not cover.
        store.file.settle().map_err(|error| StoreError::io(&store.path, "written", error))?;
        Ok(Opened { store, stored: Stored::nothing(), directory, previous_shortest: None })
    }

    /// Opens an existing database.
    fn resume(medium: impl Medium, path: PathBuf, owner: &Owner) -> Result<Opened, StoreError> {
        let file = Arc::new(DataFile::open(medium).map_err(|bad| StoreError::head(&path, bad))?);
        let acknowledged = file.acknowledged().map_err(|bad| StoreError::head(&path, bad))?;
        // redb reports damage as errors. A panic of it counts as damage too.
        let read = catch_unwind(AssertUnwindSafe(|| {
            let database = builder().create_with_backend(Behind(Arc::clone(&file)));
            let database = database.map_err(|error| StoreError::redb(&path, "read", error))?;
            let contents = Contents::read(&database);
            Ok((database, contents.map_err(|error| StoreError::redb(&path, "read", error))?))
        }));
        let (database, contents) =
            read.unwrap_or_else(|_| Err(StoreError::damaged(&path, "the database can't be read")))?;
        if contents.owner != *owner {
            return Err(StoreError::owner(&path, &contents.owner, owner));
        }
        if contents.latest < acknowledged {
            return Err(StoreError::damaged(&path, "what was written last is missing"));
        }
        if let Some(why) = contents.revoked {
            return Err(StoreError::Revoked { path, why });
        }
        let drained = file.settle().and_then(|()| file.acknowledge(contents.latest));
        drained.map_err(|error| StoreError::io(&path, "written", error))?;
        let Contents { directory, shortest, known, run, mut voting_rights, latest, stored, .. } = contents;
        let last = stored.entries.last().map_or(0, |entry| entry.at.index.get());
        // In a version that did not count starts, a member voted after it had met a majority. A log holds entries
        // of a leader of those; a directory without one has given no vote that matters.
        let begun = stored.snapshot != Snapshot::none() || !stored.entries.is_empty();
        if run.is_none() && begun {
            voting_rights = VotingRights::Full;
        }
        let store = Self { database, file, path, latest, last, known, run, voting_rights };
        Ok(Opened { store, stored, directory, previous_shortest: shortest })
    }

    /// Makes these durable, in this order and together, and with them new facts about other members.
    ///
    /// # Errors
    ///
    /// No space, or a failing disk. Then all of them are durable or none, which the next opening shows; nothing
    /// further can be written until then.
    pub(crate) fn write(&mut self, writes: &[Write], known: &MemberRecords) -> Result<(), StoreError> {
        let Some(newest) = writes.last() else { return Ok(()) };
        let ballot = Ballot { term: newest.term, vote: newest.vote };
        let mut last = self.last;
        self.commit_with(Some(ballot), |transaction| {
            for change in writes.iter().filter_map(|write| write.log.as_ref()) {
                apply(transaction, change, &mut last)?;
            }
            keep(transaction, known)
        })?;
        self.known.first.extend(&known.first);
        self.known.named.extend(&known.named);
        self.last = last;
        Ok(())
    }

    /// Counts this start, durably, and gives it an id; and records how long votes are promised from now on to a
    /// leader that was heard. A later run with a shorter time first has to let this one pass.
    ///
    /// A group of one has no other member to meet.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub(crate) fn begin_run(&mut self, shortest: Duration, alone: bool) -> Result<Run, StoreError> {
        let nanos = u64::try_from(shortest.as_nanos()).unwrap_or(u64::MAX);
        let number = self.run.map_or(0, |run| run.number) + 1;
        let began = WriteCount(self.latest.0 + 1);
        let run = Run { number, id: RunId::from_bytes(random(&self.path)?), began };
        let voting_rights = if alone { VotingRights::Full } else { self.voting_rights };
        let known = self.known.clone();
        self.commit(|transaction| {
            {
                let mut identity = transaction.open_table(IDENTITY)?;
                identity.insert(SHORTEST, &nanos.to_le_bytes()[..])?;
                identity.insert(RUN, &*run_to_bytes(&run))?;
                identity.insert(FRANCHISE, &voting_rights_to_bytes(voting_rights, "")[..])?;
            }
            // An earlier version kept them elsewhere.
            keep(transaction, &known)
        })?;
        self.run = Some(run);
        self.voting_rights = voting_rights;
        Ok(run)
    }

    /// Replaces the record of a member, durably; and records that this server votes from now on, once all others
    /// know it.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub(crate) fn keep_met(
        &mut self,
        node: NodeId,
        record: MemberRecord,
        entrance: Admission,
        voting_rights: VotingRights,
    ) -> Result<(), StoreError> {
        let mut news = MemberRecords::default();
        news.keep(node, record, entrance);
        self.commit(|transaction| {
            keep(transaction, &news)?;
            transaction
                .open_table(IDENTITY)?
                .insert(FRANCHISE, &voting_rights_to_bytes(voting_rights, "")[..])?;
            Ok(())
        })?;
        self.known.keep(node, record, entrance);
        self.voting_rights = voting_rights;
        Ok(())
    }

    /// Records, durably, that this directory's server votes no more, with the reason.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub(crate) fn revoke(&mut self, why: &str) -> Result<(), StoreError> {
        let voting_rights = VotingRights::Revoked;
        self.commit(|transaction| {
            transaction
                .open_table(IDENTITY)?
                .insert(FRANCHISE, &voting_rights_to_bytes(voting_rights, why)[..])?;
            Ok(())
        })?;
        self.voting_rights = voting_rights;
        Ok(())
    }

    /// Records of the other members.
    pub(crate) fn known(&self) -> &MemberRecords {
        &self.known
    }

    pub(crate) fn voting_rights(&self) -> VotingRights {
        self.voting_rights
    }

    /// The number of durable writes here.
    pub(crate) fn writes(&self) -> WriteCount {
        WriteCount(self.latest.0)
    }

    /// The error for a directory over which redb panicked.
    pub(super) fn broken(&self) -> StoreError {
        StoreError::damaged(&self.path, "the database can't be written")
    }

    fn commit(
        &mut self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        self.commit_with(None, change)
    }

    /// One transaction, numbered, durable, and marked as such. Without a ballot the last one stays.
    fn commit_with(
        &mut self,
        ballot: Option<Ballot>,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let number = CommitNumber(self.latest.0 + 1);
        let committed = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            change(&transaction)?;
            {
                let mut state = transaction.open_table(STATE)?;
                let (term, vote) = match ballot {
                    Some(ballot) => (ballot.term.get(), ballot.vote.map(place)),
                    None => state.get(())?.map_or((0, None), |kept| (kept.value().1, kept.value().2)),
                };
                state.insert((), (number.0, term, vote))?;
            }
            transaction.commit()?;
            Ok(())
        };
        committed().map_err(|error| StoreError::redb(&self.path, "written", error))?;
        self.latest = number;
        self.file.acknowledge(number).map_err(|error| StoreError::io(&self.path, "written", error))
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    builder
}

/// Carries out a change, as `Stored::apply` does. `last` is the last entry's index, before and after.
fn apply(transaction: &WriteTransaction, change: &Change, last: &mut u64) -> Result<(), redb::Error> {
    let mut log = transaction.open_table(LOG)?;
    if let Some(snapshot) = &change.snapshot {
        let end = snapshot.at.index.get();
        remove(&mut log, ..=end)?;
        if *last <= end {
            *last = 0;
        }
        transaction.open_table(SNAPSHOT)?.insert((), &*wire::snapshot_to_bytes(snapshot))?;
    }
    if let Some((from, entries)) = &change.tail {
        if from.get() <= *last {
            remove(&mut log, from.get()..)?;
            *last = log.last()?.map_or(0, |(index, _)| index.value());
        }
        for entry in entries {
            log.insert(entry.at.index.get(), &*wire::entry_to_bytes(entry))?;
            *last = entry.at.index.get();
        }
    }
    Ok(())
}

fn remove(log: &mut Table<'_, u64, &[u8]>, range: impl RangeBounds<u64>) -> Result<(), redb::Error> {
    Ok(log.retain_in(range, |_, _| false)?)
}

fn place(node: NodeId) -> u8 {
    u8::try_from(node.place()).expect("a member's place was made from eight bits")
}

fn random(path: &Path) -> Result<[u8; 16], StoreError> {
    let random = ring::rand::generate(&ring::rand::SystemRandom::new());
    let failed = |_| StoreError::io(path, "given an id", std::io::Error::other("no random numbers"));
    Ok(random.map_err(failed)?.expose())
}

fn keep(transaction: &WriteTransaction, known: &MemberRecords) -> Result<(), redb::Error> {
    for (table, known) in [(MEMBERS, &known.first), (NAMED, &known.named)] {
        if known.is_empty() {
            continue;
        }
        let mut members = transaction.open_table(table)?;
        for (node, record) in known {
            members.insert(place(*node), &*record_to_bytes(record))?;
        }
    }
    Ok(())
}

const RUN_BYTES: usize = 8 + 16 + 8;
const RECORD_BYTES: usize = 16 + RUN_BYTES + 8 + 1;

fn run_to_bytes(run: &Run) -> Vec<u8> {
    [&run.number.to_le_bytes()[..], run.id.as_bytes(), &run.began.0.to_le_bytes()].concat()
}

fn run_from_bytes(bytes: &[u8]) -> Option<Run> {
    let (number, rest) = bytes.split_first_chunk()?;
    let (id, began) = rest.split_first_chunk()?;
    let began = WriteCount(u64::from_le_bytes(began.try_into().ok()?));
    Some(Run { number: u64::from_le_bytes(*number), id: RunId::from_bytes(*id), began })
}

/// Directory, run, writes, and the flag for a mutual record.
fn record_to_bytes(record: &MemberRecord) -> Vec<u8> {
    let MemberRecord { identity, writes, mutual } = record;
    [
        identity.directory.as_bytes(),
        &*run_to_bytes(&identity.run),
        &writes.0.to_le_bytes(),
        &[u8::from(*mutual)],
    ]
    .concat()
}

fn record_from_bytes(bytes: &[u8]) -> Option<MemberRecord> {
    let bytes: &[u8; RECORD_BYTES] = bytes.try_into().ok()?;
    let (directory, rest) = bytes.split_first_chunk()?;
    let (run, rest) = rest.split_at(RUN_BYTES);
    let (writes, mutual) = rest.split_first_chunk()?;
    Some(MemberRecord {
        identity: Identity { directory: DirectoryId::from_bytes(*directory), run: run_from_bytes(run)? },
        writes: WriteCount(u64::from_le_bytes(*writes)),
        mutual: mutual == [1],
    })
}

fn voting_rights_to_bytes(voting_rights: VotingRights, why: &str) -> Vec<u8> {
    let kind = match voting_rights {
        VotingRights::Waiting => 0,
        VotingRights::Full => 1,
        VotingRights::Revoked => 2,
    };
    [&[kind], why.as_bytes()].concat()
}

fn voting_rights_from_bytes(bytes: &[u8]) -> Option<(VotingRights, String)> {
    let (kind, why) = bytes.split_first()?;
    let voting_rights = match kind {
        0 => VotingRights::Waiting,
        1 => VotingRights::Full,
        2 => VotingRights::Revoked,
        _ => return None,
    };
    Some((voting_rights, String::from_utf8_lossy(why).into_owned()))
}

/// An earlier version's record of a member: its directory.
fn met_before(directory: &[u8; 16]) -> MemberRecord {
    let run = Run { number: 0, id: RunId::from_bytes([0; 16]), began: WriteCount(0) };
    let directory = DirectoryId::from_bytes(*directory);
    MemberRecord::first(Identity { directory, run }, WriteCount::default())
}

impl Contents {
    /// Reads the whole database. Unreadable contents are `Corrupted`.
    fn read(database: &Database) -> Result<Self, redb::Error> {
        let transaction = database.begin_read()?;
        let identity = transaction.open_table(IDENTITY)?;
        let of = |key: &'static str| -> Result<Option<Vec<u8>>, redb::Error> {
            Ok(identity.get(key)?.map(|value| value.value().to_vec()))
        };
        let owner = of(OWNER)?.as_deref().and_then(Owner::from_bytes);
        let directory = of(DIRECTORY)?.and_then(|bytes| bytes.try_into().ok());
        let shortest = of(SHORTEST)?.map(|bytes| {
            let nanos = bytes.try_into().map_err(|_| corrupted("an election timeout of no known form"))?;
            Ok::<_, redb::Error>(Duration::from_nanos(u64::from_le_bytes(nanos)))
        });
        let mut known = MemberRecords::default();
        if let Some(met) = there(transaction.open_table(MET))? {
            for met in met.iter()? {
                let (node, directory) = met?;
                known.first.insert(NodeId::new(node.value()), met_before(directory.value()));
            }
        }
        for (table, known) in [(MEMBERS, &mut known.first), (NAMED, &mut known.named)] {
            let Some(members) = there(transaction.open_table(table))? else { continue };
            for member in members.iter()? {
                let (node, record) = member?;
                let record =
                    record_from_bytes(record.value()).ok_or_else(|| corrupted("an unreadable member"))?;
                known.insert(NodeId::new(node.value()), record);
            }
        }
        let run =
            of(RUN)?.map(|bytes| run_from_bytes(&bytes).ok_or_else(|| corrupted("an unreadable start")));
        let voting_rights = of(FRANCHISE)?.map(|bytes| {
            voting_rights_from_bytes(&bytes).ok_or_else(|| corrupted("unreadable voting rights"))
        });
        let (voting_rights, why) = voting_rights.transpose()?.unwrap_or_default();
        let state = transaction.open_table(STATE)?.get(())?.ok_or_else(|| corrupted("no term"))?;
        let (latest, term, vote) = state.value();
        let ballot = Ballot { term: Term::new(term), vote: vote.map(NodeId::new) };
        Ok(Self {
            owner: owner.ok_or_else(|| corrupted("no owner"))?,
            directory: DirectoryId::from_bytes(directory.ok_or_else(|| corrupted("no directory id"))?),
            shortest: shortest.transpose()?,
            known,
            run: run.transpose()?,
            voting_rights,
            revoked: (voting_rights == VotingRights::Revoked).then_some(why),
            latest: CommitNumber(latest),
            stored: Stored { ballot, snapshot: snapshot(&transaction)?, entries: entries(&transaction)? },
        })
    }
}

/// A table, unless no version that wrote this directory had it.
fn there<T>(opened: Result<T, redb::TableError>) -> Result<Option<T>, redb::Error> {
    match opened {
        Ok(table) => Ok(Some(table)),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn snapshot(transaction: &ReadTransaction) -> Result<Snapshot, redb::Error> {
    match transaction.open_table(SNAPSHOT)?.get(())? {
        Some(kept) => wire::snapshot_from_bytes(kept.value()).map_err(corrupted),
        None => Ok(Snapshot::none()),
    }
}

fn entries(transaction: &ReadTransaction) -> Result<Vec<Entry>, redb::Error> {
    let log = transaction.open_table(LOG)?;
    log.iter()?.map(|kept| wire::entry_from_bytes(kept?.1.value()).map_err(corrupted)).collect()
}

fn corrupted(why: impl fmt::Display) -> redb::Error {
    redb::Error::Corrupted(why.to_string())
}
