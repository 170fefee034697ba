//! The processes under test: candidates and the members of etcd, which are started, stopped, frozen and killed.
//!
//! Each does what it is told and notes it, stamped on the careful side: a death is stamped before the signal, a start
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
    arena::{Arena, Host},
    belief,
    clocks::{Dial, Pace},
    history::{At, Event, History, What},
    programs::{self, ELECTION, Noted},
};
use crate::support::{elect::unconfigured, etcd::EtcdVersion, process::Process};

/// What a candidate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `elect server`
    Server,
    /// `elect run`
    Run,
    /// A program on the library.
    Library,
}

/// Who stands in every run.
pub(crate) const CAST: [(&str, Kind); 7] = [
    ("s1", Kind::Server),
    ("r1", Kind::Run),
    ("l1", Kind::Library),
    ("l2", Kind::Library),
    ("r2", Kind::Run),
    ("s2", Kind::Server),
    ("r3", Kind::Run),
];

/// Where a run keeps its files.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub(crate) dir: PathBuf,
}

impl Paths {
    pub(crate) fn log(&self, who: &str) -> PathBuf {
        self.dir.join(format!("{who}.log"))
    }

    pub(crate) fn diary(&self, who: &str) -> PathBuf {
        self.dir.join(format!("{who}.diary"))
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.dir.join("store.socket")
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.join("unguarded-file")
    }
}

/// A candidate, through all its lives.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    place: usize,
    ttl: Duration,
    paths: Paths,
    pace: Pace,
    process: Option<Process>,
    pub(crate) frozen: bool,
    told: bool,
    guard: Option<Pid>,
    events: Vec<Event>,
}

impl Candidate {
    pub(crate) fn new(place: usize, ttl: Duration, paths: &Paths, pace: Pace) -> Self {
        let (name, kind) = CAST[place];
        Self {
            name: name.to_owned(),
            kind,
            place,
            ttl,
            paths: paths.clone(),
            pace,
            process: None,
            frozen: false,
            told: false,
            guard: None,
            events: Vec::new(),
        }
    }

    fn note(&mut self, what: impl FnOnce(String) -> What) {
        let what = what(self.name.clone());
        self.events.push(Event { at: At::now(), what });
    }

    /// Starts it, if it does not run.
    pub(crate) fn start(&mut self, arena: &Arena) {
        if self.process.is_some() {
            return;
        }
        let mut command = self.command(arena);
        // Of `elect run` the log goes to the one, and what its command prints to the other: lines must not mix.
        let log = append(&self.paths.log(&self.name));
        let output = append(&self.paths.dir.join(format!("{}.out", self.name)));
        let (output, errors) = match self.kind {
            Kind::Server => (log, output),
            Kind::Run | Kind::Library => (output, log),
        };
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        self.process = Some(Process::start(&self.name, command));
        (self.frozen, self.told) = (false, false);
        self.note(|who| What::Started { who });
    }

    fn command(&self, arena: &Arena) -> Command {
        let host = Host::Candidate(self.place);
        let (endpoints, seconds) = (arena.endpoints(self.place), self.ttl.as_secs());
        let own = env::current_exe().expect("a test has a program");
        let elect = env!("CARGO_BIN_EXE_elect");
        let mut command = match self.kind {
            Kind::Library => arena.command(host, &own),
            Kind::Server | Kind::Run => arena.command(host, elect),
        };
        unconfigured(&mut command);
        self.pace.set(&mut command);
        command.env(programs::DIARY, self.paths.diary(&self.name));
        command.env(programs::STORE, self.paths.store()).env(programs::FILE, self.paths.file());
        let ttl = format!("{seconds}s");
        let shared = ["--etcd", &endpoints, "--ttl", &ttl, "--election", ELECTION, "--log-format", "json"];
        match self.kind {
            Kind::Server => {
                command.args(["server", &self.name]).args(shared).env("RUST_LOG", belief::LOG);
            }
            Kind::Run => {
                command.args(["run", "--name", &self.name]).args(shared).env("RUST_LOG", belief::LOG);
                command.arg("--").arg(own).args(as_program("command"));
            }
            Kind::Library => {
                command.args(as_program("candidate"));
                command.env(programs::NAME, &self.name).env(programs::TTL, seconds.to_string());
                command.env(programs::ETCD, endpoints);
            }
        }
        command
    }

    /// Whether its process is there, frozen or not, and was not told to stop.
    pub(crate) fn stands(&self) -> bool {
        self.process.is_some() && !self.told
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn kill(&mut self) {
        if self.process.is_some() {
            self.note(|who| What::Killed { who });
        }
        if let Some(mut process) = self.process.take() {
            process.kill();
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
        self.note(|who| What::Frozen { who });
    }

    pub(crate) fn thaw(&mut self) {
        if let (true, Some(process)) = (self.frozen, &self.process) {
            process.signal(Signal::SIGCONT);
            self.frozen = false;
            self.note(|who| What::Thawed { who });
        }
    }

    /// Tells it to stop.
    pub(crate) fn tell(&mut self) {
        if self.reaped() || self.told {
            return;
        }
        self.note(|who| What::Told { who });
        self.told = true;
        if let Some(process) = &self.process {
            process.signal(Signal::SIGTERM);
        }
    }

    /// Looks whether it has ended, and notes it. Whether nothing of it is there.
    pub(crate) fn reaped(&mut self) -> bool {
        let Some(process) = &mut self.process else { return true };
        let Some(status) = process.status() else { return false };
        self.process = None;
        self.frozen = false;
        self.note(|who| What::Exited { who, code: status.code() });
        true
    }

    /// Its guard, if it is an `elect run` that has one now.
    fn find_guard(&self) -> Option<Pid> {
        let (Kind::Run, Some(process)) = (self.kind, &self.process) else { return None };
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", process.id())).ok()?;
        let guard = children.split_ascii_whitespace().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "elect-guard")
        });
        guard?.parse().ok().map(Pid::from_raw)
    }

    /// Whether nothing is wrong with the one, so that something may be with the other of supervisor and guard.
    pub(crate) fn may_lose_one(&self) -> bool {
        self.stands() && !self.frozen && self.guard.is_none()
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

    /// All that is known of it: what was done to it, and what it wrote itself.
    pub(crate) fn events(&self) -> Vec<Event> {
        let diary = lines(&self.paths.diary(&self.name));
        let diary: Vec<Noted> = diary.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let written = match (self.kind, self.pace) {
            (Kind::Library, Pace::Off(rate)) => self.put_right(rate, diary),
            (Kind::Library, Pace::True) => diary.into_iter().map(|noted| noted.event).collect(),
            (Kind::Server | Kind::Run, _) => {
                let own = belief::read(&self.name, &lines(&self.paths.log(&self.name)));
                own.into_iter().chain(diary.into_iter().map(|noted| noted.event)).collect()
            }
        };
        [self.events.clone(), written].concat()
    }

    /// What it wrote by clocks of its own, a new one in each of its lives.
    fn put_right(&self, rate: f64, diary: Vec<Noted>) -> Vec<Event> {
        let own = History::of(self.events.clone());
        let starts = own.events().iter().filter(|event| matches!(event.what, What::Started { .. }));
        let starts: Vec<At> = starts.map(|event| event.at).collect();
        let life =
            |noted: &Noted| starts.iter().filter(|start| **start <= noted.uptime.plus(Dial::ERROR)).count();
        let mut lives: BTreeMap<usize, Vec<Noted>> = BTreeMap::new();
        for noted in diary {
            lives.entry(life(&noted)).or_default().push(noted);
        }
        let mut events = Vec::new();
        for notes in lives.into_values() {
            let Some(dial) = Dial::of(rate, notes.iter().map(|noted| (noted.event.at, noted.uptime))) else {
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

impl Drop for Candidate {
    fn drop(&mut self) {
        // A frozen one could not end by itself once its supervisor is gone.
        self.thaw_guard();
    }
}

/// How libtest is told to be one of our programs.
fn as_program(name: &str) -> [String; 5] {
    [
        format!("programs::{name}"),
        "--exact".into(),
        "--ignored".into(),
        "--nocapture".into(),
        "--test-threads=1".into(),
    ]
}

/// The lines of a file; one that is half written is left out.
fn lines(path: &Path) -> Vec<String> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    BufReader::new(file).lines().map_while(Result::ok).collect()
}

fn append(path: &Path) -> File {
    File::options().create(true).append(true).open(path).expect("the directory is ours")
}

/// A member of etcd, through all its lives.
#[derive(Debug)]
pub(crate) struct Member {
    place: usize,
    paths: Paths,
    initial_cluster: String,
    token: String,
    process: Option<Process>,
    frozen: bool,
}

impl Member {
    pub(crate) fn new(place: usize, count: usize, arena: &Arena, paths: &Paths) -> Self {
        let all = (0..count).map(|other| format!("m{other}=http://{}", arena.member(other).announced_peer));
        let initial_cluster = all.collect::<Vec<_>>().join(",");
        // Unlike that of any other test's cluster.
        let token = format!("torture-{}", arena.member(0).announced_peer);
        Self { place, paths: paths.clone(), initial_cluster, token, process: None, frozen: false }
    }

    pub(crate) fn start(&mut self, arena: &Arena) {
        if self.process.is_some() {
            return;
        }
        let name = format!("m{}", self.place);
        let addresses = arena.member(self.place);
        let (client, peer) = (format!("http://{}", addresses.client), format!("http://{}", addresses.peer));
        let mut command = arena.command(Host::Member(self.place), EtcdVersion::V3_7.program());
        command
            .env_clear()
            .envs(env::var_os("PATH").map(|path| ("PATH", path)))
            .args(["--name", &name, "--data-dir"])
            .arg(self.paths.dir.join(format!("{name}.etcd")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &format!("http://{}", addresses.announced_peer)])
            .args(["--initial-cluster", &self.initial_cluster])
            .args(["--initial-cluster-token", &self.token])
            // SIGKILL leaves the page cache: nothing is lost by it.
            .arg("--unsafe-no-fsync");
        let log = append(&self.paths.log(&name));
        let both = log.try_clone().expect("a file can be shared");
        command.stdin(Stdio::null()).stdout(log).stderr(both);
        let process = Process::start(&name, command);
        arena.started(self.place, process.id());
        self.process = Some(process);
        self.frozen = false;
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
        self.frozen = false;
    }

    pub(crate) fn set_frozen(&mut self, frozen: bool) {
        if let (true, Some(process)) = (frozen != self.frozen, &mut self.process) {
            if let Some(status) = process.status() {
                panic!("member {} has ended by itself: {status}; see its log", self.place);
            }
            process.signal(if frozen { Signal::SIGSTOP } else { Signal::SIGCONT });
            self.frozen = frozen;
        }
    }
}
