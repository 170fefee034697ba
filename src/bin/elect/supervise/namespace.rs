//! The PID namespace of a command, where one can be made.
//!
//! A trial decides whether one may be made: root mostly may; Docker's default profile forbids it, as does
//! systemd's `RestrictNamespaces=`. No user namespace is made, since set-user-id programs would not work in
//! it.

use std::{
    fmt,
    fs::{self, File},
    io,
    process::{self, Child, Command},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

use super::contain::Contain;

/// The means that keep a command's processes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contained {
    /// The init of a PID namespace.
    Namespace,
    /// A child subreaper.
    Reaper,
}

/// The decision, and its description.
#[derive(Debug)]
pub(crate) struct Containment {
    pub(crate) how: Contained,
    /// Logged at the start, and printed by `--explain`.
    description: String,
}

impl Containment {
    /// # Errors
    ///
    /// With the remedy, if a namespace was requested and can't be made.
    pub(crate) fn decide(asked: Option<Contain>) -> Result<Self, String> {
        if asked == Some(Contain::None) {
            return Ok(Self::without_namespace("--contain none"));
        }
        match (try_namespace(), asked) {
            (Ok(()), _) => Ok(Self::in_namespace()),
            (Err(error), Some(_)) => Err(format!(
                "--contain pid: no PID namespace can be made here: {error}; run it as root, allow namespaces, or leave \
                 --contain out"
            )),
            (Err(error), None) => Ok(Self::without_namespace(&format!("none can be made here: {error}"))),
        }
    }

    fn in_namespace() -> Self {
        let own_proc = mounts_are_passed_on().unwrap_or(false);
        let proc = match own_proc {
            true => "; its /proc shows its own processes",
            false => {
                "; its /proc shows those of the machine, by other ids than its own, since not all mounts are shared"
            }
        };
        let description = format!(
            "the command has a PID namespace: the kernel ends all of it, whichever of elect's processes are killed{proc}"
        );
        Self { how: Contained::Namespace, description }
    }

    fn without_namespace(why: &str) -> Self {
        let without = match process::id() {
            1 => "none is needed: elect is process 1 here, and the kernel ends everything with it",
            _ => {
                "should all of elect's processes be killed at one moment, what the command started lives on, and so does \
                 a command that changed its credentials"
            }
        };
        let description = format!("the command has no PID namespace ({why}): {without}");
        Self { how: Contained::Reaper, description }
    }
}

impl fmt::Display for Containment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

impl Contained {
    /// Returns it as an argument of `elect init`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Reaper => "reaper",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::Namespace, Self::Reaper].into_iter().find(|contained| contained.name() == name)
    }

    /// Starts a process as process 1 of a new namespace, or as an ordinary child.
    pub(crate) fn spawn(self, init: &mut Command) -> io::Result<Child> {
        match self {
            Self::Reaper => init.spawn(),
            Self::Namespace => in_namespace(|| init.spawn())?,
        }
    }
}

fn try_namespace() -> io::Result<()> {
    in_namespace(|| ())
}

/// Runs `what`, whose children are in a new PID namespace; the first of them is its process 1. This process
/// and its later children stay outside.
fn in_namespace<T>(what: impl FnOnce() -> T) -> io::Result<T> {
    let own = File::open("/proc/self/ns/pid")?;
    unshare(CloneFlags::CLONE_NEWPID)?;
    let done = what();
    // The kernel refuses threads in between.
    setns(own, CloneFlags::CLONE_NEWPID)?;
    Ok(done)
}

/// Mounts a `/proc` that shows this process's PID namespace, if that hides no mount.
///
/// It takes a mount namespace. Nevertheless all other processes must see the command's mounts, since failover
/// is often about taking over a file system. So this is done only if every mount is *shared*: then mounts and
/// unmounts propagate in both directions, except for those at `/proc`.
pub(crate) fn mount_own_proc() -> io::Result<()> {
    if !mounts_are_passed_on()? {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/proc", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("proc"), "/proc", Some("proc"), flags, none)?)
}

fn mounts_are_passed_on() -> io::Result<bool> {
    Ok(passes_mounts_on(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// Returns whether all mounts but `/proc` and those in it are shared: proc(5), `mountinfo`.
fn passes_mounts_on(mountinfo: &str) -> bool {
    let mut mounts = mountinfo.lines().map(|line| {
        let mut fields = line.split(' ');
        let at = fields.nth(4).unwrap_or_default();
        let mut optional = fields.skip(1).take_while(|field| *field != "-");
        (at, optional.any(|field| field.starts_with("shared:")))
    });
    mounts.all(|(at, shared)| shared || at == "/proc" || at.starts_with("/proc/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "24 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n";
    const PROC: &str =
        "25 24 0:22 / /proc rw,nosuid - proc proc rw\n31 25 0:28 / /proc/sys/fs/x rw - autofs x rw\n";

    #[test]
    fn mounts_are_passed_on_where_each_is_shared_but_for_proc() {
        let with = |line: &str| passes_mounts_on(&[ROOT, PROC, line].concat());
        assert!(with(""));
        assert!(with("40 24 0:30 / /srv rw shared:7 master:2 - tmpfs tmpfs rw\n"));
        for private in ["rw", "rw master:3", "rw unbindable"] {
            assert!(!with(&format!("40 24 0:30 / /srv {private} - tmpfs shared:1 rw\n")), "{private}");
        }
        assert!(!with("40 24 0:30 / /processes rw - tmpfs tmpfs rw\n"));
    }
}
