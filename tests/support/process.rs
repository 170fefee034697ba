//! A child process that never outlives its test.
//!
//! * Dropping a [`Process`] kills and reaps it, frozen or not.
//! * If the test process dies first (SIGKILL, a timeout of the runner), the kernel kills the child: it is
//!   started through `setpriv --pdeathsig`, since setting that from Rust would take unsafe code. Where there
//!   is no `setpriv`, only this second safeguard is missing.
//! * [`Process::start`] returns once both hold.
//! * A signal goes to a process id only while we have not reaped it, so never to a stranger.

use std::{
    fs, io,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, mpsc},
    thread,
    time::Duration,
};

use nix::{
    sys::{
        signal::{self, Signal},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};

use super::{clock::BootTime, eventually::eventually};

/// Time for the kernel to act on a signal that cannot be refused; generous for machines under load.
const KERNEL_DEADLINE: Duration = Duration::from_secs(10);

/// The program that asks the kernel to kill a child together with its parent, and then becomes the child's
/// program.
const SETPRIV: &str = "setpriv";

/// A command that the kernel will kill together with this test process.
///
/// Its environment is this process's own; the caller clears what must not leak in.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    static HAS_SETPRIV: LazyLock<bool> = LazyLock::new(|| {
        let works =
            Command::new(SETPRIV).args(["--pdeathsig", "KILL", "--", "true"]).stderr(Stdio::null()).status();
        works.is_ok_and(|status| status.success())
    });

    if *HAS_SETPRIV {
        let mut command = Command::new(SETPRIV);
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

/// A running or ended child.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`. `name` is for messages.
    pub(crate) fn start(name: &str, command: Command) -> Self {
        let child = spawn(command).unwrap_or_else(|error| panic!("failed to start {name}: {error}"));
        let mut process = Self { name: name.to_owned(), child, status: None };
        // Until then it would outlive us.
        eventually(KERNEL_DEADLINE, "setpriv to have done its work", || {
            let started = process.status().is_some() || process.command_name() != SETPRIV;
            started.then_some(())
        });
        process
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn child_mut(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its exit status, or `None` while it runs.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("we are its parent and reap it only here");
        }
        self.status
    }

    /// Sends a signal, unless the process has already been seen to end.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            signal::kill(self.pid(), signal)
                .unwrap_or_else(|error| panic!("failed to signal {}: {error}", self.name));
        }
    }

    /// Ends it by SIGKILL, even if frozen, and reaps it.
    pub(crate) fn kill(&mut self) -> ExitStatus {
        self.signal(Signal::SIGKILL);
        self.wait_exit(KERNEL_DEADLINE)
    }

    /// Stops it by SIGSTOP. Returns a moment by which every thread of it stood still.
    pub(crate) fn freeze(&mut self) -> BootTime {
        self.signal(Signal::SIGSTOP);
        let what = format!("{} to freeze", self.name);
        eventually(KERNEL_DEADLINE, &what, || {
            let status = self.status();
            assert_eq!(status, None, "{} ended before it could be frozen", self.name);
            let stopped = waitid(Id::Pid(self.pid()), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG);
            matches!(stopped, Ok(WaitStatus::Stopped(..))).then(BootTime::now)
        })
    }

    /// Resumes it by SIGCONT. Returns a moment at which it still stood still.
    pub(crate) fn thaw(&mut self) -> BootTime {
        let frozen_until = BootTime::now();
        self.signal(Signal::SIGCONT);
        frozen_until
    }

    /// Waits until it exits by itself.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        let what = format!("{} to exit", self.name);
        eventually(within, &what, || self.status())
    }

    /// The kernel's name for the program it runs; empty once it is gone.
    fn command_name(&self) -> String {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.id())).unwrap_or_default();
        name.trim_end().to_owned()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("Linux process ids are below 2^22"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL needs no SIGCONT before it. Nothing here panics: the test may be unwinding already.
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Starts every child from one thread that lives as long as this process does.
///
/// `--pdeathsig` counts from the death of the *thread* that started the child. A thread of a runtime's
/// blocking pool may end within a test.
fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::SyncSender<io::Result<Child>>);
    static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        let serve = move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        };
        thread::Builder::new().name("spawner".to_owned()).spawn(serve).expect("a test can start a thread");
        orders
    });

    let (reply, child) = mpsc::sync_channel(1);
    SPAWNER.send((command, reply)).expect("the spawner serves as long as this process runs");
    child.recv().expect("the spawner answers each order")
}

/// Memory in use by a process, in KiB.
#[track_caller]
pub(crate) fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let line = line.expect("a running process has memory");
    line.trim().trim_end_matches(" kB").parse().expect("it is a number")
}
