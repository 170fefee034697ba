//! Groups of processes by the kernel's cgroups: with a memory limit (version 1 or 2), or to be frozen (version 2).

use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{clock::BootTime, eventually::eventually, run::descendants_of};
use crate::support::server::SOON;

/// Mount points of the controllers, with the name of the limit: version 2, version 1.
const KINDS: [(&str, &str); 2] =
    [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];

/// A group, removed with its handle. Processes that are still in it are killed.
#[derive(Debug)]
pub(crate) struct MemoryGroup {
    path: PathBuf,
}

impl MemoryGroup {
    /// `None` if this process may not make one, or memory is not controlled.
    pub(crate) fn create(bytes: u64) -> Option<Self> {
        KINDS.iter().find_map(|(mounted, limit)| {
            let path =
                PathBuf::from(mounted).join(format!("elect-test-{}-{}", process::id(), fastrand::u32(..)));
            fs::create_dir(&path).ok()?;
            let group = Self { path };
            // Only a controller's directory has such a file.
            let controlled = group.path.join("cgroup.procs").exists() && group.path.join(limit).exists();
            (controlled && fs::write(group.path.join(limit), bytes.to_string()).is_ok()).then_some(group)
        })
    }

    /// The file in which a process enters itself, by its id.
    pub(crate) fn processes(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    #[track_caller]
    pub(crate) fn add(&self, process: u32) {
        fs::write(self.processes(), process.to_string()).expect("it is ours, and runs");
    }
}

/// Mount points of version 2, alone or beside version 1.
const UNIFIED: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// A group that can be frozen, removed with its handle. Processes that are still in it are killed.
#[derive(Debug)]
pub(crate) struct FreezerGroup {
    path: PathBuf,
}

impl FreezerGroup {
    /// `None`, with a message, if this process may not make one.
    pub(crate) fn create() -> Option<Self> {
        let made = UNIFIED.iter().find_map(|mounted| {
            let path =
                PathBuf::from(mounted).join(format!("elect-test-{}-{}", process::id(), fastrand::u32(..)));
            fs::create_dir(&path).ok()?;
            let group = Self { path };
            group.path.join("cgroup.freeze").exists().then_some(group)
        });
        if made.is_none() {
            eprintln!("skipped: no cgroup of version 2 can be made here");
        }
        made
    }

    /// Enters a process and all its descendants.
    #[track_caller]
    pub(crate) fn add_with_descendants(&self, process: u32) {
        for pid in descendants_of(process).into_iter().chain([process]) {
            fs::write(self.path.join("cgroup.procs"), pid.to_string()).expect("it is ours, and runs");
        }
    }

    /// Freezes the group. Returns a moment by which all of it stood still.
    #[track_caller]
    pub(crate) fn freeze(&self) -> BootTime {
        self.set("1");
        eventually(SOON, "the group to freeze", || {
            let events = fs::read_to_string(self.path.join("cgroup.events")).ok()?;
            events.lines().any(|line| line == "frozen 1").then(BootTime::now)
        })
    }

    pub(crate) fn thaw(&self) {
        self.set("0");
    }

    fn set(&self, frozen: &str) {
        fs::write(self.path.join("cgroup.freeze"), frozen).expect("it is ours");
    }
}

impl Drop for FreezerGroup {
    fn drop(&mut self) {
        end(&self.path);
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        end(&self.path);
    }
}

/// Kills the processes in a group, and removes it.
fn end(group: &Path) {
    eventually(SOON, "the group to be empty", || {
        for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Ok(pid) = pid.parse() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        (fs::remove_dir(group).is_ok() || !group.exists()).then_some(())
    });
}
