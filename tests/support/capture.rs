//! A process's output, line by line, each with the time of its arrival.
//!
//! One thread reads for all processes, and stamps a line as soon as it is complete, so a stamp is never earlier
//! than the printing. Of two lines, even by different processes, the one printed first never has the later
//! stamp. Searches start at a [`Mark`], since a log repeats itself: `I am the leader.` *after* the change.
//!
//! That thread also records when it was not scheduled; see [`longest_stall`].
//!
//! When a wait fails, or the test panics for another reason, the full transcript goes to stderr.

use std::{
    fmt,
    fs::File,
    io::{ErrorKind, Read},
    os::fd::OwnedFd,
    process::{Command, ExitStatus, Stdio},
    sync::{
        Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::net::unix::pipe;

use super::{clock::BootTime, process::Process, runtime};

/// Time for an ended process's output to come through the pipe.
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

/// A position between two lines of one transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark(usize);

impl Mark {
    /// Before the first line.
    pub(crate) const START: Self = Self(0);
}

/// A search pattern: a `&str` is the whole line, a closure decides for itself.
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

/// A process whose output is captured.
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

    /// The moment of its start.
    pub(crate) fn started(&self) -> BootTime {
        self.transcript.started
    }

    /// Waits for a line from the start of the transcript on; one that has already arrived counts.
    #[track_caller]
    pub(crate) fn wait_for_line(&self, pattern: impl LinePattern, within: Duration) -> Line {
        self.wait_for_line_since(Mark::START, pattern, within)
    }

    /// Waits for a line after `mark`; one that has already arrived counts.
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

    /// The position after all that has arrived so far.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.transcript.lock().lines.len())
    }

    /// All lines so far, in order of arrival. Between the two streams that need not be the order
    /// of printing.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lines_since(Mark::START)
    }

    pub(crate) fn lines_since(&self, mark: Mark) -> Vec<Line> {
        self.transcript.lock().lines[mark.0..].to_vec()
    }

    /// Lines of the standard output so far.
    pub(crate) fn stdout(&self) -> Vec<String> {
        self.texts(Stream::Stdout)
    }

    /// Lines of the standard error so far.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.texts(Stream::Stderr)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends it by SIGKILL and reaps it. Returns a moment at which it no longer ran.
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

    /// Its exit status, or `None` while it runs.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        self.process.status()
    }

    /// Waits until it has exited by itself and its output has been read.
    ///
    /// A surviving child may hold its pipes open; that is waited for only briefly.
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
    /// Set once a failure has printed it.
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

    fn follow(self: Arc<Self>, stream: Stream, source: impl Into<OwnedFd>) {
        // Tokio makes reading from a pipe non-blocking. The writer's end is not affected.
        let _context = runtime::handle().enter();
        let pipe = pipe::Receiver::from_owned_fd(source.into()).and_then(pipe::Receiver::into_nonblocking_fd);
        let pipe = File::from(pipe.expect("a child's output is a pipe"));
        let source = Source { pipe, stream, transcript: self, unread: Vec::new(), ended: false };
        READER.send(source).expect("the reader serves as long as this process runs");
    }

    fn add(&self, stream: Stream, at: BootTime, text: &[u8]) {
        let text = String::from_utf8_lossy(text).into_owned();
        let mut progress = self.lock();
        let index = progress.lines.len();
        progress.lines.push(Line { at, stream, text, index });
        self.changed.notify_all();
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

/// The reader's pause when there is nothing to read.
const READ_EVERY: Duration = Duration::from_millis(1);

/// Most passes over all pipes before a stamp, in case one of them is never empty.
const MOST_PASSES: usize = 50;

/// One pipe.
#[derive(Debug)]
struct Source {
    pipe: File,
    stream: Stream,
    transcript: Arc<Transcript>,
    /// Bytes read and not yet stamped.
    unread: Vec<u8>,
    ended: bool,
}

static READER: LazyLock<mpsc::Sender<Source>> = LazyLock::new(|| {
    let (sources, inbox) = mpsc::channel();
    thread::Builder::new()
        .name("reader".to_owned())
        .spawn(move || read_all(&inbox))
        .expect("a test can start a thread");
    sources
});

/// Reads all pipes until one whole pass finds nothing, and then gives all that was read one stamp.
///
/// So when a line is stamped, everything that was printed before it has been read, too.
fn read_all(inbox: &mpsc::Receiver<Source>) {
    let mut sources: Vec<Source> = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut last_run = BootTime::now();
    loop {
        sources.extend(inbox.try_iter());
        for _ in 0..MOST_PASSES {
            let found = sources.iter_mut().filter_map(|source| source.read(&mut buffer)).count();
            if found == 0 {
                break;
            }
        }
        let at = BootTime::now();
        for source in &mut sources {
            source.stamp(at);
        }
        sources.retain(|source| !source.ended);
        if at - last_run > 2 * READ_EVERY {
            STALLS.lock().unwrap_or_else(PoisonError::into_inner).push((last_run, at));
        }
        last_run = at;
        thread::sleep(READ_EVERY);
    }
}

impl Source {
    /// Reads what has arrived; `None` if there is nothing.
    fn read(&mut self, buffer: &mut [u8]) -> Option<()> {
        if self.ended {
            return None;
        }
        match self.pipe.read(buffer) {
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => None,
            Ok(0) | Err(_) => {
                self.ended = true;
                Some(())
            }
            Ok(length) => {
                self.unread.extend_from_slice(&buffer[..length]);
                Some(())
            }
        }
    }

    /// Splits off complete lines.
    fn stamp(&mut self, at: BootTime) {
        let complete = self.unread.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let rest = self.unread.split_off(complete);
        for line in std::mem::replace(&mut self.unread, rest).split_inclusive(|byte| *byte == b'\n') {
            self.transcript.add(self.stream, at, &line[..line.len() - 1]);
        }
        if self.ended {
            if !self.unread.is_empty() {
                self.transcript.add(self.stream, at, &std::mem::take(&mut self.unread));
            }
            self.transcript.lock().open_streams -= 1;
            self.transcript.changed.notify_all();
        }
    }
}

/// Intervals in which the reader was due and did not run.
static STALLS: Mutex<Vec<(BootTime, BootTime)>> = Mutex::new(Vec::new());

/// The longest time between `from` and `to` for which this machine did not schedule the reader.
///
/// The processes under test waited as long, and a process that cannot run cannot print. A
/// test of a moment, rather than of an order of events, allows for that much, and no more.
pub(crate) fn longest_stall(from: BootTime, to: BootTime) -> Duration {
    let stalls = STALLS.lock().unwrap_or_else(PoisonError::into_inner);
    let within = stalls.iter().filter(|(began, ended)| *began < to && from < *ended);
    within.map(|(began, ended)| *ended - *began).max().unwrap_or_default()
}
