//! Set-ups that need root: other users, set-user-id programs, PID namespaces.

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

/// The kernel's overflow user and group, which own nothing.
const OVERFLOW_ID: &str = "65534";

/// Reports whether this is root; prints that the test is skipped if not.
pub(crate) fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: it needs root");
    }
    root
}

/// Reports whether a process's own mount namespace allows mounts; prints that the test is skipped if not.
pub(crate) fn can_mount() -> bool {
    let tried =
        Command::new("unshare").args(["--mount", "mount", "--bind", "/etc/hosts", "/etc/hosts"]).output();
    let can = tried.is_ok_and(|tried| tried.status.success());
    if !can {
        eprintln!("skipped: nothing can be mounted here");
    }
    can
}

/// A program as an unprivileged user.
pub(crate) fn as_unprivileged(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(without_privileges()).arg(program);
    command
}

fn without_privileges() -> [String; 4] {
    [format!("--reuid={OVERFLOW_ID}"), format!("--regid={OVERFLOW_ID}"), "--clear-groups".into(), "--".into()]
}

/// Programs that an unprivileged user can run, wherever the originals are.
#[derive(Debug)]
pub(crate) struct Programs {
    dir: TempDir,
}

impl Programs {
    /// Copies `elect`, and `setpriv` as root's set-user-id program. `None`, with a message, where that can't be.
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

    /// `elect run` as an unprivileged user; a test adds flags and a command.
    pub(crate) fn run_unprivileged(&self, name: &str, endpoints: &str, ttl: &str) -> Elect {
        let elect = Elect::of("setpriv", without_privileges()).arg(self.path("elect"));
        elect.args(["run", "--name", name, "--etcd", endpoints, "--ttl", ttl])
    }

    /// The set-user-id program, quoted for a shell. With `--reuid 0` it takes all of root's identity.
    pub(crate) fn become_root(&self) -> String {
        self.path("become").display().to_string()
    }
}
