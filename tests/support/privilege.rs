//! What only root can set up for a test: other users, set-user-id programs, PID namespaces.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{
    elect::{self, Elect},
    tool,
};

/// `nobody`'s user and group ids, everywhere.
const NOBODY: &str = "65534";

/// Whether this is root; else says that the test is skipped.
pub(crate) fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: it needs root");
    }
    root
}

/// Whether a file can be mounted in a mount namespace of a process's own; else says that the test is skipped.
pub(crate) fn can_mount() -> bool {
    let tried =
        Command::new("unshare").args(["--mount", "mount", "--bind", "/etc/hosts", "/etc/hosts"]).output();
    let can = tried.is_ok_and(|tried| tried.status.success());
    if !can {
        eprintln!("skipped: nothing can be mounted here");
    }
    can
}

/// A program as `nobody`.
pub(crate) fn as_nobody(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(to_nobody()).arg(program);
    command
}

fn to_nobody() -> [String; 4] {
    [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into(), "--".into()]
}

/// Programs that `nobody` can run, wherever the originals lie.
#[derive(Debug)]
pub(crate) struct Programs {
    dir: TempDir,
}

impl Programs {
    /// A copy of `elect`, and one of `setpriv` that is root's and set-user-id. `None`, said aloud, where that can't be.
    pub(crate) fn copy() -> Option<Self> {
        if !is_root() {
            return None;
        }
        let setpriv = tool::find("setpriv")?;
        let dir = TempDir::new().expect("a temporary directory can be made");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        let programs = Self { dir };
        programs.place(&elect::program(), "elect", 0o755);
        programs.place(&setpriv, "become", 0o4755);
        Some(programs)
    }

    fn place(&self, from: &Path, name: &str, mode: u32) {
        let to = self.path(name);
        fs::copy(from, &to).expect("a program can be copied");
        fs::set_permissions(&to, fs::Permissions::from_mode(mode)).expect("it is ours");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `elect run` as `nobody`, to be given flags and a command.
    pub(crate) fn run_as_nobody(&self, name: &str, endpoints: &str, ttl: &str) -> Elect {
        let elect = Elect::of("setpriv", to_nobody()).arg(self.path("elect"));
        elect.args(["run", "--name", name, "--etcd", endpoints, "--ttl", ttl])
    }

    /// The set-user-id program, in the words of a shell. Given `--reuid 0` it takes all of root's identity.
    pub(crate) fn become_root(&self) -> String {
        self.path("become").display().to_string()
    }
}
