//! Raft's own units: members and their majorities, terms, positions in the log.

use std::fmt;

/// Most members of a group. More would only make each commit wait for more disks: seven
/// already survive three failures.
pub(crate) const MAX_MEMBERS: u8 = 7;

/// A member: its index in the sorted list of names, which all members share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(u8);

impl NodeId {
    pub(crate) const fn new(place: u8) -> Self {
        Self(place)
    }

    pub(crate) const fn place(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for NodeId {
    /// Counted from one, as people name servers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", u16::from(self.0) + 1)
    }
}

/// The group: fixed, 1 to [`MAX_MEMBERS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Members(u8);

/// Error: a group that is too small or too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a group has 1 to {MAX_MEMBERS} members, not {0}")]
pub(crate) struct InvalidSize(pub(crate) usize);

impl Members {
    pub(crate) fn of(count: usize) -> Result<Self, InvalidSize> {
        match u8::try_from(count) {
            Ok(size @ 1..=MAX_MEMBERS) => Ok(Self(size)),
            _ => Err(InvalidSize(count)),
        }
    }

    pub(crate) const fn count(self) -> usize {
        self.0 as usize
    }

    /// The least number of members of which any two sets share one.
    pub(crate) const fn majority(self) -> usize {
        self.count() / 2 + 1
    }

    pub(crate) const fn contains(self, node: NodeId) -> bool {
        node.0 < self.0
    }

    pub(crate) fn all(self) -> impl Iterator<Item = NodeId> {
        (0..self.0).map(NodeId)
    }

    pub(crate) fn others(self, me: NodeId) -> impl Iterator<Item = NodeId> {
        self.all().filter(move |node| *node != me)
    }

    /// The largest value that a majority of members has reached; one value a member.
    pub(crate) fn reached_by_majority<T: Copy + Ord>(self, values: impl Iterator<Item = T>) -> T {
        let mut values: Vec<T> = values.collect();
        debug_assert_eq!(values.len(), self.count(), "one value a member");
        values.sort_unstable_by(|a, b| b.cmp(a));
        values[self.majority() - 1]
    }
}

/// A set of members that said yes. A second yes of a member changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Ballots(u8);

impl Ballots {
    pub(crate) fn add(&mut self, node: NodeId) {
        self.0 |= 1 << node.0;
    }

    pub(crate) const fn contains(self, node: NodeId) -> bool {
        self.0 >> node.0 & 1 == 1
    }

    pub(crate) const fn count(self) -> usize {
        self.0.count_ones() as usize
    }
}

/// A term of Raft: at most one leader each (§5.1). It is also the fencing token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Term(u64);

impl Term {
    /// Before the first election.
    pub(crate) const ZERO: Self = Self(0);

    pub(crate) const fn new(number: u64) -> Self {
        Self(number)
    }

    pub(crate) const fn get(self) -> u64 {
        self.0
    }

    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An index in the log. The first entry has 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Index(u64);

impl Index {
    /// Before the first entry.
    pub(crate) const ZERO: Self = Self(0);

    pub(crate) const fn new(number: u64) -> Self {
        Self(number)
    }

    pub(crate) const fn get(self) -> u64 {
        self.0
    }

    pub(crate) const fn next(self) -> Self {
        self.plus(1)
    }

    /// The index before; of the first, [`Index::ZERO`].
    pub(crate) const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    pub(crate) const fn plus(self, entries: usize) -> Self {
        Self(self.0.saturating_add(entries as u64))
    }

    /// The number of entries after `earlier`, up to and with this one.
    pub(crate) const fn after(self, earlier: Self) -> usize {
        self.0.saturating_sub(earlier.0) as usize
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An entry's identity: two logs with the same entry here are the same up to here (§5.3).
///
/// The order is that of §5.4.1, *more up to date*: the later term first, then the longer log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Position {
    pub(crate) term: Term,
    pub(crate) index: Index,
}

impl Position {
    /// The start of every log.
    pub(crate) const START: Self = Self { term: Term::ZERO, index: Index::ZERO };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_majorities_always_share_a_member() {
        for count in 1..=usize::from(MAX_MEMBERS) {
            assert!(2 * Members::of(count).unwrap().majority() > count);
        }
        assert_eq!(Members::of(0), Err(InvalidSize(0)));
        assert_eq!(Members::of(8), Err(InvalidSize(8)));
        assert_eq!(Members::of(256 + 3), Err(InvalidSize(259)));
    }

    #[test]
    fn a_majority_has_reached_the_middle_value() {
        let reached =
            |values: &[u32]| Members::of(values.len()).unwrap().reached_by_majority(values.iter().copied());
        assert_eq!(reached(&[7]), 7);
        assert_eq!(reached(&[9, 1]), 1, "two members are both needed");
        assert_eq!(reached(&[1, 9, 5]), 5);
        assert_eq!(reached(&[1, 9, 5, 3]), 3);
    }

    #[test]
    fn a_later_term_is_more_up_to_date_than_a_longer_log() {
        let at = |term, index| Position { term: Term::new(term), index: Index::new(index) };
        assert!(at(3, 1) > at(2, 9));
        assert!(at(2, 9) > at(2, 8));
    }

    #[test]
    fn a_duplicated_vote_counts_once() {
        let mut ballots = Ballots::default();
        ballots.add(NodeId::new(1));
        ballots.add(NodeId::new(1));
        assert_eq!(ballots.count(), 1);
    }
}
