//! A group of processes that may have only so much memory together, by the kernel's cgroups of either version.

use std::{fs, path::PathBuf, process};

use super::eventually::eventually;
use crate::support::server::SOON;

/// Where the controllers are mounted, and what their limit is called: version 2, version 1.
const KINDS: [(&str, &str); 2] =
    [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];

/// A group, removed with its handle. Whoever is still in it then is killed.
#[derive(Debug)]
pub(crate) struct MemoryGroup {
    path: PathBuf,
}

impl MemoryGroup {
    /// `None` where this process may not make one, or memory is not among what is controlled.
    pub(crate) fn create(bytes: u64) -> Option<Self> {
        KINDS.iter().find_map(|(mounted, limit)| {
            let path =
                PathBuf::from(mounted).join(format!("elect-test-{}-{}", process::id(), fastrand::u32(..)));
            fs::create_dir(&path).ok()?;
            let group = Self { path };
            // Only a controller has such a file; elsewhere a directory is no group, or not for memory.
            let controlled = group.path.join("cgroup.procs").exists() && group.path.join(limit).exists();
            (controlled && fs::write(group.path.join(limit), bytes.to_string()).is_ok()).then_some(group)
        })
    }

    /// Where a process enters itself, by its id.
    pub(crate) fn processes(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    #[track_caller]
    pub(crate) fn add(&self, process: u32) {
        fs::write(self.processes(), process.to_string()).expect("it is ours, and runs");
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let kill = |pid: &str| {
            pid.parse().map(|pid| {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            })
        };
        eventually(SOON, "the group to be empty", || {
            for pid in fs::read_to_string(self.processes()).unwrap_or_default().lines() {
                let _ = kill(pid);
            }
            let gone = fs::remove_dir(&self.path).is_ok() || !self.path.exists();
            gone.then_some(())
        });
    }
}
