//! Errors of a data directory.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{file::BadHead, owner::Owner};

/// Reason why a member can't keep, or restore, its durable state.
///
/// A refused directory is left unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The path is no directory.
    #[error("{path}: is not a directory; name another one, or move away what is there")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// There are files of other programs only.
    #[error("{path}: was not made by elect, as it has '{found}' in it; name an empty or a new directory")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The name of one of the files.
        found: String,
    },
    /// It belongs to another member, another election, or another group.
    #[error("{path}: belongs to {theirs}, and this is {ours}; give each member a directory of its own")]
    OtherOwner {
        /// The directory.
        path: PathBuf,
        /// The directory's owner.
        theirs: String,
        /// The refused owner.
        ours: String,
    },
    /// A later version wrote it.
    #[error(
        "{path}: has format {theirs}, and this version knows up to {ours}; run the version that wrote it, \
         or a later one"
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        theirs: u32,
        /// The newest format of this version.
        ours: u32,
    },
    /// Another process has it open.
    #[error(
        "{path}: is in use by another process; stop that one, or give each member a directory of its own"
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// No permission.
    #[error("{path}: may not be {what}; give this user the right to, or name another directory")]
    Denied {
        /// The file or directory.
        path: PathBuf,
        /// The attempted access.
        what: &'static str,
    },
    /// On a read-only file system.
    #[error(
        "{path}: can't be {what} on a read-only file system; mount it writable, or name another directory"
    )]
    ReadOnly {
        /// The file or directory.
        path: PathBuf,
        /// The attempted access.
        what: &'static str,
    },
    /// No space, or a quota used up. What was durable before still is.
    #[error("{path}: can't be {what}, as no space is left there; make some, and start this member again")]
    Full {
        /// The file or directory.
        path: PathBuf,
        /// The attempted access.
        what: &'static str,
    },
    /// The contents are damaged. The vote that it may hold is lost with it.
    #[error(
        "{path}: is damaged ({why}); the others go on without this member, which must not start from an \
         empty or older directory, as it would forget its vote. Bring back the disk as it was, or start \
         all members with new directories and another election name"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The damage.
        why: String,
    },
    /// Another member knows that this is not its member's only and newest directory.
    #[error(
        "{path}: must not be used any more, as {why}. It has forgotten, or will, what others count on. Start this member \
         from the directory of which this is a copy, if there is one; else the others go on without it, until all \
         members are set up anew, with new directories and another election name"
    )]
    Revoked {
        /// The file.
        path: PathBuf,
        /// The other member's message.
        why: String,
    },
    /// The system failed otherwise.
    #[error("{path}: can't be {what}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The attempted access.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl StoreError {
    /// `what` has to fit behind "can't be".
    pub(super) fn io(path: &Path, what: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Denied { path, what },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path, what },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full { path, what }
            }
            io::ErrorKind::NotADirectory => Self::NotADirectory { path },
            _ => Self::Io { path, what, source },
        }
    }

    pub(super) fn damaged(path: &Path, why: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), why: why.into() }
    }

    pub(super) fn owner(path: &Path, theirs: &Owner, ours: &Owner) -> Self {
        Self::OtherOwner { path: path.to_owned(), theirs: theirs.to_string(), ours: ours.to_string() }
    }

    pub(super) fn head(path: &Path, bad: BadHead) -> Self {
        match bad {
            BadHead::Newer(theirs) => {
                Self::NewerFormat { path: path.to_owned(), theirs, ours: super::file::FORMAT }
            }
            BadHead::Damaged(why) => Self::damaged(path, why),
            BadHead::Io(error) => Self::io(path, "read", error),
        }
    }

    /// redb passes on the medium's errors, and has its own for contents that it can't read.
    pub(super) fn redb(path: &Path, what: &'static str, error: impl Into<redb::Error>) -> Self {
        match error.into() {
            // redb's own error for such contents, and for a file that is too short.
            redb::Error::Io(error)
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                Self::damaged(path, error.to_string())
            }
            redb::Error::Io(error) => Self::io(path, what, error),
            redb::Error::Corrupted(why) => Self::damaged(path, why),
            // Tables that are missing, or of another kind.
            other => Self::damaged(path, other.to_string()),
        }
    }
}
