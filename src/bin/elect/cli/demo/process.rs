//! A child process that does not outlive us, and a thread that reads what it prints.

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

/// Killed and reaped when it is dropped; killed by the kernel if we end in another way.
#[derive(Debug)]
pub(super) struct Process(Child);

/// A command, in a process group of its own: Ctrl-C is meant for us.
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

    /// The same, with both outputs in one pipe, as a terminal would have them.
    pub(super) fn start_read(command: &mut Command) -> io::Result<(Self, PipeReader)> {
        let (output, its_end) = pipe()?;
        command.stdout(its_end.try_clone()?).stderr(its_end);
        let process = Self::start(command)?;
        // Ours are among its settings. While they are open, the pipe has no end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok((process, output))
    }

    /// Ends it at once. Returns the moment just before (monotonic clock).
    pub(super) fn kill(mut self) -> io::Result<Instant> {
        let at = Instant::now();
        self.0.kill()?;
        self.0.wait()?;
        Ok(at)
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) {
        let id = i32::try_from(self.0.id()).map(Pid::from_raw);
        // It has not been reaped, so it is nobody else. It may be dead.
        let _ = id.map(|id| kill(id, Signal::SIGTERM));
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Waits until it has ended. Only for one that is known to be ending.
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

/// Calls with each line and the moment at which it was read (monotonic clock), and with `None` at the end.
///
/// On a thread of its own, so that a slow terminal is not measured too.
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
