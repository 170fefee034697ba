//! The stored contents are those that were written, whatever happens to process, power, space and bytes.

mod crash;
mod damage;
mod medium;
mod refusal;

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use proptest::prelude::*;

use self::medium::Platter;
use super::*;
use crate::{
    choosing::{Cordon, OrderedBy, TransferReason},
    peers::{Group, Settings},
    raft::{
        identity::{Index, Position},
        log::{Log, Payload, Proclamation, TimeOfDay},
        membership::{MemberDisk, MemberDisks},
        orders::{ControlOrder, ElectionRecord, Farewell},
    },
};

fn owner(name: &str, election: &str, members: &[&str]) -> Owner {
    let list: Vec<_> = members.iter().enumerate().map(|(i, name)| format!("{name}=h:{}", i + 1)).collect();
    let group: Group = list.join(",").parse().unwrap();
    let settings = Settings::new(&name.parse().unwrap(), group, "unused").unwrap();
    Owner::of(&settings.with_election(election.parse().unwrap()))
}

fn us() -> Owner {
    owner("a", "leader", &["a", "b", "c"])
}

fn begin(platter: &Platter) -> Opened {
    Store::begin(platter.clone(), PathBuf::from("elect.db"), &us()).unwrap()
}

fn resume(platter: &Platter) -> Result<Opened, StoreError> {
    Store::resume(platter.clone(), PathBuf::from("elect.db"), &us())
}

/// A store in memory, and a function that fills its disk.
pub(in crate::peers) fn failing(owner: &Owner) -> (Store, impl FnOnce() + use<>) {
    let platter = Platter::default();
    let opened = Store::begin(platter.clone(), PathBuf::from("elect.db"), owner).unwrap();
    (opened.store, move || platter.fail_after(0, std::io::ErrorKind::StorageFull))
}

/// A node's log and ballot that change at random as a node's would, and the writes that follow.
#[derive(Debug)]
struct Author {
    log: Log,
    ballot: Ballot,
    number: u64,
    random: fastrand::Rng,
    /// The contents of a disk that carried out all writes.
    kept: Stored,
}

impl Author {
    fn new(seed: u64) -> Self {
        let log = Log::restored(Snapshot::none(), Vec::new()).unwrap();
        let (ballot, random) = (Ballot::default(), fastrand::Rng::with_seed(seed));
        Self { log, ballot, number: 0, random, kept: Stored::nothing() }
    }

    fn write(&mut self) -> Write {
        for _ in 0..self.random.u32(..3) {
            self.change();
        }
        if self.random.u32(..4) == 0 {
            let vote = self.random.bool().then(|| NodeId::new(self.random.u8(..3)));
            self.ballot = Ballot { term: self.ballot.term.max(self.log.last().term).next(), vote };
        }
        self.write_down()
    }

    fn write_down(&mut self) -> Write {
        self.number += 1;
        let write = Write::numbered(self.number, self.ballot, self.log.take_change());
        self.kept.apply(&write);
        write
    }

    /// A write of one record of that size, at the end.
    fn append(&mut self, bytes: usize) -> Write {
        let term = self.ballot.term.max(self.log.last().term).next();
        self.log.append(term, Payload::Record(Arc::from(vec![self.number as u8; bytes])));
        self.write_down()
    }

    fn change(&mut self) {
        let (first, last) = (self.log.snapshot().at.index, self.log.last());
        let term = self.ballot.term.max(last.term).next();
        self.ballot = Ballot { term, vote: self.ballot.vote };
        match self.random.u32(..10) {
            0..5 => {
                for _ in 0..self.random.u32(1..6) {
                    let payload = self.payload();
                    self.log.append(term, payload);
                }
            }
            5..7 => {
                // A leader's entries replace some of its own.
                let kept = Index::new(self.random.u64(first.get()..=last.index.get()));
                let previous = Position { term: self.log.term_at(kept).unwrap(), index: kept };
                let count = self.random.usize(1..4);
                let entry = |author: &mut Self, ahead: usize| {
                    let at = Position { term, index: kept.plus(ahead + 1) };
                    Entry { at, payload: author.payload() }
                };
                let entries: Vec<_> = (0..count).map(|ahead| entry(self, ahead)).collect();
                self.log.accept(previous, &entries, first).unwrap();
            }
            7..9 => {
                let index = Index::new(self.random.u64(first.get()..=last.index.get()));
                let data = self.bytes(300);
                self.log.compact(index, data);
            }
            _ => {
                let at = Position { term, index: first.plus(self.random.usize(1..12)) };
                let data = self.bytes(6000);
                let disks = self.log.disks().map(|(at, disks)| (at, disks.clone()));
                let record = ElectionRecord { orders: self.log.orders().clone(), terms: Vec::new() };
                self.log.install(Snapshot { at, data, disks, record });
            }
        }
    }

    fn payload(&mut self) -> Payload {
        match self.random.u32(..8) {
            0 => {
                let (who, value) = (NodeId::new(self.random.u8(..3)), self.bytes(20));
                let (since, reason) = (TimeOfDay(self.random.u64(..)), Some(TransferReason::Priority));
                let farewell = self.random.bool().then_some(Farewell { at: since, reason });
                Payload::Leadership(Proclamation { who, value, since, address: None, farewell })
            }
            1 => Payload::Record(self.bytes(5000)),
            2 => {
                let directory = DirectoryId::from_bytes(self.random.u128(..).to_be_bytes());
                let disk =
                    [MemberDisk::Founding, MemberDisk::Voting, MemberDisk::Incoming][self.random.usize(..3)];
                Payload::Disks(MemberDisks::of((0..3).map(|_| disk(directory))))
            }
            3 => {
                let by = OrderedBy::new("ann@host".to_owned(), SystemTime::UNIX_EPOCH);
                let (member, hard) = (NodeId::new(self.random.u8(..3)), self.random.bool());
                let change = ControlOrder::Cordon { member, cordon: Cordon::new(hard, by) };
                Payload::Controls(self.log.orders().with(change))
            }
            _ => Payload::Record(self.bytes(40)),
        }
    }

    fn bytes(&mut self, most: usize) -> Arc<[u8]> {
        let len = self.random.usize(..most);
        std::iter::repeat_with(|| self.random.u8(..)).take(len).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Closed or killed, opened again or not, in batches or one by one.
    #[test]
    fn a_store_has_what_a_storage_in_memory_has(seed: u64, steps in prop::collection::vec((1..4usize, 0..4u8), 1..30)) {
        let platter = Platter::default();
        let mut author = Author::new(seed);
        let mut store = begin(&platter).store;
        let (mut shortest, mut met) = (None, MemberRecords::default());
        for (count, then) in steps {
            let writes: Vec<_> = (0..count).map(|_| author.write()).collect();
            store.write(&writes, &MemberRecords::default()).unwrap();
            let opened = match then {
                // Closed.
                0 => {
                    drop(store);
                    resume(&platter).unwrap()
                }
                // Killed: without the work of a close.
                1 => {
                    let killed = Platter::with(platter.bytes());
                    prop_assert_eq!(&resume(&killed).unwrap().stored, &author.kept);
                    continue;
                }
                2 => {
                    let duration = Duration::from_nanos(author.random.u64(..));
                    store.begin_run(duration, false).unwrap();
                    shortest = Some(duration);
                    continue;
                }
                _ => {
                    let (node, record) = (NodeId::new(author.random.u8(..3)), record(&mut author.random));
                    let entrance = if author.random.bool() { Admission::First } else { Admission::Named };
                    store.keep_met(node, record, entrance, VotingRights::Waiting).unwrap();
                    met.keep(node, record, entrance);
                    continue;
                }
            };
            prop_assert_eq!(&opened.stored, &author.kept);
            prop_assert_eq!(opened.store.known(), &met);
            prop_assert_eq!(opened.previous_shortest, shortest);
            store = opened.store;
        }
        drop(store);
        prop_assert_eq!(resume(&platter).unwrap().stored, author.kept);
    }
}

fn record(random: &mut fastrand::Rng) -> MemberRecord {
    let mut id = || random.u128(..).to_be_bytes();
    let (directory, run) = (DirectoryId::from_bytes(id()), RunId::from_bytes(id()));
    let identity = Identity {
        directory,
        run: Run { number: random.u64(..), id: run, began: WriteCount(random.u64(..)) },
    };
    MemberRecord { identity, writes: WriteCount(random.u64(..)), mutual: random.bool() }
}

#[test]
fn each_start_is_counted_and_has_an_id_and_writes_are_counted_through() {
    let platter = Platter::default();
    let mut opened = begin(&platter);
    let mut runs = Vec::new();
    for _ in 0..3 {
        let before = opened.store.writes();
        runs.push(opened.store.begin_run(Duration::from_millis(250), false).unwrap());
        assert!(opened.store.writes() > before);
        let writes = opened.store.writes();
        drop(opened);
        opened = resume(&platter).unwrap();
        assert_eq!(opened.store.writes(), writes);
    }
    assert_eq!(runs.iter().map(|run| run.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(runs[0].id != runs[1].id && runs[1].id != runs[2].id);
}

#[test]
fn the_right_to_vote_is_kept_and_a_directory_that_lost_it_is_not_opened() {
    let platter = Platter::default();
    let mut random = fastrand::Rng::with_seed(1);
    let mut store = begin(&platter).store;
    store.begin_run(Duration::from_millis(250), false).unwrap();
    drop(store);
    let mut opened = resume(&platter).unwrap();
    assert_eq!(opened.store.voting_rights(), VotingRights::Waiting);
    opened.store.keep_met(NodeId::new(1), record(&mut random), Admission::First, VotingRights::Full).unwrap();
    drop(opened);
    let mut opened = resume(&platter).unwrap();
    assert_eq!(opened.store.voting_rights(), VotingRights::Full);
    opened.store.revoke("'b' says that it is a copy").unwrap();
    drop(opened);
    let refused = resume(&platter).unwrap_err();
    assert!(matches!(refused, StoreError::Revoked { .. }));
    assert!(refused.to_string().contains("as 'b' says that it is a copy"), "{refused}");
}

/// A directory of a version that did not count starts: as it is here before the first one.
#[test]
fn a_directory_of_an_earlier_version_votes_if_there_is_anything_in_its_log() {
    for (entries, voting_rights) in [(0, VotingRights::Waiting), (1, VotingRights::Full)] {
        let platter = Platter::default();
        let mut store = begin(&platter).store;
        let mut author = Author::new(1);
        (0..entries).for_each(|_| store.write(&[author.append(10)], &MemberRecords::default()).unwrap());
        drop(store);
        let mut opened = resume(&platter).unwrap();
        assert_eq!(opened.store.voting_rights(), voting_rights);
        opened.store.begin_run(Duration::from_millis(250), false).unwrap();
        opened.store.write(&[author.append(10)], &MemberRecords::default()).unwrap();
        drop(opened);
        assert_eq!(
            resume(&platter).unwrap().store.voting_rights(),
            voting_rights,
            "what a leader sent later makes no difference"
        );
    }
}

#[test]
fn a_directory_keeps_its_id_and_another_one_has_another() {
    let one = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let id = |directory: &tempfile::TempDir| Store::open(directory.path(), &us()).unwrap().directory;
    let first = id(&one);
    assert_eq!(id(&one), first);
    assert_ne!(id(&other), first);
    assert_eq!(DirectoryId::from_bytes(*first.as_bytes()), first);
}

#[test]
fn a_write_costs_one_sync() {
    let platter = Platter::default();
    let mut store = begin(&platter).store;
    let mut author = Author::new(7);
    for _ in 0..200 {
        let writes: Vec<_> = (0..3).map(|_| author.write()).collect();
        let (before, length) = (platter.syncs(), platter.bytes().len());
        store.write(&writes, &MemberRecords::default()).unwrap();
        // A second one if the file has grown.
        let grew = u64::from(platter.bytes().len() > length);
        assert_eq!(platter.syncs(), before + 1 + grew);
    }
}

#[test]
fn nothing_to_write_costs_nothing() {
    let platter = Platter::default();
    let mut store = begin(&platter).store;
    let before = platter.syncs();
    store.write(&[], &MemberRecords::default()).unwrap();
    assert_eq!(platter.syncs(), before);
}

/// A snapshot every few thousand entries, as the driver makes them.
#[test]
fn a_log_that_is_compacted_does_not_grow() {
    const EVERY: u64 = 4096;
    let platter = Platter::default();
    let mut store = begin(&platter).store;
    let mut log = Log::restored(Snapshot::none(), Vec::new()).unwrap();
    let ballot = Ballot { term: Term::new(1), vote: None };
    let record: Arc<[u8]> = Arc::from([7; 24]);
    let mut largest = Vec::new();
    for number in 1..=200_000 / 256 {
        for _ in 0..256 {
            log.append(ballot.term, Payload::Record(Arc::clone(&record)));
        }
        let last = log.last().index;
        if last.get().is_multiple_of(EVERY) {
            log.compact(last, Arc::from([1; 2000])).unwrap();
        }
        store
            .write(&[Write::numbered(number, ballot, log.take_change())], &MemberRecords::default())
            .unwrap();
        if last.get().is_multiple_of(EVERY) {
            largest.push(platter.len());
        }
    }
    let (early, late) = largest.split_at(8);
    assert!(late.iter().max() <= early.iter().max(), "sizes of the file: {largest:?}");
}
