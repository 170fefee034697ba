//! The one file of a directory: a page of its own head, and redb's database behind it.
//!
//! ```text
//!  0          512          1024          4096
//!  ├ preface ─┼ mark, even ┼ mark, odd ───┼ redb …
//! ```
//!
//! The preface names the file's owner and format, before redb reads it.
//!
//! # Reason for the marks
//!
//! redb keeps its last two commits apart, and after a crash takes the older one if the newer one does not add up:
//! it can't tell a commit that was never finished from one that was damaged later. A member can't accept that: a
//! damaged byte would take back a vote. So each commit has a number, and once it is durable, the number is written
//! here, as a *mark*. A database whose newest commit is older than the mark has been damaged, and is refused.
//!
//! A mark needs no fsync of its own. It is written after its commit's, so it never promises anything that is not
//! durable; it survives a killed process, and becomes durable with the next commit. Two places take turns, so that
//! a torn write leaves the other one.
//!
//! # Opening is a trial
//!
//! redb repairs a database that it opens, and a refused directory must stay unchanged. Until [`DataFile::settle`]
//! is called, writes are kept in memory and seen by reads alone.

use std::{
    fmt, fs, io,
    os::unix::fs::FileExt as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The head of the file. A multiple of every common sector and page size up to it.
const HEAD: u64 = 4096;

/// Far enough apart that no torn write reaches two.
const SECTOR: u64 = 512;

/// The first bytes of the file, for `file` and for people.
const MAGIC: &[u8; 32] = b"elect: data of one peer\n\x1a\0\0\0\0\0\0\0";

/// The format that this version reads and writes.
pub(super) const FORMAT: u32 = 1;

const DIGEST: usize = 8;
const PREFACE: usize = MAGIC.len() + 4 + DIGEST;
const MARK: usize = 8 + DIGEST;

/// The number of a commit; each is one larger than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CommitNumber(pub(super) u64);

/// Storage for bytes: a file, and in tests a disk that fails in all the ways that disks do.
pub(super) trait Medium: fmt::Debug + Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;
    /// Fails if there are fewer bytes.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Returns once all earlier writes are durable.
    fn sync(&self) -> io::Result<()>;
}

impl Medium for fs::File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        fs::File::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Defects of the first page.
#[derive(Debug)]
pub(super) enum BadHead {
    /// Of a later version of this program, with that format.
    Newer(u32),
    Damaged(&'static str),
    Io(io::Error),
}

impl From<io::Error> for BadHead {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The file. redb and the store share it.
#[derive(Debug)]
pub(super) struct DataFile {
    medium: Box<dyn Medium>,
    /// Operations of redb since the file was opened, until [`settle`](Self::settle).
    trial: Mutex<Option<Vec<Step>>>,
}

#[derive(Debug)]
enum Step {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

impl DataFile {
    /// A new file, which replaces the medium's contents.
    pub(super) fn create(medium: impl Medium) -> io::Result<Self> {
        let mut preface = [0; PREFACE];
        let (said, digest) = preface.split_at_mut(PREFACE - DIGEST);
        said[..MAGIC.len()].copy_from_slice(MAGIC);
        said[MAGIC.len()..].copy_from_slice(&FORMAT.to_le_bytes());
        digest.copy_from_slice(&digest_of(said));
        medium.set_len(0)?;
        medium.set_len(HEAD)?;
        medium.write(0, &preface)?;
        Ok(Self { medium: Box::new(medium), trial: Mutex::new(None) })
    }

    /// An existing file, on trial.
    pub(super) fn open(medium: impl Medium) -> Result<Self, BadHead> {
        if medium.len()? <= HEAD {
            return Err(BadHead::Damaged("the file is cut off"));
        }
        let mut preface = [0; PREFACE];
        medium.read(0, &mut preface)?;
        let (said, digest) = preface.split_at(PREFACE - DIGEST);
        let (magic, format) = said.split_at(MAGIC.len());
        if magic != MAGIC || digest != digest_of(said) {
            return Err(BadHead::Damaged("the file does not begin as it should"));
        }
        let format = u32::from_le_bytes(format.try_into().expect("the preface ends with four bytes"));
        match format {
            FORMAT => Ok(Self { medium: Box::new(medium), trial: Mutex::new(Some(Vec::new())) }),
            newer if newer > FORMAT => Err(BadHead::Newer(newer)),
            _ => Err(BadHead::Damaged("the file has a format that never was")),
        }
    }

    /// Ends the trial: redb's operations are carried out, durably.
    ///
    /// From then on all contents read are durable too: bytes that a killed process had written and not yet synced
    /// may be lost with the next power cut, and must not be relied on before.
    pub(super) fn settle(&self) -> io::Result<()> {
        let steps = self.trial().take();
        for step in steps.into_iter().flatten() {
            match step {
                Step::Write(offset, data) => self.medium.write(HEAD + offset, &data)?,
                Step::SetLen(len) => self.medium.set_len(HEAD + len)?,
                Step::Sync => self.medium.sync()?,
            }
        }
        self.medium.sync()
    }

    /// The newest acknowledged commit, as far as the disk still knows.
    pub(super) fn acknowledged(&self) -> Result<CommitNumber, BadHead> {
        let mut newest = None;
        for place in 0..2 {
            let mut mark = [0; MARK];
            self.medium.read(place_of(place), &mut mark)?;
            let (number, digest) = mark.split_at(MARK - DIGEST);
            if digest == digest_of(number) {
                let number = u64::from_le_bytes(number.try_into().expect("a mark begins with eight bytes"));
                newest = newest.max(Some(CommitNumber(number)));
            }
        }
        newest.ok_or(BadHead::Damaged("both marks are unreadable"))
    }

    /// Marks a durable commit, before it is reported as durable.
    pub(super) fn acknowledge(&self, commit: CommitNumber) -> io::Result<()> {
        let mut mark = [0; MARK];
        let (number, digest) = mark.split_at_mut(MARK - DIGEST);
        number.copy_from_slice(&commit.0.to_le_bytes());
        digest.copy_from_slice(&digest_of(number));
        self.medium.write(place_of(commit.0), &mark)
    }

    fn trial(&self) -> MutexGuard<'_, Option<Vec<Step>>> {
        // Each change to it is one push, so a panic elsewhere leaves nothing half done.
        self.trial.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place_of(commit: u64) -> u64 {
    SECTOR * (1 + commit % 2)
}

/// Eight bytes of SHA-256: against accidents, not against attackers.
fn digest_of(bytes: &[u8]) -> [u8; DIGEST] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    *digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

/// The file as redb sees it: without the head.
///
/// It locks nothing, as the file is locked before redb opens it.
#[derive(Debug)]
pub(super) struct Behind(pub(super) Arc<DataFile>);

impl redb::StorageBackend for Behind {
    fn len(&self) -> io::Result<u64> {
        let there = self.0.medium.len()?.saturating_sub(HEAD);
        let set = |step: &Step| if let Step::SetLen(len) = step { Some(*len) } else { None };
        Ok(self.0.trial().iter().flatten().rev().find_map(set).unwrap_or(there))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let Some(steps) = &*self.0.trial() else {
            return self.0.medium.read(HEAD + offset, out);
        };
        out.fill(0);
        let there = self.0.medium.len()?.saturating_sub(HEAD + offset);
        let there = usize::try_from(there).unwrap_or(usize::MAX).min(out.len());
        self.0.medium.read(HEAD + offset, &mut out[..there])?;
        let mut end = offset + there as u64;
        for step in steps {
            match step {
                Step::Write(at, data) => {
                    patch(out, offset, *at, data);
                    end = end.max(at + data.len() as u64);
                }
                Step::SetLen(len) => {
                    let kept = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX);
                    out.iter_mut().skip(kept).for_each(|byte| *byte = 0);
                    end = *len;
                }
                Step::Sync => {}
            }
        }
        if end < offset + out.len() as u64 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match &mut *self.0.trial() {
            Some(steps) => steps.push(Step::SetLen(len)),
            None => self.0.medium.set_len(HEAD + len)?,
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        match &mut *self.0.trial() {
            Some(steps) => steps.push(Step::Sync),
            None => self.0.medium.sync()?,
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match &mut *self.0.trial() {
            Some(steps) => steps.push(Step::Write(offset, data.to_vec())),
            None => self.0.medium.write(HEAD + offset, data)?,
        }
        Ok(())
    }
}

/// Copies the overlap of `data`, which begins at `at`, into `out`, which begins at `offset`.
fn patch(out: &mut [u8], offset: u64, at: u64, data: &[u8]) {
    let begin = at.max(offset);
    let end = (at + data.len() as u64).min(offset + out.len() as u64);
    if begin < end {
        let within = |base: u64| (begin - base) as usize..(end - base) as usize;
        out[within(offset)].copy_from_slice(&data[within(at)]);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use redb::StorageBackend as _;

    use super::*;

    /// The beginning of a file of a later version.
    pub(in super::super) fn claim_format(file: &mut [u8], format: u32) {
        file[MAGIC.len()..MAGIC.len() + 4].copy_from_slice(&format.to_le_bytes());
        let digest = digest_of(&file[..PREFACE - DIGEST]);
        file[PREFACE - DIGEST..PREFACE].copy_from_slice(&digest);
    }

    fn on_trial(data: &[u8]) -> (Arc<DataFile>, Behind, std::path::PathBuf, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let open = || fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let made = Arc::new(DataFile::create(open().unwrap()).unwrap());
        Behind(Arc::clone(&made)).write(0, data).unwrap();
        let file = Arc::new(DataFile::open(open().unwrap()).unwrap());
        let behind = Behind(Arc::clone(&file));
        (file, behind, path, directory)
    }

    #[test]
    fn a_trial_is_seen_by_reads_alone_until_it_is_settled() {
        let (file, behind, path, _directory) = on_trial(&[1; 10]);
        let before = fs::read(&path).unwrap();
        behind.write(8, &[2; 4]).unwrap();
        behind.set_len(11).unwrap();
        behind.set_len(13).unwrap();
        behind.write(0, &[3]).unwrap();
        let mut read = [9; 13];
        behind.read(0, &mut read).unwrap();
        assert_eq!(read, [3, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 0, 0]);
        behind.read(7, &mut read[..3]).unwrap();
        assert_eq!(read[..3], [1, 2, 2]);
        assert!(behind.read(1, &mut read).is_err(), "beyond the end");
        assert_eq!(fs::read(&path).unwrap(), before);

        file.settle().unwrap();
        assert_eq!(behind.len().unwrap(), 13);
        behind.read(0, &mut read).unwrap();
        assert_eq!(read, [3, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 0, 0]);
        assert_eq!(fs::read(&path).unwrap()[HEAD as usize..], read);
    }

    #[test]
    fn the_newest_mark_counts_and_one_that_tore_leaves_the_one_before() {
        let (file, _behind, path, _directory) = on_trial(&[1]);
        assert!(matches!(file.acknowledged(), Err(BadHead::Damaged(_))), "there is none yet");
        for number in [4, 5, 6] {
            file.acknowledge(CommitNumber(number)).unwrap();
            assert_eq!(file.acknowledged().unwrap(), CommitNumber(number));
        }
        let mut bytes = fs::read(&path).unwrap();
        bytes[SECTOR as usize + 2] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(file.acknowledged().unwrap(), CommitNumber(5));
    }
}
