//! The queue of one election at one revision: its first key, and the places of our own keys. Pure.
//!
//! The order is that of etcd's own election: by `create_revision`, first come first served. One transaction
//! can create several keys at one revision. etcd's election has no order for those: each of their owners
//! waits only for keys with a *lower* revision, so both would claim. Here no key is first while another has
//! the same revision, whichever clients made the two.
//!
//! Everything under the prefix is in the queue, except the keys of another election whose name begins with
//! this one's and a slash (see [`keys::part_of`]). A key that is not a candidate's blocks every candidate
//! behind it, as in etcd's own election.
//!
//! Only the first [`ROOM`] keys are kept, and the watched keys: a program that fills the prefix does not fill
//! our memory. When the last of the kept keys is gone, and there are more, the queue has to be read again
//! ([`Want::Reading`]).

use std::collections::BTreeMap;

use etcd_client::KeyValue;

use super::keys::{self, KeyKind, LeaseId, Revision};
use crate::names::{ElectionName, displayed};

mod reading;

pub(crate) use self::reading::{PATIENCE, key_at, read, value_at};

/// Number of kept keys: as many as are ever listed. A thousand handoffs pass before more must be read.
pub(crate) const ROOM: usize = 1000;

/// A key's place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum QueuePlace {
    Absent,
    Behind(Key),
    First(Key),
}

/// Identity of an attempt's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) created: Revision,
    /// Unknown for a key that existed when the queue was read: from 3.7 on, etcd omits the lease if only keys
    /// are requested. It was ours when we put it.
    pub(crate) lease: Option<LeaseId>,
}

/// A key in the queue, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueEntry {
    pub(crate) key: Key,
    /// True if its name and its lease are those of a candidate of this election.
    pub(crate) candidate: bool,
    /// Its value, made displayable. Unknown for a key that existed when the queue was read.
    pub(crate) name: Option<String>,
}

impl QueueEntry {
    /// Creates an entry from an event or a read with values; `None` if the key is not part of this queue.
    pub(crate) fn of(election: &ElectionName, kv: &KeyValue) -> Option<Self> {
        let lease = LeaseId(kv.lease());
        let part = keys::part_of(election, kv.key(), Some((lease, kv.value())));
        let key = Key { created: Revision(kv.create_revision()), lease: Some(lease) };
        Self::new(part, key, Some(displayed(kv.value())))
    }

    /// Creates an entry from a read without values.
    fn of_key(election: &ElectionName, kv: &KeyValue) -> Option<Self> {
        let key = Key { created: Revision(kv.create_revision()), lease: None };
        Self::new(keys::part_of(election, kv.key(), None), key, None)
    }

    fn new(part: KeyKind, key: Key, name: Option<String>) -> Option<Self> {
        match part {
            KeyKind::Elsewhere => None,
            KeyKind::Candidate => Some(Self { key, candidate: true, name }),
            KeyKind::Foreign => Some(Self { key, candidate: false, name }),
        }
    }
}

/// The head of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head<'a> {
    Empty,
    /// All kept keys are gone, and there are more.
    Unread,
    Candidate {
        key: &'a [u8],
        entry: &'a QueueEntry,
    },
    /// A key that is not a candidate's, or one of several that were created at one revision.
    Blocked {
        key: &'a [u8],
        entry: &'a QueueEntry,
    },
}

/// Data to request from etcd before the head is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Want {
    /// The next keys.
    Reading,
    /// This key's lease and value at this revision, which decide whether it belongs here, and give the
    /// leader's name.
    Entry(Vec<u8>, Revision),
}

/// The keys of an election at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queue {
    at: Revision,
    near: BTreeMap<(Revision, Vec<u8>), QueueEntry>,
    created: BTreeMap<Vec<u8>, Revision>,
    /// All keys created up to here are kept; `None` if all are, whenever created.
    up_to: Option<Revision>,
    /// The watched keys, which may not be among the kept ones.
    far: BTreeMap<Vec<u8>, Option<Key>>,
    room: usize,
}

impl Queue {
    /// Creates a queue that was read whole.
    #[cfg(test)]
    pub(crate) fn read(at: Revision, entries: impl IntoIterator<Item = (Vec<u8>, QueueEntry)>) -> Self {
        Self::read_up_to(at, None, ROOM, entries)
    }

    /// Creates a queue of which all keys created up to a revision were read.
    fn read_up_to(
        at: Revision,
        up_to: Option<Revision>,
        room: usize,
        entries: impl IntoIterator<Item = (Vec<u8>, QueueEntry)>,
    ) -> Self {
        let (near, created, far) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut queue = Self { at, near, created, up_to, far, room };
        for (key, entry) in entries {
            queue.put(key, entry);
        }
        queue
    }

    /// Returns the queue's revision.
    pub(crate) fn at(&self) -> Revision {
        self.at
    }

    /// Watches a key from now on, which may lie behind the kept ones. If it does, `now` is etcd's answer for
    /// it at this queue's revision.
    pub(crate) fn track(&mut self, key: &[u8], now: Option<Key>) {
        let now = self.key(key).or(now);
        self.far.insert(key.to_vec(), now);
    }

    pub(crate) fn untrack(&mut self, key: &[u8]) {
        self.far.remove(key);
    }

    /// Returns whether a request is needed to know the place of a key.
    pub(crate) fn may_miss(&self, key: &[u8]) -> bool {
        self.up_to.is_some() && !self.created.contains_key(key) && !self.far.contains_key(key)
    }

    pub(crate) fn place(&self, key: &[u8]) -> QueuePlace {
        let mut near = self.near.iter();
        // All keys before a kept one are kept.
        if let Some(((created, first), entry)) = near.next()
            && first == key
        {
            let tied = near.next().is_some_and(|((next, _), _)| next == created);
            return if tied { QueuePlace::Behind(entry.key) } else { QueuePlace::First(entry.key) };
        }
        self.key(key).map_or(QueuePlace::Absent, QueuePlace::Behind)
    }

    fn key(&self, key: &[u8]) -> Option<Key> {
        match self.created.get(key) {
            Some(created) => self.near.get(&(*created, key.to_vec())).map(|entry| entry.key),
            None => self.far.get(key).copied().flatten(),
        }
    }

    pub(crate) fn head(&self) -> Head<'_> {
        let mut near = self.near.iter();
        let Some(((created, key), entry)) = near.next() else {
            return if self.up_to.is_none() { Head::Empty } else { Head::Unread };
        };
        let tied: Vec<_> = near.take_while(|((next, _), _)| next == created).collect();
        match tied.iter().find(|(_, tied)| !tied.candidate) {
            _ if !entry.candidate => Head::Blocked { key, entry },
            Some(((_, key), entry)) => Head::Blocked { key, entry },
            None if !tied.is_empty() => Head::Blocked { key, entry },
            None => Head::Candidate { key, entry },
        }
    }

    pub(crate) fn want(&self) -> Option<Want> {
        match self.head() {
            Head::Unread => Some(Want::Reading),
            Head::Blocked { key, entry } if entry.key.lease.is_none() => {
                Some(Want::Entry(key.to_vec(), self.at))
            }
            Head::Candidate { key, entry } if entry.name.is_none() => {
                Some(Want::Entry(key.to_vec(), self.at))
            }
            Head::Empty | Head::Candidate { .. } | Head::Blocked { .. } => None,
        }
    }

    /// Iterates over the kept keys, first come first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &QueueEntry)> {
        self.near.iter().map(|((_, key), entry)| (key.as_slice(), entry))
    }

    /// Returns the revisions of the kept keys, first come first, and of the watched ones behind them.
    pub(crate) fn revisions(&self) -> Vec<Revision> {
        let far = self.far.iter().filter(|(key, _)| !self.created.contains_key(*key));
        let mut far: Vec<_> = far.filter_map(|(_, key)| Some((*key)?.created)).collect();
        far.sort_unstable();
        self.near.keys().map(|(created, _)| *created).chain(far).collect()
    }

    /// Applies the change of one key; `false` if the queue was read after it.
    pub(crate) fn apply(&mut self, revision: Revision, key: &[u8], now: Option<QueueEntry>) -> bool {
        let known = self.entry(key) == now.as_ref() && self.key(key) == now.as_ref().map(|entry| entry.key);
        if revision < self.at || (revision == self.at && known) {
            return false;
        }
        self.at = revision;
        match now {
            Some(entry) => self.put(key.to_vec(), entry),
            None => self.delete(key),
        }
        true
    }

    /// Applies etcd's answer for one key; `false` if it is not the requested key.
    pub(crate) fn learned(&mut self, election: &ElectionName, key: &[u8], now: Option<&KeyValue>) -> bool {
        let known = self.created.get(key).map(|created| created.0);
        let Some(kv) = now.filter(|kv| Some(kv.create_revision()) == known) else { return false };
        match QueueEntry::of(election, kv) {
            Some(entry) => self.put(key.to_vec(), entry),
            None => self.delete(key),
        }
        true
    }

    fn entry(&self, key: &[u8]) -> Option<&QueueEntry> {
        let created = *self.created.get(key)?;
        self.near.get(&(created, key.to_vec()))
    }

    fn put(&mut self, key: Vec<u8>, entry: QueueEntry) {
        self.delete(&key);
        let created = entry.key.created;
        if let Some(far) = self.far.get_mut(&key) {
            *far = Some(entry.key);
        }
        if self.up_to.is_none_or(|up_to| created <= up_to) {
            self.created.insert(key.clone(), created);
            self.near.insert((created, key), entry);
            self.trim();
        }
    }

    /// Whole revisions only: the kept part must hold all that came before each of its keys.
    fn trim(&mut self) {
        while self.near.len() > self.room {
            let ends = (self.near.first_key_value(), self.near.last_key_value());
            let (Some((first, _)), Some((last, _))) = ends else { return };
            let last = last.0;
            if last == first.0 {
                return;
            }
            for (_, key) in self.near.split_off(&(last, Vec::new())).into_keys() {
                self.created.remove(&key);
            }
            self.up_to = Some(Revision(last.0 - 1));
        }
    }

    fn delete(&mut self, key: &[u8]) {
        if let Some(created) = self.created.remove(key) {
            self.near.remove(&(created, key.to_vec()));
        }
        if let Some(far) = self.far.get_mut(key) {
            *far = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(created: i64) -> Key {
        Key { created: Revision(created), lease: None }
    }

    fn entry(created: i64) -> QueueEntry {
        QueueEntry { key: key(created), candidate: true, name: None }
    }

    fn foreign(created: i64) -> QueueEntry {
        let key = Key { created: Revision(created), lease: Some(LeaseId(0)) };
        QueueEntry { key, candidate: false, name: None }
    }

    fn queue() -> Queue {
        Queue::read(Revision(20), [(b"b".to_vec(), entry(11)), (b"a".to_vec(), entry(12))])
    }

    #[test]
    fn the_first_key_is_the_oldest() {
        let mut queue = queue();
        assert_eq!(queue.place(b"b"), QueuePlace::First(key(11)));
        assert_eq!(queue.place(b"a"), QueuePlace::Behind(key(12)));
        assert!(queue.apply(Revision(21), b"b", None));
        assert_eq!(queue.place(b"a"), QueuePlace::First(key(12)));
        assert_eq!(queue.place(b"b"), QueuePlace::Absent);
    }

    #[test]
    fn contract_7_what_happened_before_the_read_changes_nothing() {
        let mut queue = queue();
        assert!(!queue.apply(Revision(19), b"b", None));
        assert_eq!(queue.place(b"b"), QueuePlace::First(key(11)));
    }

    #[test]
    fn a_key_made_anew_is_at_the_end() {
        let mut queue = queue();
        queue.apply(Revision(21), b"b", None);
        queue.apply(Revision(22), b"b", Some(entry(22)));
        assert_eq!(queue.place(b"a"), QueuePlace::First(key(12)));
        assert_eq!(queue.place(b"b"), QueuePlace::Behind(key(22)));
    }

    #[test]
    fn contract_1_of_two_keys_of_one_revision_neither_is_first() {
        let mut queue = Queue::read(Revision(20), []);
        assert!(queue.apply(Revision(21), b"x", Some(foreign(21))));
        assert!(queue.apply(Revision(21), b"y", Some(foreign(21))));
        queue.apply(Revision(22), b"own", Some(entry(22)));
        queue.apply(Revision(23), b"x", None);
        assert_eq!(queue.place(b"own"), QueuePlace::Behind(key(22)), "the other one is still before it");
        assert!(matches!(queue.head(), Head::Blocked { key: b"y", .. }));
        queue.apply(Revision(24), b"y", None);
        assert_eq!(queue.place(b"own"), QueuePlace::First(key(22)));

        let pair = [(b"a".to_vec(), entry(5)), (b"b".to_vec(), entry(5))];
        let queue = Queue::read(Revision(20), pair);
        assert_eq!([queue.place(b"a"), queue.place(b"b")], [QueuePlace::Behind(key(5)); 2]);
        assert!(matches!(queue.head(), Head::Blocked { key: b"a", .. }), "neither leads");
    }

    #[test]
    fn keys_beyond_the_room_are_read_when_their_turn_comes() {
        let all = (1..=5).map(|n: u8| (vec![n], entry(n.into())));
        let mut queue = Queue::read_up_to(Revision(5), None, 2, all);
        assert!(queue.may_miss(&[4]));
        queue.track(&[4], Some(key(4)));
        queue.track(&[2], None);
        assert_eq!(queue.place(&[4]), QueuePlace::Behind(key(4)));
        assert_eq!(queue.iter().count(), 2);
        assert_eq!(queue.revisions(), [1, 2, 4].map(Revision));
        queue.apply(Revision(6), &[1], None);
        queue.apply(Revision(7), &[3], None);
        queue.apply(Revision(8), &[2], None);
        assert_eq!((queue.head(), queue.want()), (Head::Unread, Some(Want::Reading)));
        assert_eq!(queue.place(&[4]), QueuePlace::Behind(key(4)), "not before it is known");
        queue.apply(Revision(9), &[4], None);
        assert_eq!(queue.place(&[4]), QueuePlace::Absent);
    }

    /// etcd's keys, each with the revision that made it.
    type Truth = BTreeMap<Vec<u8>, Revision>;

    fn first_in(truth: &Truth) -> Option<Revision> {
        truth.values().min().copied()
    }

    proptest! {
        /// Following events shows the same as reading at the end, with any room, and with several changes in
        /// one revision.
        #[test]
        fn contract_1_a_read_carried_on_is_as_good_as_a_read(
            events in prop::collection::vec((0..8u8, any::<bool>(), any::<bool>()), 0..60),
            read_after in 0..60usize,
            room in 1..6usize,
        ) {
            let mut truth = Truth::new();
            let mut followed: Option<Queue> = None;
            let mut revision = Revision(1);
            let mut in_this_one = Vec::new();
            for (turn, (name, put, same_revision)) in events.iter().enumerate() {
                let key = vec![*name];
                if !same_revision || in_this_one.contains(&key) {
                    revision = Revision(revision.0 + 1);
                    in_this_one.clear();
                    // A message of the watch has whole revisions, and is evaluated at its end.
                    if let Some(queue) = &mut followed {
                        if queue.want() == Some(Want::Reading) {
                            let at = queue.at();
                            *queue = reread(at, room, &truth);
                        }
                        shows(queue, &truth)?;
                    }
                    if turn >= read_after && followed.is_none() {
                        followed = Some(reread(Revision(revision.0 - 1), room, &truth));
                    }
                }
                in_this_one.push(key.clone());
                let change = match put {
                    true => Some(*truth.entry(key.clone()).or_insert(revision)),
                    // etcd makes no event of a deletion that deletes nothing.
                    false => match truth.remove(&key) {
                        Some(_) => None,
                        None => continue,
                    },
                };
                if let Some(queue) = &mut followed {
                    queue.apply(revision, &key, change.map(|created| entry(created.0)));
                }
            }
        }
    }

    fn reread(at: Revision, room: usize, truth: &Truth) -> Queue {
        let entries = truth.iter().map(|(key, created)| (key.clone(), entry(created.0)));
        let mut queue = Queue::read_up_to(at, None, room, entries);
        for name in 0..8u8 {
            let now = truth.get(&vec![name]).map(|created| Key { created: *created, lease: None });
            queue.track(&[name], now);
        }
        queue
    }

    fn shows(queue: &Queue, truth: &Truth) -> Result<(), TestCaseError> {
        for name in 0..8u8 {
            let first = truth.get(&vec![name]).is_some_and(|created| {
                let others = truth.iter().filter(|(other, _)| **other != [name]);
                others.into_iter().all(|(_, other)| other > created)
            });
            match (queue.place(&[name]), truth.get(&vec![name])) {
                (QueuePlace::Absent, None) => {}
                (QueuePlace::First(key), Some(created)) => prop_assert!(first && key.created == *created),
                (QueuePlace::Behind(key), Some(created)) => prop_assert!(!first && key.created == *created),
                (shown, known) => prop_assert!(false, "{shown:?}, and it is {known:?}"),
            }
        }
        match queue.head() {
            Head::Empty => prop_assert!(truth.is_empty()),
            Head::Unread => prop_assert!(false, "it was read again"),
            Head::Candidate { entry, .. } | Head::Blocked { entry, .. } => {
                prop_assert_eq!(Some(entry.key.created), first_in(truth));
            }
        }
        Ok(())
    }
}
