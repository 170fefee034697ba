//! The state that the committed entries add up to: the newest announcement. Pure.
//!
//! Records are not kept here: they are in the log as far as it reaches back, and a reader that needs more keeps
//! them itself. So a snapshot is one announcement, and small.

use std::sync::Arc;

use super::wire::{Malformed, entry_from_bytes, entry_to_bytes};
use crate::raft::{
    identity::{Index, Position, Term},
    log::{Compacted, Entry, Payload, Proclamation, Snapshot},
};

/// The newest committed announcement, as far as this server knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct CurrentAnnouncement(Option<Announced>);

/// An announcement, and its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Announced {
    at: Position,
    pub(super) announcement: Proclamation,
}

impl CurrentAnnouncement {
    /// The state of a snapshot.
    pub(super) fn of(snapshot: &Snapshot) -> Result<Self, Malformed> {
        if snapshot.data.is_empty() {
            return Ok(Self::default());
        }
        let mut state = Self::default();
        state.apply(&entry_from_bytes(&snapshot.data)?);
        Ok(state)
    }

    /// Takes the next committed entry.
    pub(super) fn apply(&mut self, entry: &Entry) {
        if let Payload::Leadership(announcement) = &entry.payload {
            self.0 = Some(Announced { at: entry.at, announcement: announcement.clone() });
        }
    }

    /// The announcement of that term's leader.
    pub(super) fn announced_in(&self, term: Term) -> Option<&Proclamation> {
        self.0.as_ref().filter(|announced| announced.at.term == term).map(|announced| &announced.announcement)
    }

    /// The contents of a snapshot of the present state.
    fn to_bytes(&self) -> Arc<[u8]> {
        let Some(Announced { at, announcement }) = &self.0 else { return Arc::from([]) };
        let payload = Payload::Leadership(announcement.clone());
        Arc::from(entry_to_bytes(&Entry { at: *at, payload }))
    }
}

/// Decides when the log is shortened, and to which index.
///
/// A log is cut at the *last but one* mark, so that it reaches back for one window at least: a follower that was
/// away briefly, and readers of records, find the entries that they missed.
#[derive(Debug)]
pub(super) struct Compaction {
    window: Window,
    /// Applied since the last mark.
    entries: usize,
    bytes: usize,
    /// The state at the last mark.
    mark: Option<Mark>,
}

/// The growth of the log between two marks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

impl Window {
    /// A few minutes of a busy group, or years of elections; a fraction of a second to read at the start.
    pub(super) const DEFAULT: Self = Self { entries: 4096, bytes: 4 << 20 };
}

#[derive(Debug)]
struct Mark {
    at: Position,
    state: Arc<[u8]>,
}

impl Compaction {
    pub(super) fn new(window: Window) -> Self {
        Self { window, entries: 0, bytes: 0, mark: None }
    }

    /// Counts an applied entry, which led to `state`. Returns a snapshot, if one is due.
    pub(super) fn applied(&mut self, entry: &Entry, state: &CurrentAnnouncement) -> Option<Compacted> {
        self.entries += 1;
        self.bytes += entry.payload.bytes();
        if self.entries < self.window.entries && self.bytes < self.window.bytes {
            return None;
        }
        (self.entries, self.bytes) = (0, 0);
        let last = self.mark.replace(Mark { at: entry.at, state: state.to_bytes() });
        last.map(|Mark { at, state }| Compacted { at, data: state })
    }

    /// The log was replaced.
    pub(super) fn restored(&mut self) {
        *self = Self::new(self.window);
    }
}

/// The records among these entries that come after an index.
pub(super) fn records_after(entries: &[Entry], after: Index) -> impl Iterator<Item = (Position, &Arc<[u8]>)> {
    let start = entries.partition_point(|entry| entry.at.index <= after);
    entries[start..].iter().filter_map(|entry| match &entry.payload {
        Payload::Record(record) => Some((entry.at, record)),
        Payload::Leadership(_) | Payload::Disks(_) | Payload::Controls(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{identity::NodeId, log::TimeOfDay, orders::ElectionRecord};

    fn at(index: u64, term: u64) -> Position {
        Position { term: Term::new(term), index: Index::new(index) }
    }

    fn record(index: u64, size: usize) -> Entry {
        Entry { at: at(index, 1), payload: Payload::Record(Arc::from(vec![0; size])) }
    }

    fn announcement(index: u64, term: u64, who: u8) -> Entry {
        let (who, value, since) = (NodeId::new(who), Arc::from(*b"me"), TimeOfDay(5));
        let announcement = Proclamation { who, value, since, address: None, farewell: None };
        Entry { at: at(index, term), payload: Payload::Leadership(announcement) }
    }

    #[test]
    fn only_the_term_s_own_announcement_counts() {
        let mut state = CurrentAnnouncement::default();
        state.apply(&announcement(1, 1, 2));
        state.apply(&record(2, 1));
        assert_eq!(state.announced_in(Term::new(1)).unwrap().who, NodeId::new(2));
        assert_eq!(state.announced_in(Term::new(2)), None);
        state.apply(&announcement(3, 2, 0));
        assert_eq!(state.announced_in(Term::new(1)), None);
        assert_eq!(state.announced_in(Term::new(2)).unwrap().who, NodeId::new(0));
    }

    #[test]
    fn a_snapshot_brings_the_state_back() {
        let mut state = CurrentAnnouncement::default();
        let snapshot = |state: &CurrentAnnouncement| Snapshot {
            at: at(9, 3),
            data: state.to_bytes(),
            disks: None,
            record: ElectionRecord::default(),
        };
        assert_eq!(CurrentAnnouncement::of(&snapshot(&state)), Ok(state.clone()));
        state.apply(&announcement(3, 2, 0));
        assert_eq!(CurrentAnnouncement::of(&snapshot(&state)), Ok(state));
        let garbage = Snapshot {
            at: at(9, 3),
            data: Arc::from([0xFF; 3]),
            disks: None,
            record: ElectionRecord::default(),
        };
        assert!(CurrentAnnouncement::of(&garbage).is_err());
    }

    #[test]
    fn the_log_is_cut_a_window_behind() {
        let mut compaction = Compaction::new(Window { entries: 10, bytes: 100 });
        let state = CurrentAnnouncement::default();
        let cuts = (1..=40).filter_map(|index| {
            let cut = compaction.applied(&record(index, 1), &state)?;
            Some((index, cut.at.index.get()))
        });
        assert_eq!(cuts.collect::<Vec<_>>(), [(20, 10), (30, 20), (40, 30)]);
    }

    #[test]
    fn large_records_fill_a_window_sooner() {
        let mut compaction = Compaction::new(Window { entries: 10, bytes: 100 });
        let cuts = (1..=8)
            .filter_map(|index| compaction.applied(&record(index, 50), &CurrentAnnouncement::default()));
        assert_eq!(cuts.map(|cut| cut.at.index.get()).collect::<Vec<_>>(), [2, 4, 6]);
    }

    #[test]
    fn a_snapshot_holds_the_state_of_its_own_place() {
        let mut compaction = Compaction::new(Window { entries: 2, bytes: 100 });
        let mut state = CurrentAnnouncement::default();
        let mut cuts = Vec::new();
        for entry in [announcement(1, 1, 0), record(2, 1), announcement(3, 2, 1), record(4, 1)] {
            state.apply(&entry);
            cuts.extend(compaction.applied(&entry, &state));
        }
        let Compacted { at: cut, data } = cuts[0].clone();
        let restored = CurrentAnnouncement::of(&Snapshot {
            at: cut,
            data,
            disks: None,
            record: ElectionRecord::default(),
        })
        .unwrap();
        assert_eq!((cuts.len(), cuts[0].at), (1, at(2, 1)));
        assert_eq!(restored.announced_in(Term::new(1)).unwrap().who, NodeId::new(0));
    }

    #[test]
    fn records_are_found_by_where_the_reader_is() {
        let entries = [announcement(4, 1, 0), record(5, 1), record(6, 2), announcement(7, 2, 0)];
        let after = |index| {
            let found = records_after(&entries, Index::new(index));
            found.map(|(at, record)| (at.index.get(), record.len())).collect::<Vec<_>>()
        };
        assert_eq!(after(0), [(5, 1), (6, 2)]);
        assert_eq!(after(5), [(6, 2)]);
        assert_eq!(after(9), []);
    }
}
