//! The processes under test, which are started, stopped, frozen and killed. etcd's members are in `system`.
//!
//! Each action is noted with a stamp on the safe side: a death is stamped before the signal, a start
//! after it.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    backend::{Backend, HEARTBEAT, LONGEST, SHORTEST, TTL},
    belief,
    clocks::{self, ClockMapping, ClockRate},
    history::{At, Event, EventKind, History},
    programs::{self, ELECTION, Noted},
    testbed::{Host, Testbed},
};
use crate::support::{elect::unconfigured, process::Process};

/// The secret that the members of a group prove to each other.
pub(crate) const SECRET: &str = "what no stranger on the peers' port knows";

/// A candidate's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CandidateKind {
    /// `elect server`
    Server,
    /// `elect run`
    Run,
    /// A program on the library.
    Library,
}

/// Runs without a PID namespace for their commands. Others have one if the machine allows it.
const UNCONTAINED: [&str; 2] = ["r2", "r3"];

/// Directories of a run's files.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub(crate) dir: PathBuf,
    /// Data directories of the members of a group.
    pub(crate) data: PathBuf,
}

impl Paths {
    pub(crate) fn log(&self, who: &str) -> PathBuf {
        self.dir.join(format!("{who}.log"))
    }

    pub(crate) fn diary(&self, who: &str) -> PathBuf {
        self.dir.join(format!("{who}.diary"))
    }

    /// The file with the group's secret.
    pub(crate) fn secret(&self) -> PathBuf {
        self.data.join("secret")
    }

    fn data(&self, who: &str) -> PathBuf {
        self.data.join(who)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.dir.join("store.socket")
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.join("unguarded-file")
    }
}

/// A candidate, through all its restarts.
#[derive(Debug)]
pub(crate) struct CandidateProcess {
    pub(crate) name: String,
    pub(crate) kind: CandidateKind,
    on: Backend,
    place: usize,
    paths: Paths,
    pace: ClockRate,
    process: Option<Process>,
    pub(crate) frozen: bool,
    told: bool,
    guard: Option<Pid>,
    events: Vec<Event>,
}

impl CandidateProcess {
    pub(crate) fn new(on: Backend, place: usize, paths: &Paths, pace: ClockRate) -> Self {
        let (name, kind) = on.candidates()[place];
        Self {
            name: name.to_owned(),
            kind,
            on,
            place,
            paths: paths.clone(),
            pace,
            process: None,
            frozen: false,
            told: false,
            guard: None,
            events: Vec::new(),
        }
    }

    fn note(&mut self, what: impl FnOnce(String) -> EventKind) {
        let what = what(self.name.clone());
        self.events.push(Event { at: At::now(), what });
    }

    /// Starts it if it is not running.
    pub(crate) fn start(&mut self, testbed: &Testbed) {
        if self.process.is_some() {
            return;
        }
        let mut command = self.command(testbed);
        // The log of `elect run` and its command's output go to different files: lines must not mix.
        let log = append(&self.paths.log(&self.name));
        let output = append(&self.paths.dir.join(format!("{}.out", self.name)));
        let (output, errors) = match self.kind {
            CandidateKind::Server => (log, output),
            CandidateKind::Run | CandidateKind::Library => (output, log),
        };
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let process = Process::start(&self.name, command);
        testbed.started(Host::Candidate(self.place), process.id());
        self.process = Some(process);
        (self.frozen, self.told) = (false, false);
        self.note(|who| EventKind::Started { who });
    }

    fn command(&self, testbed: &Testbed) -> Command {
        let host = Host::Candidate(self.place);
        let own = env::current_exe().expect("a test has a program");
        let mut command = match self.kind {
            CandidateKind::Library => testbed.command(host, &own),
            CandidateKind::Server | CandidateKind::Run => testbed.command(host, env!("CARGO_BIN_EXE_elect")),
        };
        unconfigured(&mut command);
        self.pace.set(&mut command);
        command.env(programs::DIARY, self.paths.diary(&self.name));
        command.env(programs::STORE, self.paths.store()).env(programs::FILE, self.paths.file());
        match self.kind {
            CandidateKind::Server => {
                command.args(["server", &self.name]).args(self.flags(testbed)).env("RUST_LOG", belief::LOG);
                if self.on == Backend::Etcd {
                    // In memory: one that is killed is followed by the other server, or by itself.
                    command.arg("--lifeline").arg(self.paths.data("lifeline"));
                }
            }
            CandidateKind::Run => {
                command.args(["run", "--name", &self.name]).args(self.flags(testbed));
                if UNCONTAINED.contains(&self.name.as_str()) {
                    command.args(["--contain", "none"]);
                }
                if self.on == Backend::Etcd {
                    // The one with a PID namespace has a ticket; the others are witnesses.
                    command.arg("--lifeline").arg(self.paths.data("lifeline"));
                }
                command.env("RUST_LOG", belief::LOG).arg("--").arg(own).args(as_program("command"));
            }
            CandidateKind::Library => {
                command.args(as_program("candidate")).env(programs::NAME, &self.name);
                match self.on {
                    Backend::Etcd => command.env(programs::ETCD, testbed.endpoints(self.place)),
                    Backend::Peers => command
                        .env(programs::PEERS, peers(testbed))
                        .env(programs::LISTEN, testbed.addresses(host).peer)
                        .env(programs::SECRET, SECRET)
                        .env(programs::DATA, self.paths.data(&self.name)),
                };
            }
        }
        command
    }

    /// Arguments of `elect`, beside the command and the name.
    fn flags(&self, testbed: &Testbed) -> Vec<String> {
        let place = match self.on {
            Backend::Etcd => {
                vec![
                    "--etcd".into(),
                    testbed.endpoints(self.place),
                    "--ttl".into(),
                    format!("{}s", TTL.as_secs()),
                ]
            }
            Backend::Peers => vec![
                "--peers".into(),
                peers(testbed),
                "--listen".into(),
                testbed.addresses(Host::Candidate(self.place)).peer,
                "--data".into(),
                self.paths.data(&self.name).to_str().expect("temporary directories have plain names").into(),
                "--heartbeat".into(),
                written(HEARTBEAT),
                "--election-timeout".into(),
                format!("{}-{}", written(SHORTEST), written(LONGEST)),
                "--secret-file".into(),
                self.paths.secret().to_str().expect("temporary directories have plain names").into(),
            ],
        };
        let shared = ["--election", ELECTION, "--log-format", "json"].map(str::to_owned);
        [place, shared.to_vec()].concat()
    }

    /// Reports whether its process exists, frozen or not, and was not told to stop.
    pub(crate) fn stands(&self) -> bool {
        self.process.is_some() && !self.told
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn kill(&mut self) {
        if self.process.is_some() {
            self.note(|who| EventKind::Killed { who });
        }
        if let Some(mut process) = self.process.take() {
            process.kill();
            clocks::sweep(process.id());
        }
        self.frozen = false;
    }

    pub(crate) fn freeze(&mut self) {
        if self.reaped() || self.frozen {
            return;
        }
        let Some(process) = &mut self.process else { return };
        process.signal(Signal::SIGSTOP);
        self.frozen = true;
        self.note(|who| EventKind::Frozen { who });
    }

    pub(crate) fn thaw(&mut self) {
        if let (true, Some(process)) = (self.frozen, &self.process) {
            process.signal(Signal::SIGCONT);
            self.frozen = false;
            self.note(|who| EventKind::Thawed { who });
        }
    }

    /// Tells it to stop.
    pub(crate) fn tell(&mut self) {
        if self.reaped() || self.told {
            return;
        }
        self.note(|who| EventKind::Told { who });
        self.told = true;
        if let Some(process) = &self.process {
            process.signal(Signal::SIGTERM);
        }
    }

    /// Notes whether it has ended. Reports whether no process is left.
    pub(crate) fn reaped(&mut self) -> bool {
        let Some(process) = &mut self.process else { return true };
        let Some(status) = process.status() else { return false };
        clocks::sweep(process.id());
        self.process = None;
        self.frozen = false;
        self.note(|who| EventKind::Exited { who, code: status.code() });
        true
    }

    /// The present guard, if it is an `elect run`.
    fn find_guard(&self) -> Option<Pid> {
        let (CandidateKind::Run, Some(process)) = (self.kind, &self.process) else { return None };
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", process.id())).ok()?;
        let guard = children.split_ascii_whitespace().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "elect-guard")
        });
        guard?.parse().ok().map(Pid::from_raw)
    }

    /// Reports whether its guard is unaffected so far.
    pub(crate) fn has_whole_guard(&self) -> bool {
        self.stands() && self.guard.is_none()
    }

    /// Kills it and its guard so that neither sees the other's end.
    pub(crate) fn kill_with_guard(&mut self) {
        let guard = self.find_guard();
        if let (Some(process), Some(guard)) = (&self.process, guard) {
            process.signal(Signal::SIGSTOP);
            let _ = kill(guard, Signal::SIGSTOP);
        }
        self.kill();
        if let Some(guard) = guard {
            let _ = kill(guard, Signal::SIGKILL);
        }
    }

    pub(crate) fn kill_guard(&mut self) {
        if let (None, Some(guard)) = (self.guard, self.find_guard()) {
            let _ = kill(guard, Signal::SIGKILL);
        }
    }

    pub(crate) fn freeze_guard(&mut self) {
        if let (None, Some(guard)) = (self.guard, self.find_guard()) {
            let _ = kill(guard, Signal::SIGSTOP);
            self.guard = Some(guard);
        }
    }

    pub(crate) fn thaw_guard(&mut self) {
        if let Some(guard) = self.guard.take() {
            // Its supervisor may have killed and reaped it meanwhile.
            let comm = fs::read_to_string(format!("/proc/{guard}/comm"));
            if comm.is_ok_and(|name| name.trim() == "elect-guard") {
                let _ = kill(guard, Signal::SIGCONT);
            }
        }
    }

    /// All events about it: the test's actions, and its own notes.
    pub(crate) fn events(&self) -> Vec<Event> {
        let diary = lines(&self.paths.diary(&self.name));
        let diary: Vec<Noted> = diary.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let written = match (self.kind, self.pace) {
            (CandidateKind::Library, ClockRate::Off(rate)) => self.put_right(rate, diary),
            (CandidateKind::Library, ClockRate::True) => diary.into_iter().map(|noted| noted.event).collect(),
            (CandidateKind::Server | CandidateKind::Run, _) => {
                let own = belief::read(&self.name, &lines(&self.paths.log(&self.name)));
                own.into_iter().chain(diary.into_iter().map(|noted| noted.event)).collect()
            }
        };
        [self.events.clone(), written].concat()
    }

    /// Corrects its notes by clocks of its own, a new one in each of its runs.
    fn put_right(&self, rate: f64, diary: Vec<Noted>) -> Vec<Event> {
        let own = History::of(self.events.clone());
        let starts = own.events().iter().filter(|event| matches!(event.what, EventKind::Started { .. }));
        let starts: Vec<At> = starts.map(|event| event.at).collect();
        let life = |noted: &Noted| {
            starts.iter().filter(|start| **start <= noted.uptime.plus(ClockMapping::ERROR)).count()
        };
        let mut lives: BTreeMap<usize, Vec<Noted>> = BTreeMap::new();
        for noted in diary {
            lives.entry(life(&noted)).or_default().push(noted);
        }
        let mut events = Vec::new();
        for notes in lives.into_values() {
            let Some(dial) = ClockMapping::of(rate, notes.iter().map(|noted| (noted.event.at, noted.uptime)))
            else {
                continue;
            };
            let right = |Noted { event: Event { at, what }, .. }| Event {
                at: dial.truth(at),
                what: dial.put_right(what),
            };
            events.extend(notes.into_iter().map(right));
        }
        events
    }
}

/// The group, with the addresses that its members use.
pub(crate) fn peers(testbed: &Testbed) -> String {
    let candidates = Backend::Peers.candidates().iter().enumerate();
    let members = candidates.map(|(place, (name, _))| {
        format!("{name}={}", testbed.addresses(Host::Candidate(place)).announced_peer)
    });
    members.collect::<Vec<_>>().join(",")
}

fn written(span: Duration) -> String {
    format!("{}ms", span.as_millis())
}

impl Drop for CandidateProcess {
    fn drop(&mut self) {
        // A frozen guard could not exit by itself once its supervisor is gone.
        self.thaw_guard();
    }
}

/// libtest's arguments that run one of our programs.
fn as_program(name: &str) -> [String; 5] {
    [
        format!("programs::{name}"),
        "--exact".into(),
        "--ignored".into(),
        "--nocapture".into(),
        "--test-threads=1".into(),
    ]
}

/// A file's lines; an incomplete last one is left out.
fn lines(path: &Path) -> Vec<String> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    BufReader::new(file).lines().map_while(Result::ok).collect()
}

pub(crate) fn append(path: &Path) -> File {
    File::options().create(true).append(true).open(path).expect("the directory is ours")
}
