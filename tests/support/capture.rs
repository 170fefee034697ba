//! What a process prints, line by line, each with the time at which it arrived.
//!
//! A reader thread for each stream stamps a line as soon as it is complete, so a stamp is never earlier than
//! the printing. Searches start at a [`Mark`], since a log repeats itself: `I am the leader.` *after* the
//! change.
//!
//! When a wait fails, or the test panics for another reason, the full transcript goes to stderr.

use std::{
    fmt,
    io::{BufRead, BufReader, Read},
    process::{Command, ExitStatus, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;

use super::{clock::BootTime, process::Process};

/// How long the output of an ended process may still be on its way through the pipe.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// One line that a process printed.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) at: BootTime,
    pub(crate) stream: Stream,
    pub(crate) text: String,
    index: usize,
}

impl Line {
    /// The place just after this line.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.index + 1)
    }
}

/// A place between two lines of one transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark(usize);

impl Mark {
    /// Before the first line.
    pub(crate) const START: Self = Self(0);
}

/// What to look for in a line: a `&str` is the whole line, a closure decides for itself.
pub(crate) trait LinePattern {
    fn matches(&self, line: &str) -> bool;

    fn description(&self) -> String {
        "the line it looks for".to_owned()
    }
}

impl LinePattern for &str {
    fn matches(&self, line: &str) -> bool {
        *self == line
    }

    fn description(&self) -> String {
        format!("the line {self:?}")
    }
}

impl<F: Fn(&str) -> bool> LinePattern for F {
    fn matches(&self, line: &str) -> bool {
        self(line)
    }
}

/// A process whose output is kept.
#[derive(Debug)]
pub(crate) struct Captured {
    process: Process,
    transcript: Arc<Transcript>,
}

impl Captured {
    /// Starts `command` with both output streams captured and no input.
    pub(crate) fn start(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let transcript = Arc::new(Transcript::new(name));
        let mut process = Process::start(name, command);
        let child = process.child_mut();
        let stdout = child.stdout.take().expect("stdout was asked for as a pipe");
        let stderr = child.stderr.take().expect("stderr was asked for as a pipe");
        transcript.clone().follow(Stream::Stdout, stdout);
        transcript.clone().follow(Stream::Stderr, stderr);
        Self { process, transcript }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// When it was started.
    pub(crate) fn started(&self) -> BootTime {
        self.transcript.started
    }

    /// Waits for a line from the start of the transcript on; one that is already there counts.
    #[track_caller]
    pub(crate) fn wait_for_line(&self, pattern: impl LinePattern, within: Duration) -> Line {
        self.wait_for_line_since(Mark::START, pattern, within)
    }

    /// Waits for a line after `mark`; one that is already there counts.
    ///
    /// # Panics
    ///
    /// With the transcript, when `within` has passed or both streams ended.
    #[track_caller]
    pub(crate) fn wait_for_line_since(
        &self,
        mark: Mark,
        pattern: impl LinePattern,
        within: Duration,
    ) -> Line {
        match self.transcript.wait(mark, &pattern, within) {
            Ok(line) => line,
            Err(why) => {
                let (name, pattern) = (&self.transcript.name, pattern.description());
                self.transcript.shown.store(true, SeqCst);
                panic!("{name} did not print {pattern}: {why}\n{}", self.transcript)
            }
        }
    }

    /// The place after all that has arrived so far.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.transcript.lock().lines.len())
    }

    /// All that has arrived so far, in order of arrival. Between the two streams that need not be the order
    /// of printing.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lines_since(Mark::START)
    }

    pub(crate) fn lines_since(&self, mark: Mark) -> Vec<Line> {
        self.transcript.lock().lines[mark.0..].to_vec()
    }

    /// The text of the standard output so far.
    pub(crate) fn stdout(&self) -> Vec<String> {
        self.texts(Stream::Stdout)
    }

    /// The text of the standard error so far.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.texts(Stream::Stderr)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends it by SIGKILL and reaps it. Returns a moment at which it ran no more.
    pub(crate) fn kill(&mut self) -> BootTime {
        self.process.kill();
        BootTime::now()
    }

    /// See [`Process::freeze`].
    pub(crate) fn freeze(&mut self) -> BootTime {
        self.process.freeze()
    }

    /// See [`Process::thaw`].
    pub(crate) fn thaw(&mut self) -> BootTime {
        self.process.thaw()
    }

    /// How it ended, or `None` while it runs.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        self.process.status()
    }

    /// Waits until it has ended by itself and its output is here.
    ///
    /// What it left running may hold its pipes open; that is waited for only briefly.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        let status = self.process.wait_exit(within);
        self.transcript.wait_closed(DRAIN_DEADLINE);
        status
    }

    fn texts(&self, stream: Stream) -> Vec<String> {
        let progress = self.transcript.lock();
        progress.lines.iter().filter(|line| line.stream == stream).map(|line| line.text.clone()).collect()
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        if thread::panicking() && !self.transcript.shown.load(SeqCst) {
            eprintln!("{}", self.transcript);
        }
    }
}

#[derive(Debug)]
struct Transcript {
    name: String,
    started: BootTime,
    progress: Mutex<Progress>,
    changed: Condvar,
    /// Whether a failure has reported it already.
    shown: AtomicBool,
}

#[derive(Debug)]
struct Progress {
    lines: Vec<Line>,
    open_streams: usize,
}

impl Transcript {
    fn new(name: &str) -> Self {
        let progress = Progress { lines: Vec::new(), open_streams: 2 };
        let started = BootTime::now();
        Self {
            name: name.to_owned(),
            started,
            progress: Mutex::new(progress),
            changed: Condvar::new(),
            shown: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        // No critical section can leave a half-made change, and a failing test must still print its
        // transcript.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: Arc<Self>, stream: Stream, source: impl Read + Send + 'static) {
        thread::spawn(move || {
            for text in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                let at = BootTime::now();
                let text = String::from_utf8_lossy(&text).into_owned();
                let mut progress = self.lock();
                let index = progress.lines.len();
                progress.lines.push(Line { at, stream, text, index });
                self.changed.notify_all();
            }
            self.lock().open_streams -= 1;
            self.changed.notify_all();
        });
    }

    fn wait(&self, mark: Mark, pattern: &impl LinePattern, within: Duration) -> Result<Line, String> {
        let deadline = BootTime::now() + within;
        let mut progress = self.lock();
        let mut looked_at = mark.0;
        loop {
            if let Some(line) = progress.lines[looked_at..].iter().find(|line| pattern.matches(&line.text)) {
                return Ok(line.clone());
            }
            looked_at = progress.lines.len();
            if progress.open_streams == 0 {
                return Err("its output has ended".to_owned());
            }
            let left = deadline - BootTime::now();
            if left.is_zero() {
                return Err(format!("waited {within:?}"));
            }
            progress = self.changed.wait_timeout(progress, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn wait_closed(&self, within: Duration) {
        let _ended_or_timed_out = self
            .changed
            .wait_timeout_while(self.lock(), within, |progress| progress.open_streams > 0)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "--- transcript of {}, started at {}", self.name, self.started)?;
        for line in &self.lock().lines {
            let stream = match line.stream {
                Stream::Stdout => "out",
                Stream::Stderr => "err",
            };
            writeln!(f, "{:>9.3} s {stream}| {}", (line.at - self.started).as_secs_f64(), line.text)?;
        }
        write!(f, "--- {} s later", self.started.elapsed().as_secs_f32())
    }
}
