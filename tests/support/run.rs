//! `elect run` processes and their guards.

use std::{
    fs,
    ops::{Deref, DerefMut},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    capture::{Captured, Mark},
    clock::BootTime,
    elect::Elect,
    eventually::eventually,
    server::SOON,
};

/// A running `elect run`, with the full log on its standard error.
#[derive(Debug)]
pub(crate) struct Run {
    captured: Captured,
}

/// `elect run --name NAME --etcd ENDPOINTS --ttl TTL`; a test adds a command.
pub(crate) fn elect_run(name: &str, endpoints: &str, ttl: &str) -> Elect {
    Elect::new(["run", "--name", name, "--etcd", endpoints, "--ttl", ttl])
}

impl Run {
    pub(crate) fn start(elect: Elect) -> Self {
        Self { captured: elect.start() }
    }

    /// Waits until it is in the queue behind another candidate.
    #[track_caller]
    pub(crate) fn wait_until_follower(&self) {
        self.wait_for_log(Mark::START, "I am a follower.");
    }

    /// Waits for a line of the log since `mark` that contains this.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, mark: Mark, part: &str) -> Mark {
        self.wait_for_line_since(mark, |line: &str| line.contains(part), SOON).mark()
    }

    /// Waits until it exits, with this code.
    #[track_caller]
    pub(crate) fn exits(&mut self, code: i32) {
        let status = self.captured.wait_exit(SOON);
        assert_eq!(status.code(), Some(code), "stderr: {:#?}", self.stderr());
    }

    /// Its guard, also in a container.
    #[track_caller]
    pub(crate) fn guard(&self) -> Guard {
        let processes = || descendants_of(self.id()).into_iter().map(u32::cast_signed);
        let pid = eventually(SOON, "a guard", || processes().find(|pid| is_guard(*pid)));
        Guard { pid: Pid::from_raw(pid), frozen: false }
    }
}

impl Deref for Run {
    type Target = Captured;

    fn deref(&self) -> &Captured {
        &self.captured
    }
}

impl DerefMut for Run {
    fn deref_mut(&mut self) -> &mut Captured {
        &mut self.captured
    }
}

/// A guard. A frozen one is killed when this is dropped, as it could not exit by itself.
#[derive(Debug)]
pub(crate) struct Guard {
    pid: Pid,
    frozen: bool,
}

impl Guard {
    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("the guard is there");
    }

    /// Ends it by SIGKILL. Returns a moment before that.
    pub(crate) fn kill(&self) -> BootTime {
        let before = BootTime::now();
        self.signal(Signal::SIGKILL);
        before
    }

    /// Stops it by SIGSTOP. Returns a moment by which it stood still.
    #[track_caller]
    pub(crate) fn freeze(&mut self) -> BootTime {
        self.frozen = true;
        self.signal(Signal::SIGSTOP);
        eventually(Duration::from_secs(10), "the guard to freeze", || {
            (state_of(self.pid.as_raw())? == "T").then(BootTime::now)
        })
    }

    /// The parent of the command.
    #[track_caller]
    pub(crate) fn init(&self) -> Guarded {
        Guarded(eventually(SOON, "an init", || first_child(self.pid)))
    }

    /// The guarded command.
    #[track_caller]
    pub(crate) fn command(&self) -> Guarded {
        let init = self.init().0;
        Guarded(eventually(SOON, "a command", || first_child(init)))
    }

    /// Reports whether it has ended.
    pub(crate) fn is_gone(&self) -> bool {
        kill(self.pid, None).is_err()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.frozen && is_guard(self.pid.as_raw()) {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }
}

/// A command under a guard, its init, or a descendant. It keeps its process id for as long as guard and `elect run` are stopped, which would reap it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guarded(Pid);

impl Guarded {
    /// A descendant of an init.
    pub(crate) fn of(id: u32) -> Self {
        Self(Pid::from_raw(id.cast_signed()))
    }

    pub(crate) fn id(self) -> u32 {
        self.0.as_raw().cast_unsigned()
    }

    pub(crate) fn signal(self, signal: Signal) {
        kill(self.0, signal).expect("it is there");
    }

    /// Stops it by SIGSTOP.
    pub(crate) fn stop(self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Reports whether it is stopped.
    pub(crate) fn is_stopped(self) -> bool {
        state_of(self.0.as_raw()).is_some_and(|state| state == "T")
    }

    /// Ends it by SIGKILL.
    pub(crate) fn kill(self) {
        kill(self.0, Signal::SIGKILL).expect("the command is there");
    }

    /// Reports whether it has ended, reaped or not.
    pub(crate) fn has_ended(self) -> bool {
        state_of(self.0.as_raw()).is_none_or(|state| state == "Z")
    }
}

fn first_child(parent: Pid) -> Option<Pid> {
    children_of(parent.as_raw().cast_unsigned())?.first().copied().map(Pid::from_raw)
}

/// All descendants of a process.
pub(crate) fn descendants_of(process: u32) -> Vec<u32> {
    let children = children_of(process).unwrap_or_default().into_iter().map(i32::cast_unsigned);
    children.flat_map(|child| [vec![child], descendants_of(child)].concat()).collect()
}

fn children_of(parent: u32) -> Option<Vec<i32>> {
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Some(pids.filter(|pid: &i32| parent_of(*pid) == Some(parent)).collect())
}

fn is_guard(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with("elect\0guard\0"))
}

fn parent_of(pid: i32) -> Option<u32> {
    field(pid, 1)?.parse().ok()
}

fn state_of(pid: i32) -> Option<String> {
    field(pid, 0)
}

/// A field of `/proc/PID/stat`, counted from the state.
fn field(pid: i32, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(index).map(str::to_owned)
}
