//! `elect shim PARENT COMMAND…`: becomes COMMAND, after asking the kernel to kill it together with PARENT.
//!
//! Only a process can request that for itself, between its start and COMMAND's, where safe code within one
//! program can't run. So this is a program of its own, for a few hundred microseconds. `exec` keeps the
//! request, unless COMMAND is set-user-id or has file capabilities; it resets all signal handlers. SIGPIPE
//! gets its default again, and no signal is blocked.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use nix::{
    sys::{
        prctl,
        signal::{SigSet, Signal},
    },
    unistd::{Pid, getppid},
};

use super::program;

/// The argument that turns this program into one. Not for users, so the command line does not know it.
const NAME: &str = "shim";

/// Builds the command line that starts `command` through this program, as a child of the calling process.
///
/// Start it from a thread that lives as long as the process: the kernel takes the thread for the parent.
pub(crate) fn command(command: impl IntoIterator<Item = OsString>) -> Command {
    let mut shim = Command::new("/proc/self/exe");
    shim.arg(NAME).arg(Pid::this().to_string()).args(command);
    shim
}

/// Becomes the command, if this process was started for that. Returns otherwise, or if that failed.
///
/// A new leader's command waits for this, so it comes before everything that other processes of ours need.
pub(crate) fn become_command() -> Option<ExitCode> {
    let mut words = env::args_os().skip(1);
    if words.next()? != NAME {
        return None;
    }
    let parent = words.next()?.to_str()?.parse().ok()?;
    Some(exec(Pid::from_raw(parent), &words.next()?, words))
}

fn exec(parent: Pid, program: &OsStr, args: impl Iterator<Item = OsString>) -> ExitCode {
    let tied = prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from);
    if let Err(error) = tied {
        return refused(program, &error).into();
    }
    // It died before the request.
    if getppid() != parent {
        return ExitCode::from(program::CANNOT_RUN);
    }
    // An init blocks all of them, and `exec` keeps that.
    if let Err(error) = SigSet::empty().thread_set_mask() {
        return refused(program, &error.into()).into();
    }
    refused(program, &Command::new(program).args(args).exec()).into()
}

/// Prints why it can't be run, and returns the exit code of shells.
pub(crate) fn refused(program: &OsStr, error: &io::Error) -> u8 {
    eprintln!("elect: failed to run {}: {error}", program.display());
    program::exit_code(error)
}
