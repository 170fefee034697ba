//! The directory: found, made, and locked.
//!
//! It has one file, which is locked as long as it is open. A new one is made under another name, and renamed once
//! it is complete and durable. So an interrupted creation leaves nothing that could be taken for a database, and
//! the next start repeats it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::libc::O_NOFOLLOW;

use super::StoreError;

/// The file of a complete directory.
const NAME: &str = "elect.db";

/// The same while it is made. No promise rests on its contents.
const UNFINISHED: &str = "elect.db.unfinished";

/// File systems put this into the root of a volume, which may well be the directory.
const LOST_AND_FOUND: &str = "lost+found";

/// A member's directory, its file open and locked.
#[derive(Debug)]
pub(super) enum DataDirectory {
    Complete { file: File, path: PathBuf },
    New(Unfinished),
}

/// A file that is being made.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) file: File,
    pub(super) path: PathBuf,
    directory: PathBuf,
}

impl DataDirectory {
    /// Opens the directory's file for this process alone. A missing directory is made, readable by its owner alone.
    pub(super) fn claim(directory: &Path) -> Result<Self, StoreError> {
        make(directory)?;
        loop {
            let path = directory.join(NAME);
            match OpenOptions::new().read(true).write(true).custom_flags(O_NOFOLLOW).open(&path) {
                Ok(file) => {
                    lock(&file, &path)?;
                    return Ok(Self::Complete { file, path });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io(&path, "opened for writing", error)),
            }
            refuse_foreign(directory)?;
            let file = Unfinished::open(directory)?;
            if let Some(unfinished) = Unfinished::claim(file, directory)? {
                return Ok(Self::New(unfinished));
            }
        }
    }
}

impl Unfinished {
    fn open(directory: &Path) -> Result<File, StoreError> {
        let path = directory.join(UNFINISHED);
        // If others may write into the directory, a link must not redirect the writes.
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(O_NOFOLLOW)
            .open(&path);
        opened.map_err(|error| StoreError::io(&path, "made", error))
    }

    /// `None` if another process has finished this very file, and closed it, before this one had the lock.
    fn claim(file: File, directory: &Path) -> Result<Option<Self>, StoreError> {
        let path = directory.join(UNFINISHED);
        lock(&file, &path)?;
        let finished = directory.join(NAME).exists();
        Ok((!finished).then(|| Self { file, path, directory: directory.to_owned() }))
    }

    /// The contents are complete and durable. From now on it is the directory's file.
    pub(super) fn finish(&self) -> Result<PathBuf, StoreError> {
        let path = self.directory.join(NAME);
        fs::rename(&self.path, &path).map_err(|error| StoreError::io(&self.path, "renamed", error))?;
        sync(&self.directory)?;
        Ok(path)
    }
}

/// Makes the directory and those above it, so that a power cut takes none of them back.
fn make(directory: &Path) -> Result<(), StoreError> {
    match fs::metadata(directory) {
        Ok(there) if there.is_dir() => return Ok(()),
        Ok(_) => return Err(StoreError::NotADirectory { path: directory.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(StoreError::io(directory, "opened", error)),
    }
    let missing = directory.ancestors().take_while(|above| !above.as_os_str().is_empty() && !above.exists());
    let missing: Vec<&Path> = missing.collect();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| StoreError::io(directory, "made", error))?;
    for made in missing.into_iter().rev() {
        match made.parent() {
            Some(above) if !above.as_os_str().is_empty() => sync(above)?,
            Some(_) => sync(Path::new("."))?,
            None => {}
        }
    }
    Ok(())
}

fn sync(directory: &Path) -> Result<(), StoreError> {
    let synced = File::open(directory).and_then(|opened| opened.sync_all());
    synced.map_err(|error| StoreError::io(directory, "made durable", error))
}

fn refuse_foreign(directory: &Path) -> Result<(), StoreError> {
    let unreadable = |error| StoreError::io(directory, "listed", error);
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let found = entry.map_err(unreadable)?.file_name();
        // The file itself may have been made just now.
        if ![NAME, UNFINISHED, LOST_AND_FOUND].iter().any(|known| found == *known) {
            let found = crate::names::displayed(found.as_encoded_bytes());
            return Err(StoreError::Foreign { path: directory.to_owned(), found });
        }
    }
    Ok(())
}

/// The lock ends with the file's last descriptor, and so with the process, however that ends.
fn lock(file: &File, path: &Path) -> Result<(), StoreError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(StoreError::io(path, "locked", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_link_is_followed_to_where_a_file_is_made_or_opened() {
        for name in [NAME, UNFINISHED] {
            let directory = tempfile::tempdir().unwrap();
            let elsewhere = tempfile::tempdir().unwrap();
            let target = elsewhere.path().join("target");
            std::os::unix::fs::symlink(&target, directory.path().join(name)).unwrap();
            let refused = DataDirectory::claim(directory.path());
            assert!(matches!(refused, Err(StoreError::Io { .. })), "{name}: {refused:?}");
            assert!(!target.exists(), "{name}");
        }
    }

    #[test]
    fn who_comes_late_does_not_take_a_finished_file_for_an_unfinished_one() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let late = Unfinished::open(directory).unwrap();
        let Ok(DataDirectory::New(first)) = DataDirectory::claim(directory) else { panic!("it is new") };
        assert!(matches!(
            Unfinished::claim(late.try_clone().unwrap(), directory),
            Err(StoreError::InUse { .. })
        ));
        first.finish().unwrap();
        drop(first);
        assert!(Unfinished::claim(late, directory).unwrap().is_none());
        assert!(matches!(DataDirectory::claim(directory), Ok(DataDirectory::Complete { .. })));
    }
}
