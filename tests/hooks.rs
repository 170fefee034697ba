//! Hooks and systemd: what they are told of leadership, in which order; slow ones delay nothing.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use support::{
    capture::Mark,
    clock::BootTime,
    elect::Elect,
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    run::{Run, elect_run},
    server::{AT_ONCE, ELECTION_NAME, SOON},
    worker::{self, Diary},
};
use tempfile::TempDir;

/// Longer than any test takes.
const LONG: &str = "60s";

#[test]
#[ignore = "what the other tests run; not a test"]
fn worker() {
    worker::main();
}

/// The file that hooks write to.
struct Book {
    dir: TempDir,
}

impl Book {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("book")
    }

    /// A script that records its environment.
    fn entry(&self) -> String {
        let words = "$ELECT_EVENT name=$ELECT_NAME election=$ELECT_ELECTION token=${ELECT_TOKEN-none} \
                     cluster=${ELECT_CLUSTER-none} leader=${ELECT_LEADER_TOKEN-none}";
        format!("echo {words} >> {}", self.path().display())
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(self.path()).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn wait_for(&self, start: &str) -> String {
        eventually(SOON, &format!("a hook to write {start:?}"), || {
            self.lines().into_iter().find(|line| line.starts_with(start))
        })
    }
}

fn hooked(name: &str, etcd: &Etcd, hooks: &[(&str, &str)]) -> Elect {
    hooks
        .iter()
        .fold(elect_run(name, &etcd.endpoint(), LONG), |elect, (flag, hook)| elect.args([*flag, hook]))
}

#[test]
fn hooks_are_told_who_leads_in_the_order_in_which_it_happens() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let (book, diary) = (Book::new(), Diary::new());
    let entry = book.entry();
    let mut first = Run::start(elect_run("a", &etcd.endpoint(), LONG).args(["--", "sleep", "600"]));
    let elect =
        hooked("b", &etcd, &[("--on-leading", &entry), ("--on-following", &entry), ("--on-change", &entry)]);
    first.wait_for_log(Mark::START, "the command runs");
    let second = Run::start(diary.script(elect, "exec $WORKER"));
    let admin = etcd.admin();
    let a = admin.leader(ELECTION_NAME).unwrap().create_revision;
    book.wait_for("following");
    first.kill();
    let b = diary.wait_for_term_after(0).token;
    book.wait_for("leading");
    admin.revoke(admin.leader(ELECTION_NAME).unwrap().lease);
    book.wait_for("following name=b election=leader token=");
    let c = diary.wait_for_term_after(b).token;
    book.wait_for(&format!("leading name=b election=leader token={c}"));

    let said = book.lines();
    let cluster = format!("{:x}", admin.try_status().unwrap().cluster_id);
    let at = |line: String| {
        let found = said.iter().position(|said| *said == line);
        found.unwrap_or_else(|| panic!("{line:?} in {said:#?}"))
    };
    let of = |event: &str, token: &str, leader: &str| {
        let cluster = if token == "none" { "none" } else { &cluster };
        at(format!("{event} name=b election=leader token={token} cluster={cluster} leader={leader}"))
    };
    let (a, b, c) = (a.to_string(), b.to_string(), c.to_string());
    let told = [
        of("change", "none", &a),
        of("leading", &b, "none"),
        of("following", &b, "none"),
        of("leading", &c, "none"),
    ];
    assert!(told.is_sorted(), "{told:?} of {said:#?}");
    assert!(of("following", "none", "none") < told[1], "{said:#?}");
    assert!(
        said.iter().any(|line| line.starts_with("change") && line.ends_with(&format!("leader={b}"))),
        "{said:#?}"
    );
    second.wait_for_log(Mark::START, "the command runs");
}

#[test]
fn hooks_and_the_command_are_told_addresses() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let book = Book::new();
    let addresses = "leader=${ELECT_LEADER_ADDRESS-none} own=${ELECT_ADVERTISE-none}";
    let entry = |event: &str| format!("echo {event} {addresses} >> {}", book.path().display());
    let hook = entry("$ELECT_EVENT");
    let first =
        elect_run("a", &etcd.endpoint(), LONG).args(["--advertise", "https://host-a/", "--", "sleep", "600"]);
    let mut first = Run::start(first);
    first.wait_for_log(Mark::START, "the command runs");
    let hooks = [("--on-change", hook.as_str()), ("--on-leading", &hook), ("--advertise", "host-b:8443")];
    let command = format!("{}; exec sleep 600", entry("command"));
    let _second = Run::start(hooked("b", &etcd, &hooks).args(["--", "sh", "-c", &command]));
    book.wait_for("change leader=https://host-a/ own=host-b:8443");
    first.kill();
    book.wait_for("leading leader=none own=host-b:8443");
    book.wait_for("command leader=none own=host-b:8443");
    book.wait_for("change leader=host-b:8443 own=host-b:8443");
}

#[test]
fn hooks_run_one_at_a_time() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let book = Book::new();
    let path = book.path();
    let slow = format!("echo begin >> {0}; sleep 0.2; echo end >> {0}", path.display());
    let hooks = [("--on-change", slow.as_str()), ("--on-following", &slow)];
    let elect = hooked("a", &etcd, &hooks).args(["--", "true"]);
    let mut run = Run::start(elect);
    run.exits(0);
    // The change to itself and the end of its term; perhaps the vacancy before.
    let said = book.lines();
    assert!(said.len() >= 4, "{said:?}");
    assert!(said.chunks(2).all(|pair| pair == ["begin", "end"]), "{said:?}");
}

#[test]
fn a_hook_for_leading_is_killed_when_its_term_is_over_and_holds_up_nothing() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let (book, diary) = (Book::new(), Diary::new());
    let endless = format!("echo $$ >> {}; sleep 30 & wait", book.path().display());
    let elect = hooked("a", &etcd, &[("--on-leading", &endless), ("--hook-timeout", "500s")]);
    let mut leader = Run::start(diary.script(elect, "exec $WORKER"));
    let token = diary.wait_for_term_after(0).token;
    let group = eventually(SOON, "the hook to begin", || book.lines().first()?.parse().ok());
    let follower = Run::start(diary.script(elect_run("b", &etcd.endpoint(), LONG), "exec $WORKER"));
    follower.wait_until_follower();

    let told = BootTime::now();
    leader.signal(Signal::SIGTERM);
    let next = diary.wait_for_term_after(token);
    assert!(next.at - told < AT_ONCE, "{:?}", next.at - told);
    leader.exits(143);
    let group = nix::unistd::Pid::from_raw(group);
    eventually(SOON, "all of the hook to be gone", || nix::sys::signal::killpg(group, None).err());
    diary.one_at_a_time();
}

/// A leader hook: a worker without a lock, and another that left its group.
const HOOK_THAT_WORKS: &str = "WORKER_LOCK= setsid -f sh -c \"$WORKER; exit\"; WORKER_LOCK= exec $WORKER";

fn leader_whose_hook_works(etcd: &Etcd, ttl: &str, diary: &Diary) -> (Run, u64, Run) {
    let hook = ["--on-leading", HOOK_THAT_WORKS, "--hook-timeout", "500s"];
    let leader = Run::start(diary.script(elect_run("a", &etcd.endpoint(), ttl).args(hook), "exec $WORKER"));
    let token = diary.wait_for_term_after(0).token;
    diary.wait_for_workers(token, 3);
    let follower = Run::start(diary.script(elect_run("b", &etcd.endpoint(), ttl), "exec $WORKER"));
    follower.wait_until_follower();
    (leader, token, follower)
}

#[test]
fn contract_13_a_hook_for_leading_is_gone_before_the_next_term_where_its_supervisor_is_stopped() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let (mut leader, token, _follower) = leader_whose_hook_works(&etcd, "3s", &diary);
    leader.freeze();
    diary.wait_for_term_after(token);
    diary.wait_for_end_of(token);
    diary.one_at_a_time();
    leader.thaw();
}

#[test]
fn contract_13_a_hook_for_leading_is_gone_before_the_next_term_where_its_supervisor_is_killed() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let (mut leader, token, _follower) = leader_whose_hook_works(&etcd, LONG, &diary);
    let killed = leader.kill();
    let next = diary.wait_for_term_after(token);
    assert!(next.at - killed < AT_ONCE, "the guard released: {:?}", next.at - killed);
    diary.wait_for_end_of(token);
    diary.one_at_a_time();
}

#[test]
fn contract_13_a_hook_for_leading_is_gone_before_the_next_term_where_the_guard_is_killed() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let (leader, token, _follower) = leader_whose_hook_works(&etcd, LONG, &diary);
    leader.guard().kill();
    diary.wait_for_term_after(token);
    diary.wait_for_end_of(token);
    diary.one_at_a_time();
}

#[test]
fn contract_13_a_hook_for_leading_is_gone_before_the_next_term_where_the_lease_is_revoked() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let (_leader, token, _follower) = leader_whose_hook_works(&etcd, LONG, &diary);
    let admin = etcd.admin();
    let revoked = BootTime::now();
    admin.revoke(admin.leader(ELECTION_NAME).unwrap().lease);
    let last = diary.wait_for_end_of(token);
    // Other candidates may then start at once; this test shows only that it ends at once.
    assert!(last - revoked < AT_ONCE, "{:?}", last - revoked);
}

#[test]
fn what_a_finished_hook_for_leading_left_running_lives_as_long_as_the_term() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let diary = Diary::new();
    let hook = "WORKER_LOCK= setsid -f sh -c \"$WORKER; exit\"; exit 0";
    let elect = elect_run("a", &etcd.endpoint(), LONG).args(["--on-leading", hook, "--restart", "always"]);
    // The command is restarted in the same term; the hook's worker does not belong to it.
    let mut leader = Run::start(diary.script(elect, "sleep 0.2; exit 3"));
    let token = diary.wait_for_term_after(0).token;
    let mut mark = Mark::START;
    for _ in 0..2 {
        mark = leader.wait_for_log(mark, "the command is started again");
    }
    let restarted = BootTime::now();
    eventually(SOON, "the hook's worker to work on", || (diary.last_of(token) > restarted).then_some(()));
    leader.signal(Signal::SIGTERM);
    leader.wait_exit(SOON);
    let ended = BootTime::now();
    assert!(diary.wait_for_end_of(token) < ended);
}

#[test]
fn a_hook_that_takes_too_long_is_killed_and_the_next_one_runs() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let book = Book::new();
    let entry = book.entry();
    let hooks =
        [("--on-leading", "sleep 30"), ("--on-following", entry.as_str()), ("--hook-timeout", "300ms")];
    let mut run = Run::start(hooked("a", &etcd, &hooks).args(["--", "sleep", "600"]));
    run.wait_for_log(Mark::START, "a hook took too long and was killed");
    run.signal(Signal::SIGTERM);
    run.exits(143);
    assert!(book.lines().iter().any(|line| line.starts_with("following")), "{:?}", book.lines());
}

#[test]
fn on_the_way_out_those_still_due_share_one_timeout() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let book = Book::new();
    // Both are due at the end, and each would use all of the time.
    let slow = format!("echo begin >> {}; exec sleep 600", book.path().display());
    let hooks = [("--on-following", slow.as_str()), ("--on-change", slow.as_str()), ("--hook-timeout", "2s")];
    let mut run = Run::start(hooked("a", &etcd, &hooks).args(["--", "true"]));
    let began = BootTime::now();
    run.exits(0);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "one timeout, not one each: {took:?}");
    let log = run.stderr().join("\n");
    assert!(log.contains("hooks were cut off at the end"), "{log}");
    assert!(!book.lines().is_empty());
}

#[test]
fn hooks_do_not_outlive_a_killed_supervisor() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let book = Book::new();
    let hook = format!("echo $$ >> {}; exec sleep 600", book.path().display());
    let mut run = Run::start(hooked("a", &etcd, &[("--on-leading", &hook)]).args(["--", "sleep", "600"]));
    let pid = eventually(SOON, "the hook to begin", || book.lines().first()?.parse().ok());
    run.kill();
    let pid = nix::unistd::Pid::from_raw(pid);
    eventually(SOON, "the hook to be gone", || nix::sys::signal::kill(pid, None).err());
}

/// The receiver of systemd's notifications.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _dir: TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self { socket, path, _dir: dir }
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for a variable with this prefix.
    #[track_caller]
    fn wait_for(&self, start: &str) -> BootTime {
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let Ok(length) = self.socket.recv(&mut buffer) else {
                panic!("waited for {start:?}; heard {heard:?}")
            };
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.lines().any(|line| line.starts_with(start)) {
                return BootTime::now();
            }
            heard.push(text);
        }
    }

    /// Takes what has arrived so far.
    fn drain(&self) -> usize {
        self.socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 4096];
        let heard = std::iter::from_fn(|| self.socket.recv(&mut buffer).ok()).count();
        self.socket.set_nonblocking(false).unwrap();
        heard
    }
}

fn tells_systemd(elect: impl Fn(&Manager) -> Elect) {
    let manager = Manager::new();
    let elect = elect(&manager).env("NOTIFY_SOCKET", manager.path()).env("WATCHDOG_USEC", "400000");
    let mut process = elect.start();
    manager.wait_for("READY=1");
    manager.wait_for("STATUS=leads with token ");
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
    // A frozen loop feeds no watchdog.
    process.freeze();
    manager.drain();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(manager.drain(), 0);
    process.thaw();
    manager.wait_for("WATCHDOG=1");
    process.signal(Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
    process.wait_exit(SOON);
}

#[test]
fn systemd_hears_of_a_run() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    tells_systemd(|_| elect_run("a", &etcd.endpoint(), LONG).args(["--", "sleep", "600"]));
}

#[test]
fn systemd_hears_of_a_server() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    tells_systemd(|_| Elect::server("a", &etcd.endpoint()).args(["--ttl", LONG]));
}

#[test]
fn it_is_not_ready_before_it_has_had_a_lease() {
    let mut etcd = Etcd::start(EtcdVersion::V3_7);
    etcd.kill();
    let manager = Manager::new();
    let elect = elect_run("a", &etcd.endpoint(), LONG).args(["--", "sleep", "600"]);
    let run = Run::start(elect.env("NOTIFY_SOCKET", manager.path()));
    let tries = manager.wait_for("STATUS=tries again: ");
    etcd.restart();
    assert!(manager.wait_for("READY=1") > tries);
    run.wait_for_log(Mark::START, "the command runs");
}

#[test]
fn a_service_manager_that_reads_nothing_costs_no_renewal() {
    let etcd = Etcd::start(EtcdVersion::V3_7);
    let manager = Manager::new();
    let elect = elect_run("a", &etcd.endpoint(), "2s").args(["--", "sleep", "600"]);
    // Full within a second: the kernel keeps some hundred datagrams at most.
    let elect = elect.env("NOTIFY_SOCKET", manager.path()).env("WATCHDOG_USEC", "2000");
    let run = Run::start(elect.env("RUST_LOG", "transcript=debug"));
    let mut mark = Mark::START;
    for _ in 0..6 {
        mark = run.wait_for_log(mark, "Refreshing lease; still the leader.");
    }
    let log = run.stderr().join("\n");
    assert!(!log.contains("LEADERSHIP CHANGE REQUIRED"), "{log}");
}
