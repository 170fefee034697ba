//! Access by other users of this machine to a file with a password, a key or a secret, and to a data directory.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use nix::unistd::geteuid;

/// Mode bits of users who are neither owner nor in the group: read or write.
const ANYBODY: u32 = 0o006;

/// Mode bit of the same users: create and remove files in a directory.
const WRITABLE: u32 = 0o002;

/// The problem of such a file or directory, and its remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Exposed {
    #[error("every user of this machine can access it (mode {0:03o}); chmod 600 it, or 640 for a group")]
    Accessible(u32),
    #[error("every user of this machine can replace the files in it (mode {0:03o}); chmod 700 it")]
    Replaceable(u32),
    #[error(
        "it belongs to another user (id {0}), who can change it; chown it to root, or to the user that this runs as"
    )]
    OtherOwner(u32),
}

impl Exposed {
    pub(super) fn of(file: &Metadata) -> Option<Self> {
        if file.is_dir() && file.mode() & WRITABLE != 0 {
            return Some(Self::Replaceable(file.mode() & 0o777));
        }
        if !file.is_dir() && file.mode() & ANYBODY != 0 {
            return Some(Self::Accessible(file.mode() & 0o777));
        }
        let trusted = file.uid() == 0 || file.uid() == geteuid().as_raw();
        (!trusted).then(|| Self::OtherOwner(file.uid()))
    }

    /// Returns it as a warning. A file that can't be checked gets its error from its reader.
    pub(super) fn warning(flag: &str, path: &Path) -> Option<String> {
        let exposed = Self::of(&fs::metadata(path).ok()?)?;
        Some(format!("{flag} {}: {exposed}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_for_its_owner_and_a_group() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let with_mode = |mode| {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            Exposed::warning("--key", file.path())
        };
        for mode in [0o600, 0o400, 0o440, 0o660, 0o711] {
            assert_eq!(with_mode(mode), None, "{mode:o}");
        }
        for mode in [0o604, 0o644, 0o602, 0o666] {
            let text = with_mode(mode).unwrap();
            assert!(text.starts_with("--key /") && text.contains(&format!("mode {mode:o}")), "{text}");
        }
        assert_eq!(Exposed::warning("--key", Path::new("/nowhere/key")), None);
    }

    #[test]
    fn a_directory_may_be_read_and_not_written_by_others() {
        let directory = tempfile::tempdir().unwrap();
        let with_mode = |mode| {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
            Exposed::warning("--data", directory.path())
        };
        for mode in [0o700, 0o750, 0o755, 0o770] {
            assert_eq!(with_mode(mode), None, "{mode:o}");
        }
        assert!(with_mode(0o777).unwrap().contains("can replace the files in it (mode 777); chmod 700 it"));
    }

    #[test]
    fn a_file_of_another_user_is_not_ours() {
        if !geteuid().is_root() {
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(Exposed::of(&file.as_file().metadata().unwrap()), None);
        std::os::unix::fs::chown(file.path(), Some(65534), None).unwrap();
        assert_eq!(Exposed::of(&file.as_file().metadata().unwrap()), Some(Exposed::OtherOwner(65534)));
    }
}
