//! A command for `elect run` that keeps a diary, so that claims about it can be checked against its own
//! record: when it was alive, in which term, and whether another one was alive too.
//!
//! It is the test's own program, started again: a test file that uses it has
//!
//! ```ignore
//! #[test]
//! #[ignore = "what the other tests run; not a test"]
//! fn worker() {
//!     support::worker::main();
//! }
//! ```

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};
use tempfile::TempDir;

use super::{clock::BootTime, elect::Elect, eventually::eventually, server::SOON};

const DIARY: &str = "WORKER_DIARY";
const LOCK: &str = "WORKER_LOCK";

/// Has a worker give up root before it works, as daemons do.
pub(crate) const GIVE_UP_ROOT: &str = "WORKER_GIVES_UP_ROOT";

/// Interval between its signs of life.
const EVERY: Duration = Duration::from_millis(2);

/// Works until it is killed, if the environment asks for it.
///
/// A worker with a lock writes OVERLAP if another one holds it, so if two run at once. A worker without one is a helper of
/// the first.
pub(crate) fn main() {
    let Ok(path) = env::var(DIARY) else { return };
    let mut diary = File::options().append(true).create(true).open(&path).expect("a diary can be opened");
    let token = env::var("ELECT_TOKEN").expect("elect run sets ELECT_TOKEN");
    let mut write = |what: &str| {
        let now = BootTime::now().as_nanos();
        // One write a line, so that lines of two workers don't mix.
        diary.write_all(format!("{what} {token} {now}\n").as_bytes()).expect("a diary can be written to");
    };
    let lock = env::var(LOCK).ok().filter(|path| !path.is_empty()).map(|path| {
        let file = File::options().append(true).create(true).open(path).expect("a lock file can be opened");
        Flock::lock(file, FlockArg::LockExclusiveNonblock)
    });
    if env::var_os(GIVE_UP_ROOT).is_some() {
        give_up_root().expect("only root is told to");
    }
    match &lock {
        Some(Ok(_)) => write("start"),
        Some(Err(_)) => write("OVERLAP"),
        None => write("help"),
    }
    // The test is over when the diary is gone: then the worker ends, even if `elect run` is broken.
    while Path::new(&path).exists() {
        write("alive");
        thread::sleep(EVERY);
    }
}

fn give_up_root() -> nix::Result<()> {
    const OVERFLOW_ID: u32 = 65_534;
    let (user, group) = (Uid::from_raw(OVERFLOW_ID), Gid::from_raw(OVERFLOW_ID));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)
}

/// One line of a diary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) what: String,
    pub(crate) token: u64,
    pub(crate) at: BootTime,
}

/// The file to which all workers of a test write.
#[derive(Debug)]
pub(crate) struct Diary {
    dir: TempDir,
}

impl Diary {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        // A worker that gave up root must see whether its diary exists.
        let readable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path(), readable).expect("the directory is ours");
        Self { dir }
    }

    /// Has `elect run` run this script, in which `$WORKER` starts a worker.
    pub(crate) fn script(&self, elect: Elect, script: &str) -> Elect {
        let program = env::current_exe().expect("a test has a program");
        let worker = format!("{} --exact worker --ignored --nocapture --test-threads=1", program.display());
        elect
            .env(DIARY, self.path())
            .env(LOCK, self.dir.path().join("lock"))
            .env("WORKER", worker)
            .args(["--", "sh", "-c", script])
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        let text = fs::read_to_string(self.path()).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(parse).collect()
    }

    /// Waits until a worker of a later term has written, and returns that entry.
    #[track_caller]
    pub(crate) fn wait_for_term_after(&self, token: u64) -> Entry {
        eventually(SOON, &format!("a command with a token after {token}"), || {
            self.entries().into_iter().find(|entry| entry.token > token)
        })
    }

    /// Waits until so many workers of one term have started.
    #[track_caller]
    pub(crate) fn wait_for_workers(&self, token: u64, count: usize) {
        eventually(SOON, &format!("{count} workers of term {token}"), || {
            let entries = self.entries();
            let begun = entries.iter().filter(|entry| entry.token == token && entry.what != "alive").count();
            (begun >= count).then_some(())
        });
    }

    /// The last sign of life of any worker of this term.
    #[track_caller]
    pub(crate) fn last_of(&self, token: u64) -> BootTime {
        let entries = self.entries().into_iter().filter(|entry| entry.token == token);
        entries.map(|entry| entry.at).max().expect("a worker ran in that term")
    }

    /// Waits until no worker of this term writes any more, and returns the last sign of life.
    ///
    /// The condition is not monotone; a worker that pauses for so long leads to a failure, though,
    /// and not to a success.
    #[track_caller]
    pub(crate) fn wait_for_end_of(&self, token: u64) -> BootTime {
        const SILENCE: Duration = Duration::from_millis(300);
        eventually(SOON, &format!("the end of term {token}"), || {
            let last = self.last_of(token);
            (last.elapsed() > SILENCE).then_some(last)
        })
    }

    /// Panics if two terms overlap, by the lock or by the clock.
    #[track_caller]
    pub(crate) fn one_at_a_time(&self) {
        let mut terms: BTreeMap<u64, (BootTime, BootTime)> = BTreeMap::new();
        for entry in self.entries() {
            assert_ne!(entry.what, "OVERLAP", "term {} began while the lock was held", entry.token);
            let (from, until) = terms.entry(entry.token).or_insert((entry.at, entry.at));
            (*from, *until) = ((*from).min(entry.at), (*until).max(entry.at));
        }
        let terms: Vec<_> = terms.into_iter().collect();
        for pair in terms.windows(2) {
            let [(before, (_, until)), (after, (from, _))] = pair else { continue };
            assert!(until < from, "term {before} was alive at {until}, and {after} at {from}");
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("diary")
    }
}

fn parse(line: &str) -> Entry {
    let mut words = line.split(' ');
    let mut word = || words.next().unwrap_or_else(|| panic!("a line of a diary: {line:?}"));
    let what = word().to_owned();
    let mut number = || word().parse().unwrap_or_else(|_| panic!("a line of a diary: {line:?}"));
    let token = number();
    Entry { what, token, at: BootTime::from_nanos(number()) }
}
