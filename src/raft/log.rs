//! The replicated log: entries after a snapshot.
//!
//! ```text
//!     snapshot        entries
//!   ├───────────┤ 8  9  10  11  12
//!   1 … 7         └──── last = 12
//! ```
//!
//! Invariants, asserted where they could break:
//!
//! * Indexes are consecutive, from the snapshot's next one on.
//! * Terms never fall from one entry to the next.
//! * Nothing at or before the snapshot's end changes: it was committed.
//!
//! The log remembers its changes since the last [`Change`] was taken, so a step writes once, however often it
//! touched the log. It knows nothing of disks, majorities or commits.

use std::sync::Arc;

use super::{
    identity::{Index, Members, NodeId, Position, Term},
    membership::{MemberDisk, MemberDisks},
    orders::{ElectionRecord, Farewell, StandingOrders, TermStart, add_term},
};

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) at: Position,
    pub(crate) payload: Payload,
}

impl Entry {
    /// Returns true if all that it names is of these members.
    pub(crate) fn is_of(&self, members: Members) -> bool {
        match &self.payload {
            Payload::Disks(disks) => disks.all().len() == members.count(),
            Payload::Controls(orders) => orders.is_of(members),
            Payload::Leadership(announcement) => {
                members.contains(announcement.who)
                    && announcement.farewell.as_ref().is_none_or(Farewell::fits)
                    && announcement.address.as_ref().is_none_or(|address| address.len() <= LONGEST_ADDRESS)
            }
            Payload::Record(_) => true,
        }
    }

    /// The term that it begins, or goes on with.
    fn term_start(&self) -> Option<TermStart> {
        match &self.payload {
            Payload::Leadership(Proclamation { who, since, farewell, .. }) => {
                let (who, since, farewell) = (*who, *since, farewell.clone());
                Some(TermStart { term: self.at.term, who, since, farewell })
            }
            Payload::Record(_) | Payload::Disks(_) | Payload::Controls(_) => None,
        }
    }
}

/// Longest address of a candidate, in bytes.
pub(crate) const LONGEST_ADDRESS: usize = 1024;

/// Contents of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Payload {
    /// The leader from this term on. The first entry of each term, and again for a new value.
    ///
    /// As the first entry it is also the one whose commit proves the win, and with it everything
    /// before (§8, the no-op).
    Leadership(Proclamation),
    /// A user's record.
    Record(Arc<[u8]>),
    /// The disks that count from here on, in place of any named before.
    Disks(MemberDisks),
    /// The operators' standing orders from here on, in place of any before.
    Controls(StandingOrders),
}

impl Payload {
    /// Size, for the bounds of a message.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Leadership(announcement) => announcement.value.len(),
            Self::Record(bytes) => bytes.len(),
            Self::Disks(disks) => std::mem::size_of_val(disks.all()),
            Self::Controls(orders) => orders.bytes(),
        }
    }
}

/// The leader's announcement.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Proclamation {
    pub(crate) who: NodeId,
    pub(crate) value: Arc<[u8]>,
    pub(crate) since: TimeOfDay,
    /// The address that the leader's candidate gives.
    pub(crate) address: Option<Arc<str>>,
    /// The last word of the leader before. Only in a term's first entry.
    pub(crate) farewell: Option<Farewell>,
}

/// Milliseconds since 1970, by a leader's wall clock. Only ever printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TimeOfDay(pub(crate) u64);

/// State in place of all entries up to one (§7).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Snapshot {
    /// The last entry that it replaces.
    pub(crate) at: Position,
    pub(crate) data: Arc<[u8]>,
    /// The disks that count there, if one was ever replaced.
    pub(crate) disks: Option<(Index, MemberDisks)>,
    pub(crate) record: ElectionRecord,
}

impl Snapshot {
    /// Returns true if all that it names is of these members, and the disks by an entry that it replaces.
    pub(crate) fn is_of(&self, members: Members) -> bool {
        let fits = |(at, disks): &(Index, MemberDisks)| {
            disks.all().len() == members.count() && (Index::new(1)..=self.at.index).contains(at)
        };
        self.disks.as_ref().is_none_or(fits) && self.record.is_of(members, self.at.term)
    }
}

/// The state applied up to an entry, to replace it and all before.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Compacted {
    pub(crate) at: Position,
    pub(crate) data: Arc<[u8]>,
}

impl Snapshot {
    /// The snapshot of a log from which nothing was dropped.
    pub(crate) fn none() -> Self {
        let (at, data, record) = (Position::START, Arc::from([]), ElectionRecord::default());
        Self { at, data, disks: None, record }
    }
}

/// The point at which a follower's log departs from the leader's, so that the leader can skip a whole term at a
/// time (§5.3, the last paragraphs but one).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Conflict {
    /// The term of the follower's entry there; `None` if its log ends before.
    pub(crate) term: Option<Term>,
    /// The first entry of that term; without one, the first that the log lacks.
    pub(crate) first: Index,
}

/// The result of taking a leader's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// The log equals the leader's up to here.
    pub(crate) matched: Index,
    /// The last entry that was kept, if others had to go.
    pub(crate) cut: Option<Index>,
}

/// Reason for refusing entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// They don't continue this log (AppendEntries, rule 2 of Figure 2).
    Conflict(Conflict),
    /// They would replace committed ones: no leader sends that.
    Committed,
}

/// The changes that a disk needs to hold the log as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Change {
    /// Replace the snapshot by this one, and drop the entries up to its end.
    pub(crate) snapshot: Option<Snapshot>,
    /// Drop all entries from here on, then append these.
    pub(crate) tail: Option<(Index, Vec<Entry>)>,
}

/// The log in memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Log {
    snapshot: Snapshot,
    entries: Vec<Entry>,
    /// Entries after the snapshot that name the disks that count.
    disk_entries: Vec<(Index, MemberDisks)>,
    /// Entries after the snapshot with standing orders.
    order_entries: Vec<(Index, StandingOrders)>,
    /// The first entry that changed since the last [`Change`].
    changed: Option<Index>,
    snapshot_changed: bool,
}

impl Log {
    /// The log that was read from a disk; `None` if no server can have written it.
    pub(crate) fn restored(snapshot: Snapshot, entries: Vec<Entry>) -> Option<Self> {
        let starts = entries.first().is_none_or(|first| follows(snapshot.at, first.at));
        let runs = entries.windows(2).all(|pair| follows(pair[0].at, pair[1].at));
        let disk_entries = entries.iter().filter_map(seats_of).collect();
        let order_entries = entries.iter().filter_map(orders_of).collect();
        let (changed, snapshot_changed) = (None, false);
        let log = Self { snapshot, entries, disk_entries, order_entries, changed, snapshot_changed };
        (starts && runs).then_some(log)
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Entries after the snapshot.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn last(&self) -> Position {
        self.entries.last().map_or(self.snapshot.at, |entry| entry.at)
    }

    /// The disks that count by this log, and the entry that names them; `None` if they are the first ones that were
    /// met.
    pub(crate) fn disks(&self) -> Option<(Index, &MemberDisks)> {
        let last = self.disk_entries.last().or(self.snapshot.disks.as_ref());
        last.map(|(at, disks)| (*at, disks))
    }

    /// The same as of an entry at or after the snapshot's end.
    pub(crate) fn disks_at(&self, index: Index) -> Option<&(Index, MemberDisks)> {
        let end = self.disk_entries.partition_point(|(at, _)| *at <= index);
        self.disk_entries[..end].last().or(self.snapshot.disks.as_ref())
    }

    /// The standing orders by this log.
    pub(crate) fn orders(&self) -> &StandingOrders {
        self.order_entries.last().map_or(&self.snapshot.record.orders, |(_, orders)| orders)
    }

    /// The same as of an entry at or after the snapshot's end.
    pub(crate) fn orders_at(&self, index: Index) -> &StandingOrders {
        let end = self.order_entries.partition_point(|(at, _)| *at <= index);
        self.order_entries[..end].last().map_or(&self.snapshot.record.orders, |(_, orders)| orders)
    }

    /// The last terms whose first entries are at or before that index, in order.
    pub(crate) fn terms_at(&self, index: Index) -> Vec<TermStart> {
        let mut terms = self.snapshot.record.terms.clone();
        let within = self.entries.iter().take_while(|entry| entry.at.index <= index);
        within.filter_map(Entry::term_start).for_each(|start| add_term(&mut terms, start));
        terms
    }

    /// One member's disk by this log, and the entry that names it.
    pub(crate) fn disk(&self, node: NodeId) -> Option<(MemberDisk, Index)> {
        let (at, disks) = self.disks()?;
        Some((disks.disk(node)?, at))
    }

    /// The term of the entry there; `None` if it is compacted away or not there yet.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.snapshot.at.index {
            return Some(self.snapshot.at.term);
        }
        self.get(index).map(|entry| entry.at.term)
    }

    fn get(&self, index: Index) -> Option<&Entry> {
        let place = index.after(self.snapshot.at.index).checked_sub(1)?;
        self.entries.get(place)
    }

    /// The entries of `from..=to` that are in memory, as far as a message has room.
    pub(crate) fn slice(&self, from: Index, to: Index, entries: usize, bytes: usize) -> &[Entry] {
        let start = from.after(self.snapshot.at.index).saturating_sub(1).min(self.entries.len());
        let end = to.after(self.snapshot.at.index).clamp(start, self.entries.len());
        let mut room = bytes;
        let fit = self.entries[start..end]
            .iter()
            .take(entries)
            .take_while(|entry| {
                let fits = entry.payload.bytes() <= room;
                room = room.saturating_sub(entry.payload.bytes());
                fits
            })
            .count();
        &self.entries[start..start + fit]
    }

    /// Appends as a leader does: at the end, in its own term.
    pub(crate) fn append(&mut self, term: Term, payload: Payload) -> Position {
        let at = Position { term, index: self.last().index.next() };
        self.push(Entry { at, payload });
        at
    }

    fn push(&mut self, entry: Entry) {
        assert!(follows(self.last(), entry.at), "{} can't follow {}", entry.at, self.last());
        self.changed.get_or_insert(entry.at.index);
        self.disk_entries.extend(seats_of(&entry));
        self.order_entries.extend(orders_of(&entry));
        self.entries.push(entry);
    }

    /// Takes entries as a follower does (AppendEntries, rules 2 to 4 of Figure 2).
    ///
    /// Entry by entry: present ones stay, so that a late message can't shorten the log.
    pub(crate) fn accept(
        &mut self,
        previous: Position,
        entries: &[Entry],
        committed: Index,
    ) -> Result<Accepted, Unfit> {
        self.check(previous)?;
        let matched = previous.index.plus(entries.len());
        let known = |entry: &&Entry| {
            entry.at.index <= self.snapshot.at.index || self.term_at(entry.at.index) == Some(entry.at.term)
        };
        let new = &entries[entries.iter().take_while(known).count()..];
        let Some(first) = new.first() else {
            return Ok(Accepted { matched, cut: None });
        };
        if first.at.index <= committed {
            return Err(Unfit::Committed);
        }
        let kept = first.at.index.previous();
        let before = self.term_at(kept).map(|term| Position { term, index: kept });
        if !before.is_some_and(|before| follows(before, first.at)) {
            return Err(Unfit::Committed); // It departs from this log before the snapshot's end.
        }
        let cut = (kept < self.last().index).then(|| self.cut_after(kept));
        new.iter().cloned().for_each(|entry| self.push(entry));
        Ok(Accepted { matched, cut })
    }

    fn check(&self, previous: Position) -> Result<(), Unfit> {
        if previous.index < self.snapshot.at.index {
            return Ok(()); // Committed, so the leader has it too.
        }
        match self.term_at(previous.index) {
            Some(term) if term == previous.term => Ok(()),
            Some(term) => {
                let first = self.entries.partition_point(|entry| entry.at.term < term);
                let first = self.snapshot.at.index.plus(first + 1);
                Err(Unfit::Conflict(Conflict { term: Some(term), first }))
            }
            None => Err(Unfit::Conflict(Conflict { term: None, first: self.last().index.next() })),
        }
    }

    /// The index after which a leader goes on after a conflict: behind its own last entry of the follower's term, or at the start
    /// of the follower's term.
    pub(crate) fn resume_after(&self, conflict: Conflict) -> Index {
        let Some(term) = conflict.term else { return conflict.first };
        let end = self.entries.partition_point(|entry| entry.at.term <= term);
        match end.checked_sub(1).map(|place| self.entries[place].at) {
            Some(last) if last.term == term => last.index.next(),
            _ => conflict.first,
        }
    }

    fn cut_after(&mut self, kept: Index) -> Index {
        let len = kept.after(self.snapshot.at.index);
        debug_assert!(kept >= self.snapshot.at.index, "a snapshot is never cut");
        self.entries.truncate(len);
        self.disk_entries.retain(|(at, _)| *at <= kept);
        self.order_entries.retain(|(at, _)| *at <= kept);
        self.changed = Some(self.changed.map_or(kept.next(), |changed| changed.min(kept.next())));
        kept
    }

    /// Replaces all up to `index` by a snapshot of `data`; `None` if that entry is not in memory.
    pub(crate) fn compact(&mut self, index: Index, data: Arc<[u8]>) -> Option<()> {
        if index <= self.snapshot.at.index {
            return None;
        }
        let at = self.get(index)?.at;
        let disks = self.disks_at(index).cloned();
        let record = ElectionRecord { orders: self.orders_at(index).clone(), terms: self.terms_at(index) };
        self.replace(Snapshot { at, data, disks, record });
        Some(())
    }

    /// Takes a leader's snapshot (InstallSnapshot, rules 5 to 7 of Figure 13). Returns the last entry that was
    /// kept, if others had to go.
    pub(crate) fn install(&mut self, snapshot: Snapshot) -> Option<Index> {
        assert!(snapshot.at.index > self.snapshot.at.index, "a snapshot never goes back");
        let continues = self.term_at(snapshot.at.index) == Some(snapshot.at.term);
        let before = self.snapshot.at.index;
        if !continues {
            self.cut_after(before);
        }
        self.replace(snapshot);
        if continues {
            return None;
        }
        // Entries that the disk still has behind the snapshot go too.
        self.changed = Some(self.snapshot.at.index.next());
        Some(before)
    }

    fn replace(&mut self, snapshot: Snapshot) {
        let dropped = snapshot.at.index.after(self.snapshot.at.index).min(self.entries.len());
        self.entries.drain(..dropped);
        self.disk_entries.retain(|(at, _)| *at > snapshot.at.index);
        self.order_entries.retain(|(at, _)| *at > snapshot.at.index);
        self.changed = self.changed.map(|changed| changed.max(snapshot.at.index.next()));
        self.snapshot = snapshot;
        self.snapshot_changed = true;
    }

    /// The changes since the last call.
    pub(crate) fn take_change(&mut self) -> Option<Change> {
        let snapshot = std::mem::take(&mut self.snapshot_changed).then(|| self.snapshot.clone());
        let tail = self.changed.take().map(|from| {
            let start = from.after(self.snapshot.at.index).saturating_sub(1);
            (from, self.entries[start..].to_vec())
        });
        (snapshot.is_some() || tail.is_some()).then_some(Change { snapshot, tail })
    }
}

fn seats_of(entry: &Entry) -> Option<(Index, MemberDisks)> {
    match &entry.payload {
        Payload::Disks(disks) => Some((entry.at.index, disks.clone())),
        Payload::Leadership(_) | Payload::Record(_) | Payload::Controls(_) => None,
    }
}

fn orders_of(entry: &Entry) -> Option<(Index, StandingOrders)> {
    match &entry.payload {
        Payload::Controls(orders) => Some((entry.at.index, orders.clone())),
        Payload::Leadership(_) | Payload::Record(_) | Payload::Disks(_) => None,
    }
}

/// Returns true if `next` can come right behind `before`.
pub(crate) fn follows(before: Position, next: Position) -> bool {
    next.index == before.index.next() && next.term >= before.term && next.term > Term::ZERO
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(index: u64, term: u64) -> Position {
        Position { term: Term::new(term), index: Index::new(index) }
    }

    fn entries(from: u64, terms: &[u64]) -> Vec<Entry> {
        let record = |(place, term): (usize, &u64)| Entry {
            at: at(from + place as u64, *term),
            payload: Payload::Record(Arc::from(term.to_be_bytes())),
        };
        terms.iter().enumerate().map(record).collect()
    }

    fn log(terms: &[u64]) -> Log {
        Log::restored(Snapshot::none(), entries(1, terms)).unwrap()
    }

    fn terms(log: &Log) -> Vec<u64> {
        log.entries().iter().map(|entry| entry.at.term.get()).collect()
    }

    /// The fourth seed's question: the previous entry fits, the first new one is there already, and the second
    /// differs from the log's. It can happen.
    #[test]
    fn seed_4_entries_that_fit_at_first_and_differ_later_replace_only_what_differs() {
        let mut log = log(&[1, 1, 2, 2, 2]);
        let sent = entries(3, &[2, 3]);
        let accepted = log.accept(at(2, 1), &sent, Index::new(2)).unwrap();
        assert_eq!(accepted, Accepted { matched: Index::new(4), cut: Some(Index::new(3)) });
        assert_eq!(terms(&log), [1, 1, 2, 3]);
        assert_eq!(log.take_change().unwrap().tail, Some((Index::new(4), entries(4, &[3]))));
    }

    #[test]
    fn a_late_message_does_not_shorten_the_log() {
        let mut log = log(&[1, 1, 1]);
        let accepted = log.accept(at(0, 0), &entries(1, &[1]), Index::ZERO).unwrap();
        assert_eq!(accepted, Accepted { matched: Index::new(1), cut: None });
        assert_eq!(log.last(), at(3, 1));
        assert_eq!(log.take_change(), None);
    }

    #[test]
    fn what_is_committed_is_never_replaced() {
        let mut log = log(&[1, 1, 1]);
        let sent = entries(2, &[2]);
        assert_eq!(log.accept(at(1, 1), &sent, Index::new(2)), Err(Unfit::Committed));
        assert_eq!(terms(&log), [1, 1, 1]);
    }

    #[test]
    fn a_conflict_names_the_first_entry_of_its_term() {
        let log = log(&[1, 1, 2, 2, 2]);
        let conflict = Conflict { term: Some(Term::new(2)), first: Index::new(3) };
        assert_eq!(log.check(at(5, 4)), Err(Unfit::Conflict(conflict)));
        let short = Conflict { term: None, first: Index::new(6) };
        assert_eq!(log.check(at(9, 4)), Err(Unfit::Conflict(short)));
    }

    #[test]
    fn a_leader_resumes_behind_its_own_last_entry_of_the_followers_term() {
        let leader = log(&[1, 1, 2, 4, 4]);
        let conflict = |term, first| Conflict { term: Some(Term::new(term)), first: Index::new(first) };
        assert_eq!(leader.resume_after(conflict(2, 3)), Index::new(4));
        assert_eq!(leader.resume_after(conflict(3, 3)), Index::new(3), "it has nothing of term 3");
        assert_eq!(leader.resume_after(Conflict { term: None, first: Index::new(2) }), Index::new(2));
    }

    #[test]
    fn a_compacted_log_still_knows_where_its_snapshot_ends() {
        let mut log = log(&[1, 1, 2]);
        log.compact(Index::new(2), Arc::from([7])).unwrap();
        assert_eq!(log.term_at(Index::new(2)), Some(Term::new(1)));
        assert_eq!(log.term_at(Index::new(1)), None);
        assert_eq!(log.compact(Index::new(2), Arc::from([])), None, "it is compacted that far");
        let change = log.take_change().unwrap();
        assert_eq!((change.snapshot.unwrap().at, change.tail), (at(2, 1), None));
        // A leader that does not know of the compaction starts before it.
        let accepted = log.accept(at(0, 0), &entries(1, &[1, 1, 2, 2]), Index::new(2)).unwrap();
        assert_eq!(accepted.matched, Index::new(4));
        assert_eq!(terms(&log), [2, 2]);
    }

    #[test]
    fn a_snapshot_keeps_what_continues_it_and_drops_what_does_not() {
        let snapshot =
            Snapshot { at: at(2, 1), data: Arc::from([]), disks: None, record: ElectionRecord::default() };
        let mut continued = log(&[1, 1, 1]);
        assert_eq!(continued.install(snapshot.clone()), None);
        assert_eq!(continued.last(), at(3, 1));

        let mut other = log(&[1, 3, 3]);
        assert_eq!(other.install(snapshot), Some(Index::ZERO));
        assert_eq!(other.last(), at(2, 1));
        assert_eq!(other.take_change().unwrap().tail, Some((Index::new(3), vec![])));
    }

    #[test]
    fn a_log_with_a_gap_is_not_restored() {
        let mut gap = entries(1, &[1, 1, 1]);
        gap.remove(1);
        assert_eq!(Log::restored(Snapshot::none(), gap), None);
        assert_eq!(Log::restored(Snapshot::none(), entries(1, &[2, 1])), None, "terms never fall");
        assert_eq!(Log::restored(Snapshot::none(), entries(2, &[1])), None, "it starts at 1");
    }

    #[test]
    fn a_slice_stops_at_the_bounds_of_a_message() {
        let log = log(&[1; 10]);
        let slice = |entries, bytes| log.slice(Index::new(3), Index::new(9), entries, bytes).len();
        assert_eq!(slice(100, 1000), 7);
        assert_eq!(slice(2, 1000), 2);
        assert_eq!(slice(100, 8 * 3), 3);
        assert_eq!(slice(100, 0), 0);
    }

    fn rising() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(0..3u64, 0..12).prop_map(|steps| {
            let mut term = 1;
            let next = |step: u64| {
                term += step.saturating_sub(1);
                term
            };
            steps.into_iter().map(next).collect()
        })
    }

    proptest! {
        /// From any starting point, following the hints ends in equal logs, and each hint skips at least one term
        /// of the follower's.
        #[test]
        fn conflicts_are_backed_up_by_term(shared in rising(), mine in rising(), theirs in rising()) {
            // Entries of one term are the same everywhere only if all before are. So behind the shared part the
            // terms of one log are even, of the other odd.
            let base = 2 * shared.last().copied().unwrap_or(0);
            let with = |tail: &[u64], odd: u64| -> Vec<u64> {
                let shared = shared.iter().map(|term| 2 * term);
                shared.chain(tail.iter().map(|term| base + 2 * term + odd)).collect()
            };
            let (mut mine, theirs) = (with(&mine, 0), with(&theirs, 1));
            mine.push(base + 100);
            let leader = log(&mine);
            let mut follower = log(&theirs);

            let mut next = leader.last().index.next();
            let mut rejections = 0;
            loop {
                let previous = next.previous();
                let previous = Position { term: leader.term_at(previous).unwrap(), index: previous };
                let rest = leader.slice(next, leader.last().index, usize::MAX, usize::MAX).to_vec();
                match follower.accept(previous, &rest, Index::ZERO) {
                    Ok(_) => break,
                    Err(Unfit::Conflict(conflict)) => next = leader.resume_after(conflict),
                    Err(Unfit::Committed) => unreachable!("nothing is committed"),
                }
                rejections += 1;
            }
            prop_assert_eq!(follower.entries(), leader.entries());
            let mut different = theirs;
            different.dedup();
            prop_assert!(rejections <= different.len() + 1, "{} rejections", rejections);
        }

        /// A disk that carries out each change has the same log as memory.
        #[test]
        fn changes_keep_a_disk_equal_to_memory(
            steps in prop::collection::vec((0..4u8, 0..8u64, 1..4u64), 0..30)
        ) {
            let mut log = log(&[]);
            let mut disk = (Snapshot::none(), Vec::<Entry>::new());
            let mut term = 1;
            for (kind, place, count) in steps {
                let last = log.last();
                match kind {
                    0 => { log.append(Term::new(term), Payload::Record(Arc::from([]))); }
                    1 => { let _ = log.compact(Index::new(place), Arc::from([])); }
                    2 => {
                        term += 1;
                        let keep = last.index.get().saturating_sub(place);
                        if let Some(kept) = log.term_at(Index::new(keep)) {
                            let sent = entries(keep + 1, &vec![term; count as usize]);
                            log.accept(at(keep, kept.get()), &sent, Index::ZERO).unwrap();
                        }
                    }
                    _ => {
                        term += 1;
                        let end = at(log.snapshot().at.index.get() + place + 1, term);
                        log.install(Snapshot { at: end, data: Arc::from([]), disks: None, record: ElectionRecord::default() });
                    }
                }
                if let Some(change) = log.take_change() {
                    if let Some(snapshot) = change.snapshot {
                        disk.1.retain(|entry| entry.at.index > snapshot.at.index);
                        disk.0 = snapshot;
                    }
                    if let Some((from, entries)) = change.tail {
                        disk.1.retain(|entry| entry.at.index < from);
                        disk.1.extend(entries);
                    }
                }
                prop_assert_eq!(&disk.0, log.snapshot());
                prop_assert_eq!(&disk.1[..], log.entries());
            }
        }
    }
}
