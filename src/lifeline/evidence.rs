//! The rule by which a ticket's file proves that its process is gone.
//!
//! Pure: files are opened, locked and read in [`witness`](super::witness).
//!
//! The kernel keeps a ticket's lock for as long as any memory has the file mapped, and only the process that
//! wrote the ticket ever had. A free lock alone proves nothing, however: a copy of the file is never
//! locked, and another kernel does not know this one's locks. So a free lock counts only
//!
//! * in the very file that the ticket was written into, by device and inode,
//! * under the kernel that it was written under, by boot id,
//! * if the file belongs to the owner of the directory, and is whole,
//! * if this witness once saw the lock held, or begins now in a directory that nothing but this boot fills (tmpfs).
//!
//! A ticket of `elect run` also names process 1 of the PID namespace that its command runs in. The free lock tells that
//! the supervisor is gone; only the end of that process tells that the command is. A witness learns of it by a pidfd
//! that the holder passed on while it lived; a witness without one leaves the place to its TTL.
//!
//! The cluster and the key are compared by etcd itself: [`Etcd::release`](crate::etcd::Etcd::release).

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::leadership::Ticket;

/// Names one run of one kernel. Containers of some kinds have one of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BootId(pub(crate) String);

/// A file, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// Names a process in a ticket, by the pidfd that its holder passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// The pidfd as a file: one for each process since Linux 6.9, and one for all before.
    pub(crate) pidfd: FileId,
    /// Random, so that no two namings are taken for each other.
    pub(crate) nonce: u64,
    /// The holder's socket, by its random number.
    pub(crate) socket: u64,
}

/// A witness's knowledge of the process that a ticket names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessSeen {
    /// No pidfd came.
    Unknown,
    Alive(ProcessId),
    /// It is gone, and if it was process 1 of a PID namespace, so are all processes there.
    Ended(ProcessId),
}

/// File system of a directory of tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// In memory.
    Tmpfs,
    /// ext4, xfs or btrfs, by this name.
    Disk(&'static str),
    /// Copies a file that is written to, and keeps showing the old one to processes that had it open.
    Overlay,
    /// Some other, by the number that the kernel gives it.
    Other(u32),
}

impl FileSystem {
    /// True where one file is one file, and its locks are this kernel's: tried on these only.
    pub(crate) fn is_fit(self) -> bool {
        matches!(self, Self::Tmpfs | Self::Disk(_))
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tmpfs => f.write_str("tmpfs"),
            Self::Disk(name) => f.write_str(name),
            Self::Overlay => f.write_str("overlay"),
            Self::Other(number) => write!(f, "a file system of type {number:#x}"),
        }
    }
}

/// The content of a ticket's file. One with a field that this version does not know is damaged to it: that field may
/// ask for more evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TicketRecord {
    pub(crate) boot: BootId,
    pub(crate) file: FileId,
    /// The candidate's name, for the log.
    pub(crate) name: String,
    /// Milliseconds from the end of the process to the release of its place.
    lock_delay: u64,
    /// The process that has to be gone, too. `None`: the one that holds the lock is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<ProcessId>,
    pub(crate) ticket: Ticket,
}

impl TicketRecord {
    pub(crate) fn new(boot: BootId, file: FileId, name: &str, lock_delay: Duration, ticket: Ticket) -> Self {
        let lock_delay = u64::try_from(lock_delay.as_millis()).unwrap_or(u64::MAX);
        Self { boot, file, name: name.to_owned(), lock_delay, process: None, ticket }
    }

    /// Names a process that has to be gone, too.
    pub(crate) fn with_process(mut self, process: Option<ProcessId>) -> Self {
        self.process = process;
        self
    }

    pub(crate) fn lock_delay(&self) -> Duration {
        Duration::from_millis(self.lock_delay)
    }

    /// One line: the checksum in hex, a space, and the rest in JSON.
    pub(crate) fn to_text(&self) -> String {
        let json = serde_json::to_string(self).expect("numbers and texts are JSON");
        format!("{:016x} {json}\n", checksum(json.as_bytes()))
    }

    /// `None` if anything about it is not as it was written.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let (sum, json) = std::str::from_utf8(text).ok()?.strip_suffix('\n')?.split_once(' ')?;
        if sum != format!("{:016x}", checksum(json.as_bytes())) {
            return None;
        }
        serde_json::from_str(json).ok()
    }
}

/// FNV-1a of 64 bits. It tells a file that was cut short or overwritten; it is no secret and keeps no forger out.
fn checksum(bytes: &[u8]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.iter().fold(BASIS, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(PRIME))
}

/// One check of a ticket's file, whose lock was free.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probe<'a> {
    /// The file that was opened, and whose lock was tried.
    pub(crate) file: FileId,
    pub(crate) owner: u32,
    /// `None` if it is damaged.
    pub(crate) record: Option<&'a TicketRecord>,
    /// This witness saw the lock of this file held before.
    pub(crate) seen_held: bool,
    /// The file was there when the witness began.
    pub(crate) from_the_start: bool,
    pub(crate) process: ProcessSeen,
}

/// Judges tickets by the facts that all tickets of a directory share.
#[derive(Debug, Clone)]
pub(crate) struct Judge {
    pub(crate) boot: BootId,
    /// The user that the directory belongs to.
    pub(crate) owner: u32,
    /// The directory is in memory only: its files are from this boot.
    pub(crate) tmpfs: bool,
}

/// Reason that a free lock proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    Damaged,
    OtherOwner,
    OtherBoot,
    /// A copy, or a file that was put back.
    OtherFile,
    /// Not by this witness; the file may be one that was put back with the whole file system.
    NeverSeenHeld,
    /// The command of `elect run` may be alive.
    NoPidfd,
    /// The command of `elect run` is alive. The only doubt that passes.
    ProcessLives,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damaged => "it is damaged",
            Self::OtherOwner => "it belongs to another user than the directory",
            Self::OtherBoot => {
                "it was written under another boot, or in a container with a boot id of its own"
            }
            Self::OtherFile => "it is a copy",
            Self::NeverSeenHeld => "its lock was never seen held",
            Self::NoPidfd => "it names a process of which no pidfd came",
            Self::ProcessLives => "the process that it names is alive",
        })
    }
}

impl Judge {
    /// Returns the ticket if its process is gone.
    ///
    /// # Errors
    ///
    /// The [`Doubt`] that remains.
    pub(crate) fn dead<'a>(&self, probe: Probe<'a>) -> Result<&'a TicketRecord, Doubt> {
        let record = probe.record.ok_or(Doubt::Damaged)?;
        if probe.owner != self.owner {
            return Err(Doubt::OtherOwner);
        }
        if record.boot != self.boot {
            return Err(Doubt::OtherBoot);
        }
        if record.file != probe.file {
            return Err(Doubt::OtherFile);
        }
        if !(probe.seen_held || probe.from_the_start && self.tmpfs) {
            return Err(Doubt::NeverSeenHeld);
        }
        match (record.process, probe.process) {
            (None, _) => Ok(record),
            (Some(named), ProcessSeen::Ended(seen)) if seen == named => Ok(record),
            (Some(named), ProcessSeen::Alive(seen)) if seen == named => Err(Doubt::ProcessLives),
            (Some(_), _) => Err(Doubt::NoPidfd),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::timing::Ttl;

    pub(crate) const FILE: FileId = FileId { device: 26, inode: 7 };

    pub(crate) fn record(lease: i64, created: i64) -> TicketRecord {
        let key = format!("leader/{lease:x}").into_bytes();
        let ticket = Ticket { cluster: 1, key, created, lease, ttl: Ttl::DEFAULT };
        TicketRecord::new(BootId("this".into()), FILE, "server1", Duration::ZERO, ticket)
    }

    pub(crate) fn judge() -> Judge {
        Judge { boot: BootId("this".into()), owner: 1000, tmpfs: true }
    }

    fn probe(record: &TicketRecord) -> Probe<'_> {
        let process = ProcessSeen::Unknown;
        Probe {
            file: FILE,
            owner: 1000,
            record: Some(record),
            seen_held: true,
            from_the_start: false,
            process,
        }
    }

    #[test]
    fn a_free_lock_that_was_seen_held_is_the_end_of_its_process() {
        let record = record(5, 9);
        assert_eq!(judge().dead(probe(&record)), Ok(&record));
    }

    #[test]
    fn each_doubt_alone_is_enough() {
        let record = record(5, 9);
        let doubts = [
            (Probe { record: None, ..probe(&record) }, Doubt::Damaged),
            (Probe { owner: 0, ..probe(&record) }, Doubt::OtherOwner),
            (Probe { file: FileId { inode: 8, ..FILE }, ..probe(&record) }, Doubt::OtherFile),
            (Probe { file: FileId { device: 27, ..FILE }, ..probe(&record) }, Doubt::OtherFile),
            (Probe { seen_held: false, ..probe(&record) }, Doubt::NeverSeenHeld),
        ];
        for (probe, doubt) in doubts {
            assert_eq!(judge().dead(probe), Err(doubt));
        }
        let other = Judge { boot: BootId("another".into()), ..judge() };
        assert_eq!(other.dead(probe(&record)), Err(Doubt::OtherBoot));
    }

    #[test]
    fn what_was_there_from_the_start_counts_in_memory_only() {
        let record = record(5, 9);
        let found = Probe { seen_held: false, from_the_start: true, ..probe(&record) };
        assert_eq!(judge().dead(found), Ok(&record));
        assert_eq!(Judge { tmpfs: false, ..judge() }.dead(found), Err(Doubt::NeverSeenHeld));
    }

    pub(crate) const PROCESS: ProcessId =
        ProcessId { pidfd: FileId { device: 3, inode: 4 }, nonce: 5, socket: 6 };

    #[test]
    fn a_named_process_has_to_be_gone_and_no_other_counts() {
        let record = record(5, 9).with_process(Some(PROCESS));
        let judged = |process| judge().dead(Probe { process, ..probe(&record) });
        assert_eq!(judged(ProcessSeen::Ended(PROCESS)), Ok(&record));
        assert_eq!(judged(ProcessSeen::Alive(PROCESS)), Err(Doubt::ProcessLives));
        assert_eq!(judged(ProcessSeen::Unknown), Err(Doubt::NoPidfd));
        let others = [
            ProcessId { nonce: 6, ..PROCESS },
            ProcessId { socket: 7, ..PROCESS },
            ProcessId { pidfd: FileId { device: 3, inode: 5 }, ..PROCESS },
        ];
        for other in others {
            assert_eq!(judged(ProcessSeen::Ended(other)), Err(Doubt::NoPidfd));
            assert_eq!(judged(ProcessSeen::Alive(other)), Err(Doubt::NoPidfd));
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for process in [None, Some(PROCESS)] {
            let record = record(0x694d_71dd, 9).with_process(process);
            assert_eq!(TicketRecord::parse(record.to_text().as_bytes()), Some(record));
        }
    }

    #[test]
    fn a_record_of_a_later_version_that_asks_for_more_is_no_record() {
        let json = serde_json::to_string(&record(5, 9)).unwrap().replacen('{', "{\"also\":1,", 1);
        let text = format!("{:016x} {json}\n", checksum(json.as_bytes()));
        assert_eq!(TicketRecord::parse(text.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn a_damaged_record_is_no_record(at in 0..200usize, bit in 0..8u32, cut: bool) {
            let mut text = record(0x694d_71dd, 9).to_text().into_bytes();
            let at = at % text.len();
            if cut { text.truncate(at) } else { text[at] ^= 1 << bit }
            prop_assert_eq!(TicketRecord::parse(&text), None);
        }
    }
}
