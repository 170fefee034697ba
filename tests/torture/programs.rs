//! The programs under test other than `elect`: a user's program on the library, and the command of `elect run`.
//!
//! Both are this test's own program, started again (see `main.rs`), and write their beliefs into a diary: a line of
//! JSON for each event, one write a line.

use std::{
    cell::Cell,
    env,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    pin::pin,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use leader_election::{
    Candidate, Leadership, Loss,
    candidate::Backend,
    etcd::Etcd,
    peers::{self, Peer, Secret, Timing},
    timing::Ttl,
};
use nix::unistd::{Gid, Uid, setresgid};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval, sleep},
};

use self::guarded::GuardedWrites;
use super::{
    backend::{self, HEARTBEAT, LONGEST, SHORTEST, TTL},
    clocks::uptime,
    history::{At, Ending, Event, EventKind, Token},
    places,
};

mod guarded;

/// Names of environment variables.
pub(crate) const DIARY: &str = "TORTURE_DIARY";
pub(crate) const NAME: &str = "TORTURE_NAME";
pub(crate) const ETCD: &str = "TORTURE_ETCD";
pub(crate) const PEERS: &str = "TORTURE_PEERS";
pub(crate) const LISTEN: &str = "TORTURE_LISTEN";
pub(crate) const DATA: &str = "TORTURE_DATA";
pub(crate) const SECRET: &str = "TORTURE_SECRET";
pub(crate) const STORE: &str = "TORTURE_STORE";
pub(crate) const FILE: &str = "TORTURE_FILE";

pub(crate) const ELECTION: &str = "torture";

/// Prefix of the guarded writes in etcd: each has a key of its own, so that etcd's order can be read
/// at the end.
pub(crate) const WRITES: &str = "torture-writes/";

/// The interval between two questions to a guard, and between two notes of an unchanged yes.
const ASK_EVERY: Duration = Duration::from_millis(2);
const TELL_EVERY: Duration = Duration::from_millis(20);

const WRITE_EVERY: Duration = Duration::from_millis(100);

/// The interval between a command's signs of life.
const ALIVE_EVERY: Duration = Duration::from_millis(4);

/// One in so many writes is delayed, for up to twice a takeover's time: longer than its writer leads.
const HELD_UP: u8 = 12;

/// A line of a diary.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Noted {
    #[serde(flatten)]
    pub(crate) event: Event,
    /// The same moment by the kernel: the process's own clock may run at another rate.
    pub(crate) uptime: At,
}

/// Lines of JSON, appended.
struct EventDiary {
    file: File,
    path: PathBuf,
}

impl EventDiary {
    fn open() -> Self {
        let path = PathBuf::from(variable(DIARY));
        let file = File::options().append(true).create(true).open(&path).expect("a diary can be opened");
        Self { file, path }
    }

    fn write(&self, at: At, what: EventKind) {
        let noted = Noted { event: Event { at, what }, uptime: uptime() };
        let mut line = serde_json::to_string(&noted).expect("an event can be written");
        line.push('\n');
        (&self.file).write_all(line.as_bytes()).expect("a diary can be written to");
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// The command of `elect run`: shows signs of life, and writes as a leader does, until it is killed.
#[test]
#[ignore = "what a run starts; not a test"]
fn command() {
    let (Ok(token), Ok(who)) = (env::var("ELECT_TOKEN"), env::var("ELECT_NAME")) else { return };
    let token: Token = token.parse().expect("a token is a number");
    let diary = EventDiary::open();
    start_helper();
    if who != "r3" && Uid::effective().is_root() {
        // As a daemon gives up root; the user would lose access to the diary.
        let group = Gid::from_raw(65_534);
        setresgid(group, group, group).expect("root may");
    }
    let mut last_write = At(0);
    // The run is over when the diary is gone: then the process ends, even if `elect run` is broken.
    while diary.path.exists() {
        let now = At::now();
        diary.write(now, EventKind::Alive { who: who.clone(), token });
        if now.since(last_write) >= WRITE_EVERY {
            last_write = now;
            write_outside(token);
        }
        thread::sleep(ALIVE_EVERY);
    }
}

/// Starts a helper that leaves group and session, and whose main thread ends at once, so that `/proc` shows a zombie. Its
/// signs of life are the command's. It needs Python: safe code ends no thread alone.
fn start_helper() {
    const HELPER: &str = "
import ctypes, json, os, platform, threading, time
diary, who, token = os.environ['TORTURE_DIARY'], os.environ['ELECT_NAME'], int(os.environ['ELECT_TOKEN'])
def work():
    while os.path.exists(diary):
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        line = json.dumps({'at': now, 'what': 'alive', 'who': who, 'token': token, 'uptime': now}) + '\\n'
        with open(diary, 'a') as to:
            to.write(line)
        time.sleep(0.01)
threading.Thread(target=work).start()
ctypes.CDLL(None).syscall({'x86_64': 60}.get(platform.machine(), 93), 0)
";
    let _ = Command::new("setsid").args(["-f", "python3", "-c", HELPER]).stderr(Stdio::null()).status();
}

/// Writes to the store that compares tokens, and to the file that does not.
fn write_outside(token: Token) {
    places::write_to_file(Path::new(&variable(FILE)), token);
    places::write_to_store(Path::new(&variable(STORE)), token);
}

/// A program on the library: campaigns, and does a leader's work, until SIGTERM.
#[test]
#[ignore = "what a run starts; not a test"]
fn candidate() {
    let Ok(name) = env::var(NAME) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(stand(&name));
}

async fn stand(name: &str) {
    let diary = Arc::new(EventDiary::open());
    if let Ok(group) = env::var(PEERS) {
        let peers = member(name, &group);
        let reading = tokio::spawn(guarded::read_on(peers.clone(), Arc::clone(&diary), name.to_owned()));
        let candidate = peers.candidate();
        lead(name, candidate, &diary, &GuardedWrites::Log(peers.clone()), backend::Backend::Peers).await;
        reading.abort();
        leave(peers).await;
    } else {
        let etcd = Etcd::connect(&variable(ETCD)).expect("endpoints, and a thread");
        let ttl = Ttl::new(TTL).expect("a TTL");
        let candidate = etcd.candidate(ELECTION).expect("a name").ttl(ttl).named(name).expect("a name");
        lead(name, candidate, &diary, &GuardedWrites::Etcd(etcd.clone()), backend::Backend::Etcd).await;
        leave(etcd).await;
    }
}

/// That member of the group, on a thread of its own.
fn member(name: &str, group: &str) -> Peer {
    let (name, group) = (name.parse().expect("a name"), group.parse().expect("a group"));
    let settings = peers::Settings::new(&name, group, variable(DATA)).expect("a member");
    let settings = settings
        .with_election(ELECTION.parse().expect("a name"))
        .with_timing(Timing::new(HEARTBEAT, SHORTEST, LONGEST).expect("they fit"))
        .listening_on(variable(LISTEN).parse().expect("an address"))
        .with_secret(Secret::new(variable(SECRET).as_bytes()).expect("it is long enough"));
    Peer::start(settings).expect("a member starts")
}

/// Waits for the release of keys and leases, for a limited time.
async fn leave(backend: impl Backend) {
    let _ = tokio::time::timeout(Duration::from_secs(3), backend.drained()).await;
}

/// Campaigns until it is told to stop.
async fn lead<B: Backend>(
    name: &str,
    mut candidate: Candidate<B>,
    diary: &EventDiary,
    guarded: &GuardedWrites,
    on: backend::Backend,
) {
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be listened to");
    loop {
        let leadership = tokio::select! {
            biased;
            _ = terminate.recv() => return,
            won = candidate.campaign() => won.expect("nothing is wrong that retrying can't fix"),
        };
        let term = Work { diary, who: name, on, guarded, leadership, last: Cell::new(None) };
        if term.work(&mut terminate).await {
            return;
        }
    }
}

/// A term's work.
struct Work<'a> {
    diary: &'a EventDiary,
    who: &'a str,
    on: backend::Backend,
    guarded: &'a GuardedWrites,
    leadership: Leadership,
    /// The guard's last yes.
    last: Cell<Option<At>>,
}

impl Work<'_> {
    /// Works while it leads. Returns whether it was told to stop.
    async fn work(self, terminate: &mut Signal) -> bool {
        let (who, token) = (self.who.to_owned(), self.leadership.token().get());
        let told = tokio::select! {
            biased;
            () = self.ask() => false,
            _ = terminate.recv() => true,
            () = self.write_guarded() => false,
        };
        let Self { diary, leadership, last, .. } = self;
        let ended = |how| EventKind::Ended { who, token, last: last.get(), how };
        if told {
            diary.write(At::now(), ended(Ending::Resigned));
            // Just lost, or not confirmed in time: it is over in any case.
            let _ = leadership.resign().await;
            return true;
        }
        let how = match leadership.lost().await {
            Loss::Expired => Ending::Expired,
            Loss::Resigned => Ending::Resigned,
            _ => Ending::Taken,
        };
        diary.write(At::now(), ended(how));
        false
    }

    /// Asks the guard repeatedly, and writes down its answers, until it says no.
    async fn ask(&self) {
        let (mut told, mut known) = (At(0), None);
        let mut every = interval(ASK_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Read first: the guard's answer is true a little later, so also now.
            let now = At::now();
            let until = self.leadership.deadline().map(|until| At(until.as_nanos()));
            if !self.leadership.holds() {
                return;
            }
            self.last.set(Some(now));
            let (who, token) = (self.who.to_owned(), self.leadership.token().get());
            if let Some(until) = until.filter(|until| known != Some(*until)) {
                known = Some(until);
                self.diary.write(now, EventKind::Proved { who, token, until });
            } else if now.since(told) >= TELL_EVERY {
                told = now;
                self.diary.write(now, EventKind::Held { who, token });
            }
            every.tick().await;
        }
    }

    /// Writes everywhere, for as long as it leads.
    async fn write_guarded(&self) {
        let mut every = interval(WRITE_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 0_u64.. {
            every.tick().await;
            if !self.leadership.holds() {
                // The other loop notes the end.
                return std::future::pending().await;
            }
            self.write_outside(self.leadership.token().get());
            let mut writing = pin!(self.guarded.write(&self.leadership, number, self.who, self.diary));
            let _ = tokio::time::timeout(self.on.span(), &mut writing).await;
        }
    }

    /// Sends a write, which may be delayed.
    fn write_outside(&self, token: Token) {
        let delay = match fastrand::u8(0..HELD_UP) {
            0 => self.on.takeover().mul_f64(2.0 * fastrand::f64()),
            _ => Duration::ZERO,
        };
        tokio::spawn(async move {
            sleep(delay).await;
            write_outside(token);
        });
    }
}
