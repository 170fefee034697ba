//! Admission of servers as members: the record kept of each, and the judgement of a newcomer.
//!
//! A vote lives on a disk. A server that comes back with another disk, with an older copy of its own, or with a
//! copy that is in use elsewhere, has forgotten votes that others count on. So each server knows the others by
//! these:
//!
//! | | made | a member that | has |
//! |---|---|---|---|
//! | [`DirectoryId`] | with the data directory | lost its disk | another one |
//! | [`Run`]: a number and a random id | at each start, durably before the first message | runs on a copy | another id under the same number, a smaller number, or a second run beside one that is alive |
//! | the number of durable writes | with each write | got an older copy of its disk back | a smaller one |
//! | its log, up to the acknowledged end | with the leader's entries | lost some of it, whatever it says | a shorter one |
//!
//! The end of the log would not do in place of the number of writes: it goes back by itself when a later leader
//! overwrites a tail. Within one leader's term matched entries stay: `Progress::has_lost`.
//!
//! # Prevented, and not prevented
//!
//! A new disk is *prevented* from counting: a server votes only once all others have recorded its directory
//! ([`VotingRights`]), so each of them refuses a disk that takes its place, and it never votes.
//!
//! Restored and copied disks are *detected* when they meet a server that knows better. They are not made safe: a
//! vote that only its receiver remembers does not stop a second one elsewhere, and a copy and its original that
//! different members let in vote once each. A server that is connected with the one, and gets an answer, never lets
//! in the other. A copy also stays unnoticed if it was started again before it met such a server, and had by then
//! as many writes, beside its starts, as the original: only the leader that finds its log shorter than before may
//! notice that one.
//!
//! # Votes that count
//!
//! The directories that were met first count until a disk is replaced. From then on the log decides, by entries
//! that name the directory of each member ([`MemberDisks`]), of which the last counts, committed or not. So each
//! server knows it from its own disk, also after a restart, and a new disk knows it of all others without having
//! met any of them.
//!
//! Replacing a disk takes two of these entries. The first one takes the member's vote away: the new disk is
//! admitted ([`MemberDisk::Incoming`]), and counts for nothing. The second one, appended once the first is
//! committed and the new disk has it, gives the vote to the new disk ([`MemberDisk::Voting`]). The majorities
//! before and after each entry share a disk, as in Raft's changes of one server at a time (thesis §4.1). The rules
//! are walked through in `model::replace`.
//!
//! Pure: the store keeps the records, the transport asks.

use std::{fmt, sync::Arc};

use super::identity::{Index, Members, NodeId};

/// Tells two directories apart, even under one name: 16 random bytes, made with the directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DirectoryId([u8; 16]);

/// Tells two starts apart, even with one number: 16 random bytes, made at the start.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RunId([u8; 16]);

/// One start of a server on a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Run {
    /// Starts on the directory so far, this one included. 0 if it was met by a version that did not count.
    pub(crate) number: u64,
    pub(crate) id: RunId,
    /// The write that counted it: earlier writes are of earlier starts.
    pub(crate) began: WriteCount,
}

/// A server's identity, for as long as its process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) directory: DirectoryId,
    pub(crate) run: Run,
}

/// Number of durable writes to a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct WriteCount(pub(crate) u64);

/// The record that a server keeps of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MemberRecord {
    pub(crate) identity: Identity,
    /// The most writes that are known to be durable there.
    pub(crate) writes: WriteCount,
    /// True if the other server said that it has recorded this one, too.
    pub(crate) mutual: bool,
}

/// A server's right to vote, pre-vote and campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum VotingRights {
    /// Not yet: another server has not recorded its directory, and would not know it from a new one.
    #[default]
    Waiting,
    /// All others have recorded it.
    Full,
    /// Never again: another member knows that this is not its member's only and newest disk, or the disk has
    /// failed.
    Revoked,
}

/// The disk of a member, by the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum MemberDisk {
    /// The disk that was met first. Its entries count, and it votes once all others have recorded it: see
    /// [`VotingRights`].
    Founding(DirectoryId),
    /// A disk whose votes and entries count.
    Voting(DirectoryId),
    /// A new disk that will replace one that counts no more, and does not count yet.
    Incoming(DirectoryId),
}

/// The disks of all members, by the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct MemberDisks(Arc<[MemberDisk]>);

impl MemberDisks {
    /// From one disk for each member, in their order.
    pub(crate) fn of(disks: impl IntoIterator<Item = MemberDisk>) -> Self {
        Self(disks.into_iter().collect())
    }

    pub(crate) fn all(&self) -> &[MemberDisk] {
        &self.0
    }

    pub(crate) fn disk(&self, node: NodeId) -> Option<MemberDisk> {
        self.0.get(node.place()).copied()
    }

    /// The member whose disk is being replaced, and the new one.
    pub(crate) fn incoming(&self) -> Option<(NodeId, DirectoryId)> {
        let mut disks = (0..).map(NodeId::new).zip(&*self.0);
        disks.find_map(|(node, disk)| match disk {
            MemberDisk::Incoming(directory) => Some((node, *directory)),
            MemberDisk::Founding(_) | MemberDisk::Voting(_) => None,
        })
    }

    /// The same with another disk for that member.
    pub(crate) fn with(&self, node: NodeId, disk: MemberDisk) -> Self {
        let mut disks = self.0.to_vec();
        disks[node.place()] = disk;
        Self(disks.into())
    }
}

impl MemberDisk {
    pub(crate) fn directory(self) -> DirectoryId {
        match self {
            Self::Founding(directory) | Self::Voting(directory) | Self::Incoming(directory) => directory,
        }
    }

    /// Returns true if that disk's votes and entries count.
    pub(crate) fn counts(self) -> bool {
        !matches!(self, Self::Incoming(_))
    }
}

/// The directories that were met first, durably, this server's own included.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FirstDirectories(Vec<Option<DirectoryId>>);

impl FirstDirectories {
    pub(crate) fn none(members: Members) -> Self {
        Self(vec![None; members.count()])
    }

    /// The directories of a test's group, whose members have met.
    #[cfg(test)]
    pub(crate) fn all_of(members: Members) -> Self {
        Self(members.all().map(|node| Some(DirectoryId::in_tests(node))).collect())
    }

    /// Records a directory. The first one stays.
    pub(crate) fn met(&mut self, node: NodeId, directory: DirectoryId) {
        if let Some(first) = self.0.get_mut(node.place()) {
            first.get_or_insert(directory);
        }
    }

    pub(crate) fn of(&self, node: NodeId) -> Option<DirectoryId> {
        self.0.get(node.place()).copied().flatten()
    }

    /// All of them, once all are known.
    pub(crate) fn disks(&self) -> Option<MemberDisks> {
        let disks: Option<Vec<MemberDisk>> =
            self.0.iter().map(|it| Some(MemberDisk::Founding((*it)?))).collect();
        disks.map(MemberDisks::of)
    }
}

/// Grounds for admitting another server under a member's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// No other directory of that member was met before, and the log names none.
    First,
    /// Its directory is the one that was met first.
    Founder,
    /// The log names its directory: this server's log or, if that is longer, its own.
    Named,
}

/// Decides if a directory is admitted under a member's name.
///
/// `disk` is that member's disk by this server's log, with the entry's index; `claim` is the index of the entry
/// that names that directory in its own log. Believing that claim is safe: a disk that has forgotten its votes has
/// no such log either, and its answers count only by this server's own log.
pub(crate) fn entrance(
    disk: Option<(MemberDisk, Index)>,
    first: Option<DirectoryId>,
    said: DirectoryId,
    claim: Index,
) -> Result<Admission, Objection> {
    let (before, known_at) = match (disk, first) {
        (Some((disk, at)), _) => (disk.directory(), at),
        (None, Some(first)) => (first, Index::ZERO),
        (None, None) if claim > Index::ZERO => return Ok(Admission::Named),
        (None, None) => return Ok(Admission::First),
    };
    if said != before && claim <= known_at {
        return Err(Objection::OtherDirectory { before, now: said });
    }
    Ok(if first == Some(said) { Admission::Founder } else { Admission::Named })
}

/// Reason why a leader does not replace a member's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub(crate) enum CannotReplace {
    #[error("it leads, so its disk is in order")]
    ItLeads,
    #[error(
        "in a group of one or two there is no majority without it; begin a new group on new data directories, each server \
         with --tokens-after and a number that is no smaller than the last token"
    )]
    TooFewMembers,
    #[error("the leader was elected just now and has nothing committed yet; try again")]
    NothingCommitted,
    #[error("no majority without it is connected with the leader; start the others first")]
    NoMajorityWithout,
    #[error("another replacement is under way; wait until that one is done")]
    OneAtATime,
    #[error("the leader has not met all members; wait until it has")]
    NotAllMet,
    #[error("that directory is another member's")]
    AnotherMembers,
    #[error("that directory is the one that it has")]
    SameDirectory,
}

/// Reason why a server is not the member on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub(crate) enum Objection {
    /// There are two servers under one name, or one that lost its disk, and with it its vote.
    #[error(
        "this member has another data directory than when it was first met ({now}, and not {before}): two \
         servers run under its name, or it lost its disk, and with it its vote; give it back the directory \
         that it had"
    )]
    OtherDirectory { before: DirectoryId, now: DirectoryId },
    #[error(
        "this member's data directory is an older copy of the one that it had: it is at write {now}, and was at {before}"
    )]
    FewerWrites { before: u64, now: u64 },
    #[error(
        "this member's data directory is an older copy of the one that it had: this is its start number {now}, and \
         there was a number {before}"
    )]
    OlderRun { before: u64, now: u64 },
    #[error("this member's data directory is a copy: it was started for the {number}. time twice")]
    SameRunTwice { number: u64 },
    #[error(
        "this member's data directory is a copy: the server that was started before is still connected, and answers"
    )]
    InUseTwice,
    #[error(
        "this member's data directory is an older copy of the one that it had, or its disk does not keep what was synced: \
         its log had all up to {had}, and lacks {lacks}"
    )]
    LostEntries { had: Index, lacks: Index },
}

impl Objection {
    /// Returns true if it proves that this disk has forgotten something, or will: then it must not vote any more.
    pub(crate) fn is_proof(&self) -> bool {
        !matches!(self, Self::OtherDirectory { .. })
    }
}

impl MemberRecord {
    /// The record of a server that is met for the first time.
    pub(crate) fn first(identity: Identity, writes: WriteCount) -> Self {
        Self { identity, writes, mutual: false }
    }

    /// Compares a server with the member on record, before its number of writes is known. `another_answers`: a
    /// connection of another run of it just answered.
    pub(crate) fn judge(&self, said: &Identity, another_answers: bool) -> Result<(), Objection> {
        let known = &self.identity;
        if said.directory != known.directory {
            return Err(Objection::OtherDirectory { before: known.directory, now: said.directory });
        }
        let (before, now) = (known.run.number, said.run.number);
        if now < before {
            return Err(Objection::OlderRun { before, now });
        }
        if now == before && now > 0 && said.run.id != known.run.id {
            return Err(Objection::SameRunTwice { number: now });
        }
        // All writes on record came before the later starts, if those were on the same disk, and each start was a
        // write, however many followed the last.
        if before > 0 && now > before {
            let at_the_first = said.run.began.0.saturating_sub(now - before);
            if at_the_first < self.writes.0 {
                return Err(Objection::FewerWrites { before: self.writes.0, now: at_the_first });
            }
        }
        if said.run != known.run && another_answers {
            return Err(Objection::InUseTwice);
        }
        Ok(())
    }

    /// Compares the number of writes in the run on record. The server sent it after `self` was on record: a number
    /// still on its way while another server passes a larger one on would look like a disk that went back.
    pub(crate) fn judge_writes(&self, said: WriteCount) -> Result<(), Objection> {
        if said < self.writes {
            return Err(Objection::FewerWrites { before: self.writes.0, now: said.0 });
        }
        Ok(())
    }
}

impl DirectoryId {
    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The directory of a member in a test.
    #[cfg(test)]
    pub(crate) fn in_tests(node: NodeId) -> Self {
        Self([node.place() as u8 + 1; 16])
    }

    /// The first eight digits, which tell directories apart and are no help in guessing the rest.
    pub(crate) fn short(&self) -> String {
        self.0[..4].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl RunId {
    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(directory: u8, number: u64, id: u8) -> Identity {
        let run = Run { number, id: RunId::from_bytes([id; 16]), began: WriteCount(number * 100) };
        Identity { directory: DirectoryId::from_bytes([directory; 16]), run }
    }

    /// The record of a server with ten writes since its start.
    fn record(directory: u8, number: u64, id: u8) -> MemberRecord {
        MemberRecord::first(identity(directory, number, id), WriteCount(number * 100 + 10))
    }

    #[test]
    fn contract_11_a_member_comes_back_and_a_copy_of_it_does_not() {
        let known = record(1, 5, 5);
        assert_eq!(known.judge(&identity(1, 5, 5), false), Ok(()), "it connects again");
        assert_eq!(known.judge(&identity(1, 5, 5), true), Ok(()), "while its old connection still answers");
        assert_eq!(known.judge(&identity(1, 6, 6), false), Ok(()), "it was started again");
        assert_eq!(known.judge(&identity(1, 9, 9), false), Ok(()), "several times");
        for (said, answers, why) in [
            (identity(2, 5, 5), false, "another data directory"),
            (identity(1, 4, 4), false, "an older copy"),
            (identity(1, 5, 6), false, "is a copy"),
            (identity(1, 6, 6), true, "is a copy"),
        ] {
            let objection = known.judge(&said, answers).unwrap_err();
            assert!(objection.to_string().contains(why), "{objection}");
            assert_eq!(objection.is_proof(), said.directory == known.identity.directory);
        }
    }

    #[test]
    fn contract_11_a_disk_that_went_back_is_known_by_its_writes() {
        let known = record(1, 5, 5);
        assert_eq!(known.judge_writes(WriteCount(510)), Ok(()));
        let started = |number, began| {
            let later = identity(1, number, number as u8);
            Identity { run: Run { began: WriteCount(began), ..later.run }, ..later }
        };
        assert_eq!(known.judge(&started(6, 511), false), Ok(()));
        assert_eq!(known.judge(&started(9, 514), false), Ok(()));
        // Whatever its writes since, and its number of starts.
        let later = [started(6, 510), started(9, 513)].map(|it| known.judge(&it, false));
        let objections = [known.judge_writes(WriteCount(509)), later[0], later[1]];
        for objection in objections.map(Result::unwrap_err) {
            assert_eq!(objection, Objection::FewerWrites { before: 510, now: 509 });
            assert!(objection.is_proof() && objection.to_string().contains("an older copy"), "{objection}");
        }
    }

    #[test]
    fn a_member_that_was_met_by_an_earlier_version_is_known_by_its_directory() {
        let known = record(1, 0, 0);
        assert_eq!(known.judge(&identity(1, 1, 7), false), Ok(()));
        assert!(known.judge(&identity(2, 1, 7), false).is_err());
    }
}
