//! A short shell command with a time limit, for hooks and checks.
//!
//! It runs in a process group of its own, which is killed at the time limit or when the caller is dropped. It
//! has no input, and both its outputs go to `elect`'s standard error: the standard output belongs to the
//! command.

use std::{
    io,
    os::fd::AsFd,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{process::Child, time::timeout};

use super::{
    children::{ChildEntry, ChildRegistry},
    environment::{Variables, WITHHELD},
    shim,
};

/// The way a shell command ended.
#[derive(Debug)]
pub(crate) enum ShellOutcome {
    Ended(ExitStatus),
    TimedOut,
    NotStarted(io::Error),
}

/// Runs `sh -c COMMAND` to its end, within this time (Tokio's clock).
///
/// # Cancel safety
///
/// Dropping the call kills the command's group.
pub(crate) async fn run(
    command: &str,
    variables: &Variables,
    within: Duration,
    registry: &ChildRegistry,
) -> ShellOutcome {
    let mut running = match RunningShell::start(command, variables, registry) {
        Ok(running) => running,
        Err(error) => return ShellOutcome::NotStarted(error),
    };
    match timeout(within, running.child.wait()).await {
        Ok(Ok(status)) => ShellOutcome::Ended(status),
        Ok(Err(error)) => ShellOutcome::NotStarted(error),
        Err(_) => {
            running.kill();
            // Only the kernel can delay a KILL for long.
            let _ = timeout(within, running.child.wait()).await;
            ShellOutcome::TimedOut
        }
    }
}

struct RunningShell {
    child: Child,
    _known: ChildEntry,
}

impl RunningShell {
    fn start(command: &str, variables: &Variables, registry: &ChildRegistry) -> io::Result<Self> {
        let mut shell = shim::command(["sh".into(), "-c".into(), command.into()]);
        shell.envs(variables.iter().map(|(key, value)| (key, value)));
        for withheld in WITHHELD {
            shell.env_remove(withheld);
        }
        let errors = || Ok::<_, io::Error>(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
        shell.stdin(Stdio::null()).stdout(errors()?).stderr(errors()?);
        let child = tokio::process::Command::from(shell).process_group(0).spawn()?;
        let pid = child.id().map_or(0, u32::cast_signed);
        Ok(Self { child, _known: registry.enter(Pid::from_raw(pid)) })
    }

    fn kill(&self) {
        // No id: it has ended and is reaped, and its remaining processes are not ours to end.
        if let Some(group) = self.child.id() {
            let _ = killpg(Pid::from_raw(group.cast_signed()), Signal::SIGKILL);
        }
    }
}

impl Drop for RunningShell {
    fn drop(&mut self) {
        self.kill();
    }
}
