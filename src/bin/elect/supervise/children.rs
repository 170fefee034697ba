//! The children of this process: found, killed, reaped, until there is none.
//!
//! A process that calls [`adopt_orphans`] becomes the parent of every descendant whose own parent dies, also
//! of one that left its group or session. Two rules follow, and all of the killing depends on them:
//!
//! * While a descendant is alive, there is a direct child, alive or a zombie. So "no direct child is left"
//!   means that all are gone. A process that forks in the meantime does not escape: its parent is killed, and
//!   it becomes a direct child in its turn.
//! * A direct child keeps its process id until *we* reap it. So a signal never reaches an unrelated process,
//!   and a scan of `/proc` finds every child that existed throughout it.
//!
//! Only reaping decides that a process is gone. `/proc` shows a process as a zombie as soon as its main
//! thread has ended, however many other threads run on; and it may hide processes altogether.
//!
//! No cgroup is used. Out of reach are a process in uninterruptible sleep, and one that runs as a user whom
//! we may not signal. This waits for them, and [`Rest`] names them.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use leader_election::clock::Timestamp;
use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, kill, killpg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getpgid},
};
use tracing::error;

/// Processes that a round of killing leaves to the next one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rest {
    /// True if there was a child.
    pub(crate) any: bool,
    /// Processes that we may not signal.
    pub(crate) refused: Vec<Pid>,
}

/// Time between two rounds of killing.
const RETRY: Duration = Duration::from_millis(2);

/// The same, if only processes are left that can't be killed.
const RETRY_IN_VAIN: Duration = Duration::from_millis(100);

impl Rest {
    /// Returns the time until the next round.
    pub(crate) fn again(&self) -> Duration {
        if self.refused.is_empty() { RETRY } else { RETRY_IN_VAIN }
    }
}

/// Warns about processes that may not be signalled: at once, and then at intervals.
#[derive(Debug, Default)]
pub(crate) struct Unkillable {
    next: Option<Timestamp>,
}

impl Unkillable {
    const AGAIN: Duration = Duration::from_secs(60);

    pub(crate) fn tell(&mut self, rest: &Rest, now: Timestamp) {
        if rest.refused.is_empty() || self.next.is_some_and(|next| now < next) {
            return;
        }
        self.next = Some(now + Self::AGAIN);
        for pid in &rest.refused {
            let user = fs::metadata(format!("/proc/{pid}")).map(|of| of.uid()).ok();
            error!(
                %pid,
                user,
                "this process of the command may not be killed by this user: leadership is not released, and no \
                 other command starts here, before it has ended; end it as root, and start elect run as a user who \
                 may signal its command"
            );
        }
    }
}

/// A process in `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ProcEntry {
    pid: Pid,
    parent: Pid,
    /// True if no thread of it runs any more.
    ended: bool,
}

/// Makes this process the parent of all of its descendants that lose theirs.
///
/// # Errors
///
/// If `/proc` does not show their state. All of the killing depends on it, so the check comes at the start.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    prctl::set_child_subreaper(true)?;
    must_be_ours(&own_link()?, &fs::read_to_string("/proc/self/status")?, Pid::this())?;
    // Without the kernel's list all processes are scanned, so all must be visible.
    if listed(Pid::this())?.is_none() && fs::read_to_string("/proc/1/stat").is_err() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "/proc hides processes (hidepid), and this kernel has no /proc/PID/task/TID/children; mount /proc \
             without hidepid, or start elect with CAP_SYS_PTRACE",
        ));
    }
    Ok(())
}

fn own_link() -> io::Result<String> {
    let link = fs::read_link("/proc/self").map_err(|error| {
        io::Error::new(error.kind(), format!("/proc does not show this process ({error}); {REMOUNT}"))
    })?;
    Ok(link.to_string_lossy().into_owned())
}

const REMOUNT: &str = "mount the /proc of this process's own PID namespace, as by `unshare --mount-proc` or \
                       `mount -t proc proc /proc`";

/// Returns an error unless `/proc` is that of this process's own PID namespace: in another one's, the ids
/// mean other processes.
fn must_be_ours(link: &str, status: &str, me: Pid) -> io::Result<()> {
    // From the namespace of this /proc down to the process's own: more than one means a /proc of an outer
    // one.
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let one = ids.is_none_or(|ids| ids.split_ascii_whitespace().count() == 1);
    if link == me.to_string() && one {
        return Ok(());
    }
    let why = format!("/proc belongs to another PID namespace: it shows process {me} as {link}; {REMOUNT}");
    Err(io::Error::other(why))
}

/// Kills all children but `except`, and reaps those that are dead. Repeat it until there were none.
///
/// Kills each, also one that looks like a zombie: only its main thread may have ended.
pub(crate) fn kill_all_but(except: impl Fn(Pid) -> bool) -> io::Result<Rest> {
    let mut rest = Rest::default();
    for child in children()?.into_iter().filter(|child| !except(*child)) {
        rest.any = true;
        if kill(child, Signal::SIGKILL) == Err(Errno::EPERM) && !reap(child) {
            rest.refused.push(child);
        }
        reap(child);
    }
    Ok(rest)
}

/// Reaps the dead children, but for `except`. If there were any, more may be left.
pub(crate) fn reap_all_but(except: impl Fn(Pid) -> bool) -> io::Result<Rest> {
    let mut rest = Rest::default();
    for child in children()?.into_iter().filter(|child| !except(*child)) {
        rest.any = true;
        reap(child);
    }
    Ok(rest)
}

/// Returns whether the kernel knows of no child of ours. Reaps a dead one.
pub(crate) fn none_is_left() -> bool {
    let any = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
    waitpid(Pid::from_raw(-1), Some(any)) == Err(Errno::ECHILD)
}

/// Returns whether a process of this group, other than its leader, is alive. The leader has ended, and is not
/// reaped yet; its parent adopts orphans, as we do.
pub(crate) fn group_outlives_its_leader(parent: Pid, leader: Pid) -> io::Result<bool> {
    // The remaining members are children of the parent, or descendants of those.
    let children = children_of(parent)?;
    if children.iter().all(|child| *child == leader) {
        return Ok(false);
    }
    let in_group = |pid: &Pid| *pid != leader && getpgid(Some(*pid)) == Ok(leader);
    let alive = |pid| match read_process(pid) {
        Ok(seen) => seen.is_some_and(|seen| !seen.ended),
        // A hidden process is not gone.
        Err(_) => true,
    };
    Ok(children.into_iter().chain(shown()?).filter(in_group).any(alive))
}

/// Returns the child of this process that has this process id in its own PID namespace.
pub(crate) fn child_known_as(parent: Pid, inside: Pid) -> io::Result<Option<Pid>> {
    let is_it = |child: &Pid| {
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        ids.and_then(|ids| pid(ids.split_ascii_whitespace().next_back()?)) == Some(inside)
    };
    Ok(children_of(parent)?.into_iter().find(is_it))
}

/// Signals a group whose leader is an unreaped child of ours.
pub(crate) fn signal_group(leader: Pid, signal: Signal) {
    // No process is left in it: nothing to do.
    let _ = killpg(leader, signal);
}

/// Reaps a child if it is dead, and returns whether it was.
fn reap(child: Pid) -> bool {
    !matches!(
        waitpid(child, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)),
        Ok(WaitStatus::StillAlive) | Err(Errno::EINTR)
    )
}

fn children() -> io::Result<Vec<Pid>> {
    children_of(Pid::this())
}

fn children_of(parent: Pid) -> io::Result<Vec<Pid>> {
    Ok(match listed(parent)? {
        Some(pids) => pids,
        None => processes()?.into_iter().filter(|seen| seen.parent == parent).map(|seen| seen.pid).collect(),
    })
}

/// Returns the children of each thread of a process, as the kernel lists them: this takes microseconds, where
/// a scan of every process of the machine takes milliseconds, and most machines have many. They are listed
/// even if `/proc` hides them.
///
/// proc(5) calls these lists unreliable, for they omit others when a child goes during the reading. Ours go
/// when we reap them, and not during it; those of another process may. `None`: some kernels have no such
/// lists, and a thread that ends passes its children to another, whose list may have been read before.
fn listed(parent: Pid) -> io::Result<Option<Vec<Pid>>> {
    let mut pids = Vec::new();
    for thread in fs::read_dir(format!("/proc/{parent}/task"))? {
        match fs::read_to_string(thread?.path().join("children")) {
            Ok(list) => pids.extend(list.split_ascii_whitespace().filter_map(pid)),
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(pids))
}

/// Returns all processes in `/proc`.
fn shown() -> io::Result<Vec<Pid>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        pids.extend(entry?.file_name().to_str().and_then(pid));
    }
    Ok(pids)
}

fn processes() -> io::Result<Vec<ProcEntry>> {
    shown()?.into_iter().filter_map(|pid| read_process(pid).transpose()).collect()
}

/// Reads a process; `None` if it is gone.
fn read_process(pid: Pid) -> io::Result<Option<ProcEntry>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => Ok(parse(pid, &stat)),
        Err(error) if is_gone(&error) => Ok(None),
        // Hidden from us, or no file descriptor left. Neither counts as gone.
        Err(error) => Err(error),
    }
}

fn pid(text: &str) -> Option<Pid> {
    text.parse().ok().map(Pid::from_raw)
}

fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::ENOENT, Errno::ESRCH];
    error.raw_os_error().is_some_and(|error| gone.contains(&Errno::from_raw(error)))
}

/// Number of fields between a process's parent and the number of its threads.
const PARENT_TO_THREADS: usize = 15;

/// Parses `PID (NAME) STATE PARENT …`, where NAME may have any content: proc(5).
fn parse(pid: Pid, stat: &str) -> Option<ProcEntry> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    // The state of the main thread. Others may run on.
    let main_ended = matches!(fields.next()?, "Z" | "X");
    let parent = Pid::from_raw(fields.next()?.parse().ok()?);
    let threads: u32 = fields.nth(PARENT_TO_THREADS)?.parse().ok()?;
    Some(ProcEntry { pid, parent, ended: main_ended && threads <= 1 })
}

/// The children that this process started itself. Others are orphans.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChildRegistry(Arc<Mutex<BTreeSet<i32>>>);

/// Keeps a child in the [`ChildRegistry`] for as long as it lives.
#[derive(Debug)]
pub(crate) struct ChildEntry {
    registry: ChildRegistry,
    pid: i32,
}

impl ChildRegistry {
    /// Enters a child. Do it right after starting it, before any await.
    #[must_use = "dropping it makes the child a stray"]
    pub(crate) fn enter(&self, pid: Pid) -> ChildEntry {
        self.known().insert(pid.as_raw());
        ChildEntry { registry: self.clone(), pid: pid.as_raw() }
    }

    /// Kills the orphans, and reaps those that are dead. Repeat it until there were none.
    pub(crate) fn kill_orphans(&self) -> io::Result<Rest> {
        let known = self.known().clone();
        kill_all_but(|pid| known.contains(&pid.as_raw()))
    }

    /// Reaps the orphans that are dead.
    pub(crate) fn reap_orphans(&self) -> io::Result<Rest> {
        let known = self.known().clone();
        reap_all_but(|pid| known.contains(&pid.as_raw()))
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        // Each change is complete by itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ChildEntry {
    fn drop(&mut self) {
        self.registry.known().remove(&self.pid);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sys::wait::{Id, waitid};

    use super::*;

    /// The fields of a real process, but for the first.
    fn stat(name: &str, state: &str, threads: u32) -> String {
        format!("7 ({name}) {state} 3 5 4 0 -1 4227084 84 0 0 0 0 0 0 0 20 0 {threads} 0 306566 0 0")
    }

    #[test]
    fn a_name_with_brackets_and_spaces_is_parsed() {
        let seen = parse(Pid::from_raw(7), &stat("a) Z (9 9) b", "S", 1)).unwrap();
        assert_eq!(seen, ProcEntry { pid: Pid::from_raw(7), parent: Pid::from_raw(3), ended: false });
    }

    #[test]
    fn a_process_whose_main_thread_has_ended_lives_on_in_the_others() {
        let ended = |state, threads| parse(Pid::from_raw(7), &stat("a", state, threads)).unwrap().ended;
        assert!(ended("Z", 1), "the zombie itself is counted");
        assert!(!ended("Z", 2));
        assert!(!ended("S", 1));
    }

    #[test]
    fn a_proc_of_another_namespace_is_refused() {
        let me = Pid::from_raw(7);
        let says = |link, status| must_be_ours(link, status, me).map_err(|error| error.to_string());
        assert_eq!(says("7", "Name:\telect\nNSpid:\t7\nNSpgid:\t7\n"), Ok(()));
        assert_eq!(says("7", "Name:\telect\n"), Ok(()), "a kernel without namespaces");
        let refused = says("4711", "NSpid:\t4711\t7\n").unwrap_err();
        assert!(refused.contains("/proc") && refused.contains("mount"), "{refused}");
        assert!(says("7", "NSpid:\t7\t7\n").is_err(), "by chance the same id in both");
    }

    #[test]
    fn children_are_found_in_the_kernels_list_as_among_all_processes_the_dead_ones_too() {
        let start = |program: &str, arg: &str| Command::new(program).arg(arg).spawn().unwrap();
        let mut started = [start("sleep", "60"), start("true", "")];
        let pids = started.each_ref().map(|child| Pid::from_raw(child.id().cast_signed()));
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(pids[1]), peek).unwrap();
        let seen = processes().unwrap();
        let of = |pid: Pid| *seen.iter().find(|seen| seen.pid == pid).unwrap();
        assert_eq!(
            pids.map(|pid| (of(pid).parent, of(pid).ended)),
            [(Pid::this(), false), (Pid::this(), true)]
        );
        let listed = listed(Pid::this()).unwrap();
        assert!(listed.is_none_or(|listed| pids.iter().all(|pid| listed.contains(pid))));
        started[0].kill().unwrap();
        for child in &mut started {
            child.wait().unwrap();
        }
    }

    #[test]
    fn this_process_is_seen() {
        assert!(processes().unwrap().iter().any(|seen| seen.pid == Pid::this() && !seen.ended));
    }
}
