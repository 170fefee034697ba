//! A child process that does not outlive us, and a thread that reads its output.

use std::{
    ffi::OsString,
    io::{self, BufRead, BufReader, PipeReader, pipe},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Instant,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::supervise::shim;

/// A child, killed and reaped on drop; killed by the kernel if we end in another way.
#[derive(Debug)]
pub(super) struct Process(Child);

/// Builds a command in its own process group: Ctrl-C is meant for us.
///
/// Start it from the main thread.
pub(super) fn command(words: impl IntoIterator<Item = OsString>) -> Command {
    let mut command = shim::command(words);
    command.stdin(Stdio::null()).process_group(0);
    command
}

impl Process {
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        command.spawn().map(Self)
    }

    /// Starts it with both outputs in one pipe, as in a terminal.
    pub(super) fn start_read(command: &mut Command) -> io::Result<(Self, PipeReader)> {
        let (output, its_end) = pipe()?;
        command.stdout(its_end.try_clone()?).stderr(its_end);
        let process = Self::start(command)?;
        // The command holds copies of our ends, and the pipe has no end while they are open.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok((process, output))
    }

    /// Kills it. Returns the moment just before (monotonic clock).
    pub(super) fn kill(mut self) -> io::Result<Instant> {
        let at = Instant::now();
        self.0.kill()?;
        self.0.wait()?;
        Ok(at)
    }

    /// Sends SIGTERM.
    pub(super) fn terminate(&self) {
        let id = i32::try_from(self.0.id()).map(Pid::from_raw);
        // It has not been reaped, so its id is not reused. It may be dead.
        let _ = id.map(|id| kill(id, Signal::SIGTERM));
    }

    /// Returns its exit status if it has ended.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Waits until it has ended. Only for a process that is already ending.
    pub(super) fn reap(mut self) -> io::Result<ExitStatus> {
        self.0.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Calls `each` with every line and the time it was read (monotonic clock), and with `None` at the end.
///
/// On a thread of its own, so that a slow terminal is not part of the measurement.
pub(super) fn read(
    output: PipeReader,
    mut to: impl FnMut(Option<(String, Instant)>) + Send + 'static,
) -> io::Result<()> {
    let follow = move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while let Ok(1..) = output.read_until(b'\n', &mut line) {
            let at = Instant::now();
            let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned();
            to(Some((text, at)));
            line.clear();
        }
        to(None);
    };
    thread::Builder::new().name("elect-demo".into()).spawn(follow).map(drop)
}
