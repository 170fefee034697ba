//! A crash where the kernel testifies: SIGKILL to a leader with a lifeline, until another server of its host leads; and
//! until it leads again itself.
//!
//! The TTL has no part in it: the longest one is as fast as the shortest.
//!
//! Also of `elect run` as process 1 of a PID namespace, as in a container: from SIGKILL until the next command runs.

use nix::unistd::Uid;

use crate::{
    Bench,
    contender::{FOLLOWER, LEADER, SOON},
    programs,
    report::{
        Floors, Section,
        measure::{Better, Measure},
        number::Unit,
        sample::Sample,
        who::Who,
    },
    support::{
        capture::{Captured, Mark},
        clock::BootTime,
        elect::Elect,
        eventually::eventually,
        run::{Guarded, Run, descendants_of},
        worker::Diary,
    },
    trials::election,
};

const TTLS: [u64; 2] = [3, 60];

/// Limits for the time to the next leader.
const MEDIAN_MS: f64 = 20.0;
const P99_MS: f64 = 50.0;
/// Limit for the next command, where all of the one before has to be gone first.
const COMMAND_MS: f64 = 50.0;
/// Limit for a server that starts again, from its start until it leads.
const AGAIN_MS: f64 = 100.0;

pub(crate) fn measure(bench: &Bench, _: &mut Floors) -> Section {
    let trials = bench.scale.of(200, 5);
    let how = format!(
        "Three `elect server` on one host with one `--lifeline` directory in memory. From SIGKILL to the leader until the next \
         one leads, {trials} times, one at a time; and a sole server, killed and started again, from its start until it leads. \
         Two `elect run`, each as process 1 of a PID namespace: from SIGKILL to the leader's until the next command runs. Others \
         need a TTL: see *Crash*."
    );
    let mut section = Section::new("lifeline", "Crash of a process, with a lifeline", how);
    for ttl in TTLS {
        let name = if ttl == 60 { "lifeline-60s" } else { "lifeline-3s" };
        let what = format!("crash with a lifeline, TTL {ttl} s");
        let mut field = Field::new(bench, ttl);
        let servers = ["server1", "server2", "server3"];
        let mut running: Vec<_> = servers.map(|name| field.start(name)).into();
        let times: Sample = (0..trials)
            .map(|_| {
                let mut leader = running.remove(0);
                let (mark, killed) = (running[0].mark(), BootTime::now());
                leader.kill();
                let next = running[0].wait_for_line_since(mark, LEADER, SOON);
                running.push(field.start("again"));
                next.at - killed
            })
            .collect();
        section.at_most(&format!("{what}, median"), "ms", times.median(), MEDIAN_MS, "");
        section.at_most(&format!("{what}, p99"), "ms", times.p99(), P99_MS, "");
        let mut measure = Measure::new(name, what, Unit::Milliseconds, Better::Less);
        measure.add(Who::Elect, times);
        section.measures.push(measure);
    }
    let mut field = Field::new(bench, 60);
    let mut server = field.start("sole");
    let times: Sample = (0..trials)
        .map(|_| {
            server.kill();
            server = field.start("sole");
            server.wait_for_line(LEADER, SOON).at - server.started()
        })
        .collect();
    section.at_most("started again, median", "ms", times.median(), AGAIN_MS, "");
    let mut measure = Measure::new(
        "lifeline-again",
        "a sole server killed and started again",
        Unit::Milliseconds,
        Better::Less,
    );
    measure.add(Who::Elect, times);
    section.measures.push(measure);
    if Uid::effective().is_root() {
        measure_containers(bench, &mut section, trials);
    } else {
        section.note("`elect run` as process 1 was not measured: only root can make a PID namespace.");
    }
    section
}

/// A command and a helper that left its group and session.
const WORKS: &str = "WORKER_LOCK= setsid -f sh -c '$WORKER; exit'; exec $WORKER";

fn measure_containers(bench: &Bench, section: &mut Section, trials: usize) {
    let times: Sample = (0..trials).map(|_| kill_container(bench)).collect();
    let what = "elect run as process 1, killed with its guard and command";
    section.at_most(&format!("{what}, median"), "ms", times.median(), COMMAND_MS, "");
    // A trial with two commands at once has panicked.
    section.all(&format!("{what}: one command at a time"), times.len(), trials, "");
    let mut measure = Measure::new("lifeline-run", what, Unit::Milliseconds, Better::Less);
    measure.add(Who::Elect, times);
    section.measures.push(measure);
}

/// Returns the time from SIGKILL to process 1 until the next command's first sign of life.
fn kill_container(bench: &Bench) -> std::time::Duration {
    let (field, diary) = (Field::new(bench, 60), Diary::new());
    let start = |name: &str| {
        let container = Elect::of("unshare", ["--pid", "--fork", "--mount-proc", "--kill-child", "--"]);
        let run = container.arg(programs::elect()).args(["run", "--name", name, "--etcd", &field.endpoint]);
        let run =
            run.args(["--election", &field.election, "--ttl", "60s", "--contain", "none", "--lifeline"]);
        let run = run.arg(field.directory.path()).env("RUST_LOG", "leader_election::lifeline=debug,info");
        Run::start(diary.script(run, WORKS))
    };
    let leader = start("a");
    let first = diary.wait_for_term_after(0);
    diary.wait_for_workers(first.token, 2);
    let next = start("b");
    next.wait_until_follower();
    next.wait_for_log(Mark::START, "the process that it names is followed");
    let process_1 = eventually(SOON, "process 1", || descendants_of(leader.id()).first().copied());
    let killed = BootTime::now();
    Guarded::of(process_1).kill();
    let next = diary.wait_for_term_after(first.token);
    diary.one_at_a_time();
    next.at - killed
}

/// One election, and the directory of its servers.
struct Field {
    directory: tempfile::TempDir,
    endpoint: String,
    election: String,
    ttl: u64,
    led: bool,
}

impl Field {
    fn new(bench: &Bench, ttl: u64) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").expect("there is a tmpfs for shared memory");
        let (endpoint, election) = (bench.etcd.endpoint(), election("lifeline"));
        Self { directory, endpoint, election, ttl, led: false }
    }

    /// Starts a server, and waits until it leads or follows.
    fn start(&mut self, name: &str) -> Captured {
        let ttl = format!("{}s", self.ttl);
        let args = ["server", name, "--etcd", &self.endpoint, "--election", &self.election, "--ttl", &ttl];
        let server = Elect::of(programs::elect(), args).args(["--log-format", "plain", "--lifeline"]);
        let server = server.arg(self.directory.path()).start();
        let first = !std::mem::replace(&mut self.led, true);
        let wanted = move |line: &str| line == LEADER || (line == FOLLOWER && !first);
        server.wait_for_line(wanted, SOON);
        server
    }
}
