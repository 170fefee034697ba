//! `elect shim PARENT COMMAND…`: becomes COMMAND, after asking the kernel to kill it together with PARENT.
//!
//! Only a process can ask that for itself, between its start and COMMAND's, which safe code has no room for
//! within one program. So this is a program of its own, for a few hundred microseconds. `exec` keeps the
//! request, unless COMMAND is set-user-id or has file capabilities; it resets all signal handlers and the
//! signal mask, and SIGPIPE is put back to its default.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use nix::{
    sys::{prctl, signal::Signal},
    unistd::{Pid, getppid},
};

use super::program;

/// The command line that starts `command` through this program, as a child of the calling process.
///
/// Start it from a thread that lives as long as the process: the kernel takes the thread for the parent.
pub(crate) fn command(command: impl IntoIterator<Item = OsString>) -> Command {
    let mut shim = Command::new("/proc/self/exe");
    shim.arg("shim").arg(Pid::this().to_string()).arg("--").args(command);
    shim
}

/// Becomes the command. Returns only where that fails.
pub(crate) fn become_command(parent: i32, command: &[OsString]) -> ExitCode {
    let Some((program, args)) = command.split_first() else {
        return ExitCode::from(program::NOT_FOUND);
    };
    let tied = prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from);
    if let Err(error) = tied {
        return refused(program, &error);
    }
    // It died before we asked.
    if getppid() != Pid::from_raw(parent) {
        return ExitCode::from(program::CANNOT_RUN);
    }
    refused(program, &Command::new(program).args(args).exec())
}

fn refused(program: &OsString, error: &io::Error) -> ExitCode {
    eprintln!("elect: failed to run {}: {error}", program.display());
    ExitCode::from(program::exit_code(error))
}
