//! A process and its descendants, by the kernel's `/proc`.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

/// Resources of a process and its descendants.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) resident_mib: f64,
    pub(crate) anonymous_mib: f64,
    /// User and system time.
    pub(crate) on_cpu: Duration,
}

/// Sums over the family of `process`, without processes that run `except`: a runner's command does not count.
pub(crate) fn usage(process: u32, except: &Path) -> Usage {
    let counted = members(process).into_iter().filter(|pid| !runs(*pid, except));
    counted.filter_map(usage_of).fold(Usage::default(), |sum, one| Usage {
        resident_mib: sum.resident_mib + one.resident_mib,
        anonymous_mib: sum.anonymous_mib + one.anonymous_mib,
        on_cpu: sum.on_cpu + one.on_cpu,
    })
}

/// The process itself and its descendants; children after their parents.
pub(crate) fn members(process: u32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in all() {
        if let Some(parent) = field(pid, 1) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![process.cast_signed()];
    let mut next = 0;
    while next < found.len() {
        found.extend(children.get(&found[next]).into_iter().flatten());
        next += 1;
    }
    found
}

/// Stops the whole family as a suspended machine does, until this is dropped or [`thaw`](Self::thaw)ed.
#[derive(Debug)]
pub(crate) struct Suspended(Vec<i32>);

impl Suspended {
    pub(crate) fn family_of(process: u32) -> Self {
        let members = members(process);
        for pid in &members {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGSTOP);
        }
        Self(members)
    }

    pub(crate) fn thaw(self) {}
}

impl Drop for Suspended {
    fn drop(&mut self) {
        // The youngest first: a supervisor wakes after its child, which is the harder case.
        for pid in self.0.iter().rev() {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGCONT);
        }
    }
}

pub(crate) fn signal_group(group: u32, signal: Signal) {
    // It may have exited by itself.
    let _ = killpg(Pid::from_raw(group.cast_signed()), signal);
}

/// Kills the processes of a group that run this program; the group's leader may be gone.
pub(crate) fn kill_group(group: u32, program: &Path) {
    for pid in
        all().into_iter().filter(|pid| field(*pid, 2) == Some(group.cast_signed()) && runs(*pid, program))
    {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn runs(pid: i32, program: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program)
}

/// A number of `/proc/PID/stat`, counted from the state on: 1 is the parent, 2 the group.
fn field(pid: i32, index: usize) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(index)?.parse().ok()
}

fn usage_of(pid: i32) -> Option<Usage> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mib = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        let kib = line.trim_start_matches(':').trim().trim_end_matches(" kB");
        Some(kib.parse::<f64>().ok()? / 1024.0)
    };
    Some(Usage { resident_mib: mib("VmRSS")?, anonymous_mib: mib("RssAnon")?, on_cpu: on_cpu(pid) })
}

/// From the scheduler, since `/proc/PID/stat` counts in hundredths of a second.
fn on_cpu(pid: i32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanos = threads.filter_map(|thread| {
        let schedstat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        schedstat.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}
