//! The children of this process: found, killed, reaped, until there is none.
//!
//! Whoever calls [`adopt_orphans`] becomes the parent of every descendant whose own parent dies, also of one
//! that left its group or session. Two things follow, and all of the killing rests on them:
//!
//! * As long as one descendant is alive, there is a direct child, alive or a zombie. So "no direct child is
//!   left" means that all are gone. Nothing that forks in the meantime escapes: its parent is killed, and it
//!   becomes a direct child in its turn.
//! * A direct child keeps its process id until *we* reap it. So a signal never reaches a stranger, and a
//!   child that was there throughout a look at `/proc` is found by it.
//!
//! No cgroup is used. What these means can't reach: a process in uninterruptible sleep, and one that runs as
//! a user whom we may not signal. They are waited for.

use std::{
    collections::BTreeSet,
    fs, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, kill, killpg},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

/// A process as `/proc` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    pid: Pid,
    parent: Pid,
    group: Pid,
    zombie: bool,
}

/// Makes this process the parent of all of its descendants that lose theirs.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    prctl::set_child_subreaper(true)?;
    // All of the killing depends on it, so it is better missed now.
    let seen = look_at([Pid::this()])
        .map_err(|error| io::Error::new(error.kind(), format!("/proc can't be read: {error}")))?;
    if seen.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "/proc does not show this process; is it mounted?",
        ));
    }
    Ok(())
}

/// Kills all children but `except`, and reaps those that are dead. Says whether there were any.
///
/// Repeat it until there were none.
pub(crate) fn kill_all_but(except: impl Fn(Pid) -> bool) -> io::Result<bool> {
    let mut any = false;
    for child in children()?.into_iter().filter(|child| !except(child.pid)) {
        any = true;
        if !child.zombie {
            let _ = kill(child.pid, Signal::SIGKILL);
        }
        reap(child.pid);
    }
    Ok(any)
}

/// Reaps the dead children, but for `except`.
pub(crate) fn reap_all_but(except: impl Fn(Pid) -> bool) -> io::Result<()> {
    for child in children()?.into_iter().filter(|child| child.zombie && !except(child.pid)) {
        reap(child.pid);
    }
    Ok(())
}

/// Whether the kernel knows of no child of ours. Reaps one that is dead.
pub(crate) fn none_is_left() -> bool {
    let any = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
    waitpid(Pid::from_raw(-1), Some(any)) == Err(Errno::ECHILD)
}

/// Whether somebody in this group, other than its leader, is alive. The leader has ended, and is not reaped yet; its
/// parent adopts orphans, as we do.
pub(crate) fn group_outlives_its_leader(parent: Pid, leader: Pid) -> io::Result<bool> {
    // What it left behind is the parent's, or a descendant of what is.
    if children_of(parent)?.iter().all(|child| child.pid == leader) {
        return Ok(false);
    }
    let alive = |seen: Seen| seen.group == leader && seen.pid != leader && !seen.zombie;
    Ok(processes()?.into_iter().any(alive))
}

/// The child of this process that has this process id in its own PID namespace.
pub(crate) fn child_known_as(parent: Pid, inside: Pid) -> io::Result<Option<Pid>> {
    let is_it = |child: &Seen| {
        let status = fs::read_to_string(format!("/proc/{}/status", child.pid)).unwrap_or_default();
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        ids.and_then(|ids| pid(ids.split_ascii_whitespace().next_back()?)) == Some(inside)
    };
    Ok(children_of(parent)?.iter().find(|child| is_it(child)).map(|child| child.pid))
}

/// Signals a group whose leader is a child of ours that was not reaped yet.
pub(crate) fn signal_group(leader: Pid, signal: Signal) {
    // Nobody is left in it: nothing to do.
    let _ = killpg(leader, signal);
}

fn reap(child: Pid) {
    let _ = waitpid(child, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL));
}

fn children() -> io::Result<Vec<Seen>> {
    children_of(Pid::this())
}

fn children_of(parent: Pid) -> io::Result<Vec<Seen>> {
    let mut seen = match listed(parent)? {
        Some(pids) => look_at(pids)?,
        None => processes()?,
    };
    seen.retain(|seen| seen.parent == parent);
    Ok(seen)
}

/// The children of each thread of a process, as the kernel lists them: a question of microseconds, where a look at
/// every process of the machine takes milliseconds, and most machines have more than one would think.
///
/// proc(5) calls these lists unreliable, for they leave others out when a child goes while they are read. Ours go
/// when we reap them, and not while we read; those of another process may. `None`: some kernels have no such lists, and a thread that ends
/// hands its children to another, whose list may have been read before.
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

/// All processes of the machine.
fn processes() -> io::Result<Vec<Seen>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        pids.extend(entry?.file_name().to_str().and_then(pid));
    }
    look_at(pids)
}

fn look_at(pids: impl IntoIterator<Item = Pid>) -> io::Result<Vec<Seen>> {
    let mut seen = Vec::new();
    for pid in pids {
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => seen.extend(parse(pid, &stat)),
            // Gone since, or not for us to see: then not a child of ours.
            Err(error) if is_gone(&error) => {}
            // No file descriptor left, say. Not to be taken for "nobody".
            Err(error) => return Err(error),
        }
    }
    Ok(seen)
}

fn pid(text: &str) -> Option<Pid> {
    text.parse().ok().map(Pid::from_raw)
}

fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::ENOENT, Errno::ESRCH, Errno::EACCES, Errno::EPERM];
    error.raw_os_error().is_some_and(|error| gone.contains(&Errno::from_raw(error)))
}

/// `PID (NAME) STATE PARENT GROUP …`, where NAME may have anything in it.
fn parse(pid: Pid, stat: &str) -> Option<Seen> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let zombie = matches!(fields.next()?, "Z" | "X");
    let parent = Pid::from_raw(fields.next()?.parse().ok()?);
    let group = Pid::from_raw(fields.next()?.parse().ok()?);
    Some(Seen { pid, parent, group, zombie })
}

/// The children that this process started for purposes of its own. Others are strays.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kin(Arc<Mutex<BTreeSet<i32>>>);

/// Keeps a child among the [`Kin`] for as long as it lives.
#[derive(Debug)]
pub(crate) struct Known {
    kin: Kin,
    pid: i32,
}

impl Kin {
    /// Enters a child. Do it right after starting it, before anything is awaited.
    #[must_use = "dropping it makes the child a stray"]
    pub(crate) fn enter(&self, pid: Pid) -> Known {
        self.known().insert(pid.as_raw());
        Known { kin: self.clone(), pid: pid.as_raw() }
    }

    /// Kills and reaps the strays. Says whether there were any.
    pub(crate) fn kill_strays(&self) -> io::Result<bool> {
        let known = self.known().clone();
        kill_all_but(|pid| known.contains(&pid.as_raw()))
    }

    /// Reaps the strays that are dead.
    pub(crate) fn reap_strays(&self) -> io::Result<()> {
        let known = self.known().clone();
        reap_all_but(|pid| known.contains(&pid.as_raw()))
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        // Each change is whole by itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.kin.known().remove(&self.pid);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sys::wait::{Id, waitid};

    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_confuses_nobody() {
        let seen = parse(Pid::from_raw(7), "7 (a) Z (9 9) b) S 3 5 5 0 -1").unwrap();
        let expected =
            Seen { pid: Pid::from_raw(7), parent: Pid::from_raw(3), group: Pid::from_raw(5), zombie: false };
        assert_eq!(seen, expected);
        assert!(parse(Pid::from_raw(7), "7 (a) Z 3 5 5").unwrap().zombie);
    }

    #[test]
    fn children_are_found_in_the_kernels_list_as_among_all_processes_the_dead_ones_too() {
        let start = |program: &str, arg: &str| Command::new(program).arg(arg).spawn().unwrap();
        let mut started = [start("sleep", "60"), start("true", "")];
        let pids = started.each_ref().map(|child| Pid::from_raw(child.id().cast_signed()));
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(pids[1]), peek).unwrap();
        let of = |seen: Vec<Seen>| pids.map(|pid| *seen.iter().find(|seen| seen.pid == pid).unwrap());
        assert_eq!(of(children().unwrap()), of(processes().unwrap()));
        assert_eq!(
            of(children().unwrap()).map(|seen| (seen.parent, seen.zombie)),
            [(Pid::this(), false), (Pid::this(), true)]
        );
        if let Some(listed) = listed(Pid::this()).unwrap() {
            assert!(pids.iter().all(|pid| listed.contains(pid)), "{listed:?}");
        }
        started[0].kill().unwrap();
        for child in &mut started {
            child.wait().unwrap();
        }
    }

    #[test]
    fn this_process_is_seen() {
        assert!(processes().unwrap().iter().any(|seen| seen.pid == Pid::this() && !seen.zombie));
    }
}
