//! Limits of the system: file descriptors, memory, space for the log, `/proc`. Each start works or names the
//! reason; a process that already leads stops in time or continues safely, and recovers by itself.
//!
//! `prlimit`, of util-linux, sets limits for the processes under test only.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod support;

use std::{
    fs::{self, File},
    io::Read,
    os::fd::OwnedFd,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::Signal,
    unistd::{Uid, pipe},
};
use support::{
    capture::{Captured, Mark},
    cgroup::MemoryGroup,
    clock::BootTime,
    elect::{Elect, unconfigured},
    etcd::{Etcd, EtcdVersion},
    eventually::eventually,
    http::{Connection, Events, get, wait_for_status},
    port::ReservedPort,
    process::{self, Process},
    proxy::Proxy,
    run::{Run, elect_run},
    server::{
        CHANGE, ELECTION_NAME, FOLLOWER, LEADER, REFRESHING, SOON, Server, led_one_at_a_time, start_in_turn,
    },
    tool,
};

const ELECT: &str = env!("CARGO_BIN_EXE_elect");

const SHORT: &str = "2s";

/// With this many or more, every start has to work. Far below any system's default.
const ENOUGH_DESCRIPTORS: usize = 64;

fn start_etcd() -> Etcd {
    Etcd::start(EtcdVersion::V3_7)
}

/// `elect ARGS…` with a limit of descriptors.
fn limited(descriptors: usize, args: &[&str]) -> Elect {
    let limit = format!("--nofile={descriptors}");
    Elect::of("prlimit", [&[&*limit, "--", ELECT], args].concat())
}

/// Sets the soft limit of a running process. The hard limit stays, so the soft one can be raised again.
fn allow(process: u32, descriptors: &str) {
    let mut prlimit = Command::new("prlimit");
    tool::succeeds(prlimit.args(["--pid", &process.to_string(), &format!("--nofile={descriptors}:")]));
}

/// All output of a process.
fn said(process: &Captured) -> String {
    [process.stdout(), process.stderr()].concat().join("\n")
}

#[test]
fn with_however_few_descriptors_a_start_works_or_says_what_is_missing() {
    let etcd = start_etcd();
    let endpoint = &*etcd.endpoint();
    for command in ["server", "served", "run", "status"] {
        let start = |descriptors: usize| {
            let election = format!("{command}-{descriptors}");
            let shared = ["--etcd", endpoint, "--election", &election];
            let standing = ["--name", "a", "--ttl", "60s", "--log-format", "full"];
            let args = match command {
                "status" => [&["status"][..], &shared].concat(),
                "server" => [&["server"][..], &shared, &standing].concat(),
                "served" => [&["server", "--http", "0"][..], &shared, &standing].concat(),
                _ => [&["run"][..], &shared, &standing, &["--", "sleep", "1000"]].concat(),
            };
            (descriptors, limited(descriptors, &args).start())
        };
        // With fewer than 4, the dynamic loader can't open its libraries.
        let mut started: Vec<_> = (4..28).chain([ENOUGH_DESCRIPTORS]).map(start).collect();
        let mut refused = 0;
        for (descriptors, process) in &mut started {
            let works = ["I am the leader.", "the command runs", "vacant"];
            eventually(SOON, "it to work or to end", || {
                let working = works.iter().any(|line| said(process).contains(line));
                (working || process.status().is_some()).then_some(())
            });
            let what = format!("{command} with {descriptors} descriptors");
            if process.status().is_some_and(|status| status.code() != Some(3)) {
                let code = process.wait_exit(SOON).code();
                let said = said(process);
                assert_eq!(code, Some(1), "{what}: {said}");
                let clear = said.contains("descriptor") || said.contains("Too many open files");
                assert!(said.contains("elect: ") && clear, "{what}: {said}");
                assert!(*descriptors < ENOUGH_DESCRIPTORS, "{what}: {said}");
                refused += 1;
            } else {
                process.signal(Signal::SIGTERM);
            }
            assert!(!said(process).contains("panicked"), "{what}: {}", said(process));
        }
        assert!(refused > 0, "{command}: the limit was never felt");
    }
}

#[test]
fn a_leader_without_descriptors_renews_and_stops_in_time_once_it_is_cut_off_and_comes_back() {
    let etcd = start_etcd();
    let proxy = Proxy::start(&etcd.endpoint());
    let poor = Server::start_leader("poor", &proxy.endpoint(), SHORT);
    let next = Server::start_follower("next", &etcd.endpoint(), SHORT);
    allow(poor.id(), "3");
    let mark = poor.mark();
    // Renewals open no new descriptor.
    poor.wait_for_refreshing_since(mark, 4);

    let mark = poor.mark();
    proxy.cut();
    poor.wait_for_line_since(mark, CHANGE, SOON);
    next.wait_for_line(LEADER, SOON);
    led_one_at_a_time([&poor, &next]);

    allow(poor.id(), "256");
    poor.wait_for_line_since(mark, FOLLOWER, SOON);
    drop(next);
    poor.wait_for_line_since(mark, LEADER, SOON);
}

#[test]
fn a_guard_without_descriptors_ends_its_command_all_the_same() {
    let etcd = start_etcd();
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    let script = format!("echo $$ >{}; exec sleep 1000", pid_file.display());
    // In a PID namespace, `$$` would be another process here.
    let elect =
        elect_run("a", &etcd.endpoint(), "60s").args(["--contain", "none", "--", "sh", "-c", &script]);
    let mut run = Run::start(elect);
    let pid: i32 =
        eventually(SOON, "the command", || fs::read_to_string(&pid_file).ok()?.trim().parse().ok());
    allow(run.guard().id(), "3");
    run.signal(Signal::SIGTERM);
    run.wait_exit(SOON);
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap(), "the command outlived its leadership");
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), []);
}

#[test]
fn clients_of_http_leave_enough_descriptors_to_come_back_to_etcd() {
    let etcd = start_etcd();
    let proxy = Proxy::start(&etcd.endpoint());
    let port = ReservedPort::new();
    let args = ["server", "a", "--etcd", &proxy.endpoint(), "--ttl", "3s", "--log-format", "plain"];
    let http = ["--http", &port.address()];
    let server = limited(ENOUGH_DESCRIPTORS, &[&args[..], &http].concat()).start();
    server.wait_for_line(LEADER, SOON);
    wait_for_status(&port.address(), "/leader", 200, SOON);

    let open = |_| Events::try_open(&port.address(), "/events").ok();
    let listening = (0..ENOUGH_DESCRIPTORS).map_while(open);
    let listening: Vec<_> = listening.filter(|events| events.response.status == 200).collect();
    let idle: Vec<_> = (0..2 * ENOUGH_DESCRIPTORS).map(|_| Connection::open(&port.address())).collect();
    assert!(!listening.is_empty());
    assert_eq!(get(&port.address(), "/leader").status, 200, "a load balancer's check is answered among them");

    let mark = server.mark();
    for _ in 0..3 {
        proxy.cut();
        let cut = server.mark();
        server.wait_for_line_since(cut, REFRESHING, SOON);
    }
    let texts: Vec<_> = server.lines_since(mark).into_iter().map(|line| line.text).collect();
    assert!(!texts.iter().any(|text| text == CHANGE), "{texts:?}");
    assert_eq!(get(&port.address(), "/leader").status, 200);
    drop((listening, idle));
}

/// Target of the standard output.
enum Log {
    FullDisk,
    Closed,
    NobodyReads,
}

#[test]
fn a_log_that_cannot_be_written_costs_no_leadership() {
    let etcd = start_etcd();
    let ttl = Duration::from_secs(2);
    for (election, log) in [("full", Log::FullDisk), ("closed", Log::Closed), ("unread", Log::NobodyReads)] {
        // The most verbose log, so that every moment has something to lose.
        let shell = if matches!(log, Log::Closed) { "exec \"$@\" >&-" } else { "exec \"$@\"" };
        let mut command = process::command("sh");
        unconfigured(&mut command).args(["-c", shell, "sh", ELECT, "server", "a", "--election", election]);
        command.args(["--etcd", &etcd.endpoint(), "--ttl", SHORT]).env("RUST_LOG", "trace");
        command.stdin(Stdio::null()).stderr(Stdio::null());
        match log {
            Log::FullDisk => command.stdout(File::options().write(true).open("/dev/full").unwrap()),
            Log::Closed => command.stdout(Stdio::null()),
            Log::NobodyReads => command.stdout(pipe_without_reader()),
        };
        let mut server = Process::start("elect server", command);
        let leader = eventually(SOON, "a leader", || etcd.admin().leader(election));
        let until = BootTime::now() + 2 * ttl;
        while BootTime::now() < until {
            assert_eq!(
                etcd.admin().leader(election).as_ref(),
                Some(&leader),
                "{election}: it lost its lease"
            );
            thread::sleep(Duration::from_millis(100));
        }
        server.signal(Signal::SIGTERM);
        assert!(server.wait_exit(SOON).success(), "{election}");
        assert_eq!(etcd.admin().candidates(election), []);
    }
}

fn pipe_without_reader() -> OwnedFd {
    let (reader, writer) = pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    drop(reader);
    writer
}

#[test]
fn an_answer_that_cannot_be_written_is_an_error_and_no_panic() {
    let etcd = start_etcd();
    let endpoint = &*etcd.endpoint();
    for args in [
        &["status", "--etcd", endpoint][..],
        &["status", "--json", "--etcd", endpoint],
        &["observe", "--etcd", endpoint],
        &["observe", "--json", "--etcd", endpoint],
        &["completions", "bash"],
        &["man"],
        &["run", "--explain"],
    ] {
        let mut command = process::command(ELECT);
        unconfigured(&mut command).args(args).stdin(Stdio::null()).stderr(Stdio::piped());
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
        let mut process = Process::start("elect", command);
        let status = process.wait_exit(SOON);
        let mut said = String::new();
        process.child_mut().stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("failed to print"), "{args:?}: {said}");
    }
}

#[test]
fn without_proc_a_command_is_not_run_at_all() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: only root can take /proc away from a process");
        return;
    }
    let etcd = start_etcd();
    let args = ["run", "--name", "a", "--etcd", &etcd.endpoint(), "--ttl", "60s", "--", "sleep", "1000"];
    let script = "mount -t tmpfs none /proc && exec \"$@\"";
    let mut run =
        Elect::of("unshare", [&["--mount", "sh", "-c", script, "sh", ELECT][..], &args].concat()).start();
    let code = run.wait_exit(SOON).code();
    assert_eq!(code, Some(1), "{}", said(&run));
    assert!(said(&run).contains("/proc"), "{}", said(&run));
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), [], "it had not begun");
}

#[test]
fn a_leader_killed_for_want_of_memory_is_followed_as_after_any_crash() {
    let Some(group) = MemoryGroup::create(64 << 20) else {
        eprintln!("skipped: no memory cgroup can be made here");
        return;
    };
    let etcd = start_etcd();
    let [mut leader, next] = start_in_turn(["poor", "next"], &etcd.endpoint(), SHORT);
    group.add(leader.id());
    // Makes the leader the kernel's choice within the group.
    fs::write(format!("/proc/{}/oom_score_adj", leader.id()), "1000").unwrap();
    let mut hog = process::command("tail");
    hog.stdin(File::open("/dev/zero").unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut hog = Process::start("tail", hog);
    group.add(hog.id());

    let ended = eventually(SOON, "the kernel to kill the leader", || leader.status());
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(Signal::SIGKILL as i32));
    leader.kill();
    hog.kill();
    next.wait_for_line(LEADER, SOON);
    led_one_at_a_time([&leader, &next]);
    // Its leftovers in etcd are in order: another candidate can queue.
    let again = Server::start_follower("poor", &etcd.endpoint(), SHORT);
    let queue = etcd.admin().candidates(ELECTION_NAME);
    assert_eq!(queue.iter().map(|candidate| &*candidate.value).collect::<Vec<_>>(), ["next", "poor"]);
    drop(again);
}

#[test]
fn a_command_killed_for_want_of_memory_ends_the_run_with_its_code() {
    let Some(group) = MemoryGroup::create(64 << 20) else {
        eprintln!("skipped: no memory cgroup can be made here");
        return;
    };
    let etcd = start_etcd();
    let script = format!("echo $$ >{}; exec tail </dev/zero", group.processes().display());
    let mut run = Run::start(elect_run("a", &etcd.endpoint(), "60s").args(["--", "sh", "-c", &script]));
    run.exits(128 + Signal::SIGKILL as i32);
    run.wait_for_log(Mark::START, "killed by SIGKILL");
    assert_eq!(etcd.admin().candidates(ELECTION_NAME), [], "it left in order");
}
