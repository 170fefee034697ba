//! The programs that are measured, as separate processes: ours and the twin.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
    sync::LazyLock,
    time::Duration,
};

use crate::support::{capture::Captured, elect::unconfigured, process};

/// For what takes milliseconds on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) const LEADER: &str = "I am the leader.";
pub(crate) const FOLLOWER: &str = "I am a follower.";
pub(crate) const REFRESHING: &str = "Refreshing lease; still the leader.";
pub(crate) const CHANGE: &str = "LEADERSHIP CHANGE REQUIRED";

/// Whose candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// `elect server`
    Ours,
    /// `bench-twin one`
    Twin,
}

/// Where a candidate stands.
#[derive(Debug, Clone)]
pub(crate) struct Stand {
    pub(crate) endpoint: String,
    pub(crate) election: String,
    pub(crate) ttl: u64,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Ours, Self::Twin];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Twin => "twin",
        }
    }

    /// Starts a candidate that ends with this process, however that ends.
    pub(crate) fn start(self, stand: &Stand, name: &str) -> Captured {
        let (program, args) = self.program(stand, name);
        start(&format!("{} {name}", self.name()), process::command(program), args)
    }

    /// Starts a candidate by nothing but its own program, so that nothing else is timed.
    pub(crate) fn start_bare(self, stand: &Stand, name: &str) -> Captured {
        let (program, args) = self.program(stand, name);
        start(&format!("{} {name}", self.name()), Command::new(program), args)
    }

    /// What it prints when a renewal is acknowledged.
    pub(crate) fn renewal(self) -> &'static str {
        match self {
            Self::Ours => REFRESHING,
            Self::Twin => "renewed",
        }
    }

    fn program(self, Stand { endpoint, election, ttl }: &Stand, name: &str) -> (PathBuf, Vec<String>) {
        match self {
            Self::Ours => {
                let ttl = format!("{ttl}s");
                let args = ["server", name, "--etcd", endpoint, "--election", election, "--ttl", &ttl];
                (
                    elect(),
                    [&args[..], &["--log-format", "plain"]].concat().into_iter().map(Into::into).collect(),
                )
            }
            Self::Twin => {
                let ttl = ttl.to_string();
                let args = ["one", endpoint, election, name, &ttl];
                (TWIN.clone(), args.map(Into::into).into())
            }
        }
    }
}

/// `elect server --http`, and where it listens.
pub(crate) fn http_server(Stand { endpoint, election, ttl }: &Stand, name: &str) -> (Captured, String) {
    let ttl = format!("{ttl}s");
    let args = ["server", name, "--etcd", endpoint, "--election", election, "--ttl", &ttl];
    let args = [&args[..], &["--http", "127.0.0.1:0", "--log-format", "full"]].concat();
    let server =
        start(&format!("ours {name}"), process::command(elect()), args.into_iter().map(Into::into).collect());
    let serving = server.wait_for_line(|line: &str| line.contains("serving http://"), SOON).text;
    let (_, address) = serving.split_once("http://").expect("it was waited for");
    let address = address.split('/').next().expect("split gives at least one part").to_owned();
    (server, address)
}

/// A library program that prints each claim to lead.
pub(crate) fn claimant(Stand { endpoint, election, ttl }: &Stand, name: &str) -> Captured {
    let ttl = ttl.to_string();
    let args = ["claimant", endpoint, election, name, &ttl];
    start(&format!("claimant {name}"), process::command(&*LIBRARY), args.map(Into::into).into())
}

/// One process with many candidates on one connection.
pub(crate) fn crowd(
    side: Side,
    how: &str,
    Stand { endpoint, election, ttl }: &Stand,
    count: usize,
) -> Captured {
    let program = match side {
        Side::Ours => &LIBRARY,
        Side::Twin => &TWIN,
    };
    let (count, ttl) = (count.to_string(), ttl.to_string());
    let args = [how, endpoint, election, &count, &ttl];
    start(&format!("{} crowd", side.name()), process::command(&**program), args.map(Into::into).into())
}

static ELECT: LazyLock<PathBuf> =
    LazyLock::new(|| given("elect").unwrap_or_else(|| env!("CARGO_BIN_EXE_elect").into()));
static TWIN: LazyLock<PathBuf> = LazyLock::new(|| example("bench-twin"));
static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| example("bench-library"));

fn example(name: &str) -> PathBuf {
    given(name).unwrap_or_else(|| profile_dir().join("examples").join(name))
}

/// A program built before, to be measured in place of the present one.
fn given(name: &str) -> Option<PathBuf> {
    env::var_os(PROGRAMS).map(|dir| PathBuf::from(dir).join(name))
}

const PROGRAMS: &str = "BENCH_PROGRAMS";

pub(crate) fn elect() -> PathBuf {
    ELECT.clone()
}

fn start(name: &str, mut command: Command, args: Vec<String>) -> Captured {
    unconfigured(&mut command).args(args);
    Captured::start(name, command)
}

/// Builds what is started, by the profile that this was built by. For a benchmark, Cargo builds no examples,
/// and a binary only as for a test: able to unwind, where the released one aborts.
pub(crate) fn build() {
    if env::var_os(PROGRAMS).is_some() {
        return;
    }
    let dir = profile_dir();
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let target = dir.parent().expect("a profile's directory is in the target directory");
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--locked", "--profile", profile])
        .args(["--bin", "elect", "--example", "bench-twin", "--example", "bench-library"])
        .arg("--target-dir")
        .arg(target)
        .stdin(Stdio::null())
        .status();
    let built = status.as_ref().is_ok_and(|status| status.success());
    assert!(built, "cargo failed to build the programs to compare with: {status:?}");
}

/// `target/release`, where this program is in `deps`.
fn profile_dir() -> PathBuf {
    let this = env::current_exe().expect("Linux tells a program its path");
    this.ancestors().nth(2).expect("it is in PROFILE/deps").to_owned()
}
