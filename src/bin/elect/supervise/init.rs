//! `elect init`: the parent of COMMAND, and of all processes that COMMAND leaves behind.
//!
//! ```text
//!  guard ── orders, by a pipe ──► init ── starts ──► COMMAND (a group of its own) ──► …
//!         ◄── reports, by a pipe ──
//! ```
//!
//! COMMAND may change its credentials, and then the kernel drops its link to another process's death
//! (`PR_SET_PDEATHSIG`): every daemon that gives up root does that. This process keeps its credentials. Its
//! action at the guard's death depends on how it was started:
//!
//! * [`Contained::Namespace`]: it is process 1 of a PID namespace. The kernel kills it together with the
//!   guard, and all of the namespace with it: stopped or frozen, whatever its credentials, and before it
//!   reaps this process.
//! * [`Contained::Reaper`]: it is a child subreaper. It finds the pipe closed, and kills the processes below
//!   it until there is none. Its parent-death signal is SIGCONT: a stopped one then runs on. COMMAND is
//!   started through the [`shim`], so a COMMAND that kept its credentials also dies with this process. If
//!   this process can't run, frozen with its cgroup, the kernel kills it shortly after the guard
//!   ([`DeadMansSwitch`]).
//!
//! While the guard lives, this process only forwards: signals to COMMAND's group, COMMAND's end to the guard.
//! It ends nothing by itself. It is in a process group of its own, and ignores all signals but KILL and STOP.
//!
//! It is started before a win, so that a new leader's command need not wait for it.

use std::{
    env,
    ffi::OsString,
    io,
    os::{fd::AsFd, unix::process::CommandExt},
    process::{Child, Command, ExitCode},
    thread::sleep,
    time::Duration,
};

use leader_election::clock::Timestamp;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::{
    children,
    deadman::DeadMansSwitch,
    guard::ended,
    namespace::{self, Contained},
    protocol::{self, CommandExit, PipeSender, PolledPipe, WireTimestamp},
    shim,
};

/// The argument that turns this program into one. Not for users, so the command line does not know it.
pub(crate) const NAME: &str = "init";

/// Time for an init without a namespace to kill the processes below it, before it is killed itself. It takes
/// a few milliseconds.
pub(crate) const BY_ITSELF: Duration = Duration::from_millis(50);

/// Time after the guard's own end at which the kernel ends a subreaper that could not run.
const AFTER_GUARD: Duration = Duration::from_millis(50);

/// A message from the guard to its init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum InitOrder {
    /// Start the command. Once.
    Start { token: String, cluster: String, backstop: WireTimestamp },
    /// The guard's own end was moved to this moment.
    Backstop(WireTimestamp),
    /// Send this signal to the command's group.
    Signal(i32),
}

/// A message from an init to its guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum InitReport {
    /// The command's process id, as its init sees it.
    Started { pid: i32 },
    /// The command ended. Its children may be alive.
    Ended(CommandExit),
}

/// The parsed command line.
struct InitConfig {
    contained: Contained,
    orders: i32,
    reports: i32,
    command: Vec<OsString>,
}

/// Serves a guard, if this process was started as an init.
pub(crate) fn serve() -> Option<ExitCode> {
    let given = InitConfig::parse(env::args_os().skip(1))?;
    Some(match Init::begin(given).and_then(Init::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("elect: the command's init failed: {error}");
            ExitCode::FAILURE
        }
    })
}

impl InitConfig {
    fn parse(mut words: impl Iterator<Item = OsString>) -> Option<Self> {
        if words.next()? != NAME {
            return None;
        }
        let contained = Contained::parse(words.next()?.to_str()?)?;
        let mut number = || words.next()?.to_str()?.parse().ok();
        let (orders, reports) = (number()?, number()?);
        Some(Self { contained, orders, reports, command: words.collect() })
    }
}

struct Init {
    contained: Contained,
    orders: PolledPipe<InitOrder>,
    reports: PipeSender<InitReport>,
    command: Vec<OsString>,
    running: Option<InitChild>,
}

/// The command, and what supervises it.
struct InitChild {
    child: Child,
    /// Also the id of its group, until it is reaped.
    pid: Pid,
    reaped: bool,
    ended: bool,
    /// For the case that this process can't run.
    switch: Option<DeadMansSwitch>,
    children: SignalFd,
}

impl Init {
    fn begin(InitConfig { contained, orders, reports, command }: InitConfig) -> io::Result<Self> {
        let orders = PolledPipe::new(protocol::inherited_source(orders)?)?;
        let reports = PipeSender::new(protocol::inherited_sink(reports)?)?;
        let _ = prctl::set_name(c"elect-init");
        // The end of the pipe shows a guard that died before this.
        match contained {
            Contained::Namespace => {
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                // On failure: a /proc of the machine's, with other ids in it.
                let _ = namespace::mount_own_proc();
            }
            Contained::Reaper => {
                // They are for other processes; the default would end this one. A process 1 ignores them
                // anyway.
                SigSet::all().thread_block()?;
                children::adopt_orphans()?;
                prctl::set_pdeathsig(Signal::SIGCONT)?;
            }
        }
        Ok(Self { contained, orders, reports, command, running: None })
    }

    /// Serves until the guard is gone, and then ends everything that is left.
    fn run(mut self) -> io::Result<()> {
        let served = self.obey_all();
        if self.contained == Contained::Reaper {
            // No time limit any more: it kills until nothing is left.
            if let Some(InitChild { switch, .. }) = &mut self.running {
                *switch = None;
            }
            self.kill_all();
        }
        served
    }

    fn obey_all(&mut self) -> io::Result<()> {
        while self.wait()? {
            while let Some(order) = self.orders.already_here()? {
                self.obey(order)?;
            }
            self.reap_children()?;
        }
        Ok(())
    }

    /// Waits for orders, or for a child's end. `false`: the guard is gone.
    fn wait(&mut self) -> io::Result<bool> {
        let mut either = vec![PollFd::new(self.orders.as_fd(), PollFlags::POLLIN)];
        let children = self.running.as_ref().map(|running| &running.children);
        either.extend(children.map(|children| PollFd::new(children.as_fd(), PollFlags::POLLIN)));
        match poll(&mut either, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ordered = either[0].any().unwrap_or(true);
        if let Some(children) = children {
            while children.read_signal()?.is_some() {}
        }
        if ordered { self.orders.read() } else { Ok(true) }
    }

    fn obey(&mut self, order: InitOrder) -> io::Result<()> {
        match (order, &mut self.running) {
            (InitOrder::Start { token, cluster, backstop }, None) => {
                self.start(&token, &cluster, backstop.into())
            }
            (InitOrder::Backstop(at), Some(InitChild { switch: Some(switch), .. })) => {
                switch.set(Timestamp::from(at) + AFTER_GUARD)
            }
            (InitOrder::Signal(number), Some(running)) => {
                if let (Ok(signal), false) = (Signal::try_from(number), running.reaped) {
                    children::signal_group(running.pid, signal);
                }
                Ok(())
            }
            // It did not start, or is in a namespace.
            (InitOrder::Start { .. } | InitOrder::Backstop(_) | InitOrder::Signal(_), _) => Ok(()),
        }
    }

    fn start(&mut self, token: &str, cluster: &str, backstop: Timestamp) -> io::Result<()> {
        let Some((program, args)) = self.command.split_first() else { return Ok(()) };
        let (mut command, switch) = match self.contained {
            Contained::Namespace => {
                let mut command = Command::new(program);
                command.args(args);
                (command, None)
            }
            // Before there is anything to kill.
            Contained::Reaper => (
                shim::command(self.command.iter().cloned()),
                Some(DeadMansSwitch::armed(backstop + AFTER_GUARD)?),
            ),
        };
        command.env("ELECT_TOKEN", token).env("ELECT_CLUSTER", cluster).process_group(0);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                let code = shim::refused(program, &error);
                return self.reports.send(&InitReport::Ended(CommandExit::Exited(code.into())));
            }
        };
        // Only now: the command would start with it blocked.
        let mut ends = SigSet::empty();
        ends.add(Signal::SIGCHLD);
        ends.thread_block()?;
        let children = SignalFd::with_flags(&ends, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let pid = Pid::from_raw(child.id().cast_signed());
        self.running = Some(InitChild { child, pid, reaped: false, ended: false, switch, children });
        self.reports.send(&InitReport::Started { pid: pid.as_raw() })
    }

    /// Reaps orphans, and reports the command's end. The command itself stays a zombie: its id is its
    /// group's.
    fn reap_children(&mut self) -> io::Result<()> {
        const PEEK: WaitPidFlag = WaitPidFlag::WEXITED
            .union(WaitPidFlag::WNOHANG)
            .union(WaitPidFlag::WNOWAIT)
            .union(WaitPidFlag::__WALL);
        // The guard soon ends everything after this; and the kernel shows this one first.
        let Some(running) = self.running.as_mut().filter(|running| !running.ended) else { return Ok(()) };
        let how = loop {
            match waitid(Id::All, PEEK) {
                Ok(WaitStatus::Exited(pid, code)) if pid == running.pid => break CommandExit::Exited(code),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == running.pid => {
                    break CommandExit::Signalled(signal as i32);
                }
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => {
                    let _ = waitpid(pid, Some(WaitPidFlag::__WALL));
                }
                // A process ended by a signal that nix has no name for.
                Err(Errno::EINVAL) => {
                    if let Some(status) = running.child.try_wait()? {
                        running.reaped = true;
                        break ended(status);
                    }
                    let _ = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL));
                }
                Ok(_) | Err(Errno::ECHILD) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        running.ended = true;
        self.reports.send(&InitReport::Ended(how))
    }

    fn kill_all(&self) {
        if let Some(running) = self.running.as_ref().filter(|running| !running.reaped) {
            children::signal_group(running.pid, Signal::SIGKILL);
        }
        while !children::none_is_left() {
            sleep(children::kill_all_but(|_| false).unwrap_or_default().again());
        }
    }
}
