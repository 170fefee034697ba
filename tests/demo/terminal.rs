//! A demonstration's terminal: a pseudo-terminal, whose other end is the keyboard and the screen.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::Path,
    process::ExitStatus,
    sync::{Arc, Mutex},
    thread,
};

use nix::{
    pty::openpty,
    sys::{
        signal::Signal,
        termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr},
    },
};

use super::{
    SOON,
    support::{
        elect::unconfigured,
        eventually::eventually,
        process::{self, Process},
    },
};

pub(super) struct Terminal {
    process: Process,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    /// Kept open, so that it is still there when the demonstration has left it.
    inside: OwnedFd,
    before: Termios,
}

impl Terminal {
    /// Starts `elect ARGS…` in a session of its own on this terminal.
    pub(super) fn start(args: &[&str], temporary: &Path) -> Self {
        let pty = openpty(None, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let mut command = process::command("setsid");
        unconfigured(&mut command).args(["--ctty", env!("CARGO_BIN_EXE_elect")]).args(args);
        // Colours are for people.
        command.env("TMPDIR", temporary).env("NO_COLOR", "1");
        let end = || pty.slave.try_clone().unwrap();
        command.stdin(end()).stdout(end()).stderr(end());
        let process = Process::start("elect demo", command);
        let keyboard = File::from(pty.master);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut output, onto) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
        thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut some) {
                onto.lock().unwrap().extend_from_slice(&some[..read]);
            }
        });
        Self { process, keyboard, screen, inside: pty.slave, before }
    }

    pub(super) fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    /// Complete lines so far.
    pub(super) fn lines(&self) -> Vec<String> {
        let screen = String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned();
        let whole = screen.rfind('\n').map_or("", |end| &screen[..end]);
        whole.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect()
    }

    #[track_caller]
    pub(super) fn wait_for(&self, line: &str) {
        self.wait_for_one(0, |seen| seen == line);
    }

    /// Waits for a matching line from this position on; returns it, and the position after it.
    #[track_caller]
    pub(super) fn wait_for_one(&self, from: usize, wanted: impl Fn(&str) -> bool) -> (usize, String) {
        let found = || {
            let lines = self.lines();
            let at = lines.iter().skip(from).position(|line| wanted(line))?;
            Some((from + at + 1, lines[from + at].clone()))
        };
        let show = ShowIfPanicking(self);
        let found = eventually(SOON, "a line on the terminal", found);
        drop(show);
        found
    }

    #[track_caller]
    pub(super) fn exits(&mut self) -> ExitStatus {
        self.process.wait_exit(SOON)
    }

    /// Reports whether it passes whole lines, not single keys.
    pub(super) fn is_canonical(&self) -> bool {
        tcgetattr(&self.inside).unwrap().local_flags.contains(LocalFlags::ICANON)
    }

    /// Does what a shell does when a job is suspended, and sends the signal that continues the job.
    pub(super) fn is_put_back_by_a_shell(&self) {
        tcsetattr(&self.inside, SetArg::TCSANOW, &self.before).unwrap();
        assert!(self.is_canonical());
        self.process.signal(Signal::SIGCONT);
    }

    #[track_caller]
    pub(super) fn is_as_before(&self) {
        assert_eq!(tcgetattr(&self.inside).unwrap(), self.before);
        assert!(self.is_canonical());
    }
}

struct ShowIfPanicking<'a>(&'a Terminal);

impl Drop for ShowIfPanicking<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the terminal:\n{}", self.0.lines().join("\n"));
        }
    }
}
