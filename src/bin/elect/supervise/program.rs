//! Checks whether a command can be started, with the exit codes of shells for failures.

use std::{
    env,
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, access};

/// Found, but can't be run.
pub(crate) const CANNOT_RUN: u8 = 126;
/// Not found.
pub(crate) const NOT_FOUND: u8 = 127;

/// The path of `execvp` without a `PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Reason that a command can't be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("{0}: command not found; name a program in PATH, or give its path")]
    NotFound(String),
    #[error("{0}: found, but it is not an executable file")]
    NotExecutable(String),
}

impl Unusable {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound(_) => NOT_FOUND,
            Self::NotExecutable(_) => CANNOT_RUN,
        }
    }
}

/// Finds a program as `execvp` will, so that a missing one is reported before this candidate enters the
/// election.
pub(crate) fn find(program: &OsStr) -> Result<(), Unusable> {
    let named = || program.to_string_lossy().into_owned();
    let mut found = false;
    for path in places(program) {
        match access(&path, AccessFlags::X_OK) {
            Ok(()) if path.is_file() => return Ok(()),
            _ => found |= path.exists(),
        }
    }
    Err(if found { Unusable::NotExecutable(named()) } else { Unusable::NotFound(named()) })
}

fn places(program: &OsStr) -> Vec<PathBuf> {
    if program.is_empty() {
        return Vec::new();
    }
    if program.as_bytes().contains(&b'/') {
        return vec![PathBuf::from(program)];
    }
    let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    env::split_paths(&path)
        .map(|dir| if dir.as_os_str().is_empty() { Path::new(".").join(program) } else { dir.join(program) })
        .collect()
}

/// Returns the code for a program that `exec` refused.
pub(crate) fn exit_code(refused: &io::Error) -> u8 {
    if refused.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_is_there() {
        assert_eq!(find(OsStr::new("sh")), Ok(()));
        assert_eq!(find(OsStr::new("/bin/sh")), Ok(()));
    }

    #[test]
    fn missing_and_unusable_programs_have_the_codes_of_shells() {
        let code = |program: &str| find(OsStr::new(program)).unwrap_err().exit_code();
        assert_eq!(code("no-such-command-anywhere"), NOT_FOUND);
        assert_eq!(code("/no/such/command"), NOT_FOUND);
        assert_eq!(code(""), NOT_FOUND);
        assert_eq!(code("/etc/passwd"), CANNOT_RUN);
        assert_eq!(code("/etc"), CANNOT_RUN);
    }
}
