//! Contenders as processes: how each is started, claims leadership, and is told to leave.
//!
//! A new contender is a variant of [`Who`], and an arm in the few functions here.

use std::{path::PathBuf, process::Command, thread, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    claims::{is_claim, parse},
    family, programs,
    report::who::{Kind, Who},
    support::{
        capture::{Captured, Mark},
        clock::BootTime,
        elect::unconfigured,
        process,
    },
};

/// Time limit for operations that take milliseconds on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Time after which a queued candidate waits only for its turn: etcd checks a new watch,
/// its own Campaign's too, every 100 ms at first.
pub(crate) const SETTLE: Duration = Duration::from_millis(150);

pub(crate) const LEADER: &str = "I am the leader.";
pub(crate) const FOLLOWER: &str = "I am a follower.";
pub(crate) const REFRESHING: &str = "Refreshing lease; still the leader.";
pub(crate) const CHANGE: &str = "LEADERSHIP CHANGE REQUIRED";

/// Time without a claim after which a process has stopped claiming. Go's session needs up to half a second to notice its end.
const QUIET: Duration = Duration::from_millis(800);

/// Interval between checks for further claims.
pub(crate) const WATCH_EVERY: Duration = Duration::from_millis(50);

/// `etcdctl elect` has no flag for it.
const ETCDCTL_ELECT_TTL: u64 = 60;

/// A candidate's election.
#[derive(Debug, Clone)]
pub(crate) struct Stand {
    pub(crate) endpoint: String,
    pub(crate) election: String,
    pub(crate) ttl: u64,
}

/// A candidate's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// One line when it leads.
    Quiet,
    /// A line every millisecond, if its program can do that.
    Claims,
}

/// Contenders that can be measured on this machine, and the reason for each that can't.
pub(crate) fn present() -> Vec<(Who, Result<String, String>)> {
    let all = Who::ALL.into_iter().filter(|who| *who != Who::Peers || programs::elect_knows_peers());
    all.map(|who| (who, what(who))).collect()
}

/// Its program, with the version.
fn what(who: Who) -> Result<String, String> {
    let ours = |command: &str| {
        let version = programs::version(programs::elect(), &["--version"], "elect ").unwrap_or_default();
        Ok(format!("`{command}`, {version}"))
    };
    let etcdctl = |command: &str| match programs::version("etcdctl", &["version"], "etcdctl version: ") {
        Some(version) => Ok(format!("`{command}`, {version}")),
        None => Err("there is no etcdctl (Debian: etcd-client)".to_owned()),
    };
    match who {
        Who::Elect => ours("elect server"),
        Who::ElectRun => ours("elect run -- COMMAND"),
        Who::Peers => ours("elect server --peers")
            .map(|what| format!("{what}; three of them, election timeout 250–500 ms, heartbeat 50 ms")),
        Who::Twin => Ok("a bare program on Rust's etcd-client, in `benches/twin`".to_owned()),
        Who::Go => {
            let (_, versions) = programs::go()?;
            Ok(format!("a program on Go's official package, in `benches/go`; {versions}"))
        }
        Who::EtcdctlElect => etcdctl("etcdctl elect"),
        Who::EtcdctlLock => etcdctl("etcdctl lock NAME COMMAND"),
    }
}

/// The conditions that it does not meet, for the report.
pub(crate) fn but(who: Who, ttl: u64) -> Option<String> {
    match who {
        Who::EtcdctlElect if ttl != ETCDCTL_ELECT_TTL => Some(format!("TTL {ETCDCTL_ELECT_TTL} s, fixed")),
        Who::Peers => Some("no TTL".to_owned()),
        _ => None,
    }
}

/// A contender's process.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) who: Who,
    pub(crate) name: String,
    process: Captured,
    _orphans: Option<Orphans>,
}

/// The group of a process whose command would outlive it. Its remaining processes end with this.
#[derive(Debug)]
struct Orphans(u32);

impl Drop for Orphans {
    fn drop(&mut self) {
        family::kill_group(self.0, &programs::library());
    }
}

impl Candidate {
    /// Starts a candidate on etcd. It ends with this process in every case.
    pub(crate) fn start(who: Who, stand: &Stand, name: &str, how: How) -> Self {
        let (program, args) = command_line(who, stand, name, how);
        Self::of(who, name, process::command(program), args)
    }

    /// Starts a candidate without a wrapper, so that only its own program is timed.
    pub(crate) fn start_bare(who: Who, stand: &Stand, name: &str) -> Self {
        let (program, args) = command_line(who, stand, name, How::Quiet);
        Self::of(who, name, Command::new(program), args)
    }

    /// Starts a candidate by any command line.
    pub(crate) fn of(who: Who, name: &str, mut command: Command, args: Vec<String>) -> Self {
        use std::os::unix::process::CommandExt as _;

        unconfigured(&mut command).args(args).env("ETCDCTL_API", "3");
        let has_orphans = who == Who::EtcdctlLock;
        if has_orphans {
            command.process_group(0);
        }
        let process = Captured::start(&format!("{} {name}", who.title()), command);
        let orphans = has_orphans.then(|| Orphans(process.id()));
        Self { who, name: name.to_owned(), process, _orphans: orphans }
    }

    pub(crate) fn process(&self) -> &Captured {
        &self.process
    }

    pub(crate) fn into_process(self) -> Captured {
        self.process
    }

    pub(crate) fn mark(&self) -> Mark {
        self.process.mark()
    }

    /// The moment of its first claim.
    #[track_caller]
    pub(crate) fn wait_until_leader(&self) -> BootTime {
        self.process.wait_for_line(|line: &str| says_leader(line, &self.name), SOON.max(self.patience())).at
    }

    /// Tells it to leave, as its user would, so that it gives leadership up at once.
    pub(crate) fn leave(&self) -> BootTime {
        let told = BootTime::now();
        match self.who {
            // It ignores the signal while its command runs: the group has to be signalled, as by a terminal.
            Who::EtcdctlLock => family::signal_group(self.process.id(), Signal::SIGTERM),
            _ => self.process.signal(Signal::SIGTERM),
        }
        told
    }

    /// Waits until it has exited after [`leave`](Self::leave).
    #[track_caller]
    pub(crate) fn wait_gone(&mut self) {
        let status = self.process.wait_exit(SOON);
        // A runner exits with its command's signal.
        let well = status.success() || self.who.kind() == Kind::Runner;
        assert!(well, "{} did not end well: {status}", self.who.title());
    }

    /// Sends SIGKILL to the started process.
    pub(crate) fn crash(&mut self) -> BootTime {
        let killed = BootTime::now();
        self.process.kill();
        killed
    }

    pub(crate) fn freeze(&mut self) -> BootTime {
        self.process.freeze()
    }

    pub(crate) fn thaw(&mut self) -> BootTime {
        self.process.thaw()
    }

    /// Watches for claims by it or its command until they stop, or for as long as `most`.
    /// Returns the last claim since `mark`.
    pub(crate) fn watch_claims(&mut self, mark: Mark, most: Duration) -> Option<BootTime> {
        let started = BootTime::now();
        if self.who == Who::EtcdctlElect {
            // It leads by its printed line until it has exited.
            while self.process.status().is_none() && started.elapsed() < most {
                thread::sleep(Duration::from_millis(1));
            }
            return Some(BootTime::now());
        }
        loop {
            thread::sleep(WATCH_EVERY);
            let last = self.last_claim(mark);
            let quiet_since = last.unwrap_or(started).max(started);
            if quiet_since.elapsed() > QUIET || started.elapsed() > most {
                return last;
            }
        }
    }

    fn last_claim(&self, mark: Mark) -> Option<BootTime> {
        let lines = self.process.lines_since(mark);
        lines.iter().rev().find_map(|line| Some(BootTime::from_nanos(parse(&line.text)?.0)))
    }

    /// Time limit for the next leader.
    pub(crate) fn patience(&self) -> Duration {
        match self.who {
            Who::EtcdctlElect => Duration::from_secs(2 * ETCDCTL_ELECT_TTL),
            _ => SOON,
        }
    }
}

/// Reports whether a contender of this name claims leadership by this line.
pub(crate) fn says_leader(line: &str, name: &str) -> bool {
    // `etcdctl elect` prints its key, and then the value: the name.
    line == LEADER || is_claim(line) || line == name
}

fn command_line(
    who: Who,
    Stand { endpoint, election, ttl }: &Stand,
    name: &str,
    how: How,
) -> (PathBuf, Vec<String>) {
    let seconds = format!("{ttl}s");
    let plain = ttl.to_string();
    let library = programs::library();
    let mut worker = vec![library.to_str().expect("a path of Cargo's"), "worker"];
    worker.extend((how == How::Claims).then_some("claims"));
    let mode = if how == How::Claims { "claimant" } else { "one" };
    let (program, args) = match who {
        Who::Elect if how == How::Claims => (library.clone(), vec![mode, endpoint, election, name, &plain]),
        Who::Elect => {
            let args = ["server", name, "--etcd", endpoint, "--election", election, "--ttl", &seconds];
            (programs::elect(), [&args[..], &["--log-format", "plain"]].concat())
        }
        Who::ElectRun => {
            let args = ["run", "--name", name, "--etcd", endpoint, "--election", election, "--ttl", &seconds];
            (programs::elect(), [&args[..], &["--"], &worker].concat())
        }
        Who::Twin => (programs::twin(), vec![mode, endpoint, election, name, &plain]),
        Who::Go => {
            let (program, _) = programs::go().expect("it is asked for only where it is present");
            (program, vec![mode, endpoint, election, name, &plain])
        }
        Who::EtcdctlElect => ("etcdctl".into(), vec!["--endpoints", endpoint, "elect", election, name]),
        Who::EtcdctlLock => {
            let args = ["--endpoints", endpoint, "lock", "--ttl", &plain, election];
            ("etcdctl".into(), [&args[..], &["--"], &worker].concat())
        }
        Who::Peers => unreachable!("it stands on no etcd; see `field.rs`"),
    };
    (program, args.into_iter().map(str::to_owned).collect())
}

/// One process with many candidates on one connection: `crowd`, `apart`, `elections` of the bench programs.
pub(crate) fn many(
    who: Who,
    mode: &str,
    Stand { endpoint, election, ttl }: &Stand,
    count: usize,
) -> Option<Captured> {
    let program = match who {
        Who::Elect => programs::library(),
        Who::Twin => programs::twin(),
        Who::Go => programs::go().ok()?.0,
        Who::ElectRun | Who::Peers | Who::EtcdctlElect | Who::EtcdctlLock => return None,
    };
    let mut command = process::command(program);
    unconfigured(&mut command).args([mode, endpoint, election, &count.to_string(), &ttl.to_string()]);
    Some(Captured::start(&format!("{} {mode}", who.title()), command))
}

/// `elect server --http`, with its HTTP address.
pub(crate) fn http_server(Stand { endpoint, election, ttl }: &Stand, name: &str) -> (Captured, String) {
    let ttl = format!("{ttl}s");
    let mut command = process::command(programs::elect());
    unconfigured(&mut command)
        .args(["server", name, "--etcd", endpoint, "--election", election, "--ttl", &ttl])
        .args(["--http", "127.0.0.1:0", "--log-format", "plain"])
        // Adds the line with the address to those of each renewal.
        .env("RUST_LOG", "info");
    let server = Captured::start(&format!("elect {name}"), command);
    let serving = server.wait_for_line(|line: &str| line.contains("serving http://"), SOON).text;
    let (_, address) = serving.split_once("http://").expect("it was waited for");
    let address = address.split('/').next().expect("split gives at least one part").to_owned();
    (server, address)
}
