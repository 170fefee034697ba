//! Log lines, written without waiting for their reader.
//!
//! The thread that logs may be the one that renews. A full pipe, or a terminal stopped with ^S, must not cost
//! it its lease. So a line is written at once only if the kernel reports room for it. Otherwise a thread is
//! started that waits in our place, and writes the lines in their order.

use std::{
    cell::RefCell,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes that the kernel takes whole when it reports room: POSIX's `PIPE_BUF` on Linux.
const SURELY_FITS: usize = 4096;

/// Bytes that wait for a reader. Later lines are left out, and counted.
const WAITING: usize = 1 << 20;

/// The destination of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputStream {
    Stdout,
    Stderr,
}

impl OutputStream {
    fn write(self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().write_all(lines),
            Self::Stderr => io::stderr().write_all(lines),
        }
    }

    fn backlog(self) -> &'static Backlog {
        match self {
            Self::Stdout => &OF_STDOUT,
            Self::Stderr => &OF_STDERR,
        }
    }

    fn has_room(self) -> bool {
        fn asked(fd: BorrowedFd<'_>) -> bool {
            let mut asked = [PollFd::new(fd, PollFlags::POLLOUT)];
            // The write finds errors too.
            !matches!(poll(&mut asked, PollTimeout::ZERO), Ok(0))
        }
        match self {
            Self::Stdout => asked(io::stdout().as_fd()),
            Self::Stderr => asked(io::stderr().as_fd()),
        }
    }
}

static OF_STDOUT: Backlog = Backlog { waiting: Mutex::new(WaitingLines::NONE), changed: Condvar::new() };
static OF_STDERR: Backlog = Backlog { waiting: Mutex::new(WaitingLines::NONE), changed: Condvar::new() };

/// Lines that could not be written at once.
struct Backlog {
    waiting: Mutex<WaitingLines>,
    changed: Condvar,
}

struct WaitingLines {
    lines: Vec<u8>,
    left_out: usize,
    /// True while a thread writes, or waits to write. All lines go through it until it is done.
    writing: bool,
}

impl WaitingLines {
    const NONE: Self = Self { lines: Vec::new(), left_out: 0, writing: false };
}

impl Backlog {
    fn waiting(&self) -> MutexGuard<'_, WaitingLines> {
        // No change in here can panic half way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes lines, or appends them to those that wait.
    fn write(&'static self, stream: OutputStream, lines: &[u8]) {
        let mut waiting = self.waiting();
        if !waiting.writing && waiting.lines.is_empty() && lines.len() <= SURELY_FITS && stream.has_room() {
            // A failure to write the log can't be logged.
            let _ = stream.write(lines);
            return;
        }
        if waiting.lines.len() + lines.len() > WAITING {
            waiting.left_out += 1;
            return;
        }
        waiting.lines.extend_from_slice(lines);
        if !waiting.writing {
            let writer = thread::Builder::new().name("elect-log".into());
            waiting.writing = writer.spawn(move || self.write_all(stream)).is_ok();
        }
    }

    /// Writes the waiting lines until there are none.
    fn write_all(&self, stream: OutputStream) {
        loop {
            let mut waiting = self.waiting();
            let mut lines = std::mem::take(&mut waiting.lines);
            match std::mem::take(&mut waiting.left_out) {
                0 => {}
                left_out => {
                    lines.extend(format!("({left_out} lines left out: they were not read in time)\n").bytes())
                }
            }
            if lines.is_empty() {
                waiting.writing = false;
                self.changed.notify_all();
                return;
            }
            drop(waiting);
            let _ = stream.write(&lines);
        }
    }

    fn drain(&self, within: Duration) {
        let waiting = self.waiting();
        let _ = self.changed.wait_timeout_while(waiting, within, |waiting| waiting.writing);
    }
}

/// Waits at exit for lines that could not be written at once, but not for long.
pub(crate) fn drain() {
    const WITHIN: Duration = Duration::from_millis(500);
    OF_STDOUT.drain(WITHIN);
    OF_STDERR.drain(WITHIN);
}

thread_local! {
    /// Lines of this thread in one batch so far.
    static TOGETHER: RefCell<Option<(OutputStream, Vec<u8>)>> = const { RefCell::new(None) };
}

/// Collects the lines that `log` writes, and writes them at once, so that a reader gets all of them together.
pub(crate) fn together(log: impl FnOnce()) {
    TOGETHER.set(Some((OutputStream::Stdout, Vec::new())));
    log();
    if let Some((stream, lines)) = TOGETHER.take() {
        stream.backlog().write(stream, &lines);
    }
}

/// Writes one event's line.
impl Write for OutputStream {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let alone = TOGETHER.with_borrow_mut(|together| match together {
            Some((stream, lines)) => {
                *stream = *self;
                lines.extend_from_slice(line);
                false
            }
            None => true,
        });
        if alone {
            self.backlog().write(*self, line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
