//! A directory of tickets: its requirements, and how a ticket gets in and out.
//!
//! A ticket's file is locked, written and *mapped*, and its descriptor is closed, all before it becomes
//! visible under its name. From then on only the mapping holds the lock: no `close`, no unlocking and no
//! child that closes an inherited descriptor ends it, and the kernel removes the mapping with the last of the
//! process's memory.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use memmap2::{MmapOptions, MmapRaw};
use nix::unistd::Uid;

use super::evidence::{BootId, FileId, FileSystem, Judge, ProcessId, TicketRecord};
use crate::leadership::Ticket;

/// End of the name of a ticket.
pub(super) const TICKET: &str = ".ticket";

/// Start of the name of an unfinished ticket's file.
pub(super) const NEW: &str = ".new-";

/// A directory in which the candidates of one host keep tickets for each other.
#[derive(Debug)]
pub(crate) struct TicketDirectory {
    path: PathBuf,
    pub(super) owner: u32,
    file_system: FileSystem,
    boot: BootId,
}

/// Reason that a directory can't have tickets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LifelineError {
    /// It can't be used at all.
    #[error("{path}: {problem}")]
    Unusable {
        /// The directory.
        path: String,
        /// The system's error.
        #[source]
        problem: io::Error,
    },
    /// Another user may write there, and so could depose leaders.
    #[error(
        "{path} belongs to another user, or others may write there; make it this user's own, of mode 0700"
    )]
    Exposed {
        /// The directory.
        path: String,
    },
    /// Locks or files do not behave as on tmpfs, ext4, xfs and btrfs.
    #[error("{path} is on {file_system}; use a directory on tmpfs, ext4, xfs or btrfs")]
    FileSystem {
        /// The directory.
        path: String,
        /// Its file system.
        file_system: String,
    },
    /// The kernel does not give its boot id.
    #[error("no boot id: {0}")]
    NoBootId(#[source] io::Error),
    /// A lock did not behave as required.
    #[error("{path}: a lock {found} there")]
    SelfTest {
        /// The directory.
        path: String,
        /// The lock's behaviour.
        found: &'static str,
    },
}

impl TicketDirectory {
    /// Checks a directory, and creates it if needed.
    pub(super) fn open(path: &Path) -> Result<Self, LifelineError> {
        let directory = Self::untested(path)?;
        directory.test()?;
        Ok(directory)
    }

    fn untested(path: &Path) -> Result<Self, LifelineError> {
        let unusable = |problem| LifelineError::Unusable { path: path.display().to_string(), problem };
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error)),
            Ok(()) | Err(_) => {}
        }
        let path = path.canonicalize().map_err(unusable)?;
        let metadata = fs::metadata(&path).map_err(unusable)?;
        if !metadata.is_dir() {
            return Err(unusable(io::ErrorKind::NotADirectory.into()));
        }
        let trusted = metadata.uid() == Uid::effective().as_raw() || metadata.uid() == 0;
        if !trusted || metadata.mode() & 0o022 != 0 {
            return Err(LifelineError::Exposed { path: path.display().to_string() });
        }
        let file_system = file_system(&path).map_err(unusable)?;
        if !file_system.is_fit() {
            let (path, file_system) = (path.display().to_string(), file_system.to_string());
            return Err(LifelineError::FileSystem { path, file_system });
        }
        let boot = boot_id().map_err(LifelineError::NoBootId)?;
        Ok(Self { path, owner: metadata.uid(), file_system, boot })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn judge(&self) -> Judge {
        let tmpfs = self.file_system == FileSystem::Tmpfs;
        Judge { boot: self.boot.clone(), owner: self.owner, tmpfs }
    }

    /// Tests whether a mapping holds a lock here, and whether the lock ends with it.
    fn test(&self) -> Result<(), LifelineError> {
        let shown = || self.path.display().to_string();
        let failed = |found| LifelineError::SelfTest { path: shown(), found };
        let unusable = |problem| LifelineError::Unusable { path: shown(), problem };
        let path = self.path.join(unique_name());
        let tried = self.mapped(&path, |_| "a test\n".into()).and_then(|(_, mapping)| {
            let held = !is_free(&File::open(&path)?)?;
            drop(mapping);
            Ok((held, is_free(&File::open(&path)?)?))
        });
        let _ = fs::remove_file(&path);
        match tried.map_err(unusable)? {
            (false, _) => Err(failed("does not outlive its descriptor")),
            (true, false) => Err(failed("outlives its mapping")),
            (true, true) => Ok(()),
        }
    }

    /// Creates a new file, locks it, writes its content, maps it, and closes it.
    fn mapped(&self, path: &Path, text: impl FnOnce(FileId) -> String) -> io::Result<(FileId, MmapRaw)> {
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        step(Making::Created);
        file.try_lock()?;
        step(Making::Locked);
        let id = FileId::of(&file.metadata()?);
        file.write_all(text(id).as_bytes())?;
        step(Making::Written);
        let mapping = MmapOptions::new().map_raw_read_only(&file)?;
        step(Making::Mapped);
        Ok((id, mapping))
    }

    /// Puts a ticket into the directory. Its lock is held before it is visible, and for as long as `slot`
    /// lives.
    pub(super) fn put(
        self: &Arc<Self>,
        candidate: &str,
        lock_delay: Duration,
        ticket: Ticket,
        process: Option<ProcessId>,
        slot: &TicketSlot,
    ) -> io::Result<()> {
        let name = format!("{:x}-{:x}-{:x}{TICKET}", ticket.cluster, ticket.lease, ticket.created);
        let created = ticket.created;
        let new = self.path.join(unique_name());
        let text = |file| {
            let record = TicketRecord::new(self.boot.clone(), file, candidate, lock_delay, ticket);
            record.with_process(process).to_text()
        };
        let put = self.mapped(&new, text).and_then(|(id, mapping)| {
            let path = self.path.join(name);
            // The one before was mapped until now, so the new file has another inode.
            slot.hold(created, TicketFile { path: path.clone(), id, _mapping: mapping });
            step(Making::Closed);
            fs::rename(&new, &path)
        });
        step(Making::Renamed);
        if put.is_err() {
            let _ = fs::remove_file(&new);
        }
        put
    }

    /// Removes a ticket, unless another file has taken its name.
    pub(super) fn remove(&self, name: &OsString, id: FileId) -> io::Result<()> {
        remove_if_it_is(&self.path.join(name), id)
    }
}

/// A ticket's file, and the only thing that keeps its lock.
#[derive(Debug)]
struct TicketFile {
    path: PathBuf,
    id: FileId,
    _mapping: MmapRaw,
}

impl Drop for TicketFile {
    fn drop(&mut self) {
        // Before the lock goes with the mapping, so that no witness reads it then.
        let _ = remove_if_it_is(&self.path, self.id);
    }
}

fn remove_if_it_is(path: &Path, id: FileId) -> io::Result<()> {
    match FileId::of(&fs::symlink_metadata(path)?) == id {
        true => fs::remove_file(path),
        false => Ok(()),
    }
}

/// The slot of a lease's ticket.
///
/// It lives as long as anything in this process that may trust the lease: the lease itself, which later
/// attempts may reuse, and each validity that depends on it.
#[derive(Debug, Default)]
pub(crate) struct TicketSlot(Mutex<Option<(i64, TicketFile)>>);

impl TicketSlot {
    /// Returns whether it has the ticket of the key with this `create_revision`.
    pub(crate) fn has(&self, created: i64) -> bool {
        self.lock().as_ref().is_some_and(|(held, _)| *held == created)
    }

    /// Removes the ticket's file, and keeps its lock.
    ///
    /// A witness that has it open finds the lock free after our death only, and then that the file was removed.
    pub(super) fn withdraw(&self) -> io::Result<()> {
        let slot = self.lock();
        let Some((_, file)) = slot.as_ref() else { return Ok(()) };
        match remove_if_it_is(&file.path, file.id) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Replaces an earlier ticket: one that was withdrawn, or whose key is gone.
    fn hold(&self, created: i64, file: TicketFile) {
        *self.lock() = Some((created, file));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(i64, TicketFile)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A step of making a ticket, after which the process may die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Making {
    Created,
    Locked,
    Written,
    Mapped,
    Closed,
    Renamed,
}

#[cfg(not(test))]
fn step(_: Making) {}

#[cfg(test)]
use tests::step;

impl FileId {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Tests a lock by taking it for a moment. Witnesses don't exclude each other.
pub(super) fn is_free(file: &File) -> io::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => Ok(true),
        Err(fs::TryLockError::WouldBlock) => Ok(false),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

pub(super) fn unique_name() -> String {
    format!("{NEW}{:016x}", fastrand::u64(..))
}

fn boot_id() -> io::Result<BootId> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    match text.trim() {
        "" => Err(io::ErrorKind::InvalidData.into()),
        id => Ok(BootId(id.to_owned())),
    }
}

/// The numbers of the kernel's magic.h. With musl, nix has not all of them.
#[cfg(target_os = "linux")]
mod magic {
    pub(super) const TMPFS: u32 = 0x0102_1994;
    pub(super) const EXT4: u32 = 0xEF53;
    pub(super) const XFS: u32 = 0x5846_5342;
    pub(super) const BTRFS: u32 = 0x9123_683E;
    pub(super) const OVERLAY: u32 = 0x794C_7630;

    #[cfg(all(test, not(target_env = "musl")))]
    #[test]
    fn the_numbers_are_those_of_the_system() {
        use nix::sys::statfs::{
            BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC,
        };
        let theirs =
            [TMPFS_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC];
        assert_eq!(theirs.map(|number| number.0 as u32), [TMPFS, EXT4, XFS, BTRFS, OVERLAY]);
    }
}

#[cfg(target_os = "linux")]
fn file_system(path: &Path) -> io::Result<FileSystem> {
    Ok(match nix::sys::statfs::statfs(path)?.filesystem_type().0 as u32 {
        magic::TMPFS => FileSystem::Tmpfs,
        magic::EXT4 => FileSystem::Disk("ext4"),
        magic::XFS => FileSystem::Disk("xfs"),
        magic::BTRFS => FileSystem::Disk("btrfs"),
        magic::OVERLAY => FileSystem::Overlay,
        number => FileSystem::Other(number),
    })
}

/// Other systems have neither a boot id nor a tmpfs that is known to keep this promise.
#[cfg(not(target_os = "linux"))]
fn file_system(_: &Path) -> io::Result<FileSystem> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::{env, os::unix::process::ExitStatusExt, process::Command, thread, time::SystemTime};

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    use super::{
        super::{evidence::tests::record, witness::DirectoryScans},
        *,
    };

    const DIRECTORY: &str = "LIFELINE_TEST_DIRECTORY";
    const DIES_AFTER: &str = "LIFELINE_TEST_DIES_AFTER";

    /// Ends the process if it is to die after this step.
    pub(super) fn step(step: Making) {
        if env::var(DIES_AFTER).is_ok_and(|after| after == format!("{step:?}")) {
            kill(Pid::this(), Signal::SIGKILL).unwrap();
            loop {
                thread::park();
            }
        }
    }

    #[test]
    #[ignore = "what the next test runs; not a test"]
    fn makes_a_ticket() {
        let Ok(directory) = env::var(DIRECTORY) else { return };
        let after = env::var(DIES_AFTER).unwrap();
        let ticket = record(5, 9).ticket;
        // The self-test would take the same steps.
        let directory = Arc::new(TicketDirectory::untested(Path::new(&directory)).unwrap());
        directory.put("server1", Duration::ZERO, ticket, None, &TicketSlot::default()).unwrap();
        panic!("it outlived the step {after}");
    }

    #[test]
    fn a_maker_that_dies_leaves_a_whole_ticket_or_none() {
        let steps = [
            Making::Created,
            Making::Locked,
            Making::Written,
            Making::Mapped,
            Making::Closed,
            Making::Renamed,
        ];
        for step in steps {
            let place = tempfile::tempdir_in("/dev/shm").unwrap();
            let maker = Command::new(env::current_exe().unwrap())
                .args(["--exact", "lifeline::directory::tests::makes_a_ticket", "--ignored"])
                .env(DIRECTORY, place.path())
                .env(DIES_AFTER, format!("{step:?}"))
                .status()
                .unwrap();
            assert_eq!(maker.signal(), Some(Signal::SIGKILL as i32), "{step:?}");

            let directory = Arc::new(TicketDirectory::open(place.path()).unwrap());
            let mut scans = DirectoryScans::new(Arc::clone(&directory));
            let dead = scans.scan().unwrap().len();
            assert_eq!(dead, usize::from(step == Making::Renamed), "{step:?}");
            let left: Vec<_> =
                fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert_eq!(left.len(), 1, "{step:?}: {left:?}");
            File::options().write(true).open(&left[0]).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
            let dead = DirectoryScans::new(directory).scan().unwrap().len();
            assert_eq!(dead, usize::from(step == Making::Renamed), "{step:?}");
            assert_eq!(left[0].exists(), step == Making::Renamed, "{step:?}: it is tidied up");
        }
    }
}
